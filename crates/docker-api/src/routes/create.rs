//! `POST /containers/create`.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use bollard_stubs::models::ContainerCreateResponse;
use stack_engine::container::{ContainerId, ContainerMountSource, CreateError};
use stack_engine::image::Image;
use stack_engine::volume::VolumeDescription;

use super::exec::bytes;
use crate::Daemon;
use crate::cluster::ClusterNetwork;
use crate::decode::create::{CreateRequest, Creation, CreationError, KnownNetwork, Reach, World};
use crate::decode::{DecodeError, Parameters};
use crate::encode::image::Configuration;
use crate::encode::network::{between_id, networks};
use crate::error::ApiError;
use crate::{names, select};

/// How many drawn names are tried before one with a number behind it.
const PLAIN_NAMES: u32 = 6;
/// How many names are drawn in all.
const DRAWN_NAMES: u32 = 24;

/// `POST /containers/create`.
pub async fn create(
    State(daemon): State<Daemon>,
    parameters: Parameters,
    mut request: Request,
) -> Result<(StatusCode, Json<ContainerCreateResponse>), ApiError> {
    let name = match parameters.text("name") {
        Some(text) => Some(container_name(text)?),
        None => None,
    };
    let asked = CreateRequest::read(&bytes(&mut request).await?)?;
    let platform = parameters.text("platform").map(str::to_owned);
    let between = daemon.networks_between_hosts().await;
    let creation = {
        let daemon = daemon.clone();
        let work = move || daemon.decide(asked, platform.as_deref(), &between);
        tokio::task::spawn_blocking(work).await.map_err(|_| ApiError::Interrupted)??
    };
    let id = daemon.make(name, &creation).await?;
    Ok((StatusCode::CREATED, Json(ContainerCreateResponse { id: id.to_string(), warnings: creation.warnings })))
}

/// A name as clients write it: with or without a slash before it.
pub(super) fn container_name(text: &str) -> Result<String, DecodeError> {
    let name = text.strip_prefix('/').unwrap_or(text);
    if names::is_valid(name) {
        return Ok(name.to_owned());
    }
    Err(DecodeError::ContainerName { name: text.chars().take(80).collect() })
}

impl Daemon {
    /// What a request means on this host. Reads the disk, and makes the volumes that it names.
    fn decide(
        &self,
        asked: CreateRequest,
        platform: Option<&str>,
        between: &[ClusterNetwork],
    ) -> Result<Creation, ApiError> {
        let image = self.engine.images().get(asked.image()?)?;
        if let Some(wanted) = platform {
            check_platform(&image, asked.image()?, wanted)?;
        }
        let creation = asked.clone().translate(&self.world(&asked, &image, between)).map_err(needed)?;
        for mount in &creation.config.mounts {
            if let ContainerMountSource::Image { reference, .. } = &mount.source {
                self.engine.images().get(reference).map_err(|error| needed(error.into()))?;
            }
        }
        for volume in &creation.volumes {
            let VolumeDescription { labels, options } = &volume.description;
            if options.is_empty() {
                self.engine.volumes().ensure(&volume.name, labels, None)?;
            } else {
                self.engine.volumes().create(&volume.name, labels, options)?;
            }
        }
        for (target, description) in &creation.config.own_volumes {
            description.check(target)?;
        }
        Ok(creation)
    }

    /// What a request may refer to.
    fn world(&self, asked: &CreateRequest, image: &Image, between: &[ClusterNetwork]) -> World {
        let containers = self.engine.list();
        let declared = |digest: &str| -> Vec<String> {
            let image = self.engine.images().get(digest).ok();
            let configuration = image.and_then(|image| Configuration::read(&image).ok());
            configuration.and_then(|found| found.config?.volumes).unwrap_or_default()
        };
        let mut image_volumes = BTreeMap::new();
        for text in asked.volumes_from() {
            let name = text.rsplit_once(':').map_or(text.as_str(), |(name, _)| name);
            if let Ok(container) = select::container(containers.clone(), name) {
                image_volumes.insert(container.id, declared(&container.image_digest));
            }
        }
        let known = self.engine.networks().list();
        let networks = networks(&known, &[]).into_iter();
        let networks = networks
            .filter_map(|network| Some(KnownNetwork { name: network.name?, id: network.id?, reach: Reach::Host }));
        let between = between.iter().map(|network| KnownNetwork {
            name: network.name.clone(),
            id: between_id(&network.name),
            reach: Reach::Cluster { attachable: network.attachable },
        });
        let ports = Configuration::read(image).ok().and_then(|found| found.config?.exposed_ports);
        World {
            networks: networks.chain(between).collect(),
            bridges: known.into_iter().map(|status| status.network).collect(),
            containers,
            image_volumes,
            image_ports: ports.unwrap_or_default(),
            runtimes: self.engine.runtimes().keys().cloned().collect(),
            ..World::of_host()
        }
    }

    /// Makes the container, under a name of its own if it was given none.
    async fn make(&self, name: Option<String>, creation: &Creation) -> Result<ContainerId, ApiError> {
        let is_drawn = name.is_none();
        let mut drawn = 0;
        loop {
            let name = name.clone().unwrap_or_else(|| names::drawn(rand::random(), drawn >= PLAIN_NAMES));
            drawn += 1;
            let mut config = creation.config.clone();
            config.name = Some(name);
            let engine = self.engine.clone();
            // On a task of its own: a client that goes away must not leave it half done.
            let made = tokio::spawn(async move { engine.create(None, config).await });
            match made.await.map_err(|_| ApiError::Interrupted)? {
                Ok(id) => return Ok(id),
                Err(CreateError::NameTaken { .. }) if is_drawn && drawn < DRAWN_NAMES => {}
                Err(CreateError::NameTaken { name, other }) => {
                    return Err(ApiError::NameTaken { name, other: other.to_string() });
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// That something else is not there must not look as if the image were not.
fn needed(error: ApiError) -> ApiError {
    if error.status() == StatusCode::NOT_FOUND { CreationError::Needed(error.full_text()).into() } else { error }
}

/// Whether an image is for the machine that was asked for: `linux/amd64`, or with a variant.
pub(super) fn check_platform(image: &Image, name: &str, wanted: &str) -> Result<(), ApiError> {
    let (system, architecture) = (image.config.os().to_string(), image.config.architecture().to_string());
    let mut parts = wanted.split('/');
    let fits = |part: Option<&str>, own: &str| part.is_none_or(|part| part.is_empty() || part == own);
    // A platform may be named by its machine alone.
    let fine = match (parts.next(), parts.next()) {
        (Some(single), None) => [&system, &architecture].into_iter().any(|own| own == single),
        (first, second) => fits(first, &system) && fits(second, &architecture),
    };
    if fine {
        return Ok(());
    }
    Err(ApiError::Platform {
        image: name.to_owned(),
        wanted: wanted.chars().take(80).collect(),
        actual: format!("{system}/{architecture}"),
    })
}
