//! What all parts of a volume share: its parts, its names, its health, and the way to wake its writer.
//!
//! Order of locks: `gate`, then `names`, then a shuffle's `output`, then a shuffle's `state`, then an attempt's `state`. None is held
//! across an await, and only `gate` and `output` while a file or the index is written.

use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    io,
    path::PathBuf,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex, RwLock};
use shuffle_proto::ids::{AppId, ShuffleId, VolumeId};
use tokio::sync::Semaphore;

use super::{
    AppRecord, Error, Observer, Options,
    deleted::Deleted,
    disk::{Disk, Place},
    health::Standing,
    part::Pool,
    segment::Run,
    shuffle::Shuffle,
    stats::Stats,
    writer::Request,
};
use crate::{
    budget::Budget,
    clock::Clock,
    index::{AppNo, SegmentIndex},
};

/// Ids are this many bits of counting under the number of times the volume was opened.
const ID_BITS: u32 = 40;
/// Reads of up to a MiB that a disk does at the same time; more make none of those that we know faster.
const READS: usize = 64;

pub(super) struct Shared {
    pub(super) id: VolumeId,
    pub(super) dir: PathBuf,
    pub(super) options: Options,
    pub(super) budget: Budget,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) disk: Arc<Disk>,
    pub(super) index: Box<dyn SegmentIndex>,
    pub(super) stats: Stats,
    pub(super) names: RwLock<Names>,
    /// Held while the index is written and what was written becomes visible, so that a deletion comes before or after, never between.
    pub(super) gate: Mutex<()>,
    /// Runs that are still in memory, oldest first.
    pub(super) cached: Mutex<VecDeque<Weak<Run>>>,
    /// Bytes in segments and logs.
    pub(super) used: AtomicU64,
    pub(super) pool: Arc<Pool>,
    pub(super) standing: Standing,
    /// Fetches that read the disk at the same time: one that hangs takes these threads and no more.
    pub(super) reads: Arc<Semaphore>,
    /// Told to stop: nothing new is taken.
    stopping: AtomicBool,
    /// The writer is gone: nothing is asked of it any more.
    closed: AtomicBool,
    queue: Mutex<Queue>,
    awake: Condvar,
    next_id: AtomicU64,
    opened: Instant,
    /// Keeps other processes out.
    _lock: File,
}

#[derive(Default)]
pub(super) struct Names {
    pub(super) apps: HashMap<AppId, App>,
    /// Without those that are deleted.
    pub(super) shuffles: HashMap<(AppNo, ShuffleId), Arc<Shuffle>>,
    pub(super) next_app: u32,
}

pub(super) struct App {
    pub(super) no: AppNo,
    pub(super) record: AppRecord,
    pub(super) deleted: Deleted,
}

#[derive(Default)]
struct Queue {
    requests: Vec<Request>,
    awake: bool,
    stop: Option<Stop>,
    /// Whether nothing is to be in memory only, because the end is near.
    keep: bool,
}

/// How the writer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// After what only memory has is on disk.
    Flush,
    /// At once, as a crash would.
    Now,
}

/// What the writer finds when it wakes.
pub(super) struct Work {
    pub(super) requests: Vec<Request>,
    pub(super) stop: Option<Stop>,
    /// Whether what only memory has is to be put on disk.
    pub(super) keep: bool,
}

/// The parts that [`Shared`] is made of once a directory has been opened.
pub(super) struct Opened {
    pub(super) id: VolumeId,
    pub(super) dir: PathBuf,
    pub(super) lock: File,
    pub(super) index: Box<dyn SegmentIndex>,
    /// Times the volume was opened.
    pub(super) times: u64,
    pub(super) names: Names,
    pub(super) used: u64,
    /// Which directory it is.
    pub(super) place: Place,
    /// Bytes that its file system has left.
    pub(super) free: u64,
}

// === impl Shared ===

impl Shared {
    pub(super) fn new(
        opened: Opened,
        options: Options,
        components: super::Components,
        disk: Arc<Disk>,
    ) -> Self {
        Self {
            id: opened.id,
            dir: opened.dir,
            options,
            budget: components.budget,
            opened: components.clock.now(),
            clock: components.clock,
            observer: components.observer,
            disk,
            index: opened.index,
            stats: Stats::default(),
            names: RwLock::new(opened.names),
            gate: Mutex::new(()),
            cached: Mutex::default(),
            used: AtomicU64::new(opened.used),
            pool: Arc::default(),
            standing: Standing::new(opened.place, opened.free),
            reads: Arc::new(Semaphore::new(READS)),
            stopping: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            queue: Mutex::default(),
            awake: Condvar::new(),
            next_id: AtomicU64::new(opened.times << ID_BITS),
            _lock: opened.lock,
        }
    }

    /// A new id for a run, a segment or a log: greater than all before, also of earlier processes.
    pub(super) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Time since the volume was opened, for comparing.
    pub(super) fn millis(&self) -> u64 {
        u64::try_from((self.clock.now() - self.opened).as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn app_no(&self, app: &AppId) -> Option<AppNo> {
        self.names.read().apps.get(app).map(|app| app.no)
    }

    pub(super) fn shuffle(&self, app: &AppId, shuffle: ShuffleId) -> Option<Arc<Shuffle>> {
        let names = self.names.read();
        let no = names.apps.get(app)?.no;
        names.shuffles.get(&(no, shuffle)).cloned()
    }

    pub(super) fn shuffles(&self) -> Vec<Arc<Shuffle>> {
        self.names.read().shuffles.values().cloned().collect()
    }

    /// For calls that need a volume that is not closing. What is decided under a shuffle's lock is seen by the writer's last flush.
    pub(super) fn check_running(&self) -> Result<(), Error> {
        if self.stopping.load(Ordering::SeqCst) {
            return Err(self.unavailable());
        }
        Ok(())
    }

    // --- the writer ---

    /// Makes the writer look around.
    pub(super) fn wake(&self) {
        let mut queue = self.queue.lock();
        if !queue.awake {
            queue.awake = true;
            self.awake.notify_one();
        }
    }

    /// Gives the writer something to do; its reply is an error if there is no writer any more.
    pub(super) fn ask(&self, request: Request) {
        let mut queue = self.queue.lock();
        if self.closed.load(Ordering::Acquire) {
            drop(queue);
            request.refuse(self.unavailable());
            return;
        }
        queue.requests.push(request);
        self.awake.notify_one();
    }

    pub(super) fn stop(&self, stop: Stop) {
        self.stopping.store(true, Ordering::SeqCst);
        self.queue.lock().stop.get_or_insert(stop);
        self.wake();
    }

    /// From now on what only memory has is put on disk as soon as it is committed.
    pub(super) fn keep(&self) {
        self.queue.lock().keep = true;
        self.wake();
    }

    /// Waits for something to do, or for `timeout`.
    pub(super) fn wait(&self, timeout: Duration) -> Work {
        let mut queue = self.queue.lock();
        if queue.requests.is_empty() && !queue.awake && queue.stop.is_none() {
            let _ = self.awake.wait_for(&mut queue, timeout);
        }
        queue.awake = false;
        Work {
            requests: std::mem::take(&mut queue.requests),
            stop: queue.stop,
            keep: queue.keep,
        }
    }

    /// Whatever has been asked since.
    pub(super) fn more_requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.queue.lock().requests)
    }

    pub(super) fn stops_now(&self) -> bool {
        self.queue.lock().stop == Some(Stop::Now)
    }

    /// No request is taken from here on; those that wait are answered.
    pub(super) fn close(&self) {
        let waiting = {
            let mut queue = self.queue.lock();
            self.stopping.store(true, Ordering::SeqCst);
            self.closed.store(true, Ordering::Release);
            std::mem::take(&mut queue.requests)
        };
        waiting
            .into_iter()
            .for_each(|request| request.refuse(self.unavailable()));
    }

    // --- space ---

    /// Bytes that may still be written: what the file system has left, within the limit of the settings. Asks the disk.
    pub(super) fn free(&self) -> u64 {
        let free = self.disk.space(&self.dir).map_or(0, |space| space.free);
        free.min(self.within_limit())
    }

    /// The same, by the last look at the disk.
    pub(super) fn free_lately(&self) -> u64 {
        self.standing.free().min(self.within_limit())
    }

    /// Refuses to write this much that is on no disk yet if it would go over the limit of the settings.
    pub(super) fn check_limit(&self, bytes: u64) -> Result<(), Error> {
        match self.options.limit {
            Some(limit) if bytes > self.within_limit() => {
                let reason = format!(
                    "volume-limit is {limit} bytes, of which {} are used: raise it, or add a disk or a server",
                    self.used.load(Ordering::Relaxed)
                );
                let full = io::Error::new(io::ErrorKind::StorageFull, reason);
                Err(Error::io("write", &self.dir, full))
            }
            _ => Ok(()),
        }
    }

    fn within_limit(&self) -> u64 {
        let used = self.used.load(Ordering::Relaxed);
        let limit = self.options.limit.unwrap_or(u64::MAX);
        limit.saturating_sub(used)
    }

    // --- memory ---

    /// Drops the oldest flushed blocks from memory; false if there are none.
    pub(super) fn evict_one(&self) -> bool {
        loop {
            let Some(run) = self.cached.lock().pop_front() else {
                return false;
            };
            let freed = run.upgrade().map_or(0, |run| run.evict());
            if freed > 0 {
                Stats::add(&self.stats.evicted_bytes, freed);
                return true;
            }
        }
    }
}
