//! The *warden*: a thread per volume that never touches the disk, so that it can say of a disk that
//! hangs that it does. Who touches it to have a look is a thread of its own, which may hang with
//! it, and knows the [`Disk`] but not the volume: nothing waits for it.
//!
//! Owns the looking; the states are `state::health`'s, what is concluded from errors is in
//! `state::conclusions`.

use std::{
    path::Path,
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
};

use crate::staging::{
    disk::{Disk, Place, trouble::Trouble},
    state::{
        health::{Found, gone, trouble_of},
        shared::Shared,
    },
    words::Health,
};

// === impl Shared ===

impl Shared {
    /// Until the other end of `over` is dropped.
    pub(super) fn guard(&self, over: &Receiver<()>) {
        let period = self.options.probe.min(self.disk.watch.patience() / 4);
        while over.recv_timeout(period) == Err(RecvTimeoutError::Timeout) {
            self.look_round();
        }
    }

    fn look_round(&self) {
        let overdue = self.disk.watch.overdue().is_some();
        let hung = self.check_hung();
        let found = self.disk_health.look.found.lock().take();
        match found {
            Some(Found::Gone(reason)) => self.worsen(Health::removed(reason)),
            Some(Found::ReadOnly) => self.worsen(Health::read_only("it is mounted read-only")),
            Some(Found::Failed(error)) => match trouble_of(&error) {
                Some(Trouble::ReadOnly) => self.worsen(Health::read_only(&error)),
                Some(Trouble::Removed) => self.worsen(Health::removed(&error)),
                Some(Trouble::Failing | Trouble::Other) => self.worsen(Health::failing(&error)),
                // Full is the writer's to find out: it knows how much it needs.
                Some(Trouble::Full | Trouble::Files | Trouble::None) | None => {}
            },
            Some(Found::Quick) if !overdue => {
                self.recover(|health| matches!(health, Health::Slow(_)));
            }
            Some(Found::Quick | Found::Well) | None => {}
        }
        if hung {
            self.relieve_others();
        }
        if !self.is_broken() && !self.disk_health.look.running.swap(true, Ordering::AcqRel) {
            self.start_look();
        }
    }

    /// Does the writer's part while it hangs: refuses waiting commits, so that they go to another
    /// server, and frees memory, which all volumes share.
    fn relieve_others(&self) {
        for request in self.more_requests() {
            request.refuse(self.unavailable());
        }
        while self.budget.pressed() && !self.budget.relieved() {
            // Neither needs the disk.
            if !self.evict_one() && !self.drop_logged(false) {
                break;
            }
        }
    }

    fn start_look(&self) {
        let (disk, dir) = (self.disk.clone(), self.dir.clone());
        let (place, look, write) = (
            self.disk_health.place,
            self.disk_health.look.clone(),
            self.is_slow(),
        );
        let started = std::thread::Builder::new()
            .name("forebay-look".into())
            .spawn(move || {
                let found = look_at(&disk, &dir, place, &look.free, write);
                *look.found.lock() = Some(found);
                look.running.store(false, Ordering::Release);
            });
        if started.is_err() {
            // No thread to be had: the next round tries again.
            self.disk_health
                .look
                .running
                .store(false, Ordering::Release);
        }
    }
}

/// Touches the disk, and so may take for ever.
fn look_at(disk: &Disk, dir: &Path, place: Place, free: &AtomicU64, write: bool) -> Found {
    if let Some(reason) = gone(disk, dir, place) {
        return Found::Gone(reason);
    }
    match disk.space(dir) {
        Ok(space) if space.read_only => return Found::ReadOnly,
        Ok(space) => free.store(space.free, Ordering::Relaxed),
        Err(error) => return Found::Failed(error),
    }
    if !write {
        return Found::Well;
    }
    let begun = disk.watch.now();
    match disk.try_write(&dir.join("probe-slow"), true) {
        Ok(()) if disk.watch.now() - begun < disk.watch.patience() / 4 => Found::Quick,
        Ok(()) => Found::Well,
        Err(error) => Found::Failed(error),
    }
}
