//! How slow a peer may be; what that means for a message is in `service::pace`.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;

/// Bytes of all larger heads at the same time.
const HEADS: usize = 64 << 20;

/// Times and memory that a peer gets before its caller is known, and while it goes on.
pub(crate) struct Pace {
    /// For the first message of a stream, and for the first bytes of a connection.
    pub(crate) opening: Duration,
    /// For what goes on.
    pub(crate) grace: Duration,
    pub(crate) heads: Arc<Semaphore>,
}

impl Pace {
    pub(crate) fn new(keep_alive: Duration) -> Self {
        Self {
            opening: (keep_alive / 2).clamp(Duration::from_secs(3), Duration::from_secs(10)),
            grace: keep_alive,
            heads: Arc::new(Semaphore::new(HEADS)),
        }
    }
}
