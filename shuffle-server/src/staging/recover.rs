//! What a volume finds when it is opened.
//!
//! The index says what there is; files are only looked at for their length, and log records for their table. A run or record that is
//! not whole loses exactly its attempts. A run that no committed attempt names is forgotten; files that the index does not name are
//! removed, or set aside if the index was damaged. New runs always go to new files, because the end of an old one may hold what nobody knows of.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock, atomic::Ordering},
};

use shuffle_proto::{
    ids::{AppId, AttemptId, MapIndex, ShuffleId},
    stored::totals::Totals,
};

use super::{
    AppRecord, Durability, Error,
    batch::Owner,
    deleted::Deleted,
    disk::Disk,
    format::align,
    log::{LogFile, log_path},
    lost::lost_dir,
    remove::shuffle_dir,
    segment::{Run, Segment, segment_path},
    shared::{App, ID_BITS, Names},
    shuffle::{Committed, Generation, Held, Shuffle, State},
    trash::{self, Waste, What},
};
use crate::index::{
    AppNo, Batch as Changes, LogId, RunId, SegmentId, SegmentIndex,
    keys::{self, Key},
    read,
    values::{self, FORMAT, LogPlace, Meta, Record},
};

/// What was found.
pub(super) struct Recovered {
    /// Times the volume was opened, this one included.
    pub(super) times: u64,
    pub(super) names: Names,
    pub(super) logs: Vec<Arc<LogFile>>,
    /// Bytes in segments and logs.
    pub(super) used: u64,
    /// Deletions that are not through.
    pub(super) waste: Vec<Arc<Waste>>,
    /// What the index is to be told, if it could not be written to.
    pub(super) changes: Changes,
}

type Place = (AppNo, ShuffleId);

/// Records of one shuffle.
#[derive(Default)]
struct Found {
    record: Option<values::Shuffle>,
    segments: Vec<SegmentId>,
    runs: BTreeMap<RunId, values::Run>,
    attempts: BTreeMap<Owner, Result<values::Attempt, String>>,
    written: BTreeMap<u32, values::Written>,
}

/// Reads the index of the volume at `dir`; `new` if the volume has just been made. Unless it is `writable` nothing is changed.
pub(super) fn recover(
    dir: &Path,
    index: &dyn SegmentIndex,
    disk: &Disk,
    new: bool,
    writable: bool,
) -> Result<Recovered, Error> {
    let (times, mut changes) = open_index(dir, index, new)?;
    if writable {
        index.write(&std::mem::take(&mut changes), true)?;
    }
    let mut names = Names::default();
    let mut apps = HashMap::new();
    let mut damaged = index.is_damaged();
    damaged |= !read_apps(index, &mut names, &mut apps, &mut changes)?;
    let (mut found, whole) = read_shuffles(index, &mut changes)?;
    damaged |= !whole;
    let waste = carry_through(
        dir,
        &mut names,
        &mut apps,
        &mut found,
        &mut changes,
        writable,
    );
    let mut recovery = Recovery {
        dir,
        disk,
        logs: HashMap::new(),
        used: 0,
        kept: HashSet::new(),
        lost: 0,
        attempts: 0,
    };
    for (place, found) in std::mem::take(&mut found) {
        let Some(app) = apps.get(&place.0) else {
            changes.delete_app(place.0);
            continue;
        };
        match found.record {
            Some(record) if record.deleted => {
                if let Some(app) = names.apps.get_mut(app) {
                    app.deleted.insert(place.1);
                }
            }
            Some(record) => {
                let shuffle = recovery.shuffle(app, place, record, found, &mut changes);
                names.shuffles.insert(place, shuffle);
            }
            None => changes.delete_shuffle_data(place.0, place.1),
        }
    }
    let logs: Vec<_> = recovery.logs.into_values().flatten().collect();
    let mut used = recovery.used;
    for log in &logs {
        used += log.length();
    }
    let mut removed = 0;
    if writable {
        if !changes.is_empty() {
            index.write(&std::mem::take(&mut changes), false)?;
        }
        removed = remove_unknown(dir, disk, &recovery.kept, damaged);
        index.settle_damage()?;
    }
    tracing::info!(
        path = %dir.display(), apps = names.apps.len(), shuffles = names.shuffles.len(), attempts = recovery.attempts,
        lost = recovery.lost, bytes = used, removed, "volume recovered"
    );
    Ok(Recovered {
        times,
        names,
        logs,
        used,
        waste,
        changes,
    })
}

/// Deletions that a crash, or an index that could not be written to, has left half-way: what they took away stays away.
fn carry_through(
    dir: &Path,
    names: &mut Names,
    apps: &mut HashMap<AppNo, AppId>,
    found: &mut BTreeMap<Place, Found>,
    changes: &mut Changes,
    recorded: bool,
) -> Vec<Arc<Waste>> {
    let deletion = |(path, what): (PathBuf, What)| {
        what.record(changes);
        match &what {
            What::Shuffle(no, id) => {
                found.remove(&(*no, *id));
                let app = apps.get(no).and_then(|app| names.apps.get_mut(app));
                match app {
                    Some(app) => drop(app.deleted.insert(*id)),
                    None => changes.delete_app(*no),
                }
                names.next_app = names.next_app.max(no.0.saturating_add(1));
            }
            What::App(no, _) => {
                found.retain(|(of, _), _| of != no);
                if let Some(app) = apps.remove(no) {
                    names.apps.remove(&app);
                }
                names.next_app = names.next_app.max(no.0.saturating_add(1));
            }
            What::File => {}
        }
        Waste::found(path, what, recorded)
    };
    trash::found(dir).into_iter().map(deletion).collect()
}

/// Checks the index's version and counts this opening; answers the count, and how it is written down.
fn open_index(dir: &Path, index: &dyn SegmentIndex, new: bool) -> Result<(u64, Changes), Error> {
    let opened = match read(index, Key::Meta) {
        Ok(Some(Record::Meta(meta))) if meta.format == FORMAT => meta.opened + 1,
        Ok(Some(Record::Meta(meta))) => {
            return Err(crate::index::Error::Version {
                found: meta.format,
                known: FORMAT,
            }
            .into());
        }
        Err(error @ crate::index::Error::Corrupt { .. }) => {
            tracing::error!(%error, "the index's record of itself is broken");
            1
        }
        Err(error) => return Err(error.into()),
        // Ids go on above all that there are.
        Ok(None) if index.is_damaged() => 1,
        // Without the check an index that was lost would look like an order to remove everything.
        Ok(None) if !new && has_entries(&dir.join("apps")) => {
            let reason = "there are segments but no index: bring back the directory index, or empty the data directory".into();
            return Err(Error::Directory {
                path: dir.into(),
                reason,
            });
        }
        _ => 1,
    };
    // The last count may be what was lost of a damaged index, and an id that is used twice is refused by the file that has it.
    let opened = opened.max(1 + last_opening(dir));
    let mut changes = Changes::default();
    changes.put(
        Key::Meta,
        &Record::Meta(Meta {
            format: FORMAT,
            opened,
        }),
    );
    Ok((opened, changes))
}

/// Which opening of the volume made the newest file.
fn last_opening(dir: &Path) -> u64 {
    let logs = entries(&dir.join("log"));
    let apps = entries(&dir.join("apps")).into_iter();
    let segments = apps
        .flat_map(|app| entries(&app))
        .flat_map(|dir| entries(&dir));
    let ids = logs.into_iter().chain(segments).filter_map(|path| {
        let name = path.file_stem()?.to_str()?;
        u64::from_str_radix(name, 16).ok()
    });
    ids.max().map_or(0, |id| id >> ID_BITS)
}

fn has_entries(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
}

/// Answers whether all records can be read. An app without one is gone, with all that it has: nobody knows whose it was.
fn read_apps(
    index: &dyn SegmentIndex,
    names: &mut Names,
    apps: &mut HashMap<AppNo, AppId>,
    changes: &mut Changes,
) -> Result<bool, Error> {
    let mut whole = true;
    index.scan(&[keys::APP], &[keys::APP + 1], &mut |key, value| {
        let Some(Key::App(no)) = Key::decode(key) else {
            whole = false;
            return;
        };
        names.next_app = names.next_app.max(no.0.saturating_add(1));
        match Record::decode(key, value) {
            Ok((_, Record::App(app))) => {
                let record = AppRecord {
                    app: app.id.clone(),
                    token_hash: app.token_hash,
                    lease: app.lease,
                };
                apps.insert(no, app.id.clone());
                let app = App {
                    no,
                    record,
                    deleted: Deleted::default(),
                };
                // Numbers rise: the one before was deleted when this one came.
                if let Some(before) = names.apps.insert(app.record.app.clone(), app) {
                    apps.remove(&before.no);
                    changes.delete_app(before.no);
                }
            }
            Ok(_) => {}
            Err(error) => {
                tracing::error!(%error, app = no.0, "record of an app is broken: what it has is lost");
                changes.delete_app(no);
                whole = false;
            }
        }
    })?;
    Ok(whole)
}

/// And whether the records of all shuffles can be read.
fn read_shuffles(
    index: &dyn SegmentIndex,
    changes: &mut Changes,
) -> Result<(BTreeMap<Place, Found>, bool), Error> {
    let mut found: BTreeMap<Place, Found> = BTreeMap::new();
    let mut whole = true;
    for kind in [
        keys::SHUFFLE,
        keys::SEGMENT,
        keys::RUN,
        keys::ATTEMPT,
        keys::WRITTEN,
    ] {
        index.scan(&[kind], &[kind + 1], &mut |key, value| {
            let record = Record::decode(key, value).map(|(_, record)| record);
            match (Key::decode(key), record) {
                (Some(Key::Shuffle(app, shuffle)), Ok(Record::Shuffle(record))) => {
                    found.entry((app, shuffle)).or_default().record = Some(record);
                }
                (Some(Key::Segment(app, shuffle, segment)), _) => {
                    found
                        .entry((app, shuffle))
                        .or_default()
                        .segments
                        .push(segment);
                }
                (Some(Key::Run(app, shuffle, run)), Ok(Record::Run(record))) => {
                    found
                        .entry((app, shuffle))
                        .or_default()
                        .runs
                        .insert(run, record);
                }
                // Its attempts name it, and will not find it.
                (Some(Key::Run(..)), Err(error)) => {
                    tracing::error!(%error, "record of a run is broken")
                }
                (Some(Key::Attempt(app, shuffle, map_index, attempt)), record) => {
                    let record = match record {
                        Ok(Record::Attempt(record)) => Ok(record),
                        Ok(_) => Err("record of another kind".into()),
                        Err(error) => Err(error.to_string()),
                    };
                    found
                        .entry((app, shuffle))
                        .or_default()
                        .attempts
                        .insert((map_index, attempt), record);
                }
                (Some(Key::Written(app, shuffle, generation)), Ok(Record::Written(record))) => {
                    found
                        .entry((app, shuffle))
                        .or_default()
                        .written
                        .insert(generation, record);
                }
                // The manifest is in the store; it is found again when the next generation is begun.
                (Some(Key::Written(..)), Err(error)) => {
                    tracing::error!(%error, "record of a write-back is broken")
                }
                // Its attempts are lost with it, and none of another shuffle.
                (Some(Key::Shuffle(app, shuffle)), Err(error)) => {
                    tracing::error!(%error, app = app.0, %shuffle, "record of a shuffle is broken: what it has is lost");
                    changes.delete(Key::Shuffle(app, shuffle));
                    whole = false;
                }
                (_, Err(error)) => {
                    tracing::error!(%error, "a record of the index cannot be read");
                    whole = false;
                }
                (_, Ok(_)) => {}
            }
        })?;
    }
    Ok((found, whole))
}

struct Recovery<'a> {
    dir: &'a Path,
    disk: &'a Disk,
    /// `None`: the file is not there, or cannot be opened.
    logs: HashMap<LogId, Option<Arc<LogFile>>>,
    used: u64,
    /// Files that the index names.
    kept: HashSet<PathBuf>,
    lost: usize,
    attempts: usize,
}

impl Recovery<'_> {
    fn shuffle(
        &mut self,
        app: &AppId,
        (no, id): Place,
        record: values::Shuffle,
        found: Found,
        changes: &mut Changes,
    ) -> Arc<Shuffle> {
        let dir = shuffle_dir(self.dir, app, no, id);
        let shuffle = Shuffle::new(
            app.clone(),
            no,
            id,
            (record.num_maps, record.num_partitions),
            dir,
            State::default(),
        );
        let named: HashSet<RunId> = found
            .attempts
            .values()
            .flatten()
            .flat_map(|attempt| attempt.runs.iter().copied())
            .collect();
        let mut state = State {
            recorded: true,
            ..State::default()
        };
        let mut segments: HashMap<SegmentId, (Arc<Segment>, Result<u64, String>)> = HashMap::new();
        for (run_id, run) in found.runs {
            if !named.contains(&run_id) {
                changes.delete(Key::Run(no, id, run_id));
                continue;
            }
            let (segment, length) = segments
                .entry(run.segment)
                .or_insert_with(|| self.segment(&shuffle, run.segment));
            let run = Arc::new(Run::new(
                run_id,
                segment.clone(),
                run.offset,
                run.attempts,
                run.blocks,
                run.data_length,
                run.directory.into(),
                None,
            ));
            segment.set_written(run.end());
            match length {
                Ok(length) if *length >= run.end() => {}
                Ok(length) => {
                    let path = segment.path.display();
                    run.lose(|| {
                        format!("segment {path} ends at {length}, the run at {}", run.end())
                    });
                }
                Err(reason) => run.lose(|| reason.clone()),
            }
            shuffle
                .file_bytes
                .fetch_add(align(run.end() - run.offset), Ordering::Relaxed);
            self.used += align(run.end() - run.offset);
            state.add_run(run);
        }
        for segment in found
            .segments
            .iter()
            .filter(|segment| !segments.contains_key(segment))
        {
            changes.delete(Key::Segment(no, id, *segment));
        }
        for (generation, written) in found.written {
            state.generation = state.generation.max(generation);
            state.written.extend(written.attempts.iter().copied());
            let written = Generation {
                attempts: written.attempts,
                bytes: written.bytes,
                fixed: false,
            };
            state.generations.insert(generation, written);
        }
        for (owner, attempt) in found.attempts {
            self.attempt(&shuffle, &mut state, owner, attempt);
        }
        let (commits, reclaimed) = (&state.commits, &state.reclaimed);
        let here = |owner: &Owner| {
            let committed = commits.get(owner);
            committed.is_some_and(|one| one.lost.is_none()) && !reclaimed.contains(owner)
        };
        for generation in state.generations.values_mut() {
            generation.fixed = !generation.attempts.iter().all(here);
        }
        *shuffle.state.lock() = state;
        Arc::new(shuffle)
    }

    fn segment(&mut self, shuffle: &Shuffle, id: SegmentId) -> (Arc<Segment>, Result<u64, String>) {
        let path = segment_path(&shuffle.dir, id);
        let length = match fs::metadata(&path) {
            Ok(metadata) => Ok(metadata.len()),
            Err(error) => Err(format!("segment {}: {error}", path.display())),
        };
        self.kept.insert(path.clone());
        (Arc::new(Segment::new(id, path, 0)), length)
    }

    fn attempt(
        &mut self,
        shuffle: &Shuffle,
        state: &mut State,
        owner: Owner,
        attempt: Result<values::Attempt, String>,
    ) {
        self.attempts += 1;
        let (attempt, broken) = match attempt {
            Ok(attempt) => (attempt, None),
            Err(reason) => {
                let (synced, bytes, records) = (false, 0, 0);
                (
                    values::Attempt {
                        synced,
                        bytes,
                        records,
                        runs: vec![],
                        log: None,
                        totals: vec![],
                    },
                    Some(reason),
                )
            }
        };
        let totals = Totals::decode(attempt.totals);
        let lost = broken.or_else(|| totals.is_none().then(|| "its totals cannot be read".into()));
        // A commit names where its blocks are, unless the object store has them and the local copy was reclaimed.
        let nowhere = attempt.bytes > 0 && attempt.runs.is_empty() && attempt.log.is_none();
        let reclaimed = nowhere && state.written.contains(&owner);
        if reclaimed {
            Arc::make_mut(&mut state.reclaimed).insert(owner);
        }
        let gone = || "neither the index nor a manifest says where its blocks are".to_owned();
        let lost = lost.or_else(|| (nowhere && !reclaimed).then(gone));
        let runs: Vec<Arc<Run>> = attempt
            .runs
            .iter()
            .filter_map(|&id| super::flush::find_run(&state.runs, id).cloned())
            .collect();
        let held = attempt.log.map(|place| self.held(shuffle, owner, place));
        let whole = lost.is_none()
            && runs.len() == attempt.runs.len()
            && runs.iter().all(|run| run.lost.get().is_none())
            && held.as_ref().is_none_or(|held| held.lost.get().is_none());
        if !whole {
            self.lost += 1;
            shuffle.damage();
        }
        let committed = Committed {
            totals: Arc::new(totals.unwrap_or_default()),
            durability: if attempt.synced {
                Durability::Fsync
            } else {
                Durability::Disk
            },
            bytes: attempt.bytes,
            records: attempt.records,
            runs: attempt.runs,
            lost,
        };
        state.commit(shuffle, owner, committed, &runs, held);
    }

    fn held(&mut self, shuffle: &Shuffle, owner: Owner, place: LogPlace) -> Held {
        let log = self.log(place.log);
        let (batches, log, lost) = match log {
            Some(log) => {
                log.enter();
                match log.read_record(self.disk, place, shuffle, owner) {
                    Ok(batches) => (batches, Some((log, place)), None),
                    Err(reason) => (Vec::new(), Some((log, place)), Some(reason)),
                }
            }
            None => {
                let path = log_path(self.dir, place.log);
                (
                    Vec::new(),
                    None,
                    Some(format!("commit log {} cannot be opened", path.display())),
                )
            }
        };
        if let Some(reason) = &lost {
            let (MapIndex(map), AttemptId(attempt)) = owner;
            tracing::error!(app = %shuffle.app, shuffle = %shuffle.id, map, attempt, %reason, "attempt is lost");
        }
        Held {
            batches,
            log,
            lost: lost.map_or_else(OnceLock::new, OnceLock::from),
        }
    }

    fn log(&mut self, id: LogId) -> Option<Arc<LogFile>> {
        let (path, disk) = (log_path(self.dir, id), self.disk);
        // invariant: acked-is-kept. Also if it cannot be opened: that may be over at the next start.
        self.kept.insert(path.clone());
        let open = || {
            let file = disk
                .open(&path)
                .inspect_err(|error| tracing::error!(%error, "commit log"))
                .ok()?;
            let length = file.metadata().ok()?.len();
            Some(Arc::new(LogFile::new(id, path, file, length)))
        };
        self.logs.entry(id).or_insert_with(open).clone()
    }
}

/// Removes segments, logs and directories that nothing names; answers how many files. What we never made is left alone. If the index
/// was `damaged`, what it does not name may be all that is left of something: then it goes to `lost/`, where a person may look at it.
fn remove_unknown(dir: &Path, disk: &Disk, kept: &HashSet<PathBuf>, damaged: bool) -> usize {
    let mut removed = 0;
    let remove = |path: &Path| match damaged {
        true => set_aside(dir, path),
        false => disk.remove(path),
    };
    let mut sweep = |dir: &Path, extension: &str| {
        for path in entries(dir) {
            if path.extension().is_some_and(|ours| ours == extension) && !kept.contains(&path) {
                match remove(&path) {
                    Ok(()) => removed += 1,
                    Err(error) => {
                        tracing::warn!(path = %path.display(), %error, "file is not needed and cannot be removed")
                    }
                }
            }
        }
    };
    sweep(&dir.join("log"), "log");
    for app in entries(&dir.join("apps")) {
        for shuffle in entries(&app) {
            sweep(&shuffle, "seg");
            // Refused for those that are not empty, which is the point.
            let _ = fs::remove_dir(&shuffle);
        }
        let _ = fs::remove_dir(&app);
    }
    removed
}

/// Moves a file of the volume to the same place below `lost/`.
fn set_aside(dir: &Path, path: &Path) -> std::io::Result<()> {
    let to = lost_dir(dir).join(path.strip_prefix(dir).unwrap_or(path));
    tracing::warn!(from = %path.display(), to = %to.display(), "the damaged index does not name a file: it is set aside");
    fs::create_dir_all(to.parent().unwrap_or(dir))?;
    fs::rename(path, &to)
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect()
}
