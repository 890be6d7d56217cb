//! Building one part of a fetch: about a MiB of blocks whose bytes come from memory as they are, or
//! from files into one buffer.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use shuffle_proto::block::BlockHeader;

use crate::staging::{
    read::cursor::{Cursor, Position},
    state::pool::{PART, Pool, Pooled},
};

/// Some blocks, at most about a MiB of them.
#[derive(Clone, Debug)]
pub struct FetchPart {
    /// Headers of the blocks, in the order of the bytes.
    pub blocks: Vec<BlockHeader>,
    /// The blocks' bytes back to back; pieces do not follow the blocks' borders.
    pub data: Vec<Bytes>,
    /// Position after these blocks.
    pub cursor: Cursor,
}

/// Blocks that a part has at most, so that the table of tiny ones stays smaller than the bytes of
/// large ones.
const PART_BLOCKS: usize = 16 << 10;
/// Pieces of memory under this are copied together: handing a piece to the network costs about as
/// much as copying this.
const SMALL_PIECE: usize = 4 << 10;

/// A part while it is built.
pub(crate) struct PartBuilder {
    pool: Arc<Pool>,
    blocks: Vec<BlockHeader>,
    pieces: Vec<Piece>,
    bytes: usize,
    buffer: Option<Pooled>,
    filled: usize,
}

enum Piece {
    Memory(Bytes),
    /// A range of the builder's buffer.
    Buffer(Range<usize>),
}

// === impl PartBuilder ===

impl PartBuilder {
    pub(crate) fn new(pool: Arc<Pool>) -> Self {
        Self {
            pool,
            blocks: Vec::new(),
            pieces: Vec::new(),
            bytes: 0,
            buffer: None,
            filled: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Whether one more block of this length still belongs into it.
    pub(crate) fn takes(&self, length: u32) -> bool {
        self.is_empty() || self.takes_more(0, 0, length)
    }

    /// Whether a block of this length still belongs into the part after `blocks` more of `bytes`.
    pub(crate) fn takes_more(&self, blocks: usize, bytes: usize, length: u32) -> bool {
        self.bytes + bytes + length as usize <= PART && self.blocks.len() + blocks < PART_BLOCKS
    }

    /// Adds a block's header; its bytes must follow, by one of the calls below.
    pub(crate) fn header(&mut self, header: BlockHeader) {
        self.bytes += header.length as usize;
        self.blocks.push(header);
    }

    /// Adds bytes that memory has.
    pub(crate) fn memory(&mut self, bytes: Bytes) {
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
    pub(crate) fn capacity(&self) -> usize {
        self.buffer
            .as_ref()
            .map_or(PART, |buffer| buffer.bytes.len())
            - self.filled
    }

    /// Room in the buffer, to be followed by [`PartBuilder::keep`] and [`PartBuilder::advance`].
    /// `None` if there is not enough.
    pub(crate) fn room(&mut self, length: usize) -> Option<&mut [u8]> {
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
    pub(crate) fn keep(&mut self, range: Range<usize>) {
        let (start, end) = (self.filled + range.start, self.filled + range.end);
        match self.pieces.last_mut() {
            Some(Piece::Buffer(last)) if last.end == start => last.end = end,
            _ => self.pieces.push(Piece::Buffer(start..end)),
        }
    }

    /// Says that this much of the room is used.
    pub(crate) fn advance(&mut self, length: usize) {
        self.filled += length;
    }

    /// The part, unless it is empty.
    pub(crate) fn finish(self, position: Position) -> Option<FetchPart> {
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
