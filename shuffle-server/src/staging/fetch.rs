//! (being built)
use bytes::Bytes;
use super::{Error, FetchPart, Summary};
/// (being built)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position;
impl Position {
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> { let _ = bytes; todo!() }
    pub(super) fn encode(self) -> Bytes { todo!() }
}
/// A read of some partitions of some maps. Reads what was committed when it began.
#[derive(Debug)]
pub struct Fetch {}
impl Fetch {
    /// Some more blocks; `None` after the last. Safe to drop while it waits, but then the fetch is over.
    pub async fn next(&mut self) -> Result<Option<FetchPart>, Error> { todo!() }
    /// What was covered; complete once [`Fetch::next`] has returned `None`.
    pub fn summary(&self) -> Summary { todo!() }
}
