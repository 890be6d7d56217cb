//! Files of secrets: one to a line, several while one takes the place of another, read again when
//! they change.
//!
//! Kubernetes changes the file of a Secret by exchanging a symbolic link, and editors by writing
//! another file, so the content is compared and nothing else. A file that cannot be read any more,
//! or holds nothing, changes nothing: what was read last stays in force, and the log says so.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::{Mutex, RwLock};
use secrecy::{ExposeSecret, SecretString};

/// Bytes that such a file may have.
const MAX_FILE: u64 = 64 << 10;
/// Characters of a secret: fewer can be guessed.
const LENGTH: std::ops::RangeInclusive<usize> = 16..=1024;

/// A file whose lines are made into `T`s.
pub(crate) struct Watched<T> {
    key: &'static str,
    path: PathBuf,
    make: fn(&SecretString) -> T,
    now: RwLock<Arc<Vec<T>>>,
    /// Lines as they were read last, and the complaint that the log has already.
    seen: Mutex<(Vec<SecretString>, Option<String>)>,
}

impl<T> Watched<T> {
    /// Reads the file of the setting `key`; what is wrong with it is an error now.
    pub(super) fn open(
        key: &'static str,
        path: &Path,
        make: fn(&SecretString) -> T,
    ) -> Result<Self, String> {
        let lines = read(path).map_err(|why| format!("{key} is {}: {why}", path.display()))?;
        Ok(Self {
            key,
            path: path.to_owned(),
            make,
            now: RwLock::new(Arc::new(lines.iter().map(make).collect())),
            seen: Mutex::new((lines, None)),
        })
    }

    /// What the lines say, in their order.
    pub(super) fn get(&self) -> Arc<Vec<T>> {
        self.now.read().clone()
    }

    /// Reads the file again. Blocks.
    pub(super) fn refresh(&self) {
        let read = read(&self.path);
        let mut seen = self.seen.lock();
        match read {
            Ok(lines) => {
                seen.1 = None;
                let same = seen.0.len() == lines.len()
                    && seen
                        .0
                        .iter()
                        .zip(&lines)
                        .all(|(before, now)| before.expose_secret() == now.expose_secret());
                if !same {
                    *self.now.write() = Arc::new(lines.iter().map(self.make).collect());
                    tracing::info!(target: "audit", action = "reload", outcome = "done", key = self.key, secrets = lines.len(), "a file of secrets has changed");
                    seen.0 = lines;
                }
            }
            Err(why) => {
                if seen.1.as_ref() != Some(&why) {
                    tracing::warn!(key = self.key, path = %self.path.display(), why, "a file of secrets cannot be read again: what it said before stays in force");
                }
                seen.1 = Some(why);
            }
        }
    }
}

/// The secrets in a file; blank lines and those that begin with `#` are none. What is wrong is said
/// by the number of its line and never by its text.
fn read(path: &Path) -> Result<Vec<SecretString>, String> {
    let mut text = String::new();
    let file = File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text));
    match file {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err("it is no text: write one secret to a line".into());
        }
        Err(error) => return Err(format!("{error}: name a file that the server may read")),
        Ok(size) if size as u64 > MAX_FILE => {
            return Err(format!(
                "it has more than {MAX_FILE} bytes: write one secret to a line, and few lines"
            ));
        }
        Ok(_) => {}
    }
    let mut secrets = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if !LENGTH.contains(&line.len()) || !line.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!(
                "line {} is not one word of {} to {} printable ASCII characters: make one by `openssl rand -hex 32`",
                number + 1,
                LENGTH.start(),
                LENGTH.end()
            ));
        }
        secrets.push(SecretString::from(line));
    }
    match secrets.is_empty() {
        true => Err("no secret is in it: make one by `openssl rand -hex 32`".into()),
        false => Ok(secrets),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_again_and_a_broken_one_changes_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("tokens");
        let write = |text: &str| std::fs::write(&path, text).expect("written");
        let open = || Watched::open("admin-token-file", &path, |it| it.expose_secret().len());
        for (text, word) in [
            ("", "no secret"),
            ("# only a comment\n\n", "no secret"),
            ("0123456789abcdef\ntooshort\n", "line 2"),
            ("two words of enough length", "line 1"),
            ("ääääääääääääääääääääää", "line 1"),
        ] {
            write(text);
            let why = open().err().expect(text);
            assert!(why.starts_with("admin-token-file is "), "{why}");
            assert!(why.contains(word) && !why.contains("tooshort"), "{why}");
        }
        write("# the old one\n0123456789abcdef\r\n\n  0123456789abcdefg  \n");
        let watched = open().expect("two secrets");
        assert_eq!(*watched.get(), [16, 17]);
        write("0123456789abcdefgh\n");
        watched.refresh();
        assert_eq!(*watched.get(), [18]);
        write("short");
        watched.refresh();
        std::fs::remove_file(&path).expect("removed");
        watched.refresh();
        assert_eq!(*watched.get(), [18], "what was read last stays");
        std::os::unix::fs::symlink("elsewhere", &path).expect("a link");
        std::fs::write(dir.path().join("elsewhere"), "0123456789abcdefghi").expect("written");
        watched.refresh();
        assert_eq!(*watched.get(), [19], "Kubernetes exchanges links");
    }
}
