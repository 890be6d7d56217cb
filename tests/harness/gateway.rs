//! An HTTP proxy in front of an object store. Counts requests by verb, and makes trouble with those
//! named by a test.
//!
//! It knows S3's way to say a verb and nothing else of it. Bodies pass whole: none of ours is
//! longer than a part of an upload.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

/// What a request asks of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// A whole object.
    Put,
    /// Begins an upload in parts.
    Begin,
    /// One part.
    Part,
    /// Ends it.
    Complete,
    /// Gives it up.
    Abort,
    /// Some or all of an object.
    Get,
    /// Its length.
    Head,
    /// Removes it.
    Delete,
    /// What there is.
    List,
}

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It does not reach the store; this status is the answer.
    Status(u16),
    /// It reaches the store later.
    Slow(Duration),
    /// The same, also if its sender does not wait for that.
    Late(Duration),
    /// It does not reach the store, and there is no answer.
    Hang,
    /// The store does it; the connection is cut instead of an answer.
    LoseAnswer,
    /// The connection is cut while the body is sent.
    CutBody,
    /// A bit of the body is another when it reaches the store.
    FlipBody,
    /// A bit of the answer's body is another.
    FlipAnswer,
}

#[derive(Default)]
struct State {
    trouble: Option<(Trouble, Vec<Verb>, u64)>,
    struck: u64,
    seen: BTreeMap<Verb, u64>,
}

/// The proxy. Ends with its test, together with all hanging requests.
pub struct Gateway {
    addr: SocketAddr,
    state: Arc<Mutex<State>>,
    accepting: JoinHandle<()>,
}

impl Gateway {
    /// In front of the store there.
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port is free");
        let addr = listener.local_addr().expect("a listener has an address");
        let state = Arc::<Mutex<State>>::default();
        let accepting = tokio::spawn({
            let state = state.clone();
            async move {
                let mut connections = JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    while connections.try_join_next().is_some() {}
                    let state = state.clone();
                    let pass = service_fn(move |request| pass(request, target, state.clone()));
                    connections.spawn(async move {
                        // Broken connections are the purpose of the proxy.
                        let _ = http1::Builder::new()
                            .serve_connection(TokioIo::new(stream), pass)
                            .await;
                    });
                }
            }
        });
        Self {
            addr,
            state,
            accepting,
        }
    }

    /// Where the store seems to be.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Makes trouble with the next so many requests of these verbs; of all verbs, if none is named.
    pub fn trouble(&self, trouble: Trouble, verbs: &[Verb], times: u64) {
        let mut state = lock(&self.state);
        state.trouble = Some((trouble, verbs.to_vec(), times));
        state.struck = 0;
    }

    /// No trouble any more.
    pub fn calm(&self) {
        lock(&self.state).trouble = None;
    }

    /// With how many requests there was trouble.
    pub fn struck(&self) -> u64 {
        lock(&self.state).struck
    }

    /// Requests of a verb since the last [`forget`](Self::forget).
    pub fn seen(&self, verb: Verb) -> u64 {
        lock(&self.state).seen.get(&verb).copied().unwrap_or(0)
    }

    /// Counts from zero again.
    pub fn forget(&self) {
        lock(&self.state).seen.clear();
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn verb(method: &Method, query: &str) -> Verb {
    let has = |name: &str| {
        query
            .split('&')
            .any(|pair| pair.split('=').next() == Some(name))
    };
    match *method {
        Method::PUT if has("partNumber") => Verb::Part,
        Method::PUT => Verb::Put,
        Method::POST if has("uploads") => Verb::Begin,
        // Many with one request.
        Method::POST if has("delete") => Verb::Delete,
        Method::POST => Verb::Complete,
        Method::DELETE if has("uploadId") => Verb::Abort,
        Method::DELETE => Verb::Delete,
        Method::HEAD => Verb::Head,
        _ if has("list-type") => Verb::List,
        _ => Verb::Get,
    }
}

impl State {
    /// Counts a request; answers what happens to it.
    fn judge(&mut self, verb: Verb) -> Option<Trouble> {
        *self.seen.entry(verb).or_default() += 1;
        let (trouble, verbs, times) = self.trouble.as_mut()?;
        if *times == 0 || !(verbs.is_empty() || verbs.contains(&verb)) {
            return None;
        }
        *times -= 1;
        self.struck += 1;
        Some(*trouble)
    }
}

/// An error here closes the connection.
async fn pass(
    request: Request<Incoming>,
    target: SocketAddr,
    state: Arc<Mutex<State>>,
) -> io::Result<Response<Full<Bytes>>> {
    let verb = verb(request.method(), request.uri().query().unwrap_or_default());
    let trouble = lock(&state).judge(verb);
    let (head, mut body) = request.into_parts();
    if trouble == Some(Trouble::CutBody) {
        let _ = body.frame().await;
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    let mut bytes = body.collect().await.map_err(io::Error::other)?.to_bytes();
    match trouble {
        Some(Trouble::Status(status)) => {
            let mut response = Response::new(Full::from("<Error><Code>SlowDown</Code></Error>"));
            *response.status_mut() = StatusCode::from_u16(status).map_err(io::Error::other)?;
            return Ok(response);
        }
        Some(Trouble::Slow(pause)) => tokio::time::sleep(pause).await,
        Some(Trouble::Hang) => return std::future::pending().await,
        Some(Trouble::FlipBody) => bytes = flip(&bytes),
        _ => {}
    }
    let (head, mut bytes) = forward(Request::from_parts(head, bytes), target)
        .await?
        .into_parts();
    match trouble {
        Some(Trouble::LoseAnswer) => return Err(io::ErrorKind::ConnectionReset.into()),
        Some(Trouble::FlipAnswer) => bytes = flip(&bytes),
        _ => {}
    }
    Ok(Response::from_parts(head, Full::new(bytes)))
}

async fn forward(request: Request<Bytes>, target: SocketAddr) -> io::Result<Response<Bytes>> {
    let stream = TokioIo::new(TcpStream::connect(target).await?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream)
        .await
        .map_err(io::Error::other)?;
    // Ends with the response, or with this future.
    let mut driving = JoinSet::new();
    driving.spawn(connection);
    let response = sender
        .send_request(request.map(Full::new))
        .await
        .map_err(io::Error::other)?;
    let (head, body) = response.into_parts();
    let bytes = body.collect().await.map_err(io::Error::other)?.to_bytes();
    Ok(Response::from_parts(head, bytes))
}

fn flip(bytes: &Bytes) -> Bytes {
    let mut bytes = bytes.to_vec();
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 1;
    }
    bytes.into()
}
