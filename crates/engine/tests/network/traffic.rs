//! Who reaches whom, and as whom.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use stack_engine::network::{PortBinding, Protocol};

use crate::machines::{
    HOST, OUTSIDE, address, ask_udp, container, networks, nft, on_a_host, port, route_past_published_ports,
    set_bridge_filtering, still_echoes,
};

#[test]
fn containers_reach_each_other_on_their_network_the_host_and_the_world() {
    on_a_host(async |host, outside| {
        for filtered in [true, false] {
            set_bridge_filtering(filtered);
            let root = tempfile::tempdir().unwrap();
            let networks = networks(root.path()).await;
            let (one, at_one) = container(&networks, "one", &["default"], &[]).await;
            let (two, at_two) = container(&networks, "two", &["default"], &[]).await;
            assert_eq!(one.ask(address(&at_two), 80).unwrap(), ("two".into(), address(&at_one).to_string()));
            assert_eq!(two.ask(address(&at_one), 80).unwrap().0, "one");
            assert_eq!(host.ask(address(&at_one), 80).unwrap().0, "one");
            assert_eq!(one.ask(address(&at_one), 80).unwrap().0, "one");
            let service = if filtered { 8001 } else { 8002 };
            host.serve("host", service);
            outside.serve("world", service);
            assert_eq!(one.ask(at_one.endpoints[0].gateway.unwrap().into(), service).unwrap().0, "host");
            // The world sees the host, not the container.
            assert_eq!(one.ask(OUTSIDE.into(), service).unwrap(), ("world".into(), HOST.to_string()));
            networks.remove_all().await.unwrap();
        }
    });
}

#[test]
fn networks_are_apart_and_nobody_comes_in_past_the_published_ports() {
    on_a_host(async |_host, outside| {
        for filtered in [true, false] {
            set_bridge_filtering(filtered);
            let root = tempfile::tempdir().unwrap();
            let networks = networks(root.path()).await;
            let (front, at_front) = container(&networks, "front", &["front"], &[]).await;
            let (back, at_back) = container(&networks, "back", &["back"], &[]).await;
            let (both, at_both) = container(&networks, "both", &["front", "back"], &[]).await;
            assert!(front.is_refused(address(&at_back), 80));
            assert!(back.is_refused(address(&at_front), 80));
            assert_eq!(both.ask(address(&at_front), 80).unwrap().0, "front");
            assert_eq!(both.ask(address(&at_back), 80).unwrap().0, "back");
            assert_eq!(back.ask(at_both.endpoints[1].addresses().next().unwrap(), 80).unwrap().0, "both");
            if filtered {
                route_past_published_ports(&outside).await;
            }
            assert!(outside.is_refused(address(&at_front), 80));
            networks.remove_all().await.unwrap();
        }
    });
}

#[test]
fn a_published_port_answers_from_everywhere() {
    on_a_host(async |host, outside| {
        for filtered in [true, false] {
            set_bridge_filtering(filtered);
            let root = tempfile::tempdir().unwrap();
            let networks = networks(root.path()).await;
            let (web, at_web) = container(&networks, "web", &["default"], &[port(8080, false)]).await;
            let (near, _) = container(&networks, "near", &["default"], &[]).await;
            let (far, _) = container(&networks, "far", &["other"], &[]).await;
            let gateway = IpAddr::V4(at_web.endpoints[0].gateway.unwrap());
            // From outside, seen as who it is.
            assert_eq!(outside.ask(HOST.into(), 8080).unwrap(), ("web".into(), OUTSIDE.to_string()));
            let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
            for place in [HOST.into(), loopback, gateway, IpAddr::V4(Ipv4Addr::new(127, 9, 9, 9))] {
                assert_eq!(host.ask(place, 8080).unwrap().0, "web", "from the host by {place}");
            }
            for (name, machine) in [("near", &near), ("far", &far), ("web", &web)] {
                for place in [HOST.into(), gateway] {
                    assert_eq!(machine.ask(place, 8080).unwrap().0, "web", "from {name} by {place}");
                }
            }
            // A container's own loopback is its own.
            assert!(near.is_refused(loopback, 8080));
            networks.remove_all().await.unwrap();
            assert!(outside.is_refused(HOST.into(), 8080));
        }
    });
}

#[test]
fn a_port_at_one_address_answers_only_there() {
    on_a_host(async |host, outside| {
        let root = tempfile::tempdir().unwrap();
        let networks = networks(root.path()).await;
        let local = PortBinding { host_ip: Some(Ipv4Addr::LOCALHOST.into()), ..port(8080, false) };
        container(&networks, "local", &["default"], &[local]).await;
        assert_eq!(host.ask(Ipv4Addr::LOCALHOST.into(), 8080).unwrap().0, "local");
        assert!(outside.is_refused(HOST.into(), 8080));
        assert!(host.is_refused(HOST.into(), 8080));
        networks.remove_all().await.unwrap();
    });
}

#[test]
fn a_shared_port_is_balanced_over_those_that_are_ready() {
    on_a_host(async |_host, outside| {
        let root = tempfile::tempdir().unwrap();
        let networks = networks(root.path()).await;
        let mut machines = Vec::new();
        for id in ["one", "two", "three"] {
            machines.push(container(&networks, id, &["default"], &[port(8080, true)]).await);
        }
        let answers = |count: usize| {
            let mut answers: Vec<String> = (0..count).map(|_| outside.ask(HOST.into(), 8080).unwrap().0).collect();
            answers.sort();
            answers
        };
        // That 120 draws miss one of three is less likely than 1 in 10^20.
        let mut seen = answers(120);
        seen.dedup();
        assert_eq!(seen, ["one", "three", "two"]);
        let mut open = loop {
            let (answer, stream) = outside.open(HOST.into(), 8080).unwrap();
            if answer.0 == "two" {
                break stream;
            }
        };
        networks.set_ready("two", false).await.unwrap();
        assert!(answers(60).iter().all(|name| name != "two"));
        assert!(still_echoes(&mut open), "a connection outlives its server's readiness");
        networks.set_ready("two", true).await.unwrap();
        networks.detach("one").await.unwrap();
        networks.detach("three").await.unwrap();
        assert!(still_echoes(&mut open), "a connection outlives changes of others");
        assert!(answers(20).iter().all(|name| name == "two"));
        networks.set_ready("two", false).await.unwrap();
        assert!(outside.is_refused(HOST.into(), 8080));
        networks.remove_all().await.unwrap();
    });
}

#[test]
fn a_client_over_udp_follows_the_port_to_its_next_server() {
    on_a_host(async |_host, outside| {
        let root = tempfile::tempdir().unwrap();
        let networks = networks(root.path()).await;
        let binding = PortBinding { protocol: Protocol::Udp, container_port: 53, ..port(5353, false) };
        let socket = outside.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
        for id in ["one", "two"] {
            let (machine, _) = container(&networks, id, &["default"], std::slice::from_ref(&binding)).await;
            machine.serve_udp(id, 53);
            assert_eq!(ask_udp(&socket, HOST.into(), 5353).unwrap(), (id.to_owned(), OUTSIDE.to_string()));
            networks.detach(id).await.unwrap();
        }
        networks.remove_all().await.unwrap();
    });
}

/// As Docker leaves a host.
const DROPPING: &str = "table ip filter {
    chain FORWARD { type filter hook forward priority filter; policy drop; ip saddr 203.0.113.0/24 drop comment \"theirs\"; }
}";

#[test]
fn a_firewall_that_drops_what_it_does_not_know_lets_containers_through() {
    on_a_host(async |host, outside| {
        set_bridge_filtering(true);
        nft(&host, &["-f", "-"], DROPPING);
        let before = nft(&host, &["list", "table", "ip", "filter"], "");
        let root = tempfile::tempdir().unwrap();
        let networks = networks(root.path()).await;
        let (one, _) = container(&networks, "one", &["default"], &[port(8080, false)]).await;
        let (_two, at_two) = container(&networks, "two", &["default"], &[]).await;
        outside.serve("world", 8001);
        assert_eq!(one.ask(OUTSIDE.into(), 8001).unwrap().0, "world");
        assert_eq!(outside.ask(HOST.into(), 8080).unwrap().0, "one");
        assert_eq!(one.ask(address(&at_two), 80).unwrap().0, "two");
        assert_eq!(networks.warnings(), Vec::<String>::new());
        // Said once, and again where the firewall was made anew.
        let after = nft(&host, &["list", "table", "ip", "filter"], "");
        networks.reconcile().await.unwrap();
        assert_eq!(nft(&host, &["list", "table", "ip", "filter"], ""), after);
        nft(&host, &["flush", "chain", "ip", "filter", "FORWARD"], "");
        assert!(outside.is_refused(HOST.into(), 8080));
        networks.reconcile().await.unwrap();
        assert_eq!(outside.ask(HOST.into(), 8080).unwrap().0, "one");
        nft(&host, &["-f", "-"], "flush table ip filter\ndelete table ip filter\n");
        nft(&host, &["-f", "-"], DROPPING);
        networks.reconcile().await.unwrap();
        networks.detach("one").await.unwrap();
        networks.detach("two").await.unwrap();
        networks.remove_network("default").await.unwrap();
        assert_eq!(nft(&host, &["list", "table", "ip", "filter"], ""), before, "of ours nothing is left");
        // Somebody's own table is somebody's own decision.
        nft(&host, &["-f", "-"], "table inet mine { chain f { type filter hook forward priority 0; policy drop; }; }");
        networks.create_network("default").await.unwrap();
        assert!(networks.warnings()[0].contains("`inet mine f`"), "{:?}", networks.warnings());
        networks.remove_all().await.unwrap();
        assert_eq!(nft(&host, &["list", "table", "ip", "filter"], ""), before);
    });
}
