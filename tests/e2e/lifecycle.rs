//! Start, stop, probes, and settings that cannot be.

use shuffle_proto::v1::{self, push_request::Step};
use shuffle_tests::{App, Attempt, Oracle, STEP, Server, Setup, Shape, eventually, raw, step};
use std::{fs, time::Duration};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

const SHAPE: Shape = Shape {
    maps: 40,
    partitions: 10,
    rounds: 2,
    block: 50_000,
};

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_cleanly_and_running_pushes_commit() {
    let mut server = Server::start().await;
    let peer = server.peer().await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    oracle
        .push(&peer, &Attempt::generate(&app, 0, SHAPE, 0, 1))
        .await;
    let mut running = Vec::new();
    for map in 1..10 {
        let attempt = Attempt::generate(&app, 0, SHAPE, map, 10 + u64::from(map));
        running.push((peer.send(&attempt).await.unwrap(), attempt));
    }
    server.terminate();
    tokio::time::sleep(Duration::from_millis(300)).await;
    for (push, attempt) in running {
        let receipt = push
            .commit(attempt.totals())
            .await
            .expect("a push that runs may commit");
        oracle.committed(&attempt, &receipt);
    }
    let status = server.ended().await;
    assert_eq!(status.code(), Some(0), "{}", server.log());
    server.restart().await;
    oracle.check(&server.peer().await, &app, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_is_not_held_up_for_ever_by_a_stalled_push() {
    let mut server = Server::with(Setup::new().flag("--drain-timeout", "1500ms")).await;
    let peer = server.peer().await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    oracle
        .push(&peer, &Attempt::generate(&app, 0, SHAPE, 0, 1))
        .await;
    let stalled = peer
        .send(&Attempt::generate(&app, 0, SHAPE, 1, 2))
        .await
        .unwrap();
    let silent = server.peer().await;
    server.stop().await;
    drop((stalled, silent));
    server.restart().await;
    oracle.check(&server.peer().await, &app, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_takes_over_a_clean_stop_at_once() {
    let mut server = Server::start().await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    for round in 0..5 {
        oracle
            .push(
                &server.peer().await,
                &Attempt::generate(&app, 0, SHAPE, round, u64::from(round)),
            )
            .await;
        server.stop().await;
        server.restart().await;
        oracle.check(&server.peer().await, &app, 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_and_metrics_answer() {
    let server = Server::start().await;
    let peer = server.peer().await;
    for path in ["/livez", "/readyz"] {
        let (status, body) = raw::get(server.admin(), path).await;
        assert_eq!(status, 200, "{path}: {body}");
    }
    let (status, version) = raw::get(server.admin(), "/version").await;
    assert_eq!(status, 200);
    assert!(
        version.contains(&peer.describe().await.version),
        "{version}"
    );
    assert_eq!(raw::get(server.admin(), "/nothing").await.0, 404);
    let attempt = Attempt::generate(&App::new("app-1"), 0, SHAPE, 0, 1);
    peer.push(&attempt).await.unwrap();
    let (status, metrics) = raw::get(server.admin(), "/metrics").await;
    assert_eq!(status, 200);
    let mut names = 0;
    for line in metrics
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
    {
        let (name, value) = line
            .rsplit_once(' ')
            .unwrap_or_else(|| panic!("not a metric: {line}"));
        let known = ["forebay_", "process_"];
        assert!(
            known.iter().any(|prefix| name.starts_with(prefix)),
            "{line}"
        );
        assert!(value.parse::<f64>().is_ok(), "{line}");
        assert!(!line.contains("app-1"), "an id in a label: {line}");
        names += 1;
    }
    assert!(names > 5, "{metrics}");
    // What was pushed is counted somewhere.
    let bytes = attempt.bytes().to_string();
    assert!(
        metrics
            .lines()
            .any(|line| line.ends_with(&format!(" {bytes}"))),
        "no metric says {bytes}: {metrics}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_are_there_for_any_grpc_tool() {
    let server = Server::start().await;
    let peer = server.peer().await;
    let mut health = HealthClient::new(peer.channel.clone());
    for service in ["", "forebay.v1.Data", "forebay.v1.Control"] {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = step("a health check", health.check(request))
            .await
            .unwrap_or_else(|s| panic!("{service:?}: {s:?}"));
        assert_eq!(
            answer.into_inner().status(),
            ServingStatus::Serving,
            "{service:?}"
        );
    }
    let mut reflection = ServerReflectionClient::new(peer.channel.clone());
    let ask = |request| ServerReflectionRequest {
        host: String::new(),
        message_request: Some(request),
    };
    let questions = [
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol(
            "forebay.v1.Data".into(),
        )),
    ];
    let answers = step(
        "reflection",
        reflection.server_reflection_info(tokio_stream::iter(questions)),
    )
    .await
    .unwrap();
    let mut answers = answers.into_inner();
    let listed = step("reflection", answers.message())
        .await
        .unwrap()
        .unwrap()
        .message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = listed else {
        panic!("{listed:?}")
    };
    let names: Vec<_> = list
        .service
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    for name in [
        "forebay.v1.Data",
        "forebay.v1.Control",
        "grpc.health.v1.Health",
    ] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    let file = step("reflection", answers.message())
        .await
        .unwrap()
        .unwrap()
        .message_response;
    assert!(
        matches!(file, Some(MessageResponse::FileDescriptorResponse(_))),
        "{file:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ends_says_so_to_its_probes() {
    let mut server = Server::start().await;
    let peer = server.peer().await;
    let app = App::new("app-1");
    let attempt = Attempt::generate(&app, 0, SHAPE, 0, 1);
    let push = peer.send(&attempt).await.unwrap();
    server.terminate();
    let admin = server.admin();
    eventually(STEP, || async {
        match tokio::net::TcpStream::connect(admin).await {
            Err(_) => Err("the admin port is closed while a push runs".into()),
            Ok(_) => match raw::get(admin, "/readyz").await {
                (503, _) => Ok(()),
                other => Err(format!("{other:?}")),
            },
        }
    })
    .await;
    assert_eq!(raw::get(admin, "/livez").await.0, 200);
    push.commit(attempt.totals()).await.unwrap();
    assert_eq!(server.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_cannot_be_are_refused_by_name() {
    let flags: [(&str, &str); 5] = [
        ("--memory", "12 parsecs"),
        ("--memory", "0"),
        ("--listen", "nowhere"),
        ("--lease", "soon"),
        ("--no-such-flag", "1"),
    ];
    for (flag, value) in flags {
        let mut server = Server::prepare(Setup::new().flag(flag, value));
        let said = server.refused().await;
        assert!(
            said.contains(flag.trim_start_matches('-')),
            "{flag} {value}: {said}"
        );
    }
    let variables = [
        ("FOREBAY_NO_SUCH_KEY", "1"),
        ("FOREBAY_MEMORY", "lots"),
        ("FOREBAY_LEASE", "-1s"),
    ];
    for (name, value) in variables {
        let mut server = Server::prepare(Setup::new().env(name, value));
        let said = server.refused().await;
        let key = name
            .trim_start_matches("FOREBAY_")
            .to_lowercase()
            .replace('_', "-");
        assert!(
            said.contains(name) || said.contains(&key),
            "{name}={value}: {said}"
        );
    }
    let files = [
        ("no-such-key = 1\n", "no-such-key"),
        ("memory = \"lots\"\n", "memory"),
        ("memory = [[[", "toml"),
    ];
    for (text, word) in files {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("forebay.toml");
        fs::write(&path, text).unwrap();
        let mut server = Server::prepare(Setup::new().flag("--config", path.display()));
        let said = server.refused().await;
        assert!(said.contains(word), "{text:?}: {said}");
    }
    let mut server = Server::prepare(Setup::new().flag("--config", "/no/such/file.toml"));
    assert!(server.refused().await.contains("/no/such/file.toml"));
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_come_from_file_environment_and_flags_in_this_order() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("forebay.toml");
    fs::write(&path, "memory = \"100MiB\"\nlease = \"9min\"\n").unwrap();
    let by_file = Server::with(Setup::new().flag("--config", path.display())).await;
    assert_eq!(
        by_file.peer().await.describe().await.memory_limit,
        100 << 20
    );
    assert_eq!(
        by_file.peer().await.renew(&App::new("a")).await.unwrap(),
        9 * 60_000
    );
    let by_env = Server::with(
        Setup::new()
            .flag("--config", path.display())
            .env("FOREBAY_MEMORY", "50MiB"),
    )
    .await;
    assert_eq!(by_env.peer().await.describe().await.memory_limit, 50 << 20);
    let setup = Setup::new()
        .flag("--config", path.display())
        .env("FOREBAY_MEMORY", "50MiB")
        .flag("--memory", "25MiB");
    let by_flag = Server::with(setup).await;
    assert_eq!(by_flag.peer().await.describe().await.memory_limit, 25 << 20);
    assert_eq!(
        by_flag.peer().await.renew(&App::new("a")).await.unwrap(),
        9 * 60_000
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_refused_by_its_address() {
    let one = Server::start().await;
    let mut two = Server::prepare(Setup::new());
    two.listen_like(&one);
    let said = two.refused().await;
    assert!(said.contains(&one.addr().to_string()), "{said}");
}

/// Not a step is skipped when the server was stopped (a busy node, a debugger) and goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_frozen_goes_on_where_it_was() {
    let server = Server::start().await;
    let peer = server.peer().await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    let attempt = Attempt::generate(&app, 0, SHAPE, 0, 1);
    let mut push = peer.send(&attempt).await.unwrap();
    server.pause();
    push.send(Step::Commit(v1::Commit {
        totals: Some(attempt.totals()),
        more: false,
    }))
    .await;
    push.finish();
    tokio::time::sleep(Duration::from_millis(700)).await;
    server.resume();
    let receipt = push.receipt().await.unwrap();
    oracle.committed(&attempt, &receipt);
    oracle.check(&peer, &app, 0).await;
}
