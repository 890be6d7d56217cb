//! How blocks and their totals are stored, in the same bytes on every tier: disks of servers and
//! objects. All numbers are little-endian.
//!
//! | bytes of a row | field |
//! |---|---|
//! | 0..36 | as the block's checksum covers them, see [`crate::block`] |
//! | 36..40 | the block's checksum u32 |
//!
//! Totals per partition are packed: [`totals`]. A byte that has changed where much depends on it:
//! [`mend`]. Owns no file and no object: what rows and totals lie in is tabled where it is written.

pub mod mend;
pub mod totals;

use crate::{
    block::{BlockHeader, Flags, MAX_BLOCK},
    ids::{AttemptId, MapIndex, PartitionId},
};

/// Bytes of a row.
pub const ROW: usize = 40;

/// Appends a row.
pub fn put_row(out: &mut Vec<u8>, block: &BlockHeader) {
    out.extend(block.identity());
    out.extend(block.checksum.to_le_bytes());
}

/// Reads a row; `None` if no block can look like this.
pub fn row(bytes: &[u8]) -> Option<BlockHeader> {
    let bytes: &[u8; ROW] = bytes.first_chunk()?;
    let u32_at =
        |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let block = BlockHeader {
        partition: PartitionId(u32_at(0)),
        map_index: MapIndex(u32_at(4)),
        attempt: AttemptId(u64::from(u32_at(8)) | u64::from(u32_at(12)) << 32),
        seq: u32_at(16),
        length: u32_at(20),
        raw_length: u32_at(24),
        records: u32_at(28),
        flags: Flags::try_from_bits(u32_at(32))?,
        checksum: u32_at(36),
    };
    let sizes = 1..=MAX_BLOCK;
    let possible = sizes.contains(&block.length)
        && sizes.contains(&block.raw_length)
        && block.flags.fit(block.length, block.raw_length);
    possible.then_some(block)
}

/// Appends a LEB128 number.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A place in bytes that are read from the front; `None` where they end too early.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// So many bytes.
    pub fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    /// Takes all bytes that are left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// Takes one byte.
    pub fn u8(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(*self.take(4)?.first_chunk()?))
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(*self.take(8)?.first_chunk()?))
    }

    /// A LEB128 number.
    pub fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::block::Codec;

    #[test]
    fn a_row_stays_what_it_is_and_decodes_to_itself() {
        let block = BlockHeader {
            partition: PartitionId(1),
            map_index: MapIndex(2),
            attempt: AttemptId(3),
            seq: 4,
            length: 5,
            raw_length: 6,
            records: 7,
            flags: Flags::new(Codec::Lz4, true, false),
            checksum: 9,
        };
        let mut bytes = Vec::new();
        put_row(&mut bytes, &block);
        assert_eq!(bytes.len(), ROW);
        let numbers = [1u32, 2, 3, 0, 4, 5, 6, 7, 0x101, 9];
        let expected: Vec<u8> = numbers.into_iter().flat_map(u32::to_le_bytes).collect();
        assert_eq!(bytes, expected, "a changed format needs a new version");
        assert_eq!(row(&bytes), Some(block));
        assert_eq!(row(&bytes[1..]), None);
    }

    proptest! {
        #[test]
        fn varints_decode_to_themselves(value in any::<u64>()) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            let mut reader = Reader(&out);
            prop_assert_eq!(reader.varint(), Some(value));
            prop_assert!(reader.0.is_empty());
        }
    }
}
