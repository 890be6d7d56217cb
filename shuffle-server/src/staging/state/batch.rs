//! Blocks as they came: one pushed message, in memory or in a commit log. Immutable and shared.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use shuffle_proto::block::BlockHeader;
pub(crate) use shuffle_proto::ids::Owner;

use crate::staging::files::log_file::LogFile;

/// Blocks of one attempt, sorted by partition, and where their bytes are, back to back.
#[derive(Debug)]
pub(crate) struct Batch {
    headers: Arc<[BlockHeader]>,
    /// Where each block's bytes begin, and at last where they end.
    starts: Arc<[u32]>,
    data: Data,
}

#[derive(Debug)]
pub(crate) enum Data {
    /// In memory; the bytes own their permit.
    Memory(Bytes),
    /// At an offset of a commit log: after a restart, or when memory was needed.
    Log(Arc<LogFile>, u64),
}

impl Batch {
    /// `None` if the lengths do not sum up to the data's.
    pub(crate) fn try_new(headers: Vec<BlockHeader>, data: Bytes) -> Option<Self> {
        let starts = starts(&headers)?;
        (starts.last().is_some_and(|&end| end as usize == data.len())).then(|| Self {
            headers: headers.into(),
            starts,
            data: Data::Memory(data),
        })
    }

    /// Blocks whose bytes begin at an offset of a log. `None` if they are more than a batch can be.
    pub(crate) fn in_log(
        headers: Vec<BlockHeader>,
        log: Arc<LogFile>,
        offset: u64,
    ) -> Option<Self> {
        Some(Self {
            starts: starts(&headers)?,
            headers: headers.into(),
            data: Data::Log(log, offset),
        })
    }

    /// A batch of the same blocks with their bytes in a log.
    pub(crate) fn moved(&self, log: Arc<LogFile>, offset: u64) -> Self {
        Self {
            headers: self.headers.clone(),
            starts: self.starts.clone(),
            data: Data::Log(log, offset),
        }
    }

    pub(crate) fn headers(&self) -> &[BlockHeader] {
        &self.headers
    }

    pub(crate) fn data(&self) -> &Data {
        &self.data
    }

    /// Bytes of its blocks.
    pub(crate) fn length(&self) -> u64 {
        self.starts.last().copied().unwrap_or(0).into()
    }

    /// Bytes that it holds in memory.
    pub(crate) fn memory(&self) -> u64 {
        match &self.data {
            Data::Memory(bytes) => bytes.len() as u64,
            Data::Log(..) => 0,
        }
    }

    /// Positions of the blocks of some partitions, which lie together.
    pub(crate) fn select(&self, partitions: &Range<u32>) -> Range<usize> {
        let before = |bound: u32| {
            self.headers
                .partition_point(|header| header.partition.0 < bound)
        };
        before(partitions.start)..before(partitions.end)
    }

    /// Where the bytes of these blocks are in the batch's.
    pub(crate) fn span(&self, blocks: Range<usize>) -> Range<usize> {
        self.starts[blocks.start] as usize..self.starts[blocks.end] as usize
    }

    /// The bytes of one block, if memory has them.
    pub(crate) fn block(&self, position: usize) -> Option<&[u8]> {
        match &self.data {
            Data::Memory(bytes) => Some(&bytes[self.span(position..position + 1)]),
            Data::Log(..) => None,
        }
    }
}

fn starts(headers: &[BlockHeader]) -> Option<Arc<[u32]>> {
    let mut starts = Vec::with_capacity(headers.len() + 1);
    let mut end = 0u32;
    starts.push(0);
    for header in headers {
        end = end.checked_add(header.length)?;
        starts.push(end);
    }
    Some(starts.into())
}

/// Cuts an attempt's blocks, in the order of their seq, into pieces that are sorted by partition
/// and no larger than `u32` can count.
pub(crate) fn sorted_pieces(headers: Vec<BlockHeader>) -> Vec<Vec<BlockHeader>> {
    let mut pieces: Vec<Vec<BlockHeader>> = Vec::new();
    let mut length = 0u64;
    for header in headers {
        let fits = length + u64::from(header.length) <= u64::from(u32::MAX);
        match pieces.last_mut() {
            Some(piece)
                if fits
                    && piece
                        .last()
                        .is_some_and(|last| last.partition <= header.partition) =>
            {
                piece.push(header)
            }
            _ => {
                length = 0;
                pieces.push(vec![header]);
            }
        }
        length += u64::from(header.length);
    }
    pieces
}
