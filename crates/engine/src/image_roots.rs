//! Images and snapshots as the root file systems of containers.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use crate::container::{BoxFuture, Healthcheck, ImageDefaults, OverlayDirectories, RootError, RootImage, Roots};
use crate::image::{Image, ImageStore};
use crate::snapshot::{OverlayMount, SnapshotError, Snapshots};

/// The images and snapshots of one host.
pub(crate) struct ImageRoots {
    images: ImageStore,
    snapshots: Snapshots,
}

impl ImageRoots {
    pub(crate) const fn new(images: ImageStore, snapshots: Snapshots) -> Self {
        Self { images, snapshots }
    }

    fn find(&self, reference: &str) -> Result<Image, RootError> {
        self.images.get(reference).map_err(|error| RootError {
            what: format!("there is no image {reference} on this host"),
            retryable: true,
            source: Some(Box::new(error)),
        })
    }

    fn prepare_now(&self, id: &str, digest: &str) -> Result<OverlayDirectories, RootError> {
        let failed = |error: SnapshotError| RootError {
            what: format!("no layer could be made for container {id}"),
            retryable: true,
            source: Some(Box::new(error)),
        };
        match self.snapshots.get(id) {
            Ok(mount) => return Ok(directories(mount)),
            Err(SnapshotError::Missing { .. }) => {}
            Err(error) => return Err(failed(error)),
        }
        let image = self.find(digest)?;
        self.snapshots.prepare(id, &image).map(directories).map_err(failed)
    }
}

fn directories(mount: OverlayMount) -> OverlayDirectories {
    OverlayDirectories { lower: mount.lower, upper: mount.upper, work: mount.work }
}

impl Roots for ImageRoots {
    fn image<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<RootImage, RootError>> {
        Box::pin(async move {
            let image = self.find(reference)?;
            Ok(RootImage { digest: image.digest.as_str().to_owned(), defaults: image_defaults(&image) })
        })
    }

    fn prepare<'a>(&'a self, id: &'a str, digest: &'a str) -> BoxFuture<'a, Result<OverlayDirectories, RootError>> {
        Box::pin(async move { self.prepare_now(id, digest) })
    }

    fn remove<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), RootError>> {
        let (snapshots, id) = (self.snapshots.clone(), id.to_owned());
        Box::pin(async move {
            // A container may have written millions of files.
            let removed = tokio::task::spawn_blocking({
                let id = id.clone();
                move || snapshots.remove(&id)
            })
            .await;
            let failed = |source: Box<dyn std::error::Error + Send + Sync>| RootError {
                what: format!("the layer of container {id} could not be removed"),
                retryable: true,
                source: Some(source),
            };
            match removed {
                Ok(result) => result.map_err(|error| failed(Box::new(error))),
                Err(error) => Err(failed(Box::new(error))),
            }
        })
    }
}

/// What an image says about its containers. Health checks are Docker's addition to the OCI configuration.
fn image_defaults(image: &Image) -> ImageDefaults {
    let Some(config) = image.config.config() else {
        return ImageDefaults { healthcheck: healthcheck(&image.raw_config), ..ImageDefaults::default() };
    };
    let labels: BTreeMap<String, String> =
        config.labels().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
    ImageDefaults {
        entrypoint: config.entrypoint().clone().unwrap_or_default(),
        command: config.cmd().clone().unwrap_or_default(),
        environment: config.env().clone().unwrap_or_default(),
        user: config.user().clone().unwrap_or_default(),
        working_dir: config.working_dir().clone().unwrap_or_default(),
        volumes: config.volumes().clone().unwrap_or_default(),
        stop_signal: config.stop_signal().clone(),
        healthcheck: healthcheck(&image.raw_config),
        labels,
    }
}

/// The `config.Healthcheck` of a Docker image; times are in nanoseconds.
fn healthcheck(raw_config: &[u8]) -> Option<Healthcheck> {
    #[derive(Deserialize)]
    struct Document {
        config: Option<Config>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Config {
        healthcheck: Option<Check>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    #[derive(Default)]
    struct Check {
        test: Vec<String>,
        interval: u64,
        timeout: u64,
        start_period: u64,
        start_interval: u64,
        retries: u32,
    }
    let check = serde_json::from_slice::<Document>(raw_config).ok()?.config?.healthcheck?;
    let span = |nanoseconds: u64| (nanoseconds > 0).then(|| Duration::from_nanos(nanoseconds));
    Some(Healthcheck {
        test: check.test,
        interval: span(check.interval),
        timeout: span(check.timeout),
        retries: (check.retries > 0).then_some(check.retries),
        start_period: span(check.start_period),
        start_interval: span(check.start_interval),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_health_check_is_read_from_the_configuration() {
        let raw = br#"{"config": {"Healthcheck": {"Test": ["CMD", "/ok"], "Interval": 2000000000, "Retries": 2}}}"#;
        let check = healthcheck(raw).expect("a check");
        assert_eq!(check.test, ["CMD", "/ok"]);
        assert_eq!(check.interval, Some(Duration::from_secs(2)));
        assert_eq!((check.timeout, check.retries), (None, Some(2)));
        assert_eq!(healthcheck(b"{}"), None);
    }
}
