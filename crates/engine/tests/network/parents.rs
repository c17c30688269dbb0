//! Networks on a link of the host: macvlan, ipvlan, and the parents that are made for them.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;

use nlink::netlink::addr::Ipv4Address;
use nlink::netlink::link::{DummyLink, IpvlanLink, VlanLink};
use nlink::netlink::route::Ipv4Route;
use nlink::netlink::{Connection, Route};
use stack_engine::network::{
    AttachError, Driver, FurtherSubnet, IpvlanMode, IpvlanReach, MacAddress, MacvlanMode, NetworkEndpoint,
    NetworkError, NetworkSettings,
};

use crate::machines::{
    HOST, HOST6, Machine, OUTSIDE, OUTSIDE6, address, container, link6, links, networks, on_a_host, port, request,
};

/// An address of the machine outside that no container is a neighbour of.
const FAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

fn macvlan(parent: Option<&str>, mode: MacvlanMode) -> NetworkSettings {
    NetworkSettings {
        driver: Driver::Macvlan { parent: parent.map(str::to_owned), mode },
        subnet: Some("192.0.2.0/24".parse().unwrap()),
        range: Some("192.0.2.16/28".parse().unwrap()),
        gateway: Some(OUTSIDE),
        auxiliary: [("host".to_owned(), HOST.into())].into(),
        ..NetworkSettings::default()
    }
}

fn ipvlan(parent: Option<&str>, mode: IpvlanMode) -> NetworkSettings {
    NetworkSettings {
        driver: Driver::Ipvlan { parent: parent.map(str::to_owned), mode, reach: IpvlanReach::Bridge },
        ..macvlan(None, MacvlanMode::Bridge)
    }
}

fn endpoint(name: &str) -> NetworkEndpoint {
    NetworkEndpoint { name: name.to_owned(), ..NetworkEndpoint::default() }
}

fn connection(machine: &Machine) -> Connection<Route> {
    Connection::<Route>::new_in(machine.netns.as_fd()).unwrap()
}

/// Which kinds of links this kernel makes: VLANs, links that lead nowhere, ipvlan.
async fn kinds() -> [bool; 3] {
    let scratch = Machine::new();
    let connection = connection(&scratch);
    [
        connection.add_link(VlanLink::with_parent_index("a", 1, 7)).await.map_err(|error| error.is_not_supported()),
        connection.add_link(DummyLink::new("b")).await.map_err(|error| error.is_not_supported()),
        connection.add_link(IpvlanLink::with_parent_index("c", 1)).await.map_err(|error| error.is_not_supported()),
    ]
    .map(|made| made != Err(true))
}

#[test]
fn containers_of_a_macvlan_are_machines_beside_the_host() {
    on_a_host(async |_host, outside| {
        let root = tempfile::tempdir().unwrap();
        let all = networks(root.path()).await;
        let index = connection(&outside).get_link_by_name("lo").await.unwrap().unwrap().ifindex();
        connection(&outside).add_address(Ipv4Address::with_index(index, FAR, 32)).await.unwrap();
        outside.serve("world", 8001);
        let host = Machine { netns: std::fs::File::open("/proc/thread-self/ns/net").unwrap() };
        host.serve("host", 80);
        link6(&host, &outside).await;
        let settings = NetworkSettings {
            ipv6: true,
            subnet6: Some("2001:db8::/64".parse().unwrap()),
            gateway6: Some(OUTSIDE6),
            auxiliary: [("host".to_owned(), HOST.into()), ("host6".to_owned(), HOST6.into())].into(),
            ..macvlan(Some("up0"), MacvlanMode::Bridge)
        };
        let made = all.make_network("lan", &settings).await.unwrap();
        assert_eq!((made.link.as_str(), made.made_parent, made.is_internal()), ("up0", false, false));
        let (one, at_one) = container(&all, "one", &["lan"], &[port(8080, false)]).await;
        let (two, at_two) = container(&all, "two", &["lan"], &[port(8080, false)]).await;
        // Nothing of the host is published, so both may ask for the same port.
        assert_eq!((at_one.ports.len(), at_two.ports.len()), (0, 0));
        assert_eq!(address(&at_one), IpAddr::from([192, 0, 2, 16]));
        assert_eq!(one.ask(address(&at_two), 80).unwrap(), ("two".to_owned(), "192.0.2.16".to_owned()));
        assert_eq!(outside.ask(address(&at_two), 80).unwrap(), ("two".to_owned(), "192.0.2.2".to_owned()));
        assert_eq!(one.ask(OUTSIDE.into(), 8001).unwrap(), ("world".to_owned(), "192.0.2.16".to_owned()));
        assert_eq!(two.ask(FAR.into(), 8001).unwrap(), ("world".to_owned(), "192.0.2.17".to_owned()));
        one.serve6("one6", 81);
        let six = IpAddr::V6(at_one.endpoints[0].ipv6.unwrap().net.addr());
        assert_eq!(two.ask(six, 81).unwrap().0, "one6");
        assert_eq!(outside.ask(six, 81).unwrap().0, "one6");
        // A parent and the links on it do not hear each other.
        assert!(one.is_refused(HOST.into(), 80) && host.is_refused(address(&at_one), 80));
        assert!(!all.ruleset_text().contains("up0"), "{}", all.ruleset_text());

        let refusal = all.remove_network("lan").await.unwrap_err();
        assert!(matches!(refusal, NetworkError::InUse { count: 2, .. }), "{refusal}");
        // A new engine has all of it.
        drop(all);
        let all = networks(root.path()).await;
        all.adopt(&["one".to_owned(), "two".to_owned()]).await.unwrap();
        assert_eq!(one.ask(address(&at_two), 80).unwrap().0, "two");
        all.detach("one").await.unwrap();
        all.detach("two").await.unwrap();
        drop((one, two));
        all.remove_network("lan").await.unwrap();
        assert_eq!(std::fs::read_dir(root.path().join("networks")).unwrap().count(), 0);
        assert!(links(&host).await.is_empty());
        all.remove_all().await.unwrap();
    });
}

#[test]
fn a_container_joins_a_macvlan_beside_a_bridge_and_leaves_it() {
    on_a_host(async |_host, outside| {
        let root = tempfile::tempdir().unwrap();
        let all = networks(root.path()).await;
        all.make_network("lan", &macvlan(Some("up0"), MacvlanMode::Bridge)).await.unwrap();
        let (web, _) = container(&all, "web", &["front"], &[port(8080, false)]).await;
        assert_eq!(outside.ask(HOST.into(), 8080).unwrap().0, "web");
        let wanted = NetworkEndpoint {
            address: Some([192, 0, 2, 77].into()),
            mac: Some(MacAddress([2, 0, 0, 0, 0, 7])),
            priority: 5,
            ..endpoint("lan")
        };
        let joined = all.connect("web", &web.netns, &wanted).await.unwrap();
        assert_eq!((joined.interface.as_str(), joined.mac.as_str()), ("eth1", "02:00:00:00:00:07"));
        assert_eq!(outside.ask([192, 0, 2, 77].into(), 80).unwrap().0, "web");
        // Where the default route leads past the host its ports cannot be served.
        assert!(!all.ruleset_text().contains("dnat ip to"), "{}", all.ruleset_text());
        all.disconnect("web", Some(&web.netns), "lan").await.unwrap();
        assert!(outside.is_refused([192, 0, 2, 77].into(), 80));
        assert_eq!(outside.ask(HOST.into(), 8080).unwrap().0, "web");
        // The address and the link-layer address are free at once.
        all.connect("web", &web.netns, &wanted).await.unwrap();
        assert_eq!(outside.ask([192, 0, 2, 77].into(), 80).unwrap().0, "web");
        let gone = connection(&web).del_link("eth1").await;
        gone.unwrap();
        all.detach("web").await.unwrap();
        // So are they after a container that is taken apart meanwhile.
        let again = Machine::new();
        let mut wish = request(&[], &[]);
        wish.networks.push(wanted.clone());
        all.attach("again", &again.netns, &wish).await.unwrap();
        all.detach("again").await.unwrap();
        let deleted = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(300));
            drop(again);
        });
        let third = Machine::new();
        all.attach("third", &third.netns, &wish).await.unwrap();
        deleted.join().unwrap();
        all.detach("third").await.unwrap();
        all.remove_all().await.unwrap();
    });
}

#[test]
fn modes_of_macvlan_say_who_is_reached() {
    on_a_host(async |_host, outside| {
        let root = tempfile::tempdir().unwrap();
        let all = networks(root.path()).await;
        outside.serve("world", 8001);
        all.make_network("private", &macvlan(Some("up0"), MacvlanMode::Private)).await.unwrap();
        let (one, _) = container(&all, "one", &["private"], &[]).await;
        let (two, at_two) = container(&all, "two", &["private"], &[]).await;
        assert!(one.is_refused(address(&at_two), 80));
        assert_eq!(two.ask(OUTSIDE.into(), 8001).unwrap().0, "world");
        let refusal = all.make_network("pass", &on("10.9.0.0/24", MacvlanMode::Passthru)).await.unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "cannot use mode passthru, macvlan network private is already using parent interface up0"
        );
        let beside = all.make_network("beside", &on("10.9.0.0/24", MacvlanMode::Bridge)).await.unwrap();
        assert_eq!(beside.link, "up0");
        all.remove_network("beside").await.unwrap();
        let refusal =
            all.make_network("beside", &macvlan(Some("up0"), MacvlanMode::Bridge)).await.unwrap_err().to_string();
        assert!(refusal.contains("Pool overlaps with other one on this address space"), "{refusal}");
        for (id, machine) in [("one", one), ("two", two)] {
            all.detach(id).await.unwrap();
            // The machine is not gone while its server runs.
            connection(&machine).del_link("eth0").await.unwrap();
        }
        all.remove_network("private").await.unwrap();

        let pass = all.make_network("pass", &macvlan(Some("up0"), MacvlanMode::Passthru)).await.unwrap();
        assert!(pass.settings.driver.parent() == Some("up0"));
        let (_alone, at_alone) = container(&all, "alone", &["pass"], &[]).await;
        assert_eq!(outside.ask(address(&at_alone), 80).unwrap().0, "alone");
        let other = Machine::new();
        let refusal = all.attach("other", &other.netns, &request(&["pass"], &[])).await.unwrap_err();
        assert!(matches!(&refusal, AttachError::ForOne { owner, .. } if owner == "alone"), "{refusal}");
        let refusal = all.make_network("more", &on("10.9.0.0/24", MacvlanMode::Bridge)).await.unwrap_err();
        assert_eq!(refusal.to_string(), "macvlan network pass is already using parent interface up0 in mode passthru");
        all.remove_all().await.unwrap();
    });
}

fn on(subnet: &str, mode: MacvlanMode) -> NetworkSettings {
    NetworkSettings {
        driver: Driver::Macvlan { parent: Some("up0".to_owned()), mode },
        subnet: Some(subnet.parse().unwrap()),
        ..NetworkSettings::default()
    }
}

#[test]
fn several_subnets_of_a_family_are_used_one_after_the_other() {
    on_a_host(async |host, outside| {
        let root = tempfile::tempdir().unwrap();
        let all = networks(root.path()).await;
        let further = |subnet: &str, gateway: &str| FurtherSubnet {
            subnet: subnet.parse().unwrap(),
            range: None,
            gateway: gateway.parse().ok(),
        };
        let settings = NetworkSettings {
            // With room for two.
            range: Some("192.0.2.16/31".parse().unwrap()),
            ipv6: true,
            subnet6: Some("fd00:2::/64".parse().unwrap()),
            further: vec![further("198.51.100.0/24", "198.51.100.1"), further("fd00:3::/64", "")],
            ..macvlan(Some("up0"), MacvlanMode::Bridge)
        };
        let made = all.make_network("lan", &settings).await.unwrap();
        assert_eq!(made.subnets().count(), 4);
        // The machine outside is the router of both.
        let connection = connection(&outside);
        let index = connection.get_link_by_name("up0").await.unwrap().unwrap().ifindex();
        connection.add_address(Ipv4Address::with_index(index, FAR, 24)).await.unwrap();
        let mut given = Vec::new();
        let mut machines = Vec::new();
        for id in ["one", "two", "three"] {
            let machine = Machine::new();
            let got = all.attach(id, &machine.netns, &request(&["lan"], &[])).await.unwrap();
            let endpoint = &got.endpoints[0];
            given.push((endpoint.address.unwrap().to_string(), endpoint.gateway.unwrap().to_string()));
            assert!(endpoint.ipv6.unwrap().net.to_string().starts_with("fd00:2::"), "{endpoint:?}");
            machines.push(machine);
        }
        let expected = [("192.0.2.16/24", OUTSIDE.to_string()), ("192.0.2.17/24", OUTSIDE.to_string())];
        assert_eq!(given[..2], expected.map(|(address, gateway)| (address.to_owned(), gateway)));
        assert_eq!(given[2], ("198.51.100.2/24".to_owned(), FAR.to_string()));
        outside.serve("router", 8001);
        assert_eq!(machines[2].ask(FAR.into(), 8001).unwrap(), ("router".to_owned(), "198.51.100.2".to_owned()));
        // An address that is asked for may be of any of them.
        let mut asked = request(&["lan"], &[]);
        asked.networks[0].address = Some("198.51.100.77".parse().unwrap());
        asked.networks[0].address6 = Some("fd00:3::77".parse().unwrap());
        let machine = Machine::new();
        let got = all.attach("four", &machine.netns, &asked).await.unwrap();
        assert_eq!(got.endpoints[0].ipv6.unwrap().gateway.to_string(), "fd00:3::1");
        asked.networks[0].address = Some("203.0.113.7".parse().unwrap());
        let refusal = all.attach("five", &Machine::new().netns, &asked).await.unwrap_err();
        assert!(refusal.to_string().ends_with("`lan` has 192.0.2.0/24, 198.51.100.0/24"), "{refusal}");
        for id in ["one", "two", "three", "four"] {
            all.detach(id).await.unwrap();
        }
        all.remove_all().await.unwrap();
        drop(host);
    });
}

#[test]
fn a_macvlan_without_addresses_joins_by_frames_alone() {
    on_a_host(async |_host, _outside| {
        let root = tempfile::tempdir().unwrap();
        let all = networks(root.path()).await;
        let settings = NetworkSettings {
            driver: Driver::Macvlan { parent: Some("up0".to_owned()), mode: MacvlanMode::Bridge },
            without_ipv4: true,
            ..NetworkSettings::default()
        };
        all.make_network("frames", &settings).await.unwrap();
        let machine = Machine::new();
        let got = all.attach("one", &machine.netns, &request(&["frames"], &[])).await.unwrap();
        assert_eq!(got.endpoints[0].addresses().count(), 0);
        assert_eq!(links(&machine).await, ["eth0"]);
        let other = Machine::new();
        let beside = all.attach("two", &other.netns, &request(&["frames"], &[])).await.unwrap();
        assert_ne!(got.endpoints[0].mac, beside.endpoints[0].mac);
        let third = ipvlan(Some("up0"), IpvlanMode::L3);
        let third = NetworkSettings { subnet: None, range: None, gateway: None, without_ipv4: true, ..third };
        let third = NetworkSettings { auxiliary: [].into(), ..third };
        let refusal = all.make_network("routes", &third).await.unwrap_err();
        assert_eq!(refusal.to_string(), "invalid network config: IPv4 or IPv6 must be enabled");
        all.detach("one").await.unwrap();
        all.detach("two").await.unwrap();
        all.remove_all().await.unwrap();
    });
}

#[test]
fn a_parent_that_is_not_there_is_told() {
    on_a_host(async |host, _outside| {
        let root = tempfile::tempdir().unwrap();
        let all = networks(root.path()).await;
        let parents = [
            ("up7", "up7 was not found on this host: a link that is to be made is a VLAN of another, such as eth0.10"),
            ("up7.10", "up7.10 was not found on this host: its VLANs can be made once there is a link up7"),
            ("up0.5000", "vlan id must be between 1 and 4094, received: 5000"),
            ("lo", "loopback interface is not a valid macvlan parent link"),
        ];
        for (parent, text) in parents {
            let refusal = all.make_network("lan", &macvlan(Some(parent), MacvlanMode::Bridge)).await.unwrap_err();
            assert!(refusal.to_string().contains(text), "{refusal}");
        }
        assert!(all.list().is_empty());
        all.make_network("lan", &macvlan(Some("up0"), MacvlanMode::Bridge)).await.unwrap();
        connection(&host).del_link("up0").await.unwrap();
        let one = Machine::new();
        let refusal = all.attach("one", &one.netns, &request(&["lan"], &[])).await.unwrap_err();
        assert!(refusal.to_string().contains("requested parent interface up0 was not found"), "{refusal}");
        // A daemon starts all the same, and the network can be removed.
        drop(all);
        let all = networks(root.path()).await;
        let told = all.adopt(&[]).await.unwrap_err().to_string();
        assert!(told.contains("up0 was not found"), "{told}");
        all.remove_network("lan").await.unwrap();
        all.remove_all().await.unwrap();
    });
}

#[test]
fn vlans_and_links_that_lead_nowhere_are_made_for_networks_and_go_with_the_last() {
    on_a_host(async |host, outside| {
        let root = tempfile::tempdir().unwrap();
        let all = networks(root.path()).await;
        let [has_vlan, has_dummy, _] = kinds().await;
        let vlan = |subnet: &str| NetworkSettings {
            driver: Driver::Macvlan { parent: Some("up0.10".to_owned()), mode: MacvlanMode::Bridge },
            subnet: Some(subnet.parse().unwrap()),
            ..NetworkSettings::default()
        };
        match all.make_network("tagged", &vlan("10.10.0.0/24")).await {
            Ok(made) => {
                assert!(has_vlan && made.made_parent, "{made:?}");
                all.make_network("too", &vlan("10.11.0.0/24")).await.unwrap();
                let out = connection(&outside);
                out.add_link(VlanLink::new("up0.10", "up0", 10)).await.unwrap();
                let index = out.get_link_by_name("up0.10").await.unwrap().unwrap().ifindex();
                out.add_address(Ipv4Address::with_index(index, [10, 10, 0, 99].into(), 24)).await.unwrap();
                out.set_link_up("up0.10").await.unwrap();
                let (_web, at_web) = container(&all, "web", &["tagged"], &[]).await;
                assert_eq!(outside.ask(address(&at_web), 80).unwrap().1, "10.10.0.99");
                all.detach("web").await.unwrap();
                all.remove_network("tagged").await.unwrap();
                assert_eq!(links(&host).await, ["up0.10"]);
                // One that is gone is made again.
                connection(&host).del_link("up0.10").await.unwrap();
                drop(all);
                let all = networks(root.path()).await;
                all.adopt(&[]).await.unwrap();
                assert_eq!(links(&host).await, ["up0.10"]);
                all.remove_network("too").await.unwrap();
                assert!(links(&host).await.is_empty());
            }
            Err(error) => assert!(!has_vlan && error.to_string().contains("no links of the kind vlan"), "{error}"),
        }
        let all = networks(root.path()).await;
        let internal = NetworkSettings { internal: true, ..macvlan(Some("up0"), MacvlanMode::Bridge) };
        for settings in [macvlan(None, MacvlanMode::Bridge), internal] {
            match all.make_network("inner", &settings).await {
                Ok(made) => {
                    assert!(
                        has_dummy && made.is_internal() && made.link == format!("dm-{}", &made.id[..12]),
                        "{made:?}"
                    );
                    assert_eq!(links(&host).await, std::slice::from_ref(&made.link));
                    let (one, _) = container(&all, "one", &["inner"], &[]).await;
                    let (_two, at_two) = container(&all, "two", &["inner"], &[]).await;
                    assert_eq!(one.ask(address(&at_two), 80).unwrap().0, "two");
                    assert!(one.is_refused(OUTSIDE.into(), 8001));
                    all.detach("one").await.unwrap();
                    all.detach("two").await.unwrap();
                    all.remove_network("inner").await.unwrap();
                }
                Err(error) => {
                    assert!(!has_dummy && error.to_string().contains("no links of the kind dummy"), "{error}");
                }
            }
            assert!(links(&host).await.is_empty());
        }
        all.remove_all().await.unwrap();
    });
}

#[test]
fn containers_of_an_ipvlan_have_the_hosts_link_layer_address() {
    on_a_host(async |host, outside| {
        let root = tempfile::tempdir().unwrap();
        let all = networks(root.path()).await;
        outside.serve("world", 8001);
        match all.make_network("lan", &ipvlan(Some("up0"), IpvlanMode::L2)).await {
            Ok(_) => {}
            Err(error) => {
                let told = error.to_string();
                assert!(!kinds().await[2] && told.contains("no links of the kind ipvlan"), "{told}");
                assert!(all.list().is_empty());
                return;
            }
        }
        let (one, at_one) = container(&all, "one", &["lan"], &[]).await;
        let (two, at_two) = container(&all, "two", &["lan"], &[]).await;
        assert_eq!(at_one.endpoints[0].mac, "");
        assert_eq!(one.ask(address(&at_two), 80).unwrap().0, "two");
        assert_eq!(outside.ask(address(&at_one), 80).unwrap().0, "one");
        assert_eq!(two.ask(OUTSIDE.into(), 8001).unwrap(), ("world".to_owned(), "192.0.2.17".to_owned()));
        let refusal = all.make_network("too", &ipvlan(Some("up0"), IpvlanMode::L2)).await.unwrap_err();
        assert!(refusal.to_string().contains("network lan is already using parent interface up0"), "{refusal}");
        let third = Machine::new();
        let mut wish = request(&["lan"], &[]);
        wish.networks[0].mac = Some(MacAddress([2, 0, 0, 0, 0, 7]));
        let refusal = all.attach("third", &third.netns, &wish).await.unwrap_err();
        assert!(refusal.to_string().contains("do not support custom mac address"), "{refusal}");
        for (id, machine) in [("one", one), ("two", two)] {
            all.detach(id).await.unwrap();
            // The machine is not gone while its server runs.
            connection(&machine).del_link("eth0").await.unwrap();
        }
        all.remove_network("lan").await.unwrap();

        // On the third layer the host's kernel routes: others need a route, and no container has a router.
        let routed = NetworkSettings {
            subnet: Some("10.77.0.0/24".parse().unwrap()),
            range: None,
            gateway: None,
            auxiliary: [].into(),
            ..ipvlan(Some("up0"), IpvlanMode::L3)
        };
        all.make_network("routed", &routed).await.unwrap();
        let (_web, at_web) = container(&all, "web", &["routed"], &[]).await;
        assert!(at_web.endpoints[0].routes_by_interface);
        let index = connection(&outside).get_link_by_name("up0").await.unwrap().unwrap().ifindex();
        let route = Ipv4Route::new([10, 77, 0, 0].into(), 24).dev_index(index).gateway(HOST);
        connection(&outside).add_route(route).await.unwrap();
        assert_eq!(outside.ask(address(&at_web), 80).unwrap().0, "web");
        all.remove_all().await.unwrap();
        assert!(links(&host).await.is_empty());
    });
}
