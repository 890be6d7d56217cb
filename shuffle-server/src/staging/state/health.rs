//! The states of a volume, and which error of its disk leads to which.
//!
//! ```text
//! ok ◀──▶ full ──▶ slow ──▶ read-only ──▶ failed ──▶ removed
//!  ▲                │
//!  └── it is quick ─┘
//! ```
//!
//! A state gives way to those on its right only; `full` and `slow` pass by themselves. The others
//! stay until the server is started again: a write that succeeds after one that failed does not say
//! that the one before it is there.

use std::{
    fmt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::staging::{
    disk::{
        Disk, Place,
        operation::SYNC,
        trouble::{Trouble, trouble},
    },
    error::Error,
    words::Health,
};

/// How often a call of an async task looks whether the disk still answers.
pub(crate) const ANSWER_POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Space that is as good as none.
pub(crate) const LITTLE: u64 = 4 << 20;

/// What a volume knows of its disk.
pub(crate) struct DiskHealth {
    pub(crate) health: Mutex<Health>,
    /// The rank of it, for a glance.
    pub(crate) rank: AtomicU8,
    /// When it became full.
    pub(crate) full_since: Mutex<Option<Instant>>,
    /// Bytes of the largest write for which there was no space.
    pub(crate) wanted: AtomicU64,
    /// Held by the one thread that probes the disk.
    pub(crate) probing: Mutex<()>,
    /// Which directory it was when it was opened.
    pub(crate) place: Place,
    pub(crate) look: Arc<Look>,
}

/// What a look at the disk has found; shared with the thread that looks.
pub(crate) struct Look {
    pub(crate) running: AtomicBool,
    /// Bytes that the file system has left.
    pub(crate) free: AtomicU64,
    pub(crate) found: Mutex<Option<Found>>,
}

/// How a look ended.
pub(crate) enum Found {
    /// The directory is there.
    Well,
    /// The directory is there, and takes a write and a sync in decent time.
    Quick,
    /// Something else is at its path, or nothing.
    Gone(String),
    /// Mounted read-only.
    ReadOnly,
    /// The directory could not be looked at or written to.
    Failed(Error),
}

// === impl Health ===

impl Health {
    /// The words for all states, in the order of their rank.
    pub const STATES: [&'static str; 6] = ["ok", "full", "slow", "read-only", "failed", "removed"];

    /// The state's word in logs, metrics and JSON.
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

    pub(crate) fn full(error: impl fmt::Display) -> Self {
        Health::Full(format!(
            "{error}; it takes attempts again by itself when there is space: free some, or add a disk or a server"
        ))
    }

    /// Nothing is wrong with the disk, but what is taken could not be kept either.
    pub(crate) fn out_of_files(error: &Error) -> Self {
        Health::Full(format!(
            "{error}; this process has no files left, and it takes attempts again by itself when it has: raise its limit of open files \
             (ulimit -n, LimitNOFILE), or add a server"
        ))
    }

    pub(crate) fn read_only(error: impl fmt::Display) -> Self {
        Health::ReadOnly(format!(
            "{error}; its file system takes no writes, what it has is still served: look at the kernel's log, check the file system, mount \
             it writable and start the server again"
        ))
    }

    pub(crate) fn failing(error: impl fmt::Display) -> Self {
        Health::Failed(format!(
            "{error}; what can be read is still served: look at the kernel's log and at the device, then start the server again, without \
             this data directory if the device is broken"
        ))
    }

    pub(crate) fn removed(error: impl fmt::Display) -> Self {
        Health::Removed(format!(
            "{error}; what lay there is lost unless it is in the object store: bring the directory or its device back, or take it out of \
             data-dir, and start the server again"
        ))
    }

    pub(crate) fn rank(&self) -> u8 {
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

pub(crate) const FULL: u8 = 1;
pub(crate) const SLOW: u8 = 2;
pub(crate) const BROKEN: u8 = 3;

// === impl DiskHealth ===

impl DiskHealth {
    pub(crate) fn new(place: Place, free: u64) -> Self {
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

    pub(crate) fn rank(&self) -> u8 {
        self.rank.load(Ordering::Relaxed)
    }

    /// Bytes of the largest write for which there was no space since the volume was well.
    pub(crate) fn wanted(&self) -> u64 {
        self.wanted.load(Ordering::Relaxed)
    }

    /// Bytes that the file system had left when it was last looked at.
    pub(crate) fn free(&self) -> u64 {
        self.look.free.load(Ordering::Relaxed)
    }
}

pub(crate) fn conclude_index(disk: &Disk, dir: &Path, error: &Error) -> Health {
    // After a write for which there was no space RocksDB refuses all, with that error, until it has
    // looked for space again.
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
pub(crate) fn at_start(disk: &Disk, dir: &Path, error: &Error) -> Health {
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
pub(crate) fn trouble_of(error: &Error) -> Option<Trouble> {
    let Error::Io {
        operation, source, ..
    } = error
    else {
        return None;
    };
    Some(match trouble(source) {
        // The kernel tells of pages that it could not write once, and then drops them: the next
        // sync succeeds, and they are nowhere.
        Trouble::None | Trouble::Full if *operation == SYNC => Trouble::Failing,
        other => other,
    })
}

/// Why the path does not lead to the volume any more.
pub(crate) fn gone(disk: &Disk, dir: &Path, place: Place) -> Option<String> {
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
