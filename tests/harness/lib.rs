//! The ground of the end-to-end tests: real server processes, hostile peers, distinguishable data,
//! and a model of the expected answers.
//!
//! - [`server`], [`setup`]: starts, kills, pauses and restarts `forebay-server`; fails a test when
//!   the server logged an unexpected ERROR.
//! - [`peer`], [`push`]: the *stock* generated tonic client, so that the tests share no framing
//!   code with the product and can send anything.
//! - [`stage`]: a server with something on it.
//! - [`attempt`]: well-formed map attempts with deterministic bytes, and their messages, free to be
//!   spoilt by a test.
//! - [`oracle`]: what was committed, and whether an answer is exactly that.
//! - [`disk`], [`shaky`]: small file systems, read-only ones, power cuts, flipped bits; real disks
//!   that fail, hang and vanish on command.
//! - [`port`], [`proxy`]: a port that stays a test's own; a connection that is cut, stalls, or
//!   flips a bit.
//! - [`bucket`], [`stores`], [`gateway`]: object stores in a directory and as child processes, and
//!   an HTTP proxy that makes trouble in front of them.
//! - [`tls`]: certificates, and who shows which.
//! - [`quota`]: a part of one processor.
//! - [`raw`]: bytes on a socket or in an HTTP/2 stream that no client would send.

pub mod attempt;
pub mod bucket;
pub mod disk;
pub mod gateway;
pub mod oracle;
pub mod peer;
pub mod port;
pub mod proxy;
pub mod push;
pub mod quota;
pub mod raw;
pub mod server;
pub mod setup;
pub mod shaky;
pub mod stage;
pub mod stores;
pub mod tls;

pub use attempt::{App, Attempt, Block, Shape, random_bytes};
pub use bucket::Bucket;
pub use gateway::Gateway;
pub use oracle::Oracle;
pub use peer::{Fetched, Peer};
pub use port::Port;
pub use push::Push;
pub use server::Server;
pub use setup::Setup;
pub use shaky::Shaky;
pub use shuffle_proto::{kind::Kind, v1};
pub use stage::Stage;
pub use stores::Endpoint;
pub use tls::Authority;

use std::{
    future::Future,
    io::Write,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

/// No single step of a test takes longer, also on a busy machine; a server that hangs fails the
/// test instead of hanging it.
pub const STEP: Duration = Duration::from_secs(60);

/// Says on standard error, past the capture of test output, that a test cannot do its work on this
/// machine, with a running count. A failure if FOREBAY_TEST_NO_SKIP is 1, as set by `make test`
/// where root, disks and stores are there.
#[track_caller]
pub fn skipped(why: &str) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let must = std::env::var_os("FOREBAY_TEST_NO_SKIP").is_some_and(|value| value == "1");
    assert!(!must, "skipped, and FOREBAY_TEST_NO_SKIP is 1: {why}");
    let count = COUNT.fetch_add(1, Ordering::Relaxed) + 1;
    // Not by a macro: what those print is shown of failed tests only.
    let _ = writeln!(std::io::stderr(), "SKIPPED ({count}) {why}");
}

/// Where `setup.sh` keeps what tests start.
pub fn cache() -> PathBuf {
    std::env::var_os("FOREBAY_CACHE").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/forebay"),
        PathBuf::from,
    )
}

/// Waits for one step of a test.
pub async fn step<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(STEP, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what} took longer than {STEP:?}"),
    }
}

/// Asks again and again until `check` answers `Ok`; fails with its last reason.
pub async fn eventually<F: Future<Output = Result<T, String>>, T>(
    within: Duration,
    mut check: impl FnMut() -> F,
) -> T {
    let start = std::time::Instant::now();
    loop {
        // What was not so at a moment within is not so: a look that was late says nothing.
        let late = start.elapsed() > within;
        match step("a check", check()).await {
            Ok(value) => return value,
            Err(reason) if late => {
                panic!("still not so after {within:?}: {reason}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
