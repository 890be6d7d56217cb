//! A bound on the bytes sent to the store per second, and their count.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

/// Hands out bytes at a rate: each caller waits for the time of the bytes before.
pub(crate) struct Throttle {
    rate: Option<u64>,
    free_at: Mutex<Option<Instant>>,
    taken: AtomicU64,
}

impl Throttle {
    /// Bytes per second; `None`: as many as go.
    pub(crate) fn new(rate: Option<u64>) -> Self {
        Self {
            rate: rate.filter(|rate| *rate > 0),
            free_at: Mutex::default(),
            taken: AtomicU64::new(0),
        }
    }

    /// Bytes let through so far.
    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Waits until these bytes may be sent.
    pub(crate) async fn take(&self, bytes: u64) {
        self.taken.fetch_add(bytes, Ordering::Relaxed);
        let Some(rate) = self.rate else {
            return;
        };
        let time = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let begin = {
            let mut free_at = self.free_at.lock();
            let begin = free_at.unwrap_or_else(Instant::now).max(Instant::now());
            *free_at = Some(begin + time);
            begin
        };
        tokio::time::sleep_until(begin).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_go_at_the_rate_and_without_one_at_once() {
        let start = Instant::now();
        let throttle = Throttle::new(Some(1 << 20));
        for _ in 0..3 {
            throttle.take(100 << 10).await;
        }
        // The third begins when the first two have had their time.
        assert!(start.elapsed() >= Duration::from_millis(190));
        let start = Instant::now();
        Throttle::new(None).take(u64::MAX).await;
        assert!(start.elapsed() < Duration::from_secs(60));
    }
}
