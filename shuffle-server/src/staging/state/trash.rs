//! What is deleted and not gone yet. `write::delete` puts it there, `write::remover` removes it,
//! file by file.
//!
//! A name below `trash/` says what was deleted, so a start after a crash carries the deletion
//! through: into the index, if that does not know of it, and then to the last file. Until the index
//! knows of a deletion its directory stays, empty; and whoever asks for the deletion again is told
//! that it is not done.
//!
//! | name | what lies there |
//! |---|---|
//! | `trash/<id>.app.<number>` | an app's directory |
//! | `trash/<id>.shuffle.<number>.<shuffle>` | a shuffle's |
//!
//! Owns the list of what is left of deletions, and nothing of what they take away from readers and
//! writers.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use shuffle_proto::ids::{AppId, ShuffleId};
use uuid::Uuid;

use crate::{
    index::{AppNo, Changes, keys::Key, values},
    staging::state::names::ENDED_KEPT,
};

/// How often is looked for what is too old in `lost/`.
const LOST_POLL_INTERVAL: Duration = Duration::from_secs(600);
/// What the index keeps of a deleted shuffle.
pub(crate) const TOMBSTONE: values::Record = values::Record::Shuffle(values::Shuffle {
    num_maps: 0,
    num_partitions: 0,
    deleted: true,
});

/// See the module.
#[derive(Default)]
pub(crate) struct Trash {
    pub(crate) queue: Mutex<Queue>,
    pub(crate) changed: Condvar,
}

#[derive(Default)]
pub(crate) struct Queue {
    pub(crate) next: u64,
    pub(crate) waste: BTreeMap<u64, Arc<Waste>>,
    /// Something came since the remover last looked.
    pub(crate) fresh: bool,
    /// Deletions that the index does not know of: none, nearly always.
    pub(crate) unrecorded: Vec<Arc<Waste>>,
    pub(crate) stop: bool,
}

/// What is left of one deletion.
pub(crate) struct Waste {
    pub(crate) what: What,
    pub(crate) place: OnceLock<Place>,
    /// Bytes that count as used until its files are gone.
    pub(crate) used: AtomicU64,
    /// What the deletion answers once it is recorded.
    pub(crate) freed: u64,
    pub(crate) recorded: AtomicBool,
    /// Whether it was told that it cannot be removed.
    pub(crate) told: AtomicBool,
}

/// What was deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// An app, with its number in the index, and which life of its name it was if that is known.
    App(AppNo, Option<AppId>, Option<Uuid>),
    /// A shuffle, with the app's number in the index.
    Shuffle(AppNo, ShuffleId),
    /// A file that nothing names any more.
    File,
}

/// Where its files are.
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    /// Whether the path says what was deleted.
    pub(crate) says: bool,
}

// === impl What ===

impl What {
    fn is_of(&self, no: AppNo) -> bool {
        matches!(self, What::App(of, ..) | What::Shuffle(of, _) if *of == no)
    }

    /// Tells the index that it is deleted.
    pub(crate) fn record(&self, changes: &mut Changes) {
        match self {
            What::App(no, _, life) => {
                changes.delete_app(*no);
                if let Some(life) = life {
                    changes.put(Key::Ended(*no), &values::Record::Life(*life));
                }
                if let Some(oldest) = no.0.checked_sub(ENDED_KEPT) {
                    changes.delete(Key::Ended(AppNo(oldest)));
                }
            }
            What::Shuffle(no, id) => {
                changes.delete_shuffle_data(*no, *id);
                changes.put(Key::Shuffle(*no, *id), &TOMBSTONE);
            }
            What::File => {}
        }
    }

    /// A name below `trash/` that was never given before.
    pub(crate) fn name(&self, id: u64) -> Option<String> {
        match self {
            What::App(no, ..) => Some(format!("{id:012x}.app.{}", no.0)),
            What::Shuffle(no, shuffle) => Some(format!("{id:012x}.shuffle.{}.{shuffle}", no.0)),
            What::File => None,
        }
    }

    fn named(name: &str) -> Option<Self> {
        let mut words = name.split('.').skip(1);
        let (kind, no) = (words.next()?, AppNo(words.next()?.parse().ok()?));
        match kind {
            "app" => Some(What::App(no, None, None)),
            "shuffle" => Some(What::Shuffle(no, ShuffleId(words.next()?.parse().ok()?))),
            _ => None,
        }
    }
}

/// Deletions whose directories a start finds. What we never made is left alone.
pub(crate) fn found(dir: &Path) -> Vec<(PathBuf, What)> {
    let entries = fs::read_dir(dir.join("trash")).into_iter().flatten();
    let deletion = |entry: fs::DirEntry| {
        let what = What::named(entry.file_name().to_str()?)?;
        Some((entry.path(), what))
    };
    entries.flatten().filter_map(deletion).collect()
}

// === impl Waste ===

impl Waste {
    /// A deletion that is not recorded yet, and whose files are where they were.
    pub(crate) fn of(what: What, used: u64, freed: u64) -> Arc<Self> {
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
    pub(crate) fn file(path: PathBuf) -> Arc<Self> {
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
    pub(crate) fn found(path: PathBuf, what: What, recorded: bool) -> Arc<Self> {
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

    pub(crate) fn is_recorded(&self) -> bool {
        self.recorded.load(Ordering::Acquire)
    }
}

// === impl Trash ===

impl Trash {
    /// Notes a deletion before anything else of it is done: who asks for it again meets it.
    pub(crate) fn begin(&self, waste: &Arc<Waste>) {
        self.queue.lock().unrecorded.push(waste.clone());
    }

    /// Leaves it to the remover.
    pub(crate) fn put(&self, waste: Arc<Waste>) {
        let mut queue = self.queue.lock();
        queue.next += 1;
        let next = queue.next;
        queue.waste.insert(next, waste);
        queue.fresh = true;
        self.changed.notify_all();
    }

    /// A deletion of a shuffle that the index does not know of yet.
    pub(crate) fn unrecorded_shuffle(&self, no: AppNo, id: ShuffleId) -> Option<Arc<Waste>> {
        self.unrecorded(|what| *what == What::Shuffle(no, id))
    }

    /// A deletion of an app that the index does not know of yet.
    pub(crate) fn unrecorded_app(&self, app: &AppId) -> Option<Arc<Waste>> {
        self.unrecorded(|what| matches!(what, What::App(_, Some(id), _) if id == app))
    }

    fn unrecorded(&self, is: impl Fn(&What) -> bool) -> Option<Arc<Waste>> {
        let queue = self.queue.lock();
        let mut all = queue.unrecorded.iter();
        all.find(|waste| is(&waste.what)).cloned()
    }

    /// What has gone with an app needs no record of its own.
    pub(crate) fn recorded(&self, waste: &Waste) {
        let mut queue = self.queue.lock();
        queue.unrecorded.retain(|other| {
            let gone_too = match waste.what {
                What::App(no, ..) => other.what.is_of(no),
                _ => other.what == waste.what,
            };
            if gone_too {
                other.recorded.store(true, Ordering::Release);
            }
            !gone_too
        });
    }

    /// Ends the remover; what is left a later start finds.
    pub(crate) fn stop(&self) {
        self.queue.lock().stop = true;
        self.changed.notify_all();
    }

    pub(crate) fn stops(&self) -> bool {
        self.queue.lock().stop
    }

    /// Space is short: has the remover look at once.
    pub(crate) fn space_is_short(&self) {
        self.queue.lock().fresh = true;
        self.changed.notify_all();
    }

    /// Bytes that are deleted and not gone.
    pub(crate) fn pending(&self) -> u64 {
        let queue = self.queue.lock();
        let used = |waste: &Arc<Waste>| waste.used.load(Ordering::Acquire);
        queue.waste.values().map(used).sum()
    }

    /// What there is to remove; waits while there is nothing, or nothing new for as long as
    /// `again`. `None`: it is told to stop.
    pub(crate) fn next(&self, again: Duration) -> Option<Vec<(u64, Arc<Waste>)>> {
        let mut queue = self.queue.lock();
        if !queue.stop && !queue.fresh {
            let long = if queue.waste.is_empty() {
                LOST_POLL_INTERVAL
            } else {
                again
            };
            let _ = self.changed.wait_for(&mut queue, long);
        }
        queue.fresh = false;
        let waste = queue.waste.iter().map(|(no, waste)| (*no, waste.clone()));
        (!queue.stop).then(|| waste.collect())
    }

    pub(crate) fn done(&self, no: u64) {
        self.queue.lock().waste.remove(&no);
    }
}
