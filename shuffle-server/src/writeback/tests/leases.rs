//! Leases in the store, and removals after their end: several servers on one store, with a clock
//! advanced by hand.

use super::{shelf::*, *};
use crate::registry::Claim;

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
    // The shuffle goes, by its driver's word.
    server.collector.dead(&app, Some(SHUFFLE), TOKEN);
    server.collector.burials.bury_all().await;
    let mut all = foreign();
    all.extend(within.clone());
    all.push(keys::lease(&app));
    all.sort();
    assert_eq!(shelf.left().await, all);
    // The whole app goes, because nobody renews its lease.
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
    // And again for a week, at a server without that history.
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
    // The owner knows the app, and the app is silent: the owner does not remove it.
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
    // The stranger had seen a change at the last of its own looks.
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
    // The watcher, and with it the clock, stand still for a day; the owner renews at once
    // afterwards.
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
    // The burial is announced for a while; the owner is back within it.
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
    // The driver's deletion at the other server leaves the burial to the server at work.
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
    // The next life, and the other server's late deletion.
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
    // Objects of another volume for the next life are nobody's to remove.
    let left = [keys::manifest(&others, 1), keys::lease(&app)];
    assert_eq!(shelf.left().await, left);
}

#[tokio::test]
async fn a_deletion_that_stopped_half_way_locks_nobody_out_though_all_servers_hear_of_the_app() {
    let shelf = Shelf::new();
    let (app, one, two) = (named("app-1"), shelf.server(), shelf.server());
    for theirs in [TOKEN, [9; 32]] {
        // Tombstone of a process that is no more.
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
    // If the writing server dies first, another server that has seen the record removes the
    // objects.
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
