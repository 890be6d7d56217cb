//! Commits at level `object`: an attempt commits at level `disk`, goes to the object store with the
//! next round of its shuffle, and is acknowledged once the volume has recorded the object.
//!
//! Commits that wait at the same moment are written back together: while a round runs, attempts for
//! the next one gather. A store outage is waited for as long as the caller waits; after the caller
//! gives up, the attempt stays committed at level `disk`.

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use shuffle_remote::Owner;
use tokio::sync::Notify;

use super::{Key, WriteBack};
use crate::staging::{AttemptKey, Error, Placement, Volume};

/// Poll interval without a wake-up: the deletion of a shuffle wakes nobody here.
const LOOK: Duration = Duration::from_secs(1);

/// Shuffles with waiting commits, and the attempts of those commits; the longest wait comes first.
#[derive(Default)]
pub(super) struct Awaited {
    waiting: Mutex<HashMap<Key, Vec<Owner>>>,
    ended: Notify,
}

/// A waiting commit.
struct Waiter<'a>(&'a Awaited, &'a Key, Owner);

// === impl WriteBack ===

impl WriteBack {
    /// Waits until a committed attempt is in the object store; `Fenced` or `Lost` if the attempt
    /// can never get there.
    pub async fn written(&self, volume: &Volume, attempt: &AttemptKey) -> Result<(), Error> {
        let key = (volume.id(), attempt.app.clone(), attempt.shuffle);
        let owner = (attempt.map_index, attempt.attempt);
        let _waiter = Waiter::new(&self.awaited, &key, owner);
        loop {
            let ended = self.awaited.ended.notified();
            if volume.placement(attempt)? == Placement::Store {
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

    /// Attempts with waiting commits, longest wait first.
    pub(super) fn of(&self, key: &Key) -> Vec<Owner> {
        self.waiting.lock().get(key).cloned().unwrap_or_default()
    }

    /// Wakes waiting commits after a round, whether the round succeeded or failed.
    pub(super) fn look_again(&self) {
        self.ended.notify_waiters();
    }
}

// === impl Waiter ===

impl<'a> Waiter<'a> {
    fn new(awaited: &'a Awaited, key: &'a Key, owner: Owner) -> Self {
        let mut waiting = awaited.waiting.lock();
        waiting.entry(key.clone()).or_default().push(owner);
        Self(awaited, key, owner)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut waiting = self.0.waiting.lock();
        if let Some(owners) = waiting.get_mut(self.1) {
            // The same attempt may be waited for by two streams.
            if let Some(at) = owners.iter().position(|owner| *owner == self.2) {
                owners.remove(at);
            }
            if owners.is_empty() {
                waiting.remove(self.1);
            }
        }
    }
}
