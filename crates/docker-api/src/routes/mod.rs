//! The handlers: each decodes, asks the engine and encodes. Whatever has none is refused by `surface`.

mod archive;
mod attach;
mod commit;
mod containers;
mod create;
mod exec;
mod image_transfer;
mod images;
mod logs;
mod networks;
mod registry;
mod system;
mod usage;
mod volumes;
mod waiting;

use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRequestParts, Path, Query, Request};
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
        .route("/containers/{id}/stats", get(usage::stats))
        .route("/containers/{id}/top", get(usage::top))
        .route("/containers/{id}/changes", get(usage::changes))
        .route(
            "/containers/{id}/archive",
            get(archive::get).head(archive::head).put(archive::put).layer(DefaultBodyLimit::disable()),
        )
        .route("/commit", post(commit::create))
        .route("/containers/{id}/export", get(archive::export))
        .route("/system/df", get(usage::disk))
        .route("/containers/{id}/pause", post(containers::pause))
        .route("/containers/{id}/unpause", post(containers::unpause))
        .route("/containers/{id}/rename", post(containers::rename))
        .route("/containers/{id}/update", post(containers::update))
        .route("/containers/prune", post(containers::prune))
        .route("/containers/{id}", delete(containers::remove))
        .route("/images/json", get(images::list))
        .route("/images/create", post(image_transfer::create).layer(DefaultBodyLimit::disable()))
        .route("/images/load", post(image_transfer::load).layer(DefaultBodyLimit::disable()))
        .route("/images/get", get(image_transfer::get))
        .route("/images/search", get(registry::search))
        .route("/images/prune", post(images::prune))
        .route("/images/{*rest}", get(images::of_one).post(images::change).delete(images::remove))
        .route("/volumes", get(volumes::list))
        .route("/volumes/create", post(volumes::create))
        .route("/volumes/prune", post(volumes::prune))
        .route("/volumes/{id}", get(volumes::inspect).delete(volumes::remove))
        .route("/networks", get(networks::list))
        .route("/networks/create", post(networks::create))
        .route("/networks/prune", post(networks::prune))
        .route("/networks/{id}", get(networks::inspect).delete(networks::remove))
        .route("/networks/{id}/connect", post(networks::connect))
        .route("/networks/{id}/disconnect", post(networks::disconnect))
        .route("/auth", post(registry::login))
        .route("/distribution/{*rest}", get(registry::inspect))
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
