//! What a container has changed in its image's file system: read from the directory that the overlay writes into, while the
//! container may be writing there. No name of it is followed.

use std::ffi::{CStr, OsStr, OsString};
use std::fs::{self, Metadata};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::Engine;
use crate::container::ContainerId;

/// How a path differs from the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// It is other than in the image, or something below it is.
    Changed,
    /// It is not in the image.
    Added,
    /// It is in the image alone.
    Deleted,
}

/// Deeper directories than that are refused: each that is open costs a descriptor.
const DEEPEST: usize = 256;
/// On a directory that hides what the image has there.
const OPAQUE: &CStr = c"trusted.overlay.opaque";
/// Where the start of a container makes what is mounted there. It is no change of the container's.
const MOUNTED: [&str; 11] = [
    "/dev",
    "/dev/console",
    "/dev/mqueue",
    "/dev/pts",
    "/dev/shm",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/resolv.conf",
    "/proc",
    "/sys",
    "/etc",
];

impl Engine {
    /// How a container's file system differs from its image, in order of the paths.
    ///
    /// # Errors
    /// When the disk cannot be read. `None` is no such container.
    pub async fn differences(&self, id: &ContainerId) -> Option<io::Result<Vec<(PathBuf, Difference)>>> {
        let overlay = self.slot(id)?.record().overlay.clone();
        let work = move || differences(&overlay.upper, &overlay.lower);
        Some(tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error))))
    }
}

/// `lower` are the image's layers, the topmost first.
pub(super) fn differences(upper: &Path, lower: &[PathBuf]) -> io::Result<Vec<(PathBuf, Difference)>> {
    let root = OwnedFd::from(fs::File::open(upper)?);
    let mut walk = Walk { lower, found: Vec::new() };
    walk.directory(&root, Path::new(""), false, 0)?;
    walk.found.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(walk.found.into_iter().map(|(path, difference)| (Path::new("/").join(path), difference)).collect())
}

struct Walk<'a> {
    lower: &'a [PathBuf],
    found: Vec<(PathBuf, Difference)>,
}

impl Walk<'_> {
    /// Whether something in the directory differs. `hidden`: a directory above hides the image's.
    fn directory(&mut self, directory: &OwnedFd, path: &Path, hidden: bool, depth: usize) -> io::Result<bool> {
        if depth > DEEPEST {
            return Err(io::Error::other(format!(
                "the directories in {} are more than {DEEPEST} deep",
                path.display()
            )));
        }
        let mut differs = false;
        // The descriptor stands for the directory, whatever becomes of its name.
        let own = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
        let mut names = Vec::new();
        for entry in fs::read_dir(&own)? {
            names.push(entry?.file_name());
        }
        for name in &names {
            let Some(metadata) = present(fs::symlink_metadata(own.join(name)))? else { continue };
            differs |= self.entry(directory, &path.join(name), name, &metadata, hidden, depth)?;
        }
        Ok(differs)
    }

    fn entry(
        &mut self,
        parent: &OwnedFd,
        path: &Path,
        name: &OsStr,
        metadata: &Metadata,
        hidden: bool,
        depth: usize,
    ) -> io::Result<bool> {
        let before = self.before(path)?;
        if is_whiteout(metadata) {
            // One of something that the image does not have is left of what was made and removed.
            if before.is_some() {
                self.found.push((path.to_owned(), Difference::Deleted));
            }
            return Ok(before.is_some());
        }
        let mut below = false;
        if metadata.is_dir() {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            // It may have become something else or nothing meanwhile.
            let Ok(directory) = openat(parent, name, flags, Mode::empty()) else { return Ok(false) };
            let was_directory = before.as_ref().is_some_and(Metadata::is_dir);
            // What is in one that hides the image's hides it, too.
            let opaque = hidden || is_opaque(&directory);
            below = self.directory(&directory, path, opaque, depth + 1)?;
            if opaque && was_directory {
                below |= self.replaced(&directory, path)?;
            }
        }
        let is_mounted =
            MOUNTED.iter().any(|mounted| Path::new(mounted).strip_prefix("/").is_ok_and(|one| one == path));
        let difference = match before {
            None if is_mounted && !below && (metadata.is_dir() || metadata.len() == 0) => return Ok(false),
            None => Difference::Added,
            // A directory is copied up for the sake of what is in it.
            Some(before) if metadata.is_dir() && before.is_dir() && !below && is_same(&before, metadata) => {
                return Ok(false);
            }
            Some(before) if is_mounted && before.is_dir() && !below => return Ok(false),
            Some(_) => Difference::Changed,
        };
        self.found.push((path.to_owned(), difference));
        Ok(true)
    }

    /// What the image has at a path.
    fn before(&self, path: &Path) -> io::Result<Option<Metadata>> {
        'layers: for layer in self.lower {
            // Layers do not change, so that a look at each part is as good as one at all.
            let mut at = layer.clone();
            let parts: Vec<_> = path.iter().collect();
            for (index, part) in parts.iter().enumerate() {
                at.push(part);
                let Some(metadata) = present(fs::symlink_metadata(&at))? else { continue 'layers };
                if is_whiteout(&metadata) {
                    return Ok(None);
                }
                if index + 1 == parts.len() {
                    return Ok(Some(metadata));
                }
                if !metadata.is_dir() {
                    return Ok(None);
                }
                // What layers below have in an opaque directory is not seen, and this layer does not have it either.
                if is_opaque(&OwnedFd::from(fs::File::open(&at)?))
                    && present(fs::symlink_metadata(at.join(parts[index + 1])))?.is_none()
                {
                    return Ok(None);
                }
            }
        }
        Ok(None)
    }

    /// What the image has in a directory that was made anew, and that is not there any more.
    fn replaced(&mut self, directory: &OwnedFd, path: &Path) -> io::Result<bool> {
        let own = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
        let mut names: Vec<OsString> = Vec::new();
        for layer in self.lower {
            let Some(entries) = present(fs::read_dir(layer.join(path)))? else { continue };
            names.extend(entries.filter_map(Result::ok).map(|entry| entry.file_name()));
        }
        names.sort();
        names.dedup();
        let mut differs = false;
        for name in names {
            let one = path.join(&name);
            if present(fs::symlink_metadata(own.join(&name)))?.is_none() && self.before(&one)?.is_some() {
                self.found.push((one, Difference::Deleted));
                differs = true;
            }
        }
        Ok(differs)
    }
}

fn present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_whiteout(metadata: &Metadata) -> bool {
    metadata.file_type().is_char_device() && metadata.rdev() == 0
}

fn is_same(before: &Metadata, now: &Metadata) -> bool {
    let of = |metadata: &Metadata| {
        (metadata.mode(), metadata.uid(), metadata.gid(), metadata.mtime(), metadata.mtime_nsec())
    };
    of(before) == of(now)
}

fn is_opaque(directory: &OwnedFd) -> bool {
    let mut value = [0_u8; 1];
    // SAFETY: the name ends with a zero, and the buffer is as long as is said.
    let length =
        unsafe { libc::fgetxattr(directory.as_raw_fd(), OPAQUE.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    length == 1 && value == *b"y"
}
