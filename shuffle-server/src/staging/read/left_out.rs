//! What a reader does not send because the disk does not answer, and what its summary says of it.

use std::collections::BTreeSet;

use shuffle_proto::{
    ids::{AttemptId, MapIndex},
    summary::{AttemptTotals, LostAttempt, Summary},
};

use crate::{
    index::RunId,
    staging::{
        error::Error,
        read::reader::{Reader, Unanswered, of_maps},
        state::{
            batch::{Data, Owner},
            shuffle::{Snapshot, lost_reason},
        },
    },
};

// === impl Reader ===

impl Reader {
    /// Once the disk does not answer: leaves out runs that only the disk has, and attempts with
    /// blocks in such runs, also the blocks of these attempts that memory has.
    pub(super) fn leave_out(&mut self, snapshot: &Snapshot) {
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
    pub(super) fn leave_out_run(&mut self, snapshot: &Snapshot, run: RunId) {
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
    pub(super) fn summary(&self, snapshot: &Snapshot) -> Summary {
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

// === impl Reader ===

impl Reader {
    pub(super) fn left_out_reason(&self, owner: Owner) -> Option<String> {
        let left_out = self.left_out.as_ref()?;
        let left = left_out.attempts.contains(&owner);
        left.then(|| left_out.reason.clone())
    }

    /// What of a summary is lost for now only.
    pub(super) fn unanswered(&self, summary: &Summary) -> Option<Unanswered> {
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
