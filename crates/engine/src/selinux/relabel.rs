//! Gives files of the host the label of a container, for the options `z` and `Z` of a mount.

use std::ffi::{CStr, CString, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

const NAME: &CStr = c"security.selinux";
/// Deeper directories than that are refused: each that is open costs a descriptor, and a container can make any number.
const DEEPEST: usize = 256;

/// Directories of the host that would not work any more with the label of a container; those that Docker refuses.
const REFUSED: [&str; 25] = [
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/etc/passwd",
    "/etc/pki",
    "/etc/shadow",
    "/home",
    "/lib",
    "/lib64",
    "/media",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/var",
    "/var/lib",
    "/var/log",
    "/var/run",
];

/// Why files did not get a label.
#[derive(Debug, thiserror::Error)]
pub enum RelabelError {
    /// Others on the host need its label.
    #[error(
        "SELinux relabeling of {path} is not allowed: mount a directory below it, or leave `z` and `Z` out and use `label=disable`"
    )]
    Refused {
        /// Which.
        path: PathBuf,
    },
    /// The kernel or the file system refuses.
    #[error("could not give {path} the SELinux label {label}")]
    File {
        /// Which.
        path: PathBuf,
        /// Which label.
        label: String,
        /// Why.
        source: io::Error,
    },
}

/// Whether a path must keep its label. `home`: that of whoever runs the daemon.
fn is_refused(path: &Path, home: Option<&Path>) -> bool {
    REFUSED.iter().any(|refused| path == Path::new(refused)) || home == Some(path)
}

/// Gives a file, or a directory and everything below it, a label. No symbolic link is followed but on the way to it. What has
/// the label keeps it; what cannot have one goes without. `whole`: also if the directory itself has the label. It gets it
/// last, so that one that has it is known to be through.
///
/// # Errors
/// When it is a directory of the host's own, or the kernel refuses.
pub fn relabel(path: &Path, label: &str, whole: bool) -> Result<(), RelabelError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| RelabelError::File { path, label: label.to_owned(), source }
    };
    let found = fs::canonicalize(path).map_err(failed(path))?;
    let home = std::env::var_os("HOME").map(PathBuf::from);
    if is_refused(&found, home.as_deref()) {
        return Err(RelabelError::Refused { path: found });
    }
    let text = CString::new(label).map_err(|error| failed(path)(error.into()))?;
    // Its own name is not followed, whatever comes to be there meanwhile.
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let held = nix::fcntl::open(&found, flags, Mode::empty()).map_err(|errno| failed(&found)(errno.into()))?;
    let own =
        CString::new(format!("/proc/self/fd/{}", held.as_raw_fd())).map_err(|error| failed(path)(error.into()))?;
    if !whole && has(&own, &text, true) {
        return Ok(());
    }
    let kind = nix::sys::stat::fstat(&held).map_err(|errno| failed(&found)(errno.into()))?.st_mode & libc::S_IFMT;
    if kind == libc::S_IFDIR {
        label_below(&held, &found, &text, 0).map_err(|(path, source)| failed(&path)(source))?;
    }
    set(&own, &text, true).map_err(failed(&found))
}

/// A path and what is wrong there.
type Trouble = (PathBuf, io::Error);

/// Labels everything in a directory.
fn label_below(directory: &OwnedFd, path: &Path, label: &CStr, depth: usize) -> Result<(), Trouble> {
    if depth > DEEPEST {
        let error = format!("its directories are more than {DEEPEST} deep");
        return Err((path.to_owned(), io::Error::other(error)));
    }
    let here = |errno: Errno| (path.to_owned(), io::Error::from(errno));
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let opened = openat(directory, ".", flags, Mode::empty()).map_err(here)?;
    let mut names = Vec::new();
    for entry in Dir::from_fd(opened).map_err(here)?.iter() {
        let name = entry.map_err(here)?.file_name().to_owned();
        if ![&b"."[..], b".."].contains(&name.to_bytes()) {
            names.push(name);
        }
    }
    for name in names {
        let below = path.join(OsString::from(std::ffi::OsStr::from_bytes(name.to_bytes())));
        match openat(directory, name.as_c_str(), flags, Mode::empty()) {
            Ok(found) => label_below(&found, &below, label, depth + 1)?,
            // It is no directory, or was removed.
            Err(Errno::ENOTDIR | Errno::ELOOP | Errno::ENOENT) => {}
            Err(errno) => return Err((below, errno.into())),
        }
        let text = [format!("/proc/self/fd/{}/", directory.as_raw_fd()).as_bytes(), name.to_bytes()].concat();
        let Ok(entry) = CString::new(text) else { continue };
        set(&entry, label, false).map_err(|error| (below, error))?;
    }
    Ok(())
}

/// Whether a file has a label. `follow`: the name is a link of /proc to what is meant.
fn has(path: &CStr, label: &CStr, follow: bool) -> bool {
    let mut value = [0_u8; 4096];
    let read = if follow { libc::getxattr } else { libc::lgetxattr };
    // SAFETY: both texts end with a zero byte and `value` is writable for its length.
    let length = unsafe { read(path.as_ptr(), NAME.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    let found = usize::try_from(length).ok().and_then(|length| value.get(..length)).unwrap_or_default();
    // With or without the zero byte at the end.
    found.strip_suffix(b"\0").unwrap_or(found) == label.to_bytes()
}

fn set(path: &CStr, label: &CStr, follow: bool) -> io::Result<()> {
    if has(path, label, follow) {
        return Ok(());
    }
    let bytes = label.to_bytes_with_nul();
    let write = if follow { libc::setxattr } else { libc::lsetxattr };
    // SAFETY: both texts end with a zero byte and `bytes` is readable for its length.
    let result = unsafe { write(path.as_ptr(), NAME.as_ptr(), bytes.as_ptr().cast(), bytes.len(), 0) };
    match Errno::result(result) {
        // Removed meanwhile, or on a file system whose files have no labels of their own.
        Ok(_) | Err(Errno::ENOENT | Errno::EOPNOTSUPP) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn directories_of_the_host_keep_their_labels() {
        let home = Path::new("/users/somebody");
        for path in ["/", "/usr", "/etc", "/home", "/var/lib", "/users/somebody"] {
            assert!(is_refused(Path::new(path), Some(home)), "{path}");
        }
        for path in ["/srv/data", "/home/somebody/site", "/var/lib/web", "/users"] {
            assert!(!is_refused(Path::new(path), Some(home)), "{path}");
        }
        for path in ["/usr/", "/usr/../etc/.", "/proc/self/root"] {
            let error = relabel(Path::new(path), "u:r:t:s0", true).unwrap_err().to_string();
            assert!(error.starts_with("SELinux relabeling of /") && error.contains("is not allowed"), "{error}");
        }
    }

    /// A kernel without SELinux keeps such a label like any other attribute of root's.
    #[test]
    fn everything_below_a_directory_gets_the_label_and_nothing_that_links_lead_to() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        fs::create_dir_all(at("data/sub/deep")).unwrap();
        fs::create_dir(at("outside")).unwrap();
        for name in ["data/file", "data/sub/deep/file", "outside/file"] {
            fs::write(at(name), "").unwrap();
        }
        symlink(at("outside"), at("data/link")).unwrap();
        symlink(at("outside/file"), at("data/sub/link")).unwrap();
        symlink(at("data"), at("way")).unwrap();
        let label = "system_u:object_r:container_file_t:s0:c1,c2";
        let text = CString::new(label).unwrap();
        let has = |name: &str| has(&CString::new(at(name).as_os_str().as_bytes()).unwrap(), &text, false);
        if let Err(RelabelError::File { source, .. }) = relabel(&at("way"), label, true) {
            // Who is not root may not.
            assert_eq!(source.kind(), io::ErrorKind::PermissionDenied, "{source}");
            return;
        }
        if !has("data") {
            // This file system has no such attributes.
            return;
        }
        for name in ["data", "data/file", "data/sub", "data/sub/deep", "data/sub/deep/file", "data/link"] {
            assert!(has(name), "{name}");
        }
        for name in ["outside", "outside/file", "way"] {
            assert!(!has(name), "{name}");
        }
        // What has the label is through, unless everything is asked for.
        fs::write(at("data/new"), "").unwrap();
        relabel(&at("data"), label, false).unwrap();
        assert!(!has("data/new"));
        relabel(&at("data"), label, true).unwrap();
        assert!(has("data/new"));
        relabel(&at("data/file"), "system_u:object_r:container_file_t:s0", true).unwrap();
        assert!(!has("data/file"));
        fs::create_dir_all(at("deep").join("d/".repeat(DEEPEST + 1))).unwrap();
        let RelabelError::File { source, .. } = relabel(&at("deep"), label, true).unwrap_err() else { panic!() };
        assert_eq!(source.to_string(), "its directories are more than 256 deep");
    }
}
