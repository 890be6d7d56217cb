//! A verified and decoded block, and its memory.

use bytes::Bytes;
use shuffle_proto::ids::{AttemptId, MapIndex, PartitionId};

use crate::pool::Pooled;

/// Verified, decoded bytes of one output and partition: whole records, but for [`Part`].
#[derive(Debug)]
pub struct Block {
    /// Reduce partition.
    pub partition: PartitionId,
    /// The map task.
    pub map_index: MapIndex,
    /// The attempt.
    pub attempt: AttemptId,
    /// Records in `data`.
    pub records: u32,
    /// Bytes as stored and sent.
    pub stored_bytes: u64,
    /// The records, back to back, as they were given to the writer.
    pub data: Buffer,
    /// Not whole records, where the reader was asked for parts.
    pub part: Part,
}

/// Where a block lies in a byte string that is longer than a block. Both false: it is whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// The bytes go on from the last block of this output and partition.
    pub continues: bool,
    /// The bytes go on in the next block of this output and partition.
    pub continued: bool,
}

/// Contiguous bytes at a fixed address until dropped.
#[derive(Debug)]
pub struct Buffer(pub(super) Storage);

#[derive(Debug)]
pub(super) enum Storage {
    /// Decoded into a recycled buffer.
    Pooled(Pooled),
    /// The received bytes, not copied.
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

/// Without a copy: recycled memory goes back when the last clone is dropped.
impl From<Buffer> for Bytes {
    fn from(buffer: Buffer) -> Self {
        match buffer.0 {
            Storage::Pooled(bytes) => Self::from_owner(bytes),
            Storage::Received(bytes) => bytes,
            Storage::Joined(bytes) => Self::from(bytes),
        }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}
