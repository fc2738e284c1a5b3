//! Requests in and errors out: whatever is wrong with a request, the answer is an [`ApiError`] in JSON.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;

use super::model::ApiError;
use crate::daemon::Failure;

/// How long a client may take for the body of a request: longer than any body takes over a Unix socket, and not for ever,
/// because a client who only begins one holds a connection that others may want.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// An answer that is not 2xx.
#[derive(Debug)]
pub struct ApiFailure {
    status: StatusCode,
    body: ApiError,
}

impl ApiFailure {
    /// An answer with one sentence.
    pub fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self {
            status,
            body: ApiError {
                error: error.into(),
                problems: Vec::new(),
            },
        }
    }

    /// 403
    pub fn forbidden(error: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, error)
    }

    /// 400
    pub fn bad_request(error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error)
    }

    /// 500
    pub fn internal(error: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, error)
    }
}

impl From<Failure> for ApiFailure {
    fn from(failure: Failure) -> Self {
        let error = failure.to_string();
        match failure {
            Failure::NotFound(_) => Self::new(StatusCode::NOT_FOUND, error),
            Failure::BadRequest(_) => Self::bad_request(error),
            Failure::Conflict(_) => Self::new(StatusCode::CONFLICT, error),
            Failure::Store(_) | Failure::Read(_) => Self::internal(error),
            Failure::Invalid(problems) => Self {
                status: StatusCode::UNPROCESSABLE_ENTITY,
                body: ApiError { error, problems },
            },
        }
    }
}

impl IntoResponse for ApiFailure {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}

/// The JSON document in a request's body. An empty body stands for `{}`.
#[derive(Debug)]
pub struct Document<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Document<T> {
    type Rejection = ApiFailure;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiFailure> {
        let read = tokio::time::timeout(BODY_TIMEOUT, Bytes::from_request(request, state));
        let bytes = read
            .await
            .map_err(|_| {
                ApiFailure::new(
                    StatusCode::REQUEST_TIMEOUT,
                    format!("the body did not come within {} s", BODY_TIMEOUT.as_secs()),
                )
            })?
            .map_err(|rejection| ApiFailure::new(rejection.status(), rejection.body_text()))?;
        let bytes: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        serde_json::from_slice(bytes).map(Self).map_err(|error| {
            ApiFailure::bad_request(format!(
                "the body is not the JSON document expected here: {error}"
            ))
        })
    }
}

/// The query of a request.
#[derive(Debug)]
pub struct Params<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = ApiFailure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiFailure> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(query)) => Ok(Self(query)),
            Err(rejection) => Err(ApiFailure::bad_request(rejection.body_text())),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use futures::stream;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_comes_is_not_waited_for() {
        let never = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        let refused = Document::<serde_json::Value>::from_request(Request::new(never), &()).await;
        assert_eq!(refused.unwrap_err().status, StatusCode::REQUEST_TIMEOUT);
    }
}
