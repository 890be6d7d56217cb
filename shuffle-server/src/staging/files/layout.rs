//! Where everything lies in a data directory.
//!
//! | name | content |
//! |---|---|
//! | `volume`, `volume.copy` | three equal lines of text: `forebay-volume 3` (the format), the volume's UUID, and the CRC-32 of both |
//! | `LOCK` | empty; locked by the process that serves the volume |
//! | `index/` | RocksDB, see [`crate::index`] |
//! | `apps/<number>.<app>/<shuffle>/<segment>.seg` | segments, see [`super::format`] |
//! | `trash/` | what is deleted and not gone yet, see `state::trash` |
//! | `ballast` | space that is kept for the index, see [`super::ballast`] |
//! | `lives/` | which applications' deletions were seen, see `writeback::notes` |
//! | `lost/` | after damage to the index: its files as they were, and what it does not name any more; for a person, never read |
//! | `log/<log>.log` | commit logs, see [`super::format`] |

use std::path::{Path, PathBuf};

use shuffle_proto::ids::{AppId, ShuffleId};

use crate::index::AppNo;

/// Directory of an app's segments. Its name has the app's number, and the app's id for people.
pub(crate) fn app_dir(dir: &Path, app: &AppId, no: AppNo) -> PathBuf {
    dir.join("apps").join(format!("{}.{app}", no.0))
}

/// The app in whose directory this is.
pub(crate) fn app_of(name: &str) -> Option<AppId> {
    let (no, app) = name.split_once('.')?;
    no.parse::<u32>().ok()?;
    AppId::try_new(app)
}

/// Directory of a shuffle's segments.
pub(crate) fn shuffle_dir(dir: &Path, app: &AppId, no: AppNo, shuffle: ShuffleId) -> PathBuf {
    app_dir(dir, app, no).join(shuffle.to_string())
}
