//! Paths in a container that somebody names: what is there, and where an archive may go. All of them are resolved by the kernel
//! with the view's root as their root.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use nix::fcntl::{readlink, readlinkat};
use nix::sys::stat::fstat;
use stack_shim::root_path::{self, Links};

use super::PathStat;

/// Something that a path leads to.
pub(crate) struct Found {
    /// Of the very thing, with `O_PATH`.
    pub held: OwnedFd,
    /// What it is.
    pub stat: PathStat,
    /// What it is called in an archive.
    pub archived: Vec<u8>,
}

/// A path as Docker reads it: from the root whatever it begins with, `..` taken by name, and a slash or `/.` at the end kept,
/// which asks for what is behind a link.
pub(super) fn absolute(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let mut text = format!("/{}", parts.join("/"));
    if path == "." || path.ends_with("/.") {
        text.push_str(if text.ends_with('/') { "." } else { "/." });
    } else if path.ends_with('/') && !text.ends_with('/') {
        text.push('/');
    }
    text
}

/// The last part of a path, as Go's `filepath.Base` has it.
fn base(path: &str) -> &str {
    let trimmed = path.trim_end_matches('/');
    if trimmed.is_empty() { "/" } else { trimmed.rsplit('/').next().unwrap_or(trimmed) }
}

/// What is at a path. A symbolic link at its end is not followed, unless a slash comes after it.
pub(crate) fn examine(root: BorrowedFd<'_>, path: &str) -> io::Result<Found> {
    let path = absolute(path);
    let held = root_path::open(root, &path, libc::O_PATH | libc::O_NOFOLLOW, Links::Follow)?;
    let status = fstat(&held)?;
    let is_link = status.st_mode & libc::S_IFMT == libc::S_IFLNK;
    let link_target = if is_link { Some(target(root, &path, held.as_fd())?) } else { None };
    let name = base(&path).as_bytes().to_vec();
    let stat = PathStat {
        name: name.clone(),
        size: u64::try_from(status.st_size).unwrap_or(0),
        mode: status.st_mode,
        modified: (status.st_mtime, u32::try_from(status.st_mtime_nsec).unwrap_or(0)),
        link_target,
    };
    Ok(Found { held, stat, archived: name })
}

/// Where a link leads in the end, or as far as it leads.
fn target(root: BorrowedFd<'_>, path: &str, link: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    if let Ok(end) = root_path::open(root, path, libc::O_PATH, Links::Follow) {
        return place(root, end.as_fd());
    }
    // It leads nowhere: by its name, then.
    let target = readlinkat(link, "")?.into_vec();
    if target.starts_with(b"/") {
        return Ok(absolute(&String::from_utf8_lossy(&target)).into_bytes());
    }
    let above = path.trim_end_matches('/').rsplit_once('/').map_or("", |(above, _)| above);
    Ok(absolute(&format!("{above}/{}", String::from_utf8_lossy(&target))).into_bytes())
}

/// The true path of something below the root, absolute.
fn place(root: BorrowedFd<'_>, found: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let real = |fd: BorrowedFd<'_>| readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()).as_str());
    let (root, found) = (real(root)?, real(found)?);
    let below = found.as_bytes().strip_prefix(root.as_bytes()).unwrap_or(found.as_bytes());
    Ok(if below.is_empty() { b"/".to_vec() } else { below.to_vec() })
}

/// Why an archive cannot go to a path.
pub(crate) enum NoExtraction {
    /// It is no directory.
    NotADirectory,
    /// It cannot be looked at.
    Io(io::Error),
}

/// The directory that an archive goes into, links followed: its true path, without a leading slash.
pub(crate) fn extraction_point(root: BorrowedFd<'_>, path: &str) -> Result<Vec<u8>, NoExtraction> {
    let found = root_path::open(root, &absolute(path), libc::O_PATH, Links::Follow).map_err(NoExtraction::Io)?;
    let status = fstat(&found).map_err(|errno| NoExtraction::Io(errno.into()))?;
    if status.st_mode & libc::S_IFMT != libc::S_IFDIR {
        return Err(NoExtraction::NotADirectory);
    }
    let place = place(root, found.as_fd()).map_err(NoExtraction::Io)?;
    Ok(place.strip_prefix(b"/").unwrap_or(&place).to_vec())
}

/// Whether a directory of the container lies at or below what is mounted at `target`.
pub(super) fn is_within(directory: &[u8], target: &str) -> bool {
    let directory = std::path::Path::new(OsStr::from_bytes(directory));
    directory.starts_with(target.trim_matches('/'))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn paths_as_docker_reads_them() {
        for (given, expected, name) in [
            ("/etc/passwd", "/etc/passwd", "passwd"),
            ("etc", "/etc", "etc"),
            ("/etc/", "/etc/", "etc"),
            ("/etc/.", "/etc/.", "."),
            ("/", "/", "/"),
            (".", "/.", "."),
            ("/../../x", "/x", "x"),
            ("/a/./b/../c", "/a/c", "c"),
        ] {
            assert_eq!((absolute(given).as_str(), base(&absolute(given))), (expected, name), "{given}");
        }
    }

    #[test]
    fn links_lead_where_the_container_sees_them_lead() {
        let outside = tempfile::tempdir().unwrap();
        let root = outside.path().join("root");
        fs::create_dir_all(root.join("etc/deep")).unwrap();
        fs::write(root.join("etc/file"), "words").unwrap();
        fs::write(outside.path().join("secret"), "of the host").unwrap();
        symlink("/etc/deep/../file", root.join("absolute")).unwrap();
        symlink("../../../secret", root.join("escape")).unwrap();
        symlink("etc", root.join("directory")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let fd = File::open(&root).unwrap();
        let found = |path: &str| examine(fd.as_fd(), path);
        let target =
            |path: &str| found(path).map(|found| found.stat.link_target.map(|text| String::from_utf8(text).unwrap()));
        assert_eq!(target("/absolute").unwrap().as_deref(), Some("/etc/file"));
        assert_eq!(target("/escape").unwrap().as_deref(), Some("/secret"));
        assert_eq!(target("/directory").unwrap().as_deref(), Some("/etc"));
        assert_eq!(target("/directory/").unwrap(), None);
        assert_eq!(target("/loop").unwrap().as_deref(), Some("/loop"));
        assert_eq!(found("/etc/file").unwrap().stat.size, 5);
        assert!(found("/escape/").is_err());
        assert_eq!(found("/etc/file/").err().unwrap().raw_os_error(), Some(libc::ENOTDIR));
        assert!(found("/missing").is_err());
        assert!(matches!(extraction_point(fd.as_fd(), "/directory/deep/"), Ok(place) if place == b"etc/deep"));
        assert!(matches!(extraction_point(fd.as_fd(), "/etc/file"), Err(NoExtraction::NotADirectory)));
        assert!(is_within(b"data/x", "/data/") && is_within(b"data", "/data") && !is_within(b"database", "/data"));
    }
}
