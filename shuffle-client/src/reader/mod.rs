//! The input of one reduce task.
//!
//! - `plan.rs`: the expected outputs, grouped by server. `verify.rs`: the seen blocks, and the
//!   comparison at the end. `stream.rs`: one task per server that fetches and resumes;
//!   `failover.rs`: where a part is fetched when its server fails; `direct.rs`: the object store
//!   itself, when no server is left; `losses.rs`: all losses, told with the first; `report.rs`:
//!   reports of bad blocks to their server.
//! - Here: the window, the queue of verified blocks, and what happens on the caller's thread:
//!   putting long records together, decrypting and decoding, so that decoded bytes never wait in
//!   memory.
//!
//! **Window.** A stream takes permits for a message before it reads the payload, and returns them
//! when the caller has taken the last block. A message larger than the window takes the whole
//! window. Parts of a record longer than the window are joined message by message, so such a record
//! passes too. A caller that stops taking blocks stops the streams.

mod block;
mod direct;
mod failover;
mod losses;
mod plan;
mod report;
mod spec;
mod stream;
mod verify;

use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::Stream;
use parking_lot::Mutex;
use shuffle_proto::{
    block::{BlockHeader, Codec},
    ids::{AttemptId, PartitionId},
};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    budget::{Budget, Permit, Share},
    client::Client,
    codec::Decoder,
    crypt::Decryptor,
    error::{Error, Kind},
    pool::BufferPool,
    tally::Tally,
    types::MAX_LONG,
};
use block::Storage;
pub use block::{Block, Buffer, Part};
use losses::Losses;
pub use spec::{Output, ReadSpec, ReaderStats};

/// Reads the blocks of some outputs, from all their servers at once, in no particular order; blocks
/// of one output and partition come in the order of writing.
pub struct Reader {
    queue: mpsc::UnboundedReceiver<Event>,
    shared: Arc<Shared>,
    tasks: Vec<AbortOnDropHandle<()>>,
    done: usize,
    finished: bool,
    failed: Option<Error>,
    /// Blocks of the message being released.
    blocks: VecDeque<(BlockHeader, Bytes)>,
    _permit: Option<Room>,
    /// Unfinished records: at most one per attempt and partition.
    open: HashMap<(AttemptId, PartitionId), Record>,
    /// Parts of long records are given out as they come.
    in_parts: bool,
    pool: Arc<BufferPool>,
    decoder: Decoder,
    decryptor: Option<Decryptor>,
    /// A block between decryption and decoding.
    plain: Vec<u8>,
    stats: ReaderStats,
    /// Nanoseconds of waits.
    waited: Arc<AtomicU64>,
    /// Since when a stream waits.
    pending: Option<Instant>,
}

/// State shared by a reader and its streams.
struct Shared {
    client: Client,
    spec: ReadSpec,
    window: Arc<Semaphore>,
    window_bytes: usize,
    /// Limit on running streams.
    streams: Semaphore,
    /// Running streams: one is always allowed, more while the process' account has room for
    /// servers' unasked bytes.
    running: Arc<Held>,
    /// Messages held here: one is always allowed.
    messages: Arc<Held>,
    /// The first failure: seen by the caller before blocks that wait.
    failed: Mutex<Option<Error>>,
    losses: Losses,
    resumes: std::sync::atomic::AtomicU64,
    tally: Tally,
}

/// A stream's word to the reader.
enum Event {
    /// Verified blocks of expected outputs, none of them released before.
    Blocks(VecDeque<(BlockHeader, Bytes)>, Room),
    /// A server's part is complete and compared.
    Done,
    /// Look at `Shared::failed`.
    Failed,
}

/// How many of something a reader has.
#[derive(Default)]
struct Held {
    count: AtomicUsize,
    fewer: Notify,
}

/// A running stream, with its part of the process' account.
struct Hold {
    held: Arc<Held>,
    _permit: Permit,
}

/// Room for a message, in the reader's window and in the process' account.
struct Room {
    _window: OwnedSemaphorePermit,
    _hold: Hold,
}

/// A record being put together.
struct Record {
    next_seq: u32,
    length: usize,
    records: u32,
    stored_bytes: u64,
    /// Empty where its parts are given out.
    data: Vec<u8>,
}

// === impl Client ===

impl Client {
    /// Starts to read the outputs named in `spec`. Connects in the background; a wrong spec is
    /// answered by the first `next`.
    pub fn open_reader(&self, spec: ReadSpec) -> Reader {
        Reader::open(self.clone(), spec)
    }
}

// === impl Reader ===

impl Reader {
    fn open(client: Client, spec: ReadSpec) -> Self {
        let settings = client.settings();
        let window_bytes = spec
            .window
            .unwrap_or(settings.fetch_window)
            .clamp(1, u32::MAX as usize);
        let (events, queue) = mpsc::unbounded_channel();
        let pool = client.block_pool().clone();
        learn_where_copies_are(&client, &spec);
        let groups = plan::groups(
            &spec,
            |address| client.connections().is_down(address),
            |address| client.near().is_here(address),
        );
        let decryptor = client
            .secret()
            .map(|secret| Decryptor::new(secret.clone(), spec.caller.app.clone(), spec.shuffle));
        let shared = Arc::new(Shared {
            window: Arc::new(Semaphore::new(window_bytes)),
            window_bytes,
            streams: Semaphore::new(settings.fetch_streams),
            running: Arc::default(),
            messages: Arc::default(),
            failed: Mutex::default(),
            losses: Losses::default(),
            resumes: Default::default(),
            tally: Tally::default(),
            client,
            spec,
        });
        let mut tasks = Vec::new();
        match groups {
            Err(error) => shared.fail(error),
            Ok(groups) => {
                shared.losses.begin(groups.len());
                for group in groups {
                    let task = stream::run(shared.clone(), group, events.clone());
                    tasks.push(AbortOnDropHandle::new(shared.client.handle().spawn(task)));
                }
            }
        }
        Self {
            queue,
            shared,
            tasks,
            done: 0,
            finished: false,
            failed: None,
            blocks: VecDeque::new(),
            _permit: None,
            open: HashMap::new(),
            in_parts: false,
            pool,
            decoder: Decoder::default(),
            decryptor,
            plain: Vec::new(),
            stats: ReaderStats::default(),
            waited: Arc::default(),
            pending: None,
        }
    }

    /// Gives long records out in their parts, see [`Block::part`], instead of putting them together:
    /// for an engine that has better memory for them. To be called before the first block.
    pub fn in_parts(mut self) -> Self {
        self.in_parts = true;
        self
    }

    /// The next block; `None` after everything expected was released and compared with the commits.
    /// May be dropped while it waits and called again. An error is repeated for ever.
    pub async fn next(&mut self) -> Result<Option<Block>, Error> {
        // A wait that is given up ends its time.
        let waited = self.waited.clone();
        let mut timer = None;
        std::future::poll_fn(|cx| {
            let polled = self.poll_fallible(cx);
            if polled.is_pending() {
                timer.get_or_insert_with(|| Timer {
                    started: Instant::now(),
                    sum: &waited,
                });
            }
            polled
        })
        .await
    }

    /// For streams: as [`next`](Self::next).
    pub(crate) fn poll_block(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Block>, Error>> {
        let polled = self.poll_fallible(cx);
        if polled.is_pending() {
            self.pending.get_or_insert_with(Instant::now);
        } else if let Some(started) = self.pending.take() {
            drop(Timer {
                started,
                sum: &self.waited,
            });
        }
        polled
    }

    /// Counters so far.
    pub fn stats(&self) -> ReaderStats {
        ReaderStats {
            resumes: self
                .shared
                .resumes
                .load(std::sync::atomic::Ordering::Relaxed),
            waited: Duration::from_nanos(self.waited.load(Ordering::Relaxed)),
            ..self.stats
        }
    }

    /// Work of each server: verified bytes, released or not, and failures.
    pub fn tally(&self) -> Tally {
        self.shared.tally.clone()
    }

    fn poll_fallible(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Block>, Error>> {
        if let Some(error) = &self.failed {
            return Poll::Ready(Err(error.clone()));
        }
        let result = ready!(self.try_poll(cx));
        if let Err(error) = &result {
            self.failed = Some(error.clone());
            self.tasks.clear();
            self.blocks.clear();
            self.open.clear();
            self._permit = None;
        }
        Poll::Ready(result)
    }

    fn try_poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Block>, Error>> {
        while !self.finished {
            if let Some(error) = &*self.shared.failed.lock() {
                return Poll::Ready(Err(error.clone()));
            }
            while let Some((header, bytes)) = self.blocks.pop_front() {
                if let Some(block) = self.release(&header, bytes)? {
                    return Poll::Ready(Ok(Some(block)));
                }
            }
            self._permit = None;
            if self.done == self.tasks.len() {
                self.finish()?;
                break;
            }
            match ready!(self.queue.poll_recv(cx)) {
                Some(Event::Blocks(blocks, permit)) => {
                    self.blocks = blocks;
                    self._permit = Some(permit);
                }
                Some(Event::Done) => self.done += 1,
                Some(Event::Failed) => {}
                None => {
                    let message = format!(
                        "the runtime of the client was shut down while {} was read",
                        self.shared.name()
                    );
                    return Poll::Ready(Err(Error::new(Kind::Unavailable, message)));
                }
            }
        }
        Poll::Ready(Ok(None))
    }

    /// Every stream has ended and agrees with its servers' summaries.
    fn finish(&mut self) -> Result<(), Error> {
        if let Some(&(attempt, partition)) = self.open.keys().next() {
            let message = format!(
                "attempt {attempt} ends inside a record of partition {partition}: {}",
                self.shared.name()
            );
            return Err(self.broken(attempt, message));
        }
        self.finished = true;
        Ok(())
    }

    /// Decodes one verified block; `None` inside an unfinished record.
    fn release(&mut self, header: &BlockHeader, bytes: Bytes) -> Result<Option<Block>, Error> {
        self.stats.blocks += 1;
        self.stats.bytes += u64::from(header.length);
        let part = Part {
            continues: header.flags.continues(),
            continued: header.flags.continued(),
        };
        if part == Part::default() {
            let data = self.whole(header, bytes)?;
            return Ok(Some(block_of(header, part, data)));
        }
        let key = (header.attempt, header.partition);
        let mut record = match (part.continues, self.open.remove(&key)) {
            (false, None) => Record {
                next_seq: header.seq,
                length: 0,
                records: 0,
                stored_bytes: 0,
                data: Vec::new(),
            },
            (true, Some(record)) if record.next_seq == header.seq => record,
            (_, before) => {
                let before = before.map_or_else(
                    || "none".to_string(),
                    |record| format!("one up to block {}", record.next_seq),
                );
                let message = format!(
                    "block {} of attempt {} says {:?}, and the record before it is {before}: {}",
                    header.seq,
                    header.attempt,
                    header.flags,
                    self.shared.name()
                );
                return Err(self.broken(header.attempt, message));
            }
        };
        let start = record.length;
        record.length += header.raw_length as usize;
        if record.length > MAX_LONG {
            let message = format!(
                "record of attempt {} is longer than {MAX_LONG} bytes: {}",
                header.attempt,
                self.shared.name()
            );
            return Err(self.broken(header.attempt, message));
        }
        record.next_seq = header.seq.wrapping_add(1);
        record.records += header.records;
        record.stored_bytes += u64::from(header.length);
        if self.in_parts {
            let data = self.whole(header, bytes)?;
            if part.continued {
                self.open.insert(key, record);
            }
            return Ok(Some(block_of(header, part, data)));
        }
        record.data.resize(record.length, 0);
        self.decode(header, &bytes, &mut record.data[start..])?;
        if part.continued {
            self.open.insert(key, record);
            return Ok(None);
        }
        Ok(Some(Block {
            records: record.records,
            stored_bytes: record.stored_bytes,
            ..block_of(header, Part::default(), Storage::Joined(record.data))
        }))
    }

    /// The bytes of one block, decoded.
    fn whole(&mut self, header: &BlockHeader, bytes: Bytes) -> Result<Storage, Error> {
        let flags = header.flags;
        if flags.codec() == Codec::None && self.decryptor.is_none() && !flags.is_encrypted() {
            return Ok(Storage::Received(bytes));
        }
        let mut buffer = self.pool.take(header.raw_length as usize);
        self.decode(header, &bytes, buffer.as_mut())?;
        Ok(Storage::Pooled(buffer))
    }

    /// Decrypts and decodes. The checksum was right, so what cannot be decoded was written so: no
    /// other copy would help.
    fn decode(
        &mut self,
        header: &BlockHeader,
        bytes: &[u8],
        space: &mut [u8],
    ) -> Result<(), Error> {
        let encoded = match (&mut self.decryptor, header.flags.is_encrypted()) {
            (None, false) => Ok(bytes),
            (Some(decryptor), true) => {
                if decryptor.decrypt(header, bytes, &mut self.plain) {
                    Ok(&self.plain[..])
                } else {
                    Err("it was encrypted with another key, or changed since".to_string())
                }
            }
            (None, true) => Err("it is encrypted, and this client has no key".to_string()),
            // A plain block would let anybody with access to a server's disk put rows into the
            // answer.
            (Some(_), false) => {
                Err("it is not encrypted, and everything of this application must be".to_string())
            }
        };
        let decoded =
            encoded.and_then(|encoded| self.decoder.decode(header.flags.codec(), encoded, space));
        let Err(why) = decoded else { return Ok(()) };
        let message = format!(
            "block {} of attempt {} (partition {}) passes its checksum and cannot be decoded ({why}): {}",
            header.seq,
            header.attempt,
            header.partition,
            self.shared.name()
        );
        Err(self.broken(header.attempt, message))
    }

    fn broken(&self, attempt: AttemptId, message: String) -> Error {
        let error = Error::new(Kind::Corrupt, message);
        match self
            .shared
            .spec
            .outputs
            .iter()
            .find(|output| output.attempt == attempt)
        {
            Some(output) => error.with_output(output.lost()).with_lost([output.lost()]),
            None => error,
        }
    }
}

impl Stream for Reader {
    type Item = Result<Block, Error>;

    /// As [`Reader::next`]; an error is repeated for ever.
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_block(cx).map(Result::transpose)
    }
}

fn block_of(header: &BlockHeader, part: Part, data: Storage) -> Block {
    Block {
        partition: header.partition,
        map_index: header.map_index,
        attempt: header.attempt,
        records: header.records,
        stored_bytes: u64::from(header.length),
        data: Buffer(data),
        part,
    }
}

// === impl Shared ===

impl Shared {
    /// The subject of every message about a read.
    fn name(&self) -> String {
        let spec = &self.spec;
        let Range { start, end } = spec.partitions;
        format!(
            "partitions {start}..{end} of shuffle {}, app {}",
            spec.shuffle, spec.caller.app
        )
    }

    /// The first failure counts.
    fn fail(&self, error: Error) {
        self.failed.lock().get_or_insert(error);
    }
}

// === impl Held ===

impl Held {
    /// Waits for room in the account, unless there is none of these yet.
    async fn one(self: &Arc<Self>, budget: &Budget, bytes: usize) -> Hold {
        // One is always let in, whatever the account says: the first counts nothing.
        let first = || {
            self.count
                .compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
        };
        let mut counted = false;
        let permit = budget
            .wait(Share::Reads, bytes, &self.fewer, || {
                counted = first();
                counted
            })
            .await;
        if !counted {
            self.count.fetch_add(1, Ordering::AcqRel);
        }
        Hold {
            held: self.clone(),
            _permit: permit,
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.held.count.fetch_sub(1, Ordering::AcqRel);
        self.held.fewer.notify_waiters();
    }
}

// === impl Buffer ===

/// Adds its lifetime to a sum, even if the future around it is dropped.
struct Timer<'a> {
    started: Instant,
    sum: &'a AtomicU64,
}

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        let nanos = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.sum.fetch_add(nanos, Ordering::Relaxed);
    }
}

/// So that readers which come later know which of two copies is near: nobody waits for it.
fn learn_where_copies_are(client: &Client, spec: &ReadSpec) {
    let mut servers: Vec<_> = spec
        .outputs
        .iter()
        .filter_map(|output| Some([&output.address, &output.mirror.as_ref()?.address]))
        .flatten()
        .cloned()
        .collect();
    servers.sort_unstable();
    servers.dedup();
    if !servers.is_empty() {
        let asking = client.clone();
        client
            .handle()
            .spawn(async move { drop(asking.nearby(&servers).await) });
    }
}
