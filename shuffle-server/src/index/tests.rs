use std::time::Duration;

use proptest::prelude::*;
use shuffle_proto::ids::{AppId, AttemptId, MapIndex, ShuffleId};
use uuid::Uuid;

use super::{
    keys::Key,
    values::{App, Attempt, DirectoryEntry, LogPlace, Meta, Run, Segment, Shuffle, Tier, Written},
    *,
};

#[test]
fn the_index_in_memory_conforms() {
    conformance::check(&MemoryIndex::default());
}

#[test]
fn the_index_in_rocksdb_conforms() {
    let dir = tempfile::tempdir().expect("temporary directory");
    conformance::check(&RocksIndex::open(dir.path()).expect("open"));
}

#[test]
fn the_index_in_rocksdb_survives_being_closed() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let record = Record::Meta(Meta {
        format: 1,
        opened: 5,
    });
    let mut batch = Changes::default();
    batch.put(Key::Meta, &record);
    RocksIndex::open(dir.path())
        .expect("open")
        .write(&batch, false)
        .expect("write");
    let index = RocksIndex::open(dir.path()).expect("open again");
    assert_eq!(read(&index, Key::Meta).expect("read"), Some(record));
}

/// One record of each kind, under its key, as they have been stored since version 1.
fn golden() -> Vec<(Key, Record)> {
    let (app, shuffle) = (AppNo(0x01020304), ShuffleId(5));
    let id = AppId::try_new("app-1").expect("valid");
    vec![
        (
            Key::Meta,
            Record::Meta(Meta {
                format: 1,
                opened: 2,
            }),
        ),
        (
            Key::App(app),
            Record::App(App {
                id,
                token_hash: [0xab; 32],
                lease: Duration::from_millis(600_000),
            }),
        ),
        (
            Key::Shuffle(app, shuffle),
            Record::Shuffle(Shuffle {
                num_maps: 10,
                num_partitions: 20,
                deleted: true,
            }),
        ),
        (
            Key::Segment(app, shuffle, SegmentId(6)),
            Record::Segment(Segment {
                length: 4096,
                tier: Tier::Sealed,
            }),
        ),
        (
            Key::Run(app, shuffle, RunId(7)),
            Record::Run(Run {
                segment: SegmentId(6),
                offset: 4096,
                attempts: 1,
                blocks: 3,
                data_length: 300,
                directory: vec![
                    DirectoryEntry {
                        partition: 1,
                        first_block: 0,
                        offset: 0,
                    },
                    DirectoryEntry {
                        partition: 4,
                        first_block: 2,
                        offset: 200,
                    },
                ],
            }),
        ),
        (
            Key::Attempt(app, shuffle, MapIndex(8), AttemptId(9)),
            Record::Attempt(Attempt {
                synced: true,
                bytes: 300,
                records: 30,
                runs: vec![RunId(7)],
                log: Some(LogPlace {
                    log: LogId(1),
                    offset: 2,
                    length: 3,
                }),
                totals: vec![1, 2, 3],
            }),
        ),
        (
            Key::Written(app, shuffle, 1),
            Record::Written(Written {
                objects: 2,
                bytes: 300,
                attempts: vec![(MapIndex(8), AttemptId(9))],
            }),
        ),
        (Key::Life(app), Record::Life(Uuid::from_bytes([3; 16]))),
        (Key::Ended(app), Record::Life(Uuid::from_bytes([4; 16]))),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn stored_bytes_stay_what_they_are() {
    let mut text = String::new();
    for (key, record) in golden() {
        let key = key.encode();
        text += &format!("{} {}\n", hex(&key), hex(&record.encode(&key)));
    }
    assert_eq!(
        text,
        include_str!("golden.txt"),
        "a changed format needs a new version"
    );
}

#[test]
fn a_flipped_bit_anywhere_is_found() {
    for (key, record) in golden() {
        let key = key.encode();
        let value = record.encode(&key);
        assert_eq!(Record::decode(&key, &value).expect("intact").1, record);
        for bit in 0..value.len() * 8 {
            let mut broken = value.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert!(
                Record::decode(&key, &broken).is_err(),
                "bit {bit} of {record:?}"
            );
        }
    }
}

#[test]
fn a_value_under_another_key_is_refused() {
    let [first, second] = [1, 2].map(|n| Key::Shuffle(AppNo(1), ShuffleId(n)).encode());
    let record = Record::Shuffle(Shuffle {
        num_maps: 1,
        num_partitions: 1,
        deleted: false,
    });
    assert!(Record::decode(&second, &record.encode(&first)).is_err());
}

fn key() -> impl Strategy<Value = Key> {
    let place = || {
        (
            any::<u32>().prop_map(AppNo),
            any::<u32>().prop_map(ShuffleId),
        )
    };
    prop_oneof![
        Just(Key::Meta),
        any::<u32>().prop_map(|app| Key::App(AppNo(app))),
        place().prop_map(|(app, shuffle)| Key::Shuffle(app, shuffle)),
        (place(), any::<u64>()).prop_map(|((app, shuffle), id)| Key::Segment(
            app,
            shuffle,
            SegmentId(id)
        )),
        (place(), any::<u64>()).prop_map(|((app, shuffle), id)| Key::Run(app, shuffle, RunId(id))),
        (place(), any::<u32>(), any::<u64>()).prop_map(|((app, shuffle), map, id)| Key::Attempt(
            app,
            shuffle,
            MapIndex(map),
            AttemptId(id)
        )),
        (place(), any::<u32>())
            .prop_map(|((app, shuffle), generation)| Key::Written(app, shuffle, generation)),
        any::<u32>().prop_map(|app| Key::Life(AppNo(app))),
        any::<u32>().prop_map(|app| Key::Ended(AppNo(app))),
    ]
}

proptest! {
    #[test]
    fn keys_decode_to_themselves_and_sort_as_their_bytes(a in key(), b in key()) {
        prop_assert_eq!(Key::decode(&a.encode()), Some(a));
        prop_assert_eq!(a.cmp(&b), a.encode().cmp(&b.encode()));
    }

    #[test]
    fn any_bytes_are_refused_or_decoded_but_never_panic(key in key(), value in prop::collection::vec(any::<u8>(), 0..64)) {
        let bytes = key.encode();
        let _ = Record::decode(&bytes, &value);
        prop_assert!(Key::decode(&value).is_none_or(|key| key.encode() == value));
    }
}
