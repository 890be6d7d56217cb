//! The local copy's space comes back once the object store has all that is in it
//! (invariant: remote-before-reclaim).

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
};

use shuffle_proto::ids::{AppId, ShuffleId};

use crate::{
    index::{Changes, keys::Key},
    staging::{
        error::Error,
        state::{
            shared::Shared,
            shuffle::{Shuffle, State},
            stats::Stats,
            trash::Waste,
        },
    },
};

/// Removes the local copy of a shuffle that is whole in the object store; answers the bytes that
/// this freed, 0 if it may not go now. Blocking.
pub(super) fn reclaim(shared: &Shared, app: &AppId, shuffle: ShuffleId) -> Result<u64, Error> {
    if shared.is_broken() {
        // Nothing new goes there, and what its index would be told is gone with the next start.
        return Ok(0);
    }
    let Some(shuffle) = shared.shuffle(app, shuffle) else {
        return Ok(0);
    };
    // Before the gate, which is taken inside of this lock when a file is made. What is written from
    // here on goes to another file.
    *shuffle.output.lock() = None;
    let _gate = shared.gate.lock();
    let mut changes = Changes::default();
    let runs = {
        // Looked at and taken away under one lock: a fetch that begins later sees that it is gone,
        // and goes to the store.
        let mut state = shuffle.state.lock();
        if !may_reclaim(&shuffle, &state) {
            return Ok(0);
        }
        state.version += 1;
        let mut gone = BTreeSet::new();
        for (owner, committed) in Arc::make_mut(&mut state.commits) {
            let committed = Arc::make_mut(committed);
            committed.runs.clear();
            let key = Key::Attempt(shuffle.app_no, shuffle.id, owner.0, owner.1);
            changes.put(key, &committed.record(None));
            if committed.bytes > 0 {
                gone.insert(*owner);
            }
        }
        state.reclaimed = Arc::new(gone);
        for generation in state.generations.values_mut() {
            generation.fixed = true;
        }
        std::mem::take(&mut state.runs)
    };
    let mut files = BTreeSet::new();
    for run in runs.iter() {
        changes.delete(Key::Run(shuffle.app_no, shuffle.id, run.id));
        if files.insert(run.segment.path.clone()) {
            let id = run.segment.id;
            changes.delete(Key::Segment(shuffle.app_no, shuffle.id, id));
        }
    }
    // The files stay for as long as the index names them: a crash, or an index that fails, costs
    // space and nothing else.
    shared
        .index
        .write(&changes, false)
        .inspect_err(|error| shared.note(&Error::Index(error.clone())))?;
    let freed = shuffle.file_bytes.swap(0, Ordering::Relaxed);
    shared.used.fetch_sub(freed, Ordering::Relaxed);
    for path in files {
        shared.trash.put(Waste::file(path));
    }
    Stats::add(&shared.stats.reclaimed_bytes, freed);
    tracing::info!(volume = %shared.id, app = %shuffle.app, shuffle = %shuffle.id, bytes = freed, "local copy reclaimed");
    Ok(freed)
}

/// Whether the local copy of a shuffle can go.
pub(super) fn may_reclaim(shuffle: &Shuffle, state: &State) -> bool {
    // invariant: remote-before-reclaim. Every commit is in `written`, which is filled by the
    // index's record of a manifest only; of a volume that is out of service without it, and such a
    // volume reclaims nothing. A fetch counts itself before it takes its snapshot, so one that is
    // not seen here has not looked yet.
    !state.deleted
        && state.open.is_empty()
        && state.held.is_empty()
        && !state.runs.is_empty()
        && state
            .commits
            .keys()
            .all(|owner| state.written.contains(owner))
        && shuffle.readers.load(Ordering::SeqCst) == 0
}
