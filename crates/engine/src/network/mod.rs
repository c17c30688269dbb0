//! The networks of one host: bridges with addresses, NAT and published ports, and links on links of the host (macvlan,
//! ipvlan), made by netlink alone.
//!
//! [`Networks`] holds what was decided for each container, on disk and in memory, and makes the kernel match it:
//! `request` has the nouns, `addressing`, `ports` and `ruleset` decide (pure), `kernel` does, `records` and `reservation`
//! keep, `loopback` relays. The networks `none` and `host` need nothing from here: a request without networks gives a namespace its loopback
//! interface, and a container in the host's namespace is not attached at all.

mod addressing;
mod between;
mod choosing;
mod driver;
mod errors;
mod forwarding;
mod joining;
pub(crate) mod kernel;
mod loopback;
mod making;
mod names;
mod networks;
mod parents;
mod ports;
mod records;
mod request;
mod reservation;
mod ruleset;
pub(crate) mod streams;
mod templates;

pub use between::{BetweenHosts, Place, PlaceError};
pub use driver::{Driver, IpvlanMode, IpvlanReach, MacvlanMode};
pub use errors::{AttachError, Failure, Failures, NetworkError, OpenError};
pub use forwarding::SettingError;
pub(crate) use kernel::inside as in_namespace;
pub use kernel::{KernelError, Refusal};
pub use names::USUAL_NETWORK;
pub use networks::{Adopted, Networks};
pub use ports::PortError;
pub use records::RecordError;
pub use request::{
    Attachment, ContainerRecord, Endpoint, FurtherSubnet, GatewayMode, Ipv4Part, Ipv6Part, MacAddress, MacAddressError,
    NetworkConfig, NetworkConfigError, NetworkEndpoint, NetworkRecord, NetworkRequest, NetworkSettings, NetworkStatus,
    NetworkTemplate, Pool, PortBinding, Protocol,
};
pub use reservation::ReservationError;
