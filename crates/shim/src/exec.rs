//! `stack-shim exec`: runs one more process in a running container and waits for it. If the engine closes the connection,
//! the process is killed.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use stack_shim::protocol::{ExecRequest, ExecResponse, Failure, FailureKind, read_frame, write_frame};

use crate::container::{self, Streams, Told};
use crate::failing::{During, failure};
use crate::{process, syscalls};

/// Serves one request from `engine`.
pub fn run(engine: OwnedFd) -> io::Result<()> {
    syscalls::set_name(c"stack-exec");
    syscalls::forbid_dumping()?;
    let mut engine = UnixStream::from(engine);
    let Some(request) = read_frame::<ExecRequest>(&mut engine)? else { return Ok(()) };
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    signals.thread_block()?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let pid = match spawn(&request) {
        Ok(pid) => pid,
        Err(failure) => return write_frame(&mut engine, &ExecResponse::Failed(failure)),
    };
    write_frame(&mut engine, &ExecResponse::Started { pid: pid.as_raw() })?;
    let code = wait(pid, &signals, &engine)?;
    write_frame(&mut engine, &ExecResponse::Exited { code })
}

fn wait(pid: Pid, signals: &SignalFd, engine: &UnixStream) -> io::Result<i32> {
    let mut abandoned = false;
    loop {
        match waitpid(pid, Some(WaitPidFlag::WNOHANG))? {
            WaitStatus::Exited(_, code) => return Ok(code),
            WaitStatus::Signaled(_, signal, _) => return Ok(128 + signal as i32),
            _ => {}
        }
        let mut waited = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        if !abandoned {
            waited.push(PollFd::new(engine.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut waited, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        if waited.get(1).is_some_and(|fd| fd.any().unwrap_or(true)) {
            abandoned = true;
            // It may have ended by itself.
            let _ = kill(pid, Signal::SIGKILL);
        }
        while let Ok(Some(_)) = signals.read_signal() {}
    }
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
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(RawNumber(fd).into()) })
}

/// A system call's result that is a descriptor.
struct RawNumber(libc::c_long);

impl From<RawNumber> for std::os::fd::RawFd {
    fn from(number: RawNumber) -> Self {
        Self::try_from(number.0).unwrap_or(-1)
    }
}

fn spawn(request: &ExecRequest) -> Result<Pid, Failure> {
    let step = || "enter the container".to_owned();
    let container = open_process(request.pid).during(step)?;
    // Looked at after the descriptor was opened: it is this very process or none.
    if started(request.pid).during(step)? != request.pid_started {
        return Err(failure(FailureKind::Setting, step(), "it has ended"));
    }
    let filter = process::read_filter(&request.process)?;
    let groups = container::open_cgroups(&request.cgroups.joined)?;
    let unified = request.cgroups.unified.as_ref().map(File::open).transpose().during(step)?;
    let (ours, theirs) = nix::sys::socket::socketpair(
        nix::sys::socket::AddressFamily::Unix,
        nix::sys::socket::SockType::SeqPacket,
        None,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
    )
    .during(step)?;
    process::set_limits(&request.process)?;
    let mut flags = CloneFlags::CLONE_NEWNS;
    let spaces = request.namespaces;
    for (own, flag) in [
        (spaces.pid, CloneFlags::CLONE_NEWPID),
        (spaces.network, CloneFlags::CLONE_NEWNET),
        (spaces.ipc, CloneFlags::CLONE_NEWIPC),
        (spaces.uts, CloneFlags::CLONE_NEWUTS),
    ] {
        flags.set(flag, own);
    }
    setns(container.as_fd(), flags).during(step)?;
    match syscalls::clone3(0, unified.as_ref().map(AsFd::as_fd)).during(step)? {
        Some(pid) => {
            drop(theirs);
            match container::hear(&ours) {
                Ok(None) => Ok(Pid::from_raw(pid)),
                Ok(Some((Told::Failed(failure), _))) => {
                    // It exits by itself; we are its parent and take the status.
                    let _ = waitpid(Pid::from_raw(pid), None);
                    Err(failure)
                }
                Ok(Some((Told::Ready, _))) | Err(_) => Err(failure(FailureKind::Kernel, step(), "it was killed")),
            }
        }
        None => {
            let failure = match set_up(request, &container, &groups, filter) {
                Ok(prepared) => process::execute(&prepared),
                Err(failure) => failure,
            };
            let code = failure.kind.exit_code();
            // If the helper is gone there is nobody left to tell.
            let _ = container::tell(&theirs, &Told::Failed(failure), None);
            // SAFETY: ends this process at once; there are no destructors that matter.
            unsafe { libc::_exit(code) }
        }
    }
}

fn set_up(
    request: &ExecRequest,
    container: &OwnedFd,
    groups: &[File],
    filter: Option<Vec<u8>>,
) -> Result<process::Prepared, Failure> {
    syscalls::forbid_dumping().during(|| "forbid dumping".to_owned())?;
    container::join_cgroups(groups)?;
    if request.namespaces.cgroup {
        setns(container.as_fd(), CloneFlags::CLONE_NEWCGROUP).during(|| "enter the cgroup namespace".to_owned())?;
    }
    nix::unistd::setsid().during(|| "start a session".to_owned())?;
    match syscalls::join_new_session_keyring() {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {}
        result => result.during(|| "leave the session keyring".to_owned())?,
    }
    let prepared = process::prepare(&request.process, filter)?;
    container::connect(Streams { input: None, output: None }, None)?;
    process::default_signals();
    process::become_user(&request.process, &prepared)?;
    debug_assert!(container.as_raw_fd() > 2, "descriptors beyond the standard ones are closed on exec");
    Ok(prepared)
}
