//! Tunnels between hosts, by which encrypted networks send: WireGuard, of the kernel where it has it, else in user space by a
//! process that outlives this one.
//!
//! Each key of the host has an interface of its own, with the one address that the key stands for; an encrypted network is a
//! VXLAN between those addresses. One route says by which interface they are reached: to send by another key is to change
//! that route. Nothing for those addresses leaves a host in another way, and nothing for an encrypted network is taken that
//! came in another way: `overlay::rules` sees to both, so that a tunnel that is away costs packets, never secrecy.

mod kernel;
mod process;
mod request;
mod tunnels;

pub use process::ProcessError;
pub use request::{
    DEFAULT_PORT, Encryption, Implementation, OVERHEAD_IPV4, OVERHEAD_IPV6, OwnKey, Slot, TunnelsConfig,
};
pub use stack_tunnel::protocol::{Peer, PeerState};
pub use stack_tunnel::{KeyError, PREFIX, PREFIX_LENGTH, PrivateKey, PublicKey};
pub use tunnels::{TunnelFailure, Tunnels, Unable};
