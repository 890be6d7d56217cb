//! What write-back asks of a volume: which shuffles have something that is in no object, a stable
//! view of it, and the record that it is in the object store now.
//!
//! The order is carried by [`Sealed`]: it is made from committed attempts, and only it can be
//! [recorded](Sealed::record), which its owner does when the manifest is there. Only what was
//! recorded can be reclaimed (`super::reclaim`).

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use shuffle_proto::{
    ids::{AppId, ShuffleId, VolumeId},
    stored::totals::Totals,
};
use tokio::sync::oneshot;

use crate::{
    index::{
        Changes,
        keys::Key,
        values::{Record, Written},
    },
    staging::{
        error::Error,
        read::{cursor::Position, fetch::Fetch},
        reclaim::may_reclaim,
        state::{
            batch::Owner,
            shared::Shared,
            shuffle::{Committed, Generation, Shuffle, fenced},
        },
        words::AttemptKey,
    },
};

/// A shuffle on a volume, as write-back plans with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unwritten {
    /// The application.
    pub app: AppId,
    /// One of its shuffles.
    pub shuffle: ShuffleId,
    /// The volume.
    pub volume: VolumeId,
    /// Committed attempts that are in no object.
    pub attempts: u64,
    /// Bytes of those attempts.
    pub bytes: u64,
    /// Since the first of them was committed, or the volume opened if that was later; zero without
    /// any.
    pub waiting: Duration,
    /// Attempts that are being pushed.
    pub open: usize,
    /// Since it was last written to.
    pub quiet: Duration,
    /// Whether readers got as many bytes as it has.
    pub read: bool,
    /// Bytes of its segments.
    pub local: u64,
    /// Whether all of its local copy could go: everything is in the object store, nobody reads it,
    /// and nothing is only in memory.
    pub reclaimable: bool,
    /// Generations that count and whose attempts can all be read here, with their bytes: candidates
    /// for compaction into one generation.
    pub generations: Vec<(u32, u64)>,
    /// Since the last manifest was recorded; counts from the opening of the volume if that was
    /// earlier.
    pub written_for: Duration,
}

/// Where a committed attempt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// On the volume only.
    Volume,
    /// In the object store, and perhaps here.
    Store,
}

/// What a volume has to know of a manifest that is in the store.
pub struct Made {
    /// Its generation.
    pub generation: u32,
    /// Objects that it names.
    pub objects: u32,
    /// Attempts that are in them.
    pub attempts: Vec<Owner>,
    /// Generations whose place it takes.
    pub replaces: Vec<u32>,
}

/// Committed attempts of one shuffle that are about to be written back as one generation.
pub struct Sealed {
    shared: Arc<Shared>,
    /// The handle of the volume: while it lives the volume stays open.
    _open: Arc<dyn Send + Sync>,
    shuffle: Arc<Shuffle>,
    generation: u32,
    /// When it was sealed, in ms since the volume was opened.
    sealed_at: u64,
    attempts: BTreeMap<Owner, Arc<Committed>>,
    /// Earlier generations whose attempts are among these.
    replaces: Vec<u32>,
    /// Nothing but those.
    merges_only: bool,
    /// Whether there is more that is in no object, and left for the next round.
    partial: bool,
}

/// All shuffles that are not deleted, for the planner.
pub(super) fn unwritten(shared: &Shared) -> Vec<Unwritten> {
    let now = shared.millis();
    let since = |at: u64| Duration::from_millis(now.saturating_sub(at));
    let describe = |shuffle: Arc<Shuffle>| {
        let state = shuffle.state.lock();
        if state.deleted {
            return None;
        }
        let local = shuffle.file_bytes.load(Ordering::Relaxed);
        let bytes: u64 = state.unwritten_bytes;
        let fetched = shuffle.fetched.load(Ordering::Relaxed);
        Some(Unwritten {
            app: shuffle.app.clone(),
            shuffle: shuffle.id,
            volume: shared.id,
            attempts: state.unwritten,
            bytes,
            waiting: match state.unwritten {
                0 => Duration::ZERO,
                _ => since(state.unwritten_since),
            },
            open: state.open.len(),
            quiet: since(shuffle.touched.load(Ordering::Relaxed)),
            read: fetched > 0 && fetched >= bytes.max(local),
            local,
            reclaimable: local > 0 && may_reclaim(&shuffle, &state),
            generations: {
                let all = state.generations.iter();
                let whole = all.filter(|(_, generation)| !generation.fixed);
                whole.map(|(number, one)| (*number, one.bytes)).collect()
            },
            written_for: since(state.written_at),
        })
    };
    let shuffles = shared.shuffles().into_iter();
    shuffles.filter_map(describe).collect()
}

/// Whether a shuffle was deleted and its app is still known.
pub(super) fn is_deleted(shared: &Shared, app: &AppId, shuffle: ShuffleId) -> bool {
    let names = shared.names.read();
    let known = names.apps.get(app);
    known.is_some_and(|app| app.deleted.contains(shuffle))
}

/// Where a committed attempt is. `Fenced` if its shuffle was deleted, `Lost` if it cannot be read
/// and so never written back.
pub(super) fn placement(shared: &Shared, key: &AttemptKey) -> Result<Placement, Error> {
    let fenced = || fenced(&key.app, key.shuffle);
    let shuffle = shared.shuffle(&key.app, key.shuffle);
    let shuffle = shuffle.ok_or_else(fenced)?;
    let owner = (key.map_index, key.attempt);
    let state = shuffle.state.lock();
    if state.deleted {
        Err(fenced())
    } else if state.written.contains(&owner) {
        Ok(Placement::Store)
    } else if state.unwritable.contains(&owner) || !state.commits.contains_key(&owner) {
        Err(Error::Lost(format!(
            "{key} cannot be read from the volume, and so not be written back: run the map again"
        )))
    } else {
        Ok(Placement::Volume)
    }
}

/// Takes hold of what a shuffle has committed and not written back, and of what these generations
/// have, so that one manifest takes the place of theirs; `None` if there is nothing to be done. Of
/// what is in no generation only so much that it is about `most` bytes: first of these attempts,
/// then of the others by map index, which lie together.
pub(super) fn seal_some(
    (shared, open): (&Arc<Shared>, Arc<dyn Send + Sync>),
    shuffle: Arc<Shuffle>,
    merge: &[u32],
    first: &[Owner],
    most: u64,
) -> Option<Sealed> {
    let mut partial = false;
    let (generation, mut attempts, again) = {
        let state = shuffle.state.lock();
        if state.deleted {
            return None;
        }
        let first = first
            .iter()
            .filter_map(|owner| state.commits.get_key_value(owner));
        let waiting = first
            .chain(state.commits.iter())
            .filter(|(owner, committed)| {
                committed.lost.is_none()
                    && !state.written.contains(owner)
                    && !state.unwritable.contains(owner)
            });
        let (mut attempts, mut bytes) = (BTreeMap::new(), 0);
        for (owner, committed) in waiting {
            if attempts.contains_key(owner) {
                continue;
            }
            if bytes >= most {
                partial = true;
                break;
            }
            bytes += committed.bytes;
            attempts.insert(*owner, committed.clone());
        }
        let again = merge.iter().filter_map(|number| {
            let generation = state.generations.get(number)?;
            let readable = generation.attempts.iter().map(|owner| {
                let committed = state.commits.get(owner)?;
                Some((*owner, committed.clone()))
            });
            let readable = readable.collect::<Option<Vec<_>>>()?;
            (!generation.fixed).then_some((*number, readable))
        });
        (state.generation + 1, attempts, again.collect::<Vec<_>>())
    };
    let merges_only = attempts.is_empty();
    if merges_only && again.len() < 2 {
        return None;
    }
    let mut replaces = Vec::with_capacity(again.len());
    for (number, readable) in again {
        replaces.push(number);
        attempts.extend(readable);
    }
    replaces.sort_unstable();
    Some(Sealed {
        replaces,
        merges_only,
        partial,
        sealed_at: shared.millis(),
        shared: shared.clone(),
        _open: open,
        shuffle,
        generation,
        attempts,
    })
}

// === impl Sealed ===

impl Sealed {
    /// Whose.
    pub fn app(&self) -> &AppId {
        &self.shuffle.app
    }

    /// The shuffle.
    pub fn shuffle(&self) -> ShuffleId {
        self.shuffle.id
    }

    /// The volume that holds it.
    pub fn volume(&self) -> VolumeId {
        self.shared.id
    }

    /// Map tasks and reduce partitions.
    pub fn tasks(&self) -> (u32, u32) {
        (self.shuffle.num_maps, self.shuffle.num_partitions)
    }

    /// Of the manifest that is to be made.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The same, if the store has manifests that the volume does not know of.
    pub fn after(mut self, last: u32) -> Self {
        self.generation = self.generation.max(last.saturating_add(1));
        self
    }

    /// Generations that count by what the volume knows.
    pub fn known(&self) -> BTreeSet<u32> {
        self.shuffle
            .state
            .lock()
            .generations
            .keys()
            .copied()
            .collect()
    }

    /// Forgets generations that the store has lost, or that nobody can read there: their attempts
    /// count as unwritten again if they can be read here. Blocking.
    pub fn write_again(&self, generations: &[u32]) -> Result<(), Error> {
        let (shared, shuffle) = (&self.shared, &self.shuffle);
        let _gate = shared.gate.lock();
        let mut changes = Changes::default();
        for generation in generations {
            changes.delete(Key::Written(shuffle.app_no, shuffle.id, *generation));
        }
        shared
            .index
            .write(&changes, true)
            .inspect_err(|error| shared.note(&Error::Index(error.clone())))
            .map_err(Error::Index)?;
        let mut state = shuffle.state.lock();
        let gone = generations
            .iter()
            .filter_map(|number| state.generations.remove(number));
        let mut gone: BTreeSet<Owner> = gone.flat_map(|gone| gone.attempts).collect();
        // What another has taken the place of is in that one.
        for generation in state.generations.values() {
            generation.attempts.iter().for_each(|owner| {
                gone.remove(owner);
            });
        }
        for owner in gone {
            let here = state.commits.get(&owner);
            let here = here
                .filter(|committed| committed.lost.is_none() && !state.reclaimed.contains(&owner));
            let Some(bytes) = here.map(|committed| committed.bytes) else {
                continue;
            };
            if state.written.remove(&owner) {
                if state.unwritten == 0 {
                    state.unwritten_since = shared.millis();
                }
                state.unwritten += 1;
                state.unwritten_bytes += bytes;
            }
        }
        Ok(())
    }

    /// Attempts with their bytes and records: ascending.
    pub fn attempts(&self) -> impl Iterator<Item = (Owner, u64, u64)> {
        self.attempts
            .iter()
            .map(|(owner, committed)| (*owner, committed.bytes, committed.records))
    }

    /// Earlier generations whose place it takes: ascending.
    pub fn replaces(&self) -> &[u32] {
        &self.replaces
    }

    /// Whether this round should give way: it only compacts generations, and newly committed
    /// attempts wait for a round.
    pub fn is_in_the_way(&self) -> bool {
        self.merges_only && self.shuffle.state.lock().unwritten > 0
    }

    /// Whether an attempt belongs to it.
    pub fn contains(&self, owner: Owner) -> bool {
        self.attempts.contains_key(&owner)
    }

    /// What the commits say.
    pub(crate) fn totals(&self) -> impl Iterator<Item = (Owner, &Totals)> {
        self.attempts
            .iter()
            .map(|(owner, committed)| (*owner, &*committed.totals))
    }

    /// Stored bytes of all attempts.
    pub fn bytes(&self) -> u64 {
        let bytes = self.attempts.values().map(|committed| committed.bytes);
        bytes.sum()
    }

    /// Reads some of it, and what has been committed since: the caller drops that.
    pub fn fetch(&self, partitions: Range<u32>, maps: Range<u32>) -> Result<Fetch, Error> {
        let shared = self.shared.clone();
        let start = Position::default();
        let fetch = Fetch::new(shared, self.shuffle.clone(), partitions, maps, start)?;
        Ok(fetch.not_counted())
    }

    /// Whether it may still be written: false once the shuffle is deleted.
    pub fn is_live(&self) -> bool {
        !self.shuffle.state.lock().deleted
    }

    /// Notes that an attempt cannot be read, and is not tried again.
    pub fn give_up(&self, owner: Owner) {
        let mut state = self.shuffle.state.lock();
        if state.written.contains(&owner) {
            state.fix(owner);
            return;
        }
        let Some(bytes) = self.attempts.get(&owner).map(|attempt| attempt.bytes) else {
            return;
        };
        if !state.deleted && state.unwritable.insert(owner) {
            state.unwritten = state.unwritten.saturating_sub(1);
            state.unwritten_bytes = state.unwritten_bytes.saturating_sub(bytes);
        }
    }

    /// [`Sealed::record`] and the like on a thread that may block. `Unavailable` when the disk does
    /// not answer; what was to be done may follow all the same.
    pub async fn patiently<T: Send + 'static>(
        self: &Arc<Self>,
        call: impl FnOnce(&Self) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (this, shared) = (self.clone(), self.shared.clone());
        let (reply, receiver) = oneshot::channel();
        tokio::task::spawn_blocking(move || {
            let _ = reply.send(call(&this));
        });
        shared.patiently(receiver).await?
    }

    /// Records that the attempts of a manifest that is in the store are there; answers the bytes of
    /// those that were not before. `Fenced` if the shuffle was deleted meanwhile. Blocking.
    pub fn record(&self, made: Made) -> Result<u64, Error> {
        let Made {
            generation,
            objects,
            attempts,
            replaces,
        } = made;
        let (shared, shuffle) = (&self.shared, &self.shuffle);
        let _gate = shared.gate.lock();
        let bytes: u64 = {
            let state = shuffle.state.lock();
            if state.deleted {
                return Err(shuffle.fenced());
            }
            let committed = attempts.iter().filter_map(|owner| state.commits.get(owner));
            committed.map(|committed| committed.bytes).sum()
        };
        let record = Record::Written(Written {
            objects,
            bytes,
            attempts: attempts.clone(),
        });
        let mut changes = Changes::default();
        let key = Key::Written(shuffle.app_no, shuffle.id, generation);
        changes.put(key, &record);
        for replaced in &replaces {
            changes.delete(Key::Written(shuffle.app_no, shuffle.id, *replaced));
        }
        // Synced, with all that was written before: a power cut must not forget this and keep what
        // is reclaimed because of it.
        let written = shared.index.write(&changes, true).map_err(Error::Index);
        if let Err(error) = written {
            shared.note(&error);
            if !shared.is_broken() {
                return Err(error);
            }
            // What was saved from a broken disk is served from the store. A later start that can
            // read the index finds the manifest again, as after a crash at this point.
            tracing::debug!(volume = %shared.id, %error, "written back without a record");
        }
        let mut state = shuffle.state.lock();
        state.generation = state.generation.max(generation);
        state.written_at = shared.millis();
        let mut added = 0;
        for &owner in &attempts {
            let bytes = state.commits.get(&owner).map(|committed| committed.bytes);
            if let Some(bytes) = bytes
                && state.written.insert(owner)
            {
                added += bytes;
                if !state.unwritable.remove(&owner) {
                    state.unwritten = state.unwritten.saturating_sub(1);
                    state.unwritten_bytes = state.unwritten_bytes.saturating_sub(bytes);
                }
            }
        }
        for replaced in &replaces {
            state.generations.remove(replaced);
        }
        let made = Generation {
            fixed: attempts.iter().any(|owner| state.reclaimed.contains(owner)),
            attempts,
            bytes,
        };
        state.generations.insert(generation, made);
        // What is left was committed after the seal, unless that left something.
        if !self.partial {
            state.unwritten_since = state.unwritten_since.max(self.sealed_at);
        }
        Ok(added)
    }
}
