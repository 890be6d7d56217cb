//! What a reader keeps of the table of the run that it is in.

use shuffle_proto::block::BlockHeader;

/// Some rows of a run's table, and where the next block's bytes are.
pub(super) struct Table {
    pub(super) run: u64,
    pub(super) rows: Vec<BlockHeader>,
    /// Ordinal of the first row.
    pub(super) first: u32,
    /// Ordinal of the next row that nobody has looked at.
    pub(super) next: u32,
    /// Where that row's bytes begin in the run's data.
    pub(super) offset: u64,
}

// === impl Table ===

impl Table {
    pub(super) fn has(&self, ordinal: u32) -> bool {
        ordinal >= self.first && ((ordinal - self.first) as usize) < self.rows.len()
    }

    pub(super) fn row(&self, ordinal: u32) -> &BlockHeader {
        &self.rows[(ordinal - self.first) as usize]
    }
}
