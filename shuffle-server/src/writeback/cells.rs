//! Cuts a shuffle into cells small enough to be sorted in memory.

use std::{collections::BTreeMap, ops::Range};

use shuffle_proto::stored::totals::Totals;

use crate::staging::Sealed;

/// Bytes of blocks in memory for one sort.
const CELL: u64 = 16 << 20;

/// Some partitions of some maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) partitions: Range<u32>,
    pub(super) maps: Range<u32>,
    /// One map's part of one partition, larger than the memory for a sort.
    pub(super) streams: bool,
}

/// Cells of all sealed attempts, in the order of (partition, map index), without empty cells.
pub(super) fn cells(sealed: &Sealed) -> Vec<Cell> {
    let totals: Vec<_> = sealed
        .totals()
        .map(|(owner, totals)| (owner.0.0, totals))
        .collect();
    cut(&totals, sealed.tasks().1, CELL)
}

fn cut(totals: &[(u32, &Totals)], partitions: u32, limit: u64) -> Vec<Cell> {
    let mut bytes = vec![0u64; partitions as usize];
    for (_, totals) in totals {
        for total in totals.entries_from(0) {
            if let Some(sum) = bytes.get_mut(total.partition.0 as usize) {
                *sum += total.bytes;
            }
        }
    }
    // Blocks of other maps between them are not wanted.
    let first = totals.iter().map(|(map, _)| *map).min();
    let last = totals.iter().map(|(map, _)| *map).max();
    let maps = first.unwrap_or(0)..last.map_or(0, |last| last + 1);
    let mut cells = Vec::new();
    let (mut start, mut sum) = (0, 0);
    let close = |cells: &mut Vec<Cell>, partitions: Range<u32>, sum: u64| {
        if sum > 0 {
            cells.push(Cell {
                partitions,
                maps: maps.clone(),
                streams: false,
            });
        }
    };
    for (partition, &size) in (0..).zip(&bytes) {
        if sum + size > limit {
            close(&mut cells, start..partition, sum);
            (start, sum) = (partition, 0);
        }
        if size > limit {
            by_maps(totals, partition, limit, &mut cells);
            (start, sum) = (partition + 1, 0);
        } else {
            sum += size;
        }
    }
    close(&mut cells, start..partitions, sum);
    cells
}

/// Cells of one large partition.
fn by_maps(totals: &[(u32, &Totals)], partition: u32, limit: u64, cells: &mut Vec<Cell>) {
    let mut maps: BTreeMap<u32, u64> = BTreeMap::new();
    for (map, totals) in totals {
        let bytes = totals.sum(&(partition..partition + 1)).bytes;
        if bytes > 0 {
            *maps.entry(*map).or_default() += bytes;
        }
    }
    let mut pending: Option<(Range<u32>, u64)> = None;
    let cell = |maps: Range<u32>, bytes: u64| Cell {
        partitions: partition..partition + 1,
        maps,
        streams: bytes > limit,
    };
    for (map, bytes) in maps {
        match &mut pending {
            Some((range, sum)) if *sum + bytes <= limit => {
                range.end = map + 1;
                *sum += bytes;
            }
            pending => {
                if let Some((range, sum)) = pending.replace((map..map + 1, bytes)) {
                    cells.push(cell(range, sum));
                }
            }
        }
    }
    cells.extend(pending.map(|(range, sum)| cell(range, sum)));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shuffle_proto::{block::PartitionTotal, ids::PartitionId};

    use super::*;

    fn totals(sizes: &[(u32, u64)]) -> Totals {
        let total = |&(partition, bytes): &(u32, u64)| PartitionTotal {
            partition: PartitionId(partition),
            blocks: 1,
            bytes,
            records: 1,
        };
        Totals::new(&sizes.iter().map(total).collect::<Vec<_>>())
    }

    #[test]
    fn small_partitions_go_together_and_large_ones_are_cut_by_maps() {
        let (a, b) = (
            totals(&[(0, 4), (1, 4), (2, 8), (4, 1)]),
            totals(&[(1, 1), (2, 30), (4, 1)]),
        );
        let cell = |partitions, maps, streams| Cell {
            partitions,
            maps,
            streams,
        };
        assert_eq!(
            cut(&[(3, &a), (7, &b)], 6, 10),
            [
                cell(0..2, 3..8, false),
                cell(2..3, 3..4, false),
                cell(2..3, 7..8, true),
                cell(3..6, 3..8, false),
            ]
        );
        assert_eq!(cut(&[], 6, 10), []);
    }

    proptest! {
        #[test]
        fn cells_hold_everything_once_in_order_and_no_more_than_they_may(
            sizes in prop::collection::vec(prop::collection::btree_map(0u32..20, 1u64..40, 0..20), 1..8)
        ) {
            let all: Vec<_> = sizes.iter().map(|sizes| totals(&sizes.iter().map(|(p, b)| (*p, *b)).collect::<Vec<_>>())).collect();
            let named: Vec<_> = all.iter().enumerate().map(|(map, totals)| (map as u32, totals)).collect();
            let cells = cut(&named, 20, 50);
            let mut before = (0, 0);
            let mut seen = 0;
            for cell in &cells {
                let at = (cell.partitions.start, cell.maps.start);
                prop_assert!(at >= before, "{cells:?}");
                before = (cell.partitions.end - 1, cell.maps.end);
                let held: u64 = sizes.iter().enumerate().filter(|(map, _)| cell.maps.contains(&(*map as u32)))
                    .flat_map(|(_, sizes)| sizes.range(cell.partitions.clone())).map(|(_, bytes)| *bytes).sum();
                prop_assert!(held > 0 && (held <= 50) != cell.streams, "{held} in {cell:?}");
                seen += held;
            }
            prop_assert_eq!(seen, sizes.iter().flat_map(|sizes| sizes.values()).sum::<u64>());
        }
    }
}
