//! Deletions: they answer at once and hold up nobody, go on until they are done, and are not undone by a crash.

use std::{
    io,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use super::*;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// What is done to calls, by their kind.
#[derive(Default)]
struct Told {
    errors: Mutex<Vec<(Operation, i32)>>,
    /// Removals take this long.
    removal: Mutex<Duration>,
    hangs: AtomicBool,
}

impl Told {
    fn fail(&self, errors: &[(Operation, i32)]) {
        *self.errors.lock().expect("not poisoned") = errors.to_vec();
    }
}

impl Faults for Told {
    fn before(&self, operation: Operation, _: &Path) -> io::Result<()> {
        if operation == Operation::Remove {
            while self.hangs.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(5));
            }
            std::thread::sleep(*self.removal.lock().expect("not poisoned"));
        }
        let errors = self.errors.lock().expect("not poisoned");
        match errors.iter().find(|(of, _)| *of == operation) {
            Some((_, errno)) => Err(io::Error::from_raw_os_error(*errno)),
            None => Ok(()),
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

fn large() -> Shape {
    even(0..PARTITIONS, 40_000)
}

fn trash(bench: &Bench) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(bench.dir.path().join("trash")).expect("there");
    entries.flatten().map(|entry| entry.path()).collect()
}

async fn gone(bench: &Bench, volume: &Volume) {
    eventually("no file is left", || bench.files(".seg").is_empty()).await;
    eventually("no trash is left", || trash(bench).is_empty()).await;
    eventually("nothing counts as used", || volume.bytes_used() == 0).await;
}

#[tokio::test]
async fn removals_that_take_long_hold_up_nobody_and_say_nothing_of_the_disk() {
    let (bench, told) = told();
    let volume = bench.open();
    let other = AppRecord {
        app: AppId::try_new("app-2").expect("valid"),
        ..record(&app())
    };
    volume.put_app(&other).expect("put app");
    for shuffle in 0..3 {
        write(
            &bench,
            &volume,
            key(shuffle, 0, 1),
            &large(),
            Durability::Disk,
        )
        .await;
    }
    let used = volume.bytes_used();
    told.hangs.store(true, Ordering::SeqCst);
    volume
        .delete_shuffle(&app(), ShuffleId(0))
        .expect("deleted");
    volume.delete_app(&app()).expect("deleted");
    // Far longer than what is called slow; others go on before and after that.
    let theirs = AttemptKey {
        app: other.app.clone(),
        ..key(1, 0, 1)
    };
    write(&bench, &volume, theirs, &large(), Durability::Disk).await;
    in_haste(&volume, true);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(volume.health(), Health::Ok);
    in_haste(&volume, false);
    let theirs = AttemptKey {
        app: other.app.clone(),
        ..key(1, 1, 1)
    };
    write(&bench, &volume, theirs, &large(), Durability::Disk).await;
    assert!(volume.bytes_used() >= used, "nothing is gone yet");
    assert_eq!(bench.files(".seg").len(), 4);
    told.hangs.store(false, Ordering::SeqCst);
    eventually("its files are gone", || bench.files(".seg").len() == 1).await;
    eventually("no trash is left", || trash(&bench).is_empty()).await;
    volume.delete_app(&other.app).expect("deleted");
    gone(&bench, &volume).await;
}

#[tokio::test]
async fn a_deletion_that_the_index_does_not_know_of_is_not_done_and_goes_on() {
    let (bench, told) = told();
    let volume = bench.open();
    for shuffle in 0..2 {
        write(
            &bench,
            &volume,
            key(shuffle, 0, 1),
            &large(),
            Durability::Disk,
        )
        .await;
    }
    told.fail(&[(Operation::Index, ENOSPC), (Operation::Write, ENOSPC)]);
    for _ in 0..2 {
        // Asked again it is no more done than before.
        let error = volume.delete_shuffle(&app(), ShuffleId(0));
        assert_eq!(
            error.expect_err("the index is full").kind(),
            Kind::Unavailable
        );
        let error = read(&volume, 0, 0..1, 0..1).await;
        assert_eq!(error.expect_err("gone for readers").kind(), Kind::Lost);
    }
    assert_eq!(volume.health().state(), "full");
    // Its space comes back all the same, which is what the index waits for.
    eventually("its files are gone", || bench.files(".seg").len() == 1).await;
    let error = volume.delete_app(&app()).expect_err("the index is full");
    assert_eq!(error.kind(), Kind::Unavailable);
    let error = volume.put_app(&record(&app()));
    assert!(error.is_err(), "a start would find both");
    eventually("its files are gone", || bench.files(".seg").is_empty()).await;
    assert_eq!(trash(&bench).len(), 2, "it says what the index does not");
    told.fail(&[]);
    assert!(volume.delete_app(&app()).is_ok());
    gone(&bench, &volume).await;
    eventually("there is space", || {
        bench.clock.advance(Duration::from_secs(1));
        volume.health() == Health::Ok
    })
    .await;
    volume.put_app(&record(&app())).expect("it comes back");
    write(&bench, &volume, key(0, 0, 1), &large(), Durability::Disk).await;
    drop(volume);
    let volume = bench.try_open().expect("open");
    assert_eq!(volume.apps().len(), 1);
    assert_holds(&volume, 0, &[(0, 1, large())]).await;
}

#[tokio::test]
async fn a_deletion_that_is_not_recorded_is_carried_through_by_the_next_start() {
    for in_log in [false, true] {
        let (mut bench, told) = told();
        let volume = bench.open();
        let shape = if in_log { even(0..3, 10) } else { large() };
        for shuffle in 0..2 {
            write(
                &bench,
                &volume,
                key(shuffle, 0, 1),
                &shape,
                Durability::Disk,
            )
            .await;
        }
        let other = AppId::try_new("app-2").expect("valid");
        volume.put_app(&record(&other)).expect("put app");
        let theirs = AttemptKey {
            app: other.clone(),
            ..key(0, 0, 1)
        };
        write(&bench, &volume, theirs, &shape, Durability::Disk).await;
        told.fail(&[(Operation::Index, EIO), (Operation::Remove, EIO)]);
        volume
            .delete_shuffle(&app(), ShuffleId(0))
            .expect_err("EIO");
        volume.delete_app(&other).expect_err("EIO");
        drop(volume);
        bench.faults = None;
        let volume = bench.try_open().expect("open");
        let apps: Vec<_> = volume.apps().iter().map(|app| app.app.clone()).collect();
        assert_eq!(apps, [app()], "in_log={in_log}");
        let error = read(&volume, 0, 0..1, 0..1).await;
        assert_eq!(error.expect_err("deleted").kind(), Kind::Lost);
        let late = volume.open_attempt(key(0, 0, 2), MAPS, PARTITIONS);
        assert_eq!(late.expect_err("deleted").kind(), Kind::Fenced);
        assert_holds(&volume, 1, &[(0, 1, shape)]).await;
        eventually("no trash is left", || trash(&bench).is_empty()).await;
        // Numbers of what lies in the trash are not given to others.
        volume.put_app(&record(&other)).expect("it comes back");
        drop(volume);
        let volume = bench.try_open().expect("open");
        assert_eq!(volume.apps().len(), 2);
        volume.delete_app(&app()).expect("deleted");
        volume.delete_app(&other).expect("deleted");
        gone(&bench, &volume).await;
    }
}

#[tokio::test]
async fn removals_that_fail_are_made_again_until_they_do_not() {
    let (bench, told) = told();
    let volume = bench.open();
    write(&bench, &volume, key(0, 0, 1), &large(), Durability::Disk).await;
    for errors in [
        &[(Operation::Remove, EIO)][..],
        // It cannot be moved away either: a disk that is full to the last byte.
        &[(Operation::Rename, ENOSPC), (Operation::Remove, EIO)],
    ] {
        write(&bench, &volume, key(1, 0, 1), &large(), Durability::Disk).await;
        told.fail(errors);
        assert!(volume.delete_app(&app()).expect("the index knows it") > 0);
        volume.put_app(&record(&app())).expect("it comes back");
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!bench.files(".seg").is_empty() && volume.bytes_used() > 0);
        told.fail(&[]);
        eventually("there is space", || {
            bench.clock.advance(Duration::from_secs(1));
            volume.health() == Health::Ok
        })
        .await;
        gone(&bench, &volume).await;
    }
}

#[tokio::test]
async fn a_late_deletion_does_not_meet_what_came_back_under_the_same_name() {
    let (bench, told) = told();
    let volume = bench.open();
    write(&bench, &volume, key(0, 0, 1), &large(), Durability::Disk).await;
    told.fail(&[(Operation::Rename, EIO)]);
    volume.delete_app(&app()).expect("the index knows it");
    told.fail(&[]);
    drop(volume);
    let (bench, told) = (bench, told);
    let volume = bench.open();
    told.hangs.store(true, Ordering::SeqCst);
    write(&bench, &volume, key(0, 0, 1), &large(), Durability::Disk).await;
    volume.delete_app(&app()).expect("deleted");
    volume.put_app(&record(&app())).expect("it comes back");
    write(&bench, &volume, key(0, 0, 1), &large(), Durability::Disk).await;
    told.hangs.store(false, Ordering::SeqCst);
    eventually("no trash is left", || trash(&bench).is_empty()).await;
    assert_holds(&volume, 0, &[(0, 1, large())]).await;
    drop(volume);
    assert_holds(&bench.open(), 0, &[(0, 1, large())]).await;
}

#[tokio::test]
async fn an_app_with_another_token_gets_nothing_of_the_one_before() {
    let bench = Bench::new();
    let volume = bench.open();
    write(&bench, &volume, key(0, 0, 1), &large(), Durability::Disk).await;
    let other = AppRecord {
        token_hash: [8; 32],
        ..record(&app())
    };
    volume.put_app(&other).expect("put app");
    let found = read(&volume, 0, 0..PARTITIONS, 0..MAPS).await;
    assert_eq!(found.expect_err("another's").kind(), Kind::Lost);
    assert_eq!(volume.apps(), [other]);
}

#[tokio::test]
async fn a_volume_that_missed_an_app_is_told_of_it_when_it_is_well() {
    let (bench, told) = told();
    let volume = bench.open();
    let late = AppId::try_new("app-2").expect("valid");
    let gone = AppId::try_new("app-3").expect("valid");
    told.fail(&[(Operation::Index, ENOSPC), (Operation::Write, ENOSPC)]);
    for app in [&late, &gone] {
        volume.put_app(&record(app)).expect_err("the index is full");
    }
    assert_eq!(volume.delete_app(&gone).expect("it has nothing of it"), 0);
    assert!(!volume.knows(&late));
    told.fail(&[]);
    eventually("it knows it", || {
        bench.clock.advance(Duration::from_secs(1));
        volume.knows(&late)
    })
    .await;
    assert!(!volume.knows(&gone), "it was deleted meanwhile");
}

#[tokio::test]
async fn removals_make_haste_when_more_is_deleted_than_is_free() {
    let (mut bench, told) = told();
    bench.options.limit = Some(16 << 20);
    let volume = bench.open();
    for shuffle in 0..5 {
        write(
            &bench,
            &volume,
            key(shuffle, 0, 1),
            &large(),
            Durability::Disk,
        )
        .await;
    }
    let shared = &volume.0.shared;
    told.hangs.store(true, Ordering::SeqCst);
    assert!(!shared.trash.hurries(shared));
    volume
        .delete_shuffle(&app(), ShuffleId(0))
        .expect("deleted");
    assert!(!shared.trash.hurries(shared), "2 of 16 MB, 6 are free");
    for shuffle in 1..5 {
        let deleted = volume.delete_shuffle(&app(), ShuffleId(shuffle));
        deleted.expect("deleted");
    }
    assert!(shared.trash.hurries(shared), "10 of 16 MB, 6 are free");
    told.hangs.store(false, Ordering::SeqCst);
    gone(&bench, &volume).await;
    assert!(!shared.trash.hurries(shared));
}
