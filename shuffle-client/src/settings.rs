//! What a person tunes. Every field has a default that suits a cluster; only `servers` must be
//! given.

use std::{collections::BTreeMap, time::Duration};

use shuffle_proto::{block::MAX_BATCH, http2};
use shuffle_remote::shown_url;

use crate::{
    budget::Share,
    error::{Error, Kind},
    proof::Proof,
    tls::Tls,
    types::WriteBack,
};

/// Settings of a [`Client`](crate::Client).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where the servers are: `host:port`, or `dns://name:port` for every address behind a name
    /// (resolved again and again, so that servers may come and go).
    pub servers: Vec<String>,
    /// How long one try to connect may take. Default 3 s.
    pub connect_timeout: Duration,
    /// How long a server may take to answer a control call, to open a stream, or to send the next
    /// message of a fetch. Default 30 s.
    pub call_timeout: Duration,
    /// How long a server that restarts, or keeps a stream waiting, is waited for before the call
    /// fails; ten times as long if it answers that it is busy, full or draining. Default 2 min;
    /// raise it if servers take longer to come back.
    pub retry_deadline: Duration,
    /// First pause between tries; it doubles up to `backoff_max`, and a random half of it is left
    /// out. Default 50 ms.
    pub backoff_base: Duration,
    /// Longest pause between tries. Default 3 s.
    pub backoff_max: Duration,
    /// An idle or silent connection is probed this often, and given up when a probe is not answered
    /// for twice as long. Default 10 s.
    pub keep_alive: Duration,
    /// A connection that nothing has used for so long is closed. Default 60 s.
    pub idle_connection: Duration,
    /// A stream for which a reader has no room is given back after so long, and taken up again when
    /// there is room. Default 10 s.
    pub idle_stream: Duration,
    /// Bytes of one reader in flight over all servers, as stored. Default 48 MiB. A reader may ask
    /// for less or more.
    pub fetch_window: usize,
    /// Servers that one reader reads from at a time. Default 8.
    pub fetch_streams: usize,
    /// Bytes that a writer keeps until its commit, to send them again when a server fails. An
    /// output larger than this fails with its server, and the task runs again. Default 64 MiB.
    pub replay_buffer: usize,
    /// Raw bytes of one block. Default 64 KiB: compresses well, and small enough that a reader's
    /// memory stays small.
    pub block_bytes: usize,
    /// Bytes of one message of a push. Default 1 MiB: one HTTP/2 frame.
    pub batch_bytes: usize,
    /// Bytes that all writers and readers of the process may hold together. A task that gets less
    /// goes on with less, see [`Budget`](crate::budget::Budget). Default: only each writer's and
    /// reader's own bounds.
    pub memory: Option<usize>,
    /// Shares of `memory` that are not counted because a setting of their own bounds them.
    pub memory_apart: Vec<Share>,
    /// Bytes that a server may send of a fetch before they are asked for. Default 2 MiB.
    pub stream_window: u32,
    /// Names used in error messages: field → the user-facing key, as in `replay_buffer` →
    /// `spark.forebay.replayBuffer`.
    pub names: BTreeMap<String, String>,
    /// URL of the object store that the servers have in common (their `--remote`): where no server
    /// is left that could serve what was written back, readers read it there themselves. The right
    /// to read must be had here too, where each cloud's own tools find it. Default: none, and
    /// readers wait for a server. Set it if the pool may be gone while something still reads.
    pub remote: Option<String>,
    /// Name of this process' machine, as in the setting `node` of the servers on it, which are
    /// written to first. Default: none; then a server is near if its address is this machine's.
    pub node: Option<String>,
    /// Name of the failure domain of this machine (the servers' setting `zone`): shuffles go to
    /// servers of the same first, and to others where there are too few. Default: none.
    pub zone: Option<String>,
    /// How the driver proves to the servers that it belongs to their pool. Default: not at all.
    /// Tasks need none.
    pub proof: Proof,
    /// Speaks TLS with the servers. Default: none, and everything goes in the clear; set it where
    /// the servers have `tls-cert`.
    pub tls: Option<Tls>,
    /// When the output of apps that are opened with this client is written back to the servers'
    /// object store. Default: as the servers are set.
    pub write_back: Option<WriteBack>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            connect_timeout: Duration::from_secs(3),
            call_timeout: Duration::from_secs(30),
            retry_deadline: Duration::from_secs(120),
            backoff_base: Duration::from_millis(50),
            backoff_max: Duration::from_secs(3),
            keep_alive: Duration::from_secs(10),
            idle_connection: Duration::from_secs(60),
            idle_stream: Duration::from_secs(10),
            fetch_window: 48 << 20,
            fetch_streams: 8,
            replay_buffer: 64 << 20,
            block_bytes: 64 << 10,
            batch_bytes: http2::GROUP,
            memory: None,
            memory_apart: Vec::new(),
            stream_window: http2::WINDOW,
            names: BTreeMap::new(),
            remote: None,
            node: None,
            zone: None,
            proof: Proof::None,
            tls: None,
            write_back: None,
        }
    }
}

impl Settings {
    /// Defaults, with these servers.
    pub fn of(servers: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            servers: servers.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }

    /// What to call a field when a person is told about it.
    pub(crate) fn name<'a>(&'a self, field: &'a str) -> &'a str {
        self.names.get(field).map_or(field, String::as_str)
    }

    /// Refuses what cannot work, naming field, value and remedy.
    pub fn check(&self) -> Result<(), Error> {
        let refuse = |field: &str, value: String, remedy: &str| {
            Err(Error::new(
                Kind::Invalid,
                format!("setting `{}` is {value}: {remedy}", self.name(field)),
            ))
        };
        if self.servers.is_empty() {
            return refuse(
                "servers",
                "empty".into(),
                "name at least one server as host:port or dns://name:port",
            );
        }
        for server in &self.servers {
            let address = server.strip_prefix("dns://").unwrap_or(server);
            if !is_address(address) {
                return refuse(
                    "servers",
                    format!("{server:?}"),
                    "write host:port or dns://name:port",
                );
            }
        }
        if let Some(tls) = &self.tls
            && let Err((field, value, remedy)) = tls.check(&self.servers)
        {
            return refuse(field, value, remedy);
        }
        if let Some(url) = &self.remote
            && let Err(why) = shuffle_remote::check_url(url)
        {
            return refuse("remote", format!("{:?}", shown_url(url)), &why);
        }
        for (field, value) in [
            ("connect_timeout", self.connect_timeout),
            ("call_timeout", self.call_timeout),
            ("backoff_base", self.backoff_base),
            ("keep_alive", self.keep_alive),
            ("idle_connection", self.idle_connection),
            ("idle_stream", self.idle_stream),
        ] {
            if value.is_zero() {
                return refuse(field, format!("{value:?}"), "give it some time");
            }
        }
        if self.backoff_max < self.backoff_base {
            return refuse(
                "backoff_max",
                format!("{:?}", self.backoff_max),
                "let it be at least backoff_base",
            );
        }
        if self.fetch_window < 64 << 10 {
            return refuse(
                "fetch_window",
                format!("{} bytes", self.fetch_window),
                "give it at least 64 KiB",
            );
        }
        if self.stream_window < 64 << 10 {
            return refuse(
                "stream_window",
                format!("{} bytes", self.stream_window),
                "give it at least 64 KiB",
            );
        }
        if self.fetch_streams == 0 {
            return refuse("fetch_streams", "0".into(), "give it at least 1");
        }
        if !(1 << 10..=1 << 20).contains(&self.block_bytes) {
            return refuse(
                "block_bytes",
                format!("{} bytes", self.block_bytes),
                "choose 1 KiB to 1 MiB",
            );
        }
        if !(self.block_bytes..=MAX_BATCH as usize / 2).contains(&self.batch_bytes) {
            return refuse(
                "batch_bytes",
                format!("{} bytes", self.batch_bytes),
                "choose block_bytes to 4 MiB",
            );
        }
        Ok(())
    }
}

/// Whether the text is `host:port` (or `[v6]:port`) with a port that can be connected to.
pub(crate) fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let plain = !host.is_empty() && !host.contains(['/', '@', ' ', ',', '?', '#']);
    let v6 = host.starts_with('[') == host.ends_with(']')
        && (host.starts_with('[') || !host.contains(':'));
    plain && v6 && port.parse::<u16>().is_ok_and(|port| port != 0)
}
