//! The output of one map attempt.
//!
//! Two parts that share a [`State`](state::State): the [`MapWriter`] in the hands of the task,
//! which costs CPU only (`build.rs`), and a task of the runtime (`push.rs`) that brings finished
//! messages to a server and, after its failure, to another. Messages are kept until the commit, as
//! far as `replay_buffer` reaches. Level `mirror` has two such tasks (`copies.rs`).

mod build;
mod copies;
mod push;
mod route;
mod state;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use shuffle_proto::{
    block::{ENCRYPTION, MAX_BLOCK},
    ids::{AttemptId, MapIndex, PartitionId, ShuffleId, VolumeId},
    wire,
};

use self::{
    build::{Builder, Message},
    copies::Copies,
    state::Receipt,
};
use crate::{
    budget::{Budget, Share},
    client::Client,
    codec::{Compression, Encoder},
    crypt::Encryptor,
    error::{Error, Kind},
    tally::Tally,
    types::{Caller, Durability, Location, MAX_LONG},
};

/// Finished messages that may wait for the connection before [`MapWriter::ready`] holds the caller
/// back.
const AHEAD: usize = 4;

/// `num_maps` of an engine that starts map tasks as it goes. As many as that may come.
pub const UNKNOWN_MAPS: u32 = wire::MAX_TASKS;

/// Parameters of a write.
#[derive(Clone, Debug)]
pub struct WriteSpec {
    /// The writing application.
    pub caller: Caller,
    /// The shuffle.
    pub shuffle: ShuffleId,
    /// Map tasks of the shuffle; [`UNKNOWN_MAPS`] while nobody knows, the same in all of them.
    pub num_maps: u32,
    /// Reduce partitions of the shuffle.
    pub num_partitions: u32,
    /// The map task.
    pub map_index: MapIndex,
    /// The attempt.
    pub attempt: AttemptId,
    /// How safe the output must be before the commit is acknowledged.
    pub durability: Durability,
    /// Candidate servers as [`AppHandle::place`](crate::AppHandle::place) ordered them; map index
    /// `m` goes to number `m mod k`.
    pub candidates: Arc<[String]>,
    /// How blocks are compressed.
    pub compression: Compression,
}

/// A committed output: visible, whole, and as safe as asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The volume.
    pub volume: VolumeId,
    /// The volume's server.
    pub address: String,
    /// The other copy, at level `mirror`; its volume is the larger of the two.
    pub mirror: Option<Location>,
    /// The reached level.
    pub durability: Durability,
    /// Stored bytes per partition, 0 only where nothing was written.
    pub partition_lengths: Vec<u64>,
    /// Stored bytes, all partitions.
    pub bytes: u64,
    /// Records, all partitions.
    pub records: u64,
}

/// Work of a writer so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriterStats {
    /// Stored bytes built.
    pub bytes: u64,
    /// Records in these bytes.
    pub records: u64,
    /// Time of `ready` and `commit` in waits for servers.
    pub waited: Duration,
    /// How often the output was sent again from the start.
    pub resends: u64,
}

/// Writes the output of one map attempt. Dropping it before a commit aborts the output.
pub struct MapWriter {
    spec: Arc<WriteSpec>,
    copies: Copies,
    builder: Builder,
    ahead_bytes: usize,
    budget: Budget,
    waited: Duration,
    /// A byte string whose end is still to come, and its bytes so far.
    unfinished: Option<(PartitionId, usize)>,
    committing: bool,
    committed: Option<Commit>,
}

// === impl Client ===

impl Client {
    /// Starts the output of one map attempt. Connects in the background; a wrong spec is answered
    /// by the first call of the writer.
    pub fn open_writer(&self, spec: WriteSpec) -> MapWriter {
        MapWriter::open(self.clone(), spec)
    }
}

// === impl MapWriter ===

impl MapWriter {
    fn open(client: Client, spec: WriteSpec) -> Self {
        let settings = client.settings();
        let copies = Copies::new(spec.durability, settings.replay_buffer, client.budget());
        let checked = check(&spec).and_then(|()| Encoder::new(spec.compression));
        // A refused spec builds nothing, so its codec does not matter.
        let (num_partitions, encoder, checked) = match checked {
            Ok(encoder) => (spec.num_partitions, encoder, Ok(())),
            Err(error) => (1, Encoder::None, Err(error)),
        };
        let encryptor = client
            .secret()
            .map(|secret| Encryptor::new(secret, &spec.caller.app, spec.shuffle, spec.attempt));
        let builder = Builder::new(
            (spec.map_index, spec.attempt),
            num_partitions,
            (encoder, encryptor),
            (settings.block_bytes, settings.batch_bytes),
            (client.batch_pool().clone(), client.budget().clone()),
        );
        let ahead_bytes = AHEAD * settings.batch_bytes;
        let budget = client.budget().clone();
        let spec = Arc::new(spec);
        match checked {
            Ok(()) => {
                for (shared, claim) in copies.tasks() {
                    let push = push::Push::new(client.clone(), spec.clone(), shared, claim);
                    client.handle().spawn(push.run());
                }
            }
            Err(error) => copies.refuse(&error),
        }
        Self {
            spec,
            copies,
            builder,
            ahead_bytes,
            budget,
            waited: Duration::ZERO,
            unfinished: None,
            committing: false,
            committed: None,
        }
    }

    /// Adds one block: the pieces, back to back, hold `records` whole records of `partition`;
    /// together at least 1 byte and at most [`longest_block`](Self::longest_block), best
    /// `block_bytes`. Costs CPU only (gather, compress, encrypt, checksum); call
    /// [`ready`](Self::ready) now and then, at the latest after every few MiB, to let the servers
    /// hold you back. A block of a lower partition than the one before starts a new message, so a
    /// sorted arena is cheapest.
    ///
    /// Answers early with the writer's failure if there is one.
    pub fn add_block(
        &mut self,
        partition: PartitionId,
        raw: &[&[u8]],
        records: u32,
    ) -> Result<(), Error> {
        let raw_len = raw.iter().map(|piece| piece.len()).sum();
        self.check_block(partition, raw_len, self.longest_block())?;
        self.check_ended()?;
        let finished = self
            .builder
            .add(partition, raw, raw_len, records, (false, false));
        self.hand_over(finished);
        Ok(())
    }

    /// Most bytes of one block: 4 MiB, less the overhead of encryption.
    pub fn longest_block(&self) -> usize {
        let extra = if self.builder.encrypts() {
            ENCRYPTION
        } else {
            0
        };
        (MAX_BLOCK - extra) as usize
    }

    /// Adds a byte string of any length up to 2 GiB in one piece: a record longer than a block, or
    /// a closed serialisation stream. A long one is split over blocks, and joined again by the
    /// reader.
    pub fn add_long(
        &mut self,
        partition: PartitionId,
        raw: &[u8],
        records: u32,
    ) -> Result<(), Error> {
        self.check_ended()?;
        self.add_part(partition, raw, records, false)
    }

    /// Adds a byte string as [`add_long`](Self::add_long) does, a part of it at a time, so that it
    /// is nowhere in one piece: `more` with every part but the last, which has the `records`. Call
    /// [`ready`](Self::ready) in between.
    pub fn add_part(
        &mut self,
        partition: PartitionId,
        raw: &[u8],
        records: u32,
        more: bool,
    ) -> Result<(), Error> {
        let before = match self.unfinished {
            Some((inside, _)) if inside != partition => return self.check_ended(),
            Some((_, length)) => length,
            None => 0,
        };
        self.check_block(partition, raw.len(), MAX_LONG - before)?;
        let continues = self.unfinished.is_some();
        let count = raw.len().div_ceil(self.builder.block_bytes());
        for (position, piece) in raw.chunks(self.builder.block_bytes()).enumerate() {
            let last = position + 1 == count && !more;
            let finished = self.builder.add(
                partition,
                &[piece],
                piece.len(),
                if last { records } else { 0 },
                (continues || position > 0, !last),
            );
            self.hand_over(finished);
        }
        self.unfinished = more.then_some((partition, before + raw.len()));
        Ok(())
    }

    /// Waits until no more than a few messages are still to be handed to the connection. At once if
    /// that is so already.
    pub async fn ready(&mut self) -> Result<(), Error> {
        if self.committed.is_some() {
            return Ok(());
        }
        let ahead = if self.budget.is_short(Share::Messages) {
            self.ahead_bytes / AHEAD
        } else {
            self.ahead_bytes
        };
        if self.copies.check()? <= ahead {
            return Ok(());
        }
        let _timer = Timer {
            started: Instant::now(),
            sum: &mut self.waited,
        };
        self.copies.drained_to(ahead).await
    }

    /// Sends the rest and commits. May be dropped while it waits and called again; nothing may be
    /// added after the first call. Repeated calls after success return the same.
    pub async fn commit(&mut self) -> Result<Commit, Error> {
        if let Some(commit) = &self.committed {
            return Ok(commit.clone());
        }
        self.copies.check()?;
        self.check_ended()?;
        if !self.committing {
            let finished = self.builder.finish();
            self.hand_over(finished);
            let totals = self.builder.totals();
            self.copies
                .commit(&totals.message(), (totals.bytes, totals.records));
            self.committing = true;
        }
        let receipts = {
            let _timer = Timer {
                started: Instant::now(),
                sum: &mut self.waited,
            };
            self.copies.result().await?
        };
        let (place, mirror, durability) = self.places(receipts)?;
        let totals = self.builder.totals();
        let commit = Commit {
            volume: place.volume,
            address: place.address,
            mirror,
            durability,
            partition_lengths: totals.partition_lengths(),
            bytes: totals.bytes,
            records: totals.records,
        };
        self.committed = Some(commit.clone());
        Ok(commit)
    }

    /// Where the copies are, and how safe that makes the output.
    fn places(
        &self,
        receipts: Vec<Receipt>,
    ) -> Result<(Location, Option<Location>, Durability), Error> {
        let durability = if receipts.len() > 1 {
            Durability::Mirror
        } else {
            receipts
                .iter()
                .map(|receipt| receipt.durability)
                .min()
                .unwrap_or(Durability::Memory)
        };
        let places = receipts.into_iter().map(|receipt| Location {
            volume: receipt.volume,
            address: receipt.address,
        });
        let mut places: Vec<_> = places.collect();
        // One order for the same two volumes, so that an engine sees one domain of failure.
        places.sort_by_key(|place| place.volume);
        let mut places = places.into_iter();
        let refused = |what: String| {
            let message = format!("{}: {what}", push::name(&self.spec));
            Error::new(Kind::Internal, message)
        };
        let place = places
            .next()
            .ok_or_else(|| refused("no receipt: report it".into()))?;
        let mirror = places.next();
        if let Some(other) = &mirror
            && other.volume == place.volume
        {
            return Err(refused(format!(
                "{} and {} are one server under two names, and level mirror needs two: name each server once",
                place.address, other.address
            )));
        }
        Ok((place, mirror, durability))
    }

    /// The output's name in its shuffle.
    pub fn name(&self) -> (MapIndex, AttemptId) {
        (self.spec.map_index, self.spec.attempt)
    }

    /// Drops the output, telling the server why.
    pub fn abort(self, reason: &str) {
        self.copies.abort(reason);
    }

    /// Counters so far.
    pub fn stats(&self) -> WriterStats {
        let totals = self.builder.totals();
        WriterStats {
            bytes: totals.bytes,
            records: totals.records,
            waited: self.waited,
            resends: self.copies.resends(),
        }
    }

    /// Work of each server: bytes of those with the commit, failures of all.
    pub fn tally(&self) -> Tally {
        self.copies.tally().clone()
    }

    /// Whether something for this partition could still be added.
    pub(crate) fn check_room(&self, partition: PartitionId, raw_len: usize) -> Result<(), Error> {
        self.check_block(partition, raw_len.max(1), MAX_LONG)
    }

    fn check_block(
        &self,
        partition: PartitionId,
        raw_len: usize,
        most: usize,
    ) -> Result<(), Error> {
        let what = if partition.0 >= self.spec.num_partitions {
            format!(
                "partition is {partition}: send one below {}",
                self.spec.num_partitions
            )
        } else if !(1..=most).contains(&raw_len) {
            format!("block of {raw_len} bytes: send 1 to {most}, and longer records with add_long")
        } else if self.committing {
            "block added after commit: add all blocks first".to_string()
        } else {
            return self.copies.check().map(drop);
        };
        Err(Error::new(
            Kind::Invalid,
            format!("{}: {what}", push::name(&self.spec)),
        ))
    }

    fn check_ended(&self) -> Result<(), Error> {
        let Some((partition, _)) = self.unfinished else {
            return Ok(());
        };
        let name = push::name(&self.spec);
        let message = format!(
            "{name}: a byte string of partition {partition} has not ended: add its last part first"
        );
        Err(Error::new(Kind::Invalid, message))
    }

    fn hand_over(&self, message: Option<Message>) {
        if let Some(message) = message {
            self.copies.push(&message);
        }
    }
}

impl Drop for MapWriter {
    fn drop(&mut self) {
        self.copies
            .abort("the writer was dropped before its commit");
    }
}

/// Adds its lifetime to a sum, even if the future around it is dropped.
struct Timer<'a> {
    started: Instant,
    sum: &'a mut Duration,
}

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        *self.sum += self.started.elapsed();
    }
}

fn check(spec: &WriteSpec) -> Result<(), Error> {
    let checked = wire::count("num_maps", spec.num_maps)
        .and_then(|_| wire::count("num_partitions", spec.num_partitions))
        .and_then(|_| wire::index("map_index", spec.map_index.0, spec.num_maps));
    if let Err(invalid) = checked {
        return Err(Error::new(
            Kind::Invalid,
            format!("{}: {invalid}", push::name(spec)),
        ));
    }
    if spec.candidates.is_empty() {
        let message = format!(
            "{}: no candidate servers: pass what AppHandle::place gave",
            push::name(spec)
        );
        return Err(Error::new(Kind::Invalid, message));
    }
    Ok(())
}
