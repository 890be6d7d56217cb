//! Writer and reader against a server in memory, used as Java uses them: a thread that polls.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use proptest::{collection::vec, prelude::*};
use shuffle_client::{
    AppId, AttemptId, Caller, Client, Compression, Durability, Error, Kind, MapIndex, Output,
    PartitionId, ReadSpec, Settings, ShuffleId, WriteSpec, fake::Fake,
};

use super::*;
use crate::{
    reader::{Next, OutputColumns, Reader, location_of},
    runtime,
};

const PARTITIONS: u32 = 5;
const ARENA: u64 = 1 << 16;
const SLICE: Duration = Duration::from_millis(20);

struct Rig {
    fake: Fake,
    client: Client,
}

impl Rig {
    fn new() -> Self {
        let runtime = runtime::get().expect("a runtime");
        let fake = runtime.block_on(Fake::start());
        let settings = Settings {
            block_bytes: 1 << 10,
            batch_bytes: 8 << 10,
            ..Settings::of([fake.address()])
        };
        let client = Client::with_handle(settings, runtime.handle().clone()).expect("a client");
        Self { fake, client }
    }

    fn writer(&self, attempt: u64) -> Writer {
        let spec = WriteSpec {
            caller: caller(),
            shuffle: ShuffleId(3),
            num_maps: 1,
            num_partitions: PARTITIONS,
            map_index: MapIndex(0),
            attempt: AttemptId(attempt),
            durability: Durability::Memory,
            candidates: [self.fake.address()].into(),
            compression: Compression::Lz4,
        };
        Writer::open(&self.client, spec, ARENA).expect("memory")
    }

    fn reader(&self, outputs: Vec<Output>) -> Reader {
        let spec = ReadSpec {
            caller: caller(),
            shuffle: ShuffleId(3),
            partitions: 0..PARTITIONS,
            maps: 0..u32::MAX,
            outputs,
            window: None,
        };
        Reader::open(&self.client, spec)
    }
}

fn caller() -> Caller {
    Caller {
        app: AppId::try_new("app").expect("valid"),
        token: "token".into(),
        lease: Duration::from_secs(60),
    }
}

/// Writes records into the arena as Java does; answers how many and how many bytes.
fn fill(writer: &Writer, records: &[(u32, Vec<u8>)]) -> (usize, u64) {
    let start = writer.arena_address() as *mut u8;
    let mut offset = 0;
    for (i, (partition, bytes)) in records.iter().enumerate() {
        let entry = u64::from(*partition) << 32 | offset as u64;
        assert!(
            offset + bytes.len() + 8 * (i + 1) <= ARENA as usize,
            "the test's records must fit"
        );
        // SAFETY: both ranges lie in the arena, which this thread alone uses while no flush is
        // under way.
        unsafe {
            start
                .add(offset)
                .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            start
                .add(ARENA as usize - 8 * (i + 1))
                .cast::<u64>()
                .write(entry);
        }
        offset += bytes.len();
    }
    (records.len(), offset as u64)
}

fn flush(writer: &Writer, records: &[(u32, Vec<u8>)]) {
    let (count, bytes) = fill(writer, records);
    while !writer.flush(count, bytes, SLICE).expect("flushed") {}
}

fn block(writer: &Writer, partition: u32, bytes: &[u8]) {
    let copy = |target: &mut [u8]| {
        target.copy_from_slice(bytes);
        Ok::<(), Error>(())
    };
    if !writer
        .block(PartitionId(partition), bytes.len(), 1, copy)
        .expect("added")
    {
        while !writer.drain(SLICE).expect("drained") {}
    }
}

fn commit(writer: &Writer) -> Vec<u64> {
    loop {
        if let Some(receipt) = writer.commit(SLICE).expect("committed") {
            return receipt.commit.partition_lengths;
        }
    }
}

/// The output as a reader has to name it, by way of the strings and arrays that cross.
fn output(writer: &Writer, attempt: i64, lengths: &[u64]) -> Vec<Output> {
    let partitions: Vec<i32> = (0..)
        .zip(lengths)
        .filter(|(_, length)| **length > 0)
        .map(|(partition, _)| partition)
        .collect();
    let columns = OutputColumns {
        locations: vec![location_of(&writer.receipt().expect("committed").commit)],
        location: vec![0],
        map_index: vec![0],
        attempt: vec![attempt],
        partition_counts: vec![i32::try_from(partitions.len()).expect("few")],
        partitions,
    };
    columns.outputs().expect("valid")
}

/// Bytes and records per partition.
fn read(reader: &Reader) -> Result<BTreeMap<u32, (Vec<u8>, u64)>, Error> {
    let mut read = BTreeMap::<u32, (Vec<u8>, u64)>::new();
    loop {
        match reader.next(SLICE)? {
            Next::NotYet => {}
            Next::End => return Ok(read),
            Next::Block(lent) => {
                // SAFETY: the block is lent until it is released below.
                let bytes =
                    unsafe { std::slice::from_raw_parts(lent.address as *const u8, lent.length) };
                let partition = read.entry(lent.partition).or_default();
                partition.0.extend_from_slice(bytes);
                partition.1 += u64::from(lent.records);
                reader.release(lent.id)?;
                assert!(reader.release(lent.id).is_err(), "a block is released once");
            }
        }
    }
}

fn expected<'a>(
    records: impl IntoIterator<Item = &'a (u32, Vec<u8>)>,
) -> BTreeMap<u32, (Vec<u8>, u64)> {
    let mut expected = BTreeMap::<u32, (Vec<u8>, u64)>::new();
    for (partition, bytes) in records {
        let partition = expected.entry(*partition).or_default();
        partition.0.extend_from_slice(bytes);
        partition.1 += 1;
    }
    expected
}

fn many(count: usize, length: usize) -> Vec<(u32, Vec<u8>)> {
    (0u32..)
        .map(|i| {
            (
                i * 7 % PARTITIONS,
                (0..length)
                    .map(|j| (i as usize * 31 + j * j) as u8)
                    .collect(),
            )
        })
        .take(count)
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_java_writes_is_what_java_reads(
        fills in vec(vec((0..PARTITIONS, vec(any::<u8>(), 1..300)), 0..120), 0..4),
        long in 0usize..40_000,
    ) {
        let rig = Rig::new();
        let writer = rig.writer(9);
        for records in &fills {
            flush(&writer, records);
        }
        let mut all = fills.concat();
        if long > 0 {
            let record = (2, vec![7; long]);
            block(&writer, record.0, &record.1);
            all.push(record);
        }
        let lengths = commit(&writer);
        prop_assert_eq!(commit(&writer), lengths.clone());
        let expected = expected(&all);
        for (partition, length) in (0..).zip(&lengths) {
            prop_assert_eq!(*length > 0, expected.contains_key(&partition));
        }
        prop_assert_eq!(writer.stats().expect("open").records, all.len() as u64);
        let reader = rig.reader(output(&writer, 9, &lengths));
        prop_assert_eq!(read(&reader).expect("read"), expected);
    }
}

#[test]
fn a_record_longer_than_a_batch_arrives_in_parts_that_follow_each_other() {
    let rig = Rig::new();
    let writer = rig.writer(1);
    let records = vec![(1, vec![1; 10]), (1, vec![2; 50_000]), (1, vec![3; 10])];
    flush(&writer, &records);
    let lengths = commit(&writer);
    let reader = rig.reader(output(&writer, 1, &lengths));
    let (mut whole, mut inside) = (Vec::new(), false);
    loop {
        match reader.next(SLICE).expect("read") {
            Next::NotYet => {}
            Next::End => break,
            Next::Block(lent) => {
                assert_eq!(lent.part.continues, inside);
                inside = lent.part.continued;
                let bytes = reader.take(lent.id).expect("lent");
                assert_eq!(bytes.len(), lent.length);
                assert!(reader.release(lent.id).is_err(), "it was taken");
                if !lent.part.continues {
                    whole.push(Vec::new());
                }
                whole.last_mut().expect("begun").extend_from_slice(&bytes);
            }
        }
    }
    let long = whole.iter().find(|bytes| bytes.len() >= 50_000);
    assert!(!inside && long.is_some_and(|bytes| bytes.starts_with(&records[1].1)));
    assert_eq!(
        read(&rig.reader(output(&writer, 1, &lengths))).expect("read"),
        expected(&records)
    );
}

#[test]
fn a_server_that_holds_back_ends_each_call_in_time_and_loses_nothing() {
    let rig = Rig::new();
    rig.fake.faults().hold = true;
    let writer = rig.writer(2);
    // More than the client and the connection take ahead; does not compress.
    let mut seed = 1u64;
    let mut noise = move || {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as u8
    };
    let records: Vec<(u32, Vec<u8>)> = (0..50u32)
        .map(|i| (i % PARTITIONS, (0..1000).map(|_| noise()).collect()))
        .collect();
    let (count, bytes) = fill(&writer, &records);
    let mut held = 0;
    let mut flushed = 0;
    while flushed < 200 {
        let start = Instant::now();
        let done = writer.flush(count, bytes, SLICE).expect("flushed");
        assert!(start.elapsed() < Duration::from_secs(20));
        if done {
            flushed += 1;
        } else {
            held += 1;
            if held == 3 {
                // What is half done is neither begun anew nor skipped.
                assert!(
                    writer
                        .flush(count - 1, bytes, SLICE)
                        .expect_err("others")
                        .message
                        .contains("is not done")
                );
                assert!(
                    writer
                        .commit(SLICE)
                        .expect_err("early")
                        .message
                        .contains("before the flush is done")
                );
                rig.fake.faults().hold = false;
            }
        }
    }
    assert!(held >= 3, "the server was never felt");
    let lengths = commit(&writer);
    let reader = rig.reader(output(&writer, 2, &lengths));
    assert_eq!(
        read(&reader).expect("read"),
        expected(std::iter::repeat_n(&records, 200).flatten())
    );
}

#[test]
fn nothing_can_be_added_after_the_commit() {
    let rig = Rig::new();
    let writer = rig.writer(3);
    commit(&writer);
    let (count, bytes) = fill(&writer, &many(3, 10));
    assert_eq!(
        writer.flush(count, bytes, SLICE).expect_err("late").kind,
        Kind::Invalid
    );
    assert_eq!(
        writer
            .block(PartitionId(0), 1, 1, |_| Ok(()))
            .map_err(|error: Error| error.kind),
        Err(Kind::Invalid)
    );
}

#[test]
fn a_failure_is_the_answer_of_every_later_call() {
    let rig = Rig::new();
    rig.fake.faults().fenced = 100;
    let writer = rig.writer(4);
    let (count, bytes) = fill(&writer, &many(100, 300));
    let first = loop {
        match writer.flush(count, bytes, SLICE) {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(first.kind, Kind::Fenced);
    assert_eq!(writer.flush(count, bytes, SLICE), Err(first.clone()));
    assert_eq!(writer.drain(SLICE), Err(first.clone()));
    assert!(writer.commit(SLICE).is_err());
}

#[test]
fn a_writer_that_is_closed_early_leaves_nothing() {
    let rig = Rig::new();
    let writer = rig.writer(5);
    flush(&writer, &many(100, 300));
    let deadline = Instant::now() + Duration::from_secs(60);
    while rig.fake.counters().opens == 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(writer);
    while rig.fake.counters().aborts.is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(
        rig.fake
            .counters()
            .aborts
            .iter()
            .all(|reason| reason.contains("closed by its task"))
    );
    assert_eq!(rig.fake.counters().aborts.len(), 1);
    assert!(rig.fake.attempts(ShuffleId(3)).is_empty());
}

#[test]
fn an_output_that_is_lost_is_named_and_never_empty() {
    let rig = Rig::new();
    let writer = rig.writer(6);
    flush(&writer, &many(10, 30));
    let lengths = commit(&writer);
    rig.fake.faults().lost.insert(AttemptId(6));
    let error = read(&rig.reader(output(&writer, 6, &lengths))).expect_err("lost");
    assert_eq!(error.kind, Kind::Lost);
    let lost = error.output.expect("named");
    assert_eq!(
        (lost.volume, lost.map_index, lost.attempt),
        (rig.fake.volume(), MapIndex(0), AttemptId(6))
    );
}

#[test]
fn after_a_panic_inside_the_writer_is_refused_and_can_be_closed() {
    let rig = Rig::new();
    let writer = rig.writer(7);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        writer.block(PartitionId(0), 1, 1, |_| -> Result<(), Error> {
            panic!("on purpose")
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(
        writer.drain(SLICE).expect_err("poisoned").kind,
        Kind::Internal
    );
    assert_eq!(
        writer.commit(SLICE).expect_err("poisoned").kind,
        Kind::Internal
    );
    drop(writer);
}
