//! The storage core as its callers see it.

mod commits;
mod deletions;
mod faults;
mod fetches;
mod lost;
mod lost_index;
mod model;
mod pressure;
mod recovery;
mod space;
mod starts;
mod states;
mod steps;

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use shuffle_proto::{
    block::{BlockHeader, Codec, Flags, PartitionTotal},
    ids::{AppId, AttemptId, MapIndex, PartitionId, ShuffleId},
    kind::Kind,
    summary::Summary,
};
use tempfile::TempDir;

use super::*;
use crate::{
    budget::{Budget, StagedBuilder},
    clock::ManualClock,
};

pub(crate) const MAPS: u32 = 1000;
pub(crate) const PARTITIONS: u32 = 50;
/// No call that only waits for a processor, or for the machine's real disk, takes this long.
const PATIENCE: Duration = Duration::from_secs(120);
/// The patience with a disk that hangs because a test says so.
const HASTE: Duration = Duration::from_millis(500);

/// A data directory, and how its volume is opened.
pub(crate) struct Bench {
    pub(crate) dir: TempDir,
    pub(crate) options: Options,
    pub(crate) budget: Budget,
    pub(crate) clock: ManualClock,
    pub(crate) faults: Option<Arc<dyn Faults>>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().expect("temporary directory"),
            options: Options {
                ballast: 0,
                slow: PATIENCE,
                ..Options::default()
            },
            budget: Budget::new(256 << 20),
            clock: ManualClock::new(),
            faults: None,
        }
    }

    pub(crate) fn try_open(&self) -> Result<Volume, Error> {
        let components = Components {
            budget: self.budget.clone(),
            clock: Arc::new(self.clock.clone()),
            observer: Arc::new(()),
            faults: self.faults.clone(),
        };
        Volume::open(self.dir.path(), self.options.clone(), components)
    }

    /// Opens it and makes the test's app known.
    pub(crate) fn open(&self) -> Volume {
        let volume = self.try_open().expect("open");
        volume.put_app(&record(&app())).expect("put app");
        volume
    }

    /// Files with this ending, anywhere in the directory.
    pub(crate) fn files(&self, ending: &str) -> Vec<std::path::PathBuf> {
        fn walk(dir: &Path, ending: &str, found: &mut Vec<std::path::PathBuf>) {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() && path.file_name().is_none_or(|name| name != "index") {
                    walk(&path, ending, found);
                } else if path.to_string_lossy().ends_with(ending) {
                    found.push(path);
                }
            }
        }
        let mut found = Vec::new();
        walk(self.dir.path(), ending, &mut found);
        found.sort();
        found
    }
}

pub(crate) fn app() -> AppId {
    AppId::try_new("app-1").expect("valid")
}

pub(crate) fn record(app: &AppId) -> AppRecord {
    AppRecord {
        app: app.clone(),
        token_hash: [7; 32],
        lease: Duration::from_secs(600),
        life: None,
    }
}

pub(crate) fn key(shuffle: u32, map_index: u32, attempt: u64) -> AttemptKey {
    AttemptKey {
        app: app(),
        shuffle: ShuffleId(shuffle),
        map_index: MapIndex(map_index),
        attempt: AttemptId(attempt),
    }
}

/// A valid header for a body.
pub(crate) fn header(
    partition: u32,
    map_index: u32,
    attempt: u64,
    seq: u32,
    body: &[u8],
) -> BlockHeader {
    let mut header = BlockHeader {
        partition: PartitionId(partition),
        map_index: MapIndex(map_index),
        attempt: AttemptId(attempt),
        seq,
        length: body.len() as u32,
        raw_length: body.len() as u32,
        records: 1 + seq % 3,
        flags: Flags::new(Codec::None, false, false),
        checksum: 0,
    };
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(body);
    header.checksum = header.checksum_of(hasher);
    header
}

/// What a block holds: different for every block, and known from its header.
pub(crate) fn body(
    partition: u32,
    map_index: u32,
    attempt: u64,
    seq: u32,
    length: usize,
) -> Vec<u8> {
    let mut state =
        u64::from(partition) << 40 ^ u64::from(map_index) << 20 ^ attempt << 8 ^ u64::from(seq) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        bytes.extend((state >> 8).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Blocks of one attempt: batches of (partition, length).
pub(crate) type Shape = Vec<Vec<(u32, usize)>>;

/// One block for each partition of a range.
pub(crate) fn even(partitions: std::ops::Range<u32>, length: usize) -> Shape {
    vec![partitions.map(|partition| (partition, length)).collect()]
}

/// A batch as the services would bring it.
pub(crate) async fn staged(budget: &Budget, bodies: &[Vec<u8>]) -> Bytes {
    let length = bodies.iter().map(Vec::len).sum();
    let mut builder = StagedBuilder::with_capacity(budget.acquire(length).await, length);
    bodies.iter().for_each(|body| builder.extend(body));
    builder.freeze()
}

/// Appends a shape to an attempt; answers its totals.
pub(crate) async fn push(
    budget: &Budget,
    writer: &mut AttemptWriter,
    shape: &Shape,
) -> Result<Vec<PartitionTotal>, Error> {
    let key = writer.key().clone();
    let (map_index, attempt) = (key.map_index.0, key.attempt.0);
    let mut totals = BTreeMap::<u32, PartitionTotal>::new();
    for batch in shape {
        let (mut headers, mut bodies) = (Vec::new(), Vec::new());
        for (seq, &(partition, length)) in (writer.next_seq()..).zip(batch) {
            let body = body(partition, map_index, attempt, seq, length);
            let header = header(partition, map_index, attempt, seq, &body);
            let total = totals.entry(partition).or_insert(PartitionTotal {
                partition: PartitionId(partition),
                blocks: 0,
                bytes: 0,
                records: 0,
            });
            total.blocks += 1;
            total.bytes += length as u64;
            total.records += u64::from(header.records);
            headers.push(header);
            bodies.push(body);
        }
        let data = staged(budget, &bodies).await;
        writer.append(headers, data)?;
    }
    Ok(totals.into_values().collect())
}

pub(crate) fn begin(volume: &Volume, key: AttemptKey) -> AttemptWriter {
    match volume
        .open_attempt(key, MAPS, PARTITIONS)
        .expect("open attempt")
    {
        Opened::New(writer) => writer,
        Opened::Committed(receipt) => panic!("committed already: {receipt:?}"),
    }
}

/// Pushes and commits an attempt.
pub(crate) async fn write(
    bench: &Bench,
    volume: &Volume,
    key: AttemptKey,
    shape: &Shape,
    durability: Durability,
) -> Receipt {
    let mut writer = begin(volume, key);
    let totals = push(&bench.budget, &mut writer, shape)
        .await
        .expect("append");
    writer.commit(totals, durability).await.expect("commit")
}

/// Bodies by (partition, map index, attempt, seq).
pub(crate) type Blocks = BTreeMap<(u32, u32, u64, u32), Vec<u8>>;

/// What a fetch brought.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Fetched {
    pub(crate) blocks: Blocks,
    pub(crate) summary: Summary,
    pub(crate) repeated: usize,
}

/// Reads a fetch to its end, and checks order and checksums.
pub(crate) async fn drain(mut fetch: Fetch) -> Result<Fetched, Error> {
    let mut fetched = Fetched::default();
    let mut last = BTreeMap::<(u32, u32, u64), u32>::new();
    while let Some(part) = fetch.next().await? {
        take(&part, &mut fetched, &mut last);
    }
    fetched.summary = fetch.summary();
    Ok(fetched)
}

pub(crate) fn take(
    part: &FetchPart,
    fetched: &mut Fetched,
    last: &mut BTreeMap<(u32, u32, u64), u32>,
) {
    assert!(!part.blocks.is_empty(), "a part without blocks");
    let bytes: Vec<u8> = part.data.concat();
    let mut rest = &bytes[..];
    let lengths: usize = part.blocks.iter().map(|block| block.length as usize).sum();
    assert_eq!(bytes.len(), lengths, "bytes of a part");
    for block in &part.blocks {
        let (body, after) = rest.split_at(block.length as usize);
        rest = after;
        assert!(block.verify([body]), "checksum of {block:?}");
        let of = (block.partition.0, block.map_index.0, block.attempt.0);
        if let Some(before) = last.insert(of, block.seq) {
            assert!(
                before < block.seq,
                "{of:?}: block {} after {before}",
                block.seq
            );
        }
        if fetched
            .blocks
            .insert((of.0, of.1, of.2, block.seq), body.to_vec())
            .is_some()
        {
            fetched.repeated += 1;
        }
    }
}

pub(crate) async fn read(
    volume: &Volume,
    shuffle: u32,
    partitions: std::ops::Range<u32>,
    maps: std::ops::Range<u32>,
) -> Result<Fetched, Error> {
    drain(volume.fetch(&app(), ShuffleId(shuffle), partitions, maps, None)?).await
}

/// Everything that an attempt of this shape should bring.
pub(crate) fn expected(
    map_index: u32,
    attempt: u64,
    shape: &Shape,
    partitions: std::ops::Range<u32>,
) -> Blocks {
    let blocks = shape.iter().flatten().zip(0u32..);
    let wanted = blocks.filter(|((partition, _), _)| partitions.contains(partition));
    wanted
        .map(|(&(partition, length), seq)| {
            (
                (partition, map_index, attempt, seq),
                body(partition, map_index, attempt, seq, length),
            )
        })
        .collect()
}

/// Compares what came with what should have, and names just what differs.
pub(crate) fn assert_same(came: &Blocks, expected: &Blocks) {
    let missing: Vec<_> = expected
        .keys()
        .filter(|block| !came.contains_key(block))
        .take(5)
        .collect();
    let unknown: Vec<_> = came
        .keys()
        .filter(|block| !expected.contains_key(block))
        .take(5)
        .collect();
    let differ: Vec<_> = came
        .iter()
        .filter(|(block, body)| expected.get(block).is_some_and(|e| e != *body))
        .take(5)
        .collect();
    assert!(
        missing.is_empty() && unknown.is_empty() && differ.is_empty(),
        "of {} blocks came {}; missing {missing:?} unknown {unknown:?} differ {:?}",
        expected.len(),
        came.len(),
        differ.iter().map(|(block, _)| block).collect::<Vec<_>>()
    );
}

/// Reads a whole shuffle and compares it with the attempts that should be there.
pub(crate) async fn assert_holds(volume: &Volume, shuffle: u32, attempts: &[(u32, u64, Shape)]) {
    let fetched = read(volume, shuffle, 0..PARTITIONS, 0..u32::MAX)
        .await
        .expect("fetch");
    let mut blocks = BTreeMap::new();
    for (map_index, attempt, shape) in attempts {
        blocks.append(&mut expected(*map_index, *attempt, shape, 0..PARTITIONS));
    }
    assert_same(&fetched.blocks, &blocks);
    assert_eq!(fetched.repeated, 0);
    assert_eq!(fetched.summary.lost, []);
    let mut sorted: Vec<_> = attempts
        .iter()
        .map(|(map_index, attempt, _)| (*map_index, *attempt))
        .collect();
    sorted.sort_unstable();
    let covered: Vec<_> = fetched
        .summary
        .covered
        .iter()
        .map(|totals| (totals.map_index.0, totals.attempt.0))
        .collect();
    assert_eq!(covered, sorted);
    for totals in &fetched.summary.covered {
        let of = blocks.iter().filter(|((_, map, attempt, _), _)| {
            (*map, *attempt) == (totals.map_index.0, totals.attempt.0)
        });
        let (count, bytes) = of.fold((0, 0), |(count, bytes), (_, body)| {
            (count + 1, bytes + body.len() as u64)
        });
        assert_eq!((totals.blocks, totals.bytes), (count, bytes), "{totals:?}");
    }
}

/// Waits for what another thread does.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(std::time::Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// From now on calls of the volume's disk that do not come back are soon called slow, or nothing
/// is. Only for as long as a test has calls hang: all others have no more time meanwhile.
pub(crate) fn in_haste(volume: &Volume, on: bool) {
    let patience = if on { HASTE } else { PATIENCE };
    volume.0.shared.disk.watch.set_patience(patience);
}
