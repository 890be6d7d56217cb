//! What the tests of this crate share: specs, records, and ways to write and read them.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub)] // every test binary uses a part of it

pub mod log;
pub mod relay;

use std::{collections::BTreeMap, time::Duration};

use shuffle_client::{
    AppId, AttemptId, Caller, Client, Commit, Compression, Durability, Error, MapIndex, MapWriter,
    Output, PartitionId, ReadSpec, Reader, Settings, ShuffleId, WriteSpec, fake::Fake,
};

pub const SHUFFLE: ShuffleId = ShuffleId(7);
pub const PARTITIONS: u32 = 5;
pub const MAPS: u32 = 8;

/// Tries again at once, and gives nothing up that only has to wait for a processor. The test of a
/// limit sets that limit.
pub fn settings(servers: &[&Fake]) -> Settings {
    Settings {
        connect_timeout: Duration::from_secs(20),
        call_timeout: Duration::from_secs(20),
        retry_deadline: Duration::from_secs(60),
        backoff_base: Duration::from_millis(10),
        backoff_max: Duration::from_millis(100),
        ..Settings::of(servers.iter().map(|server| server.address()))
    }
}

pub fn client(servers: &[&Fake]) -> Client {
    Client::new(settings(servers)).unwrap()
}

pub fn caller() -> Caller {
    Caller {
        app: AppId::try_new("app-1").unwrap(),
        token: "secret".into(),
        lease: Duration::ZERO,
    }
}

pub fn write_spec(servers: &[&Fake], map: u32, attempt: u64) -> WriteSpec {
    WriteSpec {
        caller: caller(),
        shuffle: SHUFFLE,
        num_maps: MAPS,
        num_partitions: PARTITIONS,
        map_index: MapIndex(map),
        attempt: AttemptId(attempt),
        durability: Durability::Disk,
        candidates: servers.iter().map(|server| server.address()).collect(),
        compression: Compression::Lz4,
    }
}

/// The bytes of one record batch: half of it compresses well, half does not.
pub fn raw(map: u32, partition: u32, number: u32, length: usize) -> Vec<u8> {
    let mut state = (u64::from(map) << 40 | u64::from(partition) << 20 | u64::from(number)) + 1;
    (0..length)
        .map(|i| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            if i % 2 == 0 {
                (state >> 56) as u8
            } else {
                b'x'
            }
        })
        .collect()
}

/// Writes `blocks` blocks of `length` bytes to every partition, partition by partition; each counts
/// as 3 records.
pub fn fill(writer: &mut MapWriter, map: u32, blocks: u32, length: usize) -> Result<(), Error> {
    for partition in 0..PARTITIONS {
        for number in 0..blocks {
            let raw = raw(map, partition, number, length);
            let (a, b) = raw.split_at(length / 3);
            writer.add_block(PartitionId(partition), &[a, b], 3)?;
        }
    }
    Ok(())
}

/// Writes one whole output and commits it.
pub async fn write(
    client: &Client,
    servers: &[&Fake],
    map: u32,
    attempt: u64,
    blocks: u32,
    length: usize,
) -> Commit {
    let mut writer = client.open_writer(write_spec(servers, map, attempt));
    for partition in 0..PARTITIONS {
        for number in 0..blocks {
            writer
                .add_block(
                    PartitionId(partition),
                    &[&raw(map, partition, number, length)],
                    3,
                )
                .unwrap();
            writer.ready().await.unwrap();
        }
    }
    writer.commit().await.unwrap()
}

pub fn output(commit: &Commit, map: u32, attempt: u64) -> Output {
    let with_data = (0u32..)
        .zip(&commit.partition_lengths)
        .filter(|(_, length)| **length > 0);
    Output {
        volume: commit.volume,
        address: commit.address.clone(),
        mirror: commit.mirror.clone(),
        map_index: MapIndex(map),
        attempt: AttemptId(attempt),
        partitions: with_data.map(|(partition, _)| partition).collect(),
    }
}

pub fn read_spec(outputs: Vec<Output>) -> ReadSpec {
    ReadSpec {
        caller: caller(),
        shuffle: SHUFFLE,
        partitions: 0..PARTITIONS,
        maps: 0..u32::MAX,
        outputs,
        window: None,
    }
}

/// (map, partition) → all its bytes in order, and records.
pub type Got = BTreeMap<(u32, u32), (Vec<u8>, u32)>;

pub async fn read_all(reader: &mut Reader) -> Result<Got, Error> {
    let mut got = Got::new();
    while let Some(block) = reader.next().await? {
        let entry = got
            .entry((block.map_index.0, block.partition.0))
            .or_default();
        entry.0.extend_from_slice(&block.data);
        entry.1 += block.records;
    }
    Ok(got)
}

/// What [`write`] or [`fill`] of these maps must give back.
pub fn wrote(maps: &[u32], blocks: u32, length: usize) -> Got {
    let mut all = Got::new();
    for &map in maps {
        for partition in 0..PARTITIONS {
            let bytes = (0..blocks)
                .flat_map(|number| raw(map, partition, number, length))
                .collect();
            all.insert((map, partition), (bytes, 3 * blocks));
        }
    }
    all
}

/// Reads one output back and compares it with what [`write`] or [`fill`] wrote.
pub async fn check_read(
    client: &Client,
    commit: &Commit,
    map: u32,
    attempt: u64,
    blocks: u32,
    length: usize,
) {
    let mut reader = client.open_reader(read_spec(vec![output(commit, map, attempt)]));
    assert!(
        read_all(&mut reader).await.unwrap() == wrote(&[map], blocks, length),
        "what was read is not what was written"
    );
}

/// Waits for something to become true, within reason.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(std::time::Instant::now() < end, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
