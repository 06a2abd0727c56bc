//! What every request passes: the guard, the rate limits, the one hot route, then the router.
//!
//! `GET /api/sessions/:id` of a session in memory is answered here, before routing: its JSON
//! exists already and is handed out without being copied. Everything else about that route, such
//! as sessions that are not in memory, is the router's.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::IpAddr;
use std::ops::ControlFlow::{self, Break, Continue};
use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::future::Either;
use http::header::HeaderValue;
use http::{Method, Request, StatusCode};
use tower::Service as _;

use super::cors;
use super::detach::{self, Takeover};
use super::error::{ApiError, json_bytes};
use super::guard::{Guard, admit_caller, admit_scope, is_open, needed};
use super::metrics::{Asked, Tally};
use super::rate::{Client, RateLimits, Standing};
use super::sse;
use super::unread::{self, Watch};
use crate::auth::Keys;
use crate::domain::SessionId;
use crate::session::api::Caller;
use crate::telemetry::metrics::Route;
use crate::telemetry::metrics::labels::Denied;
use crate::telemetry::refused;

/// Where a session's JSON comes from when it is in memory.
pub type Cached = Arc<dyn Fn(&Caller, SessionId) -> Option<Bytes> + Send + Sync>;

/// An answer: there already, or on its way.
pub type Answering = Either<
    Ready<Result<Response, Infallible>>,
    Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>,
>;

/// The door of the server.
pub struct Front {
    /// Checks where requests come from.
    pub guard: Guard,
    /// Knows who calls.
    pub keys: Arc<Keys>,
    /// Counts what they ask for.
    pub limits: RateLimits,
    /// Answers the hot route.
    pub cached: Cached,
    /// Answers the rest; finds the [`Caller`] among the request's extensions.
    pub router: Router,
    /// Counts who asked, and who was refused.
    pub tally: Tally,
}

/// An answer without the router, and the route that it counts for.
type AtOnce<'a> = (Response, &'a Arc<Route>);

/// Who is on the other end of a connection.
#[derive(Clone, Copy)]
pub(super) struct Peer<'a> {
    address: IpAddr,
    client: Client,
    /// Where streams wait to take the connection over; none: they cannot.
    takeover: Option<&'a Takeover>,
}

/// A request that the router shall answer.
struct Admitted {
    /// Who calls; nobody, where everybody may.
    caller: Option<Caller>,
    standing: Option<Standing>,
}

impl Front {
    /// Who comes from an address, over a connection that streams may take over.
    pub(super) fn peer<'a>(&self, address: IpAddr, takeover: Option<&'a Takeover>) -> Peer<'a> {
        Peer { address, client: self.limits.client(address), takeover }
    }

    /// Answers a client's request.
    pub(super) fn answer<B>(&self, from: Peer<'_>, request: Request<B>) -> Answering
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<axum::BoxError>,
    {
        let asked = Asked::now(request.method());
        let origin = match self.guard.admit_place(request.uri(), request.headers()) {
            Ok(origin) => origin,
            Err(error) => {
                let response = error.into_response();
                self.tally.denied(Denied::Place);
                asked.answered(&self.tally.none, &response);
                return unrouted(&request, response);
            }
        };
        match self.at_once(from, &request, origin.is_some()) {
            Continue(admitted) => self.route(from, request, admitted, (origin, asked)),
            Break((mut response, route)) => {
                asked.answered(route, &response);
                cors::name_origin(response.headers_mut(), origin);
                unrouted(&request, response)
            }
        }
    }

    /// Refuses a client for want of a key or of a right, and says so in the log.
    fn refuse(&self, from: Peer<'_>, reason: Denied, error: ApiError) -> AtOnce<'_> {
        refused(from.address, error.text());
        self.tally.denied(reason);
        (error.into_response(), &self.tally.none)
    }

    /// Breaks with the answer when there is one without the router. Requests with a wrong key are
    /// not counted: they would use up what others behind the same address may ask for.
    fn at_once<B>(
        &self,
        from: Peer<'_>,
        request: &Request<B>,
        from_page: bool,
    ) -> ControlFlow<AtOnce<'_>, Admitted> {
        let (method, headers) = (request.method(), request.headers());
        if from_page && cors::is_preflight(method, headers) {
            return Break((cors::preflight(headers), &self.tally.none));
        }
        let path = request.uri().path();
        let caller = match is_open(path, from.address, request.version(), headers) {
            true => None,
            false => match admit_caller(&self.keys, headers) {
                Ok(caller) => Some(caller),
                Err(error) => return Break(self.refuse(from, Denied::Key, error)),
            },
        };
        let standing = self.limits.count(from.client, method, path);
        if let Some(refusal) = standing.as_ref().and_then(Standing::refusal) {
            self.tally.denied(Denied::Rate);
            return Break((refusal, &self.tally.none));
        }
        if let Some(caller) = &caller
            && let Err(error) = admit_scope(caller, needed(method, path))
        {
            return Break(self.refuse(from, Denied::Scope, error));
        }
        match caller.as_ref().and_then(|caller| self.hot(caller, method, path)) {
            Some(mut response) => {
                if let Some(standing) = standing {
                    standing.tell(&mut response);
                }
                Break((response, &self.tally.hot))
            }
            None => Continue(Admitted { caller, standing }),
        }
    }

    /// The answer on the hot route, when there is one in memory.
    fn hot(&self, caller: &Caller, method: &Method, path: &str) -> Option<Response> {
        let json = (self.cached)(caller, hot_session(method, path)?)?;
        Some(json_bytes(StatusCode::OK, json))
    }

    fn route<B>(
        &self,
        from: Peer<'_>,
        request: Request<B>,
        Admitted { caller, standing }: Admitted,
        (origin, asked): (Option<HeaderValue>, Asked),
    ) -> Answering
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<axum::BoxError>,
    {
        let (head, body) = request.into_parts();
        let goes_on = detach::goes_on(&head);
        let takeover = from.takeover.filter(|_| detach::may_take_over(&head)).cloned();
        let (body, watch) = Watch::over(Body::new(body));
        let mut request = Request::from_parts(head, body);
        if let Some(caller) = caller {
            request.extensions_mut().insert(caller);
        }
        let (mut router, none) = (self.router.clone(), self.tally.none.clone());
        Either::Right(Box::pin(async move {
            let mut response = router.call(request).await?;
            asked.answered_by(&none, &mut response);
            if let Some(watch) = watch {
                watch.mark(&mut response);
            }
            match (sse::is_stream(&response), standing) {
                // It would promise a connection that goes on.
                (true, _) if !goes_on => unread::close(&mut response),
                (false, Some(standing)) => standing.tell(&mut response),
                _ => {}
            }
            cors::name_origin(response.headers_mut(), origin);
            if let Some(takeover) = takeover {
                takeover.allow(&mut response);
            }
            Ok(response)
        }))
    }
}

/// The door as a connection from one client sees it.
#[derive(Clone, Copy)]
pub(super) struct Visit<'a> {
    /// The door.
    pub(super) front: &'a Front,
    /// Who is on the other end.
    pub(super) peer: Peer<'a>,
}

impl hyper::service::Service<Request<hyper::body::Incoming>> for Visit<'_> {
    type Response = Response;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, request: Request<hyper::body::Incoming>) -> Answering {
        self.front.answer(self.peer, request)
    }
}

/// An answer for which nobody read the request's body.
fn unrouted<B: HttpBody>(request: &Request<B>, mut response: Response) -> Answering {
    if !request.body().is_end_stream() {
        unread::close(&mut response);
    }
    Either::Left(ready(Ok(response)))
}

/// The session of `GET /api/sessions/:id`.
fn hot_session(method: &Method, path: &str) -> Option<SessionId> {
    if method != Method::GET {
        return None;
    }
    path.strip_prefix("/api/sessions/")?.parse().ok()
}

/// What the router answers for paths that it does not know.
pub(super) async fn no_route(request: axum::extract::Request) -> ApiError {
    ApiError::no_route(request.method(), request.uri().path())
}

/// What the router answers for methods that a path does not know; it adds `Allow` itself.
pub(super) async fn no_method(request: axum::extract::Request) -> ApiError {
    let text = format!("Method {} is not allowed here", request.method());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, text)
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use http::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, HOST};
    use http_body_util::BodyExt;
    use serde_json::{Value, json};

    use super::*;
    use crate::auth::{Grant, hash};
    use crate::domain::{Scope, Tenant};
    use crate::http::guard::Origins;
    use crate::http::rate::Rates;
    use crate::telemetry::metrics::Metrics;

    fn front(rates: Rates) -> Front {
        let loopback = std::net::Ipv4Addr::LOCALHOST.into();
        Front {
            guard: Guard { bound: loopback, hosts: vec![], origins: Origins::Loopback },
            keys: Arc::new(Keys::new(Some("key"), [])),
            limits: RateLimits::new(rates),
            cached: Arc::new(|_, _| None),
            router: Router::new()
                .route("/api/x", get(|| async { "x" }).delete(|| async { "gone" }))
                .route("/api/stream", get(stream))
                .fallback(no_route)
                .method_not_allowed_fallback(no_method),
            tally: Tally::new(Arc::default()),
        }
    }

    async fn stream() -> Response {
        let media = HeaderValue::from_static("text/event-stream");
        let mut response = Response::new(Body::from(": hello"));
        response.headers_mut().insert(CONTENT_TYPE, media);
        response
    }

    async fn ask(method: &str, path: &str) -> (Response<()>, Value) {
        ask_with(&front(Rates::default()), "key", method, path).await
    }

    async fn ask_with(front: &Front, key: &str, method: &str, path: &str) -> (Response<()>, Value) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "localhost")
            .header(AUTHORIZATION, format!("Bearer {key}"))
            .body(Body::empty())
            .unwrap();
        let peer = front.peer(std::net::Ipv4Addr::LOCALHOST.into(), None);
        let (head, body) = front.answer(peer, request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (Response::from_parts(head, ()), serde_json::from_slice(&body).unwrap_or_default())
    }

    #[tokio::test]
    async fn unknown_methods_are_told_the_known_ones() {
        for method in ["POST", "OPTIONS", "PATCH", "BREW"] {
            let (head, body) = ask(method, "/api/x").await;
            assert_eq!(head.status(), StatusCode::METHOD_NOT_ALLOWED);
            assert_eq!(head.headers()[ALLOW], "GET,HEAD,DELETE");
            let text = format!("Method {method} is not allowed here");
            assert_eq!(body, json!({"error": text, "statusCode": 405}));
        }
    }

    #[tokio::test]
    async fn unknown_paths_have_the_shape_clients_know() {
        for path in ["/", "/api/x/", "/api//x", "/API/x", "/api/%2e%2e/x"] {
            let (head, body) = ask("GET", path).await;
            assert_eq!(head.status(), StatusCode::NOT_FOUND);
            assert_eq!(body["message"], format!("Route GET:{path} not found"));
        }
    }

    /// `limit remaining reset retry-after`, as far as they are there.
    fn told(head: &Response<()>) -> String {
        let names = ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"];
        let names = names.into_iter().chain(["retry-after"]);
        let values = names.filter_map(|name| head.headers().get(name)?.to_str().ok());
        values.collect::<Vec<_>>().join(" ")
    }

    #[tokio::test(start_paused = true)]
    async fn answers_tell_what_is_left() {
        let front = front(Rates { requests: 4, deployments: 1, ..Rates::default() });
        for (key, method, path, status, expected) in [
            ("key", "GET", "/api/x", 200, "4 3 900"),
            ("key", "GET", "/nowhere", 404, "4 2 900"),
            ("wrong", "GET", "/api/x", 401, ""),
            ("key", "POST", "/api/agents", 404, "1 0 900"),
            ("key", "GET", "/api/stream", 200, ""),
            ("key", "GET", "/health", 404, "4 0 900"),
            ("key", "GET", "/api/x", 429, "4 0 900 900"),
            ("key", "POST", "/api/agents", 429, "1 0 900 900"),
            ("wrong", "GET", "/api/x", 401, ""),
        ] {
            let (head, _) = ask_with(&front, key, method, path).await;
            let told = (head.status().as_u16(), told(&head));
            assert_eq!(told, (status, expected.to_owned()), "{method} {path}");
        }
        tokio::time::advance(std::time::Duration::from_mins(15)).await;
        let (head, _) = ask_with(&front, "key", "GET", "/api/x").await;
        assert_eq!(told(&head), "4 3 900");
    }

    /// The status of an answer to somebody from there, with this key or none.
    async fn status(front: &Front, from: [u8; 4], key: Option<&str>, path: &str) -> u16 {
        let request = Request::builder().uri(path).header(HOST, "localhost");
        let request = match key {
            Some(key) => request.header(AUTHORIZATION, format!("Bearer {key}")),
            None => request,
        };
        let peer = front.peer(from.into(), None);
        front.answer(peer, request.body(Body::empty()).unwrap()).await.unwrap().status().as_u16()
    }

    #[tokio::test]
    async fn metrics_need_a_key_from_elsewhere() {
        let (here, elsewhere) = ([127, 0, 0, 1], [192, 0, 2, 7]);
        let front = Front {
            router: Router::new().route("/metrics", get(|| async { "counted" })),
            ..front(Rates::default())
        };
        for (from, key, expected) in [
            (here, None, 200),
            (here, Some("wrong"), 200),
            (elsewhere, Some("key"), 200),
            (elsewhere, None, 401),
            (elsewhere, Some("wrong"), 401),
        ] {
            let found = status(&front, from, key, "/metrics").await;
            assert_eq!(found, expected, "{from:?} {key:?}");
        }
    }

    #[tokio::test]
    async fn who_is_refused_is_counted() {
        let metrics = Arc::new(Metrics::new());
        let grant = Grant { tenant: Tenant::default(), scope: Scope::Read, label: "ci".to_owned() };
        let front = Front {
            keys: Arc::new(Keys::new(Some("key"), [(hash(b"read"), grant)])),
            tally: Tally::new(metrics.clone()),
            ..front(Rates { requests: 2, ..Rates::default() })
        };
        for (key, method, path, status) in [
            ("wrong", "GET", "/api/x", 401),
            ("read", "DELETE", "/api/x", 403),
            ("key", "GET", "/api/x", 200),
            ("key", "GET", "/api/x", 429),
        ] {
            let (head, _) = ask_with(&front, key, method, path).await;
            assert_eq!(head.status().as_u16(), status, "{key} {method}");
        }
        let request = Request::builder().uri("/").header(HOST, "evil.com");
        let request = request.body(Body::empty()).unwrap();
        let peer = front.peer(std::net::Ipv4Addr::LOCALHOST.into(), None);
        assert_eq!(front.answer(peer, request).await.unwrap().status(), StatusCode::FORBIDDEN);
        let reasons = [Denied::Place, Denied::Key, Denied::Scope, Denied::Rate, Denied::Broker];
        let counts = reasons.map(|reason| metrics.denied.of(reason).get());
        assert_eq!(counts, [1, 1, 1, 1, 0]);
        let text = metrics.text();
        for counted in
            ["GET\",route=\"none\",status=\"4xx\"} 3", "DELETE\",route=\"none\",status=\"4xx\"} 1"]
        {
            let line = format!("ash_http_requests_total{{method=\"{counted}\n");
            assert!(text.contains(&line), "{line} is not in {text}");
        }
    }

    #[tokio::test]
    async fn the_hot_route_is_counted_with_the_others_of_its_name() {
        let metrics = Arc::new(Metrics::new());
        let front = Front {
            cached: Arc::new(|_, _| Some(Bytes::from_static(b"{}"))),
            tally: Tally::new(metrics.clone()),
            ..front(Rates::default())
        };
        let path = format!("/api/sessions/{}", SessionId::random());
        assert_eq!(status(&front, [127, 0, 0, 1], Some("key"), &path).await, 200);
        let line = "{method=\"GET\",route=\"/api/sessions/{id}\",status=\"2xx\"} 1\n";
        assert!(metrics.text().contains(line), "{}", metrics.text());
    }

    #[test]
    fn only_one_route_is_hot() {
        let id = SessionId::random();
        let path = format!("/api/sessions/{id}");
        assert_eq!(hot_session(&Method::GET, &path), Some(id));
        assert_eq!(hot_session(&Method::HEAD, &path), None);
        assert_eq!(hot_session(&Method::GET, &format!("{path}/")), None);
        assert_eq!(hot_session(&Method::GET, "/api/sessions/x"), None);
    }
}
