//! Tables, said to nftables: each change in one transaction.

use std::fs::File;

use nlink::netlink::nftables::{
    BaseChain, Chain, ChainName, CmpOp, CtState, CtStatus, Expr, Family, FibFlags, FilterHook, HashKind, LookupExpr,
    MetaKey, NFT_MSG_NEWTABLE, NatAddr, NatExpr, NatHook, NumgenKind, PayloadBase, Policy, Priority, RawExpr,
    RawMessage, Register, Rule, Set, SetDataType, SetElement, SetKeyType, Transaction, Verdict,
};
use nlink::netlink::types::route::RouteType;

use crate::network::kernel::{KernelError, RulesSocket, refused};
use crate::overlay::table::{
    self, Action, AddressFamily, Change, Choice, Condition, Hook, Key, Map, Part, PartType, SOURCE_SEED, Table, Value,
    ValueType,
};

/// So many elements go into one message; larger ones meet the limit of a netlink attribute (64 KiB).
const ELEMENTS_PER_MESSAGE: usize = 500;

/// The protocol families of linux/netfilter.h.
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;

/// The rules of one network namespace, said by one socket that stays open: to open it costs more than what is said.
#[derive(Debug)]
pub struct Rules {
    socket: RulesSocket,
    /// As it was last seen. It grows with every change of any table in the namespace.
    generation: u32,
    /// The chain and the body of each rule of the table as the kernel shows it; `None`: nobody has looked since it was made.
    shown: Option<Vec<(String, Vec<u8>)>>,
}

impl Rules {
    /// Those of this namespace.
    ///
    /// # Errors
    /// When the socket cannot be opened there.
    pub fn open(netns: &File) -> Result<Self, KernelError> {
        Ok(Self { socket: RulesSocket::open(Some(netns))?, generation: 0, shown: None })
    }

    /// Makes `want` of what the namespace has: a packet meets all of the old rules or all of the new ones, and tracked
    /// connections are not touched. Where it is known what the kernel has, only what differs is said.
    ///
    /// # Errors
    /// What the kernel refused; the old rules are then in force.
    pub async fn apply(&mut self, have: Option<&Table>, want: &Table) -> Result<(), KernelError> {
        let what = || format!("replace the nftables table `inet {}`", want.name);
        let changes = have.and_then(|have| table::difference(have, want));
        self.shown = None;
        let mut done = false;
        if let Some(changes) = changes {
            let mut batch = self.socket.transaction();
            for change in &changes {
                batch = say(batch, &want.name, change).map_err(refused(what))?;
            }
            match batch.commit(&self.socket).await {
                Ok(()) => done = true,
                // Somebody changed the table, so what it has is not known after all.
                Err(error) => tracing::debug!(%error, table = want.name, "the nftables table is made anew"),
            }
        }
        if !done {
            let batch = whole(self.socket.transaction(), want).map_err(refused(what))?;
            batch.commit(&self.socket).await.map_err(refused(what))?;
        }
        self.generation = self.socket.generation().await.map_err(refused(what))?;
        Ok(())
    }

    /// Keeps how the kernel shows the table, unless that is known or somebody has changed any table since: from then on it is
    /// seen whether a change was one of this table. Until then each change is taken for one.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub async fn learn(&mut self, table: &str) -> Result<(), KernelError> {
        if self.shown.is_some() {
            return Ok(());
        }
        let what = || format!("list the nftables table `inet {table}`");
        let shown = self.show(table).await.map_err(refused(what))?;
        if self.socket.generation().await.map_err(refused(what))? == self.generation {
            self.shown = Some(shown);
        }
        Ok(())
    }

    async fn show(&self, table: &str) -> Result<Vec<(String, Vec<u8>)>, nlink::Error> {
        let rules = self.socket.list_rules(table, Family::Inet).await?;
        Ok(rules.into_iter().map(|rule| (rule.chain, rule.expression_bytes)).collect())
    }

    /// Whether somebody changed the table since. When nobody changed any table, this is one question; otherwise it learns the
    /// new generation.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub async fn differs(&mut self, table: &Table) -> Result<bool, KernelError> {
        let what = || format!("list the nftables table `inet {}`", table.name);
        let generation = self.socket.generation().await.map_err(refused(what))?;
        if generation == self.generation {
            return Ok(false);
        }
        let tables = self.socket.list_tables_in(Family::Inet).await.map_err(refused(what))?;
        if self.shown.is_none() || !tables.iter().any(|found| found.name == table.name) {
            return Ok(true);
        }
        let shown = self.show(&table.name).await.map_err(refused(what))?;
        let chains = self.socket.list_chains_in(table.name.as_str(), Family::Inet).await.map_err(refused(what))?;
        if self.shown.as_ref() != Some(&shown) || chains.len() != table.chains.len() {
            return Ok(true);
        }
        for map in &table.maps {
            let elements =
                self.socket.list_set_elements(&table.name, map.name, Family::Inet).await.map_err(refused(what))?;
            if elements.len() != map.elements.len() {
                return Ok(true);
            }
            let mut wanted = Vec::new();
            for (key, value) in &map.elements {
                let element = element(key, value).map_err(refused(what))?;
                wanted.push((element.key().to_vec(), element.data().cloned()));
            }
            wanted.sort_unstable_by(|one, other| one.0.cmp(&other.0));
            let same = elements.iter().all(|found| {
                let place = wanted.binary_search_by(|(key, _)| key.as_slice().cmp(found.key()));
                place.ok().and_then(|place| wanted.get(place)).is_some_and(|(_, data)| data.as_ref() == found.data())
            });
            if !same {
                return Ok(true);
            }
        }
        // What was changed while it was read shows next time.
        self.generation = generation;
        Ok(false)
    }

    /// Removes the table with all that is in it. One that is gone already is no error.
    ///
    /// # Errors
    /// What the kernel refused.
    pub async fn remove(&self, table: &str) -> Result<(), KernelError> {
        self.socket
            .del_table_if_exists(table, Family::Inet)
            .await
            .map(drop)
            .map_err(refused(|| format!("remove the nftables table `inet {table}`")))
    }
}

/// The table made anew.
fn whole(batch: Transaction, want: &Table) -> Result<Transaction, nlink::Error> {
    let name = want.name.as_str();
    // Made if it is missing, so that there is one to delete: the kernel has a deletion that takes nothing for deleted
    // only since 6.3.
    let mut batch = batch.raw(table_if_missing(name)).del_table(name, Family::Inet).add_table(name, Family::Inet);
    for chain in &want.chains {
        batch = say(batch, name, &Change::AddChain(chain))?;
    }
    for map in &want.maps {
        batch = batch.add_set(set(name, map));
    }
    for map in &want.maps {
        batch = say(batch, name, &Change::AddElements(map, map.elements.iter().collect()))?;
    }
    for chain in &want.chains {
        batch = add_rules(batch, name, chain)?;
    }
    Ok(batch)
}

fn say(mut batch: Transaction, table: &str, change: &Change<'_>) -> Result<Transaction, nlink::Error> {
    match change {
        Change::RemoveElements(map, elements) => {
            let set = set(table, map);
            for some in elements.chunks(ELEMENTS_PER_MESSAGE) {
                // The data of an element need not be said to remove it.
                let some: Vec<_> = some.iter().map(|(key, _)| parts(key)).collect();
                batch = batch.del_set_elements(&set, &some);
            }
        }
        Change::RemoveChain(chain) => {
            batch = batch.flush_chain(table, &chain.name, Family::Inet).del_chain(table, &chain.name, Family::Inet);
        }
        Change::AddChain(chain) => {
            let made = Chain::new(table, chain.name.as_str())?.family(Family::Inet);
            batch = batch.add_chain(match chain.hook {
                Some(hook) => made.base(base_chain(hook)),
                None => made,
            });
        }
        Change::SetRules(chain) => {
            batch = batch.flush_chain(table, &chain.name, Family::Inet);
            batch = add_rules(batch, table, chain)?;
        }
        Change::AddElements(map, elements) => {
            let set = set(table, map);
            for some in elements.chunks(ELEMENTS_PER_MESSAGE) {
                let some = some.iter().map(|(key, value)| element(key, value)).collect::<Result<Vec<_>, _>>()?;
                batch = batch.add_set_elements(&set, &some);
            }
        }
    }
    Ok(batch)
}

fn add_rules(mut batch: Transaction, table: &str, chain: &table::Chain) -> Result<Transaction, nlink::Error> {
    for rule in &chain.rules {
        batch = batch.add_rule(lower(table, &chain.name, rule)?);
    }
    Ok(batch)
}

fn set(table: &str, map: &Map) -> Set {
    let made = Set::new(table, map.name).family(Family::Inet).key_type(key_type(map.key));
    match map.value {
        ValueType::Nothing => made,
        ValueType::Chain => made.map(SetDataType::Verdict),
        ValueType::Data(parts) => made.map(SetDataType::Value(key_type(parts))),
    }
}

fn key_type(parts: &[PartType]) -> SetKeyType {
    let part = |part: &PartType| match part {
        PartType::Ipv4 => SetKeyType::Ipv4Addr,
        PartType::Ipv6 => SetKeyType::Ipv6Addr,
        PartType::Number => SetKeyType::Mark,
        PartType::Protocol => SetKeyType::InetProto,
        PartType::Port => SetKeyType::InetService,
        // `ifname` of nft's types, and IFNAMSIZ.
        PartType::Interface => SetKeyType::Other { type_id: 41, len: 16 },
    };
    match parts {
        [single] => part(single),
        several => SetKeyType::Concat(several.iter().map(part).collect()),
    }
}

fn parts(parts: &[Part]) -> SetElement {
    let single = |part: &Part| match part {
        Part::Ipv4(address) => SetElement::ipv4(*address),
        Part::Ipv6(address) => SetElement::ipv6(*address),
        Part::Number(number) => SetElement::mark(*number),
        Part::Protocol(protocol) => SetElement::inet_proto(protocol.number()),
        Part::Port(port) => SetElement::port(*port),
        Part::Interface(name) => {
            let mut bytes = name.as_bytes().to_vec();
            bytes.resize(16, 0);
            SetElement::new(bytes)
        }
    };
    match parts {
        [part] => single(part),
        several => SetElement::concat(several.iter().map(single)),
    }
}

fn element(key: &Key, value: &Value) -> Result<SetElement, nlink::Error> {
    let element = parts(key);
    Ok(match value {
        Value::Member => element,
        Value::Goto(chain) => element.verdict(Verdict::GotoTo(ChainName::new(chain.as_str())?)),
        Value::Data(data) => element.value(parts(data)),
    })
}

/// `NFT_MSG_NEWTABLE` without `NLM_F_EXCL`: a table that exists is no error. The one attribute is the name.
fn table_if_missing(table: &str) -> RawMessage {
    const NFTA_TABLE_NAME: u16 = 1;
    let mut name = table.as_bytes().to_vec();
    name.push(0);
    let mut attributes = Vec::new();
    attribute(&mut attributes, NFTA_TABLE_NAME, &name);
    RawMessage::new(NFT_MSG_NEWTABLE, Family::Inet)
        .flags(u16::try_from(libc::NLM_F_CREATE).unwrap_or_default())
        .attrs(attributes)
}

/// One attribute (linux/netlink.h): length, type, bytes, padding to four.
fn attribute(into: &mut Vec<u8>, kind: u16, bytes: &[u8]) {
    let length = 4 + bytes.len();
    into.extend(u16::try_from(length).unwrap_or(u16::MAX).to_ne_bytes());
    into.extend(kind.to_ne_bytes());
    into.extend(bytes);
    into.resize(into.len() + length.next_multiple_of(4) - length, 0);
}

fn base_chain(hook: Hook) -> BaseChain {
    match hook {
        Hook::RawPrerouting => BaseChain::filter(FilterHook::Prerouting, Priority::Raw),
        Hook::RawOutput => BaseChain::filter(FilterHook::Output, Priority::Raw),
        Hook::FilterOutput => BaseChain::filter(FilterHook::Output, Priority::Mangle),
        Hook::FilterForward => BaseChain::filter(FilterHook::Forward, Priority::Filter),
        Hook::TranslatePrerouting => BaseChain::nat(NatHook::Prerouting, Priority::DstNat),
        Hook::TranslateOutput => BaseChain::nat(NatHook::Output, Priority::DstNat),
        Hook::TranslatePostrouting => BaseChain::nat(NatHook::Postrouting, Priority::SrcNat),
    }
    .policy(Policy::Accept)
}

/// Where the addresses stand in a header: offset of the source, offset of the destination, length.
fn address_places(family: AddressFamily) -> (u32, u32, u32) {
    match family {
        AddressFamily::Ipv4 => (12, 16, 4),
        AddressFamily::Ipv6 => (8, 24, 16),
    }
}

fn of_family(rule: Rule, family: AddressFamily) -> Rule {
    let number = match family {
        AddressFamily::Ipv4 => NFPROTO_IPV4,
        AddressFamily::Ipv6 => NFPROTO_IPV6,
    };
    rule.expr(Expr::Meta { dreg: Register::R0, key: MetaKey::NfProto }).expr(Expr::Cmp {
        sreg: Register::R0,
        op: CmpOp::Eq,
        data: vec![number],
    })
}

fn network_payload(rule: Rule, dreg: Register, offset: u32, len: u32) -> Rule {
    rule.expr(Expr::Payload { dreg, base: PayloadBase::Network, offset, len })
}

/// A number below `count`, into a register.
fn chosen(rule: Rule, family: AddressFamily, choice: Choice, count: u32, dreg: Register) -> Rule {
    match choice {
        Choice::Random => rule.expr(Expr::Numgen { dreg, kind: NumgenKind::Random, modulus: count, offset: 0 }),
        Choice::Source => {
            // The last register of 16 bytes, which nothing else is in.
            let (source, _, len) = address_places(family);
            network_payload(rule, Register::R3, source, len).expr(Expr::Hash {
                dreg,
                kind: HashKind::Jenkins,
                sreg: Some(Register::R3),
                len,
                modulus: count,
                seed: Some(SOURCE_SEED),
                offset: 0,
            })
        }
    }
}

fn lower(table: &str, chain: &str, rule: &table::Rule) -> Result<Rule, nlink::Error> {
    let mut lowered = Rule::new(table, chain).family(Family::Inet);
    for condition in &rule.conditions {
        lowered = condition_of(lowered, condition);
    }
    Ok(match &rule.action {
        Action::Accept => lowered.accept(),
        Action::Drop => lowered.drop(),
        Action::Reset => lowered.reject_tcp_reset(),
        Action::Refuse => lowered.reject(),
        Action::Untracked => lowered.notrack(),
        Action::Masquerade => lowered.masquerade(),
        Action::LookUpDestination(family, map) => {
            let (_, destination, len) = address_places(*family);
            network_payload(of_family(lowered, *family), Register::R0, destination, len)
                .expr(LookupExpr::new(*map, Register::R0).dreg(Register::Verdict))
        }
        Action::LookUpPort(family, map) => protocol_and_port(of_family(lowered, *family))
            .expr(LookupExpr::new(*map, Register::R0).dreg(Register::Verdict)),
        Action::TranslateAddress { family, map, count, choice } => {
            let (_, destination, len) = address_places(*family);
            let number = match family {
                AddressFamily::Ipv4 => Register::Reg32_01,
                AddressFamily::Ipv6 => Register::R1,
            };
            let mut nat = NatExpr::dnat(nat_family(*family));
            nat.addr = NatAddr::Reg;
            let found = network_payload(of_family(lowered, *family), Register::R0, destination, len);
            chosen(found, *family, *choice, *count, number)
                .expr(LookupExpr::new(*map, Register::R0).dreg(Register::R0))
                .expr(Expr::Nat(nat))
        }
        Action::TranslatePort { family, map, count, choice } => {
            let found = protocol_and_port(of_family(lowered, *family));
            chosen(found, *family, *choice, *count, Register::Reg32_02)
                .expr(LookupExpr::new(*map, Register::R0).dreg(Register::R0))
                .expr(translate_to_registers(*family))
        }
    })
}

/// Protocol and destination port, as the first two parts of a key.
fn protocol_and_port(rule: Rule) -> Rule {
    rule.expr(Expr::Meta { dreg: Register::R0, key: MetaKey::L4Proto })
        // Two bytes at offset two in TCP, UDP and SCTP alike.
        .expr(Expr::Payload { dreg: Register::Reg32_01, base: PayloadBase::Transport, offset: 2, len: 2 })
}

fn nat_family(family: AddressFamily) -> Family {
    match family {
        AddressFamily::Ipv4 => Family::Ip,
        AddressFamily::Ipv6 => Family::Ip6,
    }
}

/// A translation to an address and a port that a map gave: an address in the first register, and the port in the one after
/// it (`enum nft_nat_attributes` of linux/netfilter/nf_tables.h).
fn translate_to_registers(family: AddressFamily) -> RawExpr {
    const TYPE: u16 = 1;
    const FAMILY: u16 = 2;
    const ADDRESS: [u16; 2] = [3, 4];
    const PORT: [u16; 2] = [5, 6];
    const DESTINATION: u32 = 1;
    let (number, port) = match family {
        AddressFamily::Ipv4 => (NFPROTO_IPV4, Register::Reg32_01),
        AddressFamily::Ipv6 => (NFPROTO_IPV6, Register::R1),
    };
    let mut bytes = Vec::new();
    attribute(&mut bytes, TYPE, &DESTINATION.to_be_bytes());
    attribute(&mut bytes, FAMILY, &u32::from(number).to_be_bytes());
    for kind in ADDRESS {
        attribute(&mut bytes, kind, &Register::R0.wire().to_be_bytes());
    }
    for kind in PORT {
        attribute(&mut bytes, kind, &port.wire().to_be_bytes());
    }
    RawExpr::new("nat", bytes)
}

fn condition_of(rule: Rule, condition: &Condition) -> Rule {
    let name_in = |rule: Rule, key, set: &str| {
        rule.expr(Expr::Meta { dreg: Register::R0, key }).expr(LookupExpr::new(set, Register::R0))
    };
    match condition {
        Condition::Output(name) => rule.match_oif(name),
        Condition::OutputNot(name) => rule.match_oif_not(name),
        Condition::InputIn(set) => name_in(rule, MetaKey::IifName, set),
        Condition::OutputIn(set) => name_in(rule, MetaKey::OifName, set),
        Condition::PassesBetween(set) => rule
            .expr(Expr::Meta { dreg: Register::R0, key: MetaKey::IifName })
            .expr(Expr::Meta { dreg: Register::R1, key: MetaKey::OifName })
            .expr(LookupExpr::new(*set, Register::R0)),
        Condition::Source(net) => rule.match_saddr(net.network(), net.prefix_len()),
        Condition::Destination(net) => rule.match_daddr(net.network(), net.prefix_len()),
        Condition::SourceIn(family, set) => {
            let (source, _, len) = address_places(*family);
            network_payload(of_family(rule, *family), Register::R0, source, len)
                .expr(LookupExpr::new(*set, Register::R0))
        }
        Condition::DestinationIn(family, set) => {
            let (_, destination, len) = address_places(*family);
            network_payload(of_family(rule, *family), Register::R0, destination, len)
                .expr(LookupExpr::new(*set, Register::R0))
        }
        Condition::DestinationNotIn(family, set) => {
            let (_, destination, len) = address_places(*family);
            network_payload(of_family(rule, *family), Register::R0, destination, len)
                .expr(LookupExpr::new(*set, Register::R0).invert())
        }
        Condition::PortIn(set) => protocol_and_port(rule).expr(LookupExpr::new(*set, Register::R0)),
        Condition::PortAtNotIn(family, set) => {
            let (_, destination, len) = address_places(*family);
            let key = protocol_and_port(of_family(rule, *family));
            network_payload(key, Register::Reg32_02, destination, len)
                .expr(LookupExpr::new(*set, Register::R0).invert())
        }
        Condition::DestinationIsLocal => rule.match_fib_type(FibFlags::DADDR, RouteType::Local),
        Condition::UdpDestination(port) => rule.match_udp_dport(*port),
        Condition::Tcp => rule.match_l4proto(6),
        Condition::New => rule.match_ct_state(CtState(CtState::NEW.bits())),
        Condition::Established => rule.match_ct_state(CtState(CtState::ESTABLISHED.bits() | CtState::RELATED.bits())),
        Condition::DestinationTranslated => rule.match_ct_status(CtStatus::DST_NAT),
    }
}
