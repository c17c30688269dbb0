//! What the API needs of the cluster that this host is a member of, where it is one: the networks between hosts.

use std::collections::BTreeMap;
use std::fmt;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use ipnet::IpNet;

/// What this host is in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// There is no cluster.
    None,
    /// It runs what it is told.
    Worker,
    /// It decides with others: Docker's word for it is manager.
    Controller,
}

/// A network between hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterNetwork {
    /// Its full name.
    pub name: String,
    /// The VXLAN network identifier.
    pub vni: u32,
    /// IPv4 first.
    pub subnets: Vec<IpNet>,
    /// No way leads out of it.
    pub internal: bool,
    /// What hosts send each other on it is encrypted.
    pub encrypted: bool,
    /// Containers that belong to no stack may be on it.
    pub attachable: bool,
    /// In bytes; `None`: what fits between the hosts.
    pub mtu: Option<u32>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The hosts on it: each with its name and where it is between hosts.
    pub peers: Vec<(String, String)>,
}

/// A network between hosts that is to be made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewClusterNetwork {
    /// Its name.
    pub name: String,
    /// At most one of each family.
    pub subnets: Vec<IpNet>,
    /// Whether it has IPv6.
    pub ipv6: bool,
    /// No way leads out of it.
    pub internal: bool,
    /// Whether what hosts send each other on it is encrypted; `None`: as the cluster has it.
    pub encrypted: Option<bool>,
    /// Containers that belong to no stack may be on it.
    pub attachable: bool,
    /// In bytes; `None`: what fits between the hosts.
    pub mtu: Option<u32>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// Why the cluster did not do what was asked of it. The texts are for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// There is no such network.
    #[error("{0}")]
    NotFound(String),
    /// It cannot be as it is asked for.
    #[error("{0}")]
    Invalid(String),
    /// It cannot be beside what there is.
    #[error("{0}")]
    Conflict(String),
    /// It could not be asked.
    #[error("the cluster could not be asked: {0}")]
    Unreachable(String),
}

/// The cluster, to the API.
pub trait Cluster: fmt::Debug + Send + Sync {
    /// What this host is in it.
    fn part(&self) -> BoxFuture<'_, Part>;

    /// All networks between hosts.
    fn networks(&self) -> BoxFuture<'_, Result<Vec<ClusterNetwork>, ClusterError>>;

    /// Makes a network. Only asked on a controller.
    fn make_network(&self, network: NewClusterNetwork) -> BoxFuture<'_, Result<(), ClusterError>>;

    /// Removes a network. Only asked on a controller.
    fn remove_network(&self, name: String) -> BoxFuture<'_, Result<(), ClusterError>>;
}

/// There is no cluster.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoCluster;

impl Cluster for NoCluster {
    fn part(&self) -> BoxFuture<'_, Part> {
        std::future::ready(Part::None).boxed()
    }

    fn networks(&self) -> BoxFuture<'_, Result<Vec<ClusterNetwork>, ClusterError>> {
        std::future::ready(Ok(Vec::new())).boxed()
    }

    fn make_network(&self, network: NewClusterNetwork) -> BoxFuture<'_, Result<(), ClusterError>> {
        std::future::ready(Err(ClusterError::NotFound(format!("no cluster makes the network {}", network.name))))
            .boxed()
    }

    fn remove_network(&self, name: String) -> BoxFuture<'_, Result<(), ClusterError>> {
        std::future::ready(Err(ClusterError::NotFound(format!("network {name} not found")))).boxed()
    }
}
