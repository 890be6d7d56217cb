//! Push: takes the output of one map attempt. One message in, one answer out, until the commit or
//! the end of the stream.
//!
//! For a batch the head comes first, then memory for exactly its payload, then the payload: while
//! there is no memory nothing is read, and HTTP/2 holds the sender back. When the peer goes away,
//! hyper drops the answer's stream, and with it the attempt.

mod commit;
mod open;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{Stream, stream};
use hyper::body::Incoming;
use shuffle_proto::{
    block::PartitionTotal,
    frame::{self, MessageReader, Rope},
    ids::{AppId, VolumeId},
    v1::{self, push_request, push_response},
    wire::{self, Invalid},
};
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::Status;

use crate::{
    budget::{Permit, StagedBuilder, batch_cost},
    core::{Core, drain::draining, pace::Pace, share::Share, volumes::Choice},
    error::Refusal,
    metrics::Running,
    registry::{App, StreamPermit},
    staging::{AttemptKey, AttemptWriter, Volume},
};
use open::Level;

/// How often a push that waits for memory looks whether its volume still answers.
const MEMORY_POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Answers a push.
pub(super) fn serve(
    core: Arc<Core>,
    peer: SocketAddr,
    body: Incoming,
) -> impl Stream<Item = Result<Rope, Status>> + Send + Unpin {
    let running = core.metrics.stream("push");
    let push = Push {
        core,
        peer,
        reader: Pace::first_push(body),
        state: State::New,
        app: None,
        elsewhere: false,
        _running: running,
    };
    Box::pin(stream::unfold(Some(push), |push| async move {
        let mut push = push?;
        if push.elsewhere {
            return None;
        }
        match push.next().await {
            Ok(Some(step)) => {
                let mut rope = Rope::default();
                frame::encode(&v1::PushResponse { step: Some(step) }, [], &mut rope);
                Some((Ok(rope), Some(push)))
            }
            Ok(None) => None,
            Err(refusal) => Some((Err(push.refuse(&refusal)), None)),
        }
    }))
}

struct Push {
    core: Arc<Core>,
    peer: SocketAddr,
    reader: MessageReader<Incoming>,
    state: State,
    /// Whom the caller said it is, for the log.
    app: Option<AppId>,
    /// The server has its share, and the client has been told.
    elsewhere: bool,
    _running: Running,
}

enum State {
    /// Nothing was sent yet.
    New,
    /// Takes batches.
    Writing(Box<Writing>),
    /// The attempt was committed before this stream, or by it.
    Committed(Box<Committed>),
}

struct Writing {
    attempt: Attempt,
    writer: AttemptWriter,
    next_seq: u32,
    batches: u64,
    parts: Parts,
}

struct Committed {
    attempt: Attempt,
    /// Batches are skipped when the attempt was committed before, and wrong when this stream has
    /// committed it.
    here: bool,
    batches: u64,
    /// Stored bytes, by the receipt.
    bytes: u64,
    parts: Parts,
}

/// The totals of a commit, as far as they are here.
#[derive(Default)]
struct Parts {
    totals: Vec<PartitionTotal>,
    /// Blocks and bytes that these totals claim, bounded by what the attempt is known to have.
    counted: u64,
    begun: bool,
}

/// What Open said, and what is held for as long as the stream runs.
struct Attempt {
    app: Arc<App>,
    key: AttemptKey,
    num_partitions: u32,
    level: Level,
    volume: Volume,
    _choice: Choice,
    /// The attempt's place among outputs that are being written, until the volume counts it as
    /// committed.
    share: Option<Share>,
    _stream: StreamPermit,
    _push: TaskTrackerToken,
}

type Answer = Result<Option<push_response::Step>, Refusal>;

impl Push {
    async fn head(&mut self) -> Result<Option<(v1::PushRequest, usize)>, Refusal> {
        match self.state {
            State::New => {
                let _opening = self.core.opening(self.peer)?;
                self.core.first(&mut self.reader).await
            }
            _ => self.core.next(&mut self.reader).await,
        }
    }

    /// The next step, unless the server drains and the time of its pushes is over. What has been
    /// read as a commit is carried out all the same: it is the last moment at which a client that
    /// goes elsewhere would send everything twice.
    async fn next(&mut self) -> Answer {
        let core = self.core.clone();
        let (message, payload) = tokio::select! {
            biased;
            message = self.head() => match message? {
                Some(message) => message,
                None => {
                    self.ended("the stream ended");
                    return Ok(None);
                }
            },
            () = core.drain.fenced() => return Err(draining()),
        };
        if matches!(&message.step, Some(push_request::Step::Commit(_))) {
            return self.step(message, payload).await;
        }
        tokio::select! {
            biased;
            () = core.drain.fenced() => Err(draining()),
            answer = self.step(message, payload) => answer,
        }
    }

    async fn step(&mut self, message: v1::PushRequest, payload: usize) -> Answer {
        let Some(step) = message.step else {
            return Err(Invalid::new("step", "absent", "send open, batch, commit or abort").into());
        };
        if payload > 0 && !matches!(step, push_request::Step::Batch(_)) {
            return Err(Invalid::new(
                "payload",
                format!("{payload} bytes"),
                "send a payload with batch only",
            )
            .into());
        }
        match step {
            push_request::Step::Open(open) => self.open(&open).await,
            push_request::Step::Batch(batch) => self.batch(&batch, payload).await,
            push_request::Step::Commit(commit) => self.commit(&commit).await,
            push_request::Step::Abort(abort) => self.abort(&abort),
        }
    }

    async fn batch(&mut self, batch: &v1::Batch, payload: usize) -> Answer {
        let begun = match &self.state {
            State::New => false,
            State::Writing(writing) => writing.parts.begun,
            State::Committed(committed) => committed.here || committed.parts.begun,
        };
        if begun {
            return Err(Invalid::new(
                "step",
                "batch after commit",
                "send all batches before commit",
            )
            .into());
        }
        let batches = match &mut self.state {
            State::New => return Err(Invalid::new("step", "batch", "send open first").into()),
            // The reader skips the payload.
            State::Committed(committed) => {
                self.core.registry.alive(&committed.attempt.app)?;
                committed.batches += 1;
                committed.batches
            }
            State::Writing(writing) => {
                let Attempt {
                    app,
                    key,
                    num_partitions,
                    ..
                } = &writing.attempt;
                self.core.registry.alive(app)?;
                let table = batch
                    .table
                    .as_ref()
                    .ok_or_else(|| Invalid::new("batch.table", "absent", "send the block table"))?;
                let blocks = wire::pushed_blocks(
                    table,
                    payload,
                    key.map_index,
                    key.attempt,
                    *num_partitions,
                    writing.next_seq,
                )?;
                let count = blocks.len();
                // invariant: permit-before-bytes
                let cost = batch_cost(payload, count);
                let permit = wait_for_memory(&self.core, &writing.attempt.volume, cost).await?;
                let mut staged = StagedBuilder::with_capacity(permit, payload);
                self.core
                    .payload(&mut self.reader, |piece| staged.extend(piece))
                    .await?;
                writing.writer.append(blocks, staged.freeze())?;
                writing.next_seq = u32::try_from(count)
                    .ok()
                    .and_then(|count| writing.next_seq.checked_add(count))
                    .ok_or_else(|| {
                        Invalid::new("batch.table.seq", u32::MAX, "send fewer, larger blocks")
                    })?;
                writing.batches += 1;
                self.core.metrics.pushed.inc_by(payload as u64);
                self.core.metrics.blocks_pushed.inc_by(count as u64);
                writing.batches
            }
        };
        Ok(Some(push_response::Step::Ack(v1::Ack { batches })))
    }

    fn abort(&mut self, abort: &v1::Abort) -> Answer {
        if matches!(self.state, State::New) {
            return Err(Invalid::new("step", "abort", "send open first").into());
        }
        let reason: String = abort.reason.chars().take(200).collect();
        self.ended(&format!("aborted by the client: {reason:?}"));
        Ok(None)
    }

    fn ended(&mut self, why: &str) {
        if let State::Writing(writing) = std::mem::replace(&mut self.state, State::New) {
            self.dropped(&writing, why);
        }
    }

    fn dropped(&self, writing: &Writing, why: &str) {
        let AttemptKey {
            app,
            shuffle,
            map_index,
            attempt,
        } = &writing.attempt.key;
        self.core.metrics.aborts.inc();
        tracing::debug!(peer = %self.peer, %app, %shuffle, map = %map_index, %attempt, batches = writing.batches, why, "attempt dropped");
    }

    fn refuse(&mut self, refusal: &Refusal) -> Status {
        self.ended(&refusal.message);
        self.core
            .refuse("Push", Some(self.peer), self.app.as_ref(), refusal)
    }
}

impl Drop for Push {
    fn drop(&mut self) {
        self.ended("the client went away");
    }
}

/// Waits for memory as long as it takes: meanwhile nothing is read, and the sender is held back. If
/// the volume stops answering, the wait ends with an error: the push ends, and its memory goes to
/// others who wait.
async fn wait_for_memory(core: &Core, volume: &Volume, cost: usize) -> Result<Permit, Refusal> {
    if let Some(permit) = core.budget.try_acquire(cost) {
        return Ok(permit);
    }
    let start = Instant::now();
    let mut granted = std::pin::pin!(core.budget.acquire(cost));
    let permit = loop {
        match tokio::time::timeout(MEMORY_POLL_INTERVAL, &mut granted).await {
            Ok(permit) => break permit,
            Err(_) => volume.check_waits()?,
        }
    };
    core.metrics
        .permit_wait
        .observe(start.elapsed().as_secs_f64());
    Ok(permit)
}

// === impl Parts ===

impl Parts {
    /// Adds a part of the totals. Totals in several parts are bounded by the pushed blocks and
    /// bytes; the volume compares them exactly.
    fn add(
        &mut self,
        part: &v1::Commit,
        num_partitions: u32,
        count: impl Fn(&PartitionTotal) -> u64,
        most: u64,
    ) -> Result<(), Invalid> {
        let totals = part.totals.as_ref().ok_or_else(|| {
            Invalid::new(
                "commit.totals",
                "absent",
                "send the totals of each partition; an empty message if there is none",
            )
        })?;
        let (before, several) = (self.totals.len(), part.more || self.begun);
        self.begun = true;
        wire::more_totals(&mut self.totals, totals, num_partitions)?;
        let new = self.totals[before..].iter().map(count);
        self.counted = new.fold(self.counted, u64::saturating_add);
        if several && self.counted > most {
            let value = format!("of {} blocks or bytes", self.counted);
            let remedy = format!("the attempt has {most}: send the totals of what was pushed");
            return Err(Invalid::new("commit.totals", value, remedy));
        }
        Ok(())
    }
}

// === impl Level ===

fn bytes(volume: VolumeId) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(volume.0.as_bytes())
}
