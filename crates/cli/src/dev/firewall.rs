//! A firewall of this machine that drops what it does not know, as Docker leaves one: packets between the hosts of a
//! cluster pass it too where bridges are filtered (`bridge-nf-call-iptables`).

use nlink::netlink::nftables::{Family, Hook, Policy, Rule};
use nlink::netlink::{Connection, Nftables};

use super::plan::Cluster;
use super::wiring::{WiringError, failed};

/// Where iptables keeps the rules for packets that are passed on, when it works through nftables.
const TABLE: &str = "filter";
const CHAIN: &str = "FORWARD";

fn connect() -> Result<Connection<Nftables>, WiringError> {
    Connection::<Nftables>::new().map_err(failed(|| "open an nftables socket".to_owned()))
}

/// Lets a cluster's bridge through iptables' chain where that drops by its policy, at its end, after every rule that
/// somebody put there on purpose. Tells of other chains that drop.
///
/// # Errors
/// What the kernel refused.
pub async fn open(cluster: &Cluster) -> Result<Vec<String>, WiringError> {
    let connection = connect()?;
    let chains = connection.list_chains().await.map_err(failed(|| "list the chains of nftables".to_owned()))?;
    let mut warnings = Vec::new();
    for chain in chains {
        let drops = matches!(chain.family, Family::Ip | Family::Inet)
            && chain.hook == Some(Hook::Forward.number(chain.family))
            && chain.policy == Some(Policy::Drop.to_u32());
        if !drops {
            continue;
        }
        if chain.family == Family::Ip && chain.table == TABLE && chain.name == CHAIN {
            let rule = || Rule::new(TABLE, CHAIN).family(Family::Ip);
            connection
                .transaction()
                .add_rule(rule().match_iif(&cluster.bridge).accept().comment(&mark(cluster)))
                .add_rule(rule().match_oif(&cluster.bridge).accept().comment(&mark(cluster)))
                .commit(&connection)
                .await
                .map_err(failed(|| format!("let the hosts through `ip {TABLE} {CHAIN}`")))?;
        } else {
            warnings.push(format!(
                "the nftables chain `{} {} {}` drops packets that this machine passes on; the hosts reach nothing unless it \
                 accepts those from and to the interface {}",
                chain.family.name(),
                chain.table,
                chain.name,
                cluster.bridge
            ));
        }
    }
    Ok(warnings)
}

/// The comment on our rules in the chain of others.
fn mark(cluster: &Cluster) -> String {
    format!("stack dev: {}", cluster.bridge)
}

/// Takes the rules of [`open`] out again. That there are none is no error.
///
/// # Errors
/// What the kernel refused.
pub async fn close(cluster: &Cluster) -> Result<(), WiringError> {
    let connection = connect()?;
    let what = || format!("take the rules of `stack dev` out of `ip {TABLE} {CHAIN}`");
    let tables = connection.list_tables_in(Family::Ip).await.map_err(failed(what))?;
    if !tables.iter().any(|table| table.name == TABLE) {
        return Ok(());
    }
    let mark = mark(cluster);
    for rule in connection.list_rules(TABLE, Family::Ip).await.map_err(failed(what))? {
        if rule.chain == CHAIN && rule.comment_text.as_ref() == Some(&mark) {
            let removed = connection.del_rule_if_exists(TABLE, CHAIN, Family::Ip, rule.handle).await;
            removed.map_err(failed(what))?;
        }
    }
    Ok(())
}
