//! How far a fetch is, as readers carry it.

use bytes::{BufMut, Bytes, BytesMut};
use shuffle_proto::ids::{AttemptId, MapIndex};

use crate::staging::state::batch::Owner;

/// A position in a fetch, opaque to readers, at most 64 bytes. Valid across restarts of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor(pub(crate) Position);

/// How far a fetch is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    /// Id of the run that the fetch is in: all runs with a smaller id are done.
    pub(super) run: u64,
    /// Blocks of the run before this ordinal are done.
    pub(super) ordinal: u32,
    /// Attempt and seq up to which blocks that were in no run are done.
    pub(super) memory: Option<(Owner, u32)>,
}

/// No owner comes after it.
pub(super) const LAST: Owner = (MapIndex(u32::MAX), AttemptId(u64::MAX));

// === impl Position ===

impl Position {
    const VERSION: u8 = 1;
    const BYTES: usize = 30;

    /// The position behind all blocks.
    pub(crate) const END: Self = Self {
        run: u64::MAX,
        ordinal: u32::MAX,
        memory: Some((LAST, u32::MAX)),
    };

    pub(crate) fn encode(self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(Self::BYTES);
        let ((map_index, attempt), seq) = self.memory.unwrap_or(((MapIndex(0), AttemptId(0)), 0));
        bytes.put_u8(Self::VERSION);
        bytes.put_u64_le(self.run);
        bytes.put_u32_le(self.ordinal);
        bytes.put_u8(self.memory.is_some().into());
        bytes.put_u32_le(map_index.0);
        bytes.put_u64_le(attempt.0);
        bytes.put_u32_le(seq);
        bytes.freeze()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::BYTES] = bytes.try_into().ok()?;
        let u32_at = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        let memory = match bytes[13] {
            0 => None,
            1 => Some(((MapIndex(u32_at(14)), AttemptId(u64_at(18))), u32_at(26))),
            _ => return None,
        };
        (bytes[0] == Self::VERSION).then(|| Self {
            run: u64_at(1),
            ordinal: u32_at(9),
            memory,
        })
    }

    /// Whether a block was already sent from memory.
    pub(super) fn sent(&self, owner: Owner, seq: u32) -> bool {
        self.memory.is_some_and(|done| (owner, seq) < done)
    }
}

// === impl Cursor ===

impl Cursor {
    /// The cursor behind all blocks: such a fetch returns the summary only.
    pub const END: Self = Self(Position::END);

    /// Reads what [`Cursor::to_bytes`] wrote; `None` if it is anything else, which means starting
    /// over.
    pub fn try_from_bytes(bytes: &[u8]) -> Option<Self> {
        Position::decode(bytes).map(Self)
    }

    /// The cursor's bytes on the wire.
    pub fn to_bytes(self) -> Bytes {
        self.0.encode()
    }
}
