//! Where containers get their root file systems: images and snapshots, behind a narrow seam.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;

use serde::{Deserialize, Serialize};

use super::config::ImageDefaults;

/// A future behind a pointer.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// An image as far as containers care.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootImage {
    /// Of its manifest.
    pub digest: String,
    /// What it says about its containers.
    pub defaults: ImageDefaults,
}

/// A container's overlay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayDirectories {
    /// Read-only layers, the topmost first.
    pub lower: Vec<PathBuf>,
    /// The container's own layer.
    pub upper: PathBuf,
    /// What overlayfs needs beside it.
    pub work: PathBuf,
}

/// Why there is no root file system.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct RootError {
    /// What was being done, naming the image.
    pub what: String,
    /// Whether another attempt may succeed.
    pub retryable: bool,
    /// Why.
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Where containers get their root file systems.
pub trait Roots: Send + Sync {
    /// An image that the host has.
    fn image<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<RootImage, RootError>>;
    /// Makes a container's overlay, in which so many bytes may be written, or finds it. The image stays on the host while the
    /// overlay is there.
    fn prepare<'a>(
        &'a self,
        id: &'a str,
        digest: &'a str,
        size: Option<u64>,
    ) -> BoxFuture<'a, Result<OverlayDirectories, RootError>>;
    /// Whether a container's overlay can be limited in size. The text of the error says what to do about it.
    fn check_size_limit(&self) -> Result<(), RootError>;
    /// The layers of an image, the topmost first and at least one, to be mounted without a container's own.
    fn layers<'a>(&'a self, digest: &'a str) -> BoxFuture<'a, Result<Vec<PathBuf>, RootError>>;
    /// Removes a container's overlay. Nothing there is no error.
    fn remove<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), RootError>>;
}
