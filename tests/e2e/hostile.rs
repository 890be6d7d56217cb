//! Wrong, missing and hostile ids, sizes, counts, tokens and versions: each a clear refusal that
//! names the field, and nothing lost.

use bytes::Bytes;
use shuffle_proto::{
    block::{MAX_BATCH, MAX_BATCH_BLOCKS, MAX_BLOCK},
    v1::{self, Durability, push_request::Step},
};
use shuffle_tests::{
    Attempt, Kind, Shape, Stage,
    attempt::batch,
    peer::{assert_refused, fetch_first, fetch_range},
};
use tonic::Status;

pub(crate) const SHAPE: Shape = Shape {
    maps: 4,
    partitions: 10,
    rounds: 1,
    block: 5000,
};

/// The refusal of a changed batch of three blocks of 100 bytes.
async fn batch_of(stage: &Stage, change: impl FnOnce(&mut v1::BlockTable, &mut Vec<u8>)) -> Status {
    let mut attempt = Attempt::empty(&stage.app, 0, SHAPE, 1, 2);
    for partition in [2, 3, 5] {
        attempt = attempt.with_block(partition, vec![partition as u8; 100]);
    }
    let message = attempt.batches().remove(0);
    let Some(Step::Batch(v1::Batch {
        table: Some(mut table),
    })) = message.step
    else {
        unreachable!()
    };
    let mut payload = message.payload.to_vec();
    change(&mut table, &mut payload);
    let (mut push, _) = stage.peer.open(attempt.open()).await.unwrap();
    push.send_message(batch(table, payload)).await;
    push.send(Step::Commit(v1::Commit {
        totals: Some(attempt.totals()),
        more: false,
    }))
    .await;
    push.refusal().await
}

pub(crate) fn invalid(status: &Status, words: &[&str]) {
    assert_refused(status, Kind::Invalid, words);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_that_cannot_be_is_refused_by_field() {
    let stage = Stage::new(SHAPE).await;
    invalid(
        &stage.open(|o| o.map_index = SHAPE.maps).await,
        &["map_index", "4"],
    );
    invalid(
        &stage.open(|o| o.map_index = u32::MAX).await,
        &["map_index"],
    );
    invalid(
        &stage.open(|o| (o.shuffle, o.num_maps) = (1, 0)).await,
        &["num_maps", "0"],
    );
    invalid(
        &stage
            .open(|o| (o.shuffle, o.num_maps) = (1, u32::MAX))
            .await,
        &["num_maps"],
    );
    invalid(
        &stage.open(|o| (o.shuffle, o.num_partitions) = (1, 0)).await,
        &["num_partitions"],
    );
    invalid(
        &stage
            .open(|o| (o.shuffle, o.num_partitions) = (1, (1 << 24) + 1))
            .await,
        &["num_partitions"],
    );
    for level in [0, 6, -1, i32::MAX] {
        invalid(&stage.open(|o| o.durability = level).await, &["durability"]);
    }
    // A mirror is the client's to make, and this server has no object store: said clearly, and not
    // silently lowered.
    for level in [Durability::Mirror, Durability::Object] {
        let refusal = stage.open(|o| o.durability = level as i32).await;
        assert_refused(&refusal, Kind::Invalid, &["durability"]);
    }
    invalid(&stage.open(|o| o.caller = None).await, &["caller"]);
    stage.check_and_push().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_cannot_be_is_refused_by_field() {
    let stage = Stage::new(SHAPE).await;
    type Spoil = (&'static str, fn(&mut v1::BlockTable, &mut Vec<u8>));
    let spoils: [Spoil; 22] = [
        ("partition", |t, _| t.partition[2] = SHAPE.partitions),
        ("partition", |t, _| t.partition[2] = u32::MAX),
        ("partition", |t, _| t.partition.swap(0, 2)),
        ("seq", |t, _| t.seq[0] = 1),
        ("seq", |t, _| t.seq[1] = 2),
        ("seq", |t, _| t.seq = vec![0, 0, 0]),
        ("seq", |t, _| t.seq = vec![u32::MAX, 0, 1]),
        ("bytes", |t, _| t.length[1] = 0),
        ("bytes", |t, _| t.length[1] = u32::MAX),
        ("bytes", |t, _| t.length[1] = MAX_BLOCK + 1),
        ("raw", |t, _| t.raw_length[1] = 0),
        ("raw", |t, _| t.raw_length[1] = u32::MAX),
        ("raw", |t, _| t.raw_length[1] = 101),
        ("flags", |t, _| t.flags[1] = 3),
        ("flags", |t, _| t.flags[1] = 1 << 11),
        ("flags", |t, _| t.flags[1] = u32::MAX),
        ("columns", |t, _| t.checksum.clear()),
        ("columns", |t, _| t.records.push(1)),
        ("payload", |_, p| p.push(0)),
        ("payload", |_, p| p.clear()),
        ("payload", |t, _| {
            (t.length[0], t.raw_length[0]) = (101, 101)
        }),
        ("attempt", |t, _| t.attempt = vec![2, 2, 2]),
    ];
    for (i, (word, spoil)) in spoils.into_iter().enumerate() {
        let refusal = batch_of(&stage, spoil).await;
        assert_eq!(Kind::of(&refusal), Kind::Invalid, "case {i}: {refusal:?}");
        assert!(
            refusal.message().contains(word),
            "case {i}: {word:?} is not in {:?}",
            refusal.message()
        );
    }
    invalid(
        &batch_of(&stage, |t, p| {
            (*t, *p) = (v1::BlockTable::default(), Vec::new())
        })
        .await,
        &["blocks"],
    );
    // Lengths whose 32-bit sum is the payload's.
    let wrap = |t: &mut v1::BlockTable, _: &mut Vec<u8>| t.length = vec![300, 1 << 31, 1 << 31];
    invalid(&batch_of(&stage, wrap).await, &[]);
    stage.check_and_push().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn huge_columns_and_payloads_are_refused() {
    let stage = Stage::new(SHAPE).await;
    let many = |t: &mut v1::BlockTable, p: &mut Vec<u8>| {
        let count = MAX_BATCH_BLOCKS + 1;
        t.partition = vec![2; count];
        t.seq = (0..count as u32).collect();
        (t.length, t.raw_length, t.records) = (vec![1; count], vec![1; count], vec![1; count]);
        (t.flags, t.checksum) = (vec![0; count], vec![0; count]);
        *p = vec![0; count];
    };
    invalid(&batch_of(&stage, many).await, &["blocks"]);
    let huge = |t: &mut v1::BlockTable, p: &mut Vec<u8>| {
        t.length = vec![3 << 20; 3];
        t.raw_length = t.length.clone();
        *p = vec![0; 9 << 20];
        assert!(p.len() > MAX_BATCH as usize);
    };
    invalid(&batch_of(&stage, huge).await, &["payload"]);
    stage.check_and_push().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn totals_that_cannot_be_are_refused_by_field() {
    let stage = Stage::new(SHAPE).await;
    type Spoil = (&'static str, fn(&mut v1::PartitionTotals));
    let spoils: [Spoil; 6] = [
        ("totals", |t| t.blocks.clear()),
        ("totals", |t| t.records.push(0)),
        ("partition", |t| t.partition.swap(0, 1)),
        ("partition", |t| t.partition[1] = t.partition[0]),
        ("partition", |t| t.partition[1] = u32::MAX),
        ("blocks", |t| t.blocks[1] = 0),
    ];
    let attempt = Attempt::empty(&stage.app, 0, SHAPE, 1, 2)
        .with_block(1, vec![1; 9])
        .with_block(2, vec![2; 9]);
    for (word, spoil) in spoils {
        let push = stage.peer.send(&attempt).await.unwrap();
        let mut totals = attempt.totals();
        spoil(&mut totals);
        invalid(&push.commit(totals).await.unwrap_err(), &[word]);
    }
    let mut push = stage.peer.send(&attempt).await.unwrap();
    push.send(Step::Commit(v1::Commit::default())).await;
    invalid(&push.refusal().await, &[]);
    stage.check_and_push().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_cannot_be_is_refused_by_field() {
    let stage = Stage::new(SHAPE).await;
    invalid(&stage.fetch(|f| f.caller = None).await, &["caller"]);
    invalid(&stage.fetch(|f| f.volumes.clear()).await, &["volume"]);
    invalid(
        &stage.fetch(|f| f.volumes = vec![Bytes::new()]).await,
        &["volume"],
    );
    invalid(
        &stage.fetch(|f| f.volumes = vec![vec![1; 17].into()]).await,
        &["volume"],
    );
    invalid(
        &stage
            .fetch(|f| (f.partition_start, f.partition_end) = (3, 3))
            .await,
        &["partition"],
    );
    invalid(
        &stage
            .fetch(|f| (f.partition_start, f.partition_end) = (5, 3))
            .await,
        &["partition"],
    );
    invalid(
        &stage.fetch(|f| (f.map_start, f.map_end) = (2, 2)).await,
        &["map"],
    );
    invalid(
        &stage
            .fetch(|f| (f.map_start, f.map_end) = (u32::MAX, 0))
            .await,
        &["map"],
    );
    // Beyond the shuffle: not an empty answer.
    let beyond = stage
        .peer
        .fetch(fetch_range(
            &stage.app,
            0,
            stage.server.volumes(),
            10..11,
            0..1,
        ))
        .await;
    invalid(&beyond.unwrap_err(), &["partition"]);
    let many = vec![Bytes::from(stage.server.volumes()[0].clone()); 100_000];
    // Nobody needs so many: what does not fit the first message of a stranger is refused before it
    // is read.
    let request = v1::FetchRequest {
        volumes: many,
        ..fetch_first(&stage.app, 0, stage.server.volumes())
    };
    let refusal = stage.peer.fetch(request).await.unwrap_err();
    invalid(&refusal, &["message", "262144"]);
    stage.check_and_push().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_named_twice_is_served_once() {
    let stage = Stage::new(SHAPE).await;
    let volumes = [stage.server.volumes(), stage.server.volumes()].concat();
    let request = fetch_range(&stage.app, 0, volumes, 0..10, 0..u32::MAX);
    let fetched = stage.peer.fetch(request).await.unwrap();
    stage
        .oracle
        .compare(&fetched, &stage.app, 0, 0..10, 0..u32::MAX);
    stage.check_and_push().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_cursors_never_give_a_wrong_answer() {
    let stage = Stage::new(SHAPE).await;
    let whole = stage
        .peer
        .fetch(fetch_range(
            &stage.app,
            0,
            stage.server.volumes(),
            0..10,
            0..u32::MAX,
        ))
        .await
        .unwrap();
    let mut cursors: Vec<Vec<u8>> = vec![
        vec![0],
        vec![255; 8],
        vec![255; 16],
        vec![255; 64],
        vec![0; 64],
        vec![7; 65],
        vec![1; 100_000],
    ];
    if let Some((_, cursor)) = whole.cursors.last() {
        for i in 0..cursor.len() {
            for change in [0x01, 0x80, 0xff] {
                let mut spoilt = cursor.to_vec();
                spoilt[i] ^= change;
                cursors.push(spoilt);
            }
            cursors.push(cursor[..i].to_vec());
        }
    }
    for cursor in cursors {
        let mut request = fetch_range(&stage.app, 0, stage.server.volumes(), 0..10, 0..u32::MAX);
        request.cursor = cursor.clone().into();
        match stage.peer.fetch(request).await {
            Err(status) => {
                assert!(cursor.len() > 64, "{status:?} for {cursor:?}");
                invalid(&status, &["cursor", "bytes"]);
            }
            // What a wrong cursor skips, the summary still counts: the reader finds out.
            Ok(fetched) => assert_eq!(fetched.summary, whole.summary, "for {cursor:?}"),
        }
    }
    stage.check_and_push().await;
}
