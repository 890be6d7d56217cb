//! The client crate against real server processes that die, come back, move, stall and lie.

// A failed unwrap is a failed test; clippy's own exemption for tests does not reach their helper functions.
#![allow(clippy::unwrap_used)]

use shuffle_client::{
    AppHandle, AppId, AttemptId, Caller, Client, Commit, Durability, Error, Kind, MapIndex,
    MapWriter, Output, PartitionId, ReadSpec, Reader, Settings, ShuffleId, VolumeId, WriteSpec,
};
use shuffle_tests::{
    Server, Setup,
    attempt::Random,
    disk, eventually,
    proxy::{Fault, Proxy},
    random_bytes, step,
};
use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

const PARTITIONS: u32 = 8;

/// A client with short patience, and an app.
struct Driver {
    client: Client,
    app: AppHandle,
    caller: Caller,
}

fn settings(servers: &[SocketAddr]) -> Settings {
    Settings {
        connect_timeout: Duration::from_secs(2),
        call_timeout: Duration::from_secs(5),
        retry_deadline: Duration::from_secs(15),
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
            durability: Durability::Disk,
            candidates: self.app.place(ShuffleId(shuffle), maps, PARTITIONS).into(),
            compress: map.is_multiple_of(2),
        }
    }

    fn reader(&self, shuffle: u32, outputs: Vec<Output>) -> Reader {
        self.client.open_reader(ReadSpec {
            caller: self.caller.clone(),
            shuffle: ShuffleId(shuffle),
            partitions: 0..PARTITIONS,
            maps: 0..u32::MAX,
            outputs,
            window: None,
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
        lease: Duration::from_millis(1500),
        ..driver.caller.clone()
    };
    let app = driver.client.open_app(caller.clone()).await.unwrap();
    let short = Driver {
        client: driver.client.clone(),
        app,
        caller,
    };
    let tasks = tasks(2);
    let outputs = write_all(&short, 0, &tasks).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    check(&read_all(short.reader(0, outputs)).await.unwrap(), &tasks);
    drop(short);
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

// === writers and servers that fail ===

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_sends_again_to_the_next_server_when_one_is_killed() {
    let (mut one, mut two) = (Server::start().await, Server::start().await);
    let driver = Driver::new(&[&one, &two]).await;
    let task = Task {
        rounds: 40,
        ..Task::new(0, 1)
    };
    let spec = driver.spec(0, 1, 0, 1);
    let first_is_one = spec.candidates[0] == one.addr().to_string();
    let mut writer = driver.client.open_writer(spec);
    task.write(&mut writer, 0..20).await.unwrap();
    let (first, second) = if first_is_one {
        (&mut one, &two)
    } else {
        (&mut two, &one)
    };
    eventually(Duration::from_secs(10), || async {
        let used = first.peer().await.describe().await.memory_used;
        if used > 0 {
            Ok(())
        } else {
            Err("nothing was sent yet".into())
        }
    })
    .await;
    first.kill();
    task.write(&mut writer, 20..40).await.unwrap();
    let commit = step("the commit", writer.commit()).await.unwrap();
    assert_eq!(commit.address, second.addr().to_string());
    assert!(writer.stats().resends > 0);
    check(
        &read_all(driver.reader(0, vec![task.output(&commit)]))
            .await
            .unwrap(),
        &[task],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_outgrew_its_replay_buffer_fails_and_says_so() {
    let mut server = Server::start().await;
    let driver = Driver::with(Settings {
        replay_buffer: 1 << 20,
        ..settings(&[server.addr()])
    })
    .await;
    let task = Task {
        rounds: 40,
        ..Task::new(0, 1)
    };
    let mut writer = driver.client.open_writer(driver.spec(0, 1, 0, 1));
    task.write(&mut writer, 0..30).await.unwrap();
    server.kill();
    server.restart().await;
    let failed = match task.write(&mut writer, 30..40).await {
        Ok(()) => step("the commit", writer.commit()).await.map(drop),
        Err(error) => Err(error),
    };
    let error = failed.unwrap_err();
    assert!(
        matches!(error.kind, Kind::Unavailable | Kind::Fenced),
        "{error:?}"
    );
    assert!(
        error.message.contains(&server.addr().to_string()),
        "{error}"
    );
    // The engine's next try, as another attempt, works.
    let again = Task { attempt: 2, ..task };
    let commit = again.run(&driver, 0, 1).await.unwrap();
    check(
        &read_all(driver.reader(0, vec![again.output(&commit)]))
            .await
            .unwrap(),
        &[again],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_waits_for_its_only_server_to_come_back() {
    let mut server = Server::start().await;
    let driver = Driver::new(&[&server]).await;
    let task = Task {
        rounds: 20,
        ..Task::new(0, 1)
    };
    let mut writer = driver.client.open_writer(driver.spec(0, 1, 0, 1));
    task.write(&mut writer, 0..10).await.unwrap();
    server.kill();
    let writing = async {
        task.write(&mut writer, 10..20).await?;
        step("the commit", writer.commit()).await
    };
    let coming_back = async {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        server.restart().await;
    };
    let (commit, ()) = tokio::join!(writing, coming_back);
    let commit = commit.unwrap();
    check(
        &read_all(driver.reader(0, vec![task.output(&commit)]))
            .await
            .unwrap(),
        &[task],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_at_any_moment_of_a_commit_lose_and_double_nothing() {
    let mut server = Server::start().await;
    let driver = Driver::new(&[&server]).await;
    let mut random = Random(3);
    let count = 14;
    let all: Vec<_> = (0..count)
        .map(|map| Task {
            rounds: 6,
            ..Task::new(map, u64::from(map) + 1)
        })
        .collect();
    let mut outputs = Vec::new();
    for task in &all {
        let micros = random.below(30_000);
        let killing = async {
            tokio::time::sleep(Duration::from_micros(micros)).await;
            server.kill();
            server.restart().await;
        };
        let (commit, ()) = tokio::join!(task.run(&driver, 0, count), killing);
        outputs.push(task.output(&commit.unwrap()));
    }
    check(&read_all(driver.reader(0, outputs)).await.unwrap(), &all);
    let usage = server
        .peer()
        .await
        .usage(
            &shuffle_tests::App {
                id: "app-1".into(),
                token: "secret".into(),
                lease_ms: 0,
            },
            None,
        )
        .await;
    assert_eq!(
        usage.unwrap().attempts,
        u64::from(count),
        "an attempt that was sent twice is committed once"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_leaves_a_frozen_server_for_the_next() {
    let (one, two) = (Server::start().await, Server::start().await);
    let driver = Driver::new(&[&one, &two]).await;
    let spec = driver.spec(0, 1, 0, 1);
    let frozen = if spec.candidates[0] == one.addr().to_string() {
        &one
    } else {
        &two
    };
    frozen.pause();
    let start = Instant::now();
    let task = Task::new(0, 1);
    let commit = task.run(&driver, 0, 1).await;
    frozen.resume();
    let commit = commit.unwrap();
    assert_ne!(commit.address, frozen.addr().to_string());
    assert!(
        start.elapsed() < Duration::from_secs(30),
        "{:?}",
        start.elapsed()
    );
    check(
        &read_all(driver.reader(0, vec![task.output(&commit)]))
            .await
            .unwrap(),
        &[task],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_server_gets_no_new_output() {
    let (mut one, two) = (Server::start().await, Server::start().await);
    let driver = Driver::new(&[&one, &two]).await;
    // Something that keeps the drain going.
    let held = shuffle_tests::Attempt::generate(
        &shuffle_tests::App::new("other"),
        0,
        shuffle_tests::Shape::small(1, 1),
        0,
        1,
    );
    let push = one.peer().await.send(&held).await.unwrap();
    one.terminate();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let tasks = tasks(6);
    let outputs = write_all(&driver, 0, &tasks).await;
    assert!(
        outputs
            .iter()
            .all(|output| output.address == two.addr().to_string()),
        "{outputs:?}"
    );
    push.commit(held.totals()).await.unwrap();
    assert_eq!(one.ended().await.code(), Some(0));
    check(&read_all(driver.reader(0, outputs)).await.unwrap(), &tasks);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_is_dropped_or_aborted_leaves_nothing() {
    let server = Server::start().await;
    let driver = Driver::new(&[&server]).await;
    for attempt in 0..10 {
        let task = Task {
            rounds: 10,
            ..Task::new(0, attempt)
        };
        let mut writer = driver.client.open_writer(driver.spec(0, 1, 0, attempt));
        task.write(&mut writer, 0..10).await.unwrap();
        if attempt % 2 == 0 {
            drop(writer)
        } else {
            writer.abort("the test says so")
        }
    }
    let peer = server.peer().await;
    eventually(Duration::from_secs(10), || async {
        let describe = peer.describe().await;
        let used = (describe.memory_used, describe.volumes[0].bytes_used);
        if used == (0, 0) {
            Ok(())
        } else {
            Err(format!("{used:?} bytes of memory and disk used"))
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_name_the_cause_and_are_not_retried_for_ever() {
    let server = Server::start().await;
    let driver = Driver::new(&[&server]).await;
    let task = Task::new(0, 1);
    task.run(&driver, 0, 1).await.unwrap();
    let thief = Caller {
        token: "wrong".into(),
        ..driver.caller.clone()
    };
    let start = Instant::now();
    let mut writer = driver.client.open_writer(WriteSpec {
        caller: thief.clone(),
        ..driver.spec(0, 1, 0, 2)
    });
    let error = match task.write(&mut writer, 0..1).await {
        Ok(()) => step("the commit", writer.commit()).await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(error.kind, Kind::Denied, "{error}");
    let error = driver.client.open_app(thief).await.err().unwrap();
    assert_eq!(error.kind, Kind::Denied, "{error}");
    assert!(!error.message.contains("secret"));
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "a refusal was retried for {:?}",
        start.elapsed()
    );
}

// === readers and servers that fail ===

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_waits_for_a_server_that_restarts() {
    let mut server = Server::start().await;
    let driver = Driver::new(&[&server]).await;
    let tasks = tasks(6);
    let outputs = write_all(&driver, 0, &tasks).await;
    server.kill();
    let reading = read_all(driver.reader(0, outputs));
    let coming_back = async {
        tokio::time::sleep(Duration::from_millis(2000)).await;
        server.restart().await;
    };
    let (rows, ()) = tokio::join!(reading, coming_back);
    check(&rows.unwrap(), &tasks);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_resumes_where_its_server_was_killed() {
    let mut server = Server::start().await;
    let driver = Driver::with(Settings {
        fetch_window: 128 << 10,
        ..settings(&[server.addr()])
    })
    .await;
    let tasks: Vec<_> = (0..6)
        .map(|map| Task {
            rounds: 30,
            ..Task::new(map, u64::from(map) + 1)
        })
        .collect();
    let outputs = write_all(&driver, 0, &tasks).await;
    let mut reader = driver.reader(0, outputs);
    let mut rows = Rows::new();
    for round in 0..4 {
        assert!(
            read_on(&mut reader, &mut rows, 60 + round * 20)
                .await
                .unwrap()
        );
        server.kill();
        server.restart().await;
    }
    while read_on(&mut reader, &mut rows, 1000).await.unwrap() {}
    assert!(reader.stats().resumes > 0);
    check(&rows, &tasks);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_again_and_again_still_brings_everything_once() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.addr()).await;
    let tasks: Vec<_> = (0..4)
        .map(|map| Task {
            rounds: 20,
            ..Task::new(map, u64::from(map) + 1)
        })
        .collect();
    let direct = Driver::new(&[&server]).await;
    let mut outputs = write_all(&direct, 0, &tasks).await;
    outputs
        .iter_mut()
        .for_each(|output| output.address = proxy.addr().to_string());
    let driver = Driver::with(settings(&[proxy.addr()])).await;
    proxy.set(Fault::CutEvery(400_000));
    let reader = driver.reader(0, outputs);
    let rows = read_all(reader).await.unwrap();
    assert!(
        proxy.struck() > 2,
        "the connection was cut {} times",
        proxy.struck()
    );
    check(&rows, &tasks);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_flipped_on_the_wire_never_reaches_a_row() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.addr()).await;
    let direct = Driver::new(&[&server]).await;
    let tasks = tasks(3);
    let mut outputs = write_all(&direct, 0, &tasks).await;
    outputs
        .iter_mut()
        .for_each(|output| output.address = proxy.addr().to_string());
    let mut random = Random(9);
    for _ in 0..25 {
        let impatient = Settings {
            retry_deadline: Duration::from_secs(4),
            ..settings(&[proxy.addr()])
        };
        let driver = Driver::with(impatient).await;
        proxy.set(Fault::FlipAt(random.below(350_000)));
        // Asked again it comes right, or the fetch fails: both are fine.
        match read_all(driver.reader(0, outputs.clone())).await {
            Ok(rows) => check(&rows, &tasks),
            Err(error) => assert!(
                error.output.is_some() || error.kind == Kind::Denied,
                "{error:?}"
            ),
        }
        proxy.set(Fault::None);
    }
    assert!(
        proxy.struck() > 10,
        "only {} bits were flipped",
        proxy.struck()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_flipped_on_the_disk_never_reaches_a_row() {
    let mut server = Server::start().await;
    let driver = Driver::with(Settings {
        retry_deadline: Duration::from_secs(3),
        ..settings(&[server.addr()])
    })
    .await;
    let tasks = tasks(3);
    let outputs = write_all(&driver, 0, &tasks).await;
    server.stop().await;
    server.allow_errors("");
    server.restart().await;
    let mut random = Random(4);
    let (mut refused, files) = (0, server.data_files());
    assert!(!files.is_empty());
    for path in files {
        let good = fs::read(&path).unwrap();
        for _ in 0..30 {
            let (at, bit) = (random.below(good.len() as u64), random.below(8) as u8);
            disk::flip(&path, at, bit);
            match read_all(driver.reader(0, outputs.clone())).await {
                Ok(rows) => check(&rows, &tasks),
                Err(error) => {
                    refused += 1;
                    assert!(
                        matches!(error.kind, Kind::Lost | Kind::Corrupt),
                        "{error:?}"
                    );
                    let output = error.output.expect("the error names one output");
                    assert!(outputs.iter().any(|o| (o.volume, o.map_index, o.attempt)
                        == (output.volume, output.map_index, output.attempt)));
                }
            }
            disk::flip(&path, at, bit);
        }
    }
    assert!(refused > 0, "no flip was noticed");
    check(&read_all(driver.reader(0, outputs)).await.unwrap(), &tasks);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_moved_to_another_address_is_found() {
    let (mut one, mut two) = (Server::start().await, Server::start().await);
    let driver = Driver::new(&[&one, &two]).await;
    let tasks = tasks(6);
    let outputs = write_all(&driver, 0, &tasks).await;
    one.kill();
    let moved = one.dirs()[0].clone();
    // It joins the other server's own disk.
    let own = two.dirs()[0].clone();
    let addr = two.addr();
    two.kill();
    let mut both = Server::prepare(Setup::new().dir(own).dir(moved));
    both.listen_like(&two);
    both.restart().await;
    assert_eq!(both.addr(), addr);
    check(&read_all(driver.reader(0, outputs)).await.unwrap(), &tasks);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_back_empty_is_lost_at_once_and_by_name() {
    let mut server = Server::start().await;
    let driver = Driver::new(&[&server]).await;
    let tasks = tasks(3);
    let outputs = write_all(&driver, 0, &tasks).await;
    server.kill();
    server.empty_dir();
    server.restart().await;
    // The same shuffle lives there again: what it holds now is not what is asked for.
    let fresh = Task {
        attempt: 50,
        ..Task::new(0, 0)
    };
    fresh.run(&driver, 0, 3).await.unwrap();
    let error = read_all(driver.reader(0, outputs.clone()))
        .await
        .unwrap_err();
    assert_eq!(error.kind, Kind::Lost, "{error}");
    let lost = error.output.expect("the error names one output");
    assert_eq!(lost.volume, outputs[0].volume);
    assert!(
        error.message.contains(&outputs[0].volume.to_string()),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_gone_for_good_fails_within_the_deadline() {
    let (mut one, two) = (Server::start().await, Server::start().await);
    let addresses = [one.addr(), two.addr()];
    let driver = Driver::with(Settings {
        retry_deadline: Duration::from_secs(4),
        ..settings(&addresses)
    })
    .await;
    let tasks = tasks(6);
    let outputs = write_all(&driver, 0, &tasks).await;
    let volume = VolumeId(uuid::Uuid::from_slice(&one.volumes()[0]).unwrap());
    one.kill();
    let start = Instant::now();
    let error = read_all(driver.reader(0, outputs)).await.unwrap_err();
    assert!(
        start.elapsed() < Duration::from_secs(25),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(
        error.output.expect("the error names one output").volume,
        volume,
        "{error}"
    );
    assert!(
        matches!(error.kind, Kind::Unavailable | Kind::Lost),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_that_are_not_there_are_an_error_not_an_empty_answer() {
    let server = Server::start().await;
    let driver = Driver::new(&[&server]).await;
    let tasks = tasks(3);
    let outputs = write_all(&driver, 0, &tasks).await;
    // An attempt that never committed.
    let mut wrong = outputs.clone();
    wrong[1].attempt = AttemptId(77);
    let error = read_all(driver.reader(0, wrong)).await.unwrap_err();
    assert_eq!(
        (error.kind, error.output.map(|o| o.attempt)),
        (Kind::Lost, Some(AttemptId(77))),
        "{error}"
    );
    // A partition said to have rows, in an output that has none there.
    let mut writer = driver.client.open_writer(driver.spec(1, 1, 0, 5));
    writer.add_block(PartitionId(0), &[&[1; 10]], 1).unwrap();
    let commit = step("the commit", writer.commit()).await.unwrap();
    let claimed = Task::new(0, 5).output(&commit);
    let error = read_all(driver.reader(1, vec![claimed])).await.unwrap_err();
    assert!(error.output.is_some(), "{error}");
    // A shuffle that was deleted.
    driver.app.delete_shuffle(ShuffleId(0)).await.unwrap();
    let error = read_all(driver.reader(0, outputs)).await.unwrap_err();
    assert_eq!(error.kind, Kind::Lost, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_is_dropped_in_the_middle_frees_the_server() {
    let mut server = Server::with(Setup::new().flag("--memory", "16MiB")).await;
    let driver = Driver::new(&[&server]).await;
    let tasks: Vec<_> = (0..6)
        .map(|map| Task {
            rounds: 30,
            ..Task::new(map, u64::from(map) + 1)
        })
        .collect();
    let outputs = write_all(&driver, 0, &tasks).await;
    for _ in 0..20 {
        let mut reader = driver.reader(0, outputs.clone());
        let mut rows = Rows::new();
        assert!(read_on(&mut reader, &mut rows, 5).await.unwrap());
    }
    check(&read_all(driver.reader(0, outputs)).await.unwrap(), &tasks);
    driver.app.close().await.unwrap();
    let peer = server.peer().await;
    eventually(Duration::from_secs(10), || async {
        let used = peer.describe().await.memory_used;
        if used == 0 {
            Ok(())
        } else {
            Err(format!("{used} bytes of memory used"))
        }
    })
    .await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_connection_is_given_up_and_taken_up_again() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.addr()).await;
    let direct = Driver::new(&[&server]).await;
    let tasks: Vec<_> = (0..3)
        .map(|map| Task {
            rounds: 10,
            ..Task::new(map, u64::from(map) + 1)
        })
        .collect();
    let mut outputs = write_all(&direct, 0, &tasks).await;
    outputs
        .iter_mut()
        .for_each(|output| output.address = proxy.addr().to_string());
    let driver = Driver::with(settings(&[proxy.addr()])).await;
    let mut reader = driver.reader(0, outputs);
    let mut rows = Rows::new();
    assert!(read_on(&mut reader, &mut rows, 2).await.unwrap());
    proxy.set(Fault::Stall);
    let lifted = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        proxy.set(Fault::None);
    };
    let reading = async { while read_on(&mut reader, &mut rows, 1000).await.unwrap() {} };
    tokio::join!(reading, lifted);
    check(&rows, &tasks);
}
