//! What is there after the process was killed, and after files were damaged.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
};

use super::*;

#[tokio::test]
async fn a_killed_process_loses_memory_and_keeps_disk() {
    let bench = Bench::new();
    let volume = bench.open();
    let id = volume.id();
    let (small, large) = (even(0..PARTITIONS, 100), even(0..PARTITIONS, 40_000));
    write(&bench, &volume, key(1, 0, 1), &small, Durability::Memory).await;
    write(&bench, &volume, key(1, 1, 1), &small, Durability::Disk).await;
    write(&bench, &volume, key(1, 2, 1), &large, Durability::Disk).await;
    write(&bench, &volume, key(1, 3, 1), &small, Durability::Fsync).await;
    write(&bench, &volume, key(2, 3, 1), &small, Durability::Memory).await;
    let mut running = begin(&volume, key(1, 4, 1));
    push(&bench.budget, &mut running, &large)
        .await
        .expect("append");
    drop((running, volume));

    let volume = bench.open();
    assert_eq!(volume.id(), id);
    assert_eq!(volume.apps(), [record(&app())]);
    assert_holds(
        &volume,
        1,
        &[(1, 1, small.clone()), (2, 1, large), (3, 1, small)],
    )
    .await;
    assert_eq!(
        read(&volume, 2, 0..1, 0..MAPS)
            .await
            .expect_err("only memory had it")
            .kind(),
        Kind::Lost
    );
    let usage = volume.usage(&app(), None);
    assert_eq!((usage.attempts, usage.fsync), (3, 5000));
}

#[tokio::test]
async fn a_closed_volume_keeps_what_only_memory_had() {
    let bench = Bench::new();
    let volume = bench.open();
    let shape = even(0..PARTITIONS, 100);
    write(&bench, &volume, key(1, 0, 1), &shape, Durability::Memory).await;
    let levels = [Durability::Memory, Durability::Disk];
    let running = levels.map(|level| (level, begin(&volume, key(1, level as u32 + 1, 1))));
    volume.close().await;
    for (level, writer) in running {
        let error = writer.commit(vec![], level).await.expect_err("closed");
        assert_eq!(error.kind(), Kind::Unavailable);
    }
    assert_eq!(
        volume
            .open_attempt(key(1, 3, 1), MAPS, PARTITIONS)
            .expect_err("closed")
            .kind(),
        Kind::Unavailable
    );
    drop(volume);
    assert_holds(&bench.open(), 1, &[(0, 1, shape)]).await;
}

#[tokio::test]
async fn what_the_log_had_is_served_and_then_sorted_after_a_restart() {
    let bench = Bench::new();
    let volume = bench.open();
    let mut attempts = Vec::new();
    for map in 0..10 {
        let batch = even(0..PARTITIONS, 100 + map as usize).remove(0);
        let shape = vec![batch.clone(), batch];
        write(&bench, &volume, key(1, map, 1), &shape, Durability::Disk).await;
        attempts.push((map, 1, shape));
    }
    drop(volume);
    let volume = bench.open();
    assert_holds(&volume, 1, &attempts).await;
    assert!(volume.stats().read_disk_bytes > 0);
    bench.clock.advance(Duration::from_secs(60));
    eventually("the log is gone", || bench.files(".log").is_empty()).await;
    assert_holds(&volume, 1, &attempts).await;
    drop(volume);
    assert_holds(&bench.open(), 1, &attempts).await;
}

/// Three attempts in segments of their own, so that damage to one file is damage to one attempt.
async fn three(bench: &mut Bench) -> Vec<(u32, u64, Shape)> {
    bench.options.max_segment = 1;
    let volume = bench.open();
    let mut attempts = Vec::new();
    for map in 0..3 {
        let shape = even(0..PARTITIONS, 40_000);
        write(bench, &volume, key(1, map, 1), &shape, Durability::Disk).await;
        attempts.push((map, 1, shape));
    }
    assert_eq!(bench.files(".seg").len(), 3);
    attempts
}

/// Attempt 1 is lost for this reason, the others are whole.
async fn assert_second_is_lost(
    bench: &Bench,
    volume: &Volume,
    attempts: &[(u32, u64, Shape)],
    reason: &str,
) {
    let fetched = read(volume, 1, 0..PARTITIONS, 0..MAPS)
        .await
        .expect("the others are served");
    let [lost] = &fetched.summary.lost[..] else {
        panic!("lost: {:?}", fetched.summary.lost)
    };
    assert_eq!((lost.map_index.0, lost.attempt.0), (1, 1));
    assert!(lost.reason.contains(reason), "{}", lost.reason);
    assert!(
        lost.reason
            .contains(bench.dir.path().to_str().expect("text")),
        "names the file: {}",
        lost.reason
    );
    let covered: Vec<_> = fetched
        .summary
        .covered
        .iter()
        .map(|totals| totals.map_index.0)
        .collect();
    assert_eq!(covered, [0, 2]);
    for (map, attempt, shape) in [&attempts[0], &attempts[2]] {
        for (block, body) in expected(*map, *attempt, shape, 0..PARTITIONS) {
            assert!(fetched.blocks.get(&block) == Some(&body), "{block:?}");
        }
    }
}

#[tokio::test]
async fn a_truncated_segment_loses_exactly_its_attempts() {
    let mut bench = Bench::new();
    let attempts = three(&mut bench).await;
    let file = OpenOptions::new()
        .write(true)
        .open(&bench.files(".seg")[1])
        .expect("open");
    file.set_len(1_000_000).expect("truncate");
    let volume = bench.open();
    assert_second_is_lost(&bench, &volume, &attempts, "ends at 1000000").await;
    // Again: the map was re-run.
    let shape = even(0..PARTITIONS, 40_000);
    write(&bench, &volume, key(1, 1, 2), &shape, Durability::Disk).await;
    let fetched = read(&volume, 1, 0..PARTITIONS, 0..MAPS)
        .await
        .expect("fetch");
    assert_eq!(
        (fetched.summary.covered.len(), fetched.summary.lost.len()),
        (3, 1)
    );
}

#[tokio::test]
async fn a_missing_segment_loses_exactly_its_attempts() {
    let mut bench = Bench::new();
    let attempts = three(&mut bench).await;
    fs::remove_file(&bench.files(".seg")[1]).expect("remove");
    assert_second_is_lost(&bench, &bench.open(), &attempts, "No such file").await;
}

#[tokio::test]
async fn a_segment_that_shrinks_while_it_is_served_loses_exactly_its_attempts() {
    let mut bench = Bench::new();
    let attempts = three(&mut bench).await;
    let volume = bench.open();
    assert_holds(&volume, 1, &attempts).await;
    let file = OpenOptions::new()
        .write(true)
        .open(&bench.files(".seg")[1])
        .expect("open");
    file.set_len(1_000_000).expect("truncate");
    assert_second_is_lost(&bench, &volume, &attempts, "the file ends at 1000000").await;
    assert!(volume.stats().read_failures > 0);
}

#[tokio::test]
async fn a_table_that_contradicts_the_directory_is_found() {
    let mut bench = Bench::new();
    let attempts = three(&mut bench).await;
    let file = OpenOptions::new()
        .write(true)
        .open(&bench.files(".seg")[1])
        .expect("open");
    // The length in the eleventh row, stored and decoded, so that a block could look like it.
    for at in [20, 24] {
        file.write_all_at(&[1, 2], 64 + 10 * 40 + at)
            .expect("overwrite");
    }
    assert_second_is_lost(
        &bench,
        &bench.open(),
        &attempts,
        "table and directory differ",
    )
    .await;
}

#[tokio::test]
async fn a_damaged_log_record_loses_exactly_its_attempt() {
    for damage in [0, 64 + 5] {
        let bench = Bench::new();
        let volume = bench.open();
        let shape = even(0..PARTITIONS, 100);
        let mut attempts = Vec::new();
        for map in 0..3 {
            write(&bench, &volume, key(1, map, 1), &shape, Durability::Disk).await;
            attempts.push((map, 1, shape.clone()));
        }
        drop(volume);
        let length = 64 + 40 * u64::from(PARTITIONS) + 100 * u64::from(PARTITIONS);
        let file = OpenOptions::new()
            .write(true)
            .open(&bench.files(".log")[0])
            .expect("open");
        file.write_all_at(&[0xff; 7], length + damage)
            .expect("overwrite");
        let volume = bench.open();
        assert_second_is_lost(&bench, &volume, &attempts, "checksum").await;
        // The others leave the log; the file stays as long as a record in it is not whole.
        bench.clock.advance(Duration::from_secs(60));
        eventually("the others are in a run", || {
            volume.stats().settled_runs > 0
        })
        .await;
        assert_second_is_lost(&bench, &volume, &attempts, "checksum").await;
        drop(volume);
        assert_second_is_lost(&bench, &bench.open(), &attempts, "checksum").await;
    }
}

#[tokio::test]
async fn a_truncated_or_missing_log_loses_exactly_what_was_in_it() {
    for missing in [false, true] {
        let bench = Bench::new();
        let volume = bench.open();
        let (small, large) = (even(0..PARTITIONS, 100), even(0..PARTITIONS, 40_000));
        write(&bench, &volume, key(1, 0, 1), &large, Durability::Disk).await;
        write(&bench, &volume, key(1, 1, 1), &small, Durability::Disk).await;
        write(&bench, &volume, key(1, 2, 1), &large, Durability::Disk).await;
        drop(volume);
        let path = &bench.files(".log")[0];
        if missing {
            fs::remove_file(path).expect("remove");
        } else {
            OpenOptions::new()
                .write(true)
                .open(path)
                .expect("open")
                .set_len(3000)
                .expect("truncate");
        }
        let attempts = [(0, 1, large.clone()), (1, 1, small), (2, 1, large)];
        let reason = if missing {
            "cannot be opened"
        } else {
            "the file at 3000"
        };
        assert_second_is_lost(&bench, &bench.open(), &attempts, reason).await;
    }
}

#[tokio::test]
async fn files_that_the_index_does_not_name_are_removed_and_others_left() {
    let mut bench = Bench::new();
    let attempts = three(&mut bench).await;
    let ours = bench.dir.path().join("apps/0.app-1/1/00000000ffff.seg");
    let old_app = bench.dir.path().join("apps/9.old-app/7");
    fs::create_dir_all(&old_app).expect("make");
    for path in [
        ours.clone(),
        old_app.join("000000000001.seg"),
        bench.dir.path().join("log/000000000001.log"),
    ] {
        fs::write(path, b"leftover").expect("write");
    }
    let theirs = bench.dir.path().join("apps/0.app-1/notes.txt");
    fs::write(&theirs, b"mine").expect("write");
    let volume = bench.open();
    assert!(!ours.exists() && !old_app.exists() && theirs.exists());
    assert_eq!(
        (bench.files(".seg").len(), bench.files(".log").len()),
        (3, 0)
    );
    assert_holds(&volume, 1, &attempts).await;
}

#[test]
fn a_directory_in_use_is_refused_by_name() {
    let bench = Bench::new();
    let volume = bench.open();
    let error = bench.try_open().expect_err("in use");
    assert!(
        error.to_string().contains("is in use by another process"),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains(bench.dir.path().to_str().expect("text")),
        "{error}"
    );
    drop(volume);
    bench.try_open().expect("free again");
}

#[test]
fn a_directory_that_is_no_volume_is_refused_and_untouched() {
    let bench = Bench::new();
    fs::write(bench.dir.path().join("thesis.tex"), b"years of work").expect("write");
    let error = bench.try_open().expect_err("not empty").to_string();
    assert!(
        error.contains("thesis.tex") && error.contains("give an empty directory"),
        "{error}"
    );
    assert!(bench.dir.path().join("thesis.tex").exists());
    fs::remove_file(bench.dir.path().join("thesis.tex")).expect("remove");
    fs::write(bench.dir.path().join("volume"), "forebay-volume 9\n").expect("write");
    let error = bench.try_open().expect_err("another version").to_string();
    assert!(
        error.contains("forebay-volume 9") && error.contains("forebay-volume 3"),
        "{error}"
    );
    fs::write(bench.dir.path().join("volume"), "hello").expect("write");
    assert!(
        bench
            .try_open()
            .expect_err("something else")
            .to_string()
            .contains("not what Forebay writes")
    );
}

#[tokio::test]
async fn segments_without_an_index_are_not_taken_for_garbage() {
    let mut bench = Bench::new();
    let attempts = three(&mut bench).await;
    let (index, away) = (
        bench.dir.path().join("index"),
        bench.dir.path().join("index.away"),
    );
    fs::rename(&index, &away).expect("rename");
    let error = bench.try_open().expect_err("no index").to_string();
    assert!(error.contains("there are segments but no index"), "{error}");
    fs::remove_dir_all(&index).expect("remove");
    fs::rename(&away, &index).expect("rename");
    assert_holds(&bench.open(), 1, &attempts).await;
}
