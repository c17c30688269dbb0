//! Pure. What published ports mean on a network, and which of them can stand beside each other.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
    /// At which address; `0.0.0.0` is all IPv4 ones, `::` all IPv6 ones.
    pub address: IpAddr,
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
    /// A range that ends before it begins.
    #[error("`{binding}`: the range of host ports ends before it begins")]
    Backwards {
        /// As asked for.
        binding: PortBinding,
    },
    /// The container has no IPv6 address.
    #[error(
        "`{binding}`: an IPv6 address of the host needs a network with IPv6: make one with `--ipv6`, or leave the address out"
    )]
    NoIpv6 {
        /// As asked for.
        binding: PortBinding,
    },
    /// The container has no IPv4 address.
    #[error(
        "`{binding}`: of the host's IPv4 addresses only those of the loopback lead to a container without IPv4, and for tcp and udp alone: leave the address out, or name an IPv6 address of the host"
    )]
    NoIpv4 {
        /// As asked for.
        binding: PortBinding,
    },
    /// The IPv6 loopback.
    #[error("`{binding}`: the kernel leads nothing from the host's IPv6 loopback to a container: publish at 127.0.0.1")]
    Loopback {
        /// As asked for.
        binding: PortBinding,
    },
    /// Another container has it.
    #[error("Bind for {} failed: port is already allocated ({protocol}, by container {owner})", at(*address, *port))]
    Taken {
        /// On the host.
        port: u16,
        /// Which protocol.
        protocol: Protocol,
        /// At which address of the host.
        address: IpAddr,
        /// The other container's id.
        owner: String,
    },
    /// No port of a range is free.
    #[error("Bind for {}-{last} failed: all ports are allocated ({protocol}: {takers})", at(*address, *first))]
    RangeTaken {
        /// The first port of the range.
        first: u16,
        /// The last one.
        last: u16,
        /// Which protocol.
        protocol: Protocol,
        /// At which address of the host.
        address: IpAddr,
        /// Who has the first of them.
        takers: String,
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

/// An address and a port as one word.
#[must_use]
pub fn at(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

/// What a binding holds on the host; `None` where it holds nothing, as its network is routed.
#[must_use]
pub fn host_port(binding: &PortBinding) -> Option<HostPort> {
    (binding.host_port != 0).then(|| held_at(binding, binding.host_port))
}

/// What a binding would hold with this port.
#[must_use]
pub fn held_at(binding: &PortBinding, port: u16) -> HostPort {
    let address = binding.host_ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    HostPort { protocol: binding.protocol, port, address }
}

/// Whether two of them cannot be held by two owners.
#[must_use]
pub fn meet(one: HostPort, other: HostPort) -> bool {
    one.protocol == other.protocol
        && one.port == other.port
        && one.address.is_ipv4() == other.address.is_ipv4()
        && (one.address == other.address || one.address.is_unspecified() || other.address.is_unspecified())
}

/// How a container's ports are published in one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    /// Whether the host's ports are translated to the container's; otherwise its own address is what others reach.
    pub translates: bool,
}

/// How a container's ports are published.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Families {
    /// Where it has IPv4.
    pub ipv4: Option<Family>,
    /// Where it has IPv6.
    pub ipv6: Option<Family>,
    /// Where ports go that name no address.
    pub usual: Option<Ipv4Addr>,
    /// What rules cannot lead from the host's loopback to it is relayed.
    pub relayed: bool,
}

/// One binding of a request, as what it holds in each family: all of these have the same port of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// As asked for, with the address that is meant.
    pub bindings: Vec<PortBinding>,
    /// Those that hold nothing of the host.
    pub routed: Vec<PortBinding>,
    /// The only port that will do, the range, or `None` for any.
    pub range: Option<(u16, u16)>,
}

impl Wanted {
    /// With the port of the host that was found.
    pub fn with(self, port: u16) -> impl Iterator<Item = PortBinding> {
        let translated = self.bindings.into_iter().map(move |binding| PortBinding {
            host_port: port,
            host_port_last: None,
            ..binding
        });
        translated.chain(self.routed)
    }
}

/// What these bindings mean for a container that is published in these families.
///
/// # Errors
/// The first that makes no sense.
pub fn resolve(bindings: &[PortBinding], families: Families) -> Result<Vec<Wanted>, PortError> {
    bindings.iter().map(|binding| resolve_one(binding, families)).collect()
}

/// Whether a relay can carry what is sent to this port.
#[must_use]
pub const fn is_relayable(protocol: Protocol) -> bool {
    match protocol {
        Protocol::Tcp | Protocol::Udp => true,
        Protocol::Sctp => false,
    }
}

fn resolve_one(binding: &PortBinding, families: Families) -> Result<Wanted, PortError> {
    const ANY6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    if binding.container_port == 0 {
        return Err(PortError::NoContainerPort { binding: binding.clone() });
    }
    let range = match (binding.host_port, binding.host_port_last) {
        (0, _) => None,
        (first, Some(last)) if last < first => return Err(PortError::Backwards { binding: binding.clone() }),
        (first, last) => Some((first, last.unwrap_or(first))),
    };
    let Families { ipv4, ipv6, usual, relayed } = families;
    // A relay leads from the host's own loopback to a container that rules cannot reach from there.
    let relays = |family: &Family| relayed && family.translates && is_relayable(binding.protocol);
    let published: Vec<(Family, Option<IpAddr>)> = match binding.host_ip.or(usual.map(IpAddr::V4)) {
        None => {
            let at_all = ipv4.map(|family| (family, None));
            let by_relay =
                ipv6.filter(|family| ipv4.is_none() && relays(family)).map(|family| (family, Some(LOOPBACK)));
            at_all.into_iter().chain(by_relay).chain(ipv6.map(|family| (family, Some(ANY6)))).collect()
        }
        Some(address @ IpAddr::V4(_)) => match ipv4.or(ipv6.filter(|family| address.is_loopback() && relays(family))) {
            Some(family) => vec![(family, Some(address))],
            None => return Err(PortError::NoIpv4 { binding: binding.clone() }),
        },
        Some(address @ IpAddr::V6(Ipv6Addr::LOCALHOST)) => match ipv6.or(ipv4).filter(relays) {
            Some(family) => vec![(family, Some(address))],
            None => return Err(PortError::Loopback { binding: binding.clone() }),
        },
        Some(address @ IpAddr::V6(_)) => match ipv6 {
            Some(family) => vec![(family, Some(address))],
            None => return Err(PortError::NoIpv6 { binding: binding.clone() }),
        },
    };
    let mut wanted = Wanted { bindings: Vec::new(), routed: Vec::new(), range };
    for (family, host_ip) in published {
        if family.translates {
            wanted.bindings.push(PortBinding { host_ip, ..binding.clone() });
        } else {
            wanted.routed.push(PortBinding { host_ip, host_port: 0, host_port_last: None, ..binding.clone() });
        }
    }
    Ok(wanted)
}

/// Refuses the first binding that cannot stand beside what other containers have. Those that leave a choice are not looked
/// at: they get a port that is free.
///
/// # Errors
/// Why, and who has it.
pub fn check<'a>(
    wanted: &[Wanted],
    others: impl Iterator<Item = &'a ContainerRecord> + Clone,
) -> Result<(), PortError> {
    let mut seen: Vec<HostPort> = Vec::new();
    for one in wanted {
        let Some((first, _)) = one.range.filter(|(first, last)| first == last) else { continue };
        for binding in &one.bindings {
            let port = held_at(binding, first);
            if seen.iter().any(|other| meet(*other, port)) {
                return Err(PortError::Twice { port: first, protocol: binding.protocol });
            }
            seen.push(port);
            if let Some(owner) = owner(binding, port, others.clone()) {
                let (address, protocol) = (port.address, binding.protocol);
                return Err(PortError::Taken { port: first, protocol, address, owner: owner.id.clone() });
            }
        }
    }
    Ok(())
}

/// The container that has a port which this binding cannot have beside it.
fn owner<'a>(
    binding: &PortBinding,
    port: HostPort,
    mut others: impl Iterator<Item = &'a ContainerRecord>,
) -> Option<&'a ContainerRecord> {
    others.find(|other| {
        other.attachment.ports.iter().any(|theirs| {
            host_port(theirs).is_some_and(|their_port| {
                let together = theirs.shared && binding.shared && their_port == port;
                meet(their_port, port) && !together
            })
        })
    })
}

/// Why no port of a range is free: who has the first ones.
#[must_use]
pub fn range_taken<'a>(
    wanted: &Wanted,
    (first, last): (u16, u16),
    others: impl Iterator<Item = &'a ContainerRecord> + Clone,
) -> PortError {
    const NAMED: usize = 3;
    let binding = wanted.bindings.first().cloned().unwrap_or_default();
    let has = |number: u16| {
        let mut owners =
            wanted.bindings.iter().filter_map(|binding| owner(binding, held_at(binding, number), others.clone()));
        match owners.next() {
            Some(owner) => format!("{number} by container {}", owner.id),
            None => format!("{number} by another process of this host, or by this container"),
        }
    };
    let mut takers: Vec<String> = (first..=last).take(NAMED).map(has).collect();
    let more = usize::from(last - first + 1).saturating_sub(NAMED);
    if more > 0 {
        takers.push(format!("and {more} more"));
    }
    PortError::RangeTaken {
        first,
        last,
        protocol: binding.protocol,
        address: held_at(&binding, first).address,
        takers: takers.join(", "),
    }
}

/// Everything that these containers hold on the host.
#[must_use]
pub fn held<'a>(containers: impl Iterator<Item = &'a ContainerRecord>) -> BTreeSet<HostPort> {
    containers.flat_map(|container| container.attachment.ports.iter().filter_map(host_port)).collect()
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

    const NAT: Family = Family { translates: true };
    const IPV4: Families = Families { ipv4: Some(NAT), ipv6: None, usual: None, relayed: true };
    const BOTH: Families = Families { ipv6: Some(NAT), ..IPV4 };
    const IPV6: Families = Families { ipv4: None, ..BOTH };

    fn binding(address: Option<&str>, port: u16, shared: bool) -> PortBinding {
        PortBinding {
            host_ip: address.map(|address| address.parse().unwrap()),
            host_port: port,
            container_port: 80,
            shared,
            ..PortBinding::default()
        }
    }

    fn container(id: &str, ports: Vec<PortBinding>) -> ContainerRecord {
        ContainerRecord {
            id: id.to_owned(),
            hostname: String::new(),
            name: String::new(),
            sysctls: Vec::new(),
            attachment: Attachment { ports, ..Attachment::default() },
            links: Vec::new(),
            aliases: Vec::new(),
            ready: true,
        }
    }

    fn try_beside<'a>(
        wanted: &[PortBinding],
        others: impl Iterator<Item = &'a ContainerRecord> + Clone,
    ) -> Result<(), PortError> {
        check(&resolve(wanted, BOTH)?, others)
    }

    #[test]
    fn a_port_is_had_by_one_container_unless_all_share_it() {
        let one = [container("one", vec![binding(None, 8080, false)])];
        let refusal = try_beside(&[binding(None, 8080, true)], one.iter()).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "Bind for 0.0.0.0:8080 failed: port is already allocated (tcp, by container one)"
        );
        try_beside(&[binding(Some("10.0.0.1"), 8080, false)], one.iter()).unwrap_err();
        try_beside(&[PortBinding { protocol: Protocol::Udp, ..binding(None, 8080, false) }], one.iter()).unwrap();
        // The families are apart.
        try_beside(&[binding(Some("::"), 8080, false)], one.iter()).unwrap();
        let six = [container("six", vec![binding(Some("fd00::1"), 8080, false)])];
        let refusal = try_beside(&[binding(Some("::"), 8080, false)], six.iter()).unwrap_err();
        assert!(refusal.to_string().starts_with("Bind for [::]:8080 failed"), "{refusal}");
        let shared = [container("one", vec![binding(None, 8080, true)])];
        try_beside(&[binding(None, 8080, true)], shared.iter()).unwrap();
        try_beside(&[binding(None, 8080, false)], shared.iter()).unwrap_err();
        // Shared, but not at the same addresses: which one serves would depend on the order of rules.
        try_beside(&[binding(Some("10.0.0.1"), 8080, true)], shared.iter()).unwrap_err();
        let at_one = [container("one", vec![binding(Some("10.0.0.1"), 8080, false)])];
        try_beside(&[binding(Some("10.0.0.2"), 8080, false)], at_one.iter()).unwrap();
        // What a routed network publishes holds nothing.
        let routed = [container("routed", vec![binding(None, 0, false)])];
        try_beside(&[binding(None, 8080, false)], routed.iter()).unwrap();
        assert_eq!(held(routed.iter()), BTreeSet::new());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let none = || std::iter::empty::<&ContainerRecord>();
        let twice = [binding(None, 80, true), binding(None, 80, true)];
        assert_eq!(try_beside(&twice, none()), Err(PortError::Twice { port: 80, protocol: Protocol::Tcp }));
        try_beside(&[binding(None, 0, false), binding(None, 0, false)], none()).unwrap();
        let six = resolve(&[binding(Some("fd00::1"), 80, false)], IPV4).unwrap_err();
        assert!(six.to_string().contains("`[fd00::1]:80:80/tcp`: an IPv6 address"), "{six}");
        let unrelayed = Families { relayed: false, ..BOTH };
        let loopback = resolve(&[binding(Some("::1"), 80, false)], unrelayed).unwrap_err();
        assert!(loopback.to_string().contains("publish at 127.0.0.1"), "{loopback}");
        let over_sctp = PortBinding { protocol: Protocol::Sctp, ..binding(Some("::1"), 80, false) };
        assert!(matches!(resolve(&[over_sctp], BOTH), Err(PortError::Loopback { .. })));
        for address in ["0.0.0.0", "192.0.2.7"] {
            let four = resolve(&[binding(Some(address), 80, false)], IPV6).unwrap_err();
            assert!(four.to_string().contains("a container without IPv4"), "{four}");
        }
        let zero = PortBinding { container_port: 0, ..binding(None, 80, false) };
        assert!(matches!(try_beside(&[zero], none()), Err(PortError::NoContainerPort { .. })));
        let backwards = PortBinding { host_port_last: Some(70), ..binding(None, 80, false) };
        assert!(matches!(try_beside(&[backwards], none()), Err(PortError::Backwards { .. })));
    }

    #[test]
    fn a_binding_without_an_address_is_for_every_family() {
        let at = |address: Option<&str>, protocol, families| -> Vec<String> {
            let wanted = PortBinding { protocol, ..binding(address, 80, false) };
            let wanted = resolve(&[wanted], families).unwrap().remove(0);
            let shown = |binding: PortBinding| {
                let address = binding.host_ip.map_or("any".to_owned(), |address| address.to_string());
                format!("{address} {}", binding.host_port)
            };
            wanted.with(7).map(shown).collect()
        };
        let (tcp, routed) = (Protocol::Tcp, Some(Family { translates: false }));
        assert_eq!(at(None, tcp, IPV4), ["any 7"]);
        assert_eq!(at(None, tcp, BOTH), ["any 7", ":: 7"]);
        assert_eq!(at(None, tcp, Families { ipv6: routed, ..BOTH }), ["any 7", ":: 0"]);
        // Where the network names one IPv4 address, IPv6 is not meant.
        let local = Some(Ipv4Addr::LOCALHOST);
        assert_eq!(at(None, tcp, Families { usual: local, ..BOTH }), ["127.0.0.1 7"]);
        // The host's own loopback reaches a container without IPv4, by a relay.
        assert_eq!(at(None, tcp, IPV6), ["127.0.0.1 7", ":: 7"]);
        assert_eq!(at(Some("127.0.0.1"), tcp, IPV6), ["127.0.0.1 7"]);
        assert_eq!(at(None, tcp, Families { usual: local, ..IPV6 }), ["127.0.0.1 7"]);
        assert_eq!(at(None, Protocol::Sctp, IPV6), [":: 7"]);
        assert_eq!(at(None, tcp, Families { ipv6: routed, ..IPV6 }), [":: 0"]);
        assert_eq!(at(Some("::1"), tcp, IPV4), ["::1 7"]);
        assert_eq!(at(Some("::1"), tcp, BOTH), ["::1 7"]);
    }

    #[test]
    fn whoever_has_the_ports_of_a_range_is_named() {
        let others = [container("one", vec![binding(None, 8000, false)])];
        let range = PortBinding { host_port_last: Some(8005), ..binding(None, 8000, false) };
        let wanted = resolve(&[range], IPV4).unwrap();
        check(&wanted, others.iter()).unwrap();
        let refusal = range_taken(&wanted[0], (8000, 8005), others.iter()).to_string();
        let process = "by another process of this host, or by this container";
        assert_eq!(
            refusal,
            format!(
                "Bind for 0.0.0.0:8000-8005 failed: all ports are allocated (tcp: 8000 by container one, 8001 {process}, \
                 8002 {process}, and 3 more)"
            )
        );
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
