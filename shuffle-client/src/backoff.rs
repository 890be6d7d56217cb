//! Pauses between tries, and how long to go on trying.

use std::time::Duration;

use rand::RngExt as _;
use tokio::time::Instant;

use crate::settings::Settings;

/// One chain of tries at the same thing.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    base: Duration,
    max: Duration,
    deadline: Duration,
    tries: u32,
    failing_since: Option<Instant>,
}

impl Backoff {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            base: settings.backoff_base,
            max: settings.backoff_max,
            deadline: settings.retry_deadline,
            tries: 0,
            failing_since: None,
        }
    }

    /// Something worked: the next failure starts a new chain.
    pub(crate) fn succeeded(&mut self) {
        self.tries = 0;
        self.failing_since = None;
    }

    /// Counts a failure and says how long to wait before the next try, at least `at_least`; `None` when the deadline is over.
    pub(crate) fn failed(&mut self, at_least: Option<Duration>) -> Option<Duration> {
        let now = Instant::now();
        let since = *self.failing_since.get_or_insert(now);
        let left = self.deadline.checked_sub(now.duration_since(since))?;
        let full = self
            .base
            .saturating_mul(1 << self.tries.min(16))
            .min(self.max);
        self.tries += 1;
        // Half of the pause is random, so that a thousand tasks do not come back to a restarted server in step.
        let pause = full
            .mul_f64(rand::rng().random_range(0.5..=1.0))
            .max(at_least.unwrap_or_default());
        (!left.is_zero()).then_some(pause.min(left))
    }

    /// Failures in a row.
    pub(crate) fn tries(&self) -> u32 {
        self.tries
    }

    /// How long the chain has been failing.
    pub(crate) fn failing_for(&self) -> Duration {
        self.failing_since
            .map_or(Duration::ZERO, |since| since.elapsed())
    }
}
