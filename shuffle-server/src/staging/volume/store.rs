//! What write-back asks of a volume.

use shuffle_proto::ids::{AppId, Owner, ShuffleId};

use super::Volume;

use crate::staging::{
    error::Error,
    reclaim,
    seal::{self, Placement, Sealed, Unwritten},
    words::AttemptKey,
};

impl Volume {
    /// The planner's view of all shuffles that are not deleted.
    pub fn unwritten(&self) -> Vec<Unwritten> {
        seal::unwritten(&self.0.shared)
    }

    /// Whether a shuffle was deleted and its app is still known.
    pub fn is_deleted(&self, app: &AppId, shuffle: ShuffleId) -> bool {
        seal::is_deleted(&self.0.shared, app, shuffle)
    }

    /// Where a committed attempt is. `Fenced` if its shuffle was deleted, `Lost` if it cannot be
    /// read and so never written back.
    pub fn placement(&self, key: &AttemptKey) -> Result<Placement, Error> {
        seal::placement(&self.0.shared, key)
    }

    /// [`Volume::seal_some`] of all that there is.
    pub fn seal(&self, app: &AppId, shuffle: ShuffleId, merge: &[u32]) -> Option<Sealed> {
        self.seal_some(app, shuffle, merge, &[], u64::MAX)
    }

    /// Takes hold of what a shuffle has committed and not written back, and of what these
    /// generations have, so that one manifest takes the place of theirs; `None` if there is nothing
    /// to be done. Of what is in no generation only so much that it is about `most` bytes: first of
    /// these attempts, then of the others by map index, which lie together.
    pub fn seal_some(
        &self,
        app: &AppId,
        shuffle: ShuffleId,
        merge: &[u32],
        first: &[Owner],
        most: u64,
    ) -> Option<Sealed> {
        let shared = &self.0.shared;
        let shuffle = shared.shuffle(app, shuffle)?;
        seal::seal_some((shared, self.0.clone()), shuffle, merge, first, most)
    }

    /// Removes the local copy of a shuffle that is whole in the object store; answers the bytes
    /// that this freed, 0 if it may not go now. Blocking.
    pub fn reclaim(&self, app: &AppId, shuffle: ShuffleId) -> Result<u64, Error> {
        reclaim::reclaim(&self.0.shared, app, shuffle)
    }
}
