//! Commits at level `object`: the attempt is committed at level `disk`, goes to the object store with the next round of its shuffle, and
//! is acknowledged when the volume has recorded that it is there.
//!
//! Whoever waits at the same time is written back together: while a round runs, the next one's attempts gather. A store that is down
//! is waited for, as long as the caller does; what it has committed stays at level `disk` if it gives up.

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Key, WriteBack};
use crate::staging::{AttemptKey, Error, Tier, Volume};

/// How often it looks without having been told to: a shuffle may be deleted meanwhile, and tells nobody here.
const LOOK: Duration = Duration::from_secs(1);

/// Shuffles that commits wait for, with how many do.
#[derive(Default)]
pub(super) struct Awaited {
    waiting: Mutex<HashMap<Key, usize>>,
    ended: Notify,
}

/// One who waits.
struct Waiter<'a>(&'a Awaited, &'a Key);

// === impl WriteBack ===

impl WriteBack {
    /// Waits until a committed attempt is in the object store. `Fenced` or `Lost` if that will never be.
    pub async fn written(&self, volume: &Volume, attempt: &AttemptKey) -> Result<(), Error> {
        let key = (volume.id(), attempt.app.clone(), attempt.shuffle);
        let _waiter = Waiter::new(&self.awaited, &key);
        loop {
            let ended = self.awaited.ended.notified();
            if volume.tier(attempt)? == Tier::Object {
                return Ok(());
            }
            self.wake.notify_one();
            // Out of time is as good as told.
            let _ = tokio::time::timeout(LOOK, ended).await;
        }
    }
}

// === impl Awaited ===

impl Awaited {
    pub(super) fn has(&self, key: &Key) -> bool {
        self.waiting.lock().contains_key(key)
    }

    /// A round has ended, however it did.
    pub(super) fn look_again(&self) {
        self.ended.notify_waiters();
    }
}

// === impl Waiter ===

impl<'a> Waiter<'a> {
    fn new(awaited: &'a Awaited, key: &'a Key) -> Self {
        *awaited.waiting.lock().entry(key.clone()).or_default() += 1;
        Self(awaited, key)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut waiting = self.0.waiting.lock();
        if let Some(count) = waiting.get_mut(self.1) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(self.1);
            }
        }
    }
}
