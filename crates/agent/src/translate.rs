//! Pure. A task in the engine's words.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use stack_engine::container::{
    AppArmorChoice, BlkioLimit, BlkioThrottle, BlkioWeight, ContainerConfig, ContainerMount, ContainerMountSource,
    DeviceMapping, Healthcheck, Logging, NamespaceMode, NetworkMode, Resources, SeccompChoice, Ulimit,
    UserNamespaceMode,
};
use stack_engine::network::{PortBinding, Protocol};
use stack_engine::selinux::{Relabel, SelinuxOptions};
use stack_model::limits::{BlockLimitKind, FineLimits};
use stack_model::spec::{self, MountSource, PublishMode};
use stack_model::{AssignedNetwork, AssignedTask, NodeId, Slot, TaskId};

use crate::files;
use crate::overlay;
use crate::placeholders::Placeholders;

/// The label that names the task a container was made for. What has it belongs to the agent.
pub const TASK_LABEL: &str = "stack.task";

/// Where a task runs.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The node.
    pub node: NodeId,
    /// Its own name.
    pub node_name: &'a str,
    /// The networks that it is on.
    pub networks: &'a BTreeMap<String, AssignedNetwork>,
    /// Where the files of the host's tasks are.
    pub files: &'a Path,
}

/// A text with the placeholders of a task filled in.
#[must_use]
pub fn filled(text: &str, task: TaskId, assigned: &AssignedTask, place: Place<'_>) -> String {
    let name = container_name(task, assigned);
    Placeholders { task, assigned, node: place.node, node_name: place.node_name, task_name: &name }.fill(text)
}

/// The container of a task. The image is named by the digest that the task is pinned to.
#[must_use]
pub fn container_config(task: TaskId, assigned: &AssignedTask, place: Place<'_>) -> ContainerConfig {
    let container = &assigned.spec.container;
    let name = container_name(task, assigned);
    let placeholders = Placeholders { task, assigned, node: place.node, node_name: place.node_name, task_name: &name };
    let fill = |text: &String| placeholders.fill(text);
    let image = pinned(&container.image);
    let mut labels: BTreeMap<String, String> =
        container.labels.iter().map(|(key, value)| (key.clone(), fill(value))).collect();
    labels.extend(own_labels(task, assigned));
    ContainerConfig {
        image,
        name: Some(name.clone()),
        entrypoint: container.entrypoint.clone(),
        command: container.command.clone(),
        environment: container.environment.iter().map(|(key, value)| (key.clone(), fill(value))).collect(),
        environment_removed: container.environment_removed.clone(),
        labels,
        user: container.user.clone(),
        group_add: container.group_add.clone(),
        working_dir: container.working_dir.clone(),
        hostname: container.hostname.as_ref().map(fill),
        domainname: container.domainname.clone(),
        extra_hosts: container.extra_hosts.clone(),
        dns: container.dns.clone(),
        dns_search: container.dns_search.clone(),
        dns_options: container.dns_options.clone(),
        mounts: container
            .mounts
            .iter()
            .map(|mount| container_mount(mount, &assigned.spec.volumes, &fill))
            .chain(file_mounts(task, assigned, place))
            .collect(),
        read_only: container.read_only,
        storage_size: container.storage_size,
        init: container.init.unwrap_or(false),
        runtime: container.runtime.clone(),
        tty: container.tty,
        stdin_open: container.stdin_open,
        stop_signal: container.stop_signal.clone(),
        stop_grace: container.stop_grace_period.map(stack_model::Milliseconds::to_duration),
        healthcheck: container.healthcheck.as_ref().map(healthcheck),
        cap_add: container.cap_add.clone(),
        cap_drop: container.cap_drop.clone(),
        privileged: container.privileged,
        no_new_privileges: container.no_new_privileges,
        seccomp: match &container.seccomp {
            spec::SeccompProfile::Default => SeccompChoice::Default,
            spec::SeccompProfile::Unconfined => SeccompChoice::Unconfined,
            spec::SeccompProfile::Custom(profile) => SeccompChoice::Custom(profile.clone()),
        },
        apparmor: match &container.apparmor {
            spec::AppArmorProfile::Default => AppArmorChoice::Default,
            spec::AppArmorProfile::Unconfined => AppArmorChoice::Unconfined,
            spec::AppArmorProfile::Named(name) => AppArmorChoice::Profile(name.clone()),
        },
        selinux: SelinuxOptions {
            disabled: container.selinux.disabled,
            user: container.selinux.user.clone(),
            role: container.selinux.role.clone(),
            kind: container.selinux.kind.clone(),
            level: container.selinux.level.clone(),
            file_kind: container.selinux.file_kind.clone(),
        },
        devices: container
            .devices
            .iter()
            .map(|device| DeviceMapping {
                source: device.source.clone(),
                target: device.target.clone(),
                permissions: device.permissions.clone(),
            })
            .collect(),
        cdi_devices: container.cdi_devices.clone(),
        device_cgroup_rules: container.device_cgroup_rules.clone(),
        masked_paths: container.system_paths_unconfined.then(Vec::new),
        read_only_paths: container.system_paths_unconfined.then(Vec::new),
        ulimits: container
            .ulimits
            .iter()
            .map(|(name, limit)| (name.clone(), Ulimit { soft: limit.soft, hard: limit.hard }))
            .collect(),
        sysctls: container.sysctls.clone(),
        shm_size: container.shm_size,
        oom_score_adj: container.oom_score_adj,
        network_mode: match container.network_mode {
            spec::NetworkMode::Networks => NetworkMode::Networks,
            spec::NetworkMode::None => NetworkMode::None,
            spec::NetworkMode::Host => NetworkMode::Host,
        },
        networks: Vec::new(),
        name_scope: Some(assigned.service.stack.to_string()),
        overlays: overlay::endpoints(assigned, place.networks),
        ports: assigned.spec.ports.iter().map(port_binding).collect(),
        pid_mode: namespace_mode(container.pid_mode),
        ipc_mode: namespace_mode(container.ipc_mode),
        uts_mode: namespace_mode(container.uts_mode),
        cgroup_mode: namespace_mode(container.cgroup_mode),
        user_namespace: match container.user_namespace {
            spec::UserNamespaceMode::Default => UserNamespaceMode::Default,
            spec::UserNamespaceMode::Host => UserNamespaceMode::Host,
            spec::UserNamespaceMode::Private => UserNamespaceMode::Private,
        },
        annotations: container.annotations.clone(),
        logging: Logging {
            driver: container.logging.driver.clone(),
            options: container.logging.options.clone(),
            image_name: container.image.digest.is_some().then(|| container.image.reference.clone()),
        },
        resources: resources(&assigned.spec.resources, &container.limits),
        ..ContainerConfig::default()
    }
}

/// The names on the host of the task's volumes that somebody else must have made.
#[must_use]
pub fn external_volumes(task: TaskId, assigned: &AssignedTask, place: Place<'_>) -> BTreeSet<String> {
    let name = container_name(task, assigned);
    let placeholders = Placeholders { task, assigned, node: place.node, node_name: place.node_name, task_name: &name };
    let volumes = assigned.spec.volumes.iter().filter(|(_, volume)| volume.external);
    volumes.map(|(key, volume)| placeholders.fill(volume.name.as_ref().unwrap_or(key))).collect()
}

/// A volume that is made with more than a name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DescribedVolume {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What is mounted there, in the words of Docker's local driver; none: a directory of the host.
    pub options: BTreeMap<String, String>,
}

/// The task's own volumes that have labels or options, by their names on the host: they are made before the container.
#[must_use]
pub fn described_volumes(task: TaskId, assigned: &AssignedTask, place: Place<'_>) -> BTreeMap<String, DescribedVolume> {
    let name = container_name(task, assigned);
    let placeholders = Placeholders { task, assigned, node: place.node, node_name: place.node_name, task_name: &name };
    let mut volumes = BTreeMap::new();
    for mount in &assigned.spec.container.mounts {
        let MountSource::Volume { name: Some(key), labels, .. } = &mount.source else { continue };
        let Some(volume) = assigned.spec.volumes.get(key).filter(|volume| !volume.external) else { continue };
        let mut described = DescribedVolume { labels: volume.labels.clone(), options: volume.driver_options.clone() };
        described.labels.extend(labels.clone());
        if described != DescribedVolume::default() {
            volumes.insert(placeholders.fill(volume.name.as_ref().unwrap_or(key)), described);
        }
    }
    volumes
}

/// What an image is called on the host: by the digest that it is pinned to.
fn pinned(image: &spec::Image) -> String {
    image.digest.as_ref().map_or_else(|| image.reference.clone(), ToString::to_string)
}

/// What the container is called on its host: `shop_web.1.` and the task's id.
pub(crate) fn container_name(task: TaskId, assigned: &AssignedTask) -> String {
    let key = &assigned.service;
    match assigned.slot {
        Slot::Replica(number) => format!("{}_{}.{number}.{task}", key.stack, key.service),
        Slot::Node(_) => format!("{}_{}.{task}", key.stack, key.service),
    }
}

fn own_labels(task: TaskId, assigned: &AssignedTask) -> BTreeMap<String, String> {
    let key = &assigned.service;
    BTreeMap::from([
        (TASK_LABEL.to_owned(), task.to_string()),
        ("stack.stack".to_owned(), key.stack.to_string()),
        ("stack.service".to_owned(), key.service.to_string()),
        ("stack.slot".to_owned(), assigned.slot.to_string()),
    ])
}

/// Secrets and configs, each as a mount of its own.
fn file_mounts(task: TaskId, assigned: &AssignedTask, place: Place<'_>) -> impl Iterator<Item = ContainerMount> {
    assigned.spec.files.iter().enumerate().map(move |(index, file)| ContainerMount {
        // Nobody else on the host has a use for it.
        relabel: Some(Relabel::Private),
        target: file.reference.target.clone(),
        read_only: true,
        source: ContainerMountSource::Bind {
            path: files::path(place.files, task, index),
            create_host_path: false,
            propagation: None,
            non_recursive: false,
            writable_below: false,
            mapped: true,
        },
    })
}

fn container_mount(
    mount: &spec::Mount,
    volumes: &BTreeMap<String, spec::VolumeSpec>,
    fill: &dyn Fn(&String) -> String,
) -> ContainerMount {
    let relabel = match &mount.source {
        MountSource::Bind { relabel: Some(spec::Relabel::Shared), .. } => Some(Relabel::Shared),
        MountSource::Bind { relabel: Some(spec::Relabel::Private), .. } => Some(Relabel::Private),
        MountSource::Bind { relabel: None, .. }
        | MountSource::Volume { .. }
        | MountSource::Image { .. }
        | MountSource::Tmpfs { .. } => None,
    };
    let source = match &mount.source {
        MountSource::Bind { path, create_host_path, propagation, non_recursive, writable_below, relabel: _ } => {
            ContainerMountSource::Bind {
                path: fill(path).into(),
                create_host_path: *create_host_path,
                propagation: propagation.clone(),
                non_recursive: *non_recursive,
                writable_below: *writable_below,
                mapped: false,
            }
        }
        MountSource::Volume { name, no_copy, subpath, labels: _ } => ContainerMountSource::Volume {
            // The planner wrote the full name of every named volume into the task.
            name: name
                .as_ref()
                .map(|key| fill(volumes.get(key).and_then(|volume| volume.name.as_ref()).unwrap_or(key))),
            no_copy: *no_copy,
            subpath: subpath.clone(),
        },
        MountSource::Image { image, subpath } => {
            ContainerMountSource::Image { reference: pinned(image), subpath: subpath.clone() }
        }
        MountSource::Tmpfs { size, mode, options } => {
            ContainerMountSource::Tmpfs { size: *size, mode: *mode, options: options.clone() }
        }
    };
    ContainerMount { relabel, target: mount.target.clone(), read_only: mount.read_only, source }
}

fn resources(planned: &spec::Resources, limits: &FineLimits) -> Resources {
    Resources {
        cpu_limit_millis: planned.cpu_limit_millis,
        memory_bytes: planned.memory_limit_bytes,
        memory_reservation_bytes: Some(planned.memory_reservation_bytes).filter(|bytes| *bytes > 0),
        pids: planned.pids_limit,
        cpu_shares: limits.cpu_shares,
        cpuset_cpus: limits.cpuset.clone(),
        memory_and_swap_bytes: limits.memory_and_swap_bytes,
        swappiness: limits.swappiness,
        blkio_weight: limits.block_weight,
        blkio_device_weights: limits
            .block_device_weights
            .iter()
            .map(|own| BlkioWeight { device: own.path.clone(), weight: own.weight })
            .collect(),
        blkio_throttles: limits
            .block_device_limits
            .iter()
            .map(|limit| BlkioThrottle {
                device: limit.path.clone(),
                what: match limit.kind {
                    BlockLimitKind::ReadBytes => BlkioLimit::ReadBytes,
                    BlockLimitKind::WriteBytes => BlkioLimit::WriteBytes,
                    BlockLimitKind::ReadOperations => BlkioLimit::ReadOperations,
                    BlockLimitKind::WriteOperations => BlkioLimit::WriteOperations,
                },
                rate: limit.rate,
            })
            .collect(),
        ..Resources::default()
    }
}

fn healthcheck(check: &spec::Healthcheck) -> Healthcheck {
    Healthcheck {
        test: check.test.clone(),
        interval: check.interval.map(stack_model::Milliseconds::to_duration),
        timeout: check.timeout.map(stack_model::Milliseconds::to_duration),
        retries: check.retries,
        start_period: check.start_period.map(stack_model::Milliseconds::to_duration),
        start_interval: check.start_interval.map(stack_model::Milliseconds::to_duration),
    }
}

fn port_binding(port: &spec::PublishedPort) -> PortBinding {
    PortBinding {
        host_ip: port.host_ip,
        host_port: port.published.unwrap_or(0),
        host_port_last: None,
        container_port: port.target,
        protocol: match port.protocol {
            spec::Protocol::Tcp => Protocol::Tcp,
            spec::Protocol::Udp => Protocol::Udp,
            spec::Protocol::Sctp => Protocol::Sctp,
        },
        shared: port.mode == PublishMode::Ingress,
    }
}

const fn namespace_mode(mode: spec::NamespaceMode) -> NamespaceMode {
    match mode {
        spec::NamespaceMode::Private => NamespaceMode::Private,
        spec::NamespaceMode::Host => NamespaceMode::Host,
    }
}

#[cfg(test)]
#[path = "translate_tests.rs"]
mod tests;
