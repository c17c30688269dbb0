//! Pure. Containers, in a list and one by one.

use std::collections::HashMap;

use bollard_stubs::models::{
    ContainerConfig, ContainerInspectResponse, ContainerState as State, ContainerStateStatusEnum, ContainerSummary,
    ContainerSummaryHealth, ContainerSummaryHealthStatusEnum, ContainerSummaryHostConfig,
    ContainerSummaryNetworkSettings, ContainerSummaryStateEnum, ContainerWaitResponse, DeviceMapping, DeviceRequest,
    DriverData, EndpointIpamConfig, EndpointSettings, Health as DockerHealth, HealthConfig, HealthStatusEnum,
    HealthcheckResult, HostConfig, HostConfigCgroupnsModeEnum, HostConfigLogConfig, ImageConfig, MountPoint,
    MountPointTypeEnum, NetworkSettings, PortBinding, PortMap, PortSummary, PortSummaryTypeEnum,
    ResourcesBlkioWeightDevice, ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum, ThrottleDevice,
};
use stack_engine::container::{
    AppArmorChoice, BlkioLimit, Container, ContainerConfig as EngineConfig, ContainerMountSource, ContainerState,
    ExitStatus, Health, Healthcheck, ImageDefaults, NamespaceMode, NetworkMode, ProbeOutcome, SeccompChoice,
    UserNamespaceMode, volumes,
};
use stack_engine::network::{Attachment, Endpoint, NetworkEndpoint, Protocol};
use stack_engine::overlay::OverlayEndpoint;
use stack_engine::selinux::Relabel;

use super::network::between_id;
use super::text::{NEVER, identifier, milliseconds, nanoseconds, seconds, signed, span};

/// A container and what its documents need beside it.
pub struct Subject {
    /// Of the image, unpacked.
    pub image_bytes: u64,
    /// The container itself.
    pub container: Container,
    /// Its image's identifier; the digest that it was made of where the image is gone.
    pub image_id: String,
    /// What its image says.
    pub image: ImageConfig,
    /// The ids of networks, by name.
    pub network_ids: HashMap<String, String>,
    /// What it got of its networks.
    pub attachment: Attachment,
    /// Where volumes lie, by name.
    pub volume_paths: HashMap<String, String>,
    /// Further processes of it that have not ended, by id.
    pub execs: Vec<String>,
}

fn list(values: &Option<Vec<String>>) -> Vec<String> {
    values.clone().unwrap_or_default()
}

impl Subject {
    fn entrypoint(&self) -> Vec<String> {
        self.container.config.entrypoint.clone().unwrap_or_else(|| list(&self.image.entrypoint))
    }

    /// Docker's rule: an entrypoint of the container's own drops the image's command.
    fn command(&self) -> Vec<String> {
        let config = &self.container.config;
        match &config.command {
            Some(command) => command.clone(),
            None if config.entrypoint.is_some() => Vec::new(),
            None => list(&self.image.cmd),
        }
    }

    fn arguments(&self) -> Vec<String> {
        let mut all = self.entrypoint();
        all.extend(self.command());
        all
    }

    fn environment(&self) -> Vec<String> {
        let config = &self.container.config;
        let name = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
        let mut all = list(&self.image.env);
        all.retain(|entry| !config.environment.contains_key(&name(entry)));
        all.extend(config.environment.iter().map(|(key, value)| format!("{key}={value}")));
        all.retain(|entry| !config.environment_removed.contains(&name(entry)));
        all
    }

    fn hostname(&self) -> String {
        let id = self.container.id.as_str();
        self.container.config.hostname.clone().unwrap_or_else(|| id.chars().take(12).collect())
    }

    fn network_mode(&self) -> String {
        match &self.container.config.network_mode {
            NetworkMode::None => "none".to_owned(),
            NetworkMode::Host => "host".to_owned(),
            NetworkMode::Container(other) => format!("container:{other}"),
            NetworkMode::Networks => {
                self.container.config.networks.first().map_or_else(|| "none".to_owned(), |first| first.name.clone())
            }
        }
    }

    fn network_id(&self, name: &str) -> String {
        self.network_ids.get(name).cloned().unwrap_or_else(|| identifier("network", name))
    }

    /// Of a network as a container asked for it: one of this host may have the name of one between hosts.
    fn asked_id(&self, asked: &NetworkEndpoint) -> String {
        if asked.between_hosts { between_id(&asked.name) } else { self.network_id(&asked.name) }
    }

    fn networks(&self) -> HashMap<String, EndpointSettings> {
        let config = &self.container.config;
        let name = match config.network_mode {
            NetworkMode::None => "none",
            NetworkMode::Host => "host",
            NetworkMode::Container(_) => return HashMap::new(),
            NetworkMode::Networks => {
                let aliases = |name: &str| {
                    config.networks.iter().find(|network| network.name == name).map(|network| network.aliases.clone())
                };
                // Without the one that only publishes ports of a container that is on networks between hosts alone.
                let was_asked = |name: &str| {
                    config.networks.iter().all(|network| !network.between_hosts)
                        || config.networks.iter().any(|network| network.name == name)
                };
                let attached = self.attachment.endpoints.iter().filter(|found| was_asked(&found.network));
                let mut all: HashMap<_, _> = attached
                    .map(|found| {
                        (
                            found.network.clone(),
                            endpoint(found, self.network_id(&found.network), aliases(&found.network)),
                        )
                    })
                    .collect();
                for found in &self.attachment.between {
                    let settings = endpoint_between(found, between_id(&found.network), aliases(&found.network));
                    all.insert(found.network.clone(), settings);
                }
                // It has them though it does not run.
                for network in &config.networks {
                    all.entry(network.name.clone()).or_insert_with(|| EndpointSettings {
                        network_id: Some(self.asked_id(network)),
                        aliases: Some(network.aliases.clone()),
                        ..unattached()
                    });
                }
                for asked in &config.networks {
                    if let Some(settings) = all.get_mut(&asked.name) {
                        settings.ipam_config = addresses_asked(asked);
                    }
                }
                return all;
            }
        };
        HashMap::from([(name.to_owned(), EndpointSettings { network_id: Some(self.network_id(name)), ..unattached() })])
    }

    fn mounts(&self) -> Vec<MountPoint> {
        let config = &self.container.config;
        let defaults = ImageDefaults { volumes: list(&self.image.volumes), ..ImageDefaults::default() };
        let mut all = Vec::new();
        for mount in &config.mounts {
            let point = match &mount.source {
                ContainerMountSource::Bind { path, propagation, .. } => MountPoint {
                    typ: Some(MountPointTypeEnum::BIND),
                    source: Some(path.display().to_string()),
                    propagation: Some(propagation.clone().unwrap_or_else(|| "rprivate".to_owned())),
                    ..MountPoint::default()
                },
                ContainerMountSource::Tmpfs { .. } => MountPoint {
                    typ: Some(MountPointTypeEnum::TMPFS),
                    source: Some(String::new()),
                    ..MountPoint::default()
                },
                ContainerMountSource::Image { reference, .. } => MountPoint {
                    typ: Some(MountPointTypeEnum::IMAGE),
                    name: Some(reference.clone()),
                    // It is at no path of the host.
                    source: Some(self.container.mounted_images.get(&mount.target).cloned().unwrap_or_default()),
                    propagation: Some("rprivate".to_owned()),
                    ..MountPoint::default()
                },
                // With the image's own below.
                ContainerMountSource::Volume { .. } => continue,
            };
            all.push(MountPoint {
                destination: Some(mount.target.clone()),
                mode: Some(mount.relabel.map(|how| how.letter().to_owned()).unwrap_or_default()),
                rw: Some(!mount.read_only && !matches!(mount.source, ContainerMountSource::Image { .. })),
                ..point
            });
        }
        for volume in volumes(&self.container.id, config, &defaults) {
            let own = config.mounts.iter().find(|mount| mount.target == volume.target);
            let read_only = own.is_some_and(|mount| mount.read_only);
            // What nothing else is said of is shared.
            let relabel = own.and_then(|mount| mount.relabel).unwrap_or(Relabel::Shared);
            all.push(MountPoint {
                typ: Some(MountPointTypeEnum::VOLUME),
                source: Some(self.volume_paths.get(&volume.name).cloned().unwrap_or_default()),
                name: Some(volume.name),
                destination: Some(volume.target),
                driver: Some("local".to_owned()),
                mode: Some(relabel.letter().to_owned()),
                rw: Some(!read_only),
                propagation: Some(String::new()),
            });
        }
        all
    }
}

/// The addresses that a container asked for on a network; none where it left the choice to the network.
fn addresses_asked(asked: &NetworkEndpoint) -> Option<EndpointIpamConfig> {
    let all = EndpointIpamConfig {
        ipv4_address: asked.address.map(|address| address.to_string()),
        ipv6_address: asked.address6.map(|address| address.to_string()),
        link_local_ips: Some(asked.link_local.iter().map(ToString::to_string).collect())
            .filter(|all: &Vec<String>| !all.is_empty()),
    };
    Some(all).filter(|all| *all != EndpointIpamConfig::default())
}

fn unattached() -> EndpointSettings {
    EndpointSettings {
        ip_address: Some(String::new()),
        gateway: Some(String::new()),
        ip_prefix_len: Some(0),
        mac_address: Some(String::new()),
        endpoint_id: Some(String::new()),
        ..EndpointSettings::default()
    }
}

/// The identifier of an interface: of its link-layer address, or of its own where that is the host's.
pub(super) fn endpoint_id(endpoint: &Endpoint) -> String {
    if endpoint.mac.is_empty() {
        let addresses: Vec<String> = endpoint.addresses().map(|address| address.to_string()).collect();
        identifier("endpoint", &addresses.join(" "))
    } else {
        identifier("endpoint", &endpoint.mac)
    }
}

fn endpoint(found: &Endpoint, network_id: String, aliases: Option<Vec<String>>) -> EndpointSettings {
    EndpointSettings {
        network_id: Some(network_id),
        endpoint_id: Some(endpoint_id(found)),
        mac_address: Some(found.mac.clone()),
        gateway: Some(
            found.gateway.filter(|_| !found.routes_by_interface).map_or_else(String::new, |at| at.to_string()),
        ),
        ip_address: Some(found.address.map_or_else(String::new, |net| net.addr().to_string())),
        ip_prefix_len: Some(found.address.map_or(0, |net| i64::from(net.prefix_len()))),
        ipv6_gateway: found.ipv6.filter(|_| !found.routes_by_interface).map(|part| part.gateway.to_string()),
        global_ipv6_address: found.ipv6.map(|part| part.net.addr().to_string()),
        global_ipv6_prefix_len: found.ipv6.map(|part| i64::from(part.net.prefix_len())),
        gw_priority: Some(found.priority),
        aliases,
        ..EndpointSettings::default()
    }
}

fn endpoint_between(found: &OverlayEndpoint, network_id: String, aliases: Option<Vec<String>>) -> EndpointSettings {
    let mac = found.mac.map(|byte| format!("{byte:02x}")).join(":");
    let address = |is_ipv6: bool| found.addresses.iter().find(|net| net.addr().is_ipv6() == is_ipv6);
    let gateway = |is_ipv6: bool| found.gateways.iter().find(|gateway| gateway.is_ipv6() == is_ipv6);
    EndpointSettings {
        network_id: Some(network_id),
        endpoint_id: Some(identifier("endpoint", &mac)),
        mac_address: Some(mac),
        gateway: Some(gateway(false).map(ToString::to_string).unwrap_or_default()),
        ip_address: address(false).map(|net| net.addr().to_string()),
        ip_prefix_len: address(false).map(|net| i64::from(net.prefix_len())),
        ipv6_gateway: gateway(true).map(ToString::to_string),
        global_ipv6_address: address(true).map(|net| net.addr().to_string()),
        global_ipv6_prefix_len: address(true).map(|net| i64::from(net.prefix_len())),
        aliases,
        ..EndpointSettings::default()
    }
}

fn protocol(protocol: Protocol) -> (PortSummaryTypeEnum, &'static str) {
    match protocol {
        Protocol::Tcp => (PortSummaryTypeEnum::TCP, "tcp"),
        Protocol::Udp => (PortSummaryTypeEnum::UDP, "udp"),
        Protocol::Sctp => (PortSummaryTypeEnum::SCTP, "sctp"),
    }
}

/// The ports that were asked for, or those that a container got.
fn port_map(ports: &[stack_engine::network::PortBinding], asked: bool) -> PortMap {
    let mut map = PortMap::new();
    for port in ports {
        let key = format!("{}/{}", port.container_port, protocol(port.protocol).1);
        let number = match (port.host_port, port.host_port_last) {
            // One that is asked for anyhow, or one that the network's routes lead to without the host's.
            (0, _) => String::new(),
            (first, Some(last)) => format!("{first}-{last}"),
            (number, None) => number.to_string(),
        };
        let usual = if asked { "" } else { "0.0.0.0" };
        let address = port.host_ip.map_or_else(|| usual.to_owned(), |address| address.to_string());
        let all = map.entry(key).or_default().get_or_insert_default();
        all.push(PortBinding { host_ip: Some(address), host_port: Some(number) });
    }
    map
}

/// What `docker ps` shows as the status: `Up 3 minutes (healthy)`, `Exited (0) 2 hours ago`. `now` is in milliseconds
/// since the Unix epoch.
pub fn status_text(container: &Container, now: u64) -> String {
    let since = |time: u64| span(now.saturating_sub(time) / 1000);
    match &container.state {
        ContainerState::Created | ContainerState::Starting => "Created".to_owned(),
        ContainerState::Removing => "Removal In Progress".to_owned(),
        ContainerState::Exited(status) if container.restarting => {
            format!("Restarting ({}) {} ago", status.code, since(status.finished_at))
        }
        ContainerState::Exited(status) => format!("Exited ({}) {} ago", status.code, since(status.finished_at)),
        ContainerState::Running { started_at, .. } => {
            let health = match container.health.as_ref().map(|state| state.health) {
                _ if container.paused => " (Paused)",
                None => "",
                Some(Health::Starting) => " (health: starting)",
                Some(Health::Healthy) => " (healthy)",
                Some(Health::Unhealthy) => " (unhealthy)",
            };
            format!("Up {}{health}", since(*started_at))
        }
    }
}

/// One row of `/containers/json`. `now` is in milliseconds since the Unix epoch.
pub fn summary(subject: &Subject, now: u64) -> ContainerSummary {
    let container = &subject.container;
    let state = match container.state {
        ContainerState::Created | ContainerState::Starting => ContainerSummaryStateEnum::CREATED,
        ContainerState::Running { .. } if container.paused => ContainerSummaryStateEnum::PAUSED,
        ContainerState::Running { .. } => ContainerSummaryStateEnum::RUNNING,
        ContainerState::Exited(_) if container.restarting => ContainerSummaryStateEnum::RESTARTING,
        ContainerState::Exited(_) => ContainerSummaryStateEnum::EXITED,
        ContainerState::Removing => ContainerSummaryStateEnum::REMOVING,
    };
    let ports = container.ports.iter().map(|port| PortSummary {
        ip: (port.host_port != 0)
            .then(|| port.host_ip.map_or_else(|| "0.0.0.0".to_owned(), |address| address.to_string())),
        private_port: port.container_port,
        public_port: Some(port.host_port).filter(|number| *number != 0),
        typ: Some(protocol(port.protocol).0),
    });
    let health = container.health.as_ref().map(|state| ContainerSummaryHealth {
        status: Some(match state.health {
            Health::Starting => ContainerSummaryHealthStatusEnum::STARTING,
            Health::Healthy => ContainerSummaryHealthStatusEnum::HEALTHY,
            Health::Unhealthy => ContainerSummaryHealthStatusEnum::UNHEALTHY,
        }),
        failing_streak: Some(i64::from(state.failing_streak)),
    });
    ContainerSummary {
        id: Some(container.id.to_string()),
        names: Some(vec![format!("/{}", container.name)]),
        image: Some(container.config.image.clone()),
        image_id: Some(subject.image_id.clone()),
        command: Some(subject.arguments().join(" ")),
        created: Some(seconds(container.created_at)),
        ports: Some(ports.collect()),
        labels: Some(container.labels.clone().into_iter().collect()),
        state: Some(state),
        status: Some(status_text(container, now)),
        host_config: Some(ContainerSummaryHostConfig {
            network_mode: Some(subject.network_mode()),
            ..ContainerSummaryHostConfig::default()
        }),
        network_settings: Some(ContainerSummaryNetworkSettings { networks: Some(subject.networks()) }),
        mounts: Some(subject.mounts()),
        health,
        ..ContainerSummary::default()
    }
}

/// The answer of `/containers/{id}/json`.
pub fn inspect(subject: &Subject) -> ContainerInspectResponse {
    let container = &subject.container;
    let mut arguments = subject.arguments().into_iter();
    ContainerInspectResponse {
        id: Some(container.id.to_string()),
        created: Some(milliseconds(container.created_at)),
        path: Some(arguments.next().unwrap_or_default()),
        args: Some(arguments.collect()),
        state: Some(state(container)),
        image: Some(subject.image_id.clone()),
        name: Some(format!("/{}", container.name)),
        restart_count: Some(i64::from(container.restarts)),
        driver: Some("overlay".to_owned()),
        platform: Some("linux".to_owned()),
        mount_label: Some(container.selinux.as_ref().map(|labels| labels.mount.clone()).unwrap_or_default()),
        process_label: Some(container.selinux.as_ref().and_then(|labels| labels.process.clone()).unwrap_or_default()),
        host_config: Some(host_config(subject)),
        graph_driver: Some(DriverData { name: "overlay".to_owned(), data: HashMap::new() }),
        mounts: Some(subject.mounts()),
        exec_ids: Some(subject.execs.clone()).filter(|execs| !execs.is_empty()),
        config: Some(config(subject)),
        network_settings: Some(NetworkSettings {
            ports: Some(port_map(&container.ports, false)),
            networks: Some(subject.networks()),
            ..NetworkSettings::default()
        }),
        ..ContainerInspectResponse::default()
    }
}

fn state(container: &Container) -> State {
    let status = match container.state {
        ContainerState::Created | ContainerState::Starting => ContainerStateStatusEnum::CREATED,
        ContainerState::Running { .. } if container.paused => ContainerStateStatusEnum::PAUSED,
        ContainerState::Running { .. } => ContainerStateStatusEnum::RUNNING,
        ContainerState::Exited(_) if container.restarting => ContainerStateStatusEnum::RESTARTING,
        ContainerState::Exited(_) => ContainerStateStatusEnum::EXITED,
        ContainerState::Removing => ContainerStateStatusEnum::REMOVING,
    };
    let health = container.health.as_ref().map(|state| DockerHealth {
        status: Some(match state.health {
            Health::Starting => HealthStatusEnum::STARTING,
            Health::Healthy => HealthStatusEnum::HEALTHY,
            Health::Unhealthy => HealthStatusEnum::UNHEALTHY,
        }),
        failing_streak: Some(i64::from(state.failing_streak)),
        log: Some(state.log.iter().map(probed).collect()),
    });
    let base = State {
        status: Some(status),
        running: Some(false),
        paused: Some(container.paused),
        restarting: Some(container.restarting),
        oom_killed: Some(false),
        dead: Some(false),
        pid: Some(0),
        exit_code: Some(0),
        error: Some(String::new()),
        started_at: Some(NEVER.to_owned()),
        finished_at: Some(NEVER.to_owned()),
        health,
    };
    match &container.state {
        ContainerState::Created | ContainerState::Starting | ContainerState::Removing => base,
        ContainerState::Running { pid, started_at } => State {
            running: Some(true),
            pid: Some(i64::from(*pid)),
            started_at: Some(milliseconds(*started_at)),
            ..base
        },
        ContainerState::Exited(exit) => State {
            oom_killed: Some(exit.oom),
            exit_code: Some(i64::from(exit.code)),
            error: Some(exit.error.clone().unwrap_or_default()),
            started_at: Some(exit.started_at.map_or_else(|| NEVER.to_owned(), milliseconds)),
            finished_at: Some(milliseconds(exit.finished_at)),
            ..base
        },
    }
}

fn restart_policy(policy: stack_engine::container::RestartPolicy) -> RestartPolicy {
    use stack_engine::container::RestartPolicy as Policy;
    let (name, most) = match policy {
        Policy::No => (RestartPolicyNameEnum::NO, 0),
        Policy::OnFailure { most } => (RestartPolicyNameEnum::ON_FAILURE, most),
        Policy::Always => (RestartPolicyNameEnum::ALWAYS, 0),
        Policy::UnlessStopped => (RestartPolicyNameEnum::UNLESS_STOPPED, 0),
    };
    RestartPolicy { name: Some(name), maximum_retry_count: Some(i64::from(most)) }
}

fn healthcheck(check: &Healthcheck) -> HealthConfig {
    let span = |span: Option<std::time::Duration>| Some(span.map_or(0, |span| signed(span.as_nanos())));
    HealthConfig {
        test: Some(check.test.clone()),
        interval: span(check.interval),
        timeout: span(check.timeout),
        retries: Some(check.retries.map_or(0, i64::from)),
        start_period: span(check.start_period),
        start_interval: span(check.start_interval),
    }
}

fn probed(outcome: &ProbeOutcome) -> HealthcheckResult {
    HealthcheckResult {
        start: Some(nanoseconds(outcome.started_at)),
        end: Some(nanoseconds(outcome.finished_at)),
        exit_code: Some(i64::from(outcome.code)),
        output: Some(outcome.output.clone()),
    }
}

/// What a container runs, with what it has of its image.
pub fn config(subject: &Subject) -> ContainerConfig {
    let (container, image) = (&subject.container, &subject.image);
    let config = &container.config;
    let ports = config.ports.iter().map(|port| format!("{}/{}", port.container_port, protocol(port.protocol).1));
    let mut exposed = list(&image.exposed_ports);
    exposed.extend(ports);
    exposed.extend(config.exposed_ports.clone());
    exposed.sort();
    exposed.dedup();
    ContainerConfig {
        hostname: Some(subject.hostname()),
        domainname: Some(config.domainname.clone().unwrap_or_default()),
        user: Some(config.user.clone().or_else(|| image.user.clone()).unwrap_or_default()),
        attach_stdin: Some(false),
        attach_stdout: Some(false),
        attach_stderr: Some(false),
        exposed_ports: (!exposed.is_empty()).then_some(exposed),
        tty: Some(config.tty),
        open_stdin: Some(config.stdin_open),
        stdin_once: Some(config.stdin_once),
        env: Some(subject.environment()),
        cmd: Some(subject.command()),
        healthcheck: config.healthcheck.as_ref().map(healthcheck).or_else(|| image.healthcheck.clone()),
        image: Some(config.image.clone()),
        volumes: image.volumes.clone(),
        working_dir: Some(config.working_dir.clone().or_else(|| image.working_dir.clone()).unwrap_or_default()),
        entrypoint: Some(subject.entrypoint()).filter(|entrypoint| !entrypoint.is_empty()),
        labels: Some(container.labels.clone().into_iter().collect()),
        stop_signal: config.stop_signal.clone().or_else(|| image.stop_signal.clone()),
        stop_timeout: config.stop_grace.map(|grace| signed(grace.as_secs())),
        ..ContainerConfig::default()
    }
}

fn host_config(subject: &Subject) -> HostConfig {
    let config = &subject.container.config;
    let resources = &config.resources;
    let mode = |mode: &NamespaceMode, private: &str| match mode {
        NamespaceMode::Private => private.to_owned(),
        NamespaceMode::Host => "host".to_owned(),
        NamespaceMode::Container(other) => format!("container:{other}"),
    };
    let mut security = Vec::new();
    if config.no_new_privileges {
        security.push("no-new-privileges".to_owned());
    }
    match &config.seccomp {
        SeccompChoice::Default => {}
        SeccompChoice::Unconfined => security.push("seccomp=unconfined".to_owned()),
        SeccompChoice::Custom(profile) => security.push(format!("seccomp={profile}")),
    }
    match &config.apparmor {
        AppArmorChoice::Default => {}
        AppArmorChoice::Unconfined => security.push("apparmor=unconfined".to_owned()),
        AppArmorChoice::Profile(name) => security.push(format!("apparmor={name}")),
    }
    security.extend(config.selinux.texts().into_iter().map(|option| format!("label={option}")));
    let devices = config.devices.iter().map(|device| DeviceMapping {
        path_on_host: Some(device.source.clone()),
        path_in_container: Some(device.target.clone()),
        cgroup_permissions: Some(device.permissions.clone()),
    });
    let named = (!config.cdi_devices.is_empty()).then(|| {
        let ids = Some(config.cdi_devices.clone());
        vec![DeviceRequest { driver: Some("cdi".to_owned()), device_ids: ids, ..DeviceRequest::default() }]
    });
    let ulimits = config.ulimits.iter().map(|(name, limit)| ResourcesUlimits {
        name: Some(name.clone()),
        soft: Some(limit.soft),
        hard: Some(limit.hard),
    });
    let swap = |limit: u64| if limit == u64::MAX { -1 } else { signed(limit) };
    HostConfig {
        network_mode: Some(subject.network_mode()),
        port_bindings: Some(port_map(&config.ports, true)),
        log_config: Some(HostConfigLogConfig {
            typ: Some(config.logging.driver.clone().unwrap_or_else(|| "json-file".to_owned())),
            config: Some(config.logging.options.clone().into_iter().collect()),
        }),
        restart_policy: Some(restart_policy(config.restart)),
        auto_remove: Some(config.auto_remove),
        cap_add: Some(config.cap_add.clone()),
        cap_drop: Some(config.cap_drop.clone()),
        dns: Some(config.dns.iter().map(ToString::to_string).collect()),
        dns_options: Some(config.dns_options.clone()),
        dns_search: Some(config.dns_search.clone()),
        extra_hosts: Some(config.extra_hosts.iter().map(|(name, address)| format!("{name}:{address}")).collect()),
        group_add: Some(config.group_add.clone()),
        ipc_mode: Some(if config.without_shm { "none".to_owned() } else { mode(&config.ipc_mode, "private") }),
        pid_mode: Some(mode(&config.pid_mode, "")),
        oom_score_adj: Some(i64::from(config.oom_score_adj.unwrap_or(0))),
        privileged: Some(config.privileged),
        publish_all_ports: Some(false),
        readonly_rootfs: Some(config.read_only),
        security_opt: Some(security),
        shm_size: Some(config.shm_size.map_or(64 << 20, signed)),
        sysctls: Some(config.sysctls.clone().into_iter().collect()),
        init: Some(config.init),
        devices: Some(devices.collect()),
        device_requests: named,
        ulimits: Some(ulimits.collect()),
        nano_cpus: Some(resources.cpu_limit_millis.map_or(0, |millis| signed(millis.saturating_mul(1_000_000)))),
        cpu_shares: Some(resources.cpu_shares.map_or(0, signed)),
        cpuset_cpus: Some(resources.cpuset_cpus.clone().unwrap_or_default()),
        cpuset_mems: Some(resources.cpuset_mems.clone().unwrap_or_default()),
        memory: Some(resources.memory_bytes.map_or(0, signed)),
        memory_reservation: Some(resources.memory_reservation_bytes.map_or(0, signed)),
        memory_swap: Some(resources.memory_and_swap_bytes.map_or(0, swap)),
        pids_limit: resources.pids.map(signed),
        binds: Some(binds(config)).filter(|binds| !binds.is_empty()),
        uts_mode: Some(mode(&config.uts_mode, "")),
        userns_mode: Some(
            match config.user_namespace {
                UserNamespaceMode::Default => "",
                UserNamespaceMode::Host => "host",
                UserNamespaceMode::Private => "private",
            }
            .to_owned(),
        ),
        cgroupns_mode: Some(match config.cgroup_mode {
            NamespaceMode::Host => HostConfigCgroupnsModeEnum::HOST,
            NamespaceMode::Private | NamespaceMode::Container(_) => HostConfigCgroupnsModeEnum::PRIVATE,
        }),
        masked_paths: config.masked_paths.clone(),
        readonly_paths: config.read_only_paths.clone(),
        device_cgroup_rules: Some(config.device_cgroup_rules.clone()),
        links: Some(config.links.iter().map(|(other, name)| format!("{other}:{name}")).collect()),
        annotations: Some(config.annotations.clone().into_iter().collect::<HashMap<_, _>>())
            .filter(|annotations| !annotations.is_empty()),
        console_size: Some(
            config
                .terminal_size
                .map_or_else(|| vec![0, 0], |size| vec![usize::from(size.rows), usize::from(size.columns)]),
        ),
        runtime: Some(config.runtime.clone().unwrap_or_else(|| "stack".to_owned())),
        cpu_quota: Some(resources.cpu_quota_us.map_or(0, signed)),
        cgroup_parent: Some(config.cgroup_parent.clone().unwrap_or_default()),
        cpu_realtime_runtime: Some(resources.cpu_realtime_runtime_us.map_or(0, signed)),
        cpu_realtime_period: Some(resources.cpu_realtime_period_us.map_or(0, signed)),
        storage_opt: config.storage_size.map(|size| HashMap::from([("size".to_owned(), size.to_string())])),
        cpu_period: Some(resources.cpu_period_us.map_or(0, signed)),
        memory_swappiness: resources.swappiness.map(signed),
        oom_kill_disable: Some(resources.oom_kill_disable),
        blkio_weight: Some(resources.blkio_weight.unwrap_or(0)),
        blkio_weight_device: Some(device_weights(config)).filter(|all| !all.is_empty()),
        blkio_device_read_bps: throttles(config, BlkioLimit::ReadBytes),
        blkio_device_write_bps: throttles(config, BlkioLimit::WriteBytes),
        blkio_device_read_iops: throttles(config, BlkioLimit::ReadOperations),
        blkio_device_write_iops: throttles(config, BlkioLimit::WriteOperations),
        ..HostConfig::default()
    }
}

fn device_weights(config: &EngineConfig) -> Vec<ResourcesBlkioWeightDevice> {
    let one = |own: &stack_engine::container::BlkioWeight| ResourcesBlkioWeightDevice {
        path: Some(own.device.clone()),
        weight: Some(usize::from(own.weight)),
    };
    config.resources.blkio_device_weights.iter().map(one).collect()
}

fn throttles(config: &EngineConfig, what: BlkioLimit) -> Option<Vec<ThrottleDevice>> {
    let all = config.resources.blkio_throttles.iter().filter(|throttle| throttle.what == what);
    let all: Vec<_> = all
        .map(|throttle| ThrottleDevice { path: Some(throttle.device.clone()), rate: Some(signed(throttle.rate)) })
        .collect();
    (!all.is_empty()).then_some(all)
}

/// Mounts in Docker's short form, of those that have one.
fn binds(config: &EngineConfig) -> Vec<String> {
    let short = |mount: &stack_engine::container::ContainerMount| {
        let source = match &mount.source {
            ContainerMountSource::Bind { path, .. } => path.display().to_string(),
            ContainerMountSource::Volume { name: Some(name), .. } => name.clone(),
            ContainerMountSource::Volume { name: None, .. }
            | ContainerMountSource::Tmpfs { .. }
            | ContainerMountSource::Image { .. } => return None,
        };
        let mode = if mount.read_only { "ro" } else { "rw" };
        let label = mount.relabel.map(|how| format!(",{}", how.letter())).unwrap_or_default();
        Some(format!("{source}:{}:{mode}{label}", mount.target))
    };
    config.mounts.iter().filter_map(short).collect()
}

/// The answer of `/containers/{id}/wait`. Why a container could not be started is told to whoever started it: an error
/// here would be one of the waiting.
pub fn waited(status: &ExitStatus) -> ContainerWaitResponse {
    ContainerWaitResponse { status_code: i64::from(status.code), error: None }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{TIME, container, exited, running};
    use super::*;
    use stack_engine::container::HealthState;

    fn subject(state: ContainerState) -> Subject {
        Subject {
            container: container("aa11", "web", state),
            image_id: "sha256:bb".to_owned(),
            image: ImageConfig {
                entrypoint: Some(vec!["/run".to_owned()]),
                cmd: Some(vec!["serve".to_owned()]),
                env: Some(vec!["PATH=/bin".to_owned(), "MODE=image".to_owned()]),
                volumes: Some(vec!["/data".to_owned()]),
                ..ImageConfig::default()
            },
            network_ids: HashMap::new(),
            attachment: Attachment::default(),
            execs: Vec::new(),
            image_bytes: 0,
            volume_paths: HashMap::from([("aa11.own_data".to_owned(), "/v/aa11.own_data/_data".to_owned())]),
        }
    }

    #[test]
    fn the_status_as_people_read_it() {
        let now = TIME + 182_000;
        let health = |health| HealthState { health, failing_streak: 0, last_output: String::new(), log: Vec::new() };
        let text = |state: ContainerState, health: Option<HealthState>, now: u64| {
            status_text(&Container { health, ..container("aa11", "web", state) }, now)
        };
        assert_eq!(text(running(), None, now), "Up 3 minutes");
        assert_eq!(text(running(), Some(health(Health::Healthy)), now), "Up 3 minutes (healthy)");
        assert_eq!(text(running(), Some(health(Health::Starting)), now), "Up 3 minutes (health: starting)");
        assert_eq!(text(exited(7), None, now), "Exited (7) 3 minutes ago");
        assert_eq!(text(ContainerState::Created, None, now), "Created");
        assert_eq!(text(running(), None, 0), "Up Less than a second");
        let paused = Container { paused: true, ..container("aa11", "web", running()) };
        assert_eq!(status_text(&paused, now), "Up 3 minutes (Paused)");
        let restarting = Container { restarting: true, ..container("aa11", "web", exited(1)) };
        assert_eq!(status_text(&restarting, now), "Restarting (1) 3 minutes ago");
    }

    #[test]
    fn a_row_of_the_list() {
        let mut subject = subject(running());
        subject.container.config.network_mode = NetworkMode::Host;
        let row = summary(&subject, TIME + 5000);
        assert_eq!(row.names, Some(vec!["/web".to_owned()]));
        assert_eq!(row.command.as_deref(), Some("/run sleep 9"));
        assert_eq!((row.created, row.status.as_deref()), (Some(1_700_000_000), Some("Up 4 seconds")));
        assert!(row.network_settings.unwrap().networks.unwrap().contains_key("host"));
    }

    #[test]
    fn commands_merge_by_dockers_rule() {
        let mut own = subject(running());
        assert_eq!(own.environment(), ["PATH=/bin", "MODE=test"]);
        own.container.config.command = None;
        assert_eq!(own.arguments(), ["/run", "serve"]);
        own.container.config.entrypoint = Some(vec!["/other".to_owned()]);
        assert_eq!(own.arguments(), ["/other"]);
        own.container.config.environment_removed = vec!["PATH".to_owned()];
        assert_eq!(own.environment(), ["MODE=test"]);
    }

    #[test]
    fn all_of_one_container() {
        let mut subject = subject(exited(7));
        subject.container.config.ports = vec![stack_engine::network::PortBinding {
            host_ip: None,
            host_port: 8080,
            container_port: 80,
            protocol: Protocol::Tcp,
            shared: false,
            ..Default::default()
        }];
        let document = serde_json::to_value(inspect(&subject)).unwrap();
        assert_eq!(document["State"]["Status"], "exited");
        assert_eq!(document["State"]["ExitCode"], 7);
        assert_eq!(document["State"]["FinishedAt"], "2023-11-14T22:13:22.000000000Z");
        assert_eq!((&document["Path"], &document["Args"][0]), (&"/run".into(), &"sleep".into()));
        assert_eq!(document["HostConfig"]["PortBindings"]["80/tcp"][0]["HostPort"], "8080");
        assert_eq!(document["NetworkSettings"]["Ports"], serde_json::json!({}));
        assert_eq!(document["Config"]["ExposedPorts"], serde_json::json!({"80/tcp": {}}));
        assert_eq!(document["Mounts"][0]["Source"], "/v/aa11.own_data/_data");
        assert_eq!(document["HostConfig"]["Memory"], 0);
    }

    #[test]
    fn the_end_of_a_container() {
        let ContainerState::Exited(mut status) = exited(127) else { panic!("it has ended") };
        assert_eq!(serde_json::to_value(waited(&status)).unwrap(), serde_json::json!({"StatusCode": 127}));
        status.error = Some("no such program".to_owned());
        assert_eq!(waited(&status).error, None, "it was told to whoever started it");
    }
}
