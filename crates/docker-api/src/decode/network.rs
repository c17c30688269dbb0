//! Pure. The body of `POST /networks/create` as the engine's settings: every field is applied, or refused with its name.

use std::net::Ipv4Addr;

use bollard_stubs::models::NetworkCreateRequest;
use ipnet::Ipv4Net;
use stack_engine::network::{NetworkSettings, USUAL_NETWORK};

use super::create::{CreationError, invalid, without};
use crate::error::ApiError;

/// Networks that are there whatever happens.
pub const PREDEFINED: [&str; 4] = [USUAL_NETWORK, "host", "none", "default"];

/// What a network shall be, and its name.
pub fn settings(request: NetworkCreateRequest) -> Result<(String, NetworkSettings), ApiError> {
    let name = request.name;
    if PREDEFINED.contains(&name.as_str()) {
        return Err(ApiError::PredefinedNetwork { name });
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
    match request.driver.as_deref().unwrap_or_default() {
        "" | "bridge" => {}
        "host" | "null" | "none" => {
            return Err(ApiError::PredefinedNetwork { name: request.driver.unwrap_or_default() });
        }
        "overlay" => return Err(ApiError::NoManager),
        other @ ("macvlan" | "ipvlan") => return Err(not_yet(format!("the network driver {other}"))),
        other => return Err(ApiError::NoSuchPlugin { name: other.chars().take(80).collect() }),
    }
    without(request.ingress.unwrap_or(false), "Ingress")?;
    without(request.config_only.unwrap_or(false), "ConfigOnly")?;
    let from = request.config_from.and_then(|from| from.network).is_some_and(|network| !network.is_empty());
    without(from, "ConfigFrom")?;
    without(request.enable_ipv6.unwrap_or(false), "EnableIPv6")?;
    without(request.enable_ipv4 == Some(false), "a network without IPv4")?;
    if request.scope.as_deref().is_some_and(|scope| !["", "local"].contains(&scope)) {
        return Err(ApiError::NoManager);
    }
    let mut settings = NetworkSettings {
        internal: request.internal.unwrap_or(false),
        attachable: request.attachable.unwrap_or(false),
        labels: request.labels.unwrap_or_default().into_iter().collect(),
        options: request.options.unwrap_or_default().into_iter().collect(),
        ..NetworkSettings::default()
    };
    apply_options(&mut settings)?;
    let addresses = request.ipam.unwrap_or_default();
    if addresses.driver.as_deref().is_some_and(|driver| !["", "default"].contains(&driver)) {
        return Err(not_yet("an IPAM driver other than `default`".to_owned()));
    }
    without(addresses.options.is_some_and(|options| !options.is_empty()), "IPAM.Options")?;
    let pools = addresses.config.unwrap_or_default();
    if pools.len() > 1 {
        return Err(not_yet("more than one subnet in a bridge network".to_owned()));
    }
    for pool in pools {
        settings.subnet = subnet("subnet", pool.subnet.as_deref())?;
        settings.range = subnet("ip-range", pool.ip_range.as_deref())?;
        settings.gateway = address("gateway", pool.gateway.as_deref())?;
        for (name, text) in pool.auxiliary_addresses.unwrap_or_default() {
            if let Some(found) = address("auxiliary address", Some(&text))? {
                settings.auxiliary.insert(name, found);
            }
        }
    }
    Ok((name, settings))
}

fn not_yet(field: String) -> ApiError {
    CreationError::NotSupported { field }.into()
}

fn subnet(what: &'static str, text: Option<&str>) -> Result<Option<Ipv4Net>, CreationError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    if text.contains(':') {
        return Err(CreationError::NotSupported { field: format!("the IPv6 {what} {text}") });
    }
    text.parse().map(Some).map_err(|_| invalid(what, text, "invalid CIDR block notation"))
}

fn address(what: &'static str, text: Option<&str>) -> Result<Option<Ipv4Addr>, CreationError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    // Docker takes a gateway with the length of its subnet, too.
    let plain = text.split_once('/').map_or(text, |(address, _)| address);
    plain.parse().map(Some).map_err(|_| invalid(what, text, "invalid address"))
}

/// The driver's options that mean something to it; the others are passed over, as Docker does.
fn apply_options(settings: &mut NetworkSettings) -> Result<(), CreationError> {
    for (key, value) in settings.options.clone() {
        match key.as_str() {
            "com.docker.network.bridge.name" => settings.bridge = Some(value).filter(|name| !name.is_empty()),
            "com.docker.network.bridge.enable_icc" => settings.isolated = !flag(&value)?,
            "com.docker.network.bridge.enable_ip_masquerade" => settings.keeps_source = !flag(&value)?,
            "com.docker.network.bridge.host_binding_ipv4" => {
                let found = address("host binding address", Some(&value))?;
                settings.published_at = found.filter(|address| !address.is_unspecified());
            }
            "com.docker.network.driver.mtu" => {
                let found = value.parse().map_err(|_| invalid("driver MTU", value, "expected a number of bytes"))?;
                // Zero is Docker's word for the usual one.
                settings.mtu = Some(found).filter(|&bytes| bytes > 0);
            }
            "com.docker.network.bridge.gateway_mode_ipv4" if value != "nat" && !value.is_empty() => {
                return Err(CreationError::NotSupported { field: format!("the gateway mode {value}") });
            }
            _ => {}
        }
    }
    Ok(())
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

    fn decode(document: serde_json::Value) -> Result<(String, NetworkSettings), ApiError> {
        settings(serde_json::from_value(document).unwrap())
    }

    #[test]
    fn every_field_is_applied_or_refused() {
        let (name, found) = decode(serde_json::json!({
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
        assert_eq!(found.published_at, Some(Ipv4Addr::LOCALHOST));
        assert_eq!(found.range, Some("10.1.2.0/24".parse().unwrap()));
        assert_eq!((found.gateway, found.auxiliary["x"]), (Some([10, 1, 0, 9].into()), [10, 1, 2, 3].into()));
        assert_eq!((found.labels["a"].as_str(), found.options["other"].as_str()), ("b", "x"));
        for (wrong, status, text) in [
            (serde_json::json!({"Name": "bridge"}), 403, "operation is not permitted on predefined bridge network"),
            (serde_json::json!({"Name": ""}), 400, "network name"),
            (serde_json::json!({"Name": "a", "Driver": "weave"}), 404, "plugin \"weave\" not found"),
            (serde_json::json!({"Name": "a", "Driver": "macvlan"}), 501, "macvlan"),
            (serde_json::json!({"Name": "a", "EnableIPv6": true}), 501, "EnableIPv6"),
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
            let refusal = decode(wrong).unwrap_err();
            assert!(refusal.status() == status && refusal.to_string().contains(text), "{} {refusal}", refusal.status());
        }
    }
}
