//! A token is the pool's word, not a server's: a stranger is denied everywhere, the owner nowhere,
//! whatever a server has seen.

use super::*;

/// The same application to somebody who does not know its token.
fn stranger(app: &App) -> App {
    App {
        token: "guessed".into(),
        ..App::new(&app.id)
    }
}

/// Every call of the stranger is denied.
async fn denied(server: &Server, app: &App, volumes: &[Vec<u8>], order: usize) {
    let (peer, thief) = (server.peer().await, stranger(app));
    for call in 0..6 {
        let refused = match (call + order) % 6 {
            0 => peer.renew(&thief).await.map(drop),
            1 => peer
                .fetch(fetch_first(&thief, 0, volumes.to_vec()))
                .await
                .map(drop),
            2 => peer.delete_shuffle(&thief, 0).await.map(drop),
            3 => peer.delete_app(&thief).await.map(drop),
            4 => peer.usage(&thief, None).await.map(drop),
            _ => peer
                .push(&Attempt::generate(&thief, 0, SHAPE, 7, 777))
                .await
                .map(drop),
        };
        let refused = refused.expect_err("it is somebody else's app");
        assert_refused(&refused, Kind::Denied, &[&app.id]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_denied_at_every_server_and_the_owner_at_none() {
    let bucket = Bucket::new();
    let setup = || bucket.setup("eager").flag("--lease", "3s");
    let mut owner = Server::with(setup()).await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    oracle.push_maps(&owner, &app, 0, SHAPE, 0..4).await;
    let peer = owner.peer().await;
    peer.written_back(&app, 0).await;
    let volumes = oracle.volumes(&app, 0);
    let objects = bucket.below("app-1/0").len();
    let heard = async || {
        peer.renew(&app).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    // The server with the data; a new one; one restarted on its disk, and on an empty one.
    denied(&owner, &app, &volumes, 0).await;
    for order in 0..6 {
        let new = Server::with(setup()).await;
        denied(&new, &app, &volumes, order).await;
        heard().await;
    }
    let mut again = Server::with(setup()).await;
    again.peer().await.renew(&app).await.unwrap();
    again.kill();
    again.restart().await;
    denied(&again, &app, &volumes, 2).await;
    again.kill();
    again.empty_dir();
    again.restart().await;
    denied(&again, &app, &volumes, 1).await;
    // One where nobody has called for a lease.
    let quiet = Server::with(setup()).await;
    quiet.peer().await.renew(&app).await.unwrap();
    for _ in 0..60 {
        heard().await;
    }
    denied(&quiet, &app, &volumes, 0).await;
    assert_eq!(bucket.below("app-1/0").len(), objects, "nothing of it went");

    // The owner, for the first call there, of any kind.
    let new = async || Server::with(setup()).await;
    oracle.check(&new().await.peer().await, &app, 0).await;
    oracle.check(&again.peer().await, &app, 0).await;
    new().await.peer().await.usage(&app, None).await.unwrap();
    oracle.push_maps(&new().await, &app, 1, SHAPE, 0..1).await;
    owner.destroy();
    let last = new().await;
    last.peer().await.delete_shuffle(&app, 0).await.unwrap();
    eventually(SOON, || async {
        last.peer().await.renew(&app).await.unwrap();
        match &bucket.below("app-1/0")[..] {
            [] => Ok(()),
            left => Err(format!("left: {left:?}")),
        }
    })
    .await;
    new().await.peer().await.delete_app(&app).await.unwrap();
    eventually(SOON, || async {
        match &bucket.below("app-1")[..] {
            [] => Ok(()),
            left => Err(format!("left: {left:?}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_a_stranger_used_first_is_refused_at_once_and_nothing_of_anybody_is_lost() {
    let bucket = Bucket::new();
    let setup = || bucket.setup("eager").flag("--lease", "4s");
    let (one, two) = (Server::with(setup()).await, Server::with(setup()).await);
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    oracle.push_maps(&two, &app, 0, SHAPE, 0..2).await;
    two.peer().await.written_back(&app, 0).await;
    let late = stranger(&app);
    let peer = one.peer().await;
    for _ in 0..50 {
        assert_refused(
            &peer.renew(&late).await.unwrap_err(),
            Kind::Denied,
            &["app-1"],
        );
        two.peer().await.renew(&app).await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    oracle.check(&peer, &app, 0).await;
}
