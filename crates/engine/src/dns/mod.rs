//! The name server that every container on a network finds at 127.0.0.11.
//!
//! What is known is published into a [`Directory`], by this host's networks and by the cluster's state, as plain data; from
//! there on everything about names is decided by pure code: `zone` finds, `message` speaks the wire format, `cache` remembers.
//! [`NameServers`] opens sockets inside each container's network namespace and answers from `stackd`'s own process; what is
//! not known here is asked of the upstream servers by `forward` and `exchange`.

mod cache;
mod client;
mod directory;
mod exchange;
mod forward;
mod message;
mod metrics;
mod resolver_file;
mod server;
mod sockets;
mod zone;

pub use client::{Client, Upstream};
pub use directory::{Directory, Layer};
pub use metrics::NameMetrics;
pub use resolver_file::{ResolverFile, ResolverOverrides, container_resolver_file};
pub use server::{NameServers, NameServersConfig};
pub use sockets::{LeadError, NAME_SERVER, ServeError, Sockets};
pub use zone::{EndpointNames, Member, NetworkNames, ServiceNames, ServicePort};
