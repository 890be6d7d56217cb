//! Write-back: what was committed and still matters is copied to the object store, later, in large
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
//! - invariant: remote-before-reclaim. Each arrow takes what the one before it made; a crash
//!   between any two leaves objects that no manifest names, or a manifest that the volume finds
//!   when it begins the same generation again.
//! - invariant: delete-by-lease. What is removed belongs to a shuffle or app that was deleted, or
//!   whose lease record nobody renews.
//! - invariant: foreign-is-untouched. What is removed has a key of ours, below a directory whose
//!   lease record was seen.
//!
//! Does not own the data: volumes hold it until the store does. Nothing here is needed for a commit
//! or a fetch to succeed, so a store that is down costs a backlog and nothing else.

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
    sync::Arc,
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

/// How often it looks around.
const TICK: Duration = Duration::from_millis(250);
/// Shuffles that are written back at the same time. Each holds up to some 50 MiB.
const ROUNDS: usize = 2;
/// The same while the server drains: then it has nothing else to do.
const DRAIN_ROUNDS: usize = 4;
/// Rounds that are left for shuffles that a commit waits for: none of them waits behind the bulk of
/// others.
const RESERVED: usize = 2;

/// Settings of write-back.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// For apps that do not say.
    pub policy: Policy,
    /// How long a lazy app's shuffle must not be written to.
    pub delay: Duration,
    /// Bytes per second that are sent, over all rounds; `None`: as many as go.
    pub bandwidth: Option<u64>,
    /// Percent of a volume's space from which local copies go, and shuffles are written back
    /// without delay.
    pub reclaim_at: u8,
    /// Lease of an app that does not ask for one: how often leases in the store are looked at
    /// follows from it.
    pub lease: Duration,
}

type Key = (VolumeId, AppId, ShuffleId);

/// What a round is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    /// What has waited long enough, or must go because there is a hurry.
    Bulk,
    /// Only to put manifests together.
    Merge,
    /// Commits wait for it.
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
    /// The drain, once there is one.
    begun: Mutex<Option<Begun>>,
    wake: Notify,
}

// === impl WriteBack ===

impl WriteBack {
    /// Of these volumes, to this store.
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
            wake: Notify::new(),
        }
    }

    /// Runs until `shutdown`; rounds that run then are given up.
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
                // Nothing is picked while all rounds wait for the store, and then the backlog is
                // what people look at.
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

    /// Removes what lies in the store of an app, or of one shuffle, from whichever server; answers
    /// how many objects that were. What fails is tried again.
    pub async fn free(
        &self,
        app: &AppId,
        shuffle: Option<ShuffleId>,
    ) -> Result<u64, shuffle_remote::Error> {
        self.remote.forget(app, shuffle);
        self.collector.free(app, shuffle).await
    }

    /// A shuffle was deleted here by its app, which has this token.
    pub fn shuffle_deleted(&self, app: &AppId, shuffle: ShuffleId, token: [u8; 32]) {
        self.remote.forget(app, Some(shuffle));
        self.collector.dead(app, Some(shuffle), token);
    }

    /// An app was deleted here by itself, who has this token. Other servers know it by then, unless
    /// the store is slow.
    pub async fn app_deleted(&self, app: &AppId, token: [u8; 32]) {
        self.remote.forget(app, None);
        self.collector.dead(app, None, token);
        self.collector.tell(app).await;
    }

    /// Looks at what others have in the store, until it is dropped.
    async fn watch(self: Arc<Self>) {
        loop {
            let period = self.collector.period();
            if let Err(error) = self.collector.watch(period).await {
                tracing::warn!(%error, "the object store cannot be used; staging goes on, and it is looked at again in {period:?}");
            }
            tokio::time::sleep(period).await;
        }
    }

    /// Shuffles of all volumes with what their apps want, in no order.
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
                // Of a broken disk is saved what can still be read.
                false if self.pressed(volume) || volume.health().is_broken() => Urgency::Pressure,
                false => Urgency::None,
            };
            for mut shuffle in volume.unwritten() {
                let policy = match self.apps.standing(&shuffle.app) {
                    Standing::Live { policy, heard, .. } if heard || draining => {
                        policy.unwrap_or(self.options.policy)
                    }
                    // One that has not called since the start will say again what it wants.
                    _ => {
                        shuffle.generations.clear();
                        Policy::Off
                    }
                };
                if volume.health().is_broken() {
                    // What is in the store is not read from there again.
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

    /// Rounds that nobody waits for.
    fn most_bulk(&self) -> usize {
        match self.is_draining() {
            true => DRAIN_ROUNDS,
            false => ROUNDS,
        }
    }

    /// The shuffle whose turn it is, marked as running.
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
                // A disk that does not answer would keep the round from others, and has its turn
                // when it does.
                let slow = matches!(volume.health(), Health::Slow(_));
                // There is always room for what is in no object, and for what a commit waits for.
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
