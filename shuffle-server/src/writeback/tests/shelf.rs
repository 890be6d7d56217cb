//! Several servers on one store, with a clock advanced by hand.

use super::*;

pub(super) const LEASE: Duration = Duration::from_secs(4);
pub(super) const PERIOD: Duration = Duration::from_secs(1);
pub(super) const TOKEN: [u8; 32] = [7; 32];

/// Apps in the place of a registry.
#[derive(Default)]
pub(super) struct Known {
    apps: Mutex<HashMap<AppId, Standing>>,
    /// Reported tokens.
    pub(super) told: Mutex<Vec<(AppId, bool)>>,
    /// Apps with a record of a deleted life.
    pub(super) deleted: Mutex<Vec<AppId>>,
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

/// One server, as far as the store is concerned.
pub(super) struct One {
    pub(super) apps: Arc<Known>,
    pub(super) collector: Arc<Collector>,
    pub(super) records: Arc<Records>,
    pub(super) metrics: RemoteMetrics,
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

    /// Work of the server's tasks in a period.
    pub(super) async fn period(&self) {
        self.collector.keep_now().await;
        self.collector.watch(PERIOD).await.expect("watched");
        self.collector.burials.bury_all().await;
    }
}

/// A store, with ways to fill and list it.
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

pub(super) fn place(app: &AppId) -> Place {
    Place {
        app: app.clone(),
        shuffle: SHUFFLE,
        volume: VolumeId::parse("01020304-0506-0708-090a-0b0c0d0e0f10").expect("valid"),
    }
}

pub(super) fn data(app: &AppId) -> Vec<String> {
    let place = place(app);
    vec![
        keys::object(&place, 1, 0, 0xfeed),
        keys::object(&place, 1, 1, 0xfeed),
        keys::manifest(&place, 1),
    ]
}

pub(super) fn foreign() -> Vec<String> {
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
