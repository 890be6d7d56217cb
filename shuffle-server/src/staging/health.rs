//! The state of a volume: what is concluded from errors, from calls that do not come back, and from looking at the directory.
//!
//! ```text
//! ok ◀──▶ full ──▶ slow ──▶ read-only ──▶ failed ──▶ removed
//!  ▲                │
//!  └── it is quick ─┘
//! ```
//!
//! A state gives way to those on its right only; `full` and `slow` pass by themselves. The others stay until the server is started
//! again: a write that succeeds after one that failed does not say that the one before it is there.
//!
//! The *warden*, a thread per volume, never touches the disk, so that it can say of a disk that hangs that it does. Who touches it to
//! have a look is a thread of its own, which may hang with it, and knows the [`Disk`] but not the volume: nothing waits for it.

use std::{
    fmt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{
    Error, Health,
    disk::{Disk, Place, SYNC, Trouble, trouble},
    shared::Shared,
};
use crate::index::{AppNo, Batch as Changes, keys::Key};

/// How often a call of an async task looks whether the disk still answers.
pub(super) const GLANCE: Duration = Duration::from_millis(100);
/// Space that is as good as none.
const LITTLE: u64 = 4 << 20;

/// What a volume knows of its disk.
pub(super) struct Standing {
    health: Mutex<Health>,
    /// The rank of it, for a glance.
    rank: AtomicU8,
    /// When it became full.
    full_since: Mutex<Option<Instant>>,
    /// Bytes of the largest write for which there was no space.
    wanted: AtomicU64,
    /// Who tries what the disk does does it alone.
    probing: Mutex<()>,
    /// Which directory it was when it was opened.
    place: Place,
    look: Arc<Look>,
}

/// What a look at the disk has found; shared with the thread that looks.
struct Look {
    running: AtomicBool,
    /// Bytes that the file system has left.
    free: AtomicU64,
    found: Mutex<Option<Found>>,
}

/// How a look ended.
enum Found {
    /// It is there.
    Well,
    /// And takes a write and a sync in decent time.
    Quick,
    /// Something else is at its path, or nothing.
    Gone(String),
    /// Mounted read-only.
    ReadOnly,
    /// It could not be written to.
    Failed(Error),
}

// === impl Health ===

impl Health {
    /// The words for all states, in the order of their rank.
    pub const STATES: [&'static str; 6] = ["ok", "full", "slow", "read-only", "failed", "removed"];

    /// Its word.
    pub fn state(&self) -> &'static str {
        Self::STATES[usize::from(self.rank())]
    }

    /// Why, and what a person can do.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Health::Ok => None,
            Health::Full(reason)
            | Health::Slow(reason)
            | Health::ReadOnly(reason)
            | Health::Failed(reason)
            | Health::Removed(reason) => Some(reason),
        }
    }

    /// Whether it stays so until the server is started again.
    pub fn is_broken(&self) -> bool {
        self.rank() >= BROKEN
    }

    pub(super) fn full(error: impl fmt::Display) -> Self {
        Health::Full(format!(
            "{error}; it takes attempts again by itself when there is space: free some, or add a disk or a server"
        ))
    }

    /// Nothing is wrong with the disk, but what is taken could not be kept either.
    fn out_of_files(error: &Error) -> Self {
        Health::Full(format!(
            "{error}; this process has no files left, and it takes attempts again by itself when it has: raise its limit of open files \
             (ulimit -n, LimitNOFILE), or add a server"
        ))
    }

    fn read_only(error: impl fmt::Display) -> Self {
        Health::ReadOnly(format!(
            "{error}; its file system takes no writes, what it has is still served: look at the kernel's log, check the file system, mount \
             it writable and start the server again"
        ))
    }

    pub(super) fn failing(error: impl fmt::Display) -> Self {
        Health::Failed(format!(
            "{error}; what can be read is still served: look at the kernel's log and at the device, then start the server again, without \
             this data directory if the device is broken"
        ))
    }

    fn removed(error: impl fmt::Display) -> Self {
        Health::Removed(format!(
            "{error}; what lay there is lost unless it is in the object store: bring the directory or its device back, or take it out of \
             data-dir, and start the server again"
        ))
    }

    fn rank(&self) -> u8 {
        match self {
            Health::Ok => 0,
            Health::Full(_) => FULL,
            Health::Slow(_) => SLOW,
            Health::ReadOnly(_) => BROKEN,
            Health::Failed(_) => 4,
            Health::Removed(_) => 5,
        }
    }
}

const FULL: u8 = 1;
const SLOW: u8 = 2;
const BROKEN: u8 = 3;
/// So many times is a full volume asked for space before what waits for it is sent elsewhere.
const FULL_FOR: u32 = 3;

// === impl Standing ===

impl Standing {
    pub(super) fn new(place: Place, free: u64) -> Self {
        Self {
            health: Mutex::new(Health::Ok),
            rank: AtomicU8::new(0),
            full_since: Mutex::default(),
            wanted: AtomicU64::new(0),
            probing: Mutex::default(),
            place,
            look: Arc::new(Look {
                running: AtomicBool::new(false),
                free: AtomicU64::new(free),
                found: Mutex::default(),
            }),
        }
    }

    fn rank(&self) -> u8 {
        self.rank.load(Ordering::Relaxed)
    }

    /// Bytes of the largest write for which there was no space since the volume was well.
    pub(super) fn wanted(&self) -> u64 {
        self.wanted.load(Ordering::Relaxed)
    }

    /// Bytes that the file system had left when it was last looked at.
    pub(super) fn free(&self) -> u64 {
        self.look.free.load(Ordering::Relaxed)
    }
}

// === impl Shared ===

impl Shared {
    pub(super) fn health(&self) -> Health {
        self.standing.health.lock().clone()
    }

    /// For calls that need a volume that writes.
    pub(super) fn check_health(&self) -> Result<(), Error> {
        match self.standing.rank() {
            0 => self.check_running(),
            _ => Err(self.unavailable()),
        }
    }

    /// For blocks of attempts that were begun when it was well: a full disk may have space again before they are committed.
    pub(super) fn check_answers(&self) -> Result<(), Error> {
        match self.standing.rank() {
            0..SLOW => Ok(()),
            _ => Err(self.unavailable()),
        }
    }

    /// For what waits to be sent, see [`super::Volume::check_waits`].
    pub(super) fn check_waits(&self) -> Result<(), Error> {
        self.check_answers()?;
        let since = *self.standing.full_since.lock();
        let patience = FULL_FOR * self.options.probe;
        match since {
            Some(since) if self.is_full() && self.disk.watch.now() - since >= patience => {
                Err(self.unavailable())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.standing.rank() == FULL
    }

    pub(super) fn is_slow(&self) -> bool {
        self.standing.rank() == SLOW
    }

    /// Whether waiting for the disk is of no use: also of one that has failed before.
    pub(super) fn hangs(&self) -> bool {
        if let Some(call) = self.disk.watch.overdue() {
            self.worsen(Health::Slow(call.to_string()));
            return true;
        }
        self.is_slow()
    }

    pub(super) fn is_broken(&self) -> bool {
        self.standing.rank() >= BROKEN
    }

    pub(super) fn unavailable(&self) -> Error {
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
    pub(super) fn note(&self, error: &Error) {
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

    /// The same of a write of so many bytes.
    pub(super) fn note_write(&self, error: &Error, bytes: u64) {
        if trouble_of(error) == Some(Trouble::Full) {
            self.standing.wanted.fetch_max(bytes, Ordering::Relaxed);
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

    /// Draws conclusions from an error of a read: most are about one file, and say nothing of the others.
    pub(super) fn note_read(&self, error: &Error) {
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
        let _alone = self.standing.probing.lock();
        conclude_index(&self.disk, &self.dir, error)
    }

    /// Whether the index takes writes: after one that failed RocksDB refuses all, until it has found its way back by itself.
    pub(super) fn try_index(&self) -> Result<(), Error> {
        let mut nothing = Changes::default();
        nothing.delete(Key::App(AppNo(u32::MAX)));
        Ok(self.index.write(&nothing, false)?)
    }

    /// That it is removed, if the path leads to another directory than it did, or to none.
    fn gone(&self) -> Option<Health> {
        let reason = gone(&self.disk, &self.dir, self.standing.place)?;
        Some(Health::removed(reason))
    }

    /// To a worse state; anything else is no news.
    pub(super) fn worsen(&self, new: Health) {
        let mut health = self.standing.health.lock();
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
            *self.standing.full_since.lock() = Some(self.disk.watch.now());
        }
        self.standing.rank.store(new.rank(), Ordering::Relaxed);
        *health = new;
        drop(health);
        // The writer is who asks a full disk for space.
        self.wake();
    }

    /// From a state that passes; what has become worse meanwhile stays.
    pub(super) fn recover(&self, from: impl Fn(&Health) -> bool) {
        let mut health = self.standing.health.lock();
        if !health.is_broken() && from(&health) {
            tracing::info!(volume = %self.id, was = health.state(), "volume takes new attempts again");
            self.standing.wanted.store(0, Ordering::Relaxed);
            self.standing.rank.store(0, Ordering::Relaxed);
            *health = Health::Ok;
            drop(health);
            // Somebody may wait for what could not be done.
            self.wake();
        }
    }

    /// Waits for what another thread does with the disk, for as long as the disk answers.
    pub(super) async fn patiently<T>(&self, mut reply: oneshot::Receiver<T>) -> Result<T, Error> {
        loop {
            match tokio::time::timeout(GLANCE, &mut reply).await {
                Ok(answer) => return answer.map_err(|_| self.unavailable()),
                Err(_) if self.hangs() => return Err(self.unavailable()),
                Err(_) => {}
            }
        }
    }

    // --- the warden ---

    /// Until the other end of `over` is dropped.
    pub(super) fn guard(&self, over: &Receiver<()>) {
        let period = self.options.probe.min(self.disk.watch.patience() / 4);
        while over.recv_timeout(period) == Err(RecvTimeoutError::Timeout) {
            self.look_round();
        }
    }

    fn look_round(&self) {
        let overdue = self.disk.watch.overdue().is_some();
        let hangs = self.hangs();
        let found = self.standing.look.found.lock().take();
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
        if hangs {
            self.relieve_others();
        }
        if !self.is_broken() && !self.standing.look.running.swap(true, Ordering::AcqRel) {
            self.start_look();
        }
    }

    /// The writer hangs: what waits for it goes elsewhere, and memory that it would free is freed here. Volumes share it.
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
            self.standing.place,
            self.standing.look.clone(),
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
            self.standing.look.running.store(false, Ordering::Release);
        }
    }
}

fn conclude_index(disk: &Disk, dir: &Path, error: &Error) -> Health {
    // After a write for which there was no space RocksDB refuses all, with that error, until it has looked for space again.
    let no_space = error.to_string().contains("No space");
    let found = match disk.try_write(&dir.join("probe-index"), false) {
        Err(Error::Io { source, .. }) => trouble(&source),
        _ if no_space || disk.space(dir).is_ok_and(|space| space.free < LITTLE) => Trouble::Full,
        _ => Trouble::Failing,
    };
    match found {
        Trouble::Full => Health::full(error),
        Trouble::ReadOnly => Health::read_only(error),
        Trouble::Removed => Health::removed(error),
        Trouble::Files => Health::out_of_files(error),
        Trouble::None | Trouble::Failing | Trouble::Other => Health::failing(error),
    }
}

/// What the state of a volume is whose opening has failed by this.
pub(super) fn at_start(disk: &Disk, dir: &Path, error: &Error) -> Health {
    match trouble_of(error) {
        _ if !dir.join("volume").exists() && !dir.join("index").exists() => Health::removed(error),
        Some(Trouble::ReadOnly) => Health::read_only(error),
        Some(Trouble::Removed) => Health::removed(error),
        Some(Trouble::Full) => Health::full(error),
        Some(Trouble::Files) => Health::out_of_files(error),
        Some(Trouble::None | Trouble::Failing | Trouble::Other) => Health::failing(error),
        None if matches!(error, Error::Index(_)) => conclude_index(disk, dir, error),
        None => Health::failing(error),
    }
}

/// What an error says of the disk, if it is one of the disk's.
fn trouble_of(error: &Error) -> Option<Trouble> {
    let Error::Io {
        operation, source, ..
    } = error
    else {
        return None;
    };
    Some(match trouble(source) {
        // The kernel tells of pages that it could not write once, and then drops them: the next sync succeeds, and they are nowhere.
        Trouble::None | Trouble::Full if *operation == SYNC => Trouble::Failing,
        other => other,
    })
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

/// Why the path does not lead to the volume any more.
fn gone(disk: &Disk, dir: &Path, place: Place) -> Option<String> {
    match disk.place(dir) {
        Ok(now) if now == place => None,
        Ok(_) => Some(format!(
            "{} is another directory now: its file system was unmounted, or another one mounted",
            dir.display()
        )),
        Err(error) => match trouble(&error) {
            Trouble::None => None,
            _ => Some(format!("{} is not there: {error}", dir.display())),
        },
    }
}
