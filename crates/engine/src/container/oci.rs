//! Pure. A launch document as an OCI runtime specification (version 1.2, `config.json`): what another runtime would be
//! given for the same container, and what tools that read such documents understand.

use oci_spec::runtime::Spec;
use serde_json::{Value, json};
use stack_shim::launch::{
    DeviceKind, Hook, Launch, Mount, MountSource, Namespaces, Process, Propagation, RUNTIME_VERSION,
};
use stack_shim::protocol::TerminalSize;

use super::capability;
use super::config::{BlkioLimit, Resources};
use crate::cgroup::DeviceRule;
use crate::seccomp::{Action, Comparison, Filter};

/// Where control groups are mounted.
const GROUPS: &str = "/sys/fs/cgroup";

/// The version that all runtimes know.
const UNDERSTOOD_BY_ALL: &str = "1.0.2";

/// What such a document cannot say.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// Only whoever has the image can look the name up.
    #[error("user or group `{name}` has no number: the specification takes numbers only, so name it by its number")]
    Name {
        /// What was given.
        name: String,
    },
    /// A directory within a volume, which is found without leaving the volume.
    #[error("the mount at {target} is a part of its volume, which the specification cannot say safely")]
    Subpath {
        /// Where.
        target: String,
    },
    /// The kernel maps owners of its layers while they are mounted.
    #[error(
        "a container with a user namespace cannot be described, as its layers are mounted with other owners: leave it out"
    )]
    Users,
    /// The small init process is the shim's own.
    #[error("a container with an init process cannot be described: leave `init` out")]
    Init,
    /// A limit of a block device whose numbers are not known.
    #[error("the block device {device} is not given by its numbers")]
    Device {
        /// Which.
        device: String,
    },
    /// A runtime takes one path for all hierarchies.
    #[error(
        "its control groups have different paths in different hierarchies: give `cgroup_parent` as an absolute path in the daemon's configuration"
    )]
    Groups,
    /// What was made is no such document.
    #[error("the document does not follow the specification")]
    Document(#[from] serde_json::Error),
}

/// The document. `resources` names block devices by their numbers, `8:0`; `filter` is what `launch.process.seccomp` was
/// compiled from.
///
/// # Errors
/// What cannot be said in it.
pub fn runtime_spec(
    launch: &Launch,
    resources: &Resources,
    rules: &[DeviceRule],
    filter: Option<&Filter>,
) -> Result<Spec, OciError> {
    whole(launch, resources, rules, filter, Users::ByNumber)
}

/// The `config.json` of a bundle, for a runtime that is called at once: whoever calls it still has to say who the user is.
/// `groups` is the path of its control groups in every hierarchy.
///
/// # Errors
/// What cannot be said in it.
pub(crate) fn bundle(
    launch: &Launch,
    resources: &Resources,
    rules: &[DeviceRule],
    filter: Option<&Filter>,
    groups: &str,
) -> Result<Value, OciError> {
    let mut document = serde_json::to_value(whole(launch, resources, rules, filter, Users::Later)?)?;
    document["linux"]["cgroupsPath"] = groups.into();
    // Older runtimes refuse a document of a version that they do not know, whatever is in it.
    document["ociVersion"] = UNDERSTOOD_BY_ALL.into();
    Ok(document)
}

/// A further process of a container, likewise.
pub(crate) fn further_process(process: &Process) -> Result<Value, serde_json::Error> {
    let document = process_document(process, None, Users::Later).unwrap_or_default();
    let document: oci_spec::runtime::Process = serde_json::from_value(document)?;
    serde_json::to_value(document)
}

/// Who looks up what users are called.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Users {
    /// Nobody: a name is an error.
    ByNumber,
    /// Somebody who has the image: it is root until then.
    Later,
}

fn whole(
    launch: &Launch,
    resources: &Resources,
    rules: &[DeviceRule],
    filter: Option<&Filter>,
    users: Users,
) -> Result<Spec, OciError> {
    if launch.init {
        return Err(OciError::Init);
    }
    if launch.users.is_some() {
        return Err(OciError::Users);
    }
    let mounts = mounts(launch)?;
    let devices: Vec<Value> = launch
        .devices
        .iter()
        .map(|device| {
            let kind = match device.kind {
                DeviceKind::Character => "c",
                DeviceKind::Block => "b",
            };
            json!({
                "path": device.path, "type": kind, "major": device.major, "minor": device.minor,
                "fileMode": device.mode, "uid": device.uid, "gid": device.gid,
            })
        })
        .collect();
    let document = json!({
        "ociVersion": RUNTIME_VERSION,
        "root": { "path": launch.root.mountpoint, "readonly": launch.root.read_only },
        "process": process_document(&launch.process, launch.terminal_size, users)?,
        "hostname": launch.hostname,
        "domainname": launch.domainname,
        "mounts": mounts,
        "hooks": hooks(&launch.hooks),
        "linux": {
            "namespaces": namespaces(launch),
            "sysctl": launch.sysctls,
            "resources": limits(resources, rules)?,
            "devices": devices,
            "seccomp": filter.map(seccomp),
            "mountLabel": launch.root.label,
            "maskedPaths": launch.masked_paths,
            "readonlyPaths": launch.read_only_paths,
        },
    });
    Ok(serde_json::from_value(document)?)
}

fn hooks(hooks: &[Hook]) -> Option<Value> {
    let hook = |hook: &Hook| {
        json!({
            "path": hook.path, "args": hook.arguments, "env": hook.environment, "timeout": hook.timeout_seconds,
        })
    };
    (!hooks.is_empty()).then(|| json!({ "createContainer": hooks.iter().map(hook).collect::<Vec<_>>() }))
}

fn number(name: &str) -> Result<u32, OciError> {
    name.parse().map_err(|_| OciError::Name { name: name.to_owned() })
}

fn process_document(process: &Process, size: Option<TerminalSize>, users: Users) -> Result<Value, OciError> {
    let (user, group) = process.user.split_once(':').unwrap_or((&process.user, ""));
    let or_root = |name: &str| if name.is_empty() || users == Users::Later { Ok(0) } else { number(name) };
    let groups = match users {
        Users::ByNumber => process.groups.iter().map(|name| number(name)).collect::<Result<Vec<_>, _>>()?,
        Users::Later => Vec::new(),
    };
    let limits: Vec<Value> = process
        .limits
        .iter()
        .map(|limit| {
            let name = format!("RLIMIT_{}", limit.name.to_ascii_uppercase());
            json!({ "type": name, "soft": limit.soft, "hard": limit.hard })
        })
        .collect();
    Ok(json!({
        "terminal": process.terminal,
        "consoleSize": size.filter(|_| process.terminal)
            .map(|size| json!({ "height": size.rows, "width": size.columns })),
        "user": { "uid": or_root(user)?, "gid": or_root(group)?, "additionalGids": groups },
        "args": process.arguments,
        "env": process.environment,
        "cwd": process.working_dir,
        "capabilities": capabilities(process, users),
        "rlimits": limits,
        "noNewPrivileges": process.no_new_privileges,
        "oomScoreAdj": process.oom_score_adj,
        "apparmorProfile": process.confinement.as_ref().map(|confinement| &confinement.profile),
        "selinuxLabel": process.label,
    }))
}

fn capabilities(process: &Process, users: Users) -> Value {
    let names = |set| capability::names(set).map(|name| format!("CAP_{name}")).collect::<Vec<_>>();
    let sets = process.capabilities;
    // Another user than root has them effective only through the ambient set.
    let is_root = users == Users::Later || matches!(process.user.split(':').next(), None | Some("" | "0" | "root"));
    json!({
        "bounding": names(sets.bounding),
        "permitted": names(sets.permitted),
        "effective": names(if is_root { sets.permitted } else { sets.ambient }),
        "inheritable": names(sets.ambient),
        "ambient": names(sets.ambient),
    })
}

fn namespaces(launch: &Launch) -> Vec<Value> {
    let Namespaces { pid, network, ipc, uts, cgroup } = launch.namespaces;
    let own = [("pid", pid), ("network", network), ("ipc", ipc), ("uts", uts), ("cgroup", cgroup), ("mount", true)];
    let mut all: Vec<Value> =
        own.into_iter().filter(|(_, is_own)| *is_own).map(|(kind, _)| json!({ "type": kind })).collect();
    let joined = &launch.joined;
    for (kind, file, peer) in
        [("pid", "pid", joined.pid), ("network", "net", joined.network), ("ipc", "ipc", joined.ipc)]
    {
        if let Some(peer) = peer {
            all.push(json!({ "type": kind, "path": format!("/proc/{}/ns/{file}", peer.pid) }));
        }
    }
    all
}

/// The mounts. Runtimes know themselves how the control groups of their host are mounted.
fn mounts(launch: &Launch) -> Result<Vec<Value>, OciError> {
    let mut all = Vec::new();
    let mut has_groups = false;
    for entry in &launch.mounts {
        let is_of_groups = entry.target == GROUPS || entry.target.starts_with("/sys/fs/cgroup/");
        if !is_of_groups || !matches!(entry.source, MountSource::Filesystem { .. }) {
            all.push(mount(entry)?);
        } else if !has_groups {
            has_groups = true;
            let mut options = vec!["nosuid", "noexec", "nodev", "relatime"];
            let is_read_only =
                |entry: &&Mount| entry.target.starts_with(GROUPS) && entry.attributes & libc::MOUNT_ATTR_RDONLY != 0;
            if launch.mounts.iter().any(|entry| is_read_only(&entry)) {
                options.push("ro");
            }
            all.push(json!({ "destination": GROUPS, "type": "cgroup", "source": "cgroup", "options": options }));
        }
    }
    Ok(all)
}

fn mount(mount: &Mount) -> Result<Value, OciError> {
    let mut options: Vec<String> = Vec::new();
    let (kind, source) = match &mount.source {
        MountSource::Bind { subpath: Some(_), .. } | MountSource::Image { subpath: Some(_), .. } => {
            return Err(OciError::Subpath { target: mount.target.clone() });
        }
        MountSource::Bind { path, recursive, .. } => {
            options.push(if *recursive { "rbind" } else { "bind" }.to_owned());
            options.push(
                match mount.propagation {
                    Propagation::Private => "rprivate",
                    Propagation::Slave => "rslave",
                    Propagation::Shared => "rshared",
                }
                .to_owned(),
            );
            ("bind", path.to_string_lossy().into_owned())
        }
        MountSource::Image { lower, subpath: None } => {
            let layers: Vec<String> = lower.iter().map(|layer| layer.to_string_lossy().into_owned()).collect();
            match layers.as_slice() {
                [single] => {
                    options.push("bind".to_owned());
                    ("bind", single.clone())
                }
                several => {
                    options.push(format!("lowerdir={}", several.join(":")));
                    ("overlay", "overlay".to_owned())
                }
            }
        }
        MountSource::OfPeer { peer, path } => {
            options.push("bind".to_owned());
            ("bind", format!("/proc/{}/root{path}", peer.pid))
        }
        MountSource::Filesystem { kind, source, options: given, .. } => {
            // Runtimes add the label of the container's files themselves.
            let given = given.iter().filter(|(key, _)| key != "context");
            options.extend(given.map(|(key, value)| match value {
                Some(value) => format!("{key}={value}"),
                None => key.clone(),
            }));
            (kind.as_str(), source.clone())
        }
    };
    for (attribute, name) in [
        (libc::MOUNT_ATTR_RDONLY, "ro"),
        (libc::MOUNT_ATTR_NOSUID, "nosuid"),
        (libc::MOUNT_ATTR_NODEV, "nodev"),
        (libc::MOUNT_ATTR_NOEXEC, "noexec"),
        (libc::MOUNT_ATTR_NOATIME, "noatime"),
        (libc::MOUNT_ATTR_STRICTATIME, "strictatime"),
        (libc::MOUNT_ATTR_NODIRATIME, "nodiratime"),
    ] {
        if mount.attributes & attribute != 0 {
            options.push(name.to_owned());
        }
    }
    Ok(json!({ "destination": mount.target, "type": kind, "source": source, "options": options }))
}

/// `8:0` as it is told of a block device.
fn device_numbers(device: &str) -> Result<(i64, i64), OciError> {
    let unknown = || OciError::Device { device: device.to_owned() };
    let (major, minor) = device.split_once(':').ok_or_else(unknown)?;
    let part = |text: &str| text.parse::<i64>().map_err(|_| unknown());
    Ok((part(major)?, part(minor)?))
}

fn limits(resources: &Resources, rules: &[DeviceRule]) -> Result<Value, OciError> {
    let mut devices = vec![json!({ "allow": false, "access": "rwm" })];
    devices.extend(rules.iter().map(|rule| {
        let mut entry = json!({ "allow": true, "type": rule.kind.to_string(), "access": rule.access });
        if let Some(major) = rule.major {
            entry["major"] = major.into();
        }
        if let Some(minor) = rule.minor {
            entry["minor"] = minor.into();
        }
        entry
    }));
    // A number of processors is a share of the usual period.
    const PERIOD: u64 = 100_000;
    let quota = resources.cpu_quota_us.or_else(|| resources.cpu_limit_millis.map(|millis| millis * PERIOD / 1000));
    let period = resources.cpu_period_us.or_else(|| quota.map(|_| PERIOD));
    let both = match resources.memory_and_swap_bytes {
        Some(u64::MAX) => Some(-1),
        Some(bytes) => i64::try_from(bytes).ok(),
        None => resources.memory_bytes.and_then(|bytes| i64::try_from(bytes.saturating_mul(2)).ok()),
    };
    let mut block = json!({ "weight": resources.blkio_weight });
    for (what, key) in [
        (BlkioLimit::ReadBytes, "throttleReadBpsDevice"),
        (BlkioLimit::WriteBytes, "throttleWriteBpsDevice"),
        (BlkioLimit::ReadOperations, "throttleReadIOPSDevice"),
        (BlkioLimit::WriteOperations, "throttleWriteIOPSDevice"),
    ] {
        let mut all = Vec::new();
        for throttle in resources.blkio_throttles.iter().filter(|throttle| throttle.what == what) {
            let (major, minor) = device_numbers(&throttle.device)?;
            all.push(json!({ "major": major, "minor": minor, "rate": throttle.rate }));
        }
        if !all.is_empty() {
            block[key] = all.into();
        }
    }
    let mut weights = Vec::new();
    for own in &resources.blkio_device_weights {
        let (major, minor) = device_numbers(&own.device)?;
        weights.push(json!({ "major": major, "minor": minor, "weight": own.weight }));
    }
    if !weights.is_empty() {
        block["weightDevice"] = weights.into();
    }
    Ok(json!({
        "devices": devices,
        "memory": {
            "limit": resources.memory_bytes,
            "reservation": resources.memory_reservation_bytes,
            "swap": both,
            "swappiness": resources.swappiness,
            "disableOOMKiller": resources.oom_kill_disable.then_some(true),
        },
        "cpu": {
            "shares": resources.cpu_shares,
            "quota": quota,
            "period": period,
            "cpus": resources.cpuset_cpus,
            "mems": resources.cpuset_mems,
        },
        "pids": resources.pids.map(|limit| json!({ "limit": limit })),
        "blockIO": block,
    }))
}

fn seccomp(filter: &Filter) -> Value {
    let architectures = match std::env::consts::ARCH {
        "x86_64" => vec!["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "aarch64" => vec!["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        _ => Vec::new(),
    };
    let calls: Vec<Value> = filter
        .rules
        .iter()
        .map(|rule| {
            let (action, number) = action(rule.action);
            let conditions: Vec<Value> = rule
                .conditions
                .iter()
                .map(|condition| {
                    // With a mask, the first value is the mask and the second what must be left.
                    let (operation, value, second) = match condition.comparison {
                        Comparison::NotEqual => ("SCMP_CMP_NE", condition.value, None),
                        Comparison::Less => ("SCMP_CMP_LT", condition.value, None),
                        Comparison::LessOrEqual => ("SCMP_CMP_LE", condition.value, None),
                        Comparison::Equal => ("SCMP_CMP_EQ", condition.value, None),
                        Comparison::GreaterOrEqual => ("SCMP_CMP_GE", condition.value, None),
                        Comparison::Greater => ("SCMP_CMP_GT", condition.value, None),
                        Comparison::Masked(mask) => ("SCMP_CMP_MASKED_EQ", mask, Some(condition.value)),
                    };
                    json!({ "index": condition.argument, "op": operation, "value": value, "valueTwo": second })
                })
                .collect();
            json!({ "names": rule.names, "action": action, "errnoRet": number, "args": conditions })
        })
        .collect();
    let (default, number) = action(filter.default);
    json!({
        "defaultAction": default, "defaultErrnoRet": number, "architectures": architectures, "syscalls": calls,
    })
}

/// Its name, and the number that belongs to it.
fn action(action: Action) -> (&'static str, Option<u32>) {
    let positive = |number: i32| u32::try_from(number).ok();
    match action {
        Action::Allow => ("SCMP_ACT_ALLOW", None),
        Action::Errno(number) => ("SCMP_ACT_ERRNO", positive(number)),
        Action::Log => ("SCMP_ACT_LOG", None),
        Action::Trace(number) => ("SCMP_ACT_TRACE", Some(number.into())),
        Action::Trap => ("SCMP_ACT_TRAP", None),
        Action::KillProcess => ("SCMP_ACT_KILL_PROCESS", None),
        Action::KillThread => ("SCMP_ACT_KILL_THREAD", None),
    }
}
