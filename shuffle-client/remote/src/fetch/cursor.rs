//! Cursor of a read, and its bytes.

use bytes::{BufMut, Bytes, BytesMut};

/// A position in a chain: everything before it is done. The number of manifests at the begin of the
/// read is part of the cursor, because a later one may replace a generation read half.
///
/// | bytes | field |
/// |---|---|
/// | 0 | version, 3 (1 is a position on a volume) |
/// | 1..5 | manifests u32 |
/// | 5..9 | generation u32 |
/// | 9..13 | number of the object u32 |
/// | 13..17 | section u32 |
/// | 17..21 | block in the section u32 |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    pub(super) length: u32,
    pub(super) generation: u32,
    pub(super) number: u32,
    pub(super) section: u32,
    pub(super) block: u32,
}

impl Cursor {
    const VERSION: u8 = 3;
    const BYTES: usize = 21;

    /// Behind everything: such a fetch returns no block, only the summary.
    pub const END: Self = Self {
        length: u32::MAX,
        generation: u32::MAX,
        number: u32::MAX,
        section: u32::MAX,
        block: u32::MAX,
    };

    /// Decodes [`Cursor::to_bytes`]; `None` for anything else: the read starts over.
    pub fn try_from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::BYTES] = bytes.try_into().ok()?;
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        (bytes[0] == Self::VERSION).then(|| Self {
            length: word(1),
            generation: word(5),
            number: word(9),
            section: word(13),
            block: word(17),
        })
    }

    /// Lower bound on the number of manifests.
    pub(crate) fn manifests(self) -> u32 {
        match self == Self::END {
            true => 0,
            false => self.length,
        }
    }

    /// The cursor's bytes.
    pub fn to_bytes(self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(Self::BYTES);
        bytes.put_u8(Self::VERSION);
        for number in [
            self.length,
            self.generation,
            self.number,
            self.section,
            self.block,
        ] {
            bytes.put_u32_le(number);
        }
        bytes.freeze()
    }
}
