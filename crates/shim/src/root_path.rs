//! Paths in a container's root, resolved so that no symbolic link and no `..` leads out of it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use nix::sys::stat::{Mode, mkdirat};

use crate::mount_calls::{c_string, openat2};

/// How symbolic links on the way are treated.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// Followed within the root.
    Follow,
    /// Refused: the path is one that only we may have made.
    Refuse,
}

impl Links {
    fn resolve(self) -> u64 {
        libc::RESOLVE_IN_ROOT
            | libc::RESOLVE_NO_MAGICLINKS
            | match self {
                Self::Follow => 0,
                Self::Refuse => libc::RESOLVE_NO_SYMLINKS,
            }
    }
}

/// What to make where nothing is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Make {
    /// A directory.
    Directory,
    /// An empty file.
    File,
}

/// Opens `path` below `root`, with `O_PATH` unless other flags are given.
pub fn open(root: BorrowedFd<'_>, path: &str, flags: i32, links: Links) -> io::Result<OwnedFd> {
    let relative = path.trim_start_matches('/');
    let relative = if relative.is_empty() { "." } else { relative };
    openat2(root, &c_string(relative)?, flags, links.resolve())
}

/// Opens `path` below `root` with `O_PATH`, making what is missing of it: directories, and at its end what `make` says.
pub fn open_or_make(root: BorrowedFd<'_>, path: &str, make: Make, links: Links) -> io::Result<OwnedFd> {
    match open(root, path, libc::O_PATH, links) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        found => return found,
    }
    let names: Vec<&str> = Path::new(path)
        .components()
        .filter_map(|component| match component {
            Component::Normal(name) => name.to_str(),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
            // Refused below by the kernel's own rule: `..` of the root is the root.
            Component::ParentDir => Some(".."),
        })
        .collect();
    let mut reached = String::new();
    let mut at = open(root, "/", libc::O_PATH | libc::O_DIRECTORY, links)?;
    for (index, name) in names.iter().enumerate() {
        reached.push('/');
        reached.push_str(name);
        // Resolved from the root each time, so that an absolute link on the way stays inside.
        at = match open(root, &reached, libc::O_PATH, links) {
            Ok(next) => next,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if make == Make::File && index + 1 == names.len() {
                    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_WRONLY;
                    drop(openat2(at.as_fd(), &c_string(*name)?, flags, libc::RESOLVE_BENEATH)?);
                } else {
                    match mkdirat(at.as_fd(), *name, Mode::from_bits_truncate(0o755)) {
                        Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                open(root, &reached, libc::O_PATH, links)?
            }
            Err(error) => return Err(error),
        };
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_and_parents_stay_inside() {
        let outside = tempfile::tempdir().unwrap();
        let root = outside.path().join("root");
        fs::create_dir_all(root.join("etc")).unwrap();
        symlink("/etc", root.join("absolute")).unwrap();
        symlink("../../../..", root.join("up")).unwrap();
        let fd = File::open(&root).unwrap();
        drop(open_or_make(fd.as_fd(), "/absolute/made", Make::File, Links::Follow).unwrap());
        drop(open_or_make(fd.as_fd(), "/up/above/deep", Make::Directory, Links::Follow).unwrap());
        drop(open_or_make(fd.as_fd(), "/../../above2", Make::Directory, Links::Follow).unwrap());
        assert!(root.join("etc/made").is_file());
        assert!(root.join("above/deep").is_dir());
        assert!(root.join("above2").is_dir());
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_planted_link_is_refused_where_only_we_may_have_made_the_path() {
        let root = tempfile::tempdir().unwrap();
        symlink("/tmp", root.path().join("proc")).unwrap();
        let fd = File::open(root.path()).unwrap();
        assert!(open_or_make(fd.as_fd(), "/proc", Make::Directory, Links::Refuse).is_err());
    }

    #[test]
    fn a_dangling_link_is_not_followed_when_something_is_made() {
        let root = tempfile::tempdir().unwrap();
        symlink("/nowhere", root.path().join("file")).unwrap();
        let fd = File::open(root.path()).unwrap();
        assert!(open_or_make(fd.as_fd(), "/file", Make::File, Links::Follow).is_err());
        assert!(!root.path().join("nowhere").exists());
    }
}
