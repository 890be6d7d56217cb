//! The client's words: callers, levels of durability, places of outputs, descriptions of servers.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use shuffle_proto::{
    ids::{AppId, VolumeId},
    v1,
};

use crate::error::{Error, Kind};

/// Longest byte string of `MapWriter::add_long`: what fits an array of any engine.
pub(crate) const MAX_LONG: usize = i32::MAX as usize;

/// The app behind a call.
#[derive(Clone, PartialEq, Eq)]
pub struct Caller {
    /// The application.
    pub app: AppId,
    /// The application's token. Never logged.
    pub token: Arc<str>,
    /// How long the app's data outlive the last call; zero = the server's default.
    pub lease: Duration,
}

/// Durability of an output when its commit is acknowledged. Every level includes those above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Durability {
    /// In the server's memory: survives executors.
    Memory,
    /// In a file and the index: survives the server process.
    Disk,
    /// In a file and the index, synced to the device: survives the node.
    Fsync,
    /// On two servers: survives either of them for good.
    Mirror,
    /// In object storage: survives all servers.
    Object,
}

/// When servers that have an object store copy an app's output there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WriteBack {
    /// After a delay, when a disk is nearly full, or when a server ends.
    Lazy,
    /// As soon as an attempt is committed.
    Eager,
    /// Never.
    Off,
}

/// A server's description of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// The asked address.
    pub address: String,
    /// Version of the program.
    pub version: String,
    /// Data directories in service.
    pub volumes: Vec<VolumeState>,
    /// Whether the server takes no new outputs because it ends.
    pub draining: bool,
    /// Used bytes of the memory budget.
    pub memory_used: u64,
    /// Bytes of the server's memory budget.
    pub memory_limit: u64,
    /// Whether the server has an object store, and serves also what other servers have written back
    /// there.
    pub remote: bool,
    /// This run of the process: the same at two addresses of one server. Empty for servers without
    /// one.
    pub instance: String,
    /// The server's machine, as known to executors there; empty if unknown.
    pub node: String,
    /// The failure domain of that machine; empty if nobody has said.
    pub zone: String,
}

/// Where an output is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The volume.
    pub volume: VolumeId,
    /// Last known server of the volume, `host:port`.
    pub address: String,
}

/// A data directory of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeState {
    /// The volume's UUID.
    pub id: VolumeId,
    /// Staged bytes.
    pub bytes_used: u64,
    /// Free bytes of the file system.
    pub bytes_free: u64,
    /// ok, full or failed.
    pub state: String,
}

// === impl Caller ===

impl Caller {
    /// The caller for opening messages.
    pub(crate) fn message(&self) -> v1::Caller {
        v1::Caller {
            protocol: shuffle_proto::PROTOCOL,
            app: self.app.as_str().into(),
            token: self.token.to_string(),
            lease_ms: u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX),
            write_back: v1::WriteBack::Unspecified.into(),
        }
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller")
            .field("app", &self.app)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}

// === impl Durability ===

impl Durability {
    /// All levels, weakest first.
    pub const ALL: [Self; 5] = [
        Self::Memory,
        Self::Disk,
        Self::Fsync,
        Self::Mirror,
        Self::Object,
    ];

    /// The level's name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Fsync => "fsync",
            Self::Mirror => "mirror",
            Self::Object => "object",
        }
    }

    pub(crate) fn message(self) -> v1::Durability {
        match self {
            Self::Memory => v1::Durability::Memory,
            Self::Disk => v1::Durability::Disk,
            Self::Fsync => v1::Durability::Fsync,
            Self::Mirror => v1::Durability::Mirror,
            Self::Object => v1::Durability::Object,
        }
    }

    pub(crate) fn of(message: v1::Durability) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|level| level.message() == message)
    }
}

// === impl WriteBack ===

impl WriteBack {
    pub(crate) fn message(self) -> v1::WriteBack {
        match self {
            Self::Lazy => v1::WriteBack::Lazy,
            Self::Eager => v1::WriteBack::Eager,
            Self::Off => v1::WriteBack::Off,
        }
    }
}

impl FromStr for WriteBack {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "lazy" => Ok(Self::Lazy),
            "eager" => Ok(Self::Eager),
            "off" => Ok(Self::Off),
            _ => Err(Error::new(
                Kind::Invalid,
                format!("write-back is {text:?}: write lazy, eager or off"),
            )),
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Durability {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL
            .into_iter()
            .find(|level| level.name() == text)
            .ok_or_else(|| {
                Error::new(
                    Kind::Invalid,
                    format!("durability is {text:?}: write memory, disk, fsync, mirror or object"),
                )
            })
    }
}
