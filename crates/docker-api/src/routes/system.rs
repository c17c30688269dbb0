//! `/_ping`, `/version`, `/info` and `/events`.

use std::collections::HashMap;
use std::io;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bollard_stubs::models::{SystemInfo, SystemVersion};
use bytes::Bytes;
use futures::StreamExt as _;
use stack_engine::container::{Container, ContainerId, ContainerState, EventKind};
use tokio_stream::wrappers::BroadcastStream;

use crate::Daemon;
use crate::decode::Parameters;
use crate::encode::event::{Actor, EventFilter, messages};
use crate::encode::system::{self, Counts};
use crate::error::ApiError;
use crate::host::Host;

/// `GET` and `HEAD /_ping`.
pub async fn ping() -> impl IntoResponse {
    let fresh = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache, no-store, must-revalidate"),
        (header::PRAGMA, "no-cache"),
    ];
    (fresh, "OK")
}

/// `GET /version`.
pub async fn version(State(daemon): State<Daemon>) -> Json<SystemVersion> {
    Json(system::version(&daemon.info, &Host::read()))
}

/// `GET /info`.
pub async fn info(State(daemon): State<Daemon>) -> Result<Json<SystemInfo>, ApiError> {
    let work = move || {
        let containers = daemon.engine.list();
        let running = containers.iter().filter(|one| matches!(one.state, ContainerState::Running { .. })).count();
        let images = daemon.engine.images().list()?.len();
        let counts = Counts { containers: containers.len(), running, images };
        let mut warnings = daemon.engine.warnings().to_vec();
        warnings.extend(daemon.engine.networks().warnings());
        Ok(Json(system::info(&daemon.info, &Host::read(), counts, daemon.engine.hierarchies(), warnings)))
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| ApiError::Interrupted)?
}

fn actor(container: Container) -> Actor {
    Actor { name: container.name, image: container.config.image, labels: container.labels.into_iter().collect() }
}

/// `GET /events`: from now on, one JSON document after another.
pub async fn events(State(daemon): State<Daemon>, parameters: Parameters) -> Result<Response, ApiError> {
    for name in ["since", "until"] {
        if parameters.text(name).is_some() {
            return Err(ApiError::NotSupported { what: format!("the parameter `{name}` of GET /events") });
        }
    }
    let filter = EventFilter::decode(parameters.filters()?)?;
    let events = BroadcastStream::new(daemon.engine.events());
    // A container that is gone is still named.
    let mut known: HashMap<ContainerId, Actor> =
        daemon.engine.list().into_iter().map(|container| (container.id.clone(), actor(container))).collect();
    let lines = events.map(move |event| {
        // The client has missed some and should know: its stream breaks, and it asks anew.
        let event = event.map_err(|missed| io::Error::other(format!("events were missed: {missed}")))?;
        if let Some(container) = daemon.engine.inspect(&event.id) {
            known.insert(event.id.clone(), actor(container));
        }
        let about = match event.kind {
            EventKind::Removed => known.remove(&event.id),
            _ => known.get(&event.id).cloned(),
        };
        let about = about.unwrap_or_default();
        let mut line = Vec::new();
        for message in messages(&event, &about).iter().filter(|message| filter.wants(message, &about)) {
            serde_json::to_writer(&mut line, message)?;
            line.push(b'\n');
        }
        Ok::<_, io::Error>(Bytes::from(line))
    });
    let lines = lines.filter(|line| {
        let says = !matches!(line, Ok(line) if line.is_empty());
        async move { says }
    });
    Ok(([(header::CONTENT_TYPE, "application/json")], Body::from_stream(lines)).into_response())
}
