//! What every [`SegmentIndex`] must do.

use shuffle_proto::ids::{AttemptId, MapIndex, ShuffleId};

use super::{
    AppNo, Changes, RunId, SegmentId, SegmentIndex,
    keys::{self, Key},
    read, read_all,
    values::{Record, Segment, Shuffle, Tier},
};

/// Runs all of it on an empty index.
pub(crate) fn check(index: &dyn SegmentIndex) {
    what_is_written_is_read(index);
    records_come_in_the_order_of_their_keys(index);
    the_last_step_of_a_batch_wins(index);
    a_deleted_shuffle_leaves_its_neighbours(index);
    a_deleted_app_leaves_its_neighbours(index);
}

fn shuffle(maps: u32) -> Record {
    Record::Shuffle(Shuffle {
        num_maps: maps,
        num_partitions: 7,
        deleted: false,
    })
}

fn segment(length: u64) -> Record {
    Record::Segment(Segment {
        length,
        tier: Tier::Open,
    })
}

fn write(index: &dyn SegmentIndex, build: impl FnOnce(&mut Changes)) {
    let mut batch = Changes::default();
    build(&mut batch);
    index.write(&batch, false).expect("write");
}

fn keys_of(index: &dyn SegmentIndex, kind: u8) -> Vec<Key> {
    let mut keys = Vec::new();
    read_all(index, kind, |row| keys.push(row.expect("record").0)).expect("scan");
    keys
}

fn what_is_written_is_read(index: &dyn SegmentIndex) {
    let key = Key::Shuffle(AppNo(1), ShuffleId(2));
    assert_eq!(read(index, key).expect("get"), None);
    let mut batch = Changes::default();
    batch.put(key, &shuffle(3));
    index.write(&batch, true).expect("synced write");
    assert_eq!(read(index, key).expect("get"), Some(shuffle(3)));
}

fn records_come_in_the_order_of_their_keys(index: &dyn SegmentIndex) {
    let key = |n| Key::Segment(AppNo(9), ShuffleId(1), SegmentId(n));
    write(index, |batch| {
        [256, 1, u64::MAX, 255]
            .iter()
            .for_each(|&n| batch.put(key(n), &segment(n)))
    });
    assert_eq!(
        keys_of(index, keys::SEGMENT),
        [1, 255, 256, u64::MAX].map(key)
    );
    write(index, |batch| {
        batch.delete_shuffle_data(AppNo(9), ShuffleId(1))
    });
}

fn the_last_step_of_a_batch_wins(index: &dyn SegmentIndex) {
    let key = Key::Segment(AppNo(4), ShuffleId(1), SegmentId(1));
    write(index, |batch| {
        batch.put(key, &segment(1));
        batch.delete(key);
        batch.put(key, &segment(2));
    });
    assert_eq!(read(index, key).expect("get"), Some(segment(2)));
    write(index, |batch| {
        batch.delete_shuffle_data(AppNo(4), ShuffleId(1));
        batch.put(key, &segment(3));
    });
    assert_eq!(read(index, key).expect("get"), Some(segment(3)));
    write(index, |batch| batch.delete(key));
    assert_eq!(keys_of(index, keys::SEGMENT), []);
}

fn a_deleted_shuffle_leaves_its_neighbours(index: &dyn SegmentIndex) {
    let shuffles = [1, 2, 3, u32::MAX].map(ShuffleId);
    write(index, |batch| {
        for id in shuffles {
            batch.put(Key::Shuffle(AppNo(5), id), &shuffle(1));
            batch.put(Key::Segment(AppNo(5), id, SegmentId(0)), &segment(1));
            batch.put(Key::Segment(AppNo(5), id, SegmentId(u64::MAX)), &segment(1));
        }
    });
    write(index, |batch| {
        batch.delete_shuffle_data(AppNo(5), ShuffleId(2));
        batch.delete_shuffle_data(AppNo(5), ShuffleId(u32::MAX));
    });
    let left: Vec<_> = [1, 3]
        .into_iter()
        .flat_map(|id| [0, u64::MAX].map(|n| Key::Segment(AppNo(5), ShuffleId(id), SegmentId(n))))
        .collect();
    assert_eq!(keys_of(index, keys::SEGMENT), left);
    assert!(
        read(index, Key::Shuffle(AppNo(5), ShuffleId(2)))
            .expect("get")
            .is_some(),
        "the shuffle's own record stays"
    );
    write(index, |batch| batch.delete_app(AppNo(5)));
}

fn a_deleted_app_leaves_its_neighbours(index: &dyn SegmentIndex) {
    let apps = [6, 7, 8, u32::MAX].map(AppNo);
    let records = |app| {
        [
            Key::Shuffle(app, ShuffleId(u32::MAX)),
            Key::Segment(app, ShuffleId(0), SegmentId(1)),
            Key::Run(app, ShuffleId(1), RunId(1)),
            Key::Attempt(
                app,
                ShuffleId(u32::MAX),
                MapIndex(u32::MAX),
                AttemptId(u64::MAX),
            ),
        ]
    };
    write(index, |batch| {
        // Any value does: what counts is which keys go.
        apps.iter()
            .flat_map(|&app| records(app))
            .for_each(|key| batch.put(key, &segment(1)));
    });
    write(index, |batch| {
        batch.delete_app(AppNo(7));
        batch.delete_app(AppNo(u32::MAX));
    });
    for app in apps {
        let expected = app == AppNo(6) || app == AppNo(8);
        for key in records(app) {
            assert_eq!(
                index.get(&key.encode()).expect("get").is_some(),
                expected,
                "{key:?}"
            );
        }
    }
}
