//! Indexes that are damaged, crashes while they are put right, and disks that take no writes.

use super::{
    super::{
        AppNo, Changes, RocksIndex, SegmentIndex, keys,
        keys::Key,
        read_all,
        values::{Record, Shuffle},
    },
    *,
};
use shuffle_proto::ids::ShuffleId;

const RECORDS: u32 = 600;

/// An index, in a volume's directory, in whose log these many records are.
fn filled() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("index");
    let index = RocksIndex::open(&path).expect("open");
    for number in 0..RECORDS {
        let mut batch = Changes::default();
        let record = Record::Shuffle(Shuffle {
            num_maps: 1,
            num_partitions: number,
            deleted: false,
        });
        batch.put(Key::Shuffle(AppNo(1), ShuffleId(number)), &record);
        index.write(&batch, false).expect("write");
    }
    (dir, path)
}

fn count(index: &RocksIndex) -> usize {
    let mut count = 0;
    let all = read_all(index, keys::SHUFFLE, |row| {
        count += usize::from(row.is_ok())
    });
    all.expect("scan");
    count
}

fn newest(index: &Path, ending: &str) -> PathBuf {
    let files = fs::read_dir(index).expect("list");
    let files = files.map(|entry| entry.expect("entry").path());
    let mut ours: Vec<_> = files
        .filter(|path| path.to_string_lossy().ends_with(ending))
        .collect();
    ours.sort();
    ours.pop().expect("there is one")
}

/// Every file, and what is in it.
fn picture(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).expect("list") {
            let path = entry.expect("entry").path();
            match path.is_dir() {
                true => todo.push(path),
                false => files.push((path.clone(), fs::read(&path).expect("read"))),
            }
        }
    }
    files.sort();
    files
}

#[test]
fn a_disk_that_takes_no_writes_is_read_as_if_its_index_were_put_right() {
    for (damage, lost) in [(1, 0), (40, 1)] {
        let (dir, path) = filled();
        let log = newest(&path, ".log");
        let mut bytes = fs::read(&log).expect("read");
        let at = bytes.len() / 2;
        bytes[at..at + damage]
            .iter_mut()
            .for_each(|byte| *byte ^= 8);
        fs::write(&log, bytes).expect("damage");
        let before = picture(dir.path());
        let index = RocksIndex::open_read_only(&path).expect("open");
        let found = RECORDS as usize - count(&index);
        assert!((lost..=2 * lost).contains(&found), "{found} are lost");
        assert_eq!(index.is_damaged(), lost > 0);
        let overlay = index_overlay(&index);
        assert!(overlay.exists());
        drop(index);
        assert!(!overlay.exists(), "it is removed");
        // But for what RocksDB says of itself.
        let own = |files: Vec<(PathBuf, Vec<u8>)>| {
            let files = files.into_iter();
            let kept = files.filter(|(path, _)| !path.to_string_lossy().contains("LOG"));
            kept.collect::<Vec<_>>()
        };
        assert!(
            own(picture(dir.path())) == own(before),
            "nothing is changed"
        );
        // And where it can be written it is put right.
        let index = RocksIndex::open(&path).expect("open");
        assert_eq!(RECORDS as usize - count(&index), found);
    }
}

fn index_overlay(index: &RocksIndex) -> PathBuf {
    index
        .overlay()
        .expect("it is read from elsewhere")
        .to_owned()
}

#[test]
fn that_something_is_lost_is_known_until_its_conclusions_are_drawn() {
    let (_dir, path) = filled();
    let log = newest(&path, ".log");
    let mut bytes = fs::read(&log).expect("read");
    let at = bytes.len() / 2;
    bytes[at..at + 40].fill(0xee);
    fs::write(&log, bytes).expect("damage");
    // The server dies after it has shortened the log, twice.
    for _ in 0..2 {
        put_right(&path).expect("shortened");
    }
    for _ in 0..2 {
        let index = RocksIndex::open(&path).expect("open");
        assert!(index.is_damaged());
    }
    let index = RocksIndex::open(&path).expect("open");
    index.settle_damage().expect("settled");
    assert!(!index.is_damaged());
    drop(index);
    let index = RocksIndex::open(&path).expect("open");
    assert!(!index.is_damaged());
}

/// An index that RocksDB does not open any more: its MANIFEST is no more than zeros.
fn broken() -> (tempfile::TempDir, PathBuf) {
    let (dir, path) = filled();
    let index = RocksIndex::open(&path).expect("its log becomes a table");
    drop(index);
    for entry in fs::read_dir(&path).expect("list") {
        let file = entry.expect("entry").path();
        if file.to_string_lossy().contains("MANIFEST") {
            let length = fs::metadata(&file).expect("look").len();
            fs::write(&file, vec![0; length as usize]).expect("damage");
        }
    }
    (dir, path)
}

#[test]
fn an_index_that_rocksdb_does_not_open_is_made_anew_beside_it() {
    let (dir, path) = broken();
    let index = RocksIndex::open(&path).expect("repaired");
    assert_eq!(count(&index), RECORDS as usize);
    assert!(index.is_damaged());
    assert!(dir.path().join("lost/index.0/CURRENT").exists());
}

#[test]
fn a_crash_at_any_step_of_making_it_anew_costs_nothing() {
    for step in 0..5 {
        let (_dir, path) = broken();
        let (making, made) = (beside(&path, "repairing"), beside(&path, "repaired"));
        match step {
            // While files are linked.
            0 => {
                fs::create_dir(&making).expect("make");
                let table = newest(&path, ".sst");
                let name = table.file_name().expect("a name");
                fs::hard_link(&table, making.join(name)).expect("link");
            }
            // While RocksDB repairs it: it has put its descriptor away, and made no other.
            1 => {
                let failed = repair(&path, |copy| {
                    for entry in fs::read_dir(copy).expect("list") {
                        let file = entry.expect("entry").path();
                        let name = file.to_string_lossy().into_owned();
                        if name.contains("MANIFEST") || name.ends_with("CURRENT") {
                            fs::remove_file(file).expect("remove");
                        }
                    }
                    let kept = copy.with_extension("kept");
                    fs::rename(copy, &kept).expect("out of the way");
                    Err("broken off".into())
                });
                failed.expect_err("it is broken off");
                fs::rename(making.with_extension("kept"), &making).expect("as a crash leaves it");
            }
            // Whole, and not in its place: before, between and after the two names change.
            _ => {
                let index = RocksIndex::open(&path).expect("repaired");
                drop(index);
                forget(&path).expect("as if it had not been");
                fs::rename(&path, &making).expect("as it was made");
                fs::create_dir(&path).expect("make");
                fs::write(path.join("CURRENT"), b"what was damaged").expect("write");
                fs::rename(&making, &made).expect("whole");
                if step > 2 {
                    note(&path).expect("noted");
                    let lost = mend::lost_name(&path, "index").expect("a name");
                    fs::rename(&path, lost).expect("out of the way");
                }
                if step > 3 {
                    fs::rename(&made, &path).expect("in its place");
                }
            }
        }
        let index = RocksIndex::open(&path).expect("repaired");
        assert_eq!(count(&index), RECORDS as usize, "{step}");
        assert!(index.is_damaged(), "{step}");
        assert!(!making.exists() && !made.exists(), "{step}");
    }
}

#[test]
fn nothing_writes_to_an_index_that_cannot_be_put_right() {
    let (_dir, path) = filled();
    let log = newest(&path, ".log");
    let mut bytes = fs::read(&log).expect("read");
    let at = bytes.len() / 2;
    bytes[at..at + 40].fill(0xee);
    fs::write(&log, &bytes).expect("damage");
    // There is no place for what is lost, as on a full disk.
    let lost = path.with_file_name("lost");
    fs::write(&lost, b"in the way").expect("write");
    let error = RocksIndex::open(&path).err().expect("refused").to_string();
    assert!(error.contains("put right"), "{error}");
    assert!(
        fs::read(&log).expect("read") == bytes,
        "and it is as it was"
    );
    fs::remove_file(lost).expect("remove");
    let found = count(&RocksIndex::open(&path).expect("open"));
    assert!((RECORDS as usize - 2..RECORDS as usize).contains(&found));
}

#[test]
fn a_table_that_cannot_be_read_whole_costs_what_it_had_there() {
    let (dir, path) = filled();
    drop(RocksIndex::open(&path).expect("its log becomes a table"));
    // More than its parity puts together again, of which there is none any more either.
    fs::remove_dir_all(path.join("parity")).expect("remove");
    let table = newest(&path, ".sst");
    let mut bytes = fs::read(&table).expect("read");
    assert!(bytes.len() > 8 << 10, "several blocks: {}", bytes.len());
    bytes[4200..4300].fill(0xee);
    fs::write(&table, bytes).expect("damage");
    let index = RocksIndex::open(&path).expect("nobody has read that far");
    let error = read_all(&index, keys::SHUFFLE, |_| {}).expect_err("it is found");
    assert!(
        matches!(error, super::super::Error::Unreadable { .. }),
        "{error}"
    );
    drop(index);
    RocksIndex::salvage(&path).expect("salvaged");
    let index = RocksIndex::open(&path).expect("open");
    assert!(index.is_damaged());
    let found = count(&index);
    assert!(
        found >= RECORDS as usize / 2 && found < RECORDS as usize,
        "{found} of {RECORDS}"
    );
    assert!(dir.path().join("lost/index.0").exists());
}
