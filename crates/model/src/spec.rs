//! Pure. What a user wants. Written by the user through `stackfile`; nobody else edits it, except that the controller
//! that takes a deploy fills in [`Image::digest`].

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::files::{FileKind, FileReference, SharedFile};
use crate::id::Digest;
use crate::lifecycle::{Dependency, Hook};
use crate::limits::FineLimits;
use crate::name::{ServiceName, StackName};
use crate::time::Milliseconds;

/// One application: services, the volumes and the networks that they share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StackSpec {
    /// Unique in the cluster.
    pub name: StackName,
    /// By their keys in the stack file.
    pub services: BTreeMap<ServiceName, ServiceSpec>,
    /// By their keys in the stack file. A service on no network of its own is on `default`.
    #[serde(default)]
    pub networks: BTreeMap<String, NetworkSpec>,
    /// By their keys in the stack file.
    #[serde(default)]
    pub volumes: BTreeMap<String, VolumeSpec>,
    /// By their keys in the stack file.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, SharedFile>,
    /// By their keys in the stack file.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub configs: BTreeMap<String, SharedFile>,
}

impl StackSpec {
    /// Its secrets or its configs.
    #[must_use]
    pub const fn files(&self, kind: FileKind) -> &BTreeMap<String, SharedFile> {
        match kind {
            FileKind::Secret => &self.secrets,
            FileKind::Config => &self.configs,
        }
    }

    /// Its secrets or its configs, to be changed.
    pub const fn files_mut(&mut self, kind: FileKind) -> &mut BTreeMap<String, SharedFile> {
        match kind {
            FileKind::Secret => &mut self.secrets,
            FileKind::Config => &mut self.configs,
        }
    }
}

/// One service of a stack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    /// What each of its tasks runs.
    pub container: ContainerSpec,
    /// How many tasks.
    pub mode: ServiceMode,
    /// Where they may run.
    #[serde(default)]
    pub placement: Placement,
    /// What each may use, and what is kept free for it.
    #[serde(default)]
    pub resources: Resources,
    /// What the agent does when the container ends.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// How a changed spec reaches the tasks.
    #[serde(default)]
    pub update: UpdatePolicy,
    /// How a failed update is undone; `None`: as `update` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback: Option<UpdatePolicy>,
    /// The services of the stack that it needs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub depends_on: BTreeMap<ServiceName, Dependency>,
    /// Ports that the hosts publish.
    #[serde(default)]
    pub ports: Vec<PublishedPort>,
    /// The networks of the stack that its tasks are on, by key.
    #[serde(default)]
    pub networks: BTreeMap<String, NetworkAttachment>,
    /// How its name is resolved on its networks.
    #[serde(default)]
    pub endpoint_mode: EndpointMode,
    /// Whether one client, by its address, is sent to the same task as long as that serves.
    #[serde(default, skip_serializing_if = "is_false")]
    pub sticky: bool,
    /// Labels of the service itself (`deploy.labels`).
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// How a service's name is resolved on its networks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointMode {
    /// To one virtual address, balanced over the tasks that serve.
    #[default]
    Vip,
    /// To the addresses of the tasks that serve.
    Dnsrr,
}

/// How many tasks a service has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ServiceMode {
    /// So many, wherever they fit.
    Replicated {
        /// May be zero.
        replicas: u32,
    },
    /// One on every node that the constraints allow.
    Global,
}

/// An image: as the user wrote it, and what that meant when it was deployed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// As in the stack file: `nginx`, `registry.example:5000/team/app:1.2`, `app@sha256:…`.
    pub reference: String,
    /// Written by the controller that took the deploy. Tasks run exactly this.
    #[serde(default)]
    pub digest: Option<Digest>,
}

/// What a container runs and what surrounds it. `None` always means "as the image says, or the engine's default".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerSpec {
    /// The root file system and its defaults.
    pub image: Image,
    /// Replaces the image's entrypoint; an empty list removes it.
    #[serde(default)]
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's command.
    #[serde(default)]
    pub command: Option<Vec<String>>,
    /// Added to the image's environment.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Names that the image's environment sets and that shall not be set (`KEY:` without a value and none outside).
    #[serde(default)]
    pub environment_removed: Vec<String>,
    /// Labels of the container.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// `user`, `user:group`, `uid:gid`; names are looked up in the image.
    #[serde(default)]
    pub user: Option<String>,
    /// Further groups, by name or number.
    #[serde(default)]
    pub group_add: Vec<String>,
    /// Absolute, in the container.
    #[serde(default)]
    pub working_dir: Option<String>,
    /// The container's host name; the engine's default is the start of the container's id.
    #[serde(default)]
    pub hostname: Option<String>,
    /// The container's NIS domain name.
    #[serde(default)]
    pub domainname: Option<String>,
    /// Lines for `/etc/hosts`: name and address, in order.
    #[serde(default)]
    pub extra_hosts: Vec<(String, String)>,
    /// Name servers in place of the host's.
    #[serde(default)]
    pub dns: Vec<IpAddr>,
    /// Search domains in place of the host's.
    #[serde(default)]
    pub dns_search: Vec<String>,
    /// Resolver options in place of the host's.
    #[serde(default)]
    pub dns_options: Vec<String>,
    /// File systems in the container.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// Secrets of the stack.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<FileReference>,
    /// Configs of the stack.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub configs: Vec<FileReference>,
    /// The root file system is mounted read-only.
    #[serde(default)]
    pub read_only: bool,
    /// How many bytes it may write into its root file system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_size: Option<u64>,
    /// A small init process reaps orphans and passes signals on. `None`: as the engine is configured.
    #[serde(default)]
    pub init: Option<bool>,
    /// Another runtime that its host knows by this name; `None` is the hosts' own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// A terminal is allocated for the first process.
    #[serde(default)]
    pub tty: bool,
    /// Standard input stays open though nobody is attached.
    #[serde(default)]
    pub stdin_open: bool,
    /// The signal that asks it to end, `SIGTERM` unless the image says otherwise.
    #[serde(default)]
    pub stop_signal: Option<String>,
    /// How long it may take to end before it is killed; 10 s unless said otherwise.
    #[serde(default)]
    pub stop_grace_period: Option<Milliseconds>,
    /// Run in the container, one after the other, each time that it was started. It serves when they have ended; where one
    /// fails, it is stopped and started again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub post_start: Vec<Hook>,
    /// Run in the container, one after the other, before it is asked to end, within its grace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pre_stop: Vec<Hook>,
    /// Replaces the image's health check.
    #[serde(default)]
    pub healthcheck: Option<Healthcheck>,
    /// Capabilities beside the default ones, or `ALL`. Without the `CAP_` prefix.
    #[serde(default)]
    pub cap_add: Vec<String>,
    /// Default capabilities to go without, or `ALL`. Without the `CAP_` prefix.
    #[serde(default)]
    pub cap_drop: Vec<String>,
    /// All capabilities and devices, no seccomp, nothing masked.
    #[serde(default)]
    pub privileged: bool,
    /// A setuid program gains nothing (`security_opt: no-new-privileges`).
    #[serde(default)]
    pub no_new_privileges: bool,
    /// Which seccomp profile filters the system calls.
    #[serde(default)]
    pub seccomp: SeccompProfile,
    /// Which profile of AppArmor confines its processes.
    #[serde(default, skip_serializing_if = "AppArmorProfile::is_default")]
    pub apparmor: AppArmorProfile,
    /// What it asks for in place of the SELinux label that its host would give it.
    #[serde(default, skip_serializing_if = "SelinuxOptions::is_default")]
    pub selinux: SelinuxOptions,
    /// Nothing of `/proc` and `/sys` is hidden or kept from being written (`security_opt: systempaths=unconfined`).
    #[serde(default, skip_serializing_if = "is_false")]
    pub system_paths_unconfined: bool,
    /// Host devices.
    #[serde(default)]
    pub devices: Vec<DeviceMapping>,
    /// Devices that descriptions on the host say how to give (Container Device Interface): `vendor.com/class=name`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cdi_devices: Vec<String>,
    /// Devices that may be used if the container has or makes a node for them: `c 10:* rwm`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub device_cgroup_rules: Vec<String>,
    /// Resource limits of processes, by name without `RLIMIT_`, lower case: `nofile`.
    #[serde(default)]
    pub ulimits: BTreeMap<String, Ulimit>,
    /// Namespaced kernel parameters.
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
    /// Size of `/dev/shm` in bytes; 64 MiB unless said otherwise.
    #[serde(default)]
    pub shm_size: Option<u64>,
    /// From -1000 to 1000.
    #[serde(default)]
    pub oom_score_adj: Option<i32>,
    /// Which network namespace it has beside the named networks.
    #[serde(default)]
    pub network_mode: NetworkMode,
    /// Whether it sees the host's processes.
    #[serde(default)]
    pub pid_mode: NamespaceMode,
    /// Whether it shares the host's IPC objects.
    #[serde(default)]
    pub ipc_mode: NamespaceMode,
    /// Whether it has the host's name.
    #[serde(default, skip_serializing_if = "NamespaceMode::is_private")]
    pub uts_mode: NamespaceMode,
    /// Whether it sees the host's control groups.
    #[serde(default, skip_serializing_if = "NamespaceMode::is_private")]
    pub cgroup_mode: NamespaceMode,
    /// Whose users its users are.
    #[serde(default, skip_serializing_if = "UserNamespaceMode::is_default")]
    pub user_namespace: UserNamespaceMode,
    /// Limits and weights that nobody plans with.
    #[serde(default, skip_serializing_if = "FineLimits::is_empty")]
    pub limits: FineLimits,
    /// For tools; nothing here acts on them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Where its output goes.
    #[serde(default)]
    pub logging: Logging,
    /// When the image is looked for in its registry.
    #[serde(default)]
    pub pull_policy: PullPolicy,
}

impl ContainerSpec {
    /// Its secrets or its configs.
    #[must_use]
    pub fn files(&self, kind: FileKind) -> &[FileReference] {
        match kind {
            FileKind::Secret => &self.secrets,
            FileKind::Config => &self.configs,
        }
    }
}

/// Which seccomp profile filters a container's system calls.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SeccompProfile {
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
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum AppArmorProfile {
    /// The engine's own where the host has AppArmor, none for a privileged container.
    #[default]
    Default,
    /// None.
    Unconfined,
    /// The one of this name, which the host must have loaded.
    Named(String),
}

impl AppArmorProfile {
    fn is_default(&self) -> bool {
        *self == Self::Default
    }
}

/// What a container asks for in place of the SELinux label that its host would give it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SelinuxOptions {
    /// Its processes have no label of their own.
    #[serde(skip_serializing_if = "is_false")]
    pub disabled: bool,
    /// The user of its processes and files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The role of its processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// The type of its processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The level of its processes and files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
    /// The type of its files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_kind: Option<String>,
}

impl SelinuxOptions {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// For whom the files of a mount are labelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Relabel {
    /// For all containers of the host (`z`).
    Shared,
    /// For this container alone (`Z`).
    Private,
}

/// Which network namespace a container has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// Its own, attached to the networks of the service.
    #[default]
    Networks,
    /// Its own, with a loopback interface alone.
    None,
    /// The host's.
    Host,
}

/// Whether a container has its own namespace of some kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamespaceMode {
    /// Its own.
    #[default]
    Private,
    /// The host's.
    Host,
}

impl NamespaceMode {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    const fn is_private(&self) -> bool {
        matches!(self, Self::Private)
    }
}

/// Whose users those of a container are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UserNamespaceMode {
    /// As its host is set.
    #[default]
    Default,
    /// The host's: root in it is root.
    Host,
    /// Those of a user namespace: root in it is nobody in particular on the host.
    Private,
}

impl UserNamespaceMode {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    const fn is_default(&self) -> bool {
        matches!(self, Self::Default)
    }
}

/// When an image is looked for in its registry. What a host runs is the pinned digest in every case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PullPolicy {
    /// The host has it, or gets it.
    #[default]
    Missing,
    /// The registry resolves the tag at every deploy, even where hosts have an image by that name.
    Always,
    /// Only images that hosts have: no registry is asked, neither at the deploy nor by a host.
    Never,
}

/// One host device in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
#[serde(deny_unknown_fields)]
pub struct Ulimit {
    /// In force.
    pub soft: i64,
    /// To which a process may raise it.
    pub hard: i64,
}

/// One file system in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// Absolute, in the container.
    pub target: String,
    /// Mounted read-only.
    #[serde(default)]
    pub read_only: bool,
    /// What is mounted.
    pub source: MountSource,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum MountSource {
    /// A path of the host.
    Bind {
        /// Absolute, on the host that runs the task.
        path: String,
        /// Make a directory there if nothing is there.
        #[serde(default)]
        create_host_path: bool,
        /// `private`, `rprivate`, `shared`, `rshared`, `slave`, `rslave`; `rprivate` unless said otherwise.
        #[serde(default)]
        propagation: Option<String>,
        /// Without what is mounted below it.
        #[serde(default, skip_serializing_if = "is_false")]
        non_recursive: bool,
        /// Where it is read-only: what is mounted below it can be written to.
        #[serde(default, skip_serializing_if = "is_false")]
        writable_below: bool,
        /// On hosts with SELinux: its files get a label that containers may read and write.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        relabel: Option<Relabel>,
    },
    /// A named volume.
    Volume {
        /// A key of the stack's `volumes`; `None` is a volume of the container's own.
        name: Option<String>,
        /// Do not copy what the image has at the target into an empty volume.
        #[serde(default)]
        no_copy: bool,
        /// A directory within the volume.
        #[serde(default)]
        subpath: Option<String>,
        /// Labels of the volume, if the mount is what makes it.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        labels: BTreeMap<String, String>,
    },
    /// The files of an image, which cannot be written to.
    Image {
        /// Which.
        image: Image,
        /// A path within the image.
        #[serde(default, skip_serializing_if = "Option::is_none")]
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
        /// As mount(8) has them: `exec`, `uid=1000`. Without them it has no set-user-ID programs, devices nor programs.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        options: Vec<String>,
    },
}

impl ContainerSpec {
    /// The images that it needs: the one that it runs, then those that are mounted in it.
    pub fn images(&self) -> impl Iterator<Item = &Image> {
        std::iter::once(&self.image).chain(self.mounts.iter().filter_map(|mount| match &mount.source {
            MountSource::Image { image, .. } => Some(image),
            MountSource::Bind { .. } | MountSource::Volume { .. } | MountSource::Tmpfs { .. } => None,
        }))
    }

    /// The same, to be changed.
    pub fn images_mut(&mut self) -> impl Iterator<Item = &mut Image> {
        std::iter::once(&mut self.image).chain(self.mounts.iter_mut().filter_map(|mount| match &mut mount.source {
            MountSource::Image { image, .. } => Some(image),
            MountSource::Bind { .. } | MountSource::Volume { .. } | MountSource::Tmpfs { .. } => None,
        }))
    }
}

/// How a container's health is found out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Healthcheck {
    /// `NONE` disables the image's; `CMD` and arguments; `CMD-SHELL` and one shell line. Empty: the image's test.
    pub test: Vec<String>,
    /// Between two probes; 30 s unless said otherwise.
    #[serde(default)]
    pub interval: Option<Milliseconds>,
    /// After which a probe has failed; 30 s unless said otherwise.
    #[serde(default)]
    pub timeout: Option<Milliseconds>,
    /// So many failures in a row make it unhealthy; 3 unless said otherwise.
    #[serde(default)]
    pub retries: Option<u32>,
    /// Failures in this time after the start do not count; none unless said otherwise.
    #[serde(default)]
    pub start_period: Option<Milliseconds>,
    /// Between two probes in the start period; 5 s unless said otherwise.
    #[serde(default)]
    pub start_interval: Option<Milliseconds>,
}

/// Where a container's output goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logging {
    /// `None`: the engine's default, `local`. The engine names those that it has.
    #[serde(default)]
    pub driver: Option<String>,
    /// The driver's options, as Docker has them.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

/// Where tasks may run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Placement {
    /// All must hold.
    #[serde(default)]
    pub constraints: Vec<Constraint>,
    /// Spread evenly over the values of these node attributes, the first one first (`node.labels.zone`).
    #[serde(default)]
    pub spread: Vec<String>,
    /// At most so many tasks of the service on one node.
    #[serde(default)]
    pub max_replicas_per_node: Option<u32>,
}

/// One condition on a node: `node.role == controller`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Constraint {
    /// `node.id`, `node.hostname`, `node.ip`, `node.role`, `node.platform.os`, `node.platform.arch`, `node.labels.KEY`,
    /// `engine.labels.KEY`.
    pub attribute: String,
    /// True: must be equal. False: must differ.
    pub equal: bool,
    /// Compared without regard to case, as Swarm does.
    pub value: String,
}

/// What each task may use, and what is kept free for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Processors that it may use, in thousandths of one.
    #[serde(default)]
    pub cpu_limit_millis: Option<u64>,
    /// Memory that it may use, in bytes.
    #[serde(default)]
    pub memory_limit_bytes: Option<u64>,
    /// Processes and threads that it may have.
    #[serde(default)]
    pub pids_limit: Option<u64>,
    /// Processors that its node keeps free for it, in thousandths of one.
    #[serde(default)]
    pub cpu_reservation_millis: u64,
    /// Memory that its node keeps free for it, in bytes.
    #[serde(default)]
    pub memory_reservation_bytes: u64,
}

/// What the agent does when a container ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestartPolicy {
    /// After which ends it is started again.
    pub condition: RestartCondition,
    /// The least time between an end and the next start. `None`: at once, then growing (100 ms doubling to 60 s).
    #[serde(default)]
    pub delay: Option<Milliseconds>,
    /// So many restarts within `window`; then the task has failed. `None`: no limit.
    #[serde(default)]
    pub max_attempts: Option<u32>,
    /// `None`: all restarts of the task count. Docker's meaning: attempts are counted in this time.
    #[serde(default)]
    pub window: Option<Milliseconds>,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self { condition: RestartCondition::Any, delay: None, max_attempts: None, window: None }
    }
}

/// After which ends a container is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartCondition {
    /// Never.
    None,
    /// After an exit code other than 0, a signal, or an unhealthy verdict.
    OnFailure,
    /// Always.
    #[default]
    Any,
}

/// How a changed spec reaches the tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdatePolicy {
    /// So many tasks are replaced at once; 0 is all of them.
    pub parallelism: u32,
    /// Between one batch and the next.
    #[serde(default)]
    pub delay: Milliseconds,
    /// Which of the old and the new task comes first.
    #[serde(default)]
    pub order: UpdateOrder,
    /// What happens when more than `max_failure_ratio_permille` of the new tasks fail.
    #[serde(default)]
    pub failure_action: FailureAction,
    /// A new task that fails within this time after it was ready counts as failed.
    #[serde(default = "default_monitor")]
    pub monitor: Milliseconds,
    /// In thousandths, so that it compares exactly.
    #[serde(default)]
    pub max_failure_ratio_permille: u32,
}

const fn default_monitor() -> Milliseconds {
    Milliseconds::from_seconds(5)
}

impl Default for UpdatePolicy {
    fn default() -> Self {
        Self {
            parallelism: 1,
            delay: Milliseconds(0),
            order: UpdateOrder::default(),
            failure_action: FailureAction::default(),
            monitor: default_monitor(),
            max_failure_ratio_permille: 0,
        }
    }
}

/// Which of the old and the new task comes first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpdateOrder {
    /// The old one ends, then the new one starts.
    #[default]
    StopFirst,
    /// The new one is ready, then the old one ends.
    StartFirst,
}

/// What happens when too many new tasks fail.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureAction {
    /// The update stops where it is.
    #[default]
    Pause,
    /// The update goes on.
    Continue,
    /// The service returns to the spec it had before.
    Rollback,
}

/// One port that hosts publish.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedPort {
    /// In the container.
    pub target: u16,
    /// On the host; `None`: a free one of `published_within`, drawn when the stack is deployed.
    #[serde(default)]
    pub published: Option<u16>,
    /// The first and the last port of the hosts of which one was asked for; `None`: 30000 to 32767.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published_within: Option<(u16, u16)>,
    /// Which protocol.
    #[serde(default)]
    pub protocol: Protocol,
    /// Whether each task owns the port on its host.
    #[serde(default)]
    pub mode: PublishMode,
    /// Only on this address of the host; `None`: on all.
    #[serde(default)]
    pub host_ip: Option<IpAddr>,
    /// Connections begin with a header of the PROXY protocol, version 2, which says who asks. TCP only.
    #[serde(default, skip_serializing_if = "is_false")]
    pub proxy_protocol: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
pub(crate) const fn is_false(value: &bool) -> bool {
    !*value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(value: &i64) -> bool {
    *value == 0
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// `tcp`, `udp`, `sctp`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// Whether each task owns a published port on its host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PublishMode {
    /// All tasks of the service on a host share it.
    #[default]
    Ingress,
    /// One task per host has it; the planner places no second one there.
    Host,
}

/// How a service is on one network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkAttachment {
    /// Further names of the service there.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// The address of its only task there, in the network's IPv4 subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    /// The address of its only task there, in the network's IPv6 subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6_address: Option<Ipv6Addr>,
    /// The name of the interface in the container; `None`: `eth` and a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface_name: Option<String>,
    /// Networks with more come first: interfaces are numbered in that order.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: i64,
    /// Of the networks that lead outside, that with most has the default route.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gateway_priority: i64,
}

/// One network of a stack.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// The name in the cluster; `STACK_KEY` unless said otherwise.
    #[serde(default)]
    pub name: Option<String>,
    /// Labels of the network.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// It exists without this stack; a deploy is refused where it does not.
    #[serde(default)]
    pub external: bool,
    /// No way out of it, and nothing on it is published.
    #[serde(default)]
    pub internal: bool,
    /// Containers that are no tasks may be on it too.
    #[serde(default)]
    pub attachable: bool,
    /// Whether what leaves a host is encrypted; `None`: as the cluster does it where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypted: Option<bool>,
    /// It has no IPv4 subnet; then it has an IPv6 one, whatever is said of that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub without_ipv4: bool,
    /// It has an IPv6 subnet.
    #[serde(default)]
    pub ipv6: bool,
    /// Of the containers' interfaces, in bytes; `None`: what fits between the hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// At most one of each family; a family without one takes it from the cluster's pool.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subnets: Vec<IpNet>,
}

/// One named volume of a stack.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeSpec {
    /// The name on the hosts; `STACK_KEY` unless said otherwise.
    #[serde(default)]
    pub name: Option<String>,
    /// `None`: `local`.
    #[serde(default)]
    pub driver: Option<String>,
    /// The driver's options.
    #[serde(default)]
    pub driver_options: BTreeMap<String, String>,
    /// Labels of the volume.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Made by somebody else: a host without it cannot run the task.
    #[serde(default)]
    pub external: bool,
}
