//! A server, a stock client, and the messages that they exchange.

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

pub(crate) const PARTITIONS: u32 = 4;

pub(crate) struct Stage {
    _dirs: tempfile::TempDir,
    pub(crate) channel: Channel,
    pub(crate) volumes: Vec<Bytes>,
    admin: std::net::SocketAddr,
    end: Option<oneshot::Sender<()>>,
    server: Option<tokio::task::JoinHandle<()>>,
}

impl Stage {
    pub(crate) async fn start(volumes: usize, change: impl FnOnce(&mut Config)) -> Self {
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

    pub(crate) fn control(&self) -> ControlClient<Channel> {
        ControlClient::new(self.channel.clone())
    }

    pub(crate) async fn push(&self, open: v1::Open) -> Result<Push, Status> {
        let mut push = Push::start(&self.channel).await;
        push.say(Step::Open(open)).await;
        Ok(push)
    }

    pub(crate) async fn put(&self, map: u32, attempt: u64, text: &[u8]) -> v1::Committed {
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

    pub(crate) async fn fetch(
        &self,
        request: v1::FetchRequest,
    ) -> Result<(Vec<u8>, v1::Summary), Status> {
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

    pub(crate) fn all(&self) -> v1::FetchRequest {
        v1::FetchRequest {
            caller: caller("secret"),
            shuffle: 1,
            volumes: self.volumes.clone(),
            partition_end: PARTITIONS,
            map_end: u32::MAX,
            ..Default::default()
        }
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
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

    /// The admin port at this address of the machine.
    pub(crate) fn admin_at(&self, ip: std::net::IpAddr) -> std::net::SocketAddr {
        (ip, self.admin.port()).into()
    }

    pub(crate) fn stop(&mut self) {
        drop(self.end.take());
    }

    pub(crate) async fn ended(&mut self) {
        tokio::time::timeout(Duration::from_secs(60), self.server.take().unwrap())
            .await
            .unwrap()
            .unwrap();
    }
}

/// A request to an admin port: status and body.
pub(crate) async fn ask(to: std::net::SocketAddr, method: &str, path: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(to).await.unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: {to}\r\n");
    let request = head + "content-length: 0\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

/// Says past the capture of test output that this machine lacks something.
pub(crate) fn skipped(why: &str) {
    let line = format!("SKIPPED {why}\n");
    drop(std::io::Write::write_all(
        &mut std::io::stderr(),
        line.as_bytes(),
    ));
}

pub(crate) struct Push {
    say: mpsc::Sender<v1::PushRequest>,
    hear: Streaming<v1::PushResponse>,
}

impl Push {
    pub(crate) async fn start(channel: &Channel) -> Self {
        let (say, said) = mpsc::channel(16);
        let hear = DataClient::new(channel.clone())
            .push(ReceiverStream::new(said))
            .await
            .unwrap()
            .into_inner();
        Self { say, hear }
    }

    pub(crate) async fn say(&mut self, step: Step) {
        self.send(v1::PushRequest {
            step: Some(step),
            payload: Bytes::new(),
        })
        .await;
    }

    pub(crate) async fn send(&mut self, message: v1::PushRequest) {
        // The server may have ended the stream: what it said is read.
        drop(self.say.send(message).await);
    }

    pub(crate) async fn hear(&mut self) -> Result<Answer, Status> {
        let message = tokio::time::timeout(Duration::from_secs(60), self.hear.message())
            .await
            .unwrap()?;
        message
            .and_then(|message| message.step)
            .ok_or_else(|| Status::unknown("the stream ended"))
    }

    /// The refusal that must come, whatever was answered before it.
    pub(crate) async fn refusal(&mut self) -> Status {
        loop {
            if let Err(status) = self.hear().await {
                return status;
            }
        }
    }
}

pub(crate) fn caller(token: &str) -> Option<v1::Caller> {
    Some(v1::Caller {
        protocol: 1,
        app: "app-1".into(),
        token: token.into(),
        lease_ms: 0,
        write_back: 0,
    })
}

pub(crate) fn open(map_index: u32, attempt: u64) -> v1::Open {
    v1::Open {
        caller: caller("secret"),
        shuffle: 1,
        num_maps: 8,
        num_partitions: PARTITIONS,
        map_index,
        attempt,
        durability: v1::Durability::Disk as i32,
        share: 0,
    }
}

/// One block of partition 2.
pub(crate) fn batch(map: u32, attempt: u64, seq: u32, text: &[u8]) -> v1::PushRequest {
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

pub(crate) fn commit(text: &[u8]) -> Step {
    let totals = v1::PartitionTotals {
        partition: vec![2],
        blocks: vec![1],
        bytes: vec![text.len() as u64],
        records: vec![1],
    };
    Step::Commit(v1::Commit {
        totals: Some(totals),
        more: false,
    })
}

#[track_caller]
pub(crate) fn assert_refused(status: &Status, kind: Kind, words: &[&str]) {
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

pub(crate) fn step(step: Step) -> v1::PushRequest {
    v1::PushRequest {
        step: Some(step),
        payload: Bytes::new(),
    }
}
