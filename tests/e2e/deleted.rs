//! Deleted data are gone at once, for ever, and from the disk; users still at work are told so.

use shuffle_tests::{
    App, Attempt, Kind, Oracle, STEP, Server, Setup, Shape, eventually,
    peer::{assert_refused, fetch_first, fetch_range},
    random_bytes,
};
use std::time::Duration;

const SHAPE: Shape = Shape {
    maps: 4,
    partitions: 10,
    rounds: 1,
    block: 5000,
};

/// Celeborn 2460: a reader of a released shuffle got zero rows.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_shuffle_is_lost_and_stays_so() {
    let mut server = Server::start().await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    for shuffle in 0..3 {
        for map in 0..3 {
            let attempt =
                Attempt::generate(&app, shuffle, SHAPE, map, u64::from(10 * shuffle + map));
            oracle.push(&server.peer().await, &attempt).await;
        }
    }
    let peer = server.peer().await;
    let running = peer
        .send(&Attempt::generate(&app, 1, SHAPE, 3, 77))
        .await
        .unwrap();
    let freed = peer.delete_shuffle(&app, 1).await.unwrap();
    assert!(freed >= oracle.bytes(&app, 1), "{freed} bytes freed");
    assert_eq!(
        peer.delete_shuffle(&app, 1).await.unwrap(),
        0,
        "what is gone is freed once"
    );
    // Who was pushing is told to stop.
    assert_refused(
        &running
            .commit(Attempt::generate(&app, 1, SHAPE, 3, 77).totals())
            .await
            .unwrap_err(),
        Kind::Fenced,
        &[],
    );
    oracle.delete_shuffle(&app, 1);
    for round in 0..2 {
        let peer = server.peer().await;
        assert_refused(
            &peer
                .fetch(fetch_first(&app, 1, server.volumes()))
                .await
                .unwrap_err(),
            Kind::Lost,
            &["shuffle", "1"],
        );
        let late = peer
            .open(Attempt::generate(&app, 1, SHAPE, 3, 78 + round).open())
            .await;
        match late {
            Err(status) => assert_refused(&status, Kind::Fenced, &["shuffle", "1"]),
            Ok(_) => panic!("a deleted shuffle takes an attempt, round {round}"),
        }
        let usage = peer.usage(&app, Some(1)).await;
        match usage {
            Ok(usage) => assert_eq!(
                (
                    usage.attempts,
                    usage.levels.iter().map(|l| l.bytes).sum::<u64>()
                ),
                (0, 0)
            ),
            Err(status) => assert_refused(&status, Kind::Lost, &[]),
        }
        for shuffle in [0, 2] {
            oracle.check(&peer, &app, shuffle).await;
        }
        server.kill();
        server.restart().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_again_or_what_never_was_is_no_error() {
    let server = Server::start().await;
    let peer = server.peer().await;
    let app = App::new("app-1");
    assert_eq!(peer.delete_shuffle(&app, 5).await.unwrap(), 0);
    assert_eq!(peer.delete_app(&App::new("never-seen")).await.unwrap(), 0);
    peer.push(&Attempt::generate(&app, 0, SHAPE, 0, 1))
        .await
        .unwrap();
    assert!(peer.delete_app(&app).await.unwrap() > 0);
    assert_eq!(peer.delete_app(&app).await.unwrap(), 0);
    assert_refused(
        &peer
            .fetch(fetch_first(&app, 0, server.volumes()))
            .await
            .unwrap_err(),
        Kind::Lost,
        &[],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_app_frees_the_disk_and_may_come_again() {
    let mut server = Server::start().await;
    let peer = server.peer().await;
    let (app, other) = (App::new("app-1"), App::new("app-2"));
    let mut oracle = Oracle::default();
    oracle
        .push(&peer, &Attempt::generate(&other, 0, SHAPE, 0, 1))
        .await;
    for shuffle in 0..3 {
        for map in 0..4 {
            let shape = Shape {
                block: 200_000,
                ..SHAPE
            };
            peer.push(&Attempt::generate(
                &app,
                shuffle,
                shape,
                map,
                u64::from(4 * shuffle + map),
            ))
            .await
            .unwrap();
        }
    }
    peer.delete_app(&app).await.unwrap();
    eventually(STEP, || async {
        let bytes = server.data_bytes();
        if bytes < 1 << 20 {
            Ok(())
        } else {
            Err(format!(
                "{bytes} bytes are left on disk: {:?}",
                server.data_files()
            ))
        }
    })
    .await;
    assert_refused(
        &peer
            .fetch(fetch_first(&app, 0, server.volumes()))
            .await
            .unwrap_err(),
        Kind::Lost,
        &[],
    );
    oracle.check(&peer, &other, 0).await;
    // A late task does not bring it back.
    let late = peer
        .open(Attempt::generate(&app, 0, SHAPE, 0, 99).open())
        .await;
    assert_refused(&late.err().unwrap(), Kind::Fenced, &["app-1"]);
    // Its driver does, also with another token: the old one's end was its end.
    let again = App {
        token: "new".into(),
        ..app.clone()
    };
    peer.renew(&again).await.unwrap();
    oracle
        .push(&peer, &Attempt::generate(&again, 0, SHAPE, 0, 1))
        .await;
    server.kill();
    server.restart().await;
    let peer = server.peer().await;
    oracle.check(&peer, &again, 0).await;
    oracle.check(&peer, &other, 0).await;
    peer.delete_app(&again).await.unwrap();
    peer.delete_app(&other).await.unwrap();
    eventually(STEP, || async {
        let files = server.data_files();
        if files.is_empty() {
            Ok(())
        } else {
            Err(format!("left: {files:?}"))
        }
    })
    .await;
}

/// Riffle: a purge raced with a late flush and left files for ever.
#[tokio::test(flavor = "multi_thread")]
async fn deletes_that_race_with_pushes_leave_nothing() {
    let mut server = Server::start().await;
    let peer = server.peer().await;
    for round in 0..10 {
        let app = App::new(&format!("app-{round}"));
        let shape = Shape {
            maps: 16,
            block: 60_000,
            ..SHAPE
        };
        let mut pushes = tokio::task::JoinSet::new();
        for map in 0..16 {
            let (peer, attempt) = (
                peer.clone(),
                Attempt::generate(&app, 0, shape, map, u64::from(map)),
            );
            pushes.spawn(async move {
                let mut push = peer.send(&attempt).await?;
                push.acked(1).await?;
                push.commit(attempt.totals()).await
            });
        }
        tokio::time::sleep(Duration::from_millis(round * 7)).await;
        peer.delete_shuffle(&app, 0).await.unwrap();
        while let Some(done) = pushes.join_next().await {
            if let Err(status) = done.unwrap() {
                assert_refused(&status, Kind::Fenced, &[]);
            }
        }
        // The deletion was answered: whatever was pushed before, during or after it, is not there.
        assert_refused(
            &peer
                .fetch(fetch_first(&app, 0, server.volumes()))
                .await
                .unwrap_err(),
            Kind::Lost,
            &[],
        );
    }
    // Nor does it take up space without a name, nor is it still counted.
    eventually(STEP, || async {
        let open = server.deleted_but_open();
        let used = peer.describe().await.volumes[0].bytes_used;
        if open.is_empty() && used == 0 {
            Ok(())
        } else {
            Err(format!("{used} bytes are used, still open: {open:?}"))
        }
    })
    .await;
    for round in 0..2 {
        eventually(STEP, || async {
            let files = server.data_files();
            if files.is_empty() {
                Ok(())
            } else {
                Err(format!("left: {files:?}"))
            }
        })
        .await;
        if round == 0 {
            server.kill();
            server.restart().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_runs_while_its_shuffle_is_deleted_is_whole_or_fails() {
    let server = Server::start().await;
    let peer = server.peer().await;
    let app = App::new("app-1");
    let shape = Shape {
        block: 400_000,
        ..SHAPE
    };
    for shuffle in 0..6 {
        let mut oracle = Oracle::default();
        for map in 0..4 {
            oracle
                .push(
                    &peer,
                    &Attempt::generate(&app, shuffle, shape, map, u64::from(100 * shuffle + map)),
                )
                .await;
        }
        let request = fetch_range(&app, shuffle, server.volumes(), 0..10, 0..u32::MAX);
        let reader = tokio::spawn({
            let peer = peer.clone();
            async move { peer.fetch(request).await }
        });
        tokio::time::sleep(Duration::from_millis(u64::from(shuffle))).await;
        peer.delete_shuffle(&app, shuffle).await.unwrap();
        match reader.await.unwrap() {
            Ok(fetched) => oracle.compare(&fetched, &app, shuffle, 0..10, 0..u32::MAX),
            Err(status) => assert!(
                matches!(Kind::of(&status), Kind::Lost | Kind::Fenced),
                "{status:?}"
            ),
        }
    }
}

/// A disk is away while its app is deleted and the next app of the name writes outputs with the
/// same numbers and sizes; then the disk is back.
async fn a_disk_that_comes_back(token_of_next: &str) {
    let scratch = tempfile::tempdir().unwrap();
    let dirs = [scratch.path().join("stays"), scratch.path().join("away")];
    let with = |dirs: &[std::path::PathBuf]| {
        let with = |setup: Setup, dir| setup.dir(dir);
        dirs.iter().fold(Setup::new(), with)
    };
    let wide = Shape { maps: 40, ..SHAPE };
    let first = App::new("app-1");
    let mut next = App::new("app-1");
    next.token = token_of_next.into();
    let kept = App::new("app-2");

    // All that readers compare is the same, but for the bytes.
    let outputs = |app: &App, life: u64| {
        let output = |map: u32| {
            let attempt = Attempt::empty(app, 0, wide, map, u64::from(map));
            attempt.with_block(0, random_bytes(life << 32 | u64::from(map), 5_000))
        };
        (0..wide.maps).map(output).collect::<Vec<_>>()
    };

    let mut server = Server::with(with(&dirs)).await;
    let (peer, mut of_first, mut of_kept) =
        (server.peer().await, Oracle::default(), Oracle::default());
    for attempt in outputs(&first, 1) {
        of_first.push(&peer, &attempt).await;
    }
    for attempt in outputs(&kept, 3) {
        of_kept.push(&peer, &attempt).await;
    }
    assert_eq!(of_first.volumes(&first, 0).len(), 2, "both disks have some");
    server.stop().await;

    let mut server = Server::with(with(&dirs[..1])).await;
    let peer = server.peer().await;
    peer.delete_app(&first).await.unwrap();
    peer.renew(&next).await.unwrap();
    let mut of_next = Oracle::default();
    let (early, late) = (&outputs(&next, 2)[..20], &outputs(&next, 2)[20..]);
    for attempt in early {
        of_next.push(&peer, attempt).await;
    }
    server.stop().await;

    // The one that was away is asked first.
    let back = dirs.into_iter().rev().collect::<Vec<_>>();
    let mut server = Server::with(with(&back)).await;
    let peer = server.peer().await;
    of_next.check(&peer, &next, 0).await;
    for attempt in late {
        of_next.push(&peer, attempt).await;
    }
    of_next.check(&peer, &next, 0).await;
    of_kept.check(&peer, &kept, 0).await;
    if next.token != first.token {
        let stranger = peer.renew(&first).await.unwrap_err();
        assert_refused(&stranger, Kind::Denied, &["app-1"]);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_comes_back_with_an_earlier_app_of_the_name_gives_nobody_its_rows() {
    a_disk_that_comes_back("of-the-next").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_does_one_with_an_earlier_life_of_the_same_app() {
    let token = App::new("app-1").token;
    a_disk_that_comes_back(&token).await;
}
