//! Level `object`: a commit is answered when the store has it, and not before.

use super::*;

/// With a store in which the app's directory cannot be made, until the file that is answered is removed.
fn obstacle(bucket: &Bucket, app: &str) -> PathBuf {
    let obstacle = bucket.path().join(app);
    fs::create_dir_all(bucket.path()).unwrap();
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
