//! Pure. What the containers of this host's networks are called there.

use std::net::IpAddr;

use super::request::{ContainerRecord, NetworkRecord};
use crate::dns::{EndpointNames, NetworkNames};

/// The network that containers are on that name none. Nothing has a name there, and its containers ask the host's servers.
pub const USUAL_NETWORK: &str = "bridge";

/// So many characters of an id are its short form.
const SHORT_ID: usize = 12;

/// The names on each network that has names: a container's name, its short id and its aliases.
#[must_use]
pub fn names<'a>(
    networks: impl Iterator<Item = &'a NetworkRecord>,
    containers: &[&ContainerRecord],
) -> Vec<NetworkNames> {
    networks
        .filter(|network| network.name != USUAL_NETWORK)
        .map(|network| NetworkNames {
            network: network.name.clone(),
            subnets: network.subnets().collect(),
            endpoints: containers.iter().filter_map(|container| endpoint(network, container)).collect(),
            services: Vec::new(),
        })
        .collect()
}

fn endpoint(network: &NetworkRecord, container: &ContainerRecord) -> Option<EndpointNames> {
    let index = container.attachment.endpoints.iter().position(|endpoint| endpoint.network == network.name)?;
    let addresses: Vec<IpAddr> = container.attachment.endpoints.get(index)?.addresses().collect();
    let short: String = container.id.chars().take(SHORT_ID).collect();
    let mut names = Vec::new();
    let own = [container.name.clone(), short].into_iter();
    for name in own.chain(container.aliases.get(index).into_iter().flatten().cloned()) {
        if !name.is_empty() && !names.contains(&name) {
            names.push(name);
        }
    }
    Some(EndpointNames { names, addresses, member: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::request::{Attachment, Endpoint, Ipv6Part};

    #[test]
    fn a_container_has_its_names_on_each_network_but_the_usual_one() {
        let network = |name: &str, subnet: &str, gateway: &str| {
            NetworkRecord::new(name, "b", subnet.parse().unwrap(), gateway.parse().unwrap())
        };
        let networks = [network("bridge", "10.0.0.0/24", "10.0.0.1"), network("front", "10.0.1.0/24", "10.0.1.1")];
        let endpoint = |network: &str, address: &str, interface: &str| Endpoint {
            network: network.to_owned(),
            interface: interface.to_owned(),
            address: address.parse().ok(),
            gateway: "10.0.0.1".parse().ok(),
            ipv6: (network == "front")
                .then(|| Ipv6Part { net: "fd00::2/64".parse().unwrap(), gateway: "fd00::1".parse().unwrap() }),
            link_local: Vec::new(),
            mac: String::new(),
            priority: 0,
            internal: false,
            routes_by_interface: false,
        };
        let container = ContainerRecord {
            id: "0123456789abcdef".to_owned(),
            hostname: "elsewhere".to_owned(),
            name: "web".to_owned(),
            attachment: Attachment {
                endpoints: vec![endpoint("bridge", "10.0.0.2/24", "eth0"), endpoint("front", "10.0.1.2/24", "eth1")],
                ..Attachment::default()
            },
            links: Vec::new(),
            sysctls: Vec::new(),
            aliases: vec![Vec::new(), vec!["site".to_owned(), "web".to_owned()]],
            ready: true,
        };
        let found = names(networks.iter(), &[&container]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].network, "front");
        assert_eq!(found[0].endpoints[0].names, ["web", "0123456789ab", "site"]);
        assert_eq!(
            found[0].endpoints[0].addresses,
            ["10.0.1.2", "fd00::2"].map(|text| text.parse::<IpAddr>().unwrap())
        );
    }
}
