//! One shuffle's round: a generation is sealed, uploaded and recorded; failures are paused or
//! reported.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use shuffle_remote::{Owner, Place, keys};

use super::{Key, WriteBack, committer, uploader, uploader::Error};
use crate::{
    registry::Standing,
    staging::{Sealed, Volume},
};

/// Pause after a failed round; doubled after every further failure, up to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Longest pause during a drain: a store that comes back must find the server trying.
const LONGEST_DRAIN_PAUSE: Duration = Duration::from_secs(1);

/// One shuffle's turn.
pub(super) struct Turn {
    pub(super) volume: Volume,
    pub(super) key: Key,
    /// Generations to merge.
    pub(super) merge: Vec<u32>,
    /// Bytes of unwritten attempts in this round; the rest is left for the next one.
    pub(super) most: u64,
    /// Attempts with waiting commits: first in the round, in this order.
    pub(super) first: Vec<Owner>,
}

/// Result of a round, in bytes.
#[derive(Debug)]
pub(super) struct Done {
    /// Bytes of attempts new to the store.
    pub(super) added: u64,
    /// Bytes of merged attempts.
    pub(super) merged: u64,
}

// === impl WriteBack ===

impl WriteBack {
    /// Runs a round to its end.
    pub(super) async fn round(self: Arc<Self>, turn: Turn) {
        let Turn {
            volume, key, merge, ..
        } = &turn;
        let _running = Running(&self, key);
        // The token at the beginning: the app may be gone at the end of the round.
        let token = match self.apps.standing(&key.1) {
            Standing::Live { token, .. } => Some(token),
            Standing::Deleted | Standing::Unknown => None,
        };
        let result = self.try_round(&turn).await;
        let metrics = &self.metrics;
        let (_, app, shuffle) = key;
        match result {
            Ok(None) => {
                // The shuffle or its app was deleted after the pick.
                let until = self.clock.now() + PAUSE;
                self.failed.lock().insert(key.clone(), (0, until));
            }
            Ok(Some(Done { added, merged })) => {
                self.failed.lock().remove(key);
                metrics.rounds.inc();
                metrics.written.inc_by(added);
                metrics.merged.inc_by(merged);
                let requests = self.remote.store.cost(&keys::shuffle(app, *shuffle));
                tracing::info!(%app, %shuffle, volume = %volume.id(), bytes = added, merged, manifests = merge.len(), requests = %requests, "written back");
            }
            // The merge has another turn in a quiet moment.
            Err(Error::InTheWay) => {}
            Err(Error::Before) => {
                let until = self.clock.now() + PAUSE;
                let waits = self.failed.lock().insert(key.clone(), (0, until));
                if waits.is_none() {
                    tracing::warn!(%app, %shuffle, volume = %volume.id(), "write-back, and commits at level object, wait: what an application of this id and token had in the object store is still being removed");
                }
                self.collector.hurry(app);
            }
            Err(Error::Deleted) => {
                if let Some(token) = token {
                    let place = Place {
                        app: app.clone(),
                        shuffle: *shuffle,
                        volume: volume.id(),
                    };
                    self.collector.written_too_late(&place, token);
                }
            }
            Err(Error::Attempts { owners, reason }) => {
                // The next round begins at once, without these attempts.
                if self.is_draining() {
                    self.given_up
                        .fetch_add(owners.len() as u64, Ordering::Relaxed);
                }
                tracing::warn!(%app, %shuffle, volume = %volume.id(), attempts = owners.len(), %reason, "attempts are left out of write-back");
            }
            Err(error) => {
                metrics.failures.inc();
                let now = self.clock.now();
                let mut failed = self.failed.lock();
                let tries = failed.get(key).map_or(0, |(tries, _)| *tries).min(16);
                let longest = match self.is_draining() {
                    true => LONGEST_DRAIN_PAUSE,
                    false => LONGEST_PAUSE,
                };
                let pause = (PAUSE * (1 << tries.min(8))).min(longest);
                failed.insert(key.clone(), (tries + 1, now + pause));
                tracing::warn!(%app, %shuffle, volume = %volume.id(), %error, "write-back failed; nothing is lost, it is tried again in {pause:?}");
            }
        }
    }

    /// Writes one generation, in the place of the merged ones; `None` if there was nothing to do.
    pub(super) async fn try_round(&self, turn: &Turn) -> Result<Option<Done>, Error> {
        let Turn { volume, key, .. } = turn;
        let (_, app, shuffle) = key;
        let Standing::Live { token, lease, .. } = self.apps.standing(app) else {
            return Ok(None);
        };
        let Some(sealed) = volume.seal_some(app, *shuffle, &turn.merge, &turn.first, turn.most)
        else {
            return Ok(None);
        };
        let place = Place {
            app: app.clone(),
            shuffle: *shuffle,
            volume: volume.id(),
        };
        // Before the first object: every object has a lease.
        if !self.collector.ensure(app, token, lease).await?
            || self.collector.is_to_go(app, *shuffle)
        {
            return Err(Error::Before);
        }
        let done = self.write(&place, sealed).await;
        if done.is_err() {
            // A request may have had an effect and no answer.
            self.remote.doubt(&place);
        }
        done
    }

    /// The round's objects, manifest and record.
    async fn write(&self, place: &Place, sealed: Sealed) -> Result<Option<Done>, Error> {
        let (sealed, chain) = match committer::adopt(&self.remote, place, sealed).await? {
            committer::Found::Same(sealed, chain) => (*sealed, chain),
            committer::Found::Adopted(added) => {
                return Ok(Some(Done { added, merged: 0 }));
            }
        };
        let live = |sealed: &Sealed| match sealed.is_live() {
            true => Ok(()),
            false => Err(Error::Deleted),
        };
        match uploader::upload(&self.remote, &self.throttle, place, sealed).await {
            Ok(uploaded) => {
                live(&uploaded.sealed)?;
                let bytes = uploaded.sealed.bytes();
                let chain = chain.as_deref();
                let added = committer::commit(&self.remote, place, chain, uploaded).await?;
                let merged = bytes.saturating_sub(added);
                Ok(Some(Done { added, merged }))
            }
            Err((sealed, error)) => {
                live(&sealed)?;
                if let Error::Attempts { owners, .. } = &error {
                    owners.iter().for_each(|owner| sealed.give_up(*owner));
                }
                Err(error)
            }
        }
    }
}

/// Clears the running mark of a round on every way out.
struct Running<'a>(&'a WriteBack, &'a Key);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.lock().remove(self.1);
        self.0.awaited.look_again();
    }
}
