//! Several servers and one app: tokens of the pool, a full table, a standstill.

use std::net::Ipv4Addr;

use futures_util::{FutureExt, future::BoxFuture};

use super::*;

/// The records of a store.
#[derive(Default)]
struct Store {
    tokens: Mutex<HashMap<AppId, ([u8; 32], bool)>>,
    down: AtomicBool,
    /// Noted deletions.
    deleting: Mutex<Vec<(AppId, bool)>>,
    /// Deletions unfinished by an earlier process.
    half: Mutex<Vec<AppId>>,
    /// Apps whose data on the volumes are of the next life by now.
    next: Mutex<Vec<AppId>>,
}

impl Store {
    fn claim(&self, app: &AppId, token: [u8; 32], bind: bool) -> Result<Claim, String> {
        if self.down.load(Ordering::Relaxed) {
            return Err("it is down".into());
        }
        let mut tokens = self.tokens.lock();
        Ok(match (tokens.get(app).copied(), bind) {
            (None, false) => Claim::Nobody,
            (None, true) => {
                tokens.insert(app.clone(), (token, false));
                Claim::Yours
            }
            (Some((bound, _)), _) if bound != token => Claim::Another,
            (Some((_, true)), _) => Claim::Deleted,
            (Some((_, false)), _) => Claim::Yours,
        })
    }

    /// Whether the earlier life's objects are gone.
    fn gone(&self, app: &AppId) {
        self.tokens.lock().remove(app);
    }

    fn delete(&self, app: &AppId) {
        if let Some((_, deleted)) = self.tokens.lock().get_mut(app) {
            *deleted = true;
        }
    }
}

impl Pool for Store {
    fn ask<'a>(&'a self, app: &'a AppId, token: [u8; 32]) -> BoxFuture<'a, Result<Claim, String>> {
        std::future::ready(self.claim(app, token, false)).boxed()
    }

    fn bind<'a>(
        &'a self,
        app: &'a AppId,
        token: [u8; 32],
        _: Duration,
    ) -> BoxFuture<'a, Result<Claim, String>> {
        std::future::ready(self.claim(app, token, true)).boxed()
    }

    fn ends(&self, app: &AppId, token: Option<[u8; 32]>) {
        let mut tokens = self.tokens.lock();
        if let Some(bound) = tokens.get_mut(app)
            && token.is_none_or(|token| token == bound.0)
        {
            bound.1 = true;
        }
    }

    fn deleting(&self, app: &AppId, gone: bool) {
        self.deleting.lock().push((app.clone(), gone));
    }

    fn was_deleted(&self, app: &AppId, _: [u8; 32]) -> bool {
        self.half.lock().contains(app)
    }

    fn is_the_same(&self, app: &AppId) -> bool {
        !self.next.lock().contains(app)
    }
}

fn server(store: &Arc<Store>) -> Stage {
    let (ledger, clock) = (Arc::default(), ManualClock::new());
    Stage::with(ledger, clock, Some(store.clone() as Arc<dyn Pool>))
}

/// Result of each call of a caller at a server: renewal, push, fetch, deletion, as kinds.
async fn calls(stage: &Stage, caller: &Caller) -> [Option<Kind>; 4] {
    let registry = &stage.registry;
    let kind = |error: Error| error.kind();
    let read = registry.read(caller).await.err().map(kind);
    let write = registry.write(caller).await.err().map(kind);
    let renew = registry.renew(caller).await.err().map(kind);
    let delete = match registry.delete(caller).await {
        Ok(Some(_)) => None,
        Ok(None) => registry.ask_pool(caller).await.err().map(kind),
        Err(error) => Some(kind(error)),
    };
    [read, write, renew, delete]
}

#[tokio::test]
async fn a_token_is_the_pools_whatever_a_server_has_seen() {
    let store = Arc::new(Store::default());
    let (owner, thief) = (caller("a"), caller_with("a", "guess", None));
    let first = server(&store);
    first.registry.renew(&owner).await.expect("bound");
    first
        .registry
        .write(&owner)
        .await
        .expect("a task")
        .committed();
    let denied = [Some(Kind::Denied); 4];
    // A server without knowledge; one that knows the app; one where the lease ran out; one
    // restarted on its disk; one restarted on an empty disk.
    let expired = server(&store);
    expired.registry.renew(&owner).await.expect("let in");
    expired.pass(601).await;
    let forgotten = server(&store);
    forgotten.registry.renew(&owner).await.expect("let in");
    forgotten.pass(601).await;
    forgotten.pass(601).await;
    let pool = Some(store.clone() as Arc<dyn Pool>);
    let again = server(&store);
    again.registry.renew(&owner).await.expect("let in");
    let again = Stage::with(again.ledger, again.clock, pool);
    for (name, stage) in [
        ("the first", &first),
        ("one that knows nothing", &server(&store)),
        ("one where its lease ran out", &expired),
        ("one that has forgotten it", &forgotten),
        ("one that was restarted", &again),
    ] {
        assert_eq!(calls(stage, &thief).await, denied, "{name}");
    }
    // The owner is let in anywhere, even for a first call.
    for entrance in 0..3 {
        let stage = server(&store);
        match entrance {
            0 => drop(stage.registry.read(&owner).await.expect("a fetch")),
            1 => drop(stage.registry.write(&owner).await.expect("a push")),
            _ => assert_eq!(stage.registry.delete(&owner).await, Ok(None)),
        }
        assert_eq!(
            stage.registry.ask_pool(&owner).await,
            Ok(Some(Claim::Yours))
        );
    }
    // An app unknown to all is nobody's to read, and anybody's to register.
    let unknown = caller("never-seen");
    let refused = first.registry.read(&unknown).await.err();
    assert_eq!(refused, Some(Error::Unknown(app("never-seen"))));
    assert!(!store.tokens.lock().contains_key(&app("never-seen")));
}

#[tokio::test]
async fn who_comes_second_is_refused_at_once_and_by_name() {
    let store = Arc::new(Store::default());
    let stranger = caller_with("a", "guess", None);
    server(&store)
        .registry
        .renew(&stranger)
        .await
        .expect("first");
    let refused = server(&store).registry.renew(&caller("a")).await;
    assert_eq!(refused.err(), Some(Error::Denied(app("a"))));
}

#[tokio::test]
async fn staging_goes_on_while_the_store_is_down_and_the_record_decides_after_it() {
    let store = Arc::new(Store::default());
    let (one, two) = (server(&store), server(&store));
    let (owner, other) = (caller("a"), caller_with("a", "other", None));
    store.down.store(true, Ordering::Relaxed);
    for (stage, caller) in [(&one, &owner), (&two, &other)] {
        stage.registry.renew(caller).await.expect("let in");
        stage.registry.write(caller).await.expect("a push");
        stage
            .registry
            .read(caller)
            .await
            .expect("a fetch of what is here");
        let confirmed = stage.registry.confirm(&app("a")).await;
        assert_eq!(
            confirmed.map_err(|error| error.kind()),
            Err(Kind::Unavailable)
        );
    }
    let unknown = server(&store).registry.read(&owner).await.err();
    assert_eq!(unknown.map(|error| error.kind()), Some(Kind::Unavailable));
    // The store is back: the first token to be confirmed has the app.
    store.down.store(false, Ordering::Relaxed);
    one.registry.confirm(&app("a")).await.expect("made");
    assert_eq!(
        two.registry.confirm(&app("a")).await,
        Err(Error::Taken(app("a")))
    );
    assert_eq!(two.registry.standing(&app("a")), Standing::Unknown);
    let taken = [
        Some(Kind::Denied),
        Some(Kind::Denied),
        Some(Kind::Denied),
        None,
    ];
    assert_eq!(
        calls(&two, &other).await,
        taken,
        "it may give up what it has"
    );
    // The owner is let in where the other was bound, and has nothing there.
    two.clock.advance(Duration::from_secs(3));
    let renewed = two.registry.renew(&owner).await.expect("let in");
    assert!(renewed.anew);
    assert_eq!(
        two.registry.read(&other).await.err(),
        Some(Error::Denied(app("a")))
    );
}

#[tokio::test]
async fn a_deleted_app_comes_back_by_its_driver_alone_also_elsewhere() {
    let store = Arc::new(Store::default());
    let owner = caller("a");
    server(&store).registry.renew(&owner).await.expect("bound");
    store.delete(&app("a"));
    let elsewhere = server(&store);
    let late = elsewhere.registry.write(&owner).await.err();
    assert_eq!(late, Some(Error::Gone(app("a"), End::Deleted)));
    let read = elsewhere.registry.read(&owner).await.err();
    assert_eq!(read, Some(Error::Unknown(app("a"))));
    elsewhere.registry.renew(&owner).await.expect("its driver");
    elsewhere.registry.write(&owner).await.expect("a task");
    // Data of the earlier life are none of the returned app's.
    let confirmed = elsewhere.registry.confirm(&app("a")).await;
    assert_eq!(confirmed, Err(Error::Before(app("a"))));
    store.gone(&app("a"));
    assert_eq!(elsewhere.registry.confirm(&app("a")).await, Ok(()));
}

#[tokio::test]
async fn nothing_is_read_from_a_store_that_does_not_say_whose_the_app_is_by_now() {
    let store = Arc::new(Store::default());
    let stage = server(&store);
    let id = app("a");
    stage.registry.renew(&caller("a")).await.expect("bound");
    assert_eq!(stage.registry.confirm(&id).await, Ok(()));
    // The app may have been deleted elsewhere meanwhile, and the objects be of the life before.
    stage.clock.advance(Duration::from_secs(3));
    store.down.store(true, Ordering::Relaxed);
    let confirmed = stage.registry.confirm(&id).await;
    let kind = confirmed.err().map(|error| error.kind());
    assert_eq!(kind, Some(Kind::Unavailable));
    store.down.store(false, Ordering::Relaxed);
    assert_eq!(stage.registry.confirm(&id).await, Ok(()));
    stage.clock.advance(Duration::from_secs(3));
    store.delete(&id);
    let confirmed = stage.registry.confirm(&id).await;
    assert_eq!(confirmed, Err(Error::Before(id)));
}

#[tokio::test]
async fn a_deletion_counts_from_its_first_moment_and_also_after_the_lease() {
    let store = Arc::new(Store::default());
    let stage = server(&store);
    for (name, expired) in [("a", false), ("b", true)] {
        let owner = caller(name);
        stage.registry.renew(&owner).await.expect("bound");
        if expired {
            stage.pass(601).await;
        }
        // The deletion is not waited for, whether its answer comes at once or not.
        let _asked = stage.registry.delete(&owner).now_or_never();
        let renewed = stage.registry.renew(&owner).await.expect("the next one");
        assert!(renewed.anew, "{name}");
        let confirmed = stage.registry.confirm(&app(name)).await;
        assert_eq!(confirmed, Err(Error::Before(app(name))));
        store.gone(&app(name));
        assert_eq!(stage.registry.confirm(&app(name)).await, Ok(()));
    }
}

#[tokio::test]
async fn a_deletion_that_stopped_half_way_goes_on_after_a_restart() {
    let store = Arc::new(Store::default());
    let first = server(&store);
    for name in ["a", "b"] {
        first.registry.write(&caller(name)).await.expect("bound");
    }
    first.registry.delete(&caller("b")).await.expect("deleted");
    let of_b = [(app("b"), false), (app("b"), true)];
    assert_eq!(*store.deleting.lock(), of_b);
    store.half.lock().push(app("a"));
    let pool = Some(store.clone() as Arc<dyn Pool>);
    let again = Stage::with(first.ledger, first.clock, pool);
    assert_eq!(again.registry.standing(&app("a")), Standing::Deleted);
    let late = again.registry.write(&caller("a")).await.err();
    assert_eq!(late, Some(Error::Gone(app("a"), End::Deleted)));
    again.registry.clean().await;
    assert!(!again.knows("a"));
    let of_a = [(app("a"), false), (app("a"), true)];
    assert_eq!(store.deleting.lock()[2..], of_a);
}

#[tokio::test]
async fn who_was_deleted_while_no_server_was_here_is_not_taken_for_the_next_one() {
    let store = Arc::new(Store::default());
    let pool = || Some(store.clone() as Arc<dyn Pool>);
    for (name, next, task) in [("a", false, false), ("b", true, false), ("c", false, true)] {
        let owner = caller(name);
        let first = server(&store);
        first.registry.write(&owner).await.expect("bound");
        store.delete(&app(name));
        if next {
            // The data here are of the next life.
            store.next.lock().push(app(name));
        }
        let again = Stage::with(first.ledger, first.clock, pool());
        if task {
            let late = again.registry.write(&owner).await.err();
            assert_eq!(late, Some(Error::Gone(app(name), End::Deleted)));
        } else {
            let renewed = again.registry.renew(&owner).await.expect("let in");
            assert_eq!(renewed.anew, !next, "{name}");
        }
        let deletes = again.ledger.deletes.load(Ordering::Relaxed);
        assert_eq!(deletes, usize::from(!next), "{name}");
        // Asked once: data written afterwards are of the asking life.
        if !task {
            let known = again.registry.renew(&owner).await.expect("known");
            assert!(!known.anew, "{name}");
        }
    }
}

#[tokio::test]
async fn thousands_who_only_register_keep_nobody_out() {
    let limits = Limits { apps: 64, ..LIMITS };
    let stage = Stage::new();
    let registry = Registry::new(
        stage.ledger.clone(),
        Arc::new(stage.clock.clone()),
        limits,
        Arc::new(Metrics::default()),
        None,
        [],
    );
    let from = |name: &str, last: u8| Caller {
        peer: Some(Ipv4Addr::new(10, 0, 0, last).into()),
        by: crate::auth::By::default(),
        ..caller_with(name, "secret", Some(3600))
    };
    let early = from("early", 1);
    registry.renew(&early).await.expect("let in");
    let busy = registry.write(&from("busy", 1)).await.expect("let in");
    busy.committed();
    for i in 0..500 {
        stage.clock.advance(Duration::from_millis(1));
        let renewed = registry.renew(&from(&format!("fake-{i}"), 66)).await;
        let lease = renewed.expect("let in").lease;
        assert_eq!(lease, Duration::from_secs(600), "not for a day");
    }
    // Neither apps with data nor apps from elsewhere had to make room; and a new app is let in.
    assert!(!registry.renew(&early).await.expect("known").anew);
    registry.alive(&busy).expect("known");
    registry.renew(&from("late", 66)).await.expect("let in");
    assert_eq!(registry.live(), 64);
    registry.clean().await;
    assert_eq!(
        stage.ledger.records.lock().len(),
        64,
        "what the volumes know"
    );
    // An app that made room loses nothing but its place.
    assert!(
        registry
            .renew(&from("fake-0", 66))
            .await
            .expect("let in")
            .anew
    );
    // A table full of apps with data is full.
    for i in 0..64 {
        if let Ok(app) = registry.write(&from(&format!("real-{i}"), 2)).await {
            app.committed();
        }
    }
    let refused = registry.renew(&from("more", 3)).await.err();
    assert_eq!(refused.map(|error| error.kind()), Some(Kind::Busy));
}

#[tokio::test]
async fn a_server_that_stood_still_does_not_take_that_for_the_apps_silence() {
    let stage = Stage::new();
    let (short, long) = (caller_with("short", "secret", Some(10)), caller("long"));
    for caller in [&short, &long] {
        stage.registry.renew(caller).await.expect("known");
    }
    let pass = |slept: u64, late: u64| {
        stage.clock.advance(Duration::from_secs(slept + late));
        let late = Duration::from_secs(late);
        stage.registry.look(stage.registry.now(), late)
    };
    assert_eq!(pass(5, 0), 0);
    // For a day, again and again, and nobody could call meanwhile.
    for _ in 0..3 {
        assert_eq!(pass(1, 86_400), 0);
    }
    stage
        .registry
        .read(&long)
        .await
        .expect("its data are there");
    // The clock goes on: the short lease had 5 s left, then 4, 3, 2, and half a lease at least.
    assert_eq!(pass(1, 0), 0);
    assert_eq!(pass(3, 0), 0);
    assert_eq!(pass(1, 0), 1, "nobody called");
    // An ended app stays ended.
    assert_eq!(pass(1, 86_400), 0);
    let gone = stage.registry.write(&short).await.err();
    assert_eq!(gone, Some(Error::Gone(app("short"), End::Expired)));
    // Again and again a bit late: an app without calls ends all the same.
    let brief = caller_with("brief", "secret", Some(100));
    stage.registry.renew(&brief).await.expect("known");
    let mut passes = 0;
    while pass(1, 1) == 0 {
        passes += 1;
        assert!(passes < 150, "it never ends");
    }
    assert!(
        passes >= 98,
        "ended after {passes} s in which it could be heard"
    );
}

#[tokio::test]
async fn deletions_that_take_long_are_no_standstill_and_hold_nothing_up() {
    let stage = Stage::new();
    stage.registry.renew(&caller("a")).await.expect("known");
    stage.clock.advance(Duration::from_secs(601));
    assert_eq!(stage.registry.look(stage.registry.now(), Duration::ZERO), 1);
    // Ended before the deletion of its data, which runs beside.
    assert!(stage.knows("a"));
    stage.registry.clean().await;
    assert!(!stage.knows("a"));
}
