//! Links between the hosts, and what lets them out; beside `firewall` the only file of `stack dev` that speaks netlink.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;

use nlink::netlink::addr::Ipv4Address;
use nlink::netlink::link::{BridgeLink, VethLink};
use nlink::netlink::nftables::{BaseChain, Chain, Family, NatHook, Priority, Rule};
use nlink::netlink::route::Ipv4Route;
use nlink::netlink::{Connection, Nftables, Route};

use super::plan::{Cluster, Host};

/// The name of each host's interface.
const INTERFACE: &str = "eth0";
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// Something that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("could not {what}")]
pub struct WiringError {
    /// What, as the end of a sentence.
    pub what: String,
    /// Why.
    pub source: WiringCause,
}

/// Why the kernel refused.
#[derive(Debug, thiserror::Error)]
pub enum WiringCause {
    /// By netlink.
    #[error(transparent)]
    Netlink(#[from] nlink::Error),
    /// By a file.
    #[error(transparent)]
    File(#[from] io::Error),
}

/// Turns a refusal into an error that says what was tried.
pub(super) fn failed<E: Into<WiringCause>>(what: impl FnOnce() -> String) -> impl FnOnce(E) -> WiringError {
    move |source| WiringError { what: what(), source: source.into() }
}

fn connect() -> Result<Connection<Route>, WiringError> {
    Connection::<Route>::new().map_err(failed(|| "open a netlink socket".to_owned()))
}

async fn index_of(connection: &Connection<Route>, name: &str) -> Result<u32, WiringError> {
    let what = || format!("find the link {name}");
    let link = connection.get_link_by_name(name).await.map_err(failed(what))?;
    link.map(|link| link.ifindex()).ok_or_else(|| failed(what)(io::Error::from(io::ErrorKind::NotFound)))
}

/// The same address has the same link-layer address, so that a host which was started again is found at once.
const fn link_address(address: Ipv4Addr) -> [u8; 6] {
    let [first, second, third, fourth] = address.octets();
    [0x02, 0x53, first, second, third, fourth]
}

/// Every IPv4 destination that this machine routes, with the length of its prefix.
///
/// # Errors
/// When the kernel does not list them.
pub async fn routed() -> Result<Vec<(Ipv4Addr, u8)>, WiringError> {
    let routes = connect()?.get_routes().await.map_err(failed(|| "list the routes of this machine".to_owned()))?;
    Ok(routes
        .iter()
        .filter_map(|route| match route.destination() {
            Some(IpAddr::V4(address)) => Some((*address, route.dst_len())),
            Some(IpAddr::V6(_)) | None => None,
        })
        .collect())
}

/// Whether this machine passes packets on.
///
/// # Errors
/// When it cannot be asked.
pub fn forwards() -> Result<bool, WiringError> {
    let text = fs::read_to_string(FORWARDING).map_err(failed(|| format!("read {FORWARDING}")))?;
    Ok(text.trim() == "1")
}

/// Sets whether this machine passes packets on.
///
/// # Errors
/// When it may not be set.
pub fn set_forwarding(on: bool) -> Result<(), WiringError> {
    fs::write(FORWARDING, if on { "1" } else { "0" }).map_err(failed(|| format!("write {FORWARDING}")))
}

/// Makes the bridge with this machine's address on it.
///
/// # Errors
/// What the kernel refused.
pub async fn make_bridge(cluster: &Cluster) -> Result<(), WiringError> {
    let connection = connect()?;
    let name = cluster.bridge.as_str();
    let link = BridgeLink::new(name).stp(false).address(link_address(cluster.gateway()));
    connection.add_link(link).await.map_err(failed(|| format!("make the bridge {name}")))?;
    let index = index_of(&connection, name).await?;
    connection
        .add_address(Ipv4Address::with_index(index, cluster.gateway(), 24))
        .await
        .map_err(failed(|| format!("give the bridge {name} the address {}", cluster.gateway())))?;
    connection.set_link_up_by_index(index).await.map_err(failed(|| format!("set the bridge {name} up")))
}

/// Lets the hosts reach what this machine reaches.
///
/// # Errors
/// What the kernel refused.
pub async fn let_out(cluster: &Cluster, table: &str) -> Result<(), WiringError> {
    let what = || format!("make the nftables table `ip {table}`");
    let connection = Connection::<Nftables>::new().map_err(failed(|| "open an nftables socket".to_owned()))?;
    let chain = Chain::new(table, "postrouting")
        .map_err(failed(what))?
        .family(Family::Ip)
        .base(BaseChain::nat(NatHook::Postrouting, Priority::SrcNat));
    let rule = Rule::new(table, "postrouting")
        .family(Family::Ip)
        .match_saddr_v4(cluster.subnet, 24)
        .match_oif_not(&cluster.bridge)
        .masquerade();
    connection
        .transaction()
        .add_table(table, Family::Ip)
        .add_chain(chain)
        .add_rule(rule)
        .commit(&connection)
        .await
        .map_err(failed(what))?;
    if forwards()? { Ok(()) } else { set_forwarding(true) }
}

/// Removes the table of [`let_out`]. One that is gone is no error.
///
/// # Errors
/// What the kernel refused.
pub async fn remove_table(table: &str) -> Result<(), WiringError> {
    let connection = Connection::<Nftables>::new().map_err(failed(|| "open an nftables socket".to_owned()))?;
    let removed = connection.del_table_if_exists(table, Family::Ip).await;
    removed.map(drop).map_err(failed(|| format!("remove the nftables table `ip {table}`")))
}

/// Links a host, whose namespace is given, to the bridge.
///
/// # Errors
/// What the kernel refused.
pub async fn wire(cluster: &Cluster, host: &Host, netns: &File) -> Result<(), WiringError> {
    remove_link(&host.link).await?;
    let outer = connect()?;
    let inner = Connection::<Route>::new_in(netns.as_fd())
        .map_err(failed(|| format!("open a netlink socket in {}", host.name)))?;
    let what = || format!("link {} to the others", host.name);
    inner.set_link_up("lo").await.map_err(failed(what))?;
    let veth =
        VethLink::new(host.link.as_str(), INTERFACE).peer_address(link_address(host.address)).peer_netns_fd(netns);
    outer.add_link(veth).await.map_err(failed(what))?;
    let index = index_of(&inner, INTERFACE).await?;
    inner.add_address(Ipv4Address::with_index(index, host.address, 24)).await.map_err(failed(what))?;
    inner.set_link_up_by_index(index).await.map_err(failed(what))?;
    let route = Ipv4Route::default_route().gateway(cluster.gateway()).dev_index(index);
    inner.add_route(route).await.map_err(failed(what))?;
    outer.set_link_up(host.link.as_str()).await.map_err(failed(what))?;
    heal(&host.link, &cluster.bridge).await
}

/// Takes a link off the bridge. Its ends stay up, so the host does not see what happened.
///
/// # Errors
/// What the kernel refused.
pub async fn partition(link: &str) -> Result<(), WiringError> {
    let removed = connect()?.set_link_nomaster(link).await;
    removed.map_err(failed(|| format!("take the link {link} off its bridge")))
}

/// Puts a link onto the bridge.
///
/// # Errors
/// What the kernel refused.
pub async fn heal(link: &str, bridge: &str) -> Result<(), WiringError> {
    let connection = connect()?;
    let index = index_of(&connection, bridge).await?;
    let link_index = index_of(&connection, link).await?;
    let put = connection.set_link_master_by_index(link_index, index).await;
    put.map_err(failed(|| format!("put the link {link} onto the bridge {bridge}")))
}

/// Whether a link exists and is on no bridge.
///
/// # Errors
/// When the kernel cannot be asked.
pub async fn is_partitioned(link: &str) -> Result<bool, WiringError> {
    let found = connect()?.get_link_by_name(link).await.map_err(failed(|| format!("look up the link {link}")))?;
    Ok(found.is_some_and(|found| found.master().is_none_or(|master| master == 0)))
}

/// Removes a link. One that is gone is no error.
///
/// # Errors
/// What the kernel refused.
pub async fn remove_link(name: &str) -> Result<(), WiringError> {
    connect()?.del_link_if_exists(name).await.map(drop).map_err(failed(|| format!("remove the link {name}")))
}

/// Whether another cluster's bridge is on this machine.
///
/// # Errors
/// When the kernel cannot be asked.
pub async fn others_exist(cluster: &Cluster) -> Result<bool, WiringError> {
    let links = connect()?.get_links().await.map_err(failed(|| "list the links of this machine".to_owned()))?;
    let is_bridge = |name: &str| {
        let digits = name.strip_prefix("sd").unwrap_or("");
        digits.len() == 8 && digits.ends_with("00") && name != cluster.bridge
    };
    Ok(links.iter().filter_map(|link| link.name()).any(is_bridge))
}
