//! `/auth` and `/distribution`: questions to registries.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::Method;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use bollard_stubs::models::ImageSearchResponseItem;
use serde_json::{Value, json};
use stack_engine::image::Reference;

use super::Name;
use super::exec::bytes;
use crate::decode::Parameters;
use crate::decode::image::{Login, Search, registry_auth};
use crate::error::ApiError;
use crate::{Daemon, encode, surface};

/// `POST /auth`: whether a registry takes a name and a password. They are kept by the client alone.
pub async fn login(State(daemon): State<Daemon>, mut request: Request) -> Result<Response, ApiError> {
    let body = bytes(&mut request).await?;
    // What is in it is not repeated.
    let login: Login = serde_json::from_slice(&body)
        .map_err(|_| ApiError::Body { problem: "expected a name, a password and a registry".to_owned() })?;
    let Some(credentials) = login.credentials()? else {
        return Err(ApiError::Body { problem: "a login needs a `username` and a `password`".to_owned() });
    };
    let address = login.serveraddress.trim_start_matches("https://").trim_start_matches("http://");
    let registry = match address.split('/').next().unwrap_or_default() {
        "" | "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    };
    match daemon.engine.images().login(registry, &credentials).await {
        Ok(()) => Ok(Json(json!({ "Status": "Login Succeeded", "IdentityToken": "" })).into_response()),
        Err(error @ stack_engine::image::PullError::Unauthorized { .. }) => {
            let message = format!("login attempt to {registry} failed: {error}");
            Ok((StatusCode::UNAUTHORIZED, Json(json!({ "message": message }))).into_response())
        }
        Err(error) => Err(error.into()),
    }
}

/// `GET /images/search`: what a registry finds by a term.
pub async fn search(
    State(daemon): State<Daemon>,
    parameters: Parameters,
    request: Request,
) -> Result<Json<Vec<ImageSearchResponseItem>>, ApiError> {
    let asked = Search::decode(&parameters)?;
    let header = request.headers().get("x-registry-auth").and_then(|value| value.to_str().ok());
    // Who has no login, or one that cannot be understood, asks without a name, as with Docker.
    let credentials = registry_auth(header).unwrap_or_default();
    if asked.is_automated == Some(true) {
        // No registry builds images by itself any more.
        return Ok(Json(Vec::new()));
    }
    let found = daemon.engine.images().search(&asked.term, asked.limit, credentials.as_ref()).await;
    let found = found.map_err(ApiError::Search)?;
    Ok(Json(found.into_iter().filter(|image| asked.wants(image)).map(encode::image::found).collect()))
}

/// `GET /distribution/{name}/json`: what a registry has under a name.
pub async fn inspect(
    State(daemon): State<Daemon>,
    Name(rest): Name,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let Some(name) = rest.strip_suffix("/json") else {
        return Err(surface::refusal(&Method::GET, &format!("/distribution/{rest}")));
    };
    let header = request.headers().get("x-registry-auth").and_then(|value| value.to_str().ok());
    let credentials = registry_auth(header)?;
    let reference: Reference = name.parse().map_err(|source| ApiError::Reference { text: name.to_owned(), source })?;
    let (digest, bytes) = daemon.engine.images().manifest(&reference, credentials.as_ref()).await?;
    let document: Value = serde_json::from_slice(&bytes)
        .map_err(|source| ApiError::ImageConfiguration { name: name.to_owned(), source })?;
    // An index says for which machines it is; of a manifest only its configuration would.
    let platforms: Vec<Value> = document["manifests"]
        .as_array()
        .map(|all| all.iter().filter_map(|one| one.get("platform").cloned()).collect())
        .unwrap_or_default();
    Ok(Json(json!({
        "Descriptor": { "mediaType": document["mediaType"], "digest": digest.as_str(), "size": bytes.len() },
        "Platforms": platforms,
    })))
}
