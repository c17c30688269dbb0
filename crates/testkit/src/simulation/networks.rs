//! What must always hold of the networks between hosts, written without a look at how the planner sees to it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use stack_model::{DesiredState, EndpointState, NetworkDocument, NodeId, Phase, Readiness, TaskId};
use stack_planner::{State, assignment, network_document};

/// After each entry that changed something.
pub(super) fn check(before: &State, after: &State) -> Result<(), String> {
    let mut numbers = BTreeSet::new();
    for name in after.networks.keys() {
        let document = network_document(after, name).ok_or_else(|| format!("network {name} has no document"))?;
        check_document(after, &document)?;
        let network = &after.networks[name];
        if !numbers.insert(network.vni) {
            return Err(format!("two networks have the VXLAN network identifier {}", network.vni));
        }
        if let Some(earlier) = network_document(before, name)
            && earlier != document
            && earlier.generation >= document.generation
        {
            return Err(format!("the document of network {name} changed but not its generation"));
        }
    }
    for (name, one) in &after.networks {
        for (other_name, other) in after.networks.iter().filter(|(other, _)| *other > name) {
            let meets =
                |net: &ipnet::IpNet| other.subnets.iter().any(|theirs| theirs.contains(net) || net.contains(theirs));
            if one.subnets.iter().any(meets) {
                return Err(format!("networks {name} and {other_name} have subnets that meet"));
            }
        }
    }
    check_tasks(before, after)
}

/// Nobody on a network shares an address with anybody else, and everybody's addresses are of its subnets.
fn check_document(state: &State, document: &NetworkDocument) -> Result<(), String> {
    let name = &document.name;
    let subnets = &state.networks[name].subnets;
    let mut holders: BTreeMap<IpAddr, String> = BTreeMap::new();
    let everybody = document
        .hosts
        .iter()
        .map(|(node, host)| (format!("node {}", node.bits()), &host.addresses))
        .chain(document.services.iter().map(|(key, service)| (format!("service {key}"), &service.addresses)))
        .chain(document.endpoints.iter().map(|(id, endpoint)| (format!("t{}", id.bits()), &endpoint.addresses)))
        .chain(document.guests.iter().map(|(id, guest)| (format!("container {id}"), &guest.addresses)));
    for (who, addresses) in everybody {
        if addresses.len() != subnets.len() {
            return Err(format!("{who} has {} addresses on network {name}", addresses.len()));
        }
        for (address, subnet) in addresses.iter().zip(subnets) {
            if !subnet.contains(address) || *address == subnet.network() || *address == subnet.broadcast() {
                return Err(format!("{who} has address {address} on network {name}, which is {subnet}"));
            }
            if let Some(other) = holders.insert(*address, who.clone()) {
                return Err(format!("{who} and {other} share {address} on network {name}"));
            }
        }
    }
    for (id, guest) in &document.guests {
        if !document.hosts.contains_key(&guest.node) {
            return Err(format!("container {id} is on network {name} and its host is not"));
        }
        if !state.nodes.contains_key(&guest.node) {
            return Err(format!("container {id} is on network {name} and its host has left"));
        }
    }
    for (id, endpoint) in &document.endpoints {
        if !document.hosts.contains_key(&endpoint.node) {
            return Err(format!("t{} is on network {name} and its host is not", id.bits()));
        }
        let task = state.tasks.get(id).ok_or_else(|| format!("t{} is on network {name} and is none", id.bits()))?;
        let reachable = state.nodes.get(&task.node).is_some_and(|node| node.readiness == Readiness::Ready);
        let serves = task.is_active() && task.status.ready && task.status.phase == Phase::Running && reachable;
        if (endpoint.state == EndpointState::Serving) && !serves {
            return Err(format!("t{} is sent something new on network {name} and does not serve", id.bits()));
        }
    }
    Ok(())
}

/// A task has its addresses as long as it may run, and is not asked to end while a host that is heard may send it
/// something new.
fn check_tasks(before: &State, after: &State) -> Result<(), String> {
    let mut told: BTreeMap<NodeId, stack_model::Assignment> = BTreeMap::new();
    for task in after.tasks.values().filter(|task| !task.status.phase.is_terminal()) {
        let id: TaskId = task.id;
        if !task.spec.networks.keys().eq(task.addresses.keys()) {
            return Err(format!("t{} does not have an address on each of its networks", id.bits()));
        }
        for (name, addresses) in &task.addresses {
            let network =
                after.networks.get(name).ok_or_else(|| format!("t{} is on {name}, which is gone", id.bits()))?;
            let number = network.tasks.get(&id).ok_or_else(|| format!("t{} lost its address on {name}", id.bits()))?;
            if network.addresses(*number) != *addresses {
                return Err(format!("t{} has another address on {name} than it was given", id.bits()));
            }
        }
        let assigned = told.entry(task.node).or_insert_with(|| assignment(after, task.node));
        let is_told_to_end = assigned.tasks.get(&id).is_some_and(|task| task.desired == DesiredState::Stopped);
        let drained_before = before.tasks.get(&id).and_then(|task| task.draining);
        if let (true, Some(draining)) = (is_told_to_end, drained_before) {
            let late = after.time >= draining.since + stack_model::Draining::LONGEST;
            // A host that came to the network later never knew the task as one that serves.
            let missing = task.spec.networks.keys().filter_map(|name| before.networks.get(name)).any(|network| {
                network
                    .hosts
                    .keys()
                    .filter_map(|node| before.nodes.get(node))
                    .any(|node| node.readiness == Readiness::Ready && node.networks_applied < draining.revision)
            });
            if missing && !late {
                return Err(format!("t{} was asked to end while a host may send it something new", id.bits()));
            }
        }
    }
    Ok(())
}
