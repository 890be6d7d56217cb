//! What the server is in at this moment, for people, probes and metrics.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    core::{
        Core,
        volumes::{disk, why},
    },
    release,
    staging::{Health, StatsSnapshot, Usage},
};

/// See the module.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) struct State {
    pub(crate) version: &'static str,
    pub(crate) node: String,
    pub(crate) zone: String,
    pub(crate) draining: bool,
    pub(crate) volumes: Vec<VolumeState>,
    /// Apps that may hold data.
    pub(crate) apps: usize,
    /// Committed attempts that are held.
    pub(crate) attempts: u64,
    pub(crate) connections: i64,
    pub(crate) pushes: i64,
    pub(crate) fetches: i64,
    pub(crate) memory: Memory,
}

/// Memory for pushed bytes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) struct Memory {
    pub(crate) used: u64,
    pub(crate) limit: u64,
    /// Batches that wait for it.
    pub(crate) waiting: u64,
}

/// State of one volume.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) struct VolumeState {
    pub(crate) id: String,
    pub(crate) disk: String,
    pub(crate) state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    pub(crate) bytes_used: u64,
    pub(crate) bytes_free: u64,
    pub(crate) attempts: u64,
    #[serde(skip)]
    pub(crate) stats: StatsSnapshot,
}

/// What an app holds on this server.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) struct AppState {
    pub(crate) app: String,
    pub(crate) shuffles: Vec<ShuffleState>,
}

/// What a shuffle holds on this server.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) struct ShuffleState {
    pub(crate) shuffle: u32,
    /// Committed ones.
    pub(crate) attempts: u64,
    /// Bytes of these attempts by the durability level that they have reached. Of level `mirror`
    /// each of two servers has its copy at `disk`.
    pub(crate) bytes: LevelBytes,
}

/// Stored bytes by level.
#[derive(Debug, Serialize)]
pub(crate) struct LevelBytes {
    pub(crate) memory: u64,
    pub(crate) disk: u64,
    pub(crate) fsync: u64,
    pub(crate) object: u64,
}

impl Core {
    /// The apps that hold something here, with their shuffles, in order.
    pub(crate) fn apps(&self) -> Vec<AppState> {
        let mut usages = BTreeMap::new();
        self.volumes
            .iter()
            .for_each(|volume| volume.add_usages(&mut usages));
        let mut apps: Vec<AppState> = Vec::new();
        for ((app, shuffle), usage) in usages {
            if apps.last().is_none_or(|last| last.app != app.as_str()) {
                apps.push(AppState {
                    app: app.to_string(),
                    shuffles: Vec::new(),
                });
            }
            let Usage {
                attempts,
                memory,
                disk,
                fsync,
                object,
            } = usage;
            let state = ShuffleState {
                shuffle: shuffle.0,
                attempts,
                bytes: LevelBytes {
                    memory,
                    disk,
                    fsync,
                    object,
                },
            };
            apps.last_mut()
                .expect("there is one, it was pushed above")
                .shuffles
                .push(state);
        }
        apps
    }

    pub(crate) fn state(&self) -> State {
        let volumes: Vec<_> = self
            .volumes
            .iter()
            .map(|volume| {
                let health = volume.health();
                VolumeState {
                    id: volume.id().to_string(),
                    disk: disk(volume),
                    state: health.state(),
                    reason: why(volume, &health),
                    bytes_used: volume.bytes_used(),
                    bytes_free: volume.bytes_free(),
                    attempts: volume
                        .apps()
                        .iter()
                        .map(|app| volume.usage(&app.app, None).attempts)
                        .sum(),
                    stats: volume.stats(),
                }
            })
            .collect();
        State {
            version: release::VERSION,
            node: self.place.node.clone(),
            zone: self.place.zone.clone(),
            draining: self.is_draining(),
            apps: self.registry.live(),
            attempts: volumes.iter().map(|volume| volume.attempts).sum(),
            connections: self.metrics.connections.get(),
            pushes: self.metrics.streams("push"),
            fetches: self.metrics.streams("fetch"),
            memory: Memory {
                used: self.budget.used(),
                limit: self.budget.limit(),
                waiting: self.budget.waiting(),
            },
            volumes,
        }
    }

    /// Whether new outputs may be sent here, with remarks for a person. The server is not ready
    /// when all volumes are out of service; a single one does not hide the others.
    pub(crate) fn readiness(&self) -> (bool, Vec<String>) {
        let mut reasons = Vec::new();
        let mut broken = 0;
        for volume in self.volumes.iter() {
            let health = volume.health();
            broken += usize::from(health.is_broken());
            // A full one is nothing unusual: it is what reclaiming and deleting are for.
            if let Some(reason) = why(volume, &health)
                && !matches!(health, Health::Full(_))
            {
                reasons.push(format!(
                    "volume {} in {} is {}: {reason}",
                    volume.id(),
                    disk(volume),
                    health.state()
                ));
            }
        }
        let ready = !self.is_draining() && broken < self.volumes.len();
        if self.is_draining() {
            reasons.push("draining".to_owned());
        }
        (ready, reasons)
    }
}
