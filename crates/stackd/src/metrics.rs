//! What this host counts, for Prometheus: engine, agent, and the controller where the host is one.

use std::sync::Arc;

use axum::Router;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use stack_api::{ErrorCode, routes};
use stack_controller::controller::Controller;
use stack_controller::http::Failure;

/// What ends a document in this format.
const END: &str = "# EOF\n";

/// The route, to be guarded by the caller.
pub fn route(registry: Arc<Registry>, controller: Option<Arc<Controller>>) -> Router {
    let answer = move || {
        let (registry, controller) = (Arc::clone(&registry), controller.clone());
        async move { render(&registry, controller.as_deref()) }
    };
    Router::new().route(routes::METRICS.path, get(answer))
}

fn render(registry: &Registry, controller: Option<&Controller>) -> Result<Response, Failure> {
    let failed = |error| Failure::new(ErrorCode::Internal, format!("the metrics cannot be written: {error}"));
    let mut text = String::new();
    encode(&mut text, registry).map_err(failed)?;
    if let Some(controller) = controller {
        let own = text.strip_suffix(END).unwrap_or(&text).to_owned();
        text = own + &controller.metrics().map_err(failed)?;
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}
