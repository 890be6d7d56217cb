//! Push: takes the output of one map attempt. One message in, one answer out, until the commit or the end of the stream.
//!
//! For a batch the head comes first, then memory for exactly its payload, then the payload: while there is no memory nothing is
//! read, and HTTP/2 holds the sender back. When the peer goes away, hyper drops the answer's stream, and with it the attempt.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{Stream, stream};
use hyper::body::Incoming;
use shuffle_proto::{
    block::{MAX_BATCH, PartitionTotal},
    frame::{self, MessageReader, Rope},
    ids::{AppId, AttemptId, MapIndex, VolumeId},
    v1::{self, push_request, push_response},
    wire::{self, Invalid},
};
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::Status;

use super::caller;
use crate::{
    budget::{Permit, StagedBuilder, batch_cost},
    core::{Core, drain::draining, pace::Pace, share::Share, volumes::Choice},
    error::Refusal,
    metrics::Running,
    registry::{App, StreamPermit},
    staging::{AttemptKey, AttemptWriter, Durability, Opened, Receipt, Volume},
};

/// How often a push that waits for memory looks whether its volume still answers.
const GLANCE: Duration = Duration::from_millis(250);

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
    /// Batches are skipped when the attempt was committed before, and wrong when this stream has committed it.
    here: bool,
    batches: u64,
    /// As its receipt says.
    bytes: u64,
    parts: Parts,
}

/// The totals of a commit, as far as they are here.
#[derive(Default)]
struct Parts {
    totals: Vec<PartitionTotal>,
    /// Of what the attempt is known to have, as much as these say.
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
    /// Until it is committed and the volume counts it.
    share: Option<Share>,
    _stream: StreamPermit,
    _push: TaskTrackerToken,
}

/// When a commit is acknowledged.
#[derive(Clone, Copy)]
enum Level {
    /// When the volume has it so.
    Staged(Durability),
    /// When the object store has it.
    Object,
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

    /// The next step, unless the server drains and the time of its pushes is over. What has been read as a commit is carried out all
    /// the same: it is the last moment at which a client that goes elsewhere would send everything twice.
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

    async fn open(&mut self, open: &v1::Open) -> Answer {
        if !matches!(self.state, State::New) {
            return Err(Invalid::new(
                "step",
                "a second open",
                "push each attempt on a stream of its own",
            )
            .into());
        }
        self.app = open
            .caller
            .as_ref()
            .and_then(|caller| AppId::try_new(&caller.app));
        let caller = caller::check(open.caller.as_ref())?;
        let num_maps = wire::count("open.num_maps", open.num_maps)?;
        let num_partitions = wire::count("open.num_partitions", open.num_partitions)?;
        let map_index = MapIndex(wire::index("open.map_index", open.map_index, num_maps)?);
        let level = self.level(open.durability)?;
        // The token first: a push that is let in is one that the drain waits for.
        let push = self.core.pushes.token();
        if self.core.is_draining() {
            return Err(draining());
        }
        let app = self.core.registry.write(&caller).await?;
        let stream = self.core.stream(&app, self.peer)?;
        Pace::admitted(&mut self.reader);
        let (shuffle, attempt) = (wire::shuffle(open.shuffle), AttemptId(open.attempt));
        let key = AttemptKey {
            app: app.id.clone(),
            shuffle,
            map_index,
            attempt,
        };

        let protocol = caller::version(
            "caller.protocol",
            open.caller.as_ref().map_or(0, |caller| caller.protocol),
        )?;
        let volumes = &self.core.volumes;
        // What is here is answered here.
        let is_here = || {
            volumes
                .iter()
                .any(|volume| volume.committed(&key).is_some())
        };
        let most = if open.share > 0 && is_here() {
            0
        } else {
            open.share
        };
        let held = || {
            let of_volume = volumes
                .iter()
                .map(|volume| volume.attempts(&key.app, shuffle));
            of_volume.sum()
        };
        let of = (key.app.clone(), shuffle);
        let Some(share) = self.core.shares.take(of, most, held) else {
            self.elsewhere = true;
            let answer = v1::Opened {
                protocol,
                elsewhere: true,
                ..v1::Opened::default()
            };
            return Ok(Some(push_response::Step::Opened(answer)));
        };
        let (volume, choice) = volumes.choose(&key)?;
        let opened = volume.open_attempt(key.clone(), num_maps, num_partitions)?;
        // The app may have gone while the volume did not know of the attempt yet: what is deleted must not come back.
        self.core.registry.alive(&app)?;
        let attempt = Attempt {
            app,
            key,
            num_partitions,
            level,
            volume: volume.clone(),
            _choice: choice,
            share: Some(share),
            _stream: stream,
            _push: push,
        };
        let committed = matches!(opened, Opened::Committed(_));
        let answer = v1::Opened {
            protocol,
            volume: bytes(attempt.volume.id()),
            committed,
            max_batch: MAX_BATCH,
            elsewhere: false,
        };
        self.state = match opened {
            Opened::New(writer) => State::Writing(Box::new(Writing {
                attempt,
                writer,
                next_seq: 0,
                batches: 0,
                parts: Parts::default(),
            })),
            Opened::Committed(receipt) => State::Committed(Box::new(Committed {
                attempt,
                here: false,
                batches: 0,
                bytes: receipt.bytes,
                parts: Parts::default(),
            })),
        };
        Ok(Some(push_response::Step::Opened(answer)))
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

    async fn commit(&mut self, commit: &v1::Commit) -> Answer {
        let batches = match &mut self.state {
            State::New => return Err(Invalid::new("step", "commit", "send open first").into()),
            State::Writing(writing) => {
                self.core.registry.alive(&writing.attempt.app)?;
                let most = u64::from(writing.next_seq);
                let parts = &mut writing.parts;
                let blocks = |total: &PartitionTotal| u64::from(total.blocks);
                parts.add(commit, writing.attempt.num_partitions, blocks, most)?;
                writing.batches
            }
            State::Committed(known) => {
                self.core.registry.alive(&known.attempt.app)?;
                let most = known.bytes;
                let parts = &mut known.parts;
                let bytes = |total: &PartitionTotal| total.bytes;
                parts.add(commit, known.attempt.num_partitions, bytes, most)?;
                known.batches
            }
        };
        if commit.more {
            return Ok(Some(push_response::Step::Ack(v1::Ack { batches })));
        }
        match std::mem::replace(&mut self.state, State::New) {
            State::New => Err(Invalid::new("step", "commit", "send open first").into()),
            State::Writing(writing) => {
                let Writing {
                    mut attempt,
                    writer,
                    batches,
                    parts: Parts { totals, .. },
                    ..
                } = *writing;
                let start = Instant::now();
                let receipt = writer.commit(totals, attempt.level.staged()).await?;
                attempt.share = None;
                attempt.app.committed();
                let answer = self.acknowledge(&attempt, &receipt).await?;
                self.core
                    .metrics
                    .commit_latency
                    .observe(start.elapsed().as_secs_f64());
                self.core.metrics.commits.inc();
                self.state = State::Committed(Box::new(Committed {
                    attempt,
                    here: true,
                    batches,
                    bytes: receipt.bytes,
                    parts: Parts::default(),
                }));
                Ok(Some(answer))
            }
            State::Committed(mut known) => {
                let Attempt {
                    key, level, volume, ..
                } = &known.attempt;
                let Parts { totals, .. } = std::mem::take(&mut known.parts);
                let receipt = volume.confirm(key, &totals, level.staged()).await?;
                let answer = self.acknowledge(&known.attempt, &receipt).await?;
                self.state = State::Committed(known);
                Ok(Some(answer))
            }
        }
    }

    /// The answer to a commit, when its level is reached.
    async fn acknowledge(
        &self,
        attempt: &Attempt,
        receipt: &Receipt,
    ) -> Result<push_response::Step, Refusal> {
        let durability = match (attempt.level, &self.core.remote) {
            (Level::Object, Some(tier)) => {
                tier.writeback
                    .written(&attempt.volume, &attempt.key)
                    .await?;
                v1::Durability::Object
            }
            _ => match receipt.durability {
                Durability::Memory => v1::Durability::Memory,
                Durability::Disk => v1::Durability::Disk,
                Durability::Fsync => v1::Durability::Fsync,
            },
        };
        Ok(push_response::Step::Committed(v1::Committed {
            volume: bytes(receipt.volume),
            durability: durability as i32,
            bytes: receipt.bytes,
            records: receipt.records,
        }))
    }

    /// The level to reach, if this server has it.
    fn level(&self, raw: i32) -> Result<Level, Refusal> {
        let available = match self.core.remote {
            Some(_) => {
                "this server has DURABILITY_MEMORY (1), DURABILITY_DISK (2), DURABILITY_FSYNC (3) and DURABILITY_OBJECT (5)"
            }
            None => {
                "this server has DURABILITY_MEMORY (1), DURABILITY_DISK (2) and DURABILITY_FSYNC (3); start it with --remote for DURABILITY_OBJECT (5)"
            }
        };
        match v1::Durability::try_from(raw) {
            Ok(v1::Durability::Memory) => Ok(Level::Staged(Durability::Memory)),
            Ok(v1::Durability::Disk) => Ok(Level::Staged(Durability::Disk)),
            Ok(v1::Durability::Fsync) => Ok(Level::Staged(Durability::Fsync)),
            Ok(v1::Durability::Object) if self.core.remote.is_some() => Ok(Level::Object),
            Ok(level) => {
                Err(Invalid::new("open.durability", level.as_str_name(), available).into())
            }
            Err(_) => Err(Invalid::new("open.durability", raw, available).into()),
        }
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

/// As long as it takes: meanwhile nothing is read, and the sender is held back. Unless the volume ceases to answer: then what was sent
/// goes, and with it the memory that others wait for.
async fn wait_for_memory(core: &Core, volume: &Volume, cost: usize) -> Result<Permit, Refusal> {
    if let Some(permit) = core.budget.try_acquire(cost) {
        return Ok(permit);
    }
    let start = Instant::now();
    let mut granted = std::pin::pin!(core.budget.acquire(cost));
    let permit = loop {
        match tokio::time::timeout(GLANCE, &mut granted).await {
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
    /// Adds a part. What comes in several is bounded by what the attempt is known to have; that it is just this, the volume sees.
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

impl Level {
    /// What the volume is asked for.
    fn staged(self) -> Durability {
        match self {
            Level::Staged(durability) => durability,
            Level::Object => Durability::Disk,
        }
    }
}

fn bytes(volume: VolumeId) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(volume.0.as_bytes())
}
