//! What an operator does: the tool `forebay` on files, stores and running servers, and the admin
//! calls behind it.

use shuffle_tests::{
    App, Attempt, Bucket, Kind, Oracle, STEP, Server, Setup, Shape,
    attempt::Random,
    disk::{self, Tmpfs, walk},
    eventually,
    peer::{assert_refused, fetch_first},
    raw, server, step, v1,
};
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

mod access;
mod admin;
mod ended;
mod freed;
mod looked_into;
mod metrics;
mod probes;
mod secured;
mod stores;

const SHAPE: Shape = Shape {
    maps: 6,
    partitions: 9,
    rounds: 2,
    block: 20_000,
};

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

/// Any method over HTTP/1.1: status and body.
async fn http(addr: SocketAddr, method: &str, path: &str) -> (u16, String) {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {addr}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    );
    let answer = raw::exchange(addr, request.as_bytes()).await;
    let text = String::from_utf8(answer).unwrap();
    let (head, body) = text
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split_whitespace().nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}
