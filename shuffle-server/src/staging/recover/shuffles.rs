//! A shuffle as the index and the files of the volume have it.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock, atomic::Ordering},
};

use shuffle_proto::{
    ids::{AppId, AttemptId, MapIndex},
    stored::totals::Totals,
};

use crate::{
    index::{
        Changes, LogId, RunId, SegmentId,
        keys::Key,
        values::{self, LogPlace},
    },
    staging::{
        disk::Disk,
        files::{
            format::align,
            layout::shuffle_dir,
            log_file::{LogFile, log_path},
            segment::{Segment, segment_path},
        },
        recover::{
            log_record::read_record,
            records::{Found, Place},
        },
        state::{
            batch::Owner,
            run::{Run, find_run},
            shuffle::{Committed, Generation, Held, Shuffle, State},
        },
        words::Durability,
    },
};

pub(super) struct Recovery<'a> {
    pub(super) dir: &'a Path,
    pub(super) disk: &'a Disk,
    /// `None`: the file is not there, or cannot be opened.
    pub(super) logs: HashMap<LogId, Option<Arc<LogFile>>>,
    pub(super) used: u64,
    /// Files that the index names.
    pub(super) kept: HashSet<PathBuf>,
    pub(super) lost: usize,
    pub(super) attempts: usize,
}

// === impl Recovery ===

impl Recovery<'_> {
    pub(super) fn shuffle(
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
            let run = Arc::new(Run::new(run_id, segment.clone(), run, None));
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
        // A commit names where its blocks are, unless the object store has them and the local copy
        // was reclaimed.
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
            .filter_map(|&id| find_run(&state.runs, id).cloned())
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
                match read_record(&log, self.disk, place, shuffle, owner) {
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
        // invariant: acked-is-kept. Also if it cannot be opened: that may be over at the next
        // start.
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
