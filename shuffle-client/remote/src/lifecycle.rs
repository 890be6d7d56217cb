//! A lifecycle rule for the bucket, as a net below the leases.
//!
//! Leases remove objects while any server of the pool is alive. A rule removes the rest: of an
//! abandoned pool, or of an upload cut off with its server. A rule goes by age alone, so the age
//! must exceed the life of any needed object: the longest application, not only a lease.

use std::{fmt::Write, time::Duration};

use serde_json::{Value, json};

use super::{advice::Cloud, keys, shown_url, store::Named};

/// Days after which unfinished uploads go: no upload of a server takes an hour.
const UNFINISHED: u32 = 1;
const NAME: &str = "forebay-net";

/// A rule, and the way to install it.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// The rule in the format of the store's own tool.
    pub text: String,
    /// For a person.
    pub words: String,
}

/// The rule for a store's URL, for objects older than `days`; `max_lease` is the longest lease that
/// servers grant.
pub fn rule(url: &str, days: u32, max_lease: Duration) -> Result<Rule, String> {
    let day = Duration::from_secs(86_400);
    if day * days <= max_lease {
        let least = max_lease.as_secs() / day.as_secs() + 1;
        return Err(format!(
            "days is {days}: a net has to be older than any lease, which may be {max_lease:?}: give at least {least}, and more than the days that \
             your longest application runs"
        ));
    }
    let named = Named::by(url).map_err(|error| format!("url is {:?}: {error}", shown_url(url)))?;
    let (bucket, prefix) = (named.bucket.as_str(), named.prefix.as_str());
    // With the slash: without it the rule would match neighbours with the same beginning.
    let below = match prefix {
        "" => format!("{}/", keys::ROOT),
        prefix => format!("{prefix}/{}/", keys::ROOT),
    };
    let (text, apply) = match named.cloud {
        Cloud::S3 => s3(bucket, &below, days),
        Cloud::Azure => azure(bucket, &below, days),
        Cloud::Google => google(bucket, &below, days),
        Cloud::Directory => directory(&format!("/{}", below.trim_end_matches('/')), days),
    };
    let mut words = format!(
        "A net below the leases of Forebay: objects older than {days} days go, unfinished uploads after {UNFINISHED} day.\n\
         Servers remove what is dead by themselves; this is for what is left when all servers are gone for good together.\n\
         It goes by age alone: {days} days have to be longer than your longest application runs (--days).\n"
    );
    // A String takes all.
    let _ = write!(words, "{apply}");
    Ok(Rule { text, words })
}

fn s3(bucket: &str, below: &str, days: u32) -> (String, String) {
    let rule = json!({ "Rules": [{
        "ID": NAME,
        "Status": "Enabled",
        "Filter": { "Prefix": below },
        "Expiration": { "Days": days },
        // For buckets with versions; without effect on others.
        "NoncurrentVersionExpiration": { "NoncurrentDays": UNFINISHED },
        "AbortIncompleteMultipartUpload": { "DaysAfterInitiation": UNFINISHED },
    }]});
    let apply = format!(
        "Save it as rule.json, join it with the rules that the bucket has (this call replaces them all), then:\n  \
         aws s3api put-bucket-lifecycle-configuration --bucket {bucket} --lifecycle-configuration file://rule.json\n"
    );
    (pretty(&rule), apply)
}

fn azure(container: &str, below: &str, days: u32) -> (String, String) {
    let rule = json!({ "rules": [{
        "enabled": true,
        "name": NAME,
        "type": "Lifecycle",
        "definition": {
            "filters": { "blobTypes": ["blockBlob"], "prefixMatch": [format!("{container}/{below}")] },
            "actions": { "baseBlob": { "delete": { "daysAfterModificationGreaterThan": days } } },
        },
    }]});
    let apply = "Azure removes blocks of unfinished uploads by itself, after a week.\n\
         Save it as rule.json, join it with the rules that the account has (this call replaces them all), then:\n  \
         az storage account management-policy create --account-name ACCOUNT --resource-group GROUP --policy @rule.json\n";
    (pretty(&rule), apply.to_owned())
}

fn google(bucket: &str, below: &str, days: u32) -> (String, String) {
    let condition = |days: u32| json!({ "age": days, "matchesPrefix": [below] });
    let rule = json!({ "rule": [
        { "action": { "type": "Delete" }, "condition": condition(days) },
        { "action": { "type": "AbortIncompleteMultipartUpload" }, "condition": condition(UNFINISHED) },
    ]});
    let apply = format!(
        "Save it as rule.json, join it with the rules that the bucket has (this call replaces them all), then:\n  \
         gcloud storage buckets update gs://{bucket} --lifecycle-file=rule.json\n"
    );
    (pretty(&rule), apply)
}

fn directory(dir: &str, days: u32) -> (String, String) {
    let text = format!("find '{dir}' -type f -mtime +{days} -delete\n");
    let apply = "A directory has no rules: run the line once a day, on one machine.\n";
    (text, apply.to_owned())
}

fn pretty(rule: &Value) -> String {
    format!("{rule:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn rules_name_the_prefix_and_the_days() {
        let of = |url: &str| rule(url, 30, DAY).expect("a rule");
        let json = |rule: &Rule| serde_json::from_str::<Value>(&rule.text).expect("JSON");
        let s3 = of("s3://bucket/a/b");
        let first = &json(&s3)["Rules"][0];
        assert_eq!(first["Filter"]["Prefix"], "a/b/forebay-v1/");
        assert_eq!(first["Expiration"]["Days"], 30);
        assert_eq!(
            first["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"],
            1
        );
        assert!(s3.words.contains("--bucket bucket "), "{}", s3.words);
        let whole = of("s3://bucket");
        assert_eq!(json(&whole)["Rules"][0]["Filter"]["Prefix"], "forebay-v1/");
        let azure = json(&of("az://container/a"));
        let definition = &azure["rules"][0]["definition"];
        assert_eq!(
            definition["filters"]["prefixMatch"][0],
            "container/a/forebay-v1/"
        );
        let days = &definition["actions"]["baseBlob"]["delete"];
        assert_eq!(days["daysAfterModificationGreaterThan"], 30);
        let google = json(&of("gs://bucket/a"));
        assert_eq!(
            google["rule"][0]["condition"]["matchesPrefix"][0],
            "a/forebay-v1/"
        );
        assert_eq!(google["rule"][0]["condition"]["age"], 30);
        assert_eq!(google["rule"][1]["condition"]["age"], 1);
        assert_eq!(
            of("file:///mnt/store").text,
            "find '/mnt/store/forebay-v1' -type f -mtime +30 -delete\n"
        );
    }

    #[test]
    fn a_net_is_older_than_any_lease() {
        let error = rule("s3://bucket/a", 3, 3 * DAY).expect_err("as old as a lease");
        assert!(error.contains("days is 3"), "{error}");
        assert!(error.contains("give at least 4"), "{error}");
        rule("s3://bucket/a", 4, 3 * DAY).expect("older than a lease");
        let error = rule("ftp://bucket", 30, DAY).expect_err("no store");
        assert!(error.starts_with("url is \"ftp://bucket\": "), "{error}");
    }
}
