//! Staging: what executors push is held in memory, put into files of local disks, and served again.
//!
//! Owns volumes: data directories with segments, commit logs and an index. Does not own the
//! network, tokens or leases; `service` calls [`Volume::open_attempt`], [`AttemptWriter`] and
//! [`Volume::fetch`], `registry` calls the app and deletion calls.
//!
//! ```text
//! append ─▶ memory ──commit──▶ commit log ──quiet, pressure──▶ run in a segment
//!              │  └──────commit of enough bytes───────────────▶│
//!              └────────────────────pressure──────────────────▶│
//! ```
//!
//! The folders are floors. What stands on the left may use what stands to the right of it, and
//! never the other way round:
//!
//! ```text
//! volume ─▶ recover ─▶ seal, reclaim, warden, write, read ─▶ state ─▶ files ─▶ options ─▶ disk
//! ```
//!
//! `write` is the way in, `read` the way out, `state` what this process knows, `files` what outlives
//! it, `disk` the calls of the file system. `error` and `words` are the ground under all of them. This
//! file only passes on what others call.
//!
//! One thread per volume, the *writer*, moves bytes to disk; everything else reads snapshots. What
//! survives a crash of the process: every attempt whose commit was answered at [`Durability::Disk`]
//! or above. What survives a power cut: those at [`Durability::Fsync`].
//!
//! - invariant: bytes-before-index. A record in the index names only bytes that are written
//!   already.
//! - invariant: whole-attempt-or-none. An attempt is in the commit map with totals that were
//!   compared with its blocks, or not.
//! - invariant: acked-is-kept. A write that fails is reported to those who wait for it; what was
//!   acknowledged stays where it is.
//! - invariant: unknown-is-never-empty. A shuffle that is not known, or deleted, is
//!   [`Error::Lost`].

mod disk;
mod error;
pub(crate) mod files;
mod options;
mod read;
mod reclaim;
mod recover;
mod seal;
mod state;
mod volume;
mod warden;
mod words;
mod write;

#[cfg(test)]
pub(crate) mod tests;

pub use disk::operation::{Faults, Operation};
pub use error::Error;
pub use options::{Components, DirectIo, Observer, Options};
pub use read::{cursor::Cursor, fetch::Fetch, part::FetchPart, reader::Unanswered};
pub use seal::{Made, Placement, Sealed, Unwritten};
pub use state::{
    shared::READS,
    stats::{Stats, StatsSnapshot},
    usage::Usage,
};
pub use volume::{Volume, ground::check_ground, started::Started};
pub use words::{AppRecord, AttemptKey, Durability, Health, Receipt};
pub use write::{attempt::AttemptWriter, open::Opened};
