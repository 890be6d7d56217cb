//! Files of the volume that the index does not name.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

use crate::staging::{disk::Disk, files::lost::lost_dir};

/// Removes segments, logs and directories that the index does not name; returns the number of
/// files. Files of other kinds are left alone. If the index was `damaged`, an unnamed file may be
/// all that is left of something: then it goes to `lost/`, where a person may look at it.
pub(super) fn remove_unknown(
    dir: &Path,
    disk: &Disk,
    kept: &HashSet<PathBuf>,
    damaged: bool,
) -> usize {
    let mut removed = 0;
    let remove = |path: &Path| match damaged {
        true => set_aside(dir, path),
        false => disk.remove(path),
    };
    let mut sweep = |dir: &Path, extension: &str| {
        for path in entries(dir) {
            if path.extension().is_some_and(|ours| ours == extension) && !kept.contains(&path) {
                match remove(&path) {
                    Ok(()) => removed += 1,
                    Err(error) => {
                        tracing::warn!(path = %path.display(), %error, "file is not needed and cannot be removed")
                    }
                }
            }
        }
    };
    sweep(&dir.join("log"), "log");
    for app in entries(&dir.join("apps")) {
        for shuffle in entries(&app) {
            sweep(&shuffle, "seg");
            // Refused for those that are not empty, which is the point.
            let _ = fs::remove_dir(&shuffle);
        }
        let _ = fs::remove_dir(&app);
    }
    removed
}

/// Moves a file of the volume to the same place below `lost/`.
fn set_aside(dir: &Path, path: &Path) -> std::io::Result<()> {
    let to = lost_dir(dir).join(path.strip_prefix(dir).unwrap_or(path));
    tracing::warn!(from = %path.display(), to = %to.display(), "the damaged index does not name a file: it is set aside");
    fs::create_dir_all(to.parent().unwrap_or(dir))?;
    fs::rename(path, &to)
}

pub(super) fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect()
}
