//! Removes a tree of any depth. What a container or an image made can be nested deeper than a process may have open
//! directories, so a branch that is too deep is first moved up beside the tree's top.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

/// How many levels are removed before a branch is moved up.
const LEVELS: usize = 48;

/// Removes `path` and everything under it, never following a symbolic link. What is not there is no error.
///
/// # Errors
/// When the file system refuses.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let top = match nix::fcntl::open(path, flags, Mode::empty()) {
        Ok(top) => top,
        Err(Errno::ENOENT) => return Ok(()),
        Err(Errno::ENOTDIR | Errno::ELOOP) => return std::fs::remove_file(path),
        Err(errno) => return Err(errno.into()),
    };
    let mut moved = 0;
    // Each pass removes all but the branches that it moved to the top.
    while !empty(&top, &top, 0, &mut moved)? {}
    std::fs::remove_dir(path)
}

/// Empties a directory; says whether nothing was moved to the top meanwhile.
fn empty(directory: &OwnedFd, top: &OwnedFd, level: usize, moved: &mut u64) -> io::Result<bool> {
    let mut complete = true;
    for name in names(directory)? {
        let name = OsStr::from_bytes(&name);
        match unlinkat(directory, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => continue,
            Err(Errno::EISDIR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if level == LEVELS {
            loop {
                *moved += 1;
                match renameat(directory, name, top, format!("deep-{moved}").as_str()) {
                    // That name is the tree's own.
                    Err(Errno::EEXIST | Errno::ENOTEMPTY | Errno::ENOTDIR) => {}
                    answer => break answer?,
                }
            }
            complete = false;
            continue;
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let inside = openat(directory, name, flags, Mode::empty())?;
        complete &= empty(&inside, top, level + 1, moved)?;
        drop(inside);
        match unlinkat(directory, name, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(complete)
}

fn names(directory: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    let mut listing =
        Dir::openat(directory, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut names = Vec::new();
    for entry in listing.iter() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_deeper_than_any_path_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let top = root.path().join("tree");
        std::fs::create_dir(&top).unwrap();
        std::fs::write(top.join("deep-1"), b"the tree's own").unwrap();
        std::fs::create_dir(top.join("deep-2")).unwrap();
        std::fs::write(top.join("deep-2/file"), b"x").unwrap();
        let outside = root.path().join("outside");
        std::fs::write(&outside, b"stays").unwrap();
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut inside = nix::fcntl::open(&top, flags, Mode::empty()).unwrap();
        for _ in 0..3000 {
            nix::sys::stat::mkdirat(&inside, "d", Mode::from_bits_truncate(0o700)).unwrap();
            inside = openat(&inside, "d", flags, Mode::empty()).unwrap();
        }
        nix::unistd::symlinkat(&outside, &inside, "link").unwrap();
        drop(inside);
        remove_tree(&top).unwrap();
        assert!(!top.exists());
        assert!(outside.exists());
        remove_tree(&top).unwrap();
    }

    #[test]
    fn a_link_to_a_tree_is_removed_and_not_the_tree() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("tree")).unwrap();
        std::os::unix::fs::symlink(root.path().join("tree"), root.path().join("link")).unwrap();
        remove_tree(&root.path().join("link")).unwrap();
        assert!(root.path().join("tree").exists());
    }
}
