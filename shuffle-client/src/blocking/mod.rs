//! The client for engines whose threads wait: every call returns within its time-out, and says
//! whether to call again. What bridges to other languages are made of.
//!
//! Each value is for one thread at a time. A second thread inside is a bug of the engine, and gets
//! an error instead of a wait. The client needs a runtime of several threads
//! ([`Client::with_handle`](crate::Client::with_handle)), none of which is the caller's.

mod reader;
mod sort;
mod writer;

use std::{
    pin::pin,
    sync::{Mutex, MutexGuard, TryLockError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::runtime::Handle;

pub use self::{
    reader::{Next, Reader},
    writer::Writer,
};
use crate::error::{Error, Kind};

/// Waits for the future within the time-out; `None` = not yet. The future is dropped then, so it
/// must be resumable by a new one, as all of the client's are.
pub fn wait<F: Future>(handle: &Handle, timeout: Duration, future: F) -> Option<F::Output> {
    let _context = handle.enter();
    let mut future = pin!(future);
    // Most waits are for what is there already, and need no timer.
    if let Poll::Ready(output) = future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        return Some(output);
    }
    if timeout.is_zero() {
        return None;
    }
    handle.block_on(async { tokio::time::timeout(timeout, future).await.ok() })
}

/// State of a value, for one thread at a time. After a panic inside, the state is not used again.
pub fn exclusive<'a, T>(state: &'a Mutex<T>, name: &str) -> Result<MutexGuard<'a, T>, Error> {
    state.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => invalid(format!(
            "the {name} is in use by another thread: let one thread at a time use it"
        )),
        TryLockError::Poisoned(_) => Error::new(
            Kind::Internal,
            format!("the {name} cannot be used after a panic: close it"),
        ),
    })
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, message)
}
