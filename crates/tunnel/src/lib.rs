//! Keys of WireGuard, the addresses that they stand for, and what `stackd` and `stack-tunnel` say to each other.
//!
//! `stack-tunnel` is WireGuard in user space: one process for one interface, for hosts whose kernel has none. It is a
//! process of its own so that packets pass while `stackd` is replaced.

pub mod key;
pub mod protocol;

pub use key::{KeyError, PREFIX, PREFIX_LENGTH, PrivateKey, PublicKey};
