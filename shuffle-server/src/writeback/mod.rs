//! Write-back: committed data of live shuffles is copied to the object store, later, in large
//! objects.
//!
//! | file | does |
//! |---|---|
//! | [`planner`] | which shuffle next, which local copy goes first: pure |
//! | [`cells`] | how a shuffle is cut so that it can be sorted in memory: pure |
//! | [`round`] | one shuffle's turn, and what its failure means |
//! | [`uploader`] | a round's objects, read back and compared |
//! | [`committer`] | the manifest, then the volume's record |
//! | [`records`] | whose an app is: its record in the store |
//! | [`notes`] | what of that a crash must not forget |
//! | [`collector`] | leases in the store: whose are kept, and whose are over |
//! | [`burial`] | removal of what the dead have left there |
//! | [`awaited`] | commits at level `object`, which are answered when the store has them |
//! | [`reclaim`] | local copies that the store has make room |
//! | [`drain`] | the end of the server: all of it, now, and how fast it goes |
//!
//! ```text
//! Sealed ──upload──▶ objects ──read back──▶ Uploaded ──conditional put──▶ manifest ──▶ index ──▶ the local copy may go
//! ```
//!
//! - invariant: remote-before-reclaim. Each arrow takes the result of the arrow before. A crash
//!   between two arrows leaves objects without a manifest, or a manifest that the volume finds when
//!   the same generation is begun again.
//! - invariant: delete-by-lease. Removed objects belong to a deleted shuffle or app, or to an app
//!   whose lease record nobody renews.
//! - invariant: foreign-is-untouched. Removed keys are Forebay's, below a directory with a lease
//!   record.
//!
//! Does not own the data: volumes hold a shuffle until the store has a copy. Commits and fetches do
//! not need this module, so a store outage costs a backlog and nothing else.

mod awaited;
mod burial;
mod cells;
mod collector;
mod committer;
mod drain;
mod notes;
mod planner;
mod reclaim;
mod records;
mod round;
mod throttle;
mod uploader;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use shuffle_proto::ids::{AppId, ShuffleId, VolumeId};
use shuffle_remote::Remote;
use tokio::{sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    metrics::RemoteMetrics,
    registry::{Apps, Policy, Standing},
    staging::{Health, Unwritten, Volume},
};
use awaited::Awaited;
use collector::Collector;
use drain::Begun;
use planner::{Candidate, Urgency};
pub use records::Records;
use round::Turn;
pub(crate) use throttle::Throttle;

/// Poll interval.
const TICK: Duration = Duration::from_millis(250);
/// Shuffles written back at the same time, each with up to some 50 MiB in memory.
const ROUNDS: usize = 2;
/// The same during a drain, when the server has little else to do.
const DRAIN_ROUNDS: usize = 4;
/// Extra rounds for shuffles with waiting commits, so that no commit waits behind the bulk of other
/// shuffles.
const RESERVED: usize = 2;

/// Settings of write-back.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Policy of apps without a policy.
    pub policy: Policy,
    /// How long a lazy app's shuffle must not be written to.
    pub delay: Duration,
    /// Bytes sent per second, over all rounds; `None`: unlimited.
    pub bandwidth: Option<u64>,
    /// Percent of a volume's space from which local copies go, and shuffles are written back
    /// without delay.
    pub reclaim_at: u8,
    /// Lease of apps without a lease; the interval between looks at the store's leases follows from
    /// it.
    pub lease: Duration,
}

type Key = (VolumeId, AppId, ShuffleId);

/// Purpose of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    /// Attempts old enough for write-back, or pressed for by a full disk or a drain.
    Bulk,
    /// Only to put manifests together.
    Merge,
    /// Commits wait for the round.
    Awaited,
}

/// See the module.
pub struct WriteBack {
    remote: Arc<Remote>,
    volumes: Vec<Volume>,
    apps: Arc<dyn Apps>,
    options: Options,
    clock: Arc<dyn Clock>,
    metrics: RemoteMetrics,
    throttle: Throttle,
    collector: Arc<Collector>,
    running: Mutex<HashMap<Key, Lane>>,
    failed: Mutex<HashMap<Key, (u32, Instant)>>,
    /// How many rounds there were, and which was the last of a shuffle.
    turns: Mutex<(u64, HashMap<Key, u64>)>,
    awaited: Awaited,
    /// Set when the drain begins.
    begun: Mutex<Option<Begun>>,
    /// Attempts that a drain could not read any more.
    given_up: AtomicU64,
    wake: Notify,
}

// === impl WriteBack ===

impl WriteBack {
    /// Write-back of these volumes to this store.
    pub fn new(
        remote: Arc<Remote>,
        records: Arc<Records>,
        volumes: Vec<Volume>,
        apps: Arc<dyn Apps>,
        options: Options,
        clock: Arc<dyn Clock>,
        metrics: RemoteMetrics,
    ) -> Self {
        let collector = Collector::new(
            remote.clone(),
            records,
            volumes.clone(),
            apps.clone(),
            clock.clone(),
            options.lease,
            metrics.clone(),
        );
        Self {
            throttle: Throttle::new(options.bandwidth),
            collector: Arc::new(collector),
            remote,
            volumes,
            apps,
            options,
            clock,
            metrics,
            running: Mutex::default(),
            failed: Mutex::default(),
            turns: Mutex::default(),
            awaited: Awaited::default(),
            begun: Mutex::default(),
            given_up: AtomicU64::default(),
            wake: Notify::new(),
        }
    }

    /// Runs until `shutdown`; running rounds are given up then.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let mut collecting = JoinSet::new();
        collecting.spawn(self.clone().watch());
        // Beside each other: neither a removal nor a slow look at the others' keeps a record from
        // being renewed.
        collecting.spawn(self.collector.clone().keep());
        collecting.spawn(self.collector.burials.clone().run());
        let mut rounds = JoinSet::new();
        loop {
            self.reclaim().await;
            if rounds.len() == self.most_bulk() + RESERVED {
                // While all rounds wait for the store nothing is picked, and the backlog metric
                // must not go stale.
                self.candidates();
            }
            while rounds.len() < self.most_bulk() + RESERVED
                && let Some(turn) = self.pick()
            {
                rounds.spawn(self.clone().round(turn));
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep(TICK) => {}
                () = self.wake.notified() => {}
                Some(_) = rounds.join_next(), if !rounds.is_empty() => {}
            }
        }
        rounds.shutdown().await;
        collecting.shutdown().await;
    }

    /// Removes an app, or one shuffle, from the store, whichever servers wrote there; returns the
    /// number of removed objects. Failures are retried in the background.
    pub async fn free(
        &self,
        app: &AppId,
        shuffle: Option<ShuffleId>,
    ) -> Result<u64, shuffle_remote::Error> {
        self.remote.forget(app, shuffle);
        self.collector.free(app, shuffle).await
    }

    /// Buries a shuffle that its app, with this token, deleted here.
    pub fn shuffle_deleted(&self, app: &AppId, shuffle: ShuffleId, token: [u8; 32]) {
        self.remote.forget(app, Some(shuffle));
        self.collector.dead(app, Some(shuffle), token);
    }

    /// Buries an app that the owner of this token deleted here. The tombstone is in the store on
    /// return, unless the store is slow and a data directory has a note of the deletion. An error:
    /// neither has, and the next process would not know; the burial goes on by itself.
    pub async fn app_deleted(
        &self,
        app: &AppId,
        token: [u8; 32],
    ) -> Result<(), shuffle_remote::Error> {
        self.remote.forget(app, None);
        self.collector.dead(app, None, token);
        self.collector.tell(app).await
    }

    /// Watches the records of other servers' apps, until the future is dropped.
    async fn watch(self: Arc<Self>) {
        loop {
            let period = self.collector.period();
            if let Err(error) = self.collector.watch(period).await {
                tracing::warn!(%error, "the object store cannot be used; staging goes on, and it is looked at again in {period:?}");
            }
            tokio::time::sleep(period).await;
        }
    }

    /// Shuffles of all volumes with the policies of their apps, in no order.
    fn candidates(&self) -> Vec<(&Volume, Candidate)> {
        let now = self.clock.now();
        let draining = self.is_draining();
        let mut failed = self.failed.lock();
        let mut turns = self.turns.lock();
        let mut candidates = Vec::new();
        let (mut backlog, mut oldest) = (0, Duration::ZERO);
        for volume in &self.volumes {
            let general = match draining {
                true => Urgency::Drain,
                // The readable rest of a broken disk is saved.
                false if self.pressed(volume) || volume.health().is_broken() => Urgency::Pressure,
                false => Urgency::None,
            };
            for mut shuffle in volume.unwritten() {
                let policy = match self.apps.standing(&shuffle.app) {
                    Standing::Live { policy, heard, .. } if heard || draining => {
                        policy.unwrap_or(self.options.policy)
                    }
                    // An app without a call since the start will repeat its policy.
                    _ => {
                        shuffle.generations.clear();
                        Policy::Off
                    }
                };
                if volume.health().is_broken() {
                    // The store's copy is not read for a merge.
                    shuffle.generations.clear();
                }
                if policy != Policy::Off {
                    backlog += shuffle.bytes;
                    oldest = oldest.max(shuffle.waiting);
                }
                let key = key_of(&shuffle);
                let urgency = match self.awaited.has(&key) {
                    true => Urgency::Awaited,
                    false => general,
                };
                let not_before = failed
                    .get(&key)
                    .map(|(_, at)| at.saturating_duration_since(now));
                let candidate = Candidate {
                    shuffle,
                    policy,
                    urgency,
                    not_before,
                    turn: turns.1.get(&key).copied().unwrap_or_default(),
                    load: 0,
                };
                candidates.push((volume, candidate));
            }
        }
        if !failed.is_empty() || !turns.1.is_empty() {
            let known: HashSet<Key> = candidates
                .iter()
                .map(|(_, candidate): &(_, Candidate)| key_of(&candidate.shuffle))
                .collect();
            failed.retain(|key, _| known.contains(key));
            turns.1.retain(|key, _| known.contains(key));
        }
        let backlog = i64::try_from(backlog).unwrap_or(i64::MAX);
        let metrics = &self.metrics;
        metrics.backlog.set(backlog);
        metrics
            .oldest
            .set(i64::try_from(oldest.as_secs()).unwrap_or(i64::MAX));
        candidates
    }

    /// Rounds without waiting commits.
    fn most_bulk(&self) -> usize {
        match self.is_draining() {
            true => DRAIN_ROUNDS,
            false => ROUNDS,
        }
    }

    /// The next shuffle, marked as running.
    fn pick(&self) -> Option<Turn> {
        let mut running = self.running.lock();
        let bulk = running.values().filter(|lane| **lane != Lane::Awaited);
        let full = bulk.count() >= self.most_bulk();
        let load = |volume: VolumeId| running.keys().filter(|key| key.0 == volume).count();
        let (volumes, candidates): (Vec<_>, Vec<_>) = self
            .candidates()
            .into_iter()
            .map(|(volume, mut candidate)| {
                candidate.load = load(volume.id());
                (volume, candidate)
            })
            .filter(|(volume, candidate)| {
                // A hanging disk would occupy the round, and has its turn once it answers.
                let slow = matches!(volume.health(), Health::Slow(_));
                // Attempts without an object, and waiting commits, always have a round.
                let merging = running.values().any(|lane| *lane == Lane::Merge);
                let behind = candidate.merges_only() && merging
                    || full && candidate.urgency != Urgency::Awaited;
                !slow && !behind && !running.contains_key(&key_of(&candidate.shuffle))
            })
            .unzip();
        let at = planner::next(&candidates, self.options.delay)?;
        let next = &candidates[at];
        let key = key_of(&next.shuffle);
        let lane = match next.urgency {
            _ if next.merges_only() => Lane::Merge,
            Urgency::Awaited => Lane::Awaited,
            Urgency::None | Urgency::Pressure | Urgency::Drain => Lane::Bulk,
        };
        running.insert(key.clone(), lane);
        {
            let mut turns = self.turns.lock();
            turns.0 += 1;
            let now = turns.0;
            turns.1.insert(key.clone(), now);
        }
        Some(Turn {
            volume: volumes[at].clone(),
            merge: next.merges(),
            most: next.most(),
            first: self.awaited.of(&key),
            key,
        })
    }
}

fn key_of(shuffle: &Unwritten) -> Key {
    (shuffle.volume, shuffle.app.clone(), shuffle.shuffle)
}

#[cfg(test)]
mod tests;
