//! HTTP for people, probes and the tool `forebay`, on a thread of its own and from before volumes
//! are opened ([`front`]). Who may look and who may change something is `admin-auth`'s to say
//! ([`guard`]); a GET changes nothing. Connections are bounded in number and in time ([`port`]).
//!
//! | path | answer |
//! |---|---|
//! | `/livez` | 200 as long as the process answers |
//! | `/readyz` | 200, or 503 with the reasons why nothing new should be sent here: `recovering volume …` while the server starts |
//! | `/metrics` | what Prometheus reads: text 0.0.4, or OpenMetrics 1.0 if `Accept` prefers it |
//! | `/version` | JSON: name, version, commit and its date, protocol |
//! | `/api/v1/status` | JSON: volumes, apps, memory, draining |
//! | `GET /api/v1/apps` | JSON: the apps that hold something here, their shuffles, attempts, and bytes by the level they have reached |
//! | `GET /api/v1/drain` | JSON: step, pushes that run, bytes left to write back, bytes sent, time that these need and time left; with `?wait` once a drain that runs is over |
//! | `POST /api/v1/drain` | starts what SIGTERM starts, and answers the same at once, with `?wait` once that is over; again and again as the first time |
//! | `DELETE` or `POST /api/v1/apps/{app}` | frees all of an app; JSON: bytes, objects |
//! | `DELETE` or `POST /api/v1/apps/{app}/shuffles/{n}` | frees one shuffle |
//!
//! Names in JSON are in snake_case. What is refused is answered with a 4xx or 5xx and JSON: kind,
//! and the error as field, value, remedy.

mod front;
mod guard;
mod port;
mod scrape;

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Extension, Json, Router,
    extract::{ConnectInfo, Path, RawQuery, State},
    http::{HeaderMap, StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{delete, get},
};
use serde_json::json;
use shuffle_proto::{
    ids::{AppId, ShuffleId},
    kind::Kind,
    wire,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{auth::roles::Who, error::Refusal, metrics::text::Format, release, tls::Opener};
pub(crate) use front::{Front, Port};

/// Answers until `shutdown`.
async fn serve(
    listener: TcpListener,
    opener: Opener,
    front: Arc<Front>,
    shutdown: CancellationToken,
) {
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/version", get(version))
        .route("/api/v1/status", get(status))
        .route("/api/v1/apps", get(apps))
        .route("/api/v1/drain", get(progress).post(drain))
        .route("/api/v1/apps/{app}", delete(free_app).post(free_app))
        .route(
            "/api/v1/apps/{app}/shuffles/{shuffle}",
            delete(free_shuffle).post(free_shuffle),
        )
        .with_state(front.clone())
        .layer(middleware::from_fn_with_state(front.clone(), guard::guard));
    port::serve(listener, opener, router, front, shutdown).await;
}

async fn ready(State(front): State<Arc<Front>>) -> impl IntoResponse {
    let (ready, mut reasons) = match front.core() {
        Some(core) => core.readiness(),
        None => (false, front.starts()),
    };
    if ready {
        reasons.insert(0, "ok".to_owned());
    }
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, reasons.join("\n") + "\n")
}

async fn metrics(
    State(front): State<Arc<Front>>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, Refused> {
    let accepted = headers.get_all(header::ACCEPT).iter();
    let format = Format::of(accepted.filter_map(|value| value.to_str().ok()));
    let text = Front::look(move || {
        let state = front.core().map(|core| core.state());
        scrape::render(&front.metrics, state.as_ref(), format)
    });
    let head = [
        (header::CONTENT_TYPE, format.content_type()),
        (header::VARY, "accept"),
    ];
    Ok((head, text.await?))
}

async fn version() -> impl IntoResponse {
    Json(json!({
        "name": "forebay-server",
        "version": release::VERSION,
        "commit": release::commit(),
        "date": release::date(),
        "protocol_min": crate::core::PROTOCOL_MIN,
        "protocol_max": shuffle_proto::PROTOCOL,
    }))
}

async fn status(State(front): State<Arc<Front>>) -> Result<Response, Refused> {
    let core = front.ready()?;
    let state = Front::look(move || core.state()).await?;
    Ok(Json(state).into_response())
}

async fn apps(State(front): State<Arc<Front>>) -> Result<Response, Refused> {
    let core = front.ready()?;
    let apps = Front::look(move || core.apps()).await?;
    Ok(Json(json!({ "apps": apps })).into_response())
}

async fn progress(
    State(front): State<Arc<Front>>,
    RawQuery(query): RawQuery,
) -> Result<Response, Refused> {
    let core = front.ready()?;
    // A drain that nobody asked for is not waited for. One that runs has a deadline, and so has
    // this.
    if waits(query.as_deref())? && core.is_draining() {
        core.drain.over().await;
    }
    let progress = Front::look(move || core.progress()).await?;
    Ok(Json(progress).into_response())
}

fn waits(query: Option<&str>) -> Result<bool, Refused> {
    match query {
        None => Ok(false),
        Some("wait") => Ok(true),
        Some(other) => {
            let message = format!("query is {other:?}: write ?wait, or nothing");
            Err(Refusal::new(Kind::Invalid, message).into())
        }
    }
}

async fn drain(
    State(front): State<Arc<Front>>,
    RawQuery(query): RawQuery,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    who: Option<Extension<Who>>,
) -> Result<Response, Refused> {
    let core = front.ready()?;
    let waits = waits(query.as_deref())?;
    let who = guard::who(who.as_deref());
    tracing::info!(target: "audit", action = "drain", outcome = "done", who, %peer, again = core.is_draining());
    core.drain(format!("the admin port, by {}", peer.ip()));
    // In the same request: a server with nothing to save is gone before another one comes.
    if waits {
        core.drain.over().await;
    }
    let progress = Front::look(move || core.progress()).await?;
    Ok((StatusCode::ACCEPTED, Json(progress)).into_response())
}

async fn free_app(
    State(front): State<Arc<Front>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    who: Option<Extension<Who>>,
    Path(app): Path<String>,
) -> Result<Response, Refused> {
    free(front, guard::who(who.as_deref()), peer, &app, None).await
}

async fn free_shuffle(
    State(front): State<Arc<Front>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    who: Option<Extension<Who>>,
    Path((app, shuffle)): Path<(String, String)>,
) -> Result<Response, Refused> {
    let number = shuffle.parse().map_err(|_| {
        let message = format!(
            "shuffle is {shuffle:?}: write its number, 0 to {}",
            u32::MAX
        );
        Refusal::new(Kind::Invalid, message)
    })?;
    free(
        front,
        guard::who(who.as_deref()),
        peer,
        &app,
        Some(ShuffleId(number)),
    )
    .await
}

async fn free(
    front: Arc<Front>,
    who: &str,
    peer: SocketAddr,
    app: &str,
    shuffle: Option<ShuffleId>,
) -> Result<Response, Refused> {
    let app: AppId = wire::app("app", app).map_err(Refusal::from)?;
    let core = front.ready()?;
    let who = who.to_owned();
    let freeing = front.work(async move {
        let action = match shuffle {
            None => "free-app",
            Some(_) => "free-shuffle",
        };
        let shown = shuffle.map(tracing::field::display);
        let freed = core.free(&app, shuffle).await;
        match &freed {
            Ok(freed) => {
                tracing::info!(target: "audit", action, outcome = "done", who, %peer, %app, shuffle = shown, bytes = freed.bytes, objects = freed.objects)
            }
            Err(error) => {
                tracing::warn!(target: "audit", action, outcome = "failed", who, %peer, %app, shuffle = shown, why = %error)
            }
        }
        freed
    });
    let freed = freeing.await??;
    Ok(Json(freed).into_response())
}

/// A refusal as HTTP says it.
struct Refused(Refusal);

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Self(Refusal { kind, message, .. }) = self;
        let status = match kind {
            Kind::Invalid => StatusCode::BAD_REQUEST,
            Kind::Denied => StatusCode::FORBIDDEN,
            Kind::Lost => StatusCode::NOT_FOUND,
            Kind::Fenced => StatusCode::CONFLICT,
            Kind::Busy => StatusCode::TOO_MANY_REQUESTS,
            Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Kind::Corrupt | Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let body = json!({ "kind": kind.name(), "error": message });
        (status, Json(body)).into_response()
    }
}
