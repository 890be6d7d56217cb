//! Calls of the file system that run at this moment. By the age of the oldest a disk that hangs is
//! known without touching it.
//!
//! Owns the table of calls and nothing of what follows from it: that is `state::health`'s. Time is
//! the machine's, whatever clock leases go by: a call that hangs knows nothing of a test's clock.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::{
    clock::{Clock, SystemClock},
    staging::disk::operation::Operation,
};

/// The calls of one disk.
pub(crate) struct Watch {
    patience: Mutex<Duration>,
    calls: Mutex<Calls>,
}

#[derive(Default)]
struct Calls {
    next: u64,
    /// Ascending by the order in which they began, or were last heard of.
    running: BTreeMap<u64, Call>,
}

struct Call {
    operation: Operation,
    path: PathBuf,
    since: Instant,
}

/// A call that has run for too long.
#[derive(Debug)]
pub(crate) struct Overdue {
    operation: Operation,
    path: PathBuf,
    age: Duration,
    patience: Duration,
}

/// A call, for as long as it runs.
pub(crate) struct Running<'a> {
    watch: &'a Watch,
    id: u64,
}

// === impl Watch ===

impl Watch {
    /// A call is overdue after `patience`.
    pub(crate) fn new(patience: Duration) -> Self {
        Self {
            patience: Mutex::new(patience),
            calls: Mutex::default(),
        }
    }

    pub(crate) fn patience(&self) -> Duration {
        *self.patience.lock()
    }

    /// From now on. Tests have a disk hang and want to hear of that soon, and of nothing else.
    #[cfg(test)]
    pub(crate) fn set_patience(&self, patience: Duration) {
        *self.patience.lock() = patience;
    }

    /// Now, by the clock that calls are timed with.
    pub(crate) fn now(&self) -> Instant {
        SystemClock.now()
    }

    /// Enters a call into the table; drop the returned value when the call is over.
    pub(crate) fn begin(&self, operation: Operation, path: &Path) -> Running<'_> {
        let call = Call {
            operation,
            path: path.into(),
            since: SystemClock.now(),
        };
        let id = self.calls.lock().add(call);
        Running { watch: self, id }
    }

    /// The call that has run longest, if that is too long. Removals do not count: removing a large
    /// file takes its time on a healthy disk, and on a disk that hangs other calls hang too.
    pub(crate) fn overdue(&self) -> Option<Overdue> {
        self.oldest(|operation| operation != Operation::Remove)
    }

    /// The overdue call, if it has run for `patience` at least.
    pub(crate) fn overdue_by(&self, patience: Duration) -> Option<Overdue> {
        self.overdue().filter(|call| call.age >= patience)
    }

    /// The overdue read, if there is one: where writes hang, reads may still be answered.
    pub(crate) fn overdue_read(&self) -> Option<Overdue> {
        self.oldest(|operation| operation == Operation::Read)
    }

    fn oldest(&self, counts: impl Fn(Operation) -> bool) -> Option<Overdue> {
        let patience = self.patience();
        let calls = self.calls.lock();
        let mut running = calls.running.values();
        let call = running.find(|call| counts(call.operation))?;
        let age = SystemClock.now() - call.since;
        (age >= patience).then(|| Overdue {
            operation: call.operation,
            path: call.path.clone(),
            age,
            patience,
        })
    }
}

impl Calls {
    fn add(&mut self, call: Call) -> u64 {
        self.next += 1;
        self.running.insert(self.next, call);
        self.next
    }
}

// === impl Running ===

impl Running<'_> {
    /// Starts the call's time anew after one of several steps: a large write to a slow disk is not
    /// a write that hangs.
    pub(crate) fn goes_on(&mut self) {
        let mut calls = self.watch.calls.lock();
        if let Some(mut call) = calls.running.remove(&self.id) {
            call.since = SystemClock.now();
            self.id = calls.add(call);
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.watch.calls.lock().running.remove(&self.id);
    }
}

// === impl Overdue ===

impl fmt::Display for Overdue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} has taken {:.1} s and is not done (volume-slow-after is {:?}): look at the device's load and at the kernel's log; the \
             volume takes attempts again by itself when it is quick",
            self.operation.verb(),
            self.path.display(),
            self.age.as_secs_f64(),
            self.patience,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_call_counts_and_one_that_goes_on_is_young() {
        let long = Duration::from_secs(600);
        let watch = Watch::new(long);
        let mut write = watch.begin(Operation::Write, Path::new("a"));
        std::thread::sleep(Duration::from_millis(40));
        assert!(watch.overdue().is_none(), "it is patient");
        watch.set_patience(Duration::from_millis(40));
        let text = watch.overdue().expect("40 ms").to_string();
        assert!(text.starts_with("write a has taken "), "{text}");
        assert!(watch.overdue_read().is_none());
        assert!(watch.overdue_by(long).is_none());
        // Whatever runs has run for that long.
        watch.set_patience(Duration::ZERO);
        let read = watch.begin(Operation::Read, Path::new("b"));
        let oldest = || watch.overdue().expect("two").to_string();
        assert!(oldest().starts_with("write a"), "{}", oldest());
        let text = watch.overdue_read().expect("one").to_string();
        assert!(text.starts_with("read b"), "{text}");
        write.goes_on();
        assert!(oldest().starts_with("read b"), "{}", oldest());
        drop((read, write));
        assert!(watch.overdue().is_none());
        let removal = watch.begin(Operation::Remove, Path::new("c"));
        assert!(watch.overdue().is_none(), "a removal says nothing");
        drop(removal);
    }
}
