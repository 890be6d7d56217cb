//! A server of one's own, for `--spawn`: a real `forebay-server` on loopback ports of its choice
//! and a temporary directory, both gone when this is dropped.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::{cli::Load, size::ByteSize};

const START: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(20);
/// For a drain, to write everything back.
const DRAIN: Duration = Duration::from_secs(120);

/// Which object store a server has.
pub(crate) enum Remote {
    None,
    /// A directory beside its data, which goes with it.
    Own,
    Of(String),
}

/// See the module.
pub(crate) struct Spawned {
    pub(crate) data: String,
    pub(crate) pid: u32,
    pub(crate) describe: String,
    /// Its object store, as another server takes it.
    pub(crate) remote: Option<String>,
    child: Child,
    /// Removed after the server has ended: fields drop in order, after `Drop::drop`.
    _directory: TempDir,
}

impl Spawned {
    pub(crate) fn start(load: &Load, remote: Remote) -> Result<Self> {
        let program = match &load.server_bin {
            Some(program) => program.clone(),
            None => beside_this_program("forebay-server")?,
        };
        let memory = load
            .memory
            .unwrap_or_else(|| ByteSize((2 << 30).max(load.size.0.saturating_mul(2))));
        let mut builder = tempfile::Builder::new();
        builder.prefix("forebay-bench-");
        let directory = match &load.data_dir {
            Some(parent) => builder
                .tempdir_in(parent)
                .with_context(|| format!("make a directory in {}", parent.display()))?,
            None => builder.tempdir().context("make a temporary directory")?,
        };
        let remote = match remote {
            Remote::None => None,
            Remote::Own => Some(format!(
                "file://{}",
                directory.path().join("store").display()
            )),
            Remote::Of(url) => Some(url),
        };
        let ready = directory.path().join("ready");
        let log = directory.path().join("log");
        let settings = load
            .server_setting
            .iter()
            .map(|setting| format!("--{setting}"));
        let child = Command::new(&program)
            .args(settings)
            .args(remote.iter().flat_map(|url| ["--remote", url]))
            .args(["--drain-timeout", &format!("{}s", DRAIN.as_secs())])
            .arg("--data-dir")
            .arg(directory.path().join("volume"))
            // It is gone again in a moment.
            .arg("--allow-root-device")
            .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
            .args(["--memory", &memory.0.to_string()])
            .arg("--ready-file")
            .arg(&ready)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).context("create the server's log")?)
            .spawn()
            .with_context(|| {
                format!(
                    "start {}: build it with `cargo build --release -p shuffle-server`",
                    program.display()
                )
            })?;
        let mut server = Self {
            data: String::new(),
            pid: child.id(),
            describe: format!(
                "{} with {memory} of memory on {}",
                program.display(),
                directory.path().display()
            ),
            remote,
            child,
            _directory: directory,
        };
        server.data = server.wait_until_ready(&ready, &log)?;
        Ok(server)
    }

    /// Ends it, after it has written everything back.
    pub(crate) async fn drain(mut self) -> Result<()> {
        self.terminate();
        let deadline = Instant::now() + DRAIN + STOP;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().context("wait for the server")? {
                if !status.success() {
                    bail!("the server that wrote did not drain: it ended with {status}");
                }
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!(
            "the server that wrote did not drain within {} s",
            DRAIN.as_secs()
        )
    }

    fn terminate(&self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.pid as i32) {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        }
    }

    fn wait_until_ready(&mut self, ready: &Path, log: &Path) -> Result<String> {
        let deadline = Instant::now() + START;
        loop {
            if let Some(data) = fs::read_to_string(ready)
                .ok()
                .as_deref()
                .and_then(data_address)
            {
                return Ok(data);
            }
            if let Some(status) = self.child.try_wait().context("wait for the server")? {
                bail!(
                    "the server ended at once with {status}:\n{}",
                    last_lines(log)
                );
            }
            if Instant::now() > deadline {
                bail!(
                    "the server was not ready within {} s:\n{}",
                    START.as_secs(),
                    last_lines(log)
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        self.terminate();
        let deadline = Instant::now() + STOP;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The data address in the ready line, once that is whole.
fn data_address(text: &str) -> Option<String> {
    let line = text
        .lines()
        .find(|line| line.starts_with("ready ") && line.contains(" volumes="))?;
    Some(
        line.split(' ')
            .find_map(|word| word.strip_prefix("data="))?
            .to_owned(),
    )
}

fn beside_this_program(name: &str) -> Result<PathBuf> {
    let this = std::env::current_exe().context("find this program's own path")?;
    Ok(this.with_file_name(name))
}

fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_line_names_the_data_address() {
        let line = "ready data=127.0.0.1:4321 admin=127.0.0.1:4322 volumes=6f0c2a3e-0000-4000-8000-000000000000\n";
        assert_eq!(data_address(line).as_deref(), Some("127.0.0.1:4321"));
        assert_eq!(data_address("ready data=127.0.0.1:43"), None);
        assert_eq!(data_address(""), None);
    }
}
