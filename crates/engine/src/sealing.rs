//! Memory that is closed to changes, as `memfd_create(2)` and `F_ADD_SEALS` of `fcntl(2)` have it.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};

/// The kernel looks through its pages for a moment, for reasons of its own, and so long says that they are in use.
const ATTEMPTS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(50);

/// Closes a file of memory to every change of what it holds and of its seals.
///
/// # Errors
/// It cannot be sealed, or somebody goes on using it for writing.
pub fn seal(file: impl AsFd) -> io::Result<()> {
    let seals = SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
    for _ in 1..ATTEMPTS {
        match fcntl(&file, FcntlArg::F_ADD_SEALS(seals)) {
            Err(Errno::EBUSY) => std::thread::sleep(PAUSE),
            other => return other.map(drop).map_err(io::Error::from),
        }
    }
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).map(drop).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

    use super::*;

    fn memory() -> std::fs::File {
        // SAFETY: the name is a static C string.
        let fd = unsafe { libc::memfd_create(c"sealing".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
        assert!(fd >= 0);
        // SAFETY: the kernel has just made this descriptor for us.
        let mut file = std::fs::File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        file.write_all(b"text").unwrap();
        file
    }

    /// A writable mapping is what makes the kernel say that it is busy, for as long as it is there.
    #[test]
    fn what_is_busy_for_a_moment_is_sealed_afterwards() {
        let mut file = memory();
        // SAFETY: a new mapping of a file of four bytes, at a place that the kernel chooses.
        let mapping =
            unsafe { libc::mmap(std::ptr::null_mut(), 4, libc::PROT_WRITE, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        assert_ne!(mapping, libc::MAP_FAILED);
        let mapping = mapping as usize;
        let other = std::thread::spawn(move || {
            std::thread::sleep(3 * PAUSE);
            // SAFETY: the mapping that was made above, which nobody uses.
            assert_eq!(unsafe { libc::munmap(mapping as *mut libc::c_void, 4) }, 0);
        });
        seal(&file).unwrap();
        other.join().unwrap();
        assert_eq!(file.write_all(b"more").unwrap_err().raw_os_error(), Some(libc::EPERM));
    }
}
