//! What a data directory lies on, before anything is made in it.
//!
//! Shuffle data fill disks. On the device of `/` they fill the machine's own, and kubelet evicts
//! pods for it; in a container's own file system they go with the container, through layers that
//! make every write slow. Both are what a directory is that was to be a mount and is none. So both
//! are refused unless somebody wants it so (setting `allow-root-device`). A tmpfs is memory: it is
//! told.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use crate::staging::{
    error::Error,
    files::directory::{check_mounted, mount_point, resolved},
};

/// File systems of containers, as the kernel names them.
const LAYERS: [&str; 2] = ["overlay", "fuse.fuse-overlayfs"];
const MEMORY: [&str; 2] = ["tmpfs", "ramfs"];

/// Refuses what data do not belong on; answers what a person should know about it otherwise.
/// Blocking.
pub fn check_ground(dir: &Path, allow_root: bool) -> Result<Option<String>, Error> {
    // A disk that is not mounted is told as such when the directory is opened, and is no reason not
    // to serve the others.
    if check_mounted(dir).is_err() {
        return Ok(None);
    }
    let there = resolved(dir);
    let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev()).ok();
    let own = there.ancestors().find_map(device);
    // What cannot be looked at is told when it is opened, too.
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let judged = judge(
        &mounts,
        &there,
        own.is_some() && own == device(Path::new("/")),
    );
    match judged {
        Ground::Refused(reason) if !allow_root => Err(Error::Directory {
            path: dir.into(),
            reason,
        }),
        Ground::Memory(told) => Ok(Some(told)),
        _ => Ok(None),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Ground {
    Good,
    Memory(String),
    Refused(String),
}

fn judge(mountinfo: &str, dir: &Path, on_root_device: bool) -> Ground {
    const REMEDY: &str = "mount a disk there and name a directory on it, or set allow-root-device = true (--allow-root-device, \
                          FOREBAY_ALLOW_ROOT_DEVICE=true) for a trial";
    let mounts = mountinfo.lines().filter_map(|line| {
        let (_, after) = line.split_once(" - ")?;
        let mut after = after.split(' ');
        let (kind, source) = (after.next()?, after.next()?);
        Some((mount_point(line)?, kind, source))
    });
    // Of several at one place the last covers the others.
    let mounts = mounts.filter(|(point, ..)| dir.starts_with(point));
    let mount = mounts.max_by_key(|(point, ..)| point.as_os_str().len());
    let (point, kind, source) = match &mount {
        Some((point, kind, source)) => (point.as_path(), *kind, *source),
        None => (Path::new("/"), "?", "?"),
    };
    let point = point.display();
    if LAYERS.contains(&kind) {
        return Ground::Refused(format!(
            "lies on overlayfs (file system {kind}, mounted at {point}), a container's own layers, which are slow and go with it: {REMEDY}"
        ));
    }
    if MEMORY.contains(&kind) {
        return Ground::Memory(format!(
            "file system {kind}, mounted at {point}: its data are memory of this machine and go with it"
        ));
    }
    match on_root_device {
        true => Ground::Refused(format!(
            "lies on the device of / ({source}, file system {kind}, mounted at {point}), which shuffle data would fill for the whole \
             machine: {REMEDY}"
        )),
        false => Ground::Good,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTAINER: &str = "\
        1 0 0:50 / / rw - overlay overlay rw,lowerdir=/a:/b\n\
        2 1 0:51 / /dev/shm rw - tmpfs shm rw\n\
        3 1 8:16 /pods/1/data /data rw shared:1 - ext4 /dev/sdb rw\n\
        4 1 8:17 / /mnt/my\\040disk rw - xfs /dev/sdc rw\n\
        5 1 0:52 / /covered rw - ext4 /dev/sdd rw\n\
        6 5 0:53 / /covered rw - tmpfs tmpfs rw\n";
    const MACHINE: &str =
        "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 8:16 / /disk1 rw - ext4 /dev/sdb rw\n";

    #[test]
    fn layers_and_the_device_of_the_root_are_refused_by_name() {
        for dir in ["/var/lib/forebay", "/", "/database"] {
            let Ground::Refused(why) = judge(CONTAINER, Path::new(dir), true) else {
                panic!("{dir} is taken");
            };
            for word in ["overlay", "mounted at /)", "allow-root-device"] {
                assert!(why.contains(word), "no {word:?} in {why}");
            }
        }
        let Ground::Refused(why) = judge(MACHINE, Path::new("/disk2/forebay"), true) else {
            panic!("the root's device is taken");
        };
        for word in ["/dev/sda1", "ext4", "mounted at /)", "allow-root-device"] {
            assert!(why.contains(word), "no {word:?} in {why}");
        }
    }

    #[test]
    fn disks_are_taken_and_memory_is_told() {
        for dir in ["/data", "/data/a/b", "/mnt/my disk/forebay"] {
            assert_eq!(judge(CONTAINER, Path::new(dir), false), Ground::Good);
        }
        assert_eq!(
            judge(MACHINE, Path::new("/disk1/forebay"), false),
            Ground::Good
        );
        for dir in ["/dev/shm/forebay", "/covered/x"] {
            let Ground::Memory(told) = judge(CONTAINER, Path::new(dir), false) else {
                panic!("{dir} is no memory");
            };
            assert!(told.contains("tmpfs"), "{told}");
        }
    }

    #[test]
    fn a_directory_that_is_not_there_yet_lies_where_it_would_be_made() {
        let device = |path: &str| fs::metadata(path).expect("it is there").dev();
        let missing = Path::new("/forebay-is-not-here/a/b");
        match device("/") == device("/proc") {
            true => {}
            false => {
                let error = check_ground(missing, false).expect_err("it would be on /");
                assert!(error.to_string().contains("allow-root-device"), "{error}");
                check_ground(missing, true).expect("somebody wants it so");
            }
        }
    }
}
