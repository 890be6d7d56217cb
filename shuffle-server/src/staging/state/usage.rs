//! How much is held of whom, and how safe it is.

use std::collections::BTreeMap;

use shuffle_proto::ids::{AppId, ShuffleId};

use crate::staging::{
    state::{shared::Shared, shuffle::Shuffle},
    words::Durability,
};

/// What an app, or one shuffle of it, holds on a volume: bytes of committed attempts by the level
/// they have reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Committed attempts.
    pub attempts: u64,
    /// Bytes that only this process holds.
    pub memory: u64,
    /// Bytes in files.
    pub disk: u64,
    /// Bytes synced to the device.
    pub fsync: u64,
    /// Bytes in the object store, whatever else holds them.
    pub object: u64,
}

// === impl Shared ===

impl Shared {
    /// What an app holds, or one of its shuffles.
    pub(crate) fn usage(&self, app: &AppId, shuffle: Option<ShuffleId>) -> Usage {
        let Some(no) = self.app_no(app) else {
            return Usage::default();
        };
        let shuffles = self.shuffles();
        let of_app = shuffles
            .iter()
            .filter(|of| of.app_no == no && shuffle.is_none_or(|id| id == of.id));
        let mut usage = Usage::default();
        of_app.for_each(|shuffle| usage.add(&shuffle.usage()));
        usage
    }

    /// How many committed attempts of a shuffle are held.
    pub(crate) fn attempts(&self, app: &AppId, shuffle: ShuffleId) -> u64 {
        let Some(no) = self.app_no(app) else {
            return 0;
        };
        let shuffles = self.shuffles();
        let mut of_app = shuffles.iter().filter(|of| of.app_no == no);
        let found = of_app.find(|of| of.id == shuffle);
        found.map_or(0, |shuffle| shuffle.state.lock().commits.len() as u64)
    }

    /// Adds what each shuffle holds.
    pub(crate) fn add_usages(&self, usages: &mut BTreeMap<(AppId, ShuffleId), Usage>) {
        for shuffle in self.shuffles() {
            let usage = usages.entry((shuffle.app.clone(), shuffle.id)).or_default();
            usage.add(&shuffle.usage());
        }
    }
}

impl Shuffle {
    fn usage(&self) -> Usage {
        let (commits, written) = {
            let state = self.state.lock();
            (state.commits.clone(), state.written.clone())
        };
        let mut usage = Usage::default();
        for (owner, committed) in commits.iter() {
            usage.attempts += 1;
            *match committed.durability {
                _ if written.contains(owner) => &mut usage.object,
                Durability::Memory => &mut usage.memory,
                Durability::Disk => &mut usage.disk,
                Durability::Fsync => &mut usage.fsync,
            } += committed.bytes;
        }
        usage
    }
}

// === impl Usage ===

impl Usage {
    /// Adds another's.
    pub fn add(&mut self, other: &Self) {
        self.attempts += other.attempts;
        self.memory += other.memory;
        self.disk += other.disk;
        self.fsync += other.fsync;
        self.object += other.object;
    }
}
