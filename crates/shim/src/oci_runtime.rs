//! Containers that another program makes, by the command line that the runtimes of the Open Container Initiative have in
//! common: `create`, `start`, `exec` and `delete` as runc(8) has them.
//!
//! The shim is what it is for its own containers: it holds the streams and is the parent of the processes, which come to it
//! when the runtime's own process has ended. It mounts the root for the runtime in a mount namespace of its own, so that
//! nothing is left of it when the shim ends.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, unshare};
use nix::unistd::Pid;
use serde_json::{Value, json};
use stack_shim::copy_up;
use stack_shim::launch::{BUNDLE, BUNDLE_FILE, Launch, MountSource, OciRuntime, Process};
use stack_shim::protocol::{Failure, FailureKind};
use stack_shim::root_path::{self, Links};

use crate::container::{self, Streams};
use crate::failing::{During, failure};
use crate::{mounts, process};

/// A runtime's message that is longer is cut.
const LONGEST_MESSAGE: usize = 2000;

/// A process that a runtime has made.
pub struct Made {
    /// In the shim's pid namespace.
    pub pid: Pid,
    /// The controlling end of its terminal, if it has one.
    pub terminal: Option<OwnedFd>,
}

/// Has a container made, up to its program.
pub fn create(launch: &Launch, runtime: &OciRuntime, streams: Streams) -> Result<Made, Failure> {
    unshare(CloneFlags::CLONE_NEWNS).during(|| "make a mount namespace".to_owned())?;
    mounts::follow_peers()?;
    let root = mounts::mount_root(&launch.root)?;
    fill_volumes(root.as_fd(), launch)?;
    let bundle = runtime.directory.join(BUNDLE);
    let path = bundle.join(BUNDLE_FILE);
    let read = || format!("read {}", path.display());
    let mut document: Value = serde_json::from_slice(&fs::read(&path).during(read)?).during(read)?;
    identify(&mut document["process"], &launch.process, root.as_fd())?;
    write_document(&path, &document)?;
    drop(root);
    let mut invocation = Invocation::new(runtime, "create", "container", launch.process.terminal)?;
    invocation.command.arg("--bundle").arg(&bundle);
    invocation.make(&runtime.id, streams)
}

/// Runs the program of a container that was made.
pub fn start(runtime: &OciRuntime) -> Result<(), Failure> {
    Invocation::new(runtime, "start", "start", false)?.call(&runtime.id)
}

/// Takes away what the runtime knows of a container, and what still runs of it.
pub fn delete(runtime: &OciRuntime) -> Result<(), Failure> {
    let mut invocation = Invocation::new(runtime, "delete", "delete", false)?;
    invocation.command.arg("--force");
    invocation.call(&runtime.id)
}

/// Has a further process made in a running container, whose root is `root`. `document` describes it as the specification does.
pub fn exec(
    runtime: &OciRuntime,
    document: &Value,
    process: &Process,
    root: BorrowedFd<'_>,
    streams: Streams,
) -> Result<Made, Failure> {
    let mut document = document.clone();
    identify(&mut document, process, root)?;
    // Files of its own: several may be made at once.
    let name = format!("exec-{}", std::process::id());
    let path = runtime.directory.join(format!("{name}.json"));
    write_document(&path, &document)?;
    let made = Invocation::new(runtime, "exec", &name, process.terminal).and_then(|mut invocation| {
        invocation.command.arg("--detach").arg("--process").arg(&path);
        invocation.make(&runtime.id, streams)
    });
    // It has been read, or is of no use. Should it stay, it goes with the container's directory.
    let _ = fs::remove_file(&path);
    made
}

/// Copies what the image has where new volumes are mounted, which runtimes do not do.
fn fill_volumes(root: BorrowedFd<'_>, launch: &Launch) -> Result<(), Failure> {
    for mount in &launch.mounts {
        let MountSource::Bind { path, copy_up: true, .. } = &mount.source else { continue };
        let step = || format!("copy what the image has at {} into its volume", mount.target);
        let from = match root_path::open(root, &mount.target, libc::O_PATH, Links::Follow) {
            Ok(from) => from,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).during(step),
        };
        let is_directory = nix::sys::stat::fstat(&from).during(step)?.st_mode & libc::S_IFMT == libc::S_IFDIR;
        if is_directory {
            let to = File::open(path).during(step)?;
            copy_up::fill(from.as_fd(), to.as_fd()).during(step)?;
        }
    }
    Ok(())
}

/// Writes who a process is into its description: runtimes know no names. A home directory comes with the user.
fn identify(document: &mut Value, process: &Process, root: BorrowedFd<'_>) -> Result<(), Failure> {
    let identity = process::identity(process, root)?;
    document["user"] = json!({ "uid": identity.uid, "gid": identity.gid, "additionalGids": identity.groups });
    if identity.uid != 0 {
        // Another user than root has them effective only through the ambient set.
        document["capabilities"]["effective"] = document["capabilities"]["ambient"].clone();
    }
    if !process.environment.iter().any(|entry| entry.starts_with("HOME="))
        && let Some(environment) = document["env"].as_array_mut()
    {
        environment.push(format!("HOME={}", identity.home).into());
    }
    Ok(())
}

fn write_document(path: &Path, document: &Value) -> Result<(), Failure> {
    let step = || format!("write {}", path.display());
    // It has an environment in it.
    let file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path).during(step)?;
    serde_json::to_writer(io::BufWriter::new(file), document).during(step)
}

/// One call of a runtime.
struct Invocation {
    command: Command,
    step: String,
    log: PathBuf,
    pid_file: PathBuf,
    console: Option<UnixListener>,
    /// Sockets are named by it: their own paths may be longer than a socket's address can be.
    directory: File,
}

impl Invocation {
    /// `name` is that of its files.
    fn new(runtime: &OciRuntime, verb: &str, name: &str, terminal: bool) -> Result<Self, Failure> {
        let step = format!("have `{} {verb}` done", runtime.program.display());
        let file = |ending: &str| runtime.directory.join(format!("{name}.{ending}"));
        let (log, pid_file) = (file("log"), file("pid"));
        for path in [&log, &pid_file, &file("sock")] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).during(|| step.clone()),
                _ => {}
            }
        }
        let directory = File::open(&runtime.directory).during(|| step.clone())?;
        let mut command = Command::new(&runtime.program);
        command.args(&runtime.arguments).arg("--root").arg(runtime.directory.join("state"));
        command.arg("--log").arg(&log).args(["--log-format", "json", verb]);
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        let console = if terminal {
            let name = format!("{name}.sock");
            let path = |process: &str| format!("/proc/{process}/fd/{}/{name}", directory.as_raw_fd());
            let listener = UnixListener::bind(path("self")).during(|| step.clone())?;
            command.arg("--console-socket").arg(path(&std::process::id().to_string()));
            Some(listener)
        } else {
            None
        };
        // SAFETY: between fork and execution it only calls sigaction and sigprocmask, which are safe there.
        unsafe {
            command.pre_exec(|| {
                process::default_signals();
                Ok(())
            });
        }
        Ok(Self { command, step, log, pid_file, console, directory })
    }

    /// Calls it for a container, and waits.
    fn call(mut self, id: &str) -> Result<(), Failure> {
        self.command.arg(id).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.wait()
    }

    fn wait(&mut self) -> Result<(), Failure> {
        let step = || self.step.clone();
        let status = self.command.status().map_err(|error| {
            let reason = format!("{error}: is it installed, and is its path in the daemon's configuration right?");
            failure(FailureKind::Setting, step(), reason)
        })?;
        if status.success() {
            return Ok(());
        }
        let message = last_message(&fs::read_to_string(&self.log).unwrap_or_default());
        let message = message.unwrap_or_else(|| format!("it ended with {status} and has not said why"));
        Err(failure(kind(&message), step(), message))
    }

    /// Calls it for a process of a container with these streams.
    fn make(mut self, id: &str, streams: Streams) -> Result<Made, Failure> {
        // Processes whose parent has ended come to whoever asks for them.
        nix::sys::prctl::set_child_subreaper(true).during(|| "become the parent of the container".to_owned())?;
        self.command.arg("--pid-file").arg(&self.pid_file).arg(id);
        self.command.stdin(streams.input.map_or_else(Stdio::null, Stdio::from));
        match streams.output {
            Some((output, error)) => self.command.stdout(output).stderr(error),
            None if self.console.is_some() => self.command.stdout(Stdio::null()).stderr(Stdio::null()),
            None => &mut self.command,
        };
        self.wait()?;
        let step = || self.step.clone();
        let text = fs::read_to_string(&self.pid_file).during(step)?;
        let pid = text.trim().parse().map_err(io::Error::other).during(step)?;
        let terminal = self.console.as_ref().map(receive_terminal).transpose().during(step)?;
        drop(self.directory);
        Ok(Made { pid: Pid::from_raw(pid), terminal })
    }
}

/// Takes the terminal that the runtime has sent: it has ended, so what it sent is there.
fn receive_terminal(listener: &UnixListener) -> io::Result<OwnedFd> {
    listener.set_nonblocking(true)?;
    let (connection, _) = listener.accept()?;
    connection.set_nonblocking(true)?;
    let (_, terminal) = container::receive(connection.as_fd(), &mut [0; 4096])?;
    terminal.ok_or_else(|| io::Error::other("the runtime has sent no terminal"))
}

/// The last complaint in a runtime's log, which has a JSON document in each line.
fn last_message(log: &str) -> Option<String> {
    let complaint = |line: &str| -> Option<String> {
        let line: Value = serde_json::from_str(line).ok()?;
        let is_complaint = ["error", "fatal"].contains(&line["level"].as_str()?);
        let message = line["msg"].as_str().filter(|_| is_complaint)?;
        Some(message.chars().take(LONGEST_MESSAGE).collect())
    };
    log.lines().rev().find_map(complaint)
}

/// What a runtime's message means. The texts are runc's and crun's.
fn kind(message: &str) -> FailureKind {
    let message = message.to_ascii_lowercase();
    let is_of_program = message.contains("exec");
    if message.contains("executable file") && message.contains("not found")
        || is_of_program && message.contains("no such file or directory")
    {
        FailureKind::CommandNotFound
    } else if is_of_program && (message.contains("permission denied") || message.contains("exec format error")) {
        FailureKind::CommandNotExecutable
    } else {
        FailureKind::Setting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_runtime_complains_of_is_understood() {
        let log = "{\"level\":\"info\",\"msg\":\"x\"}\nnoise\n{\"level\":\"error\",\"msg\":\"exec: \\\"a\\\": executable file not found in $PATH\"}\n{\"level\":\"warning\",\"msg\":\"y\"}\n";
        assert_eq!(last_message(log).unwrap(), "exec: \"a\": executable file not found in $PATH");
        assert_eq!(last_message("{\"level\":\"info\",\"msg\":\"x\"}\n"), None);
        for (text, expected) in [
            ("exec: \"a\": executable file not found in $PATH", FailureKind::CommandNotFound),
            ("executable file `a` not found in $PATH: No such file or directory", FailureKind::CommandNotFound),
            ("exec: \"/a\": stat /a: no such file or directory", FailureKind::CommandNotFound),
            ("exec: \"/data\": permission denied", FailureKind::CommandNotExecutable),
            ("open executable: Permission denied", FailureKind::CommandNotExecutable),
            ("cannot set limits", FailureKind::Setting),
        ] {
            assert_eq!(kind(text), expected, "{text}");
        }
    }
}
