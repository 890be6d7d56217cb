//! (being built)
use std::{io, path::Path};
/// What is done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation { /// Create or open.
 Open, /// Write or append.
 Write, /// Sync.
 Sync, /// Read.
 Read }
/// Decides whether the next call fails; for tests.
pub trait Faults: Send + Sync {
    /// An error is what the call answers instead of doing anything.
    fn before(&self, operation: Operation, path: &Path) -> io::Result<()>;
}
