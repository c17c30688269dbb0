//! What can be done to one host: switched on and off, stopped, cut off, and its daemon killed or started.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;

use super::cgroups::{CgroupError, Hierarchies, wait_until};
use super::plan::{Cluster, Host};
use super::process::Identity;
use super::supervisor::{self, Launcher, SupervisorError};
use super::wiring::{self, WiringError};

/// What a host does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HostState {
    /// It runs and is linked to the others.
    Running,
    /// Its processes are stopped where they are.
    Paused,
    /// It runs and is cut off from the others.
    Partitioned,
    /// It has no process.
    Dead,
}

impl HostState {
    /// As people read it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Partitioned => "partitioned",
            Self::Dead => "dead",
        }
    }
}

/// Why something could not be done to a host.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A file or directory of it.
    #[error("could not {what} {}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It has no process.
    #[error("{host} is dead; `stack dev restart {host}` switches it on")]
    Dead {
        /// The host.
        host: String,
    },
    /// Its supervisor ended or does not answer.
    #[error("{host} does not start; the end of {}:\n{tail}", log.display())]
    Silent {
        /// The host.
        host: String,
        /// Where its supervisor writes.
        log: PathBuf,
        /// The last lines of it.
        tail: String,
    },
    /// Its daemon does not end.
    #[error("stackd of {host} (process {pid}) does not end")]
    DaemonStays {
        /// The host.
        host: String,
        /// The process.
        pid: i32,
    },
    /// A signal.
    #[error("could not signal process {pid} of {host}")]
    Signal {
        /// The host.
        host: String,
        /// The process.
        pid: i32,
        /// Why.
        source: Errno,
    },
    /// Its cgroups.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// Its links.
    #[error(transparent)]
    Wiring(#[from] WiringError),
    /// Its supervisor.
    #[error(transparent)]
    Supervisor(#[from] SupervisorError),
}

/// The last lines of a log, for people to see why something ended.
#[must_use]
pub fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let kept = &lines[lines.len().saturating_sub(20)..];
    if kept.is_empty() { "(nothing)".to_owned() } else { kept.join("\n") }
}

/// Switches a host on: its directories, cgroups, namespaces, supervisor, link and daemon. Its state is what it was.
///
/// # Errors
/// What could not be done; [`power_off`] removes what was.
pub async fn boot(
    hierarchies: &Hierarchies,
    launcher: &Launcher,
    cluster: &Cluster,
    host: &Host,
) -> Result<Pid, HostError> {
    clear_run_directory(host)?;
    for directory in [&host.directory, &host.state_directory(), &host.run_directory(), &host.log_directory()] {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|source| HostError::File { what: "make", path: directory.clone(), source })?;
    }
    let file = host.configuration_file();
    fs::write(&file, cluster.configuration(host)).map_err(|source| HostError::File {
        what: "write",
        path: file,
        source,
    })?;
    hierarchies.make(&host.daemon_cgroup())?;
    hierarchies.make(&host.container_cgroup())?;
    let pid = supervisor::launch(launcher, cluster, host, &hierarchies.member_files(&host.daemon_cgroup()))?;
    let namespace = PathBuf::from(format!("/proc/{pid}/ns/net"));
    let netns = File::open(&namespace).map_err(|source| HostError::File { what: "open", path: namespace, source })?;
    wiring::wire(cluster, host, &netns).await?;
    let identity = Identity::of(pid.as_raw()).ok();
    let answered = wait_until(|| supervisor::is_up(host) || identity.is_none_or(|identity| !identity.is_alive()));
    if !answered || !supervisor::is_up(host) {
        let log = host.log_directory().join("host.log");
        return Err(HostError::Silent { host: host.name.clone(), tail: tail(&log), log });
    }
    Ok(supervisor::start_daemon(host)?)
}

/// The run directory of a real host is in memory; here it is cleared.
fn clear_run_directory(host: &Host) -> Result<(), HostError> {
    let path = host.run_directory();
    match fs::remove_dir_all(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(HostError::File { what: "clear", path, source }),
        _ => Ok(()),
    }
}

/// Cuts a host's power: every process is gone at once, and with them its mounts and namespaces. Its state stays.
///
/// # Errors
/// The first thing that could not be done; calling it again goes on.
pub async fn power_off(hierarchies: &Hierarchies, host: &Host) -> Result<(), HostError> {
    hierarchies.kill(&host.cgroup)?;
    wiring::remove_link(&host.link).await?;
    hierarchies.remove(&host.cgroup)?;
    clear_run_directory(host)
}

/// What a host does now.
///
/// # Errors
/// When the kernel cannot be asked.
pub async fn state(hierarchies: &Hierarchies, host: &Host) -> Result<HostState, HostError> {
    Ok(if hierarchies.processes(&host.cgroup).is_empty() {
        HostState::Dead
    } else if hierarchies.is_frozen(&host.cgroup) {
        HostState::Paused
    } else if wiring::is_partitioned(&host.link).await? {
        HostState::Partitioned
    } else {
        HostState::Running
    })
}

/// The process of a host's daemon, if it lives.
#[must_use]
pub fn daemon(host: &Host) -> Option<Identity> {
    Identity::read(&supervisor::daemon_file(host))
}

/// Ends a host's daemon and nothing else: at once, or as an upgrade does. One that does not run is no error.
///
/// # Errors
/// When it does not end.
pub fn end_daemon(host: &Host, at_once: bool) -> Result<(), HostError> {
    let Some(identity) = daemon(host) else { return Ok(()) };
    let signal = if at_once { Signal::SIGKILL } else { Signal::SIGTERM };
    match kill(Pid::from_raw(identity.pid), signal) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(source) => return Err(HostError::Signal { host: host.name.clone(), pid: identity.pid, source }),
    }
    // Its supervisor removes the file when it has reaped it; then the next may start.
    let file = supervisor::daemon_file(host);
    if wait_until(|| !identity.is_alive() && !file.exists()) {
        Ok(())
    } else {
        Err(HostError::DaemonStays { host: host.name.clone(), pid: identity.pid })
    }
}

/// Refuses what makes no sense for a host without processes.
///
/// # Errors
/// When it is dead.
pub fn must_live(hierarchies: &Hierarchies, host: &Host) -> Result<(), HostError> {
    if hierarchies.processes(&host.cgroup).is_empty() {
        Err(HostError::Dead { host: host.name.clone() })
    } else {
        Ok(())
    }
}
