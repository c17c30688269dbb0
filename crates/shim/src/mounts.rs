//! The container's file systems, put together in its own mount namespace by descriptors, never by paths that something
//! else could change in between.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{AtFlags, OFlag};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::{Mode, SFlag, fstat, mknodat, umask};
use stack_shim::copy_up;
use stack_shim::launch::{DeviceKind, IdRange, Launch, Mount, MountSource, Propagation, Root};
use stack_shim::mount_calls::{
    FilesystemContext, c_string, clone_tree, image, map_owners, mount_setattr, move_mount, openat2, overlay,
};
use stack_shim::protocol::{Failure, FailureKind};
use stack_shim::root_path::{self, Links, Make};

use crate::failing::{During, failing, failure};
use crate::peer::Peers;
use crate::syscalls;
use crate::users::cannot_map;

/// The source of a bind mount, held since before the host's mounts were left.
pub struct Source {
    tree: OwnedFd,
    is_directory: bool,
}

/// Takes hold of every bind mount's source, in the order of the mounts. Done first, while the copies still belong to the
/// host's peer groups, so that a mount may be shared with the host if that is asked for.
///
/// `users`: the user namespace by whose ids the files of some belong to somebody.
pub fn take_sources(
    mounts: &[Mount],
    peers: &Peers,
    users: Option<BorrowedFd<'_>>,
) -> Result<Vec<Option<Source>>, Failure> {
    mounts
        .iter()
        .map(|mount| match &mount.source {
            // Made here and not taken from the host: see `take_images`.
            MountSource::Filesystem { .. } | MountSource::Image { .. } => Ok(None),
            MountSource::OfPeer { peer, path } => take_of_peer(peers.get(*peer)?, path).map(Some),
            MountSource::Bind { path, subpath, recursive, mapped, .. } => {
                let shown = path.display();
                let step = || format!("take {shown} for the mount at {}", mount.target);
                let missing = |error: io::Error| {
                    if error.kind() == io::ErrorKind::NotFound {
                        let reason = match subpath {
                            Some(subpath) => {
                                format!("there is no `{subpath}` in {shown}: make it, or correct the subpath")
                            }
                            None => format!("there is no {shown} on this host: make it, or correct the path"),
                        };
                        failure(FailureKind::MountSourceMissing, step(), reason)
                    } else {
                        failing(&error, step())
                    }
                };
                let whole = c_string(path.as_os_str().as_encoded_bytes()).during(step)?;
                let tree = match subpath {
                    None => clone_tree(None, &whole, *recursive).map_err(missing)?,
                    Some(subpath) => {
                        let root = File::open(path).map_err(missing)?;
                        let within =
                            root_path::open(root.as_fd(), subpath, libc::O_PATH, Links::Follow).map_err(missing)?;
                        clone_tree(Some(within.as_fd()), c"", *recursive).map_err(missing)?
                    }
                };
                if let Some(users) = users.filter(|_| *mapped) {
                    map_owners(tree.as_fd(), users, *recursive).map_err(|error| cannot_map(&error, step()))?;
                }
                let kind = fstat(tree.as_fd()).during(step)?.st_mode & libc::S_IFMT;
                Ok(Some(Source { tree, is_directory: kind == libc::S_IFDIR }))
            }
        })
        .collect()
}

/// Takes what another container has mounted at `path`, and returns to this namespace.
fn take_of_peer(there: BorrowedFd<'_>, path: &str) -> Result<Source, Failure> {
    let step = || format!("take {path} of the other container");
    let here = File::open("/proc/self/ns/mnt").during(step)?;
    setns(there, CloneFlags::CLONE_NEWNS).during(step)?;
    let taken = File::open("/").and_then(|root| {
        let found = root_path::open(root.as_fd(), path, libc::O_PATH, Links::Refuse)?;
        clone_tree(Some(found.as_fd()), c"", false)
    });
    setns(here.as_fd(), CloneFlags::CLONE_NEWNS).during(step)?;
    let tree = taken.during(step)?;
    // Of its memory and nothing else: it could have put something in its place.
    if nix::sys::statfs::fstatfs(&tree).during(step)?.filesystem_type() != nix::sys::statfs::TMPFS_MAGIC {
        return Err(failure(FailureKind::Setting, step(), "the other container has put something in its place"));
    }
    Ok(Source { tree, is_directory: true })
}

/// Makes every mount of this namespace private: nothing that is mounted from here on is seen by the host.
pub fn leave_peers() -> Result<(), Failure> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .during(|| "make the mounts private".to_owned())
}

/// Makes every mount of this namespace one that only follows the host's: nothing that is mounted from here on is seen by the
/// host.
pub fn follow_peers() -> Result<(), Failure> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
        .during(|| "leave the host's mounts".to_owned())
}

/// Makes the mounts of images, in the order of the mounts. Done where nothing that is mounted is seen by the host, and before
/// the root is mounted, because each is put at the root's place for a moment.
pub fn take_images(launch: &Launch, sources: &mut [Option<Source>]) -> Result<(), Failure> {
    let label = launch.root.label.as_deref();
    for (mount, source) in launch.mounts.iter().zip(sources) {
        let MountSource::Image { lower, subpath } = &mount.source else { continue };
        let step = || format!("take the files of an image for the mount at {}", mount.target);
        let tree = image(lower, subpath.as_deref(), &launch.root.mountpoint, label).map_err(|error| match subpath {
            Some(subpath) if error.kind() == io::ErrorKind::NotFound => {
                let reason = format!("there is no `{subpath}` in the image: correct the subpath");
                failure(FailureKind::MountSourceMissing, step(), reason)
            }
            _ => failing(&error, step()),
        })?;
        let kind = fstat(tree.as_fd()).during(step)?.st_mode & libc::S_IFMT;
        *source = Some(Source { tree, is_directory: kind == libc::S_IFDIR });
    }
    Ok(())
}

/// Mounts the root's overlay and opens it.
pub fn mount_root(root: &Root) -> Result<OwnedFd, Failure> {
    let step = || format!("mount the root file system at {}", root.mountpoint.display());
    let target = File::open(&root.mountpoint).during(step)?;
    let overlay = overlay(root).during(step)?;
    move_mount(overlay.as_fd(), target.as_fd()).during(step)?;
    // Opened anew, so that it is the mount's root and not the directory below.
    let opened = File::open(&root.mountpoint).during(step)?;
    Ok(opened.into())
}

/// Mounts everything of the launch document below `root` except the terminal, and makes the devices and links.
pub fn furnish(root: BorrowedFd<'_>, launch: &Launch, sources: Vec<Option<Source>>) -> Result<(), Failure> {
    // The modes of what is made here are as said, whatever the engine's mask was.
    umask(Mode::empty());
    for (mount, source) in launch.mounts.iter().zip(sources) {
        match (&mount.source, source) {
            (MountSource::Filesystem { kind, source, options, strict_target }, _) => {
                mount_filesystem(root, mount, kind, source, options, *strict_target)?;
                // Its files belong to whoever makes them, but its root to root of the host.
                if let Some(users) = launch.users.as_ref().filter(|_| kind == "devpts") {
                    own_mounted(root, &mount.target, users.ids)?;
                }
                // Its label is no option: the namespace has had it since before it was mounted. Another's is that one's matter.
                if let Some(label) = launch.root.label.as_ref().filter(|_| kind == "mqueue" && launch.namespaces.ipc) {
                    label_mounted(root, &mount.target, label)?;
                }
            }
            (MountSource::Bind { copy_up, recursive, .. }, Some(source)) => {
                mount_bind(root, mount, &source, *copy_up, *recursive)?;
            }
            (MountSource::OfPeer { .. } | MountSource::Image { .. }, Some(source)) => {
                mount_bind(root, mount, &source, false, false)?;
            }
            (MountSource::Bind { .. } | MountSource::OfPeer { .. } | MountSource::Image { .. }, None) => {}
        }
        // Nodes and links belong on /dev as soon as it is there: later mounts may lie below it.
        if mount.target == "/dev" {
            make_nodes(root, launch)?;
        }
    }
    umask(Mode::from_bits_truncate(0o022));
    Ok(())
}

fn mount_filesystem(
    root: BorrowedFd<'_>,
    mount: &Mount,
    kind: &str,
    source: &str,
    options: &[(String, Option<String>)],
    strict: bool,
) -> Result<(), Failure> {
    let step = || format!("mount {kind} at {}", mount.target);
    let links = if strict { Links::Refuse } else { Links::Follow };
    let target = root_path::open_or_make(root, &mount.target, Make::Directory, links).map_err(|error| {
        if error.raw_os_error() == Some(libc::ELOOP) {
            let reason =
                format!("the image has a symbolic link at or above {}, which is not allowed there", mount.target);
            failure(FailureKind::Setting, step(), reason)
        } else {
            failure(FailureKind::Kernel, step(), error.to_string())
        }
    })?;
    let tree = new_filesystem(kind, source, options, mount.attributes).during(step)?;
    move_mount(tree.as_fd(), target.as_fd()).during(step)
}

/// Gives what is mounted at a place to root of the container.
fn own_mounted(root: BorrowedFd<'_>, target: &str, ids: IdRange) -> Result<(), Failure> {
    let step = || format!("give {target} to the container's root");
    let mounted = root_path::open(root, target, libc::O_RDONLY | libc::O_DIRECTORY, Links::Refuse).during(step)?;
    nix::unistd::fchown(mounted.as_fd(), Some(ids.first.into()), Some(ids.first.into())).during(step)
}

/// Labels the root of what is mounted at a place for SELinux, where the policy lets it have a label of its own.
fn label_mounted(root: BorrowedFd<'_>, target: &str, label: &str) -> Result<(), Failure> {
    let step = || format!("label {target} for SELinux");
    let mounted = root_path::open(root, target, libc::O_RDONLY | libc::O_DIRECTORY, Links::Refuse).during(step)?;
    match syscalls::set_selinux_label(mounted.as_fd(), label) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
        result => result.during(step),
    }
}

/// A file system of our own that is mounted nowhere yet.
pub fn new_filesystem(
    kind: &str,
    source: &str,
    options: &[(String, Option<String>)],
    attributes: u64,
) -> io::Result<OwnedFd> {
    let context = FilesystemContext::open(kind)?;
    context.set("source", &c_string(source)?)?;
    for (key, value) in options {
        match value {
            Some(value) => context.set(key, &c_string(value.as_str())?)?,
            None => context.flag(key)?,
        }
    }
    context.mount(attributes)
}

fn mount_bind(
    root: BorrowedFd<'_>,
    mount: &Mount,
    source: &Source,
    copy_up: bool,
    recursive: bool,
) -> Result<(), Failure> {
    let step = || format!("mount at {}", mount.target);
    let make = if source.is_directory { Make::Directory } else { Make::File };
    let target = root_path::open_or_make(root, &mount.target, make, Links::Follow).during(step)?;
    let target_is_directory = fstat(target.as_fd()).during(step)?.st_mode & libc::S_IFMT == libc::S_IFDIR;
    if target_is_directory != source.is_directory {
        let (what, there) = if source.is_directory { ("a directory", "a file") } else { ("a file", "a directory") };
        return Err(failure(
            FailureKind::Setting,
            step(),
            format!(
                "the source is {what} but the image has {there} there: mount a directory on a directory and a file on a file"
            ),
        ));
    }
    if copy_up && source.is_directory {
        copy_up::fill(target.as_fd(), source.tree.as_fd())
            .during(|| format!("copy the image's {} into the new volume", mount.target))?;
    }
    let propagation = match mount.propagation {
        Propagation::Private => libc::MS_PRIVATE,
        Propagation::Slave => libc::MS_SLAVE,
        Propagation::Shared => 0,
    };
    if mount.topmost_only {
        mount_setattr(source.tree.as_fd(), 0, propagation, recursive).during(step)?;
        mount_setattr(source.tree.as_fd(), mount.attributes, 0, false).during(step)?;
    } else {
        mount_setattr(source.tree.as_fd(), mount.attributes, propagation, recursive).during(step)?;
    }
    move_mount(source.tree.as_fd(), target.as_fd()).during(step)
}

fn make_nodes(root: BorrowedFd<'_>, launch: &Launch) -> Result<(), Failure> {
    for device in &launch.devices {
        let step = || format!("make the device {}", device.path);
        let (directory, name) = split(&device.path);
        let directory = root_path::open_or_make(root, directory, Make::Directory, Links::Refuse).during(step)?;
        let kind = match device.kind {
            DeviceKind::Character => SFlag::S_IFCHR,
            DeviceKind::Block => SFlag::S_IFBLK,
        };
        let number = libc::makedev(
            u32::try_from(device.major).unwrap_or(u32::MAX),
            u32::try_from(device.minor).unwrap_or(u32::MAX),
        );
        mknodat(directory.as_fd(), name, kind, Mode::from_bits_truncate(device.mode), number).during(step)?;
        if (device.uid, device.gid) != (0, 0) {
            // An owner that the container's user namespace does not have is its root.
            let owner =
                |id: u32| launch.users.as_ref().map_or(id, |users| users.ids.on_host(id).unwrap_or(users.ids.first));
            nix::unistd::fchownat(
                directory.as_fd(),
                name,
                Some(owner(device.uid).into()),
                Some(owner(device.gid).into()),
                AtFlags::AT_SYMLINK_NOFOLLOW,
            )
            .during(step)?;
        }
    }
    for (path, target) in &launch.symlinks {
        let step = || format!("make the symbolic link {path}");
        let (directory, name) = split(path);
        let directory = root_path::open_or_make(root, directory, Make::Directory, Links::Refuse).during(step)?;
        nix::unistd::symlinkat(target.as_str(), directory.as_fd(), name).during(step)?;
    }
    Ok(())
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("/", path))
}

/// Hides and protects paths, then the root itself.
pub fn protect(root: BorrowedFd<'_>, launch: &Launch) -> Result<(), Failure> {
    for path in &launch.read_only_paths {
        let step = || format!("protect {path} from writing");
        if let Some(target) = existing(root, path).during(step)? {
            let tree = clone_tree(Some(target.as_fd()), c"", true).during(step)?;
            mount_setattr(tree.as_fd(), libc::MOUNT_ATTR_RDONLY, 0, true).during(step)?;
            move_mount(tree.as_fd(), target.as_fd()).during(step)?;
        }
    }
    if !launch.masked_paths.is_empty() {
        // The host's own, taken before its root is left: nothing that an image brings can stand in for it. Not as a copy
        // of its mount: before Linux 6.15 no copies are made of what is mounted nowhere.
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let null = nix::fcntl::open("/dev/null", flags, Mode::empty()).during(|| "take /dev/null".to_owned())?;
        let found = fstat(null.as_fd()).during(|| "look at /dev/null".to_owned())?;
        if found.st_mode & libc::S_IFMT != libc::S_IFCHR || found.st_rdev != libc::makedev(1, 3) {
            return Err(failure(FailureKind::Kernel, "mask paths", "the host's /dev/null is not the null device"));
        }
        for path in &launch.masked_paths {
            let step = || format!("mask {path}");
            let Some(target) = existing(root, path).during(step)? else { continue };
            let is_directory = fstat(target.as_fd()).during(step)?.st_mode & libc::S_IFMT == libc::S_IFDIR;
            let cover = if is_directory {
                let blocks = ("nr_blocks".to_owned(), Some("1".to_owned()));
                let label = launch.root.label.clone().map(|label| ("context".to_owned(), Some(label)));
                let options: Vec<_> = std::iter::once(blocks).chain(label).collect();
                new_filesystem("tmpfs", "tmpfs", &options, libc::MOUNT_ATTR_RDONLY)
            } else {
                clone_tree(Some(null.as_fd()), c"", false)
            }
            .during(step)?;
            move_mount(cover.as_fd(), target.as_fd()).during(step)?;
        }
    }
    if launch.root.read_only {
        mount_setattr(root, libc::MOUNT_ATTR_RDONLY, 0, false)
            .during(|| "make the root file system read-only".to_owned())?;
    }
    Ok(())
}

/// A path to mask or protect: all of them lie in file systems that we have mounted, where no link is followed.
fn existing(root: BorrowedFd<'_>, path: &str) -> io::Result<Option<OwnedFd>> {
    match root_path::open(root, path, libc::O_PATH, Links::Refuse) {
        Ok(found) => Ok(Some(found)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A /proc of our own that nothing is mounted over, for [`write_sysctls`] and for what security modules are told. To be made
/// before the container's user namespace is entered: there nobody may.
pub fn own_proc() -> Result<OwnedFd, Failure> {
    new_filesystem("proc", "proc", &[], 0).during(|| "mount a proc for settings of the kernel".to_owned())
}

/// Writes namespaced kernel parameters. Those of IPC objects only root of the container's user namespace may write.
pub fn write_sysctls(proc: BorrowedFd<'_>, sysctls: &BTreeMap<String, String>) -> Result<(), Failure> {
    for (name, value) in sysctls {
        let step = || format!("set the kernel parameter {name}");
        let path = c_string(format!("sys/{}", name.replace('.', "/"))).during(step)?;
        let resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_XDEV;
        let written =
            openat2(proc, &path, libc::O_WRONLY, resolve).and_then(|file| File::from(file).write_all(value.as_bytes()));
        match written {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(failure(FailureKind::Setting, step(), "this kernel has no such parameter"));
            }
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL)) => {
                return Err(failure(FailureKind::Setting, step(), format!("the kernel does not take `{value}`")));
            }
            result => result.during(step)?,
        }
    }
    Ok(())
}

/// Mounts the terminal at /dev/console.
pub fn mount_console(root: BorrowedFd<'_>, terminal: BorrowedFd<'_>) -> Result<(), Failure> {
    let step = || "mount the terminal at /dev/console".to_owned();
    let target = root_path::open_or_make(root, "/dev/console", Make::File, Links::Refuse).during(step)?;
    let tree = clone_tree(Some(terminal), c"", false).during(step)?;
    move_mount(tree.as_fd(), target.as_fd()).during(step)
}

/// Makes `root` the root of this mount namespace and lets go of the host's.
pub fn enter(root: BorrowedFd<'_>) -> Result<(), Failure> {
    let step = || "change to the container's root".to_owned();
    nix::unistd::fchdir(root).during(step)?;
    // With both the same, the old root ends up mounted on top of the new one, and is taken away at once.
    nix::unistd::pivot_root(".", ".").during(step)?;
    umount2(".", MntFlags::MNT_DETACH).during(step)?;
    nix::unistd::chdir("/").during(step)
}

/// Opens the multiplexer of the container's own terminals, and nothing that somebody has put in its place.
pub fn open_terminal_multiplexer(root: BorrowedFd<'_>) -> Result<OwnedFd, Failure> {
    let step = || "allocate a terminal".to_owned();
    let flags = (OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NONBLOCK).bits();
    let opened = root_path::open(root, "/dev/pts/ptmx", flags, Links::Refuse).during(step)?;
    let system = nix::sys::statfs::fstatfs(&opened).during(step)?.filesystem_type();
    let found = fstat(opened.as_fd()).during(step)?;
    if system != nix::sys::statfs::DEVPTS_SUPER_MAGIC || found.st_rdev != libc::makedev(5, 2) {
        return Err(failure(FailureKind::Setting, step(), "/dev/pts/ptmx of the container is no terminal multiplexer"));
    }
    Ok(opened)
}
