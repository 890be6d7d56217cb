//! Random operations with crashes in between, against the oracle. The printed seed replays a
//! failure: `FOREBAY_TEST_SEED=…`.

use shuffle_proto::v1::Durability;
use shuffle_tests::{
    App, Attempt, Kind, Oracle, Peer, Push, Server, Setup, Shape,
    attempt::Random,
    peer::{assert_refused, fetch_first},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

struct World {
    server: Server,
    peer: Peer,
    oracle: Oracle,
    random: Random,
    /// (app, shuffle) that were deleted and whose app lives on.
    deleted: BTreeSet<(usize, u32)>,
    running: Vec<(Push, Attempt, usize)>,
    next_attempt: u64,
    shapes: BTreeMap<(usize, u32), Shape>,
    apps: Vec<App>,
}

const SHUFFLES: u64 = 3;

impl World {
    async fn step(&mut self) -> &'static str {
        let app = self.random.below(self.apps.len() as u64) as usize;
        let shuffle = self.random.below(SHUFFLES) as u32;
        match self.random.below(100) {
            0..40 => self.push(app, shuffle).await,
            40..50 => self.begin(app, shuffle).await,
            50..58 => self.finish().await,
            58..63 => self.again(app, shuffle).await,
            63..85 => self.read(app, shuffle).await,
            85..90 => self.delete_shuffle(app, shuffle).await,
            90..92 => self.delete_app(app).await,
            92..97 => self.crash().await,
            _ => self.stop().await,
        }
    }

    fn attempt(&mut self, app: usize, shuffle: u32) -> Attempt {
        let (a, b, c) = (
            self.random.below(40) as u32,
            self.random.below(3) as u32,
            self.random.below(5) as u32,
        );
        let block = [1, 100, 4000, 60_000, 300_000][c as usize];
        let shape = *self.shapes.entry((app, shuffle)).or_insert(Shape {
            maps: 20,
            partitions: 1 + a,
            rounds: 1,
            block,
        });
        self.next_attempt += 1;
        let shape = Shape {
            rounds: 1 + b,
            block,
            ..shape
        };
        let map = self.random.below(20) as u32;
        let level = if self.random.below(5) == 0 {
            Durability::Fsync
        } else {
            Durability::Disk
        };
        Attempt::generate(&self.apps[app], shuffle, shape, map, self.next_attempt).at(level)
    }

    async fn push(&mut self, app: usize, shuffle: u32) -> &'static str {
        let attempt = self.attempt(app, shuffle);
        match self.peer.push(&attempt).await {
            Ok(receipt) => {
                assert!(
                    !self.deleted.contains(&(app, shuffle)),
                    "a deleted shuffle takes an attempt"
                );
                self.oracle.committed(&attempt, &receipt);
            }
            Err(status) => {
                assert!(self.deleted.contains(&(app, shuffle)), "{status:?}");
                assert_refused(&status, Kind::Fenced, &[]);
            }
        }
        "push"
    }

    async fn begin(&mut self, app: usize, shuffle: u32) -> &'static str {
        if self.running.len() < 6 && !self.deleted.contains(&(app, shuffle)) {
            let attempt = self.attempt(app, shuffle);
            let push = self.peer.send(&attempt).await.unwrap();
            self.running.push((push, attempt, app));
        }
        "begin"
    }

    async fn finish(&mut self) -> &'static str {
        if self.running.is_empty() {
            return "nothing to finish";
        }
        let at = self.random.below(self.running.len() as u64) as usize;
        let (push, attempt, app) = self.running.swap_remove(at);
        match self.random.below(4) {
            0 => push.abort().await,
            1 => drop(push),
            2 => {
                let mut totals = attempt.totals();
                totals
                    .records
                    .iter_mut()
                    .take(1)
                    .for_each(|records| *records += 1);
                if !totals.records.is_empty() {
                    push.commit(totals).await.unwrap_err();
                }
            }
            _ => match push.commit(attempt.totals()).await {
                Ok(receipt) => self.oracle.committed(&attempt, &receipt),
                Err(status) => {
                    let gone = self.deleted.contains(&(app, attempt.shuffle))
                        || Kind::of(&status) == Kind::Fenced;
                    assert!(gone, "{status:?}");
                }
            },
        }
        "finish"
    }

    async fn again(&mut self, app: usize, shuffle: u32) -> &'static str {
        let of_it = |a: &&Attempt| a.app == self.apps[app] && a.shuffle == shuffle;
        let Some(attempt) = self.oracle.attempts().find(of_it).cloned() else {
            return "nothing to repeat";
        };
        let (push, opened) = self.peer.open(attempt.open()).await.unwrap();
        assert!(opened.committed, "a committed attempt is forgotten");
        push.commit(attempt.totals()).await.unwrap();
        "again"
    }

    async fn read(&mut self, app: usize, shuffle: u32) -> &'static str {
        let owner = self.apps[app].clone();
        if self.oracle.volumes(&owner, shuffle).is_empty() {
            if self.deleted.contains(&(app, shuffle)) {
                let refusal = self
                    .peer
                    .fetch(fetch_first(&owner, shuffle, self.server.volumes()))
                    .await
                    .unwrap_err();
                assert_refused(&refusal, Kind::Lost, &[]);
            }
            return "read nothing";
        }
        let partitions = u64::from(self.oracle.partitions(&owner, shuffle));
        let (a, c) = (
            self.random.below(partitions) as u32,
            self.random.below(20) as u32,
        );
        let b = a + 1 + self.random.below(partitions - u64::from(a)) as u32;
        let d = c + 1 + self.random.below(u64::from(20 - c)) as u32;
        match self.random.below(3) {
            0 => self.oracle.check(&self.peer, &owner, shuffle).await,
            1 => {
                self.oracle
                    .check_range(&self.peer, &owner, shuffle, a..b, 0..u32::MAX)
                    .await
            }
            _ => {
                self.oracle
                    .check_range(&self.peer, &owner, shuffle, a..b, c..d)
                    .await
            }
        }
        "read"
    }

    async fn delete_shuffle(&mut self, app: usize, shuffle: u32) -> &'static str {
        let owner = self.apps[app].clone();
        let freed = self.peer.delete_shuffle(&owner, shuffle).await.unwrap();
        assert!(
            freed >= self.oracle.bytes(&owner, shuffle),
            "{freed} bytes freed"
        );
        self.oracle.delete_shuffle(&owner, shuffle);
        self.deleted.insert((app, shuffle));
        "delete shuffle"
    }

    async fn delete_app(&mut self, app: usize) -> &'static str {
        // Ids of attempts are unique in an app, so the next one is another app.
        let owner = self.apps[app].clone();
        self.peer.delete_app(&owner).await.unwrap();
        self.oracle.delete_app(&owner);
        self.deleted.retain(|(a, _)| *a != app);
        self.shapes.retain(|(a, _), _| *a != app);
        self.running.retain(|(_, _, a)| *a != app);
        self.apps[app] = App::new(&format!("app-{app}-{}", self.next_attempt));
        "delete app"
    }

    async fn crash(&mut self) -> &'static str {
        self.server.kill();
        self.come_back().await;
        "crash"
    }

    async fn stop(&mut self) -> &'static str {
        self.running.clear();
        self.server.stop().await;
        self.come_back().await;
        "stop"
    }

    async fn come_back(&mut self) {
        self.running.clear();
        let volumes = self.server.volumes();
        self.server.restart().await;
        assert_eq!(volumes, self.server.volumes());
        self.peer = self.server.peer().await;
        self.check_all().await;
    }

    async fn check_all(&self) {
        for (app, owner) in self.apps.iter().enumerate() {
            for shuffle in 0..SHUFFLES as u32 {
                if !self.oracle.volumes(owner, shuffle).is_empty() {
                    self.oracle.check(&self.peer, owner, shuffle).await;
                } else if self.deleted.contains(&(app, shuffle)) {
                    let refusal = self
                        .peer
                        .fetch(fetch_first(owner, shuffle, self.server.volumes()))
                        .await
                        .unwrap_err();
                    assert_refused(&refusal, Kind::Lost, &[]);
                }
            }
        }
    }
}

async fn run(seed: u64, volumes: usize, memory: &str) {
    println!("replay with FOREBAY_TEST_SEED={seed}");
    let server = Server::with(Setup::new().volumes(volumes).flag("--memory", memory)).await;
    let peer = server.peer().await;
    let mut world = World {
        server,
        peer,
        oracle: Oracle::default(),
        random: Random(seed),
        deleted: BTreeSet::new(),
        running: Vec::new(),
        next_attempt: 0,
        shapes: BTreeMap::new(),
        apps: (0..3).map(|i| App::new(&format!("app-{i}"))).collect(),
    };
    let start = Instant::now();
    let mut trace = Vec::new();
    while start.elapsed() < Duration::from_secs(12) {
        trace.push(world.step().await);
    }
    println!("{} steps", trace.len());
    world.crash().await;
    // In the end everything is given back.
    for app in world.apps.clone() {
        world.peer.delete_app(&app).await.unwrap();
    }
    shuffle_tests::eventually(shuffle_tests::STEP, || async {
        let describe = world.peer.describe().await;
        let used = (describe.memory_used, world.server.data_bytes());
        if used == (0, 0) {
            Ok(())
        } else {
            Err(format!("{used:?} bytes of memory and disk used"))
        }
    })
    .await;
}

fn seed(default: u64) -> u64 {
    std::env::var("FOREBAY_TEST_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

#[tokio::test(flavor = "multi_thread")]
async fn random_operations_and_crashes_agree_with_the_oracle() {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    run(seed(now), 1, "1GiB").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_operations_on_two_disks_with_little_memory_agree_with_the_oracle() {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    run(seed(now ^ 0xa5a5), 2, "16MiB").await;
}
