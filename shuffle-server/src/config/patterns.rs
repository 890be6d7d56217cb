//! Data directories named by a pattern: `/mnt/nvme*/forebay` on machines with one to eight disks.
//!
//! A pattern stands for the directories present at the start of the server, in the order of their
//! names. A pattern makes no directory: on an unmounted disk there is none, and a new one would be
//! on the root disk. An unreadable directory of a failing or hanging disk counts as present: the
//! server then reports the volume as out of service, instead of going without it.

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use glob::{MatchOptions, Pattern};

/// How long a disk may take to say whether a directory is on it.
const LOOK: Duration = Duration::from_secs(5);

const OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: true,
};

/// Directories named plainly, and the directories behind patterns. The error is the pattern, with a
/// remedy.
pub(super) fn expand(dirs: &[PathBuf]) -> Result<Vec<PathBuf>, (PathBuf, String)> {
    let mut all = Vec::new();
    for dir in dirs {
        if !is_pattern(dir) || dir.is_dir() {
            all.push(dir.clone());
            continue;
        }
        let found = matches(dir, LOOK, is_directory).map_err(|why| (dir.clone(), why))?;
        all.extend(found);
    }
    Ok(all)
}

fn is_pattern(path: &Path) -> bool {
    path.to_string_lossy().contains(['*', '?', '['])
}

fn is_directory(path: &Path) -> io::Result<bool> {
    fs::metadata(path).map(|found| found.is_dir())
}

fn matches(
    pattern: &Path,
    patience: Duration,
    look: fn(&Path) -> io::Result<bool>,
) -> Result<Vec<PathBuf>, String> {
    let mut places = vec![PathBuf::new()];
    let mut is_fixed = true;
    for component in pattern.components() {
        let name = Path::new(&component);
        if !matches!(component, Component::Normal(_)) || !is_pattern(name) {
            for place in &mut places {
                place.push(name);
            }
            continue;
        }
        let wanted = Pattern::new(&name.to_string_lossy())
            .map_err(|error| format!("{error}: write it as in /mnt/nvme*/forebay"))?;
        let mut next = Vec::new();
        for place in &places {
            match entries(place) {
                Ok(names) => {
                    let fitting = names
                        .into_iter()
                        .filter(|name| wanted.matches_with(&name.to_string_lossy(), OPTIONS));
                    next.extend(fitting.map(|name| place.join(name)));
                }
                // The content of a matching but unreadable directory has no name.
                Err(error) if is_fixed && !is_absent(&error) => {
                    let place = place.display();
                    return Err(format!("{place}: {error}: let the server's user read it"));
                }
                Err(_) => {}
            }
        }
        next.sort();
        places = next;
        is_fixed = false;
    }
    let found = there(places, patience, look);
    if found.is_empty() {
        return Err(
            "no directory matches: make one on each disk, writable for the server's user".into(),
        );
    }
    Ok(found)
}

fn entries(place: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    let here = place.as_os_str().is_empty();
    fs::read_dir(if here { Path::new(".") } else { place })?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect()
}

/// Directories, and entries of unknown kind.
fn there(
    places: Vec<PathBuf>,
    patience: Duration,
    look: fn(&Path) -> io::Result<bool>,
) -> Vec<PathBuf> {
    let looks: Vec<_> = places
        .into_iter()
        .map(|place| {
            let (tell, told) = mpsc::channel();
            let path = place.clone();
            // A hanging disk stays behind with its thread.
            thread::spawn(move || drop(tell.send(look(&path))));
            (place, told)
        })
        .collect();
    let end = Instant::now() + patience;
    looks
        .into_iter()
        .filter(|(_, told)| {
            let left = end.saturating_duration_since(Instant::now());
            match told.recv_timeout(left) {
                Ok(Ok(is_directory)) => is_directory,
                Ok(Err(error)) => !is_absent(&error),
                Err(_) => true,
            }
        })
        .map(|(place, _)| place)
        .collect()
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disks(names: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a directory");
        for name in names {
            fs::create_dir_all(root.path().join(name)).expect("a directory");
        }
        root
    }

    fn names(root: &Path, found: &[PathBuf]) -> Vec<String> {
        let short = found.iter().map(|path| {
            path.strip_prefix(root)
                .expect("below")
                .display()
                .to_string()
        });
        short.collect()
    }

    #[test]
    fn a_pattern_stands_for_the_directories_that_are_there_in_order() {
        let root = disks(&[
            "nvme1/forebay",
            "nvme0/forebay",
            "nvme2", // not mounted, or not prepared
            "sda/forebay",
            ".nvme3/forebay",
            "nvme10/forebay/0",
        ]);
        fs::write(root.path().join("nvme2/forebay"), "a file").expect("write");
        let dirs = [
            root.path().join("nvme*/forebay"),
            root.path().join("made/later"),
            root.path().join("nvme[1-9]*/forebay/?"),
        ];
        let found = expand(&dirs).expect("directories");
        assert_eq!(
            names(root.path(), &found),
            [
                "nvme0/forebay",
                "nvme1/forebay",
                "nvme10/forebay",
                "made/later",
                "nvme10/forebay/0"
            ]
        );
    }

    #[test]
    fn a_pattern_without_a_directory_is_refused_by_name() {
        let root = disks(&["nvme0"]);
        for (pattern, said) in [
            ("nvme*/forebay", "no directory matches"),
            ("nowhere/*/forebay", "no directory matches"),
            ("nvme[0/forebay", "write it as in /mnt/nvme*/forebay"),
        ] {
            let pattern = root.path().join(pattern);
            let (named, why) = expand(std::slice::from_ref(&pattern)).expect_err("refused");
            assert_eq!(named, pattern);
            assert!(why.contains(said), "{why}");
        }
    }

    #[test]
    fn a_directory_whose_name_looks_like_a_pattern_is_itself() {
        let root = disks(&["disk[0]", "disk0"]);
        let dir = root.path().join("disk[0]");
        assert_eq!(expand(std::slice::from_ref(&dir)).expect("there"), [dir]);
    }

    #[test]
    fn a_disk_that_fails_or_hangs_is_not_left_out() {
        let root = disks(&["a", "b-fails", "c-hangs", "d-gone"]);
        // All but one answer within it, on a busy machine too.
        let found = matches(
            &root.path().join("*"),
            Duration::from_secs(3),
            |path| match path.to_string_lossy().rsplit('-').next() {
                Some("fails") => Err(io::Error::from_raw_os_error(5)),
                Some("hangs") => loop {
                    thread::park();
                },
                Some("gone") => Err(io::ErrorKind::NotFound.into()),
                _ => Ok(true),
            },
        );
        let found = found.expect("some");
        assert_eq!(names(root.path(), &found), ["a", "b-fails", "c-hangs"]);
    }
}
