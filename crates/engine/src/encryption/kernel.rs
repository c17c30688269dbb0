//! The only place of the tunnels that speaks netlink.
//!
//! Every function works in the network namespace that it is given, whatever the namespace of the calling thread.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;

use nlink::Wireguard;
use nlink::netlink::addr::Ipv6Address;
use nlink::netlink::devconf::AddrGenMode;
use nlink::netlink::genl::wireguard::{AllowedIp, WgDevice};
use nlink::netlink::link::WireguardLink;
use nlink::netlink::route::{Ipv6Route, RouteType};
use nlink::netlink::{Connection, Route};
use stack_tunnel::protocol::{PeerState, Settings};
use stack_tunnel::{PREFIX, PREFIX_LENGTH, PublicKey};

use crate::network::kernel::{KernelError, refused};
use crate::overlay::prepare_interface;

/// Where nothing else says where addresses within tunnels are, they are nowhere: never by the default route.
const LAST_RESORT: u32 = u32::MAX - 1;

/// A link as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    index: u32,
    /// The kernel's own WireGuard; else a device whose packets a process reads.
    pub is_kernels: bool,
    mtu: u32,
    up: bool,
    addresses: BTreeSet<IpAddr>,
}

fn open(host: &File) -> Result<Connection<Route>, KernelError> {
    Connection::<Route>::new_in(host.as_fd())
        .map_err(refused(|| "open a netlink socket in the host's network namespace".to_owned()))
}

async fn wireguard(host: &File) -> Result<Connection<Wireguard>, KernelError> {
    Connection::<Wireguard>::new_in_async(host.as_fd())
        .await
        .map_err(refused(|| "open a socket for WireGuard in the host's network namespace".to_owned()))
}

/// Whether the kernel has WireGuard; where it is a module, it is loaded.
pub async fn has_wireguard(host: &File) -> bool {
    wireguard(host).await.is_ok()
}

/// The link of this name.
///
/// # Errors
/// When the kernel cannot be asked.
pub async fn link(host: &File, name: &str) -> Result<Option<Link>, KernelError> {
    let ask = || refused(|| format!("look at the link {name}"));
    let connection = open(host)?;
    let Some(found) = connection.get_link_by_name(name).await.map_err(ask())? else { return Ok(None) };
    let addresses = connection.get_addresses().await.map_err(ask())?;
    let own = addresses.iter().filter(|message| message.ifindex() == found.ifindex());
    Ok(Some(Link {
        index: found.ifindex(),
        is_kernels: found.kind() == Some("wireguard"),
        mtu: found.mtu().unwrap_or_default(),
        up: found.is_up(),
        addresses: own.filter_map(|message| message.primary_address().copied()).collect(),
    }))
}

/// Makes an interface of the kernel's WireGuard.
///
/// # Errors
/// What the kernel refused.
pub async fn make(host: &File, name: &str) -> Result<(), KernelError> {
    let made = open(host)?.add_link(WireguardLink::new(name)).await;
    made.map_err(refused(|| format!("make the WireGuard interface {name}")))
}

/// Removes a link, if it is there.
///
/// # Errors
/// What the kernel refused.
pub async fn remove(host: &File, name: &str) -> Result<(), KernelError> {
    open(host)?.del_link_if_exists(name).await.map(drop).map_err(refused(|| format!("remove the link {name}")))
}

/// Gives an interface its MTU and its only address, and sets it up. What is so already is not touched; whether something was
/// not.
///
/// # Errors
/// What the kernel refused.
pub async fn prepare(host: &File, name: &str, link: &Link, mtu: u16, address: Ipv6Addr) -> Result<bool, KernelError> {
    let text = || format!("give {name} the address {address} and set it up");
    let what = || refused(text);
    let connection = open(host)?;
    let mut changed = false;
    if link.mtu != u32::from(mtu) {
        connection.set_link_mtu_by_index(link.index, mtu.into()).await.map_err(what())?;
        changed = true;
    }
    if !link.up || !link.addresses.contains(&IpAddr::V6(address)) {
        prepare_interface(host, name, true).map_err(refused(text))?;
        connection.set_addr_gen_mode_by_index(link.index, AddrGenMode::None).await.map_err(what())?;
        connection.set_link_up_by_index(link.index).await.map_err(what())?;
        let address = Ipv6Address::with_index(link.index, address, 128).nodad();
        connection.replace_address(address).await.map_err(what())?;
        changed = true;
    }
    Ok(changed)
}

/// Makes an interface of the kernel what it should be, and says what is so. `said` is where peers were last said to be: one
/// that is said to be there still is left where it was heard.
///
/// # Errors
/// What the kernel refused.
pub async fn set(
    host: &File,
    name: &str,
    settings: &Settings,
    said: &BTreeMap<PublicKey, SocketAddr>,
) -> Result<(Vec<PeerState>, bool), KernelError> {
    let what = || refused(|| format!("set the WireGuard interface {name}"));
    let connection = wireguard(host).await?;
    let device = connection.get_device_by_name(name).await.map_err(what())?;
    let own = *settings.private_key.as_bytes();
    let is_own = device.public_key == Some(*settings.private_key.public().as_bytes());
    let new_port = device.listen_port != Some(settings.port);
    let present: BTreeSet<PublicKey> = device.peers.iter().map(|peer| PublicKey::from_bytes(peer.public_key)).collect();
    let wanted: BTreeSet<PublicKey> = settings.peers.iter().map(|peer| peer.public_key).collect();
    let gone: Vec<PublicKey> = present.difference(&wanted).copied().collect();
    let new: Vec<_> = settings
        .peers
        .iter()
        .filter(|peer| !present.contains(&peer.public_key) || said.get(&peer.public_key) != Some(&peer.endpoint))
        .collect();
    let changed = !is_own || new_port || !gone.is_empty() || !new.is_empty();
    if !is_own || new_port {
        let configured = connection.set_device_by_name(name, |device| {
            let device = device.listen_port(settings.port);
            if is_own { device } else { device.private_key(own) }
        });
        configured.await.map_err(what())?;
    }
    for key in gone {
        connection.del_peer_by_name(name, *key.as_bytes()).await.map_err(what())?;
    }
    for peer in new {
        let address = AllowedIp::v6(peer.public_key.address(), 128);
        let set = connection.set_peer_by_name(name, *peer.public_key.as_bytes(), |builder| {
            builder.endpoint(peer.endpoint).replace_allowed_ips().allowed_ip(address)
        });
        set.await.map_err(what())?;
    }
    let device = if changed { connection.get_device_by_name(name).await.map_err(what())? } else { device };
    Ok((peers(&device), changed))
}

fn peers(device: &WgDevice) -> Vec<PeerState> {
    let mut peers: Vec<PeerState> = device
        .peers
        .iter()
        .map(|peer| PeerState {
            public_key: PublicKey::from_bytes(peer.public_key),
            endpoint: peer.endpoint,
            handshake_seconds: peer.time_since_handshake().map(|since| since.as_secs()),
            received: peer.rx_bytes,
            sent: peer.tx_bytes,
        })
        .collect();
    peers.sort_by_key(|peer| peer.public_key);
    peers
}

/// The addresses within tunnels are reached by this link, from this address; in no other way, whatever becomes of the link.
/// Whether it was otherwise.
///
/// # Errors
/// What the kernel refused.
pub async fn lead(host: &File, name: &str, from: Ipv6Addr) -> Result<bool, KernelError> {
    let what = || refused(|| format!("send to the addresses within tunnels by {name}"));
    let connection = open(host)?;
    let index = connection.get_link_by_name(name).await.map_err(what())?.map(|link| link.ifindex());
    let routes = connection.get_routes_for_table(libc::RT_TABLE_MAIN.into()).await.map_err(what())?;
    let own: Vec<_> = routes
        .iter()
        .filter(|route| route.destination() == Some(&IpAddr::V6(PREFIX)) && route.dst_len() == PREFIX_LENGTH)
        .collect();
    let leads =
        own.iter().any(|route| route.oif() == index && index.is_some() && route.prefsrc() == Some(&IpAddr::V6(from)));
    let mut changed = false;
    if !own.iter().any(|route| route.route_type() == RouteType::Unreachable) {
        let nowhere = Ipv6Route::new(PREFIX, PREFIX_LENGTH).route_type(RouteType::Unreachable).metric(LAST_RESORT);
        connection.replace_route(nowhere).await.map_err(what())?;
        changed = true;
    }
    if !leads {
        connection.replace_route(route_by(name).prefsrc(from)).await.map_err(what())?;
        changed = true;
    }
    Ok(changed)
}

fn route_by(name: &str) -> Ipv6Route {
    Ipv6Route::new(PREFIX, PREFIX_LENGTH).dev(name).metric(1)
}

/// Forgets how the addresses within tunnels are reached.
///
/// # Errors
/// What the kernel refused.
pub async fn forget(host: &File) -> Result<(), KernelError> {
    let what = || refused(|| "forget how the addresses within tunnels are reached".to_owned());
    let connection = open(host)?;
    let routes = connection.get_routes_for_table(libc::RT_TABLE_MAIN.into()).await.map_err(what())?;
    let own = routes
        .iter()
        .filter(|route| route.destination() == Some(&IpAddr::V6(PREFIX)) && route.dst_len() == PREFIX_LENGTH);
    for route in own {
        let mut request = Ipv6Route::new(PREFIX, PREFIX_LENGTH).route_type(route.route_type());
        if let Some(priority) = route.priority() {
            request = request.metric(priority);
        }
        connection.del_route_if_exists(request).await.map_err(what())?;
    }
    Ok(())
}
