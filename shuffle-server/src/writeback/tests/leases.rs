//! Leases in the store, and what goes when they are over: several servers on one store, with a clock that is advanced by hand.

use super::*;
use crate::registry::{Claim, Pool};

const LEASE: Duration = Duration::from_secs(4);
const PERIOD: Duration = Duration::from_secs(1);
const TOKEN: [u8; 32] = [7; 32];

/// Apps as a registry would know them.
#[derive(Default)]
struct Known {
    apps: Mutex<HashMap<AppId, Standing>>,
    /// What was told of their tokens.
    told: Mutex<Vec<(AppId, bool)>>,
}

impl Apps for Known {
    fn standing(&self, app: &AppId) -> Standing {
        let apps = self.apps.lock();
        apps.get(app).copied().unwrap_or(Standing::Unknown)
    }

    fn live(&self) -> Vec<(AppId, Standing)> {
        let apps = self.apps.lock();
        let live = apps
            .iter()
            .filter(|(_, it)| matches!(it, Standing::Live { .. }));
        live.map(|(app, standing)| (app.clone(), *standing))
            .collect()
    }

    fn told(&self, app: &AppId, _: [u8; 32], opens: bool) {
        self.told.lock().push((app.clone(), opens));
    }
}

/// One server, as far as it has to do with the store.
struct One {
    apps: Arc<Known>,
    collector: Arc<Collector>,
    records: Arc<Records>,
    metrics: RemoteMetrics,
}

impl One {
    fn on(remote: &Arc<Remote>, clock: &ManualClock) -> Self {
        let (apps, metrics) = (Arc::new(Known::default()), Metrics::default().remote);
        let records = Arc::new(Records::new(remote.clone()));
        let collector = Collector::new(
            remote.clone(),
            records.clone(),
            vec![],
            apps.clone(),
            Arc::new(clock.clone()),
            LEASE,
            metrics.clone(),
        );
        Self {
            apps,
            collector: Arc::new(collector),
            records,
            metrics,
        }
    }

    /// The app calls here.
    fn hears(&self, app: &AppId) {
        let mut apps = self.apps.apps.lock();
        let calls = match apps.get(app) {
            Some(Standing::Live { calls, .. }) => calls + 1,
            _ => 1,
        };
        let standing = Standing::Live {
            policy: None,
            heard: true,
            token: TOKEN,
            lease: LEASE,
            calls,
        };
        apps.insert(app.clone(), standing);
    }

    fn forgets(&self, app: &AppId) {
        self.apps.apps.lock().remove(app);
    }

    /// What its tasks do in a period.
    async fn period(&self) {
        self.collector.keep_now().await;
        self.collector.watch(PERIOD).await.expect("watched");
        self.collector.burials.bury_all().await;
    }
}

/// A store, and what is put and left there.
struct Shelf {
    remote: Arc<Remote>,
    clock: ManualClock,
}

impl Shelf {
    fn new() -> Self {
        let clock = ManualClock::new();
        let time: Now = {
            let clock = clock.clone();
            Arc::new(move || clock.now())
        };
        let remote = Arc::new(Remote::new(Store::in_memory(), time));
        Self { remote, clock }
    }

    fn server(&self) -> One {
        One::on(&self.remote, &self.clock)
    }

    async fn put(&self, key: &str) {
        let put = self.remote.store.put(key, "bytes".into(), false);
        put.await.expect("put");
    }

    /// A manifest and two objects of an app.
    async fn fill(&self, app: &AppId) {
        for key in data(app) {
            self.put(&key).await;
        }
    }

    /// All keys but the marker.
    async fn left(&self) -> Vec<String> {
        let mut keys = self
            .remote
            .store
            .list_below("", usize::MAX)
            .await
            .expect("listed");
        keys.retain(|key| *key != keys::marker());
        keys.sort();
        keys
    }
}

fn named(name: &str) -> AppId {
    AppId::try_new(name).expect("valid")
}

fn data(app: &AppId) -> Vec<String> {
    let place = Place {
        app: app.clone(),
        shuffle: SHUFFLE,
        volume: VolumeId::parse("01020304-0506-0708-090a-0b0c0d0e0f10").expect("valid"),
    };
    vec![
        keys::object(&place, 1, 0, 0xfeed),
        keys::object(&place, 1, 1, 0xfeed),
        keys::manifest(&place, 1),
    ]
}

fn foreign() -> Vec<String> {
    let names = [
        "top-level",
        "warehouse/part-0000.parquet",
        "app-20240101000000-0001/0/part-0",
        "0/1/2",
        "logs/lease",
        "UPPER.dotted-Name/x",
        "forebay/data",
        "forebay-v1/readme",
        "forebay-v1/not an app/x",
        "forebay-v1/warehouse/part-0000.parquet",
        "forebay-v1/warehouse/0/01020304-0506-0708-090a-0b0c0d0e0f10/00000001.manifest",
        "forebay-v1/app-1.bak/lease",
    ];
    names.map(str::to_owned).to_vec()
}

#[tokio::test]
async fn what_is_not_ours_stays_whatever_it_is_called() {
    let shelf = Shelf::new();
    let (app, server) = (named("app-1"), shelf.server());
    for key in foreign() {
        shelf.put(&key).await;
    }
    server.hears(&app);
    server
        .collector
        .ensure(&app, TOKEN, LEASE)
        .await
        .expect("a record");
    shelf.fill(&app).await;
    // Also below the app's own directory.
    let within = [
        format!("{}/notes.txt", keys::app(&app)),
        format!("{}/backup/00000001.manifest", keys::shuffle(&app, SHUFFLE)),
        data(&app)[2].replace("manifest", "manifest.bak"),
    ];
    for key in &within {
        shelf.put(key).await;
    }
    // Its shuffle, by its driver.
    server.collector.dead(&app, Some(SHUFFLE), TOKEN);
    server.collector.burials.bury_all().await;
    let mut all = foreign();
    all.extend(within.clone());
    all.push(keys::lease(&app));
    all.sort();
    assert_eq!(shelf.left().await, all);
    // The whole app, because nobody renews it.
    shelf.fill(&app).await;
    server.forgets(&app);
    for _ in 0..20 {
        shelf.clock.advance(PERIOD);
        server.period().await;
    }
    all.retain(|key| *key != keys::lease(&app));
    assert_eq!(shelf.left().await, all);
    assert!(
        server.metrics.foreign.get() >= 6,
        "{}",
        server.metrics.foreign.get()
    );
    // And again by a server that has seen nothing of that, for a week.
    let other = shelf.server();
    for _ in 0..100 {
        shelf.clock.advance(Duration::from_secs(6000));
        other.period().await;
    }
    assert_eq!(shelf.left().await, all);
}

#[tokio::test]
async fn objects_go_when_nobody_has_renewed_their_lease_for_two_leases_and_a_period() {
    let shelf = Shelf::new();
    let (app, owner, stranger) = (named("app-1"), shelf.server(), shelf.server());
    owner.hears(&app);
    owner
        .collector
        .ensure(&app, TOKEN, LEASE)
        .await
        .expect("a record");
    shelf.fill(&app).await;
    for _ in 0..30 {
        owner.hears(&app);
        owner.period().await;
        stranger.period().await;
        shelf.clock.advance(PERIOD);
    }
    assert_eq!(shelf.left().await.len(), 4);
    // It hears of the app, and the app is silent: it is not the one to remove it.
    for _ in 0..30 {
        owner.period().await;
        shelf.clock.advance(PERIOD);
    }
    assert_eq!(shelf.left().await.len(), 4);
    let mut periods = 0;
    while !shelf.left().await.is_empty() {
        shelf.clock.advance(PERIOD);
        stranger.period().await;
        periods += 1;
        assert!(periods < 20, "{:?}", shelf.left().await);
    }
    // It had seen it change at the last of its own looks.
    assert!(
        periods >= 9,
        "gone after {periods} periods of a quarter of a lease"
    );
}

#[tokio::test]
async fn who_stood_still_does_not_take_that_for_silence() {
    let shelf = Shelf::new();
    let (app, owner, watcher) = (named("app-1"), shelf.server(), shelf.server());
    owner.hears(&app);
    owner.period().await;
    shelf.fill(&app).await;
    watcher.period().await;
    // The watcher, and with it the clock, for a day; the owner renews at once after it.
    for _ in 0..5 {
        shelf.clock.advance(Duration::from_secs(86_400));
        watcher.period().await;
        assert_eq!(shelf.left().await.len(), 4, "its own silence");
        owner.hears(&app);
        owner.period().await;
    }
}

#[tokio::test]
async fn an_app_that_was_taken_for_dead_says_so_before_its_objects_go() {
    let shelf = Shelf::new();
    let (app, owner, watcher) = (named("app-1"), shelf.server(), shelf.server());
    owner.hears(&app);
    owner.period().await;
    shelf.fill(&app).await;
    // The owner stands still for much longer than its lease.
    for _ in 0..15 {
        shelf.clock.advance(PERIOD);
        watcher.collector.watch(5 * PERIOD).await.expect("watched");
    }
    assert!(watcher.collector.burials.is_dying(&app));
    // It is announced for a while; the owner is back within it.
    watcher.collector.burials.bury_all().await;
    watcher.collector.burials.bury_all().await;
    assert_eq!(shelf.left().await.len(), 4, "announced");
    let record = watcher
        .records
        .read(&app)
        .await
        .expect("read")
        .expect("there");
    assert!(record.buried_by().is_some() && !record.is_deleted());
    owner.hears(&app);
    owner.period().await;
    shelf.clock.advance(60 * PERIOD);
    watcher.collector.burials.bury_all().await;
    assert_eq!(shelf.left().await.len(), 4, "it lives");
    let record = watcher
        .records
        .read(&app)
        .await
        .expect("read")
        .expect("there");
    assert_eq!(record.buried_by(), None);
    owner
        .collector
        .ensure(&app, TOKEN, LEASE)
        .await
        .expect("goes on");
}

#[tokio::test]
async fn a_burial_that_was_broken_off_is_ended_by_another_and_not_by_two_at_once() {
    let shelf = Shelf::new();
    let (app, one, two) = (named("app-1"), shelf.server(), shelf.server());
    one.hears(&app);
    one.period().await;
    shelf.fill(&app).await;
    two.period().await;
    // Killed after the tombstone.
    let record = one.records.read(&app).await.expect("read").expect("there");
    let stone = record.buried(one.records.me(), false);
    stone
        .write(&shelf.remote.store, &app)
        .await
        .expect("written");
    two.period().await;
    // The driver's deletion at the other server leaves it to the one that has begun.
    two.collector.dead(&app, None, TOKEN);
    two.collector.burials.bury_all().await;
    assert_eq!(shelf.left().await.len(), 4);
    for _ in 0..6 {
        shelf.clock.advance(PERIOD);
        two.period().await;
    }
    assert_eq!(shelf.left().await.len(), 4, "it may well go on");
    for _ in 0..6 {
        shelf.clock.advance(PERIOD);
        two.period().await;
    }
    assert_eq!(shelf.left().await, [] as [String; 0]);
}

#[tokio::test]
async fn only_the_token_of_the_record_removes() {
    let shelf = Shelf::new();
    let (app, owner, stranger) = (named("app-1"), shelf.server(), shelf.server());
    owner.hears(&app);
    owner.period().await;
    shelf.fill(&app).await;
    let theirs = [9; 32];
    stranger.collector.dead(&app, None, theirs);
    stranger.collector.dead(&app, Some(SHUFFLE), theirs);
    stranger.collector.burials.bury_all().await;
    let late = &stranger.collector;
    late.written_too_late(&app, SHUFFLE, theirs);
    late.burials.bury_all().await;
    assert_eq!(shelf.left().await.len(), 4);
    let refused = stranger.collector.ensure(&app, theirs, LEASE).await;
    assert!(
        matches!(refused, Err(RemoteError::Corrupt { .. })),
        "{refused:?}"
    );
    assert_eq!(
        stranger.apps.told.lock().last(),
        Some(&(app.clone(), false))
    );
    // The owner's word counts anywhere.
    stranger.collector.dead(&app, None, TOKEN);
    stranger.collector.burials.bury_all().await;
    assert_eq!(shelf.left().await, [] as [String; 0]);
}

#[tokio::test]
async fn a_record_binds_one_token_and_is_free_again_when_it_is_gone() {
    let shelf = Shelf::new();
    let (app, one, two) = (named("app-1"), shelf.server(), shelf.server());
    let bind = async |server: &One, token, revive| {
        let pool: &dyn Pool = &*server.records;
        pool.bind(&app, token, LEASE, revive).await
    };
    let ask = async |token| Pool::ask(&*two.records, &app, token).await;
    assert_eq!(ask(TOKEN).await, Ok(Claim::Nobody));
    assert_eq!(bind(&one, TOKEN, false).await, Ok(Claim::Yours));
    assert_eq!(bind(&two, TOKEN, false).await, Ok(Claim::Yours));
    assert_eq!(bind(&two, [9; 32], true).await, Ok(Claim::Another));
    assert_eq!(
        (ask(TOKEN).await, ask([9; 32]).await),
        (Ok(Claim::Yours), Ok(Claim::Another))
    );
    // Deleted: a task that comes late does not bring it back, its driver does.
    let record = one.records.read(&app).await.expect("read").expect("there");
    let stone = record.buried(one.records.me(), false);
    stone
        .write(&shelf.remote.store, &app)
        .await
        .expect("written");
    assert_eq!(bind(&two, TOKEN, false).await, Ok(Claim::Deleted));
    assert_eq!(ask(TOKEN).await, Ok(Claim::Deleted));
    let other = bind(&two, [9; 32], true).await;
    assert!(other.is_err(), "not before all is gone: {other:?}");
    assert_eq!(bind(&two, TOKEN, true).await, Ok(Claim::Yours));
    assert_eq!(ask(TOKEN).await, Ok(Claim::Yours));
    one.collector.dead(&app, None, TOKEN);
    one.collector.burials.bury_all().await;
    assert_eq!(bind(&two, [9; 32], false).await, Ok(Claim::Yours));
    // Many at once: one wins.
    let many = named("app-2");
    let binds = (0..16u8).map(|n| one.records.bind(&many, [n; 32], LEASE, false));
    let bound = futures_util::future::join_all(binds).await;
    let yours = bound
        .iter()
        .filter(|claim| matches!(claim, Ok(Claim::Yours)));
    assert_eq!(yours.count(), 1, "{bound:?}");
}

#[tokio::test]
async fn an_upload_that_ends_after_its_shuffle_or_its_app_is_removed_too() {
    let shelf = Shelf::new();
    let (app, owner) = (named("app-1"), shelf.server());
    owner.hears(&app);
    owner.period().await;
    shelf.fill(&app).await;
    owner.collector.written_too_late(&app, SHUFFLE, TOKEN);
    owner.collector.burials.bury_all().await;
    assert_eq!(shelf.left().await, [keys::lease(&app)]);
    owner.forgets(&app);
    owner.collector.dead(&app, None, TOKEN);
    owner.collector.burials.bury_all().await;
    shelf.fill(&app).await;
    owner.collector.written_too_late(&app, SHUFFLE, TOKEN);
    owner.collector.burials.bury_all().await;
    assert_eq!(shelf.left().await, [] as [String; 0]);
    // Where the one that wrote it did not live to do that, another that has seen the record does.
    owner.hears(&app);
    owner.period().await;
    shelf.fill(&app).await;
    owner.forgets(&app);
    owner.period().await;
    shelf
        .remote
        .store
        .delete(&keys::lease(&app))
        .await
        .expect("deleted");
    for _ in 0..12 {
        shelf.clock.advance(PERIOD);
        owner.period().await;
    }
    assert_eq!(shelf.left().await, [] as [String; 0]);
}

#[tokio::test]
async fn one_server_in_many_renews_and_a_lease_that_grows_is_written_at_once() {
    let shelf = Shelf::new();
    let (app, servers) = (
        named("app-1"),
        [shelf.server(), shelf.server(), shelf.server()],
    );
    let renewals = async || {
        let record = servers[0].records.read(&app).await.expect("read");
        record.expect("there").renewals()
    };
    for server in &servers {
        server.hears(&app);
        server.collector.keep_now().await;
    }
    let before = renewals().await;
    for _ in 0..10 {
        shelf.clock.advance(PERIOD);
        for server in &servers {
            server.hears(&app);
            server.collector.keep_now().await;
        }
    }
    let made = renewals().await - before;
    assert!((5..=10).contains(&made), "{made} in ten periods");
}
