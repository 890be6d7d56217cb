//! The bytes that are pushed and read back: a function of (seed, map, partition, position).
//!
//! One region of pseudo-random words is made once, and every (map, partition) is a stretch of it: a
//! map starts at a place drawn from the seed, its partitions follow each other. So a block costs
//! nothing to make (a slice of the region, cold in the cache because the region is larger than it)
//! and one `memcmp` to verify, and a block that is swapped, shifted or cut is not what is expected.
//!
//! The region's length is a prime, so that partitions of one map, however long, do not start at the
//! same byte of it.

use std::ops::Range;

use bytes::Bytes;
use shuffle_proto::block::MAX_BLOCK;

/// Bytes of the region: the largest prime below 256 MiB, more than any cache holds.
pub(crate) const REGION: usize = 268_435_399;

/// Where it goes on past its end, a block is still one slice: the region's head is repeated.
const OVERHANG: usize = MAX_BLOCK as usize;

/// How well the bytes compress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Texture {
    /// Not at all.
    Random,
    /// As a table of small 64-bit numbers does.
    Numbers,
}

/// See the module.
#[derive(Clone)]
pub(crate) struct Payload {
    seed: u64,
    length: usize,
    bytes: Bytes,
}

impl Payload {
    /// The region that `forebay-bench` uses.
    pub(crate) fn new(seed: u64, texture: Texture) -> Self {
        Self::with_region(seed, texture, REGION)
    }

    pub(crate) fn with_region(seed: u64, texture: Texture, length: usize) -> Self {
        let total = length + OVERHANG;
        let mut bytes = Vec::with_capacity(total + 8);
        for position in 0..length.div_ceil(8) as u64 {
            bytes.extend_from_slice(&word(seed, texture, position).to_le_bytes());
        }
        bytes.truncate(length);
        while bytes.len() < total {
            let more = length.min(total - bytes.len());
            bytes.extend_from_within(..more);
        }
        Self {
            seed,
            length,
            bytes: Bytes::from(bytes),
        }
    }

    /// `length` bytes, at most [`MAX_BLOCK`], of what this map writes for this partition. `stride`
    /// is how much it writes for each.
    pub(crate) fn slice(
        &self,
        map: u32,
        partition: u32,
        stride: u64,
        position: u64,
        length: usize,
    ) -> &[u8] {
        &self.bytes[self.range(map, partition, stride, position, length)]
    }

    /// Whether these are the bytes from `position` on.
    pub(crate) fn matches(
        &self,
        map: u32,
        partition: u32,
        stride: u64,
        position: u64,
        bytes: &[u8],
    ) -> bool {
        bytes.len() <= OVERHANG
            && self.bytes[self.range(map, partition, stride, position, bytes.len())] == *bytes
    }

    /// The region in pieces of `piece` bytes, again and again, up to `total` bytes: what raw TCP
    /// sends.
    pub(crate) fn pieces(&self, piece: usize, total: u64) -> impl Iterator<Item = Bytes> + use<> {
        let (bytes, length) = (self.bytes.clone(), self.length as u64);
        (0..total).step_by(piece).map(move |position| {
            let start = (position % length) as usize;
            let size = (total - position).min(piece as u64) as usize;
            bytes.slice(start..start + size)
        })
    }

    fn range(
        &self,
        map: u32,
        partition: u32,
        stride: u64,
        position: u64,
        length: usize,
    ) -> Range<usize> {
        assert!(length <= OVERHANG, "a block is at most {OVERHANG} bytes");
        let region = self.length as u128;
        let base = u128::from(mix(self.seed ^ mix(u64::from(map))));
        let offset = base + u128::from(partition) * u128::from(stride) + u128::from(position);
        let start = (offset % region) as usize;
        start..start + length
    }
}

/// The region's word at this position.
fn word(seed: u64, texture: Texture, position: u64) -> u64 {
    let random = mix(seed.wrapping_add(position.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    match texture {
        Texture::Random => random,
        Texture::Numbers => random & 0x000f_ffff,
    }
}

/// SplitMix64's last step: every bit of the input reaches every bit of the output.
fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;

    /// Small and prime, so that everything wraps.
    const SMALL: usize = 65_521;
    static PAYLOAD: LazyLock<Payload> =
        LazyLock::new(|| Payload::with_region(7, Texture::Random, SMALL));

    proptest! {
        #[test]
        fn a_slice_of_a_partition_is_that_part_of_the_whole(
            map: u32, partition in 0u32..1 << 24, stride in 1u64..1 << 30, start in 0usize..100_000, length in 0usize..100_000,
        ) {
            let whole = PAYLOAD.slice(map, partition, stride, 0, 200_000);
            let part = PAYLOAD.slice(map, partition, stride, start as u64, length);
            prop_assert_eq!(&whole[start..start + length], part);
            prop_assert!(PAYLOAD.matches(map, partition, stride, start as u64, part));
        }

        #[test]
        fn every_byte_is_the_byte_of_its_word(position in 0usize..SMALL) {
            let byte = word(7, Texture::Random, position as u64 / 8).to_le_bytes()[position % 8];
            prop_assert_eq!(PAYLOAD.bytes[position], byte);
        }

        #[test]
        fn one_flipped_bit_does_not_match(map: u32, partition in 0u32..1000, at in 0usize..4096, bit in 0u32..8) {
            let mut bytes = PAYLOAD.slice(map, partition, 4096, 0, 4096).to_vec();
            bytes[at] ^= 1 << bit;
            prop_assert!(!PAYLOAD.matches(map, partition, 4096, 0, &bytes));
        }

        #[test]
        fn the_bytes_of_another_map_partition_or_position_do_not_match(
            map in 0u32..1000, partition in 0u32..1000, other_map in 0u32..1000, other_partition in 0u32..1000, shift in 0u64..64,
        ) {
            prop_assume!((map, partition, 0) != (other_map, other_partition, shift));
            let bytes = PAYLOAD.slice(map, partition, 4096, 0, 4096);
            // In so small a region two stretches may be the same one.
            let same = PAYLOAD.range(map, partition, 4096, 0, 1) == PAYLOAD.range(other_map, other_partition, 4096, shift, 1);
            prop_assert_eq!(PAYLOAD.matches(other_map, other_partition, 4096, shift, bytes), same);
        }
    }

    #[test]
    fn pieces_add_up_to_the_total() {
        let pieces: Vec<Bytes> = PAYLOAD.pieces(10_000, 123_456).collect();
        assert_eq!(
            pieces.iter().map(|piece| piece.len() as u64).sum::<u64>(),
            123_456
        );
        assert!(pieces[..12].iter().all(|piece| piece.len() == 10_000));
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
        let again = Payload::with_region(7, Texture::Random, SMALL);
        let other = Payload::with_region(8, Texture::Random, SMALL);
        assert_eq!(again.bytes, PAYLOAD.bytes);
        assert_ne!(other.bytes, PAYLOAD.bytes);
    }
}
