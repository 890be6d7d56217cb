//! Pauses between tries, and how long to go on trying.
//!
//! There are two clocks. One runs while servers do not answer, up to `retry_deadline`: then they
//! count as gone. The other runs while servers answer busy, full or draining: nothing is lost, and
//! they are waited for [`OVERLOAD`] times as long.

use std::time::Duration;

use rand::RngExt as _;
use tokio::time::Instant;

use crate::settings::Settings;

/// How many times `retry_deadline` servers are waited for that answer and take nothing.
pub(crate) const OVERLOAD: u32 = 10;

/// A chain of tries at the same thing.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    base: Duration,
    max: Duration,
    deadline: Duration,
    tries: u32,
    /// Since when nothing has worked.
    failing_since: Option<Instant>,
    /// Since when nobody has answered.
    silent_since: Option<Instant>,
}

impl Backoff {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            base: settings.backoff_base,
            max: settings.backoff_max,
            deadline: settings.retry_deadline,
            tries: 0,
            failing_since: None,
            silent_since: None,
        }
    }

    /// Something worked: the next failure starts a new chain.
    pub(crate) fn succeeded(&mut self) {
        self.tries = 0;
        self.failing_since = None;
        self.silent_since = None;
    }

    /// Notes a failure that is not waited for; false when the time is over. `answered`: it was an
    /// answer.
    pub(crate) fn note(&mut self, answered: bool) -> bool {
        let now = Instant::now();
        let failing = *self.failing_since.get_or_insert(now);
        if answered {
            self.silent_since = None;
        }
        let (since, deadline) = match answered {
            true => (failing, self.deadline.saturating_mul(OVERLOAD)),
            false => (*self.silent_since.get_or_insert(now), self.deadline),
        };
        now.duration_since(since) < deadline
    }

    /// Counts a failure and says how long to wait before the next try, at least `at_least`; `None`
    /// when the time is over.
    pub(crate) fn failed(
        &mut self,
        answered: bool,
        at_least: Option<Duration>,
    ) -> Option<Duration> {
        let in_time = self.note(answered);
        let full = self
            .base
            .saturating_mul(1 << self.tries.min(16))
            .min(self.max);
        self.tries += 1;
        // Half of the pause is random, so that a thousand tasks do not come back to a restarted
        // server in step.
        let pause = full
            .mul_f64(rand::rng().random_range(0.5..=1.0))
            .max(at_least.unwrap_or_default());
        let left = match self.silent_since {
            Some(since) => self.deadline.saturating_sub(since.elapsed()),
            None => pause,
        };
        in_time.then_some(pause.min(left.max(Duration::from_millis(1))))
    }

    /// A moment before the same is tried once more.
    pub(crate) fn moment(&self) -> Duration {
        self.base.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    /// Failures in a row with a wait.
    pub(crate) fn tries(&self) -> u32 {
        self.tries
    }

    /// How long the chain has been failing.
    pub(crate) fn failing_for(&self) -> Duration {
        self.failing_since
            .map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Whether nobody has answered since the last answer or success, for most of the time that
    /// servers are waited for.
    pub(crate) fn is_nearly_over(&self) -> bool {
        self.silent_since
            .is_some_and(|since| since.elapsed() >= self.deadline / 2)
    }

    /// Whether the last failure was an answer.
    pub(crate) fn is_overload(&self) -> bool {
        self.failing_since.is_some() && self.silent_since.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backoff(deadline: u64) -> Backoff {
        Backoff::new(&Settings {
            retry_deadline: Duration::from_secs(deadline),
            ..Settings::of(["a:1"])
        })
    }

    /// Makes a time as if it had begun so long ago.
    fn age(since: &mut Option<Instant>, seconds: u64) {
        let earlier = Instant::now().checked_sub(Duration::from_secs(seconds));
        *since = Some(earlier.expect("the machine has been up for longer"));
    }

    #[test]
    fn answers_do_not_count_against_the_time_for_servers_that_do_not_answer() {
        let mut backoff = backoff(10);
        for _ in 0..12 {
            assert!(backoff.failed(false, None).is_some());
            age(&mut backoff.silent_since, 8);
            assert!(backoff.failed(false, None).is_some());
            assert!(backoff.is_nearly_over() && !backoff.is_overload());
            assert!(backoff.failed(true, None).is_some());
            assert!(!backoff.is_nearly_over() && backoff.is_overload());
        }
        age(&mut backoff.failing_since, 99);
        assert!(backoff.failed(true, None).is_some());
        // A separate bound ends the chain.
        age(&mut backoff.failing_since, 101);
        assert!(backoff.failed(true, None).is_none());
        backoff.succeeded();
        assert!(backoff.failed(false, None).is_some());
        age(&mut backoff.silent_since, 10);
        assert!(backoff.failed(false, None).is_none());
    }

    #[test]
    fn a_pause_is_as_long_as_was_asked_for_and_not_longer_than_is_left() {
        let mut backoff = backoff(10);
        let asked = Some(Duration::from_secs(30));
        assert_eq!(backoff.failed(true, asked), asked);
        let left = backoff.failed(false, asked).expect("there is time");
        assert!(left <= Duration::from_secs(10), "{left:?}");
    }
}
