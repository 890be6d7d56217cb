//! The way in: one attempt takes blocks, and is committed or forgotten.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use shuffle_proto::{
    block::{BlockHeader, PartitionTotal},
    stored::totals::{Accumulator, Totals, compare},
};
use tokio::sync::oneshot;

use crate::staging::{
    error::Error,
    state::{
        batch::Batch,
        queue::{Request, Task},
        shared::Shared,
        shuffle::{Committed, Held, OpenAttempt, Phase},
        stats::Stats,
    },
    words::{AttemptKey, Durability, Receipt},
    write::forget,
};

/// Takes the blocks of one attempt. Dropped without a commit, it leaves nothing visible.
pub struct AttemptWriter {
    shared: Arc<Shared>,
    attempt: Arc<OpenAttempt>,
    next_seq: u32,
    totals: Accumulator,
    finished: bool,
}

// === impl AttemptWriter ===

impl AttemptWriter {
    pub(crate) fn new(shared: Arc<Shared>, attempt: Arc<OpenAttempt>) -> Self {
        Self {
            shared,
            attempt,
            next_seq: 0,
            totals: Accumulator::default(),
            finished: false,
        }
    }

    /// Whose blocks these are.
    pub fn key(&self) -> &AttemptKey {
        &self.attempt.key
    }

    /// `seq` that the next block must have.
    pub fn next_seq(&self) -> u32 {
        self.next_seq
    }

    /// Reduce partitions of the shuffle.
    pub fn num_partitions(&self) -> u32 {
        self.attempt.shuffle.num_partitions
    }

    /// Takes a batch: its blocks sorted by partition, their bytes back to back, the permit inside
    /// `data`. Does not block.
    pub fn append(&mut self, headers: Vec<BlockHeader>, data: Bytes) -> Result<(), Error> {
        let invalid =
            |what: String| Error::Invalid(format!("batch of {}: {what}", self.attempt.key));
        if headers
            .first()
            .is_some_and(|first| first.seq != self.next_seq)
        {
            return Err(invalid(format!(
                "begins with block {}, expected {}",
                headers[0].seq, self.next_seq
            )));
        }
        self.shared.check_answers()?;
        let (count, length) = (headers.len() as u64, data.len() as u64);
        let Some(next_seq) = u32::try_from(count)
            .ok()
            .and_then(|count| self.next_seq.checked_add(count))
        else {
            return Err(invalid("more blocks than an attempt can have".into()));
        };
        let batch = Batch::try_new(headers, data).ok_or_else(|| {
            invalid(format!(
                "lengths of its blocks do not sum up to {length} bytes"
            ))
        })?;
        let shuffle = &self.attempt.shuffle;
        {
            let mut state = self.attempt.state.lock();
            match &state.phase {
                Phase::Open => {}
                Phase::Fenced(reason) => return Err(Error::Fenced(reason.clone())),
                Phase::Sealed | Phase::Done => {
                    return Err(invalid("comes after the commit".into()));
                }
            }
            self.totals.add(batch.headers());
            shuffle
                .open_memory
                .fetch_add(batch.memory(), Ordering::Relaxed);
            state.batches.push(Arc::new(batch));
        }
        self.next_seq = next_seq;
        shuffle
            .touched
            .store(self.shared.millis(), Ordering::Relaxed);
        Stats::add(&self.shared.stats.appended_blocks, count);
        Stats::add(&self.shared.stats.appended_bytes, length);
        if self.shared.budget.pressed() {
            // What somebody waits for may be what just became flushable.
            self.shared.wake();
        }
        Ok(())
    }

    /// Makes the attempt visible once it is as durable as asked. Dropped while it waits, the commit
    /// goes on.
    pub async fn commit(
        mut self,
        totals: Vec<PartitionTotal>,
        durability: Durability,
    ) -> Result<Receipt, Error> {
        let receiver = match self.begin_commit(totals, durability) {
            Ok(Begun::Done(receipt)) => return Ok(receipt),
            Ok(Begun::Waiting(receiver)) => receiver,
            Err(error) => {
                Stats::add(&self.shared.stats.failed_commits, 1);
                return Err(error);
            }
        };
        // The writer may finish it after all: then two volumes have the attempt, and the one that
        // is named counts.
        self.shared.patiently(receiver).await?
    }

    fn begin_commit(
        &mut self,
        totals: Vec<PartitionTotal>,
        durability: Durability,
    ) -> Result<Begun, Error> {
        let begun = self.shared.clock.now();
        let key = &self.attempt.key;
        if let Some(difference) = compare(self.totals.totals(), &totals) {
            return Err(Error::Invalid(format!(
                "commit.totals of {key}: {difference}; nothing was committed"
            )));
        }
        let (mut bytes, mut records) = (0, 0);
        for total in &totals {
            bytes += total.bytes;
            records += total.records;
        }
        let shuffle = &self.attempt.shuffle;
        shuffle
            .touched
            .store(self.shared.millis(), Ordering::Relaxed);
        let mut committed = Committed {
            totals: Arc::new(Totals::new(&totals)),
            durability,
            bytes,
            records,
            runs: Vec::new(),
            lost: None,
        };
        drop(totals);
        if durability > Durability::Memory {
            self.shared.check_health()?;
            {
                let mut state = self.attempt.state.lock();
                check_open(&state.phase, key)?;
                state.phase = Phase::Sealed;
            }
            self.finished = true;
            let (reply, receiver) = oneshot::channel();
            let task = Task::Commit {
                attempt: self.attempt.clone(),
                committed,
            };
            self.shared.ask(Request {
                task,
                durability,
                asked: begun,
                reply,
            });
            return Ok(Begun::Waiting(receiver));
        }
        let mut shuffle_state = shuffle.state.lock();
        if shuffle_state.deleted {
            return Err(shuffle.fenced());
        }
        self.shared.check_running()?;
        let mut state = self.attempt.state.lock();
        check_open(&state.phase, key)?;
        state.phase = Phase::Done;
        let (batches, runs) = self.attempt.take_blocks(&mut state);
        drop(state);
        committed.runs = runs.iter().map(|run| run.id).collect();
        let held = (!batches.is_empty()).then(|| Held {
            batches,
            log: None,
            lost: Default::default(),
        });
        let receipt = committed.receipt(self.shared.id);
        shuffle_state.commit(shuffle, self.attempt.owner(), committed, &runs, held);
        drop(shuffle_state);
        self.finished = true;
        Stats::add(&self.shared.stats.commits, 1);
        self.shared
            .observer
            .committed(durability, self.shared.clock.now() - begun);
        if self.shared.budget.pressed() {
            self.shared.wake();
        }
        Ok(Begun::Done(receipt))
    }
}

enum Begun {
    Done(Receipt),
    Waiting(oneshot::Receiver<Result<Receipt, Error>>),
}

fn check_open(phase: &Phase, key: &AttemptKey) -> Result<(), Error> {
    match phase {
        Phase::Open => Ok(()),
        Phase::Fenced(reason) => Err(Error::Fenced(reason.clone())),
        Phase::Sealed | Phase::Done => Err(Error::Invalid(format!(
            "{key} is committed twice by one stream"
        ))),
    }
}

impl Drop for AttemptWriter {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        Stats::add(&self.shared.stats.aborts, 1);
        self.attempt
            .fence(|| format!("{} ended without a commit", self.attempt.key));
        self.attempt.shuffle.state.lock().forget(&self.attempt);
        if !self.attempt.shuffle.dead.lock().is_empty() {
            self.shared.wake();
        }
        forget::forget(&self.shared, &self.attempt);
    }
}

impl std::fmt::Debug for AttemptWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AttemptWriter({})", self.attempt.key)
    }
}
