//! `/containers`: lists, and what is done to one container.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use bollard_stubs::models::{ContainerInspectResponse, ContainerSummary};
use stack_engine::RemoveOptions;
use stack_engine::container::{Container, ContainerState};
use stack_engine::image::Image;

use super::Name;
use crate::decode::{Parameters, signal};
use crate::encode::container::{Subject, inspect as encode, summary};
use crate::encode::image::Configuration;
use crate::error::ApiError;
use crate::select::{self, ListRequest};
use crate::{Daemon, error};

impl Daemon {
    /// The container that a path means.
    pub(super) fn container(&self, name: &str) -> Result<Container, ApiError> {
        select::container(self.engine.list(), name)
    }

    /// Everything that containers' documents need beside them. Reads the disk.
    fn subjects(&self, containers: Vec<Container>) -> Vec<Subject> {
        let volumes = self.engine.volumes();
        let volume_paths: HashMap<String, String> = volumes
            .list()
            .into_iter()
            .filter_map(|volume| {
                let path = volumes.data(&volume.name).ok()?;
                Some((volume.name, path.display().to_string()))
            })
            .collect();
        let mut images: HashMap<String, Option<(Image, Configuration)>> = HashMap::new();
        let look_up = |digest: &str| {
            let image = self.engine.images().get(digest);
            let read = image.map_err(ApiError::from).and_then(|image| {
                let configuration = Configuration::read(&image);
                let configuration = configuration
                    .map_err(|source| ApiError::ImageConfiguration { name: image.id.to_string(), source })?;
                Ok((image, configuration))
            });
            // A container outlives its image's names; what is not known any more is left out.
            read.inspect_err(|problem| tracing::debug!(digest, problem = error::full_text(problem), "no image")).ok()
        };
        containers
            .into_iter()
            .map(|container| {
                let known =
                    images.entry(container.image_digest.clone()).or_insert_with(|| look_up(&container.image_digest));
                let image_id =
                    known.as_ref().map_or_else(|| container.image_digest.clone(), |(image, _)| image.id.to_string());
                let image = known.as_ref().and_then(|(_, configuration)| configuration.config.clone());
                let attachment = self.engine.networks().attachment(container.id.as_str()).unwrap_or_default();
                let execs = self.engine.execs_of(&container.id).iter().map(|exec| exec.id.to_string()).collect();
                Subject {
                    execs,
                    image: image.unwrap_or_default(),
                    image_id,
                    attachment,
                    volume_paths: volume_paths.clone(),
                    container,
                }
            })
            .collect()
    }

    /// The same, away from the threads that serve.
    async fn subjects_of(&self, containers: Vec<Container>) -> Result<Vec<Subject>, ApiError> {
        let daemon = self.clone();
        tokio::task::spawn_blocking(move || daemon.subjects(containers)).await.map_err(|_| ApiError::Interrupted)
    }
}

/// `GET /containers/json`.
pub async fn list(
    State(daemon): State<Daemon>,
    parameters: Parameters,
) -> Result<Json<Vec<ContainerSummary>>, ApiError> {
    let request = ListRequest::decode(&parameters)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    let subjects = daemon.subjects_of(request.select(daemon.engine.list())).await?;
    Ok(Json(subjects.iter().map(|subject| summary(subject, now)).collect()))
}

/// `GET /containers/{id}/json`.
pub async fn inspect(
    State(daemon): State<Daemon>,
    Name(name): Name,
    parameters: Parameters,
) -> Result<Json<ContainerInspectResponse>, ApiError> {
    if parameters.flag("size") {
        return Err(ApiError::NotSupported { what: "the parameter `size` of GET /containers/{id}/json".to_owned() });
    }
    let container = daemon.container(&name)?;
    let subjects = daemon.subjects_of(vec![container]).await?;
    subjects.first().map(|subject| Json(encode(subject))).ok_or(ApiError::NoSuchContainer { name })
}

/// Refuses what only asks for something that cannot be done yet.
fn without(parameters: &Parameters, names: &[&str], route: &str) -> Result<(), ApiError> {
    match names.iter().find(|name| parameters.text(name).is_some()) {
        Some(name) => Err(ApiError::NotSupported { what: format!("the parameter `{name}` of {route}") }),
        None => Ok(()),
    }
}

/// `POST /containers/{id}/start`.
pub async fn start(
    State(daemon): State<Daemon>,
    Name(name): Name,
    parameters: Parameters,
) -> Result<StatusCode, ApiError> {
    without(&parameters, &["checkpoint", "checkpoint-dir"], "POST /containers/{id}/start")?;
    let container = daemon.container(&name)?;
    if matches!(container.state, ContainerState::Running { .. } | ContainerState::Starting) {
        return Ok(StatusCode::NOT_MODIFIED);
    }
    daemon.engine.start(&container.id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /containers/{id}/stop`.
pub async fn stop(
    State(daemon): State<Daemon>,
    Name(name): Name,
    parameters: Parameters,
) -> Result<StatusCode, ApiError> {
    without(&parameters, &["signal"], "POST /containers/{id}/stop")?;
    let grace = parameters.grace()?;
    let container = daemon.container(&name)?;
    if !matches!(container.state, ContainerState::Running { .. } | ContainerState::Starting) {
        return Ok(StatusCode::NOT_MODIFIED);
    }
    let engine = daemon.engine.clone();
    // On a task of its own: a client that goes away has asked for the stop all the same.
    tokio::spawn(async move { engine.stop(&container.id, grace).await }).await.map_err(|_| ApiError::Interrupted)??;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /containers/{id}/restart`.
pub async fn restart(
    State(daemon): State<Daemon>,
    Name(name): Name,
    parameters: Parameters,
) -> Result<StatusCode, ApiError> {
    without(&parameters, &["signal"], "POST /containers/{id}/restart")?;
    let grace = parameters.grace()?;
    let container = daemon.container(&name)?;
    let engine = daemon.engine.clone();
    let restarted = tokio::spawn(async move {
        engine.stop(&container.id, grace).await?;
        engine.start(&container.id).await?;
        Ok::<_, ApiError>(())
    });
    restarted.await.map_err(|_| ApiError::Interrupted)??;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /containers/{id}/kill`.
pub async fn kill(
    State(daemon): State<Daemon>,
    Name(name): Name,
    parameters: Parameters,
) -> Result<StatusCode, ApiError> {
    let signal = signal(&parameters)?;
    let container = daemon.container(&name)?;
    if !matches!(container.state, ContainerState::Running { .. }) {
        return Err(ApiError::NotRunning { name });
    }
    daemon.engine.kill(&container.id, signal).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `DELETE /containers/{id}`.
pub async fn remove(
    State(daemon): State<Daemon>,
    Name(name): Name,
    parameters: Parameters,
) -> Result<StatusCode, ApiError> {
    if parameters.flag("link") {
        return Err(ApiError::NotSupported { what: "the parameter `link` of DELETE /containers/{id}".to_owned() });
    }
    let options = RemoveOptions { force: parameters.flag("force"), volumes: parameters.flag("v") };
    let container = daemon.container(&name)?;
    let engine = daemon.engine.clone();
    let removed = tokio::spawn(async move { engine.remove(&container.id, options).await });
    removed.await.map_err(|_| ApiError::Interrupted)??;
    Ok(StatusCode::NO_CONTENT)
}
