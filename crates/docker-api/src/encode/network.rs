//! Pure. Networks and volumes.

use std::collections::HashMap;

use bollard_stubs::models::{Ipam, IpamConfig, Network, Volume, VolumeScopeEnum};
use stack_engine::network::NetworkRecord;

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
    let subnet = IpamConfig {
        subnet: Some(record.subnet.to_string()),
        gateway: Some(record.gateway.to_string()),
        ..IpamConfig::default()
    };
    let options = [("com.docker.network.bridge.name".to_owned(), record.bridge.clone())];
    Network {
        ipam: Some(Ipam { driver: Some("default".to_owned()), config: Some(vec![subnet]), options: None }),
        options: Some(options.into()),
        ..network(&record.name, "bridge")
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
    use super::*;

    #[test]
    fn bridges_and_what_every_host_has() {
        let record = NetworkRecord {
            name: "bridge".to_owned(),
            bridge: "stk0".to_owned(),
            subnet: "10.7.0.0/24".parse().unwrap(),
            gateway: "10.7.0.1".parse().unwrap(),
        };
        let document = serde_json::to_value(networks([record].iter())).unwrap();
        assert_eq!(document[0]["IPAM"]["Config"][0]["Subnet"], "10.7.0.0/24");
        assert_eq!(document[0]["Driver"], "bridge");
        assert_eq!((&document[1]["Name"], &document[2]["Driver"]), (&"host".into(), &"null".into()));
        assert_ne!(document[0]["Id"], document[1]["Id"]);
    }
}
