//! Puts right what has changed in the files of the index, before RocksDB opens them.
//!
//! RocksDB finds a flipped bit in its log, and drops *everything that was written after it*:
//! thousands of commits, for a bit. So its files are looked at first. A byte that has changed in a
//! record of a log (the write-ahead log, or MANIFEST, which is one) is put right by the record's
//! checksum, see `shuffle_proto::stored::mend`; in the write-ahead log only if the record is then
//! what was written by a second checksum too ([`seal`]). A record of the write-ahead log that has
//! changed more is left out alone, and the log is written anew without it; what the log was is kept
//! in `lost/`. A torn end of the newest log is left as it is: RocksDB knows what that is. Tables:
//! [`super::parity`].
//!
//! Looking changes nothing; what is found to be done is a list of [`Change`]s, each of which is
//! made whole or not at all, in any order and as often as one likes. So a crash in the midst of
//! them costs nothing, a byte is put right on a disk that is full, and one that is read-only is
//! read with the changes that it cannot be given.

mod log;
pub(super) mod seal;

use std::{
    fs, io,
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use log::{Log, Verdict};
use rustix::io::Errno;

/// Suffix of a file that takes the place of another.
const NEW: &str = "mending";
/// Bytes that a disk reads or does not read together.
const SECTOR: usize = 4 << 10;

/// What is to be done to a file.
pub(super) struct Change {
    pub(super) path: PathBuf,
    how: How,
}

enum How {
    /// These bytes are to be these.
    Bytes(Vec<(usize, u8)>),
    /// The file is to have these bytes.
    Whole(Vec<u8>),
    /// The file is to have these bytes; records that were in these ranges are left out.
    Without(Vec<u8>, Vec<Range<usize>>),
}

/// Looks through the logs of an index, and at the file that says which MANIFEST counts.
pub(super) fn look(index: &Path) -> io::Result<Vec<Change>> {
    let mut changes = Vec::new();
    let (mut manifests, mut logs) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(index)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with("MANIFEST-") && !name.ends_with(NEW) {
            manifests.push(name);
        } else if name.ends_with(".log") {
            logs.push(name);
        }
    }
    // By number: they have leading zeros.
    manifests.sort();
    logs.sort();
    for name in &manifests {
        changes.extend(look_at_log(&index.join(name), false, true)?);
    }
    for (at, name) in logs.iter().enumerate() {
        let newest = at + 1 == logs.len();
        changes.extend(look_at_log(&index.join(name), true, newest)?);
    }
    changes.extend(look_at_current(index, &manifests)?);
    Ok(changes)
}

/// The file that says which MANIFEST counts.
fn look_at_current(index: &Path, manifests: &[String]) -> io::Result<Option<Change>> {
    let path = index.join("CURRENT");
    let Some(newest) = manifests.last() else {
        return Ok(None);
    };
    let text = match fs::read(&path) {
        // Without it RocksDB would begin a new, empty index.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        read => read?,
    };
    let named = |name: &String| text == format!("{name}\n").into_bytes();
    let how = How::Whole(format!("{newest}\n").into_bytes());
    Ok((!manifests.iter().any(named)).then_some(Change { path, how }))
}

fn look_at_log(path: &Path, droppable: bool, newest: bool) -> io::Result<Option<Change>> {
    let mut log = Log::read(read_around(path)?);
    if droppable {
        log.check_seals();
    }
    let how = match log.verdict(droppable, newest) {
        Verdict::Whole => return Ok(None),
        Verdict::Mended(bytes) => How::Bytes(bytes),
        Verdict::Shortened(log, bad) => How::Without(log, bad),
    };
    let path = path.to_owned();
    Ok(Some(Change { path, how }))
}

// === impl Change ===

impl Change {
    /// The change after which a file has these bytes.
    pub(super) fn whole(path: PathBuf, bytes: Vec<u8>) -> Self {
        let how = How::Whole(bytes);
        Self { path, how }
    }

    /// Whether something of the index is lost by it.
    pub(super) fn loses(&self) -> bool {
        matches!(self.how, How::Without(..))
    }

    /// Makes it.
    pub(super) fn make(&self) -> io::Result<()> {
        let path = self.path.display();
        match &self.how {
            How::Bytes(bytes) => {
                tracing::error!(%path, bytes = bytes.len(), "bytes of the index's log have changed on the disk: they are put right");
                let file = fs::File::options().write(true).open(&self.path)?;
                for (at, byte) in bytes {
                    file.write_all_at(&[*byte], *at as u64)?;
                }
                file.sync_all()
            }
            How::Whole(bytes) => {
                tracing::error!(%path, "a file of the index has changed on the disk: it is written as it was");
                replace(&self.path, bytes)
            }
            How::Without(bytes, bad) => {
                let lost = keep_lost(&self.path)?;
                tracing::error!(%path, ?bad, lost = %lost.display(), "the index's log is damaged: what its records in these places say is lost; the log as it was is kept");
                replace(&self.path, bytes)
            }
        }
    }

    /// What the file is with it.
    pub(super) fn content(&self) -> io::Result<Vec<u8>> {
        match &self.how {
            How::Bytes(changed) => {
                let mut bytes = fs::read(&self.path)?;
                for (at, byte) in changed {
                    if let Some(here) = bytes.get_mut(*at) {
                        *here = *byte;
                    }
                }
                Ok(bytes)
            }
            How::Whole(bytes) | How::Without(bytes, _) => Ok(bytes.clone()),
        }
    }
}

/// A file, with zeros where the disk does not read it any more.
pub(super) fn read_around(path: &Path) -> io::Result<Vec<u8>> {
    match fs::read(path) {
        Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => {
            let file = fs::File::open(path)?;
            let length = file.metadata()?.len();
            tracing::error!(path = %path.display(), %error, "a file of the index cannot be read whole");
            pieces(length, |piece, at| file.read_exact_at(piece, at))
        }
        read => read,
    }
}

fn pieces(length: u64, read: impl Fn(&mut [u8], u64) -> io::Result<()>) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length as usize];
    for (at, piece) in (0..).step_by(SECTOR).zip(bytes.chunks_mut(SECTOR)) {
        match read(piece, at) {
            Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => piece.fill(0),
            read => read?,
        }
    }
    Ok(bytes)
}

/// A name in `lost/` of the index's volume that is not taken.
pub(super) fn lost_name(index: &Path, name: &str) -> io::Result<PathBuf> {
    let lost = index.parent().unwrap_or(index).join("lost");
    fs::create_dir_all(&lost)?;
    let free = (0..).map(|number| lost.join(format!("{name}.{number}")));
    let mut free = free.skip_while(|path| path.exists());
    Ok(free.next().unwrap_or_else(|| lost.join(name)))
}

/// Keeps a file of the index where a person finds it, when another is about to take its place. No
/// copy, which a full disk has no room for, where the file system has links.
fn keep_lost(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let index = path.parent().unwrap_or(path);
    let to = lost_name(index, &format!("index-{name}"))?;
    fs::hard_link(path, &to).or_else(|_| fs::copy(path, &to).map(drop))?;
    Ok(to)
}

/// Replaces a file, whole or not at all.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = path.with_file_name(format!("{name}.{NEW}"));
    let written = fs::write(&new, bytes).and_then(|()| {
        fs::File::open(&new)?.sync_all()?;
        fs::rename(&new, path)
    });
    if let Err(error) = written {
        let _ = fs::remove_file(&new);
        return Err(error);
    }
    sync_parent(path)
}

/// Removes what a crash has left of a file that was to take the place of another.
pub(super) fn remove_half(index: &Path) {
    for entry in fs::read_dir(index).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().ends_with(NEW) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Puts the names of a directory on the device.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(dir) => fs::File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
