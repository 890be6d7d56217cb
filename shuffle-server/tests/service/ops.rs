//! Control calls, drain, probes and metrics.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use shuffle_proto::{
    kind::Kind,
    v1::{self, push_response::Step as Answer},
};

use shuffle_server::{
    config::Config,
    server::Server,
    staging::{Faults, Operation},
};

use crate::stage::*;

/// An address of this machine that is not loopback; a datagram socket that sends nothing knows it.
fn own_address() -> Option<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("198.51.100.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_of_another_address_looks_and_changes_nothing() {
    let mut stage = Stage::start(1, |config| config.admin_listen = "0.0.0.0:0".into()).await;
    stage.put(0, 1, b"rows").await;
    let Some(own) = own_address() else {
        skipped("this machine has loopback only");
        return;
    };
    let local = stage.admin_at(std::net::Ipv4Addr::LOCALHOST.into());
    let distant = stage.admin_at(own);
    for path in [
        "/livez",
        "/readyz",
        "/metrics",
        "/api/v1/status",
        "/api/v1/drain",
    ] {
        assert_eq!(ask(distant, "GET", path).await.0, 200, "{path}");
    }
    for (method, path) in [
        ("POST", "/api/v1/drain"),
        ("DELETE", "/api/v1/apps/app-1"),
        ("POST", "/api/v1/apps/app-1"),
        ("DELETE", "/api/v1/apps/app-1/shuffles/1"),
        ("PUT", "/api/v1/drain"),
    ] {
        let (status, body) = ask(distant, method, path).await;
        assert_eq!(status, 403, "{method} {path}: {body}");
        assert!(
            body.contains("\"denied\"") && body.contains(&own.to_string()),
            "{body}"
        );
    }
    assert_eq!(stage.fetch(stage.all()).await.unwrap().0, b"rows");
    assert_eq!(ask(local, "DELETE", "/api/v1/apps/app-1").await.0, 200);
    assert!(stage.fetch(stage.all()).await.is_err());
    assert_eq!(ask(local, "POST", "/api/v1/drain").await.0, 202);
    stage.ended().await;
}

/// `::ffff:127.0.0.1` is how a socket of both families shows 127.0.0.1.
#[tokio::test(flavor = "multi_thread")]
async fn this_machine_is_known_on_a_socket_of_both_families_too() {
    let stage = Stage::start(1, |config| config.admin_listen = "[::]:0".into()).await;
    let local = stage.admin_at(std::net::Ipv4Addr::LOCALHOST.into());
    assert_eq!(ask(local, "DELETE", "/api/v1/apps/app-9").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn control_calls_answer_and_repeat() {
    let stage = Stage::start(2, |config| {
        config.node = Some("node-1".into());
        config.zone = Some("zone-a".into());
    })
    .await;
    let mut control = stage.control();
    let described = control
        .describe(v1::DescribeRequest { protocol: 1 })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        described
            .volumes
            .iter()
            .map(|volume| volume.id.clone())
            .collect::<Vec<_>>(),
        stage.volumes
    );
    assert!(
        described
            .volumes
            .iter()
            .all(|volume| volume.state == "ok" && volume.bytes_free > 0)
    );
    assert_eq!(
        (
            described.protocol_min,
            described.protocol_max,
            described.memory_limit
        ),
        (1, 1, 64 << 20)
    );
    assert_eq!(
        (&*described.node, &*described.zone),
        ("node-1", "zone-a"),
        "as it was set"
    );
    let renew = v1::RenewLeaseRequest {
        caller: caller("secret"),
        ..Default::default()
    };
    assert_eq!(
        control
            .renew_lease(renew.clone())
            .await
            .unwrap()
            .into_inner()
            .lease_ms,
        600_000
    );
    stage.put(0, 1, b"rows").await;
    let usage = v1::UsageRequest {
        caller: caller("secret"),
        shuffle: None,
    };
    let used = control.usage(usage.clone()).await.unwrap().into_inner();
    assert_eq!(
        (
            used.attempts,
            used.levels.iter().map(|level| level.bytes).sum::<u64>()
        ),
        (1, 4)
    );
    let thief = v1::DeleteAppRequest {
        caller: caller("guess"),
    };
    assert_refused(
        &control.delete_app(thief).await.unwrap_err(),
        Kind::Denied,
        &["app-1"],
    );
    let delete = v1::DeleteAppRequest {
        caller: caller("secret"),
    };
    control.delete_app(delete.clone()).await.unwrap();
    assert_eq!(
        control.delete_app(delete).await.unwrap().into_inner().bytes,
        0
    );
    assert_eq!(
        Kind::of(&control.usage(usage).await.unwrap_err()),
        Kind::Lost
    );
    let late = stage.push(open(1, 2)).await.unwrap().refusal().await;
    assert_refused(
        &late,
        Kind::Fenced,
        &["deletion was asked for", "RenewLease"],
    );
    control.renew_lease(renew).await.unwrap();
    stage.put(1, 2, b"rows").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_lets_a_running_push_commit_and_refuses_new_ones() {
    let mut stage = Stage::start(1, |_| ()).await;
    let mut running = stage.push(open(0, 1)).await.unwrap();
    running.hear().await.unwrap();
    assert_eq!(stage.get("/readyz").await, (200, "ok\n".to_owned()));
    stage.stop();
    for _ in 0..6000 {
        if stage.get("/readyz").await.0 == 503 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(stage.get("/readyz").await, (503, "draining\n".to_owned()));
    assert_eq!(stage.get("/livez").await.0, 200);
    let refusal = stage.push(open(1, 2)).await.unwrap().refusal().await;
    assert_refused(&refusal, Kind::Unavailable, &["draining"]);
    running.send(batch(0, 1, 0, b"rows")).await;
    running.hear().await.unwrap();
    running.say(commit(b"rows")).await;
    assert!(matches!(
        running.hear().await.unwrap(),
        Answer::Committed(_)
    ));
    drop(running);
    stage.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_does_not_wait_for_a_silent_push_for_ever() {
    let mut stage = Stage::start(1, |config| {
        config.drain_timeout = Duration::from_millis(300)
    })
    .await;
    let mut silent = stage.push(open(0, 1)).await.unwrap();
    silent.hear().await.unwrap();
    stage.stop();
    stage.ended().await;
    assert!(silent.hear().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_answers_people_and_prometheus() {
    let stage = Stage::start(1, |_| ()).await;
    stage.put(0, 1, b"rows").await;
    let (status, text) = stage.get("/metrics").await;
    assert_eq!(status, 200);
    for line in [
        "forebay_pushed_bytes_total 4",
        "forebay_commits_total 1",
        "forebay_commit_latency_seconds_count 1",
        "forebay_refusals_total{kind=\"denied\"} 0",
        "forebay_apps 1",
        "forebay_attempts 1",
        "forebay_memory_limit_bytes 67108864",
        "forebay_streams{op=\"fetch\"} 0",
    ] {
        assert!(text.contains(&format!("{line}\n")), "no {line:?} in {text}");
    }
    assert!(text.contains("state=\"ok\"} 1"), "{text}");
    let (_, text) = stage.get("/api/v1/status").await;
    assert!(
        text.contains("\"apps\":1") && text.contains("\"draining\":false"),
        "{text}"
    );
    let (_, text) = stage.get("/version").await;
    assert!(text.contains("\"name\":\"forebay-server\""), "{text}");
    assert_eq!(stage.get("/nothing").await.0, 404);
}

/// A disk that does nothing while it is held.
struct Held(AtomicBool);

impl Faults for Held {
    fn before(&self, _: Operation, _: &Path) -> io::Result<()> {
        while self.0.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_are_answered_while_volumes_are_recovered() {
    let scratch = tempfile::tempdir().unwrap();
    let dirs = ["disk0", "disk1"].map(|name| scratch.path().join(name));
    let mut config = Config::local(dirs.clone());
    // Bound and never listening: the port is nobody else's, and `SO_REUSEADDR` lets the server in.
    let port = tokio::net::TcpSocket::new_v4().unwrap();
    port.set_reuseaddr(true).unwrap();
    port.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let admin = port.local_addr().unwrap();
    config.admin_listen = admin.to_string();
    let held = Arc::new(Held(AtomicBool::new(true)));
    let builder = Server::builder(config).faults(held.clone());
    let building = tokio::spawn(Box::pin(builder.build()));
    let mut tries = 0;
    while tokio::net::TcpStream::connect(admin).await.is_err() {
        tries += 1;
        assert!(tries < 12_000, "the admin port is not opened");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(ask(admin, "GET", "/livez").await.0, 200);
    let lines = dirs.map(|dir| format!("recovering volume in {}\n", dir.display()));
    let mut tries = 0;
    loop {
        let (status, why) = ask(admin, "GET", "/readyz").await;
        assert_eq!(status, 503, "{why}");
        if lines.iter().all(|line| why.contains(line)) {
            break;
        }
        tries += 1;
        assert!(tries < 12_000, "not all of {lines:?} are in {why}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (status, text) = ask(admin, "GET", "/metrics").await;
    assert_eq!(status, 200);
    for name in [
        "process_cpu_seconds_total ",
        "forebay_build_info{",
        "forebay_commits_total 0",
    ] {
        assert!(text.contains(&format!("\n{name}")), "no {name} in {text}");
    }
    assert_eq!(ask(admin, "GET", "/version").await.0, 200);
    for (method, path) in [
        ("GET", "/api/v1/status"),
        ("GET", "/api/v1/apps"),
        ("GET", "/api/v1/drain"),
        ("POST", "/api/v1/drain"),
        ("DELETE", "/api/v1/apps/app-1"),
    ] {
        let (status, why) = ask(admin, method, path).await;
        assert_eq!(status, 503, "{method} {path}: {why}");
        assert!(why.contains("recovering volume"), "{why}");
    }
    held.0.store(false, Ordering::SeqCst);
    let server = building.await.unwrap().unwrap();
    assert_eq!(ask(admin, "GET", "/readyz").await, (200, "ok\n".to_owned()));
    assert_eq!(ask(admin, "GET", "/api/v1/status").await.0, 200);
    drop(server);
    // A server that is never run lets go of its port.
    let mut tries = 0;
    while tokio::net::TcpStream::connect(admin).await.is_ok() {
        tries += 1;
        assert!(tries < 12_000, "the admin port stays open");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
