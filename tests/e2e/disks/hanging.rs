//! A hanging disk among good ones: nobody waits for it, and it comes back by itself.

use std::time::Instant;

use shuffle_tests::{Bucket, peer::fetch_range};

use super::{failing::Two, *};

/// Well above what a busy machine needs for a write, and below what a test can wait.
const SLOW: &str = "5s";
/// In which everybody must have an answer.
const BOUND: Duration = Duration::from_secs(60);

fn setup() -> Setup {
    Setup::new().flag("--volume-slow-after", SLOW)
}

async fn within<F: Future>(what: &str, future: F) -> F::Output {
    let output = tokio::time::timeout(BOUND, future).await;
    output.unwrap_or_else(|_| panic!("{what} is not answered within {BOUND:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_hangs_gets_nothing_new_and_comes_back_by_itself() {
    let Some(mut two) = Two::start(setup()).await else {
        return;
    };
    two.fill(0).await;
    let Two {
        server,
        app,
        oracle,
        shaky,
    } = &mut two;
    let hang = shaky.hang();
    // Enough attempts for both disks; those for the hanging one come again.
    let peer = server.peer().await;
    let mut refused = 0;
    for map in 0..20 {
        let attempt = large(app, 1, map).at(shuffle_tests::v1::Durability::Fsync);
        loop {
            match within("a push", peer.push(&attempt)).await {
                Ok(receipt) => break oracle.committed(&attempt, &receipt),
                Err(status) => {
                    assert_refused(&status, Kind::Unavailable, &["slow"]);
                    refused += 1;
                }
            }
        }
    }
    assert_eq!(refused, 1, "the first is told, and no other is sent there");
    let state = peer.describe().await.volumes[0].clone();
    assert_eq!(state.state, "slow");
    assert!(state.reason.contains("volume-slow-after"), "{state:?}");
    // An app that comes now, and a shuffle that goes.
    let other = App::new("app-2");
    let attempt = large(&other, 0, 0);
    let receipt = within("a new app", peer.push(&attempt)).await.unwrap();
    oracle.committed(&attempt, &receipt);
    within("a fetch", oracle.check(&peer, app, 1)).await;
    let _ = within("a deletion", peer.delete_shuffle(app, 1)).await;
    oracle.delete_shuffle(app, 1);
    drop(hang);
    two.until("ok").await;
    assert!(two.lost(0).await.is_empty());
    two.oracle.check(&two.server.peer().await, &other, 0).await;
    // It is used again, also by the app that came meanwhile.
    two.app = other;
    two.fill(3).await;
    assert!(two.lost(3).await.is_empty());
    two.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_of_a_disk_that_hangs_do_not_hold_up_those_of_another() {
    let bucket = Bucket::new();
    let setup = setup()
        .flag("--remote", bucket.url())
        .flag("--write-back-delay", "300ms");
    let Some(mut two) = Two::start(setup).await else {
        return;
    };
    two.fill(0).await;
    two.server.peer().await.written_back(&two.app, 0).await;
    let written_back = two.change_app(App::new("app-2").not_written_back());
    two.fill(1).await;
    two.server.settled().await;
    two.shaky.forget_pages();
    let Two {
        server,
        app,
        oracle,
        shaky,
    } = &mut two;
    let volumes = server.volumes();
    let hang = shaky.hang();
    let good = server.peer().await;
    // More than there are threads for them; a connection takes so many at once and no more.
    let mut stuck = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let peer = server.peer().await;
        for _ in 0..90 {
            let request = fetch_range(app, 1, vec![volumes[0].clone()], 0..8, 0..u32::MAX);
            let peer = peer.clone();
            stuck.spawn(async move { peer.fetch(request).await });
        }
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let begin = Instant::now();
    let request = fetch_range(app, 1, vec![volumes[1].clone()], 0..8, 0..u32::MAX);
    let fetched = within("a fetch of the good disk", good.fetch(request)).await;
    assert!(!fetched.unwrap().blocks.is_empty());
    assert!(
        begin.elapsed() < Duration::from_secs(4),
        "it waited for the other disk"
    );
    // What is not in the store is not lost, and not to be had now.
    while let Some(answer) = within("a fetch of the disk that hangs", stuck.join_next()).await {
        assert_refused(&answer.unwrap().unwrap_err(), Kind::Unavailable, &["read"]);
    }
    let stored = oracle.check(&good, &written_back, 0);
    within("what the store has", stored).await;
    drop(hang);
    two.until("ok").await;
    assert!(two.lost(1).await.is_empty());
    two.change_app(written_back);
    assert!(two.lost(0).await.is_empty());
    two.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_server_does_not_wait_for_a_disk_that_hangs() {
    let Some(mut two) = Two::start(setup().flag("--drain-timeout", "3s")).await else {
        return;
    };
    two.fill(0).await;
    two.server.settled().await;
    two.shaky.forget_pages();
    let Two {
        server, app, shaky, ..
    } = &mut two;
    let hang = shaky.hang();
    let peer = server.peer().await;
    let request = fetch_range(app, 0, server.volumes(), 0..8, 0..u32::MAX);
    let reader = peer.clone();
    let _reading = tokio::spawn(async move { reader.fetch(request).await });
    let mut pushes = tokio::task::JoinSet::new();
    for map in 0..8 {
        let (peer, attempt) = (peer.clone(), large(app, 1, map));
        let attempt = attempt.at(shuffle_tests::v1::Durability::Fsync);
        pushes.spawn(async move { peer.push(&attempt).await });
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.terminate();
    // The kernel keeps a thread in its wait for a device, but the server is done once its first
    // thread has ended.
    let (begin, status) = (Instant::now(), format!("/proc/{}/status", server.pid()));
    while !fs::read_to_string(&status).unwrap().contains("State:\tZ") {
        assert!(begin.elapsed() < BOUND, "{}", server.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(hang);
    let status = server.ended().await;
    assert!(status.success(), "{status}");
    server.restart().await;
    assert!(two.lost(0).await.is_empty());
    two.server.stop().await;
}
