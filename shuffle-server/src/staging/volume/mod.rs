//! The handle to a data directory: what `service`, `registry` and `writeback` call.
//!
//! Owns the threads of a volume and nothing that they do: each call goes to the floor that does it.
//! Where everything lies is in `files::layout`.

pub(super) mod ground;
mod opening;
pub(super) mod started;
mod store;

use std::{
    collections::BTreeMap,
    ops::Range,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::Sender,
    },
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::Mutex;
use shuffle_proto::{
    block::PartitionTotal,
    ids::{AppId, ShuffleId, VolumeId},
};

use uuid::Uuid;

use crate::staging::{
    error::Error,
    read::{
        cursor::{Cursor, Position},
        fetch::Fetch,
        verify,
    },
    state::{queue::Stop, shared::Shared, shuffle::Shuffle, stats::StatsSnapshot, usage::Usage},
    words::{AppRecord, AttemptKey, Durability, Health, Receipt},
    write::{
        apps, delete,
        open::{self, Opened},
    },
};

/// How often is looked whether the writer has ended.
const CLOSE_POLL_INTERVAL: Duration = Duration::from_millis(5);
/// Calls that may hang at the same time, each with its thread; one more is refused. While the disk
/// answers there may be more.
const MAX_BLOCKING_CALLS: usize = 32;
/// How often who waits for such a call looks whether the disk still answers.
pub(crate) const CALL_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// One data directory. Clones are the same volume; when the last is dropped without
/// [`Volume::close`], what only memory holds is gone.
#[derive(Clone)]
pub struct Volume(pub(crate) Arc<Handle>);

pub(crate) struct Handle {
    pub(crate) shared: Arc<Shared>,
    pub(crate) writer: Mutex<Option<JoinHandle<()>>>,
    /// The warden's thread, and the sender whose drop ends it.
    pub(crate) warden: Mutex<Option<(Sender<()>, JoinHandle<()>)>>,
    pub(crate) remover: Mutex<Option<JoinHandle<()>>>,
    /// Calls that wait for the disk, see [`Volume::start`].
    pub(crate) blocking_calls: Arc<AtomicUsize>,
}

// === impl Volume ===

impl Volume {
    /// The UUID that was made with the directory.
    pub fn id(&self) -> VolumeId {
        self.0.shared.id
    }

    /// The data directory.
    pub fn dir(&self) -> &Path {
        &self.0.shared.dir
    }

    /// Whether it takes new attempts.
    pub fn health(&self) -> Health {
        self.0.shared.health()
    }

    /// Bytes in its segments and logs.
    pub fn bytes_used(&self) -> u64 {
        self.0.shared.used.load(Ordering::Relaxed)
    }

    /// Bytes that may still be written, by a look that is about a second old. Does not touch the
    /// disk, which may hang.
    pub fn bytes_free(&self) -> u64 {
        self.0.shared.free_lately()
    }

    /// An error once its disk does not answer, or has failed: what waits for it should go
    /// elsewhere.
    pub fn check_answers(&self) -> Result<(), Error> {
        self.0.shared.check_answers()
    }

    /// Whether it knows an app.
    pub fn knows(&self, app: &AppId) -> bool {
        self.0.shared.app_no(app).is_some()
    }

    /// Counters.
    pub fn stats(&self) -> StatsSnapshot {
        self.0.shared.stats.snapshot()
    }

    /// Apps that the volume knows; after opening, the recovered ones.
    pub fn apps(&self) -> Vec<AppRecord> {
        self.0
            .shared
            .names
            .read()
            .apps
            .values()
            .map(|app| app.record.clone())
            .collect()
    }

    /// An app that it knows.
    pub fn app(&self, app: &AppId) -> Option<AppRecord> {
        let names = self.0.shared.names.read();
        names.apps.get(app).map(|app| app.record.clone())
    }

    /// Whether this life of an app's name was deleted here, not too long ago.
    pub fn has_ended(&self, life: Uuid) -> bool {
        let names = self.0.shared.names.read();
        names.ended.values().any(|ended| *ended == life)
    }

    /// Whether it has a shuffle that is not deleted.
    pub fn holds(&self, app: &AppId, shuffle: ShuffleId) -> bool {
        self.0.shared.shuffle(app, shuffle).is_some()
    }

    /// Deletes all that an app has. Idempotent; answers bytes freed, while their files go.
    /// Blocking.
    pub fn delete_app(&self, app: &AppId) -> Result<u64, Error> {
        delete::delete_app(&self.0.shared, app)
    }

    /// Deletes a shuffle; pushes and fetches of it are refused until the app is gone. Idempotent;
    /// answers bytes freed. Blocking.
    pub fn delete_shuffle(&self, app: &AppId, shuffle: ShuffleId) -> Result<u64, Error> {
        delete::delete_shuffle(&self.0.shared, app, shuffle)
    }

    /// Begins an attempt, taking over from an older stream of the same one. Does not block.
    ///
    /// `Busy` while the older stream's commit is being written: a moment later it is committed, or
    /// failed.
    pub fn open_attempt(
        &self,
        key: AttemptKey,
        num_maps: u32,
        num_partitions: u32,
    ) -> Result<Opened, Error> {
        open::open_attempt(&self.0.shared, key, num_maps, num_partitions)
    }

    /// The receipt of an attempt, if it is committed and not lost.
    pub fn committed(&self, key: &AttemptKey) -> Option<Receipt> {
        open::committed(&self.0.shared, key)
    }

    /// Answers the commit of an attempt that is committed already: compares totals, raises the
    /// level if a higher one is asked for.
    pub async fn confirm(
        &self,
        key: &AttemptKey,
        totals: &[PartitionTotal],
        durability: Durability,
    ) -> Result<Receipt, Error> {
        open::confirm(&self.0.shared, key, totals, durability).await
    }

    /// Begins a read. `maps` may end beyond the shuffle's. Does not block.
    pub fn fetch(
        &self,
        app: &AppId,
        shuffle: ShuffleId,
        partitions: Range<u32>,
        maps: Range<u32>,
        cursor: Option<Cursor>,
    ) -> Result<Fetch, Error> {
        let shared = &self.0.shared;
        let lost = || {
            Error::Lost(format!(
                "app {app} shuffle {shuffle} is not on volume {}",
                shared.id
            ))
        };
        let shuffle = shared.shuffle(app, shuffle).ok_or_else(lost)?;
        if shuffle.state.lock().deleted {
            return Err(Error::Lost(format!(
                "app {app} shuffle {} is deleted",
                shuffle.id
            )));
        }
        if partitions.start > partitions.end || partitions.end > shuffle.num_partitions {
            return Err(Error::Invalid(format!(
                "fetch.partition_end is {}: the shuffle has {} partitions",
                partitions.end, shuffle.num_partitions
            )));
        }
        let position = cursor.map_or_else(Position::default, |cursor| cursor.0);
        Fetch::new(shared.clone(), shuffle, partitions, maps, position)
    }

    /// The end is near: what only memory holds is put on disk now, and what is committed from here
    /// on at once. Does not wait.
    pub fn keep(&self) {
        self.0.shared.keep();
    }

    /// Bytes of committed attempts that only memory holds: neither the disk has them, nor the
    /// object store.
    pub fn only_in_memory(&self) -> u64 {
        let of_one = |shuffle: &Arc<Shuffle>| -> u64 {
            let state = shuffle.state.lock();
            let held = state.held.iter();
            let only = held.filter(|(owner, held)| {
                held.log.is_none() && !state.deleted && !state.written.contains(owner)
            });
            only.map(|(_, held)| held.memory()).sum()
        };
        self.0.shared.shuffles().iter().map(of_one).sum()
    }

    /// An error once what waits for memory to be sent there should go elsewhere: its disk does not
    /// answer, has failed, or has been full for so long that what the memory is wanted for will
    /// hardly be committed.
    pub fn check_waits(&self) -> Result<(), Error> {
        self.0.shared.check_waits()
    }

    /// Remembers an app, or its new lease. Must come before the app's first attempt. Blocking (a
    /// write to the index). What fails is done later, when the volume is well.
    pub fn put_app(&self, app: &AppRecord) -> Result<(), Error> {
        apps::put_app(&self.0.shared, app)
    }

    /// What an app holds, or one of its shuffles.
    pub fn usage(&self, app: &AppId, shuffle: Option<ShuffleId>) -> Usage {
        self.0.shared.usage(app, shuffle)
    }

    /// How many committed attempts of a shuffle are held.
    pub fn attempts(&self, app: &AppId, shuffle: ShuffleId) -> u64 {
        self.0.shared.attempts(app, shuffle)
    }

    /// Adds what each shuffle holds.
    pub fn add_usages(&self, usages: &mut BTreeMap<(AppId, ShuffleId), Usage>) {
        self.0.shared.add_usages(usages);
    }

    /// Reads all of a committed attempt; answers why it cannot be served from here, `None` if it is
    /// whole. `Lost` if it is not known, `Unavailable` if the disk does not answer. Goes on to its
    /// end only as long as the caller waits.
    pub async fn verify(&self, key: &AttemptKey) -> Result<Option<String>, Error> {
        verify::verify(&self.0.shared, key).await
    }

    /// Reads all that is committed of a shuffle, and has what is bad lost; answers how many
    /// attempts that were. Ends early when `stop` says so, or when the disk does not answer.
    pub async fn verify_all(
        &self,
        app: &AppId,
        shuffle: ShuffleId,
        stop: impl Fn() -> bool,
    ) -> Result<usize, Error> {
        verify::verify_all(&self.0.shared, app, shuffle, stop).await
    }

    /// Puts on disk what only memory holds and ends the writer. Further calls answer `Unavailable`.
    /// A writer that hangs is left behind.
    pub async fn close(&self) {
        let shared = &self.0.shared;
        shared.stop(Stop::Flush);
        shared.trash.stop();
        let Some(writer) = self.0.writer.lock().take() else {
            return;
        };
        while !writer.is_finished() {
            if shared.check_hung() {
                tracing::error!(volume = %shared.id, "what only memory has cannot be kept: the disk does not answer");
                return;
            }
            tokio::time::sleep(CLOSE_POLL_INTERVAL).await;
        }
    }
}

impl std::fmt::Debug for Volume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Volume({} in {})", self.id(), self.dir().display())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.stop(Stop::Now);
        self.shared.trash.stop();
        let threads = [self.writer.lock().take(), self.remover.lock().take()];
        for thread in threads.into_iter().flatten() {
            // The warden still says whether the disk answers; a thread that hangs is left behind. A
            // removal that takes long is no hang, and ends with its file.
            while !thread.is_finished() && !self.shared.check_hung() {
                std::thread::sleep(CLOSE_POLL_INTERVAL);
            }
            if thread.is_finished() {
                let _ = thread.join();
            }
        }
        if let Some((alive, warden)) = self.warden.lock().take() {
            drop(alive);
            let _ = warden.join();
        }
    }
}
