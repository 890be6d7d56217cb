//! Connections: accepted, bounded, kept alive, ended.
//!
//! hyper's HTTP/2 is driven directly and not through tonic's server, which can neither send ropes nor bound what a connection
//! buffers for sending.

use std::{io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use shuffle_proto::http2 as settings;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::service::Routes;

use super::{Core, router::Router};
use crate::metrics::Running;

/// A client that has connected sends its first bytes at once.
const FIRST_BYTE: Duration = Duration::from_secs(10);
/// Pause after an error of `accept`: out of files, mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Calls at the same time on one connection. More wait at the client.
const MAX_STREAMS: u32 = 256;
/// Out of reach of [`MAX_STREAMS`] full stream windows. A push that waits for memory leaves its bytes unread; if those could use up
/// the connection's window, a push beside it that has its memory already could not finish, and its memory may be what the first one
/// waits for. What is unread is bounded by the streams' own windows.
const CONNECTION_WINDOW: u32 = MAX_STREAMS * settings::WINDOW;
/// Bytes of request headers: gRPC's are a few hundred.
const MAX_HEADERS: u32 = 16 << 10;

/// How connections end: `graceful` lets running calls finish, `now` does not.
#[derive(Clone, Default)]
pub(crate) struct End {
    pub(crate) graceful: CancellationToken,
    pub(crate) now: CancellationToken,
}

/// Takes connections.
pub(crate) struct Listener {
    pub(crate) core: Arc<Core>,
    pub(crate) routes: Routes,
    pub(crate) max_connections: usize,
    pub(crate) keep_alive: Duration,
    /// Everything that runs for a client.
    pub(crate) tasks: TaskTracker,
    pub(crate) end: End,
}

/// Spawns hyper's tasks, one per call, so that the end of the server can wait for them.
#[derive(Clone)]
struct Tracked(TaskTracker);

impl<F> hyper::rt::Executor<F> for Tracked
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

impl Listener {
    /// Accepts until the end.
    pub(crate) async fn run(self, listener: TcpListener) {
        let limit = Arc::new(Semaphore::new(self.max_connections));
        let this = Arc::new(self);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = this.end.graceful.cancelled() => return,
                () = this.end.now.cancelled() => return,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            match limit.clone().try_acquire_owned() {
                Ok(permit) => {
                    let this = this.clone();
                    this.tasks
                        .clone()
                        .spawn(async move { this.serve(stream, peer, permit).await });
                }
                Err(_) => {
                    this.core.metrics.connections_refused.inc();
                    if this.core.registry.may_log(None) {
                        tracing::warn!(%peer, max_connections = this.max_connections, "connection refused: there are enough");
                    }
                }
            }
        }
    }

    async fn serve(&self, stream: TcpStream, peer: SocketAddr, _permit: OwnedSemaphorePermit) {
        let _running = Running::new(self.core.metrics.connections.clone());
        if let Err(error) = self.prepare(&stream).await {
            tracing::debug!(%peer, %error, "connection ended before its first call");
            return;
        }
        let mut http = http2::Builder::new(Tracked(self.tasks.clone()));
        http.timer(TokioTimer::new())
            .max_frame_size(settings::MAX_FRAME)
            .initial_stream_window_size(settings::WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(settings::MAX_SEND_BUFFER)
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEADERS)
            .keep_alive_interval(self.keep_alive)
            .keep_alive_timeout(self.keep_alive);
        let router = Router::new(self.core.clone(), self.routes.clone(), peer);
        let mut connection = pin!(http.serve_connection(TokioIo::new(stream), router));
        let mut leaving = false;
        let result = loop {
            tokio::select! {
                result = connection.as_mut() => break result,
                () = self.end.graceful.cancelled(), if !leaving => {
                    leaving = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = self.end.now.cancelled() => return,
            }
        };
        match result {
            Ok(()) => tracing::trace!(%peer, "connection ended"),
            Err(error) => tracing::debug!(%peer, error = %chain(&error), "connection broke"),
        }
    }

    async fn prepare(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut byte = [0];
        let first = tokio::select! {
            first = tokio::time::timeout(FIRST_BYTE, stream.peek(&mut byte)) => first,
            () = self.end.graceful.cancelled() => return Err(io::Error::other("the server ends")),
        };
        match first {
            Ok(Ok(0)) => Err(io::Error::other("closed")),
            Ok(result) => result.map(drop),
            Err(_) => Err(io::Error::other("silent")),
        }
    }
}

/// An error with its causes, which hyper leaves out of its text.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
