//! `stack-shim exec`: runs one more process in a running container.
//!
//! Without a directory it serves one conversation on its standard input, and kills the process when that is over: health
//! probes are so. With a directory it supervises a process that outlives the engine's, as a container's shim does.
//!
//! The helper itself stays on the host. A child of it enters the container and makes the process as the helper's own child,
//! with nothing of the host's in its hands but the streams.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use stack_shim::launch::Peer;
use stack_shim::protocol::{
    EXEC_FILE, ExecLaunch, ExecRequest, ExecResponse, Failure, FailureKind, OciExec, read_frame, write_frame,
};

use crate::container::{self, Streams, Told};
use crate::failing::{During, failure};
use crate::labelling::{self, LabelMoment};
use crate::log_writer::LogWriter;
use crate::run::{blocked_signals, pipes, told_pair};
use crate::supervisor::{Held, Program, Recorded, Supervisor};
use crate::{mounts, oci_runtime, peer, process, syscalls, users};

/// Supervises the process that the document in `directory` describes. `listener` is the socket that the engine connects to.
pub fn supervise(directory: &Path, listener: OwnedFd) -> io::Result<()> {
    let launch: ExecLaunch = serde_json::from_slice(&fs::read(directory.join(EXEC_FILE))?)?;
    // It fails only for a leader.
    let _ = nix::unistd::setsid();
    syscalls::set_name(c"stack-exec");
    syscalls::forbid_dumping()?;
    let blocked = blocked_signals();
    blocked.thread_block()?;
    let listener = UnixListener::from(listener);
    listener.set_nonblocking(true)?;
    let recorded = Recorded { attempt: 0, exit_file: launch.exit_file, oom: None };
    let mut supervisor = Supervisor::new(Further(launch.request), recorded, listener, LogWriter::new(None), None);
    let ended = supervisor.serve(&blocked)?;
    match supervisor.finish(ended) {
        // The container has ended and its directory is gone: whoever waited was told.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// A further process of a container, made when its start is asked for.
struct Further(ExecRequest);

impl Program for Further {
    fn start(&mut self) -> Result<Option<(Pid, Held)>, Failure> {
        let request = &self.0;
        let terminal = request.process.terminal;
        let (streams, mut held) = pipes(request.stdin_open && !terminal, !terminal).during(entering)?;
        let spawned = spawn(request, streams)?;
        if let Some(terminal) = spawned.terminal {
            held.set_terminal(terminal, request.stdin_open, request.terminal_size).during(entering)?;
        }
        Ok(Some((spawned.pid, held)))
    }

    fn is_forgotten(&self) -> bool {
        true
    }
}

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
    let pid = match spawn(&request, Streams { input: None, output: None }) {
        Ok(spawned) => spawned.pid,
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

/// What is being done, for messages.
fn entering() -> String {
    "enter the container".to_owned()
}

/// A process in the container, and the controlling end of its terminal if it has one.
struct Spawned {
    pid: Pid,
    terminal: Option<OwnedFd>,
}

/// Has the runtime that made the container make the process.
fn spawn_by(request: &ExecRequest, by: &OciExec, streams: Streams) -> Result<Spawned, Failure> {
    // Held while it is looked at: its pid cannot come to mean another process.
    let _container = peer::open(Peer { pid: request.pid, started: request.pid_started }, entering)?;
    let root = File::open(format!("/proc/{}/root", request.pid)).during(entering)?;
    let made = oci_runtime::exec(&by.runtime, &by.process, &request.process, root.as_fd(), streams)?;
    Ok(Spawned { pid: made.pid, terminal: made.terminal })
}

fn spawn(request: &ExecRequest, streams: Streams) -> Result<Spawned, Failure> {
    if let Some(by) = &request.runtime {
        return spawn_by(request, by, streams);
    }
    let (ours, theirs) = told_pair().during(entering)?;
    let Some(enterer) = syscalls::clone3(0, None).during(entering)? else { live(request, &theirs, streams) };
    drop((theirs, streams));
    let (mut pid, mut terminal, mut refusal) = (None, None, None);
    // Until its program runs, or it is gone: then nobody holds the other end any more.
    loop {
        match container::hear(&ours) {
            Ok(None) => break,
            Ok(Some((Told::Born { pid: born }, _))) => pid = Some(Pid::from_raw(born)),
            Ok(Some((Told::Ready, sent))) => terminal = sent,
            Ok(Some((Told::Failed(failure), _))) => refusal = Some(failure),
            Err(error) => {
                refusal.get_or_insert_with(|| failure(FailureKind::Kernel, entering(), error.to_string()));
                break;
            }
        }
    }
    // It ends by itself; we are its parent and take the status.
    let _ = waitpid(Pid::from_raw(enterer), None);
    match (pid, refusal) {
        (Some(pid), None) => Ok(Spawned { pid, terminal }),
        (None, None) => Err(failure(FailureKind::Kernel, entering(), "the process that enters it was killed")),
        (pid, Some(refusal)) => {
            if let Some(pid) = pid {
                let _ = kill(pid, Signal::SIGKILL);
                let _ = waitpid(pid, None);
            }
            Err(refusal)
        }
    }
}

/// Ends this process at once; there are no destructors that matter.
fn leave(code: i32) -> ! {
    // SAFETY: nothing of this process is used any more.
    unsafe { libc::_exit(code) }
}

/// Tells why it cannot go on, and ends.
fn give_up(told: &OwnedFd, failure: Failure) -> ! {
    let code = failure.kind.exit_code();
    // If the helper is gone there is nobody left to tell.
    let _ = container::tell(told, &Told::Failed(failure), None);
    leave(code)
}

/// What the child does that enters the container. Never returns to the helper's own work.
fn live(request: &ExecRequest, told: &OwnedFd, streams: Streams) -> ! {
    let mut kept: Vec<_> = [Some(told), streams.input.as_ref()].into_iter().flatten().map(AsRawFd::as_raw_fd).collect();
    kept.extend(streams.output.iter().flat_map(|(output, error)| [output.as_raw_fd(), error.as_raw_fd()]));
    if let Err(failure) = syscalls::close_all_but(&mut kept).during(entering) {
        give_up(told, failure);
    }
    match enter(request) {
        Err(failure) => give_up(told, failure),
        Ok(Entered::Enterer { pid }) => {
            // If the helper is gone, the process ends with it.
            let _ = container::tell(told, &Told::Born { pid }, None);
            leave(0)
        }
        Ok(Entered::Process { container, groups, filter }) => {
            match set_up(request, &container, &groups, filter, told, streams) {
                Ok(prepared) => give_up(told, process::execute(&prepared)),
                Err(failure) => give_up(told, failure),
            }
        }
    }
}

/// Which of the two processes this is.
enum Entered {
    Enterer { pid: i32 },
    Process { container: OwnedFd, groups: Vec<File>, filter: Option<Vec<u8>> },
}

fn enter(request: &ExecRequest) -> Result<Entered, Failure> {
    let container = peer::open(Peer { pid: request.pid, started: request.pid_started }, entering)?;
    let filter = process::read_filter(&request.process)?;
    let groups = container::open_cgroups(&request.cgroups.joined)?;
    let unified = request.cgroups.unified.as_ref().map(File::open).transpose().during(entering)?;
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
    setns(container.as_fd(), flags).during(entering)?;
    let parent = u64::from(libc::CLONE_PARENT.unsigned_abs());
    match syscalls::clone3(parent, unified.as_ref().map(AsFd::as_fd)).during(entering)? {
        Some(pid) => Ok(Entered::Enterer { pid }),
        None => Ok(Entered::Process { container, groups, filter }),
    }
}

fn set_up(
    request: &ExecRequest,
    container: &OwnedFd,
    groups: &[File],
    filter: Option<Vec<u8>>,
    told: &OwnedFd,
    streams: Streams,
) -> Result<process::Prepared, Failure> {
    syscalls::forbid_dumping().during(|| "forbid dumping".to_owned())?;
    container::join_cgroups(groups)?;
    if request.namespaces.cgroup {
        setns(container.as_fd(), CloneFlags::CLONE_NEWCGROUP).during(|| "enter the cgroup namespace".to_owned())?;
    }
    nix::unistd::setsid().during(|| "start a session".to_owned())?;
    let proc = mounts::own_proc()?;
    if let Some(ids) = request.users {
        streams.give(ids);
        if streams.output.is_none() {
            // Those of whoever asked, unless it has a terminal.
            users::give_pipe(io::stdout().as_fd(), ids);
            users::give_pipe(io::stderr().as_fd(), ids);
        }
        users::enter(container.as_fd())?;
    }
    if let Some(label) = &request.process.label {
        labelling::label_keys(label, proc.as_fd())?;
    }
    match syscalls::join_new_session_keyring() {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {}
        result => result.during(|| "leave the session keyring".to_owned())?,
    }
    let mut prepared = process::prepare(&request.process, filter, LabelMoment::Program, proc.as_fd())?;
    drop(proc);
    let mut terminal = None;
    if request.process.terminal {
        let root = File::open("/").during(|| "open the container's root".to_owned())?;
        let (controlling, peer) = container::allocate_terminal(root.as_fd())?;
        container::tell(told, &Told::Ready, Some(controlling.as_raw_fd())).during(|| "tell the helper".to_owned())?;
        terminal = Some(peer);
    }
    container::connect(streams, terminal)?;
    process::default_signals();
    process::become_user(&request.process, &mut prepared)?;
    Ok(prepared)
}
