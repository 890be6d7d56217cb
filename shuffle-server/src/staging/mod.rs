//! Staging: what executors push is held in memory, put into files of local disks, and served again.
//!
//! Owns volumes: data directories with segments, commit logs and an index. Does not own the network, tokens or leases; `service`
//! calls [`Volume::open_attempt`], [`AttemptWriter`] and [`Volume::fetch`], `registry` calls the app and deletion calls.
//!
//! ```text
//! append ─▶ memory ──commit──▶ commit log ──quiet, pressure──▶ run in a segment
//!              │  └──────commit of enough bytes───────────────▶│
//!              └────────────────────pressure──────────────────▶│
//! ```
//!
//! One thread per volume, the *writer*, moves bytes to disk; everything else reads snapshots. What survives a crash of the process:
//! every attempt whose commit was answered at [`Durability::Disk`] or above. What survives a power cut: those at
//! [`Durability::Fsync`].
//!
//! - invariant: bytes-before-index. A record in the index names only bytes that are written already.
//! - invariant: whole-attempt-or-none. An attempt is in the commit map with totals that were compared with its blocks, or not.
//! - invariant: acked-is-kept. A write that fails is reported to those who wait for it; what was acknowledged stays where it is.
//! - invariant: unknown-is-never-empty. A shuffle that is not known, or deleted, is [`Error::Lost`].

mod apps;
mod attempt;
mod ballast;
mod batch;
mod commit;
mod deleted;
mod directory;
mod disk;
mod fetch;
mod flush;
mod forget;
mod format;
mod ground;
mod health;
pub mod inspect;
mod log;
mod lost;
mod opening;
mod options;
mod part;
mod recover;
mod relief;
mod remove;
mod run;
mod segment;
mod shared;
mod shuffle;
mod stats;
mod trash;
mod usage;
mod verify;
mod volume;
mod watch;
mod watched;
mod writeback;
mod writer;

#[cfg(test)]
pub(crate) mod tests;

use std::{io, path::PathBuf, time::Duration};

use bytes::Bytes;
use shuffle_proto::{
    block::BlockHeader,
    ids::{AppId, AttemptId, MapIndex, ShuffleId, VolumeId},
    kind::Kind,
};

pub use attempt::AttemptWriter;
pub use disk::{Faults, Operation};
pub use fetch::{Fetch, Unanswered};
pub use ground::check_ground;
pub use options::{Components, DirectIo, Observer, Options};
pub use shared::READS;
pub use stats::{Stats, StatsSnapshot};
pub use usage::Usage;
pub use volume::{Started, Volume};
pub use writeback::{Made, Sealed, Tier, Unwritten};

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

/// Answer to [`Volume::open_attempt`].
#[derive(Debug)]
pub enum Opened {
    /// Takes the attempt's blocks.
    New(AttemptWriter),
    /// Committed already: [`Volume::confirm`] compares totals and answers the receipt.
    Committed(Receipt),
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
    /// Its file system takes no writes: not before the server is started again, as with those below. What can be read is still served.
    ReadOnly(String),
    /// The device or the index fails.
    Failed(String),
    /// The device or the directory is not there any more.
    Removed(String),
}

/// A position in a fetch, opaque to readers, at most 64 bytes. Valid across restarts of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor(fetch::Position);

/// Some blocks, at most about a MiB of them.
#[derive(Clone, Debug)]
pub struct FetchPart {
    /// In the order of the bytes.
    pub blocks: Vec<BlockHeader>,
    /// The blocks' bytes back to back; pieces do not follow the blocks' borders.
    pub data: Vec<Bytes>,
    /// Position after these blocks.
    pub cursor: Cursor,
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

// === impl Cursor ===

impl Cursor {
    /// Behind everything: such a fetch returns no block, only the summary.
    pub const END: Self = Self(fetch::Position::END);

    /// Reads what [`Cursor::to_bytes`] wrote; `None` if it is anything else, which means starting over.
    pub fn try_from_bytes(bytes: &[u8]) -> Option<Self> {
        fetch::Position::decode(bytes).map(Self)
    }

    /// As it travels.
    pub fn to_bytes(self) -> Bytes {
        self.0.encode()
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
            // A disk or an index that fails is this server's trouble: the same call may succeed on another.
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
