//! Reports of bad blocks to their server.
//!
//! The reader cannot know where a bit has flipped. The server reads the attempt again: damage on
//! its disk is a loss of the whole attempt, for every reader from then on, and the attempt comes
//! from the object store or is named in the summary, so that its map runs again once and not once
//! per reader. A sound block was changed on the way, and asking again is enough.

use std::time::Duration;

use bytes::Bytes;
use shuffle_proto::{kind::Kind, v1};

use super::{stream::Fetch, verify::Fault};
use crate::channel::Failure;

/// How often a server that is busy with such reports is asked, and the pause before the second
/// time, which doubles.
const TRIES: u32 = 6;
const PAUSE: Duration = Duration::from_millis(100);
/// Longest reason on the wire.
const REASON: usize = 400;

impl Fetch<'_, '_> {
    /// Reports the faulty attempt, once. True if the report may have changed something, so that
    /// asking again makes sense.
    pub(super) async fn report(&mut self, fault: &Fault) -> bool {
        let Some(attempt) = fault.attempt.filter(|_| !fault.missing) else {
            return false;
        };
        let Some(progress) = self.group.expected.get(&attempt) else {
            return false;
        };
        let (volume, map_index) = (progress.output.volume, progress.output.map_index);
        // A stand-in has no bytes of its own, and compares checksums of objects itself.
        if self.group.direct || self.group.home.is_some() {
            return false;
        }
        if !self.reported.insert((volume, attempt)) {
            return false;
        }
        let spec = &self.shared.spec;
        let mut reason = fault.message.clone();
        if let Some((end, _)) = reason.char_indices().nth(REASON) {
            reason.truncate(end);
        }
        let request = v1::VerifyRequest {
            caller: Some(spec.caller.message()),
            shuffle: spec.shuffle.0,
            volume: Bytes::copy_from_slice(volume.0.as_bytes()),
            map_index: map_index.0,
            attempt: attempt.0,
            reason,
        };
        let (address, name) = (&self.group.address, self.shared.name());
        for tries in 0..TRIES {
            let answer = match self.verify(request.clone()).await {
                Ok(answer) => answer,
                Err(failure) if failure.kind == Kind::Busy => {
                    let pause = failure.retry_after.unwrap_or_default();
                    tokio::time::sleep(pause.max(PAUSE * (1 << tries))).await;
                    continue;
                }
                // Another request shows the truth.
                Err(failure) => {
                    tracing::debug!(
                        read = name,
                        server = address,
                        error = failure.message,
                        "report failed"
                    );
                    return false;
                }
            };
            let v1::VerifyResponse { sound, reason } = answer;
            tracing::warn!(read = name, server = address, %volume, map = %map_index, %attempt, sound, reason,
                error = fault.message, "a block is not what was written; the server has looked at all of the attempt");
            return true;
        }
        false
    }

    async fn verify(&self, request: v1::VerifyRequest) -> Result<v1::VerifyResponse, Failure> {
        let mut control = self
            .shared
            .client
            .connections()
            .control(&self.group.address)?;
        Ok(control.verify(request).await?.into_inner())
    }
}
