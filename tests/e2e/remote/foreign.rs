//! A store shared with others: foreign objects stay, whatever their names, and Forebay's go
//! nevertheless.

use super::*;

const LEASE: &str = "2s";

/// Things of others, of all shapes that could be taken for an app's.
fn strangers(bucket: &Bucket) -> Vec<PathBuf> {
    let names = [
        "top-level.csv",
        "warehouse/db/part-0000.parquet",
        "logs/lease",
        "application_1700000000000_0001/lease",
        "app-2024.01.01/0/part-0",
        "0/1/2",
        "Home/User.name/x",
        "forebay/data",
        "forebay-v1/README",
        "forebay-v1/warehouse/part-0000.parquet",
        "forebay-v1/logs/lease",
        "forebay-v1/old/0/01020304-0506-0708-090a-0b0c0d0e0f10/00000001.manifest",
        "forebay-v2/app/lease",
    ];
    let paths: Vec<_> = names.iter().map(|name| bucket.path().join(name)).collect();
    for path in &paths {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "somebody else's").unwrap();
    }
    paths
}

fn all_there(paths: &[PathBuf]) {
    for path in paths {
        let text = fs::read_to_string(path).unwrap_or_default();
        assert_eq!(text, "somebody else's", "{}", path.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_keep_in_the_store_stays_and_what_is_forebays_goes() {
    let bucket = Bucket::new();
    let foreign = strangers(&bucket);
    // Its disks below the store too.
    let dir = bucket.path().join("disks/one");
    fs::create_dir_all(&dir).unwrap();
    let setup = |policy: &str| bucket.setup(policy).flag("--lease", LEASE);
    let mut one = Server::with(setup("eager").dir(&dir)).await;
    let two = Server::with(setup("eager")).await;
    let (dead, deleted, alive) = (App::new("dead"), App::new("deleted"), App::new("alive"));
    let mut oracle = Oracle::default();
    for app in [&dead, &deleted, &alive] {
        oracle.push_maps(&one, app, 0, SHAPE, 0..3).await;
        one.peer().await.written_back(app, 0).await;
    }
    // A directory of the app's own, and a file of somebody else's in it.
    let within = bucket.path().join("forebay-v1/deleted/notes.txt");
    fs::write(&within, "somebody else's").unwrap();
    one.peer().await.delete_app(&deleted).await.unwrap();
    one.kill();
    let peer = two.peer().await;
    eventually(SOON, || async {
        peer.renew(&alive).await.unwrap();
        let mut left = bucket.below("dead");
        left.extend(bucket.below("deleted"));
        match &left[..] {
            [notes] if *notes == within => Ok(()),
            left => Err(format!("left: {left:?}")),
        }
    })
    .await;
    oracle.check(&peer, &alive, 0).await;
    // For several leases more.
    for _ in 0..20 {
        peer.renew(&alive).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    all_there(&foreign);
    all_there(std::slice::from_ref(&within));
    assert!(!disk::walk(&dir).is_empty(), "the disks below the store");
    assert!(counter(&two, "remote_foreign_things_total").await >= 4);
    for name in ["warehouse", "logs", "old"] {
        assert_eq!(
            two.log().matches(&format!("forebay-v1/{name}")).count(),
            1,
            "told once"
        );
    }
    // It is Forebay's word too that is asked for.
    let mut doctor =
        std::process::Command::new(shuffle_tests::server::binary().with_file_name("forebay"));
    doctor.args(["doctor", "store", &bucket.url()]);
    let said = tokio::task::spawn_blocking(move || doctor.output())
        .await
        .unwrap();
    let said = String::from_utf8(said.unwrap().stdout).unwrap();
    for words in [
        "warehouse/",
        "logs/",
        "top-level.csv",
        "forebay-v1/old/",
        "is that of pool",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    all_there(&foreign);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_layout_of_an_earlier_build_is_refused_by_name_and_left_alone() {
    let bucket = Bucket::new();
    let record = bucket.path().join("application_7/lease");
    fs::create_dir_all(record.parent().unwrap()).unwrap();
    let hash = "07".repeat(32);
    let text = format!(r#"{{"version":1,"token-sha256":"{hash}","lease-ms":600000,"renewals":9}}"#);
    fs::write(&record, &text).unwrap();
    let mut server = Server::prepare(bucket.setup("eager"));
    let said = server.refused().await;
    for words in ["remote is", "application_7", "another prefix"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert_eq!(fs::read_to_string(&record).unwrap(), text);
    assert_eq!(bucket.files(), [record]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_of_a_url_is_told() {
    for url in [
        "s3://AKIAKEY:SuperSecret42@bucket/p",
        "s3://AKIAKEY:Super/Secret42@bucket/p",
        "s3//AKIAKEY:SuperSecret42@bucket/p",
        "s3://bucket/p?sig=SuperSecret42",
        "ftp://AKIAKEY:SuperSecret42@bucket/p",
        "az://c:SuperSecret42@/p",
    ] {
        let setup = Setup::new()
            .flag("--remote", url)
            .env("AWS_ENDPOINT", "http://127.0.0.1:1")
            .env("AWS_ALLOW_HTTP", "true")
            .env("AWS_ACCESS_KEY_ID", "k")
            .env("AWS_SECRET_ACCESS_KEY", "s")
            .env("AZURE_STORAGE_ACCOUNT_NAME", "a");
        let mut server = Server::prepare(setup);
        if server.try_start().await.is_ok() {
            server.terminate();
            server.ended().await;
        }
        let log = server.log();
        assert!(
            !log.contains("Secret42") && !log.contains("AKIAKEY"),
            "{url}: {log}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_stopped_buries_nobody_and_is_not_buried_for_a_while() {
    let bucket = Bucket::new();
    let setup = || bucket.setup("eager").flag("--lease", "5s");
    let owner = Server::with(setup()).await;
    let watcher = Server::with(setup()).await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    oracle.push_maps(&owner, &app, 0, SHAPE, 0..3).await;
    let peer = owner.peer().await;
    peer.written_back(&app, 0).await;
    let before = bucket.below("app-1").len();
    // The one that does not hear of the app, for longer than two leases; the driver goes on to call
    // the other.
    watcher.pause();
    for _ in 0..50 {
        peer.renew(&app).await.unwrap();
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    watcher.resume();
    for _ in 0..12 {
        peer.renew(&app).await.unwrap();
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    assert_eq!(bucket.below("app-1").len(), before);
    // The server with the right token, for longer than a lease: its data on the disk stay too.
    owner.pause();
    tokio::time::sleep(Duration::from_millis(6500)).await;
    owner.resume();
    let peer = owner.peer().await;
    peer.renew(&app).await.unwrap();
    oracle.check(&peer, &app, 0).await;
    assert_eq!(bucket.below("app-1").len(), before);
}
