//! Files of the commit log: their names, how far they are written and synced, and how many attempts
//! need them. Their bytes are described in [`super::format`].

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use crate::{
    index::LogId,
    staging::{disk::Disk, error::Error},
};

/// A commit log.
#[derive(Debug)]
pub(crate) struct LogFile {
    pub(crate) id: LogId,
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    /// Attempts whose blocks are here and in no run.
    pub(crate) live: AtomicU64,
    pub(crate) length: AtomicU64,
    pub(crate) synced: AtomicU64,
    pub(crate) named: AtomicBool,
}

// === impl LogFile ===

impl LogFile {
    pub(crate) fn new(id: LogId, path: PathBuf, file: File, length: u64) -> Self {
        Self {
            id,
            path,
            file,
            live: AtomicU64::new(0),
            length: AtomicU64::new(length),
            synced: AtomicU64::new(0),
            named: AtomicBool::new(false),
        }
    }

    pub(crate) fn enter(&self) {
        self.live.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn leave(&self) {
        self.live.fetch_sub(1, Ordering::AcqRel);
    }

    pub(crate) fn length(&self) -> u64 {
        self.length.load(Ordering::Acquire)
    }

    /// Puts its bytes and its name on the device.
    pub(crate) fn sync(&self, disk: &Disk) -> Result<bool, Error> {
        let length = self.length();
        if self.synced.load(Ordering::Acquire) >= length {
            return Ok(false);
        }
        disk.sync(&self.file, &self.path)?;
        if !self.named.load(Ordering::Acquire) {
            if let Some(dir) = self.path.parent() {
                disk.sync_dir(dir)?;
            }
            self.named.store(true, Ordering::Release);
        }
        self.synced.fetch_max(length, Ordering::AcqRel);
        Ok(true)
    }
}

/// Name of a log's file.
pub(crate) fn log_path(dir: &Path, id: LogId) -> PathBuf {
    dir.join("log").join(format!("{id}.log"))
}
