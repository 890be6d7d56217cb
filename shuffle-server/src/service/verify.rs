//! Verify: a reader says that an attempt is not what was written, and the volume looks.
//!
//! Reading an attempt again costs what a fetch of it costs, and more often than not it has changed
//! on the way only. So one is looked at by one call at a time, an app has one such call, the server
//! a few, and what was found sound is not read again at once: who comes too early is told to come
//! back.
//!
//! If it is bad, what lies beside it is looked at too, once in a while for each shuffle, and the
//! answer waits for that a moment: so the reader is told of all that is lost, and the engine loses
//! one attempt of a stage and not one for each bit.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use shuffle_proto::{
    ids::{AppId, AttemptId, MapIndex},
    kind::Kind,
    v1, wire,
};
use tokio::sync::watch;

use super::caller;

use crate::{
    core::Core,
    error::Refusal,
    staging::{AttemptKey, Volume},
};

/// Attempts that are read again at the same time, of all apps.
const MOST: usize = 4;
/// How long an attempt that was found sound is not read again.
const SOUND_FOR: Duration = Duration::from_secs(5);
/// Such attempts that are remembered.
const REMEMBERED: usize = 1024;
/// Bytes of a reader's reason that go to the log.
const REASON: usize = 400;

/// How long the answer waits for what lies beside a bad attempt; the look goes on.
const AROUND: Duration = Duration::from_secs(5);
/// How long nothing beside other bad attempts of a shuffle is looked at again.
const SEEN_FOR: Duration = Duration::from_secs(60);

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
    let caller = caller::check(core, request.caller.as_ref())?;
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
    let looked = core.clone();
    let looking = tokio::spawn(async move {
        let found = volume.verify(&key).await;
        if let Ok(Some(_)) = &found {
            // Others may report what they find meanwhile.
            drop(look);
            if let Some(mut around) = look_around(&looked, &volume, &key) {
                let over = around.wait_for(|over| *over);
                let _ = tokio::time::timeout(AROUND, over).await;
            }
            return found;
        }
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

/// Looks through the shuffle of a bad attempt, unless that was done, or another one's turn it is.
fn look_around(
    core: &Arc<Core>,
    volume: &Volume,
    bad: &AttemptKey,
) -> Option<watch::Receiver<bool>> {
    let shuffle = (volume.id(), bad.app.clone(), bad.shuffle);
    let mut looks = core.reports.0.lock();
    looks
        .around
        .retain(|_, (at, over)| !*over.borrow() || at.elapsed() < SEEN_FOR);
    if let Some((_, over)) = looks.around.get(&shuffle) {
        return Some(over.clone());
    }
    if looks.around.values().any(|(_, over)| !*over.borrow()) {
        return None;
    }
    let (sender, receiver) = watch::channel(false);
    looks
        .around
        .insert(shuffle, (Instant::now(), receiver.clone()));
    drop(looks);
    let (core, volume, bad) = (core.clone(), volume.clone(), bad.clone());
    tokio::spawn(async move {
        let stop = || core.is_draining();
        match volume.verify_all(&bad.app, bad.shuffle, stop).await {
            Ok(count) => {
                tracing::info!(volume = %volume.id(), app = %bad.app, shuffle = %bad.shuffle, lost = count, "what lies beside a bad attempt was looked at");
            }
            Err(error) => {
                tracing::warn!(volume = %volume.id(), app = %bad.app, shuffle = %bad.shuffle, %error, "not all that lies beside a bad attempt could be looked at");
            }
        }
        let _ = sender.send(true);
    });
    Some(receiver)
}

fn answer(wrong: Option<String>) -> v1::VerifyResponse {
    v1::VerifyResponse {
        sound: wrong.is_none(),
        reason: wrong.unwrap_or_default(),
    }
}
