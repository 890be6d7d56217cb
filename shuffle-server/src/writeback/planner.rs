//! Which shuffle is written back next, and whose local copy goes first: pure functions of what the volumes and the apps say.

use std::time::Duration;

use super::Policy;
use crate::staging::Unwritten;

/// How long a shuffle of an eager app must not be written to: one manifest for attempts that commit together.
const EAGER: Duration = Duration::from_millis(500);
/// Bytes from which an eager app's shuffle is not waited for.
const EAGER_BYTES: u64 = 64 << 20;

/// How many times longer a lazy app's shuffle waits that all readers have read: most are deleted without having been read again.
const READ: u32 = 4;

/// Why there is a hurry, if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    /// There is none.
    None,
    /// The disk is nearly full.
    Pressure,
    /// The server is about to end.
    Drain,
    /// A commit at level `object` waits for it, whatever its app's policy says of the rest.
    Awaited,
}

/// A shuffle that has something to be written back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// What its volume says.
    pub(super) shuffle: Unwritten,
    /// What its app wants.
    pub(super) policy: Policy,
    /// Why there is a hurry.
    pub(super) urgency: Urgency,
    /// A round that failed is tried again after this.
    pub(super) not_before: Option<Duration>,
}

/// The one whose turn it is. `delay`: how long a lazy app's shuffle must not be written to.
///
/// What a commit waits for comes first. What all readers have read comes last: it is needed again only if something is lost. Of the others the newest come first, because
/// they live longest from now on; what has become old without being deleted waits behind them, not for ever.
pub(super) fn next(candidates: &[Candidate], delay: Duration) -> Option<usize> {
    let due = candidates
        .iter()
        .enumerate()
        .filter(|(_, candidate)| is_due(candidate, delay));
    due.min_by_key(|(_, candidate)| {
        let awaited = candidate.urgency == Urgency::Awaited;
        (!awaited, candidate.shuffle.read, candidate.shuffle.quiet)
    })
    .map(|(at, _)| at)
}

/// Whether it is time.
pub(super) fn is_due(candidate: &Candidate, delay: Duration) -> bool {
    let shuffle = &candidate.shuffle;
    if shuffle.attempts == 0 || candidate.not_before.is_some_and(|wait| !wait.is_zero()) {
        return false;
    }
    match (candidate.urgency, candidate.policy) {
        (Urgency::Awaited, _) => true,
        (_, Policy::Off) => false,
        (Urgency::Pressure | Urgency::Drain, _) => true,
        (Urgency::None, Policy::Eager) => shuffle.quiet >= EAGER || shuffle.bytes >= EAGER_BYTES,
        // While attempts are pushed the shuffle is not complete, and one more round would be needed anyway.
        (Urgency::None, Policy::Lazy) => {
            let patience = if shuffle.read { READ } else { 1 };
            shuffle.quiet >= delay * patience && shuffle.open == 0
        }
    }
}

/// The shuffle whose local copy goes first: of those that can go, the one that was written back first.
pub(super) fn reclaim(shuffles: &[Unwritten]) -> Option<usize> {
    let can_go = shuffles
        .iter()
        .enumerate()
        .filter(|(_, shuffle)| shuffle.reclaimable);
    can_go
        .max_by_key(|(_, shuffle)| shuffle.written_for)
        .map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use shuffle_proto::ids::{AppId, ShuffleId, VolumeId};

    use super::*;

    const DELAY: Duration = Duration::from_secs(60);

    fn candidate(quiet: u64, policy: Policy) -> Candidate {
        Candidate {
            shuffle: Unwritten {
                app: AppId::try_new("app").expect("valid"),
                shuffle: ShuffleId(quiet as u32),
                volume: VolumeId::random(),
                attempts: 1,
                bytes: 1000,
                waiting: Duration::from_secs(quiet),
                open: 0,
                quiet: Duration::from_secs(quiet),
                read: false,
                local: 1000,
                reclaimable: false,
                written_for: Duration::ZERO,
            },
            policy,
            urgency: Urgency::None,
            not_before: None,
        }
    }

    #[test]
    fn a_lazy_shuffle_waits_for_its_delay_and_its_pushes() {
        assert!(!is_due(&candidate(59, Policy::Lazy), DELAY));
        assert!(is_due(&candidate(60, Policy::Lazy), DELAY));
        let mut pushed = candidate(60, Policy::Lazy);
        pushed.shuffle.open = 1;
        assert!(!is_due(&pushed, DELAY));
        pushed.urgency = Urgency::Pressure;
        assert!(is_due(&pushed, DELAY));
    }

    #[test]
    fn a_lazy_shuffle_that_was_read_waits_longer_and_not_for_ever() {
        let mut read = candidate(239, Policy::Lazy);
        read.shuffle.read = true;
        assert!(!is_due(&read, DELAY));
        read.shuffle.quiet = DELAY * READ;
        assert!(is_due(&read, DELAY));
    }

    #[test]
    fn an_eager_shuffle_goes_when_it_pauses_or_is_large() {
        assert!(is_due(&candidate(1, Policy::Eager), DELAY));
        let mut busy = candidate(0, Policy::Eager);
        assert!(!is_due(&busy, DELAY));
        busy.shuffle.bytes = EAGER_BYTES;
        assert!(is_due(&busy, DELAY));
    }

    #[test]
    fn what_is_off_or_has_nothing_never_goes() {
        let mut off = candidate(1000, Policy::Off);
        let mut nothing = candidate(1000, Policy::Eager);
        nothing.shuffle.attempts = 0;
        for urgency in [Urgency::None, Urgency::Pressure, Urgency::Drain] {
            (off.urgency, nothing.urgency) = (urgency, urgency);
            assert!(!is_due(&off, DELAY) && !is_due(&nothing, DELAY));
        }
    }

    #[test]
    fn what_a_commit_waits_for_goes_before_all_others_whatever_the_policy() {
        let mut awaited = candidate(1, Policy::Off);
        awaited.urgency = Urgency::Awaited;
        awaited.shuffle.read = true;
        let mut all = vec![candidate(90, Policy::Lazy), awaited];
        assert_eq!(next(&all, DELAY), Some(1));
        all[1].not_before = Some(Duration::from_secs(1));
        assert_eq!(next(&all, DELAY), Some(0));
    }

    #[test]
    fn the_newest_goes_first_and_what_was_read_last() {
        let mut read = candidate(301, Policy::Lazy);
        read.shuffle.read = true;
        let mut all = vec![
            candidate(90, Policy::Lazy),
            read,
            candidate(62, Policy::Lazy),
            candidate(1, Policy::Lazy),
        ];
        assert_eq!(next(&all, DELAY), Some(2));
        all[2].shuffle.attempts = 0;
        assert_eq!(next(&all, DELAY), Some(0));
        all[0].shuffle.attempts = 0;
        assert_eq!(next(&all, DELAY), Some(1));
        all[1].not_before = Some(Duration::from_secs(1));
        assert_eq!(next(&all, DELAY), None);
    }

    #[test]
    fn the_oldest_in_the_store_is_reclaimed_first() {
        let mut shuffles: Vec<_> = (1..5)
            .map(|quiet| candidate(quiet, Policy::Lazy).shuffle)
            .collect();
        assert_eq!(reclaim(&shuffles), None);
        for (at, written) in [(0, 5), (1, 9), (3, 7)] {
            shuffles[at].reclaimable = true;
            shuffles[at].written_for = Duration::from_secs(written);
        }
        assert_eq!(reclaim(&shuffles), Some(1));
    }
}
