//! Fetch: serves blocks of committed attempts, volume by volume, and at the end the summary.
//!
//! All volumes' reads begin before the first byte is sent, so that what they cover is one moment.
//! One part of about a MiB is read ahead while the one before it is sent; the sender's pace is the
//! reader's, by HTTP/2's flow control.
//!
//! | bytes of a cursor | meaning |
//! |---|---|
//! | 0 | version, 1 |
//! | 1..17 | volume; of those with a smaller id only the summary is wanted |
//! | 17.. | position in that volume, as `staging::Cursor` or `shuffle_remote::Cursor` says; one that the tier does not know is the start |

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    vec,
};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{FutureExt, Stream, StreamExt, stream};
use hyper::body::Incoming;
use shuffle_proto::{
    frame::{self, MAX_HEAD, Rope},
    ids::{AppId, VolumeId},
    kind::Kind,
    summary, v1,
    wire::{self, Invalid},
};
use shuffle_remote::Owner;
use tonic::Status;

use super::{
    caller,
    read::{Begin, Part, Read, Subject},
};

use crate::{
    core::{Core, pace::Pace},
    error::Refusal,
    metrics::Running,
    registry::{App, Caller, StreamPermit},
};

const CURSOR_VERSION: u8 = 1;
const MAX_CURSOR: usize = 64;
/// Bytes of one message of the summary: as much as readers take, but for its own few fields.
const MAX_SUMMARY: usize = MAX_HEAD - 1024;

/// Answers a fetch.
pub(super) fn serve(
    core: Arc<Core>,
    peer: SocketAddr,
    body: Incoming,
) -> impl Stream<Item = Result<Rope, Status>> + Send + Unpin {
    let running = core.metrics.stream("fetch");
    let start = async move {
        let mut named = None;
        match start(&core, peer, body, &mut named).await {
            Ok(fetching) => fetching.answer(core, peer, running).left_stream(),
            Err(refusal) => {
                let status = core.refuse("Fetch", Some(peer), named.as_ref(), &refusal);
                stream::once(async { Err(status) }).right_stream()
            }
        }
    };
    Box::pin(ReadAhead {
        stream: Box::pin(start.flatten_stream()),
        ahead: None,
    })
}

/// What one fetch reads.
struct Fetching {
    app: Arc<App>,
    /// Ascending by volume.
    reads: Vec<Read>,
    current: usize,
    /// What is left to be sent of the summary; absent until all blocks are sent.
    summaries: Option<vec::IntoIter<v1::Summary>>,
    _stream: StreamPermit,
}

async fn start(
    core: &Core,
    peer: SocketAddr,
    body: Incoming,
    named: &mut Option<AppId>,
) -> Result<Fetching, Refusal> {
    let request = {
        let _opening = core.opening(peer)?;
        let mut reader = Pace::first_fetch(body);
        core.first::<v1::FetchRequest>(&mut reader)
            .await?
            .ok_or_else(|| Invalid::new("request", "absent", "send one message"))?
            .0
    };
    *named = request
        .caller
        .as_ref()
        .and_then(|caller| AppId::try_new(&caller.app));
    let caller = caller::check(core, request.caller.as_ref())?;
    let partitions = wire::range(
        "partition_start",
        request.partition_start,
        request.partition_end,
    )?;
    let maps = wire::range("map_start", request.map_start, request.map_end)?;
    if request.cursor.len() > MAX_CURSOR {
        let value = format!("{} bytes", request.cursor.len());
        return Err(Invalid::new(
            "cursor",
            value,
            "send the cursor of a message of this fetch, or none",
        )
        .into());
    }
    let mut volumes = request
        .volumes
        .iter()
        .map(|id| wire::volume("volumes", id))
        .collect::<Result<Vec<_>, _>>()?;
    let wanted = wanted(&request, &volumes)?;
    volumes.sort_unstable();
    volumes.dedup();
    if volumes.is_empty() {
        return Err(
            Invalid::new("volumes", "empty", "name the volumes of the map statuses").into(),
        );
    }

    let app = admit(core, &caller, &volumes).await?;
    let stream = core.stream(&app, peer)?;
    // A cursor of a volume that is not asked for means nothing: start over.
    let resume = decode_cursor(&request.cursor).filter(|(of, _)| volumes.contains(of));
    let range = Subject {
        app: app.id.clone(),
        shuffle: wire::shuffle(request.shuffle),
        partitions,
        maps,
        only: None,
    };
    let mut reads = Vec::with_capacity(volumes.len());
    for id in &volumes {
        let begin = match &resume {
            Some((of, _)) if id < of => Begin::End,
            Some((of, cursor)) if id == of => Begin::After(cursor.clone()),
            _ => Begin::Start,
        };
        let subject = Subject {
            only: wanted.get(id).cloned(),
            ..range.clone()
        };
        reads.push(Read::open(core, *id, subject, begin).await?);
    }
    Ok(Fetching {
        app,
        reads,
        current: 0,
        summaries: None,
        _stream: stream,
    })
}

/// The attempts that are wanted of each volume; of a volume that is not in it, all.
fn wanted(
    request: &v1::FetchRequest,
    volumes: &[VolumeId],
) -> Result<HashMap<VolumeId, Arc<BTreeSet<Owner>>>, Invalid> {
    let mut wanted: HashMap<VolumeId, BTreeSet<Owner>> = HashMap::new();
    if !request.only.is_empty() && request.only.len() != volumes.len() {
        let value = format!("{} entries", request.only.len());
        let remedy = format!("send one per volume, {}, or none", volumes.len());
        return Err(Invalid::new("only", value, remedy));
    }
    for (volume, attempts) in volumes.iter().zip(&request.only) {
        let attempts = wire::attempts("only", attempts)?;
        wanted.entry(*volume).or_default().extend(attempts);
    }
    let wanted = wanted.into_iter();
    Ok(wanted.map(|(id, only)| (id, Arc::new(only))).collect())
}

/// The app of a read. One that never called here is known by its record in the object store.
async fn admit(core: &Core, caller: &Caller, volumes: &[VolumeId]) -> Result<Arc<App>, Refusal> {
    let error = match core.registry.read(caller).await {
        Ok(app) => return Ok(app),
        Err(error) => error,
    };
    // Of a server that came back with another disk, the volume says more than the app.
    if error.kind() == Kind::Lost {
        volumes
            .iter()
            .try_for_each(|id| core.volumes.find(*id).map(drop))?;
    }
    Err(error.into())
}

impl Fetching {
    fn answer(
        self,
        core: Arc<Core>,
        peer: SocketAddr,
        running: Running,
    ) -> impl Stream<Item = Result<Rope, Status>> + Send {
        stream::unfold(Some((self, core, running)), move |state| async move {
            let (mut this, core, running) = state?;
            match this.next(&core).await {
                Ok(Some(rope)) => Some((Ok(rope), Some((this, core, running)))),
                Ok(None) => None,
                Err(refusal) => Some((
                    Err(core.refuse("Fetch", Some(peer), Some(&this.app.id), &refusal)),
                    None,
                )),
            }
        })
    }

    /// The next message: blocks, then the summary, then nothing.
    async fn next(&mut self, core: &Core) -> Result<Option<Rope>, Refusal> {
        core.registry.alive(&self.app)?;
        while let Some(read) = self.reads.get_mut(self.current) {
            let Some(part) = read.next(core).await? else {
                self.current += 1;
                continue;
            };
            let bytes = part.data.iter().map(Bytes::len).sum::<usize>();
            core.metrics.fetched.inc_by(bytes as u64);
            core.metrics.blocks_fetched.inc_by(part.blocks.len() as u64);
            return Ok(Some(message(read.volume(), part)));
        }
        let reads = &self.reads;
        let summaries = self.summaries.get_or_insert_with(|| {
            let all = reads.iter().map(Read::summary);
            summary::messages(all, MAX_SUMMARY).into_iter()
        });
        let Some(summary) = summaries.next() else {
            return Ok(None);
        };
        let response = v1::FetchResponse {
            summary: Some(summary),
            ..Default::default()
        };
        let mut rope = Rope::default();
        frame::encode(&response, [], &mut rope);
        Ok(Some(rope))
    }
}

fn message(volume: VolumeId, part: Part) -> Rope {
    let mut table = v1::BlockTable::default();
    part.blocks
        .iter()
        .for_each(|block| wire::put_block(&mut table, block, true));
    let cursor = encode_cursor(volume, &part.cursor);
    let response = v1::FetchResponse {
        table: Some(table),
        cursor,
        ..Default::default()
    };
    let mut rope = Rope::default();
    frame::encode(&response, part.data, &mut rope);
    rope
}

fn encode_cursor(volume: VolumeId, position: &Bytes) -> Bytes {
    let mut bytes = BytesMut::with_capacity(17 + position.len());
    bytes.put_u8(CURSOR_VERSION);
    bytes.put_slice(volume.0.as_bytes());
    bytes.put_slice(position);
    debug_assert!(
        bytes.len() <= MAX_CURSOR,
        "a cursor of {} bytes",
        bytes.len()
    );
    bytes.freeze()
}

/// `None` if it is no cursor of ours: the fetch starts over, and the reader drops what it has.
fn decode_cursor(bytes: &[u8]) -> Option<(VolumeId, Bytes)> {
    let (&version, rest) = bytes.split_first()?;
    let (volume, position) = rest.split_at_checked(16)?;
    let volume = wire::volume("cursor", volume)
        .ok()
        .filter(|_| version == CURSOR_VERSION)?;
    Some((volume, Bytes::copy_from_slice(position)))
}

/// Starts on the next item when one is taken, so that a disk reads while the network sends.
struct ReadAhead<S: Stream> {
    stream: S,
    ahead: Option<Option<S::Item>>,
}

impl<S: Stream + Unpin> Stream for ReadAhead<S>
where
    S::Item: Unpin,
{
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let item = match self.ahead.take() {
            Some(item) => item,
            None => ready!(self.stream.poll_next_unpin(cx)),
        };
        if item.is_some()
            && let Poll::Ready(next) = self.stream.poll_next_unpin(cx)
        {
            self.ahead = Some(next);
        }
        Poll::Ready(item)
    }
}
