//! Parameters of a reader, and its counters.

use std::{ops::Range, time::Duration};

use shuffle_proto::ids::{AttemptId, MapIndex, ShuffleId, VolumeId};

use crate::{
    error::LostOutput,
    types::{Caller, Location},
};

/// Parameters of a read.
#[derive(Clone, Debug)]
pub struct ReadSpec {
    /// The reading application.
    pub caller: Caller,
    /// The shuffle.
    pub shuffle: ShuffleId,
    /// Reduce partitions, half open.
    pub partitions: Range<u32>,
    /// Map indexes, half open; `u32::MAX` as the end = no bound.
    pub maps: Range<u32>,
    /// Exactly the outputs that must be seen: at most one per map index, all in `maps`. Outputs
    /// without data in `partitions` may be left out.
    pub outputs: Vec<Output>,
    /// Stored bytes in flight over all servers; `None` = the client's setting.
    pub window: Option<usize>,
}

/// An expected committed map output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The output's volume.
    pub volume: VolumeId,
    /// Last known server of the volume, `host:port`.
    pub address: String,
    /// The other copy, if it was written at level `mirror`.
    pub mirror: Option<Location>,
    /// The map task.
    pub map_index: MapIndex,
    /// The winning attempt.
    pub attempt: AttemptId,
    /// The requested partitions with data: ascending.
    pub partitions: Vec<u32>,
}

/// Work of a reader so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReaderStats {
    /// Stored bytes of the released blocks.
    pub bytes: u64,
    /// Released blocks.
    pub blocks: u64,
    /// Time of `next` in waits for servers.
    pub waited: Duration,
    /// How often a stream was taken up again.
    pub resumes: u64,
}

/// For how long one of two copies is left for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The copy that is left may be turned to again.
    ForNow,
    /// The copy that is left is lost or spoilt.
    ForGood,
}

impl Output {
    /// Turns to the other copy; false if there is none.
    pub(super) fn swap(&mut self, turn: Turn) -> bool {
        let Some(other) = self.mirror.take() else {
            return false;
        };
        let volume = std::mem::replace(&mut self.volume, other.volume);
        let address = std::mem::replace(&mut self.address, other.address);
        if turn == Turn::ForNow {
            self.mirror = Some(Location { volume, address });
        }
        true
    }

    pub(super) fn lost(&self) -> LostOutput {
        LostOutput {
            volume: self.volume,
            map_index: self.map_index,
            attempt: self.attempt,
        }
    }
}
