//! Pure. The table of a container's own network namespace: the virtual addresses of the services on its networks.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;
use std::net::IpAddr;

use super::request::{Overlays, VirtualService};
use super::table::{
    Action, AddressFamily, Chain, Choice, Condition, Hook, Key, Map, Part, PartType, Rule, Table, Value, ValueType,
};

/// A service with affinity has so many numbers, each of which belongs to a backend: a backend that comes or goes moves
/// about its own share of the clients and no more.
pub const STICKY_SLOTS: u32 = 64;

/// Virtual address to the chain for its number of backends, by family.
const SERVICES: [&str; 2] = ["services4", "services6"];
/// Virtual address and number to backend, by family.
const BACKENDS: [&str; 2] = ["backends4", "backends6"];
/// Virtual addresses without a backend, by family.
const REFUSED: [&str; 2] = ["refused4", "refused6"];

const STICKY_CHAIN: &str = "sticky";

/// The table of a container that is on these networks.
#[must_use]
pub fn service_table(table: &str, overlays: &Overlays, networks: &BTreeSet<String>) -> Table {
    let mut built = Built::default();
    for network in networks.iter().filter_map(|name| overlays.networks.get(name)) {
        for service in &network.services {
            built.add(service);
        }
    }
    built.table(table)
}

#[derive(Default)]
struct Built {
    services: [BTreeMap<Key, Value>; 2],
    backends: [BTreeMap<Key, Value>; 2],
    refused: [BTreeMap<Key, Value>; 2],
    counts: BTreeSet<u32>,
    sticky: bool,
}

impl Built {
    fn add(&mut self, service: &VirtualService) {
        for &address in &service.addresses {
            let family = AddressFamily::of(address);
            // In one order on every host, and each once.
            let backends: BTreeSet<IpAddr> =
                service.backends.iter().copied().filter(|backend| AddressFamily::of(*backend) == family).collect();
            let backends: Vec<IpAddr> = backends.into_iter().collect();
            let index = family as usize;
            let key = vec![Part::from(address)];
            let Ok(count) = u32::try_from(backends.len()) else { continue };
            if count == 0 {
                self.refused[index].insert(key, Value::Member);
                continue;
            }
            let (chain, slots): (String, Vec<IpAddr>) = if service.sticky {
                self.sticky = true;
                (
                    STICKY_CHAIN.to_owned(),
                    (0..STICKY_SLOTS).filter_map(|slot| sticky_backend(slot, &backends)).collect(),
                )
            } else {
                self.counts.insert(count);
                (chain_name(count), backends)
            };
            self.services[index].insert(key, Value::Goto(chain));
            for (number, backend) in (0..).zip(slots) {
                self.backends[index]
                    .insert(vec![Part::from(address), Part::Number(number)], Value::Data(vec![Part::from(backend)]));
            }
        }
    }

    fn table(self, name: &str) -> Table {
        let mut chains: Vec<Chain> = self
            .counts
            .iter()
            .map(|&count| Chain { name: chain_name(count), hook: None, rules: translate_rules(count, Choice::Random) })
            .collect();
        if self.sticky {
            let rules = translate_rules(STICKY_SLOTS, Choice::Source);
            chains.push(Chain { name: STICKY_CHAIN.to_owned(), hook: None, rules });
        }
        let unconditional = |action| Rule { conditions: Vec::new(), action };
        chains.push(Chain {
            name: "refuse".to_owned(),
            hook: Some(Hook::FilterOutput),
            rules: AddressFamily::BOTH.into_iter().flat_map(refuse_rules).collect(),
        });
        chains.push(Chain {
            name: "translate".to_owned(),
            hook: Some(Hook::TranslateOutput),
            rules: AddressFamily::BOTH
                .map(|family| unconditional(Action::LookUpDestination(family, SERVICES[family as usize])))
                .into(),
        });
        let [services4, services6] = self.services;
        let [backends4, backends6] = self.backends;
        let [refused4, refused6] = self.refused;
        let map = |name, key, value, elements| Map { name, key, value, elements };
        let maps = vec![
            map(SERVICES[0], &[PartType::Ipv4], ValueType::Chain, services4),
            map(SERVICES[1], &[PartType::Ipv6], ValueType::Chain, services6),
            map(BACKENDS[0], &[PartType::Ipv4, PartType::Number], ValueType::Data(&[PartType::Ipv4]), backends4),
            map(BACKENDS[1], &[PartType::Ipv6, PartType::Number], ValueType::Data(&[PartType::Ipv6]), backends6),
            map(REFUSED[0], &[PartType::Ipv4], ValueType::Nothing, refused4),
            map(REFUSED[1], &[PartType::Ipv6], ValueType::Nothing, refused6),
        ];
        Table { name: name.to_owned(), maps, chains }
    }
}

fn chain_name(count: u32) -> String {
    format!("among-{count}")
}

fn translate_rules(count: u32, choice: Choice) -> Vec<Rule> {
    AddressFamily::BOTH
        .map(|family| Rule {
            conditions: Vec::new(),
            action: Action::TranslateAddress { family, map: BACKENDS[family as usize], count, choice },
        })
        .into()
}

/// Only what begins a connection is refused: one that was there before the last backend went may go on.
fn refuse_rules(family: AddressFamily) -> [Rule; 2] {
    let conditions = vec![Condition::New, Condition::DestinationIn(family, REFUSED[family as usize])];
    let mut tcp = conditions.clone();
    tcp.push(Condition::Tcp);
    [Rule { conditions: tcp, action: Action::Reset }, Rule { conditions, action: Action::Refuse }]
}

/// The backend that a slot belongs to: the one with the highest mix of both. So each slot's choice is apart from all others.
pub(super) fn sticky_backend(slot: u32, backends: &[IpAddr]) -> Option<IpAddr> {
    backends.iter().copied().max_by_key(|backend| (mix(slot, *backend), *backend))
}

/// FNV-1a with a final shuffle: the same on every host and in every version of this program.
fn mix(slot: u32, backend: IpAddr) -> u64 {
    let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
    hasher.write(&slot.to_be_bytes());
    match backend {
        IpAddr::V4(address) => hasher.write(&address.octets()),
        IpAddr::V6(address) => hasher.write(&address.octets()),
    }
    let mixed = hasher.finish();
    let mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed ^ (mixed >> 33)
}

struct Fnv(u64);

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// What must be forgotten of the connections in a container's namespace when its table changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Pairs of a virtual address and a backend that is not among its backends any more. A TCP connection of theirs goes
    /// on, to be drained; one without connections, like UDP, must be moved, because its client may keep its socket.
    pub moved: BTreeSet<(IpAddr, IpAddr)>,
    /// Virtual addresses that were not served before: what was sent there by then was not translated, and is remembered so.
    pub served: BTreeSet<IpAddr>,
}

impl Forgotten {
    /// Nothing at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.moved.is_empty() && self.served.is_empty()
    }
}

/// What must be forgotten when one table takes the place of another.
#[must_use]
pub fn forgotten(have: &Table, want: &Table) -> Forgotten {
    let mut forgotten = Forgotten::default();
    for index in [0, 1] {
        let (Some(had), Some(has)) = (have.map(BACKENDS[index]), want.map(BACKENDS[index])) else { continue };
        let present = pairs(has);
        forgotten.moved.extend(pairs(had).difference(&present));
        let (Some(had), Some(has)) = (have.map(SERVICES[index]), want.map(SERVICES[index])) else { continue };
        let new = has.elements.keys().filter(|key| !had.elements.contains_key(*key));
        forgotten.served.extend(new.filter_map(|key| address(key.first()?)));
    }
    forgotten
}

fn pairs(map: &Map) -> BTreeSet<(IpAddr, IpAddr)> {
    map.elements
        .iter()
        .filter_map(|(key, value)| match value {
            Value::Data(parts) => Some((address(key.first()?)?, address(parts.first()?)?)),
            Value::Member | Value::Goto(_) => None,
        })
        .collect()
}

fn address(part: &Part) -> Option<IpAddr> {
    match part {
        Part::Ipv4(address) => Some(IpAddr::V4(*address)),
        Part::Ipv6(address) => Some(IpAddr::V6(*address)),
        Part::Number(_) | Part::Protocol(_) | Part::Port(_) | Part::Interface(_) => None,
    }
}
