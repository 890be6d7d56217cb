//! Deletion of shuffles and apps. It is told by the lease's owner, never found out here
//! (invariant: delete-by-lease).
//!
//! What is deleted is unknown to readers and writers first, then its directory gets another name,
//! then the index is told, and then the call is answered; [`super::remover`] removes the files.
//! Directories carry the app's number, which is never used again while anything of it is there, so
//! that nothing that comes late can meet what came back under the same name. Only the first of
//! these steps is made under the gate: nobody adds to what is deleted. A fetch that is under way is
//! told `Lost` at its next step; what it has open stays readable until then.

use std::{
    io,
    path::Path,
    sync::{Arc, atomic::Ordering},
};

use shuffle_proto::ids::{AppId, ShuffleId};

use crate::{
    index::Changes,
    staging::{
        error::Error,
        files::layout::app_dir,
        state::{
            shared::Shared,
            shuffle::{Shuffle, State},
            stats::Stats,
            trash::{Place, Waste, What},
        },
    },
};

/// Deletes a shuffle and leaves its tombstone; answers bytes freed. An error: it is unknown to
/// readers, and not through; it goes on by itself, and asked again it answers when it is.
pub(crate) fn delete_shuffle(shared: &Shared, app: &AppId, id: ShuffleId) -> Result<u64, Error> {
    let (waste, shuffle) = {
        let _gate = shared.gate.lock();
        let Some(no) = shared.app_no(app) else {
            return Ok(0);
        };
        let shuffle = {
            let mut names = shared.names.write();
            let Some(of_app) = names.apps.get_mut(app) else {
                return Ok(0);
            };
            if of_app.deleted.insert(id) {
                Some(names.shuffles.remove(&(no, id)))
            } else {
                None
            }
        };
        let Some(shuffle) = shuffle else {
            let earlier = shared.trash.unrecorded_shuffle(no, id);
            return earlier.map_or(Ok(0), |waste| waste.record(shared));
        };
        let emptied = shuffle.as_ref().and_then(|shuffle| empty(shared, shuffle));
        let (used, freed) = emptied.unwrap_or_default();
        let waste = Waste::of(What::Shuffle(no, id), used, freed);
        shared.trash.begin(&waste);
        (waste, shuffle)
    };
    if let Some(shuffle) = &shuffle {
        waste.move_away(shared, &shuffle.dir);
    }
    let bytes = waste.finish(shared);
    shuffle.iter().for_each(|shuffle| close_output(shuffle));
    let bytes = bytes?;
    tracing::info!(volume = %shared.id, %app, shuffle = %id, bytes, "shuffle deleted");
    Ok(bytes)
}

/// Deletes all that an app has, and the app; answers bytes freed. An error means the same as with a
/// shuffle.
pub(crate) fn delete_app(shared: &Shared, app: &AppId) -> Result<u64, Error> {
    let (waste, no, shuffles) = {
        let _gate = shared.gate.lock();
        shared.missed.lock().remove(app);
        let known = {
            let mut names = shared.names.write();
            names.apps.remove(app).map(|known| {
                let gone = names.shuffles.extract_if(|(no, _), _| *no == known.no);
                let shuffles: Vec<Arc<Shuffle>> = gone.map(|(_, shuffle)| shuffle).collect();
                if let Some(life) = known.record.life {
                    names.ends(known.no, life);
                }
                (known.no, known.record.life, shuffles)
            })
        };
        let Some((no, life, shuffles)) = known else {
            let earlier = shared.trash.unrecorded_app(app);
            return earlier.map_or(Ok(0), |waste| waste.record(shared));
        };
        let (mut used, mut freed) = (0, 0);
        for shuffle in &shuffles {
            let (files, all) = empty(shared, shuffle).unwrap_or_default();
            (used, freed) = (used + files, freed + all);
        }
        let waste = Waste::of(What::App(no, Some(app.clone()), life), used, freed);
        shared.trash.begin(&waste);
        (waste, no, shuffles)
    };
    waste.move_away(shared, &app_dir(&shared.dir, app, no));
    let bytes = waste.finish(shared);
    shuffles.iter().for_each(|shuffle| close_output(shuffle));
    let bytes = bytes?;
    tracing::info!(volume = %shared.id, %app, bytes, "app deleted");
    Ok(bytes)
}

/// Makes a shuffle unknown to readers and writers; answers the bytes of its files and of all that
/// it had, or `None` if it is deleted already.
fn empty(shared: &Shared, shuffle: &Shuffle) -> Option<(u64, u64)> {
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
    // They count as used until they are gone.
    let files = shuffle.file_bytes.swap(0, Ordering::Relaxed);
    Stats::add(&shared.stats.deleted_bytes, files + held);
    Stats::add(&shared.stats.saved_bytes, old.unwritten_bytes);
    // Logs may have become unneeded.
    shared.wake();
    Some((files, files + held))
}

/// Closes the file that the next run would go to, when a run that is just being written is through:
/// a file that is open keeps its space although it has no name any more. Not under the gate, which
/// is taken inside of the output's lock when a file is made.
fn close_output(shuffle: &Shuffle) {
    *shuffle.output.lock() = None;
}

// === impl Waste ===

impl Waste {
    /// Gives its directory a name that says what was deleted: from here on a crash does not bring
    /// it back.
    pub(crate) fn move_away(&self, shared: &Shared, dir: &Path) {
        let Some(name) = self.what.name(shared.next_id()) else {
            return;
        };
        let away = shared.dir.join("trash").join(name);
        let move_it = || match shared.disk.rename(dir, &away) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(false),
            other => other.map(|()| true),
        };
        // A disk that is full to the last byte has no room for the name either, until the ballast
        // is given up.
        let moved = move_it().or_else(|error| {
            shared.note(&error);
            move_it()
        });
        let place = match moved {
            Ok(true) => Some((away, true)),
            Ok(false) => None,
            Err(error) => {
                tracing::warn!(path = %dir.display(), %error, "what is deleted cannot be moved away; its files are removed where they are");
                Some((dir.to_owned(), false))
            }
        };
        if let Some((path, says)) = place {
            let _ = self.place.set(Place { path, says });
        }
    }

    /// Tells the index; answers the bytes that the deletion freed.
    pub(crate) fn record(&self, shared: &Shared) -> Result<u64, Error> {
        let mut changes = Changes::default();
        self.what.record(&mut changes);
        if let Err(error) = shared.index.write(&changes, false) {
            let error = Error::Index(error);
            shared.note(&error);
            return Err(error);
        }
        self.recorded.store(true, Ordering::Release);
        shared.trash.recorded(self);
        Ok(self.freed)
    }

    /// Tells the index, and leaves the files to the remover. What could not be told is left with a
    /// name that says it, if only of an empty directory.
    pub(crate) fn finish(self: Arc<Self>, shared: &Shared) -> Result<u64, Error> {
        let recorded = self.record(shared);
        if recorded.is_err()
            && self.place.get().is_none()
            && let Some(name) = self.what.name(shared.next_id())
        {
            let path = shared.dir.join("trash").join(name);
            if shared.disk.create_dir_all(&path).is_ok() {
                let _ = self.place.set(Place { path, says: true });
            }
        }
        shared.trash.put(self);
        recorded
    }
}
