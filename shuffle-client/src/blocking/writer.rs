//! The output of one map attempt, for a thread that waits: an arena for records, and frames.
//!
//! A flush turns the arena into blocks and hands them to the connection, a batch at a time. Between
//! batches the flush looks at the clock and at the connection, and returns if either demands; its
//! position is kept for the next call.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use shuffle_proto::ids::PartitionId;
use tokio::runtime::Handle;

use super::{
    exclusive, invalid,
    sort::{Cursor, Sorted},
    wait,
};
use crate::{
    arena::Arena,
    client::Client,
    error::{Error, Kind},
    frames::{Boundaries, Packer, add},
    receipt::Receipt,
    tally::Tally,
    writer::{MapWriter, WriteSpec, WriterStats},
};

const NAME: &str = "writer";

/// The output of one map attempt.
pub struct Writer {
    arena_address: usize,
    tally: Tally,
    state: Mutex<State>,
}

struct State {
    writer: Option<MapWriter>,
    handle: Handle,
    /// `None` where there are only frames.
    arena: Option<Arena>,
    packer: Packer,
    sorted: Sorted,
    flush: Option<Flush>,
    committed: Option<Receipt>,
    /// Why the output cannot be completed any more: the answer of every later call
    /// (invariant: whole-attempt-or-none).
    failed: Option<Error>,
    /// Bytes added since the connection was last asked whether it has room.
    unasked: usize,
    /// Of `block`: what `copy` fills in.
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
    /// Starts the output; connects in the background. With an arena of so many bytes for
    /// [`flush`](Self::flush), or 0 without one.
    pub fn open(client: &Client, spec: WriteSpec, arena_bytes: u64) -> Result<Self, Error> {
        let arena = match arena_bytes {
            0 => None,
            bytes => Some(client.take_arena(bytes)?),
        };
        let num_partitions = spec.num_partitions;
        let settings = client.settings();
        let (block_bytes, batch_bytes) = (settings.block_bytes, settings.batch_bytes);
        let handle = client.handle().clone();
        let packer = Packer::new(client, Boundaries::Own);
        let writer = {
            let _context = handle.enter();
            client.open_writer(spec)
        };
        let tally = writer.tally();
        let arena_address = arena.as_ref().map_or(0, |arena| arena.address() as usize);
        let state = State {
            writer: Some(writer),
            handle,
            arena,
            packer,
            sorted: Sorted::default(),
            flush: None,
            committed: None,
            failed: None,
            unasked: 0,
            copied: Vec::new(),
            num_partitions,
            block_bytes,
            batch_bytes,
        };
        Ok(Self {
            arena_address,
            tally,
            state: Mutex::new(state),
        })
    }

    /// Changes the arena by a function of the engine; what it answers. For engines in Rust.
    pub fn with_arena<T>(&self, change: impl FnOnce(&mut Arena) -> T) -> Result<T, Error> {
        let mut state = exclusive(&self.state, NAME)?;
        Ok(change(state.arena.as_mut().ok_or_else(no_arena)?))
    }

    /// Whether the engine may fill so much of the arena, records and entries together; `must`: it will.
    pub fn grow(&self, bytes: usize, must: bool) -> Result<bool, Error> {
        self.with_arena(|arena| arena.grow(bytes, must))
    }

    /// Where the engine writes; 0 without an arena.
    pub fn arena_address(&self) -> usize {
        self.arena_address
    }

    /// Sorts the arena and hands its blocks on; false = call again with the same arguments.
    pub fn flush(&self, records: usize, data_bytes: u64, timeout: Duration) -> Result<bool, Error> {
        let deadline = Instant::now() + timeout;
        exclusive(&self.state, NAME)?.flush(records, data_bytes, deadline)
    }

    /// Adds a byte string in one piece, filled in by `copy`; false = drain before the next one.
    pub fn block<E: From<Error>>(
        &self,
        partition: PartitionId,
        length: usize,
        records: u32,
        copy: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<bool, E> {
        let mut state = exclusive(&self.state, NAME)?;
        let state = &mut *state;
        if !state.is_wanted(partition, length, records)? {
            return Ok(true);
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

    /// Adds a part of a byte string, filled in by `copy`: the next call, if there is `more`, is for
    /// the next part. So no memory is taken for all of it. False = drain before the next call.
    pub fn part<E: From<Error>>(
        &self,
        partition: PartitionId,
        length: usize,
        (records, more): (u32, bool),
        copy: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<bool, E> {
        let mut state = exclusive(&self.state, NAME)?;
        let state = &mut *state;
        state.check_open()?;
        state.copied.resize(length, 0);
        copy(&mut state.copied)?;
        let copied = std::mem::take(&mut state.copied);
        let added = state
            .writer()
            .and_then(|writer| writer.add_part(partition, &copied, records, more));
        if copied.capacity() <= state.batch_bytes {
            state.copied = copied;
        }
        state.unasked = state.unasked.saturating_add(length);
        let ready = added.and_then(|()| state.ready(Duration::ZERO));
        Ok(state.keep_failure(ready)?)
    }

    /// Adds a frame, filled in by `copy`: packed with others of its partition into blocks, which are
    /// not compressed ([`frames`](crate::frames); the spec of the writer must say so). The engine's
    /// frames delimit themselves. False = drain before the next one.
    pub fn frame<E: From<Error>>(
        &self,
        partition: PartitionId,
        length: usize,
        records: u32,
        copy: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<bool, E> {
        let mut state = exclusive(&self.state, NAME)?;
        let state = &mut *state;
        if !state.is_wanted(partition, length, records)? {
            return Ok(true);
        }
        state.packer.add(partition, length, records, copy)?;
        if !state.packer.is_full() {
            return Ok(true);
        }
        let pushed = state.push_frames();
        let ready = pushed.and_then(|()| state.ready(Duration::ZERO));
        Ok(state.keep_failure(ready)?)
    }

    /// Hands on the frames that are held, so that their memory can be used for others.
    pub fn push_frames(&self) -> Result<(), Error> {
        let mut state = exclusive(&self.state, NAME)?;
        state.check_open()?;
        let pushed = state.push_frames();
        state.keep_failure(pushed)
    }

    /// Bytes of frames that are held.
    pub fn held_bytes(&self) -> Result<usize, Error> {
        Ok(exclusive(&self.state, NAME)?.packer.held_bytes())
    }

    /// Waits until the connection has room.
    pub fn drain(&self, timeout: Duration) -> Result<bool, Error> {
        let mut state = exclusive(&self.state, NAME)?;
        state.check_open()?;
        state.unasked = usize::MAX;
        let ready = state.ready(timeout);
        state.keep_failure(ready)
    }

    /// Sends what is left and commits; `None` = call again. Repeated calls after success answer the
    /// same.
    pub fn commit(&self, timeout: Duration) -> Result<Option<Receipt>, Error> {
        let mut state = exclusive(&self.state, NAME)?;
        let state = &mut *state;
        if state.flush.is_some() {
            return Err(invalid(
                "commit before the flush is done: call flush until it returns true",
            ));
        }
        if state.committed.is_none() {
            state.check_open()?;
            let committed = state.commit(timeout);
            state.committed = state.keep_failure(committed)?;
        }
        Ok(state.committed.clone())
    }

    /// The receipt of the committed output.
    pub fn receipt(&self) -> Result<Receipt, Error> {
        let state = exclusive(&self.state, NAME)?;
        let committed = state.committed.clone();
        committed
            .ok_or_else(|| invalid("location of an output that is not committed: commit first"))
    }

    /// Counters so far.
    pub fn stats(&self) -> Result<WriterStats, Error> {
        Ok(exclusive(&self.state, NAME)?.writer()?.stats())
    }

    /// What each server did so far.
    pub fn tally(&self) -> &Tally {
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
        let _context = state.handle.enter();
        match state.writer.take() {
            Some(writer) if state.committed.is_none() => {
                writer.abort("closed by its task before it was committed")
            }
            other => drop(other),
        }
    }
}

// === impl State ===

impl State {
    fn writer(&mut self) -> Result<&mut MapWriter, Error> {
        self.writer.as_mut().ok_or_else(gone)
    }

    fn check_open(&self) -> Result<(), Error> {
        match (&self.failed, &self.committed) {
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
                let arena = self.arena.as_ref().ok_or_else(no_arena)?;
                self.sorted.sort(
                    arena.entries(records)?,
                    arena.bytes().len(),
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
                let arena = self.arena.as_ref().ok_or_else(no_arena)?.bytes();
                // One allocation per block; a block is tens of KiB.
                let pieces: Vec<&[u8]> = ranges.iter().map(|range| &arena[range.clone()]).collect();
                let writer = self.writer.as_mut().ok_or_else(gone)?;
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

    /// Whether something of the engine is to be added; an error if it cannot be.
    fn is_wanted(
        &self,
        partition: PartitionId,
        length: usize,
        records: u32,
    ) -> Result<bool, Error> {
        self.check_open()?;
        if partition.0 >= self.num_partitions {
            return Err(invalid(format!(
                "partition is {partition}: the shuffle has {}",
                self.num_partitions
            )));
        }
        if length == 0 && records > 0 {
            return Err(invalid(
                "length is 0 with records: a record has at least 1 byte",
            ));
        }
        Ok(length > 0)
    }

    fn push_frames(&mut self) -> Result<(), Error> {
        let writer = self.writer.as_mut().ok_or_else(gone)?;
        let bytes = self.packer.push(writer)?;
        self.unasked = self.unasked.saturating_add(bytes);
        Ok(())
    }

    fn commit(&mut self, timeout: Duration) -> Result<Option<Receipt>, Error> {
        self.push_frames()?;
        let writer = self.writer.as_mut().ok_or_else(gone)?;
        let Some(commit) = wait(&self.handle, timeout, writer.commit()) else {
            return Ok(None);
        };
        Ok(Some(Receipt::of(writer, commit?)))
    }

    /// Waits for room if a batch was added since the last time.
    fn ready(&mut self, timeout: Duration) -> Result<bool, Error> {
        if self.unasked >= self.batch_bytes {
            let writer = self.writer.as_mut().ok_or_else(gone)?;
            match wait(&self.handle, timeout, writer.ready()) {
                Some(ready) => ready?,
                None => return Ok(false),
            }
            self.unasked = 0;
        }
        Ok(true)
    }
}

fn gone() -> Error {
    Error::new(Kind::Internal, "the writer is gone")
}

fn no_arena() -> Error {
    invalid("a flush without an arena: open the writer with one")
}
