//! One account of the memory of all writers and readers of a process, so that their sum fits the
//! process, whatever their number (`Settings::memory`).
//!
//! Counted is capacity, not fill: arenas ([`Share::Arenas`]), writers' messages
//! ([`Share::Messages`]), and readers' received bytes and windows ([`Share::Reads`]). No kind may
//! take all, or writing tasks would leave nothing to reading ones. Memory on its way through (a
//! block being decoded, a batch in work) is small per task and not counted.
//!
//! **Less room means slower, never failed.** Each arena, writer and reader may always have one
//! piece, whatever the account says ([`Budget::take`]); more is asked for ([`Budget::try_take`]).
//! After a refusal an arena is pushed earlier, a writer drops sent messages instead of keeping them
//! for another server, a reader waits until a block was taken. So the account can be overdrawn, by
//! a piece for each of them.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Use of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// Native memory for records.
    Arenas,
    /// Writers' messages, sent or kept.
    Messages,
    /// Readers' received bytes.
    Reads,
}

/// Shares with their most, in percent of all. Together more than all: who comes first may have
/// more.
const MOST: [usize; 3] = [40, 50, 60];

/// The account, shared by its clones.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// `None`: nothing is refused.
    limit: Option<usize>,
    /// Shares with a bound set by hand: never refused, and not counted for the others.
    apart: [bool; 3],
    used: Mutex<[usize; 3]>,
    freed: Notify,
}

/// A part of the account, given back when it is dropped.
#[derive(Debug)]
pub struct Permit {
    inner: Arc<Inner>,
    share: Share,
    bytes: usize,
}

impl Budget {
    /// An account of `limit` bytes, without the shares that `apart` names.
    pub(crate) fn new(limit: Option<usize>, apart: &[Share]) -> Self {
        let mut flags = [false; 3];
        for share in apart {
            flags[*share as usize] = true;
        }
        Self(Arc::new(Inner {
            limit,
            apart: flags,
            used: Default::default(),
            freed: Notify::new(),
        }))
    }

    /// Bytes of the account; `None` if there is no bound.
    pub fn limit(&self) -> Option<usize> {
        self.0.limit
    }

    /// Takes unavoidable bytes.
    pub fn take(&self, share: Share, bytes: usize) -> Permit {
        self.0.used.lock()[share as usize] += bytes;
        self.permit(share, bytes)
    }

    /// Takes it if there is room (invariant: permit-before-pages).
    pub fn try_take(&self, share: Share, bytes: usize) -> Option<Permit> {
        let mut used = self.0.used.lock();
        let mut then = *used;
        then[share as usize] += bytes;
        if self.0.is_short(share, &then) {
            return None;
        }
        *used = then;
        drop(used);
        Some(self.permit(share, bytes))
    }

    fn permit(&self, share: Share, bytes: usize) -> Permit {
        Permit {
            inner: self.0.clone(),
            share,
            bytes,
        }
    }

    /// Whether more is taken than there is.
    pub fn is_short(&self, share: Share) -> bool {
        self.0.is_short(share, &self.0.used.lock())
    }

    /// Bytes in use, all shares.
    pub fn used(&self) -> usize {
        self.0.used.lock().iter().sum()
    }

    /// Takes the bytes as soon as there is room, or at once if `must` holds now or later: asked
    /// again after `changed` and after every return to the account.
    pub(crate) async fn wait(
        &self,
        share: Share,
        bytes: usize,
        changed: &Notify,
        mut must: impl FnMut() -> bool,
    ) -> Permit {
        loop {
            let (freed, changed) = (self.0.freed.notified(), changed.notified());
            let (mut freed, mut changed) = (std::pin::pin!(freed), std::pin::pin!(changed));
            // Before looking: what is given back from here on is heard of.
            freed.as_mut().enable();
            changed.as_mut().enable();
            if let Some(permit) = self.try_take(share, bytes) {
                return permit;
            }
            if must() {
                return self.take(share, bytes);
            }
            tokio::select! {
                () = freed => {}
                () = changed => {}
            }
        }
    }
}

impl Inner {
    fn is_short(&self, share: Share, used: &[usize; 3]) -> bool {
        let index = share as usize;
        let Some(limit) = self.limit.filter(|_| !self.apart[index]) else {
            return false;
        };
        let all: usize = (0..MOST.len())
            .filter(|&i| !self.apart[i])
            .map(|i| used[i])
            .sum();
        all > limit || used[index] > limit / 100 * MOST[index]
    }
}

impl Permit {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.inner.used.lock()[self.share as usize] -= self.bytes;
        if self.inner.limit.is_some() {
            self.inner.freed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_has_its_most_and_all_have_the_limit() {
        let budget = Budget::new(Some(1000), &[]);
        let arenas = budget.try_take(Share::Arenas, 400).expect("room");
        assert!(budget.try_take(Share::Arenas, 1).is_none());
        let messages = budget.try_take(Share::Messages, 500).expect("room");
        assert!(budget.try_take(Share::Reads, 101).is_none());
        let reads = budget.try_take(Share::Reads, 100).expect("room");
        drop(arenas);
        assert!(budget.try_take(Share::Reads, 400).is_some());
        drop((messages, reads));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn what_there_is_no_way_around_is_taken_and_then_others_are_refused() {
        let budget = Budget::new(Some(1000), &[]);
        let giant = budget.take(Share::Messages, 5000);
        assert!(budget.is_short(Share::Messages) && budget.is_short(Share::Reads));
        assert!(budget.try_take(Share::Arenas, 1).is_none());
        drop(giant);
        assert!(budget.try_take(Share::Arenas, 1).is_some());
    }

    #[test]
    fn a_share_with_a_bound_of_its_own_takes_nothing_from_the_others() {
        let budget = Budget::new(Some(1000), &[Share::Messages]);
        let _own = budget.try_take(Share::Messages, 1 << 30).expect("its own");
        assert!(budget.try_take(Share::Reads, 600).is_some());
        assert!(budget.try_take(Share::Reads, 601).is_none());
    }

    #[test]
    fn without_a_limit_nothing_is_refused() {
        let budget = Budget::new(None, &[]);
        assert!(budget.try_take(Share::Arenas, 1 << 40).is_some());
    }

    #[tokio::test]
    async fn who_waits_is_let_in_when_something_is_given_back() {
        let budget = Budget::new(Some(1000), &[]);
        let held = budget.take(Share::Reads, 600);
        let changed = Notify::new();
        let (permit, ()) =
            tokio::join!(budget.wait(Share::Reads, 300, &changed, || false), async {
                tokio::task::yield_now().await;
                drop(held);
            });
        assert_eq!(budget.used(), 300);
        drop(permit);
    }
}
