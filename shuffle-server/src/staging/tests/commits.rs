//! Commit: totals, levels, taking over, groups.

use std::{
    pin::pin,
    sync::atomic::{AtomicUsize, Ordering},
};

use futures_util::FutureExt;

use super::{states::Disk, *};

const LEVELS: [Durability; 3] = [Durability::Memory, Durability::Disk, Durability::Fsync];

#[tokio::test]
async fn what_is_committed_at_any_level_is_read_back() {
    for (position, level) in LEVELS.into_iter().enumerate() {
        for length in [100, 40_000] {
            let bench = Bench::new();
            let volume = bench.open();
            let shape = even(0..PARTITIONS, length);
            let receipt = write(&bench, &volume, key(1, 3, 4), &shape, level).await;
            assert_eq!(receipt.bytes, u64::from(PARTITIONS) * length as u64);
            assert_eq!((receipt.durability, receipt.volume), (level, volume.id()));
            assert_holds(&volume, 1, &[(3, 4, shape)]).await;
            let stats = volume.stats();
            let runs = u64::from(position > 0 && length > 30_000);
            let logs = u64::from(position > 0 && length < 30_000);
            assert_eq!(
                (stats.runs, stats.log_bytes.min(1), stats.commits),
                (runs, logs, 1),
                "{level:?} {length}"
            );
            assert_eq!(stats.syncs > 0, level == Durability::Fsync);
        }
    }
}

#[tokio::test]
async fn an_attempt_without_any_block_is_committed_and_covered() {
    for level in LEVELS {
        let bench = Bench::new();
        let volume = bench.open();
        write(&bench, &volume, key(1, 0, 9), &vec![], level).await;
        assert_holds(&volume, 1, &[(0, 9, vec![])]).await;
        if level > Durability::Memory {
            drop(volume);
            assert_holds(&bench.open(), 1, &[(0, 9, vec![])]).await;
        }
    }
}

/// Nothing is left of a shuffle, not even its name.
async fn assert_unknown(volume: &Volume, shuffle: u32) {
    let fetched = read(volume, shuffle, 0..PARTITIONS, 0..u32::MAX).await;
    assert_eq!(fetched.expect_err("it is unknown").kind(), Kind::Lost);
}

#[tokio::test]
async fn totals_that_differ_from_what_is_held_commit_nothing() {
    let bench = Bench::new();
    let volume = bench.open();
    let mut writer = begin(&volume, key(1, 0, 1));
    let mut totals = push(&bench.budget, &mut writer, &even(0..3, 10))
        .await
        .expect("append");
    totals[1].bytes += 1;
    let error = writer
        .commit(totals, Durability::Disk)
        .await
        .expect_err("refused");
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(
        error
            .to_string()
            .contains("partition 1: the commit says 1 blocks, 11 bytes"),
        "{error}"
    );
    assert_unknown(&volume, 1).await;
    assert_eq!(bench.budget.used(), 0);
}

#[tokio::test]
async fn an_attempt_that_ends_without_a_commit_leaves_nothing() {
    let bench = Bench::new();
    let volume = bench.open();
    let mut writer = begin(&volume, key(1, 0, 1));
    push(&bench.budget, &mut writer, &even(0..3, 1000))
        .await
        .expect("append");
    assert_eq!(bench.budget.used(), 3000);
    drop(writer);
    assert_eq!((bench.budget.used(), volume.stats().aborts), (0, 1));
    assert_unknown(&volume, 1).await;
}

#[tokio::test]
async fn a_newer_stream_takes_over_and_the_older_is_told() {
    let bench = Bench::new();
    let volume = bench.open();
    let mut older = begin(&volume, key(1, 0, 1));
    let totals = push(&bench.budget, &mut older, &even(0..3, 10))
        .await
        .expect("append");
    let mut newer = begin(&volume, key(1, 0, 1));
    let error = push(&bench.budget, &mut older, &even(0..3, 10))
        .await
        .expect_err("fenced");
    assert_eq!(error.kind(), Kind::Fenced);
    assert_eq!(
        older
            .commit(totals, Durability::Disk)
            .await
            .expect_err("fenced")
            .kind(),
        Kind::Fenced
    );
    let shape = even(1..2, 77);
    let totals = push(&bench.budget, &mut newer, &shape)
        .await
        .expect("append");
    newer
        .commit(totals, Durability::Disk)
        .await
        .expect("commit");
    assert_holds(&volume, 1, &[(0, 1, shape)]).await;
}

#[tokio::test]
async fn second_commit_of_an_attempt_answers_as_the_first() {
    for level in LEVELS {
        let bench = Bench::new();
        let volume = bench.open();
        let shape = even(0..3, 10);
        let mut writer = begin(&volume, key(1, 0, 1));
        let totals = push(&bench.budget, &mut writer, &shape)
            .await
            .expect("append");
        let first = writer.commit(totals.clone(), level).await.expect("commit");
        let again = match volume
            .open_attempt(key(1, 0, 1), MAPS, PARTITIONS)
            .expect("open")
        {
            Opened::Committed(receipt) => receipt,
            Opened::New(_) => panic!("forgotten"),
        };
        assert_eq!(again, first);
        assert_eq!(volume.committed(&key(1, 0, 1)), Some(first));
        assert_eq!(
            volume
                .confirm(&key(1, 0, 1), &totals, level)
                .await
                .expect("confirm"),
            first
        );
        let error = volume
            .confirm(&key(1, 0, 1), &totals[1..], level)
            .await
            .expect_err("differs");
        assert_eq!(error.kind(), Kind::Invalid);
    }
}

#[tokio::test]
async fn a_repeated_commit_that_asks_for_more_gets_more() {
    let bench = Bench::new();
    let volume = bench.open();
    let shape = even(0..3, 1000);
    let mut writer = begin(&volume, key(1, 0, 1));
    let totals = push(&bench.budget, &mut writer, &shape)
        .await
        .expect("append");
    writer
        .commit(totals.clone(), Durability::Memory)
        .await
        .expect("commit");
    for level in [Durability::Disk, Durability::Fsync] {
        let receipt = volume
            .confirm(&key(1, 0, 1), &totals, level)
            .await
            .expect("raised");
        assert_eq!(receipt.durability, level);
    }
    let usage = volume.usage(&app(), None);
    assert_eq!(
        (usage.attempts, usage.memory, usage.disk, usage.fsync),
        (1, 0, 0, 3000)
    );
    drop(volume);
    let volume = bench.open();
    assert_holds(&volume, 1, &[(0, 1, shape)]).await;
    assert_eq!(volume.usage(&app(), Some(ShuffleId(1))).fsync, 3000);
}

#[tokio::test]
async fn calls_that_contradict_the_shuffle_are_refused_by_name() {
    let bench = Bench::new();
    let volume = bench.open();
    write(
        &bench,
        &volume,
        key(1, 0, 1),
        &even(0..1, 10),
        Durability::Memory,
    )
    .await;
    let kind = |answer: Result<Opened, Error>| answer.expect_err("refused").kind();
    assert_eq!(
        kind(volume.open_attempt(key(1, 0, 2), MAPS + 1, PARTITIONS)),
        Kind::Invalid
    );
    assert_eq!(
        kind(volume.open_attempt(key(1, MAPS, 2), MAPS, PARTITIONS)),
        Kind::Invalid
    );
    let other = AttemptKey {
        app: AppId::try_new("other").expect("valid"),
        ..key(1, 0, 2)
    };
    assert_eq!(
        kind(volume.open_attempt(other, MAPS, PARTITIONS)),
        Kind::Fenced
    );
    let error = volume
        .fetch(&app(), ShuffleId(1), 0..PARTITIONS + 1, 0..1, None)
        .expect_err("refused");
    assert_eq!(error.kind(), Kind::Invalid);
    let mut writer = begin(&volume, key(1, 0, 2));
    let wrong_seq = vec![header(0, 0, 2, 1, b"abc")];
    assert_eq!(
        writer
            .append(wrong_seq, Bytes::from_static(b"abc"))
            .expect_err("refused")
            .kind(),
        Kind::Invalid
    );
    let wrong_length = vec![header(0, 0, 2, 0, b"abc")];
    assert_eq!(
        writer
            .append(wrong_length, Bytes::from_static(b"abcd"))
            .expect_err("refused")
            .kind(),
        Kind::Invalid
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_that_wait_together_are_written_together() {
    let (bench, disk) = Disk::bench(Operation::Write);
    let bench = Arc::new(bench);
    let volume = bench.open();
    let mut tasks = tokio::task::JoinSet::new();
    let mut attempts = Vec::new();
    let asked = Arc::new(AtomicUsize::new(0));
    disk.hangs.store(true, Ordering::SeqCst);
    for map in 0..200 {
        let shape = even(0..PARTITIONS, 50 + map as usize);
        attempts.push((map, 1, shape.clone()));
        let (bench, volume, asked) = (bench.clone(), volume.clone(), asked.clone());
        tasks.spawn(async move {
            let mut writer = begin(&volume, key(1, map, 1));
            let totals = push(&bench.budget, &mut writer, &shape).await;
            let mut commit = pin!(writer.commit(totals.expect("append"), Durability::Fsync));
            let first = commit.as_mut().now_or_never();
            asked.fetch_add(1, Ordering::SeqCst);
            match first {
                Some(answer) => answer.expect("commit"),
                None => commit.await.expect("commit"),
            }
        });
    }
    eventually("all are asked for", || asked.load(Ordering::SeqCst) == 200).await;
    disk.hangs.store(false, Ordering::SeqCst);
    while let Some(done) = tasks.join_next().await {
        done.expect("committed");
    }
    let stats = volume.stats();
    assert_eq!(stats.commits, 200);
    // One or a few that the disk was at, and all the others.
    assert!(stats.commit_groups <= 20, "{stats:?}");
    assert_holds(&volume, 1, &attempts).await;
    drop(volume);
    assert_holds(&bench.open(), 1, &attempts).await;
}

#[tokio::test]
async fn a_shuffle_that_goes_quiet_is_sorted_into_a_run_and_its_log_goes() {
    let bench = Bench::new();
    let volume = bench.open();
    let mut attempts = Vec::new();
    for map in 0..5 {
        let shape = even(0..PARTITIONS, 100);
        write(&bench, &volume, key(1, map, 1), &shape, Durability::Disk).await;
        attempts.push((map, 1, shape));
    }
    assert_eq!(
        (bench.files(".log").len(), bench.files(".seg").len()),
        (1, 0)
    );
    bench.clock.advance(Duration::from_secs(60));
    eventually("the log is gone", || bench.files(".log").is_empty()).await;
    assert_eq!(
        (volume.stats().settled_runs, bench.files(".seg").len()),
        (1, 1)
    );
    assert_holds(&volume, 1, &attempts).await;
    drop(volume);
    let volume = bench.open();
    assert_holds(&volume, 1, &attempts).await;
    assert!(volume.bytes_used() > 0);
}

#[tokio::test]
async fn what_is_deleted_is_refused_and_its_files_are_gone() {
    let bench = Bench::new();
    let volume = bench.open();
    let large = even(0..PARTITIONS, 40_000);
    write(&bench, &volume, key(1, 0, 1), &large, Durability::Disk).await;
    write(
        &bench,
        &volume,
        key(1, 1, 2),
        &even(0..PARTITIONS, 10),
        Durability::Disk,
    )
    .await;
    write(&bench, &volume, key(2, 0, 3), &large, Durability::Disk).await;
    let mut writer = begin(&volume, key(1, 2, 4));
    push(&bench.budget, &mut writer, &even(0..3, 10))
        .await
        .expect("append");
    let mut fetch = volume
        .fetch(&app(), ShuffleId(1), 0..PARTITIONS, 0..MAPS, None)
        .expect("fetch");
    assert!(fetch.next().await.expect("first part").is_some());

    assert!(volume.delete_shuffle(&app(), ShuffleId(1)).expect("delete") > 2_000_000);
    assert_eq!(
        volume
            .delete_shuffle(&app(), ShuffleId(1))
            .expect("delete again"),
        0
    );
    assert_eq!(fetch.next().await.expect_err("deleted").kind(), Kind::Lost);
    let error = push(&bench.budget, &mut writer, &even(0..3, 10))
        .await
        .expect_err("deleted");
    assert_eq!(error.kind(), Kind::Fenced);
    assert_eq!(
        writer
            .commit(vec![], Durability::Memory)
            .await
            .expect_err("differs")
            .kind(),
        Kind::Invalid
    );
    assert_eq!(
        volume
            .open_attempt(key(1, 5, 5), MAPS, PARTITIONS)
            .expect_err("deleted")
            .kind(),
        Kind::Fenced
    );
    eventually("its segments are gone", || bench.files(".seg").len() == 1).await;
    eventually("the log is gone", || bench.files(".log").is_empty()).await;
    assert_holds(&volume, 2, &[(0, 3, large.clone())]).await;
    drop(volume);

    let volume = bench.open();
    assert_eq!(
        read(&volume, 1, 0..1, 0..1)
            .await
            .expect_err("tombstone")
            .kind(),
        Kind::Lost
    );
    assert_eq!(
        volume
            .open_attempt(key(1, 5, 5), MAPS, PARTITIONS)
            .expect_err("tombstone")
            .kind(),
        Kind::Fenced
    );
    assert_holds(&volume, 2, &[(0, 3, large)]).await;
    assert!(volume.delete_app(&app()).expect("delete app") > 0);
    assert_eq!(volume.delete_app(&app()).expect("delete app"), 0);
    assert_eq!((volume.apps().len(), bench.budget.used()), (0, 0));
    eventually("nothing counts as used", || volume.bytes_used() == 0).await;
    assert_eq!(
        read(&volume, 2, 0..1, 0..1).await.expect_err("gone").kind(),
        Kind::Lost
    );
    volume.put_app(&record(&app())).expect("the app comes back");
    assert!(
        matches!(
            volume.open_attempt(key(1, 5, 5), MAPS, PARTITIONS),
            Ok(Opened::New(_))
        ),
        "without its tombstones"
    );
}
