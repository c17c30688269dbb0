//! Files in and out of containers, as archives.
//!
//! A container's file system is seen through a `view`: its overlay and its volumes, mounted where only one thread of this
//! process sees them, and gone with that thread. Nothing of the container is run or loaded, and every path is resolved by the
//! kernel below the view's root (`path`), so no link, wherever it is swapped in, leads to the host. `transfer` carries the
//! archive to or from whoever asked.

mod path;
mod transfer;
mod view;

use std::io;
use std::path::PathBuf;

pub(crate) use path::{Found, NoExtraction, examine, extraction_point};
pub use transfer::{ArchiveStream, PieceWriter, outgoing};
pub(crate) use view::{Base, View, ViewMount, ViewPlan, ViewSource};

use crate::container::ContainerId;
use crate::image::pack::PackError;
use crate::image::unpack::UnpackError;
use crate::volume::VolumeError;

/// What is at a path of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathStat {
    /// The last part of the path, as it was asked for.
    pub name: Vec<u8>,
    /// In bytes.
    pub size: u64,
    /// Kind and permissions, see inode(7).
    pub mode: u32,
    /// Seconds since 1970, and nanoseconds.
    pub modified: (i64, u32),
    /// Where a symbolic link leads: a path in the container.
    pub link_target: Option<Vec<u8>>,
}

/// How an archive is put into a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExtractOptions {
    /// Everything belongs to the user that the container runs as, and not to those that the archive names.
    pub as_container_user: bool,
    /// A directory is not replaced by something else, nor the other way around.
    pub keeps_kinds: bool,
}

/// Why nothing was copied, or not everything.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// There is no such container.
    #[error("there is no container {id}")]
    Missing {
        /// Which.
        id: ContainerId,
    },
    /// Nothing has this path in the container.
    #[error("Could not find the file {path} in container {id}")]
    NotFound {
        /// What was asked for.
        path: String,
        /// Where.
        id: ContainerId,
    },
    /// The path leads through a file, or a file has a slash after it.
    #[error("{path} in container {id}: not a directory")]
    NotADirectory {
        /// What was asked for.
        path: String,
        /// Where.
        id: ContainerId,
    },
    /// An archive can only be put into a directory.
    #[error("extraction point is not a directory")]
    ExtractionPoint,
    /// The container may not write to its root.
    #[error("container rootfs is marked read-only")]
    ReadOnlyRoot,
    /// The container may not write there.
    #[error("mounted volume is marked read-only")]
    ReadOnlyVolume,
    /// The path cannot be looked at.
    #[error("cannot open {path} in container {id}")]
    Path {
        /// What was asked for.
        path: String,
        /// Where.
        id: ContainerId,
        /// The answer.
        source: io::Error,
    },
    /// The user that the container runs as is not known in it.
    #[error("{problem}")]
    User {
        /// Who.
        problem: String,
    },
    /// What is mounted in it is not there.
    #[error("cannot mount {} at {target} to look into container {id}", path.display())]
    MountSource {
        /// Where it is mounted in the container.
        target: String,
        /// What.
        path: PathBuf,
        /// Which container.
        id: ContainerId,
        /// The answer.
        source: io::Error,
    },
    /// A volume of it is not there.
    #[error("a volume of container {id} cannot be had")]
    Volume {
        /// Which container.
        id: ContainerId,
        /// Why.
        source: VolumeError,
    },
    /// Its file system cannot be looked into.
    #[error("cannot {action} to look into container {id}")]
    View {
        /// What was attempted, as a verb.
        action: &'static str,
        /// Which container.
        id: ContainerId,
        /// The answer.
        source: io::Error,
    },
    /// The archive could not be made.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// The archive could not be unpacked.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// Whoever sends the archive, or the daemon, has ended.
    #[error("the copy was broken off")]
    Broken,
}
