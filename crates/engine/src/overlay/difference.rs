//! Pure. What must be done so that the kernel has what it should: nothing where it has it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::state::{Bridge, KernelState, LinkAddress, Port, PortFlags, Tunnel};

/// One request to the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A link goes, and with it all that it has.
    RemoveLink {
        /// Its name.
        link: String,
    },
    /// A bridge comes, not yet up.
    MakeBridge {
        /// Its name.
        link: String,
        /// In bytes.
        mtu: u32,
        /// Its own.
        mac: LinkAddress,
        /// Whether it will have addresses of IPv6.
        ipv6: bool,
    },
    /// A VXLAN device comes, not yet up.
    MakeTunnel {
        /// Its name.
        link: String,
        /// The network's identifier.
        vni: u32,
        /// Of this host, between hosts.
        local: IpAddr,
        /// The UDP port.
        port: u16,
        /// In bytes.
        mtu: u32,
    },
    /// A link gets another MTU.
    SetMtu {
        /// Its name.
        link: String,
        /// In bytes.
        mtu: u32,
    },
    /// A bridge gets another link-layer address.
    SetLinkAddress {
        /// Its name.
        link: String,
        /// The address.
        mac: LinkAddress,
    },
    /// A link becomes a port of a bridge.
    Join {
        /// Its name.
        link: String,
        /// The bridge's.
        bridge: String,
    },
    /// A bridge treats a port otherwise.
    SetPortFlags {
        /// Its name.
        link: String,
        /// How.
        flags: PortFlags,
    },
    /// A link is set up.
    SetUp {
        /// Its name.
        link: String,
    },
    /// A bridge loses an address.
    RemoveAddress {
        /// Its name.
        link: String,
        /// The address.
        address: IpNet,
    },
    /// A bridge gets an address.
    AddAddress {
        /// Its name.
        link: String,
        /// The address.
        address: IpNet,
    },
    /// A link-layer address is not behind a port any more.
    RemovePortForwarding {
        /// The port.
        link: String,
        /// The address.
        mac: LinkAddress,
    },
    /// A link-layer address is behind a port.
    AddPortForwarding {
        /// The port.
        link: String,
        /// The address.
        mac: LinkAddress,
    },
    /// A tunnel forgets where an interface is.
    RemoveForwarding {
        /// The tunnel.
        link: String,
        /// The interface's address.
        mac: LinkAddress,
    },
    /// A tunnel learns where an interface is.
    AddForwarding {
        /// The tunnel.
        link: String,
        /// The interface's address.
        mac: LinkAddress,
        /// The host.
        host: IpAddr,
    },
    /// A tunnel learns where an interface went.
    MoveForwarding {
        /// The tunnel.
        link: String,
        /// The interface's address.
        mac: LinkAddress,
        /// The host.
        host: IpAddr,
    },
    /// A tunnel does not answer for an address any more.
    RemoveNeighbour {
        /// The tunnel.
        link: String,
        /// The address.
        address: IpAddr,
    },
    /// A tunnel answers for an address.
    AddNeighbour {
        /// The tunnel.
        link: String,
        /// The address.
        address: IpAddr,
        /// Who has it.
        mac: LinkAddress,
    },
    /// A tunnel answers for an address with another interface.
    ChangeNeighbour {
        /// The tunnel.
        link: String,
        /// The address.
        address: IpAddr,
        /// Who has it.
        mac: LinkAddress,
    },
    /// A container's link is made again. Its bridge is joined by the steps after this one.
    MakePort {
        /// The host's end.
        link: String,
    },
}

/// What leads from what was found to what should be, in an order that can be done. Links that are found and not wanted go
/// only with `remove_ports` and what is theirs: before a new process has adopted what the last one left, it does not know
/// whose ports they are.
#[must_use]
pub fn difference(have: &KernelState, want: &KernelState, remove_ports: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    // A tunnel cannot change what it is, and a second one for the same network is refused: the old ones go first.
    let stays =
        |link: &String, tunnel: &Tunnel| want.tunnels.get(link).is_some_and(|wanted| same_tunnel(tunnel, wanted));
    let mut removed: Vec<&String> =
        have.tunnels.iter().filter(|(link, tunnel)| !stays(link, tunnel)).map(|(link, _)| link).collect();
    removed.extend(have.bridges.keys().filter(|link| !want.bridges.contains_key(*link)));
    if remove_ports {
        removed.extend(have.ports.keys().filter(|link| !want.ports.contains_key(*link)));
    }
    steps.extend(removed.into_iter().map(|link| Step::RemoveLink { link: link.clone() }));
    for (link, bridge) in &want.bridges {
        bridge_steps(link, have.bridges.get(link), bridge, &mut steps);
    }
    for (link, tunnel) in &want.tunnels {
        tunnel_steps(link, have.tunnels.get(link).filter(|found| same_tunnel(found, tunnel)), tunnel, &mut steps);
    }
    for (link, port) in &want.ports {
        port_steps(link, have.ports.get(link), port, &mut steps);
    }
    steps
}

/// Whether one can become the other without being made anew.
fn same_tunnel(have: &Tunnel, want: &Tunnel) -> bool {
    (have.vni, have.local, have.port, have.learning, have.proxy)
        == (want.vni, want.local, want.port, want.learning, want.proxy)
}

fn bridge_steps(link: &str, have: Option<&Bridge>, want: &Bridge, steps: &mut Vec<Step>) {
    let link = || link.to_owned();
    match have {
        None => {
            let ipv6 = want.addresses.iter().any(|address| address.addr().is_ipv6());
            steps.push(Step::MakeBridge { link: link(), mtu: want.mtu, mac: want.mac, ipv6 });
        }
        Some(have) => {
            if have.mac != want.mac {
                steps.push(Step::SetLinkAddress { link: link(), mac: want.mac });
            }
            if have.mtu != want.mtu {
                steps.push(Step::SetMtu { link: link(), mtu: want.mtu });
            }
            let gone = have.addresses.difference(&want.addresses);
            steps.extend(gone.map(|&address| Step::RemoveAddress { link: link(), address }));
        }
    }
    let none = BTreeSet::new();
    let present = have.map_or(&none, |have| &have.addresses);
    let new = want.addresses.difference(present);
    steps.extend(new.map(|&address| Step::AddAddress { link: link(), address }));
    if !have.is_some_and(|have| have.up) {
        steps.push(Step::SetUp { link: link() });
    }
}

fn tunnel_steps(link: &str, have: Option<&Tunnel>, want: &Tunnel, steps: &mut Vec<Step>) {
    let name = || link.to_owned();
    match have {
        None => steps.push(Step::MakeTunnel {
            link: name(),
            vni: want.vni,
            local: want.local,
            port: want.port,
            mtu: want.mtu,
        }),
        Some(have) if have.mtu != want.mtu => steps.push(Step::SetMtu { link: name(), mtu: want.mtu }),
        Some(_) => {}
    }
    let none = BTreeMap::new();
    let forwarding = have.map_or(&none, |have| &have.forwarding);
    let gone = forwarding.keys().filter(|mac| !want.forwarding.contains_key(*mac));
    steps.extend(gone.map(|&mac| Step::RemoveForwarding { link: name(), mac }));
    for (&mac, &host) in &want.forwarding {
        match forwarding.get(&mac) {
            Some(present) if *present == host => {}
            Some(_) => steps.push(Step::MoveForwarding { link: name(), mac, host }),
            None => steps.push(Step::AddForwarding { link: name(), mac, host }),
        }
    }
    let none = BTreeMap::new();
    let neighbours = have.map_or(&none, |have| &have.neighbours);
    let gone = neighbours.keys().filter(|address| !want.neighbours.contains_key(*address));
    steps.extend(gone.map(|&address| Step::RemoveNeighbour { link: name(), address }));
    for (&address, &mac) in &want.neighbours {
        match neighbours.get(&address) {
            Some(present) if *present == mac => {}
            Some(_) => steps.push(Step::ChangeNeighbour { link: name(), address, mac }),
            None => steps.push(Step::AddNeighbour { link: name(), address, mac }),
        }
    }
    let have = have.map(|have| (have.bridge.as_deref(), have.flags, have.up));
    join_steps(link, have, (want.bridge.as_deref(), want.flags), steps);
}

fn port_steps(link: &str, have: Option<&Port>, want: &Port, steps: &mut Vec<Step>) {
    let name = || link.to_owned();
    match have {
        None => steps.push(Step::MakePort { link: name() }),
        Some(have) if have.mtu != want.mtu => steps.push(Step::SetMtu { link: name(), mtu: want.mtu }),
        Some(_) => {}
    }
    let joined = have.map(|have| (have.bridge.as_deref(), have.flags, have.up));
    let moved = have.is_none_or(|have| have.bridge != want.bridge);
    join_steps(link, joined, (want.bridge.as_deref(), want.flags), steps);
    // What is behind a port is known to its bridge, and forgotten when it leaves.
    let none = BTreeSet::new();
    let present = have.filter(|_| !moved).map_or(&none, |have| &have.forwarding);
    let gone = present.difference(&want.forwarding);
    steps.extend(gone.map(|&mac| Step::RemovePortForwarding { link: name(), mac }));
    let new = want.forwarding.difference(present);
    steps.extend(new.map(|&mac| Step::AddPortForwarding { link: name(), mac }));
}

/// A link is set up as the last thing, so that no packet passes before it is what it should be.
fn join_steps(
    link: &str,
    have: Option<(Option<&str>, PortFlags, bool)>,
    (bridge, flags): (Option<&str>, PortFlags),
    steps: &mut Vec<Step>,
) {
    let name = || link.to_owned();
    let joined = have.is_some_and(|(present, _, _)| present == bridge);
    if let Some(bridge) = bridge.filter(|_| !joined) {
        steps.push(Step::Join { link: name(), bridge: bridge.to_owned() });
    }
    // The flags are those of the membership, and begin anew with it.
    if !joined || have.is_none_or(|(_, present, _)| present != flags) {
        steps.push(Step::SetPortFlags { link: name(), flags });
    }
    if !have.is_some_and(|(_, _, up)| up) {
        steps.push(Step::SetUp { link: name() });
    }
}

struct Mac(LinkAddress);

impl fmt::Display for Mac {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs = self.0.map(|byte| format!("{byte:02x}"));
        formatter.write_str(&pairs.join(":"))
    }
}

/// The end of a sentence that begins with "could not".
impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RemoveLink { link } => write!(formatter, "remove the link {link}"),
            Self::MakeBridge { link, .. } => write!(formatter, "make the bridge {link}"),
            Self::MakeTunnel { link, vni, local, port, .. } => {
                write!(formatter, "make the VXLAN device {link} with the identifier {vni} at {local} port {port}")
            }
            Self::SetMtu { link, mtu } => write!(formatter, "give {link} an MTU of {mtu} bytes"),
            Self::SetLinkAddress { link, mac } => write!(formatter, "give {link} the link-layer address {}", Mac(*mac)),
            Self::Join { link, bridge } => write!(formatter, "make {link} a port of {bridge}"),
            Self::SetPortFlags { link, .. } => write!(formatter, "set how the bridge treats its port {link}"),
            Self::SetUp { link } => write!(formatter, "set {link} up"),
            Self::RemoveAddress { link, address } => write!(formatter, "take the address {address} from {link}"),
            Self::AddAddress { link, address } => write!(formatter, "give {link} the address {address}"),
            Self::RemovePortForwarding { link, mac } => write!(formatter, "forget {} behind {link}", Mac(*mac)),
            Self::AddPortForwarding { link, mac } => write!(formatter, "remember {} behind {link}", Mac(*mac)),
            Self::RemoveForwarding { link, mac } => write!(formatter, "forget by {link} where {} is", Mac(*mac)),
            Self::AddForwarding { link, mac, host } | Self::MoveForwarding { link, mac, host } => {
                write!(formatter, "remember by {link} that {} is at {host}", Mac(*mac))
            }
            Self::RemoveNeighbour { link, address } => write!(formatter, "forget by {link} who has {address}"),
            Self::AddNeighbour { link, address, mac } | Self::ChangeNeighbour { link, address, mac } => {
                write!(formatter, "remember by {link} that {} has {address}", Mac(*mac))
            }
            Self::MakePort { link } => write!(formatter, "make the container's link {link} again"),
        }
    }
}
