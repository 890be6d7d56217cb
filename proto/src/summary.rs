//! What ends the answer to a fetch: which attempts it covered, and what their commits say of the fetched partitions.

use crate::{
    ids::{AttemptId, MapIndex},
    v1,
};

/// Which attempts a fetch covered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Attempts that were served whole, ascending by map index and attempt.
    pub covered: Vec<AttemptTotals>,
    /// Attempts that were committed here and cannot be served.
    pub lost: Vec<LostAttempt>,
}

/// What an attempt's commit says of the fetched partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptTotals {
    /// Position of the map task.
    pub map_index: MapIndex,
    /// The try.
    pub attempt: AttemptId,
    /// Blocks.
    pub blocks: u32,
    /// Stored bytes.
    pub bytes: u64,
    /// Records.
    pub records: u64,
}

/// An attempt that cannot be served, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostAttempt {
    /// Position of the map task.
    pub map_index: MapIndex,
    /// The try.
    pub attempt: AttemptId,
    /// For a person: file, offset, cause.
    pub reason: String,
}

impl Summary {
    /// Appends it to a message, which may have that of another volume.
    pub fn put(self, message: &mut v1::Summary) {
        for attempt in self.covered {
            message.map_index.push(attempt.map_index.0);
            message.attempt.push(attempt.attempt.0);
            message.blocks.push(attempt.blocks);
            message.bytes.push(attempt.bytes);
            message.records.push(attempt.records);
        }
        let lost = self.lost.into_iter();
        message.lost.extend(lost.map(|lost| v1::LostAttempt {
            map_index: lost.map_index.0,
            attempt: lost.attempt.0,
            reason: lost.reason,
        }));
    }
}
