//! Pure. The body of `POST /containers/create` as the engine's configuration: every field is applied, or refused with its
//! name. What Docker's clients send without meaning anything by it is passed over, as Docker does.

mod isolation;
mod mounts;
mod networking;
mod resources;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use axum::http::StatusCode;
use bollard_stubs::models::{ContainerCreateBody, HealthConfig, HostConfig, RestartPolicyNameEnum};
use serde::Deserialize;
use serde_json::Value;
use stack_engine::ContainerChange;
use stack_engine::container::{
    Container, ContainerConfig, ContainerId, Healthcheck, Logging, Resources, RestartPolicy, TerminalSize,
};
use stack_engine::network::NetworkRecord;
use stack_engine::selinux::LabelOptionError;
use stack_engine::volume::VolumeDescription;

pub use self::networking::{endpoint, endpoint_between};
use crate::error::ApiError;
use crate::host::Online;

/// Why a container cannot be made as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CreationError {
    /// A field that this daemon cannot apply.
    #[error("{field} is not supported by this daemon yet")]
    NotSupported {
        /// Docker's name of the field, and where it helps its value.
        field: String,
    },
    /// A value that a field cannot have.
    #[error("invalid {field} `{value}`: {expected}")]
    Value {
        /// Docker's name of the field.
        field: &'static str,
        /// What was given, at most 200 characters of it.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// An option of a label of SELinux.
    #[error("invalid --security-opt: {0}")]
    Label(LabelOptionError),
    /// Two settings that exclude each other.
    #[error("conflicting options: {one} and {other}")]
    Conflict {
        /// The one.
        one: &'static str,
        /// The other.
        other: &'static str,
    },
    /// A rule of Docker's that has no value to show.
    #[error("{0}")]
    Rule(&'static str),
    /// More processors than there are.
    #[error("Range of CPUs is from 0.01 to {processors}.00, as there are only {processors} CPUs available")]
    Processors {
        /// So many.
        processors: u32,
    },
    /// Processors or memory nodes that there are not.
    #[error("Requested {what} are not available - requested {asked}, available: {available}")]
    NotOnline {
        /// `CPUs` or `memory nodes`.
        what: &'static str,
        /// What was given.
        asked: String,
        /// What there is.
        available: String,
    },
    /// No list of processors or memory nodes.
    #[error("Invalid value {value} for {field}: invalid format: expected numbers and ranges, such as 0-2,5")]
    NoSet {
        /// `cpuset cpus` or `cpuset mems`.
        field: &'static str,
        /// What was given, at most 200 characters of it.
        value: String,
    },
    /// Another container or network that it needs is not there. Not as what the request itself is about is not there:
    /// clients take that for an image that they must pull.
    #[error("{0}")]
    Needed(String),
    /// There is no such policy.
    #[error(
        "invalid restart policy: unknown policy '{0}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
    )]
    RestartPolicy(String),
    /// Nobody has told the daemon of such a runtime.
    #[error("unknown or invalid runtime name: {0}")]
    Runtime(String),
    /// There is no such kind of mount.
    #[error("invalid mount config for type \"{0}\": mount type unknown")]
    MountKind(String),
    /// There is no such option of a volume.
    #[error("invalid mode: {0}")]
    Mode(String),
    /// Nobody gives such devices.
    #[error("could not select device driver \"{driver}\" with capabilities: [{capabilities}]")]
    DeviceDriver {
        /// Who was asked for.
        driver: String,
        /// What the device must be able to do, as Docker shows it.
        capabilities: String,
    },
    /// A relative path where a volume's name or an absolute path must be.
    #[error(
        "\"{name}\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
    )]
    VolumeName {
        /// What was given.
        name: String,
    },
}

impl CreationError {
    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NotSupported { .. } => StatusCode::NOT_IMPLEMENTED,
            Self::Value { .. }
            | Self::Conflict { .. }
            | Self::Rule(_)
            | Self::Processors { .. }
            | Self::NotOnline { .. }
            | Self::NoSet { .. }
            | Self::Needed(_)
            | Self::RestartPolicy(_)
            | Self::Runtime(_)
            | Self::MountKind(_)
            | Self::Mode(_)
            | Self::Label(_)
            | Self::DeviceDriver { .. }
            | Self::VolumeName { .. } => StatusCode::BAD_REQUEST,
        }
    }
}

/// A value that is refused.
pub(super) fn invalid(field: &'static str, value: impl Into<String>, expected: &'static str) -> CreationError {
    CreationError::Value { field, value: value.into().chars().take(200).collect(), expected }
}

/// Refuses a field that means something.
pub(super) fn without(is_set: bool, field: &str) -> Result<(), CreationError> {
    if is_set { Err(CreationError::NotSupported { field: field.to_owned() }) } else { Ok(()) }
}

fn nonempty(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

/// A network that there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownNetwork {
    /// Its name.
    pub name: String,
    /// 64 hexadecimal digits.
    pub id: String,
    /// Whether it is one of this host, or between hosts.
    pub reach: Reach,
}

/// How far a network reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// This host alone.
    Host,
    /// All hosts of the cluster.
    Cluster {
        /// Containers that belong to no stack may be on it.
        attachable: bool,
    },
}

/// What there is on the host that a container may refer to.
#[derive(Debug, Clone, Default)]
pub struct World {
    /// All containers.
    pub containers: Vec<Container>,
    /// The volumes that images of containers declare, of those containers whose volumes are taken over.
    pub image_volumes: BTreeMap<ContainerId, Vec<String>>,
    /// All networks.
    pub networks: Vec<KnownNetwork>,
    /// Those that are made.
    pub bridges: Vec<NetworkRecord>,
    /// What the image of the container to be says that it serves: `80/tcp`.
    pub image_ports: Vec<String>,
    /// Processors of the host.
    pub processors: u32,
    /// Those that a container can be kept to.
    pub online: Online,
    /// Runtimes beside the daemon's own.
    pub runtimes: BTreeSet<String>,
}

impl World {
    /// Of the host alone.
    pub fn of_host() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { processors: u32::try_from(processors).unwrap_or(u32::MAX), online: Online::read(), ..Self::default() }
    }
}

/// A volume that is made if it is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVolume {
    /// Which.
    pub name: String,
    /// Its labels, and what it is of.
    pub description: VolumeDescription,
}

/// What is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Creation {
    /// The container, without its name.
    pub config: ContainerConfig,
    /// What the client is told beside it.
    pub warnings: Vec<String>,
    /// Volumes that the container's mounts name.
    pub volumes: Vec<NewVolume>,
}

/// A body as it came in.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CreateRequest {
    body: ContainerCreateBody,
    older: Older,
}

/// Fields that newer versions of the API do not have.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Older {
    mac_address: Option<String>,
    host_config: OlderHostConfig,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
struct OlderHostConfig {
    #[serde(rename = "KernelMemory")]
    kernel_memory: i64,
    #[serde(rename = "KernelMemoryTCP")]
    kernel_memory_tcp: i64,
}

impl OlderHostConfig {
    /// Limits that kernels have given up, and that Docker discards, too.
    fn warnings(&self) -> Vec<String> {
        let discarded = [
            (
                self.kernel_memory,
                "Your kernel does not support kernel memory limit capabilities or the cgroup is not mounted. Limitation discarded.",
            ),
            (
                self.kernel_memory_tcp,
                "Your kernel does not support kernel memory TCP limit capabilities or the cgroup is not mounted. Limitation discarded.",
            ),
        ];
        discarded.into_iter().filter(|(bytes, _)| *bytes > 0).map(|(_, warning)| warning.to_owned()).collect()
    }
}

impl CreateRequest {
    /// Reads a body by the rules of Docker's daemon: `null` is as good as nothing, and a command may be a single word.
    pub fn read(bytes: &[u8]) -> Result<Self, ApiError> {
        let wrong = |error: serde_json::Error| ApiError::Body { problem: error.to_string() };
        let mut document: Value = serde_json::from_slice(bytes).map_err(wrong)?;
        drop_nulls(&mut document);
        for key in ["Cmd", "Entrypoint", "Shell"] {
            if let Some(word @ Value::String(_)) = document.get_mut(key) {
                *word = Value::Array(vec![word.take()]);
            }
        }
        if let Some(host) = document.get_mut("HostConfig") {
            drop_nulls(host);
            check_words(host)?;
            if let Some(ports) = host.get_mut("PortBindings") {
                drop_nulls(ports);
            }
        }
        if let Some(Value::Object(endpoints)) = document.pointer_mut("/NetworkingConfig/EndpointsConfig") {
            for settings in endpoints.values_mut().filter(|settings| settings.is_null()) {
                *settings = Value::Object(serde_json::Map::new());
            }
        }
        let older = serde_json::from_value(document.clone()).map_err(wrong)?;
        Ok(Self { body: serde_json::from_value(document).map_err(wrong)?, older })
    }

    /// The image that it names.
    pub fn image(&self) -> Result<&str, CreationError> {
        let image = self.body.image.as_deref().filter(|image| !image.is_empty());
        image.ok_or(CreationError::Rule("no image is given: set `Image`"))
    }

    /// Whose volumes it takes over, as they were named: `NAME` or `NAME:ro`.
    pub fn volumes_from(&self) -> &[String] {
        self.body.host_config.as_ref().and_then(|host| host.volumes_from.as_deref()).unwrap_or_default()
    }

    /// What it means on this host.
    pub fn translate(self, world: &World) -> Result<Creation, ApiError> {
        let Self { mut body, older } = self;
        let host = body.host_config.take().unwrap_or_default();
        let mut creation = Creation { config: process(&mut body, &host)?, warnings: Vec::new(), volumes: Vec::new() };
        without(older.mac_address.is_some_and(|address| !address.is_empty()), "MacAddress")?;
        creation.warnings.extend(older.host_config.warnings());
        lifetime(&mut creation.config, &body, &host)?;
        resources::apply(&mut creation.config, &host, world)?;
        isolation::apply(&mut creation, &host, world)?;
        networking::apply(&mut creation, &body, &host, world)?;
        mounts::apply(&mut creation, &body, &host, world)?;
        Ok(creation)
    }
}

/// Words that have a set of their own, in Docker's words: the reader of JSON would say which letters it expected.
fn check_words(host: &Value) -> Result<(), CreationError> {
    let word = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let policy = word(host.pointer("/RestartPolicy/Name"));
    if !["", "no", "always", "unless-stopped", "on-failure"].contains(&policy.as_str()) {
        return Err(CreationError::RestartPolicy(policy.chars().take(80).collect()));
    }
    for mount in host.get("Mounts").and_then(Value::as_array).into_iter().flatten() {
        let kind = word(mount.get("Type"));
        if !["", "bind", "volume", "image", "tmpfs", "npipe", "cluster"].contains(&kind.as_str()) {
            return Err(CreationError::MountKind(kind.chars().take(80).collect()));
        }
    }
    Ok(())
}

/// Takes away the members of an object that are `null`.
fn drop_nulls(value: &mut Value) {
    if let Value::Object(members) = value {
        members.retain(|_, member| !member.is_null());
    }
}

fn strings(map: Option<std::collections::HashMap<String, String>>) -> BTreeMap<String, String> {
    map.unwrap_or_default().into_iter().collect()
}

/// What runs, and as whom.
fn process(body: &mut ContainerCreateBody, host: &HostConfig) -> Result<ContainerConfig, CreationError> {
    let mut config = ContainerConfig {
        image: nonempty(body.image.take()).unwrap_or_default(),
        // An empty list of words is none, as an image's is then used.
        entrypoint: body.entrypoint.take().filter(|words| !words.is_empty()),
        command: body.cmd.take().filter(|words| !words.is_empty()),
        labels: strings(body.labels.take()),
        user: nonempty(body.user.take()),
        working_dir: nonempty(body.working_dir.take()),
        hostname: nonempty(body.hostname.take()),
        domainname: nonempty(body.domainname.take()),
        tty: body.tty.unwrap_or(false),
        stdin_open: body.open_stdin.unwrap_or(false),
        stdin_once: body.stdin_once.unwrap_or(false),
        stop_signal: nonempty(body.stop_signal.take()),
        ..ContainerConfig::default()
    };
    // `--entrypoint ""` is sent as one empty word: the image's goes, and there is none in its place.
    if config.entrypoint.as_deref() == Some(&[String::new()]) {
        config.entrypoint = Some(Vec::new());
    }
    for entry in body.env.take().unwrap_or_default() {
        match entry.split_once('=') {
            Some(("", _)) => return Err(invalid("environment variable", entry, "it must have a name")),
            Some((key, value)) => {
                config.environment.insert(key.to_owned(), value.to_owned());
                config.environment_removed.retain(|removed| removed != key);
            }
            None if entry.is_empty() => return Err(invalid("environment variable", entry, "it must have a name")),
            None => {
                config.environment.remove(&entry);
                config.environment_removed.push(entry);
            }
        }
    }
    for (field, name, longest) in [("Hostname", &config.hostname, 64), ("Domainname", &config.domainname, 64)] {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        if let Some(name) = name.as_ref().filter(|name| name.len() > longest || !name.bytes().all(plain)) {
            return Err(invalid(field, name, "expected at most 64 letters, digits, `-`, `.` and `_`"));
        }
    }
    config.terminal_size = terminal_size(host.console_size.as_deref());
    let shell = body.shell.take().unwrap_or_default();
    config.healthcheck = body.healthcheck.take().map(|check| healthcheck(check, &shell)).transpose()?.flatten();
    Ok(config)
}

/// `[height, width]`; zeros are unknown.
pub fn terminal_size(sides: Option<&[usize]>) -> Option<TerminalSize> {
    let [rows, columns] = *sides? else { return None };
    let size = TerminalSize { rows: u16::try_from(rows).ok()?, columns: u16::try_from(columns).ok()? };
    Some(size).filter(|size| size.rows > 0 && size.columns > 0)
}

fn healthcheck(check: HealthConfig, shell: &[String]) -> Result<Option<Healthcheck>, CreationError> {
    let span = |field: &'static str, nanoseconds: Option<i64>| match nanoseconds {
        None | Some(0) => Ok(None),
        Some(nanoseconds) => match u64::try_from(nanoseconds) {
            Ok(nanoseconds) if nanoseconds >= 1_000_000 => Ok(Some(Duration::from_nanos(nanoseconds))),
            _ => Err(invalid(field, nanoseconds.to_string(), "it cannot be less than 1ms")),
        },
    };
    let mut test = check.test.unwrap_or_default();
    if let [kind, line] = test.as_slice()
        && kind == "CMD-SHELL"
        && !shell.is_empty()
    {
        let words = shell.iter().chain([line]).cloned();
        test = std::iter::once("CMD".to_owned()).chain(words).collect();
    }
    if let Some(kind) = test.first().filter(|kind| !["NONE", "CMD", "CMD-SHELL"].contains(&kind.as_str())) {
        return Err(invalid("Healthcheck.Test", kind, "expected `NONE`, `CMD` or `CMD-SHELL` first"));
    }
    let retries = match check.retries.unwrap_or(0) {
        0 => None,
        retries => Some(
            u32::try_from(retries)
                .map_err(|_| invalid("Healthcheck.Retries", retries.to_string(), "it cannot be negative"))?,
        ),
    };
    let made = Healthcheck {
        test,
        interval: span("Healthcheck.Interval", check.interval)?,
        timeout: span("Healthcheck.Timeout", check.timeout)?,
        retries,
        start_period: span("Healthcheck.StartPeriod", check.start_period)?,
        start_interval: span("Healthcheck.StartInterval", check.start_interval)?,
    };
    Ok(Some(made).filter(|made| *made != Healthcheck::default()))
}

/// Whether it is started again.
pub fn restart_policy(asked: &bollard_stubs::models::RestartPolicy) -> Result<RestartPolicy, CreationError> {
    let most = asked.maximum_retry_count.unwrap_or(0);
    let name = asked.name.unwrap_or(RestartPolicyNameEnum::EMPTY);
    let most = u32::try_from(most)
        .map_err(|_| CreationError::Rule("invalid restart policy: maximum retry count cannot be negative"))?;
    if most != 0 && name != RestartPolicyNameEnum::ON_FAILURE {
        return Err(CreationError::Rule(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'",
        ));
    }
    Ok(match name {
        RestartPolicyNameEnum::EMPTY | RestartPolicyNameEnum::NO => RestartPolicy::No,
        RestartPolicyNameEnum::ALWAYS => RestartPolicy::Always,
        RestartPolicyNameEnum::UNLESS_STOPPED => RestartPolicy::UnlessStopped,
        RestartPolicyNameEnum::ON_FAILURE => RestartPolicy::OnFailure { most },
    })
}

/// What a container that is there shall have differently, and what the client is told beside it. Of the world, only the host is
/// looked at.
pub fn decode_update(body: &[u8], now: &Resources, world: &World) -> Result<(ContainerChange, Vec<String>), ApiError> {
    let wrong = |error: serde_json::Error| ApiError::Body { problem: error.to_string() };
    let document: Value = serde_json::from_slice(body).map_err(wrong)?;
    check_words(&document)?;
    let older = OlderHostConfig::deserialize(&document).map_err(wrong)?;
    let host: HostConfig = serde_json::from_value(document).map_err(wrong)?;
    let restart = match &host.restart_policy {
        Some(policy) if policy.name.is_some_and(|name| name != RestartPolicyNameEnum::EMPTY) => {
            Some(restart_policy(policy)?)
        }
        _ => None,
    };
    let resources = resources::changed(&host, now, world)?;
    Ok((ContainerChange { resources: Some(resources).filter(|changed| changed != now), restart }, older.warnings()))
}

/// How it ends, and where its output goes.
fn lifetime(config: &mut ContainerConfig, body: &ContainerCreateBody, host: &HostConfig) -> Result<(), CreationError> {
    config.stop_grace = body.stop_timeout.map(|seconds| {
        // Negative is for ever.
        let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        Duration::from_secs(u64::from(seconds))
    });
    config.auto_remove = host.auto_remove.unwrap_or(false);
    config.init = host.init.unwrap_or(false);
    let restart = host.restart_policy.clone().unwrap_or_default();
    config.restart = restart_policy(&restart)?;
    if config.auto_remove && config.restart != RestartPolicy::No {
        return Err(CreationError::Rule("can't create 'AutoRemove' container with restart policy"));
    }
    let logging = host.log_config.clone().unwrap_or_default();
    config.logging = Logging { driver: nonempty(logging.typ), options: strings(logging.config), image_name: None };
    config.annotations = strings(host.annotations.clone());
    Ok(())
}

#[cfg(test)]
#[path = "create_tests.rs"]
mod tests;
