//! The words on Forebay's wire, and nothing that acts.
//!
//! - [`v1`]: the messages and services generated from `forebay/v1/*.proto`, where every field is
//!   documented.
//! - [`ids`]: the newtypes that the rest of the project speaks in. [`wire`] is the only place where
//!   raw integers and strings from the network become ids; what it refuses is an [`wire::Invalid`]
//!   that names field, value and remedy.
//! - [`block`]: a block's header, its flags and its checksum.
//! - [`stored`]: how blocks and totals are stored, on disks and in objects. [`summary`]: what ends
//!   the answer to a fetch.
//! - [`frame`]: gRPC messages with a bulk payload, framed by hand so that the payload is never
//!   copied.
//! - [`credential`]: how a driver proves that it belongs to a pool, and what a server gives it.
//! - [`kind`]: the few kinds of failure and what a caller does about each.

pub mod block;
pub mod credential;
pub mod frame;
pub mod ids;
pub mod kind;
pub mod stored;
pub mod summary;
pub mod wire;

/// Generated from `forebay/v1/data.proto` and `forebay/v1/control.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod v1 {
    tonic::include_proto!("forebay.v1");
}

/// Encoded `FileDescriptorSet` of all services, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/forebay.bin"));

/// The protocol version that this crate speaks, and the oldest that it still understands.
pub const PROTOCOL: u32 = 1;

/// HTTP/2 settings of the data plane, the same on both ends.
///
/// Larger windows measured slower on loopback, smaller frames cost up to 2.4 times raw TCP. A frame
/// holds a whole group ([`http2::GROUP`]) with its headers, so that a group never spills into a
/// second frame.
pub mod http2 {
    /// Bytes of payload that leave in one DATA frame.
    pub const GROUP: usize = 1 << 20;
    /// Largest DATA frame.
    pub const MAX_FRAME: u32 = (1 << 20) + (64 << 10);
    /// Flow-control window of a stream. A connection's must be out of its streams' reach, or one
    /// that waits stops the others.
    pub const WINDOW: u32 = 2 << 20;
    /// Bytes that a connection buffers for sending.
    pub const MAX_SEND_BUFFER: usize = 1 << 20;
}
