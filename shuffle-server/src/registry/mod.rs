//! Apps: their rights, and the end of them.
//!
//! Owns the table of apps in memory: the hash of each app's token, its lease and its deadline. An
//! [`AppRecord`] of each app, kept by a [`Ledger`] (the volumes), survives a crash; after a restart
//! every app has its full lease again, because nobody could renew it meanwhile. Does not own the
//! data: the registry only tells the ledger when to delete them.
//!
//! Any call of an app renews its lease, at the price of one atomic store. Data are deleted because
//! an app asked for it or because its lease ran out, and for no other reason
//! (invariant: delete-by-lease). An app that is gone stays known for a while: late tasks of it are
//! refused and do not bring it back. Only its driver can, with [`Registry::renew`].
//!
//! The table is bounded. An app without a commit loses nothing when it is forgotten, so it makes
//! room for the next: registering thousands of apps keeps nobody out. With an object store the
//! [`Pool`] has the last word on the identity of an app.

mod app;
mod caller;
mod error;
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
use shuffle_proto::ids::AppId;

pub use app::{App, End, StreamPermit};
pub use caller::{Caller, Renewed, TokenHash};
pub use error::Error;
pub use policy::Policy;
pub use pool::{Claim, Pool};
pub use standing::{Apps, Standing};

use crate::{auth::audit, clock::Clock, metrics::Metrics, staging::AppRecord};
use app::Bond;
use pool::Entrance;

/// Concurrent questions to the pool, about different apps.
const SLOTS: usize = 64;
/// Up to this number, apps without a commit do not make room for others: they may be drivers that
/// have just come.
const FEW: usize = 3;

/// The volumes, as the registry sees them. Calls may block.
pub trait Ledger: Send + Sync + 'static {
    /// Writes the app down on all volumes that answer; an error if there is none.
    fn put(&self, record: &AppRecord) -> Result<(), String>;
    /// Deletes all data of the app and forgets it; returns the freed bytes. Deleting an unknown app
    /// is no error.
    fn delete(&self, app: &AppId) -> Result<u64, String>;
}

/// Bounds of the table.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most live apps.
    pub apps: usize,
    /// Most pushes and fetches of one app.
    pub streams: usize,
    /// Lease of apps without a choice.
    pub lease: Duration,
    /// Longest lease.
    pub max_lease: Duration,
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
    /// One question per app at a time; holds the time of the pool's last failure to answer.
    slots: [tokio::sync::Mutex<Option<Instant>>; SLOTS],
    hasher: RandomState,
    /// Apps out of the table to make room, whose data the volumes are to delete.
    evicted: Mutex<Vec<Arc<App>>>,
    /// Limits log lines about apps outside the table.
    strangers: app::LogLimit,
}

impl Registry {
    /// `recovered`: the volumes' records, the same app once or more often, by one token.
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

    /// A driver's call: registers the app, or renews its lease. An app that is gone and left
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
                // One at a time with the deletion of the app's earlier data.
                let _alone = app.lifecycle.lock().await;
                if app.forgotten.load(Ordering::Acquire) {
                    continue; // it has just left the table: a new entry takes its place
                }
                self.delete_leftovers(&app).await?;
                self.rebind(&app, !caller.task).await?;
                app.revive(self.now());
                audit::registered(&app.id, &caller.by, caller.peer, true);
                anew = true;
            }
            self.write_down(&app).await?;
            return Ok(Renewed {
                lease: app.lease(),
                anew,
            });
        }
    }

    /// Notes that the app's driver has proven itself here: tokens of the app are good until then,
    /// whatever their own age (seconds since 1970).
    pub fn vouch(&self, caller: &Caller, until: u64) {
        let found = self.apps.lock().get(&caller.app).cloned();
        if let Some(app) = found.filter(|app| caller.token.opens(app.token)) {
            app.vouched.fetch_max(until, Ordering::AcqRel);
        }
    }

    /// Until when the driver of this app, by a token of this hash, has proven itself here.
    pub fn vouched(&self, app: &AppId, token: TokenHash) -> u64 {
        let found = self.apps.lock().get(app).cloned();
        let alive = found.filter(|app| token.opens(app.token) && !app.is_gone());
        alive.map_or(0, |app| app.vouched.load(Ordering::Acquire))
    }

    /// Whether this call would change the lease of an app known here, which volumes then write
    /// down.
    pub fn changes_lease(&self, caller: &Caller) -> bool {
        let found = self.apps.lock().get(&caller.app).cloned();
        // Wrong tokens and ended apps are refused by the renewal itself.
        let app = found.filter(|app| caller.token.opens(app.token) && !app.is_gone());
        let asked = caller.lease.map(|lease| self.granted(Some(lease)));
        app.is_some_and(|app| asked.is_some_and(|asked| asked != app.lease()))
    }

    /// A pushing call: registers the app if need be. An app that is gone stays gone.
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

    /// A reading call: the app must be known, here or in the pool.
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

    /// Deletes an app; returns the freed bytes, or `None` if the app is unknown here. After a
    /// failure of a volume the janitor tries again.
    pub async fn delete(&self, caller: &Caller) -> Result<Option<u64>, Error> {
        let Some(app) = self.find(caller)? else {
            return Ok(None);
        };
        self.end(&app, Some(app.token));
        let _alone = app.lifecycle.lock().await;
        self.delete_leftovers(&app).await.map(Some)
    }

    /// Deletes an app by name, for a person, whatever its token; returns the freed bytes.
    pub async fn free(&self, app: &AppId) -> Result<u64, Error> {
        let found = self.apps.lock().get(app).cloned();
        let Some(app) = found else {
            return Ok(0);
        };
        self.end(&app, None);
        let _alone = app.lifecycle.lock().await;
        self.delete_leftovers(&app).await
    }

    /// Ends an app, here and for the pool at once: the caller may not wait for the rest.
    fn end(&self, app: &App, token: Option<[u8; 32]>) {
        if let Some(pool) = &self.pool {
            pool.ends(&app.id, token);
        }
        app.end(End::Deleted, self.now());
    }

    /// Renews the lease of an app in the middle of a call; refuses if the app is gone.
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

    /// Whether a refusal of the app may be logged: a repeating caller must not fill the log.
    pub fn may_log(&self, app: Option<&AppId>) -> bool {
        match app.and_then(|app| self.apps.lock().get(app).cloned()) {
            Some(app) => app.refusals.allow(self.now()),
            None => self.strangers.allow(self.now()),
        }
    }

    /// Number of live apps.
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

    /// The app to be deleted; `None` if unknown here, or by another token.
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

    /// Puts an app into the table, or finds it there; returns the app, and whether it is new.
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
            // Apps gone without data only wait to be forgotten.
            apps.retain(|_, app| !app.try_forget());
        }
        if apps.len() >= self.limits.apps {
            let Some(victim) = self.least_needed(&apps) else {
                return Err(Error::TooManyApps(id.clone(), self.limits.apps));
            };
            // The janitor deletes the volumes' data, and nobody waits for that.
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
        audit::registered(&app.id, &caller.by, caller.peer, false);
        Ok((app, true))
    }

    /// The app without a commit that makes room: the earliest caller of the peer with most such
    /// apps.
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

    /// A returning app: its name may be another's by now.
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

    /// Makes the volumes know the app before its first data.
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
            // The volumes know the life.
            life: None,
        };
        let ledger = self.ledger.clone();
        blocking(move || ledger.put(&record))
            .await
            .map_err(|error| Error::Ledger(app.id.clone(), error))?;
        app.written_down(lease);
        Ok(())
    }

    /// Deletes the data of an app that is gone, unless done already. The caller holds `lifecycle`.
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
            // Its data are served here, and nothing in the store is its own.
            Some(app) if app.bond() == Bond::Refused => Standing::Unknown,
            Some(app) if !app.is_gone() => app.standing(),
            Some(app) if app.why_gone() == End::Deleted => Standing::Deleted,
            // The app may call other servers.
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
