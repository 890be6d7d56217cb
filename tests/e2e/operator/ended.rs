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
        &format!("\"bytes-left\":{}", oracle.bytes(&app, 0)),
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
        "\"time-left-ms\":",
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
    fs::remove_dir_all(bucket.path()).unwrap();
    fs::write(bucket.path(), "").unwrap();
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
    assert_eq!(server.ended().await.code(), Some(0), "{}", server.log());
    server.reconfigure(|_| Setup::new());
    server.restart().await;
    oracle.check(&server.peer().await, &app, 0).await;
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
