//! The janitor: ends leases, deletes the data of ended apps, forgets old entries.
//!
//! A server that stood still (stopped, frozen, starved) heard nobody meanwhile, and must not take
//! that for the apps' silence: the delay of the janitor's tick is added to every deadline first.
//! Deletions take as long as disks do and run beside the ticks, so a wait for a disk is no
//! standstill.

use std::{sync::Arc, time::Duration};

use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{App, Registry};

/// How often the janitor looks, unless leases are very short.
const PERIOD: Duration = Duration::from_secs(1);
/// Usual delay of a thread.
const LATE: Duration = Duration::from_millis(100);
/// A standstill long enough for the log.
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
            // This clock first: a standstill between the two lines is seen by the second one at
            // least.
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

    /// Ends the leases that are over at `now`, after giving `late` back to all; returns their
    /// number.
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
            // invariant: delete-by-lease. Only an app past its deadline ends here.
            if app.expire(now) {
                expired += 1;
                self.metrics.leases_expired.inc();
                tracing::info!(app = %app.id, lease = ?app.lease(), "lease ran out: the app's data go");
            }
        }
        expired
    }

    /// Deletes the data of apps that are gone, and forgets old entries.
    pub(super) async fn clean(&self) {
        let mut gone: Vec<Arc<App>> = self.apps.lock().values().cloned().collect();
        gone.retain(|app| app.is_gone());
        let evicted = std::mem::take(&mut *self.evicted.lock());
        for app in evicted {
            // The app may have returned by now through the same slot, with new data on the volumes.
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

    /// One tick without the check for a standstill; returns the number of ended leases.
    #[cfg(test)]
    pub(super) async fn sweep(&self) -> usize {
        let expired = self.look(self.now(), Duration::ZERO);
        self.clean().await;
        expired
    }

    /// An ended app is remembered for as long as a task can sensibly be late: one lease of the
    /// server's.
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
