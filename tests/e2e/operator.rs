//! What an operator does: the tool `forebay` on files, stores and running servers, and the admin calls behind it.

use shuffle_tests::{
    App, Attempt, Kind, Oracle, Peer, Server, Setup, Shape,
    attempt::Random,
    disk, eventually,
    peer::{assert_refused, fetch_first},
    raw, server, step,
    v1::Durability,
};
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use tempfile::TempDir;

mod ended;
mod freed;
mod looked_into;
mod stores;

const SHAPE: Shape = Shape {
    maps: 6,
    partitions: 9,
    rounds: 2,
    block: 20_000,
};
const SOON: Duration = Duration::from_secs(20);

/// What the tool did.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

/// Runs the tool that was built together with the server.
async fn forebay<A: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = A>) -> Said {
    let mut command = Command::new(server::binary().with_file_name("forebay"));
    command.args(args);
    let running = tokio::task::spawn_blocking(move || command.output());
    let output = step("the tool", running).await.unwrap();
    let output = output.expect("run `cargo build --release -p shuffle-server` first");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said {
        code: output.status.code(),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

impl Said {
    #[track_caller]
    fn good(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.out
    }

    /// Failed with this code, and stderr says all of `words`.
    #[track_caller]
    fn bad(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        for word in words {
            assert!(self.err.contains(word), "{word:?} is not said: {self:?}");
        }
        assert!(!self.err.contains("panicked"), "{self:?}");
        self
    }
}

/// The value of a line of a report.
#[track_caller]
fn fact<'a>(report: &'a str, name: &str) -> &'a str {
    let line = report.lines().find_map(|line| {
        let value = line.strip_prefix(name)?;
        value.starts_with("  ").then(|| value.trim())
    });
    line.unwrap_or_else(|| panic!("no {name} in {report}"))
}

/// A directory that is the object store of all servers of a test.
struct Bucket(TempDir);

impl Bucket {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("store")
    }

    fn url(&self) -> String {
        format!("file://{}", self.path().display())
    }

    fn setup(&self, policy: &str) -> Setup {
        Setup::new()
            .flag("--remote", self.url())
            .flag("--write-back", policy)
            .flag("--write-back-delay", "1h")
    }

    fn files(&self) -> Vec<PathBuf> {
        let (mut found, mut todo) = (Vec::new(), vec![self.path()]);
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => todo.push(entry.path()),
                    _ => found.push(entry.path()),
                }
            }
        }
        found.sort();
        found
    }

    fn with_ending(&self, ending: &str) -> Vec<PathBuf> {
        let mut files = self.files();
        files.retain(|path| path.to_string_lossy().ends_with(ending));
        files
    }

    /// What an app, or a shuffle of it, has here.
    fn below(&self, dir: &str) -> Vec<PathBuf> {
        let dir = self.path().join(dir);
        let mut files = self.files();
        files.retain(|path| path.starts_with(&dir));
        files
    }
}

async fn push_some(
    server: &Server,
    oracle: &mut Oracle,
    app: &App,
    shuffle: u32,
    maps: std::ops::Range<u32>,
) {
    let peer = server.peer().await;
    for map in maps {
        let attempt = u64::from(shuffle) << 32 | u64::from(map);
        let attempt = Attempt::generate(app, shuffle, SHAPE, map, attempt);
        oracle.push(&peer, &attempt).await;
    }
}

/// Waits until all that is committed is in the object store.
async fn written(peer: &Peer, app: &App, shuffle: u32) {
    eventually(SOON, || async {
        let usage = peer.usage(app, Some(shuffle)).await.unwrap();
        let object = |level: i32| level == Durability::Object as i32;
        let elsewhere = usage
            .levels
            .iter()
            .filter(|level| !object(level.durability))
            .map(|level| level.bytes)
            .sum::<u64>();
        match elsewhere {
            0 if usage.attempts > 0 => Ok(()),
            _ => Err(format!("{elsewhere} bytes are not written back")),
        }
    })
    .await;
}

/// Any method over HTTP/1.1: status and body.
async fn http(addr: SocketAddr, method: &str, path: &str) -> (u16, String) {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {addr}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    );
    let answer = raw::socket(addr, request.as_bytes()).await;
    let text = String::from_utf8(answer).unwrap();
    let (head, body) = text
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split_whitespace().nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}
