//! Pure. Short ports: `80`, `8080:80/udp`, `127.0.0.1:8000-8001:80-81`.

/// Why a text is not a port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PortError {
    #[error("the container's port is missing")]
    NoTarget,
    #[error("`{0}` is not a port from 1 to 65535 or a range of them")]
    Number(String),
    #[error("the range of the hosts' ports and the range of the container's ports differ in length")]
    RangeLengths,
    #[error("`{0}` is not an IP address")]
    Address(String),
    #[error("`{0}` is not a protocol: expected tcp, udp or sctp")]
    Protocol(String),
}

/// One port, or a target with a range to choose from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ShortPort {
    pub host_ip: Option<String>,
    pub target: u16,
    pub published: Option<String>,
    pub protocol: String,
}

/// All ports that a short form means, in order.
pub(crate) fn parse(text: &str) -> Result<Vec<ShortPort>, PortError> {
    let (spec, protocol) = match text.split_once('/') {
        Some((spec, protocol)) => (spec, protocol.to_ascii_lowercase()),
        None => (text, "tcp".to_owned()),
    };
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(PortError::Protocol(protocol));
    }
    let (rest, target) = match spec.rsplit_once(':') {
        Some((rest, target)) => (Some(rest), target),
        None => (None, spec),
    };
    let (host_ip, published) = match rest {
        None => ("", ""),
        Some(rest) => match rest.rsplit_once(':') {
            Some((address, published)) if !rest.ends_with(']') => (address, published),
            _ if rest.starts_with('[') && rest.ends_with(']') => (rest, ""),
            _ => ("", rest),
        },
    };
    if target.is_empty() {
        return Err(PortError::NoTarget);
    }
    let host_ip = host_ip.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host_ip);
    if !host_ip.is_empty() && host_ip.parse::<std::net::IpAddr>().is_err() {
        return Err(PortError::Address(host_ip.to_owned()));
    }
    let (first_target, last_target) = range(target)?;
    let host_ip = (!host_ip.is_empty()).then(|| host_ip.to_owned());
    let port = |target: u16, published: Option<String>| ShortPort {
        host_ip: host_ip.clone(),
        target,
        published,
        protocol: protocol.clone(),
    };
    if published.is_empty() {
        return Ok((first_target..=last_target).map(|target| port(target, None)).collect());
    }
    let (first, last) = range(published)?;
    if last - first == last_target - first_target {
        return Ok((first_target..=last_target)
            .zip(first..=last)
            .map(|(target, published)| port(target, Some(published.to_string())))
            .collect());
    }
    if first_target == last_target {
        return Ok(vec![port(first_target, Some(format!("{first}-{last}")))]);
    }
    Err(PortError::RangeLengths)
}

/// `80` or `80-90`.
pub(crate) fn range(text: &str) -> Result<(u16, u16), PortError> {
    let wrong = || PortError::Number(text.to_owned());
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>().ok().filter(|port| digits && *port > 0).ok_or_else(wrong)
    };
    match text.split_once('-') {
        None => number(text).map(|port| (port, port)),
        Some((first, last)) => {
            let (first, last) = (number(first)?, number(last)?);
            if first > last { Err(wrong()) } else { Ok((first, last)) }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ipv6_addresses_are_in_brackets() {
        let ports = parse("[::1]:8080:80").unwrap();
        assert_eq!(ports[0].host_ip.as_deref(), Some("::1"));
        assert_eq!(ports[0].published.as_deref(), Some("8080"));
    }

    #[test]
    fn a_range_of_the_hosts_for_one_port_stays_a_range() {
        assert_eq!(parse("8000-9000:80").unwrap()[0].published.as_deref(), Some("8000-9000"));
        assert_eq!(parse("8000-8002:80-81"), Err(PortError::RangeLengths));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[0-9:/\\[\\].a-z-]{0,30}") {
            let _ = parse(&text);
        }
    }
}
