//! Networks that are made by hand, with settings of their own.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use super::addressing;
use super::choosing::check_network_name;
use super::driver;
use super::errors::NetworkError;
use super::kernel;
use super::networks::{Networks, now};
use super::request::{GatewayMode, Ipv6Part, LONGEST_LINK_NAME, NetworkRecord, NetworkSettings};
use crate::crash_point::crash_point;
use crate::events::NetworkEvent;

/// So many bridges an engine can have: their numbers are told from the addresses in link names by their length.
const MOST_NETWORKS: u16 = 9999;

impl Networks {
    /// Makes a network with these settings.
    ///
    /// # Errors
    /// When there is one of this name, the settings make no sense or meet what the host has, or what did not work; nothing is
    /// left of the attempt then.
    pub async fn make_network(&self, name: &str, settings: &NetworkSettings) -> Result<NetworkRecord, NetworkError> {
        check(settings).map_err(|problem| NetworkError::Settings { problem })?;
        let network = {
            let _shaping = self.shaping.lock().await;
            if self.is_name_taken(name) {
                return Err(NetworkError::Exists { name: name.to_owned() });
            }
            let network = self.decide_network(name, hex::encode(rand::random::<[u8; 32]>()), settings).await?;
            self.publish();
            network
        };
        if let Err(error) = self.make_host_link(&network).await {
            if let Err(left) = self.remove_network(name).await {
                tracing::warn!(%left, name, "an attempt to make a network left something behind");
            }
            return Err(error);
        }
        Ok(network)
    }

    /// Chooses what was not asked for and writes it down. The caller holds `shaping`.
    pub(super) async fn decide_network(
        &self,
        name: &str,
        id: String,
        settings: &NetworkSettings,
    ) -> Result<NetworkRecord, NetworkError> {
        check_network_name(name)?;
        let (bridges, mut taken): (Vec<String>, Vec<IpNet>) = {
            let state = self.lock();
            let subnets = state.networks.values().flat_map(NetworkRecord::subnets).collect();
            (state.bridges().map(|network| network.link.clone()).collect(), subnets)
        };
        let routes = kernel::host_routes(&bridges)
            .await
            .map_err(|source| NetworkError::Kernel { name: name.to_owned(), source })?;
        let found_bridge = match &settings.bridge {
            Some(bridge) if bridges.contains(bridge) => {
                return Err(NetworkError::BridgeTaken { name: name.to_owned(), bridge: bridge.clone() });
            }
            Some(bridge) => {
                let index = kernel::link_index(bridge).await;
                index.map_err(|source| NetworkError::Kernel { name: name.to_owned(), source })?.is_some()
            }
            None => false,
        };
        // The routes of a bridge that is there are those of the network to be; and what is beyond a parent is what a network
        // of it is part of.
        let of_networks = taken.len();
        if !found_bridge {
            taken.extend(routes);
        }
        let met = if settings.driver.is_bridge() { taken.len() } else { of_networks };
        let asked = [settings.subnet.map(IpNet::V4), settings.subnet6.map(IpNet::V6)].into_iter().flatten();
        for subnet in asked.chain(settings.further.iter().map(|further| further.subnet)) {
            if let Some(&other) = taken.iter().take(met).find(|other| addressing::meet(**other, subnet)) {
                return Err(NetworkError::Overlap { name: name.to_owned(), subnet, other });
            }
        }
        let ipv4 = |net: &IpNet| if let IpNet::V4(net) = net { Some(*net) } else { None };
        let no_subnet = || NetworkError::NoSubnet {
            name: name.to_owned(),
            subnet_length: self.config.subnet_length,
            pools: self.config.pools.iter().map(Ipv4Net::to_string).collect::<Vec<_>>().join(", "),
        };
        let subnet = if settings.without_ipv4 {
            None
        } else {
            let free = || {
                let taken: Vec<Ipv4Net> = taken.iter().filter_map(ipv4).collect();
                addressing::choose_subnet(&self.config.pools, self.config.subnet_length, &taken)
            };
            Some(settings.subnet.or_else(free).ok_or_else(no_subnet)?)
        };
        let free = || {
            (0..=MOST_NETWORKS)
                .map(|number| format!("{}{number}", self.config.prefix))
                .find(|candidate| !bridges.contains(candidate))
        };
        let (link, made_parent) = if settings.driver.is_bridge() {
            (settings.bridge.clone().or_else(free).ok_or_else(no_subnet)?, false)
        } else {
            self.choose_parent(name, &id, settings).await?
        };
        let ipv6 = if settings.ipv6 {
            let subnet = settings.subnet6.or_else(|| addressing::choose_subnet6(rand::random(), &taken));
            let subnet = subnet.ok_or_else(|| NetworkError::NoSubnet6 { name: name.to_owned() })?;
            let gateway = settings.gateway6.unwrap_or_else(|| addressing::gateway6(subnet));
            Some(Ipv6Part { net: subnet, gateway })
        } else {
            None
        };
        let network = NetworkRecord {
            id,
            created_at: now(),
            settings: settings.clone(),
            found_bridge,
            name: name.to_owned(),
            link,
            made_parent,
            subnet,
            gateway: subnet.map(|subnet| settings.gateway.unwrap_or_else(|| addressing::gateway(subnet))),
            ipv6,
        };
        self.records.put_network(&network).map_err(|source| NetworkError::Record { name: name.to_owned(), source })?;
        crash_point!("network.recorded");
        self.lock().networks.insert(name.to_owned(), network.clone());
        self.tell(&network, NetworkEvent::Created);
        Ok(network)
    }
}

/// The first thing that makes no sense, in the words of Docker where it has some.
pub(super) fn check(settings: &NetworkSettings) -> Result<(), String> {
    driver::check(&settings.driver)?;
    if let Some(bridge) = &settings.bridge {
        let plain = |character: char| character.is_ascii_graphic() && !matches!(character, '/' | ':');
        if bridge.is_empty()
            || bridge.len() > LONGEST_LINK_NAME
            || !bridge.chars().all(plain)
            || bridge.starts_with('.')
        {
            return Err(format!(
                "the bridge name `{bridge}` is not possible: expected 1 to {LONGEST_LINK_NAME} characters without `/`, `:` and spaces"
            ));
        }
    }
    if let Some(mtu) = settings.mtu
        && !(68..=65535).contains(&mtu)
    {
        return Err(format!("an MTU of {mtu} bytes is not possible: expected 68 to 65535"));
    }
    for (mode, family) in [(settings.gateway_mode4, "ipv4"), (settings.gateway_mode6, "ipv6")] {
        if mode == GatewayMode::Isolated && !settings.internal {
            return Err(format!("the gateway mode `isolated` of {family} is for internal networks: add `--internal`"));
        }
    }
    let (has_ipv4, has_ipv6) = (!settings.without_ipv4, settings.ipv6);
    if !has_ipv6 && (settings.subnet6.is_some() || settings.gateway_mode6 != GatewayMode::Nat) {
        return Err("an IPv6 subnet or gateway mode needs a network with IPv6: add `--ipv6`".to_owned());
    }
    if !has_ipv4 && (settings.subnet.is_some() || settings.gateway_mode4 != GatewayMode::Nat) {
        return Err("an IPv4 subnet or gateway mode needs a network with IPv4: leave `--ipv4=false` out".to_owned());
    }
    // Frames need no addresses; a bridge of the host and the third layer do.
    if !has_ipv4 && !has_ipv6 && (settings.driver.is_bridge() || settings.driver.routes_by_interface()) {
        return Err("IPv4 or IPv6 must be enabled".to_owned());
    }
    check_further(settings)?;
    let auxiliary = |is_ipv6| settings.auxiliary.values().copied().filter(move |address| address.is_ipv6() == is_ipv6);
    let ipv4 = Pool {
        subnet: settings.subnet.map(IpNet::V4),
        range: settings.range.map(IpNet::V4),
        gateway: settings.gateway.map(IpAddr::V4),
        auxiliary: auxiliary(false).collect(),
        longest: LONGEST,
    };
    let ipv6 = Pool {
        subnet: settings.subnet6.map(IpNet::V6),
        range: settings.range6.map(IpNet::V6),
        gateway: settings.gateway6.map(IpAddr::V6),
        auxiliary: auxiliary(true).collect(),
        longest: LONGEST6,
    };
    check_pool(&ipv4, settings)?;
    check_pool(&ipv6, settings)
}

/// The subnets after the first of their family.
fn check_further(settings: &NetworkSettings) -> Result<(), String> {
    if settings.driver.is_bridge() && !settings.further.is_empty() {
        return Err("bridge driver doesn't support multiple subnets".to_owned());
    }
    let firsts = [settings.subnet.map(IpNet::V4), settings.subnet6.map(IpNet::V6)];
    let mut seen: Vec<IpNet> = firsts.into_iter().flatten().collect();
    for further in &settings.further {
        let subnet = further.subnet;
        if !seen.iter().any(|other| other.addr().is_ipv6() == subnet.addr().is_ipv6()) {
            return Err(format!("the subnet {subnet} is a further one of a family that has no first one"));
        }
        if let Some(other) = seen.iter().find(|other| addressing::meet(**other, subnet)) {
            return Err(format!("the subnets {other} and {subnet} of one network overlap"));
        }
        seen.push(subnet);
        check_pool(
            &Pool {
                subnet: Some(subnet),
                range: further.range,
                gateway: further.gateway,
                // They are looked at with the first subnet.
                auxiliary: Vec::new(),
                longest: if subnet.addr().is_ipv6() { LONGEST6 } else { LONGEST },
            },
            settings,
        )?;
    }
    Ok(())
}

/// The longest prefix of a subnet that leaves room for a gateway and a container.
const LONGEST: u8 = 30;
/// The same of IPv6.
const LONGEST6: u8 = 126;

/// What is said of one family.
struct Pool {
    subnet: Option<IpNet>,
    range: Option<IpNet>,
    gateway: Option<IpAddr>,
    auxiliary: Vec<IpAddr>,
    /// The longest prefix that leaves room for a gateway and a container.
    longest: u8,
}

fn check_pool(pool: &Pool, settings: &NetworkSettings) -> Result<(), String> {
    let Some(subnet) = pool.subnet else {
        if pool.range.is_some() || pool.gateway.is_some() || !pool.auxiliary.is_empty() {
            return Err("an ip-range, a gateway or an auxiliary address needs a subnet that it is part of".to_owned());
        }
        return Ok(());
    };
    if subnet != subnet.trunc() {
        return Err(format!("invalid subnet {subnet}: it should be {}", subnet.trunc()));
    }
    if !(1..=pool.longest).contains(&subnet.prefix_len()) {
        let longest = pool.longest;
        return Err(format!(
            "invalid subnet {subnet}: it has no room for a gateway and a container; use /1 to /{longest}"
        ));
    }
    if let Some(range) = pool.range {
        check_range(subnet, range)?;
    }
    let inside = |what: &str, address| {
        if addressing::can_have(subnet, address) {
            Ok(())
        } else {
            Err(format!("invalid {what} {address}: parent subnet {subnet} doesn't contain this address"))
        }
    };
    if let Some(gateway) = pool.gateway {
        inside("gateway", gateway)?;
    }
    let in_further =
        |address: &IpAddr| settings.further.iter().any(|further| addressing::can_have(further.subnet, *address));
    for address in pool.auxiliary.iter().filter(|address| !in_further(address)) {
        inside("auxiliary address", *address)?;
    }
    Ok(())
}

fn check_range(subnet: IpNet, range: IpNet) -> Result<(), String> {
    if range != range.trunc() {
        return Err(format!("invalid ip-range {range}: it should be {}", range.trunc()));
    }
    if range.prefix_len() < subnet.prefix_len() {
        return Err(format!("invalid ip-range {range}: CIDR block is bigger than its parent subnet {subnet}"));
    }
    if !subnet.contains(&range) {
        return Err(format!("invalid ip-range {range}: parent subnet {subnet} doesn't contain ip-range"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::driver::{Driver, MacvlanMode};
    use crate::network::request::FurtherSubnet;

    #[test]
    fn settings_that_make_no_sense() {
        let settings = |subnet: &str, range: &str, gateway: &str| NetworkSettings {
            subnet: subnet.parse().ok(),
            range: range.parse().ok(),
            gateway: gateway.parse().ok(),
            ..NetworkSettings::default()
        };
        let with_ipv6 = |subnet: &str, gateway: &str| NetworkSettings {
            ipv6: true,
            subnet6: subnet.parse().ok(),
            gateway6: gateway.parse().ok(),
            ..NetworkSettings::default()
        };
        let macvlan = || Driver::Macvlan { parent: None, mode: MacvlanMode::Bridge };
        let with_further = |first: &str, further: &[&str], driver| NetworkSettings {
            driver,
            further: further
                .iter()
                .map(|text| FurtherSubnet { subnet: text.parse().unwrap(), range: None, gateway: None })
                .collect(),
            ..settings(first, "", "")
        };
        check(&settings("", "", "")).unwrap();
        check(&NetworkSettings { without_ipv4: true, ..with_ipv6("", "") }).unwrap();
        check(&NetworkSettings { without_ipv4: true, driver: macvlan(), ..NetworkSettings::default() }).unwrap();
        check(&with_further("10.9.0.0/24", &["10.9.1.0/24", "10.9.2.0/24"], macvlan())).unwrap();
        check(&with_ipv6("", "")).unwrap();
        check(&with_ipv6("fd00::/64", "fd00::ffff")).unwrap();
        check(&settings("10.9.0.0/16", "10.9.4.0/24", "10.9.255.254")).unwrap();
        for (wrong, text) in [
            (settings("", "10.9.0.0/24", ""), "needs a subnet"),
            (settings("10.9.0.1/24", "", ""), "invalid subnet 10.9.0.1/24: it should be 10.9.0.0/24"),
            (settings("10.9.0.0/31", "", ""), "no room"),
            (settings("10.9.0.0/24", "10.8.0.0/25", ""), "doesn't contain ip-range"),
            (settings("10.9.0.0/24", "10.9.0.0/23", ""), "bigger than its parent"),
            (settings("10.9.0.0/24", "10.9.0.3/25", ""), "it should be 10.9.0.0/25"),
            (settings("10.9.0.0/24", "", "10.9.0.255"), "invalid gateway 10.9.0.255"),
            (with_ipv6("fd00::1/64", ""), "it should be fd00::/64"),
            (with_ipv6("fd00::/127", ""), "no room"),
            (with_ipv6("fd00::/64", "fd00::"), "invalid gateway fd00::"),
            (with_ipv6("", "fd00::1"), "needs a subnet"),
            (NetworkSettings { ipv6: false, ..with_ipv6("fd00::/64", "") }, "add `--ipv6`"),
            (NetworkSettings { without_ipv4: true, ..settings("10.9.0.0/24", "", "") }, "leave `--ipv4=false` out"),
            (NetworkSettings { without_ipv4: true, ..settings("", "", "") }, "IPv4 or IPv6 must be enabled"),
            (with_further("", &["10.9.1.0/24"], Driver::Bridge), "doesn't support multiple subnets"),
            (with_further("", &["10.9.1.0/24"], macvlan()), "has no first one"),
            (
                with_further("10.9.0.0/16", &["10.9.1.0/24"], macvlan()),
                "10.9.0.0/16 and 10.9.1.0/24 of one network overlap",
            ),
            (with_further("10.9.0.0/24", &["10.9.1.1/24"], macvlan()), "it should be 10.9.1.0/24"),
            (NetworkSettings { gateway_mode4: GatewayMode::Isolated, ..settings("", "", "") }, "add `--internal`"),
            (NetworkSettings { bridge: Some("a/b".to_owned()), ..settings("", "", "") }, "bridge name `a/b`"),
            (NetworkSettings { mtu: Some(1), ..settings("", "", "") }, "MTU of 1 bytes"),
        ] {
            let refusal = check(&wrong).unwrap_err();
            assert!(refusal.contains(text), "{refusal}");
        }
    }
}
