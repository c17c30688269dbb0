//! The containers of this host that are on overlay networks, and how one comes onto a network and off it.
//!
//! What is of one container alone waits for no other: neither for another container that comes or goes, nor for a look at the
//! whole host. A look leaves alone what was not finished before it began, so that it neither makes nor removes what somebody
//! else is making or removing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;

use super::difference::Step;
use super::errors::{OverlayAttachError, OverlayFailure, OverlayFailures};
use super::kernel::{self, Links, Rules, Tracked};
use super::names;
use super::overlay_networks::{Occasion, Overlay};
use super::request::{OverlayEndpoint, OverlayNetwork, Overlays, link_address};
use super::services::{Forgotten, forgotten, service_table};
use super::state::{PortFlags, port_name};
use super::table::Table;
use crate::network::KernelError;
use crate::network::kernel::{loopback_up, open_in, refused as kernel_refused};

/// By container.
#[derive(Debug, Default)]
pub struct Containers {
    all: BTreeMap<String, Container>,
    /// How many interfaces have been made or removed.
    finished: u64,
    /// Those that are being removed, and those that were lately, as [`Interface`] has them.
    leaving: Vec<Interface>,
    /// Every address of each network, as of the last look: of neighbours and of containers here.
    members: BTreeMap<String, BTreeSet<IpAddr>>,
}

#[derive(Debug)]
struct Container {
    netns: Arc<File>,
    /// By network.
    endpoints: BTreeMap<String, Interface>,
    rules: Arc<tokio::sync::Mutex<Option<ServiceTable>>>,
}

#[derive(Debug)]
struct Interface {
    endpoint: OverlayEndpoint,
    /// The how manieth it was to be made, or to be removed; `None`: that is being done.
    finished: Option<u64>,
}

/// The virtual addresses of services, in a container.
#[derive(Debug)]
struct ServiceTable {
    table: Arc<Table>,
    rules: Rules,
    tracked: Tracked,
}

/// A container as a look finds it.
#[derive(Debug)]
pub struct Guest {
    /// Its id.
    pub id: String,
    /// Its network namespace.
    pub netns: Arc<File>,
    /// Its interfaces that were made before the look began.
    pub endpoints: Vec<OverlayEndpoint>,
}

impl Containers {
    /// One that was there before this process.
    pub fn adopt(&mut self, id: String, netns: File, endpoints: Vec<OverlayEndpoint>) {
        let interface = |endpoint: OverlayEndpoint| {
            (endpoint.network.clone(), Interface { endpoint, finished: Some(self.finished) })
        };
        let endpoints = endpoints.into_iter().map(interface).collect();
        self.all.insert(id, Container { netns: Arc::new(netns), endpoints, rules: Arc::default() });
    }

    /// All of them.
    pub fn ids(&self) -> Vec<String> {
        self.all.keys().cloned().collect()
    }

    /// A moment, for [`Containers::since`].
    pub fn now(&self) -> u64 {
        self.finished
    }

    /// All with the interfaces that were made before this moment, and every interface that was made or removed since or is
    /// being.
    pub fn since(&mut self, moment: u64) -> (Vec<Guest>, Vec<OverlayEndpoint>) {
        let is_settled = |interface: &Interface| interface.finished.is_some_and(|number| number <= moment);
        self.leaving.retain(|interface| !is_settled(interface));
        let mut moving: Vec<OverlayEndpoint> = self.leaving.iter().map(|left| left.endpoint.clone()).collect();
        let mut guests = Vec::new();
        for (id, container) in &self.all {
            let mut endpoints = Vec::new();
            for interface in container.endpoints.values() {
                let into = if is_settled(interface) { &mut endpoints } else { &mut moving };
                into.push(interface.endpoint.clone());
            }
            guests.push(Guest { id: id.clone(), netns: Arc::clone(&container.netns), endpoints });
        }
        (guests, moving)
    }

    /// The addresses that have gone from each container's networks since this was last asked.
    pub fn gone(&mut self, wanted: &Overlays) -> BTreeMap<String, BTreeSet<IpAddr>> {
        let mut members: BTreeMap<String, BTreeSet<IpAddr>> = wanted
            .networks
            .values()
            .map(|network| {
                (network.name.clone(), network.neighbours.iter().map(|neighbour| neighbour.address).collect())
            })
            .collect();
        for interface in self.all.values().flat_map(|container| container.endpoints.values()) {
            let network = members.entry(interface.endpoint.network.clone()).or_default();
            network.extend(interface.endpoint.own_addresses());
        }
        let had = std::mem::replace(&mut self.members, members);
        let mut gone: BTreeMap<&String, BTreeSet<IpAddr>> = BTreeMap::new();
        for (network, had) in &had {
            let has = self.members.get(network);
            let gone = gone.entry(network).or_default();
            gone.extend(had.iter().copied().filter(|address| !has.is_some_and(|has| has.contains(address))));
        }
        let of = |container: &Container| {
            container.endpoints.keys().filter_map(|network| gone.get(network)).flatten().copied().collect()
        };
        self.all.iter().map(|(id, container)| (id.clone(), of(container))).collect()
    }

    fn begin(&mut self, id: &str, netns: Arc<File>, endpoint: &OverlayEndpoint) {
        let container = self.all.entry(id.to_owned()).or_insert_with(|| Container {
            netns,
            endpoints: BTreeMap::new(),
            rules: Arc::default(),
        });
        let interface = Interface { endpoint: endpoint.clone(), finished: None };
        container.endpoints.insert(endpoint.network.clone(), interface);
        self.members.entry(endpoint.network.clone()).or_default().extend(endpoint.own_addresses());
    }

    fn finish(&mut self, id: &str, network: &str) {
        let interface = self.all.get_mut(id).and_then(|container| container.endpoints.get_mut(network));
        if let Some(interface) = interface {
            self.finished += 1;
            interface.finished = Some(self.finished);
        }
    }

    /// What was on that network, and the container if that was its last one.
    fn leave(&mut self, id: &str, network: &str) -> Option<(OverlayEndpoint, Option<Container>)> {
        let container = self.all.get_mut(id)?;
        let Interface { endpoint, .. } = container.endpoints.remove(network)?;
        self.leaving.push(Interface { endpoint: endpoint.clone(), finished: None });
        let last = if container.endpoints.is_empty() { self.all.remove(id) } else { None };
        Some((endpoint, last))
    }

    fn left(&mut self, endpoint: &OverlayEndpoint) {
        self.finished += 1;
        let mut leaving = self.leaving.iter_mut().filter(|interface| interface.finished.is_none());
        if let Some(interface) = leaving.find(|interface| interface.endpoint == *endpoint) {
            interface.finished = Some(self.finished);
        }
    }

    /// Whether this container is on that network, and who else here has the address.
    fn holder(&self, network: &str, address: IpAddr) -> Option<&String> {
        let has = |container: &Container| {
            let interface = container.endpoints.get(network);
            interface.is_some_and(|interface| interface.endpoint.own_addresses().any(|held| held == address))
        };
        self.all.iter().find_map(|(id, container)| has(container).then_some(id))
    }

    fn is_on(&self, id: &str, network: &str) -> bool {
        self.all.get(id).is_some_and(|container| container.endpoints.contains_key(network))
    }
}

/// For the networks as they were last: the table of each combination of them that containers are on.
#[derive(Debug, Default)]
pub struct Tables {
    built: Mutex<Built>,
}

#[derive(Debug, Default)]
struct Built {
    of: Option<Arc<Overlays>>,
    tables: HashMap<Vec<String>, Arc<Table>>,
}

impl Tables {
    /// One value for all containers that are on the same networks.
    fn of(&self, name: &str, wanted: &Arc<Overlays>, networks: Vec<String>) -> Arc<Table> {
        // It is only filled, so a panic elsewhere leaves it whole.
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        if !built.of.as_ref().is_some_and(|of| Arc::ptr_eq(of, wanted)) {
            built.tables.clear();
            built.of = Some(Arc::clone(wanted));
        }
        let table = built.tables.entry(networks).or_insert_with_key(|networks| {
            Arc::new(service_table(name, wanted, &networks.iter().cloned().collect::<BTreeSet<String>>()))
        });
        Arc::clone(table)
    }
}

/// While it lives, looks at the host leave an interface alone. It ends also when whoever holds it is given up.
struct Moving<'a, End: FnMut(&mut Containers)> {
    overlay: &'a Overlay,
    end: End,
}

impl<End: FnMut(&mut Containers)> Drop for Moving<'_, End> {
    fn drop(&mut self) {
        (self.end)(&mut self.overlay.lock().containers);
    }
}

impl Overlay {
    /// Makes a container's table what the networks say that it is on now. Addresses that are `gone` are forgotten. Answers
    /// whether it was changed.
    pub(super) async fn reconcile_rules(
        &self,
        id: &str,
        gone: &BTreeSet<IpAddr>,
        occasion: Occasion,
    ) -> Result<bool, KernelError> {
        let own = self.lock().containers.all.get(id).map(|container| Arc::clone(&container.rules));
        let Some(own) = own else { return Ok(false) };
        let mut held = own.lock().await;
        // Only now: what somebody else has done meanwhile is the newest.
        let (wanted, netns, networks) = {
            let state = self.lock();
            // It may have ended, and begun again elsewhere.
            let is_same = |container: &&Container| Arc::ptr_eq(&container.rules, &own);
            let Some(container) = state.containers.all.get(id).filter(is_same) else { return Ok(false) };
            let networks: Vec<String> = container.endpoints.keys().cloned().collect();
            (state.wanted.clone().unwrap_or_default(), Arc::clone(&container.netns), networks)
        };
        let table = self.tables.of(&self.config.table, &wanted, networks);
        // Should anything fail, what the kernel has is not known.
        let (present, mut known, mut forgettable) = (held.take(), None, Forgotten::default());
        let (mut rules, mut tracked) = match present {
            None => (Rules::open(&netns)?, Tracked::default()),
            Some(mut present) => {
                let differs = present.rules.differs(&present.table).await?;
                if !differs && (Arc::ptr_eq(&present.table, &table) || present.table == table) {
                    if occasion == Occasion::Look {
                        present.rules.learn(&table.name).await?;
                    }
                    present.table = table;
                    present.tracked.forget(&netns, &forgettable, gone).await?;
                    *held = Some(present);
                    return Ok(false);
                }
                forgettable = forgotten(&present.table, &table);
                known = (!differs).then_some(present.table);
                (present.rules, present.tracked)
            }
        };
        rules.apply(known.as_deref(), &table).await?;
        if occasion == Occasion::Look {
            rules.learn(&table.name).await?;
        }
        let done = tracked.forget(&netns, &forgettable, gone).await;
        *held = Some(ServiceTable { table, rules, tracked });
        done.map(|()| true)
    }

    /// Puts a container on a network: makes its interface, and has the services of the network balanced for it. `netns` is
    /// its network namespace, e.g. an open `/proc/PID/ns/net`; it is held open until the container is detached.
    ///
    /// # Errors
    /// Why it cannot be; nothing is left of the attempt then.
    pub async fn attach(&self, id: &str, netns: &File, endpoint: &OverlayEndpoint) -> Result<(), OverlayAttachError> {
        let name = &endpoint.network;
        let refused = |source| OverlayAttachError::Kernel { id: id.to_owned(), network: name.clone(), source };
        let held =
            netns.try_clone().map_err(kernel_refused(|| "hold the container's network namespace open".to_owned()));
        let held = Arc::new(held.map_err(refused)?);
        let wanted = {
            let mut state = self.lock();
            let wanted = state.wanted.clone().unwrap_or_default();
            let Some(network) = wanted.networks.get(name) else {
                return Err(OverlayAttachError::UnknownNetwork { id: id.to_owned(), network: name.clone() });
            };
            check_endpoint(&state.containers, id, network, endpoint)?;
            state.containers.begin(id, held, endpoint);
            wanted
        };
        let Some(network) = wanted.networks.get(name) else { return Ok(()) };
        let moving = Moving { overlay: self, end: |containers| containers.finish(id, name) };
        let made = self.make_endpoint(id, netns, network, endpoint).await;
        if let Err(source) = made {
            if let Err(error) = self.take_off(id, name).await {
                tracing::warn!(%error, id, "an attempt to attach a container to an overlay network left something behind");
            }
            return Err(refused(source));
        }
        drop(moving);
        Ok(())
    }

    async fn make_endpoint(
        &self,
        id: &str,
        netns: &File,
        network: &OverlayNetwork,
        endpoint: &OverlayEndpoint,
    ) -> Result<(), KernelError> {
        let inside = open_in(netns)?;
        loopback_up(&inside).await?;
        self.reconcile_rules(id, &BTreeSet::new(), Occasion::Change).await?;
        let connection = open_in(&self.host)?;
        let link = port_name(&self.config, network, endpoint);
        kernel::make_port(&connection, &inside, netns, &link, endpoint, network.mtu).await?;
        let bridge = names::bridge(&self.config.prefix, network.vni);
        let mut links = Links::new(&self.host, &connection, HashMap::new());
        links.learn(&bridge).await?;
        let steps = [
            Step::MakePort { link: link.clone() },
            Step::Join { link: link.clone(), bridge },
            Step::SetPortFlags { link: link.clone(), flags: PortFlags::CONTAINER },
            Step::AddPortForwarding { link: link.clone(), mac: endpoint.mac },
            Step::SetUp { link },
        ];
        links.execute(&steps).await.into_iter().next().map_or(Ok(()), Err)
    }

    /// Takes a container off a network. One that is not on it is no error.
    ///
    /// # Errors
    /// What did not work; it is tried again with each reconcile.
    pub async fn detach(&self, id: &str, network: &str) -> Result<(), OverlayFailures> {
        self.take_off(id, network).await
    }

    /// Takes a container off all its networks. One that is on none is no error.
    ///
    /// # Errors
    /// What did not work; it is tried again with each reconcile.
    pub async fn detach_all(&self, id: &str) -> Result<(), OverlayFailures> {
        let networks: Vec<String> = {
            let state = self.lock();
            let container = state.containers.all.get(id);
            container.map(|container| container.endpoints.keys().cloned().collect()).unwrap_or_default()
        };
        let mut failures = Vec::new();
        for network in networks {
            if let Err(more) = self.take_off(id, &network).await {
                failures.extend(more.failures);
            }
        }
        if failures.is_empty() { Ok(()) } else { Err(OverlayFailures { failures }) }
    }

    async fn take_off(&self, id: &str, network: &str) -> Result<(), OverlayFailures> {
        let (wanted, ended) = {
            let mut state = self.lock();
            (state.wanted.clone().unwrap_or_default(), state.containers.leave(id, network))
        };
        let Some((endpoint, last)) = ended else { return Ok(()) };
        let moving = Moving { overlay: self, end: |containers| containers.left(&endpoint) };
        let failed = |source| OverlayFailure::Container { id: id.to_owned(), source };
        let mut failures = Vec::new();
        // First what holds the namespace open: if nobody is in it any more, it goes, and its links with it.
        let rules = match last {
            Some(container) => self.remove_rules(container).await,
            None => self.reconcile_rules(id, &BTreeSet::new(), Occasion::Change).await.map(drop),
        };
        failures.extend(rules.err().map(failed));
        if let Some(network) = wanted.networks.get(network) {
            let link = port_name(&self.config, network, &endpoint);
            failures.extend(kernel::remove_port(&self.host, &link).await.err().map(failed));
        }
        drop(moving);
        if failures.is_empty() { Ok(()) } else { Err(OverlayFailures { failures }) }
    }

    async fn remove_rules(&self, container: Container) -> Result<(), KernelError> {
        let present = container.rules.lock().await.take();
        let rules = match present {
            Some(present) => present.rules,
            // A process before this one made it.
            None => Rules::open(&container.netns)?,
        };
        rules.remove(&self.config.table).await
    }
}

fn check_endpoint(
    containers: &Containers,
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
    if endpoint.mac != link_address(endpoint.own_addresses()) {
        return Err(OverlayAttachError::LinkAddress { id, network: name, address: first.addr() });
    }
    for address in endpoint.own_addresses() {
        if network.subnet_of(address).is_none() {
            return Err(OverlayAttachError::Foreign { id, network: name, address });
        }
        let neighbour = network.neighbours.iter().find(|neighbour| neighbour.address == address);
        let neighbour = neighbour.map(|neighbour| format!("a container on the host {}", neighbour.host));
        let own = network.addresses.iter().map(IpNet::addr).any(|own| own == address).then(|| "this host".to_owned());
        let local = containers.holder(&name, address);
        if local == Some(&id) {
            return Err(OverlayAttachError::AlreadyAttached { id, network: name });
        }
        let local = local.map(|holder| format!("container {holder}"));
        if let Some(holder) = neighbour.or(own).or(local) {
            return Err(OverlayAttachError::Taken { id, network: name, address, holder });
        }
    }
    if containers.is_on(&id, &name) {
        return Err(OverlayAttachError::AlreadyAttached { id, network: name });
    }
    Ok(())
}
