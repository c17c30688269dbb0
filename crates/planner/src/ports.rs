//! Pure. Which numbers a stack's published ports get.

use std::collections::BTreeMap;
use std::net::IpAddr;

use stack_model::spec::{Protocol, PublishedPort, ServiceSpec};
use stack_model::{ServiceKey, StackName};

use crate::rejected::Rejected;
use crate::schedule;
use crate::state::State;

/// Host ports that are drawn for a published port without a number, as Swarm does.
const DYNAMIC_PORTS: std::ops::RangeInclusive<u16> = 30000..=32767;

type PortKey = (u16, Protocol);
type TakenPorts = BTreeMap<PortKey, Vec<(ServiceKey, Option<IpAddr>)>>;

/// The numbers of which a port gets one that has none.
fn candidates(port: &PublishedPort) -> std::ops::RangeInclusive<u16> {
    port.published_within.map_or(DYNAMIC_PORTS, |(first, last)| first..=last)
}

/// What the services of other stacks publish.
fn published_ports(state: &State, except: &StackName) -> TakenPorts {
    let mut taken = TakenPorts::new();
    for (key, service) in &state.services {
        if key.stack == *except {
            continue;
        }
        for port in &service.spec.ports {
            if let Some(published) = port.published {
                taken.entry((published, port.protocol)).or_default().push((key.clone(), port.host_ip));
            }
        }
    }
    taken
}

/// Gives every published port of a stack a number, and refuses what another service has. Numbers that the user wrote
/// come first, then those that a service had before, then new ones: a new service takes no port from an old one.
pub(crate) fn fill(
    state: &State,
    stack: &StackName,
    services: &mut BTreeMap<ServiceKey, ServiceSpec>,
) -> Result<(), Rejected> {
    let mut taken = published_ports(state, stack);
    for (key, service) in services.iter() {
        for port in &service.ports {
            let Some(published) = port.published else { continue };
            let holders = taken.entry((published, port.protocol)).or_default();
            if let Some((other, _)) =
                holders.iter().find(|(other, host_ip)| other != key && schedule::overlap(*host_ip, port.host_ip))
            {
                return Err(Rejected::PortTaken {
                    service: key.clone(),
                    port: format!("{published}/{}", port.protocol.as_str()),
                    other: other.clone(),
                });
            }
            holders.push((key.clone(), port.host_ip));
        }
    }
    for (key, service) in services.iter_mut() {
        let before = state.services.get(key).map(|service| service.spec.ports.clone()).unwrap_or_default();
        for port in service.ports.iter_mut().filter(|port| port.published.is_none()) {
            port.published = before
                .iter()
                .filter(|old| {
                    old.target == port.target
                        && old.protocol == port.protocol
                        && old.mode == port.mode
                        && old.host_ip == port.host_ip
                        && old.published_within == port.published_within
                })
                .filter_map(|old| old.published)
                .filter(|number| candidates(port).contains(number))
                .find(|number| !taken.contains_key(&(*number, port.protocol)));
            if let Some(published) = port.published {
                taken.entry((published, port.protocol)).or_default().push((key.clone(), port.host_ip));
            }
        }
    }
    for (key, service) in services.iter_mut() {
        for port in service.ports.iter_mut().filter(|port| port.published.is_none()) {
            let range = candidates(port);
            let (first, last) = (*range.start(), *range.end());
            let free = range.into_iter().find(|number| !taken.contains_key(&(*number, port.protocol)));
            let published =
                free.ok_or_else(|| Rejected::NoFreePort { service: key.clone(), target: port.target, first, last })?;
            port.published = Some(published);
            taken.entry((published, port.protocol)).or_default().push((key.clone(), port.host_ip));
        }
    }
    Ok(())
}
