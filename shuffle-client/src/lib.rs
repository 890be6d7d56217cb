//! Forebay seen from a task: where to put a shuffle, how to push a map output, how to read one.
//! Knows no engine.
//!
//! - [`Client`]: connections and settings, one per process. [`AppHandle`]: an application's
//!   registration and lease (driver).
//! - [`MapWriter`]: the output of one map attempt, block by block. [`Reader`]: the input of one
//!   reduce task. [`Receipt`]: what the one tells the other, through the engine.
//! - [`frames`]: the same for engines that make frames. [`arena`]: memory for engines that write
//!   records. [`blocking`]: all of it for engines whose threads wait.
//! - [`placement`]: which servers a shuffle goes to; pure functions.
//! - `fake` (feature `test-util`): a server in memory that speaks the real protocol and fails on
//!   demand.
//!
//! `examples/minimal_engine.rs` is an engine of sixty lines.
//!
//! Nothing here blocks a thread, except in [`blocking`]. Every `async fn` may be dropped while it waits and called again;
//! work goes on in tasks of the client's tokio runtime, and these end with the value that started
//! them.
#![warn(missing_docs)]

mod app;
pub mod arena;
mod backoff;
pub mod blocking;
pub mod budget;
mod channel;
mod client;
mod codec;
mod crypt;
mod error;
#[cfg(feature = "test-util")]
pub mod fake;
pub mod frames;
mod near;
pub mod placement;
mod pool;
mod proof;
mod reader;
mod receipt;
mod settings;
mod store;
mod tally;
mod tls;
mod types;
mod writer;

pub use shuffle_proto::{
    ids::{AppId, AttemptId, MapIndex, PartitionId, ShuffleId, VolumeId},
    kind::Kind,
};

pub use crate::{
    app::AppHandle,
    client::Client,
    codec::Compression,
    crypt::Secret,
    error::{Error, LostOutput},
    proof::Proof,
    reader::{Block, Buffer, Output, Part, ReadSpec, Reader, ReaderStats},
    receipt::Receipt,
    settings::Settings,
    tally::{ServerStats, Tally},
    tls::Tls,
    types::{Caller, Description, Durability, Location, VolumeState, WriteBack},
    writer::{Commit, MapWriter, UNKNOWN_MAPS, WriteSpec, WriterStats},
};
