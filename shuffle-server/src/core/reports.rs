//! Attempts that readers have found wrong: which are looked at, and which were. The looking is
//! `service::verify`'s.

use std::{collections::HashMap, time::Instant};

use parking_lot::Mutex;
use shuffle_proto::ids::{AppId, ShuffleId, VolumeId};
use tokio::sync::watch;

use crate::staging::AttemptKey;

/// What is looked at, and what was.
#[derive(Default)]
pub(crate) struct Reports(pub(crate) Mutex<Looks>);

#[derive(Default)]
pub(crate) struct Looks {
    pub(crate) running: Vec<AppId>,
    pub(crate) sound: HashMap<(VolumeId, AttemptKey), Instant>,
    /// Shuffles that are searched for bad attempts, one at a time, or were searched: since when,
    /// and whether the search is over.
    pub(crate) around: HashMap<(VolumeId, AppId, ShuffleId), (Instant, watch::Receiver<bool>)>,
}
