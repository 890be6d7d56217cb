//! The fake server's answers: Push and Fetch by hand, Control by the generated service.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use shuffle_proto::{
    block::{BlockHeader, MAX_BATCH, PartitionTotal},
    frame::{self, MessageReader, Rope, RopeBody},
    ids::{AttemptId, MapIndex},
    kind::Kind,
    v1::{self, control_server::ControlServer},
    wire,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tower::ServiceExt as _;

use super::{Endless, Inner, store::Key};

/// Time for the last bytes before a break to reach the reader, on a busy machine too.
const ARRIVES: Duration = Duration::from_millis(200);

type Answer = UnsyncBoxBody<Rope, Box<dyn std::error::Error + Send + Sync>>;
type Sender = mpsc::Sender<Result<Rope, Status>>;

/// Owners of attempts, by the order in which their streams came.
static STREAMS: AtomicU64 = AtomicU64::new(1);

pub(super) async fn answer(
    inner: Arc<Inner>,
    request: Request<Incoming>,
    cut: CancellationToken,
) -> Result<Response<Answer>, Infallible> {
    if inner.faults.lock().hang {
        std::future::pending::<()>().await;
    }
    let push = match request.uri().path() {
        "/forebay.v1.Data/Push" => true,
        "/forebay.v1.Data/Fetch" => false,
        _ => return Ok(control(inner, request).await),
    };
    let (sender, receiver) = mpsc::channel(1);
    let refused = inner.refusal();
    tokio::spawn(async move {
        let reader = MessageReader::new(request.into_body());
        let result = match refused {
            Some(status) => Err(status),
            None if push => inner.push(reader, &sender, &cut).await,
            None => inner.fetch(reader, &sender, &cut).await,
        };
        if let Err(status) = result {
            let _ = sender.send(Err(status)).await;
        }
    });
    let body = RopeBody::response(ReceiverStream::new(receiver))
        .map_err(Into::into)
        .boxed_unsync();
    let mut response = Response::new(body);
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/grpc"),
    );
    Ok(response)
}

async fn control(inner: Arc<Inner>, request: Request<Incoming>) -> Response<Answer> {
    let service = ControlServer::from_arc(inner);
    let response = service.oneshot(request.map(tonic::body::Body::new)).await;
    let Ok(response) = response;
    response.map(|body| frame::rope_body(body).map_err(Into::into).boxed_unsync())
}

pub(super) fn malformed(error: impl std::fmt::Display) -> Status {
    Kind::Invalid.status(error, None)
}

/// Says nothing more until the connection is cut.
async fn gone(answers: &Sender) -> Result<(), Status> {
    answers.closed().await;
    Ok(())
}

fn send_step(step: v1::push_response::Step) -> Rope {
    let mut rope = Rope::default();
    frame::encode(&v1::PushResponse { step: Some(step) }, [], &mut rope);
    rope
}

impl Inner {
    fn refusal(&self) -> Option<Status> {
        let mut faults = self.faults.lock();
        if faults.busy > 0 {
            faults.busy -= 1;
            return Some(Kind::Busy.status(
                "the fake is told to be busy",
                Some(Duration::from_millis(10)),
            ));
        }
        if faults.unavailable > 0 {
            faults.unavailable -= 1;
            return Some(Kind::Unavailable.status("the fake is told to be unavailable", None));
        }
        None
    }

    async fn push(
        &self,
        mut reader: MessageReader<Incoming>,
        answers: &Sender,
        cut: &CancellationToken,
    ) -> Result<(), Status> {
        let stream = STREAMS.fetch_add(1, Ordering::Relaxed);
        let first = reader
            .head::<v1::PushRequest>()
            .await
            .map_err(malformed)?
            .and_then(|(message, _)| message.step);
        let Some(v1::push_request::Step::Open(open)) = first else {
            return Err(malformed("the first message is no Open: send Open first"));
        };
        self.counters.lock().opens += 1;
        let caller = open.caller.clone().unwrap_or_default();
        let app = wire::app("open.caller.app", &caller.app).map_err(malformed)?;
        wire::count("open.num_maps", open.num_maps).map_err(malformed)?;
        wire::count("open.num_partitions", open.num_partitions).map_err(malformed)?;
        let map_index = MapIndex(
            wire::index("open.map_index", open.map_index, open.num_maps).map_err(malformed)?,
        );
        let attempt = AttemptId(open.attempt);
        let key: Key = (app, wire::shuffle(open.shuffle), attempt);
        {
            let mut faults = self.faults.lock();
            if faults.fenced > 0 {
                faults.fenced -= 1;
                return Err(Kind::Fenced.status("the fake is told to fence", None));
            }
            if faults.lease_over {
                return Err(Kind::Fenced.status("the lease ran out: register again", None));
            }
            if faults.draining {
                return Err(Kind::Unavailable.status("server is draining: use another one", None));
            }
        }
        let (volume, committed) = self.store.lock().open(&key, map_index, stream);
        let volume = Bytes::copy_from_slice(volume.0.as_bytes());
        let opened = v1::Opened {
            protocol: 1,
            volume: volume.clone(),
            committed,
            max_batch: MAX_BATCH,
            elsewhere: false,
        };
        let _ = answers
            .send(Ok(send_step(v1::push_response::Step::Opened(opened))))
            .await;

        let endless = self.faults.lock().endless;
        if endless == Some(Endless::Opened) {
            let again = v1::Opened {
                volume: volume.clone(),
                ..Default::default()
            };
            let again = send_step(v1::push_response::Step::Opened(again));
            let _ = answers.send(Ok(again)).await;
        }
        while endless == Some(Endless::Acks) {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let ack = send_step(v1::push_response::Step::Ack(v1::Ack { batches: 1 }));
            if answers.send(Ok(ack)).await.is_err() {
                return Ok(());
            }
        }
        let (mut batches, mut taken) = (0u64, 0u64);
        let mut totals = Vec::new();
        loop {
            while self.faults.lock().hold {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let Some((message, length)) =
                reader.head::<v1::PushRequest>().await.map_err(malformed)?
            else {
                self.store.lock().abort(&key, stream);
                return Ok(());
            };
            match message.step {
                Some(v1::push_request::Step::Batch(batch)) => {
                    let mut payload = BytesMut::with_capacity(length);
                    reader
                        .payload(|piece| payload.extend_from_slice(&piece))
                        .await
                        .map_err(malformed)?;
                    if committed {
                        continue; // sent before Opened was read
                    }
                    let blocks = (batch.table.unwrap_or_default(), payload.freeze());
                    self.hold(&key, stream, map_index, open.num_partitions, blocks)?;
                    batches += 1;
                    taken += length as u64;
                    self.counters.lock().batches += 1;
                    let broken = self
                        .faults
                        .lock()
                        .break_push_after
                        .take_if(|limit| taken >= *limit)
                        .is_some();
                    if broken {
                        cut.cancel();
                        return gone(answers).await;
                    }
                    {
                        let mut faults = self.faults.lock();
                        if faults
                            .drain_push_after
                            .take_if(|limit| taken >= *limit)
                            .is_some()
                        {
                            faults.draining = true;
                            return Err(
                                Kind::Unavailable.status("draining: push to another server", None)
                            );
                        }
                    }
                    let _ = answers
                        .send(Ok(send_step(v1::push_response::Step::Ack(v1::Ack {
                            batches,
                        }))))
                        .await;
                }
                Some(v1::push_request::Step::Commit(commit)) => {
                    let part = commit.totals.unwrap_or_default();
                    wire::more_totals(&mut totals, &part, open.num_partitions)
                        .map_err(malformed)?;
                    if commit.more {
                        continue;
                    }
                    let receipt = self.commit(
                        &key,
                        stream,
                        std::mem::take(&mut totals),
                        volume.clone(),
                        open.durability,
                    )?;
                    let dropped = {
                        let mut faults = self.faults.lock();
                        let drops = faults.drop_acks > 0;
                        faults.drop_acks -= u32::from(drops);
                        drops
                    };
                    if dropped {
                        cut.cancel();
                        return gone(answers).await;
                    }
                    let _ = answers
                        .send(Ok(send_step(v1::push_response::Step::Committed(receipt))))
                        .await;
                    return Ok(());
                }
                Some(v1::push_request::Step::Abort(abort)) => {
                    self.counters.lock().aborts.push(abort.reason);
                    self.store.lock().abort(&key, stream);
                    return Ok(());
                }
                _ => {
                    return Err(malformed(
                        "a second Open or nothing: send Batch, Commit or Abort",
                    ));
                }
            }
        }
    }

    fn hold(
        &self,
        key: &Key,
        stream: u64,
        map_index: MapIndex,
        num_partitions: u32,
        (table, mut payload): (v1::BlockTable, Bytes),
    ) -> Result<(), Status> {
        let mut store = self.store.lock();
        let Some(held) = store.attempt(key, stream) else {
            return Err(Kind::Fenced.status("another stream has opened this attempt", None));
        };
        let next = u32::try_from(held.blocks.len()).expect("a fake holds few blocks");
        let headers = wire::pushed_blocks(
            &table,
            payload.len(),
            map_index,
            key.2,
            num_partitions,
            next,
        );
        for header in headers.map_err(malformed)? {
            let bytes = payload.split_to(header.length as usize);
            if !header.verify([&bytes[..]]) {
                return Err(Kind::Corrupt.status("a block fails its checksum", None));
            }
            held.blocks.push((header, bytes));
        }
        Ok(())
    }

    fn commit(
        &self,
        key: &Key,
        stream: u64,
        totals: Vec<PartitionTotal>,
        volume: Bytes,
        durability: i32,
    ) -> Result<v1::Committed, Status> {
        let mut store = self.store.lock();
        let Some(held) = store.attempt(key, stream) else {
            return Err(Kind::Fenced.status("another stream has opened this attempt", None));
        };
        let blocks: u64 = totals.iter().map(|total| u64::from(total.blocks)).sum();
        let bytes: u64 = totals.iter().map(|total| total.bytes).sum();
        let records: u64 = totals.iter().map(|total| total.records).sum();
        let holds: u64 = held
            .blocks
            .iter()
            .map(|(header, _)| u64::from(header.length))
            .sum();
        if blocks != held.blocks.len() as u64 || bytes != holds {
            return Err(malformed(format!(
                "commit of {bytes} bytes: {holds} are here"
            )));
        }
        if held.totals.is_none() {
            self.counters.lock().commits += 1;
        }
        held.totals = Some(totals);
        Ok(v1::Committed {
            volume,
            durability,
            bytes,
            records,
        })
    }

    async fn fetch(
        &self,
        mut reader: MessageReader<Incoming>,
        answers: &Sender,
        cut: &CancellationToken,
    ) -> Result<(), Status> {
        struct Open<'a>(&'a Inner);
        impl Drop for Open<'_> {
            fn drop(&mut self) {
                self.0.counters.lock().fetching -= 1;
            }
        }
        self.counters.lock().fetching += 1;
        let _open = Open(self);
        let Some((request, _)) = reader.head::<v1::FetchRequest>().await.map_err(malformed)? else {
            return Err(malformed("no request"));
        };
        self.counters.lock().fetches += 1;
        let lost = self.faults.lock().lost.clone();
        let (blocks, summary) = self.plan(&request)?;
        let start = match <[u8; 8]>::try_from(&request.cursor[..]) {
            Ok(cursor) if !self.faults.lock().forget_cursors => {
                usize::try_from(u64::from_le_bytes(cursor)).unwrap_or(0)
            }
            _ => 0,
        };
        let limit = *self.message_bytes.lock();
        let mut sent = 0u64;
        let endless = self.faults.lock().endless;
        loop {
            let message = match endless {
                Some(Endless::Empty) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    v1::FetchResponse::default()
                }
                Some(Endless::Summary) => v1::FetchResponse {
                    summary: Some(v1::Summary {
                        more: true,
                        ..summary.clone()
                    }),
                    ..Default::default()
                },
                _ => break,
            };
            let mut rope = Rope::default();
            frame::encode(&message, [], &mut rope);
            if answers.send(Ok(rope)).await.is_err() {
                return Ok(());
            }
        }
        let mut position = start.min(blocks.len());
        while position < blocks.len() {
            let mut message = v1::FetchResponse::default();
            let mut table = v1::BlockTable::default();
            let (mut payload, mut length) = (Vec::new(), 0);
            while let Some((header, bytes)) = blocks.get(position)
                && (payload.is_empty() || length + bytes.len() <= limit)
            {
                position += 1;
                // The block has a place in cursors, and is not sent.
                if lost.contains(&header.attempt) {
                    continue;
                }
                wire::put_block(&mut table, header, true);
                length += bytes.len();
                payload.push(self.maybe_flipped(header.attempt, bytes));
            }
            message.table = Some(table);
            message.cursor = Bytes::copy_from_slice(&(position as u64).to_le_bytes());
            let mut rope = Rope::default();
            frame::encode(&message, payload, &mut rope);
            let broken = self
                .faults
                .lock()
                .break_fetch_after
                .take_if(|limit| sent + length as u64 > *limit)
                .is_some();
            if broken {
                // The sent blocks arrive first, so that the next request shows where the reader
                // resumes.
                tokio::time::sleep(ARRIVES).await;
                cut.cancel();
                return gone(answers).await;
            }
            if answers.send(Ok(rope)).await.is_err() {
                return Ok(());
            }
            sent += length as u64;
            self.counters.lock().fetched_bytes += length as u64;
            if endless == Some(Endless::Again) && position >= blocks.len() {
                position = 0;
            }
        }
        let mut rope = Rope::default();
        frame::encode(
            &v1::FetchResponse {
                summary: Some(summary),
                ..Default::default()
            },
            [],
            &mut rope,
        );
        let _ = answers.send(Ok(rope)).await;
        Ok(())
    }

    /// Blocks in the order of (partition, map index, seq), and the summary.
    fn plan(
        &self,
        request: &v1::FetchRequest,
    ) -> Result<(Vec<(BlockHeader, Bytes)>, v1::Summary), Status> {
        let app = wire::app(
            "caller.app",
            &request.caller.clone().unwrap_or_default().app,
        )
        .map_err(malformed)?;
        let partitions = wire::range("partitions", request.partition_start, request.partition_end)
            .map_err(malformed)?;
        let maps = wire::range("maps", request.map_start, request.map_end).map_err(malformed)?;
        let volumes: Result<Vec<_>, _> = request
            .volumes
            .iter()
            .map(|id| wire::volume("volumes", id))
            .collect();
        let volumes = volumes.map_err(malformed)?;
        let hung = self.faults.lock().hung;
        if hung.is_some_and(|hung| volumes.contains(&hung)) {
            return Err(Kind::Unavailable.status("a disk does not answer", None));
        }
        let unserved = self.faults.lock().unserved;
        if unserved.is_some_and(|unserved| volumes.contains(&unserved)) {
            return Err(Kind::Lost.status("a volume is not served here", None));
        }
        let store = self.store.lock();
        let Some(committed) = store.committed(&app, wire::shuffle(request.shuffle), &volumes)
        else {
            return Err(Kind::Lost.status("a volume or the shuffle is not known here", None));
        };
        let (omit, lost) = {
            let faults = self.faults.lock();
            (faults.omit, faults.lost.clone())
        };
        let mut blocks = Vec::new();
        let mut summary = v1::Summary::default();
        for (id, attempt) in committed {
            if omit == Some(id) || !maps.contains(&attempt.map_index.0) {
                continue;
            }
            let ours = attempt
                .blocks
                .iter()
                .filter(|(header, _)| partitions.contains(&header.partition.0));
            let before = blocks.len();
            blocks.extend(ours.cloned());
            let new = &blocks[before..];
            if lost.contains(&id) {
                let (map_index, reason) = (attempt.map_index.0, "the fake is told so".to_string());
                summary.lost.push(v1::LostAttempt {
                    map_index,
                    attempt: id.0,
                    reason,
                });
                continue;
            }
            summary.map_index.push(attempt.map_index.0);
            summary.attempt.push(id.0);
            summary
                .blocks
                .push(u32::try_from(new.len()).unwrap_or(u32::MAX));
            summary
                .bytes
                .push(new.iter().map(|(header, _)| u64::from(header.length)).sum());
            summary.records.push(
                new.iter()
                    .map(|(header, _)| u64::from(header.records))
                    .sum(),
            );
        }
        blocks.sort_by_key(|(header, _)| {
            (
                header.partition,
                header.map_index,
                header.attempt,
                header.seq,
            )
        });
        Ok((blocks, summary))
    }

    fn maybe_flipped(&self, attempt: AttemptId, bytes: &Bytes) -> Bytes {
        let mut faults = self.faults.lock();
        if faults.spoilt != Some(attempt) && !faults.bad.contains(&attempt) {
            if faults.flip == 0 {
                return bytes.clone();
            }
            if faults.flip_after > 0 {
                faults.flip_after -= 1;
                return bytes.clone();
            }
            faults.flip -= 1;
        }
        let mut copy = BytesMut::from(&bytes[..]);
        let middle = copy.len() / 2;
        copy[middle] ^= 0x10;
        copy.freeze()
    }
}
