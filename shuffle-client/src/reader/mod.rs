//! The input of one reduce task.

use std::{ops::Range, time::Duration};

use shuffle_proto::ids::{AttemptId, MapIndex, PartitionId, ShuffleId, VolumeId};

use crate::{
    client::{Caller, Client},
    error::{Error, Kind},
};

/// What is read.
#[derive(Clone, Debug)]
pub struct ReadSpec {
    /// On whose behalf.
    pub caller: Caller,
    /// The shuffle.
    pub shuffle: ShuffleId,
    /// Reduce partitions, half open.
    pub partitions: Range<u32>,
    /// Map indexes, half open; `u32::MAX` as the end = no bound.
    pub maps: Range<u32>,
    /// Exactly the outputs that must be seen: at most one per map index, all in `maps`. Outputs without data in `partitions` may be
    /// left out.
    pub outputs: Vec<Output>,
    /// Stored bytes in flight over all servers; `None` = the client's setting.
    pub window: Option<usize>,
}

/// One committed map output that must be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Volume that holds it.
    pub volume: VolumeId,
    /// Server where that volume was last seen, `host:port`.
    pub address: String,
    /// Map task that wrote it.
    pub map_index: MapIndex,
    /// The try that counts.
    pub attempt: AttemptId,
    /// The partitions, of those asked for, in which it has data: ascending.
    pub partitions: Vec<u32>,
}

/// Verified bytes of one output and partition: whole records, decoded.
#[derive(Debug)]
pub struct Block {
    /// Reduce partition.
    pub partition: PartitionId,
    /// Map task that wrote it.
    pub map_index: MapIndex,
    /// Try that wrote it.
    pub attempt: AttemptId,
    /// Records in `data`.
    pub records: u32,
    /// Bytes as they were stored and sent.
    pub stored_bytes: u64,
    /// The records, back to back, as they were given to the writer.
    pub data: Buffer,
}

/// Contiguous bytes that do not move until they are dropped.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
}

impl std::ops::Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// What a reader did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReaderStats {
    /// Stored bytes of the blocks that were released.
    pub bytes: u64,
    /// Blocks that were released.
    pub blocks: u64,
    /// Time that `next` waited for servers.
    pub waited: Duration,
    /// How often a stream was taken up again.
    pub resumes: u64,
}

/// Reads the blocks of some outputs, from all their servers at once, in no particular order; the blocks of one output and partition
/// come in the order in which they were written.
pub struct Reader {
    _client: Client,
    _spec: ReadSpec,
}

impl Reader {
    pub(crate) fn open(client: Client, spec: ReadSpec) -> Self {
        Self { _client: client, _spec: spec }
    }

    /// The next block; `None` when everything that was asked for has been released and compared with the commits. May be dropped
    /// while it waits and called again. After an error it answers the same error for ever.
    pub async fn next(&mut self) -> Result<Option<Block>, Error> {
        Err(Error::new(Kind::Internal, "not yet"))
    }

    /// Counters so far.
    pub fn stats(&self) -> ReaderStats {
        ReaderStats::default()
    }
}
