//! Writing a map output: what arrives, in whatever way it is given.

#![allow(clippy::unwrap_used)] // in helpers of tests
mod common;

use std::time::Duration;

use common::*;
use shuffle_client::{
    AttemptId, Durability, Error, Kind, MapWriter, Part, PartitionId, VolumeId, fake::Fake,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_committed_output_reads_back_byte_for_byte() {
    let server = Fake::start().await;
    let client = client(&[&server]);
    for (attempt, (blocks, length)) in
        (1..).zip([(1, 1), (1, 13), (3, 70_000), (40, 65_536), (2, 4 << 20)])
    {
        let commit = write(&client, &[&server], 1, attempt, blocks, length).await;
        assert_eq!(commit.volume, server.volume());
        assert_eq!(commit.address, server.address());
        assert_eq!(commit.durability, Durability::Disk);
        assert_eq!(commit.bytes, commit.partition_lengths.iter().sum::<u64>());
        assert_eq!(commit.records, u64::from(3 * blocks * PARTITIONS));
        check_read(&client, &commit, 1, attempt, blocks, length).await;
    }
}

#[tokio::test]
async fn blocks_that_do_not_shrink_are_stored_as_they_are() {
    let server = Fake::start().await;
    let client = client(&[&server]);
    let mut writer = client.open_writer(write_spec(&[&server], 0, 1));
    let noise: Vec<u8> = raw(9, 9, 9, 20_000).into_iter().step_by(2).collect();
    writer.add_block(PartitionId(0), &[&noise], 1).unwrap();
    writer
        .add_block(PartitionId(1), &[&[7; 10_000]], 1)
        .unwrap();
    let commit = writer.commit().await.unwrap();
    assert_eq!(commit.partition_lengths[0], 10_000);
    assert!(commit.partition_lengths[1] < 100);
    assert_eq!(commit.partition_lengths[2..], [0, 0, 0]);
}

#[tokio::test]
async fn an_output_without_any_block_commits() {
    let server = Fake::start().await;
    let client = client(&[&server]);
    let commit = client
        .open_writer(write_spec(&[&server], 0, 1))
        .commit()
        .await
        .unwrap();
    assert_eq!((commit.bytes, commit.records), (0, 0));
    assert_eq!(server.attempts(SHUFFLE), [AttemptId(1)]);
}

#[tokio::test]
async fn partitions_may_come_again_and_start_a_new_message_each_time() {
    let server = Fake::start().await;
    let client = client(&[&server]);
    let mut writer = client.open_writer(write_spec(&[&server], 0, 1));
    for round in 0..3u8 {
        for partition in 0..PARTITIONS {
            writer
                .add_block(PartitionId(partition), &[&[round]], 1)
                .unwrap();
        }
    }
    let commit = writer.commit().await.unwrap();
    assert_eq!(server.counters().batches, 3);
    let mut reader = client.open_reader(read_spec(vec![output(&commit, 0, 1)]));
    let got = read_all(&mut reader).await.unwrap();
    assert!(
        got.values()
            .all(|(bytes, records)| bytes == &[0, 1, 2] && *records == 3)
    );
}

#[tokio::test]
async fn commit_answers_the_same_again_and_takes_no_more_blocks() {
    let server = Fake::start().await;
    let client = client(&[&server]);
    let mut writer = client.open_writer(write_spec(&[&server], 0, 1));
    fill(&mut writer, 0, 1, 100).unwrap();
    let first = writer.commit().await.unwrap();
    assert_eq!(writer.commit().await.unwrap(), first);
    assert_eq!(
        writer
            .add_block(PartitionId(0), &[b"x"], 1)
            .unwrap_err()
            .kind,
        Kind::Invalid
    );
    assert_eq!(server.counters().commits, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commit_and_ready_may_be_dropped_while_they_wait() {
    let server = Fake::start().await;
    let client = client(&[&server]);
    server.faults().hold = true;
    let mut writer = client.open_writer(write_spec(&[&server], 0, 1));
    fill(&mut writer, 0, 30, 65_536).unwrap();
    let mut polls = 0;
    while tokio::time::timeout(Duration::from_millis(5), writer.ready())
        .await
        .is_err()
    {
        polls += 1;
        if polls == 10 {
            server.faults().hold = false;
        }
    }
    server.faults().hold = true;
    let mut polls = 0;
    let commit = loop {
        match tokio::time::timeout(Duration::from_millis(5), writer.commit()).await {
            Ok(commit) => break commit.unwrap(),
            Err(_) => polls += 1,
        }
        if polls == 10 {
            server.faults().hold = false;
        }
    };
    assert!(polls >= 10);
    assert!(writer.stats().waited >= Duration::from_millis(50));
    check_read(&client, &commit, 0, 1, 30, 65_536).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_holds_back_holds_the_writer_back() {
    let server = Fake::start().await;
    let client = client(&[&server]);
    server.faults().hold = true;
    let mut writer = client.open_writer(write_spec(&[&server], 0, 1));
    let mut added = 0;
    while tokio::time::timeout(Duration::from_millis(300), writer.ready())
        .await
        .is_ok()
    {
        writer
            .add_block(PartitionId(0), &[&raw(0, 0, added, 60_000)], 1)
            .unwrap();
        added += 1;
        assert!(
            added < 1000,
            "60 MB were taken of a writer whose server reads nothing"
        );
    }
    server.faults().hold = false;
    writer.ready().await.unwrap();
    writer.commit().await.unwrap();
}

#[tokio::test]
async fn maps_start_at_different_candidates() {
    let (first, second) = (Fake::start().await, Fake::start().await);
    let client = client(&[&first, &second]);
    for map in 0..4 {
        let commit = write(&client, &[&first, &second], map, map.into(), 1, 10).await;
        let expected = if map % 2 == 0 { &first } else { &second };
        assert_eq!(commit.address, expected.address());
    }
}

#[tokio::test]
async fn an_aborted_output_leaves_nothing_and_the_server_is_told_why() {
    let server = Fake::start().await;
    let client = client(&[&server]);
    let mut writer = client.open_writer(write_spec(&[&server], 0, 1));
    fill(&mut writer, 0, 1, 100).unwrap();
    eventually("the stream is open", || server.counters().opens == 1).await;
    writer.abort("the task was killed");
    eventually("the abort arrives", || {
        server.counters().aborts == ["the task was killed"]
    })
    .await;
    assert!(server.attempts(SHUFFLE).is_empty());
}

#[tokio::test]
async fn a_dropped_writer_leaves_nothing() {
    let server = Fake::start().await;
    let client = client(&[&server]);
    let mut writer = client.open_writer(write_spec(&[&server], 0, 1));
    fill(&mut writer, 0, 1, 100).unwrap();
    eventually("the stream is open", || server.counters().opens == 1).await;
    drop(writer);
    eventually("the abort arrives", || server.counters().aborts.len() == 1).await;
    assert!(server.attempts(SHUFFLE).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_byte_string_comes_back_in_one_piece() {
    let server = Fake::start().await;
    let client = client(&[&server]);
    let mut writer = client.open_writer(write_spec(&[&server], 0, 1));
    let long = raw(0, 1, 0, 9_000_001);
    writer.add_block(PartitionId(1), &[b"before"], 1).unwrap();
    writer.add_long(PartitionId(1), &long, 1).unwrap();
    writer.add_long(PartitionId(1), b"short", 2).unwrap();
    let commit = writer.commit().await.unwrap();
    assert_eq!(commit.records, 4);
    let mut reader = client.open_reader(read_spec(vec![output(&commit, 0, 1)]));
    let mut pieces = Vec::new();
    while let Some(block) = reader.next().await.unwrap() {
        pieces.push((block.data.to_vec(), block.records));
    }
    assert!(pieces == [(b"before".to_vec(), 1), (long, 1), (b"short".to_vec(), 2)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_byte_string_may_come_and_go_in_parts() {
    let server = Fake::start().await;
    let client = client(&[&server]);
    for part in [1 << 20, 100_000, 65_536, 1] {
        let mut writer = client.open_writer(write_spec(&[&server], 0, part as u64));
        let long = raw(0, 1, 0, if part == 1 { 3 } else { 2_300_001 });
        writer.add_block(PartitionId(1), &[b"before"], 1).unwrap();
        let count = long.len().div_ceil(part);
        for (number, bytes) in long.chunks(part).enumerate() {
            let more = number + 1 < count;
            writer
                .add_part(PartitionId(1), bytes, u32::from(!more), more)
                .unwrap();
            writer.ready().await.unwrap();
        }
        writer.add_block(PartitionId(1), &[b"after"], 2).unwrap();
        let commit = writer.commit().await.unwrap();
        assert_eq!(commit.records, 4);
        let outputs = vec![output(&commit, 0, part as u64)];

        let mut whole = Vec::new();
        let mut reader = client.open_reader(read_spec(outputs.clone()));
        while let Some(block) = reader.next().await.unwrap() {
            assert_eq!(block.part, Part::default());
            whole.push((block.data.to_vec(), block.records));
        }
        assert!(
            whole
                == [
                    (b"before".to_vec(), 1),
                    (long.clone(), 1),
                    (b"after".to_vec(), 2)
                ]
        );

        let mut reader = client.open_reader(read_spec(outputs)).in_parts();
        let (mut joined, mut inside) = (Vec::new(), false);
        while let Some(block) = reader.next().await.unwrap() {
            assert_eq!(block.part.continues, inside);
            assert!(block.data.len() <= 65_536, "{}", block.data.len());
            if !block.part.continues {
                joined.push((Vec::new(), 0));
            }
            let (bytes, records) = joined.last_mut().unwrap();
            bytes.extend_from_slice(&block.data);
            *records += block.records;
            inside = block.part.continued;
        }
        assert!(!inside && joined == whole);
    }
}

#[tokio::test]
async fn nothing_comes_between_the_parts_of_a_byte_string() {
    let server = Fake::start().await;
    let client = client(&[&server]);
    let mut writer = client.open_writer(write_spec(&[&server], 0, 1));
    writer.add_part(PartitionId(1), b"one", 0, true).unwrap();
    let unfinished = |error: Error| {
        assert_eq!(error.kind, Kind::Invalid);
        let named = "byte string of partition 1 has not ended";
        assert!(error.message.contains(named), "{error}");
    };
    unfinished(writer.add_part(PartitionId(2), b"x", 1, false).unwrap_err());
    unfinished(writer.add_block(PartitionId(1), &[b"x"], 1).unwrap_err());
    unfinished(writer.add_long(PartitionId(1), b"x", 1).unwrap_err());
    unfinished(writer.commit().await.unwrap_err());
    writer.add_part(PartitionId(1), b"two", 1, false).unwrap();
    let commit = writer.commit().await.unwrap();
    let mut reader = client.open_reader(read_spec(vec![output(&commit, 0, 1)]));
    assert_eq!(&reader.next().await.unwrap().unwrap().data[..], b"onetwo");
}

#[tokio::test]
async fn a_wrong_call_is_refused_with_the_field_named() {
    let server = Fake::start().await;
    let client = client(&[&server]);
    let add = |writer: &mut MapWriter, partition, raw: &[u8]| {
        writer
            .add_block(PartitionId(partition), &[raw], 1)
            .unwrap_err()
    };
    let mut writer = client.open_writer(write_spec(&[&server], 0, 1));
    assert!(
        add(&mut writer, PARTITIONS, b"x")
            .message
            .contains("partition is 5")
    );
    assert!(
        add(&mut writer, 0, b"")
            .message
            .contains("block of 0 bytes")
    );
    assert!(
        add(&mut writer, 0, &vec![0; (4 << 20) + 1])
            .message
            .contains("add_long")
    );
    let mut spec = write_spec(&[&server], 0, 1);
    spec.map_index = shuffle_client::MapIndex(MAPS);
    let error = client.open_writer(spec).commit().await.unwrap_err();
    assert!(
        error.kind == Kind::Invalid && error.message.contains("map_index is 8"),
        "{error}"
    );
    let error = client
        .open_writer(write_spec(&[], 0, 1))
        .commit()
        .await
        .unwrap_err();
    assert!(
        error.kind == Kind::Invalid && error.message.contains("AppHandle::place"),
        "{error}"
    );
}

#[tokio::test]
async fn a_hundred_writers_share_few_connections() {
    let server = Fake::start().await;
    let client = client(&[&server]);
    let writers = (0..100).map(|attempt| {
        let (client, server) = (client.clone(), &server);
        async move { write(&client, &[server], 0, attempt, 1, 100).await.volume }
    });
    let volumes: Vec<VolumeId> = futures_util::future::join_all(writers).await;
    assert_eq!(volumes.len(), 100);
    assert!(
        server.counters().connections <= 4,
        "{} connections",
        server.counters().connections
    );
}
