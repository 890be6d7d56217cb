//! The order of write-back, broken off between any two steps, on a real volume and a store in
//! memory.

mod leases;
mod lives;
mod merges;
mod records;
mod rounds;
mod shelf;
mod steps;

use shuffle_remote::{
    Error as RemoteError, Now, Owner, Place, Store, keys,
    mortal::{Mortal, Steps},
};

use super::{uploader::Error, *};
use crate::{
    clock::ManualClock,
    metrics::Metrics,
    staging::{
        Durability,
        tests::{Bench, app, drain, even, eventually, key, write},
    },
};

const SHUFFLE: ShuffleId = ShuffleId(1);

/// An app with an eternal lease.
struct Always;

impl Apps for Always {
    fn standing(&self, _: &AppId) -> Standing {
        Standing::Live {
            policy: None,
            heard: true,
            token: [7; 32],
            lease: Duration::from_secs(600),
            calls: 1,
        }
    }

    fn live(&self) -> Vec<(AppId, Standing)> {
        vec![(app(), self.standing(&app()))]
    }

    fn told(&self, _: &AppId, _: [u8; 32], opens: bool) {
        assert!(opens);
    }

    fn told_deleted(&self, _: &AppId, _: [u8; 32]) {
        panic!("nobody has deleted it");
    }
}

struct Scene {
    bench: Bench,
    volume: Volume,
    remote: Arc<Remote>,
    clock: ManualClock,
    /// Of the store.
    steps: Steps,
}

impl Scene {
    fn new() -> Self {
        let bench = Bench::new();
        let (clock, steps) = (ManualClock::new(), Steps::endless());
        let store = Store::on(Arc::new(Mortal::new(steps.clone())));
        let time: Now = {
            let clock = clock.clone();
            Arc::new(move || clock.now())
        };
        let remote = Remote::new(store, time);
        Self {
            volume: bench.open(),
            bench,
            remote: Arc::new(remote),
            clock,
            steps,
        }
    }

    async fn push(&self, map: u32, attempt: u64) {
        let key = key(SHUFFLE.0, map, attempt);
        let shape = even(0..40, 3000);
        write(&self.bench, &self.volume, key, &shape, Durability::Disk).await;
    }

    /// Like kill -9, and a start after it.
    fn crash(&mut self) {
        let dir = tempfile::tempdir().expect("temporary directory");
        let other = Volume::open(
            dir.path(),
            self.bench.options.clone(),
            crate::staging::Components::new(self.bench.budget.clone()),
        );
        self.volume = other.expect("a volume to hold the place");
        self.volume = self.bench.open();
    }

    fn place(&self) -> Place {
        Place {
            app: app(),
            shuffle: SHUFFLE,
            volume: self.volume.id(),
        }
    }

    fn write_back(&self) -> Arc<WriteBack> {
        let options = Options {
            policy: Policy::Eager,
            delay: Duration::ZERO,
            bandwidth: None,
            reclaim_at: 80,
            lease: Duration::from_secs(600),
        };
        Arc::new(WriteBack::new(
            self.remote.clone(),
            Arc::new(Records::new(self.remote.clone())),
            vec![self.volume.clone()],
            Arc::new(Always),
            options,
            Arc::new(self.clock.clone()),
            Metrics::default().remote,
        ))
    }

    /// Of a round of everything.
    fn turn(&self, key: &Key, merge: &[u32]) -> Turn {
        Turn {
            volume: self.volume.clone(),
            key: key.clone(),
            merge: merge.to_vec(),
            most: u64::MAX,
            first: vec![],
        }
    }

    /// A whole round; returns its bytes.
    async fn round(&self) -> u64 {
        let key = (self.volume.id(), app(), SHUFFLE);
        let round = self.write_back().try_round(&self.turn(&key, &[])).await;
        let done = round.expect("a round that succeeds");
        done.map_or(0, |done| done.added)
    }

    async fn upload(&self) -> uploader::Uploaded {
        let sealed = self.volume.seal(&app(), SHUFFLE, &[]).expect("something");
        let throttle = Throttle::new(None);
        let uploaded = uploader::upload(&self.remote, &throttle, &self.place(), sealed).await;
        uploaded.map_err(|(_, error)| error).expect("uploaded")
    }

    /// Attempts in the store, each in one counting generation, and all generations.
    async fn stored(&self) -> (Vec<u64>, usize) {
        self.clock.advance(Duration::from_secs(10));
        let chain = match self.remote.chain(&self.place()).await {
            Ok(chain) => chain,
            Err(RemoteError::NotFound { .. }) => return (vec![], 0),
            Err(error) => panic!("{error}"),
        };
        let attempts = chain.parts.iter().flat_map(|part| &part.attempts);
        let mut attempts: Vec<_> = attempts.map(|attempt| attempt.owner.1.0).collect();
        attempts.sort_unstable();
        let place = self.place();
        let fetch = self.remote.fetch(&place, 0..40, 0..u32::MAX, None, None);
        let mut fetch = fetch.await.expect("readable");
        let mut blocks = 0;
        while let Some(part) = fetch.next().await.expect("readable") {
            blocks += part.blocks.len();
        }
        assert_eq!(blocks, 40 * attempts.len(), "blocks in the store");
        let summary = fetch.summary().await.expect("readable");
        let totals = summary.covered.iter().map(|totals| totals.bytes);
        assert_eq!(totals.sum::<u64>(), 40 * 3000 * attempts.len() as u64);
        (attempts, chain.generation as usize)
    }

    fn waiting(&self) -> (u64, u64) {
        let all = self.volume.unwritten();
        let found = all.iter().find(|shuffle| shuffle.shuffle == SHUFFLE);
        found.map_or((0, 0), |shuffle| (shuffle.attempts, shuffle.bytes))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_round_adds_what_was_committed_since_and_no_more() {
    let mut scene = Scene::new();
    scene.push(0, 10).await;
    scene.push(1, 11).await;
    assert_eq!(scene.waiting(), (2, 2 * 40 * 3000));
    assert_eq!(scene.round().await, 2 * 40 * 3000);
    assert_eq!(scene.waiting(), (0, 0));
    assert_eq!(scene.round().await, 0);
    scene.push(1, 12).await;
    assert_eq!(scene.round().await, 40 * 3000);
    assert_eq!(scene.stored().await, (vec![10, 11, 12], 2));
    scene.crash();
    assert_eq!(scene.waiting(), (0, 0), "it knows after a restart");
}

/// Kill -9 comes when the time of a pod is over, however far the end has got.
#[tokio::test(flavor = "multi_thread")]
async fn what_only_memory_has_is_put_on_disk_as_soon_as_the_end_is_asked_for() {
    let mut scene = Scene::new();
    scene.volume.keep();
    for attempt in 10..13 {
        let key = key(SHUFFLE.0, attempt as u32, attempt);
        let (shape, bench) = (even(0..40, 3000), &scene.bench);
        write(bench, &scene.volume, key, &shape, Durability::Memory).await;
        // The record follows the bytes.
        eventually("it is on disk, and known to be", || {
            scene.volume.only_in_memory() == 0 && scene.volume.usage(&app(), None).memory == 0
        })
        .await;
    }
    scene.crash();
    assert_eq!(scene.served().await, [10, 11, 12]);
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_without_a_manifest_do_not_exist_and_are_made_again() {
    let mut scene = Scene::new();
    scene.push(0, 10).await;
    drop(scene.upload().await);
    assert_eq!(scene.stored().await, (vec![], 0));
    scene.crash();
    scene.push(1, 11).await;
    scene.round().await;
    assert_eq!(scene.stored().await, (vec![10, 11], 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_was_not_recorded_is_found_again_and_not_overwritten() {
    let mut scene = Scene::new();
    scene.push(0, 10).await;
    let uploaded = scene.upload().await;
    committer::put_manifest(&scene.remote, &scene.place(), None, &uploaded)
        .await
        .expect("put");
    drop(uploaded);
    scene.crash();
    scene.push(1, 11).await;
    assert_eq!(scene.waiting().0, 2);
    // The first round finds the error, the second goes on after it.
    assert_eq!(scene.round().await, 40 * 3000);
    assert_eq!(scene.stored().await, (vec![10], 1));
    scene.round().await;
    assert_eq!(scene.stored().await, (vec![10, 11], 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_whose_answer_was_lost_is_ours_and_one_of_another_is_not() {
    let scene = Scene::new();
    scene.push(0, 10).await;
    let (first, second) = (scene.upload().await, scene.upload().await);
    let place = scene.place();
    for _ in 0..2 {
        committer::put_manifest(&scene.remote, &place, None, &first)
            .await
            .expect("the same again is no conflict");
    }
    scene.push(1, 11).await;
    let other = scene.upload().await;
    let refused = committer::put_manifest(&scene.remote, &place, None, &other).await;
    assert!(refused.is_err());
    drop(second);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_while_it_is_written_is_not_recorded() {
    let scene = Scene::new();
    scene.push(0, 10).await;
    let uploaded = scene.upload().await;
    scene
        .volume
        .delete_shuffle(&app(), SHUFFLE)
        .expect("delete");
    assert!(!uploaded.sealed.is_live());
    let recorded = committer::commit(&scene.remote, &scene.place(), None, uploaded).await;
    assert!(matches!(recorded, Err(Error::Deleted)), "{recorded:?}");
    assert_eq!(scene.volume.seal(&app(), SHUFFLE, &[]).map(drop), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_in_the_store_and_read_by_nobody_is_reclaimed() {
    let mut scene = Scene::new();
    scene.bench.options.min_extent = 0; // commits go to runs at once
    scene.crash();
    scene.push(0, 10).await;
    assert_eq!(scene.volume.reclaim(&app(), SHUFFLE).expect("asked"), 0);
    scene.round().await;
    let fetch = |volume: &Volume| {
        let fetch = volume.fetch(&app(), SHUFFLE, 0..40, 0..u32::MAX, None);
        fetch.expect("known")
    };
    let reading = fetch(&scene.volume);
    assert_eq!(
        scene.volume.reclaim(&app(), SHUFFLE).expect("asked"),
        0,
        "a reader holds it"
    );
    assert_eq!(drain(reading).await.expect("readable").blocks.len(), 40);
    scene.push(1, 11).await;
    assert_eq!(
        scene.volume.reclaim(&app(), SHUFFLE).expect("asked"),
        0,
        "one attempt is not written back"
    );
    scene.round().await;
    assert!(scene.volume.reclaim(&app(), SHUFFLE).expect("asked") > 0);
    for _ in 0..2 {
        assert_eq!(scene.volume.bytes_used(), 0);
        // Removed on the way, and nobody waits for the removal.
        eventually("no file is left", || scene.bench.files(".seg").is_empty()).await;
        let fetched = drain(fetch(&scene.volume)).await.expect("readable");
        assert_eq!(
            (fetched.blocks.len(), fetched.summary.covered.len()),
            (0, 0)
        );
        assert_eq!(fetched.summary.lost.len(), 2, "never an empty answer");
        // After the acknowledgement the volume still knows the attempt.
        assert!(scene.volume.committed(&key(1, 0, 10)).is_some());
        scene.crash();
    }
    assert_eq!(scene.stored().await, (vec![10, 11], 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_the_store_changed_is_not_named_by_a_manifest() {
    let scene = Scene::new();
    scene.push(0, 10).await;
    let uploaded = scene.upload().await;
    let entry = uploaded.objects[0];
    let object = keys::object(&scene.place(), 1, entry.number, entry.nonce);
    let good = scene.remote.store.get(&object).await.expect("there");
    let mut bad = good.to_vec();
    bad[5000] ^= 1;
    for bytes in [bad, good[..good.len() - 1].to_vec()] {
        scene
            .remote
            .store
            .put(&object, bytes.into(), false)
            .await
            .expect("put");
        let verified = uploader::verify(&scene.remote, &scene.place(), 1, &entry).await;
        assert!(
            matches!(verified, Err(RemoteError::Corrupt { .. })),
            "{verified:?}"
        );
    }
}
