//! Pure. The networks of a container, its names and its ports.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use bollard_stubs::models::{ContainerCreateBody, EndpointSettings, HostConfig};
use stack_engine::container::{ContainerId, NetworkMode};
use stack_engine::network::{MacAddress, NetworkEndpoint, NetworkRecord, PortBinding, Protocol};

use super::isolation::other;
use super::{Creation, CreationError, Reach, World, invalid};
use crate::error::ApiError;

/// The network that a container is on when it names none; it needs not be there yet.
const USUAL: &str = "bridge";

/// Applies them.
pub(super) fn apply(
    creation: &mut Creation,
    body: &ContainerCreateBody,
    host: &HostConfig,
    world: &World,
) -> Result<(), ApiError> {
    names(creation, host)?;
    let mode = host.network_mode.as_deref().unwrap_or_default();
    let mode = if body.network_disabled.unwrap_or(false) { "none" } else { mode };
    let mut endpoints: Vec<(String, &EndpointSettings)> = Vec::new();
    let asked = body.networking_config.as_ref().and_then(|networking| networking.endpoints_config.as_ref());
    for (name, settings) in asked.into_iter().flatten() {
        endpoints.push((if name == "default" { USUAL.to_owned() } else { name.clone() }, settings));
    }
    // The document's order is not kept, so that it is at least always the same.
    endpoints.sort_by(|one, other| one.0.cmp(&other.0));
    let mut links = Vec::new();
    for text in host.links.iter().flatten().chain(endpoints.iter().flat_map(|(_, own)| own.links.iter().flatten())) {
        links.push(link(world, text)?);
    }
    let published = !host.port_bindings.clone().unwrap_or_default().is_empty();
    let config = &mut creation.config;
    match mode {
        "none" => config.network_mode = NetworkMode::None,
        "host" => {
            if !links.is_empty() {
                return Err(CreationError::Rule(
                    "conflicting options: host type networking can't be used with links. This would result in undefined behavior",
                )
                .into());
            }
            config.network_mode = NetworkMode::Host;
        }
        mode => match mode.strip_prefix("container:") {
            Some(name) => {
                for (is_set, one) in [
                    (config.hostname.is_some(), "hostname"),
                    (!links.is_empty(), "links"),
                    (!config.dns.is_empty(), "dns"),
                    (!config.extra_hosts.is_empty(), "custom host-to-IP mapping"),
                    (published || host.publish_all_ports.unwrap_or(false), "port publishing"),
                    (body.exposed_ports.as_ref().is_some_and(|ports| !ports.is_empty()), "port exposing"),
                ] {
                    if is_set {
                        return Err(CreationError::Conflict { one, other: "the container type network mode" }.into());
                    }
                }
                config.network_mode = NetworkMode::Container(other(world, name)?);
            }
            None => config.networks = networks(world, mode, &endpoints)?,
        },
    }
    let has_networks = config.network_mode == NetworkMode::Networks;
    let stray = endpoints.iter().find(|(name, _)| *name != mode).filter(|_| !has_networks);
    if let Some((name, _)) = stray {
        return Err(invalid("NetworkingConfig", name, "the network mode leaves no room for networks").into());
    }
    config.links = links;
    config.exposed_ports = exposed(body)?;
    let ports = ports(host, world, &config.exposed_ports)?;
    match config.network_mode {
        NetworkMode::Networks => {
            let is_beside_host = |endpoint: &NetworkEndpoint| {
                let mut made = world.bridges.iter();
                !endpoint.between_hosts
                    && made.any(|network| network.name == endpoint.name && !network.settings.driver.is_bridge())
            };
            if !ports.is_empty() && config.networks.iter().all(is_beside_host) {
                creation.warnings.push(
                    "Published ports are discarded on macvlan and ipvlan networks: the container's own addresses are reached"
                        .to_owned(),
                );
            }
            // They are published once the container is on a bridge.
            config.ports = ports;
        }
        NetworkMode::Host if published => {
            creation.warnings.push("Published ports are discarded when using host network mode".to_owned());
        }
        NetworkMode::Host | NetworkMode::None | NetworkMode::Container(_) => {}
    }
    Ok(())
}

/// Name servers and the lines of `/etc/hosts`.
fn names(creation: &mut Creation, host: &HostConfig) -> Result<(), CreationError> {
    let config = &mut creation.config;
    for text in host.dns.iter().flatten() {
        let address = text.parse::<IpAddr>().map_err(|_| invalid("DNS server", text, "expected an IP address"))?;
        config.dns.push(address);
    }
    config.dns_search = host.dns_search.clone().unwrap_or_default();
    config.dns_options = host.dns_options.clone().unwrap_or_default();
    let lines = config.dns_search.iter().chain(&config.dns_options);
    if let Some(wrong) = lines.into_iter().find(|text| text.contains(['\n', '\r', '\0'])) {
        return Err(invalid("DNS option", wrong, "it must be a single line"));
    }
    for text in host.extra_hosts.iter().flatten() {
        let refuse = || invalid("extra host", text, "expected NAME:ADDRESS, or NAME:host-gateway");
        let (name, address) = text.split_once('=').or_else(|| text.split_once(':')).ok_or_else(refuse)?;
        let plain = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
        let is_address = plain == "host-gateway" || plain.parse::<IpAddr>().is_ok();
        if name.is_empty() || name.contains(char::is_whitespace) || !is_address {
            return Err(refuse());
        }
        config.extra_hosts.push((name.to_owned(), plain.to_owned()));
    }
    Ok(())
}

/// A network between hosts as one endpoint asks for it.
pub fn endpoint_between(
    name: &str,
    settings: &EndpointSettings,
    attachable: bool,
) -> Result<NetworkEndpoint, ApiError> {
    if !attachable {
        return Err(ApiError::NotAttachable { name: name.to_owned() });
    }
    let endpoint = endpoint(name, settings, None)?;
    // It follows from the address, so that every host knows it.
    super::without(!endpoint.link_local.is_empty(), "link-local addresses on an overlay network")?;
    super::without(endpoint.mac.is_some(), "a MAC address on an overlay network")?;
    super::without(!endpoint.sysctls.is_empty(), "endpoint sysctls on an overlay network")?;
    Ok(NetworkEndpoint { between_hosts: true, ..endpoint })
}

/// An address that holds on one link alone.
fn link_local(text: &str) -> Result<IpAddr, CreationError> {
    let address = text.parse().ok().filter(|address| match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    });
    address.ok_or_else(|| {
        invalid("endpoint settings: link-local IP address", text, "expected one of 169.254.0.0/16 or fe80::/10")
    })
}

/// A network as one endpoint asks for it. `known` is the network where it is made already.
pub fn endpoint(
    name: &str,
    settings: &EndpointSettings,
    known: Option<&NetworkRecord>,
) -> Result<NetworkEndpoint, CreationError> {
    let without = |is_set: bool, field: &str| super::without(is_set, &format!("NetworkingConfig.{field}"));
    let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let aliases = settings.aliases.clone().unwrap_or_default();
    if name == USUAL && !aliases.is_empty() {
        return Err(CreationError::Rule(
            "network-scoped alias is supported only for containers in user defined networks",
        ));
    }
    let addresses = settings.ipam_config.clone().unwrap_or_default();
    let link_local: Vec<IpAddr> =
        addresses.link_local_ips.iter().flatten().map(|text| self::link_local(text)).collect::<Result<_, _>>()?;
    let address = match text(&addresses.ipv4_address) {
        Some(address) => Some(
            address
                .parse()
                .map_err(|_| invalid("endpoint settings: IPv4 address", address, "expected four numbers with dots"))?,
        ),
        None => None,
    };
    let address6 = match text(&addresses.ipv6_address) {
        Some(address) => Some(
            address
                .parse::<Ipv6Addr>()
                .map_err(|_| invalid("endpoint settings: IPv6 address", address, "expected such as fd00::7"))?,
        ),
        None => None,
    };
    if (address.is_some() || address6.is_some()) && name == USUAL {
        return Err(CreationError::Rule("user specified IP address is supported on user defined networks only"));
    }
    let is_automatic = |known: &NetworkRecord| {
        (address.is_some() && known.settings.subnet.is_none())
            || (address6.is_some() && known.settings.subnet6.is_none())
    };
    if known.is_some_and(is_automatic) {
        return Err(CreationError::Rule(
            "user specified IP address is supported only when connecting to networks with user configured subnets",
        ));
    }
    let mac = match text(&settings.mac_address) {
        Some(mac) => Some(
            mac.parse::<MacAddress>().map_err(|_| invalid("MAC address", mac, "expected such as 02:42:ac:11:00:02"))?,
        ),
        None => None,
    };
    let mut sysctls = Vec::new();
    for (key, value) in settings.driver_opts.iter().flatten() {
        match key.as_str() {
            "com.docker.network.endpoint.sysctls" => sysctls = interface_sysctls(value)?,
            other => without(true, &format!("DriverOpts.{other}"))?,
        }
    }
    let priority = settings.gw_priority.unwrap_or(0);
    Ok(NetworkEndpoint {
        name: name.to_owned(),
        aliases,
        address,
        address6,
        mac,
        priority,
        link_local,
        sysctls,
        between_hosts: false,
    })
}

/// `net.ipv4.conf.IFNAME.log_martians=1,…`: settings of the interface and of nothing else.
fn interface_sysctls(text: &str) -> Result<Vec<(String, String)>, CreationError> {
    let refuse = || {
        invalid(
            "endpoint sysctl",
            text,
            "expected net.ipv4, net.ipv6 or net.mpls settings of IFNAME with commas, such as net.ipv4.conf.IFNAME.log_martians=1",
        )
    };
    let mut all = Vec::new();
    for setting in text.split(',').filter(|setting| !setting.is_empty()) {
        let (name, value) = setting.split_once('=').ok_or_else(refuse)?;
        let parts: Vec<&str> = name.split('.').collect();
        let plain = |part: &&str| {
            !part.is_empty() && part.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
        };
        match parts.as_slice() {
            ["net", "ipv4" | "ipv6" | "mpls", "conf" | "neigh", "IFNAME", last] if plain(last) => {}
            _ => return Err(refuse()),
        }
        all.push((parts.get(1..).unwrap_or_default().join("."), value.to_owned()));
    }
    Ok(all)
}

/// The networks to be on, that of the mode first.
fn networks(
    world: &World,
    mode: &str,
    endpoints: &[(String, &EndpointSettings)],
) -> Result<Vec<NetworkEndpoint>, ApiError> {
    let find = |text: &str| -> Result<(String, Reach), ApiError> {
        let name = if ["", "default"].contains(&text) { USUAL } else { text };
        let exact = world.networks.iter().find(|network| network.name == name || network.id == name);
        let begun = || {
            let mut begun = world.networks.iter().filter(|network| network.id.starts_with(name));
            begun.next().filter(|_| begun.next().is_none())
        };
        match exact.or_else(begun) {
            Some(found) => Ok((found.name.clone(), found.reach)),
            None if name == USUAL => Ok((USUAL.to_owned(), Reach::Host)),
            None => Err(ApiError::NoSuchNetwork { name: name.chars().take(200).collect() }),
        }
    };
    let decoded = |name: &str, reach: Reach, settings: &EndpointSettings| match reach {
        Reach::Host => {
            let record = world.bridges.iter().find(|network| network.name == name);
            endpoint(name, settings, record).map_err(ApiError::from)
        }
        Reach::Cluster { attachable } => endpoint_between(name, settings, attachable),
    };
    let (first, reach) = find(mode)?;
    let mut all = vec![decoded(&first, reach, &EndpointSettings::default())?];
    for (name, settings) in endpoints {
        let (name, reach) = find(name)?;
        if ["host", "none"].contains(&name.as_str()) {
            return Err(invalid("NetworkingConfig", name, "it cannot be beside other networks").into());
        }
        let wanted = decoded(&name, reach, settings)?;
        match all.iter_mut().find(|endpoint| endpoint.name == name) {
            Some(endpoint) if endpoint.between_hosts != wanted.between_hosts => {
                let rule =
                    "one of this host and one between hosts have this name, and a container can be on one of the two";
                return Err(invalid("NetworkingConfig", name, rule).into());
            }
            Some(endpoint) => *endpoint = wanted,
            None => all.push(wanted),
        }
    }
    Ok(all)
}

/// `NAME` or `NAME:ALIAS`.
fn link(world: &World, text: &str) -> Result<(ContainerId, String), ApiError> {
    // As older documents have it: `/NAME:/OWN/ALIAS`.
    let (name, alias) = text.split_once(':').unwrap_or((text, text));
    let alias = alias.rsplit('/').next().unwrap_or(alias);
    if name.is_empty() || alias.is_empty() || alias.contains(char::is_whitespace) {
        return Err(invalid("link", text, "expected NAME or NAME:ALIAS").into());
    }
    Ok((other(world, name)?, alias.to_owned()))
}

/// A port with its protocol: `80/tcp`, `80`.
fn port(text: &str) -> Result<(u16, Protocol), CreationError> {
    let refuse = || invalid("port", text, "expected a number from 1 to 65535 and tcp, udp or sctp, such as 80/tcp");
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return Err(refuse()),
    };
    let number = number.parse().ok().filter(|&number| number > 0).ok_or_else(refuse)?;
    Ok((number, protocol))
}

fn exposed(body: &ContainerCreateBody) -> Result<Vec<String>, CreationError> {
    let mut all = BTreeSet::new();
    for text in body.exposed_ports.iter().flatten() {
        let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, kind) = port(&format!("{first}/{protocol}"))?;
        let (last, _) = port(&format!("{last}/{protocol}"))?;
        all.extend((first..=last).map(|number| (number, kind)));
    }
    Ok(all.into_iter().map(|(number, protocol)| format!("{number}/{protocol}")).collect())
}

/// A port of the host, or the first and the last of several.
fn host_ports(text: &str) -> Result<(u16, Option<u16>), CreationError> {
    let refuse = || invalid("HostPort", text, "expected a number from 0 to 65535, or a range such as 8000-8010");
    let number = |text: &str| text.parse::<u16>().map_err(|_| refuse());
    match text.split_once('-') {
        None if text.is_empty() => Ok((0, None)),
        None => Ok((number(text)?, None)),
        Some((first, last)) => {
            let (first, last) = (number(first)?, number(last)?);
            if first == 0 || last < first {
                return Err(refuse());
            }
            Ok((first, Some(last).filter(|last| *last > first)))
        }
    }
}

fn ports(host: &HostConfig, world: &World, exposed: &[String]) -> Result<Vec<PortBinding>, CreationError> {
    let mut all = Vec::new();
    let mut bound = BTreeSet::new();
    for (text, bindings) in host.port_bindings.iter().flatten() {
        let (container_port, protocol) = port(text)?;
        for binding in bindings.iter().flatten() {
            let address = binding.host_ip.as_deref().unwrap_or_default();
            let plain = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
            let host_ip = match plain {
                "" => None,
                plain => {
                    Some(plain.parse().map_err(|_| invalid("HostIp", address, "expected an IP address of the host"))?)
                }
            };
            let (host_port, host_port_last) = host_ports(binding.host_port.as_deref().unwrap_or_default())?;
            all.push(PortBinding { host_ip, host_port, host_port_last, container_port, protocol, shared: false });
            bound.insert((container_port, protocol));
        }
    }
    if host.publish_all_ports.unwrap_or(false) {
        for text in world.image_ports.iter().chain(exposed) {
            let (container_port, protocol) = port(text)?;
            if bound.insert((container_port, protocol)) {
                all.push(PortBinding { container_port, protocol, ..PortBinding::default() });
            }
        }
    }
    all.sort();
    all.dedup();
    Ok(all)
}
