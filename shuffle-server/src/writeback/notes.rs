//! Notes on the lives of apps' names, kept across a crash: one small JSON file per app in each data
//! directory, `lives/<app>.json`, of three equal lines, so that a flipped bit forgets nothing: with
//! `version` 2, `change` (rises with every write), `token-sha256`, `born` (see
//! [`Lease`](shuffle_remote::lease::Lease)), `state`, `checksum` (CRC-32 of the other values with a
//! space between).
//!
//! Without a note, a server that dies between an app's deletion and its tombstone in the store
//! would take the next app of the same name and token for the deleted one, and the store's data for
//! the next one's output. Files are written whole or not at all, to every directory that answers;
//! one directory is enough. Calls block.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use shuffle_proto::ids::AppId;
use uuid::Uuid;

use crate::staging::Volume;

const VERSION: u32 = 2;
/// Equal lines of a note.
const LINES: usize = 3;

/// State of the life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum State {
    /// The life's record was read from the store.
    Live,
    /// The life was deleted, here and in the store; volumes may still have data.
    Deleted,
    /// No volume has data of the life; data under its name belong to another life.
    Gone,
}

/// One life of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) token: [u8; 32],
    pub(super) born: Uuid,
    pub(super) state: State,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Text {
    version: u32,
    change: u64,
    token_sha256: String,
    born: String,
    state: State,
    /// So that a flipped bit is no other life.
    checksum: u32,
}

/// See the module.
pub(super) struct Notes {
    volumes: Vec<Volume>,
    /// Number of the last write.
    last: Mutex<u64>,
}

// === impl Notes ===

impl Notes {
    pub(super) fn new(volumes: Vec<Volume>) -> Self {
        Self {
            volumes,
            last: Mutex::default(),
        }
    }

    /// All notes. Of two notes on one app the later counts: a directory may have missed a write.
    pub(super) fn load(&self) -> HashMap<AppId, Note> {
        let mut notes: HashMap<AppId, (u64, Note)> = HashMap::new();
        for volume in self.volumes.iter().filter(|volume| volume.is_open()) {
            let entries = fs::read_dir(lives(volume.dir())).into_iter().flatten();
            for entry in entries.flatten() {
                let name = entry.file_name();
                let name = name.to_str().and_then(|name| name.strip_suffix(".json"));
                let Some(app) = name.and_then(AppId::try_new) else {
                    continue;
                };
                match read(&entry.path()) {
                    Ok(found) => {
                        let known = notes.entry(app).or_insert(found);
                        *known = if found.0 > known.0 { found } else { *known };
                    }
                    Err(error) => {
                        tracing::warn!(%app, %error, volume = %volume.id(), "what was noted of an app cannot be read");
                    }
                }
            }
        }
        let latest = notes.values().map(|(change, _)| *change).max();
        *self.last.lock() = latest.unwrap_or_default();
        notes
            .into_iter()
            .map(|(app, (_, note))| (app, note))
            .collect()
    }

    /// Writes a note; an error if no directory took it.
    pub(super) fn put(&self, app: &AppId, note: Note) -> Result<(), String> {
        let mut last = self.last.lock();
        *last += 1;
        let mut text = Text {
            version: VERSION,
            change: *last,
            token_sha256: note.token.iter().map(|b| format!("{b:02x}")).collect(),
            born: note.born.to_string(),
            state: note.state,
            checksum: 0,
        };
        text.checksum = text.computed();
        let mut line = serde_json::to_vec(&text).map_err(|error| error.to_string())?;
        line.push(b'\n');
        let text = line.repeat(LINES);
        let results = self.each(app, move |path| write(path, &text));
        match results.iter().any(Result::is_ok) {
            true => Ok(()),
            false => {
                let errors = results.into_iter().filter_map(Result::err);
                Err(errors.collect::<Vec<_>>().join("; "))
            }
        }
    }

    /// Removes the note on this life.
    pub(super) fn remove(&self, app: &AppId, born: Uuid) {
        let _alone = self.last.lock();
        self.each(app, move |path| match read(path) {
            Ok((_, note)) if note.born != born => Ok(()),
            _ => match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        });
    }

    /// Runs in all directories at the same time; hanging directories are not waited for.
    fn each(
        &self,
        app: &AppId,
        call: impl Fn(&Path) -> io::Result<()> + Clone + Send + 'static,
    ) -> Vec<Result<(), String>> {
        let volumes = self.volumes.iter().filter(|volume| volume.is_open());
        let started: Vec<_> = volumes
            .map(|volume| {
                let (call, path) = (call.clone(), path_of(volume.dir(), app));
                volume
                    .start(move |_| Ok(call(&path).map_err(|e| format!("{}: {e}", path.display()))))
            })
            .collect();
        let answers = started.into_iter().map(|started| started.wait());
        answers
            .map(|answer| answer.unwrap_or_else(|error| Err(error.to_string())))
            .collect()
    }
}

fn lives(dir: &Path) -> PathBuf {
    dir.join("lives")
}

fn path_of(dir: &Path, app: &AppId) -> PathBuf {
    lives(dir).join(format!("{app}.json"))
}

/// The first undamaged line.
fn read(path: &Path) -> Result<(u64, Note), String> {
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    let lines = bytes.split(|byte| *byte == b'\n');
    let mut why = "it is empty".to_owned();
    for line in lines.filter(|line| !line.is_empty()) {
        match decode(line) {
            Ok(found) => return Ok(found),
            Err(error) => why = error,
        }
    }
    Err(why)
}

fn decode(line: &[u8]) -> Result<(u64, Note), String> {
    let text: Text = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let hex = &text.token_sha256;
    let byte = |at: usize| u8::from_str_radix(hex.get(at..at + 2).unwrap_or_default(), 16);
    let token: Result<Vec<u8>, _> = (0..32).map(|at| byte(2 * at)).collect();
    let token = token.ok().and_then(|token| token.try_into().ok());
    let good = text.version == VERSION && text.checksum == text.computed();
    match (token, Uuid::parse_str(&text.born)) {
        (Some(token), Ok(born)) if good => {
            let state = text.state;
            Ok((text.change, Note { token, born, state }))
        }
        _ => Err(format!("it is no note of version {VERSION}")),
    }
}

impl Text {
    fn computed(&self) -> u32 {
        let Self {
            version,
            change,
            token_sha256,
            born,
            state,
            checksum: _,
        } = self;
        let text = format!("{version} {change} {token_sha256} {born} {state:?}");
        crc32fast::hash(text.as_bytes())
    }
}

fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(path);
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let beside = path.with_extension("new");
    let mut file = File::create(&beside)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::staging::tests::{Bench, app};

    #[test]
    fn a_note_is_found_again_whichever_directory_took_it_and_only_its_own_life_is_forgotten() {
        let benches = [Bench::new(), Bench::new()];
        let notes = Notes::new(benches.iter().map(Bench::open).collect());
        let note = |born, state| Note {
            token: [7; 32],
            born: Uuid::from_u128(born),
            state,
        };
        assert!(notes.load().is_empty());
        notes.put(&app(), note(1, State::Live)).expect("written");
        notes.put(&app(), note(1, State::Deleted)).expect("written");
        let paths = notes.volumes.iter().map(|it| path_of(it.dir(), &app()));
        let paths: Vec<_> = paths.collect();
        for (gone, kept) in [(0, 1), (1, 0)] {
            let text = fs::read(&paths[gone]).expect("there");
            for broken in [None, Some(""), Some("{\"version\":3}")] {
                fs::remove_file(&paths[gone]).expect("removed");
                if let Some(broken) = broken {
                    fs::write(&paths[gone], broken).expect("broken");
                }
                assert!(paths[kept].exists());
                assert_eq!(notes.load()[&app()], note(1, State::Deleted), "{broken:?}");
                fs::write(&paths[gone], &text).expect("back");
            }
        }
        // One that missed the end of it.
        fs::remove_file(&paths[0]).expect("removed");
        fs::create_dir(&paths[0]).expect("in its place");
        notes
            .put(&app(), note(1, State::Gone))
            .expect("in the other one");
        assert_eq!(notes.load()[&app()], note(1, State::Gone));
        fs::remove_dir(&paths[0]).expect("removed");
        notes.put(&app(), note(2, State::Live)).expect("the next");
        notes.remove(&app(), Uuid::from_u128(1));
        assert_eq!(notes.load()[&app()], note(2, State::Live));
        notes.remove(&app(), Uuid::from_u128(2));
        assert!(notes.load().is_empty());
    }

    #[test]
    fn no_bit_of_a_note_makes_it_another_or_none() {
        let bench = Bench::new();
        let notes = Notes::new(vec![bench.open()]);
        let note = Note {
            token: [7; 32],
            born: Uuid::from_u128(1),
            state: State::Gone,
        };
        notes.put(&app(), note).expect("written");
        let path = path_of(notes.volumes[0].dir(), &app());
        let whole = fs::read(&path).expect("there");
        for at in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[at / 8] ^= 1 << (at % 8);
            fs::write(&path, flipped).expect("written");
            assert_eq!(notes.load().get(&app()), Some(&note), "bit {at}");
        }
    }
}
