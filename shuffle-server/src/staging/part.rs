//! Building one part of a fetch: about a MiB of blocks whose bytes come from memory as they are, or from files into one buffer.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use shuffle_proto::block::BlockHeader;

use super::{Cursor, FetchPart, fetch::Position};

/// Bytes that a part has at most, unless a single block is larger.
pub(super) const PART: usize = 1 << 20;
/// Blocks that a part has at most, so that the table of tiny ones stays smaller than the bytes of large ones.
const PART_BLOCKS: usize = 16 << 10;
/// Pieces of memory under this are copied together: handing a piece to the network costs about as much as copying this.
const SMALL_PIECE: usize = 4 << 10;
/// Buffers that are kept for the next reads.
const POOLED: usize = 64;

/// Recycled buffers of [`PART`] bytes, so that a read neither zeroes memory nor asks the system for it.
#[derive(Default)]
pub(super) struct Pool(Mutex<Vec<Box<[u8]>>>);

/// A buffer that goes back to its pool.
struct Pooled {
    bytes: Box<[u8]>,
    pool: Arc<Pool>,
}

/// A part while it is built.
pub(super) struct PartBuilder {
    pool: Arc<Pool>,
    blocks: Vec<BlockHeader>,
    pieces: Vec<Piece>,
    bytes: usize,
    buffer: Option<Pooled>,
    filled: usize,
}

enum Piece {
    Memory(Bytes),
    /// Of the buffer.
    Buffer(Range<usize>),
}

// === impl Pool ===

impl Pool {
    fn take(self: &Arc<Self>, length: usize) -> Pooled {
        let pooled = if length <= PART {
            self.0.lock().pop()
        } else {
            None
        };
        let bytes = pooled.unwrap_or_else(|| vec![0; length.max(PART)].into());
        Pooled {
            bytes,
            pool: self.clone(),
        }
    }
}

impl AsRef<[u8]> for Pooled {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        if self.bytes.len() == PART {
            let mut free = self.pool.0.lock();
            if free.len() < POOLED {
                free.push(std::mem::take(&mut self.bytes));
            }
        }
    }
}

// === impl PartBuilder ===

impl PartBuilder {
    pub(super) fn new(pool: Arc<Pool>) -> Self {
        Self {
            pool,
            blocks: Vec::new(),
            pieces: Vec::new(),
            bytes: 0,
            buffer: None,
            filled: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Whether one more block of this length still belongs into it.
    pub(super) fn takes(&self, length: u32) -> bool {
        self.is_empty() || self.takes_more(0, 0, length)
    }

    /// The same when `blocks` of `bytes` are about to be added before.
    pub(super) fn takes_more(&self, blocks: usize, bytes: usize, length: u32) -> bool {
        self.bytes + bytes + length as usize <= PART && self.blocks.len() + blocks < PART_BLOCKS
    }

    /// Adds a block's header; its bytes must follow, by one of the calls below.
    pub(super) fn header(&mut self, header: BlockHeader) {
        self.bytes += header.length as usize;
        self.blocks.push(header);
    }

    /// Adds bytes that memory has.
    pub(super) fn memory(&mut self, bytes: Bytes) {
        if bytes.len() < SMALL_PIECE
            && let Some(room) = self.room(bytes.len())
        {
            room.copy_from_slice(&bytes);
            self.keep(0..bytes.len());
            self.advance(bytes.len());
        } else {
            self.pieces.push(Piece::Memory(bytes));
        }
    }

    /// How many bytes a read may still bring: what is left of the buffer, or all of a new one.
    pub(super) fn capacity(&self) -> usize {
        self.buffer
            .as_ref()
            .map_or(PART, |buffer| buffer.bytes.len())
            - self.filled
    }

    /// Room in the buffer, to be followed by [`PartBuilder::keep`] and [`PartBuilder::advance`]. `None` if there is not enough.
    pub(super) fn room(&mut self, length: usize) -> Option<&mut [u8]> {
        let pool = &self.pool;
        if self.filled == 0
            && self
                .buffer
                .as_ref()
                .is_some_and(|buffer| buffer.bytes.len() < length)
        {
            self.buffer = None;
        }
        let buffer = self.buffer.get_or_insert_with(|| pool.take(length));
        buffer.bytes.get_mut(self.filled..self.filled + length)
    }

    /// Says that a range of the room is the next bytes.
    pub(super) fn keep(&mut self, range: Range<usize>) {
        let (start, end) = (self.filled + range.start, self.filled + range.end);
        match self.pieces.last_mut() {
            Some(Piece::Buffer(last)) if last.end == start => last.end = end,
            _ => self.pieces.push(Piece::Buffer(start..end)),
        }
    }

    /// Says that this much of the room is used.
    pub(super) fn advance(&mut self, length: usize) {
        self.filled += length;
    }

    /// The part, unless it is empty.
    pub(super) fn finish(self, position: Position) -> Option<FetchPart> {
        if self.blocks.is_empty() {
            return None;
        }
        let buffer = self.buffer.map(Bytes::from_owner).unwrap_or_default();
        let bytes = |piece| match piece {
            Piece::Memory(bytes) => bytes,
            Piece::Buffer(range) => buffer.slice(range),
        };
        let data = self.pieces.into_iter().map(bytes).collect();
        Some(FetchPart {
            blocks: self.blocks,
            data,
            cursor: Cursor(position),
        })
    }
}
