//! Pure. What a container is to be, from its configuration, its image and what the engine found on the host: the launch
//! document for the shim.

mod mounts;

use std::collections::BTreeMap;
use std::path::PathBuf;

use stack_shim::launch::{
    Capabilities, Cgroups, Confinement, DeviceKind, DeviceNode, IdRange, Joined, Launch, Limit, LogFiles, Namespaces,
    Process, Propagation, Root, Users,
};

use super::capability;
use super::config::{
    AppArmorChoice, ContainerConfig, ContainerId, ContainerMountSource, ImageDefaults, Logging, NamespaceMode,
    NetworkMode,
};
use super::signals;
use crate::cdi::{self, Injection};
use crate::cgroup::{DeviceRule, Hierarchies};
use crate::selinux::SelinuxLabels;
pub(crate) use mounts::mount_attribute;
pub use mounts::{ContainerVolume, volumes};
use mounts::{bind, chosen_mounts, label_files, mapped, outside_proc, propagation, system_mounts, tmpfs_options};

/// `PATH` of a container whose image sets none, as Docker has it.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Docker's masked paths.
const MASKED: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
/// Further ones that newer Docker masks.
const MASKED_TOO: [&str; 1] = ["/sys/devices/virtual/powercap"];
/// Docker's read-only paths.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
/// Resource limits by name (getrlimit(2)); the position is the number on all processors that we run on.
const LIMITS: [&str; 16] = [
    "cpu",
    "fsize",
    "data",
    "stack",
    "core",
    "rss",
    "nproc",
    "nofile",
    "memlock",
    "as",
    "locks",
    "sigpending",
    "msgqueue",
    "nice",
    "rtprio",
    "rttime",
];

/// What is wrong with a configuration, so that no host could run it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// There is nothing to run.
    #[error("the image {image} names no command and the container gives none: set `command` or `entrypoint`")]
    NoCommand {
        /// Which.
        image: String,
    },
    /// A path that must be absolute is not.
    #[error("{what} `{path}` must be an absolute path in the container, without `..`")]
    Path {
        /// Which path.
        what: &'static str,
        /// What was given.
        path: String,
    },
    /// A path that must be relative is not.
    #[error("{what} `{path}` must be a relative path, without `..`")]
    Within {
        /// Which path.
        what: &'static str,
        /// What was given.
        path: String,
    },
    /// There is no such capability.
    #[error("there is no capability `{name}`")]
    Capability {
        /// What was given.
        name: String,
    },
    /// There is no such resource limit, or its numbers make no sense.
    #[error("ulimit `{name}`: {reason}")]
    Ulimit {
        /// What was given.
        name: String,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// Nobody has given a runtime this name.
    #[error("unknown or invalid runtime name: {name}: there are {known}")]
    Runtime {
        /// What was given.
        name: String,
        /// What there is.
        known: String,
    },
    /// There is no such signal.
    #[error("Invalid signal: {text}")]
    Signal {
        /// What was given.
        text: String,
    },
    /// A kernel parameter that is not the container's own.
    #[error("the kernel parameter `{name}` {reason}")]
    Sysctl {
        /// What was given.
        name: String,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// A propagation that does not exist.
    #[error("mount at {target}: `{propagation}` is no propagation: expected rprivate, rslave or rshared")]
    Propagation {
        /// Where.
        target: String,
        /// What was given.
        propagation: String,
    },
    /// Two mounts at one place.
    #[error("two mounts have the target {target}")]
    TwoMounts {
        /// Where.
        target: String,
    },
    /// The log driver or an option of it is unknown.
    #[error("{reason}")]
    Logging {
        /// What.
        reason: String,
    },
    /// Out of range.
    #[error("oom_score_adj {score} is outside -1000 to 1000")]
    OomScore {
        /// What was given.
        score: i32,
    },
    /// The permissions of a device.
    #[error("device {device}: permissions `{permissions}` must be of `r`, `w` and `m`")]
    DevicePermissions {
        /// Which.
        device: String,
        /// What was given.
        permissions: String,
    },
    /// An environment variable that cannot be.
    #[error("`{name}` cannot be the name of an environment variable: it must not be empty nor have `=`")]
    Variable {
        /// What was given.
        name: String,
    },
    /// A rule for devices.
    #[error("device cgroup rule `{rule}`: expected a kind, numbers and permissions, such as `c 10:* rwm`")]
    DeviceRule {
        /// What was given.
        rule: String,
    },
    /// An option of a tmpfs.
    #[error("the tmpfs at {target} cannot have the option `{option}`")]
    TmpfsOption {
        /// Where.
        target: String,
        /// What was given.
        option: String,
    },
    /// Over or in the file system of processes, which nothing may stand in for.
    #[error("nothing can be mounted at {target}: a container's /proc is its own")]
    Proc {
        /// Where.
        target: String,
    },
    /// Two settings that exclude each other.
    #[error("{one} and {other} exclude each other")]
    Conflict {
        /// The one.
        one: &'static str,
        /// The other.
        other: &'static str,
    },
    /// The control group above a container's.
    #[error(
        "the control group `{parent}` cannot be the parent of a container's: expected names between `/`, without `.` and `..`"
    )]
    CgroupParent {
        /// What was given.
        parent: String,
    },
    /// More time than there is.
    #[error("cpu real-time runtime cannot be higher than cpu real-time period")]
    Realtime,
    /// There is no time for real-time processes on this host.
    #[error(
        "Your kernel does not support CPU real-time scheduler: it needs control groups of version 1 and a kernel with CONFIG_RT_GROUP_SCHED, as version 2 has no such limit"
    )]
    NoRealtime,
    /// The name of a profile of AppArmor.
    #[error("`{name}` cannot be the name of an AppArmor profile: it must have a character, and no control characters")]
    AppArmorProfile {
        /// What was given, at most 200 characters of it.
        name: String,
    },
    /// The name of a device.
    #[error("`{name}` cannot be the name of a device: expected `VENDOR/CLASS=NAME`, such as `vendor.com/device=0`")]
    CdiName {
        /// What was given, at most 200 characters of it.
        name: String,
    },
    /// Something that a container with a user namespace cannot have.
    #[error("{reason}")]
    UserNamespace {
        /// What, and what to do.
        reason: &'static str,
    },
    /// An owner that the user namespace does not have.
    #[error("the mount at {target} cannot have the option `{option}`: the container's user namespace has no such id")]
    UnknownId {
        /// Where.
        target: String,
        /// What was given.
        option: String,
    },
    /// Something with a NUL byte in it.
    #[error("{what} has a NUL byte")]
    Nul {
        /// Which.
        what: &'static str,
    },
}

/// A host device that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundDevice {
    /// As it shall be in the container.
    pub node: DeviceNode,
    /// Any of `r`, `w`, `m`.
    pub access: String,
}

/// What the engine found and made for one start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host<'a> {
    /// The overlay's directories.
    pub root: Root,
    /// Where volumes lie, in the order of the mounts that are volumes, the image's own after the configured ones.
    pub volumes: BTreeMap<String, PathBuf>,
    /// The layers of the images that are mounted, by their targets.
    pub images: BTreeMap<String, Vec<PathBuf>>,
    /// Devices that the configuration names, or all of the host's when privileged.
    pub devices: Vec<FoundDevice>,
    /// What the descriptions of its devices ask for.
    pub injection: Injection,
    /// The container's directory on the host with `hosts`, `hostname` and `resolv.conf`; `None` leaves the image's.
    pub network_files: Option<PathBuf>,
    /// Control groups, as planned.
    pub cgroups: Cgroups,
    /// The host's hierarchies, which are shown in the container.
    pub hierarchies: &'a Hierarchies,
    /// The compiled filter.
    pub seccomp: Option<PathBuf>,
    /// What AppArmor confines its processes by.
    pub confinement: Option<Confinement>,
    /// What SELinux takes its processes and files for.
    pub labels: Option<SelinuxLabels>,
    /// Where the log goes.
    pub log_directory: PathBuf,
    /// Where the exit record goes.
    pub exit_file: PathBuf,
    /// Which start this is.
    pub attempt: u64,
    /// The containers whose namespaces it joins.
    pub joined: Joined,
    /// Its user namespace; `None`: the host's.
    pub users: Option<Users>,
}

/// The host name of a container.
#[must_use]
pub fn hostname(id: &ContainerId, config: &ContainerConfig) -> String {
    config.hostname.clone().unwrap_or_else(|| id.as_str().chars().take(12).collect())
}

/// What it runs: entrypoint and command. Docker's rule: an entrypoint of the container's own drops the image's command.
///
/// # Errors
/// When that is nothing.
pub fn arguments(config: &ContainerConfig, image: &ImageDefaults) -> Result<Vec<String>, SpecError> {
    let entrypoint = config.entrypoint.as_ref().unwrap_or(&image.entrypoint);
    let inherited = if config.entrypoint.is_some() { &[][..] } else { &image.command[..] };
    let command = config.command.as_deref().unwrap_or(inherited);
    let all: Vec<String> = entrypoint.iter().chain(command).cloned().collect();
    if all.first().is_none_or(String::is_empty) {
        return Err(SpecError::NoCommand { image: config.image.clone() });
    }
    Ok(all)
}

/// The signal that asks it to end.
///
/// # Errors
/// When there is no such signal.
pub fn stop_signal(config: &ContainerConfig, image: &ImageDefaults) -> Result<i32, SpecError> {
    match config.stop_signal.as_ref().or(image.stop_signal.as_ref()) {
        None => Ok(libc::SIGTERM),
        Some(text) => signals::number(text).ok_or_else(|| SpecError::Signal { text: text.clone() }),
    }
}

/// `KEY=value` of its first process.
pub(crate) fn environment(
    id: &ContainerId,
    config: &ContainerConfig,
    image: &ImageDefaults,
) -> Result<Vec<String>, SpecError> {
    let name = |entry: &str| entry.split('=').next().unwrap_or("").to_owned();
    let mut all: Vec<String> = Vec::new();
    if !image.environment.iter().any(|entry| entry.starts_with("PATH=")) {
        all.push(DEFAULT_PATH.to_owned());
    }
    all.push(format!("HOSTNAME={}", hostname(id, config)));
    if config.tty {
        all.push("TERM=xterm".to_owned());
    }
    for entry in &image.environment {
        all.retain(|other| name(other) != name(entry));
        all.push(entry.clone());
    }
    for (key, value) in &config.environment {
        if key.is_empty() || key.contains('=') {
            return Err(SpecError::Variable { name: key.clone() });
        }
        all.retain(|other| name(other) != *key);
        all.push(format!("{key}={value}"));
    }
    all.retain(|entry| !config.environment_removed.contains(&name(entry)));
    Ok(all)
}

fn absolute(what: &'static str, path: &str) -> Result<String, SpecError> {
    let climbs = path.split('/').any(|part| part == "..");
    if !path.starts_with('/') || climbs || path.contains('\0') {
        return Err(SpecError::Path { what, path: path.to_owned() });
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    Ok(format!("/{}", parts.join("/")))
}

/// A path that must be below another one.
fn within(what: &'static str, path: &str) -> Result<(), SpecError> {
    let climbs = path.split('/').any(|part| part == "..");
    if path.is_empty() || path.starts_with('/') || climbs || path.contains('\0') {
        return Err(SpecError::Within { what, path: path.to_owned() });
    }
    Ok(())
}

fn limits(config: &ContainerConfig) -> Result<Vec<Limit>, SpecError> {
    let number = |value: i64| u64::try_from(value).unwrap_or(libc::RLIM_INFINITY);
    config
        .ulimits
        .iter()
        .map(|(name, limit)| {
            let refuse = |reason| SpecError::Ulimit { name: name.clone(), reason };
            let resource = LIMITS
                .iter()
                .position(|known| known == name)
                .and_then(|position| u32::try_from(position).ok())
                .ok_or_else(|| refuse("there is no such limit"))?;
            let (soft, hard) = (number(limit.soft), number(limit.hard));
            if soft > hard {
                return Err(refuse("the soft limit is above the hard one"));
            }
            Ok(Limit { resource, name: name.clone(), soft, hard })
        })
        .collect()
}

/// Kernel parameters that belong to a namespace of the container's own; others would change the host.
fn sysctls(config: &ContainerConfig, users: Option<IdRange>) -> Result<BTreeMap<String, String>, SpecError> {
    let ipc = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let own_network = matches!(config.network_mode, NetworkMode::Networks | NetworkMode::None);
    for (name, value) in &config.sysctls {
        let refuse = |reason| Err(SpecError::Sysctl { name: name.clone(), reason });
        if name.contains(['/', '\0']) || name.split('.').any(str::is_empty) || value.contains('\0') {
            return refuse("is not written with dots between its parts");
        }
        if name.starts_with("net.") {
            if config.network_mode == NetworkMode::Host {
                return refuse("would change the host, whose network this container has");
            }
        } else if ipc.contains(&name.as_str()) || name.starts_with("fs.mqueue.") {
            if config.ipc_mode == NamespaceMode::Host {
                return refuse("would change the host, whose IPC objects this container has");
            }
        } else {
            return refuse("is not separate for each container");
        }
    }
    let mut all = config.sysctls.clone();
    if own_network && !config.privileged {
        // As Docker: anybody in the container may use low ports and send pings.
        let last_group = users.map_or(2_147_483_647, |ids| ids.count.saturating_sub(1));
        for (name, value) in [
            ("net.ipv4.ip_unprivileged_port_start", "0".to_owned()),
            ("net.ipv4.ping_group_range", format!("0 {last_group}")),
        ] {
            all.entry(name.to_owned()).or_insert(value);
        }
    }
    Ok(all)
}

/// A rule as the version 1 files have it: `c 10:* rwm`.
fn device_rule(text: &str) -> Result<DeviceRule, SpecError> {
    let refuse = || SpecError::DeviceRule { rule: text.to_owned() };
    let mut words = text.split_whitespace();
    let (Some(kind @ ("a" | "b" | "c")), Some(numbers), Some(access), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(refuse());
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(refuse)?;
    let number = |text: &str| match text {
        "*" => Ok(None),
        text => text.parse().map(Some).map_err(|_| refuse()),
    };
    if access.is_empty() || !access.chars().all(|character| matches!(character, 'r' | 'w' | 'm')) {
        return Err(refuse());
    }
    Ok(DeviceRule {
        kind: kind.chars().next().unwrap_or('c'),
        major: number(major)?,
        minor: number(minor)?,
        access: access.to_owned(),
    })
}

fn default_devices() -> Vec<DeviceNode> {
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)]
        .map(|(name, major, minor)| DeviceNode {
            path: format!("/dev/{name}"),
            kind: DeviceKind::Character,
            major,
            minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
        })
        .to_vec()
}

/// What the device rules of a container allow.
#[must_use]
pub fn device_rules(config: &ContainerConfig, devices: &[FoundDevice]) -> Vec<DeviceRule> {
    let rule = |kind, major, minor, access: &str| DeviceRule { kind, major, minor, access: access.to_owned() };
    if config.privileged {
        return vec![rule('a', None, None, "rwm")];
    }
    // Any node may be made; only these may be opened.
    let mut all = vec![rule('c', None, None, "m"), rule('b', None, None, "m")];
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)] {
        all.push(rule('c', Some(major), Some(minor), "rwm"));
    }
    all.push(rule('c', Some(136), None, "rwm"));
    for device in devices {
        let kind = match device.node.kind {
            DeviceKind::Character => 'c',
            DeviceKind::Block => 'b',
        };
        all.push(rule(kind, Some(device.node.major), Some(device.node.minor), &device.access));
    }
    // They were checked before.
    for given in config.device_cgroup_rules.iter().filter_map(|text| device_rule(text).ok()) {
        if given.kind == 'a' {
            // Of both kinds: a rule of all kinds has no numbers.
            all.extend(['b', 'c'].map(|kind| DeviceRule { kind, ..given.clone() }));
        } else {
            all.push(given);
        }
    }
    all
}

/// Where the log goes and how long it grows.
fn log_files(logging: &Logging, directory: &std::path::Path) -> Result<Option<LogFiles>, SpecError> {
    let plan = crate::logs::options::decide(logging).map_err(|reason| SpecError::Logging { reason })?;
    Ok(plan.files.map(|files| LogFiles {
        directory: directory.to_owned(),
        max_bytes: files.max_bytes,
        max_files: files.max_files,
        compress: files.compress,
        buffer_bytes: files.buffer_bytes,
    }))
}

/// The process of the configuration, or another one in the same container.
///
/// # Errors
/// What is wrong with the configuration.
pub fn process(
    id: &ContainerId,
    config: &ContainerConfig,
    image: &ImageDefaults,
    arguments: Vec<String>,
    seccomp: Option<PathBuf>,
    confinement: Option<Confinement>,
) -> Result<Process, SpecError> {
    let set = capability::resolve(&config.cap_add, &config.cap_drop, config.privileged)
        .map_err(|name| SpecError::Capability { name })?;
    let given = config.working_dir.as_deref().unwrap_or(&image.working_dir);
    let working_dir = absolute("the working directory", if given.is_empty() { "/" } else { given })?;
    if let Some(score) = config.oom_score_adj.filter(|score| !(-1000..=1000).contains(score)) {
        return Err(SpecError::OomScore { score });
    }
    let environment = environment(id, config, image)?;
    if arguments.iter().chain(&environment).any(|text| text.contains('\0')) {
        return Err(SpecError::Nul { what: "the command or the environment" });
    }
    Ok(Process {
        arguments,
        environment,
        make_working_dir: working_dir != "/",
        working_dir,
        user: config.user.clone().unwrap_or_else(|| image.user.clone()),
        groups: config.group_add.clone(),
        capabilities: Capabilities { bounding: set, permitted: set, ambient: 0 },
        no_new_privileges: config.no_new_privileges,
        limits: limits(config)?,
        oom_score_adj: config.oom_score_adj,
        terminal: config.tty,
        seccomp,
        confinement,
        label: None,
    })
}

/// Which namespaces a container has of its own.
#[must_use]
pub fn namespaces(config: &ContainerConfig) -> Namespaces {
    Namespaces {
        pid: config.pid_mode == NamespaceMode::Private,
        network: matches!(config.network_mode, NetworkMode::Networks | NetworkMode::None),
        ipc: config.ipc_mode == NamespaceMode::Private,
        uts: config.uts_mode == NamespaceMode::Private,
        cgroup: config.cgroup_mode == NamespaceMode::Private,
    }
}

/// Which namespaces of a container a further process enters: those that are not the host's.
#[must_use]
pub fn entered(config: &ContainerConfig) -> Namespaces {
    Namespaces {
        pid: config.pid_mode != NamespaceMode::Host,
        network: config.network_mode != NetworkMode::Host,
        ipc: config.ipc_mode != NamespaceMode::Host,
        ..namespaces(config)
    }
}

/// Everything that can be wrong with a configuration whatever the host.
///
/// # Errors
/// The first thing that is wrong.
pub fn check(id: &ContainerId, config: &ContainerConfig, image: &ImageDefaults) -> Result<(), SpecError> {
    process(id, config, image, arguments(config, image)?, None, None)?;
    stop_signal(config, image)?;
    sysctls(config, None)?;
    log_files(&config.logging, std::path::Path::new("/"))?;
    for rule in &config.device_cgroup_rules {
        device_rule(rule)?;
    }
    if let Some(parent) = &config.cgroup_parent {
        let is_name =
            |name: &str| !["", ".", ".."].contains(&name) && name.len() <= 255 && !name.contains(['\0', '\n']);
        let names = parent.strip_prefix('/').unwrap_or(parent);
        if parent.len() > 1024 || !names.trim_end_matches('/').split('/').all(is_name) {
            return Err(SpecError::CgroupParent { parent: parent.chars().take(80).collect() });
        }
    }
    if let AppArmorChoice::Profile(name) = &config.apparmor
        && (name.is_empty() || name.contains(char::is_control))
    {
        return Err(SpecError::AppArmorProfile { name: name.chars().take(200).collect() });
    }
    let resources = &config.resources;
    if let (Some(runtime), Some(period)) = (resources.cpu_realtime_runtime_us, resources.cpu_realtime_period_us)
        && runtime > period
    {
        return Err(SpecError::Realtime);
    }
    if resources.cpu_limit_millis.is_some() && (resources.cpu_quota_us.is_some() || resources.cpu_period_us.is_some()) {
        return Err(SpecError::Conflict { one: "a number of processors", other: "a quota or period of their time" });
    }
    for path in config.masked_paths.iter().chain(&config.read_only_paths).flatten() {
        absolute("a masked or read-only path", path)?;
    }
    if let Some(name) = config.cdi_devices.iter().find(|name| !cdi::is_qualified(name)) {
        return Err(SpecError::CdiName { name: name.chars().take(200).collect() });
    }
    for device in &config.devices {
        absolute("the path of a device", &device.target)?;
        let known = device.permissions.chars().all(|character| matches!(character, 'r' | 'w' | 'm'));
        if !known || device.permissions.is_empty() {
            return Err(SpecError::DevicePermissions {
                device: device.target.clone(),
                permissions: device.permissions.clone(),
            });
        }
    }
    for target in &image.volumes {
        outside_proc(target, None)?;
    }
    for mount in &config.mounts {
        outside_proc(&mount.target, Some(&mount.source))?;
        match &mount.source {
            ContainerMountSource::Bind { path, propagation: text, .. } => {
                absolute("the source of a mount", &path.to_string_lossy())?;
                propagation(&mount.target, text.as_deref())?;
            }
            ContainerMountSource::Tmpfs { options, .. } => {
                tmpfs_options(&mount.target, options)?;
            }
            ContainerMountSource::Image { subpath, .. } => {
                if let Some(subpath) = subpath {
                    within("the subpath of an image", subpath)?;
                }
            }
            ContainerMountSource::Volume { .. } => {}
        }
    }
    Ok(())
}

/// The launch document.
///
/// # Errors
/// What is wrong with the configuration.
pub fn launch(
    id: &ContainerId,
    config: &ContainerConfig,
    image: &ImageDefaults,
    host: &Host<'_>,
) -> Result<Launch, SpecError> {
    check(id, config, image)?;
    let mut process =
        process(id, config, image, arguments(config, image)?, host.seccomp.clone(), host.confinement.clone())?;
    process.label = host.labels.as_ref().and_then(|labels| labels.process.clone());
    let injection = &host.injection;
    for variable in &injection.environment {
        let name = |entry: &str| entry.split('=').next().unwrap_or("").to_owned();
        process.environment.retain(|other| name(other) != name(variable));
        process.environment.push(variable.clone());
    }
    process.groups.extend(injection.groups.iter().map(ToString::to_string));
    let mut mounts = system_mounts(config, host.hierarchies, &host.joined);
    let mut chosen = chosen_mounts(id, config, image, host)?;
    chosen.retain(|mount| !injection.mounts.iter().any(|other| other.target == mount.target));
    chosen.extend(injection.mounts.iter().cloned());
    // Outer ones first, or they would hide those below them.
    chosen.sort_by_key(|mount| mount.target.matches('/').count());
    // What is asked for at a place of ours replaces ours, as a tmpfs of another size at /dev/shm.
    mounts.retain(|mount| !chosen.iter().any(|other| other.target == mount.target && mount.target != "/dev"));
    if let Some(directory) = &host.network_files {
        for name in ["resolv.conf", "hostname", "hosts"] {
            let target = format!("/etc/{name}");
            if !chosen.iter().any(|mount| mount.target == target) {
                mounts.push(mapped(bind(&target, directory.join(name), 0, Propagation::Private)));
            }
        }
    }
    mounts.extend(chosen);
    if let Some(labels) = &host.labels {
        mounts.iter_mut().for_each(|mount| label_files(mount, &labels.mount));
    }
    if let Some(users) = &host.users {
        super::users::check(config)?;
        super::users::map_options(&mut mounts, users.ids)?;
    }
    let listed = |paths: &[&str]| -> Vec<String> {
        if config.privileged { Vec::new() } else { paths.iter().map(|path| (*path).to_owned()).collect() }
    };
    let masked = config.masked_paths.clone().unwrap_or_else(|| {
        let mut usual = listed(&MASKED);
        usual.extend(listed(&MASKED_TOO));
        usual
    });
    let mut read_only = config.read_only_paths.clone().unwrap_or_else(|| listed(&READ_ONLY));
    if !host.hierarchies.legacy.is_empty() && !config.privileged {
        // The directory of the version 1 hierarchies, which could not be filled if it were read-only from the start.
        read_only.push("/sys/fs/cgroup".to_owned());
    }
    let mut devices = default_devices();
    for device in host.devices.iter().chain(&injection.devices) {
        devices.retain(|other| other.path != device.node.path);
        devices.push(device.node.clone());
    }
    let symlinks = [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
        ("/dev/ptmx", "pts/ptmx"),
        ("/dev/core", "/proc/kcore"),
    ];
    Ok(Launch {
        id: id.to_string(),
        attempt: host.attempt,
        namespaces: namespaces(config),
        joined: host.joined.clone(),
        users: host.users.clone(),
        cgroups: host.cgroups.clone(),
        root: Root {
            read_only: config.read_only,
            label: host.labels.as_ref().map(|labels| labels.mount.clone()),
            ..host.root.clone()
        },
        mounts,
        devices,
        hooks: injection.hooks.clone(),
        symlinks: symlinks.map(|(path, target)| (path.to_owned(), target.to_owned())).to_vec(),
        masked_paths: masked,
        read_only_paths: read_only,
        hostname: (config.uts_mode == NamespaceMode::Private).then(|| hostname(id, config)),
        domainname: config.domainname.clone().filter(|_| config.uts_mode == NamespaceMode::Private),
        sysctls: sysctls(config, host.users.as_ref().map(|users| users.ids))?,
        process,
        init: config.init,
        stdin_open: config.stdin_open,
        terminal_size: config.terminal_size,
        log: log_files(&config.logging, &host.log_directory)?,
        exit_file: host.exit_file.clone(),
        runtime: None,
    })
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
