//! Images of containers: what a container has changed becomes one more layer of its image.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use stack_shim::mount_calls::{c_string, openat2};

use super::Engine;
use super::difference::{Difference, Ended, differences};
use crate::container::{ContainerId, ContainerState, EventKind, OverlayDirectories, PauseError};
use crate::crash_point::crash_point;
use crate::image::pack::Packer;
use crate::image::{CommitChanges, CommitError, Image, Reference};

/// Set by overlayfs, where it is told to, on what has its content elsewhere.
const ELSEWHERE: [&std::ffi::CStr; 2] = [c"trusted.overlay.redirect", c"trusted.overlay.metacopy"];

impl Engine {
    /// Makes an image of a container, and names it. `pause`: one that runs is held still meanwhile.
    ///
    /// # Errors
    /// When there is no such container, its image is not there any more, or its changes cannot be read or kept.
    pub async fn commit(
        &self,
        id: &ContainerId,
        name: Option<Reference>,
        changes: CommitChanges,
        pause: bool,
    ) -> Result<Image, CommitError> {
        // On a task of its own: whoever goes away must not leave the container paused.
        let (engine, id) = (self.clone(), id.clone());
        let task = tokio::spawn(async move { engine.commit_now(&id, name, changes, pause).await });
        task.await.unwrap_or(Err(CommitError::Interrupted))
    }

    async fn commit_now(
        &self,
        id: &ContainerId,
        name: Option<Reference>,
        changes: CommitChanges,
        pause: bool,
    ) -> Result<Image, CommitError> {
        let slot = self.slot(id).ok_or_else(|| CommitError::Missing { id: id.clone() })?;
        // Its layer is not removed meanwhile.
        let _guard = slot.copies.share().await;
        if slot.current() == ContainerState::Removing {
            return Err(CommitError::Missing { id: id.clone() });
        }
        let runs = matches!(slot.current(), ContainerState::Running { .. });
        let paused =
            if pause && runs && !super::locked(&slot.data).paused { self.hold_still(id).await? } else { false };
        crash_point!("commit.paused");
        let record = slot.record();
        let images = self.images().clone();
        let shown = name.as_ref().map(Reference::familiar).unwrap_or_default();
        let work = move || {
            let mut layer = |packer: &mut Packer<&mut dyn Write>| pack(packer, &record.overlay);
            images.commit(&record.image_digest, name.as_ref(), &changes, &mut layer)
        };
        let outcome = tokio::task::spawn_blocking(work).await;
        crash_point!("commit.made");
        if paused {
            if let Err(error) = self.unpause(id).await {
                tracing::debug!(container = %id, %error, "somebody else has let it go on");
            }
            self.forget_held(id);
        }
        crash_point!("commit.resumed");
        let image = outcome.map_err(|_| CommitError::Interrupted)??;
        self.tell(id, EventKind::Committed { image: image.id.to_string(), name: shown });
        Ok(image)
    }

    /// Pauses a container, and notes that it is for this alone: should this process be killed meanwhile, the next one lets it go
    /// on. False: it has ended, or somebody else has paused it.
    async fn hold_still(&self, id: &ContainerId) -> Result<bool, CommitError> {
        let note = File::create(self.inner.launcher.held_file(id));
        let paused = match note {
            Ok(_) => self.pause(id).await,
            // With its end its directory has gone.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(source) => Err(PauseError::Kernel { id: id.clone(), source }),
        };
        if paused.is_err() {
            self.forget_held(id);
        }
        match paused {
            Ok(()) => Ok(true),
            Err(PauseError::NotRunning { .. } | PauseError::Paused { .. }) => Ok(false),
            Err(error) => Err(CommitError::Pause(error)),
        }
    }

    fn forget_held(&self, id: &ContainerId) {
        match std::fs::remove_file(self.inner.launcher.held_file(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(container = %id, %error, "that it was held still is still noted");
            }
            _ => {}
        }
    }
}

/// Writes what a container has changed as a layer.
fn pack(packer: &mut Packer<&mut dyn Write>, overlay: &OverlayDirectories) -> Result<(), CommitError> {
    let root = OwnedFd::from(File::open(&overlay.upper).map_err(CommitError::Changes)?);
    let mut tell = |path: &Path, difference| {
        let inner = path.strip_prefix("/").unwrap_or(path);
        match difference {
            Difference::Deleted => packer.marker(whiteout(inner))?,
            Difference::Added | Difference::Changed => {
                let Some(found) = open(root.as_fd(), inner).map_err(CommitError::Changes)? else { return Ok(()) };
                if is_elsewhere(&found) {
                    return Err(CommitError::Redirected { path: path.to_owned() });
                }
                packer.one(found.as_fd(), inner.as_os_str().as_bytes())?;
            }
        }
        Ok(())
    };
    differences(&overlay.upper, &overlay.lower, &mut tell).map_err(|ended| match ended {
        Ended::Read(error) => CommitError::Changes(error),
        Ended::Told(error) => error,
    })
}

/// The very thing at a path of the layer; `None` when it is there no more. No link is followed.
fn open(root: BorrowedFd<'_>, path: &Path) -> io::Result<Option<OwnedFd>> {
    let name = c_string(path.as_os_str().as_bytes())?;
    let resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS;
    match openat2(root, &name, libc::O_PATH | libc::O_NOFOLLOW, resolve) {
        Ok(found) => Ok(Some(found)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What hides a path in the layers below (OCI image specification, "Whiteouts").
fn whiteout(path: &Path) -> Vec<u8> {
    let name = path.file_name().unwrap_or_default().as_bytes();
    let mut whole = path.parent().map(|parent| parent.as_os_str().as_bytes().to_vec()).unwrap_or_default();
    if !whole.is_empty() {
        whole.push(b'/');
    }
    whole.extend_from_slice(b".wh.");
    whole.extend_from_slice(name);
    whole
}

fn is_elsewhere(found: &OwnedFd) -> bool {
    let Ok(path) = c_string(format!("/proc/self/fd/{}", found.as_raw_fd())) else { return false };
    ELSEWHERE.iter().any(|name| {
        // SAFETY: both texts end with a zero byte, and no value is asked for, only its length.
        unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), std::ptr::null_mut(), 0) >= 0 }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_hidden_is_named_by_its_marker() {
        assert_eq!(whiteout(Path::new("etc/passwd")), b"etc/.wh.passwd");
        assert_eq!(whiteout(Path::new("file")), b".wh.file");
    }
}
