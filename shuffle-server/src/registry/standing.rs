//! What the registry says of apps to others: the words, and the trait by which they ask.

use std::time::Duration;

use shuffle_proto::ids::AppId;

use super::Policy;

/// What the registry knows of an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The app lives here.
    Live {
        /// The policy that the app asked for; `None` leaves the choice to the server.
        policy: Option<Policy>,
        /// Whether the app has called since the server was started.
        heard: bool,
        /// SHA-256 of its token.
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

/// Apps by name, for parts that look after their data.
pub trait Apps: Send + Sync {
    /// What is known of an app.
    fn standing(&self, app: &AppId) -> Standing;
    /// Apps that live here, also those of which the pool has another token.
    fn live(&self) -> Vec<(AppId, Standing)>;
    /// Says whether the app's record in the store opens for the token that the app has here.
    fn told(&self, app: &AppId, token: [u8; 32], opens: bool);
    /// Says that the record is of a deleted app of this name and token: nothing in the store belongs
    /// to the app that is here.
    fn told_deleted(&self, app: &AppId, token: [u8; 32]);
}
