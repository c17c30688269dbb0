//! Ports that every host publishes.

use std::net::{IpAddr, Ipv4Addr};

use stack_engine::network::Protocol;

use crate::cluster::{Cluster, own, underlay_ipv4, underlay_ipv6};
use crate::machines::{Machine, wait_until};

const SERVICE: u8 = 100;

/// Two hosts with one task on the first, and a machine outside.
fn published() -> (Cluster, Machine, Machine) {
    let mut cluster = Cluster::new(2);
    let net = cluster.network("app", 1, true);
    net.tasks = [(1, 1)].into();
    net.published = [((Protocol::Tcp, 8080), SERVICE), ((Protocol::Udp, 8080), SERVICE)].into();
    cluster.serve("app", SERVICE, &[1]);
    cluster.tell();
    let task = cluster.start(&["app"], 1);
    let outside = cluster.outside();
    (cluster, task, outside)
}

#[test]
fn a_task_on_the_host_sees_the_client_and_one_elsewhere_the_host() {
    let (cluster, task, outside) = published();
    let net = &cluster.networks["app"];
    let client = cluster.outside_addresses();
    for (index, hosts) in
        [[1, 2].map(|host| IpAddr::V4(underlay_ipv4(host))), [1, 2].map(|host| underlay_ipv6(host).into())]
            .into_iter()
            .enumerate()
    {
        let through = net.addresses(own(2))[index];
        for (host, seen) in hosts.into_iter().zip([client[index], through]) {
            assert_eq!(outside.ask(host, 8080).unwrap(), ("task1".into(), seen.to_string()));
            assert_eq!(outside.ask_udp(host, 8080, 2000).unwrap(), ("task1".into(), seen.to_string()));
        }
    }
    // From the hosts themselves, and from a task by its own host.
    for host in [1, 2] {
        let machine = &cluster.host(host).machine;
        assert_eq!(machine.ask(underlay_ipv4(host).into(), 8080).unwrap().0, "task1");
        assert_eq!(machine.ask(Ipv4Addr::LOCALHOST.into(), 8080).unwrap().0, "task1");
    }
    assert_eq!(task.ask(underlay_ipv4(1).into(), 8080).unwrap().0, "task1");
    assert_eq!(task.ask(underlay_ipv4(2).into(), 8080).unwrap().0, "task1");
    assert!(outside.is_silent(underlay_ipv4(1).into(), 80));
    cluster.remove();
}

#[test]
fn a_published_port_goes_where_its_tasks_are_and_is_refused_without_any() {
    let (mut cluster, task, outside) = published();
    cluster.place("app", 2, Some(2));
    cluster.serve("app", SERVICE, &[1, 2]);
    cluster.tell();
    let other = cluster.start(&["app"], 2);
    let host = |number| IpAddr::V4(underlay_ipv4(number));
    for _ in 0..10 {
        assert_eq!(outside.ask(host(1), 8080).unwrap().0, "task1");
        assert_eq!(outside.ask(host(2), 8080).unwrap().0, "task2");
    }
    cluster.serve("app", SERVICE, &[2]);
    cluster.tell();
    assert_eq!(outside.ask(host(1), 8080).unwrap().0, "task2");
    cluster.serve("app", SERVICE, &[]);
    cluster.tell();
    wait_until("the port is refused", || {
        [1, 2].iter().all(|number| {
            outside.ask(host(*number), 8080).is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
        })
    });
    drop((task, other));
    cluster.remove();
}

#[test]
fn a_port_that_is_published_on_one_address_is_on_no_other() {
    let (mut cluster, _task, outside) = published();
    let one = IpAddr::V4(underlay_ipv4(1));
    let net = cluster.networks.get_mut("app").unwrap();
    net.published.extend([((Protocol::Tcp, 8081), SERVICE), ((Protocol::Tcp, 8082), SERVICE)]);
    net.only_on = [(8081, Ipv4Addr::LOCALHOST.into()), (8082, one)].into();
    cluster.tell();
    let host = &cluster.host(1).machine;
    assert_eq!(host.ask(Ipv4Addr::LOCALHOST.into(), 8081).unwrap().0, "task1");
    assert!(host.ask(one, 8081).is_err(), "8081 is on {one}");
    assert!(outside.ask(one, 8081).is_err(), "8081 is on {one}");
    assert_eq!(outside.ask(one, 8082).unwrap().0, "task1");
    assert!(outside.ask(underlay_ipv6(1).into(), 8082).is_err(), "8082 is on IPv6");
    assert!(host.ask(Ipv4Addr::LOCALHOST.into(), 8082).is_err(), "8082 is on the loopback address");
    assert_eq!(outside.ask(one, 8080).unwrap().0, "task1", "the other port is everywhere");
    cluster.remove();
}

#[test]
fn a_network_without_ipv4_joins_hosts_balances_and_publishes_over_ipv6() {
    let mut cluster = Cluster::new(2);
    let net = cluster.network("six", 1, true);
    net.without_ipv4 = true;
    net.tasks = [(1, 1), (2, 2)].into();
    net.published = [((Protocol::Tcp, 8080), SERVICE)].into();
    cluster.serve("six", SERVICE, &[1]);
    cluster.tell();
    let tasks = [1, 2].map(|task| cluster.start(&["six"], task));
    let outside = cluster.outside();
    let net = &cluster.networks["six"];
    assert_eq!(tasks[1].ask(net.ipv6(1), 80).unwrap(), ("task1".into(), net.ipv6(2).to_string()));
    assert_eq!(tasks[1].ask(net.ipv6(SERVICE), 80).unwrap(), ("task1".into(), net.ipv6(2).to_string()));
    for host in [1, 2] {
        assert_eq!(outside.ask(underlay_ipv6(host).into(), 8080).unwrap().0, "task1");
        assert!(outside.ask(underlay_ipv4(host).into(), 8080).is_err(), "nothing leads there from IPv4");
    }
    cluster.remove();
}
