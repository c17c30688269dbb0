//! Links, addresses and routes.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsFd;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nlink::netlink::addr::{Ipv4Address, Ipv6Address};
use nlink::netlink::link::{BridgeLink, BridgePortConfig, VethLink};
use nlink::netlink::netfilter::{ConntrackEntry, ConntrackFilter, IpProtocol};
use nlink::netlink::route::{Ipv4Route, Ipv6Route};
use nlink::netlink::types::route::RouteScope;
use nlink::netlink::{Connection, Netfilter, Route};

use super::{KernelError, inside, refused, settings};
use crate::network::addressing::{link_address, link_address_of};
use crate::network::driver::Driver;
use crate::network::request::{DefaultRoute, GatewayMode, Ipv6Part, MacAddress, NetworkRecord};

/// The length of 169.254.0.0/16 (RFC 3927).
const LINK_LOCAL_LENGTH: u8 = 16;
/// The length of a link's part of fe80::/10 (RFC 4291).
const LINK_LOCAL6_LENGTH: u8 = 64;

/// A link of a container, ready to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkPlan {
    /// What it joins.
    pub driver: Driver,
    /// The host's end; empty where it has none.
    pub host: String,
    /// The container's end.
    pub interface: String,
    /// The container's IPv4 address with its subnet's length.
    pub ipv4: Option<Ipv4Net>,
    /// The container's link-layer address; `None`: the kernel has it.
    pub mac: Option<MacAddress>,
    /// Files below `/proc/sys` and what is written there in the container's namespace.
    pub sysctls: Vec<(String, String)>,
    /// The container's IPv6 address with its subnet's length.
    pub ipv6: Option<Ipv6Net>,
    /// Further addresses, which hold on this link alone.
    pub link_local: Vec<IpAddr>,
    /// The default routes that lead by this link.
    pub routes: Vec<DefaultRoute>,
    /// In bytes; `None`: as its parent.
    pub mtu: Option<u32>,
}

pub(super) fn connect() -> Result<Connection<Route>, KernelError> {
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

/// Every destination that the host already routes, default routes and those through `except` left out.
///
/// # Errors
/// When the kernel does not list them.
pub async fn host_routes(except: &[String]) -> Result<Vec<IpNet>, KernelError> {
    let connection = connect()?;
    let mut skipped = Vec::new();
    for name in except {
        skipped.extend(index_of(&connection, name).await?);
    }
    let routes = connection.get_routes().await.map_err(refused(|| "list the host's routes".to_owned()))?;
    Ok(routes
        .iter()
        .filter(|route| route.oif().is_none_or(|index| !skipped.contains(&index)))
        .filter_map(|route| IpNet::new(*route.destination()?, route.dst_len()).ok())
        .filter(|net| net.prefix_len() > 0)
        .collect())
}

pub(super) async fn index_of(connection: &Connection<Route>, name: &str) -> Result<Option<u32>, KernelError> {
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
    let name = network.link.as_str();
    // One of the families is there.
    let gateway6 = network.ipv6.map_or([0; 16], |part| part.gateway.octets());
    let own = network.gateway.map_or_else(|| link_address_of(&gateway6), link_address);
    let link = BridgeLink::new(name).stp(false).address(own).mtu(mtu);
    match connection.add_link(link).await {
        Ok(()) => {}
        Err(error) if error.is_already_exists() => {}
        Err(error) => return Err(refused(|| format!("make the bridge {name}"))(error)),
    }
    let index = index_of(&connection, name).await?.ok_or_else(|| {
        refused(|| format!("keep the bridge {name}"))(std::io::Error::from(std::io::ErrorKind::NotFound))
    })?;
    if let Some(part) = network.ipv4().filter(|_| network.gateway_mode(false) != GatewayMode::Isolated) {
        let address = Ipv4Address::with_index(index, part.gateway, part.net.prefix_len());
        connection
            .replace_address(address)
            .await
            .map_err(refused(|| format!("give the bridge {name} the address {}", part.gateway)))?;
    }
    connection.set_link_up_by_index(index).await.map_err(refused(|| format!("set the bridge {name} up")))?;
    Ok(index)
}

/// Gives a bridge its IPv6 address, which nobody else can have.
///
/// # Errors
/// What the kernel refused.
pub async fn give_address6(bridge: &str, index: u32, part: Ipv6Part) -> Result<(), KernelError> {
    let address = Ipv6Address::with_index(index, part.gateway, part.net.prefix_len()).nodad();
    let what = || format!("give the bridge {bridge} the address {}", part.gateway);
    connect()?.replace_address(address).await.map_err(refused(what))
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
    let link = VethLink::new(plan.host.as_str(), plan.interface.as_str()).peer_netns_fd(netns);
    let link = plan.mtu.iter().fold(link, |link, mtu| link.mtu(*mtu).peer_mtu(*mtu));
    let link = plan.mac.iter().fold(link, |link, mac| link.peer_address(mac.0));
    host.add_link(link).await.map_err(refused(what))?;
    let configured = configure(netns, &inside_connection, plan).await;
    if configured.is_err() {
        // The namespace may outlive this attempt; the error that is reported is the first one.
        let _ = host.del_link_if_exists(plan.host.as_str()).await;
    }
    configured
}

pub(super) async fn configure(
    netns: &File,
    connection: &Connection<Route>,
    plan: &LinkPlan,
) -> Result<(), KernelError> {
    let interface = plan.interface.as_str();
    let index = index_of(connection, interface).await?.ok_or_else(|| {
        refused(|| format!("show the container's interface {interface}"))(std::io::Error::from(
            std::io::ErrorKind::NotFound,
        ))
    })?;
    // Without IPv6 on its network an interface would only look for routers and neighbours.
    let has_ipv6 = plan.ipv6.is_some() || plan.link_local.iter().any(IpAddr::is_ipv6);
    settings::prepare_interface(netns, interface, has_ipv6)
        .map_err(refused(|| format!("prepare the container's {interface}")))?;
    if let Some(net) = plan.ipv4 {
        connection
            .add_address(Ipv4Address::with_index(index, net.addr(), net.prefix_len()))
            .await
            .map_err(refused(|| format!("give the container's {interface} the address {}", net.addr())))?;
    }
    if let Some(net) = plan.ipv6 {
        // Nobody else has it: the addresses are given out here.
        connection
            .add_address(Ipv6Address::with_index(index, net.addr(), net.prefix_len()).nodad())
            .await
            .map_err(refused(|| format!("give the container's {interface} the address {}", net.addr())))?;
    }
    for address in &plan.link_local {
        let given = match *address {
            IpAddr::V4(address) => {
                connection.add_address(Ipv4Address::with_index(index, address, LINK_LOCAL_LENGTH)).await
            }
            IpAddr::V6(address) => {
                connection.add_address(Ipv6Address::with_index(index, address, LINK_LOCAL6_LENGTH).nodad()).await
            }
        };
        given.map_err(refused(|| format!("give the container's {interface} the address {address}")))?;
    }
    connection.set_link_up_by_index(index).await.map_err(refused(|| format!("set the container's {interface} up")))?;
    for (name, value) in &plan.sysctls {
        let path = format!("/proc/sys/{name}");
        inside(netns, || std::fs::write(&path, value))
            .map_err(refused(|| format!("write `{value}` to {path} in the container's network namespace")))?;
    }
    for route in &plan.routes {
        lead_by(connection, index, *route).await?;
    }
    Ok(())
}

async fn lead_by(connection: &Connection<Route>, index: u32, route: DefaultRoute) -> Result<(), KernelError> {
    let (ipv4, ipv6) = (Ipv4Route::default_route().dev_index(index), Ipv6Route::default_route().dev_index(index));
    let made = match route {
        DefaultRoute::By(IpAddr::V4(gateway)) => connection.add_route(ipv4.gateway(gateway)).await,
        DefaultRoute::By(IpAddr::V6(gateway)) => connection.add_route(ipv6.gateway(gateway)).await,
        DefaultRoute::Interface { ipv6: false } => connection.add_route(ipv4.scope(RouteScope::Link)).await,
        DefaultRoute::Interface { ipv6: true } => connection.add_route(ipv6).await,
    };
    made.map_err(refused(|| match route {
        DefaultRoute::By(gateway) => format!("give the container a default route by {gateway}"),
        DefaultRoute::Interface { .. } => "give the container a default route through its interface".to_owned(),
    }))
}

/// Makes the default routes of a container lead through interfaces of it, or through none.
///
/// # Errors
/// What the kernel refused.
pub async fn set_default_routes(
    netns: &File,
    ipv4: Option<(&str, DefaultRoute)>,
    ipv6: Option<(&str, DefaultRoute)>,
) -> Result<(), KernelError> {
    let connection = open_in(netns)?;
    let what = || "take the container's default route away".to_owned();
    connection
        // Nowhere stands for any scope: which gateway it has now does not matter.
        .del_route_if_exists(Ipv4Route::default_route().scope(RouteScope::Nowhere))
        .await
        .map_err(refused(what))?;
    connection.del_route_if_exists(Ipv6Route::default_route()).await.map_err(refused(what))?;
    for (interface, route) in [ipv4, ipv6].into_iter().flatten() {
        let index = index_of(&connection, interface).await?.ok_or_else(|| {
            refused(|| format!("find the container's interface {interface}"))(std::io::Error::from(
                std::io::ErrorKind::NotFound,
            ))
        })?;
        lead_by(&connection, index, route).await?;
    }
    Ok(())
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

/// Forgets the datagrams' connections to these ports that the host's loopback was sent to another port of its own for: to relays
/// of a process that is gone. A client that goes on from the same port would otherwise never reach the next one.
///
/// # Errors
/// What the kernel refused.
pub async fn forget_relayed(ports: &BTreeSet<u16>) -> Result<(), KernelError> {
    let connection =
        Connection::<Netfilter>::new().map_err(refused(|| "open a connection-tracking socket".to_owned()))?;
    let what = || "forget the connections to relays of the host's loopback".to_owned();
    let mut entries = connection.get_conntrack().await.map_err(refused(what))?;
    entries.extend(connection.get_conntrack_v6().await.map_err(refused(what))?);
    let relayed = |entry: &&ConntrackEntry| {
        let (asked, served) = (&entry.orig, &entry.reply);
        entry.proto == IpProtocol::Udp
            && asked.dst_ip.is_some_and(|address| address.is_loopback())
            && asked.dst_ip == served.src_ip
            && asked.dst_port != served.src_port
            && asked.dst_port.is_some_and(|port| ports.contains(&port))
    };
    forget_each(&connection, entries.iter().filter(relayed), what).await
}

/// Forgets tracked connections one by one. One that is gone already is no error.
///
/// # Errors
/// What the kernel refused; `what` says it.
pub async fn forget_each(
    connection: &Connection<Netfilter>,
    entries: impl Iterator<Item = &ConntrackEntry>,
    what: impl Fn() -> String,
) -> Result<(), KernelError> {
    for entry in entries {
        match connection.del_conntrack_entry(entry).await {
            Err(error) if !error.is_not_found() => return Err(refused(&what)(error)),
            _ => {}
        }
    }
    Ok(())
}

/// Forgets the tracked connections that were served by an address, so that a client which goes on from the same port
/// is sent to who serves it now.
///
/// # Errors
/// What the kernel refused.
pub async fn forget_connections(address: IpAddr) -> Result<(), KernelError> {
    let connection =
        Connection::<Netfilter>::new().map_err(refused(|| "open a connection-tracking socket".to_owned()))?;
    let what = || format!("forget the connections to {address}");
    match address {
        IpAddr::V4(_) => {
            let filter = ConntrackFilter::new().reply_src(address);
            connection.flush_conntrack_matching(&filter).await.map_err(refused(what))
        }
        // Of IPv6 the kernel forgets one by one: it does not take an address alone for a filter.
        IpAddr::V6(_) => {
            let entries = connection.get_conntrack_v6().await.map_err(refused(what))?;
            // An echo has no port that a client could go on from, and cannot be named to the kernel as the others can.
            let served =
                |entry: &&ConntrackEntry| entry.reply.src_ip == Some(address) && entry.reply.src_port.is_some();
            forget_each(&connection, entries.iter().filter(served), what).await
        }
    }
}
