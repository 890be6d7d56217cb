//! Writing one run: sorting blocks of one shuffle and gathering them into its segment.
//!
//! What comes out is on disk and known to nobody; [`super::flush`] and [`super::commit`] put it
//! into the index and show it to readers.

use std::sync::{Arc, atomic::Ordering};

use shuffle_proto::{
    ids::PartitionId,
    stored::{ROW, put_row},
};

use crate::{
    index::{
        RunId, SegmentId,
        values::{self, DirectoryEntry},
    },
    staging::{
        disk::direct::{Gather, page_cache_room},
        error::Error,
        files::{
            format::{ALIGNMENT, HEADER, Header, Subject, align},
            segment::{Output, Segment, segment_path},
        },
        options::DirectIo,
        state::{
            batch::{Batch, Owner},
            run::{Cached, Run},
            shared::Shared,
            shuffle::{OpenAttempt, Shuffle},
            stats::Stats,
        },
    },
};

/// Blocks smaller than this on average are gathered before they are written: a piece of a gathered
/// write costs about as much as copying this.
const SMALL_BLOCK: u64 = 8 << 10;

/// What an attempt brings to a run.
pub(crate) struct Source {
    pub(crate) owner: Owner,
    pub(crate) batches: Vec<Arc<Batch>>,
    /// The attempt, if it is not committed.
    pub(crate) open: Option<Arc<OpenAttempt>>,
    /// Whether blocks were read back from a log, which no permit pays for.
    pub(crate) reloaded: bool,
}

/// Writes blocks as one run. `sources` ascend by owner, each attempt's batches by seq. The run is
/// not known to anybody yet.
pub(crate) fn write_run(
    shared: &Shared,
    shuffle: &Shuffle,
    sources: &[Source],
) -> Result<Arc<Run>, Error> {
    let begun = shared.clock.now();
    let batches: Vec<Arc<Batch>> = sources
        .iter()
        .flat_map(|source| source.batches.iter().cloned())
        .collect();
    shared.check_reserve(batches.iter().map(|batch| batch.length()).sum())?;
    let (slots, partitions) = sort(&batches);
    let id = RunId(shared.next_id());
    let blocks = slots.len() as u32;
    let mut head = Vec::with_capacity(HEADER + slots.len() * ROW);
    head.resize(HEADER, 0);
    let mut directory: Vec<DirectoryEntry> = Vec::with_capacity(partitions);
    let mut data_length = 0;
    for (ordinal, &(batch, block)) in slots.iter().enumerate() {
        let header = &batches[batch as usize].headers()[block as usize];
        if directory
            .last()
            .is_none_or(|last| last.partition != header.partition.0)
        {
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
        subject: Subject::Run {
            id,
            attempts: sources.len() as u32,
        },
        blocks,
        data_length,
        table_checksum: crc32fast::hash(&head[HEADER..]),
    };
    head[..HEADER].copy_from_slice(&header.encode());

    let mut guard = shuffle.output.lock();
    if guard
        .as_ref()
        .is_some_and(|output| output.length >= shared.options.max_segment)
    {
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
            // Give back what a full disk took for the half that was written, and begin anew: nobody
            // knows what the rest looks like.
            shared.disk.cut(&output.file, &output.segment.path, offset);
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
    // What went through the page cache is read from there, and its memory is the next batch's at
    // once. Blocks that were read back from a log are in nobody's budget and go at once too.
    let in_memory = direct
        && batches.iter().all(|batch| batch.memory() > 0)
        && sources.iter().all(|source| !source.reloaded);
    let cached = in_memory.then_some(Cached { batches, slots });
    let record = values::Run {
        segment: segment.id,
        offset,
        attempts: sources.len() as u32,
        blocks,
        data_length,
        directory,
    };
    Ok(Arc::new(Run::new(id, segment, record, cached)))
}

/// Positions of all blocks in the order of a run, and how many partitions they are of.
fn sort(batches: &[Arc<Batch>]) -> (Box<[(u32, u32)]>, usize) {
    let count = batches.iter().map(|batch| batch.headers().len()).sum();
    let mut keyed: Vec<(PartitionId, u32, u32)> = Vec::with_capacity(count);
    for (position, batch) in batches.iter().enumerate() {
        let block = |(at, header): (usize, &shuffle_proto::block::BlockHeader)| {
            (header.partition, position as u32, at as u32)
        };
        keyed.extend(batch.headers().iter().enumerate().map(block));
    }
    // The batches come in the order of (map index, attempt, seq), so a stable sort by partition is
    // the whole order. It finds the batches, which are sorted, and merges them.
    keyed.sort_by_key(|&(partition, ..)| partition);
    let partitions = keyed.chunk_by(|a, b| a.0 == b.0).count();
    (
        keyed
            .into_iter()
            .map(|(_, batch, block)| (batch, block))
            .collect(),
        partitions,
    )
}

/// Begins a segment, unless the shuffle is gone.
fn create(shared: &Shared, shuffle: &Shuffle) -> Result<Output, Error> {
    let _gate = shared.gate.lock();
    if shuffle.state.lock().deleted {
        return Err(shuffle.fenced());
    }
    shared.disk.create_dir_all(&shuffle.dir)?;
    let id = SegmentId(shared.next_id());
    let path = segment_path(&shuffle.dir, id);
    let file = shared.disk.create(&path)?;
    Ok(Output {
        segment: Arc::new(Segment::new(id, path, 0)),
        file,
        direct: None,
        length: 0,
    })
}

/// Writes at the end of a segment; answers the run's length and whether it went past the page
/// cache.
fn write_bytes(
    shared: &Shared,
    output: &mut Output,
    head: &[u8],
    batches: &[Arc<Batch>],
    slots: &[(u32, u32)],
    data_length: u64,
) -> Result<(u64, bool), Error> {
    let length = head.len() as u64 + data_length;
    let blocks = slots.iter().map(|&(batch, block)| {
        batches[batch as usize]
            .block(block as usize)
            .unwrap_or_default()
    });
    let path = output.segment.path.clone();
    if wants_direct(shared) {
        if output.direct.is_none() {
            output.direct = shared.disk.open_direct(&path);
        }
        if let Some(file) = &output.direct {
            let pieces = std::iter::once(head).chain(blocks.clone());
            let mut buffer = take_gather(shared, &path)?;
            let written = gather(&mut buffer, pieces, output.length, true, |piece, at| {
                shared.disk.write_direct(file, &path, piece, at)
            });
            shared.disk.give_back(buffer);
            let written = written?;
            if written {
                return Ok((length, true));
            }
            output.direct = None;
        }
    }
    if data_length < SMALL_BLOCK * slots.len() as u64 {
        let pieces = std::iter::once(head).chain(blocks);
        let mut buffer = take_gather(shared, &path)?;
        let written = gather(&mut buffer, pieces, output.length, false, |piece, at| {
            shared
                .disk
                .write(&output.file, &path, &[piece], at)
                .map(|()| true)
        });
        shared.disk.give_back(buffer);
        written?;
    } else {
        let pieces: Vec<&[u8]> = std::iter::once(head).chain(blocks).collect();
        shared
            .disk
            .write(&output.file, &path, &pieces, output.length)?;
    }
    Ok((length, false))
}

fn take_gather(shared: &Shared, path: &std::path::Path) -> Result<Gather, Error> {
    let buffer = shared.disk.gather();
    buffer.map_err(|source| Error::io("map memory to write", path, source))
}

fn wants_direct(shared: &Shared) -> bool {
    match shared.options.direct_io {
        DirectIo::On => true,
        DirectIo::Off => false,
        DirectIo::Auto => {
            let room = page_cache_room().unwrap_or(u64::MAX);
            shared.used.load(Ordering::Relaxed) > room / 2
        }
    }
}

/// Copies pieces into the buffer and hands it on whenever it is full; `padded` rounds the last one
/// up with zeros. Ends early, with false, when `write` does.
fn gather<'a>(
    gather: &mut Gather,
    pieces: impl Iterator<Item = &'a [u8]>,
    mut offset: u64,
    padded: bool,
    mut write: impl FnMut(&[u8], u64) -> Result<bool, Error>,
) -> Result<bool, Error> {
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
        let end = if padded {
            filled.next_multiple_of(ALIGNMENT as usize)
        } else {
            filled
        };
        gather.buffer()[filled..end].fill(0);
        return write(&gather.buffer()[..end], offset);
    }
    Ok(true)
}
