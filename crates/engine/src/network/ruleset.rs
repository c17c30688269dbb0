//! Pure. Everything that nftables is told, as one value: the ruleset of a host's networks and published ports.
//!
//! One table, replaced as a whole in one transaction. Its rules grow with the networks and the published ports, not with
//! the containers, and a packet meets one look-up in a map whatever the number of ports.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::loopback::At;
use super::request::{ContainerRecord, GatewayMode, NetworkRecord, Protocol};

/// One table of the `inet` family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruleset {
    /// Its name.
    pub table: String,
    /// In the order in which they are made: a chain stands before those that go to it.
    pub chains: Vec<Chain>,
    /// The map `published`: which chain a published port goes to.
    pub published: Vec<(Protocol, u16, String)>,
}

/// A chain and its rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Unique in the table.
    pub name: String,
    /// Where packets enter it; `None`: only from other chains.
    pub hook: Option<Hook>,
    /// In order.
    pub rules: Vec<Rule>,
}

/// Where packets enter a chain. The policy is always to accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// A filter before connection tracking.
    RawPrerouting,
    /// Destinations of packets that arrive.
    TranslatePrerouting,
    /// Destinations of packets that the host sends.
    TranslateOutput,
    /// Sources of packets that leave.
    TranslatePostrouting,
    /// A filter of packets that the host passes on.
    FilterForward,
}

/// What happens to packets that match every condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// All of them must hold.
    pub conditions: Vec<Condition>,
    /// What is then done.
    pub action: Action,
}

/// A condition on a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// It came in through this link.
    InputInterface(String),
    /// It leaves through this link.
    OutputInterface(String),
    /// It leaves through another link.
    OutputInterfaceNot(String),
    /// It came in through another link.
    InputInterfaceNot(String),
    /// It comes from this subnet.
    Source(IpNet),
    /// It goes to this subnet.
    Destination(IpNet),
    /// It goes to an address of the host.
    DestinationIsLocal,
    /// It belongs to a connection that is known.
    Established,
    /// Its connection's destination was translated.
    DestinationTranslated,
    /// It is of this family.
    Family(Family),
    /// Its transport protocol.
    Protocol(Protocol),
    /// The port that it goes to.
    DestinationPort(u16),
    /// It is a control message of IP: ICMP of the family.
    ControlMessage(Family),
    /// Chance decides: one packet in so many.
    OneIn(u32),
}

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    const BOTH: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::Ipv4 } else { Self::Ipv6 }
    }

    /// As `nft` writes it.
    const fn word(self) -> &'static str {
        match self {
            Self::Ipv4 => "ip",
            Self::Ipv6 => "ip6",
        }
    }
}

/// What is done with a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// It passes this chain.
    Accept,
    /// It is gone.
    Drop,
    /// Its source becomes the address of the link that it leaves through.
    Masquerade,
    /// Its destination becomes this.
    TranslateDestination(IpAddr, u16),
    /// On to this chain, and no way back.
    Goto(String),
    /// On to the chain that the map `published` names for its protocol and destination port.
    LookUpPublished,
}

/// The name of the map of published ports.
pub const PUBLISHED_MAP: &str = "published";
const PUBLISHED_CHAIN: &str = "published-ports";

/// Who serves one published port at one of the host's addresses, or at all of a family.
type Backends = BTreeMap<(Family, Option<IpAddr>), Vec<(IpAddr, u16)>>;

/// The ruleset for these networks, which are bridges, and containers. Only containers that are ready serve published ports.
/// `relays` are the ports at which relays listen on the loopback.
#[must_use]
pub fn ruleset(
    table: &str,
    networks: &[NetworkRecord],
    containers: &[ContainerRecord],
    relays: &BTreeMap<At, u16>,
) -> Ruleset {
    let bridges: BTreeSet<&str> = networks.iter().map(|network| network.name.as_str()).collect();
    let mut published: BTreeMap<(Protocol, u16), Backends> = BTreeMap::new();
    for container in containers.iter().filter(|container| container.ready) {
        for port in container.attachment.ports.iter().filter(|port| port.host_port != 0) {
            let family = port.host_ip.map_or(Family::Ipv4, Family::of);
            let host = port.host_ip.filter(|host| !host.is_unspecified());
            // Only a relay leads from there.
            if host == Some(IpAddr::V6(Ipv6Addr::LOCALHOST)) {
                continue;
            }
            let mut serving = container.serving().filter(|(endpoint, _)| bridges.contains(endpoint.network.as_str()));
            let found = serving.find(|(_, address)| Family::of(*address) == family);
            let Some((_, address)) = found else { continue };
            let by_address = published.entry((port.protocol, port.host_port)).or_default();
            by_address.entry((family, host)).or_default().push((address, port.container_port));
        }
    }
    for (at, &port) in relays {
        let by_address = published.entry((at.protocol, at.port)).or_default();
        // In place of a container, which no rule leads to from there.
        by_address.insert((Family::of(at.address), Some(at.address)), vec![(at.address, port)]);
    }
    let mut chains = Vec::new();
    let mut elements = Vec::new();
    for ((protocol, port), by_address) in published {
        let name = format!("{protocol}-{port}");
        elements.push((protocol, port, name.clone()));
        chains.push(Chain { name, hook: None, rules: port_rules(protocol, by_address) });
    }
    chains.push(Chain {
        name: PUBLISHED_CHAIN.to_owned(),
        hook: None,
        rules: vec![Rule { conditions: Vec::new(), action: Action::LookUpPublished }],
    });
    let to_published = || {
        vec![Rule { conditions: vec![Condition::DestinationIsLocal], action: Action::Goto(PUBLISHED_CHAIN.to_owned()) }]
    };
    let base = |name: &str, hook, rules| Chain { name: name.to_owned(), hook: Some(hook), rules };
    chains.push(base("loopback-guard", Hook::RawPrerouting, guard_rules(networks)));
    chains.push(base("prerouting", Hook::TranslatePrerouting, to_published()));
    chains.push(base("output", Hook::TranslateOutput, to_published()));
    chains.push(base("postrouting", Hook::TranslatePostrouting, networks.iter().flat_map(masquerade_rules).collect()));
    chains.push(base("forward", Hook::FilterForward, forward_rules(networks, containers)));
    Ruleset { table: table.to_owned(), chains, published: elements }
}

/// The loopback network, which bridges route so that `127.0.0.1:PORT` works on the host.
const LOOPBACK: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8));

/// The same of IPv6, which no packet leaves from: there is no `route_localnet` for it.
const LOOPBACK6: IpNet = IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128));

fn port_rules(protocol: Protocol, by_address: Backends) -> Vec<Rule> {
    let mut rules = Vec::new();
    let own6 = (Family::Ipv6, Some(IpAddr::V6(Ipv6Addr::LOCALHOST)));
    if by_address.contains_key(&(Family::Ipv6, None)) && !by_address.contains_key(&own6) {
        // What nothing leads to from there is refused at once and not lost: a program then tries 127.0.0.1.
        let conditions = vec![Condition::Family(Family::Ipv6), Condition::Destination(LOOPBACK6)];
        rules.push(Rule { conditions, action: Action::Accept });
    }
    // Rules for one address of the host come before those for all of them.
    for ((family, host), backends) in by_address.into_iter().rev() {
        let count = u32::try_from(backends.len()).unwrap_or(u32::MAX);
        for (remaining, (address, port)) in (1..=count).rev().zip(backends) {
            let mut conditions = vec![Condition::Family(family), Condition::Protocol(protocol)];
            if let Some(host) = host {
                conditions.push(Condition::Destination(IpNet::from(host)));
            }
            // One in n, then one in n - 1 of the rest, …: each backend gets the same share.
            if remaining > 1 {
                conditions.push(Condition::OneIn(remaining));
            }
            rules.push(Rule { conditions, action: Action::TranslateDestination(address, port) });
        }
    }
    rules
}

/// Nobody but the host speaks to its loopback addresses: a port that is published there would otherwise answer whoever on a
/// link sends to them, because destinations are translated before anything looks whether they can come from there. And
/// nothing on a network speaks as them.
fn guard_rules(networks: &[NetworkRecord]) -> Vec<Rule> {
    if networks.is_empty() {
        return Vec::new();
    }
    let drop = |from, loopback| Rule { conditions: vec![from, loopback], action: Action::Drop };
    let to = drop(Condition::InputInterfaceNot("lo".to_owned()), Condition::Destination(LOOPBACK));
    let as_them =
        |network: &NetworkRecord| drop(Condition::InputInterface(network.link.clone()), Condition::Source(LOOPBACK));
    [to].into_iter().chain(networks.iter().map(as_them)).collect()
}

fn masquerade_rules(network: &NetworkRecord) -> Vec<Rule> {
    let onto_bridge = || Condition::OutputInterface(network.link.clone());
    let mut all = Vec::new();
    for subnet in network.subnets() {
        let translates = network.gateway_mode(matches!(subnet, IpNet::V6(_))).translates();
        // To the world, and to containers of other networks by published ports.
        if translates && !network.settings.keeps_source && !network.settings.internal {
            all.push(vec![Condition::Source(subnet), Condition::OutputInterfaceNot(network.link.clone())]);
        }
        // By a published port to a container of the same network, perhaps to itself: the answer must come back
        // through the host to be translated.
        all.push(vec![onto_bridge(), Condition::Source(subnet), Condition::DestinationTranslated]);
        // From the host by its loopback, which is of IPv4 alone.
        if matches!(subnet, IpNet::V4(_)) {
            all.push(vec![onto_bridge(), Condition::Source(LOOPBACK)]);
        }
    }
    all.into_iter().map(|conditions| Rule { conditions, action: Action::Masquerade }).collect()
}

fn forward_rules(networks: &[NetworkRecord], containers: &[ContainerRecord]) -> Vec<Rule> {
    let accept = |conditions| Rule { conditions, action: Action::Accept };
    let drop = |conditions| Rule { conditions, action: Action::Drop };
    let mut rules = Vec::new();
    // Before everything else: not even published ports and their answers lead into an internal network or out of it.
    for network in networks.iter().filter(|network| network.settings.internal) {
        let bridge = || network.link.clone();
        rules.push(drop(vec![Condition::InputInterface(bridge()), Condition::OutputInterfaceNot(bridge())]));
        rules.push(drop(vec![Condition::OutputInterface(bridge()), Condition::InputInterfaceNot(bridge())]));
    }
    rules.extend([accept(vec![Condition::Established]), accept(vec![Condition::DestinationTranslated])]);
    // Containers that shall not reach each other are told apart by their bridge's ports; here it is for hosts whose bridges
    // hand their packets to this table.
    for network in networks.iter().filter(|network| !network.settings.isolated) {
        rules.push(accept(vec![
            Condition::InputInterface(network.link.clone()),
            Condition::OutputInterface(network.link.clone()),
        ]));
    }
    rules.extend(networks.iter().flat_map(|network| open_rules(network, containers)));
    // What is left and goes to a container comes from another network or from outside past its published ports.
    for network in networks {
        rules.push(drop(vec![Condition::OutputInterface(network.link.clone())]));
    }
    rules
}

/// Who is let in to a network whose containers are reached by their own addresses. An isolated network is an internal one, too.
fn open_rules(network: &NetworkRecord, containers: &[ContainerRecord]) -> Vec<Rule> {
    let mut all = Vec::new();
    for family in Family::BOTH {
        let onto = |conditions: Vec<Condition>| {
            let bridge = Condition::OutputInterface(network.link.clone());
            Rule { conditions: [bridge].into_iter().chain(conditions).collect(), action: Action::Accept }
        };
        match network.gateway_mode(family == Family::Ipv6) {
            GatewayMode::Nat | GatewayMode::Isolated => {}
            GatewayMode::NatUnprotected => all.push(onto(vec![Condition::Family(family)])),
            GatewayMode::Routed => {
                all.push(onto(vec![Condition::ControlMessage(family)]));
                for container in containers.iter().filter(|container| container.ready) {
                    let mut serving = container.serving().filter(|(endpoint, _)| endpoint.network == network.name);
                    let Some((_, address)) = serving.find(|(_, address)| Family::of(*address) == family) else {
                        continue;
                    };
                    let is_of = |host_ip: Option<IpAddr>| host_ip.map_or(Family::Ipv4, Family::of) == family;
                    let ports = container.attachment.ports.iter();
                    for port in ports.filter(|port| port.host_port == 0 && is_of(port.host_ip)) {
                        all.push(onto(vec![
                            Condition::Destination(address.into()),
                            Condition::Protocol(port.protocol),
                            Condition::DestinationPort(port.container_port),
                        ]));
                    }
                }
            }
        }
    }
    all
}

impl fmt::Display for Condition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InputInterface(name) => write!(formatter, "iifname \"{name}\""),
            Self::InputInterfaceNot(name) => write!(formatter, "iifname != \"{name}\""),
            Self::OutputInterface(name) => write!(formatter, "oifname \"{name}\""),
            Self::OutputInterfaceNot(name) => write!(formatter, "oifname != \"{name}\""),
            Self::Source(net) => write!(formatter, "{} saddr {net}", Family::of(net.addr()).word()),
            Self::Destination(net) => write!(formatter, "{} daddr {net}", Family::of(net.addr()).word()),
            Self::Family(Family::Ipv4) => formatter.write_str("meta nfproto ipv4"),
            Self::Family(Family::Ipv6) => formatter.write_str("meta nfproto ipv6"),
            Self::DestinationPort(port) => write!(formatter, "th dport {port}"),
            Self::ControlMessage(Family::Ipv4) => formatter.write_str("meta l4proto icmp"),
            Self::ControlMessage(Family::Ipv6) => formatter.write_str("meta l4proto ipv6-icmp"),
            Self::DestinationIsLocal => formatter.write_str("fib daddr type local"),
            Self::Established => formatter.write_str("ct state established,related"),
            Self::DestinationTranslated => formatter.write_str("ct status dnat"),
            Self::Protocol(protocol) => write!(formatter, "meta l4proto {protocol}"),
            Self::OneIn(count) => write!(formatter, "numgen random mod {count} == 0"),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => formatter.write_str("accept"),
            Self::Drop => formatter.write_str("drop"),
            Self::Masquerade => formatter.write_str("masquerade"),
            Self::TranslateDestination(address, port) => {
                let family = Family::of(*address).word();
                write!(formatter, "dnat {family} to {}", std::net::SocketAddr::new(*address, *port))
            }
            Self::Goto(chain) => write!(formatter, "goto {chain}"),
            Self::LookUpPublished => {
                write!(formatter, "meta l4proto . th dport vmap @{PUBLISHED_MAP}")
            }
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::RawPrerouting => "type filter hook prerouting priority raw; policy accept;",
            Self::TranslatePrerouting => "type nat hook prerouting priority dstnat; policy accept;",
            Self::TranslateOutput => "type nat hook output priority -100; policy accept;",
            Self::TranslatePostrouting => "type nat hook postrouting priority srcnat; policy accept;",
            Self::FilterForward => "type filter hook forward priority filter; policy accept;",
        })
    }
}

/// The text that `nft -f` would take.
impl fmt::Display for Ruleset {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "table inet {} {{", self.table)?;
        writeln!(formatter, "\tmap {PUBLISHED_MAP} {{\n\t\ttype inet_proto . inet_service : verdict")?;
        if !self.published.is_empty() {
            let elements: Vec<String> = self
                .published
                .iter()
                .map(|(protocol, port, chain)| format!("{protocol} . {port} : goto {chain}"))
                .collect();
            writeln!(formatter, "\t\telements = {{ {} }}", elements.join(", "))?;
        }
        writeln!(formatter, "\t}}")?;
        for chain in &self.chains {
            writeln!(formatter, "\n\tchain {} {{", chain.name)?;
            if let Some(hook) = chain.hook {
                writeln!(formatter, "\t\t{hook}")?;
            }
            for rule in &chain.rules {
                formatter.write_str("\t\t")?;
                for condition in &rule.conditions {
                    write!(formatter, "{condition} ")?;
                }
                writeln!(formatter, "{}", rule.action)?;
            }
            writeln!(formatter, "\t}}")?;
        }
        writeln!(formatter, "}}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::network::request::{Attachment, Endpoint, Ipv6Part, PortBinding};

    fn network(name: &str, bridge: &str, subnet: &str) -> NetworkRecord {
        let subnet: Ipv4Net = subnet.parse().unwrap();
        NetworkRecord::new(name, bridge, subnet, subnet.hosts().next().unwrap())
    }

    fn container(
        id: &str,
        address: &str,
        ready: bool,
        ports: &[(Option<&str>, u16, u16, Protocol)],
    ) -> ContainerRecord {
        let binding = |&(host, host_port, container_port, protocol): &(Option<&str>, u16, u16, Protocol)| PortBinding {
            host_ip: host.map(|host| host.parse().unwrap()),
            host_port,
            container_port,
            protocol,
            shared: true,
            ..PortBinding::default()
        };
        ContainerRecord {
            id: id.to_owned(),
            hostname: String::new(),
            name: String::new(),
            sysctls: Vec::new(),
            attachment: Attachment {
                endpoints: vec![Endpoint {
                    network: "default".to_owned(),
                    interface: "eth0".to_owned(),
                    address: address.parse().ok(),
                    gateway: "172.30.0.1".parse().ok(),
                    ipv6: None,
                    link_local: Vec::new(),
                    mac: String::new(),
                    priority: 0,
                    internal: false,
                    routes_by_interface: false,
                }],
                ports: ports.iter().map(binding).collect(),
                between: Vec::new(),
            },
            links: Vec::new(),
            aliases: Vec::new(),
            ready,
        }
    }

    #[test]
    fn two_networks_and_their_published_ports() {
        let networks = [network("default", "stack0", "172.30.0.0/23"), network("back", "stack1", "172.30.2.0/23")];
        let containers = [
            container("one", "172.30.0.2/23", true, &[(None, 8080, 80, Protocol::Tcp)]),
            container("two", "172.30.0.3/23", true, &[(None, 8080, 80, Protocol::Tcp), (None, 53, 53, Protocol::Udp)]),
            container("three", "172.30.0.4/23", true, &[(None, 8080, 80, Protocol::Tcp)]),
            container("not-ready", "172.30.0.5/23", false, &[(None, 8080, 80, Protocol::Tcp)]),
            container("local", "172.30.0.6/23", true, &[(Some("127.0.0.1"), 9000, 90, Protocol::Tcp)]),
            container("any", "172.30.0.7/23", true, &[(Some("0.0.0.0"), 9000, 91, Protocol::Tcp)]),
        ];
        insta::assert_snapshot!(ruleset("stack", &networks, &containers, &BTreeMap::new()));
    }

    #[test]
    fn networks_that_keep_apart() {
        let mut internal = network("inner", "stack0", "172.30.0.0/23");
        internal.settings.internal = true;
        let mut isolated = network("each-alone", "stack1", "172.30.2.0/23");
        isolated.settings.isolated = true;
        isolated.settings.keeps_source = true;
        insta::assert_snapshot!(ruleset("stack", &[internal, isolated], &[], &BTreeMap::new()));
    }

    #[test]
    fn both_families_translated_routed_and_open() {
        let with_ipv6 = |name: &str, bridge: &str, number: u8, mode4, mode6| {
            let mut network = network(name, bridge, &format!("172.30.{number}.0/24"));
            network.ipv6 = Some(Ipv6Part {
                net: format!("fd00:{number}::/64").parse().unwrap(),
                gateway: format!("fd00:{number}::1").parse().unwrap(),
            });
            (network.settings.gateway_mode4, network.settings.gateway_mode6) = (mode4, mode6);
            network
        };
        let networks = [
            with_ipv6("default", "stack0", 0, GatewayMode::Nat, GatewayMode::Nat),
            with_ipv6("routed", "stack1", 1, GatewayMode::Nat, GatewayMode::Routed),
            with_ipv6("open", "stack2", 2, GatewayMode::NatUnprotected, GatewayMode::Nat),
        ];
        let on = |network: &str, mut container: ContainerRecord, address: &str, gateway: &str| {
            let endpoint = &mut container.attachment.endpoints[0];
            endpoint.network = network.to_owned();
            endpoint.ipv6 = Some(Ipv6Part { net: address.parse().unwrap(), gateway: gateway.parse().unwrap() });
            container
        };
        let tcp = Protocol::Tcp;
        let both = [
            (None, 8080, 80, tcp),
            (Some("::"), 8080, 80, tcp),
            (Some("2001:db8::7"), 9000, 90, tcp),
            (Some("::"), 9001, 91, Protocol::Sctp),
        ];
        let one = container("one", "172.30.0.2/24", true, &both);
        let two = container("two", "172.30.1.2/24", true, &[(None, 8081, 80, tcp), (Some("::"), 0, 80, tcp)]);
        let containers = [on("default", one, "fd00::2/64", "fd00::1"), on("routed", two, "fd00:1::2/64", "fd00:1::1")];
        // Of the two ports at all addresses one is relayed; SCTP would not be.
        let relayed = At { protocol: tcp, address: IpAddr::V6(Ipv6Addr::LOCALHOST), port: 8080 };
        insta::assert_snapshot!(ruleset("stack", &networks, &containers, &BTreeMap::from([(relayed, 40_001)])));
    }

    #[test]
    fn no_network_at_all() {
        insta::assert_snapshot!(ruleset("stack", &[], &[], &BTreeMap::new()));
    }

    proptest! {
        /// Walks each published chain as chance would: every backend that is ready is reached, and no other.
        #[test]
        fn each_ready_backend_has_the_same_share(ready in prop::collection::vec(any::<bool>(), 1..9)) {
            let containers: Vec<ContainerRecord> = ready
                .iter()
                .enumerate()
                .map(|(index, &ready)| {
                    container(&index.to_string(), &format!("172.30.0.{}/23", index + 2), ready, &[(None, 80, 80, Protocol::Tcp)])
                })
                .collect();
            let built = ruleset("stack", &[network("default", "stack0", "172.30.0.0/23")], &containers, &BTreeMap::new());
            let count = ready.iter().filter(|ready| **ready).count();
            let Some(chain) = built.chains.iter().find(|chain| chain.name == "tcp-80") else {
                prop_assert_eq!(count, 0);
                return Ok(());
            };
            let mut left = 1.0f64;
            let mut total = 0.0f64;
            for rule in &chain.rules {
                let share = match rule.conditions[..] {
                    [_, _, Condition::OneIn(n)] => left / f64::from(n),
                    _ => left,
                };
                left -= share;
                total += share;
                prop_assert!((share - 1.0 / count as f64).abs() < 1e-9);
            }
            prop_assert_eq!(chain.rules.len(), count);
            prop_assert!((total - 1.0).abs() < 1e-9);
        }
    }
}
