//! Pure. Networks and volumes.

use std::collections::HashMap;

use bollard_stubs::models::{
    ConfigReference, EndpointResource, Ipam, IpamConfig, NetworkInspect, PeerInfo, Volume, VolumeScopeEnum,
};
use ipnet::IpNet;
use stack_engine::container::{Container, ContainerState, NetworkMode};
use stack_engine::network::{Attachment, NetworkSettings, NetworkStatus, NetworkTemplate, USUAL_NETWORK};

use super::container::endpoint_id;
use super::text::{NEVER, identifier, milliseconds};
use crate::cluster::ClusterNetwork;

/// The documents of all networks: those of this host that were made, and the kinds of attachment that every host has.
pub fn networks(made: &[NetworkStatus], containers: &[Container]) -> Vec<NetworkInspect> {
    let mut all: Vec<NetworkInspect> = made.iter().map(|status| of_host(status, containers)).collect();
    // It is made when the first container comes; clients expect it to be there.
    if made.iter().all(|status| status.network.name != USUAL_NETWORK) {
        all.push(network(USUAL_NETWORK, "bridge"));
    }
    for (name, driver, mode) in [("host", "host", NetworkMode::Host), ("none", "null", NetworkMode::None)] {
        let on_it = containers.iter().filter(|container| {
            container.config.network_mode == mode && matches!(container.state, ContainerState::Running { .. })
        });
        let users = on_it.map(|container| {
            let user = EndpointResource {
                name: Some(container.name.clone()),
                endpoint_id: Some(identifier("endpoint", container.id.as_str())),
                mac_address: Some(String::new()),
                ipv4_address: Some(String::new()),
                ipv6_address: Some(String::new()),
            };
            (container.id.to_string(), user)
        });
        let containers = Some(users.collect());
        all.push(NetworkInspect { containers, enable_ipv4: Some(false), ..network(name, driver) });
    }
    all
}

/// The identifier of a network between hosts.
pub fn between_id(name: &str) -> String {
    identifier("network", name)
}

/// The document of a network between hosts, with the containers of this host that are on it, tasks of stacks among them.
pub fn between(
    found: &ClusterNetwork,
    containers: &[Container],
    attachment: impl Fn(&str) -> Attachment,
) -> NetworkInspect {
    let has_ipv6 = found.subnets.iter().any(|subnet| matches!(subnet, IpNet::V6(_)));
    let pools =
        found.subnets.iter().map(|subnet| IpamConfig { subnet: Some(subnet.to_string()), ..IpamConfig::default() });
    let users = containers.iter().filter_map(|container| {
        if !matches!(container.state, ContainerState::Running { .. }) {
            return None;
        }
        let guests = attachment(container.id.as_str()).between;
        let all = container.config.overlays.iter().chain(&guests);
        let endpoint = all.into_iter().find(|endpoint| endpoint.network == found.name)?;
        let of_family = |is_ipv6: bool| {
            let address = endpoint.addresses.iter().find(|net| matches!(net, IpNet::V6(_)) == is_ipv6);
            Some(address.map(ToString::to_string).unwrap_or_default())
        };
        let mac = endpoint.mac.map(|byte| format!("{byte:02x}")).join(":");
        let user = EndpointResource {
            name: Some(container.name.clone()),
            endpoint_id: Some(identifier("endpoint", &mac)),
            mac_address: Some(mac),
            ipv4_address: of_family(false),
            ipv6_address: of_family(true),
        };
        Some((container.id.to_string(), user))
    });
    let mut options =
        HashMap::from([("com.docker.network.driver.overlay.vxlanid_list".to_owned(), found.vni.to_string())]);
    options.extend(found.encrypted.then(|| ("encrypted".to_owned(), String::new())));
    options.extend(found.mtu.map(|mtu| ("com.docker.network.driver.mtu".to_owned(), mtu.to_string())));
    let peers =
        found.peers.iter().map(|(name, address)| PeerInfo { name: Some(name.clone()), ip: Some(address.clone()) });
    NetworkInspect {
        id: Some(between_id(&found.name)),
        scope: Some("swarm".to_owned()),
        enable_ipv6: Some(has_ipv6),
        ipam: Some(Ipam { driver: Some("default".to_owned()), config: Some(pools.collect()), options: None }),
        internal: Some(found.internal),
        attachable: Some(found.attachable),
        options: Some(options),
        labels: Some(found.labels.clone().into_iter().collect()),
        containers: Some(users.collect()),
        peers: Some(peers.collect()),
        ..network(&found.name, "overlay")
    }
}

fn network(name: &str, driver: &str) -> NetworkInspect {
    NetworkInspect {
        name: Some(name.to_owned()),
        id: Some(identifier("network", name)),
        // The engine does not keep it, and clients want a time.
        created: Some(NEVER.to_owned()),
        scope: Some("local".to_owned()),
        driver: Some(driver.to_owned()),
        enable_ipv4: Some(true),
        enable_ipv6: Some(false),
        ipam: Some(Ipam { driver: Some("default".to_owned()), config: Some(Vec::new()), options: None }),
        internal: Some(false),
        attachable: Some(false),
        ingress: Some(false),
        config_from: Some(ConfigReference { network: Some(String::new()) }),
        config_only: Some(false),
        options: Some(HashMap::new()),
        labels: Some(HashMap::new()),
        containers: Some(HashMap::new()),
        ..NetworkInspect::default()
    }
}

/// The addresses of a subnet that no container gets.
fn auxiliary(settings: &NetworkSettings, subnet: IpNet) -> Option<HashMap<String, String>> {
    let of_subnet = settings.auxiliary.iter().filter(|(_, address)| subnet.contains(*address));
    let all: HashMap<String, String> = of_subnet.map(|(name, address)| (name.clone(), address.to_string())).collect();
    Some(all).filter(|all| !all.is_empty())
}

/// The document of settings that networks are made from.
pub fn template(template: &NetworkTemplate) -> NetworkInspect {
    let settings = &template.settings;
    let ipv4 = settings.subnet.map(|subnet| IpamConfig {
        subnet: Some(subnet.to_string()),
        ip_range: settings.range.map(|range| range.to_string()),
        gateway: settings.gateway.map(|gateway| gateway.to_string()),
        auxiliary_addresses: auxiliary(settings, subnet.into()),
    });
    let ipv6 = settings.subnet6.map(|subnet| IpamConfig {
        subnet: Some(subnet.to_string()),
        ip_range: settings.range6.map(|range| range.to_string()),
        gateway: settings.gateway6.map(|gateway| gateway.to_string()),
        auxiliary_addresses: auxiliary(settings, subnet.into()),
    });
    let further = settings.further.iter().map(|further| IpamConfig {
        subnet: Some(further.subnet.to_string()),
        ip_range: further.range.map(|range| range.to_string()),
        gateway: further.gateway.map(|gateway| gateway.to_string()),
        auxiliary_addresses: auxiliary(settings, further.subnet),
    });
    NetworkInspect {
        id: Some(template.id.clone()),
        created: Some(milliseconds(template.created_at)),
        enable_ipv4: Some(!settings.without_ipv4),
        enable_ipv6: Some(settings.ipv6),
        ipam: Some(Ipam {
            driver: Some("default".to_owned()),
            config: Some(ipv4.into_iter().chain(ipv6).chain(further).collect()),
            options: Some(HashMap::new()),
        }),
        config_only: Some(true),
        options: Some(settings.options.clone().into_iter().collect()),
        labels: Some(settings.labels.clone().into_iter().collect()),
        ..network(&template.name, "null")
    }
}

fn of_host(status: &NetworkStatus, containers: &[Container]) -> NetworkInspect {
    let record = &status.network;
    let settings = &record.settings;
    let pools = record.pools().map(|pool| IpamConfig {
        subnet: Some(pool.subnet.to_string()),
        ip_range: Some(pool.range).filter(|range| *range != pool.subnet).map(|range| range.to_string()),
        gateway: Some(pool.gateway.to_string()),
        auxiliary_addresses: auxiliary(settings, pool.subnet),
    });
    let users = status.containers.iter().filter_map(|user| {
        let endpoint = user.attachment.endpoints.iter().find(|endpoint| endpoint.network == record.name)?;
        let name = containers.iter().find(|container| container.id.as_str() == user.id).map(|found| found.name.clone());
        let resource = EndpointResource {
            name: Some(name.unwrap_or_else(|| user.name.clone())),
            endpoint_id: Some(endpoint_id(endpoint)),
            mac_address: Some(endpoint.mac.clone()),
            ipv4_address: Some(endpoint.address.map(|net| net.to_string()).unwrap_or_default()),
            ipv6_address: Some(endpoint.ipv6.map(|part| part.net.to_string()).unwrap_or_default()),
        };
        Some((user.id.clone(), resource))
    });
    let mut options: HashMap<String, String> = settings.options.clone().into_iter().collect();
    if record.name == USUAL_NETWORK {
        options.insert("com.docker.network.bridge.default_bridge".to_owned(), "true".to_owned());
        options.insert("com.docker.network.bridge.name".to_owned(), record.link.clone());
    }
    NetworkInspect {
        id: Some(record.id.clone()),
        created: Some(if record.created_at == 0 { NEVER.to_owned() } else { milliseconds(record.created_at) }),
        ipam: Some(Ipam {
            driver: Some("default".to_owned()),
            config: Some(pools.collect()),
            options: Some(HashMap::new()).filter(|_| record.name != USUAL_NETWORK),
        }),
        enable_ipv4: Some(record.subnet.is_some()),
        enable_ipv6: Some(record.ipv6.is_some()),
        internal: Some(settings.internal),
        attachable: Some(settings.attachable),
        config_from: Some(ConfigReference { network: Some(settings.made_from.clone().unwrap_or_default()) }),
        options: Some(options),
        labels: Some(settings.labels.clone().into_iter().collect()),
        containers: Some(users.collect()),
        ..network(&record.name, settings.driver.as_str())
    }
}

/// A volume whose data lies at `mountpoint`.
pub fn volume(volume: &stack_engine::volume::Volume, mountpoint: String) -> Volume {
    Volume {
        name: volume.name.clone(),
        driver: "local".to_owned(),
        mountpoint,
        created_at: Some(milliseconds(volume.created_at)),
        labels: volume.labels.clone().into_iter().collect(),
        options: volume.options.clone().into_iter().collect(),
        scope: Some(VolumeScopeEnum::LOCAL),
        ..Volume::default()
    }
}

#[cfg(test)]
mod tests {
    use stack_engine::network::NetworkRecord;

    use super::*;

    #[test]
    fn bridges_and_what_every_host_has() {
        let mut record =
            NetworkRecord::new("bridge", "stk0", "10.7.0.0/24".parse().unwrap(), "10.7.0.1".parse().unwrap());
        record.id = "ab".repeat(32);
        let statuses = [NetworkStatus { network: record, containers: Vec::new() }];
        let document = serde_json::to_value(networks(&statuses, &[])).unwrap();
        assert_eq!(document[0]["IPAM"]["Config"][0]["Subnet"], "10.7.0.0/24");
        assert_eq!(document[0]["Driver"], "bridge");
        assert_eq!((&document[1]["Name"], &document[2]["Driver"]), (&"host".into(), &"null".into()));
        assert_ne!(document[0]["Id"], document[1]["Id"]);
    }
}
