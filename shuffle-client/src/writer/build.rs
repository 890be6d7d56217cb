//! From records to messages: gathers, compresses, encrypts, checksums, frames and counts.
//!
//! CPU only, and nothing is allocated per block: a block is compressed straight into the payload of
//! its message, whose buffer comes from a pool and goes back when the message is sent and
//! committed.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use shuffle_proto::{
    block::{BlockHeader, ENCRYPTION, Flags, MAX_BATCH_BLOCKS, PartitionTotal},
    frame::{self, Rope},
    ids::{AttemptId, MapIndex, Owner, PartitionId},
    v1, wire,
};

use crate::{
    budget::{Budget, Permit, Share},
    codec::Encoder,
    crypt::Encryptor,
    pool::{BufferPool, Pooled},
};

/// Upper bound, or nearly, of a block's entry in its table: a message with its table must fit one
/// HTTP/2 frame.
const ENTRY: usize = 28;

/// A finished message, ready to be sent any number of times.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    head: Bytes,
    payload: Bytes,
    /// Memory of the payload.
    held: usize,
}

/// Builds the messages of one attempt.
pub(crate) struct Builder {
    map_index: MapIndex,
    attempt: AttemptId,
    batch_bytes: usize,
    block_bytes: usize,
    pool: Arc<BufferPool>,
    budget: Budget,
    encoder: Encoder,
    encryptor: Option<Encryptor>,
    /// Scratch space for pieces before compression.
    gathered: Vec<u8>,
    table: v1::BlockTable,
    payload: Option<Pooled>,
    /// The account's permit for `payload`.
    permit: Option<Permit>,
    /// Bytes of blocks in `payload`.
    filled: usize,
    seq: u32,
    totals: Totals,
}

/// What was built so far, per partition and together. Computed here, where the blocks are made, so
/// that the commit compares two independent counts.
pub(crate) struct Totals {
    blocks: Vec<u32>,
    partition_bytes: Vec<u64>,
    partition_records: Vec<u64>,
    pub(crate) bytes: u64,
    pub(crate) records: u64,
}

// === impl Builder ===

impl Builder {
    pub(crate) fn new(
        (map_index, attempt): Owner,
        num_partitions: u32,
        (encoder, encryptor): (Encoder, Option<Encryptor>),
        (block_bytes, batch_bytes): (usize, usize),
        (pool, budget): (Arc<BufferPool>, Budget),
    ) -> Self {
        let partitions = num_partitions as usize;
        Self {
            map_index,
            attempt,
            batch_bytes,
            block_bytes,
            pool,
            budget,
            encoder,
            encryptor,
            gathered: Vec::new(),
            table: v1::BlockTable::default(),
            payload: None,
            permit: None,
            filled: 0,
            seq: 0,
            totals: Totals {
                blocks: vec![0; partitions],
                partition_bytes: vec![0; partitions],
                partition_records: vec![0; partitions],
                bytes: 0,
                records: 0,
            },
        }
    }

    /// Appends one block with raw bytes `pieces` (`raw_len` together, from 1 to a block's most);
    /// the partition is in range. Returns the message finished before, if any.
    pub(crate) fn add(
        &mut self,
        partition: PartitionId,
        pieces: &[&[u8]],
        raw_len: usize,
        records: u32,
        (continues, continued): (bool, bool),
    ) -> Option<Message> {
        // Start of the block's bytes in its space, and the free space around them.
        let (start, around) = match &self.encryptor {
            Some(_) => (Encryptor::START, ENCRYPTION as usize),
            None => (0, 0),
        };
        let last = self.table.partition.last();
        let restarts = last.is_some_and(|&last| last > partition.0);
        let count = self.table.partition.len();
        let full = self.filled + raw_len + around + ENTRY * (count + 1) > self.batch_bytes
            || count == MAX_BATCH_BLOCKS;
        let finished = if count > 0 && (restarts || full) {
            self.finish()
        } else {
            None
        };

        let worst = around + self.encoder.space(raw_len);
        let usual = self.batch_bytes + around + self.encoder.space(self.block_bytes);
        let payload = self.payload.get_or_insert_with(|| self.pool.take(usual));
        if payload.as_ref().len() < self.filled + worst {
            payload.set_len(self.filled + worst);
        }
        let capacity = payload.capacity();
        if self
            .permit
            .as_ref()
            .is_none_or(|permit| permit.bytes() != capacity)
        {
            self.permit = Some(self.budget.take(Share::Messages, capacity));
        }
        let space = &mut payload.as_mut()[self.filled..];
        let (codec, encoded) =
            self.encoder
                .store(pieces, raw_len, &mut self.gathered, &mut space[start..]);
        let length = encoded + around;
        let flags = Flags::new(codec, continues, continued);
        let mut header = BlockHeader {
            partition,
            map_index: self.map_index,
            attempt: self.attempt,
            seq: self.seq,
            length: u32::try_from(length).expect("a stored block is at most MAX_BLOCK"),
            raw_length: u32::try_from(raw_len).expect("a raw block is at most MAX_BLOCK"),
            records,
            flags: if self.encryptor.is_some() {
                flags.encrypted()
            } else {
                flags
            },
            checksum: 0,
        };
        if let Some(encryptor) = &self.encryptor {
            encryptor.encrypt(&header, &mut space[..length]);
        }
        let mut body = crc32fast::Hasher::new();
        body.update(&space[..length]);
        header.checksum = header.checksum_of(body);
        wire::put_block(&mut self.table, &header, false);
        self.filled += length;
        self.seq += 1;
        self.totals.add(&header);
        finished
    }

    /// Finishes the current message, if there is one.
    pub(crate) fn finish(&mut self) -> Option<Message> {
        if self.filled == 0 {
            return None;
        }
        let (payload, held) = self.payload()?;
        let message = v1::PushRequest {
            step: Some(v1::push_request::Step::Batch(v1::Batch {
                table: Some(std::mem::take(&mut self.table)),
            })),
            payload: Bytes::new(),
        };
        let mut rope = Rope::default();
        frame::encode(&message, [payload.clone()], &mut rope);
        let head = rope.copy_to_bytes(rope.len() - payload.len());
        if let Some(v1::push_request::Step::Batch(v1::Batch {
            table: Some(mut table),
        })) = message.step
        {
            clear(&mut table);
            self.table = table;
        }
        Some(Message {
            head,
            payload,
            held,
        })
    }

    /// The bytes of the message being built. A short one is copied, or it would hold the memory of
    /// a long one until the commit.
    fn payload(&mut self) -> Option<(Bytes, usize)> {
        let filled = std::mem::take(&mut self.filled);
        let buffer = self.payload.as_mut()?;
        if filled < buffer.capacity() / 2 {
            let bytes = buffer.as_ref()[..filled].to_vec();
            let permit = self.budget.take(Share::Messages, filled);
            return Some((Bytes::from_owner(Counted(bytes, permit)), filled));
        }
        let (mut buffer, permit) = (self.payload.take()?, self.permit.take()?);
        buffer.set_len(filled);
        let held = buffer.capacity();
        Some((Bytes::from_owner(Counted(buffer, permit)), held))
    }

    pub(crate) fn encrypts(&self) -> bool {
        self.encryptor.is_some()
    }

    /// Raw bytes of one block of a long byte string.
    pub(crate) fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    pub(crate) fn totals(&self) -> &Totals {
        &self.totals
    }
}

/// Bytes with their part of the account.
struct Counted<T>(
    T,
    #[allow(dead_code, reason = "given back when it is dropped")] Permit,
);

impl<T: AsRef<[u8]>> AsRef<[u8]> for Counted<T> {
    fn as_ref(&self) -> &[u8] {
        self.0.as_ref()
    }
}

/// Empties a table and keeps its memory.
fn clear(table: &mut v1::BlockTable) {
    table.partition.clear();
    table.seq.clear();
    table.length.clear();
    table.raw_length.clear();
    table.records.clear();
    table.flags.clear();
    table.checksum.clear();
}

// === impl Message ===

impl Message {
    /// Bytes of the message, framed.
    pub(crate) fn len(&self) -> usize {
        self.head.len() + self.payload.len()
    }

    /// Memory of the message.
    pub(crate) fn held(&self) -> usize {
        self.head.len() + self.held
    }

    /// Bytes of the blocks.
    pub(crate) fn payload_len(&self) -> usize {
        self.payload.len()
    }

    /// Appends the message to a rope, without a copy.
    pub(crate) fn append_to(&self, rope: &mut Rope) {
        rope.push(self.head.clone());
        rope.push(self.payload.clone());
    }
}

// === impl Totals ===

impl Totals {
    fn add(&mut self, block: &BlockHeader) {
        let partition = block.partition.0 as usize;
        self.blocks[partition] += 1;
        self.partition_bytes[partition] += u64::from(block.length);
        self.partition_records[partition] += u64::from(block.records);
        self.bytes += u64::from(block.length);
        self.records += u64::from(block.records);
    }

    /// The totals that `Commit` carries: partitions with a block, ascending.
    pub(crate) fn message(&self) -> v1::PartitionTotals {
        let written = self
            .blocks
            .iter()
            .enumerate()
            .filter(|(_, blocks)| **blocks > 0);
        let totals: Vec<_> = written
            .map(|(partition, &blocks)| PartitionTotal {
                partition: PartitionId(
                    u32::try_from(partition).expect("partitions are counted in u32"),
                ),
                blocks,
                bytes: self.partition_bytes[partition],
                records: self.partition_records[partition],
            })
            .collect();
        wire::totals_message(&totals)
    }

    /// Stored bytes of every partition.
    pub(crate) fn partition_lengths(&self) -> Vec<u64> {
        self.partition_bytes.clone()
    }
}

#[cfg(test)]
mod tests {
    use shuffle_proto::block::Codec;

    use super::*;

    /// A billion rows of one map in one partition are nothing special; blocks and batches are
    /// counted in 32 bits, sums are not.
    #[test]
    fn sums_of_a_map_go_beyond_32_bits() {
        const BLOCKS: u64 = 1100;
        let header = BlockHeader {
            partition: PartitionId(1),
            map_index: MapIndex(0),
            attempt: AttemptId(7),
            seq: 0,
            length: shuffle_proto::block::MAX_BLOCK,
            raw_length: shuffle_proto::block::MAX_BLOCK,
            records: u32::MAX,
            flags: Flags::new(Codec::Lz4, false, false),
            checksum: 0,
        };
        let mut totals = Totals {
            blocks: vec![0; 2],
            partition_bytes: vec![0; 2],
            partition_records: vec![0; 2],
            bytes: 0,
            records: 0,
        };
        (0..BLOCKS).for_each(|_| totals.add(&header));
        let bytes = BLOCKS * u64::from(shuffle_proto::block::MAX_BLOCK);
        let records = BLOCKS * u64::from(u32::MAX);
        assert!(bytes > u64::from(u32::MAX) && records > 1 << 40);
        let message = totals.message();
        assert_eq!(
            (message.bytes, message.records),
            (vec![bytes], vec![records])
        );
        assert_eq!((totals.bytes, totals.records), (bytes, records));
        assert_eq!(totals.partition_lengths(), [0, bytes]);
    }
}
