//! Runs: gathering blocks of one shuffle, sorted, into its segment, and making the run known.

use std::{
    fs::File,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use shuffle_proto::ids::PartitionId;

use super::{
    DirectIo, Durability, Error,
    batch::{Batch, Data, Owner},
    disk::{self, Gather},
    format::{ALIGNMENT, HEADER, Header, ROW, Subject, align, put_row},
    segment::{Cached, Run, Segment, segment_path},
    shared::Shared,
    shuffle::{Committed, OpenAttempt, Phase, Shuffle},
    stats::Stats,
};
use crate::index::{
    Batch as Changes, RunId, SegmentId,
    keys::Key,
    values::{self, DirectoryEntry, Record, Tier},
};

/// Blocks smaller than this on average are gathered before they are written: a piece of a gathered write costs about as much as
/// copying this.
const SMALL_BLOCK: u64 = 8 << 10;
/// Bytes that are read back from commit logs for one run. They are not in the budget.
const RELOAD: u64 = 64 << 20;
/// Bytes per partition that make extents which a cold disk reads at its speed.
const GOOD_EXTENT: u64 = 64 << 10;

/// The segment that a shuffle's next run goes to.
pub(super) struct Output {
    pub(super) segment: Arc<Segment>,
    file: File,
    direct: Option<File>,
    length: u64,
}

/// What an attempt brings to a run.
pub(super) struct Source {
    pub(super) owner: Owner,
    pub(super) batches: Vec<Arc<Batch>>,
    /// The attempt, if it is not committed.
    pub(super) open: Option<Arc<OpenAttempt>>,
    /// Whether blocks were read back from a log, which no permit pays for.
    pub(super) reloaded: bool,
}

/// Why a run is written, for the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    Pressure,
    Quiet,
    Asked,
}

// === writing ===

/// Writes blocks as one run. `sources` ascend by owner, each attempt's batches by seq. The run is not known to anybody yet.
pub(super) fn write_run(shared: &Shared, shuffle: &Shuffle, sources: &[Source]) -> Result<Arc<Run>, Error> {
    let begun = shared.clock.now();
    let batches: Vec<Arc<Batch>> = sources.iter().flat_map(|source| source.batches.iter().cloned()).collect();
    let (slots, partitions) = sort(&batches);
    let id = RunId(shared.next_id());
    let blocks = slots.len() as u32;
    let mut head = Vec::with_capacity(HEADER + slots.len() * ROW);
    head.resize(HEADER, 0);
    let mut directory: Vec<DirectoryEntry> = Vec::with_capacity(partitions);
    let mut data_length = 0;
    for (ordinal, &(batch, block)) in slots.iter().enumerate() {
        let header = &batches[batch as usize].headers()[block as usize];
        if directory.last().is_none_or(|last| last.partition != header.partition.0) {
            directory.push(DirectoryEntry {
                partition: header.partition.0,
                first_block: ordinal as u32,
                offset: data_length,
            });
        }
        data_length += u64::from(header.length);
        put_row(&mut head, header);
    }
    let header = Header {
        volume: shared.id,
        subject: Subject::Run { id, attempts: sources.len() as u32 },
        blocks,
        data_length,
        table_checksum: crc32fast::hash(&head[HEADER..]),
    };
    head[..HEADER].copy_from_slice(&header.encode());

    let mut guard = shuffle.output.lock();
    if guard.as_ref().is_some_and(|output| output.length >= shared.options.max_segment) {
        *guard = None;
    }
    let output = match &mut *guard {
        Some(output) => output,
        none => none.insert(create(shared, shuffle)?),
    };
    let offset = output.length;
    let written = write_bytes(shared, output, &head, &batches, &slots, data_length);
    let (length, direct) = match written {
        Ok(written) => written,
        Err(error) => {
            // Give back what a full disk took for the half that was written, and begin anew: nobody knows what the rest looks like.
            let _ = output.file.set_len(offset);
            *guard = None;
            return Err(error);
        }
    };
    output.length = align(offset + length);
    output.segment.set_written(output.length);
    let segment = output.segment.clone();
    drop(guard);
    Stats::add(&shared.stats.runs, 1);
    Stats::add(&shared.stats.run_bytes, length);
    Stats::add(&shared.stats.direct_runs, direct.into());
    shared.observer.flushed(length, shared.clock.now() - begun);
    // Blocks that were read back from a log are in nobody's budget and go at once.
    let in_memory = batches.iter().all(|batch| batch.memory() > 0) && sources.iter().all(|source| !source.reloaded);
    let cached = in_memory.then_some(Cached { batches, slots });
    let attempts = sources.len() as u32;
    Ok(Arc::new(Run::new(id, segment, offset, attempts, blocks, data_length, directory.into(), cached)))
}

/// Positions of all blocks in the order of a run, and how many partitions they are of.
fn sort(batches: &[Arc<Batch>]) -> (Box<[(u32, u32)]>, usize) {
    let count = batches.iter().map(|batch| batch.headers().len()).sum();
    let mut keyed: Vec<(PartitionId, u32, u32)> = Vec::with_capacity(count);
    for (position, batch) in batches.iter().enumerate() {
        let block = |(at, header): (usize, &shuffle_proto::block::BlockHeader)| (header.partition, position as u32, at as u32);
        keyed.extend(batch.headers().iter().enumerate().map(block));
    }
    // The batches come in the order of (map index, attempt, seq), so a stable sort by partition is the whole order. It finds the
    // batches, which are sorted, and merges them.
    keyed.sort_by_key(|&(partition, ..)| partition);
    let partitions = keyed.chunk_by(|a, b| a.0 == b.0).count();
    (keyed.into_iter().map(|(_, batch, block)| (batch, block)).collect(), partitions)
}

/// Begins a segment, unless the shuffle is gone.
fn create(shared: &Shared, shuffle: &Shuffle) -> Result<Output, Error> {
    let _gate = shared.gate.lock();
    if shuffle.state.lock().deleted {
        return Err(shuffle.fenced());
    }
    std::fs::create_dir_all(&shuffle.dir).map_err(|source| Error::io("create", &shuffle.dir, source))?;
    let id = SegmentId(shared.next_id());
    let path = segment_path(&shuffle.dir, id);
    let file = shared.disk.create(&path)?;
    Ok(Output { segment: Arc::new(Segment::new(id, path, 0)), file, direct: None, length: 0 })
}

/// Writes at the end of a segment; answers the run's length and whether it went past the page cache.
fn write_bytes(
    shared: &Shared,
    output: &mut Output,
    head: &[u8],
    batches: &[Arc<Batch>],
    slots: &[(u32, u32)],
    data_length: u64,
) -> Result<(u64, bool), Error> {
    let length = head.len() as u64 + data_length;
    let blocks = slots.iter().map(|&(batch, block)| batches[batch as usize].block(block as usize).unwrap_or_default());
    let path = output.segment.path.clone();
    if wants_direct(shared) {
        if output.direct.is_none() {
            output.direct = shared.disk.open_direct(&path);
        }
        if let Some(file) = &output.direct {
            let pieces = std::iter::once(head).chain(blocks.clone());
            let written = gather(pieces, output.length, length, true, &path, |piece, at| {
                shared.disk.write_direct(file, &path, piece, at)
            })?;
            if written {
                return Ok((length, true));
            }
            output.direct = None;
        }
    }
    if data_length < SMALL_BLOCK * slots.len() as u64 {
        let pieces = std::iter::once(head).chain(blocks);
        gather(pieces, output.length, length, false, &path, |piece, at| {
            shared.disk.write(&output.file, &path, &[piece], at).map(|()| true)
        })?;
    } else {
        let pieces: Vec<&[u8]> = std::iter::once(head).chain(blocks).collect();
        shared.disk.write(&output.file, &path, &pieces, output.length)?;
    }
    Ok((length, false))
}

fn wants_direct(shared: &Shared) -> bool {
    match shared.options.direct_io {
        DirectIo::On => true,
        DirectIo::Off => false,
        DirectIo::Auto => {
            let room = disk::page_cache_room().unwrap_or(u64::MAX);
            shared.used.load(Ordering::Relaxed) > room / 2
        }
    }
}

/// Copies pieces, `total` bytes, into one buffer and hands it on whenever it is full; `padded` rounds the last one up with zeros. Ends early, with
/// false, when `write` does.
fn gather<'a>(
    pieces: impl Iterator<Item = &'a [u8]>,
    mut offset: u64,
    total: u64,
    padded: bool,
    path: &std::path::Path,
    mut write: impl FnMut(&[u8], u64) -> Result<bool, Error>,
) -> Result<bool, Error> {
    let mut gather = Gather::new(total).map_err(|source| Error::io("map memory to write", path, source))?;
    let capacity = gather.buffer().len();
    let mut filled = 0;
    for mut piece in pieces {
        while !piece.is_empty() {
            let count = piece.len().min(capacity - filled);
            let (now, later) = piece.split_at(count);
            gather.buffer()[filled..filled + count].copy_from_slice(now);
            filled += count;
            piece = later;
            if filled == capacity {
                if !write(gather.buffer(), offset)? {
                    return Ok(false);
                }
                offset += capacity as u64;
                filled = 0;
            }
        }
    }
    if filled > 0 {
        let end = if padded { filled.next_multiple_of(ALIGNMENT as usize) } else { filled };
        gather.buffer()[filled..end].fill(0);
        return write(&gather.buffer()[..end], offset);
    }
    Ok(true)
}

// === flushing ===

/// Writes what a shuffle has in memory or in the commit log as one run and makes it known: committed attempts, and with
/// `uncommitted` those in progress too. Answers the bytes written; 0 means there is nothing left.
pub(super) fn flush_shuffle(shared: &Shared, shuffle: &Arc<Shuffle>, uncommitted: bool, cause: Cause, mut sync: bool) -> Result<u64, Error> {
    let mut sources = collect(shared, shuffle, uncommitted);
    sources.retain_mut(|source| reload(shared, shuffle, source));
    if sources.is_empty() {
        return Ok(0);
    }
    let run = write_run(shared, shuffle, &sources)?;
    // What was on the device before must not be replaced by something that is not, and what is called synced must be so in all runs.
    let older: Vec<Arc<Run>> = {
        let state = shuffle.state.lock();
        let committed: Vec<_> = sources.iter().filter_map(|source| state.commits.get(&source.owner)).collect();
        sync |= committed.iter().any(|committed| committed.durability == Durability::Fsync);
        let ids = committed.iter().flat_map(|committed| &committed.runs);
        if sync { ids.filter_map(|&id| find_run(&state.runs, id).cloned()).collect() } else { Vec::new() }
    };
    if sync {
        sync_runs(shared, older.iter().chain([&run]))?;
    }
    let _gate = shared.gate.lock();
    let mut moved: Vec<(Owner, Committed)> = Vec::new();
    let mut changes = Changes::default();
    {
        let state = shuffle.state.lock();
        if state.deleted {
            return Err(shuffle.fenced());
        }
        for source in sources.iter().filter(|source| source.open.is_none()) {
            // Only this thread and a deletion take committed blocks away, and the gate keeps deletions out.
            let Some(committed) = state.commits.get(&source.owner) else { continue };
            let mut committed = Committed::clone(committed);
            committed.runs.push(run.id);
            committed.durability = committed.durability.max(if sync { Durability::Fsync } else { Durability::Disk });
            changes.put(
                Key::Attempt(shuffle.app_no, shuffle.id, source.owner.0, source.owner.1),
                &committed.record(None),
            );
            moved.push((source.owner, committed));
        }
        put_run(&mut changes, shuffle, &run);
        if !state.recorded {
            changes.put(Key::Shuffle(shuffle.app_no, shuffle.id), &shuffle.record(false));
        }
    }
    // invariant: bytes-before-index
    shared.index.write(&changes, sync)?;
    let mut state = shuffle.state.lock();
    state.recorded = true;
    state.add_run(run.clone());
    account(shared, shuffle, &run);
    for (owner, committed) in moved {
        state.release(shuffle, owner);
        Arc::make_mut(&mut state.commits).insert(owner, Arc::new(committed));
        run.settle(state.version);
    }
    for source in &sources {
        if let Some(open) = &source.open {
            let mut open_state = open.state.lock();
            // Anything else has taken its blocks along; what the run has of them nobody will ask for.
            if matches!(open_state.phase, Phase::Open | Phase::Sealed) {
                let bytes = source.batches.iter().map(|batch| batch.memory()).sum::<u64>();
                open_state.batches.drain(..source.batches.len());
                open_state.runs.push(run.clone());
                shuffle.open_memory.fetch_sub(bytes, Ordering::Relaxed);
            }
        }
    }
    drop(state);
    keep_cached(shared, &run);
    let counter = match cause {
        Cause::Pressure => Some(&shared.stats.pressure_runs),
        Cause::Quiet => Some(&shared.stats.quiet_runs),
        Cause::Asked => None,
    };
    if let Some(counter) = counter {
        Stats::add(counter, 1);
    }
    Ok(run.data_length)
}

/// Records committed attempts of which only memory knows, though their blocks, if they have any, are in runs.
pub(super) fn record_memory(shared: &Shared, shuffle: &Shuffle) -> Result<(), Error> {
    let _gate = shared.gate.lock();
    let mut changes = Changes::default();
    let mut recorded = Vec::new();
    {
        let state = shuffle.state.lock();
        if state.deleted {
            return Err(shuffle.fenced());
        }
        let only_memory = |(owner, committed): &(&Owner, &Arc<Committed>)| {
            committed.durability == Durability::Memory && !state.held.contains_key(owner)
        };
        for (&owner, committed) in state.commits.iter().filter(only_memory) {
            let mut committed = Committed::clone(committed);
            committed.durability = Durability::Disk;
            changes.put(Key::Attempt(shuffle.app_no, shuffle.id, owner.0, owner.1), &committed.record(None));
            recorded.push((owner, committed));
        }
    }
    if recorded.is_empty() {
        return Ok(());
    }
    changes.put(Key::Shuffle(shuffle.app_no, shuffle.id), &shuffle.record(false));
    shared.index.write(&changes, false)?;
    let mut state = shuffle.state.lock();
    state.recorded = true;
    state.version += 1;
    for (owner, committed) in recorded {
        Arc::make_mut(&mut state.commits).insert(owner, Arc::new(committed));
    }
    Ok(())
}

/// Puts runs on the device.
pub(super) fn sync_runs<'a>(shared: &Shared, runs: impl IntoIterator<Item = &'a Arc<Run>>) -> Result<(), Error> {
    for run in runs {
        if run.segment.sync(&shared.disk, run.end())? {
            Stats::add(&shared.stats.syncs, 1);
        }
    }
    Ok(())
}

pub(super) fn find_run(runs: &[Arc<Run>], id: RunId) -> Option<&Arc<Run>> {
    runs.binary_search_by_key(&id, |run| run.id).ok().map(|at| &runs[at])
}

/// Counts the bytes of a run that is in the index now. Under the gate, so that a deletion subtracts neither too much nor too little.
pub(super) fn account(shared: &Shared, shuffle: &Shuffle, run: &Run) {
    let bytes = align(run.end() - run.offset);
    shuffle.file_bytes.fetch_add(bytes, Ordering::Relaxed);
    shared.used.fetch_add(bytes, Ordering::Relaxed);
}

/// Adds a run's record and its segment's.
pub(super) fn put_run(changes: &mut Changes, shuffle: &Shuffle, run: &Run) {
    changes.put(
        Key::Run(shuffle.app_no, shuffle.id, run.id),
        &Record::Run(values::Run {
            segment: run.segment.id,
            offset: run.offset,
            attempts: run.attempts,
            blocks: run.blocks,
            data_length: run.data_length,
            directory: run.directory.to_vec(),
        }),
    );
    changes.put(
        Key::Segment(shuffle.app_no, shuffle.id, run.segment.id),
        &Record::Segment(values::Segment { length: run.end(), tier: Tier::Open }),
    );
}

/// Lets fetches read a run from memory until memory is needed.
pub(super) fn keep_cached(shared: &Shared, run: &Arc<Run>) {
    if run.cached().is_some() {
        shared.cached.lock().push_back(Arc::downgrade(run));
    }
}

/// What to flush, ascending by owner and not more than a run should have.
fn collect(shared: &Shared, shuffle: &Arc<Shuffle>, uncommitted: bool) -> Vec<Source> {
    let state = shuffle.state.lock();
    let limit = shared.options.max_run.max(u64::from(shuffle.num_partitions) * GOOD_EXTENT);
    let (mut taken, mut reloaded) = (0, 0);
    let mut sources = Vec::new();
    for (&owner, held) in state.held.iter().filter(|(_, held)| held.lost.get().is_none()) {
        if taken >= limit || reloaded >= RELOAD {
            break;
        }
        let length: u64 = held.batches.iter().map(|batch| batch.length()).sum();
        taken += length;
        reloaded += length - held.memory();
        sources.push(Source { owner, batches: held.batches.clone(), open: None, reloaded: false });
    }
    if uncommitted {
        for (&owner, open) in &state.open {
            if taken >= limit {
                break;
            }
            let open_state = open.state.lock();
            if open_state.phase == Phase::Open && !open_state.batches.is_empty() {
                taken += open_state.batches.iter().map(|batch| batch.length()).sum::<u64>();
                sources.push(Source { owner, batches: open_state.batches.clone(), open: Some(open.clone()), reloaded: false });
            }
        }
        sources.sort_by_key(|source| source.owner);
    }
    sources
}

/// Reads blocks back that only a log has; false if they cannot be read, which is noted where readers see it.
fn reload(shared: &Shared, shuffle: &Shuffle, source: &mut Source) -> bool {
    for batch in &mut source.batches {
        let Data::Log(log, offset) = batch.data() else { continue };
        let mut bytes = vec![0; batch.length() as usize];
        let read = shared.disk.read(&log.file, &log.path, &mut bytes, *offset).map_err(|error| error.to_string());
        let loaded = read.and_then(|()| {
            Batch::try_new(batch.headers().to_vec(), Bytes::from_owner(Reloaded(bytes))).ok_or_else(String::new)
        });
        match loaded {
            Ok(loaded) => {
                *batch = Arc::new(loaded);
                source.reloaded = true;
            }
            Err(reason) => {
                let state = shuffle.state.lock();
                if let Some(held) = state.held.get(&source.owner) {
                    held.lose(shuffle, source.owner, || reason);
                }
                return false;
            }
        }
    }
    true
}

struct Reloaded(Vec<u8>);

impl AsRef<[u8]> for Reloaded {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
