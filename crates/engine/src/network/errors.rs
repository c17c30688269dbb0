//! Why something of the networks could not be done: one type for each operation.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::forwarding::SettingError;
use super::kernel::KernelError;
use super::ports::PortError;
use super::records::RecordError;
use super::request::NetworkConfigError;
use super::reservation::ReservationError;

/// Why the networks of a host cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The configuration makes no sense.
    #[error(transparent)]
    Config(#[from] NetworkConfigError),
    /// The records cannot be read.
    #[error("could not open the networks")]
    Records(#[from] RecordError),
}

/// Why a network cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// Not a name.
    #[error("`{name}` cannot be the name of a network: expected 1 to 128 letters, digits, `-`, `_` and `.`")]
    Name {
        /// What was given.
        name: String,
    },
    /// Every subnet of the pools is used here or routed elsewhere.
    #[error(
        "no subnet of /{subnet_length} is free in {pools} for the network `{name}`; add a pool to the configuration"
    )]
    NoSubnet {
        /// The network.
        name: String,
        /// The size that was looked for.
        subnet_length: u8,
        /// Where.
        pools: String,
    },
    /// Every IPv6 subnet that was tried is used here or routed elsewhere.
    #[error("no free IPv6 subnet was found for the network `{name}`: name one with `--subnet`")]
    NoSubnet6 {
        /// The network.
        name: String,
    },
    /// There is one already.
    #[error("network with name {name} already exists")]
    Exists {
        /// The network.
        name: String,
    },
    /// There is none.
    #[error("network {name} not found")]
    Missing {
        /// What was asked for.
        name: String,
    },
    /// Another network has the bridge.
    #[error("the bridge {bridge} that network `{name}` asks for is another network's")]
    BridgeTaken {
        /// The network.
        name: String,
        /// The bridge.
        bridge: String,
    },
    /// Networks were made from these settings.
    #[error("configuration network {name} is in use: remove the networks that were made from it first")]
    TemplateInUse {
        /// The settings' name.
        name: String,
    },
    /// The link that its containers' links are to be made on is not there.
    #[error("network {name}: the requested parent interface {parent} was not found on this host: {hint}")]
    NoParent {
        /// The network.
        name: String,
        /// The link.
        parent: String,
        /// What to do.
        hint: String,
    },
    /// Another network has the parent.
    #[error("{problem}")]
    ParentTaken {
        /// Which, and how.
        problem: String,
    },
    /// The kernel makes no such links.
    #[error(
        "network {name}: the kernel of this host has no links of the kind {kind} (a module or an option of its build)"
    )]
    NoSuchLinks {
        /// The network.
        name: String,
        /// The kind.
        kind: &'static str,
    },
    /// Its addresses are in use elsewhere.
    #[error(
        "invalid pool request: Pool overlaps with other one on this address space: {subnet} for the network `{name}` meets {other}, which another network or a route of this host has"
    )]
    Overlap {
        /// The network.
        name: String,
        /// What was asked for.
        subnet: IpNet,
        /// What it meets.
        other: IpNet,
    },
    /// The settings make no sense.
    #[error("invalid network config: {problem}")]
    Settings {
        /// What is wrong, with the value.
        problem: String,
    },
    /// Containers are on it.
    #[error("the network `{name}` has {count} containers; remove them first")]
    InUse {
        /// The network.
        name: String,
        /// How many.
        count: usize,
    },
    /// Its record.
    #[error("could not keep the network `{name}`")]
    Record {
        /// The network.
        name: String,
        /// Why.
        source: RecordError,
    },
    /// A setting of the host.
    #[error("could not make the network `{name}`")]
    Setting {
        /// The network.
        name: String,
        /// Why.
        source: SettingError,
    },
    /// The kernel.
    #[error("could not make the network `{name}`")]
    Kernel {
        /// The network.
        name: String,
        /// Why.
        source: KernelError,
    },
}

/// Why a container cannot be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The id would not do as a file name.
    #[error("`{id}` cannot be the id of a container: expected 1 to 128 letters, digits, `-` and `_`")]
    Id {
        /// What was given.
        id: String,
    },
    /// It is attached.
    #[error("container {id} is attached to its networks already; detach it first")]
    AlreadyAttached {
        /// The container.
        id: String,
    },
    /// One network twice.
    #[error("container {id} names the network `{network}` twice")]
    NetworkTwice {
        /// The container.
        id: String,
        /// The network.
        network: String,
    },
    /// Ports without a network to reach them by.
    #[error("container {id} publishes ports but is on no network")]
    PortsWithoutNetwork {
        /// The container.
        id: String,
    },
    /// Every address of a network is in use.
    #[error("the network `{network}` ({subnets}) has no free address; {count} are in use")]
    NoAddress {
        /// The network.
        network: String,
        /// What it draws from.
        subnets: String,
        /// How many addresses it gave out.
        count: usize,
    },
    /// The address is another's.
    #[error("Address already in use: {address} on the network `{network}`")]
    AddressTaken {
        /// The network.
        network: String,
        /// What was asked for.
        address: IpAddr,
    },
    /// The address is none of the network's.
    #[error(
        "invalid endpoint settings: no configured subnet contains IP address {address}: the network `{network}` has {subnets}"
    )]
    OutsideSubnet {
        /// The network.
        network: String,
        /// Its subnets of the family.
        subnets: String,
        /// What was asked for.
        address: IpAddr,
    },
    /// One container alone can be on it.
    #[error(
        "the macvlan network `{network}` has the mode passthru, in which one container has the parent alone: {owner} is on it"
    )]
    ForOne {
        /// The network.
        network: String,
        /// The other container.
        owner: String,
    },
    /// Its containers have the host's link-layer address.
    #[error("ipvlan interfaces do not support custom mac address assignment: the network `{network}`")]
    NoMac {
        /// The network.
        network: String,
    },
    /// The network has no IPv6.
    #[error(
        "invalid endpoint settings: no configured subnet contains IP address {address}: the network `{network}` has no IPv6; make one with `--ipv6`"
    )]
    NoIpv6 {
        /// The network.
        network: String,
        /// What was asked for.
        address: Ipv6Addr,
    },
    /// The network has no IPv4.
    #[error(
        "invalid endpoint settings: no configured subnet contains IP address {address}: the network `{network}` has no IPv4; leave the address out, or make a network without `--ipv4=false`"
    )]
    NoIpv4 {
        /// The network.
        network: String,
        /// What was asked for.
        address: Ipv4Addr,
    },
    /// No name is left for a link.
    #[error("no name for the host's end of the container's link on the network `{network}` is free")]
    NoLinkName {
        /// The network.
        network: String,
    },
    /// It has no networks at all yet.
    #[error("container {id} is not attached: start it first")]
    NotAttached {
        /// The container.
        id: String,
    },
    /// It is on the network.
    #[error("endpoint with name {id} already exists in network {network}")]
    Connected {
        /// The container.
        id: String,
        /// The network.
        network: String,
    },
    /// It is not on the network.
    #[error("container {id} is not connected to network {network}")]
    NotConnected {
        /// The container.
        id: String,
        /// The network.
        network: String,
    },
    /// A port cannot be published beside those of others.
    #[error(transparent)]
    Port(#[from] PortError),
    /// A port is taken outside of the engine.
    #[error(transparent)]
    Reservation(#[from] ReservationError),
    /// A network could not be made.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The record could not be written.
    #[error("could not attach container {id} to its networks")]
    Record {
        /// The container.
        id: String,
        /// Why.
        source: RecordError,
    },
    /// The kernel refused.
    #[error("could not attach container {id} to its networks")]
    Kernel {
        /// The container.
        id: String,
        /// Why.
        source: KernelError,
    },
}

/// One of several things that did not work while something was taken down.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The kernel.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A setting of the host.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// A network.
    #[error(transparent)]
    Network(#[from] NetworkError),
}

/// Everything that did not work; the rest was done.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {}", list(failures))]
pub struct Failures {
    /// What was to be done.
    pub what: String,
    /// Each failure, with its cause in its text.
    pub failures: Vec<Failure>,
}

fn list(failures: &[Failure]) -> String {
    let texts: Vec<String> = failures.iter().map(with_causes).collect();
    texts.join("; ")
}

fn with_causes(error: &Failure) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Success, or everything that did not work.
pub(super) fn all_or(what: impl FnOnce() -> String, failures: Vec<Failure>) -> Result<(), Failures> {
    if failures.is_empty() { Ok(()) } else { Err(Failures { what: what(), failures }) }
}
