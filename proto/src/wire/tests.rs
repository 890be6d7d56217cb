//! What the network may send: what is right comes through unchanged, anything else is named.

use proptest::prelude::*;

use super::*;
use crate::block::Codec;

fn header(partition: u32, seq: u32, length: u32) -> BlockHeader {
    BlockHeader {
        partition: PartitionId(partition),
        map_index: MapIndex(3),
        attempt: AttemptId(4),
        seq,
        length,
        raw_length: length + 1,
        records: 1,
        flags: Flags::new(Codec::Lz4, false, false),
        checksum: 9,
    }
}

fn table(blocks: &[BlockHeader], owned: bool) -> v1::BlockTable {
    let mut table = v1::BlockTable::default();
    blocks
        .iter()
        .for_each(|block| put_block(&mut table, block, owned));
    table
}

fn pushed(table: &v1::BlockTable, payload: usize) -> Result<Vec<BlockHeader>, Invalid> {
    pushed_blocks(table, payload, MapIndex(3), AttemptId(4), 10, 5)
}

#[test]
fn a_pushed_table_comes_through_with_the_owner_of_its_stream() {
    let blocks = [header(0, 5, 10), header(0, 6, 20), header(9, 7, 1)];
    assert_eq!(pushed(&table(&blocks, false), 31), Ok(blocks.to_vec()));
}

#[test]
fn an_encrypted_block_is_longer_by_what_encryption_adds() {
    let block = |codec, length, raw_length| BlockHeader {
        length,
        raw_length,
        flags: Flags::new(codec, false, false).encrypted(),
        ..header(0, 5, 1)
    };
    for good in [
        block(Codec::None, 34, 10),
        block(Codec::Zstd, 25, 1000),
        block(Codec::Lz4, MAX_BLOCK, MAX_BLOCK),
    ] {
        let payload = good.length as usize;
        assert_eq!(pushed(&table(&[good], false), payload), Ok(vec![good]));
    }
    for bad in [
        block(Codec::None, 10, 10),
        block(Codec::None, 35, 10),
        block(Codec::Lz4, 24, 1000),
    ] {
        let payload = bad.length as usize;
        assert!(pushed(&table(&[bad], false), payload).is_err(), "{bad:?}");
    }
}

#[test]
fn a_fetched_table_comes_through_with_the_owners_of_its_blocks() {
    let blocks = [
        BlockHeader {
            attempt: AttemptId(u64::MAX),
            ..header(7, 0, 10)
        },
        header(2, 9, 20),
    ];
    assert_eq!(
        fetched_blocks(&table(&blocks, true), 30),
        Ok(blocks.to_vec())
    );
}

#[test]
fn a_pushed_table_that_cannot_be_is_refused_with_its_field() {
    let good = [header(1, 5, 10), header(2, 6, 10)];
    let refused = |change: &dyn Fn(&mut v1::BlockTable), payload: usize| {
        let mut table = table(&good, false);
        change(&mut table);
        pushed(&table, payload).expect_err("it is wrong").field
    };
    assert_eq!(
        refused(&|table| table.attempt.push(1), 20),
        "batch.table.attempt"
    );
    assert_eq!(
        refused(&|table| table.partition[0] = 10, 20),
        "batch.table.partition"
    );
    assert_eq!(
        refused(&|table| table.partition[1] = 0, 20),
        "batch.table.partition"
    );
    assert_eq!(refused(&|table| table.seq[1] = 7, 20), "batch.table.seq");
    assert_eq!(refused(&|table| table.seq[0] = 0, 20), "batch.table.seq");
    assert_eq!(refused(&|table| table.flags[0] = 3, 20), "batch.table");
    assert_eq!(
        refused(&|table| table.flags[0] = 1 << 10, 20),
        "batch.table"
    );
    assert_eq!(refused(&|table| table.flags[0] = 0, 20), "batch.table");
    assert_eq!(refused(&|table| table.length[0] = 0, 10), "batch.table");
    assert_eq!(refused(&|table| table.raw_length[0] = 0, 20), "batch.table");
    assert_eq!(
        refused(&|table| table.length[0] = MAX_BLOCK + 1, 20),
        "batch.table"
    );
    assert_eq!(
        refused(&|table| table.checksum.truncate(1), 20),
        "batch.table"
    );
    assert_eq!(
        refused(&|table| *table = v1::BlockTable::default(), 0),
        "batch.table"
    );
    assert_eq!(refused(&|_| {}, 19), "payload");
    assert_eq!(refused(&|_| {}, 21), "payload");
}

#[test]
fn a_fetched_table_without_owners_is_refused() {
    let blocks = [header(1, 5, 10)];
    assert_eq!(
        fetched_blocks(&table(&blocks, false), 10)
            .expect_err("no owners")
            .field,
        "table.attempt"
    );
}

#[test]
fn totals_come_through_and_wrong_ones_are_refused() {
    let total = |partition, blocks| PartitionTotal {
        partition: PartitionId(partition),
        blocks,
        bytes: 5,
        records: 6,
    };
    let good = [total(0, 1), total(7, 2)];
    assert_eq!(totals(&totals_message(&good), 8), Ok(good.to_vec()));
    assert_eq!(
        totals(&totals_message(&good), 7)
            .expect_err("out of range")
            .field,
        "commit.totals.partition"
    );
    let refused = |totals_: &[PartitionTotal]| {
        totals(&totals_message(totals_), 8)
            .expect_err("it is wrong")
            .field
    };
    assert_eq!(
        refused(&[total(1, 1), total(1, 1)]),
        "commit.totals.partition"
    );
    assert_eq!(
        refused(&[total(2, 1), total(1, 1)]),
        "commit.totals.partition"
    );
    assert_eq!(refused(&[total(1, 0)]), "commit.totals.blocks");
    let uneven = v1::PartitionTotals {
        bytes: vec![],
        ..totals_message(&good)
    };
    assert_eq!(
        totals(&uneven, 8).expect_err("uneven columns").field,
        "commit.totals"
    );
}

#[test]
fn ids_and_ranges_are_checked_at_their_borders() {
    for text in ["", ".", "..", "a/b", "a b", "ä", &"x".repeat(129)] {
        assert!(app("app", text).is_err(), "{text:?}");
    }
    for text in ["a", "app-20260101_0001.2", "...", &"x".repeat(128)] {
        assert!(app("app", text).is_ok(), "{text:?}");
    }
    let id = VolumeId::random();
    assert_eq!(volume("volume", id.0.as_bytes()), Ok(id));
    assert!(volume("volume", &[0; 15]).is_err());
    assert_eq!(VolumeId::parse(&id.to_string()), Some(id));
    assert!(
        count("count", 0).is_err()
            && count("count", MAX_TASKS + 1).is_err()
            && count("count", MAX_TASKS).is_ok()
    );
    assert!(index("index", 4, 5).is_ok() && index("index", 5, 5).is_err());
    assert!(
        range("range", 1, 2).is_ok()
            && range("range", 2, 2).is_err()
            && range("range", 3, 2).is_err()
    );
}

#[test]
fn a_long_value_is_shortened_in_the_message() {
    let message = Invalid::new("field", "ä".repeat(10_000), "send less").to_string();
    assert!(
        message.len() < 400 && message.ends_with("…: send less"),
        "{message}"
    );
}

proptest! {
    #[test]
    fn arbitrary_tables_are_refused_or_within_bounds(
        columns in prop::collection::vec(prop::collection::vec(any::<u32>(), 0..4), 7),
        attempts in prop::collection::vec(any::<u64>(), 0..4),
        payload in 0usize..10_000,
    ) {
        let table = v1::BlockTable {
            partition: columns[0].clone(),
            seq: columns[1].clone(),
            length: columns[2].clone(),
            raw_length: columns[3].clone(),
            records: columns[4].clone(),
            flags: columns[5].iter().map(|flags| flags % 4).collect(),
            checksum: columns[6].clone(),
            map_index: columns[0].clone(),
            attempt: attempts,
        };
        for blocks in [pushed(&table, payload), fetched_blocks(&table, payload)].into_iter().flatten() {
            prop_assert_eq!(blocks.iter().map(|block| block.length as usize).sum::<usize>(), payload);
            prop_assert!(blocks.iter().all(|block| block.length <= MAX_BLOCK && block.raw_length <= MAX_BLOCK));
        }
    }

    #[test]
    fn a_sound_push_is_never_refused(lengths in prop::collection::vec((0u32..10, 1u32..2000), 1..50)) {
        let mut partitions: Vec<_> = lengths.iter().map(|(partition, _)| *partition).collect();
        partitions.sort_unstable();
        let blocks: Vec<_> =
            partitions.iter().zip(&lengths).zip(5..).map(|((partition, (_, length)), seq)| header(*partition, seq, *length)).collect();
        let payload = lengths.iter().map(|(_, length)| *length as usize).sum();
        prop_assert_eq!(pushed(&table(&blocks, false), payload), Ok(blocks));
    }
}

#[test]
fn wanted_attempts_come_through_whatever_their_ids() {
    let wanted: BTreeSet<_> = [
        (0, u64::MAX),
        (0, 0),
        (1, 7),
        (5, 1 << 63),
        (5, (1 << 63) + 1),
        (u32::MAX, 3),
    ]
    .map(|(map, attempt)| (MapIndex(map), AttemptId(attempt)))
    .into();
    let message = attempts_message(wanted.iter().copied());
    assert_eq!(attempts("only", &message), Ok(wanted));
    assert_eq!(
        attempts("only", &v1::Attempts::default()),
        Ok(BTreeSet::new())
    );
}

#[test]
fn wanted_attempts_out_of_order_or_in_columns_of_different_length_are_refused() {
    let message = |map_index: &[u32], attempt: &[i64]| v1::Attempts {
        map_index: map_index.to_vec(),
        attempt: attempt.to_vec(),
    };
    for wrong in [
        message(&[1, 2], &[1]),
        message(&[1, 0], &[5, 0]),
        message(&[1, 0], &[5, -1]),
        message(&[u32::MAX, 1], &[1, 1]),
    ] {
        assert_eq!(attempts("only", &wrong).unwrap_err().field, "only");
    }
}

#[test]
fn the_most_attempts_of_a_fetch_fit_its_request_whatever_they_are() {
    let most = u32::try_from(MAX_WANTED).expect("few");
    // As far from each other as they can be, on the last of many volumes.
    let attempt = |number: u32| AttemptId(u64::from(number % 2) << 63);
    let wanted = (0..most).map(|number| (MapIndex(number * (u32::MAX / most)), attempt(number)));
    let mut only = vec![v1::Attempts::default(); 255];
    only.push(attempts_message(wanted));
    let request = v1::FetchRequest {
        caller: Some(v1::Caller {
            app: "a".repeat(128),
            token: "t".repeat(256),
            protocol: u32::MAX,
            lease_ms: u64::MAX,
            ..Default::default()
        }),
        shuffle: u32::MAX,
        volumes: vec![vec![2; 16].into(); only.len()],
        partition_start: u32::MAX - 1,
        partition_end: u32::MAX,
        map_start: 0,
        map_end: u32::MAX,
        cursor: vec![3; 64].into(),
        only,
    };
    let bytes = prost::Message::encoded_len(&request);
    assert!(bytes <= MAX_FETCH, "{bytes} bytes");
}
