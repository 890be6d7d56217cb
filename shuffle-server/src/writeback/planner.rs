//! Which shuffle is written back next, and whose local copy is reclaimed first: pure functions of
//! the state of volumes and apps.

use std::time::Duration;

use crate::{registry::Policy, staging::Unwritten};

/// Quiet time before an eager app's shuffle is written back: one manifest for attempts that commit
/// together.
const EAGER: Duration = Duration::from_millis(500);
/// Bytes from which an eager app's shuffle is not waited for.
const EAGER_BYTES: u64 = 64 << 20;

/// Factor on the delay of a lazy app's shuffle after all readers have read: most such shuffles are
/// deleted without another read.
const READ: u32 = 4;

/// Quiet time before the manifests of a shuffle are merged.
const MERGE: Duration = Duration::from_secs(2);
/// Manifests of a quiet shuffle: a reader makes one request per manifest.
const FEW: usize = 4;
/// Manifests smaller than [`SMALL`] of a busy shuffle: a reader makes two requests per manifest
/// after the loss of their server.
const MANY: usize = 8;
/// A manifest this many times larger than all smaller ones together is not merged. Sizes of the
/// remaining manifests are far apart, so the number of rewrites of a byte grows with the logarithm
/// of the bytes.
const APART: u64 = 2;
/// Size below which a manifest is merged, whatever the sizes of the others.
const SMALL: u64 = 32 << 20;
/// Part of a shuffle's bytes from which a manifest is not merged again: no manifest is rewritten
/// again and again.
const PART: u64 = 8;
/// Bytes merged by one round that commits may wait for.
const MOST: u64 = 64 << 20;
/// The same when nobody writes to the shuffle.
const MOST_QUIET: u64 = 1 << 30;

/// Bytes written by one round with waiting commits: later commits wait for its end.
const ROUND_AWAITED: u64 = 256 << 20;
/// The same during a drain: bytes without a manifest at the deadline were sent in vain.
const ROUND_DRAIN: u64 = 256 << 20;
/// The same without hurry; more with a large backlog, because every round adds a manifest to read.
const ROUND: u64 = 1 << 30;
/// Part of the backlog that one round takes, if that is more.
const ROUND_PART: u64 = 4;

/// Reason for hurry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    /// There is none.
    None,
    /// The disk is nearly full.
    Pressure,
    /// The server is about to end.
    Drain,
    /// A commit at level `object` waits for the shuffle, whatever the policy of the app.
    Awaited,
}

/// A shuffle with a backlog, or with manifests to merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// The volume's account of the shuffle.
    pub(super) shuffle: Unwritten,
    /// The app's policy.
    pub(super) policy: Policy,
    /// Why there is a hurry.
    pub(super) urgency: Urgency,
    /// Time left of the pause after a failed round.
    pub(super) not_before: Option<Duration>,
    /// Number of the shuffle's last round, in the order of rounds; 0 before the first.
    pub(super) turn: u64,
    /// Running rounds of the volume.
    pub(super) load: usize,
}

impl Candidate {
    /// Whether nothing is to be done but to put manifests together.
    pub(super) fn merges_only(&self) -> bool {
        self.shuffle.attempts == 0
    }

    /// Bytes of unwritten attempts for the next round; the rest is left for later rounds.
    pub(super) fn most(&self) -> u64 {
        match self.urgency {
            Urgency::Awaited => ROUND_AWAITED,
            Urgency::Drain => ROUND_DRAIN,
            Urgency::None | Urgency::Pressure => ROUND.max(self.shuffle.bytes / ROUND_PART),
        }
    }

    /// Generations that the next round merges; none if merging is not worthwhile.
    ///
    /// At level `object`, and with policy eager, every group of commits gets a manifest, however
    /// small, and a reader makes a request per manifest. The small manifests of a quiet shuffle are
    /// merged into one; those of a busy shuffle once they are many, as many as waiting commits
    /// allow. Shuffles read by every reader are not merged.
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
            found = smallest(below(SMALL.max(all / PART)), MOST_QUIET, u64::MAX);
        } else {
            let small = below(SMALL);
            if small.len() >= MANY {
                found = smallest(small, MOST, APART);
            }
        }
        match found.len() {
            0 | 1 => Vec::new(),
            _ => {
                found.sort_unstable();
                found.into_iter().map(|(number, _)| number).collect()
            }
        }
    }
}

/// Of these generations the smallest, of `most` bytes together, up to one that is `apart` times as
/// large as all before it.
fn smallest(mut all: Vec<(u32, u64)>, most: u64, apart: u64) -> Vec<(u32, u64)> {
    all.sort_by_key(|(_, bytes)| *bytes);
    let (mut sum, mut count) = (0u64, 0);
    let some = all.into_iter().take_while(|(_, bytes)| {
        let is_apart = count >= 2 && *bytes > sum.saturating_mul(apart);
        sum = sum.saturating_add(*bytes);
        count += 1;
        !is_apart && sum <= most
    });
    some.collect()
}

/// The candidate whose turn it is. `delay`: quiet time of a lazy app's shuffle.
///
/// Waiting commits come first, shuffle by shuffle in turns, so that no commit waits for another
/// shuffle's backlog; pure merges come last. Volumes share the rounds, so a hanging volume takes no
/// more than its share. Shuffles read by all readers come last: their data are needed again only
/// after a loss. Otherwise the newest shuffle comes first, because it has the longest life ahead;
/// old shuffles wait behind, but not for ever.
pub(super) fn next(candidates: &[Candidate], delay: Duration) -> Option<usize> {
    let due = candidates
        .iter()
        .enumerate()
        .filter(|(_, candidate)| is_due(candidate, delay));
    due.min_by_key(|(_, candidate)| {
        let shuffle = &candidate.shuffle;
        let awaited = candidate.urgency == Urgency::Awaited;
        let (read, turn, order) = match awaited {
            true => {
                let longest = Duration::MAX.saturating_sub(shuffle.waiting);
                (false, candidate.turn, longest)
            }
            false => (shuffle.read, 0, shuffle.quiet),
        };
        let load = candidate.load;
        (candidate.merges_only(), !awaited, load, read, turn, order)
    })
    .map(|(at, _)| at)
}

/// Whether the candidate is due.
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
        // A shuffle in the middle of a push is incomplete, and would need another round anyway.
        (Urgency::None, Policy::Lazy) => {
            let patience = if shuffle.read { READ } else { 1 };
            shuffle.quiet >= delay * patience && shuffle.open == 0
        }
    }
}

/// The shuffle to reclaim first: of the reclaimable ones, the first that was written back.
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
            turn: 0,
            load: 0,
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
    fn shuffles_that_commits_wait_for_take_turns_and_the_longest_waiting_begins() {
        let awaited = |waiting: u64, turn: u64| {
            let mut one = candidate(waiting, Policy::Lazy);
            one.urgency = Urgency::Awaited;
            one.turn = turn;
            one
        };
        let all = vec![awaited(100, 7), awaited(5, 0), awaited(9, 0), awaited(3, 6)];
        assert_eq!(next(&all, DELAY), Some(2));
        let mut all = vec![awaited(100, 7), awaited(5, 8), awaited(9, 9), awaited(3, 6)];
        assert_eq!(next(&all, DELAY), Some(3));
        // Its disk may hang, and has its share already.
        all[3].load = 1;
        assert_eq!(next(&all, DELAY), Some(0));
    }

    #[test]
    fn a_round_is_bounded_whatever_waits() {
        let mut much = candidate(90, Policy::Lazy);
        much.shuffle.bytes = 500 << 30;
        assert_eq!(much.most(), 125 << 30, "a few rounds");
        for urgency in [Urgency::Drain, Urgency::Awaited] {
            much.urgency = urgency;
            assert_eq!(much.most(), 256 << 20);
        }
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

    /// A shuffle entirely in the store, in manifests of these sizes.
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
        // Beside many large manifests, a larger one is small.
        assert_eq!(stored(2, &[SMALL; 20]).merges().len(), 20);
    }

    #[test]
    fn what_is_written_again_is_so_a_few_times_and_no_more() {
        // Bytes of a round, rounds, and allowed rewrites.
        let all = [
            (10 << 20, 5000, 2.0),
            (100_000, 20_000, 6.0),
            (1000, 10_000, 9.0),
            (100 << 20, 1000, 1.1),
        ];
        for (round, rounds, times) in all {
            let mut generations: Vec<(u32, u64)> = Vec::new();
            let (mut written, mut most) = (0, 0);
            let mut write = |number, bytes, urgency| {
                let mut pushed = stored(0, &[]);
                pushed.shuffle.generations = generations.clone();
                pushed.urgency = urgency;
                let merged = pushed.merges();
                let (gone, mut kept): (Vec<_>, Vec<_>) = generations
                    .drain(..)
                    .partition(|(number, _)| merged.contains(number));
                let again = gone.iter().map(|(_, bytes)| bytes).sum::<u64>();
                if bytes + again > 0 {
                    kept.push((number, bytes + again));
                }
                generations = kept;
                (again, generations.clone())
            };
            for number in 1..=rounds {
                let (again, now) = write(number, round, Urgency::Awaited);
                assert!(again <= MOST, "{again} bytes while commits wait");
                written += round + again;
                most = most.max(now.iter().filter(|one| one.1 < SMALL).count());
            }
            assert!(most <= MANY, "{most} small ones of {round} bytes");
            let was = written as f64 / (u64::from(rounds) * round) as f64;
            assert!(was < times, "written {was} times, {round} bytes a round");
            // When all is quiet, until nothing is to be gained.
            let mut number = rounds;
            let left = loop {
                number += 1;
                let (again, now) = write(number, 0, Urgency::Drain);
                assert!(again <= MOST_QUIET, "{again} bytes in one round");
                if again == 0 {
                    break now;
                }
            };
            let bytes = u64::from(rounds) * round;
            let few = (2 * bytes / MOST_QUIET).max(2 * PART) as usize;
            assert!(left.len() <= few, "{} of {bytes} bytes", left.len());
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
