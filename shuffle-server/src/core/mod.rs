//! What a server is without a wire: its volumes, who is let in and how much one may have, where it
//! is, how it ends.
//!
//! Owns no connection and no message: [`crate::service`] decodes, calls what is here, and encodes;
//! [`crate::admin`] shows it to people. Owns no bytes and no apps either: those are the volumes'
//! and the registry's.

pub(crate) mod drain;
pub(crate) mod free;
pub(crate) mod pace;
pub(crate) mod peers;
pub(crate) mod reports;
pub(crate) mod share;
pub(crate) mod state;
pub(crate) mod volumes;

use std::sync::Arc;

use shuffle_remote::Remote;
use tokio_util::task::TaskTracker;

use crate::{
    auth::Auth,
    budget::Budget,
    core::{
        drain::Drain, pace::Pace, peers::Bounds, reports::Reports, share::Shares, volumes::Volumes,
    },
    metrics::Metrics,
    registry::Registry,
    writeback::WriteBack,
};

/// Oldest protocol version that is understood; the newest is [`shuffle_proto::PROTOCOL`].
pub(crate) const PROTOCOL_MIN: u32 = 1;

/// What every call needs.
pub(crate) struct Core {
    pub(crate) volumes: Volumes,
    pub(crate) registry: Arc<Registry>,
    pub(crate) auth: Arc<Auth>,
    pub(crate) budget: Budget,
    pub(crate) metrics: Arc<Metrics>,
    /// If there is an object store.
    pub(crate) remote: Option<ObjectTier>,
    /// Pushes that were let in and have not ended: the drain waits for them.
    pub(crate) pushes: TaskTracker,
    /// Attempts that readers have found wrong.
    pub(crate) reports: Reports,
    /// How slow a peer may be.
    pub(crate) pace: Pace,
    /// How much one may have at the same time.
    pub(crate) bounds: Bounds,
    /// The end of the server.
    pub(crate) drain: Drain,
    /// Where the server is.
    pub(crate) place: Place,
    /// Outputs that are being written.
    pub(crate) shares: Shares,
}

/// Where the server is, for executors that prefer what is near. Empty names are nobody's.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    pub(crate) node: String,
    pub(crate) zone: String,
}

/// The object store, and who fills it.
pub(crate) struct ObjectTier {
    pub(crate) remote: Arc<Remote>,
    pub(crate) writeback: Arc<WriteBack>,
}

impl Core {
    #[allow(clippy::too_many_arguments)] // one call, which names each
    pub(crate) fn new(
        volumes: Volumes,
        registry: Arc<Registry>,
        auth: Arc<Auth>,
        budget: Budget,
        metrics: Arc<Metrics>,
        remote: Option<ObjectTier>,
        pace: Pace,
        bounds: Bounds,
    ) -> Self {
        let (pushes, drain) = (TaskTracker::new(), Drain::default());
        Self {
            volumes,
            registry,
            auth,
            budget,
            metrics,
            remote,
            pushes,
            reports: Reports::default(),
            pace,
            bounds,
            drain,
            place: Place::default(),
            shares: Shares::default(),
        }
    }
}
