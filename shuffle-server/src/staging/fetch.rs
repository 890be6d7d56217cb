//! The way out: a fetch walks over a shuffle's runs, oldest first, and then over what is in no run yet.
//!
//! A fetch covers the attempts that were committed when it began. It holds on to their totals, but not to their bytes: every step
//! takes a new [`Snapshot`], so a slow reader keeps nobody's memory. If blocks move into a new run between two steps, that run comes
//! next, and what was already sent from memory is left out of it; that works because an attempt's blocks leave memory in the order
//! of their seq, and because memory is walked in the order of (map index, attempt, seq).
//!
//! An attempt goes out in the order of seq, or from some point on not at all: once any of it is lost, or left out because the disk
//! does not answer, nothing of it is sent that comes after. So whoever has the rest (the object store, the other copy, the disk that
//! is quick again) can complete what the reader has.
//!
//! Checksums are not computed here: the reader does that over its own copy, which says more, and reports what fails
//! (`super::verify`).

mod memory;
mod runs;

use std::{collections::BTreeSet, ops::Range, sync::Arc};

use bytes::{BufMut, Bytes, BytesMut};
use shuffle_proto::{
    block::BlockHeader,
    ids::{AttemptId, MapIndex},
    summary::{AttemptTotals, LostAttempt, Summary},
};

use super::{
    Error, FetchPart,
    batch::{Data, Owner},
    disk::is_passing,
    flush::find_run,
    health::GLANCE,
    part::PartBuilder,
    segment::Run,
    shared::Shared,
    shuffle::{Commits, Committed, Pin, Shuffle, Snapshot},
    stats::Stats,
};
use crate::index::RunId;
use runs::Table;

/// A read of some partitions of some maps. Reads what was committed when it began.
pub struct Fetch {
    /// Absent while a step runs, and for good if that step was dropped or has failed.
    reader: Option<Box<Reader>>,
    summary: Summary,
    /// Whether what it reads counts as read by a reducer.
    counted: bool,
    unanswered: Option<Unanswered>,
}

/// What a fetch has left out because the disk did not answer: not lost, but not to be had now.
#[derive(Debug)]
pub struct Unanswered {
    /// `Unavailable`, and why.
    pub error: Error,
    /// The attempts, which the summary calls lost.
    pub attempts: BTreeSet<(MapIndex, AttemptId)>,
}

/// How far a fetch is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// All runs before this one are done.
    run: u64,
    /// Blocks of the run before this ordinal are done.
    ordinal: u32,
    /// Of what was in no run, everything before this is done.
    memory: Option<(Owner, u32)>,
}

/// No owner comes after it.
const LAST: Owner = (MapIndex(u32::MAX), AttemptId(u64::MAX));

/// What a fetch knows; goes to a thread that may block and comes back.
struct Reader {
    shared: Arc<Shared>,
    shuffle: Arc<Shuffle>,
    partitions: Range<u32>,
    maps: Range<u32>,
    /// Attempts that were committed when the fetch began.
    commits: Arc<Commits>,
    version: u64,
    /// The attempts that are wanted; all, if absent.
    only: Option<Arc<BTreeSet<Owner>>>,
    /// Committed attempts of which nothing is sent from here on: not wanted, lost, or left out.
    excluded: BTreeSet<Owner>,
    /// How often something of the shuffle was lost when that was last looked at.
    damages: u64,
    position: Position,
    /// The rows that are read from the current run.
    table: Option<Table>,
    left_out: Option<LeftOut>,
    pin: Pin,
}

/// What is not read because the disk does not answer.
#[derive(Clone)]
struct LeftOut {
    reason: String,
    /// Before all of it: a reader that comes back is to get it too. Absent until it is known what that is.
    resume: Option<Position>,
    runs: BTreeSet<RunId>,
    attempts: BTreeSet<Owner>,
}

/// What a step came to.
enum Step {
    Part(FetchPart),
    /// The next bytes are in a file.
    NeedsDisk,
    End(Summary, Option<Unanswered>),
}

/// Whether a part takes more.
enum Filled {
    More,
    Full,
    NeedsDisk,
}

// === impl Position ===

impl Position {
    const VERSION: u8 = 1;
    const BYTES: usize = 30;

    /// Behind everything.
    pub(super) const END: Self = Self {
        run: u64::MAX,
        ordinal: u32::MAX,
        memory: Some((LAST, u32::MAX)),
    };

    pub(super) fn encode(self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(Self::BYTES);
        let ((map_index, attempt), seq) = self.memory.unwrap_or(((MapIndex(0), AttemptId(0)), 0));
        bytes.put_u8(Self::VERSION);
        bytes.put_u64_le(self.run);
        bytes.put_u32_le(self.ordinal);
        bytes.put_u8(self.memory.is_some().into());
        bytes.put_u32_le(map_index.0);
        bytes.put_u64_le(attempt.0);
        bytes.put_u32_le(seq);
        bytes.freeze()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::BYTES] = bytes.try_into().ok()?;
        let u32_at = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        let memory = match bytes[13] {
            0 => None,
            1 => Some(((MapIndex(u32_at(14)), AttemptId(u64_at(18))), u32_at(26))),
            _ => return None,
        };
        (bytes[0] == Self::VERSION).then(|| Self {
            run: u64_at(1),
            ordinal: u32_at(9),
            memory,
        })
    }

    /// Whether a block was already sent from memory.
    fn sent(&self, owner: Owner, seq: u32) -> bool {
        self.memory.is_some_and(|done| (owner, seq) < done)
    }
}

// === impl Fetch ===

impl Fetch {
    pub(super) fn new(
        shared: Arc<Shared>,
        shuffle: Arc<Shuffle>,
        partitions: Range<u32>,
        maps: Range<u32>,
        position: Position,
    ) -> Result<Self, Error> {
        let (pin, snapshot) = shuffle.pin()?;
        let reader = Reader {
            shared,
            shuffle,
            partitions,
            maps,
            commits: snapshot.commits,
            version: snapshot.version,
            only: None,
            excluded: BTreeSet::new(),
            damages: 0,
            position,
            table: None,
            left_out: None,
            pin,
        };
        Ok(Self {
            reader: Some(Box::new(reader)),
            summary: Summary::default(),
            counted: true,
            unanswered: None,
        })
    }

    /// Of these attempts alone; the summary names each of them, as covered or as lost.
    pub fn only(mut self, only: Option<Arc<BTreeSet<(MapIndex, AttemptId)>>>) -> Self {
        if let (Some(reader), Some(only)) = (&mut self.reader, only) {
            let commits = reader.commits.clone();
            for (owner, committed) in of_maps(&commits, &reader.maps) {
                // What has no block to be left out need not be looked up for every block.
                if !only.contains(owner) && committed.totals.sum(&reader.partitions).blocks > 0 {
                    reader.excluded.insert(*owner);
                }
            }
            reader.only = Some(only);
        }
        self
    }

    /// A read of the server's own.
    pub(super) fn not_counted(mut self) -> Self {
        self.counted = false;
        self
    }

    /// Some more blocks; `None` after the last. Dropped while it waits, or failed, the fetch is over.
    pub async fn next(&mut self) -> Result<Option<FetchPart>, Error> {
        let over = || Error::Internal("the fetch is over".into());
        let mut reader = self.reader.take().ok_or_else(over)?;
        let mut step = reader.step(false)?;
        if matches!(step, Step::NeedsDisk) {
            (reader, step) = read_disk(reader, self.counted).await?;
        }
        if let (Step::Part(part), true) = (&step, self.counted) {
            let bytes = part.data.iter().map(Bytes::len).sum::<usize>() as u64;
            let fetched = &reader.shuffle.fetched;
            fetched.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
        }
        self.reader = Some(reader);
        match step {
            Step::Part(part) => Ok(Some(part)),
            Step::End(summary, unanswered) => {
                (self.summary, self.unanswered) = (summary, unanswered);
                Ok(None)
            }
            Step::NeedsDisk => Err(Error::Internal("a step with a disk wants one".into())),
        }
    }

    /// What was left out because the disk did not answer; known once [`Fetch::next`] has returned `None`.
    pub fn unanswered(&mut self) -> Option<Unanswered> {
        self.unanswered.take()
    }

    /// What was covered; complete once [`Fetch::next`] has returned `None`.
    pub fn summary(&self) -> Summary {
        self.summary.clone()
    }
}

impl std::fmt::Debug for Fetch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.reader {
            Some(reader) => write!(
                f,
                "Fetch(app {} shuffle {} partitions {:?} maps {:?} at {:?})",
                reader.shuffle.app,
                reader.shuffle.id,
                reader.partitions,
                reader.maps,
                reader.position
            ),
            None => f.write_str("Fetch(over)"),
        }
    }
}

/// A step on a thread that may block: a cold disk must not hold up the connections of this one, and one that hangs neither this fetch
/// nor all such threads. With `partly` what only that disk has is left out then, and the rest is served.
async fn read_disk(mut reader: Box<Reader>, partly: bool) -> Result<(Box<Reader>, Step), Error> {
    let mut again = reader.again();
    let reads = reader.shared.reads.clone();
    let mut reading = std::pin::pin!(async move {
        let permit = reads.acquire_owned().await;
        let blocking = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let step = reader.step(true);
            (reader, step)
        });
        let (reader, step) = blocking
            .await
            .map_err(|error| Error::Internal(format!("fetch: {error}")))?;
        Ok((reader, step?))
    });
    let overdue = loop {
        if let Some(overdue) = again.shared.disk.watch.overdue_read() {
            break overdue;
        }
        if let Ok(done) = tokio::time::timeout(GLANCE, &mut reading).await {
            return done;
        }
    };
    // For those who push there.
    again.shared.hangs();
    Stats::add(&again.shared.stats.read_failures, 1);
    if !partly {
        return Err(Error::Unavailable {
            volume: again.shared.id,
            reason: overdue.to_string(),
        });
    }
    again.left_out = Some(LeftOut {
        reason: overdue.to_string(),
        resume: None,
        runs: BTreeSet::new(),
        attempts: BTreeSet::new(),
    });
    let step = again.step(false)?;
    Ok((again, step))
}

// === impl Reader ===

impl Reader {
    /// The same once more, for when this one goes to a thread that does not come back.
    fn again(&self) -> Box<Self> {
        Box::new(Self {
            shared: self.shared.clone(),
            shuffle: self.shuffle.clone(),
            partitions: self.partitions.clone(),
            maps: self.maps.clone(),
            commits: self.commits.clone(),
            version: self.version,
            only: self.only.clone(),
            excluded: self.excluded.clone(),
            damages: self.damages,
            position: self.position,
            table: None,
            left_out: self.left_out.clone(),
            pin: self.pin.again(),
        })
    }

    /// Fills one part, from files only if `disk`.
    fn step(&mut self, disk: bool) -> Result<Step, Error> {
        let damages = self.shuffle.damages();
        let snapshot = self.shuffle.snapshot()?;
        if self.damages != damages {
            self.damages = damages;
            self.exclude_lost(&snapshot);
        }
        self.leave_out(&snapshot);
        let mut part = PartBuilder::new(self.shared.pool.clone());
        let mut filled = self.take_runs(&snapshot, &mut part, disk)?;
        if matches!(filled, Filled::More) {
            filled = self.take_memory(&snapshot, &mut part, disk)?;
        }
        let resume = self.left_out.as_ref().and_then(|left_out| left_out.resume);
        match (part.finish(resume.unwrap_or(self.position)), filled) {
            (Some(part), _) => Ok(Step::Part(part)),
            (None, Filled::NeedsDisk) => Ok(Step::NeedsDisk),
            (None, _) => {
                let summary = self.summary(&snapshot);
                let unanswered = self.unanswered(&summary);
                Ok(Step::End(summary, unanswered))
            }
        }
    }

    fn take_runs(
        &mut self,
        snapshot: &Snapshot,
        part: &mut PartBuilder,
        disk: bool,
    ) -> Result<Filled, Error> {
        let begin = snapshot
            .runs
            .partition_point(|run| run.id.0 < self.position.run);
        for run in &snapshot.runs[begin..] {
            if run.id.0 > self.position.run {
                (self.position.run, self.position.ordinal) = (run.id.0, 0);
            }
            let span = run.span(&self.partitions);
            let ordinals = self.position.ordinal.max(span.start)..span.end;
            if !ordinals.is_empty() && run.lost.get().is_none() {
                let filled = if let Some(cached) = run.cached() {
                    self.take_cached(snapshot, run, &cached, ordinals, part)
                } else if self.left_out.is_some() {
                    // Also one that memory had a moment ago.
                    self.leave_out_run(snapshot, run.id);
                    Filled::More
                } else if disk {
                    match self.take_file(snapshot, run, ordinals, part) {
                        Ok(filled) => filled,
                        Err(Error::Io {
                            source,
                            operation,
                            path,
                        }) if is_passing(&source) => {
                            return Err(Error::Io {
                                source,
                                operation,
                                path,
                            });
                        }
                        Err(error) => {
                            self.lose(run, &error);
                            self.exclude_lost(snapshot);
                            Filled::More
                        }
                    }
                } else {
                    Filled::NeedsDisk
                };
                if !matches!(filled, Filled::More) {
                    return Ok(filled);
                }
            }
            self.position.ordinal = u32::MAX;
            self.table = None;
        }
        Ok(Filled::More)
    }

    /// Whether a block of a run goes out: it is asked for, not sent yet, and of the stream that was committed.
    fn wants(
        &self,
        snapshot: &Snapshot,
        run: &Run,
        all_committed: bool,
        block: &BlockHeader,
    ) -> bool {
        if !self.maps.contains(&block.map_index.0) {
            return false;
        }
        let owner = (block.map_index, block.attempt);
        if self.position.sent(owner, block.seq)
            || (!self.excluded.is_empty() && self.excluded.contains(&owner))
        {
            return false;
        }
        all_committed
            || (self.commits.contains_key(&owner)
                && snapshot
                    .commits
                    .get(&owner)
                    .is_some_and(|committed| committed.runs.binary_search(&run.id).is_ok()))
    }

    /// Whether all attempts of a run were committed when the fetch began.
    fn all_committed(&self, run: &Run) -> bool {
        run.settled.load(std::sync::atomic::Ordering::Acquire) <= self.version
    }

    fn lose(&self, run: &Run, error: &Error) {
        Stats::add(&self.shared.stats.read_failures, 1);
        self.shared.note_read(error);
        run.lose(|| error.to_string());
        self.shuffle.damage();
    }

    /// Sends nothing more of attempts that are not whole here (invariant: an attempt is served in the order of seq, or not at all).
    fn exclude_lost(&mut self, snapshot: &Snapshot) {
        let commits = self.commits.clone();
        for (owner, _) in of_maps(&commits, &self.maps) {
            if snapshot.reclaimed.contains(owner) || lost_reason(snapshot, *owner).is_some() {
                self.excluded.insert(*owner);
            }
        }
    }

    /// Once the disk does not answer: leaves out what only it has of what is still to be sent, and the attempts that have any of it,
    /// also where memory has more of them.
    fn leave_out(&mut self, snapshot: &Snapshot) {
        let position = self.position;
        let Some(left_out) = self.left_out.as_mut().filter(|one| one.resume.is_none()) else {
            return;
        };
        left_out.resume = Some(position);
        for run in &snapshot.runs[snapshot.runs.partition_point(|run| run.id.0 < position.run)..] {
            let span = run.span(&self.partitions);
            let done = match run.id.0 == position.run {
                true => position.ordinal,
                false => 0,
            };
            if done.max(span.start) < span.end && run.cached().is_none() {
                left_out.runs.insert(run.id);
            }
        }
        let in_log = |owner: &Owner| {
            let held = snapshot.held.get(owner);
            held.is_some_and(|held| {
                let mut batches = held.batches.iter();
                batches.any(|batch| {
                    matches!(batch.data(), Data::Log(..))
                        && !batch.select(&self.partitions).is_empty()
                })
            })
        };
        let begin = match position.memory {
            Some((owner, _)) => owner,
            None => (MapIndex(0), AttemptId(0)),
        };
        for (owner, committed) in of_maps(&snapshot.commits, &self.maps) {
            let mut runs = committed.runs.iter();
            if runs.any(|run| left_out.runs.contains(run)) || (*owner >= begin && in_log(owner)) {
                left_out.attempts.insert(*owner);
                self.excluded.insert(*owner);
            }
        }
    }

    /// Leaves out one more run, and the attempts that have any of it.
    fn leave_out_run(&mut self, snapshot: &Snapshot, run: RunId) {
        let Some(left_out) = self
            .left_out
            .as_mut()
            .filter(|one| !one.runs.contains(&run))
        else {
            return;
        };
        left_out.runs.insert(run);
        for (owner, committed) in of_maps(&snapshot.commits, &self.maps) {
            if committed.runs.binary_search(&run).is_ok() {
                left_out.attempts.insert(*owner);
                self.excluded.insert(*owner);
            }
        }
    }

    /// What the commits say of the partitions, and which attempts are not whole.
    fn summary(&self, snapshot: &Snapshot) -> Summary {
        let mut summary = Summary::default();
        let damaged = self.shuffle.damages() > 0;
        for (&owner, committed) in of_maps(&self.commits, &self.maps) {
            let (map_index, attempt) = owner;
            if self
                .only
                .as_ref()
                .is_some_and(|only| !only.contains(&owner))
            {
                continue;
            }
            let reason = if snapshot.reclaimed.contains(&owner) {
                Some("it is in the object store only".into())
            } else {
                let lost = damaged.then(|| lost_reason(snapshot, owner)).flatten();
                lost.or_else(|| self.left_out_reason(owner))
            };
            if let Some(reason) = reason {
                summary.lost.push(LostAttempt {
                    map_index,
                    attempt,
                    reason,
                });
                continue;
            }
            let sum = committed.totals.sum(&self.partitions);
            let blocks = u32::try_from(sum.blocks).unwrap_or(u32::MAX);
            summary.covered.push(AttemptTotals {
                map_index,
                attempt,
                blocks,
                bytes: sum.bytes,
                records: sum.records,
            });
        }
        let unknown = self.only.iter().flat_map(|only| only.iter());
        for &(map_index, attempt) in unknown
            .filter(|owner| self.maps.contains(&owner.0.0) && !self.commits.contains_key(*owner))
        {
            summary.lost.push(LostAttempt {
                map_index,
                attempt,
                reason: format!("volume {} does not know it", self.shared.id),
            });
        }
        summary
    }
}

impl Reader {
    fn left_out_reason(&self, owner: Owner) -> Option<String> {
        let left_out = self.left_out.as_ref()?;
        let left = left_out.attempts.contains(&owner);
        left.then(|| left_out.reason.clone())
    }

    /// What of a summary is lost for now only.
    fn unanswered(&self, summary: &Summary) -> Option<Unanswered> {
        let left_out = self.left_out.as_ref()?;
        let lost = summary.lost.iter();
        let lost = lost.filter(|lost| lost.reason == left_out.reason);
        let attempts: BTreeSet<_> = lost.map(|lost| (lost.map_index, lost.attempt)).collect();
        (!attempts.is_empty()).then(|| Unanswered {
            error: Error::Unavailable {
                volume: self.shared.id,
                reason: left_out.reason.clone(),
            },
            attempts,
        })
    }
}

/// The commits of a range of map indexes.
fn of_maps<'a>(
    commits: &'a Commits,
    maps: &Range<u32>,
) -> impl Iterator<Item = (&'a Owner, &'a Arc<Committed>)> {
    let (start, end) = (maps.start, maps.end);
    let commits = commits.range((MapIndex(start), AttemptId(0))..);
    commits.take_while(move |((map_index, _), _)| map_index.0 < end)
}

/// Why an attempt is not whole.
pub(super) fn lost_reason(snapshot: &Snapshot, owner: Owner) -> Option<String> {
    let committed = snapshot.commits.get(&owner)?;
    if let Some(reason) = &committed.lost {
        return Some(reason.clone());
    }
    if let Some(reason) = snapshot.held.get(&owner).and_then(|held| held.lost.get()) {
        return Some(reason.clone());
    }
    committed
        .runs
        .iter()
        .find_map(|&id| match find_run(&snapshot.runs, id) {
            Some(run) => run.lost.get().cloned(),
            None => Some(format!("run {id} is not in the index")),
        })
}
