//! What a person can set, and how it is read: file, then environment, then flags; the later wins.
//!
//! One list of keys, [`Config`], serves all three: key `drain-timeout` is `drain-timeout = "30s"`
//! in the file, `FOREBAY_DRAIN_TIMEOUT=30s` in the environment and `--drain-timeout 30s` as a flag,
//! with the same reader for its value. What is wrong is said with its place, the key and the value,
//! before anything is opened.

mod patterns;
mod sources;
pub mod units;

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::Parser;

pub use sources::Error;
pub use units::ByteSize;

use crate::{
    auth::{self, AdminAuth, DriverAuth},
    registry::Policy,
    staging::{DirectIo, Options},
    writeback,
};

/// Smallest memory: two of the largest messages, or else a push could wait for ever.
const MIN_MEMORY: u64 = 2 * shuffle_proto::block::MAX_BATCH as u64;
const MIN_LEASE: Duration = Duration::from_millis(100);
/// Below that a disk that does what it can is called slow.
const MIN_SLOW: Duration = Duration::from_millis(500);

/// Settings of a server. The doc line of each is its `--help`.
#[derive(Clone, Debug, PartialEq, Parser)]
#[command(
    name = "forebay-server",
    version = crate::release::text(),
    about = "Forebay's server: takes the shuffle output of Spark executors, stages it on local disks, serves reducers.",
    after_help = "Every key can also be set in the file of --config (`drain-timeout = \"30s\"`) and in the environment \
                  (FOREBAY_DRAIN_TIMEOUT=30s).\nFlags win over the environment, which wins over the file. When it serves, the server \
                  prints one line:\n  ready data=HOST:PORT admin=HOST:PORT volumes=UUID[,UUID…]",
    max_term_width = 120
)]
pub struct Config {
    /// TOML file with any of these keys.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Prints the settings in effect, as such a file, and ends.
    #[arg(long)]
    pub print_config: bool,

    /// Directory of one volume, best one per disk. Repeat it, or separate with commas, for several.
    /// Needed.
    ///
    /// The directory is made if it is not there. It belongs to one server at a time, and its data
    /// move with it to another. A pattern, as in /mnt/nvme*/forebay, stands for the directories
    /// that match when the server starts, and makes none.
    #[arg(long, value_name = "DIR", value_delimiter = ',', action = clap::ArgAction::Append)]
    pub data_dir: Vec<PathBuf>,

    /// Whether a data directory may lie on the device of / or on a container's own file system
    /// (overlayfs): true or false.
    ///
    /// For trials: shuffle data would fill the machine's own disk, or go with the container.
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_value = "false",
        default_missing_value = "true",
        action = clap::ArgAction::Set,
        value_parser = clap::builder::BoolishValueParser::new(),
    )]
    pub allow_root_device: bool,

    /// Address for clients (gRPC). Port 0 takes a free one.
    #[arg(long, value_name = "HOST:PORT", default_value = "0.0.0.0:7400")]
    pub listen: String,

    /// Address for people and probes (HTTP): /livez, /readyz, /metrics, /version, /api/v1/…. Port 0
    /// takes a free one.
    ///
    /// Set 0.0.0.0:7401 for probes and Prometheus on other machines. They may look; drain and
    /// deletions are taken from this machine only (127.0.0.1, ::1), wherever the port listens.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7401")]
    pub admin_listen: String,

    /// File with the server's certificate and what is between it and its authority (PEM): both
    /// ports take TLS 1.2 and 1.3 then, and nothing else.
    ///
    /// Clients (spark.forebay.tls.ca) know a server by the host of spark.forebay.servers, so that
    /// name must be in it; addresses need not be. It is read again within seconds of a change, and
    /// used for connections from then on; one that cannot be used changes nothing, is told of in
    /// the log and by forebay_tls_reload_failing. [default: none, everything goes in the clear]
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// File with the private key of tls-cert (PEM, not encrypted).
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// File with the authority of clients' certificates (PEM): nobody without one is served at the
    /// data port (mutual TLS). At the admin port one may be shown, and need not be. Only with
    /// tls-cert. [default: none]
    #[arg(long, value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,

    /// What a driver has to prove before its application is taken: open, secret or kubernetes.
    ///
    /// `open`: nothing; the first registration of an application binds its token. `secret`: that it
    /// has a line of pool-secret-file. `kubernetes`: who it is, by the token of its service account,
    /// made for `audience`; the tenant is its namespace. With the last two, servers sign a token for
    /// the application, by which all servers of the pool know its tasks.
    #[arg(long, value_name = "HOW", default_value = "open")]
    pub auth: DriverAuth,

    /// File with the pool's secret, the same at all servers. It is read again when it changes.
    ///
    /// Several lines while one takes the place of another: all are known, and the first one signs.
    /// Add the new one last everywhere, then put it first everywhere, then take the old one out
    /// after a day. [default: none]
    #[arg(long, value_name = "FILE")]
    pub pool_secret_file: Option<PathBuf>,

    /// Who may look and who may change something at the admin port: local, token or kubernetes.
    ///
    /// `local`: whoever reaches it may look, processes of this machine may change something.
    /// `token`: whoever sends a line of admin-token-file or viewer-token-file as a bearer token.
    /// `kubernetes`: whoever sends a token of the cluster for `audience`, and is allowed the verb on
    /// the path (a ClusterRole with nonResourceURLs). /livez, /readyz, /metrics and /version are for
    /// everybody.
    #[arg(long, value_name = "WHO", default_value = "local")]
    pub admin_auth: AdminAuth,

    /// File with tokens of admins, one to a line. It is read again when it changes. [default: none]
    #[arg(long, value_name = "FILE")]
    pub admin_token_file: Option<PathBuf>,

    /// File with tokens of viewers, who may look and change nothing. [default: none]
    #[arg(long, value_name = "FILE")]
    pub viewer_token_file: Option<PathBuf>,

    /// Audience that tokens of the cluster must have been made for, at both ports.
    #[arg(long, value_name = "NAME", default_value = "forebay")]
    pub audience: String,

    /// Directory with `token` and `ca.crt`, for questions to the cluster's API server.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/run/secrets/kubernetes.io/serviceaccount"
    )]
    pub service_account_dir: PathBuf,

    /// File that gets a copy of the ready line, written whole once the server serves.
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,

    /// Memory for pushed bytes that are not on disk yet. When it is used up, senders are held back.
    ///
    /// More helps when many maps write to many partitions: what is flushed together is read
    /// together. The process needs some 300 MiB more than this.
    #[arg(long, value_name = "SIZE", default_value = "2GiB")]
    pub memory: ByteSize,

    /// Object store to which committed output is written back, and from which any server with the
    /// same store serves it.
    ///
    /// file:///DIR, s3://BUCKET/PREFIX, az://CONTAINER/PREFIX or gs://BUCKET/PREFIX; credentials
    /// are found where each cloud's own tools find them (AWS_…, AZURE_…, GOOGLE_… in the
    /// environment, or the machine's identity). Give all servers the same. [default: none]
    #[arg(long, value_name = "URL")]
    pub remote: Option<String>,

    /// When output is written back, for apps that do not say: lazy, eager or off. Only with remote.
    ///
    /// `lazy` waits for write-back-delay, so that shuffles which are soon deleted are never
    /// uploaded, and hurries when the disk is nearly full or the server ends. `eager` does not
    /// wait. `off` never writes.
    #[arg(long, value_name = "POLICY", default_value = "lazy")]
    pub write_back: Policy,

    /// How long nothing must have been pushed to a lazy app's shuffle before it is written back;
    /// four times as long if all of it was read.
    #[arg(long, value_name = "TIME", default_value = "5min", value_parser = units::duration)]
    pub write_back_delay: Duration,

    /// Bytes per second that are written back at most, by the whole server. [default: no bound]
    #[arg(long, value_name = "SIZE")]
    pub write_back_bandwidth: Option<ByteSize>,

    /// Percent of a volume's file system from which the local copies of what was written back are
    /// removed, oldest first. Only with remote.
    #[arg(long, value_name = "PERCENT", default_value_t = 80, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub reclaim_at: u8,

    /// Bytes that the data of one volume may take, besides its index. [default: what its file
    /// system has]
    ///
    /// For disks that are shared, and for an ephemeral-storage limit of Kubernetes: set it some
    /// percent below. A volume that has reached it takes nothing new until something is deleted or
    /// reclaimed, and other volumes and servers are used.
    #[arg(long, value_name = "SIZE")]
    pub volume_limit: Option<ByteSize>,

    /// How long one read, write or sync of a disk may take before its volume is called slow: it
    /// gets no new attempts then, and what waits for it is sent elsewhere, until the disk is quick
    /// again.
    ///
    /// Raise it for disks that are slow when all is well, such as network volumes whose burst is
    /// used up.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::duration)]
    pub volume_slow_after: Duration,

    /// How long an app's data outlive its last call, unless the app asks for another time.
    ///
    /// Applications renew it by themselves while they run. Raise it when drivers are cut off for
    /// longer than this.
    #[arg(long, value_name = "TIME", default_value = "10min", value_parser = units::duration)]
    pub lease: Duration,

    /// Longest lease that an app can ask for.
    #[arg(long, value_name = "TIME", default_value = "1d", value_parser = units::duration)]
    pub max_lease: Duration,

    /// How long a drain (SIGTERM, POST /api/v1/drain, notice-file) takes for write-back, running
    /// pushes and fetches before it ends them.
    ///
    /// Write-back begins at once; running pushes get a third of this, and are then sent to another
    /// server. With remote, what was not written back when this is over is served again only by a
    /// server on the same disk, and the exit code is 3. Volumes get up to 10 s more to put on disk
    /// what only memory holds.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = units::duration)]
    pub drain_timeout: Duration,

    /// File whose appearance starts what SIGTERM starts, such as the notice that a spot machine
    /// gets before it is taken away.
    ///
    /// It is looked for twice a second. One that is there when the server starts counts too: remove
    /// it before a machine is used again. [default: none]
    #[arg(long, value_name = "FILE")]
    pub notice_file: Option<PathBuf>,

    /// Apps that may hold data at the same time. A new one beyond that is told to come back later.
    #[arg(long, value_name = "COUNT", default_value_t = 4096)]
    pub max_apps: usize,

    /// Pushes and fetches that one app may run at the same time. One more is told to come back
    /// later.
    #[arg(long, value_name = "COUNT", default_value_t = 4096)]
    pub max_streams_per_app: usize,

    /// Pushes, fetches and other calls that run for one address at the same time. One more is told
    /// to come back later.
    ///
    /// An executor has two or three per running task. Raise it when more than some 5000 tasks come
    /// from behind one NAT.
    #[arg(long, value_name = "COUNT", default_value_t = 16384)]
    pub max_streams_per_peer: usize,

    /// Connections that are served at the same time. One more takes the place of one that runs no
    /// call, or is closed with the reason.
    #[arg(long, value_name = "COUNT", default_value_t = 8192)]
    pub max_connections: usize,

    /// Connections of one address (of one /64, with IPv6) at the same time, of max-connections.
    ///
    /// An executor has about three. Raise both when more than some 1300 executors come from behind
    /// one NAT.
    #[arg(long, value_name = "COUNT", default_value_t = 4096)]
    pub max_connections_per_peer: usize,

    /// How often a silent connection is asked whether it is still there; it has as long again to
    /// answer.
    ///
    /// As long may a message that was begun stand still in all, before its stream is ended; it
    /// earns more time with 64 KiB a second.
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = units::duration)]
    pub keep_alive: Duration,

    /// Name of the machine that the server is on, as executors there know it by their FOREBAY_NODE:
    /// they prefer its server.
    ///
    /// In Kubernetes FOREBAY_NODE by the downward API (spec.nodeName), in both. [default: the name
    /// of the host]
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,

    /// Name of the failure domain that the machine is in: executors of the same zone prefer its
    /// server. [default: none]
    #[arg(long, value_name = "NAME")]
    pub zone: Option<String>,

    /// Whether segments are written past the page cache: auto, on or off.
    ///
    /// `auto` does it once a volume holds more than the page cache can keep for readers.
    #[arg(long, value_name = "MODE", default_value = "auto")]
    pub direct_io: DirectIo,

    /// What is logged to stderr: a level, or a filter such as `info,shuffle_server::staging=debug`.
    ///
    /// RUST_LOG is asked when this is not set. [default: info]
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,

    /// How a line of the log is written: text, or json for programs that collect logs.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// How lines of the log look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// An object to a line.
    Json,
}

/// Settings that have been read, and how they look as a file.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// All keys with their values in effect, as TOML.
    pub effective: String,
}

impl Config {
    /// Reads flags (`args`, with the program's name first), environment and file.
    pub fn load(
        args: impl IntoIterator<Item = OsString>,
        env: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Loaded, Error> {
        let mut loaded = sources::load(args, env)?;
        if !loaded.config.print_config {
            loaded.config.data_dir =
                patterns::expand(&loaded.config.data_dir).map_err(|(pattern, why)| {
                    Error::Setting(format!("data-dir is {}: {why}", pattern.display()))
                })?;
            loaded.config.check()?;
        }
        Ok(loaded)
    }

    /// Defaults for these data directories, on free ports of loopback: for tests and for servers
    /// inside another process.
    pub fn local(data_dir: impl IntoIterator<Item = PathBuf>) -> Self {
        let mut config = Self::parse_from([
            "forebay-server",
            "--listen=127.0.0.1:0",
            "--admin-listen=127.0.0.1:0",
        ]);
        config.data_dir = data_dir.into_iter().collect();
        config.allow_root_device = true;
        config
    }

    /// The machine's name for executors on it; empty if it has none.
    pub(crate) fn node(&self) -> String {
        // A variable that Kubernetes finds nothing for is empty.
        let named = self.node.clone().filter(|name| !name.is_empty());
        named.unwrap_or_else(|| {
            let host = std::fs::read_to_string("/proc/sys/kernel/hostname");
            host.unwrap_or_default().trim().to_owned()
        })
    }

    /// What volumes are told.
    pub(crate) fn staging(&self) -> Options {
        Options {
            direct_io: self.direct_io,
            limit: self.volume_limit.map(|size| size.0),
            slow: self.volume_slow_after,
            ..Options::default()
        }
    }

    /// Who may do what.
    pub(crate) fn auth_options(&self) -> auth::Options {
        auth::Options {
            drivers: self.auth,
            pool_secrets: self.pool_secret_file.clone(),
            admins: self.admin_auth,
            admin_tokens: self.admin_token_file.clone(),
            viewer_tokens: self.viewer_token_file.clone(),
            audience: self.audience.clone(),
            service_account: self.service_account_dir.clone(),
        }
    }

    /// What write-back is told.
    pub(crate) fn writeback(&self) -> writeback::Options {
        writeback::Options {
            policy: self.write_back,
            delay: self.write_back_delay,
            bandwidth: self.write_back_bandwidth.map(|size| size.0),
            reclaim_at: self.reclaim_at,
            lease: self.lease,
        }
    }

    /// What no single value shows.
    pub fn check(&self) -> Result<(), Error> {
        let refuse = |key: &str, value: String, remedy: String| {
            Err(Error::Setting(format!("{key} is {value}: {remedy}")))
        };
        if self.data_dir.is_empty() {
            let remedy = "name a directory: --data-dir DIR, FOREBAY_DATA_DIR=DIR, or data-dir = [\"DIR\"] in the file";
            return refuse("data-dir", "not set".into(), remedy.into());
        }
        for (position, dir) in self.data_dir.iter().enumerate() {
            if dir.as_os_str().is_empty() {
                return refuse("data-dir", "empty".into(), "name a directory".into());
            }
            if self.data_dir[..position].contains(dir) {
                return refuse(
                    "data-dir",
                    format!("{} twice", dir.display()),
                    "name each directory once".into(),
                );
            }
        }
        if self
            .notice_file
            .as_ref()
            .is_some_and(|path| path.as_os_str().is_empty())
        {
            let remedy = "name a file, or leave it out".into();
            return refuse("notice-file", "empty".into(), remedy);
        }
        let tls = [
            ("tls-cert", &self.tls_cert),
            ("tls-key", &self.tls_key),
            ("tls-client-ca", &self.tls_client_ca),
        ];
        for (key, path) in tls {
            if path
                .as_ref()
                .is_some_and(|path| path.as_os_str().is_empty())
            {
                let remedy = "name a PEM file, or leave it out".into();
                return refuse(key, "empty".into(), remedy);
            }
        }
        for (key, other) in [(0, 1), (1, 0), (2, 0)] {
            if let ((set, Some(path)), (other, None)) = (tls[key], tls[other]) {
                let remedy = format!("name the file of {other}, too, or leave {set} out");
                return refuse(set, format!("{}, without {other}", path.display()), remedy);
            }
        }
        if let Some(url) = &self.remote
            && let Err(remedy) = shuffle_remote::check_url(url)
        {
            let shown = format!("{:?}", shuffle_remote::shown_url(url));
            return refuse("remote", shown, remedy);
        }
        for (key, file) in [
            ("admin-token-file", &self.admin_token_file),
            ("viewer-token-file", &self.viewer_token_file),
        ] {
            if let Some(file) = file
                && self.admin_auth != AdminAuth::Token
            {
                let remedy = format!(
                    "nobody is asked for a token while admin-auth is {}: set admin-auth = token, or leave the file out",
                    self.admin_auth
                );
                return refuse(key, file.display().to_string(), remedy);
            }
        }
        if self.auth != DriverAuth::Open && self.pool_secret_file.is_none() {
            let remedy = format!(
                "auth is {}, and servers sign what they give to drivers: name a file with a secret (`openssl rand -hex 32`), the same at all servers",
                self.auth
            );
            return refuse("pool-secret-file", "not set".into(), remedy);
        }
        if self.admin_auth == AdminAuth::Token && self.admin_token_file.is_none() {
            let remedy = "name a file with a token of 16 characters or more to a line, or set admin-auth = local";
            return refuse("admin-token-file", "not set".into(), remedy.into());
        }
        if self.audience.is_empty() {
            return refuse(
                "audience",
                "empty".into(),
                "name one, such as forebay".into(),
            );
        }
        if self.memory.0 < MIN_MEMORY {
            return refuse(
                "memory",
                self.memory.to_string(),
                format!("give at least {}", ByteSize(MIN_MEMORY)),
            );
        }
        if self.write_back_bandwidth.is_some_and(|size| size.0 == 0) {
            let remedy = "give at least 1B, or write-back = off".into();
            return refuse("write-back-bandwidth", "0B".into(), remedy);
        }
        if self.lease < MIN_LEASE {
            return refuse(
                "lease",
                units::show(self.lease),
                format!("give at least {}", units::show(MIN_LEASE)),
            );
        }
        if self.max_lease < self.lease {
            let remedy = format!("give at least lease, which is {}", units::show(self.lease));
            return refuse("max-lease", units::show(self.max_lease), remedy);
        }
        if self.volume_slow_after < MIN_SLOW {
            return refuse(
                "volume-slow-after",
                units::show(self.volume_slow_after),
                format!("give at least {}", units::show(MIN_SLOW)),
            );
        }
        if self.keep_alive < Duration::from_secs(1) {
            return refuse(
                "keep-alive",
                units::show(self.keep_alive),
                "give at least 1s".into(),
            );
        }
        for (key, value) in [
            ("max-apps", self.max_apps),
            ("max-streams-per-app", self.max_streams_per_app),
            ("max-streams-per-peer", self.max_streams_per_peer),
            ("max-connections", self.max_connections),
            ("max-connections-per-peer", self.max_connections_per_peer),
        ] {
            if value == 0 {
                return refuse(key, "0".into(), "give at least 1".into());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
