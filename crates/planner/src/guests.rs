//! Pure. Containers that belong to no stack and are on attachable networks: guests. Each has an address there as long as
//! its host says that it has the container.
//!
//! A host says which of its containers shall be where as one whole, again and again, and whoever leads makes the state
//! match it: what is new gets an address, what is not named any more gives its own back. So nothing is left over by a host
//! or a daemon that dies in between, and no message that is lost, repeated or late does harm.

use std::collections::BTreeMap;
use std::net::IpAddr;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use stack_model::{GuestAnswer, GuestWishes, NodeId, Wish};

use crate::encryption;
use crate::networks::{Network, changed, settle_hosts, sweep};
use crate::rejected::Rejected;
use crate::state::State;

/// A container on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    /// Where it runs.
    pub node: NodeId,
    /// The number of its addresses.
    pub number: u32,
    /// What it is called there.
    pub names: Vec<String>,
}

/// The last that a host said: an older word of the same life is not listened to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// Drawn by each start of its daemon.
    pub life: u64,
    /// Grows with each word of that life.
    pub sequence: u64,
}

/// Why a container cannot be on a network; `None`: it can be.
fn refusal(state: &State, node: NodeId, name: &str, container: &str, wish: &Wish) -> Option<String> {
    let Some(network) = state.networks.get(name) else { return Some(format!("network {name} not found")) };
    if !network.spec.attachable {
        // Docker's words.
        return Some(format!(
            "Could not attach to network {name}: rpc error: code = PermissionDenied desc = network {name} not manually attachable"
        ));
    }
    if network.guests.get(container).is_some_and(|guest| guest.node != node) {
        return Some(format!("a container {container} of another host is on network {name}"));
    }
    let unable = state.nodes.get(&node).filter(|_| encryption::is_encrypted(network)).and_then(encryption::unable);
    if let Some(reason) = unable {
        return Some(format!("network {name} is encrypted, and this host cannot be on it: {reason}"));
    }
    let wanted = match wanted_number(network, wish) {
        Ok(wanted) => wanted,
        Err(address) => {
            let subnets: Vec<String> = network.subnets.iter().map(ToString::to_string).collect();
            let subnets = subnets.join(", ");
            return Some(format!(
                "invalid endpoint settings: no configured subnet contains IP address {address}: the network `{name}` has {subnets}"
            ));
        }
    };
    if let Some(number) = wanted.filter(|number| network.is_used(*number)) {
        let taken = network.addresses(number).first().map(ToString::to_string).unwrap_or_default();
        return Some(format!("Address already in use: {taken} on the network `{name}`"));
    }
    let needed = u32::from(wanted.is_none()) + u32::from(!network.hosts.contains_key(&node));
    if network.free() < needed {
        return Some(format!("the network `{name}` has no free address: {} are in use", network.capacity()));
    }
    None
}

/// The number of the addresses that were asked for: both families have the same.
fn wanted_number(network: &Network, wish: &Wish) -> Result<Option<u32>, IpAddr> {
    let mut found = None;
    for address in [wish.address.map(IpAddr::V4), wish.address6.map(IpAddr::V6)].into_iter().flatten() {
        let number = network.number_of(address).ok_or(address)?;
        if found.is_some_and(|other| other != number) {
            return Err(address);
        }
        found = Some(number);
    }
    Ok(found)
}

/// What a host hears of each container that it named.
#[must_use]
pub fn guest_answers(
    state: &State,
    node: NodeId,
    wishes: &GuestWishes,
) -> BTreeMap<String, BTreeMap<String, GuestAnswer>> {
    let answer = |name: &String, container: &String, wish: &Wish| {
        let network = state.networks.get(name);
        let guest = network.and_then(|network| network.guests.get(container)).filter(|guest| guest.node == node);
        match (network, guest) {
            (Some(network), Some(guest)) => GuestAnswer::Addresses(network.addresses(guest.number)),
            _ => GuestAnswer::Refused(refusal(state, node, name, container, wish).unwrap_or_else(|| {
                // It was refused when it was decided and would not be now: whoever asks again gets it.
                "the network changed in this moment: try again".to_owned()
            })),
        }
    };
    let of = |(name, wanted): (&String, &BTreeMap<String, Wish>)| {
        let answers = wanted.iter().map(|(container, wish)| (container.clone(), answer(name, container, wish)));
        (name.clone(), answers.collect())
    };
    wishes.iter().map(of).collect()
}

/// Whether the state is what a host says, as far as it can be. The leader asks before it writes a word into the log.
#[must_use]
pub fn are_as_declared(state: &State, node: NodeId, wishes: &GuestWishes) -> bool {
    let mut left = wishes.values().map(BTreeMap::len).sum::<usize>();
    for (name, network) in &state.networks {
        for (container, guest) in network.guests.iter().filter(|(_, guest)| guest.node == node) {
            match wishes.get(name).and_then(|wanted| wanted.get(container)) {
                Some(wish) if wish.names == guest.names => left -= 1,
                _ => return false,
            }
        }
    }
    let refused =
        |name: &String, container: &String, wish: &Wish| refusal(state, node, name, container, wish).is_some();
    let missing = wishes.iter().flat_map(|(name, wanted)| wanted.iter().map(move |(id, wish)| (name, id, wish)));
    let possible = missing.filter(|(name, container, wish)| {
        let has = state.networks.get(*name).is_some_and(|network| network.guests.contains_key(*container));
        !has && !refused(name, container, wish)
    });
    left == 0 || possible.count() == 0
}

/// Makes the guests of a host what it says they are. What cannot be is left out: [`guest_answers`] says why.
pub(crate) fn declare(state: &mut State, node: NodeId, said: Said, wishes: &GuestWishes) -> Result<bool, Rejected> {
    if !state.nodes.contains_key(&node) {
        return Err(Rejected::UnknownNode { node });
    }
    if state.said.get(&node).is_some_and(|last| last.life == said.life && last.sequence >= said.sequence) {
        return Ok(false);
    }
    state.said.insert(node, said);
    let mut touched =
        release(state, node, |name, container| wishes.get(name).is_some_and(|wanted| wanted.contains_key(container)));
    for (name, wanted) in wishes {
        for (container, wish) in wanted {
            touched |= join(state, node, name, container, wish);
        }
    }
    if touched {
        sweep(state);
    }
    Ok(true)
}

/// Puts one container onto a network, or lets it be known by other names there.
fn join(state: &mut State, node: NodeId, name: &str, container: &str, wish: &Wish) -> bool {
    let present = state.networks.get(name).and_then(|network| network.guests.get(container)).cloned();
    match present {
        Some(guest) if guest.node == node && guest.names == wish.names => return false,
        Some(guest) if guest.node == node => {
            if let Some(network) = state.networks.get_mut(name) {
                network.guests.insert(container.to_owned(), Guest { names: wish.names.clone(), ..guest });
            }
        }
        Some(_) | None => {
            if refusal(state, node, name, container, wish).is_some() {
                return false;
            }
            let Some(network) = state.networks.get_mut(name) else { return false };
            let number = match wanted_number(network, wish) {
                Ok(Some(number)) => network.take_number(number),
                Ok(None) | Err(_) => network.take(),
            };
            let Some(number) = number else { return false };
            network.guests.insert(container.to_owned(), Guest { node, number, names: wish.names.clone() });
        }
    }
    changed(state, name);
    settle_hosts(state, name);
    true
}

/// Takes those containers of a host off the networks that shall not stay.
fn release(state: &mut State, node: NodeId, stays: impl Fn(&str, &str) -> bool) -> bool {
    let names: Vec<String> = state.networks.keys().cloned().collect();
    let mut any = false;
    for name in names {
        let Some(network) = state.networks.get_mut(&name) else { continue };
        let is_gone = |(container, guest): &(&String, &Guest)| guest.node == node && !stays(&name, container);
        let gone: OrdMap<String, Guest> = network
            .guests
            .iter()
            .filter(is_gone)
            .map(|(container, guest)| (container.clone(), guest.clone()))
            .collect();
        if gone.is_empty() {
            continue;
        }
        for (container, guest) in gone {
            network.guests.remove(&container);
            network.give_back(guest.number);
        }
        any = true;
        changed(state, &name);
        settle_hosts(state, &name);
    }
    any
}

/// A host left the cluster, with its containers.
pub(crate) fn forget_node(state: &mut State, node: NodeId) {
    state.said.remove(&node);
    release(state, node, |_, _| false);
}
