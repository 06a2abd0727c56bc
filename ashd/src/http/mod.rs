//! The HTTP edge: parses, authorises, translates. What happens is decided in [`crate::session`].
//!
//! A request passes [`front`] (Host, Origin, key, the hot route; see [`guard`] for the rules), then
//! the router, then one handler, which validates everything before it calls a verb. Errors are
//! `{"error", "statusCode"}`, made in [`error`] alone. Types are not coerced; unknown members and
//! parameters are ignored; an empty body is an empty object.
//!
//! Requests that are no HTTP at all, or whose head is too large, are refused by hyper with a bare
//! status line; everything behind the head gets a JSON body.
//!
//! Clients are counted by their address ([`rate`]); every answer but a stream says in the
//! `x-ratelimit-*` headers what is left. No header is believed about where a request came from.

mod agents;
mod attachments;
mod batch;
mod body;
mod checkpoints;
mod context;
mod cors;
mod create;
mod deploy;
mod detach;
mod error;
mod files;
mod front;
mod guard;
mod health;
mod history;
mod listen;
mod metrics;
mod query;
mod range;
mod rate;
mod sessions;
mod sse;
mod streams;
mod tags;
mod unread;
mod workspace;
mod writing;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::{any, get, post};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::auth::Keys;
use crate::session::Service;

pub use front::{Answering, Cached, Front};
pub use guard::{Guard, Origins};
pub use listen::{ConnectionLimits, run};
pub use metrics::Tally;
pub use rate::{RateLimits, Rates};

use context::Context;
use metrics::Routes;

/// What the edge needs.
#[derive(Clone)]
pub struct App {
    /// The verbs.
    pub service: Service,
    /// Who may call.
    pub keys: Arc<Keys>,
    /// How the edge is configured.
    pub options: Arc<Options>,
}

/// How the edge is configured.
#[derive(Clone, Debug)]
pub struct Options {
    /// Names of this server beside the loopback names and its address, without port.
    pub hosts: Vec<String>,
    /// Which web pages may call.
    pub origins: Origins,
    /// What a connection may cost.
    pub connections: ConnectionLimits,
    /// How large bodies may be.
    pub bodies: BodyLimits,
    /// How much one client may ask for.
    pub rates: Rates,
    /// After how much silence a stream sends a ping.
    pub ping_every: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            hosts: Vec::new(),
            origins: Origins::default(),
            connections: ConnectionLimits::default(),
            bodies: BodyLimits::default(),
            rates: Rates::default(),
            ping_every: Duration::from_secs(15),
        }
    }
}

/// How large request bodies may be, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    /// Of deployments.
    pub deployment: usize,
    /// Of messages.
    pub message: usize,
    /// Of files and archives that are uploaded as they are.
    pub upload: u64,
    /// Of everything else.
    pub other: usize,
    /// How long a body may stand still while it is read.
    pub patience: Duration,
}

impl Default for BodyLimits {
    fn default() -> Self {
        const MIB: usize = 1024 * 1024;
        BodyLimits {
            deployment: 64 * MIB,
            message: 50 * MIB,
            upload: 1024 * MIB as u64,
            other: MIB,
            patience: Duration::from_secs(30),
        }
    }
}

/// Serves until `shutdown`; returns when every connection has ended.
///
/// # Errors
/// When the listener's address cannot be told.
pub async fn serve(listener: TcpListener, app: App, shutdown: CancellationToken) -> io::Result<()> {
    let bound = listener.local_addr()?.ip();
    let options = app.options;
    let hot = app.service.clone();
    let (metrics, node) = (app.service.metrics().clone(), node());
    metrics.up.with_label_values(&[&node]).set(1);
    metrics.build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    let context = Context {
        service: app.service,
        options: options.clone(),
        shutdown: shutdown.clone(),
        node: node.into(),
    };
    let front = Front {
        guard: Guard { bound, hosts: options.hosts.clone(), origins: options.origins.clone() },
        keys: app.keys,
        limits: RateLimits::new(options.rates),
        cached: Arc::new(move |caller, id| Some(hot.cached(caller, id)?.json.clone())),
        router: routes(context),
        tally: Tally::new(metrics),
    };
    run(listener, Arc::new(front), options.connections, shutdown).await;
    Ok(())
}

fn routes(context: Context) -> Router {
    Routes::new(context.service.metrics().clone())
        .route("/health", get(health::health))
        .route("/metrics", get(metrics::metrics))
        .route("/api/agents", get(agents::list).post(agents::deploy))
        .route("/api/agents/{name}", get(agents::show).patch(agents::change).delete(agents::delete))
        .route("/api/agents/{name}/config", get(agents::config).patch(agents::change_config))
        .route("/api/sessions", get(sessions::list).post(sessions::create))
        .route("/api/sessions/import", post(checkpoints::import))
        .route("/api/sessions/{id}", get(sessions::show).delete(sessions::end))
        .route("/api/sessions/{id}/pause", post(sessions::pause))
        .route("/api/sessions/{id}/stop", post(sessions::stop))
        .route("/api/sessions/{id}/resume", post(sessions::resume))
        .route("/api/sessions/{id}/interrupt", post(sessions::interrupt))
        .route("/api/sessions/{id}/fork", post(checkpoints::fork))
        .route("/api/sessions/{id}/rewind", post(checkpoints::rewind))
        .route("/api/sessions/{id}/checkpoints", get(checkpoints::list).post(checkpoints::create))
        .route(
            "/api/sessions/{id}/checkpoints/{checkpoint}",
            get(checkpoints::show).delete(checkpoints::remove),
        )
        .route("/api/sessions/{id}/checkpoints/{checkpoint}/restore", post(checkpoints::restore))
        .route("/api/sessions/{id}/exec", post(sessions::exec))
        .route("/api/sessions/{id}/files", get(files::list).post(writing::batch))
        .route("/api/sessions/{id}/files/", any(files::no_path))
        .route(
            "/api/sessions/{id}/files/{*path}",
            get(files::read).put(writing::put).delete(writing::remove),
        )
        .route("/api/sessions/{id}/workspace", get(workspace::read).post(workspace::write))
        .route("/api/sessions/{id}/attachments", get(attachments::list).post(attachments::create))
        .route("/api/attachments/{id}", get(attachments::read).delete(attachments::remove))
        .route("/api/sessions/{id}/messages", get(history::messages).post(streams::send))
        .route("/api/sessions/{id}/events", get(history::events))
        .route("/api/sessions/{id}/logs", get(history::logs))
        .route("/api/sessions/{id}/stream", get(streams::follow))
        .router()
        .fallback(front::no_route)
        .method_not_allowed_fallback(front::no_method)
        .with_state(context)
}

fn node() -> String {
    let host = rustix::system::uname();
    format!("{}-{}", host.nodename().to_string_lossy(), std::process::id())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use axum::response::IntoResponse;
    use futures_util::FutureExt;
    use http_body_util::BodyExt;
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    use super::error::ApiError;
    use super::{attachments, checkpoints, create, deploy};
    use crate::domain::Message;

    /// The text of an error, as a client reads it.
    pub(super) fn error_text(error: ApiError) -> String {
        let body = error.into_response().into_body().collect().now_or_never().unwrap().unwrap();
        let body: Value = serde_json::from_slice(&body.to_bytes()).unwrap();
        body["error"].as_str().unwrap().to_owned()
    }

    /// Methods and paths of the router, as it is written above.
    fn served() -> BTreeSet<String> {
        let (ours, _) = include_str!("mod.rs").split_once("\nmod tests {").unwrap();
        let mut served = BTreeSet::new();
        for route in ours.split(".route(").skip(1) {
            let path = route.split('"').nth(1).unwrap();
            let path = path.replace("{*path}", "PATH").replace('{', ":").replace('}', "");
            for method in ["get", "post", "put", "patch", "delete"] {
                if [" ", "."].iter().any(|before| route.contains(&format!("{before}{method}("))) {
                    served.insert(format!("{} {path}", method.to_uppercase()));
                }
            }
        }
        served
    }

    /// What is named as a request at the beginning of a table's row.
    fn documented(text: &str) -> impl Iterator<Item = String> {
        let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        rows.filter(|row| row.contains(" /")).map(|row| row.split('?').next().unwrap().to_owned())
    }

    #[test]
    fn every_route_is_documented_and_nothing_else() {
        let texts = [include_str!("../../../docs/http.md"), include_str!("../../../docs/files.md")];
        let mut documented: BTreeSet<_> = texts.into_iter().flat_map(documented).collect();
        documented.insert("GET /health".to_owned());
        let served = served();
        assert!(served.len() > 30, "{served:?}");
        assert_eq!(documented, served);
    }

    /// Every name that a body may have, so that random bodies get past the first check.
    const NAMES: [&str; 27] = [
        "agent",
        "name",
        "path",
        "files",
        "content",
        "systemPrompt",
        "env",
        "config",
        "extraEnv",
        "model",
        "mcpServers",
        "permissionMode",
        "allowedTools",
        "subagents",
        "initialAgent",
        "command",
        "timeout",
        "maxTurns",
        "maxBudgetUsd",
        "effort",
        "thinking",
        "outputFormat",
        "whenBusy",
        "type",
        "text",
        "source",
        "data",
    ];

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "\\PC{0,12}".prop_map(Value::from),
            prop::sample::select(vec!["x", "text", "image", "low", "default", "aGk="])
                .prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::vec((prop::sample::select(NAMES.to_vec()), inner), 0..8)
                    .prop_map(|members| {
                        let members = members.into_iter();
                        let members = members.map(|(name, value)| (name.to_owned(), value));
                        Value::from(members.collect::<Map<_, _>>())
                    }),
            ]
        })
    }

    fn is_explained<T>(parsed: Result<T, ApiError>) -> bool {
        parsed.err().is_none_or(|error| {
            let refused = error.status.as_u16() == 400;
            let text = error_text(error);
            refused && !text.is_empty() && text.chars().count() <= 400
        })
    }

    proptest! {
        #[test]
        fn any_json_is_read_or_explained(body in any_json()) {
            let body = body.to_string();
            let body = body.as_bytes();
            prop_assert!(is_explained(deploy::parse(body)));
            prop_assert!(is_explained(create::parse(body)));
            prop_assert!(is_explained(create::parse_exec(body).map_err(ApiError::from)));
            prop_assert!(is_explained(Message::read(body).map_err(ApiError::from)));
        }

        #[test]
        fn any_bytes_are_read_or_explained(body: Vec<u8>) {
            prop_assert!(is_explained(deploy::parse(&body)));
            prop_assert!(is_explained(checkpoints::parse_fork(&body)));
            prop_assert!(is_explained(checkpoints::parse_name(&body)));
            prop_assert!(is_explained(checkpoints::parse_import(&body)));
            prop_assert!(is_explained(create::parse(&body)));
            prop_assert!(is_explained(create::parse_exec(&body).map_err(ApiError::from)));
            prop_assert!(is_explained(Message::read(&body).map_err(ApiError::from)));
            prop_assert!(is_explained(attachments::parse(&body)));
        }
    }
}
