//! What one container gets of its networks: its addresses, and the ports of the host. Decided from the state alone, but for
//! the ports that the kernel has given to somebody else.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::addressing;
use super::driver::Driver;
use super::errors::{AttachError, NetworkError};
use super::networks::State;
use super::ports::{self, Families, Family, Wanted};
use super::request::{
    ContainerRecord, Endpoint, Ipv4Part, Ipv6Part, MacAddress, NetworkEndpoint, NetworkRecord, NetworkRequest,
    PortBinding,
};
use super::reservation::ReservationError;

impl State {
    pub(super) fn is_bridge(&self, network: &str) -> bool {
        self.networks.get(network).is_none_or(|network| network.settings.driver.is_bridge())
    }

    /// The name of the host's end of a link to this interface; empty where the host has no end. `beside` are those of other
    /// interfaces that are not in the state yet.
    pub(super) fn host_link(
        &self,
        prefix: &str,
        endpoint: &Endpoint,
        beside: &[String],
    ) -> Result<String, AttachError> {
        if !self.is_bridge(&endpoint.network) {
            return Ok(String::new());
        }
        if let Some(net) = endpoint.address {
            return Ok(addressing::link_name(prefix, net.addr()));
        }
        let is_taken = |name: &str| {
            let mut links = self.containers.values().flat_map(|entry| entry.record.host_links()).chain(beside);
            links.any(|link| link == name)
        };
        // A bridge has one of the families.
        let address = endpoint.ipv6.map_or(Ipv6Addr::UNSPECIFIED, |part| part.net.addr());
        addressing::link_name6(prefix, address, is_taken)
            .ok_or_else(|| AttachError::NoLinkName { network: endpoint.network.clone() })
    }

    /// The interface of a container on a network.
    pub(super) fn choose_endpoint(
        &self,
        id: &str,
        wanted: &NetworkEndpoint,
        interface: String,
    ) -> Result<Endpoint, AttachError> {
        let Some(record) = self.networks.get(&wanted.name) else {
            return Err(NetworkError::Missing { name: wanted.name.clone() }.into());
        };
        let network = record.name.as_str();
        let driver = &record.settings.driver;
        if let Some(other) = self.on_network(network).next().filter(|_| driver.is_for_one()) {
            return Err(AttachError::ForOne { network: network.to_owned(), owner: other.id.clone() });
        }
        let has_own_mac = !matches!(driver, Driver::Ipvlan { .. });
        if wanted.mac.is_some() && !has_own_mac {
            return Err(AttachError::NoMac { network: network.to_owned() });
        }
        let (mut taken, mut taken6) = (BTreeSet::new(), BTreeSet::new());
        let endpoints = self.on_network(network).flat_map(|container| &container.attachment.endpoints);
        let addresses = endpoints.filter(|endpoint| endpoint.network == network).flat_map(Endpoint::addresses);
        let kept = record.settings.auxiliary.values().copied().chain(record.pools().map(|pool| pool.gateway));
        for address in addresses.chain(kept) {
            match address {
                IpAddr::V4(address) => drop(taken.insert(address)),
                IpAddr::V6(address) => drop(taken6.insert(address)),
            }
        }
        let ipv4 = self.choose_ipv4(record, wanted.address, &taken)?;
        let ipv6 = self.choose_ipv6(record, wanted.address6, &taken6, ipv4)?;
        let own = match (ipv4, ipv6) {
            (Some(part), _) => addressing::link_address(part.net.addr()),
            (None, Some(part)) => addressing::link_address_of(&part.net.addr().octets()),
            // Without addresses what tells it from others is whose it is.
            (None, None) => addressing::link_address_of(format!("{id} {network}").as_bytes()),
        };
        let mac = wanted.mac.unwrap_or(MacAddress(own));
        Ok(Endpoint {
            network: network.to_owned(),
            interface,
            address: ipv4.map(|part| part.net),
            gateway: ipv4.map(|part| part.gateway),
            ipv6,
            link_local: wanted.link_local.clone(),
            mac: Some(mac).filter(|_| has_own_mac).map(|mac| mac.to_string()).unwrap_or_default(),
            priority: wanted.priority,
            internal: record.is_internal(),
            routes_by_interface: driver.routes_by_interface(),
        })
    }

    fn choose_ipv4(
        &self,
        record: &NetworkRecord,
        wanted: Option<Ipv4Addr>,
        taken: &BTreeSet<Ipv4Addr>,
    ) -> Result<Option<Ipv4Part>, AttachError> {
        let network = || record.name.clone();
        let mut all = Vec::new();
        for pool in record.pools() {
            let (IpNet::V4(subnet), IpNet::V4(range), IpAddr::V4(gateway)) = (pool.subnet, pool.range, pool.gateway)
            else {
                continue;
            };
            let chosen = match wanted {
                Some(address) => Some(address).filter(|address| addressing::is_host(subnet, *address)),
                None => {
                    let last = match self.last.get(&pool.subnet) {
                        Some(IpAddr::V4(last)) => Some(*last),
                        _ => None,
                    };
                    addressing::choose_address(subnet, range, taken, last)
                }
            };
            if let Some(address) = chosen {
                if wanted.is_some() && taken.contains(&address) {
                    return Err(AttachError::AddressTaken { network: network(), address: address.into() });
                }
                // It is within the subnet, whose length is therefore a valid one.
                let net = Ipv4Net::new_assert(address, subnet.prefix_len());
                return Ok(Some(Ipv4Part { net, gateway }));
            }
            all.push(if wanted.is_some() { subnet.to_string() } else { range.to_string() });
        }
        self.none_chosen(record, wanted.map(IpAddr::V4), &all).map(|()| None)
    }

    fn choose_ipv6(
        &self,
        record: &NetworkRecord,
        wanted: Option<Ipv6Addr>,
        taken: &BTreeSet<Ipv6Addr>,
        ipv4: Option<Ipv4Part>,
    ) -> Result<Option<Ipv6Part>, AttachError> {
        let network = || record.name.clone();
        let beside = ipv4.map(|part| (part.net.trunc(), part.net.addr()));
        let mut all = Vec::new();
        for pool in record.pools() {
            let (IpNet::V6(subnet), IpNet::V6(range), IpAddr::V6(gateway)) = (pool.subnet, pool.range, pool.gateway)
            else {
                continue;
            };
            let chosen = match wanted {
                Some(address) => Some(address).filter(|address| addressing::is_host6(subnet, *address)),
                None => {
                    let last = match self.last.get(&pool.subnet) {
                        Some(IpAddr::V6(last)) => Some(*last),
                        _ => None,
                    };
                    addressing::choose_address6(subnet, range, taken, beside, last)
                }
            };
            if let Some(address) = chosen {
                if wanted.is_some() && taken.contains(&address) {
                    return Err(AttachError::AddressTaken { network: network(), address: address.into() });
                }
                let net = Ipv6Net::new_assert(address, subnet.prefix_len());
                return Ok(Some(Ipv6Part { net, gateway }));
            }
            all.push(if wanted.is_some() { subnet.to_string() } else { range.to_string() });
        }
        self.none_chosen(record, wanted.map(IpAddr::V6), &all).map(|()| None)
    }

    /// Why a family has no address to give: `Ok` if there is none and none is wanted. `tried`: where it was looked for.
    fn none_chosen(&self, record: &NetworkRecord, wanted: Option<IpAddr>, tried: &[String]) -> Result<(), AttachError> {
        let (network, subnets) = (record.name.clone(), tried.join(", "));
        match (wanted, tried.is_empty()) {
            (None, true) => Ok(()),
            (Some(IpAddr::V4(address)), true) => Err(AttachError::NoIpv4 { network, address }),
            (Some(IpAddr::V6(address)), true) => Err(AttachError::NoIpv6 { network, address }),
            (Some(address), false) => Err(AttachError::OutsideSubnet { network, subnets, address }),
            (None, false) => {
                let count = self.on_network(&record.name).count();
                Err(AttachError::NoAddress { network, subnets, count })
            }
        }
    }

    /// These addresses were given out last.
    pub(super) fn note_given(&mut self, endpoint: &Endpoint) {
        if let Some(net) = endpoint.address {
            self.last.insert(IpNet::V4(net.trunc()), IpAddr::V4(net.addr()));
        } else if let Some(part) = endpoint.ipv6 {
            // Beside IPv4 its place follows from the other address.
            self.last.insert(IpNet::V6(part.net.trunc()), IpAddr::V6(part.net.addr()));
        }
    }

    /// What the ports of a request mean for a container that got these interfaces.
    pub(super) fn ports_wanted(
        &self,
        record: &ContainerRecord,
        wanted: &[PortBinding],
    ) -> Result<Vec<Wanted>, ports::PortError> {
        // Where its own addresses are reached, nothing leads from the host's ports to it.
        if !record.serving().all(|(endpoint, _)| self.is_bridge(&endpoint.network)) {
            return Ok(Vec::new());
        }
        let (ipv4, ipv6) = (record.attachment.leading4(), record.attachment.leading6());
        let network = |endpoint: &Endpoint| self.networks.get(&endpoint.network);
        let family = |endpoint: &Endpoint, is_ipv6: bool| Family {
            translates: network(endpoint).is_none_or(|network| network.gateway_mode(is_ipv6).translates()),
        };
        let plain = Family { translates: true };
        let leads = ipv4.map(|(leading, _)| leading).or(ipv6.map(|(leading, _)| leading));
        let families = match (ipv4, ipv6) {
            // Without a network that leads outside a container's ports are only held.
            (None, None) => Families {
                ipv4: Some(plain),
                ipv6: Some(plain).filter(|_| {
                    record.attachment.endpoints.is_empty() && wanted.iter().all(|binding| binding.host_ip.is_some())
                }),
                ..Families::default()
            },
            (ipv4, ipv6) => Families {
                ipv4: ipv4.map(|(leading, _)| family(leading, false)),
                ipv6: ipv6.map(|(leading, _)| family(leading, true)),
                usual: leads.and_then(network).and_then(|network| network.settings.published_at),
                relayed: true,
            },
        };
        ports::resolve(wanted, families)
    }

    /// Holds a port of the host for each of them.
    pub(super) fn hold_ports(&mut self, wanted: Vec<Wanted>) -> Result<Vec<PortBinding>, AttachError> {
        let mut resolved = Vec::new();
        for one in wanted {
            let port = if one.bindings.is_empty() { 0 } else { self.hold_port(&one)? };
            resolved.extend(one.with(port));
        }
        Ok(resolved)
    }

    fn hold_port(&mut self, wanted: &Wanted) -> Result<u16, AttachError> {
        let protocol = wanted.bindings.first().map(|binding| binding.protocol).unwrap_or_default();
        let addresses: Vec<IpAddr> = wanted.bindings.iter().map(|binding| ports::held_at(binding, 0).address).collect();
        match wanted.range {
            Some((first, last)) if first == last => {
                for binding in &wanted.bindings {
                    self.reservations.hold(ports::held_at(binding, first))?;
                }
                Ok(first)
            }
            Some((first, last)) => match self.reservations.hold_first(protocol, &addresses, first..=last)? {
                Some(port) => Ok(port),
                None => {
                    let others = self.containers.values().map(|entry| &entry.record);
                    Err(ports::range_taken(wanted, (first, last), others).into())
                }
            },
            None => {
                let candidates = ports::candidates(rand::random());
                let found = self.reservations.hold_first(protocol, &addresses, candidates)?;
                found.ok_or_else(|| ReservationError::NoneFree { protocol }.into())
            }
        }
    }

    pub(super) fn release_ports(&mut self) {
        let held = ports::held(self.containers.values().map(|entry| &entry.record));
        self.reservations.keep_only(&held);
    }
}

pub(super) fn check_request(id: &str, request: &NetworkRequest) -> Result<(), AttachError> {
    let plain = |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '_');
    if id.is_empty() || id.len() > 128 || !id.chars().all(plain) {
        return Err(AttachError::Id { id: id.chars().take(140).collect() });
    }
    let mut seen = BTreeSet::new();
    for network in &request.networks {
        check_network_name(&network.name)?;
        if !seen.insert(network.name.as_str()) {
            return Err(AttachError::NetworkTwice { id: id.to_owned(), network: network.name.clone() });
        }
    }
    if request.networks.is_empty() && !request.ports.is_empty() && !request.held_only {
        return Err(AttachError::PortsWithoutNetwork { id: id.to_owned() });
    }
    Ok(())
}

pub(super) fn check_network_name(name: &str) -> Result<(), NetworkError> {
    let plain = |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.');
    if name.is_empty() || name.len() > 128 || !name.chars().all(plain) {
        return Err(NetworkError::Name { name: name.chars().take(140).collect() });
    }
    Ok(())
}
