//! Pure. What a caller asks of a container, and what an image says about itself.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

pub use stack_shim::protocol::TerminalSize;

use super::restart::RestartPolicy;
use crate::network::{NetworkEndpoint, PortBinding};
use crate::overlay::OverlayEndpoint;
use crate::selinux::{Relabel, SelinuxOptions};
use crate::volume::VolumeDescription;

/// The identifier of a container on its host: 1 to 64 letters, digits, `_` and `-`, a letter or digit first. It is
/// the name of its directories, and the container's address in every call.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ContainerId(String);

/// A text that is no container's identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` cannot be the id of a container: expected 1 to 64 letters, digits, `_` and `-`, a letter or digit first"
)]
pub struct ContainerIdError {
    /// What was given, at most 80 characters of it.
    pub text: String,
}

impl ContainerId {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.0)
    }
}

impl FromStr for ContainerId {
    type Err = ContainerIdError;

    fn from_str(text: &str) -> Result<Self, ContainerIdError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        let fits =
            (1..=64).contains(&text.len()) && text.as_bytes()[0].is_ascii_alphanumeric() && text.bytes().all(plain);
        if fits { Ok(Self(text.to_owned())) } else { Err(ContainerIdError { text: text.chars().take(80).collect() }) }
    }
}

impl<'de> Deserialize<'de> for ContainerId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What an image says about its containers (OCI image specification, `config`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageDefaults {
    /// Put before the command.
    pub entrypoint: Vec<String>,
    /// The command, or the entrypoint's arguments.
    pub command: Vec<String>,
    /// `KEY=value`.
    pub environment: Vec<String>,
    /// As in [`ContainerConfig::user`].
    pub user: String,
    /// Absolute; empty is `/`.
    pub working_dir: String,
    /// Paths that shall be volumes.
    pub volumes: Vec<String>,
    /// A name or number.
    pub stop_signal: Option<String>,
    /// How its health is found out.
    pub healthcheck: Option<Healthcheck>,
    /// Labels, which its containers inherit.
    pub labels: BTreeMap<String, String>,
}

/// What a container runs and what surrounds it. `None` always means "as the image says, or the engine's default".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerConfig {
    /// A reference or a digest that the engine's images know.
    pub image: String,
    /// For people; the id unless said otherwise.
    pub name: Option<String>,
    /// Replaces the image's entrypoint; an empty list removes it.
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's command.
    pub command: Option<Vec<String>>,
    /// Added to the image's environment.
    pub environment: BTreeMap<String, String>,
    /// Names that the image sets and that shall not be set.
    pub environment_removed: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// `user`, `user:group`, `uid:gid`; names are looked up in the image.
    pub user: Option<String>,
    /// Further groups, by name or number.
    pub group_add: Vec<String>,
    /// Absolute, in the container.
    pub working_dir: Option<String>,
    /// The first twelve characters of the id unless said otherwise.
    pub hostname: Option<String>,
    /// The NIS domain name.
    pub domainname: Option<String>,
    /// Lines for `/etc/hosts`: name and address; `host-gateway` stands for the host.
    pub extra_hosts: Vec<(String, String)>,
    /// Name servers in place of the host's.
    pub dns: Vec<IpAddr>,
    /// Search domains in place of the host's.
    pub dns_search: Vec<String>,
    /// Resolver options in place of the host's.
    pub dns_options: Vec<String>,
    /// File systems in the container.
    pub mounts: Vec<ContainerMount>,
    /// What the volumes of its own are made with, by their targets.
    pub own_volumes: BTreeMap<String, VolumeDescription>,
    /// The root file system is read-only.
    pub read_only: bool,
    /// How many bytes it may write into its root file system, where the file system of the host can limit that.
    pub storage_size: Option<u64>,
    /// A small init process reaps orphans and passes signals on.
    pub init: bool,
    /// A terminal is allocated for the first process.
    pub tty: bool,
    /// Standard input stays open though nobody is attached.
    pub stdin_open: bool,
    /// Standard input ends with the first client that was attached to it.
    pub stdin_once: bool,
    /// Of the terminal at the start.
    pub terminal_size: Option<TerminalSize>,
    /// It is removed, with the volumes that are its own, when it has ended.
    pub auto_remove: bool,
    /// Whether it is started again when it has ended. Not together with `auto_remove`.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// A name or number; the image's, or `SIGTERM`.
    pub stop_signal: Option<String>,
    /// How long it may take to end before it is killed; 10 s unless said otherwise.
    pub stop_grace: Option<Duration>,
    /// Replaces or adjusts the image's.
    pub healthcheck: Option<Healthcheck>,
    /// Capabilities beside the default ones, or `ALL`.
    pub cap_add: Vec<String>,
    /// Default capabilities to go without, or `ALL`.
    pub cap_drop: Vec<String>,
    /// All capabilities and devices, no seccomp, nothing masked.
    pub privileged: bool,
    /// A setuid program gains nothing.
    pub no_new_privileges: bool,
    /// Which seccomp profile filters its system calls.
    pub seccomp: SeccompChoice,
    /// Which profile of AppArmor confines its processes.
    pub apparmor: AppArmorChoice,
    /// What it asks for in place of the SELinux label that it would get.
    #[serde(skip_serializing_if = "SelinuxOptions::is_default")]
    pub selinux: SelinuxOptions,
    /// Paths that must not be seen, in place of the usual ones.
    pub masked_paths: Option<Vec<String>>,
    /// Paths that must not be written, in place of the usual ones.
    pub read_only_paths: Option<Vec<String>>,
    /// Host devices.
    pub devices: Vec<DeviceMapping>,
    /// Devices that descriptions on the host say how to give (Container Device Interface): `vendor.com/class=name`.
    pub cdi_devices: Vec<String>,
    /// Devices that may be used if the container has or makes a node for them: `c 10:* rwm`.
    pub device_cgroup_rules: Vec<String>,
    /// Resource limits of processes, by name without `RLIMIT_`, lower case: `nofile`.
    pub ulimits: BTreeMap<String, Ulimit>,
    /// Namespaced kernel parameters.
    pub sysctls: BTreeMap<String, String>,
    /// Size of `/dev/shm` in bytes; 64 MiB unless said otherwise.
    pub shm_size: Option<u64>,
    /// From -1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// Which network namespace it has.
    pub network_mode: NetworkMode,
    /// Networks to be on, when the mode is [`NetworkMode::Networks`].
    pub networks: Vec<NetworkEndpoint>,
    /// Interfaces on networks between hosts, when the mode is [`NetworkMode::Networks`]. Where there are any, they publish
    /// its ports too.
    pub overlays: Vec<OverlayEndpoint>,
    /// The stack whose names are meant where several have a name on its networks.
    pub name_scope: Option<String>,
    /// Published ports.
    pub ports: Vec<PortBinding>,
    /// Ports that it says it serves, `80/tcp`, beside the image's. They publish nothing.
    pub exposed_ports: Vec<String>,
    /// Other containers whose addresses at the start it finds in its `/etc/hosts`, and by which names.
    pub links: Vec<(ContainerId, String)>,
    /// Whether it sees the host's processes.
    pub pid_mode: NamespaceMode,
    /// Whether it shares the host's IPC objects.
    pub ipc_mode: NamespaceMode,
    /// There is no `/dev/shm`.
    pub without_shm: bool,
    /// Whether it has the host's name.
    pub uts_mode: NamespaceMode,
    /// Whether it sees the host's control groups.
    pub cgroup_mode: NamespaceMode,
    /// Another runtime that the engine's configuration names; `None` is the engine's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// A control group that its own is below, beside the engine's limits. Absolute: below the root of the hierarchies where
    /// systemd does not keep them; else, and relative, below the group that the engine has for containers.
    pub cgroup_parent: Option<String>,
    /// Whose users its users are.
    pub user_namespace: UserNamespaceMode,
    /// For tools: handed through, without effect here.
    pub annotations: BTreeMap<String, String>,
    /// Where its output goes.
    pub logging: Logging,
    /// What it may use of the host.
    pub resources: Resources,
}

/// What a container may use of its host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Processors, in thousandths of one.
    pub cpu_limit_millis: Option<u64>,
    /// Weight against others, from 2 to 262144; 1024 is the usual one.
    pub cpu_shares: Option<u64>,
    /// Processors by number: `0-2,5`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes by number.
    pub cpuset_mems: Option<String>,
    /// Memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// Memory that it is left with when the host runs short, in bytes.
    pub memory_reservation_bytes: Option<u64>,
    /// Memory and swap together, in bytes; twice the memory unless said otherwise. `u64::MAX` is no limit.
    pub memory_and_swap_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Processor time in each period, in microseconds. Not beside `cpu_limit_millis`.
    pub cpu_quota_us: Option<u64>,
    /// That period, in microseconds; 100000 unless said otherwise.
    pub cpu_period_us: Option<u64>,
    /// Time for real-time processes in each period, in microseconds. Version 1 only.
    pub cpu_realtime_runtime_us: Option<u64>,
    /// That period, in microseconds; 1000000 unless said otherwise.
    pub cpu_realtime_period_us: Option<u64>,
    /// How readily memory is swapped out, from 0 to 100. Version 1 only.
    pub swappiness: Option<u64>,
    /// Wait for memory in place of being killed. Version 1 only.
    pub oom_kill_disable: bool,
    /// Weight of block device access against others, from 10 to 1000.
    pub blkio_weight: Option<u16>,
    /// The same for single block devices.
    pub blkio_device_weights: Vec<BlkioWeight>,
    /// Limits of access to single block devices.
    pub blkio_throttles: Vec<BlkioThrottle>,
}

/// The weight of access to one block device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlkioWeight {
    /// On the host: `/dev/sda`.
    pub device: String,
    /// From 10 to 1000.
    pub weight: u16,
}

/// The most that a container may do with one block device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlkioThrottle {
    /// On the host: `/dev/sda`.
    pub device: String,
    /// What is limited.
    pub what: BlkioLimit,
    /// So much in a second.
    pub rate: u64,
}

/// What of the access to a block device is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlkioLimit {
    /// Bytes read.
    ReadBytes,
    /// Bytes written.
    WriteBytes,
    /// Operations that read.
    ReadOperations,
    /// Operations that write.
    WriteOperations,
}

/// Which seccomp profile filters a container's system calls.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeccompChoice {
    /// Docker's default profile.
    #[default]
    Default,
    /// None.
    Unconfined,
    /// A profile in Docker's JSON form.
    Custom(String),
}

/// Which profile of AppArmor confines a container's processes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AppArmorChoice {
    /// The engine's own where the host has AppArmor, none for a privileged container.
    #[default]
    Default,
    /// None.
    Unconfined,
    /// The one of this name, which the host must have. Docker's default is understood as the engine's own.
    Profile(String),
}

/// Which network namespace a container has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// Its own, attached to the networks named.
    #[default]
    Networks,
    /// Its own, with a loopback interface alone.
    None,
    /// The host's.
    Host,
    /// That of another container, which must run when this one starts.
    Container(ContainerId),
}

/// Whether a container has its own namespace of some kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamespaceMode {
    /// Its own.
    #[default]
    Private,
    /// The host's.
    Host,
    /// That of another container, which must run when this one starts. Not for names and control groups.
    Container(ContainerId),
}

/// Whose users those of a container are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UserNamespaceMode {
    /// As the engine is set.
    #[default]
    Default,
    /// The host's: root in it is root.
    Host,
    /// Those of a user namespace: root in it is nobody in particular on the host.
    Private,
}

/// One host device in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceMapping {
    /// On the host.
    pub source: String,
    /// In the container.
    pub target: String,
    /// Any of `r`, `w`, `m`.
    pub permissions: String,
}

/// A soft and a hard limit; -1 is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// In force.
    pub soft: i64,
    /// To which a process may raise it.
    pub hard: i64,
}

/// One file system in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerMount {
    /// Absolute, in the container.
    pub target: String,
    /// Mounted read-only.
    #[serde(default)]
    pub read_only: bool,
    /// Where containers are labelled for SELinux: what its files get the label of. Unless said otherwise volumes are
    /// shared, and everything else is left as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relabel: Option<Relabel>,
    /// What is mounted.
    pub source: ContainerMountSource,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerMountSource {
    /// A path of the host.
    Bind {
        /// Absolute.
        path: PathBuf,
        /// Make a directory there if nothing is there.
        #[serde(default)]
        create_host_path: bool,
        /// `private`, `rprivate`, `shared`, `rshared`, `slave`, `rslave`; `rprivate` unless said otherwise.
        #[serde(default)]
        propagation: Option<String>,
        /// Without the mounts below it.
        #[serde(default)]
        non_recursive: bool,
        /// Where it is read-only: what is mounted below it can be written to.
        #[serde(default)]
        writable_below: bool,
        /// Where the container has a user namespace, its files belong in it to whom they belong here. Otherwise they belong
        /// to nobody there, as with Docker.
        #[serde(default)]
        mapped: bool,
    },
    /// A volume.
    Volume {
        /// Its name; `None` is a volume of the container's own, removed with it.
        name: Option<String>,
        /// Do not copy what the image has at the target into an empty volume.
        #[serde(default)]
        no_copy: bool,
        /// A directory within the volume.
        #[serde(default)]
        subpath: Option<String>,
    },
    /// The files of an image, which cannot be written to.
    Image {
        /// A reference or a digest that the engine's images know.
        reference: String,
        /// A path within the image.
        #[serde(default)]
        subpath: Option<String>,
    },
    /// Memory.
    Tmpfs {
        /// In bytes; half of the memory unless said otherwise.
        #[serde(default)]
        size: Option<u64>,
        /// Of the root directory; 0o1777 unless said otherwise.
        #[serde(default)]
        mode: Option<u32>,
        /// As mount(8) has them: `noexec`, `exec`, `uid=1000`. Unless they say otherwise it has no set-user-ID programs,
        /// devices nor programs at all.
        #[serde(default)]
        options: Vec<String>,
    },
}

/// How a container's health is found out. Fields that are `None` are the image's, or the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Healthcheck {
    /// `NONE` disables; `CMD` and arguments; `CMD-SHELL` and one shell line. Empty: the image's test.
    pub test: Vec<String>,
    /// Between two probes; 30 s.
    pub interval: Option<Duration>,
    /// After which a probe has failed; 30 s.
    pub timeout: Option<Duration>,
    /// So many failures in a row make it unhealthy; 3.
    pub retries: Option<u32>,
    /// Failures in this time after the start do not count; none.
    pub start_period: Option<Duration>,
    /// Between two probes in the start period; 5 s.
    pub start_interval: Option<Duration>,
}

/// Where a container's output goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Logging {
    /// `local`, `json-file`, `none`, `syslog`, `journald`, `fluentd` or `gelf`; `local` unless said otherwise.
    pub driver: Option<String>,
    /// As Docker has them for the driver.
    pub options: BTreeMap<String, String>,
    /// The image as people call it, for the drivers that tell it, where the container's is a digest.
    pub image_name: Option<String>,
}

impl Logging {
    /// Whether a container's log can be read on this host: false where its options say that the files are for sending alone. The
    /// log of the driver `none` is empty.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        // Options that make no sense are told by the start.
        crate::logs::options::decide(self).map_or(true, |plan| plan.files.is_none() || plan.readable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_plain_file_name() {
        for good in ["a", "web-1_x", "0123456789abcdef"] {
            assert_eq!(good.parse::<ContainerId>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "../x", "a/b", "-x", "a b", "a.b", &"x".repeat(65), "ä"] {
            assert!(bad.parse::<ContainerId>().is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<ContainerId>("\"../x\"").is_err());
    }
}
