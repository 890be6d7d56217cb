//! Names of the calls of a file system: for errors, for the watch, and for tests that let one of
//! them fail.

use std::{io, path::Path};

/// The operation of errors of a sync, after which nobody knows what is on the device.
pub(crate) const SYNC: &str = "sync";

/// What is done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Create or open.
    Open,
    /// Write or append.
    Write,
    /// Sync.
    Sync,
    /// Read.
    Read,
    /// Remove a file, or an empty directory.
    Remove,
    /// Give a directory another name.
    Rename,
    /// Write to the index; the path is its directory.
    Index,
    /// Ask what a directory is, or how full its file system.
    Look,
}

/// Decides whether the next call fails; for tests.
pub trait Faults: Send + Sync {
    /// An error is what the call answers instead of doing anything.
    fn before(&self, operation: Operation, path: &Path) -> io::Result<()>;
}

// === impl Operation ===

impl Operation {
    /// For a sentence with the path behind it.
    pub(crate) fn verb(self) -> &'static str {
        match self {
            Operation::Open => "open",
            Operation::Write => "write",
            Operation::Sync => SYNC,
            Operation::Read => "read",
            Operation::Remove => "remove",
            Operation::Rename => "rename",
            Operation::Index => "write index",
            Operation::Look => "look at",
        }
    }
}
