//! The object store: its content, how servers write it, and how servers and clients read it.
//!
//! Owns the layout of keys ([`keys`]), the formats of objects ([`object`]) and manifests
//! ([`manifest`]), the records of leases ([`lease`]) and the one door to the crate `object_store`
//! ([`Store`]). Does not own the decision when to write (the server's `writeback`), nor local disks
//! (the server's `staging`). Block rows and attempt totals are coded by [`shuffle_proto::stored`],
//! so a block has the same description on every tier. Beside them: checks of a store ([`doctor`])
//! and lifecycle rules ([`lifecycle`]), for the operator's tool.
//!
//! The store alone is enough to read the data of a lost volume: the *chain* of the volume's
//! manifests, each made by a conditional put and never changed. A manifest names only objects that
//! were read back and compared before. An object without a manifest does not exist.
//!
//! - invariant: foreign-is-untouched. Everything lies below one directory, [`keys::ROOT`]; the rest
//!   of a bucket is never listed below its first level, and never removed.
//! - invariant: unknown-is-never-empty. A volume without a chain is [`Error::NotFound`], not an
//!   answer without rows.
//! - invariant: verified-before-released. Rows and blocks are compared with their checksums here,
//!   before they are sent, and again by the reader.
#![warn(missing_docs)]

mod advice;
mod chain;
mod costs;
pub mod doctor;
mod fetch;
pub mod keys;
mod known;
pub mod lease;
pub mod lifecycle;
pub mod manifest;
pub mod marker;
mod meter;
pub mod mortal;
pub mod object;
mod secrets;
mod store;

use std::{fmt, ops::Range};

use shuffle_proto::{
    ids::{AppId, ShuffleId, VolumeId},
    kind::Kind,
};

pub use chain::{Chain, Next};
pub use costs::Cost;
pub use fetch::{Cursor, Fetch, Only, Part};
pub use known::{Now, Remote};
pub use meter::{Meter, RESULTS, VERBS};
pub use secrets::shown_url;
pub use shuffle_proto::ids::Owner;
pub use store::{Listing, Store, Upload, Version, check_url, provide_tls};

/// A chain's place: one volume's part of a shuffle.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The application.
    pub app: AppId,
    /// The shuffle.
    pub shuffle: ShuffleId,
    /// The volume.
    pub volume: VolumeId,
}

/// Failure of a request to the store.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// There is no such object.
    #[error("{key} is not in the object store")]
    NotFound {
        /// With the prefix.
        key: String,
    },
    /// The object to be made exists.
    #[error("{key} is in the object store already")]
    Exists {
        /// With the prefix.
        key: String,
    },
    /// The content is damaged.
    #[error("object {key}: {reason}")]
    Corrupt {
        /// With the prefix.
        key: String,
        /// The damage.
        reason: String,
    },
    /// The store failed or cannot be reached.
    #[error("object store: {verb} {key}: {message}")]
    Store {
        /// The operation.
        verb: &'static str,
        /// With the prefix.
        key: String,
        /// The store's words.
        message: String,
    },
    /// The request contradicts the store's content.
    #[error("{0}")]
    Invalid(String),
}

impl Error {
    /// The action for a caller.
    pub fn kind(&self) -> Kind {
        match self {
            Error::NotFound { .. } => Kind::Lost,
            Error::Corrupt { .. } => Kind::Corrupt,
            Error::Exists { .. } | Error::Store { .. } => Kind::Unavailable,
            Error::Invalid(_) => Kind::Invalid,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "app {} shuffle {} volume {}",
            self.app, self.shuffle, self.volume
        )
    }
}

/// Whether two half-open ranges have something in common.
fn overlap(a: &Range<u32>, b: &Range<u32>) -> bool {
    a.start < b.end && b.start < a.end
}

#[cfg(test)]
mod tests;
