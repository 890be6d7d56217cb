//! One shuffle on one volume, as this process knows it: its runs, its commits, what is still in
//! memory, who writes.
//!
//! Readers take a [`Snapshot`]: four pointers under a short lock. Writers change the maps behind
//! the pointers in place while nobody holds them, and copy them when somebody does.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use shuffle_proto::{
    ids::{AppId, ShuffleId, VolumeId},
    stored::totals::Totals,
};

use crate::{
    index::{
        AppNo, RunId,
        values::{self, LogPlace},
    },
    staging::{
        error::Error,
        files::{log_file::LogFile, segment::Output},
        state::{
            batch::{Batch, Owner},
            run::{Run, find_run},
        },
        words::{AttemptKey, Durability, Receipt},
    },
};

/// A shuffle.
pub(crate) struct Shuffle {
    pub(crate) app: AppId,
    pub(crate) app_no: AppNo,
    pub(crate) id: ShuffleId,
    pub(crate) num_maps: u32,
    pub(crate) num_partitions: u32,
    /// Directory of the shuffle's segments.
    pub(crate) dir: PathBuf,
    pub(crate) state: Mutex<State>,
    /// Where the next run goes; only the writer takes it.
    pub(crate) output: Mutex<Option<Output>>,
    /// Bytes in memory of committed attempts that are in no run.
    pub(crate) memory: AtomicU64,
    /// Bytes in memory of attempts in progress.
    pub(crate) open_memory: AtomicU64,
    /// Bytes of its segments.
    pub(crate) file_bytes: AtomicU64,
    /// Attempts that have readable blocks in a commit log.
    pub(crate) logged: AtomicU64,
    /// When it was last written to, in ms since the volume was opened.
    pub(crate) touched: AtomicU64,
    /// How often it was found that a run, a log record or an attempt of it cannot be read.
    damages: AtomicU64,
    /// Count of fetches that read the shuffle; while there are any, nothing of it is reclaimed.
    pub(crate) readers: AtomicUsize,
    /// Bytes that readers got of it.
    pub(crate) fetched: AtomicU64,
    /// Runs of which nothing was committed, nor ever will be.
    pub(crate) dead: Mutex<Vec<Arc<Run>>>,
}

/// Keeps the local copy of a shuffle for as long as it lives.
pub(crate) struct Pin(Arc<Shuffle>);

#[derive(Default)]
pub(crate) struct State {
    /// Rises with every change of the others.
    pub(crate) version: u64,
    /// Ascending by id.
    pub(crate) runs: Arc<Vec<Arc<Run>>>,
    pub(crate) commits: Arc<Commits>,
    /// Blocks of committed attempts that are in no run.
    pub(crate) held: Arc<HeldBlocks>,
    pub(crate) open: HashMap<Owner, Arc<OpenAttempt>>,
    pub(crate) deleted: bool,
    /// Whether the index has the shuffle's record.
    pub(crate) recorded: bool,
    /// Attempts that are in the object store, by the index.
    pub(crate) written: BTreeSet<Owner>,
    /// Where they are there: generations that no later one has replaced.
    pub(crate) generations: BTreeMap<u32, Generation>,
    /// Attempts of `written` that have no local copy any more.
    pub(crate) reclaimed: Arc<BTreeSet<Owner>>,
    /// Attempts that cannot be written back, because they cannot be read.
    pub(crate) unwritable: BTreeSet<Owner>,
    /// Generation of the last manifest; 0 if there is none.
    pub(crate) generation: u32,
    /// Committed attempts that are not in the object store, and may be put there.
    pub(crate) unwritten: u64,
    /// Bytes of the unwritten attempts.
    pub(crate) unwritten_bytes: u64,
    /// When the first of them was committed, in ms since the volume was opened.
    pub(crate) unwritten_since: u64,
    /// When the last manifest was recorded, in ms since the volume was opened.
    pub(crate) written_at: u64,
}

/// What one manifest has.
pub(crate) struct Generation {
    pub(crate) attempts: Vec<Owner>,
    pub(crate) bytes: u64,
    /// Some of it cannot be read here any more, so that it stays as it is.
    pub(crate) fixed: bool,
}

pub(crate) type Commits = BTreeMap<Owner, Arc<Committed>>;

pub(crate) type HeldBlocks = BTreeMap<Owner, Arc<Held>>;

/// What a fetch looks at.
#[derive(Clone)]
pub(crate) struct Snapshot {
    pub(crate) version: u64,
    pub(crate) runs: Arc<Vec<Arc<Run>>>,
    pub(crate) commits: Arc<Commits>,
    pub(crate) held: Arc<HeldBlocks>,
    pub(crate) reclaimed: Arc<BTreeSet<Owner>>,
}

/// A committed attempt.
#[derive(Clone)]
pub(crate) struct Committed {
    pub(crate) totals: Arc<Totals>,
    pub(crate) durability: Durability,
    pub(crate) bytes: u64,
    pub(crate) records: u64,
    /// Ascending. Blocks of this attempt in other runs are of a stream that was taken over.
    pub(crate) runs: Vec<RunId>,
    /// Why nothing of it can be served, if its own record is broken.
    pub(crate) lost: Option<String>,
}

/// Blocks of a committed attempt that are in no run: those with its highest seqs.
pub(crate) struct Held {
    pub(crate) batches: Vec<Arc<Batch>>,
    /// Where they are in a commit log; without one, only memory has them.
    pub(crate) log: Option<(Arc<LogFile>, LogPlace)>,
    /// Why the log cannot be read.
    pub(crate) lost: OnceLock<String>,
}

/// An attempt in progress.
pub(crate) struct OpenAttempt {
    pub(crate) key: AttemptKey,
    pub(crate) shuffle: Arc<Shuffle>,
    pub(crate) state: Mutex<OpenState>,
}

#[derive(Default)]
pub(crate) struct OpenState {
    pub(crate) phase: Phase,
    /// Batches that are in no run, in the order of seq.
    pub(crate) batches: Vec<Arc<Batch>>,
    /// Runs that have blocks of it.
    pub(crate) runs: Vec<Arc<Run>>,
}

/// Where an attempt is in its life.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Takes blocks.
    #[default]
    Open,
    /// The attempt's commit waits for the writer; no other stream can take the attempt over.
    Sealed,
    /// Committed or failed; its blocks are no longer here.
    Done,
    /// Taken from the stream that opened it, with the reason.
    Fenced(String),
}

// === impl Shuffle ===

impl Shuffle {
    pub(crate) fn new(
        app: AppId,
        app_no: AppNo,
        id: ShuffleId,
        (num_maps, num_partitions): (u32, u32),
        dir: PathBuf,
        state: State,
    ) -> Self {
        Self {
            app,
            app_no,
            id,
            num_maps,
            num_partitions,
            dir,
            state: Mutex::new(state),
            output: Mutex::new(None),
            memory: AtomicU64::new(0),
            open_memory: AtomicU64::new(0),
            file_bytes: AtomicU64::new(0),
            logged: AtomicU64::new(0),
            touched: AtomicU64::new(0),
            damages: AtomicU64::new(0),
            readers: AtomicUsize::new(0),
            fetched: AtomicU64::new(0),
            dead: Mutex::default(),
        }
    }

    /// What there is to read now, kept from being reclaimed.
    pub(crate) fn pin(self: &Arc<Self>) -> Result<(Pin, Snapshot), Error> {
        // A reclaim looks at the count under the same lock as the snapshot is taken under, see
        // `reclaim`; here the count comes first, so that a reclaim that misses it has finished
        // before the snapshot.
        self.readers.fetch_add(1, Ordering::SeqCst);
        let pin = Pin(self.clone());
        Ok((pin, self.snapshot()?))
    }

    /// What there is to read now.
    pub(crate) fn snapshot(&self) -> Result<Snapshot, Error> {
        let state = self.state.lock();
        if state.deleted {
            return Err(Error::Lost(format!(
                "app {} shuffle {} is deleted",
                self.app, self.id
            )));
        }
        Ok(state.snapshot())
    }

    /// Notes that something of it cannot be read, where that is known already.
    pub(crate) fn damage(&self) {
        self.damages.fetch_add(1, Ordering::AcqRel);
    }

    /// How often that was noted: 0 as long as all that was committed is whole.
    pub(crate) fn damages(&self) -> u64 {
        self.damages.load(Ordering::Acquire)
    }

    /// For calls that come too late.
    pub(crate) fn fenced(&self) -> Error {
        fenced(&self.app, self.id)
    }

    /// The record that the index keeps.
    pub(crate) fn record(&self) -> values::Record {
        values::Record::Shuffle(values::Shuffle {
            num_maps: self.num_maps,
            num_partitions: self.num_partitions,
            deleted: false,
        })
    }
}

// === impl State ===

impl State {
    /// What there is to read.
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot {
            version: self.version,
            runs: self.runs.clone(),
            commits: self.commits.clone(),
            held: self.held.clone(),
            reclaimed: self.reclaimed.clone(),
        }
    }

    /// Notes that an attempt cannot be read here any more: the manifest that has it stays as it is.
    pub(crate) fn fix(&mut self, owner: Owner) {
        let mut all = self.generations.values_mut();
        if let Some(generation) = all.find(|one| one.attempts.contains(&owner)) {
            generation.fixed = true;
        }
    }

    /// Adds a run whose last attempts may not be committed yet.
    pub(crate) fn add_run(&mut self, run: Arc<Run>) {
        self.version += 1;
        Arc::make_mut(&mut self.runs).push(run);
    }

    /// Makes an attempt visible (invariant: whole-attempt-or-none), with its runs and what is in no
    /// run.
    pub(crate) fn commit(
        &mut self,
        shuffle: &Shuffle,
        owner: Owner,
        committed: Committed,
        runs: &[Arc<Run>],
        held: Option<Held>,
    ) {
        self.version += 1;
        // One that was lost and is taken again, see `Volume::open_attempt`: nothing of the old one
        // is sent or counted any more.
        if let Some(before) = self.commits.get(&owner).cloned() {
            let counted = before.lost.is_none() && !self.written.contains(&owner);
            if counted && !self.unwritable.contains(&owner) {
                self.unwritten = self.unwritten.saturating_sub(1);
                self.unwritten_bytes = self.unwritten_bytes.saturating_sub(before.bytes);
            }
            let old = before
                .runs
                .iter()
                .filter_map(|id| find_run(&self.runs, *id));
            old.for_each(|run| run.unsettle());
        }
        runs.iter().for_each(|run| run.settle(self.version));
        if self.held.contains_key(&owner) {
            self.release(shuffle, owner);
        }
        self.unwritable.remove(&owner);
        if committed.lost.is_none() && !self.written.contains(&owner) {
            if self.unwritten == 0 {
                self.unwritten_since = shuffle.touched.load(Ordering::Relaxed);
            }
            self.unwritten += 1;
            self.unwritten_bytes += committed.bytes;
        }
        Arc::make_mut(&mut self.commits).insert(owner, Arc::new(committed));
        if let Some(held) = held {
            shuffle.memory.fetch_add(held.memory(), Ordering::Relaxed);
            shuffle.logged.fetch_add(
                (held.log.is_some() && held.lost.get().is_none()).into(),
                Ordering::Relaxed,
            );
            Arc::make_mut(&mut self.held).insert(owner, Arc::new(held));
        }
        self.open.remove(&owner);
    }

    /// Takes an attempt that is over from those in progress, unless a later stream of it is there
    /// already.
    pub(crate) fn forget(&mut self, attempt: &Arc<OpenAttempt>) {
        let owner = attempt.owner();
        let open = self.open.get(&owner);
        if open.is_some_and(|open| Arc::ptr_eq(open, attempt)) {
            self.open.remove(&owner);
        }
    }

    /// Takes an attempt's blocks out of memory or the log, because a run has them.
    pub(crate) fn release(&mut self, shuffle: &Shuffle, owner: Owner) {
        self.version += 1;
        if let Some(held) = Arc::make_mut(&mut self.held).remove(&owner) {
            shuffle.memory.fetch_sub(held.memory(), Ordering::Relaxed);
            held.leave_log(shuffle);
        }
    }
}

// === impl Pin ===

impl Clone for Pin {
    fn clone(&self) -> Self {
        self.0.readers.fetch_add(1, Ordering::SeqCst);
        Self(self.0.clone())
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.0.readers.fetch_sub(1, Ordering::SeqCst);
    }
}

// === impl Committed ===

impl Committed {
    pub(crate) fn receipt(&self, volume: VolumeId) -> Receipt {
        Receipt {
            volume,
            durability: self.durability,
            bytes: self.bytes,
            records: self.records,
        }
    }

    /// The record that the index keeps.
    pub(crate) fn record(&self, log: Option<LogPlace>) -> values::Record {
        values::Record::Attempt(values::Attempt {
            synced: self.durability == Durability::Fsync,
            bytes: self.bytes,
            records: self.records,
            runs: self.runs.clone(),
            log,
            totals: self.totals.encoded().to_vec(),
        })
    }
}

// === impl Held ===

impl Held {
    pub(crate) fn memory(&self) -> u64 {
        self.batches.iter().map(|batch| batch.memory()).sum()
    }

    /// Tells the commit log that these blocks are no longer needed there.
    pub(crate) fn leave_log(&self, shuffle: &Shuffle) {
        if let Some((log, _)) = &self.log {
            log.leave();
            shuffle
                .logged
                .fetch_sub(self.lost.get().is_none().into(), Ordering::Relaxed);
        }
    }

    /// Says why it cannot be read; the first reason stays.
    pub(crate) fn lose(&self, shuffle: &Shuffle, owner: Owner, reason: impl FnOnce() -> String) {
        self.lost.get_or_init(|| {
            let reason = reason();
            tracing::error!(app = %shuffle.app, shuffle = %shuffle.id, map = %owner.0, attempt = %owner.1, %reason,
                "blocks in the commit log cannot be read");
            shuffle.logged.fetch_sub(self.log.is_some().into(), Ordering::Relaxed);
            reason
        });
        shuffle.damage();
    }
}

// === impl OpenAttempt ===

impl OpenAttempt {
    pub(crate) fn owner(&self) -> Owner {
        (self.key.map_index, self.key.attempt)
    }

    /// Takes the attempt from its stream, so that another may take over. False while the attempt's
    /// commit waits for the writer: then it is too late. An attempt that is over already has no
    /// stream.
    pub(crate) fn fence(&self, reason: impl FnOnce() -> String) -> bool {
        let mut state = self.state.lock();
        match state.phase {
            Phase::Open => {
                state.phase = Phase::Fenced(reason());
                self.drop_blocks(&mut state);
                true
            }
            Phase::Sealed => false,
            Phase::Done | Phase::Fenced(_) => true,
        }
    }

    /// Ends the attempt without a commit, whatever its phase. Another stream of the attempt may
    /// begin at once, and the shuffle no longer counts it as in progress.
    pub(crate) fn fail(self: &Arc<Self>, reason: String) {
        let mut shuffle_state = self.shuffle.state.lock();
        let mut state = self.state.lock();
        state.phase = Phase::Fenced(reason);
        self.drop_blocks(&mut state);
        drop(state);
        shuffle_state.forget(self);
    }

    /// Forgets what it holds.
    pub(crate) fn drop_blocks(&self, state: &mut OpenState) {
        let bytes = state
            .batches
            .iter()
            .map(|batch| batch.memory())
            .sum::<u64>();
        self.shuffle.open_memory.fetch_sub(bytes, Ordering::Relaxed);
        state.batches.clear();
        let dead = state.runs.drain(..).filter(|run| run.abandon());
        self.shuffle.dead.lock().extend(dead);
    }

    /// Takes all that it holds; it holds nothing then.
    pub(crate) fn take_blocks(&self, state: &mut OpenState) -> (Vec<Arc<Batch>>, Vec<Arc<Run>>) {
        let batches = std::mem::take(&mut state.batches);
        let bytes = batches.iter().map(|batch| batch.memory()).sum::<u64>();
        self.shuffle.open_memory.fetch_sub(bytes, Ordering::Relaxed);
        (batches, std::mem::take(&mut state.runs))
    }
}

impl std::fmt::Debug for OpenAttempt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.key)
    }
}

/// The answer to a push to a shuffle that was deleted.
pub(crate) fn fenced(app: &AppId, shuffle: ShuffleId) -> Error {
    Error::Fenced(format!("app {app} shuffle {shuffle} is deleted"))
}

/// Why an attempt is not whole.
pub(crate) fn lost_reason(snapshot: &Snapshot, owner: Owner) -> Option<String> {
    let committed = snapshot.commits.get(&owner)?;
    if let Some(reason) = &committed.lost {
        return Some(reason.clone());
    }
    if let Some(reason) = snapshot.held.get(&owner).and_then(|held| held.lost.get()) {
        return Some(reason.clone());
    }
    committed
        .runs
        .iter()
        .find_map(|&id| match find_run(&snapshot.runs, id) {
            Some(run) => run.lost.get().cloned(),
            None => Some(format!("run {id} is not in the index")),
        })
}
