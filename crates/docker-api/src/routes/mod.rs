//! The handlers: each decodes, asks the engine and encodes. Whatever has none is refused by `surface`.

mod attach;
mod containers;
mod create;
mod exec;
mod images;
mod logs;
mod system;
mod waiting;

use axum::Router;
use axum::extract::{FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::response::IntoResponse as _;
use axum::response::Response;
use axum::routing::{delete, get, post};

use crate::Daemon;
use crate::decode::{DecodeError, Parameters};
use crate::error::ApiError;
use crate::surface;

/// All routes, without their version.
pub fn routes() -> Router<Daemon> {
    Router::new()
        .route("/_ping", get(system::ping))
        .route("/version", get(system::version))
        .route("/info", get(system::info))
        .route("/events", get(system::events))
        .route("/containers/json", get(containers::list))
        .route("/containers/create", post(create::create))
        .route("/containers/{id}/attach", post(attach::attach))
        .route("/containers/{id}/attach/ws", get(attach::attach_socket))
        .route("/containers/{id}/resize", post(attach::resize))
        .route("/containers/{id}/exec", post(exec::create))
        .route("/exec/{id}/start", post(exec::start))
        .route("/exec/{id}/resize", post(exec::resize))
        .route("/exec/{id}/json", get(exec::inspect))
        .route("/containers/{id}/json", get(containers::inspect))
        .route("/containers/{id}/logs", get(logs::logs))
        .route("/containers/{id}/wait", post(waiting::wait))
        .route("/containers/{id}/start", post(containers::start))
        .route("/containers/{id}/stop", post(containers::stop))
        .route("/containers/{id}/restart", post(containers::restart))
        .route("/containers/{id}/kill", post(containers::kill))
        .route("/containers/{id}", delete(containers::remove))
        .route("/images/json", get(images::list))
        .route("/images/{*rest}", get(images::of_one))
        .route("/volumes", get(images::volumes))
        .route("/volumes/{id}", get(images::volume))
        .route("/networks", get(images::networks))
        .fallback(refuse)
        .method_not_allowed_fallback(refuse)
}

async fn refuse(request: Request) -> Response {
    surface::refusal(request.method(), request.uri().path()).into_response()
}

/// The variable part of a path.
pub struct Name(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(name) = Path::from_request_parts(parts, state)
            .await
            .map_err(|problem| DecodeError::Address { problem: problem.body_text() })?;
        Ok(Self(name))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Parameters {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Query(pairs) = Query::from_request_parts(parts, state)
            .await
            .map_err(|problem| DecodeError::Address { problem: problem.body_text() })?;
        Ok(Self::new(pairs))
    }
}
