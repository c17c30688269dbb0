//! Pure. Networks and volumes.

use std::collections::HashMap;

use bollard_stubs::models::{EndpointResource, Ipam, IpamConfig, Network, Volume, VolumeScopeEnum};
use serde::Serialize;
use stack_engine::network::{NetworkRecord, NetworkStatus};

use super::text::{NEVER, identifier, milliseconds};

/// The answer of `/networks`: the bridges, and the two kinds of attachment that every host has.
pub fn networks<'a>(bridges: impl Iterator<Item = &'a NetworkRecord>) -> Vec<Network> {
    let mut all: Vec<Network> = bridges.map(bridge).collect();
    all.push(network("host", "host"));
    all.push(network("none", "null"));
    all
}

fn network(name: &str, driver: &str) -> Network {
    Network {
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
        config_only: Some(false),
        options: Some(HashMap::new()),
        labels: Some(HashMap::new()),
        ..Network::default()
    }
}

fn bridge(record: &NetworkRecord) -> Network {
    let spec = &record.spec;
    let reserved: HashMap<String, String> =
        spec.reserved.iter().map(|(name, address)| (name.clone(), address.to_string())).collect();
    let subnet = IpamConfig {
        subnet: Some(record.subnet.to_string()),
        ip_range: spec.range.map(|range| range.to_string()),
        gateway: Some(record.gateway.to_string()),
        auxiliary_addresses: Some(reserved).filter(|reserved| !reserved.is_empty()),
    };
    let mut options: HashMap<String, String> = spec.options.clone().into_iter().collect();
    options.entry("com.docker.network.bridge.name".to_owned()).or_insert_with(|| record.bridge.clone());
    Network {
        created: Some(if record.created_at == 0 { NEVER.to_owned() } else { milliseconds(record.created_at) }),
        ipam: Some(Ipam { driver: Some("default".to_owned()), config: Some(vec![subnet]), options: None }),
        internal: Some(spec.internal),
        attachable: Some(spec.attachable),
        labels: Some(spec.labels.clone().into_iter().collect()),
        options: Some(options),
        ..network(&record.name, "bridge")
    }
}

/// The answer of `/networks/{id}`.
#[derive(Debug, Serialize)]
pub struct Inspected {
    #[serde(flatten)]
    network: Network,
    #[serde(rename = "Containers")]
    containers: HashMap<String, EndpointResource>,
}

impl From<Network> for Inspected {
    fn from(network: Network) -> Self {
        Self { network, containers: HashMap::new() }
    }
}

/// A bridge with who is on it. `name` says what a container is called.
pub fn inspect(status: &NetworkStatus, name: impl Fn(&str) -> String) -> Inspected {
    let containers = status.containers.iter().filter_map(|container| {
        let mut endpoints = container.attachment.endpoints.iter();
        let endpoint = endpoints.find(|endpoint| endpoint.network == status.network.name)?;
        let shown = EndpointResource {
            name: Some(name(&container.id)),
            endpoint_id: Some(identifier("endpoint", &format!("{}/{}", status.network.name, container.id))),
            mac_address: Some(endpoint.mac.clone()),
            ipv4_address: Some(endpoint.address.to_string()),
            ipv6_address: Some(String::new()),
        };
        Some((container.id.clone(), shown))
    });
    Inspected { containers: containers.collect(), network: bridge(&status.network) }
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
    use super::*;

    #[test]
    fn bridges_and_what_every_host_has() {
        let record = NetworkRecord {
            name: "bridge".to_owned(),
            bridge: "stk0".to_owned(),
            subnet: "10.7.0.0/24".parse().unwrap(),
            gateway: "10.7.0.1".parse().unwrap(),
            spec: stack_engine::network::NetworkSpec::default(),
            created_at: 0,
            made: false,
        };
        let document = serde_json::to_value(networks([record].iter())).unwrap();
        assert_eq!(document[0]["IPAM"]["Config"][0]["Subnet"], "10.7.0.0/24");
        assert_eq!(document[0]["Driver"], "bridge");
        assert_eq!((&document[1]["Name"], &document[2]["Driver"]), (&"host".into(), &"null".into()));
        assert_ne!(document[0]["Id"], document[1]["Id"]);
    }
}
