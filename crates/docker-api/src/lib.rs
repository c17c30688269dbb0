//! The Docker Engine HTTP API of one host: decode a request, ask the engine, encode its answer.
//!
//! `version` negotiates, `decode` and `select` read requests, `encode` and `frame` write answers (all pure), `routes` does
//! what they decided, and `error` says every refusal. `surface` knows the routes that Docker has and this daemon has not, so
//! that no client takes a missing part for an empty answer.

mod cluster;
mod decode;
mod detach;
mod encode;
mod error;
mod frame;
mod host;
mod names;
mod routes;
mod select;
mod surface;
mod top;
mod version;

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use stack_engine::Engine;
use tower::ServiceExt as _;

pub use crate::cluster::{Cluster, ClusterError, ClusterNetwork, NewClusterNetwork, NoCluster, Part};
use crate::error::ApiError;

/// What the daemon says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DaemonInfo {
    /// Names this host among all; shown as the `ID` of `docker info`.
    pub id: String,
    /// Of the program: `0.1.0`.
    pub version: String,
    /// Of the sources that it was built from; empty when that is not known.
    pub commit: String,
    /// Where the engine keeps its things, for `docker info`.
    pub root: PathBuf,
}

/// The label of containers that somebody else on this host makes, starts and removes: the tasks of stacks.
const MANAGED: &str = "stack.task";

/// What every handler has.
#[derive(Clone)]
struct Daemon {
    engine: Engine,
    info: Arc<DaemonInfo>,
    cluster: Arc<dyn Cluster>,
}

/// The API over an engine, for a local socket that only administrators may open: whoever can speak to it commands the host.
pub fn router(engine: Engine, daemon: DaemonInfo, cluster: Arc<dyn Cluster>) -> Router {
    let server = HeaderValue::from_str(&format!("stack/{} (linux)", daemon.version))
        .unwrap_or_else(|_| HeaderValue::from_static("stack (linux)"));
    let routes = routes::routes().with_state(Daemon { engine, info: Arc::new(daemon), cluster });
    Router::new().fallback(move |request: Request| {
        let (routes, server) = (routes.clone(), server.clone());
        async move {
            let mut response = answer(routes, request).await;
            let headers = response.headers_mut();
            headers.insert(header::SERVER, server);
            for (name, value) in [
                ("api-version", version::NEWEST_TEXT),
                ("docker-experimental", "false"),
                ("ostype", "linux"),
                ("swarm", "inactive"),
            ] {
                headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            response
        }
    })
}

/// Takes the version off the path, then routes.
async fn answer(routes: Router, mut request: Request) -> Response {
    let (version, path) = match version::negotiate(request.uri().path()) {
        Ok(negotiated) => negotiated,
        Err(error) => return ApiError::from(error).into_response(),
    };
    let rest = request.uri().query().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    match rest.parse::<Uri>() {
        Ok(uri) => *request.uri_mut() = uri,
        // It was part of a valid address, so nothing else can be wrong than a path that is none.
        Err(_) => return ApiError::PageNotFound.into_response(),
    }
    request.extensions_mut().insert(version);
    match routes.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}
