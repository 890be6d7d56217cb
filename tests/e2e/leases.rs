//! An app without a driver leaves nothing; an app with one keeps everything.

use shuffle_tests::{
    App, Attempt, Kind, Oracle, STEP, Server, Setup, Shape, eventually,
    peer::{assert_refused, fetch_first},
};
use std::time::{Duration, Instant};

const SHAPE: Shape = Shape {
    maps: 8,
    partitions: 10,
    rounds: 1,
    block: 50_000,
};

async fn nothing_left(server: &Server) {
    eventually(STEP, || async {
        let files = server.data_files();
        if files.is_empty() {
            Ok(())
        } else {
            Err(format!("left: {files:?}"))
        }
    })
    .await;
    let peer = server.peer().await;
    eventually(STEP, || async {
        let describe = peer.describe().await;
        let used = (
            describe.memory_used,
            describe.volumes.iter().map(|v| v.bytes_used).sum::<u64>(),
        );
        if used == (0, 0) {
            Ok(())
        } else {
            Err(format!("{used:?} bytes of memory and disk used"))
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_whose_lease_runs_out_leaves_no_byte() {
    let server = Server::with(Setup::new().volumes(2)).await;
    let peer = server.peer().await;
    // It does not run out while the app is there, on whatever machine.
    let long = App::new("app-1").lease_ms(600_000);
    assert_eq!(peer.renew(&long).await.unwrap(), 600_000);
    for shuffle in 0..3 {
        for map in 0..4 {
            peer.push(&Attempt::generate(
                &long,
                shuffle,
                SHAPE,
                map,
                u64::from(shuffle * 10 + map),
            ))
            .await
            .unwrap();
        }
    }
    assert!(server.data_bytes() > 0);
    let start = Instant::now();
    let app = long.lease_ms(1500);
    assert_eq!(peer.renew(&app).await.unwrap(), 1500);
    nothing_left(&server).await;
    assert!(
        start.elapsed() >= Duration::from_millis(1500),
        "gone after {:?}, before its time",
        start.elapsed()
    );
    assert_refused(
        &peer
            .fetch(fetch_first(&app, 0, server.volumes()[..1].to_vec()))
            .await
            .unwrap_err(),
        Kind::Lost,
        &[],
    );
    // Its time over, its name is free.
    let again = App {
        token: "other".into(),
        ..app
    };
    peer.renew(&again).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_own_lease_holds_for_those_who_name_none() {
    let server = Server::with(Setup::new().flag("--lease", "4s")).await;
    let peer = server.peer().await;
    let (short, long) = (App::new("short"), App::new("long").lease_ms(600_000));
    let mut oracle = Oracle::default();
    assert_eq!(peer.renew(&short).await.unwrap(), 4000);
    peer.push(&Attempt::generate(&short, 0, SHAPE, 0, 1))
        .await
        .unwrap();
    oracle
        .push(&peer, &Attempt::generate(&long, 0, SHAPE, 0, 1))
        .await;
    eventually(STEP, || async {
        // A fetch is traffic and renews; Describe is nobody's.
        let used: u64 = peer
            .describe()
            .await
            .volumes
            .iter()
            .map(|v| v.bytes_used)
            .sum();
        if used < 2 * oracle.bytes(&long, 0) {
            Ok(())
        } else {
            Err(format!("{used} bytes"))
        }
    })
    .await;
    assert_refused(
        &peer
            .fetch(fetch_first(&short, 0, server.volumes()))
            .await
            .unwrap_err(),
        Kind::Lost,
        &[],
    );
    oracle.check(&peer, &long, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_traffic_renews_a_lease() {
    let server = Server::start().await;
    let peer = server.peer().await;
    let apps: Vec<_> = (0..4)
        .map(|i| App::new(&format!("app-{i}")).lease_ms(4000))
        .collect();
    let mut oracle = Oracle::default();
    for app in &apps {
        oracle
            .push(&peer, &Attempt::generate(app, 0, SHAPE, 0, 1))
            .await;
    }
    let start = Instant::now();
    let mut attempt = 100;
    while start.elapsed() < Duration::from_secs(10) {
        tokio::time::sleep(Duration::from_millis(400)).await;
        attempt += 1;
        peer.renew(&apps[0]).await.unwrap();
        oracle
            .check_range(&peer, &apps[1], 0, 0..1, 0..u32::MAX)
            .await;
        oracle
            .push(&peer, &Attempt::empty(&apps[2], 0, SHAPE, 1, attempt))
            .await;
        peer.usage(&apps[3], None).await.unwrap();
    }
    for app in &apps {
        oracle.check(&peer, app, 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_or_a_fetch_that_takes_long_keeps_its_app() {
    let server = Server::start().await;
    let peer = server.peer().await;
    let app = App::new("app-1").lease_ms(4000);
    let mut oracle = Oracle::default();
    let attempt = Attempt::generate(&app, 0, SHAPE, 0, 1);
    let (mut push, _) = peer.open(attempt.open()).await.unwrap();
    let batches = attempt.batches_from(0, 1);
    let pause = Duration::from_millis(10_000 / batches.len() as u64);
    for batch in batches {
        push.send_message(batch).await;
        tokio::time::sleep(pause).await;
    }
    let receipt = push.commit(attempt.totals()).await.unwrap();
    oracle.committed(&attempt, &receipt);
    oracle.check(&peer, &app, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_go_on_after_a_restart() {
    let mut server = Server::start().await;
    let peer = server.peer().await;
    let (short, long) = (
        App::new("short").lease_ms(3000),
        App::new("long").lease_ms(600_000),
    );
    let mut oracle = Oracle::default();
    oracle
        .push(&peer, &Attempt::generate(&short, 0, SHAPE, 0, 1))
        .await;
    oracle
        .push(&peer, &Attempt::generate(&long, 0, SHAPE, 0, 1))
        .await;
    server.kill();
    // A restart gives no app less time than it had: its driver could not renew meanwhile.
    let start = Instant::now();
    server.restart().await;
    let peer = server.peer().await;
    oracle.check(&peer, &long, 0).await;
    eventually(STEP, || async {
        let used: u64 = peer
            .describe()
            .await
            .volumes
            .iter()
            .map(|v| v.bytes_used)
            .sum();
        if used < 2 * oracle.bytes(&long, 0) {
            Ok(())
        } else {
            Err(format!("{used} bytes"))
        }
    })
    .await;
    assert!(
        start.elapsed() >= Duration::from_millis(3000),
        "gone after {:?}",
        start.elapsed()
    );
    assert_refused(
        &peer
            .fetch(fetch_first(&short, 0, server.volumes()))
            .await
            .unwrap_err(),
        Kind::Lost,
        &[],
    );
    oracle.check(&peer, &long, 0).await;
    peer.delete_app(&long).await.unwrap();
    nothing_left(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_down_for_longer_than_a_lease_gives_time_to_renew() {
    let mut server = Server::start().await;
    let app = App::new("app-1").lease_ms(4000);
    let mut oracle = Oracle::default();
    oracle
        .push(
            &server.peer().await,
            &Attempt::generate(&app, 0, SHAPE, 0, 1),
        )
        .await;
    server.kill();
    tokio::time::sleep(Duration::from_millis(5000)).await;
    server.restart().await;
    // The driver is there and calls again as soon as it can: nothing is lost.
    let peer = server.peer().await;
    peer.renew(&app).await.unwrap();
    oracle.check(&peer, &app, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_stopped_for_longer_than_its_leases_keeps_what_it_has() {
    let server = Server::with(Setup::new().flag("--lease", "6s")).await;
    let peer = server.peer().await;
    let (app, short) = (App::new("app-1"), App::new("app-2").lease_ms(5000));
    let mut oracle = Oracle::default();
    for app in [&app, &short] {
        oracle
            .push(&peer, &Attempt::generate(app, 0, SHAPE, 0, 1))
            .await;
    }
    // Twice: its own standstill is not the apps' silence.
    for _ in 0..2 {
        server.pause();
        tokio::time::sleep(Duration::from_millis(7500)).await;
        server.resume();
        tokio::time::sleep(Duration::from_millis(300)).await;
        for app in [&app, &short] {
            peer.renew(app).await.unwrap();
            oracle.check(&peer, app, 0).await;
        }
    }
    // It counts on: whose driver is gone goes.
    nothing_left(&server).await;
}
