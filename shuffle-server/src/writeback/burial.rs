//! Removal of objects from the store: of apps that are gone, and of deleted shuffles of live apps.
//!
//! Nothing is removed before the app's lease record was read: the record's token must be the token
//! of the deletion, or nobody renews the record. Only keys that parse as Forebay's are removed
//! (invariant: delete-by-lease, foreign-is-untouched); foreign keys stay, are counted, and are
//! logged once. An app's record becomes a tombstone first and is removed last, so an interrupted
//! burial resumes here or on another server, and a server can check before each batch whether the
//! app is still dead and the burial still its own.
//!
//! Here: the list of burials and their order; `removal.rs`: the removal. An app has one burial at a
//! time. Burials of different apps run side by side, and nothing waits for them.

mod removal;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use shuffle_proto::ids::{AppId, ShuffleId, VolumeId};
use shuffle_remote::{Error, Remote, lease::Lease};
use tokio::{sync::Notify, task::JoinSet};
use uuid::Uuid;

use super::records::Records;
use crate::{clock::Clock, metrics::RemoteMetrics, registry::Apps};

/// Burials at the same time.
const TOGETHER: usize = 8;
/// Age of an unchanged tombstone from which other servers take the burial over.
pub(super) const TAKEN_OVER: Duration = Duration::from_secs(8);
/// Pause after a failed burial; doubled after every further failure, up to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Longest pause while a caller waits for the burial.
const HURRY: Duration = Duration::from_secs(1);
/// Poll interval of the list.
const TICK: Duration = Duration::from_millis(200);
/// Delay of a deleted shuffle's burial, so that shuffles of one app are buried together.
const TOGETHER_WITHIN: Duration = Duration::from_millis(200);

/// Why something goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// The owner of this token asked for the deletion; without a token, a person or an earlier
    /// process did. The UUID names the life of the app, where known.
    Asked(Option<[u8; 32]>, Option<Uuid>),
    /// Nobody has renewed this record for longer than any server waits. The burial is announced for
    /// this duration, so that the app's servers can object.
    Silent(Lease, Duration),
    /// The app has no record: objects were written after the death of their owner, which is
    /// unknown.
    Late,
    /// This volume wrote objects of a shuffle after its deletion, for the app of this token.
    TooLate([u8; 32], VolumeId),
}

/// A shuffle, or the objects of one volume in the shuffle.
type Part = (ShuffleId, Option<VolumeId>);

/// The burials of one app.
#[derive(Default)]
struct Grave {
    whole: Option<Why>,
    shuffles: BTreeMap<Part, Why>,
    tries: u32,
    not_before: Option<Instant>,
    /// End of the announcement in the tombstone: a server that renews the record has until then to
    /// do so.
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

    /// Adds an app, or a shuffle of the app, to the list.
    pub(super) fn add(&self, app: &AppId, shuffle: Option<ShuffleId>, why: Why) {
        let mut graves = self.graves.lock();
        let grave = graves.entry(app.clone()).or_default();
        match shuffle {
            None => {
                // A token's word needs no announcement. A deletion may also mean the next life of
                // the name while the earlier life is still being buried here, or was buried
                // elsewhere.
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

    /// Shortens the pause of an app's burial, because a caller waits.
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

    /// Runs burials until the future is dropped.
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

    /// Runs each burial on the list once; failed burials stay on the list.
    pub(super) async fn bury_all(&self) {
        let apps: Vec<_> = self.graves.lock().keys().cloned().collect();
        for app in apps {
            drop(self.bury(&app).await);
        }
    }

    /// The next due app, marked as running.
    fn next(&self) -> Option<AppId> {
        let now = self.clock.now();
        let mut graves = self.graves.lock();
        let due = |grave: &Grave| !grave.running && grave.not_before.is_none_or(|at| at <= now);
        let (app, grave) = graves.iter_mut().find(|(_, grave)| due(grave))?;
        grave.running = true;
        Some(app.clone())
    }

    /// Runs an app's burials now; returns the number of removed objects.
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
                // The app's burial removed the shuffles too.
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
}

/// Clears the running mark of a burial on every way out.
struct Running<'a>(&'a Burials, &'a AppId);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some(grave) = self.0.graves.lock().get_mut(self.1) {
            grave.running = false;
        }
    }
}
