//! A data directory and the handle to it.
//!
//! | name | content |
//! |---|---|
//! | `volume` | two lines of text: `forebay-volume 2` (the format) and the volume's UUID |
//! | `LOCK` | empty; locked by the process that serves the volume |
//! | `index/` | RocksDB, see [`crate::index`] |
//! | `apps/<number>.<app>/<shuffle>/<segment>.seg` | segments, see [`super::format`] |
//! | `trash/` | what is deleted and not gone yet, see [`super::trash`] |
//! | `ballast` | space that is kept for the index, see [`super::ballast`] |
//! | `lost/` | after damage to the index: its files as they were, and what it does not name any more; for a person, never read |
//! | `log/<log>.log` | commit logs, see [`super::format`] |

use std::{
    ops::Range,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::Mutex;
use shuffle_proto::{
    block::PartitionTotal,
    ids::{AppId, ShuffleId, VolumeId},
};
use tokio::sync::oneshot;

use super::{
    AppRecord, AttemptKey, AttemptWriter, Cursor, Durability, Error, Fetch, Health, Opened,
    Receipt, StatsSnapshot,
    fetch::{Position, lost_reason},
    forget, remove,
    shared::{Shared, Stop},
    shuffle::{OpenAttempt, Shuffle, State, fenced},
    writer::{Request, Task},
};

/// How often is looked whether the writer has ended.
const GLANCE: Duration = Duration::from_millis(5);
/// Calls that may hang at the same time, each with its thread; one more is refused. While the disk answers there may be more.
const MAX_PATIENT: usize = 32;
/// How often who waits for such a call looks whether the disk still answers.
pub(super) const A_WHILE: Duration = Duration::from_millis(100);

/// One data directory. Clones are the same volume; when the last is dropped without [`Volume::close`], what only memory holds is gone.
#[derive(Clone)]
pub struct Volume(pub(super) Arc<Handle>);

pub(super) struct Handle {
    pub(super) shared: Arc<Shared>,
    pub(super) writer: Mutex<Option<JoinHandle<()>>>,
    /// With what ends it when it is dropped.
    pub(super) warden: Mutex<Option<(Sender<()>, JoinHandle<()>)>>,
    pub(super) remover: Mutex<Option<JoinHandle<()>>>,
    /// Calls that wait for the disk, see [`Volume::start`].
    pub(super) patient: Arc<AtomicUsize>,
}

/// A call that may wait for the disk.
pub struct Started<T> {
    volume: Volume,
    reply: Receiver<Result<T, Error>>,
}

// === impl Volume ===

impl Volume {
    /// Its identity.
    pub fn id(&self) -> VolumeId {
        self.0.shared.id
    }

    /// Its directory.
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

    /// Bytes that may still be written, by a look that is about a second old. Does not touch the disk, which may hang.
    pub fn bytes_free(&self) -> u64 {
        self.0.shared.free_lately()
    }

    /// An error once its disk does not answer, or has failed: what waits for it should go elsewhere.
    pub fn check_answers(&self) -> Result<(), Error> {
        self.0.shared.check_answers()
    }

    /// Whether it knows an app.
    pub fn knows(&self, app: &AppId) -> bool {
        self.0.shared.app_no(app).is_some()
    }

    /// Makes a call that may block, on a thread of its own: with a disk that hangs the call hangs, and ends when the disk comes back,
    /// but who waits for it does not.
    pub fn start<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Self) -> Result<T, Error> + Send + 'static,
    ) -> Started<T> {
        let (reply, receiver) = mpsc::channel();
        let started = Started {
            volume: self.clone(),
            reply: receiver,
        };
        let patient = Patient::new(&self.0.patient);
        if patient.place > MAX_PATIENT && self.0.shared.hangs() {
            // The reply is dropped, which is an answer.
            return started;
        }
        let volume = self.clone();
        let thread = std::thread::Builder::new().name("forebay-call".into());
        let spawned = thread.spawn(move || {
            let _patient = patient;
            // Who asked may have given up.
            let _ = reply.send(call(&volume));
        });
        if let Err(error) = spawned {
            tracing::warn!(volume = %self.id(), %error, "no thread for a call");
        }
        started
    }

    /// Counters.
    pub fn stats(&self) -> StatsSnapshot {
        self.0.shared.stats.snapshot()
    }

    /// Apps that it knows; after opening, those that were recovered.
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

    /// Whether it has a shuffle that is not deleted.
    pub fn holds(&self, app: &AppId, shuffle: ShuffleId) -> bool {
        self.0.shared.shuffle(app, shuffle).is_some()
    }

    /// Deletes all that an app has. Idempotent; answers bytes freed, while their files go. Blocking.
    pub fn delete_app(&self, app: &AppId) -> Result<u64, Error> {
        remove::delete_app(&self.0.shared, app)
    }

    /// Deletes a shuffle; pushes and fetches of it are refused until the app is gone. Idempotent; answers bytes freed. Blocking.
    pub fn delete_shuffle(&self, app: &AppId, shuffle: ShuffleId) -> Result<u64, Error> {
        remove::delete_shuffle(&self.0.shared, app, shuffle)
    }

    /// Begins an attempt, taking over from an older stream of the same one. Does not block.
    ///
    /// `Busy` while the older stream's commit is being written: a moment later it is committed, or failed.
    pub fn open_attempt(
        &self,
        key: AttemptKey,
        num_maps: u32,
        num_partitions: u32,
    ) -> Result<Opened, Error> {
        let shared = &self.0.shared;
        if key.map_index.0 >= num_maps {
            return Err(Error::Invalid(format!(
                "open.map_index of {key}: send an index below {num_maps}"
            )));
        }
        let shuffle = self.shuffle(&key, num_maps, num_partitions)?;
        let owner = (key.map_index, key.attempt);
        let mut state = shuffle.state.lock();
        if state.deleted {
            return Err(shuffle.fenced());
        }
        // What is lost is not committed any more: whoever has it may bring it again.
        if let Some(committed) = state.commits.get(&owner)
            && lost_reason(&state.snapshot(), owner).is_none()
        {
            return Ok(Opened::Committed(committed.receipt(shared.id)));
        }
        shared.check_health()?;
        if let Some(older) = state.open.get(&owner)
            && !older.fence(|| format!("another stream has taken over {key}"))
        {
            return Err(Error::Busy(format!("the commit of {key} is being written")));
        }
        let attempt = Arc::new(OpenAttempt {
            key,
            shuffle: shuffle.clone(),
            state: Mutex::default(),
        });
        state.open.insert(owner, attempt.clone());
        Ok(Opened::New(AttemptWriter::new(shared.clone(), attempt)))
    }

    /// The shuffle of an attempt, made if it is new.
    fn shuffle(
        &self,
        key: &AttemptKey,
        num_maps: u32,
        num_partitions: u32,
    ) -> Result<Arc<Shuffle>, Error> {
        let shared = &self.0.shared;
        let unknown = || {
            Error::Fenced(format!(
                "app {} is not known to volume {}: its data are deleted",
                key.app, shared.id
            ))
        };
        let shuffle = match shared.shuffle(&key.app, key.shuffle) {
            Some(shuffle) => shuffle,
            None => {
                let mut names = shared.names.write();
                let app = names.apps.get(&key.app).ok_or_else(unknown)?;
                if app.deleted.contains(key.shuffle) {
                    return Err(fenced(&key.app, key.shuffle));
                }
                let no = app.no;
                let make = || {
                    let dir = remove::shuffle_dir(&shared.dir, &key.app, no, key.shuffle);
                    let tasks = (num_maps, num_partitions);
                    Arc::new(Shuffle::new(
                        key.app.clone(),
                        no,
                        key.shuffle,
                        tasks,
                        dir,
                        State::default(),
                    ))
                };
                forget::sweep(&mut names);
                names
                    .shuffles
                    .entry((no, key.shuffle))
                    .or_insert_with(make)
                    .clone()
            }
        };
        let known = (shuffle.num_maps, shuffle.num_partitions);
        if known != (num_maps, num_partitions) && !shuffle.state.lock().deleted {
            return Err(Error::Invalid(format!(
                "open of {key} says {num_maps} maps and {num_partitions} partitions, the shuffle has {} and {}",
                known.0, known.1
            )));
        }
        Ok(shuffle)
    }

    /// The receipt of an attempt, if it is committed and not lost.
    pub fn committed(&self, key: &AttemptKey) -> Option<Receipt> {
        let shuffle = self.0.shared.shuffle(&key.app, key.shuffle)?;
        let state = shuffle.state.lock();
        let owner = (key.map_index, key.attempt);
        let committed = state.commits.get(&owner)?;
        let lost = lost_reason(&state.snapshot(), owner).is_some();
        (!lost).then(|| committed.receipt(self.id()))
    }

    /// Answers the commit of an attempt that is committed already: compares totals, raises the level if a higher one is asked for.
    pub async fn confirm(
        &self,
        key: &AttemptKey,
        totals: &[PartitionTotal],
        durability: Durability,
    ) -> Result<Receipt, Error> {
        let shared = &self.0.shared;
        let lost = || Error::Lost(format!("{key} is not committed on volume {}", shared.id));
        let shuffle = shared.shuffle(&key.app, key.shuffle).ok_or_else(lost)?;
        let owner = (key.map_index, key.attempt);
        let committed = {
            let state = shuffle.state.lock();
            let committed = state.commits.get(&owner).cloned().ok_or_else(lost)?;
            if let Some(reason) = lost_reason(&state.snapshot(), owner) {
                // Whoever comes again is asked for the output.
                let reason =
                    format!("{key} was committed here and is lost: {reason}; push it again");
                let volume = shared.id;
                return Err(Error::Unavailable { volume, reason });
            }
            committed
        };
        if let Some(difference) = committed.totals.difference(totals) {
            return Err(Error::Invalid(format!(
                "commit.totals of {key}, which is committed already: {difference}"
            )));
        }
        if committed.durability >= durability {
            return Ok(committed.receipt(shared.id));
        }
        shared.check_health()?;
        let (reply, receiver) = oneshot::channel();
        let task = Task::Raise { shuffle, owner };
        shared.ask(Request {
            task,
            durability,
            asked: shared.clock.now(),
            reply,
        });
        shared.patiently(receiver).await?
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

    /// The end is near: what only memory holds is put on disk now, and what is committed from here on at once. Does not wait.
    pub fn keep(&self) {
        self.0.shared.keep();
    }

    /// Bytes of committed attempts that only memory holds: neither the disk has them, nor the object store.
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

    /// An error once what waits for memory to be sent there should go elsewhere: its disk does not answer, has failed, or has been full
    /// for so long that what the memory is wanted for will hardly be committed.
    pub fn check_waits(&self) -> Result<(), Error> {
        self.0.shared.check_waits()
    }

    /// Puts on disk what only memory holds and ends the writer. Further calls answer `Unavailable`. A writer that hangs is left behind.
    pub async fn close(&self) {
        let shared = &self.0.shared;
        shared.stop(Stop::Flush);
        shared.trash.stop();
        let Some(writer) = self.0.writer.lock().take() else {
            return;
        };
        while !writer.is_finished() {
            if shared.hangs() {
                tracing::error!(volume = %shared.id, "what only memory has cannot be kept: the disk does not answer");
                return;
            }
            tokio::time::sleep(GLANCE).await;
        }
    }
}

/// One of the calls that wait.
struct Patient {
    all: Arc<AtomicUsize>,
    place: usize,
}

impl Patient {
    fn new(all: &Arc<AtomicUsize>) -> Self {
        Self {
            all: all.clone(),
            place: all.fetch_add(1, Ordering::Relaxed) + 1,
        }
    }
}

impl Drop for Patient {
    fn drop(&mut self) {
        self.all.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<T> Started<T> {
    /// Its answer. `Unavailable` when the disk does not answer; the call goes on all the same. Blocking.
    pub fn wait(self) -> Result<T, Error> {
        let shared = &self.volume.0.shared;
        loop {
            match self.reply.recv_timeout(A_WHILE) {
                Ok(answer) => return answer,
                Err(RecvTimeoutError::Timeout) if !shared.hangs() => {}
                Err(_) => return Err(shared.unavailable()),
            }
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
            // The warden still says whether the disk answers; a thread that hangs is left behind. A removal that takes long is no hang,
            // and ends with its file.
            while !thread.is_finished() && !self.shared.hangs() {
                std::thread::sleep(GLANCE);
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
