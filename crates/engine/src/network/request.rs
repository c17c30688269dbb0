//! Pure. What a caller asks of the networks, and what it gets.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::addressing;
use super::driver::Driver;
use crate::overlay::OverlayEndpoint;

/// The longest prefix of link names: with the eight hexadecimal digits of an address it must fit IFNAMSIZ.
pub const LONGEST_PREFIX: usize = 7;

/// The kernel's limit, IFNAMSIZ with its final zero.
pub const LONGEST_LINK_NAME: usize = 15;

/// How the networks of one engine are made. Two engines in different network namespaces may have the same; two in one
/// namespace need different prefixes and tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkConfig {
    /// Names of bridges and of the host's ends of links start with this: at most 7 lower-case letters and digits.
    pub prefix: String,
    /// The name of the nftables table, in the `inet` family. Nobody else may write into it.
    pub table: String,
    /// Where subnets come from, tried in order. A subnet that meets a route of the host is passed over.
    pub pools: Vec<Ipv4Net>,
    /// The size of each network's subnet, as a prefix length from 8 to 29.
    pub subnet_length: u8,
    /// The MTU of bridges and links, in bytes.
    pub mtu: u32,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        let pool = |second| Ipv4Net::new_assert(Ipv4Addr::new(172, second, 0, 0), 16);
        Self {
            prefix: "stack".to_owned(),
            table: "stack".to_owned(),
            pools: vec![pool(30), pool(29), pool(28)],
            subnet_length: 23,
            mtu: 1500,
        }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkConfigError {
    /// Link names could not be made of it.
    #[error("network prefix `{prefix}`: expected 1 to {LONGEST_PREFIX} lower-case letters and digits, a letter first")]
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
    /// There is nowhere to take subnets from.
    #[error("no address pool is given: name one, such as 172.30.0.0/16")]
    NoPool,
    /// The subnet's size makes no sense for a pool.
    #[error(
        "subnets of /{subnet_length} cannot be cut from {pool}: expected a length from 8 to 29, not below the pool's"
    )]
    SubnetLength {
        /// What was given.
        subnet_length: u8,
        /// The pool that does not fit.
        pool: Ipv4Net,
    },
    /// The MTU is outside what IPv4 and Ethernet links allow.
    #[error("an MTU of {mtu} bytes is not possible: expected 576 to 65535")]
    Mtu {
        /// What was given.
        mtu: u32,
    },
}

impl NetworkConfig {
    /// Whether it can be used at all.
    ///
    /// # Errors
    /// The first field that cannot.
    pub fn check(&self) -> Result<(), NetworkConfigError> {
        let starts_with_letter = |text: &str| text.starts_with(|first: char| first.is_ascii_lowercase());
        let plain = |character: char| character.is_ascii_lowercase() || character.is_ascii_digit();
        if self.prefix.len() > LONGEST_PREFIX || !starts_with_letter(&self.prefix) || !self.prefix.chars().all(plain) {
            return Err(NetworkConfigError::Prefix { prefix: self.prefix.clone() });
        }
        let in_table = |character: char| plain(character) || matches!(character, '-' | '_');
        if self.table.len() > 32 || !starts_with_letter(&self.table) || !self.table.chars().all(in_table) {
            return Err(NetworkConfigError::Table { table: self.table.clone() });
        }
        if self.pools.is_empty() {
            return Err(NetworkConfigError::NoPool);
        }
        for &pool in &self.pools {
            if !(8..=29).contains(&self.subnet_length) || self.subnet_length < pool.prefix_len() {
                return Err(NetworkConfigError::SubnetLength { subnet_length: self.subnet_length, pool });
            }
        }
        if !(576..=65535).contains(&self.mtu) {
            return Err(NetworkConfigError::Mtu { mtu: self.mtu });
        }
        Ok(())
    }
}

/// A transport protocol that can be published.
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

    /// Its number in the IP header (IANA's registry of protocol numbers).
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

/// One port of a container that the host publishes.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortBinding {
    /// Only on this address of the host; `None` in a request: on all of its addresses of the families that the container has,
    /// and on 127.0.0.1 whatever those are; in what it got: on all of its IPv4 addresses.
    #[serde(default)]
    pub host_ip: Option<IpAddr>,
    /// On the host; 0 in a request: a free one from 32768 to 60999. In what it got it is 0 where the network is routed: the
    /// container's own address and port are what others reach.
    pub host_port: u16,
    /// In a request the last port of a range that begins with `host_port`: the first of them that is free is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_port_last: Option<u16>,
    /// In the container; never 0.
    pub container_port: u16,
    /// Which protocol.
    #[serde(default)]
    pub protocol: Protocol,
    /// Whether other containers may publish the same port too; new connections are then spread over them.
    #[serde(default)]
    pub shared: bool,
}

impl fmt::Display for PortBinding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(address) = self.host_ip {
            match address {
                IpAddr::V4(address) => write!(formatter, "{address}:")?,
                IpAddr::V6(address) => write!(formatter, "[{address}]:")?,
            }
        }
        write!(formatter, "{}", self.host_port)?;
        if let Some(last) = self.host_port_last {
            write!(formatter, "-{last}")?;
        }
        write!(formatter, ":{}/{}", self.container_port, self.protocol)
    }
}

/// One network that a container is to be on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkEndpoint {
    /// The network's name. It must be there, but for the usual one, which is made when it is needed first.
    pub name: String,
    /// Further names of the container there.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Its address there; `None`: a free one.
    #[serde(default)]
    pub address: Option<Ipv4Addr>,
    /// Its IPv6 address there; `None`: a free one, where the network has IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address6: Option<Ipv6Addr>,
    /// The link-layer address of its interface; `None`: one that follows from the address.
    #[serde(default)]
    pub mac: Option<MacAddress>,
    /// The network with the highest has the default route and serves the published ports; among equals the first by name.
    #[serde(default)]
    pub priority: i64,
    /// It is a network between hosts: whoever the engine was told of ([`super::BetweenHosts`]) gives the address.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub between_hosts: bool,
    /// Further addresses of its interface, which hold on its link alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub link_local: Vec<IpAddr>,
    /// Settings of the interface under `/proc/sys/net`, with `IFNAME` in place of its name: `ipv4.conf.IFNAME.log_martians`.
    #[serde(default)]
    pub sysctls: Vec<(String, String)>,
}

/// The link-layer address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct MacAddress(pub [u8; 6]);

/// A text that is no link-layer address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is no link-layer address: expected six pairs of hexadecimal digits with colons, such as 02:42:ac:11:00:02"
)]
pub struct MacAddressError {
    /// What was given.
    pub text: String,
}

impl FromStr for MacAddress {
    type Err = MacAddressError;

    fn from_str(text: &str) -> Result<Self, MacAddressError> {
        let refuse = || MacAddressError { text: text.chars().take(80).collect() };
        let separator = if text.contains('-') { '-' } else { ':' };
        let pairs: Vec<&str> = text.split(separator).collect();
        let mut bytes = [0; 6];
        if pairs.len() != bytes.len() {
            return Err(refuse());
        }
        for (byte, pair) in bytes.iter_mut().zip(pairs) {
            let plain = pair.len() == 2 && pair.bytes().all(|digit| digit.is_ascii_hexdigit());
            *byte = u8::from_str_radix(pair, 16).ok().filter(|_| plain).ok_or_else(refuse)?;
        }
        // Interfaces have addresses of one station, not of a group.
        if bytes[0] & 1 == 1 { Err(refuse()) } else { Ok(Self(bytes)) }
    }
}

impl TryFrom<String> for MacAddress {
    type Error = MacAddressError;

    fn try_from(text: String) -> Result<Self, MacAddressError> {
        text.parse()
    }
}

impl From<MacAddress> for String {
    fn from(address: MacAddress) -> Self {
        address.to_string()
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.0.map(|byte| format!("{byte:02x}")).join(":"))
    }
}

/// The networks and ports of one container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkRequest {
    /// In the order of the interfaces. Empty: only a loopback interface.
    #[serde(default)]
    pub networks: Vec<NetworkEndpoint>,
    /// What the host publishes.
    #[serde(default)]
    pub ports: Vec<PortBinding>,
    /// The interfaces on networks between hosts of a container that belongs to no stack: they are only kept here.
    #[serde(default)]
    pub between: Vec<OverlayEndpoint>,
    /// A network between hosts publishes the ports: here they are only held, so that nobody else takes them.
    #[serde(default)]
    pub held_only: bool,
    /// The container's host name.
    #[serde(default)]
    pub hostname: String,
    /// The container's name, under which its networks know it.
    #[serde(default)]
    pub name: String,
}

/// The IPv4 of a network, or of a container's interface on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv4Part {
    /// Of a network its subnet; of an interface its address with the subnet's length.
    pub net: Ipv4Net,
    /// Where the default route leads.
    pub gateway: Ipv4Addr,
}

/// What IPv6 adds to a network, or to a container's interface on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ipv6Part {
    /// Of a network its subnet; of an interface its address with the subnet's length.
    pub net: Ipv6Net,
    /// The host's address on the network.
    pub gateway: Ipv6Addr,
}

/// A container's interface on one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// The network's name.
    pub network: String,
    /// In the container: `eth0`, `eth1`, …
    pub interface: String,
    /// Its IPv4 address with the network's prefix length, where the network has IPv4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Net>,
    /// The host's IPv4 address on the network: there whenever `address` is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Ipv4Addr>,
    /// Its IPv6 address, where the network has IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Part>,
    /// Further addresses, which hold on its link alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub link_local: Vec<IpAddr>,
    /// As six pairs of hexadecimal digits with colons; empty where it has that of the host's link.
    pub mac: String,
    /// As in [`NetworkEndpoint::priority`].
    #[serde(default)]
    pub priority: i64,
    /// Its network leads nowhere, so it has no default route.
    #[serde(default)]
    pub internal: bool,
    /// Its network has no router: the default route leads through the interface alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub routes_by_interface: bool,
}

impl Endpoint {
    /// Its IPv4, where the network has it.
    #[must_use]
    pub fn ipv4(&self) -> Option<Ipv4Part> {
        self.address.zip(self.gateway).map(|(net, gateway)| Ipv4Part { net, gateway })
    }

    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let ipv4 = self.address.map(|net| IpAddr::V4(net.addr()));
        ipv4.into_iter().chain(self.ipv6.map(|part| IpAddr::V6(part.net.addr())))
    }

    /// The host's addresses on its network, or its routers', IPv4 first.
    pub fn gateways(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.gateway.map(IpAddr::V4).into_iter().chain(self.ipv6.map(|part| IpAddr::V6(part.gateway)))
    }

    /// Where the default route by it leads whose gateway this is.
    pub(super) const fn default_route(&self, gateway: IpAddr) -> DefaultRoute {
        if self.routes_by_interface {
            DefaultRoute::Interface { ipv6: gateway.is_ipv6() }
        } else {
            DefaultRoute::By(gateway)
        }
    }
}

/// Where a default route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultRoute {
    /// To this router.
    By(IpAddr),
    /// Through the interface, to whoever answers there.
    Interface {
        /// Of which family.
        ipv6: bool,
    },
}

/// What a container got.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// In the order of the request.
    pub endpoints: Vec<Endpoint>,
    /// As asked for, with the random ports filled in.
    pub ports: Vec<PortBinding>,
    /// On networks between hosts, of a container that belongs to no stack.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub between: Vec<OverlayEndpoint>,
}

impl Attachment {
    /// The interface that has the default route of IPv4: among those that have it the one of the highest priority, among equals
    /// the first by its network's name.
    #[must_use]
    pub fn leading4(&self) -> Option<(&Endpoint, Ipv4Part)> {
        let leads = first(self.endpoints.iter().filter(|endpoint| !endpoint.internal && endpoint.ipv4().is_some()))?;
        leads.ipv4().map(|part| (leads, part))
    }

    /// The same for IPv6.
    #[must_use]
    pub fn leading6(&self) -> Option<(&Endpoint, Ipv6Part)> {
        let leads = first(self.endpoints.iter().filter(|endpoint| !endpoint.internal && endpoint.ipv6.is_some()))?;
        leads.ipv6.map(|part| (leads, part))
    }
}

fn first<'a>(leads: impl Iterator<Item = &'a Endpoint>) -> Option<&'a Endpoint> {
    leads.min_by(|one, other| (other.priority, &one.network).cmp(&(one.priority, &other.network)))
}

/// How what is outside of a network and what is on it reach each other, in one family of addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GatewayMode {
    /// By translation: published ports of the host lead in, and what leaves has the host's address.
    #[default]
    Nat,
    /// The same, and whoever has a route to the containers reaches every port of theirs.
    NatUnprotected,
    /// By routes that others have: nothing is translated, and the published ports of the containers' own addresses answer.
    Routed,
    /// Not at all, the host included: the bridge has no address.
    Isolated,
}

impl GatewayMode {
    /// As Docker writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::NatUnprotected => "nat-unprotected",
            Self::Routed => "routed",
            Self::Isolated => "isolated",
        }
    }

    /// Whether addresses are translated.
    #[must_use]
    pub const fn translates(self) -> bool {
        match self {
            Self::Nat | Self::NatUnprotected => true,
            Self::Routed | Self::Isolated => false,
        }
    }
}

/// What whoever makes a network may say about it. The default is what a network gets that is made because a container
/// names it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkSettings {
    /// What joins its containers.
    pub driver: Driver,
    /// `None`: a free one of the pools.
    pub subnet: Option<Ipv4Net>,
    /// The part of the subnet that addresses are drawn from.
    pub range: Option<Ipv4Net>,
    /// `None`: the first address of the subnet.
    pub gateway: Option<Ipv4Addr>,
    /// Addresses that no container gets, of both families, and what has them.
    #[serde(alias = "reserved")]
    pub auxiliary: BTreeMap<String, IpAddr>,
    /// It has no IPv4.
    pub without_ipv4: bool,
    /// It has IPv6.
    pub ipv6: bool,
    /// Of IPv6; `None`: a free one of unique local addresses.
    pub subnet6: Option<Ipv6Net>,
    /// The part of it that addresses are drawn from.
    pub range6: Option<Ipv6Net>,
    /// `None`: the first address of the IPv6 subnet.
    pub gateway6: Option<Ipv6Addr>,
    /// Subnets of either family after the first one, for networks on a link of the host.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub further: Vec<FurtherSubnet>,
    /// How IPv4 leads in and out.
    pub gateway_mode4: GatewayMode,
    /// How IPv6 leads in and out.
    pub gateway_mode6: GatewayMode,
    /// The bridge's name. A bridge that is there is used, and stays when the network goes.
    pub bridge: Option<String>,
    /// In bytes; `None`: as the engine is configured.
    pub mtu: Option<u32>,
    /// Its containers reach nothing but each other and the host.
    pub internal: bool,
    /// Its containers do not reach each other.
    pub isolated: bool,
    /// What leaves the host keeps the containers' own addresses.
    pub keeps_source: bool,
    /// Where ports are published that name no address.
    pub published_at: Option<Ipv4Addr>,
    /// Whether single containers may join it; of no meaning on one host, kept for who asks.
    pub attachable: bool,
    /// The settings under this name are those of the network: Docker's configuration network.
    pub made_from: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The driver's options as they were given, kept for who asks.
    pub options: BTreeMap<String, String>,
}

/// One more subnet of a network on a link of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FurtherSubnet {
    /// Its addresses.
    pub subnet: IpNet,
    /// The part of it that addresses are drawn from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<IpNet>,
    /// `None`: the first address of the subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

/// A subnet that a network gives out addresses of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// All of it.
    pub subnet: IpNet,
    /// The part that addresses are drawn from.
    pub range: IpNet,
    /// Where the default route of who has an address of it leads.
    pub gateway: IpAddr,
}

/// One network of this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// 64 hexadecimal digits. Records of older engines have none and get the one that follows from the name.
    #[serde(default)]
    pub id: String,
    /// Milliseconds since the Unix epoch; 0 is not known.
    #[serde(default)]
    pub created_at: u64,
    /// What was asked for.
    #[serde(default, alias = "spec")]
    pub settings: NetworkSettings,
    /// The bridge was there before the network.
    #[serde(default)]
    pub found_bridge: bool,
    /// As users name it.
    pub name: String,
    /// The link on the host: the bridge, or the parent of its containers' links.
    #[serde(rename = "bridge")]
    pub link: String,
    /// The parent was made for a network, and goes with the last one that has it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub made_parent: bool,
    /// Of the containers and of the bridge itself, where it has IPv4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<Ipv4Net>,
    /// Where its default route leads: the bridge's own address, or a router's beyond the parent. There whenever `subnet` is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Ipv4Addr>,
    /// Where it has IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Part>,
}

impl NetworkRecord {
    /// A network that nobody asked anything of, with IPv4 alone.
    #[must_use]
    pub fn new(name: &str, link: &str, subnet: Ipv4Net, gateway: Ipv4Addr) -> Self {
        Self {
            id: String::new(),
            created_at: 0,
            settings: NetworkSettings::default(),
            found_bridge: false,
            name: name.to_owned(),
            link: link.to_owned(),
            made_parent: false,
            subnet: Some(subnet),
            gateway: Some(gateway),
            ipv6: None,
        }
    }

    /// Its IPv4, where it has it.
    #[must_use]
    pub fn ipv4(&self) -> Option<Ipv4Part> {
        self.subnet.zip(self.gateway).map(|(net, gateway)| Ipv4Part { net, gateway })
    }

    /// What addresses are given out of, IPv4 first; of a family the subnets in the order in which they are drawn from.
    pub fn pools(&self) -> impl Iterator<Item = Pool> + '_ {
        let settings = &self.settings;
        let ipv4 = self.ipv4().map(|part| Pool {
            subnet: IpNet::V4(part.net),
            range: IpNet::V4(settings.range.unwrap_or(part.net)),
            gateway: IpAddr::V4(part.gateway),
        });
        let ipv6 = self.ipv6.map(|part| Pool {
            subnet: IpNet::V6(part.net),
            range: IpNet::V6(settings.range6.unwrap_or(part.net)),
            gateway: IpAddr::V6(part.gateway),
        });
        let further = settings.further.iter().map(|further| Pool {
            subnet: further.subnet,
            range: further.range.unwrap_or(further.subnet),
            gateway: further.gateway.unwrap_or_else(|| addressing::first(further.subnet)),
        });
        let (further4, further6): (Vec<Pool>, Vec<Pool>) = further.partition(|pool| pool.gateway.is_ipv4());
        ipv4.into_iter().chain(further4).chain(ipv6).chain(further6)
    }

    /// Its subnets, IPv4 first.
    pub fn subnets(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.pools().map(|pool| pool.subnet)
    }

    /// The name of its record: several networks may have one parent.
    #[must_use]
    pub(super) fn file(&self) -> &str {
        if self.settings.driver.is_bridge() { &self.link } else { &self.id }
    }

    /// Whether it leads nowhere. One without a parent of the host does not, as with Docker.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        let driver = &self.settings.driver;
        self.settings.internal || (!driver.is_bridge() && driver.parent().is_none())
    }

    /// How this family leads in and out.
    #[must_use]
    pub const fn gateway_mode(&self, is_ipv6: bool) -> GatewayMode {
        if is_ipv6 { self.settings.gateway_mode6 } else { self.settings.gateway_mode4 }
    }
}

/// What is kept of one container, on disk and in memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// The engine's id of the container.
    pub id: String,
    /// Its host name.
    #[serde(default)]
    pub hostname: String,
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// What it got.
    pub attachment: Attachment,
    /// The names of the host's ends of its links, in the order of the endpoints; empty where the host has no end.
    pub links: Vec<String>,
    /// Settings of its interfaces, in the order of the endpoints.
    #[serde(default)]
    pub sysctls: Vec<Vec<(String, String)>>,
    /// Its further names, in the order of the endpoints.
    #[serde(default)]
    pub aliases: Vec<Vec<String>>,
    /// Whether new connections to its published ports may go to it.
    pub ready: bool,
}

impl ContainerRecord {
    /// The host's ends of its links.
    pub(super) fn host_links(&self) -> impl Iterator<Item = &String> {
        self.links.iter().filter(|link| !link.is_empty())
    }

    /// The interfaces that serve its published ports, each with its address there: one for each family.
    pub fn serving(&self) -> impl Iterator<Item = (&Endpoint, IpAddr)> {
        let ipv4 = self.attachment.leading4().map(|(leading, part)| (leading, IpAddr::V4(part.net.addr())));
        let ipv6 = self.attachment.leading6().map(|(leading, part)| (leading, IpAddr::V6(part.net.addr())));
        ipv4.into_iter().chain(ipv6)
    }
}

/// Settings under a name, for networks that are made from them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkTemplate {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Milliseconds since the Unix epoch.
    pub created_at: u64,
    /// As users name it.
    pub name: String,
    /// What a network gets that is made from it, without a driver.
    pub settings: NetworkSettings,
}

/// One network and the containers on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkStatus {
    /// The network.
    pub network: NetworkRecord,
    /// The containers on it, by id.
    pub containers: Vec<ContainerRecord>,
}
