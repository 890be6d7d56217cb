//! The push protocol: whole attempts or none, commits that can be repeated, streams that break, attempts that are opened again.

use shuffle_proto::v1::{self, push_request::Step};
use shuffle_tests::{
    App, Attempt, Kind, Oracle, Peer, Push, Server, Shape, eventually,
    peer::{assert_refused, fetch_range},
};
use std::time::Duration;

pub(crate) const SHAPE: Shape = Shape {
    maps: 4,
    partitions: 10,
    rounds: 2,
    block: 5000,
};

/// A server with one committed attempt (map 0), so that its shuffle is known and an answer can be compared exactly.
pub(crate) struct Stage {
    pub(crate) server: Server,
    pub(crate) peer: Peer,
    pub(crate) app: App,
    pub(crate) oracle: Oracle,
}

impl Stage {
    pub(crate) async fn new() -> Self {
        let server = Server::start().await;
        let peer = server.peer().await;
        let (app, mut oracle) = (App::new("app-1"), Oracle::default());
        oracle
            .push(&peer, &Attempt::generate(&app, 0, SHAPE, 0, 1))
            .await;
        Self {
            server,
            peer,
            app,
            oracle,
        }
    }

    pub(crate) fn attempt(&self) -> Attempt {
        Attempt::generate(&self.app, 0, SHAPE, 1, 2)
    }

    /// Exactly what was committed is visible, on a connection that still works, and after a crash.
    pub(crate) async fn check(mut self) {
        self.oracle.check(&self.peer, &self.app, 0).await;
        self.server.kill();
        self.server.restart().await;
        self.oracle
            .check(&self.server.peer().await, &self.app, 0)
            .await;
    }

    /// The attempt can still be pushed as it should be.
    pub(crate) async fn check_and_push(mut self) {
        self.oracle.check(&self.peer, &self.app, 0).await;
        let attempt = self.attempt();
        self.oracle.push(&self.peer, &attempt).await;
        self.check().await;
    }
}

pub(crate) fn commit(totals: v1::PartitionTotals) -> Step {
    Step::Commit(v1::Commit {
        totals: Some(totals),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_visible_before_the_commit() {
    let stage = Stage::new().await;
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
    let stage = Stage::new().await;
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
    let stage = Stage::new().await;
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

#[tokio::test(flavor = "multi_thread")]
async fn commit_without_its_last_batch_is_refused() {
    let stage = Stage::new().await;
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
    let stage = Stage::new().await;
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
    let stage = Stage::new().await;
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
    eventually(Duration::from_secs(20), || async {
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
    let stage = Stage::new().await;
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
    let stage = Stage::new().await;
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
    let stage = Stage::new().await;
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
        assert!(
            matches!(Kind::of(&refusal), Kind::Invalid | Kind::Fenced),
            "{refusal:?}"
        );
    }
    stage.check_and_push().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_counts_what_is_committed_and_only_that() {
    let stage = Stage::new().await;
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
