//! Further processes in a running container, each by a short-lived `stack-shim exec`.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::Duration;

use stack_shim::protocol::{ExecRequest, ExecResponse, OciExec};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::UnixStream;

use super::config::ContainerConfig;
use super::errors::ExecError;
use super::exec::ExecConfig;
use super::launch::{Launcher, confinement_beside};
use super::record::Record;
use super::shim::{receive, send};
use super::spec;

/// What to run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecCommand {
    /// The program and its arguments.
    pub arguments: Vec<String>,
    /// Added to the container's environment.
    pub environment: BTreeMap<String, String>,
    /// In place of the container's.
    pub user: Option<String>,
    /// In place of the container's.
    pub working_dir: Option<String>,
    /// All capabilities and no filter.
    pub privileged: bool,
    /// After which it is killed; never unless said otherwise.
    pub timeout: Option<Duration>,
    /// So many bytes of each output are kept; the rest is read and dropped.
    pub output_limit: usize,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutcome {
    /// The exit code, or 128 and the signal's number; `None` when it was killed after the timeout.
    pub code: Option<i32>,
    /// What it wrote to standard output, up to the limit.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error, up to the limit.
    pub stderr: Vec<u8>,
}

/// When a process was started, field 22 of its /proc/PID/stat (proc(5)).
pub(crate) fn started(pid: i32) -> io::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    text.rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().nth(19)?.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unknown format of /proc/PID/stat"))
}

/// What one output has said so far. Reading stops with the process, whoever else holds the pipe.
struct Output<R> {
    reader: R,
    bytes: Vec<u8>,
    limit: usize,
    open: bool,
}

impl<R: AsyncRead + Unpin> Output<R> {
    fn new(reader: R, limit: usize) -> Self {
        Self { reader, bytes: Vec::new(), limit, open: true }
    }

    async fn read_some(&mut self) {
        let mut buffer = [0; 8192];
        match self.reader.read(&mut buffer).await {
            Ok(length) if length > 0 => {
                let room = self.limit.saturating_sub(self.bytes.len());
                self.bytes.extend_from_slice(&buffer[..length.min(room)]);
            }
            Ok(_) | Err(_) => self.open = false,
        }
    }

    async fn drain(&mut self) {
        // What the process wrote is in the pipe; a child of it that lives on does not keep us.
        while self.open && tokio::time::timeout(Duration::from_millis(20), self.read_some()).await.is_ok() {}
    }
}

/// What the helper of a further process is told. `pid` is the container's first process.
pub(crate) fn request(
    launcher: &Launcher,
    record: &Record,
    pid: i32,
    config: &ExecConfig,
) -> Result<ExecRequest, ExecError> {
    let id = &record.id;
    let pid_started = started(pid).map_err(|_| ExecError::NotRunning { id: id.clone() })?;
    let container = &record.config;
    let mut adjusted = ContainerConfig {
        user: config.user.clone().or_else(|| container.user.clone()),
        working_dir: config.working_dir.clone().or_else(|| container.working_dir.clone()),
        privileged: config.privileged || container.privileged,
        tty: config.tty,
        // A process beside the first has the limits that the container's other processes have, not its OOM score.
        ..container.clone()
    };
    adjusted.environment.extend(config.environment.clone());
    let refused = |source| ExecError::Spec { id: id.clone(), source };
    if config.arguments.is_empty() {
        return Err(refused(spec::SpecError::NoCommand { image: container.image.clone() }));
    }
    let filter = launcher.filter_of(&adjusted).map_err(|source| ExecError::Filter { id: id.clone(), source })?;
    let first = launcher.process_of(id).map_err(|source| ExecError::Shim {
        id: id.clone(),
        what: "read what confines the processes",
        source,
    })?;
    let arguments = config.arguments.clone();
    let confinement = confinement_beside(first.confinement);
    let mut process = spec::process(id, &adjusted, &record.image, arguments, filter, confinement).map_err(refused)?;
    process.label = first.label;
    process.make_working_dir = false;
    let runtime = match launcher.runtime(id, container).map_err(refused)? {
        Some(runtime) => {
            let process = super::oci::further_process(&process).map_err(|error| ExecError::Shim {
                id: id.clone(),
                what: "describe a command",
                source: error.into(),
            })?;
            Some(OciExec { runtime, process })
        }
        None => None,
    };
    Ok(ExecRequest {
        pid,
        pid_started,
        namespaces: spec::entered(container),
        users: record.users,
        cgroups: record.cgroups.clone(),
        process,
        stdin_open: config.input,
        terminal_size: None,
        runtime,
    })
}

/// Runs a command in the container whose first process is `pid`.
pub(crate) async fn run(
    launcher: &Launcher,
    record: &Record,
    pid: i32,
    command: ExecCommand,
) -> Result<ExecOutcome, ExecError> {
    let id = &record.id;
    let failed = |what: &'static str| move |source: io::Error| ExecError::Shim { id: id.clone(), what, source };
    let config = ExecConfig {
        arguments: command.arguments.clone(),
        environment: command.environment.clone(),
        user: command.user.clone(),
        working_dir: command.working_dir.clone(),
        privileged: command.privileged,
        ..ExecConfig::default()
    };
    let request = request(launcher, record, pid, &config)?;
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(failed("start the helper"))?;
    ours.set_nonblocking(true).map_err(failed("start the helper"))?;
    let mut child = launcher
        .program
        .command()
        .arg("exec")
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed("start the helper"))?;
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(failed("start the helper")(io::ErrorKind::BrokenPipe.into()));
    };
    let mut stream = UnixStream::from_std(ours).map_err(failed("reach the helper"))?;
    let mut stdout = Output::new(stdout, command.output_limit);
    let mut stderr = Output::new(stderr, command.output_limit);
    let conversation = async move {
        send(&mut stream, &request).await?;
        loop {
            match receive::<ExecResponse>(&mut stream).await? {
                Some(ExecResponse::Started { .. }) => {}
                Some(ExecResponse::Failed(failure)) => return Ok(Err(failure)),
                Some(ExecResponse::Exited { code }) => return Ok(Ok(code)),
                None => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            }
        }
    };
    let deadline = async {
        match command.timeout {
            Some(span) => tokio::time::sleep(span).await,
            None => std::future::pending().await,
        }
    };
    let mut conversation = Box::pin(conversation);
    tokio::pin!(deadline);
    let ended = loop {
        tokio::select! {
            ended = &mut conversation => break Some(ended),
            () = &mut deadline => break None,
            () = stdout.read_some(), if stdout.open => {}
            () = stderr.read_some(), if stderr.open => {}
        }
    };
    let code = match ended {
        Some(Ok(Ok(code))) => Some(code),
        Some(Ok(Err(failure))) => return Err(ExecError::Command { id: id.clone(), source: failure }),
        Some(Err(error)) => return Err(failed("run the command")(error)),
        None => None,
    };
    stdout.drain().await;
    stderr.drain().await;
    // The helper kills the command when the connection closes, and ends; the runtime reaps it.
    drop(conversation);
    let _ = tokio::time::timeout(Duration::from_secs(5), child.wait()).await;
    Ok(ExecOutcome { code, stdout: stdout.bytes, stderr: stderr.bytes })
}
