//! Whose an app is, for the whole pool: what the object store's record of it says, and what follows from that here.
//!
//! With a store, a token is the pool's word and not a server's: a server that does not know an app asks the record before it binds,
//! reads or deletes, and makes it where there is none. While the store does not answer, staging goes on: the app is bound here alone,
//! *provisionally*, and nothing of it is read from the store, written back or removed there before the record was seen. Once it is,
//! the record decides: an app whose token it does not open is refused here too, and gives way to the one whose token it opens. A
//! driver that comes back by a name whose app was deleted is bound so too, until what that one had is gone.
//!
//! invariant: token-is-the-pools.
//!
//! Tokens that the pool signs will make the question unnecessary: their check belongs before [`Registry::enter`].

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::future::BoxFuture;
use shuffle_proto::ids::AppId;

use super::{App, Caller, End, Error, Registry, TokenHash, app::Bond};

/// How long a call waits for the store before its app is bound provisionally.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long a store that did not answer is not asked again, for those who come meanwhile.
const RESPITE: Duration = Duration::from_secs(2);

/// How long its word that an app is who it is is taken for good before what is read from the store.
const FRESH: Duration = Duration::from_secs(2);

/// What the pool says of an app and a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It knows no such app.
    Nobody,
    /// The token is the app's.
    Yours,
    /// It is, and the app was deleted: what it has in the store is being removed.
    Deleted,
    /// Another token is the app's.
    Another,
}

/// Who knows the apps of the pool; calls take as long as the object store.
pub trait Pool: Send + Sync + 'static {
    /// Looks, and binds nothing.
    fn ask<'a>(&'a self, app: &'a AppId, token: [u8; 32]) -> BoxFuture<'a, Result<Claim, String>>;
    /// Binds the token if nobody has, and if no app of this name is being removed.
    fn bind<'a>(
        &'a self,
        app: &'a AppId,
        token: [u8; 32],
        lease: Duration,
    ) -> BoxFuture<'a, Result<Claim, String>>;
    /// The app was deleted here, by who has this token or by a person: whoever comes by its name is another from now on.
    fn ends(&self, app: &AppId, token: Option<[u8; 32]>);
    /// Called before volumes delete what one that was deleted has, and when they have, so that a crash in between forgets nothing.
    /// Blocks.
    fn deleting(&self, app: &AppId, gone: bool);
    /// Whether an earlier process was deleting it, and volumes may still have something of it.
    fn was_deleted(&self, app: &AppId, token: [u8; 32]) -> bool;
    /// Whether what volumes have of the app is of the one whose record was seen last.
    fn is_the_same(&self, app: &AppId) -> bool;
}

/// What a call may do with an app that is not known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entrance {
    /// The driver's: makes it known, or brings it back.
    Driver,
    /// A task's: makes it known.
    Task,
    /// One that only asks.
    Reader,
}

/// What the table says of a caller.
enum Seen {
    Known(Arc<App>),
    /// It has another token, of which the pool has said nothing, or that it is not the app's.
    Doubtful(Arc<App>),
    /// An earlier process knew it, and it may have been deleted elsewhere while none was there.
    Recovered(Arc<App>),
    Unknown,
}

impl Registry {
    /// The app of a call, and whether it was bound by it; `None` if there is none to be asked.
    pub(super) async fn enter(
        &self,
        caller: &Caller,
        entrance: Entrance,
    ) -> Result<Option<(Arc<App>, bool)>, Error> {
        if let Seen::Known(app) = self.seen(caller)? {
            return Ok(Some((app, false)));
        }
        // Tasks of one app come together: one of them asks. And what was there by this name is removed first.
        let mut failed = self.slot(&caller.app).lock().await;
        let Some(pool) = self.pool.clone() else {
            return match (self.seen(caller)?, entrance) {
                (Seen::Known(app) | Seen::Recovered(app), _) => Ok(Some((app, false))),
                (_, Entrance::Reader) => Ok(None),
                _ => self.insert(caller, Bond::Bound).map(Some),
            };
        };
        let lately = failed.filter(|at| self.clock.now().saturating_duration_since(*at) < RESPITE);
        loop {
            match self.seen(caller)? {
                Seen::Known(app) => return Ok(Some((app, false))),
                Seen::Unknown => break,
                Seen::Recovered(app) => {
                    let claim = match lately {
                        None => patient(pool.ask(&caller.app, caller.token.0)).await,
                        Some(_) => Err(String::new()),
                    };
                    if claim != Ok(Claim::Deleted) || !pool.is_the_same(&caller.app) {
                        if claim.is_err() {
                            *failed = lately.or_else(|| Some(self.clock.now()));
                        }
                        app.wants(caller.write_back);
                        return Ok(Some((app, false)));
                    }
                    tracing::info!(app = %app.id, "the app was deleted while this server was not there: what it has here goes");
                    self.oust(&app).await?;
                }
                Seen::Doubtful(app) => {
                    if patient(pool.ask(&caller.app, caller.token.0)).await != Ok(Claim::Yours) {
                        return Err(Error::Denied(caller.app.clone()));
                    }
                    tracing::warn!(app = %app.id, "the object store's record opens for another token than the one that was bound here alone: that one and its data go");
                    self.oust(&app).await?;
                }
            }
        }
        let claim = match entrance {
            _ if lately.is_some() => Err("it did not answer a moment ago".into()),
            Entrance::Reader => patient(pool.ask(&caller.app, caller.token.0)).await,
            _ => {
                let lease = self.granted(caller.lease);
                patient(pool.bind(&caller.app, caller.token.0, lease)).await
            }
        };
        *failed = claim
            .is_err()
            .then(|| lately.unwrap_or_else(|| self.clock.now()));
        match (claim, entrance) {
            (Ok(Claim::Another), _) => Err(Error::Denied(caller.app.clone())),
            (Ok(Claim::Yours), _) => self.insert(caller, Bond::Bound).map(Some),
            (Ok(Claim::Deleted | Claim::Nobody), Entrance::Reader) => Ok(None),
            (Ok(Claim::Deleted), Entrance::Task) => {
                Err(Error::Gone(caller.app.clone(), End::Deleted))
            }
            (Err(why), Entrance::Reader) => Err(Error::Pool(caller.app.clone(), why)),
            (Ok(Claim::Deleted), Entrance::Driver) => {
                tracing::info!(app = %caller.app, "what an app of this name had is being removed from the object store: this one begins here alone");
                self.insert(caller, Bond::Provisional).map(Some)
            }
            (claim, _) => {
                tracing::warn!(app = %caller.app, ?claim, "the object store does not say whose this app is: it is bound here alone for now");
                self.insert(caller, Bond::Provisional).map(Some)
            }
        }
    }

    /// Sees to it that the pool has the token that an app has here, and does not know it to be deleted, before anything of it is read from
    /// the store.
    pub async fn confirm(&self, app: &AppId) -> Result<(), Error> {
        let found = self.apps.lock().get(app).cloned();
        let Some(app) = found else {
            return Err(Error::Unknown(app.clone()));
        };
        let Some(pool) = &self.pool else {
            return Ok(());
        };
        // One of those who come together asks.
        let _slot = match self.was_asked_lately(&app) {
            true => return Ok(()),
            false => self.slot(&app.id).lock().await,
        };
        let claim = match app.bond() {
            Bond::Refused => Ok(Claim::Another),
            Bond::Bound if self.was_asked_lately(&app) => return Ok(()),
            // It may have been deleted elsewhere, and what is there by its name be another's: without an answer nothing is read, since
            // the next request may be answered.
            Bond::Bound => patient(pool.ask(&app.id, app.token)).await,
            Bond::Provisional => pool.bind(&app.id, app.token, app.lease()).await,
        };
        match claim {
            Ok(Claim::Another) => {
                self.refuse(&app);
                Err(Error::Taken(app.id.clone()))
            }
            Ok(Claim::Deleted) => {
                app.set_bond(Bond::Provisional);
                Err(Error::Before(app.id.clone()))
            }
            Ok(_) => {
                app.set_bond(Bond::Bound);
                app.asked_at.store(self.now().max(1), Ordering::Release);
                Ok(())
            }
            Err(why) => Err(Error::Pool(app.id.clone(), why)),
        }
    }

    /// Whether the pool has said a moment ago that the app is who it is.
    fn was_asked_lately(&self, app: &App) -> bool {
        let asked = app.asked_at.load(Ordering::Acquire);
        let ago = Duration::from_millis(self.now().saturating_sub(asked));
        app.bond() == Bond::Bound && asked > 0 && ago < FRESH
    }

    /// What the pool says of an app that is not known here, to one that wants it deleted; `None` without a pool.
    pub async fn ask_pool(&self, caller: &Caller) -> Result<Option<Claim>, Error> {
        let Some(pool) = &self.pool else {
            return Ok(None);
        };
        match patient(pool.ask(&caller.app, caller.token.0)).await {
            Ok(Claim::Another) => Err(Error::Denied(caller.app.clone())),
            Ok(claim) => Ok(Some(claim)),
            Err(why) => Err(Error::Pool(caller.app.clone(), why)),
        }
    }

    /// Notes what the record in the store says of a live app's token.
    pub(super) fn told(&self, app: &AppId, token: [u8; 32], opens: bool) {
        let found = self.apps.lock().get(app).cloned();
        let Some(app) = found.filter(|app| TokenHash(token).opens(app.token)) else {
            return;
        };
        match opens {
            true => {
                app.set_bond(Bond::Bound);
                app.asked_at.store(self.now().max(1), Ordering::Release);
            }
            false => self.refuse(&app),
        }
    }

    /// The record in the store is of an app of this name and token that was deleted: nothing there is this one's.
    pub(super) fn told_deleted(&self, app: &AppId, token: [u8; 32]) {
        let found = self.apps.lock().get(app).cloned();
        let found = found.filter(|app| TokenHash(token).opens(app.token));
        if let Some(app) = found.filter(|app| app.bond() == Bond::Bound) {
            app.set_bond(Bond::Provisional);
        }
    }

    fn refuse(&self, app: &App) {
        if app.bond() != Bond::Refused {
            tracing::warn!(app = %app.id, "another token was registered for this app in the object store first: this one is refused from now on");
        }
        app.set_bond(Bond::Refused);
    }

    fn seen(&self, caller: &Caller) -> Result<Seen, Error> {
        let found = self.apps.lock().get(&caller.app).cloned();
        let Some(app) = found else {
            return Ok(Seen::Unknown);
        };
        match (caller.token.opens(app.token), app.bond()) {
            (true, Bond::Refused) => Err(Error::Taken(app.id.clone())),
            (true, Bond::Provisional) if !app.is_heard() && !app.is_gone() => {
                Ok(Seen::Recovered(app))
            }
            (true, _) => {
                app.wants(caller.write_back);
                Ok(Seen::Known(app))
            }
            (false, Bond::Bound) => Err(Error::Denied(app.id.clone())),
            (false, _) => Ok(Seen::Doubtful(app)),
        }
    }

    /// Removes one that is not the app of its name any more, with all it has here.
    async fn oust(&self, app: &Arc<App>) -> Result<(), Error> {
        self.end(app, Some(app.token));
        let _alone = app.lifecycle.lock().await;
        self.delete_leftovers(app).await?;
        let mut apps = self.apps.lock();
        if apps.get(&app.id).is_some_and(|now| Arc::ptr_eq(now, app)) {
            app.forgotten.store(true, Ordering::Release);
            apps.remove(&app.id);
        }
        Ok(())
    }
}

pub(super) async fn patient(call: BoxFuture<'_, Result<Claim, String>>) -> Result<Claim, String> {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {PATIENCE:?}")),
    }
}
