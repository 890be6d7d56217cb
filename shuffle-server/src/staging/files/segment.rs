//! Segment files of one shuffle: their names, how far they are written and synced. Their bytes are
//! described in [`super::format`].

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use crate::{
    index::SegmentId,
    staging::{disk::Disk, error::Error},
};

/// A file of runs.
pub(crate) struct Segment {
    pub(crate) id: SegmentId,
    pub(crate) path: PathBuf,
    /// Opened when it is first needed: after a restart most segments are never read again.
    reader: OnceLock<File>,
    /// End of the last run that was written.
    written: AtomicU64,
    /// How far it is on the device.
    synced: AtomicU64,
    /// Whether its name is on the device.
    named: AtomicBool,
}

// === impl Segment ===

impl Segment {
    pub(crate) fn new(id: SegmentId, path: PathBuf, written: u64) -> Self {
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
    pub(crate) fn reader(&self, disk: &Disk) -> Result<&File, Error> {
        if let Some(file) = self.reader.get() {
            return Ok(file);
        }
        let file = disk.open(&self.path)?;
        Ok(self.reader.get_or_init(|| file))
    }

    pub(crate) fn set_written(&self, length: u64) {
        self.written.store(length, Ordering::Release);
    }

    /// Puts its bytes, up to `end` at least, and its name on the device. Answers whether that took
    /// a sync.
    pub(crate) fn sync(&self, disk: &Disk, end: u64) -> Result<bool, Error> {
        if self.synced.load(Ordering::Acquire) >= end && self.named.load(Ordering::Acquire) {
            return Ok(false);
        }
        let written = self.written.load(Ordering::Acquire);
        disk.sync(self.reader(disk)?, &self.path)?;
        if !self.named.load(Ordering::Acquire) {
            // The directories of the shuffle, of the app and of all apps: each may be as new as the
            // file.
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
pub(crate) fn segment_path(shuffle_dir: &Path, id: SegmentId) -> PathBuf {
    shuffle_dir.join(format!("{id}.seg"))
}

/// The segment that a shuffle's next run goes to.
pub(crate) struct Output {
    pub(crate) segment: Arc<Segment>,
    pub(crate) file: File,
    pub(crate) direct: Option<File>,
    pub(crate) length: u64,
}
