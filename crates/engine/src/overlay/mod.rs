//! The networks between hosts, as one host is on them: a value that is made true in the kernel.
//!
//! A network is a bridge and a VXLAN device on each host. Who has which address, and on which host, is told by who keeps the
//! cluster's state, so nothing is learned, asked for or flooded: the VXLAN device answers for every address that is elsewhere
//! and drops what it was not told of. A service's virtual addresses are balanced in the network namespace of each client, so
//! the server sees who asks. Published ports are rules of the host.
//!
//! `request` has the value; `state`, `rules` and `services` say what the kernel should have for it, and `difference` and
//! `table` what must be done (all pure); `kernel` does that; [`Overlay`] brings them together.

mod containers;
mod difference;
mod errors;
mod kernel;
mod names;
mod overlay_networks;
mod relays;
mod request;
mod rules;
mod services;
mod state;
mod table;
#[cfg(test)]
mod tests;

pub use errors::{OverlayAttachError, OverlayFailure, OverlayFailures, OverlayOpenError, OverlaySetError};
pub(crate) use kernel::prepare_interface;
#[cfg(test)]
pub(crate) use names::is_own as is_own_link;
pub use overlay_networks::{Overlay, OverlayContainer, Reconciled};
pub use request::{
    DEFAULT_PORT, Ingress, Neighbour, OVERHEAD_IPV4, OVERHEAD_IPV6, OverlayConfig, OverlayConfigError, OverlayEndpoint,
    OverlayError, OverlayErrorReason, OverlayNetwork, Overlays, VirtualService, link_address,
};
