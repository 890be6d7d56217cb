//! The records of the index, as a start reads them.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

use shuffle_proto::ids::{AppId, ShuffleId};

use crate::{
    index::{
        AppNo, Changes, RunId, SegmentId, SegmentIndex,
        keys::{self, Key},
        read, read_all,
        values::{self, FORMAT, Meta, Record},
    },
    staging::{
        error::Error,
        recover::unknown::entries,
        state::{
            batch::Owner,
            names::{App, Names},
            shared::ID_BITS,
            tombstones::Deleted,
        },
        words::AppRecord,
    },
};

pub(super) type Place = (AppNo, ShuffleId);

/// Records of one shuffle.
#[derive(Default)]
pub(super) struct Found {
    pub(super) record: Option<values::Shuffle>,
    pub(super) segments: Vec<SegmentId>,
    pub(super) runs: BTreeMap<RunId, values::Run>,
    pub(super) attempts: BTreeMap<Owner, Result<values::Attempt, String>>,
    pub(super) written: BTreeMap<u32, values::Written>,
}

/// Checks the index's version and counts this opening; answers the count, and how it is written
/// down.
pub(super) fn open_index(
    dir: &Path,
    index: &dyn SegmentIndex,
    new: bool,
) -> Result<(u64, Changes), Error> {
    let opened = match read(index, Key::Meta) {
        Ok(Some(Record::Meta(meta))) if meta.format == FORMAT => meta.opened + 1,
        Ok(Some(Record::Meta(meta))) => {
            return Err(crate::index::Error::Version {
                found: meta.format,
                known: FORMAT,
            }
            .into());
        }
        Err(error @ crate::index::Error::Corrupt { .. }) => {
            tracing::error!(%error, "the index's record of itself is broken");
            1
        }
        Err(error) => return Err(error.into()),
        // Ids go on above all that there are.
        Ok(None) if index.is_damaged() => 1,
        // Without the check an index that was lost would look like an order to remove everything.
        Ok(None) if !new && has_entries(&dir.join("apps")) => {
            let reason = "there are segments but no index: bring back the directory index, or empty the data directory".into();
            return Err(Error::Directory {
                path: dir.into(),
                reason,
            });
        }
        _ => 1,
    };
    // The last count may be what was lost of a damaged index, and an id that is used twice is
    // refused by the file that has it.
    let opened = opened.max(1 + last_opening(dir));
    let mut changes = Changes::default();
    changes.put(
        Key::Meta,
        &Record::Meta(Meta {
            format: FORMAT,
            opened,
        }),
    );
    Ok((opened, changes))
}

/// Which opening of the volume made the newest file.
fn last_opening(dir: &Path) -> u64 {
    let logs = entries(&dir.join("log"));
    let apps = entries(&dir.join("apps")).into_iter();
    let segments = apps
        .flat_map(|app| entries(&app))
        .flat_map(|dir| entries(&dir));
    let ids = logs.into_iter().chain(segments).filter_map(|path| {
        let name = path.file_stem()?.to_str()?;
        u64::from_str_radix(name, 16).ok()
    });
    ids.max().map_or(0, |id| id >> ID_BITS)
}

fn has_entries(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
}

/// Answers whether all records can be read. An app without one is gone, with all that it has:
/// nobody knows whose it was.
pub(super) fn read_apps(
    index: &dyn SegmentIndex,
    names: &mut Names,
    apps: &mut HashMap<AppNo, AppId>,
    changes: &mut Changes,
) -> Result<bool, Error> {
    let mut whole = true;
    index.scan(&[keys::APP], &[keys::APP + 1], &mut |key, value| {
        let Some(Key::App(no)) = Key::decode(key) else {
            whole = false;
            return;
        };
        names.next_app = names.next_app.max(no.0.saturating_add(1));
        match Record::decode(key, value) {
            Ok((_, Record::App(app))) => {
                let record = AppRecord {
                    app: app.id.clone(),
                    token_hash: app.token_hash,
                    lease: app.lease,
                    life: None,
                };
                apps.insert(no, app.id.clone());
                let app = App {
                    no,
                    record,
                    deleted: Deleted::default(),
                };
                // Numbers rise: the one before was deleted when this one came.
                if let Some(before) = names.apps.insert(app.record.app.clone(), app) {
                    apps.remove(&before.no);
                    changes.delete_app(before.no);
                }
            }
            Ok(_) => {}
            Err(error) => {
                tracing::error!(%error, app = no.0, "record of an app is broken: what it has is lost");
                changes.delete_app(no);
                whole = false;
            }
        }
    })?;
    whole &= read_lives(index, names, apps)?;
    Ok(whole)
}

/// Which life of its name each app is, and which were deleted here; answers whether all can be read.
fn read_lives(
    index: &dyn SegmentIndex,
    names: &mut Names,
    apps: &HashMap<AppNo, AppId>,
) -> Result<bool, Error> {
    let mut whole = true;
    for kind in [keys::LIFE, keys::ENDED] {
        read_all(index, kind, |record| match record {
            Ok((Key::Life(no), Record::Life(life))) => {
                let app = apps.get(&no).and_then(|app| names.apps.get_mut(app));
                app.into_iter().for_each(|app| app.record.life = Some(life));
            }
            Ok((Key::Ended(no), Record::Life(life))) => {
                names.next_app = names.next_app.max(no.0.saturating_add(1));
                names.ends(no, life);
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "record of an app's life is broken");
                whole = false;
            }
        })?;
    }
    Ok(whole)
}

/// Reads the records of all shuffles; false if some of them cannot be read.
pub(super) fn read_shuffles(
    index: &dyn SegmentIndex,
    changes: &mut Changes,
) -> Result<(BTreeMap<Place, Found>, bool), Error> {
    let mut found: BTreeMap<Place, Found> = BTreeMap::new();
    let mut whole = true;
    for kind in [
        keys::SHUFFLE,
        keys::SEGMENT,
        keys::RUN,
        keys::ATTEMPT,
        keys::WRITTEN,
    ] {
        index.scan(&[kind], &[kind + 1], &mut |key, value| {
            let record = Record::decode(key, value).map(|(_, record)| record);
            match (Key::decode(key), record) {
                (Some(Key::Shuffle(app, shuffle)), Ok(Record::Shuffle(record))) => {
                    found.entry((app, shuffle)).or_default().record = Some(record);
                }
                (Some(Key::Segment(app, shuffle, segment)), _) => {
                    found
                        .entry((app, shuffle))
                        .or_default()
                        .segments
                        .push(segment);
                }
                (Some(Key::Run(app, shuffle, run)), Ok(Record::Run(record))) => {
                    found
                        .entry((app, shuffle))
                        .or_default()
                        .runs
                        .insert(run, record);
                }
                // Its attempts name it, and will not find it.
                (Some(Key::Run(..)), Err(error)) => {
                    tracing::error!(%error, "record of a run is broken")
                }
                (Some(Key::Attempt(app, shuffle, map_index, attempt)), record) => {
                    let record = match record {
                        Ok(Record::Attempt(record)) => Ok(record),
                        Ok(_) => Err("record of another kind".into()),
                        Err(error) => Err(error.to_string()),
                    };
                    found
                        .entry((app, shuffle))
                        .or_default()
                        .attempts
                        .insert((map_index, attempt), record);
                }
                (Some(Key::Written(app, shuffle, generation)), Ok(Record::Written(record))) => {
                    found
                        .entry((app, shuffle))
                        .or_default()
                        .written
                        .insert(generation, record);
                }
                // The manifest is in the store; it is found again when the next generation is
                // begun.
                (Some(Key::Written(..)), Err(error)) => {
                    tracing::error!(%error, "record of a write-back is broken")
                }
                // Its attempts are lost with it, and none of another shuffle.
                (Some(Key::Shuffle(app, shuffle)), Err(error)) => {
                    tracing::error!(%error, app = app.0, %shuffle, "record of a shuffle is broken: what it has is lost");
                    changes.delete(Key::Shuffle(app, shuffle));
                    whole = false;
                }
                (_, Err(error)) => {
                    tracing::error!(%error, "a record of the index cannot be read");
                    whole = false;
                }
                (_, Ok(_)) => {}
            }
        })?;
    }
    Ok((found, whole))
}
