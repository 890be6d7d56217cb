//! Objects go with their shuffle, their app, or their lease, whichever servers are left.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_leaves_no_object() {
    let bucket = Bucket::new();
    let setup = || bucket.setup("eager").flag("--lease", "4s");
    let mut one = Server::with(setup()).await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    for shuffle in 0..2 {
        oracle.push_maps(&one, &app, shuffle, SHAPE, 0..3).await;
        one.peer().await.written_back(&app, shuffle).await;
    }
    one.peer().await.delete_shuffle(&app, 0).await.unwrap();
    eventually(SOON, || async {
        let left = bucket.below("app-1/0");
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("left: {left:?}"))
        }
    })
    .await;
    oracle.check(&one.peer().await, &app, 1).await;
    // A shuffle whose server is gone: deleted at a server that never had it.
    let two = Server::with(setup()).await;
    two.peer().await.renew(&app).await.unwrap();
    one.destroy();
    oracle.check(&two.peer().await, &app, 1).await;
    two.peer().await.delete_shuffle(&app, 1).await.unwrap();
    let refused = two
        .peer()
        .await
        .fetch(fetch_first(&app, 1, oracle.volumes(&app, 1)))
        .await
        .unwrap_err();
    assert_refused(&refused, Kind::Lost, &[]);
    eventually(SOON, || async {
        two.peer().await.renew(&app).await.unwrap();
        let left = bucket.below("app-1/1");
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("left: {left:?}"))
        }
    })
    .await;
    two.peer().await.delete_app(&app).await.unwrap();
    bucket.empty(SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_a_dead_server_and_a_dead_driver_go_with_the_lease() {
    let bucket = Bucket::new();
    let setup = || bucket.setup("eager").flag("--lease", "4s");
    let mut one = Server::with(setup()).await;
    let (dead, alive) = (App::new("dead"), App::new("alive"));
    let mut oracle = Oracle::default();
    for app in [&dead, &alive] {
        oracle.push_maps(&one, app, 0, SHAPE, 0..3).await;
        one.peer().await.written_back(app, 0).await;
    }
    one.destroy();
    // This server has never heard of either app; the driver of one of them calls it.
    let two = Server::with(setup()).await;
    let peer = two.peer().await;
    eventually(SOON, || async {
        peer.renew(&alive).await.unwrap();
        let left = bucket.below("dead");
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("left: {left:?}"))
        }
    })
    .await;
    for _ in 0..40 {
        peer.renew(&alive).await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    oracle.check(&peer, &alive, 0).await;
    bucket.empty(SOON).await;
}
