//! Writers while servers are killed, restart, freeze or drain.

use shuffle_client::{
    AttemptId, Caller, Kind, MapIndex, Output, PartitionId, ReadSpec, Settings, ShuffleId,
    WriteSpec,
};
use shuffle_tests::{STEP, Server, attempt::Random, eventually, step};
use std::time::{Duration, Instant};

use crate::{Driver, PATIENCE, Task, check, read_all, settings, tasks, write_all};

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
    eventually(STEP, || async {
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
    let peer = server.peer().await;
    eventually(STEP, || async {
        let held = peer.describe().await.memory_used;
        if held > 2 << 20 {
            Ok(())
        } else {
            Err(format!("the server holds {held} bytes"))
        }
    })
    .await;
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
                token: "secret".into(),
                ..shuffle_tests::App::new("app-1")
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
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
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
    let peer = one.peer().await;
    eventually(STEP, || async {
        match peer.describe().await.draining {
            true => Ok(()),
            false => Err("it does not drain yet".into()),
        }
    })
    .await;
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
    eventually(STEP, || async {
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
        start.elapsed() < PATIENCE / 2,
        "a refusal was retried for {:?}",
        start.elapsed()
    );
}

/// The commit's totals fill several messages.
#[tokio::test(flavor = "multi_thread")]
async fn a_million_partitions_are_written_and_read() {
    const MILLION: u32 = 1_000_000;
    let mut server = Server::start().await;
    let driver = Driver::with(Settings {
        call_timeout: Duration::from_secs(30),
        retry_deadline: Duration::from_secs(60),
        ..settings(&[server.addr()])
    })
    .await;
    let spec = |attempt| WriteSpec {
        num_partitions: MILLION,
        ..driver.spec(0, 1, 0, attempt)
    };
    let mut writer = driver.client.open_writer(spec(1));
    for partition in 0..MILLION {
        let row = partition.to_le_bytes();
        writer
            .add_block(PartitionId(partition), &[&row[..]], 1)
            .unwrap();
        if partition % 1000 == 0 {
            step("the writer", writer.ready()).await.unwrap();
        }
    }
    let commit = step("the commit", writer.commit()).await.unwrap();
    assert_eq!(commit.partition_lengths.len(), MILLION as usize);
    for restart in [false, true] {
        if restart {
            server.kill();
            server.restart().await;
        }
        for partitions in [0..50, 499_990..500_010, MILLION - 50..MILLION] {
            let output = Output {
                volume: commit.volume,
                address: commit.address.clone(),
                mirror: None,
                map_index: MapIndex(0),
                attempt: AttemptId(1),
                partitions: partitions.clone().collect(),
            };
            let reader = driver.client.open_reader(ReadSpec {
                caller: driver.caller.clone(),
                shuffle: ShuffleId(0),
                partitions: partitions.clone(),
                maps: 0..u32::MAX,
                outputs: vec![output],
                window: None,
            });
            let rows = read_all(reader).await.unwrap();
            let expected = partitions.map(|it| ((0, it), (it.to_le_bytes().to_vec(), 1)));
            assert!(rows.into_iter().eq(expected));
        }
    }
}
