//! The stock generated client with small helpers. It shares no framing with the product and forbids
//! itself nothing.

use std::net::SocketAddr;

use bytes::Bytes;
use shuffle_proto::{
    kind::Kind,
    v1::{
        self, control_client::ControlClient, data_client::DataClient, push_request, push_response,
    },
};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

use crate::{
    attempt::{App, Attempt, header_checksum},
    eventually,
    push::Push,
    step,
};

/// Clients of one server over one connection.
#[derive(Clone)]
pub struct Peer {
    /// Generated.
    pub data: DataClient<Channel>,
    /// Generated.
    pub control: ControlClient<Channel>,
    /// Below both.
    pub channel: Channel,
}

impl Peer {
    /// Connects; the server must be there.
    pub async fn connect(addr: SocketAddr) -> Self {
        let endpoint =
            Endpoint::from_shared(format!("http://{addr}")).expect("an address is a URI");
        let channel = endpoint
            .connect_timeout(crate::STEP)
            .connect()
            .await
            .expect("the server takes connections");
        Self {
            data: DataClient::new(channel.clone()).max_decoding_message_size(16 << 20),
            control: ControlClient::new(channel.clone()),
            channel,
        }
    }

    // === push ===

    /// Opens a push; `Err` is the server's refusal.
    pub async fn open(&self, open: v1::Open) -> Result<(Push, v1::Opened), Status> {
        let mut push = Push::start(self).await;
        push.send(push_request::Step::Open(open)).await;
        match push.answer().await? {
            Some(push_response::Step::Opened(opened)) => Ok((push, opened)),
            other => panic!("the answer to open is {other:?}"),
        }
    }

    /// Opens a push and sends all batches of an attempt.
    pub async fn send(&self, attempt: &Attempt) -> Result<Push, Status> {
        let (mut push, opened) = self.open(attempt.open()).await?;
        assert!(
            !opened.committed,
            "attempt {} is committed already",
            attempt.attempt
        );
        push.batches(attempt.batches()).await;
        Ok(push)
    }

    /// Pushes and commits an attempt.
    pub async fn push(&self, attempt: &Attempt) -> Result<v1::Committed, Status> {
        let push = self.send(attempt).await?;
        let committed = push.commit(attempt.totals()).await?;
        assert_eq!(
            (committed.bytes, committed.records),
            (attempt.bytes(), attempt.records()),
            "the receipt's sums"
        );
        assert!(
            committed.durability >= attempt.durability as i32,
            "the level reached is below the one asked for"
        );
        Ok(committed)
    }

    // === fetch ===

    /// Fetches and checks what every answer must keep: checksums, order, one summary at the end.
    pub async fn fetch(&self, request: v1::FetchRequest) -> Result<Fetched, Status> {
        let fetched = self.fetch_unchecked(request).await?;
        for block in &fetched.blocks {
            assert!(
                block.intact(),
                "block {} of attempt {} fails its checksum",
                block.seq,
                block.attempt
            );
        }
        Ok(fetched)
    }

    /// Fetches without looking at checksums.
    pub async fn fetch_unchecked(&self, request: v1::FetchRequest) -> Result<Fetched, Status> {
        step("a fetch", async {
            let mut stream = self.data.clone().fetch(request).await?.into_inner();
            let mut fetched = Fetched::default();
            let mut summary: Option<v1::Summary> = None;
            while let Some(message) = stream.message().await? {
                let ended = summary.as_ref().is_some_and(|summary| !summary.more);
                assert!(!ended, "a message after the summary");
                let begun = summary.is_some();
                match (&mut summary, fetched.take(message)) {
                    (Some(whole), Some(more)) => {
                        whole.map_index.extend(more.map_index);
                        whole.attempt.extend(more.attempt);
                        whole.blocks.extend(more.blocks);
                        whole.bytes.extend(more.bytes);
                        whole.records.extend(more.records);
                        whole.lost.extend(more.lost);
                        whole.more = more.more;
                    }
                    (summary, Some(first)) => *summary = Some(first),
                    (_, None) => assert!(!begun, "blocks after the summary"),
                }
            }
            fetched.summary =
                summary.expect("the last message of a fetch that succeeds is its summary");
            assert!(!fetched.summary.more, "the summary breaks off");
            Ok(fetched)
        })
        .await
    }

    // === control ===

    /// Describe.
    pub async fn describe(&self) -> v1::DescribeResponse {
        let answer = step(
            "describe",
            self.control
                .clone()
                .describe(v1::DescribeRequest { protocol: 1 }),
        )
        .await;
        answer.expect("describe needs nothing").into_inner()
    }

    /// RenewLease.
    pub async fn renew(&self, app: &App) -> Result<u64, Status> {
        let request = v1::RenewLeaseRequest {
            caller: Some(app.caller()),
            ..Default::default()
        };
        Ok(step("renew", self.control.clone().renew_lease(request))
            .await?
            .into_inner()
            .lease_ms)
    }

    /// DeleteShuffle.
    pub async fn delete_shuffle(&self, app: &App, shuffle: u32) -> Result<u64, Status> {
        let request = v1::DeleteShuffleRequest {
            caller: Some(app.caller()),
            shuffle,
        };
        Ok(step(
            "delete shuffle",
            self.control.clone().delete_shuffle(request),
        )
        .await?
        .into_inner()
        .bytes)
    }

    /// DeleteApp.
    pub async fn delete_app(&self, app: &App) -> Result<u64, Status> {
        let request = v1::DeleteAppRequest {
            caller: Some(app.caller()),
        };
        Ok(step("delete app", self.control.clone().delete_app(request))
            .await?
            .into_inner()
            .bytes)
    }

    /// Usage.
    pub async fn usage(
        &self,
        app: &App,
        shuffle: Option<u32>,
    ) -> Result<v1::UsageResponse, Status> {
        let request = v1::UsageRequest {
            caller: Some(app.caller()),
            shuffle,
        };
        Ok(step("usage", self.control.clone().usage(request))
            .await?
            .into_inner())
    }

    /// Waits until all that is committed of a shuffle is in the object store.
    pub async fn written_back(&self, app: &App, shuffle: u32) {
        eventually(crate::STEP, || async {
            let usage = self.usage(app, Some(shuffle)).await;
            let usage = usage.map_err(|status| status.to_string())?;
            let mut elsewhere = usage.levels;
            elsewhere.retain(|level| level.durability != v1::Durability::Object as i32);
            match &elsewhere[..] {
                [] if usage.attempts > 0 => Ok(()),
                levels => Err(format!(
                    "of {} attempts are not written back: {levels:?}",
                    usage.attempts
                )),
            }
        })
        .await;
    }
}

/// A request for partition 0 of all maps: enough where a refusal is expected.
pub fn fetch_first(app: &App, shuffle: u32, volumes: Vec<Vec<u8>>) -> v1::FetchRequest {
    fetch_range(app, shuffle, volumes, 0..1, 0..u32::MAX)
}

/// A request for a range.
pub fn fetch_range(
    app: &App,
    shuffle: u32,
    volumes: Vec<Vec<u8>>,
    partitions: std::ops::Range<u32>,
    maps: std::ops::Range<u32>,
) -> v1::FetchRequest {
    v1::FetchRequest {
        caller: Some(app.caller()),
        shuffle,
        volumes: volumes.into_iter().map(Bytes::from).collect(),
        partition_start: partitions.start,
        partition_end: partitions.end,
        map_start: maps.start,
        map_end: maps.end,
        ..Default::default()
    }
}

// === Fetched ===

/// A block as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedBlock {
    /// As in the table.
    pub partition: u32,
    /// As in the table.
    pub map_index: u32,
    /// As in the table.
    pub attempt: u64,
    /// As in the table.
    pub seq: u32,
    /// As in the table.
    pub raw_length: u32,
    /// As in the table.
    pub records: u32,
    /// As in the table.
    pub flags: u32,
    /// As in the table.
    pub checksum: u32,
    /// Its bytes.
    pub data: Bytes,
}

impl FetchedBlock {
    /// Whether the checksum fits.
    pub fn intact(&self) -> bool {
        let rest = [
            self.seq,
            self.data.len() as u32,
            self.raw_length,
            self.records,
            self.flags,
        ];
        header_checksum(
            &self.data,
            [self.partition, self.map_index],
            self.attempt,
            rest,
        ) == self.checksum
    }
}

/// A whole answer.
#[derive(Clone, Debug, Default)]
pub struct Fetched {
    /// In the order in which they came.
    pub blocks: Vec<FetchedBlock>,
    /// How many blocks had come when each cursor came.
    pub cursors: Vec<(usize, Bytes)>,
    /// The end.
    pub summary: v1::Summary,
}

impl Fetched {
    /// Takes one message apart; answers its summary.
    pub fn take(&mut self, message: v1::FetchResponse) -> Option<v1::Summary> {
        let mut payload = message.payload;
        if let Some(table) = message.table {
            let count = table.partition.len();
            let columns = [
                &table.seq,
                &table.length,
                &table.raw_length,
                &table.records,
                &table.flags,
                &table.checksum,
                &table.map_index,
            ];
            assert!(
                columns.iter().all(|column| column.len() == count) && table.attempt.len() == count,
                "columns differ"
            );
            let total: u64 = table.length.iter().map(|&length| u64::from(length)).sum();
            assert_eq!(
                total,
                payload.len() as u64,
                "the payload is what the table says"
            );
            for i in 0..count {
                self.blocks.push(FetchedBlock {
                    partition: table.partition[i],
                    map_index: table.map_index[i],
                    attempt: table.attempt[i],
                    seq: table.seq[i],
                    raw_length: table.raw_length[i],
                    records: table.records[i],
                    flags: table.flags[i],
                    checksum: table.checksum[i],
                    data: payload.split_to(table.length[i] as usize),
                });
            }
        }
        assert!(payload.is_empty(), "payload without a table");
        assert!(
            message.cursor.len() <= 64,
            "a cursor of {} bytes",
            message.cursor.len()
        );
        if !message.cursor.is_empty() {
            self.cursors.push((self.blocks.len(), message.cursor));
        }
        message.summary
    }
}

/// Checks that a refusal is of this kind, by trailer and by code, and says something to a person:
/// all of `words`.
#[track_caller]
pub fn assert_refused(status: &Status, kind: Kind, words: &[&str]) {
    assert_eq!(
        (Kind::of(status), status.code()),
        (kind, kind.code()),
        "{status:?}"
    );
    let named = status
        .metadata()
        .get("forebay-kind")
        .map(|value| value.to_str().expect("the trailer is text").to_owned());
    assert_eq!(
        named.as_deref(),
        Some(kind.name()),
        "the trailer forebay-kind of {status:?}"
    );
    let message = status.message();
    assert!(!message.is_empty(), "a refusal says why: {status:?}");
    for word in words {
        assert!(
            message.contains(word),
            "the message {message:?} does not name {word:?}"
        );
    }
}
