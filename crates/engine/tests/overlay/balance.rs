//! Virtual addresses of services.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use stack_engine::overlay::{Reconciled, VirtualService};

use crate::cluster::Cluster;
use crate::machines::{Machine, ask_udp, still_echoes, wait_until};

const SERVICE: u8 = 100;

/// Three tasks on two hosts behind one service.
fn three() -> (Cluster, [Machine; 3]) {
    let mut cluster = Cluster::new(2);
    let net = cluster.network("app", 1, true);
    net.tasks = [(1, 1), (2, 2), (3, 2)].into();
    cluster.serve("app", SERVICE, &[1, 2, 3]);
    cluster.tell();
    let tasks = [1, 2, 3].map(|task| cluster.start(&["app"], task));
    (cluster, tasks)
}

#[test]
fn each_backend_gets_its_share_and_sees_who_asks() {
    let (cluster, [one, ..]) = three();
    let net = &cluster.networks["app"];
    for (service, own) in [(net.ipv4(SERVICE), net.ipv4(1)), (net.ipv6(SERVICE), net.ipv6(1))] {
        let mut answers = BTreeMap::new();
        for _ in 0..150 {
            let (name, seen) = one.ask(service, 80).unwrap();
            // Also the one that asks is among them: a connection to itself.
            assert_eq!(seen, own.to_string());
            *answers.entry(name).or_insert(0) += 1;
        }
        assert_eq!(answers.len(), 3, "{answers:?}");
        assert!(answers.values().all(|count| *count > 20), "{answers:?}");
        let answers: Vec<String> = (0..60).map(|_| one.ask_udp(service, 80, 4000).unwrap().0).collect();
        assert!(["task1", "task2", "task3"].iter().all(|name| answers.iter().any(|answer| answer == name)));
        one.command("busybox", &["ping", "-c", "1", "-W", "10", &service.to_string()]);
    }
    cluster.remove();
}

#[test]
fn a_task_that_is_drained_keeps_its_connections_and_gets_no_new_ones() {
    let (mut cluster, [one, ..]) = three();
    let service = cluster.networks["app"].ipv4(SERVICE);
    let mut held: Vec<_> = (0..30).map(|_| one.open(service, 80).unwrap()).collect();
    assert!(held.iter().any(|((name, _), _)| name == "task2"));
    // Sockets of clients that stay, as those of resolvers and of loggers do.
    let sockets: Vec<_> = (0..30).map(|_| one.udp(service)).collect();
    for socket in &sockets {
        ask_udp(socket, service, 80, 10).unwrap();
    }
    cluster.serve("app", SERVICE, &[1, 3]);
    cluster.tell();
    assert!(held.iter_mut().all(|(_, stream)| still_echoes(stream)));
    for _ in 0..30 {
        assert_ne!(one.ask(service, 80).unwrap().0, "task2");
    }
    // Over UDP there is no connection to be kept.
    for socket in &sockets {
        assert_ne!(ask_udp(socket, service, 80, 10).unwrap().0, "task2");
    }
    cluster.remove();
}

#[test]
fn without_a_backend_connections_are_refused_at_once_and_with_one_again_they_are_not() {
    let (mut cluster, [one, ..]) = three();
    let net = cluster.networks["app"].clone();
    cluster.serve("app", SERVICE, &[]);
    cluster.tell();
    for service in [net.ipv4(SERVICE), net.ipv6(SERVICE)] {
        let start = Instant::now();
        assert_eq!(one.ask(service, 80).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        let socket = one.udp(service);
        assert!(ask_udp(&socket, service, 80, 10).is_err());
        assert!(start.elapsed().as_secs() < 3, "{:?}", start.elapsed());
    }
    let socket = one.udp(net.ipv4(SERVICE));
    assert!(ask_udp(&socket, net.ipv4(SERVICE), 80, 10).is_err());
    cluster.serve("app", SERVICE, &[2]);
    cluster.tell();
    assert_eq!(one.ask(net.ipv4(SERVICE), 80).unwrap().0, "task2");
    assert_eq!(one.ask(net.ipv6(SERVICE), 80).unwrap().0, "task2");
    assert_eq!(ask_udp(&socket, net.ipv4(SERVICE), 80, 10).unwrap().0, "task2");
    cluster.remove();
}

#[test]
fn a_connection_to_a_task_that_is_gone_is_reset_and_new_ones_never_reach_it() {
    let (mut cluster, [one, two, _three]) = three();
    let service = cluster.networks["app"].ipv4(SERVICE);
    let mut held: Vec<_> = (0..30).map(|_| one.open(service, 80).unwrap()).collect();
    cluster.stop(2, 2, two);
    cluster.place("app", 2, None);
    cluster.serve("app", SERVICE, &[1, 3]);
    cluster.tell();
    let (lost, mut kept): (Vec<_>, Vec<_>) = held.drain(..).partition(|((name, _), _)| name == "task2");
    assert!(!lost.is_empty());
    for (_, mut stream) in lost {
        wait_until("a connection to a task that is gone ends", || !still_echoes(&mut stream));
    }
    assert!(kept.iter_mut().all(|(_, stream)| still_echoes(stream)));
    for _ in 0..30 {
        assert_ne!(one.ask(service, 80).unwrap().0, "task2");
    }
    cluster.remove();
}

#[test]
fn a_client_of_a_sticky_service_stays_with_its_task() {
    let (mut cluster, [one, ..]) = three();
    let net = cluster.networks.get_mut("app").unwrap();
    net.sticky.insert(SERVICE);
    let services = [net.ipv4(SERVICE), net.ipv6(SERVICE)];
    cluster.tell();
    for service in services {
        let (first, _) = one.ask(service, 80).unwrap();
        for _ in 0..20 {
            assert_eq!(one.ask(service, 80).unwrap().0, first);
        }
        // Another task that comes and goes is not of interest.
        let other = if first == "task3" { 2 } else { 3 };
        cluster.serve("app", SERVICE, if other == 3 { &[1, 2] } else { &[1, 3] });
        cluster.tell();
        assert_eq!(one.ask(service, 80).unwrap().0, first);
        cluster.serve("app", SERVICE, &[1, 2, 3]);
        cluster.tell();
    }
    cluster.remove();
}

#[test]
fn no_connection_fails_while_the_backends_change() {
    let (mut cluster, [one, ..]) = three();
    let service = cluster.networks["app"].ipv4(SERVICE);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut asked = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                one.ask(service, 80).unwrap();
                asked += 1;
            }
            asked
        });
        for round in 0..60 {
            let backends: &[u8] = [&[1, 2][..], &[2, 3], &[3], &[1, 2, 3]][round % 4];
            cluster.serve("app", SERVICE, backends);
            cluster.tell();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(asking.join().unwrap() > 20);
    });
    cluster.remove();
}

/// Said in one transaction, which is one message of more than a megabyte.
#[test]
fn a_host_has_thousands_of_services() {
    const COUNT: u32 = 5_000;
    let mut cluster = Cluster::new(1);
    cluster.network("front", 1, false).tasks.insert(10, 1);
    cluster.tell();
    let client = cluster.start(&["front"], 10);
    let host = cluster.host(1);
    let mut value = cluster.value(1);
    let network = value.networks.get_mut("front").unwrap();
    // As large a subnet as so many need, of which the others' addresses are part.
    network.addresses = vec!["10.77.1.201/8".parse().unwrap()];
    let address = |number: u32| IpAddr::V4(Ipv4Addr::from_bits(0x0a80_0000 + number));
    network.services = (0..COUNT)
        .map(|number| VirtualService {
            addresses: vec![address(number * 4)],
            // The last one is the only one that is there.
            backends: if number + 1 == COUNT {
                vec![network_task()]
            } else {
                (1..4).map(|task| address(number * 4 + task)).collect()
            },
            sticky: false,
        })
        .collect();
    host.machine.wait(|| host.overlay.set(value)).unwrap();
    assert_eq!(cluster.reconcile(1), Reconciled::default(), "the kernel has all of it");
    let (server, _) = client.ask(address((COUNT - 1) * 4), 80).unwrap();
    assert_eq!(server, "task10");
    cluster.stop(1, 10, client);
    cluster.remove();
}

fn network_task() -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 77, 1, 10))
}
