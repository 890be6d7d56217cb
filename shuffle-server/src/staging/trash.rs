//! What is deleted and not gone yet. Each volume has a thread that removes it, file by file.
//!
//! A deletion gives the directory another name, below `trash/`, and answers; the files go later, without a lock and at half of what
//! the disk could do, because the end of an app is told to all servers at once; and as fast as it can, the largest first, when nothing
//! can be written or more is to be removed than is free. A name below `trash/` says what was deleted, so a start
//! after a crash carries the deletion through: into the index, if that does not know of it, and then to the last file. Until the index
//! knows of a deletion its directory stays, empty; and whoever asks for the deletion again is told that it is not done.
//!
//! | name | what lies there |
//! |---|---|
//! | `trash/<id>.app.<number>` | an app's directory |
//! | `trash/<id>.shuffle.<number>.<shuffle>` | a shuffle's |
//!
//! Owns what is left of deletions, and nothing of what they take away from readers and writers: that is [`super::remove`]'s. Calls of
//! it that take long say nothing of the disk, see [`super::watch`]; ones that fail are made again.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use shuffle_proto::ids::{AppId, ShuffleId};

use super::{Error, Health, lost, shared::Shared};
use crate::index::{AppNo, Batch as Changes, keys::Key, values};

/// Time that removals take before as much of it is left to others.
const SLICE: Duration = Duration::from_millis(10);
/// The longest pause between two removals. One that takes longer is not short of the disk for others, it is the disk that is slow:
/// to wait as long again would be to fall behind what is deleted.
const PAUSE: Duration = Duration::from_millis(100);
/// How often is looked for what is too old in `lost/`.
const LOOK: Duration = Duration::from_secs(600);

/// What the index keeps of a deleted shuffle.
pub(super) const TOMBSTONE: values::Record = values::Record::Shuffle(values::Shuffle {
    num_maps: 0,
    num_partitions: 0,
    deleted: true,
});

/// See the module.
#[derive(Default)]
pub(super) struct Trash {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    next: u64,
    waste: BTreeMap<u64, Arc<Waste>>,
    /// Something came since the remover last looked.
    fresh: bool,
    /// Deletions that the index does not know of: none, nearly always.
    unrecorded: Vec<Arc<Waste>>,
    stop: bool,
}

/// What is left of one deletion.
pub(super) struct Waste {
    what: What,
    place: OnceLock<Place>,
    /// Bytes that count as used until its files are gone.
    used: AtomicU64,
    /// What the deletion answers once it is recorded.
    freed: u64,
    recorded: AtomicBool,
    /// Whether it was told that it cannot be removed.
    told: AtomicBool,
}

/// What was deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// An app, with its number in the index.
    App(AppNo, Option<AppId>),
    /// One of its shuffles.
    Shuffle(AppNo, ShuffleId),
    /// A file that nothing names any more.
    File,
}

/// Where its files are.
struct Place {
    path: PathBuf,
    /// Whether the path says what was deleted.
    says: bool,
}

/// How fast is removed.
#[derive(Default)]
struct Pace {
    busy: Duration,
}

// === impl What ===

impl What {
    fn is_of(&self, no: AppNo) -> bool {
        matches!(self, What::App(of, _) | What::Shuffle(of, _) if *of == no)
    }

    /// Tells the index that it is deleted.
    pub(super) fn record(&self, changes: &mut Changes) {
        match self {
            What::App(no, _) => changes.delete_app(*no),
            What::Shuffle(no, id) => {
                changes.delete_shuffle_data(*no, *id);
                changes.put(Key::Shuffle(*no, *id), &TOMBSTONE);
            }
            What::File => {}
        }
    }

    /// A name below `trash/` that was never given before.
    fn name(&self, id: u64) -> Option<String> {
        match self {
            What::App(no, _) => Some(format!("{id:012x}.app.{}", no.0)),
            What::Shuffle(no, shuffle) => Some(format!("{id:012x}.shuffle.{}.{shuffle}", no.0)),
            What::File => None,
        }
    }

    fn named(name: &str) -> Option<Self> {
        let mut words = name.split('.').skip(1);
        let (kind, no) = (words.next()?, AppNo(words.next()?.parse().ok()?));
        match kind {
            "app" => Some(What::App(no, None)),
            "shuffle" => Some(What::Shuffle(no, ShuffleId(words.next()?.parse().ok()?))),
            _ => None,
        }
    }
}

/// Deletions whose directories a start finds. What we never made is left alone.
pub(super) fn found(dir: &Path) -> Vec<(PathBuf, What)> {
    let entries = fs::read_dir(dir.join("trash")).into_iter().flatten();
    let deletion = |entry: fs::DirEntry| {
        let what = What::named(entry.file_name().to_str()?)?;
        Some((entry.path(), what))
    };
    entries.flatten().filter_map(deletion).collect()
}

// === impl Waste ===

impl Waste {
    /// Of a deletion that nobody has recorded, and whose files are where they were.
    pub(super) fn of(what: What, used: u64, freed: u64) -> Arc<Self> {
        Arc::new(Self {
            what,
            place: OnceLock::new(),
            used: AtomicU64::new(used),
            freed,
            recorded: AtomicBool::new(false),
            told: AtomicBool::new(false),
        })
    }

    /// A file that nothing names.
    pub(super) fn file(path: PathBuf) -> Arc<Self> {
        let place = Place { path, says: false };
        Arc::new(Self {
            what: What::File,
            place: OnceLock::from(place),
            used: AtomicU64::new(0),
            freed: 0,
            recorded: AtomicBool::new(true),
            told: AtomicBool::new(false),
        })
    }

    /// What a start has found.
    pub(super) fn found(path: PathBuf, what: What, recorded: bool) -> Arc<Self> {
        let place = Place { path, says: true };
        Arc::new(Self {
            what,
            place: OnceLock::from(place),
            used: AtomicU64::new(0),
            freed: 0,
            recorded: AtomicBool::new(recorded),
            told: AtomicBool::new(false),
        })
    }

    /// Gives its directory a name that says what was deleted: from here on a crash does not bring it back.
    pub(super) fn move_away(&self, shared: &Shared, dir: &Path) {
        let Some(name) = self.what.name(shared.next_id()) else {
            return;
        };
        let away = shared.dir.join("trash").join(name);
        let move_it = || match shared.disk.rename(dir, &away) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(false),
            other => other.map(|()| true),
        };
        // A disk that is full to the last byte has no room for the name either, until the ballast is given up.
        let moved = move_it().or_else(|error| {
            shared.note(&error);
            move_it()
        });
        let place = match moved {
            Ok(true) => Some((away, true)),
            Ok(false) => None,
            Err(error) => {
                tracing::warn!(path = %dir.display(), %error, "what is deleted cannot be moved away; its files are removed where they are");
                Some((dir.to_owned(), false))
            }
        };
        if let Some((path, says)) = place {
            let _ = self.place.set(Place { path, says });
        }
    }

    /// Tells the index; answers the bytes that the deletion freed.
    pub(super) fn record(&self, shared: &Shared) -> Result<u64, Error> {
        let mut changes = Changes::default();
        self.what.record(&mut changes);
        if let Err(error) = shared.index.write(&changes, false) {
            let error = Error::Index(error);
            shared.note(&error);
            return Err(error);
        }
        self.recorded.store(true, Ordering::Release);
        shared.trash.recorded(self);
        Ok(self.freed)
    }

    /// Tells the index, and leaves the files to the remover. What could not be told is left with a name that says it, if only of an empty
    /// directory.
    pub(super) fn finish(self: Arc<Self>, shared: &Shared) -> Result<u64, Error> {
        let recorded = self.record(shared);
        if recorded.is_err()
            && self.place.get().is_none()
            && let Some(name) = self.what.name(shared.next_id())
        {
            let path = shared.dir.join("trash").join(name);
            if shared.disk.create_dir_all(&path).is_ok() {
                let _ = self.place.set(Place { path, says: true });
            }
        }
        shared.trash.put(self);
        recorded
    }

    fn is_recorded(&self) -> bool {
        self.recorded.load(Ordering::Acquire)
    }

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
            // Without a name that says so a crash would bring back an index that names files which are gone. On a full disk that is
            // better than none of its space ever coming back: what is asked for of a deleted shuffle is lost either way.
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

    /// A file, or all that is in a directory. The first error is told when the others have been tried.
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
    /// Notes a deletion before anything else of it is done: who asks for it again meets it.
    pub(super) fn begin(&self, waste: &Arc<Waste>) {
        self.queue.lock().unrecorded.push(waste.clone());
    }

    /// Leaves it to the remover.
    pub(super) fn put(&self, waste: Arc<Waste>) {
        let mut queue = self.queue.lock();
        queue.next += 1;
        let next = queue.next;
        queue.waste.insert(next, waste);
        queue.fresh = true;
        self.changed.notify_all();
    }

    /// A deletion of a shuffle that the index does not know of yet.
    pub(super) fn unrecorded_shuffle(&self, no: AppNo, id: ShuffleId) -> Option<Arc<Waste>> {
        self.unrecorded(|what| *what == What::Shuffle(no, id))
    }

    /// One of an app.
    pub(super) fn unrecorded_app(&self, app: &AppId) -> Option<Arc<Waste>> {
        self.unrecorded(|what| matches!(what, What::App(_, Some(id)) if id == app))
    }

    fn unrecorded(&self, is: impl Fn(&What) -> bool) -> Option<Arc<Waste>> {
        let queue = self.queue.lock();
        let mut all = queue.unrecorded.iter();
        all.find(|waste| is(&waste.what)).cloned()
    }

    /// What has gone with an app needs no record of its own.
    fn recorded(&self, waste: &Waste) {
        let mut queue = self.queue.lock();
        queue.unrecorded.retain(|other| {
            let gone_too = match waste.what {
                What::App(no, _) => other.what.is_of(no),
                _ => other.what == waste.what,
            };
            if gone_too {
                other.recorded.store(true, Ordering::Release);
            }
            !gone_too
        });
    }

    /// Ends the remover; what is left a later start finds.
    pub(super) fn stop(&self) {
        self.queue.lock().stop = true;
        self.changed.notify_all();
    }

    fn stops(&self) -> bool {
        self.queue.lock().stop
    }

    /// Space is short: has the remover look at once.
    pub(super) fn space_is_short(&self) {
        self.queue.lock().fresh = true;
        self.changed.notify_all();
    }

    /// Bytes that are deleted and not gone.
    fn pending(&self) -> u64 {
        let queue = self.queue.lock();
        let used = |waste: &Arc<Waste>| waste.used.load(Ordering::Acquire);
        queue.waste.values().map(used).sum()
    }

    /// Whether somebody waits for the space: nothing can be written, or more is to be removed than is free.
    pub(super) fn hurries(&self, shared: &Shared) -> bool {
        shared.is_full() || self.pending() > shared.free_lately()
    }

    /// What there is to remove; waits while there is nothing, or nothing new for as long as `again`. `None`: it is told to stop.
    fn next(&self, again: Duration) -> Option<Vec<(u64, Arc<Waste>)>> {
        let mut queue = self.queue.lock();
        if !queue.stop && !queue.fresh {
            let long = if queue.waste.is_empty() { LOOK } else { again };
            let _ = self.changed.wait_for(&mut queue, long);
        }
        queue.fresh = false;
        let waste = queue.waste.iter().map(|(no, waste)| (*no, waste.clone()));
        (!queue.stop).then(|| waste.collect())
    }

    fn done(&self, no: u64) {
        self.queue.lock().waste.remove(&no);
    }
}

/// The remover: runs until it is told to stop.
pub(super) fn clear_away(shared: &Shared) {
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

impl Pace {
    /// One removal, and now and then a pause as long as those before took. What is not there is removed.
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
