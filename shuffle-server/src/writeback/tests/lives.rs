//! A server's memory of an app's lives after a crash: several processes, one after the other, on
//! one data directory.

use super::{shelf::*, *};
use crate::registry::{Claim, Pool};

/// The next process on this data directory.
fn process(shelf: &Shelf, volume: &Volume) -> One {
    let one = shelf.server();
    one.records.remember(vec![volume.clone()]);
    one
}

#[tokio::test]
async fn a_deletion_that_died_before_its_tombstone_goes_on_and_the_next_life_waits_for_it() {
    let (shelf, bench) = (Shelf::new(), Bench::new());
    let (app, volume) = (named("app-1"), bench.open());
    // Steps before the crash: none, the mark alone, half of the deletion, all of it on this server.
    for step in 0..4 {
        let first = process(&shelf, &volume);
        let bound = first.records.bind(&app, TOKEN, LEASE).await;
        assert_eq!(bound.expect("bound"), Claim::Yours);
        shelf.fill(&app).await;
        let pool: &dyn Pool = &*first.records;
        if step > 0 {
            pool.ends(&app, Some(TOKEN));
        }
        if step > 1 {
            pool.deleting(&app, false);
        }
        if step > 2 {
            pool.deleting(&app, true);
        }
        drop(first);

        let second = process(&shelf, &volume);
        let deleted = step > 1;
        assert_eq!(second.records.was_deleted(&app, TOKEN), step == 2);
        assert!(!second.records.was_deleted(&app, [9; 32]));
        let claim = second.records.bind(&app, TOKEN, LEASE).await;
        let expected = if deleted {
            Claim::Deleted
        } else {
            Claim::Yours
        };
        assert_eq!(claim.expect("asked"), expected, "{step}");
        assert_eq!(second.records.is_the_same(&app), !deleted, "{step}");
        second.hears(&app);
        if !deleted {
            second.collector.dead(&app, None, TOKEN);
        }
        // Nobody repeats the deletion.
        second.collector.resume();
        second.collector.burials.bury_all().await;
        assert_eq!(shelf.left().await, [] as [String; 0], "{step}");
        second.period().await;
        let ensured = second.collector.ensure(&app, TOKEN, LEASE).await;
        assert!(ensured.expect("its name is free"));
        shelf.fill(&app).await;
        drop(second);

        // A server that recalls the next life buries nothing.
        let third = process(&shelf, &volume);
        third.hears(&app);
        third.collector.resume();
        third.period().await;
        assert_eq!(shelf.left().await.len(), 4, "{step}");
        third.collector.dead(&app, None, TOKEN);
        third.collector.burials.bury_all().await;
        assert_eq!(shelf.left().await, [] as [String; 0], "{step}");
    }
}

#[tokio::test]
async fn a_tombstone_that_others_spoil_is_written_anew_by_who_deleted_the_app() {
    let shelf = Shelf::new();
    let (app, owner, other) = (named("app-1"), shelf.server(), shelf.server());
    owner.hears(&app);
    owner.period().await;
    shelf.fill(&app).await;
    other.hears(&app);
    other.period().await;
    owner.collector.dead(&app, None, TOKEN);
    let (store, key) = (&shelf.remote.store, keys::lease(&app));
    let spoilt = store.put(&key, "somebody else's".into(), false);
    spoilt.await.expect("put");
    // A server that has not heard of the deletion writes the record anew too, as a live one.
    other.period().await;
    owner.collector.burials.bury_all().await;
    assert_eq!(shelf.left().await, [] as [String; 0]);
    // Of a later format is nobody's to write.
    owner.period().await;
    shelf.fill(&app).await;
    owner.collector.dead(&app, None, TOKEN);
    let newer = store.put(&key, "{\"version\":99}".into(), false);
    newer.await.expect("put");
    owner.collector.burials.bury_all().await;
    assert_eq!(shelf.left().await.len(), 4);
    assert_eq!(store.get(&key).await.expect("there"), "{\"version\":99}");
}

#[tokio::test]
async fn what_a_person_names_is_the_life_that_was_there() {
    let shelf = Shelf::new();
    let (app, owner, other) = (named("app-1"), shelf.server(), shelf.server());
    owner.hears(&app);
    owner.period().await;
    shelf.fill(&app).await;
    // Asked at a server without knowledge of the app, while another removes it.
    let record = owner
        .records
        .read(&app)
        .await
        .expect("read")
        .expect("there");
    let stone = record.buried(owner.records.me(), false);
    let written = stone.write(&shelf.remote.store, &app).await;
    written.expect("written");
    assert_eq!(other.collector.free(&app, None).await.expect("asked"), 0);
    owner.collector.dead(&app, None, TOKEN);
    owner.collector.burials.bury_all().await;
    owner.period().await;
    shelf.fill(&app).await;
    other.collector.resume();
    other.collector.burials.bury_all().await;
    assert_eq!(shelf.left().await.len(), 4, "the next one's");
    assert!(other.collector.free(&app, None).await.expect("asked") > 0);
    assert_eq!(shelf.left().await, [] as [String; 0]);
}

#[tokio::test]
async fn who_waits_for_a_burial_goes_on_with_it_when_its_server_has_stopped() {
    let shelf = Shelf::new();
    let (app, dead, one) = (named("app-1"), shelf.server(), shelf.server());
    dead.hears(&app);
    dead.period().await;
    shelf.fill(&app).await;
    let touch = async || {
        let record = dead.records.read(&app).await.expect("read").expect("there");
        let stone = record.buried(dead.records.me(), false);
        let written = stone.write(&shelf.remote.store, &app).await;
        written.expect("written");
    };
    touch().await;
    // The server has output to write back, and nobody looks at others' objects in the store.
    let waits = async |times: u32| {
        for _ in 0..times {
            shelf.clock.advance(PERIOD / 2);
            let ensured = one.collector.ensure(&app, TOKEN, LEASE).await;
            assert!(!ensured.expect("asked"));
            one.collector.burials.bury_all().await;
        }
    };
    one.hears(&app);
    for _ in 0..4 {
        waits(12).await;
        assert_eq!(shelf.left().await.len(), 4, "it goes on");
        touch().await;
    }
    // A server that stood still has not seen the silence of the others.
    waits(1).await;
    shelf.clock.advance(60 * PERIOD);
    waits(12).await;
    assert_eq!(shelf.left().await.len(), 4, "it may go on");
    shelf.clock.advance(PERIOD);
    let ensured = one.collector.ensure(&app, TOKEN, LEASE).await;
    assert!(!ensured.expect("asked"));
    one.collector.burials.bury_all().await;
    assert_eq!(shelf.left().await, [] as [String; 0]);
    let ensured = one.collector.ensure(&app, TOKEN, LEASE).await;
    assert!(ensured.expect("its name is free"));
}

#[tokio::test]
async fn a_deletion_that_neither_a_disk_nor_the_store_knows_of_is_not_told_as_done() {
    let steps = Steps::endless();
    let clock = ManualClock::new();
    let time: Now = {
        let clock = clock.clone();
        Arc::new(move || clock.now())
    };
    let store = Store::on(Arc::new(Mortal::new(steps.clone())));
    let shelf = Shelf {
        remote: Arc::new(Remote::new(store, time)),
        clock,
    };
    let bench = Bench::new();
    let (app, volume) = (named("app-1"), bench.open());
    let one = process(&shelf, &volume);
    let bound = one.records.bind(&app, TOKEN, LEASE).await;
    assert_eq!(bound.expect("bound"), Claim::Yours);
    // The disk takes no more notes, and the store does not answer.
    let lives = volume.dir().join("lives");
    std::fs::rename(&lives, lives.with_extension("away")).expect("renamed");
    std::fs::write(&lives, "").expect("in its place");
    steps.set(0);
    one.collector.dead(&app, None, TOKEN);
    let pool: &dyn Pool = &*one.records;
    pool.deleting(&app, false);
    pool.deleting(&app, true);
    one.collector.tell(&app).await.expect_err("it is forgotten");
    // Either of them is enough, also when it is asked again.
    std::fs::remove_file(&lives).expect("removed");
    std::fs::rename(lives.with_extension("away"), &lives).expect("back");
    one.collector.tell(&app).await.expect("the disk knows");
    std::fs::remove_dir_all(&lives).expect("removed");
    steps.set(i64::MAX);
    one.collector.tell(&app).await.expect("the store knows");
    let claim = process(&shelf, &volume).records.ask(&app, TOKEN).await;
    assert_eq!(claim.expect("asked"), Claim::Deleted);
}
