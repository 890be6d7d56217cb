//! Apps: who may, and until when.
//!
//! Owns the table of apps in memory: the hash of each app's token, its lease and its deadline. What
//! survives a crash is the [`AppRecord`] that a [`Ledger`] (the volumes) keeps of each app; after a
//! restart every app has its full lease again, because nobody could renew it meanwhile. Does not
//! own the data: it only says to the ledger when an app's are to go.
//!
//! Any call of an app renews its lease, at the price of one atomic store. Data are deleted because
//! an app asked for it or because its lease ran out, and for no other reason (invariant:
//! delete-by-lease). An app that is gone stays known for a while, so that a late task of it is
//! refused and does not bring it back; only its driver, with [`Registry::renew`], can do that.
//!
//! The table is bounded. An app that has committed nothing loses nothing when it is forgotten, so
//! such a one makes room for the next: whoever registers thousands keeps nobody out. With an object
//! store the [`Pool`] has the last word on whose an app is.

mod app;
mod policy;
mod pool;
mod standing;
mod sweep;

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use shuffle_proto::{ids::AppId, kind::Kind};

pub use app::{App, End, StreamPermit};
pub use policy::Policy;
pub use pool::{Claim, Pool};
pub use standing::{Apps, Standing};

use crate::{clock::Clock, metrics::Metrics, staging::AppRecord};
use app::Bond;
use pool::Entrance;

/// Calls that may ask the pool at the same time, of different apps.
const SLOTS: usize = 64;
/// So many apps without a commit do not make room for others: they may be drivers that have just
/// come.
const FEW: usize = 3;

/// Where apps are written down, and where their data are. Calls may block.
pub trait Ledger: Send + Sync + 'static {
    /// Writes the app down, on as many volumes as take it; an error if none did.
    fn put(&self, record: &AppRecord) -> Result<(), String>;
    /// Deletes all data of the app and forgets it; answers the bytes that were freed. Deleting what
    /// is not there is no error.
    fn delete(&self, app: &AppId) -> Result<u64, String>;
}

/// Bounds of the table.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Apps that may hold data.
    pub apps: usize,
    /// Pushes and fetches of one app.
    pub streams: usize,
    /// Lease of an app that does not ask for one.
    pub lease: Duration,
    /// Longest lease.
    pub max_lease: Duration,
}

/// SHA-256 of an app's token: the token itself is nowhere kept.
#[derive(Clone, Copy)]
pub struct TokenHash(pub [u8; 32]);

impl TokenHash {
    /// Of this token.
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    /// Compares in a time that does not depend on where they differ.
    fn opens(self, other: [u8; 32]) -> bool {
        let difference = self
            .0
            .iter()
            .zip(other)
            .fold(0, |all, (a, b)| all | (a ^ b));
        std::hint::black_box(difference) == 0
    }
}

/// Who calls, checked as far as it can be without the table.
#[derive(Clone)]
pub struct Caller {
    /// The app.
    pub app: AppId,
    /// Of the token that came with the call.
    pub token: TokenHash,
    /// The lease it asks for; `None` leaves that to the server, or as it is.
    pub lease: Option<Duration>,
    /// When it wants what it commits to be written back; `None` leaves that to the server, or as it
    /// is.
    pub write_back: Option<Policy>,
    /// From where, if that is known.
    pub peer: Option<IpAddr>,
    /// A task's, which does not bring back what its driver has deleted.
    pub task: bool,
}

/// What a driver is told when it has called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewed {
    /// Granted from now on.
    pub lease: Duration,
    /// The app was not known before this call, or was gone: whatever it had here is gone.
    pub anew: bool,
}

/// Why a call is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Another token is bound.
    #[error("caller.token does not open app {0}: send the token with which the app was registered")]
    Denied(AppId),
    /// The pool has another token.
    #[error(
        "caller.token was bound to app {0} while the object store could not be asked, and it has another token of it: another \
         application was registered by this id first; start this one again under another id"
    )]
    Taken(AppId),
    /// What an app of this name had before it is still there.
    #[error(
        "caller.app is {0}: an application of this id and token was deleted, and what it had in the object store is still being \
         removed; until that is done nothing of this one is there: compute it again"
    )]
    Before(AppId),
    /// The pool cannot be asked.
    #[error("app {0}: whose it is cannot be asked of the object store: {1}")]
    Pool(AppId, String),
    /// Nothing is known of the app.
    #[error(
        "caller.app is {0}: this server has nothing of it; ask the servers that took its output"
    )]
    Unknown(AppId),
    /// It is gone: nothing may be added to it.
    #[error(
        "caller.app is {0}: its {1}, and its data were deleted; register it again with RenewLease to go on"
    )]
    Gone(AppId, End),
    /// It is gone: there is nothing to be asked for.
    #[error("caller.app is {0}: its {1}, and its data were deleted; compute them again")]
    Deleted(AppId, End),
    /// The table is full.
    #[error(
        "caller.app is {0}: {1} apps hold data here already; come back later or raise max-apps"
    )]
    TooManyApps(AppId, usize),
    /// The app's streams are used up.
    #[error(
        "app {0} runs {1} pushes and fetches here already: come back later or raise max-streams-per-app"
    )]
    TooManyStreams(AppId, usize),
    /// No volume wrote it down, or not all deleted it.
    #[error("app {0}: {1}")]
    Ledger(AppId, String),
}

impl Error {
    /// What the caller should do.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Denied(_) | Self::Taken(_) => Kind::Denied,
            Self::Unknown(_) | Self::Deleted(..) | Self::Before(_) => Kind::Lost,
            Self::Gone(..) => Kind::Fenced,
            Self::TooManyApps(..) | Self::TooManyStreams(..) => Kind::Busy,
            Self::Ledger(..) | Self::Pool(..) => Kind::Unavailable,
        }
    }
}

/// See the module.
pub struct Registry {
    ledger: Arc<dyn Ledger>,
    clock: Arc<dyn Clock>,
    start: Instant,
    limits: Limits,
    metrics: Arc<Metrics>,
    apps: Mutex<HashMap<AppId, Arc<App>>>,
    pool: Option<Arc<dyn Pool>>,
    /// One call at a time of an app asks the pool; since when that did not answer.
    slots: [tokio::sync::Mutex<Option<Instant>>; SLOTS],
    hasher: RandomState,
    /// Out of the table to make room; what the volumes know of them is to go.
    evicted: Mutex<Vec<Arc<App>>>,
    /// For refusals of apps that are not in the table.
    strangers: app::LogLimit,
}

impl Registry {
    /// `recovered`: what the volumes have written down, the same app once or more often, by one
    /// token.
    pub fn new(
        ledger: Arc<dyn Ledger>,
        clock: Arc<dyn Clock>,
        limits: Limits,
        metrics: Arc<Metrics>,
        pool: Option<Arc<dyn Pool>>,
        recovered: impl IntoIterator<Item = AppRecord>,
    ) -> Self {
        let start = clock.now();
        let registry = Self {
            ledger,
            clock,
            start,
            limits,
            metrics,
            apps: Mutex::default(),
            slots: std::array::from_fn(|_| tokio::sync::Mutex::new(None)),
            hasher: RandomState::new(),
            evicted: Mutex::default(),
            pool,
            strangers: app::LogLimit::default(),
        };
        let now = registry.now();
        let mut apps = registry.apps.lock();
        // Others may have come and gone meanwhile.
        let bond = match registry.pool {
            Some(_) => Bond::Provisional,
            None => Bond::Bound,
        };
        for record in recovered {
            let lease = registry.granted(Some(record.lease));
            let app = apps
                .entry(record.app.clone())
                .or_insert_with(|| Arc::new(App::new(record.app, record.token_hash, lease, now)));
            app.set_bond(bond);
            let pool = registry.pool.as_ref();
            if pool.is_some_and(|pool| pool.was_deleted(&app.id, app.token)) {
                app.end(End::Deleted, now);
            }
        }
        drop(apps);
        registry
    }

    /// The driver's call: makes the app known, or renews its lease. An app that is gone and left
    /// nothing starts anew, also under another token.
    pub async fn renew(&self, caller: &Caller) -> Result<Renewed, Error> {
        self.forget_if_useless(&caller.app);
        let mut anew = false;
        loop {
            let entrance = match caller.task {
                true => Entrance::Task,
                false => Entrance::Driver,
            };
            let entered = self.enter(caller, entrance).await?;
            let Some((app, bound)) = entered else {
                return Err(Error::Unknown(caller.app.clone()));
            };
            anew |= bound;
            if let Some(asked) = caller.lease {
                app.ask(self.granted(Some(asked)));
            }
            if !app.touch(self.now()) {
                // One at a time with the deletion of what the app had before.
                let _alone = app.lifecycle.lock().await;
                if app.forgotten.load(Ordering::Acquire) {
                    continue; // it has just left the table: a new entry takes its place
                }
                self.delete_leftovers(&app).await?;
                self.rebind(&app, !caller.task).await?;
                app.revive(self.now());
                anew = true;
            }
            self.write_down(&app).await?;
            return Ok(Renewed {
                lease: app.lease(),
                anew,
            });
        }
    }

    /// Whether a renewal by this caller would change the lease of an app that is known here, which
    /// volumes then write down.
    pub fn changes_lease(&self, caller: &Caller) -> bool {
        let found = self.apps.lock().get(&caller.app).cloned();
        // What a wrong token, or an app that is gone, means is for the renewal itself to say.
        let app = found.filter(|app| caller.token.opens(app.token) && !app.is_gone());
        let asked = caller.lease.map(|lease| self.granted(Some(lease)));
        app.is_some_and(|app| asked.is_some_and(|asked| asked != app.lease()))
    }

    /// A call that brings something: makes the app known if need be. An app that is gone stays
    /// gone.
    pub async fn write(&self, caller: &Caller) -> Result<Arc<App>, Error> {
        loop {
            let entered = self.enter(caller, Entrance::Task).await?;
            let (app, _) = entered.ok_or_else(|| Error::Unknown(caller.app.clone()))?;
            if app.forgotten.load(Ordering::Acquire) {
                continue;
            }
            self.alive(&app)?;
            self.write_down(&app).await?;
            return Ok(app);
        }
    }

    /// A call that only asks: the app must be known, here or in the pool.
    pub async fn read(&self, caller: &Caller) -> Result<Arc<App>, Error> {
        let entered = self.enter(caller, Entrance::Reader).await?;
        let (app, bound) = entered.ok_or_else(|| Error::Unknown(caller.app.clone()))?;
        if !app.touch(self.now()) {
            return Err(Error::Deleted(app.id.clone(), app.why_gone()));
        }
        if bound {
            self.write_down(&app).await?;
        }
        Ok(app)
    }

    /// Deletes an app; answers the bytes that were freed, or `None` if it is not known here. When a
    /// volume fails at it, the janitor tries again.
    pub async fn delete(&self, caller: &Caller) -> Result<Option<u64>, Error> {
        let Some(app) = self.find(caller)? else {
            return Ok(None);
        };
        self.end(&app, Some(app.token));
        let _alone = app.lifecycle.lock().await;
        self.delete_leftovers(&app).await.map(Some)
    }

    /// Deletes an app because a person names it, whatever its token; answers the bytes that were
    /// freed.
    pub async fn free(&self, app: &AppId) -> Result<u64, Error> {
        let found = self.apps.lock().get(app).cloned();
        let Some(app) = found else {
            return Ok(0);
        };
        self.end(&app, None);
        let _alone = app.lifecycle.lock().await;
        self.delete_leftovers(&app).await
    }

    /// Ends one that is deleted, here and for the pool at once: who asked for it may not wait for
    /// the rest.
    fn end(&self, app: &App, token: Option<[u8; 32]>) {
        if let Some(pool) = &self.pool {
            pool.ends(&app.id, token);
        }
        app.end(End::Deleted, self.now());
    }

    /// Renews the lease of an app that is in the middle of a call; refuses if it is gone.
    pub fn alive(&self, app: &App) -> Result<(), Error> {
        if app.touch(self.now()) {
            Ok(())
        } else {
            Err(Error::Gone(app.id.clone(), app.why_gone()))
        }
    }

    /// A share of the app's streams.
    pub fn stream(&self, app: &Arc<App>) -> Result<StreamPermit, Error> {
        StreamPermit::try_take(app, self.limits.streams)
            .ok_or_else(|| Error::TooManyStreams(app.id.clone(), self.limits.streams))
    }

    /// Whether this refusal of an app may be logged: a caller that repeats itself must not fill the
    /// log.
    pub fn may_log(&self, app: Option<&AppId>) -> bool {
        match app.and_then(|app| self.apps.lock().get(app).cloned()) {
            Some(app) => app.refusals.allow(self.now()),
            None => self.strangers.allow(self.now()),
        }
    }

    /// Apps that may hold data.
    pub fn live(&self) -> usize {
        self.apps
            .lock()
            .values()
            .filter(|app| !app.is_gone())
            .count()
    }

    fn forget_if_useless(&self, app: &AppId) {
        let mut apps = self.apps.lock();
        if apps.get(app).is_some_and(|app| app.try_forget()) {
            apps.remove(app);
        }
    }

    /// The app whose deletion is asked for; `None` if it is not known here, or not by this token.
    fn find(&self, caller: &Caller) -> Result<Option<Arc<App>>, Error> {
        let found = self.apps.lock().get(&caller.app).cloned();
        match found {
            Some(app) if !caller.token.opens(app.token) => match app.bond() {
                Bond::Bound => Err(Error::Denied(caller.app.clone())),
                // The pool knows better.
                Bond::Provisional | Bond::Refused => Ok(None),
            },
            found => {
                found.iter().for_each(|app| app.wants(caller.write_back));
                Ok(found)
            }
        }
    }

    /// Puts an app into the table; one that is there by now is answered instead. And whether it was
    /// not there before.
    fn insert(&self, caller: &Caller, bond: Bond) -> Result<(Arc<App>, bool), Error> {
        let (id, now) = (&caller.app, self.now());
        let mut apps = self.apps.lock();
        if let Some(app) = apps.get(id) {
            return match caller.token.opens(app.token) {
                true => Ok((app.clone(), false)),
                false => Err(Error::Denied(id.clone())),
            };
        }
        if apps.len() >= self.limits.apps {
            // Those that are gone and clean only wait to be forgotten.
            apps.retain(|_, app| !app.try_forget());
        }
        if apps.len() >= self.limits.apps {
            let Some(victim) = self.least_needed(&apps) else {
                return Err(Error::TooManyApps(id.clone(), self.limits.apps));
            };
            // The janitor deletes what the volumes have of it; nobody waits for that.
            victim.end(End::Expired, now);
            victim.forgotten.store(true, Ordering::Release);
            apps.remove(&victim.id);
            self.evicted.lock().push(victim);
        }
        let (token, lease) = (caller.token.0, self.granted(caller.lease));
        let app = Arc::new(App::new(id.clone(), token, lease, now).fresh(caller.peer, now));
        app.set_bond(bond);
        // The pool was asked just now.
        app.asked_at.store(now.max(1), Ordering::Release);
        app.wants(caller.write_back);
        apps.insert(id.clone(), app.clone());
        tracing::info!(app = %app.id, lease = ?app.lease(), ?bond, "app registered");
        Ok((app, true))
    }

    /// Of the apps that have committed nothing, one that makes room: of the peer that has most of
    /// them, the one that called first.
    fn least_needed(&self, apps: &HashMap<AppId, Arc<App>>) -> Option<Arc<App>> {
        let fresh = || apps.values().filter(|app| app.is_fresh() && !app.is_gone());
        let mut by_peer: HashMap<Option<IpAddr>, usize> = HashMap::new();
        fresh().for_each(|app| *by_peer.entry(app.peer).or_default() += 1);
        if by_peer.values().sum::<usize>() <= FEW {
            return None;
        }
        let (peer, _) = by_peer.into_iter().max_by_key(|(_, count)| *count)?;
        let of_peer = fresh().filter(|app| app.peer == peer);
        of_peer.min_by_key(|app| app.last_call()).cloned()
    }

    fn slot(&self, app: &AppId) -> &tokio::sync::Mutex<Option<Instant>> {
        &self.slots[self.hasher.hash_one(app) as usize % SLOTS]
    }

    /// An app that was gone comes back: by now another may have its name.
    async fn rebind(&self, app: &App, revive: bool) -> Result<(), Error> {
        let Some(pool) = &self.pool else {
            return Ok(());
        };
        match pool::patient(pool.bind(&app.id, app.token, app.lease())).await {
            Ok(Claim::Another) => Err(Error::Denied(app.id.clone())),
            Ok(Claim::Deleted) if !revive => Err(Error::Gone(app.id.clone(), End::Deleted)),
            Ok(Claim::Yours) => {
                app.set_bond(Bond::Bound);
                Ok(())
            }
            _ => {
                app.set_bond(Bond::Provisional);
                Ok(())
            }
        }
    }

    /// Sees to it that the volumes know the app before anything of it is stored.
    async fn write_down(&self, app: &Arc<App>) -> Result<(), Error> {
        if app.written.load(Ordering::Acquire) {
            return Ok(());
        }
        let _alone = app.lifecycle.lock().await;
        if app.written.load(Ordering::Acquire) {
            return Ok(());
        }
        if app.is_gone() {
            return Err(Error::Gone(app.id.clone(), app.why_gone()));
        }
        let lease = app.lease();
        let record = AppRecord {
            app: app.id.clone(),
            token_hash: app.token,
            lease,
            // The volumes know it.
            life: None,
        };
        let ledger = self.ledger.clone();
        blocking(move || ledger.put(&record))
            .await
            .map_err(|error| Error::Ledger(app.id.clone(), error))?;
        app.written_down(lease);
        Ok(())
    }

    /// Deletes what an app that is gone has left, if that is not done yet. The caller holds
    /// `lifecycle`.
    async fn delete_leftovers(&self, app: &Arc<App>) -> Result<u64, Error> {
        if !app.is_gone() || !app.dirty.load(Ordering::Acquire) {
            return Ok(0);
        }
        let (ledger, id) = (self.ledger.clone(), app.id.clone());
        let pool = match app.why_gone() {
            End::Deleted => self.pool.clone(),
            End::Expired => None,
        };
        // invariant: delete-by-lease. `App::end` was called: by the app's own wish, or by the sweep
        // after its deadline.
        let delete = move || {
            pool.iter().for_each(|pool| pool.deleting(&id, false));
            let bytes = ledger.delete(&id)?;
            pool.iter().for_each(|pool| pool.deleting(&id, true));
            Ok(bytes)
        };
        let bytes = blocking(delete)
            .await
            .map_err(|error| Error::Ledger(app.id.clone(), error))?;
        app.cleaned(self.now());
        tracing::info!(app = %app.id, bytes, why = %app.why_gone(), "app deleted");
        Ok(bytes)
    }

    fn granted(&self, asked: Option<Duration>) -> Duration {
        asked
            .unwrap_or(self.limits.lease)
            .clamp(Duration::from_millis(100), self.limits.max_lease)
    }
}

impl Apps for Registry {
    fn standing(&self, app: &AppId) -> Standing {
        match self.apps.lock().get(app) {
            None => Standing::Unknown,
            // What it has here is served here, and is nobody's in the store.
            Some(app) if app.bond() == Bond::Refused => Standing::Unknown,
            Some(app) if !app.is_gone() => app.standing(),
            Some(app) if app.why_gone() == End::Deleted => Standing::Deleted,
            // It may well call other servers.
            Some(_) => Standing::Unknown,
        }
    }

    fn live(&self) -> Vec<(AppId, Standing)> {
        let apps = self.apps.lock();
        let live = apps.values().filter(|app| !app.is_gone());
        live.map(|app| (app.id.clone(), app.standing())).collect()
    }

    fn told(&self, app: &AppId, token: [u8; 32], opens: bool) {
        Registry::told(self, app, token, opens);
    }

    fn told_deleted(&self, app: &AppId, token: [u8; 32]) {
        Registry::told_deleted(self, app, token);
    }
}

async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(call)
        .await
        .unwrap_or_else(|panic| Err(format!("the storage panicked: {panic}")))
}

#[cfg(test)]
mod tests;
