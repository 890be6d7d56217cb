//! Round trips between this module's two ends and stock prost, over every way of cutting the bytes.

use futures_util::stream;
use http_body_util::StreamBody;
use proptest::prelude::*;

use super::*;
use crate::v1::{Ack, Batch, BlockTable, PushRequest, PushResponse, push_request, push_response};

fn batch(partitions: Vec<u32>) -> PushRequest {
    let table = BlockTable {
        partition: partitions,
        checksum: vec![7, 8],
        ..Default::default()
    };
    PushRequest {
        step: Some(push_request::Step::Batch(Batch { table: Some(table) })),
        payload: Bytes::new(),
    }
}

fn reader(
    wire: Bytes,
    cut: usize,
) -> MessageReader<impl Body<Data = Bytes, Error = Infallible> + Unpin> {
    let pieces: Vec<_> = wire
        .chunks(cut.max(1))
        .map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece))))
        .collect();
    MessageReader::new(StreamBody::new(stream::iter(pieces)))
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime")
        .block_on(future)
}

async fn read_all<M: Bulk>(wire: Bytes, cut: usize) -> Result<Vec<(M, Bytes)>, FrameError> {
    let mut reader = reader(wire, cut);
    let mut messages = Vec::new();
    while let Some((message, length)) = reader.head().await? {
        let mut payload = BytesMut::new();
        reader
            .payload(|piece| payload.extend_from_slice(&piece))
            .await?;
        assert_eq!(payload.len(), length);
        messages.push((message, payload.freeze()));
    }
    Ok(messages)
}

fn grpc(message: &[u8]) -> Vec<u8> {
    [&[0u8][..], &(message.len() as u32).to_be_bytes(), message].concat()
}

proptest! {
    #[test]
    fn hand_framed_messages_read_back_however_they_are_cut(
        sent in prop::collection::vec((prop::collection::vec(any::<u32>(), 0..200), prop::collection::vec(any::<u8>(), 0..3000)), 0..5),
        cut in 1usize..400,
    ) {
        let mut rope = Rope::default();
        for (partitions, payload) in &sent {
            let halves = [&payload[..payload.len() / 2], &payload[payload.len() / 2..]];
            encode(&batch(partitions.clone()), halves.map(Bytes::copy_from_slice), &mut rope);
        }
        let wire = rope.copy_to_bytes(rope.len());
        let received = run(read_all::<PushRequest>(wire, cut)).expect("what was sent is well formed");
        prop_assert_eq!(received.len(), sent.len());
        for ((message, bytes), (partitions, payload)) in received.iter().zip(&sent) {
            prop_assert_eq!(message, &batch(partitions.clone()));
            prop_assert_eq!(&bytes[..], &payload[..]);
        }
    }

    #[test]
    fn stock_prost_reads_what_is_framed_by_hand(payload in prop::collection::vec(any::<u8>(), 1..3000)) {
        let mut rope = Rope::default();
        encode(&batch(vec![1, 2]), [Bytes::from(payload.clone())], &mut rope);
        rope.advance(PREFIX);
        let message = PushRequest::decode(rope).expect("stock prost decodes it");
        prop_assert_eq!(&message.payload[..], &payload[..]);
        prop_assert_eq!(PushRequest { payload: Bytes::new(), ..message }, batch(vec![1, 2]));
    }

    #[test]
    fn arbitrary_bytes_are_refused_or_read_but_never_panic(wire in prop::collection::vec(any::<u8>(), 0..300), cut in 1usize..50) {
        let _ = run(read_all::<PushRequest>(Bytes::from(wire.clone()), cut));
        let _ = run(read_all::<PushRequest>(Bytes::from(grpc(&wire)), cut));
    }
}

#[test]
fn a_payload_that_is_not_the_last_field_is_read_too() {
    let mut message = Vec::new();
    prost::encoding::bytes::encode(15, &b"payload".to_vec(), &mut message);
    batch(vec![9]).encode_raw(&mut message);
    for cut in [1, 3, 1000] {
        let received = run(read_all::<PushRequest>(Bytes::from(grpc(&message)), cut))
            .expect("it is well formed");
        assert_eq!(received, [(batch(vec![9]), Bytes::from_static(b"payload"))]);
    }
}

#[test]
fn messages_without_payload_are_read_whole() {
    let message = PushResponse {
        step: Some(push_response::Step::Ack(Ack { batches: 300 })),
    };
    let received = run(read_all::<PushResponse>(
        Bytes::from(grpc(&message.encode_to_vec())),
        2,
    ))
    .expect("it is well formed");
    assert_eq!(received, [(message, Bytes::new())]);
}

#[test]
fn a_stream_that_ends_inside_a_message_is_truncated() {
    let mut rope = Rope::default();
    encode(
        &batch(vec![1]),
        [Bytes::from_static(b"0123456789")],
        &mut rope,
    );
    let wire = rope.copy_to_bytes(rope.len());
    for end in 1..wire.len() {
        assert_eq!(
            run(read_all::<PushRequest>(wire.slice(..end), 7)),
            Err(FrameError::Truncated),
            "cut at {end}"
        );
    }
}

#[test]
fn sizes_are_bounded_before_anything_is_read() {
    let wire = Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff, 1]);
    assert!(matches!(
        run(read_all::<PushRequest>(wire, 100)),
        Err(FrameError::TooLarge {
            what: "message",
            ..
        })
    ));
    let wire = Bytes::from_static(&[1, 0, 0, 0, 0]);
    assert!(matches!(
        run(read_all::<PushRequest>(wire, 100)),
        Err(FrameError::Malformed(_))
    ));
}

/// A head that comes byte by byte is looked at once, not once per byte, and is kept in about its
/// own size.
#[test]
fn the_work_for_a_head_in_tiny_frames_is_linear() {
    let head = batch((0..2_000_000).map(|i| i % 100).collect());
    let mut rope = Rope::default();
    encode(&head, [Bytes::from_static(b"payload")], &mut rope);
    let wire = rope.copy_to_bytes(rope.len());
    assert!(wire.len() > 2_000_000);
    // Looked at anew for every frame these would be 10^12 steps: hours.
    let received = run(read_all::<PushRequest>(wire, 1)).expect("it is well formed");
    assert_eq!(received, [(head, Bytes::from_static(b"payload"))]);
}

#[test]
fn a_reader_with_little_room_stops_there_and_goes_on_with_more() {
    let mut late = Vec::new();
    prost::encoding::bytes::encode(15, &vec![7u8; 5000], &mut late);
    batch(vec![9; 5000]).encode_raw(&mut late);
    let mut rope = Rope::default();
    encode(
        &batch(vec![9; 5000]),
        [Bytes::from(vec![7; 5000])],
        &mut rope,
    );
    let first = rope.copy_to_bytes(rope.len());
    for (wire, needs) in [(first.to_vec(), 0), (grpc(&late), late.len())] {
        for cut in [1, 100, 700, 20_000] {
            let mut reader = reader(Bytes::from(wire.clone()), cut);
            run(async {
                reader.limit(MAX_MESSAGE, 1000);
                let refused = reader.head::<PushRequest>().await;
                if let Err(error) = refused {
                    let FrameError::TooLarge { what, bytes, limit } = error else {
                        panic!("{error}");
                    };
                    assert_eq!((what, limit), (HEAD, 1000));
                    assert!(bytes >= needs.max(5000), "{bytes}");
                    assert!(reader.received() < 3000, "{cut}: it read on");
                    reader.limit(MAX_MESSAGE, bytes);
                    let (message, payload) = reader
                        .head::<PushRequest>()
                        .await
                        .expect("there is room")
                        .expect("a message");
                    assert_eq!((message, payload), (batch(vec![9; 5000]), 5000));
                } else {
                    // It was here already.
                    assert_eq!(cut, 20_000);
                }
            });
        }
    }
    let mut reader = reader(first, 100);
    reader.limit(900, 900);
    let refused = run(reader.head::<PushRequest>());
    assert!(
        matches!(
            refused,
            Err(FrameError::TooLarge {
                what: "message",
                limit: 900,
                ..
            })
        ),
        "{refused:?}"
    );
}

#[test]
fn a_message_is_begun_with_its_first_byte() {
    let mut rope = Rope::default();
    encode(&batch(vec![1]), [Bytes::from_static(b"pay")], &mut rope);
    let wire = rope.copy_to_bytes(rope.len());
    let mut reader = reader(wire.clone(), 1);
    run(async {
        assert_eq!(reader.begun().await, Ok(true));
        assert_eq!(reader.received(), 1);
        assert_eq!(reader.begun().await, Ok(true));
        assert_eq!(reader.received(), 1, "what is begun is not read on");
        assert!(reader.head::<PushRequest>().await.is_ok());
        // Its payload is still to come.
        assert_eq!(reader.begun().await, Ok(true));
        assert_eq!(reader.head::<PushRequest>().await, Ok(None));
        assert_eq!(reader.begun().await, Ok(false));
        assert_eq!(reader.received(), wire.len() as u64);
    });
}
