//! Staging: what executors push is held in memory, put into files of local disks, and served again.
//!
//! Owns volumes: data directories with segments, commit logs and an index. Does not own the
//! network, tokens or leases; `service` calls [`Volume::open_attempt`], [`AttemptWriter`] and
//! [`Volume::fetch`], `registry` calls the app and deletion calls.
//!
//! ```text
//! append ─▶ memory ──commit──▶ commit log ──quiet, pressure──▶ run in a segment
//!              │  └──────commit of enough bytes───────────────▶│
//!              └────────────────────pressure──────────────────▶│
//! ```
//!
//! The folders are floors. What stands on the left may use what stands to the right of it, and
//! never the other way round:
//!
//! ```text
//! volume ─▶ recover ─▶ seal, reclaim, warden, write, read ─▶ state ─▶ files ─▶ options ─▶ disk
//! ```
//!
//! `write` is the way in, `read` the way out, `state` what this process knows, `files` what
//! outlives it, `disk` the calls of the file system. What is defined in this file is the ground
//! under all of them.
//!
//! One thread per volume, the *writer*, moves bytes to disk; everything else reads snapshots. What
//! survives a crash of the process: every attempt whose commit was answered at [`Durability::Disk`]
//! or above. What survives a power cut: those at [`Durability::Fsync`].
//!
//! - invariant: bytes-before-index. A record in the index names only bytes that are written
//!   already.
//! - invariant: whole-attempt-or-none. An attempt is in the commit map with totals that were
//!   compared with its blocks, or not.
//! - invariant: acked-is-kept. A write that fails is reported to those who wait for it; what was
//!   acknowledged stays where it is.
//! - invariant: unknown-is-never-empty. A shuffle that is not known, or deleted, is
//!   [`Error::Lost`].

mod disk;
pub(crate) mod files;
mod options;
mod read;
mod reclaim;
mod recover;
mod seal;
mod state;
mod volume;
mod warden;
mod write;

#[cfg(test)]
pub(crate) mod tests;

use std::{io, path::PathBuf, time::Duration};

use shuffle_proto::{
    ids::{AppId, AttemptId, MapIndex, ShuffleId, VolumeId},
    kind::Kind,
};

pub use disk::operation::{Faults, Operation};
pub use options::{Components, DirectIo, Observer, Options};
pub use read::{cursor::Cursor, fetch::Fetch, part::FetchPart, reader::Unanswered};
pub use seal::{Made, Placement, Sealed, Unwritten};
pub use state::{
    shared::READS,
    stats::{Stats, StatsSnapshot},
    usage::Usage,
};
pub use volume::{Volume, ground::check_ground, started::Started};
pub use write::{attempt::AttemptWriter, open::Opened};

/// Who wrote: one try at one map index of one shuffle.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AttemptKey {
    /// The application.
    pub app: AppId,
    /// One of its shuffles.
    pub shuffle: ShuffleId,
    /// Position of the map task.
    pub map_index: MapIndex,
    /// The try.
    pub attempt: AttemptId,
}

/// How safe bytes are on one volume. (The levels above need more than one volume.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Durability {
    /// In this process; survives the executor.
    Memory,
    /// In a file and the index; survives the process.
    Disk,
    /// Synced to the device; survives the node's kernel and power.
    Fsync,
}

/// Answer to a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Volume that holds the attempt.
    pub volume: VolumeId,
    /// Level reached, which is at least the one asked for.
    pub durability: Durability,
    /// Stored bytes of all partitions.
    pub bytes: u64,
    /// Records of all partitions.
    pub records: u64,
}

/// An application as a volume remembers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppRecord {
    /// The application.
    pub app: AppId,
    /// SHA-256 of its token.
    pub token_hash: [u8; 32],
    /// How long its data outlive its last call.
    pub lease: Duration,
}

/// Whether a volume takes new attempts. With the reason, which says what a person can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Ok,
    /// No space; it will again when there is some.
    Full(String),
    /// A call of it does not come back; it will again when it is quick.
    Slow(String),
    /// Its file system takes no writes: not before the server is started again, as with those
    /// below. What can be read is still served.
    ReadOnly(String),
    /// The device or the index fails.
    Failed(String),
    /// The device or the directory is not there any more.
    Removed(String),
}

/// Why staging refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The call contradicts itself or the shuffle.
    #[error("{0}")]
    Invalid(String),
    /// The caller's attempt was taken over, or its shuffle or app is gone.
    #[error("{0}")]
    Fenced(String),
    /// Another call is about to settle this one.
    #[error("{0}")]
    Busy(String),
    /// Not here.
    #[error("{0}")]
    Lost(String),
    /// The volume takes nothing now.
    #[error("volume {volume}: {reason}")]
    Unavailable {
        /// The volume.
        volume: VolumeId,
        /// Its health, or that it closes.
        reason: String,
    },
    /// A file could not be read or written.
    #[error("{operation} {}: {source}", path.display())]
    Io {
        /// What was tried, as in "write".
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A file's bytes contradict the index.
    #[error("{} at {offset}: {reason}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What does not fit.
        reason: String,
    },
    /// The index could not be read or written.
    #[error(transparent)]
    Index(#[from] crate::index::Error),
    /// A bug of this server.
    #[error("{0}")]
    Internal(String),
    /// A directory cannot be used as a volume.
    #[error("data directory {}: {reason}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
}

// === impl AttemptKey ===

impl std::fmt::Display for AttemptKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "app {} shuffle {} map {} attempt {}",
            self.app, self.shuffle, self.map_index, self.attempt
        )
    }
}

// === impl Error ===

impl Error {
    /// What the caller should do.
    pub fn kind(&self) -> Kind {
        match self {
            Error::Invalid(_) => Kind::Invalid,
            Error::Fenced(_) => Kind::Fenced,
            Error::Busy(_) => Kind::Busy,
            Error::Lost(_) => Kind::Lost,
            Error::Corrupt { .. } => Kind::Corrupt,
            // A disk or an index that fails is this server's trouble: the same call may succeed on
            // another.
            Error::Unavailable { .. } | Error::Io { .. } | Error::Index(_) => Kind::Unavailable,
            Error::Internal(_) | Error::Directory { .. } => Kind::Internal,
        }
    }

    /// For calls of a file.
    fn io(operation: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Error::Io {
            operation,
            path: path.into(),
            source,
        }
    }
}
