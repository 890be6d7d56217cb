//! Registration, lease, placement and deletion.

#![allow(clippy::unwrap_used)] // in helpers of tests
mod common;

use std::time::{Duration, Instant};

use common::*;
use shuffle_client::{Caller, Client, Kind, Settings, fake::Fake};

#[tokio::test]
async fn an_app_is_registered_at_every_server_that_answers() {
    let (first, mut second) = (Fake::start().await, Fake::start().await);
    second.stop().await;
    let app = client(&[&first, &second]).open_app(caller()).await.unwrap();
    assert_eq!(
        (first.counters().renewals, second.counters().renewals),
        (1, 0)
    );
    assert_eq!(app.servers().len(), 1);
    assert_eq!(app.place(SHUFFLE, 10, 10), [first.address()]);
}

#[tokio::test]
async fn the_lease_is_renewed_and_servers_that_come_back_are_told() {
    let (first, mut second) = (Fake::start().await, Fake::start().await);
    second.stop().await;
    let caller = Caller {
        lease: Duration::from_millis(300),
        ..caller()
    };
    let app = client(&[&first, &second]).open_app(caller).await.unwrap();
    eventually("the lease is renewed", || first.counters().renewals >= 4).await;
    second.restart().await;
    eventually("the server that came back is told", || {
        second.counters().renewals >= 2
    })
    .await;
    assert_eq!(app.place(SHUFFLE, 10, 10).len(), 2);
    drop(app);
    // A renewal under way may still come; then none comes for ten times the pause between two.
    let (mut last, mut since) = (first.counters().renewals, Instant::now());
    eventually("a dropped app is not renewed any more", || {
        let renewals = first.counters().renewals;
        if std::mem::replace(&mut last, renewals) != renewals {
            since = Instant::now();
        }
        since.elapsed() > Duration::from_secs(1)
    })
    .await;
}

#[tokio::test]
async fn a_draining_server_gets_no_new_shuffles() {
    let (first, second) = (Fake::start().await, Fake::start().await);
    second.faults().draining = true;
    let app = client(&[&first, &second]).open_app(caller()).await.unwrap();
    assert_eq!(app.place(SHUFFLE, 10, 10), [first.address()]);
}

#[tokio::test]
async fn no_server_at_all_is_an_error_that_names_them() {
    let mut server = Fake::start().await;
    server.stop().await;
    let settings = Settings {
        retry_deadline: Duration::from_millis(300),
        ..settings(&[&server])
    };
    let error = Client::new(settings)
        .unwrap()
        .open_app(caller())
        .await
        .err()
        .unwrap();
    assert_eq!(error.kind, Kind::Unavailable);
    assert!(
        error.message.contains(&server.address()) && error.message.contains("app-1"),
        "{error}"
    );
}

#[tokio::test]
async fn a_server_that_starts_late_is_waited_for() {
    let mut server = Fake::start().await;
    server.stop().await;
    let client = client(&[&server]);
    let start = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.restart().await;
    };
    let (app, ()) = tokio::join!(client.open_app(caller()), start);
    assert_eq!(app.unwrap().servers().len(), 1);
}

#[tokio::test]
async fn deleting_a_shuffle_or_an_app_reaches_every_server() {
    let (first, second) = (Fake::start().await, Fake::start().await);
    let client = client(&[&first, &second]);
    let app = client.open_app(caller()).await.unwrap();
    for map in 0..2 {
        write(&client, &[&first, &second], map, map.into(), 1, 10).await;
    }
    app.delete_shuffle(SHUFFLE).await.unwrap();
    assert!(first.attempts(SHUFFLE).is_empty() && second.attempts(SHUFFLE).is_empty());
    write(&client, &[&first, &second], 0, 9, 1, 10).await;
    app.close().await.unwrap();
    assert!(first.attempts(SHUFFLE).is_empty());
    assert_eq!(
        (
            first.counters().deleted_apps,
            second.counters().deleted_apps
        ),
        (1, 1)
    );
}

#[tokio::test]
async fn names_are_resolved_to_addresses() {
    let server = Fake::start().await;
    let (_, port) = server
        .address()
        .rsplit_once(':')
        .map(|(host, port)| (host.to_string(), port.to_string()))
        .unwrap();
    let settings = Settings {
        servers: vec![format!("dns://localhost:{port}")],
        ..settings(&[])
    };
    let client = Client::new(settings).unwrap();
    assert!(client.addresses().await.contains(&server.address()));
    let app = client.open_app(caller()).await.unwrap();
    assert_eq!(app.place(SHUFFLE, 1, 1), [server.address()]);
}

#[tokio::test]
async fn describe_tells_what_a_server_serves() {
    let server = Fake::start_with(2).await;
    let description = client(&[&server])
        .describe(&server.address())
        .await
        .unwrap();
    let volumes: Vec<_> = description.volumes.iter().map(|volume| volume.id).collect();
    assert_eq!(volumes, server.volumes());
    assert!(!description.draining);
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_by_name() {
    let good = || Settings::of(["host:7400"]);
    assert!(Client::new(good()).is_ok());
    let cases = [
        (
            Settings {
                servers: vec![],
                ..good()
            },
            "servers",
        ),
        (Settings::of(["host"]), "servers"),
        (Settings::of(["http://host:1"]), "servers"),
        (Settings::of(["host:0"]), "servers"),
        (
            Settings {
                call_timeout: Duration::ZERO,
                ..good()
            },
            "call_timeout",
        ),
        (
            Settings {
                fetch_window: 10,
                ..good()
            },
            "fetch_window",
        ),
        (
            Settings {
                fetch_streams: 0,
                ..good()
            },
            "fetch_streams",
        ),
        (
            Settings {
                block_bytes: 8 << 20,
                ..good()
            },
            "block_bytes",
        ),
        (
            Settings {
                batch_bytes: 1,
                ..good()
            },
            "batch_bytes",
        ),
    ];
    for (settings, field) in cases {
        let error = Client::new(settings).err().unwrap();
        assert!(
            error.kind == Kind::Invalid && error.message.contains(field),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_look_sees_what_is_there_now_and_waits_for_nobody() {
    let (moved, mut stopped, silent) = (
        Fake::start().await,
        Fake::start().await,
        Fake::start().await,
    );
    // One that the settings do not name: the servers may be another set than when outputs were
    // written.
    let other = Fake::start().await;
    let app = client(&[&moved, &stopped, &silent])
        .open_app(caller())
        .await
        .unwrap();
    let before = moved.volume();
    moved.lose_disk();
    stopped.stop().await;
    silent.faults().hang = true;
    // Only the silent one takes it.
    let limit = Duration::from_secs(3);
    let seen = tokio::time::timeout(
        Duration::from_secs(20),
        app.look(vec![other.address(), moved.address()], limit),
    )
    .await
    .unwrap();
    assert_eq!(seen.len(), 4);
    assert_eq!(
        (&seen[&stopped.address()], &seen[&silent.address()]),
        (&None, &None)
    );
    for server in [&moved, &other] {
        let volumes = &seen[&server.address()].as_ref().unwrap().volumes;
        assert!(volumes.iter().any(|volume| volume.id == server.volume()));
        assert!(volumes.iter().all(|volume| volume.id != before));
    }
}
