//! A lifecycle rule, a person or another tool removes, cuts short or overwrites what lies in the
//! store of apps that live.

use super::*;
use std::collections::BTreeSet;

/// Maps of a shuffle given whole, and maps told as lost, of all committed ones.
async fn served(server: &Server, oracle: &Oracle, app: &App) -> (BTreeSet<u32>, BTreeSet<u32>) {
    let request = fetch_range(app, 0, oracle.volumes(app, 0), 0..10, 0..u32::MAX);
    let fetched = server.peer().await.fetch(request).await.unwrap();
    let lost = &fetched.summary.lost;
    let named = |reason: &str| reason.contains(".obj") || reason.contains(".manifest");
    assert!(lost.iter().all(|lost| named(&lost.reason)), "{lost:?}");
    let lost: BTreeSet<u32> = lost.iter().map(|lost| lost.map_index).collect();
    let whole = fetched.summary.map_index.iter().copied();
    let whole: BTreeSet<u32> = whole.collect();
    for map in &whole {
        let maps = *map..*map + 1;
        let peer = server.peer().await;
        oracle.check_range(&peer, app, 0, 0..10, maps).await;
    }
    (whole, lost)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_removed_or_cut_short_costs_its_maps_and_no_others() {
    let bucket = Bucket::new();
    let mut one = Server::with(bucket.setup("eager")).await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    for map in 0..3 {
        oracle.push_maps(&one, &app, 0, SHAPE, map..map + 1).await;
        one.peer().await.written_back(&app, 0).await;
    }
    one.destroy();
    let objects = bucket.with_ending(".obj");
    assert_eq!(objects.len(), 3, "{objects:?}");
    let mut all = BTreeSet::new();
    for object in objects {
        let bytes = fs::read(&object).unwrap();
        let footer = bytes.len() - 100;
        for cut in [None, Some(0), Some(64), Some(footer), Some(bytes.len() - 1)] {
            match cut {
                None => fs::remove_file(&object).unwrap(),
                Some(length) => fs::write(&object, &bytes[..length]).unwrap(),
            }
            // A new one each time: footers are remembered.
            let two = Server::with(bucket.setup("off")).await;
            let (whole, lost) = served(&two, &oracle, &app).await;
            assert_eq!((whole.len(), lost.len()), (2, 1), "{cut:?}");
            all.extend(lost);
            fs::write(&object, &bytes).unwrap();
        }
        // Where its index was read before it was cut.
        let two = Server::with(bucket.setup("off")).await;
        oracle.check(&two.peer().await, &app, 0).await;
        fs::write(&object, &bytes[..200]).unwrap();
        assert_eq!(served(&two, &oracle, &app).await.1.len(), 1);
        fs::write(&object, &bytes).unwrap();
    }
    assert_eq!(all, BTreeSet::from([0, 1, 2]));
    // A manifest: what only it names.
    for manifest in bucket.with_ending(".manifest") {
        let bytes = fs::read(&manifest).unwrap();
        for cut in [None, Some(0), Some(bytes.len() / 2)] {
            match cut {
                None => fs::remove_file(&manifest).unwrap(),
                Some(length) => fs::write(&manifest, &bytes[..length]).unwrap(),
            }
            let two = Server::with(bucket.setup("off")).await;
            let request = fetch_range(&app, 0, oracle.volumes(&app, 0), 0..10, 0..u32::MAX);
            let fetched = two.peer().await.fetch(request).await.unwrap();
            let whole = fetched.summary.attempt.len();
            assert!((2..=3).contains(&whole), "{cut:?} of {manifest:?}: {whole}");
            fs::write(&manifest, &bytes).unwrap();
        }
    }
    let two = Server::with(bucket.setup("off")).await;
    oracle.check(&two.peer().await, &app, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_and_the_marker_are_put_back_and_the_apps_live_on() {
    let bucket = Bucket::new();
    let setup = || bucket.setup("eager").flag("--lease", "8s");
    let mut one = Server::with(setup()).await;
    let two = Server::with(setup()).await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    oracle.push_maps(&one, &app, 0, SHAPE, 0..2).await;
    one.peer().await.written_back(&app, 0).await;
    // An app's untouched record tells a new server that the directory is Forebay's.
    let (steady, other) = (App::new("app-2"), two.peer().await);
    other.renew(&steady).await.unwrap();
    let root = bucket.path().join("forebay-v1");
    let (lease, marker) = (root.join("app-1/lease"), root.join(".forebay-marker"));
    let data = bucket.with_ending(".obj");
    for round in 0..6 {
        match round % 3 {
            0 => [&lease, &marker].map(|path| fs::remove_file(path).unwrap()),
            1 => [&lease, &marker].map(|path| fs::write(path, "somebody else's").unwrap()),
            _ => [&lease, &marker].map(|path| fs::write(path, "").unwrap()),
        };
        if round >= 3 {
            // No other server hears of the app meanwhile, and the returning one has only its disk.
            one.kill();
            one.restart().await;
        }
        let peer = one.peer().await;
        eventually(SOON, || async {
            peer.renew(&app).await.unwrap();
            other.renew(&steady).await.unwrap();
            let there = |path| fs::read_to_string(path).unwrap_or_default();
            match there(&lease).contains("token-sha256") && there(&marker).contains("pool") {
                true => Ok(()),
                false => Err(format!("round {round}: {:?}", there(&lease))),
            }
        })
        .await;
        oracle
            .push_maps(&one, &app, 0, SHAPE, 2 + round..3 + round)
            .await;
        one.peer().await.written_back(&app, 0).await;
    }
    assert!(data.iter().all(|path| path.exists()));
    // It is its record all the same, anywhere.
    let stranger = App {
        token: "guessed".into(),
        ..App::new("app-1")
    };
    let volumes = oracle.volumes(&app, 0);
    let peer = two.peer().await;
    let refused = peer.fetch(fetch_first(&stranger, 0, volumes));
    assert_refused(&refused.await.unwrap_err(), Kind::Denied, &[]);
    one.destroy();
    oracle.check(&two.peer().await, &app, 0).await;
}
