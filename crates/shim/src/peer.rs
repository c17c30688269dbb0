//! Processes of containers, held so that their pid cannot come to mean another process.

use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};

use nix::sched::{CloneFlags, setns};
use stack_shim::launch::Peer;
use stack_shim::protocol::{Failure, FailureKind};

use crate::failing::{During, failure};

/// A process by its descriptor.
pub fn open(peer: Peer, step: impl Fn() -> String + Copy) -> Result<OwnedFd, Failure> {
    let opened = open_process(peer.pid).during(step)?;
    // Looked at after the descriptor was opened: it is this very process or none.
    if started(peer.pid).during(step)? != peer.started {
        return Err(failure(FailureKind::Setting, step(), "it has ended"));
    }
    Ok(opened)
}

/// Joins one kind of namespace of another container's.
pub fn join(peer: Option<Peer>, kind: CloneFlags, name: &'static str) -> Result<(), Failure> {
    let Some(peer) = peer else { return Ok(()) };
    let step = || format!("join the other container's {name} namespace");
    setns(open(peer, step)?.as_fd(), kind).during(step)
}

/// When a process was started, field 22 of its /proc/PID/stat (proc(5)).
fn started(pid: i32) -> io::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is in parentheses and may hold anything, so count from its end.
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    rest.split_whitespace()
        .nth(19)
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unknown format"))
}

fn open_process(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
