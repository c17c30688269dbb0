//! How much a container may write: a limit of the file system for the directories of its overlay, by a project quota. All that
//! is made below them belongs to the project of that number, and the file system refuses what goes beyond its limit.
//!
//! Nothing is recorded beside that: a directory has a project of its own when it has another one than the directory that it is
//! in. So the numbers are found again by whoever opens the store next.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The first number that is given: below are those that people choose, and other container engines.
const FIRST: u32 = 1_000_000;
/// Where people say which numbers are theirs (projid(5), projects(5)): in the second field of the one, the first of the other.
const DECLARED: [(&str, usize); 2] = [("/etc/projid", 1), ("/etc/projects", 0)];
/// New files below a directory belong to its project (`FS_XFLAG_PROJINHERIT`, ioctl_xfs_fsgetxattr(2)).
const INHERITED: u32 = 0x200;
/// Of the answer to `Q_XGETQSTAT`: projects are counted, and their limits are in force.
const IN_FORCE: u16 = 0x30;
/// `Q_XGETQSTAT` of <linux/dqblk_xfs.h>, which ext4 answers too.
const STATE: libc::c_int = 0x5805;
/// `PRJQUOTA` of quotactl(2).
const PROJECTS: libc::c_int = 2;
/// What limits of space are counted in.
const BLOCK: u64 = 1024;

/// Why a container cannot have a limit.
#[derive(Debug, thiserror::Error)]
pub enum SizeLimitError {
    /// The file system has no project quotas, or they are not switched on.
    #[error(
        "--storage-opt is supported only for overlay over xfs with 'pquota' mount option, or over ext4 with the feature 'project' and the mount option 'prjquota': {path} is on {kind} without them. Mount it so (ext4 after `tune2fs -O project,quota DEVICE`), or leave the size out"
    )]
    NotSupported {
        /// Where containers write.
        path: PathBuf,
        /// Its file system.
        kind: String,
    },
    /// The kernel refused.
    #[error("cannot {action} {path}")]
    Kernel {
        /// What was attempted, as a verb.
        action: &'static str,
        /// Of which path.
        path: PathBuf,
        /// The answer.
        source: io::Error,
    },
    /// Every number is taken.
    #[error("no number of a project is free on the file system of {path}")]
    NoNumber {
        /// Where containers write.
        path: PathBuf,
    },
}

/// What the file system keeps of a file beside its mode (`struct fsxattr` of <linux/fs.h>).
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    copied_extent_size: u32,
    reserved: [u8; 8],
}

mod calls {
    use super::Attributes;

    nix::ioctl_read!(get_attributes, b'X', 31, Attributes);
    nix::ioctl_write_ptr!(set_attributes, b'X', 32, Attributes);
}

fn attributes(directory: &File) -> io::Result<Attributes> {
    let mut found = MaybeUninit::<Attributes>::zeroed();
    // SAFETY: the kernel writes at most the structure, of which all zeros is a value too.
    unsafe {
        calls::get_attributes(directory.as_raw_fd(), found.as_mut_ptr())?;
        Ok(found.assume_init())
    }
}

/// quotactl_fd(2) about projects. `data` must be what the command reads or writes.
fn quotactl<T>(directory: &File, command: libc::c_int, project: u32, data: &mut T) -> io::Result<()> {
    let command = (command << 8) | PROJECTS;
    // SAFETY: each caller's command reads or writes a structure that `data` is at least as large as.
    let answer = unsafe {
        libc::syscall(libc::SYS_quotactl_fd, directory.as_raw_fd(), command, project, std::ptr::from_mut(data))
    };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The project quotas of the file system that containers write to. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct ProjectQuotas {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    directory: File,
    /// Numbers that snapshots have, or are about to have.
    taken: Mutex<BTreeSet<u32>>,
}

/// A project that a snapshot is about to have: it is given up again unless it is kept.
pub(super) struct NewProject {
    quotas: ProjectQuotas,
    number: u32,
    is_kept: bool,
}

impl NewProject {
    /// The snapshot is there.
    pub fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for NewProject {
    fn drop(&mut self) {
        if !self.is_kept
            && let Err(error) = self.quotas.release(self.number)
        {
            tracing::warn!(project = self.number, %error, "a limit of the file system stays behind");
        }
    }
}

impl ProjectQuotas {
    /// Those of the file system that `path` is on.
    pub fn open(path: &Path) -> io::Result<Self> {
        let inner = Inner { path: path.to_owned(), directory: File::open(path)?, taken: Mutex::default() };
        Ok(Self { inner: Arc::new(inner) })
    }

    fn taken(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        // A panic while a number is put in or out cannot leave the set half changed.
        self.inner.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(io::Error) -> SizeLimitError + use<> {
        let path = self.inner.path.clone();
        move |source| SizeLimitError::Kernel { action, path, source }
    }

    /// Whether limits would be in force.
    pub fn check(&self) -> Result<(), SizeLimitError> {
        // More than `struct fs_quota_stat` has; its second field is the flags.
        let mut state = [0_u16; 128];
        match quotactl(&self.inner.directory, STATE, 0, &mut state) {
            Ok(()) if state[1] & IN_FORCE == IN_FORCE => Ok(()),
            Ok(()) | Err(_) => {
                let kind = kind_of(&self.inner.directory);
                Err(SizeLimitError::NotSupported { path: self.inner.path.clone(), kind })
            }
        }
    }

    /// Gives directories that are empty a project of their own, which may have so many bytes.
    pub fn limit(&self, directories: &[&Path], bytes: u64) -> Result<NewProject, SizeLimitError> {
        self.check()?;
        let project = self.allocate()?;
        self.set(project.number, bytes).map_err(self.failed("limit the size of a project below"))?;
        for directory in directories {
            let given = File::open(directory).and_then(|directory| {
                let mut wanted = attributes(&directory)?;
                (wanted.project, wanted.flags) = (project.number, wanted.flags | INHERITED);
                // SAFETY: the structure outlives the call, which reads it.
                unsafe { calls::set_attributes(directory.as_raw_fd(), &raw const wanted) }?;
                Ok(())
            });
            given.map_err(|source| SizeLimitError::Kernel {
                action: "give a project to",
                path: directory.to_path_buf(),
                source,
            })?;
        }
        Ok(project)
    }

    /// A number that nobody has: neither a snapshot nor anything else of the file system.
    fn allocate(&self) -> Result<NewProject, SizeLimitError> {
        let declared: BTreeSet<u32> = DECLARED
            .iter()
            .flat_map(|(file, field)| declared(&fs::read_to_string(file).unwrap_or_default(), *field))
            .collect();
        let mut taken = self.taken();
        for number in FIRST..u32::MAX {
            if !taken.contains(&number)
                && !declared.contains(&number)
                && self.is_unused(number).map_err(self.failed("look for a free project on"))?
            {
                taken.insert(number);
                return Ok(NewProject { quotas: self.clone(), number, is_kept: false });
            }
        }
        Err(SizeLimitError::NoNumber { path: self.inner.path.clone() })
    }

    fn is_unused(&self, project: u32) -> io::Result<bool> {
        let mut quota = no_limit();
        match quotactl(&self.inner.directory, libc::Q_GETQUOTA, project, &mut quota) {
            Ok(()) => {
                let limits = [quota.dqb_bhardlimit, quota.dqb_bsoftlimit, quota.dqb_ihardlimit, quota.dqb_isoftlimit];
                Ok(quota.dqb_curspace == 0 && quota.dqb_curinodes == 0 && limits.iter().all(|limit| *limit == 0))
            }
            // XFS knows nothing of one that was never used.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Zero is no limit.
    fn set(&self, project: u32, bytes: u64) -> io::Result<()> {
        let mut quota = libc::dqblk { dqb_bhardlimit: bytes.div_ceil(BLOCK), ..no_limit() };
        quotactl(&self.inner.directory, libc::Q_SETQUOTA, project, &mut quota)
    }

    /// The project of a snapshot, if it has one of its own.
    pub fn of_snapshot(&self, home: &Path) -> io::Result<Option<u32>> {
        let project = |path: &Path| match File::open(path).and_then(|directory| attributes(&directory)) {
            Ok(found) => Ok(Some(found.project)),
            // Not every file system has such numbers, and what is half made may have no directories yet.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    || matches!(error.raw_os_error(), Some(libc::ENOTTY | libc::EOPNOTSUPP | libc::ENOSYS)) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        };
        let (outer, own) = (project(home)?, project(&home.join("upper"))?);
        Ok(own.filter(|own| outer.is_some_and(|outer| outer != *own)))
    }

    /// A snapshot that is there has this number.
    pub fn note(&self, project: u32) {
        self.taken().insert(project);
    }

    /// Takes the limit away. Others may have the number as soon as its last file is gone.
    pub fn release(&self, project: u32) -> io::Result<()> {
        // Where quotas are off, nothing is in force and nothing can be set.
        if self.check().is_ok() {
            self.set(project, 0)?;
        }
        self.taken().remove(&project);
        Ok(())
    }
}

/// Sets limits of space alone.
fn no_limit() -> libc::dqblk {
    libc::dqblk {
        dqb_bhardlimit: 0,
        dqb_bsoftlimit: 0,
        dqb_curspace: 0,
        dqb_ihardlimit: 0,
        dqb_isoftlimit: 0,
        dqb_curinodes: 0,
        dqb_btime: 0,
        dqb_itime: 0,
        dqb_valid: libc::QIF_BLIMITS,
    }
}

/// The numbers in a file of lines with fields between colons.
fn declared(text: &str, field: usize) -> Vec<u32> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split(':').nth(field)?.trim().parse().ok()).collect()
}

/// What a file system is called, for messages.
fn kind_of(directory: &File) -> String {
    use nix::sys::statfs::{BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC};
    let Ok(found) = nix::sys::statfs::fstatfs(directory) else { return "a file system".to_owned() };
    let kind = found.filesystem_type();
    let known = [
        (EXT4_SUPER_MAGIC, "ext4"),
        (XFS_SUPER_MAGIC, "xfs"),
        (BTRFS_SUPER_MAGIC, "btrfs"),
        (TMPFS_MAGIC, "tmpfs"),
        (OVERLAYFS_SUPER_MAGIC, "overlay"),
    ];
    known
        .iter()
        .find(|(magic, _)| *magic == kind)
        .map_or_else(|| format!("a file system of the type {:#x}", kind.0), |(_, name)| (*name).to_owned())
}

#[cfg(test)]
#[path = "size_limit_tests.rs"]
mod tests;
