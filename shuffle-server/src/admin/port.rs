//! Connections of the admin port: bounded in number and in time, so that they cannot use up the
//! process' files.
//!
//! A connection on which no request is being answered must get on with it: a head that does not
//! come, an answer that nobody reads and a connection that is kept for later all end after
//! [`STILL`]. One whose answer takes its time (`?wait`, a deletion) stays.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Router, body::Body, extract::ConnectInfo};
use http::Request;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

use super::front::Front;

use crate::{
    auth::roles::Certificate,
    core::peers::Peers,
    tls::{self, Io, Opener, PeerIdentity},
};

/// Connections from other machines, and those of one of them. Probes and Prometheus need a handful.
const NETWORK: (usize, usize) = (256, 64);
/// Bound of connections from this machine, apart from the network's, so that the network locks no
/// operator out.
const LOCAL: usize = 64;
/// A head comes at once.
const HEAD: Duration = Duration::from_secs(10);
/// How long a connection may stay on which nothing is being answered.
const STILL: Duration = Duration::from_secs(30);
/// How often that is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// Bytes of a request's head.
const MAX_HEAD: usize = 16 << 10;
/// Pause after an error of `accept`: out of files, mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers until `shutdown`, and then what is being answered.
pub(super) async fn serve(
    listener: TcpListener,
    opener: Opener,
    router: Router,
    front: Arc<Front>,
    shutdown: CancellationToken,
) {
    let network = Peers::new(NETWORK.0, NETWORK.1);
    let local = Peers::new(usize::MAX, LOCAL);
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection to the admin port could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let of = match peer.ip().to_canonical().is_loopback() {
            true => &local,
            false => &network,
        };
        match of.take(peer.ip()) {
            Ok(share) => {
                let (router, shutdown) = (router.clone(), shutdown.clone());
                let (opener, front) = (opener.clone(), front.clone());
                tasks.spawn(async move {
                    let opened = tokio::time::timeout(HEAD, opener.open(stream));
                    let opened = tokio::select! {
                        opened = opened => opened,
                        () = shutdown.cancelled() => return,
                    };
                    match opened {
                        Ok(Ok((io, identity))) => {
                            connection(io, peer, identity, router, shutdown).await;
                        }
                        Ok(Err(why)) => {
                            let may = || {
                                let core = front.core();
                                core.is_none_or(|core| core.registry.may_log(None))
                            };
                            why.tell(tls::Port::Admin, peer, &front.metrics, may);
                        }
                        Err(_) => {
                            tracing::debug!(%peer, "a connection to the admin port said nothing")
                        }
                    }
                    drop(share);
                });
            }
            Err(_) => front.limit(peer),
        }
    }
    tasks.close();
    tasks.wait().await;
}

/// What happens on a connection.
struct Activity {
    answering: AtomicUsize,
    since: Mutex<Instant>,
}

/// A request that is being answered.
struct Answering(Arc<Activity>);

impl Activity {
    fn begin(self: &Arc<Self>) -> Answering {
        self.answering.fetch_add(1, Ordering::AcqRel);
        Answering(self.clone())
    }

    fn stands_still(&self) -> bool {
        self.answering.load(Ordering::Acquire) == 0 && self.since.lock().elapsed() > STILL
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        *self.0.since.lock() = Instant::now();
        self.0.answering.fetch_sub(1, Ordering::AcqRel);
    }
}

async fn connection(
    io: Io,
    peer: SocketAddr,
    identity: PeerIdentity,
    router: Router,
    shutdown: CancellationToken,
) {
    let activity = Arc::new(Activity {
        answering: AtomicUsize::new(0),
        since: Mutex::new(Instant::now()),
    });
    let service = service_fn(|request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        if let Some(subject) = &identity.certificate_subject {
            let certificate = Certificate(subject.clone());
            request.extensions_mut().insert(certificate);
        }
        let (router, answering) = (router.clone(), activity.begin());
        async move {
            let answer = router.oneshot(request).await;
            drop(answering);
            answer.map_err(|never: Infallible| never)
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD);
    let connection = http.serve_connection(TokioIo::new(io), service);
    let mut connection = std::pin::pin!(connection);
    let mut leaving = false;
    loop {
        tokio::select! {
            result = connection.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(%peer, %error, "a connection to the admin port broke");
                }
                return;
            }
            () = tokio::time::sleep(LOOK) => {
                if activity.stands_still() {
                    tracing::debug!(%peer, "a connection to the admin port stood still");
                    return;
                }
            }
            () = shutdown.cancelled(), if !leaving => {
                leaving = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}
