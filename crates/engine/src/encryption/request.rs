//! Pure. What the host's tunnels should be.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use stack_tunnel::PrivateKey;
use stack_tunnel::protocol::Peer;

/// The first of the two UDP ports by which hosts send each other what is encrypted, unless configured otherwise.
pub const DEFAULT_PORT: u16 = 4794;

/// What WireGuard and the headers around it take of the MTU between hosts, in bytes: over IPv4.
pub const OVERHEAD_IPV4: u32 = 60;
/// The same over IPv6.
pub const OVERHEAD_IPV6: u32 = 80;

/// Who encrypts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Implementation {
    /// The kernel's own WireGuard.
    Kernel,
    /// `stack-tunnel`.
    UserSpace,
}

/// How tunnels are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelsConfig {
    /// The first of two neighbouring UDP ports between hosts.
    pub port: u16,
    /// The program `stack-tunnel`.
    pub program: PathBuf,
    /// `None`: the kernel where it can, else user space.
    pub implementation: Option<Implementation>,
}

impl Default for TunnelsConfig {
    fn default() -> Self {
        Self { port: DEFAULT_PORT, program: PathBuf::from("/usr/local/bin/stack-tunnel"), implementation: None }
    }
}

/// Of the two interfaces that a host has while it replaces its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Slot {
    /// The interface on the first port.
    First,
    /// The interface on the port after that.
    Second,
}

impl Slot {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::First, Self::Second];

    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }

    /// The name of its interface.
    #[must_use]
    pub fn link(self, prefix: &str) -> String {
        format!("{prefix}w{}", self as u8)
    }

    /// The port that its interface listens on.
    #[must_use]
    pub const fn port(self, first: u16) -> u16 {
        first.saturating_add(self as u16)
    }
}

/// A key of this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnKey {
    /// The key.
    pub private_key: PrivateKey,
    /// Which interface is its own.
    pub slot: Slot,
}

/// How the host takes part in encrypted networks: whole, replaced at each change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encryption {
    /// One key, or two while one replaces the other; the first is sent with.
    pub keys: Vec<OwnKey>,
    /// Of the interfaces, in bytes: the MTU between hosts less what WireGuard adds.
    pub mtu: u16,
    /// All keys of all hosts that are spoken to.
    pub peers: BTreeSet<Peer>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_have_names_and_ports_that_are_no_others() {
        assert_eq!(Slot::BOTH.map(|slot| slot.link("stack")), ["stackw0", "stackw1"]);
        assert_eq!(Slot::BOTH.map(|slot| slot.port(4794)), [4794, 4795]);
        assert!(Slot::BOTH.iter().all(|slot| slot.other() != *slot && slot.other().other() == *slot));
        assert!(Slot::BOTH.iter().all(|slot| !crate::overlay::is_own_link("stack", &slot.link("stack"))));
    }
}
