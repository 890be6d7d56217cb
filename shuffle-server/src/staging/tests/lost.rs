//! Attempts that are not whole any more: what is served of them, how that is found out, and that
//! bringing them again heals it.

use std::{collections::BTreeSet, os::unix::fs::FileExt};

use shuffle_proto::ids::Owner;

use super::{states::Disk, *};

type Wanted = Arc<BTreeSet<Owner>>;

fn wanted(owners: &[(u32, u64)]) -> Option<Wanted> {
    let owners = owners.iter().copied();
    let owners = owners.map(|(map_index, attempt)| (MapIndex(map_index), AttemptId(attempt)));
    Some(Arc::new(owners.collect()))
}

/// Reads these attempts of shuffle 1.
pub(super) async fn read_only(volume: &Volume, owners: &[(u32, u64)]) -> Fetched {
    let fetch = volume.fetch(&app(), ShuffleId(1), 0..PARTITIONS, 0..MAPS, None);
    let fetch = fetch.expect("fetch").only(wanted(owners));
    drain(fetch).await.expect("read")
}

pub(super) fn lost(fetched: &Fetched) -> Vec<(u32, u64)> {
    let lost = fetched.summary.lost.iter();
    lost.map(|one| (one.map_index.0, one.attempt.0)).collect()
}

pub(super) fn covered(fetched: &Fetched) -> Vec<(u32, u64)> {
    let covered = fetched.summary.covered.iter();
    covered
        .map(|one| (one.map_index.0, one.attempt.0))
        .collect()
}

/// Flips a bit of a block's bytes, wherever they lie in files with this ending.
fn flip(bench: &Bench, ending: &str, needle: &[u8]) {
    for path in bench.files(ending) {
        let bytes = std::fs::read(&path).expect("read");
        let mut places = bytes.windows(needle.len());
        if let Some(at) = places.position(|window| window == needle) {
            let file = std::fs::File::options().write(true).open(&path);
            let flipped = [bytes[at + 7] ^ 0x10];
            let written = file.expect("open").write_all_at(&flipped, at as u64 + 7);
            return written.expect("flip");
        }
    }
    panic!("the bytes are in no {ending}");
}

/// An attempt of 100 blocks, the first 50 flushed into a run of their own, the others in memory.
async fn in_two_places(bench: &Bench, volume: &Volume, map: u32) -> Shape {
    let shape = even(0..PARTITIONS, 40_000);
    let mut writer = begin(volume, key(1, map, 1));
    push(&bench.budget, &mut writer, &shape)
        .await
        .expect("push");
    let runs = volume.stats().pressure_runs;
    let most = bench.budget.acquire(bench.budget.limit() as usize).await;
    drop(most);
    assert_eq!(volume.stats().pressure_runs, runs + 1);
    push(&bench.budget, &mut writer, &shape)
        .await
        .expect("push");
    let totals = (0..PARTITIONS).map(|partition| {
        let of = |seq: u32| {
            let body = body(partition, map, 1, seq, 40_000);
            header(partition, map, 1, seq, &body).records
        };
        PartitionTotal {
            partition: PartitionId(partition),
            blocks: 2,
            bytes: 80_000,
            records: u64::from(of(partition)) + u64::from(of(PARTITIONS + partition)),
        }
    });
    let commit = writer.commit(totals.collect(), Durability::Memory).await;
    commit.expect("commit");
    [shape.clone(), shape].concat()
}

#[tokio::test]
async fn attempts_that_nobody_wants_are_not_sent_and_wanted_ones_are_never_silently_absent() {
    for length in [100, 40_000] {
        let bench = Bench::new();
        let volume = bench.open();
        let shape = even(0..PARTITIONS, length);
        for (map, attempt) in [(0, 1), (0, 2), (1, 1), (2, 1)] {
            let key = key(1, map, attempt);
            write(&bench, &volume, key, &shape, Durability::Disk).await;
        }
        let fetched = read_only(&volume, &[(0, 2), (2, 1), (2, 9), (5, 1)]).await;
        let mut blocks = expected(0, 2, &shape, 0..PARTITIONS);
        blocks.append(&mut expected(2, 1, &shape, 0..PARTITIONS));
        assert_same(&fetched.blocks, &blocks);
        assert_eq!(covered(&fetched), [(0, 2), (2, 1)]);
        assert_eq!(lost(&fetched), [(2, 9), (5, 1)]);
        let reason = &fetched.summary.lost[0].reason;
        assert!(reason.contains("does not know it"), "{reason}");
        assert_eq!(read_only(&volume, &[]).await, Fetched::default());
    }
}

#[tokio::test]
async fn of_an_attempt_in_two_places_nothing_comes_when_the_first_is_broken() {
    let mut bench = Bench::new();
    bench.budget = Budget::new(16 << 20);
    let volume = bench.open();
    in_two_places(&bench, &volume, 0).await;
    let other = even(0..PARTITIONS, 100);
    write(&bench, &volume, key(1, 1, 1), &other, Durability::Memory).await;
    // All rows of the table of its first run.
    let file = std::fs::File::options()
        .write(true)
        .open(&bench.files(".seg")[0]);
    let written = file.expect("open").write_all_at(&[0xff; 2000], 64);
    written.expect("overwrite");
    for _ in 0..2 {
        let fetched = read(&volume, 1, 0..PARTITIONS, 0..MAPS).await;
        let fetched = fetched.expect("the other is served");
        assert_same(&fetched.blocks, &expected(1, 1, &other, 0..PARTITIONS));
        assert_eq!(
            (covered(&fetched), lost(&fetched)),
            (vec![(1, 1)], vec![(0, 1)])
        );
    }
}

#[tokio::test]
async fn of_an_attempt_that_is_brought_again_nothing_comes_from_where_it_was() {
    let mut bench = Bench::new();
    bench.budget = Budget::new(16 << 20);
    let volume = bench.open();
    let shape = in_two_places(&bench, &volume, 0).await;
    volume.close().await;
    drop(volume);
    let segments = bench.files(".seg");
    let volume = bench.open();
    // The first of its two runs; the second is good.
    let file = std::fs::File::options().write(true).open(&segments[0]);
    let written = file.expect("open").write_all_at(&[0xff; 2000], 64);
    written.expect("overwrite");
    let fetched = read(&volume, 1, 0..PARTITIONS, 0..MAPS).await;
    assert_eq!(lost(&fetched.expect("served")), [(0, 1)]);
    write(&bench, &volume, key(1, 0, 1), &shape, Durability::Disk).await;
    assert_eq!(volume.unwritten()[0].attempts, 1, "it is counted once");
    assert_holds(&volume, 1, &[(0, 1, shape.clone())]).await;
    drop(volume);
    assert_holds(&bench.open(), 1, &[(0, 1, shape)]).await;
}

#[tokio::test]
async fn of_an_attempt_that_breaks_while_it_is_sent_a_beginning_came_and_nothing_behind_a_gap() {
    let mut bench = Bench::new();
    bench.budget = Budget::new(16 << 20);
    let volume = bench.open();
    let shape = in_two_places(&bench, &volume, 0).await;
    let all = expected(0, 1, &shape, 0..PARTITIONS);
    let fetch = volume.fetch(&app(), ShuffleId(1), 0..PARTITIONS, 0..MAPS, None);
    let mut fetch = fetch.expect("fetch");
    let (mut fetched, mut last) = (Fetched::default(), BTreeMap::new());
    let first = fetch.next().await.expect("part").expect("more");
    take(&first, &mut fetched, &mut last);
    let path = &bench.files(".seg")[0];
    let file = std::fs::File::options().write(true).open(path);
    file.expect("open").set_len(1_200_000).expect("truncate");
    while let Some(part) = fetch.next().await.expect("part") {
        take(&part, &mut fetched, &mut last);
    }
    assert_eq!(
        lost(&Fetched {
            summary: fetch.summary(),
            ..Fetched::default()
        }),
        [(0, 1)]
    );
    assert!(!fetched.blocks.is_empty() && fetched.blocks.len() < 50);
    for partition in 0..PARTITIONS {
        let of = |blocks: &Blocks| {
            let seqs = blocks.keys().filter(|block| block.0 == partition);
            seqs.map(|block| block.3).collect::<Vec<_>>()
        };
        let (came, whole) = (of(&fetched.blocks), of(&all));
        assert_eq!(came, whole[..came.len()], "partition {partition}");
    }
}

#[tokio::test]
async fn of_an_attempt_in_two_places_nothing_comes_while_the_disk_hangs_and_all_of_it_later() {
    let (mut bench, disk) = Disk::bench(Operation::Read);
    bench.budget = Budget::new(16 << 20);
    let volume = bench.open();
    let shape = in_two_places(&bench, &volume, 0).await;
    let other = even(0..PARTITIONS, 100);
    write(&bench, &volume, key(1, 1, 1), &other, Durability::Memory).await;
    disk.hang(&volume);
    let fetch = volume.fetch(&app(), ShuffleId(1), 0..PARTITIONS, 0..MAPS, None);
    let mut fetch = fetch.expect("fetch");
    let (mut fetched, mut cursor) = (Fetched::default(), None);
    while let Some(part) = fetch.next().await.expect("the rest is served") {
        take(&part, &mut fetched, &mut BTreeMap::new());
        cursor = Some(part.cursor);
    }
    assert_same(&fetched.blocks, &expected(1, 1, &other, 0..PARTITIONS));
    let unanswered = fetch.unanswered().expect("the disk did not answer");
    assert_eq!(unanswered.attempts.len(), 1);
    disk.go_on(&volume);
    eventually("it is quick again", || volume.health() == Health::Ok).await;
    let fetch = volume.fetch(&app(), ShuffleId(1), 0..PARTITIONS, 0..MAPS, cursor);
    let again = drain(fetch.expect("fetch")).await.expect("fetch");
    assert_eq!(again.summary.lost, []);
    let whole = expected(0, 1, &shape, 0..PARTITIONS);
    assert!(whole.keys().all(|block| again.blocks.contains_key(block)));
}

#[tokio::test]
async fn a_flipped_bit_costs_its_attempt_for_every_reader_and_after_a_restart_and_a_re_run_heals_it()
 {
    // In a run that others are in too, and in a log, after a restart so that memory has none of it.
    for (length, ending) in [(40_000, ".seg"), (100, ".log")] {
        let mut bench = Bench::new();
        bench.budget = Budget::new(64 << 20);
        let mut volume = bench.open();
        let shape = even(0..PARTITIONS, length);
        let in_run = ending == ".seg";
        for map in 0..5 {
            let level = match in_run && map < 3 {
                true => Durability::Memory,
                false => Durability::Disk,
            };
            write(&bench, &volume, key(1, map, 1), &shape, level).await;
            if in_run && map == 2 {
                drop(bench.budget.acquire(64 << 20).await);
                assert_eq!(volume.stats().pressure_runs, 1, "they are in one run");
            }
        }
        if in_run {
            volume.close().await;
        }
        drop(volume);
        volume = bench.open();
        let seq = 17;
        let bad = 1;
        flip(&bench, ending, &body(seq, bad, 1, seq, length));

        let found = volume.verify(&key(1, bad, 1)).await.expect("looked at");
        let found = found.expect("it is bad");
        assert!(found.contains("block 17 of partition 17"), "{found}");
        for map in (0..5).filter(|map| *map != bad) {
            assert_eq!(
                volume.verify(&key(1, map, 1)).await.expect("looked at"),
                None
            );
        }
        for restart in [false, true] {
            if restart {
                drop(volume);
                volume = bench.open();
            }
            let fetched = read(&volume, 1, 0..PARTITIONS, 0..MAPS)
                .await
                .expect("read");
            let others: Vec<u32> = (0..5).filter(|map| *map != bad).collect();
            let whole = others.iter();
            let whole = whole.flat_map(|map| expected(*map, 1, &shape, 0..PARTITIONS));
            assert_same(&fetched.blocks, &whole.collect());
            assert_eq!(lost(&fetched), [(bad, 1)], "{ending} {restart}");
        }
        // What the scheduler does: another attempt of the same map, here too.
        write(&bench, &volume, key(1, bad, 2), &shape, Durability::Disk).await;
        let named: Vec<_> = (0..5).map(|map| (map, 1 + u64::from(map == bad))).collect();
        // And what a writer does that never had its answer: the same attempt once more.
        assert_eq!(volume.committed(&key(1, bad, 1)), None);
        write(&bench, &volume, key(1, bad, 1), &shape, Durability::Disk).await;
        for restart in [false, true] {
            if restart {
                drop(volume);
                volume = bench.open();
            }
            for named in [named.clone(), (0..5).map(|map| (map, 1)).collect()] {
                let fetched = read_only(&volume, &named).await;
                let whole = named
                    .iter()
                    .flat_map(|(map, attempt)| expected(*map, *attempt, &shape, 0..PARTITIONS));
                assert_same(&fetched.blocks, &whole.collect());
                assert_eq!((lost(&fetched), covered(&fetched)), (vec![], named));
            }
        }
    }
}

#[tokio::test]
async fn what_is_bad_in_memory_is_lost_too() {
    let bench = Bench::new();
    let volume = bench.open();
    let shape = even(0..PARTITIONS, 100);
    write(&bench, &volume, key(1, 1, 1), &shape, Durability::Memory).await;
    let mut writer = begin(&volume, key(1, 0, 1));
    let body = body(3, 0, 1, 0, 100);
    let mut bad = header(3, 0, 1, 0, &body);
    bad.checksum ^= 1;
    let total = PartitionTotal {
        partition: bad.partition,
        blocks: 1,
        bytes: 100,
        records: bad.records.into(),
    };
    let data = staged(&bench.budget, &[body]).await;
    writer.append(vec![bad], data).expect("append");
    let commit = writer.commit(vec![total], Durability::Memory).await;
    commit.expect("commit");
    assert!(volume.verify(&key(1, 0, 1)).await.expect("read").is_some());
    assert_eq!(volume.verify(&key(1, 1, 1)).await.expect("read"), None);
    let fetched = read(&volume, 1, 0..PARTITIONS, 0..MAPS)
        .await
        .expect("read");
    assert_same(&fetched.blocks, &expected(1, 1, &shape, 0..PARTITIONS));
    assert_eq!(lost(&fetched), [(0, 1)]);
    // It is neither written to the disk nor back, and its memory is free.
    assert_eq!(volume.unwritten()[0].attempts, 1);
    volume.close().await;
    drop(volume);
    let volume = bench.open();
    let fetched = read(&volume, 1, 0..PARTITIONS, 0..MAPS)
        .await
        .expect("read");
    assert_same(&fetched.blocks, &expected(1, 1, &shape, 0..PARTITIONS));
    assert_eq!(
        (lost(&fetched), covered(&fetched)),
        (vec![(0, 1)], vec![(1, 1)])
    );
    let error = volume.verify(&key(1, 7, 1)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Lost);
}

#[tokio::test]
async fn a_commit_that_recovery_found_lost_is_not_confirmed_but_taken_again() {
    let mut bench = Bench::new();
    bench.options.direct_io = DirectIo::Off;
    let volume = bench.open();
    let shape = even(0..PARTITIONS, 40_000);
    write(&bench, &volume, key(1, 0, 1), &shape, Durability::Disk).await;
    drop(volume);
    let path = &bench.files(".seg")[0];
    let file = std::fs::File::options().write(true).open(path);
    file.expect("open").set_len(0).expect("truncate");
    let volume = bench.open();
    let error = volume.confirm(&key(1, 0, 1), &[], Durability::Disk).await;
    let error = error.expect_err("it is not there");
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert_eq!(volume.committed(&key(1, 0, 1)), None);
    write(&bench, &volume, key(1, 0, 1), &shape, Durability::Disk).await;
    assert_holds(&volume, 1, &[(0, 1, shape.clone())]).await;
    drop(volume);
    assert_holds(&bench.open(), 1, &[(0, 1, shape)]).await;
}

#[tokio::test]
async fn a_flipped_bit_in_a_table_or_a_header_costs_nothing() {
    for (length, ending) in [(40_000, ".seg"), (100, ".log")] {
        let bench = Bench::new();
        let volume = bench.open();
        let shape = even(0..PARTITIONS, length);
        write(&bench, &volume, key(1, 0, 1), &shape, Durability::Disk).await;
        drop(volume);
        let path = &bench.files(ending)[0];
        let good = std::fs::read(path).expect("read");
        // All fields of the header and of some rows: what contradicts the directory, and what only
        // a reader sees.
        let rows = (0..64 + 40).chain(64 + 40 * 20..64 + 40 * 21);
        for at in rows {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << (at % 8);
            std::fs::write(path, bytes).expect("flip");
            let volume = bench.open();
            assert_eq!(
                volume.verify(&key(1, 0, 1)).await.expect("read"),
                None,
                "{at}"
            );
            assert_holds(&volume, 1, &[(0, 1, shape.clone())]).await;
        }
    }
}

#[tokio::test]
async fn all_that_is_bad_in_a_shuffle_is_found_at_once_and_nothing_else() {
    let mut bench = Bench::new();
    bench.budget = Budget::new(64 << 20);
    let volume = bench.open();
    let (length, one) = (40_000, key(1, 0, 1));
    for map in 0..6 {
        write(
            &bench,
            &volume,
            key(1, map, 1),
            &even(0..PARTITIONS, length),
            Durability::Disk,
        )
        .await;
    }
    volume.close().await;
    drop(volume);
    let volume = bench.open();
    let none = volume.verify_all(&one.app, one.shuffle, || false).await;
    assert_eq!(none.expect("looked through"), 0);
    for (bad, seq) in [(1, 17), (4, 3)] {
        flip(&bench, ".seg", &body(seq, bad, 1, seq, length));
    }
    let found = volume.verify_all(&one.app, one.shuffle, || false).await;
    assert_eq!(found.expect("looked through"), 2);
    for map in 0..6 {
        let found = volume.verify(&key(1, map, 1)).await.expect("looked at");
        assert_eq!(
            found.is_some(),
            [1, 4].contains(&map),
            "map {map}: {found:?}"
        );
    }
    // What is lost is not read again.
    let found = volume.verify_all(&one.app, one.shuffle, || false).await;
    assert_eq!(found.expect("looked through"), 0);
}
