//! Memory and space that are given back where nothing can be written: on full, broken and slow volumes, and of attempts that ended.

use std::{
    io,
    os::unix::fs::MetadataExt,
    sync::atomic::{AtomicBool, AtomicI32, Ordering},
};

use super::*;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// Writes fail, or do not come back.
#[derive(Default)]
struct Writes {
    errno: AtomicI32,
    hang: AtomicBool,
}

impl Faults for Writes {
    fn before(&self, operation: Operation, _: &Path) -> io::Result<()> {
        if operation != Operation::Write {
            return Ok(());
        }
        while self.hang.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        match self.errno.load(Ordering::SeqCst) {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

fn bench(memory: u64) -> (Bench, Arc<Writes>) {
    let writes = Arc::new(Writes::default());
    let mut bench = Bench::new();
    bench.faults = Some(writes.clone());
    bench.budget = Budget::new(memory);
    bench.options.probe = Duration::from_millis(50);
    (bench, writes)
}

#[tokio::test]
async fn memory_that_a_commit_log_has_comes_back_without_a_write() {
    let shape = even(0..PARTITIONS, 20_000); // a MB, for the log
    let all: Vec<_> = (0..11).map(|map| (map, 1, shape.clone())).collect();
    for (what, errno, state) in [
        ("full", ENOSPC, "full"),
        ("broken", EIO, "failed"),
        ("slow", 0, "slow"),
    ] {
        let (mut bench, writes) = bench(16 << 20);
        let volume = bench.open();
        for (map, attempt, shape) in &all {
            let key = key(1, *map, *attempt);
            write(&bench, &volume, key, shape, Durability::Disk).await;
        }
        let runs = volume.stats().runs;
        assert!(
            bench.budget.used() > 10 << 20,
            "{what}: {}",
            bench.budget.used()
        );
        writes.errno.store(errno, Ordering::SeqCst);
        writes.hang.store(errno == 0, Ordering::SeqCst);
        in_haste(&volume, errno == 0);
        // Somebody finds out, and gives up.
        let told = async {
            let Opened::New(mut writer) = volume.open_attempt(key(2, 0, 1), MAPS, PARTITIONS)?
            else {
                panic!("it was never committed");
            };
            let totals = push(&bench.budget, &mut writer, &shape).await?;
            writer.commit(totals, Durability::Disk).await
        };
        assert_eq!(told.await.expect_err(what).kind(), Kind::Unavailable);
        eventually(state, || volume.health().state() == state).await;
        // What others want they get.
        let most = tokio::time::timeout(Duration::from_secs(60), bench.budget.acquire(12 << 20));
        let most = most
            .await
            .unwrap_or_else(|_| panic!("{what}: memory does not come back"));
        assert_eq!(volume.stats().runs, runs, "{what}: nothing was written");
        // And what was there is there.
        in_haste(&volume, false);
        assert_holds(&volume, 1, &all).await;
        drop(most);
        writes.errno.store(0, Ordering::SeqCst);
        writes.hang.store(false, Ordering::SeqCst);
        if state != "failed" {
            eventually("it is well again", || {
                bench.clock.advance(Duration::from_secs(1));
                volume.health() == Health::Ok
            })
            .await;
            // The log is sorted into runs as ever.
            eventually("the log is settled", || {
                bench.clock.advance(Duration::from_secs(10));
                bench.files(".log").is_empty()
            })
            .await;
            assert_holds(&volume, 1, &all).await;
        }
        drop(volume);
        bench.faults = None;
        assert_holds(&bench.open(), 1, &all).await;
    }
}

#[tokio::test]
async fn what_the_log_of_a_broken_disk_has_not_stays_in_memory() {
    let shape = even(0..PARTITIONS, 20_000);
    let (bench, writes) = bench(16 << 20);
    let volume = bench.open();
    for map in 0..10 {
        write(&bench, &volume, key(1, map, 1), &shape, Durability::Disk).await;
    }
    let log = &bench.files(".log")[0];
    std::fs::OpenOptions::new()
        .write(true)
        .open(log)
        .and_then(|file| file.set_len(4096))
        .expect("truncate");
    writes.errno.store(EIO, Ordering::SeqCst);
    let mut writer = begin(&volume, key(2, 0, 1));
    let totals = push(&bench.budget, &mut writer, &shape)
        .await
        .expect("append");
    writer
        .commit(totals, Durability::Disk)
        .await
        .expect_err("EIO");
    let more = tokio::time::timeout(Duration::from_secs(1), bench.budget.acquire(12 << 20));
    assert!(more.await.is_err(), "only memory has it");
    let all: Vec<_> = (0..10).map(|map| (map, 1, shape.clone())).collect();
    assert_holds(&volume, 1, &all).await;
}

#[tokio::test]
async fn a_push_that_waits_for_memory_is_told_when_its_volume_has_been_full_for_a_while() {
    let (bench, writes) = bench(64 << 20);
    let volume = bench.open();
    volume.check_waits().expect("it is well");
    writes.errno.store(ENOSPC, Ordering::SeqCst);
    let mut writer = begin(&volume, key(1, 0, 1));
    let totals = push(&bench.budget, &mut writer, &even(0..3, 10))
        .await
        .expect("append");
    writer
        .commit(totals, Durability::Disk)
        .await
        .expect_err("full");
    eventually("it is told", || volume.check_waits().is_err()).await;
    volume.check_answers().expect("reclaiming goes on");
    let error = volume.check_waits().expect_err("full");
    assert_eq!(error.kind(), Kind::Unavailable);
    writes.errno.store(0, Ordering::SeqCst);
    eventually("there is space", || {
        bench.clock.advance(Duration::from_secs(1));
        volume.check_waits().is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_volume_that_was_full_takes_attempts_when_what_did_not_fit_would_fit_twice() {
    let mut bench = Bench::new();
    bench.options.limit = Some(16 << 20);
    bench.options.probe = Duration::from_millis(50);
    let volume = bench.open();
    let part = even(0..PARTITIONS, 40_000); // 2 MB
    for map in 0..7 {
        write(&bench, &volume, key(map, map, 1), &part, Durability::Disk).await;
    }
    let mut writer = begin(&volume, key(9, 0, 1));
    let two = vec![part[0].clone(), part[0].clone()];
    let totals = push(&bench.budget, &mut writer, &two)
        .await
        .expect("append");
    let refused = writer.commit(totals, Durability::Disk).await;
    refused.expect_err("4 MB do not fit beside 14 of 16.7");
    assert_eq!(volume.health().state(), "full");
    let looks = |times: u32| {
        let (bench, volume) = (&bench, &volume);
        async move {
            for _ in 0..times {
                bench.clock.advance(Duration::from_secs(1));
                tokio::time::sleep(Duration::from_millis(60)).await;
            }
            volume.health().state()
        }
    };
    // What did not fit now does, and the next would not.
    volume
        .delete_shuffle(&app(), ShuffleId(0))
        .expect("deleted");
    eventually("it is gone", || volume.bytes_used() < 12 << 20).await;
    assert_eq!(looks(10).await, "full");
    for shuffle in 1..7 {
        volume
            .delete_shuffle(&app(), ShuffleId(shuffle))
            .expect("deleted");
    }
    eventually("it is gone", || volume.bytes_used() == 0).await;
    eventually("there is space", || {
        bench.clock.advance(Duration::from_secs(1));
        volume.health() == Health::Ok
    })
    .await;
}

#[tokio::test]
async fn the_space_of_attempts_that_ended_without_a_commit_comes_back() {
    let (mut bench, _) = bench(8 << 20);
    let volume = bench.open();
    let shape = even(0..PARTITIONS, 40_000); // 2 MB
    write(&bench, &volume, key(1, 0, 1), &shape, Durability::Disk).await;
    let taken = |bench: &Bench| -> u64 {
        let files = bench.files(".seg");
        let blocks = files
            .iter()
            .map(|path| std::fs::metadata(path).expect("there").blocks());
        blocks.sum::<u64>() * 512
    };
    let before = (volume.bytes_used(), taken(&bench));
    for attempt in 2..8 {
        // More than memory takes, so that most of it goes to the disk.
        let mut writer = begin(&volume, key(1, 1, attempt));
        for _ in 0..6 {
            push(&bench.budget, &mut writer, &shape)
                .await
                .expect("append");
        }
        assert!(
            volume.bytes_used() > before.0 + (2 << 20),
            "attempt {attempt}"
        );
    }
    eventually("it is given back", || {
        volume.bytes_used() <= before.0 + (8 << 20)
    })
    .await;
    // Somebody who reads keeps it for as long.
    eventually("all of it", || volume.bytes_used() == before.0).await;
    let now = taken(&bench);
    assert!(
        now < before.1 + (1 << 20),
        "{now} bytes are taken, {} were",
        before.1
    );
    assert_holds(&volume, 1, &[(0, 1, shape.clone())]).await;
    drop(volume);
    bench.faults = None;
    let volume = bench.open();
    assert_eq!(volume.bytes_used(), before.0);
    assert_holds(&volume, 1, &[(0, 1, shape)]).await;
}
