//! The output of one map attempt.

use std::{sync::Arc, time::Duration};

use shuffle_proto::ids::{AttemptId, MapIndex, PartitionId, ShuffleId, VolumeId};

use crate::{
    client::{Caller, Client, Durability},
    error::{Error, Kind},
};

/// What is written, and where to.
#[derive(Clone, Debug)]
pub struct WriteSpec {
    /// On whose behalf.
    pub caller: Caller,
    /// The shuffle.
    pub shuffle: ShuffleId,
    /// Its map tasks.
    pub num_maps: u32,
    /// Its reduce partitions.
    pub num_partitions: u32,
    /// This map task.
    pub map_index: MapIndex,
    /// This try at it.
    pub attempt: AttemptId,
    /// How safe the output must be before the commit is acknowledged.
    pub durability: Durability,
    /// Candidate servers as [`AppHandle::place`](crate::AppHandle::place) ordered them; map index `m` goes to number `m mod k`.
    pub candidates: Arc<[String]>,
    /// Whether blocks are compressed (LZ4).
    pub compress: bool,
}

/// A committed output: visible, whole, and as safe as asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Volume that holds it.
    pub volume: VolumeId,
    /// Server that has the volume.
    pub address: String,
    /// Level that was reached.
    pub durability: Durability,
    /// Stored bytes per partition, 0 only where nothing was written.
    pub partition_lengths: Vec<u64>,
    /// Stored bytes, all partitions.
    pub bytes: u64,
    /// Records, all partitions.
    pub records: u64,
}

/// What a writer did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriterStats {
    /// Stored bytes that were built.
    pub bytes: u64,
    /// Records in them.
    pub records: u64,
    /// Time that `ready` and `commit` waited for servers.
    pub waited: Duration,
    /// How often the output was sent again from the start.
    pub resends: u64,
}

/// Writes the output of one map attempt. Dropping it before a commit aborts the output.
pub struct MapWriter {
    _client: Client,
    _spec: WriteSpec,
}

impl MapWriter {
    pub(crate) fn open(client: Client, spec: WriteSpec) -> Self {
        Self { _client: client, _spec: spec }
    }

    /// Adds one block: the pieces, back to back, hold `records` whole records of `partition`; together at least 1 byte and at most
    /// 4 MiB, best `block_bytes`. Costs CPU only (gather, compress, checksum); call [`ready`](Self::ready) now and then, at the
    /// latest after every few MiB, to let the servers hold you back. A block of a lower partition than the one before starts a new
    /// message, so a sorted arena is cheapest.
    ///
    /// Answers early with the writer's failure if there is one.
    pub fn add_block(&mut self, partition: PartitionId, raw: &[&[u8]], records: u32) -> Result<(), Error> {
        let _ = (partition, raw, records);
        Err(Error::new(Kind::Internal, "not yet"))
    }

    /// Adds a byte string of any length that must reach its reader in one piece: a record longer than a block, or a closed
    /// serialisation stream. What is longer than a block is split over blocks that the reader puts together again.
    pub fn add_long(&mut self, partition: PartitionId, raw: &[u8], records: u32) -> Result<(), Error> {
        let _ = (partition, raw, records);
        Err(Error::new(Kind::Internal, "not yet"))
    }

    /// Waits until no more than a few messages are still to be handed to the connection. At once if that is so already.
    pub async fn ready(&mut self) -> Result<(), Error> {
        Err(Error::new(Kind::Internal, "not yet"))
    }

    /// Sends what is left and commits. May be dropped while it waits and called again; nothing may be added after the first call.
    /// Called again after success it answers the same.
    pub async fn commit(&mut self) -> Result<Commit, Error> {
        Err(Error::new(Kind::Internal, "not yet"))
    }

    /// Drops the output, telling the server why.
    pub fn abort(self, reason: &str) {
        let _ = reason;
    }

    /// Counters so far.
    pub fn stats(&self) -> WriterStats {
        WriterStats::default()
    }
}
