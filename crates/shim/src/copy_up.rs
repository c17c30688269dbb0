//! Copies what an image has at a volume's target into the volume when that is still empty. Every step is relative to an
//! open directory and follows no link, because the files are the image's.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::dir::{Dir, Type};
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, UtimensatFlags, fstat, fstatat, mkdirat, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{fchownat, linkat, symlinkat};

use crate::root_path::{self, Links};

/// Files with several names that have been copied: (device, inode) to the path below the destination.
type Copied = HashMap<(u64, u64), CString>;

/// Fills `to`, a directory, with what is in `from`, unless there is something in it already.
pub fn fill(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let (from, to) = (reopen(from)?, reopen(to)?);
    if !names(&to)?.is_empty() || names(&from)?.is_empty() {
        return Ok(());
    }
    let mut copied = Copied::new();
    copy_entries(&from, &to, &to, &CString::default(), &mut copied)?;
    copy_attributes(&fstat(from.as_fd())?, &from, &to)
}

/// A readable descriptor of the directory that an `O_PATH` descriptor refers to.
fn reopen(directory: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    root_path::open(directory, "/", libc::O_RDONLY | libc::O_DIRECTORY, Links::Refuse)
}

fn names(directory: &OwnedFd) -> io::Result<Vec<(CString, Option<Type>)>> {
    let mut all = Vec::new();
    for entry in Dir::from_fd(reopen(directory.as_fd())?)?.iter() {
        let entry = entry?;
        if ![c".", c".."].contains(&entry.file_name()) {
            all.push((entry.file_name().to_owned(), entry.file_type()));
        }
    }
    Ok(all)
}

fn open_below(directory: &OwnedFd, name: &CStr, flags: OFlag, mode: Mode) -> io::Result<OwnedFd> {
    Ok(openat(directory.as_fd(), name, flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, mode)?)
}

fn copy_entries(from: &OwnedFd, to: &OwnedFd, top: &OwnedFd, path: &CStr, copied: &mut Copied) -> io::Result<()> {
    for (name, _) in names(from)? {
        let status = fstatat(from.as_fd(), name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        let mut bytes = path.to_bytes().to_vec();
        if !bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name.to_bytes());
        let below = CString::new(bytes).map_err(io::Error::other)?;
        if status.st_nlink > 1 && status.st_mode & libc::S_IFMT != libc::S_IFDIR {
            if let Some(first) = copied.get(&(status.st_dev, status.st_ino)) {
                linkat(top.as_fd(), first.as_c_str(), to.as_fd(), name.as_c_str(), AtFlags::empty())?;
                continue;
            }
            copied.insert((status.st_dev, status.st_ino), below.clone());
        }
        copy_entry(from, to, top, &name, &below, &status, copied)?;
    }
    Ok(())
}

fn copy_entry(
    from: &OwnedFd,
    to: &OwnedFd,
    top: &OwnedFd,
    name: &CStr,
    below: &CStr,
    status: &FileStat,
    copied: &mut Copied,
) -> io::Result<()> {
    let mode = Mode::from_bits_truncate(status.st_mode & 0o7777);
    match status.st_mode & libc::S_IFMT {
        libc::S_IFDIR => {
            let source = open_below(from, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())?;
            mkdirat(to.as_fd(), name, Mode::from_bits_truncate(0o700))?;
            let target = open_below(to, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())?;
            copy_entries(&source, &target, top, below, copied)?;
            copy_attributes(status, &source, &target)
        }
        libc::S_IFREG => {
            let source = open_below(from, name, OFlag::O_RDONLY, Mode::empty())?;
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
            let target = open_below(to, name, flags, Mode::from_bits_truncate(0o600))?;
            let (mut reader, mut writer) = (File::from(source.try_clone()?), File::from(target.try_clone()?));
            io::copy(&mut reader, &mut writer)?;
            copy_attributes(status, &source, &target)
        }
        libc::S_IFLNK => {
            symlinkat(readlinkat(from.as_fd(), name)?.as_os_str(), to.as_fd(), name)?;
            own(to, name, status)?;
            times(to, name, status)
        }
        _ => {
            mknodat(to.as_fd(), name, SFlag::from_bits_truncate(status.st_mode), mode, status.st_rdev)?;
            own(to, name, status)?;
            // mknod(2) is subject to the mask and chown(2) clears setuid; neither matters for these kinds.
            times(to, name, status)
        }
    }
}

fn own(directory: &OwnedFd, name: &CStr, status: &FileStat) -> io::Result<()> {
    let (uid, gid) = (Some(status.st_uid.into()), Some(status.st_gid.into()));
    Ok(fchownat(directory.as_fd(), name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)?)
}

fn times(directory: &OwnedFd, name: &CStr, status: &FileStat) -> io::Result<()> {
    let accessed = TimeSpec::new(status.st_atime, status.st_atime_nsec);
    let modified = TimeSpec::new(status.st_mtime, status.st_mtime_nsec);
    Ok(utimensat(directory.as_fd(), name, &accessed, &modified, UtimensatFlags::NoFollowSymlink)?)
}

/// Owner, extended attributes, mode and times: in this order, because the first clears some of the others.
fn copy_attributes(status: &FileStat, from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    nix::unistd::fchown(to.as_fd(), Some(status.st_uid.into()), Some(status.st_gid.into()))?;
    copy_extended(from, to)?;
    nix::sys::stat::fchmod(to.as_fd(), Mode::from_bits_truncate(status.st_mode & 0o7777))?;
    let accessed = TimeSpec::new(status.st_atime, status.st_atime_nsec);
    let modified = TimeSpec::new(status.st_mtime, status.st_mtime_nsec);
    Ok(nix::sys::stat::futimens(to.as_fd(), &accessed, &modified)?)
}

fn copy_extended(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    let mut list = vec![0u8; 64 * 1024];
    // SAFETY: `list` is writable for its length.
    let length = unsafe { libc::flistxattr(from.as_raw_fd(), list.as_mut_ptr().cast(), list.len()) };
    let Ok(length) = usize::try_from(length) else {
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::EOPNOTSUPP) { Ok(()) } else { Err(error) };
    };
    for name in list[..length].split_inclusive(|&byte| byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        // The overlay's own marks mean nothing outside it, and what SELinux takes a file for is a matter of where it is.
        if name.to_bytes().starts_with(b"trusted.overlay.") || name.to_bytes() == b"security.selinux" {
            continue;
        }
        let mut value = vec![0u8; 64 * 1024];
        // SAFETY: `name` is NUL-terminated and `value` is writable for its length.
        let read = unsafe { libc::fgetxattr(from.as_raw_fd(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        let Ok(read) = usize::try_from(read) else { return Err(io::Error::last_os_error()) };
        // SAFETY: `value` is readable for `read` bytes.
        if unsafe { libc::fsetxattr(to.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), read, 0) } < 0 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::EOPNOTSUPP) {
                return Err(error);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn open(path: &std::path::Path) -> OwnedFd {
        File::open(path).unwrap().into()
    }

    #[test]
    fn everything_is_copied_once_and_links_are_not_followed() {
        let place = tempfile::tempdir().unwrap();
        let (from, to) = (place.path().join("from"), place.path().join("to"));
        fs::create_dir_all(from.join("deep/er")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("deep/file"), "words").unwrap();
        fs::set_permissions(from.join("deep/file"), fs::Permissions::from_mode(0o4751)).unwrap();
        std::os::unix::fs::chown(from.join("deep/file"), Some(33), Some(44)).unwrap();
        fs::set_permissions(from.join("deep/file"), fs::Permissions::from_mode(0o4751)).unwrap();
        fs::hard_link(from.join("deep/file"), from.join("other")).unwrap();
        symlink("/etc/passwd", from.join("link")).unwrap();
        fill(open(&from).as_fd(), open(&to).as_fd()).unwrap();
        let file = fs::metadata(to.join("deep/file")).unwrap();
        assert_eq!((file.mode() & 0o7777, file.uid(), file.gid()), (0o4751, 33, 44));
        assert_eq!(fs::read_to_string(to.join("deep/file")).unwrap(), "words");
        assert_eq!(file.ino(), fs::metadata(to.join("other")).unwrap().ino());
        assert_eq!(fs::read_link(to.join("link")).unwrap().to_str(), Some("/etc/passwd"));
        assert!(to.join("deep/er").is_dir());
        // A volume with something in it stays as it is.
        fs::write(from.join("late"), "").unwrap();
        fill(open(&from).as_fd(), open(&to).as_fd()).unwrap();
        assert!(!to.join("late").exists());
    }
}
