//! Files in and out of containers: `/containers/{id}/archive` and `/containers/{id}/export`.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use stack_engine::copying::{ArchiveStream, ExtractOptions, PathStat};
use tokio::io::AsyncRead;

use super::Name;
use super::image_transfer::{drain, reader};
use crate::Daemon;
use crate::decode::{DecodeError, Parameters};
use crate::encode::path_stat;
use crate::error::ApiError;

const STAT: HeaderName = HeaderName::from_static("x-docker-container-path-stat");

/// The path that is asked for.
fn path(parameters: &Parameters) -> Result<String, DecodeError> {
    parameters.text("path").map(str::to_owned).ok_or(DecodeError::Missing { name: "path" })
}

fn with_stat(mut response: Response, stat: &PathStat) -> Response {
    // Base64 is text that a header can have.
    if let Ok(value) = HeaderValue::from_str(&path_stat::header(stat)) {
        response.headers_mut().insert(STAT, value);
    }
    response
}

fn archived(stream: ArchiveStream) -> Response {
    ([(header::CONTENT_TYPE, "application/x-tar")], Body::from_stream(stream)).into_response()
}

/// `HEAD /containers/{id}/archive`: what is at a path.
pub async fn head(
    State(daemon): State<Daemon>,
    Name(name): Name,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let path = path(&parameters)?;
    let container = daemon.container(&name)?;
    let stat = daemon.engine.stat_path(&container.id, &path).await.map_err(|error| ApiError::copy(error, &name))?;
    Ok(with_stat(StatusCode::OK.into_response(), &stat))
}

/// `GET /containers/{id}/archive`: what is at a path, as an archive.
pub async fn get(State(daemon): State<Daemon>, Name(name): Name, parameters: Parameters) -> Result<Response, ApiError> {
    let path = path(&parameters)?;
    let container = daemon.container(&name)?;
    let (stat, stream) =
        daemon.engine.archive(&container.id, &path).await.map_err(|error| ApiError::copy(error, &name))?;
    Ok(with_stat(archived(stream), &stat))
}

/// `PUT /containers/{id}/archive`: an archive is unpacked into a directory.
pub async fn put(
    State(daemon): State<Daemon>,
    Name(name): Name,
    parameters: Parameters,
    request: Request,
) -> Result<StatusCode, ApiError> {
    let mut body = reader(request.into_body());
    let outcome = extract(&daemon, &name, &parameters, &mut body).await;
    drain(body).await;
    outcome.map(|()| StatusCode::OK)
}

async fn extract(
    daemon: &Daemon,
    name: &str,
    parameters: &Parameters,
    body: &mut (impl AsyncRead + Send + Unpin),
) -> Result<(), ApiError> {
    let path = path(parameters)?;
    let container = daemon.container(name)?;
    let options = ExtractOptions {
        as_container_user: parameters.flag("copyUIDGID"),
        keeps_kinds: parameters.flag("noOverwriteDirNonDir"),
    };
    daemon.engine.extract(&container.id, &path, options, body).await.map_err(|error| ApiError::copy(error, name))
}

/// `GET /containers/{id}/export`: the whole file system.
pub async fn export(State(daemon): State<Daemon>, Name(name): Name) -> Result<Response, ApiError> {
    let container = daemon.container(&name)?;
    let stream = daemon.engine.export(&container.id).await.map_err(|error| ApiError::copy(error, &name))?;
    Ok(archived(stream))
}
