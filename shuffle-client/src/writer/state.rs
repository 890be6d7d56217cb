//! State shared by a [`MapWriter`](super::MapWriter) and its push task: kept messages, send
//! position, result.
//!
//! A message is kept until the commit, so that the output can be sent again from the start, unless
//! the output has outgrown the replay buffer: then messages go with their hand-over to the
//! connection, and a broken stream is the end of the attempt.

use std::collections::VecDeque;

use parking_lot::Mutex;
use shuffle_proto::{frame::Rope, http2, ids::VolumeId, v1};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::build::Message;
use crate::{
    budget::{Budget, Share},
    error::{Error, Kind},
    tally::Tally,
    types::Durability,
};

/// A server's answer to the commit.
#[derive(Clone, Debug)]
pub(super) struct Receipt {
    pub(super) volume: VolumeId,
    pub(super) address: String,
    pub(super) durability: Durability,
}

/// Content of the commit message, to be compared with the receipt.
#[derive(Clone, Debug)]
pub(super) struct Totals {
    pub(super) message: v1::PartitionTotals,
    pub(super) bytes: u64,
    pub(super) records: u64,
}

pub(super) struct Shared {
    state: Mutex<State>,
    /// The push task may have something to do.
    work: Notify,
    /// The writer may have something to see.
    news: Notify,
    aborted: CancellationToken,
    replay_buffer: usize,
    budget: Budget,
    tally: Tally,
}

pub(super) struct State {
    messages: VecDeque<Message>,
    /// Messages before the first in `messages`: gone, because the output outgrew the replay buffer.
    gone: usize,
    /// Count of `messages` that were handed to the current stream.
    handed: usize,
    kept_bytes: usize,
    unsent_bytes: usize,
    built_bytes: usize,
    outgrown: bool,
    totals: Option<Totals>,
    reason: Option<String>,
    result: Option<Result<Receipt, Error>>,
    resends: u64,
    stream: Stream,
}

/// How far the current stream is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stream {
    pub(super) opened: bool,
    /// The server has the commit already: nothing but Commit is to be sent.
    pub(super) committed: bool,
    pub(super) commit_sent: bool,
    /// When the stream last went on.
    pub(super) progress: Instant,
}

/// The push task's next step.
pub(super) enum Step {
    Send(Rope),
    Commit(v1::PartitionTotals),
    Abort(String),
    Wait,
}

impl Shared {
    pub(super) fn new(replay_buffer: usize, budget: Budget, tally: Tally) -> Self {
        Self {
            state: Mutex::new(State {
                messages: VecDeque::new(),
                gone: 0,
                handed: 0,
                kept_bytes: 0,
                unsent_bytes: 0,
                built_bytes: 0,
                outgrown: false,
                totals: None,
                reason: None,
                result: None,
                resends: 0,
                stream: Stream::new(),
            }),
            work: Notify::new(),
            news: Notify::new(),
            aborted: CancellationToken::new(),
            replay_buffer,
            budget,
            tally,
        }
    }

    // --- the writer's side ---

    /// The failure, if there is one; else the bytes that are still to be handed to a connection.
    pub(super) fn check(&self) -> Result<usize, Error> {
        let state = self.state.lock();
        match &state.result {
            Some(Err(error)) => Err(error.clone()),
            Some(Ok(_)) | None => Ok(state.unsent_bytes),
        }
    }

    pub(super) fn push(&self, message: Message) {
        let mut state = self.state.lock();
        if state.result.is_some() {
            return;
        }
        if state.unsent_bytes == 0 {
            state.stream.progress = Instant::now();
        }
        state.kept_bytes += message.held();
        state.unsent_bytes += message.len();
        state.built_bytes += message.len();
        state.messages.push_back(message);
        state.outgrown |=
            state.kept_bytes > self.replay_buffer || self.budget.is_short(Share::Messages);
        state.let_go();
        drop(state);
        self.work.notify_one();
    }

    pub(super) fn commit(&self, message: v1::PartitionTotals, (bytes, records): (u64, u64)) {
        let mut state = self.state.lock();
        state.totals = Some(Totals {
            message,
            bytes,
            records,
        });
        state.stream.progress = Instant::now();
        drop(state);
        self.work.notify_one();
    }

    pub(super) fn abort(&self, reason: &str) {
        let mut state = self.state.lock();
        if state.result.is_none() && state.reason.is_none() {
            state.reason = Some(reason.to_string());
        }
        state.messages.clear();
        state.handed = 0;
        state.unsent_bytes = 0;
        drop(state);
        self.aborted.cancel();
        self.work.notify_one();
    }

    pub(super) async fn drained_to(&self, bytes: usize) -> Result<(), Error> {
        loop {
            if self.check()? <= bytes {
                return Ok(());
            }
            self.news.notified().await;
        }
    }

    pub(super) async fn result(&self) -> Result<Receipt, Error> {
        loop {
            if let Some(result) = &self.state.lock().result {
                return result.clone();
            }
            self.news.notified().await;
        }
    }

    pub(super) fn resends(&self) -> u64 {
        self.state.lock().resends
    }

    pub(super) fn tally(&self) -> &Tally {
        &self.tally
    }

    // --- the push task's side ---

    /// The whole output is at this server.
    pub(super) fn delivered(&self, address: &str) {
        if let Some(totals) = self.totals() {
            let blocks = totals.message.blocks.iter().copied().map(u64::from).sum();
            self.tally.moved(address, blocks, totals.bytes);
        }
    }

    /// The first result stays.
    pub(super) fn finish(&self, result: Result<Receipt, Error>) {
        let mut state = self.state.lock();
        if state.result.is_none() {
            state.result = Some(result);
        }
        state.messages.clear();
        state.handed = 0;
        state.unsent_bytes = 0;
        drop(state);
        self.news.notify_one();
    }

    /// Waits until [`step`](Self::step) may answer otherwise.
    pub(super) async fn work(&self) {
        self.work.notified().await;
    }

    pub(super) fn aborted(&self) -> &CancellationToken {
        &self.aborted
    }

    pub(super) fn reason(&self) -> String {
        self.state.lock().reason.clone().unwrap_or_default()
    }

    /// Starts over on a new stream.
    pub(super) fn restart(&self, again: bool) {
        let mut state = self.state.lock();
        state.handed = 0;
        state.unsent_bytes = state.messages.iter().map(Message::len).sum();
        state.stream = Stream::new();
        state.resends += u64::from(again);
    }

    /// Whether all built messages are still here.
    pub(super) fn replayable(&self) -> bool {
        self.state.lock().gone == 0
    }

    pub(super) fn built_bytes(&self) -> usize {
        self.state.lock().built_bytes
    }

    pub(super) fn totals(&self) -> Option<Totals> {
        self.state.lock().totals.clone()
    }

    pub(super) fn stream(&self) -> Stream {
        self.state.lock().stream
    }

    /// Whether the server owes an answer, or room for more.
    pub(super) fn waiting(&self) -> bool {
        let state = self.state.lock();
        !state.stream.opened || state.unsent_bytes > 0 || state.totals.is_some()
    }

    pub(super) fn opened(&self, committed: bool) {
        let mut state = self.state.lock();
        state.stream.opened = true;
        state.stream.committed = committed;
        state.let_go();
        state.stream.progress = Instant::now();
        drop(state);
        self.work.notify_one();
    }

    pub(super) fn progressed(&self) {
        self.state.lock().stream.progress = Instant::now();
    }

    /// Most acknowledgements that a server can owe on the current stream: one for each message, and
    /// for each part of the commit, which has so many partitions.
    pub(super) fn most_acks(&self, part: usize) -> usize {
        let state = self.state.lock();
        let totals = state.totals.as_ref();
        let parts = totals.map_or(0, |totals| totals.message.partition.len() / part + 1);
        state.gone + state.handed + parts
    }

    /// Largest payload of the kept messages.
    pub(super) fn largest_payload(&self) -> usize {
        self.state
            .lock()
            .messages
            .iter()
            .map(Message::payload_len)
            .max()
            .unwrap_or(0)
    }

    /// The next step: messages that fit one HTTP/2 frame together, the commit, or the abort.
    pub(super) fn step(&self) -> Step {
        let mut state = self.state.lock();
        if let Some(reason) = &state.reason {
            return Step::Abort(reason.clone());
        }
        if state.stream.committed {
            state.handed = state.messages.len();
            state.unsent_bytes = 0;
        }
        let mut rope = Rope::default();
        let mut handed = state.handed;
        while let Some(message) = state.messages.get(handed) {
            if !rope.is_empty() && rope.len() + message.len() > http2::GROUP {
                break;
            }
            message.append_to(&mut rope);
            handed += 1;
        }
        if !rope.is_empty() {
            state.handed = handed;
            state.unsent_bytes -= rope.len();
            state.stream.progress = Instant::now();
            state.let_go();
            drop(state);
            self.news.notify_one();
            return Step::Send(rope);
        }
        match &state.totals {
            Some(totals) if !state.stream.commit_sent => {
                let message = totals.message.clone();
                state.stream.commit_sent = true;
                state.stream.progress = Instant::now();
                Step::Commit(message)
            }
            _ => Step::Wait,
        }
    }
}

impl State {
    /// Drops handed-over messages, once the output has outgrown the replay buffer. Not before the
    /// server has opened the stream: a refusal must not cost the output.
    fn let_go(&mut self) {
        if self.outgrown && self.stream.opened {
            for message in self.messages.drain(..self.handed) {
                self.kept_bytes -= message.held();
                self.gone += 1;
            }
            self.handed = 0;
        }
    }
}

impl Stream {
    fn new() -> Self {
        Self {
            opened: false,
            committed: false,
            commit_sent: false,
            progress: Instant::now(),
        }
    }
}

impl Shared {
    /// Leaves a result for a runtime that goes away under the task.
    pub(super) fn abandoned(&self) {
        self.finish(Err(Error::new(
            Kind::Unavailable,
            "the runtime of the client was shut down while a map output was written",
        )));
    }
}
