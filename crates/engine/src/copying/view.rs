//! A container's file system where only one thread sees it: in a mount namespace of that thread's own. When the thread ends,
//! however it ends, the kernel takes the mounts away.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::{Mode, fstat};
use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, fstatfs};
use stack_shim::launch::{IdRange, Root};
use stack_shim::mount_calls::{FilesystemContext, clone_tree, image, map_owners, mount_setattr, move_mount, overlay};
use stack_shim::root_path::{self, Links, Make};
use stack_shim::{copy_up, credentials};

use super::{CopyError, path};
use crate::container::{ContainerId, OverlayDirectories};
use crate::image::owners::Owners;

/// What the root is made of.
#[derive(Debug)]
pub(crate) enum Base {
    /// The container runs: its own overlay, taken out of its mount namespace.
    Running {
        /// That namespace.
        mounts: OwnedFd,
        /// Its user namespace, where that is not the host's: there its files have other owners than on the disk.
        users: Option<(OwnedFd, IdRange)>,
    },
    /// It does not run, and shall be written to: its overlay. Nobody else may have it mounted.
    Written,
    /// It does not run, and is only read: its layers below one that is thrown away.
    Read,
}

/// What is mounted in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ViewMount {
    /// Absolute, in the container.
    pub target: String,
    /// What it is.
    pub source: ViewSource,
    /// Only that of it.
    pub subpath: Option<String>,
    /// With what is mounted below it on the host.
    pub recursive: bool,
    /// The container may not write to it.
    pub read_only: bool,
    /// It gets what the image has there, where it is empty.
    pub copy_up: bool,
    /// In a user namespace its files belong to whom they belong on the disk.
    pub mapped: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ViewSource {
    /// A path of the host.
    Path(PathBuf),
    /// The layers of an image, the topmost first.
    Image(Vec<PathBuf>),
}

impl ViewSource {
    /// For messages.
    fn path(&self) -> PathBuf {
        match self {
            Self::Path(path) => path.clone(),
            Self::Image(layers) => layers.first().cloned().unwrap_or_default(),
        }
    }
}

/// A view, before it is made.
#[derive(Debug)]
pub(crate) struct ViewPlan {
    pub id: ContainerId,
    pub overlay: OverlayDirectories,
    pub base: Base,
    /// Outer ones first.
    pub mounts: Vec<ViewMount>,
    /// A directory to mount it on; only the thread sees that.
    pub mountpoint: PathBuf,
}

/// A view. It must be dropped on the thread that made it.
pub(crate) struct View {
    id: ContainerId,
    root: Option<OwnedFd>,
    mounts: Vec<ViewMount>,
    mountpoint: PathBuf,
    owners: Owners,
}

impl View {
    /// Makes a view. The thread leaves the mounts of its process for good, so it must be one that does nothing else.
    ///
    /// # Errors
    /// When the kernel refuses, or something that is mounted in the container is not there.
    pub fn open(plan: ViewPlan) -> Result<Self, CopyError> {
        let id = plan.id.clone();
        let failed = |action: &'static str| {
            let id = plan.id.clone();
            move |source: io::Error| CopyError::View { action, id, source }
        };
        // Before the mounts are left, as another thread has to go where the container's are.
        let taken = match &plan.base {
            Base::Running { mounts, .. } => Some(take_root(mounts).map_err(failed("take the root file system"))?),
            Base::Written | Base::Read => None,
        };
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)
            .map_err(io::Error::from)
            .map_err(failed("leave the host's mounts"))?;
        // What the host unmounts goes here, too; what is mounted here is not seen there.
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
            .map_err(io::Error::from)
            .map_err(failed("leave the host's mounts"))?;
        let users = match &plan.base {
            Base::Running { users, .. } => users.as_ref(),
            Base::Written | Base::Read => None,
        };
        let namespace = users.map(|(namespace, _)| namespace.as_fd());
        let sources = plan
            .mounts
            .iter()
            .map(|mount| take(&id, mount, &plan.mountpoint, namespace))
            .collect::<Result<Vec<_>, _>>()?;
        let mut owners = Owners::default();
        if let Some((_, ids)) = users {
            owners = Owners::of(*ids);
            credentials::make_files_as(ids.first, ids.first).map_err(failed("make files for its root"))?;
        }
        let is_running = taken.is_some();
        let mut view = Self { id, root: None, mounts: plan.mounts, mountpoint: plan.mountpoint, owners };
        let root = match (taken, plan.base) {
            (Some(tree), _) => mounted(&tree, &view.mountpoint),
            (None, Base::Read) => mount_read(&plan.overlay, &view.mountpoint),
            (None, Base::Written | Base::Running { .. }) => mount_overlay(&plan.overlay, &view.mountpoint),
        };
        let root = root.map_err(failed("mount the root file system"))?;
        for (mount, source) in view.mounts.iter().zip(sources) {
            attach(&view.id, root.as_fd(), mount, &source, is_running)?;
        }
        view.root = Some(root);
        Ok(view)
    }

    /// The root of the container's file system.
    ///
    /// # Errors
    /// Never after it was made.
    pub fn root(&self) -> Result<BorrowedFd<'_>, CopyError> {
        self.root.as_ref().map(std::os::fd::AsFd::as_fd).ok_or(CopyError::Broken)
    }

    /// How the owners of its files relate to those that the container knows.
    pub fn owners(&self) -> Owners {
        self.owners
    }

    /// Whether a directory, by its true path, can be written to by the container.
    ///
    /// # Errors
    /// When it cannot.
    pub fn check_writable(&self, directory: &[u8], read_only_root: bool) -> Result<(), CopyError> {
        let innermost = self.mounts.iter().rev().find(|mount| path::is_within(directory, &mount.target));
        match innermost {
            Some(mount) if mount.read_only => Err(CopyError::ReadOnlyVolume),
            None if read_only_root => Err(CopyError::ReadOnlyRoot),
            Some(_) | None => Ok(()),
        }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.root = None;
        // Now and not at the thread's end: whoever waits for this may mount the same overlay next. What is mounted in a view
        // hides what is below it, so there are up to two.
        for _ in 0..2 {
            if let Err(errno) = umount2(&self.mountpoint, MntFlags::MNT_DETACH) {
                if errno != nix::errno::Errno::EINVAL {
                    tracing::debug!(container = %self.id, %errno, "a view is unmounted by its thread's end alone");
                }
                return;
            }
        }
    }
}

/// The root of the mounts of a container that runs, by itself, as a mount that is nowhere yet.
fn take_root(namespace: &OwnedFd) -> io::Result<OwnedFd> {
    let take = || -> io::Result<OwnedFd> {
        // Only a thread that shares its directories with no other can change its mounts.
        unshare(CloneFlags::CLONE_FS)?;
        setns(namespace, CloneFlags::CLONE_NEWNS)?;
        clone_tree(None, c"/", false)
    };
    let tree = std::thread::scope(|scope| scope.spawn(take).join())
        .map_err(|_| io::Error::other("the thread that was to do it has failed"))??;
    if fstatfs(&tree)?.filesystem_type() != OVERLAYFS_SUPER_MAGIC {
        return Err(io::Error::other("the container has put something else in the place of its root"));
    }
    Ok(tree)
}

struct Source {
    tree: OwnedFd,
    is_directory: bool,
}

/// Takes hold of what is to be mounted.
fn take(
    id: &ContainerId,
    mount: &ViewMount,
    mountpoint: &Path,
    users: Option<BorrowedFd<'_>>,
) -> Result<Source, CopyError> {
    let take = || -> io::Result<Source> {
        let tree = match &mount.source {
            ViewSource::Image(layers) => image(layers, mount.subpath.as_deref(), mountpoint, None)?,
            ViewSource::Path(path) => {
                let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
                let held = nix::fcntl::open(path, flags, Mode::empty())?;
                let within = match &mount.subpath {
                    None => held,
                    Some(subpath) => root_path::open(held.as_fd(), subpath, libc::O_PATH, Links::Follow)?,
                };
                clone_tree(Some(within.as_fd()), c"", mount.recursive)?
            }
        };
        if let (Some(users), ViewSource::Path(_)) = (users.filter(|_| mount.mapped), &mount.source) {
            map_owners(tree.as_fd(), users, mount.recursive)?;
        }
        let kind = fstat(&tree)?.st_mode & libc::S_IFMT;
        Ok(Source { tree, is_directory: kind == libc::S_IFDIR })
    };
    take().map_err(|source| CopyError::MountSource {
        target: mount.target.clone(),
        path: mount.source.path(),
        id: id.clone(),
        source,
    })
}

fn mounted(tree: &OwnedFd, mountpoint: &Path) -> io::Result<OwnedFd> {
    let target = File::open(mountpoint)?;
    move_mount(tree.as_fd(), target.as_fd())?;
    // Opened anew, so that it is the mount's root and not the directory below.
    Ok(File::open(mountpoint)?.into())
}

fn mount_overlay(directories: &OverlayDirectories, mountpoint: &Path) -> io::Result<OwnedFd> {
    let root = Root {
        lower: directories.lower.clone(),
        upper: directories.upper.clone(),
        work: directories.work.clone(),
        mountpoint: mountpoint.to_owned(),
        read_only: false,
        // Whoever copies is no process of the container.
        label: None,
    };
    mounted(&overlay(&root)?, mountpoint)
}

/// The container's layers below one in memory, in which directories for what is mounted can be made though nothing of the
/// container is changed.
fn mount_read(directories: &OverlayDirectories, mountpoint: &Path) -> io::Result<OwnedFd> {
    let context = FilesystemContext::open("tmpfs")?;
    context.set("mode", c"700")?;
    mounted(&context.mount(0)?, mountpoint)?;
    let (upper, work) = (mountpoint.join("upper"), mountpoint.join("work"));
    fs::create_dir(&upper)?;
    fs::create_dir(&work)?;
    // The merged root has the topmost directory's mode and owner.
    let found = fs::metadata(&directories.upper)?;
    std::os::unix::fs::chown(&upper, Some(found.uid()), Some(found.gid()))?;
    fs::set_permissions(&upper, fs::Permissions::from_mode(found.mode() & 0o7777))?;
    let mut lower = vec![directories.upper.clone()];
    lower.extend(directories.lower.iter().cloned());
    mount_overlay(&OverlayDirectories { lower, upper, work }, mountpoint)
}

/// Mounts something in the view, as a start of the container does.
fn attach(
    id: &ContainerId,
    root: BorrowedFd<'_>,
    mount: &ViewMount,
    source: &Source,
    is_running: bool,
) -> Result<(), CopyError> {
    let attach = || -> io::Result<()> {
        let make = if source.is_directory { Make::Directory } else { Make::File };
        let target = if is_running {
            match root_path::open(root, &mount.target, libc::O_PATH, Links::Follow) {
                // The container has moved it away.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                found => found?,
            }
        } else {
            root_path::open_or_make(root, &mount.target, make, Links::Follow)?
        };
        let target_is_directory = fstat(&target)?.st_mode & libc::S_IFMT == libc::S_IFDIR;
        if target_is_directory != source.is_directory {
            return Err(io::Error::other("one is a directory and the other is not"));
        }
        if mount.copy_up && source.is_directory && !is_running {
            copy_up::fill(target.as_fd(), source.tree.as_fd())?;
        }
        let attributes = if mount.read_only { libc::MOUNT_ATTR_RDONLY } else { 0 };
        mount_setattr(source.tree.as_fd(), attributes, libc::MS_SLAVE, mount.recursive)?;
        move_mount(source.tree.as_fd(), target.as_fd())
    };
    attach().map_err(|error| CopyError::MountSource {
        target: mount.target.clone(),
        path: mount.source.path(),
        id: id.clone(),
        source: error,
    })
}
