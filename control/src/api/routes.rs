//! The table of all routes, from which the router and the OpenAPI document are made.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::from_fn;
use axum::routing::{MethodFilter, MethodRouter, on};
use schemars::{Schema, SchemaGenerator};

use super::auth::require_change;
use super::extract::ApiFailure;
use super::handlers::{self as h, App, Health};
use super::model as m;

/// Largest body of a request, octets: a configuration with all the ports there can be.
pub const BODY_LIMIT: usize = 16 << 20;

/// Who may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody who reaches the socket.
    Read,
    /// Those who may change things.
    Change,
}

/// A parameter of a route's query.
#[derive(Clone, Copy, Debug)]
pub struct Param {
    /// Its name.
    pub name: &'static str,
    /// `string`, `boolean` or `integer`.
    pub kind: &'static str,
    /// What it is for.
    pub help: &'static str,
}

/// The schema of a body.
pub type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// What a route answers with.
#[derive(Clone, Copy)]
pub enum Output {
    /// A JSON document.
    Json(SchemaOf),
    /// Something else: its content type.
    Other(&'static str),
}

/// A route.
pub struct Route {
    /// Its method.
    pub method: Method,
    /// Its path, names in braces.
    pub path: &'static str,
    /// Who may ask.
    pub access: Access,
    /// What it does.
    pub help: &'static str,
    /// Its query.
    pub query: &'static [Param],
    /// The document in its body.
    pub input: Option<SchemaOf>,
    /// What it answers with.
    pub output: Output,
    handler: MethodRouter<App>,
}

fn of<T: schemars::JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

fn any(_: &mut SchemaGenerator) -> Schema {
    Schema::from(true)
}

macro_rules! routes {
    ($($method:ident $path:literal $access:ident $([$input:ty])? -> $output:expr, $handler:expr,
        $help:literal $(, query $query:expr)?;)+) => {
        /// All routes.
        pub fn routes() -> Vec<Route> {
            vec![$(Route {
                method: Method::$method,
                path: $path,
                access: Access::$access,
                help: $help,
                query: { const NONE: &[Param] = &[]; let _ = NONE; routes!(@query $($query)?) },
                input: routes!(@input $($input)?),
                output: $output,
                handler: on(MethodFilter::$method, $handler),
            }),+]
        }
    };
    (@query) => { &[] };
    (@query $query:expr) => { $query };
    (@input) => { None };
    (@input $input:ty) => { Some(of::<$input>) };
}

const EVENTS_QUERY: &[Param] = &[
    Param {
        name: "follow",
        kind: "boolean",
        help: "Go on with what happens from now on.",
    },
    Param {
        name: "since",
        kind: "string",
        help: "Only what happened since this time (RFC 3339) or within this span (such as 5m).",
    },
];

const CAPTURE_QUERY: &[Param] = &[
    Param {
        name: "port",
        kind: "string",
        help: "Only frames of this port.",
    },
    Param {
        name: "drops",
        kind: "boolean",
        help: "Only frames that are dropped.",
    },
    Param {
        name: "snap-len",
        kind: "integer",
        help: "How many octets of each frame to keep.",
    },
];

routes! {
    GET "/v1/version" Read -> Output::Json(of::<m::Version>), h::version,
        "The daemon and the generation in force.";
    GET "/v1/config" Read -> Output::Json(of::<m::ConfigDocument>), h::config,
        "The configuration in force.";
    PUT "/v1/config" Change [m::ApplyRequest] -> Output::Json(of::<m::ApplyReport>), h::put_config,
        "Applies a whole configuration.";
    POST "/v1/confirm" Change -> Output::Json(of::<m::ApplyReport>), h::confirm,
        "Keeps the configuration that waits for its confirmation.";
    GET "/v1/history" Read -> Output::Json(of::<Vec<m::HistoryRow>>), h::history,
        "The generations that are kept, newest first.";
    GET "/v1/history/{generation}" Read -> Output::Json(of::<m::ConfigDocument>), h::history_entry,
        "The configuration of one generation.";
    POST "/v1/rollback" Change [m::RollbackRequest] -> Output::Json(of::<m::ApplyReport>), h::rollback,
        "Applies an older generation again, as a new one; takes an unconfirmed one back.";
    GET "/v1/show" Read -> Output::Json(of::<m::Tree>), h::show,
        "The whole switch as a tree.";
    GET "/v1/ports" Read -> Output::Json(of::<Vec<m::PortRow>>), h::ports,
        "All ports.";
    POST "/v1/ports" Change [m::PortEdit] -> Output::Json(of::<m::ApplyReport>), h::add_port,
        "Adds a port to the configuration.";
    GET "/v1/ports/{name}" Read -> Output::Json(of::<m::PortDetail>), h::port,
        "One port with its settings and counters.";
    PATCH "/v1/ports/{name}" Change [m::PortEdit] -> Output::Json(of::<m::ApplyReport>), h::set_port,
        "Changes keys of a port in the configuration; null removes a key.";
    DELETE "/v1/ports/{name}" Change -> Output::Json(of::<m::ApplyReport>), h::delete_port,
        "Removes a port from the configuration.";
    GET "/v1/stats" Read -> Output::Json(of::<Vec<m::PortStats>>), h::stats,
        "The counters of all ports.";
    GET "/v1/ports/{name}/stats" Read -> Output::Json(of::<m::PortStats>), h::port_stats,
        "The counters of one port.";
    GET "/v1/ports/{name}/export" Read -> Output::Json(of::<m::PortDocument>), h::export_port,
        "What of a port goes with its guest to another host.";
    POST "/v1/ports/{name}/import" Change [m::PortDocument] -> Output::Json(of::<m::ImportReport>), h::import_port,
        "Takes over the state of a port from another host.";
    GET "/v1/workers" Read -> Output::Json(of::<Vec<m::WorkerRow>>), h::workers,
        "The threads that move frames, and how busy they are.";
    GET "/v1/groups" Read -> Output::Json(of::<Vec<m::GroupRow>>), h::groups,
        "All port groups.";
    GET "/v1/groups/{name}" Read -> Output::Json(of::<m::GroupRow>), h::group,
        "One port group; SWITCH%2FNAME where two switches have groups of one name.";
    GET "/v1/uplinks" Read -> Output::Json(of::<Vec<m::UplinkRow>>), h::uplinks,
        "All uplinks.";
    GET "/v1/uplinks/{name}" Read -> Output::Json(of::<m::UplinkDetail>), h::uplink,
        "One uplink with its settings and counters.";
    GET "/v1/teams" Read -> Output::Json(of::<Vec<m::TeamRow>>), h::teams,
        "How the ports of each group share the uplinks.";
    GET "/v1/teams/{group}" Read -> Output::Json(of::<m::TeamRow>), h::team,
        "How the ports of one group share the uplinks; SWITCH%2FNAME where two switches have groups of one name.";
    GET "/v1/macs" Read -> Output::Json(of::<Vec<m::MacRow>>), h::macs,
        "The MAC tables.";
    POST "/v1/macs" Change [m::MacEdit] -> Output::Json(of::<m::ApplyReport>), h::add_mac,
        "Adds a static MAC entry to the configuration.";
    DELETE "/v1/macs" Change [m::MacEdit] -> Output::Json(of::<m::ApplyReport>), h::delete_mac,
        "Removes a static MAC entry from the configuration.";
    POST "/v1/macs/flush" Change [m::MacFlush] -> Output::Json(of::<m::Flushed>), h::flush_macs,
        "Removes learnt MAC addresses.";
    POST "/v1/trace" Read [m::TraceRequest] -> Output::Json(of::<m::TraceReport>), h::trace,
        "What would happen to a frame, step by step, and why.";
    GET "/v1/events" Read -> Output::Other("application/x-ndjson"), h::events,
        "What happened: one JSON document per line.", query EVENTS_QUERY;
    GET "/v1/capture" Change -> Output::Other("application/x-pcapng"), h::capture,
        "Frames as pcapng, until the client closes the connection.", query CAPTURE_QUERY;
    GET "/v1/openapi.json" Read -> Output::Json(any), h::openapi,
        "This API as an OpenAPI 3.1 document.";
    GET "/v1/schema" Read -> Output::Json(any), h::config_schema,
        "The configuration file as a JSON Schema.";
    GET "/v1/healthz" Read -> Output::Json(of::<Health>), h::health,
        "Whether the daemon answers.";
    GET "/v1/metrics" Read -> Output::Other(crate::metrics::Metrics::CONTENT_TYPE), h::metrics,
        "The metrics in the Prometheus text format.";
}

/// The API on the Unix socket. Each request must carry a [`Peer`](super::auth::Peer) extension.
pub fn router(app: App) -> Router {
    let mut router = Router::new();
    for route in routes() {
        let handler = match route.access {
            Access::Read => route.handler,
            Access::Change => route.handler.layer(from_fn(require_change)),
        };
        router = router.route(route.path, handler);
    }
    with_fallbacks(router).with_state(app)
}

/// What Prometheus may ask over TCP.
pub fn metrics_router(app: App) -> Router {
    let router = Router::new()
        .route("/metrics", on(MethodFilter::GET, h::metrics))
        .route("/healthz", on(MethodFilter::GET, h::health));
    with_fallbacks(router).with_state(app)
}

fn with_fallbacks(router: Router<App>) -> Router<App> {
    router
        .fallback(|uri: Uri| async move {
            let error = format!(
                "there is no {}; GET /v1/openapi.json says what there is",
                uri.path()
            );
            ApiFailure::new(StatusCode::NOT_FOUND, error)
        })
        .method_not_allowed_fallback(|method: Method, uri: Uri| async move {
            let error = format!("{} does not take {method}", uri.path());
            ApiFailure::new(StatusCode::METHOD_NOT_ALLOWED, error)
        })
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
}
