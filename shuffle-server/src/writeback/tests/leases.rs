//! Leases in the store, and what goes when they are over: several servers on one store, with a clock that is advanced by hand.

use super::*;
use crate::registry::{Claim, Pool};

pub(super) const LEASE: Duration = Duration::from_secs(4);
pub(super) const PERIOD: Duration = Duration::from_secs(1);
pub(super) const TOKEN: [u8; 32] = [7; 32];

/// Apps as a registry would know them.
#[derive(Default)]
pub(super) struct Known {
    apps: Mutex<HashMap<AppId, Standing>>,
    /// What was told of their tokens.
    told: Mutex<Vec<(AppId, bool)>>,
    /// Whose record was seen to be of one that was deleted.
    deleted: Mutex<Vec<AppId>>,
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

    fn told_deleted(&self, app: &AppId, _: [u8; 32]) {
        self.deleted.lock().push(app.clone());
    }
}

/// One server, as far as it has to do with the store.
pub(super) struct One {
    pub(super) apps: Arc<Known>,
    pub(super) collector: Arc<Collector>,
    pub(super) records: Arc<Records>,
    metrics: RemoteMetrics,
}

impl One {
    pub(super) fn on(remote: &Arc<Remote>, clock: &ManualClock) -> Self {
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
    pub(super) fn hears(&self, app: &AppId) {
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

    pub(super) fn forgets(&self, app: &AppId) {
        self.apps.apps.lock().remove(app);
    }

    /// What its tasks do in a period.
    pub(super) async fn period(&self) {
        self.collector.keep_now().await;
        self.collector.watch(PERIOD).await.expect("watched");
        self.collector.burials.bury_all().await;
    }
}

/// A store, and what is put and left there.
pub(super) struct Shelf {
    pub(super) remote: Arc<Remote>,
    pub(super) clock: ManualClock,
}

impl Shelf {
    pub(super) fn new() -> Self {
        let clock = ManualClock::new();
        let time: Now = {
            let clock = clock.clone();
            Arc::new(move || clock.now())
        };
        let remote = Arc::new(Remote::new(Store::in_memory(), time));
        Self { remote, clock }
    }

    pub(super) fn server(&self) -> One {
        One::on(&self.remote, &self.clock)
    }

    pub(super) async fn put(&self, key: &str) {
        let put = self.remote.store.put(key, "bytes".into(), false);
        put.await.expect("put");
    }

    /// A manifest and two objects of an app.
    pub(super) async fn fill(&self, app: &AppId) {
        for key in data(app) {
            self.put(&key).await;
        }
    }

    /// All keys but the marker.
    pub(super) async fn left(&self) -> Vec<String> {
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

pub(super) fn named(name: &str) -> AppId {
    AppId::try_new(name).expect("valid")
}

fn place(app: &AppId) -> Place {
    Place {
        app: app.clone(),
        shuffle: SHUFFLE,
        volume: VolumeId::parse("01020304-0506-0708-090a-0b0c0d0e0f10").expect("valid"),
    }
}

fn data(app: &AppId) -> Vec<String> {
    let place = place(app);
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
    let ensured = server.collector.ensure(&app, TOKEN, LEASE).await;
    assert!(ensured.expect("a record"));
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
    let ensured = owner.collector.ensure(&app, TOKEN, LEASE).await;
    assert!(ensured.expect("a record"));
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
    let ensured = owner.collector.ensure(&app, TOKEN, LEASE).await;
    assert!(ensured.expect("goes on"));
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
    late.written_too_late(&place(&app), theirs);
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
    let bind = async |server: &One, token| {
        let pool: &dyn Pool = &*server.records;
        pool.bind(&app, token, LEASE).await
    };
    let ask = async |token| Pool::ask(&*two.records, &app, token).await;
    assert_eq!(ask(TOKEN).await, Ok(Claim::Nobody));
    assert_eq!(bind(&one, TOKEN).await, Ok(Claim::Yours));
    assert_eq!(bind(&two, TOKEN).await, Ok(Claim::Yours));
    assert_eq!(bind(&two, [9; 32]).await, Ok(Claim::Another));
    assert_eq!(
        (ask(TOKEN).await, ask([9; 32]).await),
        (Ok(Claim::Yours), Ok(Claim::Another))
    );
    // Deleted: neither a task that comes late brings it back nor its driver; that one begins anew once all is gone.
    let record = one.records.read(&app).await.expect("read").expect("there");
    let stone = record.buried(one.records.me(), false);
    stone
        .write(&shelf.remote.store, &app)
        .await
        .expect("written");
    assert_eq!(bind(&two, TOKEN).await, Ok(Claim::Deleted));
    assert_eq!(ask(TOKEN).await, Ok(Claim::Deleted));
    let other = bind(&two, [9; 32]).await;
    assert!(other.is_err(), "not before all is gone: {other:?}");
    one.collector.dead(&app, None, TOKEN);
    one.collector.burials.bury_all().await;
    assert_eq!(bind(&two, [9; 32]).await, Ok(Claim::Yours));
    // Many at once: one wins.
    let many = named("app-2");
    let binds = (0..16u8).map(|n| one.records.bind(&many, [n; 32], LEASE));
    let bound = futures_util::future::join_all(binds).await;
    let yours = bound
        .iter()
        .filter(|claim| matches!(claim, Ok(Claim::Yours)));
    assert_eq!(yours.count(), 1, "{bound:?}");
}

#[tokio::test]
async fn an_app_that_comes_back_by_its_name_has_nothing_of_the_one_before_and_loses_nothing_for_it()
{
    let shelf = Shelf::new();
    let (app, owner, other) = (named("app-1"), shelf.server(), shelf.server());
    for server in [&owner, &other] {
        server.hears(&app);
        server.period().await;
    }
    shelf.fill(&app).await;
    // Deleted at both, and back with the same token before either has removed anything.
    owner.collector.dead(&app, None, TOKEN);
    other.collector.dead(&app, None, TOKEN);
    owner.hears(&app);
    owner.collector.keep_now().await;
    let ensured = owner.collector.ensure(&app, TOKEN, LEASE).await;
    assert!(
        matches!(ensured, Ok(false)),
        "nothing is written between what is to go: {ensured:?}"
    );
    assert_eq!(*owner.apps.deleted.lock(), std::slice::from_ref(&app));
    let claim = owner.records.bind(&app, TOKEN, LEASE).await;
    assert_eq!(claim.expect("asked"), Claim::Deleted);
    owner.collector.burials.bury_all().await;
    assert_eq!(shelf.left().await, [] as [String; 0]);
    // The next one of this name, and the other server's deletion, which is late.
    owner.period().await;
    let ensured = owner.collector.ensure(&app, TOKEN, LEASE).await;
    assert!(ensured.expect("anew"));
    shelf.fill(&app).await;
    assert_eq!(shelf.left().await.len(), 4);
    other.collector.burials.bury_all().await;
    assert_eq!(shelf.left().await.len(), 4);
    other
        .collector
        .ensure(&app, TOKEN, LEASE)
        .await
        .expect("it is over there too");
}

#[tokio::test]
async fn a_shuffle_of_an_app_before_goes_before_the_next_one_writes_it() {
    let shelf = Shelf::new();
    let (app, owner) = (named("app-1"), shelf.server());
    owner.hears(&app);
    owner.period().await;
    let others = Place {
        volume: VolumeId::parse("01020304-0506-0708-090a-0b0c0d0e0f11").expect("valid"),
        ..place(&app)
    };
    shelf.fill(&app).await;
    shelf.put(&keys::manifest(&others, 1)).await;
    owner.collector.written_too_late(&place(&app), TOKEN);
    assert!(owner.collector.is_to_go(&app, SHUFFLE));
    owner.collector.burials.bury_all().await;
    assert!(!owner.collector.is_to_go(&app, SHUFFLE));
    // What another volume has written for the next one is nobody's to remove.
    let left = [keys::manifest(&others, 1), keys::lease(&app)];
    assert_eq!(shelf.left().await, left);
}

#[tokio::test]
async fn a_deletion_that_stopped_half_way_locks_nobody_out_though_all_servers_hear_of_the_app() {
    let shelf = Shelf::new();
    let (app, one, two) = (named("app-1"), shelf.server(), shelf.server());
    for theirs in [TOKEN, [9; 32]] {
        // Somebody's tombstone, who is no more.
        let record = shuffle_remote::lease::Lease::new(theirs, LEASE)
            .buried(uuid::Uuid::from_u128(1), false);
        record.create(&shelf.remote.store, &app).await.expect("put");
        shelf.fill(&app).await;
        for period in 0..30 {
            for server in [&one, &two] {
                server.hears(&app);
                server.period().await;
            }
            shelf.clock.advance(PERIOD);
            if period < 4 {
                assert_eq!(shelf.left().await.len(), 4, "who removes it may go on");
            }
        }
        let ensured = one.collector.ensure(&app, TOKEN, LEASE).await;
        assert!(ensured.expect("its name is free"));
        assert_eq!(shelf.left().await, [keys::lease(&app)]);
        shelf
            .remote
            .store
            .delete(&keys::lease(&app))
            .await
            .expect("deleted");
    }
}

#[tokio::test]
async fn who_is_ousted_ends_nothing_of_the_one_whose_record_it_is() {
    let shelf = Shelf::new();
    let (app, owner, server) = (named("app-1"), shelf.server(), shelf.server());
    owner.hears(&app);
    owner.period().await;
    assert_eq!(
        server.records.ask(&app, TOKEN).await.expect("asked"),
        Claim::Yours
    );
    server.collector.dead(&app, None, [9; 32]);
    // Before that was looked at in the store too.
    let bound = server.records.bind(&app, TOKEN, LEASE).await;
    assert_eq!(bound.expect("bound"), Claim::Yours);
    server.collector.burials.bury_all().await;
    assert_eq!(shelf.left().await, [keys::lease(&app)]);
}

#[tokio::test]
async fn records_and_markers_that_others_remove_or_spoil_are_put_back_and_nobody_is_buried() {
    let shelf = Shelf::new();
    let (app, owner, watcher) = (named("app-1"), shelf.server(), shelf.server());
    owner.hears(&app);
    owner.period().await;
    shelf.fill(&app).await;
    watcher.period().await;
    let (store, key) = (&shelf.remote.store, keys::lease(&app));
    let born = owner.records.last_born(&app, TOKEN);
    for spoilt in ["", "{\"version\":3", "\0\0\0\0", "not Forebay's"] {
        store.put(&key, spoilt.into(), false).await.expect("spoilt");
        store
            .put(&keys::marker(), spoilt.into(), false)
            .await
            .expect("spoilt");
        // Whatever is there, it is not a record of somebody who is silent.
        for _ in 0..60 {
            shelf.clock.advance(PERIOD);
            watcher.period().await;
        }
        assert_eq!(shelf.left().await.len(), 4, "{spoilt:?}");
        // Who does not know whose it was does not write it.
        let new = shelf.server();
        new.hears(&app);
        new.collector.keep_now().await;
        assert_eq!(store.get(&key).await.expect("there"), spoilt);
        let refused = new.collector.ensure(&app, TOKEN, LEASE).await;
        assert!(
            matches!(&refused, Err(RemoteError::Corrupt { reason, .. }) if reason.contains("remove it")),
            "{refused:?}"
        );
        owner.hears(&app);
        owner.period().await;
        let record = watcher.records.read(&app).await.expect("read");
        let record = record.expect("there");
        assert!(record.opens(TOKEN) && record.buried_by().is_none());
        assert_eq!(Some(record.born()), born, "it is the same app");
        shuffle_remote::marker::Marker::read(store)
            .await
            .expect("a marker")
            .expect("there");
    }
    // A later version's is not damaged.
    let newer = "{\"version\":4}";
    store.put(&key, newer.into(), false).await.expect("put");
    owner.period().await;
    assert_eq!(store.get(&key).await.expect("there"), newer);
    // Removed: for as long as the app's own lease would have made others wait.
    store.delete(&key).await.expect("deleted");
    store.delete(&keys::marker()).await.expect("deleted");
    for _ in 0..8 {
        shelf.clock.advance(PERIOD);
        watcher.period().await;
    }
    assert_eq!(shelf.left().await.len(), 3);
    owner.hears(&app);
    owner.period().await;
    let record = watcher.records.read(&app).await.expect("read");
    assert!(record.expect("there").opens(TOKEN));
    for _ in 0..60 {
        shelf.clock.advance(PERIOD);
        owner.hears(&app);
        owner.period().await;
        watcher.period().await;
    }
    assert_eq!(shelf.left().await.len(), 4);
}

#[tokio::test]
async fn objects_whose_record_was_removed_outlive_the_lease_that_it_gave() {
    let shelf = Shelf::new();
    let (app, owner, watcher) = (named("app-1"), shelf.server(), shelf.server());
    let long = 20 * LEASE;
    let ensured = owner.collector.ensure(&app, TOKEN, long).await;
    assert!(ensured.expect("a record"));
    shelf.fill(&app).await;
    watcher.period().await;
    let key = keys::lease(&app);
    shelf.remote.store.delete(&key).await.expect("deleted");
    let mut waited = Duration::ZERO;
    while !shelf.left().await.is_empty() {
        shelf.clock.advance(PERIOD);
        watcher.period().await;
        waited += PERIOD;
        assert!(waited < 3 * long, "{:?}", shelf.left().await);
    }
    assert!(waited > 2 * long, "gone after {waited:?}");
}

#[tokio::test]
async fn an_upload_that_ends_after_its_shuffle_or_its_app_is_removed_too() {
    let shelf = Shelf::new();
    let (app, owner) = (named("app-1"), shelf.server());
    owner.hears(&app);
    owner.period().await;
    shelf.fill(&app).await;
    owner.collector.written_too_late(&place(&app), TOKEN);
    owner.collector.burials.bury_all().await;
    assert_eq!(shelf.left().await, [keys::lease(&app)]);
    owner.forgets(&app);
    owner.collector.dead(&app, None, TOKEN);
    owner.collector.burials.bury_all().await;
    shelf.fill(&app).await;
    owner.collector.written_too_late(&place(&app), TOKEN);
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
