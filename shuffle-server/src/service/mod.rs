//! Calls: decoded, checked, carried out, answered. tonic and hyper are seen only here and in `server.rs`.
//!
//! Owns connections ([`listener`]), what a peer may have ([`peers`]) and how slow it may be ([`pace`]), routes ([`router`]) and one handler per call: [`push`] and [`fetch`] framed by hand, [`control`]
//! generated. Owns no state of its own beside counters: apps are the registry's, bytes the volumes'.

mod caller;
mod connections;
mod control;
pub(crate) mod drain;
mod fetch;
mod free;
mod listener;
mod pace;
mod peers;
mod push;
mod read;
mod router;
mod share;
pub(crate) mod state;
mod verify;
mod volumes;

use std::{net::SocketAddr, sync::Arc};

use shuffle_proto::{ids::AppId, kind::Kind};
use shuffle_remote::Remote;
use tokio_util::task::TaskTracker;
use tonic::Status;

pub(crate) use caller::PROTOCOL_MIN;
pub(crate) use drain::{Drain, Step};
pub(crate) use listener::{End, Listener};
pub(crate) use pace::Pace;
pub(crate) use peers::{Bounds, Peers};
pub(crate) use router::{generated, not_serving};
pub(crate) use volumes::Volumes;

pub(crate) use crate::metrics::Limit;
use crate::{
    budget::Budget, error::Refusal, metrics::Metrics, registry::Registry, writeback::WriteBack,
};

/// What every call needs.
pub(crate) struct Core {
    pub(crate) volumes: Volumes,
    pub(crate) registry: Arc<Registry>,
    pub(crate) budget: Budget,
    pub(crate) metrics: Arc<Metrics>,
    /// If there is an object store.
    pub(crate) remote: Option<Tier>,
    /// Pushes that were let in and have not ended: the drain waits for them.
    pub(crate) pushes: TaskTracker,
    /// Attempts that readers have found wrong.
    reports: verify::Reports,
    /// How slow a peer may be.
    pub(crate) pace: Pace,
    /// How much one may have at the same time.
    pub(crate) bounds: Bounds,
    /// The end of the server.
    pub(crate) drain: Drain,
    /// Where the server is.
    pub(crate) place: Place,
    /// Outputs that are being written.
    shares: share::Shares,
}

/// Where the server is, for executors that prefer what is near. Empty names are nobody's.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    pub(crate) node: String,
    pub(crate) zone: String,
}

/// The object store, and who fills it.
pub(crate) struct Tier {
    pub(crate) remote: Arc<Remote>,
    pub(crate) writeback: Arc<WriteBack>,
}

impl Core {
    pub(crate) fn new(
        volumes: Volumes,
        registry: Arc<Registry>,
        budget: Budget,
        metrics: Arc<Metrics>,
        remote: Option<Tier>,
        pace: Pace,
        bounds: Bounds,
    ) -> Self {
        let (pushes, drain) = (TaskTracker::new(), Drain::default());
        Self {
            volumes,
            registry,
            budget,
            metrics,
            remote,
            pushes,
            reports: verify::Reports::default(),
            pace,
            bounds,
            drain,
            place: Place::default(),
            shares: share::Shares::default(),
        }
    }

    /// Counts and logs a refusal: who, what and why, never the token.
    fn refuse(
        &self,
        call: &'static str,
        peer: Option<SocketAddr>,
        app: Option<&AppId>,
        refusal: &Refusal,
    ) -> Status {
        self.metrics.refused(refusal.kind);
        let peer = peer.map(tracing::field::display);
        let shown = app.map(tracing::field::display);
        let (kind, why) = (refusal.kind.name(), &refusal.message);
        match refusal.kind {
            Kind::Internal => tracing::error!(call, peer, app = shown, kind, why, "call failed"),
            // The caller comes back or goes elsewhere by itself.
            Kind::Busy | Kind::Unavailable => {
                tracing::debug!(call, peer, app = shown, kind, why, "call refused")
            }
            Kind::Invalid | Kind::Fenced | Kind::Lost | Kind::Corrupt | Kind::Denied => {
                if self.registry.may_log(app) {
                    tracing::warn!(call, peer, app = shown, kind, why, "call refused");
                }
            }
        }
        refusal.status()
    }
}
