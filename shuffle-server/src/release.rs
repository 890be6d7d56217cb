//! Which build this is: version, commit and date, for `--version`, `/version` and the metrics.
//!
//! Commit and date are compiled into the programs, not into this library: `setup.sh` gives them to
//! the compiler (`BUILD_COMMIT`, `BUILD_DATE`), and a new commit then links the programs anew
//! instead of compiling everything. Built without them, a program says that it does not know.

use std::sync::OnceLock;

/// The version of all that is in this repository: `Cargo.toml`'s.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

const UNKNOWN: &str = "unknown";

static COMPILED: OnceLock<Compiled> = OnceLock::new();

struct Compiled {
    commit: &'static str,
    date: &'static str,
    text: String,
}

/// What a program says first: `option_env!("BUILD_COMMIT")` and `option_env!("BUILD_DATE")`. A
/// second call changes nothing.
pub fn of(commit: Option<&'static str>, date: Option<&'static str>) {
    COMPILED.get_or_init(|| Compiled::new(commit, date));
}

/// The commit it was built from, `-dirty` behind it where files had been changed.
pub fn commit() -> &'static str {
    compiled().commit
}

/// The day of that commit, or of `SOURCE_DATE_EPOCH`: `2026-11-28`.
pub fn date() -> &'static str {
    compiled().date
}

/// What `--version` prints behind the program's name.
pub fn text() -> &'static str {
    &compiled().text
}

fn compiled() -> &'static Compiled {
    COMPILED.get_or_init(|| Compiled::new(None, None))
}

impl Compiled {
    fn new(commit: Option<&'static str>, date: Option<&'static str>) -> Self {
        let known = |value: Option<&'static str>| value.filter(|value| !value.is_empty());
        let (commit, date) = (known(commit), known(date));
        Self {
            commit: commit.unwrap_or(UNKNOWN),
            date: date.unwrap_or(UNKNOWN),
            text: describe(commit, date),
        }
    }
}

fn describe(commit: Option<&str>, date: Option<&str>) -> String {
    match (commit, date) {
        (Some(commit), Some(date)) => format!("{VERSION} (commit {commit}, {date})"),
        (Some(commit), None) => format!("{VERSION} (commit {commit})"),
        (None, _) => format!("{VERSION} (commit unknown)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_not_made_up() {
        let none = Compiled::new(None, None);
        assert_eq!((none.commit, none.date), ("unknown", "unknown"));
        assert_eq!(none.text, format!("{VERSION} (commit unknown)"));
        let empty = Compiled::new(Some(""), Some(""));
        assert_eq!((empty.commit, empty.date), ("unknown", "unknown"));
    }

    #[test]
    fn version_commit_and_date_are_told_in_one_line() {
        let all = Compiled::new(Some("0123456789ab"), Some("2026-11-28"));
        assert_eq!(
            all.text,
            format!("{VERSION} (commit 0123456789ab, 2026-11-28)")
        );
    }
}
