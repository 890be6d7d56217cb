//! Merges of many small manifests.

use super::*;

impl Scene {
    /// Each attempt in a manifest of its own, from `first` on.
    async fn pushed_alone(&self, attempts: std::ops::Range<u64>) {
        for attempt in attempts {
            self.push(attempt as u32, attempt).await;
            assert_eq!(self.round().await, 40 * 3000);
        }
    }

    /// Long after the last push.
    fn quiet(&self) {
        self.bench.clock.advance(Duration::from_secs(10));
        self.clock.advance(Duration::from_secs(10));
    }

    /// The merge of a quiet moment.
    async fn turns(&self) -> (u64, u64, u64) {
        let write_back = self.write_back();
        while let Some(turn) = write_back.pick() {
            write_back.clone().round(turn).await;
        }
        let metrics = &write_back.metrics;
        (
            metrics.rounds.get(),
            metrics.written.get(),
            metrics.merged.get(),
        )
    }

    /// Counting generations, in the store and for the volume.
    async fn live(&self) -> Vec<u32> {
        self.clock.advance(Duration::from_secs(10));
        let chain = self.remote.chain(&self.place()).await.expect("there");
        chain.parts.iter().map(|part| part.generation).collect()
    }

    fn known(&self) -> Vec<u32> {
        let all = self.volume.unwritten();
        let known = all.iter().flat_map(|shuffle| &shuffle.generations);
        known.map(|(number, _)| *number).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_shuffle_gets_one_manifest_for_many_and_readers_ask_for_it_alone() {
    let mut scene = Scene::new();
    scene.pushed_alone(0..6).await;
    assert_eq!(scene.turns().await, (0, 0, 0), "it is written to");
    scene.quiet();
    assert_eq!(scene.turns().await, (1, 0, 6 * 40 * 3000));
    assert_eq!(scene.turns().await, (0, 0, 0), "nothing more to gain");
    let all: Vec<u64> = (0..6).collect();
    for _ in 0..2 {
        assert_eq!(scene.stored().await, (all.clone(), 7));
        assert_eq!((scene.live().await, scene.known()), (vec![7], vec![7]));
        scene.crash();
    }
    // Later manifests stand beside the merged one, and are merged with it in the next quiet moment.
    scene.pushed_alone(6..10).await;
    assert_eq!(scene.live().await, [7, 8, 9, 10, 11]);
    scene.push(10, 10).await;
    scene.quiet();
    assert_eq!(
        scene.turns().await,
        (1, 40 * 3000, 10 * 40 * 3000),
        "with what is new"
    );
    assert_eq!(scene.stored().await, ((0..11).collect(), 12));
    assert_eq!((scene.live().await, scene.known()), (vec![12], vec![12]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_has_begun_goes_on_over_what_is_replaced_meanwhile() {
    let scene = Scene::new();
    scene.pushed_alone(0..6).await;
    let (place, all) = (scene.place(), 0..u32::MAX);
    let begin = async |cursor| {
        let fetch = scene.remote.fetch(&place, 0..40, all.clone(), None, cursor);
        fetch.await.expect("readable")
    };
    scene.clock.advance(Duration::from_secs(10));
    let mut reading = begin(None).await;
    let mut parts = Vec::new();
    for _ in 0..3 {
        parts.push(reading.next_read().await.expect("readable").expect("more"));
    }
    let seen: Vec<_> = parts.iter().flat_map(|part| part.blocks.clone()).collect();
    let cursor = parts.last().expect("some").cursor;
    scene.quiet();
    assert_eq!(scene.turns().await.0, 1);
    assert_eq!(scene.live().await, [7]);
    // Read here, and at a server without knowledge of the merge.
    let mut rest = Vec::new();
    while let Some(part) = reading.next().await.expect("readable") {
        rest.extend(part.blocks);
    }
    assert_eq!(seen.len() + rest.len(), 6 * 40);
    for knows_nothing in [false, true] {
        if knows_nothing {
            scene.remote.forget(&app(), None);
        }
        let mut resumed = begin(Some(cursor)).await;
        let mut again = Vec::new();
        while let Some(part) = resumed.next().await.expect("readable") {
            again.extend(part.blocks);
        }
        assert_eq!(again, rest);
        let summary = resumed.summary().await.expect("readable");
        assert_eq!(summary, reading.summary().await.expect("readable"));
        assert_eq!(summary.covered.len(), 6);
    }
    // A read begun now gets everything, once.
    let mut fresh = begin(None).await;
    let mut requests = 0;
    while let Some(part) = fresh.next_read().await.expect("readable") {
        assert!(!part.blocks.is_empty());
        requests += 1;
    }
    assert!(requests <= 2, "{requests} requests for 720 KB");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_any_two_steps_of_a_merge_loses_and_doubles_nothing() {
    let (mut steps, mut over) = (0, false);
    while !over {
        let mut scene = Scene::new();
        scene.bench.faults = Some(Arc::new(scene.steps.clone()));
        scene.crash();
        scene.pushed_alone(0..5).await;
        scene.push(5, 5).await;
        scene.steps.set(steps);
        let key = (scene.volume.id(), app(), SHUFFLE);
        let merge = scene.known();
        let write_back = scene.write_back();
        let round = write_back.try_round(&scene.turn(&key, &merge)).await;
        drop(write_back);
        let freed = scene.volume.reclaim(&app(), SHUFFLE);
        over = !scene.steps.struck();
        assert!(!over || round.is_ok() && freed.is_ok());
        scene.crash_for_good();
        let all: Vec<u64> = (0..6).collect();
        assert_eq!(scene.served().await, all, "after {steps} steps");
        scene.round().await;
        assert_eq!(scene.stored().await.0, all, "after {steps} steps");
        // A shuffle read by all is left alone until the volume has forgotten the reads.
        scene.crash();
        scene.quiet();
        scene.turns().await;
        assert_eq!(scene.stored().await.0, all, "after {steps} steps");
        assert_eq!(scene.live().await.len(), 1, "after {steps} steps");
        scene.reclaimed().await;
        assert_eq!(scene.served().await, all, "after {steps} steps");
        assert!(scene.known().is_empty(), "what is not here is not merged");
        steps += 1;
    }
    assert!(steps > 6, "only {steps} steps were broken off at");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_any_more_stays_in_the_manifest_that_has_it() {
    let mut scene = Scene::new();
    scene.bench.options.min_extent = 0; // commits go to runs at once
    scene.crash();
    scene.pushed_alone(0..6).await;
    let segments = scene.bench.files(".seg");
    let length = std::fs::metadata(&segments[0]).expect("a segment").len();
    let mut bytes = std::fs::read(&segments[0]).expect("a segment");
    // In the blocks of one of the runs.
    bytes[length as usize / 2 + 20_000] ^= 1;
    std::fs::write(&segments[0], bytes).expect("a segment");
    scene.crash();
    scene.quiet();
    // The first try finds the damage, and the next leaves it out.
    scene.turns().await;
    scene.quiet();
    scene.turns().await;
    assert_eq!(scene.stored().await, ((0..6).collect(), 7));
    assert_eq!(scene.live().await.len(), 2);
    assert_eq!(scene.waiting(), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_makes_way_for_what_is_in_no_object_yet() {
    let scene = Scene::new();
    scene.pushed_alone(0..6).await;
    scene.quiet();
    let write_back = scene.write_back();
    let turn = write_back.pick().expect("to be merged");
    assert_eq!(turn.merge, [1, 2, 3, 4, 5, 6]);
    scene.push(6, 6).await;
    let key = (scene.volume.id(), app(), SHUFFLE);
    let sealed = scene.volume.seal(&app(), SHUFFLE, &turn.merge);
    assert!(!sealed.expect("with what is new").is_in_the_way());
    let alone = write_back.clone().round(turn).await;
    assert_eq!(alone, ());
    assert_eq!(scene.waiting(), (0, 0), "the new one came along");
    scene.pushed_alone(7..12).await;
    scene.quiet();
    let turn = write_back.pick().expect("to be merged");
    let sealed = scene.volume.seal(&app(), SHUFFLE, &turn.merge);
    let sealed = sealed.expect("something");
    scene.push(12, 12).await;
    assert!(sealed.is_in_the_way());
    let throttle = Throttle::new(None);
    let place = scene.place();
    let result = uploader::upload(&scene.remote, &throttle, &place, sealed).await;
    let given_up = result.map(drop).map_err(|(_, error)| error);
    assert!(matches!(given_up, Err(Error::InTheWay)), "{given_up:?}");
    let done = write_back.try_round(&scene.turn(&key, &[])).await;
    assert_eq!(done.expect("written").expect("something").added, 40 * 3000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_copy_stays_until_its_manifests_are_put_together_or_that_has_failed() {
    let mut scene = Scene::new();
    scene.bench.options.min_extent = 0; // commits go to runs at once
    scene.crash();
    scene.pushed_alone(0..6).await;
    let write_back = scene.write_back();
    let first = |write_back: &WriteBack| {
        let shuffles = scene.volume.unwritten();
        assert!(shuffles[0].reclaimable);
        write_back.is_merged_first(&shuffles[0])
    };
    assert!(first(&write_back));
    scene.steps.set(0);
    scene.quiet();
    let turn = write_back.pick().expect("to be merged");
    write_back.clone().round(turn).await;
    assert_eq!(write_back.metrics.failures.get(), 1);
    assert!(!first(&write_back), "the store is down");
    scene.steps.set(i64::MAX);
    scene.quiet();
    let turn = write_back.pick().expect("to be merged");
    write_back.clone().round(turn).await;
    assert!(!first(&write_back), "nothing to gain");
    assert_eq!(scene.live().await, [7]);
}
