//! `/volumes`.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use bollard_stubs::models::{Volume, VolumeCreateRequest, VolumeListResponse, VolumePruneResponse};
use stack_engine::events::Pruned;
use stack_engine::volume::VolumeError;

use super::Name;
use super::exec::bytes;
use super::images::{blocking, only, switch};
use crate::Daemon;
use crate::decode::{Filters, Parameters};
use crate::encode::network as encode;
use crate::encode::text::signed;
use crate::error::ApiError;

fn document(daemon: &Daemon, volume: &stack_engine::volume::Volume) -> Result<Volume, ApiError> {
    let path = daemon.engine.volumes().data(&volume.name)?;
    Ok(encode::volume(volume, path.display().to_string()))
}

fn has_labels(filters: &Filters, volume: &stack_engine::volume::Volume) -> bool {
    filters.match_labels(|key| volume.labels.get(key).map(String::as_str))
}

/// `GET /volumes`.
pub async fn list(State(daemon): State<Daemon>, parameters: Parameters) -> Result<Json<VolumeListResponse>, ApiError> {
    let filters = parameters.filters()?;
    only(&filters, &["dangling", "label", "label!", "name", "driver"])?;
    let dangling = switch(&filters, "dangling")?;
    blocking(move || {
        let users = daemon.engine.volume_users();
        let mut rows = Vec::new();
        for volume in daemon.engine.volumes().list() {
            let any = |name: &str, matches: &dyn Fn(&str) -> bool| {
                let values = filters.values(name);
                values.is_empty() || values.iter().any(|value| matches(value))
            };
            if any("name", &|wanted| volume.name.contains(wanted))
                && any("driver", &|wanted| wanted == "local")
                && dangling.is_none_or(|wanted| wanted != users.contains_key(&volume.name))
                && has_labels(&filters, &volume)
            {
                rows.push(document(&daemon, &volume)?);
            }
        }
        Ok(Json(VolumeListResponse { volumes: Some(rows), warnings: Some(Vec::new()) }))
    })
    .await
}

/// `GET /volumes/{name}`.
pub async fn inspect(State(daemon): State<Daemon>, Name(name): Name) -> Result<Json<Volume>, ApiError> {
    blocking(move || {
        let volume = daemon.engine.volumes().inspect(&name)?;
        Ok(Json(document(&daemon, &volume)?))
    })
    .await
}

/// `POST /volumes/create`: one that is there already is answered as it is.
pub async fn create(
    State(daemon): State<Daemon>,
    mut request: Request,
) -> Result<(StatusCode, Json<Volume>), ApiError> {
    let body = bytes(&mut request).await?;
    let body = if body.is_empty() { b"{}".as_slice().into() } else { body };
    let asked: VolumeCreateRequest =
        serde_json::from_slice(&body).map_err(|error| ApiError::Body { problem: error.to_string() })?;
    let driver = asked.driver.unwrap_or_default();
    if !["", "local"].contains(&driver.as_str()) {
        return Err(ApiError::NoSuchDriver { kind: "volume", name: driver });
    }
    if asked.cluster_volume_spec.is_some() {
        return Err(ApiError::NoManager);
    }
    let name = asked.name.filter(|name| !name.is_empty());
    let anonymous = name.is_none();
    let name = name.unwrap_or_else(|| hex::encode(rand::random::<[u8; 32]>()));
    let mut labels: std::collections::BTreeMap<String, String> = asked.labels.unwrap_or_default().into_iter().collect();
    if anonymous {
        labels.insert(ANONYMOUS.to_owned(), String::new());
    }
    let options = asked.driver_opts.unwrap_or_default().into_iter().collect();
    blocking(move || {
        daemon.engine.volumes().create(&name, &labels, &options)?;
        let volume = daemon.engine.volumes().inspect(&name)?;
        Ok((StatusCode::CREATED, Json(document(&daemon, &volume)?)))
    })
    .await
}

/// What Docker marks volumes with that were given no name.
const ANONYMOUS: &str = "com.docker.volume.anonymous";

/// `DELETE /volumes/{name}`.
pub async fn remove(
    State(daemon): State<Daemon>,
    Name(name): Name,
    parameters: Parameters,
) -> Result<StatusCode, ApiError> {
    let force = parameters.flag("force");
    blocking(move || match daemon.engine.remove_volume(&name) {
        Err(VolumeError::Missing { .. }) if force => Ok(StatusCode::NO_CONTENT),
        result => {
            result?;
            Ok(StatusCode::NO_CONTENT)
        }
    })
    .await
}

/// `POST /volumes/prune`: those without a name of their own, or with the filter `all` every one that no container has.
pub async fn prune(
    State(daemon): State<Daemon>,
    parameters: Parameters,
) -> Result<Json<VolumePruneResponse>, ApiError> {
    let filters = parameters.filters()?;
    only(&filters, &["all", "label", "label!"])?;
    let all = switch(&filters, "all")?.unwrap_or(false);
    blocking(move || {
        let users = daemon.engine.volume_users();
        let (mut removed, mut freed) = (Vec::new(), 0);
        for volume in daemon.engine.volumes().list() {
            let anonymous = volume.owner.is_some() || volume.labels.contains_key(ANONYMOUS);
            if users.contains_key(&volume.name) || !(all || anonymous) || !has_labels(&filters, &volume) {
                continue;
            }
            let size = daemon.engine.volumes().size_bytes(&volume.name).unwrap_or(0);
            match daemon.engine.remove_volume(&volume.name) {
                Ok(()) => {
                    freed += size;
                    removed.push(volume.name);
                }
                // Somebody took it meanwhile.
                Err(VolumeError::InUse { .. } | VolumeError::Missing { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        daemon.engine.tell_pruned(Pruned::Volumes, freed);
        Ok(Json(VolumePruneResponse { volumes_deleted: Some(removed), space_reclaimed: Some(signed(freed)) }))
    })
    .await
}
