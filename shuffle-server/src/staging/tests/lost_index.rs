//! Damage in the index: which attempts are lost by it, and that bringing them again heals it.

use std::os::unix::fs::FileExt;

use super::{lost::*, *};
use crate::index::{
    self, Changes, RocksIndex, SegmentIndex, Step,
    keys::{self, Key},
    values::Record,
};

/// 300 attempts of which the write-ahead log of the index tells, a third of them in runs.
async fn filled() -> (Bench, Vec<(u32, u64, Shape)>) {
    let bench = Bench::new();
    let volume = bench.open();
    let mut attempts = Vec::new();
    for map in 0..300 {
        let shape = even(0..10, if map % 3 == 0 { 9000 } else { 50 });
        write(&bench, &volume, key(1, map, 1), &shape, Durability::Fsync).await;
        attempts.push((map, 1, shape));
    }
    (bench, attempts)
}

/// The largest file of the index with this ending.
fn index_file(bench: &Bench, ending: &str) -> std::path::PathBuf {
    let files = std::fs::read_dir(bench.dir.path().join("index")).expect("list");
    let files = files.map(|entry| entry.expect("entry").path());
    let ours = files.filter(|path| path.to_string_lossy().ends_with(ending));
    let length = |path: &std::path::PathBuf| std::fs::metadata(path).expect("look").len();
    ours.max_by_key(length).expect("there is one")
}

/// What must be gone, and what must be served, after a restart.
async fn assert_lost(bench: &Bench, attempts: &[(u32, u64, Shape)], most: usize, what: &str) {
    let volume = bench.open();
    let all: Vec<_> = attempts.iter().map(|one| (one.0, one.1)).collect();
    let fetched = read_only(&volume, &all).await;
    assert!(lost(&fetched).len() <= most, "{what}: {:?}", lost(&fetched));
    assert_eq!(
        lost(&fetched).len() + covered(&fetched).len(),
        all.len(),
        "{what}"
    );
    let whole = attempts
        .iter()
        .filter(|one| covered(&fetched).contains(&(one.0, one.1)));
    let whole =
        whole.flat_map(|(map, attempt, shape)| expected(*map, *attempt, shape, 0..PARTITIONS));
    assert_same(&fetched.blocks, &whole.collect());
    // And running those again heals it.
    for map in lost(&fetched).into_iter().map(|one| one.0) {
        let shape = even(0..10, 50);
        write(bench, &volume, key(1, map, 2), &shape, Durability::Fsync).await;
        let again = read_only(&volume, &[(map, 2)]).await;
        assert_same(&again.blocks, &expected(map, 2, &shape, 0..PARTITIONS));
    }
}

#[tokio::test]
async fn a_bit_that_flips_in_the_log_of_the_index_costs_no_attempt_and_worse_costs_what_it_hits() {
    let (bench, attempts) = filled().await;
    let log = index_file(&bench, ".log");
    let good = std::fs::read(&log).expect("read");
    let kept = tempfile::tempdir().expect("temporary directory");
    copy(bench.dir.path(), kept.path());
    for at in [
        10,
        good.len() * 3 / 10,
        good.len() / 2,
        good.len() - 40,
        32_768 + 5,
    ] {
        for (length, most) in [(1, 0), (64, 4)] {
            restore(kept.path(), bench.dir.path());
            let mut bytes = good.clone();
            let end = good.len().min(at + length);
            let damaged = &mut bytes[at..end];
            match length {
                1 => damaged[0] ^= 0x20,
                _ => damaged.fill(0xee),
            }
            std::fs::write(&log, bytes).expect("damage");
            // A torn end may be all that there is to see of the last one: it is no longer than its
            // record.
            assert_lost(&bench, &attempts, most, &format!("{length} at {at}")).await;
        }
    }
}

#[tokio::test]
async fn a_bit_that_flips_in_any_other_file_of_the_index_costs_no_attempt() {
    let (bench, attempts) = filled().await;
    // The next start makes a table of what the log says.
    drop(bench.open());
    let kept = tempfile::tempdir().expect("temporary directory");
    copy(bench.dir.path(), kept.path());
    for ending in [".sst", "CURRENT", "IDENTITY"] {
        let path = index_file(&bench, ending);
        let good = std::fs::read(&path).expect("read");
        for part in 0..6 {
            restore(kept.path(), bench.dir.path());
            let mut bytes = good.clone();
            bytes[(good.len() - 1) * part / 5] ^= 8;
            std::fs::write(&path, bytes).expect("flip");
            assert_lost(&bench, &attempts, 0, &format!("{ending} {part}/5")).await;
        }
    }
    restore(kept.path(), bench.dir.path());
    let files = std::fs::read_dir(bench.dir.path().join("index")).expect("list");
    let manifest = files.map(|entry| entry.expect("entry").path());
    let mut manifest = manifest.filter(|path| path.to_string_lossy().contains("MANIFEST"));
    let path = manifest.next().expect("there is one");
    let good = std::fs::read(&path).expect("read");
    for part in 0..6 {
        restore(kept.path(), bench.dir.path());
        let mut bytes = good.clone();
        bytes[(good.len() - 1) * part / 5] ^= 8;
        std::fs::write(&path, bytes).expect("flip");
        assert_lost(&bench, &attempts, 0, &format!("MANIFEST {part}/5")).await;
    }
}

#[tokio::test]
async fn a_table_of_the_index_that_cannot_be_read_whole_costs_what_it_had_there() {
    let (bench, attempts) = filled().await;
    drop(bench.open());
    // Without what would put it together again, as of one that was just written; in the second
    // block of records.
    std::fs::remove_dir_all(bench.dir.path().join("index/parity")).expect("remove");
    let table = index_file(&bench, ".sst");
    let file = std::fs::File::options().write(true).open(table);
    let damaged = file.expect("open").write_all_at(&[0xee; 100], 6000);
    damaged.expect("damage");
    assert_lost(&bench, &attempts, 60, "a table").await;
    let lost = bench.dir.path().join("lost/index.0");
    assert!(lost.exists(), "it is kept as it was");
}

#[tokio::test]
async fn a_broken_record_of_a_shuffle_or_an_app_costs_what_it_is_of() {
    let bench = Bench::new();
    let volume = bench.open();
    let shape = even(0..PARTITIONS, 40_000);
    let other = AppId::try_new("app-2").expect("valid");
    volume.put_app(&record(&other)).expect("put app");
    let theirs = AttemptKey {
        app: other.clone(),
        ..key(0, 0, 1)
    };
    for key in [key(0, 0, 1), key(1, 0, 1), key(2, 0, 1), theirs.clone()] {
        write(&bench, &volume, key, &shape, Durability::Disk).await;
    }
    drop(volume);
    let index = RocksIndex::open(&bench.dir.path().join("index")).expect("open");
    let mut apps = BTreeMap::new();
    let all = index::read_all(&index, keys::APP, |row| {
        if let Ok((Key::App(no), Record::App(app))) = row {
            apps.insert(app.id, no);
        }
    });
    all.expect("scan");
    let broken = [
        Key::Shuffle(apps[&app()], ShuffleId(1)),
        Key::App(apps[&other]),
    ];
    let steps = broken
        .map(|key| Step::Put(key.encode(), vec![1; 20]))
        .to_vec();
    index.write(&Changes { steps }, true).expect("write");
    drop(index);
    for _ in 0..2 {
        let volume = bench.open();
        for shuffle in [0, 2] {
            assert_holds(&volume, shuffle, &[(0, 1, shape.clone())]).await;
        }
        let error = read(&volume, 1, 0..1, 0..1).await.expect_err("lost");
        assert_eq!(error.kind(), Kind::Lost);
        assert!(!volume.knows(&other));
        let set_aside = bench.files(".seg");
        let set_aside = set_aside
            .iter()
            .filter(|path| path.starts_with(bench.dir.path().join("lost")));
        assert_eq!(set_aside.count(), 2, "a person may look at it");
    }
    // What was lost comes again, to nobody else's numbers.
    let volume = bench.open();
    volume.put_app(&record(&other)).expect("put app");
    write(&bench, &volume, key(1, 0, 2), &shape, Durability::Disk).await;
    write(&bench, &volume, theirs, &shape, Durability::Disk).await;
    drop(volume);
    let volume = bench.open();
    assert_holds(&volume, 1, &[(0, 2, shape.clone())]).await;
    assert!(volume.knows(&other));
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("list") {
        let entry = entry.expect("entry");
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            std::fs::create_dir_all(&to).expect("make");
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).expect("copy");
        }
    }
}

fn restore(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(to).expect("list") {
        let path = entry.expect("entry").path();
        match path.is_dir() {
            true => std::fs::remove_dir_all(path).expect("remove"),
            false => std::fs::remove_file(path).expect("remove"),
        }
    }
    copy(from, to);
}
