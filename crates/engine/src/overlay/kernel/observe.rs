//! What the kernel has, read back.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use nlink::netlink::messages::{LinkMessage, NeighborMessage};
use nlink::netlink::parse::{FromNetlink, PResult};
use nlink::netlink::types::neigh::NeighborState;
use nlink::netlink::{AttrIter, Connection, NlMsgType, Route};

use crate::network::kernel::{KernelError, refused};
use crate::overlay::names;
use crate::overlay::state::{Bridge, KernelState, Port, PortFlags, Tunnel};

/// Attributes of a VXLAN device (`IFLA_VXLAN_*` of linux/if_link.h).
mod vxlan {
    pub const ID: u16 = 1;
    pub const LOCAL: u16 = 4;
    pub const LEARNING: u16 = 7;
    pub const PROXY: u16 = 11;
    pub const PORT: u16 = 15;
    pub const LOCAL6: u16 = 17;
}

/// Attributes of a bridge's port (`IFLA_BRPORT_*` of linux/if_link.h).
mod bridge_port {
    pub const HAIRPIN: u16 = 4;
    pub const LEARNING: u16 = 8;
    pub const UNICAST_FLOOD: u16 = 9;
}

/// An entry of a forwarding table says that it is the device's own (`NTF_SELF` of linux/neighbour.h).
const OWN: u8 = 0x02;

/// All forwarding tables are asked for as neighbours of the family of bridges: this header (`struct ndmsg`) is what makes
/// the difference.
struct ForwardingMessage(NeighborMessage);

impl FromNetlink for ForwardingMessage {
    fn parse(input: &mut &[u8]) -> PResult<Self> {
        NeighborMessage::parse(input).map(Self)
    }

    fn write_dump_header(buffer: &mut Vec<u8>) {
        let mut header = [0; 12];
        header[0] = u8::try_from(libc::AF_BRIDGE).unwrap_or_default();
        buffer.extend(header);
    }
}

/// What the host's kernel has of the networks of this prefix, and the indexes of all its links by name.
///
/// # Errors
/// When the kernel cannot be asked.
pub async fn observe(
    connection: &Connection<Route>,
    prefix: &str,
) -> Result<(KernelState, HashMap<String, u32>), KernelError> {
    let ask = |what: &'static str| refused(move || what.to_owned());
    let links = connection.get_links().await.map_err(ask("list the host's links"))?;
    let named: HashMap<u32, &str> = links.iter().filter_map(|link| Some((link.ifindex(), link.name()?))).collect();
    let mut state = KernelState::default();
    for link in &links {
        let Some(name) = link.name().filter(|name| names::is_own(prefix, name)) else { continue };
        let master = link.master().and_then(|index| named.get(&index)).map(|name| (*name).to_owned());
        match link.kind() {
            Some("bridge") => {
                state.bridges.insert(name.to_owned(), bridge(link));
            }
            Some("vxlan") => {
                state.tunnels.insert(name.to_owned(), tunnel(link, master));
            }
            _ => {
                state.ports.insert(name.to_owned(), port(link, master));
            }
        }
    }
    if !state.bridges.is_empty() || !state.tunnels.is_empty() || !state.ports.is_empty() {
        addresses(connection, &named, &mut state).await.map_err(ask("list the host's addresses"))?;
        forwarding(connection, &named, &mut state).await.map_err(ask("list the host's forwarding entries"))?;
        neighbours(connection, &named, &mut state).await.map_err(ask("list the host's neighbours"))?;
    }
    let indexes = named.iter().map(|(index, name)| ((*name).to_owned(), *index)).collect();
    Ok((state, indexes))
}

fn bridge(link: &LinkMessage) -> Bridge {
    Bridge {
        mtu: link.mtu().unwrap_or_default(),
        mac: link.address().and_then(|address| address.try_into().ok()).unwrap_or_default(),
        up: link.is_up(),
        addresses: BTreeSet::new(),
    }
}

fn tunnel(link: &LinkMessage, bridge: Option<String>) -> Tunnel {
    let mut tunnel = Tunnel {
        vni: 0,
        // Not told by a device that has none: one of an encrypted network, which is within IPv6.
        local: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        port: 0,
        mtu: link.mtu().unwrap_or_default(),
        learning: false,
        proxy: false,
        up: link.is_up(),
        bridge,
        flags: flags(link),
        forwarding: BTreeMap::new(),
        neighbours: BTreeMap::new(),
    };
    let data = link.link_info().and_then(|info| info.data()).unwrap_or_default();
    for (kind, value) in AttrIter::new(data) {
        match (kind, value) {
            (vxlan::ID, &[a, b, c, d]) => tunnel.vni = u32::from_ne_bytes([a, b, c, d]),
            (vxlan::LOCAL, &[a, b, c, d]) => tunnel.local = IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
            (vxlan::LOCAL6, address) => {
                if let Ok(address) = <[u8; 16]>::try_from(address) {
                    tunnel.local = IpAddr::V6(Ipv6Addr::from(address));
                }
            }
            (vxlan::LEARNING, &[on, ..]) => tunnel.learning = on != 0,
            (vxlan::PROXY, &[on, ..]) => tunnel.proxy = on != 0,
            (vxlan::PORT, &[a, b]) => tunnel.port = u16::from_be_bytes([a, b]),
            _ => {}
        }
    }
    tunnel
}

fn port(link: &LinkMessage, bridge: Option<String>) -> Port {
    Port {
        mtu: link.mtu().unwrap_or_default(),
        up: link.is_up(),
        bridge,
        flags: flags(link),
        forwarding: BTreeSet::new(),
    }
}

fn flags(link: &LinkMessage) -> PortFlags {
    let mut flags = PortFlags::default();
    let data = link.link_info().and_then(|info| info.slave_data()).unwrap_or_default();
    for (kind, value) in AttrIter::new(data) {
        let on = value.first().is_some_and(|on| *on != 0);
        match kind {
            bridge_port::HAIRPIN => flags.hairpin = on,
            bridge_port::LEARNING => flags.learning = on,
            bridge_port::UNICAST_FLOOD => flags.unicast_flood = on,
            _ => {}
        }
    }
    flags
}

async fn addresses(
    connection: &Connection<Route>,
    named: &HashMap<u32, &str>,
    state: &mut KernelState,
) -> Result<(), nlink::Error> {
    for message in connection.get_addresses().await? {
        let bridge = named.get(&message.ifindex()).and_then(|name| state.bridges.get_mut(*name));
        let (Some(bridge), Some(&address)) = (bridge, message.primary_address()) else { continue };
        // The kernel's own, by which IPv6 finds its neighbours.
        if matches!(address, IpAddr::V6(address) if address.is_unicast_link_local()) {
            continue;
        }
        bridge.addresses.extend(IpNet::new(address, message.prefix_len()));
    }
    Ok(())
}

async fn forwarding(
    connection: &Connection<Route>,
    named: &HashMap<u32, &str>,
    state: &mut KernelState,
) -> Result<(), nlink::Error> {
    for ForwardingMessage(message) in connection.dump_typed(NlMsgType::RTM_GETNEIGH).await? {
        let Some(name) = named.get(&message.ifindex()) else { continue };
        let Some(mac) = message.lladdr().and_then(|address| address.try_into().ok()) else { continue };
        if let Some(tunnel) = state.tunnels.get_mut(*name) {
            if let Some(&host) = message.destination().filter(|_| message.flags() & OWN != 0) {
                tunnel.forwarding.insert(mac, host);
            }
        } else if let Some(port) = state.ports.get_mut(*name) {
            // The port's own address is permanent, one that was learned is neither.
            if message.state() == NeighborState::Noarp && message.flags() & OWN == 0 {
                port.forwarding.insert(mac);
            }
        }
    }
    Ok(())
}

async fn neighbours(
    connection: &Connection<Route>,
    named: &HashMap<u32, &str>,
    state: &mut KernelState,
) -> Result<(), nlink::Error> {
    for message in connection.get_neighbors().await? {
        let tunnel = named.get(&message.ifindex()).and_then(|name| state.tunnels.get_mut(*name));
        let Some(tunnel) = tunnel.filter(|_| message.state() == NeighborState::Permanent) else { continue };
        let mac = message.lladdr().and_then(|address| address.try_into().ok());
        if let (Some(&address), Some(mac)) = (message.destination(), mac) {
            tunnel.neighbours.insert(address, mac);
        }
    }
    Ok(())
}

/// Every destination that the host reaches otherwise than by the networks of this prefix; default routes and single
/// addresses left out.
///
/// # Errors
/// When the kernel does not list them.
pub async fn other_routes(connection: &Connection<Route>, prefix: &str) -> Result<Vec<IpNet>, KernelError> {
    let ask = |what: &'static str| refused(move || what.to_owned());
    let links = connection.get_links().await.map_err(ask("list the host's links"))?;
    let own: BTreeSet<u32> = links
        .iter()
        .filter(|link| link.name().is_some_and(|name| names::is_own(prefix, name)))
        .map(LinkMessage::ifindex)
        .collect();
    let routes = connection.get_routes_for_table(libc::RT_TABLE_MAIN.into()).await;
    Ok(routes
        .map_err(ask("list the host's routes"))?
        .iter()
        .filter(|route| route.oif().is_none_or(|index| !own.contains(&index)))
        .filter_map(|route| IpNet::new(*route.destination()?, route.dst_len()).ok())
        // A link-local network is everywhere.
        .filter(|net| !matches!(net, IpNet::V6(net) if net.network().is_unicast_link_local()))
        .filter(|net| net.prefix_len() > 0 && net.prefix_len() < net.max_prefix_len())
        .collect())
}
