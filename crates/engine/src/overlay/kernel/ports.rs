//! The links between the host's bridges and its containers.

use std::fs::File;
use std::net::IpAddr;

use ipnet::IpNet;
use nlink::netlink::addr::{Ipv4Address, Ipv6Address};
use nlink::netlink::devconf::AddrGenMode;
use nlink::netlink::link::VethLink;
use nlink::netlink::route::{Ipv4Route, Ipv6Route};
use nlink::netlink::{Connection, Route};

use super::settings;
use crate::network::kernel::{KernelError, open_in, refused};
use crate::overlay::request::OverlayEndpoint;

/// Makes a link, and gives the container's end all that it has. The host's end is no port of a bridge yet. `connection` is
/// the host's, `inside` the container's.
///
/// # Errors
/// What the kernel refused; nothing is left of the link then.
pub async fn make_port(
    connection: &Connection<Route>,
    inside: &Connection<Route>,
    netns: &File,
    link: &str,
    endpoint: &OverlayEndpoint,
    mtu: u32,
) -> Result<(), KernelError> {
    let what = || format!("make the link {link} to the container");
    let plan = || {
        let plan = VethLink::new(link, endpoint.interface.as_str()).mtu(mtu).peer_mtu(mtu);
        plan.peer_address(endpoint.mac).peer_netns_fd(netns)
    };
    match connection.add_link(plan()).await {
        // It is left over from a container that had these addresses; or the interface is, and then it fails again.
        Err(error) if error.is_already_exists() => {
            let left = connection.del_link_if_exists(link).await;
            left.map_err(refused(|| format!("remove the left-over link {link}")))?;
            connection.add_link(plan()).await.map_err(refused(what))?;
        }
        done => done.map_err(refused(what))?,
    }
    let configured = match configure(netns, inside, endpoint).await {
        Ok(()) => silence(connection, link).await.map_err(refused(what)),
        Err(error) => Err(error),
    };
    if configured.is_err() {
        // The namespace may outlive this attempt; the error that is reported is the first one.
        let _ = connection.del_link_if_exists(link).await;
    }
    configured
}

/// The host's end has no address of its own, and does not look for IPv6 neighbours.
async fn silence(connection: &Connection<Route>, link: &str) -> Result<(), nlink::Error> {
    match connection.get_link_by_name(link).await? {
        Some(found) => connection.set_addr_gen_mode_by_index(found.ifindex(), AddrGenMode::None).await,
        None => Ok(()),
    }
}

async fn configure(
    netns: &File,
    connection: &Connection<Route>,
    endpoint: &OverlayEndpoint,
) -> Result<(), KernelError> {
    let interface = endpoint.interface.as_str();
    let found = connection.get_link_by_name(interface).await;
    let missing = || std::io::Error::from(std::io::ErrorKind::NotFound);
    let found = found.map_err(refused(|| format!("look up the container's interface {interface}")))?;
    let found = found.ok_or_else(|| refused(|| format!("show the container's interface {interface}"))(missing()))?;
    let index = found.ifindex();
    let ipv6 = endpoint.addresses.iter().any(|address| address.addr().is_ipv6());
    settings::prepare_interface(netns, interface, ipv6)
        .map_err(refused(|| format!("prepare the container's interface {interface}")))?;
    for address in &endpoint.addresses {
        let what = || format!("give the container's {interface} the address {address}");
        let added = match *address {
            IpNet::V4(net) => {
                connection.add_address(Ipv4Address::with_index(index, net.addr(), net.prefix_len())).await
            }
            IpNet::V6(net) => {
                connection.add_address(Ipv6Address::with_index(index, net.addr(), net.prefix_len()).nodad()).await
            }
        };
        added.map_err(refused(what))?;
    }
    connection.set_link_up_by_index(index).await.map_err(refused(|| format!("set the container's {interface} up")))?;
    for gateway in &endpoint.gateways {
        let what = || format!("give the container a default route by {gateway}");
        let added = match *gateway {
            IpAddr::V4(gateway) => {
                connection.add_route(Ipv4Route::default_route().gateway(gateway).dev_index(index)).await
            }
            IpAddr::V6(gateway) => {
                connection.add_route(Ipv6Route::default_route().gateway(gateway).dev_index(index)).await
            }
        };
        added.map_err(refused(what))?;
    }
    Ok(())
}

/// Gives a container's interface another MTU, in bytes.
///
/// # Errors
/// What the kernel refused.
pub async fn set_inner_mtu(netns: &File, interface: &str, mtu: u32) -> Result<(), KernelError> {
    let what = || format!("give the container's {interface} an MTU of {mtu} bytes");
    let connection = open_in(netns)?;
    let missing = || std::io::Error::from(std::io::ErrorKind::NotFound);
    let found = connection.get_link_by_name(interface).await.map_err(refused(what))?;
    let index = found.ok_or_else(|| refused(what)(missing()))?.ifindex();
    connection.set_link_mtu_by_index(index, mtu).await.map_err(refused(what))
}

/// Removes a link of the host and thereby its other end. One that is gone already is no error.
///
/// The kernel answers when nothing uses the link any more, and lets others change links only afterwards: the thread that waits
/// is none of those that the rest of the program needs.
///
/// # Errors
/// What the kernel refused.
pub async fn remove_port(host: &File, link: &str) -> Result<(), KernelError> {
    let what = || format!("remove the link {link}");
    let host = host.try_clone().map_err(refused(what))?;
    let (runtime, name) = (tokio::runtime::Handle::current(), link.to_owned());
    let removal = tokio::task::spawn_blocking(move || {
        let connection = open_in(&host)?;
        let removed = runtime.block_on(connection.del_link_if_exists(name.as_str()));
        removed.map(drop).map_err(refused(|| format!("remove the link {name}")))
    });
    removal.await.unwrap_or_else(|ended| Err(refused(what)(std::io::Error::other(ended))))
}
