//! The push protocol: whole attempts or none, repeatable commits, broken streams, reopened
//! attempts.

use shuffle_proto::v1::{self, push_request::Step};
use shuffle_tests::{
    Attempt, Kind, Push, STEP, Shape, Stage, eventually,
    peer::{assert_refused, fetch_range},
};

pub(crate) const SHAPE: Shape = Shape {
    maps: 4,
    partitions: 10,
    rounds: 2,
    block: 5000,
};

pub(crate) fn commit(totals: v1::PartitionTotals) -> Step {
    Step::Commit(v1::Commit {
        totals: Some(totals),
        more: false,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_visible_before_the_commit() {
    let stage = Stage::new(SHAPE).await;
    let attempt = stage.attempt();
    let mut push = stage.peer.send(&attempt).await.unwrap();
    push.acked(attempt.batches().len() as u64).await.unwrap();
    stage.oracle.check(&stage.peer, &stage.app, 0).await;
    let receipt = push.commit(attempt.totals()).await.unwrap();
    let mut stage = stage;
    stage.oracle.committed(&attempt, &receipt);
    stage.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acks_count_every_batch() {
    let stage = Stage::new(SHAPE).await;
    let attempt = stage.attempt();
    let (mut push, _) = stage.peer.open(attempt.open()).await.unwrap();
    for (sent, message) in attempt.batches_from(0, 1).into_iter().enumerate() {
        push.send_message(message).await;
        push.acked(sent as u64 + 1).await.unwrap();
        assert_eq!(push.acked, sent as u64 + 1, "an ack for what was not sent");
    }
    push.abort().await;
    stage.check_and_push().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commit_that_does_not_match_is_refused_and_leaves_nothing() {
    type Spoil = (&'static str, fn(&mut v1::PartitionTotals));
    let spoils: [Spoil; 9] = [
        ("one block more", |t| t.blocks[3] += 1),
        ("one byte more", |t| t.bytes[3] += 1),
        ("one byte less", |t| t.bytes[0] -= 1),
        ("one record more", |t| t.records[3] += 1),
        ("another partition", |t| {
            *t.partition.last_mut().unwrap() = 9
        }),
        ("one partition less", |t| {
            t.partition.pop();
            t.blocks.pop();
            t.bytes.pop();
            t.records.pop();
        }),
        ("nothing at all", |t| *t = v1::PartitionTotals::default()),
        ("bytes moved between partitions", |t| {
            t.bytes[0] += 1;
            t.bytes[1] -= 1;
        }),
        ("sums that overflow to the right ones", |t| {
            t.bytes[0] = t.bytes[0].wrapping_sub(u64::MAX / 2);
            t.bytes[1] = t.bytes[1].wrapping_add(u64::MAX / 2);
        }),
    ];
    let stage = Stage::new(SHAPE).await;
    for (i, (name, spoil)) in spoils.into_iter().enumerate() {
        let mut attempt = Attempt::empty(&stage.app, 0, SHAPE, 1, 100 + i as u64);
        for partition in 0..8 {
            attempt = attempt.with_block(partition, vec![partition as u8; 700]);
        }
        let push = stage.peer.send(&attempt).await.unwrap();
        let mut totals = attempt.totals();
        spoil(&mut totals);
        let refusal = push.commit(totals).await.unwrap_err();
        assert_eq!(Kind::of(&refusal), Kind::Invalid, "{name}: {refusal:?}");
        assert!(!refusal.message().is_empty(), "{name}");
        stage.oracle.check(&stage.peer, &stage.app, 0).await;
    }
    stage.check_and_push().await;
}

/// The totals in parts of so many partitions.
fn parts(totals: &v1::PartitionTotals, size: usize) -> Vec<Step> {
    let count = totals.partition.len();
    let part = |start: usize| {
        let range = start..count.min(start + size);
        Step::Commit(v1::Commit {
            totals: Some(v1::PartitionTotals {
                partition: totals.partition[range.clone()].to_vec(),
                blocks: totals.blocks[range.clone()].to_vec(),
                bytes: totals.bytes[range.clone()].to_vec(),
                records: totals.records[range.clone()].to_vec(),
            }),
            more: range.end < count,
        })
    };
    (0..count).step_by(size).map(part).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn totals_come_in_any_number_of_parts() {
    let mut stage = Stage::new(SHAPE).await;
    for (map, size) in [(1, 1), (2, 3), (3, 100)] {
        let attempt = Attempt::generate(&stage.app, 0, SHAPE, map, 10 + u64::from(map));
        let mut push = stage.peer.send(&attempt).await.unwrap();
        for part in parts(&attempt.totals(), size) {
            push.send(part).await;
        }
        push.finish();
        let receipt = push.receipt().await.unwrap();
        stage.oracle.committed(&attempt, &receipt);
        // And again on a new stream, as when the receipt was lost.
        let (mut push, opened) = stage.peer.open(attempt.open()).await.unwrap();
        assert!(opened.committed);
        for part in parts(&attempt.totals(), size) {
            push.send(part).await;
        }
        push.finish();
        assert_eq!(push.receipt().await.unwrap(), receipt);
    }
    stage.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_do_not_fit_each_other_are_refused_and_leave_nothing() {
    let stage = Stage::new(SHAPE).await;
    let attempt = stage.attempt();
    let good = parts(&attempt.totals(), 3);
    let (first, last) = (good[0].clone(), good[good.len() - 1].clone());
    let batch = Step::Batch(v1::Batch::default());
    let wrong: [(Vec<Step>, &str); 5] = [
        (vec![first.clone(), first.clone()], "partition"),
        (vec![last.clone()], "partition"),
        (vec![first.clone(), batch], "batch after commit"),
        (vec![first.clone(), last.clone()], "partition"),
        (
            {
                let mut more = attempt.totals();
                more.blocks[0] += 1000;
                parts(&more, 3)
            },
            "totals",
        ),
    ];
    for (steps, word) in wrong {
        let mut push = stage.peer.send(&attempt).await.unwrap();
        for step in steps {
            push.send(step).await;
        }
        assert_refused(&push.refusal().await, Kind::Invalid, &[word]);
    }
    // Begun and not ended.
    let mut push = stage.peer.send(&attempt).await.unwrap();
    push.send(first).await;
    push.finish();
    assert_eq!(push.answer().await.unwrap(), None);
    stage.check_and_push().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commit_without_its_last_batch_is_refused() {
    let stage = Stage::new(SHAPE).await;
    let attempt = stage.attempt();
    let (mut push, _) = stage.peer.open(attempt.open()).await.unwrap();
    let mut batches = attempt.batches_from(0, 10_000);
    batches.pop();
    push.batches(batches).await;
    assert_refused(
        &push.commit(attempt.totals()).await.unwrap_err(),
        Kind::Invalid,
        &["partition"],
    );
    stage.check_and_push().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_before_its_commit_leaves_nothing() {
    let stage = Stage::new(SHAPE).await;
    for attempt in 10..20 {
        let attempt = Attempt::generate(&stage.app, 0, SHAPE, 1, attempt);
        let mut push = stage.peer.send(&attempt).await.unwrap();
        match attempt.attempt % 3 {
            0 => drop(push),         // reset
            1 => push.finish(),      // ended politely
            _ => push.abort().await, // as it should be
        }
    }
    // A whole connection that goes away.
    let lonely = stage.server.peer().await;
    let push = lonely
        .send(&Attempt::generate(&stage.app, 0, SHAPE, 1, 30))
        .await
        .unwrap();
    drop(lonely);
    drop(push);
    stage.check_and_push().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_broken_streams_brought_is_given_back() {
    let stage = Stage::new(SHAPE).await;
    let shape = Shape {
        block: 300_000,
        ..SHAPE
    };
    for attempt in 0..30 {
        let push = stage
            .peer
            .send(&Attempt::generate(&stage.app, 0, shape, 1, 50 + attempt))
            .await
            .unwrap();
        drop(push);
    }
    let peer = &stage.peer;
    let committed = stage.oracle.bytes(&stage.app, 0);
    eventually(STEP, || async {
        let describe = peer.describe().await;
        let used = (describe.memory_used, describe.volumes[0].bytes_used);
        // Each of them is a few MiB.
        if used.0 <= 2 * committed + 4096 && used.1 <= 8 * committed + (1 << 20) {
            Ok(())
        } else {
            Err(format!("{used:?} used"))
        }
    })
    .await;
    stage.check_and_push().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_out_of_order_are_refused() {
    let stage = Stage::new(SHAPE).await;
    let attempt = stage.attempt();
    let batches = attempt.batches_from(0, 1);
    let cases: [(&str, Vec<v1::PushRequest>); 7] = [
        ("batch before open", batches[..1].to_vec()),
        (
            "commit before open",
            vec![message(commit(attempt.totals()))],
        ),
        (
            "abort before open",
            vec![message(Step::Abort(v1::Abort::default()))],
        ),
        (
            "open twice",
            vec![
                message(Step::Open(attempt.open())),
                message(Step::Open(attempt.open())),
            ],
        ),
        ("nothing set", vec![v1::PushRequest::default()]),
        (
            "nothing set after open",
            vec![
                message(Step::Open(attempt.open())),
                v1::PushRequest::default(),
            ],
        ),
        (
            "payload with open",
            vec![v1::PushRequest {
                payload: vec![1; 10].into(),
                ..message(Step::Open(attempt.open()))
            }],
        ),
    ];
    for (name, messages) in cases {
        let mut push = Push::start(&stage.peer).await;
        push.batches(messages).await;
        push.finish();
        let refusal = push.refusal().await;
        assert_eq!(Kind::of(&refusal), Kind::Invalid, "{name}: {refusal:?}");
    }
    stage.check_and_push().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_says_nothing_harms_nobody() {
    let stage = Stage::new(SHAPE).await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(Push::start(&stage.peer).await);
    }
    let mut polite = Push::start(&stage.peer).await;
    polite.finish();
    let _ = polite.answer().await;
    stage.check_and_push().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shuffle_that_changes_its_shape_is_refused() {
    let stage = Stage::new(SHAPE).await;
    for (maps, partitions) in [
        (SHAPE.maps + 1, SHAPE.partitions),
        (SHAPE.maps, SHAPE.partitions + 1),
        (SHAPE.maps, 1),
    ] {
        let shape = Shape {
            maps,
            partitions,
            ..SHAPE
        };
        let refusal = match stage
            .peer
            .open(Attempt::empty(&stage.app, 0, shape, 1, 77).open())
            .await
        {
            Ok((mut push, _)) => push.refusal().await,
            Err(status) => status,
        };
        assert_refused(&refusal, Kind::Invalid, &["maps", "partitions"]);
    }
    stage.check_and_push().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_counts_what_is_committed_and_only_that() {
    let stage = Stage::new(SHAPE).await;
    let attempt = stage.attempt();
    let push = stage.peer.send(&attempt).await.unwrap();
    let before = stage.peer.usage(&stage.app, Some(0)).await.unwrap();
    assert_eq!(before.attempts, 1);
    assert_eq!(
        before.levels.iter().map(|level| level.bytes).sum::<u64>(),
        stage.oracle.bytes(&stage.app, 0)
    );
    push.commit(attempt.totals()).await.unwrap();
    for shuffle in [Some(0), None] {
        let after = stage.peer.usage(&stage.app, shuffle).await.unwrap();
        assert_eq!(after.attempts, 2);
        assert!(
            after
                .levels
                .iter()
                .all(|level| level.durability >= v1::Durability::Disk as i32),
            "{after:?}"
        );
        let bytes = stage.oracle.bytes(&stage.app, 0) + attempt.bytes();
        assert_eq!(
            after.levels.iter().map(|level| level.bytes).sum::<u64>(),
            bytes
        );
    }
    let fetched = stage
        .peer
        .fetch(fetch_range(
            &stage.app,
            0,
            stage.server.volumes(),
            0..u32::MAX,
            0..u32::MAX,
        ))
        .await;
    // partition_end beyond the shuffle is either clamped or refused; never a wrong answer.
    if let Err(status) = fetched {
        assert_eq!(Kind::of(&status), Kind::Invalid);
    }
}

fn message(step: Step) -> v1::PushRequest {
    v1::PushRequest {
        step: Some(step),
        payload: bytes::Bytes::new(),
    }
}
