//! A `forebay-server` process with its data directories. The process dies with its test, and its
//! log is read then.

use std::{
    fs,
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tempfile::TempDir;

use crate::{peer::Peer, port::Port, setup::Setup};

/// How long a start may take. Recovery is promised in seconds; a busy two-core machine gets more.
const START: Duration = Duration::from_secs(60);

/// A server process, running or not.
pub struct Server {
    setup: Setup,
    dirs: Vec<PathBuf>,
    root: TempDir,
    child: Option<Child>,
    /// Its own from before the first start on, also between two.
    data: Port,
    admin: Port,
    volumes: Vec<Vec<u8>>,
    starts: usize,
    allowed: Vec<String>,
}

/// The server that was built together with this test.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("FOREBAY_TEST_SERVER") {
        return path.into();
    }
    let test = std::env::current_exe().expect("a test has a path");
    let path = test
        .ancestors()
        .nth(2)
        .expect("tests lie in <target>/<profile>/deps")
        .join("forebay-server");
    assert!(
        path.exists(),
        "no {}: run `cargo build --release -p shuffle-server` first",
        path.display()
    );
    path
}

impl Server {
    /// Starts a server with one empty data directory.
    pub async fn start() -> Self {
        Self::with(Setup::new()).await
    }

    /// Starts a server.
    pub async fn with(setup: Setup) -> Self {
        let mut server = Self::prepare(setup);
        server.restart().await;
        server
    }

    /// Makes the directories and starts nothing.
    pub fn prepare(mut setup: Setup) -> Self {
        let root = tempfile::Builder::new()
            .prefix("forebay-test-")
            .tempdir()
            .expect("a temporary directory can be made");
        let mut dirs = std::mem::take(&mut setup.dirs);
        let new = if dirs.is_empty() {
            setup.new_dirs.max(1)
        } else {
            setup.new_dirs
        };
        dirs.extend((0..new).map(|i| root.path().join(format!("data{i}"))));
        dirs.iter()
            .for_each(|dir| fs::create_dir_all(dir).expect("a data directory can be made"));
        Self {
            setup,
            dirs,
            root,
            child: None,
            data: Port::any(),
            admin: Port::any(),
            volumes: Vec::new(),
            starts: 0,
            allowed: Vec::new(),
        }
    }

    /// Starts the process (again) on the same addresses and directories, and waits for its ready
    /// line.
    pub async fn restart(&mut self) {
        if let Err(status) = self.try_start().await {
            panic!(
                "the server ended before it was ready: {status}\n{}",
                self.log()
            );
        }
    }

    /// Starts the process and waits until it is ready or has ended.
    pub async fn try_start(&mut self) -> Result<(), ExitStatus> {
        assert!(self.child.is_none(), "the server is running");
        self.starts += 1;
        let ready = self.root.path().join(format!("ready{}", self.starts));
        let log = fs::File::create(self.log_path()).expect("a log file can be made");
        let mut command = mortal(&binary());
        for (name, _) in std::env::vars_os() {
            // Nor does the account of whoever runs the tests matter.
            let ours = ["FOREBAY_", "AWS_", "AZURE_", "GOOGLE_"];
            if ours
                .iter()
                .any(|ours| name.to_string_lossy().starts_with(ours))
            {
                command.env_remove(name);
            }
        }
        for dir in &self.dirs {
            command.arg("--data-dir").arg(dir);
        }
        command
            .args([
                "--listen",
                &self.addr().to_string(),
                "--admin-listen",
                &self.admin().to_string(),
                "--ready-file",
            ])
            .arg(&ready)
            // Temporary directories mostly lie on the root device.
            .args((!self.setup.nothing_allowed).then_some("--allow-root-device"))
            .args(&self.setup.args)
            .envs(self.setup.env.iter().map(|(name, value)| (name, value)))
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log file can be shared"))
            .stderr(log);
        self.child = Some(command.spawn().expect("the server can be started"));
        let start = Instant::now();
        loop {
            // Written whole: the line counts once it has its end.
            match fs::read_to_string(&ready) {
                Ok(line) if line.ends_with('\n') => {
                    self.read_ready(&line);
                    return Ok(());
                }
                _ => {}
            }
            if let Some(status) = self
                .child
                .as_mut()
                .and_then(|child| child.try_wait().expect("a child can be waited for"))
            {
                self.child = None;
                return Err(status);
            }
            assert!(
                start.elapsed() < START,
                "the server is not ready after {START:?}\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Starts the process, which must refuse; answers what it said.
    pub async fn refused(&mut self) -> String {
        let status = self
            .try_start()
            .await
            .expect_err("the server starts although it must refuse");
        assert!(
            !status.success(),
            "a refusal is a failure for whoever started the server"
        );
        let log = self.log();
        self.allowed.push(String::new()); // a refusal may well be logged as an error
        log
    }

    fn read_ready(&mut self, line: &str) {
        let field = |name: &str| {
            let found = line
                .split_whitespace()
                .find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            found.unwrap_or_else(|| panic!("no {name} in {line:?}"))
        };
        assert!(line.starts_with("ready "), "{line:?}");
        let address = |name| field(name).parse::<SocketAddr>().expect("an address");
        assert_eq!(
            (address("data"), address("admin")),
            (self.addr(), self.admin()),
            "the server listens elsewhere than it was told to"
        );
        let volume = |text| {
            uuid::Uuid::parse_str(text)
                .expect("a volume is a UUID")
                .as_bytes()
                .to_vec()
        };
        self.volumes = field("volumes").split(',').map(volume).collect();
        assert!(
            (1..=self.dirs.len()).contains(&self.volumes.len()),
            "one volume per data directory, but for those that cannot be opened"
        );
    }

    // === what it is ===

    /// Where it takes gRPC.
    pub fn addr(&self) -> SocketAddr {
        self.data.addr()
    }

    /// Where it answers people and probes.
    pub fn admin(&self) -> SocketAddr {
        self.admin.addr()
    }

    /// Its volumes in the order of its data directories, without unopened ones.
    pub fn volumes(&self) -> Vec<Vec<u8>> {
        self.volumes.clone()
    }

    /// Its data directories.
    pub fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }

    /// Puts another directory in the place of the first one; for the next start.
    pub fn replace_dir(&mut self, dir: impl Into<PathBuf>) -> PathBuf {
        let dir = dir.into();
        fs::create_dir_all(&dir).expect("a data directory can be made");
        std::mem::replace(&mut self.dirs[0], dir)
    }

    /// An empty directory beside the data directories, for the next start.
    pub fn empty_dir(&mut self) -> PathBuf {
        let path = self.root.path().join(format!("empty{}", self.starts));
        self.replace_dir(path)
    }

    /// A file or directory of the test that goes away with the server.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Will start on the addresses of another server.
    pub fn listen_like(&mut self, other: &Server) {
        (self.data, self.admin) = (other.data.clone(), other.admin.clone());
    }

    /// Changes the flags for the next start.
    pub fn reconfigure(&mut self, change: impl FnOnce(Setup) -> Setup) {
        self.setup = change(std::mem::take(&mut self.setup));
    }

    /// What the running (or last) process wrote.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.root.path().join(format!("log{}", self.starts))
    }

    /// Files of bulk data (segments and commit logs), all volumes.
    pub fn data_files(&self) -> Vec<PathBuf> {
        let of = |extension: &str| {
            self.files()
                .into_iter()
                .filter(move |path| path.extension().is_some_and(|e| e == extension))
                .collect()
        };
        let (mut segments, logs): (Vec<_>, Vec<_>) = (of("seg"), of("log"));
        // RocksDB names its write-ahead logs *.log too.
        segments.extend(
            logs.into_iter()
                .filter(|path| !path.components().any(|c| c.as_os_str() == "index")),
        );
        segments
    }

    /// Waits until all commits are in segments: commit logs are moved there once a shuffle is
    /// quiet, and a test that changes files must not race with that.
    pub async fn settled(&self) {
        crate::eventually(crate::STEP, || async {
            let logs = self
                .data_files()
                .into_iter()
                .filter(|path| path.extension().is_some_and(|e| e == "log"))
                .count();
            if logs == 0 {
                Ok(())
            } else {
                Err(format!("{logs} commit logs are left"))
            }
        })
        .await;
    }

    /// Bytes in [`data_files`](Self::data_files).
    pub fn data_bytes(&self) -> u64 {
        self.data_files()
            .iter()
            .filter_map(|path| fs::metadata(path).ok())
            .map(|meta| meta.len())
            .sum()
    }

    /// Files of the index, all volumes.
    pub fn index_files(&self) -> Vec<PathBuf> {
        self.files()
            .into_iter()
            .filter(|path| path.components().any(|c| c.as_os_str() == "index"))
            .collect()
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut todo = self.dirs.clone();
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => todo.push(entry.path()),
                    Ok(_) => found.push(entry.path()),
                    Err(_) => {}
                }
            }
        }
        found.sort();
        found
    }

    /// A stock client of this server.
    pub async fn peer(&self) -> Peer {
        Peer::connect(self.addr()).await
    }

    /// Accepts ERROR lines that contain this text.
    pub fn allow_errors(&mut self, text: &str) {
        self.allowed.push(text.to_owned());
    }

    // === what happens to it ===

    /// SIGKILL: no chance to say goodbye.
    pub fn kill(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        let _ = kill_process_group(pid(&child), Signal::KILL);
        let _ = child.wait();
        self.check_log();
    }

    /// SIGKILL, and its disks are gone.
    pub fn destroy(&mut self) {
        self.kill();
        for dir in self.dirs() {
            fs::remove_dir_all(dir).expect("a data directory can be removed");
        }
    }

    /// SIGTERM, without waiting.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGSTOP: it answers nothing and keeps its connections.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Waits for the process to end by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            let child = self.child.as_mut().expect("the server is running");
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                self.child = None;
                self.check_log();
                return status;
            }
            assert!(
                start.elapsed() < crate::STEP,
                "the server does not end\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// SIGTERM, and waits for exit code 0.
    pub async fn stop(&mut self) {
        self.terminate();
        let status = self.ended().await;
        assert!(
            status.success(),
            "the server ended with {status}\n{}",
            self.log()
        );
    }

    /// Whether the process is there.
    pub fn running(&mut self) -> bool {
        self.child
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server is running").id()
    }

    /// Deleted files still open in the process: they keep their space.
    pub fn deleted_but_open(&self) -> Vec<PathBuf> {
        let descriptors = fs::read_dir(format!("/proc/{}/fd", self.pid()))
            .into_iter()
            .flatten()
            .flatten();
        let targets = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
        let ours = |path: &PathBuf| {
            self.dirs.iter().any(|dir| path.starts_with(dir))
                && path.to_string_lossy().ends_with(" (deleted)")
        };
        targets.filter(ours).collect()
    }

    fn signal(&self, signal: Signal) {
        kill_process(
            pid(self.child.as_ref().expect("the server is running")),
            signal,
        )
        .expect("a child can be signalled");
    }

    /// An ERROR that no test expects is a bug, whatever the test was looking at.
    fn check_log(&self) {
        if std::thread::panicking() {
            return;
        }
        for line in self.log().lines() {
            let serious = line.contains(" ERROR ")
                || line.starts_with("ERROR")
                || line.contains("panicked at");
            let allowed = self.allowed.iter().any(|text| line.contains(text.as_str()))
                && !line.contains("panicked at");
            assert!(
                !serious || allowed,
                "unexpected in the server's log: {line}\n{}",
                self.log()
            );
        }
    }
}

/// A command killed by the kernel with its starting thread, in a process group of its own.
pub(crate) fn mortal(program: &Path) -> Command {
    let mut command = if Path::new("/usr/bin/setpriv").exists() {
        let mut command = Command::new("/usr/bin/setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.process_group(0);
    command
}

pub(crate) fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a process id")).expect("a process id is not 0")
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for start in 1..=self.starts {
                let log = fs::read_to_string(self.root.path().join(format!("log{start}")))
                    .unwrap_or_default();
                let tail: Vec<_> = log.lines().rev().take(40).collect();
                eprintln!("--- the server's log, start {start} of {}", self.starts);
                tail.iter().rev().for_each(|line| eprintln!("{line}"));
            }
        }
        self.kill();
    }
}
