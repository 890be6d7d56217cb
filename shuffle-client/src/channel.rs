//! Connections to servers: who is where, how a stream is opened, and when a peer counts as gone.
//!
//! This module drives bulk HTTP/2 connections itself, because only so the rope bodies of
//! `shuffle_proto::frame` reach the socket uncopied. Pushes and fetches never share a connection:
//! back-pressure on pushes for want of memory must not hold back fetch requests, which free memory.
//! Control calls go over one tonic channel per server.
//!
//! **Windows.** An unread reader keeps up to one stream window of bytes here, counted against the
//! connection's window too. The connection's window must never be the tighter bound: two readers of
//! one task, read in turns (a join), would wait for each other for ever. It is set out of reach,
//! and a connection carries a bounded number of streams.
//!
//! **Dead peers.** PING frames probe a connection, even an idle one, so that no task starts on a
//! dead connection. A peer without an answer is gone for all its streams at once; a peer that
//! answers pings and does not go on is for the deadlines of writer and reader, which then distrust
//! its connections. A control call without a timely answer takes its connection with it: a flow
//! forgotten by the network is not asked a second time.
//!
//! **Idle connections** are closed: a pool of few servers has room for a limited number, and all
//! executors together would hold theirs for life. Knowledge of servers that are gone is forgotten
//! at the same time.

mod failure;

use std::{
    collections::{BTreeSet, HashMap},
    pin::Pin,
    sync::{
        Arc, Once, Weak,
        atomic::{AtomicBool, Ordering},
    },
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
    frame::{MessageReader, Rope, RopeBody},
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

use crate::{
    settings::Settings,
    tls::{Connector, Failed, Io},
};

pub(crate) use failure::Failure;
use failure::describe;

/// Ropes on their way out.
pub(crate) type Outgoing = Pin<Box<dyn Stream<Item = Result<Rope, Status>> + Send>>;

type Sender = SendRequest<RopeBody<Outgoing>>;

/// Streams of one connection, well under servers' usual limits (100 to 250).
const STREAMS: usize = 64;
/// Out of reach of [`STREAMS`] full stream windows, see the module's header.
const CONNECTION_WINDOW: u32 = 1 << 30;

/// The two bulk calls; each has connections of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Bulk {
    Push,
    Fetch,
}

/// The connections of a client.
pub(crate) struct Connections {
    settings: Settings,
    handle: Handle,
    /// Makes connections secure, if the settings say so.
    tls: Option<Arc<Connector>>,
    table: Arc<Table>,
    /// Last addresses of names: a failing name service does not make servers disappear.
    resolved: Mutex<HashMap<String, Vec<String>>>,
    /// Starts the closing of idle connections, with the first connection.
    sweeping: Once,
}

/// State shared with the task that closes idle connections.
#[derive(Default)]
struct Table {
    bulk: Mutex<HashMap<(String, Bulk), SharedSlot>>,
    control: Mutex<HashMap<String, Control>>,
    servers: Mutex<HashMap<String, Standing>>,
}

/// A control connection, made on demand.
struct Control {
    channel: Channel,
    used: Instant,
}

/// Findings about a server by its callers.
#[derive(Default)]
struct Standing {
    /// Time of the last failure to connect.
    down: Option<Instant>,
    /// Time of the last refusal of new work: full, draining, busy.
    refused: Option<Instant>,
    /// Somebody waited for it as long as servers are waited for, and since when nobody has had an
    /// answer.
    waited_for: Option<Instant>,
}

/// How long a server that could not be connected to is no first choice.
const DOWN: Duration = Duration::from_secs(10);
/// How long a server that refused is no first choice.
const REFUSED: Duration = Duration::from_secs(5);
/// What is known of a server that nobody had to do with for so long is forgotten.
const FORGET: Duration = Duration::from_secs(3600);
/// Looks, every 5 ms, for the end of a broken connection.
const LAST_WORD: u32 = 20;

/// Locked while one caller connects, so that a hundred tasks make one connection.
type SharedSlot = Arc<tokio::sync::Mutex<Slot>>;

/// Bulk connections to one server in one direction.
#[derive(Default)]
struct Slot {
    open: Vec<Connection>,
    /// The last failure to connect, for all who waited for the same try.
    failed: Option<(Instant, Failure)>,
}

struct Connection {
    sender: Sender,
    /// Shared with the streams on the connection, which lives as long as any of them.
    line: Arc<Line>,
}

/// Drives a connection.
struct Line {
    driver: AbortOnDropHandle<()>,
    /// Closed by the server at its limit of connections.
    refused: Arc<AtomicBool>,
    /// When the last stream began or ended.
    used: Mutex<Instant>,
}

/// The right to open one stream on a connection; kept as long as the stream.
pub(crate) struct Lane {
    sender: Sender,
    address: String,
    scheme: &'static str,
    call: Bulk,
    line: Arc<Line>,
}

// === impl Connections ===

impl Connections {
    /// Of settings that were checked.
    pub(crate) fn new(settings: Settings, handle: Handle) -> Self {
        let name = |field: &str| settings.name(field).to_owned();
        let tls = settings.tls.as_ref().map(|tls| {
            let connector = tls.connector(&settings.servers, name);
            Arc::new(connector.expect("the settings were checked"))
        });
        Self {
            settings,
            handle,
            tls,
            table: Arc::default(),
            resolved: Mutex::default(),
            sweeping: Once::new(),
        }
    }

    /// Addresses of all servers in the settings, names resolved now. An unresolvable name keeps its
    /// last addresses.
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
        self.standing(address, |server| is_recent(server.down, DOWN))
    }

    /// How little is to be expected of a server for something new: 0, or more if it refused or was
    /// found gone a moment ago.
    pub(crate) fn reluctance(&self, address: &str) -> u8 {
        self.standing(address, |server| {
            if server.waited_for.is_some() || is_recent(server.down, DOWN) {
                2
            } else {
                u8::from(is_recent(server.refused, REFUSED))
            }
        })
    }

    /// Whether somebody has waited for this server for as long as servers are waited for, and
    /// nobody has had an answer since: nobody waits for it again.
    pub(crate) fn was_waited_for(&self, address: &str) -> bool {
        self.standing(address, |server| server.waited_for.is_some())
    }

    /// The server has not answered for `retry_deadline`.
    pub(crate) fn gave_up(&self, address: &str) {
        self.change(address, |server| server.waited_for = Some(Instant::now()));
    }

    /// Notes any answer of the server.
    pub(crate) fn answered(&self, address: &str) {
        if let Some(server) = self.table.servers.lock().get_mut(address) {
            (server.down, server.waited_for) = (None, None);
        }
    }

    /// The server took a connection and said nothing on it for as long as a call may take.
    pub(crate) fn found_hung(&self, address: &str) {
        self.change(address, |server| server.down = Some(Instant::now()));
    }

    /// The server takes nothing new for now.
    pub(crate) fn refused(&self, address: &str) {
        self.change(address, |server| server.refused = Some(Instant::now()));
    }

    fn standing<T: Default>(&self, address: &str, ask: impl FnOnce(&Standing) -> T) -> T {
        let servers = self.table.servers.lock();
        servers.get(address).map(ask).unwrap_or_default()
    }

    fn change(&self, address: &str, change: impl FnOnce(&mut Standing)) {
        let mut servers = self.table.servers.lock();
        change(servers.entry(address.to_string()).or_default());
    }

    /// Opens no more streams on the present connections to this server, after a stream on one of
    /// them has fallen silent. Open streams go on, each until its own deadline.
    pub(crate) async fn distrust(&self, address: &str, call: Bulk) {
        let key = (address.to_string(), call);
        let slot = self.table.bulk.lock().get(&key).cloned();
        if let Some(slot) = slot {
            slot.lock().await.open.clear();
        }
    }

    /// Makes no more control calls over the present connections to this server.
    pub(crate) fn distrust_control(&self, address: &str) {
        self.table.control.lock().remove(address);
    }

    /// A client for the control calls of one server. Connects on demand.
    pub(crate) fn control(&self, address: &str) -> Result<ControlClient<Channel>, Failure> {
        let mut channels = self.table.control.lock();
        if let Some(control) = channels.get_mut(address) {
            control.used = Instant::now();
            return Ok(ControlClient::new(control.channel.clone()));
        }
        let channel = self.channel(address)?;
        self.sweep();
        let control = Control {
            channel: channel.clone(),
            used: Instant::now(),
        };
        channels.insert(address.to_string(), control);
        Ok(ControlClient::new(channel))
    }

    /// A control client over a connection that nothing else uses, now or later.
    pub(crate) fn fresh_control(&self, address: &str) -> Result<ControlClient<Channel>, Failure> {
        Ok(ControlClient::new(self.channel(address)?))
    }

    fn channel(&self, address: &str) -> Result<Channel, Failure> {
        let endpoint = Endpoint::from_shared(format!("{}://{address}", self.scheme()))
            .map_err(|_| {
                Failure::new(
                    Kind::Invalid,
                    format!("server address is {address:?}: write host:port"),
                )
            })?
            .connect_timeout(self.settings.connect_timeout)
            .timeout(self.settings.call_timeout)
            .http2_keep_alive_interval(self.settings.keep_alive)
            .keep_alive_timeout(self.settings.keep_alive.saturating_mul(2))
            .keep_alive_while_idle(true);
        let _runtime = self.handle.enter();
        let (tls, address) = (self.tls.clone(), address.to_owned());
        let connector = tower::service_fn(move |_| {
            let (tls, address) = (tls.clone(), address.clone());
            async move {
                let connected = reach(&address, tls.as_deref()).await;
                connected.map(TokioIo::new)
            }
        });
        Ok(endpoint.connect_with_connector_lazy(connector))
    }

    fn scheme(&self) -> &'static str {
        match self.tls {
            Some(_) => "https",
            None => "http",
        }
    }

    /// Room for one more stream to this server, on a live connection.
    pub(crate) async fn lane(&self, address: &str, call: Bulk) -> Result<Lane, Failure> {
        let asked = Instant::now();
        let slot = self
            .table
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
                    self.sweep();
                }
                Err(failure) => {
                    self.change(address, |server| server.down = Some(Instant::now()));
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
            scheme: self.scheme(),
            call,
            line: connection.line.clone(),
        })
    }

    /// Starts the closing of idle connections, once.
    fn sweep(&self) {
        self.sweeping.call_once(|| {
            let (table, idle) = (Arc::downgrade(&self.table), self.settings.idle_connection);
            self.handle.spawn(Table::sweep(table, idle));
        });
    }

    async fn connect(&self, address: &str) -> Result<Connection, Failure> {
        let settings = &self.settings;
        let connect = async {
            let stream = reach(address, self.tls.as_deref())
                .await
                .map_err(|error| error.to_string())?;
            Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_frame_size(http2::MAX_FRAME)
                .initial_stream_window_size(settings.stream_window)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_send_buf_size(http2::MAX_SEND_BUFFER)
                .keep_alive_interval(settings.keep_alive)
                .keep_alive_timeout(settings.keep_alive.saturating_mul(2))
                .keep_alive_while_idle(true)
                .handshake::<_, RopeBody<Outgoing>>(TokioIo::new(stream))
                .await
                .map_err(|error| describe(&error))
        };
        let failed = |why: String| {
            Failure::new(
                Kind::Unavailable,
                format!("cannot connect to {address}: {why}"),
            )
        };
        let connected = tokio::time::timeout(settings.connect_timeout, connect).await;
        let late = || failed(format!("no answer within {:?}", settings.connect_timeout));
        let (sender, driver) = connected.map_err(|_| late())?.map_err(failed)?;
        let name = address.to_string();
        let refused = Arc::new(AtomicBool::new(false));
        let told = refused.clone();
        let driver = self.handle.spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(server = name, error = describe(&error), "connection ended");
                told.store(is_refusal(error), Ordering::Release);
            }
        });
        Ok(Connection {
            sender,
            line: Arc::new(Line {
                driver: AbortOnDropHandle::new(driver),
                refused,
                used: Mutex::new(Instant::now()),
            }),
        })
    }
}

/// Connects to this address, and makes the connection secure.
async fn reach(address: &str, tls: Option<&Connector>) -> Result<Io, Failed> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    match tls {
        Some(tls) => tls.secure(address, stream).await,
        None => Ok(Io::Plain(stream)),
    }
}

impl Connection {
    fn has_room(&self) -> bool {
        Arc::strong_count(&self.line) <= STREAMS
    }

    fn is_idle(&self, limit: Duration) -> bool {
        Arc::strong_count(&self.line) == 1 && self.line.used.lock().elapsed() >= limit
    }
}

// === impl Table ===

impl Table {
    /// Closes connections that nobody has used for so long, until the client is gone.
    async fn sweep(table: Weak<Self>, idle: Duration) {
        loop {
            tokio::time::sleep((idle / 4).max(Duration::from_millis(10))).await;
            let Some(table) = table.upgrade() else {
                return;
            };
            // A locked slot is in use. A free one stays free while the table is locked.
            table.bulk.lock().retain(|_, slot| {
                let Ok(mut open) = slot.try_lock() else {
                    return true;
                };
                open.open.retain(|connection| {
                    !connection.sender.is_closed() && !connection.is_idle(idle)
                });
                !open.open.is_empty() || Arc::strong_count(slot) > 1
            });
            let mut control = table.control.lock();
            control.retain(|_, control| control.used.elapsed() < idle);
            drop(control);
            table.servers.lock().retain(|_, server| {
                let seen = [server.down, server.refused, server.waited_for];
                seen.into_iter().any(|when| is_recent(when, FORGET))
            });
        }
    }
}

fn is_recent(when: Option<Instant>, within: Duration) -> bool {
    when.is_some_and(|when| when.elapsed() < within)
}

// === impl Lane ===

impl Lane {
    /// Opens the stream: sends what `body` yields and waits for the start of the answer. A call
    /// that is refused is a failure here.
    pub(crate) async fn call(
        &mut self,
        body: Outgoing,
    ) -> Result<MessageReader<Incoming>, Failure> {
        let method = match self.call {
            Bulk::Push => "Push",
            Bulk::Fetch => "Fetch",
        };
        let request = http::Request::post(format!(
            "{}://{}/forebay.v1.Data/{method}",
            self.scheme, self.address
        ))
        .header(http::header::CONTENT_TYPE, "application/grpc")
        .header(http::header::TE, "trailers")
        .body(RopeBody::request(body))
        .map_err(|_| {
            Failure::new(
                Kind::Invalid,
                format!("server address is {:?}: write host:port", self.address),
            )
        })?;
        if let Err(error) = self.sender.ready().await {
            return Err(broken(&self.address, &self.line, error).await);
        }
        let response = match self.sender.send_request(request).await {
            Ok(response) => response,
            Err(error) => return Err(broken(&self.address, &self.line, error).await),
        };
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

impl Drop for Lane {
    fn drop(&mut self) {
        *self.line.used.lock() = Instant::now();
    }
}

/// Whether a server ended a connection at its limit of connections: reason `ENHANCE_YOUR_CALM`,
/// gRPC's `Busy`.
fn is_refusal(error: hyper::Error) -> bool {
    Kind::of(&Status::from_error(Box::new(error))) == Kind::Busy
}

/// Why no call can be made on a connection.
async fn broken(address: &str, line: &Line, error: hyper::Error) -> Failure {
    let what = describe(&error);
    let mut refused = is_refusal(error);
    // The server's last word (GOAWAY, say) reaches the task that drives the connection and ends
    // about now; the cut-off call does not carry it.
    for _ in 0..LAST_WORD {
        if refused || line.driver.is_finished() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    refused |= line.refused.load(Ordering::Acquire);
    if !refused {
        let message = format!("connection to {address} broke: {what}");
        return Failure::new(Kind::Unavailable, message);
    }
    let message = format!(
        "{address} has as many connections as it may (--max-connections, or those of one peer): {what}"
    );
    Failure {
        answered: true,
        ..Failure::new(Kind::Busy, message)
    }
}

/// Meaning of a stream's end without its last message.
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
