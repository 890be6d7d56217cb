//! How much one peer address may have at the same time, and what is said when a bound is met.
//!
//! A peer is an IPv4 address, or the /64 that an IPv6 address is in: whoever has one of those has
//! all of it. Executors behind one NAT are one peer, so the bounds are far above what a single
//! machine needs.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use shuffle_proto::ids::AppId;

use crate::{core::Core, metrics::Limit};

/// Streams whose first message is not here yet, of all peers and of one. It comes with the stream,
/// so they are few.
const OPENINGS: (usize, usize) = (4096, 1024);
/// How long the log says nothing more of a bound that it has told of.
const TOLD: Duration = Duration::from_secs(600);
/// Rates of more peers than this are looked through for those that are back at the full burst.
const MANY: usize = 4096;

/// Counts what peers have.
pub(crate) struct Peers {
    all: usize,
    each: usize,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    all: usize,
    by_peer: HashMap<IpAddr, usize>,
}

/// A peer's share of the bound, for as long as the value lives.
pub(crate) struct Share {
    of: Arc<Peers>,
    peer: IpAddr,
}

/// Which of the two bounds is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    All,
    Peer,
}

/// So many events at once, and so many a second.
pub(crate) struct Rates<K> {
    burst: f64,
    per_second: f64,
    buckets: Mutex<HashMap<K, (f64, Instant)>>,
}

/// The bounds of what comes over the data port, beside those of connections and apps.
pub(crate) struct Bounds {
    /// Running calls.
    pub(crate) streams: Arc<Peers>,
    /// Streams whose first message is not here yet.
    pub(crate) openings: Arc<Peers>,
    /// Control calls of a peer.
    pub(crate) calls: Rates<IpAddr>,
    /// Control calls of an app that make the volumes write something down which no output follows.
    pub(crate) notes: Rates<AppId>,
    /// Leases that an app asks for anew.
    pub(crate) leases: Rates<AppId>,
    told: Mutex<HashMap<Limit, Instant>>,
}

impl Bounds {
    pub(crate) fn new(max_streams_per_peer: usize) -> Self {
        Self {
            streams: Peers::new(usize::MAX, max_streams_per_peer),
            openings: Peers::new(OPENINGS.0, OPENINGS.1),
            calls: Rates::new(4096, 256.0),
            notes: Rates::new(2048, 64.0),
            leases: Rates::new(16, 1.0),
            told: Mutex::default(),
        }
    }
}

// === impl Peers ===

impl Peers {
    /// So many in all, and so many of each peer.
    pub(crate) fn new(all: usize, each: usize) -> Arc<Self> {
        Arc::new(Self {
            all,
            each,
            held: Mutex::default(),
        })
    }

    /// Takes a share for a peer, or names the bound that is met.
    pub(crate) fn take(self: &Arc<Self>, peer: IpAddr) -> Result<Share, Over> {
        let peer = group(peer);
        let mut held = self.held.lock();
        let of_peer = held.by_peer.get(&peer).copied().unwrap_or(0);
        if of_peer >= self.each {
            return Err(Over::Peer);
        }
        if held.all >= self.all {
            return Err(Over::All);
        }
        held.all += 1;
        held.by_peer.insert(peer, of_peer + 1);
        Ok(Share {
            of: self.clone(),
            peer,
        })
    }

    /// How many of this peer there are.
    pub(crate) fn of(&self, peer: IpAddr) -> usize {
        let held = self.held.lock();
        held.by_peer.get(&group(peer)).copied().unwrap_or(0)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.of.held.lock();
        held.all -= 1;
        if let Some(count) = held.by_peer.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                held.by_peer.remove(&self.peer);
            }
        }
    }
}

/// What counts as one peer.
pub(crate) fn group(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from(network))
        }
        other => other,
    }
}

// === impl Rates ===

impl<K: Eq + std::hash::Hash> Rates<K> {
    pub(crate) fn new(burst: u32, per_second: f64) -> Self {
        Self {
            burst: f64::from(burst),
            per_second,
            buckets: Mutex::default(),
        }
    }

    /// Counts one event at `now`; if it is one too many, how long to wait for the next.
    pub(crate) fn take(&self, key: K, now: Instant) -> Result<(), Duration> {
        let mut buckets = self.buckets.lock();
        let filled = |(left, since): (f64, Instant)| {
            let grown = now.saturating_duration_since(since).as_secs_f64() * self.per_second;
            (left + grown).min(self.burst)
        };
        if buckets.len() >= MANY && !buckets.contains_key(&key) {
            // Full buckets carry no information. A peer with so many addresses that no bucket is
            // full is not stopped by this bound.
            buckets.retain(|_, bucket| filled(*bucket) < self.burst);
            if buckets.len() >= MANY {
                buckets.clear();
            }
        }
        let left = buckets
            .get(&key)
            .map_or(self.burst, |bucket| filled(*bucket));
        let allowed = left >= 1.0;
        let left = if allowed { left - 1.0 } else { left };
        buckets.insert(key, (left, now));
        match allowed {
            true => Ok(()),
            false => Err(Duration::from_secs_f64((1.0 - left) / self.per_second)),
        }
    }
}

// === impl Core ===

impl Core {
    /// Counts that a bound was met, and warns of it now and then.
    pub(crate) fn limit(&self, limit: Limit, peer: Option<SocketAddr>) {
        self.metrics.limited(limit);
        let now = Instant::now();
        let mut told = self.bounds.told.lock();
        let due = told
            .get(&limit)
            .is_none_or(|then| now.saturating_duration_since(*then) > TOLD);
        if due {
            told.insert(limit, now);
            let peer = peer.map(tracing::field::display);
            tracing::warn!(
                limit = limit.name(),
                peer,
                "a limit is met; the metric limits_total counts how often, the log says it again in 10 minutes at the earliest"
            );
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
    fn one_peer_takes_its_share_and_leaves_the_rest() {
        let peers = Peers::new(5, 2);
        let (a, b) = (address("10.0.0.1"), address("::ffff:10.0.0.2"));
        let first = peers.take(a).expect("one");
        let _second = peers.take(a).expect("two");
        assert_eq!(peers.take(a).err(), Some(Over::Peer));
        let _others = [peers.take(b).expect("one"), peers.take(b).expect("two")];
        assert_eq!(peers.take(address("10.0.0.2")).err(), Some(Over::Peer));
        let _fifth = peers.take(address("10.0.0.3")).expect("five in all");
        assert_eq!(peers.take(address("10.0.0.4")).err(), Some(Over::All));
        drop(first);
        assert_eq!(peers.of(a), 1);
        let _again = peers.take(a).expect("what is given back is there");
    }

    #[test]
    fn a_network_of_ipv6_is_one_peer() {
        let peers = Peers::new(10, 1);
        let _one = peers.take(address("2001:db8:1:2::1")).expect("one");
        assert_eq!(
            peers.take(address("2001:db8:1:2:ffff::9")).err(),
            Some(Over::Peer)
        );
        let _other = peers.take(address("2001:db8:1:3::1")).expect("another");
        let _local = peers.take(address("::1")).expect("itself");
    }

    #[test]
    fn a_rate_allows_a_burst_and_then_its_pace() {
        let rates = Rates::new(3, 2.0);
        let start = Instant::now();
        let take = |millis| rates.take("a", start + Duration::from_millis(millis));
        assert_eq!([take(0), take(0), take(0)], [Ok(()); 3]);
        assert_eq!(take(0), Err(Duration::from_millis(500)));
        assert_eq!(take(500), Ok(()));
        assert_eq!(take(600), Err(Duration::from_millis(400)));
        assert_eq!(rates.take("b", start), Ok(()), "each has its own");
        let later = [take(60_000), take(60_000), take(60_000)];
        assert_eq!(later, [Ok(()); 3], "a pause fills no more than the burst");
        assert!(take(60_000).is_err());
    }

    #[test]
    fn rates_of_many_keys_stay_bounded() {
        let rates = Rates::new(1, 0.001);
        let now = Instant::now();
        (0..3 * MANY).for_each(|key| rates.take(key, now).expect("each once"));
        assert!(rates.buckets.lock().len() <= MANY);
    }
}
