//! A verified and decoded block, and its memory.

use bytes::Bytes;
use shuffle_proto::ids::{AttemptId, MapIndex, PartitionId};

use crate::pool::Pooled;

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
pub struct Buffer(pub(super) Storage);

#[derive(Debug)]
pub(super) enum Storage {
    /// Decoded into a buffer that goes back to its pool.
    Pooled(Pooled),
    /// The bytes as they were received, not copied.
    Received(Bytes),
    /// Put together from several blocks.
    Joined(Vec<u8>),
}

impl std::ops::Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Storage::Pooled(bytes) => bytes.as_ref(),
            Storage::Received(bytes) => bytes,
            Storage::Joined(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}
