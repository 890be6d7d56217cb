//! The client crate against real server processes that die, come back, move, stall and lie.

// A failed unwrap is a failed test; clippy's own exemption for tests does not reach their helper
// functions.
#![allow(clippy::unwrap_used)]

mod direct;
mod engine;
mod flipped;
mod mirrors;
mod near;
mod readers;
mod secured;
mod writers;
mod written_back;

use shuffle_client::{
    AppHandle, AppId, AttemptId, Caller, Client, Commit, Compression, Durability, Error, MapIndex,
    MapWriter, Output, PartitionId, ReadSpec, Reader, Settings, ShuffleId, WriteSpec,
};
use shuffle_tests::{STEP, Server, eventually, random_bytes, step};
use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

const PARTITIONS: u32 = 8;
/// Servers of tests come back within this, on whatever machine. Tests of servers that stay away have
/// less.
const PATIENCE: Duration = Duration::from_secs(60);

/// A client with short patience, and an app.
struct Driver {
    client: Client,
    app: AppHandle,
    caller: Caller,
    durability: Durability,
}

fn settings(servers: &[SocketAddr]) -> Settings {
    Settings {
        connect_timeout: Duration::from_secs(2),
        call_timeout: Duration::from_secs(5),
        retry_deadline: PATIENCE,
        backoff_max: Duration::from_millis(500),
        keep_alive: Duration::from_secs(1),
        ..Settings::of(servers.iter().map(ToString::to_string))
    }
}

impl Driver {
    async fn new(servers: &[&Server]) -> Self {
        Self::with(settings(
            &servers
                .iter()
                .map(|server| server.addr())
                .collect::<Vec<_>>(),
        ))
        .await
    }

    async fn with(settings: Settings) -> Self {
        let client = Client::new(settings).unwrap();
        let caller = Caller {
            app: AppId::try_new("app-1").unwrap(),
            token: "secret".into(),
            lease: Duration::ZERO,
        };
        let app = step("registration", client.open_app(caller.clone()))
            .await
            .unwrap();
        Self {
            client,
            app,
            caller,
            durability: Durability::Disk,
        }
    }

    fn spec(&self, shuffle: u32, maps: u32, map: u32, attempt: u64) -> WriteSpec {
        WriteSpec {
            caller: self.caller.clone(),
            shuffle: ShuffleId(shuffle),
            num_maps: maps,
            num_partitions: PARTITIONS,
            map_index: MapIndex(map),
            attempt: AttemptId(attempt),
            durability: self.durability,
            candidates: self.app.place(ShuffleId(shuffle), maps, PARTITIONS).into(),
            // Blocks of one shuffle may differ in their codec.
            compression: [Compression::Lz4, Compression::None, Compression::Zstd(3)]
                [map as usize % 3],
        }
    }

    fn reader(&self, shuffle: u32, outputs: Vec<Output>) -> Reader {
        self.windowed(shuffle, outputs, None)
    }

    /// With so many bytes in flight at most.
    fn windowed(&self, shuffle: u32, outputs: Vec<Output>, window: Option<usize>) -> Reader {
        self.client.open_reader(ReadSpec {
            caller: self.caller.clone(),
            shuffle: ShuffleId(shuffle),
            partitions: 0..PARTITIONS,
            maps: 0..u32::MAX,
            outputs,
            window,
        })
    }
}

/// What one map task writes: rounds of blocks over all partitions.
struct Task {
    map: u32,
    attempt: u64,
    rounds: u32,
    bytes: usize,
}

impl Task {
    fn new(map: u32, attempt: u64) -> Self {
        Self {
            map,
            attempt,
            rounds: 4,
            bytes: 30_000,
        }
    }

    fn block(&self, round: u32, partition: u32) -> Vec<u8> {
        let seed = self.attempt << 20 | u64::from(round) << 10 | u64::from(partition);
        let random = random_bytes(seed, self.bytes / 2);
        // Half of it can be compressed.
        [
            &random[..],
            &vec![partition as u8; self.bytes - self.bytes / 2],
        ]
        .concat()
    }

    async fn write(
        &self,
        writer: &mut MapWriter,
        rounds: std::ops::Range<u32>,
    ) -> Result<(), Error> {
        for round in rounds {
            for partition in 0..PARTITIONS {
                let block = self.block(round, partition);
                writer.add_block(PartitionId(partition), &[&block[..10], &block[10..]], 3)?;
                step("the writer", writer.ready()).await?;
            }
        }
        Ok(())
    }

    async fn run(&self, driver: &Driver, shuffle: u32, maps: u32) -> Result<Commit, Error> {
        let mut writer =
            driver
                .client
                .open_writer(driver.spec(shuffle, maps, self.map, self.attempt));
        self.write(&mut writer, 0..self.rounds).await?;
        step("the commit", writer.commit()).await
    }

    fn output(&self, commit: &Commit) -> Output {
        Output {
            volume: commit.volume,
            address: commit.address.clone(),
            mirror: commit.mirror.clone(),
            map_index: MapIndex(self.map),
            attempt: AttemptId(self.attempt),
            partitions: (0..PARTITIONS).collect(),
        }
    }

    /// What a reader must get of a partition.
    fn expected(&self, partition: u32) -> (Vec<u8>, u32) {
        let rounds = (0..self.rounds).map(|round| self.block(round, partition));
        (rounds.collect::<Vec<_>>().concat(), 3 * self.rounds)
    }
}

/// Bytes and records by (map, partition), in the order in which they came.
type Rows = BTreeMap<(u32, u32), (Vec<u8>, u32)>;

async fn read_on(reader: &mut Reader, rows: &mut Rows, most: usize) -> Result<bool, Error> {
    for _ in 0..most {
        let Some(block) = step("the reader", reader.next()).await? else {
            return Ok(false);
        };
        let row = rows
            .entry((block.map_index.0, block.partition.0))
            .or_default();
        row.0.extend_from_slice(&block.data);
        row.1 += block.records;
    }
    Ok(true)
}

async fn read_all(mut reader: Reader) -> Result<Rows, Error> {
    let mut rows = Rows::new();
    while read_on(&mut reader, &mut rows, 1000).await? {}
    Ok(rows)
}

fn check(rows: &Rows, tasks: &[Task]) {
    assert_eq!(rows.len(), tasks.len() * PARTITIONS as usize);
    for task in tasks {
        for partition in 0..PARTITIONS {
            let (bytes, records) = task.expected(partition);
            let got = &rows[&(task.map, partition)];
            assert!(
                got.0 == bytes,
                "map {} partition {partition}: {} bytes of {}",
                task.map,
                got.0.len(),
                bytes.len()
            );
            assert_eq!(got.1, records);
        }
    }
}

/// Writes these tasks as one shuffle.
async fn write_all(driver: &Driver, shuffle: u32, tasks: &[Task]) -> Vec<Output> {
    let mut outputs = Vec::new();
    for task in tasks {
        let commit = task.run(driver, shuffle, tasks.len() as u32).await.unwrap();
        outputs.push(task.output(&commit));
    }
    outputs
}

fn tasks(count: u32) -> Vec<Task> {
    (0..count)
        .map(|map| Task::new(map, u64::from(map) + 1))
        .collect()
}

/// The same with more blocks.
fn long_tasks(count: u32, rounds: u32) -> Vec<Task> {
    let tasks = tasks(count).into_iter();
    tasks.map(|task| Task { rounds, ..task }).collect()
}

// === the good case ===

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_over_two_servers_is_read_back() {
    let (one, two) = (Server::start().await, Server::start().await);
    let driver = Driver::new(&[&one, &two]).await;
    let tasks = tasks(12);
    let outputs = write_all(&driver, 0, &tasks).await;
    let volumes: std::collections::BTreeSet<_> =
        outputs.iter().map(|output| output.volume).collect();
    assert_eq!(volumes.len(), 2, "12 maps went to one of two servers");
    check(
        &read_all(driver.reader(0, outputs.clone())).await.unwrap(),
        &tasks,
    );
    // A late copy of a task commits too; only the one that is named is read.
    let late = Task {
        attempt: 99,
        ..Task::new(3, 0)
    };
    late.run(&driver, 0, 12).await.unwrap();
    check(&read_all(driver.reader(0, outputs)).await.unwrap(), &tasks);
    driver.app.close().await.unwrap();
    for server in [&one, &two] {
        eventually(Duration::from_secs(10), || async {
            let files = server.data_files();
            if files.is_empty() {
                Ok(())
            } else {
                Err(format!("left: {files:?}"))
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_and_long_records_come_whole() {
    let server = Server::start().await;
    let driver = Driver::new(&[&server]).await;
    let mut outputs = Vec::new();
    let long = random_bytes(1, 30 << 20);
    for map in 0..3 {
        let mut writer = driver
            .client
            .open_writer(driver.spec(0, 3, map, u64::from(map)));
        for partition in [1, 5] {
            writer
                .add_block(PartitionId(partition), &[&[partition as u8; 100]], 1)
                .unwrap();
            if map == 1 {
                writer.add_long(PartitionId(partition), &long, 1).unwrap();
                step("the writer", writer.ready()).await.unwrap();
            }
        }
        let commit = step("the commit", writer.commit()).await.unwrap();
        assert_eq!(
            commit
                .partition_lengths
                .iter()
                .filter(|&&length| length > 0)
                .count(),
            2
        );
        outputs.push(Output {
            partitions: vec![5],
            ..Task::new(map, u64::from(map)).output(&commit)
        });
    }
    let read = |maps: std::ops::Range<u32>| {
        let outputs = outputs
            .iter()
            .filter(|output| maps.contains(&output.map_index.0))
            .cloned()
            .collect();
        driver.client.open_reader(ReadSpec {
            caller: driver.caller.clone(),
            shuffle: ShuffleId(0),
            partitions: 5..6,
            maps,
            outputs,
            window: Some(1 << 20),
        })
    };
    let rows = read_all(read(0..u32::MAX)).await.unwrap();
    assert_eq!(
        rows.keys().copied().collect::<Vec<_>>(),
        [(0, 5), (1, 5), (2, 5)]
    );
    assert_eq!(rows[&(0, 5)], (vec![5; 100], 1));
    assert!(rows[&(1, 5)].0 == [&[5u8; 100], &long[..]].concat() && rows[&(1, 5)].1 == 2);
    let rows = read_all(read(2..3)).await.unwrap();
    assert_eq!(rows.keys().copied().collect::<Vec<_>>(), [(2, 5)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lease_lives_as_long_as_its_handle() {
    let server = Server::start().await;
    let driver = Driver::new(&[&server]).await;
    let caller = Caller {
        app: AppId::try_new("short").unwrap(),
        lease: Duration::from_secs(4),
        ..driver.caller.clone()
    };
    let app = driver.client.open_app(caller.clone()).await.unwrap();
    let short = Driver {
        client: driver.client.clone(),
        app,
        caller,
        durability: Durability::Disk,
    };
    let tasks = tasks(2);
    let outputs = write_all(&short, 0, &tasks).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    check(&read_all(short.reader(0, outputs)).await.unwrap(), &tasks);
    drop(short);
    eventually(STEP, || async {
        let files = server.data_files();
        if files.is_empty() {
            Ok(())
        } else {
            Err(format!("left: {files:?}"))
        }
    })
    .await;
}
