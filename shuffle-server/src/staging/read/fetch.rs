//! The way out: a read of some partitions of some maps, as `service` has it.
//!
//! A fetch covers the attempts that were committed when it began. What it knows is a [`Reader`],
//! which goes to a thread that may block when the next bytes are in a file, and comes back.
//!
//! Checksums are not computed here: the reader does that over its own copy, which says more, and
//! reports what fails (`super::verify`).

use std::{collections::BTreeSet, ops::Range, sync::Arc};

use bytes::Bytes;
use shuffle_proto::{ids::Owner, summary::Summary};

use crate::staging::{
    error::Error,
    read::{
        cursor::Position,
        part::FetchPart,
        reader::{LeftOut, Reader, Step, Unanswered, of_maps},
    },
    state::{health::ANSWER_POLL_INTERVAL, shared::Shared, shuffle::Shuffle, stats::Stats},
};

/// A read of some partitions of some maps. Reads what was committed when it began.
pub struct Fetch {
    /// Absent while a step runs, and for good if that step was dropped or has failed.
    reader: Option<Box<Reader>>,
    summary: Summary,
    /// Whether what it reads counts as read by a reducer.
    counted: bool,
    unanswered: Option<Unanswered>,
}

// === impl Fetch ===

impl Fetch {
    pub(crate) fn new(
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

    /// Restricts the fetch to these attempts; the summary names each of them, as covered or as
    /// lost.
    pub fn only(mut self, only: Option<Arc<BTreeSet<Owner>>>) -> Self {
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
    pub(crate) fn not_counted(mut self) -> Self {
        self.counted = false;
        self
    }

    /// Some more blocks; `None` after the last. Dropped while it waits, or failed, the fetch is
    /// over.
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

    /// What was left out because the disk did not answer; known once [`Fetch::next`] has returned
    /// `None`.
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

/// Makes a step on a thread that may block. A cold disk must not hold up the connections of the
/// calling thread; a disk that hangs must hold up neither this fetch nor all blocking threads. With
/// `partly`, blocks that only a hanging disk has are left out, and the others are served.
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
        if let Ok(done) = tokio::time::timeout(ANSWER_POLL_INTERVAL, &mut reading).await {
            return done;
        }
    };
    // For those who push there.
    again.shared.check_hung();
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
