//! Control groups, on hosts with version 2, version 1 or both: `hierarchies` and `plan` decide, this file does.

mod device_program;
mod hierarchies;
mod plan;
mod statistics;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use hierarchies::{Hierarchies, Legacy, Unified, read};
pub use plan::{DeviceRule, Plan, Write, plan, plan_change};
use stack_shim::launch::Cgroups;
pub use statistics::{CpuTimes, DeviceTraffic, InterfaceTraffic, Statistics, Throttled, pids, statistics};

/// Controllers that version 2 groups pass on to containers.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];
/// How much time real-time processes may have in each period, in microseconds (version 1).
const RUNTIME: &str = "cpu.rt_runtime_us";
/// That period.
const PERIOD: &str = "cpu.rt_period_us";
/// How long groups may take to become empty after everything in them was killed.
const EMPTYING: Duration = Duration::from_secs(10);

/// Why groups could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The host's hierarchies could not be found.
    #[error("could not read {path}")]
    Detect {
        /// Which file.
        path: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A group could not be made.
    #[error("could not make the control group {path}")]
    Make {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A limit was refused.
    #[error("the kernel does not take `{text}` for {path}")]
    Write {
        /// Which file.
        path: PathBuf,
        /// What.
        text: String,
        /// Why.
        source: io::Error,
    },
    /// The device rules were refused.
    #[error("could not put the device rules in force for {path}")]
    Devices {
        /// Which group.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A group still has processes, or cannot be removed.
    #[error("could not remove the control group {path}")]
    Remove {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl CgroupError {
    /// Whether the kernel refused a value, so that the same attempt can never succeed.
    #[must_use]
    pub fn is_refused_value(&self) -> bool {
        matches!(self, Self::Write { source, .. } if matches!(source.raw_os_error(), Some(libc::EINVAL | libc::ERANGE)))
    }
}

/// What a container has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    /// Processor time in nanoseconds.
    pub cpu_nanoseconds: u64,
    /// Memory in bytes, page cache included.
    pub memory_bytes: u64,
    /// The limit of the memory in bytes, if there is one.
    pub memory_limit_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: u64,
}

/// Finds the hierarchies of this host.
///
/// # Errors
/// When /proc cannot be read.
pub fn detect(parent: &Path) -> Result<Hierarchies, CgroupError> {
    let read_file =
        |path: &'static str| fs::read_to_string(path).map_err(|source| CgroupError::Detect { path, source });
    Ok(read(&read_file("/proc/self/mountinfo")?, &read_file("/proc/self/cgroup")?, parent))
}

/// Where the groups of a container go that wants them below a parent of its own.
#[must_use]
pub fn place(hierarchies: &Hierarchies, parent: Option<&str>) -> Hierarchies {
    // As sd_booted(3) has it.
    hierarchies.below(parent, Path::new("/run/systemd/system").is_dir())
}

/// Whether containers can have time as real-time processes: of version 1, where the kernel counts it.
#[must_use]
pub fn has_realtime(hierarchies: &Hierarchies) -> bool {
    hierarchies.legacy_with("cpu").is_some_and(|legacy| legacy.mountpoint.join(RUNTIME).exists())
}

/// Makes groups and writes limits. Returns notes about limits that this host cannot keep.
///
/// # Errors
/// The first thing that the kernel refused. What was made until then is for [`remove`].
pub fn make(plan: &Plan) -> Result<Vec<String>, CgroupError> {
    let mut notes = Vec::new();
    for directory in &plan.delegating {
        make_directory(directory)?;
        delegate(directory);
    }
    for directory in &plan.directories {
        make_directory(directory)?;
    }
    for directory in &plan.cpusets {
        inherit_cpuset(directory)?;
    }
    if let Some(realtime) = &plan.realtime {
        provide_realtime(&realtime.parent, &realtime.directory, realtime.share)?;
    }
    if let Some((directory, rules)) = &plan.device_program {
        device_program::attach(directory, rules)
            .map_err(|source| CgroupError::Devices { path: directory.clone(), source })?;
    }
    for write in &plan.writes {
        match fs::write(&write.path, &write.text) {
            Ok(()) => {}
            Err(error) if write.optional && error.kind() == io::ErrorKind::NotFound => {
                notes.push(format!("this kernel has no {}: that limit is not in force", write.path.display()));
            }
            Err(source) => {
                return Err(CgroupError::Write { path: write.path.clone(), text: write.text.clone(), source });
            }
        }
    }
    Ok(notes)
}

fn make_directory(path: &Path) -> Result<(), CgroupError> {
    fs::create_dir_all(path).map_err(|source| CgroupError::Make { path: path.to_owned(), source })
}

/// Passes on what can be passed on. What cannot is noticed when a limit needs it, with the file's name.
fn delegate(directory: &Path) {
    let available = fs::read_to_string(directory.join("cgroup.controllers")).unwrap_or_default();
    for controller in CONTROLLERS.iter().filter(|name| available.split_whitespace().any(|other| other == **name)) {
        let _ = fs::write(directory.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

/// A version 1 set of processors starts empty, and nothing can run in it until it is filled.
fn inherit_cpuset(directory: &Path) -> Result<(), CgroupError> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let path = directory.join(name);
        if fs::read_to_string(&path).is_ok_and(|text| !text.trim().is_empty()) {
            continue;
        }
        let Some(parent) = directory.parent() else { continue };
        if fs::read_to_string(parent.join(name)).is_ok_and(|text| text.trim().is_empty()) {
            inherit_cpuset(parent)?;
        }
        let text = fs::read_to_string(parent.join(name)).unwrap_or_default();
        fs::write(&path, &text).map_err(|source| CgroupError::Write { path, text, source })?;
    }
    Ok(())
}

/// Which part of each period, in millionths, the real-time processes of a group may have.
fn realtime_share(directory: &Path) -> u64 {
    let number = |name: &str| fs::read_to_string(directory.join(name)).ok()?.trim().parse::<i64>().ok();
    match (number(RUNTIME), number(PERIOD)) {
        (Some(runtime), Some(period)) => plan::realtime_share(
            // Less than nothing is all that there is.
            u64::try_from(runtime).unwrap_or(u64::MAX),
            u64::try_from(period).unwrap_or(1),
        ),
        _ => 0,
    }
}

/// A group has no time for real-time processes until it is given some, and those below it have no more than that together.
/// Gives those above a container's as much as is needed.
fn provide_realtime(directory: &Path, child: &Path, share: u64) -> Result<(), CgroupError> {
    // The hierarchy's root has what the administrator of the host says.
    let Some(parent) = directory.parent().filter(|parent| parent.join(RUNTIME).exists()) else { return Ok(()) };
    let others = children(directory).into_iter().filter(|other| other != child);
    let needed = others.map(|other| realtime_share(&other)).fold(share, u64::saturating_add);
    if realtime_share(directory) >= needed {
        return Ok(());
    }
    provide_realtime(parent, directory, needed)?;
    let period = fs::read_to_string(directory.join(PERIOD)).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let runtime = needed.saturating_mul(period.unwrap_or(plan::REALTIME_PERIOD)).div_ceil(plan::REALTIME_PERIOD);
    let (path, text) = (directory.join(RUNTIME), runtime.to_string());
    fs::write(&path, &text).map_err(|source| CgroupError::Write { path, text, source })
}

fn directories(cgroups: &Cgroups) -> impl Iterator<Item = &PathBuf> {
    cgroups.unified.iter().chain(&cgroups.joined)
}

fn processes(directory: &Path) -> Vec<i32> {
    fs::read_to_string(directory.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.parse().ok())
        .filter(|&pid| pid > 0)
        .collect()
}

/// Which of the usual limits this host cannot set: the kernel has no controller for them, or keeps it from us.
#[must_use]
pub fn missing_limits(hierarchies: &Hierarchies) -> Vec<&'static str> {
    let unified = hierarchies.unified.as_ref().filter(|unified| !unified.bare);
    let available = unified.map(|unified| fs::read_to_string(unified.mountpoint.join("cgroup.controllers")));
    let available = available.and_then(Result::ok).unwrap_or_default();
    let is_missing = |controller: &&str| {
        hierarchies.legacy_with(controller).is_none() && !available.split_whitespace().any(|name| name == *controller)
    };
    ["memory", "cpu", "cpuset", "pids"].into_iter().filter(is_missing).collect()
}

/// Kills every process in a container's groups and the groups below them.
pub fn kill_all(cgroups: &Cgroups) {
    for directory in directories(cgroups) {
        kill_below(directory);
    }
    // What is frozen by version 1 ends only when it is let go on.
    if let Some((path, words)) = freezer(cgroups) {
        let _ = fs::write(path, words[0]);
    }
}

fn kill_below(directory: &Path) {
    // Where the kernel has this file it leaves no gap for a process that forks; else every round kills what it sees.
    if fs::write(directory.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    for child in children(directory) {
        kill_below(&child);
    }
    for pid in processes(directory) {
        // A process that is gone needs no signal.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
}

fn children(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory)
        .map(|entries| {
            // The kernel says with each name what it is; asking for each of the dozens of files took longer than the rest.
            let directories =
                entries.filter_map(Result::ok).filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            directories.map(|entry| entry.path()).collect()
        })
        .unwrap_or_default()
}

/// Kills what is left in a container's groups and removes them, with the groups that it made below.
///
/// # Errors
/// The last refusal; everything was tried.
pub fn remove(cgroups: &Cgroups) -> Result<(), CgroupError> {
    let deadline = Instant::now() + EMPTYING;
    let mut result = Ok(());
    for directory in directories(cgroups) {
        if let Err(source) = remove_tree(directory, deadline) {
            result = Err(CgroupError::Remove { path: directory.clone(), source });
        }
    }
    result
}

fn remove_tree(directory: &Path, deadline: Instant) -> io::Result<()> {
    let mut pause = Duration::from_micros(200);
    loop {
        match fs::remove_dir(directory) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // It has groups below it, or processes on their way out keep it busy for a moment; others are killed.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                let children = children(directory);
                if !children.is_empty() {
                    for child in children {
                        remove_tree(&child, deadline)?;
                    }
                    continue;
                }
                kill_below(directory);
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(20));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Where a container's processes can be frozen, and how: the freezer of version 1 where the host has it, or version 2. Not
/// both: what the one has frozen the other does not let go.
fn freezer(cgroups: &Cgroups) -> Option<(PathBuf, [&'static str; 2])> {
    let legacy = cgroups.joined.iter().map(|directory| directory.join("freezer.state"));
    let legacy = legacy.filter(|path| path.exists()).map(|path| (path, ["THAWED", "FROZEN"]));
    let unified = cgroups.unified.iter().map(|directory| (directory.join("cgroup.freeze"), ["0", "1"]));
    legacy.chain(unified.filter(|(path, _)| path.exists())).next()
}

/// Freezes a container's processes, or lets them go on. Returns when it is so.
///
/// # Errors
/// When the host cannot, or the processes do not come to rest in time.
pub fn freeze(cgroups: &Cgroups, frozen: bool) -> io::Result<()> {
    let unsupported = || io::Error::new(io::ErrorKind::Unsupported, "this host has no freezer for control groups");
    let (path, words) = freezer(cgroups).ok_or_else(unsupported)?;
    fs::write(&path, words[usize::from(frozen)])?;
    let deadline = Instant::now() + EMPTYING;
    let mut pause = Duration::from_micros(200);
    while is_frozen(cgroups) != frozen {
        if Instant::now() >= deadline {
            let _ = fs::write(&path, words[usize::from(!frozen)]);
            return Err(io::Error::new(io::ErrorKind::TimedOut, "its processes do not come to rest"));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
    Ok(())
}

/// Whether a container's processes are frozen.
#[must_use]
pub fn is_frozen(cgroups: &Cgroups) -> bool {
    let Some((path, words)) = freezer(cgroups) else { return false };
    if words[1] == "FROZEN" {
        return fs::read_to_string(path).is_ok_and(|text| text.trim() == "FROZEN");
    }
    let events = fs::read_to_string(path.with_file_name("cgroup.events")).unwrap_or_default();
    events.lines().any(|line| line == "frozen 1")
}

/// Changes the limits of groups that are there.
///
/// # Errors
/// The first limit that the kernel refuses; those before it are in force.
pub fn change(plan: &Plan) -> Result<(), CgroupError> {
    if let Some(realtime) = &plan.realtime {
        provide_realtime(&realtime.parent, &realtime.directory, realtime.share)?;
    }
    let mut writes: Vec<&Write> = plan.writes.iter().collect();
    // A limit may not be below or above another that is still the old one, so the order that works is found by trying.
    let mut refused = None;
    while !writes.is_empty() {
        let before = writes.len();
        writes.retain(|write| match fs::write(&write.path, &write.text) {
            Ok(()) => false,
            Err(error) if write.optional && error.kind() == io::ErrorKind::NotFound => false,
            Err(source) => {
                refused = Some(CgroupError::Write { path: write.path.clone(), text: write.text.clone(), source });
                true
            }
        });
        if writes.len() == before {
            break;
        }
        if writes.is_empty() {
            refused = None;
        }
    }
    refused.map_or(Ok(()), Err)
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// What a container uses now. What the host does not account is zero.
#[must_use]
pub fn usage(cgroups: &Cgroups) -> Usage {
    let mut usage = Usage::default();
    for directory in directories(cgroups) {
        if let Some(nanoseconds) = number(&directory.join("cpuacct.usage")) {
            usage.cpu_nanoseconds = nanoseconds;
        } else if let Some(micros) = fs::read_to_string(directory.join("cpu.stat"))
            .ok()
            .and_then(|text| text.lines().find_map(|line| line.strip_prefix("usage_usec ")?.trim().parse::<u64>().ok()))
        {
            usage.cpu_nanoseconds = usage.cpu_nanoseconds.max(micros.saturating_mul(1000));
        }
        for (current, limit) in [("memory.usage_in_bytes", "memory.limit_in_bytes"), ("memory.current", "memory.max")] {
            if let Some(bytes) = number(&directory.join(current)) {
                usage.memory_bytes = bytes;
                // Version 1 says "none" with the largest multiple of the page size.
                usage.memory_limit_bytes = number(&directory.join(limit)).filter(|&bytes| bytes < u64::MAX >> 2);
            }
        }
        usage.pids = usage.pids.max(number(&directory.join("pids.current")).unwrap_or(0));
    }
    usage
}
