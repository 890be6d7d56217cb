//! Counters of a volume, as plain numbers: `metrics` gives them names.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counters since the volume was opened.
        #[derive(Debug, Default)]
        pub struct Stats {
            $($(#[$doc])* pub(crate) $name: AtomicU64,)*
        }

        /// [`Stats`] at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct StatsSnapshot {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Stats {
            /// Values of all counters at this moment.
            pub fn snapshot(&self) -> StatsSnapshot {
                StatsSnapshot { $($name: self.$name.load(Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Bytes that were pushed.
    appended_bytes,
    /// Blocks that were pushed.
    appended_blocks,
    /// Attempts that were committed.
    commits,
    /// Commits that were refused or failed.
    failed_commits,
    /// Groups in which commits reached the disk.
    commit_groups,
    /// Attempts that ended without a commit.
    aborts,
    /// Runs that were written.
    runs,
    /// Bytes of them, tables included.
    run_bytes,
    /// Runs that were written past the page cache.
    direct_runs,
    /// Runs that were written because memory was needed.
    pressure_runs,
    /// Runs that were written from the commit log, because a shuffle had gone quiet or what it had
    /// filled a run.
    settled_runs,
    /// Bytes that were appended to commit logs.
    log_bytes,
    /// Syncs of segments and commit logs.
    syncs,
    /// Bytes that were dropped from memory after they had been flushed.
    evicted_bytes,
    /// Bytes that fetches served from memory.
    read_memory_bytes,
    /// Bytes that fetches read from files.
    read_disk_bytes,
    /// Runs and log records that could not be read.
    read_failures,
    /// Bytes of shuffles that were deleted.
    deleted_bytes,
    /// Bytes of them that had not been written back, and need not be any more.
    saved_bytes,
    /// Bytes of attempts without a commit whose space was given back before their shuffle went.
    aborted_bytes,
    /// Bytes of local copies that were removed because the object store has them.
    reclaimed_bytes,
}

impl Stats {
    pub(crate) fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Relaxed);
    }
}
