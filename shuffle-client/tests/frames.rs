//! Frames: what goes in comes out, in its order, with its count, not compressed again.

#![allow(clippy::unwrap_used)] // in helpers of tests
mod common;

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use common::*;
use futures_util::TryStreamExt as _;
use proptest::{collection::vec, prelude::*};
use shuffle_client::{
    Client, Compression, Kind, PartitionId, ReadSpec, Receipt, Settings, UNKNOWN_MAPS, WriteSpec,
    blocking,
    fake::Fake,
    frames::{Boundaries, Frame, FrameReader, FrameWriter},
};

const SLICE: Duration = Duration::from_millis(20);

/// Partition, bytes, records.
type Given = (u32, Vec<u8>, u32);

fn small(server: &Fake) -> Client {
    let settings = Settings {
        block_bytes: 1 << 10,
        batch_bytes: 8 << 10,
        ..settings(&[server])
    };
    Client::new(settings).unwrap()
}

async fn write(writer: &mut FrameWriter, frames: &[Given]) -> Receipt {
    for (partition, frame, records) in frames {
        writer
            .add(PartitionId(*partition), frame, *records)
            .unwrap();
        writer.ready().await.unwrap();
    }
    writer.commit().await.unwrap()
}

fn reading(receipt: &Receipt) -> ReadSpec {
    let receipt = Receipt::decode(&receipt.encode()).unwrap();
    read_spec(receipt.output(0..PARTITIONS).into_iter().collect())
}

async fn frames(client: &Client, receipt: &Receipt) -> Vec<Frame> {
    let reader = FrameReader::open(client, reading(receipt), Boundaries::Kept);
    reader.try_collect().await.unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn frames_come_back_one_by_one_in_their_order_with_their_counts(
        given in vec((0..PARTITIONS, prop_oneof![vec(any::<u8>(), 0..60), vec(any::<u8>(), 900..20_000)], any::<u32>()), 0..60),
        giant in 0usize..300_000,
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let server = Fake::start().await;
            let client = small(&server);
            let mut given = given;
            given.push((1, raw(1, 2, 3, giant), 7));
            let mut writer = FrameWriter::open(&client, write_spec(&[&server], 2, 9), Boundaries::Kept);
            let receipt = write(&mut writer, &given).await;
            assert_eq!(writer.commit().await.unwrap(), receipt);
            assert_eq!(receipt.commit.records, given.iter().map(|(_, _, records)| u64::from(*records)).sum::<u64>());
            let mut got = BTreeMap::<u32, Vec<(Vec<u8>, u32)>>::new();
            for frame in frames(&client, &receipt).await {
                assert_eq!((frame.map_index.0, frame.attempt.0), (2, 9));
                got.entry(frame.partition.0).or_default().push((frame.data.to_vec(), frame.records));
            }
            let mut expected = BTreeMap::<u32, Vec<(Vec<u8>, u32)>>::new();
            for (partition, frame, records) in given {
                expected.entry(partition).or_default().push((frame, records));
            }
            assert_eq!(got, expected);
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_frames_are_packed_into_few_blocks_and_are_not_compressed_again() {
    let server = Fake::start().await;
    let client = client(&[&server]);
    let spec = WriteSpec {
        compression: Compression::Zstd(1), // of what is in vain here
        ..write_spec(&[&server], 0, 1)
    };
    let mut writer = FrameWriter::open(&client, spec, Boundaries::Own);
    let given: Vec<Given> = (0..1000)
        .map(|i| (i % PARTITIONS, vec![b'a'; 50], 3))
        .collect();
    let receipt = write(&mut writer, &given).await;
    // Nothing is added and nothing shrinks.
    assert_eq!(
        receipt.commit.partition_lengths,
        [10_000; PARTITIONS as usize]
    );
    assert_eq!(receipt.commit.records, 3000);
    assert_eq!(server.counters().batches, 1, "in one message, sorted");
    let mut reader = FrameReader::open(&client, reading(&receipt), Boundaries::Own);
    let mut runs = 0;
    while let Some(run) = reader.next().await.unwrap() {
        assert_eq!((run.data.len(), run.records), (10_000, 600));
        runs += 1;
    }
    assert_eq!(runs, PARTITIONS);
    assert_eq!(reader.stats().blocks, u64::from(PARTITIONS));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_that_the_engine_needs_is_given_back_by_a_push() {
    let server = Fake::start().await;
    let client = client(&[&server]);
    let mut writer = FrameWriter::open(&client, write_spec(&[&server], 0, 1), Boundaries::Own);
    writer.add(PartitionId(4), b"first", 1).unwrap();
    assert_eq!((writer.held_bytes(), writer.stats().bytes), (5, 0));
    writer.push().unwrap();
    assert_eq!((writer.held_bytes(), writer.stats().bytes), (0, 5));
    writer.add(PartitionId(0), b"second", 1).unwrap();
    assert_eq!(writer.commit().await.unwrap().commit.bytes, 11);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_cannot_be_are_refused_with_what_they_are() {
    let server = Fake::start().await;
    let client = client(&[&server]);
    let mut writer = FrameWriter::open(&client, write_spec(&[&server], 0, 1), Boundaries::Own);
    let refused = |result: Result<(), shuffle_client::Error>, word: &str| {
        let error = result.unwrap_err();
        assert_eq!(error.kind, Kind::Invalid);
        assert!(error.message.contains(word), "{error}");
    };
    refused(
        writer.add(PartitionId(PARTITIONS), b"x", 1),
        "partition is 5",
    );
    refused(writer.add(PartitionId(0), b"", 4), "counts as 4 records");
    writer.add(PartitionId(0), b"", 0).unwrap();
    writer
        .add(PartitionId(0), b"no length in front", 1)
        .unwrap();
    let receipt = writer.commit().await.unwrap();
    refused(writer.add(PartitionId(0), b"late", 1), "after commit");
    // Read as what it is not.
    let mut reader = FrameReader::open(&client, reading(&receipt), Boundaries::Kept);
    for _ in 0..2 {
        refused(reader.next().await.map(drop), "kept boundaries");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_is_a_stream_and_its_buffers_are_bytes_without_a_copy() {
    let server = Fake::start().await;
    let client = client(&[&server]);
    for compression in [Compression::None, Compression::Lz4] {
        let attempt = if compression == Compression::None {
            1
        } else {
            2
        };
        let mut writer = client.open_writer(WriteSpec {
            compression,
            ..write_spec(&[&server], 0, attempt)
        });
        fill(&mut writer, 0, 3, 50_000).unwrap();
        writer
            .add_long(PartitionId(4), &raw(1, 1, 1, 1 << 20), 1)
            .unwrap();
        let commit = writer.commit().await.unwrap();
        let receipt = Receipt::of(&writer, commit);
        let mut stream = client.open_reader(reading(&receipt));
        let mut bytes = 0;
        while let Some(block) = stream.try_next().await.unwrap() {
            let place = block.data.as_ptr();
            let data = Bytes::from(block.data);
            assert_eq!(data.as_ptr(), place);
            bytes += data.len();
        }
        assert_eq!(bytes, 15 * 50_000 + (1 << 20));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn map_tasks_of_an_unknown_number_are_read_as_they_come() {
    let server = Fake::start().await;
    let client = client(&[&server]);
    for map in [0, 5, 70_000] {
        let spec = WriteSpec {
            num_maps: UNKNOWN_MAPS,
            ..write_spec(&[&server], map, 1 + u64::from(map))
        };
        let mut writer = FrameWriter::open(&client, spec, Boundaries::Kept);
        let receipt = write(&mut writer, &[(0, b"frame".to_vec(), 1)]).await;
        assert_eq!(frames(&client, &receipt).await[0].map_index.0, map);
    }
}

#[test]
fn threads_that_wait_write_frames_and_records_into_one_output() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let server = runtime.block_on(Fake::start());
    let client = Client::with_handle(settings(&[&server]), runtime.handle().clone()).unwrap();
    let writer = blocking::Writer::open(&client, write_spec(&[&server], 0, 1), 1 << 16).unwrap();
    // Records as an engine in Rust writes them: no address needed.
    let data = writer
        .with_arena(|arena| {
            let mut used = 0;
            for index in 0..100 {
                let record = format!("record {index};");
                assert!(arena.put(index, used, 3, record.as_bytes()));
                used += record.len();
            }
            used
        })
        .unwrap();
    while !writer.flush(100, data as u64, SLICE).unwrap() {}
    for number in 0..3u8 {
        let added = writer.frame(PartitionId(1), 10, 5, |target| {
            target.fill(number);
            Ok::<(), shuffle_client::Error>(())
        });
        if !added.unwrap() {
            while !writer.drain(SLICE).unwrap() {}
        }
    }
    // What fails in the engine's own function adds nothing.
    let failed = writer.frame(PartitionId(1), 10, 5, |_| {
        Err(shuffle_client::Error::new(Kind::Internal, "the engine's"))
    });
    assert_eq!(failed.unwrap_err().message, "the engine's");
    assert_eq!(writer.held_bytes(), Ok(30));
    let receipt = loop {
        if let Some(receipt) = writer.commit(SLICE).unwrap() {
            break receipt;
        }
    };
    assert_eq!(receipt.commit.records, 115);
    let reader = blocking::Reader::open(&client, reading(&receipt));
    let mut got = BTreeMap::<u32, Vec<u8>>::new();
    loop {
        match reader.next(SLICE).unwrap() {
            blocking::Next::Block(block) => got
                .entry(block.partition.0)
                .or_default()
                .extend_from_slice(&block.data),
            blocking::Next::NotYet => {}
            blocking::Next::End => break,
        }
    }
    let records: String = (0..100).map(|index| format!("record {index};")).collect();
    assert_eq!(got[&3], records.as_bytes());
    assert_eq!(got[&1], [[0; 10], [1; 10], [2; 10]].concat());
}
