//! Whether an address is one server's, or several answer there in turn.
//!
//! A name with alternating targets (a ClusterIP Service of Kubernetes, a load balancer) looks like
//! a server with vanishing disks: outputs pushed over one connection are missing on the next. So an
//! address is asked over several connections before use. A server that restarts meanwhile changes
//! its run once, and never back.

use std::time::Duration;

use futures_util::future::join_all;
use shuffle_proto::kind::Kind;

use super::Members;
use crate::{channel::Failure, types::Description};

/// Connections over which all addresses together are asked, about.
const ALL: usize = 96;
/// Least and greatest number of connections for the question: with two servers chosen by lot,
/// twelve miss the alternation less than once in two thousand times.
const EACH: (usize, usize) = (2, 12);
/// Calls at a time.
const AT_ONCE: usize = 4;
/// Calls in a row, to tell a restart from a balancer.
const IN_TURN: usize = 16;

impl Members {
    /// Fails if several servers answer at this address. A failed call says nothing.
    pub(super) async fn identify(
        &self,
        address: &str,
        first: &Description,
        limit: Duration,
    ) -> Result<(), Failure> {
        if first.instance.is_empty() {
            return Ok(());
        }
        let addresses = self.pool.lock().servers.len().max(1);
        let mut left = (ALL / addresses).clamp(EACH.0, EACH.1);
        while left > 0 {
            let count = left.min(AT_ONCE);
            left -= count;
            let answers = join_all((0..count).map(|_| self.who(address, limit))).await;
            if answers.into_iter().flatten().any(|id| id != first.instance) {
                return self.tell_apart(address, limit).await;
            }
        }
        Ok(())
    }

    /// Asks again and again, one call after the other.
    async fn tell_apart(&self, address: &str, limit: Duration) -> Result<(), Failure> {
        let mut seen: Vec<String> = Vec::new();
        for _ in 0..IN_TURN {
            let Some(id) = self.who(address, limit).await else {
                continue;
            };
            if seen.last() == Some(&id) {
                continue;
            }
            if seen.contains(&id) {
                return Err(ambiguous());
            }
            seen.push(id);
        }
        Ok(())
    }

    async fn who(&self, address: &str, limit: Duration) -> Option<String> {
        let _turn = self.probes.acquire().await.ok()?;
        let answer = tokio::time::timeout(limit, self.client.describe_afresh(address)).await;
        let id = answer.ok()?.ok()?.instance;
        (!id.is_empty()).then_some(id)
    }
}

/// The complaint about such an address.
pub(super) fn ambiguous() -> Failure {
    Failure::new(
        Kind::Invalid,
        "several servers answer at this address in turn, as behind a load balancer or a ClusterIP Service: what is written to one \
         would be looked for at another. Give the name of a headless Service (clusterIP: None) as dns://NAME:PORT, or list the \
         servers one by one",
    )
}
