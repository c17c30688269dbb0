//! Pure. The table of the host: what passes between its overlay networks and the world, and the ports that every host
//! publishes.
//!
//! - Between hosts: packets of the networks are taken only from hosts that are on one, and none of them is tracked.
//! - Out of a network: as the host, unless the network is internal. Into one: answers and published ports alone. So nothing
//!   passes from one network to another.
//! - A published port goes to the tasks on this host, which see who asks. Without any it goes to those of other hosts as
//!   this host, so that their answers come back here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use super::names;
use super::request::{Ingress, OverlayConfig, OverlayNetwork, Overlays, TUNNELS};
use super::services::{STICKY_SLOTS, sticky_backend};
use super::table::{
    Action, AddressFamily, Chain, Choice, Condition, Hook, Key, Map, Part, PartType, Rule, Table, Value, ValueType,
};

use crate::encryption::Slot;

/// The bridges.
const BRIDGES: &str = "bridges";
/// The bridges of internal networks.
const INTERNAL: &str = "internal";
/// The tunnels between hosts.
const TUNNEL_LINKS: &str = "tunnels";
/// Each bridge with itself.
const WITHIN: &str = "within";
/// The other hosts, by family.
const PEERS: [&str; 2] = ["peers4", "peers6"];
/// Protocol and port to the chain for its number of tasks, by family.
const PUBLISHED: [&str; 2] = ["published4", "published6"];
/// Protocol, port and number to task, by family.
const TASKS: [&str; 2] = ["tasks4", "tasks6"];
/// The tasks of published ports that are on this host, by family.
const LOCAL: [&str; 2] = ["local4", "local6"];

/// Ports that are published on some addresses of the host alone.
const RESTRICTED: &str = "restricted";
/// Those ports with these addresses, by family.
const ALLOWED: [&str; 2] = ["allowed4", "allowed6"];

const STICKY_CHAIN: &str = "sticky";

/// The loopback network, which bridges route so that `127.0.0.1:PORT` works on the host.
const LOOPBACK: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8));

/// The host's table for these networks; `None` when there is no network.
#[must_use]
pub fn host_table(config: &OverlayConfig, overlays: &Overlays) -> Option<Table> {
    if overlays.networks.is_empty() {
        return None;
    }
    let mut published = Published::default();
    for ingress in overlays.networks.values().flat_map(|network| &network.ingress) {
        published.add(ingress);
    }
    let networks: Vec<(String, &OverlayNetwork)> =
        overlays.networks.values().map(|network| (names::bridge(&config.prefix, network.vni), network)).collect();
    let base = |name: &str, hook, rules| Chain { name: name.to_owned(), hook: Some(hook), rules };
    let mut chains = published.chains();
    chains.push(base("arriving", Hook::RawPrerouting, arriving_rules(config, &networks)));
    chains.push(base("leaving", Hook::RawOutput, leaving_rules(config, &networks)));
    chains.push(base("prerouting", Hook::TranslatePrerouting, published_rules()));
    chains.push(base("output", Hook::TranslateOutput, published_rules()));
    chains.push(base("postrouting", Hook::TranslatePostrouting, masquerade_rules(&networks)));
    chains.push(base("forward", Hook::FilterForward, forward_rules()));
    Some(Table { name: config.table.clone(), maps: maps(config, overlays, &networks, published), chains })
}

fn rule(conditions: impl Into<Vec<Condition>>, action: Action) -> Rule {
    Rule { conditions: conditions.into(), action }
}

fn maps(
    config: &OverlayConfig,
    overlays: &Overlays,
    networks: &[(String, &OverlayNetwork)],
    published: Published,
) -> Vec<Map> {
    let members = |keys: Vec<Key>| keys.into_iter().map(|key| (key, Value::Member)).collect::<BTreeMap<_, _>>();
    let bridges = |chosen: &dyn Fn(&OverlayNetwork) -> bool, times: usize| {
        let chosen = networks.iter().filter(|(_, network)| chosen(network));
        members(chosen.map(|(bridge, _)| vec![Part::Interface(bridge.clone()); times]).collect())
    };
    // Those of encrypted networks come by tunnels.
    let plain = overlays.networks.values().filter(|network| !network.encrypted);
    let peers: BTreeSet<IpAddr> =
        plain.flat_map(|network| &network.neighbours).map(|neighbour| neighbour.host).collect();
    let peers = |family| {
        let of_family = peers.iter().filter(|peer| AddressFamily::of(**peer) == family);
        members(of_family.map(|&peer| vec![Part::from(peer)]).collect())
    };
    let Published {
        ports: [ports4, ports6],
        tasks: [tasks4, tasks6],
        local: [local4, local6],
        restricted,
        allowed: [allowed4, allowed6],
        ..
    } = published;
    let map = |name, key, value, elements| Map { name, key, value, elements };
    let port: &[PartType] = &[PartType::Protocol, PartType::Port];
    let numbered: &[PartType] = &[PartType::Protocol, PartType::Port, PartType::Number];
    let set = ValueType::Nothing;
    let mut maps = vec![
        map(BRIDGES, &[PartType::Interface], set.clone(), bridges(&|_| true, 1)),
        map(INTERNAL, &[PartType::Interface], set.clone(), bridges(&|network| network.internal, 1)),
        map(WITHIN, &[PartType::Interface, PartType::Interface], set.clone(), bridges(&|_| true, 2)),
        map(PEERS[0], &[PartType::Ipv4], set.clone(), peers(AddressFamily::Ipv4)),
        map(PEERS[1], &[PartType::Ipv6], set.clone(), peers(AddressFamily::Ipv6)),
        map(LOCAL[0], &[PartType::Ipv4], set.clone(), local4),
        map(LOCAL[1], &[PartType::Ipv6], set.clone(), local6),
        map(RESTRICTED, port, set.clone(), restricted),
        map(ALLOWED[0], &[PartType::Protocol, PartType::Port, PartType::Ipv4], set.clone(), allowed4),
        map(ALLOWED[1], &[PartType::Protocol, PartType::Port, PartType::Ipv6], set.clone(), allowed6),
        map(PUBLISHED[0], port, ValueType::Chain, ports4),
        map(PUBLISHED[1], port, ValueType::Chain, ports6),
        map(TASKS[0], numbered, ValueType::Data(&[PartType::Ipv4, PartType::Port]), tasks4),
        map(TASKS[1], numbered, ValueType::Data(&[PartType::Ipv6, PartType::Port]), tasks6),
    ];
    if is_any_encrypted(networks) {
        let links = Slot::BOTH.map(|slot| vec![Part::Interface(slot.link(&config.prefix))]);
        maps.push(map(TUNNEL_LINKS, &[PartType::Interface], set, members(links.into())));
    }
    maps
}

#[derive(Default)]
struct Published {
    ports: [BTreeMap<Key, Value>; 2],
    tasks: [BTreeMap<Key, Value>; 2],
    local: [BTreeMap<Key, Value>; 2],
    restricted: BTreeMap<Key, Value>,
    allowed: [BTreeMap<Key, Value>; 2],
    counts: BTreeSet<u32>,
    sticky: bool,
}

impl Published {
    fn add(&mut self, ingress: &Ingress) {
        if let Some(address) = ingress.host_ip {
            let port = vec![Part::Protocol(ingress.protocol), Part::Port(ingress.port)];
            let mut with_address = port.clone();
            with_address.push(Part::from(address));
            self.restricted.insert(port, Value::Member);
            self.allowed[AddressFamily::of(address) as usize].insert(with_address, Value::Member);
        }
        for family in AddressFamily::BOTH {
            let of_family = |addresses: &[IpAddr]| -> BTreeSet<IpAddr> {
                addresses.iter().copied().filter(|address| AddressFamily::of(*address) == family).collect()
            };
            let local = of_family(&ingress.local);
            let index = family as usize;
            self.local[index].extend(local.iter().map(|&address| (vec![Part::from(address)], Value::Member)));
            let tasks = if local.is_empty() { of_family(&ingress.remote) } else { local };
            let tasks: Vec<IpAddr> = tasks.into_iter().collect();
            let Ok(count @ 1..) = u32::try_from(tasks.len()) else { continue };
            let (chain, slots): (String, Vec<IpAddr>) = if ingress.sticky {
                self.sticky = true;
                (STICKY_CHAIN.to_owned(), (0..STICKY_SLOTS).filter_map(|slot| sticky_backend(slot, &tasks)).collect())
            } else {
                self.counts.insert(count);
                (chain_name(count), tasks)
            };
            let port = vec![Part::Protocol(ingress.protocol), Part::Port(ingress.port)];
            for (number, task) in (0..).zip(slots) {
                let mut key = port.clone();
                key.push(Part::Number(number));
                self.tasks[index].insert(key, Value::Data(vec![Part::from(task), Part::Port(ingress.target)]));
            }
            self.ports[index].insert(port, Value::Goto(chain));
        }
    }

    fn chains(&self) -> Vec<Chain> {
        let chain = |name, count, choice| Chain {
            name,
            hook: None,
            rules: AddressFamily::BOTH
                .map(|family| rule([], Action::TranslatePort { family, map: TASKS[family as usize], count, choice }))
                .into(),
        };
        let mut chains: Vec<Chain> =
            self.counts.iter().map(|&count| chain(chain_name(count), count, Choice::Random)).collect();
        if self.sticky {
            chains.push(chain(STICKY_CHAIN.to_owned(), STICKY_SLOTS, Choice::Source));
        }
        chains
    }
}

fn chain_name(count: u32) -> String {
    format!("among-{count}")
}

fn is_any_encrypted(networks: &[(String, &OverlayNetwork)]) -> bool {
    networks.iter().any(|(_, network)| network.encrypted)
}

fn arriving_rules(config: &OverlayConfig, networks: &[(String, &OverlayNetwork)]) -> Vec<Rule> {
    let tunnelled = || vec![Condition::DestinationIsLocal, Condition::UdpDestination(config.port)];
    let mut rules = Vec::new();
    if is_any_encrypted(networks) {
        // By a tunnel comes who has proved who he is: to the encrypted networks, and to nothing else of this host. And what
        // is for them or for an address within tunnels comes by a tunnel.
        let protected = Condition::UdpDestination(config.encrypted_port());
        let within = Condition::Destination(TUNNELS.into());
        let by_tunnel = [Condition::InputIn(TUNNEL_LINKS), within.clone(), protected.clone()];
        rules.push(rule(by_tunnel.clone(), Action::Untracked));
        rules.push(rule(by_tunnel, Action::Accept));
        rules.push(rule([Condition::InputIn(TUNNEL_LINKS)], Action::Drop));
        rules.push(rule([Condition::DestinationIsLocal, protected], Action::Drop));
        rules.push(rule([within], Action::Drop));
    }
    for family in AddressFamily::BOTH {
        let mut conditions = tunnelled();
        conditions.push(Condition::SourceIn(family, PEERS[family as usize]));
        rules.push(rule(conditions.clone(), Action::Untracked));
        rules.push(rule(conditions, Action::Accept));
    }
    rules.push(rule(tunnelled(), Action::Drop));
    // Nothing on a network may speak to or as the loopback addresses of the host.
    if networks.iter().any(|(_, network)| !network.internal) {
        for loopback in [Condition::Destination(LOOPBACK), Condition::Source(LOOPBACK)] {
            rules.push(rule([Condition::InputIn(BRIDGES), loopback], Action::Drop));
        }
    }
    rules
}

fn leaving_rules(config: &OverlayConfig, networks: &[(String, &OverlayNetwork)]) -> Vec<Rule> {
    let mut rules = vec![rule([Condition::UdpDestination(config.port)], Action::Untracked)];
    if is_any_encrypted(networks) {
        // To an address within tunnels nothing goes by another way, whatever becomes of the tunnels.
        let by_tunnel = [Condition::Destination(TUNNELS.into()), Condition::OutputIn(TUNNEL_LINKS)];
        rules.push(rule(by_tunnel.clone(), Action::Untracked));
        rules.push(rule(by_tunnel, Action::Accept));
        rules.push(rule([Condition::Destination(TUNNELS.into())], Action::Drop));
    }
    rules
}

fn published_rules() -> Vec<Rule> {
    let elsewhere = AddressFamily::BOTH.map(|family| {
        let not_there = Condition::PortAtNotIn(family, ALLOWED[family as usize]);
        rule([Condition::PortIn(RESTRICTED), not_there], Action::Accept)
    });
    let published = AddressFamily::BOTH
        .map(|family| rule([Condition::DestinationIsLocal], Action::LookUpPort(family, PUBLISHED[family as usize])));
    elsewhere.into_iter().chain(published).collect()
}

fn masquerade_rules(networks: &[(String, &OverlayNetwork)]) -> Vec<Rule> {
    let mut rules = Vec::new();
    let mut masquerade = |conditions: Vec<Condition>| rules.push(rule(conditions, Action::Masquerade));
    for family in AddressFamily::BOTH {
        // By a published port to another host: the answer must come back here to be translated.
        masquerade(vec![
            Condition::OutputIn(BRIDGES),
            Condition::DestinationTranslated,
            Condition::DestinationNotIn(family, LOCAL[family as usize]),
        ]);
    }
    for (bridge, network) in networks.iter().filter(|(_, network)| !network.internal) {
        for subnet in network.addresses.iter().map(IpNet::trunc) {
            // To the world.
            masquerade(vec![Condition::Source(subnet), Condition::OutputNot(bridge.clone())]);
            // By a published port to a task of the same network on this host, perhaps to itself.
            masquerade(vec![
                Condition::Output(bridge.clone()),
                Condition::Source(subnet),
                Condition::DestinationTranslated,
            ]);
        }
        // From the host by 127.0.0.1.
        masquerade(vec![Condition::Output(bridge.clone()), Condition::Source(LOOPBACK)]);
    }
    rules
}

fn forward_rules() -> Vec<Rule> {
    vec![
        rule([Condition::PassesBetween(WITHIN)], Action::Accept),
        rule([Condition::InputIn(INTERNAL)], Action::Drop),
        rule([Condition::OutputIn(INTERNAL)], Action::Drop),
        rule([Condition::Established], Action::Accept),
        rule([Condition::DestinationTranslated], Action::Accept),
        // What is left and goes to a container comes from another network or from outside past its published ports.
        rule([Condition::OutputIn(BRIDGES)], Action::Drop),
    ]
}
