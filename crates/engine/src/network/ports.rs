//! Pure. Which published ports can stand beside each other.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use super::request::{ContainerRecord, PortBinding, Protocol};

/// The first port that is drawn for a request without one, and the last: the kernel's own default range for ports that
/// nobody chose (`ip_local_port_range`).
pub const RANDOM_PORTS: (u16, u16) = (32768, 60999);

/// A port of the host that must be held while it is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// Which protocol.
    pub protocol: Protocol,
    /// Never 0.
    pub port: u16,
    /// At which address; `0.0.0.0` is all of them.
    pub address: Ipv4Addr,
}

/// Why a binding cannot be published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// Port 0 of a container.
    #[error("port 0 of a container cannot be published: name the port it listens on (in `{binding}`)")]
    NoContainerPort {
        /// As asked for.
        binding: PortBinding,
    },
    /// Published ports serve IPv4.
    #[error("`{binding}`: ports are published on IPv4 addresses only; leave the address out to publish on all of them")]
    NotIpv4 {
        /// As asked for.
        binding: PortBinding,
    },
    /// Another container has it.
    #[error("Bind for {address}:{port} failed: port is already allocated ({protocol}, by container {owner})")]
    Taken {
        /// On the host.
        port: u16,
        /// Which protocol.
        protocol: Protocol,
        /// At which address of the host.
        address: Ipv4Addr,
        /// The other container's id.
        owner: String,
    },
    /// The same request names it twice.
    #[error("port {port}/{protocol} is asked for twice by one container")]
    Twice {
        /// On the host.
        port: u16,
        /// Which protocol.
        protocol: Protocol,
    },
}

/// What a binding holds on the host.
#[must_use]
pub fn host_port(binding: &PortBinding) -> HostPort {
    let address = match binding.host_ip {
        Some(IpAddr::V4(address)) => address,
        Some(IpAddr::V6(_)) | None => Ipv4Addr::UNSPECIFIED,
    };
    HostPort { protocol: binding.protocol, port: binding.host_port, address }
}

/// Whether two of them cannot be held by two owners.
#[must_use]
pub fn meet(one: HostPort, other: HostPort) -> bool {
    one.protocol == other.protocol
        && one.port == other.port
        && (one.address == other.address || one.address.is_unspecified() || other.address.is_unspecified())
}

/// Refuses the first binding that cannot stand beside what other containers have. Bindings without a host port are not
/// looked at: they get one that is free.
///
/// # Errors
/// Why, and who has it.
pub fn check<'a>(
    wanted: &[PortBinding],
    others: impl Iterator<Item = &'a ContainerRecord> + Clone,
) -> Result<(), PortError> {
    let mut seen: Vec<HostPort> = Vec::new();
    for binding in wanted {
        if binding.container_port == 0 {
            return Err(PortError::NoContainerPort { binding: binding.clone() });
        }
        if matches!(binding.host_ip, Some(IpAddr::V6(_))) {
            return Err(PortError::NotIpv4 { binding: binding.clone() });
        }
        if binding.host_port == 0 {
            continue;
        }
        let port = host_port(binding);
        if seen.iter().any(|other| meet(*other, port)) {
            return Err(PortError::Twice { port: binding.host_port, protocol: binding.protocol });
        }
        seen.push(port);
        for other in others.clone() {
            let conflict = other.attachment.ports.iter().any(|theirs| {
                let together = theirs.shared && binding.shared && host_port(theirs) == port;
                meet(host_port(theirs), port) && !together
            });
            if conflict {
                return Err(PortError::Taken {
                    port: binding.host_port,
                    protocol: binding.protocol,
                    address: port.address,
                    owner: other.id.clone(),
                });
            }
        }
    }
    Ok(())
}

/// Everything that these containers hold on the host.
#[must_use]
pub fn held<'a>(containers: impl Iterator<Item = &'a ContainerRecord>) -> BTreeSet<HostPort> {
    containers.flat_map(|container| container.attachment.ports.iter().map(host_port)).collect()
}

/// The random ports in the order in which to try them, from a number that the caller drew.
pub fn candidates(draw: u16) -> impl Iterator<Item = u16> {
    let (first, last) = RANDOM_PORTS;
    let count = last - first + 1;
    (0..count).map(move |step| first + (draw % count + step) % count)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::network::request::Attachment;

    fn binding(address: Option<&str>, port: u16, shared: bool) -> PortBinding {
        PortBinding {
            host_ip: address.map(|address| address.parse().unwrap()),
            host_port: port,
            container_port: 80,
            protocol: Protocol::Tcp,
            shared,
        }
    }

    fn container(id: &str, ports: Vec<PortBinding>) -> ContainerRecord {
        ContainerRecord {
            id: id.to_owned(),
            hostname: String::new(),
            name: String::new(),
            sysctls: Vec::new(),
            attachment: Attachment { endpoints: Vec::new(), ports },
            links: Vec::new(),
            aliases: Vec::new(),
            ready: true,
        }
    }

    #[test]
    fn a_port_is_had_by_one_container_unless_all_share_it() {
        let one = [container("one", vec![binding(None, 8080, false)])];
        let refusal = check(&[binding(None, 8080, true)], one.iter()).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "Bind for 0.0.0.0:8080 failed: port is already allocated (tcp, by container one)"
        );
        check(&[binding(Some("10.0.0.1"), 8080, false)], one.iter()).unwrap_err();
        check(&[PortBinding { protocol: Protocol::Udp, ..binding(None, 8080, false) }], one.iter()).unwrap();
        let shared = [container("one", vec![binding(None, 8080, true)])];
        check(&[binding(None, 8080, true)], shared.iter()).unwrap();
        check(&[binding(None, 8080, false)], shared.iter()).unwrap_err();
        // Shared, but not at the same addresses: which one serves would depend on the order of rules.
        check(&[binding(Some("10.0.0.1"), 8080, true)], shared.iter()).unwrap_err();
        let at_one = [container("one", vec![binding(Some("10.0.0.1"), 8080, false)])];
        check(&[binding(Some("10.0.0.2"), 8080, false)], at_one.iter()).unwrap();
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let none = || std::iter::empty::<&ContainerRecord>();
        let twice = [binding(None, 80, true), binding(None, 80, true)];
        assert_eq!(check(&twice, none()), Err(PortError::Twice { port: 80, protocol: Protocol::Tcp }));
        check(&[binding(None, 0, false), binding(None, 0, false)], none()).unwrap();
        assert!(matches!(check(&[binding(Some("::1"), 80, false)], none()), Err(PortError::NotIpv4 { .. })));
        let zero = PortBinding { container_port: 0, ..binding(None, 80, false) };
        assert!(matches!(check(&[zero], none()), Err(PortError::NoContainerPort { .. })));
    }

    proptest! {
        #[test]
        fn every_random_port_is_tried_once(draw: u16) {
            let all: BTreeSet<u16> = candidates(draw).collect();
            prop_assert_eq!(all.len(), 60999 - 32768 + 1);
            prop_assert_eq!((all.first(), all.last()), (Some(&32768), Some(&60999)));
        }
    }
}
