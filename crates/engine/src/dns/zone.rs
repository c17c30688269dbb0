//! Pure. The names of a network, and what a container finds among those of its networks.
//!
//! A name is known in lower case, without a final dot. Each network has a zone for each [`Layer`](super::Layer); what a
//! container is told comes from the zones of its own networks alone.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

use super::client::Client;
use super::directory::Layer;
use crate::network::Protocol;

/// The names on one network, as whoever decides them publishes them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkNames {
    /// The network's name. `web.NETWORK` is the same as `web` on it.
    pub network: String,
    /// Its subnets: an address of theirs that nobody has is known not to exist.
    pub subnets: Vec<IpNet>,
    /// The containers on it.
    pub endpoints: Vec<EndpointNames>,
    /// The services on it, those without a container included.
    pub services: Vec<ServiceNames>,
}

/// A container on a network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointNames {
    /// Its name, then its short id, slot name and aliases, in any case. Several containers may have the same. The first one
    /// is what its addresses are called.
    pub names: Vec<String>,
    /// IPv4 and IPv6.
    pub addresses: Vec<IpAddr>,
    /// The service whose task it is.
    pub member: Option<Member>,
}

/// A container's part in a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The service's name within its stack.
    pub service: String,
    /// The service's stack.
    pub stack: Option<String>,
    /// Whether the service's names lead to it. One that starts, is ill or is about to stop keeps only its own names.
    pub serving: bool,
}

/// A service on a network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceNames {
    /// Its name within its stack.
    pub name: String,
    /// Its stack: the service is also called `NAME.STACK`.
    pub stack: Option<String>,
    /// Further names.
    pub aliases: Vec<String>,
    /// Its virtual addresses on the network. Where there are any its names lead to them alone; otherwise to its tasks.
    pub virtual_addresses: Vec<IpAddr>,
    /// For SRV records.
    pub ports: Vec<ServicePort>,
}

/// A port that a service listens on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// As in `_NAME._tcp.SERVICE`; `None`: by its number alone.
    pub name: Option<String>,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// On the tasks.
    pub port: u16,
}

/// The types of record that are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A.
    Address4,
    /// AAAA.
    Address6,
    /// PTR.
    Pointer,
    /// SRV.
    Service,
    /// Whatever there is.
    Any,
    /// A type of which no name here has records.
    Other,
}

/// What is known about a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finding {
    /// These records; none, where the name has records of other types only.
    Records(Vec<Data>),
    /// It is ours to say that there is no such name.
    NoSuchName,
    /// It is nobody's here.
    Elsewhere,
}

/// The data of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Data {
    /// A or AAAA.
    Address(IpAddr),
    /// PTR.
    Pointer(String),
    /// SRV.
    Service {
        /// The port.
        port: u16,
        /// A name that has the addresses.
        target: String,
        /// The target's addresses, which save the client a question.
        addresses: Vec<IpAddr>,
    },
}

/// Where a name leads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Entry {
    addresses: Vec<IpAddr>,
    /// They are a service's virtual ones, beside which others of this name do not count.
    is_virtual: bool,
}

/// A service's port on one of its tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    name: String,
    port: u16,
    addresses: Vec<IpAddr>,
}

/// What is published of one network in one layer, ready to be looked up.
#[derive(Debug)]
pub(crate) struct Zone {
    source: NetworkNames,
    names: HashMap<String, Entry>,
    services: HashMap<String, Vec<Target>>,
    /// `_tcp.web`, where `_http._tcp.web` is: no records, but no absent name either.
    between: HashSet<String>,
    pointers: HashMap<IpAddr, Vec<String>>,
}

/// `web`, and `web.shop` in the stack `shop`.
fn qualified(name: &str, stack: Option<&str>) -> Vec<String> {
    let plain = name.to_lowercase();
    let mut names = Vec::with_capacity(2);
    if let Some(stack) = stack {
        names.push(format!("{plain}.{}", stack.to_lowercase()));
    }
    names.insert(0, plain);
    names
}

fn add(addresses: &mut Vec<IpAddr>, more: &[IpAddr]) {
    for address in more {
        if !addresses.contains(address) {
            addresses.push(*address);
        }
    }
}

impl Zone {
    pub fn new(source: NetworkNames) -> Self {
        let mut zone = Self {
            names: HashMap::new(),
            services: HashMap::new(),
            between: HashSet::new(),
            pointers: HashMap::new(),
            source: NetworkNames::default(),
        };
        for service in &source.services {
            zone.add_service(service, &source);
        }
        for endpoint in &source.endpoints {
            zone.add_endpoint(endpoint, &source.network);
        }
        zone.source = source;
        zone
    }

    pub fn source(&self) -> &NetworkNames {
        &self.source
    }

    fn add_service(&mut self, service: &ServiceNames, source: &NetworkNames) {
        let stack = service.stack.as_deref();
        let own = qualified(&service.name, stack);
        let aliases = service.aliases.iter().map(|alias| alias.to_lowercase());
        for name in own.iter().cloned().chain(aliases.clone()) {
            let entry = self.names.entry(name).or_default();
            add(&mut entry.addresses, &service.virtual_addresses);
            entry.is_virtual |= !service.virtual_addresses.is_empty();
        }
        for name in &own {
            self.names.entry(format!("tasks.{name}")).or_default();
        }
        for address in &service.virtual_addresses {
            self.pointers.entry(*address).or_default().push(format!("{}.{}", service.name, source.network));
        }
        let tasks: Vec<&EndpointNames> = source
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.member.as_ref().is_some_and(|member| member.serving && member.is_of(service)))
            .collect();
        if service.virtual_addresses.is_empty() {
            for alias in aliases {
                for task in &tasks {
                    let entry = self.names.entry(alias.clone()).or_default();
                    // The same alias may be another service's with virtual addresses, which then count alone.
                    if !entry.is_virtual {
                        add(&mut entry.addresses, &task.addresses);
                    }
                }
            }
        }
        for port in &service.ports {
            let protocol = port.protocol.as_str();
            let labels = port.name.iter().map(|name| name.to_lowercase()).chain([port.port.to_string()]);
            for label in labels {
                for name in &own {
                    self.between.insert(format!("_{protocol}.{name}"));
                    let targets = self.services.entry(format!("_{label}._{protocol}.{name}")).or_default();
                    targets.extend(tasks.iter().filter_map(|task| {
                        let name = format!("{}.{}", task.names.first()?, source.network);
                        Some(Target { name, port: port.port, addresses: task.addresses.clone() })
                    }));
                }
            }
        }
    }

    fn add_endpoint(&mut self, endpoint: &EndpointNames, network: &str) {
        let mut names: Vec<String> = endpoint.names.iter().map(|name| name.to_lowercase()).collect();
        if let Some(member) = &endpoint.member {
            let own = qualified(&member.service, member.stack.as_deref());
            for name in own {
                let tasks = self.names.entry(format!("tasks.{name}")).or_default();
                if member.serving {
                    add(&mut tasks.addresses, &endpoint.addresses);
                    names.push(name);
                } else {
                    self.names.entry(name.clone()).or_default();
                    // An alias that is the service's name too does not lead to a task that does not serve.
                    names.retain(|own| *own != name);
                }
            }
        }
        for name in names {
            let entry = self.names.entry(name).or_default();
            if !entry.is_virtual {
                add(&mut entry.addresses, &endpoint.addresses);
            }
        }
        if let Some(name) = endpoint.names.first() {
            for address in &endpoint.addresses {
                self.pointers.entry(*address).or_default().push(format!("{name}.{network}"));
            }
        }
    }
}

impl Member {
    fn is_of(&self, service: &ServiceNames) -> bool {
        let same = |one: &Option<String>, other: &Option<String>| match (one, other) {
            (Some(one), Some(other)) => one.eq_ignore_ascii_case(other),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        self.service.eq_ignore_ascii_case(&service.name) && same(&self.stack, &service.stack)
    }
}

/// The zones of one layer, by the network's name.
pub(crate) type Zones = HashMap<String, Arc<Zone>>;

/// Everything that is published, layer by layer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Published {
    /// By layer.
    pub layers: [Zones; 2],
}

impl Published {
    /// What is published about a network of this container's.
    pub fn zones<'a>(&'a self, client: &Client, network: &'a str) -> impl Iterator<Item = &'a Zone> + use<'a> {
        let only = client.layers.get(network).copied();
        let layers =
            [Layer::Host, Layer::Cluster].into_iter().filter(move |layer| only.is_none_or(|only| only == *layer));
        layers.filter_map(move |layer| self.layers.get(layer as usize)?.get(network).map(AsRef::as_ref))
    }

    /// What a container is told about a name, which is in lower case and has no final dot. `turn` says with which of several
    /// addresses the answer begins.
    pub fn find(&self, client: &Client, name: &str, kind: Kind, turn: usize) -> Finding {
        if let Some(address) = reverse_address(name) {
            return self.find_pointer(client, address, kind);
        }
        if let Some(stack) = &client.stack {
            let within = format!("{name}.{}", stack.to_lowercase());
            let found = self.find_name(client, &within, kind, turn);
            if !matches!(found, Finding::Elsewhere | Finding::NoSuchName) {
                return found;
            }
        }
        self.find_name(client, name, kind, turn)
    }

    fn find_pointer(&self, client: &Client, address: IpAddr, kind: Kind) -> Finding {
        let mut exists = false;
        for network in &client.networks {
            let mut names: Vec<Data> = Vec::new();
            for zone in self.zones(client, network) {
                exists |= zone.source.subnets.iter().any(|subnet| subnet.contains(&address));
                for name in zone.pointers.get(&address).into_iter().flatten() {
                    let data = Data::Pointer(name.clone());
                    if !names.contains(&data) {
                        names.push(data);
                    }
                }
            }
            if !names.is_empty() {
                return Finding::Records(if matches!(kind, Kind::Pointer | Kind::Any) { names } else { Vec::new() });
            }
        }
        if exists { Finding::NoSuchName } else { Finding::Elsewhere }
    }

    fn find_name(&self, client: &Client, name: &str, kind: Kind, turn: usize) -> Finding {
        let mut known = false;
        for network in &client.networks {
            if let Some(records) = self.find_on(client, network, name, kind, turn) {
                if !records.is_empty() {
                    return Finding::Records(records);
                }
                known = true;
            }
        }
        if known {
            return Finding::Records(Vec::new());
        }
        // Below a name of ours only what we know of exists; a name of the world's cannot look like that.
        let below = parent_service(name);
        if below.is_some_and(|parent| client.networks.iter().any(|network| self.knows(client, network, parent))) {
            return Finding::NoSuchName;
        }
        Finding::Elsewhere
    }

    fn knows(&self, client: &Client, network: &str, name: &str) -> bool {
        self.find_on(client, network, name, Kind::Other, 0).is_some()
    }

    /// `None`: the network has no such name.
    fn find_on(&self, client: &Client, network: &str, name: &str, kind: Kind, turn: usize) -> Option<Vec<Data>> {
        let short = name.len().checked_sub(network.len() + 1).filter(|&length| {
            // A network's name need not be ASCII in lower case, nor begin at a character of this name.
            name.is_char_boundary(length)
                && name.as_bytes()[length] == b'.'
                && name[length + 1..].eq_ignore_ascii_case(network)
        });
        [Some(name), short.map(|length| &name[..length])]
            .into_iter()
            .flatten()
            .find_map(|name| self.find_exactly(client, network, name, kind, turn))
    }

    fn find_exactly(&self, client: &Client, network: &str, name: &str, kind: Kind, turn: usize) -> Option<Vec<Data>> {
        let mut entry: Option<Entry> = None;
        let mut targets: Option<Vec<Target>> = None;
        let mut between = false;
        for zone in self.zones(client, network) {
            if let Some(more) = zone.names.get(name) {
                let entry = entry.get_or_insert_default();
                if more.is_virtual && !entry.is_virtual {
                    *entry = more.clone();
                } else if more.is_virtual == entry.is_virtual {
                    add(&mut entry.addresses, &more.addresses);
                }
            }
            if let Some(more) = zone.services.get(name) {
                let targets = targets.get_or_insert_default();
                for target in more {
                    if !targets.contains(target) {
                        targets.push(target.clone());
                    }
                }
            }
            between |= zone.between.contains(name);
        }
        if entry.is_none() && targets.is_none() && !between {
            return None;
        }
        let addresses = entry.map(|entry| entry.addresses).unwrap_or_default();
        let targets = targets.unwrap_or_default();
        Some(match kind {
            Kind::Address4 => in_turn(addresses.into_iter().filter(IpAddr::is_ipv4).map(Data::Address), turn),
            Kind::Address6 => in_turn(addresses.into_iter().filter(IpAddr::is_ipv6).map(Data::Address), turn),
            Kind::Service => in_turn(targets.into_iter().map(Target::into_data), turn),
            Kind::Any => {
                let addresses = addresses.into_iter().map(Data::Address);
                in_turn(addresses.chain(targets.into_iter().map(Target::into_data)), turn)
            }
            Kind::Pointer | Kind::Other => Vec::new(),
        })
    }
}

impl Target {
    fn into_data(self) -> Data {
        Data::Service { port: self.port, target: self.name, addresses: self.addresses }
    }
}

fn in_turn(data: impl Iterator<Item = Data>, turn: usize) -> Vec<Data> {
    let mut data: Vec<Data> = data.collect();
    if let Some(begin) = turn.checked_rem(data.len()) {
        data.rotate_left(begin);
    }
    data
}

/// `web` of `tasks.web`, `_http._tcp.web` and `_tcp.web`.
fn parent_service(name: &str) -> Option<&str> {
    if let Some(service) = name.strip_prefix("tasks.") {
        return Some(service);
    }
    let mut rest = name.strip_prefix('_')?.split_once('.')?.1;
    while let Some(below) = rest.strip_prefix('_') {
        rest = below.split_once('.')?.1;
    }
    Some(rest)
}

/// The address that a name of `in-addr.arpa` or `ip6.arpa` stands for, when it stands for a whole one.
fn reverse_address(name: &str) -> Option<IpAddr> {
    if let Some(labels) = name.strip_suffix(".in-addr.arpa") {
        let mut parts = [0u8; 4];
        let mut count = 0;
        for label in labels.split('.') {
            let byte: u8 = label.parse().ok().filter(|_| !label.starts_with('+'))?;
            // The last part of the address is the first label.
            *parts.get_mut(3usize.checked_sub(count)?)? = byte;
            count += 1;
        }
        return (count == 4).then(|| IpAddr::V4(Ipv4Addr::from(parts)));
    }
    let labels = name.strip_suffix(".ip6.arpa")?;
    let mut bits = 0u128;
    let mut count = 0u32;
    for label in labels.split('.') {
        let [digit] = label.as_bytes() else { return None };
        let value = char::from(*digit).to_digit(16)?;
        bits |= u128::from(value).checked_shl(4 * count).filter(|_| count < 32)?;
        count += 1;
    }
    (count == 32).then(|| IpAddr::V6(Ipv6Addr::from(bits)))
}

#[cfg(test)]
#[path = "zone_tests.rs"]
mod tests;
