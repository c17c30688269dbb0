//! Pure. The networks between hosts: what a host must know to be on one, and what it must know of everybody there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::id::{NodeId, TaskId};
use crate::name::ServiceKey;
use crate::node::TunnelKey;
use crate::spec::{EndpointMode, PublishedPort};
use crate::task::Slot;
use crate::time::{Milliseconds, Timestamp};

/// A network as one host is on it: enough to make it, without anybody else there. Part of the host's assignment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AssignedNetwork {
    /// The revision that made the network: one that was removed and made again under the same name has another.
    pub id: u64,
    /// The VXLAN network identifier, 24 bits, unique in the cluster.
    pub vni: u32,
    /// The host's own addresses with the subnets' lengths, IPv4 first: its containers' gateways.
    pub addresses: Vec<IpNet>,
    /// No way out of it.
    pub internal: bool,
    /// What leaves the host is encrypted.
    pub encrypted: bool,
    /// Of the containers' interfaces, in bytes; `None`: what fits between the hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
}

/// Everybody on one network: whole, with a generation. Each host on the network has it, and answers names, balances and
/// forwards from it alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkDocument {
    /// The network's full name.
    pub name: String,
    /// As in [`AssignedNetwork::id`].
    pub id: u64,
    /// Grows with every change to this document.
    pub generation: u64,
    /// The hosts on it.
    pub hosts: BTreeMap<NodeId, NetworkHost>,
    /// The tasks on it.
    pub endpoints: BTreeMap<TaskId, NetworkEndpoint>,
    /// The services on it.
    pub services: BTreeMap<ServiceKey, NetworkService>,
    /// The containers on it that belong to no stack, by the id that their host gave them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub guests: BTreeMap<String, NetworkGuest>,
}

/// A container on a network that belongs to no stack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkGuest {
    /// Where it runs.
    pub node: NodeId,
    /// Its addresses there, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// What it is called there; the first is what its addresses are called.
    pub names: Vec<String>,
}

/// What a host wants for one of its containers on a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wish {
    /// What it is to be called there.
    pub names: Vec<String>,
    /// Its address; `None`: a free one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    /// Its IPv6 address; `None`: the one that goes with the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address6: Option<Ipv6Addr>,
}

/// All containers of a host that belong to no stack and are, or shall be, on networks between hosts: by network and
/// container.
pub type GuestWishes = BTreeMap<String, BTreeMap<String, Wish>>;

/// What a host hears of one of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuestAnswer {
    /// It has these, IPv4 first.
    Addresses(Vec<IpAddr>),
    /// It cannot be there: why.
    Refused(String),
}

/// One host on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkHost {
    /// Where the host is, between hosts.
    pub underlay: IpAddr,
    /// Its own addresses on the network.
    pub addresses: Vec<IpAddr>,
    /// What a packet from it may have between hosts, in bytes; `None`: it does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// By which keys to send to it, the first before the others. Only of an encrypted network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<TunnelKey>,
}

/// Whether a task is sent anything new.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointState {
    /// It does not serve yet, or not now.
    NotReady,
    /// It serves.
    Serving,
    /// It will end: what it has it keeps, nothing new is sent to it.
    Draining,
}

/// One task on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkEndpoint {
    /// Whose replica it is.
    pub service: ServiceKey,
    /// Which replica.
    pub slot: Slot,
    /// Where it runs.
    pub node: NodeId,
    /// Its addresses there, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// Whether it is sent anything new.
    pub state: EndpointState,
}

/// One service on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkService {
    /// Its virtual addresses there, IPv4 first; it has them in every endpoint mode.
    pub addresses: Vec<IpAddr>,
    /// What its own name means.
    pub endpoint_mode: EndpointMode,
    /// Whether one client, by its address, is sent to the same task as long as that serves.
    #[serde(default, skip_serializing_if = "crate::spec::is_false")]
    pub sticky: bool,
    /// Its names there: the key in the stack file and its aliases.
    pub names: BTreeSet<String>,
    /// What is published of it by way of this network: in mode `ingress` by every host, in mode `host` by each of its own
    /// task.
    #[serde(default)]
    pub published: Vec<PublishedPort>,
}

/// A task that shall end, while hosts may still send it something new.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Draining {
    /// What the networks' documents say from this revision on does not send it anything new.
    pub revision: u64,
    /// When it began, by the cluster's time.
    pub since: Timestamp,
}

impl Draining {
    /// A host that has not acknowledged by then is not waited for.
    pub const LONGEST: Milliseconds = Milliseconds::from_seconds(10);
}

impl NetworkDocument {
    /// The addresses of the service's tasks that serve, in the order of the tasks' ids.
    pub fn serving<'a>(&'a self, service: &'a ServiceKey) -> impl Iterator<Item = &'a NetworkEndpoint> {
        self.endpoints
            .values()
            .filter(move |endpoint| endpoint.service == *service && endpoint.state == EndpointState::Serving)
    }
}
