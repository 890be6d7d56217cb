//! The registry's word on apps, for other modules: types, and the trait to ask by.

use std::time::Duration;

use shuffle_proto::ids::AppId;

use super::Policy;

/// Standing of an app in the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The app lives here.
    Live {
        /// The policy asked for; `None` leaves the choice to the server.
        policy: Option<Policy>,
        /// Whether the app has called since the server was started.
        heard: bool,
        /// SHA-256 of the app's token.
        token: [u8; 32],
        /// How long the app's data outlive the last call.
        lease: Duration,
        /// Rises with every call.
        calls: u64,
    },
    /// The app asked for the deletion of its data.
    Deleted,
    /// The app is not known here, or has not called here for a lease.
    Unknown,
}

/// The registry, as write-back sees it.
pub trait Apps: Send + Sync {
    /// Standing of an app.
    fn standing(&self, app: &AppId) -> Standing;
    /// Apps that live here, including apps with a token other than the pool's.
    fn live(&self) -> Vec<(AppId, Standing)>;
    /// Tells whether the app's record in the store opens for the token held here.
    fn told(&self, app: &AppId, token: [u8; 32], opens: bool);
    /// Tells that the record is of a deleted app of this name and token: nothing in the store
    /// belongs to the app here.
    fn told_deleted(&self, app: &AppId, token: [u8; 32]);
}
