//! `lost/`: what nothing serves any more and a person may want to look at: files that a damaged
//! index did not name, and what was damaged of the index as it was. It is bounded, and goes first
//! of all when space is short.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::staging::{disk::Disk, error::Error};

/// Bytes that may lie there, at most.
const MOST: u64 = 1 << 30;
/// `lost/` takes at most one `SHARE`th of the disk, or of the part of it that the volume may take.
const SHARE: u64 = 16;
/// How long it lies there at most.
const AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// A file there.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Lost {
    /// Seconds since 1970 when it came, or was written last.
    since: i64,
    path: PathBuf,
    bytes: u64,
}

/// Below `dir`.
pub(crate) fn lost_dir(dir: &Path) -> PathBuf {
    dir.join("lost")
}

/// How much of it may lie on a disk of which `all` bytes are the volume's to use and so many are
/// free; nothing where a volume is `full` and it is the disk that has no space.
pub(crate) fn most(all: u64, free: u64, full: bool) -> u64 {
    match full && free < all / SHARE {
        true => 0,
        false => MOST.min(all / SHARE),
    }
}

/// Removes what is too old at `now`, and the oldest of what is more than `most`; answers the bytes
/// that were removed. What cannot be removed is tried again the next time.
pub(crate) fn bound(disk: &Disk, dir: &Path, most: u64, now: Duration) -> Result<u64, Error> {
    let lost = lost_dir(dir);
    let (mut files, mut dirs) = (Vec::new(), vec![lost.clone()]);
    let mut at = 0;
    while let Some(dir) = dirs.get(at).cloned() {
        at += 1;
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            match metadata.is_dir() {
                true => dirs.push(entry.path()),
                false => files.push(Lost {
                    // The first changes when it comes here.
                    since: metadata.ctime().max(metadata.mtime()),
                    path: entry.path(),
                    bytes: metadata.blocks() * 512,
                }),
            }
        }
    }
    files.sort();
    let mut all: u64 = files.iter().map(|file| file.bytes).sum();
    let oldest = i64::try_from(now.saturating_sub(AGE).as_secs()).unwrap_or(i64::MAX);
    let (mut removed, mut failed) = (0, None);
    for file in files {
        if all <= most && file.since >= oldest {
            break;
        }
        match disk.remove(&file.path) {
            Ok(()) => removed += file.bytes,
            Err(source) => failed = Some(Error::io("remove", file.path, source)),
        }
        all -= file.bytes;
    }
    // Those that are empty, the deepest first.
    for dir in dirs.iter().skip(1).rev() {
        let _ = fs::remove_dir(dir);
    }
    if removed > 0 {
        tracing::warn!(path = %lost.display(), bytes = removed, "what was kept of damaged data goes: it is too old, or too much");
    }
    failed.map_or(Ok(removed), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_when_it_is_too_much_and_all_when_it_is_too_old() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let disk = Disk::new(None, Duration::from_secs(10));
        let deep = dir.path().join("lost/apps/1.app/0");
        fs::create_dir_all(&deep).expect("make");
        let start = Duration::from_secs(4_000_000_000);
        let files: Vec<_> = (0..4).map(|number| deep.join(number.to_string())).collect();
        for (number, path) in (0u64..).zip(&files) {
            fs::write(path, vec![1; 100 << 10]).expect("write");
            let file = fs::File::options().write(true).open(path).expect("open");
            let when = start + Duration::from_secs(number);
            let when = std::time::UNIX_EPOCH + when;
            file.set_modified(when).expect("set the time");
        }
        let left = || files.iter().filter(|path| path.exists()).count();
        let bound = |most, now| bound(&disk, dir.path(), most, now).expect("removed");
        assert_eq!(bound(1 << 20, start), 0);
        assert_eq!(bound(250 << 10, start), 200 << 10);
        assert_eq!((left(), files[2].exists()), (2, true));
        assert_eq!(
            bound(1 << 20, start + AGE + Duration::from_secs(3)),
            100 << 10
        );
        assert_eq!((left(), files[3].exists()), (1, true));
        assert_eq!(bound(0, start), 100 << 10);
        assert!(!deep.exists() && lost_dir(dir.path()).exists());
        assert_eq!(bound(0, start), 0);
    }

    #[test]
    fn a_small_disk_has_less_of_it_and_a_full_one_nothing() {
        let (small, large) = (16 << 20, 1 << 50);
        assert_eq!(
            (most(small, 0, false), most(large, 0, false)),
            (1 << 20, 1 << 30)
        );
        assert_eq!((most(small, 4096, true), most(large, 0, true)), (0, 0));
        // Only a limit is reached, or the process has no files left.
        assert_eq!(most(small, 8 << 20, true), 1 << 20);
    }
}
