//! Removal of what the dead have left in the store: of apps, and of shuffles of apps that live.
//!
//! Nothing is removed before the app's lease record was seen, by whose token the deletion was asked
//! for, or which nobody has renewed; and then only keys that parse as ours (invariant:
//! delete-by-lease, foreign-is-untouched). What else lies there stays, is counted and told once. An
//! app's record becomes a tombstone first and goes last, so that a burial that is interrupted goes
//! on, here or elsewhere, and so that whoever removes can see, before each batch, that it is still
//! dead and nobody else's to remove.
//!
//! Here: the list of what is to go, and whose turn it is; `removal.rs`: the removal itself. One
//! burial at a time per app. Burials of different apps run beside each other, and nobody waits for
//! them.

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

/// Why something goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Whoever has this token said so, or a person, or it was known before (`None`), of the app
    /// that was born then, if that is known.
    Asked(Option<[u8; 32]>, Option<Uuid>),
    /// Nobody has renewed this record for longer than anybody waits; for so long that is announced,
    /// for the app's servers to deny.
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
                // Whose word counts need not wait for a denial; and the next one of this name may
                // be meant, while the one before is still to go or was buried elsewhere.
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
