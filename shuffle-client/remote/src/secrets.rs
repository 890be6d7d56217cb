//! URLs without secrets: only scheme, place and path of a store's URL ever get into a log, an error
//! or a page.
//!
//! Decided by the text alone, without a parser: malformed URLs are shown too.

/// A store's URL without user, password, query and fragment. Text without a URL is not shown at
/// all.
pub fn shown_url(text: &str) -> String {
    match text.split_once("://") {
        Some((scheme, rest)) if is_scheme(scheme) => shown(scheme, rest),
        _ => "(no URL)".into(),
    }
}

/// Foreign text, with its URLs shown by [`shown_url`].
pub(super) fn redacted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let before = &rest[..at];
        let begin = before.rfind(|c: char| !is_of_a_scheme(c)).map_or(0, |at| {
            at + before[at..].chars().next().map_or(1, char::len_utf8)
        });
        let after = &rest[at + 3..];
        let ends = |c: char| c.is_whitespace() || "\"'`<>()[]{},;".contains(c);
        let end = after.find(ends).unwrap_or(after.len());
        out.push_str(&before[..begin]);
        out.push_str(&shown(&before[begin..], &after[..end]));
        rest = &after[end..];
    }
    out.push_str(rest);
    out
}

fn shown(scheme: &str, rest: &str) -> String {
    let (before, place) = match rest.rsplit_once('@') {
        Some((before, place)) => (before, place),
        None => ("", rest),
    };
    let place = place.split(['?', '#']).next().unwrap_or_default();
    // Azure names the container before the @.
    let container = ["abfs", "abfss", "wasb", "wasbs"].contains(&scheme)
        && !before.is_empty()
        && before
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    match container {
        true => format!("{scheme}://{before}@{place}"),
        false => format!("{scheme}://{place}"),
    }
}

fn is_of_a_scheme(c: char) -> bool {
    c.is_ascii_alphanumeric() || "+-.".contains(c)
}

fn is_scheme(text: &str) -> bool {
    !text.is_empty() && text.chars().all(is_of_a_scheme)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_in_the_words_of_others_keep_their_place_and_nothing_else() {
        for (text, shown) in [
            ("no URL here: a://", "no URL here: a://"),
            (
                "Generic error: https://user:pw@host/p?sig=abc#d) and then s3://k:s@b, more",
                "Generic error: https://host/p) and then s3://b, more",
            ),
            ("ä://x?y z", "ä://x z"),
            (
                "error sending request for url (http://127.0.0.1:1/b?list-type=2)",
                "error sending request for url (http://127.0.0.1:1/b)",
            ),
        ] {
            assert_eq!(redacted(text), shown);
        }
    }

    #[test]
    fn no_secret_of_a_malformed_url_is_shown() {
        for text in [
            "s3://AKIA:Secret42@b/p",
            "s3://AKIA:Sec/ret42@b/p",
            "s3://AKIA:Secret42@",
            "s3//AKIA:Secret42@b",
            " s3://AKIA:Secret42@b",
            "AKIA:Secret42@b",
            "s3://b/p?AWS_SECRET=Secret42&x=AKIA",
            "s3://b/p#AKIASecret42",
            "abfss://AKIA:Secret42@account/p",
        ] {
            let shown = shown_url(text);
            for secret in ["AKIA", "Secret42", "ret42"] {
                assert!(!shown.contains(secret), "{text}: {shown}");
            }
        }
    }
}
