//! `forebay dev`: a server for trying things out, with nothing left after its end, of any kind.
//!
//! Three processes. The typed one makes the folder, prints and takes signals, and holds a pipe to a
//! *keeper*, this program again, which starts the server and ends it when the pipe breaks; so a
//! kill of the typed process ends the server and removes its files. Keeper and server are in a
//! process group of their own, out of reach of Ctrl-C; after a kill of the keeper the first process
//! ends the group.
//!
//! The server's address is also in a file of the user's own, for `forebay.conf()` in Python: see
//! [`state_file`].

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, BufRead, BufReader, Write},
    net::TcpListener,
    os::unix::{
        fs::{DirBuilderExt, OpenOptionsExt},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use uuid::Uuid;

use super::{End, bad, jar, say};
use crate::release;

const DATA_PORT: u16 = 7400;
const ADMIN_PORT: u16 = 7401;
/// File of the authority's certificate in the folder.
const AUTHORITY: &str = "ca.pem";
/// Lines of the server's log shown after a failed start.
const LINES_OF_LOG: usize = 20;

/// What is typed behind `forebay dev`.
#[derive(clap::Args, Debug)]
pub(super) struct Dev {
    /// Port on 127.0.0.1. Without it 7400, or a free one where that is taken; 0 is any free one.
    #[arg(long)]
    port: Option<u16>,
    /// Memory for data that no reader has fetched yet, as the server's own `memory`.
    #[arg(long, value_name = "SIZE", default_value = "512MiB")]
    memory: String,
    /// Prints the settings for Spark as one line of JSON instead of text.
    #[arg(long)]
    json: bool,
    /// Serves with TLS: certificates of an authority of its own, which goes with it.
    #[arg(long)]
    tls: bool,
    /// Only for itself: keep a server in this folder until stdin ends.
    #[arg(long, hide = true, value_name = "FOLDER")]
    keep: Option<PathBuf>,
}

/// Serves until a signal comes or the server ends by itself.
pub(super) fn run(dev: &Dev) -> End {
    let result = match &dev.keep {
        Some(folder) => keep(dev, folder),
        None => serve(dev),
    };
    match result {
        Ok(()) => End::Good,
        Err(why) => bad(why),
    }
}

// === what was typed ===

/// A folder that goes with its owner.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self, String> {
        let path = std::env::temp_dir().join(format!("forebay-dev-{}", Uuid::new_v4().simple()));
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|error| {
                format!(
                    "make {}: {error}: set TMPDIR to a directory that you may write",
                    path.display()
                )
            })?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn serve(dev: &Dev) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("start a thread: {error}"))?;
    runtime.block_on(async {
        // Before any file exists that a signal would leave behind.
        let listen = |kind| signal(kind).map_err(|error| format!("listen for signals: {error}"));
        let mut terminate = listen(SignalKind::terminate())?;
        let mut interrupt = listen(SignalKind::interrupt())?;
        let mut child = listen(SignalKind::child())?;
        // Under nohup the command is to outlive its terminal.
        let mut hang_up = match ignores(Signal::HUP) {
            false => Some(listen(SignalKind::hangup())?),
            true => None,
        };
        let folder = Folder::new()?;
        let (events, mut happened) = tokio::sync::mpsc::unbounded_channel();
        let mut keeper = Keeper::start(dev, &folder.0, events)?;
        let mut published = None;
        let end = loop {
            tokio::select! {
                _ = terminate.recv() => break Ok(()),
                _ = interrupt.recv() => break Ok(()),
                // The pipe does not tell: the server has it too.
                _ = child.recv() => if keeper.has_ended() { break Err(log_of(&folder.0)) },
                _ = async { match &mut hang_up { Some(hang_up) => hang_up.recv().await, None => std::future::pending().await } } => break Ok(()),
                event = happened.recv() => match event {
                    Some(Event::Ready(line)) => {
                        let state = state(&line, &folder.0);
                        published = Some(Published::new(&state)?);
                        say(if dev.json { format!("{}\n", state["conf"]) } else { text(&state) });
                    }
                    Some(Event::Ended) | None => break Err(log_of(&folder.0)),
                },
            }
        };
        keeper.end();
        drop(published);
        drop(folder);
        end
    })
}

enum Event {
    /// The server's own line.
    Ready(String),
    /// The keeper's stdout is closed: no process with it is left.
    Ended,
}

struct Keeper(Child);

impl Keeper {
    fn start(
        dev: &Dev,
        folder: &Path,
        events: tokio::sync::mpsc::UnboundedSender<Event>,
    ) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|error| format!("find myself: {error}"))?;
        let mut command = Command::new(&program);
        command.args(["dev", "--memory", &dev.memory, "--keep"]);
        command.arg(folder);
        if dev.tls {
            command.arg("--tls");
        }
        if let Some(port) = dev.port {
            command.args(["--port", &port.to_string()]);
        }
        let mut child = command
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("start {}: {error}", program.display()))?;
        if let Some(stdout) = child.stdout.take() {
            thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    let _ = events.send(Event::Ready(line));
                }
                let _ = events.send(Event::Ended);
            });
        }
        Ok(Self(child))
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }

    /// The keeper ends the server at the end of its stdin. After a kill of the keeper, the server
    /// is still in its group.
    fn end(&mut self) {
        drop(self.0.stdin.take());
        let ended = self.0.wait();
        if !ended.is_ok_and(|status| status.success()) {
            kill_group(self.0.id());
        }
    }
}

fn kill_group(of: u32) {
    if let Some(group) = i32::try_from(of).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// Whether the parent process wants a signal to be ignored.
fn ignores(signal: Signal) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask >> (signal.as_raw() - 1) & 1 == 1)
}

fn log_of(folder: &Path) -> String {
    let log = fs::read_to_string(folder.join("server.log")).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    let last = lines[lines.len().saturating_sub(LINES_OF_LOG)..].join("\n");
    if last.is_empty() {
        // The server's own words have no room there either.
        let parent = folder.parent().unwrap_or(folder).display();
        return format!(
            "the server ended by itself and could not even say why: {parent} seems full: make room, \
             or set TMPDIR to a directory that has some"
        );
    }
    format!("the server ended by itself; its log ends with\n{last}")
}

// === what is said ===

/// Facts about a running server, for people and programs.
fn state(ready: &str, folder: &Path) -> Value {
    let word = |key: &str| {
        ready
            .split_whitespace()
            .find_map(|word| word.strip_prefix(key))
            .unwrap_or_default()
            .to_owned()
    };
    let jar = jar::find();
    let mut conf = json!({
        "spark.shuffle.manager": "io.forebay.spark.ForebayShuffleManager",
        "spark.forebay.servers": word("data="),
    });
    let authority = folder.join(AUTHORITY);
    if authority.exists() {
        conf["spark.forebay.tls.ca"] = json!(authority);
    }
    if let Some(jar) = &jar {
        // Not spark.jars: Spark 3.5 makes the shuffle manager before it fetches those.
        conf["spark.driver.extraClassPath"] = json!(jar);
        conf["spark.executor.extraClassPath"] = json!(jar);
    }
    json!({
        "version": release::VERSION,
        "pid": std::process::id(),
        "data": word("data="),
        "admin": word("admin="),
        "folder": folder,
        "jar": jar,
        "conf": conf,
    })
}

fn text(state: &Value) -> String {
    let of = |key: &str| state[key].as_str().unwrap_or_default().to_owned();
    let no_settings = serde_json::Map::new();
    let settings: Vec<(&String, &str)> = state["conf"]
        .as_object()
        .unwrap_or(&no_settings)
        .iter()
        .map(|(key, value)| (key, value.as_str().unwrap_or_default()))
        .collect();
    let mut text = format!(
        "Forebay {} serves on {} (admin port {}). What it holds is in {} and goes with it: end it with Ctrl-C.\n\nFor spark-defaults.conf:\n\n",
        release::VERSION,
        of("data"),
        of("admin"),
        of("folder"),
    );
    for (key, value) in &settings {
        text += &format!("  {key:32} {value}\n");
    }
    text += "\nThe same for a shell (or spark-submit, spark-sql, spark-shell):\n\n  pyspark";
    for (key, value) in &settings {
        text += &format!(" \\\n    --conf {key}={value}");
    }
    text += "\n\nIn Python, where the package forebay is installed:\n\n  SparkSession.builder.config(map=forebay.conf()).getOrCreate()\n";
    if state["jar"].is_null() {
        text += &format!("\nAdd the jar to both class paths: {}\n", jar::MISSING);
    }
    text
}

/// Place of the state file, known to `forebay.conf()`: the user's runtime directory, or else the
/// temporary one, with the user's number in the name.
fn state_file() -> PathBuf {
    let user = rustix::process::getuid().as_raw();
    let folder = std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|folder| folder.is_dir())
        .unwrap_or_else(std::env::temp_dir);
    folder.join(format!("forebay-dev-{user}.json"))
}

/// The state file of this run. The last started run is the one to be found.
struct Published(PathBuf);

impl Published {
    fn new(state: &Value) -> Result<Self, String> {
        let path = state_file();
        let fresh = path.with_extension(format!("{}.tmp", std::process::id()));
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&fresh)
            .and_then(|mut file| writeln!(file, "{state}"))
            .and_then(|()| fs::rename(&fresh, &path));
        written.map_err(|error| {
            let _ = fs::remove_file(&fresh);
            format!(
                "write {}: {error}: remove it, or set XDG_RUNTIME_DIR to a directory of yours",
                path.display()
            )
        })?;
        Ok(Self(path))
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        withdraw(&self.0, std::process::id());
    }
}

/// Removes the file unless another run has replaced it.
fn withdraw(path: &Path, of: u32) {
    let ours = fs::read(path)
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok())
        .is_some_and(|state| state["pid"] == of);
    if ours {
        let _ = fs::remove_file(path);
    }
}

// === the keeper ===

fn keep(dev: &Dev, folder: &Path) -> Result<(), String> {
    let parent = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    let (tell, told) = mpsc::channel();
    let mut server = start_server(dev, folder)?;
    let ended = tell.clone();
    let pid = server.id();
    thread::spawn(move || {
        // Only the end of the input matters.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        let _ = tell.send(None);
    });
    thread::spawn(move || {
        let _ = ended.send(Some(server.wait()));
    });
    match told.recv() {
        Ok(Some(status)) => Err(said(status)),
        _ => {
            // Nothing in the server is wanted any more: no drain.
            if let Some(server) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                let _ = rustix::process::kill_process(server, Signal::KILL);
            }
            while let Ok(None) = told.recv() {}
            let _ = fs::remove_dir_all(folder);
            withdraw(&state_file(), u32::try_from(parent).unwrap_or(0));
            Ok(())
        }
    }
}

fn said(status: io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => format!("the server ended: {status}"),
        Err(error) => format!("wait for the server: {error}"),
    }
}

fn start_server(dev: &Dev, folder: &Path) -> Result<Child, String> {
    let log = fs::File::create(folder.join("server.log"))
        .map_err(|error| format!("write {}: {error}", folder.display()))?;
    let program = server_program();
    let mut command = Command::new(&program);
    command
        .arg("--data-dir")
        .arg(folder.join("data"))
        .args(["--memory", &dev.memory])
        .arg(format!("--listen=127.0.0.1:{}", port(dev.port, DATA_PORT)))
        .arg(format!(
            "--admin-listen=127.0.0.1:{}",
            port(dev.port.map(|_| 0), ADMIN_PORT)
        ));
    if dev.tls {
        let (cert, key) = certify(folder)?;
        command
            .arg("--tls-cert")
            .arg(cert)
            .arg("--tls-key")
            .arg(key);
    }
    // A temporary directory is often on the root device, on purpose here.
    command.arg("--allow-root-device");
    let stderr = log
        .try_clone()
        .map_err(|error| format!("write the log: {error}"))?;
    command
        .stdin(Stdio::null())
        .stderr(stderr)
        .spawn()
        .map_err(|error| {
            format!(
                "start {}: {error}: forebay-server must be beside forebay, or on the PATH",
                program.display()
            )
        })
}

/// Makes an authority and a certificate for this machine, in the folder: files of certificate and
/// key.
fn certify(folder: &Path) -> Result<(PathBuf, PathBuf), String> {
    let failed = |error: rcgen::Error| format!("make a certificate: {error}");
    let mut params = CertificateParams::new(Vec::new()).map_err(failed)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, "forebay dev");
    params.distinguished_name = name;
    let key = KeyPair::generate().map_err(failed)?;
    let authority = CertifiedIssuer::self_signed(params, key).map_err(failed)?;
    let names = ["localhost", "127.0.0.1"].map(str::to_owned);
    let params = CertificateParams::new(names).map_err(failed)?;
    let key = KeyPair::generate().map_err(failed)?;
    let cert = params.signed_by(&key, &authority).map_err(failed)?;
    let put = |name: &str, text: String| {
        let path = folder.join(name);
        match fs::write(&path, text) {
            Ok(()) => Ok(path),
            Err(error) => Err(format!("write {}: {error}", path.display())),
        }
    };
    put(AUTHORITY, authority.pem())?;
    Ok((
        put("tls.crt", cert.pem())?,
        put("tls.key", key.serialize_pem())?,
    ))
}

/// The program beside this one, or else on the PATH.
fn server_program() -> PathBuf {
    const NAME: &str = "forebay-server";
    std::env::current_exe()
        .ok()
        .map(|me| me.with_file_name(NAME))
        .filter(|beside| beside.exists())
        .unwrap_or_else(|| NAME.into())
}

/// The port asked for, or the usual one if free, or any.
fn port(asked: Option<u16>, usual: u16) -> u16 {
    asked.unwrap_or_else(|| match TcpListener::bind(("127.0.0.1", usual)) {
        Ok(_) => usual,
        Err(_) => 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_can_be_pasted() {
        let mut state = state(
            "ready data=127.0.0.1:7400 admin=127.0.0.1:7401 volumes=x",
            Path::new("/tmp/f"),
        );
        state["conf"]["spark.driver.extraClassPath"] = json!("/j.jar");
        let text = text(&state);
        assert!(
            text.contains("\n  spark.forebay.servers            127.0.0.1:7400\n"),
            "{text}"
        );
        assert!(
            text.contains("--conf spark.forebay.servers=127.0.0.1:7400"),
            "{text}"
        );
        assert!(
            text.contains("--conf spark.driver.extraClassPath=/j.jar"),
            "{text}"
        );
    }

    #[test]
    fn a_state_file_of_another_is_left() {
        let folder = Folder::new().expect("a folder");
        let path = folder.0.join("state.json");
        fs::write(&path, r#"{"pid": 7}"#).expect("written");
        withdraw(&path, 8);
        assert!(path.exists());
        withdraw(&path, 7);
        assert!(!path.exists());
    }

    #[test]
    fn the_usual_port_is_taken_if_it_is_free() {
        let held = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let taken = held.local_addr().expect("its address").port();
        assert_eq!(port(None, taken), 0);
        assert_eq!(port(Some(5), taken), 5);
    }
}
