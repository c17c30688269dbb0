//! Pure. The host's networks in the engine's words: what it is told of the cluster becomes one value that the engine makes
//! true.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use stack_engine::encryption::PublicKey;
use stack_engine::network::Protocol as EngineProtocol;
use stack_engine::overlay::{
    Ingress, Neighbour, OVERHEAD_IPV4, OVERHEAD_IPV6, OverlayEndpoint, OverlayNetwork, Overlays, VirtualService,
    link_address,
};
use stack_model::spec::{Protocol, PublishMode};
use stack_model::{
    AssignedNetwork, AssignedTask, EndpointState, NetworkDocument, NetworkEndpoint, NetworkHost, NetworkService,
    NodeId, ServiceKey, TaskId,
};

use crate::encryption::tunnel_mtu;
use crate::networks::HostNetworks;

/// Where this host is between hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Underlay {
    /// Its address.
    pub address: IpAddr,
    /// What a packet from there may have, in bytes.
    pub mtu: u32,
}

/// All networks of the host. One whose document has not come yet is there, with nobody else on it.
#[must_use]
pub fn overlays(node: NodeId, networks: &HostNetworks, underlay: Underlay) -> Overlays {
    let mut made = Overlays::default();
    for (name, assigned) in &networks.assigned {
        let document = networks.whole(name).map(|(_, document)| document);
        // What every host on it can receive.
        let mtus = document.iter().flat_map(|document| document.hosts.values()).filter_map(|host| host.mtu);
        let underlay = Underlay { mtu: mtus.fold(underlay.mtu, u32::min), ..underlay };
        let fitting = if assigned.encrypted {
            u32::from(tunnel_mtu(underlay)).saturating_sub(OVERHEAD_IPV6)
        } else {
            underlay.mtu.saturating_sub(if underlay.address.is_ipv4() { OVERHEAD_IPV4 } else { OVERHEAD_IPV6 })
        };
        let mut network = OverlayNetwork {
            name: name.clone(),
            vni: assigned.vni,
            mtu: assigned.mtu.unwrap_or(fitting),
            internal: assigned.internal,
            encrypted: assigned.encrypted,
            // Within tunnels the source of a packet is that of the key that it is sent with.
            underlay: if assigned.encrypted { Ipv6Addr::UNSPECIFIED.into() } else { underlay.address },
            addresses: assigned.addresses.clone(),
            neighbours: Vec::new(),
            services: Vec::new(),
            ingress: Vec::new(),
        };
        if let Some(document) = document {
            network.neighbours = neighbours(node, document, assigned.encrypted);
            let serving = Serving { node, ready: &networks.ready, document };
            network.services = serving.services();
            network.ingress = serving.ingress();
        }
        made.networks.insert(name.clone(), network);
    }
    made
}

fn neighbours(node: NodeId, document: &NetworkDocument, encrypted: bool) -> Vec<Neighbour> {
    let hosts = document.hosts.iter().map(|(host, entry)| (*host, &entry.addresses));
    let tasks = document.endpoints.values().map(|endpoint| (endpoint.node, &endpoint.addresses));
    let guests = document.guests.values().map(|guest| (guest.node, &guest.addresses));
    let mut neighbours = Vec::new();
    for (host, addresses) in hosts.chain(tasks).chain(guests).filter(|(host, _)| *host != node) {
        // A host without a key cannot be sent anything that is encrypted.
        let Some(host) = document.hosts.get(&host).and_then(|entry| place(entry, encrypted)) else { continue };
        let mac = link_address(addresses.iter().copied());
        neighbours.extend(addresses.iter().map(|&address| Neighbour { address, mac, host }));
    }
    neighbours
}

/// Where a host is: between hosts, or within tunnels.
fn place(host: &NetworkHost, encrypted: bool) -> Option<IpAddr> {
    if !encrypted {
        return Some(host.underlay);
    }
    let key = host.keys.first()?.public_key.parse::<PublicKey>().ok()?;
    Some(key.address().into())
}

/// Who on a network is sent anything new: of other hosts' tasks the document says it, of its own the host knows it better,
/// but for those that are to end.
pub(crate) struct Serving<'a> {
    pub(crate) node: NodeId,
    pub(crate) ready: &'a BTreeSet<TaskId>,
    pub(crate) document: &'a NetworkDocument,
}

impl<'a> Serving<'a> {
    fn of(&self, service: &'a ServiceKey) -> impl Iterator<Item = &'a NetworkEndpoint> {
        let endpoints = self.document.endpoints.iter().filter(move |(_, endpoint)| endpoint.service == *service);
        endpoints.filter(|(task, endpoint)| self.serves(**task, endpoint)).map(|(_, endpoint)| endpoint)
    }

    pub(crate) fn serves(&self, task: TaskId, endpoint: &NetworkEndpoint) -> bool {
        match endpoint.state {
            EndpointState::Draining => false,
            _ if endpoint.node == self.node => self.ready.contains(&task),
            EndpointState::Serving => true,
            EndpointState::NotReady => false,
        }
    }

    fn services(&self) -> Vec<VirtualService> {
        let one = |(key, service): (&'a ServiceKey, &NetworkService)| VirtualService {
            addresses: service.addresses.clone(),
            backends: addresses(self.of(key)),
            sticky: service.sticky,
        };
        self.document.services.iter().map(one).collect()
    }

    fn ingress(&self) -> Vec<Ingress> {
        let mut published = Vec::new();
        for (key, service) in &self.document.services {
            for port in &service.published {
                let Some(number) = port.published else { continue };
                let on_this_host = |endpoint: &&NetworkEndpoint| endpoint.node == self.node;
                let remote = match port.mode {
                    PublishMode::Ingress => addresses(self.of(key).filter(|endpoint| !on_this_host(endpoint))),
                    PublishMode::Host => Vec::new(),
                };
                published.push(Ingress {
                    protocol: protocol(port.protocol),
                    host_ip: port.host_ip.filter(|address| !address.is_unspecified()),
                    port: number,
                    target: port.target,
                    local: addresses(self.of(key).filter(on_this_host)),
                    remote,
                    sticky: service.sticky,
                    proxy_protocol: port.proxy_protocol,
                });
            }
        }
        published
    }
}

fn addresses<'a>(endpoints: impl Iterator<Item = &'a NetworkEndpoint>) -> Vec<IpAddr> {
    endpoints.flat_map(|endpoint| endpoint.addresses.iter().copied()).collect()
}

/// The interfaces of a task, those of more priority first, then in the order of its networks' names. Of those that lead
/// outside, that with most `gateway_priority` has the default route, the first by name where several have as much.
#[must_use]
pub fn endpoints(assigned: &AssignedTask, networks: &BTreeMap<String, AssignedNetwork>) -> Vec<OverlayEndpoint> {
    let attachment = |name: &String| assigned.spec.networks.get(name);
    let mut ordered: Vec<(&String, &Vec<IpAddr>)> = assigned.addresses.iter().collect();
    ordered.sort_by_key(|(name, _)| Reverse(attachment(name).map_or(0, |attachment| attachment.priority)));
    let routed = assigned
        .addresses
        .keys()
        .filter(|name| networks.get(*name).is_some_and(|network| !network.internal))
        .min_by_key(|name| Reverse(attachment(name).map_or(0, |attachment| attachment.gateway_priority)));
    let chosen: BTreeSet<&str> =
        assigned.spec.networks.values().filter_map(|attachment| attachment.interface_name.as_deref()).collect();
    let mut numbers = (0_u32..).map(|number| format!("eth{number}")).filter(|name| !chosen.contains(name.as_str()));
    let mut made = Vec::new();
    for (name, addresses) in ordered {
        // A network that has not come yet keeps its number.
        let own = attachment(name).and_then(|attachment| attachment.interface_name.clone());
        let interface = own.or_else(|| numbers.next()).unwrap_or_else(|| "eth0".to_owned());
        let Some(network) = networks.get(name) else { continue };
        let with_length = |address: &IpAddr| {
            let subnet = network.addresses.iter().find(|own| own.contains(address))?;
            IpNet::new(*address, subnet.prefix_len()).ok()
        };
        let leads_outside = routed == Some(name);
        made.push(OverlayEndpoint {
            network: name.clone(),
            interface,
            addresses: addresses.iter().filter_map(with_length).collect(),
            mac: link_address(addresses.iter().copied()),
            gateways: if leads_outside { network.addresses.iter().map(IpNet::addr).collect() } else { Vec::new() },
        });
    }
    made
}

pub(crate) const fn protocol(protocol: Protocol) -> EngineProtocol {
    match protocol {
        Protocol::Tcp => EngineProtocol::Tcp,
        Protocol::Udp => EngineProtocol::Udp,
        Protocol::Sctp => EngineProtocol::Sctp,
    }
}

#[cfg(test)]
mod tests {
    use stack_engine::encryption::PrivateKey;
    use stack_model::TunnelKey;

    use super::*;

    /// This host, 1, and another one, which receives 1,400 bytes at once and has announced `keys`.
    fn told(encrypted: bool, keys: &[&PrivateKey]) -> HostNetworks {
        let host = |last: u8, mtu: Option<u32>, keys: Vec<TunnelKey>| NetworkHost {
            underlay: IpAddr::from([192, 0, 2, last]),
            addresses: vec![IpAddr::from([10, 0, 0, last])],
            mtu,
            keys,
        };
        let key = |key: &&PrivateKey| TunnelKey { public_key: key.public().to_string(), port: 4794 };
        let document = NetworkDocument {
            name: "net".to_owned(),
            id: 1,
            generation: 1,
            hosts: BTreeMap::from([
                (NodeId::from_bits(1), host(1, Some(1500), Vec::new())),
                (NodeId::from_bits(2), host(2, Some(1400), keys.iter().map(key).collect())),
            ]),
            endpoints: BTreeMap::new(),
            services: BTreeMap::new(),
            guests: BTreeMap::new(),
        };
        let assigned = AssignedNetwork {
            id: 1,
            vni: 4096,
            addresses: vec!["10.0.0.1/24".parse().expect("an address")],
            internal: false,
            encrypted,
            mtu: None,
        };
        HostNetworks {
            assigned: BTreeMap::from([("net".to_owned(), assigned)]),
            documents: BTreeMap::from([("net".to_owned(), document)]),
            ..HostNetworks::default()
        }
    }

    const UNDERLAY: Underlay = Underlay { address: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), mtu: 9000 };

    fn network(networks: &HostNetworks) -> OverlayNetwork {
        let overlays = overlays(NodeId::from_bits(1), networks, UNDERLAY);
        overlays.check().expect("it makes sense");
        overlays.networks["net"].clone()
    }

    #[test]
    fn a_network_is_as_narrow_as_its_narrowest_host() {
        assert_eq!(network(&told(false, &[])).mtu, 1400 - OVERHEAD_IPV4);
        assert_eq!(network(&told(true, &[])).mtu, 1400 - 60 - OVERHEAD_IPV6);
        let mut chosen = told(false, &[]);
        chosen.assigned.get_mut("net").expect("it").mtu = Some(1280);
        assert_eq!(network(&chosen).mtu, 1280);
    }

    #[test]
    fn an_encrypted_network_sends_to_the_first_key_and_to_nobody_without_one() {
        let [first, second] = [PrivateKey::generate(), PrivateKey::generate()];
        let sealed = network(&told(true, &[&second, &first]));
        assert!(sealed.encrypted);
        assert_eq!(sealed.neighbours.len(), 1);
        assert_eq!(sealed.neighbours[0].host, IpAddr::V6(second.public().address()));
        assert_eq!(network(&told(true, &[])).neighbours, []);
        let plain = network(&told(false, &[&first]));
        assert_eq!(plain.neighbours[0].host, IpAddr::from([192, 0, 2, 2]));
    }
}
