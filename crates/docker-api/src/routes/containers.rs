//! `/containers`: lists, and what is done to one container.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use bollard_stubs::models::{
    ContainerInspectResponse, ContainerPruneResponse, ContainerSummary, ContainerUpdateResponse,
};
use stack_engine::RemoveOptions;
use stack_engine::container::{Container, ContainerState, RemoveError};
use stack_engine::events::Pruned;
use stack_engine::image::Image;

use super::Name;
use super::create::container_name;
use super::exec::bytes;
use super::images::only;
use crate::decode::create::{World, decode_update};
use crate::decode::{Parameters, signal};
use crate::encode::container::{Subject, inspect as encode, summary};
use crate::encode::image::Configuration;
use crate::encode::text::{seconds, signed};
use crate::error::ApiError;
use crate::select::{self, ListRequest};
use crate::{Daemon, error};

impl Daemon {
    /// The container that a path means.
    pub(super) fn container(&self, name: &str) -> Result<Container, ApiError> {
        select::container(self.engine.list(), name)
    }

    /// Whether somebody else on this host looks after a container.
    fn is_managed(&self, container: &Container) -> bool {
        container.labels.contains_key(crate::MANAGED)
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
        let known = self.engine.networks().list().into_iter();
        let network_ids: HashMap<String, String> = known.map(|found| (found.network.name, found.network.id)).collect();
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
                let image_bytes = known.as_ref().map_or(0, |(image, _)| image.size_bytes);
                Subject {
                    execs,
                    image_bytes,
                    image: image.unwrap_or_default(),
                    image_id,
                    network_ids: network_ids.clone(),
                    attachment,
                    volume_paths: volume_paths.clone(),
                    container,
                }
            })
            .collect()
    }

    /// The same, away from the threads that serve.
    pub(super) async fn subjects_of(&self, containers: Vec<Container>) -> Result<Vec<Subject>, ApiError> {
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
    let subjects = daemon.subjects_of(request.select(daemon.engine.list())?).await?;
    let mut rows: Vec<ContainerSummary> = subjects.iter().map(|subject| summary(subject, now)).collect();
    if parameters.flag("size") {
        for (row, subject) in rows.iter_mut().zip(&subjects) {
            let own = daemon.engine.own_bytes(&subject.container.id).await.unwrap_or(0);
            row.size_rw = Some(signed(own));
            row.size_root_fs = Some(signed(own.saturating_add(subject.image_bytes)));
        }
    }
    Ok(Json(rows))
}

/// `GET /containers/{id}/json`.
pub async fn inspect(
    State(daemon): State<Daemon>,
    Name(name): Name,
    parameters: Parameters,
) -> Result<Json<ContainerInspectResponse>, ApiError> {
    let container = daemon.container(&name)?;
    let subjects = daemon.subjects_of(vec![container]).await?;
    let subject = subjects.first().ok_or(ApiError::NoSuchContainer { name })?;
    let (engine, shown) = (daemon.engine.clone(), subject.container.clone());
    let profile = tokio::task::spawn_blocking(move || engine.apparmor_profile(&shown));
    let mut document = encode(subject);
    document.app_armor_profile = Some(profile.await.map_err(|_| ApiError::Interrupted)?);
    if parameters.flag("size") {
        let own = daemon.engine.own_bytes(&subject.container.id).await.unwrap_or(0);
        document.size_rw = Some(signed(own));
        document.size_root_fs = Some(signed(own.saturating_add(subject.image_bytes)));
    }
    Ok(Json(document))
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
    daemon.engine.reach_log_endpoint(&container.id).await?;
    daemon.engine.start(&container.id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /containers/{id}/stop`.
pub async fn stop(
    State(daemon): State<Daemon>,
    Name(name): Name,
    parameters: Parameters,
) -> Result<StatusCode, ApiError> {
    let (signal, grace) = (parameters.signal("signal")?, parameters.grace()?);
    let container = daemon.container(&name)?;
    let runs = matches!(container.state, ContainerState::Running { .. } | ContainerState::Starting);
    if !runs && !container.restarting {
        return Ok(StatusCode::NOT_MODIFIED);
    }
    let engine = daemon.engine.clone();
    // On a task of its own: a client that goes away has asked for the stop all the same.
    tokio::spawn(async move { engine.stop_with(&container.id, signal, grace).await })
        .await
        .map_err(|_| ApiError::Interrupted)??;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /containers/{id}/restart`.
pub async fn restart(
    State(daemon): State<Daemon>,
    Name(name): Name,
    parameters: Parameters,
) -> Result<StatusCode, ApiError> {
    let (signal, grace) = (parameters.signal("signal")?, parameters.grace()?);
    let container = daemon.container(&name)?;
    let engine = daemon.engine.clone();
    let restarted = tokio::spawn(async move { engine.restart(&container.id, signal, grace).await });
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

/// `POST /containers/{id}/pause`.
pub async fn pause(State(daemon): State<Daemon>, Name(name): Name) -> Result<StatusCode, ApiError> {
    let container = daemon.container(&name)?;
    daemon.engine.pause(&container.id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /containers/{id}/unpause`.
pub async fn unpause(State(daemon): State<Daemon>, Name(name): Name) -> Result<StatusCode, ApiError> {
    let container = daemon.container(&name)?;
    daemon.engine.unpause(&container.id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /containers/{id}/rename`.
pub async fn rename(
    State(daemon): State<Daemon>,
    Name(name): Name,
    parameters: Parameters,
) -> Result<StatusCode, ApiError> {
    let container = daemon.container(&name)?;
    let new = container_name(parameters.text("name").unwrap_or_default())?;
    if container.name == new {
        return Err(ApiError::SameName);
    }
    daemon.engine.rename(&container.id, &new).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /containers/{id}/update`: what the body has is changed, and the rest stays.
pub async fn update(
    State(daemon): State<Daemon>,
    Name(name): Name,
    mut request: Request,
) -> Result<Json<ContainerUpdateResponse>, ApiError> {
    let body = bytes(&mut request).await?;
    let container = daemon.container(&name)?;
    let (change, warnings) = decode_update(&body, &container.config.resources, &World::of_host())?;
    daemon.engine.update(&container.id, change).await?;
    Ok(Json(ContainerUpdateResponse { warnings: Some(warnings) }))
}

/// `POST /containers/prune`: those that do not run.
pub async fn prune(
    State(daemon): State<Daemon>,
    parameters: Parameters,
) -> Result<Json<ContainerPruneResponse>, ApiError> {
    let filters = parameters.filters()?;
    only(&filters, &["label", "label!", "until"])?;
    let until = filters.until()?;
    let (mut removed, mut freed) = (Vec::new(), 0);
    for container in daemon.engine.list() {
        let is_over = matches!(container.state, ContainerState::Created | ContainerState::Exited(_));
        // Those that others look after, the tasks of stacks among them, are not this one's to take away.
        let is_free = is_over && !container.restarting && !daemon.is_managed(&container);
        let is_old = until.is_none_or(|until| seconds(container.created_at) < until);
        if !is_free || !is_old || !filters.match_labels(|key| container.labels.get(key).map(String::as_str)) {
            continue;
        }
        let size = daemon.engine.own_bytes(&container.id).await.unwrap_or(0);
        match daemon.engine.remove(&container.id, RemoveOptions::default()).await {
            Ok(()) => {
                freed += size;
                removed.push(container.id.to_string());
            }
            // Somebody was quicker, or has started it.
            Err(RemoveError::Missing { .. } | RemoveError::Running { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    daemon.engine.tell_pruned(Pruned::Containers, freed);
    Ok(Json(ContainerPruneResponse { containers_deleted: Some(removed), space_reclaimed: Some(signed(freed)) }))
}

/// `DELETE /containers/{id}`.
pub async fn remove(
    State(daemon): State<Daemon>,
    Name(name): Name,
    parameters: Parameters,
) -> Result<StatusCode, ApiError> {
    if parameters.flag("link") {
        // Links are names that other containers have for one, and go with them.
        return Err(ApiError::NoSuchLink { name });
    }
    let options = RemoveOptions { force: parameters.flag("force"), volumes: parameters.flag("v") };
    let container = daemon.container(&name)?;
    let engine = daemon.engine.clone();
    let removed = tokio::spawn(async move { engine.remove(&container.id, options).await });
    removed.await.map_err(|_| ApiError::Interrupted)??;
    Ok(StatusCode::NO_CONTENT)
}
