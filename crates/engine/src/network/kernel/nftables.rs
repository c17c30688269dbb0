//! The ruleset, said to nftables in one transaction.

use std::net::IpAddr;

use nlink::netlink::nftables::{
    BaseChain, Chain, ChainName, CmpOp, CtState, CtStatus, Expr, Family, FibFlags, FilterHook, LookupExpr, MetaKey,
    NFT_MSG_NEWTABLE, NatHook, NumgenKind, PayloadBase, Policy, Priority, RawMessage, Register, Rule, Set, SetDataType,
    SetElement, SetKeyType, Transaction, Verdict,
};
use nlink::netlink::types::route::RouteType;

use super::{KernelError, RulesSocket, refused};
use crate::network::request::Protocol;
use crate::network::ruleset::{self, Action, Condition, Family as AddressFamily, Hook, PUBLISHED_MAP, Ruleset};

/// So many elements go into one message; larger ones meet the limit of a netlink attribute (64 KiB).
const ELEMENTS_PER_MESSAGE: usize = 500;

/// Replaces the table by this ruleset at once: a packet meets the old rules or the new ones. Connections that are known
/// are not touched. Where it is known what the kernel has, only what differs is said, which is several times cheaper.
///
/// # Errors
/// What the kernel refused; the old rules are then in force.
pub async fn apply(present: Option<&Ruleset>, wanted: &Ruleset) -> Result<(), KernelError> {
    let connection = RulesSocket::open(None)?;
    let what = || format!("replace the nftables table `inet {}`", wanted.table);
    if let Some(present) = present {
        let difference = difference(connection.transaction(), present, wanted).map_err(refused(what))?;
        match difference.commit(&connection).await {
            Ok(()) => return Ok(()),
            // Somebody changed the table, so what it has is not known after all.
            Err(error) => tracing::debug!(%error, "the nftables table is made anew"),
        }
    }
    whole(connection.transaction(), wanted).map_err(refused(what))?.commit(&connection).await.map_err(refused(what))
}

/// The table made anew.
fn whole(batch: Transaction, ruleset: &Ruleset) -> Result<Transaction, nlink::Error> {
    let table = ruleset.table.as_str();
    // Made if it is missing, so that there is one to delete: the kernel has a deletion that takes nothing for deleted
    // only since 6.3.
    let mut batch = batch.raw(table_if_missing(table)).del_table(table, Family::Inet).add_table(table, Family::Inet);
    for chain in &ruleset.chains {
        batch = add_chain(batch, table, chain)?;
    }
    let map = published_map(table);
    batch = batch.add_set(map.clone());
    batch = add_elements(batch, &map, ruleset.published.iter())?;
    for chain in &ruleset.chains {
        batch = add_rules(batch, table, chain)?;
    }
    Ok(batch)
}

/// What leads from one ruleset to another: elements go before the chains that they lead to, and come after them.
fn difference(mut batch: Transaction, present: &Ruleset, wanted: &Ruleset) -> Result<Transaction, nlink::Error> {
    let table = wanted.table.as_str();
    let map = published_map(table);
    let gone: Vec<SetElement> = present
        .published
        .iter()
        .filter(|element| !wanted.published.contains(element))
        .map(|(protocol, port, _)| published_key(*protocol, *port))
        .collect();
    for some in gone.chunks(ELEMENTS_PER_MESSAGE) {
        batch = batch.del_set_elements(&map, some);
    }
    let find = |ruleset: &'_ Ruleset, name: &str| ruleset.chains.iter().position(|chain| chain.name == name);
    for chain in present.chains.iter().filter(|chain| find(wanted, &chain.name).is_none()) {
        batch = batch.flush_chain(table, &chain.name, Family::Inet).del_chain(table, &chain.name, Family::Inet);
    }
    let changed: Vec<&ruleset::Chain> = wanted.chains.iter().filter(|chain| !present.chains.contains(chain)).collect();
    for chain in &changed {
        batch = match find(present, &chain.name) {
            Some(_) => batch.flush_chain(table, &chain.name, Family::Inet),
            None => add_chain(batch, table, chain)?,
        };
    }
    for chain in changed {
        batch = add_rules(batch, table, chain)?;
    }
    add_elements(batch, &map, wanted.published.iter().filter(|element| !present.published.contains(element)))
}

fn add_chain(batch: Transaction, table: &str, chain: &ruleset::Chain) -> Result<Transaction, nlink::Error> {
    let made = Chain::new(table, chain.name.as_str())?.family(Family::Inet);
    Ok(batch.add_chain(match chain.hook {
        Some(hook) => made.base(base_chain(hook)),
        None => made,
    }))
}

fn add_rules(mut batch: Transaction, table: &str, chain: &ruleset::Chain) -> Result<Transaction, nlink::Error> {
    for rule in &chain.rules {
        batch = batch.add_rule(lower(table, &chain.name, rule)?);
    }
    Ok(batch)
}

fn published_map(table: &str) -> Set {
    Set::new(table, PUBLISHED_MAP)
        .family(Family::Inet)
        .key_type(SetKeyType::Concat(vec![SetKeyType::InetProto, SetKeyType::InetService]))
        .map(SetDataType::Verdict)
}

fn published_key(protocol: Protocol, port: u16) -> SetElement {
    SetElement::concat([SetElement::inet_proto(protocol.number()), SetElement::port(port)])
}

fn add_elements<'a>(
    mut batch: Transaction,
    map: &Set,
    published: impl Iterator<Item = &'a (Protocol, u16, String)>,
) -> Result<Transaction, nlink::Error> {
    let elements = published
        .map(|(protocol, port, chain)| {
            Ok(published_key(*protocol, *port).verdict(Verdict::GotoTo(ChainName::new(chain.as_str())?)))
        })
        .collect::<Result<Vec<_>, nlink::Error>>()?;
    for some in elements.chunks(ELEMENTS_PER_MESSAGE) {
        batch = batch.add_set_elements(map, some);
    }
    Ok(batch)
}

/// `NFT_MSG_NEWTABLE` without `NLM_F_EXCL`: a table that exists is no error. The one attribute is the name (linux/netlink.h:
/// length, type, bytes, padding to four).
fn table_if_missing(table: &str) -> RawMessage {
    const NFTA_TABLE_NAME: u16 = 1;
    let length = 4 + table.len() + 1;
    let mut attribute = Vec::with_capacity(length.next_multiple_of(4));
    attribute.extend(u16::try_from(length).unwrap_or(u16::MAX).to_ne_bytes());
    attribute.extend(NFTA_TABLE_NAME.to_ne_bytes());
    attribute.extend(table.as_bytes());
    attribute.resize(length.next_multiple_of(4).max(attribute.len() + 1), 0);
    RawMessage::new(NFT_MSG_NEWTABLE, Family::Inet)
        .flags(u16::try_from(libc::NLM_F_CREATE).unwrap_or_default())
        .attrs(attribute)
}

fn base_chain(hook: Hook) -> BaseChain {
    match hook {
        Hook::RawPrerouting => BaseChain::filter(FilterHook::Prerouting, Priority::Raw),
        Hook::TranslatePrerouting => BaseChain::nat(NatHook::Prerouting, Priority::DstNat),
        Hook::TranslateOutput => BaseChain::nat(NatHook::Output, Priority::DstNat),
        Hook::TranslatePostrouting => BaseChain::nat(NatHook::Postrouting, Priority::SrcNat),
        Hook::FilterForward => BaseChain::filter(FilterHook::Forward, Priority::Filter),
    }
    .policy(Policy::Accept)
}

/// NFPROTO_IPV4 and NFPROTO_IPV6 of linux/netfilter.h.
const fn family_number(family: AddressFamily) -> u8 {
    match family {
        AddressFamily::Ipv4 => 2,
        AddressFamily::Ipv6 => 10,
    }
}

/// Two bytes at offset two in TCP, UDP and SCTP alike.
const fn destination_port(dreg: Register) -> Expr {
    Expr::Payload { dreg, base: PayloadBase::Transport, offset: 2, len: 2 }
}

fn lower(table: &str, chain: &str, rule: &ruleset::Rule) -> Result<Rule, nlink::Error> {
    let mut lowered = Rule::new(table, chain).family(Family::Inet);
    for condition in &rule.conditions {
        lowered = match condition {
            Condition::InputInterface(name) => lowered.match_iif(name),
            Condition::InputInterfaceNot(name) => lowered.match_iif_not(name),
            Condition::OutputInterface(name) => lowered.match_oif(name),
            Condition::OutputInterfaceNot(name) => lowered.match_oif_not(name),
            Condition::Source(net) => lowered.match_saddr(net.network(), net.prefix_len()),
            Condition::Destination(net) => lowered.match_daddr(net.network(), net.prefix_len()),
            Condition::Family(family) => lowered
                .expr(Expr::Meta { dreg: Register::R0, key: MetaKey::NfProto })
                .expr(Expr::Cmp { sreg: Register::R0, op: CmpOp::Eq, data: vec![family_number(*family)] }),
            Condition::DestinationPort(port) => lowered.expr(destination_port(Register::R0)).expr(Expr::Cmp {
                sreg: Register::R0,
                op: CmpOp::Eq,
                data: port.to_be_bytes().to_vec(),
            }),
            // IANA's registry of protocol numbers.
            Condition::ControlMessage(AddressFamily::Ipv4) => lowered.match_l4proto(1),
            Condition::ControlMessage(AddressFamily::Ipv6) => lowered.match_l4proto(58),
            Condition::DestinationIsLocal => lowered.match_fib_type(FibFlags::DADDR, RouteType::Local),
            Condition::Established => {
                lowered.match_ct_state(CtState(CtState::ESTABLISHED.bits() | CtState::RELATED.bits()))
            }
            Condition::DestinationTranslated => lowered.match_ct_status(CtStatus::DST_NAT),
            Condition::Protocol(protocol) => lowered.match_l4proto(protocol.number()),
            Condition::OneIn(count) => lowered
                .expr(Expr::Numgen { dreg: Register::R0, kind: NumgenKind::Random, modulus: *count, offset: 0 })
                .expr(Expr::Cmp { sreg: Register::R0, op: CmpOp::Eq, data: 0u32.to_ne_bytes().to_vec() }),
        };
    }
    Ok(match &rule.action {
        Action::Accept => lowered.accept(),
        Action::Drop => lowered.drop(),
        Action::Masquerade => lowered.masquerade(),
        Action::TranslateDestination(IpAddr::V4(address), port) => lowered.dnat(*address, Some(*port)),
        Action::TranslateDestination(IpAddr::V6(address), port) => lowered.dnat_v6(*address, Some(*port)),
        Action::Goto(chain) => lowered.try_goto(chain)?,
        Action::LookUpPublished => lowered
            .expr(Expr::Meta { dreg: Register::R0, key: MetaKey::L4Proto })
            .expr(destination_port(Register::Reg32_01))
            .expr(LookupExpr::new(PUBLISHED_MAP, Register::R0).dreg(Register::Verdict)),
    })
}

/// Whether the table in the kernel has other numbers of chains, rules or published ports than this ruleset: somebody
/// flushed it, or a part of it.
///
/// # Errors
/// When the kernel cannot be asked.
pub async fn table_differs(ruleset: &Ruleset) -> Result<bool, KernelError> {
    let connection = RulesSocket::open(None)?;
    let what = || format!("list the nftables table `inet {}`", ruleset.table);
    let table = ruleset.table.as_str();
    let tables = connection.list_tables_in(Family::Inet).await.map_err(refused(what))?;
    if !tables.iter().any(|found| found.name == table) {
        return Ok(true);
    }
    let chains = connection.list_chains_in(table, Family::Inet).await.map_err(refused(what))?;
    let rules = connection.list_rules(table, Family::Inet).await.map_err(refused(what))?;
    let wanted_rules =
        |name: &str| ruleset.chains.iter().find(|chain| chain.name == name).map(|chain| chain.rules.len());
    let same_chains = chains.len() == ruleset.chains.len()
        && chains.iter().all(|chain| {
            wanted_rules(&chain.name) == Some(rules.iter().filter(|rule| rule.chain == chain.name).count())
        });
    if !same_chains {
        return Ok(true);
    }
    let elements = connection.list_set_elements(table, PUBLISHED_MAP, Family::Inet).await.map_err(refused(what))?;
    Ok(elements.len() != ruleset.published.len())
}

/// Removes the table with all that is in it. One that is gone already is no error.
///
/// # Errors
/// What the kernel refused.
pub async fn remove_table(table: &str) -> Result<(), KernelError> {
    RulesSocket::open(None)?
        .del_table_if_exists(table, Family::Inet)
        .await
        .map(drop)
        .map_err(refused(|| format!("remove the nftables table `inet {table}`")))
}
