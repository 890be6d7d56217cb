//! Space that is kept for the index: a file that is given up when the disk is full, so that
//! deletions, which make space, can be written down, and the index can be opened again. It comes
//! back with the space, before the volume takes attempts again.
//!
//! While it is given up nobody else may use what it has left: [`Ballast::missing`] is what has to
//! stay free.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use rustix::fs::FallocateFlags;

use crate::staging::{
    disk::{Disk, Space, operation::Operation},
    error::Error,
    options::Options,
};

/// The ballast is at most one `SHARE`th of the disk, or of the part of it that the volume may take.
const SHARE: u64 = 8;
/// Less is of no use to the index.
const LEAST: u64 = 1 << 20;

/// See the module.
pub(crate) struct Ballast {
    path: PathBuf,
    /// 0: there is none, and none is missed.
    size: AtomicU64,
    there: AtomicBool,
}

impl Ballast {
    /// Looks for it, and makes it if there is room. With little room it is given up at once:
    /// opening the index takes some.
    pub(crate) fn open(disk: &Disk, dir: &Path, options: &Options, space: Space) -> Self {
        let room = options.limit.unwrap_or(u64::MAX).min(space.total) / SHARE;
        let size = match options.ballast.min(room) >> 12 << 12 {
            size if size < LEAST => 0,
            size => size,
        };
        let path = dir.join("ballast");
        let there = disk.allocated(&path) >= size.max(1);
        let ballast = Self {
            path,
            size: AtomicU64::new(size),
            there: AtomicBool::new(there),
        };
        if space.read_only {
            return ballast;
        }
        if space.free < size || size == 0 {
            ballast.give_up(disk);
        } else if !there && space.free >= 4 * size {
            ballast.take(disk);
        }
        ballast
    }

    /// The ballast of a volume that is not there.
    pub(crate) fn none() -> Self {
        Self {
            path: PathBuf::new(),
            size: AtomicU64::new(0),
            there: AtomicBool::new(false),
        }
    }

    /// Frees its space; answers whether there was any.
    pub(crate) fn give_up(&self, disk: &Disk) -> bool {
        let there = self.there.swap(false, Ordering::AcqRel);
        let _ = disk.remove(&self.path);
        there
    }

    /// Takes space for it. A file system that cannot promise space has none.
    pub(crate) fn take(&self, disk: &Disk) -> bool {
        let size = self.size.load(Ordering::Acquire);
        if size == 0 || self.there.load(Ordering::Acquire) {
            return true;
        }
        match disk.allocate(&self.path, size) {
            Ok(true) => self.there.store(true, Ordering::Release),
            Ok(false) => self.size.store(0, Ordering::Release),
            Err(_) => {
                let _ = disk.remove(&self.path);
                return false;
            }
        }
        true
    }

    /// Bytes that must stay free because it is given up.
    pub(crate) fn missing(&self) -> u64 {
        match self.there.load(Ordering::Acquire) {
            true => 0,
            false => self.size.load(Ordering::Acquire),
        }
    }

    /// Size of the ballast file, whether it is there or given up.
    pub(crate) fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }
}

impl Disk {
    /// Bytes that a file takes; 0 if there is none.
    fn allocated(&self, path: &Path) -> u64 {
        let _running = self.watch.begin(Operation::Look, path);
        fs::metadata(path).map_or(0, |metadata| metadata.blocks() * 512)
    }

    /// Makes a file that has all its space; `Ok(false)` where the file system cannot.
    fn allocate(&self, path: &Path, length: u64) -> Result<bool, Error> {
        let _ = self.remove(path);
        let file = self.create(path)?;
        let _running = self.watch.begin(Operation::Write, path);
        let allocated = self.check(Operation::Write, path).and_then(|()| {
            Ok(rustix::fs::fallocate(
                &file,
                FallocateFlags::empty(),
                0,
                length,
            )?)
        });
        match allocated {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                let _ = self.remove(path);
                Ok(false)
            }
            Err(source) => Err(Error::io("allocate", path, source)),
        }
    }
}
