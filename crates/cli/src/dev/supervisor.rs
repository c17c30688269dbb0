//! The first process of a host: it starts `stackd` when told to, takes in the processes that lost their parent, and
//! answers the CLI. It is started in the host's own namespaces and cgroup and ends with them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use super::plan::{Cluster, Host};
use super::process::Identity;

/// How long the CLI waits for a supervisor to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a host's supervisor could not do its work.
#[derive(Debug, thiserror::Error)]
#[error("the supervisor of {host} could not {what}")]
pub struct SupervisorError {
    /// The host.
    pub host: String,
    /// What, as the end of a sentence.
    pub what: String,
    /// Why.
    pub source: io::Error,
}

/// What the supervisor knows of its daemon.
struct Daemon {
    /// While it lives.
    pid: Option<i32>,
    /// Tells the reaper that there is a child again.
    started: Sender<()>,
}

/// Where the supervisor writes which process the daemon is.
#[must_use]
pub fn daemon_file(host: &Host) -> PathBuf {
    host.run_directory().join("stackd.pid")
}

/// Runs until the host is switched off.
///
/// # Errors
/// When it cannot listen for the CLI.
pub fn supervise(cluster: &Cluster, host: &Host) -> Result<(), SupervisorError> {
    let failed = |what: &str| {
        let (host, what) = (host.name.clone(), what.to_owned());
        move |source| SupervisorError { host, what, source }
    };
    // Processes whose parent dies, such as shims when stackd does, are reaped here as init does on a real host.
    nix::sys::prctl::set_child_subreaper(true).map_err(|errno| failed("become the parent of orphans")(errno.into()))?;
    use_reachable_name_servers().map_err(failed("give the host name servers that it reaches"))?;
    let listener = UnixListener::bind(host.control_socket()).map_err(failed("listen for the CLI"))?;
    let (started, starts) = channel();
    let daemon = Arc::new(Mutex::new(Daemon { pid: None, started }));
    let reaper = Arc::clone(&daemon);
    let (file, log) = (daemon_file(host), daemon_log(host));
    std::thread::Builder::new()
        .name("reaper".to_owned())
        .spawn(move || reap(&reaper, &starts, &file, &log))
        .map_err(failed("start its reaper"))?;
    for stream in listener.incoming() {
        match stream.and_then(|stream| answer(&stream, cluster, host, &daemon)) {
            Ok(()) => {}
            // One caller that went away is not the end of the host.
            Err(error) => tracing::warn!(host = host.name, %error, "a call of the CLI could not be answered"),
        }
    }
    Ok(())
}

fn lock(daemon: &Mutex<Daemon>) -> MutexGuard<'_, Daemon> {
    // The pid is set in one assignment, so a panic elsewhere leaves it whole.
    daemon.lock().unwrap_or_else(PoisonError::into_inner)
}

fn daemon_log(host: &Host) -> PathBuf {
    host.log_directory().join("stackd.log")
}

/// Writes how the daemon ended to where it wrote itself, for the one who looks there for the reason.
fn note_end(log: &Path, status: WaitStatus) {
    let how = match status {
        WaitStatus::Exited(_, code) => format!("it exited with {code}"),
        WaitStatus::Signaled(_, signal, _) => format!("it was killed by {signal}"),
        _ => return,
    };
    // Without room for a line the daemon's end is still seen by all who wait for it.
    let _ = OpenOptions::new().create(true).append(true).open(log).and_then(|mut log| writeln!(log, "(stackd: {how})"));
}

fn reap(daemon: &Mutex<Daemon>, starts: &Receiver<()>, file: &Path, log: &Path) {
    loop {
        match waitpid(None, None) {
            Ok(status @ (WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _))) => {
                let mut daemon = lock(daemon);
                if daemon.pid == Some(pid.as_raw()) {
                    daemon.pid = None;
                    note_end(log, status);
                    // The identity in it is of a process that is gone, which readers see for themselves.
                    let _ = fs::remove_file(file);
                }
            }
            Ok(_) | Err(Errno::EINTR) => {}
            // No child at all: nothing can end before something is started.
            Err(_) => {
                if starts.recv().is_err() {
                    return;
                }
            }
        }
    }
}

fn answer(stream: &UnixStream, cluster: &Cluster, host: &Host, daemon: &Mutex<Daemon>) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    let reply = match line.trim() {
        "start" => match start(cluster, host, daemon) {
            Ok(pid) => format!("pid {pid}\n"),
            Err(error) => format!("error {error}\n"),
        },
        "ping" => "here\n".to_owned(),
        other => format!("error `{other}` is not understood: expected `start` or `ping`\n"),
    };
    let mut stream = stream;
    stream.write_all(reply.as_bytes())
}

/// Starts the daemon unless it runs.
fn start(cluster: &Cluster, host: &Host, daemon: &Mutex<Daemon>) -> io::Result<i32> {
    let mut daemon = lock(daemon);
    if let Some(pid) = daemon.pid {
        return Ok(pid);
    }
    let log = OpenOptions::new().create(true).append(true).open(daemon_log(host))?;
    let child = Command::new(&cluster.stackd)
        .arg("--config")
        .arg(host.configuration_file())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()?;
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    daemon.pid = Some(pid);
    Identity::of(pid)?.write(&daemon_file(host))?;
    // The reaper lives as long as this process.
    let _ = daemon.started.send(());
    Ok(pid)
}

/// A resolver on this machine's loopback cannot be reached from another network namespace; what it asks itself can.
fn use_reachable_name_servers() -> io::Result<()> {
    const BEHIND_SYSTEMD_RESOLVED: &str = "/run/systemd/resolve/resolv.conf";
    let present = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let servers: Vec<&str> =
        present.lines().filter_map(|line| line.strip_prefix("nameserver")).map(str::trim).collect();
    let unreachable = !servers.is_empty() && servers.iter().all(|server| server.starts_with("127."));
    if !unreachable || !Path::new(BEHIND_SYSTEMD_RESOLVED).exists() {
        return Ok(());
    }
    let flags = nix::mount::MsFlags::MS_BIND;
    let nothing: Option<&str> = None;
    nix::mount::mount(Some(BEHIND_SYSTEMD_RESOLVED), "/etc/resolv.conf", nothing, flags, nothing)
        .map_err(io::Error::from)
}

/// Says one line to a host's supervisor and returns its answer.
fn call(host: &Host, line: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(host.control_socket())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("{line}\n").as_bytes())?;
    let mut reply = String::new();
    BufReader::new(stream).read_line(&mut reply)?;
    match reply.trim().strip_prefix("error ") {
        Some(reason) => Err(io::Error::other(reason.to_owned())),
        None => Ok(reply.trim().to_owned()),
    }
}

/// Whether the host's supervisor answers.
#[must_use]
pub fn is_up(host: &Host) -> bool {
    call(host, "ping").is_ok()
}

/// Has the host start its daemon unless it runs.
///
/// # Errors
/// When the supervisor cannot be reached or cannot start it.
pub fn start_daemon(host: &Host) -> Result<Pid, SupervisorError> {
    let failed = |source| SupervisorError { host: host.name.clone(), what: "start stackd".to_owned(), source };
    let reply = call(host, "start").map_err(failed)?;
    let pid = reply.strip_prefix("pid ").and_then(|pid| pid.parse().ok());
    pid.map(Pid::from_raw).ok_or_else(|| failed(io::Error::other(format!("it answered `{reply}`"))))
}

/// The program that is the first process of a host, and its arguments before those that name the host.
#[derive(Debug, Clone)]
pub struct Launcher {
    /// `stack` itself.
    pub program: PathBuf,
    /// `dev host`.
    pub arguments: Vec<String>,
}

/// Starts a host's supervisor in namespaces of its own and in the host's cgroups.
///
/// # Errors
/// When a namespace, a cgroup or the program is refused.
pub fn launch(
    launcher: &Launcher,
    cluster: &Cluster,
    host: &Host,
    members: &[PathBuf],
) -> Result<Pid, SupervisorError> {
    let failed = |what: &str| {
        let (host, what) = (host.name.clone(), what.to_owned());
        move |source| SupervisorError { host, what, source }
    };
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(host.log_directory().join("host.log"))
        .map_err(failed("open its log"))?;
    let log_too = log.try_clone().map_err(failed("open its log"))?;
    let cgroups = members
        .iter()
        .map(|path| OpenOptions::new().write(true).open(path))
        .collect::<io::Result<Vec<File>>>()
        .map_err(failed("enter its cgroups"))?;
    let hostname = host.name.clone();
    let mut command = Command::new(&launcher.program);
    command
        .args(&launcher.arguments)
        .arg(&cluster.directory)
        .arg(&host.name)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(log_too)
        .current_dir("/");
    // SAFETY: between fork and exec only system calls are made; nothing is allocated and no lock is taken.
    unsafe {
        command.pre_exec(move || {
            use nix::mount::{MsFlags, mount};
            use nix::sched::{CloneFlags, unshare};
            nix::unistd::setsid()?;
            for mut cgroup in &cgroups {
                // 0 is the process that writes (cgroups(7)).
                cgroup.write_all(b"0")?;
            }
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS)?;
            let nothing: Option<&str> = None;
            mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
            nix::unistd::sethostname(&hostname)?;
            Ok(())
        });
    }
    let child = command.spawn().map_err(failed("start"))?;
    i32::try_from(child.id()).map(Pid::from_raw).map_err(|error| failed("start")(io::Error::other(error)))
}
