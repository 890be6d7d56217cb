//! Random pushes, commits, aborts, deletions, restarts and pressure against a map in memory; every fetch is compared byte for byte.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Write {
        shuffle: u32,
        map: u32,
        shape: Shape,
        level: Durability,
    },
    /// Pushes, lets memory be flushed, and goes away.
    Abort {
        shuffle: u32,
        map: u32,
        shape: Shape,
    },
    /// Pushes twice under one attempt; the second stream commits.
    TakeOver {
        shuffle: u32,
        map: u32,
        first: Shape,
        second: Shape,
        pressure: bool,
    },
    Pressure,
    Quiet,
    Kill,
    Close,
    Delete {
        shuffle: u32,
    },
    Read {
        shuffle: u32,
        partitions: std::ops::Range<u32>,
        maps: std::ops::Range<u32>,
    },
}

fn shape() -> impl Strategy<Value = Shape> {
    let length = prop_oneof![8 => 1usize..200, 3 => 1000usize..9000, 1 => 60_000usize..200_000];
    let batch = prop::collection::vec((0u32..8, length), 1..12).prop_map(|mut batch| {
        batch.sort_by_key(|&(partition, _)| partition);
        batch
    });
    prop::collection::vec(batch, 0..4)
}

fn level() -> impl Strategy<Value = Durability> {
    prop_oneof![2 => Just(Durability::Memory), 4 => Just(Durability::Disk), 1 => Just(Durability::Fsync)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0u32..3, 0u32..6, shape(), level())
            .prop_map(|(shuffle, map, shape, level)| Step::Write { shuffle, map, shape, level }),
        2 => (0u32..3, 0u32..6, shape()).prop_map(|(shuffle, map, shape)| Step::Abort { shuffle, map, shape }),
        2 => (0u32..3, 0u32..6, shape(), shape(), any::<bool>()).prop_map(|(shuffle, map, first, second, pressure)| {
            Step::TakeOver { shuffle, map, first, second, pressure }
        }),
        3 => Just(Step::Pressure),
        2 => Just(Step::Quiet),
        2 => Just(Step::Kill),
        1 => Just(Step::Close),
        1 => (0u32..3).prop_map(|shuffle| Step::Delete { shuffle }),
        4 => (0u32..3, 0u32..9, 0u32..9, 0u32..7, 0u32..7).prop_map(|(shuffle, a, b, c, d)| Step::Read {
            shuffle,
            partitions: a.min(b)..a.max(b),
            maps: c.min(d)..c.max(d),
        }),
    ]
}

/// What should be there: per shuffle its attempts, or `None` when it is deleted.
type Oracle = BTreeMap<u32, Option<BTreeMap<(u32, u64), (Shape, Durability)>>>;

async fn pressure(bench: &Bench) {
    drop(bench.budget.acquire(bench.budget.limit() as usize).await);
}

/// Memory-level attempts that may have reached the disk by themselves.
async fn survivors(volume: &Volume, oracle: &mut Oracle) {
    for (&shuffle, attempts) in oracle.iter_mut() {
        if let Some(attempts) = attempts {
            attempts.retain(|&(map, attempt), (_, level)| {
                let there = volume.committed(&key(shuffle, map, attempt));
                assert!(
                    there.is_some() || *level == Durability::Memory,
                    "{shuffle} {map} {attempt} was promised"
                );
                if let Some(receipt) = there {
                    *level = receipt.durability;
                }
                there.is_some()
            });
        }
    }
}

async fn compare(
    volume: &Volume,
    oracle: &Oracle,
    shuffle: u32,
    partitions: std::ops::Range<u32>,
    maps: std::ops::Range<u32>,
) {
    let fetched = read(volume, shuffle, partitions.clone(), maps.clone()).await;
    let attempts = match oracle.get(&shuffle) {
        Some(Some(attempts)) => attempts,
        Some(None) | None => {
            assert_eq!(fetched.expect_err("deleted or unknown").kind(), Kind::Lost);
            return;
        }
    };
    if attempts.is_empty() {
        // Unknown after a restart, known and empty before: never a block.
        match fetched {
            Ok(fetched) => {
                assert!(fetched.blocks.is_empty());
                assert!(fetched.summary.covered.is_empty() && fetched.summary.lost.is_empty());
            }
            Err(error) => assert_eq!(error.kind(), Kind::Lost),
        }
        return;
    }
    let fetched = fetched.expect("fetch");
    let wanted: Vec<_> = attempts
        .iter()
        .filter(|((map, _), _)| maps.contains(map))
        .collect();
    let mut blocks = BTreeMap::new();
    for ((map, attempt), (shape, _)) in &wanted {
        blocks.append(&mut expected(*map, *attempt, shape, partitions.clone()));
    }
    assert_same(&fetched.blocks, &blocks);
    assert_eq!(fetched.repeated, 0);
    let covered: Vec<_> = fetched
        .summary
        .covered
        .iter()
        .map(|t| (t.map_index.0, t.attempt.0))
        .collect();
    assert_eq!(
        covered,
        wanted.iter().map(|(owner, _)| **owner).collect::<Vec<_>>()
    );
    assert_eq!(fetched.summary.lost, []);
}

async fn play(steps: Vec<Step>) {
    let mut bench = Bench::new();
    bench.budget = Budget::new(32 << 20);
    bench.options.min_extent = 2000;
    bench.options.max_run = 200_000;
    bench.options.max_segment = 500_000;
    bench.options.max_log = 20_000;
    let mut volume = bench.open();
    let mut oracle = Oracle::new();
    let mut next_attempt = 0;
    for step in steps {
        next_attempt += 1;
        match step {
            Step::Write {
                shuffle,
                map,
                shape,
                level,
            } => {
                let Some(attempts) = oracle
                    .entry(shuffle)
                    .or_insert_with(|| Some(BTreeMap::new()))
                else {
                    continue;
                };
                let receipt = write(
                    &bench,
                    &volume,
                    key(shuffle, map, next_attempt),
                    &shape,
                    level,
                )
                .await;
                assert!(receipt.durability >= level);
                attempts.insert((map, next_attempt), (shape, level));
            }
            Step::Abort {
                shuffle,
                map,
                shape,
            } => {
                if oracle
                    .entry(shuffle)
                    .or_insert_with(|| Some(BTreeMap::new()))
                    .is_none()
                {
                    continue;
                }
                let mut writer = begin(&volume, key(shuffle, map, next_attempt));
                push(&bench.budget, &mut writer, &shape)
                    .await
                    .expect("append");
                pressure(&bench).await;
            }
            Step::TakeOver {
                shuffle,
                map,
                first,
                second,
                pressure: pressed,
            } => {
                let Some(attempts) = oracle
                    .entry(shuffle)
                    .or_insert_with(|| Some(BTreeMap::new()))
                else {
                    continue;
                };
                let mut older = begin(&volume, key(shuffle, map, next_attempt));
                push(&bench.budget, &mut older, &first)
                    .await
                    .expect("append");
                if pressed {
                    pressure(&bench).await;
                }
                let mut newer = begin(&volume, key(shuffle, map, next_attempt));
                let totals = push(&bench.budget, &mut newer, &second)
                    .await
                    .expect("append");
                if pressed {
                    pressure(&bench).await;
                }
                newer
                    .commit(totals, Durability::Disk)
                    .await
                    .expect("commit");
                attempts.insert((map, next_attempt), (second, Durability::Disk));
            }
            Step::Pressure => pressure(&bench).await,
            Step::Quiet => {
                bench.clock.advance(Duration::from_secs(60));
                eventually("logs are sorted into runs", || {
                    bench.files(".log").is_empty()
                })
                .await;
            }
            Step::Kill | Step::Close => {
                if matches!(step, Step::Close) {
                    volume.close().await;
                }
                drop(volume);
                volume = bench.open();
                if matches!(step, Step::Close) {
                    for attempts in oracle.values_mut().flatten() {
                        attempts
                            .values_mut()
                            .for_each(|(_, level)| *level = Durability::Disk.max(*level));
                    }
                }
                survivors(&volume, &mut oracle).await;
            }
            Step::Delete { shuffle } => {
                volume
                    .delete_shuffle(&app(), ShuffleId(shuffle))
                    .expect("delete");
                oracle.insert(shuffle, None);
            }
            Step::Read {
                shuffle,
                partitions,
                maps,
            } => compare(&volume, &oracle, shuffle, partitions, maps).await,
        }
    }
    for shuffle in 0..3 {
        compare(&volume, &oracle, shuffle, 0..8, 0..u32::MAX).await;
    }
    volume.delete_app(&app()).expect("delete");
    eventually("nothing is held", || bench.budget.used() == 0).await;
    eventually("no file is left", || {
        bench.files(".seg").is_empty() && bench.files(".log").is_empty()
    })
    .await;
    eventually("nothing counts as used", || volume.bytes_used() == 0).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn a_volume_holds_what_a_map_in_memory_holds(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(play(steps));
    }
}
