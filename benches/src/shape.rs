//! How the asked-for bytes are cut into maps, partitions and blocks. All maps write the same.

use anyhow::{Result, ensure};
use shuffle_proto::{block::MAX_BLOCK, wire::MAX_TASKS};

use crate::size::ByteSize;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) maps: u32,
    pub(crate) partitions: u32,
    pub(crate) block: u32,
    /// Blocks that each map writes for each partition.
    pub(crate) blocks_per_partition: u32,
}

impl Shape {
    /// The shape nearest to `size`. Without `maps`, each map writes one block per partition.
    pub(crate) fn try_new(
        size: ByteSize,
        maps: Option<u32>,
        partitions: u32,
        block: ByteSize,
    ) -> Result<Self> {
        ensure!(
            block.0 <= u64::from(MAX_BLOCK),
            "--block is {block}: blocks are at most {}",
            ByteSize(MAX_BLOCK.into())
        );
        ensure!(
            (1..=MAX_TASKS).contains(&partitions),
            "--partitions is {partitions}: choose 1 to {MAX_TASKS}"
        );
        let row = u64::from(partitions) * block.0;
        let maps = match maps {
            Some(maps) => u64::from(maps),
            None => (size.0 + row / 2).checked_div(row).unwrap_or(1).max(1),
        };
        ensure!(
            (1..=u64::from(MAX_TASKS)).contains(&maps),
            "--maps would be {maps}: choose 1 to {MAX_TASKS}"
        );
        let all_maps = maps * row;
        let blocks_per_partition = ((size.0 + all_maps / 2) / all_maps).max(1);
        ensure!(
            blocks_per_partition <= 1 << 20,
            "{size} in {maps} maps of {partitions} partitions is {blocks_per_partition} blocks per partition: ask for more maps"
        );
        let shape = Self {
            maps: maps as u32,
            partitions,
            block: block.0 as u32,
            blocks_per_partition: blocks_per_partition as u32,
        };
        ensure!(
            shape.bytes() <= size.0.saturating_mul(2).max(row),
            "{maps} maps x {partitions} partitions x {block} is {}, far more than --size {size}: use fewer maps or partitions, or smaller blocks",
            ByteSize(shape.bytes()),
        );
        Ok(shape)
    }

    /// Bytes that a map writes for one partition.
    pub(crate) fn stride(&self) -> u64 {
        u64::from(self.block) * u64::from(self.blocks_per_partition)
    }

    /// Bytes of one map.
    pub(crate) fn map_bytes(&self) -> u64 {
        self.stride() * u64::from(self.partitions)
    }

    /// Bytes of all maps.
    pub(crate) fn bytes(&self) -> u64 {
        self.map_bytes() * u64::from(self.maps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(size: &str, maps: Option<u32>, partitions: u32, block: &str) -> Result<Shape> {
        Shape::try_new(
            size.parse().unwrap(),
            maps,
            partitions,
            block.parse().unwrap(),
        )
    }

    #[test]
    fn without_maps_each_map_writes_one_block_per_partition() {
        let shape = shape("2GB", None, 200, "64KiB").unwrap();
        assert_eq!((shape.maps, shape.blocks_per_partition), (153, 1));
        assert!(shape.bytes().abs_diff(2_000_000_000) < 7_000_000);
    }

    #[test]
    fn with_maps_the_blocks_per_partition_make_up_the_size() {
        let shape = shape("1GiB", Some(4), 16, "1MiB").unwrap();
        assert_eq!(
            (shape.maps, shape.blocks_per_partition, shape.bytes()),
            (4, 16, 1 << 30)
        );
    }

    #[test]
    fn sizes_that_cannot_be_are_refused_and_say_what_to_change() {
        for (case, words) in [
            (shape("1GB", None, 200, "5MiB"), "--block"),
            (shape("1GB", None, 0, "1MiB"), "--partitions"),
            (shape("1GB", Some(0), 1, "1MiB"), "--maps"),
            (shape("1MB", Some(1000), 1000, "64KiB"), "fewer maps"),
        ] {
            let error = case.unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_size_below_one_row_of_blocks_is_one_map() {
        assert_eq!(shape("1B", None, 10, "4KiB").unwrap().maps, 1);
    }
}
