//! Words of the calls of a volume: who wrote, how safe bytes are, how a volume is.

use std::time::Duration;

use shuffle_proto::ids::{AppId, AttemptId, MapIndex, ShuffleId, VolumeId};
use uuid::Uuid;

/// Who wrote: one try at one map index of one shuffle.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AttemptKey {
    /// The application.
    pub app: AppId,
    /// One of its shuffles.
    pub shuffle: ShuffleId,
    /// Position of the map task.
    pub map_index: MapIndex,
    /// The try.
    pub attempt: AttemptId,
}

/// How safe bytes are on one volume. (The levels above need more than one volume.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Durability {
    /// In this process; survives the executor.
    Memory,
    /// In a file and the index; survives the process.
    Disk,
    /// Synced to the device; survives the node's kernel and power.
    Fsync,
}

/// Answer to a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Volume that holds the attempt.
    pub volume: VolumeId,
    /// Level reached, which is at least the one asked for.
    pub durability: Durability,
    /// Stored bytes of all partitions.
    pub bytes: u64,
    /// Records of all partitions.
    pub records: u64,
}

/// An application as a volume remembers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppRecord {
    /// The application.
    pub app: AppId,
    /// SHA-256 of its token.
    pub token_hash: [u8; 32],
    /// How long its data outlive its last call.
    pub lease: Duration,
    /// Which life of its name it is: two that came one after the other may have the same token.
    /// `None`: nobody has said it yet.
    pub life: Option<Uuid>,
}

/// Whether a volume takes new attempts. With the reason, which says what a person can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Ok,
    /// No space; it will again when there is some.
    Full(String),
    /// A call of it does not come back; it will again when it is quick.
    Slow(String),
    /// Its file system takes no writes: not before the server is started again, as with those
    /// below. What can be read is still served.
    ReadOnly(String),
    /// The device or the index fails.
    Failed(String),
    /// The device or the directory is not there any more.
    Removed(String),
}

// === impl AttemptKey ===

impl std::fmt::Display for AttemptKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "app {} shuffle {} map {} attempt {}",
            self.app, self.shuffle, self.map_index, self.attempt
        )
    }
}
