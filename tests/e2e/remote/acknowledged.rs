//! Level `object`: a commit is answered when the store has it, and not before.

use super::*;

/// With a store in which the app's directory cannot be made, until the file that is answered is
/// removed.
fn obstacle(bucket: &Bucket, app: &str) -> PathBuf {
    let obstacle = bucket.path().join("forebay-v1").join(app);
    fs::create_dir_all(obstacle.parent().unwrap()).unwrap();
    fs::write(&obstacle, "not a directory").unwrap();
    obstacle
}

fn attempt(app: &App, map: u32) -> Attempt {
    Attempt::generate(app, 0, SHAPE, map, u64::from(map)).at(Durability::Object)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acked_at_object_survives_every_server_whatever_the_policy() {
    let bucket = Bucket::new();
    let mut one = Server::with(bucket.setup("off")).await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    let mut pushes = tokio::task::JoinSet::new();
    for map in 0..SHAPE.maps {
        let (peer, attempt) = (one.peer().await, attempt(&app, map));
        pushes.spawn(async move { (peer.push(&attempt).await.unwrap(), attempt) });
    }
    for (receipt, attempt) in pushes.join_all().await {
        assert_eq!(receipt.durability, Durability::Object as i32);
        oracle.committed(&attempt, &receipt);
    }
    one.destroy();
    // Attempts that waited together were written back together.
    assert!(bucket.with_ending(".manifest").len() < SHAPE.maps as usize);
    let two = Server::with(bucket.setup("off")).await;
    oracle.check(&two.peer().await, &app, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn maps_that_committed_one_by_one_are_read_with_a_request_or_two() {
    let bucket = Bucket::new();
    let mut one = Server::with(bucket.setup("off")).await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    let peer = one.peer().await;
    for map in 0..SHAPE.maps {
        oracle.push(&peer, &attempt(&app, map)).await;
    }
    let manifests = bucket.with_ending(".manifest").len();
    assert_eq!(manifests, SHAPE.maps as usize, "one by one");
    // A reader at work while manifests are merged.
    let request = fetch_range(&app, 0, oracle.volumes(&app, 0), 0..10, 0..u32::MAX);
    let early = Server::with(bucket.setup("off")).await;
    let whole = early.peer().await.fetch(request.clone()).await.unwrap();
    oracle.compare(&whole, &app, 0, 0..10, 0..u32::MAX);
    eventually(SOON, || async {
        match counter(&one, "writeback_merged_bytes_total").await {
            merged if merged == oracle.bytes(&app, 0) => Ok(()),
            merged => Err(format!("{merged} bytes were put together")),
        }
    })
    .await;
    assert_eq!(bucket.with_ending(".manifest").len(), manifests + 1);
    one.destroy();

    let late = Server::with(bucket.setup("off")).await;
    for (seen, cursor) in whole.cursors.iter().step_by(3) {
        let cursor = cursor.clone();
        let resumed = v1::FetchRequest {
            cursor,
            ..request.clone()
        };
        for server in [&early, &late] {
            let rest = server.peer().await.fetch(resumed.clone()).await.unwrap();
            assert_eq!(rest.blocks, whole.blocks[*seen..], "after {seen} blocks");
            assert_eq!(rest.summary, whole.summary);
        }
    }
    // Both servers know the manifests now, or look for one more, and for the app's record.
    for server in [&early, &late] {
        oracle.check(&server.peer().await, &app, 0).await;
        for partition in 0..SHAPE.partitions {
            let before = counter(server, "remote_requests_total{verb=\"get\"").await;
            let partitions = partition..partition + 1;
            let peer = server.peer().await;
            oracle
                .check_range(&peer, &app, 0, partitions, 0..u32::MAX)
                .await;
            let now = counter(server, "remote_requests_total{verb=\"get\"").await;
            assert!(now - before <= 3, "{} requests", now - before);
        }
    }
}

/// The server is killed before a quiet moment: a server without knowledge reads the shuffle with a
/// few requests.
#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_commits_one_by_one_are_read_with_a_few_requests_by_a_stranger() {
    const MAPS: u32 = 300;
    let shape = Shape {
        maps: MAPS,
        partitions: 2,
        rounds: 1,
        block: 2000,
    };
    let bucket = Bucket::new();
    let mut one = Server::with(bucket.setup("off")).await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    let peer = one.peer().await;
    for map in 0..MAPS {
        let attempt = Attempt::generate(&app, 0, shape, map, u64::from(map));
        oracle.push(&peer, &attempt.at(Durability::Object)).await;
    }
    one.destroy();
    assert!(bucket.with_ending(".manifest").len() >= MAPS as usize);
    let two = Server::with(bucket.setup("off")).await;
    let requests = async || {
        let mut sum = 0;
        for verb in ["get", "head", "list"] {
            let name = format!("remote_requests_total{{verb=\"{verb}\"");
            sum += counter(&two, &name).await;
        }
        sum
    };
    let peer = two.peer().await;
    peer.renew(&app).await.unwrap();
    let before = requests().await;
    oracle.check(&peer, &app, 0).await;
    let cost = requests().await - before;
    // The lease's record is looked at beside it.
    assert!(cost <= 20, "{cost} requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acked_at_disk_is_lost_with_its_server_where_the_policy_is_off() {
    let bucket = Bucket::new();
    let mut one = Server::with(bucket.setup("off")).await;
    let app = App::new("app-1");
    let peer = one.peer().await;
    let safe = peer.push(&attempt(&app, 0)).await.unwrap();
    let lower = attempt(&app, 1).at(Durability::Disk);
    peer.push(&lower).await.unwrap();
    one.destroy();
    let two = Server::with(bucket.setup("off")).await;
    let request = fetch_first(&app, 0, vec![safe.volume.to_vec()]);
    let fetched = two.peer().await.fetch(request).await.unwrap();
    let maps: Vec<_> = fetched.blocks.iter().map(|block| block.map_index).collect();
    assert!(
        maps.iter().all(|map| *map == 0) && !maps.is_empty(),
        "{maps:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_waits_for_a_store_that_is_down_and_the_same_again_is_answered_alike() {
    let bucket = Bucket::new();
    let one = Server::with(bucket.setup("lazy")).await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    let obstacle = obstacle(&bucket, "app-1");
    let (peer, again) = (one.peer().await, attempt(&app, 0));
    let waiting = peer.push(&again);
    tokio::pin!(waiting);
    let early = tokio::time::timeout(Duration::from_secs(2), &mut waiting).await;
    assert!(early.is_err(), "{early:?}");
    // Somebody else, at a lower level, does not wait.
    oracle
        .push(&one.peer().await, &attempt(&app, 1).at(Durability::Disk))
        .await;
    fs::remove_file(obstacle).unwrap();
    let receipt = tokio::time::timeout(SOON, waiting).await.unwrap().unwrap();
    assert_eq!(receipt.durability, Durability::Object as i32);
    let (push, opened) = one.peer().await.open(again.open()).await.unwrap();
    assert!(opened.committed);
    assert_eq!(push.commit(again.totals()).await.unwrap(), receipt);
    oracle.committed(&again, &receipt);
    oracle.check(&one.peer().await, &app, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_store_says_how_to_get_one() {
    let server = Server::start().await;
    let refusal = server
        .peer()
        .await
        .push(&attempt(&App::new("app-1"), 0))
        .await
        .unwrap_err();
    assert_refused(
        &refusal,
        Kind::Invalid,
        &["open.durability", "DURABILITY_OBJECT", "--remote"],
    );
}
