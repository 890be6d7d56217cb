//! The *remover*: a thread per volume that removes what is deleted.
//!
//! A deletion gives the directory another name, below `trash/`, and answers; the files go later,
//! without a lock and at half of what the disk could do, because the end of an app is told to all
//! servers at once; and as fast as it can, the largest first, when nothing can be written or more
//! is to be removed than is free. Calls of it that take long say nothing of the disk, see
//! `disk::watch`; ones that fail are made again.

use std::{cmp::Reverse, fs, io, path::Path, sync::atomic::Ordering, time::Duration};

use crate::staging::{
    files::lost,
    state::{
        shared::Shared,
        trash::{Place, Queue, Trash, Waste, What},
    },
    words::Health,
};

/// Time that removals take before as much of it is left to others.
const SLICE: Duration = Duration::from_millis(10);
/// The longest pause between two removals. If a removal takes longer than this, the disk is slow:
/// with a pause of the same length removals would fall behind deletions.
const PAUSE: Duration = Duration::from_millis(100);

/// How fast is removed.
#[derive(Default)]
struct Pace {
    busy: Duration,
}

// === impl Waste ===

impl Waste {
    /// So many bytes of it are gone.
    fn shrink(&self, shared: &Shared, bytes: u64) {
        let mut gone = 0;
        let less = |used: u64| {
            gone = bytes.min(used);
            Some(used - gone)
        };
        let _ = self
            .used
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
        shared.used.fetch_sub(gone, Ordering::Relaxed);
    }

    /// Removes what can be removed now; answers whether nothing is left to be done.
    fn clear(&self, shared: &Shared, pace: &mut Pace) -> bool {
        if matches!(shared.health(), Health::ReadOnly(_) | Health::Removed(_)) {
            return false;
        }
        if !self.is_recorded() {
            let _ = self.record(shared);
        }
        if let Some(Place { path, says }) = self.place.get() {
            // The directory's name does not say that it is deleted: after a crash the index would
            // name files that are gone. On a full disk that is accepted, because otherwise no space
            // would ever come back; a deleted shuffle is lost either way.
            if !says && !self.is_recorded() && !shared.is_full() {
                return false;
            }
            if let Err(error) = self.clear_path(shared, path, pace) {
                if !self.told.swap(true, Ordering::Relaxed) {
                    tracing::warn!(path = %path.display(), %error, "deleted data cannot be removed now; tried again until it can");
                }
                return false;
            }
            if self.is_recorded()
                && self.what != What::File
                && let Err(error) = shared.disk.remove_dir(path)
                && error.kind() != io::ErrorKind::NotFound
            {
                return false;
            }
        }
        if self.is_recorded() {
            self.shrink(shared, u64::MAX);
        }
        self.is_recorded()
    }

    /// A file, or all that is in a directory. The first error is told when the others have been
    /// tried.
    fn clear_path(&self, shared: &Shared, path: &Path, pace: &mut Pace) -> io::Result<()> {
        if self.what == What::File {
            return pace.step(shared, || shared.disk.remove(path));
        }
        let mut first = Ok(());
        let mut todo = vec![path.to_owned()];
        let mut dirs = Vec::new();
        while let Some(dir) = todo.pop() {
            let listing = match fs::read_dir(&dir) {
                Ok(listing) => listing,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    first = first.and(Err(error));
                    continue;
                }
            };
            for entry in listing.flatten() {
                if shared.trash.stops() {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                let path = entry.path();
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    todo.push(path);
                    continue;
                }
                let bytes = entry.metadata().map_or(0, |metadata| metadata.len());
                let removed = pace.step(shared, || shared.disk.remove(&path));
                if removed.is_ok() {
                    self.shrink(shared, bytes);
                }
                first = first.and(removed);
            }
            dirs.push(dir);
        }
        first?;
        // The deepest last, and the first of all stays until its deletion is recorded.
        for dir in dirs.iter().skip(1).rev() {
            pace.step(shared, || shared.disk.remove_dir(dir))?;
        }
        Ok(())
    }
}

// === impl Trash ===

impl Trash {
    /// Whether somebody waits for the space: nothing can be written, or more is to be removed than
    /// is free.
    pub(crate) fn hurries(&self, shared: &Shared) -> bool {
        shared.is_full() || self.pending() > shared.free_lately()
    }
}

/// The remover: runs until it is told to stop.
pub(crate) fn clear_away(shared: &Shared) {
    let mut pace = Pace::default();
    loop {
        bound_lost(shared);
        let Some(mut waste) = shared.trash.next(shared.options.probe) else {
            return;
        };
        if shared.trash.hurries(shared) {
            // What brings most first.
            waste.sort_by_key(|(_, waste)| Reverse(waste.used.load(Ordering::Acquire)));
        }
        for (no, waste) in waste {
            if shared.trash.stops() {
                return;
            }
            if waste.clear(shared, &mut pace) {
                shared.trash.done(no);
            }
        }
    }
}

/// What is only kept to be looked at takes nobody's space.
fn bound_lost(shared: &Shared) {
    let health = shared.health();
    if matches!(health, Health::ReadOnly(_) | Health::Removed(_)) {
        return;
    }
    let Ok(space) = shared.disk.space(&shared.dir) else {
        return;
    };
    let all = space.total.min(shared.options.limit.unwrap_or(u64::MAX));
    let most = lost::most(all, space.free, matches!(health, Health::Full(_)));
    let now = shared.clock.wall();
    let now = now
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    if let Err(error) = lost::bound(&shared.disk, &shared.dir, most, now) {
        tracing::debug!(%error, "what is lost cannot be removed now");
    }
}

// === impl Pace ===

impl Pace {
    /// Makes one removal, and now and then a pause as long as the removals before it took. A file
    /// that is not there counts as removed.
    fn step(&mut self, shared: &Shared, remove: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let begun = shared.disk.watch.now();
        let removed = remove();
        self.busy += shared.disk.watch.now() - begun;
        if self.busy >= SLICE {
            let pause = std::mem::take(&mut self.busy).min(PAUSE);
            if !shared.trash.hurries(shared) {
                let mut queue = shared.trash.queue.lock();
                let stop = |queue: &mut Queue| !queue.stop;
                let _ = shared.trash.changed.wait_while_for(&mut queue, stop, pause);
            }
        }
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
