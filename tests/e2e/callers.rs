//! Callers: ids, tokens, versions, leases and quotas, in every call that has them.

use shuffle_tests::{
    App, Attempt, Kind, Oracle, Server, Setup, Stage,
    peer::{assert_refused, fetch_first},
    v1,
};

use crate::hostile::{SHAPE, invalid};

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_cannot_be_are_refused_in_every_call() {
    let stage = Stage::new(SHAPE).await;
    let long = "a".repeat(129);
    let ids = [
        "",
        ".",
        "..",
        "../../etc/passwd",
        "a/b",
        "a b",
        "ä",
        "a\0b",
        "a\nb",
        long.as_str(),
    ];
    let mut callers: Vec<(v1::Caller, &str)> = ids
        .iter()
        .map(|id| {
            (
                v1::Caller {
                    app: (*id).to_owned(),
                    ..stage.app.caller()
                },
                "app",
            )
        })
        .collect();
    callers.push((
        v1::Caller {
            protocol: 0,
            ..stage.app.caller()
        },
        "protocol",
    ));
    callers.push((
        v1::Caller {
            token: "t".repeat(4097),
            ..stage.app.caller()
        },
        "token",
    ));
    for (caller, field) in callers {
        let mut control = stage.peer.control.clone();
        let some = Some(caller.clone());
        let refusals = [
            stage.open(|o| o.caller = Some(caller.clone())).await,
            stage.fetch(|f| f.caller = Some(caller.clone())).await,
            control
                .renew_lease(v1::RenewLeaseRequest {
                    caller: some.clone(),
                    ..Default::default()
                })
                .await
                .unwrap_err(),
            control
                .delete_shuffle(v1::DeleteShuffleRequest {
                    caller: some.clone(),
                    shuffle: 0,
                })
                .await
                .unwrap_err(),
            control
                .delete_app(v1::DeleteAppRequest {
                    caller: some.clone(),
                })
                .await
                .unwrap_err(),
            control
                .usage(v1::UsageRequest {
                    caller: some,
                    shuffle: None,
                })
                .await
                .unwrap_err(),
        ];
        for refusal in &refusals {
            // A token that is too long may as well be called a wrong one.
            if field == "token" && Kind::of(refusal) == Kind::Denied {
                continue;
            }
            invalid(refusal, &[field]);
            assert!(
                refusal.message().len() < 1000,
                "a message of {} bytes",
                refusal.message().len()
            );
            assert!(
                !refusal.message().contains(&stage.app.token),
                "the secret is in {:?}",
                refusal.message()
            );
        }
    }
    stage.check_and_push().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn newer_callers_are_answered_in_our_version() {
    let stage = Stage::new(SHAPE).await;
    let mut open = Attempt::empty(&stage.app, 0, SHAPE, 1, 2).open();
    open.caller.as_mut().unwrap().protocol = 1000;
    let (push, opened) = stage.peer.open(open).await.unwrap();
    assert_eq!(opened.protocol, 1);
    push.abort().await;
    let described = stage
        .peer
        .control
        .clone()
        .describe(v1::DescribeRequest { protocol: 1000 })
        .await
        .unwrap()
        .into_inner();
    assert_eq!((described.protocol_min, described.protocol_max), (1, 1));
    assert!(!described.version.is_empty());
    stage.check_and_push().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_opens_nothing() {
    let stage = Stage::new(SHAPE).await;
    let long = "x".repeat(4096);
    for token in [
        "",
        "wrong",
        "token-of-app-2",
        "token-of-app-1 ",
        "TOKEN-OF-APP-1",
        long.as_str(),
    ] {
        let thief = App {
            token: token.to_owned(),
            ..stage.app.clone()
        };
        let refusals = [
            stage.open(|o| o.caller = Some(thief.caller())).await,
            stage.fetch(|f| f.caller = Some(thief.caller())).await,
            stage.peer.renew(&thief).await.unwrap_err(),
            stage.peer.delete_shuffle(&thief, 0).await.unwrap_err(),
            stage.peer.delete_app(&thief).await.unwrap_err(),
            stage.peer.usage(&thief, None).await.unwrap_err(),
        ];
        for refusal in &refusals {
            assert_refused(refusal, Kind::Denied, &["token"]);
            assert!(
                !refusal.message().contains("token-of-app-1"),
                "the secret is in {:?}",
                refusal.message()
            );
        }
    }
    let log = stage.server.log();
    assert!(
        !log.contains("token-of-app-1") && !log.contains("token-of-app-2"),
        "a secret is in the log"
    );
    stage.check_and_push().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_app_cannot_see_or_delete_what_is_anothers() {
    let mut stage = Stage::new(SHAPE).await;
    let other = App::new("app-2");
    assert_refused(
        &stage
            .peer
            .fetch(fetch_first(&other, 0, stage.server.volumes()))
            .await
            .unwrap_err(),
        Kind::Lost,
        &[],
    );
    stage
        .oracle
        .push(&stage.peer, &Attempt::generate(&other, 0, SHAPE, 0, 1))
        .await;
    stage.oracle.check(&stage.peer, &other, 0).await;
    stage.oracle.check(&stage.peer, &stage.app, 0).await;
    stage.peer.delete_shuffle(&other, 0).await.unwrap();
    stage.oracle.check(&stage.peer, &stage.app, 0).await;
    stage.peer.delete_app(&other).await.unwrap();
    // Ids that begin like another's.
    for id in ["app-", "app-11", "app-1.", "APP-1"] {
        let near = App::new(id);
        stage
            .oracle
            .push(&stage.peer, &Attempt::generate(&near, 0, SHAPE, 0, 1))
            .await;
        stage.oracle.check(&stage.peer, &near, 0).await;
        stage.peer.delete_app(&near).await.unwrap();
    }
    stage.check_and_push().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_stays_bound_over_a_restart() {
    let mut stage = Stage::new(SHAPE).await;
    stage.server.kill();
    stage.server.restart().await;
    stage.peer = stage.server.peer().await;
    let thief = App {
        token: "first come".into(),
        ..stage.app.clone()
    };
    assert_refused(
        &stage.peer.delete_app(&thief).await.unwrap_err(),
        Kind::Denied,
        &[],
    );
    assert_refused(
        &stage.peer.renew(&thief).await.unwrap_err(),
        Kind::Denied,
        &[],
    );
    stage.check_and_push().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_of_any_length_are_taken_within_bounds() {
    let stage = Stage::new(SHAPE).await;
    for (i, lease) in [1, 1000, u64::from(u32::MAX), u64::MAX / 1000, u64::MAX]
        .into_iter()
        .enumerate()
    {
        let app = App::new(&format!("lease-{i}")).lease_ms(lease);
        match stage.peer.renew(&app).await {
            Ok(granted) => assert!(granted > 0),
            Err(status) => invalid(&status, &["lease"]),
        }
    }
    stage.check_and_push().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_too_many_is_told_to_come_back_later() {
    let setup = Setup::new()
        .flag("--max-apps", 2)
        .flag("--max-streams-per-app", 3);
    let server = Server::with(setup).await;
    let peer = server.peer().await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    let mut running = Vec::new();
    for map in 0..3 {
        let attempt = Attempt::generate(&app, 0, SHAPE, map, u64::from(map));
        running.push((peer.send(&attempt).await.unwrap(), attempt));
    }
    let fourth = Attempt::generate(&app, 0, SHAPE, 3, 3);
    assert_refused(&peer.send(&fourth).await.err().unwrap(), Kind::Busy, &[]);
    for (push, attempt) in running {
        let receipt = push.commit(attempt.totals()).await.unwrap();
        oracle.committed(&attempt, &receipt);
    }
    oracle.push(&peer, &fourth).await;
    peer.renew(&App::new("app-2")).await.unwrap();
    assert_refused(
        &peer.renew(&App::new("app-3")).await.unwrap_err(),
        Kind::Busy,
        &[],
    );
    peer.delete_app(&App::new("app-2")).await.unwrap();
    peer.renew(&App::new("app-3")).await.unwrap();
    oracle.check(&peer, &app, 0).await;
}
