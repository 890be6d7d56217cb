//! Records of apps in the store: identity, and repair after damage.

use super::{shelf::*, *};
use crate::registry::{Claim, Pool};

#[tokio::test]
async fn a_record_binds_one_token_and_is_free_again_when_it_is_gone() {
    let shelf = Shelf::new();
    let (app, one, two) = (named("app-1"), shelf.server(), shelf.server());
    let bind = async |server: &One, token| {
        let pool: &dyn Pool = &*server.records;
        pool.bind(&app, token, LEASE).await
    };
    let ask = async |token| Pool::ask(&*two.records, &app, token).await;
    assert_eq!(ask(TOKEN).await, Ok(Claim::Nobody));
    assert_eq!(bind(&one, TOKEN).await, Ok(Claim::Yours));
    assert_eq!(bind(&two, TOKEN).await, Ok(Claim::Yours));
    assert_eq!(bind(&two, [9; 32]).await, Ok(Claim::Another));
    assert_eq!(
        (ask(TOKEN).await, ask([9; 32]).await),
        (Ok(Claim::Yours), Ok(Claim::Another))
    );
    // Deleted: neither a late task nor the driver brings the app back; the driver begins anew once
    // everything is gone.
    let record = one.records.read(&app).await.expect("read").expect("there");
    let stone = record.buried(one.records.me(), false);
    stone
        .write(&shelf.remote.store, &app)
        .await
        .expect("written");
    assert_eq!(bind(&two, TOKEN).await, Ok(Claim::Deleted));
    assert_eq!(ask(TOKEN).await, Ok(Claim::Deleted));
    let other = bind(&two, [9; 32]).await;
    assert!(other.is_err(), "not before all is gone: {other:?}");
    one.collector.dead(&app, None, TOKEN);
    one.collector.burials.bury_all().await;
    assert_eq!(bind(&two, [9; 32]).await, Ok(Claim::Yours));
    // Many at once: one wins.
    let many = named("app-2");
    let binds = (0..16u8).map(|n| one.records.bind(&many, [n; 32], LEASE));
    let bound = futures_util::future::join_all(binds).await;
    let yours = bound
        .iter()
        .filter(|claim| matches!(claim, Ok(Claim::Yours)));
    assert_eq!(yours.count(), 1, "{bound:?}");
}

#[tokio::test]
async fn who_is_ousted_ends_nothing_of_the_one_whose_record_it_is() {
    let shelf = Shelf::new();
    let (app, owner, server) = (named("app-1"), shelf.server(), shelf.server());
    owner.hears(&app);
    owner.period().await;
    assert_eq!(
        server.records.ask(&app, TOKEN).await.expect("asked"),
        Claim::Yours
    );
    server.collector.dead(&app, None, [9; 32]);
    // Before the store was asked about the deletion, too.
    let bound = server.records.bind(&app, TOKEN, LEASE).await;
    assert_eq!(bound.expect("bound"), Claim::Yours);
    server.collector.burials.bury_all().await;
    assert_eq!(shelf.left().await, [keys::lease(&app)]);
}

#[tokio::test]
async fn records_and_markers_that_others_remove_or_spoil_are_put_back_and_nobody_is_buried() {
    let shelf = Shelf::new();
    let (app, owner, watcher) = (named("app-1"), shelf.server(), shelf.server());
    owner.hears(&app);
    owner.period().await;
    shelf.fill(&app).await;
    watcher.period().await;
    let (store, key) = (&shelf.remote.store, keys::lease(&app));
    let born = owner.records.last_born(&app, TOKEN);
    for spoilt in ["", "{\"version\":3", "\0\0\0\0", "not Forebay's"] {
        store.put(&key, spoilt.into(), false).await.expect("spoilt");
        store
            .put(&keys::marker(), spoilt.into(), false)
            .await
            .expect("spoilt");
        // Whatever the content, it is no record of a silent app.
        for _ in 0..60 {
            shelf.clock.advance(PERIOD);
            watcher.period().await;
        }
        assert_eq!(shelf.left().await.len(), 4, "{spoilt:?}");
        // A server without knowledge of the owner does not write the record.
        let new = shelf.server();
        new.hears(&app);
        new.collector.keep_now().await;
        assert_eq!(store.get(&key).await.expect("there"), spoilt);
        let refused = new.collector.ensure(&app, TOKEN, LEASE).await;
        assert!(
            matches!(&refused, Err(RemoteError::Corrupt { reason, .. }) if reason.contains("remove it")),
            "{refused:?}"
        );
        owner.hears(&app);
        owner.period().await;
        let record = watcher.records.read(&app).await.expect("read");
        let record = record.expect("there");
        assert!(record.opens(TOKEN) && record.buried_by().is_none());
        assert_eq!(Some(record.born()), born, "it is the same app");
        shuffle_remote::marker::Marker::read(store)
            .await
            .expect("a marker")
            .expect("there");
    }
    // A later version's is not damaged.
    let newer = "{\"version\":4}";
    store.put(&key, newer.into(), false).await.expect("put");
    owner.period().await;
    assert_eq!(store.get(&key).await.expect("there"), newer);
    // Removed: for as long as the app's own lease would have made others wait.
    store.delete(&key).await.expect("deleted");
    store.delete(&keys::marker()).await.expect("deleted");
    for _ in 0..8 {
        shelf.clock.advance(PERIOD);
        watcher.period().await;
    }
    assert_eq!(shelf.left().await.len(), 3);
    owner.hears(&app);
    owner.period().await;
    let record = watcher.records.read(&app).await.expect("read");
    assert!(record.expect("there").opens(TOKEN));
    for _ in 0..60 {
        shelf.clock.advance(PERIOD);
        owner.hears(&app);
        owner.period().await;
        watcher.period().await;
    }
    assert_eq!(shelf.left().await.len(), 4);
}

#[tokio::test]
async fn one_server_in_many_renews_and_a_lease_that_grows_is_written_at_once() {
    let shelf = Shelf::new();
    let (app, servers) = (
        named("app-1"),
        [shelf.server(), shelf.server(), shelf.server()],
    );
    let renewals = async || {
        let record = servers[0].records.read(&app).await.expect("read");
        record.expect("there").renewals()
    };
    for server in &servers {
        server.hears(&app);
        server.collector.keep_now().await;
    }
    let before = renewals().await;
    for _ in 0..10 {
        shelf.clock.advance(PERIOD);
        for server in &servers {
            server.hears(&app);
            server.collector.keep_now().await;
        }
    }
    let made = renewals().await - before;
    assert!((5..=10).contains(&made), "{made} in ten periods");
}
