//! Images that are mounted in containers: a container needs them as it needs the one that it is made of.

use std::collections::BTreeMap;

use super::Engine;
use crate::container::{ContainerConfig, ContainerMountSource, MountedImage, Record, RootError};

impl Engine {
    /// The images that a container mounts. Nothing is fetched: one that is not there is an error.
    pub(super) async fn find_mounted(&self, config: &ContainerConfig) -> Result<Vec<MountedImage>, RootError> {
        let mut found = Vec::new();
        for mount in &config.mounts {
            let ContainerMountSource::Image { reference, .. } = &mount.source else { continue };
            let image = self.inner.roots.image(reference).await?;
            found.push(MountedImage { target: mount.target.clone(), digest: image.digest, layers: Vec::new() });
        }
        Ok(found)
    }

    /// Their layers. Looked up when the container is known to need them: from then on nobody removes them.
    pub(super) async fn find_layers(&self, mounted: &mut [MountedImage]) -> Result<(), RootError> {
        for image in mounted {
            image.layers = self.inner.roots.layers(&image.digest).await?;
        }
        Ok(())
    }
}

/// The digests of the images that are mounted in a container, by where they are mounted.
pub(super) fn digests(record: &Record) -> BTreeMap<String, String> {
    record.mounted_images.iter().map(|mounted| (mounted.target.clone(), mounted.digest.clone())).collect()
}
