//! Failure of a call or a stream, in the words of `Kind`.

use std::time::Duration;

use shuffle_proto::{
    frame::FrameError,
    kind::{KIND_TRAILER, Kind},
};
use tonic::Status;

use crate::tls::why_insecure;

/// Failure of a call or a stream, before any decision.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    pub(crate) message: String,
    pub(crate) retry_after: Option<Duration>,
    /// Whether the server itself answered, and so is there.
    pub(crate) answered: bool,
    /// The server is well, and has its share of a shuffle.
    pub(crate) elsewhere: bool,
    /// Settings of TLS do not fit together, here and at the server.
    pub(crate) insecure: bool,
}

impl Failure {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            retry_after: None,
            answered: false,
            elsewhere: false,
            insecure: false,
        }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        if let Some(why) = std::error::Error::source(&status).and_then(why_insecure) {
            return Self {
                insecure: true,
                ..Self::new(Kind::Denied, why)
            };
        }
        let mut message = status.message().to_string();
        let mut source = std::error::Error::source(&status);
        while let Some(cause) = source {
            message = format!("{message}: {cause}");
            source = cause.source();
        }
        if message.is_empty() {
            message = format!("status {:?} without a message", status.code());
        }
        let kind = Kind::of(&status);
        Self {
            kind,
            message,
            retry_after: Kind::retry_after(&status),
            // A connection that is closed because there are enough is an answer too.
            answered: kind == Kind::Busy || status.metadata().contains_key(KIND_TRAILER),
            elsewhere: false,
            insecure: false,
        }
    }
}

impl From<FrameError> for Failure {
    fn from(error: FrameError) -> Self {
        let kind = match error {
            FrameError::Malformed(_) | FrameError::TooLarge { .. } => Kind::Internal,
            FrameError::Truncated | FrameError::Transport(_) => Kind::Unavailable,
        };
        Self::new(kind, error.to_string())
    }
}

/// An error with its causes: hyper's own text alone says nothing.
pub(super) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
