//! From a request to who answers it: `Push` and `Fetch` by hand, everything else by generated tonic services.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use futures_util::{
    FutureExt, Stream,
    future::{self, BoxFuture},
};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use shuffle_proto::{
    FILE_DESCRIPTOR_SET,
    frame::{Rope, RopeBody, empty_body, rope_body},
    v1::control_server::ControlServer,
};
use tonic::{Status, service::Routes};
use tonic_health::{ServingStatus, server::HealthReporter};
use tower::Service as _;

use super::{Core, control::Control, fetch, push};

/// Bodies of all answers.
pub(super) type Body = UnsyncBoxBody<Rope, Box<dyn std::error::Error + Send + Sync>>;

/// The client's address, for the log; an extension of every request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) SocketAddr);

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
}

impl Router {
    pub(super) fn new(core: Arc<Core>, routes: Routes, peer: SocketAddr) -> Self {
        Self { core, routes, peer }
    }
}

impl hyper::service::Service<Request<Incoming>> for Router {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        match request.uri().path() {
            "/forebay.v1.Data/Push" => {
                let answer = bulk(request, |body| {
                    push::serve(self.core.clone(), self.peer, body)
                });
                future::ready(Ok(answer)).boxed()
            }
            "/forebay.v1.Data/Fetch" => {
                let answer = bulk(request, |body| {
                    fetch::serve(self.core.clone(), self.peer, body)
                });
                future::ready(Ok(answer)).boxed()
            }
            _ => {
                request.extensions_mut().insert(Peer(self.peer));
                let answer = self.routes.clone().call(request);
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
