//! The one error that leaves this crate: what a caller should do about it, and what a person should
//! know.

use shuffle_proto::ids::{AttemptId, MapIndex, VolumeId};
pub(crate) use shuffle_proto::kind::Kind;

/// A failure, after everything that could be retried was retried.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What the caller should do. Nobody branches on `message`.
    pub kind: Kind,
    /// For a person: who was asked for what, what was tried and for how long, and a remedy.
    pub message: String,
    /// The map output that cannot be read, if a reader failed for want of one: the engine re-runs
    /// it.
    pub output: Option<LostOutput>,
    /// Volumes that were found gone on the way to this failure, ascending, the volume of `output`
    /// among them. The engine forgets all outputs on these volumes at once; otherwise the stage
    /// would lose one attempt per volume.
    pub gone: Vec<VolumeId>,
    /// Every map output that was found lost by itself, whatever lies beside it on its volume, that
    /// of `output` among them if it is one of these: ascending by map and attempt. The engine runs
    /// all of them again at once, or it would lose one attempt of the stage per output.
    pub lost: Vec<LostOutput>,
}

/// One concrete map output that a reader was told to read and cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LostOutput {
    /// Volume that held it: the unit of failure.
    pub volume: VolumeId,
    /// Map task that wrote it.
    pub map_index: MapIndex,
    /// Try that wrote it.
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

    /// Names the map output that cannot be read.
    #[must_use]
    pub fn with_output(mut self, output: LostOutput) -> Self {
        self.output = Some(output);
        self
    }

    /// Names volumes that are gone.
    #[must_use]
    pub fn with_gone(mut self, volumes: impl IntoIterator<Item = VolumeId>) -> Self {
        self.gone.extend(volumes);
        self.gone.sort_unstable();
        self.gone.dedup();
        self
    }

    /// Names outputs that are lost by themselves.
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
