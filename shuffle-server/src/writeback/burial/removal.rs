//! The removal of one app, or of shuffles of one: its right is checked again before each batch.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use shuffle_proto::ids::AppId;
use shuffle_remote::{
    Error, Place,
    keys::{self, Ours},
    lease::Lease,
};
use uuid::Uuid;

use super::{Burials, Part, Why};
use crate::registry::Standing;

/// Objects removed per request, where the store can.
const BATCH: usize = 1000;
/// Keys listed before their removal.
const LISTED: usize = 10_000;
/// Interval of tombstone renewals during a removal.
const TOUCH: Duration = Duration::from_secs(1);
/// Up to this number, shuffles are removed without a listing first.
const FEW: usize = 2;
/// Tries of a read followed by a conditional put: another server may write in between.
const TRIES: u32 = 4;
/// Foreign keys counted and logged at most.
const TOLD: usize = 1000;

/// Condition checked before each batch.
#[derive(Clone, Copy)]
enum Guard {
    None,
    Mine,
    NoRecord,
}

/// Condition checked during a request.
#[derive(Clone, Copy)]
enum May {
    /// The tombstone is this server's; renewed on the way.
    Touch,
    /// The record still belongs to this life, or there is still no record.
    Same(Option<Uuid>),
}

impl Burials {
    /// Removes an app; returns the number of removed objects, `None` during the announcement.
    pub(super) async fn whole(
        &self,
        app: &AppId,
        why: &Why,
        announced: Option<Instant>,
    ) -> Result<Option<u64>, Error> {
        let mut tries = 0;
        loop {
            match self.try_whole(app, why, announced).await {
                // Another server has written the record meanwhile: its new content decides.
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
            // Only the server that deleted the app knows whose record was damaged.
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
            // As in the tombstone of the server before, after a takeover.
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
                // Without a pause after the look: another server may make the next life's record as
                // soon as it can.
                let last = self.remote.store.delete(&key);
                let last = self.beside(app, May::Touch, last).await?;
                last.map(|()| removed)
            }
            _ => None,
        };
        let Some(removed) = mine else {
            return match why {
                // The writer of the record may not have seen the deletion.
                Why::Asked(..) => Err(Error::Exists { key }),
                _ => left("its lease is renewed, or another server removes them"),
            };
        };
        self.metrics.removed.inc();
        self.remote.forget(app, None);
        Ok(Some(removed + 1))
    }

    pub(super) async fn shuffles(
        &self,
        app: &AppId,
        parts: &BTreeMap<Part, Why>,
    ) -> Result<u64, Error> {
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
            // The name may have passed to another app, whose objects must stay.
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

    /// Runs `work` while checking the condition at intervals; `None` once it fails.
    async fn beside<T>(
        &self,
        app: &AppId,
        may: May,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<Option<T>, Error> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                // First: a process that stood still looks before the next request.
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

    /// Renews the tombstone; false if another server has taken it.
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

    /// Removes like [`remove`](Self::remove), and ends unfinished uploads.
    async fn remove_all(&self, app: &AppId, dir: &str, guard: Guard) -> Result<u64, Error> {
        let removed = self.remove(app, dir, guard).await?;
        let ours = |key: &str| keys::parse(key).is_some();
        self.remote.store.remove_unfinished(dir, ours).await;
        Ok(removed)
    }

    /// Removes Forebay's keys below a directory of an app, except the lease record; returns the
    /// number of removed objects.
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
            // Foreign keys must not hide the rest of the listing.
            most = LISTED + others.len() + usize::from(ours.is_empty()) * most;
        }
        if removed > 0 {
            let requests = store.cost(dir);
            tracing::info!(%dir, objects = removed, requests = %requests, "objects removed");
        }
        Ok(removed)
    }

    /// Counts and logs, once, a foreign key below Forebay's directory; the key stays.
    pub(in crate::writeback) fn foreign(&self, key: &str, what: &str) {
        let mut told = self.told.lock();
        if told.len() < TOLD && told.insert(key.to_owned()) {
            self.metrics.foreign.inc();
            let key = self.remote.store.path(key);
            tracing::warn!(%key, what, "what lies below Forebay's directory in the object store and is not Forebay's stays");
        }
    }
}

/// Whether a key is an object or a manifest of this app.
fn is_data_of(app: &AppId, key: &str) -> bool {
    match keys::parse(key) {
        Some(Ours::Manifest(place, _) | Ours::Object(place, ..)) => place.app == *app,
        Some(Ours::Lease(_)) | None => false,
    }
}
