//! A data directory before anything of it is opened: whose it is, which volume it holds, and
//! whether its disk is there.
//!
//! A disk that is not mounted leaves an empty directory at its mount point, which looks like one
//! that is new. So a volume that lies on a disk of its own leaves a note beside the mount point, on
//! the file system that is there without it: `.<mount point>.forebay`. Where that cannot be
//! written, there is none, and nothing else depends on it.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use rustix::{fs::FlockOperation, io::Errno};
use shuffle_proto::ids::VolumeId;

use crate::staging::error::Error;

/// What each line of the file `volume` begins with.
pub(crate) const FORMAT: &str = "forebay-volume 3";
/// The file with the volume's id, and its copy: all that a volume has is lost without its id, so
/// that neither a bit of it nor a sector may be what it hangs on (invariant: one-bit-one-map).
const FILES: [&str; 2] = ["volume", "volume.copy"];
/// Equal lines of each.
const LINES: usize = 3;
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

/// The volume's id, and whether it was made just now. What is damaged of its files is put right
/// from what is not, unless the disk takes no writes.
pub(crate) fn identity(dir: &Path) -> Result<(VolumeId, bool), Error> {
    let found = FILES.map(|name| read(&dir.join(name)));
    let absent = |found: &io::Result<Vec<u8>>| matches!(found, Err(error) if error.kind() == io::ErrorKind::NotFound);
    if found.iter().all(absent) {
        return begin(dir).map(|id| (id, true));
    }
    let mut ids: Vec<_> = found.iter().flatten().flat_map(|text| ids(text)).collect();
    ids.sort_unstable();
    ids.dedup();
    let id = match ids[..] {
        [id] => id,
        [] => return Err(refuse(dir, unreadable(&found))),
        [one, other, ..] => {
            return Err(refuse(
                dir,
                format!(
                    "its files `volume` and `volume.copy` name volume {one} and volume {other}: remove the wrong one"
                ),
            ));
        }
    };
    for (name, found) in FILES.iter().zip(&found) {
        if !matches!(found, Ok(text) if *text == content(id).as_bytes()) {
            tracing::warn!(path = %dir.display(), file = name, volume = %id, "the file with the volume's id is damaged or gone: it is written anew");
            if let Err(error) = write(dir, name, id) {
                tracing::warn!(path = %dir.display(), file = name, %error, "the file with the volume's id stays as it is");
            }
        }
    }
    Ok((id, false))
}

/// Why no file says which volume this is.
fn unreadable(found: &[io::Result<Vec<u8>>]) -> String {
    let texts = found.iter().flatten();
    let mut lines =
        texts.filter_map(|text| str::from_utf8(text.split(|b| *b == b'\n').next()?).ok());
    // A flipped bit makes no number of it.
    let version = |line: &str| {
        let (_, rest) = line.split_once("forebay-volume ")?;
        let version = rest.split(' ').next()?.parse::<u32>().ok()?;
        (line.starts_with("forebay-volume ") && !line.starts_with(FORMAT)).then_some(version)
    };
    let errors = || found.iter().filter_map(|found| found.as_ref().err());
    match (lines.find_map(version), errors().find(|it| it.kind() != io::ErrorKind::NotFound)) {
        (Some(version), _) => format!(
            "its file `volume` says \"forebay-volume {version}\", this server reads {FORMAT:?}: run the server that wrote it, or empty it"
        ),
        (None, Some(error)) => format!("its file `volume` cannot be read: {error}"),
        (None, None) => "its files `volume` and `volume.copy` are not what Forebay writes: bring back one of them, or empty the directory".into(),
    }
}

/// Begins a volume in an empty directory.
fn begin(dir: &Path) -> Result<VolumeId, Error> {
    let listing = fs::read_dir(dir);
    let listing = listing.map_err(|error| refuse(dir, format!("cannot be listed: {error}")))?;
    for entry in listing.flatten() {
        let name = entry.file_name();
        if !["LOCK", "volume.new", "lost+found"]
            .iter()
            .any(|it| name == *it)
        {
            return Err(refuse(
                dir,
                format!("is not a volume and holds {name:?}: give an empty directory"),
            ));
        }
    }
    let id = VolumeId::random();
    for name in FILES {
        write(dir, name, id).map_err(|source| Error::io("create", dir.join(name), source))?;
    }
    tracing::info!(path = %dir.display(), volume = %id, "volume created");
    Ok(id)
}

/// The id of a volume that cannot be opened, if it can be read.
pub(crate) fn known_id(dir: &Path) -> Option<VolumeId> {
    let texts = FILES.iter().filter_map(|name| read(&dir.join(name)).ok());
    texts.flat_map(|text| ids(&text)).next()
}

/// Reads a file that is short; of a longer one as much as is enough to see that it is none of ours.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(1 << 12).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What the undamaged lines say.
fn ids(text: &[u8]) -> Vec<VolumeId> {
    let lines = text.split(|byte| *byte == b'\n');
    let id = |line: &[u8]| {
        let id = VolumeId::parse(str::from_utf8(line).ok()?.split(' ').nth(2)?)?;
        (self::line(id).as_bytes() == line).then_some(id)
    };
    lines.filter_map(id).collect()
}

/// Format, id, and the checksum of both.
fn line(id: VolumeId) -> String {
    let text = format!("{FORMAT} {id}");
    format!("{text} {:08x}", crc32fast::hash(text.as_bytes()))
}

fn content(id: VolumeId) -> String {
    format!("{}\n", line(id)).repeat(LINES)
}

/// Writes one of the files, whole or not at all.
fn write(dir: &Path, name: &str, id: VolumeId) -> io::Result<()> {
    let temporary = dir.join("volume.new");
    let mut file = File::create(&temporary)?;
    file.write_all(content(id).as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, dir.join(name))?;
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
    fn no_bit_and_no_file_costs_a_volume_its_id() {
        let scratch = tempfile::tempdir().expect("temporary directory");
        let dir = scratch.path();
        let (id, made) = identity(dir).expect("made");
        assert!(made);
        fs::write(dir.join("apps"), "all that it has").expect("write");
        let whole = content(id).into_bytes();
        let check = |what: &str| {
            assert_eq!(known_id(dir), Some(id), "{what}");
            assert_eq!(identity(dir).expect(what), (id, false), "{what}");
            for name in FILES {
                assert_eq!(fs::read(dir.join(name)).expect(what), whole, "{what}");
            }
        };
        for at in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[at / 8] ^= 1 << (at % 8);
            // Also where the copy has the same bit.
            for name in FILES {
                fs::write(dir.join(name), &flipped).expect("write");
            }
            assert_eq!(known_id(dir), Some(id), "bit {at}");
            // Writing them anew is the slow part.
            if at % 97 == 0 {
                check(&format!("bit {at}"));
            }
        }
        for name in FILES {
            for damage in [&b""[..], &[0; 4096], b"nonsense", b"forebay-volume 2\n"] {
                fs::write(dir.join(name), damage).expect("write");
                check(name);
            }
            fs::remove_file(dir.join(name)).expect("remove");
            check(name);
        }
        // Two volumes in one are for a person.
        write(dir, FILES[1], VolumeId::random()).expect("write");
        let error = identity(dir).expect_err("which?").to_string();
        assert!(error.contains("remove the wrong one"), "{error}");
        for name in FILES {
            fs::write(dir.join(name), "").expect("write");
        }
        let error = identity(dir).expect_err("none").to_string();
        assert!(error.contains("bring back one of them"), "{error}");
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
            write(&dir, FILES[0], id).expect("write");
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
