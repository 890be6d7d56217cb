//! Attempts that are opened, committed or aborted more than once, and attempts of one map beside
//! each other.

use shuffle_proto::v1::{self, push_request::Step, push_response};
use shuffle_tests::{Attempt, Kind, Stage, peer::assert_refused};

use crate::push::{SHAPE, commit};

#[tokio::test(flavor = "multi_thread")]
async fn second_commit_of_an_attempt_answers_as_the_first() {
    let mut stage = Stage::new(SHAPE).await;
    let attempt = stage.attempt();
    let first = stage.oracle.push(&stage.peer, &attempt).await;
    // On a new stream, on a new connection, and after a restart.
    for round in 0..3 {
        let peer = stage.server.peer().await;
        let (push, opened) = peer.open(attempt.open()).await.unwrap();
        assert!(opened.committed, "round {round}");
        assert_eq!(opened.volume, first.volume);
        assert_eq!(
            push.commit(attempt.totals()).await.unwrap(),
            first,
            "round {round}"
        );
        if round == 1 {
            stage.server.kill();
            stage.server.restart().await;
            stage.peer = stage.server.peer().await;
        }
    }
    stage.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn second_commit_with_other_totals_is_refused() {
    let mut stage = Stage::new(SHAPE).await;
    let attempt = stage.attempt();
    stage.oracle.push(&stage.peer, &attempt).await;
    let (push, opened) = stage.peer.open(attempt.open()).await.unwrap();
    assert!(opened.committed);
    let mut totals = attempt.totals();
    totals.records[0] += 1;
    let refusal = push.commit(totals).await.unwrap_err();
    assert_refused(&refusal, Kind::Invalid, &["partition", "records"]);
    stage.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_commits_on_one_stream_change_nothing() {
    let mut stage = Stage::new(SHAPE).await;
    let attempt = stage.attempt();
    let mut push = stage.peer.send(&attempt).await.unwrap();
    push.send(commit(attempt.totals())).await;
    push.send(commit(attempt.totals())).await;
    push.finish();
    let Ok(Some(push_response::Step::Committed(first))) = push.answer().await else {
        panic!("no receipt")
    };
    let second = push.answer().await.unwrap();
    assert_eq!(second, Some(push_response::Step::Committed(first.clone())));
    stage.oracle.committed(&attempt, &first);
    stage.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_after_the_commit_is_not_kept() {
    let mut stage = Stage::new(SHAPE).await;
    let attempt = stage.attempt();
    let longer = attempt.clone().with_block(9, vec![9; 100]);
    let mut push = stage.peer.send(&attempt).await.unwrap();
    push.send(commit(attempt.totals())).await;
    push.batches(longer.batches_from(attempt.blocks.len(), 1 << 20))
        .await;
    push.finish();
    let Ok(Some(push_response::Step::Committed(first))) = push.answer().await else {
        panic!("no receipt")
    };
    let refusal = push.answer().await.unwrap_err();
    assert_refused(&refusal, Kind::Invalid, &["batch after commit"]);
    stage.oracle.committed(&attempt, &first);

    // And on a new stream that was told that the attempt is committed.
    let (mut push, opened) = stage.peer.open(attempt.open()).await.unwrap();
    assert!(opened.committed);
    push.batches(longer.batches_from(attempt.blocks.len(), 1 << 20))
        .await;
    push.send(commit(longer.totals())).await;
    push.finish();
    let refusal = push.refusal().await;
    assert_refused(&refusal, Kind::Invalid, &["partition 9"]);
    stage.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commit_after_abort_is_refused() {
    let stage = Stage::new(SHAPE).await;
    let attempt = stage.attempt();
    let mut push = stage.peer.send(&attempt).await.unwrap();
    push.send(Step::Abort(v1::Abort {
        reason: "changed my mind".into(),
    }))
    .await;
    push.send(commit(attempt.totals())).await;
    push.finish();
    match push.answer().await {
        Ok(None) | Err(_) => {}
        Ok(other) => panic!("an aborted attempt answers {other:?}"),
    }
    stage.check_and_push().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_is_opened_again_closes_its_older_stream() {
    let mut stage = Stage::new(SHAPE).await;
    let attempt = stage.attempt();
    let mut old = stage.peer.send(&attempt).await.unwrap();
    old.acked(attempt.batches().len() as u64).await.unwrap();
    let new = stage.server.peer().await.send(&attempt).await.unwrap();
    // The older stream cannot commit what it brought, neither before nor after the newer.
    assert_refused(
        &old.commit(attempt.totals()).await.unwrap_err(),
        Kind::Fenced,
        &[],
    );
    stage.oracle.check(&stage.peer, &stage.app, 0).await;
    let receipt = new.commit(attempt.totals()).await.unwrap();
    stage.oracle.committed(&attempt, &receipt);
    stage.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_stream_cannot_add_to_the_newer_one() {
    let mut stage = Stage::new(SHAPE).await;
    let attempt = stage.attempt();
    let batches = attempt.batches_from(0, 1);
    let (mut old, _) = stage.peer.open(attempt.open()).await.unwrap();
    old.batches(batches[..3].to_vec()).await;
    old.acked(3).await.unwrap();
    let (mut new, _) = stage.peer.open(attempt.open()).await.unwrap();
    new.batches(batches[..3].to_vec()).await;
    old.batches(batches[3..].to_vec()).await;
    new.batches(batches[3..].to_vec()).await;
    let receipt = new.commit(attempt.totals()).await.unwrap();
    stage.oracle.committed(&attempt, &receipt);
    assert_refused(&old.refusal().await, Kind::Fenced, &[]);
    stage.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_attempt_opened_by_many_at_once_is_committed_once() {
    let mut stage = Stage::new(SHAPE).await;
    let attempt = stage.attempt();
    let mut tries = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let (peer, attempt) = (stage.server.peer().await, attempt.clone());
        tries.spawn(async move {
            let (mut push, opened) = peer.open(attempt.open()).await?;
            if !opened.committed {
                push.batches(attempt.batches_from(0, 3000)).await;
            }
            push.commit(attempt.totals()).await
        });
    }
    let mut receipts = Vec::new();
    while let Some(done) = tries.join_next().await {
        match done.unwrap() {
            Ok(receipt) => receipts.push(receipt),
            // Taken over, or it met a commit that was just being written.
            Err(status) => assert!(
                matches!(Kind::of(&status), Kind::Fenced | Kind::Busy),
                "{status:?}"
            ),
        }
    }
    assert!(
        !receipts.is_empty(),
        "the last one to open is fenced by nobody"
    );
    assert!(receipts.windows(2).all(|pair| pair[0] == pair[1]));
    stage.oracle.committed(&attempt, &receipts[0]);
    stage.check().await;
}

/// Peers mixed rows of two attempts of one task (Celeborn 1496) and lost late ones.
#[tokio::test(flavor = "multi_thread")]
async fn attempts_of_one_map_stay_apart_whatever_their_order() {
    let mut stage = Stage::new(SHAPE).await;
    let attempts: Vec<_> = (0..6)
        .map(|i| Attempt::generate(&stage.app, 0, SHAPE, 1, 40 + i))
        .collect();
    let mut pushes = Vec::new();
    for attempt in &attempts {
        pushes.push(stage.peer.send(attempt).await.unwrap());
    }
    for (i, push) in pushes.into_iter().enumerate().rev() {
        if i % 3 == 0 {
            push.abort().await;
            continue;
        }
        let receipt = push.commit(attempts[i].totals()).await.unwrap();
        stage.oracle.committed(&attempts[i], &receipt);
        stage.oracle.check(&stage.peer, &stage.app, 0).await;
    }
    stage.check().await;
}
