//! The volumes of this server: which of them takes an attempt, which of them has what was asked for.

use std::{
    collections::HashMap,
    fmt::Write,
    hash::{DefaultHasher, Hash, Hasher},
    ops::Deref,
    path::PathBuf,
    sync::Arc,
};

use parking_lot::Mutex;
use shuffle_proto::{
    ids::{AppId, ShuffleId, VolumeId},
    kind::Kind,
    v1,
};

use crate::{
    error::Refusal,
    registry::Ledger,
    staging::{AppRecord, AttemptKey, Error, Health, Usage, Volume},
};

/// All volumes, in the order of their data directories. Clones are the same.
#[derive(Clone)]
pub(crate) struct Volumes(Arc<Inner>);

struct Inner {
    volumes: Vec<Volume>,
    /// Where attempts are being written, so that a second stream of one meets the first. Not kept for a single volume.
    writing: Mutex<HashMap<AttemptKey, (VolumeId, usize)>>,
}

/// Holds an attempt on its volume while a stream of it runs.
pub(crate) struct Choice {
    held: Option<(Volumes, AttemptKey)>,
}

impl Deref for Volumes {
    type Target = [Volume];

    fn deref(&self) -> &[Volume] {
        &self.0.volumes
    }
}

impl Volumes {
    pub(crate) fn new(volumes: Vec<Volume>) -> Self {
        Self(Arc::new(Inner {
            volumes,
            writing: Mutex::default(),
        }))
    }

    /// The volume with this id, or why not.
    pub(super) fn find(&self, id: VolumeId) -> Result<&Volume, Refusal> {
        self.iter().find(|volume| volume.id() == id).ok_or_else(|| {
            let served: Vec<_> = self.iter().map(|volume| volume.id().to_string()).collect();
            let message = format!(
                "volumes has {id}: not served here, but {}; its disk is elsewhere or gone",
                served.join(", ")
            );
            Refusal::new(Kind::Lost, message)
        })
    }

    /// The volume for an attempt: the one that has it already, or else one that is well, by its free space.
    pub(super) fn choose(&self, key: &AttemptKey) -> Result<(&Volume, Choice), Refusal> {
        let free = Choice { held: None };
        if let Some(volume) = self.iter().find(|volume| volume.committed(key).is_some()) {
            return Ok((volume, free));
        }
        if let [volume] = &self[..] {
            return if volume.health() == Health::Ok {
                Ok((volume, free))
            } else {
                Err(self.none_is_well())
            };
        }
        let mut writing = self.0.writing.lock();
        let running = writing
            .get(key)
            .and_then(|(id, _)| self.iter().find(|volume| volume.id() == *id));
        let volume = match running {
            Some(volume) => volume,
            None => {
                let well = self.iter().filter(|volume| volume.health() == Health::Ok);
                let best = well.max_by(|a, b| score(key, a).total_cmp(&score(key, b)));
                best.ok_or_else(|| self.none_is_well())?
            }
        };
        writing
            .entry(key.clone())
            .or_insert_with(|| (volume.id(), 0))
            .1 += 1;
        Ok((
            volume,
            Choice {
                held: Some((self.clone(), key.clone())),
            },
        ))
    }

    fn none_is_well(&self) -> Refusal {
        let mut message = "no volume takes new attempts".to_owned();
        for volume in self.iter() {
            let health = volume.health();
            let (state, reason) = state(&health);
            write!(
                message,
                "; {} is {state}: {}",
                volume.id(),
                reason.unwrap_or_default()
            )
            .expect("a String takes all");
        }
        Refusal::new(Kind::Unavailable, message + "; push to another server")
    }

    pub(super) fn delete_shuffle(&self, app: &AppId, shuffle: ShuffleId) -> Result<u64, Error> {
        // All are tried before the first error is told.
        let results: Vec<_> = self
            .iter()
            .map(|volume| volume.delete_shuffle(app, shuffle))
            .collect();
        results.into_iter().sum()
    }

    pub(super) fn usage(&self, app: &AppId, shuffle: Option<ShuffleId>) -> v1::UsageResponse {
        let mut usage = Usage::default();
        self.iter()
            .for_each(|volume| usage.add(&volume.usage(app, shuffle)));
        let levels = [
            (v1::Durability::Memory, usage.memory),
            (v1::Durability::Disk, usage.disk),
            (v1::Durability::Fsync, usage.fsync),
            (v1::Durability::Object, usage.object),
        ];
        let levels = levels.into_iter().filter(|(_, bytes)| *bytes > 0);
        let levels = levels.map(|(level, bytes)| v1::LevelBytes {
            durability: level as i32,
            bytes,
        });
        v1::UsageResponse {
            attempts: usage.attempts,
            levels: levels.collect(),
        }
    }
}

impl Ledger for Volumes {
    fn put(&self, record: &AppRecord) -> Result<(), String> {
        let errors: Vec<_> = self
            .iter()
            .filter_map(|volume| volume.put_app(record).err())
            .collect();
        for error in &errors {
            tracing::warn!(app = %record.app, %error, "a volume did not write the app down");
        }
        if errors.len() < self.len() {
            Ok(())
        } else {
            Err(format!("no volume wrote it down: {}", join(&errors)))
        }
    }

    fn delete(&self, app: &AppId) -> Result<u64, String> {
        let (freed, errors): (Vec<_>, Vec<_>) = self
            .iter()
            .map(|volume| volume.delete_app(app))
            .partition(Result::is_ok);
        let errors: Vec<_> = errors.into_iter().filter_map(Result::err).collect();
        if errors.is_empty() {
            Ok(freed.into_iter().flatten().sum())
        } else {
            Err(format!(
                "its data could not be deleted everywhere: {}",
                join(&errors)
            ))
        }
    }
}

impl Drop for Choice {
    fn drop(&mut self) {
        let Some((volumes, key)) = self.held.take() else {
            return;
        };
        let mut writing = volumes.0.writing.lock();
        if let Some((_, streams)) = writing.get_mut(&key) {
            *streams -= 1;
            if *streams == 0 {
                writing.remove(&key);
            }
        }
    }
}

/// Name of a state, and the reason for it.
pub(crate) fn state(health: &Health) -> (&'static str, Option<&str>) {
    match health {
        Health::Ok => ("ok", None),
        Health::Full(reason) => ("full", Some(reason)),
        Health::Failed(reason) => ("failed", Some(reason)),
    }
}

/// A data directory as it is named in metrics.
pub(crate) fn disk(volume: &Volume) -> String {
    PathBuf::from(volume.dir()).display().to_string()
}

/// Weighted rendezvous hashing: the volume with the highest score takes the attempt, and each takes a share like its free space.
/// A retry mostly meets the volume of the first try, and nothing has to be remembered.
fn score(key: &AttemptKey, volume: &Volume) -> f64 {
    let mut hasher = DefaultHasher::new();
    (key, volume.id()).hash(&mut hasher);
    let uniform = (hasher.finish() >> 11) as f64 / (1u64 << 53) as f64;
    (volume.bytes_free() as f64 + 1.0) / -(uniform.max(f64::MIN_POSITIVE)).ln()
}

fn join(errors: &[Error]) -> String {
    errors
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}
