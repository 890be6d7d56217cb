//! This process, as the kernel counts it, by the names that every Prometheus client uses
//! (`process_…`, without our prefix).

use std::{fs, sync::atomic::AtomicU64};

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::{Registry, Unit},
};

use super::{add, add_unit};

/// Ticks a second of what `/proc` tells: the same on every processor that we are built for.
const TICKS: f64 = 100.0;

type Seconds = Gauge<f64, AtomicU64>;
type Size = Gauge<u64, AtomicU64>;

/// Registers the metrics of the process, in a registry that adds no prefix. A value that `/proc`
/// does not tell is left out: 0 would be believed.
pub(crate) fn register(r: &mut Registry) {
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let seconds = Counter::<f64, AtomicU64>::default();
    seconds.inc_by(cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9);
    let help = "CPU time of this process, user and system";
    add_unit(r, "process_cpu", help, Unit::Seconds, seconds);
    if let Some(start) = start() {
        let help = "When this process was started, since 1970";
        add_unit(
            r,
            "process_start_time",
            help,
            Unit::Seconds,
            Seconds::default(),
        )
        .set(start);
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    for (key, name, help) in [
        (
            "VmRSS:",
            "process_resident_memory",
            "Resident memory of this process",
        ),
        (
            "VmSize:",
            "process_virtual_memory",
            "Virtual memory of this process",
        ),
    ] {
        if let Some(bytes) = kibibytes(&status, key) {
            add_unit(r, name, help, Unit::Bytes, Size::default()).set(bytes);
        }
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // One of the descriptors is the directory that they are read from.
        let open = open.count().saturating_sub(1) as u64;
        let help = "Open files of this process, connections among them";
        add(r, "process_open_fds", help, Size::default()).set(open);
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let help = "Most files that this process may have open";
    add(r, "process_max_fds", help, Size::default()).set(limit.current.unwrap_or(u64::MAX));
}

/// Largest resident memory so far. No name of it is usual.
pub(crate) fn resident_peak() -> Option<u64> {
    kibibytes(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

fn kibibytes(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kib << 10)
}

/// Seconds since 1970.
fn start() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // A process may have spaces and brackets in its name, the second field; the start is the 22nd.
    let ticks: f64 = stat
        .rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(19)?
        .parse()
        .ok()?;
    let system = fs::read_to_string("/proc/stat").ok()?;
    let boot = system
        .lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim();
    Some(boot.parse::<f64>().ok()? + ticks / TICKS)
}
