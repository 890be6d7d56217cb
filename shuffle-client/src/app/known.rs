//! Knowledge of the servers: pure book-keeping, under the lock of its owner.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use crate::{channel::Failure, types::Description};

/// All servers that the settings name now, by address.
#[derive(Default)]
pub(super) struct Pool {
    pub(super) servers: BTreeMap<String, Known>,
}

/// A server, or several behind one address taken for one.
#[derive(Clone, Default)]
pub(super) struct Known {
    /// The last description; `None` without an answer.
    pub(super) description: Option<Description>,
    /// When the lease was last renewed there, and for how long.
    pub(super) leased: Option<(Instant, Duration)>,
    /// The last run of its process; empty before the first answer, and for servers without one.
    pub(super) instance: String,
    /// Earlier runs.
    former: Vec<String>,
    /// Whether the server was asked at least once.
    asked: bool,
    /// Result of the last visit.
    failure: Option<Failure>,
    /// Whether the address leads to several servers.
    ambiguous: bool,
}

impl Pool {
    /// Sets the present servers.
    pub(super) fn list(&mut self, addresses: &[String]) {
        self.servers
            .retain(|address, _| addresses.contains(address));
        for address in addresses {
            self.servers.entry(address.clone()).or_default();
        }
    }

    pub(super) fn server(&self, address: &str) -> Known {
        self.servers.get(address).cloned().unwrap_or_default()
    }

    /// Takes in a server's description. Fails if the address alternates between two runs: a
    /// restarted server has a new run each time, so a known run that returns is a load balancer's
    /// work.
    pub(super) fn described(
        &mut self,
        address: &str,
        description: Description,
    ) -> Result<(), Failure> {
        let Some(server) = self.servers.get_mut(address) else {
            return Ok(()); // it left meanwhile
        };
        if server.former.contains(&description.instance) {
            server.ambiguous = true;
            return Err(super::identity::ambiguous());
        }
        if server.instance != description.instance {
            let before = std::mem::replace(&mut server.instance, description.instance.clone());
            server
                .former
                .extend(Some(before).filter(|id| !id.is_empty()));
        }
        server.description = Some(description);
        Ok(())
    }

    pub(super) fn leased(&mut self, address: &str, lease: Duration) {
        if let Some(server) = self.servers.get_mut(address) {
            server.leased = Some((Instant::now(), lease));
        }
    }

    /// Several servers answer at this address.
    pub(super) fn several(&mut self, address: &str) {
        if let Some(server) = self.servers.get_mut(address) {
            server.ambiguous = true;
        }
    }

    /// A visit is over. Answers why the server refuses the app, if that is news.
    pub(super) fn visited(&mut self, address: &str, failure: Option<Failure>) -> Option<String> {
        let server = self.servers.get_mut(address)?;
        server.asked = true;
        if failure.as_ref().is_some_and(|failure| !failure.answered) {
            server.description = None;
        }
        let refuses =
            |failure: &Failure| (failure.answered || failure.insecure) && !failure.kind.retryable();
        let before = std::mem::replace(&mut server.failure, failure);
        let refusal = server.failure.as_ref().filter(|failure| refuses(failure))?;
        let told = before.is_some_and(|before| refuses(&before));
        (!told).then(|| refusal.message.clone())
    }

    /// Whether the server's description names this zone.
    pub(super) fn is_in(&self, address: &str, zone: &str) -> bool {
        let description = self
            .servers
            .get(address)
            .and_then(|server| server.description.as_ref());
        description.is_some_and(|description| description.zone == zone)
    }

    /// Servers for a new shuffle, each once: registered, answering, not draining, with a working
    /// disk. If there is none, all known servers, because the knowledge may be old.
    pub(super) fn usable(&self) -> Vec<String> {
        let mut taken: Vec<&Description> = Vec::new();
        for server in self.servers.values() {
            let Some(description) = &server.description else {
                continue;
            };
            let works = |volumes: &[crate::types::VolumeState]| {
                volumes.iter().any(|volume| volume.state == "ok")
            };
            if server.leased.is_some()
                && !server.ambiguous
                && !description.draining
                && works(&description.volumes)
                && !taken.iter().any(|other| same(other, description))
            {
                taken.push(description);
            }
        }
        if taken.is_empty() {
            let known = self.servers.iter().filter(|(_, known)| !known.ambiguous);
            return known.map(|(address, _)| address.clone()).collect();
        }
        let addresses = taken.into_iter().map(|server| server.address.clone());
        addresses.collect()
    }

    pub(super) fn is_taken(&self) -> bool {
        self.servers.values().any(|server| server.leased.is_some())
    }

    pub(super) fn all_asked(&self) -> bool {
        !self.servers.is_empty() && self.servers.values().all(|server| server.asked)
    }

    pub(super) fn shortest_lease(&self) -> Option<Duration> {
        let leases = self.servers.values().filter_map(|server| server.leased);
        leases.map(|(_, lease)| lease).min()
    }

    /// An address without a server of its own, and the reason.
    pub(super) fn ambiguous(&self) -> Option<(&str, &str)> {
        let (address, server) = self.servers.iter().find(|(_, known)| known.ambiguous)?;
        let why = server.failure.as_ref()?;
        Some((address, &why.message))
    }

    /// A server with a final refusal of the app.
    pub(super) fn refusal(&self) -> Option<(&str, &Failure)> {
        let failures = self.servers.iter().filter_map(|(address, server)| {
            let failure = server.failure.as_ref()?;
            Some((address.as_str(), failure))
        });
        let mut final_ones = failures.filter(|(_, failure)| !failure.kind.retryable());
        final_ones.next()
    }

    pub(super) fn failures(&self) -> impl Iterator<Item = String> + '_ {
        let failures = self
            .servers
            .values()
            .filter_map(|server| server.failure.as_ref());
        failures.map(|failure| failure.message.clone())
    }

    /// Addresses of servers that answered last time, each once, and of the silent ones.
    pub(super) fn by_health(&self) -> (Vec<String>, Vec<String>) {
        let mut well: Vec<&Description> = Vec::new();
        let mut unwell = Vec::new();
        for (address, server) in &self.servers {
            match &server.description {
                Some(description) if !well.iter().any(|other| same(other, description)) => {
                    well.push(description);
                }
                Some(_) => {}
                None => unwell.push(address.clone()),
            }
        }
        let well = well.into_iter().map(|server| server.address.clone());
        (well.collect(), unwell)
    }
}

/// Whether two addresses lead to one server: by its run, or by a common disk.
fn same(a: &Description, b: &Description) -> bool {
    if !a.instance.is_empty() && !b.instance.is_empty() {
        return a.instance == b.instance;
    }
    let mut volumes = a.volumes.iter();
    volumes.any(|volume| b.volumes.iter().any(|other| other.id == volume.id))
}
