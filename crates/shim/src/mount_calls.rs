//! The system calls that mounts are made and paths are found by, each checked and turned into `io::Result`: they have no safe
//! wrapper yet.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::launch::Root;
use crate::root_path::{self, Links};

/// Fails with the thread's last error when a call returned a negative number.
fn checked(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = libc::c_int::try_from(checked(result)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us, and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A C string of `text`, which must have no NUL byte.
pub fn c_string(text: impl Into<Vec<u8>>) -> io::Result<CString> {
    CString::new(text).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "it has a NUL byte"))
}

/// openat2(2). `resolve` is made of `RESOLVE_*`; the descriptor is closed on exec.
pub fn openat2(directory: BorrowedFd<'_>, path: &CStr, flags: i32, resolve: u64) -> io::Result<OwnedFd> {
    // SAFETY: all zeros is a valid `open_how`.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = u64::from((flags | libc::O_CLOEXEC).unsigned_abs());
    how.mode = if flags & libc::O_CREAT == 0 { 0 } else { 0o644 };
    how.resolve = resolve;
    for _ in 0..64 {
        // SAFETY: `path` and `how` outlive the call.
        let result = owned(unsafe {
            libc::syscall(
                libc::SYS_openat2,
                directory.as_raw_fd(),
                path.as_ptr(),
                &raw const how,
                size_of::<libc::open_how>(),
            )
        });
        match result {
            // A rename elsewhere made the kernel unsure about `..`: it asks to try again.
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
            result => return result,
        }
    }
    Err(io::Error::from_raw_os_error(libc::EAGAIN))
}

/// A detached copy of the mount at `path`, or at `directory` itself when `path` is empty.
pub fn clone_tree(directory: Option<BorrowedFd<'_>>, path: &CStr, recursive: bool) -> io::Result<OwnedFd> {
    let recursively = if recursive { libc::AT_RECURSIVE.unsigned_abs() } else { 0 };
    let empty = if path.is_empty() { libc::AT_EMPTY_PATH.unsigned_abs() } else { 0 };
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | recursively | empty;
    let directory = directory.map_or(libc::AT_FDCWD, |fd| fd.as_raw_fd());
    // SAFETY: `path` outlives the call.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, directory, path.as_ptr(), flags) })
}

/// Attaches a detached mount on what `target` refers to.
pub fn move_mount(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: both paths are static empty strings.
    checked(unsafe {
        libc::syscall(libc::SYS_move_mount, mount.as_raw_fd(), c"".as_ptr(), target.as_raw_fd(), c"".as_ptr(), flags)
    })?;
    Ok(())
}

/// Changes attributes and propagation (`MS_PRIVATE`, `MS_SLAVE`, or 0 to leave it) of a mount.
pub fn mount_setattr(mount: BorrowedFd<'_>, set: u64, propagation: u64, recursive: bool) -> io::Result<()> {
    set_attributes(mount, &libc::mount_attr { attr_set: set, attr_clr: 0, propagation, userns_fd: 0 }, recursive)
}

/// Makes a detached mount show its files as belonging to the ids that the user namespace has for their owners.
///
/// # Errors
/// When the kernel or the file system cannot do that (`EINVAL`, `EOPNOTSUPP`), or the mount is mapped already (`EPERM`).
pub fn map_owners(mount: BorrowedFd<'_>, users: BorrowedFd<'_>, recursive: bool) -> io::Result<()> {
    let userns_fd = u64::from(users.as_raw_fd().unsigned_abs());
    let attributes = libc::mount_attr { attr_set: libc::MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd };
    set_attributes(mount, &attributes, recursive)
}

fn set_attributes(mount: BorrowedFd<'_>, attributes: &libc::mount_attr, recursive: bool) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: `attributes` outlives the call.
    checked(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<libc::mount_attr>(),
        )
    })?;
    Ok(())
}

/// A file system that is being configured, see fsopen(2).
pub struct FilesystemContext(OwnedFd);

impl FilesystemContext {
    /// Starts with the kind's defaults.
    pub fn open(kind: &str) -> io::Result<Self> {
        let kind = c_string(kind)?;
        // SAFETY: `kind` outlives the call.
        owned(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), libc::FSOPEN_CLOEXEC) }).map(Self)
    }

    fn configure(&self, command: libc::c_uint, key: Option<&CStr>, value: Option<&CStr>, extra: i32) -> io::Result<()> {
        let pointer = |text: Option<&CStr>| text.map_or(std::ptr::null(), CStr::as_ptr);
        // SAFETY: the strings outlive the call, and null is allowed where the command takes none.
        checked(unsafe {
            libc::syscall(libc::SYS_fsconfig, self.0.as_raw_fd(), command, pointer(key), pointer(value), extra)
        })
        .map_err(|error| self.explained(&error))?;
        Ok(())
    }

    /// An error with what the file system said about it, which is often more than a number.
    fn explained(&self, error: &io::Error) -> io::Error {
        let mut message = [0u8; 512];
        // SAFETY: `message` is writable for its length.
        let length = unsafe { libc::read(self.0.as_raw_fd(), message.as_mut_ptr().cast(), message.len()) };
        match usize::try_from(length) {
            Ok(length) if length > 2 => {
                let said = String::from_utf8_lossy(&message[2..length]).trim().to_owned();
                io::Error::new(error.kind(), format!("{error} ({said})"))
            }
            _ => io::Error::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO)),
        }
    }

    /// Sets an option that has a value.
    pub fn set(&self, key: &str, value: &CStr) -> io::Result<()> {
        self.configure(libc::FSCONFIG_SET_STRING, Some(&c_string(key)?), Some(value), 0)
    }

    /// Sets an option that has none.
    pub fn flag(&self, key: &str) -> io::Result<()> {
        self.configure(libc::FSCONFIG_SET_FLAG, Some(&c_string(key)?), None, 0)
    }

    /// Makes the file system and a detached mount of it with `MOUNT_ATTR_*` bits.
    pub fn mount(self, attributes: u64) -> io::Result<OwnedFd> {
        self.configure(libc::FSCONFIG_CMD_CREATE, None, None, 0)?;
        // SAFETY: no pointers.
        owned(unsafe { libc::syscall(libc::SYS_fsmount, self.0.as_raw_fd(), libc::FSMOUNT_CLOEXEC, attributes) })
    }
}

/// The overlay of a root file system, not mounted anywhere yet.
///
/// # Errors
/// When the kernel refuses it.
pub fn overlay(root: &Root) -> io::Result<OwnedFd> {
    Layers::of(root).overlay()
}

/// The files of an image by themselves, or those at a path of it, as a mount that is not attached yet and that nobody can
/// write to. `mountpoint` is an empty directory that something can be mounted on for a moment, in a namespace that nobody else
/// is in. `label`: what SELinux takes them for.
///
/// # Errors
/// When the kernel refuses it, or the image has no such path.
pub fn image(lower: &[PathBuf], subpath: Option<&str>, mountpoint: &Path, label: Option<&str>) -> io::Result<OwnedFd> {
    let overlay = |lower: &[PathBuf]| Layers { lower, written: None, mountpoint, label }.overlay();
    let whole = match lower {
        // An overlay needs two directories where none is written to, and only a mount of its own can have a label.
        [single] if label.is_some() => overlay(&[single.clone(), mountpoint.to_owned()])?,
        [single] => clone_tree(None, &path_string(single)?, false)?,
        layers => overlay(layers)?,
    };
    let Some(subpath) = subpath else { return Ok(whole) };
    // Only what is attached can be taken in parts.
    move_mount(whole.as_fd(), std::fs::File::open(mountpoint)?.as_fd())?;
    let part = root_path::open(whole.as_fd(), subpath, libc::O_PATH, Links::Follow)
        .and_then(|within| clone_tree(Some(within.as_fd()), c"", false));
    umount2(mountpoint, MntFlags::MNT_DETACH)?;
    part
}

fn path_string(path: &Path) -> io::Result<CString> {
    c_string(path.as_os_str().as_encoded_bytes())
}

/// The directories of an overlay.
#[derive(Clone, Copy)]
struct Layers<'a> {
    /// Read-only, the topmost first.
    lower: &'a [PathBuf],
    /// Where changes go, and what overlayfs needs beside it. `None`: nobody can change anything.
    written: Option<(&'a Path, &'a Path)>,
    /// A directory that it can be mounted on for a moment.
    mountpoint: &'a Path,
    /// What SELinux takes its files for.
    label: Option<&'a str>,
}

impl<'a> Layers<'a> {
    fn of(root: &'a Root) -> Self {
        Self {
            lower: &root.lower,
            written: Some((&root.upper, &root.work)),
            mountpoint: &root.mountpoint,
            label: root.label.as_deref(),
        }
    }

    fn overlay(self) -> io::Result<OwnedFd> {
        let context = FilesystemContext::open("overlay")?;
        // Before Linux 6.5 overlayfs is given its options all at once, and this takes any word until it mounts.
        if context.set("stack", c"no such option").is_ok() {
            return self.overlay_by_old_call();
        }
        context.set("source", c"overlay")?;
        for (index, lower) in self.lower.iter().enumerate() {
            match context.set("lowerdir+", &path_string(lower)?) {
                // Before Linux 6.8 there is no such option.
                Err(_) if index == 0 => return self.overlay_by_old_call(),
                result => result?,
            }
        }
        if let Some((upper, work)) = self.written {
            context.set("upperdir", &path_string(upper)?)?;
            context.set("workdir", &path_string(work)?)?;
        }
        if let Some(label) = self.label {
            context.set("context", &c_string(label)?)?;
        }
        context.mount(0)
    }

    /// The same by mount(2), whose options must fit one page: the layers are named by descriptors to keep them short.
    fn overlay_by_old_call(self) -> io::Result<OwnedFd> {
        let opened: Vec<std::fs::File> = self.lower.iter().map(std::fs::File::open).collect::<io::Result<_>>()?;
        let name = |file: &std::fs::File| format!("/proc/self/fd/{}", file.as_raw_fd());
        let lower = opened.iter().map(name).collect::<Vec<_>>().join(":");
        let mut options = format!("lowerdir={lower}");
        let written = match self.written {
            Some((upper, work)) => Some((std::fs::File::open(upper)?, std::fs::File::open(work)?)),
            None => None,
        };
        if let Some((upper, work)) = &written {
            options.push_str(&format!(",upperdir={},workdir={}", name(upper), name(work)));
        }
        if let Some(label) = self.label {
            // Categories are separated by commas.
            options.push_str(&format!(",context=\"{label}\""));
        }
        mount(Some("overlay"), self.mountpoint, Some("overlay"), MsFlags::empty(), Some(options.as_str()))?;
        let tree = clone_tree(None, &path_string(self.mountpoint)?, false)?;
        umount2(self.mountpoint, MntFlags::MNT_DETACH)?;
        Ok(tree)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd as _;

    use nix::sched::{CloneFlags, unshare};

    use super::*;

    #[test]
    fn both_calls_make_the_same_overlay() {
        let place = tempfile::tempdir().unwrap();
        // In a thread of its own, whose mounts nobody else sees.
        let look = |overlay: fn(&Root) -> io::Result<OwnedFd>, name: &str| {
            let at = |what: &str| place.path().join(name).join(what);
            for directory in ["lower/top/sub", "lower/bottom", "upper", "work", "root"] {
                fs::create_dir_all(at(directory)).unwrap();
            }
            fs::write(at("lower/top/file"), "top").unwrap();
            fs::write(at("lower/bottom/file"), "bottom").unwrap();
            fs::write(at("lower/bottom/other"), "other").unwrap();
            let root = Root {
                lower: vec![at("lower/top"), at("lower/bottom")],
                upper: at("upper"),
                work: at("work"),
                mountpoint: at("root"),
                read_only: false,
                label: None,
            };
            std::thread::scope(|scope| {
                let look = scope.spawn(|| {
                    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
                    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
                        .unwrap();
                    let tree = overlay(&root).unwrap();
                    let target = fs::File::open(&root.mountpoint).unwrap();
                    move_mount(tree.as_fd(), target.as_fd()).unwrap();
                    fs::write(root.mountpoint.join("written"), "written").unwrap();
                    ["file", "other", "written"].map(|name| fs::read_to_string(root.mountpoint.join(name)).unwrap())
                });
                assert_eq!(look.join().unwrap(), ["top", "other", "written"], "{name}");
            });
            assert!(root.upper.join("written").is_file(), "{name}");
        };
        look(overlay, "new");
        look(|root| Layers::of(root).overlay_by_old_call(), "old");
    }

    #[test]
    fn an_image_by_itself_is_seen_in_whole_and_in_part_and_cannot_be_written_to() {
        let place = tempfile::tempdir().unwrap();
        let at = |what: &str| place.path().join(what);
        for directory in ["top/sub", "bottom/sub", "bottom/gone", "empty", "here"] {
            fs::create_dir_all(at(directory)).unwrap();
        }
        fs::write(at("top/sub/file"), "top").unwrap();
        fs::write(at("bottom/sub/file"), "bottom").unwrap();
        fs::write(at("bottom/sub/other"), "other").unwrap();
        std::os::unix::fs::symlink("/../../sub", at("bottom/link")).unwrap();
        // As an image says that a directory of a lower layer is not there.
        nix::sys::stat::mknod(&at("top/gone"), nix::sys::stat::SFlag::S_IFCHR, nix::sys::stat::Mode::empty(), 0)
            .unwrap();
        let layers = [at("top"), at("bottom")];
        std::thread::scope(|scope| {
            let look = scope.spawn(|| {
                unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
                mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
                let here = at("here");
                let seen = |lower: &[PathBuf], subpath: Option<&str>| {
                    let tree = image(lower, subpath, &here, None).unwrap();
                    assert_eq!(fs::read_dir(&here).unwrap().count(), 0, "nothing stays mounted");
                    move_mount(tree.as_fd(), fs::File::open(&here).unwrap().as_fd()).unwrap();
                    let names = fs::read_dir(&here).unwrap().map(|entry| entry.unwrap().file_name());
                    let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
                    names.sort();
                    let is_written = fs::write(here.join("written"), "").is_ok();
                    umount2(&here, MntFlags::MNT_DETACH).unwrap();
                    (names.join(" "), is_written)
                };
                assert_eq!(seen(&layers, None), ("link sub".to_owned(), false));
                assert_eq!(seen(&layers, Some("sub")), ("file other".to_owned(), false));
                // A link of the image leads to another place of the image, however far it climbs.
                assert_eq!(seen(&layers, Some("link")), ("file other".to_owned(), false));
                assert_eq!(seen(&layers, Some("../../sub")), ("file other".to_owned(), false));
                let error = image(&layers, Some("gone"), &here, None).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::NotFound);
                assert_eq!(fs::read_dir(&here).unwrap().count(), 0, "nothing stays mounted");
                let by_old_call = Layers { lower: &layers, written: None, mountpoint: &here, label: None }
                    .overlay_by_old_call()
                    .unwrap();
                move_mount(by_old_call.as_fd(), fs::File::open(&here).unwrap().as_fd()).unwrap();
                assert_eq!(fs::read_to_string(here.join("sub/file")).unwrap(), "top");
                assert!(fs::write(here.join("written"), "").is_err());
                umount2(&here, MntFlags::MNT_DETACH).unwrap();
                assert_eq!(seen(&[at("empty")], None).0, "");
            });
            look.join().unwrap();
        });
    }
}
