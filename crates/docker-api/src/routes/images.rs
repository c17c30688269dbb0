//! `/images`, `/volumes` and `/networks`: what there is on the host.

use axum::Json;
use axum::extract::State;
use axum::http::Method;
use bollard_stubs::models::{ImageInspect, ImageSummary, Network, Volume, VolumeListResponse};

use super::Name;
use crate::decode::{DecodeError, Filters, Parameters};
use crate::encode::image::{Configuration, inspect, summary};
use crate::encode::network as encode;
use crate::encode::text::familiar;
use crate::error::{ApiError, full_text};
use crate::{Daemon, surface};

/// Work that reads the disk, away from the threads that serve.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| ApiError::Interrupted)?
}

/// Refuses filters beyond those that are understood here.
fn only(filters: &Filters, known: &[&str], route: &str) -> Result<(), ApiError> {
    match filters.names().find(|name| !known.contains(name)) {
        Some(name) => Err(ApiError::NotSupported { what: format!("the filter `{name}` of {route}") }),
        None => Ok(()),
    }
}

/// A filter that is yes or no.
fn switch(filters: &Filters, name: &'static str) -> Result<Option<bool>, ApiError> {
    match filters.values(name).first().map(String::as_str) {
        None => Ok(None),
        Some("1" | "true") => Ok(Some(true)),
        Some("0" | "false") => Ok(Some(false)),
        Some(other) => Err(DecodeError::FilterValue { name, value: other.to_owned() }.into()),
    }
}

/// `GET /images/json`.
pub async fn list(State(daemon): State<Daemon>, parameters: Parameters) -> Result<Json<Vec<ImageSummary>>, ApiError> {
    let filters = parameters.filters()?;
    only(&filters, &["dangling", "label", "reference"], "GET /images/json")?;
    let dangling = switch(&filters, "dangling")?;
    let names = filters.values("reference").to_vec();
    if names.iter().any(|name| name.contains(['*', '?', '['])) {
        return Err(ApiError::NotSupported {
            what: "a pattern in the filter `reference` of GET /images/json".to_owned(),
        });
    }
    blocking(move || {
        let mut rows = Vec::new();
        for image in daemon.engine.images().list()? {
            // One damaged image does not hide the others; it is told when it is asked for itself.
            let configuration = Configuration::read(&image).unwrap_or_else(|problem| {
                tracing::warn!(image = %image.id, problem = full_text(&problem), "an image's configuration is damaged");
                Configuration::default()
            });
            let row = summary(&image, &configuration);
            let named = |tag: &String| {
                let repository = tag.rsplit_once(':').map_or(tag.as_str(), |(repository, _)| repository);
                names.iter().map(|name| familiar(name)).any(|name| name == *tag || name == repository)
            };
            if dangling.is_none_or(|wanted| wanted == row.repo_tags.is_empty())
                && (names.is_empty() || row.repo_tags.iter().any(named))
                && filters.match_labels(|key| row.labels.get(key).map(String::as_str))
            {
                rows.push(row);
            }
        }
        rows.sort_by(|one, other| (other.created, &one.id).cmp(&(one.created, &other.id)));
        Ok(Json(rows))
    })
    .await
}

/// `GET /images/{name}/json`; the name may have parts of its own.
pub async fn of_one(State(daemon): State<Daemon>, Name(rest): Name) -> Result<Json<ImageInspect>, ApiError> {
    let Some(name) = rest.strip_suffix("/json").map(str::to_owned) else {
        return Err(surface::refusal(&Method::GET, &format!("/images/{rest}")));
    };
    blocking(move || {
        let image = daemon.engine.images().get(&name)?;
        let configuration =
            Configuration::read(&image).map_err(|source| ApiError::ImageConfiguration { name, source })?;
        Ok(Json(inspect(&image, configuration)))
    })
    .await
}

/// `GET /volumes`.
pub async fn volumes(
    State(daemon): State<Daemon>,
    parameters: Parameters,
) -> Result<Json<VolumeListResponse>, ApiError> {
    let filters = parameters.filters()?;
    only(&filters, &["dangling", "label", "name", "driver"], "GET /volumes")?;
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
                && filters.match_labels(|key| volume.labels.get(key).map(String::as_str))
            {
                let path = daemon.engine.volumes().data(&volume.name)?;
                rows.push(encode::volume(&volume, path.display().to_string()));
            }
        }
        Ok(Json(VolumeListResponse { volumes: Some(rows), warnings: Some(Vec::new()) }))
    })
    .await
}

/// `GET /volumes/{name}`.
pub async fn volume(State(daemon): State<Daemon>, Name(name): Name) -> Result<Json<Volume>, ApiError> {
    blocking(move || {
        let volume = daemon.engine.volumes().inspect(&name)?;
        let path = daemon.engine.volumes().data(&name)?;
        Ok(Json(encode::volume(&volume, path.display().to_string())))
    })
    .await
}

/// `GET /networks`.
pub async fn networks(State(daemon): State<Daemon>, parameters: Parameters) -> Result<Json<Vec<Network>>, ApiError> {
    let filters = parameters.filters()?;
    only(&filters, &["name", "driver"], "GET /networks")?;
    let known = daemon.engine.networks().list();
    let mut rows = encode::networks(known.iter().map(|status| &status.network));
    let any = |name: &str, word: &Option<String>, matches: fn(&str, &str) -> bool| {
        let values = filters.values(name);
        values.is_empty() || values.iter().any(|value| matches(word.as_deref().unwrap_or_default(), value))
    };
    rows.retain(|row| {
        any("name", &row.name, |word, value| word.contains(value))
            && any("driver", &row.driver, |word, value| word == value)
    });
    Ok(Json(rows))
}
