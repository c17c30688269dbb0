//! Firewalls of the host that drop what they do not know: a host that runs Docker has one.
//!
//! An `accept` in our table does not help against a `drop` in another. So where iptables' own chain drops by its policy, our
//! bridges are added at its end, after every rule that somebody put there on purpose. Other tables are somebody's own work,
//! for which there is a warning.

use nlink::netlink::nftables::{Family, Hook, Policy, Rule, RuleInfo};
use nlink::netlink::{Connection, Nftables};

use super::{KernelError, refused};

/// Where iptables keeps the rules for packets that are passed on, when it works through nftables.
const TABLE: &str = "filter";
const CHAIN: &str = "FORWARD";

fn connect() -> Result<Connection<Nftables>, KernelError> {
    Connection::<Nftables>::new().map_err(refused(|| "open an nftables socket".to_owned()))
}

/// The comment on our rules in the chain of others.
fn mark(table: &str, bridge: &str, direction: &str) -> String {
    format!("{table}: {direction} {bridge}")
}

/// Lets bridges through, in the firewall of each family those that have it, and no others of ours, and tells of chains that
/// still stand in the way.
///
/// # Errors
/// What the kernel refused.
pub async fn open_firewalls(table: &str, bridges: &[String], bridges6: &[String]) -> Result<Vec<String>, KernelError> {
    let connection = connect()?;
    let chains = connection.list_chains().await.map_err(refused(|| "list the chains of nftables".to_owned()))?;
    let drops = chains.into_iter().filter(|chain| {
        matches!(chain.family, Family::Ip | Family::Ip6 | Family::Inet)
            && chain.hook == Some(Hook::Forward.number(chain.family))
            && chain.policy == Some(Policy::Drop.to_u32())
            && chain.table != table
    });
    let mut warnings = Vec::new();
    for chain in drops {
        let concerned: Vec<String> = match chain.family {
            Family::Ip => bridges.to_vec(),
            Family::Ip6 => bridges6.to_vec(),
            _ => bridges.iter().chain(bridges6.iter().filter(|bridge| !bridges.contains(bridge))).cloned().collect(),
        };
        if chain.family != Family::Inet && chain.table == TABLE && chain.name == CHAIN {
            let_through(&connection, chain.family, table, &concerned).await?;
        } else if !concerned.is_empty() {
            warnings.push(format!(
                "the nftables chain `{} {} {}` drops packets that this host passes on; containers reach nothing unless it \
                 accepts those from and to the interfaces {}",
                chain.family.name(),
                chain.table,
                chain.name,
                concerned.join(", ")
            ));
        }
    }
    Ok(warnings)
}

async fn let_through(
    connection: &Connection<Nftables>,
    family: Family,
    table: &str,
    bridges: &[String],
) -> Result<(), KernelError> {
    let present = our_rules(connection, family, table).await?;
    let wanted: Vec<(String, Rule)> = bridges
        .iter()
        .flat_map(|bridge| {
            let rule = || Rule::new(TABLE, CHAIN).family(family);
            [("from", rule().match_iif(bridge)), ("to", rule().match_oif(bridge))].map(|(direction, matched)| {
                let mark = mark(table, bridge, direction);
                (mark.clone(), matched.accept().comment(&mark))
            })
        })
        .collect();
    let mut batch = connection.transaction();
    let mut changes = 0;
    for stale in present.iter().filter(|rule| !wanted.iter().any(|(mark, _)| rule.comment_text.as_ref() == Some(mark)))
    {
        batch = batch.del_rule(TABLE, CHAIN, family, stale.handle);
        changes += 1;
    }
    for (mark, rule) in wanted {
        if !present.iter().any(|present| present.comment_text.as_ref() == Some(&mark)) {
            batch = batch.add_rule(rule);
            changes += 1;
        }
    }
    if changes == 0 {
        return Ok(());
    }
    batch
        .commit(connection)
        .await
        .map_err(refused(|| format!("let containers through `{} {TABLE} {CHAIN}`", family.name())))
}

async fn our_rules(
    connection: &Connection<Nftables>,
    family: Family,
    table: &str,
) -> Result<Vec<RuleInfo>, KernelError> {
    let rules = connection
        .list_rules(TABLE, family)
        .await
        .map_err(refused(|| format!("list the nftables table `{} {TABLE}`", family.name())))?;
    let ours = |rule: &RuleInfo| {
        let marked = |comment: &String| {
            comment.strip_prefix(table).is_some_and(|rest| rest.starts_with(": from ") || rest.starts_with(": to "))
        };
        rule.chain == CHAIN && rule.comment_text.as_ref().is_some_and(marked)
    };
    Ok(rules.into_iter().filter(ours).collect())
}

/// Takes our rules out of the chain of others, whatever its policy is now.
///
/// # Errors
/// What the kernel refused.
pub async fn close_firewalls(table: &str) -> Result<(), KernelError> {
    let connection = connect()?;
    for family in [Family::Ip, Family::Ip6] {
        let listed = connection.list_tables_in(family).await;
        let tables = listed.map_err(refused(|| "list the tables of nftables".to_owned()))?;
        if tables.iter().any(|found| found.name == TABLE) {
            let_through(&connection, family, table, &[]).await?;
        }
    }
    Ok(())
}
