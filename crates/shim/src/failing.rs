//! Pure. How an error of a system call becomes a [`Failure`] that names what was being done.

use std::io;

use stack_shim::protocol::{Failure, FailureKind};

/// Says what was being done when an error happened.
pub trait During<T> {
    /// `step` names the thing: `mount a proc at /proc`.
    fn during(self, step: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, step: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| failing(&error.into(), step()))
    }
}

/// An error of a system call, and what was being done.
pub fn failing(error: &io::Error, step: String) -> Failure {
    Failure { step, reason: error.to_string(), kind: kind(error) }
}

/// A failure whose kind is known where it happens.
pub fn failure(kind: FailureKind, step: impl Into<String>, reason: impl Into<String>) -> Failure {
    Failure { step: step.into(), reason: reason.into(), kind }
}

fn kind(error: &io::Error) -> FailureKind {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT | libc::ENOMEM | libc::EMFILE | libc::ENFILE | libc::EAGAIN | libc::EIO) => {
            FailureKind::HostExhausted
        }
        _ if matches!(
            error.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::OutOfMemory | io::ErrorKind::QuotaExceeded
        ) =>
        {
            FailureKind::HostExhausted
        }
        _ => FailureKind::Kernel,
    }
}
