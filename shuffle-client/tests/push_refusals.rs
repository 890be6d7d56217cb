//! Writing a map output where servers answer and take nothing: busy, full, draining, or the lease
//! has run out.

#![allow(clippy::unwrap_used)] // in helpers of tests
mod common;

use std::time::{Duration, Instant};

use common::*;
use shuffle_client::{Client, Kind, PartitionId, Settings, fake::Fake};

async fn servers(count: usize) -> Vec<Fake> {
    let mut servers = Vec::new();
    for _ in 0..count {
        servers.push(Fake::start().await);
    }
    servers
}

/// With pauses that would be noticed, and a deadline that would not be reached.
fn slow_to_retry(servers: &[&Fake]) -> Client {
    Client::new(Settings {
        backoff_base: Duration::from_secs(60),
        backoff_max: Duration::from_secs(120),
        retry_deadline: Duration::from_secs(240),
        ..settings(servers)
    })
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_refuse_are_asked_once_each_without_a_pause_until_a_newcomer_takes_it() {
    let (full, newcomer) = (servers(70).await, Fake::start().await);
    for server in &full {
        server.faults().draining = true;
    }
    let candidates: Vec<&Fake> = full.iter().collect();
    let mut all = candidates.clone();
    all.push(&newcomer);
    let client = slow_to_retry(&all);
    let started = Instant::now();
    let commit = write(&client, &candidates, 0, 1, 2, 1000).await;
    assert_eq!(commit.address, newcomer.address());
    assert!(
        started.elapsed() < Duration::from_secs(30),
        "{:?}",
        started.elapsed()
    );
    for server in &full {
        assert_eq!(server.counters().opens, 1);
    }
    check_read(&client, &commit, 0, 1, 2, 1000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_refused_is_not_the_first_to_be_asked_by_the_next_task() {
    let (full, good) = (servers(5).await, servers(2).await);
    for server in &full {
        server.faults().draining = true;
    }
    let candidates: Vec<&Fake> = full.iter().chain(&good).collect();
    let client = slow_to_retry(&candidates);
    for attempt in 0..5 {
        write(&client, &candidates, 0, attempt, 1, 100).await;
    }
    for server in &full {
        assert_eq!(server.counters().opens, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn busy_servers_are_waited_for_longer_than_servers_that_do_not_answer() {
    let servers = servers(3).await;
    let all: Vec<&Fake> = servers.iter().collect();
    let with_deadline = |retry_deadline| {
        Client::new(Settings {
            retry_deadline,
            ..settings(&all)
        })
        .unwrap()
    };
    let client = with_deadline(Duration::from_secs(2));
    for server in &servers {
        server.faults().busy = u32::MAX;
    }
    let mut writer = client.open_writer(write_spec(&all, 0, 1));
    fill(&mut writer, 0, 1, 1000).unwrap();
    // Twice as long; the limit is ten times.
    let early = tokio::time::timeout(Duration::from_secs(4), writer.commit()).await;
    assert!(early.is_err(), "{early:?}");
    servers[1].faults().busy = 0;
    let commit = writer.commit().await.unwrap();
    check_read(&client, &commit, 0, 1, 1, 1000).await;

    // What ends it after all has a name of its own.
    servers[1].faults().busy = u32::MAX;
    let client = with_deadline(Duration::from_millis(400));
    let started = Instant::now();
    let mut writer = client.open_writer(write_spec(&all, 0, 2));
    let error = writer.commit().await.unwrap_err();
    assert!(
        started.elapsed() >= Duration::from_secs(4),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(error.kind, Kind::Busy);
    for part in [
        "told to be busy",
        "10 times retry_deadline",
        "raise the limits",
    ] {
        assert!(error.message.contains(part), "{part} is not in: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_that_a_draining_server_ends_half_way_goes_on_elsewhere_at_once() {
    let servers = servers(3).await;
    let all: Vec<&Fake> = servers.iter().collect();
    let client = slow_to_retry(&all);
    servers[0].faults().drain_push_after = Some(1 << 20);
    let started = Instant::now();
    let mut writer = client.open_writer(write_spec(&all, 0, 1));
    fill(&mut writer, 0, 20, 65_536).unwrap();
    let commit = writer.commit().await.unwrap();
    assert!(
        started.elapsed() < Duration::from_secs(25),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(commit.address, servers[1].address());
    assert_eq!(servers[0].counters().opens, 1);
    check_read(&client, &commit, 0, 1, 20, 65_536).await;

    // Without its messages it is the task that is run again, and it says why.
    let client = Client::new(Settings {
        replay_buffer: 1 << 20,
        ..settings(&all)
    })
    .unwrap();
    servers[1].faults().drain_push_after = Some(3 << 20);
    let mut writer = client.open_writer(write_spec(&all, 1, 2));
    let result = async {
        for number in 0..200 {
            writer.add_block(PartitionId(0), &[&raw(0, 0, number, 65_536)], 1)?;
            writer.ready().await?;
        }
        writer.commit().await.map(drop)
    };
    let error = result.await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable);
    assert!(error.message.contains("draining"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_registers_an_app_whose_lease_ran_out_and_goes_on() {
    let server = Fake::start().await;
    let client = client(&[&server]);
    // Whether this task is the first to do so, or the driver was.
    for (attempt, forgotten) in [(1, true), (2, false)] {
        server.faults().lease_over = true;
        if forgotten {
            server.forget_apps();
        }
        let commit = write(&client, &[&server], 0, attempt, 1, 1000).await;
        assert_eq!(server.counters().renewals, attempt);
        check_read(&client, &commit, 0, attempt, 1, 1000).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_that_is_a_candidate_under_another_name_gets_no_second_copy() {
    let servers = servers(2).await;
    let mut names = vec![servers[0].address()];
    for server in &servers {
        names.push(common::relay::Relay::leak(server.address()).await);
    }
    let client = Client::new(Settings {
        ..Settings::of(names.clone())
    })
    .unwrap();
    for attempt in 0..6 {
        let mut spec = write_spec(&[&servers[0]], 0, attempt);
        spec.durability = shuffle_client::Durability::Mirror;
        let mut writer = client.open_writer(spec);
        fill(&mut writer, 0, 1, 1000).unwrap();
        let commit = writer.commit().await.unwrap();
        let mut volumes = [commit.volume, commit.mirror.unwrap().volume];
        volumes.sort_unstable();
        let mut both = [servers[0].volume(), servers[1].volume()];
        both.sort_unstable();
        assert_eq!(volumes, both);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_room_for_a_connection_is_busy_and_not_gone() {
    let (full, other) = (
        common::relay::full_of_connections().await,
        Fake::start().await,
    );
    let client = Client::new(Settings {
        retry_deadline: Duration::from_millis(300),
        servers: vec![full.clone()],
        ..settings(&[])
    })
    .unwrap();
    let started = Instant::now();
    let mut spec = write_spec(&[], 0, 1);
    spec.candidates = [full.clone()].into();
    let error = client.open_writer(spec).commit().await.unwrap_err();
    assert_eq!(error.kind, Kind::Busy, "{error}");
    assert!(
        started.elapsed() >= Duration::from_secs(3),
        "{:?}",
        started.elapsed()
    );
    assert!(error.message.contains("--max-connections"), "{error}");
    // A reader loses nothing by it.
    let commit = write(&client, &[&other], 0, 1, 1, 100).await;
    let mut there = output(&commit, 0, 1);
    there.address = full.clone();
    let mut reader = client.open_reader(read_spec(vec![there]));
    let error = read_all(&mut reader).await.unwrap_err();
    assert_eq!((error.kind, error.output), (Kind::Busy, None), "{error}");
    assert!(error.message.contains("--max-connections"), "{error}");
    // With another server there is nothing to wait for, also for who has not heard of it.
    let client = slow_to_retry(&[&other]);
    let mut spec = write_spec(&[], 0, 2);
    spec.candidates = [full, other.address()].into();
    let started = Instant::now();
    let commit = client.open_writer(spec).commit().await.unwrap();
    assert_eq!(commit.address, other.address());
    assert!(
        started.elapsed() < Duration::from_secs(25),
        "{:?}",
        started.elapsed()
    );
}
