//! What is kept, taken over, refused, repaired and removed.

use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd;

use nlink::netlink::nftables::Family;
use nlink::netlink::{Connection, Nftables, Route};
use stack_engine::network::PortBinding;

use crate::machines::{HOST, Machine, address, container, links, networks, on_a_host, port, request};

/// The error and its causes in one line.
fn text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[test]
fn a_port_is_refused_where_another_has_it_and_free_again_afterwards() {
    on_a_host(async |host, outside| {
        let root = tempfile::tempdir().unwrap();
        let networks = networks(root.path()).await;
        container(&networks, "one", &["default"], &[port(8080, false)]).await;
        let other = Machine::new();
        let attempt = async |ports: &[_]| networks.attach("two", &other.netns, &request(&["default"], ports)).await;
        let taken = attempt(&[port(9000, false), port(8080, true)]).await.unwrap_err();
        assert_eq!(text(&taken), "Bind for 0.0.0.0:8080 failed: port is already allocated (tcp, by container one)");
        // By a process of the host, on one address or on all.
        for at in [Ipv4Addr::UNSPECIFIED, HOST] {
            let listener = TcpListener::bind((at, 8081)).unwrap();
            let taken = attempt(&[port(9000, false), port(8081, false)]).await.unwrap_err();
            assert_eq!(
                text(&taken),
                "failed to bind host port 0.0.0.0:8081/tcp: address already in use by another process of this host"
            );
            drop(listener);
        }
        // The refusals left nothing: the first port of each request, and the addresses.
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, 9000)).unwrap();
        assert_eq!(networks.list()[0].containers.len(), 1);
        // A published port is refused to processes.
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8080)).unwrap_err();
        networks.detach("one").await.unwrap();
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8080)).unwrap();
        attempt(&[port(8080, false)]).await.unwrap();
        other.serve("two", 80);
        assert_eq!(outside.ask(HOST.into(), 8080).unwrap().0, "two");
        assert_eq!(host.ask(HOST.into(), 8080).unwrap().0, "two");
        // The ports of connections that ended a moment ago are free.
        networks.detach("two").await.unwrap();
        attempt(&[port(8080, false)]).await.unwrap();
        networks.remove_all().await.unwrap();
    });
}

#[test]
fn a_random_port_is_free_and_told() {
    on_a_host(async |_host, outside| {
        let root = tempfile::tempdir().unwrap();
        let networks = networks(root.path()).await;
        let mut seen = Vec::new();
        for id in ["one", "two"] {
            let (_, got) = container(&networks, id, &["default"], &[port(0, false)]).await;
            let number = got.ports[0].host_port;
            assert!((32768..=60999).contains(&number), "{number}");
            assert_eq!(outside.ask(HOST.into(), number).unwrap().0, id);
            seen.push(number);
        }
        assert_ne!(seen[0], seen[1]);
        networks.remove_all().await.unwrap();
    });
}

#[test]
fn one_port_of_a_range_is_taken_and_conflicts_are_named() {
    on_a_host(async |_host, outside| {
        let root = tempfile::tempdir().unwrap();
        let networks = networks(root.path()).await;
        let range = PortBinding { host_port_last: Some(8003), ..port(8000, false) };
        // A process has one of them, and a container another.
        let _listener = TcpListener::bind((HOST, 8001)).unwrap();
        container(&networks, "two", &["default"], &[port(8002, false)]).await;
        let (_, first) = container(&networks, "first", &["default"], std::slice::from_ref(&range)).await;
        let (_, second) = container(&networks, "second", &["default"], std::slice::from_ref(&range)).await;
        assert_eq!((first.ports[0].host_port, second.ports[0].host_port), (8000, 8003));
        assert_eq!(first.ports[0].host_port_last, None);
        assert_eq!(outside.ask(HOST.into(), 8003).unwrap().0, "second");
        let machine = Machine::new();
        let third = request(&["default"], std::slice::from_ref(&range));
        let refusal = text(&networks.attach("third", &machine.netns, &third).await.unwrap_err());
        assert_eq!(
            refusal,
            "Bind for 0.0.0.0:8000-8003 failed: all ports are allocated (tcp: 8000 by container first, 8001 by another \
             process of this host, or by this container, 8002 by container two, and 1 more)"
        );
        networks.detach("first").await.unwrap();
        let third = networks.attach("third", &machine.netns, &third).await.unwrap();
        assert_eq!(third.ports[0].host_port, 8000);
        networks.remove_all().await.unwrap();
    });
}

#[test]
fn a_restart_keeps_the_living_and_forgets_the_dead() {
    on_a_host(async |host, outside| {
        let root = tempfile::tempdir().unwrap();
        let before = networks(root.path()).await;
        let (_one, at_one) = container(&before, "one", &["default"], &[port(8080, false)]).await;
        let (_two, _) = container(&before, "two", &["default", "other"], &[port(8081, false)]).await;
        before.set_ready("one", false).await.unwrap();
        drop(before);
        // While nobody is there, everything goes on.
        assert_eq!(outside.ask(HOST.into(), 8081).unwrap().0, "two");
        let after = networks(root.path()).await;
        assert_eq!(after.attachment("one"), Some(at_one.clone()));
        let adopted = after.adopt(&["one".to_owned()]).await.unwrap();
        assert_eq!((adopted.kept, adopted.forgotten), (vec!["one".to_owned()], vec!["two".to_owned()]));
        assert_eq!(after.attachment("two"), None);
        assert_eq!(links(&host).await.len(), 3, "two bridges and one link");
        assert!(outside.is_refused(HOST.into(), 8081));
        // That a container is not ready is remembered as well.
        assert!(outside.is_refused(HOST.into(), 8080));
        after.set_ready("one", true).await.unwrap();
        assert_eq!(outside.ask(HOST.into(), 8080).unwrap().0, "one");
        // Its port and address are held again.
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8080)).unwrap_err();
        let (three, at_three) = container(&after, "three", &["default"], &[]).await;
        assert_ne!(address(&at_three), address(&at_one));
        assert_eq!(three.ask(address(&at_one), 80).unwrap().0, "one");
        after.remove_all().await.unwrap();
        assert_eq!(links(&host).await, Vec::<String>::new());
    });
}

#[test]
fn what_others_broke_is_repaired() {
    on_a_host(async |host, outside| {
        let root = tempfile::tempdir().unwrap();
        let networks = networks(root.path()).await;
        let (one, _) = container(&networks, "one", &["default"], &[port(8080, false)]).await;
        let (_two, at_two) = container(&networks, "two", &["default"], &[]).await;
        let nftables = Connection::<Nftables>::new().unwrap();
        let reachable = || outside.ask(HOST.into(), 8080).is_ok_and(|answer| answer.0 == "one");
        assert!(reachable());

        nftables.flush_ruleset().await.unwrap();
        assert!(outside.is_refused(HOST.into(), 8080));
        networks.reconcile().await.unwrap();
        assert!(reachable());

        nftables.flush_chain("stack", "prerouting", Family::Inet).await.unwrap();
        assert!(outside.is_refused(HOST.into(), 8080));
        networks.reconcile().await.unwrap();
        assert!(reachable());

        let routes = Connection::<Route>::new_in(host.netns.as_fd()).unwrap();
        routes.del_link("stack0").await.unwrap();
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        networks.reconcile().await.unwrap();
        assert!(reachable());
        assert_eq!(one.ask(address(&at_two), 80).unwrap().0, "two");
        networks.remove_all().await.unwrap();
    });
}

#[test]
fn a_record_that_a_power_cut_left_torn_is_set_aside() {
    on_a_host(async |_host, _outside| {
        let root = tempfile::tempdir().unwrap();
        let before = networks(root.path()).await;
        container(&before, "one", &["default"], &[]).await;
        drop(before);
        let record = root.path().join("containers/one.json");
        let whole = std::fs::read(&record).unwrap();
        std::fs::write(&record, &whole[..whole.len() / 2]).unwrap();
        let after = networks(root.path()).await;
        assert_eq!(after.warnings().len(), 1);
        assert!(after.warnings()[0].contains("one.json"), "{:?}", after.warnings());
        after.adopt(&[]).await.unwrap();
        container(&after, "one", &["default"], &[]).await;
        after.remove_all().await.unwrap();
    });
}

#[test]
fn many_containers_at_once_get_addresses_of_their_own() {
    on_a_host(async |host, outside| {
        let root = tempfile::tempdir().unwrap();
        let networks = networks(root.path()).await;
        for name in ["default", "other"] {
            networks.create_network(name).await.unwrap();
        }
        let machines: Vec<Machine> = (0..20).map(|_| Machine::new()).collect();
        let ids: Vec<String> = (0..20).map(|index| format!("c{index}")).collect();
        let attached =
            futures::future::try_join_all(
                ids.iter().zip(&machines).map(|(id, machine)| {
                    let networks = &networks;
                    async move {
                        networks.attach(id, &machine.netns, &request(&["default", "other"], &[port(0, false)])).await
                    }
                }),
            )
            .await
            .unwrap();
        let mut addresses: Vec<String> = attached
            .iter()
            .flat_map(|got| &got.endpoints)
            .map(|endpoint| endpoint.address.unwrap().to_string())
            .collect();
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), 40);
        for ((id, machine), got) in ids.iter().zip(&machines).zip(&attached) {
            machine.serve(id, 80);
            assert_eq!(&outside.ask(HOST.into(), got.ports[0].host_port).unwrap().0, id);
        }
        futures::future::try_join_all(ids.iter().map(|id| networks.detach(id))).await.unwrap();
        assert_eq!(links(&host).await.len(), 2, "the bridges stay until their networks are removed");
        networks.remove_network("default").await.unwrap();
        networks.remove_network("other").await.unwrap();
        assert_eq!(links(&host).await, Vec::<String>::new());
        networks.remove_all().await.unwrap();
    });
}

#[test]
fn subnets_keep_off_the_hosts_routes() {
    on_a_host(async |host, _outside| {
        let root = tempfile::tempdir().unwrap();
        let routes = Connection::<Route>::new_in(host.netns.as_fd()).unwrap();
        let route = nlink::netlink::route::Ipv4Route::new(Ipv4Addr::new(172, 30, 0, 0), 22).dev("up0");
        routes.add_route(route).await.unwrap();
        let networks = networks(root.path()).await;
        let made = networks.create_network("default").await.unwrap();
        assert_eq!(made.subnet.unwrap().to_string(), "172.30.4.0/23");
        assert_eq!(networks.create_network("default").await.unwrap(), made);
        let (_one, _) = container(&networks, "one", &["default"], &[]).await;
        let refusal = networks.remove_network("default").await.unwrap_err();
        assert_eq!(text(&refusal), "the network `default` has 1 containers; remove them first");
        networks.remove_all().await.unwrap();
    });
}

#[test]
fn a_container_that_died_with_its_namespace_is_detached_without_complaint() {
    on_a_host(async |host, _outside| {
        let root = tempfile::tempdir().unwrap();
        let networks = networks(root.path()).await;
        let machine = Machine::new();
        networks.create_network("default").await.unwrap();
        networks.attach("one", &machine.netns, &request(&["default"], &[port(8080, false)])).await.unwrap();
        drop(machine);
        networks.detach("one").await.unwrap();
        networks.detach("one").await.unwrap();
        networks.detach("never-was").await.unwrap();
        assert_eq!(links(&host).await, ["stack0"]);
        networks.remove_all().await.unwrap();
        networks.remove_all().await.unwrap();
        let tables = Connection::<Nftables>::new().unwrap().list_tables().await.unwrap();
        assert!(tables.is_empty());
    });
}

/// The daemon's tasks move between threads; that this compiles is the test.
#[test]
fn the_work_can_be_done_by_any_thread() {
    fn any_thread<T: Send>(_: T) {}
    on_a_host(async |host, _outside| {
        let root = tempfile::tempdir().unwrap();
        let networks = networks(root.path()).await;
        any_thread(&networks);
        any_thread(networks.attach("one", &host.netns, &request(&[], &[])));
        any_thread(networks.detach("one"));
        any_thread(networks.set_ready("one", true));
        any_thread(networks.adopt(&[]));
        any_thread(networks.reconcile());
        any_thread(networks.remove_network("default"));
        any_thread(networks.remove_all());
    });
}

#[test]
fn what_makes_no_sense_is_refused_with_its_reason() {
    on_a_host(async |_host, _outside| {
        let root = tempfile::tempdir().unwrap();
        let networks = networks(root.path()).await;
        let machine = Machine::new();
        let refused =
            async |id: &str, request: &_| text(&networks.attach(id, &machine.netns, request).await.unwrap_err());
        assert_eq!(refused("one", &request(&["a"], &[])).await, "network a not found");
        networks.create_network("a").await.unwrap();
        let with_ports = request(&[], &[port(80, false)]);
        assert_eq!(refused("one", &with_ports).await, "container one publishes ports but is on no network");
        let twice = request(&["a", "a"], &[]);
        assert_eq!(refused("one", &twice).await, "container one names the network `a` twice");
        assert!(refused("../etc/passwd", &request(&["a"], &[])).await.contains("cannot be the id of a container"));
        assert!(refused("one", &request(&["../x"], &[])).await.contains("cannot be the name of a network"));
        let elsewhere =
            stack_engine::network::PortBinding { host_ip: Some("203.0.113.9".parse().unwrap()), ..port(80, false) };
        assert!(refused("one", &request(&["a"], &[elsewhere])).await.contains("this host has no such address"));
        networks.attach("one", &machine.netns, &request(&["a"], &[])).await.unwrap();
        assert!(refused("one", &request(&["a"], &[])).await.contains("is attached to its networks already"));
        networks.remove_all().await.unwrap();
        let unusable =
            stack_engine::network::NetworkConfig { prefix: "Much-too-long".to_owned(), ..Default::default() };
        let error = stack_engine::network::Networks::open(root.path(), unusable).await.unwrap_err();
        assert!(text(&error).contains("lower-case letters and digits"), "{error}");
    });
}

#[test]
fn a_network_that_is_full_says_so() {
    on_a_host(async |_host, _outside| {
        let root = tempfile::tempdir().unwrap();
        let config = stack_engine::network::NetworkConfig { subnet_length: 29, ..Default::default() };
        let networks = stack_engine::network::Networks::open(root.path(), config).await.unwrap();
        networks.create_network("small").await.unwrap();
        let machines: Vec<Machine> = (0..6).map(|_| Machine::new()).collect();
        for (index, machine) in machines.iter().enumerate().take(5) {
            networks.attach(&format!("c{index}"), &machine.netns, &request(&["small"], &[])).await.unwrap();
        }
        let full = networks.attach("c5", &machines[5].netns, &request(&["small"], &[])).await.unwrap_err();
        assert_eq!(text(&full), "the network `small` (172.30.0.0/29) has no free address; 5 are in use");
        networks.detach("c2").await.unwrap();
        networks.attach("c5", &machines[5].netns, &request(&["small"], &[])).await.unwrap();
        networks.remove_all().await.unwrap();
    });
}
