//! AppArmor's profile of a process: the kernel is told by a file of the process's own directory in /proc, which is opened where
//! a container cannot put another file in its place.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::BorrowedFd;

use stack_shim::launch::{Confinement, ConfinementMoment};
use stack_shim::mount_calls::{c_string, openat2};
use stack_shim::protocol::{Failure, FailureKind};

use crate::failing::{During, failing, failure};

/// The way to tell the kernel.
pub struct Confiner {
    attribute: File,
    command: String,
}

fn step(confinement: &Confinement) -> String {
    format!("apply the AppArmor profile {}", confinement.profile)
}

/// Opens the file, for this process alone.
pub fn open(confinement: &Confinement, proc: BorrowedFd<'_>) -> Result<Confiner, Failure> {
    let step = || step(confinement);
    let (attribute, word) = match confinement.moment {
        ConfinementMoment::Now => ("current", "changeprofile"),
        ConfinementMoment::Program => ("exec", "exec"),
    };
    let own = format!("apparmor/{attribute}");
    let file = match open_attribute(proc, &own) {
        // Linux before 5.8 has one set of files for all security modules.
        Err(error) if error.kind() == io::ErrorKind::NotFound => open_attribute(proc, attribute),
        result => result,
    }
    .during(step)?;
    Ok(Confiner { attribute: file, command: format!("{word} {}", confinement.profile) })
}

/// Opens a file of this process by which a security module is told, in a /proc of [`mounts::own_proc`], reached without a link
/// and without leaving it: what a container or a volume has at /proc plays no part.
pub fn open_attribute(proc: BorrowedFd<'_>, name: &str) -> io::Result<File> {
    let resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_XDEV;
    let path = c_string(format!("{}/attr/{name}", nix::unistd::getpid()))?;
    openat2(proc, &path, libc::O_WRONLY, resolve).map(File::from)
}

impl Confiner {
    /// Tells the kernel. What this process forks is confined as it is.
    pub fn apply(mut self, confinement: &Confinement) -> Result<(), Failure> {
        let step = || step(confinement);
        // In one piece, as the kernel wants it.
        match self.attribute.write(self.command.as_bytes()) {
            Ok(written) if written == self.command.len() => Ok(()),
            Ok(_) => Err(failure(FailureKind::Kernel, step(), "the kernel took a part of it")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(failure(FailureKind::Setting, step(), "it is not loaded on this host"))
            }
            Err(error) => Err(failing(&error, step())),
        }
    }
}
