//! Pure. The networks between hosts: which there are, who is on each and with which address, and what every host on one
//! is told of the others.
//!
//! An address is a number within its subnets, the same for IPv4 and IPv6. Hosts, services (their virtual addresses) and
//! tasks draw from one row of numbers; a number that was given back comes last again, so that nobody who remembers it
//! meets somebody else there soon.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use stack_model::spec::{
    NetworkAttachment, NetworkMode, NetworkSpec, PublishMode, PublishedPort, ServiceMode, StackSpec,
};
use stack_model::{
    AssignedNetwork, DesiredState, EndpointState, NetworkDocument, NetworkEndpoint, NetworkGuest, NetworkHost,
    NetworkService, Node, NodeId, Readiness, ServiceKey, StackName, Task, TaskId, TaskSpec,
};

use crate::apply::touch;
use crate::encryption;
use crate::guests::Guest;
use crate::rejected::Rejected;
use crate::schedule;
use crate::state::State;

/// Where subnets come from unless the user names one, in order. Chosen to stay clear of what clouds and other
/// orchestrators use by default.
const POOLS: [Ipv4Net; 2] =
    [Ipv4Net::new_assert(Ipv4Addr::new(10, 72, 0, 0), 13), Ipv4Net::new_assert(Ipv4Addr::new(10, 200, 0, 0), 13)];
/// Of a network's IPv4 subnet from a pool: 1,022 addresses.
const SUBNET_LENGTH: u8 = 22;
/// The first VXLAN network identifier that is given out: the ones below are what people number by hand.
const FIRST_VNI: u32 = 4096;
const VNIS: u32 = (1 << 24) - FIRST_VNI;

/// One network between hosts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// The revision that made it.
    pub id: u64,
    /// The VXLAN network identifier.
    pub vni: u32,
    /// Whose it is; `None`: made by hand, and stays until it is removed by hand.
    pub stack: Option<StackName>,
    /// As the user wants it.
    pub spec: Arc<NetworkSpec>,
    /// IPv4 unless it has none, then IPv6 where it has one.
    pub subnets: Vec<IpNet>,
    /// The revision that last changed its document.
    pub generation: u64,
    /// The hosts on it, and their numbers.
    pub hosts: OrdMap<NodeId, u32>,
    /// The services on it, and the numbers of their virtual addresses.
    pub services: OrdMap<ServiceKey, u32>,
    /// The tasks on it, and their numbers.
    pub tasks: OrdMap<TaskId, u32>,
    /// The containers on it that belong to no stack, by the id that their host gave them.
    #[serde(default)]
    pub guests: OrdMap<String, Guest>,
    /// Numbers that the user gave to the only task of a service.
    #[serde(default)]
    pub fixed: OrdMap<ServiceKey, u32>,
    /// The number given out last.
    pub last: u32,
    /// Index over all the numbers above.
    #[serde(skip)]
    used: OrdSet<u32>,
}

impl Network {
    /// How many addresses it has to give.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.subnets.first().map_or(0, capacity)
    }

    /// How many of them are free.
    #[must_use]
    pub fn free(&self) -> u32 {
        self.capacity().saturating_sub(u32::try_from(self.used.len()).unwrap_or(u32::MAX))
    }

    /// The index after the network was read.
    pub(crate) fn reindex(&mut self) {
        self.used = self
            .hosts
            .values()
            .chain(self.services.values())
            .chain(self.tasks.values())
            .chain(self.fixed.values())
            .copied()
            .chain(self.guests.values().map(|guest| guest.number))
            .collect();
    }

    /// Whether somebody has these addresses.
    pub(crate) fn is_used(&self, number: u32) -> bool {
        self.used.contains(&number)
    }

    /// Takes this number, unless somebody has it.
    pub(crate) fn take_number(&mut self, number: u32) -> Option<u32> {
        let is_free = (1..=self.capacity()).contains(&number) && !self.used.contains(&number);
        is_free.then(|| {
            self.used.insert(number);
            number
        })
    }

    pub(crate) fn take(&mut self) -> Option<u32> {
        let capacity = self.capacity();
        let mut number = self.last;
        for _ in 0..capacity {
            number = number % capacity + 1;
            if !self.used.contains(&number) {
                self.used.insert(number);
                self.last = number;
                return Some(number);
            }
        }
        None
    }

    /// A number for one more task of the service.
    fn take_for(&mut self, service: &ServiceKey) -> Option<u32> {
        match self.fixed.get(service) {
            Some(fixed) if self.tasks.values().any(|taken| taken == fixed) => None,
            Some(fixed) => Some(*fixed),
            None => self.take(),
        }
    }

    pub(crate) fn give_back(&mut self, number: u32) {
        if !self.fixed.values().any(|fixed| *fixed == number) {
            self.used.remove(&number);
        }
    }

    /// The addresses that a number stands for.
    #[must_use]
    pub fn addresses(&self, number: u32) -> Vec<IpAddr> {
        self.subnets.iter().map(|subnet| address(subnet, number)).collect()
    }

    fn addresses_with_length(&self, number: u32) -> Vec<IpNet> {
        let with_length = |subnet: &IpNet| IpNet::new(address(subnet, number), subnet.prefix_len()).ok();
        self.subnets.iter().filter_map(with_length).collect()
    }

    /// The number of an address of its subnets that can be given to somebody.
    pub(crate) fn number_of(&self, address: IpAddr) -> Option<u32> {
        let subnet = self.subnets.iter().find(|subnet| subnet.contains(&address))?;
        let number = match (subnet.network(), address) {
            (IpAddr::V4(first), IpAddr::V4(address)) => address.to_bits() - first.to_bits(),
            (IpAddr::V6(first), IpAddr::V6(address)) => u32::try_from(address.to_bits() - first.to_bits()).ok()?,
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
        };
        (1..=self.capacity()).contains(&number).then_some(number)
    }

    /// The number of the addresses that the user gave to a service; both families have the same.
    fn fixed_number(&self, key: &str, attachment: &NetworkAttachment) -> Result<Option<u32>, (IpAddr, String)> {
        let given = [attachment.address.map(IpAddr::V4), attachment.ipv6_address.map(IpAddr::V6)];
        let mut found: Option<u32> = None;
        for address in given.into_iter().flatten() {
            let number = self
                .number_of(address)
                .ok_or_else(|| (address, format!("network `{key}` has the addresses of {}", texts(&self.subnets))))?;
            match found {
                Some(other) if other != number => {
                    let matching = self.addresses(other).into_iter().find(|address| address.is_ipv6());
                    let matching = matching.map_or_else(String::new, |address| format!(": here it is {address}"));
                    return Err((
                        address,
                        format!(
                            "the IPv4 and the IPv6 address of a task have the same number in their subnets{matching}"
                        ),
                    ));
                }
                _ => found = Some(number),
            }
        }
        Ok(found)
    }
}

/// How many numbers a subnet has: all but those of the network itself and, for IPv4, of everybody on it.
fn capacity(subnet: &IpNet) -> u32 {
    let bits = subnet.max_prefix_len() - subnet.prefix_len();
    1_u32.checked_shl(u32::from(bits)).unwrap_or(u32::MAX).saturating_sub(2)
}

fn address(subnet: &IpNet, number: u32) -> IpAddr {
    match subnet {
        IpNet::V4(subnet) => Ipv4Addr::from_bits(subnet.network().to_bits().wrapping_add(number)).into(),
        IpNet::V6(subnet) => Ipv6Addr::from_bits(subnet.network().to_bits().wrapping_add(u128::from(number))).into(),
    }
}

fn meet(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}

/// The full name of a stack's network.
pub(crate) fn full_name(stack: &StackName, given: Option<&String>, key: &str) -> String {
    given.cloned().unwrap_or_else(|| format!("{stack}_{key}"))
}

/// The networks that the stack's services are on, by full name. A service that names none is on `default`.
fn wanted(stack: &StackSpec) -> BTreeMap<String, NetworkSpec> {
    let mut keys: BTreeSet<&str> = BTreeSet::new();
    for service in stack.services.values().filter(|service| service.container.network_mode == NetworkMode::Networks) {
        if service.networks.is_empty() {
            keys.insert("default");
        }
        keys.extend(service.networks.keys().map(String::as_str));
    }
    let named = |key: &str| {
        let spec = stack.networks.get(key).cloned().unwrap_or_default();
        (full_name(&stack.name, spec.name.as_ref(), key), spec)
    };
    keys.into_iter().map(named).collect()
}

/// The networks as they are once the stack is deployed.
///
/// # Errors
/// One of them cannot be as it is asked for.
pub(crate) fn with_stack(state: &State, stack: &StackSpec) -> Result<OrdMap<String, Network>, Rejected> {
    let mut networks = state.networks.clone();
    for (name, spec) in wanted(stack) {
        if spec.external {
            if networks.get(&name).is_none_or(|network| network.stack.as_ref() == Some(&stack.name)) {
                return Err(Rejected::NoExternalNetwork { network: name });
            }
            continue;
        }
        if let Some(present) = networks.get(&name)
            && present.stack.as_ref() != Some(&stack.name)
        {
            let owner =
                present.stack.as_ref().map_or_else(|| "somebody".to_owned(), |owner| format!("stack `{owner}`"));
            return Err(Rejected::NetworkTaken { network: name, owner });
        }
        put(state, &mut networks, &name, Some(stack.name.clone()), spec)?;
    }
    fix_addresses(state, &mut networks, stack)?;
    Ok(networks)
}

/// Makes a network, or changes what can be changed of one.
fn put(
    state: &State,
    networks: &mut OrdMap<String, Network>,
    name: &str,
    stack: Option<StackName>,
    mut spec: NetworkSpec,
) -> Result<(), Rejected> {
    let usual = || state.identity.as_ref().is_some_and(|identity| identity.encrypts_networks);
    spec.encrypted = Some(spec.encrypted.unwrap_or_else(usual));
    if let Some(present) = networks.get(name) {
        if *present.spec == spec {
            return Ok(());
        }
        let is_encrypted = encryption::is_encrypted(present);
        let families = |spec: &NetworkSpec| (!spec.without_ipv4, spec.ipv6);
        let same = present.spec.subnets == spec.subnets && families(&present.spec) == families(&spec);
        if same && spec.encrypted == Some(is_encrypted) {
            let mut changed = present.clone();
            changed.spec = Arc::new(spec);
            changed.generation = state.revision;
            networks.insert(name.to_owned(), changed);
            return Ok(());
        }
        if !present.tasks.is_empty() {
            return Err(Rejected::NetworkInUse { network: name.to_owned(), tasks: present.tasks.len() });
        }
        if !present.guests.is_empty() {
            return Err(Rejected::NetworkHasGuests { network: name.to_owned(), guests: present.guests.len() });
        }
    }
    let others = || networks.iter().filter(|(other, _)| *other != name);
    let mut subnets = Vec::new();
    for given in &spec.subnets {
        let given = given.trunc();
        if spec.without_ipv4 && matches!(given, IpNet::V4(_)) {
            return Err(Rejected::SubnetOfNoFamily { network: name.to_owned(), subnet: given });
        }
        if capacity(&given) < 2 {
            return Err(Rejected::SubnetTooSmall { network: name.to_owned(), subnet: given });
        }
        if let Some((other, network)) = others().find(|(_, other)| other.subnets.iter().any(|net| meet(net, &given))) {
            let whose = format!("that of network `{other}` ({})", texts(&network.subnets));
            return Err(Rejected::SubnetTaken { network: name.to_owned(), subnet: given, whose });
        }
        if let Some((node, route)) = route_of_a_host(state, &given) {
            let whose = format!("what node `{node}` reaches otherwise ({route})");
            return Err(Rejected::SubnetTaken { network: name.to_owned(), subnet: given, whose });
        }
        subnets.push(given);
    }
    subnets.sort_by_key(|subnet| matches!(subnet, IpNet::V6(_)));
    let vni = match networks.get(name) {
        Some(present) => present.vni,
        None => free_vni(state, networks),
    };
    let has = |subnets: &[IpNet], is_ipv6: bool| subnets.iter().any(|subnet| subnet.addr().is_ipv6() == is_ipv6);
    if !spec.without_ipv4 && !has(&subnets, false) {
        let is_free = |subnet: &Ipv4Net| {
            let subnet = IpNet::V4(*subnet);
            !others().any(|(_, other)| other.subnets.iter().any(|net| meet(net, &subnet)))
                && route_of_a_host(state, &subnet).is_none()
        };
        let free = POOLS.iter().flat_map(|pool| pool.subnets(SUBNET_LENGTH).into_iter().flatten()).find(is_free);
        let free = free.ok_or_else(|| Rejected::NoFreeSubnet { network: name.to_owned() })?;
        subnets.insert(0, free.into());
    }
    if (spec.ipv6 || spec.without_ipv4) && !has(&subnets, true) {
        subnets.push(unique_local(state, vni).into());
    }
    let mut network = Network {
        id: state.revision,
        vni,
        stack,
        spec: Arc::new(spec),
        subnets,
        generation: state.revision,
        hosts: OrdMap::new(),
        services: OrdMap::new(),
        tasks: OrdMap::new(),
        guests: OrdMap::new(),
        fixed: OrdMap::new(),
        last: 0,
        used: OrdSet::new(),
    };
    // Its services keep their places; nobody else was on it.
    if let Some(present) = networks.get(name) {
        for service in present.services.keys() {
            let number = network.take();
            network.services.extend(number.map(|number| (service.clone(), number)));
        }
    }
    networks.insert(name.to_owned(), network);
    Ok(())
}

fn texts(subnets: &[IpNet]) -> String {
    subnets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A host that reaches part of the subnet in another way, and by which route.
fn route_of_a_host(state: &State, subnet: &IpNet) -> Option<(String, IpNet)> {
    state.nodes.values().find_map(|node| {
        let route = node.description.routes.iter().find(|route| meet(route, subnet))?;
        Some((node.name.clone(), *route))
    })
}

fn free_vni(state: &State, networks: &OrdMap<String, Network>) -> u32 {
    let taken: BTreeSet<u32> = networks.values().map(|network| network.vni).collect();
    let last = taken.last().copied().unwrap_or(FIRST_VNI).max(state.last_vni);
    let following = (1..=VNIS).map(|step| FIRST_VNI + (last - FIRST_VNI + step) % VNIS);
    following.into_iter().find(|vni| !taken.contains(vni)).unwrap_or(FIRST_VNI)
}

/// A /64 of the cluster's own /48 of unique local addresses (RFC 4193).
fn unique_local(state: &State, vni: u32) -> Ipv6Net {
    let cluster = state.identity.as_ref().map_or("", |identity| identity.cluster_id.as_str());
    // FNV-1a, 64 bits: it only has to be the same everywhere and to differ between clusters.
    let hash = cluster
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let global = u128::from(hash & 0xff_ffff_ffff);
    let subnet = u128::from(vni & 0xffff);
    let bits = (0xfd_u128 << 120) | (global << 80) | (subnet << 64);
    Ipv6Net::new(Ipv6Addr::from_bits(bits), 64).unwrap_or_default()
}

/// Holds the addresses that the user gave to services.
fn fix_addresses(state: &State, networks: &mut OrdMap<String, Network>, stack: &StackSpec) -> Result<(), Rejected> {
    let mut wanted: BTreeMap<(String, ServiceKey), u32> = BTreeMap::new();
    for (service_name, service) in &stack.services {
        let key = ServiceKey { stack: stack.name.clone(), service: service_name.clone() };
        for (network_key, attachment) in &service.networks {
            let Some(fixed) = attachment.address.map(IpAddr::V4).or(attachment.ipv6_address.map(IpAddr::V6)) else {
                continue;
            };
            let given = stack.networks.get(network_key).and_then(|network| network.name.as_ref());
            let name = full_name(&stack.name, given, network_key);
            let refuse = |reason: String| Rejected::AddressRefused { service: key.clone(), address: fixed, reason };
            let Some(network) = networks.get(&name) else { continue };
            let number = network.fixed_number(network_key, attachment);
            let number = number.map_err(|(address, reason)| Rejected::AddressRefused {
                service: key.clone(),
                address,
                reason,
            })?;
            let Some(number) = number else { continue };
            if !matches!(service.mode, ServiceMode::Replicated { replicas: 0 | 1 }) {
                return Err(refuse("only a service of one replica can have it".to_owned()));
            }
            if schedule::starts_first(service) {
                return Err(refuse("`update_config.order: start-first` needs it twice at a time".to_owned()));
            }
            let twice = wanted.iter().any(|((other, _), taken)| *other == name && *taken == number);
            let is_another_services = |task: &TaskId| state.tasks.get(task).is_some_and(|task| task.service != key);
            let elsewhere = network.hosts.values().chain(network.services.values()).any(|taken| *taken == number)
                || network.fixed.iter().any(|(other, taken)| *other != key && *taken == number)
                || network.tasks.iter().any(|(task, taken)| *taken == number && is_another_services(task));
            if twice || elsewhere {
                return Err(refuse("somebody else on the network has it".to_owned()));
            }
            wanted.insert((name, key.clone()), number);
        }
    }
    let names: Vec<String> = networks.keys().cloned().collect();
    for name in names {
        let Some(network) = networks.get(&name) else { continue };
        let fixed: OrdMap<ServiceKey, u32> = network
            .fixed
            .iter()
            .filter(|(key, _)| key.stack != stack.name)
            .map(|(key, number)| (key.clone(), *number))
            .chain(wanted.iter().filter(|((other, _), _)| *other == name).map(|((_, key), n)| (key.clone(), *n)))
            .collect();
        if fixed != network.fixed {
            let mut network = network.clone();
            network.fixed = fixed;
            network.reindex();
            networks.insert(name, network);
        }
    }
    Ok(())
}

/// Everybody on the network is to hear of a change.
pub(crate) fn changed(state: &mut State, name: &str) {
    let revision = state.revision;
    if let Some(network) = state.networks.get_mut(name) {
        network.generation = revision;
    }
}

/// Everybody on the task's networks is to hear of a change of it.
pub(crate) fn task_changed(state: &mut State, spec: &TaskSpec) {
    for name in spec.networks.keys() {
        changed(state, name);
    }
}

/// Everybody who is on a network with the host is to hear of a change of it.
pub(crate) fn host_changed(state: &mut State, node: NodeId) {
    let names: Vec<String> = networks_of(state, node).map(|(name, _)| name.clone()).collect();
    for name in names {
        changed(state, &name);
    }
}

/// The networks that a host is on.
pub fn networks_of(state: &State, node: NodeId) -> impl Iterator<Item = (&String, &Network)> {
    state.networks.iter().filter(move |(_, network)| network.hosts.contains_key(&node))
}

/// A service has changed: its virtual addresses, its names, what it publishes.
pub(crate) fn service_changed(state: &mut State, key: &ServiceKey) {
    let on: BTreeSet<String> =
        state.services.get(key).map(|service| service.task_spec.networks.keys().cloned().collect()).unwrap_or_default();
    let names: Vec<String> = state.networks.keys().cloned().collect();
    for name in names {
        let Some(network) = state.networks.get_mut(&name) else { continue };
        let has = network.services.get(key).copied();
        match (on.contains(&name), has) {
            (true, None) => {
                if let Some(number) = network.take() {
                    network.services.insert(key.clone(), number);
                }
            }
            (false, Some(number)) => {
                network.services.remove(key);
                network.give_back(number);
            }
            (true, Some(_)) => {}
            (false, None) => continue,
        }
        changed(state, &name);
        settle_hosts(state, &name);
    }
}

/// What a service publishes by way of a network: all that it does, on that of its networks which has its tasks' default
/// route, so that answers go the way that questions came. Ports
/// of mode `host` are among them: each host publishes its own tasks' by them.
fn published(state: &State, name: &str, key: &ServiceKey) -> Vec<PublishedPort> {
    let Some(service) = state.services.get(key) else { return Vec::new() };
    let leads_outside = |name: &String| state.networks.get(name).is_some_and(|network| !network.spec.internal);
    let leading = service.task_spec.networks.iter().filter(|(name, _)| leads_outside(name));
    let by = leading.min_by_key(|(_, attachment)| Reverse(attachment.gateway_priority));
    if by.is_none_or(|(by, _)| by != name) {
        return Vec::new();
    }
    let ports = service.spec.ports.iter();
    ports.filter(|port| port.published.is_some()).cloned().collect()
}

/// Makes those hosts be on the network that have tasks there, or all of them where something on it is published.
pub(crate) fn settle_hosts(state: &mut State, name: &str) {
    let Some(network) = state.networks.get(name) else { return };
    let on_every_host = |port: &PublishedPort| port.mode == PublishMode::Ingress;
    let is_published = network.services.keys().any(|key| published(state, name, key).iter().any(on_every_host));
    let wanted: BTreeSet<NodeId> = if is_published {
        // One that cannot be on it has no task of it, and publishes nothing of it either.
        let may = |node: &&Node| !encryption::is_encrypted(network) || encryption::unable(node).is_none();
        state.nodes.values().filter(may).map(|node| node.id).collect()
    } else {
        let of_tasks = network.tasks.keys().filter_map(|task| state.tasks.get(task)).map(|task| task.node);
        of_tasks.chain(network.guests.values().map(|guest| guest.node)).collect()
    };
    let present: BTreeSet<NodeId> = network.hosts.keys().copied().collect();
    if wanted == present {
        return;
    }
    if let Some(network) = state.networks.get_mut(name) {
        for node in present.difference(&wanted) {
            if let Some(number) = network.hosts.remove(node) {
                network.give_back(number);
            }
        }
        for node in wanted.difference(&present) {
            if let Some(number) = network.take() {
                network.hosts.insert(*node, number);
            }
        }
    }
    for node in wanted.symmetric_difference(&present) {
        touch(state, *node);
    }
    changed(state, name);
}

/// A host has come or gone.
pub(crate) fn hosts_changed(state: &mut State) {
    let names: Vec<String> = state.networks.keys().cloned().collect();
    for name in names {
        settle_hosts(state, &name);
    }
}

/// Addresses for a new task, on each of its networks; `None`: there is none left on one of them.
pub(crate) fn join(
    state: &mut State,
    id: TaskId,
    service: &ServiceKey,
    node: NodeId,
    spec: &TaskSpec,
) -> Option<BTreeMap<String, Vec<IpAddr>>> {
    // All or nothing: the state is only changed once every network has an address.
    let mut networks = state.networks.clone();
    let mut addresses = BTreeMap::new();
    let mut new_host = false;
    for name in spec.networks.keys() {
        let network = networks.get_mut(name)?;
        let number = network.take_for(service)?;
        network.tasks.insert(id, number);
        addresses.insert(name.clone(), network.addresses(number));
        if !network.hosts.contains_key(&node) {
            let number = network.take()?;
            network.hosts.insert(node, number);
            new_host = true;
        }
        network.generation = state.revision;
    }
    state.networks = networks;
    if new_host {
        touch(state, node);
    }
    Some(addresses)
}

/// A task has ended, or is given up: its addresses are free.
pub(crate) fn leave(state: &mut State, id: TaskId, spec: &TaskSpec) {
    for name in spec.networks.keys() {
        let Some(network) = state.networks.get_mut(name) else { continue };
        let Some(number) = network.tasks.remove(&id) else { continue };
        network.give_back(number);
        let is_empty = network.tasks.is_empty();
        changed(state, name);
        settle_hosts(state, name);
        if is_empty {
            sweep(state);
        }
    }
}

/// Networks of stacks that nobody is on, and that no deployed stack asks for, vanish.
pub(crate) fn sweep(state: &mut State) {
    let asked_for: BTreeSet<String> = state
        .stacks
        .values()
        .filter(|stack| !stack.removing)
        .flat_map(|stack| wanted(&stack.spec).into_keys())
        .chain(state.services.values().flat_map(|service| {
            let specs = std::iter::once(&service.task_spec).chain(&service.previous_task_spec);
            specs.flat_map(|spec| spec.networks.keys().cloned()).collect::<Vec<_>>()
        }))
        .collect();
    let gone: Vec<String> = state
        .networks
        .iter()
        .filter(|(name, network)| {
            let is_empty = network.tasks.is_empty() && network.guests.is_empty();
            network.stack.is_some() && is_empty && !asked_for.contains(*name)
        })
        .map(|(name, _)| name.clone())
        .collect();
    for name in gone {
        remove(state, &name);
    }
}

fn remove(state: &mut State, name: &str) {
    if let Some(network) = state.networks.remove(name) {
        state.last_vni = state.last_vni.max(network.vni);
        for node in network.hosts.keys() {
            touch(state, *node);
        }
    }
}

/// Makes a network by hand.
pub(crate) fn put_by_hand(state: &mut State, name: &str, spec: NetworkSpec) -> Result<(), Rejected> {
    if let Some(present) = state.networks.get(name)
        && let Some(owner) = &present.stack
    {
        return Err(Rejected::NetworkTaken { network: name.to_owned(), owner: format!("stack `{owner}`") });
    }
    let mut networks = state.networks.clone();
    put(state, &mut networks, name, None, spec)?;
    state.networks = networks;
    Ok(())
}

/// Removes a network that was made by hand.
pub(crate) fn remove_by_hand(state: &mut State, name: &str) -> Result<(), Rejected> {
    let network =
        state.networks.get(name).ok_or_else(|| Rejected::UnknownClusterNetwork { network: name.to_owned() })?;
    if let Some(owner) = &network.stack {
        return Err(Rejected::NetworkTaken { network: name.to_owned(), owner: format!("stack `{owner}`") });
    }
    if !network.tasks.is_empty() || !network.services.is_empty() {
        return Err(Rejected::NetworkInUse { network: name.to_owned(), tasks: network.tasks.len() });
    }
    if !network.guests.is_empty() {
        return Err(Rejected::NetworkHasGuests { network: name.to_owned(), guests: network.guests.len() });
    }
    remove(state, name);
    Ok(())
}

/// A host's networks, as its assignment says them.
pub(crate) fn assigned(state: &State, node: NodeId) -> BTreeMap<String, AssignedNetwork> {
    let one = |(name, network): (&String, &Network)| {
        let number = network.hosts.get(&node)?;
        let assigned = AssignedNetwork {
            id: network.id,
            vni: network.vni,
            addresses: network.addresses_with_length(*number),
            internal: network.spec.internal,
            encrypted: encryption::is_encrypted(network),
            mtu: network.spec.mtu,
        };
        Some((name.clone(), assigned))
    };
    networks_of(state, node).filter_map(one).collect()
}

fn endpoint_state(state: &State, task: &Task) -> EndpointState {
    let reachable = state.nodes.get(&task.node).is_some_and(|node| node.readiness == Readiness::Ready);
    match task.desired {
        DesiredState::Stopped => EndpointState::Draining,
        DesiredState::Running if task.status.ready && reachable => EndpointState::Serving,
        DesiredState::Running => EndpointState::NotReady,
    }
}

/// Everybody on a network; `None`: there is none of that name.
#[must_use]
pub fn network_document(state: &State, name: &str) -> Option<NetworkDocument> {
    let network = state.networks.get(name)?;
    let host = |(node, number): (&NodeId, &u32)| {
        let entry = state.nodes.get(node)?;
        let announced = entry.description.encryption.as_ref().filter(|_| encryption::is_encrypted(network));
        let host = NetworkHost {
            underlay: entry.address.ip(),
            addresses: network.addresses(*number),
            mtu: entry.description.mtu,
            keys: announced.map(|announced| announced.keys.clone()).unwrap_or_default(),
        };
        Some((*node, host))
    };
    let endpoint = |(id, number): (&TaskId, &u32)| {
        let task = state.tasks.get(id)?;
        let endpoint = NetworkEndpoint {
            service: task.service.clone(),
            slot: task.slot,
            node: task.node,
            addresses: network.addresses(*number),
            state: endpoint_state(state, task),
        };
        Some((*id, endpoint))
    };
    let guest = |(id, guest): (&String, &Guest)| {
        let (node, addresses) = (guest.node, network.addresses(guest.number));
        (id.clone(), NetworkGuest { node, addresses, names: guest.names.clone() })
    };
    let service = |(key, number): (&ServiceKey, &u32)| {
        let service = state.services.get(key)?;
        let attachment = service.task_spec.networks.get(name)?;
        let service = NetworkService {
            addresses: network.addresses(*number),
            endpoint_mode: service.spec.endpoint_mode,
            sticky: service.spec.sticky,
            names: attachment.aliases.iter().cloned().collect(),
            published: published(state, name, key),
        };
        Some((key.clone(), service))
    };
    Some(NetworkDocument {
        name: name.to_owned(),
        id: network.id,
        generation: network.generation,
        hosts: network.hosts.iter().filter_map(host).collect(),
        endpoints: network.tasks.iter().filter_map(endpoint).collect(),
        services: network.services.iter().filter_map(service).collect(),
        guests: network.guests.iter().map(guest).collect(),
    })
}

/// Whether every host that could send a draining task something new has said that it no longer does. A host that is not
/// heard is not waited for.
pub(crate) fn is_drained(state: &State, task: &Task) -> bool {
    let Some(draining) = task.draining else { return true };
    task.spec.networks.keys().filter_map(|name| state.networks.get(name)).all(|network| {
        network
            .hosts
            .keys()
            .filter_map(|node| state.nodes.get(node))
            .all(|node| node.readiness == Readiness::Down || node.networks_applied >= draining.revision)
    })
}

/// Whether it matters to anybody that the node has applied its networks' documents as of `revision`. The leader asks
/// before it writes an acknowledgement into the log.
#[must_use]
pub fn is_acknowledgement_awaited(state: &State, node: NodeId, revision: u64) -> bool {
    let Some(applied) = state.nodes.get(&node).map(|node| node.networks_applied) else { return false };
    let is_drained = state
        .draining()
        .any(|task| task.draining.is_some_and(|draining| draining.revision > applied && draining.revision <= revision));
    is_drained || encryption::is_awaited(state, node, applied, revision)
}

/// Whether hosts may send the task something new, so that it can end only once they no longer do.
pub(crate) fn must_drain(task: &Task) -> bool {
    task.status.ready && !task.addresses.is_empty()
}
