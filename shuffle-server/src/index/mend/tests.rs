//! What is done to the files of an index, and that each of it is done whole or not at all.

use super::{
    log::tests::{log, read, records},
    *,
};

fn index(dir: &Path) -> PathBuf {
    let index = dir.join("index");
    fs::create_dir(&index).expect("make");
    index
}

#[test]
fn changes_are_made_and_then_there_are_none() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let index = index(dir.path());
    let (older, newest) = (index.join("000007.log"), index.join("000009.log"));
    let good = log(&records());
    let mut torn = good.clone();
    torn.truncate(good.len() - 3);
    let mut flipped = good.clone();
    flipped[40_000] ^= 4;
    let mut damaged = good.clone();
    damaged[9..30].fill(0xee);
    for (what, before, left, loses) in [
        ("a flipped bit", &flipped, records(), false),
        ("more", &damaged, records()[1..].to_vec(), true),
        ("a torn end", &torn, records()[..199].to_vec(), true),
    ] {
        fs::write(&older, before).expect("write");
        fs::write(&newest, &torn).expect("write");
        let changes = look(&index).expect("readable");
        assert_eq!(changes.len(), 1, "{what}: the newest log may end so");
        assert_eq!(changes[0].loses(), loses, "{what}");
        assert!(
            fs::read(&older).expect("read") == *before,
            "looking changes nothing"
        );
        let content = changes[0].content().expect("read");
        changes[0].make().expect("made");
        let after = fs::read(&older).expect("read");
        assert!(after == content, "{what}");
        assert_eq!(read(&after), left, "{what}");
        assert!(look(&index).expect("readable").is_empty(), "{what}");
    }
    let lost = fs::read_dir(dir.path().join("lost")).expect("list");
    let lost: Vec<_> = lost
        .map(|entry| fs::read(entry.expect("entry").path()).expect("read"))
        .collect();
    assert!(lost.len() == 2 && lost.contains(&damaged) && lost.contains(&torn));
}

#[test]
fn what_a_crash_leaves_of_a_change_is_of_no_account() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let index = index(dir.path());
    let path = index.join("000009.log");
    fs::write(&path, log(&records())).expect("write");
    fs::write(index.join("000009.log.mending"), b"half").expect("write");
    fs::write(index.join("MANIFEST-000009.mending"), b"half").expect("write");
    assert!(look(&index).expect("readable").is_empty());
    remove_half(&index);
    assert_eq!(fs::read_dir(&index).expect("list").count(), 1);
}

#[test]
fn the_name_of_the_manifest_is_found_again() {
    let dir = tempfile::tempdir().expect("temporary directory");
    for name in ["MANIFEST-000005", "MANIFEST-000010"] {
        fs::write(dir.path().join(name), b"").expect("write");
    }
    let current = dir.path().join("CURRENT");
    for (text, right) in [
        ("MANIFEST-000005\n", "MANIFEST-000005\n"),
        ("MANIFEST-000014\n", "MANIFEST-000010\n"),
        ("MANIFEST-000010", "MANIFEST-000010\n"),
        ("\0", "MANIFEST-000010\n"),
    ] {
        fs::write(&current, text).expect("write");
        for change in look(dir.path()).expect("readable") {
            change.make().expect("made");
        }
        assert_eq!(fs::read_to_string(&current).expect("text"), right);
    }
}

#[test]
fn what_the_disk_does_not_read_any_more_are_zeros_and_the_rest_is_there() {
    let good: Vec<u8> = (0..20_000).map(|at| (at % 251) as u8 | 1).collect();
    let read = |piece: &mut [u8], at: u64| {
        if at == 8192 {
            return Err(io::Error::from_raw_os_error(Errno::IO.raw_os_error()));
        }
        let at = at as usize;
        piece.copy_from_slice(&good[at..at + piece.len()]);
        Ok(())
    };
    let found = pieces(good.len() as u64, read).expect("read");
    let mut right = good.clone();
    right[8192..12_288].fill(0);
    assert!(found == right);
    let denied = |_: &mut [u8], _| Err(io::ErrorKind::PermissionDenied.into());
    assert!(pieces(5, denied).is_err());
}
