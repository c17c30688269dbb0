//! Unpacks one layer's archive into an empty directory, as an overlayfs lower directory; or an archive into a container.
//!
//! Every name is resolved by the kernel with the directory as its root (`openat2`, RESOLVE_IN_ROOT), one parent at a
//! time, and the last component is never followed: no symbolic link, `..`, absolute name or hard link of a layer reaches
//! anything outside. Whiteouts become what overlayfs understands (its documentation: a 0/0 character device hides a name
//! below, the attribute `trusted.overlay.opaque` hides a directory's contents below).

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{
    Mode, SFlag, UtimensatFlags, fchmod, fchmodat, fstatat, futimens, makedev, mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, linkat, symlinkat, unlinkat};

use super::owners::Owners;
use super::tar_reader::{Entry, Kind, TarError, TarReader};

/// Starts the name of a marker in a layer's archive (OCI image specification, "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";
/// Hides everything that lower layers have in the directory it lies in.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// How deep a layer's tree may be: removing it must not need more open directories than a process may have.
const DEPTH_LIMIT: usize = 256;
/// How many bytes the names of all directories of a layer may have together: they are kept in memory.
const REMEMBERED_LIMIT: usize = 256 << 20;
/// How many symbolic links one name may pass through, as the kernel's own limit.
const LINK_LIMIT: usize = 40;

/// How much one layer may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnpackLimits {
    /// Entries of the archive.
    pub entries: u64,
    /// Bytes of file content, holes not counted.
    pub bytes: u64,
}

impl Default for UnpackLimits {
    fn default() -> Self {
        Self { entries: 8_000_000, bytes: 1 << 40 }
    }
}

/// What was unpacked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Unpacked {
    /// Entries of the archive.
    pub entries: u64,
    /// Bytes of file content, holes not counted.
    pub bytes: u64,
    /// Whether the archive describes the root directory itself, so that its mode and owner mean something.
    pub describes_root: bool,
}

/// Why a layer could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The archive cannot be read.
    #[error("cannot read the layer's archive")]
    Archive(#[from] TarError),
    /// The file system refused an entry.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The entry's name in the archive.
        path: PathBuf,
        /// The answer.
        source: io::Error,
    },
    /// An entry is not acceptable.
    #[error("refused entry `{}`: {problem}", path.display())]
    Refused {
        /// The entry's name in the archive.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A directory is in the way of something else, or the other way around.
    #[error(
        "cannot overwrite {} \"{}\" with {} \"{}\"",
        if *was_directory { "directory" } else { "non-directory" },
        path.display(),
        if *was_directory { "non-directory" } else { "directory" },
        directory.display()
    )]
    OtherKind {
        /// What is in the way.
        path: PathBuf,
        /// The directory that is unpacked into.
        directory: PathBuf,
        /// It is a directory.
        was_directory: bool,
    },
    /// The layer is larger than allowed.
    #[error("the layer has more than {limit} {what}")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much is allowed.
        limit: u64,
    },
}

impl UnpackError {
    /// Whether the disk (or a quota) is full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => crate::content::store::is_disk_full(source),
            Self::Archive(_) | Self::Refused { .. } | Self::OtherKind { .. } | Self::TooLarge { .. } => false,
        }
    }
}

/// Unpacks an archive into `root`, an empty directory of mode 0755. The archive is read to its end marker.
///
/// # Errors
/// When the archive is damaged or hostile, or the file system refuses; what was unpacked until then stays in `root`.
pub fn unpack<R: Read>(archive: &mut TarReader<R>, root: &Path, limits: UnpackLimits) -> Result<Unpacked, UnpackError> {
    let mut unpacker = Unpacker::new(root, limits)?;
    while let Some(entry) = archive.next_entry()? {
        unpacker.entry(&entry, archive)?;
    }
    unpacker.finish()
}

/// How an archive is unpacked into a root file system that is there, of a container that may be running.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extraction {
    /// The directory in the root that entries go into, without a leading slash. No entry leaves it by its name; links that
    /// are there already are followed within the root.
    pub directory: Vec<u8>,
    /// Who owns everything, in place of those that the archive names.
    pub owner: Option<(u32, u32)>,
    /// A directory is not replaced by something else, nor the other way around.
    pub keeps_kinds: bool,
    /// How the owners relate to those on the host.
    pub owners: Owners,
}

/// Unpacks an archive into a directory of the file system whose root is `root`. The archive is read to its end marker.
///
/// # Errors
/// When the archive is damaged or hostile, or the file system refuses; what was unpacked until then stays.
pub fn extract<R: Read>(
    archive: &mut TarReader<R>,
    root: OwnedFd,
    limits: UnpackLimits,
    extraction: Extraction,
) -> Result<Unpacked, UnpackError> {
    let mut unpacker = Unpacker::of(root, limits).map_err(|errno| failure("find", b"/", errno))?;
    unpacker.into = Some(extraction);
    while let Some(entry) = archive.next_entry()? {
        if let Some(entry) = unpacker.placed(entry)? {
            unpacker.entry(&entry, archive)?;
        }
    }
    unpacker.finish()
}

struct Unpacker {
    /// Set where this is no new layer.
    into: Option<Extraction>,
    root: OwnedFd,
    root_path: PathBuf,
    /// The directory that the last entry was put into: archives list a directory's entries one after the other.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// Times of directories, set at the end because making entries changes them.
    directory_times: Vec<(Vec<u8>, (i64, u32))>,
    /// Bytes of the names in `directory_times`.
    remembered: usize,
    unpacked: Unpacked,
    limits: UnpackLimits,
    lost_attributes: u64,
}

/// An entry's name, split and checked.
struct Place<'a> {
    /// The directory, as it stands in the archive, without a leading slash.
    parent: Vec<u8>,
    /// The last component; empty for the root itself.
    name: &'a [u8],
}

impl Unpacker {
    fn new(root: &Path, limits: UnpackLimits) -> Result<Self, UnpackError> {
        let opened = nix::fcntl::open(root, OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW, Mode::empty())
            .map_err(|errno| failure("open", root.as_os_str().as_bytes(), errno))?;
        Self::of(opened, limits).map_err(|errno| failure("find", root.as_os_str().as_bytes(), errno))
    }

    fn of(root: OwnedFd, limits: UnpackLimits) -> nix::Result<Self> {
        // The kernel says where a directory is by its true path; the name that it was opened by may pass through links.
        let root_path = real_path(&root)?;
        Ok(Self {
            into: None,
            root,
            root_path,
            parent: None,
            directory_times: Vec::new(),
            remembered: 0,
            unpacked: Unpacked::default(),
            limits,
            lost_attributes: 0,
        })
    }

    /// An entry as it is to be put into a container; `None` is the directory itself that is unpacked into.
    fn placed(&self, mut entry: Entry) -> Result<Option<Entry>, UnpackError> {
        let Some(into) = &self.into else { return Ok(Some(entry)) };
        let below = |path: &[u8]| below(path).map(|path| joined(&into.directory, &path));
        let Some(path) = below(&entry.path) else {
            return Err(refused(&entry.path, "its name leads out of the directory that it is copied into"));
        };
        if path == into.directory {
            return match entry.kind {
                Kind::Directory => Ok(None),
                _ => Err(refused(&entry.path, "the directory that is copied into can only be a directory")),
            };
        }
        match entry.kind {
            Kind::CharacterDevice | Kind::BlockDevice => {
                let problem = "a device cannot be copied into a container: give it to the container with `--device`";
                return Err(refused(&entry.path, problem));
            }
            Kind::HardLink => {
                entry.link = below(&entry.link)
                    .filter(|link| *link != into.directory)
                    .ok_or_else(|| refused(&entry.path, "its target is not in the directory that it is copied into"))?;
            }
            Kind::File | Kind::Directory | Kind::Symlink | Kind::Fifo | Kind::Unknown(_) => {}
        }
        entry.path = path;
        if let Some((user, group)) = into.owner {
            (entry.user, entry.group) = (user, group);
        }
        let (Some(user), Some(group)) = (into.owners.on_host(entry.user), into.owners.on_host(entry.group)) else {
            return Err(refused(&entry.path, "its owner is none that the container's user namespace has"));
        };
        (entry.user, entry.group) = (user, group);
        for (name, value) in &mut entry.attributes {
            *value = into.owners.attribute_on_host(name, std::mem::take(value));
        }
        Ok(Some(entry))
    }

    /// Refuses an entry that would replace a directory by something else, or the other way around, where that is asked for.
    fn check_kind(&self, entry: &Entry, parent: &OwnedFd, name: &[u8]) -> Result<(), UnpackError> {
        let Some(into) = self.into.as_ref().filter(|into| into.keeps_kinds) else { return Ok(()) };
        let Ok(found) = fstatat(parent, OsStr::from_bytes(name), AtFlags::AT_SYMLINK_NOFOLLOW) else { return Ok(()) };
        let was_directory = SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR;
        if was_directory == (entry.kind == Kind::Directory) {
            return Ok(());
        }
        let absolute = |path: &[u8]| shown(&[b"/", path].concat());
        Err(UnpackError::OtherKind { path: absolute(&entry.path), directory: absolute(&into.directory), was_directory })
    }

    fn entry(&mut self, entry: &Entry, data: &mut impl Read) -> Result<(), UnpackError> {
        self.unpacked.entries += 1;
        if self.unpacked.entries > self.limits.entries {
            return Err(UnpackError::TooLarge { what: "entries", limit: self.limits.entries });
        }
        let place = place(&entry.path)?;
        if place.name.is_empty() {
            return self.root_entry(entry);
        }
        let parent = self.parent(&place.parent, &entry.path)?;
        self.check_kind(entry, &parent, place.name)?;
        let hidden = place.name.strip_prefix(WHITEOUT).filter(|_| self.into.is_none());
        let answer = if let Some(hidden) = hidden {
            self.whiteout(entry, &parent, place.name, hidden)
        } else {
            self.put(entry, &parent, place.name, data)
        };
        self.parent = Some((place.parent, parent));
        answer
    }

    /// The directory itself that the layer is unpacked into.
    fn root_entry(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        if entry.kind != Kind::Directory {
            return Err(refused(&entry.path, "the root can only be a directory"));
        }
        let root = self.root.try_clone().map_err(|source| io_failure("open", &entry.path, source))?;
        self.describe(entry, &root)?;
        self.directory_times.push((Vec::new(), entry.modified));
        self.unpacked.describes_root = true;
        Ok(())
    }

    fn whiteout(&mut self, entry: &Entry, parent: &OwnedFd, name: &[u8], hidden: &[u8]) -> Result<(), UnpackError> {
        if name == OPAQUE {
            return set_opaque(parent).map_err(|errno| failure("mark as opaque the directory of", &entry.path, errno));
        }
        // Further names of this form are aufs' own bookkeeping and describe nothing of the image.
        if hidden.starts_with(WHITEOUT) {
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(refused(&entry.path, "a whiteout must name what it hides"));
        }
        match mknodat(parent, OsStr::from_bytes(hidden), SFlag::S_IFCHR, Mode::empty(), 0) {
            Ok(()) => Ok(()),
            // A whiteout never hides what its own layer brings, only what is below that.
            Err(Errno::EEXIST) => match open_directory(parent, hidden) {
                Ok(directory) => set_opaque(&directory).map_err(|errno| failure("mark as opaque", &entry.path, errno)),
                Err(Errno::ENOTDIR | Errno::ELOOP) => Ok(()),
                Err(errno) => Err(failure("open", &entry.path, errno)),
            },
            Err(errno) => Err(failure("make the whiteout", &entry.path, errno)),
        }
    }

    fn put(&mut self, entry: &Entry, parent: &OwnedFd, name: &[u8], data: &mut impl Read) -> Result<(), UnpackError> {
        let file_name = OsStr::from_bytes(name);
        match entry.kind {
            Kind::File => self.file(entry, parent, name, data),
            Kind::Directory => self.directory_entry(entry, parent, name),
            Kind::HardLink => self.hard_link(entry, parent, name),
            Kind::Symlink => {
                if entry.link.is_empty() {
                    return Err(refused(&entry.path, "a symbolic link needs a target"));
                }
                let target = OsStr::from_bytes(&entry.link);
                self.replacing(entry, parent, name, "make the symbolic link", || symlinkat(target, parent, file_name))?;
                self.describe_name(entry, parent, name)
            }
            Kind::CharacterDevice | Kind::BlockDevice | Kind::Fifo => {
                let (flag, device) = match entry.kind {
                    Kind::CharacterDevice => (SFlag::S_IFCHR, entry.device),
                    Kind::BlockDevice => (SFlag::S_IFBLK, entry.device),
                    _ => (SFlag::S_IFIFO, (0, 0)),
                };
                let device = makedev(u64::from(device.0), u64::from(device.1));
                let make = || mknodat(parent, file_name, flag, Mode::empty(), device);
                self.replacing(entry, parent, name, "make the node", make)?;
                self.describe_name(entry, parent, name)
            }
            Kind::Unknown(_) => Err(refused(&entry.path, "its type is unknown")),
        }
    }

    fn file(&mut self, entry: &Entry, parent: &OwnedFd, name: &[u8], data: &mut impl Read) -> Result<(), UnpackError> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let open = || openat(parent, OsStr::from_bytes(name), flags, Mode::from_bits_truncate(0o600));
        let mut file = File::from(self.replacing(entry, parent, name, "make the file", open)?);
        let whole = [super::tar_reader::Segment { offset: 0, length: entry.size }];
        for segment in entry.segments.as_deref().unwrap_or(&whole) {
            self.unpacked.bytes = self.unpacked.bytes.saturating_add(segment.length);
            if self.unpacked.bytes > self.limits.bytes {
                return Err(UnpackError::TooLarge { what: "bytes", limit: self.limits.bytes });
            }
            if entry.segments.is_some() {
                file.seek(SeekFrom::Start(segment.offset))
                    .map_err(|source| io_failure("write", &entry.path, source))?;
            }
            copy(data, &mut file, segment.length, &entry.path)?;
        }
        if entry.segments.is_some() {
            file.set_len(entry.size).map_err(|source| io_failure("lengthen", &entry.path, source))?;
        }
        self.describe(entry, &file)?;
        let time = time(entry.modified);
        futimens(&file, &time, &time).map_err(|errno| failure("set the time of", &entry.path, errno))
    }

    fn directory_entry(&mut self, entry: &Entry, parent: &OwnedFd, name: &[u8]) -> Result<(), UnpackError> {
        let file_name = OsStr::from_bytes(name);
        let directory = match open_directory(parent, name) {
            Ok(directory) => directory,
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {
                // A whiteout before it hid the name below; a directory in its place must go on hiding it.
                let hides = is_whiteout(parent, name);
                self.replacing(entry, parent, name, "make the directory", || {
                    mkdirat(parent, file_name, Mode::from_bits_truncate(0o700))
                })?;
                let directory = open_directory(parent, name).map_err(|errno| failure("open", &entry.path, errno))?;
                if hides {
                    set_opaque(&directory).map_err(|errno| failure("mark as opaque", &entry.path, errno))?;
                }
                self.check_depth(&directory, &entry.path)?;
                directory
            }
            Err(errno) => return Err(failure("open", &entry.path, errno)),
        };
        self.describe(entry, &directory)?;
        let path = clean(&entry.path);
        self.remembered += path.len();
        if self.remembered > REMEMBERED_LIMIT {
            return Err(UnpackError::TooLarge { what: "bytes of directory names", limit: REMEMBERED_LIMIT as u64 });
        }
        self.directory_times.push((path, entry.modified));
        Ok(())
    }

    fn hard_link(&mut self, entry: &Entry, parent: &OwnedFd, name: &[u8]) -> Result<(), UnpackError> {
        let target = place(&entry.link).map_err(|_| refused(&entry.path, "its target's name is not acceptable"))?;
        if target.name.is_empty() {
            return Err(refused(&entry.path, "a hard link cannot name the root"));
        }
        let target_parent = if target.parent.is_empty() {
            self.root.try_clone().map_err(|source| io_failure("open", &entry.path, source))?
        } else {
            self.open_in_root(&target.parent)
                .map_err(|errno| failure("find the target's directory of the hard link", &entry.path, errno))?
        };
        let target_name = OsStr::from_bytes(target.name);
        let of_target = fstatat(&target_parent, target_name, AtFlags::AT_SYMLINK_NOFOLLOW)
            .map_err(|errno| failure("find the target of the hard link", &entry.path, errno))?;
        if SFlag::from_bits_truncate(of_target.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR {
            return Err(refused(&entry.path, "a hard link cannot name a directory"));
        }
        let link = || linkat(&target_parent, target_name, parent, OsStr::from_bytes(name), AtFlags::empty());
        match link() {
            Err(Errno::EEXIST) => {
                let present = fstatat(parent, OsStr::from_bytes(name), AtFlags::AT_SYMLINK_NOFOLLOW)
                    .map_err(|errno| failure("examine", &entry.path, errno))?;
                // A link to itself must not remove its own target.
                if (present.st_dev, present.st_ino) == (of_target.st_dev, of_target.st_ino) {
                    return Ok(());
                }
                remove(parent, name, &entry.path, 0)?;
                link().map_err(|errno| failure("make the hard link", &entry.path, errno))
            }
            answer => answer.map_err(|errno| failure("make the hard link", &entry.path, errno)),
        }
    }

    /// Makes something under a name; what is there already makes room, as a later entry of an archive wins.
    fn replacing<T>(
        &mut self,
        entry: &Entry,
        parent: &OwnedFd,
        name: &[u8],
        action: &'static str,
        make: impl Fn() -> nix::Result<T>,
    ) -> Result<T, UnpackError> {
        match make() {
            Err(Errno::EEXIST) => {
                remove(parent, name, &entry.path, 0)?;
                self.parent = None;
                make().map_err(|errno| failure(action, &entry.path, errno))
            }
            answer => answer.map_err(|errno| failure(action, &entry.path, errno)),
        }
    }

    /// Owner, mode and attributes of an open file or directory. The owner comes first: changing it clears set-uid and
    /// capabilities.
    fn describe(&mut self, entry: &Entry, file: &impl AsFd) -> Result<(), UnpackError> {
        fchown(file, Some(Uid::from_raw(entry.user)), Some(Gid::from_raw(entry.group)))
            .map_err(|errno| failure("set the owner of", &entry.path, errno))?;
        fchmod(file, Mode::from_bits_truncate(entry.mode))
            .map_err(|errno| failure("set the mode of", &entry.path, errno))?;
        self.attributes(entry, |name, value| {
            // SAFETY: the descriptor is open, `name` ends with a zero byte, and `value` is as long as stated.
            let answer = unsafe {
                libc::fsetxattr(file.as_fd().as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
            };
            Errno::result(answer).map(drop)
        })
    }

    /// The same and the time, for what cannot be opened (links, devices, pipes).
    fn describe_name(&mut self, entry: &Entry, parent: &OwnedFd, name: &[u8]) -> Result<(), UnpackError> {
        let file_name = OsStr::from_bytes(name);
        let (user, group) = (Uid::from_raw(entry.user), Gid::from_raw(entry.group));
        fchownat(parent, file_name, Some(user), Some(group), AtFlags::AT_SYMLINK_NOFOLLOW)
            .map_err(|errno| failure("set the owner of", &entry.path, errno))?;
        if entry.kind != Kind::Symlink {
            set_node_mode(parent, file_name, entry.mode)
                .map_err(|errno| failure("set the mode of", &entry.path, errno))?;
        }
        let mut path = format!("/proc/self/fd/{}/", parent.as_raw_fd()).into_bytes();
        path.extend_from_slice(name);
        let path = CString::new(path).map_err(|_| refused(&entry.path, "its name holds a zero byte"))?;
        self.attributes(entry, |name, value| {
            // SAFETY: both texts end with a zero byte and `value` is as long as stated; the last component is not followed.
            let answer =
                unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
            Errno::result(answer).map(drop)
        })?;
        let time = time(entry.modified);
        utimensat(parent, file_name, &time, &time, UtimensatFlags::NoFollowSymlink)
            .map_err(|errno| failure("set the time of", &entry.path, errno))
    }

    fn attributes(&mut self, entry: &Entry, set: impl Fn(&CStr, &[u8]) -> nix::Result<()>) -> Result<(), UnpackError> {
        for (name, value) in entry.attributes.iter().filter(|(name, _)| is_kept(name)) {
            let Ok(name) = CString::new(name.as_slice()) else {
                return Err(refused(&entry.path, "an attribute's name holds a zero byte"));
            };
            match set(&name, value) {
                Ok(()) => {}
                // The file system has no such attributes, or not on such files. A lost capability breaks a program, so
                // that one is an error; others are counted and told once.
                Err(Errno::EOPNOTSUPP | Errno::EPERM) if name.as_bytes() != b"security.capability" => {
                    self.lost_attributes += 1;
                }
                Err(errno) => return Err(failure("set an attribute of", &entry.path, errno)),
            }
        }
        Ok(())
    }

    /// The directory of an entry, made where the archive did not describe it.
    fn parent(&mut self, path: &[u8], entry: &[u8]) -> Result<OwnedFd, UnpackError> {
        match self.parent.take() {
            Some((cached, directory)) if cached == path => Ok(directory),
            _ => self.directory(path, entry, 0),
        }
    }

    fn directory(&self, path: &[u8], entry: &[u8], links: usize) -> Result<OwnedFd, UnpackError> {
        if path.is_empty() {
            return self.root.try_clone().map_err(|source| io_failure("open", entry, source));
        }
        match self.open_in_root(path) {
            Ok(directory) => return Ok(directory),
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(failure("open the directory of", entry, errno)),
        }
        if links > LINK_LIMIT {
            return Err(refused(entry, "too many symbolic links lead to it"));
        }
        let split = path.iter().rposition(|&byte| byte == b'/');
        let (above, name) = split.map_or((&b""[..], path), |at| (&path[..at], &path[at + 1..]));
        let above_directory = self.directory(above, entry, links)?;
        match mkdirat(&above_directory, OsStr::from_bytes(name), Mode::from_bits_truncate(0o755)) {
            Ok(()) => {
                let directory = open_directory(&above_directory, name)
                    .map_err(|errno| failure("open the directory of", entry, errno))?;
                // Not subject to the mask that new files get.
                fchmod(&directory, Mode::from_bits_truncate(0o755))
                    .map_err(|errno| failure("set the mode of the directory of", entry, errno))?;
                self.check_depth(&directory, entry)?;
                Ok(directory)
            }
            // A symbolic link to what this layer does not hold: make that, inside the root like everything.
            Err(Errno::EEXIST) => {
                let target = readlinkat(&above_directory, OsStr::from_bytes(name))
                    .map_err(|errno| failure("follow the link to the directory of", entry, errno))?
                    .into_vec();
                let mut there = if target.starts_with(b"/") { Vec::new() } else { above.to_vec() };
                for component in target.split(|&byte| byte == b'/').filter(|part| !matches!(*part, b"" | b".")) {
                    if !there.is_empty() {
                        there.push(b'/');
                    }
                    there.extend_from_slice(component);
                }
                if there.len() > libc::PATH_MAX as usize {
                    return Err(refused(entry, "its name is too long"));
                }
                self.directory(&there, entry, links + 1)
            }
            Err(errno) => Err(failure("make the directory of", entry, errno)),
        }
    }

    /// A directory by its path. In a layer, nothing can be mounted; a container has its volumes.
    fn open_in_root(&self, path: &[u8]) -> nix::Result<OwnedFd> {
        let mut resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        if self.into.is_none() {
            resolve |= ResolveFlag::RESOLVE_NO_XDEV;
        }
        let how = OpenHow::new().flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC).resolve(resolve);
        loop {
            match openat2(&self.root, path, how) {
                // The kernel could not rule out that something was moved meanwhile (another process renames anything).
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                answer => return answer,
            }
        }
    }

    fn check_depth(&self, directory: &OwnedFd, entry: &[u8]) -> Result<(), UnpackError> {
        if self.into.is_some() {
            // Whoever has the container can make what is as deep.
            return Ok(());
        }
        let path = real_path(directory).map_err(|errno| failure("find", entry, errno))?;
        match path.strip_prefix(&self.root_path) {
            Ok(inside) if inside.components().count() <= DEPTH_LIMIT => Ok(()),
            Ok(_) => Err(refused(entry, "its directory is too deep")),
            Err(_) => Err(refused(entry, "its directory is outside of the layer")),
        }
    }

    fn finish(self) -> Result<Unpacked, UnpackError> {
        for (path, modified) in self.directory_times.iter().rev() {
            let directory = if path.is_empty() {
                self.root.try_clone().map_err(|source| io_failure("open", path, source))?
            } else {
                match self.open_in_root(path) {
                    Ok(directory) => directory,
                    // A later entry took its place.
                    Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => continue,
                    Err(errno) => return Err(failure("open", path, errno)),
                }
            };
            let time = time(*modified);
            futimens(&directory, &time, &time).map_err(|errno| failure("set the time of", path, errno))?;
        }
        if self.lost_attributes > 0 {
            tracing::warn!(
                count = self.lost_attributes,
                "the file system cannot hold some extended attributes of a layer"
            );
        }
        Ok(self.unpacked)
    }
}

/// Which attributes of a layer are kept: those that programs and file capabilities need, and none that would speak to
/// overlayfs or to the host's security modules.
pub(super) fn is_kept(name: &[u8]) -> bool {
    if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
        return false;
    }
    name.starts_with(b"user.")
        || name.starts_with(b"trusted.")
        || matches!(name, b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default")
}

/// Without slashes at either end and without empty components and `.`; `..` stays, the kernel resolves it.
fn clean(path: &[u8]) -> Vec<u8> {
    let parts: Vec<_> = path.split(|&byte| byte == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    parts.join(&b'/')
}

fn place(path: &[u8]) -> Result<Place<'_>, UnpackError> {
    if path.contains(&0) {
        return Err(refused(path, "its name holds a zero byte"));
    }
    if path.len() > libc::PATH_MAX as usize {
        return Err(refused(path, "its name is too long"));
    }
    let mut parts: Vec<_> = path.split(|&byte| byte == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    let name = parts.pop().unwrap_or(b"");
    if name == b".." {
        return Err(refused(path, "its name ends with `..`"));
    }
    Ok(Place { parent: parts.join(&b'/'), name })
}

/// A name without `.` and `..`, where it stays below the directory that it starts in.
fn below(path: &[u8]) -> Option<Vec<u8>> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join(&b'/'))
}

fn joined(directory: &[u8], path: &[u8]) -> Vec<u8> {
    if directory.is_empty() || path.is_empty() { [directory, path].concat() } else { [directory, b"/", path].concat() }
}

fn open_directory(parent: &OwnedFd, name: &[u8]) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(parent, OsStr::from_bytes(name), flags, Mode::empty())
}

/// The mode of a node that must not be opened. In a container that runs it may have become a symbolic link by now, which is
/// not followed.
fn set_node_mode(parent: &OwnedFd, name: &OsStr, mode: u32) -> nix::Result<()> {
    let held = openat(parent, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
    let found = nix::sys::stat::fstat(&held)?;
    if SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == SFlag::S_IFLNK {
        return Err(Errno::ELOOP);
    }
    fchmodat(
        nix::fcntl::AT_FDCWD,
        format!("/proc/self/fd/{}", held.as_raw_fd()).as_str(),
        Mode::from_bits_truncate(mode),
        nix::sys::stat::FchmodatFlags::FollowSymlink,
    )
}

fn is_whiteout(parent: &OwnedFd, name: &[u8]) -> bool {
    fstatat(parent, OsStr::from_bytes(name), AtFlags::AT_SYMLINK_NOFOLLOW).is_ok_and(|found| {
        SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == SFlag::S_IFCHR && found.st_rdev == 0
    })
}

fn set_opaque(directory: &OwnedFd) -> nix::Result<()> {
    // SAFETY: the descriptor is open, the name ends with a zero byte, and the value is one byte long.
    let answer = unsafe {
        libc::fsetxattr(directory.as_raw_fd(), c"trusted.overlay.opaque".as_ptr(), b"y".as_ptr().cast(), 1, 0)
    };
    Errno::result(answer).map(drop)
}

fn real_path(directory: &OwnedFd) -> nix::Result<PathBuf> {
    nix::fcntl::readlink(format!("/proc/self/fd/{}", directory.as_raw_fd()).as_str()).map(PathBuf::from)
}

/// Removes whatever has this name, with everything in it.
fn remove(parent: &OwnedFd, name: &[u8], entry: &[u8], depth: usize) -> Result<(), UnpackError> {
    // In a layer making it was bounded; a container has what it has.
    if depth > 2 * DEPTH_LIMIT {
        return Err(refused(entry, "what it replaces is too deep: remove that first"));
    }
    match unlinkat(parent, OsStr::from_bytes(name), UnlinkatFlags::NoRemoveDir) {
        Err(Errno::EISDIR) => {}
        answer => return answer.map_err(|errno| failure("replace", entry, errno)),
    }
    let directory = open_directory(parent, name).map_err(|errno| failure("replace", entry, errno))?;
    let listing = directory.try_clone().map_err(|source| io_failure("replace", entry, source))?;
    let mut listing = nix::dir::Dir::from_fd(listing).map_err(|errno| failure("replace", entry, errno))?;
    let mut names = Vec::new();
    for found in listing.iter() {
        let found = found.map_err(|errno| failure("replace", entry, errno))?;
        let found = found.file_name().to_bytes();
        if !matches!(found, b"." | b"..") {
            names.push(found.to_vec());
        }
    }
    drop(listing);
    for found in names {
        remove(&directory, &found, entry, depth + 1)?;
    }
    unlinkat(parent, OsStr::from_bytes(name), UnlinkatFlags::RemoveDir)
        .map_err(|errno| failure("replace", entry, errno))
}

fn copy(data: &mut impl Read, file: &mut File, length: u64, entry: &[u8]) -> Result<(), UnpackError> {
    let mut buffer = [0; 64 << 10];
    let mut left = length;
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let count = match data.read(&mut buffer[..wanted]) {
            Ok(0) => return Err(TarError::Truncated { position: 0 }.into()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(TarError::Read(error).into()),
        };
        file.write_all(&buffer[..count]).map_err(|source| io_failure("write", entry, source))?;
        left -= count as u64;
    }
    Ok(())
}

fn time((seconds, nanoseconds): (i64, u32)) -> TimeSpec {
    TimeSpec::new(seconds, i64::from(nanoseconds))
}

fn refused(path: &[u8], problem: &'static str) -> UnpackError {
    UnpackError::Refused { path: shown(path), problem }
}

fn failure(action: &'static str, path: &[u8], errno: Errno) -> UnpackError {
    io_failure(action, path, errno.into())
}

fn io_failure(action: &'static str, path: &[u8], source: io::Error) -> UnpackError {
    UnpackError::Io { action, path: shown(path), source }
}

/// A name of an archive, cut to what a person can read.
fn shown(path: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(&path[..path.len().min(512)]))
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;
