//! Memory, and space, that is given back without writing data.
//!
//! What a commit log has need not be in memory too: readers read it from the log, as after a
//! restart. It stays in memory for as long as there is enough, because the next run is made from
//! it; it goes where no run can be written, because the disk is full, broken or does not answer, so
//! that one such volume does not keep the memory of all. And the space of runs of which nothing is
//! committed is given back to the file system.

use std::{
    cmp::Reverse,
    sync::{Arc, atomic::Ordering},
};

use shuffle_proto::stored::ROW;

use crate::{
    index::{Changes, keys::Key},
    staging::{
        error::Error,
        files::format::{HEADER, align},
        state::{
            batch::{Batch, Data, Owner},
            run::Run,
            shared::Shared,
            shuffle::{Held, Shuffle},
            stats::Stats,
        },
    },
};

impl Shared {
    /// Drops from memory what a commit log has of the shuffle that has most; false if there is
    /// nothing. With `verify` only what the log can be read to have: of a disk that has failed
    /// nobody knows. Without, the disk is not touched.
    pub(crate) fn drop_logged(&self, verify: bool) -> bool {
        let memory = |shuffle: &Arc<Shuffle>| shuffle.memory.load(Ordering::Relaxed);
        let mut shuffles = self.shuffles();
        shuffles.retain(|one| memory(one) > 0 && one.logged.load(Ordering::Relaxed) > 0);
        shuffles.sort_by_key(|one| Reverse(memory(one)));
        shuffles.iter().any(|shuffle| {
            let bytes = shuffle.drop_logged(self, verify);
            Stats::add(&self.stats.evicted_bytes, bytes);
            bytes > 0
        })
    }
}

impl Shuffle {
    fn drop_logged(&self, shared: &Shared, verify: bool) -> u64 {
        let in_log = |(owner, held): (&Owner, &Arc<Held>)| {
            let batches = held.in_log()?;
            Some((*owner, held.clone(), batches))
        };
        let mut moving: Vec<_> = {
            let state = self.state.lock();
            state.held.iter().filter_map(in_log).collect()
        };
        if verify {
            moving.retain(|(_, held, batches)| held.is_in(shared, batches));
        }
        let mut state = self.state.lock();
        let mut bytes = 0;
        for (owner, before, batches) in moving {
            // It may have gone into a run meanwhile, or be deleted.
            let same = |now: &Arc<Held>| Arc::ptr_eq(now, &before);
            if !state.held.get(&owner).is_some_and(same) {
                continue;
            }
            bytes += before.memory();
            let moved = Held {
                batches,
                log: before.log.clone(),
                lost: Default::default(),
            };
            Arc::make_mut(&mut state.held).insert(owner, Arc::new(moved));
        }
        self.memory.fetch_sub(bytes, Ordering::Relaxed);
        bytes
    }
}

impl Held {
    /// The held batches with their bytes in the log instead of memory; `None` if the log does not
    /// have them, or memory does not.
    fn in_log(&self) -> Option<Vec<Arc<Batch>>> {
        let (log, place) = self.log.as_ref()?;
        if self.lost.get().is_some() || self.memory() == 0 {
            return None;
        }
        let blocks: usize = self.batches.iter().map(|batch| batch.headers().len()).sum();
        let mut offset = place.offset + (HEADER + blocks * ROW) as u64;
        let moved = |batch: &Arc<Batch>| {
            let at = offset;
            offset += batch.length();
            match batch.data() {
                Data::Memory(_) => Arc::new(batch.moved(log.clone(), at)),
                Data::Log(..) => batch.clone(),
            }
        };
        let batches: Vec<_> = self.batches.iter().map(moved).collect();
        debug_assert_eq!(offset, place.offset + place.length);
        Some(batches)
    }

    /// Whether the log has the same bytes as memory.
    fn is_in(&self, shared: &Shared, batches: &[Arc<Batch>]) -> bool {
        let same = |(here, there): (&Arc<Batch>, &Arc<Batch>)| {
            let (Data::Memory(bytes), Data::Log(log, offset)) = (here.data(), there.data()) else {
                return true;
            };
            let mut read = vec![0; bytes.len()];
            let found = shared.disk.read(&log.file, &log.path, &mut read, *offset);
            found.is_ok() && read[..] == bytes[..]
        };
        self.batches.iter().zip(batches).all(same)
    }
}

/// Gives back the space of runs all of whose attempts have ended without a commit. Not while
/// somebody reads the shuffle, who may be about to read their tables. Blocking.
pub(crate) fn drop_dead_runs(shared: &Shared, shuffle: &Shuffle) {
    let dead = std::mem::take(&mut *shuffle.dead.lock());
    if dead.is_empty() {
        return;
    }
    let forgotten = {
        let _gate = shared.gate.lock();
        forget(shared, shuffle, &dead)
    };
    match forgotten {
        // Later.
        Ok(false) => shuffle.dead.lock().extend(dead),
        Ok(true) => dead.iter().for_each(|run| give_back(shared, shuffle, run)),
        Err(error) => shared.note(&error),
    }
}

/// Takes them out of the index. A crash after that costs their space until the shuffle is deleted,
/// and nothing else.
fn forget(shared: &Shared, shuffle: &Shuffle, dead: &[Arc<Run>]) -> Result<bool, Error> {
    let mut changes = Changes::default();
    {
        let mut state = shuffle.state.lock();
        if state.deleted {
            // They go with it.
            return Ok(true);
        }
        if shuffle.readers.load(Ordering::SeqCst) > 0 {
            return Ok(false);
        }
        state.version += 1;
        let runs = Arc::make_mut(&mut state.runs);
        runs.retain(|run| !dead.iter().any(|dead| dead.id == run.id));
    }
    for run in dead {
        changes.delete(Key::Run(shuffle.app_no, shuffle.id, run.id));
    }
    shared.index.write(&changes, false)?;
    Ok(true)
}

fn give_back(shared: &Shared, shuffle: &Shuffle, run: &Run) {
    let length = align(run.end()) - run.offset;
    match shared.disk.punch(&run.segment.path, run.offset, length) {
        Ok(()) => {
            // Under the gate, because a deletion takes what is counted.
            let _gate = shared.gate.lock();
            if !shuffle.state.lock().deleted {
                let bytes = align(run.end() - run.offset);
                shuffle.file_bytes.fetch_sub(bytes, Ordering::Relaxed);
                shared.used.fetch_sub(bytes, Ordering::Relaxed);
                Stats::add(&shared.stats.aborted_bytes, bytes);
            }
        }
        Err(error) => {
            tracing::debug!(%error, "space of attempts without a commit stays taken until their shuffle goes");
        }
    }
}
