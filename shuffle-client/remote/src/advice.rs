//! Remedies for a failing store: one clause before the store's own words.

use std::error::Error;

use super::secrets::redacted;

/// Length at which the store's words are cut: some stores answer with a page of XML, or with the
/// signed request.
const WORDS: usize = 600;

/// Family of a store, by its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cloud {
    Directory,
    S3,
    Azure,
    Google,
}

/// Cause of a failure, as far as the answer shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    NoBucket,
    NoCredentials,
    Refused,
    Unreachable,
    NoAnswer,
    WrongRegion,
    Other,
}

impl Cloud {
    /// The cloud's word for a bucket.
    fn bucket(self) -> &'static str {
        match self {
            Cloud::Directory => "directory",
            Cloud::S3 | Cloud::Google => "bucket",
            Cloud::Azure => "container",
        }
    }

    fn credentials(self) -> &'static str {
        match self {
            Cloud::Directory => "the owner and mode of the directory",
            Cloud::S3 => {
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the role of this machine or service account"
            }
            Cloud::Azure => {
                "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or the identity of this machine or service account"
            }
            Cloud::Google => {
                "GOOGLE_APPLICATION_CREDENTIALS, or the service account of this machine"
            }
        }
    }

    fn endpoint(self) -> &'static str {
        match self {
            Cloud::Directory => "the path",
            Cloud::S3 => "AWS_ENDPOINT, AWS_REGION (and AWS_ALLOW_HTTP=true for plain http)",
            Cloud::Azure => "AZURE_STORAGE_ENDPOINT (and AZURE_ALLOW_HTTP=true for plain http)",
            Cloud::Google => "GOOGLE_BASE_URL (and GOOGLE_ALLOW_HTTP=true for plain http)",
        }
    }

    fn advice(self, trouble: Trouble) -> String {
        let (bucket, credentials, endpoint) = (self.bucket(), self.credentials(), self.endpoint());
        match trouble {
            Trouble::NoBucket => {
                format!("there is no such {bucket}: make it, or correct `remote`; ")
            }
            Trouble::NoCredentials => format!("no credentials were found: set {credentials}; "),
            Trouble::Refused => {
                format!(
                    "the credentials are refused: check {credentials}, and that they may read, write, list and delete there; "
                )
            }
            Trouble::Unreachable => {
                format!("nothing answers there: check {endpoint} and the network; ")
            }
            Trouble::NoAnswer => "no answer in time; ".into(),
            Trouble::WrongRegion => "it is in another region: check AWS_REGION; ".into(),
            Trouble::Other => String::new(),
        }
    }
}

/// Whether the words say that the bucket itself is missing, by the error codes of the three clouds.
pub(super) fn names_no_bucket(words: &str) -> bool {
    ["NoSuchBucket", "ContainerNotFound", "bucket does not exist"]
        .iter()
        .any(|code| words.contains(code))
}

/// Whether a service that hands out credentials failed, not the store; asked when no credentials
/// are set.
pub(super) fn is_about_credentials(words: &str) -> bool {
    [
        "/latest/api/token",
        "/latest/meta-data",
        "/metadata/identity/",
        "computeMetadata",
        "metadata.google.internal",
    ]
    .iter()
    .any(|path| words.contains(path))
}

/// Whether the store refused the caller, known or unknown: a list of words, because `object_store`
/// has no kind of error for that.
pub(super) fn is_a_refusal(words: &str) -> bool {
    words.contains("status code: 401") || words.contains("status code: 403")
}

/// Cause and remedy, then the store's words.
pub(super) fn message(cloud: Cloud, trouble: Trouble, words: &str) -> String {
    let mut text = cloud.advice(trouble);
    let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
    let words = redacted(&words);
    let end = words.floor_char_boundary(WORDS);
    text.push_str(&words[..end]);
    if end < words.len() {
        text.push('…');
    }
    text
}

/// An error with its causes: `object_store` often says only "generic error" at the top.
pub(super) fn words(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_do_comes_first_and_the_stores_words_are_bounded() {
        let page = "<Error>\n  <Code>NoSuchBucket</Code>".to_owned() + &"ä".repeat(10_000);
        assert!(names_no_bucket(&page) && !names_no_bucket("<Code>NoSuchKey</Code>"));
        let text = message(Cloud::S3, Trouble::NoBucket, &page);
        assert!(
            text.starts_with("there is no such bucket: make it"),
            "{text}"
        );
        assert!(text.contains("<Error> <Code>NoSuchBucket"), "{text}");
        assert!(text.len() < 700, "{} bytes", text.len());
    }
}
