//! Flags, and what they mean to a person.

use std::{path::PathBuf, sync::OnceLock, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};

use crate::{pages, size::ByteSize};

/// Loads running Forebay servers, or one that it starts itself, and tells what they cost beside raw
/// TCP.
#[derive(Debug, Parser)]
#[command(name = "forebay-bench", version = version(), max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The version, and which commit `setup.sh` told the compiler that it builds.
fn version() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| {
        let version = env!("CARGO_PKG_VERSION");
        match (option_env!("BUILD_COMMIT"), option_env!("BUILD_DATE")) {
            (Some(commit), Some(date)) => format!("{version} (commit {commit}, {date})"),
            _ => format!("{version} (commit unknown)"),
        }
    })
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Writes map outputs to the servers.
    Push(Load),
    /// Writes map outputs, reads them back, verifies every byte, then measures reading.
    Fetch(FetchLoad),
    /// Push and fetch, at levels memory and disk, one after the other.
    All(FetchLoad),
    /// The other end of raw TCP; forebay-bench starts it itself.
    #[command(hide = true)]
    TcpFloor,
}

/// Level that a commit reaches before it is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Level {
    /// In the server's buffers.
    Memory,
    /// In a file and the index.
    Disk,
    /// The same, synced to the device.
    Fsync,
    /// In object storage. With --spawn that is a directory.
    Object,
}

/// Who has what a fetch reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Source {
    /// The servers that took it.
    Server,
    /// Object storage: the server that took it is drained, which writes it back, and another serves
    /// it from there.
    Store,
}

/// When pages are fetched back from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum WarmPages {
    Auto,
    On,
    Off,
}

impl Source {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Store => "store",
        }
    }
}

impl Level {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Fsync => "fsync",
            Self::Object => "object",
        }
    }
}

/// What to load, with how much, and what to do with the figures.
#[derive(Args, Clone, Debug)]
pub(crate) struct Load {
    /// Servers' data addresses, host:port; their data of other apps is not touched.
    #[arg(
        long,
        value_delimiter = ',',
        required_unless_present = "spawn",
        conflicts_with = "spawn"
    )]
    pub(crate) servers: Vec<String>,

    /// Servers' admin addresses, host:port: CPU and memory are read from /metrics there.
    #[arg(long, value_delimiter = ',')]
    pub(crate) admin: Vec<String>,

    /// Speak TLS with the servers: PEM file with the authority of their tls-cert. A server of
    /// --spawn gets its own by --server-setting.
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_ca: Option<PathBuf>,

    /// Name that the servers' certificates have, where --servers has addresses.
    #[arg(long, value_name = "NAME", requires = "tls_ca")]
    pub(crate) tls_server_name: Option<String>,

    /// PEM file with a certificate for servers that ask for one (their tls-client-ca).
    #[arg(long, value_name = "FILE", requires = "tls_ca", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,

    /// PEM file with the private key of --tls-cert.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,

    /// Process ids of servers on this machine, more exact than --admin.
    #[arg(long, value_delimiter = ',', conflicts_with_all = ["admin", "spawn"])]
    pub(crate) server_pid: Vec<u32>,

    /// Start a server on loopback with a temporary data directory, and end it afterwards.
    #[arg(long)]
    pub(crate) spawn: bool,

    /// The server program of --spawn [default: forebay-server beside this program].
    #[arg(long, requires = "spawn")]
    pub(crate) server_bin: Option<PathBuf>,

    /// Where temporary files go, with --spawn the server's data [default: the system's].
    #[arg(long)]
    pub(crate) data_dir: Option<PathBuf>,

    /// Memory of the server of --spawn [default: enough for --size].
    #[arg(long, requires = "spawn")]
    pub(crate) memory: Option<ByteSize>,

    /// A setting of the server of --spawn, as in `direct-io=on`; may be repeated.
    #[arg(long, requires = "spawn", value_name = "KEY=VALUE")]
    pub(crate) server_setting: Vec<String>,

    /// Write and delete a file before each measured write, so that a hypervisor's faults are not
    /// measured. `auto`: if the servers are on this machine and it is one that gives free memory
    /// back to its host.
    #[arg(long, value_enum, default_value_t = WarmPages::Auto)]
    pub(crate) warm_pages: WarmPages,

    /// Bytes of each round, before compression.
    #[arg(long, default_value = "2GB")]
    pub(crate) size: ByteSize,

    /// Map tasks [default: as many as make one block per map and partition].
    #[arg(long)]
    pub(crate) maps: Option<u32>,

    /// Reduce partitions.
    #[arg(long, default_value_t = 200)]
    pub(crate) partitions: u32,

    /// Bytes of a block before compression; several, separated by commas, are measured one after
    /// the other.
    #[arg(long, value_delimiter = ',', default_value = "64KiB")]
    pub(crate) block: Vec<ByteSize>,

    /// Map tasks that write at the same time, each on its own stream.
    #[arg(long, default_value_t = 4, value_parser = value_parser!(u32).range(1..=1024))]
    pub(crate) streams: u32,

    /// Level that commits wait for; several are measured one after the other [default: disk; of
    /// `all`: memory,disk].
    #[arg(long, value_delimiter = ',')]
    pub(crate) durability: Vec<Level>,

    /// Let the client compress blocks (LZ4); the bytes are then rows of small numbers instead of
    /// random.
    #[arg(long)]
    pub(crate) compress: bool,

    /// Measured rounds, after one that only warms up. Each is paired with the same bytes over raw
    /// TCP.
    #[arg(long, default_value_t = 5, value_parser = value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,

    /// Leave out raw TCP, and with it the ratios: for a profiler.
    #[arg(long)]
    pub(crate) no_floor: bool,

    /// Write the report to this file as JSON; `-` is standard output, the table then goes to
    /// standard error.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,

    /// What the bytes are made from.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,

    /// Give up when a round takes longer than this many seconds.
    #[arg(long, default_value_t = 300, value_parser = value_parser!(u64).range(1..=86_400))]
    pub(crate) timeout: u64,
}

impl Load {
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }

    /// Where to warm pages, if at all.
    pub(crate) fn warms_pages(&self) -> Option<PathBuf> {
        let is_local = self.spawn || !self.server_pid.is_empty();
        let wanted = match self.warm_pages {
            WarmPages::Auto => is_local && pages::are_taken_away(),
            WarmPages::On => true,
            WarmPages::Off => false,
        };
        wanted.then(|| self.data_dir.clone().unwrap_or_else(std::env::temp_dir))
    }

    /// What was asked for, or else the default of the command.
    pub(crate) fn levels(&self, default: &[Level]) -> Vec<Level> {
        if self.durability.is_empty() {
            default.to_vec()
        } else {
            self.durability.clone()
        }
    }
}

/// A load that is also read.
#[derive(Args, Clone, Debug)]
pub(crate) struct FetchLoad {
    #[command(flatten)]
    pub(crate) load: Load,

    /// Reduce tasks that read at the same time [default: --streams].
    #[arg(long, value_parser = value_parser!(u32).range(1..=1024))]
    pub(crate) readers: Option<u32>,

    /// Partitions that each reduce task reads.
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u32).range(1..))]
    pub(crate) read_partitions: u32,

    /// Who has what is read; `store` needs --spawn, and is a directory then. Both are measured one
    /// after the other.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "server")]
    pub(crate) from: Vec<Source>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_flags_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_load_without_servers_or_spawn_is_refused() {
        let error = Cli::try_parse_from(["forebay-bench", "push"])
            .unwrap_err()
            .to_string();
        assert!(error.contains("--servers"), "{error}");
        assert!(Cli::try_parse_from(["forebay-bench", "push", "--spawn"]).is_ok());
        assert!(
            Cli::try_parse_from(["forebay-bench", "push", "--spawn", "--servers", "a:1"]).is_err()
        );
    }

    #[test]
    fn lists_are_separated_by_commas() {
        let cli = Cli::try_parse_from([
            "forebay-bench",
            "fetch",
            "--servers",
            "a:1,b:2",
            "--block",
            "4KiB,1MiB",
            "--durability",
            "memory,fsync",
        ])
        .unwrap();
        let Command::Fetch(fetch) = cli.command else {
            panic!("fetch is fetch")
        };
        assert_eq!(fetch.load.servers, ["a:1", "b:2"]);
        assert_eq!(fetch.load.block, [ByteSize(4096), ByteSize(1 << 20)]);
        assert_eq!(fetch.load.durability, [Level::Memory, Level::Fsync]);
    }
}
