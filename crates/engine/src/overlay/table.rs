//! Pure. An nftables table as a value, what leads from one to another, and the text that `nft` shows for it.
//!
//! Its rules do not grow with what it serves: what is different for each service or port stands in maps. So a packet meets
//! the same few look-ups whatever their number, and a change is a few elements.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::network::Protocol;

/// One table of the `inet` family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// Its sets and maps.
    pub maps: Vec<Map>,
    /// In the order in which they are made: a chain stands before those that go to it.
    pub chains: Vec<Chain>,
}

/// A set, or a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map {
    /// Unique in the table.
    pub name: &'static str,
    /// The types of a key's parts.
    pub key: &'static [PartType],
    /// What a key leads to.
    pub value: ValueType,
    /// By key.
    pub elements: BTreeMap<Key, Value>,
}

/// Two families of addresses, which maps and rules are for one of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AddressFamily {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl AddressFamily {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// That of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }
}

/// The type of a part of a key or a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartType {
    /// An IPv4 address.
    Ipv4,
    /// An IPv6 address.
    Ipv6,
    /// A number.
    Number,
    /// A transport protocol.
    Protocol,
    /// A port.
    Port,
    /// A link's name.
    Interface,
}

/// A part of a key or a value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// An IPv4 address.
    Ipv4(Ipv4Addr),
    /// An IPv6 address.
    Ipv6(Ipv6Addr),
    /// A number.
    Number(u32),
    /// A transport protocol.
    Protocol(Protocol),
    /// A port.
    Port(u16),
    /// A link's name.
    Interface(String),
}

impl From<IpAddr> for Part {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::Ipv4(address),
            IpAddr::V6(address) => Self::Ipv6(address),
        }
    }
}

/// The parts that an element is found by.
pub type Key = Vec<Part>;

/// What the keys of a set or map lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueType {
    /// Nothing: it is a set.
    Nothing,
    /// A chain.
    Chain,
    /// Data.
    Data(&'static [PartType]),
}

/// What a key leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Nothing: the key is a member of a set.
    Member,
    /// On to this chain, and no way back.
    Goto(String),
    /// Data.
    Data(Vec<Part>),
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
    /// A filter before connection tracking of packets that arrive.
    RawPrerouting,
    /// A filter before connection tracking of packets that are sent.
    RawOutput,
    /// A filter after connection tracking and before translation of packets that are sent.
    FilterOutput,
    /// A filter of packets that are passed on.
    FilterForward,
    /// Destinations of packets that arrive.
    TranslatePrerouting,
    /// Destinations of packets that are sent.
    TranslateOutput,
    /// Sources of packets that leave.
    TranslatePostrouting,
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
    /// It leaves through this link.
    Output(String),
    /// It leaves through another link.
    OutputNot(String),
    /// It came in through a link of this set.
    InputIn(&'static str),
    /// It leaves through a link of this set.
    OutputIn(&'static str),
    /// It came in and leaves through a pair of links of this set.
    PassesBetween(&'static str),
    /// It comes from this subnet.
    Source(IpNet),
    /// It comes from an address of this set.
    SourceIn(AddressFamily, &'static str),
    /// It goes to this subnet.
    Destination(IpNet),
    /// It goes to an address of this set.
    DestinationIn(AddressFamily, &'static str),
    /// It goes to an address that is not in this set.
    DestinationNotIn(AddressFamily, &'static str),
    /// Its protocol and destination port are in this set.
    PortIn(&'static str),
    /// Its protocol, destination port and address are not in this set.
    PortAtNotIn(AddressFamily, &'static str),
    /// It goes to an address of the host.
    DestinationIsLocal,
    /// It goes to this UDP port.
    UdpDestination(u16),
    /// It is TCP.
    Tcp,
    /// It begins a connection.
    New,
    /// It belongs to a connection that is known.
    Established,
    /// Its connection's destination was translated.
    DestinationTranslated,
}

/// How one of several is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// By chance, for each connection anew.
    Random,
    /// By the client's address.
    Source,
}

/// What is done with a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// It passes this chain.
    Accept,
    /// It is gone.
    Drop,
    /// It is gone, and a TCP reset is the answer.
    Reset,
    /// It is gone, and an ICMP "port unreachable" is the answer.
    Refuse,
    /// Its connection is not tracked.
    Untracked,
    /// Its source becomes the address of the link that it leaves through.
    Masquerade,
    /// On to the chain that this map names for its destination address.
    LookUpDestination(AddressFamily, &'static str),
    /// On to the chain that this map names for its family's protocol and destination port.
    LookUpPort(AddressFamily, &'static str),
    /// Its destination address becomes what this map has for it and a number below `count`.
    TranslateAddress {
        /// Of the packet.
        family: AddressFamily,
        /// Address and number to address.
        map: &'static str,
        /// How many numbers there are.
        count: u32,
        /// How the number is chosen.
        choice: Choice,
    },
    /// Its destination address and port become what this map has for its protocol, its port and a number below `count`.
    TranslatePort {
        /// Of the packet.
        family: AddressFamily,
        /// Protocol, port and number to address and port.
        map: &'static str,
        /// How many numbers there are.
        count: u32,
        /// How the number is chosen.
        choice: Choice,
    },
}

/// The keys of clients are mixed with this, so that one client's backends for several services are not all the first ones.
pub const SOURCE_SEED: u32 = 0x5eed_4792;

impl Table {
    /// A map by its name.
    #[must_use]
    pub fn map(&self, name: &str) -> Option<&Map> {
        self.maps.iter().find(|map| map.name == name)
    }

    /// A chain by its name.
    #[must_use]
    pub fn chain(&self, name: &str) -> Option<&Chain> {
        self.chains.iter().find(|chain| chain.name == name)
    }
}

/// One change of a table. In the order in which they are listed they leave no element that leads to a chain that is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<'a> {
    /// The elements with these keys go.
    RemoveElements(&'a Map, Vec<(&'a Key, &'a Value)>),
    /// This chain goes, with its rules.
    RemoveChain(&'a Chain),
    /// This chain comes, without its rules.
    AddChain(&'a Chain),
    /// The rules of this chain become these.
    SetRules(&'a Chain),
    /// These elements come.
    AddElements(&'a Map, Vec<(&'a Key, &'a Value)>),
}

/// What leads from one table to another of the same name. `None`: only making it anew does, because its maps are others, or
/// a chain has another hook.
#[must_use]
pub fn difference<'a>(have: &'a Table, want: &'a Table) -> Option<Vec<Change<'a>>> {
    let same_maps = have.name == want.name
        && have.maps.len() == want.maps.len()
        && have
            .maps
            .iter()
            .zip(&want.maps)
            .all(|(have, want)| have.name == want.name && have.key == want.key && have.value == want.value);
    let same_hooks =
        have.chains.iter().all(|chain| want.chain(&chain.name).is_none_or(|other| other.hook == chain.hook));
    if !same_maps || !same_hooks {
        return None;
    }
    let mut changes = Vec::new();
    for (have, want) in have.maps.iter().zip(&want.maps) {
        let gone: Vec<_> = without(&have.elements, &want.elements);
        if !gone.is_empty() {
            changes.push(Change::RemoveElements(have, gone));
        }
    }
    // Those that others go to stand first, so they leave last.
    let left = have.chains.iter().rev().filter(|chain| want.chain(&chain.name).is_none());
    changes.extend(left.map(Change::RemoveChain));
    let changed: Vec<_> = want.chains.iter().filter(|chain| have.chain(&chain.name) != Some(chain)).collect();
    changes
        .extend(changed.iter().filter(|chain| have.chain(&chain.name).is_none()).map(|chain| Change::AddChain(chain)));
    changes.extend(changed.iter().map(|chain| Change::SetRules(chain)));
    for (have, want) in have.maps.iter().zip(&want.maps) {
        let new: Vec<_> = without(&want.elements, &have.elements);
        if !new.is_empty() {
            changes.push(Change::AddElements(want, new));
        }
    }
    Some(changes)
}

fn without<'a>(some: &'a BTreeMap<Key, Value>, others: &BTreeMap<Key, Value>) -> Vec<(&'a Key, &'a Value)> {
    some.iter().filter(|(key, value)| others.get(*key) != Some(value)).collect()
}

impl fmt::Display for PartType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Ipv4 => "ipv4_addr",
            Self::Ipv6 => "ipv6_addr",
            Self::Number => "mark",
            Self::Protocol => "inet_proto",
            Self::Port => "inet_service",
            Self::Interface => "ifname",
        })
    }
}

impl fmt::Display for Part {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ipv4(address) => write!(formatter, "{address}"),
            Self::Ipv6(address) => write!(formatter, "{address}"),
            Self::Number(number) => write!(formatter, "{number}"),
            Self::Protocol(protocol) => write!(formatter, "{protocol}"),
            Self::Port(port) => write!(formatter, "{port}"),
            Self::Interface(name) => write!(formatter, "\"{name}\""),
        }
    }
}

fn joined<T: fmt::Display>(parts: &[T]) -> String {
    parts.iter().map(T::to_string).collect::<Vec<_>>().join(" . ")
}

impl fmt::Display for Value {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Member => Ok(()),
            Self::Goto(chain) => write!(formatter, " : goto {chain}"),
            Self::Data(parts) => write!(formatter, " : {}", joined(parts)),
        }
    }
}

impl fmt::Display for AddressFamily {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Ipv4 => "ip",
            Self::Ipv6 => "ip6",
        })
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::RawPrerouting => "type filter hook prerouting priority raw; policy accept;",
            Self::RawOutput => "type filter hook output priority raw; policy accept;",
            Self::FilterOutput => "type filter hook output priority mangle; policy accept;",
            Self::FilterForward => "type filter hook forward priority filter; policy accept;",
            Self::TranslatePrerouting => "type nat hook prerouting priority dstnat; policy accept;",
            Self::TranslateOutput => "type nat hook output priority -100; policy accept;",
            Self::TranslatePostrouting => "type nat hook postrouting priority srcnat; policy accept;",
        })
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = |net: &IpNet| AddressFamily::of(net.addr());
        match self {
            Self::Output(name) => write!(formatter, "oifname \"{name}\""),
            Self::OutputNot(name) => write!(formatter, "oifname != \"{name}\""),
            Self::InputIn(set) => write!(formatter, "iifname @{set}"),
            Self::OutputIn(set) => write!(formatter, "oifname @{set}"),
            Self::PassesBetween(set) => write!(formatter, "iifname . oifname @{set}"),
            Self::Source(net) => write!(formatter, "{} saddr {net}", family(net)),
            Self::SourceIn(family, set) => write!(formatter, "{family} saddr @{set}"),
            Self::Destination(net) => write!(formatter, "{} daddr {net}", family(net)),
            Self::DestinationIn(family, set) => write!(formatter, "{family} daddr @{set}"),
            Self::DestinationNotIn(family, set) => write!(formatter, "{family} daddr != @{set}"),
            Self::PortIn(set) => write!(formatter, "meta l4proto . th dport @{set}"),
            Self::PortAtNotIn(family, set) => {
                write!(formatter, "meta l4proto . th dport . {family} daddr != @{set}")
            }
            Self::DestinationIsLocal => formatter.write_str("fib daddr type local"),
            Self::UdpDestination(port) => write!(formatter, "udp dport {port}"),
            Self::Tcp => formatter.write_str("meta l4proto tcp"),
            Self::New => formatter.write_str("ct state new"),
            Self::Established => formatter.write_str("ct state established,related"),
            Self::DestinationTranslated => formatter.write_str("ct status dnat"),
        }
    }
}

impl Choice {
    fn text(self, family: AddressFamily, count: u32) -> String {
        match self {
            Self::Random => format!("numgen random mod {count}"),
            Self::Source => format!("jhash {family} saddr mod {count} seed {SOURCE_SEED:#x}"),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => formatter.write_str("accept"),
            Self::Drop => formatter.write_str("drop"),
            Self::Reset => formatter.write_str("reject with tcp reset"),
            Self::Refuse => formatter.write_str("reject"),
            Self::Untracked => formatter.write_str("notrack"),
            Self::Masquerade => formatter.write_str("masquerade"),
            Self::LookUpDestination(family, map) => write!(formatter, "{family} daddr vmap @{map}"),
            Self::LookUpPort(family, map) => {
                let family = if *family == AddressFamily::Ipv4 { "ipv4" } else { "ipv6" };
                write!(formatter, "meta nfproto {family} meta l4proto . th dport vmap @{map}")
            }
            Self::TranslateAddress { family, map, count, choice } => {
                write!(formatter, "dnat {family} to {family} daddr . {} map @{map}", choice.text(*family, *count))
            }
            Self::TranslatePort { family, map, count, choice } => {
                let chosen = choice.text(*family, *count);
                write!(formatter, "dnat {family} to meta l4proto . th dport . {chosen} map @{map}")
            }
        }
    }
}

/// As `nft list table` shows it.
impl fmt::Display for Table {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "table inet {} {{", self.name)?;
        for map in &self.maps {
            let (kind, value) = match &map.value {
                ValueType::Nothing => ("set", String::new()),
                ValueType::Chain => ("map", " : verdict".to_owned()),
                ValueType::Data(parts) => ("map", format!(" : {}", joined(parts))),
            };
            writeln!(formatter, "\t{kind} {} {{\n\t\ttype {}{value}", map.name, joined(map.key))?;
            if !map.elements.is_empty() {
                let elements: Vec<String> =
                    map.elements.iter().map(|(key, value)| format!("{}{value}", joined(key))).collect();
                writeln!(formatter, "\t\telements = {{ {} }}", elements.join(",\n\t\t\t     "))?;
            }
            writeln!(formatter, "\t}}\n")?;
        }
        for (index, chain) in self.chains.iter().enumerate() {
            let gap = if index == 0 { "" } else { "\n" };
            writeln!(formatter, "{gap}\tchain {} {{", chain.name)?;
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
