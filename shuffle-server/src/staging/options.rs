//! What a person can set of a volume, and the parts that a volume is given.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use crate::{
    budget::Budget,
    clock::{Clock, SystemClock},
    staging::{disk::operation::Faults, words::Durability},
};

/// Whether runs are written past the page cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DirectIo {
    /// Through the page cache while what the volume holds fits into half of the memory that is free
    /// for it, past it from then on.
    ///
    /// Shuffle data is usually read within minutes. Read from the page cache it costs 1.3 times raw
    /// TCP, from the device 1.7, and that outweighs what O_DIRECT saves in writing (1.6 against
    /// 2.0). Data that cannot stay in the page cache has no such gain.
    #[default]
    Auto,
    /// Always, where the file system takes it.
    On,
    /// Never.
    Off,
}

/// Settings of a volume.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether runs are written past the page cache.
    pub direct_io: DirectIo,
    /// How long a shuffle must not be written to before what it has in the commit log is sorted
    /// into a run.
    pub quiet: Duration,
    /// Largest run, unless its partitions need a larger one for extents of 64 KiB.
    pub max_run: u64,
    /// Size at which a segment file is closed and the next begun.
    pub max_segment: u64,
    /// Size at which a commit log is closed and the next begun.
    pub max_log: u64,
    /// Bytes per partition from which a commit is written as a run and not to the commit log.
    ///
    /// At 32 KiB an extent is read from a cold disk at half the device's speed, and the 16 bytes of
    /// its directory entry are nothing beside it. A commit under that is cheaper twice: once to the
    /// log, once in a larger run.
    pub min_extent: u64,
    /// How often a full volume is asked whether it has space again, and the disk is looked at.
    pub probe: Duration,
    /// How long one call of the file system may take before the volume is called slow.
    pub slow: Duration,
    /// Bytes that segments and commit logs may take, by the volume's own account; `None`: what the
    /// file system has.
    ///
    /// What is committed already may go over it while it moves from a commit log into a run.
    pub limit: Option<u64>,
    /// Bytes that are kept for the index, so that deletions can be written down on a disk that is
    /// full. Less on a small disk: an eighth.
    pub ballast: u64,
}

/// The parts of a volume that tests, or other volumes, share or exchange.
#[derive(Clone)]
pub struct Components {
    /// Memory of pushed bytes, shared by the server's volumes.
    pub budget: Budget,
    /// Where time is read from.
    pub clock: Arc<dyn Clock>,
    /// Hears how long things took.
    pub observer: Arc<dyn Observer>,
    /// Decides whether the next call of the disk fails; for tests.
    pub faults: Option<Arc<dyn Faults>>,
}

/// Hears how long things took, for histograms. Called from the writer thread; must not block.
pub trait Observer: Send + Sync {
    /// A commit was answered this long after it was asked for.
    fn committed(&self, durability: Durability, took: Duration) {
        let _ = (durability, took);
    }

    /// A run of this many bytes was written.
    fn flushed(&self, bytes: u64, took: Duration) {
        let _ = (bytes, took);
    }
}

impl Observer for () {}

impl Default for Options {
    fn default() -> Self {
        Self {
            direct_io: DirectIo::Auto,
            quiet: Duration::from_secs(5),
            max_run: 256 << 20,
            max_segment: 1 << 30,
            max_log: 256 << 20,
            min_extent: 32 << 10,
            probe: Duration::from_secs(1),
            slow: Duration::from_secs(10),
            limit: None,
            ballast: 64 << 20,
        }
    }
}

impl Components {
    /// The real parts, with this budget.
    pub fn new(budget: Budget) -> Self {
        Self {
            budget,
            clock: Arc::new(SystemClock),
            observer: Arc::new(()),
            faults: None,
        }
    }
}

impl FromStr for DirectIo {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(DirectIo::Auto),
            "on" => Ok(DirectIo::On),
            "off" => Ok(DirectIo::Off),
            other => Err(format!("{other:?} is not one of auto, on, off")),
        }
    }
}

impl fmt::Display for DirectIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DirectIo::Auto => "auto",
            DirectIo::On => "on",
            DirectIo::Off => "off",
        })
    }
}
