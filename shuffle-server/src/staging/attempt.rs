//! (being built)
use bytes::Bytes;
use shuffle_proto::block::{BlockHeader, PartitionTotal};
use super::{AttemptKey, Durability, Error, Receipt};
/// Takes the blocks of one attempt. Dropped without a commit, it leaves nothing visible.
#[derive(Debug)]
pub struct AttemptWriter {}
impl AttemptWriter {
    /// Whose blocks these are.
    pub fn key(&self) -> &AttemptKey { todo!() }
    /// `seq` that the next block must have.
    pub fn next_seq(&self) -> u32 { todo!() }
    /// Takes a batch: its blocks sorted by partition, their bytes back to back, the permit inside `data`. Does not block.
    pub fn append(&mut self, headers: Vec<BlockHeader>, data: Bytes) -> Result<(), Error> { let _ = (headers, data); todo!() }
    /// Makes the attempt visible once it is as durable as asked. Dropped while it waits, the commit goes on.
    pub async fn commit(self, totals: Vec<PartitionTotal>, durability: Durability) -> Result<Receipt, Error> { let _ = (totals, durability); todo!() }
}
