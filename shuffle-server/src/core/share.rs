//! How many outputs of a shuffle this server takes from clients that prefer it, which is their word
//! (`Open.share`): they know of their own only, and this is where those of all meet.
//!
//! Owns the count of those that are being written; those that are committed the volumes count.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use shuffle_proto::ids::{AppId, ShuffleId};

type Key = (AppId, ShuffleId);

/// Outputs that are being written, by shuffle.
#[derive(Clone, Default)]
pub(crate) struct Shares(Arc<Mutex<HashMap<Key, u64>>>);

/// An output that is being written, for as long as the value lives.
pub(crate) struct Share {
    shares: Shares,
    key: Key,
}

impl Shares {
    /// Counts one more, unless the server has so many; 0 is no bound.
    pub(crate) fn take(
        &self,
        key: Key,
        most: u32,
        committed: impl FnOnce() -> u64,
    ) -> Option<Share> {
        let mut running = self.0.lock();
        let of_key = running.get(&key).copied().unwrap_or(0);
        // Under the lock, so that one that is committed at this moment is counted twice rather than
        // not at all.
        if most > 0 && of_key + committed() >= u64::from(most) {
            return None;
        }
        running.insert(key.clone(), of_key + 1);
        Some(Share {
            shares: self.clone(),
            key,
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut running = self.shares.0.lock();
        if let Some(count) = running.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                running.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_and_committed_outputs_count_together_and_leave_nothing() {
        let shares = Shares::default();
        let key = |shuffle| {
            let app = AppId::try_new("app-1").expect("valid");
            (app, ShuffleId(shuffle))
        };
        let first = shares.take(key(0), 3, || 1).expect("one of three");
        let second = shares.take(key(0), 3, || 1).expect("two of three");
        assert!(shares.take(key(0), 3, || 1).is_none());
        assert!(shares.take(key(1), 3, || 1).is_some(), "another shuffle");
        let third = shares.take(key(0), 0, || 100).expect("no bound");
        drop((first, third));
        assert!(shares.take(key(0), 3, || 1).is_some());
        drop(second);
        assert!(shares.0.lock().is_empty());
    }
}
