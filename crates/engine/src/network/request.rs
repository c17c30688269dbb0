//! Pure. What a caller asks of the networks, and what it gets.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

/// The longest prefix of link names: with the eight hexadecimal digits of an address it must fit IFNAMSIZ.
pub const LONGEST_PREFIX: usize = 7;

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
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortBinding {
    /// Only on this address of the host; `None`: on all of its IPv4 addresses.
    #[serde(default)]
    pub host_ip: Option<IpAddr>,
    /// On the host; 0 in a request: a free one from 32768 to 60999.
    pub host_port: u16,
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
            write!(formatter, "{address}:")?;
        }
        write!(formatter, "{}:{}/{}", self.host_port, self.container_port, self.protocol)
    }
}

/// One network that a container is to be on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkEndpoint {
    /// The network's name; one that does not exist yet is made.
    pub name: String,
    /// Further names of the container there.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// The address that it has there; one that is free otherwise.
    #[serde(default)]
    pub address: Option<Ipv4Addr>,
}

/// A network as somebody asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkSpec {
    /// Its addresses; one of the pools' that is free otherwise.
    pub subnet: Option<Ipv4Net>,
    /// The bridge's own address; the first of the subnet otherwise.
    pub gateway: Option<Ipv4Addr>,
    /// Those of the subnet's addresses that containers get; all otherwise.
    pub range: Option<Ipv4Net>,
    /// Addresses that no container gets, by what has them.
    pub reserved: BTreeMap<String, Ipv4Addr>,
    /// No way leads out of it, and nothing is published from it.
    pub internal: bool,
    /// Whether what leaves it has the host's address.
    pub masquerade: bool,
    /// Of its links, in bytes; the engine's otherwise.
    pub mtu: Option<u32>,
    /// The name of its link on the host; one of the engine's otherwise.
    pub bridge: Option<String>,
    /// For people.
    pub labels: BTreeMap<String, String>,
    /// As they were given, for those who ask.
    pub options: BTreeMap<String, String>,
    /// For people: means nothing here.
    pub attachable: bool,
}

impl Default for NetworkSpec {
    fn default() -> Self {
        Self {
            subnet: None,
            gateway: None,
            range: None,
            reserved: BTreeMap::new(),
            internal: false,
            masquerade: true,
            mtu: None,
            bridge: None,
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
            attachable: false,
        }
    }
}

/// The networks and ports of one container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkRequest {
    /// In order: the first has the default route and serves the published ports. Empty: only a loopback interface.
    #[serde(default)]
    pub networks: Vec<NetworkEndpoint>,
    /// What the host publishes.
    #[serde(default)]
    pub ports: Vec<PortBinding>,
    /// A network between hosts publishes the ports: here they are only held, so that nobody else takes them.
    #[serde(default)]
    pub held_only: bool,
    /// The container's host name, under which its networks know it.
    #[serde(default)]
    pub hostname: String,
    /// Its further names on all of its networks: its own and the beginning of its identifier.
    #[serde(default)]
    pub names: Vec<String>,
}

/// A container's interface on one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// The network's name.
    pub network: String,
    /// In the container: `eth0`, `eth1`, …
    pub interface: String,
    /// Its address with the network's prefix length.
    pub address: IpNet,
    /// The host's address on the network.
    pub gateway: IpAddr,
    /// As six pairs of hexadecimal digits with colons.
    pub mac: String,
}

/// What a container got.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// In the order of the request.
    pub endpoints: Vec<Endpoint>,
    /// As asked for, with the random ports filled in.
    pub ports: Vec<PortBinding>,
}

/// One network of this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkRecord {
    /// As users name it.
    pub name: String,
    /// The link on the host.
    pub bridge: String,
    /// Of the containers and of the bridge itself.
    pub subnet: Ipv4Net,
    /// The bridge's own address.
    pub gateway: Ipv4Addr,
    /// As it was asked for.
    #[serde(default)]
    pub spec: NetworkSpec,
    /// Milliseconds since the Unix epoch; 0 where it is not known.
    #[serde(default)]
    pub created_at: u64,
    /// Somebody made it, and not the first container on it.
    #[serde(default)]
    pub made: bool,
}

/// What is kept of one container, on disk and in memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerRecord {
    /// The engine's id of the container.
    pub id: String,
    /// Its host name.
    #[serde(default)]
    pub hostname: String,
    /// What it got.
    pub attachment: Attachment,
    /// The names of the host's ends of its links, in the order of the endpoints.
    pub links: Vec<String>,
    /// Its names on all of its networks.
    #[serde(default)]
    pub names: Vec<String>,
    /// Its further names, in the order of the endpoints.
    #[serde(default)]
    pub aliases: Vec<Vec<String>>,
    /// Whether new connections to its published ports may go to it.
    pub ready: bool,
}

impl ContainerRecord {
    /// The address that serves its published ports.
    #[must_use]
    pub fn serving_address(&self) -> Option<Ipv4Addr> {
        self.attachment.endpoints.iter().find_map(|endpoint| match endpoint.address {
            IpNet::V4(net) => Some(net.addr()),
            IpNet::V6(_) => None,
        })
    }
}

/// One network and the containers on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkStatus {
    /// The network.
    pub network: NetworkRecord,
    /// The containers on it, by id.
    pub containers: Vec<ContainerRecord>,
}
