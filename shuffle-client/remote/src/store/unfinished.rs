//! Remains of cut-off writes in a directory.

use std::path::Path;

use super::Store;

impl Store {
    /// Removes the remains of Forebay's cut-off writes below `dir` of a `file://` store: files
    /// named `<name>#<number>` beside the intended `<name>`, invisible to listings.
    pub async fn remove_unfinished(&self, dir: &str, is_ours: fn(&str) -> bool) {
        let Some(root) = self.directory.clone() else {
            return;
        };
        let dir = dir.to_owned();
        let sweeping = move || sweep(&root.join(&dir), &dir, is_ours);
        // The next sweep finds the rest.
        let _ = tokio::task::spawn_blocking(sweeping).await;
    }
}

fn sweep(dir: &Path, key: &str, is_ours: fn(&str) -> bool) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let key = format!("{key}/{name}");
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        let unfinished = key.rsplit_once('#').is_some_and(|(key, number)| {
            is_ours(key) && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
        });
        if kind.is_dir() {
            sweep(&entry.path(), &key, is_ours);
        } else if kind.is_file() && unfinished {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    // If empty now.
    let _ = std::fs::remove_dir(dir);
}
