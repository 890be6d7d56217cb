//! Slow, silent and greedy peers: each costs itself. And peers that only take their time, which are
//! left alone.

use bytes::Bytes;
use prost::Message;
use shuffle_proto::v1::{self, push_request::Step};
use shuffle_tests::{
    App, Attempt, Kind, Oracle, Peer, STEP, Server, Setup, Shape, eventually,
    peer::{assert_refused, fetch_range},
    random_bytes,
    raw::{self, Stream, grpc_frame},
    step,
};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

const PUSH: &str = "/forebay.v1.Data/Push";
const FETCH: &str = "/forebay.v1.Data/Fetch";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SHAPE: Shape = Shape {
    maps: 64,
    partitions: 8,
    rounds: 1,
    block: 5000,
};

/// A message of 4 MiB of payload, after its open.
fn large(app: &App, map: u32) -> (Bytes, Bytes) {
    let attempt = Attempt::empty(app, 0, SHAPE, map, 7000 + u64::from(map))
        .with_block(0, random_bytes(u64::from(map), 4 << 20));
    let open = v1::PushRequest {
        step: Some(Step::Open(attempt.open())),
        payload: Bytes::new(),
    };
    let batch = attempt.batches_from(0, 4 << 20).remove(0);
    (
        grpc_frame(&open.encode_to_vec()),
        grpc_frame(&batch.encode_to_vec()),
    )
}

async fn met(server: &Server, limit: &str) -> f64 {
    let (_, metrics) = raw::get(server.admin(), "/metrics").await;
    let name = format!("forebay_limits_total{{limit=\"{limit}\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
    line.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
}

/// Eight streams that hold the whole memory and bring a byte now and then: progress, but none that
/// anybody can wait for.
#[tokio::test(flavor = "multi_thread")]
async fn a_byte_now_and_then_does_not_hold_the_memory() {
    let setup = Setup::new()
        .flag("--memory", "16MiB")
        .flag("--keep-alive", "1s");
    let server = Server::with(setup).await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    let slow = server.peer().await;
    let trickling: Vec<_> = (0..8)
        .map(|map| {
            let (stream, (open, batch)) = (Stream::open(&slow, PUSH), large(&app, map));
            tokio::spawn(async move {
                let begun = [&open[..], &batch[..1000]].concat();
                let mut going = stream.send(begun).await;
                let mut at = 1000;
                while going {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    going = stream.send(batch.slice(at..at + 1)).await;
                    at += 1;
                }
                stream.ended().await
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let peer = server.peer().await;
    for map in 20..24 {
        let attempt = Attempt::empty(&app, 0, SHAPE, map, u64::from(map))
            .with_block(1, random_bytes(u64::from(map), 4 << 20));
        oracle.push(&peer, &attempt).await;
    }
    oracle.check(&peer, &app, 0).await;
    for call in trickling {
        let status = step("a trickling push", call).await.unwrap();
        assert_refused(&status, Kind::Unavailable, &["bytes a second"]);
    }
    assert!(met(&server, "slow").await >= 8.0);
}

/// What was not begun, or not gone on with, ends; before any caller is known, and after.
#[tokio::test(flavor = "multi_thread")]
async fn streams_that_begin_nothing_or_half_a_message_end() {
    let server = Server::with(Setup::new().flag("--keep-alive", "1s")).await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    let peer = server.peer().await;
    oracle
        .push(&peer, &Attempt::generate(&app, 0, SHAPE, 0, 1))
        .await;
    // These peers only take their time, and are left alone: a push between its batches, a reader in
    // a pause.
    let patient = Attempt::generate(&app, 0, SHAPE, 1, 2);
    let waiting = peer.send(&patient).await.unwrap();
    let mut unread = peer.clone();
    let request = fetch_range(&app, 0, server.volumes(), 0..8, 0..u32::MAX);
    let unread = unread.data.fetch(request).await.unwrap();

    let (open, batch) = large(&app, 3);
    let starts: [(&str, Vec<u8>); 7] = [
        (PUSH, vec![]),
        (FETCH, vec![]),
        (PUSH, open[..3].to_vec()),
        (PUSH, open[..open.len() / 2].to_vec()),
        (FETCH, vec![0, 0, 0, 100, 10]),
        ("/forebay.v1.Control/DeleteApp", vec![0, 0, 0, 0, 100, 10]),
        (PUSH, [&open[..], &batch[..3]].concat()),
    ];
    let mut streams = Vec::new();
    for (path, bytes) in starts {
        let stream = Stream::open(&peer, path);
        if !bytes.is_empty() {
            assert!(stream.send(bytes).await);
        }
        streams.push(stream);
    }
    for stream in streams {
        let status = stream.ended().await;
        assert_eq!(Kind::of(&status), Kind::Unavailable, "{status:?}");
    }
    let receipt = waiting.commit(patient.totals()).await.unwrap();
    oracle.committed(&patient, &receipt);
    let (mut unread, mut last) = (unread.into_inner(), None);
    while let Some(message) = step("a message", unread.message()).await.unwrap() {
        last = message.summary;
    }
    assert_eq!(last.map(|summary| summary.attempt), Some(vec![1]));
    oracle.check(&peer, &app, 0).await;
}

/// Nobody is known yet who could be asked to hold back.
#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_cannot_announce_a_large_message() {
    let server = Server::start().await;
    let peer = server.peer().await;
    for (path, most) in [
        (PUSH, 64 << 10),
        (FETCH, 256 << 10),
        ("/forebay.v1.Control/RenewLease", 64 << 10),
    ] {
        let mut bytes = vec![0];
        bytes.extend(u32::to_be_bytes(most + 10));
        bytes.resize(most as usize + 20, 0x0a);
        let stream = Stream::open(&peer, path);
        stream.send(bytes).await;
        let status = stream.ended().await;
        assert_refused(&status, Kind::Invalid, &["bytes"]);
    }
}

/// A head in frames of one byte, of all the sizes that there are.
#[tokio::test(flavor = "multi_thread")]
async fn heads_in_tiny_frames_cost_their_bytes() {
    let server = Server::start().await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    let peer = server.peer().await;
    let mut attempt = Attempt::empty(&app, 0, SHAPE, 1, 2);
    for block in 0..8000u32 {
        attempt = attempt.with_block(block / 1000, vec![block as u8; 3]);
    }
    let messages = [
        Step::Open(attempt.open()),
        Step::Commit(v1::Commit {
            totals: Some(attempt.totals()),
            more: false,
        }),
    ];
    let [open, commit] = messages.map(|step| v1::PushRequest {
        step: Some(step),
        payload: Bytes::new(),
    });
    let batches = attempt.batches();
    let all = std::iter::once(&open).chain(&batches).chain([&commit]);
    let bytes: Vec<u8> = all
        .flat_map(|message| grpc_frame(&message.encode_to_vec()).to_vec())
        .collect();
    assert!(bytes.len() > 100_000);
    let start = Instant::now();
    let pieces = bytes.chunks(1).map(Bytes::copy_from_slice).collect();
    let answer = raw::call(&peer, PUSH, pieces, true).await;
    let took = start.elapsed();
    assert_eq!(
        answer.status.as_ref().map(tonic::Status::code),
        Some(tonic::Code::Ok),
        "{took:?}"
    );
    let fetched = peer
        .fetch(fetch_range(&app, 0, server.volumes(), 0..8, 0..u32::MAX))
        .await
        .unwrap();
    assert_eq!(fetched.summary.bytes, [24_000]);
    oracle
        .push(&peer, &Attempt::generate(&app, 1, SHAPE, 0, 3))
        .await;
}

// === connections ===

/// From another address of this machine, which is another peer.
async fn connect_from(from: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    step("a connection", socket.connect(to)).await.unwrap()
}

/// What the server says first to a client of HTTP/2: the bytes of its first frames.
async fn greeting(mut stream: TcpStream) -> Vec<u8> {
    let hello = [PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
    stream.write_all(&hello).await.unwrap();
    let mut answer = vec![0; 4096];
    let mut length = 0;
    // Up to the end of the connection, or what comes within a while after the server's first word.
    let first = step("a greeting", stream.read(&mut answer)).await;
    length += first.unwrap_or(0);
    let read = async {
        while let Ok(count @ 1..) = stream.read(&mut answer[length..]).await {
            length += count;
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(3), read).await;
    answer.truncate(length);
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_without_a_whole_preface_end() {
    let server = Server::with(Setup::new().flag("--keep-alive", "1s")).await;
    for begin in [0, 1, 12, PREFACE.len() - 1, PREFACE.len()] {
        let mut stream = TcpStream::connect(server.addr()).await.unwrap();
        stream.write_all(&PREFACE[..begin]).await.unwrap();
        let mut answer = Vec::new();
        // Its end, in whatever way.
        let _ = step(
            "the end of a silent connection",
            stream.read_to_end(&mut answer),
        )
        .await;
    }
    server.peer().await.describe().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_runs_nothing_makes_room_for_one_that_will() {
    let setup = Setup::new()
        .flag("--max-connections", 3)
        .flag("--keep-alive", "1s");
    let server = Server::with(setup).await;
    let mut peers: Vec<Peer> = Vec::new();
    // Six executors that keep their connections, and three places.
    for _ in 0..6 {
        let peer = eventually(STEP, || async {
            let endpoint =
                tonic::transport::Endpoint::from_shared(format!("http://{}", server.addr()));
            let channel = endpoint.unwrap().connect().await;
            let channel = channel.map_err(|error| format!("{error:?}"))?;
            let mut control = v1::control_client::ControlClient::new(channel.clone());
            let described = control.describe(v1::DescribeRequest { protocol: 1 }).await;
            described.map_err(|status| status.to_string())?;
            Ok(Peer {
                data: v1::data_client::DataClient::new(channel.clone()),
                control,
                channel,
            })
        });
        peers.push(peer.await);
    }
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    // Closed connections come back when their peers have something to do.
    for (map, peer) in (0..).zip(&peers) {
        eventually(STEP, || async {
            let mut control = peer.control.clone();
            let described = control.describe(v1::DescribeRequest { protocol: 1 }).await;
            described.map(drop).map_err(|status| status.to_string())
        })
        .await;
        oracle
            .push(
                peer,
                &Attempt::generate(&app, 0, SHAPE, map, u64::from(map)),
            )
            .await;
    }
    oracle.check(&peers[5], &app, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_cannot_have_all_connections_and_is_told_so() {
    let setup = Setup::new()
        .flag("--max-connections", 6)
        .flag("--max-connections-per-peer", 3);
    let server = Server::with(setup).await;
    let app = App::new("app-1");
    let mut busy = Vec::new();
    for map in 0..3 {
        let peer = server.peer().await;
        let attempt = Attempt::generate(&app, 0, SHAPE, map, u64::from(map));
        busy.push((peer.send(&attempt).await.unwrap(), attempt, peer));
    }
    let refused = greeting(TcpStream::connect(server.addr()).await.unwrap()).await;
    let text = String::from_utf8_lossy(&refused);
    assert!(text.contains("max-connections-per-peer is 3"), "{text:?}");
    // SETTINGS, then GOAWAY.
    assert_eq!((refused[3], refused[9 + 3]), (4, 7), "{refused:?}");
    assert!(met(&server, "max-connections-per-peer").await >= 1.0);
    let another = greeting(connect_from("127.0.0.2", server.addr()).await).await;
    let text = String::from_utf8_lossy(&another);
    assert!(!another.is_empty() && !text.contains("max-"), "{text:?}");
    // Those that were there go on.
    for (push, attempt, _peer) in busy {
        push.commit(attempt.totals()).await.unwrap();
    }
    let log = server.log();
    assert_eq!(log.matches("a limit is met").count(), 1, "{log}");
}

// === streams and calls ===

#[tokio::test(flavor = "multi_thread")]
async fn one_address_cannot_have_all_streams_and_is_told_so() {
    let server = Server::with(Setup::new().flag("--max-streams-per-peer", 3)).await;
    let (peer, app) = (server.peer().await, App::new("app-1"));
    let mut busy = Vec::new();
    for map in 0..3 {
        let attempt = Attempt::generate(&app, 0, SHAPE, map, u64::from(map));
        busy.push((peer.send(&attempt).await.unwrap(), attempt));
    }
    let fourth = Attempt::generate(&app, 0, SHAPE, 3, 3);
    let words = ["max-streams-per-peer", "127.0.0.1"];
    let refusals = [
        peer.send(&fourth).await.err().unwrap(),
        peer.fetch(fetch_range(&app, 0, server.volumes(), 0..1, 0..1))
            .await
            .unwrap_err(),
        peer.renew(&app).await.unwrap_err(),
    ];
    for refusal in &refusals {
        assert_refused(refusal, Kind::Busy, &words);
        assert!(Kind::retry_after(refusal).is_some(), "{refusal:?}");
    }
    assert!(met(&server, "max-streams-per-peer").await >= 3.0);
    let (push, attempt) = busy.pop().unwrap();
    push.commit(attempt.totals()).await.unwrap();
    peer.push(&fourth).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_asks_for_ever_new_leases_is_told_to_wait() {
    let server = Server::start().await;
    let peer = server.peer().await;
    let steady = App::new("app-1").lease_ms(60_000);
    for _ in 0..200 {
        assert_eq!(peer.renew(&steady).await.unwrap(), 60_000);
    }
    let mut refused = Vec::new();
    for millis in 0..60 {
        let restless = App::new("app-2").lease_ms(60_000 + millis);
        refused.extend(peer.renew(&restless).await.err());
    }
    assert!(refused.len() >= 20, "{} of 60 are refused", refused.len());
    assert_refused(&refused[0], Kind::Busy, &["app-2", "lease"]);
    assert!(Kind::retry_after(&refused[0]).is_some(), "{:?}", refused[0]);
    assert!(met(&server, "control-calls").await >= 20.0);
    // The other one is not touched by it.
    assert_eq!(peer.renew(&steady).await.unwrap(), 60_000);
}
