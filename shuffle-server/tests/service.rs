//! A real server in this process, and the stock generated client: what a peer of another make sees.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

use std::{path::PathBuf, time::Duration};

use bytes::Bytes;
use shuffle_proto::{
    block::{BlockHeader, Codec, Flags},
    ids::{AttemptId, MapIndex, PartitionId},
    kind::Kind,
    v1::{
        self, control_client::ControlClient, data_client::DataClient, push_request::Step,
        push_response::Step as Answer,
    },
    wire,
};
use shuffle_server::{config::Config, server::Server};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

const PARTITIONS: u32 = 4;

struct Stage {
    _dirs: tempfile::TempDir,
    channel: Channel,
    volumes: Vec<Bytes>,
    admin: std::net::SocketAddr,
    end: Option<oneshot::Sender<()>>,
    server: Option<tokio::task::JoinHandle<()>>,
}

impl Stage {
    async fn start(volumes: usize, change: impl FnOnce(&mut Config)) -> Self {
        let dirs = tempfile::tempdir().unwrap();
        let mut config = Config::local(
            (0..volumes).map(|i| PathBuf::from(dirs.path()).join(format!("disk{i}"))),
        );
        config.memory = "64MiB".parse().unwrap();
        config.drain_timeout = Duration::from_secs(5);
        change(&mut config);
        let server = Server::build(config).await.unwrap();
        let (addr, admin) = (server.data_addr(), server.admin_addr());
        let volumes = server
            .volumes()
            .iter()
            .map(|id| Bytes::copy_from_slice(id.0.as_bytes()))
            .collect();
        let (end, ended) = oneshot::channel();
        let server =
            tokio::spawn(async move { server.run(async { drop(ended.await) }).await.unwrap() });
        let channel = Channel::from_shared(format!("http://{addr}"))
            .unwrap()
            .connect()
            .await
            .unwrap();
        Self {
            _dirs: dirs,
            channel,
            volumes,
            admin,
            end: Some(end),
            server: Some(server),
        }
    }

    fn control(&self) -> ControlClient<Channel> {
        ControlClient::new(self.channel.clone())
    }

    async fn push(&self, open: v1::Open) -> Result<Push, Status> {
        let mut push = Push::start(&self.channel).await;
        push.say(Step::Open(open)).await;
        Ok(push)
    }

    async fn put(&self, map: u32, attempt: u64, text: &[u8]) -> v1::Committed {
        let mut push = self.push(open(map, attempt)).await.unwrap();
        let Answer::Opened(opened) = push.hear().await.unwrap() else {
            panic!("no Opened")
        };
        assert!(!opened.committed);
        push.send(batch(map, attempt, 0, text)).await;
        assert_eq!(
            push.hear().await.unwrap(),
            Answer::Ack(v1::Ack { batches: 1 })
        );
        push.say(commit(text)).await;
        match push.hear().await.unwrap() {
            Answer::Committed(receipt) => receipt,
            other => panic!("{other:?}"),
        }
    }

    async fn fetch(&self, request: v1::FetchRequest) -> Result<(Vec<u8>, v1::Summary), Status> {
        let mut stream = DataClient::new(self.channel.clone())
            .fetch(request)
            .await?
            .into_inner();
        let mut payload = Vec::new();
        while let Some(message) = stream.message().await? {
            if let Some(table) = &message.table {
                let mut offset = 0;
                for block in wire::fetched_blocks(table, message.payload.len()).unwrap() {
                    let end = offset + block.length as usize;
                    assert!(block.verify([&message.payload[offset..end]]));
                    offset = end;
                }
                assert!(message.cursor.len() <= 64);
            }
            payload.extend_from_slice(&message.payload);
            if let Some(summary) = message.summary {
                assert!(
                    stream.message().await?.is_none(),
                    "the summary is the last message"
                );
                return Ok((payload, summary));
            }
        }
        panic!("no summary")
    }

    fn all(&self) -> v1::FetchRequest {
        v1::FetchRequest {
            caller: caller("secret"),
            shuffle: 1,
            volumes: self.volumes.clone(),
            partition_end: PARTITIONS,
            map_end: u32::MAX,
            ..Default::default()
        }
    }

    async fn get(&self, path: &str) -> (u16, String) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(self.admin).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (
            head.split(' ').nth(1).unwrap().parse().unwrap(),
            body.to_owned(),
        )
    }

    fn stop(&mut self) {
        drop(self.end.take());
    }

    async fn ended(&mut self) {
        tokio::time::timeout(Duration::from_secs(20), self.server.take().unwrap())
            .await
            .unwrap()
            .unwrap();
    }
}

struct Push {
    say: mpsc::Sender<v1::PushRequest>,
    hear: Streaming<v1::PushResponse>,
}

impl Push {
    async fn start(channel: &Channel) -> Self {
        let (say, said) = mpsc::channel(16);
        let hear = DataClient::new(channel.clone())
            .push(ReceiverStream::new(said))
            .await
            .unwrap()
            .into_inner();
        Self { say, hear }
    }

    async fn say(&mut self, step: Step) {
        self.send(v1::PushRequest {
            step: Some(step),
            payload: Bytes::new(),
        })
        .await;
    }

    async fn send(&mut self, message: v1::PushRequest) {
        // The server may have ended the stream: what it said is read.
        drop(self.say.send(message).await);
    }

    async fn hear(&mut self) -> Result<Answer, Status> {
        let message = tokio::time::timeout(Duration::from_secs(20), self.hear.message())
            .await
            .unwrap()?;
        message
            .and_then(|message| message.step)
            .ok_or_else(|| Status::unknown("the stream ended"))
    }

    /// The refusal that must come, whatever was answered before it.
    async fn refusal(&mut self) -> Status {
        loop {
            if let Err(status) = self.hear().await {
                return status;
            }
        }
    }
}

fn caller(token: &str) -> Option<v1::Caller> {
    Some(v1::Caller {
        protocol: 1,
        app: "app-1".into(),
        token: token.into(),
        lease_ms: 0,
    })
}

fn open(map_index: u32, attempt: u64) -> v1::Open {
    v1::Open {
        caller: caller("secret"),
        shuffle: 1,
        num_maps: 8,
        num_partitions: PARTITIONS,
        map_index,
        attempt,
        durability: v1::Durability::Disk as i32,
    }
}

/// One block of partition 2.
fn batch(map: u32, attempt: u64, seq: u32, text: &[u8]) -> v1::PushRequest {
    let mut block = BlockHeader {
        partition: PartitionId(2),
        map_index: MapIndex(map),
        attempt: AttemptId(attempt),
        seq,
        length: text.len() as u32,
        raw_length: text.len() as u32,
        records: 1,
        flags: Flags::new(Codec::None, false, false),
        checksum: 0,
    };
    let mut body = crc32fast::Hasher::new();
    body.update(text);
    block.checksum = block.checksum_of(body);
    let mut table = v1::BlockTable::default();
    wire::put_block(&mut table, &block, false);
    v1::PushRequest {
        step: Some(Step::Batch(v1::Batch { table: Some(table) })),
        payload: Bytes::copy_from_slice(text),
    }
}

fn commit(text: &[u8]) -> Step {
    let totals = v1::PartitionTotals {
        partition: vec![2],
        blocks: vec![1],
        bytes: vec![text.len() as u64],
        records: vec![1],
    };
    Step::Commit(v1::Commit {
        totals: Some(totals),
    })
}

#[track_caller]
fn assert_refused(status: &Status, kind: Kind, words: &[&str]) {
    assert_eq!(Kind::of(status), kind, "{status:?}");
    assert_eq!(status.metadata().get("forebay-kind").unwrap(), kind.name());
    for word in words {
        assert!(
            status.message().contains(word),
            "{word:?} is not in {:?}",
            status.message()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stock_client_pushes_and_fetches_over_several_volumes() {
    let mut stage = Stage::start(3, |_| ()).await;
    let mut sent = Vec::new();
    for map in 0..8 {
        let text = format!("rows of map {map}").into_bytes();
        let receipt = stage.put(map, 100 + u64::from(map), &text).await;
        assert_eq!((receipt.bytes, receipt.records), (text.len() as u64, 1));
        assert!(stage.volumes.contains(&receipt.volume));
        sent.push(text);
    }
    let (payload, summary) = stage.fetch(stage.all()).await.unwrap();
    assert_eq!(payload.len(), sent.iter().map(Vec::len).sum::<usize>());
    let mut maps = summary.map_index;
    maps.sort_unstable();
    assert_eq!(maps, (0..8).collect::<Vec<_>>());
    stage.stop();
    stage.ended().await;
}

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

fn step(step: Step) -> v1::PushRequest {
    v1::PushRequest {
        step: Some(step),
        payload: Bytes::new(),
    }
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
    let (payload, _) = stage.fetch(stage.all()).await.unwrap();
    assert_eq!(payload, b"rows");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_here_is_lost_and_never_empty() {
    let stage = Stage::start(1, |_| ()).await;
    let all = stage.all();
    assert_refused(
        &stage.fetch(all.clone()).await.unwrap_err(),
        Kind::Lost,
        &["app-1"],
    );
    stage.put(0, 1, b"rows").await;
    let foreign = v1::FetchRequest {
        volumes: vec![Bytes::from_static(&[7; 16])],
        ..all.clone()
    };
    let refusal = stage.fetch(foreign).await.unwrap_err();
    assert_refused(
        &refusal,
        Kind::Lost,
        &["07070707-0707-0707-0707-070707070707", "not served here"],
    );
    let mixed = v1::FetchRequest {
        volumes: vec![all.volumes[0].clone(), vec![7; 16].into()],
        ..all.clone()
    };
    assert_eq!(Kind::of(&stage.fetch(mixed).await.unwrap_err()), Kind::Lost);
    let unknown = v1::FetchRequest {
        shuffle: 99,
        ..all.clone()
    };
    assert_eq!(
        Kind::of(&stage.fetch(unknown).await.unwrap_err()),
        Kind::Lost
    );
    let mut control = stage.control();
    let delete = v1::DeleteShuffleRequest {
        caller: caller("secret"),
        shuffle: 1,
    };
    control.delete_shuffle(delete).await.unwrap();
    assert_eq!(Kind::of(&stage.fetch(all).await.unwrap_err()), Kind::Lost);
    let late = stage.push(open(1, 2)).await.unwrap().refusal().await;
    assert_eq!(Kind::of(&late), Kind::Fenced, "{late:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_is_checked_field_by_field() {
    let stage = Stage::start(1, |_| ()).await;
    stage.put(0, 1, b"rows").await;
    type Spoil = fn(&mut v1::FetchRequest);
    let cases: [(Kind, &str, Spoil); 7] = [
        (Kind::Invalid, "caller is absent", |fetch| {
            fetch.caller = None
        }),
        (
            Kind::Denied,
            "caller.token does not open app app-1",
            |fetch| fetch.caller = caller("guess"),
        ),
        (Kind::Invalid, "volumes is empty", |fetch| {
            fetch.volumes.clear()
        }),
        (Kind::Invalid, "volumes is 3 bytes", |fetch| {
            fetch.volumes = vec![Bytes::from_static(b"abc")]
        }),
        (Kind::Invalid, "partition_start is [4, 4)", |fetch| {
            fetch.partition_start = 4
        }),
        (Kind::Invalid, "map_start is [9, 3)", |fetch| {
            (fetch.map_start, fetch.map_end) = (9, 3)
        }),
        (Kind::Invalid, "cursor is 65 bytes", |fetch| {
            fetch.cursor = vec![1; 65].into()
        }),
    ];
    for (kind, text, spoil) in cases {
        let mut request = stage.all();
        spoil(&mut request);
        assert_refused(&stage.fetch(request).await.unwrap_err(), kind, &[text]);
    }
    let strange = v1::FetchRequest {
        cursor: Bytes::from_static(b"no cursor of ours"),
        ..stage.all()
    };
    assert_eq!(
        stage.fetch(strange).await.unwrap().0,
        b"rows",
        "a cursor that is not ours starts over"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn control_calls_answer_and_repeat() {
    let stage = Stage::start(2, |_| ()).await;
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
    let renew = v1::RenewLeaseRequest {
        caller: caller("secret"),
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
    for _ in 0..100 {
        if stage.push(open(2, 2)).await.unwrap().hear().await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("streams that ended are still counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_lets_a_running_push_commit_and_refuses_new_ones() {
    let mut stage = Stage::start(1, |_| ()).await;
    let mut running = stage.push(open(0, 1)).await.unwrap();
    running.hear().await.unwrap();
    assert_eq!(stage.get("/readyz").await, (200, "ok\n".to_owned()));
    stage.stop();
    for _ in 0..200 {
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
        "shuffle_server_pushed_bytes_total 4",
        "shuffle_server_commits_total 1",
        "shuffle_server_commit_latency_seconds_count 1",
        "shuffle_server_refusals_total{kind=\"denied\"} 0",
        "shuffle_server_apps 1",
        "shuffle_server_attempts 1",
        "shuffle_server_memory_limit_bytes 67108864",
        "shuffle_server_streams{op=\"fetch\"} 0",
    ] {
        assert!(text.contains(&format!("{line}\n")), "no {line:?} in {text}");
    }
    assert!(
        text.contains("state=\"ok\"} 1") && text.ends_with("# EOF\n"),
        "{text}"
    );
    let (_, text) = stage.get("/api/v1/status").await;
    assert!(
        text.contains("\"apps\":1") && text.contains("\"draining\":false"),
        "{text}"
    );
    let (_, text) = stage.get("/version").await;
    assert!(text.contains("\"name\":\"forebay-server\""), "{text}");
    assert_eq!(stage.get("/nothing").await.0, 404);
}
