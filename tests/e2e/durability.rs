//! The meaning of "acknowledged": every level survives what it names, and only committed data
//! survive. The loss of a server for good is in `client/mirrors.rs` and `remote/acknowledged.rs`.

use shuffle_proto::v1::Durability;
use shuffle_tests::{
    App, Attempt, Kind, Oracle, Server, Setup, Shape,
    disk::Ext4,
    peer::{assert_refused, fetch_first, fetch_range},
    step,
};
use std::time::{Duration, Instant};

const SHAPE: Shape = Shape {
    maps: 64,
    partitions: 30,
    rounds: 2,
    block: 8000,
};

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acked_at_disk_survives_kill_9_byte_for_byte() {
    let mut server = Server::start().await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    let volumes = server.volumes();
    for round in 0..4 {
        let peer = server.peer().await;
        for map in 0..12 {
            let attempt = Attempt::generate(
                &app,
                0,
                SHAPE,
                map + 12 * round,
                u64::from(map + 100 * round),
            );
            oracle.push(&peer, &attempt).await;
        }
        // At the very moment of the last ack.
        server.kill();
        server.restart().await;
        assert_eq!(
            server.volumes(),
            volumes,
            "a restart on the same disk keeps the id"
        );
        oracle.check(&server.peer().await, &app, 0).await;
    }
    let peer = server.peer().await;
    for map in [0, 13, 47] {
        oracle.check_range(&peer, &app, 0, 3..9, map..map + 1).await;
    }
    let usage = peer.usage(&app, Some(0)).await.unwrap();
    assert_eq!(usage.attempts, 48);
}

#[tokio::test(flavor = "multi_thread")]
async fn acks_under_load_survive_kill_9() {
    let mut server = Server::start().await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    for round in 0..4u32 {
        let peer = server.peer().await;
        let (sender, mut acked) = tokio::sync::mpsc::unbounded_channel();
        let mut tried = Vec::new();
        for worker in 0..8u32 {
            let (peer, app, sender) = (peer.clone(), app.clone(), sender.clone());
            tried.push(tokio::spawn(async move {
                for i in 0..50u32 {
                    let shape = Shape {
                        maps: 4000,
                        ..SHAPE
                    };
                    let id = round * 1000 + worker * 50 + i;
                    let attempt = Attempt::generate(&app, 0, shape, id, u64::from(id));
                    let Ok(push) = peer.send(&attempt).await else {
                        return;
                    };
                    let Ok(receipt) = push.commit(attempt.totals()).await else {
                        return;
                    };
                    sender.send((attempt, receipt)).unwrap();
                }
            }));
        }
        drop(sender);
        // Some were acked, and others are on their way.
        let (attempt, receipt) = step("an ack", acked.recv()).await.expect("pushes go on");
        oracle.committed(&attempt, &receipt);
        tokio::time::sleep(Duration::from_millis(100 + 170 * u64::from(round))).await;
        server.kill();
        for worker in tried {
            worker.await.unwrap();
        }
        while let Some((attempt, receipt)) = acked.recv().await {
            oracle.committed(&attempt, &receipt);
        }
        server.restart().await;
        // Attempts whose ack was lost on its way may be there too: whole.
        let peer = server.peer().await;
        let fetched = peer
            .fetch(fetch_range(&app, 0, server.volumes(), 0..30, 0..u32::MAX))
            .await
            .unwrap();
        let receipt = shuffle_tests::v1::Committed {
            volume: server.volumes()[0].clone().into(),
            ..Default::default()
        };
        let mut there = Oracle::default();
        let columns = shuffle_tests::oracle::summary_columns(&fetched.summary);
        for &(map, attempt) in columns.keys() {
            there.committed(
                &Attempt::generate(
                    &app,
                    0,
                    Shape {
                        maps: 4000,
                        ..SHAPE
                    },
                    map,
                    attempt,
                ),
                &receipt,
            );
        }
        there.compare(&fetched, &app, 0, 0..30, 0..u32::MAX);
        for attempt in oracle.attempts() {
            assert!(
                columns.contains_key(&(attempt.map_index, attempt.attempt)),
                "acked attempt {} is gone",
                attempt.attempt
            );
        }
        oracle = there;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_committed_is_removed_by_a_restart() {
    let mut server = Server::start().await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    let peer = server.peer().await;
    oracle
        .push(&peer, &Attempt::generate(&app, 0, SHAPE, 0, 1))
        .await;
    let mut pushes = Vec::new();
    for map in 1..20 {
        let attempt = Attempt::generate(
            &app,
            0,
            Shape {
                block: 60_000,
                ..SHAPE
            },
            map,
            100 + u64::from(map),
        );
        let mut push = peer.send(&attempt).await.unwrap();
        push.acked(attempt.batches().len() as u64).await.unwrap();
        pushes.push(push);
    }
    let lonely = peer
        .send(&Attempt::generate(&app, 7, SHAPE, 0, 500))
        .await
        .unwrap();
    server.kill();
    drop((pushes, lonely));
    server.restart().await;
    let peer = server.peer().await;
    oracle.check(&peer, &app, 0).await;
    assert_refused(
        &peer
            .fetch(fetch_first(&app, 7, server.volumes()))
            .await
            .unwrap_err(),
        Kind::Lost,
        &[],
    );
    let (bytes, committed) = (server.data_bytes(), oracle.bytes(&app, 0));
    assert!(
        bytes < 3 * committed + (1 << 20),
        "{bytes} bytes on disk for {committed} committed ones"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_level_is_served_until_the_server_dies_and_then_lost() {
    let mut server = Server::start().await;
    let peer = server.peer().await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    for map in 0..5 {
        oracle
            .push(
                &peer,
                &Attempt::generate(&app, 0, SHAPE, map, u64::from(map)).at(Durability::Memory),
            )
            .await;
    }
    oracle.check(&peer, &app, 0).await;
    for map in 5..8 {
        oracle
            .push(
                &peer,
                &Attempt::generate(&app, 1, SHAPE, map, u64::from(map)).at(Durability::Disk),
            )
            .await;
    }
    oracle.check(&peer, &app, 0).await;
    server.kill();
    server.restart().await;
    let peer = server.peer().await;
    oracle.check(&peer, &app, 1).await;
    // The level promises nothing here; what came to disk anyway is right, what did not is not there
    // at all.
    oracle.forget_what_is_gone(&peer, &app, 0).await;
    // A shuffle of which nothing is left is lost, not empty.
    if oracle.volumes(&app, 0).is_empty() {
        let whole = fetch_range(&app, 0, server.volumes(), 0..30, 0..u32::MAX);
        assert_refused(&peer.fetch(whole).await.unwrap_err(), Kind::Lost, &[]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_keeps_the_memory_level_too() {
    let mut server = Server::start().await;
    let peer = server.peer().await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    for map in 0..5 {
        oracle
            .push(
                &peer,
                &Attempt::generate(&app, 0, SHAPE, map, u64::from(map)).at(Durability::Memory),
            )
            .await;
    }
    server.stop().await;
    server.restart().await;
    oracle.check(&server.peer().await, &app, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fsync_is_reached_when_it_is_asked_for() {
    let mut server = Server::start().await;
    let peer = server.peer().await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    let mut pushes = tokio::task::JoinSet::new();
    for map in 0..20 {
        let (peer, attempt) = (
            peer.clone(),
            Attempt::generate(&app, 0, SHAPE, map, u64::from(map)).at(Durability::Fsync),
        );
        pushes.spawn(async move { (peer.push(&attempt).await.unwrap(), attempt) });
    }
    while let Some(done) = pushes.join_next().await {
        let (receipt, attempt) = done.unwrap();
        assert_eq!(receipt.durability, Durability::Fsync as i32);
        oracle.committed(&attempt, &receipt);
    }
    let usage = peer.usage(&app, Some(0)).await.unwrap();
    let synced: u64 = usage
        .levels
        .iter()
        .filter(|l| l.durability >= Durability::Fsync as i32)
        .map(|l| l.bytes)
        .sum();
    assert_eq!(synced, oracle.bytes(&app, 0), "{usage:?}");
    server.kill();
    server.restart().await;
    oracle.check(&server.peer().await, &app, 0).await;
}

/// Commits of every size, some of them old enough to have moved from the commit log into a run,
/// some a moment old.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_acked_at_fsync_survives_a_power_cut_and_what_was_acked_at_disk_may_not() {
    let scratch = tempfile::tempdir().unwrap();
    let Some(disk) = Ext4::mount(scratch.path().join("disk"), 1024) else {
        return;
    };
    let small = Shape { maps: 400, ..SHAPE }.rounds(1).block(400);
    let large = Shape { maps: 400, ..SHAPE }.rounds(6).block(60_000);
    let levels = [(0, Durability::Fsync), (1, Durability::Disk)];
    let mut server = Server::with(Setup::new().dir(disk.path())).await;
    // A volume as new as its first commit, with commits that nothing synced later would cover.
    let name = "app-1";
    let (app, mut oracle) = (App::new(name), Oracle::default());
    let mut gone = 0;
    for round in 0..8u32 {
        let peer = server.peer().await;
        for map in 0..20 {
            let map = 20 * round + map;
            for (level, durability) in levels {
                for (shape, kind) in [(small, 0), (large, 10)] {
                    if kind == 10 && map % 5 != 0 {
                        continue;
                    }
                    let shuffle = 100 * (round % 3) + kind + level;
                    let attempt = Attempt::generate(&app, shuffle, shape, map, u64::from(map));
                    oracle.push(&peer, &attempt.at(durability)).await;
                }
            }
            if map % 10 == 9 {
                tokio::time::sleep(Duration::from_millis(u64::from(round) * 150)).await;
            }
        }
        server.kill();
        disk.cut_power();
        // What was acked at disk and did not survive is said, and is nobody's fault.
        let acked_at_fsync: Vec<u32> = (0..=round.min(2))
            .flat_map(|n| [100 * n, 100 * n + 10])
            .collect();
        server.allow_errors("cannot be read");
        for shuffle in &acked_at_fsync {
            server.allow_errors(&format!("is lost app={name} shuffle={} ", shuffle + 1));
        }
        server.restart().await;
        let peer = server.peer().await;
        for shuffle in acked_at_fsync {
            oracle.check(&peer, &app, shuffle).await;
            gone += oracle.forget_what_is_gone(&peer, &app, shuffle + 1).await;
        }
    }
    assert!(gone > 0, "the cuts cost nothing, so nothing is shown");
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn levels_may_be_mixed_in_one_shuffle() {
    let mut server = Server::start().await;
    let peer = server.peer().await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    let levels = [Durability::Memory, Durability::Disk, Durability::Fsync];
    for map in 0..30 {
        let attempt =
            Attempt::generate(&app, 0, SHAPE, map, u64::from(map)).at(levels[map as usize % 3]);
        oracle.push(&peer, &attempt).await;
    }
    oracle.check(&peer, &app, 0).await;
    server.kill();
    server.restart().await;
    let fetched = server
        .peer()
        .await
        .fetch(fetch_range(&app, 0, server.volumes(), 0..30, 0..u32::MAX))
        .await
        .unwrap();
    let there = shuffle_tests::oracle::summary_columns(&fetched.summary);
    oracle.retain(|a| {
        a.durability != Durability::Memory || there.contains_key(&(a.map_index, a.attempt))
    });
    oracle.compare(&fetched, &app, 0, 0..30, 0..u32::MAX);
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_small_commits_recover_in_seconds() {
    let mut server = Server::start().await;
    let peer = server.peer().await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    let shape = Shape {
        maps: 2000,
        partitions: 100,
        rounds: 1,
        block: 40,
    };
    let mut pushes = tokio::task::JoinSet::new();
    for worker in 0..16 {
        let (peer, app) = (peer.clone(), app.clone());
        pushes.spawn(async move {
            let mut done = Vec::new();
            for map in (worker..2000).step_by(16) {
                let attempt = Attempt::generate(&app, 0, shape, map, u64::from(map));
                done.push((peer.push(&attempt).await.unwrap(), attempt));
            }
            done
        });
    }
    while let Some(done) = pushes.join_next().await {
        for (receipt, attempt) in done.unwrap() {
            oracle.committed(&attempt, &receipt);
        }
    }
    let index: u64 = server
        .index_files()
        .iter()
        .filter_map(|f| std::fs::metadata(f).ok())
        .map(|m| m.len())
        .sum();
    let rows = oracle.bytes(&app, 0);
    assert!(
        index < 4 * rows + (64 << 20),
        "{index} bytes of index for {rows} bytes of rows"
    );
    server.kill();
    let start = Instant::now();
    server.restart().await;
    assert!(
        start.elapsed() < Duration::from_secs(30),
        "recovery took {:?}",
        start.elapsed()
    );
    let peer = server.peer().await;
    oracle.check(&peer, &app, 0).await;
    oracle.check_range(&peer, &app, 0, 50..51, 700..701).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_while_it_recovers_recovers() {
    let mut server = Server::with(Setup::new().volumes(2)).await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    let peer = server.peer().await;
    for map in 0..40 {
        oracle
            .push(
                &peer,
                &Attempt::generate(&app, 0, SHAPE, map, u64::from(map)),
            )
            .await;
    }
    server.kill();
    for millis in [1, 5, 10, 20, 40, 60, 80, 120] {
        // Whether it was ready by then or not.
        let start = server.try_start();
        let _ = tokio::time::timeout(Duration::from_millis(millis), start).await;
        server.kill();
    }
    server.restart().await;
    oracle.check(&server.peer().await, &app, 0).await;
}
