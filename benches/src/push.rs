//! Pushing: map tasks on several streams, as an executor with as many cores would run them.
//!
//! A block is a slice of the payload's region, cold in the cache, handed to the client as an
//! engine's sorted arena would be: what the client then does with it (gather, checksum, frame,
//! send) is what is measured.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use indicatif::ProgressBar;
use shuffle_client::{
    AttemptId, Caller, Client, Commit, Compression, Durability, MapIndex, PartitionId, ShuffleId,
    WriteSpec,
};
use tokio::task::JoinSet;

use crate::{payload::Payload, shape::Shape};

/// Handed to the client between two waits for the servers.
const STEP: u64 = 1 << 20;

/// A whole shuffle that is to be written.
pub(crate) struct Push {
    pub(crate) client: Client,
    pub(crate) caller: Caller,
    pub(crate) payload: Payload,
    pub(crate) shape: Shape,
    pub(crate) shuffle: ShuffleId,
    pub(crate) durability: Durability,
    pub(crate) compression: Compression,
    pub(crate) candidates: Arc<[String]>,
}

/// A shuffle that was written.
pub(crate) struct Pushed {
    /// By map index.
    pub(crate) commits: Vec<Commit>,
    /// Microseconds from the call of commit to its receipt.
    pub(crate) latency: Histogram<u64>,
    pub(crate) stored_bytes: u64,
}

/// From 1 us to an hour, with 1 % of error.
pub(crate) fn latencies() -> Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, 3_600_000_000, 2).context("make a histogram")
}

impl Push {
    /// Writes it all with `streams` map tasks at a time.
    pub(crate) async fn run(self, streams: u32, bar: &ProgressBar) -> Result<Pushed> {
        let this = Arc::new(self);
        let next = Arc::new(AtomicU32::new(0));
        let mut tasks = JoinSet::new();
        for _ in 0..streams.min(this.shape.maps) {
            tasks.spawn(Arc::clone(&this).task(Arc::clone(&next), bar.clone()));
        }
        let mut latency = latencies()?;
        let mut commits = Vec::with_capacity(this.shape.maps as usize);
        while let Some(joined) = tasks.join_next().await {
            for (commit, micros) in joined.context("run a map task")?? {
                latency.saturating_record(micros);
                commits.push(commit);
            }
        }
        commits.sort_unstable_by_key(|(map, _)| *map);
        let commits: Vec<Commit> = commits.into_iter().map(|(_, commit)| commit).collect();
        ensure!(
            commits.len() == this.shape.maps as usize,
            "{} of {} maps were committed",
            commits.len(),
            this.shape.maps
        );
        let stored_bytes = commits.iter().map(|commit| commit.bytes).sum();
        Ok(Pushed {
            commits,
            latency,
            stored_bytes,
        })
    }

    /// Writes maps until there are none left.
    async fn task(
        self: Arc<Self>,
        next: Arc<AtomicU32>,
        bar: ProgressBar,
    ) -> Result<Vec<((u32, Commit), u64)>> {
        let mut done = Vec::new();
        loop {
            let map = next.fetch_add(1, Ordering::Relaxed);
            if map >= self.shape.maps {
                return Ok(done);
            }
            let (commit, micros) = self
                .map(map)
                .await
                .with_context(|| format!("write map {map}"))?;
            done.push(((map, commit), micros));
            bar.inc(self.shape.map_bytes());
        }
    }

    async fn map(&self, map: u32) -> Result<(Commit, u64)> {
        let shape = self.shape;
        let mut writer = self.client.open_writer(WriteSpec {
            caller: self.caller.clone(),
            shuffle: self.shuffle,
            num_maps: shape.maps,
            num_partitions: shape.partitions,
            map_index: MapIndex(map),
            attempt: attempt(self.shuffle, map),
            durability: self.durability,
            candidates: Arc::clone(&self.candidates),
            compression: self.compression,
        });
        let mut given = 0;
        for partition in 0..shape.partitions {
            for block in 0..shape.blocks_per_partition {
                let position = u64::from(block) * u64::from(shape.block);
                let bytes = self.payload.slice(
                    map,
                    partition,
                    shape.stride(),
                    position,
                    shape.block as usize,
                );
                writer.add_block(PartitionId(partition), &[bytes], 1)?;
                given += u64::from(shape.block);
                if given >= STEP {
                    given = 0;
                    writer.ready().await?;
                }
            }
        }
        let start = Instant::now();
        let commit = writer.commit().await?;
        let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        let records = u64::from(shape.partitions) * u64::from(shape.blocks_per_partition);
        ensure!(
            commit.records == records,
            "the receipt says {} records instead of {records}",
            commit.records
        );
        Ok((commit, micros))
    }
}

/// Unique in the app, as Spark's are.
pub(crate) fn attempt(shuffle: ShuffleId, map: u32) -> AttemptId {
    AttemptId(u64::from(shuffle.0) << 32 | u64::from(map))
}
