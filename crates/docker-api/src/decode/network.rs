//! Pure. The bodies of requests about networks.

use std::collections::BTreeMap;

use bollard_stubs::models::{EndpointSettings, NetworkConnectRequest, NetworkCreateRequest, NetworkDisconnectRequest};
use stack_engine::network::{NetworkEndpoint, NetworkSpec};

use super::create::{CreationError, endpoint};

/// What options of bridges are called.
const BRIDGE: &str = "com.docker.network.bridge.";
const MTU: &str = "com.docker.network.driver.mtu";

/// Why a network cannot be made as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkRequestError {
    /// It is no such document.
    #[error("invalid JSON: {problem}")]
    Body {
        /// What is wrong.
        problem: String,
    },
    /// What this daemon cannot do.
    #[error("{what} is not supported by this daemon yet")]
    NotSupported {
        /// What.
        what: String,
    },
    /// There is no such driver.
    #[error("could not find plugin {name} in v1 plugin registry: there are the drivers `bridge`, `host` and `null`")]
    Driver {
        /// What was asked for.
        name: String,
    },
    /// A name that every host has.
    #[error("operation is not permitted on predefined {name} network")]
    Predefined {
        /// Which.
        name: String,
    },
    /// A value that makes no sense.
    #[error("invalid {what}: \"{value}\"")]
    Value {
        /// Of what.
        what: &'static str,
        /// What was given, at most 200 characters of it.
        value: String,
    },
    /// An endpoint's settings.
    #[error(transparent)]
    Endpoint(#[from] CreationError),
}

/// Networks that every host has.
pub const PREDEFINED: [&str; 4] = ["bridge", "host", "none", "default"];

fn body<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, NetworkRequestError> {
    serde_json::from_slice(bytes).map_err(|error| NetworkRequestError::Body { problem: error.to_string() })
}

fn parsed<T: std::str::FromStr>(what: &'static str, text: &str) -> Result<T, NetworkRequestError> {
    text.parse().map_err(|_| NetworkRequestError::Value { what, value: text.chars().take(200).collect() })
}

/// The body of `POST /networks/create`: a name and what is asked for.
pub fn creation(bytes: &[u8]) -> Result<(String, NetworkSpec), NetworkRequestError> {
    let asked: NetworkCreateRequest = body(bytes)?;
    let unsupported = |what: &str| NetworkRequestError::NotSupported { what: what.to_owned() };
    let name = asked.name;
    if PREDEFINED.contains(&name.as_str()) {
        return Err(NetworkRequestError::Predefined { name });
    }
    match asked.driver.as_deref().unwrap_or_default() {
        "" | "bridge" => {}
        "overlay" => return Err(unsupported("making a network between hosts here: use `stack network create`, which")),
        driver @ ("macvlan" | "ipvlan") => return Err(unsupported(&format!("the network driver `{driver}`"))),
        other => return Err(NetworkRequestError::Driver { name: other.chars().take(80).collect() }),
    }
    for (is_set, what) in [
        (asked.enable_ipv6.unwrap_or(false), "IPv6 on a bridge network"),
        (asked.enable_ipv4 == Some(false), "a bridge network without IPv4"),
        (asked.ingress.unwrap_or(false), "an ingress network"),
        (asked.config_only.unwrap_or(false), "a configuration-only network"),
        (asked.config_from.is_some_and(|from| from.network.is_some_and(|name| !name.is_empty())), "`ConfigFrom`"),
    ] {
        if is_set {
            return Err(unsupported(what));
        }
    }
    let mut spec = NetworkSpec {
        internal: asked.internal.unwrap_or(false),
        attachable: asked.attachable.unwrap_or(false),
        labels: asked.labels.unwrap_or_default().into_iter().collect(),
        options: asked.options.unwrap_or_default().into_iter().collect(),
        ..NetworkSpec::default()
    };
    let ipam = asked.ipam.unwrap_or_default();
    if let Some(driver) = ipam.driver.filter(|driver| !["", "default"].contains(&driver.as_str())) {
        return Err(unsupported(&format!("the IPAM driver `{driver}`")));
    }
    if ipam.options.is_some_and(|options| !options.is_empty()) {
        return Err(unsupported("options of the IPAM driver"));
    }
    let configs = ipam.config.unwrap_or_default();
    if configs.len() > 1 {
        return Err(unsupported("a network of several subnets"));
    }
    for config in configs {
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        if let Some(text) = given(config.subnet) {
            if text.contains(':') {
                return Err(unsupported("IPv6 on a bridge network"));
            }
            spec.subnet = Some(parsed("subnet", &text)?);
        }
        spec.gateway = given(config.gateway).map(|text| parsed("gateway address", &text)).transpose()?;
        spec.range = given(config.ip_range).map(|text| parsed("ip-range", &text)).transpose()?;
        let reserved = config.auxiliary_addresses.unwrap_or_default().into_iter();
        spec.reserved = reserved
            .map(|(name, text)| Ok((name, parsed("auxiliary address", &text)?)))
            .collect::<Result<BTreeMap<_, _>, NetworkRequestError>>()?;
    }
    for (option, value) in &spec.options.clone() {
        let flag = |what| match value.as_str() {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(NetworkRequestError::Value { what, value: value.chars().take(200).collect() }),
        };
        match option.strip_prefix(BRIDGE) {
            Some("name") => spec.bridge = Some(value.clone()),
            Some("enable_ip_masquerade") => spec.masquerade = flag("enable_ip_masquerade")?,
            Some("enable_icc") if flag("enable_icc")? => {}
            Some("default_bridge") if !flag("default_bridge")? => {}
            Some("host_binding_ipv4") if value == "0.0.0.0" => {}
            None if option == MTU => spec.mtu = Some(parsed("MTU", value)?),
            _ => return Err(unsupported(&format!("the network option `{option}={value}`"))),
        }
    }
    Ok((name, spec))
}

/// The body of `POST /networks/{id}/connect`: the container, and how it is on the network.
pub fn connection(bytes: &[u8], network: &str) -> Result<(String, NetworkEndpoint), NetworkRequestError> {
    let asked: NetworkConnectRequest = body(bytes)?;
    let settings: EndpointSettings = asked.endpoint_config.unwrap_or_default();
    Ok((asked.container, endpoint(network.to_owned(), &settings)?))
}

/// The body of `POST /networks/{id}/disconnect`: the container.
pub fn disconnection(bytes: &[u8]) -> Result<String, NetworkRequestError> {
    let asked: NetworkDisconnectRequest = body(bytes)?;
    Ok(asked.container)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_as_the_cli_asks_for_it() {
        let text = r#"{"Name":"front","Driver":"bridge","IPAM":{"Driver":"default","Config":[{"Subnet":"10.9.0.0/24",
            "IPRange":"10.9.0.128/25","Gateway":"10.9.0.254","AuxiliaryAddresses":{"printer":"10.9.0.5"}}]},"Internal":true,
            "Labels":{"a":"b"},"Options":{"com.docker.network.bridge.name":"front0","com.docker.network.driver.mtu":"1400"}}"#;
        let (name, spec) = creation(text.as_bytes()).unwrap();
        assert_eq!((name.as_str(), spec.internal, spec.mtu), ("front", true, Some(1400)));
        assert_eq!(spec.subnet, Some("10.9.0.0/24".parse().unwrap()));
        assert_eq!(spec.gateway, Some("10.9.0.254".parse().unwrap()));
        assert_eq!(spec.bridge.as_deref(), Some("front0"));
        assert_eq!(spec.reserved["printer"].octets()[3], 5);
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_name() {
        let refused = |text: &str| creation(text.as_bytes()).unwrap_err().to_string();
        assert!(refused(r#"{"Name":"x","Driver":"macvlan"}"#).contains("macvlan"));
        assert!(refused(r#"{"Name":"x","Driver":"weave"}"#).contains("weave"));
        assert!(refused(r#"{"Name":"host"}"#).contains("predefined host"));
        assert!(refused(r#"{"Name":"x","EnableIPv6":true}"#).contains("IPv6"));
        assert!(refused(r#"{"Name":"x","IPAM":{"Config":[{"Subnet":"10.0.0.0/99"}]}}"#).contains("10.0.0.0/99"));
        assert!(
            refused(r#"{"Name":"x","Options":{"com.docker.network.bridge.enable_icc":"false"}}"#)
                .contains("enable_icc")
        );
        assert!(refused("[]").contains("invalid JSON"));
    }
}
