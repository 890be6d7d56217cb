//! One task per server: fetches its part, resumes broken streams, waits for a restarting server,
//! and follows volumes to other servers.
//!
//! **Standing still.** A stream for whose next message the caller leaves no room is closed after a
//! while and taken up again when there is room: servers have a number of streams for an app, and
//! the second side of a join may stand for an hour.
//!
//! Tries before a part is given up: `failover.rs` decides, `stream/elsewhere.rs` acts. From the
//! first loss to the failure of the reader: `losses.rs`.

mod blame;
mod elsewhere;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use shuffle_proto::{
    block::BlockHeader,
    frame::{self, Rope},
    ids::{AttemptId, VolumeId},
    v1, wire,
};
use tokio::{sync::mpsc, time::Instant};

use super::{
    Event, Room, Shared,
    losses::{self, Doubt},
    plan::Group,
    verify::{self, Fault, Progress},
};
use crate::{
    backoff::Backoff,
    channel::{Bulk, Failure, ended},
    error::{Error, Kind},
};

/// Longest cursor of the protocol.
const MAX_CURSOR: usize = 64;

/// Runs until the group's outputs are all released and compared, or one of them cannot be had.
pub(super) async fn run(shared: Arc<Shared>, group: Group, events: mpsc::UnboundedSender<Event>) {
    let mut groups = VecDeque::from([group]);
    let mut doubt = shared.losses.doubt();
    let mut lost: Option<(Error, Instant)> = None;
    while let Some(group) = groups.pop_front() {
        let fetch = Fetch::new(&shared, group, &events, &mut doubt).run();
        let result = match &lost {
            None => fetch.await,
            // The reader has failed already. Further losses are told with the first, if found soon.
            Some((_, end)) => match tokio::time::timeout_at(*end, fetch).await {
                Ok(result) => result,
                Err(_) => break,
            },
        };
        match (result, &mut lost) {
            (Ok(more), _) => groups.extend(more),
            (Err(error), Some((first, _))) => {
                first.gone.extend(error.gone);
                first.lost.extend(error.lost);
            }
            (Err(error), none) => {
                tracing::debug!(app = %shared.spec.caller.app, kind = %error.kind, "{error}");
                let moment = losses::moment(shared.client.settings());
                if !losses::is_loss(&error) {
                    groups.clear();
                }
                *none = Some((error, Instant::now() + moment));
            }
        }
    }
    shared.losses.ended();
    let Some((error, _)) = lost else {
        let _ = events.send(Event::Done);
        return;
    };
    doubt.lift();
    if let Some(error) = shared.losses.settle(error, shared.client.settings()).await {
        shared.fail(error);
        let _ = events.send(Event::Failed);
    }
    // The sender stays until the reader is dropped: an end of all senders means that the runtime is
    // gone.
    std::future::pending().await
}

/// The fetch of one group.
pub(super) struct Fetch<'a, 'd> {
    pub(super) shared: &'a Shared,
    pub(super) group: Group,
    events: &'a mpsc::UnboundedSender<Event>,
    pub(super) cursor: Bytes,
    pub(super) backoff: Backoff,
    /// Asked once more already, with no new block since.
    pub(super) asked_again: bool,
    doubt: &'a mut Doubt<'d>,
    /// Reports to this server, see `report.rs`.
    pub(super) reported: HashSet<(VolumeId, AttemptId)>,
}

/// Why a stream ended early.
pub(super) enum Trouble {
    /// The call or the stream failed.
    Failed(Failure),
    /// The server did not go on.
    Silent(Failure),
    /// The caller has left no room for a message of this length, for long.
    Still(usize),
    /// The answer is unbelievable. `from_start`: the repair takes the whole answer.
    Wrong { fault: Fault, from_start: bool },
}

impl<'a, 'd> Fetch<'a, 'd> {
    fn new(
        shared: &'a Shared,
        mut group: Group,
        events: &'a mpsc::UnboundedSender<Event>,
        doubt: &'a mut Doubt<'d>,
    ) -> Self {
        doubt.raise();
        let backoff = group.backoff.take();
        let backoff = backoff.unwrap_or_else(|| Backoff::new(shared.client.settings()));
        Self {
            shared,
            group,
            events,
            cursor: Bytes::new(),
            backoff,
            asked_again: false,
            doubt,
            reported: HashSet::new(),
        }
    }

    /// Fetches the group; parts to be fetched elsewhere come back as groups of their own.
    async fn run(mut self) -> Result<Vec<Group>, Error> {
        let mut more = Vec::new();
        let mut first = true;
        while !self.group.volumes.is_empty() {
            if !std::mem::take(&mut first) {
                self.shared.resumes.fetch_add(1, Ordering::Relaxed);
            }
            let trouble = {
                let _stream = self.shared.streams.acquire().await;
                let client = &self.shared.client;
                // Bytes that the server may send unasked.
                let unasked = client.settings().stream_window as usize;
                let _window = self.shared.running.one(client.budget(), unasked).await;
                let fetched = match self.group.direct {
                    true => Box::pin(self.direct()).await,
                    false => self.stream().await,
                };
                let Err(trouble) = fetched else {
                    return Ok(more);
                };
                if let Trouble::Silent(_) = trouble {
                    let connections = self.shared.client.connections();
                    connections.found_hung(&self.group.address);
                    connections.distrust(&self.group.address, Bulk::Fetch).await;
                }
                trouble
            };
            if !matches!(trouble, Trouble::Still(_)) {
                self.doubt.raise();
                let address = &self.group.address;
                self.shared.tally.failed(address, trouble.message());
            }
            self.turn(trouble, &mut more).await?;
        }
        Ok(more)
    }

    /// Runs one stream, from the cursor to the summary.
    async fn stream(&mut self) -> Result<(), Trouble> {
        let settings = self.shared.client.settings();
        let spec = &self.shared.spec;
        let request = v1::FetchRequest {
            caller: Some(spec.caller.message()),
            shuffle: spec.shuffle.0,
            volumes: self
                .group
                .volumes
                .iter()
                .map(|volume| Bytes::copy_from_slice(volume.0.as_bytes()))
                .collect(),
            partition_start: spec.partitions.start,
            partition_end: spec.partitions.end,
            map_start: spec.maps.start,
            map_end: spec.maps.end,
            cursor: self.cursor.clone(),
            only: self.group.wanted(),
        };
        let mut rope = Rope::default();
        frame::encode(&request, [], &mut rope);
        let address = self.group.address.clone();
        let connections = self.shared.client.connections();
        // A server waited for in vain has to be quick.
        let patience = match connections.was_waited_for(&address) {
            true => settings.connect_timeout.min(settings.call_timeout),
            false => settings.call_timeout,
        };
        let late = |what: &str| {
            let message = format!("{address} did not send {what} within {patience:?}");
            Trouble::Silent(Failure::new(Kind::Unavailable, message))
        };
        if self.shared.losses.has_given_up(&address) {
            let message = format!("{address} was given up for another part of this read");
            return Err(Trouble::Silent(Failure::new(Kind::Unavailable, message)));
        }
        let mut lane = connections.lane(&address, Bulk::Fetch).await?;
        let call = lane.call(Box::pin(stream::iter([Ok(rope)])));
        let mut answers = tokio::time::timeout(patience, call)
            .await
            .map_err(|_| late("an answer"))??;
        let mut summary = v1::Summary::default();
        let mut harvest = Harvest::new(&self.group.expected);
        loop {
            let next = tokio::time::timeout(patience, answers.head::<v1::FetchResponse>()).await;
            let Some((message, length)) = next.map_err(|_| late("more"))?? else {
                return Err(Trouble::Failed(ended(&answers, "its summary")));
            };
            connections.answered(&address);
            self.doubt.lift();
            if length > 0 {
                // The wait for the caller is not the server's fault, but its stream is not to be
                // kept for it.
                let permit = tokio::time::timeout(settings.idle_stream, self.permit(length));
                let permit = permit.await.map_err(|_| Trouble::Still(length))?;
                let mut pieces = Vec::with_capacity(4);
                let payload = answers.payload(|piece| pieces.push(piece));
                tokio::time::timeout(patience, payload)
                    .await
                    .map_err(|_| late("a whole message"))??;
                let wrong = |fault| Trouble::Wrong {
                    fault,
                    from_start: false,
                };
                // A spoilt table, and another copy may be good.
                let headers = wire::fetched_blocks(&message.table.unwrap_or_default(), length)
                    .map_err(|invalid| wrong(Fault::wrong(None, invalid.to_string())))?;
                let blocks = verify::cut(&self.group.expected, headers, pieces).map_err(wrong)?;
                let new = self.deliver(blocks, permit).await.map_err(wrong)?;
                harvest.brought(new, length).map_err(wrong)?;
            } else if is_empty(&message) && harvest.is_idle(settings.retry_deadline) {
                return Err(late("anything but empty messages"));
            }
            if !message.cursor.is_empty() && message.cursor.len() <= MAX_CURSOR {
                self.cursor = message.cursor;
            }
            if let Some(more) = message.summary {
                let wrong = |fault| Trouble::Wrong {
                    fault,
                    from_start: true,
                };
                verify::join(&mut summary, more, self.group.expected.len()).map_err(wrong)?;
                if summary.more {
                    continue;
                }
                return verify::compare(&self.group.expected, &summary).map_err(wrong);
            }
        }
    }

    /// Takes room in the window: for all of a message, or for as much as there is.
    pub(super) async fn permit(&self, length: usize) -> Room {
        let size = u32::try_from(length.min(self.shared.window_bytes))
            .expect("the window is clamped to u32");
        let Ok(permit) = self.shared.window.clone().acquire_many_owned(size).await else {
            unreachable!("the window is never closed");
        };
        let budget = self.shared.client.budget();
        Room {
            _window: permit,
            // Received bytes keep their buffers: up to as much again.
            _hold: self.shared.messages.one(budget, 2 * length).await,
        }
    }

    /// Counts blocks with good checksums, and passes on the new ones; false if there are none.
    pub(super) async fn deliver(
        &mut self,
        blocks: Vec<(BlockHeader, Bytes)>,
        permit: Room,
    ) -> Result<bool, Fault> {
        let blocks = verify::admit(&mut self.group.expected, blocks)?;
        if blocks.is_empty() {
            return Ok(false);
        }
        let bytes = blocks
            .iter()
            .map(|(block, _)| u64::from(block.length))
            .sum();
        self.shared
            .tally
            .moved(&self.group.address, blocks.len() as u64, bytes);
        self.backoff.succeeded();
        self.asked_again = false;
        if self.events.send(Event::Blocks(blocks, permit)).is_err() {
            return std::future::pending().await; // the reader is being dropped
        }
        Ok(true)
    }
}

/// Whether a message is empty, and not the last.
fn is_empty(message: &v1::FetchResponse) -> bool {
    let summary = message.summary.as_ref();
    summary
        .is_none_or(|summary| summary.more && summary.attempt.is_empty() && summary.lost.is_empty())
}

/// Progress of a stream: an endless stream without any is ended.
struct Harvest {
    /// Known bytes, which the server may send once more.
    known: u64,
    /// Bytes in which nothing was new, since something was.
    again: u64,
    /// Messages without blocks, likewise.
    empty: u32,
    since: Instant,
}

/// Bounds on fruitless bytes beside the known ones, and on empty messages.
const FRUITLESS: (u64, u32) = (256 << 20, 16);

impl Harvest {
    fn new(expected: &HashMap<AttemptId, Progress>) -> Self {
        Self {
            known: expected.values().map(Progress::bytes).sum(),
            again: 0,
            empty: 0,
            since: Instant::now(),
        }
    }

    fn brought(&mut self, new: bool, bytes: usize) -> Result<(), Fault> {
        if new {
            (self.again, self.empty, self.since) = (0, 0, Instant::now());
            return Ok(());
        }
        self.again = self.again.saturating_add(bytes as u64);
        if self.again <= self.known.saturating_add(FRUITLESS.0) {
            return Ok(());
        }
        let message = format!("{} bytes in which nothing is new", self.again);
        Err(Fault::wrong(None, message))
    }

    fn is_idle(&mut self, patience: Duration) -> bool {
        self.empty += 1;
        self.empty > FRUITLESS.1 && self.since.elapsed() >= patience
    }
}

impl Trouble {
    /// The kind of a call or stream that failed.
    fn kind(&self) -> Option<Kind> {
        match self {
            Self::Failed(failure) | Self::Silent(failure) => Some(failure.kind),
            Self::Wrong { .. } | Self::Still(_) => None,
        }
    }

    fn message(&self) -> &str {
        match self {
            Self::Failed(failure) | Self::Silent(failure) => &failure.message,
            Self::Wrong { fault, .. } => &fault.message,
            Self::Still(_) => "",
        }
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<frame::FrameError> for Trouble {
    fn from(error: frame::FrameError) -> Self {
        Self::Failed(error.into())
    }
}
