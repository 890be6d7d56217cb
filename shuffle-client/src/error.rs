//! The one error that leaves this crate: an action for the caller, and a message for a person.

use shuffle_proto::ids::{AttemptId, MapIndex, VolumeId};
pub(crate) use shuffle_proto::kind::Kind;

/// A failure, after everything that could be retried was retried.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What the caller should do. Nobody branches on `message`.
    pub kind: Kind,
    /// For a person: the server and the request, tries and their duration, and a remedy.
    pub message: String,
    /// The unreadable map output, if a reader failed for want of one: the engine runs its map
    /// again.
    pub output: Option<LostOutput>,
    /// Volumes found gone on the way to this failure, ascending, including the volume of `output`.
    /// The engine forgets all outputs on these volumes at once; otherwise the stage would lose one
    /// attempt per volume.
    pub gone: Vec<VolumeId>,
    /// Map outputs found lost singly, whatever the state of their volumes, including `output` if it
    /// is one of them: ascending by map and attempt. The engine runs all of them again at once;
    /// otherwise the stage would lose one attempt per output.
    pub lost: Vec<LostOutput>,
}

/// One concrete unreadable map output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LostOutput {
    /// The volume: the unit of failure.
    pub volume: VolumeId,
    /// The map task.
    pub map_index: MapIndex,
    /// The attempt.
    pub attempt: AttemptId,
}

impl Error {
    /// An error about no particular map output.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            output: None,
            gone: Vec::new(),
            lost: Vec::new(),
        }
    }

    /// Names the unreadable map output.
    #[must_use]
    pub fn with_output(mut self, output: LostOutput) -> Self {
        self.output = Some(output);
        self
    }

    /// Names dead volumes.
    #[must_use]
    pub fn with_gone(mut self, volumes: impl IntoIterator<Item = VolumeId>) -> Self {
        self.gone.extend(volumes);
        self.gone.sort_unstable();
        self.gone.dedup();
        self
    }

    /// Names single lost outputs.
    #[must_use]
    pub fn with_lost(mut self, outputs: impl IntoIterator<Item = LostOutput>) -> Self {
        self.lost.extend(outputs);
        self.lost
            .sort_unstable_by_key(|lost| (lost.map_index, lost.attempt, lost.volume));
        self.lost.dedup();
        self
    }

    /// Whether the same may succeed when it is tried again as a whole, later.
    pub fn retryable(&self) -> bool {
        self.kind.retryable()
    }
}
