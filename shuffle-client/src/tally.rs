//! Work of each server for one writer or one reader: for people in search of a slow or dead server.
//!
//! Its own lock and no other: it can be read from any thread while the writer or reader is in use.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

/// Work of one server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerStats {
    /// `host:port`.
    pub address: String,
    /// Stored bytes of committed outputs, or of verified blocks.
    pub bytes: u64,
    /// Number of these blocks.
    pub blocks: u64,
    /// Failed tries, whatever the outcome of the next.
    pub failures: u64,
    /// Reason of the last failure.
    pub last_failure: Option<String>,
}

/// The servers that a writer or reader has dealt with so far. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Tally(Arc<Mutex<BTreeMap<String, ServerStats>>>);

impl Tally {
    /// The servers so far, by address.
    pub fn servers(&self) -> Vec<ServerStats> {
        self.0.lock().values().cloned().collect()
    }

    pub(crate) fn moved(&self, address: &str, blocks: u64, bytes: u64) {
        self.change(address, |server| {
            server.blocks += blocks;
            server.bytes += bytes;
        });
    }

    pub(crate) fn failed(&self, address: &str, why: &str) {
        self.change(address, |server| {
            server.failures += 1;
            server.last_failure = Some(why.to_string());
        });
    }

    fn change(&self, address: &str, change: impl FnOnce(&mut ServerStats)) {
        let mut servers = self.0.lock();
        if let Some(server) = servers.get_mut(address) {
            return change(server);
        }
        let mut server = ServerStats {
            address: address.to_string(),
            ..Default::default()
        };
        change(&mut server);
        servers.insert(address.to_string(), server);
    }
}
