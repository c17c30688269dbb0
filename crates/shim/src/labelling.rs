//! SELinux's label of a process, and of the keys that it makes. The kernel is told by files of the process's own directory in
//! /proc, as for AppArmor.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::BorrowedFd;

use stack_shim::protocol::{Failure, FailureKind};

use crate::confinement::open_attribute;
use crate::failing::{During, failing, failure};

/// From when on a process has its label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelMoment {
    /// With its program.
    Program,
    /// At once, as it executes nothing.
    Now,
}

/// The way to tell the kernel.
pub struct Labeller {
    attribute: File,
    label: String,
    moment: LabelMoment,
}

fn step(label: &str) -> String {
    format!("run as {label} of SELinux")
}

/// Opens the file, for this process alone.
pub fn open(label: &str, moment: LabelMoment, proc: BorrowedFd<'_>) -> Result<Labeller, Failure> {
    let name = match moment {
        LabelMoment::Program => "exec",
        LabelMoment::Now => "current",
    };
    let attribute = open_attribute(proc, name).during(|| step(label))?;
    Ok(Labeller { attribute, label: label.to_owned(), moment })
}

impl Labeller {
    /// Says which label the program shall have, while that can still be said.
    pub fn announce(&mut self) -> Result<(), Failure> {
        match self.moment {
            LabelMoment::Program => self.tell(),
            LabelMoment::Now => Ok(()),
        }
    }

    /// Takes the label on, if that is not the program's matter.
    pub fn take(&mut self) -> Result<(), Failure> {
        match self.moment {
            LabelMoment::Program => Ok(()),
            LabelMoment::Now => self.tell(),
        }
    }

    fn tell(&mut self) -> Result<(), Failure> {
        write(&mut self.attribute, &self.label).map_err(|error| refused(&error, step(&self.label)))
    }
}

/// The keys that this process makes from here on have the label, its session's keyring among them.
pub fn label_keys(label: &str, proc: BorrowedFd<'_>) -> Result<(), Failure> {
    let step = || format!("label keys as {label} for SELinux");
    let mut attribute = open_attribute(proc, "keycreate").during(step)?;
    write(&mut attribute, label).map_err(|error| refused(&error, step()))
}

/// In one piece, as the kernel wants it.
fn write(attribute: &mut File, label: &str) -> io::Result<()> {
    match attribute.write(label.as_bytes())? {
        written if written == label.len() => Ok(()),
        _ => Err(io::Error::other("the kernel took a part of it")),
    }
}

fn refused(error: &io::Error, step: String) -> Failure {
    match error.raw_os_error() {
        Some(libc::EINVAL) => failure(FailureKind::Setting, step, "the policy of this host has no such label"),
        Some(libc::EACCES | libc::EPERM) => failure(
            FailureKind::Setting,
            step,
            "the policy of this host does not let the daemon do that: see the denial in its audit log, and give stackd \
             the type of a container runtime",
        ),
        _ => failing(error, step),
    }
}
