//! Refusals of the registry, and the caller's action on each.

use shuffle_proto::{ids::AppId, kind::Kind};

use super::End;

/// A refused call.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Another token is bound.
    #[error("caller.token does not open app {0}: send the token with which the app was registered")]
    Denied(AppId),
    /// The pool has another token.
    #[error(
        "caller.token was bound to app {0} while the object store could not be asked, and it has another token of it: another \
         application was registered by this id first; start this one again under another id"
    )]
    Taken(AppId),
    /// Data of an earlier app of this name are still there.
    #[error(
        "caller.app is {0}: an application of this id and token was deleted, and what it had in the object store is still being \
         removed; until that is done nothing of this one is there: compute it again"
    )]
    Before(AppId),
    /// The pool cannot be asked.
    #[error("app {0}: whose it is cannot be asked of the object store: {1}")]
    Pool(AppId, String),
    /// Nothing is known of the app.
    #[error(
        "caller.app is {0}: this server has nothing of it; ask the servers that took its output"
    )]
    Unknown(AppId),
    /// The app is gone: nothing may be added.
    #[error(
        "caller.app is {0}: its {1}, and its data were deleted; register it again with RenewLease to go on"
    )]
    Gone(AppId, End),
    /// The app is gone: nothing is left to read.
    #[error("caller.app is {0}: its {1}, and its data were deleted; compute them again")]
    Deleted(AppId, End),
    /// The table is full.
    #[error(
        "caller.app is {0}: {1} apps hold data here already; come back later or raise max-apps"
    )]
    TooManyApps(AppId, usize),
    /// The app's streams are used up.
    #[error(
        "app {0} runs {1} pushes and fetches here already: come back later or raise max-streams-per-app"
    )]
    TooManyStreams(AppId, usize),
    /// No volume wrote the app down, or not all deleted its data.
    #[error("app {0}: {1}")]
    Ledger(AppId, String),
}

impl Error {
    /// The caller's action.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Denied(_) | Self::Taken(_) => Kind::Denied,
            Self::Unknown(_) | Self::Deleted(..) | Self::Before(_) => Kind::Lost,
            Self::Gone(..) => Kind::Fenced,
            Self::TooManyApps(..) | Self::TooManyStreams(..) => Kind::Busy,
            Self::Ledger(..) | Self::Pool(..) => Kind::Unavailable,
        }
    }
}
