//! Leases in the store, and the removal of what the dead have left there.
//!
//! Every server that knows an app keeps its record in the store changing while the app calls. Every server watches the records of
//! the others: one that has not changed for its whole lease, by this server's own clock, belongs to an app that nobody hears of any
//! more, and all that lies below the app's directory goes. So does at once what an app deletes itself. No date is compared, so a clock
//! that jumps deletes nothing; no key is judged by its name or age, only by whose directory it is in (invariant: delete-by-lease).

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use shuffle_proto::ids::{AppId, ShuffleId};
use shuffle_remote::{Error, Remote, keys, lease::Lease};
use tokio::sync::Notify;

use super::{Apps, Standing};
use crate::{clock::Clock, metrics::RemoteMetrics, staging::Volume};

pub(super) struct Collector {
    remote: Arc<Remote>,
    volumes: Vec<Volume>,
    apps: Arc<dyn Apps>,
    clock: Arc<dyn Clock>,
    watched: Mutex<HashMap<AppId, Watched>>,
    dead: Mutex<HashSet<(AppId, Option<ShuffleId>)>>,
    wake: Notify,
    /// One at a time writes an app's record.
    renewing: tokio::sync::Mutex<()>,
    /// Of what has no record.
    lease: Duration,
    metrics: RemoteMetrics,
}

/// A record as it was seen last.
struct Watched {
    /// `None`: there is none.
    lease: Option<Lease>,
    /// When it was first seen like this.
    since: Instant,
    /// The app's last call here that it stands for.
    touched: u64,
}

impl Collector {
    pub(super) fn new(
        remote: Arc<Remote>,
        volumes: Vec<Volume>,
        apps: Arc<dyn Apps>,
        clock: Arc<dyn Clock>,
        lease: Duration,
        metrics: RemoteMetrics,
    ) -> Self {
        Self {
            lease,
            metrics,
            remote,
            volumes,
            apps,
            clock,
            watched: Mutex::default(),
            dead: Mutex::default(),
            wake: Notify::new(),
            renewing: tokio::sync::Mutex::new(()),
        }
    }

    /// Sees to it that an app has a record.
    pub(super) async fn ensure(
        &self,
        app: &AppId,
        token: [u8; 32],
        lease: Duration,
    ) -> Result<(), Error> {
        // An app that was deleted and came again must not write below a directory that is still being removed.
        let dying = || self.dead.lock().iter().any(|(dead, _)| dead == app);
        if dying() {
            self.bury().await;
        }
        if dying() {
            let key = self.remote.store.path(&keys::app(app)).to_string();
            let message = "what was deleted of the app could not be removed yet".into();
            let verb = "delete";
            return Err(Error::Store { verb, key, message });
        }
        if self.watched.lock().contains_key(app) {
            return Ok(());
        }
        let _alone = self.renewing.lock().await;
        let record = match Lease::read(&self.remote.store, app).await? {
            Some(record) if !record.opens(token) => {
                let key = self.remote.store.path(&keys::lease(app)).to_string();
                let reason = "it is of an app with another token".into();
                return Err(Error::Corrupt { key, reason });
            }
            Some(record) => record,
            None => {
                let record = Lease::new(token, lease);
                record.write(&self.remote.store, app).await?;
                record
            }
        };
        self.note(app, Some(record), 0);
        Ok(())
    }

    /// Something of the app is to go: all, or one shuffle. Costs nothing if nothing of the app is in the store.
    pub(super) fn dead(&self, app: &AppId, shuffle: Option<ShuffleId>) {
        if self.watched.lock().contains_key(app) {
            self.dead.lock().insert((app.clone(), shuffle));
            self.wake.notify_one();
        }
    }

    /// The same for what was written while its owner died, whatever is known of the app.
    pub(super) fn written_too_late(&self, app: &AppId, shuffle: ShuffleId) {
        self.dead.lock().insert((app.clone(), Some(shuffle)));
        self.wake.notify_one();
    }

    /// Something of the app is to go now, whatever is known of the app; answers how many objects went.
    pub(super) async fn free(&self, app: &AppId, shuffle: Option<ShuffleId>) -> Result<u64, Error> {
        self.dead.lock().insert((app.clone(), shuffle));
        self.remove_dead(app, shuffle).await
    }

    /// As if the apps had called since their records were written.
    #[cfg(test)]
    pub(super) fn forget_touched(&self) {
        let mut watched = self.watched.lock();
        watched.values_mut().for_each(|seen| seen.touched = 0);
    }

    /// Something has died.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Removes what was declared dead; what fails stays on the list.
    pub(super) async fn bury(&self) {
        let dead: Vec<_> = self.dead.lock().iter().cloned().collect();
        for (app, shuffle) in dead {
            if let Err(error) = self.remove_dead(&app, shuffle).await {
                tracing::warn!(%app, %error, "objects of what was deleted stay for now; tried again");
            }
        }
    }

    /// Removes what is on the list of the dead, and takes it from the list.
    async fn remove_dead(&self, app: &AppId, shuffle: Option<ShuffleId>) -> Result<u64, Error> {
        let dir = shuffle.map_or_else(|| keys::app(app), |shuffle| keys::shuffle(app, shuffle));
        let removed = self.remove(app, &dir).await?;
        if shuffle.is_none() {
            self.watched.lock().remove(app);
        }
        self.dead.lock().remove(&(app.clone(), shuffle));
        Ok(removed)
    }

    /// One round: buries, renews, watches.
    pub(super) async fn sweep(&self) -> Result<(), Error> {
        self.bury().await;
        let listing = self.remote.store.list(keys::ROOT).await?;
        let apps: Vec<_> = listing
            .dirs
            .iter()
            .filter_map(|name| AppId::try_new(name))
            .collect();
        self.watched.lock().retain(|app, _| apps.contains(app));
        for app in apps {
            if let Err(error) = self.look_at(&app).await {
                tracing::warn!(%app, %error, "the lease of an app's objects could not be looked at");
            }
        }
        Ok(())
    }

    async fn look_at(&self, app: &AppId) -> Result<(), Error> {
        let standing = self.apps.standing(app);
        if standing == Standing::Deleted {
            self.dead.lock().insert((app.clone(), None));
            self.bury().await;
            return Ok(());
        }
        let _alone = self.renewing.lock().await;
        let record = Lease::read(&self.remote.store, app).await?;
        match standing {
            Standing::Live {
                token,
                lease,
                touched,
                ..
            } if record.as_ref().is_none_or(|record| record.opens(token)) => {
                let seen = self.watched.lock().get(app).map_or(0, |seen| seen.touched);
                match record {
                    Some(record) if touched <= seen => {
                        self.note(app, Some(record), touched);
                    }
                    record => {
                        let first = || Lease::new(token, lease);
                        let renewed = record.map_or_else(first, |record| record.renewed(lease));
                        renewed.write(&self.remote.store, app).await?;
                        self.note(app, Some(renewed), touched);
                    }
                }
                self.remove_deleted_shuffles(app).await
            }
            _ => {
                // What has no record is what an upload left that ended after its app: the record comes first and goes last.
                let lease = record.as_ref().map_or(self.lease, Lease::lease);
                if self.note(app, record, 0) > lease {
                    tracing::info!(%app, ?lease, "nobody renews the lease of an app's objects: they go");
                    self.dead.lock().insert((app.clone(), None));
                    self.bury().await;
                }
                Ok(())
            }
        }
    }

    /// Remembers a record; answers for how long it has not changed.
    fn note(&self, app: &AppId, lease: Option<Lease>, touched: u64) -> Duration {
        let now = self.clock.now();
        let mut watched = self.watched.lock();
        let seen = watched.entry(app.clone()).or_insert_with(|| Watched {
            lease: lease.clone(),
            since: now,
            touched,
        });
        if seen.lease != lease {
            (seen.lease, seen.since) = (lease, now);
        }
        seen.touched = seen.touched.max(touched);
        now - seen.since
    }

    /// Of a live app: shuffles that it has deleted, also those that servers wrote which no longer exist.
    async fn remove_deleted_shuffles(&self, app: &AppId) -> Result<(), Error> {
        let listing = self.remote.store.list(&keys::app(app)).await?;
        for name in listing.dirs {
            let Ok(number) = name.parse::<u32>() else {
                continue;
            };
            let shuffle = ShuffleId(number);
            // The tombstone that a deletion leaves on every volume.
            if self
                .volumes
                .iter()
                .any(|volume| volume.is_deleted(app, shuffle))
            {
                self.remove(app, &keys::shuffle(app, shuffle)).await?;
            }
        }
        Ok(())
    }

    async fn remove(&self, app: &AppId, dir: &str) -> Result<u64, Error> {
        // invariant: delete-by-lease
        let removed = self.remote.store.delete_below(dir).await?;
        self.metrics.removed.inc_by(removed);
        if removed > 0 {
            self.remote.forget(app, None);
            let requests = self.remote.store.cost(dir);
            tracing::info!(%dir, objects = removed, requests = %requests, "objects removed");
        }
        Ok(removed)
    }
}
