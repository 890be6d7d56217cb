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

/// How long a shuffle must not be written to before its manifests are put together.
const MERGE: Duration = Duration::from_secs(2);
/// Manifests that a quiet shuffle may have: a reader makes a request of each.
const FEW: usize = 4;
/// Manifests of less than [`SMALL`] that a shuffle may have while it is written to.
const MANY: usize = 64;
/// Bytes of a manifest's attempts below which it is worth putting together with others, whatever the others have.
const SMALL: u64 = 32 << 20;
/// Of the bytes of all manifests of a shuffle, the part from which one is left as it is: so that none is written again and again.
const PART: u64 = 8;
/// Bytes that are put together while commits may wait for it.
const MOST: u64 = 64 << 20;

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

impl Candidate {
    /// Whether nothing is to be done but to put manifests together.
    pub(super) fn merges_only(&self) -> bool {
        self.shuffle.attempts == 0
    }

    /// Generations that the next round puts together, beside what else it writes; none if it is not worth it.
    ///
    /// At level `object`, and with a policy that is eager, a shuffle gets a manifest for what was committed together, which may be
    /// little, and a reader has to make a request of each. When all is quiet, those that are small beside the rest are put into one;
    /// while it is written to, when they have become many, as many as commits can wait for. Not of what every reader has read.
    pub(super) fn merges(&self) -> Vec<u32> {
        let Unwritten {
            generations,
            open,
            quiet,
            read,
            ..
        } = &self.shuffle;
        let hurry = matches!(self.urgency, Urgency::Pressure | Urgency::Drain);
        let is_quiet = *open == 0 && (hurry || *quiet >= MERGE) && self.urgency != Urgency::Awaited;
        let all: u64 = generations.iter().map(|(_, bytes)| bytes).sum();
        let below = |limit: u64| {
            let small = generations.iter().filter(move |(_, bytes)| *bytes < limit);
            small.copied().collect::<Vec<_>>()
        };
        if *read {
            return Vec::new();
        }
        let mut found: Vec<(u32, u64)> = Vec::new();
        if is_quiet && generations.len() > FEW {
            found = below(SMALL.max(all / PART));
        } else if generations.len() >= MANY {
            let mut small = below(SMALL);
            if small.len() >= MANY {
                small.sort_by_key(|(_, bytes)| *bytes);
                let mut sum = 0;
                found.extend(small.into_iter().take_while(|(_, bytes)| {
                    sum += bytes;
                    sum <= MOST
                }));
            }
        }
        match found.len() {
            0 | 1 => Vec::new(),
            _ => found.into_iter().map(|(number, _)| number).collect(),
        }
    }
}

/// The one whose turn it is. `delay`: how long a lazy app's shuffle must not be written to.
///
/// What a commit waits for comes first, and last what is in the store already and only to be put together. What all readers have read comes last: it is needed again only if something is lost. Of the others the newest come first, because
/// they live longest from now on; what has become old without being deleted waits behind them, not for ever.
pub(super) fn next(candidates: &[Candidate], delay: Duration) -> Option<usize> {
    let due = candidates
        .iter()
        .enumerate()
        .filter(|(_, candidate)| is_due(candidate, delay));
    due.min_by_key(|(_, candidate)| {
        let awaited = candidate.urgency == Urgency::Awaited;
        (
            candidate.merges_only(),
            !awaited,
            candidate.shuffle.read,
            candidate.shuffle.quiet,
        )
    })
    .map(|(at, _)| at)
}

/// Whether it is time.
pub(super) fn is_due(candidate: &Candidate, delay: Duration) -> bool {
    let shuffle = &candidate.shuffle;
    if candidate.not_before.is_some_and(|wait| !wait.is_zero()) {
        return false;
    }
    if candidate.merges_only() {
        return !candidate.merges().is_empty();
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
                generations: vec![],
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

    /// Of a shuffle that is all in the store, in manifests of so many bytes.
    fn stored(quiet: u64, bytes: &[u64]) -> Candidate {
        let mut stored = candidate(quiet, Policy::Off);
        stored.shuffle.attempts = 0;
        stored.shuffle.generations = (1..).zip(bytes.iter().copied()).collect();
        stored
    }

    #[test]
    fn small_manifests_are_put_together_when_all_is_quiet_and_nobody_has_read_everything() {
        let sizes = [1000, 2000, 200 << 20, 1000, 3000];
        assert_eq!(stored(2, &sizes).merges(), [1, 2, 4, 5]);
        assert_eq!(next(&[stored(2, &sizes)], DELAY), Some(0));
        assert_eq!(next(&[stored(1, &sizes)], DELAY), None);
        let mut hurried = stored(0, &sizes);
        for urgency in [Urgency::Drain, Urgency::Pressure] {
            hurried.urgency = urgency;
            assert_eq!(hurried.merges(), [1, 2, 4, 5]);
        }
        hurried.shuffle.open = 1;
        assert!(hurried.merges().is_empty(), "while attempts are pushed");
        let mut read = stored(2, &sizes);
        read.shuffle.read = true;
        assert!(read.merges().is_empty());
        assert!(stored(2, &[1000; FEW]).merges().is_empty(), "few enough");
        let large = [SMALL, SMALL, SMALL, SMALL, 1000];
        assert!(stored(2, &large).merges().is_empty(), "nothing to gain");
        // Beside many that are large, a larger one is small.
        assert_eq!(stored(2, &[SMALL; 20]).merges().len(), 20);
    }

    #[test]
    fn what_is_written_again_is_so_a_few_times_and_no_more() {
        for (round, rounds) in [(10 << 20, 5000), (100_000, 20_000), (100 << 20, 1000)] {
            let mut generations: Vec<(u32, u64)> = Vec::new();
            let (mut written, mut most) = (0, 0);
            for number in 1..=rounds {
                let mut pushed = stored(0, &[]);
                pushed.shuffle.generations = generations.clone();
                pushed.urgency = Urgency::Awaited;
                let last = number == rounds;
                if last {
                    pushed = Candidate {
                        urgency: Urgency::Drain,
                        ..pushed
                    };
                }
                let merged = pushed.merges();
                let (gone, mut kept): (Vec<_>, Vec<_>) = generations
                    .into_iter()
                    .partition(|(number, _)| merged.contains(number));
                let bytes = round + gone.iter().map(|(_, bytes)| bytes).sum::<u64>();
                assert!(bytes <= round + MOST || last, "{bytes} in one round");
                written += bytes;
                kept.push((number, bytes));
                generations = kept;
                most = most.max(generations.iter().filter(|one| one.1 < SMALL).count());
            }
            assert!(most <= MANY, "{most} small ones of {round} bytes");
            assert!(generations.len() <= 2 * PART as usize, "{generations:?}");
            let times = written as f64 / (u64::from(rounds) * round) as f64;
            assert!(times < 6.0, "written {times} times, {round} bytes a round");
        }
    }

    #[test]
    fn what_is_to_be_put_together_waits_for_all_that_is_to_be_written() {
        let mut all = vec![stored(5, &[1000; 9]), candidate(200, Policy::Lazy)];
        all[1].shuffle.read = true;
        assert_eq!(next(&all, DELAY), Some(0), "the other has time");
        all[1].urgency = Urgency::Drain;
        assert_eq!(next(&all, DELAY), Some(1));
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
