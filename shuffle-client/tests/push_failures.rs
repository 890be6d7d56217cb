//! Writing a map output: what happens when a server fails on the way.

#![allow(clippy::unwrap_used)] // in helpers of tests
mod common;

use std::time::{Duration, Instant};

use common::*;
use shuffle_client::{Client, Kind, PartitionId, Settings, fake::Fake};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_stream_is_sent_again_from_the_start() {
    let server = Fake::start().await;
    let client = client(&[&server]);
    server.faults().break_push_after = Some(2 << 20);
    let mut writer = client.open_writer(write_spec(&[&server], 0, 1));
    fill(&mut writer, 0, 20, 65_536).unwrap();
    let commit = writer.commit().await.unwrap();
    assert_eq!(writer.stats().resends, 1);
    let servers = writer.tally().servers();
    assert_eq!(servers.len(), 1);
    assert_eq!((servers[0].failures, servers[0].bytes), (1, commit.bytes));
    check_read(&client, &commit, 0, 1, 20, 65_536).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_output_that_outgrew_the_replay_buffer_fails_with_its_server_and_says_so() {
    let server = Fake::start().await;
    let client = Client::new(Settings {
        replay_buffer: 1 << 20,
        ..settings(&[&server])
    })
    .unwrap();
    let commit = write(&client, &[&server], 0, 1, 40, 65_536).await;
    check_read(&client, &commit, 0, 1, 40, 65_536).await;

    server.faults().break_push_after = Some(3 << 20);
    let mut writer = client.open_writer(write_spec(&[&server], 0, 2));
    let result = async {
        for number in 0..200 {
            writer.add_block(PartitionId(0), &[&raw(0, 0, number, 65_536)], 1)?;
            writer.ready().await?;
        }
        writer.commit().await.map(drop)
    };
    let error = result.await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable);
    assert!(
        error.message.contains("replay_buffer") && error.message.contains("attempt 2"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_candidate_takes_over_from_a_server_that_is_gone() {
    let (mut first, second) = (Fake::start().await, Fake::start().await);
    let client = client(&[&first, &second]);
    let spec = write_spec(&[&first, &second], 0, 1);
    first.stop().await;
    let mut writer = client.open_writer(spec);
    fill(&mut writer, 0, 2, 65_536).unwrap();
    let commit = writer.commit().await.unwrap();
    assert_eq!(commit.address, second.address());
    check_read(&client, &commit, 0, 1, 2, 65_536).await;
}

#[tokio::test]
async fn a_draining_server_is_passed_over() {
    let (first, second) = (Fake::start().await, Fake::start().await);
    let client = client(&[&first, &second]);
    first.faults().draining = true;
    let commit = write(&client, &[&first, &second], 0, 1, 2, 1000).await;
    assert_eq!(commit.address, second.address());
}

#[tokio::test]
async fn a_server_that_joined_later_stands_in_for_lost_candidates() {
    let (mut candidate, newcomer) = (Fake::start().await, Fake::start().await);
    let client = client(&[&newcomer]);
    let spec = write_spec(&[&candidate], 0, 1);
    candidate.stop().await;
    let mut writer = client.open_writer(spec);
    fill(&mut writer, 0, 1, 100).unwrap();
    assert_eq!(writer.commit().await.unwrap().address, newcomer.address());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarting_server_is_waited_for() {
    let mut server = Fake::start().await;
    let client = client(&[&server]);
    server.stop().await;
    let mut writer = client.open_writer(write_spec(&[&server], 0, 1));
    fill(&mut writer, 0, 2, 65_536).unwrap();
    assert!(
        tokio::time::timeout(Duration::from_millis(500), writer.commit())
            .await
            .is_err()
    );
    server.restart().await;
    let commit = writer.commit().await.unwrap();
    check_read(&client, &commit, 0, 1, 2, 65_536).await;
}

#[tokio::test]
async fn a_server_that_stays_away_fails_the_output_after_the_deadline() {
    let mut server = Fake::start().await;
    let client = Client::new(Settings {
        retry_deadline: Duration::from_millis(300),
        ..settings(&[&server])
    })
    .unwrap();
    server.stop().await;
    let started = Instant::now();
    let mut writer = client.open_writer(write_spec(&[&server], 3, 17));
    let error = writer.commit().await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(30));
    assert_eq!(error.kind, Kind::Unavailable);
    for part in [
        &server.address(),
        "map 3",
        "attempt 17",
        "shuffle 7",
        "app-1",
        "retry_deadline",
        "times",
    ] {
        assert!(error.message.contains(part), "{part} is not in: {error}");
    }
    assert_eq!(writer.commit().await.unwrap_err(), error);
}

#[tokio::test]
async fn a_busy_server_is_asked_again_after_the_pause_it_named() {
    let server = Fake::start().await;
    let client = client(&[&server]);
    server.faults().busy = 5;
    let started = Instant::now();
    let commit = write(&client, &[&server], 0, 1, 1, 1000).await;
    assert!(started.elapsed() >= Duration::from_millis(50));
    check_read(&client, &commit, 0, 1, 1, 1000).await;
}

#[tokio::test]
async fn a_fenced_output_stops_at_once() {
    let (first, second) = (Fake::start().await, Fake::start().await);
    let client = client(&[&first, &second]);
    first.faults().fenced = 100;
    let mut writer = client.open_writer(write_spec(&[&first, &second], 0, 1));
    let error = writer.commit().await.unwrap_err();
    assert_eq!(error.kind, Kind::Fenced);
    // Once more after the app was registered, in case its lease had run out.
    assert_eq!((first.counters().opens, second.counters().opens), (2, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_acknowledgement_is_asked_for_again_without_the_batches() {
    let server = Fake::start().await;
    let client = client(&[&server]);
    server.faults().drop_acks = 2;
    let mut writer = client.open_writer(write_spec(&[&server], 0, 1));
    fill(&mut writer, 0, 20, 65_536).unwrap();
    let commit = writer.commit().await.unwrap();
    let counters = server.counters();
    assert_eq!((counters.commits, counters.opens), (1, 3));
    assert!(
        counters.batches < 10,
        "batches were sent again: {}",
        counters.batches
    );
    check_read(&client, &commit, 0, 1, 20, 65_536).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_acknowledgement_is_found_even_when_the_output_outgrew_the_replay_buffer() {
    let server = Fake::start().await;
    let client = Client::new(Settings {
        replay_buffer: 1 << 20,
        ..settings(&[&server])
    })
    .unwrap();
    server.faults().drop_acks = 1;
    let commit = write(&client, &[&server], 0, 1, 40, 65_536).await;
    assert_eq!(server.counters().commits, 1);
    check_read(&client, &commit, 0, 1, 40, 65_536).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outgrown_output_whose_commit_was_sent_waits_for_its_server() {
    for loses_disk in [false, true] {
        let (mut server, other) = (Fake::start().await, Fake::start().await);
        let client = Client::new(Settings {
            replay_buffer: 1 << 20,
            ..settings(&[&server, &other])
        })
        .unwrap();
        server.faults().drop_acks = u32::MAX;
        let mut writer = client.open_writer(write_spec(&[&server, &other], 0, 1));
        fill(&mut writer, 0, 20, 65_536).unwrap();
        while server.counters().commits == 0 {
            assert!(
                tokio::time::timeout(Duration::from_millis(20), writer.commit())
                    .await
                    .is_err()
            );
        }
        server.stop().await;
        if loses_disk {
            server.lose_disk();
        }
        assert!(
            tokio::time::timeout(Duration::from_millis(300), writer.commit())
                .await
                .is_err()
        );
        server.faults().drop_acks = 0;
        server.restart().await;
        let result = writer.commit().await;
        if loses_disk {
            let error = result.unwrap_err();
            assert!(
                error.kind == Kind::Unavailable && error.message.contains("replay_buffer"),
                "{error}"
            );
        } else {
            check_read(&client, &result.unwrap(), 0, 1, 20, 65_536).await;
        }
        assert_eq!(other.counters().opens, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_stream_does_not_cost_an_output_larger_than_the_replay_buffer() {
    let server = Fake::start().await;
    let client = Client::new(Settings {
        replay_buffer: 0,
        ..settings(&[&server])
    })
    .unwrap();
    server.faults().busy = 3;
    let commit = write(&client, &[&server], 0, 1, 40, 65_536).await;
    check_read(&client, &commit, 0, 1, 40, 65_536).await;
}

#[tokio::test]
async fn a_server_that_answers_nothing_is_given_up() {
    let (hung, other) = (Fake::start().await, Fake::start().await);
    let settings = Settings {
        call_timeout: Duration::from_millis(200),
        ..settings(&[&hung, &other])
    };
    let client = Client::new(Settings {
        connect_timeout: Duration::from_millis(200),
        ..settings
    })
    .unwrap();
    hung.faults().hang = true;
    let commit = write(&client, &[&hung, &other], 0, 1, 1, 1000).await;
    assert_eq!(commit.address, other.address());
}

#[tokio::test]
async fn a_peer_that_falls_silent_is_noticed_by_probes() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let _holds = tokio::spawn(async move {
        let mut connections = Vec::new();
        while let Ok(accepted) = silent.accept().await {
            connections.push(accepted);
        }
    });
    let other = Fake::start().await;
    let settings = Settings {
        call_timeout: Duration::from_secs(60),
        keep_alive: Duration::from_millis(100),
        ..settings(&[&other])
    };
    let client = Client::new(settings).unwrap();
    let mut spec = write_spec(&[], 0, 1);
    spec.candidates = [address, other.address()].into();
    let mut writer = client.open_writer(spec);
    let commit = tokio::time::timeout(Duration::from_secs(50), writer.commit())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(commit.address, other.address());
}
