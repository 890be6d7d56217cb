//! Deletion of shuffles and apps. It is told by the lease's owner, never found out here (invariant: delete-by-lease).
//!
//! Records go first and files after them: files that the index does not name are removed at the next start in any case. A fetch
//! that is under way is told `Lost` at its next step; what it has open stays readable until then.

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
};

use shuffle_proto::ids::{AppId, ShuffleId};

use super::{
    Error,
    shared::Shared,
    shuffle::{Shuffle, State},
    stats::Stats,
};
use crate::index::{Batch as Changes, keys::Key, values};

/// What the index keeps of a deleted shuffle.
const TOMBSTONE: values::Record = values::Record::Shuffle(values::Shuffle {
    num_maps: 0,
    num_partitions: 0,
    deleted: true,
});

/// Deletes a shuffle and leaves its tombstone; answers bytes freed.
pub(super) fn delete_shuffle(shared: &Shared, app: &AppId, id: ShuffleId) -> Result<u64, Error> {
    let (freed, shuffle) = {
        let _gate = shared.gate.lock();
        let Some(no) = shared.app_no(app) else {
            return Ok(0);
        };
        let shuffle = {
            let mut names = shared.names.write();
            let Some(of_app) = names.apps.get_mut(app) else {
                return Ok(0);
            };
            if !of_app.deleted.insert(id) {
                return Ok(0);
            }
            names.shuffles.remove(&(no, id))
        };
        let freed = shuffle.as_ref().and_then(|shuffle| empty(shared, shuffle));
        let mut changes = Changes::default();
        changes.delete_shuffle_data(no, id);
        changes.put(Key::Shuffle(no, id), &TOMBSTONE);
        write(shared, &changes)?;
        (freed.unwrap_or(0), shuffle)
    };
    if let Some(shuffle) = shuffle {
        remove_dir(shared, &shuffle.dir);
        close_output(&shuffle);
    }
    tracing::info!(volume = %shared.id, %app, shuffle = %id, bytes = freed, "shuffle deleted");
    Ok(freed)
}

/// Deletes all that an app has, and the app; answers bytes freed.
pub(super) fn delete_app(shared: &Shared, app: &AppId) -> Result<u64, Error> {
    let shuffles: Vec<Arc<Shuffle>>;
    let freed = {
        let _gate = shared.gate.lock();
        let no = {
            let mut names = shared.names.write();
            let Some(app) = names.apps.remove(app) else {
                return Ok(0);
            };
            let gone = names.shuffles.extract_if(|(no, _), _| *no == app.no);
            shuffles = gone.map(|(_, shuffle)| shuffle).collect();
            app.no
        };
        let freed = shuffles
            .iter()
            .filter_map(|shuffle| empty(shared, shuffle))
            .sum();
        let mut changes = Changes::default();
        changes.delete_app(no);
        write(shared, &changes)?;
        // Still under the gate: the app may come back at once, under the same name.
        remove_dir(shared, &app_dir(&shared.dir, app));
        freed
    };
    shuffles.iter().for_each(|shuffle| close_output(shuffle));
    tracing::info!(volume = %shared.id, %app, bytes = freed, "app deleted");
    Ok(freed)
}

/// Makes a shuffle unknown to readers and writers; answers its bytes, or `None` if it is deleted already.
fn empty(shared: &Shared, shuffle: &Shuffle) -> Option<u64> {
    let (old, open) = {
        let mut state = shuffle.state.lock();
        if state.deleted {
            return None;
        }
        let tombstone = State {
            deleted: true,
            recorded: true,
            version: state.version + 1,
            ..State::default()
        };
        let mut old = std::mem::replace(&mut *state, tombstone);
        let open = std::mem::take(&mut old.open);
        (old, open)
    };
    for attempt in open.into_values() {
        attempt.fence(|| shuffle.fenced().to_string());
    }
    old.held.values().for_each(|held| held.leave_log(shuffle));
    shuffle.memory.store(0, Ordering::Relaxed);
    // In memory, in a commit log, or in both: they are in no segment.
    let held = old
        .held
        .values()
        .flat_map(|held| &held.batches)
        .map(|batch| batch.length())
        .sum::<u64>();
    let files = shuffle.file_bytes.swap(0, Ordering::Relaxed);
    shared.used.fetch_sub(files, Ordering::Relaxed);
    Stats::add(&shared.stats.deleted_bytes, files + held);
    Stats::add(&shared.stats.saved_bytes, old.unwritten_bytes);
    // Logs may have become unneeded.
    shared.wake();
    Some(files + held)
}

/// Closes the file that the next run would go to, when a run that is just being written is through: a file that is open keeps its
/// space although it has no name any more. Not under the gate, which is taken inside of the output's lock when a file is made.
fn close_output(shuffle: &Shuffle) {
    *shuffle.output.lock() = None;
}

fn write(shared: &Shared, changes: &Changes) -> Result<(), Error> {
    shared
        .index
        .write(changes, false)
        .map_err(Error::Index)
        .inspect_err(|error| shared.note(error))
}

fn remove_dir(shared: &Shared, dir: &Path) {
    match shared.disk.remove_dir(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(path = %dir.display(), %error, "deleted data cannot be removed now; it will be at the next start");
        }
        _ => {}
    }
}

/// Of all segments of an app.
pub(super) fn app_dir(dir: &Path, app: &AppId) -> std::path::PathBuf {
    dir.join("apps").join(app.as_str())
}

/// Of the segments of a shuffle.
pub(super) fn shuffle_dir(dir: &Path, app: &AppId, shuffle: ShuffleId) -> std::path::PathBuf {
    app_dir(dir, app).join(shuffle.to_string())
}
