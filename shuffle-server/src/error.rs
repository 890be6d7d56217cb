//! Why a server cannot start, and why a call is refused.

use std::{fmt, io, path::PathBuf, time::Duration};

use shuffle_proto::{block::MAX_BATCH, frame::FrameError, kind::Kind, wire::Invalid};
use tonic::Status;

use crate::{config, registry, staging};

/// Why the server cannot start or go on. Each says which setting, its value, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting is wrong.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// A data directory cannot be used.
    #[error("data-dir is {}: {}", dir.display(), without_path(cause))]
    Volume {
        /// As configured.
        dir: PathBuf,
        /// Why.
        cause: staging::Error,
    },
    /// An address cannot be listened on.
    #[error("{key} is {value}: {cause}: name a free address of this machine")]
    Listen {
        /// The setting.
        key: &'static str,
        /// As configured.
        value: String,
        /// Why.
        cause: io::Error,
    },
    /// The object store cannot be used.
    #[error("remote is {url}: {cause}")]
    Remote {
        /// As configured.
        url: String,
        /// Why.
        cause: String,
    },
    /// The ready file cannot be written.
    #[error("ready-file is {}: {cause}: name a file in a writable directory", path.display())]
    ReadyFile {
        /// As configured.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// The process itself.
    #[error("{0}")]
    Process(String),
    /// The server has ended, and not everything that it held is where it was to be.
    #[error("{}", unsaved(*timeout, *left, *lost, *unkept))]
    Unsaved {
        /// As configured.
        timeout: Duration,
        /// Bytes that are on the disks only.
        left: u64,
        /// Map outputs that could not be read any more.
        lost: u64,
        /// Bytes that only memory had.
        unkept: u64,
    },
}

fn unsaved(timeout: Duration, left: u64, lost: u64, unkept: u64) -> String {
    let mut parts = vec!["the server has ended and could not save everything".to_owned()];
    if left > 0 {
        parts.push(format!(
            "{left} bytes are not in the object store, and only a server on the same disks serves them; drain-timeout is \
             {timeout:?}: give a drain more time, or see what the log says of the store"
        ));
    }
    if lost > 0 {
        parts.push(format!(
            "{lost} map outputs cannot be read any more and are in no object store: their maps run again, and the log says what is the \
             matter with the disks"
        ));
    }
    if unkept > 0 {
        parts.push(format!(
            "{unkept} bytes that only memory had are lost: see what the log says of the disks"
        ));
    }
    parts.join(": ")
}

/// The directory is in the sentence already.
fn without_path(cause: &staging::Error) -> String {
    match cause {
        staging::Error::Directory { reason, .. } => reason.clone(),
        other => other.to_string(),
    }
}

/// Why a call is refused: what the caller should do, and a text for people.
#[derive(Debug)]
pub struct Refusal {
    /// What the caller should do.
    pub kind: Kind,
    /// Field, value, remedy.
    pub message: String,
    /// Time to wait before the next try, with `Busy`.
    pub retry_after: Option<Duration>,
}

/// How long a caller that is told to come back should wait.
const COME_BACK: Duration = Duration::from_millis(500);

impl Refusal {
    /// A refusal of this kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        let retry_after = (kind == Kind::Busy).then_some(COME_BACK);
        Self {
            kind,
            message: message.into(),
            retry_after,
        }
    }

    /// Asks the caller to wait so long before the next try.
    pub fn after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// The refusal as a gRPC status.
    pub fn status(&self) -> Status {
        self.kind.status(&self.message, self.retry_after)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Invalid> for Refusal {
    fn from(invalid: Invalid) -> Self {
        Self::new(Kind::Invalid, invalid.to_string())
    }
}

impl From<registry::Error> for Refusal {
    fn from(error: registry::Error) -> Self {
        Self::new(error.kind(), error.to_string())
    }
}

impl From<staging::Error> for Refusal {
    fn from(error: staging::Error) -> Self {
        Self::new(error.kind(), error.to_string())
    }
}

impl From<shuffle_remote::Error> for Refusal {
    fn from(error: shuffle_remote::Error) -> Self {
        Self::new(error.kind(), error.to_string())
    }
}

impl From<FrameError> for Refusal {
    fn from(error: FrameError) -> Self {
        let kind = match error {
            FrameError::Malformed(_) | FrameError::TooLarge { .. } => Kind::Invalid,
            // The peer is gone or its connection broke: whoever still hears this may try again.
            FrameError::Truncated | FrameError::Transport(_) => Kind::Unavailable,
        };
        let message = match error {
            FrameError::TooLarge { limit, .. } if limit > MAX_BATCH as usize => {
                format!("{error}, of it {MAX_BATCH} bytes of payload")
            }
            other => other.to_string(),
        };
        Self::new(kind, message)
    }
}
