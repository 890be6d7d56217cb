//! A control group that has a part of one processor, as a container with a CPU limit has.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::skipped;

const ROOT: &str = "/sys/fs/cgroup";
const PERIOD: u32 = 100_000;

/// Removed when dropped; what still runs in it goes back to where everything is.
pub struct Quota {
    parent: PathBuf,
    path: PathBuf,
}

impl Quota {
    /// With so many percent of one processor; [`skipped`], and `None`, where there can be none.
    pub fn of(percent: u32) -> Option<Self> {
        let first = Path::new(ROOT).join("cpu");
        let (parent, is_first) = match first.is_dir() {
            true => (first, true),
            false => (PathBuf::from(ROOT), false),
        };
        let path = parent.join(format!("forebay-test-{}", std::process::id()));
        let micros = PERIOD / 100 * percent;
        let made = fs::create_dir(&path).and_then(|()| match is_first {
            true => fs::write(path.join("cpu.cfs_period_us"), PERIOD.to_string())
                .and_then(|()| fs::write(path.join("cpu.cfs_quota_us"), micros.to_string())),
            false => fs::write(path.join("cpu.max"), format!("{micros} {PERIOD}")),
        });
        if let Err(error) = made {
            drop(fs::remove_dir(&path));
            skipped(&format!("no control group at {}: {error}", path.display()));
            return None;
        }
        Some(Self { parent, path })
    }

    /// Puts a process into it.
    pub fn take(&self, pid: u32) {
        fs::write(self.path.join("cgroup.procs"), pid.to_string()).expect("a process can be moved");
    }

    /// Periods in which all of its time was used up.
    pub fn throttled(&self) -> u64 {
        let stat = fs::read_to_string(self.path.join("cpu.stat")).expect("the group is there");
        let line = stat
            .lines()
            .find_map(|line| line.strip_prefix("nr_throttled "));
        line.and_then(|count| count.trim().parse().ok())
            .expect("a count of periods")
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        let inside = fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default();
        for pid in inside.lines() {
            drop(fs::write(self.parent.join("cgroup.procs"), pid));
        }
        drop(fs::remove_dir(&self.path));
    }
}
