//! A container's shim: it makes the container, then supervises its first process.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use stack_shim::launch::{LAUNCH_FILE, Launch, OciRuntime};
use stack_shim::log_record::Stream;
use stack_shim::protocol::{ExitRecord, Failure, FailureKind};

use crate::container::{self, Streams, Told};
use crate::failing::{During, failure};
use crate::log_writer::LogWriter;
use crate::peer::Peers;
use crate::supervisor::{Held, Program, Recorded, Supervisor, now, write_record};
use crate::users::Founder;
use crate::{oci_runtime, syscalls};

/// Signals that a shim takes by descriptor, or not at all.
pub fn blocked_signals() -> SigSet {
    let mut blocked = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        blocked.add(signal);
    }
    blocked
}

/// Runs one container, whose launch document is in `directory`. `listener` is the socket that the engine connects to.
pub fn run(directory: &Path, listener: OwnedFd) -> io::Result<()> {
    let launch: Launch = serde_json::from_slice(&fs::read(directory.join(LAUNCH_FILE))?)?;
    // A session of its own: no terminal and no process group of the engine's reaches it. It fails only for a leader.
    let _ = nix::unistd::setsid();
    syscalls::set_name(c"stack-shim");
    syscalls::forbid_dumping()?;
    let blocked = blocked_signals();
    blocked.thread_block()?;
    let listener = UnixListener::from(listener);
    listener.set_nonblocking(true)?;
    let recorded =
        Recorded { attempt: launch.attempt, exit_file: launch.exit_file.clone(), oom: launch.cgroups.oom.clone() };
    match make(&launch) {
        Ok((waiting, pid, held)) => {
            let log = LogWriter::new(launch.log.clone());
            let runtime = launch.runtime.clone();
            drop(launch);
            let mut supervisor = Supervisor::new(waiting, recorded, listener, log, Some((pid, held)));
            let ended = supervisor.serve(&blocked)?;
            forget(runtime.as_ref());
            supervisor.finish(ended)
        }
        Err((failure, pid)) => {
            forget(launch.runtime.as_ref());
            if let Some(pid) = pid {
                // Whatever it was doing, it is of no use; a refusal means that it is gone already.
                let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
                let _ = waitpid(pid, None);
            }
            write_record(&recorded, &failed_record(launch.attempt, failure))?;
            Ok(())
        }
    }
}

fn failed_record(attempt: u64, failure: Failure) -> ExitRecord {
    ExitRecord {
        attempt,
        code: failure.kind.exit_code(),
        signal: None,
        oom: false,
        started_at: None,
        finished_at: now(),
        failure: Some(failure),
        log_bytes_lost: 0,
    }
}

/// Has another runtime forget a container that has ended.
fn forget(runtime: Option<&OciRuntime>) {
    if let Some(runtime) = runtime
        && let Err(failure) = oci_runtime::delete(runtime)
    {
        // What it knew is in the container's run directory, and goes with that.
        let _ = writeln!(io::stderr(), "stack-shim: {failure}");
    }
}

/// A container whose first process waits for its start.
enum Waiting {
    /// At the other end of this socket.
    Here(Option<OwnedFd>),
    /// For a word of the runtime that has made it.
    For(OciRuntime),
}

impl Program for Waiting {
    fn start(&mut self) -> Result<Option<(Pid, Held)>, Failure> {
        let vanished = || {
            failure(FailureKind::Kernel, "start the container's first process", "it was killed before its program ran")
        };
        let child = match self {
            Self::Here(child) => child.take().ok_or_else(vanished)?,
            Self::For(runtime) => return oci_runtime::start(runtime).map(|()| None),
        };
        nix::unistd::write(child.as_fd(), b"s").map_err(|_| vanished())?;
        match container::hear(&child) {
            Ok(None) => Ok(None),
            Ok(Some((Told::Failed(failure), _))) => Err(failure),
            Ok(Some((Told::Ready | Told::Born { .. }, _))) | Err(_) => Err(vanished()),
        }
    }

    fn is_forgotten(&self) -> bool {
        false
    }
}

/// A socket for what a process says of itself before its program runs.
pub fn told_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(nix::sys::socket::socketpair(
        nix::sys::socket::AddressFamily::Unix,
        nix::sys::socket::SockType::SeqPacket,
        None,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
    )?)
}

/// The pipes of a process without a terminal: its ends and ours.
pub fn pipes(input: bool, output: bool) -> io::Result<(Streams, Held)> {
    let mut held = Held::default();
    let mut streams = Streams { input: None, output: None };
    if input {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        held.set_input(write)?;
        streams.input = Some(read);
    }
    if output {
        let (output, error) = (nix::unistd::pipe2(OFlag::O_CLOEXEC)?, nix::unistd::pipe2(OFlag::O_CLOEXEC)?);
        held.add_output(output.0, Stream::Stdout)?;
        held.add_output(error.0, Stream::Stderr)?;
        streams.output = Some((output.1, error.1));
    }
    Ok((streams, held))
}

/// Has another runtime make the container.
fn make_by(launch: &Launch, runtime: &OciRuntime) -> Result<(Waiting, Pid, Held), (Failure, Option<Pid>)> {
    let step = || "start the container's first process".to_owned();
    let unborn = |failure: Failure| (failure, None);
    let terminal = launch.process.terminal;
    let (streams, mut held) = pipes(launch.stdin_open && !terminal, !terminal).during(step).map_err(unborn)?;
    let made = oci_runtime::create(launch, runtime, streams).map_err(unborn)?;
    if let Some(terminal) = made.terminal {
        held.set_terminal(terminal, launch.stdin_open, launch.terminal_size)
            .during(step)
            .map_err(|failure| (failure, Some(made.pid)))?;
    }
    Ok((Waiting::For(runtime.clone()), made.pid, held))
}

fn make(launch: &Launch) -> Result<(Waiting, Pid, Held), (Failure, Option<Pid>)> {
    if let Some(runtime) = &launch.runtime {
        return make_by(launch, runtime);
    }
    let step = || "start the container's first process".to_owned();
    let unborn = |failure: Failure| (failure, None);
    let (ours, theirs) = told_pair().during(step).map_err(unborn)?;
    let terminal = launch.process.terminal;
    let (streams, mut held) = pipes(launch.stdin_open && !terminal, !terminal).during(step).map_err(unborn)?;
    let unified = launch
        .cgroups
        .unified
        .as_ref()
        .map(File::open)
        .transpose()
        .during(|| "open the control group".to_owned())
        .map_err(unborn)?;
    // The shim stays where it is: only its children are in the other container's.
    let peers = Peers::open(&launch.joined).map_err(unborn)?;
    let founder = launch
        .users
        .as_ref()
        .map(|users| Founder::make(users, launch.namespaces, &peers))
        .transpose()
        .map_err(unborn)?;
    peers.join(launch.joined.pid, CloneFlags::CLONE_NEWPID, "pid").map_err(unborn)?;
    let mut made = launch.namespaces;
    if founder.is_some() {
        // These belong to the user namespace, so that they are there already.
        (made.network, made.ipc, made.uts) = (false, false, false);
    }
    let flags = container::clone_flags(made);
    let born = syscalls::clone3(flags, unified.as_ref().map(AsFd::as_fd)).during(step).map_err(unborn)?;
    let Some(pid) = born else {
        drop((ours, held));
        container::live(launch, &theirs, streams, peers, founder);
    };
    let pid = Pid::from_raw(pid);
    drop((theirs, streams, peers));
    if launch.joined.pid.is_some() {
        crate::peer::leave_pid_namespace().map_err(|failure| (failure, Some(pid)))?;
    }
    let heard = container::hear(&ours);
    drop(founder);
    match heard {
        Ok(Some((Told::Ready, terminal))) => {
            if let Some(terminal) = terminal {
                held.set_terminal(terminal, launch.stdin_open, launch.terminal_size)
                    .during(step)
                    .map_err(|failure| (failure, Some(pid)))?;
            }
            Ok((Waiting::Here(Some(ours)), pid, held))
        }
        Ok(Some((Told::Failed(failure), _))) => Err((failure, Some(pid))),
        Ok(None | Some((Told::Born { .. }, _))) => {
            let reason =
                "it was killed before it was ready, perhaps for want of memory: its memory limit may be too low";
            Err((failure(FailureKind::Kernel, step(), reason), Some(pid)))
        }
        Err(error) => Err((failure(FailureKind::Kernel, step(), error.to_string()), Some(pid))),
    }
}
