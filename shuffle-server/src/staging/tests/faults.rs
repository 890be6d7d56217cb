//! Disks that are full or fail: who is told, what is kept, what comes back.

use std::{
    io,
    sync::atomic::{AtomicBool, AtomicI32, Ordering},
};

use super::*;

/// Fails calls of one kind on files with one ending, while it is switched on.
struct Switch {
    errno: AtomicI32,
    on: AtomicBool,
    operation: Operation,
    ending: &'static str,
}

impl Faults for Switch {
    fn before(&self, operation: Operation, path: &Path) -> io::Result<()> {
        let hit = self.on.load(Ordering::SeqCst)
            && operation == self.operation
            && path.to_string_lossy().ends_with(self.ending);
        if hit {
            Err(io::Error::from_raw_os_error(
                self.errno.load(Ordering::SeqCst),
            ))
        } else {
            Ok(())
        }
    }
}

const ENOSPC: i32 = 28;
const EIO: i32 = 5;

fn switched(operation: Operation, ending: &'static str, errno: i32) -> (Bench, Arc<Switch>) {
    let switch = Arc::new(Switch {
        errno: errno.into(),
        on: AtomicBool::new(false),
        operation,
        ending,
    });
    let mut bench = Bench::new();
    bench.faults = Some(switch.clone());
    (bench, switch)
}

#[tokio::test]
async fn a_full_disk_refuses_by_name_keeps_what_it_has_and_comes_back() {
    for (ending, length) in [(".seg", 40_000), (".log", 100)] {
        let (bench, switch) = switched(Operation::Write, ending, ENOSPC);
        let volume = bench.open();
        let shape = even(0..PARTITIONS, length);
        write(&bench, &volume, key(1, 0, 1), &shape, Durability::Disk).await;
        write(&bench, &volume, key(1, 1, 1), &shape, Durability::Memory).await;
        switch.on.store(true, Ordering::SeqCst);
        let mut writer = begin(&volume, key(1, 2, 1));
        let totals = push(&bench.budget, &mut writer, &shape)
            .await
            .expect("append");
        let error = writer
            .commit(totals, Durability::Disk)
            .await
            .expect_err("full");
        assert_eq!(error.kind(), Kind::Unavailable);
        let text = error.to_string();
        assert!(
            text.contains(ending) && text.contains("os error 28"),
            "{text}"
        );
        assert!(matches!(volume.health(), Health::Full(_)));
        assert_eq!(
            volume
                .open_attempt(key(1, 3, 1), MAPS, PARTITIONS)
                .expect_err("full")
                .kind(),
            Kind::Unavailable
        );
        assert_holds(&volume, 1, &[(0, 1, shape.clone()), (1, 1, shape.clone())]).await;
        switch.on.store(false, Ordering::SeqCst);
        eventually("there is space again", || {
            bench.clock.advance(Duration::from_secs(60));
            volume.health() == Health::Ok
        })
        .await;
        write(&bench, &volume, key(1, 2, 1), &shape, Durability::Disk).await;
        let attempts = [
            (0, 1, shape.clone()),
            (1, 1, shape.clone()),
            (2, 1, shape.clone()),
        ];
        assert_holds(&volume, 1, &attempts).await;
        volume.close().await;
        drop(volume);
        assert_holds(&bench.open(), 1, &attempts).await;
    }
}

#[tokio::test]
async fn a_failing_disk_is_not_trusted_again_but_still_read() {
    for operation in [Operation::Write, Operation::Sync] {
        let (bench, switch) = switched(operation, ".seg", EIO);
        let volume = bench.open();
        let shape = even(0..PARTITIONS, 40_000);
        write(&bench, &volume, key(1, 0, 1), &shape, Durability::Disk).await;
        switch.on.store(true, Ordering::SeqCst);
        let mut writer = begin(&volume, key(1, 1, 1));
        let totals = push(&bench.budget, &mut writer, &shape)
            .await
            .expect("append");
        let error = writer
            .commit(totals, Durability::Fsync)
            .await
            .expect_err("fails");
        assert!(error.to_string().contains("os error 5"), "{error}");
        assert!(matches!(volume.health(), Health::Failed(_)));
        switch.on.store(false, Ordering::SeqCst);
        bench.clock.advance(Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(
            matches!(volume.health(), Health::Failed(_)),
            "until a person looked at it"
        );
        assert_holds(&volume, 1, &[(0, 1, shape.clone())]).await;
        drop(volume);
        let volume = bench.open();
        assert_eq!(volume.health(), Health::Ok);
        assert_holds(&volume, 1, &[(0, 1, shape)]).await;
    }
}

#[tokio::test]
async fn memory_that_cannot_be_flushed_stays_until_it_can() {
    let (mut bench, switch) = switched(Operation::Write, ".seg", ENOSPC);
    bench.budget = Budget::new(4 << 20);
    let volume = bench.open();
    let shape = even(0..PARTITIONS, 40_000);
    write(&bench, &volume, key(1, 0, 1), &shape, Durability::Memory).await;
    switch.on.store(true, Ordering::SeqCst);
    let waiting = tokio::spawn({
        let budget = bench.budget.clone();
        async move { budget.acquire(4 << 20).await }
    });
    eventually("it is full", || matches!(volume.health(), Health::Full(_))).await;
    assert!(!waiting.is_finished());
    assert_holds(&volume, 1, &[(0, 1, shape.clone())]).await;
    switch.on.store(false, Ordering::SeqCst);
    eventually("there is space again", || {
        bench.clock.advance(Duration::from_secs(60));
        waiting.is_finished()
    })
    .await;
    let permit = tokio::time::timeout(Duration::from_secs(60), waiting)
        .await
        .expect("in time")
        .expect("granted");
    assert_eq!(permit.bytes(), 4 << 20);
    assert_holds(&volume, 1, &[(0, 1, shape)]).await;
}

#[tokio::test]
async fn a_read_error_loses_the_attempts_of_that_file_and_no_other() {
    let (bench, switch) = switched(Operation::Read, ".seg", EIO);
    let volume = bench.open();
    write(
        &bench,
        &volume,
        key(1, 0, 1),
        &even(0..PARTITIONS, 40_000),
        Durability::Disk,
    )
    .await;
    let small = even(0..PARTITIONS, 100);
    write(&bench, &volume, key(1, 1, 1), &small, Durability::Disk).await;
    let most = bench.budget.acquire(200 << 20).await;
    eventually("nothing is in memory", || bench.budget.used() == 200 << 20).await;
    drop(most);
    // Under pressure all of it has gone to files; only the first attempt's is to fail.
    let before = read(&volume, 1, 0..PARTITIONS, 1..2).await.expect("fetch");
    assert_eq!(before.blocks.len(), 50);
    switch.on.store(true, Ordering::SeqCst);
    let fetched = read(&volume, 1, 0..PARTITIONS, 0..1).await.expect("fetch");
    let lost: Vec<_> = fetched
        .summary
        .lost
        .iter()
        .map(|lost| lost.map_index.0)
        .collect();
    assert_eq!(lost, [0]);
    assert!(
        fetched.summary.lost[0].reason.contains("os error 5")
            || fetched.summary.lost[0].reason.contains("Input/output")
    );
}

#[tokio::test]
async fn a_commit_log_that_cannot_be_opened_at_one_start_is_read_at_the_next() {
    let (mut bench, switch) = switched(Operation::Open, ".log", EIO);
    let shape = even(0..PARTITIONS, 100);
    let volume = bench.open();
    write(&bench, &volume, key(1, 0, 1), &shape, Durability::Disk).await;
    drop(volume);
    switch.on.store(true, Ordering::SeqCst);
    let volume = bench.open();
    let found = read(&volume, 1, 0..PARTITIONS, 0..MAPS).await;
    let lost = found
        .expect("what is lost is told by the summary")
        .summary
        .lost;
    assert!(lost[0].reason.contains("cannot be opened"), "{lost:?}");
    drop(volume);
    bench.faults = None;
    assert_holds(&bench.open(), 1, &[(0, 1, shape)]).await;
}
