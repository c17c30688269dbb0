//! Volumes that are something mounted: mounted on the host while a container that runs has them, and no longer.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix::mount::{MntFlags, mount, umount2};

use super::options::MountSource;
use crate::crash_point::crash_point;

/// Who has which volume mounted.
#[derive(Debug, Default)]
pub struct Mounts {
    /// By volume: containers.
    users: Mutex<BTreeMap<String, BTreeSet<String>>>,
}

impl Mounts {
    /// Mounts a volume at `data` unless it is, for one more container.
    pub fn take(&self, volume: &str, container: &str, source: &MountSource, data: &Path) -> io::Result<()> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_mounted(data)? {
            let kind = (!source.kind.is_empty()).then_some(source.kind.as_str());
            let text = (!source.data.is_empty()).then_some(source.data.as_str());
            mount(Some(source.device.as_str()), data, kind, source.flags, text)?;
            // A bind takes its other flags only when it is there.
            let bind = nix::mount::MsFlags::MS_BIND;
            if source.flags.contains(bind) && source.flags != bind {
                let none: Option<&str> = None;
                let flags = source.flags | nix::mount::MsFlags::MS_REMOUNT;
                if let Err(error) = mount(none, data, none, flags, none) {
                    let _ = umount2(data, MntFlags::MNT_DETACH);
                    return Err(error.into());
                }
            }
        }
        crash_point!("volume.mounted");
        users.entry(volume.to_owned()).or_default().insert(container.to_owned());
        Ok(())
    }

    /// The container has none any more; what nobody has is unmounted. Everything is tried.
    pub fn leave(&self, container: &str, data: impl Fn(&str) -> PathBuf) -> Vec<String> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let mut failures = Vec::new();
        users.retain(|volume, containers| {
            containers.remove(container);
            if !containers.is_empty() {
                return true;
            }
            match unmount(&data(volume)) {
                Ok(()) => false,
                Err(error) => {
                    failures.push(format!("could not unmount volume `{volume}`: {error}"));
                    true
                }
            }
        });
        failures
    }

    /// Unmounts what is mounted below `root` and nobody has: a process before this one may have left it.
    pub fn sweep(&self, root: &Path) -> Vec<String> {
        let users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let mounted = match mountpoints() {
            Ok(mounted) => mounted,
            Err(error) => return vec![format!("could not read the mounts of this host: {error}")],
        };
        let mut failures = Vec::new();
        for point in mounted.iter().rev().filter(|point| point.starts_with(root)) {
            let volume =
                point.strip_prefix(root).ok().and_then(|rest| rest.iter().next()).and_then(|name| name.to_str());
            if volume.is_some_and(|volume| users.contains_key(volume)) {
                continue;
            }
            if let Err(error) = unmount(point) {
                failures.push(format!("could not unmount {}: {error}", point.display()));
            }
        }
        failures
    }
}

/// Unmounts what is there, also where a process of the host still has a file of it open.
pub fn unmount(point: &Path) -> io::Result<()> {
    while is_mounted(point)? {
        let flags = MntFlags::UMOUNT_NOFOLLOW;
        if umount2(point, flags).is_err() {
            umount2(point, flags | MntFlags::MNT_DETACH)?;
        }
    }
    Ok(())
}

/// Whether something is mounted on exactly this directory.
pub fn is_mounted(point: &Path) -> io::Result<bool> {
    let point = match point.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        // What does not answer any more, like a file server that is gone, is mounted all the same.
        Err(_) => point.to_owned(),
        Ok(point) => point,
    };
    Ok(mountpoints()?.contains(&point))
}

/// Field 5 of each line of /proc/self/mountinfo (proc(5)), in which blanks are octal.
fn mountpoints() -> io::Result<Vec<PathBuf>> {
    let text = std::fs::read("/proc/thread-self/mountinfo")?;
    let lines = text.split(|byte| *byte == b'\n');
    Ok(lines.filter_map(|line| line.split(|byte| *byte == b' ').nth(4)).map(unescape).collect())
}

fn unescape(text: &[u8]) -> PathBuf {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(|_| first == b'\\') {
            Some(byte) => {
                plain.push(byte);
                rest = &after[3..];
            }
            None => {
                plain.push(first);
                rest = after;
            }
        }
    }
    OsString::from_vec(plain).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_are_octal() {
        assert_eq!(unescape(b"/a\\040b\\134c"), PathBuf::from("/a b\\c"));
        assert_eq!(unescape(b"/plain\\9"), PathBuf::from("/plain\\9"));
    }
}
