//! Well-formed map attempts with bytes that tell their place, and the messages that push them.

use std::collections::BTreeMap;

use bytes::Bytes;
use shuffle_proto::v1::{self, Durability};

/// The largest payload that is put in one message here, unless a test says otherwise.
pub const BATCH: usize = 1 << 20;

/// `splitmix64`: deterministic, and unlike any generator of the product.
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64() % bound
    }
}

/// Bytes that depend on all of `seed`.
pub fn random_bytes(seed: u64, length: usize) -> Bytes {
    let mut random = Random(seed);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&random.next_u64().to_le_bytes());
    }
    bytes.truncate(length);
    bytes.into()
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct App {
    /// Application id.
    pub id: String,
    /// Its token.
    pub token: String,
    /// Lease in milliseconds; 0 = the server's default.
    pub lease_ms: u64,
    /// What it wants of write-back; unspecified = the server's default.
    pub write_back: v1::WriteBack,
}

impl App {
    /// An app with a token of its own.
    pub fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            token: format!("token-of-{id}"),
            lease_ms: 0,
            write_back: v1::WriteBack::Unspecified,
        }
    }

    /// Whose data are never written back.
    pub fn not_written_back(mut self) -> Self {
        self.write_back = v1::WriteBack::Off;
        self
    }

    /// With a lease of its own.
    pub fn lease_ms(mut self, lease_ms: u64) -> Self {
        self.lease_ms = lease_ms;
        self
    }

    /// As it stands in messages.
    pub fn caller(&self) -> v1::Caller {
        v1::Caller {
            protocol: 1,
            app: self.id.clone(),
            token: self.token.clone(),
            lease_ms: self.lease_ms,
            write_back: self.write_back as i32,
        }
    }
}

/// One block and its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Reduce partition.
    pub partition: u32,
    /// Records that end in it.
    pub records: u32,
    /// Its bytes, not compressed.
    pub data: Bytes,
}

/// What a generated attempt looks like.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Map tasks of the shuffle.
    pub maps: u32,
    /// Partitions of the shuffle.
    pub partitions: u32,
    /// How many times the attempt goes over all partitions.
    pub rounds: u32,
    /// Largest block.
    pub block: u32,
}

impl Shape {
    /// A small shuffle: one round of blocks of up to 4 KiB.
    pub fn small(maps: u32, partitions: u32) -> Self {
        Self {
            maps,
            partitions,
            rounds: 1,
            block: 4096,
        }
    }

    /// With this many rounds.
    pub fn rounds(mut self, rounds: u32) -> Self {
        self.rounds = rounds;
        self
    }

    /// With blocks of up to this many bytes.
    pub fn block(mut self, block: u32) -> Self {
        self.block = block;
        self
    }
}

/// One map attempt.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Who pushes it.
    pub app: App,
    /// Its shuffle.
    pub shuffle: u32,
    /// Map tasks of the shuffle.
    pub num_maps: u32,
    /// Partitions of the shuffle.
    pub num_partitions: u32,
    /// Its map task.
    pub map_index: u32,
    /// Its id.
    pub attempt: u64,
    /// The level to reach.
    pub durability: Durability,
    /// Its blocks in the order of their `seq`; partitions ascend within a round.
    pub blocks: Vec<Block>,
}

impl Attempt {
    /// Without blocks.
    pub fn empty(app: &App, shuffle: u32, shape: Shape, map_index: u32, attempt: u64) -> Self {
        Self {
            app: app.clone(),
            shuffle,
            num_maps: shape.maps,
            num_partitions: shape.partitions,
            map_index,
            attempt,
            durability: Durability::Disk,
            blocks: Vec::new(),
        }
    }

    /// With blocks of random length in about seven of eight partitions; the same for the same ids.
    pub fn generate(app: &App, shuffle: u32, shape: Shape, map_index: u32, attempt: u64) -> Self {
        let mut made = Self::empty(app, shuffle, shape, map_index, attempt);
        let seed = app
            .id
            .bytes()
            .fold(u64::from(shuffle) << 32 | u64::from(map_index), |s, b| {
                s.rotate_left(7) ^ u64::from(b)
            });
        let mut random = Random(seed ^ attempt.rotate_left(17));
        for _ in 0..shape.rounds {
            for partition in 0..shape.partitions {
                if random.below(8) == 0 {
                    continue;
                }
                let length = 1 + random.below(u64::from(shape.block)) as usize;
                made = made.with_block(partition, random_bytes(random.next_u64(), length));
            }
        }
        made
    }

    /// With one more block.
    pub fn with_block(mut self, partition: u32, data: impl Into<Bytes>) -> Self {
        let data = data.into();
        let records = 1 + data.len() as u32 / 100;
        self.blocks.push(Block {
            partition,
            records,
            data,
        });
        self
    }

    /// At this level.
    pub fn at(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Bytes of all blocks.
    pub fn bytes(&self) -> u64 {
        self.blocks
            .iter()
            .map(|block| block.data.len() as u64)
            .sum()
    }

    /// Records of all blocks.
    pub fn records(&self) -> u64 {
        self.blocks
            .iter()
            .map(|block| u64::from(block.records))
            .sum()
    }

    /// The protocol's checksum of a block: its bytes, then its header.
    pub fn checksum(&self, seq: usize) -> u32 {
        let block = &self.blocks[seq];
        header_checksum(
            &block.data,
            [block.partition, self.map_index],
            self.attempt,
            [
                seq as u32,
                block.data.len() as u32,
                block.data.len() as u32,
                block.records,
                0,
            ],
        )
    }

    /// The first message.
    pub fn open(&self) -> v1::Open {
        v1::Open {
            caller: Some(self.app.caller()),
            shuffle: self.shuffle,
            num_maps: self.num_maps,
            num_partitions: self.num_partitions,
            map_index: self.map_index,
            attempt: self.attempt,
            durability: self.durability as i32,
            share: 0,
        }
    }

    /// Messages with the blocks `from..`, each in partition order and with at most `limit` bytes
    /// (or one block).
    pub fn batches_from(&self, from: usize, limit: usize) -> Vec<v1::PushRequest> {
        let mut batches = Vec::new();
        let mut table = v1::BlockTable::default();
        let mut payload = Vec::new();
        for (seq, block) in self.blocks.iter().enumerate().skip(from) {
            let out_of_order = table
                .partition
                .last()
                .is_some_and(|&last| last > block.partition);
            if !table.partition.is_empty()
                && (out_of_order || payload.len() + block.data.len() > limit)
            {
                batches.push(batch(
                    std::mem::take(&mut table),
                    std::mem::take(&mut payload),
                ));
            }
            table.partition.push(block.partition);
            table.seq.push(seq as u32);
            table.length.push(block.data.len() as u32);
            table.raw_length.push(block.data.len() as u32);
            table.records.push(block.records);
            table.flags.push(0);
            table.checksum.push(self.checksum(seq));
            payload.extend_from_slice(&block.data);
        }
        if !table.partition.is_empty() {
            batches.push(batch(table, payload));
        }
        batches
    }

    /// Messages with all blocks.
    pub fn batches(&self) -> Vec<v1::PushRequest> {
        self.batches_from(0, BATCH)
    }

    /// What the commit says.
    pub fn totals(&self) -> v1::PartitionTotals {
        let mut sums = BTreeMap::<u32, (u32, u64, u64)>::new();
        for block in &self.blocks {
            let sum = sums.entry(block.partition).or_default();
            *sum = (
                sum.0 + 1,
                sum.1 + block.data.len() as u64,
                sum.2 + u64::from(block.records),
            );
        }
        v1::PartitionTotals {
            partition: sums.keys().copied().collect(),
            blocks: sums.values().map(|sum| sum.0).collect(),
            bytes: sums.values().map(|sum| sum.1).collect(),
            records: sums.values().map(|sum| sum.2).collect(),
        }
    }
}

/// A message with blocks.
pub fn batch(table: v1::BlockTable, payload: Vec<u8>) -> v1::PushRequest {
    let step = v1::push_request::Step::Batch(v1::Batch { table: Some(table) });
    v1::PushRequest {
        step: Some(step),
        payload: payload.into(),
    }
}

/// CRC-32 of the bytes and then of the header, in the layout of the protocol's documentation.
/// Written again here: with the product's own function a test would agree with any result.
pub fn header_checksum(
    data: &[u8],
    partition_and_map: [u32; 2],
    attempt: u64,
    rest: [u32; 5],
) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(data);
    partition_and_map
        .iter()
        .for_each(|field| crc.update(&field.to_le_bytes()));
    crc.update(&attempt.to_le_bytes());
    rest.iter()
        .for_each(|field| crc.update(&field.to_le_bytes()));
    crc.finalize()
}
