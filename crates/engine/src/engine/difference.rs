//! What a container has changed in its image's file system: read from the directory that the overlay writes into, while the
//! container may be writing there. No name of it is followed, and no directory is ever in memory as a whole.

use std::collections::BTreeSet;
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
/// How many names are in memory at once, of all directories on the way to where the walk is: about as many megabytes as there are ten
/// thousands of them. A directory with more than its share is read once for each share.
const NAMES: usize = 128 << 10;
/// The least share of a directory, however much those above it hold.
const FEWEST_NAMES: usize = 128;
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
    /// Tells how a container's file system differs from its image, path by path: what is in a directory comes after it, in order
    /// of the names. Whoever is told may end it.
    ///
    /// # Errors
    /// When the disk cannot be read, or whoever is told wants no more. `None` is no such container.
    pub async fn differences(
        &self,
        id: &ContainerId,
        mut tell: impl FnMut(&Path, Difference) -> io::Result<()> + Send + 'static,
    ) -> Option<io::Result<()>> {
        let overlay = self.slot(id)?.record().overlay.clone();
        let work = move || differences(&overlay.upper, &overlay.lower, &mut tell);
        Some(match tokio::task::spawn_blocking(work).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(Ended::Read(error) | Ended::Told(error))) => Err(error),
            Err(error) => Err(io::Error::other(error)),
        })
    }
}

/// Why not everything was told.
#[derive(Debug)]
pub(super) enum Ended<E> {
    /// The disk cannot be read.
    Read(io::Error),
    /// Whoever is told said so.
    Told(E),
}

impl<E> From<io::Error> for Ended<E> {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

/// `lower` are the image's layers, the topmost first.
pub(super) fn differences<E>(
    upper: &Path,
    lower: &[PathBuf],
    tell: &mut dyn FnMut(&Path, Difference) -> Result<(), E>,
) -> Result<(), Ended<E>> {
    let root = OwnedFd::from(fs::File::open(upper)?);
    let mut walk = Walk { lower, untold: Vec::new(), free: NAMES, tell };
    walk.directory(&root, Path::new(""), Above::default(), 0)
}

struct Walk<'a, E> {
    lower: &'a [PathBuf],
    /// The directories on the way to where the walk is that are told as soon as something in them is.
    untold: Vec<(PathBuf, Difference)>,
    /// How many more names may be in memory.
    free: usize,
    tell: &'a mut dyn FnMut(&Path, Difference) -> Result<(), E>,
}

/// What a directory of the container does with the image's at the same path.
#[derive(Debug, Clone, Copy, Default)]
struct Above {
    /// It, or one above it, hides what the image has there.
    hides: bool,
    /// And the image has a directory there.
    replaces: bool,
}

impl<E> Walk<'_, E> {
    fn tell(&mut self, path: &Path, difference: Difference) -> Result<(), Ended<E>> {
        for (above, difference) in self.untold.drain(..) {
            (self.tell)(&Path::new("/").join(above), difference).map_err(Ended::Told)?;
        }
        (self.tell)(&Path::new("/").join(path), difference).map_err(Ended::Told)
    }

    fn directory(&mut self, directory: &OwnedFd, path: &Path, is: Above, depth: usize) -> Result<(), Ended<E>> {
        if depth > DEEPEST {
            return Err(Ended::Read(io::Error::other(format!(
                "the directories in {} are more than {DEEPEST} deep",
                path.display()
            ))));
        }
        // The descriptor stands for the directory, whatever becomes of its name.
        let own = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
        let mut all = vec![own.clone()];
        if is.hides && is.replaces {
            // What the image has there, and the container has not, is gone.
            all.extend(self.lower.iter().map(|layer| layer.join(path)));
        }
        // Half of what there is, so that what is below has a share, too.
        let free = self.free;
        let most = (free / 2).max(FEWEST_NAMES);
        let mut last = None;
        loop {
            let names = next_names(&all, last.as_deref(), most)?;
            self.free = free.saturating_sub(names.len());
            let is_end = names.len() < most;
            for name in &names {
                let one = path.join(name);
                match present(fs::symlink_metadata(own.join(name)))? {
                    Some(metadata) => self.entry(directory, &one, name, &metadata, is, depth)?,
                    None if all.len() > 1 && self.before(&one)?.is_some() => self.tell(&one, Difference::Deleted)?,
                    None => {}
                }
            }
            self.free = free;
            if is_end {
                return Ok(());
            }
            last = names.into_iter().next_back();
        }
    }

    fn entry(
        &mut self,
        parent: &OwnedFd,
        path: &Path,
        name: &OsStr,
        metadata: &Metadata,
        above: Above,
        depth: usize,
    ) -> Result<(), Ended<E>> {
        let before = self.before(path)?;
        if is_whiteout(metadata) {
            // One of something that the image does not have is left of what was made and removed.
            return if before.is_some() { self.tell(path, Difference::Deleted) } else { Ok(()) };
        }
        let is_mounted =
            MOUNTED.iter().any(|mounted| Path::new(mounted).strip_prefix("/").is_ok_and(|one| one == path));
        // Alone, without what may be in it: a directory is copied up for the sake of that.
        let (difference, counts) = match &before {
            None => (Difference::Added, !(is_mounted && (metadata.is_dir() || metadata.len() == 0))),
            Some(before) if metadata.is_dir() && before.is_dir() => {
                (Difference::Changed, !is_mounted && !is_same(before, metadata))
            }
            Some(before) => (Difference::Changed, !(is_mounted && before.is_dir())),
        };
        if !metadata.is_dir() {
            return if counts { self.tell(path, difference) } else { Ok(()) };
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        // It may have become something else or nothing meanwhile.
        let Ok(directory) = openat(parent, name, flags, Mode::empty()) else { return Ok(()) };
        if counts {
            self.tell(path, difference)?;
        } else {
            self.untold.push((path.to_owned(), difference));
        }
        let is = Above {
            // What is in one that hides the image's hides it, too.
            hides: above.hides || is_opaque(&directory),
            replaces: before.as_ref().is_some_and(Metadata::is_dir),
        };
        self.directory(&directory, path, is, depth + 1)?;
        if self.untold.last().is_some_and(|(untold, _)| untold == path) {
            self.untold.pop();
        }
        Ok(())
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
}

/// The first `most` names that are in one of the directories, in order and after `last`. A directory that is not there has none.
fn next_names(directories: &[PathBuf], last: Option<&OsStr>, most: usize) -> io::Result<BTreeSet<OsString>> {
    let mut names = BTreeSet::new();
    for directory in directories {
        let Some(entries) = present(fs::read_dir(directory))? else { continue };
        for entry in entries {
            let name = entry?.file_name();
            let is_passed = last.is_some_and(|last| name.as_os_str() <= last);
            let is_late = names.len() >= most && names.last().is_some_and(|greatest| name >= *greatest);
            if is_passed || is_late {
                continue;
            }
            names.insert(name);
            if names.len() > most {
                names.pop_last();
            }
        }
    }
    Ok(names)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_in_order_a_few_at_a_time() {
        let place = tempfile::tempdir().unwrap();
        let (one, two) = (place.path().join("one"), place.path().join("two"));
        for (directory, names) in [(&one, ["b", "a", "d", "f"]), (&two, ["c", "e", "a", "g"])] {
            fs::create_dir(directory).unwrap();
            for name in names {
                fs::write(directory.join(name), "").unwrap();
            }
        }
        let all = [one, place.path().join("none"), two];
        let next = |last: Option<&str>, most| next_names(&all, last.map(OsStr::new), most).unwrap();
        assert_eq!(next(None, 3), ["a", "b", "c"].map(OsString::from).into());
        assert_eq!(next(Some("c"), 3), ["d", "e", "f"].map(OsString::from).into());
        assert_eq!(next(Some("f"), 3), ["g"].map(OsString::from).into());
        assert_eq!(next(None, 7).len(), 7);
    }

    #[test]
    fn every_directory_is_told_before_what_is_in_it_and_only_then() {
        let place = tempfile::tempdir().unwrap();
        let (upper, lower) = (place.path().join("upper"), place.path().join("lower"));
        for directory in ["same/deep/er", "same/other", "gone"] {
            fs::create_dir_all(lower.join(directory)).unwrap();
            fs::create_dir_all(upper.join(directory)).unwrap();
        }
        let now = fs::File::open(lower.join("same")).unwrap().metadata().unwrap();
        fs::create_dir_all(upper.join("many")).unwrap();
        let count = NAMES / 2 + 7;
        for index in 0..count {
            fs::write(upper.join(format!("many/{index:06}")), "").unwrap();
        }
        fs::write(upper.join("same/deep/er/new"), "").unwrap();
        // Directories of the image that are only there for what is in them.
        for directory in ["same/deep/er", "same/deep", "same/other", "same", "gone"] {
            for place in [&lower, &upper] {
                let times = fs::FileTimes::new().set_modified(now.modified().unwrap());
                fs::File::open(place.join(directory)).unwrap().set_times(times).unwrap();
            }
        }
        let mut told = Vec::new();
        let mut tell = |path: &Path, difference| {
            told.push((path.to_str().unwrap().to_owned(), difference));
            Ok::<_, io::Error>(())
        };
        differences(&upper, std::slice::from_ref(&lower), &mut tell).unwrap();
        assert_eq!(told.len(), 1 + count + 4);
        assert!(told.is_sorted_by(|one, other| Path::new(&one.0) < Path::new(&other.0)));
        assert_eq!(told[0], ("/many".to_owned(), Difference::Added));
        let rest: Vec<_> = told[count + 1..].iter().map(|(path, difference)| (path.as_str(), *difference)).collect();
        let changed = ["/same", "/same/deep", "/same/deep/er"].map(|path| (path, Difference::Changed));
        assert_eq!(rest[..3], changed);
        assert_eq!(rest[3], ("/same/deep/er/new", Difference::Added));

        let mut tell = |_: &Path, _| Err(io::Error::other("enough"));
        assert!(matches!(differences(&upper, &[lower], &mut tell), Err(Ended::Told(_))));
    }
}
