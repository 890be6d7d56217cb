//! A block: what one attempt wrote for one partition in one go. Its header travels and is stored
//! beside its bytes.
//!
//! The checksum covers the stored bytes *and* the header, so that a bit flipped in either, anywhere
//! between the writer's memory and the reader's, is found by the reader before a byte is released
//! (invariant: verified-before-released).
//!
//! | bytes of the header as checksummed | field |
//! |---|---|
//! | 0..4 | partition, u32 little-endian (all of them are) |
//! | 4..8 | map index, u32 |
//! | 8..16 | attempt, u64 |
//! | 16..20 | seq, u32 |
//! | 20..24 | length, u32 |
//! | 24..28 | raw length, u32 |
//! | 28..32 | records, u32 |
//! | 32..36 | flags, u32 |

use bytes::{Bytes, BytesMut};

use crate::ids::{AttemptId, MapIndex, PartitionId};

/// Largest stored or raw length of one block. A longer record is split over blocks that say so in
/// their flags.
pub const MAX_BLOCK: u32 = 4 << 20;

/// Largest payload of one message: room for one block of the largest size and a group before it.
pub const MAX_BATCH: u32 = 8 << 20;

/// Most blocks in one message.
pub const MAX_BATCH_BLOCKS: usize = 1 << 16;

/// By how much encryption makes a block longer: 8 bytes of a nonce before it, 16 bytes of an
/// authentication tag behind.
pub const ENCRYPTION: u32 = 24;

/// How a block's bytes are encoded, in the low 8 bits of its flags. The server stores blocks of any
/// of them and decodes none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// Stored as they are; `raw_length` bytes.
    None,
    /// LZ4 block format without a size prefix; the size is `raw_length`.
    Lz4,
    /// One Zstandard frame.
    Zstd,
}

/// A block's flags, known to be valid.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flags(u32);

impl Flags {
    const CONTINUES: u32 = 1 << 8;
    const CONTINUED: u32 = 1 << 9;
    const ENCRYPTED: u32 = 1 << 10;

    /// `continues`: the block starts inside a record of block `seq - 1`. `continued`: it ends
    /// inside one that block `seq + 1` goes on with.
    pub fn new(codec: Codec, continues: bool, continued: bool) -> Self {
        let codec = match codec {
            Codec::None => 0,
            Codec::Lz4 => 1,
            Codec::Zstd => 2,
        };
        Self(
            codec
                | if continues { Self::CONTINUES } else { 0 }
                | if continued { Self::CONTINUED } else { 0 },
        )
    }

    /// The flags of a block that is encrypted after it was encoded.
    #[must_use]
    pub fn encrypted(self) -> Self {
        Self(self.0 | Self::ENCRYPTED)
    }

    /// `None` if a codec or a bit is not known.
    pub fn try_from_bits(bits: u32) -> Option<Self> {
        (bits & !(Self::CONTINUES | Self::CONTINUED | Self::ENCRYPTED) <= 2).then_some(Self(bits))
    }

    /// The flags' bits, on the wire and in files.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// How the bytes are encoded.
    pub fn codec(self) -> Codec {
        match self.0 & 0xff {
            0 => Codec::None,
            1 => Codec::Lz4,
            _ => Codec::Zstd,
        }
    }

    /// Whether a block with these flags can have so many bytes stored and decoded.
    pub fn fit(self, length: u32, raw_length: u32) -> bool {
        let extra = if self.is_encrypted() { ENCRYPTION } else { 0 };
        let plain = length.checked_sub(extra).filter(|&plain| plain > 0);
        plain.is_some() && (self.codec() != Codec::None || plain == Some(raw_length))
    }

    /// Encrypted after it was encoded.
    pub fn is_encrypted(self) -> bool {
        self.0 & Self::ENCRYPTED != 0
    }

    /// Starts inside a record of block `seq - 1`.
    pub fn continues(self) -> bool {
        self.0 & Self::CONTINUES != 0
    }

    /// Ends inside a record that block `seq + 1` goes on with.
    pub fn continued(self) -> bool {
        self.0 & Self::CONTINUED != 0
    }
}

impl std::fmt::Debug for Flags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.codec())?;
        f.write_str(if self.is_encrypted() {
            "+encrypted"
        } else {
            ""
        })?;
        f.write_str(if self.continues() { "+continues" } else { "" })?;
        f.write_str(if self.continued() { "+continued" } else { "" })
    }
}

/// Header of a block: all that is known of it beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockHeader {
    /// Reduce partition.
    pub partition: PartitionId,
    /// Map task that wrote it.
    pub map_index: MapIndex,
    /// Try that wrote it.
    pub attempt: AttemptId,
    /// Position among the attempt's blocks, from 0, in the order in which they were sent.
    pub seq: u32,
    /// Stored bytes, 1 to [`MAX_BLOCK`].
    pub length: u32,
    /// Bytes after decoding, 1 to [`MAX_BLOCK`].
    pub raw_length: u32,
    /// Records that end in this block.
    pub records: u32,
    /// Codec and continuation.
    pub flags: Flags,
    /// [`BlockHeader::checksum_of`] these fields and the stored bytes.
    pub checksum: u32,
}

impl BlockHeader {
    /// Everything but the checksum, as it is checksummed and, for an encrypted block,
    /// authenticated.
    pub fn identity(&self) -> [u8; 36] {
        let mut bytes = [0; 36];
        bytes[0..4].copy_from_slice(&self.partition.0.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.map_index.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.attempt.0.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.seq.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.length.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.raw_length.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.records.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.flags.bits().to_le_bytes());
        bytes
    }

    /// The checksum that this header must carry for a body whose CRC-32 state is `body`. Does not
    /// look at `self.checksum`.
    pub fn checksum_of(&self, mut body: crc32fast::Hasher) -> u32 {
        body.update(&self.identity());
        body.finalize()
    }

    /// Whether the checksum fits these bytes and this header.
    pub fn verify<'a>(&self, pieces: impl IntoIterator<Item = &'a [u8]>) -> bool {
        let mut body = crc32fast::Hasher::new();
        let mut length = 0u64;
        for piece in pieces {
            length += piece.len() as u64;
            body.update(piece);
        }
        length == u64::from(self.length) && self.checksum_of(body) == self.checksum
    }
}

/// What an attempt wrote for one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionTotal {
    /// Reduce partition.
    pub partition: PartitionId,
    /// Blocks, at least 1.
    pub blocks: u32,
    /// Stored bytes.
    pub bytes: u64,
    /// Records.
    pub records: u64,
}

/// Gives each block its part of bytes that lie back to back in pieces. One that lies across the
/// border of two pieces is copied; the last ones are too short where there are too few bytes, which
/// their checksums tell.
pub fn cut(
    headers: Vec<BlockHeader>,
    pieces: Vec<Bytes>,
) -> impl Iterator<Item = (BlockHeader, Bytes)> {
    let mut pieces = pieces.into_iter();
    let mut piece = Bytes::new();
    headers.into_iter().map(move |header| {
        let length = header.length as usize;
        if piece.is_empty() {
            piece = pieces.next().unwrap_or_default();
        }
        if piece.len() >= length {
            return (header, piece.split_to(length));
        }
        let mut joined = BytesMut::with_capacity(length);
        joined.extend_from_slice(&piece);
        piece = Bytes::new();
        while joined.len() < length {
            let Some(mut next) = pieces.next() else { break };
            joined.extend_from_slice(&next.split_to(next.len().min(length - joined.len())));
            piece = next;
        }
        (header, joined.freeze())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> BlockHeader {
        BlockHeader {
            partition: PartitionId(1),
            map_index: MapIndex(2),
            attempt: AttemptId(3),
            seq: 4,
            length: 5,
            raw_length: 6,
            records: 7,
            flags: Flags::new(Codec::Lz4, true, false),
            checksum: 0,
        }
    }

    fn body(bytes: &[u8]) -> crc32fast::Hasher {
        let mut body = crc32fast::Hasher::new();
        body.update(bytes);
        body
    }

    #[test]
    fn the_checksum_never_changes() {
        assert_eq!(header().checksum_of(body(b"bytes")), GOLDEN);
    }
    /// zlib's CRC-32 of "bytes" and of the header's 36 bytes; stored data depends on it.
    const GOLDEN: u32 = 3_628_697_258;

    #[test]
    fn a_block_is_verified_in_any_pieces_and_at_its_length_only() {
        let mut header = header();
        header.checksum = header.checksum_of(body(b"bytes"));
        assert!(header.verify([&b"bytes"[..]]));
        assert!(header.verify([&b"by"[..], b"", b"tes"]));
        assert!(!header.verify([&b"byte"[..]]));
        assert!(!header.verify([&b"bytes!"[..]]));
    }

    #[test]
    fn a_bit_flipped_in_the_bytes_or_in_any_field_is_found() {
        let mut good = header();
        good.checksum = good.checksum_of(body(b"bytes"));
        for bit in 0..40 {
            let mut bytes = *b"bytes";
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(!good.verify([&bytes[..]]), "bit {bit}");
        }
        let flips: [fn(&mut BlockHeader); 7] = [
            |header| header.partition.0 ^= 1,
            |header| header.map_index.0 ^= 1 << 31,
            |header| header.attempt.0 ^= 1 << 63,
            |header| header.seq ^= 2,
            |header| header.raw_length ^= 1 << 20,
            |header| header.records ^= 1,
            |header| header.flags = Flags::new(Codec::None, true, false),
        ];
        for (position, flip) in flips.into_iter().enumerate() {
            let mut bad = good;
            flip(&mut bad);
            assert!(!bad.verify([&b"bytes"[..]]), "field {position}");
        }
    }

    #[test]
    fn flags_keep_what_they_say_and_unknown_bits_are_refused() {
        for codec in [Codec::None, Codec::Lz4, Codec::Zstd] {
            for (continues, continued) in
                [(false, false), (false, true), (true, false), (true, true)]
            {
                let flags = Flags::new(codec, continues, continued);
                for flags in [flags, flags.encrypted()] {
                    assert_eq!(
                        (flags.codec(), flags.continues(), flags.continued()),
                        (codec, continues, continued)
                    );
                    assert_eq!(Flags::try_from_bits(flags.bits()), Some(flags));
                }
                assert!(flags.encrypted().is_encrypted() && !flags.is_encrypted());
            }
        }
        for bits in [3, 0xff, 1 << 11, 1 << 31, 1 << 7] {
            assert_eq!(Flags::try_from_bits(bits), None, "{bits:#x}");
        }
    }

    #[test]
    fn blocks_are_cut_wherever_the_pieces_end() {
        let bytes: Vec<u8> = (0..100).collect();
        let headers = || [7, 0, 30, 1, 62].map(|length| BlockHeader { length, ..header() });
        for size in 1..=100 {
            let pieces = bytes.chunks(size).map(Bytes::copy_from_slice).collect();
            let cut: Vec<_> = cut(headers().to_vec(), pieces).collect();
            let lengths: Vec<_> = cut.iter().map(|(_, bytes)| bytes.len()).collect();
            assert_eq!(lengths, [7, 0, 30, 1, 62], "pieces of {size}");
            assert_eq!(
                cut.iter().flat_map(|(_, b)| b.to_vec()).collect::<Vec<_>>(),
                bytes
            );
        }
        let short = cut(headers().to_vec(), vec![Bytes::from_static(&[1; 36])]);
        let lengths: Vec<_> = short.map(|(_, bytes)| bytes.len()).collect();
        assert_eq!(lengths, [7, 0, 29, 0, 0]);
    }
}
