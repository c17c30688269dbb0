//! Pure. The networks between hosts as one host is told of them: one value, whole, replaced at each change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::encryption::{PREFIX, PREFIX_LENGTH};
use crate::network::Protocol;

/// The UDP port that hosts send each other the networks' packets to, unless configured otherwise. Not VXLAN's registered
/// 4789, nor the 8472 of Linux's own default: a host that also runs Docker Swarm or a Kubernetes has those in use, and two
/// owners of one port share the numbers of their networks.
pub const DEFAULT_PORT: u16 = 4792;

/// What a VXLAN header and those around it take of the MTU between hosts, in bytes: over IPv4.
pub const OVERHEAD_IPV4: u32 = 50;
/// The same over IPv6.
pub const OVERHEAD_IPV6: u32 = 70;

/// The addresses that hosts have within tunnels.
pub const TUNNELS: Ipv6Net = Ipv6Net::new_assert(PREFIX, PREFIX_LENGTH);

/// How the overlay networks of one host are made. All hosts of a cluster have the same port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OverlayConfig {
    /// Names of links start with this: 1 to 5 lower-case letters and digits.
    pub prefix: String,
    /// The name of the nftables tables on the host and in containers, in the `inet` family. Nobody else may write into
    /// them.
    pub table: String,
    /// The UDP port between hosts.
    pub port: u16,
}

impl Default for OverlayConfig {
    fn default() -> Self {
        Self { prefix: "stack".to_owned(), table: "stack-overlay".to_owned(), port: DEFAULT_PORT }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OverlayConfigError {
    /// Link names could not be made of it.
    #[error("overlay prefix `{prefix}`: expected 1 to 5 lower-case letters and digits, a letter first")]
    Prefix {
        /// What was given.
        prefix: String,
    },
    /// It is no name of a table.
    #[error("nftables table `{table}`: expected 1 to 32 lower-case letters, digits, `-` and `_`, a letter first")]
    Table {
        /// What was given.
        table: String,
    },
    /// It is no port, or there is none after it.
    #[error("the port of the overlay networks is not from 1 to 65534: name one, the same on every host")]
    Port,
}

impl OverlayConfig {
    /// Whether it can be used at all.
    ///
    /// # Errors
    /// The first field that cannot.
    pub fn check(&self) -> Result<(), OverlayConfigError> {
        let starts_with_letter = |text: &str| text.starts_with(|first: char| first.is_ascii_lowercase());
        let plain = |character: char| character.is_ascii_lowercase() || character.is_ascii_digit();
        if self.prefix.len() > 5 || !starts_with_letter(&self.prefix) || !self.prefix.chars().all(plain) {
            return Err(OverlayConfigError::Prefix { prefix: self.prefix.clone() });
        }
        let in_table = |character: char| plain(character) || matches!(character, '-' | '_');
        if self.table.len() > 32 || !starts_with_letter(&self.table) || !self.table.chars().all(in_table) {
            return Err(OverlayConfigError::Table { table: self.table.clone() });
        }
        if self.port == 0 || self.port == u16::MAX {
            return Err(OverlayConfigError::Port);
        }
        Ok(())
    }

    /// The UDP port of encrypted networks, within tunnels: nobody else's packets reach it. Were it that of the others, who
    /// can send to a host could send to its encrypted networks.
    #[must_use]
    pub const fn encrypted_port(&self) -> u16 {
        self.port.saturating_add(1)
    }
}

/// All overlay networks of this host: whole, replaced at each change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overlays {
    /// By name.
    pub networks: BTreeMap<String, OverlayNetwork>,
}

/// One overlay network as this host is on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OverlayNetwork {
    /// Unique in the cluster.
    pub name: String,
    /// The VXLAN network identifier: 24 bits, not 0, unique in the cluster.
    pub vni: u32,
    /// Of the bridge and the containers' interfaces, in bytes: at most the MTU between hosts less [`OVERHEAD_IPV4`] or
    /// [`OVERHEAD_IPV6`].
    pub mtu: u32,
    /// No way out of it, and no published ports.
    pub internal: bool,
    /// Between hosts it is only by tunnels: `underlay` is `::`, and the other hosts are at addresses within tunnels.
    #[serde(default)]
    pub encrypted: bool,
    /// This host's address between hosts.
    pub underlay: IpAddr,
    /// This host's own addresses on the network with the subnets' lengths, at most one of each family: the bridge's, and
    /// its containers' gateways. Every host has its own.
    pub addresses: Vec<IpNet>,
    /// Every address of the network that is on another host: tasks' and the hosts' own.
    pub neighbours: Vec<Neighbour>,
    /// Balanced inside each local container's network namespace.
    pub services: Vec<VirtualService>,
    /// Ports that every host publishes by way of this network.
    #[serde(default)]
    pub ingress: Vec<Ingress>,
}

/// An address of a network that is on another host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Neighbour {
    /// On the network.
    pub address: IpAddr,
    /// Of the interface that has it: see [`link_address`].
    pub mac: [u8; 6],
    /// Where that host is, between hosts.
    pub host: IpAddr,
}

/// A service with virtual addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VirtualService {
    /// Its virtual addresses on the network. Only an address of the same family is sent to from one.
    pub addresses: Vec<IpAddr>,
    /// Those that may be sent new connections now. With none, connections are refused at once.
    pub backends: Vec<IpAddr>,
    /// Send one client, by its address, to the same backend as long as that is there.
    #[serde(default)]
    pub sticky: bool,
}

/// A port that is published on every host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ingress {
    /// Of the port.
    pub protocol: Protocol,
    /// The host's only address that it is published on; `None`: all of them.
    #[serde(default)]
    pub host_ip: Option<IpAddr>,
    /// On the host.
    pub port: u16,
    /// Of the tasks.
    pub target: u16,
    /// Tasks on this host that may be sent new connections: while there are any they get all, and see the client's address.
    pub local: Vec<IpAddr>,
    /// Tasks on other hosts that may be sent new connections: they see this host's address on the network.
    pub remote: Vec<IpAddr>,
    /// As in [`VirtualService::sticky`].
    #[serde(default)]
    pub sticky: bool,
    /// Connections begin with a header of the PROXY protocol, version 2, which says who asks: also tasks on other hosts know
    /// then. They pass through this process. TCP only.
    #[serde(default)]
    pub proxy_protocol: bool,
}

/// An interface of a container on an overlay network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OverlayEndpoint {
    /// The network's name.
    pub network: String,
    /// The interface's name inside, such as `eth0`.
    pub interface: String,
    /// Its addresses with the subnets' lengths, at most one of each family.
    pub addresses: Vec<IpNet>,
    /// See [`link_address`].
    pub mac: [u8; 6],
    /// Where default routes go, at most one of each family: this host's addresses on the network. None for an internal
    /// network, or where another interface has them.
    #[serde(default)]
    pub gateways: Vec<IpAddr>,
}

impl OverlayEndpoint {
    /// Its addresses without the subnets' lengths.
    pub fn own_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().map(IpNet::addr)
    }
}

/// Why the networks cannot be made as they are described.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("overlay network `{network}`: {reason}")]
pub struct OverlayError {
    /// Its name.
    pub network: String,
    /// What is wrong with it.
    pub reason: OverlayErrorReason,
}

/// What is wrong with a network's description.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OverlayErrorReason {
    /// It stands under another name.
    #[error("it stands under the name `{key}`")]
    Name {
        /// That name.
        key: String,
    },
    /// The identifier.
    #[error("its identifier {vni} is not from 1 to 16777215")]
    Identifier {
        /// What was given.
        vni: u32,
    },
    /// The identifier is another network's.
    #[error("its identifier {vni} is that of `{other}`")]
    IdentifierTwice {
        /// The identifier.
        vni: u32,
        /// The other network.
        other: String,
    },
    /// The MTU.
    #[error("an MTU of {mtu} bytes is not possible: expected {least} to 65535")]
    Mtu {
        /// What was given.
        mtu: u32,
        /// The least that the network's families of addresses allow.
        least: u32,
    },
    /// This host's addresses.
    #[error("this host needs one address on it, or one of each family, and has {count}")]
    Addresses {
        /// How many were given.
        count: usize,
    },
    /// An address that the network does not have.
    #[error("the address {address} is in none of its subnets")]
    Foreign {
        /// The address.
        address: IpAddr,
    },
    /// An address at two places.
    #[error("the address {address} is at two places")]
    Twice {
        /// The address.
        address: IpAddr,
    },
    /// A link-layer address that no interface can have.
    #[error("the address {address} has the link-layer address of a group")]
    Group {
        /// The address.
        address: IpAddr,
    },
    /// Two hosts for one link-layer address.
    #[error("the link-layer address of {address} is at two hosts")]
    LinkAddressTwice {
        /// One of its addresses.
        address: IpAddr,
    },
    /// Addresses between hosts of different families.
    #[error("{host} cannot be reached from {underlay}: the addresses between hosts must be of one family")]
    Underlay {
        /// The other host's.
        host: IpAddr,
        /// This host's.
        underlay: IpAddr,
    },
    /// An encrypted network's host that is not at an address within tunnels.
    #[error("{host} is no address within tunnels: what goes there would not be encrypted")]
    Unprotected {
        /// The other host's.
        host: IpAddr,
    },
    /// A published port of an internal network.
    #[error("port {port}/{protocol} cannot be published: the network is internal")]
    IngressOfInternal {
        /// The port.
        port: u16,
        /// Its protocol.
        protocol: Protocol,
    },
    /// A header that only a stream can begin with.
    #[error("port {port}/{protocol} cannot have the PROXY protocol: it is for TCP")]
    ProxyProtocol {
        /// The port.
        port: u16,
        /// Its protocol.
        protocol: Protocol,
    },
    /// Two tasks' ports under one.
    #[error("port {port}/{protocol} is published twice")]
    IngressTwice {
        /// The port.
        port: u16,
        /// Its protocol.
        protocol: Protocol,
    },
}

impl Overlays {
    /// Whether they can be made.
    ///
    /// # Errors
    /// The first network that cannot, and why.
    pub fn check(&self) -> Result<(), OverlayError> {
        let mut identifiers: BTreeMap<u32, &str> = BTreeMap::new();
        let mut published = BTreeSet::new();
        for (key, network) in &self.networks {
            let fail = |reason| OverlayError { network: network.name.clone(), reason };
            if *key != network.name {
                return Err(fail(OverlayErrorReason::Name { key: key.clone() }));
            }
            network.check().map_err(fail)?;
            if let Some(other) = identifiers.insert(network.vni, key) {
                let other = other.to_owned();
                return Err(fail(OverlayErrorReason::IdentifierTwice { vni: network.vni, other }));
            }
            for &Ingress { port, protocol, .. } in &network.ingress {
                if !published.insert((protocol, port)) {
                    return Err(fail(OverlayErrorReason::IngressTwice { port, protocol }));
                }
            }
        }
        Ok(())
    }
}

impl OverlayNetwork {
    fn check(&self) -> Result<(), OverlayErrorReason> {
        if !(1..1 << 24).contains(&self.vni) {
            return Err(OverlayErrorReason::Identifier { vni: self.vni });
        }
        let families: BTreeSet<bool> = self.addresses.iter().map(|address| address.addr().is_ipv4()).collect();
        if families.is_empty() || families.len() != self.addresses.len() {
            return Err(OverlayErrorReason::Addresses { count: self.addresses.len() });
        }
        // What RFC 8200 and RFC 791 ask of a link.
        let least = if families.contains(&false) { 1280 } else { 576 };
        if !(least..=65535).contains(&self.mtu) {
            return Err(OverlayErrorReason::Mtu { mtu: self.mtu, least });
        }
        let member = |address: IpAddr| match self.subnet_of(address) {
            Some(_) => Ok(()),
            None => Err(OverlayErrorReason::Foreign { address }),
        };
        let mut places: BTreeSet<IpAddr> = self.addresses.iter().map(IpNet::addr).collect();
        let mut hosts: BTreeMap<[u8; 6], IpAddr> = BTreeMap::new();
        for &Neighbour { address, mac, host } in &self.neighbours {
            member(address)?;
            if !places.insert(address) {
                return Err(OverlayErrorReason::Twice { address });
            }
            if mac[0] & 1 == 1 || mac == [0; 6] {
                return Err(OverlayErrorReason::Group { address });
            }
            if self.encrypted && !is_within_tunnels(host) {
                return Err(OverlayErrorReason::Unprotected { host });
            }
            if host.is_ipv4() != self.underlay.is_ipv4() {
                return Err(OverlayErrorReason::Underlay { host, underlay: self.underlay });
            }
            if hosts.insert(mac, host).is_some_and(|other| other != host) {
                return Err(OverlayErrorReason::LinkAddressTwice { address });
            }
        }
        for service in &self.services {
            for &address in &service.addresses {
                member(address)?;
                if !places.insert(address) {
                    return Err(OverlayErrorReason::Twice { address });
                }
            }
            service.backends.iter().try_for_each(|&address| member(address))?;
        }
        for &Ingress { port, protocol, ref local, ref remote, proxy_protocol, .. } in &self.ingress {
            if proxy_protocol && protocol != Protocol::Tcp {
                return Err(OverlayErrorReason::ProxyProtocol { port, protocol });
            }
            if self.internal {
                return Err(OverlayErrorReason::IngressOfInternal { port, protocol });
            }
            local.iter().chain(remote).try_for_each(|&address| member(address))?;
        }
        Ok(())
    }

    /// The subnet that has this address.
    #[must_use]
    pub fn subnet_of(&self, address: IpAddr) -> Option<IpNet> {
        self.addresses.iter().map(IpNet::trunc).find(|subnet| subnet.contains(&address))
    }

    /// Whether it has addresses of IPv6.
    #[must_use]
    pub fn has_ipv6(&self) -> bool {
        self.addresses.iter().any(|address| address.addr().is_ipv6())
    }
}

/// Whether an address is one that a host has within tunnels.
fn is_within_tunnels(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if TUNNELS.contains(&address))
}

/// The link-layer address of the interface that has these addresses: a function of its first IPv4 address or, without one,
/// of its first IPv6 address. Every host answers for every other with it, so it never goes stale: an address that moves to
/// another host keeps it.
#[must_use]
pub fn link_address(addresses: impl IntoIterator<Item = IpAddr>) -> [u8; 6] {
    let mut ipv6: Option<Ipv6Addr> = None;
    for address in addresses {
        match address {
            IpAddr::V4(address) => return of_ipv4(address),
            IpAddr::V6(address) => ipv6 = ipv6.or(Some(address)),
        }
    }
    // Locally administered, and apart from those of IPv4: 02:42 and then the last four bytes would meet them.
    let [.., a, b, c, d, e] = ipv6.unwrap_or(Ipv6Addr::UNSPECIFIED).octets();
    [0x06, a, b, c, d, e]
}

fn of_ipv4(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x42, a, b, c, d]
}
