//! Identity of an app, for the whole pool: the object store's record, and the consequences here.
//!
//! With a store, the pool decides on a token, not a single server: for an unknown app a server asks
//! the record before binding, reading or deleting, and makes the record where there is none. While
//! the store does not answer, staging goes on: the app is bound here alone, *provisionally*, and
//! nothing of the app is read from the store, written back or removed there before the record was
//! seen. The record then decides: an app with a different token is refused here too, and gives way
//! to the owner of the record. A driver that returns under the name of a deleted app is bound
//! provisionally too, until the deleted app's objects are gone.
//!
//! invariant: token-is-the-pools.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::future::BoxFuture;
use shuffle_proto::ids::AppId;

use super::{App, Caller, End, Error, Registry, TokenHash, app::Bond};

/// How long a call waits for the store before its app is bound provisionally.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long a silent store is not asked again for later calls.
const RESPITE: Duration = Duration::from_secs(2);

/// How long the store's confirmation of an app is trusted for reads from the store.
const FRESH: Duration = Duration::from_secs(2);

/// The pool's word on an app and a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The pool knows no such app.
    Nobody,
    /// The token is the app's.
    Yours,
    /// The token is the app's, and the app was deleted: its objects are being removed.
    Deleted,
    /// Another token is the app's.
    Another,
}

/// The pool's knowledge of apps; calls take as long as the object store.
pub trait Pool: Send + Sync + 'static {
    /// Looks, and binds nothing.
    fn ask<'a>(&'a self, app: &'a AppId, token: [u8; 32]) -> BoxFuture<'a, Result<Claim, String>>;
    /// Binds the token if the name is free and no app of this name is being removed.
    fn bind<'a>(
        &'a self,
        app: &'a AppId,
        token: [u8; 32],
        lease: Duration,
    ) -> BoxFuture<'a, Result<Claim, String>>;
    /// Notes the deletion of the app here, by the token's owner or by a person: the next caller
    /// under this name is another app.
    fn ends(&self, app: &AppId, token: Option<[u8; 32]>);
    /// Called before volumes delete a deleted app's data and again afterwards, so that a crash in
    /// between forgets nothing. Blocks.
    fn deleting(&self, app: &AppId, gone: bool);
    /// Whether an earlier process was deleting the app, and volumes may still have data.
    fn was_deleted(&self, app: &AppId, token: [u8; 32]) -> bool;
    /// Whether the volumes' data are of the app whose record was last seen.
    fn is_the_same(&self, app: &AppId) -> bool;
}

/// Rights of a call from an app unknown here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entrance {
    /// A driver's call: registers the app, or brings it back.
    Driver,
    /// A task's call: registers the app.
    Task,
    /// A reading call.
    Reader,
}

/// The table's word on a caller.
enum Seen {
    Known(Arc<App>),
    /// The entry has another token, and the pool has not confirmed that one.
    Doubtful(Arc<App>),
    /// An earlier process knew the app, which may have been deleted elsewhere since.
    Recovered(Arc<App>),
    Unknown,
}

impl Registry {
    /// The app of a call, and whether the call has bound it; `None` if a reader's app is unknown.
    pub(super) async fn enter(
        &self,
        caller: &Caller,
        entrance: Entrance,
    ) -> Result<Option<(Arc<App>, bool)>, Error> {
        if let Seen::Known(app) = self.seen(caller)? {
            return Ok(Some((app, false)));
        }
        // Tasks of one app come together: one of them asks. Data of an earlier app of the name are
        // removed first.
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

    /// Confirms, before a read from the store, that the pool has the app's token and does not know
    /// the app as deleted.
    pub async fn confirm(&self, app: &AppId) -> Result<(), Error> {
        let found = self.apps.lock().get(app).cloned();
        let Some(app) = found else {
            return Err(Error::Unknown(app.clone()));
        };
        let Some(pool) = &self.pool else {
            return Ok(());
        };
        // Of concurrent calls one asks.
        let _slot = match self.was_asked_lately(&app) {
            true => return Ok(()),
            false => self.slot(&app.id).lock().await,
        };
        let claim = match app.bond() {
            Bond::Refused => Ok(Claim::Another),
            Bond::Bound if self.was_asked_lately(&app) => return Ok(()),
            // The app may have been deleted elsewhere, and the objects under its name be another's:
            // without an answer nothing is read, since the next request may be answered.
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

    /// Whether the pool has confirmed the app a moment ago.
    fn was_asked_lately(&self, app: &App) -> bool {
        let asked = app.asked_at.load(Ordering::Acquire);
        let ago = Duration::from_millis(self.now().saturating_sub(asked));
        app.bond() == Bond::Bound && asked > 0 && ago < FRESH
    }

    /// The pool's word on an app unknown here, for a deletion; `None` without a pool.
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

    /// Notes the store's word on a live app's token.
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

    /// Notes that the record is of a deleted app with this name and token: nothing in the store
    /// belongs to the app here.
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

    /// Removes an app that has lost its name, with all its data here.
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
