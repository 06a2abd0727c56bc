//! What handlers get: the verbs, the caller, and what the path and the body say.

use std::sync::Arc;

use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use bytes::Bytes;
use http::StatusCode;
use http::request::Parts;
use tokio_util::sync::CancellationToken;

use super::body;
use super::error::ApiError;
use super::{BodyLimits, Options};
use crate::domain::{AgentName, AttachmentId, SessionId, json};
use crate::session::Service;
use crate::session::api::{Caller, Refusal};

/// What every handler may use.
#[derive(Clone)]
pub(super) struct Context {
    /// The verbs.
    pub(super) service: Service,
    /// How this edge is configured.
    pub(super) options: Arc<Options>,
    /// Ends streams.
    pub(super) shutdown: CancellationToken,
    /// `<hostname>-<pid>`: which process answers.
    pub(super) node: Arc<str>,
}

impl Context {
    /// Reads a request's body.
    ///
    /// # Errors
    /// As [`body::read`].
    pub(super) async fn read(
        &self,
        request: Request,
        limit: fn(&BodyLimits) -> usize,
    ) -> Result<Bytes, ApiError> {
        let limits = &self.options.bodies;
        body::read(request, limit(limits), limits.patience).await
    }
}

impl Context {
    /// Reads a request's body of at most `limit` bytes.
    ///
    /// # Errors
    /// As [`body::read`].
    pub(super) async fn read_up_to(
        &self,
        request: Request,
        limit: usize,
    ) -> Result<Bytes, ApiError> {
        body::read(request, limit, self.options.bodies.patience).await
    }
}

/// Who calls, as the front found out.
pub(super) struct Who(pub(super) Caller);

impl<S: Sync> FromRequestParts<S> for Who {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let caller = parts.extensions.remove().map(Who);
        caller
            .ok_or_else(|| ApiError::new(StatusCode::UNAUTHORIZED, "Missing Authorization header"))
    }
}

/// The session that the path names.
pub(super) struct At(pub(super) SessionId);

impl<S: Send + Sync> FromRequestParts<S> for At {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let id = segment(parts, state).await?;
        id.parse().map(At).map_err(|error| ApiError::invalid(format!("id: {error}")))
    }
}

/// The attachment that the path names.
pub(super) struct AtAttachment(pub(super) AttachmentId);

impl<S: Send + Sync> FromRequestParts<S> for AtAttachment {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let id = segment(parts, state).await?;
        id.parse().map(AtAttachment).map_err(|error| ApiError::invalid(format!("id: {error}")))
    }
}

/// The agent that the path names.
pub(super) struct Of(pub(super) AgentName);

impl<S: Send + Sync> FromRequestParts<S> for Of {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let name = segment(parts, state).await?;
        // What cannot be a name is not deployed either.
        name.parse().map(Of).map_err(|_| Refusal::NoAgent.into())
    }
}

async fn segment<S: Send + Sync>(parts: &mut Parts, state: &S) -> Result<String, ApiError> {
    let path = Path::<String>::from_request_parts(parts, state).await;
    path.map(|Path(segment)| segment).map_err(|_| ApiError::invalid("the path cannot be decoded"))
}

/// A body that says nothing: absent, empty, or an object whose members are ignored.
pub(super) struct Nothing;

impl FromRequest<Context> for Nothing {
    type Rejection = ApiError;

    async fn from_request(request: Request, context: &Context) -> Result<Self, ApiError> {
        #[derive(serde::Deserialize)]
        struct Ignored {}
        let body = context.read(request, |limits| limits.other).await?;
        Ok(json::object::<Ignored>("", &body).map(|_| Nothing)?)
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::routing::get;
    use http_body_util::BodyExt;
    use serde_json::Value;
    use tower::Service as _;

    use super::*;

    #[tokio::test]
    async fn a_path_that_is_no_text_is_refused_in_json() {
        let mut router: Router = Router::new()
            .route("/agents/{name}", get(|_: Of| async {}))
            .route("/attachments/{id}", get(|_: AtAttachment| async {}))
            .route("/sessions/{id}", get(|_: At| async {}));
        for path in ["/agents/%ff", "/attachments/%ff", "/sessions/%ff"] {
            let request = Request::builder().uri(path).body(Body::empty()).unwrap();
            let answer = router.call(request).await.unwrap();
            assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{path}");
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            let body: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(body["error"], "the path cannot be decoded", "{path}");
        }
    }
}
