//! Pure. What the kernel of a host has for its overlay networks, as one value: as it should be, or as it was found.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::names;
use super::request::{OverlayConfig, OverlayEndpoint, OverlayNetwork, Overlays, link_address};

/// Of an interface.
pub type LinkAddress = [u8; 6];

/// What the kernel has, by the networks' identifiers. The rules of nftables are apart: see `rules`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelState {
    /// Bridges, by name.
    pub bridges: BTreeMap<String, Bridge>,
    /// VXLAN devices, by name.
    pub tunnels: BTreeMap<String, Tunnel>,
    /// The host's ends of the containers' links, by name.
    pub ports: BTreeMap<String, Port>,
}

/// The bridge of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// In bytes.
    pub mtu: u32,
    /// Its own.
    pub mac: LinkAddress,
    /// Whether it is set up.
    pub up: bool,
    /// Its addresses: the gateways of the containers.
    pub addresses: BTreeSet<IpNet>,
}

/// The VXLAN device of a network: a port of its bridge.
///
/// It learns nothing and has no default destination, so what is not in `forwarding` is dropped: there is no flooding. It
/// answers what its neighbours are asked for, so no question leaves the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    /// The network's identifier.
    pub vni: u32,
    /// Of this host, between hosts.
    pub local: IpAddr,
    /// The UDP port.
    pub port: u16,
    /// In bytes.
    pub mtu: u32,
    /// Whether it learns where addresses are.
    pub learning: bool,
    /// Whether it answers for its neighbours.
    pub proxy: bool,
    /// Whether it is set up.
    pub up: bool,
    /// The bridge that it is a port of.
    pub bridge: Option<String>,
    /// As a port of that bridge.
    pub flags: PortFlags,
    /// Where interfaces are: each link-layer address and its host.
    pub forwarding: BTreeMap<LinkAddress, IpAddr>,
    /// Who has an address: what it answers.
    pub neighbours: BTreeMap<IpAddr, LinkAddress>,
}

/// The host's end of a container's link: a port of a bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// In bytes.
    pub mtu: u32,
    /// Whether it is set up.
    pub up: bool,
    /// The bridge that it is a port of.
    pub bridge: Option<String>,
    /// As a port of that bridge.
    pub flags: PortFlags,
    /// The link-layer addresses behind it.
    pub forwarding: BTreeSet<LinkAddress>,
}

/// How a bridge treats a port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PortFlags {
    /// Whether addresses are learned from what comes in.
    pub learning: bool,
    /// Whether frames for unknown addresses go out.
    pub unicast_flood: bool,
    /// Whether a frame may go back to where it came from.
    pub hairpin: bool,
}

impl PortFlags {
    /// Of a tunnel: what no local port has is on another host or nowhere, which the tunnel knows.
    pub const TUNNEL: Self = Self { learning: false, unicast_flood: true, hairpin: false };
    /// Of a container: it gets what is for it, and cannot pretend to be another. With bridge-nf-call-iptables a container
    /// that reaches itself by a published port is sent back on the port that it came from.
    pub const CONTAINER: Self = Self { learning: false, unicast_flood: false, hairpin: true };
}

/// The link-layer address of a network's bridge on this host.
#[must_use]
pub fn bridge_address(network: &OverlayNetwork) -> LinkAddress {
    link_address(network.addresses.iter().map(IpNet::addr))
}

/// The name of the host's end of a container's link.
#[must_use]
pub fn port_name(config: &OverlayConfig, network: &OverlayNetwork, endpoint: &OverlayEndpoint) -> String {
    names::port(&config.prefix, network.vni, endpoint.addresses.iter().map(IpNet::addr))
}

/// What the kernel should have for these networks and these interfaces of local containers.
#[must_use]
pub fn kernel_state<'a>(
    config: &OverlayConfig,
    overlays: &Overlays,
    endpoints: impl IntoIterator<Item = &'a OverlayEndpoint>,
) -> KernelState {
    let mut state = KernelState::default();
    for network in overlays.networks.values() {
        let bridge = names::bridge(&config.prefix, network.vni);
        let tunnel = Tunnel {
            vni: network.vni,
            local: network.underlay,
            port: if network.encrypted { config.encrypted_port() } else { config.port },
            mtu: network.mtu,
            learning: false,
            proxy: true,
            up: true,
            bridge: Some(bridge.clone()),
            flags: PortFlags::TUNNEL,
            forwarding: network.neighbours.iter().map(|neighbour| (neighbour.mac, neighbour.host)).collect(),
            neighbours: network.neighbours.iter().map(|neighbour| (neighbour.address, neighbour.mac)).collect(),
        };
        state.tunnels.insert(names::tunnel(&config.prefix, network.vni), tunnel);
        let made = Bridge {
            mtu: network.mtu,
            mac: bridge_address(network),
            up: true,
            addresses: network.addresses.iter().copied().collect(),
        };
        state.bridges.insert(bridge, made);
    }
    for endpoint in endpoints {
        let Some(network) = overlays.networks.get(&endpoint.network) else { continue };
        let port = Port {
            mtu: network.mtu,
            up: true,
            bridge: Some(names::bridge(&config.prefix, network.vni)),
            flags: PortFlags::CONTAINER,
            forwarding: BTreeSet::from([endpoint.mac]),
        };
        state.ports.insert(port_name(config, network, endpoint), port);
    }
    state
}
