//! Commits that reach the disk, in groups: whoever waits when the writer comes round is written,
//! recorded and answered together.
//!
//! Per shuffle the group's blocks become one run, if that makes extents of decent size; what does
//! not goes to the commit log, all shuffles in one write. Then one batch of records goes to the
//! index, and what it names becomes visible.

use std::{collections::BTreeMap, io, sync::Arc, time::Instant};

use shuffle_proto::ids::ShuffleId;
use tokio::sync::oneshot;

use crate::{
    index::{
        AppNo, Changes,
        keys::Key,
        values::{self, LogPlace},
    },
    staging::{
        error::Error,
        files::log_file::LogFile,
        state::{
            batch::{Batch, Owner},
            queue::{Request, Task},
            run::{Run, find_run},
            shared::Shared,
            shuffle::{Committed, Held, OpenAttempt, Phase, Shuffle},
            stats::Stats,
        },
        words::{AppRecord, Durability, Receipt},
        write::{
            commit_log::{Entry, Logs},
            flush::{Cause, Flush, account, flush_shuffle, keep_cached, put_run, sync_runs},
            run::{Source, write_run},
        },
    },
};

/// An attempt in a group of commits.
struct Job {
    attempt: Arc<OpenAttempt>,
    committed: Committed,
    durability: Durability,
    reply: Reply,
    batches: Vec<Arc<Batch>>,
    /// Runs that have blocks of it already.
    runs: Vec<Arc<Run>>,
    log: Option<(Arc<LogFile>, LogPlace)>,
    /// The run that this group wrote for it.
    run: Option<Arc<Run>>,
    failed: Option<Error>,
}

/// Does all that is asked, and answers.
pub(crate) fn commit_group(shared: &Shared, logs: &mut Logs, requests: Vec<Request>) {
    let mut jobs = Vec::with_capacity(requests.len());
    let mut raises = Vec::new();
    for request in requests {
        let reply = Reply {
            asked: request.asked,
            reply: request.reply,
        };
        match request.task {
            Task::Commit { attempt, committed } => {
                let state = attempt.state.lock();
                let (batches, runs) = (state.batches.clone(), state.runs.clone());
                drop(state);
                let durability = request.durability;
                let job = Job {
                    attempt,
                    committed,
                    durability,
                    reply,
                    batches,
                    runs,
                    log: None,
                    run: None,
                    failed: None,
                };
                jobs.push(job);
            }
            Task::Raise { shuffle, owner } => {
                raises.push((shuffle, owner, request.durability, reply))
            }
        }
    }
    if !jobs.is_empty() {
        Stats::add(&shared.stats.commit_groups, 1);
        write_blocks(shared, logs, &mut jobs);
        sync_files(shared, &mut jobs);
        record(shared, &mut jobs);
        jobs.into_iter().for_each(|job| finish(shared, job));
    }
    for (shuffle, owner, durability, reply) in raises {
        let answer = raise(shared, &shuffle, owner, durability);
        reply.answer(shared, durability, answer);
    }
}

/// Puts each job's blocks into a run or the log.
fn write_blocks(shared: &Shared, logs: &mut Logs, jobs: &mut [Job]) {
    let mut by_shuffle: BTreeMap<(AppNo, ShuffleId), Vec<usize>> = BTreeMap::new();
    for (position, job) in jobs
        .iter()
        .enumerate()
        .filter(|(_, job)| !job.batches.is_empty())
    {
        let shuffle = &job.attempt.shuffle;
        by_shuffle
            .entry((shuffle.app_no, shuffle.id))
            .or_default()
            .push(position);
    }
    let mut logged = Vec::new();
    for mut positions in by_shuffle.into_values() {
        positions.sort_by_key(|&position| jobs[position].attempt.owner());
        let shuffle = jobs[positions[0]].attempt.shuffle.clone();
        let extents = extents(
            shuffle.num_partitions,
            positions
                .iter()
                .flat_map(|&position| &jobs[position].batches),
        );
        let bytes: u64 = positions
            .iter()
            .map(|&position| job_bytes(&jobs[position]))
            .sum();
        if let Err(error) = shared.check_limit(bytes) {
            fail(shared, jobs, &positions, &error);
            continue;
        }
        if bytes / extents < shared.options.min_extent {
            logged.extend(positions);
            continue;
        }
        let mut rest = &positions[..];
        while !rest.is_empty() {
            let mut taken = 0;
            let fits = |&&position: &&usize| {
                let before = taken;
                taken += job_bytes(&jobs[position]);
                before < shared.options.max_run
            };
            let count = rest.iter().take_while(fits).count();
            let (now, later) = rest.split_at(count);
            rest = later;
            let source = |&position: &usize| {
                let job = &jobs[position];
                Source {
                    owner: job.attempt.owner(),
                    batches: job.batches.clone(),
                    open: None,
                    reloaded: false,
                }
            };
            let written = write_run(
                shared,
                &shuffle,
                &now.iter().map(source).collect::<Vec<_>>(),
            );
            match written {
                Ok(run) => now
                    .iter()
                    .for_each(|&position| jobs[position].run = Some(run.clone())),
                Err(error) => fail(shared, jobs, now, &error),
            }
        }
    }
    if logged.is_empty() {
        return;
    }
    let entry = |&position: &usize| {
        let job: &Job = &jobs[position];
        Entry {
            shuffle: &job.attempt.shuffle,
            owner: job.attempt.owner(),
            batches: &job.batches,
        }
    };
    let appended = logs.append(shared, &logged.iter().map(entry).collect::<Vec<_>>());
    match appended {
        Ok((log, places)) => {
            for (&position, place) in logged.iter().zip(places) {
                jobs[position].log = Some((log.clone(), place));
            }
        }
        Err(error) => fail(shared, jobs, &logged, &error),
    }
}

fn job_bytes(job: &Job) -> u64 {
    job.batches.iter().map(|batch| batch.length()).sum()
}

/// How many extents a run of these batches would have; at least 1.
fn extents<'a>(num_partitions: u32, batches: impl Iterator<Item = &'a Arc<Batch>>) -> u64 {
    let mut seen = vec![0u64; num_partitions as usize / 64 + 1];
    for header in batches.flat_map(|batch| batch.headers()) {
        seen[header.partition.0 as usize / 64] |= 1 << (header.partition.0 % 64);
    }
    seen.iter()
        .map(|word| u64::from(word.count_ones()))
        .sum::<u64>()
        .max(1)
}

/// Syncs what the jobs that ask for it are in.
fn sync_files(shared: &Shared, jobs: &mut [Job]) {
    for position in 0..jobs.len() {
        let job = &jobs[position];
        if job.failed.is_some() || job.durability < Durability::Fsync {
            continue;
        }
        let synced = sync_runs(
            shared,
            &job.attempt.shuffle,
            job.runs.iter().chain(&job.run),
        )
        .and_then(|()| match &job.log {
            Some((log, _)) => {
                Stats::add(&shared.stats.syncs, log.sync(&shared.disk)?.into());
                Ok(())
            }
            None => Ok(()),
        });
        if let Err(error) = synced {
            fail(shared, jobs, &[position], &error);
        }
    }
}

/// Writes the records of all jobs and makes them visible.
fn record(shared: &Shared, jobs: &mut [Job]) {
    let _gate = shared.gate.lock();
    let mut changes = Changes::default();
    let (mut last_run, mut last_shuffle) = (None, None);
    let mut sync = false;
    for job in jobs.iter_mut().filter(|job| job.failed.is_none()) {
        let shuffle = &job.attempt.shuffle;
        let recorded = {
            let state = shuffle.state.lock();
            if state.deleted {
                job.failed = Some(shuffle.fenced());
                continue;
            }
            state.recorded
        };
        // More often than need be: a few bytes, so that no damage to one record of the index's log
        // costs the shuffle or the app.
        if !recorded && let Some(app) = shared.names.read().apps.get(&shuffle.app) {
            changes.put(Key::App(app.no), &app_record(&app.record));
        }
        if last_shuffle.replace((shuffle.app_no, shuffle.id)) != Some((shuffle.app_no, shuffle.id))
        {
            changes.put(Key::Shuffle(shuffle.app_no, shuffle.id), &shuffle.record());
        }
        if let Some(run) = &job.run
            && last_run.replace(run.id) != Some(run.id)
        {
            put_run(&mut changes, shuffle, run);
        }
        let owner = job.attempt.owner();
        job.committed.runs = job.runs.iter().chain(&job.run).map(|run| run.id).collect();
        let place = job.log.as_ref().map(|(_, place)| *place);
        changes.put(
            Key::Attempt(shuffle.app_no, shuffle.id, owner.0, owner.1),
            &job.committed.record(place),
        );
        sync |= job.durability == Durability::Fsync;
    }
    if changes.is_empty() {
        return;
    }
    // invariant: bytes-before-index
    if let Err(error) = shared.index.write(&changes, sync) {
        let all: Vec<usize> = (0..jobs.len()).collect();
        fail(shared, jobs, &all, &Error::Index(error));
        return;
    }
    for job in jobs.iter_mut().filter(|job| job.failed.is_none()) {
        let shuffle = &job.attempt.shuffle;
        let mut state = shuffle.state.lock();
        state.recorded = true;
        if let Some(run) = &job.run
            && find_run(&state.runs, run.id).is_none()
        {
            state.add_run(run.clone());
            account(shared, shuffle, run);
            keep_cached(shared, run);
        }
        let (batches, mut runs) = {
            let mut open = job.attempt.state.lock();
            open.phase = Phase::Done;
            job.attempt.take_blocks(&mut open)
        };
        runs.extend(job.run.clone());
        let held = job.log.take().map(|log| Held {
            batches,
            log: Some(log),
            lost: Default::default(),
        });
        state.commit(
            shuffle,
            job.attempt.owner(),
            job.committed.clone(),
            &runs,
            held,
        );
    }
}

/// An app as the index has it.
pub(crate) fn app_record(app: &AppRecord) -> values::Record {
    values::Record::App(values::App {
        id: app.app.clone(),
        token_hash: app.token_hash,
        lease: app.lease,
    })
}

/// Notes what went wrong, once, and that these jobs have failed by it.
fn fail(shared: &Shared, jobs: &mut [Job], positions: &[usize], error: &Error) {
    let bytes = positions.iter().map(|&position| job_bytes(&jobs[position]));
    shared.note_write(error, bytes.sum());
    for &position in positions {
        jobs[position]
            .failed
            .get_or_insert_with(|| clone_error(error));
    }
}

/// Answers a job and forgets what a failed one held.
fn finish(shared: &Shared, job: Job) {
    let Some(error) = job.failed else {
        let receipt = job.committed.receipt(shared.id);
        return job.reply.answer(shared, job.durability, Ok(receipt));
    };
    if let Some((log, _)) = &job.log {
        log.leave();
    }
    let reason = format!("the commit of {} failed: {error}", job.attempt.key);
    job.attempt.fail(reason);
    job.reply.answer(shared, job.durability, Err(error));
}

/// Brings a committed attempt to a higher level.
fn raise(
    shared: &Shared,
    shuffle: &Arc<Shuffle>,
    owner: Owner,
    durability: Durability,
) -> Result<Receipt, Error> {
    let sync = durability == Durability::Fsync;
    let current = || {
        let state = shuffle.state.lock();
        match state.commits.get(&owner) {
            _ if state.deleted => Err(shuffle.fenced()),
            None => Err(Error::Lost(format!(
                "map {} attempt {} is not committed",
                owner.0, owner.1
            ))),
            Some(committed) if committed.lost.is_some() => Err(Error::Lost(format!(
                "map {} attempt {} is lost here: push it again",
                owner.0, owner.1
            ))),
            Some(committed) => Ok((
                committed.clone(),
                state.held.contains_key(&owner),
                state.runs.clone(),
            )),
        }
    };
    let flush = Flush {
        sync,
        ..Flush::committed(Cause::Asked)
    };
    loop {
        let (committed, held, runs) = current()?;
        if committed.durability >= durability {
            return Ok(committed.receipt(shared.id));
        }
        if held {
            if flush_shuffle(shared, shuffle, flush).inspect_err(|error| shared.note(error))? == 0 {
                return Err(Error::Lost(format!(
                    "map {} attempt {} cannot be read any more",
                    owner.0, owner.1
                )));
            }
            continue;
        }
        let mut raised = Committed::clone(&committed);
        raised.durability = durability;
        let runs: Vec<_> = committed
            .runs
            .iter()
            .filter_map(|&id| find_run(&runs, id))
            .collect();
        if sync {
            sync_runs(shared, shuffle, runs).inspect_err(|error| shared.note(error))?;
        }
        let _gate = shared.gate.lock();
        current()?;
        let mut changes = Changes::default();
        changes.put(Key::Shuffle(shuffle.app_no, shuffle.id), &shuffle.record());
        changes.put(
            Key::Attempt(shuffle.app_no, shuffle.id, owner.0, owner.1),
            &raised.record(None),
        );
        shared
            .index
            .write(&changes, sync)
            .map_err(Error::Index)
            .inspect_err(|error| shared.note(error))?;
        let mut state = shuffle.state.lock();
        state.recorded = true;
        state.version += 1;
        let receipt = raised.receipt(shared.id);
        Arc::make_mut(&mut state.commits).insert(owner, Arc::new(raised));
        return Ok(receipt);
    }
}

/// Copies an error for another commit that waited for the same write.
fn clone_error(error: &Error) -> Error {
    match error {
        Error::Io {
            operation,
            path,
            source,
        } => {
            let source = match source.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => io::Error::new(source.kind(), source.to_string()),
            };
            Error::Io {
                operation,
                path: path.clone(),
                source,
            }
        }
        Error::Corrupt {
            path,
            offset,
            reason,
        } => Error::Corrupt {
            path: path.clone(),
            offset: *offset,
            reason: reason.clone(),
        },
        Error::Index(error) => Error::Index(error.clone()),
        Error::Invalid(text) => Error::Invalid(text.clone()),
        Error::Fenced(text) => Error::Fenced(text.clone()),
        Error::Busy(text) => Error::Busy(text.clone()),
        Error::Lost(text) => Error::Lost(text.clone()),
        Error::Internal(text) => Error::Internal(text.clone()),
        Error::Unavailable { volume, reason } => Error::Unavailable {
            volume: *volume,
            reason: reason.clone(),
        },
        Error::Directory { path, reason } => Error::Directory {
            path: path.clone(),
            reason: reason.clone(),
        },
    }
}

/// Counts what a commit came to.
impl Reply {
    fn answer(self, shared: &Shared, durability: Durability, answer: Result<Receipt, Error>) {
        match &answer {
            Ok(_) => {
                Stats::add(&shared.stats.commits, 1);
                shared
                    .observer
                    .committed(durability, shared.clock.now() - self.asked);
            }
            Err(error) => {
                Stats::add(&shared.stats.failed_commits, 1);
                if shared.may_log() {
                    tracing::warn!(volume = %shared.id, %error, "commit failed");
                }
            }
        }
        // Who asked may be gone; the commit stands all the same.
        let _ = self.reply.send(answer);
    }
}

/// Whom to tell.
pub(crate) struct Reply {
    pub(crate) asked: Instant,
    pub(crate) reply: oneshot::Sender<Result<Receipt, Error>>,
}
