use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, AtomicUsize},
};

use shuffle_proto::kind::Kind;

use super::*;
use crate::clock::ManualClock;

mod pools;

/// A ledger's record of its calls.
#[derive(Default)]
struct Memory {
    records: Mutex<HashMap<AppId, AppRecord>>,
    puts: AtomicUsize,
    deletes: AtomicUsize,
    fails: AtomicBool,
}

impl Ledger for Memory {
    fn put(&self, record: &AppRecord) -> Result<(), String> {
        self.puts.fetch_add(1, Ordering::Relaxed);
        if self.fails.load(Ordering::Relaxed) {
            return Err("the disk is gone".into());
        }
        self.records
            .lock()
            .insert(record.app.clone(), record.clone());
        Ok(())
    }

    fn delete(&self, app: &AppId) -> Result<u64, String> {
        self.deletes.fetch_add(1, Ordering::Relaxed);
        if self.fails.load(Ordering::Relaxed) {
            return Err("the disk is gone".into());
        }
        self.records.lock().remove(app);
        Ok(7)
    }
}

struct Stage {
    ledger: Arc<Memory>,
    clock: ManualClock,
    registry: Arc<Registry>,
}

const LIMITS: Limits = Limits {
    apps: 3,
    streams: 2,
    lease: Duration::from_secs(600),
    max_lease: Duration::from_secs(3600),
};

impl Stage {
    fn new() -> Self {
        let ledger = Arc::new(Memory::default());
        Self::on(ledger, ManualClock::new())
    }

    fn on(ledger: Arc<Memory>, clock: ManualClock) -> Self {
        Self::with(ledger, clock, None)
    }

    fn with(ledger: Arc<Memory>, clock: ManualClock, pool: Option<Arc<dyn Pool>>) -> Self {
        let recovered: Vec<_> = ledger.records.lock().values().cloned().collect();
        let metrics = Arc::new(Metrics::default());
        let registry = Registry::new(
            ledger.clone(),
            Arc::new(clock.clone()),
            LIMITS,
            metrics,
            pool,
            recovered,
        );
        Self {
            ledger,
            clock,
            registry: Arc::new(registry),
        }
    }

    async fn pass(&self, seconds: u64) -> usize {
        self.clock.advance(Duration::from_secs(seconds));
        self.registry.sweep().await
    }

    fn knows(&self, name: &str) -> bool {
        self.ledger.records.lock().contains_key(&app(name))
    }
}

fn app(name: &str) -> AppId {
    AppId::try_new(name).expect("a good name")
}

fn caller(name: &str) -> Caller {
    caller_with(name, "secret", None)
}

fn caller_with(name: &str, token: &str, lease: Option<u64>) -> Caller {
    Caller {
        app: app(name),
        token: TokenHash::of(token),
        lease: lease.map(Duration::from_secs),
        write_back: None,
        peer: None,
        by: crate::auth::By::default(),
        task: false,
    }
}

#[tokio::test]
async fn the_first_call_binds_the_token_and_no_other_opens_the_app() {
    let stage = Stage::new();
    stage.registry.write(&caller("a")).await.expect("bound");
    let thief = caller_with("a", "guess", None);
    let denied = Error::Denied(app("a"));
    assert_eq!(
        stage.registry.write(&thief).await.err(),
        Some(Error::Denied(app("a")))
    );
    assert_eq!(
        stage.registry.read(&thief).await.err(),
        Some(Error::Denied(app("a")))
    );
    assert_eq!(
        stage.registry.renew(&thief).await.err(),
        Some(Error::Denied(app("a")))
    );
    assert_eq!(stage.registry.delete(&thief).await.err(), Some(denied));
    assert!(stage.knows("a"));
}

#[tokio::test]
async fn a_token_stays_bound_after_a_restart() {
    let stage = Stage::new();
    stage.registry.write(&caller("a")).await.expect("bound");
    let again = Stage::on(stage.ledger, stage.clock);
    assert_eq!(
        again
            .registry
            .read(&caller_with("a", "guess", None))
            .await
            .err(),
        Some(Error::Denied(app("a")))
    );
    again
        .registry
        .read(&caller("a"))
        .await
        .expect("the right token");
}

#[tokio::test]
async fn an_app_is_written_down_before_its_first_call_goes_on_and_once() {
    let stage = Stage::new();
    stage.ledger.fails.store(true, Ordering::Relaxed);
    assert!(matches!(
        stage.registry.write(&caller("a")).await.err(),
        Some(Error::Ledger(..))
    ));
    stage.ledger.fails.store(false, Ordering::Relaxed);
    for _ in 0..3 {
        stage
            .registry
            .write(&caller("a"))
            .await
            .expect("written down");
    }
    assert_eq!(stage.ledger.puts.load(Ordering::Relaxed), 2);
    stage
        .registry
        .renew(&caller_with("a", "secret", Some(60)))
        .await
        .expect("another lease");
    assert_eq!(
        stage.ledger.records.lock()[&app("a")].lease,
        Duration::from_secs(60)
    );
}

#[tokio::test]
async fn an_app_whose_lease_runs_out_is_deleted_and_one_that_calls_is_kept() {
    let stage = Stage::new();
    let (quiet, busy) = (caller("quiet"), caller("busy"));
    stage.registry.write(&quiet).await.expect("known");
    stage.registry.write(&busy).await.expect("known");
    assert_eq!(stage.pass(500).await, 0);
    stage.registry.read(&busy).await.expect("any call renews");
    assert_eq!(stage.pass(101).await, 1);
    assert!(!stage.knows("quiet") && stage.knows("busy"));
    assert_eq!(
        stage.registry.read(&quiet).await.err(),
        Some(Error::Deleted(app("quiet"), End::Expired))
    );
    assert_eq!(
        stage.registry.write(&quiet).await.err(),
        Some(Error::Gone(app("quiet"), End::Expired))
    );
    assert_eq!(stage.registry.live(), 1);
}

#[tokio::test]
async fn a_long_call_keeps_its_app_alive_and_hears_when_it_is_gone() {
    let stage = Stage::new();
    let held = stage.registry.write(&caller("a")).await.expect("known");
    for _ in 0..5 {
        assert_eq!(stage.pass(400).await, 0);
        stage.registry.alive(&held).expect("renewed by itself");
    }
    assert_eq!(stage.pass(601).await, 1);
    assert_eq!(
        stage.registry.alive(&held),
        Err(Error::Gone(app("a"), End::Expired))
    );
}

#[tokio::test]
async fn a_restart_gives_every_app_its_full_lease() {
    let stage = Stage::new();
    stage
        .registry
        .renew(&caller_with("a", "secret", Some(100)))
        .await
        .expect("known");
    stage.clock.advance(Duration::from_secs(90));
    let again = Stage::on(stage.ledger, stage.clock);
    assert_eq!(again.pass(90).await, 0);
    assert_eq!(again.pass(20).await, 1);
    assert!(!again.knows("a"));
}

#[tokio::test]
async fn leases_are_granted_within_bounds_and_tasks_do_not_change_them() {
    let stage = Stage::new();
    let renew = async |lease| {
        let caller = caller_with("a", "secret", lease);
        stage
            .registry
            .renew(&caller)
            .await
            .map(|renewed| renewed.lease.as_secs())
    };
    assert_eq!(renew(None).await, Ok(600));
    assert_eq!(renew(Some(30)).await, Ok(30));
    assert_eq!(renew(None).await, Ok(30), "none is: as it is");
    assert_eq!(
        renew(Some(u64::MAX / 2000)).await,
        Ok(600),
        "before the first commit"
    );
    let app = stage.registry.write(&caller("a")).await.expect("a task");
    app.committed();
    assert_eq!(renew(None).await, Ok(3600), "what it asked for before");
    assert_eq!(renew(Some(u64::MAX / 2000)).await, Ok(3600));
    assert_eq!(renew(None).await, Ok(3600));
}

#[tokio::test]
async fn a_driver_is_told_when_its_app_was_not_known_here() {
    let stage = Stage::new();
    let anew = async |stage: &Stage, caller: &Caller| {
        let renewed = stage.registry.renew(caller).await.expect("let in");
        renewed.anew
    };
    let a = caller("a");
    assert!(anew(&stage, &a).await, "it has just come");
    assert!(!anew(&stage, &a).await);
    stage.registry.write(&caller("b")).await.expect("a task");
    assert!(!anew(&stage, &caller("b")).await, "its task was here");
    assert_eq!(stage.pass(601).await, 2);
    assert!(anew(&stage, &a).await, "its lease ran out meanwhile");
    stage.registry.delete(&a).await.expect("deleted");
    assert!(anew(&stage, &a).await, "it was deleted meanwhile");
    let again = Stage::on(stage.ledger, stage.clock);
    assert!(!anew(&again, &a).await, "a restart on its disk");
    let empty = Stage::new();
    assert!(anew(&empty, &a).await, "a restart on an empty disk");
}

#[tokio::test]
async fn a_deleted_app_stays_gone_until_its_driver_comes_back() {
    let stage = Stage::new();
    stage.registry.write(&caller("a")).await.expect("known");
    assert_eq!(stage.registry.delete(&caller("a")).await, Ok(Some(7)));
    assert_eq!(
        stage.registry.delete(&caller("a")).await,
        Ok(Some(0)),
        "deleting twice is no error"
    );
    assert_eq!(stage.registry.delete(&caller("never-seen")).await, Ok(None));
    assert_eq!(
        stage.registry.write(&caller("a")).await.err(),
        Some(Error::Gone(app("a"), End::Deleted))
    );
    stage
        .registry
        .renew(&caller_with("a", "new token", None))
        .await
        .expect("its name is free");
    stage
        .registry
        .write(&caller_with("a", "new token", None))
        .await
        .expect("known again");
    assert!(stage.knows("a"));
}

#[tokio::test]
async fn a_deletion_that_fails_is_tried_again_and_nothing_else_comes_between() {
    let stage = Stage::new();
    stage.registry.write(&caller("a")).await.expect("known");
    stage.ledger.fails.store(true, Ordering::Relaxed);
    assert!(matches!(
        stage.registry.delete(&caller("a")).await.err(),
        Some(Error::Ledger(..))
    ));
    assert!(
        stage.registry.renew(&caller("a")).await.is_err(),
        "what it had must go first"
    );
    stage.ledger.fails.store(false, Ordering::Relaxed);
    stage.pass(1).await;
    assert!(!stage.knows("a"));
    let deletes = stage.ledger.deletes.load(Ordering::Relaxed);
    stage.pass(1).await;
    assert_eq!(
        stage.ledger.deletes.load(Ordering::Relaxed),
        deletes,
        "once is enough"
    );
}

#[tokio::test]
async fn the_table_is_bounded_and_those_that_are_gone_make_room() {
    let stage = Stage::new();
    for name in ["a", "b", "c"] {
        stage
            .registry
            .write(&caller(name))
            .await
            .expect("there is room");
    }
    assert_eq!(
        stage.registry.write(&caller("d")).await.err(),
        Some(Error::TooManyApps(app("d"), 3))
    );
    stage.registry.delete(&caller("b")).await.expect("deleted");
    stage
        .registry
        .write(&caller("d"))
        .await
        .expect("there is room again");
}

#[tokio::test]
async fn an_app_that_is_gone_is_forgotten_after_a_lease() {
    let stage = Stage::new();
    stage.registry.write(&caller("a")).await.expect("known");
    stage.registry.delete(&caller("a")).await.expect("deleted");
    stage.pass(599).await;
    assert!(matches!(
        stage.registry.read(&caller("a")).await.err(),
        Some(Error::Deleted(..))
    ));
    stage.pass(2).await;
    assert_eq!(
        stage.registry.read(&caller("a")).await.err(),
        Some(Error::Unknown(app("a")))
    );
}

#[tokio::test]
async fn streams_of_an_app_are_bounded_and_given_back() {
    let stage = Stage::new();
    let held = stage.registry.write(&caller("a")).await.expect("known");
    let first = stage.registry.stream(&held).expect("one");
    let _second = stage.registry.stream(&held).expect("two");
    assert_eq!(
        stage.registry.stream(&held).err(),
        Some(Error::TooManyStreams(app("a"), 2))
    );
    drop(first);
    stage.registry.stream(&held).expect("one is free");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_at_the_same_time_as_a_deletion_leave_the_app_whole_or_gone() {
    for _ in 0..200 {
        let stage = Stage::new();
        stage.registry.renew(&caller("a")).await.expect("known");
        let tasks: Vec<_> = (0..6)
            .map(|i| {
                let registry = stage.registry.clone();
                tokio::spawn(async move {
                    match i % 3 {
                        0 => drop(registry.delete(&caller("a")).await),
                        1 => drop(registry.renew(&caller("a")).await),
                        _ => drop(registry.write(&caller("a")).await),
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("no panic");
        }
        stage.registry.sweep().await;
        let alive = stage.registry.read(&caller("a")).await.is_ok();
        if alive {
            stage.registry.write(&caller("a")).await.expect("alive");
        }
        assert_eq!(
            alive,
            stage.knows("a"),
            "in the table and in the ledger, or in neither"
        );
    }
}

#[tokio::test]
async fn a_caller_that_repeats_itself_does_not_fill_the_log() {
    let stage = Stage::new();
    stage.registry.write(&caller("a")).await.expect("known");
    let logged = |name| {
        (0..1000)
            .filter(|_| stage.registry.may_log(Some(&app(name))))
            .count()
    };
    assert_eq!(
        (logged("a"), logged("stranger"), logged("other")),
        (10, 10, 0)
    );
    stage.clock.advance(Duration::from_secs(11));
    assert_eq!(logged("a"), 10);
}
