//! What a volume concludes of its disk from errors and from calls that do not come back. The states
//! are [`super::health`]'s.

use std::sync::atomic::Ordering;

use tokio::sync::oneshot;

use crate::{
    index::{AppNo, Changes, keys::Key},
    staging::{
        disk::trouble::{Trouble, trouble},
        error::Error,
        state::{
            health::{
                ANSWER_POLL_INTERVAL, BROKEN, FULL, LITTLE, SLOW, conclude_index, gone, trouble_of,
            },
            shared::Shared,
        },
        words::Health,
    },
};

/// So many times is a full volume asked for space before what waits for it is sent elsewhere.
const FULL_FOR: u32 = 3;

// === impl Shared ===

impl Shared {
    pub(crate) fn health(&self) -> Health {
        self.disk_health.health.lock().clone()
    }

    /// For calls that need a volume that writes.
    pub(crate) fn check_health(&self) -> Result<(), Error> {
        match self.disk_health.rank() {
            0 => self.check_running(),
            _ => Err(self.unavailable()),
        }
    }

    /// For blocks of attempts that were begun when it was well: a full disk may have space again
    /// before they are committed.
    pub(crate) fn check_answers(&self) -> Result<(), Error> {
        match self.disk_health.rank() {
            0..SLOW => Ok(()),
            _ => Err(self.unavailable()),
        }
    }

    /// For what waits to be sent, see `Volume::check_waits`.
    pub(crate) fn check_waits(&self) -> Result<(), Error> {
        self.check_answers()?;
        let since = *self.disk_health.full_since.lock();
        let patience = FULL_FOR * self.options.probe;
        match since {
            Some(since) if self.is_full() && self.disk.watch.now() - since >= patience => {
                Err(self.unavailable())
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.disk_health.rank() == FULL
    }

    pub(crate) fn is_slow(&self) -> bool {
        self.disk_health.rank() == SLOW
    }

    /// Whether waiting for the disk is of no use: also of one that has failed before. A call that
    /// is overdue makes the volume `slow`.
    pub(crate) fn check_hung(&self) -> bool {
        if let Some(call) = self.disk.watch.overdue() {
            self.worsen(Health::Slow(call.to_string()));
            return true;
        }
        self.is_slow()
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.disk_health.rank() >= BROKEN
    }

    pub(crate) fn unavailable(&self) -> Error {
        let health = self.health();
        let reason = match health.reason() {
            Some(reason) => format!("is {}: {reason}", health.state()),
            None => "is closing".into(),
        };
        Error::Unavailable {
            volume: self.id,
            reason,
        }
    }

    /// Draws conclusions from an error of the writer's.
    pub(crate) fn note(&self, error: &Error) {
        if let Some(health) = self.conclude(error) {
            let full = matches!(health, Health::Full(_));
            if full {
                self.make_room_for_index();
            }
            self.worsen(health);
            if full {
                self.trash.space_is_short();
            }
        }
    }

    /// Draws conclusions from an error of a write of `bytes`.
    pub(crate) fn note_write(&self, error: &Error, bytes: u64) {
        if trouble_of(error) == Some(Trouble::Full) {
            self.disk_health.wanted.fetch_max(bytes, Ordering::Relaxed);
        }
        self.note(error);
    }

    /// Gives the ballast up, unless it is only the settings that allow no more.
    fn make_room_for_index(&self) {
        let free = self.disk.space(&self.dir).map_or(0, |space| space.free);
        if free < self.ballast.size().max(LITTLE) && self.ballast.give_up(&self.disk) {
            tracing::debug!(volume = %self.id, free, "the ballast is given up for the index");
        }
    }

    /// Draws conclusions from an error of a read: most are about one file, and say nothing of the
    /// others.
    pub(crate) fn note_read(&self, error: &Error) {
        let Error::Io { source, .. } = error else {
            return;
        };
        match trouble(source) {
            Trouble::Failing | Trouble::Removed => self.note(error),
            Trouble::Other => {
                if let Some(health) = self.gone() {
                    self.worsen(health);
                }
            }
            Trouble::None | Trouble::Files | Trouble::Full | Trouble::ReadOnly => {}
        }
    }

    fn conclude(&self, error: &Error) -> Option<Health> {
        if let Error::Index(_) = error {
            return Some(self.conclude_index(error));
        }
        let found = trouble_of(error)?;
        Some(match found {
            Trouble::None => return None,
            Trouble::Files => Health::out_of_files(error),
            Trouble::Full => Health::full(error),
            Trouble::ReadOnly => Health::read_only(error),
            Trouble::Removed => Health::removed(error),
            Trouble::Failing | Trouble::Other => {
                self.gone().unwrap_or_else(|| Health::failing(error))
            }
        })
    }

    /// The index gives words and no number, so the disk is asked what it is.
    fn conclude_index(&self, error: &Error) -> Health {
        if let Some(gone) = self.gone() {
            return gone;
        }
        let _alone = self.disk_health.probing.lock();
        conclude_index(&self.disk, &self.dir, error)
    }

    /// Whether the index takes writes: after one that failed RocksDB refuses all, until it has
    /// found its way back by itself.
    pub(crate) fn try_index(&self) -> Result<(), Error> {
        let mut nothing = Changes::default();
        nothing.delete(Key::App(AppNo(u32::MAX)));
        Ok(self.index.write(&nothing, false)?)
    }

    /// `Removed`, if the volume's path leads to another directory than at the start, or to none.
    fn gone(&self) -> Option<Health> {
        let reason = gone(&self.disk, &self.dir, self.disk_health.place)?;
        Some(Health::removed(reason))
    }

    /// To a worse state; anything else is no news.
    pub(crate) fn worsen(&self, new: Health) {
        let mut health = self.disk_health.health.lock();
        if new.rank() <= health.rank() {
            return;
        }
        let (state, reason) = (new.state(), new.reason().unwrap_or_default());
        if new.is_broken() {
            tracing::error!(volume = %self.id, state, reason, "volume is out of service");
        } else {
            tracing::warn!(volume = %self.id, state, reason, "volume takes no new attempts for now");
        }
        if matches!(new, Health::Full(_)) {
            *self.disk_health.full_since.lock() = Some(self.disk.watch.now());
        }
        self.disk_health.rank.store(new.rank(), Ordering::Relaxed);
        *health = new;
        drop(health);
        // The writer is who asks a full disk for space.
        self.wake();
    }

    /// Makes the volume `ok` again if its state passes by itself and `from` accepts it; a worse
    /// state stays.
    pub(crate) fn recover(&self, from: impl Fn(&Health) -> bool) {
        let mut health = self.disk_health.health.lock();
        if !health.is_broken() && from(&health) {
            tracing::info!(volume = %self.id, was = health.state(), "volume takes new attempts again");
            self.disk_health.wanted.store(0, Ordering::Relaxed);
            self.disk_health.rank.store(0, Ordering::Relaxed);
            *health = Health::Ok;
            drop(health);
            // Somebody may wait for what could not be done.
            self.wake();
        }
    }

    /// Waits for what another thread does with the disk, for as long as the disk answers.
    pub(crate) async fn patiently<T>(&self, mut reply: oneshot::Receiver<T>) -> Result<T, Error> {
        loop {
            match tokio::time::timeout(ANSWER_POLL_INTERVAL, &mut reply).await {
                Ok(answer) => return answer.map_err(|_| self.unavailable()),
                Err(_) if self.check_hung() => return Err(self.unavailable()),
                Err(_) => {}
            }
        }
    }
}
