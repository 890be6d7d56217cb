//! The apps and shuffles that a volume knows.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use shuffle_proto::ids::{AppId, ShuffleId};
use uuid::Uuid;

use crate::{
    index::AppNo,
    staging::{
        state::{shuffle::Shuffle, tombstones::Deleted},
        words::AppRecord,
    },
};

/// How many of the latest deletions of apps are remembered, for volumes that were away meanwhile.
pub(crate) const ENDED_KEPT: u32 = 10_000;

#[derive(Default)]
pub(crate) struct Names {
    pub(crate) apps: HashMap<AppId, App>,
    /// Without those that are deleted.
    pub(crate) shuffles: HashMap<(AppNo, ShuffleId), Arc<Shuffle>>,
    pub(crate) next_app: u32,
    /// Lives that were deleted here, the latest of them.
    pub(crate) ended: BTreeMap<AppNo, Uuid>,
}

pub(crate) struct App {
    pub(crate) no: AppNo,
    pub(crate) record: AppRecord,
    pub(crate) deleted: Deleted,
}

// === impl Names ===

impl Names {
    /// Notes that an app was deleted here.
    pub(crate) fn ends(&mut self, no: AppNo, life: Uuid) {
        self.ended.insert(no, life);
        while self.ended.len() > ENDED_KEPT as usize {
            self.ended.pop_first();
        }
    }
}
