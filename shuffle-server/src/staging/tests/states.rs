//! What is concluded of a disk that refuses, hangs, or goes: its state, who is told, and what goes on.

use std::{
    io,
    sync::atomic::{AtomicBool, AtomicI32, Ordering},
};

use tokio::task::JoinHandle;

use super::*;

const EIO: i32 = 5;
const ENODEV: i32 = 19;
const ENOSPC: i32 = 28;
const EROFS: i32 = 30;
/// Much longer than what a busy machine needs, and not for ever.
const IN_TIME: Duration = Duration::from_secs(60);

/// Calls of one kind fail, or do not come back, for as long as it is told so.
pub(super) struct Disk {
    operation: Operation,
    errno: AtomicI32,
    pub(super) hangs: AtomicBool,
    /// Whether a call does not come back since it hangs.
    holds: AtomicBool,
}

/// Lets its calls go at the end of a test, however it ends: threads that wait would keep it.
pub(super) struct Told(Arc<Disk>);

impl std::ops::Deref for Told {
    type Target = Disk;

    fn deref(&self) -> &Disk {
        &self.0
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.hangs.store(false, Ordering::SeqCst);
    }
}

impl Disk {
    /// From now on no call of the kind comes back, and the volume of this disk is in haste.
    pub(super) fn hang(&self, volume: &Volume) {
        self.hangs.store(true, Ordering::SeqCst);
        in_haste(volume, true);
    }

    /// They come back, and the volume is as patient as before.
    pub(super) fn go_on(&self, volume: &Volume) {
        in_haste(volume, false);
        self.hangs.store(false, Ordering::SeqCst);
    }

    pub(super) fn bench(operation: Operation) -> (Bench, Told) {
        let disk = Arc::new(Self {
            operation,
            errno: AtomicI32::new(0),
            hangs: AtomicBool::new(false),
            holds: AtomicBool::new(false),
        });
        let mut bench = Bench::new();
        bench.faults = Some(disk.clone());
        bench.options.probe = Duration::from_millis(50);
        (bench, Told(disk))
    }
}

impl Faults for Disk {
    fn before(&self, operation: Operation, _: &Path) -> io::Result<()> {
        if operation != self.operation {
            return Ok(());
        }
        while self.hangs.load(Ordering::SeqCst) {
            self.holds.store(true, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(5));
        }
        match self.errno.load(Ordering::SeqCst) {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

/// Has the disk hang, and commits attempts of three maps: the first is being written, the others
/// with it or in the queue behind it.
async fn commits_that_hang(
    bench: &Bench,
    disk: &Disk,
    volume: &Volume,
    shape: &Shape,
) -> Vec<JoinHandle<Result<Receipt, Error>>> {
    let mut pushed = Vec::new();
    for map in 0..3 {
        let mut writer = begin(volume, key(1, map, 1));
        let totals = push(&bench.budget, &mut writer, shape)
            .await
            .expect("append");
        pushed.push((writer, totals));
    }
    disk.hang(volume);
    let mut commits = Vec::new();
    for (writer, totals) in pushed {
        commits.push(tokio::spawn(writer.commit(totals, Durability::Disk)));
        eventually("the disk holds the first", || {
            disk.holds.load(Ordering::SeqCst)
        })
        .await;
    }
    commits
}

/// Pushes an attempt that must be refused.
async fn refused(bench: &Bench, volume: &Volume, key: AttemptKey) -> Error {
    let mut writer = begin(volume, key);
    let totals = push(&bench.budget, &mut writer, &even(0..PARTITIONS, 40_000))
        .await
        .expect("append");
    let commit = writer.commit(totals, Durability::Fsync);
    let answer = tokio::time::timeout(IN_TIME, commit).await;
    answer.expect("in time").expect_err("the disk has trouble")
}

#[tokio::test]
async fn each_trouble_has_its_word_and_a_remedy() {
    let cases = [
        (Operation::Write, ENOSPC, "full", "free some"),
        (Operation::Write, EROFS, "read-only", "mount it writable"),
        (Operation::Write, EIO, "failed", "kernel's log"),
        (Operation::Write, ENODEV, "removed", "bring the directory"),
        (Operation::Sync, EIO, "failed", "kernel's log"),
        // What could not be synced is gone, and no later sync says so.
        (Operation::Sync, ENOSPC, "failed", "kernel's log"),
        (Operation::Index, EIO, "failed", "kernel's log"),
    ];
    for (operation, errno, word, remedy) in cases {
        let (bench, disk) = Disk::bench(operation);
        let volume = bench.open();
        let shape = even(0..PARTITIONS, 40_000);
        write(&bench, &volume, key(1, 0, 1), &shape, Durability::Disk).await;
        disk.errno.store(errno, Ordering::SeqCst);
        let error = refused(&bench, &volume, key(1, 1, 1)).await;
        assert_eq!(error.kind(), Kind::Unavailable, "{error}");
        let health = volume.health();
        assert_eq!(health.state(), word, "{operation:?} {errno}: {health:?}");
        let reason = health.reason().expect("not well");
        assert!(reason.contains(remedy), "{reason}");
        disk.errno.store(0, Ordering::SeqCst);
        assert_holds(&volume, 1, &[(0, 1, shape)]).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        if word != "full" {
            assert_eq!(volume.health().state(), word, "until a person looked at it");
        }
    }
}

#[tokio::test]
async fn a_worse_state_stays_when_a_better_one_is_found() {
    let (bench, disk) = Disk::bench(Operation::Write);
    let volume = bench.open();
    for (errno, word) in [(EROFS, "read-only"), (ENODEV, "removed"), (EIO, "removed")] {
        disk.errno.store(errno, Ordering::SeqCst);
        volume.0.shared.note(&Error::io(
            "write",
            "somewhere",
            io::Error::from_raw_os_error(errno),
        ));
        assert_eq!(volume.health().state(), word);
    }
}

#[tokio::test]
async fn a_directory_that_goes_is_removed_and_not_written_to_elsewhere() {
    let (bench, _) = Disk::bench(Operation::Write);
    let volume = bench.open();
    let shape = even(0..PARTITIONS, 40_000);
    write(&bench, &volume, key(1, 0, 1), &shape, Durability::Disk).await;
    let (path, elsewhere) = (
        bench.dir.path().to_owned(),
        bench.dir.path().with_extension("gone"),
    );
    std::fs::rename(&path, &elsewhere).expect("rename");
    // As a mount point has a directory below it.
    std::fs::create_dir(&path).expect("another directory");
    eventually("it is removed", || volume.health().state() == "removed").await;
    let refused = volume.open_attempt(key(1, 1, 1), MAPS, PARTITIONS);
    assert_eq!(refused.expect_err("removed").kind(), Kind::Unavailable);
    drop(volume);
    let left: Vec<_> = std::fs::read_dir(&path).expect("list").collect();
    assert!(left.is_empty(), "{left:?}");
    std::fs::remove_dir(&path).expect("remove");
    std::fs::rename(&elsewhere, &path).expect("rename");
    assert_holds(&bench.open(), 1, &[(0, 1, shape)]).await;
}

#[tokio::test]
async fn a_disk_that_hangs_is_slow_refuses_in_time_and_comes_back_by_itself() {
    for operation in [Operation::Write, Operation::Sync, Operation::Index] {
        let (bench, disk) = Disk::bench(operation);
        let volume = bench.open();
        let shape = even(0..PARTITIONS, 40_000);
        write(&bench, &volume, key(1, 0, 1), &shape, Durability::Disk).await;
        let mut begun = begin(&volume, key(1, 2, 1));
        disk.hang(&volume);
        let error = refused(&bench, &volume, key(1, 1, 1)).await;
        assert_eq!(error.kind(), Kind::Unavailable, "{error}");
        assert!(error.to_string().contains("volume-slow-after"), "{error}");
        assert_eq!(volume.health().state(), "slow");
        let error = push(&bench.budget, &mut begun, &shape)
            .await
            .expect_err("nothing more is sent there");
        assert_eq!(error.kind(), Kind::Unavailable);
        let error = volume.open_attempt(key(1, 3, 1), MAPS, PARTITIONS);
        assert_eq!(error.expect_err("slow").kind(), Kind::Unavailable);
        // What is read does not wait for what is written.
        in_haste(&volume, false);
        assert_holds(&volume, 1, &[(0, 1, shape.clone())]).await;
        disk.go_on(&volume);
        eventually("it is quick again", || volume.health() == Health::Ok).await;
        write(&bench, &volume, key(1, 2, 2), &shape, Durability::Disk).await;
        // The commit that was not waited for went on: whole, like any other.
        eventually("it is through", || {
            volume.committed(&key(1, 1, 1)).is_some()
        })
        .await;
        let all = [(0, 1, shape.clone()), (1, 1, shape.clone()), (2, 2, shape)];
        assert_holds(&volume, 1, &all).await;
    }
}

#[tokio::test]
async fn memory_of_a_disk_that_hangs_is_given_to_others() {
    let (mut bench, disk) = Disk::bench(Operation::Write);
    bench.budget = Budget::new(8 << 20);
    let volume = bench.open();
    let shape = even(0..PARTITIONS, 40_000);
    for commit in commits_that_hang(&bench, &disk, &volume, &shape).await {
        let answer = tokio::time::timeout(IN_TIME, commit).await;
        let answer = answer.expect("in time").expect("no panic");
        assert_eq!(answer.expect_err("slow").kind(), Kind::Unavailable);
    }
    eventually("only what is being written holds memory", || {
        bench.budget.used() < 3 << 20
    })
    .await;
}

#[tokio::test]
async fn a_fetch_from_a_disk_that_hangs_brings_what_memory_has_and_tells_the_rest() {
    let (bench, disk) = Disk::bench(Operation::Read);
    let volume = bench.open();
    let shape = even(0..PARTITIONS, 40_000);
    write(&bench, &volume, key(1, 0, 1), &shape, Durability::Disk).await;
    let most = bench.budget.acquire(200 << 20).await;
    eventually("nothing is in memory", || bench.budget.used() == 200 << 20).await;
    drop(most);
    write(&bench, &volume, key(1, 1, 1), &shape, Durability::Memory).await;
    disk.hang(&volume);
    let mut fetch = volume
        .fetch(&app(), ShuffleId(1), 0..PARTITIONS, 0..MAPS, None)
        .expect("fetch");
    let (mut fetched, mut last) = (Fetched::default(), BTreeMap::new());
    let mut cursors = Vec::new();
    let reading = async {
        while let Some(part) = fetch.next().await.expect("the rest is served") {
            cursors.push(part.cursor);
            take(&part, &mut fetched, &mut last);
        }
    };
    let in_time = tokio::time::timeout(IN_TIME, reading).await;
    in_time.expect("in time");
    assert_same(&fetched.blocks, &expected(1, 1, &shape, 0..PARTITIONS));
    let unanswered = fetch.unanswered().expect("the disk did not answer");
    assert_eq!(unanswered.error.kind(), Kind::Unavailable);
    let attempts: Vec<_> = unanswered.attempts.iter().map(|owner| owner.0.0).collect();
    assert_eq!(attempts, [0]);
    assert_eq!(fetch.summary().lost.len(), 1);
    disk.go_on(&volume);
    eventually("it is quick again", || volume.health() == Health::Ok).await;
    // Nothing is lost, and who goes on from where it was gets what was left out.
    for cursor in [None, cursors.last().copied()] {
        let fetch = volume.fetch(&app(), ShuffleId(1), 0..PARTITIONS, 0..MAPS, cursor);
        let again = drain(fetch.expect("fetch")).await.expect("fetch");
        assert_eq!(again.summary.lost, []);
        let first = expected(0, 1, &shape, 0..PARTITIONS);
        assert!(first.keys().all(|block| again.blocks.contains_key(block)));
    }
}

#[tokio::test]
async fn a_deletion_on_a_disk_that_hangs_is_told_in_time_and_done_later() {
    let (bench, disk) = Disk::bench(Operation::Index);
    let volume = bench.open();
    let shape = even(0..PARTITIONS, 40_000);
    write(&bench, &volume, key(1, 0, 1), &shape, Durability::Disk).await;
    disk.hang(&volume);
    for _ in 0..40 {
        let call = volume.start(|volume| volume.delete_shuffle(&app(), ShuffleId(1)));
        let waiting = tokio::task::spawn_blocking(move || call.wait());
        let answer = tokio::time::timeout(IN_TIME, waiting).await;
        let answer = answer.expect("in time").expect("no panic");
        assert_eq!(answer.expect_err("slow").kind(), Kind::Unavailable);
    }
    assert_eq!(volume.health().state(), "slow");
    disk.go_on(&volume);
    eventually("it is quick again", || volume.health() == Health::Ok).await;
    eventually("its files are gone", || bench.files(".seg").is_empty()).await;
    let lost = read(&volume, 1, 0..PARTITIONS, 0..MAPS).await;
    assert_eq!(lost.expect_err("deleted").kind(), Kind::Lost);
}

#[tokio::test]
async fn a_sync_that_finds_its_shuffle_deleted_says_nothing_of_the_disk() {
    let (bench, disk) = Disk::bench(Operation::Sync);
    let volume = bench.open();
    disk.hangs.store(true, Ordering::SeqCst);
    let mut writer = begin(&volume, key(1, 0, 1));
    let totals = push(&bench.budget, &mut writer, &even(0..PARTITIONS, 40_000))
        .await
        .expect("append");
    let commit = tokio::spawn(writer.commit(totals, Durability::Fsync));
    eventually("its run is written", || !bench.files(".seg").is_empty()).await;
    let deleting = volume.clone();
    tokio::task::spawn_blocking(move || deleting.delete_shuffle(&app(), ShuffleId(1)))
        .await
        .expect("no panic")
        .expect("deleted");
    disk.hangs.store(false, Ordering::SeqCst);
    let answer = commit.await.expect("no panic");
    assert_eq!(answer.expect_err("deleted").kind(), Kind::Fenced);
    assert_eq!(volume.health(), Health::Ok);
}

#[tokio::test]
async fn closing_does_not_wait_for_a_disk_that_hangs() {
    let (bench, disk) = Disk::bench(Operation::Write);
    let volume = bench.open();
    let shape = even(0..PARTITIONS, 40_000);
    write(&bench, &volume, key(1, 0, 1), &shape, Durability::Memory).await;
    disk.hang(&volume);
    let closed = tokio::time::timeout(IN_TIME, volume.close()).await;
    closed.expect("in time");
    let dropped = tokio::task::spawn_blocking(move || drop(volume));
    let dropped = tokio::time::timeout(IN_TIME, dropped).await;
    dropped.expect("in time").expect("no panic");
}

#[tokio::test]
async fn an_attempt_whose_commit_was_refused_begins_again_and_does_not_stay() {
    let (bench, disk) = Disk::bench(Operation::Write);
    let volume = bench.open();
    let shape = even(0..PARTITIONS, 40_000);
    for commit in commits_that_hang(&bench, &disk, &volume, &shape).await {
        let answer = tokio::time::timeout(IN_TIME, commit).await;
        let answer = answer.expect("in time").expect("no panic");
        assert_eq!(answer.expect_err("slow").kind(), Kind::Unavailable);
    }
    disk.go_on(&volume);
    eventually("it is quick again", || volume.health() == Health::Ok).await;
    // What was being written is there; what was in the queue comes again as the same attempts.
    eventually("nothing is in progress", || volume.unwritten()[0].open == 0).await;
    assert!(volume.committed(&key(1, 0, 1)).is_some());
    for map in 1..3 {
        if volume.committed(&key(1, map, 1)).is_none() {
            write(&bench, &volume, key(1, map, 1), &shape, Durability::Disk).await;
        }
    }
    let all = [0, 1, 2].map(|map| (map, 1, shape.clone()));
    assert_holds(&volume, 1, &all).await;
    let unwritten = volume.unwritten();
    assert_eq!(
        (unwritten.len(), unwritten[0].open),
        (1, 0),
        "{unwritten:?}"
    );
}

#[tokio::test]
async fn refused_commits_that_never_come_back_hold_up_neither_write_back_nor_reclaim() {
    let (bench, disk) = Disk::bench(Operation::Write);
    let volume = bench.open();
    let shape = even(0..PARTITIONS, 40_000);
    let mut commits = commits_that_hang(&bench, &disk, &volume, &shape).await;
    let last = commits.pop().expect("three");
    last.await.expect("no panic").expect_err("slow");
    disk.go_on(&volume);
    eventually("nothing is in progress", || volume.unwritten()[0].open == 0).await;
}

#[tokio::test]
async fn out_of_files_takes_no_new_attempts_while_it_lasts() {
    const EMFILE: i32 = 24;
    let (bench, disk) = Disk::bench(Operation::Open);
    let volume = bench.open();
    disk.errno.store(EMFILE, Ordering::SeqCst);
    let error = refused(&bench, &volume, key(1, 0, 1)).await;
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    let error = volume.open_attempt(key(1, 1, 1), MAPS, PARTITIONS);
    let error = error
        .expect_err("it would be taken and not be kept")
        .to_string();
    assert!(error.contains("LimitNOFILE"), "{error}");
    disk.errno.store(0, Ordering::SeqCst);
    eventually("there are files again", || {
        bench.clock.advance(Duration::from_secs(1));
        volume.health() == Health::Ok
    })
    .await;
    let shape = even(0..PARTITIONS, 40_000);
    write(&bench, &volume, key(1, 0, 1), &shape, Durability::Fsync).await;
    assert_holds(&volume, 1, &[(0, 1, shape)]).await;
}
