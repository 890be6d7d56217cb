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

use super::{
    AppRecord, Error, Health, Observer, Options,
    deleted::Deleted,
    disk::{self, Disk},
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

pub(super) struct Shared {
    pub(super) id: VolumeId,
    pub(super) dir: PathBuf,
    pub(super) options: Options,
    pub(super) budget: Budget,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) disk: Disk,
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
    health: Mutex<Health>,
    healthy: AtomicBool,
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
}

// === impl Shared ===

impl Shared {
    pub(super) fn new(
        opened: Opened,
        options: Options,
        components: super::Components,
        disk: Disk,
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
            health: Mutex::new(Health::Ok),
            healthy: AtomicBool::new(true),
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

    // --- health ---

    pub(super) fn health(&self) -> Health {
        self.health.lock().clone()
    }

    /// For calls that need a volume that writes.
    pub(super) fn check_health(&self) -> Result<(), Error> {
        if self.healthy.load(Ordering::Relaxed) {
            return self.check_running();
        }
        Err(self.unavailable())
    }

    /// For calls that need a volume that is not closing. What is decided under a shuffle's lock is seen by the writer's last flush.
    pub(super) fn check_running(&self) -> Result<(), Error> {
        if self.stopping.load(Ordering::SeqCst) {
            return Err(self.unavailable());
        }
        Ok(())
    }

    pub(super) fn unavailable(&self) -> Error {
        let reason = match self.health() {
            Health::Failed(reason) | Health::Full(reason) => reason,
            Health::Ok => "is closing".into(),
        };
        Error::Unavailable {
            volume: self.id,
            reason,
        }
    }

    /// Draws conclusions from an error of the writer's.
    pub(super) fn note(&self, error: &Error) {
        let health = match error {
            Error::Io { source, .. } if disk::is_passing(source) => return,
            Error::Io { source, .. } if disk::is_full(source) => Health::Full(error.to_string()),
            Error::Io { .. } | Error::Index(_) => Health::Failed(error.to_string()),
            _ => return,
        };
        self.set_health(health);
    }

    pub(super) fn set_health(&self, new: Health) {
        let mut health = self.health.lock();
        // What has failed stays so: a write that succeeds afterwards does not say that the one before it is there.
        if *health == new
            || matches!(
                (&*health, &new),
                (Health::Failed(_), _) | (Health::Full(_), Health::Full(_))
            )
        {
            return;
        }
        match &new {
            Health::Ok => tracing::info!(volume = %self.id, "volume has space again"),
            Health::Full(reason) => tracing::warn!(volume = %self.id, %reason, "volume is full"),
            Health::Failed(reason) => {
                tracing::error!(volume = %self.id, %reason, "volume has failed")
            }
        }
        self.healthy.store(new == Health::Ok, Ordering::Relaxed);
        *health = new;
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

    /// Bytes that may still be written: what the file system has left, within the limit of the settings.
    pub(super) fn free(&self) -> u64 {
        let free = self.disk.free(&self.dir).unwrap_or(0);
        free.min(self.within_limit())
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
