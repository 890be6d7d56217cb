//! Verify: a reader says that an attempt is not what was written, and the volume looks.
//!
//! Reading an attempt again costs what a fetch of it costs, and more often than not it has changed on the way only. So one is looked
//! at by one call at a time, an app has one such call, the server a few, and what was found sound is not read again at once: who
//! comes too early is told to come back.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use shuffle_proto::{
    ids::{AppId, AttemptId, MapIndex, VolumeId},
    kind::Kind,
    v1, wire,
};

use super::{Core, caller};
use crate::{error::Refusal, staging::AttemptKey};

/// Attempts that are read again at the same time, of all apps.
const MOST: usize = 4;
/// How long an attempt that was found sound is not read again.
const SOUND_FOR: Duration = Duration::from_secs(5);
/// Such attempts that are remembered.
const REMEMBERED: usize = 1024;
/// Of a reader's words, for the log.
const REASON: usize = 400;

/// What is looked at, and what was.
#[derive(Default)]
pub(crate) struct Reports(Mutex<Looks>);

#[derive(Default)]
struct Looks {
    running: Vec<AppId>,
    sound: HashMap<(VolumeId, AttemptKey), Instant>,
}

/// A look that runs.
struct Look(Arc<Core>, AppId);

impl Drop for Look {
    fn drop(&mut self) {
        let mut looks = self.0.reports.0.lock();
        if let Some(at) = looks.running.iter().position(|app| *app == self.1) {
            looks.running.swap_remove(at);
        }
    }
}

/// Reads an attempt again, and has it lost as a whole if it is bad (invariant: one-bit-one-map).
pub(super) async fn verify(
    core: &Arc<Core>,
    request: &v1::VerifyRequest,
) -> Result<v1::VerifyResponse, Refusal> {
    let caller = caller::check(request.caller.as_ref())?;
    let app = core.registry.read(&caller).await?;
    let id = wire::volume("volume", &request.volume)?;
    let key = AttemptKey {
        app: app.id.clone(),
        shuffle: wire::shuffle(request.shuffle),
        map_index: MapIndex(request.map_index),
        attempt: AttemptId(request.attempt),
    };
    let volume = core.volumes.find(id)?.clone();
    let looked_at = (id, key.clone());
    let look = {
        let mut looks = core.reports.0.lock();
        looks.sound.retain(|_, at| at.elapsed() < SOUND_FOR);
        if looks.sound.contains_key(&looked_at) {
            return Ok(answer(None));
        }
        if looks.running.len() >= MOST || looks.running.contains(&app.id) {
            let message = format!("{key} can be looked at when others have been: come back");
            return Err(Refusal::new(Kind::Busy, message));
        }
        looks.running.push(app.id.clone());
        Look(core.clone(), app.id.clone())
    };
    let reason: String = request.reason.chars().take(REASON).collect();
    tracing::warn!(volume = %id, %key, reason, "a reader says that an attempt is not what was written");
    // On a task of its own: it is looked at whether or not the reader waits.
    let looking = tokio::spawn(async move {
        let found = volume.verify(&key).await;
        if let Ok(None) = &found {
            let sound = &mut look.0.reports.0.lock().sound;
            if sound.len() < REMEMBERED {
                sound.insert(looked_at, Instant::now());
            }
        }
        drop(look);
        found
    });
    let found = looking
        .await
        .map_err(|error| Refusal::new(Kind::Internal, format!("look at an attempt: {error}")))??;
    Ok(answer(found))
}

fn answer(wrong: Option<String>) -> v1::VerifyResponse {
    v1::VerifyResponse {
        sound: wrong.is_none(),
        reason: wrong.unwrap_or_default(),
    }
}
