//! Shuffles of which nothing is left but their name: attempts were opened, and none came to
//! anything.
//!
//! Whoever opens attempts of ever new shuffles would otherwise leave an entry for each until the
//! app ends. An entry goes only when nobody else has it in hand: an attempt that is just being
//! opened holds it, and so do the writer and every reader.

use std::sync::Arc;

use crate::staging::state::{
    names::Names,
    shared::Shared,
    shuffle::{OpenAttempt, Shuffle},
};

/// Entries from which on each doubling is a reason to look through all of them.
const MANY: usize = 1024;

/// Forgets the shuffle of an attempt that has ended without a commit, if nothing else is of it.
pub(crate) fn forget(shared: &Shared, attempt: &Arc<OpenAttempt>) {
    let shuffle = &attempt.shuffle;
    let mut names = shared.names.write();
    let key = (shuffle.app_no, shuffle.id);
    let is_this = |known: &Arc<Shuffle>| Arc::ptr_eq(known, shuffle);
    // The table has it, and this attempt, which nobody else has.
    let free = Arc::strong_count(shuffle) == 2 && Arc::strong_count(attempt) == 1;
    if free && names.shuffles.get(&key).is_some_and(is_this) && is_bare(shuffle) {
        names.shuffles.remove(&key);
    }
}

/// Forgets those that somebody had in hand when their last attempt ended.
pub(crate) fn sweep(names: &mut Names) {
    let count = names.shuffles.len();
    if count >= MANY && count.is_power_of_two() {
        names
            .shuffles
            .retain(|_, shuffle| Arc::strong_count(shuffle) > 1 || !is_bare(shuffle));
    }
}

/// Whether neither memory, disk, index nor store have anything of it.
fn is_bare(shuffle: &Shuffle) -> bool {
    // Who holds one of its locks has something in mind with it.
    let (Some(state), Some(output)) = (shuffle.state.try_lock(), shuffle.output.try_lock()) else {
        return false;
    };
    let nothing = state.open.is_empty()
        && state.commits.is_empty()
        && state.runs.is_empty()
        && state.held.is_empty()
        && state.generations.is_empty()
        && shuffle.dead.try_lock().is_some_and(|dead| dead.is_empty());
    nothing && !state.recorded && !state.deleted && state.generation == 0 && output.is_none()
}

#[cfg(test)]
mod tests {
    use shuffle_proto::ids::ShuffleId;

    use super::*;
    use crate::staging::{AttemptKey, Opened, tests::*};

    #[tokio::test]
    async fn shuffles_that_come_to_nothing_leave_nothing() {
        let bench = Bench::new();
        let volume = bench.open();
        let known = || volume.0.shared.names.read().shuffles.len();
        let of = |shuffle| AttemptKey {
            shuffle: ShuffleId(shuffle),
            ..key(1, 0, 1)
        };
        for shuffle in 0..5000 {
            let opened = volume.open_attempt(of(shuffle), 1, 1).expect("open");
            let Opened::New(writer) = opened else {
                panic!("it is new");
            };
            drop(writer);
        }
        // The writer may just have had some in hand.
        assert!(known() < MANY, "{} are left", known());
        // One of two attempts goes, and the shuffle stays for the other.
        let first = volume.open_attempt(of(9000), 2, 1).expect("open");
        let mut second = of(9000);
        second.attempt.0 += 1;
        let before = known();
        let second = volume.open_attempt(second, 2, 1).expect("open");
        drop(second);
        assert_eq!(known(), before);
        let differs = volume.open_attempt(of(9000), 2, 7);
        assert!(differs.is_err(), "its shape is known while one runs");
        drop(first);
    }
}
