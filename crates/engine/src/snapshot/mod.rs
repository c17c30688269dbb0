//! Writable views of images: for each container an overlayfs upper directory over the layers of its image. This says
//! what to mount and keeps the directories; whoever starts the container mounts it in that container's own namespace.

pub mod removal;
mod size_limit;
mod store;

pub use size_limit::SizeLimitError;
pub use store::{OverlayMount, SnapshotError, Snapshots};
