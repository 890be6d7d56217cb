//! The volumes of this server: which of them takes an attempt, which of them has what was asked
//! for.

use std::{
    collections::{HashMap, HashSet},
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
use uuid::Uuid;

use crate::{
    error::Refusal,
    registry::Ledger,
    staging::{AppRecord, AttemptKey, Error, Health, Started, Usage, Volume},
};

/// All volumes, in the order of their data directories. Clones are the same.
#[derive(Clone)]
pub(crate) struct Volumes(Arc<Inner>);

struct Inner {
    volumes: Vec<Volume>,
    /// Where attempts are being written, so that a second stream of one meets the first. Not kept
    /// for a single volume.
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

    /// Apps that the volumes have written down, each as often as volumes know it. Blocking.
    ///
    /// A volume that was away while an app was deleted still has it, and the next app of that name
    /// may have come meanwhile, with outputs of the same numbers: what was deleted on one volume is
    /// deleted on all. Where no volume knows of a deletion, different tokens tell different apps, but
    /// not which is the later one, so neither keeps anything.
    pub(crate) fn recovered(&self) -> Vec<AppRecord> {
        let is_over = |record: &AppRecord| record.life.is_some_and(|life| self.has_ended(life));
        for volume in self.iter() {
            for record in volume.apps().iter().filter(|record| is_over(record)) {
                let (app, volume_id) = (&record.app, volume.id());
                tracing::warn!(%app, volume = %volume_id, "the app was deleted while the volume was away: what it has of it is deleted");
                if let Err(error) = volume.delete_app(app) {
                    tracing::error!(%app, volume = %volume_id, %error, "what a volume has of a deleted app could not be deleted");
                }
            }
        }
        let mut recovered: Vec<_> = self.iter().flat_map(Volume::apps).collect();
        let mut tokens = HashMap::new();
        let mut mixed = HashSet::new();
        for record in &recovered {
            if *tokens.entry(&record.app).or_insert(record.token_hash) != record.token_hash {
                mixed.insert(record.app.clone());
            }
        }
        drop(tokens);
        for app in &mixed {
            tracing::error!(%app, "volumes hold different apps of this name, by their tokens: what they have of it is deleted, and its maps run again");
            if let Err(error) = self.delete(app) {
                tracing::error!(%app, %error, "what volumes have of different apps of one name could not be deleted");
            }
        }
        recovered.retain(|record| !mixed.contains(&record.app));
        recovered
    }

    fn has_ended(&self, life: Uuid) -> bool {
        self.iter().any(|volume| volume.has_ended(life))
    }

    /// The volume with this id, or why not.
    pub(crate) fn find(&self, id: VolumeId) -> Result<&Volume, Refusal> {
        // invariant: id-not-address
        self.iter().find(|volume| volume.id() == id).ok_or_else(|| {
            let served: Vec<_> = self.iter().map(|volume| volume.id().to_string()).collect();
            let message = format!(
                "volumes has {id}: not served here, but {}; its disk is elsewhere or gone",
                served.join(", ")
            );
            Refusal::new(Kind::Lost, message)
        })
    }

    /// Chooses the volume for an attempt: the volume that has the attempt already, or else a
    /// healthy one, by free space.
    pub(crate) fn choose(&self, key: &AttemptKey) -> Result<(&Volume, Choice), Refusal> {
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
            // One that has ceased to answer is left to itself: what the older stream of the attempt
            // sent there is of no use.
            Some(volume) if volume.check_answers().is_ok() => volume,
            _ => {
                // One that did not answer when the app came does not know it; it does once the disk
                // is back.
                let known = self.iter().any(|volume| volume.knows(&key.app));
                let well = self.iter().filter(|volume| {
                    volume.health() == Health::Ok && (volume.knows(&key.app) || !known)
                });
                let best = well.max_by(|a, b| score(key, a).total_cmp(&score(key, b)));
                best.ok_or_else(|| self.none_is_well())?
            }
        };
        let entry = writing
            .entry(key.clone())
            .or_insert_with(|| (volume.id(), 0));
        *entry = (volume.id(), entry.1 + 1);
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
            write!(
                message,
                "; {} is {}: {}",
                volume.id(),
                health.state(),
                health.reason().unwrap_or("it does not know the app")
            )
            .expect("a String takes all");
        }
        Refusal::new(Kind::Unavailable, message + "; push to another server")
    }

    /// Makes a call on all volumes at the same time; volumes that do not answer are not waited for.
    fn each<T: Send + 'static>(
        &self,
        call: impl Fn(&Volume) -> Result<T, Error> + Clone + Send + 'static,
    ) -> Vec<Result<T, Error>> {
        let started: Vec<_> = self
            .iter()
            .map(|volume| volume.start(call.clone()))
            .collect();
        started.into_iter().map(Started::wait).collect()
    }

    /// Blocking.
    pub(crate) fn delete_shuffle(&self, app: &AppId, shuffle: ShuffleId) -> Result<u64, Error> {
        let app = app.clone();
        // All are tried before the first error is told.
        let results = self.each(move |volume| volume.delete_shuffle(&app, shuffle));
        results.into_iter().sum()
    }

    pub(crate) fn usage(&self, app: &AppId, shuffle: Option<ShuffleId>) -> v1::UsageResponse {
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
        // A volume that came from another server knows the app by another life, which is as good.
        let lives = self.iter().map(|volume| {
            let known = volume.app(&record.app)?;
            let same = known.token_hash == record.token_hash;
            known.life.filter(|life| same && !self.has_ended(*life))
        });
        let lives: HashMap<_, _> = self.iter().map(Volume::id).zip(lives).collect();
        let common = lives.values().flatten().next().copied();
        let (common, wanted) = (common.unwrap_or_else(Uuid::new_v4), record.clone());
        let results = self.each(move |volume| {
            let life = lives.get(&volume.id()).copied().flatten().or(Some(common));
            volume.put_app(&AppRecord {
                life,
                ..wanted.clone()
            })
        });
        let mut errors = Vec::new();
        for (volume, result) in self.iter().zip(results) {
            let Err(error) = result else {
                continue;
            };
            // Of one that is out of service that is no news.
            if !volume.health().is_broken() {
                tracing::warn!(app = %record.app, %error, "a volume did not write the app down; it is told again when it is well");
            }
            errors.push(error);
        }
        if errors.len() < self.len() {
            Ok(())
        } else {
            Err(format!("no volume wrote it down: {}", join(&errors)))
        }
    }

    fn delete(&self, app: &AppId) -> Result<u64, String> {
        let wanted = app.clone();
        let results = self.each(move |volume| volume.delete_app(&wanted));
        let (mut freed, mut errors) = (0, Vec::new());
        for (volume, result) in self.iter().zip(results) {
            match result {
                Ok(bytes) => freed += bytes,
                // Nobody can read the app's data on this volume any more, and nothing more can be
                // done before the next start, see `recovered`. An app that comes again under this
                // name must not wait for one broken disk.
                Err(error) if volume.health().is_broken() => {
                    tracing::warn!(%app, %error, "the app's data stay on a disk that is out of service");
                }
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() {
            Ok(freed)
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

/// A data directory as it is named in metrics.
pub(crate) fn disk(volume: &Volume) -> String {
    PathBuf::from(volume.dir()).display().to_string()
}

/// Reason why a volume is not `ok`, for callers without a token: without paths, which name the
/// server's directories and its apps. The log has the paths.
pub(crate) fn why(volume: &Volume, health: &Health) -> Option<String> {
    let dir = volume.dir().display().to_string();
    health.reason().map(|reason| without_paths(reason, &dir))
}

fn without_paths(reason: &str, dir: &str) -> String {
    let end = |text: &str| {
        let mut ends = text.char_indices();
        let end = ends.find(|(_, c)| c.is_whitespace() || ":;,)\"".contains(*c));
        end.map_or(text.len(), |(at, _)| at)
    };
    let (mut shown, mut rest) = (String::new(), reason);
    while !rest.is_empty() {
        let begins = shown
            .chars()
            .last()
            .is_none_or(|c| c.is_whitespace() || "(\"".contains(c));
        let path = match rest.strip_prefix(dir) {
            Some(below) if begins => Some(dir.len() + end(below)),
            _ if begins && rest.starts_with('/') => Some(end(rest)),
            _ => None,
        };
        if let Some(length) = path {
            shown.push_str(if length == dir.len() && rest.starts_with(dir) {
                "its directory"
            } else {
                "a file of it"
            });
            rest = &rest[length..];
            continue;
        }
        let next = rest.chars().next().map_or(0, char::len_utf8);
        shown.push_str(&rest[..next]);
        rest = &rest[next..];
    }
    shown
}

/// Weighted rendezvous hashing: the volume with the highest score takes the attempt, and each takes
/// a share like its free space. A retry mostly meets the volume of the first try, and nothing has
/// to be remembered.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::staging::tests::{Bench, app, key, record};

    #[test]
    fn a_reason_names_no_path() {
        let dir = "/mnt/disk 1/forebay";
        for (reason, shown) in [
            (
                "write /mnt/disk 1/forebay/apps/app-7/3/1.seg: Input/output error (os error 5); see",
                "write a file of it: Input/output error (os error 5); see",
            ),
            (
                "/mnt/disk 1/forebay is another directory now",
                "its directory is another directory now",
            ),
            (
                "sync (/dev/sdb): \"/x\"",
                "sync (a file of it): \"a file of it\"",
            ),
            (
                "has taken 3.0 s, volume-slow-after is 2s",
                "has taken 3.0 s, volume-slow-after is 2s",
            ),
            ("", ""),
        ] {
            assert_eq!(without_paths(reason, dir), shown);
        }
    }

    fn of(name: &str, token: u8) -> AppRecord {
        AppRecord {
            app: AppId::try_new(name).expect("valid"),
            token_hash: [token; 32],
            ..record(&app())
        }
    }

    /// Opens a volume as soon as no thread that made a call of it before is still there.
    fn open(bench: &Bench) -> Volume {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
        loop {
            match bench.try_open() {
                Err(error) if std::time::Instant::now() < end => {
                    assert!(error.to_string().contains("in use"), "{error}");
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
                opened => return opened.expect("open"),
            }
        }
    }

    #[test]
    fn what_was_deleted_while_a_volume_was_away_is_deleted_there_too() {
        let benches = [Bench::new(), Bench::new()];
        let open_some = |which: &[usize]| {
            let opened = which.iter().map(|&at| open(&benches[at]));
            Volumes::new(opened.collect())
        };
        let again = ["same", "other"].map(|name| of(name, 1));
        let kept = of("kept", 1);
        let volumes = open_some(&[0, 1]);
        for record in again.iter().chain([&kept, &of("gone", 1)]) {
            volumes.put(record).expect("written");
        }
        drop(volumes);

        let volumes = open_some(&[0]);
        for record in again.iter().chain([&of("gone", 1)]) {
            volumes.delete(&record.app).expect("deleted");
        }
        for record in [of("same", 1), of("other", 2), kept.clone()] {
            volumes.put(&record).expect("written");
        }
        drop(volumes);

        let tokens = |volumes: &Volumes, name: &str| {
            let app = of(name, 0).app;
            let known = volumes.iter().map(|it| it.app(&app));
            let tokens = known.map(|known| known.map(|it| it.token_hash[0]));
            tokens.collect::<Vec<_>>()
        };
        let volumes = open_some(&[1, 0]);
        assert_eq!(tokens(&volumes, "same"), [Some(1), Some(1)]);
        let recovered = volumes.recovered();
        assert_eq!(tokens(&volumes, "same"), [None, Some(1)]);
        assert_eq!(tokens(&volumes, "other"), [None, Some(2)]);
        assert_eq!(tokens(&volumes, "kept"), [Some(1), Some(1)]);
        assert_eq!(tokens(&volumes, "gone"), [None, None]);
        let named = |name: &str| {
            let named = recovered
                .iter()
                .filter(|record| record.app == of(name, 0).app);
            named.count()
        };
        assert_eq!(["same", "other", "kept", "gone"].map(named), [1, 1, 2, 0]);

        // And with what it is from now on, it is not taken for the earlier one.
        volumes.put(&of("same", 1)).expect("written");
        drop(volumes);
        let volumes = open_some(&[0, 1]);
        let recovered = volumes.recovered();
        let same = recovered.iter().filter(|it| it.app == of("same", 1).app);
        let lives: HashSet<_> = same.map(|record| record.life).collect();
        assert_eq!(lives.len(), 1);
        assert_eq!(tokens(&volumes, "same"), [Some(1), Some(1)]);
    }

    #[test]
    fn a_volume_of_another_server_keeps_what_it_has_of_an_app() {
        let benches = [Bench::new(), Bench::new()];
        for bench in &benches {
            let volumes = Volumes::new(vec![open(bench)]);
            volumes.put(&of("moved", 1)).expect("written");
        }
        for _ in 0..2 {
            let volumes = Volumes::new(benches.iter().map(open).collect());
            let moved = |record: &&AppRecord| record.app == of("moved", 1).app;
            assert_eq!(volumes.recovered().iter().filter(moved).count(), 2);
            volumes.put(&of("moved", 1)).expect("written");
        }
    }

    #[test]
    fn volumes_that_hold_different_apps_of_one_name_keep_neither_and_others_all() {
        let benches = [Bench::new(), Bench::new(), Bench::new()];
        let volumes = Volumes::new(benches.iter().map(Bench::open).collect());
        for (at, name, token) in [
            (0, "again", 1),
            (1, "again", 2),
            (2, "again", 1),
            (0, "moved", 3),
            (2, "moved", 3),
            (1, "single", 4),
        ] {
            volumes[at].put_app(&of(name, token)).expect("written");
        }
        let count = |records: &[AppRecord], name: &str| {
            let named = records
                .iter()
                .filter(|record| record.app == of(name, 0).app);
            named.count()
        };
        for _ in 0..2 {
            let recovered = volumes.recovered();
            let counts = ["again", "moved", "single", "app-1"].map(|name| count(&recovered, name));
            assert_eq!(counts, [0, 2, 1, 3]);
            let knows = volumes.iter().filter(|it| it.knows(&of("again", 0).app));
            assert_eq!(knows.count(), 0);
        }
    }

    #[test]
    fn a_volume_that_does_not_know_the_app_yet_gets_none_of_its_attempts() {
        let (knows, late) = (Bench::new(), Bench::new());
        let volumes = [late.try_open().expect("open"), knows.open()];
        let volumes = Volumes::new(volumes.to_vec());
        for attempt in 0..50 {
            let chosen = volumes.choose(&key(1, 0, attempt)).ok();
            let (volume, _choice) = chosen.expect("one is well");
            assert!(volume.knows(&app()), "attempt {attempt}");
        }
    }
}
