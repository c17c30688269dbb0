//! Who reaches whom across hosts.

use std::net::IpAddr;

use stack_engine::overlay::Reconciled;

use crate::cluster::{Cluster, Decided, own, underlay_ipv4};
use crate::machines::{Machine, carries};

/// Counts what a host sends to others on its networks: all of it, and what is for a group or for everybody inside. The
/// destination of the frame inside begins sixteen bytes after the UDP header does.
fn watch(machine: &Machine) {
    machine.command("nft", &["add table inet watch"]);
    machine.command("nft", &["add chain inet watch out { type filter hook postrouting priority 500; }"]);
    machine.command("nft", &["add rule inet watch out udp dport 4792 counter comment \"all\""]);
    machine.command("nft", &["add rule inet watch out udp dport 4792 @th,128,8 & 1 == 1 counter comment \"group\""]);
}

fn watched(machine: &Machine, comment: &str) -> u64 {
    let listed = machine.command("nft", &["list", "chain", "inet", "watch", "out"]);
    let counted = listed
        .lines()
        .find(|line| line.contains(&format!("comment \"{comment}\"")))
        .and_then(|line| line.split_once("packets ")?.1.split(' ').next()?.parse().ok());
    let Some(counted) = counted else { panic!("no counter `{comment}`: {listed}") };
    counted
}

#[test]
fn containers_of_a_network_talk_across_hosts_and_nothing_is_flooded() {
    for ipv6_underlay in [false, true] {
        let mut cluster = Cluster::with_underlay(2, ipv6_underlay);
        cluster.network("app", 1, true).tasks = [(1, 1), (2, 2), (3, 1)].into();
        cluster.hosts.iter().for_each(|host| watch(&host.machine));
        cluster.tell();
        let net = cluster.networks["app"].clone();
        let [one, two, three] = [1, 2, 3].map(|task| cluster.start(&["app"], task));
        let addresses: [fn(&Decided, u8) -> IpAddr; 2] = [Decided::ipv4, Decided::ipv6];
        for address in addresses {
            for (from, machine) in [(1, &one), (3, &three)] {
                let expected = ("task2".to_owned(), address(&net, from).to_string());
                assert_eq!(machine.ask(address(&net, 2), 80).unwrap(), expected);
                assert_eq!(machine.ask_udp(address(&net, 2), 80, 9000).unwrap(), expected);
                let (_, mut stream) = machine.open(address(&net, 2), 80).unwrap();
                assert!(carries(&mut stream, 3_000_000));
            }
            assert_eq!(two.ask(address(&net, 1), 80).unwrap().0, "task1");
            assert_eq!(one.ask(address(&net, 3), 80).unwrap().0, "task3");
            // From host to host and to containers of others, on the network.
            assert_eq!(cluster.host(2).machine.ask(address(&net, 1), 80).unwrap().0, "task1");
            assert!(one.is_silent(address(&net, 9), 80));
        }
        for host in &cluster.hosts {
            assert!(watched(&host.machine, "all") > 1000);
            assert_eq!(watched(&host.machine, "group"), 0);
            host.machine.command("nft", &["delete table inet watch"]);
        }
        cluster.remove();
    }
}

#[test]
fn networks_are_apart_and_a_container_on_two_is_on_both() {
    let mut cluster = Cluster::new(3);
    cluster.network("front", 1, true).tasks = [(1, 1), (2, 2), (5, 3)].into();
    cluster.network("back", 2, true).tasks = [(3, 2), (4, 3), (5, 3)].into();
    let secret = cluster.network("secret", 3, true);
    secret.tasks = [(6, 1), (7, 2)].into();
    secret.internal = true;
    cluster.tell();
    let [front, back, secret] = ["front", "back", "secret"].map(|name| cluster.networks[name].clone());
    let [one, two] = [1, 2].map(|task| cluster.start(&["front"], task));
    let [three, four] = [3, 4].map(|task| cluster.start(&["back"], task));
    let five = cluster.start(&["front", "back"], 5);
    let [six, seven] = [6, 7].map(|task| cluster.start(&["secret"], task));
    let outside = cluster.outside();
    outside.serve("outside", 80);
    let beyond = cluster.outside_addresses();
    let addresses: [fn(&Decided, u8) -> IpAddr; 2] = [Decided::ipv4, Decided::ipv6];
    for (index, at) in addresses.into_iter().enumerate() {
        assert_eq!(one.ask(at(&front, 2), 80).unwrap().0, "task2");
        assert_eq!(three.ask(at(&back, 4), 80).unwrap().0, "task4");
        assert_eq!(five.ask(at(&front, 1), 80).unwrap(), ("task1".into(), at(&front, 5).to_string()));
        assert_eq!(five.ask(at(&back, 3), 80).unwrap(), ("task3".into(), at(&back, 5).to_string()));
        assert_eq!(four.ask(at(&back, 5), 80).unwrap().0, "task5");
        assert_eq!(six.ask(at(&secret, 7), 80).unwrap().0, "task7");
        // On one host and on two.
        assert!(two.is_silent(at(&back, 3), 80));
        assert!(one.is_silent(at(&back, 4), 80));
        assert!(three.is_silent(at(&front, 1), 80));
        assert!(one.is_silent(at(&secret, 6), 80));
        assert!(six.is_silent(at(&front, 1), 80));
        // The world sees the host; from an internal network there is no way to it.
        let host = cluster.host_addresses(1)[index].to_string();
        assert_eq!(one.ask(beyond[index], 80).unwrap(), ("outside".into(), host));
        assert!(six.is_silent(beyond[index], 80) && seven.is_silent(beyond[index], 80));
    }
    // Nor does a way in make one: neither by routes nor by packets that pretend to be a host's.
    outside.command("ip", &["route", "add", "10.77.0.0/16", "via", &underlay_ipv4(1).to_string()]);
    assert!(outside.is_silent(front.ipv4(1), 80));
    assert!(outside.is_silent(front.ipv4(own(1)), 8080));
    cluster.remove();
}

#[test]
fn a_host_takes_packets_of_a_network_only_from_the_others_on_it() {
    let mut cluster = Cluster::new(2);
    cluster.network("app", 1, false).tasks = [(1, 1)].into();
    cluster.tell();
    let one = cluster.start(&["app"], 1);
    one.command("busybox", &["true"]);
    let net = cluster.networks["app"].clone();
    let outside = cluster.outside();
    // A stranger who knows everything: the identifier, the port, and who has which address.
    let mac = |last: u8| format!("02:42:0a:4d:01:{last:02x}");
    outside.command(
        "ip",
        &[
            "link",
            "add",
            "stolen",
            "type",
            "vxlan",
            "id",
            "4097",
            "dstport",
            "4792",
            "local",
            "192.0.2.99",
            "nolearning",
        ],
    );
    outside.command("ip", &["link", "set", "stolen", "address", &mac(own(2)), "up"]);
    outside.command("ip", &["address", "add", &format!("{}/24", net.ipv4(own(2))), "dev", "stolen"]);
    outside.command("ip", &["neighbour", "add", &net.ipv4(1).to_string(), "lladdr", &mac(1), "dev", "stolen"]);
    outside.command("bridge", &["fdb", "add", &mac(1), "dev", "stolen", "dst", "192.0.2.1", "self"]);
    let counted = || {
        let listed = cluster.host(1).machine.command("ip", &["-s", "link", "show", "stackx001001"]);
        let after = listed.lines().skip_while(|line| !line.contains("RX:")).nth(1).unwrap();
        after.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    assert!(outside.is_silent(net.ipv4(1), 80));
    assert_eq!(counted(), 0);
    // The same from a host that is known gets through to the device.
    assert_eq!(cluster.host(2).machine.ask(net.ipv4(1), 80).unwrap().0, "task1");
    assert!(counted() > 0);
    cluster.remove();
}

/// A host joins that receives less at once: also the interfaces of containers that run send no more from then on.
#[test]
fn containers_follow_a_network_that_becomes_narrower_and_wider() {
    let mut cluster = Cluster::new(2);
    cluster.network("app", 1, true).tasks = [(1, 1), (2, 2)].into();
    cluster.tell();
    let net = cluster.networks["app"].clone();
    let [one, two] = [1, 2].map(|task| cluster.start(&["app"], task));
    for mtu in [1300, 1450] {
        for number in [1, 2] {
            let mut value = cluster.value(number);
            value.networks.values_mut().for_each(|network| network.mtu = mtu);
            let host = cluster.host(number);
            host.machine.wait(|| host.overlay.set(value)).unwrap();
            assert_eq!(cluster.reconcile(number), Reconciled::default());
        }
        for machine in [&one, &two] {
            let shown = machine.command("ip", &["link", "show", "eth0"]);
            assert!(shown.contains(&format!("mtu {mtu} ")), "{shown}");
        }
        let (_, mut stream) = one.open(net.ipv4(2), 80).unwrap();
        assert!(carries(&mut stream, 1 << 20));
    }
    cluster.stop(1, 1, one);
    cluster.stop(2, 2, two);
    cluster.remove();
}
