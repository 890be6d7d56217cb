//! A troubled store: every kind of trouble costs a backlog, which is shown, bounded, and gone soon
//! after the trouble.
//!
//! Pauses are shorter than in production (`AWS_TIMEOUT` instead of 30 s), and outages take seconds,
//! not minutes: the pause between two tries doubles from half a second to a minute, so a longer
//! outage adds at most that minute after its end.

use std::time::Instant;

use shuffle_tests::{
    Endpoint, Gateway,
    gateway::{Trouble, Verb},
    stores::Kind as StoreKind,
};

use super::*;

const APP: &str = "app-1";

/// A store, the way to it, and a server that has something to write back.
struct Scene {
    endpoint: Endpoint,
    gateway: Gateway,
    server: Server,
    app: App,
    oracle: Oracle,
    shuffles: u32,
}

impl Scene {
    async fn new() -> Option<Self> {
        let endpoint = Endpoint::start(StoreKind::Versity).await?;
        let gateway = Gateway::to(endpoint.addr()).await;
        let setup = endpoint.setup(gateway.addr(), "eager");
        Some(Self {
            server: Server::with(setup.env("AWS_TIMEOUT", "2s")).await,
            endpoint,
            gateway,
            app: App::new(APP),
            oracle: Oracle::default(),
            shuffles: 0,
        })
    }

    /// Output that takes more than one part to upload.
    async fn push(&mut self) {
        let shuffle = self.shuffles;
        self.shuffles += 1;
        let peer = self.server.peer().await;
        let mut attempt = Attempt::empty(&self.app, shuffle, SHAPE, 0, u64::from(shuffle) + 1);
        for block in 0..20u32 {
            let bytes = random_bytes(u64::from(shuffle) << 8 | u64::from(block), 500_000);
            attempt = attempt.with_block(block % 10, bytes);
        }
        self.oracle.push(&peer, &attempt).await;
    }

    /// What the metrics say waits.
    async fn backlog(&self) -> u64 {
        counter(&self.server, "writeback_backlog_bytes").await
    }

    async fn struck(&self, times: u64) {
        eventually(SOON, || async {
            match self.gateway.struck() {
                struck if struck >= times => Ok(()),
                struck => Err(format!("{struck} requests were troubled")),
            }
        })
        .await;
    }

    /// The trouble is over, or has never been one: all is in the store soon, and another server has
    /// it.
    async fn recovers(mut self) {
        for shuffle in 0..self.shuffles {
            let peer = self.server.peer().await;
            peer.written_back(&self.app, shuffle).await;
        }
        eventually(SOON, || async {
            match self.backlog().await {
                0 => Ok(()),
                bytes => Err(format!("{bytes} bytes are called backlog")),
            }
        })
        .await;
        self.gateway.calm();
        let setup = self.endpoint.setup(self.endpoint.addr(), "off");
        self.server.destroy();
        self.server = Server::with(setup).await;
        let peer = self.server.peer().await;
        for shuffle in 0..self.shuffles {
            self.oracle.check(&peer, &self.app, shuffle).await;
        }
        // An upload that broke has been given up in the store too: nothing lies there that nobody
        // knows of.
        let known = |path: &PathBuf| {
            let name = path.to_string_lossy();
            name.ends_with(".obj")
                || name.ends_with(".manifest")
                || name.ends_with("lease")
                || name.ends_with("marker")
        };
        let files = self.endpoint.files();
        assert!(files.iter().all(known), "{files:?}");
    }
}

/// While some requests have trouble, pushes and fetches go on; then everything is as if there had
/// been none.
async fn survives(trouble: Trouble, verbs: &[Verb], times: u64) {
    let Some(mut scene) = Scene::new().await else {
        return;
    };
    scene.gateway.trouble(trouble, verbs, times);
    scene.push().await;
    scene.struck(1).await;
    let begin = Instant::now();
    scene.push().await;
    let peer = scene.server.peer().await;
    scene.oracle.check(&peer, &scene.app, 0).await;
    scene.oracle.check(&peer, &scene.app, 1).await;
    assert!(
        begin.elapsed() < Duration::from_secs(10),
        "{:?}",
        begin.elapsed()
    );
    scene.struck(times).await;
    scene.recovers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_says_slow_down_is_asked_again() {
    survives(Trouble::Status(503), &[], 25).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_store_is_waited_for() {
    survives(Trouble::Slow(Duration::from_millis(700)), &[], 12).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_does_not_answer_is_given_up_and_asked_again() {
    survives(Trouble::Hang, &[], 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_whose_answer_is_lost_is_made_once() {
    // The lease record is the first whole object, the manifests are the others.
    survives(Trouble::LoseAnswer, &[Verb::Put], 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_anywhere_in_an_upload_does_no_harm() {
    let verbs = [Verb::Begin, Verb::Part, Verb::Complete];
    survives(Trouble::LoseAnswer, &verbs, 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_cut_in_the_middle_of_an_upload_does_no_harm() {
    survives(Trouble::CutBody, &[Verb::Part], 9).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_cannot_be_ended_leaves_no_part() {
    survives(Trouble::Status(400), &[Verb::Complete], 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backlog_is_shown_while_every_round_waits_for_the_store() {
    let Some(mut scene) = Scene::new().await else {
        return;
    };
    // A request that is tried again and again hangs for some 14 s, and this is told before.
    scene.gateway.trouble(Trouble::Hang, &[], 1000);
    scene.push().await;
    scene.push().await;
    scene.struck(1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    scene.push().await;
    eventually(Duration::from_secs(12), || async {
        match scene.backlog().await {
            30_000_000 => Ok(()),
            bytes => Err(format!("{bytes} bytes are called backlog")),
        }
    })
    .await;
    scene.gateway.calm();
    scene.recovers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_change_on_their_way_to_the_store_are_sent_again() {
    survives(Trouble::FlipBody, &[Verb::Part, Verb::Put], 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_change_on_their_way_back_make_no_manifest() {
    // Reads of the lease record and of the manifests are among them.
    survives(Trouble::FlipAnswer, &[Verb::Get], 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_change_on_their_way_to_a_reader_are_read_again() {
    let Some(mut scene) = Scene::new().await else {
        return;
    };
    scene.push().await;
    let peer = scene.server.peer().await;
    peer.written_back(&scene.app, 0).await;
    let setup = scene.endpoint.setup(scene.gateway.addr(), "off");
    scene.server.destroy();
    scene.server = Server::with(setup).await;
    let peer = scene.server.peer().await;
    // It knows the app: what changes now is a manifest, then blocks.
    peer.renew(&scene.app).await.unwrap();
    for _ in 0..3 {
        scene.gateway.trouble(Trouble::FlipAnswer, &[Verb::Get], 1);
        scene.oracle.check(&peer, &scene.app, 0).await;
        assert_eq!(scene.gateway.struck(), 1);
    }
    // Where they change every time they are not rows.
    scene
        .gateway
        .trouble(Trouble::FlipAnswer, &[Verb::Get], 1000);
    let volumes = scene.oracle.volumes(&scene.app, 0);
    let request = fetch_range(&scene.app, 0, volumes, 3..5, 0..u32::MAX);
    let fetched = peer.fetch(request).await.unwrap();
    let lost = &fetched.summary.lost;
    assert!(!lost.is_empty(), "nothing was noticed");
    assert!(
        lost.iter().all(|lost| lost.reason.contains(".obj")),
        "{lost:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_down_costs_a_backlog_that_is_shown_and_goes() {
    let Some(mut scene) = Scene::new().await else {
        return;
    };
    scene.push().await;
    let peer = scene.server.peer().await;
    peer.written_back(&scene.app, 0).await;
    scene.endpoint.kill();
    let began = Instant::now();
    let mut bytes = 0;
    for _ in 0..8 {
        scene.push().await;
        bytes += 10_000_000;
        eventually(SOON, || async {
            match scene.backlog().await {
                backlog if backlog == bytes => Ok(()),
                backlog => Err(format!("{backlog} of {bytes} bytes are called backlog")),
            }
        })
        .await;
        let last = scene.shuffles - 1;
        scene
            .oracle
            .check(&scene.server.peer().await, &scene.app, last)
            .await;
    }
    eventually(SOON, || async {
        match counter(&scene.server, "writeback_failures_total").await {
            0 => Err("no failure yet".into()),
            _ => Ok(()),
        }
    })
    .await;
    // A new server starts, and does not call lost what it cannot know to be.
    let setup = scene.endpoint.setup(scene.gateway.addr(), "off");
    let other = Server::with(setup).await;
    let request = fetch_first(&scene.app, 0, scene.oracle.volumes(&scene.app, 0));
    let refused = other.peer().await.fetch(request).await.unwrap_err();
    assert_refused(&refused, Kind::Unavailable, &[]);
    // Long enough for rounds to fail and be put off.
    tokio::time::sleep(Duration::from_secs(3).saturating_sub(began.elapsed())).await;
    scene.endpoint.restart().await;
    scene.recovers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_while_the_store_is_down_holds_pushes_back_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Tmpfs::mount(dir.path().join("disk"), 160 << 10) else {
        return;
    };
    let Some(mut endpoint) = Endpoint::start(StoreKind::Versity).await else {
        return;
    };
    let setup = endpoint
        .setup(endpoint.addr(), "lazy")
        .flag("--write-back-delay", "1h")
        .flag("--reclaim-at", 50)
        .flag("--memory", "64MiB")
        .dir(disk.path());
    let server = Server::with(setup).await;
    endpoint.kill();
    let (app, mut oracle) = (App::new(APP), Oracle::default());
    let attempt = |shuffle: u32| {
        let mut attempt = Attempt::empty(&app, shuffle, SHAPE, 0, u64::from(shuffle) + 1);
        for block in 0..16 {
            let bytes = random_bytes(u64::from(shuffle) << 8 | u64::from(block), 768 << 10);
            attempt = attempt.with_block(block % 10, bytes);
        }
        attempt
    };
    let receipt = || v1::Committed {
        volume: server.volumes()[0].clone().into(),
        ..Default::default()
    };
    let mut shuffle = 0;
    let refused = loop {
        match server.peer().await.push(&attempt(shuffle)).await {
            Ok(_) => oracle.committed(&attempt(shuffle), &receipt()),
            Err(status) => break status,
        }
        shuffle += 1;
        assert!(shuffle < 16, "the disk has only 160 MiB");
    };
    let kind = Kind::of(&refused);
    assert!(matches!(kind, Kind::Busy | Kind::Unavailable), "{refused}");
    assert!(shuffle >= 4, "{shuffle} shuffles on 160 MiB");
    for shuffle in 0..shuffle {
        oracle.check(&server.peer().await, &app, shuffle).await;
    }
    endpoint.restart().await;
    for more in shuffle..shuffle + 8 {
        eventually(STEP, || async {
            let pushed = server.peer().await.push(&attempt(more)).await;
            pushed.map_err(|status| status.to_string())
        })
        .await;
        oracle.committed(&attempt(more), &receipt());
    }
    for shuffle in 0..shuffle + 8 {
        oracle.check(&server.peer().await, &app, shuffle).await;
    }
}

// === what it costs ===

#[tokio::test(flavor = "multi_thread")]
async fn a_reduce_read_costs_a_few_requests_per_server_that_wrote() {
    const SERVERS: u64 = 3;
    const PARTITIONS: u32 = 10;
    let Some(endpoint) = Endpoint::start(StoreKind::Versity).await else {
        return;
    };
    let gateway = Gateway::to(endpoint.addr()).await;
    let (app, mut oracle) = (App::new(APP), Oracle::default());
    let (mut wrote, mut rounds, mut pauses) = (Vec::new(), 0, 0);
    for server in 0..SERVERS as u32 {
        let one = Server::with(endpoint.setup(gateway.addr(), "eager")).await;
        // Many maps: what a read costs must not depend on them.
        let peer = one.peer().await;
        for map in server * 20..server * 20 + 20 {
            let shape = Shape { maps: 60, ..SHAPE };
            let attempt = Attempt::generate(&app, 0, shape, map, u64::from(map));
            let began = Instant::now();
            oracle.push(&peer, &attempt).await;
            // On a busy machine: so long that what was there before may have gone alone.
            pauses += u64::from(began.elapsed() > Duration::from_millis(200));
        }
        peer.written_back(&app, 0).await;
        rounds += counter(&one, "writeback_rounds_total").await;
        wrote.push(one);
    }
    // One object and one manifest per round, and the lease; one round for all maps that commit
    // together, never one per map.
    let writes = gateway.seen(Verb::Put) + gateway.seen(Verb::Part);
    assert!(
        rounds <= SERVERS * 3 + pauses,
        "{rounds} rounds for 60 maps"
    );
    assert!(
        writes <= rounds * 2 + SERVERS * 2,
        "{writes} writes in {rounds} rounds"
    );
    for one in &wrote {
        assert!(one.log().contains("requests="), "{}", one.log());
    }
    wrote.iter_mut().for_each(Server::destroy);

    let reader = Server::with(endpoint.setup(gateway.addr(), "off")).await;
    let peer = reader.peer().await;
    // The server looks at the marker when it starts, and again, with the leases, by itself.
    eventually(SOON, || async {
        match counter(&reader, "remote_requests_total{verb=\"get\"").await {
            gets @ 0..=2 => Err(format!("{gets} requests")),
            _ => Ok(()),
        }
    })
    .await;
    gateway.forget();
    let before = counter(&reader, "remote_requests_total{verb=\"get\"").await;
    let mut costs = Vec::new();
    let began = Instant::now();
    for partition in 0..PARTITIONS {
        let seen = gateway.seen(Verb::Get);
        let partitions = partition..partition + 1;
        oracle
            .check_range(&peer, &app, 0, partitions, 0..u32::MAX)
            .await;
        costs.push(gateway.seen(Verb::Get) - seen);
    }
    // Per round: the manifest, the footer, and what is wanted; per server, that there is no next
    // round; and once the lease.
    assert!(
        costs[0] <= 3 * rounds + SERVERS + 1,
        "{costs:?} for {rounds} rounds"
    );
    // What is known is not asked for again, but for whether there is more by now, and whether the
    // app was deleted elsewhere.
    let known = |cost: &u64| *cost <= rounds + SERVERS + 1;
    assert!(
        costs[1..].iter().all(known),
        "{costs:?} for {rounds} rounds"
    );
    let counted = counter(&reader, "remote_requests_total{verb=\"get\"").await - before;
    assert_eq!(
        counted,
        gateway.seen(Verb::Get),
        "the metric is what the store saw"
    );
    assert_eq!(
        gateway.seen(Verb::Head),
        0,
        "nothing is measured before it is read"
    );
    // Each place is looked at once, and again when that was two seconds ago; and once for shuffles
    // that were deleted here before.
    let looks = 1 + began.elapsed().as_secs().div_ceil(2);
    let lists = gateway.seen(Verb::List);
    assert!(
        lists <= SERVERS * looks + 1,
        "{lists} listings: nothing is listed to be read"
    );
}

/// While deletions have trouble (of a shuffle, of an app whose driver brings it back, and of
/// another app), no commit at level object waits for another app's, and the returned app is staged
/// and served at once; its output is in the store when the trouble is over. A live app known to one
/// server only is not taken for dead by another meanwhile.
async fn deletions_hold_nothing_up(trouble: Trouble) {
    let Some(endpoint) = Endpoint::start(StoreKind::Versity).await else {
        return;
    };
    let gateway = Gateway::to(endpoint.addr()).await;
    let setup = |to, policy| endpoint.setup(to, policy).flag("--lease", "4s");
    let server = Server::with(setup(gateway.addr(), "eager")).await;
    let watcher = Server::with(setup(endpoint.addr(), "off")).await;
    let (app, back, other) = (App::new(APP), App::new("back"), App::new("other"));
    let mut oracle = Oracle::default();
    let peer = server.peer().await;
    let at_object = |app: &App, shuffle: u32, map: u32| {
        let attempt = u64::from(shuffle * 100 + map);
        Attempt::generate(app, shuffle, SHAPE, map, attempt).at(Durability::Object)
    };
    for app in [&app, &back, &other] {
        for map in 0..4 {
            oracle.push(&peer, &at_object(app, 0, map)).await;
        }
    }
    gateway.trouble(trouble, &[Verb::Delete], u64::MAX);
    peer.delete_shuffle(&app, 0).await.unwrap();
    for app in [&back, &other] {
        peer.delete_app(app).await.unwrap();
        oracle.delete_app(app);
    }
    eventually(SOON, || async {
        match gateway.struck() {
            0 => Err("nothing was deleted yet".into()),
            _ => Ok(()),
        }
    })
    .await;
    peer.renew(&back).await.unwrap();
    let begin = Instant::now();
    for shuffle in 1..4 {
        for attempt in [
            at_object(&app, shuffle, 0),
            at_object(&back, shuffle, 0).at(Durability::Disk),
        ] {
            let pushed = tokio::time::timeout(PROMPT, oracle.push(&peer, &attempt)).await;
            pushed.expect("it waits for a removal");
            oracle.check(&peer, &attempt.app, shuffle).await;
        }
    }
    while begin.elapsed() < Duration::from_secs(15) {
        for app in [&app, &back] {
            peer.renew(app).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    gateway.calm();
    // Again at the level at which it is asked for: by now nothing is in its way, or soon.
    for shuffle in 1..4 {
        let attempt = at_object(&back, shuffle, 1);
        let pushed = tokio::time::timeout(PROMPT, oracle.push(&peer, &attempt)).await;
        pushed.expect("nothing is in its way any more");
        peer.written_back(&back, shuffle).await;
    }
    let mut server = server;
    server.destroy();
    for shuffle in 1..4 {
        for app in [&app, &back] {
            oracle.check(&watcher.peer().await, app, shuffle).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_refuses_deletions_holds_no_commit_up() {
    deletions_hold_nothing_up(Trouble::Status(403)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_slow_to_delete_holds_no_commit_and_no_lease_up() {
    deletions_hold_nothing_up(Trouble::Slow(Duration::from_secs(6))).await;
}
