//! Records of apps. A volume must know an app before it takes anything of that app.

use crate::{
    index::{AppNo, Changes, keys::Key, values::Record},
    staging::{
        error::Error,
        state::{names::App, shared::Shared, tombstones::Deleted},
        words::AppRecord,
        write::{commit::app_record, delete::delete_app},
    },
};

/// Remembers an app, or its new lease. Must come before the app's first attempt. Blocking (a write
/// to the index). What fails is done later, when the volume is well.
pub(crate) fn put_app(shared: &Shared, app: &AppRecord) -> Result<(), Error> {
    // Under the same name with another token, or in another life, it is another app: nothing of the
    // one before may be taken for its own.
    let before = {
        let names = shared.names.read();
        let known = names.apps.get(&app.app);
        known.map(|known| (known.record.token_hash, known.record.life))
    };
    if before.is_some_and(|(token, life)| {
        token != app.token_hash || life.is_some() && app.life.is_some() && life != app.life
    }) {
        delete_app(shared, &app.app)?;
    }
    if let Some(earlier) = shared.trash.unrecorded_app(&app.app) {
        // A start must not find both.
        earlier.record(shared)?;
    }
    put(shared, app, false)
}

/// Writes the records of apps that could not be written while the volume was not well. Apps that
/// were deleted meanwhile stay deleted.
pub(crate) fn put_missed(shared: &Shared) {
    let missed: Vec<_> = shared.missed.lock().values().cloned().collect();
    for app in missed {
        if let Err(error) = put(shared, &app, true) {
            tracing::debug!(volume = %shared.id, app = %app.app, %error, "app is not written down yet");
            return;
        }
    }
}

fn put(shared: &Shared, app: &AppRecord, missed: bool) -> Result<(), Error> {
    let _gate = shared.gate.lock();
    if missed && shared.missed.lock().get(&app.app) != Some(app) {
        return Ok(());
    }
    let put = write(shared, app);
    let mut missed = shared.missed.lock();
    match &put {
        Ok(()) => drop(missed.remove(&app.app)),
        Err(_) => drop(missed.insert(app.app.clone(), app.clone())),
    }
    put
}

/// Writes an app's record. The caller holds the gate.
fn write(shared: &Shared, app: &AppRecord) -> Result<(), Error> {
    let no = {
        let mut names = shared.names.write();
        let next = AppNo(names.next_app);
        match names.apps.get_mut(&app.app) {
            Some(known) if known.record == *app => return Ok(()),
            // It is read from, and what its index would be told is gone with the next start.
            Some(known) if shared.is_broken() => {
                known.record = app.clone();
                return Ok(());
            }
            Some(known) => known.no,
            None => next,
        }
    };
    if shared.is_broken() {
        return Err(shared.unavailable());
    }
    let mut changes = Changes::default();
    changes.put(Key::App(no), &app_record(app));
    if let Some(life) = app.life {
        changes.put(Key::Life(no), &Record::Life(life));
    }
    shared
        .index
        .write(&changes, false)
        .map_err(Error::Index)
        .inspect_err(|error| shared.note(error))?;
    let mut names = shared.names.write();
    names.next_app = names.next_app.max(no.0 + 1);
    match names.apps.get_mut(&app.app) {
        Some(known) => known.record = app.clone(),
        None => {
            let new = App {
                no,
                record: app.clone(),
                deleted: Deleted::default(),
            };
            names.apps.insert(app.app.clone(), new);
        }
    }
    Ok(())
}
