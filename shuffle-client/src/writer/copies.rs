//! The copies of one output: one, or two at level `mirror`. Each has a push task of its own, on a
//! server without the other copy; the messages are shared.

use std::sync::Arc;

use futures_util::future::try_join_all;
use parking_lot::Mutex;
use shuffle_proto::v1;

use super::{
    build::Message,
    state::{Receipt, Shared},
};
use crate::{budget::Budget, error::Error, tally::Tally, types::Durability};

pub(super) struct Copies {
    copies: Vec<Arc<Shared>>,
    tally: Tally,
}

/// The server that each copy is at, or tries.
#[derive(Clone)]
pub(super) struct Claim {
    servers: Arc<Mutex<Vec<Option<String>>>>,
    copy: usize,
}

// === impl Copies ===

impl Copies {
    pub(super) fn new(durability: Durability, replay_buffer: usize, budget: &Budget) -> Self {
        let count = if durability == Durability::Mirror {
            2
        } else {
            1
        };
        let tally = Tally::default();
        let copies =
            (0..count).map(|_| Arc::new(Shared::new(replay_buffer, budget.clone(), tally.clone())));
        Self {
            copies: copies.collect(),
            tally,
        }
    }

    /// Parameters of a push task, for each copy.
    pub(super) fn tasks(&self) -> impl Iterator<Item = (Arc<Shared>, Claim)> {
        let servers = Arc::new(Mutex::new(vec![None; self.copies.len()]));
        self.copies
            .iter()
            .cloned()
            .enumerate()
            .map(move |(copy, shared)| {
                let servers = servers.clone();
                (shared, Claim { servers, copy })
            })
    }

    /// The first failure, if there is one; else the bytes that the slowest copy is still to hand to
    /// a connection.
    pub(super) fn check(&self) -> Result<usize, Error> {
        self.copies
            .iter()
            .try_fold(0, |most, copy| Ok(copy.check()?.max(most)))
    }

    pub(super) fn push(&self, message: &Message) {
        self.copies
            .iter()
            .for_each(|copy| copy.push(message.clone()));
    }

    pub(super) fn commit(&self, message: &v1::PartitionTotals, sums: (u64, u64)) {
        self.copies
            .iter()
            .for_each(|copy| copy.commit(message.clone(), sums));
    }

    /// Aborts uncommitted copies.
    pub(super) fn abort(&self, reason: &str) {
        self.copies.iter().for_each(|copy| copy.abort(reason));
    }

    pub(super) fn refuse(&self, error: &Error) {
        self.copies
            .iter()
            .for_each(|copy| copy.finish(Err(error.clone())));
    }

    pub(super) async fn drained_to(&self, bytes: usize) -> Result<(), Error> {
        let copies = self.copies.iter().map(|copy| copy.drained_to(bytes));
        try_join_all(copies).await.map(drop)
    }

    /// The receipts of all copies, or the first failure.
    pub(super) async fn result(&self) -> Result<Vec<Receipt>, Error> {
        try_join_all(self.copies.iter().map(|copy| copy.result())).await
    }

    pub(super) fn resends(&self) -> u64 {
        self.copies.iter().map(|copy| copy.resends()).sum()
    }

    pub(super) fn tally(&self) -> &Tally {
        &self.tally
    }
}

// === impl Claim ===

impl Claim {
    /// Number of the copy, from 0.
    pub(super) fn copy(&self) -> usize {
        self.copy
    }

    /// Goes to this server, unless another copy is there.
    pub(super) fn take(&self, address: &str) -> bool {
        let mut servers = self.servers.lock();
        let others = servers.iter().enumerate();
        let taken = others
            .filter(|(copy, _)| *copy != self.copy)
            .any(|(_, server)| server.as_deref() == Some(address));
        if !taken {
            servers[self.copy] = Some(address.to_string());
        }
        !taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_copies_are_never_at_one_server() {
        let copies = Copies::new(Durability::Mirror, 1, &Budget::new(None, &[]));
        let claims: Vec<Claim> = copies.tasks().map(|(_, claim)| claim).collect();
        assert!(claims[0].take("a:1") && claims[0].take("a:1"));
        assert!(!claims[1].take("a:1"));
        assert!(claims[1].take("b:1"));
        // A copy that moves on leaves its server to the other.
        assert!(!claims[0].take("b:1") && claims[0].take("c:1"));
        assert!(claims[1].take("a:1"));
    }

    #[test]
    fn other_levels_have_one_copy() {
        for level in Durability::ALL {
            let count = Copies::new(level, 1, &Budget::new(None, &[]))
                .tasks()
                .count();
            assert_eq!(count, 1 + usize::from(level == Durability::Mirror));
        }
    }
}
