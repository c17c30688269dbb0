//! What one container gets of its networks: its addresses, and the ports of the host. Decided from the state alone, but for
//! the ports that the kernel has given to somebody else.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};

use super::addressing;
use super::driver::Driver;
use super::errors::{AttachError, NetworkError};
use super::networks::State;
use super::ports::{self, Family, Wanted};
use super::request::{
    ContainerRecord, Endpoint, Ipv6Part, MacAddress, NetworkEndpoint, NetworkRecord, NetworkRequest, PortBinding,
};
use super::reservation::ReservationError;

impl State {
    pub(super) fn is_bridge(&self, network: &str) -> bool {
        self.networks.get(network).is_none_or(|network| network.settings.driver.is_bridge())
    }

    /// The name of the host's end of a link to an interface with this address; empty where the host has no end.
    pub(super) fn host_link(&self, network: &str, prefix: &str, address: Ipv4Addr) -> String {
        if self.is_bridge(network) { addressing::link_name(prefix, address) } else { String::new() }
    }

    /// The interface of a container on a network, and its IPv4 address there.
    pub(super) fn choose_endpoint(
        &self,
        wanted: &NetworkEndpoint,
        interface: String,
    ) -> Result<(Endpoint, Ipv4Addr), AttachError> {
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
        let (mut taken, mut taken6) = (BTreeSet::from([record.gateway]), BTreeSet::new());
        taken6.extend(record.ipv6.map(|part| part.gateway));
        let endpoints = self.on_network(network).flat_map(|container| &container.attachment.endpoints);
        let addresses = endpoints.filter(|endpoint| endpoint.network == network).flat_map(Endpoint::addresses);
        for address in addresses.chain(record.settings.auxiliary.values().copied()) {
            match address {
                IpAddr::V4(address) => drop(taken.insert(address)),
                IpAddr::V6(address) => drop(taken6.insert(address)),
            }
        }
        let address = self.choose_address(record, wanted, &taken)?;
        let ipv6 = choose_address6(record, wanted, &taken6, address)?;
        let mac = wanted.mac.unwrap_or(MacAddress(addressing::link_address(address)));
        // The chosen address is within the subnet, whose length is therefore a valid one.
        let with_length = Ipv4Net::new_assert(address, record.subnet.prefix_len());
        let endpoint = Endpoint {
            network: network.to_owned(),
            interface,
            address: IpNet::V4(with_length),
            gateway: IpAddr::V4(record.gateway),
            ipv6,
            link_local: wanted.link_local.clone(),
            mac: Some(mac).filter(|_| has_own_mac).map(|mac| mac.to_string()).unwrap_or_default(),
            priority: wanted.priority,
            internal: record.is_internal(),
            routes_by_interface: driver.routes_by_interface(),
        };
        Ok((endpoint, address))
    }

    fn choose_address(
        &self,
        record: &NetworkRecord,
        wanted: &NetworkEndpoint,
        taken: &BTreeSet<Ipv4Addr>,
    ) -> Result<Ipv4Addr, AttachError> {
        let network = || record.name.clone();
        match wanted.address {
            Some(address) => {
                check_address(record, record.subnet.into(), address.into(), taken.contains(&address))?;
                Ok(address)
            }
            None => {
                let last = self.last.get(&record.name).copied();
                let range = record.settings.range.unwrap_or(record.subnet);
                let free = addressing::choose_address(record.subnet, range, taken, last);
                let count = self.on_network(&record.name).count();
                free.ok_or_else(|| AttachError::NoAddress { network: network(), subnet: range.into(), count })
            }
        }
    }

    /// What the ports of a request mean for a container that got these interfaces.
    pub(super) fn ports_wanted(
        &self,
        record: &ContainerRecord,
        wanted: &[PortBinding],
    ) -> Result<Vec<Wanted>, ports::PortError> {
        let family = |endpoint: &Endpoint, is_ipv6: bool| {
            let network = self.networks.get(&endpoint.network);
            Family {
                translates: network.is_none_or(|network| network.gateway_mode(is_ipv6).translates()),
                usual: network.and_then(|network| network.settings.published_at).map(IpAddr::V4).filter(|_| !is_ipv6),
            }
        };
        // Where its own addresses are reached, nothing leads from the host's ports to it.
        if !record.serving().all(|(endpoint, _)| self.is_bridge(&endpoint.network)) {
            return Ok(Vec::new());
        }
        // Without a network of its own a container's ports are only held.
        let plain = Family { translates: true, usual: None };
        let ipv4 = record.leading().map_or(plain, |leading| family(leading, false));
        let ipv6 = match record.attachment.leading6() {
            Some((leading, _)) => Some(family(leading, true)),
            None => Some(plain).filter(|_| {
                record.attachment.endpoints.is_empty() && wanted.iter().all(|binding| binding.host_ip.is_some())
            }),
        };
        ports::resolve(wanted, ipv4, ipv6)
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

fn check_address(record: &NetworkRecord, subnet: IpNet, address: IpAddr, is_taken: bool) -> Result<(), AttachError> {
    let network = || record.name.clone();
    if !addressing::can_have(subnet, address) {
        return Err(AttachError::OutsideSubnet { network: network(), subnet, address });
    }
    if is_taken {
        return Err(AttachError::AddressTaken { network: network(), address });
    }
    Ok(())
}

fn choose_address6(
    record: &NetworkRecord,
    wanted: &NetworkEndpoint,
    taken: &BTreeSet<Ipv6Addr>,
    beside: Ipv4Addr,
) -> Result<Option<Ipv6Part>, AttachError> {
    let network = || record.name.clone();
    let Some(part) = record.ipv6 else {
        return match wanted.address6 {
            Some(address) => Err(AttachError::NoIpv6 { network: network(), address }),
            None => Ok(None),
        };
    };
    let subnet = part.net;
    let address = match wanted.address6 {
        Some(address) => {
            check_address(record, subnet.into(), address.into(), taken.contains(&address))?;
            address
        }
        None => {
            let range = record.settings.range6.unwrap_or(subnet);
            let free = addressing::choose_address6(subnet, range, taken, (record.subnet, beside));
            let count = taken.len();
            free.ok_or_else(|| AttachError::NoAddress { network: network(), subnet: range.into(), count })?
        }
    };
    let net = ipnet::Ipv6Net::new_assert(address, subnet.prefix_len());
    Ok(Some(Ipv6Part { net, gateway: part.gateway }))
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
