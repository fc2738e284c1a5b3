//! What each route does: one call into the [`Daemon`](crate::daemon::Daemon), under a lock that no `await` outlives.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Extension, Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures::stream;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use switch_core::id::PortId;

use super::auth::Peer;
use super::extract::{ApiFailure, Document, Params};
use super::model::{
    ApplyReport, ApplyRequest, ConfigDocument, EventRow, Flushed, GroupRow, HistoryRow, ImportReport,
    MacEdit, MacFlush, MacRow, PortDetail, PortDocument, PortEdit, PortRow, PortStats, RollbackRequest,
    TeamRow, TraceReport, TraceRequest, Tree, UplinkDetail, UplinkRow, Version, WorkerRow,
};
use crate::capture::{Writer, next_piece};
use crate::config::schema;
use crate::daemon::{Request, Shared};
use crate::events::EventLog;
use crate::metrics::Metrics;

/// What the handlers work on.
#[derive(Clone)]
pub struct App {
    /// The daemon.
    pub daemon: Shared,
    /// Its events, which need no lock on it.
    pub events: Arc<EventLog>,
    /// Its metrics.
    pub metrics: Arc<Metrics>,
}

type Answer<T> = Result<Json<T>, ApiFailure>;

/// `GET /v1/healthz`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Health {
    /// Always `ok`; a daemon that is not does not answer.
    pub status: String,
    /// Generation of the configuration in force.
    pub generation: u64,
}

pub(super) async fn version(State(app): State<App>) -> Json<Version> {
    Json(app.daemon.lock().version())
}

pub(super) async fn health(State(app): State<App>) -> Json<Health> {
    Json(Health {
        status: "ok".to_owned(),
        generation: app.daemon.lock().version().generation,
    })
}

pub(super) async fn metrics(State(app): State<App>) -> Result<Response, ApiFailure> {
    let text = app
        .metrics
        .encode()
        .map_err(|error| ApiFailure::internal(format!("the metrics cannot be written: {error}")))?;
    Ok(([(CONTENT_TYPE, Metrics::CONTENT_TYPE)], text).into_response())
}

pub(super) async fn openapi() -> Json<serde_json::Value> {
    Json(super::openapi::document())
}

pub(super) async fn config_schema() -> Json<serde_json::Value> {
    Json(schema::schema())
}

pub(super) async fn config(State(app): State<App>) -> Json<ConfigDocument> {
    Json(app.daemon.lock().config_document())
}

pub(super) async fn put_config(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    Document(wanted): Document<ApplyRequest>,
) -> Answer<ApplyReport> {
    let comment = match &wanted.comment {
        Some(comment) => one_line(comment),
        None => one_line(&format!("apply {}", wanted.name)),
    };
    let request = Request {
        author: peer.author(),
        comment,
        dry_run: wanted.dry_run,
        confirm: wanted.confirm_seconds.map(Duration::from_secs),
    };
    Ok(Json(app.daemon.lock().apply_text(&wanted.text, request)?))
}

/// Longest word for the history, characters.
const LONGEST_COMMENT: usize = 200;

/// A client's words as they may stand in the history and in logs.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|character| if character.is_control() { ' ' } else { character })
        .take(LONGEST_COMMENT)
        .collect()
}

pub(super) async fn confirm(State(app): State<App>) -> Answer<ApplyReport> {
    Ok(Json(app.daemon.lock().confirm()?))
}

pub(super) async fn rollback(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    Document(wanted): Document<RollbackRequest>,
) -> Answer<ApplyReport> {
    let mut daemon = app.daemon.lock();
    Ok(Json(daemon.rollback(wanted.generation, peer.author())?))
}

pub(super) async fn history(State(app): State<App>) -> Answer<Vec<HistoryRow>> {
    Ok(Json(app.daemon.lock().history()?))
}

pub(super) async fn history_entry(
    State(app): State<App>,
    Path(generation): Path<String>,
) -> Answer<ConfigDocument> {
    let Ok(generation) = generation.parse() else {
        return Err(ApiFailure::bad_request(format!(
            "`{generation}` is not a generation: a number is expected"
        )));
    };
    Ok(Json(app.daemon.lock().history_entry(generation)?))
}

pub(super) async fn show(State(app): State<App>) -> Json<Tree> {
    Json(app.daemon.lock().show())
}

pub(super) async fn ports(State(app): State<App>) -> Json<Vec<PortRow>> {
    Json(app.daemon.lock().port_rows())
}

pub(super) async fn port(State(app): State<App>, Path(name): Path<String>) -> Answer<PortDetail> {
    Ok(Json(app.daemon.lock().port_detail(&name)?))
}

pub(super) async fn workers(State(app): State<App>) -> Json<Vec<WorkerRow>> {
    Json(app.daemon.lock().worker_rows())
}

pub(super) async fn export_port(State(app): State<App>, Path(name): Path<String>) -> Answer<PortDocument> {
    Ok(Json(app.daemon.lock().export_port(&name)?))
}

pub(super) async fn import_port(
    State(app): State<App>,
    Path(name): Path<String>,
    Document(document): Document<PortDocument>,
) -> Answer<ImportReport> {
    Ok(Json(app.daemon.lock().import_port(&name, document)?))
}

pub(super) async fn add_port(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    Document(edit): Document<PortEdit>,
) -> Answer<ApplyReport> {
    Ok(Json(app.daemon.lock().add_port(&edit, peer.author())?))
}

pub(super) async fn set_port(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    Path(name): Path<String>,
    Document(edit): Document<PortEdit>,
) -> Answer<ApplyReport> {
    Ok(Json(app.daemon.lock().set_port(&name, &edit, peer.author())?))
}

pub(super) async fn delete_port(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    Path(name): Path<String>,
) -> Answer<ApplyReport> {
    Ok(Json(app.daemon.lock().delete_port(&name, peer.author())?))
}

pub(super) async fn stats(State(app): State<App>) -> Json<Vec<PortStats>> {
    Json(app.daemon.lock().stats())
}

pub(super) async fn port_stats(State(app): State<App>, Path(name): Path<String>) -> Answer<PortStats> {
    Ok(Json(app.daemon.lock().port_stats(&name)?))
}

pub(super) async fn groups(State(app): State<App>) -> Json<Vec<GroupRow>> {
    Json(app.daemon.lock().group_rows())
}

pub(super) async fn uplinks(State(app): State<App>) -> Json<Vec<UplinkRow>> {
    Json(app.daemon.lock().uplink_rows())
}

pub(super) async fn uplink(State(app): State<App>, Path(name): Path<String>) -> Answer<UplinkDetail> {
    Ok(Json(app.daemon.lock().uplink_detail(&name)?))
}

pub(super) async fn teams(State(app): State<App>) -> Json<Vec<TeamRow>> {
    Json(app.daemon.lock().team_rows())
}

pub(super) async fn team(State(app): State<App>, Path(group): Path<String>) -> Answer<TeamRow> {
    Ok(Json(app.daemon.lock().team_row(&group)?))
}

pub(super) async fn group(State(app): State<App>, Path(name): Path<String>) -> Answer<GroupRow> {
    Ok(Json(app.daemon.lock().group_row(&name)?))
}

pub(super) async fn macs(State(app): State<App>) -> Json<Vec<MacRow>> {
    Json(app.daemon.lock().mac_rows())
}

pub(super) async fn add_mac(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    Document(edit): Document<MacEdit>,
) -> Answer<ApplyReport> {
    Ok(Json(app.daemon.lock().add_mac(&edit, peer.author())?))
}

pub(super) async fn delete_mac(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    Document(edit): Document<MacEdit>,
) -> Answer<ApplyReport> {
    Ok(Json(app.daemon.lock().delete_mac(&edit, peer.author())?))
}

pub(super) async fn flush_macs(
    State(app): State<App>,
    Document(flush): Document<MacFlush>,
) -> Answer<Flushed> {
    Ok(Json(app.daemon.lock().flush_macs(&flush)?))
}

pub(super) async fn trace(
    State(app): State<App>,
    Document(request): Document<TraceRequest>,
) -> Answer<TraceReport> {
    Ok(Json(app.daemon.lock().trace(&request)?))
}

/// The query of `GET /v1/events`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct EventsQuery {
    #[serde(default)]
    follow: bool,
    /// RFC 3339, or a span such as `5m` that ends now.
    since: Option<String>,
}

impl EventsQuery {
    fn since(&self) -> Result<Option<SystemTime>, ApiFailure> {
        let Some(text) = &self.since else { return Ok(None) };
        if let Ok(time) = humantime::parse_rfc3339_weak(text) {
            return Ok(Some(time));
        }
        let span = humantime::parse_duration(text).map_err(|_| {
            ApiFailure::bad_request(format!(
                "`since={text}` is neither a time such as 2026-01-31T12:00:00Z nor a span such as 5m"
            ))
        })?;
        Ok(SystemTime::now().checked_sub(span))
    }
}

pub(super) async fn events(
    State(app): State<App>,
    Params(query): Params<EventsQuery>,
) -> Result<Response, ApiFailure> {
    let log = app.events;
    let mut cursor = log.follow(query.since()?);
    let kept = lines(&log.take(&mut cursor));
    let body = if query.follow {
        let rest = stream::unfold((log, cursor), |(log, mut cursor)| async move {
            cursor.changed().await;
            let piece = lines(&log.take(&mut cursor));
            Some((Ok::<_, std::convert::Infallible>(piece), (log, cursor)))
        });
        let first = stream::once(std::future::ready(Ok(kept)));
        Body::from_stream(futures::StreamExt::chain(first, rest))
    } else {
        Body::from(kept)
    };
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

fn lines(rows: &[EventRow]) -> Bytes {
    let mut text = Vec::new();
    for row in rows {
        // A row is made of texts, which can always be written.
        if serde_json::to_writer(&mut text, row).is_ok() {
            text.push(b'\n');
        }
    }
    text.into()
}

/// The query of `GET /v1/capture`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct CaptureQuery {
    port: Option<String>,
    #[serde(default)]
    drops: bool,
    #[serde(default = "CaptureQuery::whole")]
    snap_len: u32,
}

impl CaptureQuery {
    /// Longest copy of a frame, octets.
    const LONGEST: u32 = 256 * 1024;

    fn whole() -> u32 {
        Self::LONGEST
    }
}

pub(super) async fn capture(
    State(app): State<App>,
    Params(query): Params<CaptureQuery>,
) -> Result<Response, ApiFailure> {
    if query.snap_len == 0 || query.snap_len > CaptureQuery::LONGEST {
        return Err(ApiFailure::bad_request(format!(
            "`snap-len` is from 1 to {}",
            CaptureQuery::LONGEST
        )));
    }
    let capture = app
        .daemon
        .lock()
        .capture(query.port.as_deref(), query.drops, query.snap_len)?;
    let writer = Writer::new(query.snap_len).map_err(|error| ApiFailure::internal(error.to_string()))?;
    let pieces = stream::unfold(
        (capture, writer, app.daemon),
        |(capture, mut writer, daemon)| async move {
            let name = |port: PortId| daemon.lock().port_name(port);
            match next_piece(&capture, &mut writer, &name).await {
                Ok(piece) => Some((
                    Ok::<_, std::io::Error>(Bytes::from(piece)),
                    (capture, writer, daemon),
                )),
                Err(error) => {
                    tracing::error!("a capture ends: {error}");
                    None
                }
            }
        },
    );
    let body = Body::from_stream(pieces);
    Ok(([(CONTENT_TYPE, "application/x-pcapng")], body).into_response())
}
