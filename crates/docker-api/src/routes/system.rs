//! `/_ping`, `/version`, `/info` and `/events`.

use std::io;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bollard_stubs::models::{SystemInfo, SystemVersion};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use stack_engine::container::ContainerState;
use stack_engine::events::Event;
use tokio_stream::wrappers::BroadcastStream;

use crate::Daemon;
use crate::decode::Parameters;
use crate::encode::event::{EventFilter, messages};
use crate::encode::system::{self, Counts, Hardware};
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
        let mut warnings = daemon.engine.warnings();
        warnings.extend(daemon.engine.networks().warnings());
        let directories = daemon.engine.cdi_directories();
        let catalogue = stack_engine::cdi::read(directories);
        warnings.extend(catalogue.problems().into_iter().map(|problem| format!("CDI: {problem}")));
        let hardware = Hardware {
            apparmor: daemon.engine.apparmor().is_enforced(),
            selinux: daemon.engine.selinux().is_labelling(),
            cdi_directories: directories.iter().map(|directory| directory.display().to_string()).collect(),
            devices: catalogue.names().map(str::to_owned).collect(),
            users: daemon.engine.user_namespaces(),
        };
        let (groups, others) = (daemon.engine.hierarchies(), daemon.engine.runtimes());
        Ok(Json(system::info(&daemon.info, &Host::read(), counts, groups, others, hardware, warnings)))
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| ApiError::Interrupted)?
}

/// `GET /events`: what happened `since` a time, and what happens until `until`, one JSON document after another.
pub async fn events(State(daemon): State<Daemon>, parameters: Parameters) -> Result<Response, ApiError> {
    let filter = EventFilter::decode(parameters.filters()?)?;
    let now = jiff::Timestamp::now();
    let (since, until) = (parameters.moment("since", now)?, parameters.moment("until", now)?);
    // Without a time only what comes; a time in the future is no reason to wait for the past.
    let (past, coming) = daemon.engine.events().since(since.unwrap_or(u64::MAX));
    let ends = move |event: &Event| until.is_some_and(|until| event.time > until);
    let past = futures::stream::iter(past.into_iter().map(Ok));
    // The client has missed some and should know: its stream breaks, and it asks anew.
    let coming =
        BroadcastStream::new(coming).map_err(|missed| io::Error::other(format!("events were missed: {missed}")));
    let left = until.map(|until| {
        Duration::from_nanos(until.saturating_sub(u64::try_from(now.as_nanosecond()).unwrap_or_default()))
    });
    let over = async move {
        match left {
            Some(left) => tokio::time::sleep(left).await,
            None => std::future::pending().await,
        }
    };
    let all = past.chain(coming.take_until(Box::pin(over)));
    let all = all.take_while(move |event| {
        let goes_on = event.as_ref().map_or(true, |event| !ends(event));
        async move { goes_on }
    });
    let lines = all.map(move |event| {
        let event = event?;
        let mut line = Vec::new();
        for message in messages(&event).iter().filter(|message| filter.wants(message)) {
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
