//! How soon a volume serves again what it holds: by default 1 000 runs of 1 000 partitions, which
//! is 10⁶ extents.
//!
//! Recovery reads the index and looks at the length of each file, and reads none of the data, so
//! extents are small here. The files are in the page cache, as they are after the crash of a
//! process; after a reboot the index comes from the disk.
//!
//! `cargo bench --package shuffle-benches --bench restart -- [RUNS] [PARTITIONS] [BYTES PER BLOCK]`

use std::time::Instant;

use anyhow::{Context, Result, bail};
use shuffle_proto::{
    block::{BlockHeader, Codec, Flags, PartitionTotal},
    ids::{AppId, AttemptId, MapIndex, PartitionId, ShuffleId},
};
use shuffle_server::{
    budget::{Budget, StagedBuilder},
    staging::{AppRecord, AttemptKey, Components, Durability, Opened, Options, Volume},
};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const SHUFFLE: ShuffleId = ShuffleId(0);

#[tokio::main]
async fn main() -> Result<()> {
    // Cargo adds `--bench`.
    let mut numbers = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"));
    let mut number = |name, standard| match numbers.next() {
        None => Ok(standard),
        Some(text) => text
            .parse::<u32>()
            .with_context(|| format!("{name} is {text:?}: give a number")),
    };
    let (runs, partitions) = (number("RUNS", 1000)?, number("PARTITIONS", 1000)?);
    let length = number("BYTES PER BLOCK", 100)?;

    let dir = tempfile::tempdir()?;
    let app = AppId::try_new("restart").context("name the app")?;
    // Each commit is a run, however small.
    let options = Options {
        min_extent: 0,
        ..Options::default()
    };
    let budget = Budget::new(1 << 30);
    let components = Components::new(budget.clone());
    let volume = Volume::open(dir.path(), options.clone(), components.clone())?;
    volume.put_app(&AppRecord {
        app: app.clone(),
        token_hash: [0; 32],
        lease: std::time::Duration::from_secs(600),
        life: None,
    })?;
    for map in 0..runs {
        write(&volume, &budget, &app, map, (runs, partitions), length).await?;
    }
    let (stats, bytes) = (volume.stats(), volume.bytes_used());
    if stats.runs != u64::from(runs) {
        bail!("{} runs were written for {runs} commits", stats.runs);
    }
    volume.close().await;
    drop(volume);

    for _ in 0..5 {
        let before = resident();
        let start = Instant::now();
        let volume = Volume::open(dir.path(), options.clone(), components.clone())?;
        let opened = start.elapsed();
        let mut fetch = volume.fetch(&app, SHUFFLE, 0..1, 0..runs, None)?;
        let mut blocks = 0;
        while let Some(part) = fetch.next().await? {
            blocks += part.blocks.len();
        }
        if blocks != runs as usize {
            bail!("a partition has {blocks} of its {runs} blocks after the restart");
        }
        println!(
            "{} extents in {runs} runs, {:.2} GB: open after {opened:.2?}, a partition read after {:.2?}; {} MiB more memory",
            u64::from(runs) * u64::from(partitions),
            bytes as f64 / 1e9,
            start.elapsed(),
            resident().saturating_sub(before) >> 20,
        );
        volume.close().await;
    }
    Ok(())
}

/// One attempt with a block for every partition.
async fn write(
    volume: &Volume,
    budget: &Budget,
    app: &AppId,
    map: u32,
    (maps, partitions): (u32, u32),
    length: u32,
) -> Result<()> {
    let key = AttemptKey {
        app: app.clone(),
        shuffle: SHUFFLE,
        map_index: MapIndex(map),
        attempt: AttemptId(map.into()),
    };
    let Opened::New(mut writer) = volume.open_attempt(key, maps, partitions)? else {
        bail!("map {map} is committed already");
    };
    let body = vec![0x5a; length as usize];
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&body);
    let headers: Vec<_> = (0..partitions)
        .map(|partition| {
            let mut header = BlockHeader {
                partition: PartitionId(partition),
                map_index: MapIndex(map),
                attempt: AttemptId(map.into()),
                seq: partition,
                length,
                raw_length: length,
                records: 1,
                flags: Flags::new(Codec::None, false, false),
                checksum: 0,
            };
            header.checksum = header.checksum_of(hasher.clone());
            header
        })
        .collect();
    let size = body.len() * headers.len();
    let mut data = StagedBuilder::with_capacity(budget.acquire(size).await, size);
    headers.iter().for_each(|_| data.extend(&body));
    writer.append(headers, data.freeze())?;
    let totals = (0..partitions).map(|partition| PartitionTotal {
        partition: PartitionId(partition),
        blocks: 1,
        bytes: length.into(),
        records: 1,
    });
    writer.commit(totals.collect(), Durability::Disk).await?;
    Ok(())
}

/// Bytes of this process in memory; 0 where the system does not say.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0) * 4096
}
