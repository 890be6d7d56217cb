//! Which servers are near, on this machine or in this zone: they are written to first.
//!
//! A process with a node or zone asks servers for theirs, once a minute; otherwise a server at this
//! machine's address is near. The knowledge is short-lived and only a preference: every server
//! takes every output.
//!
//! An executor knows of its own tasks only. Every writer names a server's part of the shuffle plus
//! a quarter ([`placement::share`](crate::placement::share)); a server with that many outputs sends
//! the next output elsewhere, however unevenly tasks are spread over machines.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

/// How long a server's answer is believed, and how long its silence.
const BELIEVED: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(10));
/// How far away a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Distance {
    Node,
    Zone,
    Far,
}

/// Knowledge of a server.
#[derive(Clone, Debug)]
struct Known {
    distance: Distance,
    /// The server's machine, if told.
    node: String,
    until: Instant,
}

/// Knowledge of servers. One per client.
#[derive(Default)]
pub(crate) struct Near {
    known: Mutex<HashMap<String, Known>>,
    /// Tasks that start together ask once.
    pub(crate) asking: tokio::sync::Mutex<()>,
}

/// How far the candidates of a shuffle are, and who shares a machine.
#[derive(Debug, Default)]
pub(crate) struct Nearby {
    servers: HashMap<String, (Distance, String)>,
    /// Whether some of the servers may be preferred.
    pub(crate) bounded: bool,
}

// === impl Near ===

impl Near {
    /// Notes a server's answer on its distance; `None`: no answer.
    pub(crate) fn learn(&self, server: &str, answer: Option<(Distance, String)>) {
        let believed = match answer {
            Some(_) => BELIEVED.0,
            None => BELIEVED.1,
        };
        let (distance, node) = answer.unwrap_or((Distance::Far, String::new()));
        let known = Known {
            distance,
            node,
            until: Instant::now() + believed,
        };
        self.known.lock().insert(server.to_owned(), known);
    }

    /// Knowledge of these servers. `told`: this process has a node or a zone.
    pub(crate) fn nearby(&self, servers: &[String], told: bool) -> Nearby {
        let known = self.known.lock();
        let found = servers.iter().filter_map(|server| {
            let known = known.get(server)?;
            Some((server.clone(), (known.distance, known.node.clone())))
        });
        Nearby::of(found.collect(), told)
    }

    /// Servers of which nothing is known, or nothing that is still believed.
    pub(crate) fn unknown(&self, servers: &[String]) -> Vec<String> {
        let (known, now) = (self.known.lock(), Instant::now());
        let unknown = |server: &&String| known.get(*server).is_none_or(|known| known.until <= now);
        servers.iter().filter(unknown).cloned().collect()
    }

    /// Whether a server is known to be on this machine, and others are known not to be.
    pub(crate) fn is_here(&self, server: &str) -> bool {
        let known = self.known.lock();
        known
            .get(server)
            .is_some_and(|known| known.distance == Distance::Node)
    }
}

/// Whether the address is this machine's, by the source address of a packet to it. Sends nothing.
pub(crate) fn is_own(ip: IpAddr) -> bool {
    let any: IpAddr = match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let from = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((ip, 9))?;
        socket.local_addr()
    });
    from.is_ok_and(|from| from.ip() == ip)
}

// === impl Nearby ===

impl Nearby {
    fn of(servers: HashMap<String, (Distance, String)>, told: bool) -> Self {
        let mut distances = servers.values().map(|(distance, _)| *distance);
        let first = distances.next();
        let differ = distances.any(|distance| Some(distance) != first);
        Self {
            servers,
            bounded: told || differ,
        }
    }

    /// Puts near servers first, keeping the order among equals. Of several copies only the first
    /// goes to the nearest.
    pub(crate) fn order(&self, servers: &mut [String], copy: usize) {
        servers.sort_by_key(|server| self.distance(server));
        self.apart(servers, copy);
    }

    /// Puts those first that are right for this copy, and not on the machine of the first copy.
    pub(crate) fn apart(&self, servers: &mut [String], copy: usize) {
        let others = copy % servers.len().max(1);
        if others == 0 {
            return;
        }
        let first = self.node(&servers[0]).map(str::to_owned);
        servers.rotate_left(others);
        servers.sort_by_key(|server| first.is_some() && self.node(server) == first.as_deref());
    }

    fn distance(&self, server: &str) -> Distance {
        self.servers
            .get(server)
            .map_or(Distance::Far, |(distance, _)| *distance)
    }

    fn node(&self, server: &str) -> Option<&str> {
        let (_, node) = self.servers.get(server)?;
        Some(node.as_str()).filter(|node| !node.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nearby(servers: &[(&str, Distance, &str)]) -> Nearby {
        let servers = servers.iter().map(|(server, distance, node)| {
            ((*server).to_owned(), (*distance, (*node).to_owned()))
        });
        Nearby::of(servers.collect(), false)
    }

    fn ordered(nearby: &Nearby, servers: &[&str], copy: usize) -> Vec<String> {
        let mut servers: Vec<_> = servers.iter().map(|server| (*server).to_owned()).collect();
        nearby.order(&mut servers, copy);
        servers
    }

    #[test]
    fn what_is_near_comes_first_and_the_others_in_their_order() {
        use Distance::{Far, Node, Zone};
        let nearby = nearby(&[
            ("a", Far, "1"),
            ("b", Zone, "2"),
            ("c", Node, "3"),
            ("d", Zone, "4"),
        ]);
        assert!(nearby.bounded);
        assert_eq!(
            ordered(&nearby, &["a", "b", "c", "d", "e"], 0),
            ["c", "b", "d", "a", "e"]
        );
        assert_eq!(
            ordered(&nearby, &["d", "e", "a", "b", "c"], 0),
            ["c", "d", "b", "e", "a"]
        );
    }

    #[test]
    fn servers_that_are_equally_far_keep_their_order_and_need_no_bound() {
        for distance in [Distance::Node, Distance::Far] {
            let nearby = nearby(&[
                ("a", distance, "1"),
                ("b", distance, "1"),
                ("c", distance, "2"),
            ]);
            assert!(!nearby.bounded);
            assert_eq!(ordered(&nearby, &["b", "c", "a"], 0), ["b", "c", "a"]);
        }
        let unknown = Nearby::default();
        assert_eq!(ordered(&unknown, &["b", "c", "a"], 0), ["b", "c", "a"]);
        assert_eq!(ordered(&unknown, &["b", "c", "a"], 1), ["c", "a", "b"]);
        assert_eq!(ordered(&unknown, &["b"], 1), ["b"]);
    }

    #[test]
    fn the_second_copy_goes_to_another_machine_where_there_is_one() {
        use Distance::{Far, Node};
        let nearby = nearby(&[
            ("a", Node, "1"),
            ("b", Node, "1"),
            ("c", Far, "2"),
            ("d", Far, "2"),
        ]);
        assert_eq!(ordered(&nearby, &["b", "c", "d", "a"], 0)[0], "b");
        assert_eq!(ordered(&nearby, &["b", "c", "d", "a"], 1)[0], "c");
        let one = self::nearby(&[("a", Node, "1"), ("b", Node, "1")]);
        assert_eq!(ordered(&one, &["b", "a"], 1)[0], "a");
    }

    #[test]
    fn loopback_is_here_and_documentations_addresses_are_not() {
        assert!(is_own(Ipv4Addr::LOCALHOST.into()));
        assert!(!is_own(Ipv4Addr::new(203, 0, 113, 7).into()));
    }
}
