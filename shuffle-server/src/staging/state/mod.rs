//! What this process knows of a volume: its apps and shuffles, what is in memory and in which file,
//! how its disk is, who waits.
//!
//! Owns the locks, whose order [`shared`] states. Writes and reads no data: that is `write`'s and
//! `read`'s. Nothing here survives a crash; a start makes it again from the index and the files
//! (`recover`).

pub(crate) mod batch;
pub(crate) mod conclusions;
pub(crate) mod health;
pub(crate) mod names;
pub(crate) mod pool;
pub(crate) mod queue;
pub(crate) mod run;
pub(crate) mod shared;
pub(crate) mod shuffle;
pub(crate) mod stats;
pub(crate) mod tombstones;
pub(crate) mod trash;
pub(crate) mod usage;
