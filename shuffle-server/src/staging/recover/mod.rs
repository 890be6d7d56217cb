//! What a volume finds when it is opened.
//!
//! The index says what there is; files are only looked at for their length, and log records for
//! their table. A run or record that is not whole loses exactly its attempts. A run that no
//! committed attempt names is forgotten; files that the index does not name are removed, or set
//! aside if the index was damaged. New runs always go to new files, because the end of an old one
//! may hold what nobody knows of.

mod log_record;
mod records;
mod shuffles;
mod unknown;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use shuffle_proto::ids::AppId;

use crate::{
    index::{AppNo, Changes, SegmentIndex},
    staging::{
        disk::Disk,
        error::Error,
        files::log_file::LogFile,
        recover::{
            records::{Found, Place, open_index, read_apps, read_shuffles},
            shuffles::Recovery,
            unknown::remove_unknown,
        },
        state::{
            names::Names,
            trash::{self, Waste, What},
        },
    },
};

/// What was found.
pub(crate) struct Recovered {
    /// Times the volume was opened, this one included.
    pub(crate) times: u64,
    pub(crate) names: Names,
    pub(crate) logs: Vec<Arc<LogFile>>,
    /// Bytes in segments and logs.
    pub(crate) used: u64,
    /// Deletions that are not through.
    pub(crate) waste: Vec<Arc<Waste>>,
    /// What the index is to be told, if it could not be written to.
    pub(crate) changes: Changes,
}

/// Reads the index of the volume at `dir`; `new` if the volume has just been made. Unless it is
/// `writable` nothing is changed.
pub(crate) fn recover(
    dir: &Path,
    index: &dyn SegmentIndex,
    disk: &Disk,
    new: bool,
    writable: bool,
) -> Result<Recovered, Error> {
    let (times, mut changes) = open_index(dir, index, new)?;
    if writable {
        index.write(&std::mem::take(&mut changes), true)?;
    }
    let mut names = Names::default();
    let mut apps = HashMap::new();
    let mut damaged = index.is_damaged();
    damaged |= !read_apps(index, &mut names, &mut apps, &mut changes)?;
    let (mut found, whole) = read_shuffles(index, &mut changes)?;
    damaged |= !whole;
    let waste = carry_through(
        dir,
        &mut names,
        &mut apps,
        &mut found,
        &mut changes,
        writable,
    );
    let mut recovery = Recovery {
        dir,
        disk,
        logs: HashMap::new(),
        used: 0,
        kept: HashSet::new(),
        lost: 0,
        attempts: 0,
    };
    for (place, found) in std::mem::take(&mut found) {
        let Some(app) = apps.get(&place.0) else {
            changes.delete_app(place.0);
            continue;
        };
        match found.record {
            Some(record) if record.deleted => {
                if let Some(app) = names.apps.get_mut(app) {
                    app.deleted.insert(place.1);
                }
            }
            Some(record) => {
                let shuffle = recovery.shuffle(app, place, record, found, &mut changes);
                names.shuffles.insert(place, shuffle);
            }
            None => changes.delete_shuffle_data(place.0, place.1),
        }
    }
    let logs: Vec<_> = recovery.logs.into_values().flatten().collect();
    let mut used = recovery.used;
    for log in &logs {
        used += log.length();
    }
    let mut removed = 0;
    if writable {
        if !changes.is_empty() {
            index.write(&std::mem::take(&mut changes), false)?;
        }
        removed = remove_unknown(dir, disk, &recovery.kept, damaged);
        index.settle_damage()?;
    }
    tracing::info!(
        path = %dir.display(), apps = names.apps.len(), shuffles = names.shuffles.len(), attempts = recovery.attempts,
        lost = recovery.lost, bytes = used, removed, "volume recovered"
    );
    Ok(Recovered {
        times,
        names,
        logs,
        used,
        waste,
        changes,
    })
}

/// Deletions that a crash, or an index that could not be written to, has left half-way: what they
/// took away stays away.
fn carry_through(
    dir: &Path,
    names: &mut Names,
    apps: &mut HashMap<AppNo, AppId>,
    found: &mut BTreeMap<Place, Found>,
    changes: &mut Changes,
    recorded: bool,
) -> Vec<Arc<Waste>> {
    let deletion = |(path, mut what): (PathBuf, What)| {
        if let What::App(no, _, life) = &mut what {
            let app = apps.get(no).and_then(|app| names.apps.get(app));
            *life = app.and_then(|app| app.record.life);
            if let Some(life) = life {
                names.ends(*no, *life);
            }
        }
        what.record(changes);
        match &what {
            What::Shuffle(no, id) => {
                found.remove(&(*no, *id));
                let app = apps.get(no).and_then(|app| names.apps.get_mut(app));
                match app {
                    Some(app) => drop(app.deleted.insert(*id)),
                    None => changes.delete_app(*no),
                }
                names.next_app = names.next_app.max(no.0.saturating_add(1));
            }
            What::App(no, ..) => {
                found.retain(|(of, _), _| of != no);
                if let Some(app) = apps.remove(no) {
                    names.apps.remove(&app);
                }
                names.next_app = names.next_app.max(no.0.saturating_add(1));
            }
            What::File => {}
        }
        Waste::found(path, what, recorded)
    };
    trash::found(dir).into_iter().map(deletion).collect()
}
