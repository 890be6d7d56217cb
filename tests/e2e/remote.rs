//! What is written back is served by any server, and goes when its shuffle, app or lease goes. The
//! object store is a directory.

mod acknowledged;
mod chains;
mod endpoints;
mod faults;
mod foreign;
mod removed;
mod spoilt;
mod tokens;
mod troubles;
mod twice;
mod when;

use shuffle_tests::{
    App, Attempt, Bucket, Kind, Oracle, STEP, Server, Setup, Shape,
    attempt::Random,
    disk::{self, Tmpfs},
    eventually,
    peer::{assert_refused, fetch_first, fetch_range},
    random_bytes, raw,
    v1::{self, Durability},
};
use std::{fs, path::PathBuf, time::Duration};

const SHAPE: Shape = Shape {
    maps: 8,
    partitions: 10,
    rounds: 2,
    block: 20_000,
};
const SOON: Duration = STEP;
/// In which somebody must have an answer who does not wait for what is in trouble.
const PROMPT: Duration = Duration::from_secs(20);

async fn counter(server: &Server, name: &str) -> u64 {
    let (_, text) = raw::get(server.admin(), "/metrics").await;
    let values = text
        .lines()
        .filter(|line| line.starts_with(&format!("forebay_{name}")));
    let value = |line: &str| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
    values.map(value).sum::<f64>() as u64
}

// === any server ===

#[tokio::test(flavor = "multi_thread")]
async fn a_server_gone_for_good_is_served_by_any_other() {
    let bucket = Bucket::new();
    let mut one = Server::with(bucket.setup("eager").volumes(2)).await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    // Several generations, a second attempt of a map, and one that has no rows at all.
    oracle.push_maps(&one, &app, 3, SHAPE, 0..4).await;
    one.peer().await.written_back(&app, 3).await;
    oracle.push_maps(&one, &app, 3, SHAPE, 4..7).await;
    let peer = one.peer().await;
    oracle
        .push(&peer, &Attempt::generate(&app, 3, SHAPE, 2, 77))
        .await;
    oracle
        .push(&peer, &Attempt::empty(&app, 3, SHAPE, 7, 78))
        .await;
    peer.written_back(&app, 3).await;
    assert!(
        bucket.with_ending(".manifest").len() >= 2,
        "{:?}",
        bucket.files()
    );
    one.destroy();

    // A server that has never heard of the app: the record in the store tells of it.
    let two = Server::with(bucket.setup("lazy")).await;
    let peer = two.peer().await;
    assert!(peer.describe().await.remote);
    oracle.check(&peer, &app, 3).await;
    for (partitions, maps) in [
        (0..1, 0..u32::MAX),
        (9..10, 0..u32::MAX),
        (2..7, 1..3),
        (0..10, 7..8),
    ] {
        oracle.check_range(&peer, &app, 3, partitions, maps).await;
    }
    // Who has another token reads nothing.
    let thief = App {
        token: "guessed".into(),
        ..App::new("app-1")
    };
    let volumes = oracle.volumes(&app, 3);
    let refused = peer.fetch(fetch_first(&thief, 3, volumes.clone())).await;
    assert_refused(&refused.unwrap_err(), Kind::Denied, &[]);
    // What was never written is not empty.
    for request in [
        fetch_first(&app, 4, volumes),
        fetch_first(&app, 3, vec![uuid::Uuid::new_v4().as_bytes().to_vec()]),
        fetch_first(&App::new("app-2"), 3, oracle.volumes(&app, 3)),
    ] {
        assert_refused(&peer.fetch(request).await.unwrap_err(), Kind::Lost, &[]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_of_objects_goes_on_where_it_broke() {
    let bucket = Bucket::new();
    let mut one = Server::with(bucket.setup("eager")).await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    let mut large = Attempt::empty(&app, 0, SHAPE, 0, 1000);
    for block in 0..40u32 {
        // One partition of more than an object's section, and of more than is sorted in memory at
        // once.
        large = large.with_block(3, random_bytes(block.into(), 700_000));
    }
    oracle.push(&one.peer().await, &large).await;
    oracle.push_maps(&one, &app, 0, SHAPE, 1..4).await;
    one.peer().await.written_back(&app, 0).await;
    one.destroy();

    let two = Server::with(bucket.setup("eager")).await;
    let peer = two.peer().await;
    let request = fetch_range(&app, 0, oracle.volumes(&app, 0), 0..10, 0..u32::MAX);
    let whole = peer.fetch(request.clone()).await.unwrap();
    oracle.compare(&whole, &app, 0, 0..10, 0..u32::MAX);
    assert!(whole.cursors.len() > 10, "{} messages", whole.cursors.len());
    for (seen, cursor) in whole.cursors.iter().step_by(5) {
        let rest = peer
            .fetch(v1::FetchRequest {
                cursor: cursor.clone(),
                ..request.clone()
            })
            .await
            .unwrap();
        assert_eq!(rest.blocks, whole.blocks[*seen..], "after {seen} blocks");
        assert_eq!(rest.summary, whole.summary);
    }
    // Neighbouring sections are read together: a request of the store is no small one.
    let before = counter(&two, "remote_requests_total{verb=\"get\"").await;
    oracle.check_range(&peer, &app, 0, 4..10, 0..u32::MAX).await;
    let requests = counter(&two, "remote_requests_total{verb=\"get\"").await - before;
    assert!(
        requests <= 4,
        "{requests} requests for six small partitions"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_in_an_object_cost_the_attempts_that_they_are_of_and_are_never_rows() {
    let bucket = Bucket::new();
    let mut one = Server::with(bucket.setup("eager")).await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    oracle.push_maps(&one, &app, 0, SHAPE, 0..3).await;
    one.peer().await.written_back(&app, 0).await;
    one.destroy();
    let objects = bucket.with_ending(".obj");
    let length = fs::metadata(&objects[0]).unwrap().len();
    let mut random = Random(7);
    for _ in 0..12 {
        let (offset, bit) = (random.below(length), random.below(8) as u8);
        disk::flip(&objects[0], offset, bit);
        // A new one each time: footers are remembered.
        let two = Server::with(bucket.setup("off")).await;
        let peer = two.peer().await;
        let request = fetch_range(&app, 0, oracle.volumes(&app, 0), 0..10, 0..u32::MAX);
        let fetched = peer.fetch(request).await.unwrap();
        // The header is for people; nothing is read from it.
        if offset < 64 {
            oracle.compare(&fetched, &app, 0, 0..10, 0..u32::MAX);
        } else {
            let (lost, whole) = (&fetched.summary.lost, &fetched.summary.attempt);
            let what = format!("bit {bit} of byte {offset} of {length}");
            assert!(!lost.is_empty(), "{what} was not noticed");
            assert_eq!(lost.len() + whole.len(), 3, "{what}");
            assert!(
                lost.iter().all(|lost| lost.reason.contains(".obj")),
                "{lost:?}"
            );
        }
        disk::flip(&objects[0], offset, bit);
    }
    for manifest in bucket.with_ending(".manifest") {
        disk::flip(&manifest, 40, 1);
    }
    let two = Server::with(bucket.setup("off")).await;
    let request = fetch_first(&app, 0, oracle.volumes(&app, 0));
    let refused = two.peer().await.fetch(request).await.unwrap_err();
    assert_refused(&refused, Kind::Corrupt, &[".manifest"]);
}
