//! Content of a round, and repairs of differences between the store and the volume.

use super::*;

const EACH: u64 = 40 * 3000;

#[tokio::test(flavor = "multi_thread")]
async fn a_round_takes_what_is_waited_for_first_and_leaves_the_rest() {
    let scene = Scene::new();
    for map in 0..4 {
        scene.push(map, 10 + u64::from(map)).await;
    }
    let key = (scene.volume.id(), app(), SHUFFLE);
    let turn = Turn {
        most: EACH + 1,
        first: vec![key_of_map(3), key_of_map(1)],
        ..scene.turn(&key, &[])
    };
    let write_back = scene.write_back();
    let done = write_back.try_round(&turn).await.expect("written");
    assert_eq!(done.expect("something").added, 2 * EACH);
    assert_eq!(scene.stored().await, (vec![11, 13], 1));
    assert_eq!(scene.waiting(), (2, 2 * EACH));
    let done = write_back.try_round(&turn).await.expect("written");
    assert_eq!(done.expect("something").added, 2 * EACH);
    assert_eq!(scene.stored().await, (vec![10, 11, 12, 13], 2));
}

fn key_of_map(map: u32) -> Owner {
    let key = key(SHUFFLE.0, map, 10 + u64::from(map));
    (key.map_index, key.attempt)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_waits_has_a_round_whatever_the_bulk_of_others() {
    let scene = Scene::new();
    for shuffle in 1..=4 {
        let key = key(shuffle, 0, 10);
        let shape = even(0..40, 3000);
        write(&scene.bench, &scene.volume, key, &shape, Durability::Disk).await;
    }
    scene.bench.clock.advance(Duration::from_secs(10));
    let write_back = scene.write_back();
    let bulk: Vec<_> = (0..2).map(|_| write_back.pick().expect("due")).collect();
    assert!(write_back.pick().is_none(), "no more of the bulk at once");
    let left = (1..=4).find(|one| bulk.iter().all(|turn| turn.key.2.0 != *one));
    let awaited = key(left.expect("two are left"), 0, 10);
    let (waiting, volume) = (write_back.clone(), scene.volume.clone());
    let commit = tokio::spawn({
        let awaited = awaited.clone();
        async move { waiting.written(&volume, &awaited).await }
    });
    let turn = loop {
        match write_back.pick() {
            Some(turn) => break turn,
            None => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    assert_eq!(turn.key.2, awaited.shuffle);
    assert_eq!(turn.first, [(awaited.map_index, awaited.attempt)]);
    write_back.clone().round(turn).await;
    commit.await.expect("it ends").expect("it is in the store");
    // While the server drains there is nothing else to do.
    write_back.urge();
    assert!(write_back.pick().is_some());
}

/// The volume has lost its record of a generation still in the store: its attempts are not written
/// once more.
#[tokio::test(flavor = "multi_thread")]
async fn a_generation_whose_record_is_lost_is_adopted_and_nothing_is_written_twice() {
    let mut scene = Scene::new();
    for attempt in 10..13 {
        scene.push(attempt as u32 - 10, attempt).await;
        scene.round().await;
    }
    scene.push(3, 13).await;
    let sealed = scene.volume.seal(&app(), SHUFFLE, &[]).expect("something");
    sealed.write_again(&[1, 2]).expect("forgotten");
    assert_eq!(
        scene.waiting(),
        (3, 3 * EACH),
        "as if they had not been written"
    );
    drop(sealed);
    scene.crash();
    scene.remote.forget(&app(), None);
    assert_eq!(scene.waiting(), (3, 3 * EACH));
    assert_eq!(scene.round().await, 2 * EACH, "they are there");
    assert_eq!(scene.waiting(), (1, EACH));
    assert_eq!(scene.round().await, EACH);
    assert_eq!(scene.stored().await, (vec![10, 11, 12, 13], 4));
}

/// Attempts lost by the store are written again while they are here.
#[tokio::test(flavor = "multi_thread")]
async fn what_only_a_broken_manifest_names_is_written_again() {
    let mut scene = Scene::new();
    for attempt in 10..13 {
        scene.push(attempt as u32 - 10, attempt).await;
        scene.round().await;
    }
    let key = keys::manifest(&scene.place(), 3);
    let mut bytes = scene.remote.store.get(&key).await.expect("there").to_vec();
    bytes[40] ^= 1;
    let put = scene.remote.store.put(&key, bytes.into(), false).await;
    put.expect("put");
    scene.crash();
    scene.remote.forget(&app(), None);
    assert_eq!(scene.stored().await, (vec![10, 11], 3));
    scene.push(3, 13).await;
    assert_eq!(scene.round().await, 0, "it is found out");
    assert_eq!(scene.waiting(), (2, 2 * EACH));
    assert_eq!(scene.round().await, 2 * EACH);
    assert_eq!(scene.stored().await, (vec![10, 11, 12, 13], 4));
    // Nothing at all is there any more.
    for generation in 1..=4 {
        let key = keys::manifest(&scene.place(), generation);
        scene.remote.store.delete(&key).await.expect("removed");
    }
    scene.crash();
    scene.remote.forget(&app(), None);
    scene.push(4, 14).await;
    scene.round().await;
    assert_eq!(scene.round().await, 5 * EACH);
    assert_eq!(scene.stored().await.0, [10, 11, 12, 13, 14]);
}

/// A thousand commits one by one, and then the server is gone: a few manifests count.
#[tokio::test(flavor = "multi_thread")]
async fn commits_one_by_one_leave_few_objects_at_any_moment() {
    let scene = Scene::new();
    let write_back = scene.write_back();
    for attempt in 0..200 {
        scene.push(attempt, u64::from(attempt)).await;
        let awaited = key(SHUFFLE.0, attempt, u64::from(attempt));
        let (waiting, volume) = (write_back.clone(), scene.volume.clone());
        let commit = tokio::spawn(async move { waiting.written(&volume, &awaited).await });
        let turn = loop {
            match write_back.pick() {
                Some(turn) => break turn,
                None => tokio::task::yield_now().await,
            }
        };
        write_back.clone().round(turn).await;
        commit.await.expect("it ends").expect("it is in the store");
        let chain = scene.remote.chain(&scene.place()).await.expect("there");
        assert!(chain.parts.len() <= 9, "{} count", chain.parts.len());
    }
    scene.remote.forget(&app(), None);
    assert_eq!(scene.stored().await.0, (0..200).collect::<Vec<u64>>());
}
