//! Records of apps in the store: the identity of an app, for the whole pool.
//!
//! An app is bound through its lease record: the first server that hears of the app makes the
//! record, by a conditional put, and all others compare tokens. Before the first write to a store
//! its marker is read, or made. Records and markers removed or damaged by others are restored while
//! servers run.
//!
//! A deleted app stays dead until its record is gone, even after the next app of the same name and
//! token has come: objects in the store until then are not the next app's, whatever the numbers of
//! its maps and attempts (invariant: token-is-the-pools).

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
/// Tries of a read followed by a conditional put: another server may write in between.
const TRIES: u32 = 4;

/// See the module.
pub struct Records {
    remote: Arc<Remote>,
    /// Name of this process on tombstones.
    me: Uuid,
    claimed: OnceLock<Marker>,
    lives: Mutex<HashMap<AppId, Lives>>,
    notes: OnceLock<Arc<Notes>>,
}

/// Lives of one name.
#[derive(Clone, Default)]
struct Lives {
    /// The record that was read last.
    last: Option<Lease>,
    /// The life deleted here, while its objects are being removed.
    ended: Option<Uuid>,
    noted: Option<Note>,
}

// === impl Records ===

impl Records {
    /// Records in this store; sends no request yet.
    pub fn new(remote: Arc<Remote>) -> Self {
        Self {
            remote,
            me: Uuid::new_v4(),
            claimed: OnceLock::new(),
            lives: Mutex::default(),
            notes: OnceLock::new(),
        }
    }

    /// Notes lives on these volumes, and recalls the notes of an earlier process. Blocking.
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

    /// Claims the store for this pool; [`Error::Invalid`] if the store is another pool's.
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

    /// Claims the store, and restores its marker after removal or damage.
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

    /// Name of this process on tombstones.
    pub(super) fn me(&self) -> Uuid {
        self.me
    }

    /// An app's record; `None` without a record.
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
            // Knowledge of the store's content was of the earlier life.
            self.remote.forget(app, None);
        }
    }

    /// The record last read under this name.
    pub(super) fn last(&self, app: &AppId) -> Option<Lease> {
        self.lives.lock().get(app)?.last.clone()
    }

    /// The life last read under this name, if its token is this one.
    pub(super) fn last_born(&self, app: &AppId, token: [u8; 32]) -> Option<Uuid> {
        let lives = self.lives.lock();
        let last = lives.get(app)?.last.as_ref();
        last.filter(|it| it.opens(token)).map(Lease::born)
    }

    /// Ends the life last read, if `token` opens its record or is absent; returns the ended life.
    pub(super) fn end(&self, app: &AppId, token: Option<[u8; 32]>) -> Option<Uuid> {
        let mut lives = self.lives.lock();
        let lives = lives.get_mut(app)?;
        let last = lives.last.as_ref();
        // A wrong token ends nothing.
        let last = last.filter(|it| token.is_none_or(|token| it.opens(token)));
        lives.ended = Some(last.map(Lease::born)?);
        lives.ended
    }

    /// Notes the end of this life's burial on this server.
    pub(super) fn ended(&self, app: &AppId, born: Uuid) {
        let mut lives = self.lives.lock();
        let Some(of_app) = lives.get_mut(app) else {
            return;
        };
        of_app.ended.take_if(|ended| *ended == born);
        // Until then volumes may still have data of the life.
        let gone = |note: &Note| note.state == State::Gone && note.born == born;
        let noted = of_app.noted.take_if(|note| gone(note));
        drop(lives);
        self.forget_note(app, noted);
    }

    /// Writes the tombstone of this life anew in the place of an unreadable record; `None` if the
    /// life's record is unknown, or the record in the store has a later format.
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

    /// Turns the record of the app deleted here into a tombstone, for calls at other servers.
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
        Err(self.not_yet(app))
    }

    /// Whether the app was deleted here, and no data directory has a note of it: the next process
    /// would not know.
    pub(super) fn is_in_no_note(&self, app: &AppId) -> bool {
        let lives = self.lives.lock();
        let Some((ended, noted)) = lives.get(app).and_then(|it| Some((it.ended?, it.noted))) else {
            return false;
        };
        noted.is_none_or(|note| note.born != ended || note.state == State::Live)
    }

    /// Lives deleted here and not yet removed.
    pub(super) fn to_bury(&self) -> Vec<(AppId, Uuid)> {
        let lives = self.lives.lock();
        let ended = lives
            .iter()
            .filter_map(|(app, it)| Some((app.clone(), it.ended?)));
        ended.collect()
    }

    /// Whether a deletion of the app under this name is in progress here.
    pub(super) fn is_ending(&self, app: &AppId) -> bool {
        let lives = self.lives.lock();
        lives.get(app).is_some_and(|lives| lives.ended.is_some())
    }

    /// Whether the record belongs to a deleted app.
    pub(super) fn is_over(&self, app: &AppId, record: &Lease) -> bool {
        let ended = self.lives.lock().get(app).and_then(|lives| lives.ended);
        record.is_deleted() || ended == Some(record.born())
    }

    /// Forgets all names but those to keep.
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

    /// Notes the life last read as live, before its first object is written.
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

    /// Notes the deletion of an app without data on any volume, unless noted already.
    pub(super) async fn note_gone(&self, app: &AppId) {
        let note = self.deletion(app, State::Gone);
        if let Some((note, earlier)) = note
            && earlier.is_none_or(|it| it.born != note.born || it.state == State::Live)
        {
            self.note(app, note).await;
        }
    }

    /// The note for an app's deletion, and the present note.
    fn deletion(&self, app: &AppId, state: State) -> Option<(Note, Option<Note>)> {
        let lives = self.lives.lock();
        let of_app = lives.get(app)?;
        let born = of_app.ended?;
        let noted = of_app.noted.filter(|note| note.born == born);
        // By now the last record may be the next life's.
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
            // Nothing waits for the removal: the next life's note is a different one.
            drop(std::thread::spawn(move || notes.remove(&app, note.born)));
        }
    }

    /// Writes a live app's record anew in the place of an unreadable one.
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

    /// Renews a live app's record.
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

    /// Compares an app's token with the record.
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

    /// Makes the record, or compares tokens with the existing one. An app silent for a while
    /// returns by this call; after a deletion the record has to go first.
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
                // The name will be free.
                false if dead => Err(self.not_yet(app)),
                false => Ok(Claim::Another),
            };
        }
        Err(rival.unwrap_or_else(|| self.not_yet(app)))
    }

    /// The error while objects of an earlier app of this name remain.
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
            // The burial was quicker.
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
