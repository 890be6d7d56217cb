//! Removal of what the dead have left in the store: of apps, and of shuffles of apps that live.
//!
//! Nothing is removed before the app's lease record was seen, by whose token the deletion was asked for, or which nobody has renewed;
//! and then only keys that parse as ours (invariant: delete-by-lease, foreign-is-untouched). What else lies there stays, is counted
//! and told once. An app's record becomes a tombstone first and goes last, so that a burial that is interrupted goes on, here or
//! elsewhere, and so that whoever removes can see, before each batch, that it is still dead and nobody else's to remove.
//!
//! One burial at a time per app. Burials of different apps run beside each other, and nobody waits for them.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use shuffle_proto::ids::{AppId, ShuffleId, VolumeId};
use shuffle_remote::{
    Error, Place, Remote,
    keys::{self, Ours},
    lease::Lease,
};
use tokio::{sync::Notify, task::JoinSet};
use uuid::Uuid;

use super::records::Records;
use crate::{
    clock::Clock,
    metrics::RemoteMetrics,
    registry::{Apps, Standing},
};

/// Burials at the same time.
const TOGETHER: usize = 8;
/// Objects that are removed with one request, where the store can.
const BATCH: usize = 1000;
/// Keys that are listed before they are removed.
const LISTED: usize = 10_000;
/// How often a tombstone is written anew while its app is being removed.
const TOUCH: Duration = Duration::from_secs(1);
/// How long others leave a tombstone alone that does not change.
pub(super) const TAKEN_OVER: Duration = Duration::from_secs(8);
/// Pause after a burial that failed; doubled with every further one up to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The same while somebody waits for it.
const HURRY: Duration = Duration::from_secs(1);
/// How often is looked for what is to go.
const TICK: Duration = Duration::from_millis(200);
/// How long a deleted shuffle waits for others of its app.
const TOGETHER_WITHIN: Duration = Duration::from_millis(200);
/// So many shuffles are not looked for before they are removed.
const FEW: usize = 2;
/// Others may write the record between a look at it and the put.
const TRIES: u32 = 4;
/// Foreign things that are counted and told.
const TOLD: usize = 1000;

/// Why something goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Whoever has this token said so, or a person, or it was known before (`None`), of the app that was born then, if that is known.
    Asked(Option<[u8; 32]>, Option<Uuid>),
    /// Nobody has renewed this record for longer than anybody waits; for so long that is announced, for the app's servers to deny.
    Silent(Lease, Duration),
    /// It has no record: it was written after its owner died, by nobody knows whom.
    Late,
    /// This volume wrote it of a shuffle that was deleted meanwhile, for the app of this token.
    TooLate([u8; 32], VolumeId),
}

/// A shuffle, or what one volume has written of it.
type Part = (ShuffleId, Option<VolumeId>);

/// What of an app is to go.
#[derive(Default)]
struct Grave {
    whole: Option<Why>,
    shuffles: BTreeMap<Part, Why>,
    tries: u32,
    not_before: Option<Instant>,
    /// The tombstone says that nobody renews the record: whoever does has until then to say so.
    announced: Option<Instant>,
    running: bool,
    alone: Arc<tokio::sync::Mutex<()>>,
}

/// See the module.
pub(super) struct Burials {
    remote: Arc<Remote>,
    records: Arc<Records>,
    apps: Arc<dyn Apps>,
    clock: Arc<dyn Clock>,
    metrics: RemoteMetrics,
    graves: Mutex<HashMap<AppId, Grave>>,
    told: Mutex<HashSet<String>>,
    wake: Notify,
}

// === impl Burials ===

impl Burials {
    pub(super) fn new(
        remote: Arc<Remote>,
        records: Arc<Records>,
        apps: Arc<dyn Apps>,
        clock: Arc<dyn Clock>,
        metrics: RemoteMetrics,
    ) -> Self {
        Self {
            remote,
            records,
            apps,
            clock,
            metrics,
            graves: Mutex::default(),
            told: Mutex::default(),
            wake: Notify::new(),
        }
    }

    /// An app, or a shuffle of it, is to go.
    pub(super) fn add(&self, app: &AppId, shuffle: Option<ShuffleId>, why: Why) {
        let mut graves = self.graves.lock();
        let grave = graves.entry(app.clone()).or_default();
        match shuffle {
            None => {
                // Whose word counts need not wait for a denial; and the next one of this name may be meant, while the one before is still
                // to go or was buried elsewhere.
                let known = match (&grave.whole, &why) {
                    (Some(Why::Asked(_, Some(known))), Why::Asked(_, Some(born))) => known == born,
                    (whole, why) => whole.as_ref() == Some(why),
                };
                if grave.whole.is_none() || !known && matches!(why, Why::Asked(..)) {
                    (grave.announced, grave.not_before) = (None, None);
                    grave.whole = Some(why);
                }
            }
            Some(shuffle) => {
                if grave.shuffles.is_empty() && grave.not_before.is_none() {
                    // Others will follow, and cost less together.
                    grave.not_before = Some(self.clock.now() + TOGETHER_WITHIN);
                }
                let volume = match why {
                    Why::TooLate(_, volume) => Some(volume),
                    _ => None,
                };
                grave.shuffles.entry((shuffle, volume)).or_insert(why);
            }
        }
        self.wake.notify_one();
    }

    /// Somebody waits for what is to go of an app: what has failed is tried again soon.
    pub(super) fn hurry(&self, app: &AppId) {
        let soon = self.clock.now() + HURRY;
        if let Some(grave) = self.graves.lock().get_mut(app)
            && grave.announced.is_none()
        {
            grave.not_before = grave.not_before.map(|at| at.min(soon));
        }
    }

    /// Whether all of an app is to go.
    #[cfg(test)]
    pub(super) fn is_dying(&self, app: &AppId) -> bool {
        let graves = self.graves.lock();
        graves.get(app).is_some_and(|grave| grave.whole.is_some())
    }

    /// Whether something of a shuffle is to go.
    pub(super) fn holds(&self, app: &AppId, shuffle: ShuffleId) -> bool {
        let graves = self.graves.lock();
        let grave = graves.get(app);
        grave.is_some_and(|grave| grave.shuffles.keys().any(|(it, _)| *it == shuffle))
    }

    /// Removes what is to go, until it is dropped.
    pub(super) async fn run(self: Arc<Self>) {
        let mut running = JoinSet::new();
        loop {
            while running.len() < TOGETHER
                && let Some(app) = self.next()
            {
                let this = self.clone();
                running.spawn(async move {
                    let _running = Running(&this, &app);
                    drop(this.bury(&app).await);
                });
            }
            tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep(TICK) => {}
                Some(_) = running.join_next(), if !running.is_empty() => {}
            }
        }
    }

    /// Removes all that is to go, each once; what fails stays on the list.
    pub(super) async fn bury_all(&self) {
        let apps: Vec<_> = self.graves.lock().keys().cloned().collect();
        for app in apps {
            drop(self.bury(&app).await);
        }
    }

    /// One whose turn it is, marked as running.
    fn next(&self) -> Option<AppId> {
        let now = self.clock.now();
        let mut graves = self.graves.lock();
        let due = |grave: &Grave| !grave.running && grave.not_before.is_none_or(|at| at <= now);
        let (app, grave) = graves.iter_mut().find(|(_, grave)| due(grave))?;
        grave.running = true;
        Some(app.clone())
    }

    /// Removes what is to go of an app now; answers how many objects went.
    pub(super) async fn bury(&self, app: &AppId) -> Result<u64, Error> {
        let alone = match self.graves.lock().get(app) {
            Some(grave) => grave.alone.clone(),
            None => return Ok(0),
        };
        let _alone = alone.lock().await;
        let (whole, shuffles, announced) = match self.graves.lock().get(app) {
            Some(grave) => (grave.whole.clone(), grave.shuffles.clone(), grave.announced),
            None => return Ok(0),
        };
        let result = match &whole {
            Some(why) => self.whole(app, why, announced).await,
            None => self.shuffles(app, &shuffles).await.map(Some),
        };
        let mut graves = self.graves.lock();
        let Some(grave) = graves.get_mut(app) else {
            return result.map(Option::unwrap_or_default);
        };
        match &result {
            Ok(None) => {
                if let Some(Why::Silent(_, for_)) = &whole
                    && announced.is_none()
                {
                    grave.announced = Some(self.clock.now() + *for_);
                }
                (grave.tries, grave.not_before) = (0, grave.announced);
            }
            Ok(Some(_)) => {
                (grave.tries, grave.not_before, grave.announced) = (0, None, None);
                if grave.whole == whole {
                    grave.whole = None;
                    if let Some(Why::Asked(_, Some(born))) = whole {
                        self.records.ended(app, born);
                    }
                }
                // With the app they went too.
                grave
                    .shuffles
                    .retain(|part, _| !shuffles.contains_key(part));
                if grave.whole.is_none() && grave.shuffles.is_empty() {
                    graves.remove(app);
                }
            }
            Err(error) => {
                let pause = (PAUSE * (1 << grave.tries.min(8))).min(LONGEST_PAUSE);
                grave.tries += 1;
                grave.not_before = Some(self.clock.now() + pause);
                tracing::warn!(%app, %error, "objects of what was deleted stay for now; tried again in {pause:?}");
            }
        }
        result.map(Option::unwrap_or_default)
    }

    /// Answers how many objects went; `None` while it is announced.
    async fn whole(
        &self,
        app: &AppId,
        why: &Why,
        announced: Option<Instant>,
    ) -> Result<Option<u64>, Error> {
        let mut tries = 0;
        loop {
            match self.try_whole(app, why, announced).await {
                // Somebody has written the record meanwhile: what is right by that one?
                Err(Error::Exists { .. }) if tries < TRIES => tries += 1,
                done => return done,
            }
        }
    }

    async fn try_whole(
        &self,
        app: &AppId,
        why: &Why,
        announced: Option<Instant>,
    ) -> Result<Option<u64>, Error> {
        let left = |reason: &str| {
            tracing::info!(%app, reason, "an app's objects stay");
            Ok(Some(0))
        };
        let dir = keys::app(app);
        let record = match (self.records.read(app).await, why) {
            // Only who has deleted the app knows whose record that was.
            (Err(Error::Corrupt { key, reason }), Why::Asked(_, Some(born))) => {
                let again = self.records.tombstone_again(app, *born).await?;
                Some(again.ok_or(Error::Corrupt { key, reason })?)
            }
            (read, _) => read?,
        };
        let Some(record) = record else {
            return match why {
                Why::Late => self.remove(app, &dir, Guard::NoRecord).await.map(Some),
                // invariant: foreign-is-untouched
                _ => Ok(Some(0)),
            };
        };
        let (me, by) = (self.records.me().to_string(), record.buried_by());
        let (mine, others) = (by == Some(&me), by.is_some_and(|by| by != me));
        match why {
            Why::Late | Why::TooLate(..) => return left("it has a lease record again"),
            Why::Asked(Some(token), _) if !record.opens(*token) => {
                return left("its deletion was asked for with another token");
            }
            Why::Asked(_, Some(born)) if record.born() != *born => {
                return left("another app has its name by now");
            }
            Why::Asked(Some(token), None) if self.lives(app, *token) => {
                return left("its driver came back");
            }
            Why::Asked(..) if others && record.is_deleted() => {
                return left("another server removes them");
            }
            Why::Silent(seen, _) if record != *seen && !mine => {
                return left("somebody renews its lease");
            }
            Why::Silent(..) if mine && announced.is_some_and(|until| until > self.clock.now()) => {
                return Ok(None);
            }
            Why::Asked(..) | Why::Silent(..) => {}
        }
        let expired = match why {
            // As the one before said, where this takes over.
            Why::Silent(..) => !record.is_deleted(),
            _ => false,
        };
        // invariant: delete-by-lease
        let stone = record.buried(self.records.me(), expired);
        stone.write(&self.remote.store, app).await?;
        if let Why::Silent(seen, within) = why
            && seen.buried_by().is_none()
            && announced.is_none()
        {
            tracing::info!(%app, lease = ?seen.lease(), "nobody renews the lease of an app's objects: they go in {within:?}");
            return Ok(None);
        }
        let key = keys::lease(app);
        let removing = self.remove_all(app, &dir, Guard::Mine);
        let mine = match self.beside(app, May::Touch, removing).await? {
            Some(removed) if self.is_mine(app).await? => {
                // At once, or after another look: by then another may have made the record of the next one.
                let last = self.remote.store.delete(&key);
                let last = self.beside(app, May::Touch, last).await?;
                last.map(|()| removed)
            }
            _ => None,
        };
        let Some(removed) = mine else {
            return match why {
                // Whoever has written it may not have seen that it was deleted.
                Why::Asked(..) => Err(Error::Exists { key }),
                _ => left("its lease is renewed, or another server removes them"),
            };
        };
        self.metrics.removed.inc();
        self.remote.forget(app, None);
        Ok(Some(removed + 1))
    }

    async fn shuffles(&self, app: &AppId, parts: &BTreeMap<Part, Why>) -> Result<u64, Error> {
        let record = self.records.read(app).await?;
        let may = |why: &Why| match (why, &record) {
            (Why::TooLate(..), None) => true,
            (Why::Asked(token, born), Some(record)) => {
                token.is_none_or(|token| record.opens(token))
                    && born.is_none_or(|born| born == record.born())
            }
            (Why::TooLate(token, _), Some(record)) => record.opens(*token),
            (Why::Late | Why::Silent(..), Some(_)) => false,
            // invariant: foreign-is-untouched
            (_, None) => false,
        };
        let mut going: Vec<_> = parts
            .iter()
            .filter(|(_, why)| may(why))
            .map(|(part, _)| *part)
            .collect();
        if going.len() > FEW {
            let listing = self.remote.store.list(&keys::app(app)).await?;
            going.retain(|(shuffle, _)| listing.dirs.contains(&shuffle.to_string()));
        }
        let born = record.as_ref().map(Lease::born);
        let mut removed = 0;
        for (shuffle, volume) in going {
            // By this name another app may have come, and others write for it what is theirs.
            let dir = match volume {
                Some(volume) => keys::place(&Place {
                    app: app.clone(),
                    shuffle,
                    volume,
                }),
                None => keys::shuffle(app, shuffle),
            };
            let removing = self.remove_all(app, &dir, Guard::None);
            let Some(gone) = self.beside(app, May::Same(born), removing).await? else {
                return Err(Error::Exists {
                    key: keys::lease(app),
                });
            };
            removed += gone;
            self.remote.forget(app, Some(shuffle));
        }
        Ok(removed)
    }

    /// Runs while every now and then is looked whether it still may; `None` if not.
    async fn beside<T>(
        &self,
        app: &AppId,
        may: May,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<Option<T>, Error> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                // First: a process that stood still looks before it goes on.
                biased;
                () = tokio::time::sleep(TOUCH) => {
                    let may = match may {
                        May::Touch => self.touch(app).await?,
                        May::Same(born) => {
                            self.records.read(app).await?.as_ref().map(Lease::born) == born
                        }
                    };
                    if !may {
                        return Ok(None);
                    }
                }
                done = &mut work => return done.map(Some),
            }
        }
    }

    /// Writes the tombstone anew; false if it is somebody else's by now.
    async fn touch(&self, app: &AppId) -> Result<bool, Error> {
        let (record, me) = (self.records.read(app).await?, self.records.me());
        let Some(record) = record.filter(|it| it.buried_by() == Some(&me.to_string())) else {
            return Ok(false);
        };
        let again = record.buried(me, !record.is_deleted());
        match again.write(&self.remote.store, app).await {
            // Looked at again with the next batch, and here.
            Ok(()) | Err(Error::Exists { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    async fn is_mine(&self, app: &AppId) -> Result<bool, Error> {
        let (record, me) = (self.records.read(app).await?, self.records.me().to_string());
        Ok(record.is_some_and(|record| record.buried_by() == Some(&me)))
    }

    fn lives(&self, app: &AppId, token: [u8; 32]) -> bool {
        let standing = self.apps.standing(app);
        matches!(standing, Standing::Live { token: now, .. } if now == token)
    }

    /// The same as [`remove`](Self::remove), and ends uploads that were begun there.
    async fn remove_all(&self, app: &AppId, dir: &str, guard: Guard) -> Result<u64, Error> {
        let removed = self.remove(app, dir, guard).await?;
        let ours = |key: &str| keys::parse(key).is_some();
        self.remote.store.remove_unfinished(dir, ours).await;
        Ok(removed)
    }

    /// Removes what is ours below a directory of an app, and leaves its lease record; answers how many objects went.
    async fn remove(&self, app: &AppId, dir: &str, guard: Guard) -> Result<u64, Error> {
        let store = &self.remote.store;
        let (mut removed, mut most) = (0, LISTED);
        loop {
            let found = store.list_below(dir, most).await?;
            let all = found.len() < most;
            let (ours, others): (Vec<_>, Vec<_>) =
                found.into_iter().partition(|key| is_data_of(app, key));
            let foreign = others.iter().filter(|key| **key != keys::lease(app));
            foreign.for_each(|key| self.foreign(key, "no key of Forebay's"));
            for batch in ours.chunks(BATCH) {
                let may = match guard {
                    Guard::None => true,
                    Guard::Mine => self.is_mine(app).await?,
                    Guard::NoRecord => self.records.read(app).await?.is_none(),
                };
                if !may {
                    return Ok(removed);
                }
                store.delete_all(dir, batch.to_vec()).await?;
                removed += batch.len() as u64;
                self.metrics.removed.inc_by(batch.len() as u64);
            }
            if all {
                break;
            }
            // What stays must not hide the rest.
            most = LISTED + others.len() + usize::from(ours.is_empty()) * most;
        }
        if removed > 0 {
            let requests = store.cost(dir);
            tracing::info!(%dir, objects = removed, requests = %requests, "objects removed");
        }
        Ok(removed)
    }

    /// Something that is not ours lies below our directory: it stays, is counted, and told once.
    pub(super) fn foreign(&self, key: &str, what: &str) {
        let mut told = self.told.lock();
        if told.len() < TOLD && told.insert(key.to_owned()) {
            self.metrics.foreign.inc();
            let key = self.remote.store.path(key);
            tracing::warn!(%key, what, "what lies below Forebay's directory in the object store and is not Forebay's stays");
        }
    }
}

/// What has to hold before each batch.
#[derive(Clone, Copy)]
enum Guard {
    None,
    Mine,
    NoRecord,
}

/// What has to hold from one moment to the next.
#[derive(Clone, Copy)]
enum May {
    /// The tombstone is this server's, and is written anew.
    Touch,
    /// The record is of the app that was born then, or there is none.
    Same(Option<Uuid>),
}

/// A burial that runs, however it ends.
struct Running<'a>(&'a Burials, &'a AppId);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some(grave) = self.0.graves.lock().get_mut(self.1) {
            grave.running = false;
        }
    }
}

/// Whether a key is that of an object or a manifest of this app.
fn is_data_of(app: &AppId, key: &str) -> bool {
    match keys::parse(key) {
        Some(Ours::Manifest(place, _) | Ours::Object(place, ..)) => place.app == *app,
        Some(Ours::Lease(_)) | None => false,
    }
}
