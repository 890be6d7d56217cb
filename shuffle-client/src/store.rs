//! The servers' common object store, for reading written-back outputs when no server is left.
//!
//! Opened on demand, which for most clients is never; only read from. Content and checks are
//! `shuffle-remote`'s; the decision to read here is [`reader`](crate::reader)'s.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use shuffle_remote::{Remote, Store, shown_url};

use crate::{channel::Failure, error::Kind};

/// Bytes of cached footers, in an executor beside rows and heap: of the objects being read by its
/// tasks.
const FOOTERS: usize = 16 << 20;

pub(crate) struct SharedStore {
    url: String,
    /// The URL without secrets.
    name: String,
    opened: tokio::sync::OnceCell<Arc<Remote>>,
    told: AtomicBool,
}

impl SharedStore {
    /// A store at a URL that was checked. Does no I/O.
    pub(crate) fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            name: shown_url(url),
            opened: Default::default(),
            told: AtomicBool::new(false),
        }
    }

    /// For people: what stands where a server's address would.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Opens the store. A failure may pass: credentials come, and mounts.
    pub(crate) async fn open(&self) -> Result<&Arc<Remote>, Failure> {
        let open = || async {
            let url = self.url.clone();
            // Opening looks at files, possibly on a hanging mount.
            let opening = tokio::task::spawn_blocking(move || Store::existing(&url, Arc::new(())));
            let store = opening.await.unwrap_or_else(|gone| Err(gone.to_string()))?;
            let remote = Remote::keeping(store, Arc::new(Instant::now), FOOTERS);
            Ok(Arc::new(remote))
        };
        let opened = self.opened.get_or_try_init(open).await;
        opened.map_err(|why: String| Failure::new(Kind::Unavailable, why))
    }

    /// Whether this is the first call: one line in the log is enough.
    pub(crate) fn is_news(&self) -> bool {
        !self.told.swap(true, Ordering::Relaxed)
    }
}
