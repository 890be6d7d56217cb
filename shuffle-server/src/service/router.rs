//! From a request to who answers it: `Push` and `Fetch` by hand, everything else by generated tonic
//! services.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{
    FutureExt, Stream,
    future::{self, BoxFuture},
};
use http::{Method, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use hyper::body::{Incoming, SizeHint};
use shuffle_proto::{
    FILE_DESCRIPTOR_SET,
    frame::{Rope, RopeBody, empty_body, rope_body},
    kind::Kind,
    v1::control_server::ControlServer,
};
use tonic::{Status, service::Routes};
use tonic_health::{ServingStatus, server::HealthReporter};
use tower::Service as _;

use super::{
    caller::Peer,
    connections::{Call, Connection},
    control::Control,
    fetch, push,
};
use crate::{
    core::{
        Core,
        peers::{Share, group},
    },
    metrics::Limit,
    tls::PeerIdentity,
};

/// Bodies of all answers.
pub(super) type Body = UnsyncBoxBody<Rope, Box<dyn std::error::Error + Send + Sync>>;

const PUSH: &str = "/forebay.v1.Data/Push";
const FETCH: &str = "/forebay.v1.Data/Fetch";
/// When a peer with too many calls may come back.
const PAUSE: Duration = Duration::from_secs(1);
/// Bytes of a control call: a token and a few numbers.
const MAX_CALL: usize = 64 << 10;

/// The generated services, and the handle with which health is told.
pub(crate) async fn generated(core: Arc<Core>) -> (Routes, HealthReporter) {
    let (reporter, health) = tonic_health::server::health_reporter();
    for service in ["forebay.v1.Data", "forebay.v1.Control"] {
        reporter
            .set_service_status(service, ServingStatus::Serving)
            .await;
    }
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("the descriptors were made by this build");
    let routes = Routes::new(ControlServer::new(Control::new(core)))
        .add_service(health)
        .add_service(reflection);
    (routes.prepare(), reporter)
}

/// Says to health checks that nothing new should come here.
pub(crate) async fn not_serving(reporter: &HealthReporter) {
    for service in ["", "forebay.v1.Data", "forebay.v1.Control"] {
        reporter
            .set_service_status(service, ServingStatus::NotServing)
            .await;
    }
}

/// Answers the requests of one connection.
#[derive(Clone)]
pub(super) struct Router {
    core: Arc<Core>,
    routes: Routes,
    peer: SocketAddr,
    identity: PeerIdentity,
    connection: Arc<Connection>,
}

impl Router {
    pub(super) fn new(
        core: Arc<Core>,
        routes: Routes,
        peer: SocketAddr,
        identity: PeerIdentity,
        connection: Arc<Connection>,
    ) -> Self {
        Self {
            core,
            routes,
            peer,
            identity,
            connection,
        }
    }

    /// What a call holds while it runs; a refusal if its peer runs too many, or calls too often.
    fn admit(&self, path: &str) -> Result<(Share, Call), Status> {
        let streams = self.core.bounds.streams.take(self.peer.ip());
        let share = streams.map_err(|_| {
            self.core.limit(Limit::StreamsPerPeer, Some(self.peer));
            let message = format!(
                "{} runs as many calls here as max-streams-per-peer allows: come back later, or raise it at the server",
                self.peer.ip()
            );
            Kind::Busy.status(message, Some(PAUSE))
        })?;
        if ![PUSH, FETCH].contains(&path) {
            let calls = &self.core.bounds.calls;
            calls
                .take(group(self.peer.ip()), Instant::now())
                .map_err(|wait| {
                    self.core.limit(Limit::Control, Some(self.peer));
                    let message = format!("{} makes too many control calls: wait", self.peer.ip());
                    Kind::Busy.status(message, Some(wait))
                })?;
        }
        Ok((share, self.connection.call()))
    }
}

impl hyper::service::Service<Request<Incoming>> for Router {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let held = match self.admit(request.uri().path()) {
            Ok(held) => held,
            Err(status) => return future::ready(Ok(refused(&status))).boxed(),
        };
        let answer = self.answer(request);
        let held = move |body: Body| {
            let body = Held { body, _held: held };
            body.boxed_unsync()
        };
        answer
            .map(|answer| answer.map(|answer| answer.map(held)))
            .boxed()
    }
}

impl Router {
    fn answer(
        &self,
        mut request: Request<Incoming>,
    ) -> BoxFuture<'static, Result<Response<Body>, Infallible>> {
        match request.uri().path() {
            PUSH => {
                let answer = bulk(request, |body| {
                    push::serve(self.core.clone(), self.peer, body)
                });
                future::ready(Ok(answer)).boxed()
            }
            FETCH => {
                let answer = bulk(request, |body| {
                    fetch::serve(self.core.clone(), self.peer, body)
                });
                future::ready(Ok(answer)).boxed()
            }
            _ => {
                request.extensions_mut().insert(Peer(self.peer));
                request.extensions_mut().insert(self.identity.clone());
                // A stream of questions may stay open.
                let patience = match request.uri().path().starts_with("/grpc.reflection.") {
                    true => Duration::from_secs(600),
                    false => self.core.pace.opening,
                };
                let answer = self
                    .routes
                    .clone()
                    .call(request.map(|body| Small::new(body, patience)));
                answer
                    .map(|answer| {
                        answer.map(|answer| {
                            answer.map(|body| rope_body(body).map_err(Into::into).boxed_unsync())
                        })
                    })
                    .boxed()
            }
        }
    }
}

/// A gRPC answer whose messages `serve` makes.
fn bulk<S>(request: Request<Incoming>, serve: impl FnOnce(Incoming) -> S) -> Response<Body>
where
    S: Stream<Item = Result<Rope, Status>> + Unpin + Send + 'static,
{
    let content_type = request.headers().get(header::CONTENT_TYPE);
    let is_grpc =
        content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    let refusal = match (request.method() == Method::POST, is_grpc) {
        (true, true) => None,
        (false, _) => Some(StatusCode::METHOD_NOT_ALLOWED),
        (true, false) => Some(StatusCode::UNSUPPORTED_MEDIA_TYPE),
    };
    if let Some(status) = refusal {
        let mut answer = Response::new(empty_body().map_err(|never| match never {}).boxed_unsync());
        *answer.status_mut() = status;
        return answer;
    }
    let body = RopeBody::response(serve(request.into_body()));
    let mut answer = Response::new(body.map_err(Into::into).boxed_unsync());
    answer.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/grpc"),
    );
    answer
}

/// An answer that is a refusal alone.
fn refused(status: &Status) -> Response<Body> {
    let mut answer = Response::new(empty_body().map_err(|never| match never {}).boxed_unsync());
    answer.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/grpc"),
    );
    // Without it the client has nothing to go by but the end of the stream, which it takes for a
    // broken one.
    let _ = status.add_header(answer.headers_mut());
    answer
}

/// A body that holds something until it has ended.
struct Held<T> {
    body: Body,
    _held: T,
}

impl<T: Unpin> http_body::Body for Held<T> {
    type Data = Rope;
    type Error = <Body as http_body::Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Rope>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of a control call: small, and here at once. What else comes would be kept until the
/// peer goes.
struct Small {
    body: Incoming,
    left: usize,
    patience: Duration,
    over: Pin<Box<tokio::time::Sleep>>,
}

impl Small {
    fn new(body: Incoming, patience: Duration) -> Self {
        Self {
            body,
            left: MAX_CALL,
            patience,
            over: Box::pin(tokio::time::sleep(patience)),
        }
    }
}

impl http_body::Body for Small {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            ready!(self.over.as_mut().poll(cx));
            let message = format!(
                "request is not whole after {:?}: send it at once",
                self.patience
            );
            return Poll::Ready(Some(Err(Kind::Unavailable.status(message, None).into())));
        };
        let Some(frame) = frame.transpose()? else {
            return Poll::Ready(None);
        };
        let count = frame.data_ref().map_or(0, Bytes::len);
        match self.left.checked_sub(count) {
            Some(left) => self.left = left,
            None => {
                let message = format!("request is more than {MAX_CALL} bytes: send less");
                return Poll::Ready(Some(Err(Kind::Invalid.status(message, None).into())));
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
