//! Networks between hosts, for containers that belong to no stack: the engine knows no cluster, and asks whoever does.

use std::fmt;
use std::net::IpAddr;

use futures::future::BoxFuture;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::request::NetworkEndpoint;

/// What a container got on a network between hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The network.
    pub network: String,
    /// Its addresses with the subnets' lengths, IPv4 first.
    pub addresses: Vec<IpNet>,
    /// This host's addresses there.
    pub gateways: Vec<IpAddr>,
    /// No way leads out of the network.
    pub internal: bool,
}

/// Why a container cannot be on a network between hosts. The text is for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct PlaceError {
    reason: String,
}

impl PlaceError {
    /// With this text.
    #[must_use]
    pub fn new(reason: String) -> Self {
        Self { reason }
    }
}

/// Who gives containers of this host addresses on networks between hosts.
pub trait BetweenHosts: fmt::Debug + Send + Sync {
    /// Puts a container onto these networks, beside those that it is on, under these names and each network's aliases. Once
    /// this returns, the host is on the networks; the addresses are held until the container leaves.
    fn join<'a>(
        &'a self,
        container: &'a str,
        names: &'a [String],
        endpoints: &'a [NetworkEndpoint],
    ) -> BoxFuture<'a, Result<Vec<Place>, PlaceError>>;

    /// Takes a container off one network, or off all. One that is on none is no error.
    fn leave(&self, container: &str, network: Option<&str>);

    /// Lets a container that is on these networks be known by other names there.
    fn rename(&self, container: &str, names: &[String], endpoints: &[NetworkEndpoint]);
}
