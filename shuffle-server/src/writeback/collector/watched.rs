//! Leases of apps that do not call here, and their end.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use shuffle_proto::ids::AppId;
use shuffle_remote::{Error, keys, lease::Lease};

use super::{Collector, MOST, TOGETHER, period_of};
use crate::writeback::burial::{TAKEN_OVER, Why};

/// The record of an app that does not call here, as last read.
pub(super) struct Watched {
    /// `None`: there is none.
    lease: Option<Lease>,
    /// Time of the last look.
    last: Instant,
    /// Time without a change, as seen by this server.
    unchanged: Duration,
}

impl Collector {
    /// Interval between looks at other apps' records: follows the shortest known lease.
    pub(in crate::writeback) fn period(&self) -> Duration {
        let usual = (self.lease / 4).clamp(Duration::from_millis(50), MOST);
        let watched = self.watched.lock();
        let leases = watched.values().filter_map(|seen| seen.lease.as_ref());
        let shortest = leases.map(Lease::lease).min().unwrap_or(MOST * 4);
        // One app's tiny lease must not make every server list the store all the time.
        usual.min((shortest / 4).max(Duration::from_secs(1)))
    }

    /// Looks at the records of all apps that do not call here; `period` is the time since the last
    /// look, if all is well.
    pub(in crate::writeback) async fn watch(&self, period: Duration) -> Result<(), Error> {
        self.records.keep_claim().await?;
        let listing = self.remote.store.list(keys::ROOT).await?;
        for name in &listing.objects {
            let key = format!("{}/{name}", keys::ROOT);
            if key != keys::marker() {
                self.burials.foreign(&key, "no object of Forebay's");
            }
        }
        let mut there = HashSet::new();
        for name in &listing.dirs {
            match AppId::try_new(name) {
                Some(app) => drop(there.insert(app)),
                None => {
                    let key = format!("{}/{name}", keys::ROOT);
                    self.burials.foreign(&key, "no app's directory");
                }
            }
        }
        let live: HashSet<AppId> = self.apps.live().into_iter().map(|(app, _)| app).collect();
        self.in_the_way.lock().retain(|app| live.contains(app));
        let in_the_way = self.in_the_way.lock().clone();
        let others =
            |app: &AppId| there.contains(app) && (!live.contains(app) || in_the_way.contains(app));
        self.watched.lock().retain(|app, _| others(app));
        self.seen
            .lock()
            .retain(|app, _| there.contains(app) || live.contains(app));
        self.records
            .retain(|app| there.contains(app) || live.contains(app));
        let others = there.iter().filter(|app| others(app));
        let looks = stream::iter(others).for_each_concurrent(TOGETHER, async |app| {
            if let Err(error) = self.look_at(app, period, live.contains(app)).await {
                tracing::debug!(%app, %error, "the lease of an app's objects could not be looked at");
            }
        });
        looks.await;
        Ok(())
    }

    /// Looks at the record of an app that does not call here, or at a tombstone in the way of one
    /// that does.
    async fn look_at(&self, app: &AppId, period: Duration, live: bool) -> Result<(), Error> {
        let record = match self.records.read(app).await {
            Err(Error::Corrupt { .. }) => {
                self.burials
                    .foreign(&keys::lease(app), "no lease record of Forebay's");
                return Ok(());
            }
            record => record?,
        };
        let unchanged = self.note(app, record.clone(), period);
        if live && record.as_ref().is_none_or(|it| it.buried_by().is_none()) {
            // Out of the way; the app's own record is kept, see `keep`.
            return Ok(());
        }
        let Some(record) = record else {
            // invariant: foreign-is-untouched. An app's record comes before all else and goes last.
            let seen = self.seen.lock().get(app).copied();
            match seen.map(|longest| self.lease.max(longest)) {
                Some(lease) if unchanged > 2 * lease + period => {
                    self.burials.add(app, None, Why::Late);
                }
                // Another server may just have removed the record.
                None if !unchanged.is_zero() => {
                    let key = keys::app(app);
                    self.burials.foreign(&key, "no lease record in it");
                }
                _ => {}
            }
            return Ok(());
        };
        self.see(app, record.lease());
        // Interval between the looks of a server that renews the record.
        let announced = period.max(2 * period_of(record.lease()));
        let (patience, announced) = match record.buried_by() {
            // The server behind the burial has stopped.
            Some(_) if record.is_deleted() => (TAKEN_OVER, Duration::ZERO),
            Some(_) => (TAKEN_OVER.max(announced), Duration::ZERO),
            None => (2 * record.lease() + period, announced),
        };
        if unchanged > patience {
            self.burials.add(app, None, Why::Silent(record, announced));
        }
        Ok(())
    }

    /// Remembers a record; returns the time without a change, as seen by this server. A server that
    /// stood still saw nothing meanwhile: no look counts for more than two periods.
    pub(super) fn note(&self, app: &AppId, lease: Option<Lease>, period: Duration) -> Duration {
        let now = self.clock.now();
        let mut watched = self.watched.lock();
        let seen = watched.entry(app.clone()).or_insert_with(|| Watched {
            lease: lease.clone(),
            last: now,
            unchanged: Duration::ZERO,
        });
        let passed = (now - seen.last).min(2 * period);
        seen.last = now;
        if seen.lease == lease {
            seen.unchanged += passed;
        } else {
            (seen.lease, seen.unchanged) = (lease, Duration::ZERO);
        }
        seen.unchanged
    }
}
