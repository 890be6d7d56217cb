//! Callers, as a call names them, and the answer to a driver.

use std::{net::IpAddr, time::Duration};

use sha2::{Digest, Sha256};
use shuffle_proto::ids::AppId;

use super::Policy;
use crate::auth::By;

/// SHA-256 of an app's token; the token itself is nowhere kept.
#[derive(Clone, Copy)]
pub struct TokenHash(pub [u8; 32]);

impl TokenHash {
    /// Hash of this token.
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    /// Whether the hashes are equal. Constant time.
    pub(super) fn opens(self, other: [u8; 32]) -> bool {
        let difference = self
            .0
            .iter()
            .zip(other)
            .fold(0, |all, (a, b)| all | (a ^ b));
        std::hint::black_box(difference) == 0
    }
}

/// A caller, checked as far as possible without the table.
#[derive(Clone)]
pub struct Caller {
    /// The app.
    pub app: AppId,
    /// Hash of the call's token.
    pub token: TokenHash,
    /// The lease asked for; `None` leaves the lease to the server, or unchanged.
    pub lease: Option<Duration>,
    /// The write-back policy asked for; `None` leaves the policy to the server, or unchanged.
    pub write_back: Option<Policy>,
    /// The caller's address, if known.
    pub peer: Option<IpAddr>,
    /// Who registers the app, for the audit.
    pub by: By,
    /// Whether a task calls, which does not bring back a deleted app.
    pub task: bool,
}

/// Answer to a driver's call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewed {
    /// The lease granted from now on.
    pub lease: Duration,
    /// Whether the app was unknown or gone before this call, and has no data here.
    pub anew: bool,
}
