//! Apps and shuffles that are freed by name.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_shuffle_and_an_app_are_freed_by_name_here_and_in_the_store() {
    let bucket = Bucket::new();
    let server = Server::with(bucket.setup("eager")).await;
    let (peer, admin) = (server.peer().await, server.admin().to_string());
    let (app, other) = (App::new("app-1"), App::new("app-2"));
    let mut oracle = Oracle::default();
    for (app, shuffle) in [(&app, 0), (&app, 1), (&other, 0)] {
        oracle.push_maps(&server, app, shuffle, SHAPE, 0..3).await;
        peer.written_back(app, shuffle).await;
    }
    assert_ne!(bucket.below("app-1/0"), [] as [PathBuf; 0]);
    let free = ["delete-shuffle", "app-1", "0", "--server", &admin];
    let said = forebay(free).await.good();
    assert!(!said.contains(" 0 B freed"), "{said}");
    assert!(said.contains("2 objects removed"), "{said}");
    assert_eq!(
        bucket.below("app-1/0"),
        [] as [PathBuf; 0],
        "the answer came before it was so"
    );
    let lost = peer
        .fetch(fetch_first(&app, 0, oracle.volumes(&app, 0)))
        .await;
    assert_refused(&lost.unwrap_err(), Kind::Lost, &[]);
    let late = peer.push(&Attempt::generate(&app, 0, SHAPE, 5, 999)).await;
    assert_refused(&late.unwrap_err(), Kind::Fenced, &[]);
    // Again is the same.
    let said = forebay(free).await.good();
    assert!(said.contains(" 0 B freed, 0 objects"), "{said}");
    oracle.check(&peer, &app, 1).await;
    oracle.check(&peer, &other, 0).await;

    let free = ["delete-app", "app-1", "--server", &admin];
    forebay(free).await.good();
    assert_eq!(bucket.below("app-1"), [] as [PathBuf; 0]);
    let late = peer.push(&Attempt::generate(&app, 2, SHAPE, 0, 1000)).await;
    assert_refused(
        &late.unwrap_err(),
        Kind::Fenced,
        &["deletion was asked for"],
    );
    let said = forebay(free).await.good();
    assert!(said.contains(" 0 B freed"), "{said}");
    oracle.check(&peer, &other, 0).await;
    // The driver may go on, without any of its data.
    peer.renew(&app).await.unwrap();
    oracle.delete_app(&app);
    oracle.push_maps(&server, &app, 3, SHAPE, 0..2).await;
    oracle.check(&peer, &app, 3).await;
    peer.written_back(&app, 3).await;
    assert_ne!(bucket.below("app-1/3"), [] as [PathBuf; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_server_left_is_freed_at_any_other() {
    let bucket = Bucket::new();
    let mut one = Server::with(bucket.setup("eager")).await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    for shuffle in 0..2 {
        oracle.push_maps(&one, &app, shuffle, SHAPE, 0..2).await;
        one.peer().await.written_back(&app, shuffle).await;
    }
    one.kill();
    // It has never heard of the app.
    let two = Server::with(bucket.setup("off")).await;
    let admin = two.admin().to_string();
    forebay(["delete-shuffle", "app-1", "1", "--server", &admin])
        .await
        .good();
    assert_eq!(bucket.below("app-1/1"), [] as [PathBuf; 0]);
    oracle.check(&two.peer().await, &app, 0).await;
    forebay(["delete-app", "app-1", "--server", &admin])
        .await
        .good();
    assert_eq!(bucket.left(), [] as [PathBuf; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_calls_answer_plainly_and_refuse_by_field() {
    let server = Server::start().await;
    let (peer, admin) = (server.peer().await, server.admin());
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    for shuffle in 0..2 {
        oracle.push_maps(&server, &app, shuffle, SHAPE, 0..1).await;
    }
    let (status, body) = http(admin, "DELETE", "/api/v1/apps/app-1/shuffles/0").await;
    assert_eq!(status, 200, "{body}");
    assert!(
        body.contains("\"bytes\":") && !body.contains("\"bytes\":0"),
        "{body}"
    );
    assert!(body.contains("\"objects\":null"), "{body}");
    // For those who cannot send DELETE.
    let (status, body) = http(admin, "POST", "/api/v1/apps/app-1").await;
    assert_eq!(status, 200, "{body}");
    let lost = peer
        .fetch(fetch_first(&app, 1, oracle.volumes(&app, 1)))
        .await;
    assert_refused(&lost.unwrap_err(), Kind::Lost, &[]);
    for (path, words) in [
        (
            "/api/v1/apps/app-1/shuffles/x",
            ["shuffle is \\\"x\\\"", "0 to 4294967295"],
        ),
        (
            "/api/v1/apps/app-1/shuffles/4294967296",
            ["shuffle is", "0 to 4294967295"],
        ),
        (
            "/api/v1/apps/a%20b",
            ["app is \\\"a b\\\"", "send 1 to 128"],
        ),
        ("/api/v1/apps/..%2F..", ["app is", "send 1 to 128"]),
    ] {
        let (status, body) = http(admin, "DELETE", path).await;
        assert_eq!(status, 400, "{path}: {body}");
        for word in words {
            assert!(body.contains(word), "{path}: {word}: {body}");
        }
    }
    // Nothing is deleted or ended by looking.
    assert_eq!(http(admin, "GET", "/api/v1/apps/app-1").await.0, 405);
    assert_eq!(http(admin, "DELETE", "/api/v1/drain").await.0, 405);
    let address = admin.to_string();
    let said = forebay(["delete-app", "a/b", "--server", &address]).await;
    said.bad(1, &["app is \"a/b\": send 1 to 128"]);
    // One server that is not there is told, and the others are asked all the same.
    let data = server.addr().to_string();
    let both = format!("127.0.0.1:1,{data},{address}");
    let said = forebay(["delete-app", "app-1", "--server", &both]).await;
    let said = said.bad(
        1,
        &[
            "server is 127.0.0.1:1: ",
            &format!("server is {data}: "),
            "admin-listen",
        ],
    );
    assert!(said.out.contains(&address), "{said:?}");
}
