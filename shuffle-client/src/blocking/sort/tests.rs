use proptest::prelude::*;

use super::*;
use crate::error::Kind;

/// An arena as an engine writes it.
struct Arena {
    bytes: Vec<u8>,
    /// In memory order.
    entries: Vec<u64>,
    data_bytes: u64,
}

fn arena(records: &[(u32, Vec<u8>)]) -> Arena {
    let data: Vec<u8> = records
        .iter()
        .flat_map(|(_, bytes)| bytes.clone())
        .collect();
    let mut entries = Vec::new();
    let mut offset = 0u64;
    for (partition, bytes) in records {
        entries.insert(0, u64::from(*partition) << 32 | offset);
        offset += bytes.len() as u64;
    }
    let mut bytes = data.clone();
    bytes.resize(data.len() + records.len() * 8 + 16, 0xee);
    Arena {
        bytes,
        entries,
        data_bytes: data.len() as u64,
    }
}

fn blocks(
    arena: &Arena,
    partitions: u32,
    target: usize,
) -> Result<Vec<(Block, Vec<u8>, usize)>, Error> {
    let mut sorted = Sorted::default();
    let entries: Vec<_> = arena
        .entries
        .iter()
        .map(|entry| entry.to_ne_bytes())
        .collect();
    sorted.sort(&entries, arena.bytes.len(), arena.data_bytes, partitions)?;
    let (mut cursor, mut pieces, mut blocks) = (Cursor::default(), Vec::new(), Vec::new());
    while let Some(block) = sorted.next_block(&mut cursor, target, &mut pieces) {
        let bytes = pieces
            .iter()
            .flat_map(|piece| arena.bytes[piece.clone()].to_vec())
            .collect();
        blocks.push((block, bytes, pieces.len()));
    }
    assert_eq!(sorted.next_block(&mut cursor, target, &mut pieces), None);
    Ok(blocks)
}

#[test]
fn records_side_by_side_become_one_piece() {
    let records: Vec<_> = (0..100).map(|i| (i / 50, vec![7; 10])).collect();
    let blocks = blocks(&arena(&records), 2, 1 << 16).expect("valid");
    assert_eq!(
        blocks
            .iter()
            .map(|(block, _, pieces)| (block.records, *pieces))
            .collect::<Vec<_>>(),
        [(50, 1), (50, 1)]
    );
}

#[test]
fn a_small_rest_goes_along_and_a_large_one_does_not() {
    let records: Vec<_> = (0..12).map(|_| (0, vec![1; 10])).collect();
    let sizes = |target| {
        blocks(&arena(&records), 1, target)
            .expect("valid")
            .iter()
            .map(|(block, ..)| block.bytes)
            .collect::<Vec<_>>()
    };
    assert_eq!(sizes(100), [120]);
    assert_eq!(sizes(70), [70, 50]);
    assert_eq!(sizes(1), [10; 12]);
}

#[test]
fn an_empty_arena_has_no_blocks() {
    assert!(blocks(&arena(&[]), 3, 10).expect("valid").is_empty());
}

#[test]
fn what_an_engine_must_not_write_is_refused_with_its_name() {
    let good = || arena(&[(0, vec![1; 4]), (2, vec![2; 4]), (1, vec![3; 4])]);
    let refused = |spoil: &dyn Fn(&mut Arena), partitions: u32, word: &str| {
        let mut arena = good();
        spoil(&mut arena);
        let error = blocks(&arena, partitions, 100).expect_err(word);
        assert_eq!(error.kind, Kind::Invalid);
        assert!(error.message.contains(word), "{error}");
    };
    refused(&|_| {}, 2, "partition 2");
    refused(&|arena| arena.entries[1] = 2 << 32 | 8, 3, "back to back");
    refused(&|arena| arena.entries[0] = 1 << 32 | 12, 3, "record 2");
    refused(&|arena| arena.entries[2] = 1, 3, "record 0");
    refused(&|arena| arena.data_bytes = 8, 3, "record 2");
    refused(
        &|arena| arena.data_bytes = arena.bytes.len() as u64 - 23,
        3,
        "dataBytes",
    );
    refused(&|arena| arena.data_bytes = u64::MAX, 3, "dataBytes");
    refused(
        &|arena| arena.entries[0] = u64::from(u32::MAX) << 32 | 8,
        3,
        "partition 4294967295",
    );
}

proptest! {
    #[test]
    fn blocks_hold_every_record_once_sorted_and_in_order(
        records in prop::collection::vec((0u32..6, prop::collection::vec(any::<u8>(), 1..40)), 0..200),
        target in 1usize..300,
    ) {
        let arena = arena(&records);
        let blocks = blocks(&arena, 6, target).expect("valid");
        for partition in 0..6 {
            // The oracle: filter, in the order written.
            let expected: Vec<u8> = records.iter().filter(|(p, _)| *p == partition).flat_map(|(_, bytes)| bytes.clone()).collect();
            let count = records.iter().filter(|(p, _)| *p == partition).count();
            let mine: Vec<_> = blocks.iter().filter(|(block, ..)| block.partition.0 == partition).collect();
            prop_assert_eq!(mine.iter().flat_map(|(_, bytes, _)| bytes.clone()).collect::<Vec<_>>(), expected);
            prop_assert_eq!(mine.iter().map(|(block, ..)| block.records as usize).sum::<usize>(), count);
        }
        for pair in blocks.windows(2) {
            prop_assert!(pair[0].0.partition <= pair[1].0.partition);
        }
        for (block, bytes, pieces) in &blocks {
            prop_assert_eq!(block.bytes, bytes.len());
            prop_assert!(block.records > 0 && *pieces <= block.records as usize);
            prop_assert!(block.records == 1 || block.bytes < target + target / 4 + 1 || block.bytes <= 40 + target / 4);
        }
    }

    #[test]
    fn garbage_is_refused_or_sorted_but_never_leaves_the_data(
        entries in prop::collection::vec(prop_oneof![any::<u64>(), (0u64..4, 0u64..64).prop_map(|(p, o)| p << 32 | o)], 0..20),
        data_bytes in 0u64..200,
        partitions in 1u32..6,
    ) {
        let arena = Arena { bytes: vec![0; 256], entries, data_bytes };
        if let Ok(blocks) = blocks(&arena, partitions, 16) {
            prop_assert_eq!(blocks.iter().map(|(block, ..)| block.bytes as u64).sum::<u64>(), if arena.entries.is_empty() { 0 } else { data_bytes });
        }
    }
}
