//! The apps and shuffles that a volume knows.

use std::{collections::HashMap, sync::Arc};

use shuffle_proto::ids::{AppId, ShuffleId};

use crate::{
    index::AppNo,
    staging::{
        state::{shuffle::Shuffle, tombstones::Deleted},
        words::AppRecord,
    },
};

#[derive(Default)]
pub(crate) struct Names {
    pub(crate) apps: HashMap<AppId, App>,
    /// Without those that are deleted.
    pub(crate) shuffles: HashMap<(AppNo, ShuffleId), Arc<Shuffle>>,
    pub(crate) next_app: u32,
}

pub(crate) struct App {
    pub(crate) no: AppNo,
    pub(crate) record: AppRecord,
    pub(crate) deleted: Deleted,
}
