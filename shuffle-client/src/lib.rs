//! Forebay seen from a task: where to put a shuffle, how to push a map output, how to read one.
//! Knows no engine.
//!
//! - [`Client`]: connections and settings, one per process. [`AppHandle`]: an application's
//!   registration and lease (driver).
//! - [`MapWriter`]: the output of one map attempt. [`Reader`]: the input of one reduce task.
//! - [`placement`]: which servers a shuffle goes to; pure functions.
//! - `fake` (feature `test-util`): a server in memory that speaks the real protocol and fails on
//!   demand.
//!
//! Nothing here blocks a thread. Every `async fn` may be dropped while it waits and called again;
//! work goes on in tasks of the client's tokio runtime, and these end with the value that started
//! them.
#![warn(missing_docs)]

mod app;
mod backoff;
pub mod budget;
mod channel;
mod client;
mod codec;
mod crypt;
mod error;
#[cfg(feature = "test-util")]
pub mod fake;
mod near;
pub mod placement;
mod pool;
mod reader;
mod settings;
mod store;
mod tally;
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
    reader::{Block, Buffer, Output, ReadSpec, Reader, ReaderStats},
    settings::Settings,
    tally::{ServerStats, Tally},
    types::{Caller, Description, Durability, Location, VolumeState, WriteBack},
    writer::{Commit, MapWriter, WriteSpec, WriterStats},
};
