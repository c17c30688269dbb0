//! One start of a container, step by step, and the clearing up after it.

use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use stack_shim::launch::{
    BUNDLE_FILE, Cgroups, Confinement, ConfinementMoment, DeviceKind, DeviceNode, Joined, LAUNCH_FILE, Launch,
    OciRuntime, Process, RUNTIME_VERSION, Root, Users,
};
use stack_shim::protocol::{Request, Response, State};
use tokio::process::Child;

use super::attach::Waiting;
use super::capability;
use super::config::{ContainerConfig, ContainerId, ContainerMountSource, NetworkMode, Resources, SeccompChoice};
use super::errors::{ChangeError, StartError};
use super::files::{self, Surroundings};
use super::oci::{self, OciError};
use super::phases::Phases;
use super::record::{Record, Records};
use super::roots::OverlayDirectories;
use super::runtimes::{self, Runtimes};
use super::shim::{self, Shim, ShimProgram};
use super::spec::{self, FoundDevice, Host, SpecError};
use super::users::UserNamespaces;
use crate::apparmor::{AppArmor, DEFAULT_PROFILE};
use crate::cdi::{self, HostNode, Injection};
use crate::cgroup::{self, Hierarchies};
use crate::crash_point::crash_point;
use crate::dns::{
    Client, Layer, NAME_SERVER, NameServers, ResolverFile, ResolverOverrides, ServeError, Sockets, Upstream,
    container_resolver_file,
};
use crate::network::{
    BetweenHosts, Endpoint, NetworkEndpoint, NetworkRequest, Networks, Place, PlaceError, USUAL_NETWORK,
};
use crate::overlay::{Overlay, OverlayEndpoint, link_address};
use crate::seccomp;
use crate::selinux::{Relabel, RelabelError, Selinux, SelinuxLabels, relabel};
use crate::volume::Volumes;

/// The files in a container's directory that it has in its `/etc`.
const NETWORK_FILES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

/// What every start needs.
#[derive(Clone)]
pub(crate) struct Launcher {
    pub program: ShimProgram,
    pub hierarchies: Arc<Hierarchies>,
    pub networks: Arc<Networks>,
    pub overlay: Arc<Overlay>,
    /// Who gives addresses on networks between hosts, once this host is a member of a cluster.
    pub between: Arc<OnceLock<Arc<dyn BetweenHosts>>>,
    pub names: Arc<NameServers>,
    pub apparmor: AppArmor,
    pub selinux: Selinux,
    /// Where devices are described; the last goes before the others.
    pub cdi_directories: Arc<[PathBuf]>,
    pub volumes: Volumes,
    pub records: Records,
    /// `run/containers`.
    pub run: PathBuf,
    /// Compiled filters.
    pub filters: PathBuf,
    /// In place of the engine's own.
    pub runtimes: Runtimes,
    /// The user namespaces that containers have.
    pub users: UserNamespaces,
    /// Why this host can give them none.
    pub users_refusal: Option<String>,
}

/// A container whose program runs.
pub(crate) struct Launched {
    pub pid: i32,
    /// Nanoseconds since the Unix epoch.
    pub started_at: u64,
    pub child: Child,
}

/// What was decided before anything was made.
pub(crate) struct Prepared {
    launch: Launch,
    plan: cgroup::Plan,
    /// With the numbers of devices.
    resources: Resources,
    rules: Vec<cgroup::DeviceRule>,
}

impl Prepared {
    pub fn cgroups(&self) -> &Cgroups {
        &self.plan.cgroups
    }

    /// The same for another runtime.
    pub fn runtime_spec(&self, filter: Option<&seccomp::Filter>) -> Result<oci_spec::runtime::Spec, OciError> {
        oci::runtime_spec(&self.launch, &self.resources, &self.rules, filter)
    }
}

impl Launcher {
    pub fn run_directory(&self, id: &ContainerId) -> PathBuf {
        self.run.join(id.as_str())
    }

    /// There while a container is held still for an image of it.
    pub fn held_file(&self, id: &ContainerId) -> PathBuf {
        self.run_directory(id).join("held")
    }

    /// Looks at the host and decides everything. Makes volumes and compiled filters, which are not this start's alone.
    pub fn prepare(&self, record: &Record, joined: Joined, users: Option<Users>) -> Result<Prepared, StartError> {
        let (id, config) = (&record.id, &record.config);
        let mut found = std::collections::BTreeMap::new();
        for volume in spec::volumes(id, config, &record.image) {
            let owner = volume.anonymous.then_some(id.as_str());
            let data = self
                .volumes
                .ensure_own(&volume.name, &volume.description, owner)
                .map_err(|source| StartError::Volume { id: id.clone(), source })?;
            self.volumes
                .mount(&volume.name, id.as_str())
                .map_err(|source| StartError::Volume { id: id.clone(), source })?;
            found.insert(volume.target, data);
        }
        crash_point!("start.volumes");
        let labels = record.selinux.as_ref().filter(|_| self.selinux.is_labelling());
        for mount in &config.mounts {
            if let ContainerMountSource::Bind { path, create_host_path, .. } = &mount.source {
                check_bind_source(id, path, *create_host_path)?;
            }
        }
        if let Some(labels) = labels {
            // What it has written is its own, also if that had another label, or none, when it was written.
            relabel(&record.overlay.upper, &labels.mount, false)
                .and_then(|()| label_mounts(config, &found, labels))
                .map_err(|source| StartError::Relabel { id: id.clone(), source })?;
        }
        let devices = find_devices(id, config)?;
        let capabilities = capability::resolve(&config.cap_add, &config.cap_drop, config.privileged)
            .map_err(|name| StartError::Spec { id: id.clone(), source: spec::SpecError::Capability { name } })?;
        let seccomp =
            self.filter(config, capabilities).map_err(|source| StartError::Filter { id: id.clone(), source })?;
        let confinement =
            self.apparmor.confinement(config).map_err(|source| StartError::AppArmor { id: id.clone(), source })?;
        let injection = self.injection(record)?;
        let allowed: Vec<FoundDevice> = devices.iter().chain(&injection.devices).cloned().collect();
        let rules = spec::device_rules(config, &allowed);
        let resources = with_device_numbers(id, &config.resources)?;
        let groups = cgroup::place(&self.hierarchies, config.cgroup_parent.as_deref());
        let plan = cgroup::plan(&groups, id.as_str(), &resources, &rules);
        let state = self.records.directory(id);
        let run = self.run_directory(id);
        let host = Host {
            root: Root {
                lower: record.overlay.lower.clone(),
                upper: record.overlay.upper.clone(),
                work: record.overlay.work.clone(),
                mountpoint: run.join("root"),
                read_only: false,
                label: None,
            },
            volumes: found,
            images: record
                .mounted_images
                .iter()
                .map(|mounted| (mounted.target.clone(), mounted.layers.clone()))
                .collect(),
            devices,
            injection,
            network_files: Some(match &config.network_mode {
                // With the network come its names.
                NetworkMode::Container(other) => self.records.directory(other),
                NetworkMode::Networks | NetworkMode::None | NetworkMode::Host => state.clone(),
            }),
            cgroups: plan.cgroups.clone(),
            hierarchies: &self.hierarchies,
            seccomp,
            confinement,
            labels: labels.cloned(),
            log_directory: state.join("logs"),
            exit_file: self.records.exit_file(id),
            attempt: record.starts,
            joined,
            users: users.map(|users| Users { layers: layers(&record.overlay), ..users }),
        };
        let spec_refused = |source| StartError::Spec { id: id.clone(), source };
        let mut launch = spec::launch(id, config, &record.image, &host).map_err(spec_refused)?;
        launch.runtime = self.runtime(id, config).map_err(spec_refused)?;
        Ok(Prepared { launch, plan, resources, rules })
    }

    /// The other runtime that a container asks for, if it does.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn runtime(&self, id: &ContainerId, config: &ContainerConfig) -> Result<Option<OciRuntime>, SpecError> {
        runtimes::chosen(&self.runtimes, config.runtime.as_deref(), id, &self.run_directory(id))
    }

    /// What another runtime is to make.
    fn write_bundle(&self, record: &Record, prepared: &Prepared) -> Result<(), StartError> {
        let Some(runtime) = &prepared.launch.runtime else { return Ok(()) };
        let id = &record.id;
        let refused = |source| StartError::Runtime { id: id.clone(), source };
        let filter = self.uncompiled_filter_of(record)?;
        let groups = self.hierarchies.common_path(&prepared.plan.cgroups).ok_or(OciError::Groups).map_err(refused)?;
        let Prepared { launch, resources, rules, .. } = prepared;
        let document = oci::bundle(launch, resources, rules, filter.as_ref(), &groups).map_err(refused)?;
        runtimes::write_bundle(runtime, &document).map_err(|source| StartError::Shim {
            id: id.clone(),
            what: "write its bundle",
            source,
        })
    }

    /// What the descriptions of a container's devices ask for. Reads the descriptions.
    fn injection(&self, record: &Record) -> Result<Injection, StartError> {
        let config = &record.config;
        if config.cdi_devices.is_empty() {
            return Ok(Injection::default());
        }
        // Nodes without an owner are its user's, where that is told by numbers; names are the image's.
        let user = config.user.as_ref().unwrap_or(&record.image.user);
        let (user, group) = user.split_once(':').unwrap_or((user, ""));
        let number = |text: &str| text.parse().unwrap_or(0);
        let look = |path: &Path| {
            let found = found_device(path, "", "")?;
            Ok(found.map(|FoundDevice { node, .. }| HostNode {
                kind: node.kind,
                major: node.major,
                minor: node.minor,
                mode: node.mode,
            }))
        };
        cdi::read(&self.cdi_directories)
            .inject(&config.cdi_devices, (number(user), number(group)), &look)
            .map_err(|source| StartError::Cdi { id: record.id.clone(), source })
    }

    /// Puts other limits in force for a container that runs.
    pub fn limit(&self, record: &Record, resources: &Resources) -> Result<(), ChangeError> {
        let id = &record.id;
        let resources = with_device_numbers(id, resources)
            .map_err(|source| ChangeError::Device { id: id.clone(), source: Box::new(source) })?;
        let groups = cgroup::place(&self.hierarchies, record.config.cgroup_parent.as_deref());
        let plan = cgroup::plan_change(&groups, id.as_str(), &resources);
        cgroup::change(&plan).map_err(|source| ChangeError::Limit { id: id.clone(), source })
    }

    fn filter(&self, config: &ContainerConfig, capabilities: u64) -> Result<Option<PathBuf>, seccomp::FilterError> {
        let filter = chosen_filter(config, capabilities)?;
        filter.map(|filter| seccomp::cached(&self.filters, &filter)).transpose()
    }

    /// The filter for a further process in a container.
    pub fn filter_of(&self, config: &ContainerConfig) -> Result<Option<PathBuf>, seccomp::FilterError> {
        let capabilities = capability::resolve(&config.cap_add, &config.cap_drop, config.privileged).unwrap_or(0);
        self.filter(config, capabilities)
    }

    /// How the first process of a container that runs was started, whatever this host would give it now.
    pub fn process_of(&self, id: &ContainerId) -> io::Result<Process> {
        let launch: Launch = serde_json::from_slice(&fs::read(self.run_directory(id).join(LAUNCH_FILE))?)?;
        Ok(launch.process)
    }

    /// The filter of a container's first process, before it is compiled.
    pub fn uncompiled_filter_of(&self, record: &Record) -> Result<Option<seccomp::Filter>, StartError> {
        let config = &record.config;
        let capabilities = capability::resolve(&config.cap_add, &config.cap_drop, config.privileged).unwrap_or(0);
        chosen_filter(config, capabilities)
            .map_err(|source| StartError::Filter { id: record.id.clone(), source: source.into() })
    }

    /// Makes what was decided, up to the running program. After a failure [`Launcher::clear`] takes away what there is.
    pub async fn execute(
        &self,
        record: &Record,
        prepared: Prepared,
        waiting: &Waiting,
        notes: &mut Vec<String>,
        phases: &mut Phases,
    ) -> Result<Launched, StartError> {
        let id = &record.id;
        let failed = |what: &'static str| move |source: io::Error| StartError::Shim { id: id.clone(), what, source };
        let run = self.run_directory(id);
        let state = self.records.directory(id);
        write_files(&run, &state, &prepared.launch, self.records.exit_file(id))
            .map_err(failed("write its launch document"))?;
        if let Some(labels) = record.selinux.as_ref().filter(|_| self.selinux.is_labelling()) {
            // Containers that share its network share them.
            for name in NETWORK_FILES {
                relabel(&state.join(name), &labels.shared_mount(), true)
                    .map_err(|source| StartError::Relabel { id: id.clone(), source })?;
            }
        }
        self.write_bundle(record, &prepared)?;
        let Prepared { plan, .. } = prepared;
        crash_point!("start.files");
        phases.done("files");
        let groups = tokio::task::spawn_blocking(move || cgroup::make(&plan))
            .await
            .map_err(io::Error::other)
            .map_err(failed("make its control groups"))?;
        notes.extend(groups.map_err(|source| StartError::Cgroup { id: id.clone(), source })?);
        crash_point!("start.groups");
        phases.done("groups");
        let child = shim::spawn(&self.program, "run", &run).map_err(failed("start its shim"))?;
        crash_point!("start.spawned");
        phases.done("spawn");
        let mut conversation = match Shim::connect(&run).await {
            // It could not make the container, and was quicker than we are: it has left on record why.
            Err(error) if shim::is_absent(&error) || shim::is_gone(&error) => {
                return Err(self.shim_refused(record, None));
            }
            result => result.map_err(failed("reach its shim"))?,
        };
        let created = conversation.ask(&Request::Describe).await.map_err(failed("ask its shim"))?;
        let pid = match created {
            Some(Response::State(State::Created { pid })) => pid,
            other => return Err(self.shim_refused(record, other.as_ref())),
        };
        crash_point!("start.described");
        phases.done("make");
        let around = match self.attach(record, pid, &mut conversation).await {
            Ok(around) => around,
            // Without its shim nothing can be attached: that is the reason then, whatever was missed first.
            Err(error) => match conversation.ask(&Request::Describe).await {
                Ok(Some(Response::State(State::Created { .. }))) => return Err(error),
                Ok(answer) => return Err(self.shim_refused(record, answer.as_ref())),
                Err(_) => return Err(self.shim_refused(record, None)),
            },
        };
        crash_point!("start.attached");
        phases.done("network");
        self.fill_network_files(record, &around).map_err(failed("write its network files"))?;
        crash_point!("start.network_files");
        // Before its first word.
        waiting.connect(run.clone()).await;
        match conversation.ask(&Request::Start).await.map_err(failed("ask its shim"))? {
            Some(Response::State(State::Running { pid, started_at })) => {
                crash_point!("start.running");
                phases.done("program");
                Ok(Launched { pid, started_at, child })
            }
            other => Err(self.shim_refused(record, other.as_ref())),
        }
    }

    /// What a shim's answer, or its end, means.
    fn shim_refused(&self, record: &Record, answer: Option<&Response>) -> StartError {
        let id = record.id.clone();
        if let Some(Response::Failed(failure)) = answer {
            return StartError::Container { id, source: failure.clone() };
        }
        if let Some(failure) = self.records.exit(&id, record.starts).and_then(|exit| exit.failure) {
            return StartError::Container { id, source: failure };
        }
        let complaint = fs::read_to_string(self.run_directory(&id).join(stack_shim::launch::COMPLAINTS_FILE))
            .ok()
            .map(|text| text.trim().chars().take(500).collect::<String>())
            .filter(|text| !text.is_empty())
            .unwrap_or_else(|| "it ended, or was killed, before the container was ready".to_owned());
        StartError::Shim { id, what: "start its shim", source: io::Error::other(complaint) }
    }

    async fn attach(&self, record: &Record, pid: i32, shim: &mut Shim) -> Result<Surroundings, StartError> {
        let (id, config) = (&record.id, &record.config);
        let networks = match &config.network_mode {
            NetworkMode::Host | NetworkMode::Container(_) => return Ok(Surroundings::default()),
            NetworkMode::None => Vec::new(),
            NetworkMode::Networks => config.networks.clone(),
        };
        let (between, mut networks): (Vec<NetworkEndpoint>, Vec<NetworkEndpoint>) =
            networks.into_iter().partition(|endpoint| endpoint.between_hosts);
        if networks.is_empty() && !between.is_empty() && !config.ports.is_empty() {
            // Ports of the host lead to networks of the host.
            networks.push(NetworkEndpoint { name: USUAL_NETWORK.to_owned(), ..NetworkEndpoint::default() });
        }
        let guests = self
            .guests(record, &between, &networks)
            .await
            .map_err(|source| StartError::Between { id: id.clone(), source })?;
        let netns = File::open(format!("/proc/{pid}/ns/net")).map_err(|source| StartError::Shim {
            id: id.clone(),
            what: "open its network namespace",
            source,
        })?;
        let overlays = match &config.network_mode {
            NetworkMode::Networks => config.overlays.as_slice(),
            _ => &[],
        };
        let is_published = !networks.is_empty() || !overlays.is_empty();
        let ports = if is_published { config.ports.clone() } else { Vec::new() };
        let held_only = networks.is_empty();
        let request = NetworkRequest {
            networks,
            ports,
            held_only,
            between: guests.clone(),
            hostname: spec::hostname(id, config),
            name: config.name.clone().unwrap_or_else(|| id.to_string()),
        };
        let attachment = self
            .networks
            .attach(id.as_str(), &netns, &request)
            .await
            .map_err(|source| StartError::Network { id: id.clone(), source })?;
        let overlays: Vec<&OverlayEndpoint> = overlays.iter().chain(&guests).collect();
        for endpoint in &overlays {
            self.overlay
                .attach(id.as_str(), &netns, endpoint)
                .await
                .map_err(|source| StartError::Overlay { id: id.clone(), source })?;
        }
        crash_point!("start.networks");
        let mut name_servers = Vec::new();
        if let Some(client) = name_client(config) {
            self.serve_names(id, &netns, client, shim)
                .await
                .map_err(|source| StartError::Names { id: id.clone(), source })?;
            crash_point!("start.names");
            name_servers.push(NAME_SERVER.into());
        }
        // The host is no neighbour of a container whose link is on one of its own.
        let leading =
            [attachment.leading4().map(|(leading, _)| leading), attachment.leading6().map(|(leading, _)| leading)];
        let by_bridges = leading.into_iter().flatten().chain(&attachment.endpoints);
        let by_bridges = by_bridges.filter(|endpoint| self.networks.is_bridge(&endpoint.network));
        let gateways = by_bridges.flat_map(Endpoint::gateways);
        let own = attachment.endpoints.iter().flat_map(Endpoint::addresses);
        Ok(Surroundings {
            addresses: own.chain(overlays.iter().flat_map(|endpoint| endpoint.own_addresses())).collect(),
            gateway: gateways.chain(overlays.iter().flat_map(|endpoint| endpoint.gateways.iter().copied())).next(),
            name_servers,
        })
    }

    /// The interfaces of a container on networks between hosts, beside those that it has on networks of this host. One of
    /// these has the default route of each family where it can; else the network between hosts that comes first.
    async fn guests(
        &self,
        record: &Record,
        between: &[NetworkEndpoint],
        beside: &[NetworkEndpoint],
    ) -> Result<Vec<OverlayEndpoint>, PlaceError> {
        if between.is_empty() {
            return Ok(Vec::new());
        }
        let places = self.places(record, between).await?;
        let led = [false, true]
            .map(|is_ipv6| beside.iter().any(|endpoint| self.networks.leads_outside(&endpoint.name, is_ipv6)));
        let leading = leading_place(&places, between).map(|place| place.network.clone());
        let numbered = places.into_iter().zip(beside.len()..);
        let made = numbered.map(|(place, number)| {
            let leads = leading.as_deref() == Some(place.network.as_str());
            overlay_endpoint(place, format!("eth{number}"), |gateway| {
                leads && !(if gateway.is_ipv6() { led[1] } else { led[0] })
            })
        });
        Ok(made.collect())
    }

    async fn places(&self, record: &Record, between: &[NetworkEndpoint]) -> Result<Vec<Place>, PlaceError> {
        let Some(asked) = self.between.get() else {
            let names: Vec<&str> = between.iter().map(|endpoint| endpoint.name.as_str()).collect();
            let names = names.join(", ");
            return Err(PlaceError::new(format!("network {names} not found: this host is in no cluster")));
        };
        asked.join(record.id.as_str(), &guest_names(record), between).await
    }

    /// Puts a container that runs onto a network between hosts.
    pub async fn join_between(
        &self,
        record: &Record,
        netns: &File,
        endpoint: &NetworkEndpoint,
    ) -> Result<Vec<IpAddr>, PlaceError> {
        let id = record.id.as_str();
        let failed = |error: &dyn std::error::Error| PlaceError::new(full_text(error));
        let attached = self.networks.attachment(id).unwrap_or_default();
        let used = |name: &String| {
            attached.endpoints.iter().any(|endpoint| endpoint.interface == *name)
                || attached.between.iter().any(|endpoint| endpoint.interface == *name)
        };
        let interface = (0_u32..).map(|number| format!("eth{number}")).find(|name| !used(name));
        let led_by_other = |is_ipv6: bool| {
            let mut gateways = attached.between.iter().flat_map(|other| &other.gateways);
            gateways.any(|gateway| gateway.is_ipv6() == is_ipv6)
        };
        let led =
            [attached.leading4().is_some() || led_by_other(false), attached.leading6().is_some() || led_by_other(true)];
        let place = self.places(record, std::slice::from_ref(endpoint)).await?.into_iter().next();
        let place = place.ok_or_else(|| PlaceError::new(format!("network {} has no address", endpoint.name)))?;
        let is_internal = place.internal;
        let made = overlay_endpoint(place, interface.unwrap_or_else(|| "eth0".to_owned()), |gateway| {
            !is_internal && !(if gateway.is_ipv6() { led[1] } else { led[0] })
        });
        self.networks.note_between(id, |between| between.push(made.clone())).map_err(|error| failed(&error))?;
        self.overlay.attach(id, netns, &made).await.map_err(|error| failed(&error))?;
        Ok(made.own_addresses().collect())
    }

    /// Takes a container off a network between hosts; the addresses that it had there.
    pub async fn leave_between(&self, id: &ContainerId, network: &str) -> Result<Vec<IpAddr>, PlaceError> {
        let attached = self.networks.attachment(id.as_str()).unwrap_or_default();
        let gone = attached.between.iter().filter(|endpoint| endpoint.network == network);
        let addresses = gone.flat_map(OverlayEndpoint::own_addresses).collect();
        let taken_off = self.overlay.detach(id.as_str(), network).await;
        let noted = self.networks.note_between(id.as_str(), |between| {
            between.retain(|endpoint| endpoint.network != network);
        });
        if let Some(asked) = self.between.get() {
            asked.leave(id.as_str(), Some(network));
        }
        taken_off.map_err(|error| PlaceError::new(full_text(&error)))?;
        noted.map_err(|error| PlaceError::new(full_text(&error)))?;
        Ok(addresses)
    }

    /// Serves a container's names on new sockets, which its shim holds too: so that questions wait, and are not refused, while
    /// this process is restarted.
    pub(crate) async fn serve_names(
        &self,
        id: &ContainerId,
        netns: &File,
        client: Client,
        shim: &mut Shim,
    ) -> Result<(), ServeError> {
        self.names.serve_on(id.as_str(), netns, client, open_kept(id, netns, shim).await?).await
    }

    /// Goes on to serve a container's names, on the sockets that its shim has held.
    pub(crate) async fn resume_names(
        &self,
        id: &ContainerId,
        netns: &File,
        client: Client,
        shim: &mut Shim,
    ) -> Result<(), ServeError> {
        let kept = shim.kept().await.unwrap_or_default();
        let kept = <[OwnedFd; 2]>::try_from(kept).ok().and_then(|[udp, tcp]| Sockets::resume(udp, tcp).ok());
        let sockets = match kept {
            Some(sockets) => sockets,
            None => open_kept(id, netns, shim).await?,
        };
        self.names.resume(id.as_str(), netns, client, sockets).await
    }

    fn fill_network_files(&self, record: &Record, around: &Surroundings) -> io::Result<()> {
        let (id, config) = (&record.id, &record.config);
        let state = self.records.directory(id);
        let hostname = spec::hostname(id, config);
        let own_network = config.network_mode != NetworkMode::Host;
        // In place: the files are mounted already.
        let mut linked = config.clone();
        for (other, name) in &config.links {
            let addresses = self.networks.attachment(other.as_str()).unwrap_or_default().endpoints;
            let addresses = addresses.iter().flat_map(Endpoint::addresses);
            let lines = addresses.map(|address| (name.clone(), address.to_string()));
            linked.extra_hosts.extend(lines);
        }
        fs::write(state.join("hosts"), files::hosts(&hostname, &linked, around))?;
        fs::write(state.join("hostname"), format!("{hostname}\n"))?;
        let resolver_file = if around.name_servers.is_empty() {
            files::resolv_conf(&host_resolv_conf(), config, around, own_network)
        } else {
            served_resolver_file(config)
        };
        fs::write(state.join("resolv.conf"), resolver_file)
    }

    /// The network files of a container that runs and has got more addresses, and perhaps its first name server. What the
    /// container itself wrote into them stays.
    pub fn fill_joined(&self, record: &Record, addresses: &[IpAddr], newly_served: bool) -> io::Result<()> {
        let state = self.records.directory(&record.id);
        let path = state.join("hosts");
        let hostname = spec::hostname(&record.id, &record.config);
        let mut hosts = fs::read_to_string(&path)?;
        for &address in addresses {
            hosts = files::hosts_with(&hosts, &hostname, &record.config, address);
        }
        fs::write(&path, hosts)?;
        if newly_served {
            fs::write(state.join("resolv.conf"), served_resolver_file(&record.config))?;
        }
        Ok(())
    }

    /// Takes the addresses that a container has no more out of its hosts file.
    pub fn forget_addresses(&self, id: &ContainerId, addresses: &[IpAddr]) -> io::Result<()> {
        let path = self.records.directory(id).join("hosts");
        let mut hosts = fs::read_to_string(&path)?;
        for &address in addresses {
            hosts = files::hosts_without(&hosts, address);
        }
        fs::write(&path, hosts)
    }

    /// Takes away what a start made on the host, running or not. Everything is tried; every failure is told.
    pub async fn clear(&self, id: &ContainerId, cgroups: &Cgroups) -> Vec<String> {
        let mut failures = Vec::new();
        let groups = cgroups.clone();
        // First the processes: a network namespace that nobody is in goes with its links.
        let removal = tokio::task::spawn_blocking(move || {
            cgroup::kill_all(&groups);
            cgroup::remove(&groups)
        });
        match removal.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => failures.push(full_text(&error)),
            Err(error) => failures.push(error.to_string()),
        }
        crash_point!("clear.groups");
        if let Err(error) = self.networks.detach(id.as_str()).await {
            failures.push(full_text(&error));
        }
        crash_point!("clear.networks");
        self.names.stop(id.as_str());
        if let Err(error) = self.overlay.detach_all(id.as_str()).await {
            failures.push(full_text(&error));
        }
        // Nobody else gets its addresses before they are gone from here.
        if let Some(asked) = self.between.get() {
            asked.leave(id.as_str(), None);
        }
        failures.extend(self.volumes.leave(id.as_str()));
        crash_point!("clear.volumes");
        let run = self.run_directory(id);
        if let Err(error) = fs::remove_dir_all(&run)
            && error.kind() != io::ErrorKind::NotFound
        {
            failures.push(format!("could not remove {}: {error}", run.display()));
        }
        crash_point!("clear.run");
        failures
    }
}

async fn open_kept(id: &ContainerId, netns: &File, shim: &mut Shim) -> Result<Sockets, ServeError> {
    let sockets = Sockets::open(netns).map_err(|source| ServeError::Open { id: id.to_string(), source })?;
    // A shim of an older version holds nothing: its container's questions are refused for the moment of a restart.
    match shim.keep(&sockets.descriptors()).await {
        Ok(true) => {}
        Ok(false) => tracing::debug!(container = %id, "its shim does not hold the name server's sockets"),
        Err(error) => tracing::debug!(container = %id, %error, "its shim does not hold the name server's sockets"),
    }
    Ok(sockets)
}

/// The directories whose files' owners are mapped for a container with a user namespace. What the overlay writes to and its
/// scratch directory must lie in one mount, so they are mapped together.
fn layers(overlay: &OverlayDirectories) -> Vec<PathBuf> {
    overlay.lower.iter().cloned().chain(overlay.upper.parent().map(Path::to_owned)).collect()
}

/// What a container on networks that have names may ask; `None`: its networks have none.
pub(crate) fn name_client(config: &ContainerConfig) -> Option<Client> {
    let named = || config.networks.iter().map(|network| &network.name).filter(|name| *name != USUAL_NETWORK);
    if config.network_mode != NetworkMode::Networks || (config.overlays.is_empty() && named().next().is_none()) {
        return None;
    }
    let leads_outside = config.overlays.iter().any(|endpoint| !endpoint.gateways.is_empty());
    let upstream = match config.dns.as_slice() {
        [] if leads_outside || !config.networks.is_empty() => Upstream::Host,
        [] => Upstream::Nobody,
        servers => Upstream::Servers(servers.to_vec()),
    };
    Some(Client {
        networks: config.overlays.iter().map(|endpoint| &endpoint.network).chain(named()).cloned().collect(),
        layers: (config.overlays.iter().map(|endpoint| (endpoint.network.clone(), Layer::Cluster)))
            .chain(config.networks.iter().map(|network| {
                (network.name.clone(), if network.between_hosts { Layer::Cluster } else { Layer::Host })
            }))
            .collect(),
        stack: config.name_scope.clone(),
        upstream,
    })
}

/// So many characters of an id are its short form.
const SHORT_ID: usize = 12;

/// What a container is called on networks between hosts, beside its aliases there.
pub(crate) fn guest_names(record: &Record) -> Vec<String> {
    let short: String = record.id.as_str().chars().take(SHORT_ID).collect();
    vec![record.config.name.clone().unwrap_or_else(|| record.id.to_string()), short]
}

/// An interface on a network between hosts; `leads` says of which of its gateways there is a default route.
fn overlay_endpoint(place: Place, interface: String, leads: impl Fn(&IpAddr) -> bool) -> OverlayEndpoint {
    OverlayEndpoint {
        mac: link_address(place.addresses.iter().map(ipnet::IpNet::addr)),
        network: place.network,
        interface,
        addresses: place.addresses,
        gateways: place.gateways.into_iter().filter(leads).collect(),
    }
}

/// Of the networks that lead outside the one with the highest priority, among equals the first by name.
fn leading_place<'a>(places: &'a [Place], asked: &[NetworkEndpoint]) -> Option<&'a Place> {
    let priority = |place: &Place| {
        let endpoint = asked.iter().find(|endpoint| endpoint.name == place.network);
        endpoint.map_or(0, |endpoint| endpoint.priority)
    };
    let outside = places.iter().filter(|place| !place.internal);
    outside.min_by(|one, other| (priority(other), &one.network).cmp(&(priority(one), &other.network)))
}

/// What a further process is confined by beside one with that: our own profile lets it be under it at once, another one may
/// only be for programs.
pub(super) fn confinement_beside(confinement: Option<Confinement>) -> Option<Confinement> {
    confinement.map(|confinement| Confinement {
        moment: if confinement.profile == DEFAULT_PROFILE {
            ConfinementMoment::Now
        } else {
            ConfinementMoment::Program
        },
        ..confinement
    })
}

/// Labels for SELinux what shall have the container's label: volumes, and directories of the host that are said to.
fn label_mounts(
    config: &ContainerConfig,
    volumes: &std::collections::BTreeMap<String, PathBuf>,
    labels: &SelinuxLabels,
) -> Result<(), RelabelError> {
    let label_of = |how: Relabel| match how {
        Relabel::Shared => labels.shared_mount(),
        Relabel::Private => labels.mount.clone(),
    };
    for (target, path) in volumes {
        let asked = config.mounts.iter().find(|mount| mount.target == *target).and_then(|mount| mount.relabel);
        // What comes to be in it has the label of what it comes into, so that it is gone through once.
        relabel(path, &label_of(asked.unwrap_or(Relabel::Shared)), false)?;
    }
    for mount in &config.mounts {
        if let (ContainerMountSource::Bind { path, .. }, Some(how)) = (&mount.source, mount.relabel) {
            relabel(path, &label_of(how), true)?;
        }
    }
    Ok(())
}

/// The filter of a container's system calls, before it is compiled.
pub(crate) fn chosen_filter(
    config: &ContainerConfig,
    capabilities: u64,
) -> Result<Option<seccomp::Filter>, seccomp::ProfileError> {
    match &config.seccomp {
        SeccompChoice::Unconfined => Ok(None),
        SeccompChoice::Default if config.privileged => Ok(None),
        SeccompChoice::Default => Ok(Some(seccomp::default_profile(capabilities, std::env::consts::ARCH))),
        SeccompChoice::Custom(text) => seccomp::parse(text, capabilities, std::env::consts::ARCH).map(Some),
    }
}

/// An error and its causes in one line.
pub(crate) fn full_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// The resolver file of a container that has a name server of ours.
fn served_resolver_file(config: &ContainerConfig) -> String {
    let own = ResolverOverrides { search: config.dns_search.clone(), options: config.dns_options.clone() };
    container_resolver_file(&ResolverFile::parse(&host_resolv_conf()), &own)
}

/// The host's resolver settings; behind systemd-resolved the real ones, because its own address is the host's alone.
fn host_resolv_conf() -> String {
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    if text.contains("nameserver 127.0.0.53") {
        return fs::read_to_string("/run/systemd/resolve/resolv.conf").unwrap_or(text);
    }
    text
}

fn write_files(run: &Path, state: &Path, launch: &Launch, exit_file: PathBuf) -> io::Result<()> {
    match fs::remove_file(exit_file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Whatever an earlier start left there is of no use.
    match fs::remove_dir_all(run) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::DirBuilder::new().mode(0o700).create(run)?;
    fs::create_dir(run.join("root"))?;
    for name in NETWORK_FILES {
        // Readable for every user in the container, but only mounted there: the directory is root's alone.
        fs::OpenOptions::new().create(true).append(true).mode(0o644).open(state.join(name))?;
    }
    let file = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(run.join(LAUNCH_FILE))?;
    serde_json::to_writer(io::BufWriter::new(file), launch)?;
    if !launch.hooks.is_empty() {
        let root = serde_json::json!({ "path": launch.root.mountpoint, "readonly": launch.root.read_only });
        let bundle = serde_json::json!({ "ociVersion": RUNTIME_VERSION, "root": root, "hostname": launch.hostname });
        fs::write(run.join(BUNDLE_FILE), bundle.to_string())?;
    }
    Ok(())
}

fn check_bind_source(id: &ContainerId, path: &Path, make: bool) -> Result<(), StartError> {
    match fs::metadata(path) {
        Ok(_) => Ok(()),
        Err(_) if make && fs::create_dir_all(path).is_ok() => Ok(()),
        Err(_) => Err(StartError::MountSource { id: id.clone(), path: path.to_owned() }),
    }
}

fn found_device(source: &Path, target: &str, access: &str) -> io::Result<Option<FoundDevice>> {
    let metadata = fs::metadata(source)?;
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => DeviceKind::Character,
        kind if kind.is_block_device() => DeviceKind::Block,
        _ => return Ok(None),
    };
    let (major, minor) = (libc::major(metadata.rdev()), libc::minor(metadata.rdev()));
    Ok(Some(FoundDevice {
        node: DeviceNode {
            path: target.to_owned(),
            kind,
            major: major.into(),
            minor: minor.into(),
            mode: metadata.mode() & 0o777,
            uid: metadata.uid(),
            gid: metadata.gid(),
        },
        access: access.to_owned(),
    }))
}

/// Limits name block devices by path; the kernel wants their numbers.
fn with_device_numbers(id: &ContainerId, resources: &Resources) -> Result<Resources, StartError> {
    let mut resources = resources.clone();
    let throttled = resources.blkio_throttles.iter_mut().map(|throttle| &mut throttle.device);
    let weighed = resources.blkio_device_weights.iter_mut().map(|weight| &mut weight.device);
    for device in throttled.chain(weighed) {
        let refuse = |cause| StartError::Device { id: id.clone(), path: device.clone(), cause };
        let metadata = fs::metadata(&*device).map_err(|error| refuse(Some(error)))?;
        if !metadata.file_type().is_block_device() {
            return Err(refuse(None));
        }
        *device = format!("{}:{}", libc::major(metadata.rdev()), libc::minor(metadata.rdev()));
    }
    Ok(resources)
}

fn find_devices(id: &ContainerId, config: &ContainerConfig) -> Result<Vec<FoundDevice>, StartError> {
    let mut all = Vec::new();
    if config.privileged {
        // Those directly in /dev and in its directories of devices; terminals and shared memory are the container's own.
        let mut directories = vec![PathBuf::from("/dev")];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(&directory).into_iter().flatten().filter_map(Result::ok) {
                let path = entry.path();
                let Some(text) = path.to_str() else { continue };
                let Ok(kind) = entry.file_type() else { continue };
                if kind.is_dir() && !["/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/hugepages"].contains(&text) {
                    directories.push(path);
                } else if (kind.is_char_device() || kind.is_block_device())
                    && !["/dev/console", "/dev/ptmx"].contains(&text)
                    && let Ok(Some(device)) = found_device(&path, text, "rwm")
                {
                    all.push(device);
                }
            }
        }
    }
    for device in &config.devices {
        let refuse = |cause| StartError::Device { id: id.clone(), path: device.source.clone(), cause };
        let found = found_device(Path::new(&device.source), &device.target, &device.permissions)
            .map_err(|error| refuse(Some(error)))?
            .ok_or_else(|| refuse(None))?;
        all.push(found);
    }
    Ok(all)
}
