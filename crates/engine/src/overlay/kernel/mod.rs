//! The only place of the overlay networks that speaks netlink. It has no choice to make: what is to be done comes decided.
//!
//! Every function works in the network namespace that it is given, whatever the namespace of the calling thread.

mod connections;
mod links;
mod observe;
mod ports;
mod tables;
mod underlay;

use crate::network::kernel::settings;

pub use connections::Tracked;
pub use links::Links;
pub use observe::{observe, other_routes};
pub use ports::{make_port, remove_port, set_inner_mtu};
pub use settings::{pass_on, prepare_interface};
pub use tables::Rules;
pub use underlay::mtu_of;
