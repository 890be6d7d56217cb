//! Segments and the runs in them, as this process knows them. Their bytes are described in [`super::format`].

use std::{
    fs::File,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;
use shuffle_proto::{
    block::BlockHeader,
    stored::{ROW, mend::IEEE},
};

use super::{
    Error,
    batch::{Batch, Data},
    disk::Disk,
    format::{HEADER, Header, head_length},
};
use crate::index::{RunId, SegmentId, values::DirectoryEntry};

/// A file of runs.
pub(super) struct Segment {
    pub(super) id: SegmentId,
    pub(super) path: PathBuf,
    /// Opened when it is first needed: after a restart most segments are never read again.
    reader: OnceLock<File>,
    /// End of the last run that was written.
    written: AtomicU64,
    /// How far it is on the device.
    synced: AtomicU64,
    /// Whether its name is on the device.
    named: AtomicBool,
}

/// Blocks that were written together. Immutable but for what its state fields say.
pub(super) struct Run {
    pub(super) id: RunId,
    pub(super) segment: Arc<Segment>,
    /// Of its header in the segment.
    pub(super) offset: u64,
    pub(super) attempts: u32,
    pub(super) blocks: u32,
    pub(super) data_length: u64,
    pub(super) directory: Box<[DirectoryEntry]>,
    /// Attempts in it that are not committed.
    pub(super) pending: AtomicU32,
    /// Attempts in it that have ended without a commit.
    abandoned: AtomicU32,
    /// Version of its shuffle's state from which on all its attempts are committed.
    pub(super) settled: AtomicU64,
    /// Its blocks in memory, until memory is needed.
    cache: Mutex<Option<Arc<Cached>>>,
    /// Why it cannot be read.
    pub(super) lost: OnceLock<String>,
    /// Which byte of its table has changed on the disk, and by which bits, once that was looked for.
    mended: OnceLock<Option<(usize, u8)>>,
}

/// A run's blocks in memory.
pub(super) struct Cached {
    pub(super) batches: Vec<Arc<Batch>>,
    /// In the order of the run: which batch, and which block of it.
    pub(super) slots: Box<[(u32, u32)]>,
}

// === impl Segment ===

impl Segment {
    pub(super) fn new(id: SegmentId, path: PathBuf, written: u64) -> Self {
        Self {
            id,
            path,
            reader: OnceLock::new(),
            written: AtomicU64::new(written),
            synced: AtomicU64::new(0),
            named: AtomicBool::new(false),
        }
    }

    /// The file, for reading.
    pub(super) fn reader(&self, disk: &Disk) -> Result<&File, Error> {
        if let Some(file) = self.reader.get() {
            return Ok(file);
        }
        let file = disk.open(&self.path)?;
        Ok(self.reader.get_or_init(|| file))
    }

    pub(super) fn set_written(&self, length: u64) {
        self.written.store(length, Ordering::Release);
    }

    /// Puts its bytes, up to `end` at least, and its name on the device. Answers whether that took a sync.
    pub(super) fn sync(&self, disk: &Disk, end: u64) -> Result<bool, Error> {
        if self.synced.load(Ordering::Acquire) >= end && self.named.load(Ordering::Acquire) {
            return Ok(false);
        }
        let written = self.written.load(Ordering::Acquire);
        disk.sync(self.reader(disk)?, &self.path)?;
        if !self.named.load(Ordering::Acquire) {
            // The directories of the shuffle, of the app and of all apps: each may be as new as the file.
            for dir in self.path.ancestors().skip(1).take(3) {
                disk.sync_dir(dir)?;
            }
            self.named.store(true, Ordering::Release);
        }
        self.synced.fetch_max(written, Ordering::AcqRel);
        Ok(true)
    }
}

/// Name of a segment's file in its shuffle's directory.
pub(super) fn segment_path(shuffle_dir: &Path, id: SegmentId) -> PathBuf {
    shuffle_dir.join(format!("{id}.seg"))
}

// === impl Run ===

impl Run {
    #[allow(clippy::too_many_arguments, reason = "the fields of a stored record")]
    pub(super) fn new(
        id: RunId,
        segment: Arc<Segment>,
        offset: u64,
        attempts: u32,
        blocks: u32,
        data_length: u64,
        directory: Box<[DirectoryEntry]>,
        cached: Option<Cached>,
    ) -> Self {
        Self {
            id,
            segment,
            offset,
            attempts,
            blocks,
            data_length,
            directory,
            pending: AtomicU32::new(attempts),
            abandoned: AtomicU32::new(0),
            settled: AtomicU64::new(u64::MAX),
            cache: Mutex::new(cached.map(Arc::new)),
            lost: OnceLock::new(),
            mended: OnceLock::new(),
        }
    }

    /// Reads rows of its table as they are in the file, but for a byte that is known to have changed.
    pub(super) fn read_rows(&self, disk: &Disk, bytes: &mut [u8], first: u32) -> Result<(), Error> {
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

    /// Looks whether a byte of the table has changed that its checksum can put right, the first time that somebody asks; then it is
    /// right from now on. A table describes blocks of many attempts: one bit of it must not cost them all.
    pub(super) fn mend(&self, disk: &Disk) -> Result<bool, Error> {
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
    pub(super) fn end(&self) -> u64 {
        self.data_offset() + self.data_length
    }

    /// Where its data begins in the segment.
    pub(super) fn data_offset(&self) -> u64 {
        self.offset + head_length(self.blocks)
    }

    /// Ordinals of the blocks of some partitions.
    pub(super) fn span(&self, partitions: &Range<u32>) -> Range<u32> {
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
    pub(super) fn entry_of(&self, ordinal: u32) -> Option<usize> {
        self.directory
            .partition_point(|entry| entry.first_block <= ordinal)
            .checked_sub(1)
    }

    /// Counts attempts that were committed at this version of the state.
    pub(super) fn settle(&self, version: u64) {
        let before = self.pending.fetch_sub(1, Ordering::AcqRel);
        if before == 1 {
            self.settled.store(version, Ordering::Release);
        }
    }

    /// Counts an attempt that has ended without a commit; answers whether all have.
    pub(super) fn abandon(&self) -> bool {
        self.abandoned.fetch_add(1, Ordering::AcqRel) + 1 == self.attempts
    }

    /// One of its attempts is not there any more: whose blocks are in it has to be looked up from now on.
    pub(super) fn unsettle(&self) {
        self.pending.fetch_add(1, Ordering::AcqRel);
        self.settled.store(u64::MAX, Ordering::Release);
    }

    pub(super) fn cached(&self) -> Option<Arc<Cached>> {
        self.cache.lock().clone()
    }

    /// Drops its blocks from memory; answers how many bytes that were.
    pub(super) fn evict(&self) -> u64 {
        let cached = self.cache.lock().take();
        cached.map_or(0, |cached| {
            cached.batches.iter().map(|batch| batch.memory()).sum()
        })
    }

    /// Says why it cannot be read; the first reason stays.
    pub(super) fn lose(&self, reason: impl FnOnce() -> String) {
        self.lost.get_or_init(|| {
            let reason = reason();
            tracing::error!(run = %self.id, segment = %self.segment.path.display(), %reason, "run cannot be read");
            reason
        });
    }
}

// === impl Cached ===

impl Cached {
    pub(super) fn header(&self, ordinal: u32) -> &BlockHeader {
        let (batch, block) = self.slots[ordinal as usize];
        &self.batches[batch as usize].headers()[block as usize]
    }

    /// Whether a block lies right behind the one before it in the run.
    pub(super) fn follows(&self, ordinal: u32) -> bool {
        let (batch, block) = self.slots[ordinal as usize];
        ordinal > 0 && block > 0 && self.slots[ordinal as usize - 1] == (batch, block - 1)
    }

    /// The bytes of blocks that lie together.
    pub(super) fn bytes(&self, ordinals: Range<u32>) -> Bytes {
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
