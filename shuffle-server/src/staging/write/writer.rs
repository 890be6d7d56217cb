//! The writer of a volume: the one thread that moves bytes to its disk.
//!
//! It wakes when somebody commits, when memory is needed, and when shuffles may have gone quiet,
//! and does what is due: commits first, because somebody waits for them. Being one thread it needs
//! no locks around segments and logs, and a group of commits forms by itself while it writes the
//! one before.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use crate::staging::{
    error::Error,
    state::{queue::Stop, shared::Shared, shuffle::Shuffle},
    words::Health,
    write::{
        apps::put_missed,
        commit::commit_group,
        commit_log::Logs,
        flush::{Attempts, Cause, Flush, flush_shuffle, full_run, record_memory},
        relief::drop_dead_runs,
    },
};

/// How often it looks around while something may fall due.
const DUE_POLL_INTERVAL: Duration = Duration::from_millis(200);
/// How long it waits when nothing can.
const IDLE: Duration = Duration::from_secs(3600);
/// Looks at a disk between two attempts at what has just not helped.
const REST: u32 = 10;

/// Runs until it is stopped.
pub(crate) fn run(shared: &Shared, logs: Logs) {
    let mut writer = Writer {
        shared,
        logs,
        retry_at: None,
        verify_at: None,
        probed: None,
        keeping: false,
    };
    if catch_unwind(AssertUnwindSafe(|| writer.run())).is_err() {
        // The panic hook has said where. Whoever waits gets an error, because the replies are
        // dropped.
        shared.worsen(Health::Failed(
            "its writer has panicked, which is a bug of this server: start it again".into(),
        ));
    }
    shared.close();
}

struct Writer<'a> {
    shared: &'a Shared,
    logs: Logs,
    /// When memory may be flushed again after a flush has failed.
    retry_at: Option<Instant>,
    /// When the commit log of a disk that has failed may be compared with memory again.
    verify_at: Option<Instant>,
    /// When a full disk was found to be full, or last asked for space.
    probed: Option<Instant>,
    /// Nothing is to be in memory only: what is committed there wakes nobody, and is looked for.
    keeping: bool,
}

// === impl Writer ===

impl Writer<'_> {
    fn run(&mut self) {
        loop {
            let work = self.shared.wait(if self.something_may_fall_due() {
                DUE_POLL_INTERVAL
            } else {
                IDLE
            });
            if work.stop == Some(Stop::Now) {
                work.requests
                    .into_iter()
                    .for_each(|request| request.refuse(self.shared.unavailable()));
                return;
            }
            if !work.requests.is_empty() {
                commit_group(self.shared, &mut self.logs, work.requests);
            }
            if work.stop == Some(Stop::Flush) {
                return self.flush_all();
            }
            self.relieve();
            self.keeping = work.keep;
            if self.keeping && self.may_flush() {
                self.keep_all();
            }
            self.settle();
            if !self.shared.is_broken() {
                for shuffle in self.shared.shuffles() {
                    drop_dead_runs(self.shared, &shuffle);
                }
            }
            self.logs.reap(self.shared);
            self.probe();
            if self.shared.health() == Health::Ok {
                put_missed(self.shared);
            }
        }
    }

    fn something_may_fall_due(&self) -> bool {
        self.shared.health() != Health::Ok
            || self.retry_at.is_some()
            || self.keeping
            || self.shared.shuffles().iter().any(|shuffle| {
                shuffle.logged.load(Ordering::Relaxed) > 0 || !shuffle.dead.lock().is_empty()
            })
    }

    /// Commits that have come in meanwhile are not to wait for all of a long job.
    fn commit_waiting(&mut self) {
        let requests = self.shared.more_requests();
        if !requests.is_empty() {
            commit_group(self.shared, &mut self.logs, requests);
        }
    }

    /// Frees memory until there is enough: first what is on disk already, then by flushing the
    /// largest.
    ///
    /// Everything that holds a permit is one of: being received or sent, which ends by itself;
    /// cached after a flush; held for a committed attempt; held for one in progress. The last three
    /// are freed here, without anything else having to happen, so a push that waits for memory gets
    /// it.
    fn relieve(&mut self) {
        let budget = &self.shared.budget;
        // Costs no write, and so goes also where none is possible.
        while budget.pressed() && !budget.relieved() && self.shared.evict_one() {}
        if !budget.pressed() {
            return;
        }
        if self.may_flush() {
            while !self.shared.budget.relieved() && !self.shared.stops_now() {
                if self.shared.evict_one() {
                    continue;
                }
                let Some((shuffle, attempts)) = self.largest() else {
                    return;
                };
                let flush = Flush {
                    attempts,
                    ..Flush::committed(Cause::Pressure)
                };
                if !self.flush(&shuffle, flush) {
                    break;
                }
                self.commit_waiting();
            }
        }
        // Where nothing can be written, what a commit log has need not be in memory; others share
        // it. Of a disk that has failed the log is read first, and if that does not help not at
        // every turn.
        let (verify, now) = (self.shared.is_broken(), self.shared.clock.now());
        if verify && self.verify_at.is_some_and(|at| now < at) {
            return;
        }
        while budget.pressed() && !budget.relieved() {
            if !self.shared.drop_logged(verify) {
                self.verify_at = Some(now + REST * self.shared.options.probe);
                break;
            }
        }
    }

    /// The shuffle that gives most memory back; blocks in progress only when no committed ones are
    /// left, because they may be dropped before they cost a write.
    fn largest(&self) -> Option<(Arc<Shuffle>, Attempts)> {
        let shuffles = self.shared.shuffles();
        let most = |bytes: fn(&Shuffle) -> u64| {
            let sized = shuffles.iter().map(|shuffle| (bytes(shuffle), shuffle));
            sized
                .filter(|(bytes, _)| *bytes > 0)
                .max_by_key(|(bytes, _)| *bytes)
                .map(|(_, shuffle)| shuffle.clone())
        };
        let committed = most(|shuffle| shuffle.memory.load(Ordering::Relaxed))
            .map(|shuffle| (shuffle, Attempts::Committed));
        committed.or_else(|| {
            most(|shuffle| shuffle.open_memory.load(Ordering::Relaxed))
                .map(|shuffle| (shuffle, Attempts::All))
        })
    }

    /// Flushes once; false if that freed nothing.
    fn flush(&mut self, shuffle: &Arc<Shuffle>, flush: Flush) -> bool {
        match flush_shuffle(self.shared, shuffle, flush) {
            Ok(bytes) => bytes > 0,
            // Deleted meanwhile, which has freed its memory too.
            Err(Error::Fenced(_)) => true,
            Err(error) => {
                if self.shared.may_log() {
                    tracing::warn!(app = %shuffle.app, shuffle = %shuffle.id, %error, "flush failed; what it was to write stays in memory");
                }
                self.shared
                    .note_write(&error, shuffle.memory.load(Ordering::Relaxed));
                self.retry_at = Some(self.shared.clock.now() + self.shared.options.probe);
                false
            }
        }
    }

    fn may_flush(&mut self) -> bool {
        if self.retry_at.is_some_and(|at| self.shared.clock.now() < at) || self.shared.is_broken() {
            return false;
        }
        self.retry_at = None;
        true
    }

    /// Moves blocks from the commit log into sorted runs: all blocks of quiet shuffles, full runs
    /// of the others.
    fn settle(&mut self) {
        let (now, quiet) = (self.shared.millis(), self.shared.options.quiet.as_millis());
        for shuffle in self.shared.shuffles() {
            let due = |shuffle: &Shuffle| {
                let idle = now.saturating_sub(shuffle.touched.load(Ordering::Relaxed));
                shuffle.logged.load(Ordering::Relaxed) > 0
                    && (u128::from(idle) >= quiet
                        || shuffle.memory.load(Ordering::Relaxed) >= full_run(self.shared, shuffle))
            };
            while due(&shuffle) && !self.shared.stops_now() && self.may_flush() {
                if !self.flush(&shuffle, Flush::committed(Cause::Settle)) {
                    break;
                }
                self.commit_waiting();
            }
        }
    }

    /// Asks a full disk whether it has space again.
    fn probe(&mut self) {
        if !matches!(self.shared.health(), Health::Full(_)) {
            self.probed = None;
            return;
        }
        let now = self.shared.clock.now();
        if now - *self.probed.get_or_insert(now) < self.shared.options.probe {
            return;
        }
        self.probed = Some(now);
        let missing = self.shared.ballast.missing();
        let path = self.shared.dir.join("probe");
        if self.shared.free() >= self.shared.enough().saturating_add(missing)
            && self.shared.ballast.take(&self.shared.disk)
            && self.shared.disk.try_write(&path, false).is_ok()
            && self.shared.try_index().is_ok()
        {
            self.retry_at = None;
            self.shared
                .recover(|health| matches!(health, Health::Full(_)));
        }
    }

    /// Puts on disk what only memory has.
    fn flush_all(&mut self) {
        self.commit_waiting();
        self.keep_all();
        self.commit_waiting();
        self.logs.reap(self.shared);
    }

    fn keep_all(&mut self) {
        for shuffle in self.shared.shuffles() {
            let only_memory = || {
                shuffle
                    .state
                    .lock()
                    .held
                    .values()
                    .any(|held| held.log.is_none())
            };
            let keep = || -> Result<(), Error> {
                while only_memory()
                    && flush_shuffle(self.shared, &shuffle, Flush::committed(Cause::Asked))? > 0
                {
                }
                record_memory(self.shared, &shuffle)
            };
            match keep() {
                Ok(()) | Err(Error::Fenced(_)) => {}
                Err(error) => {
                    tracing::error!(app = %shuffle.app, shuffle = %shuffle.id, %error, "what only memory has cannot be kept");
                    self.retry_at = Some(self.shared.clock.now() + self.shared.options.probe);
                }
            }
            self.commit_waiting();
        }
    }
}
