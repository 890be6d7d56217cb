//! Push: steps out of order, fields that cannot be, commits that come twice, streams that are too
//! many.

use std::time::Duration;

use bytes::Bytes;
use shuffle_proto::{
    kind::Kind,
    v1::{self, push_request::Step, push_response::Step as Answer},
};

use crate::stage::*;

#[tokio::test(flavor = "multi_thread")]
async fn steps_that_make_no_sense_are_refused_and_the_connection_lives() {
    let stage = Stage::start(1, |_| ()).await;
    let text = b"rows";
    let payload = Bytes::from_static(b"stray");
    let cases: Vec<(&str, Vec<v1::PushRequest>)> = vec![
        ("send open first", vec![batch(0, 1, 0, text)]),
        ("send open first", vec![step(commit(text))]),
        (
            "send open first",
            vec![step(Step::Abort(v1::Abort::default()))],
        ),
        (
            "on a stream of its own",
            vec![step(Step::Open(open(0, 1))), step(Step::Open(open(0, 2)))],
        ),
        (
            "send open, batch, commit or abort",
            vec![v1::PushRequest::default()],
        ),
        (
            "with batch only",
            vec![v1::PushRequest {
                payload,
                ..step(Step::Open(open(0, 1)))
            }],
        ),
        (
            "send all batches before commit",
            vec![
                step(Step::Open(open(0, 9))),
                batch(0, 9, 0, text),
                step(commit(text)),
                batch(0, 9, 1, text),
            ],
        ),
        (
            "batch.table.seq is 3: send 0",
            vec![step(Step::Open(open(0, 1))), batch(0, 1, 3, text)],
        ),
        (
            "partition",
            vec![
                step(Step::Open(open(0, 1))),
                batch(0, 1, 0, text),
                step(commit(b"other rows")),
            ],
        ),
    ];
    for (text, messages) in cases {
        let mut push = Push::start(&stage.channel).await;
        for message in messages {
            push.send(message).await;
        }
        assert_refused(&push.refusal().await, Kind::Invalid, &[text]);
    }
    stage.put(1, 2, text).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_is_checked_field_by_field() {
    let stage = Stage::start(1, |_| ()).await;
    type Spoil = fn(&mut v1::Open);
    let cases: [(Kind, &[&str], Spoil); 12] = [
        (Kind::Invalid, &["caller is absent"], |open| {
            open.caller = None
        }),
        (
            Kind::Invalid,
            &["caller.protocol is 0", "speaks 1 to 1"],
            |open| open.caller.as_mut().unwrap().protocol = 0,
        ),
        (Kind::Invalid, &["caller.app", "../etc"], |open| {
            open.caller.as_mut().unwrap().app = "../etc".into()
        }),
        (Kind::Denied, &["caller.token is empty"], |open| {
            open.caller = caller("")
        }),
        (Kind::Invalid, &["caller.token is 5000 bytes"], |open| {
            open.caller = caller(&"t".repeat(5000))
        }),
        (Kind::Invalid, &["open.num_maps is 0"], |open| {
            open.num_maps = 0
        }),
        (Kind::Invalid, &["open.num_partitions"], |open| {
            open.num_partitions = u32::MAX
        }),
        (Kind::Invalid, &["open.map_index is 8"], |open| {
            open.map_index = 8
        }),
        (
            Kind::Invalid,
            &[
                "open.durability is DURABILITY_UNSPECIFIED",
                "DURABILITY_DISK (2)",
            ],
            |open| open.durability = 0,
        ),
        (
            Kind::Invalid,
            &["open.durability is DURABILITY_MIRROR"],
            |open| open.durability = 4,
        ),
        (
            Kind::Invalid,
            &["open.durability is DURABILITY_OBJECT"],
            |open| open.durability = 5,
        ),
        (Kind::Invalid, &["open.durability is 77"], |open| {
            open.durability = 77
        }),
    ];
    for (kind, words, spoil) in cases {
        let mut open = open(0, 1);
        spoil(&mut open);
        let refusal = stage.push(open).await.unwrap().refusal().await;
        assert_refused(&refusal, kind, words);
    }
    let mut newer = open(0, 1);
    newer.caller.as_mut().unwrap().protocol = 9;
    let Answer::Opened(opened) = stage.push(newer).await.unwrap().hear().await.unwrap() else {
        panic!("no Opened")
    };
    assert_eq!(opened.protocol, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_sent_again_gets_the_same_answer_and_another_one_is_refused() {
    let stage = Stage::start(2, |_| ()).await;
    let first = stage.put(3, 7, b"rows").await;
    let mut again = stage.push(open(3, 7)).await.unwrap();
    let Answer::Opened(opened) = again.hear().await.unwrap() else {
        panic!("no Opened")
    };
    assert!(opened.committed);
    assert_eq!(opened.volume, first.volume);
    // A client that did not wait for Opened has sent its batches: they are skipped.
    again.send(batch(3, 7, 0, b"rows")).await;
    assert_eq!(
        again.hear().await.unwrap(),
        Answer::Ack(v1::Ack { batches: 1 })
    );
    for _ in 0..2 {
        again.say(commit(b"rows")).await;
        assert_eq!(
            again.hear().await.unwrap(),
            Answer::Committed(first.clone())
        );
    }
    again.say(commit(b"more rows")).await;
    assert_eq!(Kind::of(&again.refusal().await), Kind::Invalid);
    let here = v1::FetchRequest {
        volumes: vec![first.volume],
        ..stage.all()
    };
    let (payload, _) = stage.fetch(here).await.unwrap();
    assert_eq!(payload, b"rows");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_streams_than_an_app_may_have_are_told_to_come_back() {
    let stage = Stage::start(1, |config| config.max_streams_per_app = 2).await;
    let mut held = Vec::new();
    for map in 0..2 {
        let mut push = stage.push(open(map, u64::from(map))).await.unwrap();
        push.hear().await.unwrap();
        held.push(push);
    }
    let refusal = stage.push(open(2, 2)).await.unwrap().refusal().await;
    assert_refused(&refusal, Kind::Busy, &["max-streams-per-app"]);
    assert!(Kind::retry_after(&refusal).is_some());
    drop(held);
    for _ in 0..3000 {
        if stage.push(open(2, 2)).await.unwrap().hear().await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("streams that ended are still counted");
}
