//! Walks over a shuffle's runs, oldest first, and then over what is in no run yet.
//!
//! A reader holds on to the totals of the attempts that it covers, but not to their bytes: every
//! step takes a new [`Snapshot`], so a slow reader keeps nobody's memory. If blocks move into a new
//! run between two steps, that run comes next, and what was already sent from memory is left out of
//! it; that works because an attempt's blocks leave memory in the order of their seq, and because
//! memory is walked in the order of (map index, attempt, seq).
//!
//! An attempt goes out in the order of seq, or from some point on not at all: once any of it is
//! lost, or left out because the disk does not answer, nothing of it is sent that comes after. So
//! whoever has the rest (the object store, the other copy, the disk that is quick again) can
//! complete what the reader has.

use std::{collections::BTreeSet, ops::Range, sync::Arc};

use shuffle_proto::{
    block::BlockHeader,
    ids::{AttemptId, MapIndex},
    summary::Summary,
};

use crate::{
    index::RunId,
    staging::{
        disk::trouble::passes,
        error::Error,
        read::{
            cursor::Position,
            part::{FetchPart, PartBuilder},
            table::Table,
        },
        state::{
            batch::Owner,
            run::Run,
            shared::Shared,
            shuffle::{Commits, Committed, Pin, Shuffle, Snapshot, lost_reason},
            stats::Stats,
        },
    },
};

/// What a fetch knows; goes to a thread that may block and comes back.
pub(super) struct Reader {
    pub(super) shared: Arc<Shared>,
    pub(super) shuffle: Arc<Shuffle>,
    pub(super) partitions: Range<u32>,
    pub(super) maps: Range<u32>,
    /// Attempts that were committed when the fetch began.
    pub(super) commits: Arc<Commits>,
    pub(super) version: u64,
    /// The attempts that are wanted; all, if absent.
    pub(super) only: Option<Arc<BTreeSet<Owner>>>,
    /// Committed attempts of which nothing is sent from here on: not wanted, lost, or left out.
    pub(super) excluded: BTreeSet<Owner>,
    /// How often something of the shuffle was lost when that was last looked at.
    pub(super) damages: u64,
    pub(super) position: Position,
    /// The rows that are read from the current run.
    pub(super) table: Option<Table>,
    pub(super) left_out: Option<LeftOut>,
    pub(super) pin: Pin,
}

/// What a fetch has left out because the disk did not answer: not lost, but not to be had now.
#[derive(Debug)]
pub struct Unanswered {
    /// `Unavailable`, and why.
    pub error: Error,
    /// The attempts, which the summary calls lost.
    pub attempts: BTreeSet<Owner>,
}

/// What is not read because the disk does not answer.
#[derive(Clone)]
pub(super) struct LeftOut {
    pub(super) reason: String,
    /// Position before everything that is left out, so that a reader that comes back gets it.
    /// `None` until `leave_out` has looked.
    pub(super) resume: Option<Position>,
    pub(super) runs: BTreeSet<RunId>,
    pub(super) attempts: BTreeSet<Owner>,
}

/// What a step came to.
pub(super) enum Step {
    Part(FetchPart),
    /// The next bytes are in a file.
    NeedsDisk,
    End(Summary, Option<Unanswered>),
}

/// Whether a part takes more.
pub(super) enum Filled {
    More,
    Full,
    NeedsDisk,
}

// === impl Reader ===

impl Reader {
    /// A second reader at the same position, for when this one goes to a thread that does not come
    /// back.
    pub(super) fn again(&self) -> Box<Self> {
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
            pin: self.pin.clone(),
        })
    }

    /// Fills one part, from files only if `disk`.
    pub(super) fn step(&mut self, disk: bool) -> Result<Step, Error> {
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
                        Err(error) if passes(&error) => return Err(error),
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

    /// Whether a block of a run goes out: it is asked for, not sent yet, and of the stream that was
    /// committed.
    pub(super) fn wants(
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
    pub(super) fn all_committed(&self, run: &Run) -> bool {
        run.settled.load(std::sync::atomic::Ordering::Acquire) <= self.version
    }

    pub(super) fn lose(&self, run: &Run, error: &Error) {
        Stats::add(&self.shared.stats.read_failures, 1);
        self.shared.note_read(error);
        run.lose(|| error.to_string());
        self.shuffle.damage();
    }

    /// Sends nothing more of attempts that are not whole here (invariant: an attempt is served in
    /// the order of seq, or not at all).
    pub(super) fn exclude_lost(&mut self, snapshot: &Snapshot) {
        let commits = self.commits.clone();
        for (owner, _) in of_maps(&commits, &self.maps) {
            if snapshot.reclaimed.contains(owner) || lost_reason(snapshot, *owner).is_some() {
                self.excluded.insert(*owner);
            }
        }
    }
}

/// The commits of a range of map indexes.
pub(super) fn of_maps<'a>(
    commits: &'a Commits,
    maps: &Range<u32>,
) -> impl Iterator<Item = (&'a Owner, &'a Arc<Committed>)> {
    let (start, end) = (maps.start, maps.end);
    let commits = commits.range((MapIndex(start), AttemptId(0))..);
    commits.take_while(move |((map_index, _), _)| map_index.0 < end)
}
