//! Links, addresses and routes.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;

use ipnet::Ipv4Net;
use nlink::netlink::addr::Ipv4Address;
use nlink::netlink::link::{BridgeLink, BridgePortConfig, VethLink};
use nlink::netlink::netfilter::ConntrackFilter;
use nlink::netlink::route::Ipv4Route;
use nlink::netlink::types::route::RouteScope;
use nlink::netlink::{Connection, Netfilter, Route};

use super::{KernelError, inside, refused};
use crate::network::addressing::link_address;
use crate::network::request::{MacAddress, NetworkRecord};

/// A link between a bridge of the host and a container, ready to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkPlan {
    /// The host's end.
    pub host: String,
    /// The container's end.
    pub interface: String,
    /// The container's address.
    pub address: Ipv4Addr,
    /// Its subnet.
    pub subnet: Ipv4Net,
    /// The container's link-layer address.
    pub mac: MacAddress,
    /// Files below `/proc/sys` and what is written there in the container's namespace.
    pub sysctls: Vec<(String, String)>,
    /// Where the default route goes, on the link that has it.
    pub gateway: Option<Ipv4Addr>,
    /// In bytes.
    pub mtu: u32,
}

fn connect() -> Result<Connection<Route>, KernelError> {
    Connection::<Route>::new().map_err(refused(|| "open a netlink socket".to_owned()))
}

/// A route socket inside another network namespace.
///
/// # Errors
/// When it cannot be opened there.
pub fn open_in(netns: &File) -> Result<Connection<Route>, KernelError> {
    Connection::<Route>::new_in(netns.as_fd())
        .map_err(refused(|| "open a netlink socket in the container's network namespace".to_owned()))
}

/// Every IPv4 destination that the host already routes, default routes and those through `except` left out.
///
/// # Errors
/// When the kernel does not list them.
pub async fn host_routes(except: &[String]) -> Result<Vec<Ipv4Net>, KernelError> {
    let connection = connect()?;
    let mut skipped = Vec::new();
    for name in except {
        skipped.extend(index_of(&connection, name).await?);
    }
    let routes = connection.get_routes().await.map_err(refused(|| "list the host's routes".to_owned()))?;
    Ok(routes
        .iter()
        .filter(|route| route.oif().is_none_or(|index| !skipped.contains(&index)))
        .filter_map(|route| match route.destination() {
            Some(IpAddr::V4(address)) => Ipv4Net::new(*address, route.dst_len()).ok(),
            Some(IpAddr::V6(_)) | None => None,
        })
        .filter(|net| net.prefix_len() > 0)
        .collect())
}

async fn index_of(connection: &Connection<Route>, name: &str) -> Result<Option<u32>, KernelError> {
    let link = connection.get_link_by_name(name).await.map_err(refused(|| format!("look up the link {name}")))?;
    Ok(link.map(|link| link.ifindex()))
}

/// The index of a link of the host, if it exists.
///
/// # Errors
/// When the kernel cannot be asked.
pub async fn link_index(name: &str) -> Result<Option<u32>, KernelError> {
    index_of(&connect()?, name).await
}

/// The names of all links of the host that start with `prefix` and go on in digits alone, hexadecimal ones included:
/// the bridges and links of the engine with that prefix.
///
/// # Errors
/// When the kernel cannot be asked.
pub async fn own_links(prefix: &str) -> Result<Vec<String>, KernelError> {
    let links = connect()?.get_links().await.map_err(refused(|| "list the host's links".to_owned()))?;
    let own = |name: &str| {
        name.strip_prefix(prefix).is_some_and(|rest| {
            let bridge = !rest.is_empty() && rest.len() < 5 && rest.bytes().all(|byte| byte.is_ascii_digit());
            bridge || (rest.len() == 8 && rest.bytes().all(|byte| byte.is_ascii_hexdigit()))
        })
    };
    Ok(links.iter().filter_map(|link| link.name()).filter(|name| own(name)).map(str::to_owned).collect())
}

/// Makes the bridge of a network unless it is there, and gives it its address.
///
/// # Errors
/// What the kernel refused.
pub async fn ensure_bridge(network: &NetworkRecord, mtu: u32) -> Result<u32, KernelError> {
    let connection = connect()?;
    let name = network.bridge.as_str();
    let link = BridgeLink::new(name).stp(false).address(link_address(network.gateway)).mtu(mtu);
    match connection.add_link(link).await {
        Ok(()) => {}
        Err(error) if error.is_already_exists() => {}
        Err(error) => return Err(refused(|| format!("make the bridge {name}"))(error)),
    }
    let index = index_of(&connection, name).await?.ok_or_else(|| {
        refused(|| format!("keep the bridge {name}"))(std::io::Error::from(std::io::ErrorKind::NotFound))
    })?;
    let address = Ipv4Address::with_index(index, network.gateway, network.subnet.prefix_len());
    connection
        .replace_address(address)
        .await
        .map_err(refused(|| format!("give the bridge {name} the address {}", network.gateway)))?;
    connection.set_link_up_by_index(index).await.map_err(refused(|| format!("set the bridge {name} up")))?;
    Ok(index)
}

/// Sets the loopback interface of a namespace up.
///
/// # Errors
/// What the kernel refused.
pub async fn loopback_up(connection: &Connection<Route>) -> Result<(), KernelError> {
    connection.set_link_up("lo").await.map_err(refused(|| "set the loopback interface up".to_owned()))
}

/// Makes a link. The container's end is made inside its namespace with its last name, because moving a link costs
/// twenty times what making it does.
///
/// # Errors
/// What the kernel refused; nothing is left of the link then.
pub async fn make_link(netns: &File, plan: &LinkPlan) -> Result<(), KernelError> {
    let inside_connection = open_in(netns)?;
    // A link of this name is left over from a container of this address that was not taken down.
    let host = connect()?;
    host.del_link_if_exists(plan.host.as_str())
        .await
        .map_err(refused(|| format!("remove the left-over link {}", plan.host)))?;
    let what = || format!("make the link {} to the container", plan.host);
    let link = VethLink::new(plan.host.as_str(), plan.interface.as_str())
        .mtu(plan.mtu)
        .peer_mtu(plan.mtu)
        .peer_address(plan.mac.0)
        .peer_netns_fd(netns);
    host.add_link(link).await.map_err(refused(what))?;
    let configured = configure(netns, &inside_connection, plan).await;
    if configured.is_err() {
        // The namespace may outlive this attempt; the error that is reported is the first one.
        let _ = host.del_link_if_exists(plan.host.as_str()).await;
    }
    configured
}

async fn configure(netns: &File, connection: &Connection<Route>, plan: &LinkPlan) -> Result<(), KernelError> {
    let interface = plan.interface.as_str();
    let index = index_of(connection, interface).await?.ok_or_else(|| {
        refused(|| format!("show the container's interface {interface}"))(std::io::Error::from(
            std::io::ErrorKind::NotFound,
        ))
    })?;
    disable_ipv6(netns, interface)?;
    connection
        .add_address(Ipv4Address::with_index(index, plan.address, plan.subnet.prefix_len()))
        .await
        .map_err(refused(|| format!("give the container's {interface} the address {}", plan.address)))?;
    connection.set_link_up_by_index(index).await.map_err(refused(|| format!("set the container's {interface} up")))?;
    for (name, value) in &plan.sysctls {
        let path = format!("/proc/sys/{name}");
        inside(netns, || std::fs::write(&path, value))
            .map_err(refused(|| format!("write `{value}` to {path} in the container's network namespace")))?;
    }
    match plan.gateway {
        Some(gateway) => lead_by(connection, index, gateway).await,
        None => Ok(()),
    }
}

async fn lead_by(connection: &Connection<Route>, index: u32, gateway: Ipv4Addr) -> Result<(), KernelError> {
    connection
        .add_route(Ipv4Route::default_route().gateway(gateway).dev_index(index))
        .await
        .map_err(refused(|| format!("give the container a default route by {gateway}")))
}

/// Makes the default route of a container lead through an interface of it, or through none.
///
/// # Errors
/// What the kernel refused.
pub async fn set_default_route(netns: &File, route: Option<(&str, Ipv4Addr)>) -> Result<(), KernelError> {
    let connection = open_in(netns)?;
    connection
        // Nowhere stands for any scope: which gateway it has now does not matter.
        .del_route_if_exists(Ipv4Route::default_route().scope(RouteScope::Nowhere))
        .await
        .map_err(refused(|| "take the container's default route away".to_owned()))?;
    let Some((interface, gateway)) = route else { return Ok(()) };
    let index = index_of(&connection, interface).await?.ok_or_else(|| {
        refused(|| format!("find the container's interface {interface}"))(std::io::Error::from(
            std::io::ErrorKind::NotFound,
        ))
    })?;
    lead_by(&connection, index, gateway).await
}

/// The networks have IPv4 addresses alone; without this each interface would look for IPv6 routers and neighbours.
fn disable_ipv6(netns: &File, interface: &str) -> Result<(), KernelError> {
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
    match inside(netns, || std::fs::write(&path, "1")) {
        // A kernel without IPv6 has no such file.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(refused(|| format!("write {path} in the container's network namespace"))),
    }
}

/// Makes the host's end of a link a port of a bridge and sets it up: from here on packets flow. Isolated ports reach the
/// bridge itself, and not each other.
///
/// # Errors
/// What the kernel refused.
pub async fn join_bridge(link: &str, bridge_index: u32, isolated: bool) -> Result<(), KernelError> {
    let connection = connect()?;
    let what = |step: &str| format!("{step} the link {link}");
    let Some(index) = index_of(&connection, link).await? else {
        return Err(refused(|| what("find"))(std::io::Error::from(std::io::ErrorKind::NotFound)));
    };
    connection.set_link_master_by_index(index, bridge_index).await.map_err(refused(|| what("put onto its bridge")))?;
    // With bridge-nf-call-iptables a container that reaches itself by its published port is sent back on the port it
    // came from, which a bridge does only in hairpin mode.
    connection
        .set_bridge_port_by_index(index, BridgePortConfig::new().hairpin(true).isolated(isolated))
        .await
        .map_err(refused(|| what("set hairpin mode on")))?;
    connection.set_link_up_by_index(index).await.map_err(refused(|| what("set up")))
}

/// Removes a link of the host and thereby its other end. One that is gone already is no error.
///
/// # Errors
/// What the kernel refused.
pub async fn delete_link(name: &str) -> Result<(), KernelError> {
    connect()?.del_link_if_exists(name).await.map(drop).map_err(refused(|| format!("remove the link {name}")))
}

/// Forgets the tracked connections that were served by an address, so that a client which goes on from the same port
/// is sent to who serves it now.
///
/// # Errors
/// What the kernel refused.
pub async fn forget_connections(address: Ipv4Addr) -> Result<(), KernelError> {
    let connection =
        Connection::<Netfilter>::new().map_err(refused(|| "open a connection-tracking socket".to_owned()))?;
    let filter = ConntrackFilter::new().reply_src(IpAddr::V4(address));
    connection
        .flush_conntrack_matching(&filter)
        .await
        .map_err(refused(|| format!("forget the connections to {address}")))
}
