//! The janitor: ends leases, deletes what apps leave, forgets those that are long gone.
//!
//! A server that stood still (stopped, frozen, starved) has not heard anybody meanwhile, and its own silence is not the apps': the
//! time by which the janitor woke too late is added to every deadline before any is looked at. Deletions take as long as disks do, and
//! run beside, so that waiting for them is no standstill.

use std::{sync::Arc, time::Duration};

use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{App, Registry};

/// How often the janitor looks, unless leases are very short.
const PERIOD: Duration = Duration::from_secs(1);
/// By how much it may be late, as threads are.
const LATE: Duration = Duration::from_millis(100);
/// A standstill that a person is told of.
const TOLD: Duration = Duration::from_secs(2);

impl Registry {
    /// Runs until `shutdown`.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let period = PERIOD
            .min(self.limits.lease / 4)
            .max(Duration::from_millis(10));
        let mut cleaning = JoinSet::new();
        let mut last = Instant::now();
        while shutdown
            .run_until_cancelled(tokio::time::sleep(period))
            .await
            .is_some()
        {
            // This clock first: a standstill between the two lines is seen by the second one at least.
            let now = self.now();
            let at = Instant::now();
            self.look(now, (at - last).saturating_sub(period));
            last = at;
            if cleaning.try_join_next().is_some() || cleaning.is_empty() {
                let this = self.clone();
                cleaning.spawn(async move { this.clean().await });
            }
        }
    }

    /// Ends the leases that are over at `now`, after `late` was given back to all; answers how many.
    pub(super) fn look(&self, now: u64, late: Duration) -> usize {
        let apps: Vec<Arc<App>> = self.apps.lock().values().cloned().collect();
        if late > LATE {
            let late_ms = u64::try_from(late.as_millis()).unwrap_or(u64::MAX);
            // A busy machine is late by a moment all the time.
            if late > TOLD {
                tracing::warn!(?late, "this server stood still: leases last so much longer");
            }
            apps.iter().for_each(|app| app.stood_still(now, late_ms));
        }
        let mut expired = 0;
        for app in apps {
            // invariant: delete-by-lease. Only an app whose deadline is over ends here.
            if app.expire(now) {
                expired += 1;
                self.metrics.leases_expired.inc();
                tracing::info!(app = %app.id, lease = ?app.lease(), "lease ran out: the app's data go");
            }
        }
        expired
    }

    /// Deletes what those who are gone have left, and forgets those that are long gone.
    pub(super) async fn clean(&self) {
        let mut gone: Vec<Arc<App>> = self.apps.lock().values().cloned().collect();
        gone.retain(|app| app.is_gone());
        let evicted = std::mem::take(&mut *self.evicted.lock());
        for app in evicted {
            // By now it may be there again, and what the volumes have is of the new one; it comes through the same slot.
            let _alone = self.slot(&app.id).lock().await;
            let again = self.apps.lock().contains_key(&app.id);
            if !again && !self.cleaned(&app).await {
                self.evicted.lock().push(app);
            }
        }
        for app in gone {
            self.cleaned(&app).await;
        }
        self.forget();
    }

    async fn cleaned(&self, app: &Arc<App>) -> bool {
        let result = {
            let _alone = app.lifecycle.lock().await;
            self.delete_leftovers(app).await
        };
        if let Err(error) = &result
            && app.refusals.allow(self.now())
        {
            tracing::warn!(app = %app.id, %error, "deletion of an app's data will be tried again");
        }
        result.is_ok()
    }

    /// One round, without the look at how late it is; answers how many leases ran out.
    #[cfg(test)]
    pub(super) async fn sweep(&self) -> usize {
        let expired = self.look(self.now(), Duration::ZERO);
        self.clean().await;
        expired
    }

    /// An app that is gone is remembered for as long as a task of it can sensibly be late: one lease of the server's.
    fn forget(&self) {
        let now = self.now();
        let late = u64::try_from(self.limits.lease.as_millis()).unwrap_or(u64::MAX);
        self.apps
            .lock()
            .retain(|_, app| now.saturating_sub(app.gone_since()) < late || !app.try_forget());
    }

    /// Milliseconds of the clock since the registry was made.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.clock.now().duration_since(self.start).as_millis())
            .unwrap_or(u64::MAX / 4)
    }
}
