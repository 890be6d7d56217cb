//! What the directory of a `file://` store lies on: a directory whose disk or share was unmounted is
//! another one, empty, on the machine's own disk. What is written there is no store's, and what is
//! not there is not lost (invariants: remote-before-reclaim, unknown-is-never-empty).

use std::{
    fs,
    path::{Path, PathBuf},
};

/// See the module.
pub(super) struct Ground {
    dir: PathBuf,
    mount: Mount,
}

/// One mount, as the kernel names it. Numbers of devices are not compared: a share that is mounted
/// again gets another one.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    point: PathBuf,
    /// Directory of the file system that is mounted there.
    root: String,
    kind: String,
    source: String,
}

impl Ground {
    /// `None` where the kernel does not tell.
    pub(super) fn of(dir: &Path) -> Option<Self> {
        let dir = fs::canonicalize(dir).ok()?;
        let mount = mount_of(&dir, &mounts()?).filter(Mount::is_known)?;
        Some(Self { dir, mount })
    }

    /// Why the directory is not the one that the store was opened in; `None` if it is. Touches no
    /// file system but `/proc`, and so never hangs.
    pub(super) fn why_gone(&self) -> Option<String> {
        let now = mount_of(&self.dir, &mounts()?).filter(Mount::is_known)?;
        (now != self.mount).then(|| {
            format!(
                "{} lies on what is mounted at {} ({}) now, and the store was opened on {} at {} ({}): mount that again",
                self.dir.display(),
                now.point.display(),
                now.source,
                self.mount.kind,
                self.mount.point.display(),
                self.mount.source,
            )
        })
    }
}

impl Mount {
    /// An automounter's mount point may be in the place of what it mounts when that is used.
    fn is_known(&self) -> bool {
        self.kind != "autofs"
    }
}

fn mounts() -> Option<String> {
    fs::read_to_string("/proc/self/mountinfo").ok()
}

/// The mount of a path without symbolic links. Of several at one point the last one covers the
/// others.
fn mount_of(dir: &Path, mounts: &str) -> Option<Mount> {
    let mounts = mounts.lines().filter_map(mount);
    let over = mounts.filter(|mount| dir.starts_with(&mount.point));
    over.max_by_key(|mount| mount.point.as_os_str().len())
}

fn mount(line: &str) -> Option<Mount> {
    let mut fields = line.split(' ');
    let (root, point) = (fields.nth(3)?, fields.next()?);
    let mut rest = fields.skip_while(|field| *field != "-").skip(1);
    Some(Mount {
        point: plain(point).into(),
        root: plain(root),
        kind: rest.next()?.to_owned(),
        source: plain(rest.next()?),
    })
}

/// The kernel writes blanks and the like in octal.
fn plain(field: &str) -> String {
    let escapes = [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ];
    let mut text = field.to_owned();
    for (escaped, plain) in escapes {
        text = text.replace(escaped, plain);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                          30 21 0:40 / /mnt/my\\040store rw shared:1 - nfs4 host:/export rw\n\
                          31 21 0:41 / /mnt/my rw - tmpfs none rw\n";

    #[test]
    fn a_mount_that_goes_or_is_covered_is_seen_and_one_that_comes_back_is_the_same() {
        let dir = Path::new("/mnt/my store/pool");
        let there = mount_of(dir, MOUNTS).expect("there");
        assert_eq!((&*there.source, &*there.kind), ("host:/export", "nfs4"));
        let gone: String = MOUNTS
            .lines()
            .filter(|it| !it.contains("nfs4"))
            .collect::<Vec<_>>()
            .join("\n");
        let now = mount_of(dir, &gone).expect("the root");
        assert_eq!(now.point, Path::new("/"));
        assert_ne!(now, there);
        let again = format!("{gone}\n99 21 0:77 / /mnt/my\\040store rw - nfs4 host:/export rw");
        assert_eq!(mount_of(dir, &again), Some(there));
        let covered = format!("{again}\n100 99 0:78 / /mnt/my\\040store rw - tmpfs none rw");
        assert_eq!(mount_of(dir, &covered).expect("there").source, "none");
    }

    #[test]
    fn a_directory_that_stays_is_there() {
        let scratch = tempfile::tempdir().expect("temporary directory");
        let ground = Ground::of(scratch.path()).expect("the kernel tells");
        assert_eq!(ground.why_gone(), None);
    }
}
