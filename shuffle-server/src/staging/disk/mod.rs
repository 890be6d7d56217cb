//! Calls of the file system: whole reads and writes, errors that name the file, and a place to make
//! them fail in tests.

pub(crate) mod direct;
pub(crate) mod index;
pub(crate) mod operation;
pub(crate) mod trouble;
pub(crate) mod watch;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, IoSlice},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use rustix::{
    fs::{FallocateFlags, OFlags, StatVfsMountFlags},
    io::Errno,
};

use crate::staging::{
    disk::{
        direct::Gather,
        operation::{Faults, Operation, SYNC},
        watch::{Running, Watch},
    },
    error::Error,
};

/// Most pieces of one gathered write (the system's own limit).
const MAX_PIECES: usize = 1024;
/// Bytes of one write through the page cache. Larger ones gain nothing, and make the kernel look
/// for page cache in blocks of several MiB: on a virtual machine that gives free memory back to its
/// host (free page reporting works on such blocks) those are the ones that are not there. Measured
/// on one, in CPU s/GB: 0.3 in writes of 1 MiB, 1.9 to 4.1 in writes of 64 MiB.
const MAX_WRITE: usize = 1 << 20;

/// Which directory a path leads to: another file system that is mounted there, or none any more, is
/// another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    device: u64,
    inode: u64,
}

/// What a file system says of itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Space {
    /// Bytes that unprivileged processes may still write.
    pub(crate) free: u64,
    /// Bytes that it has in all.
    pub(crate) total: u64,
    pub(crate) read_only: bool,
}

/// The file system under a volume.
pub(crate) struct Disk {
    faults: Option<Arc<dyn Faults>>,
    /// Calls that run.
    pub(crate) watch: Watch,
    /// Whether it has refused to write past the page cache.
    refuses_direct: AtomicBool,
    /// The buffer of the last gathered write, for the next one: new memory costs about as much to
    /// clear as to copy into.
    spare: Mutex<Option<Gather>>,
}

// === impl Disk ===

impl Disk {
    /// A call of it is overdue after `patience`.
    pub(crate) fn new(faults: Option<Arc<dyn Faults>>, patience: Duration) -> Self {
        Self {
            faults,
            watch: Watch::new(patience),
            refuses_direct: AtomicBool::new(false),
            spare: Mutex::default(),
        }
    }

    /// A buffer to gather into; [`give_back`](Self::give_back) it.
    pub(crate) fn gather(&self) -> io::Result<Gather> {
        let spare = self.spare.lock().take();
        spare.map_or_else(Gather::new, Ok)
    }

    pub(crate) fn give_back(&self, gather: Gather) {
        *self.spare.lock() = Some(gather);
    }

    pub(crate) fn check(&self, operation: Operation, path: &Path) -> io::Result<()> {
        self.faults
            .as_ref()
            .map_or(Ok(()), |faults| faults.before(operation, path))
    }

    /// Watches a call until the answer is dropped; fails if a test wants it to.
    fn begin(&self, operation: Operation, path: &Path) -> io::Result<Running<'_>> {
        let running = self.watch.begin(operation, path);
        self.check(operation, path)?;
        Ok(running)
    }

    /// A directory and those above it.
    pub(crate) fn create_dir_all(&self, path: &Path) -> Result<(), Error> {
        self.begin(Operation::Open, path)
            .and_then(|_running| fs::create_dir_all(path))
            .map_err(|source| Error::io("create", path, source))
    }

    /// Gives back what a write that failed has taken.
    pub(crate) fn cut(&self, file: &File, path: &Path, length: u64) {
        let _running = self.watch.begin(Operation::Write, path);
        // It has failed already, and nothing names what lies behind that length.
        let _ = file.set_len(length);
    }

    /// A new file, for reading and writing.
    pub(crate) fn create(&self, path: &Path) -> Result<File, Error> {
        self.begin(Operation::Open, path)
            .and_then(|_running| {
                OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create_new(true)
                    .open(path)
            })
            .map_err(|source| Error::io("create", path, source))
    }

    /// A second way to a file, past the page cache; `None` where the file system has none.
    pub(crate) fn open_direct(&self, path: &Path) -> Option<File> {
        if self.refuses_direct.load(Ordering::Relaxed) {
            return None;
        }
        let flags = i32::try_from(OFlags::DIRECT.bits()).ok()?;
        let _running = self.watch.begin(Operation::Open, path);
        match OpenOptions::new()
            .write(true)
            .custom_flags(flags)
            .open(path)
        {
            Ok(file) => Some(file),
            Err(error) => {
                // A file whose shuffle was deleted meanwhile says nothing of the file system.
                if error.kind() != io::ErrorKind::NotFound {
                    self.refuse_direct(&error, path);
                }
                None
            }
        }
    }

    fn refuse_direct(&self, error: &io::Error, path: &Path) {
        if !self.refuses_direct.swap(true, Ordering::Relaxed) {
            tracing::info!(%error, path = %path.display(), "file system does not take O_DIRECT, writing through the page cache");
        }
    }

    /// A file, for reading; who waits for it is a reader.
    pub(crate) fn open(&self, path: &Path) -> Result<File, Error> {
        let _running = self.watch.begin(Operation::Read, path);
        self.check(Operation::Open, path)
            .and_then(|()| File::open(path))
            .map_err(|source| Error::io("open", path, source))
    }

    /// Writes all pieces one after the other.
    pub(crate) fn write(
        &self,
        file: &File,
        path: &Path,
        pieces: &[&[u8]],
        mut offset: u64,
    ) -> Result<(), Error> {
        let failed = |source: io::Error| Error::io("write", path, source);
        let mut running = self.begin(Operation::Write, path).map_err(failed)?;
        let mut group: Vec<IoSlice<'_>> = Vec::with_capacity(MAX_PIECES.min(pieces.len() + 1));
        let mut room = MAX_WRITE;
        for piece in pieces {
            let mut piece = *piece;
            while !piece.is_empty() {
                let (now, later) = piece.split_at(piece.len().min(room));
                group.push(IoSlice::new(now));
                room -= now.len();
                piece = later;
                if room == 0 || group.len() == MAX_PIECES {
                    write_group(file, &mut group, &mut offset).map_err(failed)?;
                    running.goes_on();
                    room = MAX_WRITE;
                }
            }
        }
        write_group(file, &mut group, &mut offset).map_err(failed)?;
        Ok(())
    }

    /// Writes one aligned piece past the page cache. `Ok(false)`: the file system does not take it,
    /// nothing was written.
    pub(crate) fn write_direct(
        &self,
        file: &File,
        path: &Path,
        piece: &[u8],
        offset: u64,
    ) -> Result<bool, Error> {
        let failed = |source: io::Error| Error::io("write", path, source);
        let _running = self.begin(Operation::Write, path).map_err(failed)?;
        match file.write_all_at(piece, offset) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                self.refuse_direct(&error, path);
                Ok(false)
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Fills the buffer. A file that ends before is an error that says where.
    pub(crate) fn read(
        &self,
        file: &File,
        path: &Path,
        buffer: &mut [u8],
        offset: u64,
    ) -> Result<(), Error> {
        let failed = |source: io::Error| Error::io("read", path, source);
        let _running = self.begin(Operation::Read, path).map_err(failed)?;
        file.read_exact_at(buffer, offset).map_err(|error| {
            let end = offset + buffer.len() as u64;
            failed(match file.metadata() {
                Ok(metadata) if error.kind() == io::ErrorKind::UnexpectedEof => io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!(
                        "bytes {offset} to {end} are wanted, the file ends at {}",
                        metadata.len()
                    ),
                ),
                _ => error,
            })
        })
    }

    /// Puts a file's bytes on the device.
    pub(crate) fn sync(&self, file: &File, path: &Path) -> Result<(), Error> {
        self.begin(Operation::Sync, path)
            .and_then(|_running| file.sync_data())
            .map_err(|source| Error::io(SYNC, path, source))
    }

    /// Puts a directory's names on the device.
    pub(crate) fn sync_dir(&self, path: &Path) -> Result<(), Error> {
        let dir = self.open(path)?;
        self.begin(Operation::Sync, path)
            .and_then(|_running| dir.sync_all())
            .map_err(|source| Error::io(SYNC, path, source))
    }

    /// Removes a file.
    pub(crate) fn remove(&self, path: &Path) -> io::Result<()> {
        let _running = self.begin(Operation::Remove, path)?;
        fs::remove_file(path)
    }

    /// Removes an empty directory.
    pub(crate) fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let _running = self.begin(Operation::Remove, path)?;
        fs::remove_dir(path)
    }

    /// Gives a directory another name on the same file system.
    pub(crate) fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
        self.begin(Operation::Rename, from)
            .and_then(|_running| fs::rename(from, to))
            .map_err(|source| Error::io("rename", from, source))
    }

    /// Gives back the space of a part of a file; it reads as zeros from then on.
    pub(crate) fn punch(&self, path: &Path, offset: u64, length: u64) -> Result<(), Error> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        self.begin(Operation::Remove, path)
            .and_then(|_running| {
                let file = OpenOptions::new().write(true).open(path)?;
                Ok(rustix::fs::fallocate(&file, flags, offset, length)?)
            })
            .map_err(|source| Error::io("punch a hole into", path, source))
    }

    /// Writes a few bytes and removes them again, with `sync` by way of the device; the error says
    /// why that cannot be done.
    pub(crate) fn try_write(&self, path: &Path, sync: bool) -> Result<(), Error> {
        // One that a crash has left.
        let _ = self.remove(path);
        let file = self.create(path)?;
        let written = self
            .write(&file, path, &[&[0; 4096]], 0)
            .and_then(|()| match sync {
                true => self.sync(&file, path),
                false => Ok(()),
            });
        let _ = self.remove(path);
        written
    }

    /// Which directory this is.
    pub(crate) fn place(&self, path: &Path) -> io::Result<Place> {
        let _running = self.watch.begin(Operation::Look, path);
        let metadata = fs::metadata(path)?;
        Ok(Place {
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }

    /// What its file system says of itself.
    pub(crate) fn space(&self, path: &Path) -> Result<Space, Error> {
        let _running = self.watch.begin(Operation::Look, path);
        let stat = rustix::fs::statvfs(path)
            .map_err(|error| Error::io("stat file system of", path, error.into()))?;
        Ok(Space {
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
            read_only: stat.f_flag.contains(StatVfsMountFlags::RDONLY),
        })
    }
}

/// Writes the group, and empties it.
fn write_group(file: &File, group: &mut Vec<IoSlice<'_>>, offset: &mut u64) -> io::Result<()> {
    let mut rest = &mut group[..];
    while !rest.is_empty() {
        match rustix::io::pwritev(file, rest, *offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                *offset += count as u64;
                IoSlice::advance_slices(&mut rest, count);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    group.clear();
    Ok(())
}
