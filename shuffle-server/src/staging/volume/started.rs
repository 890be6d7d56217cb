//! A call that may wait for the disk: on a thread of its own, so that who waits for it need not
//! hang with it.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
    mpsc::{self, Receiver, RecvTimeoutError},
};

use crate::staging::{
    error::Error,
    volume::{CALL_POLL_INTERVAL, MAX_BLOCKING_CALLS, Volume},
};

/// A call that may wait for the disk.
pub struct Started<T> {
    volume: Volume,
    reply: Receiver<Result<T, Error>>,
}

/// A call that runs, counted for as long as the value lives.
pub(super) struct BlockingCall {
    all: Arc<AtomicUsize>,
    place: usize,
}

// === impl Volume ===

impl Volume {
    /// Makes a call that may block, on a thread of its own: with a disk that hangs the call hangs,
    /// and ends when the disk comes back, but who waits for it does not.
    pub fn start<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Self) -> Result<T, Error> + Send + 'static,
    ) -> Started<T> {
        let (reply, receiver) = mpsc::channel();
        let started = Started {
            volume: self.clone(),
            reply: receiver,
        };
        let running = BlockingCall::new(&self.0.blocking_calls);
        if running.place > MAX_BLOCKING_CALLS && self.0.shared.check_hung() {
            // The reply is dropped, which is an answer.
            return started;
        }
        let volume = self.clone();
        let thread = std::thread::Builder::new().name("forebay-call".into());
        let spawned = thread.spawn(move || {
            let _running = running;
            let answer = call(&volume);
            // Before the answer: who has it may close the volume and open the directory again.
            drop(volume);
            // Who asked may have given up.
            let _ = reply.send(answer);
        });
        if let Err(error) = spawned {
            tracing::warn!(volume = %self.id(), %error, "no thread for a call");
        }
        started
    }
}

// === impl BlockingCall ===

impl BlockingCall {
    fn new(all: &Arc<AtomicUsize>) -> Self {
        Self {
            all: all.clone(),
            place: all.fetch_add(1, Ordering::Relaxed) + 1,
        }
    }
}

impl Drop for BlockingCall {
    fn drop(&mut self) {
        self.all.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl Started ===

impl<T> Started<T> {
    /// Waits for the call's result. `Unavailable` when the disk does not answer; the call goes on
    /// all the same. Blocking.
    pub fn wait(self) -> Result<T, Error> {
        let shared = &self.volume.0.shared;
        loop {
            match self.reply.recv_timeout(CALL_POLL_INTERVAL) {
                Ok(answer) => return answer,
                Err(RecvTimeoutError::Timeout) if !shared.check_hung() => {}
                Err(_) => return Err(shared.unavailable()),
            }
        }
    }
}
