//! The pure parts together.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use proptest::prelude::*;

use super::difference::{Step, difference};
use super::request::{
    Ingress, Neighbour, OverlayConfig, OverlayEndpoint, OverlayErrorReason, OverlayNetwork, Overlays, VirtualService,
    link_address,
};
use super::rules::host_table;
use super::services::{Forgotten, STICKY_SLOTS, forgotten, service_table};
use super::state::{KernelState, kernel_state};
use super::table::{Change, Key, Table, Value, difference as table_difference};
use crate::encryption::PublicKey;
use crate::network::Protocol;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn neighbours(addresses: &[IpAddr], host: IpAddr) -> impl Iterator<Item = Neighbour> {
    let mac = link_address(addresses.iter().copied());
    addresses.iter().map(move |&address| Neighbour { address, mac, host })
}

/// A network of both families with two other hosts, a balanced, a sticky and an empty service.
fn front() -> OverlayNetwork {
    let [other, third] = [ip("192.0.2.2"), ip("192.0.2.3")];
    OverlayNetwork {
        name: "shop_front".to_owned(),
        vni: 0x1001,
        mtu: 1450,
        internal: false,
        encrypted: false,
        underlay: ip("192.0.2.1"),
        addresses: vec![net("10.0.1.1/24"), net("fd00:1::1/64")],
        neighbours: neighbours(&[ip("10.0.1.2"), ip("fd00:1::2")], other)
            .chain(neighbours(&[ip("10.0.1.11"), ip("fd00:1::b")], other))
            .chain(neighbours(&[ip("10.0.1.3"), ip("fd00:1::3")], third))
            .collect(),
        services: vec![
            VirtualService {
                addresses: vec![ip("10.0.1.5"), ip("fd00:1::5")],
                backends: vec![ip("10.0.1.11"), ip("10.0.1.10"), ip("fd00:1::a"), ip("fd00:1::b")],
                sticky: false,
            },
            VirtualService { addresses: vec![ip("10.0.1.6"), ip("fd00:1::6")], backends: Vec::new(), sticky: false },
        ],
        ingress: vec![
            Ingress {
                protocol: Protocol::Tcp,

                host_ip: None,
                port: 8080,
                target: 80,
                local: vec![ip("10.0.1.10"), ip("fd00:1::a")],
                remote: vec![ip("10.0.1.11"), ip("fd00:1::b")],
                sticky: false,
                proxy_protocol: false,
            },
            Ingress {
                protocol: Protocol::Udp,

                host_ip: None,
                port: 53,
                target: 5353,
                local: Vec::new(),
                remote: vec![ip("10.0.1.11"), ip("10.0.1.12")],
                sticky: false,
                proxy_protocol: false,
            },
        ],
    }
}

fn back() -> OverlayNetwork {
    OverlayNetwork {
        name: "shop_back".to_owned(),
        vni: 0x1002,
        mtu: 1450,
        internal: true,
        encrypted: false,
        underlay: ip("192.0.2.1"),
        addresses: vec![net("10.0.2.1/24")],
        neighbours: neighbours(&[ip("10.0.2.2")], ip("192.0.2.2")).collect(),
        services: Vec::new(),
        ingress: Vec::new(),
    }
}

fn overlays(networks: impl IntoIterator<Item = OverlayNetwork>) -> Overlays {
    Overlays { networks: networks.into_iter().map(|network| (network.name.clone(), network)).collect() }
}

fn endpoint(network: &str, addresses: &[&str]) -> OverlayEndpoint {
    let addresses: Vec<IpNet> = addresses.iter().map(|address| net(address)).collect();
    OverlayEndpoint {
        network: network.to_owned(),
        interface: "eth0".to_owned(),
        mac: link_address(addresses.iter().map(IpNet::addr)),
        addresses,
        gateways: Vec::new(),
    }
}

fn on(networks: &[&str]) -> BTreeSet<String> {
    networks.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn what_the_kernel_should_have_for_two_networks() {
    let value = overlays([front(), back()]);
    value.check().unwrap();
    let container = endpoint("shop_front", &["10.0.1.10/24", "fd00:1::a/64"]);
    let state = kernel_state(&OverlayConfig::default(), &value, [&container]);
    let steps: Vec<String> =
        difference(&KernelState::default(), &state, true).iter().map(|step| format!("{step:?}")).collect();
    insta::assert_snapshot!(steps.join("\n"));
}

#[test]
fn the_table_of_a_host() {
    insta::assert_snapshot!(host_table(&OverlayConfig::default(), &overlays([front(), back()])).unwrap());
    assert_eq!(host_table(&OverlayConfig::default(), &overlays([])), None);
}

/// `back` by tunnels.
fn sealed() -> OverlayNetwork {
    let host = IpAddr::V6(PublicKey::from_bytes([7; 32]).address());
    OverlayNetwork {
        encrypted: true,
        underlay: Ipv6Addr::UNSPECIFIED.into(),
        mtu: 1370,
        neighbours: neighbours(&[ip("10.0.2.2")], host).collect(),
        ..back()
    }
}

#[test]
fn what_is_encrypted_passes_by_tunnels_alone() {
    let value = overlays([front(), sealed()]);
    value.check().unwrap();
    let config = OverlayConfig::default();
    let state = kernel_state(&config, &value, []);
    let ports: Vec<u16> = state.tunnels.values().map(|tunnel| tunnel.port).collect();
    assert_eq!(
        ports,
        [config.port, config.encrypted_port()],
        "an encrypted network has a port that others cannot reach"
    );
    let table = host_table(&config, &value).unwrap();
    let peers: Vec<_> = table.map("peers6").unwrap().elements.keys().collect();
    assert!(peers.is_empty(), "by the port of the others nothing of it is taken: {peers:?}");
    insta::assert_snapshot!(table);
    // A host that is not within tunnels would be sent it in the clear.
    let mut wrong = sealed();
    wrong.neighbours[0].host = ip("2001:db8::2");
    let error = overlays([wrong]).check().unwrap_err();
    assert_eq!(error.reason, OverlayErrorReason::Unprotected { host: ip("2001:db8::2") });
}

#[test]
fn the_table_of_a_container() {
    insta::assert_snapshot!(service_table("stack-overlay", &overlays([front(), back()]), &on(&["shop_front"])));
}

#[test]
fn one_neighbour_more_costs_two_requests_and_one_backend_less_a_few_elements() {
    let config = OverlayConfig::default();
    let before = overlays([front(), back()]);
    let mut after = before.clone();
    let network = after.networks.get_mut("shop_front").unwrap();
    network.neighbours.extend(neighbours(&[ip("10.0.1.77")], ip("192.0.2.3")));
    network.services[0].backends.remove(0);
    let steps = difference(&kernel_state(&config, &before, []), &kernel_state(&config, &after, []), true);
    assert!(matches!(steps[..], [Step::AddForwarding { .. }, Step::AddNeighbour { .. }]), "{steps:?}");
    let [before, after] = [before, after].map(|value| service_table("t", &value, &on(&["shop_front"])));
    let forgotten = forgotten(&before, &after);
    assert_eq!(forgotten.moved, [(ip("10.0.1.5"), ip("10.0.1.11"))].into());
    assert_eq!(forgotten.served, BTreeSet::new());
    let changes = table_difference(&before, &after).unwrap();
    // The backend goes, and the address leads to a chain for one fewer.
    assert_eq!(elements(&changes), 1 + 2, "{changes:?}");
}

/// How many elements these changes name.
fn elements(changes: &[Change<'_>]) -> usize {
    let count = |change: &Change<'_>| match change {
        Change::RemoveElements(_, elements) | Change::AddElements(_, elements) => elements.len(),
        Change::RemoveChain(_) | Change::AddChain(_) | Change::SetRules(_) => 0,
    };
    changes.iter().map(count).sum()
}

#[test]
fn a_service_that_gets_its_first_backend_is_served_from_then_on() {
    let before = overlays([front()]);
    let mut after = before.clone();
    after.networks.get_mut("shop_front").unwrap().services[1].backends.push(ip("10.0.1.11"));
    let [before, after] = [before, after].map(|value| service_table("t", &value, &on(&["shop_front"])));
    assert_eq!(forgotten(&before, &after), Forgotten { moved: BTreeSet::new(), served: [ip("10.0.1.6")].into() });
    assert!(forgotten(&after, &after).is_empty());
}

#[test]
fn a_sticky_service_moves_the_share_of_the_backend_that_goes_and_no_more() {
    let backends: Vec<IpAddr> = (10..20).map(|last| IpAddr::V4(Ipv4Addr::new(10, 0, 1, last))).collect();
    let slots = |backends: &[IpAddr]| -> Vec<IpAddr> {
        let mut network = front();
        network.services =
            vec![VirtualService { addresses: vec![ip("10.0.1.5")], backends: backends.to_vec(), sticky: true }];
        let table = service_table("t", &overlays([network]), &on(&["shop_front"]));
        let chosen = table.map("backends4").unwrap().elements.values().map(|value| match value {
            Value::Data(parts) => parts[0].to_string().parse().unwrap(),
            Value::Member | Value::Goto(_) => panic!("{value:?}"),
        });
        chosen.collect()
    };
    let all = slots(&backends);
    let fewer = slots(&backends[1..]);
    assert_eq!(all.len(), STICKY_SLOTS as usize);
    for (one, other) in all.iter().zip(&fewer) {
        assert!(one == other || *one == backends[0]);
    }
    let most = backends.iter().map(|backend| all.iter().filter(|slot| *slot == backend).count()).max().unwrap();
    assert!(most <= 16, "one backend has {most} of {STICKY_SLOTS} slots");
}

#[test]
fn a_value_that_makes_no_sense_is_refused_with_the_place() {
    let reason = |change: &dyn Fn(&mut OverlayNetwork)| {
        let mut network = front();
        change(&mut network);
        overlays([network, back()]).check().map_err(|error| error.reason)
    };
    assert_eq!(reason(&|_| {}), Ok(()));
    let vni = reason(&|network| network.vni = 1 << 24);
    assert_eq!(vni, Err(OverlayErrorReason::Identifier { vni: 1 << 24 }));
    let twice = reason(&|network| network.vni = 0x1002);
    assert_eq!(twice, Err(OverlayErrorReason::IdentifierTwice { vni: 0x1002, other: "shop_back".to_owned() }));
    assert_eq!(reason(&|network| network.mtu = 1279), Err(OverlayErrorReason::Mtu { mtu: 1279, least: 1280 }));
    let none = reason(&|network| network.addresses.clear());
    assert_eq!(none, Err(OverlayErrorReason::Addresses { count: 0 }));
    let foreign = reason(&|network| network.services[0].backends.push(ip("10.0.2.9")));
    assert_eq!(foreign, Err(OverlayErrorReason::Foreign { address: ip("10.0.2.9") }));
    let own = reason(&|network| network.neighbours[0].address = ip("10.0.1.1"));
    assert_eq!(own, Err(OverlayErrorReason::Twice { address: ip("10.0.1.1") }));
    let group = reason(&|network| network.neighbours[0].mac = [1; 6]);
    assert_eq!(group, Err(OverlayErrorReason::Group { address: ip("10.0.1.2") }));
    let moved = reason(&|network| network.neighbours[0].host = ip("192.0.2.9"));
    assert_eq!(moved, Err(OverlayErrorReason::LinkAddressTwice { address: ip("fd00:1::2") }));
    let family = reason(&|network| network.underlay = ip("2001:db8::1"));
    assert!(matches!(family, Err(OverlayErrorReason::Underlay { .. })));
    let internal = reason(&|network| network.internal = true);
    assert!(matches!(internal, Err(OverlayErrorReason::IngressOfInternal { port: 8080, .. })));
    let port = reason(&|network| network.ingress[1].port = 8080);
    assert_eq!(port, Ok(()), "another protocol");
}

/// A network of chance: tasks and services on up to four hosts.
fn any_network(number: u8) -> impl Strategy<Value = OverlayNetwork> {
    let tasks = prop::collection::btree_map(10u8..60, (1u8..5, any::<bool>()), 0..12);
    let services =
        prop::collection::btree_map(100u8..120, (prop::collection::btree_set(10u8..60, 0..6), any::<bool>()), 0..5);
    (tasks, services, any::<bool>(), any::<bool>()).prop_map(move |(tasks, services, ipv6, internal)| {
        let addresses = |last: u8| {
            let mut addresses = vec![IpAddr::V4(Ipv4Addr::new(10, 0, number, last))];
            if ipv6 {
                addresses.push(Ipv6Addr::new(0xfd00, number.into(), 0, 0, 0, 0, 0, last.into()).into());
            }
            addresses
        };
        let all = |tasks: &BTreeSet<u8>| tasks.iter().flat_map(|task| addresses(*task)).collect::<Vec<_>>();
        OverlayNetwork {
            encrypted: false,
            name: format!("net{number}"),
            vni: u32::from(number) + 1,
            mtu: 1450,
            internal,
            underlay: ip("192.0.2.1"),
            addresses: addresses(1)
                .into_iter()
                .map(|address| IpNet::new(address, if address.is_ipv4() { 24 } else { 64 }).unwrap())
                .collect(),
            neighbours: tasks
                .iter()
                .filter(|(_, (host, _))| *host != 1)
                .flat_map(|(task, (host, _))| {
                    neighbours(&addresses(*task), Ipv4Addr::new(192, 0, 2, *host).into()).collect::<Vec<_>>()
                })
                .collect(),
            services: services
                .iter()
                .map(|(service, (backends, sticky))| VirtualService {
                    addresses: addresses(*service),
                    backends: all(backends),
                    sticky: *sticky,
                })
                .collect(),
            ingress: Vec::new(),
        }
    })
}

fn any_overlays() -> impl Strategy<Value = Overlays> {
    let network = |number| prop::option::of(any_network(number));
    (network(0), network(1), network(2)).prop_map(|(one, two, three)| overlays([one, two, three].into_iter().flatten()))
}

/// What a kernel would have after these steps, which each must be possible.
fn done(mut state: KernelState, steps: &[Step], want: &KernelState) -> KernelState {
    for step in steps {
        match step.clone() {
            Step::RemoveLink { link } => {
                let bridge = state.bridges.remove(&link).is_some();
                assert!(bridge || state.tunnels.remove(&link).is_some() || state.ports.remove(&link).is_some());
                for tunnel in state.tunnels.values_mut().filter(|tunnel| tunnel.bridge.as_ref() == Some(&link)) {
                    tunnel.bridge = None;
                }
            }
            // What is made is made as it should be; its parts come by the other steps.
            Step::MakeBridge { link, .. } => {
                let mut made = want.bridges[&link].clone();
                (made.up, made.addresses) = (false, BTreeSet::new());
                assert!(state.bridges.insert(link, made).is_none());
            }
            Step::MakeTunnel { link, .. } => {
                let mut made = want.tunnels[&link].clone();
                (made.up, made.bridge, made.flags) = (false, None, Default::default());
                (made.forwarding, made.neighbours) = (BTreeMap::new(), BTreeMap::new());
                assert!(state.tunnels.insert(link, made).is_none());
            }
            Step::MakePort { link } => {
                let mut made = want.ports[&link].clone();
                (made.up, made.bridge, made.flags) = (false, None, Default::default());
                made.forwarding.clear();
                assert!(state.ports.insert(link, made).is_none());
            }
            Step::SetMtu { link, mtu } => {
                if let Some(bridge) = state.bridges.get_mut(&link) {
                    bridge.mtu = mtu;
                } else {
                    state.tunnels.get_mut(&link).unwrap().mtu = mtu;
                }
            }
            Step::SetLinkAddress { link, mac } => state.bridges.get_mut(&link).unwrap().mac = mac,
            Step::Join { link, bridge } => {
                assert!(state.bridges.contains_key(&bridge));
                match state.tunnels.get_mut(&link) {
                    Some(tunnel) => tunnel.bridge = Some(bridge),
                    None => state.ports.get_mut(&link).unwrap().bridge = Some(bridge),
                }
            }
            Step::SetPortFlags { link, flags } => match state.tunnels.get_mut(&link) {
                Some(tunnel) => tunnel.flags = flags,
                None => state.ports.get_mut(&link).unwrap().flags = flags,
            },
            Step::SetUp { link } => {
                if let Some(bridge) = state.bridges.get_mut(&link) {
                    bridge.up = true;
                } else if let Some(tunnel) = state.tunnels.get_mut(&link) {
                    tunnel.up = true;
                } else {
                    state.ports.get_mut(&link).unwrap().up = true;
                }
            }
            Step::RemoveAddress { link, address } => {
                assert!(state.bridges.get_mut(&link).unwrap().addresses.remove(&address));
            }
            Step::AddAddress { link, address } => {
                assert!(state.bridges.get_mut(&link).unwrap().addresses.insert(address));
            }
            Step::RemovePortForwarding { link, mac } => {
                assert!(state.ports.get_mut(&link).unwrap().forwarding.remove(&mac));
            }
            Step::AddPortForwarding { link, mac } => {
                assert!(state.ports.get_mut(&link).unwrap().forwarding.insert(mac));
            }
            Step::RemoveForwarding { link, mac } => {
                assert!(state.tunnels.get_mut(&link).unwrap().forwarding.remove(&mac).is_some());
            }
            Step::AddForwarding { link, mac, host } => {
                assert!(state.tunnels.get_mut(&link).unwrap().forwarding.insert(mac, host).is_none());
            }
            Step::MoveForwarding { link, mac, host } => {
                assert!(state.tunnels.get_mut(&link).unwrap().forwarding.insert(mac, host).is_some());
            }
            Step::RemoveNeighbour { link, address } => {
                assert!(state.tunnels.get_mut(&link).unwrap().neighbours.remove(&address).is_some());
            }
            Step::AddNeighbour { link, address, mac } => {
                assert!(state.tunnels.get_mut(&link).unwrap().neighbours.insert(address, mac).is_none());
            }
            Step::ChangeNeighbour { link, address, mac } => {
                assert!(state.tunnels.get_mut(&link).unwrap().neighbours.insert(address, mac).is_some());
            }
        }
    }
    state
}

/// A table after these changes, none of which leaves an element that leads nowhere.
fn changed(have: &Table, changes: &[Change<'_>]) -> Table {
    let mut table = have.clone();
    for change in changes {
        match change {
            Change::RemoveElements(map, elements) => {
                let map = table.maps.iter_mut().find(|found| found.name == map.name).unwrap();
                elements.iter().for_each(|(key, _)| assert!(map.elements.remove(*key).is_some()));
            }
            Change::AddElements(map, elements) => {
                for (key, value) in elements {
                    assert!(!matches!(value, Value::Goto(chain) if table.chain(chain).is_none()));
                    let map = table.maps.iter_mut().find(|found| found.name == map.name).unwrap();
                    assert!(map.elements.insert(Key::clone(key), Value::clone(value)).is_none());
                }
            }
            Change::RemoveChain(chain) => {
                let led = |value: &Value| matches!(value, Value::Goto(name) if *name == chain.name);
                assert!(!table.maps.iter().flat_map(|map| map.elements.values()).any(led));
                table.chains.retain(|found| found.name != chain.name);
            }
            Change::AddChain(chain) => {
                let empty = super::table::Chain { rules: Vec::new(), ..(*chain).clone() };
                table.chains.push(empty);
            }
            Change::SetRules(chain) => {
                let found = table.chains.iter_mut().find(|found| found.name == chain.name).unwrap();
                found.rules.clone_from(&chain.rules);
            }
        }
    }
    table
}

fn sorted(mut table: Table) -> Table {
    table.chains.sort_by(|one, other| one.name.cmp(&other.name));
    table
}

proptest! {
    /// Whatever a host has, the steps lead to what it should have, and then there are none.
    #[test]
    fn steps_lead_to_what_is_wanted(before in any_overlays(), after in any_overlays()) {
        prop_assert_eq!(after.check(), Ok(()));
        let config = OverlayConfig::default();
        let [have, want] = [before, after].map(|value| kernel_state(&config, &value, []));
        let steps = difference(&have, &want, true);
        let reached = done(have, &steps, &want);
        prop_assert_eq!(&reached, &want);
        prop_assert_eq!(difference(&want, &want, true), Vec::new());
    }

    /// Every neighbour has one entry of each kind, and nothing else has any.
    #[test]
    fn each_neighbour_is_answered_for_and_forwarded_to_once(value in any_overlays()) {
        let state = kernel_state(&OverlayConfig::default(), &value, []);
        for (network, tunnel) in value.networks.values().zip(state.tunnels.values()) {
            prop_assert_eq!(network.vni, tunnel.vni);
            prop_assert_eq!(tunnel.neighbours.len(), network.neighbours.len());
            for neighbour in &network.neighbours {
                prop_assert_eq!(tunnel.neighbours[&neighbour.address], neighbour.mac);
                prop_assert_eq!(tunnel.forwarding[&neighbour.mac], neighbour.host);
            }
            let macs: BTreeSet<_> = network.neighbours.iter().map(|neighbour| neighbour.mac).collect();
            prop_assert_eq!(tunnel.forwarding.len(), macs.len());
        }
    }

    /// A network changes nothing of another: neither links nor the tables of containers that are on the other alone.
    #[test]
    fn two_networks_share_nothing(one in any_network(0), two in any_network(1)) {
        let config = OverlayConfig::default();
        let both = kernel_state(&config, &overlays([one.clone(), two.clone()]), []);
        let [mut alone, other] = [&one, &two].map(|network| kernel_state(&config, &overlays([network.clone()]), []));
        prop_assert!(alone.bridges.keys().all(|name| !other.bridges.contains_key(name)));
        alone.bridges.extend(other.bridges);
        alone.tunnels.extend(other.tunnels);
        prop_assert_eq!(alone, both);
        let table = service_table("t", &overlays([one.clone()]), &on(&["net0"]));
        prop_assert_eq!(table, service_table("t", &overlays([one, two]), &on(&["net0"])));
    }

    /// Each service of the network has each of its backends, or is refused, and the changes of the table lead there.
    #[test]
    fn every_service_is_balanced_or_refused(before in any_network(0), after in any_network(0)) {
        let [have, want] = [&before, &after].map(|value| service_table("t", &overlays([value.clone()]), &on(&["net0"])));
        let changes = table_difference(&have, &want).unwrap();
        prop_assert_eq!(sorted(changed(&have, &changes)), sorted(want.clone()));
        prop_assert_eq!(table_difference(&want, &want), Some(Vec::new()));
        for service in &after.services {
            for &address in &service.addresses {
                let [services, backends, refused] = if address.is_ipv4() {
                    ["services4", "backends4", "refused4"]
                } else {
                    ["services6", "backends6", "refused6"]
                };
                let key: Key = vec![address.into()];
                let expected: BTreeSet<String> = service
                    .backends
                    .iter()
                    .filter(|backend| backend.is_ipv4() == address.is_ipv4())
                    .map(ToString::to_string)
                    .collect();
                let found: Vec<String> = want
                    .map(backends)
                    .unwrap()
                    .elements
                    .iter()
                    .filter(|(key, _)| key[0] == address.into())
                    .map(|(_, value)| match value {
                        Value::Data(parts) => parts[0].to_string(),
                        Value::Member | Value::Goto(_) => String::new(),
                    })
                    .collect();
                let names: BTreeSet<String> = found.iter().cloned().collect();
                prop_assert!(names.is_subset(&expected));
                prop_assert_eq!(want.map(refused).unwrap().elements.contains_key(&key), expected.is_empty());
                let chain = want.map(services).unwrap().elements.get(&key);
                prop_assert_eq!(chain.is_none(), expected.is_empty());
                if let Some(Value::Goto(chain)) = chain {
                    prop_assert!(want.chain(chain).is_some());
                    let count = if service.sticky { STICKY_SLOTS as usize } else { expected.len() };
                    prop_assert_eq!(found.len(), count);
                    if !service.sticky {
                        prop_assert_eq!(names, expected);
                    }
                }
            }
        }
    }

    /// The host's table differs from one value to the next by changes that can be done.
    #[test]
    fn the_hosts_table_changes_in_place(before in any_overlays(), after in any_overlays()) {
        let config = OverlayConfig::default();
        if let (Some(have), Some(want)) = (host_table(&config, &before), host_table(&config, &after)) {
            let changes = table_difference(&have, &want).unwrap();
            prop_assert_eq!(sorted(changed(&have, &changes)), sorted(want));
        }
    }

    /// Addresses have their own link-layer address each, and that of a unicast interface.
    #[test]
    fn link_addresses_are_unicast_and_apart(one in any::<u32>(), other in any::<u32>(), last in any::<u64>()) {
        let [a, b] = [one, other].map(|bits| link_address([IpAddr::V4(bits.into())]));
        prop_assert_eq!(one == other, a == b);
        prop_assert_eq!(a[0] & 1, 0);
        let ipv6 = IpAddr::V6(Ipv6Addr::from(u128::from(last)));
        prop_assert_eq!(link_address([ipv6, IpAddr::V4(one.into())]), a);
        prop_assert_ne!(link_address([ipv6]), a);
    }
}
