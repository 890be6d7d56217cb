//! A directory that is the object store of all servers of a test.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;

use crate::{disk, eventually, setup::Setup};

/// All that is Forebay's in a store.
pub const ROOT: &str = "forebay-v1";

/// See the module. Gone when dropped.
pub struct Bucket(TempDir);

impl Bucket {
    /// An empty one.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory can be made"))
    }

    /// The directory.
    pub fn path(&self) -> PathBuf {
        self.0.path().join("store")
    }

    /// As `--remote` takes it.
    pub fn url(&self) -> String {
        format!("file://{}", self.path().display())
    }

    /// Servers with write-back to the bucket, by this policy.
    pub fn setup(&self, policy: &str) -> Setup {
        Setup::new()
            .flag("--remote", self.url())
            .flag("--write-back", policy)
    }

    /// All files in it.
    pub fn files(&self) -> Vec<PathBuf> {
        disk::walk(&self.path())
    }

    /// Those whose names end so.
    pub fn with_ending(&self, ending: &str) -> Vec<PathBuf> {
        let mut files = self.files();
        files.retain(|path| path.to_string_lossy().ends_with(ending));
        files
    }

    /// What an app, or a shuffle of it, has here.
    pub fn below(&self, dir: impl AsRef<Path>) -> Vec<PathBuf> {
        let mut files = disk::walk(&self.path().join(ROOT).join(dir));
        // A file of a `file://` store in the middle of its writing, before it has its name.
        files.retain(|path| !path.to_string_lossy().contains('#'));
        files
    }

    /// What is in it beside the marker, which stays.
    pub fn left(&self) -> Vec<PathBuf> {
        let marker = self.path().join(ROOT).join(".forebay-marker");
        let mut files = self.files();
        files.retain(|path| *path != marker);
        files
    }

    /// Waits until nothing of any app is in it.
    pub async fn empty(&self, within: Duration) {
        eventually(within, || async {
            match &self.left()[..] {
                [] => Ok(()),
                files => Err(format!("left: {files:?}")),
            }
        })
        .await;
    }
}
