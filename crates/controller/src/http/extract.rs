//! What handlers take from requests, with refusals in the form that the contract has.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use stack_api::{ErrorCode, REQUEST_ID_HEADER};

use super::Failure;
use crate::identity::Peer;

/// The id of a request: from its header, or made by the first host that it reached.
#[derive(Debug, Clone)]
pub struct RequestId(pub String);

impl RequestId {
    /// The header's, if it is a proper one.
    #[must_use]
    pub fn from_headers(headers: &axum::http::HeaderMap) -> Option<Self> {
        let text = headers.get(REQUEST_ID_HEADER)?.to_str().ok()?;
        text.parse::<stack_model::RequestId>().ok().map(|id| Self(id.to_string()))
    }
}

impl<S: Sync> FromRequestParts<S> for RequestId {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Failure> {
        let known = parts.extensions.get::<Self>().cloned();
        Ok(known.or_else(|| Self::from_headers(&parts.headers)).unwrap_or_else(|| Self(String::new())))
    }
}

impl<S: Sync> FromRequestParts<S> for Peer {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Failure> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or(Self::Anonymous))
    }
}

/// A JSON body.
pub struct Body<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| {
            let code = if rejection.status() == axum::http::StatusCode::PAYLOAD_TOO_LARGE {
                ErrorCode::TooLarge
            } else {
                ErrorCode::BadRequest
            };
            Failure::new(code, rejection.body_text())
        })?;
        serde_json::from_slice(&bytes)
            .map(Self)
            .map_err(|error| Failure::new(ErrorCode::BadRequest, format!("the request's body is not valid: {error}")))
    }
}

/// A query string.
pub struct Query<T>(pub T);

impl<S: Sync + Send, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        axum::extract::Query::<T>::from_request_parts(parts, state)
            .await
            .map(|query| Self(query.0))
            .map_err(|rejection| Failure::new(ErrorCode::BadRequest, rejection.body_text()))
    }
}

/// The one name in a path, read as what it is.
pub struct Named<T>(pub T);

impl<S: Sync + Send, T> FromRequestParts<S> for Named<T>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let path = axum::extract::Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|rejection| Failure::new(ErrorCode::BadRequest, rejection.body_text()))?;
        path.0.parse().map(Self).map_err(|error: T::Err| Failure::new(ErrorCode::BadRequest, error.to_string()))
    }
}
