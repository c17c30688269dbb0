//! Pure. The body of `POST /networks/create` as the engine's settings: every field is applied, or refused with its name.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bollard_stubs::models::{IpamConfig, NetworkCreateRequest};
use ipnet::IpNet;
use stack_engine::network::{
    Driver, FurtherSubnet, GatewayMode, IpvlanMode, IpvlanReach, MacvlanMode, NetworkSettings, USUAL_NETWORK,
};

use super::create::{CreationError, invalid, without};
use crate::cluster::NewClusterNetwork;
use crate::error::ApiError;

/// Networks that are there whatever happens.
pub const PREDEFINED: [&str; 4] = [USUAL_NETWORK, "host", "none", "default"];

/// The option of every driver for the largest packet of its links.
const MTU: &str = "com.docker.network.driver.mtu";

/// A network that is to be made.
#[derive(Debug)]
pub enum NewNetwork {
    /// Of this host: its name and settings.
    OfHost(String, NetworkSettings),
    /// Settings of that name, for networks of this host that are made from them.
    Template(String, NetworkSettings),
    /// Between hosts.
    Between(NewClusterNetwork),
}

/// What a network shall be. `templates` has the settings of that name that are kept.
pub fn decode(
    request: NetworkCreateRequest,
    templates: impl Fn(&str) -> Option<NetworkSettings>,
) -> Result<NewNetwork, ApiError> {
    let driver = request.driver.as_deref().unwrap_or_default();
    let scope = request.scope.as_deref().unwrap_or_default();
    if driver == "overlay" {
        return between(request).map(NewNetwork::Between);
    }
    if !["", "local"].contains(&scope) {
        return Err(
            CreationError::NotSupported { field: format!("a {scope} network of another driver than overlay") }.into()
        );
    }
    let is_template = request.config_only.unwrap_or(false);
    let from = request.config_from.clone().and_then(|from| from.network).filter(|name| !name.is_empty());
    match from {
        None if is_template => template(request).map(|(name, settings)| NewNetwork::Template(name, settings)),
        None => settings(request).map(|(name, settings)| NewNetwork::OfHost(name, settings)),
        Some(_) if is_template => {
            Err(CreationError::Rule("a configuration network cannot depend on another configuration network").into())
        }
        Some(from) => {
            let Some(found) = templates(&from) else { return Err(ApiError::NoTemplate { name: from }) };
            made_from(request, from, found).map(|(name, settings)| NewNetwork::OfHost(name, settings))
        }
    }
}

/// Settings that are kept. Which driver reads the options is said by the networks that are made from them.
fn template(request: NetworkCreateRequest) -> Result<(String, NetworkSettings), ApiError> {
    check_name(&request.name)?;
    let of_operators = [request.ingress, request.internal, request.attachable];
    if of_operators.contains(&Some(true)) || request.scope.as_ref().is_some_and(|scope| !scope.is_empty()) {
        return Err(CreationError::Rule(
            "configuration network can only contain network specific fields. Network operator fields like [ ingress | internal | attachable | scope ] are not supported.",
        )
        .into());
    }
    let name = request.name.clone();
    common(request).map(|settings| (name, settings))
}

/// A network of settings that are kept; all but its driver, and what is of no driver, is theirs.
fn made_from(
    request: NetworkCreateRequest,
    from: String,
    kept: NetworkSettings,
) -> Result<(String, NetworkSettings), ApiError> {
    let addresses = request.ipam.clone().unwrap_or_default();
    let says_more = addresses.config.is_some_and(|pools| !pools.is_empty())
        || addresses.options.is_some_and(|options| !options.is_empty())
        || request.options.as_ref().is_some_and(|options| !options.is_empty())
        || request.labels.as_ref().is_some_and(|labels| !labels.is_empty())
        || request.enable_ipv6 == Some(true)
        || request.enable_ipv4 == Some(false);
    if says_more {
        return Err(CreationError::Rule(
            "user specified configurations are not supported if the network depends on a configuration network",
        )
        .into());
    }
    let driver = request.driver.clone().unwrap_or_default();
    let (name, own) = settings(request)?;
    let mut settings = NetworkSettings {
        internal: own.internal,
        attachable: own.attachable,
        made_from: kept.made_from.clone().or(Some(from)),
        ..kept
    };
    apply_driver(&driver, &mut settings)?;
    Ok((name, settings))
}

/// A network between hosts. What such networks cannot be is refused with its name.
fn between(request: NetworkCreateRequest) -> Result<NewClusterNetwork, ApiError> {
    check_name(&request.name)?;
    if request.scope.as_deref().is_some_and(|scope| !["", "swarm"].contains(&scope)) {
        return Err(
            invalid("scope", request.scope.unwrap_or_default(), "an overlay network has the scope `swarm`").into()
        );
    }
    without(request.ingress.unwrap_or(false), "Ingress")?;
    without(request.config_only.unwrap_or(false), "ConfigOnly")?;
    without(request.enable_ipv4 == Some(false), "a network without IPv4")?;
    let mut network = NewClusterNetwork {
        name: request.name,
        ipv6: request.enable_ipv6.unwrap_or(false),
        internal: request.internal.unwrap_or(false),
        attachable: request.attachable.unwrap_or(false),
        labels: request.labels.unwrap_or_default().into_iter().collect(),
        ..NewClusterNetwork::default()
    };
    for (key, value) in request.options.unwrap_or_default() {
        match key.as_str() {
            MTU => network.mtu = mtu(&value)?,
            // Docker's clients send it without a value.
            "encrypted" => network.encrypted = Some(value.is_empty() || flag(&value)?),
            other => without(true, &format!("the option {other} of an overlay network"))?,
        }
    }
    let addresses = request.ipam.unwrap_or_default();
    without(addresses.driver.is_some_and(|driver| !["", "default"].contains(&driver.as_str())), "an IPAM driver")?;
    for pool in addresses.config.unwrap_or_default() {
        let given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        without(given(&pool.ip_range), "an ip-range of an overlay network")?;
        // Every host has an address of its own there, which is its containers' gateway.
        without(given(&pool.gateway), "a gateway of an overlay network")?;
        let auxiliary = pool.auxiliary_addresses.is_some_and(|all| !all.is_empty());
        without(auxiliary, "an auxiliary address of an overlay network")?;
        network.subnets.extend(net("subnet", pool.subnet.as_deref())?);
    }
    for (is_ipv6, family) in [(false, "IPv4"), (true, "IPv6")] {
        let count = network.subnets.iter().filter(|net| matches!(net, IpNet::V6(_)) == is_ipv6).count();
        without(count > 1, &format!("more than one {family} subnet of an overlay network"))?;
    }
    Ok(network)
}

fn check_name(name: &str) -> Result<(), ApiError> {
    if PREDEFINED.contains(&name) {
        return Err(ApiError::PredefinedNetwork { name: name.to_owned() });
    }
    let plain = |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.');
    if name.is_empty() || name.len() > 128 || !name.chars().all(plain) || name.starts_with(['-', '_', '.']) {
        return Err(invalid(
            "network name",
            name,
            "expected 1 to 128 letters, digits, `_`, `.` and `-`, a letter or digit first",
        )
        .into());
    }
    Ok(())
}

/// What a network of this host shall be, and its name.
fn settings(request: NetworkCreateRequest) -> Result<(String, NetworkSettings), ApiError> {
    check_name(&request.name)?;
    let name = request.name.clone();
    match request.driver.as_deref().unwrap_or_default() {
        "" | "bridge" | "macvlan" | "ipvlan" => {}
        "host" | "null" | "none" => {
            return Err(ApiError::PredefinedNetwork { name: request.driver.unwrap_or_default() });
        }
        other => return Err(ApiError::NoSuchPlugin { name: other.chars().take(80).collect() }),
    }
    without(request.ingress.unwrap_or(false), "Ingress")?;
    let driver = request.driver.clone().unwrap_or_default();
    let mut settings = common(request)?;
    apply_driver(&driver, &mut settings)?;
    Ok((name, settings))
}

/// The driver, and what its options say.
fn apply_driver(driver: &str, settings: &mut NetworkSettings) -> Result<(), CreationError> {
    match driver {
        "macvlan" => apply_macvlan_options(settings),
        "ipvlan" => apply_ipvlan_options(settings),
        _ => apply_options(settings),
    }
}

/// What is said of a network, but for its name and what the options mean to its driver.
fn common(request: NetworkCreateRequest) -> Result<NetworkSettings, ApiError> {
    let options: BTreeMap<String, String> = request.options.unwrap_or_default().into_iter().collect();
    // Each family may be said by an option, too.
    let family = |said: Option<bool>, option: &str, usual: bool| match (said, options.get(option)) {
        (Some(said), _) => Ok(said),
        (None, Some(value)) => flag(value),
        (None, None) => Ok(usual),
    };
    let mut settings = NetworkSettings {
        internal: request.internal.unwrap_or(false),
        attachable: request.attachable.unwrap_or(false),
        without_ipv4: !family(request.enable_ipv4, "com.docker.network.enable_ipv4", true)?,
        ipv6: family(request.enable_ipv6, "com.docker.network.enable_ipv6", false)?,
        labels: request.labels.unwrap_or_default().into_iter().collect(),
        options,
        ..NetworkSettings::default()
    };
    let addresses = request.ipam.unwrap_or_default();
    if addresses.driver.as_deref().is_some_and(|driver| !["", "default"].contains(&driver)) {
        return Err(not_yet("an IPAM driver other than `default`".to_owned()));
    }
    without(addresses.options.is_some_and(|options| !options.is_empty()), "IPAM.Options")?;
    for pool in addresses.config.unwrap_or_default() {
        apply_pool(&mut settings, pool)?;
    }
    Ok(settings)
}

/// One subnet of a network. Those after the first of a family are for drivers that give out addresses of several.
fn apply_pool(settings: &mut NetworkSettings, pool: IpamConfig) -> Result<(), ApiError> {
    let subnet = net("subnet", pool.subnet.as_deref())?;
    let range = net("ip-range", pool.ip_range.as_deref())?;
    let gateway = address("gateway", pool.gateway.as_deref())?;
    let is_ipv6 = match (subnet, gateway) {
        (Some(net), _) => net.addr().is_ipv6(),
        (None, Some(gateway)) => gateway.is_ipv6(),
        (None, None) => false,
    };
    let families = [subnet.map(|net| net.addr()), range.map(|net| net.addr()), gateway];
    if families.into_iter().flatten().any(|address| address.is_ipv6() != is_ipv6) {
        return Err(invalid(
            "ip-range or gateway",
            subnet.map(|net| net.to_string()).unwrap_or_default(),
            "expected one of the family of its subnet",
        )
        .into());
    }
    let has_first = if is_ipv6 { settings.subnet6.is_some() } else { settings.subnet.is_some() };
    match (subnet, range, gateway) {
        (Some(subnet), range, gateway) if has_first => {
            settings.further.push(FurtherSubnet { subnet, range, gateway });
        }
        (subnet, range, gateway) => {
            // Of one family each, as was looked at; a pool without any says nothing but addresses to leave out.
            if let Some(IpNet::V4(net)) = subnet {
                settings.subnet = Some(net);
            }
            if let Some(IpNet::V6(net)) = subnet {
                settings.subnet6 = Some(net);
            }
            match range {
                Some(IpNet::V4(net)) => settings.range = Some(net),
                Some(IpNet::V6(net)) => settings.range6 = Some(net),
                None => {}
            }
            match gateway {
                Some(IpAddr::V4(at)) => settings.gateway = Some(at),
                Some(IpAddr::V6(at)) => settings.gateway6 = Some(at),
                None => {}
            }
        }
    }
    for (name, text) in pool.auxiliary_addresses.unwrap_or_default() {
        if let Some(found) = address("auxiliary address", Some(&text))? {
            settings.auxiliary.insert(name, found);
        }
    }
    Ok(())
}

fn not_yet(field: String) -> ApiError {
    CreationError::NotSupported { field }.into()
}

fn net(what: &'static str, text: Option<&str>) -> Result<Option<IpNet>, CreationError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| invalid(what, text, "invalid CIDR block notation"))
}

fn address(what: &'static str, text: Option<&str>) -> Result<Option<IpAddr>, CreationError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    // Docker takes a gateway with the length of its subnet, too.
    let plain = text.split_once('/').map_or(text, |(address, _)| address);
    plain.parse().map(Some).map_err(|_| invalid(what, text, "invalid address"))
}

/// How a family leads in and out.
fn mode(value: &str) -> Result<GatewayMode, CreationError> {
    match value {
        "" | "nat" => Ok(GatewayMode::Nat),
        "nat-unprotected" => Ok(GatewayMode::NatUnprotected),
        "routed" => Ok(GatewayMode::Routed),
        "isolated" => Ok(GatewayMode::Isolated),
        other => Err(invalid("gateway mode", other, "expected nat, nat-unprotected, routed or isolated")),
    }
}

/// The driver's options that mean something to it; the others are passed over, as Docker does.
fn apply_options(settings: &mut NetworkSettings) -> Result<(), CreationError> {
    if !settings.further.is_empty() {
        return Err(CreationError::Rule("bridge driver doesn't support multiple subnets"));
    }
    for (key, value) in settings.options.clone() {
        match key.as_str() {
            "com.docker.network.bridge.name" => settings.bridge = Some(value).filter(|name| !name.is_empty()),
            "com.docker.network.bridge.enable_icc" => settings.isolated = !flag(&value)?,
            "com.docker.network.bridge.enable_ip_masquerade" => settings.keeps_source = !flag(&value)?,
            "com.docker.network.bridge.host_binding_ipv4" => {
                settings.published_at = match address("host binding address", Some(&value))? {
                    Some(IpAddr::V6(_)) => {
                        return Err(invalid("host binding address", value, "expected an IPv4 address"));
                    }
                    Some(IpAddr::V4(found)) => Some(found).filter(|address| !address.is_unspecified()),
                    None => None,
                };
            }
            MTU => settings.mtu = mtu(&value)?,
            // Without the family there is nothing that it could say something of.
            "com.docker.network.bridge.gateway_mode_ipv4" if !settings.without_ipv4 => {
                settings.gateway_mode4 = mode(&value)?;
            }
            "com.docker.network.bridge.gateway_mode_ipv6" if settings.ipv6 => settings.gateway_mode6 = mode(&value)?,
            _ => {}
        }
    }
    Ok(())
}

/// The options of macvlan; the others are passed over, as Docker does.
fn apply_macvlan_options(settings: &mut NetworkSettings) -> Result<(), CreationError> {
    let option = |key: &str| settings.options.get(key).map(String::as_str).unwrap_or_default();
    let mode = match option("macvlan_mode") {
        "" | "bridge" => MacvlanMode::Bridge,
        "private" => MacvlanMode::Private,
        "vepa" => MacvlanMode::Vepa,
        "passthru" => MacvlanMode::Passthru,
        other => return Err(invalid("macvlan_mode", other, "expected bridge, private, vepa or passthru")),
    };
    let mtu = mtu(option(MTU))?;
    settings.driver = Driver::Macvlan { parent: parent(option("parent")), mode };
    settings.mtu = mtu;
    Ok(())
}

/// The options of ipvlan; the others are passed over, as Docker does.
fn apply_ipvlan_options(settings: &mut NetworkSettings) -> Result<(), CreationError> {
    let option = |key: &str| settings.options.get(key).map(String::as_str).unwrap_or_default();
    let mode = match option("ipvlan_mode") {
        "" | "l2" => IpvlanMode::L2,
        "l3" => IpvlanMode::L3,
        "l3s" => IpvlanMode::L3s,
        other => return Err(invalid("ipvlan_mode", other, "expected l2, l3 or l3s")),
    };
    let reach = match option("ipvlan_flag") {
        "" | "bridge" => IpvlanReach::Bridge,
        "private" => IpvlanReach::Private,
        "vepa" => IpvlanReach::Vepa,
        other => return Err(invalid("ipvlan_flag", other, "expected bridge, private or vepa")),
    };
    let mtu = mtu(option(MTU))?;
    settings.driver = Driver::Ipvlan { parent: parent(option("parent")), mode, reach };
    settings.mtu = mtu;
    Ok(())
}

fn parent(value: &str) -> Option<String> {
    Some(value.to_owned()).filter(|parent| !parent.is_empty())
}

/// Zero is Docker's word for the usual one.
fn mtu(value: &str) -> Result<Option<u32>, CreationError> {
    if value.is_empty() {
        return Ok(None);
    }
    let bytes = value.parse().map_err(|_| invalid("driver MTU", value, "expected a number of bytes"))?;
    Ok(Some(bytes).filter(|&bytes| bytes > 0))
}

fn flag(value: &str) -> Result<bool, CreationError> {
    match value {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Ok(true),
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Ok(false),
        other => Err(invalid("bridge option", other, "expected true or false")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bridge(document: serde_json::Value) -> Result<(String, NetworkSettings), ApiError> {
        match super::decode(serde_json::from_value(document).unwrap(), |_| None)? {
            NewNetwork::OfHost(name, settings) => Ok((name, settings)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_network_between_hosts() {
        let between = |document: serde_json::Value| match decode(serde_json::from_value(document).unwrap(), |_| None) {
            Ok(NewNetwork::Between(network)) => Ok(network),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err((error.status().as_u16(), error.to_string())),
        };
        let made = between(serde_json::json!({
            "Name": "shared", "Driver": "overlay", "Scope": "swarm", "Attachable": true, "EnableIPv6": true,
            "Options": {"com.docker.network.driver.mtu": "1300", "encrypted": ""}, "Labels": {"a": "b"},
            "IPAM": {"Config": [{"Subnet": "10.1.0.0/24"}, {"Subnet": "fd00::/64"}]}
        }))
        .unwrap();
        assert_eq!((made.name.as_str(), made.attachable, made.ipv6, made.mtu), ("shared", true, true, Some(1300)));
        assert_eq!(made.encrypted, Some(true));
        assert_eq!((made.subnets.len(), made.labels["a"].as_str()), (2, "b"));
        for (wrong, status, text) in [
            (serde_json::json!({"Name": "host", "Driver": "overlay"}), 403, "predefined host network"),
            (serde_json::json!({"Name": "a", "Driver": "overlay", "Scope": "local"}), 400, "scope `swarm`"),
            (serde_json::json!({"Name": "a", "Driver": "overlay", "Options": {"x": ""}}), 501, "the option x of"),
            (
                serde_json::json!({"Name": "a", "Driver": "overlay", "IPAM": {"Config": [{"Gateway": "10.1.0.1"}]}}),
                501,
                "a gateway of an overlay network",
            ),
        ] {
            let refusal = between(wrong).unwrap_err();
            assert!(refusal.0 == status && refusal.1.contains(text), "{refusal:?}");
        }
    }

    #[test]
    fn a_network_of_settings_that_are_kept() {
        let made = |document: serde_json::Value, kept: Option<NetworkSettings>| {
            let made =
                decode(serde_json::from_value(document).unwrap(), |name| kept.clone().filter(|_| name == "kept"));
            made.map_err(|error| (error.status().as_u16(), error.to_string()))
        };
        let kept = serde_json::json!({
            "Name": "kept", "ConfigOnly": true, "Options": {"parent": "eth0.10"}, "Labels": {"a": "b"},
            "IPAM": {"Config": [{"Subnet": "10.1.0.0/24", "IPRange": "10.1.0.64/26"}]}
        });
        let Ok(NewNetwork::Template(name, kept)) = made(kept, None) else { panic!("no template") };
        assert_eq!((name.as_str(), &kept.driver), ("kept", &Driver::Bridge));
        let from = serde_json::json!({
            "Name": "lan", "Driver": "macvlan", "ConfigFrom": {"Network": "kept"}, "Attachable": true
        });
        let Ok(NewNetwork::OfHost(name, settings)) = made(from.clone(), Some(kept.clone())) else {
            panic!("no network")
        };
        let driver = Driver::Macvlan { parent: Some("eth0.10".to_owned()), mode: MacvlanMode::Bridge };
        assert_eq!((name.as_str(), &settings.driver, settings.made_from.as_deref()), ("lan", &driver, Some("kept")));
        assert_eq!((settings.range, settings.attachable), (kept.range, true));
        assert_eq!(settings.labels["a"], "b");
        assert_eq!(made(from, None).unwrap_err(), (404, "configuration network \"kept\" does not exist".to_owned()));
        for (wrong, text) in [
            (
                serde_json::json!({"Name": "a", "ConfigOnly": true, "Internal": true}),
                "only contain network specific fields",
            ),
            (
                serde_json::json!({"Name": "a", "ConfigOnly": true, "ConfigFrom": {"Network": "kept"}}),
                "cannot depend on another configuration network",
            ),
            (
                serde_json::json!({"Name": "a", "ConfigFrom": {"Network": "kept"}, "Options": {"parent": "eth0"}}),
                "user specified configurations are not supported",
            ),
        ] {
            let refusal = made(wrong, Some(kept.clone())).unwrap_err();
            assert!(refusal.0 == 400 && refusal.1.contains(text), "{refusal:?}");
        }
    }

    #[test]
    fn links_on_a_link_of_the_host() {
        let driver = |driver: &str, options: serde_json::Value| {
            let made = bridge(serde_json::json!({"Name": "a", "Driver": driver, "Options": options})).unwrap().1;
            (made.driver, made.mtu)
        };
        let parent = Some("eth0.10".to_owned());
        let full =
            serde_json::json!({"parent": "eth0.10", "macvlan_mode": "vepa", "com.docker.network.driver.mtu": "1400"});
        assert_eq!(
            driver("macvlan", full),
            (Driver::Macvlan { parent: parent.clone(), mode: MacvlanMode::Vepa }, Some(1400))
        );
        assert_eq!(
            driver("macvlan", serde_json::json!({})),
            (Driver::Macvlan { parent: None, mode: MacvlanMode::Bridge }, None)
        );
        assert_eq!(
            driver("ipvlan", serde_json::json!({"parent": "eth0.10", "ipvlan_mode": "l3s", "ipvlan_flag": "private"})),
            (Driver::Ipvlan { parent, mode: IpvlanMode::L3s, reach: IpvlanReach::Private }, None)
        );
    }

    #[test]
    fn a_network_has_the_families_that_it_is_told() {
        let families = |document: serde_json::Value| {
            let made = bridge(document).unwrap().1;
            (!made.without_ipv4, made.ipv6)
        };
        assert_eq!(families(serde_json::json!({"Name": "a"})), (true, false));
        assert_eq!(families(serde_json::json!({"Name": "a", "EnableIPv4": false, "EnableIPv6": true})), (false, true));
        let options =
            serde_json::json!({"com.docker.network.enable_ipv4": "false", "com.docker.network.enable_ipv6": "1"});
        assert_eq!(families(serde_json::json!({"Name": "a", "Options": options})), (false, true));
        assert_eq!(families(serde_json::json!({"Name": "a", "EnableIPv4": true, "Options": options})), (true, true));
    }

    #[test]
    fn a_network_on_a_link_of_the_host_has_several_subnets() {
        let config = serde_json::json!([
            {"Subnet": "10.1.0.0/24", "Gateway": "10.1.0.254"}, {"Subnet": "fd00:1::/64"},
            {"Subnet": "10.2.0.0/24", "IPRange": "10.2.0.128/25", "Gateway": "10.2.0.254"}, {"Subnet": "fd00:2::/64"}
        ]);
        let document =
            |driver| serde_json::json!({"Name": "a", "Driver": driver, "EnableIPv6": true, "IPAM": {"Config": config}});
        let made = bridge(document("macvlan")).unwrap().1;
        assert_eq!(
            (made.subnet.unwrap().to_string(), made.subnet6.unwrap().to_string()),
            ("10.1.0.0/24".into(), "fd00:1::/64".into())
        );
        let further = FurtherSubnet {
            subnet: "10.2.0.0/24".parse().unwrap(),
            range: "10.2.0.128/25".parse().ok(),
            gateway: "10.2.0.254".parse().ok(),
        };
        assert_eq!((made.further.len(), &made.further[0]), (2, &further));
        let refusal = bridge(document("bridge")).unwrap_err();
        assert_eq!(
            (refusal.status().as_u16(), refusal.to_string().as_str()),
            (400, "bridge driver doesn't support multiple subnets")
        );
    }

    #[test]
    fn every_field_is_applied_or_refused() {
        let (name, found) = bridge(serde_json::json!({
            "Name": "front", "Driver": "bridge", "Internal": true, "Attachable": true, "Labels": {"a": "b"},
            "Options": {
                "com.docker.network.bridge.name": "br7", "com.docker.network.bridge.enable_icc": "false",
                "com.docker.network.bridge.enable_ip_masquerade": "0", "com.docker.network.driver.mtu": "1400",
                "com.docker.network.bridge.host_binding_ipv4": "127.0.0.1", "other": "x"
            },
            "IPAM": {"Driver": "default", "Config": [{
                "Subnet": "10.1.0.0/16", "IPRange": "10.1.2.0/24", "Gateway": "10.1.0.9", "AuxiliaryAddresses": {"x": "10.1.2.3"}
            }]}
        }))
        .unwrap();
        assert_eq!(name, "front");
        assert_eq!((found.internal, found.attachable, found.isolated, found.keeps_source), (true, true, true, true));
        assert_eq!((found.bridge.as_deref(), found.mtu), (Some("br7"), Some(1400)));
        assert_eq!(found.published_at, Some([127, 0, 0, 1].into()));
        assert_eq!(found.range, Some("10.1.2.0/24".parse().unwrap()));
        assert_eq!((found.gateway, found.auxiliary["x"]), (Some([10, 1, 0, 9].into()), IpAddr::from([10, 1, 2, 3])));
        assert_eq!((found.labels["a"].as_str(), found.options["other"].as_str()), ("b", "x"));
        let (_, six) = bridge(serde_json::json!({
            "Name": "six", "EnableIPv6": true,
            "Options": {"com.docker.network.bridge.gateway_mode_ipv6": "routed"},
            "IPAM": {"Config": [
                {"Subnet": "fd00:1::/64", "IPRange": "fd00:1::/80", "Gateway": "fd00:1::9", "AuxiliaryAddresses": {"y": "fd00:1::8"}},
                {"Subnet": "10.1.0.0/16"}
            ]}
        }))
        .unwrap();
        assert_eq!((six.ipv6, six.gateway_mode6, six.gateway_mode4), (true, GatewayMode::Routed, GatewayMode::Nat));
        assert_eq!(
            (six.subnet6.unwrap().to_string(), six.subnet.unwrap().to_string()),
            ("fd00:1::/64".into(), "10.1.0.0/16".into())
        );
        assert_eq!(
            (six.gateway6.unwrap().to_string(), six.range6.unwrap().to_string()),
            ("fd00:1::9".into(), "fd00:1::/80".into())
        );
        assert_eq!(six.auxiliary["y"].to_string(), "fd00:1::8");
        for (wrong, status, text) in [
            (serde_json::json!({"Name": "bridge"}), 403, "operation is not permitted on predefined bridge network"),
            (serde_json::json!({"Name": ""}), 400, "network name"),
            (serde_json::json!({"Name": "a", "Driver": "weave"}), 404, "plugin \"weave\" not found"),
            (
                serde_json::json!({"Name": "a", "Driver": "macvlan", "Options": {"macvlan_mode": "x"}}),
                400,
                "invalid macvlan_mode `x`: expected bridge, private, vepa or passthru",
            ),
            (
                serde_json::json!({"Name": "a", "Driver": "ipvlan", "Options": {"ipvlan_mode": "l4"}}),
                400,
                "expected l2, l3 or l3s",
            ),
            (serde_json::json!({"Name": "a", "Driver": "ipvlan", "Options": {"ipvlan_flag": "x"}}), 400, "ipvlan_flag"),
            (
                serde_json::json!({"Name": "a", "IPAM": {"Config": [{"Subnet": "10.1.0.0/24", "IPRange": "fd00::/80"}]}}),
                400,
                "family of its subnet",
            ),
            (
                serde_json::json!({"Name": "a", "IPAM": {"Config": [{"Subnet": "10.1.0.0/24"}, {"Subnet": "10.2.0.0/24"}]}}),
                400,
                "bridge driver doesn't support multiple subnets",
            ),
            (
                serde_json::json!({"Name": "a", "IPAM": {"Config": [{"Subnet": "10.1.0.0/24", "Gateway": "fd00::1"}]}}),
                400,
                "family of its subnet",
            ),
            (
                serde_json::json!({"Name": "a", "Options": {"com.docker.network.bridge.gateway_mode_ipv4": "x"}}),
                400,
                "nat-unprotected, routed",
            ),
            (
                serde_json::json!({"Name": "a", "IPAM": {"Config": [{"Subnet": "x"}]}}),
                400,
                "invalid subnet `x`: invalid CIDR",
            ),
            (
                serde_json::json!({"Name": "a", "Options": {"com.docker.network.bridge.enable_icc": "maybe"}}),
                400,
                "maybe",
            ),
        ] {
            let refusal = bridge(wrong).unwrap_err();
            assert!(refusal.status() == status && refusal.to_string().contains(text), "{} {refusal}", refusal.status());
        }
    }
}
