//! What the fake server holds: attempts by volume, committed or not.

use std::collections::BTreeMap;

use bytes::Bytes;
use shuffle_proto::{
    block::{BlockHeader, PartitionTotal},
    ids::{AppId, AttemptId, MapIndex, ShuffleId, VolumeId},
};

/// app, shuffle, attempt.
pub(super) type Key = (AppId, ShuffleId, AttemptId);

#[derive(Default)]
pub(super) struct Store {
    volumes: BTreeMap<VolumeId, BTreeMap<Key, Attempt>>,
    order: Vec<VolumeId>,
    next: usize,
}

pub(super) struct Attempt {
    pub(super) map_index: MapIndex,
    pub(super) blocks: Vec<(BlockHeader, Bytes)>,
    pub(super) totals: Option<Vec<PartitionTotal>>,
    /// The stream in charge; older ones are fenced.
    pub(super) stream: u64,
}

impl Store {
    pub(super) fn new(volumes: usize) -> Self {
        let order: Vec<_> = (0..volumes).map(|_| VolumeId::random()).collect();
        Self {
            volumes: order
                .iter()
                .map(|volume| (*volume, BTreeMap::new()))
                .collect(),
            order,
            next: 0,
        }
    }

    pub(super) fn volumes(&self) -> Vec<VolumeId> {
        self.order.clone()
    }

    pub(super) fn attempts(&self, shuffle: ShuffleId) -> Vec<AttemptId> {
        let all = self.volumes.values().flatten();
        all.filter(|(key, attempt)| key.1 == shuffle && attempt.totals.is_some())
            .map(|(key, _)| key.2)
            .collect()
    }

    /// Opens an attempt: returns its volume, and whether the commit is there already.
    pub(super) fn open(&mut self, key: &Key, map_index: MapIndex, stream: u64) -> (VolumeId, bool) {
        for (volume, attempts) in &mut self.volumes {
            if let Some(attempt) = attempts.get_mut(key) {
                if attempt.totals.is_none() {
                    attempt.blocks.clear();
                }
                attempt.stream = stream;
                return (*volume, attempt.totals.is_some());
            }
        }
        let volume = self.order[self.next % self.order.len()];
        self.next += 1;
        let attempt = Attempt {
            map_index,
            blocks: Vec::new(),
            totals: None,
            stream,
        };
        self.volumes
            .entry(volume)
            .or_default()
            .insert(key.clone(), attempt);
        (volume, false)
    }

    /// The attempt, if `stream` is still in charge.
    pub(super) fn attempt(&mut self, key: &Key, stream: u64) -> Option<&mut Attempt> {
        let attempt = self
            .volumes
            .values_mut()
            .find_map(|attempts| attempts.get_mut(key))?;
        (attempt.stream == stream).then_some(attempt)
    }

    /// Deletes everything; the volumes stay.
    pub(super) fn clear(&mut self) {
        self.volumes.values_mut().for_each(BTreeMap::clear);
    }

    pub(super) fn abort(&mut self, key: &Key, stream: u64) {
        for attempts in self.volumes.values_mut() {
            if attempts
                .get(key)
                .is_some_and(|attempt| attempt.stream == stream && attempt.totals.is_none())
            {
                attempts.remove(key);
            }
        }
    }

    pub(super) fn delete(&mut self, app: &AppId, shuffle: Option<ShuffleId>) {
        for attempts in self.volumes.values_mut() {
            attempts
                .retain(|key, _| key.0 != *app || shuffle.is_some_and(|shuffle| shuffle != key.1));
        }
    }

    pub(super) fn crash(&mut self) {
        for attempts in self.volumes.values_mut() {
            attempts.retain(|_, attempt| attempt.totals.is_some());
        }
    }

    pub(super) fn adopt(&mut self, other: Store) {
        self.order.extend(other.order);
        self.volumes.extend(other.volumes);
    }

    /// Committed attempts of a shuffle on these volumes; `None` if a volume, or the shuffle on all
    /// of them, is not known.
    pub(super) fn committed(
        &self,
        app: &AppId,
        shuffle: ShuffleId,
        volumes: &[VolumeId],
    ) -> Option<Vec<(AttemptId, &Attempt)>> {
        let mut found = Vec::new();
        for volume in volumes {
            let attempts = self.volumes.get(volume)?;
            let ours = attempts.iter().filter(|((a, s, _), attempt)| {
                a == app && *s == shuffle && attempt.totals.is_some()
            });
            found.extend(ours.map(|((_, _, id), attempt)| (*id, attempt)));
        }
        (!found.is_empty()).then_some(found)
    }
}
