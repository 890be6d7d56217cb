//! Opening an index of which something is damaged: what is put right first, and what is left when
//! that cannot be done.
//!
//! What has changed in logs and tables is put right ([`super::mend`], [`super::parity`]); an index
//! that RocksDB does not open then is made anew from what can be read of it, beside the old one,
//! and takes its place when it is whole. A crash at any moment leaves the one or the other, and a
//! note for as long as records may be missing and nobody has drawn the conclusions from that.
//!
//! | beside `index` | what it is |
//! |---|---|
//! | `index.repairing` | being made; of no use after a crash |
//! | `index.repaired` | whole, and about to take the index's place |
//! | `index.damaged` | records may be missing |

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use super::{
    mend::{self, Change},
    parity,
};

/// Files of the index as they should be, where the index itself cannot be changed.
pub(super) struct Overlay(PathBuf);

fn beside(index: &Path, what: &str) -> PathBuf {
    let name = index.file_name().unwrap_or_default().to_string_lossy();
    index.with_file_name(format!("{name}.{what}"))
}

/// Puts right what can be. An error: nothing may write to the index, or what follows a flipped bit
/// would be dropped.
pub(super) fn put_right(index: &Path) -> io::Result<()> {
    remove_dir(&beside(index, "repairing"))?;
    take_repaired(index)?;
    if !index.exists() {
        return Ok(());
    }
    mend::remove_half(index);
    for change in changes(index)? {
        if change.loses() {
            note(index)?;
        }
        change.make()?;
    }
    Ok(())
}

fn changes(index: &Path) -> io::Result<Vec<Change>> {
    let mut changes = parity::look(index)?;
    changes.extend(mend::look(index)?);
    Ok(changes)
}

/// Whether records may be missing, and nobody has drawn the conclusions.
pub(super) fn is_noted(index: &Path) -> bool {
    beside(index, "damaged").exists()
}

/// Writes the note that damage was found, before anything is lost.
fn note(index: &Path) -> io::Result<()> {
    let path = beside(index, "damaged");
    fs::write(&path, "records of the index may be missing\n")?;
    mend::sync_parent(&path)
}

/// Everything that followed from it is written down.
pub(super) fn forget(index: &Path) -> io::Result<()> {
    match fs::remove_file(beside(index, "damaged")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Repairs a copy of the index and keeps the records that can be read. Attempts whose records are
/// gone are lost; a record that comes back because its deletion is gone names files that are gone
/// too.
pub(super) fn repair(
    index: &Path,
    repair: impl FnOnce(&Path) -> Result<(), String>,
) -> io::Result<()> {
    let (making, made) = (beside(index, "repairing"), beside(index, "repaired"));
    let make = || {
        fs::create_dir(&making)?;
        for entry in fs::read_dir(index)? {
            let entry = entry?;
            let name = entry.file_name();
            let is_own = ["LOCK", "LOG"].iter().any(|own| name == *own);
            if entry.file_type()?.is_file() && !is_own {
                // RocksDB gives these other names, and changes none.
                let to = making.join(&name);
                fs::hard_link(entry.path(), &to)
                    .or_else(|_| fs::copy(entry.path(), &to).map(drop))?;
            }
        }
        repair(&making).map_err(io::Error::other)?;
        fs::File::open(&making)?.sync_all()?;
        fs::rename(&making, &made)
    };
    if let Err(error) = make() {
        let _ = remove_dir(&making);
        return Err(error);
    }
    take_repaired(index)
}

/// Puts an index that was repaired in the place of the damaged one.
fn take_repaired(index: &Path) -> io::Result<()> {
    let made = beside(index, "repaired");
    if !made.exists() {
        return Ok(());
    }
    note(index)?;
    if index.exists() {
        let lost = mend::lost_name(index, "index")?;
        tracing::error!(path = %index.display(), lost = %lost.display(), "the index is damaged: what can be read of it is kept; it is here as it was");
        fs::rename(index, &lost)?;
    }
    fs::rename(&made, index)?;
    mend::sync_parent(index)
}

fn remove_dir(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

// === impl Overlay ===

impl Overlay {
    /// The index as it would be if it could be put right, in a directory of its own; `None` if
    /// nothing is wrong with it. And whether records are missing then.
    pub(super) fn of(index: &Path) -> io::Result<Option<(Self, bool)>> {
        let changes = changes(index)?;
        if changes.is_empty() {
            return Ok(None);
        }
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("forebay-index-{}-{next}", std::process::id()));
        fs::create_dir(&dir)?;
        let overlay = Self(dir);
        for change in &changes {
            let name = change.path.file_name().unwrap_or_default();
            fs::write(overlay.0.join(name), change.content()?)?;
        }
        for entry in fs::read_dir(index)? {
            let entry = entry?;
            let to = overlay.0.join(entry.file_name());
            if entry.file_type()?.is_file() && !to.exists() {
                symlink(fs::canonicalize(entry.path())?, &to)?;
            }
        }
        Ok(Some((overlay, changes.iter().any(Change::loses))))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests;
