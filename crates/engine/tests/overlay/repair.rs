//! What somebody else changes is made right again, and what is right is not touched.

use std::sync::atomic::{AtomicBool, Ordering};

use stack_engine::overlay::{OverlayContainer, OverlayFailure, OverlaySetError, Reconciled};

use crate::cluster::{Cluster, links};
use crate::machines::still_echoes;

const SERVICE: u8 = 100;
const BRIDGE: &str = "stacko001001";
const TUNNEL: &str = "stackx001001";

#[test]
fn each_kind_of_sabotage_is_repaired() {
    let mut cluster = Cluster::new(2);
    cluster.network("app", 1, true).tasks = [(1, 1), (2, 2)].into();
    cluster.serve("app", SERVICE, &[2]);
    cluster.tell();
    let [one, two] = [1, 2].map(|task| cluster.start(&["app"], task));
    let net = cluster.networks["app"].clone();
    let host = &cluster.host(1).machine;
    let mac = "02:42:0a:4d:01:02";
    let port = links(host).into_iter().find(|name| name.starts_with("stackp")).unwrap();
    let port = port.as_str();
    // Each: where, by what, and how.
    let sabotage: &[(&str, &[&str])] = &[
        ("ip", &["link", "delete", BRIDGE]),
        ("ip", &["link", "delete", TUNNEL]),
        ("ip", &["link", "delete", port]),
        ("ip", &["link", "set", BRIDGE, "down"]),
        ("ip", &["link", "set", TUNNEL, "down"]),
        ("ip", &["link", "set", port, "down"]),
        ("ip", &["link", "set", TUNNEL, "nomaster"]),
        ("ip", &["link", "set", port, "nomaster"]),
        ("ip", &["link", "set", TUNNEL, "mtu", "1300"]),
        ("ip", &["link", "set", BRIDGE, "mtu", "1300"]),
        ("ip", &["link", "set", BRIDGE, "address", "02:00:00:00:00:01"]),
        ("ip", &["link", "set", TUNNEL, "type", "vxlan", "learning"]),
        ("ip", &["address", "delete", "10.77.1.201/24", "dev", BRIDGE]),
        ("ip", &["address", "add", "10.77.1.99/24", "dev", BRIDGE]),
        ("ip", &["neighbour", "flush", "dev", TUNNEL, "nud", "permanent"]),
        (
            "ip",
            &["neighbour", "replace", "10.77.1.2", "lladdr", "02:42:00:00:00:09", "dev", TUNNEL, "nud", "permanent"],
        ),
        ("bridge", &["fdb", "delete", mac, "dev", TUNNEL, "dst", "192.0.2.2", "self"]),
        ("bridge", &["fdb", "replace", mac, "dev", TUNNEL, "dst", "192.0.2.77", "self"]),
        ("bridge", &["fdb", "add", "02:42:0a:4d:01:63", "dev", TUNNEL, "dst", "192.0.2.77", "self"]),
        ("bridge", &["fdb", "delete", "02:42:0a:4d:01:01", "dev", port, "master"]),
        ("bridge", &["link", "set", "dev", TUNNEL, "flood", "off"]),
        ("bridge", &["link", "set", "dev", port, "learning", "on"]),
        ("nft", &["delete", "table", "inet", "stack-overlay"]),
        ("nft", &["flush", "chain", "inet", "stack-overlay", "forward"]),
        ("nft", &["flush", "set", "inet", "stack-overlay", "peers4"]),
        ("nft", &["add", "rule", "inet", "stack-overlay", "arriving", "drop"]),
    ];
    let reaches = || {
        assert_eq!(one.ask(net.ipv4(2), 80).unwrap().0, "task2");
        assert_eq!(one.ask(net.ipv6(SERVICE), 80).unwrap().0, "task2");
        assert_eq!(two.ask(net.ipv4(1), 80).unwrap().0, "task1");
        assert_eq!(cluster.host(2).machine.ask(net.ipv4(1), 80).unwrap().0, "task1");
    };
    reaches();
    let nothing = Reconciled::default();
    assert_eq!(cluster.reconcile(1), nothing);
    for (program, arguments) in sabotage {
        host.command(program, arguments);
        assert_ne!(cluster.reconcile(1), nothing, "{program} {arguments:?}");
        reaches();
        assert_eq!(cluster.reconcile(1), nothing, "{program} {arguments:?}");
    }
    for arguments in [
        &["delete", "table", "inet", "stack-overlay"][..],
        &["flush", "map", "inet", "stack-overlay", "services4"],
        &["flush", "chain", "inet", "stack-overlay", "translate"],
    ] {
        one.command("nft", arguments);
        assert_ne!(cluster.reconcile(1), nothing, "{arguments:?}");
        reaches();
    }
    // Somebody else's table is somebody else's.
    one.command("nft", &["add", "table", "inet", "other"]);
    host.command("nft", &["add", "table", "inet", "other"]);
    assert_eq!(cluster.reconcile(1), nothing);
    host.command("nft", &["delete", "table", "inet", "other"]);
    cluster.remove();
}

#[test]
fn a_new_process_adopts_what_the_last_one_left_and_interrupts_nothing() {
    let mut cluster = Cluster::new(2);
    cluster.network("app", 1, true).tasks = [(1, 1), (2, 2), (3, 1)].into();
    cluster.serve("app", SERVICE, &[2]);
    cluster.tell();
    let [one, _two, three] = [1, 2, 3].map(|task| cluster.start(&["app"], task));
    let service = cluster.networks["app"].ipv4(SERVICE);
    let (_, mut stream) = one.open(service, 80).unwrap();
    let count = links(&cluster.host(1).machine).len();
    cluster.restart(1);
    // Before it knows whose they are, it leaves the links alone.
    cluster.tell_one(1);
    assert_eq!(links(&cluster.host(1).machine).len(), count);
    assert!(still_echoes(&mut stream));
    cluster.restart(1);
    let endpoint = cluster.endpoint("app", 1, "eth0");
    let netns = one.netns.try_clone().unwrap();
    let known = OverlayContainer { id: "task1".to_owned(), netns, endpoints: vec![endpoint] };
    cluster.host(1).overlay.adopt(vec![known]);
    cluster.tell_one(1);
    // The third task is not known to anybody any more.
    assert_eq!(links(&cluster.host(1).machine).len(), count - 1);
    assert!(three.is_silent(service, 80));
    assert!(still_echoes(&mut stream));
    assert_eq!(one.ask(service, 80).unwrap().0, "task2");
    assert_eq!(cluster.reconcile(1), Reconciled::default());
    cluster.remove();
}

#[test]
fn a_subnet_that_the_host_reaches_otherwise_is_refused_and_the_others_are_made() {
    let mut cluster = Cluster::new(2);
    cluster.network("app", 1, false).tasks = [(1, 1), (2, 2)].into();
    cluster.network("lan", 2, false);
    cluster.host(1).machine.command("ip", &["route", "add", "10.77.2.0/25", "dev", "up0"]);
    let value = cluster.value(1);
    let host = cluster.host(1);
    let error = host.machine.wait(|| host.overlay.set(value)).unwrap_err();
    let OverlaySetError::Failures(failures) = error else { panic!("{error}") };
    assert!(matches!(failures.failures[..], [OverlayFailure::SubnetTaken { .. }]), "{failures}");
    assert_eq!(host.overlay.problems().len(), 1);
    cluster.tell_one(2);
    let [one, _two] = [1, 2].map(|task| cluster.start(&["app"], task));
    assert_eq!(one.ask(cluster.networks["app"].ipv4(2), 80).unwrap().0, "task2");
    // When the route is gone, it is made.
    host.machine.command("ip", &["route", "delete", "10.77.2.0/25", "dev", "up0"]);
    assert_ne!(cluster.reconcile(1), Reconciled::default());
    assert!(host.overlay.problems().is_empty());
    cluster.remove();
}

#[test]
fn looks_leave_alone_what_comes_and_goes_meanwhile() {
    let mut cluster = Cluster::new(2);
    let tasks: Vec<u8> = (1..=12).collect();
    cluster.network("app", 1, true).tasks = tasks.iter().map(|task| (*task, 1)).chain([(50, 2)]).collect();
    cluster.serve("app", SERVICE, &[50]);
    cluster.tell();
    let _server = cluster.start(&["app"], 50);
    let service = cluster.networks["app"].ipv6(SERVICE);
    let ended = AtomicBool::new(false);
    let cluster = &cluster;
    std::thread::scope(|scope| {
        let looks = scope.spawn(|| {
            let mut looks = 0;
            while !ended.load(Ordering::Acquire) {
                // Also not counted as somebody's change, for which there would be a line in the log.
                assert_eq!(cluster.reconcile(1).steps, 0, "look {looks}");
                looks += 1;
            }
            looks
        });
        let lives = tasks.iter().map(|&task| {
            scope.spawn(move || {
                for _ in 0..8 {
                    let machine = cluster.start(&["app"], task);
                    assert_eq!(machine.ask(service, 80).unwrap().0, "task50");
                    cluster.stop(1, task, machine);
                }
            })
        });
        let lives: Vec<_> = lives.collect();
        let outcomes: Vec<_> = lives.into_iter().map(|life| life.join()).collect();
        ended.store(true, Ordering::Release);
        assert!(looks.join().unwrap() > 10);
        assert!(outcomes.iter().all(Result::is_ok));
    });
    assert_eq!(links(&cluster.host(1).machine).len(), 2, "the bridge and the tunnel are left");
    cluster.remove();
}
