//! How a server of a test is started: directories, flags, environment.

use std::path::PathBuf;

/// How to start a server.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    pub(crate) dirs: Vec<PathBuf>,
    pub(crate) new_dirs: usize,
    pub(crate) args: Vec<String>,
    pub(crate) nothing_allowed: bool,
    pub(crate) env: Vec<(String, String)>,
}

impl Setup {
    /// With one new data directory, unless others are named.
    pub fn new() -> Self {
        Self::default()
    }

    /// With this many new data directories.
    pub fn volumes(mut self, count: usize) -> Self {
        self.new_dirs = count;
        self
    }

    /// With this data directory.
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dirs.push(dir.into());
        self
    }

    /// With this flag and value.
    pub fn flag(mut self, name: &str, value: impl ToString) -> Self {
        self.args.extend([name.to_owned(), value.to_string()]);
        self
    }

    /// Refused a data directory on the root device, as everybody else is; servers of tests are
    /// allowed it.
    pub fn nothing_allowed(mut self) -> Self {
        self.nothing_allowed = true;
        self
    }

    /// With this environment variable.
    pub fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.env.push((name.to_owned(), value.to_string()));
        self
    }
}
