//! Object stores on this machine, as child processes on loopback: for tests beyond a directory's
//! abilities.
//!
//! None for gs://: fake-gcs-server refuses a plain PUT of the XML interface, which `object_store`
//! uses, so its conditional put cannot be tested; untested clouds are named as such. `setup.sh
//! --stores` installs the others. A missing store is [`skipped`](crate::skipped).

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Signal, kill_process_group};
use tempfile::TempDir;

use crate::{
    port::Port,
    server::{mortal, pid},
    setup::Setup,
};

/// Python and Node take seconds on a busy machine.
const START: Duration = Duration::from_secs(60);
/// The container in every store.
pub const BUCKET: &str = "forebay-bucket";
/// The published account of the Azure emulator.
const AZURITE_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
/// SharedKey signature of `PUT /devstoreaccount1/forebay-bucket?restype=container` with that key,
/// that date and that version. The emulator does not compare the date with its clock, so the
/// signature is computed once: HMAC-SHA-256 of "PUT", 12 line feeds, the two x-ms headers as
/// `name:value`, "/devstoreaccount1/devstoreaccount1/forebay-bucket" and "restype:container", a
/// line each.
const AZURITE_MAKES_BUCKET: &str = "tPclVInIajkuA+q3XhSr1LGpXkMz/ygZH9dQIbcXZFY=";

/// Which store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// S3 on a directory, by versitygw: checks signatures and checksums.
    Versity,
    /// S3 in memory, by moto: checks no credentials.
    Moto,
    /// Azure Blob Storage, by Azurite.
    Azurite,
}

/// A running store. It dies with its test.
pub struct Endpoint {
    kind: Kind,
    child: Option<Child>,
    dir: TempDir,
    port: Port,
}

impl Kind {
    /// Where `setup.sh --stores` puts it.
    fn program(self) -> PathBuf {
        crate::cache().join("stores").join(match self {
            Kind::Versity => "bin/versitygw",
            Kind::Moto => "moto/bin/moto_server",
            Kind::Azurite => "azurite/node_modules/.bin/azurite-blob",
        })
    }
}

impl Endpoint {
    /// Starts it with an empty [`BUCKET`]; `None`, and a line on standard error, where it is not
    /// installed.
    pub async fn start(kind: Kind) -> Option<Self> {
        let program = kind.program();
        if !program.exists() {
            crate::skipped(&format!(
                "no {}: ./setup.sh --stores installs it where its language is installed",
                program.display()
            ));
            return None;
        }
        let dir = tempfile::Builder::new().prefix("forebay-store-").tempdir();
        let mut endpoint = Self {
            kind,
            child: None,
            dir: dir.expect("a temporary directory can be made"),
            port: Port::any(),
        };
        endpoint.restart().await;
        endpoint.make_bucket().await;
        Some(endpoint)
    }

    /// Starts the process (again), on the same address and with what a directory has kept.
    pub async fn restart(&mut self) {
        assert!(self.child.is_none(), "the store is running");
        let begin = Instant::now();
        self.spawn();
        while tokio::net::TcpStream::connect(self.addr()).await.is_err() {
            let child = self.child.as_mut().expect("it was started");
            let ended = child.try_wait().expect("a child can be waited for");
            assert!(
                ended.is_none() && begin.elapsed() < START,
                "{:?} does not start\n{}",
                self.kind,
                fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn spawn(&mut self) {
        let (host, port) = (self.addr().ip().to_string(), self.addr().port().to_string());
        let mut command = mortal(&self.kind.program());
        let data = self.dir.path().join("data");
        fs::create_dir_all(&data).expect("a directory can be made");
        match self.kind {
            Kind::Versity => {
                fs::create_dir_all(data.join(BUCKET)).expect("a directory can be made");
                let addr = self.addr().to_string();
                command.args(["--port", &addr, "--access", "forebay", "--secret"]);
                command.args(["forebay-secret", "--quiet", "posix"]);
                command.arg(&data)
            }
            Kind::Moto => command.args(["-H", &host, "-p", &port]),
            Kind::Azurite => command
                .args(["--blobHost", &host, "--blobPort", &port, "--silent"])
                .args(["--skipApiVersionCheck", "--disableTelemetry", "--location"])
                .arg(&data),
        };
        let log = fs::File::create(self.dir.path().join("log")).expect("a file can be made");
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log file can be shared"))
            .stderr(log);
        self.child = Some(command.spawn().expect("the store can be started"));
    }

    async fn make_bucket(&self) {
        let (method, path, headers, body) = match self.kind {
            Kind::Versity => return, // it is a directory
            Kind::Moto => ("PUT", format!("/{BUCKET}"), String::new(), String::new()),
            Kind::Azurite => (
                "PUT",
                format!("/devstoreaccount1/{BUCKET}?restype=container"),
                format!(
                    "x-ms-date: Mon, 01 Jan 2024 00:00:00 GMT\r\nx-ms-version: 2021-08-06\r\n\
                     Authorization: SharedKey devstoreaccount1:{AZURITE_MAKES_BUCKET}\r\n"
                ),
                String::new(),
            ),
        };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.addr(),
            body.len()
        );
        let answer = crate::raw::exchange(self.addr(), request.as_bytes()).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.starts_with("HTTP/1.1 20"),
            "{:?} makes no bucket: {answer}",
            self.kind
        );
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// Of a store below a prefix of the bucket.
    pub fn url(&self, prefix: &str) -> String {
        let scheme = match self.kind {
            Kind::Versity | Kind::Moto => "s3",
            Kind::Azurite => "az",
        };
        format!("{scheme}://{BUCKET}/{prefix}")
    }

    /// The environment in which it is found, here or through a proxy at another address.
    pub fn env(&self, at: SocketAddr) -> Vec<(String, String)> {
        let http = format!("http://{at}");
        let pairs: Vec<(&str, String)> = match self.kind {
            Kind::Versity | Kind::Moto => vec![
                ("AWS_ENDPOINT", http),
                ("AWS_ALLOW_HTTP", "true".into()),
                ("AWS_REGION", "us-east-1".into()),
                ("AWS_ACCESS_KEY_ID", "forebay".into()),
                ("AWS_SECRET_ACCESS_KEY", "forebay-secret".into()),
            ],
            Kind::Azurite => vec![
                ("AZURE_STORAGE_ENDPOINT", http + "/devstoreaccount1"),
                ("AZURE_ALLOW_HTTP", "true".into()),
                ("AZURE_STORAGE_ACCOUNT_NAME", "devstoreaccount1".into()),
                ("AZURE_STORAGE_ACCOUNT_KEY", AZURITE_KEY.into()),
            ],
        };
        let owned = |(name, value): (&str, String)| (name.to_owned(), value);
        pairs.into_iter().map(owned).collect()
    }

    /// How a server is started that writes back to it, here or through a proxy.
    pub fn setup(&self, at: SocketAddr, policy: &str) -> Setup {
        self.setup_of(at, &self.url("prefix"), policy)
    }

    /// The same with another URL.
    pub fn setup_of(&self, at: SocketAddr, url: &str, policy: &str) -> Setup {
        let setup = Setup::new()
            .flag("--remote", url)
            .flag("--write-back", policy);
        self.env(at)
            .into_iter()
            .fold(setup, |setup, (name, value)| setup.env(&name, value))
    }

    /// Of [`Kind::Versity`]: files of the bucket, and of uploads that were begun and not ended.
    pub fn files(&self) -> Vec<PathBuf> {
        crate::disk::walk(&self.dir.path().join("data").join(BUCKET))
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = kill_process_group(pid(&child), Signal::KILL);
            let _ = child.wait();
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.kill();
    }
}
