//! Fetch: ranges, cursors, what it sees while blocks move.

use super::*;

async fn some_shuffle(bench: &Bench, volume: &Volume, length: usize) -> Vec<(u32, u64, Shape)> {
    let mut attempts = Vec::new();
    for map in 0..8 {
        // Two batches, so that an attempt has several blocks per partition, and partitions that some attempts do not have.
        let half: Vec<_> = (map..PARTITIONS)
            .map(|partition| (partition, length + partition as usize))
            .collect();
        let shape = vec![half.clone(), half];
        let level = if map % 2 == 0 {
            Durability::Disk
        } else {
            Durability::Memory
        };
        write(
            bench,
            volume,
            key(1, map, u64::from(map) + 100),
            &shape,
            level,
        )
        .await;
        attempts.push((map, u64::from(map) + 100, shape));
    }
    attempts
}

#[tokio::test]
async fn any_range_of_partitions_and_maps_brings_just_that() {
    for (length, restart) in [(100, false), (100, true), (30_000, false), (30_000, true)] {
        let bench = Bench::new();
        let mut volume = bench.open();
        let attempts = some_shuffle(&bench, &volume, length).await;
        if restart {
            volume.close().await;
            drop(volume);
            volume = bench.open();
        }
        for (partitions, maps) in [
            (0..PARTITIONS, 0..8),
            (3..4, 0..8),
            (5..20, 2..3),
            (0..1, 1..8),
            (49..50, 3..7),
            (7..7, 0..8),
        ] {
            let fetched = read(&volume, 1, partitions.clone(), maps.clone())
                .await
                .expect("fetch");
            let mut blocks = BTreeMap::new();
            for (map, attempt, shape) in attempts.iter().filter(|(map, ..)| maps.contains(map)) {
                blocks.append(&mut expected(*map, *attempt, shape, partitions.clone()));
            }
            assert!(
                fetched.blocks == blocks,
                "{partitions:?} {maps:?} {length} {restart}"
            );
            assert_eq!(fetched.summary.covered.len(), maps.len());
            let count: u32 = fetched
                .summary
                .covered
                .iter()
                .map(|totals| totals.blocks)
                .sum();
            assert_eq!(count as usize, blocks.len());
        }
    }
}

#[tokio::test]
async fn a_fetch_resumes_at_any_cursor_also_after_a_restart() {
    let bench = Bench::new();
    let mut volume = bench.open();
    let mut attempts = some_shuffle(&bench, &volume, 30_000).await;
    for map in 8..40 {
        let shape = even(0..PARTITIONS, 1000);
        write(&bench, &volume, key(1, map, 7), &shape, Durability::Disk).await;
        attempts.push((map, 7, shape));
    }
    let whole: BTreeMap<_, _> = attempts
        .iter()
        .flat_map(|(map, attempt, shape)| expected(*map, *attempt, shape, 0..PARTITIONS))
        .collect();
    let mut fetched = Fetched::default();
    let mut last = BTreeMap::new();
    let mut cursor: Option<Cursor> = None;
    for step in 0.. {
        let bytes = cursor.map(Cursor::to_bytes);
        let resumed = bytes.map(|bytes| Cursor::try_from_bytes(&bytes).expect("a cursor"));
        let mut fetch = volume
            .fetch(&app(), ShuffleId(1), 0..PARTITIONS, 0..MAPS, resumed)
            .expect("fetch");
        let Some(part) = fetch.next().await.expect("part") else {
            break;
        };
        take(&part, &mut fetched, &mut last);
        cursor = Some(part.cursor);
        drop((part, fetch));
        if step == 10 {
            volume.close().await;
            drop(volume);
            volume = bench.open();
        }
    }
    assert!(fetched.blocks == whole);
    assert_eq!(fetched.repeated, 0);
    assert_eq!(Cursor::try_from_bytes(b"something else"), None);
}

#[tokio::test]
async fn blocks_that_move_into_a_run_during_a_fetch_come_once_and_in_order() {
    let bench = Bench::new();
    let volume = bench.open();
    let mut attempts = Vec::new();
    for map in 0..20 {
        let shape = vec![
            even(0..PARTITIONS, 3000).remove(0),
            even(0..PARTITIONS, 3000).remove(0),
        ];
        write(&bench, &volume, key(1, map, 7), &shape, Durability::Disk).await;
        attempts.push((map, 7, shape));
    }
    let mut fetch = volume
        .fetch(&app(), ShuffleId(1), 0..PARTITIONS, 0..MAPS, None)
        .expect("fetch");
    let (mut fetched, mut last) = (Fetched::default(), BTreeMap::new());
    for _ in 0..2 {
        take(
            &fetch.next().await.expect("part").expect("more"),
            &mut fetched,
            &mut last,
        );
    }
    bench.clock.advance(Duration::from_secs(60));
    eventually("a run is written", || volume.stats().settled_runs > 0).await;
    // Committed after the fetch began: not in it.
    write(
        &bench,
        &volume,
        key(1, 30, 8),
        &even(0..1, 10),
        Durability::Disk,
    )
    .await;
    while let Some(part) = fetch.next().await.expect("part") {
        take(&part, &mut fetched, &mut last);
    }
    let whole: BTreeMap<_, _> = attempts
        .iter()
        .flat_map(|(map, attempt, shape)| expected(*map, *attempt, shape, 0..PARTITIONS))
        .collect();
    assert!(fetched.blocks == whole);
    assert_eq!((fetched.repeated, fetch.summary().covered.len()), (0, 20));
}

#[tokio::test]
async fn a_block_larger_than_a_part_is_served_from_memory_log_and_run() {
    let bench = Bench::new();
    let mut volume = bench.open();
    let large = vec![vec![(3, 4 << 20)], vec![(3, 3 << 20), (4, 5)], vec![(1, 9)]];
    let mut attempts = Vec::new();
    for (map, level) in [(0, Durability::Memory), (1, Durability::Disk)] {
        write(&bench, &volume, key(1, map, 1), &large, level).await;
        attempts.push((map, 1, large.clone()));
    }
    assert_holds(&volume, 1, &attempts).await;
    for _ in 0..2 {
        volume.close().await;
        drop(volume);
        volume = bench.open();
        assert_holds(&volume, 1, &attempts).await;
    }
}

#[tokio::test]
async fn what_is_unknown_is_lost_and_never_empty() {
    let bench = Bench::new();
    let volume = bench.open();
    assert_eq!(
        read(&volume, 1, 0..1, 0..1)
            .await
            .expect_err("unknown shuffle")
            .kind(),
        Kind::Lost
    );
    write(
        &bench,
        &volume,
        key(1, 0, 1),
        &even(0..1, 10),
        Durability::Disk,
    )
    .await;
    let other = AppId::try_new("other").expect("valid");
    let error = volume
        .fetch(&other, ShuffleId(1), 0..1, 0..1, None)
        .expect_err("unknown app");
    assert_eq!(error.kind(), Kind::Lost);
    let none = read(&volume, 1, 0..1, 5..6)
        .await
        .expect("known, with nothing in these maps");
    assert_eq!(none, Fetched::default());
}

#[tokio::test]
async fn tiny_blocks_come_back_in_parts_of_many() {
    let bench = Bench::new();
    let volume = bench.open();
    let batch: Vec<_> = (0..PARTITIONS)
        .flat_map(|partition| std::iter::repeat_n((partition, 3), 1200))
        .collect();
    let shape = vec![batch];
    write(&bench, &volume, key(1, 0, 1), &shape, Durability::Disk).await;
    assert_holds(&volume, 1, &[(0, 1, shape.clone())]).await;
    drop(volume);
    let volume = bench.open();
    assert_holds(&volume, 1, &[(0, 1, shape.clone())]).await;
    bench.clock.advance(Duration::from_secs(60));
    eventually("a run is written", || volume.stats().settled_runs > 0).await;
    assert_holds(&volume, 1, &[(0, 1, shape)]).await;
}
