//! The door for people's eyes: HTTPS with a client certificate, read-only.
//!
//! | path | operator | auditor |
//! |---|---|---|
//! | `GET /log/checkpoint`, `/log/tile/..` | yes | yes: the log is for everybody who audits |
//! | `GET /v1/status[?region=R]` | yes | their region |
//! | `GET /metrics` | yes | no |
//!
//! Whatever would change something is 403 for an auditor and 405 for an operator. All else is 403 or 404 with `{"error", "code"}`. The log is served as the static files that it is (C2SP
//! `tlog-tiles`), so that any client of such logs reads it. Commands come over QUIC, signed: never through here.

pub mod access;
mod files;
mod status;

use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use http::{Method, StatusCode, Uri, header};
use proto::ids::RegionId;
use proto::signed::TrustBundle;
use runtime::clock;
use runtime::https::Origin;
use runtime::identity::Role;
use runtime::metrics::{CONTENT_TYPE, Metrics};
use serde::Deserialize;
use serde_json::json;

use crate::ledger::Ledger;
use crate::registry::Registry;
use crate::rollout::conductor::Conductor;
use crate::state::maker::Outbox;
use access::{Door, Refusal, scope};

/// What the pages are made of.
pub struct Pages {
    /// Who is trusted; only the fleet's name is shown.
    pub trust: TrustBundle,
    /// Folder of the log's static files.
    pub log_dir: PathBuf,
    /// The log.
    pub ledger: Ledger,
    /// Rollouts, to say what a wave waits for.
    pub conductor: Conductor,
    /// What nodes told.
    pub registry: Registry,
    /// The newest states.
    pub outbox: Outbox,
    /// All instruments.
    pub metrics: Arc<Metrics>,
}

type Caller = Extension<Arc<Origin>>;

/// The pages as a service.
pub fn router(pages: Pages) -> Router {
    Router::new()
        .route("/log/{*path}", get(log))
        .route("/v1/status", get(show_status))
        .route("/metrics", get(metrics))
        .fallback(elsewhere)
        .method_not_allowed_fallback(elsewhere)
        .with_state(Arc::new(pages))
}

/// No such page, or one that is asked to change something.
async fn elsewhere(caller: Caller, method: Method, path: Uri) -> Response {
    if matches!(method, Method::GET | Method::HEAD) {
        let next = "no such page: see /v1/status, /metrics, /log/checkpoint";
        return refused(StatusCode::NOT_FOUND, "not-found", next);
    }
    if !matches!(caller.role, Some(Role::Operator(_))) {
        let who = caller
            .role
            .as_ref()
            .map_or_else(|| "nobody".to_owned(), ToString::to_string);
        tracing::warn!(who, %method, path = path.path(), "denied");
        return refused(
            StatusCode::FORBIDDEN,
            "forbidden",
            "this certificate changes nothing here",
        );
    }
    let next = "this door only shows: send commands with `fleet`";
    refused(StatusCode::METHOD_NOT_ALLOWED, "read-only", next)
}

async fn log(State(pages): State<Arc<Pages>>, caller: Caller, Path(path): Path<String>) -> Response {
    if let Err(refusal) = scope(caller.role.as_ref(), Door::Log, None) {
        return denied(&refusal);
    }
    let Some(file) = files::parse(&path) else {
        return refused(
            StatusCode::NOT_FOUND,
            "not-found",
            "not a path of a tiled log: checkpoint, tile/<L>/<N>, tile/entries/<N>",
        );
    };
    match tokio::fs::read(pages.log_dir.join(file.relative)).await {
        Ok(bytes) => {
            let headers = [
                (header::CONTENT_TYPE, file.content_type),
                (header::CACHE_CONTROL, file.cache_control),
            ];
            (headers, bytes).into_response()
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => refused(
            StatusCode::NOT_FOUND,
            "not-found",
            "the log has no such tile: see the checkpoint's size",
        ),
        Err(error) => {
            tracing::error!(%error, path, "cannot read the log");
            refused(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "the log cannot be read: see the control plane's log",
            )
        }
    }
}

#[derive(Deserialize)]
struct StatusQuery {
    region: Option<RegionId>,
}

async fn show_status(
    State(pages): State<Arc<Pages>>,
    caller: Caller,
    query: Result<Query<StatusQuery>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let Ok(Query(StatusQuery { region: asked })) = query else {
        return refused(StatusCode::BAD_REQUEST, "malformed", "`region` is not a region's name");
    };
    let region = match scope(caller.role.as_ref(), Door::Status, asked.as_ref()) {
        Ok(region) => region,
        Err(refusal) => return denied(&refusal),
    };
    let made = tokio::task::spawn_blocking(move || status::status(&pages, region.as_ref(), clock::now_ms())).await;
    match made {
        Ok(Some(status)) => Json(status).into_response(),
        Ok(None) => refused(StatusCode::NOT_FOUND, "not-found", "no such region in the log"),
        Err(error) => {
            tracing::error!(%error, "status");
            refused(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "see the control plane's log",
            )
        }
    }
}

async fn metrics(State(pages): State<Arc<Pages>>, caller: Caller) -> Response {
    match scope(caller.role.as_ref(), Door::Metrics, None) {
        Ok(_) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], pages.metrics.encode()).into_response(),
        Err(refusal) => denied(&refusal),
    }
}

/// Who tried what is for the log's readers; the caller learns only the rule.
fn denied(refusal: &Refusal) -> Response {
    tracing::warn!(who = refusal.who, door = ?refusal.door, region = ?refusal.region, "denied");
    refused(StatusCode::FORBIDDEN, "forbidden", refusal.rule)
}

fn refused(status: StatusCode, code: &str, error: &str) -> Response {
    (status, Json(json!({ "error": error, "code": code }))).into_response()
}
