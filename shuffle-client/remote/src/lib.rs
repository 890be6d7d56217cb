//! The object store: what lies in it, how it is written, and how it is read again, by whichever
//! server is asked or by the client.
//!
//! Owns the layout of keys ([`keys`]), the formats of objects ([`object`]) and manifests
//! ([`manifest`]), the records of leases ([`lease`]) and the one door to the crate `object_store`
//! ([`Store`]). Does not own the decision what is written when (that is the server's `writeback`),
//! nor what is on local disks (its `staging`). A block's row and an attempt's totals are coded as
//! [`shuffle_proto::stored`] says, so that a block is described in the same bytes on every tier.
//! Beside it, what tries a store ([`doctor`]) and makes its net of rules ([`lifecycle`]), for the
//! operator's tool.
//!
//! What anybody needs in order to read a volume that is gone is in the store and nowhere else: the
//! *chain* of the volume's manifests, each made by a conditional put and never changed. A manifest
//! that is there names only objects that were read back and compared before. What no manifest names
//! does not exist.
//!
//! - invariant: foreign-is-untouched. All of it lies below one directory, [`keys::ROOT`]; what else
//!   a bucket holds is never listed below its first level, and never removed.
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
    ids::{AppId, AttemptId, MapIndex, ShuffleId, VolumeId},
    kind::Kind,
};

pub use chain::{Chain, Next};
pub use costs::Cost;
pub use fetch::{Cursor, Fetch, Only, Part};
pub use known::{Now, Remote};
pub use meter::{Meter, RESULTS, VERBS};
pub use secrets::shown_url;
pub use store::{Listing, Store, Upload, Version, check_url, provide_tls};

/// Who wrote a block, in one shuffle.
pub type Owner = (MapIndex, AttemptId);

/// What has manifests of its own: the part of a shuffle that one volume held.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The application.
    pub app: AppId,
    /// One of its shuffles.
    pub shuffle: ShuffleId,
    /// The volume that wrote it.
    pub volume: VolumeId,
}

/// Why the store did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// There is no such object.
    #[error("{key} is not in the object store")]
    NotFound {
        /// With the prefix.
        key: String,
    },
    /// There is one already where one was to be made.
    #[error("{key} is in the object store already")]
    Exists {
        /// With the prefix.
        key: String,
    },
    /// The bytes are not what was written.
    #[error("object {key}: {reason}")]
    Corrupt {
        /// With the prefix.
        key: String,
        /// What does not fit.
        reason: String,
    },
    /// The store failed or cannot be reached.
    #[error("object store: {verb} {key}: {message}")]
    Store {
        /// What was tried.
        verb: &'static str,
        /// With the prefix.
        key: String,
        /// The store's words.
        message: String,
    },
    /// What is asked for contradicts what is there.
    #[error("{0}")]
    Invalid(String),
}

impl Error {
    /// What a caller should do.
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
