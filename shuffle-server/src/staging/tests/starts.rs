//! Starts with a disk that is not well: what it has is served if that can be, and it is in nobody's way.

use std::{
    fs, io,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use super::*;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const EROFS: i32 = 30;

/// What happens to calls that change something.
#[derive(Default)]
struct Told {
    errno: Mutex<Option<i32>>,
    /// Opening a commit log does not come back.
    hangs: AtomicBool,
}

impl Faults for Told {
    fn before(&self, operation: Operation, path: &Path) -> io::Result<()> {
        while operation == Operation::Open
            && path.extension().is_some_and(|ending| ending == "log")
            && self.hangs.load(Ordering::SeqCst)
        {
            std::thread::sleep(Duration::from_millis(5));
        }
        let changes = matches!(operation, Operation::Index | Operation::Write);
        match *self.errno.lock().expect("not poisoned") {
            Some(errno) if changes => Err(io::Error::from_raw_os_error(errno)),
            _ => Ok(()),
        }
    }
}

fn told() -> (Bench, Arc<Told>) {
    let told = Arc::new(Told::default());
    let mut bench = Bench::new();
    bench.faults = Some(told.clone());
    bench.options.probe = Duration::from_millis(50);
    (bench, told)
}

fn one_of_several(bench: &Bench) -> Volume {
    let components = Components {
        budget: bench.budget.clone(),
        clock: Arc::new(bench.clock.clone()),
        observer: Arc::new(()),
        faults: bench.faults.clone(),
    };
    Volume::open_or_broken(bench.dir.path(), bench.options.clone(), components)
}

async fn filled(bench: &Bench) -> Vec<(u32, u64, Shape)> {
    let volume = bench.open();
    let attempts = vec![
        (0, 1, even(0..PARTITIONS, 40_000)),
        (1, 2, even(0..PARTITIONS, 100)),
    ];
    for (map, attempt, shape) in &attempts {
        let key = key(1, *map, *attempt);
        write(bench, &volume, key, shape, Durability::Disk).await;
    }
    write(
        bench,
        &volume,
        key(2, 0, 3),
        &attempts[1].2,
        Durability::Disk,
    )
    .await;
    volume
        .delete_shuffle(&app(), ShuffleId(2))
        .expect("deleted");
    attempts
}

#[tokio::test]
async fn a_disk_that_takes_no_writes_at_the_start_is_served_for_reading() {
    for (errno, state) in [(EROFS, "read-only"), (EIO, "failed")] {
        let (bench, told) = told();
        let attempts = filled(&bench).await;
        *told.errno.lock().expect("not poisoned") = Some(errno);
        let volume = bench.try_open().expect("for reading");
        assert!(volume.is_open());
        assert_eq!(volume.health().state(), state);
        assert_holds(&volume, 1, &attempts).await;
        let gone = read(&volume, 2, 0..1, 0..1).await;
        assert_eq!(gone.expect_err("deleted").kind(), Kind::Lost);
        let refused = volume.open_attempt(key(1, 2, 3), MAPS, PARTITIONS);
        assert_eq!(refused.expect_err(state).kind(), Kind::Unavailable);
        volume
            .put_app(&record(&app()))
            .expect("it knows it, and its lease goes on");
        let other = AppId::try_new("app-2").expect("valid");
        volume
            .put_app(&record(&other))
            .expect_err("it can keep nothing of it");
        // Asked for again it is no more there.
        let _ = volume.delete_shuffle(&app(), ShuffleId(1));
        let gone = read(&volume, 1, 0..1, 0..1).await;
        assert_eq!(gone.expect_err("deleted").kind(), Kind::Lost);
        volume.close().await;
        drop(volume);
        *told.errno.lock().expect("not poisoned") = None;
        let volume = bench.try_open().expect("open");
        assert_eq!(volume.health(), Health::Ok);
        assert_eq!(volume.apps(), [record(&app())]);
        match state {
            // Its directory could be given another name, and that says it.
            "failed" => drop(read(&volume, 1, 0..1, 0..1).await.expect_err("deleted")),
            _ => drop(read(&volume, 1, 0..1, 0..1).await),
        }
    }
}

#[tokio::test]
async fn a_disk_that_is_full_at_the_start_is_served_and_heals_by_itself() {
    let (bench, told) = told();
    let attempts = filled(&bench).await;
    *told.errno.lock().expect("not poisoned") = Some(ENOSPC);
    let volume = bench.try_open().expect("for reading");
    assert_eq!(volume.health().state(), "full");
    assert_holds(&volume, 1, &attempts).await;
    volume
        .delete_shuffle(&app(), ShuffleId(1))
        .expect_err("the index is full");
    eventually("its space comes back", || bench.files(".seg").is_empty()).await;
    *told.errno.lock().expect("not poisoned") = None;
    eventually("there is space", || {
        bench.clock.advance(Duration::from_secs(1));
        volume.health() == Health::Ok
    })
    .await;
    let shape = even(0..PARTITIONS, 500);
    write(&bench, &volume, key(3, 0, 9), &shape, Durability::Fsync).await;
    assert_holds(&volume, 3, &[(0, 9, shape.clone())]).await;
    drop(volume);
    let volume = bench.try_open().expect("open");
    assert_holds(&volume, 3, &[(0, 9, shape)]).await;
    for shuffle in [1, 2] {
        let gone = read(&volume, shuffle, 0..1, 0..1).await;
        assert_eq!(gone.expect_err("deleted").kind(), Kind::Lost);
    }
}

#[tokio::test]
async fn a_directory_that_cannot_be_opened_is_a_volume_out_of_service() {
    let (bench, _) = told();
    filled(&bench).await;
    let known = {
        let volume = one_of_several(&bench);
        assert!(volume.is_open() && volume.health() == Health::Ok);
        volume.id()
    };
    let path = |name: &str| bench.dir.path().join(name);
    let read_whole = |name: &str| fs::read(path(name)).expect("read");
    let id = read_whole("volume");
    let check = |id_is_known: bool, state: &str, word: &str| {
        let volume = one_of_several(&bench);
        assert!(!volume.is_open());
        assert_eq!(volume.id() == known, id_is_known, "{word}");
        let health = volume.health();
        assert_eq!(health.state(), state, "{health:?}");
        assert!(
            health.reason().expect("not well").contains(word),
            "{health:?}"
        );
        volume
    };
    fs::write(path("volume"), "nonsense").expect("write");
    fs::write(path("volume.copy"), "nonsense").expect("write");
    drop(check(false, "failed", "bring back one of them"));
    fs::write(path("volume"), &id).expect("write");
    // An index of which something is left is mended.
    fs::rename(path("index"), path("index.away")).expect("rename");
    fs::write(path("index"), "a file").expect("write");
    drop(check(true, "failed", "index"));
    fs::remove_file(path("index")).expect("remove");
    fs::rename(path("index.away"), path("index")).expect("rename");
    let user = bench.try_open().expect("open");
    drop(check(true, "failed", "in use by another process"));
    drop(user);
    let elsewhere = bench.dir.path().with_extension("elsewhere");
    fs::rename(bench.dir.path(), &elsewhere).expect("rename");
    fs::write(bench.dir.path(), "a file").expect("write");
    let volume = check(false, "removed", "cannot be made");
    // It is in nobody's way.
    assert_eq!(volume.delete_app(&app()).expect("it has nothing"), 0);
    volume
        .put_app(&record(&app()))
        .expect_err("it can keep nothing");
    let lost = volume.fetch(&app(), ShuffleId(1), 0..1, 0..1, None);
    assert_eq!(lost.expect_err("not here").kind(), Kind::Lost);
    let refused = volume.open_attempt(key(1, 2, 3), MAPS, PARTITIONS);
    assert!(refused.is_err());
    assert!(volume.unwritten().is_empty());
    volume.close().await;
    drop(volume);
    fs::remove_file(bench.dir.path()).expect("remove");
    fs::rename(&elsewhere, bench.dir.path()).expect("rename");
    assert_eq!(one_of_several(&bench).health(), Health::Ok);
}

#[tokio::test]
async fn a_disk_that_does_not_answer_at_the_start_is_not_waited_for() {
    let (mut bench, told) = told();
    filled(&bench).await;
    bench.options.slow = HASTE;
    told.hangs.store(true, Ordering::SeqCst);
    let volume = one_of_several(&bench);
    let health = volume.health();
    assert_eq!(health.state(), "failed");
    assert!(
        health.reason().expect("not well").contains("has taken"),
        "{health:?}"
    );
    let text = fs::read_to_string(bench.dir.path().join("volume")).expect("read");
    assert!(text.contains(&volume.id().to_string()), "its id is known");
    volume.close().await;
    drop(volume);
    told.hangs.store(false, Ordering::SeqCst);
    eventually("it can be opened", || one_of_several(&bench).is_open()).await;
}

#[tokio::test]
async fn the_ballast_is_kept_given_up_and_taken_again() {
    let mut bench = Bench::new();
    bench.options.ballast = 4 << 20;
    bench.options.limit = Some(16 << 20);
    let path = bench.dir.path().join("ballast");
    let volume = bench.open();
    // An eighth of what the volume may take.
    assert_eq!(fs::metadata(&path).expect("there").len(), 2 << 20);
    let shared = volume.0.shared.clone();
    assert_eq!(
        (shared.ballast.missing(), shared.ballast.size()),
        (0, 2 << 20)
    );
    assert!(shared.ballast.give_up(&shared.disk) && !path.exists());
    assert_eq!(shared.ballast.missing(), 2 << 20);
    assert!(!shared.ballast.give_up(&shared.disk), "there is none");
    assert!(shared.ballast.take(&shared.disk));
    assert!(shared.ballast.take(&shared.disk), "it is there");
    assert_eq!(fs::metadata(&path).expect("there").len(), 2 << 20);
    drop((shared, volume));
    drop(bench.open());
    bench.options.ballast = 0;
    drop(bench.open());
    assert!(!path.exists(), "nobody wants it");
}
