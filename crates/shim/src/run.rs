//! The shim's own life: it makes the container, holds its streams, answers the engine, and records how it ended.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use stack_shim::launch::{LAUNCH_FILE, Launch, OomCounter};
use stack_shim::log_record::Stream;
use stack_shim::protocol::{ExitRecord, Failure, FailureKind, Request, Response, State, encode};

use crate::container::{self, Streams, Told};
use crate::failing::{During, failure};
use crate::log_writer::LogWriter;
use crate::syscalls;

/// Nanoseconds since the Unix epoch.
fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| u64::try_from(since.as_nanos()).ok())
        .unwrap_or(0)
}

/// Runs one container, whose launch document is in `directory`. `listener` is the socket that the engine connects to.
pub fn run(directory: &Path, listener: OwnedFd) -> io::Result<()> {
    let launch: Launch = serde_json::from_slice(&fs::read(directory.join(LAUNCH_FILE))?)?;
    // A session of its own: no terminal and no process group of the engine's reaches it. It fails only for a leader.
    let _ = nix::unistd::setsid();
    syscalls::set_name(c"stack-shim");
    syscalls::forbid_dumping()?;
    let mut blocked = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        blocked.add(signal);
    }
    blocked.thread_block()?;
    let listener = UnixListener::from(listener);
    listener.set_nonblocking(true)?;
    match make(&launch) {
        Ok(made) => {
            let mut shim = Shim::new(launch, listener, made)?;
            let status = shim.serve(&blocked)?;
            shim.finish(status)
        }
        Err((failure, pid)) => {
            if let Some(pid) = pid {
                // Whatever it was doing, it is of no use; a refusal means that it is gone already.
                let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
                let _ = waitpid(pid, None);
            }
            let record = failed_record(&launch, failure);
            write_record(&launch, &record)?;
            Ok(())
        }
    }
}

fn failed_record(launch: &Launch, failure: Failure) -> ExitRecord {
    ExitRecord {
        attempt: launch.attempt,
        code: failure.kind.exit_code(),
        signal: None,
        oom: false,
        started_at: None,
        finished_at: now(),
        failure: Some(failure),
        log_bytes_lost: 0,
    }
}

/// A container that waits for its start.
struct Made {
    pid: Pid,
    child: OwnedFd,
    outputs: Vec<Output>,
    /// Held so that a program that reads its input does not see the end of it.
    _input: Option<OwnedFd>,
}

struct Output {
    file: File,
    stream: Stream,
    pending: Vec<u8>,
}

impl Output {
    fn new(fd: OwnedFd, stream: Stream) -> io::Result<Self> {
        fcntl(fd.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Self { file: fd.into(), stream, pending: Vec::new() })
    }
}

fn make(launch: &Launch) -> Result<Made, (Failure, Option<Pid>)> {
    let step = || "start the container's first process".to_owned();
    let unborn = |failure: Failure| (failure, None);
    let pipe = || nix::unistd::pipe2(OFlag::O_CLOEXEC).during(step).map_err(unborn);
    let (ours, theirs) = nix::sys::socket::socketpair(
        nix::sys::socket::AddressFamily::Unix,
        nix::sys::socket::SockType::SeqPacket,
        None,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
    )
    .during(step)
    .map_err(unborn)?;
    let mut outputs = Vec::new();
    let (input, held) = if launch.stdin_open && !launch.process.terminal {
        let (read, write) = pipe()?;
        (Some(read), Some(write))
    } else {
        (None, None)
    };
    let output = if launch.process.terminal {
        None
    } else {
        let (output, error) = (pipe()?, pipe()?);
        outputs.push(Output::new(output.0, Stream::Stdout).during(step).map_err(unborn)?);
        outputs.push(Output::new(error.0, Stream::Stderr).during(step).map_err(unborn)?);
        Some((output.1, error.1))
    };
    let unified = launch
        .cgroups
        .unified
        .as_ref()
        .map(File::open)
        .transpose()
        .during(|| "open the control group".to_owned())
        .map_err(unborn)?;
    let flags = container::clone_flags(launch.namespaces);
    let born = syscalls::clone3(flags, unified.as_ref().map(AsFd::as_fd)).during(step).map_err(unborn)?;
    let Some(pid) = born else {
        drop(ours);
        container::live(launch, &theirs, Streams { input, output });
    };
    let pid = Pid::from_raw(pid);
    drop((theirs, input, output));
    match container::hear(&ours) {
        Ok(Some((Told::Ready, terminal))) => {
            if let Some(terminal) = terminal {
                outputs
                    .push(Output::new(terminal, Stream::Stdout).during(step).map_err(|failure| (failure, Some(pid)))?);
            }
            Ok(Made { pid, child: ours, outputs, _input: held })
        }
        Ok(Some((Told::Failed(failure), _))) => Err((failure, Some(pid))),
        Ok(None) => {
            let reason =
                "it was killed before it was ready, perhaps for want of memory: its memory limit may be too low";
            Err((failure(FailureKind::Kernel, step(), reason), Some(pid)))
        }
        Err(error) => Err((failure(FailureKind::Kernel, step(), error.to_string()), Some(pid))),
    }
}

struct Connection {
    stream: UnixStream,
    received: Vec<u8>,
    waits: bool,
}

struct Shim {
    launch: Launch,
    listener: UnixListener,
    connections: Vec<Connection>,
    pid: Pid,
    /// Taken when the start was asked for.
    child: Option<OwnedFd>,
    outputs: Vec<Output>,
    _input: Option<OwnedFd>,
    log: LogWriter,
    started_at: Option<u64>,
    failure: Option<Failure>,
}

/// How the first process ended.
struct Ended {
    code: i32,
    signal: Option<i32>,
}

impl Shim {
    fn new(launch: Launch, listener: UnixListener, made: Made) -> io::Result<Self> {
        let log = LogWriter::new(launch.log.clone());
        Ok(Self {
            launch,
            listener,
            connections: Vec::new(),
            pid: made.pid,
            child: Some(made.child),
            outputs: made.outputs,
            _input: made._input,
            log,
            started_at: None,
            failure: None,
        })
    }

    fn serve(&mut self, signals: &SigSet) -> io::Result<Ended> {
        let signals = SignalFd::with_flags(signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        loop {
            let mut waited = vec![
                PollFd::new(signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
            ];
            waited.extend(self.outputs.iter().map(|output| PollFd::new(output.file.as_fd(), PollFlags::POLLIN)));
            waited.extend(
                self.connections.iter().map(|connection| PollFd::new(connection.stream.as_fd(), PollFlags::POLLIN)),
            );
            match poll(&mut waited, PollTimeout::NONE) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            let ready: Vec<bool> = waited.iter().map(|fd| fd.any().unwrap_or(true)).collect();
            drop(waited);
            let outputs = self.outputs.len();
            self.read_outputs(&ready[2..2 + outputs]);
            self.read_connections(&ready[2 + outputs..]);
            if ready[1] {
                self.accept();
            }
            if ready[0] {
                while let Ok(Some(_)) = signals.read_signal() {}
                if let Some(ended) = self.reap() {
                    return Ok(ended);
                }
            }
        }
    }

    /// Reads what there is, once for each ready stream, and forgets streams that have ended.
    fn read_outputs(&mut self, ready: &[bool]) {
        let mut buffer = [0; 16 * 1024];
        let mut index = 0;
        let log = &mut self.log;
        self.outputs.retain_mut(|output| {
            let is_ready = ready.get(index).copied().unwrap_or(false);
            index += 1;
            if !is_ready {
                return true;
            }
            match output.file.read(&mut buffer) {
                Ok(length) if length > 0 => {
                    output.pending.extend_from_slice(&buffer[..length]);
                    log.take(output.stream, &mut output.pending, false, now());
                    true
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => true,
                // The end; a terminal says it with EIO.
                Ok(_) | Err(_) => {
                    log.take(output.stream, &mut output.pending, true, now());
                    false
                }
            }
        });
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if stream.set_nonblocking(true).is_ok() {
                self.connections.push(Connection { stream, received: Vec::new(), waits: false });
            }
        }
    }

    fn read_connections(&mut self, ready: &[bool]) {
        let mut connections = std::mem::take(&mut self.connections);
        let mut index = 0;
        connections.retain_mut(|connection| {
            let is_ready = ready.get(index).copied().unwrap_or(false);
            index += 1;
            !is_ready || self.converse(connection)
        });
        self.connections = connections;
    }

    /// Reads requests and answers them. False when the connection is over.
    fn converse(&mut self, connection: &mut Connection) -> bool {
        let mut buffer = [0; 4096];
        loop {
            match connection.stream.read(&mut buffer) {
                Ok(0) => return false,
                Ok(length) => connection.received.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        while let Some(prefix) = connection.received.first_chunk::<4>() {
            // Requests are small; anything else is not the engine.
            let Ok(length @ ..=65_536) = stack_shim::protocol::announced_length(*prefix) else { return false };
            let Some(body) = connection.received.get(4..4 + length) else { break };
            let request = serde_json::from_slice(body);
            connection.received.drain(..4 + length);
            let response = match request {
                Ok(Request::Wait) => {
                    connection.waits = true;
                    continue;
                }
                Ok(request) => self.answer(&request),
                Err(error) => Response::BadRequest { reason: error.to_string() },
            };
            if !send(&mut connection.stream, &response) {
                return false;
            }
        }
        true
    }

    fn state(&self) -> State {
        match self.started_at {
            Some(started_at) => State::Running { pid: self.pid.as_raw(), started_at },
            None => State::Created { pid: self.pid.as_raw() },
        }
    }

    fn answer(&mut self, request: &Request) -> Response {
        match request {
            Request::Describe | Request::Wait => Response::State(self.state()),
            Request::Signal { number } => {
                // The pid is ours until we have reaped it, so it cannot be another process's.
                // SAFETY: no pointers.
                if unsafe { libc::kill(self.pid.as_raw(), *number) } == 0 {
                    return Response::Done;
                }
                match io::Error::last_os_error() {
                    error if error.raw_os_error() == Some(libc::EINVAL) => {
                        Response::BadRequest { reason: format!("there is no signal {number}") }
                    }
                    _ => Response::NotRunning,
                }
            }
            Request::Start => match self.child.take() {
                None => Response::State(self.state()),
                Some(child) => self.start(child),
            },
        }
    }

    fn start(&mut self, child: OwnedFd) -> Response {
        let failure = match nix::unistd::write(child.as_fd(), b"s") {
            Err(_) => Some(self.vanished()),
            Ok(_) => match container::hear(&child) {
                Ok(None) => None,
                Ok(Some((Told::Failed(failure), _))) => Some(failure),
                Ok(Some((Told::Ready, _))) | Err(_) => Some(self.vanished()),
            },
        };
        match failure {
            None => {
                self.started_at = Some(now());
                Response::State(self.state())
            }
            Some(failure) => {
                self.failure = Some(failure.clone());
                Response::Failed(failure)
            }
        }
    }

    fn vanished(&self) -> Failure {
        failure(FailureKind::Kernel, "start the container's first process", "it was killed before its program ran")
    }

    fn reap(&self) -> Option<Ended> {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == self.pid => return Some(Ended { code, signal: None }),
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == self.pid => {
                    return Some(Ended { code: 128 + signal as i32, signal: Some(signal as i32) });
                }
                Ok(WaitStatus::StillAlive) | Err(nix::errno::Errno::ECHILD) => return None,
                Ok(_) | Err(_) => {}
            }
        }
    }

    /// Keeps the rest of the output and the exit status, and tells those who wait.
    fn finish(mut self, ended: Ended) -> io::Result<()> {
        // All its processes are gone, so what they wrote is in the pipes. (With the host's pid namespace others may go
        // on writing: what they write from here on is not the container's.)
        for round in 0..64 {
            let ready: Vec<bool> = self.outputs.iter().map(|output| is_readable(output.file.as_fd())).collect();
            if round > 0 && !ready.contains(&true) {
                break;
            }
            self.read_outputs(&ready);
        }
        for output in &mut self.outputs {
            self.log.take(output.stream, &mut output.pending, true, now());
        }
        let failure = self.failure.take();
        let record = ExitRecord {
            attempt: self.launch.attempt,
            code: failure.as_ref().map_or(ended.code, |failure| failure.kind.exit_code()),
            signal: ended.signal,
            oom: self.launch.cgroups.oom.as_ref().is_some_and(ran_out_of_memory),
            started_at: self.started_at,
            finished_at: now(),
            failure,
            log_bytes_lost: self.log.lost,
        };
        let written = write_record(&self.launch, &record);
        self.accept();
        let all = vec![true; self.connections.len()];
        self.started_at.get_or_insert(record.finished_at);
        self.read_connections(&all);
        for connection in self.connections.iter_mut().filter(|connection| connection.waits) {
            // Whoever does not take it reads the record instead.
            let _ = send(&mut connection.stream, &Response::State(State::Exited(record.clone())));
        }
        let file = written?;
        // After telling: a disk under load may take its time. A record that a power cut takes is of a container that
        // the power cut has taken too.
        file.sync_all()?;
        self.log.finish();
        Ok(())
    }
}

fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut waited = [PollFd::new(fd, PollFlags::POLLIN)];
    matches!(poll(&mut waited, PollTimeout::ZERO), Ok(count) if count > 0)
}

fn send(stream: &mut UnixStream, response: &Response) -> bool {
    let Ok(frame) = encode(response) else { return false };
    // Answers are smaller than a socket's buffer; whoever has let it fill up is cut off.
    let _ = stream.set_write_timeout(Some(Duration::from_secs(1)));
    stream.write_all(&frame).is_ok()
}

fn ran_out_of_memory(counter: &OomCounter) -> bool {
    fs::read_to_string(&counter.path).is_ok_and(|text| {
        text.lines().any(|line| line.strip_prefix("oom_kill ").is_some_and(|count| count.trim() != "0"))
    })
}

fn write_record(launch: &Launch, record: &ExitRecord) -> io::Result<File> {
    let temporary = launch.exit_file.with_extension("partial");
    let mut file = File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(record)?)?;
    fs::rename(&temporary, &launch.exit_file)?;
    Ok(file)
}
