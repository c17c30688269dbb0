//! Programs of the host that the descriptions of devices want to be run while a container is made: when all its file systems are
//! mounted, in its namespaces, but with the host's root (`createContainer` of the OCI runtime specification).

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use serde_json::json;
use stack_shim::launch::{Hook, Launch};
use stack_shim::protocol::{Failure, FailureKind};

use crate::failing::{During, failure};
use crate::syscalls;

/// How long a hook may take that does not say it: the start waits for it.
const USUAL_TIMEOUT: Duration = Duration::from_secs(60);
/// So much of what a hook complains about is told.
const TOLD: usize = 1000;

/// Runs the hooks, one after the other. The first that fails ends it.
pub fn run(launch: &Launch) -> Result<(), Failure> {
    if launch.hooks.is_empty() {
        return Ok(());
    }
    // What this process has open is none of theirs.
    syscalls::close_on_exec_from(3).during(|| "close descriptors".to_owned())?;
    let state = state(launch);
    for hook in &launch.hooks {
        let step = || format!("run the hook {} of a device", hook.path);
        let (status, complaint) = run_one(hook, &state).during(step)?;
        let complaint = complaint.trim();
        let reason = match status {
            Some(status) if status.success() => continue,
            Some(status) if complaint.is_empty() => format!("it ended with {status}"),
            Some(status) => format!("it ended with {status}: {complaint}"),
            None => format!("it did not end within {} s, and was killed", timeout(hook).as_secs()),
        };
        return Err(failure(FailureKind::Setting, step(), reason));
    }
    Ok(())
}

/// What a hook reads: the container's state. The bundle is the directory with `config.json`, which says where its root is.
fn state(launch: &Launch) -> String {
    // The host's /proc is still there, and knows this process as the host does.
    let pid = fs::read_link("/proc/self").ok().and_then(|own| own.to_str()?.parse().ok());
    json!({
        "ociVersion": stack_shim::launch::RUNTIME_VERSION,
        "id": launch.id,
        "status": "creating",
        "pid": pid.unwrap_or_else(|| nix::unistd::getpid().as_raw()),
        "bundle": launch.root.mountpoint.parent().unwrap_or(Path::new("/")),
    })
    .to_string()
}

fn timeout(hook: &Hook) -> Duration {
    hook.timeout_seconds.map_or(USUAL_TIMEOUT, |seconds| Duration::from_secs(seconds.into()))
}

fn run_one(hook: &Hook, state: &str) -> io::Result<(Option<ExitStatus>, String)> {
    let mut command = Command::new(&hook.path);
    if let Some((name, arguments)) = hook.arguments.split_first() {
        command.arg0(name).args(arguments);
    }
    command
        .env_clear()
        .envs(hook.environment.iter().filter_map(|variable| variable.split_once('=')))
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    // SAFETY: between fork and exec only the signal mask is changed, by a system call. Signals are blocked here for the shim's
    // sake.
    unsafe {
        command.pre_exec(|| SigSet::empty().thread_set_mask().map_err(Into::into));
    }
    let mut child = command.spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // One that does not care closes it.
        let _ = input.write_all(state.as_bytes());
    }
    let errors = child.stderr.take().map(|stream| File::from(OwnedFd::from(stream)));
    let ended = wait(&mut child, errors, Instant::now() + timeout(hook));
    if !matches!(ended, Ok((Some(_), _))) {
        // It may have ended by itself.
        let _ = child.kill();
        child.wait()?;
    }
    ended
}

/// Waits for the end of a hook, and not of what it leaves behind; meanwhile it can say as much as it likes.
fn wait(child: &mut Child, errors: Option<File>, until: Instant) -> io::Result<(Option<ExitStatus>, String)> {
    let process = syscalls::open_process(child.id())?;
    let (mut errors, mut said) = (errors, Vec::new());
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok((None, String::new()));
        }
        let mut waited = vec![PollFd::new(process.as_fd(), PollFlags::POLLIN)];
        waited.extend(errors.as_ref().map(|errors| PollFd::new(errors.as_fd(), PollFlags::POLLIN)));
        match poll(&mut waited, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let is_ready = |at: usize| waited.get(at).is_some_and(|fd| fd.any().unwrap_or(false));
        let (ended, talks) = (is_ready(0), is_ready(1));
        if talks && let Some(stream) = &mut errors {
            let mut bytes = [0; 4096];
            match stream.read(&mut bytes) {
                Ok(0) => errors = None,
                Ok(length) => {
                    said.extend(bytes.iter().take(length));
                    // What comes last says why.
                    let surplus = said.len().saturating_sub(TOLD);
                    said.drain(..surplus);
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if ended {
            return Ok((Some(child.wait()?), String::from_utf8_lossy(&said).into_owned()));
        }
    }
}
