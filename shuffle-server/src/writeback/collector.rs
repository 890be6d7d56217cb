//! Leases in the store: which records this server renews, and which leases are over.
//!
//! A server renews the records of the apps that call there, in a task that waits for nothing else.
//! Every server watches the records of all other apps. A record unchanged for two leases and a
//! period, by the watching server's own clock and only while that server was awake, belongs to a
//! dead app, whose objects are buried (see [`burial`](super::burial)). No date is compared, so a
//! jumping clock deletes nothing; no key is judged by age (invariant: delete-by-lease).

mod watched;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use shuffle_proto::ids::{AppId, ShuffleId};
use shuffle_remote::{Error, Place, Remote, keys, lease::Lease};
use tokio::task::JoinSet;
use watched::Watched;

use super::{
    burial::{Burials, TAKEN_OVER, Why},
    records::Records,
};
use crate::{
    clock::Clock,
    metrics::RemoteMetrics,
    registry::{Apps, Claim, Standing},
    staging::Volume,
};

/// Poll interval for due records.
const TICK: Duration = Duration::from_millis(200);
/// Records read at the same time.
const TOGETHER: usize = 32;
/// The shortest and the longest time between two looks at a record.
const LEAST: Duration = Duration::from_millis(250);
const MOST: Duration = Duration::from_secs(60);
/// How long a record's last reading is trusted before a write: another server may have deleted the
/// app since.
const GOOD: Duration = Duration::from_secs(2);
/// Poll interval of a round behind a burial.
const AGAIN: Duration = Duration::from_secs(1);
/// Tries of a read followed by a conditional put: another server may write the record in between.
const TRIES: u32 = 4;
/// How long a deletion waits for its tombstone in the store.
const TOLD: Duration = Duration::from_secs(2);
/// How long a drain waits for removals.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) struct Collector {
    remote: Arc<Remote>,
    records: Arc<Records>,
    pub(super) burials: Arc<Burials>,
    volumes: Vec<Volume>,
    apps: Arc<dyn Apps>,
    clock: Arc<dyn Clock>,
    /// The server's own lease, for directories without a record.
    lease: Duration,
    own: Mutex<HashMap<AppId, Own>>,
    numbers: AtomicU64,
    watched: Mutex<HashMap<AppId, Watched>>,
    /// Apps that call here while another server's tombstone has their name; if that server has
    /// stopped, this one takes the burial over.
    in_the_way: Mutex<HashSet<AppId>>,
    /// Apps with a record seen by this process, with the longest lease in such a record.
    seen: Mutex<HashMap<AppId, Duration>>,
}

/// The record of an app that calls here, as last read.
#[derive(Clone, Copy)]
struct Own {
    token: [u8; 32],
    /// Number of this entry; results found for another entry are dropped.
    number: u64,
    /// Whether the record was once the app's.
    seen: bool,
    /// The app's call counter at the last renewal; `None` before the first look.
    calls: Option<u64>,
    renewals: u64,
    /// Time of the last reading with the app's own token.
    good: Option<Instant>,
    next: Instant,
    running: bool,
    /// Whether shuffles deleted by an earlier process were looked for.
    swept: bool,
    failing: bool,
}

impl Collector {
    pub(super) fn new(
        remote: Arc<Remote>,
        records: Arc<Records>,
        volumes: Vec<Volume>,
        apps: Arc<dyn Apps>,
        clock: Arc<dyn Clock>,
        lease: Duration,
        metrics: RemoteMetrics,
    ) -> Self {
        let burials = Burials::new(
            remote.clone(),
            records.clone(),
            apps.clone(),
            clock.clone(),
            metrics,
        );
        Self {
            remote,
            records,
            burials: Arc::new(burials),
            volumes,
            apps,
            clock,
            lease,
            own: Mutex::default(),
            numbers: AtomicU64::new(0),
            watched: Mutex::default(),
            in_the_way: Mutex::default(),
            seen: Mutex::default(),
        }
    }

    /// Makes or checks an app's record before the first object is written, so that every object has
    /// a lease. False while objects of an earlier life of the name are being removed.
    pub(super) async fn ensure(
        &self,
        app: &AppId,
        token: [u8; 32],
        lease: Duration,
    ) -> Result<bool, Error> {
        let now = self.clock.now();
        let good = self.own.lock().get(app).copied().filter(|own| {
            own.token == token
                && own
                    .good
                    .is_some_and(|at| now - at < GOOD.min(period_of(lease)))
        });
        if good.is_some() && !self.records.is_ending(app) {
            return Ok(true);
        }
        match self.records.bind(app, token, lease).await? {
            Claim::Yours | Claim::Nobody => {
                self.apps.told(app, token, true);
                self.see(app, lease);
                Ok(true)
            }
            Claim::Deleted => {
                self.take_over(app);
                Ok(false)
            }
            Claim::Another => {
                self.apps.told(app, token, false);
                let key = self.remote.store.path(&keys::lease(app)).to_string();
                let reason = "it is of an app with another token".into();
                Err(Error::Corrupt { key, reason })
            }
        }
    }

    /// Takes over the burial of an earlier life if its server has stopped; called repeatedly while
    /// a round waits.
    fn take_over(&self, app: &AppId) {
        let stone = self.records.last(app).filter(Lease::is_deleted);
        let me = self.records.me().to_string();
        let Some(stone) = stone.filter(|stone| stone.buried_by() != Some(&me)) else {
            return;
        };
        if self.note(app, Some(stone.clone()), AGAIN) > TAKEN_OVER {
            let why = Why::Silent(stone, Duration::ZERO);
            self.burials.add(app, None, why);
        }
    }

    fn see(&self, app: &AppId, lease: Duration) {
        let mut seen = self.seen.lock();
        let longest = seen.entry(app.clone()).or_default();
        *longest = lease.max(*longest);
    }

    /// Whether objects of a shuffle by an earlier life of the app, or written too late, are still
    /// to be removed.
    pub(super) fn is_to_go(&self, app: &AppId, shuffle: ShuffleId) -> bool {
        self.burials.holds(app, shuffle)
    }

    // === what goes ===

    /// Buries an app, or one of its shuffles, at the request of the token's owner.
    pub(super) fn dead(&self, app: &AppId, shuffle: Option<ShuffleId>, token: [u8; 32]) {
        let born = match shuffle {
            Some(_) => self.records.last_born(app, token),
            None => {
                // The next call under this name is another life.
                self.own.lock().remove(app);
                self.records.end(app, Some(token))
            }
        };
        self.burials
            .add(app, shuffle, Why::Asked(Some(token), born));
    }

    /// Notes the deletion of an app without data here, and puts the tombstone into the store if
    /// that is quick: the next call may register the name at another server. An error if neither
    /// was possible: a process that ends now forgets the deletion, so nobody may be told of it.
    pub(super) async fn tell(&self, app: &AppId) -> Result<(), Error> {
        self.records.note_gone(app).await;
        let why = match tokio::time::timeout(TOLD, self.records.entomb(app)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error,
            Err(_) => self.records.not_yet(app),
        };
        // The burial tries again.
        tracing::info!(%app, %why, "the store does not know yet that the app was deleted");
        match self.records.is_in_no_note(app) {
            true => Err(why),
            false => Ok(()),
        }
    }

    /// A caller waits for the burials of an app.
    pub(super) fn hurry(&self, app: &AppId) {
        self.burials.hurry(app);
    }

    /// Resumes burials begun before a crash, or by a call that was cut off.
    pub(super) fn resume(&self) {
        for (app, born) in self.records.to_bury() {
            self.burials.add(&app, None, Why::Asked(None, Some(born)));
        }
    }

    /// Buries objects written after the death of their app, for the owner of this token.
    pub(super) fn written_too_late(&self, place: &Place, token: [u8; 32]) {
        let why = Why::TooLate(token, place.volume);
        self.burials.add(&place.app, Some(place.shuffle), why);
    }

    /// Something of the app is to go now; answers how many objects went.
    pub(super) async fn free(&self, app: &AppId, shuffle: Option<ShuffleId>) -> Result<u64, Error> {
        let born = match shuffle {
            Some(_) => None,
            None => {
                self.own.lock().remove(app);
                // The record as it is now: this server may never have heard of the app.
                let _ = self.records.read(app).await;
                let born = self.records.end(app, None);
                self.records.note_gone(app).await;
                born
            }
        };
        self.burials.add(app, shuffle, Why::Asked(None, born));
        self.burials.bury(app).await
    }

    /// Runs burials for as long as a drain can wait.
    pub(super) async fn bury(&self) {
        let _ = tokio::time::timeout(PATIENCE, self.burials.bury_all()).await;
    }

    // === what is kept ===

    /// Renews the records of all apps that call here, until the future is dropped.
    pub(super) async fn keep(self: Arc<Self>) {
        let mut running = JoinSet::new();
        loop {
            self.resume();
            for (app, standing) in self.due() {
                if running.len() >= TOGETHER {
                    self.own
                        .lock()
                        .entry(app)
                        .and_modify(|own| own.running = false);
                    continue;
                }
                let this = self.clone();
                running.spawn(async move { this.look_at_own(&app, standing).await });
            }
            tokio::select! {
                () = tokio::time::sleep(TICK) => {}
                Some(_) = running.join_next(), if !running.is_empty() => {}
            }
        }
    }

    /// Apps whose records are due, marked as running.
    fn due(&self) -> Vec<(AppId, Standing)> {
        let now = self.clock.now();
        let mut live = self.apps.live();
        let mut own = self.own.lock();
        let known: HashSet<&AppId> = live.iter().map(|(app, _)| app).collect();
        own.retain(|app, _| known.contains(app));
        drop(known);
        live.retain(|(app, standing)| {
            let Standing::Live { token, .. } = standing else {
                return false;
            };
            let new = Own {
                token: *token,
                number: self.numbers.fetch_add(1, Ordering::Relaxed),
                seen: false,
                calls: None,
                renewals: 0,
                good: None,
                next: now,
                running: false,
                swept: false,
                failing: false,
            };
            let own = own.entry(app.clone()).or_insert(new);
            if own.token != *token {
                *own = new;
            }
            let due = !own.running && own.next <= now;
            own.running |= due;
            due
        });
        live
    }

    async fn look_at_own(&self, app: &AppId, standing: Standing) {
        let Standing::Live {
            token,
            lease,
            calls,
            ..
        } = standing
        else {
            return;
        };
        let Some(mut own) = self.own.lock().get(app).copied() else {
            return;
        };
        let mut looked = self.keep_one(app, &mut own, lease, calls).await;
        for _ in 1..TRIES {
            // Another has written the record meanwhile.
            if matches!(looked, Err(Error::Exists { .. })) {
                looked = self.keep_one(app, &mut own, lease, calls).await;
            }
        }
        own.next = self.clock.now() + period_of(lease);
        if let Err(error) = &looked {
            own.next = self.clock.now() + period_of(lease) / 2;
            if !own.failing {
                tracing::warn!(%app, %error, "the lease record of an app in the object store cannot be kept for now; staging goes on");
            }
        }
        (own.failing, own.running) = (looked.is_err(), false);
        if let Some(now) = self
            .own
            .lock()
            .get_mut(app)
            .filter(|now| now.token == token && now.number == own.number)
        {
            *now = own;
        }
    }

    async fn keep_one(
        &self,
        app: &AppId,
        own: &mut Own,
        lease: Duration,
        calls: u64,
    ) -> Result<(), Error> {
        let record = match self.records.read(app).await {
            Err(Error::Corrupt { key, reason }) if own.seen || self.has_written(app) => {
                if Lease::is_newer(&self.remote.store, app).await? {
                    return Err(Error::Corrupt { key, reason });
                }
                tracing::warn!(%app, %key, %reason, "the lease record of an app was damaged: it is written anew");
                Some(self.records.restore(app, own.token, lease).await?)
            }
            read => read?,
        };
        let over = |record: &Lease| {
            let dead = record.buried_by().is_some();
            record.is_deleted() || dead && !record.opens(own.token)
        };
        match record.as_ref().is_some_and(over) {
            true => drop(self.in_the_way.lock().insert(app.clone())),
            false => drop(self.in_the_way.lock().remove(app)),
        }
        let record = match record {
            Some(record) if !record.opens(own.token) => {
                own.good = None;
                // An app under burial soon makes way.
                if record.buried_by().is_none() {
                    self.apps.told(app, own.token, false);
                }
                return Ok(());
            }
            Some(record) if self.records.is_over(app, &record) => {
                own.good = None;
                self.apps.told_deleted(app, own.token);
                self.burials.hurry(app);
                return Ok(());
            }
            Some(record) => record,
            None => {
                if own.seen && !self.records.is_ending(app) {
                    tracing::warn!(%app, key = %self.remote.store.path(&keys::lease(app)), "the lease record of an app that calls here is not there any more: it is written anew");
                }
                self.records.bind(app, own.token, lease).await?;
                let Some(record) = self.records.read(app).await? else {
                    return Ok(());
                };
                if !record.opens(own.token) {
                    self.apps.told(app, own.token, false);
                    return Ok(());
                }
                record
            }
        };
        self.records.note_live(app).await;
        self.apps.told(app, own.token, true);
        self.see(app, lease.max(record.lease()));
        own.seen = true;
        let by_another = own.calls.is_some() && record.renewals() != own.renewals;
        let called = own.calls != Some(calls);
        let wanted = called && !by_another || record.lease() < lease;
        let record = match record.buried_by().is_some() || wanted {
            true => self.records.renew(app, &record, lease).await?,
            false => record,
        };
        (own.calls, own.renewals) = (Some(calls), record.renewals());
        own.good = Some(self.clock.now());
        if !own.swept {
            self.find_deleted_shuffles(app, own.token).await?;
            own.swept = true;
        }
        Ok(())
    }

    /// Whether volumes of this server have generations of the app in the store, so that a record
    /// existed once.
    fn has_written(&self, app: &AppId) -> bool {
        let shuffles = self.volumes.iter().flat_map(Volume::unwritten);
        let mut of_app = shuffles.filter(|shuffle| shuffle.app == *app);
        of_app.any(|shuffle| !shuffle.generations.is_empty())
    }

    /// Finds shuffles of a live app that an earlier process deleted.
    async fn find_deleted_shuffles(&self, app: &AppId, token: [u8; 32]) -> Result<(), Error> {
        let listing = self.remote.store.list(&keys::app(app)).await?;
        for name in listing.dirs {
            let Ok(number) = name.parse::<u32>() else {
                continue;
            };
            let shuffle = ShuffleId(number);
            // A deletion leaves a tombstone on every volume.
            let mut volumes = self.volumes.iter();
            if volumes.any(|volume| volume.is_deleted(app, shuffle)) {
                self.dead(app, Some(shuffle), token);
            }
        }
        Ok(())
    }

    /// Reads the records of all apps that call here, due or not.
    #[cfg(test)]
    pub(super) async fn keep_now(&self) {
        self.own
            .lock()
            .values_mut()
            .for_each(|own| own.next = self.clock.now());
        for (app, standing) in self.due() {
            self.look_at_own(&app, standing).await;
        }
    }
}

/// Interval between two looks at a record with this lease.
fn period_of(lease: Duration) -> Duration {
    (lease / 4).clamp(LEAST, MOST)
}
