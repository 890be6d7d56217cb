//! Calls: decoded, checked, carried out, answered. tonic and hyper are seen only here and in
//! `server.rs`.
//!
//! Owns connections ([`listener`]), the time that a peer gets ([`pace`]), routes ([`router`]) and
//! one handler per call: [`push`] and [`fetch`] framed by hand, [`control`] generated. Owns no
//! state: that is [`crate::core`]'s.

mod caller;
mod connections;
mod control;
mod fetch;
mod listener;
mod pace;
mod push;
mod read;
mod router;
mod verify;

use std::net::SocketAddr;

use shuffle_proto::{ids::AppId, kind::Kind};
use tonic::Status;

use crate::{auth::audit, core::Core, error::Refusal};

pub(crate) use listener::{End, Listener};
pub(crate) use router::{generated, not_serving};

impl Core {
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
        if refusal.kind == Kind::Denied {
            audit::refused("call", "nobody", peer.as_ref(), app, call, why);
        }
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
