//! Flushing: what a shuffle has in memory or in a commit log goes into a run, and the run becomes
//! known.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;

use crate::{
    index::{
        Changes,
        keys::Key,
        values::{self, Record, Tier},
    },
    staging::{
        error::Error,
        files::format::align,
        state::{
            batch::{Batch, Data, Owner},
            run::{Run, find_run},
            shared::Shared,
            shuffle::{Committed, Phase, Shuffle},
            stats::Stats,
        },
        words::Durability,
        write::run::{Source, write_run},
    },
};

/// Why a run is written, for the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    Pressure,
    Settle,
    Asked,
}

/// Which attempts a run is written of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempts {
    Committed,
    /// Committed attempts and attempts in progress.
    All,
}

/// How a run is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flush {
    pub(crate) attempts: Attempts,
    pub(crate) cause: Cause,
    /// Whether all of it has to be on the device.
    pub(crate) sync: bool,
}

impl Flush {
    /// A flush of committed attempts that need not be synced.
    pub(crate) fn committed(cause: Cause) -> Self {
        Self {
            attempts: Attempts::Committed,
            cause,
            sync: false,
        }
    }
}

/// Writes what a shuffle has in memory or in the commit log as one run and makes it known. Answers
/// the bytes written; 0 means there is nothing left.
pub(crate) fn flush_shuffle(
    shared: &Shared,
    shuffle: &Arc<Shuffle>,
    flush: Flush,
) -> Result<u64, Error> {
    let Flush {
        attempts,
        cause,
        mut sync,
    } = flush;
    let mut sources = collect(shared, shuffle, attempts);
    sources.retain_mut(|source| reload(shared, shuffle, source));
    if sources.is_empty() {
        return Ok(0);
    }
    shared.check_limit(new_bytes(shuffle, &sources))?;
    let run = write_run(shared, shuffle, &sources)?;
    // What was on the device before must not be replaced by something that is not, and what is
    // called synced must be so in all runs.
    let older: Vec<Arc<Run>> = {
        let state = shuffle.state.lock();
        let committed: Vec<_> = sources
            .iter()
            .filter_map(|source| state.commits.get(&source.owner))
            .collect();
        sync |= committed
            .iter()
            .any(|committed| committed.durability == Durability::Fsync);
        let ids = committed.iter().flat_map(|committed| &committed.runs);
        if sync {
            ids.filter_map(|&id| find_run(&state.runs, id).cloned())
                .collect()
        } else {
            Vec::new()
        }
    };
    if sync {
        sync_runs(shared, shuffle, older.iter().chain([&run]))?;
    }
    let _gate = shared.gate.lock();
    let mut moved: Vec<(Owner, Committed)> = Vec::new();
    let mut changes = Changes::default();
    {
        let state = shuffle.state.lock();
        if state.deleted {
            return Err(shuffle.fenced());
        }
        for source in sources.iter().filter(|source| source.open.is_none()) {
            // Only this thread, a deletion and a loss take committed blocks away, and the gate
            // keeps deletions out. What was lost meanwhile stays so.
            let held = state.held.contains_key(&source.owner);
            let Some(committed) = state.commits.get(&source.owner).filter(|_| held) else {
                continue;
            };
            let mut committed = Committed::clone(committed);
            committed.runs.push(run.id);
            committed.durability = committed.durability.max(if sync {
                Durability::Fsync
            } else {
                Durability::Disk
            });
            changes.put(
                Key::Attempt(shuffle.app_no, shuffle.id, source.owner.0, source.owner.1),
                &committed.record(None),
            );
            moved.push((source.owner, committed));
        }
        put_run(&mut changes, shuffle, &run);
        if !state.recorded {
            changes.put(Key::Shuffle(shuffle.app_no, shuffle.id), &shuffle.record());
        }
    }
    // invariant: bytes-before-index
    shared.index.write(&changes, sync)?;
    let mut state = shuffle.state.lock();
    state.recorded = true;
    state.add_run(run.clone());
    account(shared, shuffle, &run);
    for (owner, committed) in moved {
        state.release(shuffle, owner);
        Arc::make_mut(&mut state.commits).insert(owner, Arc::new(committed));
        run.settle(state.version);
    }
    for source in &sources {
        if let Some(open) = &source.open {
            let mut open_state = open.state.lock();
            // Anything else has taken its blocks along; what the run has of them nobody will ask
            // for.
            if matches!(open_state.phase, Phase::Open | Phase::Sealed) {
                let bytes = source
                    .batches
                    .iter()
                    .map(|batch| batch.memory())
                    .sum::<u64>();
                open_state.batches.drain(..source.batches.len());
                open_state.runs.push(run.clone());
                shuffle.open_memory.fetch_sub(bytes, Ordering::Relaxed);
            } else if run.abandon() {
                shuffle.dead.lock().push(run.clone());
            }
        }
    }
    drop(state);
    keep_cached(shared, &run);
    let counter = match cause {
        Cause::Pressure => Some(&shared.stats.pressure_runs),
        Cause::Settle => Some(&shared.stats.settled_runs),
        Cause::Asked => None,
    };
    if let Some(counter) = counter {
        Stats::add(counter, 1);
    }
    Ok(run.data_length)
}

/// Records committed attempts of which only memory knows, though their blocks, if they have any,
/// are in runs.
pub(crate) fn record_memory(shared: &Shared, shuffle: &Shuffle) -> Result<(), Error> {
    let _gate = shared.gate.lock();
    let mut changes = Changes::default();
    let mut recorded = Vec::new();
    {
        let state = shuffle.state.lock();
        if state.deleted {
            return Err(shuffle.fenced());
        }
        let only_memory = |(owner, committed): &(&Owner, &Arc<Committed>)| {
            committed.durability == Durability::Memory && !state.held.contains_key(owner)
        };
        for (&owner, committed) in state.commits.iter().filter(only_memory) {
            let mut committed = Committed::clone(committed);
            committed.durability = Durability::Disk;
            changes.put(
                Key::Attempt(shuffle.app_no, shuffle.id, owner.0, owner.1),
                &committed.record(None),
            );
            recorded.push((owner, committed));
        }
    }
    if recorded.is_empty() {
        return Ok(());
    }
    changes.put(Key::Shuffle(shuffle.app_no, shuffle.id), &shuffle.record());
    shared.index.write(&changes, false)?;
    let mut state = shuffle.state.lock();
    state.recorded = true;
    state.version += 1;
    for (owner, committed) in recorded {
        Arc::make_mut(&mut state.commits).insert(owner, Arc::new(committed));
    }
    Ok(())
}

/// Puts runs of a shuffle on the device.
pub(crate) fn sync_runs<'a>(
    shared: &Shared,
    shuffle: &Shuffle,
    runs: impl IntoIterator<Item = &'a Arc<Run>>,
) -> Result<(), Error> {
    for run in runs {
        match run.segment.sync(&shared.disk, run.end()) {
            Ok(synced) => Stats::add(&shared.stats.syncs, synced.into()),
            // Its directory has gone meanwhile, which says nothing of the disk.
            Err(_) if shuffle.state.lock().deleted => return Err(shuffle.fenced()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Counts the bytes of a run that is in the index now. Under the gate, so that a deletion subtracts
/// neither too much nor too little.
pub(crate) fn account(shared: &Shared, shuffle: &Shuffle, run: &Run) {
    let bytes = align(run.end() - run.offset);
    shuffle.file_bytes.fetch_add(bytes, Ordering::Relaxed);
    shared.used.fetch_add(bytes, Ordering::Relaxed);
}

/// Adds a run's record and its segment's.
pub(crate) fn put_run(changes: &mut Changes, shuffle: &Shuffle, run: &Run) {
    changes.put(
        Key::Run(shuffle.app_no, shuffle.id, run.id),
        &Record::Run(values::Run {
            segment: run.segment.id,
            offset: run.offset,
            attempts: run.attempts,
            blocks: run.blocks,
            data_length: run.data_length,
            directory: run.directory.to_vec(),
        }),
    );
    changes.put(
        Key::Segment(shuffle.app_no, shuffle.id, run.segment.id),
        &Record::Segment(values::Segment {
            length: run.end(),
            tier: Tier::Open,
        }),
    );
}

/// Lets fetches read a run from memory until memory is needed.
pub(crate) fn keep_cached(shared: &Shared, run: &Arc<Run>) {
    if run.cached().is_some() {
        shared.cached.lock().push_back(Arc::downgrade(run));
    }
}

/// Bytes of what is on no disk yet.
fn new_bytes(shuffle: &Shuffle, sources: &[Source]) -> u64 {
    let state = shuffle.state.lock();
    let logged = |source: &&Source| {
        let held = state.held.get(&source.owner);
        held.is_some_and(|held| held.log.is_some())
    };
    let new = sources.iter().filter(|source| !logged(source));
    new.flat_map(|source| &source.batches)
        .map(|batch| batch.length())
        .sum()
}

/// Bytes that a run should not go far beyond, and from which more of them would not make its
/// extents better.
pub(crate) fn full_run(shared: &Shared, shuffle: &Shuffle) -> u64 {
    let extents = u64::from(shuffle.num_partitions) * GOOD_EXTENT;
    shared.options.max_run.max(extents)
}

/// What to flush, ascending by owner and not more than a run should have.
fn collect(shared: &Shared, shuffle: &Arc<Shuffle>, attempts: Attempts) -> Vec<Source> {
    let state = shuffle.state.lock();
    let limit = full_run(shared, shuffle);
    let (mut taken, mut reloaded) = (0, 0);
    let mut sources = Vec::new();
    for (&owner, held) in state
        .held
        .iter()
        .filter(|(_, held)| held.lost.get().is_none())
    {
        if taken >= limit || reloaded >= RELOAD {
            break;
        }
        let length: u64 = held.batches.iter().map(|batch| batch.length()).sum();
        taken += length;
        reloaded += length - held.memory();
        sources.push(Source {
            owner,
            batches: held.batches.clone(),
            open: None,
            reloaded: false,
        });
    }
    if attempts == Attempts::All {
        for (&owner, open) in &state.open {
            if taken >= limit {
                break;
            }
            let open_state = open.state.lock();
            if open_state.phase == Phase::Open && !open_state.batches.is_empty() {
                taken += open_state
                    .batches
                    .iter()
                    .map(|batch| batch.length())
                    .sum::<u64>();
                sources.push(Source {
                    owner,
                    batches: open_state.batches.clone(),
                    open: Some(open.clone()),
                    reloaded: false,
                });
            }
        }
        sources.sort_by_key(|source| source.owner);
    }
    sources
}

/// Reads blocks back that only a log has; false if they cannot be read, which is noted where
/// readers see it.
fn reload(shared: &Shared, shuffle: &Shuffle, source: &mut Source) -> bool {
    for batch in &mut source.batches {
        let Data::Log(log, offset) = batch.data() else {
            continue;
        };
        let mut bytes = vec![0; batch.length() as usize];
        let read = shared
            .disk
            .read(&log.file, &log.path, &mut bytes, *offset)
            .inspect_err(|error| shared.note_read(error))
            .map_err(|error| error.to_string());
        let loaded = read.and_then(|()| {
            Batch::try_new(batch.headers().to_vec(), Bytes::from_owner(Reloaded(bytes)))
                .ok_or_else(String::new)
        });
        match loaded {
            Ok(loaded) => {
                *batch = Arc::new(loaded);
                source.reloaded = true;
            }
            Err(reason) => {
                let state = shuffle.state.lock();
                if let Some(held) = state.held.get(&source.owner) {
                    held.lose(shuffle, source.owner, || reason);
                }
                return false;
            }
        }
    }
    true
}

/// Bytes that are read back from commit logs for one run. They are not in the budget.
const RELOAD: u64 = 64 << 20;
/// Bytes per partition that make extents which a cold disk reads at its speed.
const GOOD_EXTENT: u64 = 64 << 10;

struct Reloaded(Vec<u8>);

impl AsRef<[u8]> for Reloaded {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
