//! Why a volume refused or failed, and what its caller should do about it.

use std::{io, path::PathBuf};

use shuffle_proto::{ids::VolumeId, kind::Kind};

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
    pub(super) fn io(operation: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Error::Io {
            operation,
            path: path.into(),
            source,
        }
    }
}
