//! The records of apps in the store: who is who, for the whole pool.
//!
//! An app is bound through its lease record: whoever hears of it first makes the record, by a conditional put, and everybody else
//! compares the token with it. Before anything is written to a store its marker is seen, or made.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use shuffle_proto::ids::AppId;
use shuffle_remote::{Error, Remote, keys, lease::Lease, marker::Marker};
use uuid::Uuid;

use crate::registry::{Claim, Pool};

/// The shortest lease in the store: requests take their time.
const LEAST: Duration = Duration::from_secs(1);
/// Others may write the record between a look at it and the put.
const TRIES: u32 = 4;

/// See the module.
pub struct Records {
    remote: Arc<Remote>,
    /// This process, on tombstones.
    me: Uuid,
    claimed: AtomicBool,
}

// === impl Records ===

impl Records {
    /// Of this store; asks nothing of it yet.
    pub fn new(remote: Arc<Remote>) -> Self {
        Self {
            remote,
            me: Uuid::new_v4(),
            claimed: AtomicBool::new(false),
        }
    }

    /// Sees to it that the store is ours to write to; [`Error::Invalid`] if it is not.
    pub async fn claim(&self) -> Result<(), Error> {
        if self.claimed.load(Ordering::Acquire) {
            return Ok(());
        }
        let marker = Marker::claim(&self.remote.store).await?;
        if !self.claimed.swap(true, Ordering::AcqRel) {
            tracing::info!(pool = marker.pool(), dir = %self.remote.store.path(keys::ROOT), "the object store is this pool's");
        }
        Ok(())
    }

    /// This process, as tombstones name it.
    pub(super) fn me(&self) -> Uuid {
        self.me
    }

    /// An app's record; `None` if it has none.
    pub(super) async fn read(&self, app: &AppId) -> Result<Option<Lease>, Error> {
        Lease::read(&self.remote.store, app).await
    }

    /// Writes the record of an app that lives.
    pub(super) async fn renew(
        &self,
        app: &AppId,
        record: &Lease,
        lease: Duration,
    ) -> Result<Lease, Error> {
        let renewed = record.renewed(lease.max(LEAST));
        renewed.write(&self.remote.store, app).await?;
        Ok(renewed)
    }

    /// Looks whose an app is.
    pub(super) async fn ask(&self, app: &AppId, token: [u8; 32]) -> Result<Claim, Error> {
        Ok(match self.read(app).await? {
            None => Claim::Nobody,
            Some(record) if !record.opens(token) => Claim::Another,
            Some(record) if record.is_deleted() => Claim::Deleted,
            Some(_) => Claim::Yours,
        })
    }

    /// Makes the record, or compares the token with the one that is there. An app of which only nobody was heard for a while comes
    /// back by this; one that was deleted only if `revive`.
    pub(super) async fn bind(
        &self,
        app: &AppId,
        token: [u8; 32],
        lease: Duration,
        revive: bool,
    ) -> Result<Claim, Error> {
        self.claim().await?;
        let mut rival = None;
        for _ in 0..TRIES {
            let Some(record) = self.read(app).await? else {
                let record = Lease::new(token, lease.max(LEAST));
                match record.create(&self.remote.store, app).await {
                    Ok(()) => return Ok(Claim::Yours),
                    Err(error @ Error::Exists { .. }) => {
                        rival = Some(error);
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            };
            let dead = record.buried_by().is_some();
            return match record.opens(token) {
                true if record.is_deleted() && !revive => Ok(Claim::Deleted),
                true if dead => {
                    self.renew(app, &record, lease).await?;
                    Ok(Claim::Yours)
                }
                true => Ok(Claim::Yours),
                // Its name will be free.
                false if dead => Err(self.not_yet(app)),
                false => Ok(Claim::Another),
            };
        }
        Err(rival.unwrap_or_else(|| self.not_yet(app)))
    }

    /// What an app of this name had is still there.
    pub(super) fn not_yet(&self, app: &AppId) -> Error {
        Error::Store {
            verb: "delete",
            key: self.remote.store.path(&keys::app(app)).to_string(),
            message: "what was deleted of the app could not be removed yet".into(),
        }
    }
}

impl Pool for Records {
    fn ask<'a>(&'a self, app: &'a AppId, token: [u8; 32]) -> BoxFuture<'a, Result<Claim, String>> {
        let asked = async move { self.ask(app, token).await.map_err(|e| e.to_string()) };
        asked.boxed()
    }

    fn bind<'a>(
        &'a self,
        app: &'a AppId,
        token: [u8; 32],
        lease: Duration,
        revive: bool,
    ) -> BoxFuture<'a, Result<Claim, String>> {
        let bound = async move {
            let bound = self.bind(app, token, lease, revive).await;
            bound.map_err(|e| e.to_string())
        };
        bound.boxed()
    }
}
