//! `forebay doctor store` and `forebay lifecycle-rule`.

use std::time::Duration;

use shuffle_remote::{
    check_url, doctor,
    doctor::{Check, Outcome},
    lifecycle, shown_url,
};

use super::{End, complain, say, usage};

pub(super) async fn doctor(url: &str) -> End {
    if let Err(error) = check_url(url) {
        return usage(format!("url is {:?}: {error}", shown_url(url)));
    }
    match doctor::examine(url, &mut |check| say(line(check))).await {
        true => End::Good,
        false => End::Bad,
    }
}

fn line(Check { name, outcome }: &Check) -> String {
    let (mark, text) = match outcome {
        Outcome::Ok(seen) => ("OK", seen.clone()),
        Outcome::Fail { why, remedy } => ("FAIL", format!("{why}: {remedy}")),
        Outcome::Unknown(what) => ("?", what.clone()),
        Outcome::Skipped(why) => ("-", format!("not tried: {why}")),
    };
    format!("{mark:4}  {name:16}  {text}\n")
}

pub(super) fn lifecycle_rule(url: &str, days: u32, max_lease: Duration) -> End {
    match lifecycle::rule(url, days, max_lease) {
        Ok(rule) => {
            complain(rule.words.trim_end());
            say(rule.text);
            End::Good
        }
        Err(error) => usage(error),
    }
}
