//! What a shim does while its process lives, be it a container's first one or one of an exec: it holds the streams, writes
//! the log, serves whoever is connected, and records how it ended.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use stack_shim::launch::OomCounter;
use stack_shim::log_record::Stream;
use stack_shim::protocol::{Attach, ExitRecord, Failure, Request, Response, State, TerminalSize};

use crate::connection::{Connection, Incoming};
use crate::log_writer::LogWriter;
use crate::syscalls;

/// No more input than this is kept: whoever sends it waits.
const INPUT_FULL: usize = 64 * 1024;
/// How long a process that nobody starts is waited for.
const UNSTARTED: Duration = Duration::from_secs(30);

/// Nanoseconds since the Unix epoch.
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| u64::try_from(since.as_nanos()).ok())
        .unwrap_or(0)
}

/// The ends of a process's streams that the shim holds.
#[derive(Default)]
pub struct Held {
    outputs: Vec<Output>,
    input: Option<Input>,
    terminal: Option<OwnedFd>,
}

struct Output {
    file: File,
    stream: Stream,
    pending: Vec<u8>,
}

struct Input {
    file: File,
    pending: Vec<u8>,
    ended: bool,
}

fn without_blocking(fd: OwnedFd) -> io::Result<File> {
    fcntl(fd.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(fd.into())
}

impl Held {
    /// Takes an output.
    pub fn add_output(&mut self, fd: OwnedFd, stream: Stream) -> io::Result<()> {
        self.outputs.push(Output { file: without_blocking(fd)?, stream, pending: Vec::new() });
        Ok(())
    }

    /// Takes the input. While it is held, a program that reads it does not see the end.
    pub fn set_input(&mut self, fd: OwnedFd) -> io::Result<()> {
        self.input = Some(Input { file: without_blocking(fd)?, pending: Vec::new(), ended: false });
        Ok(())
    }

    /// Takes the controlling end of a terminal, which is output, and input if that is open.
    pub fn set_terminal(&mut self, fd: OwnedFd, input: bool, size: Option<TerminalSize>) -> io::Result<()> {
        if let Some(size) = size {
            syscalls::set_terminal_size(fd.as_fd(), size.rows, size.columns)?;
        }
        if input {
            self.set_input(fd.try_clone()?)?;
        }
        self.terminal = Some(fd.try_clone()?);
        self.add_output(fd, Stream::Stdout)
    }
}

/// What a shim supervises.
pub trait Program {
    /// Runs it. Returns its pid and streams, where they were not known before.
    fn start(&mut self) -> Result<Option<(Pid, Held)>, Failure>;
    /// Nobody needs it if nobody starts it in time.
    fn is_forgotten(&self) -> bool;
}

/// Where and how the end is recorded.
pub struct Recorded {
    /// Which start this is.
    pub attempt: u64,
    /// Where the record goes.
    pub exit_file: PathBuf,
    /// Counts kills for want of memory.
    pub oom: Option<OomCounter>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    code: i32,
    signal: Option<i32>,
}

/// A process and whoever is connected to its shim.
pub struct Supervisor<P> {
    program: P,
    recorded: Recorded,
    listener: UnixListener,
    connections: Vec<Connection>,
    pid: Option<Pid>,
    asked_to_start: bool,
    held: Held,
    log: LogWriter,
    started_at: Option<u64>,
    failure: Option<Failure>,
    /// What the engine wants to outlive it.
    kept: Vec<OwnedFd>,
}

/// What a descriptor that is waited for belongs to.
#[derive(Clone, Copy)]
enum Whose {
    Signals,
    Listener,
    Output(usize),
    Input,
    Connection(usize),
}

impl<P: Program> Supervisor<P> {
    /// `pid` and `held` are of a process that was made already, and waits for its start.
    pub fn new(
        program: P,
        recorded: Recorded,
        listener: UnixListener,
        log: LogWriter,
        made: Option<(Pid, Held)>,
    ) -> Self {
        let (pid, held) = made.map_or_else(|| (None, Held::default()), |(pid, held)| (Some(pid), held));
        Self {
            program,
            recorded,
            listener,
            connections: Vec::new(),
            pid,
            asked_to_start: false,
            held,
            log,
            started_at: None,
            failure: None,
            kept: Vec::new(),
        }
    }

    /// Serves until the process has ended.
    pub fn serve(&mut self, signals: &SigSet) -> io::Result<Ended> {
        let signals = SignalFd::with_flags(signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        let began = Instant::now();
        loop {
            let stalled = self.connections.iter().filter_map(Connection::stalled_until).min();
            let forgotten = (!self.asked_to_start && self.program.is_forgotten()).then(|| began + UNSTARTED);
            let ready = self.wait(&signals, stalled, stalled.into_iter().chain(forgotten).min())?;
            if forgotten.is_some_and(|until| Instant::now() >= until) {
                return Ok(Ended { code: 128, signal: None });
            }
            self.connections.retain(|connection| connection.stalled_until().is_none_or(|until| Instant::now() < until));
            let is_ready = |index: usize, which: fn(usize) -> Whose| {
                ready.iter().any(|whose| match (*whose, which(index)) {
                    (Whose::Output(one), Whose::Output(other)) | (Whose::Connection(one), Whose::Connection(other)) => {
                        one == other
                    }
                    _ => false,
                })
            };
            let outputs: Vec<bool> = (0..self.held.outputs.len()).map(|index| is_ready(index, Whose::Output)).collect();
            let connections: Vec<bool> =
                (0..self.connections.len()).map(|index| is_ready(index, Whose::Connection)).collect();
            self.serve_connections(&connections);
            self.read_outputs(&outputs);
            if ready.iter().any(|whose| matches!(whose, Whose::Input)) {
                self.write_input();
            }
            if ready.iter().any(|whose| matches!(whose, Whose::Listener)) {
                self.accept();
            }
            if self.pid.is_none() && self.failure.is_some() {
                return Ok(Ended { code: 128, signal: None });
            }
            if ready.iter().any(|whose| matches!(whose, Whose::Signals)) {
                while let Ok(Some(_)) = signals.read_signal() {}
                if let Some(ended) = self.reap() {
                    return Ok(ended);
                }
            }
        }
    }

    /// Waits until something is to be done.
    fn wait(&self, signals: &SignalFd, stalled: Option<Instant>, until: Option<Instant>) -> io::Result<Vec<Whose>> {
        let mut fds = vec![
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
        ];
        let mut whose = vec![Whose::Signals, Whose::Listener];
        // While somebody who shall have it has no room for it, output stays in its pipe.
        if stalled.is_none() {
            for (index, output) in self.held.outputs.iter().enumerate() {
                fds.push(PollFd::new(output.file.as_fd(), PollFlags::POLLIN));
                whose.push(Whose::Output(index));
            }
        }
        let input = self.held.input.as_ref();
        if let Some(input) = input.filter(|input| !input.pending.is_empty()) {
            fds.push(PollFd::new(input.file.as_fd(), PollFlags::POLLOUT));
            whose.push(Whose::Input);
        }
        let takes_input = input.is_none_or(|input| input.pending.len() < INPUT_FULL);
        for (index, connection) in self.connections.iter().enumerate() {
            let interest = connection.interest(takes_input);
            if !interest.is_empty() {
                fds.push(PollFd::new(connection.fd(), interest));
                whose.push(Whose::Connection(index));
            }
        }
        let timeout = until.map_or(PollTimeout::NONE, |until| {
            // Rounded up, so that the time has come when it returns.
            let left = until.saturating_duration_since(Instant::now()).as_millis() + 1;
            u16::try_from(left).map_or(PollTimeout::from(u16::MAX), PollTimeout::from)
        });
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = fds.iter().zip(whose).filter(|(fd, _)| fd.any().unwrap_or(true));
        Ok(ready.map(|(_, whose)| whose).collect())
    }

    /// Reads what there is, once for each ready stream, and forgets streams that have ended.
    fn read_outputs(&mut self, ready: &[bool]) {
        let mut buffer = [0; 16 * 1024];
        let mut index = 0;
        let (log, connections) = (&mut self.log, &mut self.connections);
        self.held.outputs.retain_mut(|output| {
            let is_ready = ready.get(index).copied().unwrap_or(false);
            index += 1;
            if !is_ready {
                return true;
            }
            match output.file.read(&mut buffer) {
                Ok(length) if length > 0 => {
                    connections.retain_mut(|connection| connection.give(output.stream, &buffer[..length]));
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

    fn write_input(&mut self) {
        let Some(input) = &mut self.held.input else { return };
        let mut written = 0;
        let is_open = loop {
            match input.file.write(&input.pending[written..]) {
                Ok(0) => break true,
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Nobody reads it any more.
                Err(_) => break false,
            }
        };
        input.pending.drain(..written);
        if !is_open || (input.ended && input.pending.is_empty()) {
            self.held.input = None;
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if let Ok(connection) = Connection::new(stream) {
                self.connections.push(connection);
            }
        }
    }

    fn serve_connections(&mut self, ready: &[bool]) {
        let mut connections = std::mem::take(&mut self.connections);
        let mut index = 0;
        connections.retain_mut(|connection| {
            let is_ready = ready.get(index).copied().unwrap_or(false);
            index += 1;
            !is_ready || (connection.flush() && self.converse(connection))
        });
        self.connections = connections;
    }

    /// Reads requests and answers them, or takes input. False when the connection is over.
    fn converse(&mut self, connection: &mut Connection) -> bool {
        let has_room = self.held.input.as_ref().is_none_or(|input| input.pending.len() < INPUT_FULL);
        if connection.is_source() && !has_room {
            return true;
        }
        let is_open = connection.receive(INPUT_FULL);
        loop {
            match connection.next() {
                Ok(None) => return is_open,
                Err(_) => return false,
                Ok(Some(Incoming::Input(bytes))) => {
                    // Without an input that is open there is nobody to give it to.
                    if let Some(input) = self.held.input.as_mut().filter(|input| !input.ended) {
                        input.pending.extend(bytes);
                        self.write_input();
                    }
                }
                Ok(Some(Incoming::EndOfInput)) => {
                    // A terminal is not closed: somebody else may come to it.
                    if self.held.terminal.is_none()
                        && let Some(input) = &mut self.held.input
                    {
                        input.ended = true;
                        self.write_input();
                    }
                }
                Ok(Some(Incoming::Request(Ok(Request::Wait)))) => connection.waits = true,
                Ok(Some(Incoming::Request(Ok(Request::Attach(wanted))))) => {
                    if !self.attach(connection, wanted) {
                        return false;
                    }
                }
                Ok(Some(Incoming::Request(Ok(Request::Keep)))) => {
                    self.kept = connection.take_descriptors();
                    if !connection.answer(&Response::Done) {
                        return false;
                    }
                }
                Ok(Some(Incoming::Request(Ok(Request::Kept)))) => {
                    if !connection.answer_with(&Response::Kept { count: self.kept.len() }, &self.kept) {
                        return false;
                    }
                }
                Ok(Some(Incoming::Request(request))) => {
                    let response = match request {
                        Ok(request) => self.answer(&request),
                        Err(reason) => Response::BadRequest { reason },
                    };
                    if !connection.answer(&response) {
                        return false;
                    }
                }
            }
        }
    }

    fn attach(&self, connection: &mut Connection, wanted: Attach) -> bool {
        if !connection.answer(&Response::Attached { at: now() }) {
            return false;
        }
        connection.attach(wanted);
        let under_way = self.held.outputs.iter().filter(|_| wanted.replay);
        under_way.into_iter().all(|output| connection.give(output.stream, &output.pending))
    }

    fn state(&self) -> State {
        let pid = self.pid.map_or(0, Pid::as_raw);
        match self.started_at {
            Some(started_at) => State::Running { pid, started_at },
            None => State::Created { pid },
        }
    }

    fn answer(&mut self, request: &Request) -> Response {
        match request {
            // The last four are answered before.
            Request::Describe | Request::Wait | Request::Attach(_) | Request::Keep | Request::Kept => {
                Response::State(self.state())
            }
            Request::Signal { number } => {
                let Some(pid) = self.pid else { return Response::NotRunning };
                // The pid is ours until we have reaped it, so it cannot be another process's.
                // SAFETY: no pointers.
                if unsafe { libc::kill(pid.as_raw(), *number) } == 0 {
                    return Response::Done;
                }
                match io::Error::last_os_error() {
                    error if error.raw_os_error() == Some(libc::EINVAL) => {
                        Response::BadRequest { reason: format!("there is no signal {number}") }
                    }
                    _ => Response::NotRunning,
                }
            }
            Request::Resize(size) => match &self.held.terminal {
                None => Response::BadRequest { reason: "it has no terminal".to_owned() },
                Some(terminal) => match syscalls::set_terminal_size(terminal.as_fd(), size.rows, size.columns) {
                    Ok(()) => Response::Done,
                    Err(error) => Response::BadRequest { reason: error.to_string() },
                },
            },
            Request::Start if self.asked_to_start => Response::State(self.state()),
            Request::Start => self.start(),
        }
    }

    fn start(&mut self) -> Response {
        self.asked_to_start = true;
        match self.program.start() {
            Ok(made) => {
                if let Some((pid, held)) = made {
                    self.pid = Some(pid);
                    self.held = held;
                }
                self.started_at = Some(now());
                Response::State(self.state())
            }
            Err(failure) => {
                self.failure = Some(failure.clone());
                Response::Failed(failure)
            }
        }
    }

    fn reap(&self) -> Option<Ended> {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) if Some(pid) == self.pid => {
                    return Some(Ended { code, signal: None });
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) if Some(pid) == self.pid => {
                    return Some(Ended { code: 128 + signal as i32, signal: Some(signal as i32) });
                }
                Ok(WaitStatus::StillAlive) | Err(nix::errno::Errno::ECHILD) => return None,
                Ok(_) | Err(_) => {}
            }
        }
    }

    /// Keeps the rest of the output and the exit status, and tells those who wait.
    pub fn finish(mut self, ended: Ended) -> io::Result<()> {
        // All its processes are gone, so what they wrote is in the pipes. (With the host's pid namespace others may go
        // on writing: what they write from here on is not the container's.)
        for round in 0..64 {
            let outputs = &self.held.outputs;
            let ready: Vec<bool> = outputs.iter().map(|output| is_readable(output.file.as_fd())).collect();
            if round > 0 && !ready.contains(&true) {
                break;
            }
            self.read_outputs(&ready);
        }
        for output in &mut self.held.outputs {
            self.log.take(output.stream, &mut output.pending, true, now());
        }
        let log_bytes_lost = self.log.settle();
        let failure = self.failure.take();
        let record = ExitRecord {
            attempt: self.recorded.attempt,
            code: failure.as_ref().map_or(ended.code, |failure| failure.kind.exit_code()),
            signal: ended.signal,
            oom: self.recorded.oom.as_ref().is_some_and(ran_out_of_memory),
            started_at: self.started_at,
            finished_at: now(),
            failure,
            log_bytes_lost,
        };
        let written = write_record(&self.recorded, &record);
        self.accept();
        self.started_at.get_or_insert(record.finished_at);
        let all = vec![true; self.connections.len()];
        self.serve_connections(&all);
        for connection in self.connections.iter_mut().filter(|connection| connection.waits) {
            // Whoever does not take it reads the record instead.
            let _ = connection.answer(&Response::State(State::Exited(record.clone())));
        }
        for connection in &mut self.connections {
            connection.say_farewell();
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

fn ran_out_of_memory(counter: &OomCounter) -> bool {
    fs::read_to_string(&counter.path).is_ok_and(|text| {
        text.lines().any(|line| line.strip_prefix("oom_kill ").is_some_and(|count| count.trim() != "0"))
    })
}

/// Writes the exit record in place of whatever is there. What is returned is not synced yet.
pub fn write_record(recorded: &Recorded, record: &ExitRecord) -> io::Result<File> {
    let temporary = recorded.exit_file.with_extension("partial");
    let mut file = File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(record)?)?;
    fs::rename(&temporary, &recorded.exit_file)?;
    Ok(file)
}
