//! The records of apps in the store: who is who, for the whole pool.
//!
//! An app is bound through its lease record: whoever hears of it first makes the record, by a
//! conditional put, and everybody else compares the token with it. Before anything is written to a
//! store its marker is seen, or made; what is removed or damaged of either while servers run is put
//! back.
//!
//! An app that was deleted stays dead until its record is gone, also where a next one of the same
//! name and token has come: what is in the store by then is not the next one's, whatever its maps
//! and attempts are called (invariant: token-is-the-pools).

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use parking_lot::Mutex;
use shuffle_proto::ids::AppId;
use shuffle_remote::{Error, Remote, keys, lease::Lease, marker::Marker};
use uuid::Uuid;

use super::notes::{Note, Notes, State};
use crate::{
    registry::{Claim, Pool},
    staging::Volume,
};

/// The shortest lease in the store: requests take their time.
const LEAST: Duration = Duration::from_secs(1);
/// Others may write the record between a look at it and the put.
const TRIES: u32 = 4;

/// See the module.
pub struct Records {
    remote: Arc<Remote>,
    /// This process, on tombstones.
    me: Uuid,
    claimed: OnceLock<Marker>,
    lives: Mutex<HashMap<AppId, Lives>>,
    notes: OnceLock<Arc<Notes>>,
}

/// Which of the apps of one name is meant.
#[derive(Clone, Default)]
struct Lives {
    /// The one whose record was seen last.
    last: Option<Lease>,
    /// The one that was deleted here, while what it has is being removed.
    ended: Option<Uuid>,
    noted: Option<Note>,
}

// === impl Records ===

impl Records {
    /// Of this store; asks nothing of it yet.
    pub fn new(remote: Arc<Remote>) -> Self {
        Self {
            remote,
            me: Uuid::new_v4(),
            claimed: OnceLock::new(),
            lives: Mutex::default(),
            notes: OnceLock::new(),
        }
    }

    /// Notes on these volumes which life of a name is which, and recalls what an earlier process
    /// has noted there. Blocking.
    pub fn remember(&self, volumes: Vec<Volume>) {
        let notes = Arc::new(Notes::new(volumes));
        let mut lives = self.lives.lock();
        for (app, note) in notes.load() {
            let lives = lives.entry(app).or_default();
            let record = Lease::again(note.token, LEAST, Some(note.born));
            lives.ended = (note.state != State::Live).then_some(note.born);
            (lives.last, lives.noted) = (Some(record), Some(note));
        }
        let _ = self.notes.set(notes);
    }

    /// Sees to it that the store is ours to write to; [`Error::Invalid`] if it is not.
    pub async fn claim(&self) -> Result<(), Error> {
        if self.claimed.get().is_some() {
            return Ok(());
        }
        let marker = Marker::claim(&self.remote.store).await?;
        let pool = marker.pool().to_owned();
        if self.claimed.set(marker).is_ok() {
            tracing::info!(pool, dir = %self.remote.store.path(keys::ROOT), "the object store is this pool's");
        }
        Ok(())
    }

    /// The same, and puts the marker back where it was removed or damaged since it was seen.
    pub(super) async fn keep_claim(&self) -> Result<(), Error> {
        match self.claimed.get() {
            None => self.claim().await,
            Some(marker) => {
                if marker.keep(&self.remote.store).await? {
                    tracing::warn!(key = %self.remote.store.path(&keys::marker()), "the marker of the pool was removed or damaged: it is put back");
                }
                Ok(())
            }
        }
    }

    /// This process, as tombstones name it.
    pub(super) fn me(&self) -> Uuid {
        self.me
    }

    /// An app's record; `None` if it has none.
    pub(super) async fn read(&self, app: &AppId) -> Result<Option<Lease>, Error> {
        let record = Lease::read(&self.remote.store, app).await?;
        if let Some(record) = &record {
            self.seen(app, record);
        }
        Ok(record)
    }

    fn seen(&self, app: &AppId, record: &Lease) {
        let mut lives = self.lives.lock();
        let last = lives
            .entry(app.clone())
            .or_default()
            .last
            .replace(record.clone());
        if last.is_some_and(|last| last.born() != record.born()) {
            // What is known of the store's content is of the one before.
            self.remote.forget(app, None);
        }
    }

    /// The record that was seen last under this name.
    pub(super) fn last(&self, app: &AppId) -> Option<Lease> {
        self.lives.lock().get(app)?.last.clone()
    }

    /// The app whose record was seen last under this name, if it is the one of this token.
    pub(super) fn last_born(&self, app: &AppId, token: [u8; 32]) -> Option<Uuid> {
        let lives = self.lives.lock();
        let last = lives.get(app)?.last.as_ref();
        last.filter(|it| it.opens(token)).map(Lease::born)
    }

    /// The app that was seen last was deleted here, if it is the one of this token, or whichever it
    /// is; answers which that is.
    pub(super) fn end(&self, app: &AppId, token: Option<[u8; 32]>) -> Option<Uuid> {
        let mut lives = self.lives.lock();
        let lives = lives.get_mut(app)?;
        let last = lives.last.as_ref();
        // Of another's app nothing ends because of who has no right to it.
        let last = last.filter(|it| token.is_none_or(|token| it.opens(token)));
        lives.ended = Some(last.map(Lease::born)?);
        lives.ended
    }

    /// What this one had was removed, as far as that is for this server to do.
    pub(super) fn ended(&self, app: &AppId, born: Uuid) {
        let mut lives = self.lives.lock();
        let Some(of_app) = lives.get_mut(app) else {
            return;
        };
        of_app.ended.take_if(|ended| *ended == born);
        // Until then volumes may still have something of it.
        let gone = |note: &Note| note.state == State::Gone && note.born == born;
        let noted = of_app.noted.take_if(|note| gone(note));
        drop(lives);
        self.forget_note(app, noted);
    }

    /// Writes the tombstone of this one anew, in the place of what cannot be read; `None` if it is
    /// not known well enough, or what is there is of a later format.
    pub(super) async fn tombstone_again(
        &self,
        app: &AppId,
        born: Uuid,
    ) -> Result<Option<Lease>, Error> {
        let last = self.last(app).filter(|last| last.born() == born);
        let Some(last) = last else {
            return Ok(None);
        };
        if Lease::is_newer(&self.remote.store, app).await? {
            return Ok(None);
        }
        tracing::warn!(%app, "the tombstone of an app that was deleted was damaged: it is written anew");
        let stone = last.anyway().buried(self.me, false);
        stone.write(&self.remote.store, app).await?;
        Ok(Some(stone))
    }

    /// Makes the record of the app that was deleted here its tombstone, for whoever asks another
    /// server.
    pub(super) async fn entomb(&self, app: &AppId) -> Result<(), Error> {
        let ended = self.lives.lock().get(app).and_then(|lives| lives.ended);
        for _ in 0..TRIES {
            let record = self.read(app).await?;
            let record = record.filter(|it| Some(it.born()) == ended && !it.is_deleted());
            let Some(record) = record else {
                return Ok(());
            };
            let stone = record.buried(self.me, false);
            match stone.write(&self.remote.store, app).await {
                Err(Error::Exists { .. }) => {}
                done => return done,
            }
        }
        Ok(())
    }

    /// Those that were deleted here, and are not removed yet.
    pub(super) fn to_bury(&self) -> Vec<(AppId, Uuid)> {
        let lives = self.lives.lock();
        let ended = lives
            .iter()
            .filter_map(|(app, it)| Some((app.clone(), it.ended?)));
        ended.collect()
    }

    /// Whether a deletion of the app under this name is under way here.
    pub(super) fn is_ending(&self, app: &AppId) -> bool {
        let lives = self.lives.lock();
        lives.get(app).is_some_and(|lives| lives.ended.is_some())
    }

    /// Whether this record is of an app that somebody has deleted.
    pub(super) fn is_over(&self, app: &AppId, record: &Lease) -> bool {
        let ended = self.lives.lock().get(app).and_then(|lives| lives.ended);
        record.is_deleted() || ended == Some(record.born())
    }

    /// Forgets names but these.
    pub(super) fn retain(&self, keep: impl Fn(&AppId) -> bool) {
        let mut forgotten = Vec::new();
        self.lives.lock().retain(|app, lives| {
            let stays = lives.ended.is_some() || keep(app);
            if !stays {
                forgotten.push((app.clone(), lives.noted));
            }
            stays
        });
        for (app, note) in forgotten {
            self.forget_note(&app, note);
        }
    }

    /// Notes that the app whose record was seen last lives, before anything is in the store for it.
    pub(super) async fn note_live(&self, app: &AppId) {
        let note = {
            let lives = self.lives.lock();
            let Some((of_app, last)) = lives.get(app).and_then(|it| Some((it, it.last.as_ref()?)))
            else {
                return;
            };
            let known = of_app.noted.is_some_and(|note| note.born == last.born());
            if known || of_app.ended == Some(last.born()) {
                return;
            }
            Note {
                token: last.token_hash(),
                born: last.born(),
                state: State::Live,
            }
        };
        self.note(app, note).await;
    }

    /// Notes the deletion of an app of which no volume has anything, if it is not noted yet.
    pub(super) async fn note_gone(&self, app: &AppId) {
        let note = self.deletion(app, State::Gone);
        if let Some((note, earlier)) = note
            && earlier.is_none_or(|it| it.born != note.born || it.state == State::Live)
        {
            self.note(app, note).await;
        }
    }

    /// The note of an app's deletion, and what is noted now.
    fn deletion(&self, app: &AppId, state: State) -> Option<(Note, Option<Note>)> {
        let lives = self.lives.lock();
        let of_app = lives.get(app)?;
        let born = of_app.ended?;
        let noted = of_app.noted.filter(|note| note.born == born);
        // The record of the next one may have been seen since.
        let last = of_app.last.as_ref().filter(|last| last.born() == born);
        let token = last.map(Lease::token_hash);
        let token = token.or_else(|| noted.map(|note| note.token))?;
        Some((Note { token, born, state }, of_app.noted))
    }

    async fn note(&self, app: &AppId, note: Note) {
        let Some(notes) = self.notes.get().cloned() else {
            return;
        };
        let name = app.clone();
        let put = tokio::task::spawn_blocking(move || notes.put(&name, note)).await;
        self.noted(
            app,
            note,
            put.unwrap_or_else(|panic| Err(panic.to_string())),
        );
    }

    fn noted(&self, app: &AppId, note: Note, put: Result<(), String>) {
        match put {
            Ok(()) => {
                if let Some(lives) = self.lives.lock().get_mut(app) {
                    lives.noted = Some(note);
                }
            }
            Err(error) => {
                tracing::warn!(%app, %error, "no data directory takes a note of which application this is");
            }
        }
    }

    fn forget_note(&self, app: &AppId, note: Option<Note>) {
        if let (Some(notes), Some(note)) = (self.notes.get().cloned(), note) {
            let app = app.clone();
            // Nobody waits for that: the next one's is another.
            drop(std::thread::spawn(move || notes.remove(&app, note.born)));
        }
    }

    /// Writes the record of an app that lives anew, in the place of what cannot be read as one.
    pub(super) async fn restore(
        &self,
        app: &AppId,
        token: [u8; 32],
        lease: Duration,
    ) -> Result<Lease, Error> {
        let record = Lease::again(token, lease.max(LEAST), self.last_born(app, token));
        record.write(&self.remote.store, app).await?;
        Ok(record)
    }

    /// Writes the record of an app that lives.
    pub(super) async fn renew(
        &self,
        app: &AppId,
        record: &Lease,
        lease: Duration,
    ) -> Result<Lease, Error> {
        let renewed = record.renewed(lease.max(LEAST));
        renewed.write(&self.remote.store, app).await?;
        Ok(renewed)
    }

    /// Looks whose an app is.
    pub(super) async fn ask(&self, app: &AppId, token: [u8; 32]) -> Result<Claim, Error> {
        Ok(match self.read(app).await? {
            None => Claim::Nobody,
            Some(record) if !record.opens(token) => Claim::Another,
            Some(record) if self.is_over(app, &record) => Claim::Deleted,
            Some(_) => {
                self.note_live(app).await;
                Claim::Yours
            }
        })
    }

    /// Makes the record, or compares the token with the one that is there. An app of which only
    /// nobody was heard for a while comes back by this; of one that was deleted the record has to
    /// go first.
    pub(super) async fn bind(
        &self,
        app: &AppId,
        token: [u8; 32],
        lease: Duration,
    ) -> Result<Claim, Error> {
        let claim = self.try_bind(app, token, lease).await?;
        if claim == Claim::Yours {
            self.note_live(app).await;
        }
        Ok(claim)
    }

    async fn try_bind(
        &self,
        app: &AppId,
        token: [u8; 32],
        lease: Duration,
    ) -> Result<Claim, Error> {
        self.claim().await?;
        let mut rival = None;
        for _ in 0..TRIES {
            let Some(record) = self.read(app).await? else {
                let record = Lease::new(token, lease.max(LEAST));
                match record.create(&self.remote.store, app).await {
                    Ok(()) => {
                        self.seen(app, &record);
                        return Ok(Claim::Yours);
                    }
                    Err(error @ Error::Exists { .. }) => {
                        rival = Some(error);
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            };
            let dead = record.buried_by().is_some();
            return match record.opens(token) {
                true if self.is_over(app, &record) => Ok(Claim::Deleted),
                true if dead => match self.renew(app, &record, lease).await {
                    Ok(_) => Ok(Claim::Yours),
                    Err(error @ Error::Exists { .. }) => {
                        rival = Some(error);
                        continue;
                    }
                    Err(error) => Err(error),
                },
                true => Ok(Claim::Yours),
                // Its name will be free.
                false if dead => Err(self.not_yet(app)),
                false => Ok(Claim::Another),
            };
        }
        Err(rival.unwrap_or_else(|| self.not_yet(app)))
    }

    /// What an app of this name had is still there.
    pub(super) fn not_yet(&self, app: &AppId) -> Error {
        Error::Store {
            verb: "delete",
            key: self.remote.store.path(&keys::app(app)).to_string(),
            message: "what was deleted of the app could not be removed yet".into(),
        }
    }
}

impl Pool for Records {
    fn ask<'a>(&'a self, app: &'a AppId, token: [u8; 32]) -> BoxFuture<'a, Result<Claim, String>> {
        let asked = async move { self.ask(app, token).await.map_err(|e| e.to_string()) };
        asked.boxed()
    }

    fn bind<'a>(
        &'a self,
        app: &'a AppId,
        token: [u8; 32],
        lease: Duration,
    ) -> BoxFuture<'a, Result<Claim, String>> {
        let bound = async move {
            let bound = self.bind(app, token, lease).await;
            bound.map_err(|e| e.to_string())
        };
        bound.boxed()
    }

    fn ends(&self, app: &AppId, token: Option<[u8; 32]>) {
        self.end(app, token);
    }

    fn deleting(&self, app: &AppId, gone: bool) {
        let state = if gone { State::Gone } else { State::Deleted };
        match (self.deletion(app, state), self.notes.get()) {
            (Some((note, _)), Some(notes)) => self.noted(app, note, notes.put(app, note)),
            // Its burial was quicker.
            (None, _) if gone => {
                let noted = self.lives.lock().get(app).and_then(|lives| lives.noted);
                let over = noted.filter(|note| note.state == State::Deleted);
                self.forget_note(app, over);
            }
            _ => {}
        }
    }

    fn was_deleted(&self, app: &AppId, token: [u8; 32]) -> bool {
        let noted = self.lives.lock().get(app).and_then(|lives| lives.noted);
        noted.is_some_and(|it| it.state == State::Deleted && it.token == token)
    }

    fn is_the_same(&self, app: &AppId) -> bool {
        let lives = self.lives.lock();
        let of_app = lives.get(app);
        let of_app = of_app.and_then(|it| Some((it.noted?, it.last.as_ref()?)));
        of_app.is_some_and(|(note, last)| note.state == State::Live && note.born == last.born())
    }
}
