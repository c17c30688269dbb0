//! Why something of the overlay networks could not be done: one type for each operation.

use std::net::IpAddr;

use ipnet::IpNet;

use super::request::{OverlayConfigError, OverlayError};
use crate::network::KernelError;

/// Why the overlay networks of a host cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OverlayOpenError {
    /// The configuration makes no sense.
    #[error(transparent)]
    Config(#[from] OverlayConfigError),
    /// The host's network namespace.
    #[error("could not open the host's network namespace")]
    Namespace(#[source] std::io::Error),
}

/// Why the networks are not what they were set to.
#[derive(Debug, thiserror::Error)]
pub enum OverlaySetError {
    /// They make no sense; those that were set before are still in force.
    #[error(transparent)]
    Value(#[from] OverlayError),
    /// They are in force, and some of it could not be done yet. It is tried again with each reconcile.
    #[error(transparent)]
    Failures(#[from] OverlayFailures),
}

/// Why a container cannot be on a network. Nothing is left of the attempt.
#[derive(Debug, thiserror::Error)]
pub enum OverlayAttachError {
    /// This host is not told of the network.
    #[error("container {id} cannot be on the overlay network `{network}`: this host is not on it (yet)")]
    UnknownNetwork {
        /// The container.
        id: String,
        /// The network.
        network: String,
    },
    /// It is on it.
    #[error("container {id} is on the overlay network `{network}` already; detach it first")]
    AlreadyAttached {
        /// The container.
        id: String,
        /// The network.
        network: String,
    },
    /// No address, or two of one family.
    #[error(
        "container {id} needs one address on the overlay network `{network}`, or one of each family, and has {count}"
    )]
    Addresses {
        /// The container.
        id: String,
        /// The network.
        network: String,
        /// How many were given.
        count: usize,
    },
    /// An address that the network does not have.
    #[error("container {id} cannot have {address} on the overlay network `{network}`: it is in none of its subnets")]
    Foreign {
        /// The container.
        id: String,
        /// The network.
        network: String,
        /// The address.
        address: IpAddr,
    },
    /// An address that somebody has.
    #[error("container {id} cannot have {address} on the overlay network `{network}`: {holder} has it")]
    Taken {
        /// The container.
        id: String,
        /// The network.
        network: String,
        /// The address.
        address: IpAddr,
        /// Who has it.
        holder: String,
    },
    /// The link-layer address is not the one that the other hosts answer with.
    #[error("container {id} has another link-layer address on `{network}` than the one that goes with {address}")]
    LinkAddress {
        /// The container.
        id: String,
        /// The network.
        network: String,
        /// Its first address.
        address: IpAddr,
    },
    /// The kernel refused.
    #[error("could not attach container {id} to the overlay network `{network}`")]
    Kernel {
        /// The container.
        id: String,
        /// The network.
        network: String,
        /// Why.
        source: KernelError,
    },
}

/// One of several things that did not work.
#[derive(Debug, thiserror::Error)]
pub enum OverlayFailure {
    /// A network whose subnet is elsewhere too: it is not made.
    #[error(
        "overlay network `{network}`: its subnet {subnet} meets {route}, which this host reaches otherwise; give the \
         network another subnet"
    )]
    SubnetTaken {
        /// The network.
        network: String,
        /// Its subnet.
        subnet: IpNet,
        /// The route of the host.
        route: IpNet,
    },
    /// The host's kernel.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A published port with the PROXY protocol.
    #[error("overlay network `{network}`: port {port}/tcp, which has the PROXY protocol, could not be listened on")]
    Relay {
        /// The network.
        network: String,
        /// The port.
        port: u16,
        /// Why.
        source: std::io::Error,
    },
    /// The kernel, for one container.
    #[error("container {id}")]
    Container {
        /// The container.
        id: String,
        /// Why.
        source: KernelError,
    },
}

/// Everything that did not work; the rest was done.
#[derive(Debug, thiserror::Error)]
#[error("the overlay networks are not what they should be: {}", list(failures))]
pub struct OverlayFailures {
    /// Each failure, with its cause in its text.
    pub failures: Vec<OverlayFailure>,
}

fn list(failures: &[OverlayFailure]) -> String {
    let texts: Vec<String> = failures.iter().map(with_causes).collect();
    texts.join("; ")
}

/// The text of a failure with those of its causes.
pub(super) fn with_causes(error: &OverlayFailure) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
