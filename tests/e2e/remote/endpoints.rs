//! Real object stores: the product's demands on one, and a server that is gone for good, on each.
//! Wrong settings name the right ones.

use std::time::Instant;

use shuffle_remote::{Error, Store};
use shuffle_tests::{
    Endpoint, Gateway,
    gateway::{Trouble, Verb},
    stores::{BUCKET, Kind as StoreKind},
};

use super::*;

fn open(endpoint: &Endpoint, prefix: &str) -> Store {
    let env = endpoint.env(endpoint.addr());
    Store::open_with(&endpoint.url(prefix), &env, std::sync::Arc::new(())).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_given_up_waits_for_the_part_that_the_store_is_at() {
    let Some(endpoint) = Endpoint::start(StoreKind::Versity).await else {
        return;
    };
    let gateway = Gateway::to(endpoint.addr()).await;
    let env = endpoint.env(gateway.addr());
    let store = Store::open_with(&endpoint.url("p"), &env, std::sync::Arc::new(())).unwrap();
    let pause = Duration::from_secs(1);
    gateway.trouble(Trouble::Slow(pause), &[Verb::Part], 1);
    let mut upload = store.upload("app/0/v/1-0.obj".into());
    let began = Instant::now();
    upload.write(&random_bytes(1, 9 << 20)).await.unwrap();
    upload.try_abort().await.unwrap();
    assert_eq!(gateway.struck(), 1);
    assert!(began.elapsed() >= pause, "it ended before its part");
    assert_eq!(endpoint.files(), [] as [PathBuf; 0]);
}

/// The verbs of `Store`, with what its callers rely on.
async fn keeps_its_word(kind: StoreKind) {
    let Some(endpoint) = Endpoint::start(kind).await else {
        return;
    };
    let store = open(&endpoint, "some/prefix");
    let absent = |result: Result<_, Error>| matches!(result, Err(Error::NotFound { .. }));
    assert!(absent(store.get("app/lease").await.map(drop)));
    assert!(absent(store.size("app/lease").await.map(drop)));
    store.delete("app/lease").await.unwrap();
    let below = async |dir: &str| store.list_below(dir, usize::MAX).await.unwrap();
    assert_eq!(below("app").await, [] as [String; 0]);
    let all = vec!["app/x".to_owned(), "app/y".to_owned()];
    store.delete_all("app", all).await.unwrap();

    store.put("app/lease", "one".into(), false).await.unwrap();
    store.put("app/lease", "other".into(), false).await.unwrap();
    assert_eq!(store.get("app/lease").await.unwrap(), "other");

    // A writer without a reading of the object neither replaces it, nor brings it back once
    // removed.
    let (_, read) = store.get_version("app/lease").await.unwrap();
    let replaced = store.replace("app/lease", "two".into(), &read);
    replaced.await.unwrap();
    let late = store.replace("app/lease", "three".into(), &read).await;
    assert!(matches!(late, Err(Error::Exists { .. })), "{late:?}");
    let (now, read) = store.get_version("app/lease").await.unwrap();
    assert_eq!(now, "two");
    store.delete("app/lease").await.unwrap();
    let gone = store.replace("app/lease", "four".into(), &read).await;
    assert!(matches!(gone, Err(Error::Exists { .. })), "{gone:?}");
    store.put("app/lease", "other".into(), false).await.unwrap();

    // One of many wins, and nobody changes the object after that.
    let rivals = (0..8).map(|rival: u8| {
        let store = &store;
        async move {
            let bytes = vec![rival; 1000].into();
            match store.put("app/0/v/1.manifest", bytes, true).await {
                Ok(()) => Some(rival),
                Err(Error::Exists { .. }) => None,
                Err(error) => panic!("{error}"),
            }
        }
    });
    let won: Vec<_> = join_all(rivals).await.into_iter().flatten().collect();
    assert_eq!(won.len(), 1, "a conditional put has one winner: {won:?}");
    let manifest = store.get("app/0/v/1.manifest").await.unwrap();
    assert_eq!(manifest, vec![won[0]; 1000]);

    // Two parts and a half, a whole number of parts, and less than one.
    for length in [20 << 20, 16 << 20, 5_000_000usize] {
        let bytes = random_bytes(length as u64, length);
        let mut upload = store.upload("app/0/v/1-0.obj".into());
        for piece in bytes.chunks(700_000) {
            upload.write(piece).await.unwrap();
        }
        upload.finish().await.unwrap();
        let key = "app/0/v/1-0.obj";
        assert_eq!(store.size(key).await.unwrap(), length as u64);
        let (from, to) = (4_000_000, 4_900_001);
        let range = store.get_range(key, from..to).await.unwrap();
        assert!(range == bytes[from as usize..to as usize], "a range");
        let last = store.get_range(key, length as u64 - 1..length as u64).await;
        assert_eq!(last.unwrap(), bytes[length - 1..]);
        assert!(store.get(key).await.unwrap() == bytes, "all of it");
        let beyond = store.get_range(key, from..length as u64 + 1).await;
        let short = |result: &Result<_, Error>| matches!(result, Err(Error::Corrupt { .. }));
        assert!(
            short(&beyond),
            "what is not there is not left out: {beyond:?}"
        );
        // Nor is it a store that fails, which would be asked again and again.
        let beyond = store.get_range(key, length as u64 + 10..length as u64 + 20);
        let beyond = beyond.await;
        assert!(short(&beyond), "{beyond:?}");
    }
    // Nothing is there before the end of an upload, nor after it was given up.
    let mut upload = store.upload("app/0/v/1-1.obj".into());
    upload.write(&random_bytes(1, 9 << 20)).await.unwrap();
    assert!(absent(store.size("app/0/v/1-1.obj").await.map(drop)));
    upload.abort().await;
    assert!(absent(store.size("app/0/v/1-1.obj").await.map(drop)));

    let listing = store.list("app").await.unwrap();
    assert_eq!(
        (listing.dirs, listing.objects),
        (vec!["0".into()], vec!["lease".into()])
    );
    // A neighbour whose name begins the same is another directory.
    store.put("app/00/x", "y".into(), false).await.unwrap();
    let found = below("app/0").await;
    assert_eq!(found.len(), 2, "{found:?}");
    store.delete_all("app/0", found).await.unwrap();
    assert_eq!(store.list("app").await.unwrap().dirs, ["00"]);
    assert_eq!(store.list_below("app", 1).await.unwrap().len(), 1);
    let mut found = below("app").await;
    found.sort();
    assert_eq!(found, ["app/00/x", "app/lease"]);
    // What is not there any more is no error, and keeps nothing else from going.
    found.insert(0, "app/00/gone".into());
    store.delete_all("app", found).await.unwrap();
    // More than one request takes.
    let many: Vec<_> = (0..1100).map(|n| format!("many/{n}")).collect();
    let put = join_all(many.iter().map(|key| store.put(key, "x".into(), true))).await;
    assert!(put.iter().all(Result::is_ok), "{put:?}");
    store.delete_all("many", many).await.unwrap();
    assert_eq!(below("many").await, [] as [String; 0]);
    let listing = store.list("").await.unwrap();
    assert!(listing.dirs.is_empty() && listing.objects.is_empty());
    if kind == StoreKind::Versity {
        assert_eq!(endpoint.files(), [] as [PathBuf; 0], "parts of an upload");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn versitygw_keeps_its_word() {
    keeps_its_word(StoreKind::Versity).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn moto_keeps_its_word() {
    keeps_its_word(StoreKind::Moto).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn azurite_keeps_its_word() {
    keeps_its_word(StoreKind::Azurite).await;
}

/// A server writes back and is gone with its disk; another one serves everything, and a deletion
/// leaves no object.
async fn outlives_its_server(kind: StoreKind) {
    let Some(endpoint) = Endpoint::start(kind).await else {
        return;
    };
    let setup = |policy| {
        endpoint
            .setup(endpoint.addr(), policy)
            .flag("--lease", "4s")
    };
    let mut one = Server::with(setup("eager")).await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    // More than a part of an upload, and two generations.
    let mut large = Attempt::empty(&app, 0, SHAPE, 0, 1000);
    for block in 0..20u32 {
        large = large.with_block(block % 10, random_bytes(block.into(), 600_000));
    }
    oracle.push(&one.peer().await, &large).await;
    one.peer().await.written_back(&app, 0).await;
    oracle.push_maps(&one, &app, 0, SHAPE, 1..4).await;
    one.peer().await.written_back(&app, 0).await;
    assert!(counter(&one, "remote_requests_total{verb=\"part\",result=\"ok\"").await >= 2);
    one.destroy();

    let two = Server::with(setup("eager")).await;
    let peer = two.peer().await;
    oracle.check(&peer, &app, 0).await;
    oracle.check_range(&peer, &app, 0, 2..7, 1..3).await;
    let thief = App {
        token: "guessed".into(),
        ..App::new("app-1")
    };
    let request = fetch_first(&thief, 0, oracle.volumes(&app, 0));
    assert_refused(&peer.fetch(request).await.unwrap_err(), Kind::Denied, &[]);
    peer.renew(&app).await.unwrap();
    peer.delete_app(&app).await.unwrap();
    let store = open(&endpoint, "prefix");
    eventually(SOON, || async {
        let left = store.list("forebay-v1").await.unwrap();
        if left.dirs.is_empty() && left.objects == [".forebay-marker"] {
            Ok(())
        } else {
            Err(format!("left: {left:?}"))
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_versitygw_outlives_its_server() {
    outlives_its_server(StoreKind::Versity).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_moto_outlives_its_server() {
    outlives_its_server(StoreKind::Moto).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_azurite_outlives_its_server() {
    outlives_its_server(StoreKind::Azurite).await;
}

/// The log says it within seconds of the start, pushes and fetches go on, and nothing is called
/// lost that may be in the store.
async fn says_what_to_fix(setup: Setup, words: &[&str]) {
    let server = Server::with(setup).await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    eventually(SOON, || async {
        let log = server.log();
        let said =
            |line: &str| line.contains("WARN") && words.iter().all(|word| line.contains(word));
        if log.lines().any(said) {
            Ok(())
        } else {
            Err(format!("{words:?} not in {log}"))
        }
    })
    .await;
    oracle.push_maps(&server, &app, 0, SHAPE, 0..3).await;
    oracle.check(&server.peer().await, &app, 0).await;
    let failures = || counter(&server, "writeback_failures_total");
    eventually(SOON, || async {
        match failures().await {
            0 => Err("write-back was not tried".into()),
            _ => Ok(()),
        }
    })
    .await;
    let elsewhere = fetch_first(&app, 0, vec![uuid::Uuid::new_v4().as_bytes().to_vec()]);
    let refused = server.peer().await.fetch(elsewhere).await.unwrap_err();
    assert_refused(&refused, Kind::Unavailable, words);
    oracle.check(&server.peer().await, &app, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_settings_say_what_to_set_and_staging_goes_on() {
    let Some(s3) = Endpoint::start(StoreKind::Versity).await else {
        return;
    };
    let addr = s3.addr();
    let good = || s3.setup(addr, "eager");
    let bucket = s3.setup_of(addr, "s3://no-such-bucket/prefix", "eager");
    says_what_to_fix(
        bucket,
        &["there is no such bucket: make it, or correct `remote`"],
    )
    .await;
    let secret = good().env("AWS_SECRET_ACCESS_KEY", "guessed");
    says_what_to_fix(
        secret,
        &["the credentials are refused", "AWS_SECRET_ACCESS_KEY"],
    )
    .await;
    // Port 1 of loopback: nobody listens.
    let endpoint = good().env("AWS_ENDPOINT", "http://127.0.0.1:1");
    says_what_to_fix(endpoint, &["nothing answers there", "AWS_ENDPOINT"]).await;
    // Without credentials the machine's identity is asked for them.
    let none = Setup::new()
        .flag("--remote", format!("s3://{BUCKET}/prefix"))
        .flag("--write-back", "eager")
        .env("AWS_ENDPOINT", format!("http://{addr}"))
        .env("AWS_ALLOW_HTTP", "true")
        .env("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1");
    says_what_to_fix(none, &["no credentials were found", "AWS_ACCESS_KEY_ID"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn azure_says_what_to_set_too() {
    let Some(azure) = Endpoint::start(StoreKind::Azurite).await else {
        return;
    };
    let good = || azure.setup(azure.addr(), "eager");
    let container = azure.setup_of(azure.addr(), "az://no-such-container/prefix", "eager");
    says_what_to_fix(container, &["there is no such container"]).await;
    let key = good().env("AZURE_STORAGE_ACCOUNT_KEY", "Z3Vlc3NlZA==");
    says_what_to_fix(
        key,
        &["the credentials are refused", "AZURE_STORAGE_ACCOUNT_KEY"],
    )
    .await;
}

async fn join_all<T>(futures: impl IntoIterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut done = Vec::new();
    std::future::poll_fn(|context| {
        futures.retain_mut(|future| match future.as_mut().poll(context) {
            std::task::Poll::Ready(value) => {
                done.push(value);
                false
            }
            std::task::Poll::Pending => true,
        });
        match futures.is_empty() {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    done
}
