//! The index of a volume as its other parts see it: its calls are watched, as those of files are,
//! and fail when a test wants it.
//!
//! An index that could not be opened for writing may be opened for reading, so that what the volume
//! has is served. If that was for want of space, every write tries to open it again, and what has
//! to be written first goes in front of it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::RwLock;

use crate::{
    index::{self, Changes, RocksIndex, SegmentIndex},
    staging::{
        disk::{Disk, operation::Operation},
        error::Error,
    },
};

/// See the module.
pub(crate) struct WatchedIndex {
    access: RwLock<Access>,
    disk: Arc<Disk>,
    path: PathBuf,
}

enum Access {
    Writable(RocksIndex),
    ReadOnly {
        /// Absent for as long as it is opened again.
        index: Option<RocksIndex>,
        /// What is written first once it can be; `None`: it never is.
        first: Option<Changes>,
    },
}

// === impl WatchedIndex ===

impl WatchedIndex {
    /// Opens it, or makes it.
    pub(crate) fn open(disk: &Arc<Disk>, path: &Path) -> Result<Self, Error> {
        let _running = disk.watch.begin(Operation::Index, path);
        Ok(Self {
            access: RwLock::new(Access::Writable(RocksIndex::open(path)?)),
            disk: disk.clone(),
            path: path.into(),
        })
    }

    /// Opens it for reading; nothing on the disk is changed.
    pub(crate) fn open_read_only(disk: &Arc<Disk>, path: &Path) -> Result<Self, Error> {
        let _running = disk.watch.begin(Operation::Index, path);
        let index = Some(RocksIndex::open_read_only(path)?);
        Ok(Self {
            access: RwLock::new(Access::ReadOnly { index, first: None }),
            disk: disk.clone(),
            path: path.into(),
        })
    }

    /// From now on every write tries to open the index for writing, and writes these changes first.
    pub(crate) fn write_first(&self, changes: Changes) {
        if let Access::ReadOnly { first, .. } = &mut *self.access.write() {
            *first = Some(changes);
        }
    }

    fn store(&self, operation: &'static str, message: &str) -> index::Error {
        index::Error::Store {
            path: self.path.display().to_string(),
            operation,
            message: message.into(),
        }
    }

    fn become_writable(&self) -> Result<(), index::Error> {
        let mut access = self.access.write();
        let Access::ReadOnly { index, first } = &mut *access else {
            return Ok(());
        };
        let Some(first) = first else {
            return Err(self.store("write", "it is open for reading only"));
        };
        // Before it is opened again, not beside that.
        drop(index.take());
        let opened = RocksIndex::open(&self.path).and_then(|index| {
            index.write(first, true)?;
            Ok(index)
        });
        match opened {
            Ok(index) => {
                *access = Access::Writable(index);
                Ok(())
            }
            Err(error) => {
                *index = RocksIndex::open_read_only(&self.path).ok();
                Err(error)
            }
        }
    }

    fn read<T>(
        &self,
        read: impl FnOnce(&RocksIndex) -> Result<T, index::Error>,
    ) -> Result<T, index::Error> {
        match &*self.access.read() {
            Access::Writable(index)
            | Access::ReadOnly {
                index: Some(index), ..
            } => read(index),
            Access::ReadOnly { index: None, .. } => Err(self.store("read", "it is not open")),
        }
    }
}

impl SegmentIndex for WatchedIndex {
    fn write(&self, batch: &Changes, sync: bool) -> Result<(), index::Error> {
        let _running = self.disk.watch.begin(Operation::Index, &self.path);
        let before = self.disk.check(Operation::Index, &self.path);
        before.map_err(|error| self.store("write", &error.to_string()))?;
        if matches!(&*self.access.read(), Access::ReadOnly { .. }) {
            self.become_writable()?;
        }
        match &*self.access.read() {
            Access::Writable(index) => index.write(batch, sync),
            Access::ReadOnly { .. } => Err(self.store("write", "it is open for reading only")),
        }
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, index::Error> {
        self.read(|index| index.get(key))
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<(), index::Error> {
        self.read(|index| index.scan(from, to, visit))
    }

    fn is_damaged(&self) -> bool {
        self.read(|index| Ok(index.is_damaged())).unwrap_or(false)
    }

    fn settle_damage(&self) -> Result<(), index::Error> {
        self.read(SegmentIndex::settle_damage)
    }
}
