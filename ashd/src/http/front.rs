//! What every request passes: the guard, the one hot route, then the router.
//!
//! `GET /api/sessions/:id` of a session in memory is answered here, before routing: its JSON
//! exists already and is handed out without being copied. Everything else about that route, such
//! as sessions that are not in memory, is the router's.

use std::convert::Infallible;
use std::future::{Ready, ready};
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
use super::error::{ApiError, json_bytes};
use super::guard::{Guard, admit_caller, is_open};
use super::unread::{self, Watch};
use crate::auth::Keys;
use crate::domain::SessionId;
use crate::session::api::Caller;

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
    /// Answers the hot route.
    pub cached: Cached,
    /// Answers the rest; finds the [`Caller`] among the request's extensions.
    pub router: Router,
}

impl Front {
    /// Answers a request.
    pub fn answer<B>(&self, request: Request<B>) -> Answering
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<axum::BoxError>,
    {
        let origin = match self.guard.admit_place(request.uri(), request.headers()) {
            Ok(origin) => origin,
            Err(error) => return unrouted(&request, error.into_response()),
        };
        match self.at_once(&request, origin.is_some()) {
            Continue(caller) => self.route(request, caller, origin),
            Break(mut response) => {
                cors::name_origin(response.headers_mut(), origin);
                unrouted(&request, response)
            }
        }
    }

    /// Breaks with the answer when there is one without the router.
    fn at_once<B>(
        &self,
        request: &Request<B>,
        from_page: bool,
    ) -> ControlFlow<Response, Option<Caller>> {
        let (method, headers) = (request.method(), request.headers());
        if from_page && cors::is_preflight(method, headers) {
            return Break(cors::preflight(headers));
        }
        let path = request.uri().path();
        if is_open(path) {
            return Continue(None);
        }
        let caller = match admit_caller(&self.keys, headers) {
            Ok(caller) => caller,
            Err(error) => return Break(error.into_response()),
        };
        match hot_session(method, path).and_then(|id| (self.cached)(&caller, id)) {
            Some(json) => Break(json_bytes(StatusCode::OK, json)),
            None => Continue(Some(caller)),
        }
    }

    fn route<B>(
        &self,
        request: Request<B>,
        caller: Option<Caller>,
        origin: Option<HeaderValue>,
    ) -> Answering
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<axum::BoxError>,
    {
        let (head, body) = request.into_parts();
        let (body, watch) = Watch::over(Body::new(body));
        let mut request = Request::from_parts(head, body);
        if let Some(caller) = caller {
            request.extensions_mut().insert(caller);
        }
        let mut router = self.router.clone();
        Either::Right(Box::pin(async move {
            let mut response = router.call(request).await?;
            if let Some(watch) = watch {
                watch.mark(&mut response);
            }
            cors::name_origin(response.headers_mut(), origin);
            Ok(response)
        }))
    }
}

impl hyper::service::Service<Request<hyper::body::Incoming>> for &Front {
    type Response = Response;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, request: Request<hyper::body::Incoming>) -> Answering {
        self.answer(request)
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
    use http::header::{ALLOW, AUTHORIZATION, HOST};
    use http_body_util::BodyExt;
    use serde_json::{Value, json};

    use super::*;
    use crate::http::guard::Origins;

    fn front() -> Front {
        let loopback = std::net::Ipv4Addr::LOCALHOST.into();
        Front {
            guard: Guard { bound: loopback, hosts: vec![], origins: Origins::Loopback },
            keys: Arc::new(Keys::new(Some("key"), [])),
            cached: Arc::new(|_, _| None),
            router: Router::new()
                .route("/api/x", get(|| async { "x" }).delete(|| async { "gone" }))
                .fallback(no_route)
                .method_not_allowed_fallback(no_method),
        }
    }

    async fn ask(method: &str, path: &str) -> (Response<()>, Value) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "localhost")
            .header(AUTHORIZATION, "Bearer key")
            .body(Body::empty())
            .unwrap();
        let (head, body) = front().answer(request).await.unwrap().into_parts();
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
