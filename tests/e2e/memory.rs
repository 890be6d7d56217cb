//! The memory budget: bytes wait for it, nobody is dropped for want of it, and it is whole again at
//! the end.

use bytes::Bytes;
use prost::Message;
use shuffle_proto::v1::{self, Durability, push_request};
use shuffle_tests::{
    App, Attempt, Kind, Oracle, Peer, STEP, Server, Setup, Shape, eventually,
    peer::{assert_refused, fetch_range},
    random_bytes, raw,
};
use std::time::Duration;

const SHAPE: Shape = Shape {
    maps: 64,
    partitions: 8,
    rounds: 1,
    block: 0,
};

/// An attempt of 8 MiB.
fn large(app: &App, map: u32) -> Attempt {
    let mut attempt = Attempt::empty(app, 0, SHAPE, map, u64::from(map));
    for partition in 0..8 {
        attempt = attempt.with_block(
            partition,
            random_bytes(u64::from(map * 8 + partition), 1 << 20),
        );
    }
    attempt
}

async fn memory_is_free(peer: &Peer) {
    eventually(STEP, || async {
        let used = peer.describe().await.memory_used;
        if used == 0 {
            Ok(())
        } else {
            Err(format!("{used} bytes of memory are still used"))
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn far_more_pushers_than_memory_all_succeed() {
    for level in [Durability::Disk, Durability::Memory] {
        let server = Server::with(Setup::new().flag("--memory", "16MiB")).await;
        let peer = server.peer().await;
        assert_eq!(peer.describe().await.memory_limit, 16 << 20);
        let (app, mut oracle) = (App::new("app-1"), Oracle::default());
        let mut pushes = tokio::task::JoinSet::new();
        for map in 0..32 {
            // Half of them share one connection, and so its flow control.
            let peer = if map % 2 == 0 {
                peer.clone()
            } else {
                server.peer().await
            };
            let attempt = large(&app, map).at(level);
            pushes.spawn(async move { (peer.push(&attempt).await.unwrap(), attempt) });
        }
        let mut most = 0;
        while let Some(done) = pushes.join_next().await {
            let (receipt, attempt) = done.unwrap();
            oracle.committed(&attempt, &receipt);
            most = most.max(peer.describe().await.memory_used);
        }
        assert!(most <= 16 << 20, "{most} bytes of 16 MiB used");
        let resident = resident_kib(server.pid());
        assert!(
            resident < 200 << 10,
            "{resident} KiB resident with a budget of 16 MiB"
        );
        oracle.check(&peer, &app, 0).await;
        peer.delete_app(&app).await.unwrap();
        memory_is_free(&peer).await;
        let (status, metrics) = raw::get(server.admin(), "/metrics").await;
        assert_eq!(status, 200);
        assert!(
            metrics.contains("forebay_memory"),
            "no metric of the memory: {metrics}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_that_stop_in_the_middle_give_their_memory_back() {
    let server = Server::with(Setup::new().flag("--memory", "16MiB")).await;
    let peer = server.peer().await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    for round in 0..3 {
        let mut pushes = Vec::new();
        for map in 0..16 {
            let attempt = Attempt {
                attempt: u64::from(1000 * (round + 1) + map),
                ..large(&app, map)
            };
            let (mut push, _) = peer.open(attempt.open()).await.unwrap();
            // Never more than the budget: these wait for nobody.
            push.send_message(attempt.batches_from(0, 512 << 10).remove(0))
                .await;
            pushes.push(push);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(pushes);
    }
    let attempt = large(&app, 40);
    oracle.push(&peer, &attempt).await;
    oracle.check(&peer, &app, 0).await;
    peer.delete_app(&app).await.unwrap();
    memory_is_free(&peer).await;
}

/// Pushers that went silent while they hold memory must not stop the others for ever.
#[tokio::test(flavor = "multi_thread")]
async fn pushers_that_stall_do_not_stop_the_others() {
    let server = Server::with(Setup::new().flag("--memory", "16MiB")).await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    let mut stalled = Vec::new();
    for map in 0..12 {
        let attempt = Attempt {
            attempt: 5000 + u64::from(map),
            ..large(&app, map)
        };
        let peer = server.peer().await;
        let (mut push, _) = peer.open(attempt.open()).await.unwrap();
        let mut batches = attempt.batches();
        batches.truncate(2);
        push.batches(batches).await;
        stalled.push((peer, push));
    }
    // 24 MiB of the stalled are on their way, 16 MiB is all there is.
    let peer = server.peer().await;
    for map in 20..24 {
        oracle.push(&peer, &large(&app, map)).await;
    }
    oracle.check(&peer, &app, 0).await;
    drop(stalled);
}

/// A pusher that announces a batch, gets memory and never sends holds the memory for a while, not
/// for ever.
#[tokio::test(flavor = "multi_thread")]
async fn pushers_that_stall_inside_a_batch_do_not_stop_the_others() {
    let setup = Setup::new()
        .flag("--memory", "16MiB")
        .flag("--keep-alive", "2s");
    let server = Server::with(setup).await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    let mut stalled = Vec::new();
    for map in 0..6 {
        let peer = server.peer().await;
        let mut attempt = large(&app, map);
        attempt.attempt += 7000;
        let batch = attempt.batches_from(0, 4 << 20).remove(0);
        let step = push_request::Step::Open(attempt.open());
        let open = v1::PushRequest {
            step: Some(step),
            payload: Bytes::new(),
        };
        let mut begin = raw::grpc_frame(&open.encode_to_vec()).to_vec();
        // 4 MiB are announced, a few hundred bytes of them come.
        begin.extend_from_slice(&raw::grpc_frame(&batch.encode_to_vec())[..500]);
        stalled.push(tokio::spawn(async move {
            raw::call(&peer, "/forebay.v1.Data/Push", vec![begin.into()], false).await
        }));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let peer = server.peer().await;
    oracle.push(&peer, &large(&app, 20)).await;
    oracle.check(&peer, &app, 0).await;
    stalled.iter().for_each(|call| call.abort());
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_do_not_read_do_not_use_up_the_memory() {
    let server = Server::with(Setup::new().flag("--memory", "16MiB")).await;
    let peer = server.peer().await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    for map in 0..4 {
        oracle.push(&peer, &large(&app, map)).await;
    }
    let mut idle = Vec::new();
    for _ in 0..24 {
        let mut peer = server.peer().await;
        let request = fetch_range(&app, 0, server.volumes(), 0..8, 0..u32::MAX);
        idle.push(peer.data.fetch(request).await.unwrap());
    }
    for map in 4..8 {
        oracle.push(&peer, &large(&app, map)).await;
    }
    oracle.check(&peer, &app, 0).await;
    drop(idle);
    peer.delete_app(&app).await.unwrap();
    memory_is_free(&peer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_for_less_than_two_of_the_largest_messages_is_refused_by_name() {
    for memory in ["1MiB", "15MiB"] {
        let mut server = Server::prepare(Setup::new().flag("--memory", memory));
        let said = server.refused().await;
        assert!(said.contains(&format!("memory is {memory}")), "{said}");
        assert!(said.contains("give at least 16MiB"), "{said}");
    }
}

/// With the least memory the largest message is taken, and one that is larger is refused and not
/// waited for.
#[tokio::test(flavor = "multi_thread")]
async fn the_largest_message_fits_into_the_least_memory() {
    let server = Server::with(Setup::new().flag("--memory", "16MiB")).await;
    let (peer, app, mut oracle) = (server.peer().await, App::new("app-1"), Oracle::default());
    let largest = |map, blocks: u32| {
        let attempt = Attempt::empty(&app, 0, SHAPE, map, u64::from(map));
        (0..blocks).fold(attempt, |attempt, block| {
            attempt.with_block(block.min(7), random_bytes(u64::from(block), 1 << 20))
        })
    };
    let attempt = largest(0, 8);
    let (mut push, opened) = peer.open(attempt.open()).await.unwrap();
    assert_eq!(opened.max_batch, 8 << 20);
    let batches = attempt.batches_from(0, 8 << 20);
    assert_eq!(batches.len(), 1, "it is one message");
    push.batches(batches).await;
    let receipt = push.commit(attempt.totals()).await.unwrap();
    oracle.committed(&attempt, &receipt);
    oracle.check(&peer, &app, 0).await;
    let larger = largest(1, 9);
    let (mut push, _) = peer.open(larger.open()).await.unwrap();
    push.batches(larger.batches_from(0, 9 << 20)).await;
    assert_refused(
        &push.refusal().await,
        Kind::Invalid,
        &["payload", "8388608"],
    );
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
