//! Runs as this process knows them: where they are in their segments, and what of them is still in
//! memory.

use std::{
    ops::Range,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;
use shuffle_proto::{
    block::BlockHeader,
    stored::{ROW, mend::IEEE},
};

use crate::{
    index::{
        RunId,
        values::{self, DirectoryEntry},
    },
    staging::{
        disk::Disk,
        error::Error,
        files::{
            format::{HEADER, Header, head_length},
            segment::Segment,
        },
        state::batch::{Batch, Data},
    },
};

/// Blocks that were written together. Immutable but for what its state fields say.
pub(crate) struct Run {
    pub(crate) id: RunId,
    pub(crate) segment: Arc<Segment>,
    /// Offset of the run's header in the segment.
    pub(crate) offset: u64,
    pub(crate) attempts: u32,
    pub(crate) blocks: u32,
    pub(crate) data_length: u64,
    pub(crate) directory: Box<[DirectoryEntry]>,
    /// Attempts in it that are not committed.
    pub(crate) pending: AtomicU32,
    /// Attempts in it that have ended without a commit.
    abandoned: AtomicU32,
    /// Version of its shuffle's state from which on all its attempts are committed.
    pub(crate) settled: AtomicU64,
    /// The run's blocks in memory, until memory is needed.
    cache: Mutex<Option<Arc<Cached>>>,
    /// Why it cannot be read.
    pub(crate) lost: OnceLock<String>,
    /// Which byte of its table has changed on the disk, and by which bits, once that was looked
    /// for.
    mended: OnceLock<Option<(usize, u8)>>,
}

/// A run's blocks in memory.
pub(crate) struct Cached {
    pub(crate) batches: Vec<Arc<Batch>>,
    /// Batch and block of each ordinal of the run.
    pub(crate) slots: Box<[(u32, u32)]>,
}

// === impl Run ===

impl Run {
    /// A run of which nothing is committed yet, as its record has it.
    pub(crate) fn new(
        id: RunId,
        segment: Arc<Segment>,
        record: values::Run,
        cached: Option<Cached>,
    ) -> Self {
        let values::Run {
            segment: _,
            offset,
            attempts,
            blocks,
            data_length,
            directory,
        } = record;
        Self {
            id,
            segment,
            offset,
            attempts,
            blocks,
            data_length,
            directory: directory.into(),
            pending: AtomicU32::new(attempts),
            abandoned: AtomicU32::new(0),
            settled: AtomicU64::new(u64::MAX),
            cache: Mutex::new(cached.map(Arc::new)),
            lost: OnceLock::new(),
            mended: OnceLock::new(),
        }
    }

    /// Reads rows of its table as they are in the file, but for a byte that is known to have
    /// changed.
    pub(crate) fn read_rows(&self, disk: &Disk, bytes: &mut [u8], first: u32) -> Result<(), Error> {
        let from = first as usize * ROW;
        let at = self.offset + HEADER as u64 + from as u64;
        disk.read(self.segment.reader(disk)?, &self.segment.path, bytes, at)?;
        if let Some(Some((at, bits))) = self.mended.get()
            && let Some(byte) = at.checked_sub(from).and_then(|at| bytes.get_mut(at))
        {
            *byte ^= bits;
        }
        Ok(())
    }

    /// Searches the table for a changed byte that its checksum can correct; only the first call
    /// does, and later reads apply the correction. A table describes blocks of many attempts: one
    /// bit must not cost them all.
    pub(crate) fn mend(&self, disk: &Disk) -> Result<bool, Error> {
        if self.mended.get().is_some() {
            return Ok(false);
        }
        let mut header = [0; HEADER];
        let file = self.segment.reader(disk)?;
        disk.read(file, &self.segment.path, &mut header, self.offset)?;
        let mut table = vec![0; self.blocks as usize * ROW];
        self.read_rows(disk, &mut table, 0)?;
        let stored = Header::decode_mended(&header)
            .ok()
            .filter(|header| header.blocks == self.blocks)
            .map(|header| header.table_checksum);
        let found =
            stored.and_then(|stored| IEEE.find(table.len(), crc32fast::hash(&table) ^ stored));
        if let Some((at, bits)) = found {
            tracing::error!(run = %self.id, segment = %self.segment.path.display(), at, bits,
                "a byte of a table has changed on the disk: it is put right when it is read");
        }
        Ok(self.mended.set(found).is_ok() && found.is_some())
    }

    /// Where its bytes end in the segment.
    pub(crate) fn end(&self) -> u64 {
        self.data_offset() + self.data_length
    }

    /// Where its data begins in the segment.
    pub(crate) fn data_offset(&self) -> u64 {
        self.offset + head_length(self.blocks)
    }

    /// Ordinals of the blocks of some partitions.
    pub(crate) fn span(&self, partitions: &Range<u32>) -> Range<u32> {
        let bound = |partition: u32| {
            let at = self
                .directory
                .partition_point(|entry| entry.partition < partition);
            self.directory
                .get(at)
                .map_or(self.blocks, |entry| entry.first_block)
        };
        bound(partitions.start)..bound(partitions.end)
    }

    /// The partition that a block belongs to, as its place in the directory.
    pub(crate) fn entry_of(&self, ordinal: u32) -> Option<usize> {
        self.directory
            .partition_point(|entry| entry.first_block <= ordinal)
            .checked_sub(1)
    }

    /// Counts attempts that were committed at this version of the state.
    pub(crate) fn settle(&self, version: u64) {
        let before = self.pending.fetch_sub(1, Ordering::AcqRel);
        if before == 1 {
            self.settled.store(version, Ordering::Release);
        }
    }

    /// Counts an attempt that has ended without a commit; answers whether all have.
    pub(crate) fn abandon(&self) -> bool {
        self.abandoned.fetch_add(1, Ordering::AcqRel) + 1 == self.attempts
    }

    /// Counts an attempt that is lost: from now on each block's attempt has to be looked up.
    pub(crate) fn unsettle(&self) {
        self.pending.fetch_add(1, Ordering::AcqRel);
        self.settled.store(u64::MAX, Ordering::Release);
    }

    pub(crate) fn cached(&self) -> Option<Arc<Cached>> {
        self.cache.lock().clone()
    }

    /// Drops its blocks from memory; answers how many bytes that were.
    pub(crate) fn evict(&self) -> u64 {
        let cached = self.cache.lock().take();
        cached.map_or(0, |cached| {
            cached.batches.iter().map(|batch| batch.memory()).sum()
        })
    }

    /// Says why it cannot be read; the first reason stays.
    pub(crate) fn lose(&self, reason: impl FnOnce() -> String) {
        self.lost.get_or_init(|| {
            let reason = reason();
            tracing::error!(run = %self.id, segment = %self.segment.path.display(), %reason, "run cannot be read");
            reason
        });
    }
}

// === impl Cached ===

impl Cached {
    pub(crate) fn header(&self, ordinal: u32) -> &BlockHeader {
        let (batch, block) = self.slots[ordinal as usize];
        &self.batches[batch as usize].headers()[block as usize]
    }

    /// Whether a block lies right behind the one before it in the run.
    pub(crate) fn follows(&self, ordinal: u32) -> bool {
        let (batch, block) = self.slots[ordinal as usize];
        ordinal > 0 && block > 0 && self.slots[ordinal as usize - 1] == (batch, block - 1)
    }

    /// The bytes of blocks that lie together.
    pub(crate) fn bytes(&self, ordinals: Range<u32>) -> Bytes {
        let (batch, first) = self.slots[ordinals.start as usize];
        let batch = &self.batches[batch as usize];
        match batch.data() {
            Data::Memory(bytes) => {
                bytes.slice(batch.span(first as usize..first as usize + ordinals.len()))
            }
            // A run is cached only if memory has all of it.
            Data::Log(..) => Bytes::new(),
        }
    }
}

pub(crate) fn find_run(runs: &[Arc<Run>], id: RunId) -> Option<&Arc<Run>> {
    runs.binary_search_by_key(&id, |run| run.id)
        .ok()
        .map(|at| &runs[at])
}
