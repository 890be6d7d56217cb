//! Commits at level `object`: the attempt is committed at level `disk`, goes to the object store
//! with the next round of its shuffle, and is acknowledged when the volume has recorded that it is
//! there.
//!
//! Whoever waits at the same time is written back together: while a round runs, the next one's
//! attempts gather. A store that is down is waited for, as long as the caller does; what it has
//! committed stays at level `disk` if it gives up.

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use shuffle_remote::Owner;
use tokio::sync::Notify;

use super::{Key, WriteBack};
use crate::staging::{AttemptKey, Error, Placement, Volume};

/// How often it looks without having been told to: a shuffle may be deleted meanwhile, and tells
/// nobody here.
const LOOK: Duration = Duration::from_secs(1);

/// Shuffles that commits wait for, with the attempts of those commits: who has waited longest comes
/// first.
#[derive(Default)]
pub(super) struct Awaited {
    waiting: Mutex<HashMap<Key, Vec<Owner>>>,
    ended: Notify,
}

/// One who waits.
struct Waiter<'a>(&'a Awaited, &'a Key, Owner);

// === impl WriteBack ===

impl WriteBack {
    /// Waits until a committed attempt is in the object store. `Fenced` or `Lost` if that will
    /// never be.
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

    /// Attempts that are waited for, in the order in which that began.
    pub(super) fn of(&self, key: &Key) -> Vec<Owner> {
        self.waiting.lock().get(key).cloned().unwrap_or_default()
    }

    /// A round has ended, however it did.
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
