//! A data directory before anything of it is opened: whose it is, which volume it holds, and
//! whether its disk is there.
//!
//! A disk that is not mounted leaves an empty directory at its mount point, which looks like one
//! that is new. So a volume that lies on a disk of its own leaves a note beside the mount point, on
//! the file system that is there without it: `.<mount point>.forebay`. Where that cannot be
//! written, there is none, and nothing else depends on it.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use rustix::{fs::FlockOperation, io::Errno};
use shuffle_proto::ids::VolumeId;

use crate::staging::error::Error;

/// First line of the file `volume`.
pub(crate) const FORMAT_LINE: &str = "forebay-volume 2";
const NOTE: &str = "# Forebay volumes on what is mounted here. While it is not, a server begins no new ones in their place.\n\
                    # Remove this file if they are gone for good.\n";

fn refuse(dir: &Path, reason: String) -> Error {
    Error::Directory {
        path: dir.into(),
        reason,
    }
}

/// Makes sure that no other process uses the directory while the file is open.
pub(crate) fn lock(dir: &Path) -> Result<File, Error> {
    fs::create_dir_all(dir).map_err(|error| refuse(dir, format!("cannot be made: {error}")))?;
    let path = dir.join("LOCK");
    let mut options = File::options();
    options.create(true).truncate(false).write(true);
    let file = options.open(&path).or_else(|error| {
        // What it has can be served all the same.
        let read_only = error.raw_os_error() == Some(Errno::ROFS.raw_os_error());
        let file = read_only.then(|| File::open(&path).ok()).flatten();
        file.ok_or_else(|| {
            refuse(
                dir,
                format!("cannot be written: {error}; give one that this user may write to"),
            )
        })
    })?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(error) if error == Errno::WOULDBLOCK => Err(refuse(
            dir,
            "is in use by another process: end that one, or give another directory".into(),
        )),
        Err(error) => Err(refuse(dir, format!("cannot be locked: {error}"))),
    }
}

/// The volume's id, and whether it was made just now.
pub(crate) fn identity(dir: &Path) -> Result<(VolumeId, bool), Error> {
    let path = dir.join("volume");
    match fs::read_to_string(&path) {
        Ok(text) => {
            let mut lines = text.lines();
            match (lines.next(), lines.next().and_then(VolumeId::parse)) {
                (Some(FORMAT_LINE), Some(id)) => Ok((id, false)),
                (Some(line), _) if line.starts_with("forebay-volume ") && line != FORMAT_LINE => Err(refuse(dir, format!(
                    "its file `volume` says {line:?}, this server reads {FORMAT_LINE:?}: run the server that wrote it, or empty it"
                ))),
                _ => Err(refuse(dir, "its file `volume` is not what Forebay writes: bring back the file, or empty the directory".into())),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let listing = fs::read_dir(dir);
            let listing =
                listing.map_err(|error| refuse(dir, format!("cannot be listed: {error}")))?;
            for entry in listing.flatten() {
                let name = entry.file_name();
                if name != "LOCK" && name != "volume.new" && name != "lost+found" {
                    return Err(refuse(
                        dir,
                        format!("is not a volume and holds {name:?}: give an empty directory"),
                    ));
                }
            }
            let id = VolumeId::random();
            create(dir, id).map_err(|source| Error::io("create", path, source))?;
            tracing::info!(path = %dir.display(), volume = %id, "volume created");
            Ok((id, true))
        }
        Err(error) => Err(refuse(
            dir,
            format!("its file `volume` cannot be read: {error}"),
        )),
    }
}

/// The id of a volume that cannot be opened, if it can be read.
pub(crate) fn known_id(dir: &Path) -> Option<VolumeId> {
    let text = fs::read_to_string(dir.join("volume")).ok()?;
    VolumeId::parse(text.lines().nth(1)?)
}

/// Writes the file `volume`, whole or not at all.
fn create(dir: &Path, id: VolumeId) -> io::Result<()> {
    let temporary = dir.join("volume.new");
    let mut file = File::create(&temporary)?;
    writeln!(file, "{FORMAT_LINE}\n{id}")?;
    file.sync_all()?;
    fs::rename(&temporary, dir.join("volume"))?;
    File::open(dir)?.sync_all()
}

// === the disk under it ===

/// Refuses a directory whose disk is not mounted, as far as a note says that there was one.
pub(crate) fn check_mounted(dir: &Path) -> Result<(), Error> {
    if dir.join("volume").exists() {
        return Ok(());
    }
    let Some(mounts) = mounts() else {
        return Ok(());
    };
    let there = resolved(dir);
    for point in there.ancestors() {
        let Some(note) = note_beside(point) else {
            continue;
        };
        if mounts.iter().any(|mount| mount == point) {
            continue;
        }
        let text = fs::read_to_string(&note).unwrap_or_default();
        if let Some((id, _)) = noted(&text).find(|(_, noted)| *noted == there) {
            return Err(refuse(
                dir,
                format!(
                    "its disk is not mounted: by {} volume {id} lies on what is mounted at {}: mount it and start the server again; if \
                     it is gone for good, remove that file, and the directory becomes a new volume",
                    note.display(),
                    point.display()
                ),
            ));
        }
    }
    Ok(())
}

/// Writes a note beside the mount point, from which [`check_mounted`] knows that a disk belongs
/// there. Volumes that are gone are taken out of the note.
pub(crate) fn note_mount(dir: &Path, id: VolumeId) {
    let dir = resolved(dir);
    let mounts = mounts().unwrap_or_default();
    let point = mounts.iter().filter(|point| dir.starts_with(point));
    let Some(point) = point.max_by_key(|point| point.as_os_str().len()) else {
        return;
    };
    // What is temporary is nobody's disk.
    let temporary = [std::env::temp_dir(), "/tmp".into(), "/dev/shm".into()];
    let Some(note) = note_beside(point) else {
        return;
    };
    if temporary.contains(point) {
        return;
    }
    if let Err(error) = write_note(&note, &dir, id) {
        tracing::debug!(path = %note.display(), %error, "no note beside the mount point");
    }
}

fn write_note(note: &Path, dir: &Path, id: VolumeId) -> io::Result<()> {
    let mut options = File::options();
    let options = options.read(true).write(true).create(true).truncate(false);
    let mut file = options.open(note)?;
    // Volumes of one disk are opened at the same time.
    rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
    let before = io::read_to_string(&file)?;
    let others = noted(&before).filter(|(_, other)| *other != dir && other.join("volume").exists());
    let mut text = String::from(NOTE);
    for (id, dir) in others {
        text.push_str(&format!("{id} {}\n", dir.display()));
    }
    text.push_str(&format!("{id} {}\n", dir.display()));
    if text != before {
        file.set_len(0)?;
        io::Seek::rewind(&mut file)?;
        file.write_all(text.as_bytes())?;
    }
    Ok(())
}

/// Ids and directories of volumes.
fn noted(text: &str) -> impl Iterator<Item = (&str, PathBuf)> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(' ').map(|(id, dir)| (id, dir.into())))
}

/// The note for what is mounted at `point`; none for the root.
fn note_beside(point: &Path) -> Option<PathBuf> {
    let (parent, name) = (point.parent()?, point.file_name()?.to_str()?);
    Some(parent.join(format!(".{name}.forebay")))
}

/// Without symbolic links, as far as it is there.
pub(crate) fn resolved(dir: &Path) -> PathBuf {
    let absolute = std::path::absolute(dir).unwrap_or_else(|_| dir.into());
    for there in absolute.ancestors() {
        if let Ok(real) = fs::canonicalize(there) {
            let rest = absolute
                .strip_prefix(there)
                .unwrap_or_else(|_| Path::new(""));
            return match rest == Path::new("") {
                true => real,
                false => real.join(rest),
            };
        }
    }
    absolute
}

/// Where something is mounted in this process' view.
fn mounts() -> Option<Vec<PathBuf>> {
    let text = fs::read_to_string("/proc/self/mountinfo").ok()?;
    Some(text.lines().filter_map(mount_point).collect())
}

/// The fifth field of a line; the kernel writes blanks and the like in octal.
pub(crate) fn mount_point(line: &str) -> Option<PathBuf> {
    let field = line.split(' ').nth(4)?;
    let mut path = String::with_capacity(field.len());
    let mut rest = field;
    while let Some((before, after)) = rest.split_once('\\') {
        path.push_str(before);
        let code = after
            .get(..3)
            .and_then(|code| u8::from_str_radix(code, 8).ok());
        path.push(char::from(code?));
        rest = &after[3..];
    }
    path.push_str(rest);
    Some(path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_as_the_kernel_writes_them() {
        let line = r"36 35 98:0 /root /mnt/my\040disk\134x rw,noatime master:1 - ext4 /dev/sda rw";
        let point = mount_point(line).expect("five fields");
        assert_eq!(point, Path::new(r"/mnt/my disk\x"));
        assert!(mounts().is_some_and(|all| all.contains(&"/proc".into())));
    }

    #[test]
    fn a_directory_whose_disk_a_note_names_is_not_begun_anew_without_it() {
        let scratch = tempfile::tempdir().expect("temporary directory");
        let root = fs::canonicalize(scratch.path()).expect("there");
        let id = VolumeId::random();
        let (point, note) = (root.join("disk"), root.join(".disk.forebay"));
        for below in ["", "forebay", "a/b"] {
            let dir = match below {
                "" => point.clone(),
                below => point.join(below),
            };
            check_mounted(&dir).expect("nothing was ever noted");
            write_note(&note, &dir, id).expect("write");
            check_mounted(&point.join("other")).expect("it is not noted");
            let error = check_mounted(&dir).expect_err("nothing is mounted there");
            let text = error.to_string();
            assert!(text.contains("not mounted"), "{text}");
            assert!(text.contains(&id.to_string()), "{text}");
            assert!(text.contains(note.to_str().expect("text")), "{text}");
            fs::remove_file(&note).expect("remove");
            check_mounted(&dir).expect("the note is gone");
        }
    }

    #[test]
    fn a_note_keeps_the_volumes_that_are_there() {
        let scratch = tempfile::tempdir().expect("temporary directory");
        let note = scratch.path().join(".disk.forebay");
        let dirs = ["one", "two", "three"].map(|name| scratch.path().join(name));
        let ids = dirs.clone().map(|dir| {
            fs::create_dir(&dir).expect("make");
            let id = VolumeId::random();
            create(&dir, id).expect("write");
            write_note(&note, &dir, id).expect("write");
            id.to_string()
        });
        fs::remove_dir_all(&dirs[0]).expect("remove");
        write_note(&note, &dirs[1], identity(&dirs[1]).expect("there").0).expect("write");
        let text = fs::read_to_string(&note).expect("read");
        let found: Vec<_> = noted(&text).map(|(id, dir)| (id.to_owned(), dir)).collect();
        let expected = [2, 1].map(|at: usize| (ids[at].clone(), dirs[at].clone()));
        assert_eq!(found, expected);
    }
}
