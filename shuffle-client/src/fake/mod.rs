//! A server in memory that speaks the real protocol on loopback and fails on demand, for tests of
//! this crate's users.
//!
//! Requests come over the wire like at a real server, checked by the same code
//! (`shuffle_proto::wire`). Missing: staging, budgets, tokens, and the choice of attempts in a
//! fetch (all are sent, as by an old server). [`Faults`] are switched on and off at any time.

mod control;
mod service;
mod store;

use std::{collections::HashSet, net::SocketAddr, sync::Arc};

use hyper::{body::Incoming, server::conn::http2::Builder, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::{Mutex, MutexGuard};
use shuffle_proto::{
    http2,
    ids::{AppId, AttemptId, ShuffleId, VolumeId},
};
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use self::store::Store;

/// What goes wrong from now on. All off at the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Cuts the connection of a push after this many payload bytes. Once.
    pub break_push_after: Option<u64>,
    /// Cuts the connection of a fetch after this many payload bytes. Once.
    pub break_fetch_after: Option<u64>,
    /// So many pushes and fetches are answered Busy, asking for a pause of 10 ms.
    pub busy: u32,
    /// So many pushes and fetches are answered Unavailable.
    pub unavailable: u32,
    /// So many pushes are answered Fenced.
    pub fenced: u32,
    /// So many blocks are sent with a flipped bit.
    pub flip: u32,
    /// Unharmed blocks before `flip` counts.
    pub flip_after: u32,
    /// All blocks of this attempt are sent with a flipped bit.
    pub spoilt: Option<AttemptId>,
    /// Fetches and summaries leave this attempt out, like an uncommitted one.
    pub omit: Option<AttemptId>,
    /// The summary calls these attempts lost.
    pub lost: HashSet<AttemptId>,
    /// All blocks of these attempts have a flipped bit until somebody reports one: then the attempt
    /// is lost.
    pub bad: HashSet<AttemptId>,
    /// So many commits are made and then not acknowledged: the connection is cut.
    pub drop_acks: u32,
    /// Calls are taken and never answered, while the connection stays alive.
    pub hang: bool,
    /// Batches are not read: the server holds back.
    pub hold: bool,
    /// Describe says so, and new attempts are refused.
    pub draining: bool,
    /// Begins to drain once this many payload bytes of a push were taken, and ends that push.
    pub drain_push_after: Option<u64>,
    /// The lease ran out: pushes are answered Fenced until the app is registered again.
    pub lease_over: bool,
    /// Leases are refused: the app is known here with another token.
    pub denies: bool,
    /// A cursor is ignored: every fetch starts over.
    pub forget_cursors: bool,
    /// Streams never end, and bring this over and over.
    pub endless: Option<Endless>,
    /// Every fetch with this volume is answered Unavailable: its disk hangs.
    pub hung: Option<VolumeId>,
    /// This volume is served no more: its disk is gone.
    pub unserved: Option<VolumeId>,
}

/// Filling of an endless stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endless {
    /// A fetch of empty messages, one every so often.
    Empty,
    /// A fetch of all its blocks again and again.
    Again,
    /// A fetch of its summary again and again, always with more to come.
    Summary,
    /// A push of acknowledgements of what was not sent.
    Acks,
    /// A push with two Opened.
    Opened,
}

/// Requests to the server since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Open messages.
    pub opens: u64,
    /// Batch messages.
    pub batches: u64,
    /// Commits with a new visible attempt.
    pub commits: u64,
    /// Reasons of Abort messages.
    pub aborts: Vec<String>,
    /// Fetch calls.
    pub fetches: u64,
    /// Open fetch calls.
    pub fetching: u64,
    /// Payload bytes sent to fetches.
    pub fetched_bytes: u64,
    /// Connections accepted.
    pub connections: u64,
    /// RenewLease calls.
    pub renewals: u64,
    /// DeleteShuffle calls.
    pub deleted_shuffles: u64,
    /// DeleteApp calls.
    pub deleted_apps: u64,
    /// Attempts of Verify calls.
    pub reports: Vec<AttemptId>,
}

/// The server. Dropping it stops it.
pub struct Fake {
    address: SocketAddr,
    /// Bound and never listening: the port is nobody else's while the server is stopped.
    _held: TcpSocket,
    inner: Arc<Inner>,
    task: Option<AbortOnDropHandle<()>>,
    stop: CancellationToken,
}

struct Inner {
    instance: String,
    /// Registered apps.
    apps: Mutex<HashSet<AppId>>,
    store: Mutex<Store>,
    faults: Mutex<Faults>,
    counters: Mutex<Counters>,
    /// Payload of one message of a fetch, about.
    message_bytes: Mutex<usize>,
}

impl Fake {
    /// Starts a server with one volume on a free port of loopback.
    pub async fn start() -> Self {
        Self::start_with(1).await
    }

    /// Starts a server with this many volumes; attempts go to them in turn.
    pub async fn start_with(volumes: usize) -> Self {
        let inner = Arc::new(Inner {
            instance: uuid::Uuid::new_v4().to_string(),
            apps: Mutex::default(),
            store: Mutex::new(Store::new(volumes)),
            faults: Mutex::default(),
            counters: Mutex::default(),
            message_bytes: Mutex::new(http2::GROUP),
        });
        let held = TcpSocket::new_v4().expect("a socket can be made");
        held.set_reuseaddr(true).expect("a socket has options");
        held.bind(SocketAddr::from(([127, 0, 0, 1], 0)))
            .expect("a port of loopback is free");
        let mut fake = Self {
            address: held.local_addr().expect("a bound socket has an address"),
            _held: held,
            inner,
            task: None,
            stop: CancellationToken::new(),
        };
        fake.listen().await;
        fake
    }

    /// `127.0.0.1:port`; stays the same over restarts.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The first volume.
    pub fn volume(&self) -> VolumeId {
        self.volumes()[0]
    }

    /// All volumes.
    pub fn volumes(&self) -> Vec<VolumeId> {
        self.inner.store.lock().volumes()
    }

    /// The switches. Do not hold the guard while waiting.
    pub fn faults(&self) -> MutexGuard<'_, Faults> {
        self.inner.faults.lock()
    }

    /// Requests so far.
    pub fn counters(&self) -> Counters {
        self.inner.counters.lock().clone()
    }

    /// Committed attempts of a shuffle, all apps and volumes.
    pub fn attempts(&self, shuffle: ShuffleId) -> Vec<AttemptId> {
        self.inner.store.lock().attempts(shuffle)
    }

    /// Fetches are cut into messages of about so many bytes.
    pub fn set_message_bytes(&self, bytes: usize) {
        *self.inner.message_bytes.lock() = bytes;
    }

    /// Stops listening and cuts all connections; committed attempts stay, others are dropped.
    pub async fn stop(&mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            let _ = task.await;
        }
        self.inner.store.lock().crash();
    }

    /// Listens again, on the same port.
    pub async fn restart(&mut self) {
        if self.task.is_none() {
            self.listen().await;
        }
    }

    /// Replaces the volumes by one new and empty one, like a pod on an empty disk.
    pub fn lose_disk(&self) {
        *self.inner.store.lock() = Store::new(1);
    }

    /// Forgets all apps and their data: their leases ran out.
    pub fn forget_apps(&self) {
        self.inner.apps.lock().clear();
        self.inner.store.lock().clear();
    }

    /// Replaces the volumes by so many new and empty ones.
    pub fn lose_disks(&self, volumes: usize) {
        *self.inner.store.lock() = Store::new(volumes);
    }

    /// Hands all volumes with their data to another server, like a disk attached elsewhere.
    pub fn give_volumes_to(&self, other: &Fake) {
        let volumes = std::mem::replace(&mut *self.inner.store.lock(), Store::new(1));
        other.inner.store.lock().adopt(volumes);
    }

    async fn listen(&mut self) {
        self.stop = CancellationToken::new();
        let listener = bind(self.address).await;
        let (inner, stop) = (self.inner.clone(), self.stop.clone());
        self.task = Some(AbortOnDropHandle::new(tokio::spawn(accept(
            inner, listener, stop,
        ))));
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Old connections may hold the port for a moment after a stop.
async fn bind(address: SocketAddr) -> TcpListener {
    for _ in 0..3000 {
        if let Ok(listener) = TcpListener::bind(address).await {
            return listener;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("cannot listen on {address}");
}

async fn accept(inner: Arc<Inner>, listener: TcpListener, stop: CancellationToken) {
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => continue,
            },
        };
        inner.counters.lock().connections += 1;
        let _ = stream.set_nodelay(true);
        let (inner, cut) = (inner.clone(), stop.child_token());
        tokio::spawn(async move {
            let service = service_fn(|request: http::Request<Incoming>| {
                service::answer(inner.clone(), request, cut.clone())
            });
            let connection = Builder::new(TokioExecutor::new())
                .max_frame_size(http2::MAX_FRAME)
                .initial_stream_window_size(http2::WINDOW)
                .initial_connection_window_size(http2::WINDOW)
                .max_send_buf_size(http2::MAX_SEND_BUFFER)
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                _ = connection => {}
                () = cut.cancelled() => {}
            }
        });
    }
}
