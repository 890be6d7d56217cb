//! Memory: what is freed when it is needed, and that nobody waits for ever.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_attempts_with_little_memory_all_come_through() {
    for level in [Durability::Memory, Durability::Disk] {
        let mut bench = Bench::new();
        bench.budget = Budget::new(1 << 20);
        bench.options.min_extent = 1 << 10;
        let bench = Arc::new(bench);
        let volume = bench.open();
        let mut tasks = tokio::task::JoinSet::new();
        let mut attempts = Vec::new();
        for map in 0..40 {
            let batch = |round: u32| {
                (0..PARTITIONS)
                    .map(|p| (p, 500 + ((p + map + round) % 7) as usize * 300))
                    .collect()
            };
            let shape: Shape = (0..6).map(batch).collect();
            attempts.push((map, 1, shape.clone()));
            let (bench, volume) = (bench.clone(), volume.clone());
            tasks.spawn(async move { write(&bench, &volume, key(1, map, 1), &shape, level).await });
        }
        let all = async {
            while let Some(done) = tasks.join_next().await {
                done.expect("committed");
            }
        };
        tokio::time::timeout(Duration::from_secs(60), all)
            .await
            .expect("nobody waits for ever");
        assert!(volume.stats().pressure_runs > 0, "{:?}", volume.stats());
        assert_holds(&volume, 1, &attempts).await;
        volume.close().await;
        drop(volume);
        let volume = bench.open();
        assert_holds(&volume, 1, &attempts).await;
        volume.delete_app(&app()).expect("delete");
        assert_eq!(bench.budget.used(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stands_still_keeps_no_memory() {
    let mut bench = Bench::new();
    bench.budget = Budget::new(8 << 20);
    let volume = bench.open();
    let shape = even(0..PARTITIONS, 100_000);
    write(&bench, &volume, key(1, 0, 1), &shape, Durability::Memory).await;
    let mut fetch = volume
        .fetch(&app(), ShuffleId(1), 0..PARTITIONS, 0..MAPS, None)
        .expect("fetch");
    drop(fetch.next().await.expect("part"));
    let all = tokio::time::timeout(Duration::from_secs(60), bench.budget.acquire(8 << 20)).await;
    assert_eq!(all.expect("memory is freed").bytes(), 8 << 20);
    assert!(
        fetch
            .next()
            .await
            .expect("the rest is read from disk")
            .is_some()
    );
    assert_holds(&volume, 1, &[(0, 1, shape)]).await;
}

#[tokio::test]
async fn what_went_past_the_page_cache_is_read_from_memory_until_memory_is_needed() {
    let mut bench = Bench::new();
    bench.options.direct_io = DirectIo::On;
    let volume = bench.open();
    let shape = even(0..PARTITIONS, 40_000);
    write(&bench, &volume, key(1, 0, 1), &shape, Durability::Disk).await;
    if volume.stats().direct_runs == 0 {
        // Past the capture of test output. No failure anywhere: it is up to where temporary files are.
        let line = "SKIPPED the file system of the temporary directory has no O_DIRECT\n";
        return drop(std::io::Write::write_all(
            &mut std::io::stderr(),
            line.as_bytes(),
        ));
    }
    assert_holds(&volume, 1, &[(0, 1, shape.clone())]).await;
    let stats = volume.stats();
    assert_eq!(
        (stats.runs, stats.read_disk_bytes, stats.read_memory_bytes),
        (1, 0, 2_000_000)
    );
    let all = bench.budget.acquire(256 << 20).await;
    assert_holds(&volume, 1, &[(0, 1, shape)]).await;
    assert_eq!(
        (volume.stats().evicted_bytes, volume.stats().read_disk_bytes),
        (2_000_000, 2_000_000)
    );
    drop(all);
    assert_eq!(bench.budget.used(), 0);
}

#[tokio::test]
async fn what_went_through_the_page_cache_is_not_kept_in_memory_too() {
    let mut bench = Bench::new();
    bench.options.direct_io = DirectIo::Off;
    let volume = bench.open();
    let shape = even(0..PARTITIONS, 40_000);
    write(&bench, &volume, key(1, 0, 1), &shape, Durability::Disk).await;
    eventually("its memory is free", || bench.budget.used() == 0).await;
    assert_holds(&volume, 1, &[(0, 1, shape)]).await;
    let stats = volume.stats();
    assert_eq!((stats.runs, stats.read_disk_bytes), (1, 2_000_000));
}

#[tokio::test]
async fn a_shuffle_that_is_written_to_on_and_on_is_sorted_whenever_it_fills_a_run() {
    let mut bench = Bench::new();
    bench.options.max_run = 1 << 20;
    let volume = bench.open();
    let shape = even(0..PARTITIONS, 1_000);
    let attempts = PARTITIONS * (64 << 10) / 50_000 + 2;
    for map in 0..attempts {
        write(&bench, &volume, key(1, map, 1), &shape, Durability::Disk).await;
    }
    eventually("a run is written", || volume.stats().settled_runs == 1).await;
    let left = u64::from(attempts) * 50_000;
    eventually("its memory is free", || bench.budget.used() < left / 2).await;
    let expected: Vec<_> = (0..attempts).map(|map| (map, 1, shape.clone())).collect();
    assert_holds(&volume, 1, &expected).await;
}

#[tokio::test]
async fn blocks_of_an_older_stream_that_were_flushed_are_never_served() {
    let mut bench = Bench::new();
    bench.budget = Budget::new(4 << 20);
    let volume = bench.open();
    let mut older = begin(&volume, key(1, 0, 1));
    push(&bench.budget, &mut older, &even(0..PARTITIONS, 40_000))
        .await
        .expect("append");
    drop(bench.budget.acquire(4 << 20).await);
    assert_eq!(
        volume.stats().pressure_runs,
        1,
        "blocks in progress are flushed too"
    );
    let mut newer = begin(&volume, key(1, 0, 1));
    let shape = vec![vec![(0, 10), (1, 20)]];
    let totals = push(&bench.budget, &mut newer, &shape)
        .await
        .expect("append");
    newer
        .commit(totals, Durability::Disk)
        .await
        .expect("commit");
    assert_holds(&volume, 1, &[(0, 1, shape.clone())]).await;
    drop((older, volume));
    let volume = bench.open();
    assert_holds(&volume, 1, &[(0, 1, shape)]).await;
    assert_eq!(
        bench.files(".seg").len(),
        0,
        "a run that nobody committed is removed at the next start"
    );
}

#[tokio::test]
async fn direct_and_buffered_writes_leave_the_same_bytes() {
    let mut written = Vec::new();
    for direct_io in [DirectIo::On, DirectIo::Off, DirectIo::Auto] {
        let mut bench = Bench::new();
        bench.options.direct_io = direct_io;
        bench.budget = Budget::new(64 << 20);
        let volume = bench.open();
        // Two runs, the first longer than the buffer that is gathered into.
        let shape = even(0..PARTITIONS, 123_457);
        write(&bench, &volume, key(1, 0, 1), &shape, Durability::Disk).await;
        write(&bench, &volume, key(1, 1, 1), &shape, Durability::Fsync).await;
        drop(bench.budget.acquire(64 << 20).await);
        assert_holds(&volume, 1, &[(0, 1, shape.clone()), (1, 1, shape.clone())]).await;
        assert!(volume.stats().read_disk_bytes > 0);
        let file = std::fs::read(&bench.files(".seg")[0]).expect("segment");
        // But for the ids of volume and run in the headers and the padding at the end.
        written.push(file[4096..6_000_000].to_vec());
    }
    assert!(written[0] == written[1] && written[1] == written[2]);
}

#[tokio::test]
async fn a_volume_at_its_limit_takes_nothing_new_keeps_what_it_has_and_goes_on_after_a_deletion() {
    let mut bench = Bench::new();
    bench.options.limit = Some(5 << 19);
    let volume = bench.open();
    let shape = even(0..PARTITIONS, 40_000);
    write(&bench, &volume, key(1, 0, 1), &shape, Durability::Disk).await;
    assert!(volume.bytes_free() < 1 << 20, "{}", volume.bytes_free());
    let mut writer = begin(&volume, key(2, 0, 1));
    let totals = push(&bench.budget, &mut writer, &shape)
        .await
        .expect("append");
    let error = writer.commit(totals, Durability::Disk).await.unwrap_err();
    assert!(error.to_string().contains("volume-limit"), "{error}");
    assert!(matches!(volume.health(), Health::Full(_)));
    assert_holds(&volume, 1, &[(0, 1, shape.clone())]).await;
    // What is in progress is not flushed over it either.
    assert!(volume.bytes_used() <= 5 << 19);

    volume.delete_shuffle(&app(), ShuffleId(1)).expect("delete");
    eventually("it has space again", || {
        bench.clock.advance(Duration::from_secs(2));
        volume.health() == Health::Ok
    })
    .await;
    write(&bench, &volume, key(3, 0, 1), &shape, Durability::Disk).await;
    assert_holds(&volume, 3, &[(0, 1, shape)]).await;
}
