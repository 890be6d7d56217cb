//! What the writer of a volume is asked to do, and how it is told to end.

use std::{sync::Arc, time::Instant};

use tokio::sync::oneshot;

use crate::staging::{
    error::Error,
    state::{
        batch::Owner,
        shuffle::{Committed, OpenAttempt, Shuffle},
    },
    words::{Durability, Receipt},
};

/// Something to do, and whom to tell.
pub(crate) struct Request {
    pub(crate) task: Task,
    pub(crate) durability: Durability,
    pub(crate) asked: Instant,
    pub(crate) reply: oneshot::Sender<Result<Receipt, Error>>,
}

/// What to do.
pub(crate) enum Task {
    /// Commit an attempt, which is sealed.
    Commit {
        attempt: Arc<OpenAttempt>,
        committed: Committed,
    },
    /// Bring a committed attempt to a higher level.
    Raise { shuffle: Arc<Shuffle>, owner: Owner },
}

// === impl Request ===

impl Request {
    /// Answers without doing anything.
    pub(crate) fn refuse(self, error: Error) {
        if let Task::Commit { attempt, .. } = &self.task {
            attempt.fail(error.to_string());
        }
        let _ = self.reply.send(Err(error));
    }
}

#[derive(Default)]
pub(crate) struct Queue {
    pub(crate) requests: Vec<Request>,
    pub(crate) awake: bool,
    pub(crate) stop: Option<Stop>,
    /// Whether nothing is to be in memory only, because the end is near.
    pub(crate) keep: bool,
}

/// How the writer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Ends once blocks that only memory has are on disk.
    Flush,
    /// Ends at once, as a crash would.
    Now,
}

/// What the writer finds when it wakes.
pub(crate) struct Work {
    pub(crate) requests: Vec<Request>,
    pub(crate) stop: Option<Stop>,
    /// Whether what only memory has is to be put on disk.
    pub(crate) keep: bool,
}
