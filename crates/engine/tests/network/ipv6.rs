//! Networks with IPv6: who reaches whom, and as whom.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, UdpSocket};
use std::os::fd::AsFd;

use nlink::netlink::messages::RouteMessage;
use nlink::netlink::route::{Ipv4Route, Ipv6Route};
use nlink::netlink::{Connection, Route};
use stack_engine::network::{
    Attachment, GatewayMode, NetworkEndpoint, NetworkSettings, Networks, PortBinding, Protocol,
};

use crate::machines::{
    HOST, HOST6, Machine, OUTSIDE6, address, ask_udp, link6, links, networks, on_a_host, port, request,
    set_bridge_filtering, still_echoes,
};

fn with_ipv6() -> NetworkSettings {
    NetworkSettings { ipv6: true, ..NetworkSettings::default() }
}

/// A container that serves its name on port 80 of both families.
async fn container(networks: &Networks, id: &str, names: &[&str], ports: &[PortBinding]) -> (Machine, Attachment) {
    let machine = Machine::new();
    let attachment = networks.attach(id, &machine.netns, &request(names, ports)).await.unwrap();
    machine.serve6(id, 80);
    (machine, attachment)
}

fn address6(attachment: &Attachment) -> IpAddr {
    attachment.endpoints[0].ipv6.unwrap().net.addr().into()
}

#[test]
fn a_published_port_answers_over_ipv6_from_everywhere() {
    on_a_host(async |host, outside| {
        link6(&host, &outside).await;
        for filtered in [true, false] {
            set_bridge_filtering(filtered);
            let root = tempfile::tempdir().unwrap();
            let networks = networks(root.path()).await;
            let made = networks.make_network("front", &with_ipv6()).await.unwrap();
            assert!(made.ipv6.unwrap().net.to_string().starts_with("fd"), "{made:?}");
            networks.make_network("other", &with_ipv6()).await.unwrap();
            networks.create_network("plain").await.unwrap();
            let (web, at_web) = container(&networks, "web", &["front"], &[port(8080, false)]).await;
            let (near, at_near) = container(&networks, "near", &["front"], &[]).await;
            let (far, _) = container(&networks, "far", &["other"], &[]).await;
            let gateway = IpAddr::V6(made.ipv6.unwrap().gateway);
            assert_eq!(near.ask(address6(&at_web), 80).unwrap(), ("web".into(), address6(&at_near).to_string()));
            assert_eq!(host.ask(address6(&at_web), 80).unwrap().0, "web");
            assert!(far.is_refused(address6(&at_web), 80), "networks are apart");
            // From outside, seen as who it is; and over IPv4 as before.
            assert_eq!(outside.ask(HOST6.into(), 8080).unwrap(), ("web".into(), OUTSIDE6.to_string()));
            assert_eq!(outside.ask(HOST.into(), 8080).unwrap().0, "web");
            for place in [HOST6.into(), gateway, Ipv4Addr::LOCALHOST.into()] {
                assert_eq!(host.ask(place, 8080).unwrap().0, "web", "from the host by {place}");
            }
            // The host's own loopback by a relay, which is the host to whom it asks.
            let by_loopback = host.ask(Ipv6Addr::LOCALHOST.into(), 8080).unwrap();
            assert_eq!(by_loopback, ("web".into(), gateway.to_string()));
            for (name, machine) in [("near", &near), ("far", &far), ("web", &web)] {
                for place in [HOST6.into(), gateway] {
                    assert_eq!(machine.ask(place, 8080).unwrap().0, "web", "from {name} by {place}");
                }
            }
            // The world sees the host, not the container.
            let service = if filtered { 8001 } else { 8002 };
            outside.serve6("world", service);
            assert_eq!(near.ask(OUTSIDE6.into(), service).unwrap(), ("world".into(), HOST6.to_string()));
            // Whoever routes to the containers does not come in past the published ports.
            let connection = Connection::<Route>::new_in(outside.netns.as_fd()).unwrap();
            let net = made.ipv6.unwrap().net;
            connection.add_route(Ipv6Route::new(net.network(), net.prefix_len()).gateway(HOST6)).await.unwrap();
            assert!(outside.is_refused(address6(&at_web), 80));
            networks.detach("web").await.unwrap();
            assert!(outside.is_refused(HOST6.into(), 8080));
            // Refused at once, so that a program that tries `localhost` goes on to 127.0.0.1.
            let refusal = host.ask(Ipv6Addr::LOCALHOST.into(), 8080).unwrap_err();
            assert_eq!(refusal.kind(), std::io::ErrorKind::ConnectionRefused);
            networks.remove_all().await.unwrap();
        }
    });
}

#[test]
fn ports_at_one_ipv6_address_and_where_there_is_no_ipv6() {
    on_a_host(async |host, outside| {
        link6(&host, &outside).await;
        let root = tempfile::tempdir().unwrap();
        let networks = networks(root.path()).await;
        networks.make_network("front", &with_ipv6()).await.unwrap();
        networks.create_network("plain").await.unwrap();
        let at = |text: &str, number| PortBinding { host_ip: Some(text.parse().unwrap()), ..port(number, false) };
        let own = HOST6.to_string();
        let (_web, got) = container(&networks, "web", &["front"], &[at("::", 8080), at(&own, 8081)]).await;
        assert_eq!(got.ports, [at("::", 8080), at(&own, 8081)]);
        assert_eq!(outside.ask(HOST6.into(), 8080).unwrap().0, "web");
        assert!(outside.is_refused(HOST.into(), 8080), "IPv4 was not asked for");
        assert_eq!(outside.ask(HOST6.into(), 8081).unwrap().0, "web");
        let gateway = networks.list()[0].network.ipv6.unwrap().gateway;
        assert!(host.is_refused(gateway.into(), 8081), "it is only there");
        let machine = Machine::new();
        let taken = request(&["front"], &[at(&own, 8080)]);
        let refusal = networks.attach("x", &machine.netns, &taken).await.unwrap_err();
        let expected = format!("Bind for [{own}]:8080 failed: port is already allocated");
        assert!(refusal.to_string().starts_with(&expected), "{refusal}");
        let over_sctp = PortBinding { protocol: Protocol::Sctp, ..at("::1", 9) };
        let refusal = networks.attach("x", &machine.netns, &request(&["front"], &[over_sctp])).await.unwrap_err();
        assert!(refusal.to_string().contains("publish at 127.0.0.1"), "{refusal}");
        let refusal = networks.attach("x", &machine.netns, &request(&["plain"], &[at("::", 9000)])).await.unwrap_err();
        assert!(refusal.to_string().contains("needs a network with IPv6"), "{refusal}");
        let mut fixed = request(&["plain"], &[]);
        fixed.networks[0].address6 = Some("fd00::7".parse().unwrap());
        let refusal = networks.attach("x", &machine.netns, &fixed).await.unwrap_err();
        assert!(refusal.to_string().contains("has no IPv6"), "{refusal}");
        networks.remove_all().await.unwrap();
    });
}

#[test]
fn a_network_without_ipv4_gives_ipv6_alone_and_its_ports_answer() {
    on_a_host(async |host, outside| {
        link6(&host, &outside).await;
        for filtered in [true, false] {
            set_bridge_filtering(filtered);
            let root = tempfile::tempdir().unwrap();
            let all = networks(root.path()).await;
            let only6 = NetworkSettings { without_ipv4: true, ..with_ipv6() };
            let made = all.make_network("six", &only6).await.unwrap();
            assert_eq!((made.subnet, made.gateway), (None, None));
            let (web, at_web) = container(&all, "web", &["six"], &[port(8080, false)]).await;
            let (near, at_near) = container(&all, "near", &["six"], &[]).await;
            assert_eq!(at_web.endpoints[0].addresses().count(), 1);
            assert_ne!(at_web.endpoints[0].mac, at_near.endpoints[0].mac);
            // No IPv4 inside, but for the loopback of its own.
            let connection = Connection::<Route>::new_in(web.netns.as_fd()).unwrap();
            let routes = connection.get_routes().await.unwrap();
            let four =
                |route: &&RouteMessage| route.destination().is_some_and(|net| net.is_ipv4() && !net.is_loopback());
            assert!(!routes.iter().any(|route| four(&route)), "{routes:?}");
            assert_eq!(near.ask(address6(&at_web), 80).unwrap(), ("web".into(), address6(&at_near).to_string()));
            let service = if filtered { 8001 } else { 8002 };
            outside.serve6("world", service);
            assert_eq!(web.ask(OUTSIDE6.into(), service).unwrap(), ("world".into(), HOST6.to_string()));
            // Its port is reached over IPv6 from everywhere, and over IPv4 from the host's loopback alone.
            assert_eq!(outside.ask(HOST6.into(), 8080).unwrap(), ("web".into(), OUTSIDE6.to_string()));
            for place in [HOST6.into(), Ipv6Addr::LOCALHOST.into(), IpAddr::from(Ipv4Addr::LOCALHOST)] {
                assert_eq!(host.ask(place, 8080).unwrap().0, "web", "{place}");
            }
            assert!(outside.is_refused(HOST.into(), 8080));
            let addresses: Vec<_> = at_web.ports.iter().map(|binding| binding.host_ip.unwrap().to_string()).collect();
            assert_eq!(addresses, ["127.0.0.1", "::"]);
            let machine = Machine::new();
            let mut fixed = request(&["six"], &[]);
            fixed.networks[0].address = Some("10.0.0.7".parse().unwrap());
            let refusal = all.attach("x", &machine.netns, &fixed).await.unwrap_err();
            assert!(refusal.to_string().contains("has no IPv4"), "{refusal}");
            let at_any = PortBinding { host_ip: Some(Ipv4Addr::UNSPECIFIED.into()), ..port(9000, false) };
            let refusal = all.attach("x", &machine.netns, &request(&["six"], &[at_any])).await.unwrap_err();
            assert!(refusal.to_string().contains("a container without IPv4"), "{refusal}");
            // An engine that starts anew reads what it wrote, and the relay is there again.
            drop(all);
            let all = networks(root.path()).await;
            all.adopt(&["web".to_owned(), "near".to_owned()]).await.unwrap();
            assert_eq!(all.attachment("web").unwrap(), at_web);
            for place in [Ipv6Addr::LOCALHOST.into(), IpAddr::from(Ipv4Addr::LOCALHOST)] {
                assert_eq!(host.ask(place, 8080).unwrap().0, "web", "{place}");
            }
            // Beside a network with IPv4 each family leads by its own.
            all.create_network("four").await.unwrap();
            let wanted = NetworkEndpoint { name: "four".to_owned(), ..NetworkEndpoint::default() };
            let four = all.connect("web", &web.netns, &wanted).await.unwrap();
            let routes = connection.get_routes().await.unwrap();
            let mut ways: Vec<IpAddr> = routes
                .iter()
                .filter(|route| route.dst_len() == 0)
                .filter_map(|route| route.gateway().copied())
                .collect();
            ways.sort();
            assert_eq!(ways, [four.gateway.unwrap().into(), IpAddr::V6(made.ipv6.unwrap().gateway)]);
            all.detach("web").await.unwrap();
            all.detach("near").await.unwrap();
            all.remove_all().await.unwrap();
            assert_eq!(links(&host).await, Vec::<String>::new());
        }
    });
}

#[test]
fn the_hosts_loopback_reaches_published_ports_of_both_protocols_and_nobody_else_does() {
    on_a_host(async |host, outside| {
        link6(&host, &outside).await;
        let root = tempfile::tempdir().unwrap();
        let all = networks(root.path()).await;
        all.make_network("front", &with_ipv6()).await.unwrap();
        all.create_network("plain").await.unwrap();
        let own = |number, protocol| PortBinding {
            host_ip: Some(Ipv6Addr::LOCALHOST.into()),
            protocol,
            ..port(number, false)
        };
        let datagrams = PortBinding { protocol: Protocol::Udp, ..port(5353, false) };
        let ports = [port(8080, false), datagrams, own(9000, Protocol::Tcp)];
        let (web, _) = container(&all, "web", &["front"], &ports).await;
        web.serve_udp6("web", 80);
        // To a container that has only IPv4, too.
        let (old, _) = crate::machines::container(&all, "old", &["plain"], &[own(9001, Protocol::Tcp)]).await;
        let loopback = IpAddr::V6(Ipv6Addr::LOCALHOST);
        for (number, name) in [(8080, "web"), (9000, "web"), (9001, "old")] {
            assert_eq!(host.ask(loopback, number).unwrap().0, name, "{number}");
        }
        for number in [9000, 9001] {
            assert!(outside.is_refused(HOST6.into(), number) && host.is_refused(HOST6.into(), number), "{number}");
        }
        let sockets: Vec<_> = (0..3).map(|_| host.run(|| UdpSocket::bind((loopback, 0))).unwrap()).collect();
        for socket in sockets.iter().chain(&sockets) {
            assert_eq!(ask_udp(socket, loopback, 5353).unwrap().0, "web");
        }
        // The next engine's relays are at other ports, and who asks from the same port as before is answered all the same.
        drop(all);
        let all = networks(root.path()).await;
        all.adopt(&["web".to_owned(), "old".to_owned()]).await.unwrap();
        for socket in &sockets {
            assert_eq!(ask_udp(socket, loopback, 5353).unwrap().0, "web");
        }
        // One side may end before the other.
        let (_, mut stream) = host.open(loopback, 8080).unwrap();
        assert!(still_echoes(&mut stream));
        stream.write_all(b"the rest").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "the rest");
        // Many at once, and what is open ends with its container.
        let mut open: Vec<_> = (0..100).map(|_| host.open(loopback, 8080).unwrap().1).collect();
        assert!(open.iter_mut().all(still_echoes));
        all.detach("web").await.unwrap();
        for stream in &mut open {
            let mut end = Vec::new();
            let ended = stream.read_to_end(&mut end);
            assert!(ended.map_or_else(|error| error.kind() == ErrorKind::ConnectionReset, |length| length == 0));
        }
        assert_eq!(host.ask(loopback, 8080).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert_eq!(host.ask(loopback, 9001).unwrap().0, "old");
        drop(old);
        all.remove_all().await.unwrap();
        let left = host.run(|| std::fs::read_to_string("/proc/thread-self/net/tcp6").unwrap());
        let listening = left.lines().filter(|line| line.split_whitespace().nth(3) == Some("0A")).count();
        assert_eq!(listening, 0, "{left}");
    });
}

#[test]
fn a_routed_network_is_reached_at_its_own_addresses_and_published_ports_alone() {
    on_a_host(async |host, outside| {
        link6(&host, &outside).await;
        let root = tempfile::tempdir().unwrap();
        let all = networks(root.path()).await;
        let settings = NetworkSettings {
            subnet: Some("10.56.0.0/24".parse().unwrap()),
            subnet6: Some("2001:db8:1::/64".parse().unwrap()),
            gateway_mode4: GatewayMode::Routed,
            gateway_mode6: GatewayMode::Routed,
            ..with_ipv6()
        };
        all.make_network("routed", &settings).await.unwrap();
        let (web, at_web) = container(&all, "web", &["routed"], &[port(8080, false)]).await;
        web.serve6("hidden", 81);
        assert!(at_web.ports.iter().all(|binding| binding.host_port == 0), "{at_web:?}");
        assert_eq!(address6(&at_web).to_string(), "2001:db8:1::2");
        let connection = Connection::<Route>::new_in(outside.netns.as_fd()).unwrap();
        connection.add_route(Ipv4Route::new("10.56.0.0".parse().unwrap(), 24).gateway(HOST)).await.unwrap();
        connection.add_route(Ipv6Route::new("2001:db8:1::".parse().unwrap(), 64).gateway(HOST6)).await.unwrap();
        outside.serve6("world", 8001);
        for place in [address(&at_web), address6(&at_web)] {
            assert_eq!(outside.ask(place, 80).unwrap().0, "web");
            assert!(outside.is_refused(place, 81), "{place}");
        }
        assert!(outside.is_refused(HOST.into(), 8080) && outside.is_refused(HOST6.into(), 8080));
        assert_eq!(web.ask(OUTSIDE6.into(), 8001).unwrap(), ("world".into(), address6(&at_web).to_string()));
        // Another one has the host's port meanwhile.
        all.create_network("plain").await.unwrap();
        container(&all, "other", &["plain"], &[port(8080, false)]).await;
        // Without translation and without a guard.
        all.detach("web").await.unwrap();
        all.remove_network("routed").await.unwrap();
        let open = NetworkSettings {
            gateway_mode4: GatewayMode::NatUnprotected,
            gateway_mode6: GatewayMode::NatUnprotected,
            ..settings
        };
        all.make_network("open", &open).await.unwrap();
        let (web, at_web) = container(&all, "web", &["open"], &[]).await;
        assert_eq!(outside.ask(address6(&at_web), 80).unwrap().0, "web");
        assert_eq!(web.ask(OUTSIDE6.into(), 8001).unwrap(), ("world".into(), HOST6.to_string()));
        all.remove_all().await.unwrap();
    });
}

#[test]
fn an_isolated_network_has_no_gateway() {
    on_a_host(async |host, _outside| {
        let root = tempfile::tempdir().unwrap();
        let all = networks(root.path()).await;
        let isolated = NetworkSettings {
            internal: true,
            gateway_mode4: GatewayMode::Isolated,
            gateway_mode6: GatewayMode::Isolated,
            ..with_ipv6()
        };
        let refusal =
            all.make_network("x", &NetworkSettings { internal: false, ..isolated.clone() }).await.unwrap_err();
        assert!(refusal.to_string().contains("--internal"), "{refusal}");
        all.make_network("alone", &isolated).await.unwrap();
        let (one, _) = container(&all, "one", &["alone"], &[]).await;
        let (_two, at_two) = container(&all, "two", &["alone"], &[]).await;
        assert_eq!(one.ask(address(&at_two), 80).unwrap().0, "two");
        assert_eq!(one.ask(address6(&at_two), 80).unwrap().0, "two");
        assert!(host.is_refused(address(&at_two), 80) && host.is_refused(address6(&at_two), 80));
        all.remove_all().await.unwrap();
    });
}

#[test]
fn the_default_route_of_each_family_follows_what_leads_there() {
    on_a_host(async |_host, _outside| {
        let root = tempfile::tempdir().unwrap();
        let all = networks(root.path()).await;
        let six = NetworkSettings { subnet6: Some("fd00:6::/64".parse().unwrap()), ..with_ipv6() };
        all.make_network("six", &six).await.unwrap();
        all.create_network("four").await.unwrap();
        all.make_network("late", &NetworkSettings { subnet6: Some("fd00:7::/64".parse().unwrap()), ..six })
            .await
            .unwrap();
        let (web, at_web) = container(&all, "web", &["six", "four"], &[]).await;
        let ways = async || {
            let connection = Connection::<Route>::new_in(web.netns.as_fd()).unwrap();
            let routes = connection.get_routes().await.unwrap();
            let mut ways: Vec<String> = routes
                .iter()
                .filter(|route| route.dst_len() == 0)
                .filter_map(|route| route.gateway().map(ToString::to_string))
                .collect();
            ways.sort();
            ways
        };
        let four = at_web.endpoints[1].gateway.unwrap().to_string();
        assert_eq!(ways().await, [four.clone(), "fd00:6::1".to_owned()], "the first by name, among those that have it");
        let wanted = NetworkEndpoint {
            name: "late".to_owned(),
            priority: 5,
            address6: Some("fd00:7::99".parse().unwrap()),
            ..NetworkEndpoint::default()
        };
        let late = all.connect("web", &web.netns, &wanted).await.unwrap();
        assert_eq!(late.ipv6.unwrap().net.to_string(), "fd00:7::99/64");
        assert_eq!(ways().await, [late.gateway.unwrap().to_string(), "fd00:7::1".to_owned()]);
        all.disconnect("web", Some(&web.netns), "late").await.unwrap();
        assert_eq!(ways().await, [four, "fd00:6::1".to_owned()]);
        all.remove_all().await.unwrap();
    });
}
