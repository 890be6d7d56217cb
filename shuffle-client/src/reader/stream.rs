//! One task per server: fetches its part, takes broken streams up again, waits for a server that restarts, and looks for volumes
//! that are served elsewhere now.
//!
//! What is tried before a part is given up:
//!
//! | answer | then |
//! |---|---|
//! | broken stream, `Unavailable`, `Busy` | the same server from the last verified message, with pauses, until `retry_deadline` passed without a new block; meanwhile once, and again at the end, the volumes are looked for elsewhere |
//! | `Lost` | each volume by itself: if it is found elsewhere, there; if this server has it, once more; else it is lost |
//! | a checksum fails, `Corrupt` | once more from the last verified message: the bits may have flipped on the way |
//! | an attempt is missing, or counts differ | once more from the start |
//! | anything else | at once |
//! | the object store itself fails, or does not have all | the volume's own server, as it was asked before |
//!
//! What was written at level `mirror` has another copy, which is gone to first: for good from a server that has lost or spoilt its
//! own, and to and fro, within the same `retry_deadline`, between servers that do not answer.
//!
//! What is meant by elsewhere: `elsewhere.rs`.

use std::{collections::VecDeque, sync::Arc, sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use shuffle_proto::{
    block::BlockHeader,
    frame::{self, Rope},
    ids::VolumeId,
    v1, wire,
};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{
    Event, Shared,
    plan::Group,
    verify::{self, Fault, Progress},
};
use crate::{
    backoff::Backoff,
    channel::{Bulk, Failure, ended},
    error::{Error, Kind},
};

/// Failures in a row after which the volumes are looked for elsewhere.
const SEARCH_AFTER: u32 = 4;
/// Longest cursor of the protocol.
const MAX_CURSOR: usize = 64;

/// Runs until the group's outputs are all released and compared, or one of them cannot be had.
pub(super) async fn run(shared: Arc<Shared>, group: Group, events: mpsc::UnboundedSender<Event>) {
    let mut groups = VecDeque::from([group]);
    while let Some(group) = groups.pop_front() {
        let fetch = Fetch::new(&shared, group, &events);
        match fetch.run().await {
            Ok(more) => groups.extend(more),
            Err(error) => {
                tracing::debug!(app = %shared.spec.caller.app, kind = %error.kind, "{error}");
                shared.fail(error);
                let _ = events.send(Event::Failed);
                // The sender stays until the reader is dropped: an end of all senders means that the runtime is gone.
                return std::future::pending().await;
            }
        }
    }
    let _ = events.send(Event::Done);
}

/// The fetch of one group.
pub(super) struct Fetch<'a> {
    pub(super) shared: &'a Shared,
    pub(super) group: Group,
    events: &'a mpsc::UnboundedSender<Event>,
    pub(super) cursor: Bytes,
    pub(super) backoff: Backoff,
    /// Asked once more already, with no new block since.
    pub(super) asked_again: bool,
}

/// Why a stream ended early.
pub(super) enum Trouble {
    /// The call or the stream failed.
    Failed(Failure),
    /// The server did not go on.
    Silent(Failure),
    /// What came cannot be believed. `from_start`: it takes the whole answer to repair.
    Wrong { fault: Fault, from_start: bool },
}

impl<'a> Fetch<'a> {
    fn new(shared: &'a Shared, mut group: Group, events: &'a mpsc::UnboundedSender<Event>) -> Self {
        let backoff = group.backoff.take();
        let backoff = backoff.unwrap_or_else(|| Backoff::new(shared.client.settings()));
        Self {
            shared,
            group,
            events,
            cursor: Bytes::new(),
            backoff,
            asked_again: false,
        }
    }

    /// Fetches the group; what has to be fetched elsewhere comes back as groups of their own.
    async fn run(mut self) -> Result<Vec<Group>, Error> {
        let mut more = Vec::new();
        let mut first = true;
        while !self.group.volumes.is_empty() {
            if !std::mem::take(&mut first) {
                self.shared.resumes.fetch_add(1, Ordering::Relaxed);
            }
            let trouble = {
                let _stream = self.shared.streams.acquire().await;
                let fetched = match self.group.direct {
                    true => Box::pin(self.direct()).await,
                    false => self.stream().await,
                };
                match fetched {
                    Ok(()) => return Ok(more),
                    Err(Trouble::Silent(failure)) => {
                        self.shared
                            .client
                            .connections()
                            .distrust(&self.group.address, Bulk::Fetch)
                            .await;
                        Trouble::Failed(failure)
                    }
                    Err(trouble) => trouble,
                }
            };
            let address = self.group.address.clone();
            self.shared.tally.failed(&address, trouble.message());
            match trouble {
                Trouble::Wrong { fault, from_start } => {
                    if std::mem::replace(&mut self.asked_again, true) {
                        // What was committed last may not have been written back.
                        if fault.missing && self.go_home().await
                            || self.turn_to_mirrors(true, &mut more)
                        {
                            continue;
                        }
                        return Err(self.wrong(&fault));
                    }
                    tracing::debug!(
                        read = self.shared.name(),
                        server = address,
                        error = fault.message,
                        "answer is wrong, asking once more"
                    );
                    if from_start {
                        self.cursor = Bytes::new();
                    }
                }
                Trouble::Failed(failure) | Trouble::Silent(failure) => match failure.kind {
                    // What is written back later, and a store that answers again, are found when the server has not come back.
                    Kind::Busy | Kind::Unavailable | Kind::Lost if self.group.direct => {
                        self.go_home().await;
                    }
                    Kind::Busy | Kind::Unavailable => {
                        let pause = self.backoff.failed(failure.retry_after);
                        let search_at = SEARCH_AFTER * (1 + u32::from(self.group.is_mirrored()));
                        if self.backoff.tries() == search_at || pause.is_none() {
                            let volumes = self.group.volumes.clone();
                            more.extend(self.move_volumes(volumes, true).await);
                        }
                        let Some(pause) = pause else {
                            if self.group.volumes.is_empty() {
                                break;
                            }
                            return Err(self.unavailable(&failure));
                        };
                        tracing::debug!(
                            read = self.shared.name(),
                            server = self.group.address,
                            error = failure.message,
                            "fetch broke; next try in {pause:?}"
                        );
                        tokio::time::sleep(pause).await;
                        if self.backoff.tries() >= SEARCH_AFTER {
                            self.turn_to_mirrors(false, &mut more);
                        }
                    }
                    Kind::Lost
                        if self.group.home.is_none() && self.turn_to_mirrors(true, &mut more) => {}
                    Kind::Lost => more.extend(self.lost(failure).await?),
                    Kind::Corrupt if !std::mem::replace(&mut self.asked_again, true) => {}
                    Kind::Corrupt if self.turn_to_mirrors(true, &mut more) => {}
                    Kind::Corrupt => {
                        let message = format!(
                            "{address} cannot serve {}: {}",
                            self.shared.name(),
                            failure.message
                        );
                        return Err(self.name_one(Error::new(Kind::Corrupt, message), None));
                    }
                    Kind::Invalid | Kind::Fenced | Kind::Internal | Kind::Denied => {
                        let message = format!(
                            "{address} refuses to serve {}: {}",
                            self.shared.name(),
                            failure.message
                        );
                        return Err(Error::new(failure.kind, message));
                    }
                },
            }
        }
        Ok(more)
    }

    /// One stream, from the cursor to the summary.
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
        };
        let mut rope = Rope::default();
        frame::encode(&request, [], &mut rope);
        let address = self.group.address.clone();
        let late = |what: &str| {
            let message = format!(
                "{address} did not send {what} within {:?}",
                settings.call_timeout
            );
            Trouble::Silent(Failure::new(Kind::Unavailable, message))
        };
        let mut lane = self
            .shared
            .client
            .connections()
            .lane(&address, Bulk::Fetch)
            .await?;
        let call = lane.call(Box::pin(stream::iter([Ok(rope)])));
        let mut answers = tokio::time::timeout(settings.call_timeout, call)
            .await
            .map_err(|_| late("an answer"))??;
        loop {
            let next =
                tokio::time::timeout(settings.call_timeout, answers.head::<v1::FetchResponse>())
                    .await;
            let Some((message, length)) = next.map_err(|_| late("more"))?? else {
                return Err(Trouble::Failed(ended(&answers, "its summary")));
            };
            if length > 0 {
                // The wait for the caller is not the server's fault: no deadline.
                let permit = self.permit(length).await;
                let mut pieces = Vec::with_capacity(4);
                let payload = answers.payload(|piece| pieces.push(piece));
                tokio::time::timeout(settings.call_timeout, payload)
                    .await
                    .map_err(|_| late("a whole message"))??;
                let headers = wire::fetched_blocks(&message.table.unwrap_or_default(), length)
                    .map_err(|invalid| {
                        Failure::new(
                            Kind::Internal,
                            format!("{address} answers wrongly: {invalid}"),
                        )
                    })?;
                let wrong = |fault| Trouble::Wrong {
                    fault,
                    from_start: false,
                };
                let blocks = verify::cut(headers, pieces).map_err(wrong)?;
                self.deliver(blocks, permit).await.map_err(wrong)?;
            }
            if !message.cursor.is_empty() && message.cursor.len() <= MAX_CURSOR {
                self.cursor = message.cursor;
            }
            if let Some(summary) = message.summary {
                let wrong = |fault| Trouble::Wrong {
                    fault,
                    from_start: true,
                };
                return verify::compare(&self.group.expected, &summary).map_err(wrong);
            }
        }
    }

    /// Takes room in the window: for all of a message, or for as much as there is.
    pub(super) async fn permit(&self, length: usize) -> OwnedSemaphorePermit {
        let size = u32::try_from(length.min(self.shared.window_bytes))
            .expect("the window is clamped to u32");
        let Ok(permit) = self.shared.window.clone().acquire_many_owned(size).await else {
            unreachable!("the window is never closed");
        };
        permit
    }

    /// Counts blocks whose checksums are good, and gives those on that were not given before.
    pub(super) async fn deliver(
        &mut self,
        blocks: Vec<(BlockHeader, Bytes)>,
        permit: OwnedSemaphorePermit,
    ) -> Result<(), Fault> {
        let blocks = verify::admit(&mut self.group.expected, blocks)?;
        if blocks.is_empty() {
            return Ok(());
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
        Ok(())
    }

    fn wrong(&self, fault: &Fault) -> Error {
        let (kind, verb) = if fault.missing {
            (Kind::Lost, "has lost a part")
        } else {
            (Kind::Corrupt, "answers wrongly")
        };
        let message = format!(
            "{} {verb} of {}, asked twice: {}",
            self.group.address,
            self.shared.name(),
            fault.message
        );
        let error = Error::new(kind, message);
        match fault
            .attempt
            .and_then(|attempt| self.group.expected.get(&attempt))
        {
            Some(progress) => error.with_output(progress.output.lost()),
            None => self.name_one(error, None),
        }
    }

    fn unavailable(&self, failure: &Failure) -> Error {
        let tried_for: Duration = self.backoff.failing_for();
        let message = format!(
            "{} did not serve {} within {tried_for:.0?} and {} tries, and no other server has its volumes: {}. Start it again with \
             its disk, or raise {}",
            self.group.address,
            self.shared.name(),
            self.backoff.tries(),
            failure.message,
            self.shared.client.settings().name("retry_deadline"),
        );
        self.with_look(self.name_one(Error::new(Kind::Unavailable, message), None))
    }

    /// Names one expected output of this volume, or of any volume of the group: one that the object store does not have, if that was
    /// seen.
    pub(super) fn name_one(&self, mut error: Error, volume: Option<VolumeId>) -> Error {
        let expected = &self.group.expected;
        let looked = self.group.looked.as_ref();
        let missing = looked.and_then(|looked| expected.get(&looked.missing?));
        let mut others = expected
            .values()
            .filter(|progress| volume.is_none_or(|volume| volume == progress.output.volume));
        let Some(Progress { output, .. }) = missing.or_else(|| others.next()) else {
            return error;
        };
        error.message = format!(
            "{} (map {}, attempt {})",
            error.message, output.map_index, output.attempt
        );
        error.with_output(output.lost())
    }
}

impl Trouble {
    fn message(&self) -> &str {
        match self {
            Self::Failed(failure) | Self::Silent(failure) => &failure.message,
            Self::Wrong { fault, .. } => &fault.message,
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
