//! Pure. Who may be on encrypted networks, and when a host's new key is known to everybody who needs it.
//!
//! A host replaces its key in steps, and takes each once the last is acknowledged: it announces the new key beside the old
//! one; then it announces that the new one is to be used; then it drops the old one. So at every moment each host sends by a
//! key that the receiver has, and is known by every key that it sends with.

use stack_model::{Node, NodeId, Readiness};

use crate::networks::{Network, networks_of};
use crate::state::State;

/// Why a node cannot be on an encrypted network; `None`: it can.
pub(crate) fn unable(node: &Node) -> Option<String> {
    match &node.description.encryption {
        None => Some("it has not said yet whether it can".to_owned()),
        Some(encryption) if encryption.keys.is_empty() => {
            Some(encryption.unable.clone().unwrap_or_else(|| "it has announced no key".to_owned()))
        }
        Some(_) => None,
    }
}

/// Whether what hosts send each other on this network is encrypted.
pub(crate) fn is_encrypted(network: &Network) -> bool {
    matches!(network.spec.encrypted, Some(true))
}

/// The others who are on an encrypted network with a node.
fn others(state: &State, node: NodeId) -> impl Iterator<Item = &Node> {
    networks_of(state, node)
        .filter(|(_, network)| is_encrypted(network))
        .flat_map(|(_, network)| network.hosts.keys())
        .filter(move |other| **other != node)
        .filter_map(|other| state.nodes.get(other))
}

/// The announcement of a node that everybody who is on an encrypted network with it has put into force; 0: not all have done
/// so with its last one. Who is not heard is not waited for: it hears of everything when it is back.
#[must_use]
pub fn acknowledged_announcement(state: &State, node: NodeId) -> u64 {
    let Some(own) = state.nodes.get(&node) else { return 0 };
    let Some(encryption) = &own.description.encryption else { return 0 };
    let is_known = |other: &Node| other.readiness == Readiness::Down || other.networks_applied >= own.encryption_since;
    if others(state, node).all(is_known) { encryption.announcement } else { 0 }
}

/// Whether somebody waits for a node to have put into force what was announced as of `revision`.
pub(crate) fn is_awaited(state: &State, node: NodeId, applied: u64, revision: u64) -> bool {
    others(state, node).any(|other| other.encryption_since > applied && other.encryption_since <= revision)
}
