//! AppArmor's profile of a process: the kernel is told by a file of the process's own directory in /proc, which is opened where
//! a container cannot put another file in its place.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

use stack_shim::launch::{Confinement, ConfinementMoment};
use stack_shim::mount_calls::{c_string, openat2};
use stack_shim::protocol::{Failure, FailureKind};

use crate::failing::{During, failing, failure};
use crate::mounts;

/// The way to tell the kernel.
pub struct Confiner {
    attribute: File,
    command: String,
}

fn step(confinement: &Confinement) -> String {
    format!("apply the AppArmor profile {}", confinement.profile)
}

/// Opens the file, for this process alone. It is in a /proc of our own that nothing can be mounted over, reached without a
/// link and without leaving it: what a container or a volume has at /proc plays no part.
pub fn open(confinement: &Confinement) -> Result<Confiner, Failure> {
    let step = || step(confinement);
    let (attribute, word) = match confinement.moment {
        ConfinementMoment::Now => ("current", "changeprofile"),
        ConfinementMoment::Program => ("exec", "exec"),
    };
    let proc = mounts::new_filesystem("proc", "proc", &[], 0).during(step)?;
    let resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_XDEV;
    let pid = nix::unistd::getpid();
    let open = |path: String| openat2(proc.as_fd(), &c_string(path)?, libc::O_WRONLY, resolve);
    let file = match open(format!("{pid}/attr/apparmor/{attribute}")) {
        // Linux before 5.8 has one set of files for all security modules.
        Err(error) if error.kind() == io::ErrorKind::NotFound => open(format!("{pid}/attr/{attribute}")),
        result => result,
    }
    .during(step)?;
    Ok(Confiner { attribute: file.into(), command: format!("{word} {}", confinement.profile) })
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
