//! The fetch of a volume from the object store itself: the last resort, when no server is left for
//! it.
//!
//! The same blocks as from a server, so the same rules: room in the window before bytes, checksums
//! before release, and no block released twice, whatever its source. Only a volume with *all*
//! expected outputs in the store is read here: the last commits may not have been written back, and
//! then the volume's own server is waited for.
//!
//! - invariant: unknown-is-never-empty. A volume of which the store has nothing is lost, and a
//!   store that cannot be asked has failed; neither is an answer without rows.
//! - invariant: verified-before-released, by `verify.rs` as ever. `shuffle-remote` compares
//!   checksums too; once more costs a fraction of the request, and one place in the client answers
//!   for all releases.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use shuffle_proto::{ids::AttemptId, summary};
use shuffle_remote::{Cursor, Owner, Place, Remote};

use super::{
    plan::Looked,
    stream::{Fetch, Trouble},
    verify::{self, Fault},
};
use crate::{
    channel::Failure,
    error::{Error, Kind},
};

/// Outputs named in a message.
const NAMED: usize = 5;

/// Why a read ends early.
enum Stop {
    Store(shuffle_remote::Error),
    /// Outputs missing from the store.
    Missing(Vec<Owner>),
    /// As [`Trouble::Wrong`].
    Wrong {
        fault: Fault,
        from_start: bool,
    },
}

impl From<shuffle_remote::Error> for Stop {
    fn from(error: shuffle_remote::Error) -> Self {
        Self::Store(error)
    }
}

impl Fetch<'_, '_> {
    /// Reads the group's volume once, from the cursor to the summary.
    pub(super) async fn direct(&mut self) -> Result<(), Trouble> {
        let shared = self.shared;
        let (Some(store), Some(volume)) = (shared.client.store(), self.group.volumes.first())
        else {
            unreachable!("a direct group is of one volume, and its client has a store");
        };
        let place = Place {
            app: shared.spec.caller.app.clone(),
            shuffle: shared.spec.shuffle,
            volume: *volume,
        };
        let remote = match store.open().await {
            Ok(remote) => remote,
            Err(failure) => return Err(self.no_help(failure, Vec::new())),
        };
        let Err(stop) = self.read_objects(remote, &place).await else {
            return Ok(());
        };
        // The next look is to see what is there then.
        remote.forget(&place.app, Some(place.shuffle));
        Err(match stop {
            // The bytes are there and broken: asking once more does not mend them.
            Stop::Wrong { fault, .. } if fault.missing => {
                // What is known to be broken is known of a whole answer only.
                self.cursor = Bytes::new();
                self.no_help(Failure::new(Kind::Corrupt, fault.message), fault.lost)
            }
            Stop::Wrong { fault, from_start } => Trouble::Wrong { fault, from_start },
            Stop::Store(error) => {
                self.no_help(Failure::new(error.kind(), error.to_string()), Vec::new())
            }
            Stop::Missing(missing) => {
                let named = missing.iter().take(NAMED);
                let named: Vec<_> = named
                    .map(|(map, attempt)| format!("map {map} (attempt {attempt})"))
                    .collect();
                let more = match missing.len().saturating_sub(NAMED) {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                let message = format!(
                    "{} of {} outputs of volume {} were not written back: {}{more}",
                    missing.len(),
                    self.group.expected.len(),
                    place.volume,
                    named.join(", "),
                );
                let missing = missing.into_iter().map(|(_, attempt)| attempt).collect();
                self.no_help(Failure::new(Kind::Lost, message), missing)
            }
        })
    }

    async fn read_objects(&mut self, remote: &Arc<Remote>, place: &Place) -> Result<(), Stop> {
        let spec = &self.shared.spec;
        let owners: BTreeSet<Owner> = self
            .group
            .expected
            .iter()
            .map(|(attempt, progress)| (progress.output.map_index, *attempt))
            .collect();
        let chain = remote.chain(place).await?;
        let missing = chain.missing(owners.iter().copied());
        if !missing.is_empty() {
            return Err(Stop::Missing(missing));
        }
        let cursor = Cursor::try_from_bytes(&self.cursor);
        let only = Some(Arc::new(owners));
        let (partitions, maps) = (spec.partitions.clone(), spec.maps.clone());
        let mut fetch = remote.fetch(place, partitions, maps, only, cursor).await?;
        let wrong = |from_start| move |fault| Stop::Wrong { fault, from_start };
        while let Some(length) = fetch.ahead().await? {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let permit = self.permit(length).await;
            let Some(part) = fetch.next_read().await? else {
                break;
            };
            let blocks = part.blocks.into_iter().zip(part.data);
            let blocks = verify::check(blocks).map_err(wrong(false))?;
            let _new = self.deliver(blocks, permit).await.map_err(wrong(false))?;
            self.cursor = part.cursor.to_bytes();
        }
        let summary = summary::messages([fetch.summary().await?], usize::MAX).pop();
        let summary = summary.unwrap_or_default();
        verify::compare(&self.group.expected, &summary).map_err(wrong(true))
    }

    /// Remembers why the store did not help, for the error that may come of it in the end.
    fn no_help(&mut self, failure: Failure, missing: Vec<AttemptId>) -> Trouble {
        self.group.looked = Some(Looked {
            kind: failure.kind,
            message: failure.message.clone(),
            missing,
        });
        Trouble::Failed(failure)
    }

    /// Adds what came of the last look into the store. What is neither there nor on a server is
    /// lost.
    pub(super) fn with_look(&self, mut error: Error) -> Error {
        if let (Some(looked), Some(store)) = (&self.group.looked, self.shared.client.store()) {
            error.message += &format!("; in the object store {}: {}", store.name(), looked.message);
            if looked.kind == Kind::Lost {
                error.kind = Kind::Lost;
            }
        }
        error
    }
}
