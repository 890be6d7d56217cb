//! A drain that is asked for by the tool, the admin port, or a notice.

use super::*;
use std::process::ExitStatus;

/// Whether a server that has only the store serves all of it.
async fn served_by_another(bucket: &Bucket, oracle: &Oracle, app: &App) {
    let other = Server::with(bucket.setup("off")).await;
    oracle.check(&other.peer().await, app, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_by_the_tool_does_what_sigterm_does_and_is_waited_for() {
    let bucket = Bucket::new();
    let mut server = Server::with(bucket.setup("lazy")).await;
    let (peer, admin) = (server.peer().await, server.admin().to_string());
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    oracle.push_maps(&server, &app, 0, SHAPE, 0..4).await;
    let attempt = Attempt::generate(&app, 0, SHAPE, 4, 77);
    let running = peer.send(&attempt).await.unwrap();
    let status = forebay(["status", "--server", &admin]).await.good();
    assert!(status.contains("it takes new attempts"), "{status}");
    assert!(status.contains("pushes 1"), "{status}");
    let volume = uuid::Uuid::from_slice(&server.volumes()[0])
        .unwrap()
        .to_string();
    assert!(status.contains(&volume), "{status}");
    let (code, before) = raw::get(server.admin(), "/api/v1/drain").await;
    assert_eq!(code, 200);
    for word in [
        "\"draining\":false",
        "\"step\":\"serving\"",
        &format!("\"bytes_left\":{}", oracle.bytes(&app, 0)),
    ] {
        assert!(before.contains(word), "{word}: {before}");
    }
    // What is not under way is not waited for.
    assert_eq!(raw::get(server.admin(), "/api/v1/drain?wait").await.0, 200);
    assert_eq!(raw::get(server.admin(), "/api/v1/drain?wiat").await.0, 400);

    let said = forebay(["drain", "--server", &admin]).await.good();
    assert!(said.contains("draining"), "{said}");
    // From the answer on.
    let late = peer.push(&Attempt::generate(&app, 0, SHAPE, 5, 78)).await;
    assert_refused(&late.unwrap_err(), Kind::Unavailable, &[]);
    let (_, progress) = raw::get(server.admin(), "/api/v1/drain").await;
    for word in [
        "\"draining\":true",
        "\"step\":\"pushes\"",
        "\"pushes\":1",
        "the admin port",
        "\"time_left_ms\":",
    ] {
        assert!(progress.contains(word), "{word}: {progress}");
    }
    // SIGTERM after it is the first signal: it ends nothing at once.
    server.terminate();
    // Again, and this time to the end.
    let waiting = tokio::spawn({
        let admin = admin.clone();
        async move { forebay(["drain", "--wait", "--server", &admin]).await }
    });
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(!waiting.is_finished(), "a push runs, and the drain is over");
    let receipt = running
        .commit(attempt.totals())
        .await
        .expect("a push that runs may commit");
    oracle.committed(&attempt, &receipt);
    let said = waiting.await.unwrap().good();
    assert!(
        said.contains("everything live is in the object store"),
        "{said}"
    );
    assert_eq!(server.ended().await.code(), Some(0), "{}", server.log());
    served_by_another(&bucket, &oracle, &app).await;
    forebay(["drain", "--server", &admin])
        .await
        .bad(1, &[&format!("server is {admin}"), "admin-listen"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_leaves_something_is_told_as_a_failure() {
    let bucket = Bucket::new();
    let setup = bucket.setup("lazy").flag("--drain-timeout", "2s");
    let mut server = Server::with(setup).await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    oracle.push_maps(&server, &app, 0, SHAPE, 0..2).await;
    // The store is gone: a file is where its directory was.
    eventually(STEP, || async {
        // The server may be writing there, and makes what is missing.
        let _ = fs::remove_dir_all(bucket.path());
        fs::write(bucket.path(), "").map_err(|error| error.to_string())
    })
    .await;
    let admin = server.admin().to_string();
    let said = forebay(["drain", "--wait", "--server", &admin]).await;
    said.bad(
        1,
        &[
            "not in the object store",
            "drain-timeout",
            "give it more time",
        ],
    );
    // Whoever looks at the process only is told too.
    assert_eq!(server.ended().await.code(), Some(3), "{}", server.log());
    let (log, left) = (server.log(), oracle.bytes(&app, 0));
    let said = format!("could not save everything: {left} bytes are not in the object store");
    assert!(log.contains(&said), "{log}");
    assert!(log.contains("drain-timeout is 2s"), "{log}");
    server.reconfigure(|_| Setup::new());
    server.restart().await;
    oracle.check(&server.peer().await, &app, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_can_not_read_what_it_is_to_save_is_told_as_a_failure() {
    let bucket = Bucket::new();
    let setup = bucket.setup("lazy").flag("--write-back-delay", "1h");
    let mut server = Server::with(setup).await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    oracle.push_maps(&server, &app, 0, SHAPE, 0..3).await;
    // What was pushed is in no memory any more.
    server.kill();
    server.restart().await;
    server.peer().await.renew(&app).await.unwrap();
    server.allow_errors("");
    for dir in server.dirs() {
        for file in [walk(&dir.join("apps")), walk(&dir.join("log"))].concat() {
            let file = fs::File::options().write(true).open(file).unwrap();
            file.set_len(0).unwrap();
        }
    }
    let admin = server.admin().to_string();
    let said = forebay(["drain", "--wait", "--server", &admin]).await;
    said.bad(1, &["3 map outputs could not be read any more"]);
    assert_eq!(server.ended().await.code(), Some(3), "{}", server.log());
    let log = server.log();
    assert!(
        log.contains("3 map outputs cannot be read any more"),
        "{log}"
    );
}

/// The directory of the store is another one when its share was unmounted: what is written there is
/// saved nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_unmounted_gets_nothing_and_all_when_it_is_back() {
    let scratch = tempfile::tempdir().unwrap();
    let mount = || Tmpfs::mount(scratch.path().join("store"), 64 << 10);
    let Some(store) = mount() else {
        return;
    };
    let url = format!("file://{}/pool", store.path().display());
    let setup = Setup::new().flag("--remote", &url);
    let mut server = Server::with(setup.flag("--drain-timeout", "30s")).await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    oracle.push_maps(&server, &app, 0, SHAPE, 0..3).await;
    drop(store);
    server.terminate();
    eventually(STEP, || async {
        let log = server.log();
        let told = log.contains("write-back failed") && log.contains("mount that again");
        told.then_some(()).ok_or(log)
    })
    .await;
    assert!(server.running(), "{}", server.log());
    let store = mount().unwrap();
    assert_eq!(server.ended().await.code(), Some(0), "{}", server.log());
    server.destroy();
    let other = Server::with(Setup::new().flag("--remote", &url)).await;
    oracle.check(&other.peer().await, &app, 0).await;
    drop((other, store));
}

/// Staged data go to the store from the first moment, beside running pushes, which are sent
/// elsewhere in time.
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_saves_what_is_staged_while_pushes_run_and_sends_them_elsewhere() {
    let bucket = Bucket::new();
    let setup = bucket.setup("lazy").flag("--write-back-delay", "1h");
    let mut server = Server::with(setup.flag("--drain-timeout", "48s")).await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    for shuffle in 0..3 {
        oracle.push_maps(&server, &app, shuffle, SHAPE, 0..3).await;
    }
    let peer = server.peer().await;
    let in_memory = Attempt::generate(&app, 3, SHAPE, 0, 900).at(v1::Durability::Memory);
    oracle.push(&peer, &in_memory).await;
    let running = |map: u32| Attempt::generate(&app, 0, SHAPE, map, 1000 + u64::from(map));
    // Standing still with all but the commit sent, opened only, and one that commits while the
    // server drains.
    let (still, opened, late) = (running(3), running(4), running(5));
    let mut pushes = vec![
        peer.send(&still).await.unwrap(),
        peer.open(opened.open()).await.unwrap().0,
    ];
    let committing = peer.send(&late).await.unwrap();
    // One byte now and then is no reason to wait for it.
    let trickling = Attempt::generate(&app, 1, SHAPE, 5, 1006);
    let (mut push, _) = peer.open(trickling.open()).await.unwrap();
    server.terminate();
    let trickle = tokio::spawn(async move {
        for batch in trickling.batches_from(0, 1) {
            push.send_message(batch).await;
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
        push.refusal().await
    });
    let staged = oracle.bytes(&app, 0) + oracle.bytes(&app, 1) + oracle.bytes(&app, 2);
    let left = || async {
        let (_, progress) = raw::get(server.admin(), "/api/v1/drain").await;
        let done = progress.contains("\"bytes_left\":0,") && progress.contains("\"needs_ms\":0");
        match done && progress.contains("\"step\":\"pushes\"") {
            true => Ok(progress),
            false => Err(progress),
        }
    };
    // Pushes are waited for a third of the time.
    let progress = eventually(Duration::from_secs(15), left).await;
    assert!(progress.contains("\"pushes\":4"), "{progress}");
    let sent: u64 = progress
        .split_once("\"bytes_sent\":")
        .and_then(|(_, rest)| rest.split_once(',')?.0.parse().ok())
        .unwrap_or_else(|| panic!("{progress}"));
    assert!(sent >= staged, "{progress}");
    let receipt = committing.commit(late.totals()).await.unwrap();
    oracle.committed(&late, &receipt);
    for push in &mut pushes {
        let refusal = push.refusal().await;
        assert_refused(&refusal, Kind::Unavailable, &["draining", "another"]);
    }
    assert_refused(&trickle.await.unwrap(), Kind::Unavailable, &["draining"]);
    assert_eq!(server.ended().await.code(), Some(0), "{}", server.log());
    server.destroy();
    for shuffle in [0, 3] {
        let other = Server::with(bucket.setup("off")).await;
        oracle.check(&other.peer().await, &app, shuffle).await;
    }
}

/// The store is down for the first part of the drain: it is tried until it is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_comes_back_while_the_server_drains_gets_everything() {
    let bucket = Bucket::new();
    let setup = bucket.setup("lazy").flag("--write-back-delay", "1h");
    let mut server = Server::with(setup.flag("--drain-timeout", "30s")).await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    oracle.push_maps(&server, &app, 0, SHAPE, 0..4).await;
    eventually(STEP, || async {
        // The server may be writing there, and makes what is missing.
        let _ = fs::remove_dir_all(bucket.path());
        fs::write(bucket.path(), "").map_err(|error| error.to_string())
    })
    .await;
    server.terminate();
    // Asked again, and another way: it goes on as it was.
    let admin = server.admin().to_string();
    forebay(["drain", "--server", &admin]).await.good();
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert!(server.running(), "{}", server.log());
    fs::remove_file(bucket.path()).unwrap();
    fs::create_dir(bucket.path()).unwrap();
    assert_eq!(server.ended().await.code(), Some(0), "{}", server.log());
    server.destroy();
    served_by_another(&bucket, &oracle, &app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notice_starts_the_drain() {
    let bucket = Bucket::new();
    let notice = bucket.path().with_file_name("spot").join("notice");
    let setup = || bucket.setup("lazy").flag("--notice-file", notice.display());
    let mut server = Server::with(setup()).await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    oracle.push_maps(&server, &app, 0, SHAPE, 0..3).await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert!(server.running(), "it ended without a notice");
    assert_eq!(raw::get(server.admin(), "/readyz").await.0, 200);
    fs::create_dir(notice.parent().unwrap()).unwrap();
    fs::write(&notice, "").unwrap();
    let status: ExitStatus = server.ended().await;
    assert_eq!(status.code(), Some(0), "{}", server.log());
    assert!(server.log().contains("notice-file"), "{}", server.log());
    served_by_another(&bucket, &oracle, &app).await;
    // One that is there already counts too.
    server.restart().await;
    assert_eq!(server.ended().await.code(), Some(0));
    let said = Server::prepare(Setup::new().flag("--notice-file", ""))
        .refused()
        .await;
    assert!(said.contains("notice-file"), "{said}");
}
