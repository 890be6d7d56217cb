//! (being built)
use std::{ops::Range, path::Path, sync::Arc};
use shuffle_proto::{block::PartitionTotal, ids::{AppId, ShuffleId, VolumeId}};
use super::*;
/// One data directory. Clones are the same volume; when the last is dropped without [`Volume::close`], what only memory holds is gone.
#[derive(Clone, Debug)]
pub struct Volume(#[allow(dead_code)] Arc<()>);
impl Volume {
    /// Opens or creates it. Blocking: recovers what the index has and removes what it has not.
    pub fn open(dir: &Path, options: Options, components: Components) -> Result<Self, Error> { let _ = (dir, options, components.budget); todo!() }
    /// Its identity.
    pub fn id(&self) -> VolumeId { todo!() }
    /// Its directory.
    pub fn dir(&self) -> &Path { todo!() }
    /// Whether it takes new attempts.
    pub fn health(&self) -> Health { todo!() }
    /// Bytes in its segments and logs.
    pub fn bytes_used(&self) -> u64 { todo!() }
    /// Bytes that its file system has left (asked at most once a second).
    pub fn bytes_free(&self) -> u64 { todo!() }
    /// Counters.
    pub fn stats(&self) -> StatsSnapshot { todo!() }
    /// Apps that it knows; after opening, those that were recovered.
    pub fn apps(&self) -> Vec<AppRecord> { todo!() }
    /// Remembers an app, or its new lease. Must come before the app's first attempt. Blocking (a write to the index).
    pub fn put_app(&self, app: &AppRecord) -> Result<(), Error> { let _ = app; todo!() }
    /// Deletes all that an app has. Idempotent; answers bytes freed. Blocking.
    pub fn delete_app(&self, app: &AppId) -> Result<u64, Error> { let _ = app; todo!() }
    /// Deletes a shuffle; pushes and fetches of it are refused until the app is gone. Idempotent; answers bytes freed. Blocking.
    pub fn delete_shuffle(&self, app: &AppId, shuffle: ShuffleId) -> Result<u64, Error> { let _ = (app, shuffle); todo!() }
    /// Begins an attempt, taking over from an older stream of the same one. Does not block.
    pub fn open_attempt(&self, key: AttemptKey, num_maps: u32, num_partitions: u32) -> Result<Opened, Error> { let _ = (key, num_maps, num_partitions); todo!() }
    /// The receipt of an attempt, if it is committed.
    pub fn committed(&self, key: &AttemptKey) -> Option<Receipt> { let _ = key; todo!() }
    /// Answers the commit of an attempt that is committed already: compares totals, raises the level if a higher one is asked for.
    pub async fn confirm(&self, key: &AttemptKey, totals: &[PartitionTotal], durability: Durability) -> Result<Receipt, Error> { let _ = (key, totals, durability); todo!() }
    /// Begins a read. `maps` may end beyond the shuffle's. Does not block.
    pub fn fetch(&self, app: &AppId, shuffle: ShuffleId, partitions: Range<u32>, maps: Range<u32>, cursor: Option<Cursor>) -> Result<Fetch, Error> { let _ = (app, shuffle, partitions, maps, cursor); todo!() }
    /// What an app holds, or one of its shuffles.
    pub fn usage(&self, app: &AppId, shuffle: Option<ShuffleId>) -> Usage { let _ = (app, shuffle); todo!() }
    /// Puts on disk what only memory holds and ends the writer. Further calls answer `Unavailable`.
    pub async fn close(&self) { todo!() }
}
