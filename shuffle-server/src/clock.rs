//! Time as a part that can be exchanged: what waits for minutes in a server waits for nothing in a
//! test.
//!
//! Owns nothing but the two questions "how long since" and "what date". Sleeping is the caller's:
//! whoever waits, waits for an event with a timeout and then asks here.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;

/// Where time is read from.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Never goes back; for durations.
    fn now(&self) -> Instant;
    /// The date; for what outlives the process.
    fn wall(&self) -> SystemTime;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

/// Stands still until it is [advanced](ManualClock::advance). Clones show the same time.
#[derive(Clone, Debug)]
pub struct ManualClock {
    start: Instant,
    wall: SystemTime,
    passed: Arc<Mutex<Duration>>,
}

// === impl SystemClock ===

#[allow(
    clippy::disallowed_methods,
    reason = "the one door to the machine's clock"
)]
impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }
}

// === impl ManualClock ===

impl ManualClock {
    /// Shows some moment.
    pub fn new() -> Self {
        let clock = SystemClock;
        Self {
            start: clock.now(),
            wall: clock.wall(),
            passed: Arc::default(),
        }
    }

    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        *self.passed.lock() += by;
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        self.start + *self.passed.lock()
    }

    fn wall(&self) -> SystemTime {
        self.wall + *self.passed.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_when_told_and_all_clones_together() {
        let clock = ManualClock::new();
        let (other, start, wall) = (clock.clone(), clock.now(), clock.wall());
        assert_eq!(clock.now(), start);
        other.advance(Duration::from_secs(60));
        assert_eq!(clock.now() - start, Duration::from_secs(60));
        assert_eq!(
            clock.wall().duration_since(wall).expect("later"),
            Duration::from_secs(60)
        );
    }

    #[test]
    fn the_system_clock_does_not_go_back() {
        let first = SystemClock.now();
        assert!(SystemClock.now() >= first);
    }
}
