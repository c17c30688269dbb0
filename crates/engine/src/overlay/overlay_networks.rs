//! The overlay networks of this host: what they should be, and the steps that make the kernel match it.
//!
//! Whoever changes something and whoever only looks run the same reconcile from the whole value. Nothing is kept on disk: the
//! networks come with each start from who decided them, and the containers from who runs them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::IpNet;

use super::difference::{Step, difference};
use super::errors::{
    OverlayAttachError, OverlayFailure, OverlayFailures, OverlayOpenError, OverlaySetError, with_causes,
};
use super::kernel::{self, Applied, Links};
use super::names;
use super::relays::Relays;
use super::request::{OverlayConfig, OverlayEndpoint, OverlayNetwork, Overlays, link_address};
use super::rules::host_table;
use super::services::{Forgotten, forgotten, service_table};
use super::state::{KernelState, PortFlags, kernel_state, port_name};
use super::table::Table;
use crate::network::KernelError;
use crate::network::kernel::{close_firewalls, loopback_up, open_firewalls, open_in, refused as kernel_refused};

/// How often what somebody else changed is looked for. A look costs a few milliseconds.
const PERIOD: Duration = Duration::from_secs(2);

/// The overlay networks of this host.
#[derive(Debug)]
pub struct Overlay {
    config: OverlayConfig,
    /// The host's network namespace.
    host: File,
    relays: Relays,
    state: Mutex<State>,
    /// Held by whoever changes the kernel.
    work: tokio::sync::Mutex<Work>,
}

#[derive(Debug, Default)]
struct State {
    /// `None` until it is set: nothing is touched before.
    wanted: Option<Arc<Overlays>>,
    containers: BTreeMap<String, Container>,
    /// All containers that were there before this process are known.
    adopted: bool,
    problems: Vec<String>,
}

#[derive(Debug, Clone)]
struct Container {
    netns: Arc<File>,
    /// By network.
    endpoints: BTreeMap<String, OverlayEndpoint>,
}

/// What was done to the kernel.
#[derive(Debug, Default)]
struct Work {
    host_table: Option<AppliedTable>,
    /// By container.
    tables: BTreeMap<String, AppliedTable>,
    /// For the networks as they were last: the table of each combination of them that containers are on.
    built: BTreeMap<BTreeSet<String>, Arc<Table>>,
    built_for: Option<Arc<Overlays>>,
    /// Networks, and what they are with their relayed ports sent to the relays.
    arranged: Option<[Arc<Overlays>; 2]>,
    /// Every address of each network.
    members: BTreeMap<String, BTreeSet<IpAddr>>,
}

#[derive(Debug)]
struct AppliedTable {
    table: Arc<Table>,
    applied: Applied,
}

/// A container that was there before this process.
#[derive(Debug)]
pub struct OverlayContainer {
    /// Its id.
    pub id: String,
    /// Its network namespace, e.g. an open `/proc/PID/ns/net`.
    pub netns: File,
    /// Its interfaces on overlay networks.
    pub endpoints: Vec<OverlayEndpoint>,
}

/// What a reconcile had to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// Requests for links and their entries.
    pub steps: usize,
    /// Tables of nftables that were changed.
    pub tables: usize,
}

impl Overlay {
    /// The overlay networks of the network namespace of the calling thread. Nothing is asked of the kernel before
    /// [`Overlay::set`].
    ///
    /// # Errors
    /// When the configuration makes no sense, or the namespace cannot be opened.
    pub fn open(config: OverlayConfig) -> Result<Self, OverlayOpenError> {
        config.check()?;
        let host = File::open("/proc/thread-self/ns/net").map_err(OverlayOpenError::Namespace)?;
        let relays = Relays::new(host.try_clone().map_err(OverlayOpenError::Namespace)?);
        Ok(Self { config, host, relays, state: Mutex::default(), work: tokio::sync::Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of the state is a single assignment or insertion, so a panic elsewhere leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of all containers with interfaces on overlay networks that were there before this process, once, before the
    /// networks are set. Nothing of theirs is touched; links of others are removed from then on.
    pub fn adopt(&self, containers: Vec<OverlayContainer>) {
        let mut state = self.lock();
        for OverlayContainer { id, netns, endpoints } in containers {
            let endpoints = endpoints.into_iter().map(|endpoint| (endpoint.network.clone(), endpoint)).collect();
            state.containers.insert(id, Container { netns: Arc::new(netns), endpoints });
        }
        state.adopted = true;
    }

    /// Sets what the networks are, and makes them so.
    ///
    /// # Errors
    /// When they make no sense: what was set before is still in force then. Or what could not be done: that is tried again
    /// with each reconcile, and the rest is done.
    pub async fn set(&self, overlays: Overlays) -> Result<Reconciled, OverlaySetError> {
        overlays.check()?;
        self.lock().wanted = Some(Arc::new(overlays));
        Ok(self.reconcile().await?)
    }

    /// The MTU of the host's interface with this address, in bytes; `None`: no interface has it.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub async fn mtu_of(&self, address: IpAddr) -> Result<Option<u32>, KernelError> {
        kernel::mtu_of(&self.host, address).await
    }

    /// What the host reaches otherwise than by its overlay networks.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub async fn routes(&self) -> Result<Vec<IpNet>, KernelError> {
        kernel::other_routes(&self.host, &self.config.prefix).await
    }

    /// What is not as it should be since the last reconcile, for a person.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        self.lock().problems.clone()
    }

    /// What the host's table should be, as `nft` shows it; empty without networks.
    #[must_use]
    pub fn host_table_text(&self) -> String {
        let wanted = self.lock().wanted.clone().unwrap_or_default();
        host_table(&self.config, &wanted).map(|table| table.to_string()).unwrap_or_default()
    }

    /// Reconciles every two seconds, for as long as it is polled.
    pub async fn keep(&self) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut last = Vec::new();
        loop {
            ticks.tick().await;
            match self.reconcile().await {
                Ok(done) if done != Reconciled::default() => {
                    tracing::info!(
                        done.steps,
                        done.tables,
                        "overlay networks were not as they should be, and are again"
                    );
                }
                // Each problem is told once.
                Err(error) if self.problems() != last => tracing::warn!("{error}"),
                Ok(_) | Err(_) => {}
            }
            last = self.problems();
        }
    }

    /// Makes the kernel match what the networks should be. Where it does, nothing is touched.
    ///
    /// # Errors
    /// What could not be done; the rest is.
    pub async fn reconcile(&self) -> Result<Reconciled, OverlayFailures> {
        let mut work = self.work.lock().await;
        let mut failures = Vec::new();
        let done = self.reconcile_all(&mut work, &mut failures).await;
        self.lock().problems = failures.iter().map(with_causes).collect();
        if failures.is_empty() { Ok(done) } else { Err(OverlayFailures { failures }) }
    }

    async fn reconcile_all(&self, work: &mut Work, failures: &mut Vec<OverlayFailure>) -> Reconciled {
        let (wanted, containers, adopted) = {
            let state = self.lock();
            (state.wanted.clone(), state.containers.clone(), state.adopted)
        };
        let mut done = Reconciled::default();
        let Some(wanted) = wanted else { return done };
        let (have, indexes) = match kernel::observe(&self.host, &self.config.prefix).await {
            Ok(observed) => observed,
            Err(error) => {
                failures.push(error.into());
                return done;
            }
        };
        let possible = self.possible(&wanted, &have, failures).await;
        let possible = self.arrange(work, possible, failures);
        // The rules stand before what they are for.
        match self.reconcile_host_table(work, &possible).await {
            Ok(changed) => done.tables += usize::from(changed),
            Err(error) => failures.push(error.into()),
        }
        let endpoints = containers.values().flat_map(|container| container.endpoints.values());
        let want = kernel_state(&self.config, &possible, endpoints);
        let steps = difference(&have, &want, adopted);
        done.steps = steps.len();
        self.execute(&steps, &possible, &containers, indexes, failures).await;
        if !possible.networks.is_empty() {
            let bridges: Vec<String> = want.bridges.keys().cloned().collect();
            match open_firewalls(&self.config.table, &bridges, &bridges).await {
                Ok(warnings) => warnings.iter().for_each(|warning| tracing::debug!("{warning}")),
                Err(error) => failures.push(error.into()),
            }
        }
        done.tables += self.reconcile_containers(work, &possible, &containers, failures).await;
        done
    }

    /// The networks that can be made: those whose subnets the host does not reach otherwise.
    async fn possible(
        &self,
        wanted: &Arc<Overlays>,
        have: &KernelState,
        failures: &mut Vec<OverlayFailure>,
    ) -> Arc<Overlays> {
        let is_new =
            |network: &&OverlayNetwork| !have.bridges.contains_key(&names::bridge(&self.config.prefix, network.vni));
        if !wanted.networks.values().any(|network| is_new(&network)) {
            return Arc::clone(wanted);
        }
        let routes = match kernel::other_routes(&self.host, &self.config.prefix).await {
            Ok(routes) => routes,
            Err(error) => {
                failures.push(error.into());
                return Arc::clone(wanted);
            }
        };
        let mut refused = BTreeSet::new();
        for network in wanted.networks.values().filter(is_new) {
            for subnet in network.addresses.iter().map(IpNet::trunc) {
                let meets = |route: &&IpNet| route.contains(&subnet) || subnet.contains(*route);
                if let Some(&route) = routes.iter().find(meets) {
                    refused.insert(network.name.clone());
                    failures.push(OverlayFailure::SubnetTaken { network: network.name.clone(), subnet, route });
                }
            }
        }
        if refused.is_empty() {
            return Arc::clone(wanted);
        }
        let mut possible = Overlays::clone(wanted);
        possible.networks.retain(|name, _| !refused.contains(name));
        Arc::new(possible)
    }

    /// The networks with their relayed ports sent to the relays, which are started and ended.
    fn arrange(&self, work: &mut Work, wanted: Arc<Overlays>, failures: &mut Vec<OverlayFailure>) -> Arc<Overlays> {
        if let Some([of, arranged]) = &work.arranged
            && Arc::ptr_eq(of, &wanted)
        {
            return Arc::clone(arranged);
        }
        let before = failures.len();
        let arranged = Arc::new(self.relays.arrange(Overlays::clone(&wanted), failures));
        // What could not be started is tried again.
        work.arranged = (failures.len() == before).then(|| [wanted, Arc::clone(&arranged)]);
        arranged
    }

    async fn reconcile_host_table(&self, work: &mut Work, wanted: &Overlays) -> Result<bool, KernelError> {
        let Some(table) = host_table(&self.config, wanted) else {
            // Also one that a process before this one left.
            kernel::remove_table(&self.host, &self.config.table).await?;
            return Ok(work.host_table.take().is_some());
        };
        let ipv6 = wanted.networks.values().any(OverlayNetwork::has_ipv6);
        kernel::pass_on(&self.host, ipv6)?;
        let mut have = None;
        if let Some(present) = &mut work.host_table {
            let changed = kernel::differs(&self.host, &present.table, &mut present.applied).await?;
            if !changed && *present.table == table {
                return Ok(false);
            }
            have = (!changed).then(|| Arc::clone(&present.table));
        }
        work.host_table = None;
        let applied = kernel::apply_table(&self.host, have.as_deref(), &table).await?;
        work.host_table = Some(AppliedTable { table: Arc::new(table), applied });
        Ok(true)
    }

    async fn execute(
        &self,
        steps: &[Step],
        wanted: &Overlays,
        containers: &BTreeMap<String, Container>,
        indexes: HashMap<String, u32>,
        failures: &mut Vec<OverlayFailure>,
    ) {
        if steps.is_empty() {
            return;
        }
        let lost: BTreeSet<&String> = steps
            .iter()
            .filter_map(|step| if let Step::MakePort { link } = step { Some(link) } else { None })
            .collect();
        for (id, container) in containers.iter().filter(|_| !lost.is_empty()) {
            for endpoint in container.endpoints.values() {
                let Some(network) = wanted.networks.get(&endpoint.network) else { continue };
                let link = port_name(&self.config, network, endpoint);
                if lost.contains(&link) {
                    let made = kernel::make_port(&self.host, &container.netns, &link, endpoint, network.mtu).await;
                    failures.extend(made.err().map(|source| OverlayFailure::Container { id: id.clone(), source }));
                }
            }
        }
        let resized = self.set_inner_mtus(steps, wanted, containers, failures).await;
        match Links::open(&self.host, indexes) {
            Ok(mut links) => failures.extend(links.execute(&resized).await.into_iter().map(OverlayFailure::from)),
            Err(error) => failures.push(error.into()),
        }
    }

    /// Gives containers' own ends the MTU that the steps give the host's ends of their links. Answers the steps without those
    /// whose other end did not change: they are tried again.
    async fn set_inner_mtus(
        &self,
        steps: &[Step],
        wanted: &Overlays,
        containers: &BTreeMap<String, Container>,
        failures: &mut Vec<OverlayFailure>,
    ) -> Vec<Step> {
        let mut steps = steps.to_vec();
        let changed: BTreeSet<String> = steps
            .iter()
            .filter_map(|step| if let Step::SetMtu { link, .. } = step { Some(link.clone()) } else { None })
            .collect();
        for (id, container) in containers.iter().filter(|_| !changed.is_empty()) {
            for endpoint in container.endpoints.values() {
                let Some(network) = wanted.networks.get(&endpoint.network) else { continue };
                let port = port_name(&self.config, network, endpoint);
                if !changed.contains(&port) {
                    continue;
                }
                let set = kernel::set_inner_mtu(&container.netns, &endpoint.interface, network.mtu).await;
                if let Err(source) = set {
                    steps.retain(|step| !matches!(step, Step::SetMtu { link, .. } if *link == port));
                    failures.push(OverlayFailure::Container { id: id.clone(), source });
                }
            }
        }
        steps
    }

    async fn reconcile_containers(
        &self,
        work: &mut Work,
        wanted: &Arc<Overlays>,
        containers: &BTreeMap<String, Container>,
        failures: &mut Vec<OverlayFailure>,
    ) -> usize {
        let members = members(wanted, containers);
        let gone: BTreeMap<&String, BTreeSet<IpAddr>> = work
            .members
            .iter()
            .map(|(network, had)| {
                let has = members.get(network);
                (network, had.iter().copied().filter(|address| !has.is_some_and(|has| has.contains(address))).collect())
            })
            .collect();
        let gone: BTreeMap<String, BTreeSet<IpAddr>> =
            gone.into_iter().map(|(network, gone)| (network.clone(), gone)).collect();
        let mut changed = 0;
        for (id, container) in containers {
            let gone: BTreeSet<IpAddr> =
                container.endpoints.keys().filter_map(|network| gone.get(network)).flatten().copied().collect();
            match self.reconcile_container(work, wanted, id, container, &gone).await {
                Ok(touched) => changed += usize::from(touched),
                Err(source) => failures.push(OverlayFailure::Container { id: id.clone(), source }),
            }
        }
        work.tables.retain(|id, _| containers.contains_key(id));
        work.members = members;
        changed
    }

    async fn reconcile_container(
        &self,
        work: &mut Work,
        wanted: &Arc<Overlays>,
        id: &str,
        container: &Container,
        gone: &BTreeSet<IpAddr>,
    ) -> Result<bool, KernelError> {
        let table = work.service_table(&self.config, wanted, container);
        let mut have = None;
        if let Some(present) = work.tables.get_mut(id) {
            let changed = kernel::differs(&container.netns, &present.table, &mut present.applied).await?;
            if !changed && (Arc::ptr_eq(&present.table, &table) || present.table == table) {
                present.table = table;
                kernel::forget(&container.netns, &Forgotten::default(), gone).await?;
                return Ok(false);
            }
            have = Some((Arc::clone(&present.table), changed));
        }
        // Should it fail, what the kernel has is not known.
        work.tables.remove(id);
        let known = have.as_ref().and_then(|(table, changed)| (!changed).then_some(&**table));
        let applied = kernel::apply_table(&container.netns, known, &table).await?;
        let forgotten = have.map(|(had, _)| forgotten(&had, &table)).unwrap_or_default();
        work.tables.insert(id.to_owned(), AppliedTable { table, applied });
        kernel::forget(&container.netns, &forgotten, gone).await?;
        Ok(true)
    }

    /// Puts a container on a network: makes its interface, and has the services of the network balanced for it. `netns` is
    /// its network namespace, e.g. an open `/proc/PID/ns/net`; it is held open until the container is detached.
    ///
    /// # Errors
    /// Why it cannot be; nothing is left of the attempt then.
    pub async fn attach(&self, id: &str, netns: &File, endpoint: &OverlayEndpoint) -> Result<(), OverlayAttachError> {
        let mut work = self.work.lock().await;
        let wanted = self.lock().wanted.clone().unwrap_or_default();
        let name = &endpoint.network;
        let Some(network) = wanted.networks.get(name) else {
            return Err(OverlayAttachError::UnknownNetwork { id: id.to_owned(), network: name.clone() });
        };
        self.check_endpoint(id, network, endpoint)?;
        let refused = |source| OverlayAttachError::Kernel { id: id.to_owned(), network: name.clone(), source };
        let held =
            netns.try_clone().map_err(kernel_refused(|| "hold the container's network namespace open".to_owned()));
        let held = Arc::new(held.map_err(refused)?);
        let container = {
            let mut state = self.lock();
            let container = state
                .containers
                .entry(id.to_owned())
                .or_insert_with(|| Container { netns: held, endpoints: BTreeMap::new() });
            container.endpoints.insert(name.clone(), endpoint.clone());
            container.clone()
        };
        let made = self.make_endpoint(&mut work, &wanted, id, &container, network, endpoint).await;
        if let Err(source) = made {
            if let Err(error) = self.take_off(&mut work, id, name).await {
                tracing::warn!(%error, id, "an attempt to attach a container to an overlay network left something behind");
            }
            return Err(refused(source));
        }
        Ok(())
    }

    async fn make_endpoint(
        &self,
        work: &mut Work,
        wanted: &Arc<Overlays>,
        id: &str,
        container: &Container,
        network: &OverlayNetwork,
        endpoint: &OverlayEndpoint,
    ) -> Result<(), KernelError> {
        loopback_up(&open_in(&container.netns)?).await?;
        self.reconcile_container(work, wanted, id, container, &BTreeSet::new()).await?;
        let link = port_name(&self.config, network, endpoint);
        kernel::make_port(&self.host, &container.netns, &link, endpoint, network.mtu).await?;
        let bridge = names::bridge(&self.config.prefix, network.vni);
        let mut links = Links::open(&self.host, HashMap::new())?;
        links.learn(&bridge).await?;
        let steps = [
            Step::MakePort { link: link.clone() },
            Step::Join { link: link.clone(), bridge },
            Step::SetPortFlags { link: link.clone(), flags: PortFlags::CONTAINER },
            Step::AddPortForwarding { link: link.clone(), mac: endpoint.mac },
            Step::SetUp { link },
        ];
        links.execute(&steps).await.into_iter().next().map_or(Ok(()), Err)?;
        work.members.entry(network.name.clone()).or_default().extend(endpoint.addresses.iter().map(IpNet::addr));
        Ok(())
    }

    fn check_endpoint(
        &self,
        id: &str,
        network: &OverlayNetwork,
        endpoint: &OverlayEndpoint,
    ) -> Result<(), OverlayAttachError> {
        let (id, name) = (id.to_owned(), network.name.clone());
        let families: BTreeSet<bool> = endpoint.addresses.iter().map(|address| address.addr().is_ipv4()).collect();
        let count = endpoint.addresses.len();
        let Some(first) = endpoint.addresses.first().filter(|_| families.len() == count) else {
            return Err(OverlayAttachError::Addresses { id, network: name, count });
        };
        if endpoint.mac != link_address(endpoint.addresses.iter().map(IpNet::addr)) {
            return Err(OverlayAttachError::LinkAddress { id, network: name, address: first.addr() });
        }
        let state = self.lock();
        for address in endpoint.addresses.iter().map(IpNet::addr) {
            if network.subnet_of(address).is_none() {
                return Err(OverlayAttachError::Foreign { id, network: name, address });
            }
            let neighbour = network.neighbours.iter().find(|neighbour| neighbour.address == address);
            let neighbour = neighbour.map(|neighbour| format!("a container on the host {}", neighbour.host));
            let own = network.addresses.iter().any(|own| own.addr() == address).then(|| "this host".to_owned());
            let local = state.containers.iter().find_map(|(other, container)| {
                let held = container.endpoints.get(&name)?.addresses.iter().any(|held| held.addr() == address);
                held.then(|| format!("container {other}"))
            });
            if local.as_ref().is_some_and(|holder| *holder == format!("container {id}")) {
                return Err(OverlayAttachError::AlreadyAttached { id, network: name });
            }
            if let Some(holder) = neighbour.or(own).or(local) {
                return Err(OverlayAttachError::Taken { id, network: name, address, holder });
            }
        }
        if state.containers.get(&id).is_some_and(|container| container.endpoints.contains_key(&name)) {
            return Err(OverlayAttachError::AlreadyAttached { id, network: name });
        }
        Ok(())
    }

    /// Takes a container off a network. One that is not on it is no error.
    ///
    /// # Errors
    /// What did not work; it is tried again with each reconcile.
    pub async fn detach(&self, id: &str, network: &str) -> Result<(), OverlayFailures> {
        let mut work = self.work.lock().await;
        self.take_off(&mut work, id, network).await
    }

    /// Takes a container off all its networks. One that is on none is no error.
    ///
    /// # Errors
    /// What did not work; it is tried again with each reconcile.
    pub async fn detach_all(&self, id: &str) -> Result<(), OverlayFailures> {
        let mut work = self.work.lock().await;
        let networks: Vec<String> =
            self.lock().containers.get(id).map(|found| found.endpoints.keys().cloned().collect()).unwrap_or_default();
        let mut failures = Vec::new();
        for network in networks {
            if let Err(more) = self.take_off(&mut work, id, &network).await {
                failures.extend(more.failures);
            }
        }
        if failures.is_empty() { Ok(()) } else { Err(OverlayFailures { failures }) }
    }

    async fn take_off(&self, work: &mut Work, id: &str, network: &str) -> Result<(), OverlayFailures> {
        let (wanted, container, endpoint) = {
            let mut state = self.lock();
            let wanted = state.wanted.clone().unwrap_or_default();
            let Some(container) = state.containers.get_mut(id) else { return Ok(()) };
            let Some(endpoint) = container.endpoints.remove(network) else { return Ok(()) };
            let container = container.clone();
            if container.endpoints.is_empty() {
                state.containers.remove(id);
            }
            (wanted, container, endpoint)
        };
        let failed = |source| OverlayFailure::Container { id: id.to_owned(), source };
        let mut failures = Vec::new();
        if let Some(network) = wanted.networks.get(network) {
            let link = port_name(&self.config, network, &endpoint);
            failures.extend(kernel::remove_port(&self.host, &link).await.err().map(failed));
        }
        if container.endpoints.is_empty() {
            work.tables.remove(id);
            failures.extend(kernel::remove_table(&container.netns, &self.config.table).await.err().map(failed));
        } else {
            let changed = self.reconcile_container(work, &wanted, id, &container, &BTreeSet::new()).await;
            failures.extend(changed.err().map(failed));
        }
        if failures.is_empty() { Ok(()) } else { Err(OverlayFailures { failures }) }
    }

    /// Removes everything of the overlay networks from the kernel.
    ///
    /// # Errors
    /// What could not be removed.
    pub async fn remove_all(&self) -> Result<(), OverlayFailures> {
        let ids: Vec<String> = {
            let mut state = self.lock();
            state.adopted = true;
            state.containers.keys().cloned().collect()
        };
        let mut failures = Vec::new();
        for id in ids {
            failures.extend(self.detach_all(&id).await.err().into_iter().flat_map(|more| more.failures));
        }
        self.lock().wanted = Some(Arc::default());
        failures.extend(self.reconcile().await.err().into_iter().flat_map(|more| more.failures));
        failures.extend(close_firewalls(&self.config.table).await.err().map(OverlayFailure::from));
        if failures.is_empty() { Ok(()) } else { Err(OverlayFailures { failures }) }
    }
}

impl Work {
    /// The table of a container: one value for all that are on the same networks.
    fn service_table(&mut self, config: &OverlayConfig, wanted: &Arc<Overlays>, container: &Container) -> Arc<Table> {
        if !self.built_for.as_ref().is_some_and(|built| Arc::ptr_eq(built, wanted)) {
            self.built.clear();
            self.built_for = Some(Arc::clone(wanted));
        }
        let networks: BTreeSet<String> = container.endpoints.keys().cloned().collect();
        let table = self
            .built
            .entry(networks)
            .or_insert_with_key(|networks| Arc::new(service_table(&config.table, wanted, networks)));
        Arc::clone(table)
    }
}

/// Every address of each network: of neighbours and of containers here.
fn members(wanted: &Overlays, containers: &BTreeMap<String, Container>) -> BTreeMap<String, BTreeSet<IpAddr>> {
    let mut members: BTreeMap<String, BTreeSet<IpAddr>> = wanted
        .networks
        .values()
        .map(|network| (network.name.clone(), network.neighbours.iter().map(|neighbour| neighbour.address).collect()))
        .collect();
    for endpoint in containers.values().flat_map(|container| container.endpoints.values()) {
        members.entry(endpoint.network.clone()).or_default().extend(endpoint.addresses.iter().map(IpNet::addr));
    }
    members
}
