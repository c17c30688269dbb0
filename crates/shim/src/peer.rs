//! Processes of containers, held so that their pid cannot come to mean another process.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sched::{CloneFlags, setns};
use stack_shim::launch::{Joined, Peer};
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

/// The first processes of the other containers whose namespaces a container joins. They are opened before the
/// container's own process is born: in another pid namespace their pids mean something else.
#[derive(Default)]
pub struct Peers(Vec<(Peer, OwnedFd)>);

impl Peers {
    /// Opens all of them.
    pub fn open(joined: &Joined) -> Result<Self, Failure> {
        let all = [joined.pid, joined.network, joined.ipc].into_iter().flatten();
        let opened = all.map(|peer| Ok((peer, open(peer, || "find the other container".to_owned())?)));
        opened.collect::<Result<_, _>>().map(Self)
    }

    /// One of them.
    pub fn get(&self, peer: Peer) -> Result<BorrowedFd<'_>, Failure> {
        let found = self.0.iter().find(|(other, _)| *other == peer).map(|(_, process)| process.as_fd());
        found.ok_or_else(|| {
            failure(FailureKind::Setting, "find the other container", "none of its namespaces is joined")
        })
    }

    /// Joins one kind of namespace.
    pub fn join(&self, peer: Option<Peer>, kind: CloneFlags, name: &'static str) -> Result<(), Failure> {
        let Some(peer) = peer else { return Ok(()) };
        setns(self.get(peer)?, kind).during(|| format!("join the other container's {name} namespace"))
    }
}

/// Children and threads are of the shim's own pid namespace again. The kernel makes no threads otherwise.
pub fn leave_pid_namespace() -> Result<(), Failure> {
    let step = || "stay in the host's pid namespace".to_owned();
    let own = std::fs::File::open("/proc/self/ns/pid").during(step)?;
    setns(own, CloneFlags::CLONE_NEWPID).during(step)
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

/// A descriptor of a process.
pub fn open_process(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
