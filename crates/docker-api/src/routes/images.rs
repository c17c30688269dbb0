//! `/images`: what there is, its names, and its end.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use bollard_stubs::models::{ImageDeleteResponseItem, ImagePruneResponse, ImageSummary};
use stack_engine::container::{Container, ContainerState};
use stack_engine::events::Pruned;
use stack_engine::image::{Image, PruneScope, Reference};

use super::Name;
use super::image_transfer;
use crate::decode::image::registry_auth;
use crate::decode::{DecodeError, Filters, Parameters};
use crate::encode::image::{Configuration, created, history, inspected, summary};
use crate::encode::text::{familiar, signed};
use crate::error::{ApiError, full_text};
use crate::{Daemon, surface};

/// Work that reads the disk, away from the threads that serve.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| ApiError::Interrupted)?
}

/// Refuses filters that there are not.
pub(super) fn only(filters: &Filters, known: &[&str]) -> Result<(), ApiError> {
    match filters.names().find(|name| !known.contains(name)) {
        Some(name) => Err(DecodeError::Filter { name: name.to_owned() }.into()),
        None => Ok(()),
    }
}

/// A filter that is yes or no.
pub(super) fn switch(filters: &Filters, name: &'static str) -> Result<Option<bool>, ApiError> {
    match filters.values(name).first().map(String::as_str) {
        None => Ok(None),
        Some("1" | "true" | "True" | "TRUE" | "t" | "T") => Ok(Some(true)),
        Some("0" | "false" | "False" | "FALSE" | "f" | "F") => Ok(Some(false)),
        Some(other) => Err(DecodeError::FilterValue { name, value: other.to_owned() }.into()),
    }
}

/// What an image is called where it has no name: the beginning of its identifier.
fn short(image: &Image) -> String {
    image.id.hex().chars().take(12).collect()
}

impl Daemon {
    /// The containers that were made of an image, or mount it.
    pub(super) fn users_of(&self, image: &Image) -> Vec<Container> {
        let digest = image.digest.to_string();
        self.engine.list().into_iter().filter(|container| container.needs_image(&digest)).collect()
    }
}

/// `GET /images/json`.
pub async fn list(State(daemon): State<Daemon>, parameters: Parameters) -> Result<Json<Vec<ImageSummary>>, ApiError> {
    let filters = parameters.filters()?;
    only(&filters, &["dangling", "label", "reference", "before", "since", "until"])?;
    let dangling = switch(&filters, "dangling")?;
    let patterns = filters.values("reference").iter().map(|text| pattern(text)).collect::<Result<Vec<_>, _>>()?;
    let until = filters.until()?;
    let with_shared = parameters.flag("shared-size");
    blocking(move || {
        let images = daemon.engine.images().list()?;
        let bound = |name: &str| -> Result<Option<i64>, ApiError> {
            let found = filters.values(name).first().map(|text| daemon.engine.images().get(text)).transpose()?;
            Ok(found.as_ref().map(created))
        };
        let (before, since) = (bound("before")?, bound("since")?);
        let shared = with_shared.then(|| shared_layers(&images));
        let mut rows = Vec::new();
        for image in &images {
            // One damaged image does not hide the others; it is told when it is asked for itself.
            let configuration = Configuration::read(image).unwrap_or_else(|problem| {
                tracing::warn!(image = %image.id, problem = full_text(&problem), "an image's configuration is damaged");
                Configuration::default()
            });
            let mut row = summary(image, &configuration);
            if let Some(shared) = &shared {
                row.shared_size = signed(shared_size(image, shared));
            }
            let is_dangling = row.repo_tags.is_empty();
            if !patterns.is_empty() {
                // Of several names those are shown that match.
                row.repo_tags.retain(|tag| {
                    let repository = tag.rsplit_once(':').map_or(tag.as_str(), |(repository, _)| repository);
                    patterns.iter().any(|pattern| pattern.is_match(tag) || pattern.is_match(repository))
                });
            }
            let fits = dangling.is_none_or(|wanted| wanted == is_dangling)
                && (patterns.is_empty() || !row.repo_tags.is_empty())
                && before.is_none_or(|before| row.created < before)
                && since.is_none_or(|since| row.created > since)
                && until.is_none_or(|until| row.created < until)
                && filters.match_labels(|key| row.labels.get(key).map(String::as_str));
            if fits {
                rows.push(row);
            }
        }
        rows.sort_by(|one, other| (other.created, &one.id).cmp(&(one.created, &other.id)));
        Ok(Json(rows))
    })
    .await
}

/// How many images have each layer.
pub(super) fn shared_layers(images: &[Image]) -> BTreeMap<PathBuf, usize> {
    let mut counts = BTreeMap::new();
    for layer in images.iter().flat_map(|image| image.layers.iter().collect::<BTreeSet<_>>()) {
        *counts.entry(layer.clone()).or_default() += 1;
    }
    counts
}

/// Bytes of an image's layers that other images have, too.
pub(super) fn shared_size(image: &Image, counts: &BTreeMap<PathBuf, usize>) -> u64 {
    let layers = image.layers.iter().zip(&image.layer_bytes);
    layers.filter(|(layer, _)| counts.get(*layer).is_some_and(|count| *count > 1)).map(|(_, bytes)| bytes).sum()
}

/// A pattern over names as people write them: `*` and `?` stop at a slash.
fn pattern(text: &str) -> Result<regex::Regex, ApiError> {
    let wrong = || DecodeError::FilterValue { name: "reference", value: text.chars().take(80).collect() };
    let mut expression = String::from("^");
    for character in familiar(text).chars() {
        match character {
            '*' => expression.push_str("[^/]*"),
            '?' => expression.push_str("[^/]"),
            '[' | ']' | '-' | '^' => expression.push(character),
            other => expression.push_str(&regex::escape(other.encode_utf8(&mut [0; 4]))),
        }
    }
    expression.push('$');
    regex::RegexBuilder::new(&expression).size_limit(1 << 16).build().map_err(|_| wrong().into())
}

/// `GET /images/{name}/…`; the name may have parts of its own.
pub async fn of_one(State(daemon): State<Daemon>, Name(rest): Name, request: Request) -> Result<Response, ApiError> {
    let refused = || surface::refusal(&Method::GET, &format!("/images/{rest}"));
    let Some((name, what)) = rest.rsplit_once('/') else { return Err(refused()) };
    let name = name.to_owned();
    match what {
        "json" => Ok(blocking(move || {
            let image = daemon.engine.images().get(&name)?;
            let configuration =
                Configuration::read(&image).map_err(|source| ApiError::ImageConfiguration { name, source })?;
            Ok(Json(inspected(&image, configuration)))
        })
        .await?
        .into_response()),
        "history" => Ok(blocking(move || {
            let image = daemon.engine.images().get(&name)?;
            let configuration =
                Configuration::read(&image).map_err(|source| ApiError::ImageConfiguration { name, source })?;
            Ok(Json(history(&image, &configuration)))
        })
        .await?
        .into_response()),
        "get" => image_transfer::save(daemon, vec![name]).await,
        _ => {
            drop(request);
            Err(refused())
        }
    }
}

/// `POST /images/{name}/tag` and `…/push`.
pub async fn change(
    State(daemon): State<Daemon>,
    Name(rest): Name,
    parameters: Parameters,
    request: Request,
) -> Result<Response, ApiError> {
    let refused = || surface::refusal(&Method::POST, &format!("/images/{rest}"));
    let Some((name, what)) = rest.rsplit_once('/') else { return Err(refused()) };
    let name = name.to_owned();
    match what {
        "tag" => {
            let repository = parameters.text("repo").unwrap_or_default();
            let text = match parameters.text("tag") {
                Some(tag) => format!("{repository}:{tag}"),
                None => repository.to_owned(),
            };
            let new: Reference = text.parse().map_err(|source| ApiError::Reference { text, source })?;
            blocking(move || Ok(daemon.engine.images().tag(&name, &new)?)).await?;
            Ok(StatusCode::CREATED.into_response())
        }
        "push" => {
            let header = request.headers().get("x-registry-auth").and_then(|value| value.to_str().ok());
            let credentials = registry_auth(header)?;
            image_transfer::push(daemon, &name, parameters.text("tag"), credentials)
        }
        _ => Err(refused()),
    }
}

/// `DELETE /images/{name}`.
pub async fn remove(
    State(daemon): State<Daemon>,
    Name(name): Name,
    parameters: Parameters,
) -> Result<Json<Vec<ImageDeleteResponseItem>>, ApiError> {
    let force = parameters.flag("force");
    let image = daemon.engine.images().get(&name)?;
    let users = daemon.users_of(&image);
    let tag = name.parse::<Reference>().ok().and_then(|name| name.tagged_name());
    let by_name = tag.filter(|tag| image.references.contains(tag));
    let running =
        |container: &&Container| matches!(container.state, ContainerState::Running { .. } | ContainerState::Starting);
    let id_of = |container: &Container| container.id.as_str().chars().take(12).collect::<String>();
    let is_last = by_name.is_none() || image.references.len() == 1;
    let conflict = |text: String| Err(ApiError::ImageConflict { text: format!("conflict: unable to {text}") });
    if by_name.is_none() && image.references.len() > 1 && !force {
        return conflict(format!(
            "delete {} (must be forced) - image is referenced in multiple repositories",
            short(&image)
        ));
    }
    if is_last && let Some(user) = users.first() {
        match (&by_name, users.iter().find(running)) {
            (Some(tag), _) if !force => {
                return conflict(format!(
                    "remove repository reference \"{}\" (must force) - container {} is using its referenced image {}",
                    familiar(tag),
                    id_of(user),
                    short(&image)
                ));
            }
            (None, Some(user)) => {
                let (image, user) = (short(&image), id_of(user));
                return conflict(format!(
                    "delete {image} (cannot be forced) - image is being used by running container {user}"
                ));
            }
            (None, None) if !force => {
                let (image, user) = (short(&image), id_of(user));
                return conflict(format!(
                    "delete {image} (must be forced) - image is being used by stopped container {user}"
                ));
            }
            // Its containers keep its content; only its names go.
            (Some(_) | None, _) => {
                let untagged = blocking(move || Ok(daemon.engine.images().untag(&name)?)).await?;
                return Ok(Json(untagged.iter().map(|name| gone(Some(name), None)).collect()));
            }
        }
    }
    let removed = daemon.engine.images().remove(&name, &|_| None).await?;
    let mut rows: Vec<_> = removed.untagged.iter().map(|name| gone(Some(name), None)).collect();
    if !removed.deleted.is_empty() {
        rows.push(gone(None, Some(image.id.to_string())));
    }
    Ok(Json(rows))
}

fn gone(untagged: Option<&String>, deleted: Option<String>) -> ImageDeleteResponseItem {
    ImageDeleteResponseItem { untagged: untagged.map(|name| familiar(name)), deleted }
}

/// `POST /images/prune`.
pub async fn prune(State(daemon): State<Daemon>, parameters: Parameters) -> Result<Json<ImagePruneResponse>, ApiError> {
    let filters = parameters.filters()?;
    only(&filters, &["dangling", "label", "label!", "until"])?;
    let scope = match switch(&filters, "dangling")? {
        Some(false) => PruneScope::Unused,
        _ => PruneScope::Unnamed,
    };
    let until = filters.until()?;
    let containers = daemon.engine.list();
    let images = daemon.engine.images().list()?;
    let mut kept: BTreeSet<String> = containers.iter().flat_map(Container::images).map(str::to_owned).collect();
    let mut ids = BTreeMap::new();
    for image in &images {
        ids.insert(image.digest.clone(), image.id.to_string());
        let configuration = Configuration::read(image).unwrap_or_default();
        let labels = configuration.config.and_then(|config| config.labels).unwrap_or_default();
        let fits = filters.match_labels(|key| labels.get(key).map(String::as_str))
            && until.is_none_or(|until| created(image) < until);
        if !fits {
            kept.insert(image.digest.to_string());
        }
    }
    let in_use = |digest: &stack_engine::content::Digest| kept.contains(digest.as_str()).then(String::new);
    let removed = daemon.engine.images().prune(scope, &in_use).await?;
    daemon.engine.tell_pruned(Pruned::Images, removed.freed_bytes);
    let mut rows: Vec<_> = removed.untagged.iter().map(|name| gone(Some(name), None)).collect();
    rows.extend(removed.deleted.iter().map(|digest| gone(None, ids.get(digest).cloned())));
    let rows = (!rows.is_empty()).then_some(rows);
    Ok(Json(ImagePruneResponse { images_deleted: rows, space_reclaimed: Some(signed(removed.freed_bytes)) }))
}
