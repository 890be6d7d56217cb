//! Connections to servers: who is where, how a stream is opened, and when a peer counts as gone.
//!
//! Bulk streams run over HTTP/2 connections that this module drives itself, because only so the rope bodies of
//! `shuffle_proto::frame` reach the socket uncopied. Pushes and fetches never share a connection: a server that holds pushes back
//! for want of memory must not hold back fetch requests, by which memory becomes free. Control calls go over one tonic channel
//! per server.
//!
//! **Windows.** A reader that is not read from keeps up to one stream window of bytes here. All of them count against the
//! connection's window too, so that one must never be the tighter bound: two readers of one task, read in turns (a join), would wait
//! for each other for ever. It is set out of reach, and a connection carries a bounded number of streams.
//!
//! **Dead peers.** A connection is probed with PING frames, also when it is idle, so that a task does not start on a dead one. A peer
//! that does not answer is gone for all its streams at once; a peer that answers and does not go on is for the deadlines of writer
//! and reader, which then distrust its connections.

use std::{
    collections::{BTreeSet, HashMap},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use futures_util::Stream;
use hyper::{
    body::Incoming,
    client::conn::http2::{Builder, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use shuffle_proto::{
    frame::{FrameError, MessageReader, Rope, RopeBody},
    http2,
    kind::Kind,
    v1::control_client::ControlClient,
};
use tokio::{net::TcpStream, runtime::Handle, time::Instant};
use tokio_util::task::AbortOnDropHandle;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

use crate::settings::Settings;

/// Ropes on their way out.
pub(crate) type Outgoing = Pin<Box<dyn Stream<Item = Result<Rope, Status>> + Send>>;
type Sender = SendRequest<RopeBody<Outgoing>>;

/// Streams of one connection, well under what servers allow at a time (commonly 100 to 250).
const STREAMS: usize = 64;
/// Out of reach of [`STREAMS`] full stream windows, see the module's header.
const CONNECTION_WINDOW: u32 = 1 << 30;

/// Why a call or a stream failed, before anybody has decided what to do about it.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    pub(crate) message: String,
    pub(crate) retry_after: Option<Duration>,
}

/// The two bulk calls; each has connections of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Bulk {
    Push,
    Fetch,
}

/// All connections of a client.
pub(crate) struct Connections {
    settings: Settings,
    handle: Handle,
    bulk: Mutex<HashMap<(String, Bulk), SharedSlot>>,
    control: Mutex<HashMap<String, Channel>>,
    /// What names resolved to last: a name service that fails does not make servers disappear.
    resolved: Mutex<HashMap<String, Vec<String>>>,
    /// When a server could last not be connected to.
    down: Mutex<HashMap<String, Instant>>,
}

/// How long a server that could not be connected to is no first choice.
const DOWN: Duration = Duration::from_secs(10);

/// Locked while one caller connects, so that a hundred tasks make one connection.
type SharedSlot = Arc<tokio::sync::Mutex<Slot>>;

/// Bulk connections to one server in one direction.
#[derive(Default)]
struct Slot {
    open: Vec<Connection>,
    /// The last failure to connect, for those who waited for the same try.
    failed: Option<(Instant, Failure)>,
}

struct Connection {
    sender: Sender,
    /// Drives the connection; shared with the streams on it, so that it lives as long as any of them.
    driver: Arc<AbortOnDropHandle<()>>,
}

/// The right to open one stream on a connection; kept as long as the stream.
pub(crate) struct Lane {
    sender: Sender,
    address: String,
    call: Bulk,
    _driver: Arc<AbortOnDropHandle<()>>,
}

// === impl Connections ===

impl Connections {
    pub(crate) fn new(settings: Settings, handle: Handle) -> Self {
        Self {
            settings,
            handle,
            bulk: Mutex::default(),
            control: Mutex::default(),
            resolved: Mutex::default(),
            down: Mutex::default(),
        }
    }

    /// The addresses of all servers in the settings, names resolved now. A name that cannot be resolved stands for what it stood for
    /// before.
    pub(crate) async fn addresses(&self) -> Vec<String> {
        let mut addresses = BTreeSet::new();
        for server in &self.settings.servers {
            let Some(name) = server.strip_prefix("dns://") else {
                addresses.insert(server.clone());
                continue;
            };
            let found = match tokio::time::timeout(
                self.settings.call_timeout,
                tokio::net::lookup_host(name),
            )
            .await
            {
                Ok(Ok(found)) => found.map(|address| address.to_string()).collect(),
                Ok(Err(error)) => {
                    tracing::debug!(name, %error, "cannot resolve server name");
                    Vec::new()
                }
                Err(_) => {
                    tracing::debug!(name, "name service does not answer");
                    Vec::new()
                }
            };
            let mut resolved = self.resolved.lock();
            if !found.is_empty() {
                resolved.insert(name.to_string(), found);
            }
            addresses.extend(resolved.get(name).into_iter().flatten().cloned());
        }
        addresses.into_iter().collect()
    }

    /// Whether a server could not be connected to a moment ago.
    pub(crate) fn is_down(&self, address: &str) -> bool {
        self.down
            .lock()
            .get(address)
            .is_some_and(|when| when.elapsed() < DOWN)
    }

    /// Opens no more streams on the connections that are up to this server: one of them has fallen silent. Those that are open go
    /// on, each is for its own deadline.
    pub(crate) async fn distrust(&self, address: &str, call: Bulk) {
        let slot = self.bulk.lock().get(&(address.to_string(), call)).cloned();
        if let Some(slot) = slot {
            slot.lock().await.open.clear();
        }
    }

    /// A client for the control calls of one server. Connects when it is used.
    pub(crate) fn control(&self, address: &str) -> Result<ControlClient<Channel>, Failure> {
        let mut channels = self.control.lock();
        if let Some(channel) = channels.get(address) {
            return Ok(ControlClient::new(channel.clone()));
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|_| {
                Failure::new(
                    Kind::Invalid,
                    format!("server address is {address:?}: write host:port"),
                )
            })?
            .connect_timeout(self.settings.connect_timeout)
            .timeout(self.settings.call_timeout)
            .tcp_nodelay(true);
        let _runtime = self.handle.enter();
        let channel = endpoint.connect_lazy();
        channels.insert(address.to_string(), channel.clone());
        Ok(ControlClient::new(channel))
    }

    /// Room for one more stream to this server, on a connection that is up.
    pub(crate) async fn lane(&self, address: &str, call: Bulk) -> Result<Lane, Failure> {
        let asked = Instant::now();
        let slot = self
            .bulk
            .lock()
            .entry((address.to_string(), call))
            .or_default()
            .clone();
        let mut slot = slot.lock().await;
        slot.open
            .retain(|connection| !connection.sender.is_closed());
        if !slot.open.iter().any(Connection::has_room) {
            match &slot.failed {
                Some((when, failure)) if *when >= asked => return Err(failure.clone()),
                _ => {}
            }
            match self.connect(address).await {
                Ok(connection) => {
                    slot.open.push(connection);
                    slot.failed = None;
                    self.down.lock().remove(address);
                }
                Err(failure) => {
                    self.down.lock().insert(address.to_string(), Instant::now());
                    slot.failed = Some((Instant::now(), failure.clone()));
                    return Err(failure);
                }
            }
        }
        let connection = slot
            .open
            .iter()
            .find(|connection| connection.has_room())
            .expect("one was found or made");
        Ok(Lane {
            sender: connection.sender.clone(),
            address: address.to_string(),
            call,
            _driver: connection.driver.clone(),
        })
    }

    async fn connect(&self, address: &str) -> Result<Connection, Failure> {
        let settings = &self.settings;
        let connect = async {
            let stream = TcpStream::connect(address)
                .await
                .map_err(|error| error.to_string())?;
            stream
                .set_nodelay(true)
                .map_err(|error| error.to_string())?;
            Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_frame_size(http2::MAX_FRAME)
                .initial_stream_window_size(http2::WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_send_buf_size(http2::MAX_SEND_BUFFER)
                .keep_alive_interval(settings.keep_alive)
                .keep_alive_timeout(settings.keep_alive.saturating_mul(2))
                .keep_alive_while_idle(true)
                .handshake::<_, RopeBody<Outgoing>>(TokioIo::new(stream))
                .await
                .map_err(|error| describe(&error))
        };
        let refused = |why: String| {
            Failure::new(
                Kind::Unavailable,
                format!("cannot connect to {address}: {why}"),
            )
        };
        let connected = tokio::time::timeout(settings.connect_timeout, connect).await;
        let late = || refused(format!("no answer within {:?}", settings.connect_timeout));
        let (sender, driver) = connected.map_err(|_| late())?.map_err(refused)?;
        let name = address.to_string();
        let driver = self.handle.spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(server = name, error = describe(&error), "connection ended");
            }
        });
        Ok(Connection {
            sender,
            driver: Arc::new(AbortOnDropHandle::new(driver)),
        })
    }
}

impl Connection {
    fn has_room(&self) -> bool {
        Arc::strong_count(&self.driver) <= STREAMS
    }
}

// === impl Lane ===

impl Lane {
    /// Opens the stream: sends what `body` yields and waits for the start of the answer. A call that is refused is a failure here.
    pub(crate) async fn call(
        &mut self,
        body: Outgoing,
    ) -> Result<MessageReader<Incoming>, Failure> {
        let method = match self.call {
            Bulk::Push => "Push",
            Bulk::Fetch => "Fetch",
        };
        let request =
            http::Request::post(format!("http://{}/forebay.v1.Data/{method}", self.address))
                .header(http::header::CONTENT_TYPE, "application/grpc")
                .header(http::header::TE, "trailers")
                .body(RopeBody::request(body))
                .map_err(|_| {
                    Failure::new(
                        Kind::Invalid,
                        format!("server address is {:?}: write host:port", self.address),
                    )
                })?;
        let broke = |error: hyper::Error| {
            Failure::new(
                Kind::Unavailable,
                format!("connection to {} broke: {}", self.address, describe(&error)),
            )
        };
        self.sender.ready().await.map_err(broke)?;
        let response = self.sender.send_request(request).await.map_err(broke)?;
        if let Some(status) = Status::from_header_map(response.headers())
            && status.code() != tonic::Code::Ok
        {
            return Err(status.into());
        }
        if response.status() != http::StatusCode::OK {
            let message = format!(
                "{} answered HTTP {}: is it a Forebay data port?",
                self.address,
                response.status()
            );
            return Err(Failure::new(Kind::Unavailable, message));
        }
        Ok(MessageReader::new(response.into_body()))
    }
}

/// What the end of a stream without the message that should end it means.
pub(crate) fn ended(reader: &MessageReader<Incoming>, missing: &str) -> Failure {
    match reader.trailers().and_then(Status::from_header_map) {
        Some(status) if status.code() != tonic::Code::Ok => status.into(),
        // An `ok` of a proxy or of a server that shuts down is no answer either.
        Some(_) | None => {
            Failure::new(Kind::Unavailable, format!("stream ended without {missing}"))
        }
    }
}

// === impl Failure ===

impl Failure {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            retry_after: None,
        }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let mut message = status.message().to_string();
        let mut source = std::error::Error::source(&status);
        while let Some(cause) = source {
            message = format!("{message}: {cause}");
            source = cause.source();
        }
        if message.is_empty() {
            message = format!("status {:?} without a message", status.code());
        }
        Self {
            kind: Kind::of(&status),
            message,
            retry_after: Kind::retry_after(&status),
        }
    }
}

impl From<FrameError> for Failure {
    fn from(error: FrameError) -> Self {
        let kind = match error {
            FrameError::Malformed(_) | FrameError::TooLarge { .. } => Kind::Internal,
            FrameError::Truncated | FrameError::Transport(_) => Kind::Unavailable,
        };
        Self::new(kind, error.to_string())
    }
}

/// An error with its causes: hyper's own text alone says nothing.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
