//! Two lives of one name: an app is deleted, and comes again with the same id and token while the
//! store still has the first one's output. Maps, attempts, sizes and counts of rows are the same,
//! and only the bytes differ: a confusion of the two would not be noticed.

use shuffle_tests::{
    Endpoint, Gateway,
    gateway::{Trouble, Verb},
    stores::Kind as StoreKind,
};

use super::*;

const MAPS: u32 = 3;

/// What a life of the app writes of one map.
fn attempt(app: &App, life: u64, map: u32) -> Attempt {
    let mut attempt = Attempt::empty(app, 0, SHAPE, map, u64::from(map));
    for block in 0..6 {
        let seed = life << 32 | u64::from(map) << 8 | u64::from(block);
        attempt = attempt.with_block(block, random_bytes(seed, 30_000));
    }
    attempt
}

/// A store with what the first life wrote, by a server that is reached through a gateway, and the
/// second life.
struct Scene {
    endpoint: Endpoint,
    gateway: Gateway,
    one: Server,
    app: App,
    /// Of the second life alone.
    oracle: Oracle,
    /// Where the first one's output was.
    volumes: Vec<Vec<u8>>,
}

impl Scene {
    async fn new() -> Option<Self> {
        let endpoint = Endpoint::start(StoreKind::Versity).await?;
        let gateway = Gateway::to(endpoint.addr()).await;
        let setup = endpoint.setup(gateway.addr(), "eager");
        let one = Server::with(setup.env("AWS_TIMEOUT", "2s")).await;
        let (app, mut first) = (App::new("app-1"), Oracle::default());
        for map in 0..MAPS {
            let attempt = attempt(&app, 1, map).at(Durability::Object);
            first.push(&one.peer().await, &attempt).await;
        }
        first.check(&one.peer().await, &app, 0).await;
        Some(Self {
            endpoint,
            gateway,
            one,
            volumes: first.volumes(&app, 0),
            app,
            oracle: Oracle::default(),
        })
    }

    /// From here on nothing is deleted in the store.
    fn deletions_fail(&self, trouble: Trouble) {
        self.gateway.trouble(trouble, &[Verb::Delete], u64::MAX);
    }

    async fn struck(&self) {
        eventually(SOON, || async {
            match self.gateway.struck() {
                0 => Err("nothing was deleted yet".into()),
                _ => Ok(()),
            }
        })
        .await;
    }

    /// The app is there again, and writes the same maps; every server returns exactly its output.
    async fn comes_again(&mut self) {
        let peer = self.one.peer().await;
        peer.renew(&self.app).await.unwrap();
        for map in 0..MAPS {
            let attempt = attempt(&self.app, 2, map);
            let pushed = tokio::time::timeout(PROMPT, self.oracle.push(&peer, &attempt)).await;
            pushed.expect("it waits for a removal");
            self.is_served_by(&self.one).await;
        }
    }

    async fn is_served_by(&self, server: &Server) {
        let peer = server.peer().await;
        self.oracle.check(&peer, &self.app, 0).await;
        // Nor where the first one's was.
        let mut volumes = self.oracle.volumes(&self.app, 0);
        volumes.extend(self.volumes.iter().cloned());
        volumes.sort();
        volumes.dedup();
        let request = fetch_range(&self.app, 0, volumes, 0..10, 0..u32::MAX);
        match peer.fetch(request).await {
            Ok(fetched) => self
                .oracle
                .compare(&fetched, &self.app, 0, 0..10, 0..u32::MAX),
            Err(refused) => assert_refused(&refused, Kind::Lost, &[]),
        }
    }

    /// The trouble is over: all comes to the store, and a server that has nothing serves it.
    async fn check_kept(mut self) {
        self.gateway.calm();
        let peer = self.one.peer().await;
        peer.renew(&self.app).await.unwrap();
        peer.written_back(&self.app, 0).await;
        self.is_served_by(&self.one).await;
        self.one.destroy();
        let setup = self.endpoint.setup(self.endpoint.addr(), "off");
        let two = Server::with(setup).await;
        self.oracle.check(&two.peer().await, &self.app, 0).await;
    }
}

/// `told`: the deletion takes so long that the log names it as a reason to wait.
async fn comes_again_while(trouble: Trouble, told: bool) {
    let Some(mut scene) = Scene::new().await else {
        return;
    };
    scene.deletions_fail(trouble);
    let peer = scene.one.peer().await;
    peer.delete_app(&scene.app).await.unwrap();
    scene.comes_again().await;
    scene.struck().await;
    scene.is_served_by(&scene.one).await;
    if told {
        eventually(SOON, || async {
            match scene.one.log().contains("commits at level object, wait") {
                true => Ok(()),
                false => Err(scene.one.log()),
            }
        })
        .await;
    }
    scene.check_kept().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_again_while_deletions_hang_is_never_served_what_was_there() {
    comes_again_while(Trouble::Hang, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_again_while_deletions_are_refused_or_slow_is_never_served_what_was_there() {
    comes_again_while(Trouble::Status(403), true).await;
    comes_again_while(Trouble::Slow(Duration::from_secs(3)), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_restarted_in_between_knows_that_the_first_one_was_deleted() {
    for killed in [false, true] {
        let Some(mut scene) = Scene::new().await else {
            return;
        };
        scene.deletions_fail(Trouble::Hang);
        let peer = scene.one.peer().await;
        peer.delete_app(&scene.app).await.unwrap();
        match killed {
            false => scene.one.stop().await,
            true => scene.one.kill(),
        }
        scene.one.restart().await;
        scene.comes_again().await;
        // And once more, with the second life's output on the disk.
        scene.one.kill();
        scene.one.restart().await;
        scene.one.peer().await.renew(&scene.app).await.unwrap();
        scene.is_served_by(&scene.one).await;
        scene.check_kept().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_before_the_store_knows_of_a_deletion_does_not_forget_it() {
    for answered in [true, false] {
        let Some(mut scene) = Scene::new().await else {
            return;
        };
        // Not even the tombstone comes through.
        let verbs = [Verb::Put, Verb::Delete];
        scene.gateway.trouble(Trouble::Hang, &verbs, u64::MAX);
        let (peer, app) = (scene.one.peer().await, scene.app.clone());
        let deletion = peer.delete_app(&app);
        if answered {
            deletion.await.unwrap();
        } else {
            // The deleting caller leaves as soon as the deletion has begun.
            let note = scene.one.dirs()[0].join("lives/app-1.json");
            let begun = eventually(SOON, || async {
                match fs::read_to_string(&note).unwrap_or_default() {
                    text if text.contains("\"deleted\"") || text.contains("\"gone\"") => Ok(()),
                    text => Err(text),
                }
            });
            tokio::select! {
                _ = async { deletion.await.unwrap(); std::future::pending::<()>().await } => {}
                () = begun => {}
            }
        }
        scene.one.kill();
        scene.deletions_fail(Trouble::Hang);
        scene.one.restart().await;
        scene.comes_again().await;
        scene.struck().await;
        scene.check_kept().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_another_server_heard_of_counts_too() {
    // The server that gets the output has never heard of the app, or knows it, or was down during
    // the deletion.
    for case in 0..3 {
        let Some(mut scene) = Scene::new().await else {
            return;
        };
        let setup = scene.endpoint.setup(scene.gateway.addr(), "eager");
        let mut two = Server::with(setup.env("AWS_TIMEOUT", "2s")).await;
        scene.deletions_fail(Trouble::Hang);
        let app = scene.app.clone();
        match case {
            0 => drop(scene.one.peer().await.delete_app(&app).await.unwrap()),
            1 => {
                two.peer().await.renew(&app).await.unwrap();
                scene.one.peer().await.delete_app(&app).await.unwrap();
                scene.struck().await;
                // How long the record's confirmation of the app is trusted.
                tokio::time::sleep(Duration::from_millis(2500)).await;
            }
            _ => {
                scene.one.kill();
                two.peer().await.delete_app(&app).await.unwrap();
                scene.struck().await;
                scene.one.restart().await;
            }
        }
        if case < 2 {
            std::mem::swap(&mut scene.one, &mut two);
        }
        scene.comes_again().await;
        scene.struck().await;
        scene.is_served_by(&scene.one).await;
        scene.check_kept().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stands_still_in_the_middle_of_a_burial_removes_nothing_of_the_next_life() {
    let Some(mut scene) = Scene::new().await else {
        return;
    };
    let setup = scene.endpoint.setup(scene.endpoint.addr(), "eager");
    let mut two = Server::with(setup).await;
    two.peer().await.renew(&scene.app).await.unwrap();
    scene.deletions_fail(Trouble::Slow(Duration::from_secs(2)));
    let peer = scene.one.peer().await;
    peer.delete_app(&scene.app).await.unwrap();
    two.peer().await.delete_app(&scene.app).await.unwrap();
    scene.struck().await;
    scene.one.pause();
    // The other goes on with it, and the app is there again, and in the store.
    std::mem::swap(&mut scene.one, &mut two);
    scene.comes_again().await;
    let peer = scene.one.peer().await;
    eventually(Duration::from_secs(60), || async {
        let usage = peer.usage(&scene.app, Some(0)).await;
        let levels = usage.map_err(|status| status.to_string())?.levels;
        let object = |level: &v1::LevelBytes| level.durability == v1::Durability::Object as i32;
        match levels.iter().all(object) {
            true => Ok(()),
            false => Err(format!("{levels:?}")),
        }
    })
    .await;
    two.resume();
    scene.gateway.calm();
    // Long enough for the server to go on with its work.
    tokio::time::sleep(Duration::from_secs(5)).await;
    two.kill();
    scene.check_kept().await;
}
