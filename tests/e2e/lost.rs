//! Unknown is never empty: what is not here, not here any more, or never was, is `Lost`.

use shuffle_tests::{
    App, Attempt, Kind, Oracle, Server, Setup, Shape, disk,
    peer::{assert_refused, fetch_first},
    v1,
};

const SHAPE: Shape = Shape {
    maps: 4,
    partitions: 10,
    rounds: 1,
    block: 5000,
};

#[tokio::test(flavor = "multi_thread")]
async fn unknown_app_shuffle_or_volume_is_lost() {
    let server = Server::start().await;
    let peer = server.peer().await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    let volumes = server.volumes();
    assert_refused(
        &peer
            .fetch(fetch_first(&app, 0, volumes.clone()))
            .await
            .unwrap_err(),
        Kind::Lost,
        &["app-1"],
    );
    peer.renew(&app).await.unwrap();
    assert_refused(
        &peer
            .fetch(fetch_first(&app, 0, volumes.clone()))
            .await
            .unwrap_err(),
        Kind::Lost,
        &["shuffle", "0"],
    );
    oracle
        .push(&peer, &Attempt::generate(&app, 0, SHAPE, 0, 1))
        .await;
    assert_refused(
        &peer
            .fetch(fetch_first(&app, 1, volumes.clone()))
            .await
            .unwrap_err(),
        Kind::Lost,
        &["shuffle", "1"],
    );
    let stranger = uuid::Uuid::new_v4();
    let request = fetch_first(&app, 0, vec![stranger.as_bytes().to_vec()]);
    assert_refused(
        &peer.fetch(request).await.unwrap_err(),
        Kind::Lost,
        &[&stranger.to_string()],
    );
    // All of them must be served here: one of two is not enough.
    let both = vec![volumes[0].clone(), stranger.as_bytes().to_vec()];
    assert_refused(
        &peer.fetch(fetch_first(&app, 0, both)).await.unwrap_err(),
        Kind::Lost,
        &[&stranger.to_string()],
    );
    oracle.check(&peer, &app, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shuffle_that_was_only_tried_has_no_rows_and_no_attempts() {
    let server = Server::start().await;
    let peer = server.peer().await;
    let app = App::new("app-1");
    let push = peer
        .send(&Attempt::generate(&app, 0, SHAPE, 0, 1))
        .await
        .unwrap();
    let check = || async {
        match peer.fetch(fetch_first(&app, 0, server.volumes())).await {
            Err(status) => assert_refused(&status, Kind::Lost, &[]),
            Ok(fetched) => assert!(
                fetched.blocks.is_empty() && fetched.summary == v1::Summary::default(),
                "{fetched:?}"
            ),
        }
    };
    check().await;
    push.abort().await;
    check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shuffle_on_one_volume_is_lost_on_the_other() {
    let server = Server::with(Setup::new().volumes(2)).await;
    let peer = server.peer().await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    let receipt = oracle
        .push(&peer, &Attempt::generate(&app, 0, SHAPE, 0, 1))
        .await;
    let other = server
        .volumes()
        .into_iter()
        .find(|volume| *volume != receipt.volume)
        .unwrap();
    // That volume never heard of the shuffle: whoever expects rows there must not get an empty
    // answer.
    assert_refused(
        &peer
            .fetch(fetch_first(&app, 0, vec![other]))
            .await
            .unwrap_err(),
        Kind::Lost,
        &[],
    );
    oracle.check(&peer, &app, 0).await;
}

/// The headline case of the peers: a server that comes back empty on the same address answers for
/// its predecessor.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_back_with_another_disk_says_lost() {
    let mut server = Server::start().await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    oracle
        .push(
            &server.peer().await,
            &Attempt::generate(&app, 0, SHAPE, 0, 1),
        )
        .await;
    let old = server.volumes();
    server.kill();
    let kept = server.empty_dir();
    server.restart().await;
    let peer = server.peer().await;
    assert_ne!(server.volumes(), old, "an empty disk is another volume");
    let refusal = peer
        .fetch(fetch_first(&app, 0, old.clone()))
        .await
        .unwrap_err();
    let id = uuid::Uuid::from_slice(&old[0]).unwrap().to_string();
    assert_refused(&refusal, Kind::Lost, &[&id]);
    // Also once it holds the same shuffle of the same app again.
    let mut second = Oracle::default();
    second
        .push(&peer, &Attempt::generate(&app, 0, SHAPE, 1, 2))
        .await;
    assert_refused(
        &peer
            .fetch(fetch_first(&app, 0, old.clone()))
            .await
            .unwrap_err(),
        Kind::Lost,
        &[&id],
    );
    second.check(&peer, &app, 0).await;
    // And the old disk, back again, is what it was.
    server.kill();
    server.replace_dir(kept);
    server.restart().await;
    assert_eq!(server.volumes(), old);
    oracle.check(&server.peer().await, &app, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_moves_to_another_server_takes_its_data_along() {
    let (mut one, mut two) = (Server::start().await, Server::start().await);
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    for map in 0..3 {
        oracle
            .push(
                &one.peer().await,
                &Attempt::generate(&app, 0, SHAPE, map, u64::from(map)),
            )
            .await;
    }
    one.kill();
    two.stop().await;
    let dir = one.dirs()[0].clone();
    two.replace_dir(dir);
    two.restart().await;
    assert_eq!(one.volumes(), two.volumes());
    oracle.check(&two.peer().await, &app, 0).await;
    // Its former server has another disk by now.
    one.empty_dir();
    one.restart().await;
    assert_refused(
        &one.peer()
            .await
            .fetch(fetch_first(&app, 0, two.volumes()))
            .await
            .unwrap_err(),
        Kind::Lost,
        &[],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_disk_of_two_is_lost_alone() {
    let mut server = Server::with(Setup::new().volumes(2)).await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    let shape = Shape { maps: 40, ..SHAPE };
    let peer = server.peer().await;
    let mut on = std::collections::BTreeMap::<Vec<u8>, Vec<u64>>::new();
    for map in 0..40 {
        // Together, so that the server spreads them.
        let receipt = oracle
            .push(
                &peer,
                &Attempt::generate(&app, 0, shape, map, u64::from(map)),
            )
            .await;
        on.entry(receipt.volume.to_vec())
            .or_default()
            .push(u64::from(map));
    }
    assert_eq!(on.len(), 2, "all attempts went to one of two equal disks");
    let before = server.volumes();
    server.kill();
    server.empty_dir();
    server.restart().await;
    let peer = server.peer().await;
    let after = server.volumes();
    let lost = before
        .iter()
        .find(|volume| !after.contains(volume))
        .unwrap()
        .clone();
    assert_refused(
        &peer
            .fetch(fetch_first(&app, 0, vec![lost.clone()]))
            .await
            .unwrap_err(),
        Kind::Lost,
        &[],
    );
    oracle.retain(|attempt| !on[&lost].contains(&attempt.attempt));
    oracle.check(&peer, &app, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copied_disk_in_one_server_twice_is_refused() {
    let mut server = Server::start().await;
    server
        .peer()
        .await
        .push(&Attempt::generate(&App::new("app-1"), 0, SHAPE, 0, 1))
        .await
        .unwrap();
    server.stop().await;
    let copy = server.scratch("copy");
    disk::copy_dir(&server.dirs()[0], &copy);
    let mut both = Server::prepare(Setup::new().dir(server.dirs()[0].clone()).dir(copy));
    let said = both.refused().await;
    let id = uuid::Uuid::from_slice(&server.volumes()[0])
        .unwrap()
        .to_string();
    assert!(
        said.contains(&id),
        "two directories with the id {id} are one volume twice: {said}"
    );
}
