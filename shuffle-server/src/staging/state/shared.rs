//! What all parts of a volume share: its parts, its names, its health, and the way to wake its
//! writer.
//!
//! Order of locks: a shuffle's `output`, then `gate`, then `names`, then a shuffle's `state`, then
//! an attempt's `state`. None is held across an await, and only `output` and `gate` while a file or
//! the index is written. Whoever wants an `output` takes it before the `gate`, or after it is given
//! back.

use std::{
    collections::{BTreeMap, VecDeque},
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

use crate::{
    budget::Budget,
    clock::Clock,
    index::{AppNo, SegmentIndex},
    staging::{
        disk::{Disk, Place},
        error::Error,
        files::ballast::Ballast,
        options::{Components, Observer, Options},
        state::{
            health::DiskHealth,
            names::Names,
            pool::Pool,
            queue::{Queue, Request, Stop, Work},
            run::Run,
            shuffle::Shuffle,
            stats::Stats,
            trash::Trash,
        },
        words::AppRecord,
    },
};

/// Ids are this many bits of counting under the number of times the volume was opened.
pub(crate) const ID_BITS: u32 = 40;
/// Concurrent reads per volume, of up to a MiB each. No disk that was measured gets faster beyond
/// this.
pub const READS: usize = 64;
/// Lines of log about what fails ...
const LINES: u64 = 10;
/// ... in so many ms.
const LINES_IN: u64 = 10_000;
/// Free space from which a volume that was full takes attempts again, if what it waits to write is
/// less.
const ENOUGH: u64 = 64 << 20;

pub(crate) struct Shared {
    pub(crate) id: VolumeId,
    pub(crate) dir: PathBuf,
    pub(crate) options: Options,
    pub(crate) budget: Budget,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) disk: Arc<Disk>,
    pub(crate) index: Box<dyn SegmentIndex>,
    pub(crate) stats: Stats,
    pub(crate) names: RwLock<Names>,
    /// Held while the index is written and what was written becomes visible, so that a deletion
    /// comes before or after, never between.
    pub(crate) gate: Mutex<()>,
    /// Runs that are still in memory, oldest first.
    pub(crate) cached: Mutex<VecDeque<Weak<Run>>>,
    /// Bytes in segments and logs.
    pub(crate) used: AtomicU64,
    pub(crate) pool: Arc<Pool>,
    pub(crate) disk_health: DiskHealth,
    pub(crate) ballast: Ballast,
    /// What is deleted and not gone yet.
    pub(crate) trash: Trash,
    /// Apps that could not be written down when they came. Changed under the gate.
    pub(crate) missed: Mutex<BTreeMap<AppId, AppRecord>>,
    /// Fetches that read the disk at the same time: one that hangs takes these threads and no more.
    pub(crate) reads: Arc<Semaphore>,
    /// Told to stop: nothing new is taken.
    stopping: AtomicBool,
    /// The writer is gone: nothing is asked of it any more.
    closed: AtomicBool,
    queue: Mutex<Queue>,
    awake: Condvar,
    next_id: AtomicU64,
    /// Which span of time it is for [`Shared::may_log`], and the lines that were asked for in it.
    lines: Mutex<(u64, u64)>,
    opened: Instant,
    /// Keeps other processes out; absent if it could not be opened.
    lock: Option<File>,
}

/// The parts that [`Shared`] is made of once a directory has been opened.
pub(crate) struct Opened {
    pub(crate) id: VolumeId,
    pub(crate) dir: PathBuf,
    pub(crate) lock: Option<File>,
    pub(crate) index: Box<dyn SegmentIndex>,
    /// Times the volume was opened.
    pub(crate) times: u64,
    pub(crate) names: Names,
    pub(crate) used: u64,
    /// Which directory it is.
    pub(crate) place: Place,
    /// Bytes that its file system has left.
    pub(crate) free: u64,
    pub(crate) ballast: Ballast,
}

// === impl Shared ===

impl Shared {
    pub(crate) fn new(
        opened: Opened,
        options: Options,
        components: Components,
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
            disk_health: DiskHealth::new(opened.place, opened.free),
            ballast: opened.ballast,
            trash: Trash::default(),
            missed: Mutex::default(),
            reads: Arc::new(Semaphore::new(READS)),
            stopping: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            queue: Mutex::default(),
            awake: Condvar::new(),
            lines: Mutex::default(),
            next_id: AtomicU64::new(opened.times << ID_BITS),
            lock: opened.lock,
        }
    }

    /// Whether there is a volume, if only for reading.
    pub(crate) fn is_open(&self) -> bool {
        self.lock.is_some()
    }

    /// A new id for a run, a segment or a log: greater than all before, also of earlier processes.
    pub(crate) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Time since the volume was opened, for comparing.
    pub(crate) fn millis(&self) -> u64 {
        u64::try_from((self.clock.now() - self.opened).as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn app_no(&self, app: &AppId) -> Option<AppNo> {
        self.names.read().apps.get(app).map(|app| app.no)
    }

    pub(crate) fn shuffle(&self, app: &AppId, shuffle: ShuffleId) -> Option<Arc<Shuffle>> {
        let names = self.names.read();
        let no = names.apps.get(app)?.no;
        names.shuffles.get(&(no, shuffle)).cloned()
    }

    pub(crate) fn shuffles(&self) -> Vec<Arc<Shuffle>> {
        self.names.read().shuffles.values().cloned().collect()
    }

    /// For calls that need a volume that is not closing. What is decided under a shuffle's lock is
    /// seen by the writer's last flush.
    pub(crate) fn check_running(&self) -> Result<(), Error> {
        if self.stopping.load(Ordering::SeqCst) {
            return Err(self.unavailable());
        }
        Ok(())
    }

    /// Whether one more line may be logged about what fails: a volume that refuses everything is
    /// not to fill another disk with that.
    pub(crate) fn may_log(&self) -> bool {
        let now = self.millis() / LINES_IN;
        let mut lines = self.lines.lock();
        if lines.0 != now {
            if lines.1 > LINES {
                tracing::warn!(volume = %self.id, lines = lines.1 - LINES, "more of the same was not logged");
            }
            *lines = (now, 0);
        }
        lines.1 += 1;
        lines.1 <= LINES
    }

    // --- the writer ---

    /// Makes the writer look around.
    pub(crate) fn wake(&self) {
        let mut queue = self.queue.lock();
        if !queue.awake {
            queue.awake = true;
            self.awake.notify_one();
        }
    }

    /// Gives the writer something to do; its reply is an error if there is no writer any more.
    pub(crate) fn ask(&self, request: Request) {
        let mut queue = self.queue.lock();
        if self.closed.load(Ordering::Acquire) {
            drop(queue);
            request.refuse(self.unavailable());
            return;
        }
        queue.requests.push(request);
        self.awake.notify_one();
    }

    pub(crate) fn stop(&self, stop: Stop) {
        self.stopping.store(true, Ordering::SeqCst);
        self.queue.lock().stop.get_or_insert(stop);
        self.wake();
    }

    /// Tells the writer to put on disk at once whatever is committed to memory from now on.
    pub(crate) fn keep(&self) {
        self.queue.lock().keep = true;
        self.wake();
    }

    /// Waits for something to do, or for `timeout`.
    pub(crate) fn wait(&self, timeout: Duration) -> Work {
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
    pub(crate) fn more_requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.queue.lock().requests)
    }

    pub(crate) fn stops_now(&self) -> bool {
        self.queue.lock().stop == Some(Stop::Now)
    }

    /// No request is taken from here on; those that wait are answered.
    pub(crate) fn close(&self) {
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

    /// Bytes that may still be written: what the file system has left, within the limit of the
    /// settings. Asks the disk.
    pub(crate) fn free(&self) -> u64 {
        let free = self.disk.space(&self.dir).map_or(0, |space| space.free);
        free.min(self.within_limit())
    }

    /// Bytes that may still be written, by the last look at the disk.
    pub(crate) fn free_lately(&self) -> u64 {
        self.disk_health.free().min(self.within_limit())
    }

    /// Refuses to write this much that is on no disk yet if it would go over the limit of the
    /// settings.
    pub(crate) fn check_limit(&self, bytes: u64) -> Result<(), Error> {
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

    /// Refuses to write this much if that would take what is kept for the index while the ballast
    /// is given up.
    pub(crate) fn check_reserve(&self, bytes: u64) -> Result<(), Error> {
        let missing = self.ballast.missing();
        if missing == 0 {
            return Ok(());
        }
        let free = self.disk.space(&self.dir).map_or(0, |space| space.free);
        if free >= missing.saturating_add(bytes) {
            return Ok(());
        }
        let reason =
            format!("no space: {free} bytes are free, of which {missing} are kept for the index");
        let full = io::Error::new(io::ErrorKind::StorageFull, reason);
        Err(Error::io("write", &self.dir, full))
    }

    /// Free space with which a volume that was full takes attempts again: twice the largest write
    /// that failed, and all blocks that still have to be written, so that the next commit does not
    /// fill it again. At most half of the disk.
    pub(crate) fn enough(&self) -> u64 {
        let all = self.disk.space(&self.dir).map_or(0, |space| space.total);
        let all = all.min(self.options.limit.unwrap_or(u64::MAX));
        let waiting = |shuffle: &Arc<Shuffle>| {
            shuffle.memory.load(Ordering::Relaxed) + shuffle.open_memory.load(Ordering::Relaxed)
        };
        let waiting: u64 = self.shuffles().iter().map(waiting).sum();
        let wanted = waiting.saturating_add(2 * self.disk_health.wanted());
        wanted.clamp(ENOUGH.min(all / 4), (all / 2).max(ENOUGH.min(all / 4)))
    }

    fn within_limit(&self) -> u64 {
        let used = self.used.load(Ordering::Relaxed);
        let limit = self.options.limit.unwrap_or(u64::MAX);
        limit.saturating_sub(used)
    }

    // --- memory ---

    /// Drops the oldest flushed blocks from memory; false if there are none.
    pub(crate) fn evict_one(&self) -> bool {
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
