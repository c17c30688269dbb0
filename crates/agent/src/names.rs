//! Pure. The names on the host's networks in the engine's words.

use stack_engine::dns::{EndpointNames, Member, NetworkNames, ServiceNames, ServicePort};
use stack_model::spec::EndpointMode;
use stack_model::{NetworkEndpoint, NetworkGuest, NetworkService, NodeId, ServiceKey, Slot, TaskId};

use crate::networks::HostNetworks;
use crate::overlay::{Serving, protocol};

/// The characters of an id that stand for it where it is short, as in a container's host name.
const SHORT: usize = 12;

/// What is known of everybody on the host's networks.
#[must_use]
pub fn names(node: NodeId, networks: &HostNetworks) -> Vec<NetworkNames> {
    let one = |name: &String| {
        let (assigned, document) = networks.whole(name)?;
        let serving = Serving { node, ready: &networks.ready, document };
        Some(NetworkNames {
            network: name.clone(),
            subnets: assigned.addresses.iter().map(ipnet::IpNet::trunc).collect(),
            endpoints: document
                .endpoints
                .iter()
                .map(|(id, endpoint)| endpoint_names(*id, endpoint, &serving))
                .chain(document.guests.values().map(guest_names))
                .collect(),
            services: document.services.iter().map(|(key, service)| service_names(key, service)).collect(),
        })
    };
    networks.assigned.keys().filter_map(one).collect()
}

fn endpoint_names(id: TaskId, endpoint: &NetworkEndpoint, serving: &Serving<'_>) -> EndpointNames {
    let ServiceKey { stack, service } = &endpoint.service;
    let text = id.to_string();
    let mut names = match endpoint.slot {
        Slot::Replica(number) => vec![format!("{stack}_{service}.{number}.{text}"), format!("{service}.{number}")],
        Slot::Node(_) => vec![format!("{stack}_{service}.{text}")],
    };
    names.push(text.chars().take(SHORT).collect());
    let member =
        Member { service: service.to_string(), stack: Some(stack.to_string()), serving: serving.serves(id, endpoint) };
    EndpointNames { names, addresses: endpoint.addresses.clone(), member: Some(member) }
}

fn guest_names(guest: &NetworkGuest) -> EndpointNames {
    EndpointNames { names: guest.names.clone(), addresses: guest.addresses.clone(), member: None }
}

fn service_names(key: &ServiceKey, service: &NetworkService) -> ServiceNames {
    let own = key.service.to_string();
    ServiceNames {
        aliases: service.names.iter().filter(|name| **name != own).cloned().collect(),
        name: own,
        stack: Some(key.stack.to_string()),
        virtual_addresses: match service.endpoint_mode {
            EndpointMode::Vip => service.addresses.clone(),
            EndpointMode::Dnsrr => Vec::new(),
        },
        ports: service
            .published
            .iter()
            .map(|port| ServicePort { name: None, protocol: protocol(port.protocol), port: port.target })
            .collect(),
    }
}
