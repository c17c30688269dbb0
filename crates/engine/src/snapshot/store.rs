//! The directories of snapshots: `containers/<id>/{upper,work,mount.json}` under the store's root.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::removal::remove_tree;
use super::size_limit::{ProjectQuotas, SizeLimitError};
use crate::crash_point::crash_point;
use crate::image::Image;

/// The longest name of a snapshot.
const ID_LIMIT: usize = 128;

/// Why a snapshot could not be made, found or removed.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The name could lead elsewhere.
    #[error(
        "`{id}` is no name for a snapshot: use letters, digits, `_`, `.` and `-`, at most 128, beginning with a letter or digit"
    )]
    BadName {
        /// What was given.
        id: String,
    },
    /// There is one already.
    #[error("there is already a snapshot `{id}`")]
    Exists {
        /// Its name.
        id: String,
    },
    /// There is none.
    #[error("there is no snapshot `{id}`")]
    Missing {
        /// What was looked for.
        id: String,
    },
    /// It cannot have the size that was asked for.
    #[error(transparent)]
    SizeLimit(#[from] SizeLimitError),
    /// The file system refused.
    #[error("cannot {action} {path}")]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// The answer.
        source: io::Error,
    },
}

impl SnapshotError {
    fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

/// What to mount as a container's root: an overlayfs of these directories.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OverlayMount {
    /// The image's layers, top first. Never empty.
    pub lower: Vec<PathBuf>,
    /// Where changes go.
    pub upper: PathBuf,
    /// overlayfs' own scratch directory, in the same file system as `upper`.
    pub work: PathBuf,
}

/// The snapshots of one host. Only one process may have them open; cloning is cheap.
#[derive(Debug, Clone)]
pub struct Snapshots {
    containers: PathBuf,
    preparing: PathBuf,
    trash: PathBuf,
    empty: PathBuf,
    quotas: ProjectQuotas,
}

impl Snapshots {
    /// Opens the store under `root`, makes its directories, and removes what dead processes left half done.
    ///
    /// # Errors
    /// When a directory cannot be made or cleared.
    pub fn open(root: &Path) -> Result<Self, SnapshotError> {
        fs::create_dir_all(root).map_err(SnapshotError::io("make the directory", root))?;
        let quotas = ProjectQuotas::open(root).map_err(SnapshotError::io("open", root))?;
        let snapshots = Self {
            quotas,
            containers: root.join("containers"),
            preparing: root.join("preparing"),
            trash: root.join("trash"),
            empty: root.join("empty"),
        };
        for directory in [&snapshots.preparing, &snapshots.trash] {
            snapshots.each_project(directory, |project| snapshots.quotas.release(project))?;
            remove_tree(directory).map_err(SnapshotError::io("clear", directory))?;
        }
        for directory in [&snapshots.containers, &snapshots.preparing, &snapshots.trash, &snapshots.empty] {
            fs::create_dir_all(directory).map_err(SnapshotError::io("make the directory", directory))?;
        }
        snapshots.each_project(&snapshots.containers, |project| {
            snapshots.quotas.note(project);
            Ok(())
        })?;
        // Containers leave programs that run as root for whoever starts them: nobody else may look inside.
        fs::set_permissions(root, fs::Permissions::from_mode(0o700))
            .map_err(SnapshotError::io("set the mode of", root))?;
        Ok(snapshots)
    }

    /// Does something about each project that a snapshot in `directory` has.
    fn each_project(&self, directory: &Path, act: impl Fn(u32) -> io::Result<()>) -> Result<(), SnapshotError> {
        let entries = match fs::read_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(SnapshotError::io("list", directory))?,
        };
        for entry in entries {
            let home = entry.map_err(SnapshotError::io("list", directory))?.path();
            let found = self.quotas.of_snapshot(&home).map_err(SnapshotError::io("examine", &home))?;
            if let Some(project) = found {
                act(project).map_err(SnapshotError::io("release the size limit of", &home))?;
            }
        }
        Ok(())
    }

    /// Whether the file system can limit the size of a snapshot.
    ///
    /// # Errors
    /// When it cannot, with what to do about it.
    pub fn check_size_limit(&self) -> Result<(), SizeLimitError> {
        self.quotas.check()
    }

    /// Makes the directories of a new snapshot of an image, in which so many bytes may be written. Nothing is mounted.
    ///
    /// # Errors
    /// When there is one of this name, the name is not acceptable, or the file system refuses.
    pub fn prepare(&self, id: &str, image: &Image, size: Option<u64>) -> Result<OverlayMount, SnapshotError> {
        check(id)?;
        let home = self.containers.join(id);
        if home.exists() {
            return Err(SnapshotError::Exists { id: id.to_owned() });
        }
        let new = self.preparing.join(id);
        remove_tree(&new).map_err(SnapshotError::io("clear", &new))?;
        let (upper, work) = (new.join("upper"), new.join("work"));
        for directory in [&new, &upper, &work] {
            fs::create_dir(directory).map_err(SnapshotError::io("make the directory", directory))?;
        }
        let project = size.map(|bytes| self.quotas.limit(&[&upper, &work], bytes)).transpose()?;
        crash_point!("snapshot.directories");
        // The merged root has the upper directory's mode and owner, so these must be the image's.
        let (mode, user, group) = match &image.root_template {
            Some(template) => {
                let found = fs::metadata(template).map_err(SnapshotError::io("examine", template))?;
                (found.mode() & 0o7777, found.uid(), found.gid())
            }
            None => (0o755, 0, 0),
        };
        std::os::unix::fs::chown(&upper, Some(user), Some(group))
            .map_err(SnapshotError::io("set the owner of", &upper))?;
        fs::set_permissions(&upper, fs::Permissions::from_mode(mode))
            .map_err(SnapshotError::io("set the mode of", &upper))?;

        let mut lower: Vec<_> = image.layers.iter().rev().cloned().collect();
        if lower.is_empty() {
            lower.push(self.empty.clone());
        }
        let mount = OverlayMount { lower, upper: home.join("upper"), work: home.join("work") };
        let note = new.join("mount.json");
        serde_json::to_vec(&mount)
            .map_err(io::Error::from)
            .and_then(|text| fs::write(&note, text))
            .map_err(SnapshotError::io("write", &note))?;
        crash_point!("snapshot.noted");
        match fs::rename(&new, &home) {
            Ok(()) => {}
            Err(error) if matches!(error.raw_os_error(), Some(libc::EEXIST | libc::ENOTEMPTY)) => {
                return Err(SnapshotError::Exists { id: id.to_owned() });
            }
            Err(error) => return Err(SnapshotError::io("name", &home)(error)),
        }
        crash_point!("snapshot.named");
        if let Some(project) = project {
            project.keep();
        }
        fs::File::open(&self.containers)
            .and_then(|directory| directory.sync_all())
            .map_err(SnapshotError::io("sync", &self.containers))?;
        Ok(mount)
    }

    /// The directories that an image is made of by itself, the topmost first: an overlay of them cannot be written to. One
    /// alone is the whole image.
    #[must_use]
    pub fn read_only(&self, image: &Image) -> Vec<PathBuf> {
        let mut lower: Vec<_> = image.layers.iter().rev().cloned().collect();
        if lower.len() < 2 {
            // What says that something of a lower layer is not there means something in an overlay alone.
            lower.push(self.empty.clone());
        }
        lower
    }

    /// What to mount for a snapshot that was prepared earlier.
    ///
    /// # Errors
    /// When there is none of this name or its note cannot be read.
    pub fn get(&self, id: &str) -> Result<OverlayMount, SnapshotError> {
        check(id)?;
        let note = self.containers.join(id).join("mount.json");
        let text = match fs::read(&note) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(SnapshotError::Missing { id: id.to_owned() });
            }
            answer => answer.map_err(SnapshotError::io("read", &note))?,
        };
        serde_json::from_slice(&text).map_err(|error| SnapshotError::io("understand", &note)(error.into()))
    }

    /// Removes a snapshot and everything that was written to it. It must not be mounted any more. One that is not there
    /// is no error.
    ///
    /// # Errors
    /// When the file system refuses; what remains is removed when the store is opened again.
    pub fn remove(&self, id: &str) -> Result<(), SnapshotError> {
        check(id)?;
        let home = self.containers.join(id);
        let trash = tempfile::TempDir::with_prefix_in("snapshot-", &self.trash)
            .map_err(SnapshotError::io("make a temporary directory in", &self.trash))?;
        match fs::rename(&home, trash.path()) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(SnapshotError::io("remove", home)(error)),
        }
        crash_point!("snapshot.discarded");
        let trash = trash.keep();
        let project = self.quotas.of_snapshot(&trash).map_err(SnapshotError::io("examine", &trash))?;
        if let Some(project) = project {
            self.quotas.release(project).map_err(SnapshotError::io("release the size limit of", &trash))?;
        }
        remove_tree(&trash).map_err(SnapshotError::io("remove", trash))
    }

    /// The names of all snapshots, in order.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn list(&self) -> Result<Vec<String>, SnapshotError> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.containers).map_err(SnapshotError::io("list", &self.containers))? {
            let entry = entry.map_err(SnapshotError::io("list", &self.containers))?;
            if let Ok(id) = entry.file_name().into_string()
                && check(&id).is_ok()
            {
                ids.push(id);
            }
        }
        ids.sort();
        Ok(ids)
    }
}

fn check(id: &str) -> Result<(), SnapshotError> {
    let good = id.len() <= ID_LIMIT
        && id.starts_with(|first: char| first.is_ascii_alphanumeric())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
    if good { Ok(()) } else { Err(SnapshotError::BadName { id: id.chars().take(ID_LIMIT).collect() }) }
}
