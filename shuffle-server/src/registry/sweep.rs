//! The janitor: ends leases, deletes what apps leave, forgets those that are long gone.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{App, Registry};

/// How often the janitor looks, unless leases are very short.
const PERIOD: Duration = Duration::from_secs(1);

impl Registry {
    /// Runs until `shutdown`.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let period = PERIOD
            .min(self.limits.lease / 4)
            .max(Duration::from_millis(10));
        while shutdown
            .run_until_cancelled(tokio::time::sleep(period))
            .await
            .is_some()
        {
            self.sweep().await;
        }
    }

    /// One round; answers how many leases ran out.
    pub async fn sweep(&self) -> usize {
        let apps: Vec<Arc<App>> = self.apps.lock().values().cloned().collect();
        let mut expired = 0;
        for app in apps {
            // invariant: delete-by-lease. Only an app whose deadline is over ends here.
            if app.expire(self.now()) {
                expired += 1;
                self.metrics.leases_expired.inc();
                tracing::info!(app = %app.id, lease = ?app.lease(), "lease ran out: the app's data go");
            }
            if !app.is_gone() {
                continue;
            }
            let result = {
                let _alone = app.lifecycle.lock().await;
                self.delete_leftovers(&app).await
            };
            if let Err(error) = result
                && app.refusals.allow(self.now())
            {
                tracing::warn!(app = %app.id, %error, "deletion of an app's data will be tried again");
            }
        }
        self.forget();
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
