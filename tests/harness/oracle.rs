//! What was committed, kept in memory, and the question whether an answer is exactly that.

use std::{collections::BTreeMap, ops::Range};

use shuffle_proto::{kind::Kind, v1};

use crate::{
    attempt::{App, Attempt, Shape},
    peer::{Fetched, FetchedBlock, Peer, fetch_range},
    server::Server,
};

/// App, shuffle, map index, attempt.
type Key = (String, u32, u32, u64);

/// The committed attempts by app, shuffle, map index and attempt, with the volume that holds each.
#[derive(Clone, Default)]
pub struct Oracle {
    attempts: BTreeMap<Key, (Attempt, Vec<u8>)>,
}

impl Oracle {
    /// Pushes an attempt, which must succeed, and remembers it.
    pub async fn push(&mut self, peer: &Peer, attempt: &Attempt) -> v1::Committed {
        let committed = peer
            .push(attempt)
            .await
            .expect("a well-formed attempt is taken");
        self.committed(attempt, &committed);
        committed
    }

    /// Pushes one attempt of each of these maps.
    pub async fn push_maps(
        &mut self,
        server: &Server,
        app: &App,
        shuffle: u32,
        shape: Shape,
        maps: Range<u32>,
    ) {
        let peer = server.peer().await;
        for map in maps {
            let attempt = u64::from(shuffle) << 32 | u64::from(map);
            let attempt = Attempt::generate(app, shuffle, shape, map, attempt);
            self.push(&peer, &attempt).await;
        }
    }

    /// Remembers a committed attempt.
    pub fn committed(&mut self, attempt: &Attempt, receipt: &v1::Committed) {
        let key = (
            attempt.app.id.clone(),
            attempt.shuffle,
            attempt.map_index,
            attempt.attempt,
        );
        self.attempts
            .insert(key, (attempt.clone(), receipt.volume.to_vec()));
    }

    /// Forgets a shuffle.
    pub fn delete_shuffle(&mut self, app: &App, shuffle: u32) {
        self.attempts
            .retain(|key, _| (&key.0, key.1) != (&app.id, shuffle));
    }

    /// Forgets an app.
    pub fn delete_app(&mut self, app: &App) {
        self.attempts.retain(|key, _| key.0 != app.id);
    }

    /// Forgets what a predicate names.
    pub fn retain(&mut self, mut keep: impl FnMut(&Attempt) -> bool) {
        self.attempts.retain(|_, (attempt, _)| keep(attempt));
    }

    /// All attempts.
    pub fn attempts(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts.values().map(|(attempt, _)| attempt)
    }

    /// The volumes that hold a shuffle.
    pub fn volumes(&self, app: &App, shuffle: u32) -> Vec<Vec<u8>> {
        let mut volumes: Vec<_> = self
            .of(app, shuffle)
            .map(|(_, volume)| volume.clone())
            .collect();
        volumes.sort();
        volumes.dedup();
        volumes
    }

    /// The volume that holds an attempt.
    pub fn volume(&self, app: &App, shuffle: u32, attempt: u64) -> Option<Vec<u8>> {
        let mut of = self.of(app, shuffle);
        let found = of.find(|(known, _)| known.attempt == attempt);
        found.map(|(_, volume)| volume.clone())
    }

    /// Bytes of a shuffle.
    pub fn bytes(&self, app: &App, shuffle: u32) -> u64 {
        self.of(app, shuffle)
            .map(|(attempt, _)| attempt.bytes())
            .sum()
    }

    fn of<'a>(
        &'a self,
        app: &'a App,
        shuffle: u32,
    ) -> impl Iterator<Item = &'a (Attempt, Vec<u8>)> {
        self.attempts
            .iter()
            .filter(move |(key, _)| key.0 == app.id && key.1 == shuffle)
            .map(|(_, value)| value)
    }

    /// Fetches a whole shuffle from all volumes that hold it and compares.
    pub async fn check(&self, peer: &Peer, app: &App, shuffle: u32) {
        self.check_range(peer, app, shuffle, 0..u32::MAX, 0..u32::MAX)
            .await;
    }

    /// Fetches a range and compares.
    pub async fn check_range(
        &self,
        peer: &Peer,
        app: &App,
        shuffle: u32,
        partitions: Range<u32>,
        maps: Range<u32>,
    ) {
        let volumes = self.volumes(app, shuffle);
        let partitions = partitions.start..partitions.end.min(self.partitions(app, shuffle));
        let request = fetch_range(app, shuffle, volumes, partitions.clone(), maps.clone());
        let fetched = peer
            .fetch(request)
            .await
            .expect("a shuffle that was committed is served");
        self.compare(&fetched, app, shuffle, partitions, maps);
    }

    /// Checks each attempt of a shuffle after a possible loss: either it comes whole and right, or
    /// the answer says or shows its absence. Forgets absent attempts; returns their number.
    pub async fn forget_what_is_gone(&mut self, peer: &Peer, app: &App, shuffle: u32) -> usize {
        let volumes = self.volumes(app, shuffle);
        let mut gone = Vec::new();
        for (attempt, _) in self.of(app, shuffle) {
            let map = attempt.map_index;
            let partitions = 0..attempt.num_partitions;
            let maps = map..map + 1;
            let request = fetch_range(
                app,
                shuffle,
                volumes.clone(),
                partitions.clone(),
                maps.clone(),
            );
            let fetched = match peer.fetch(request).await {
                Ok(fetched) => fetched,
                Err(status) => {
                    let kind = Kind::of(&status);
                    assert!(matches!(kind, Kind::Lost | Kind::Corrupt), "{status:?}");
                    gone.push(attempt.attempt);
                    continue;
                }
            };
            let known = summary_columns(&fetched.summary).contains_key(&(map, attempt.attempt));
            // A reader compares checksums, and takes none of it.
            if known && fetched.blocks.iter().all(FetchedBlock::intact) {
                self.compare(&fetched, app, shuffle, partitions, maps);
            } else {
                gone.push(attempt.attempt);
            }
        }
        self.retain(|attempt| attempt.shuffle != shuffle || !gone.contains(&attempt.attempt));
        gone.len()
    }

    /// Partitions of a shuffle.
    pub fn partitions(&self, app: &App, shuffle: u32) -> u32 {
        self.of(app, shuffle)
            .map(|(attempt, _)| attempt.num_partitions)
            .max()
            .expect("something is committed")
    }

    /// Whether an answer holds every block of the range once, unchanged, in order, and nothing
    /// else; and its summary says so.
    pub fn compare(
        &self,
        fetched: &Fetched,
        app: &App,
        shuffle: u32,
        partitions: Range<u32>,
        maps: Range<u32>,
    ) {
        let got = keyed(&fetched.blocks);
        let mut expected_blocks = 0;
        let mut columns = BTreeMap::new();
        for (attempt, _) in self
            .of(app, shuffle)
            .filter(|(attempt, _)| maps.contains(&attempt.map_index))
        {
            let mut sums = (0u32, 0u64, 0u64);
            for (seq, block) in attempt
                .blocks
                .iter()
                .enumerate()
                .filter(|(_, block)| partitions.contains(&block.partition))
            {
                let name = format!(
                    "block {seq} of attempt {} in partition {}",
                    attempt.attempt, block.partition
                );
                let found = got
                    .get(&(attempt.map_index, attempt.attempt, seq as u32))
                    .unwrap_or_else(|| panic!("no {name}"));
                assert_eq!(found.data, block.data, "bytes of {name}");
                assert_eq!(
                    (found.partition, found.records),
                    (block.partition, block.records),
                    "{name}"
                );
                assert_eq!(found.checksum, attempt.checksum(seq), "{name}");
                sums = (
                    sums.0 + 1,
                    sums.1 + block.data.len() as u64,
                    sums.2 + u64::from(block.records),
                );
                expected_blocks += 1;
            }
            columns.insert((attempt.map_index, attempt.attempt), sums);
        }
        assert_eq!(got.len(), expected_blocks, "blocks that nobody committed");
        in_order(&fetched.blocks);
        let summary = &fetched.summary;
        assert!(summary.lost.is_empty(), "lost: {:?}", summary.lost);
        assert_eq!(summary_columns(summary), columns, "the summary");
    }
}

/// The summary by (map index, attempt).
pub fn summary_columns(summary: &v1::Summary) -> BTreeMap<(u32, u64), (u32, u64, u64)> {
    let count = summary.attempt.len();
    let lengths = [
        summary.map_index.len(),
        summary.blocks.len(),
        summary.bytes.len(),
        summary.records.len(),
    ];
    assert_eq!(lengths, [count; 4], "columns of the summary differ");
    let mut columns = BTreeMap::new();
    for i in 0..count {
        let sums = (summary.blocks[i], summary.bytes[i], summary.records[i]);
        let twice = columns.insert((summary.map_index[i], summary.attempt[i]), sums);
        assert!(
            twice.is_none(),
            "attempt {} is twice in the summary",
            summary.attempt[i]
        );
    }
    columns
}

fn keyed(blocks: &[FetchedBlock]) -> BTreeMap<(u32, u64, u32), &FetchedBlock> {
    let mut keyed = BTreeMap::new();
    for block in blocks {
        let twice = keyed.insert((block.map_index, block.attempt, block.seq), block);
        assert!(
            twice.is_none(),
            "block {} of attempt {} came twice",
            block.seq,
            block.attempt
        );
    }
    keyed
}

/// Blocks of one (attempt, partition) come in the order of their seq.
fn in_order(blocks: &[FetchedBlock]) {
    let mut last = BTreeMap::new();
    for block in blocks {
        let before = last.insert((block.attempt, block.partition), block.seq);
        assert!(
            before.is_none_or(|seq| seq < block.seq),
            "blocks of attempt {} are out of order",
            block.attempt
        );
    }
}
