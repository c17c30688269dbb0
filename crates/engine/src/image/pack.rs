//! Writes files and directories as an archive, while somebody hostile may be changing them. Everything is reached from an
//! open directory, one name at a time, and no link is followed: what was looked at is what is read.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, Read as _, Write};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

use nix::dir::Dir;
use nix::fcntl::{OFlag, open, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, fstat};

use super::owners::Owners;
use super::tar_reader::{Entry, Kind};
use super::tar_writer::TarWriter;
use super::unpack::is_kept;

/// Deeper directories than that are refused: each that is open costs a descriptor.
const DEEPEST: usize = 256;
/// How much is read at once, in bytes.
const PIECE: usize = 128 << 10;

/// Why an archive could not be written.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The file system refused.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// On which path of the archive.
        path: PathBuf,
        /// The answer.
        source: io::Error,
    },
    /// A file became shorter.
    #[error("`{}` became shorter while it was read: copy it again", path.display())]
    Shrunk {
        /// Its path in the archive.
        path: PathBuf,
    },
    /// Too many directories in each other.
    #[error("the directories in `{}` are more than {DEEPEST} deep", path.display())]
    Deep {
        /// The path in the archive.
        path: PathBuf,
    },
    /// Whoever wanted the archive is gone.
    #[error("the archive could not be written")]
    Write(#[from] io::Error),
}

impl PackError {
    fn io(action: &'static str, path: &[u8]) -> impl FnOnce(nix::errno::Errno) -> Self {
        let path = shown(path);
        move |errno| Self::Io { action, path, source: errno.into() }
    }
}

fn shown(path: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(path))
}

/// An archive that is being written.
pub struct Packer<W> {
    archive: TarWriter<W>,
    /// Files with several names: what they are called in the archive.
    seen: HashMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
    owners: Owners,
}

impl<W: Write> Packer<W> {
    /// Starts an archive.
    pub fn new(writer: W) -> Self {
        Self {
            archive: TarWriter::new(writer),
            seen: HashMap::new(),
            buffer: vec![0; PIECE],
            owners: Owners::default(),
        }
    }

    /// The same, of files whose owners in the archive are not those on the host.
    pub fn with_owners(writer: W, owners: Owners) -> Self {
        Self { owners, ..Self::new(writer) }
    }

    /// Writes what a descriptor refers to (`O_PATH` will do), as `path`, and everything below it.
    ///
    /// # Errors
    /// When it cannot be read, or nobody takes the archive.
    pub fn tree(&mut self, found: BorrowedFd<'_>, path: &[u8]) -> Result<(), PackError> {
        self.node(found, path, true, 0)
    }

    /// Writes what a descriptor refers to, as `path`, and nothing below it.
    ///
    /// # Errors
    /// When it cannot be read, or nobody takes the archive.
    pub fn one(&mut self, found: BorrowedFd<'_>, path: &[u8]) -> Result<(), PackError> {
        self.node(found, path, false, 0)
    }

    /// Writes everything in a directory, but not the directory.
    ///
    /// # Errors
    /// When it cannot be read, or nobody takes the archive.
    pub fn contents(&mut self, directory: BorrowedFd<'_>, prefix: &[u8]) -> Result<(), PackError> {
        let directory = reopened(directory, OFlag::O_DIRECTORY).map_err(PackError::io("open", prefix))?;
        self.below(&directory, prefix, 0)
    }

    /// Writes an empty file, as markers in layers are.
    ///
    /// # Errors
    /// When nobody takes the archive.
    pub fn marker(&mut self, path: Vec<u8>) -> Result<(), PackError> {
        let entry = Entry {
            path,
            kind: Kind::File,
            link: Vec::new(),
            mode: 0,
            user: 0,
            group: 0,
            modified: (0, 0),
            device: (0, 0),
            size: 0,
            segments: None,
            attributes: std::collections::BTreeMap::new(),
        };
        Ok(self.archive.entry(&entry)?)
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// When nobody takes it.
    pub fn finish(self) -> Result<W, PackError> {
        Ok(self.archive.finish()?)
    }

    fn below(&mut self, directory: &OwnedFd, prefix: &[u8], depth: usize) -> Result<(), PackError> {
        if depth > DEEPEST {
            return Err(PackError::Deep { path: shown(prefix) });
        }
        for name in names(directory).map_err(PackError::io("list", prefix))? {
            let path = joined(prefix, name.to_bytes());
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            match openat(directory, name.as_c_str(), flags, Mode::empty()) {
                Ok(found) => self.node(found.as_fd(), &path, true, depth + 1)?,
                // Removed in the meantime.
                Err(nix::errno::Errno::ENOENT) => {}
                Err(errno) => return Err(PackError::io("open", &path)(errno)),
            }
        }
        Ok(())
    }

    fn node(&mut self, found: BorrowedFd<'_>, path: &[u8], deep: bool, depth: usize) -> Result<(), PackError> {
        let status = fstat(found).map_err(PackError::io("examine", path))?;
        let kind = match status.st_mode & libc::S_IFMT {
            libc::S_IFREG => Kind::File,
            libc::S_IFDIR => Kind::Directory,
            libc::S_IFLNK => Kind::Symlink,
            libc::S_IFCHR => Kind::CharacterDevice,
            libc::S_IFBLK => Kind::BlockDevice,
            libc::S_IFIFO => Kind::Fifo,
            // A socket means nothing to anybody else; archives have no such entries.
            _ => return Ok(()),
        };
        let mut entry = described(&status, kind, path, self.owners);
        if kind != Kind::Directory && status.st_nlink > 1 {
            if let Some(first) = self.seen.get(&(status.st_dev, status.st_ino)) {
                entry.kind = Kind::HardLink;
                entry.link.clone_from(first);
                entry.size = 0;
                return Ok(self.archive.entry(&entry)?);
            }
            self.seen.insert((status.st_dev, status.st_ino), path.to_vec());
        }
        match kind {
            Kind::File => {
                let file = reopened(found, OFlag::O_NOATIME)
                    .or_else(|_| reopened(found, OFlag::empty()))
                    .map_err(PackError::io("open", path))?;
                entry.attributes =
                    attributes(&file, self.owners).map_err(PackError::io("read the attributes of", path))?;
                self.archive.entry(&entry)?;
                self.content(&mut File::from(file), entry.size, path)
            }
            Kind::Directory => {
                let directory = reopened(found, OFlag::O_DIRECTORY).map_err(PackError::io("open", path))?;
                entry.attributes =
                    attributes(&directory, self.owners).map_err(PackError::io("read the attributes of", path))?;
                if !entry.path.ends_with(b"/") {
                    entry.path.push(b'/');
                }
                self.archive.entry(&entry)?;
                if deep { self.below(&directory, &entry.path, depth) } else { Ok(()) }
            }
            Kind::Symlink => {
                let target = readlinkat(found, "").map_err(PackError::io("read the link", path))?;
                entry.link = target.into_vec();
                Ok(self.archive.entry(&entry)?)
            }
            _ => Ok(self.archive.entry(&entry)?),
        }
    }

    /// As many bytes as the file had when it was looked at, also where it grows.
    fn content(&mut self, file: &mut File, size: u64, path: &[u8]) -> Result<(), PackError> {
        let mut left = size;
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            let piece = self.buffer.get_mut(..wanted).unwrap_or_default();
            let count = match file.read(piece) {
                Ok(0) => return Err(PackError::Shrunk { path: shown(path) }),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(PackError::Io { action: "read", path: shown(path), source }),
            };
            self.archive.write_all(self.buffer.get(..count).unwrap_or_default())?;
            left -= count as u64;
        }
        Ok(())
    }
}

fn described(status: &FileStat, kind: Kind, path: &[u8], owners: Owners) -> Entry {
    let is_device = matches!(kind, Kind::CharacterDevice | Kind::BlockDevice);
    let device = if is_device { (libc::major(status.st_rdev), libc::minor(status.st_rdev)) } else { (0, 0) };
    Entry {
        path: path.to_vec(),
        kind,
        link: Vec::new(),
        mode: status.st_mode & 0o7777,
        user: owners.seen_inside(status.st_uid),
        group: owners.seen_inside(status.st_gid),
        modified: (status.st_mtime, u32::try_from(status.st_mtime_nsec).unwrap_or(0)),
        device,
        size: if kind == Kind::File { u64::try_from(status.st_size).unwrap_or(0) } else { 0 },
        segments: None,
        attributes: std::collections::BTreeMap::new(),
    }
}

/// A readable descriptor of the very thing that an `O_PATH` descriptor refers to, whatever its name means by now.
fn reopened(found: BorrowedFd<'_>, more: OFlag) -> nix::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    open(path.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC | more, Mode::empty())
}

fn names(directory: &OwnedFd) -> nix::Result<Vec<CString>> {
    let mut found = Vec::new();
    let own = open(
        format!("/proc/self/fd/{}", directory.as_raw_fd()).as_str(),
        OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )?;
    for entry in Dir::from_fd(own)?.iter() {
        let entry = entry?;
        if ![c".", c".."].contains(&entry.file_name()) {
            found.push(entry.file_name().to_owned());
        }
    }
    // The same files give the same archive.
    found.sort();
    Ok(found)
}

fn joined(prefix: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = prefix.to_vec();
    if !path.is_empty() && !path.ends_with(b"/") {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// The extended attributes that mean something elsewhere.
fn attributes(file: &OwnedFd, owners: Owners) -> nix::Result<std::collections::BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut found = std::collections::BTreeMap::new();
    let mut list = vec![0_u8; 64 << 10];
    // SAFETY: `list` is writable for its length.
    let length = unsafe { libc::flistxattr(file.as_raw_fd(), list.as_mut_ptr().cast(), list.len()) };
    let Ok(length) = usize::try_from(length) else {
        return match nix::errno::Errno::last() {
            nix::errno::Errno::EOPNOTSUPP | nix::errno::Errno::ENOSYS => Ok(found),
            errno => Err(errno),
        };
    };
    for name in list.get(..length).unwrap_or_default().split_inclusive(|&byte| byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        if !is_kept(name.to_bytes()) || name.to_bytes().starts_with(b"trusted.") {
            continue;
        }
        let mut value = vec![0_u8; 64 << 10];
        // SAFETY: `name` ends with a zero byte and `value` is writable for its length.
        let read = unsafe { libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        // One that was removed in the meantime is none.
        let Ok(read) = usize::try_from(read) else { continue };
        value.truncate(read);
        found.insert(name.to_bytes().to_vec(), owners.attribute_seen_inside(name.to_bytes(), value));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::super::tar_reader::TarReader;
    use super::*;

    #[test]
    fn a_tree_is_written_in_order_and_no_link_is_followed() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("top");
        fs::create_dir_all(root.join("deep")).unwrap();
        fs::write(root.join("deep/file"), "words").unwrap();
        fs::set_permissions(root.join("deep/file"), fs::Permissions::from_mode(0o4750)).unwrap();
        fs::hard_link(root.join("deep/file"), root.join("other")).unwrap();
        symlink("/etc/passwd", root.join("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
        nix::unistd::mkfifo(&root.join("pipe"), Mode::from_bits_truncate(0o600)).unwrap();
        let opened = OwnedFd::from(File::open(&root).unwrap());
        let mut packer = Packer::new(Vec::new());
        packer.tree(opened.as_fd(), b"named").unwrap();
        packer.marker(b"named/.wh.gone".to_vec()).unwrap();
        let bytes = packer.finish().unwrap();
        let mut reader = TarReader::new(bytes.as_slice());
        let mut found = Vec::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            found.push((text(&entry.path), entry.kind, text(&entry.link), entry.mode, entry.size));
        }
        let row = |path: &str, kind, link: &str, size| (path.to_owned(), kind, link.to_owned(), size);
        let shown: Vec<_> = found.iter().map(|one| (one.0.clone(), one.1, one.2.clone(), one.4)).collect();
        assert_eq!(
            shown,
            [
                row("named/", Kind::Directory, "", 0),
                row("named/deep/", Kind::Directory, "", 0),
                row("named/deep/file", Kind::File, "", 5),
                row("named/link", Kind::Symlink, "/etc/passwd", 0),
                row("named/other", Kind::HardLink, "named/deep/file", 0),
                row("named/pipe", Kind::Fifo, "", 0),
                row("named/.wh.gone", Kind::File, "", 0),
            ]
        );
        assert_eq!(found[2].3, 0o4750);
    }

    #[test]
    fn what_is_too_deep_is_named() {
        let place = tempfile::tempdir().unwrap();
        let mut at = OwnedFd::from(File::open(place.path()).unwrap());
        for _ in 0..=DEEPEST + 1 {
            nix::sys::stat::mkdirat(&at, "d", Mode::from_bits_truncate(0o755)).unwrap();
            at = openat(&at, "d", OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty()).unwrap();
        }
        let opened = OwnedFd::from(File::open(place.path()).unwrap());
        let refused = Packer::new(Vec::new()).contents(opened.as_fd(), b"").unwrap_err();
        assert!(matches!(refused, PackError::Deep { .. }), "{refused}");
    }
}
