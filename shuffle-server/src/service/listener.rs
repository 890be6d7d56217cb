//! Connections: accepted, bounded, kept alive, ended.
//!
//! hyper's HTTP/2 is driven directly and not through tonic's server, which can neither send ropes
//! nor bound what a connection buffers for sending.

use std::{
    io,
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use shuffle_proto::http2 as settings;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::service::Routes;

use super::{
    connections::{Connection, Connections},
    router::Router,
};

use crate::{
    core::{Core, peers::Over},
    metrics::{Limit, Running},
    tls::{Io, Opener, PeerIdentity, Port, Unopened},
};

/// What every client of HTTP/2 sends first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How often a preface that came in part is looked at again.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How long a new connection waits for another to make room, and how long a refused connection
/// stays open for its peer to read the reason.
const MOMENT: Duration = Duration::from_secs(1);
/// Connections that wait for that at the same time. More are closed without a word.
const MAX_WAITING: usize = 256;
/// Pause after an error of `accept`: out of files, mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Calls at the same time on one connection. More wait at the client.
const MAX_STREAMS: u32 = 256;
/// Out of reach of [`MAX_STREAMS`] full stream windows. A push that waits for memory leaves its
/// bytes unread; if those could use up the connection's window, a push beside it that has its
/// memory already could not finish, and its memory may be what the first one waits for. What is
/// unread is bounded by the streams' own windows.
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
    pub(crate) opener: Opener,
    pub(crate) routes: Routes,
    pub(crate) max_connections: usize,
    pub(crate) max_connections_per_peer: usize,
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
        let connections = Connections::new(self.max_connections, self.max_connections_per_peer);
        let waiting = Arc::new(Semaphore::new(MAX_WAITING));
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
            let (task, tasks) = (this.clone(), this.tasks.clone());
            match connections.take(peer.ip()) {
                Ok(connection) => {
                    tasks.spawn(async move { task.serve(stream, peer, connection).await });
                }
                Err(over) => match waiting.clone().try_acquire_owned() {
                    Ok(place) => {
                        let connections = connections.clone();
                        tasks.spawn(async move {
                            task.wait(stream, peer, &connections, over, place).await;
                        });
                    }
                    Err(_) => {
                        this.refused(over, peer);
                    }
                },
            }
        }
    }

    /// Serves a connection over the bound once another one has made room; if none does, says why
    /// not.
    async fn wait(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        connections: &Arc<Connections>,
        over: Over,
        place: OwnedSemaphorePermit,
    ) {
        if connections.make_room(over, peer.ip(), Instant::now()) {
            for _ in 0..2 * MOMENT.as_millis() / POLL_INTERVAL.as_millis() {
                tokio::time::sleep(POLL_INTERVAL).await;
                if let Ok(connection) = connections.take(peer.ip()) {
                    drop(place);
                    return self.serve(stream, peer, connection).await;
                }
            }
        }
        let why = self.refused(over, peer);
        let goodbye = async {
            let mut io = match self.opener.is_secure() {
                true => self.opener.open(stream).await?.0,
                false => Io::plain(stream),
            };
            Ok::<_, Unopened>(farewell(&mut io, &why).await?)
        };
        let _ = tokio::time::timeout(MOMENT, goodbye).await;
    }

    /// Counts and tells of a connection over a bound; answers what its peer should do.
    fn refused(&self, over: Over, peer: SocketAddr) -> String {
        let (limit, value) = match over {
            Over::All => (Limit::Connections, self.max_connections),
            Over::Peer => (Limit::ConnectionsPerPeer, self.max_connections_per_peer),
        };
        self.core.metrics.connections_refused.inc();
        self.core.limit(limit, Some(peer));
        format!(
            "{} is {value}, and all of them run calls: come back later, or raise it at the server",
            limit.name()
        )
    }

    async fn serve(&self, stream: TcpStream, peer: SocketAddr, open: Arc<Connection>) {
        let _running = Running::new(self.core.metrics.connections.clone());
        let (io, identity) = match self.prepare(stream, peer).await {
            Ok(prepared) => prepared,
            Err(why) => {
                let (registry, metrics) = (&self.core.registry, &self.core.metrics);
                return why.tell(Port::Data, peer, metrics, || registry.may_log(None));
            }
        };
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
        let (core, routes) = (self.core.clone(), self.routes.clone());
        let router = Router::new(core, routes, peer, identity, open.clone());
        let mut connection = pin!(http.serve_connection(TokioIo::new(io), router));
        let mut leaving = false;
        let result = loop {
            tokio::select! {
                result = connection.as_mut() => break result,
                () = self.end.graceful.cancelled(), if !leaving => {
                    leaving = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = open.leaves(), if !leaving => {
                    leaving = true;
                    connection.as_mut().graceful_shutdown();
                }
                // A peer that does not answer to that has no call to lose.
                () = open.stays(MOMENT) => return,
                () = self.end.now.cancelled() => return,
            }
        };
        match result {
            Ok(()) => tracing::trace!(%peer, "connection ended"),
            Err(error) => tracing::debug!(%peer, error = %chain(&error), "connection broke"),
        }
    }

    /// Opens the connection and waits for the preface: hyper has no time limit for it.
    async fn prepare(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
    ) -> Result<(Io, PeerIdentity), Unopened> {
        stream.set_nodelay(true)?;
        let opening = async {
            let (mut io, identity) = self.opener.open(stream).await?;
            io.begins(PREFACE).await?;
            Ok((io, identity))
        };
        tokio::select! {
            opened = tokio::time::timeout(self.core.pace.opening, opening) => {
                opened.unwrap_or_else(|_| {
                    self.core.limit(Limit::Slow, Some(peer));
                    Err(io::Error::other("silent").into())
                })
            }
            () = self.end.graceful.cancelled() => Err(io::Error::other("the server ends").into()),
        }
    }
}

/// Says in HTTP/2's words why a connection is not served, and waits for the peer to close it: a
/// socket that is closed with unread bytes takes its last words with it.
async fn farewell(stream: &mut Io, why: &str) -> io::Result<()> {
    let text = &why.as_bytes()[..why.len().min(200)];
    // SETTINGS without any, then GOAWAY: no stream was looked at, ENHANCE_YOUR_CALM.
    let mut bytes = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
    bytes.extend([0, 0, 8 + text.len() as u8, 7, 0, 0, 0, 0, 0]);
    bytes.extend([0, 0, 0, 0, 0, 0, 0, 0xb]);
    bytes.extend(text);
    stream.write_all(&bytes).await?;
    stream.shutdown().await?;
    let mut unread = [0; 4096];
    while stream.read(&mut unread).await? > 0 {}
    Ok(())
}

/// An error with its causes, which hyper leaves out of its text.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
