//! Root file systems from the engine's own images and snapshots.

use std::path::PathBuf;

use super::defaults::image_defaults;
use super::roots::{BoxFuture, OverlayDirectories, RootError, RootImage, Roots};
use crate::image::ImageStore;
use crate::snapshot::{OverlayMount, SnapshotError, Snapshots};

/// Images and snapshots of this host.
pub(crate) struct ImageRoots {
    pub images: ImageStore,
    pub snapshots: Snapshots,
}

fn refused<E: std::error::Error + Send + Sync + 'static>(what: String, retryable: bool, error: E) -> RootError {
    RootError { what, retryable, source: Some(Box::new(error)) }
}

impl From<OverlayMount> for OverlayDirectories {
    fn from(mount: OverlayMount) -> Self {
        Self { lower: mount.lower, upper: mount.upper, work: mount.work }
    }
}

async fn blocking<T: Send + 'static>(
    what: String,
    work: impl FnOnce() -> Result<T, RootError> + Send + 'static,
) -> Result<T, RootError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(refused(what, true, error)))
}

impl Roots for ImageRoots {
    fn image<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<RootImage, RootError>> {
        let (images, reference) = (self.images.clone(), reference.to_owned());
        let what = format!("find the image {reference}");
        Box::pin(blocking(what.clone(), move || {
            // An image that is not there may be pulled; whether it is, is the caller's business.
            let image = images.get(&reference).map_err(|error| refused(what.clone(), true, error))?;
            let defaults = image_defaults(&image.raw_config).map_err(|error| refused(what, false, error))?;
            Ok(RootImage { digest: image.digest.to_string(), defaults })
        }))
    }

    fn check_size_limit(&self) -> Result<(), RootError> {
        let checked = self.snapshots.check_size_limit();
        checked.map_err(|error| RootError { what: error.to_string(), retryable: false, source: None })
    }

    fn prepare<'a>(
        &'a self,
        id: &'a str,
        digest: &'a str,
        size: Option<u64>,
    ) -> BoxFuture<'a, Result<OverlayDirectories, RootError>> {
        let (images, snapshots) = (self.images.clone(), self.snapshots.clone());
        let (id, digest) = (id.to_owned(), digest.to_owned());
        let what = format!("make a snapshot of the image {digest}");
        Box::pin(blocking(what.clone(), move || {
            match snapshots.get(&id) {
                Ok(mount) => return Ok(mount.into()),
                Err(SnapshotError::Missing { .. }) => {}
                Err(error) => return Err(refused(what, true, error)),
            }
            let image = images.get(&digest).map_err(|error| refused(what.clone(), true, error))?;
            // Held until the snapshot is there, which then keeps the layers itself.
            let _lease = images.lease(&image.digest).map_err(|error| refused(what.clone(), true, error))?;
            snapshots.prepare(&id, &image, size).map(Into::into).map_err(|error| refused(what, true, error))
        }))
    }

    fn layers<'a>(&'a self, digest: &'a str) -> BoxFuture<'a, Result<Vec<PathBuf>, RootError>> {
        let (images, snapshots, digest) = (self.images.clone(), self.snapshots.clone(), digest.to_owned());
        let what = format!("find the layers of the image {digest}");
        Box::pin(blocking(what.clone(), move || {
            let image = images.get(&digest).map_err(|error| refused(what, true, error))?;
            Ok(snapshots.read_only(&image))
        }))
    }

    fn remove<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), RootError>> {
        let (snapshots, id) = (self.snapshots.clone(), id.to_owned());
        let what = format!("remove the snapshot {id}");
        Box::pin(blocking(what.clone(), move || match snapshots.remove(&id) {
            Ok(()) | Err(SnapshotError::Missing { .. }) => Ok(()),
            Err(error) => Err(refused(what, true, error)),
        }))
    }
}
