//! What Prometheus reads: what was counted, and what the server is in at this moment.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::{
        EncodeLabelSet,
        text::{encode_eof, encode_registry},
    },
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use crate::{
    core::state::{State, VolumeState},
    metrics::{
        Metrics, PREFIX, add, add_unit, process,
        text::{Format, to_text},
    },
    release,
    staging::{Health, StatsSnapshot},
};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Build {
    version: &'static str,
    commit: &'static str,
}

type Size = Gauge<u64, AtomicU64>;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Disk {
    disk: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DiskState {
    disk: String,
    state: &'static str,
}

/// Name, help and value of what a volume counts by itself.
type Count = (&'static str, &'static str, fn(&StatsSnapshot) -> u64);

const VOLUME_COUNTS: [Count; 15] = [
    (
        "volume_failed_commits",
        "Commits that were refused or failed",
        |stats| stats.failed_commits,
    ),
    (
        "volume_commit_groups",
        "Groups in which commits reached the disk",
        |stats| stats.commit_groups,
    ),
    ("volume_runs", "Runs written", |stats| stats.runs),
    ("volume_runs_bytes", "Bytes of runs written", |stats| {
        stats.run_bytes
    }),
    (
        "volume_runs_direct",
        "Runs written past the page cache",
        |stats| stats.direct_runs,
    ),
    (
        "volume_runs_pressure",
        "Runs written because memory was needed",
        |stats| stats.pressure_runs,
    ),
    (
        "volume_runs_settled",
        "Runs written from the commit log: a shuffle had gone quiet or filled a run",
        |stats| stats.settled_runs,
    ),
    (
        "volume_log_bytes",
        "Bytes appended to commit logs",
        |stats| stats.log_bytes,
    ),
    (
        "volume_syncs",
        "Syncs of segments and commit logs",
        |stats| stats.syncs,
    ),
    (
        "volume_read_memory_bytes",
        "Bytes fetched from memory",
        |stats| stats.read_memory_bytes,
    ),
    (
        "volume_read_disk_bytes",
        "Bytes fetched from files",
        |stats| stats.read_disk_bytes,
    ),
    (
        "volume_read_failures",
        "Runs and log records that could not be read",
        |stats| stats.read_failures,
    ),
    (
        "volume_deleted_bytes",
        "Bytes of deleted shuffles",
        |stats| stats.deleted_bytes,
    ),
    (
        "volume_saved_bytes",
        "Bytes of deleted shuffles that never had to be written back",
        |stats| stats.saved_bytes,
    ),
    (
        "volume_reclaimed_bytes",
        "Bytes of local copies removed because the object store has them",
        |stats| stats.reclaimed_bytes,
    ),
];

/// All metrics in this format; without a state while the server starts.
pub(crate) fn render(metrics: &Metrics, state: Option<&State>, format: Format) -> String {
    let mut open_metrics = String::new();
    let mut current = Registry::with_prefix(PREFIX);
    build(&mut current);
    if let Some(state) = state {
        register(&mut current, state);
    }
    let mut own = Registry::default();
    process::register(&mut own);
    [&metrics.registry, &current, &own]
        .into_iter()
        .try_for_each(|registry| encode_registry(&mut open_metrics, registry))
        .and_then(|()| encode_eof(&mut open_metrics))
        .expect("a String takes all");
    match format {
        Format::OpenMetrics => open_metrics,
        Format::Text => to_text(&open_metrics),
    }
}

/// What is known of the process without a server in it.
fn build(r: &mut Registry) {
    if let Some(peak) = process::resident_peak() {
        let help = "Largest resident memory of this process so far";
        bytes(r, "memory_resident_peak", help, peak);
    }
    let build = Build {
        version: release::VERSION,
        commit: release::commit(),
    };
    let help = "1, labelled with the build that runs";
    add(r, "build_info", help, Family::<Build, Size>::default())
        .get_or_create_owned(&build)
        .set(1);
}

fn register(r: &mut Registry, state: &State) {
    size(r, "apps", "Apps that may hold data", state.apps as u64);
    size(r, "attempts", "Committed attempts held", state.attempts);
    size(
        r,
        "draining",
        "1 if new attempts are refused",
        u64::from(state.draining),
    );
    size(
        r,
        "permits_waiting",
        "Batches that wait for memory",
        state.memory.waiting,
    );
    bytes(
        r,
        "memory_used",
        "Memory taken by pushed bytes",
        state.memory.used,
    );
    bytes(
        r,
        "memory_limit",
        "Memory there is for pushed bytes (setting memory)",
        state.memory.limit,
    );

    let used = add_unit(
        r,
        "volume_used",
        "Segments and commit logs",
        Unit::Bytes,
        Family::<Disk, Size>::default(),
    );
    let free = add_unit(
        r,
        "volume_free",
        "Free on the volume's file system",
        Unit::Bytes,
        Family::<Disk, Size>::default(),
    );
    let health = add(
        r,
        "volume_state",
        "1 for the state that the volume is in",
        Family::<DiskState, Size>::default(),
    );
    for volume in &state.volumes {
        used.get_or_create_owned(&label(volume))
            .set(volume.bytes_used);
        free.get_or_create_owned(&label(volume))
            .set(volume.bytes_free);
        for state in Health::STATES {
            let label = DiskState {
                disk: volume.disk.clone(),
                state,
            };
            health
                .get_or_create_owned(&label)
                .set(u64::from(volume.state == state));
        }
    }
    for (name, help, value) in VOLUME_COUNTS {
        let counts = add(r, name, help, Family::<Disk, Counter>::default());
        for volume in &state.volumes {
            counts
                .get_or_create_owned(&label(volume))
                .inc_by(value(&volume.stats));
        }
    }
}

fn size(registry: &mut Registry, name: &str, help: &str, value: u64) {
    add(registry, name, help, Size::default()).set(value);
}

fn bytes(registry: &mut Registry, name: &str, help: &str, value: u64) {
    add_unit(registry, name, help, Unit::Bytes, Size::default()).set(value);
}

fn label(volume: &VolumeState) -> Disk {
    Disk {
        disk: volume.disk.clone(),
    }
}
