//! Bytes that are no messages: truncated, oversized, or no HTTP/2 at all. The connection, or at
//! least the server, goes on.

use bytes::Bytes;
use prost::Message;
use shuffle_proto::v1::{self, push_request::Step};
use shuffle_tests::{
    App, Attempt, Kind, Oracle, Peer, Server, Shape,
    attempt::Random,
    random_bytes,
    raw::{self, grpc_frame},
};

const PUSH: &str = "/forebay.v1.Data/Push";
const FETCH: &str = "/forebay.v1.Data/Fetch";
const SHAPE: Shape = Shape {
    maps: 4,
    partitions: 10,
    rounds: 1,
    block: 5000,
};

async fn stage() -> (Server, Peer, App, Oracle) {
    let server = Server::start().await;
    let peer = server.peer().await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    oracle
        .push(&peer, &Attempt::generate(&app, 0, SHAPE, 0, 1))
        .await;
    (server, peer, app, oracle)
}

/// A push of one attempt as the bytes of its stream.
fn whole_push(attempt: &Attempt) -> Vec<u8> {
    let mut bytes = Vec::new();
    let steps = [
        Step::Open(attempt.open()),
        Step::Commit(v1::Commit {
            totals: Some(attempt.totals()),
            more: false,
        }),
    ];
    let [open, commit] = steps.map(|step| v1::PushRequest {
        step: Some(step),
        payload: Bytes::new(),
    });
    bytes.extend_from_slice(&grpc_frame(&open.encode_to_vec()));
    attempt
        .batches()
        .iter()
        .for_each(|batch| bytes.extend_from_slice(&grpc_frame(&batch.encode_to_vec())));
    bytes.extend_from_slice(&grpc_frame(&commit.encode_to_vec()));
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_in_pieces_of_any_size_is_the_same_push() {
    let (_server, peer, app, mut oracle) = stage().await;
    for (i, size) in [1usize, 2, 3, 5, 7, 64, 1000].into_iter().enumerate() {
        let mut attempt = Attempt::empty(&app, 0, SHAPE, 1, 100 + i as u64);
        for partition in 0..5 {
            attempt = attempt.with_block(
                partition,
                random_bytes(u64::from(partition) + i as u64, 200),
            );
        }
        let bytes = whole_push(&attempt);
        let pieces = bytes.chunks(size).map(Bytes::copy_from_slice).collect();
        let answer = raw::call(&peer, PUSH, pieces, true).await;
        assert_eq!(
            answer.status.as_ref().map(tonic::Status::code),
            Some(tonic::Code::Ok),
            "{answer:?}"
        );
        let (volume, durability) = (
            oracle.volumes(&app, 0)[0].clone().into(),
            attempt.durability as i32,
        );
        oracle.committed(
            &attempt,
            &v1::Committed {
                volume,
                durability,
                bytes: attempt.bytes(),
                records: attempt.records(),
            },
        );
        oracle.check(&peer, &app, 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_cut_off_anywhere_leaves_nothing() {
    let (_server, peer, app, oracle) = stage().await;
    let attempt = Attempt::empty(&app, 0, SHAPE, 1, 2)
        .with_block(1, vec![1; 60])
        .with_block(4, vec![4; 60]);
    let bytes = whole_push(&attempt);
    for cut in 0..bytes.len() {
        let answer = raw::call(
            &peer,
            PUSH,
            vec![Bytes::copy_from_slice(&bytes[..cut])],
            true,
        )
        .await;
        let committed = find_committed(&answer.body);
        assert!(
            !committed,
            "a push cut off at {cut} of {} is committed",
            bytes.len()
        );
    }
    oracle.check(&peer, &app, 0).await;
}

/// Whether a receipt is among the answers.
fn find_committed(mut body: &[u8]) -> bool {
    while body.len() >= 5 {
        let length = u32::from_be_bytes([body[1], body[2], body[3], body[4]]) as usize;
        let message = v1::PushResponse::decode(&body[5..5 + length]).unwrap();
        if matches!(message.step, Some(v1::push_response::Step::Committed(_))) {
            return true;
        }
        body = &body[5 + length..];
    }
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_announce_too_much_are_refused_before_they_come() {
    let (_server, peer, app, oracle) = stage().await;
    let open = v1::PushRequest {
        step: Some(Step::Open(Attempt::empty(&app, 0, SHAPE, 1, 2).open())),
        payload: Bytes::new(),
    };
    let open = grpc_frame(&open.encode_to_vec());
    for length in [u32::MAX, 1 << 31, 64 << 20, 13 << 20] {
        let mut announced = vec![0];
        announced.extend_from_slice(&length.to_be_bytes());
        announced.extend_from_slice(&[0x7a, 0xff, 0xff, 0xff, 0x0f]);
        for prefix in [vec![], vec![open.clone()]] {
            let pieces = prefix
                .into_iter()
                .chain([Bytes::from(announced.clone())])
                .collect();
            // The stream stays open: a server that waits for the bytes would never answer.
            let answer = raw::call(&peer, PUSH, pieces, false).await;
            let status = answer.status.expect("a refusal");
            assert_eq!(Kind::of(&status), Kind::Invalid, "{length}: {status:?}");
        }
        let answer = raw::call(&peer, FETCH, vec![Bytes::from(announced)], false).await;
        assert_eq!(
            answer.status.as_ref().map(Kind::of),
            Some(Kind::Invalid),
            "{length}: {answer:?}"
        );
    }
    oracle.check(&peer, &app, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn noise_in_a_stream_is_refused_and_the_connection_goes_on() {
    let (_server, peer, app, oracle) = stage().await;
    let mut random = Random(42);
    let good = whole_push(&Attempt::empty(&app, 0, SHAPE, 1, 2).with_block(1, vec![1; 300]));
    let paths = [
        PUSH,
        FETCH,
        "/forebay.v1.Control/Describe",
        "/forebay.v1.Control/DeleteApp",
        "/forebay.v1.Control/Nothing",
        "/x",
    ];
    for round in 0..300 {
        let path = paths[random.below(paths.len() as u64) as usize];
        let mut bytes = match round % 3 {
            0 => random_bytes(round, random.below(200) as usize).to_vec(),
            1 => grpc_frame(&random_bytes(round, random.below(200) as usize)).to_vec(),
            _ => good.clone(),
        };
        if round % 3 == 2 {
            // One changed byte outside of the payload may still be a valid message, but then not
            // this attempt's commit.
            let at = random.below(80) as usize;
            bytes[at] ^= 1 << random.below(8);
            bytes.truncate(bytes.len() - 40);
        }
        let answer = raw::call(&peer, path, vec![bytes.into()], true).await;
        assert!(
            !(path == PUSH && find_committed(&answer.body)),
            "noise is committed"
        );
        // The generated services use their own words, ours name the culprit.
        if let Some(status) = &answer.status
            && (path == PUSH || path == FETCH)
        {
            assert_ne!(
                status.code(),
                tonic::Code::Internal,
                "noise is the sender's fault: {status:?}"
            );
        }
    }
    oracle.check(&peer, &app, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_messages_are_refused_clearly() {
    let (_server, peer, app, oracle) = stage().await;
    let open = v1::PushRequest {
        step: Some(Step::Open(Attempt::empty(&app, 0, SHAPE, 1, 2).open())),
        payload: Bytes::new(),
    };
    let mut frame = grpc_frame(&open.encode_to_vec()).to_vec();
    frame[0] = 1;
    let answer = raw::call(&peer, PUSH, vec![frame.into()], true).await;
    let status = answer.status.expect("a refusal");
    assert_eq!(Kind::of(&status), Kind::Invalid, "{status:?}");
    assert!(status.message().contains("compressed"), "{status:?}");
    oracle.check(&peer, &app, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_before_the_table_is_read_too() {
    let (_server, peer, app, mut oracle) = stage().await;
    // Field order is free in protobuf: field 15 first, then the step.
    let attempt = Attempt::empty(&app, 0, SHAPE, 1, 2)
        .with_block(1, random_bytes(1, 3000))
        .with_block(3, random_bytes(2, 70));
    let mut bytes = Vec::new();
    let open = v1::PushRequest {
        step: Some(Step::Open(attempt.open())),
        payload: Bytes::new(),
    };
    bytes.extend_from_slice(&grpc_frame(&open.encode_to_vec()));
    for batch in attempt.batches() {
        let payload = v1::PushRequest {
            step: None,
            payload: batch.payload,
        }
        .encode_to_vec();
        let step = v1::PushRequest {
            step: batch.step,
            payload: Bytes::new(),
        }
        .encode_to_vec();
        bytes.extend_from_slice(&grpc_frame(&[payload, step].concat()));
    }
    let commit = v1::PushRequest {
        step: Some(Step::Commit(v1::Commit {
            totals: Some(attempt.totals()),
            more: false,
        })),
        payload: Bytes::new(),
    };
    bytes.extend_from_slice(&grpc_frame(&commit.encode_to_vec()));
    let answer = raw::call(&peer, PUSH, vec![bytes.into()], true).await;
    assert!(find_committed(&answer.body), "{answer:?}");
    let (volume, durability) = (
        oracle.volumes(&app, 0)[0].clone().into(),
        attempt.durability as i32,
    );
    oracle.committed(
        &attempt,
        &v1::Committed {
            volume,
            durability,
            bytes: attempt.bytes(),
            records: attempt.records(),
        },
    );
    oracle.check(&peer, &app, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn noise_on_the_socket_harms_nobody() {
    let (server, peer, app, mut oracle) = stage().await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let noises: Vec<Vec<u8>> = vec![
        vec![],
        vec![0; 1000],
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        random_bytes(1, 100_000).to_vec(),
        preface.to_vec(),
        [preface.as_slice(), &random_bytes(2, 5000)].concat(),
        [preface.as_slice(), &[0xff; 9], &[0; 5000]].concat(),
        // SETTINGS, then DATA on a stream that was never opened.
        [
            preface.as_slice(),
            &[0, 0, 0, 4, 0, 0, 0, 0, 0],
            &[0, 0, 4, 0, 0, 0, 0, 0, 1, 1, 2, 3, 4],
        ]
        .concat(),
    ];
    for noise in &noises {
        raw::socket(server.addr(), noise).await;
        raw::socket(server.admin(), noise).await;
    }
    oracle.check(&peer, &app, 0).await;
    oracle
        .push(&peer, &Attempt::generate(&app, 0, SHAPE, 2, 3))
        .await;
    oracle.check(&server.peer().await, &app, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_do_not_exist_say_so() {
    let (_server, peer, app, oracle) = stage().await;
    for path in ["/forebay.v1.Data/Pull", "/forebay.v2.Data/Push", "/"] {
        let answer = raw::call(&peer, path, vec![grpc_frame(&[])], true).await;
        let unimplemented = answer
            .status
            .as_ref()
            .is_some_and(|status| status.code() == tonic::Code::Unimplemented);
        assert!(unimplemented || answer.http == 404, "{path}: {answer:?}");
    }
    oracle.check(&peer, &app, 0).await;
}
