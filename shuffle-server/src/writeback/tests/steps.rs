//! Write-back, reclaim and deletion broken off between any two steps, of the store and of the
//! volume's disk, and a store that is down.

use super::*;

impl Scene {
    /// Two attempts in the store and one that waits. Steps of the disk count as well.
    async fn half_written() -> Self {
        let mut scene = Self::new();
        scene.bench.faults = Some(Arc::new(scene.steps.clone()));
        scene.crash();
        scene.push(0, 10).await;
        scene.push(1, 11).await;
        scene.round().await;
        scene.push(2, 12).await;
        scene
    }

    /// Kill -9, and a start after it.
    pub(super) fn crash_for_good(&mut self) {
        self.steps.set(i64::MAX);
        self.crash();
        self.remote.forget(&app(), None);
    }

    /// Objects and manifests of the shuffle.
    async fn objects(&self) -> usize {
        let dir = keys::shuffle(&app(), SHUFFLE);
        let listing = self.remote.store.list(&dir).await.expect("list");
        listing.dirs.len() + listing.objects.len()
    }

    /// Until the disk has nothing of the shuffle. Attempts in a commit log have to become a run
    /// first.
    pub(super) async fn reclaimed(&self) {
        eventually("nothing of it is on the disk", || {
            let _ = self.volume.reclaim(&app(), SHUFFLE);
            self.bench.clock.advance(Duration::from_secs(60));
            self.volume.bytes_used() == 0
        })
        .await;
    }

    /// Attempts served by the volume, or given up to the store.
    pub(super) async fn served(&self) -> Vec<u64> {
        let fetch = self
            .volume
            .fetch(&app(), SHUFFLE, 0..40, 0..u32::MAX, None)
            .expect("known");
        let fetched = drain(fetch).await.expect("readable");
        let covered = fetched.summary.covered.iter().map(|one| one.attempt.0);
        let mut attempts: Vec<u64> = covered.collect();
        assert_eq!(fetched.blocks.len(), 40 * attempts.len());
        let (stored, _) = self.stored().await;
        for lost in &fetched.summary.lost {
            assert!(stored.contains(&lost.attempt.0), "{lost:?}");
            attempts.push(lost.attempt.0);
        }
        attempts.sort_unstable();
        attempts
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_any_two_steps_of_write_back_and_reclaim_loses_and_doubles_nothing() {
    let (mut steps, mut over) = (0, false);
    while !over {
        let mut scene = Scene::half_written().await;
        scene.steps.set(steps);
        let key = (scene.volume.id(), app(), SHUFFLE);
        let round = scene.write_back().try_round(&scene.turn(&key, &[])).await;
        let freed = scene.volume.reclaim(&app(), SHUFFLE);
        over = !scene.steps.struck();
        if over {
            assert!(round.is_ok() && freed.is_ok());
        }
        scene.crash_for_good();
        assert_eq!(scene.served().await, [10, 11, 12], "after {steps} steps");
        scene.round().await;
        let (stored, generations) = scene.stored().await;
        assert_eq!(stored, [10, 11, 12], "after {steps} steps");
        assert_eq!(generations, 2, "after {steps} steps");
        scene.reclaimed().await;
        assert_eq!(scene.served().await, [10, 11, 12], "after {steps} steps");
        steps += 1;
    }
    assert!(steps > 6, "only {steps} steps were broken off at");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_any_two_steps_of_a_deletion_leaves_nothing_in_the_end() {
    let (mut steps, mut over) = (0, false);
    while !over {
        let mut scene = Scene::half_written().await;
        scene.steps.set(steps);
        let write_back = scene.write_back();
        let deleted = scene.volume.delete_shuffle(&app(), SHUFFLE).is_ok();
        let freed = write_back.free(&app(), Some(SHUFFLE)).await.is_ok();
        drop(write_back);
        over = !scene.steps.struck();
        assert!(!over || deleted && freed);
        scene.crash_for_good();
        if deleted {
            let gone = scene
                .volume
                .fetch(&app(), SHUFFLE, 0..40, 0..u32::MAX, None);
            assert!(gone.is_err(), "served after its deletion, {steps} steps");
        }
        if freed {
            assert_eq!(scene.objects().await, 0, "after {steps} steps");
        }
        // The driver asks again, or the lease runs out.
        scene
            .volume
            .delete_shuffle(&app(), SHUFFLE)
            .expect("deleted");
        let free = scene.write_back();
        free.free(&app(), Some(SHUFFLE)).await.expect("freed");
        assert_eq!(scene.objects().await, 0, "after {steps} steps");
        scene.reclaimed().await;
        steps += 1;
    }
    assert!(steps > 4, "only {steps} steps were broken off at");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_down_for_five_minutes_costs_a_few_tries_and_a_backlog() {
    let scene = Scene::new();
    let write_back = scene.write_back();
    let metrics = write_back.metrics.clone();
    let mut rounds = 0;
    let mut pass = async |seconds: u64| {
        for _ in 0..seconds {
            scene.clock.advance(Duration::from_secs(1));
            scene.bench.clock.advance(Duration::from_secs(1));
            while let Some(turn) = write_back.pick() {
                write_back.clone().round(turn).await;
                rounds += 1;
            }
        }
        std::mem::take(&mut rounds)
    };
    scene.push(0, 10).await;
    scene.steps.set(0);
    let tries = pass(300).await;
    assert!((9..15).contains(&tries), "{tries} rounds in five minutes");
    assert_eq!(metrics.failures.get(), tries);
    assert_eq!(metrics.backlog.get(), 40 * 3000);
    assert!(metrics.oldest.get() >= 299, "{}", metrics.oldest.get());
    scene.steps.set(i64::MAX);
    scene.push(1, 11).await;
    pass(60).await;
    assert_eq!(scene.waiting(), (0, 0));
    pass(1).await;
    assert_eq!((metrics.backlog.get(), metrics.oldest.get()), (0, 0));
    assert_eq!(scene.stored().await.0, [10, 11]);
    assert!(write_back.failed.lock().is_empty());
}
