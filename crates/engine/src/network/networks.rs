//! The networks of this host: the state that decides, and the steps that make the kernel match it.
//!
//! What a container gets is decided under a short lock, written to disk, and then made; so a crash at any moment leaves
//! a record to take down by. The ruleset is a function of the whole state and is replaced as a whole; of several callers
//! at once, one replaces it for all.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use ipnet::IpNet;
use sha2::{Digest as _, Sha256};

use super::USUAL_NETWORK;
use super::choosing::{check_network_name, check_request};
use super::errors::{AttachError, Failure, Failures, NetworkError, OpenError, all_or};
use super::forwarding;
use super::kernel::{self, KernelError, LinkPlan};
use super::loopback::{self, LoopbackRelays};
use super::names;
use super::ports;
use super::records::Records;
use super::request::{
    Attachment, ContainerRecord, Endpoint, GatewayMode, NetworkConfig, NetworkRecord, NetworkRequest, NetworkSettings,
    NetworkStatus, NetworkTemplate, Protocol,
};
use super::reservation::Reservations;
use super::ruleset::{Ruleset, ruleset};
use crate::crash_point::crash_point;
use crate::dns::{Directory, Layer};
use crate::events::{Events, Happening, NetworkEvent, Teller};

/// The networks of this host.
#[derive(Debug)]
pub struct Networks {
    pub(super) config: NetworkConfig,
    pub(super) records: Records,
    state: Mutex<State>,
    /// Held while a network is made or removed, so that two callers do not choose the same subnet.
    pub(super) shaping: tokio::sync::Mutex<()>,
    /// The ruleset that the kernel has.
    applied: tokio::sync::Mutex<Option<Ruleset>>,
    /// Published ports at the host's loopback, where rules do not lead to containers.
    relays: LoopbackRelays,
    /// Where the names of containers are published, once somebody asks for that.
    directory: OnceLock<Arc<Directory>>,
    pub(super) teller: Teller,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) networks: BTreeMap<String, NetworkRecord>,
    pub(super) containers: BTreeMap<String, Entry>,
    pub(super) templates: BTreeMap<String, NetworkTemplate>,
    /// The address given out last, by subnet.
    pub(super) last: BTreeMap<IpNet, IpAddr>,
    pub(super) reservations: Reservations,
    warnings: Vec<String>,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) record: ContainerRecord,
    /// Its links are made, so that its ports can be served.
    pub(super) linked: bool,
}

/// What adopting found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Adopted {
    /// Containers that were remembered and are gone.
    pub forgotten: Vec<String>,
    /// Containers that are alive and were remembered.
    pub kept: Vec<String>,
}

impl Networks {
    /// Reads what is remembered under `root`. Nothing is asked of the kernel before [`Networks::adopt`].
    ///
    /// # Errors
    /// When the configuration makes no sense or the records cannot be read.
    pub async fn open(root: &Path, config: NetworkConfig) -> Result<Self, OpenError> {
        config.check()?;
        let records = Records::open(root)?;
        let remembered = records.load()?;
        let mut state = State { warnings: remembered.warnings, ..State::default() };
        for mut network in remembered.networks {
            if network.id.is_empty() {
                network.id = usual_id(&network.name);
            }
            state.networks.insert(network.name.clone(), network);
        }
        for template in remembered.templates {
            state.templates.insert(template.name.clone(), template);
        }
        for record in remembered.containers {
            state.containers.insert(record.id.clone(), Entry { record, linked: true });
        }
        for warning in &state.warnings {
            tracing::warn!("{warning}");
        }
        Ok(Self {
            config,
            records,
            state: Mutex::new(state),
            shaping: tokio::sync::Mutex::default(),
            applied: tokio::sync::Mutex::default(),
            relays: LoopbackRelays::default(),
            directory: OnceLock::new(),
            teller: Teller::default(),
        })
    }

    /// Tells of networks that come and go here from now on.
    pub fn tell_to(&self, events: Events) {
        self.teller.tell_to(events);
    }

    /// The identifier of a network, and what joins its containers.
    #[must_use]
    pub fn id_and_driver(&self, name: &str) -> Option<(String, &'static str)> {
        self.lock().networks.get(name).map(|network| (network.id.clone(), network.settings.driver.as_str()))
    }

    /// Whether a network is a bridge of the host, which is then its containers' neighbour there.
    pub(crate) fn is_bridge(&self, name: &str) -> bool {
        self.lock().is_bridge(name)
    }

    pub(super) fn tell(&self, network: &NetworkRecord, kind: NetworkEvent) {
        // The usual one is there whoever asks.
        if network.name != USUAL_NETWORK {
            let (id, name) = (network.id.clone(), network.name.clone());
            let driver = network.settings.driver.as_str();
            self.teller.tell(|| Happening::Network { id, name, driver, kind });
        }
    }

    /// Publishes the names of containers in this directory from now on. Only the first call has an effect.
    pub fn publish_in(&self, directory: Arc<Directory>) {
        if self.directory.set(directory).is_ok() {
            self.publish();
        }
    }

    /// Publishes the names as they are now.
    pub(super) fn publish(&self) {
        let Some(directory) = self.directory.get() else { return };
        // Under the lock, so that an older state is never published after a newer one.
        let state = self.lock();
        let containers: Vec<&ContainerRecord> = state.containers.values().map(|entry| &entry.record).collect();
        directory.replace(Layer::Host, names::names(state.networks.values(), &containers));
    }

    /// What a person should know of: records that could not be read, ports that others took, firewalls in the way.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        self.lock().warnings.clone()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of the state is a single assignment or insertion, so a panic elsewhere leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn warn(&self, warning: String) {
        tracing::warn!("{warning}");
        let mut state = self.lock();
        if !state.warnings.contains(&warning) {
            state.warnings.push(warning);
        }
    }

    /// Gives a container its interfaces, addresses, routes and published ports, and makes the usual network where it does not
    /// exist yet. `netns` is its network namespace, e.g. an open `/proc/PID/ns/net`. A caller that gives up half-way calls
    /// [`Networks::detach`].
    ///
    /// # Errors
    /// Why it cannot be; nothing is left of the attempt then.
    pub async fn attach(&self, id: &str, netns: &File, request: &NetworkRequest) -> Result<Attachment, AttachError> {
        check_request(id, request)?;
        let kernel_refused = |source| AttachError::Kernel { id: id.to_owned(), source };
        {
            let inside = kernel::open_in(netns).map_err(kernel_refused)?;
            kernel::loopback_up(&inside).await.map_err(kernel_refused)?;
        }
        let mut on = Vec::new();
        for network in &request.networks {
            on.push(self.usable_network(&network.name).await?);
        }
        let record = self.decide(id, request)?;
        crash_point!("attach.recorded");
        self.publish();
        let made = self.make_links(&record, netns, &on).await;
        let made = match made {
            Ok(()) => {
                if let Some(entry) = self.lock().containers.get_mut(id) {
                    entry.linked = true;
                }
                self.apply().await
            }
            Err(error) => Err(error),
        };
        if let Err(source) = made {
            self.delete_children(&record, netns).await;
            if let Err(failures) = self.detach(id).await {
                tracing::warn!(%failures, id, "an attempt to attach a container left something behind");
            }
            return Err(AttachError::Kernel { id: id.to_owned(), source });
        }
        Ok(record.attachment)
    }

    /// Chooses addresses and ports, holds them and writes them down.
    fn decide(&self, id: &str, request: &NetworkRequest) -> Result<ContainerRecord, AttachError> {
        let mut state = self.lock();
        if state.containers.contains_key(id) {
            return Err(AttachError::AlreadyAttached { id: id.to_owned() });
        }
        let mut record = ContainerRecord {
            id: id.to_owned(),
            hostname: request.hostname.clone(),
            name: request.name.clone(),
            attachment: Attachment { between: request.between.clone(), ..Attachment::default() },
            links: Vec::new(),
            sysctls: Vec::new(),
            aliases: request.networks.iter().map(|network| network.aliases.clone()).collect(),
            ready: true,
        };
        for (index, network) in request.networks.iter().enumerate() {
            let endpoint = state.choose_endpoint(id, network, format!("eth{index}"))?;
            record.links.push(state.host_link(&self.config.prefix, &endpoint, &record.links)?);
            state.note_given(&endpoint);
            record.attachment.endpoints.push(endpoint);
            record.sysctls.push(network.sysctls.clone());
        }
        let wanted = state.ports_wanted(&record, &request.ports)?;
        ports::check(&wanted, state.containers.values().map(|entry| &entry.record))?;
        let held = state.hold_ports(wanted).and_then(|ports| {
            record.attachment.ports = ports;
            self.records.put_container(&record).map_err(|source| AttachError::Record { id: id.to_owned(), source })
        });
        if let Err(error) = held {
            state.release_ports();
            return Err(error);
        }
        state.containers.insert(id.to_owned(), Entry { record: record.clone(), linked: false });
        Ok(record)
    }

    async fn make_links(&self, record: &ContainerRecord, netns: &File, on: &[u32]) -> Result<(), KernelError> {
        let endpoints = record.attachment.endpoints.iter().zip(&record.links).zip(on);
        for (index, ((endpoint, link), &on)) in endpoints.enumerate() {
            let Some(plan) = self.link_plan(record, index) else { continue };
            if plan.driver.is_bridge() {
                kernel::make_link(netns, &plan).await?;
                crash_point!("attach.linked");
                kernel::join_bridge(link, on, self.is_isolated(&endpoint.network)).await?;
                crash_point!("attach.bridged");
            } else {
                kernel::make_child(netns, &plan, on).await?;
                crash_point!("attach.child");
            }
        }
        Ok(())
    }

    /// Takes the links away that only the container has.
    async fn delete_children(&self, record: &ContainerRecord, netns: &File) {
        let endpoints = record.attachment.endpoints.iter().zip(&record.links);
        for (endpoint, _) in endpoints.filter(|(_, link)| link.is_empty()) {
            if let Err(left) = kernel::delete_child(netns, &endpoint.interface).await {
                tracing::warn!(%left, id = record.id, "an attempt to attach a container left something behind");
            }
        }
    }

    pub(super) fn is_isolated(&self, network: &str) -> bool {
        self.lock().networks.get(network).is_some_and(|network| network.settings.isolated)
    }

    /// What is to be made for one interface of a container.
    pub(super) fn link_plan(&self, record: &ContainerRecord, index: usize) -> Option<LinkPlan> {
        let endpoint = record.attachment.endpoints.get(index)?;
        let settings = self.lock().networks.get(&endpoint.network).map(|network| network.settings.clone());
        let NetworkSettings { driver, mtu, .. } = settings.unwrap_or_default();
        let leads = |leading: Option<&Endpoint>| leading.is_some_and(|leading| leading.network == endpoint.network);
        let leads4 = leads(record.attachment.leading4().map(|(leading, _)| leading));
        let leads6 = leads(record.attachment.leading6().map(|(leading, _)| leading));
        let file = |name: &str| format!("net/{}", name.replace('.', "/").replace("IFNAME", &endpoint.interface));
        let sysctls = record.sysctls.get(index).into_iter().flatten();
        let route4 = endpoint.gateway.filter(|_| leads4).map(|gateway| endpoint.default_route(gateway.into()));
        let route6 = endpoint.ipv6.filter(|_| leads6).map(|part| endpoint.default_route(part.gateway.into()));
        // A parent gives its own to the links on it.
        let usual = Some(self.config.mtu).filter(|_| driver.is_bridge());
        Some(LinkPlan {
            driver,
            host: record.links.get(index)?.clone(),
            interface: endpoint.interface.clone(),
            ipv4: endpoint.address,
            mac: endpoint.mac.parse().ok(),
            sysctls: sysctls.map(|(name, value)| (file(name), value.clone())).collect(),
            ipv6: endpoint.ipv6.map(|part| part.net),
            link_local: endpoint.link_local.clone(),
            routes: [route4, route6].into_iter().flatten().collect(),
            mtu: mtu.or(usual),
        })
    }

    /// Whether a network leads outside in this family; one that is not there yet will have IPv4 and do so.
    pub(crate) fn leads_outside(&self, name: &str, is_ipv6: bool) -> bool {
        let state = self.lock();
        let Some(network) = state.networks.get(name) else { return !is_ipv6 };
        let has_family = if is_ipv6 { network.ipv6.is_some() } else { network.subnet.is_some() };
        has_family && !network.is_internal()
    }

    /// Takes a container off its networks: first its published ports, then its links, then its record. One that is not
    /// attached is no error.
    ///
    /// # Errors
    /// Everything that did not work. The record is kept then, so that it can be tried again.
    pub async fn detach(&self, id: &str) -> Result<(), Failures> {
        let Some(record) = self.lock().containers.get_mut(id).map(|entry| {
            entry.linked = false;
            entry.record.clone()
        }) else {
            return Ok(());
        };
        let mut failures: Vec<Failure> = Vec::new();
        failures.extend(self.apply().await.err().map(Failure::from));
        crash_point!("detach.unruled");
        for link in record.host_links() {
            failures.extend(kernel::delete_link(link).await.err().map(Failure::from));
        }
        for (_, address) in record.serving().filter(|_| !record.attachment.ports.is_empty()) {
            failures.extend(kernel::forget_connections(address).await.err().map(Failure::from));
        }
        crash_point!("detach.unlinked");
        if failures.is_empty() {
            match self.records.remove_container(id) {
                Ok(()) => {
                    crash_point!("detach.forgotten");
                    let mut state = self.lock();
                    state.containers.remove(id);
                    state.release_ports();
                }
                Err(error) => failures.push(error.into()),
            }
            self.publish();
        }
        all_or(|| format!("could not take container {id} off its networks"), failures)
    }

    /// Whether new connections to a container's published ports go to it. Those that exist are not touched. A container
    /// that is not attached is no error.
    ///
    /// # Errors
    /// What did not work.
    pub async fn set_ready(&self, id: &str, ready: bool) -> Result<(), Failures> {
        let changed = {
            let mut state = self.lock();
            match state.containers.get_mut(id) {
                Some(entry) if entry.record.ready != ready => {
                    entry.record.ready = ready;
                    Some(entry.record.clone())
                }
                _ => None,
            }
        };
        let Some(record) = changed else { return Ok(()) };
        let mut failures: Vec<Failure> = Vec::new();
        failures.extend(self.apply().await.err().map(Failure::from));
        failures.extend(self.records.put_container(&record).err().map(Failure::from));
        all_or(|| format!("could not set whether container {id} is served"), failures)
    }

    /// Makes a network unless it exists.
    ///
    /// # Errors
    /// Why it cannot be made.
    pub async fn create_network(&self, name: &str) -> Result<NetworkRecord, NetworkError> {
        self.ensure_network(name).await?;
        let known = self.lock().networks.get(name).cloned();
        known.ok_or_else(|| NetworkError::Name { name: name.to_owned() })
    }

    /// The index of the link of the host that a container's link is to be on.
    pub(super) async fn usable_network(&self, name: &str) -> Result<u32, NetworkError> {
        check_network_name(name)?;
        if name != USUAL_NETWORK && !self.lock().networks.contains_key(name) {
            return Err(NetworkError::Missing { name: name.to_owned() });
        }
        self.ensure_network(name).await
    }

    /// The index of the bridge or the parent of a network that exists now.
    async fn ensure_network(&self, name: &str) -> Result<u32, NetworkError> {
        let kernel_refused = |source| NetworkError::Kernel { name: name.to_owned(), source };
        let known = self.lock().networks.get(name).cloned();
        if let Some(network) = known {
            if let Some(index) = kernel::link_index(&network.link).await.map_err(kernel_refused)? {
                return Ok(index);
            }
            return self.make_host_link(&network).await;
        }
        let _shaping = self.shaping.lock().await;
        let known = self.lock().networks.get(name).cloned();
        let network = match known {
            Some(network) => network,
            None => self.decide_network(name, usual_id(name), &NetworkSettings::default()).await?,
        };
        self.make_host_link(&network).await
    }

    /// The bridge or the parent of a network.
    pub(super) async fn make_host_link(&self, network: &NetworkRecord) -> Result<u32, NetworkError> {
        if network.settings.driver.is_bridge() {
            self.make_bridge(network).await
        } else {
            self.make_parent(network).await
        }
    }

    async fn make_bridge(&self, network: &NetworkRecord) -> Result<u32, NetworkError> {
        let name = &network.name;
        let setting = |source| NetworkError::Setting { name: name.clone(), source };
        let kernel_refused = |source| NetworkError::Kernel { name: name.clone(), source };
        if network.subnet.is_some() {
            forwarding::enable_forwarding().map_err(setting)?;
        }
        let index = kernel::ensure_bridge(network, network.settings.mtu.unwrap_or(self.config.mtu))
            .await
            .map_err(kernel_refused)?;
        crash_point!("network.link");
        if network.subnet.is_some() {
            forwarding::route_loopback(&network.link).map_err(setting)?;
        }
        if let Some(part) = network.ipv6 {
            forwarding::enable_ipv6(&network.link).map_err(setting)?;
            if network.gateway_mode(true) != GatewayMode::Isolated {
                kernel::give_address6(&network.link, index, part).await.map_err(kernel_refused)?;
            }
        }
        self.apply().await.map_err(kernel_refused)?;
        crash_point!("network.ruled");
        self.open_firewalls().await.map_err(kernel_refused)?;
        Ok(index)
    }

    /// Lets our bridges through the host's firewalls where that can be, and warns where it cannot.
    async fn open_firewalls(&self) -> Result<(), KernelError> {
        let (bridges, bridges6): (Vec<String>, Vec<String>) = {
            let state = self.lock();
            let named = |network: &NetworkRecord| network.link.clone();
            let with_ipv4 = state.bridges().filter(|network| network.subnet.is_some());
            let with_ipv6 = state.bridges().filter(|network| network.ipv6.is_some());
            (with_ipv4.map(named).collect(), with_ipv6.map(named).collect())
        };
        for warning in kernel::open_firewalls(&self.config.table, &bridges, &bridges6).await? {
            self.warn(warning);
        }
        Ok(())
    }

    /// Removes a network on which no container is. One that does not exist is no error.
    ///
    /// # Errors
    /// When containers are on it, or what did not work.
    pub async fn remove_network(&self, name: &str) -> Result<(), NetworkError> {
        let _shaping = self.shaping.lock().await;
        let network = {
            let mut state = self.lock();
            let count = state.on_network(name).count();
            if count > 0 {
                return Err(NetworkError::InUse { name: name.to_owned(), count });
            }
            match state.networks.remove(name) {
                Some(network) => network,
                None => return Ok(()),
            }
        };
        let removed = async {
            self.apply().await.map_err(|source| NetworkError::Kernel { name: name.to_owned(), source })?;
            self.open_firewalls().await.map_err(|source| NetworkError::Kernel { name: name.to_owned(), source })?;
            crash_point!("network.unruled");
            if !network.settings.driver.is_bridge() {
                self.release_parent(&network).await?;
            } else if !network.found_bridge {
                kernel::delete_link(&network.link)
                    .await
                    .map_err(|source| NetworkError::Kernel { name: name.to_owned(), source })?;
            }
            crash_point!("network.unlinked");
            self.records
                .remove_network(&network)
                .map_err(|source| NetworkError::Record { name: name.to_owned(), source })
        }
        .await;
        match &removed {
            Ok(()) => {
                crash_point!("network.forgotten");
                self.tell(&network, NetworkEvent::Removed);
            }
            Err(_) => drop(self.lock().networks.insert(name.to_owned(), network)),
        }
        self.publish();
        removed
    }

    /// Every network with the containers on it.
    #[must_use]
    pub fn list(&self) -> Vec<NetworkStatus> {
        let state = self.lock();
        state
            .networks
            .values()
            .map(|network| NetworkStatus {
                network: network.clone(),
                containers: state.on_network(&network.name).cloned().collect(),
            })
            .collect()
    }

    /// The ruleset as it should be now, in the language of `nft`: for people who look into a host.
    #[must_use]
    pub fn ruleset_text(&self) -> String {
        let (networks, containers) = self.served();
        ruleset(&self.config.table, &networks, &containers, &self.relays.ports()).to_string()
    }

    /// What a container got, if it is attached.
    #[must_use]
    pub fn attachment(&self, id: &str) -> Option<Attachment> {
        self.lock().containers.get(id).map(|entry| entry.record.attachment.clone())
    }

    /// After a start of `stackd`: forgets the containers that are not in `live`, keeps the others with their addresses
    /// and ports, removes links that belong to nobody, and repairs what is missing.
    ///
    /// # Errors
    /// Everything that did not work; the rest was done.
    pub async fn adopt(&self, live: &[String]) -> Result<Adopted, Failures> {
        let live: BTreeSet<&str> = live.iter().map(String::as_str).collect();
        let remembered: Vec<String> = self.lock().containers.keys().cloned().collect();
        let mut failures: Vec<Failure> = Vec::new();
        let mut adopted = Adopted::default();
        for id in remembered {
            if live.contains(id.as_str()) {
                adopted.kept.push(id);
            } else {
                match self.detach(&id).await {
                    Ok(()) => {}
                    Err(error) => failures.extend(error.failures),
                }
                adopted.forgotten.push(id);
            }
        }
        let lost: Vec<String> = {
            let mut state = self.lock();
            let held = ports::held(state.containers.values().map(|entry| &entry.record));
            held.into_iter()
                .filter_map(|port| state.reservations.hold(port).err())
                .map(|error| error.to_string())
                .collect()
        };
        for reason in lost {
            self.warn(format!("a published port could not be held again: {reason}"));
        }
        failures.extend(self.remove_strangers().await);
        let (networks, containers) = self.served();
        let relayed: BTreeSet<u16> = loopback::wanted(&networks, &containers)
            .into_keys()
            .filter(|at| at.protocol == Protocol::Udp)
            .map(|at| at.port)
            .collect();
        if !relayed.is_empty() {
            failures.extend(kernel::forget_relayed(&relayed).await.err().map(Failure::from));
        }
        failures.extend(self.reconcile().await.err().into_iter().flat_map(|error| error.failures));
        all_or(|| "could not take over all networks".to_owned(), failures)?;
        Ok(adopted)
    }

    /// Removes links with our names that no record knows.
    async fn remove_strangers(&self) -> Vec<Failure> {
        let known: BTreeSet<String> = {
            let state = self.lock();
            let links = state.networks.values().map(|network| network.link.clone());
            links.chain(state.containers.values().flat_map(|entry| entry.record.links.clone())).collect()
        };
        let mut failures = Vec::new();
        match kernel::own_links(&self.config.prefix).await {
            Ok(links) => {
                for link in links.iter().filter(|link| !known.contains(*link)) {
                    failures.extend(kernel::delete_link(link).await.err().map(Failure::from));
                }
            }
            Err(error) => failures.push(error.into()),
        }
        failures
    }

    /// Makes the kernel match the records again: settings, bridges, the links on them, and the ruleset.
    ///
    /// # Errors
    /// Everything that did not work; the rest was done.
    pub async fn reconcile(&self) -> Result<(), Failures> {
        let mut failures: Vec<Failure> = Vec::new();
        let networks: Vec<NetworkRecord> = self.lock().networks.values().cloned().collect();
        for network in &networks {
            match self.make_host_link(network).await {
                Ok(index) => {
                    let links: Vec<String> = self.lock().links_on(&network.name);
                    for link in links {
                        match kernel::join_bridge(&link, index, network.settings.isolated).await {
                            Ok(()) => {}
                            Err(error) => failures.push(error.into()),
                        }
                    }
                }
                Err(error) => failures.push(error.into()),
            }
        }
        failures.extend(self.repair().await.err().map(Failure::from));
        all_or(|| "could not repair all networks".to_owned(), failures)
    }

    /// The bridges, and the containers whose links are made.
    fn served(&self) -> (Vec<NetworkRecord>, Vec<ContainerRecord>) {
        let state = self.lock();
        let linked = state.containers.values().filter(|entry| entry.linked);
        (state.bridges().cloned().collect(), linked.map(|entry| entry.record.clone()).collect())
    }

    /// The ruleset as it should be, with the relays that it sends something to. The caller holds `applied`.
    fn wanted(&self) -> Ruleset {
        let (networks, containers) = self.served();
        let (relays, failures) = self.relays.arrange(loopback::wanted(&networks, &containers));
        for (at, error) in failures {
            self.warn(format!(
                "the published port {}/{} does not answer this host itself: no relay could be started: {error}",
                ports::at(at.address, at.port),
                at.protocol
            ));
        }
        ruleset(&self.config.table, &networks, &containers, &relays)
    }

    /// Replaces the ruleset unless the kernel has it. Callers that come while one works find theirs done.
    pub(super) async fn apply(&self) -> Result<(), KernelError> {
        let mut applied = self.applied.lock().await;
        let wanted = self.wanted();
        if applied.as_ref() == Some(&wanted) {
            return Ok(());
        }
        // Unknown until the kernel has answered.
        let present = applied.take();
        kernel::apply(present.as_ref(), &wanted).await?;
        *applied = Some(wanted);
        Ok(())
    }

    /// Replaces the ruleset where somebody else changed it.
    async fn repair(&self) -> Result<(), KernelError> {
        let mut applied = self.applied.lock().await;
        let wanted = self.wanted();
        if applied.as_ref() != Some(&wanted) || kernel::table_differs(&wanted).await? {
            *applied = None;
            kernel::apply(None, &wanted).await?;
            *applied = Some(wanted);
        }
        Ok(())
    }

    /// Removes every link, rule and record of this engine's networks, those of containers included.
    ///
    /// # Errors
    /// Everything that did not work; the rest was done.
    pub async fn remove_all(&self) -> Result<(), Failures> {
        let _shaping = self.shaping.lock().await;
        let mut applied = self.applied.lock().await;
        let mut failures: Vec<Failure> = Vec::new();
        *applied = None;
        self.relays.end();
        failures.extend(kernel::remove_table(&self.config.table).await.err().map(Failure::from));
        failures.extend(kernel::close_firewalls(&self.config.table).await.err().map(Failure::from));
        match kernel::own_links(&self.config.prefix).await {
            Ok(links) => {
                for link in links {
                    failures.extend(kernel::delete_link(&link).await.err().map(Failure::from));
                }
            }
            Err(error) => failures.push(error.into()),
        }
        let (networks, containers): (Vec<NetworkRecord>, Vec<String>) = {
            let mut state = self.lock();
            let networks = std::mem::take(&mut state.networks).into_values().collect();
            let containers = std::mem::take(&mut state.containers).into_keys().collect();
            state.release_ports();
            (networks, containers)
        };
        let templates = std::mem::take(&mut self.lock().templates);
        for template in templates.values() {
            failures.extend(self.records.remove_template(template).err().map(Failure::from));
        }
        for network in networks {
            // Those with names of our own are gone already.
            if network.made_parent || (network.settings.bridge.is_some() && !network.found_bridge) {
                failures.extend(kernel::delete_link(&network.link).await.err().map(Failure::from));
            }
            failures.extend(self.records.remove_network(&network).err().map(Failure::from));
        }
        for id in containers {
            failures.extend(self.records.remove_container(&id).err().map(Failure::from));
        }
        all_or(|| "could not remove all networks".to_owned(), failures)
    }
}

/// The id of a network that is made because it is named: always the same for a name.
fn usual_id(name: &str) -> String {
    hex::encode(Sha256::digest(format!("network\0{name}")))
}

pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl State {
    pub(super) fn bridges(&self) -> impl Iterator<Item = &NetworkRecord> {
        self.networks.values().filter(|network| network.settings.driver.is_bridge())
    }

    pub(super) fn on_network<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a ContainerRecord> {
        self.containers
            .values()
            .map(|entry| &entry.record)
            .filter(move |record| record.attachment.endpoints.iter().any(|endpoint| endpoint.network == name))
    }

    fn links_on(&self, network: &str) -> Vec<String> {
        let linked = self.containers.values().filter(|entry| entry.linked);
        linked
            .flat_map(|entry| entry.record.attachment.endpoints.iter().zip(&entry.record.links))
            .filter(|(endpoint, link)| endpoint.network == network && !link.is_empty())
            .map(|(_, link)| link.clone())
            .collect()
    }
}
