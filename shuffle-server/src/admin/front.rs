//! The admin port from before there is a server: a thread of its own with a runtime of its own, so
//! that probes are answered while volumes are recovered, and while clients have all threads and all
//! of the processor that a quota leaves.
//!
//! Nothing on this thread waits for a disk or for a lock that a long piece of work holds: what has
//! to look at all of the server is done beside it ([`Front::look`]), and what changes the server is
//! done by the server's own runtime ([`Front::work`]).

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::{Arc, OnceLock, mpsc},
    time::Duration,
};

use parking_lot::Mutex;
use shuffle_proto::kind::Kind;
use tokio::{runtime, sync::oneshot};
use tokio_util::sync::CancellationToken;

use super::Refused;

use crate::{
    auth::Auth,
    core::Core,
    error::Refusal,
    metrics::{Limit, Metrics},
    tls::Opener,
};

/// Threads for what has to look at all of the server.
const LOOKS: usize = 4;
/// What those get at the end.
const LAST_LOOKS: Duration = Duration::from_secs(1);

/// What the port knows of the server, also while there is none yet.
pub(crate) struct Front {
    core: OnceLock<Arc<Core>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) auth: Arc<Auth>,
    /// What the start waits for.
    waits: Mutex<Vec<String>>,
    /// The server's own runtime.
    work: runtime::Handle,
}

/// Something that the start waits for, as long as this lives.
pub(crate) struct Waiting {
    front: Arc<Front>,
    what: String,
}

/// The thread. It ends when this is dropped.
pub(crate) struct Port {
    shutdown: CancellationToken,
    ended: Option<oneshot::Receiver<()>>,
}

// === impl Front ===

impl Front {
    /// The front of a server that starts on this runtime.
    pub(crate) fn new(metrics: Arc<Metrics>, auth: Arc<Auth>) -> Arc<Self> {
        Arc::new(Self {
            core: OnceLock::new(),
            metrics,
            auth,
            waits: Mutex::default(),
            work: runtime::Handle::current(),
        })
    }

    /// Says what the start waits for.
    pub(crate) fn wait(self: &Arc<Self>, what: String) -> Waiting {
        self.waits.lock().push(what.clone());
        Waiting {
            front: self.clone(),
            what,
        }
    }

    /// The start is over.
    pub(crate) fn serves(&self, core: Arc<Core>) {
        // There is one start.
        let _ = self.core.set(core);
    }

    pub(super) fn core(&self) -> Option<&Arc<Core>> {
        self.core.get()
    }

    /// Why there is no server yet.
    pub(super) fn starts(&self) -> Vec<String> {
        let waits = self.waits.lock();
        match waits.is_empty() {
            true => vec!["starting".to_owned()],
            false => waits.clone(),
        }
    }

    /// The server, or why there is none yet.
    pub(super) fn ready(&self) -> Result<Arc<Core>, Refusal> {
        self.core.get().cloned().ok_or_else(|| {
            let why = self.starts().join("; ");
            let message = format!("this server starts: {why}: ask again once /readyz answers 200");
            Refusal::new(Kind::Unavailable, message)
        })
    }

    /// Does what may take a while beside the thread that answers probes.
    pub(super) async fn look<T: Send + 'static>(
        look: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refused> {
        tokio::task::spawn_blocking(look).await.map_err(panicked)
    }

    /// Makes a call that changes the server on the server's own runtime. The call goes on to its
    /// end, also if the client disconnects.
    pub(super) async fn work<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Refused> {
        self.work.spawn(work).await.map_err(panicked)
    }

    pub(super) fn limit(&self, peer: SocketAddr) {
        match self.core() {
            Some(core) => core.limit(Limit::AdminConnections, Some(peer)),
            None => self.metrics.limited(Limit::AdminConnections),
        }
    }
}

fn panicked(panic: tokio::task::JoinError) -> Refused {
    Refusal::new(Kind::Internal, format!("the answer panicked: {panic}")).into()
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut waits = self.front.waits.lock();
        if let Some(at) = waits.iter().position(|what| *what == self.what) {
            waits.remove(at);
        }
    }
}

// === impl Port ===

impl Port {
    /// Answers on this listener from now on.
    pub(crate) fn open(
        listener: TcpListener,
        opener: Opener,
        front: Arc<Front>,
    ) -> io::Result<Self> {
        let shutdown = CancellationToken::new();
        let (end, ended) = oneshot::channel();
        let (begin, begun) = mpsc::channel();
        let until = shutdown.clone();
        let thread = std::thread::Builder::new().name("forebay-admin".into());
        thread.spawn(move || {
            // Told apart from an end by its being dropped.
            let _end = end;
            let runtime = runtime::Builder::new_current_thread()
                .enable_all()
                .thread_name("forebay-look")
                .max_blocking_threads(LOOKS)
                .build();
            let started = runtime.and_then(|runtime| {
                let inside = runtime.enter();
                let listener = tokio::net::TcpListener::from_std(listener);
                drop(inside);
                Ok((runtime, listener?))
            });
            match started {
                Err(error) => drop(begin.send(Err(error))),
                Ok((runtime, listener)) => {
                    drop(begin.send(Ok(())));
                    runtime.block_on(super::serve(listener, opener, front, until));
                    runtime.shutdown_timeout(LAST_LOOKS);
                }
            }
        })?;
        let gone = || io::Error::other("the thread of the admin port panicked");
        begun.recv().map_err(|_| gone())??;
        Ok(Self {
            shutdown,
            ended: Some(ended),
        })
    }

    /// Ends the thread, once what is being answered is.
    pub(crate) fn close(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    /// Returns when the thread has ended.
    pub(crate) async fn ended(mut self) {
        if let Some(ended) = self.ended.take() {
            let _ = ended.await;
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}
