//! The end of the server: write-back of everything, without delay, beside the pushes in progress.
//!
//! A round is bounded ([`super::planner`]), so a drain that runs out of time has saved all finished
//! rounds, instead of one unfinished manifest for everything.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use super::{WriteBack, planner};
use crate::{
    registry::{Policy, Standing},
    staging::{Unwritten, Volume},
};

/// Poll interval for the end of the drain.
const LOOK: Duration = Duration::from_millis(50);
/// Interval of progress lines in the log.
const TELL: Duration = Duration::from_secs(2);
/// Time before which a rate says nothing.
const TOO_EARLY: Duration = Duration::from_millis(500);

/// When the drain began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    at: Instant,
    /// Bytes sent before the drain.
    taken: u64,
}

/// How fast a drain goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    /// Bytes sent since the drain began.
    pub(crate) sent: u64,
    time: Duration,
}

impl Pace {
    /// Time for so many more bytes; `None` while nothing can be said.
    pub(crate) fn needs(self, bytes: u64) -> Option<Duration> {
        match self.sent {
            _ if bytes == 0 => Some(Duration::ZERO),
            0 => None,
            _ if self.time < TOO_EARLY => None,
            sent => Some(self.time.mul_f64(bytes as f64 / sent as f64)),
        }
    }
}

impl WriteBack {
    /// Starts the drain: write-back without delay from now on.
    pub fn urge(&self) {
        let begun = Begun {
            at: self.clock.now(),
            taken: self.throttle.taken(),
        };
        self.begun.lock().get_or_insert(begun);
        self.failed.lock().clear();
        self.wake.notify_one();
    }

    /// Waits until the backlog is empty and no push can add to it; returns the bytes left at
    /// `deadline`.
    pub async fn drain(&self, deadline: tokio::time::Instant, more: impl Fn() -> bool) -> u64 {
        self.urge();
        let mut told = self.clock.now();
        loop {
            self.wake.notify_one();
            // In this order: a commit in between is seen as backlog or as an open push.
            let over = !more();
            let left = self.left();
            if over && left == 0 && self.running.lock().is_empty() && !self.is_to_merge() {
                let burying = self.collector.bury();
                let _ = tokio::time::timeout_at(deadline, burying).await;
                return 0;
            }
            if tokio::time::Instant::now() >= deadline {
                return left;
            }
            let now = self.clock.now();
            if now - told >= TELL {
                told = now;
                self.tell(left, deadline);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn tell(&self, left: u64, deadline: tokio::time::Instant) {
        let Some(pace) = self.pace() else {
            return;
        };
        let time_left = deadline.saturating_duration_since(tokio::time::Instant::now());
        let needs = pace.needs(left);
        match needs {
            Some(needs) if needs > time_left => {
                tracing::warn!(
                    bytes = left,
                    sent = pace.sent,
                    ?needs,
                    ?time_left,
                    "draining: write-back will not be done in time"
                );
            }
            _ => {
                tracing::info!(
                    bytes = left,
                    sent = pace.sent,
                    ?needs,
                    ?time_left,
                    "draining: write-back is under way"
                );
            }
        }
    }

    /// Speed of the drain; `None` before it.
    pub(crate) fn pace(&self) -> Option<Pace> {
        let begun = (*self.begun.lock())?;
        Some(Pace {
            sent: self.throttle.taken().saturating_sub(begun.taken),
            time: self.clock.now().saturating_duration_since(begun.at),
        })
    }

    pub(super) fn is_draining(&self) -> bool {
        self.begun.lock().is_some()
    }

    /// Committed attempts that the drain was to save, and that cannot be read any more.
    pub fn given_up(&self) -> u64 {
        self.given_up.load(Ordering::Relaxed)
    }

    /// Committed bytes that a drain would write back.
    pub fn left(&self) -> u64 {
        let wanted = |shuffle: &Unwritten| match self.apps.standing(&shuffle.app) {
            Standing::Live { policy, .. } => policy.unwrap_or(self.options.policy) != Policy::Off,
            Standing::Deleted | Standing::Unknown => false,
        };
        let shuffles = self.volumes.iter().flat_map(Volume::unwritten);
        let waiting = shuffles.filter(|shuffle| shuffle.attempts > 0 && wanted(shuffle));
        // An attempt without bytes is to be written too.
        waiting.map(|shuffle| shuffle.bytes.max(1)).sum()
    }

    /// Whether manifests wait for a merge that has not just failed.
    fn is_to_merge(&self) -> bool {
        let candidates = self.candidates();
        let mut merges = candidates.iter().filter(|(_, one)| one.merges_only());
        merges.any(|(_, candidate)| planner::is_due(candidate, self.options.delay))
    }
}
