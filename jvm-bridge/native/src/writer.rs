//! A writer: the output of one map attempt, and the arena for Java's records.
//!
//! A flush turns the arena into blocks and hands them to the connection, a batch at a time. Between
//! batches the flush looks at the clock and at the connection, and returns if either demands; its
//! position is kept for the next call.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use shuffle_client::{
    Client, Commit, Error, Kind, MapWriter, PartitionId, Tally, WriteSpec, WriterStats,
    budget::Budget,
};

use crate::{
    arena::Arena,
    error::invalid,
    handle::exclusive,
    reader::location_of,
    runtime,
    sort::{Cursor, Sorted},
};

const NAME: &str = "writer";

/// The output of one map attempt.
pub(crate) struct Writer {
    arena_address: usize,
    tally: Tally,
    state: Mutex<State>,
}

struct State {
    writer: Option<MapWriter>,
    arena: Arena,
    budget: Budget,
    sorted: Sorted,
    flush: Option<Flush>,
    commit: Option<Commit>,
    /// Why the output cannot be completed any more: the answer of every later call
    /// (invariant: whole-attempt-or-none).
    failed: Option<Error>,
    /// Bytes added since the connection was last asked whether it has room.
    unasked: usize,
    /// Of `writerBlock`: where the bytes of Java's array are copied to.
    copied: Vec<u8>,
    num_partitions: u32,
    block_bytes: usize,
    batch_bytes: usize,
}

/// A flush that has not returned true.
#[derive(Clone, Copy)]
struct Flush {
    records: usize,
    data_bytes: u64,
    cursor: Cursor,
}

impl Writer {
    /// Starts the output; connects in the background.
    pub(crate) fn open(client: &Client, spec: WriteSpec, arena_bytes: u64) -> Result<Self, Error> {
        let budget = client.budget().clone();
        let arena = Arena::take(arena_bytes, &budget)?;
        let num_partitions = spec.num_partitions;
        let settings = client.settings();
        let (block_bytes, batch_bytes) = (settings.block_bytes, settings.batch_bytes);
        let _context = runtime::get()?.enter();
        let writer = client.open_writer(spec);
        let tally = writer.tally();
        let state = State {
            writer: Some(writer),
            arena,
            budget,
            sorted: Sorted::default(),
            flush: None,
            commit: None,
            failed: None,
            unasked: 0,
            copied: Vec::new(),
            num_partitions,
            block_bytes,
            batch_bytes,
        };
        Ok(Self {
            arena_address: state.arena.address() as usize,
            tally,
            state: Mutex::new(state),
        })
    }

    /// Whether Java may fill so much of the arena, records and entries together; `must`: it will.
    pub(crate) fn grow(&self, bytes: usize, must: bool) -> Result<bool, Error> {
        let mut state = exclusive(&self.state, NAME)?;
        let state = &mut *state;
        Ok(state.arena.grow(bytes, must, &state.budget))
    }

    /// Where Java writes.
    pub(crate) fn arena_address(&self) -> usize {
        self.arena_address
    }

    /// Sorts the arena and hands its blocks on; false = call again with the same arguments.
    pub(crate) fn flush(
        &self,
        records: usize,
        data_bytes: u64,
        timeout: Duration,
    ) -> Result<bool, Error> {
        let deadline = Instant::now() + timeout;
        exclusive(&self.state, NAME)?.flush(records, data_bytes, deadline)
    }

    /// Adds a byte string in one piece, filled in by `copy`; false = drain before the next one.
    pub(crate) fn block<E: From<Error>>(
        &self,
        partition: PartitionId,
        length: usize,
        records: u32,
        copy: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<bool, E> {
        let mut state = exclusive(&self.state, NAME)?;
        let state = &mut *state;
        state.check_open()?;
        if partition.0 >= state.num_partitions {
            Err(invalid(format!(
                "partition is {partition}: the shuffle has {}",
                state.num_partitions
            )))?;
        }
        if length == 0 {
            return if records == 0 {
                Ok(true)
            } else {
                Err(invalid("length is 0 with records: a record has at least 1 byte").into())
            };
        }
        state.copied.resize(length, 0);
        copy(&mut state.copied)?;
        let copied = std::mem::take(&mut state.copied);
        let added = state.add(partition, &[&copied], length, records);
        if copied.capacity() <= state.batch_bytes {
            state.copied = copied; // a giant is not kept
        }
        let ready = added.and_then(|()| state.ready(Duration::ZERO));
        Ok(state.keep_failure(ready)?)
    }

    /// Waits until the connection has room.
    pub(crate) fn drain(&self, timeout: Duration) -> Result<bool, Error> {
        let mut state = exclusive(&self.state, NAME)?;
        state.check_open()?;
        state.unasked = usize::MAX;
        let ready = state.ready(timeout);
        state.keep_failure(ready)
    }

    /// Sends what is left and commits; `None` = call again.
    pub(crate) fn commit(&self, timeout: Duration) -> Result<Option<Vec<u64>>, Error> {
        let mut state = exclusive(&self.state, NAME)?;
        let state = &mut *state;
        if state.flush.is_some() {
            return Err(invalid(
                "commit before the flush is done: call flush until it returns true",
            ));
        }
        if state.commit.is_none() {
            state.check_open()?;
            let commit =
                runtime::wait(timeout, state.writer()?.commit()).and_then(Option::transpose);
            match state.keep_failure(commit)? {
                Some(commit) => state.commit = Some(commit),
                None => return Ok(None),
            }
        }
        Ok(state
            .commit
            .as_ref()
            .map(|commit| commit.partition_lengths.clone()))
    }

    /// Where the committed output is.
    pub(crate) fn location(&self) -> Result<String, Error> {
        let state = exclusive(&self.state, NAME)?;
        let commit = state
            .commit
            .as_ref()
            .ok_or_else(|| invalid("location of an output that is not committed: commit first"))?;
        Ok(location_of(commit))
    }

    /// Counters so far.
    pub(crate) fn stats(&self) -> Result<WriterStats, Error> {
        Ok(exclusive(&self.state, NAME)?.writer()?.stats())
    }

    /// What each server did so far.
    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // After a panic too: what is dropped is not used, only let go.
        let state = self
            .state
            .get_mut()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let _context = runtime::get().map(tokio::runtime::Runtime::enter);
        match state.writer.take() {
            Some(writer) if state.commit.is_none() => {
                writer.abort("closed by its task before it was committed")
            }
            other => drop(other),
        }
    }
}

// === impl State ===

impl State {
    fn writer(&mut self) -> Result<&mut MapWriter, Error> {
        self.writer
            .as_mut()
            .ok_or_else(|| Error::new(Kind::Internal, "the writer is gone"))
    }

    fn check_open(&self) -> Result<(), Error> {
        match (&self.failed, &self.commit) {
            (Some(error), _) => Err(error.clone()),
            (None, Some(_)) => Err(invalid(
                "the output is committed: nothing can be added to it",
            )),
            (None, None) => Ok(()),
        }
    }

    fn keep_failure<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        if let Err(error) = &result {
            self.failed = Some(error.clone());
        }
        result
    }

    fn flush(&mut self, records: usize, data_bytes: u64, deadline: Instant) -> Result<bool, Error> {
        self.check_open()?;
        let mut flush = match self.flush {
            Some(flush) if flush.records == records && flush.data_bytes == data_bytes => flush,
            Some(flush) => {
                let message = format!(
                    "flush of {records} records, {data_bytes} bytes while that of {} records, {} bytes is not done: go on with that",
                    flush.records, flush.data_bytes
                );
                return Err(invalid(message));
            }
            None => {
                self.sorted.sort(
                    self.arena.entries(records)?,
                    self.arena.bytes().len(),
                    data_bytes,
                    self.num_partitions,
                )?;
                Flush {
                    records,
                    data_bytes,
                    cursor: Cursor::default(),
                }
            }
        };
        let sent = self.send(&mut flush.cursor, deadline);
        let done = self.keep_failure(sent)?;
        self.flush = if done { None } else { Some(flush) };
        Ok(done)
    }

    /// Hands on blocks until all are, or the time is up.
    fn send(&mut self, cursor: &mut Cursor, deadline: Instant) -> Result<bool, Error> {
        let mut ranges = Vec::new();
        loop {
            if !self.ready(deadline.saturating_duration_since(Instant::now()))? {
                return Ok(false);
            }
            // At least one batch per call, so that every call makes progress.
            while self.unasked < self.batch_bytes {
                let Some(block) = self
                    .sorted
                    .next_block(cursor, self.block_bytes, &mut ranges)
                else {
                    return Ok(true);
                };
                let arena = self.arena.bytes();
                // One allocation per block; a block is tens of KiB.
                let pieces: Vec<&[u8]> = ranges.iter().map(|range| &arena[range.clone()]).collect();
                let writer = self
                    .writer
                    .as_mut()
                    .ok_or_else(|| Error::new(Kind::Internal, "the writer is gone"))?;
                add(
                    writer,
                    self.batch_bytes,
                    block.partition,
                    &pieces,
                    block.bytes,
                    block.records,
                )?;
                self.unasked = self.unasked.saturating_add(block.bytes);
            }
            if cursor.at_end(&self.sorted) {
                return Ok(true); // whether there is room is the next flush's question
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
        }
    }

    fn add(
        &mut self,
        partition: PartitionId,
        pieces: &[&[u8]],
        bytes: usize,
        records: u32,
    ) -> Result<(), Error> {
        let batch_bytes = self.batch_bytes;
        add(
            self.writer()?,
            batch_bytes,
            partition,
            pieces,
            bytes,
            records,
        )?;
        self.unasked = self.unasked.saturating_add(bytes);
        Ok(())
    }

    /// Waits for room if a batch was added since the last time.
    fn ready(&mut self, timeout: Duration) -> Result<bool, Error> {
        if self.unasked >= self.batch_bytes {
            match runtime::wait(timeout, self.writer()?.ready())? {
                Some(ready) => ready?,
                None => return Ok(false),
            }
            self.unasked = 0;
        }
        Ok(true)
    }
}

/// One block, or several that the reader joins again.
fn add(
    writer: &mut MapWriter,
    batch_bytes: usize,
    partition: PartitionId,
    pieces: &[&[u8]],
    bytes: usize,
    records: u32,
) -> Result<(), Error> {
    // Up to a batch, one large block is cheaper for everybody than parts to be joined.
    if bytes <= batch_bytes.min(writer.longest_block()) {
        writer.add_block(partition, pieces, records)
    } else if let [piece] = pieces {
        writer.add_long(partition, piece, records)
    } else {
        // Only a single record is longer than a block's target, and a record is one piece.
        writer.add_long(partition, &pieces.concat(), records)
    }
}

#[cfg(test)]
mod tests;
