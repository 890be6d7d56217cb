//! What a volume knows of its files: which runs lie where, which attempts are committed, which
//! shuffles and apps there are.
//!
//! Owns the format of keys ([`keys`]) and values ([`values`]) and the door to RocksDB ([`rocks`]).
//! Does not own the files; `staging` writes bytes first and then their records, in one [`Changes`]
//! that is applied whole or not at all (invariant: bytes-before-index). What was written survives
//! the process; what was written with `sync`, and all before it, survives a power cut.
//!
//! Two implementations of [`SegmentIndex`], one conformance suite.

#[cfg(test)]
mod conformance;
mod damage;
pub mod keys;
mod memory;
mod mend;
mod parity;
mod rocks;
pub mod values;

use std::fmt;

pub use memory::MemoryIndex;
pub use rocks::RocksIndex;
#[cfg(test)]
use rocks::record_of;

use keys::Key;
use shuffle_proto::ids::ShuffleId;
use values::Record;

/// Number of an app on its volume, never used again. Keys carry it instead of the app's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppNo(pub u32);

macro_rules! file_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:012x}", self.0)
            }
        }
    };
}

file_id! {
    /// A segment file. Ids rise, also across restarts, and are never used again; the same for runs
    /// and logs.
    SegmentId
}
file_id! {
    /// A run. A later run has the greater id.
    RunId
}
file_id! {
    /// A commit log.
    LogId
}

/// Ordered keys and values with atomic batches.
pub trait SegmentIndex: Send + Sync {
    /// Applies all of the batch or nothing.
    fn write(&self, batch: &Changes, sync: bool) -> Result<(), Error>;
    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error>;
    /// Visits keys of `[from, to)` in order.
    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<(), Error>;
    /// Whether records may be missing, because something of it was damaged when it was opened.
    fn is_damaged(&self) -> bool {
        false
    }
    /// What follows from that is written: from now on it is as good as new.
    fn settle_damage(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// Changes that belong together, in order.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    pub(crate) steps: Vec<Step>,
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
    DeleteRange(Vec<u8>, Vec<u8>),
}

/// The index could not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The store under it failed.
    #[error("index {path}: {operation}: {message}")]
    Store {
        /// Directory of the index.
        path: String,
        /// What was tried.
        operation: &'static str,
        /// The store's words.
        message: String,
    },
    /// Some of it is not what was written, and nobody knows which records that was.
    #[error("index {path}: cannot be read whole: {message}")]
    Unreadable {
        /// Directory of the index.
        path: String,
        /// The store's words.
        message: String,
    },
    /// A record is not what was written.
    #[error("index record {key}: {reason}")]
    Corrupt {
        /// The record.
        key: String,
        /// What does not fit.
        reason: String,
    },
    /// Written by another version.
    #[error(
        "index format is version {found}, this server reads version {known}: run the server that wrote it, or empty the directory"
    )]
    Version {
        /// Format of the index.
        found: u32,
        /// Format of this server.
        known: u32,
    },
}

impl Step {
    /// Bytes of keys and values.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Step::Put(key, value) => key.len() + value.len(),
            Step::Delete(key) => key.len(),
            Step::DeleteRange(from, to) => from.len() + to.len(),
        }
    }
}

// === impl Changes ===

impl Changes {
    /// Writes a record.
    pub fn put(&mut self, key: Key, record: &Record) {
        let key = key.encode();
        let value = record.encode(&key);
        self.steps.push(Step::Put(key, value));
    }

    /// Removes a record.
    pub fn delete(&mut self, key: Key) {
        self.steps.push(Step::Delete(key.encode()));
    }

    /// Removes what a shuffle has, except the shuffle's own record.
    pub fn delete_shuffle_data(&mut self, app: AppNo, shuffle: ShuffleId) {
        for kind in keys::SHUFFLE_DATA {
            let (from, to) = keys::shuffle_range(kind, app, shuffle);
            self.steps.push(Step::DeleteRange(from, to));
        }
    }

    /// Removes an app and all that it has.
    pub fn delete_app(&mut self, app: AppNo) {
        self.delete(Key::App(app));
        self.delete(Key::Life(app));
        for kind in keys::SHUFFLE_DATA.into_iter().chain([keys::SHUFFLE]) {
            let (from, to) = keys::app_range(kind, app);
            self.steps.push(Step::DeleteRange(from, to));
        }
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

// === reading ===

/// Reads one record, if it is there.
pub fn read(index: &dyn SegmentIndex, key: Key) -> Result<Option<Record>, Error> {
    let bytes = key.encode();
    match index.get(&bytes)? {
        Some(value) => Record::decode(&bytes, &value).map(|(_, record)| Some(record)),
        None => Ok(None),
    }
}

/// Reads all records of a kind, in order. A record that cannot be read is given as its error, and
/// the others still come.
pub fn read_all(
    index: &dyn SegmentIndex,
    kind: u8,
    mut visit: impl FnMut(Result<(Key, Record), Error>),
) -> Result<(), Error> {
    index.scan(&[kind], &[kind + 1], &mut |key, value| {
        visit(Record::decode(key, value))
    })
}

#[cfg(test)]
mod tests;
