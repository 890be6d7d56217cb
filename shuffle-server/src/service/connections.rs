//! Which connections there are, what runs on each, and which one makes room for a new one.
//!
//! Clients keep connections for later, and anybody can hold one by answering pings. So when a bound
//! is met, the connection that has run no call for longest is asked to leave: of the same peer if
//! it is the peer's bound, else of the peer that has the most. Its client connects again when it
//! has something to call, and a call that is on its way is still taken (HTTP/2's graceful GOAWAY).

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::core::peers::{Over, Peers, Share, group};

/// How long a connection must have been without a call: one that is new is about to have its first.
const IDLE: Duration = Duration::from_secs(1);

/// The connections of the data port.
pub(super) struct Connections {
    peers: Arc<Peers>,
    open: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    next: u64,
    connections: HashMap<u64, Entry>,
}

struct Entry {
    peer: IpAddr,
    calls: usize,
    idle_since: Instant,
    leave: CancellationToken,
}

/// A connection, for as long as the value lives.
pub(super) struct Connection {
    of: Arc<Connections>,
    id: u64,
    leave: CancellationToken,
    _share: Share,
}

/// A call that runs on a connection.
pub(super) struct Call {
    on: Arc<Connection>,
}

impl Connections {
    /// So many in all, and so many of each peer.
    pub(super) fn new(all: usize, each: usize) -> Arc<Self> {
        Arc::new(Self {
            peers: Peers::new(all, each),
            open: Mutex::default(),
        })
    }

    /// Counts one more connection, or names the bound that is met.
    pub(super) fn take(self: &Arc<Self>, peer: IpAddr) -> Result<Arc<Connection>, Over> {
        let share = self.peers.take(peer)?;
        let mut open = self.open.lock();
        let (id, leave) = (open.next, CancellationToken::new());
        open.next += 1;
        let entry = Entry {
            peer: group(peer),
            calls: 0,
            idle_since: Instant::now(),
            leave: leave.clone(),
        };
        open.connections.insert(id, entry);
        Ok(Arc::new(Connection {
            of: self.clone(),
            id,
            leave,
            _share: share,
        }))
    }

    /// Asks one that runs no call to leave, for a new one of `peer`; false if all run calls.
    pub(super) fn make_room(&self, over: Over, peer: IpAddr, now: Instant) -> bool {
        let (peer, mut open) = (group(peer), self.open.lock());
        let idle = open.connections.values_mut().filter(|entry| {
            entry.calls == 0
                && !entry.leave.is_cancelled()
                && now.saturating_duration_since(entry.idle_since) >= IDLE
                && (over == Over::All || entry.peer == peer)
        });
        let first = idle.max_by_key(|entry| {
            let since = now.saturating_duration_since(entry.idle_since);
            (self.peers.of(entry.peer), since)
        });
        first.map(|entry| entry.leave.cancel()).is_some()
    }
}

impl Connection {
    /// Resolves when it should leave.
    pub(super) async fn leaves(&self) {
        self.leave.cancelled().await;
    }

    /// Resolves when it was to leave so long ago, and runs no call.
    pub(super) async fn stays(&self, patience: Duration) {
        self.leave.cancelled().await;
        loop {
            tokio::time::sleep(patience).await;
            if !self.runs_calls() {
                return;
            }
        }
    }

    fn runs_calls(&self) -> bool {
        let open = self.of.open.lock();
        open.connections
            .get(&self.id)
            .is_some_and(|entry| entry.calls > 0)
    }

    /// A call begins.
    pub(super) fn call(self: &Arc<Self>) -> Call {
        if let Some(entry) = self.of.open.lock().connections.get_mut(&self.id) {
            entry.calls += 1;
        }
        Call { on: self.clone() }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.of.open.lock().connections.remove(&self.id);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(entry) = self.on.of.open.lock().connections.get_mut(&self.on.id) {
            entry.calls -= 1;
            entry.idle_since = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn who_runs_a_call_stays_and_who_is_idle_for_longest_leaves() {
        let connections = Connections::new(4, 3);
        let (a, b) = (address("10.0.0.1"), address("10.0.0.2"));
        let take = |peer| connections.take(peer).expect("there is room");
        let (old, new, busy) = (take(a), take(a), take(a));
        let call = busy.call();
        let other = take(b);
        assert_eq!(connections.take(b).err(), Some(Over::All));
        assert_eq!(connections.take(a).err(), Some(Over::Peer));
        let now = Instant::now();
        assert!(
            !connections.make_room(Over::All, b, now),
            "all are new, and about to call"
        );
        let later = now + 2 * IDLE;
        assert!(connections.make_room(Over::All, b, later));
        assert!(old.leave.is_cancelled(), "of the peer that has the most");
        assert!(connections.make_room(Over::Peer, a, later));
        assert!(new.leave.is_cancelled());
        assert!(
            !connections.make_room(Over::Peer, a, later),
            "the others run a call or are not its own"
        );
        assert!(!busy.leave.is_cancelled() && !other.leave.is_cancelled());
        drop((old, call));
        assert!(connections.make_room(Over::Peer, a, later + 2 * IDLE));
        assert!(busy.leave.is_cancelled(), "its call is over");
        let _next = connections.take(b).expect("one has left");
    }
}
