//! HTTP for people and probes. Reads, and changes nothing.
//!
//! | path | answer |
//! |---|---|
//! | `/livez` | 200 as long as the process answers |
//! | `/readyz` | 200, or 503 with the reasons why nothing new should be sent here |
//! | `/metrics` | Prometheus' text |
//! | `/version` | JSON: name, version, protocol |
//! | `/api/v1/status` | JSON: volumes, apps, memory, draining |

use std::{io, sync::Arc};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{metrics::scrape, service::Core};

/// What Prometheus asks for and understands.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers until `shutdown`.
pub(crate) async fn serve(
    listener: TcpListener,
    core: Arc<Core>,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/version", get(version))
        .route("/api/v1/status", get(status))
        .with_state(core);
    axum::serve(listener, router)
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await
}

async fn ready(State(core): State<Arc<Core>>) -> impl IntoResponse {
    let (ready, mut reasons) = core.readiness();
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

async fn metrics(State(core): State<Arc<Core>>) -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, OPEN_METRICS)],
        scrape::render(&core.metrics, &core.state()),
    )
}

async fn version() -> impl IntoResponse {
    Json(json!({
        "name": "forebay-server",
        "version": env!("CARGO_PKG_VERSION"),
        "protocol-min": crate::service::PROTOCOL_MIN,
        "protocol-max": shuffle_proto::PROTOCOL,
    }))
}

async fn status(State(core): State<Arc<Core>>) -> impl IntoResponse {
    Json(core.state())
}
