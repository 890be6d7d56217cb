//! Errors of a failed read: lost outputs, places tried, and silent servers.

use std::time::Duration;

use shuffle_proto::ids::{AttemptId, VolumeId};

use super::{Fetch, Trouble};
use crate::{
    backoff::OVERLOAD,
    channel::Failure,
    error::{Error, Kind, LostOutput},
    reader::{
        losses::Suspect,
        verify::{Fault, Progress},
    },
};

impl<'a, 'd> Fetch<'a, 'd> {
    pub(super) fn unavailable(&self, failure: &Failure) -> Error {
        let tried_for: Duration = self.backoff.failing_for();
        let settings = self.shared.client.settings();
        let before = if tried_for < settings.retry_deadline {
            ", as it has not before"
        } else {
            ""
        };
        let message = format!(
            "{} did not serve {} within {tried_for:.0?} and {} tries{before}, and no other server has its volumes: {}. Start it again \
             with its disk, or raise {}",
            self.group.address,
            self.shared.name(),
            self.backoff.tries(),
            failure.message,
            settings.name("retry_deadline"),
        );
        let error = self.name_one(Error::new(Kind::Unavailable, message), None);
        self.with_losses(self.with_look(error), self.mirrored_volumes())
    }

    /// The loss, if the server stays away.
    pub(super) fn suspect(&self) -> Suspect {
        let lost = self.missing();
        let volumes = match lost.is_empty() {
            true => self.mirrored_volumes(),
            false => Vec::new(),
        };
        Suspect { volumes, lost }
    }

    /// Adds the losses to an error: dead volumes or, after a look into the object store, their
    /// outputs missing there.
    pub(in crate::reader) fn with_losses(&self, error: Error, gone: Vec<VolumeId>) -> Error {
        let missing = self.missing();
        match missing.is_empty() {
            true => error.with_gone(gone),
            false => error.with_lost(missing),
        }
    }

    /// What the object store was seen not to have.
    pub(super) fn missing(&self) -> Vec<LostOutput> {
        let looked = self.group.looked.iter().flat_map(|looked| &looked.missing);
        let found = looked.filter_map(|attempt| self.group.expected.get(attempt));
        found.map(|progress| progress.output.lost()).collect()
    }

    /// Volumes of the group and of the other copies of its outputs, which do not answer either.
    pub(super) fn mirrored_volumes(&self) -> Vec<VolumeId> {
        let outputs = self
            .group
            .expected
            .values()
            .map(|progress| &progress.output);
        let mirrors = outputs.filter_map(|output| Some(output.mirror.as_ref()?.volume));
        let volumes = self.group.volumes.iter().copied();
        volumes.chain(mirrors).collect()
    }

    /// The error for overloaded servers. Names no output: running maps again would only make it
    /// worse.
    pub(super) fn overloaded(&self, failure: &Failure) -> Error {
        let message = format!(
            "{} answers, and has not served {} for {:.0?} ({OVERLOAD} times {}): {}. Nothing is lost: raise the limit that it names, \
             add servers, or run fewer tasks at a time",
            self.group.address,
            self.shared.name(),
            self.backoff.failing_for(),
            self.shared.client.settings().name("retry_deadline"),
            failure.message,
        );
        Error::new(Kind::Busy, message)
    }

    /// Names one expected output of this volume, or of any volume of the group: one missing from
    /// the object store, if known.
    pub(in crate::reader) fn name_one(&self, mut error: Error, volume: Option<VolumeId>) -> Error {
        let expected = &self.group.expected;
        let mut looked = self.group.looked.iter().flat_map(|looked| &looked.missing);
        let missing = looked.find_map(|attempt| expected.get(attempt));
        let mut others = expected
            .values()
            .filter(|progress| volume.is_none_or(|volume| volume == progress.output.volume));
        let Some(Progress { output, .. }) = missing.or_else(|| others.next()) else {
            return error;
        };
        error.message = format!(
            "{} (map {}, attempt {})",
            error.message, output.map_index, output.attempt
        );
        error.with_output(output.lost())
    }

    /// The error for volumes without a server.
    pub(super) fn not_served(&self, first: VolumeId, gone: Vec<VolumeId>) -> Error {
        let message = format!(
            "volume {first} is not served at {} any more, nor by any of the servers {} that answer: its disk or server is gone with what \
             it held of {}",
            self.group.address,
            self.shared.client.settings().servers.join(", "),
            self.shared.name(),
        );
        let error = self.name_one(Error::new(Kind::Lost, message), Some(first));
        self.with_losses(self.with_look(error), gone)
    }

    /// The error for a server that serves the volumes without their part of this shuffle (the app's
    /// lease ran out there, say). The engine need not find that out volume by volume.
    pub(super) fn has_lost(&self, said: &str) -> Error {
        let message = format!(
            "{} has lost its part of {}: {said}",
            self.group.address,
            self.shared.name(),
        );
        let error = self.name_one(Error::new(Kind::Lost, message), None);
        error.with_gone(self.group.volumes.iter().copied())
    }

    /// The error for an answer that is given up at once.
    pub(super) fn refused(&self, trouble: &Trouble) -> Error {
        let (address, name) = (&self.group.address, self.shared.name());
        match trouble {
            Trouble::Wrong { fault, .. } => self.wrong(fault),
            Trouble::Failed(failure) | Trouble::Silent(failure)
                if failure.kind == Kind::Corrupt =>
            {
                let message = format!("{address} cannot serve {name}: {}", failure.message);
                self.name_one(Error::new(Kind::Corrupt, message), None)
            }
            trouble => {
                let message = format!("{address} refuses to serve {name}: {}", trouble.message());
                Error::new(trouble.kind().unwrap_or(Kind::Internal), message)
            }
        }
    }

    fn wrong(&self, fault: &Fault) -> Error {
        let (kind, verb) = if fault.missing {
            (Kind::Lost, "has lost a part")
        } else {
            (Kind::Corrupt, "answers wrongly")
        };
        let message = format!(
            "{} {verb} of {}, asked twice: {}",
            self.group.address,
            self.shared.name(),
            fault.message
        );
        let error = Error::new(kind, message);
        let outputs = |attempts: &[AttemptId]| -> Vec<_> {
            let found = attempts
                .iter()
                .filter_map(|attempt| self.group.expected.get(attempt));
            found.map(|progress| progress.output.lost()).collect()
        };
        // A fault of one attempt concerns that attempt only.
        let named = outputs(fault.attempt.as_slice());
        match named.first() {
            Some(&output) => error
                .with_output(output)
                .with_lost(named)
                .with_lost(outputs(&fault.lost)),
            None => self.name_one(error, None),
        }
    }
}
