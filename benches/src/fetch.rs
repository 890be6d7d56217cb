//! Fetching: reduce tasks, several at a time, each of which reads its partitions of every map.
//!
//! What is verified is said by [`Check`]: once, in a round of its own, every byte is compared with
//! what was written; the timed rounds do what an engine does, which is to let the client verify
//! checksums and counts, and count bytes.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Context, Result, bail, ensure};
use indicatif::ProgressBar;
use shuffle_client::{Block, Caller, Client, Commit, MapIndex, Output, ReadSpec, ShuffleId};
use tokio::task::JoinSet;

use crate::{payload::Payload, push::attempt, shape::Shape};

/// What is compared beside the client's own checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// The number of bytes.
    Count,
    /// Every byte.
    Bytes,
}

/// A shuffle that was written and is to be read.
#[derive(Clone)]
pub(crate) struct Fetch {
    pub(crate) client: Client,
    pub(crate) caller: Caller,
    pub(crate) payload: Payload,
    pub(crate) shape: Shape,
    pub(crate) shuffle: ShuffleId,
    pub(crate) commits: Arc<[Commit]>,
    pub(crate) readers: u32,
    pub(crate) partitions_per_read: u32,
}

/// What was read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fetched {
    pub(crate) bytes: u64,
    pub(crate) blocks: u64,
}

impl Fetch {
    /// Reads it all once.
    pub(crate) async fn run(&self, check: Check, bar: &ProgressBar) -> Result<Fetched> {
        let this = Arc::new(self.clone());
        let next = Arc::new(AtomicU32::new(0));
        let tasks_in_all = self.shape.partitions.div_ceil(self.partitions_per_read);
        let mut tasks = JoinSet::new();
        for _ in 0..self.readers.min(tasks_in_all) {
            tasks.spawn(Arc::clone(&this).task(check, Arc::clone(&next), bar.clone()));
        }
        let mut fetched = Fetched::default();
        while let Some(joined) = tasks.join_next().await {
            let task = joined.context("run a reduce task")??;
            fetched.bytes += task.bytes;
            fetched.blocks += task.blocks;
        }
        ensure!(
            fetched.bytes == self.shape.bytes(),
            "{} bytes were read, {} were written",
            fetched.bytes,
            self.shape.bytes()
        );
        Ok(fetched)
    }

    /// Reads partitions until there are none left.
    async fn task(
        self: Arc<Self>,
        check: Check,
        next: Arc<AtomicU32>,
        bar: ProgressBar,
    ) -> Result<Fetched> {
        let mut fetched = Fetched::default();
        loop {
            let task = next.fetch_add(1, Ordering::Relaxed);
            let start = u64::from(task) * u64::from(self.partitions_per_read);
            if start >= u64::from(self.shape.partitions) {
                return Ok(fetched);
            }
            let end =
                (start + u64::from(self.partitions_per_read)).min(u64::from(self.shape.partitions));
            let partitions = start as u32..end as u32;
            let what = format!("read partitions {}..{}", partitions.start, partitions.end);
            let read = self.read(partitions, check).await.context(what)?;
            fetched.bytes += read.bytes;
            fetched.blocks += read.blocks;
            bar.inc(read.bytes);
        }
    }

    async fn read(&self, partitions: Range<u32>, check: Check) -> Result<Fetched> {
        let outputs = (0..).zip(&self.commits[..]).map(|(map, commit)| Output {
            volume: commit.volume,
            address: commit.address.clone(),
            mirror: commit.mirror.clone(),
            map_index: MapIndex(map),
            attempt: attempt(self.shuffle, map),
            partitions: partitions.clone().collect(),
        });
        let mut reader = self.client.open_reader(ReadSpec {
            caller: self.caller.clone(),
            shuffle: self.shuffle,
            partitions: partitions.clone(),
            maps: 0..u32::MAX,
            outputs: outputs.collect(),
            window: None,
        });
        let mut bytes = 0;
        let mut positions = HashMap::new();
        while let Some(block) = reader.next().await? {
            bytes += block.data.len() as u64;
            if check == Check::Bytes {
                self.compare(&block, &mut positions)?;
            }
        }
        let blocks = reader.stats().blocks;
        let expected = u64::from(self.shape.maps) * partitions.len() as u64 * self.shape.stride();
        ensure!(
            bytes == expected,
            "{bytes} bytes came, {expected} were written"
        );
        if check == Check::Bytes {
            let whole = positions
                .values()
                .filter(|position| **position == self.shape.stride())
                .count();
            let outputs = self.shape.maps as usize * partitions.len();
            ensure!(
                whole == outputs,
                "{whole} of {outputs} maps' parts are whole, though the number of bytes is right"
            );
        }
        Ok(Fetched { bytes, blocks })
    }

    /// The blocks of one map and partition come in the order in which they were written.
    fn compare(&self, block: &Block, positions: &mut HashMap<(u32, u32), u64>) -> Result<()> {
        let (map, partition) = (block.map_index.0, block.partition.0);
        let position = positions.entry((map, partition)).or_default();
        if block.attempt != attempt(self.shuffle, map)
            || !self
                .payload
                .matches(map, partition, self.shape.stride(), *position, &block.data)
        {
            bail!(
                "WRONG DATA: {} bytes of map {map}, partition {partition}, from byte {position} on are not what was written \
                 (attempt {}, seed and shape as above): keep the servers' data and logs",
                block.data.len(),
                block.attempt,
            );
        }
        *position += block.data.len() as u64;
        Ok(())
    }
}
