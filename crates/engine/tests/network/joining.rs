//! Networks with settings of their own, and containers that join and leave them.

use std::net::Ipv4Addr;

use nlink::netlink::route::Ipv4Route;
use nlink::netlink::{Connection, Route};
use stack_engine::network::{AttachError, NetworkEndpoint, NetworkError, NetworkSettings, PortBinding};
use std::os::fd::AsFd;

use crate::machines::{HOST, address, container, links, networks, on_a_host, port, request};

#[expect(clippy::unwrap_used, reason = "what fails here fails the test")]
fn on(subnet: &str) -> NetworkSettings {
    NetworkSettings { subnet: Some(subnet.parse().unwrap()), ..NetworkSettings::default() }
}

fn endpoint(name: &str) -> NetworkEndpoint {
    NetworkEndpoint { name: name.to_owned(), ..NetworkEndpoint::default() }
}

#[test]
fn the_published_port_and_the_default_route_follow_the_network_that_leads() {
    on_a_host(async |host, outside| {
        let root = tempfile::tempdir().unwrap();
        let all = networks(root.path()).await;
        all.make_network("b", &on("10.50.0.0/24")).await.unwrap();
        all.make_network("a", &on("10.51.0.0/24")).await.unwrap();
        let (web, _) = container(&all, "web", &["b"], &[port(8080, false)]).await;
        assert_eq!(outside.ask(HOST.into(), 8080).unwrap().0, "web");
        let joined = all.connect("web", &web.netns, &endpoint("a")).await.unwrap();
        assert_eq!(
            (joined.interface.as_str(), joined.address.unwrap().to_string()),
            ("eth1", "10.51.0.2/24".to_owned())
        );
        assert_eq!(outside.ask(HOST.into(), 8080).unwrap(), ("web".to_owned(), "192.0.2.2".to_owned()));
        assert!(all.ruleset_text().contains("dnat ip to 10.51.0.2:80"), "{}", all.ruleset_text());
        outside.serve("world", 8001);
        assert_eq!(web.ask(crate::machines::OUTSIDE.into(), 8001).unwrap().0, "world");
        let twice = all.connect("web", &web.netns, &endpoint("a")).await.unwrap_err();
        assert!(matches!(twice, AttachError::Connected { .. }), "{twice}");
        all.disconnect("web", Some(&web.netns), "a").await.unwrap();
        assert!(all.ruleset_text().contains("dnat ip to 10.50.0.2:80"));
        assert_eq!(outside.ask(HOST.into(), 8080).unwrap().0, "web");
        // A third time it has the number that is free.
        let again = all.connect("web", &web.netns, &NetworkEndpoint { priority: 3, ..endpoint("a") }).await.unwrap();
        assert_eq!(again.interface, "eth1");
        // A new engine has all of it.
        drop(all);
        let all = networks(root.path()).await;
        all.adopt(&["web".to_owned()]).await.unwrap();
        assert_eq!(all.attachment("web").unwrap().endpoints.len(), 2);
        assert_eq!(outside.ask(HOST.into(), 8080).unwrap().0, "web");
        all.detach("web").await.unwrap();
        all.remove_network("a").await.unwrap();
        all.remove_network("b").await.unwrap();
        assert_eq!(links(&host).await, Vec::<String>::new());
        all.remove_all().await.unwrap();
    });
}

#[test]
fn settings_under_a_name_stay_as_long_as_networks_are_made_from_them() {
    on_a_host(async |_host, _outside| {
        let root = tempfile::tempdir().unwrap();
        let all = networks(root.path()).await;
        let kept = all.make_template("kept", &on("10.53.0.0/24")).await.unwrap();
        let wrong = NetworkSettings { mtu: Some(1), ..on("10.54.0.0/24") };
        assert!(matches!(all.make_template("wrong", &wrong).await.unwrap_err(), NetworkError::Settings { .. }));
        for taken in
            [all.make_network("kept", &on("10.54.0.0/24")).await.err(), all.make_template("kept", &wrong).await.err()]
        {
            assert!(matches!(taken, Some(NetworkError::Exists { .. } | NetworkError::Settings { .. })), "{taken:?}");
        }
        let settings = NetworkSettings { made_from: Some("kept".to_owned()), ..kept.settings.clone() };
        all.make_network("made", &settings).await.unwrap();
        drop(all);
        let all = networks(root.path()).await;
        all.adopt(&[]).await.unwrap();
        assert_eq!(all.templates(), [kept]);
        let refusal = all.remove_template("kept").await.unwrap_err();
        assert!(matches!(refusal, NetworkError::TemplateInUse { .. }), "{refusal}");
        all.remove_network("made").await.unwrap();
        all.remove_template("kept").await.unwrap();
        all.remove_template("kept").await.unwrap();
        assert_eq!(std::fs::read_dir(root.path().join("templates")).unwrap().count(), 0);
        all.remove_all().await.unwrap();
    });
}

#[test]
fn settings_are_kept_and_what_meets_the_host_is_refused() {
    on_a_host(async |host, _outside| {
        let root = tempfile::tempdir().unwrap();
        let all = networks(root.path()).await;
        let settings = NetworkSettings {
            range: Some("10.52.4.0/30".parse().unwrap()),
            gateway: Some(Ipv4Addr::new(10, 52, 0, 9)),
            auxiliary: [("x".to_owned(), Ipv4Addr::new(10, 52, 4, 0).into())].into(),
            bridge: Some("mine".to_owned()),
            labels: [("a".to_owned(), "b".to_owned())].into(),
            ..on("10.52.0.0/16")
        };
        let made = all.make_network("n", &settings).await.unwrap();
        assert_eq!((made.id.len(), made.settings == settings), (64, true));
        for (name, other) in [("n", on("10.60.0.0/24")), ("m", on("10.52.9.0/24")), ("m", on("192.0.2.0/24"))] {
            let refusal = all.make_network(name, &other).await.unwrap_err();
            assert!(matches!(refusal, NetworkError::Exists { .. } | NetworkError::Overlap { .. }), "{refusal}");
        }
        let mut got = Vec::new();
        for id in ["one", "two", "three"] {
            got.push(address(&container(&all, id, &["n"], &[]).await.1).to_string());
        }
        assert_eq!(got, ["10.52.4.1", "10.52.4.2", "10.52.4.3"]);
        let machine = crate::machines::Machine::new();
        let full = all.attach("four", &machine.netns, &request(&["n"], &[])).await.unwrap_err();
        assert!(matches!(full, AttachError::NoAddress { .. }), "{full}");
        let mut fixed = request(&["n"], &[]);
        for (wanted, fine) in
            [([10, 52, 4, 1], false), ([10, 53, 0, 1], false), ([10, 52, 0, 9], false), ([10, 52, 200, 1], true)]
        {
            fixed.networks[0].address = Some(wanted.into());
            assert_eq!(all.attach("four", &machine.netns, &fixed).await.is_ok(), fine, "{wanted:?}");
        }
        drop(all);
        let all = networks(root.path()).await;
        all.adopt(&[]).await.unwrap();
        assert_eq!(all.list()[0].network, made);
        assert_eq!(links(&host).await, ["mine"]);
        all.remove_all().await.unwrap();
        assert_eq!(links(&host).await, Vec::<String>::new());
    });
}

#[test]
fn internal_networks_and_containers_that_shall_be_alone() {
    on_a_host(async |_host, outside| {
        let root = tempfile::tempdir().unwrap();
        let all = networks(root.path()).await;
        all.make_network("inner", &NetworkSettings { internal: true, ..on("10.54.0.0/24") }).await.unwrap();
        all.make_network("alone", &NetworkSettings { isolated: true, ..on("10.55.0.0/24") }).await.unwrap();
        let (one, _) = container(&all, "one", &["inner"], &[]).await;
        let (_two, at_two) = container(&all, "two", &["inner"], &[]).await;
        let (three, _) = container(&all, "three", &["alone"], &[]).await;
        let (_four, at_four) = container(&all, "four", &["alone"], &[port(8084, false)]).await;
        outside.serve("world", 8001);
        assert_eq!(one.ask(address(&at_two), 80).unwrap().0, "two");
        assert!(one.is_refused(crate::machines::OUTSIDE.into(), 8001));
        assert!(one.is_refused(HOST.into(), 8084));
        assert_eq!(three.ask(crate::machines::OUTSIDE.into(), 8001).unwrap().0, "world");
        assert!(three.is_refused(address(&at_four), 80));
        assert_eq!(outside.ask(HOST.into(), 8084).unwrap().0, "four");
        // Somebody who routes to it all the same.
        let connection = Connection::<Route>::new_in(one.netns.as_fd()).unwrap();
        connection.add_route(Ipv4Route::default_route().gateway(Ipv4Addr::new(10, 54, 0, 1))).await.unwrap();
        assert!(one.is_refused(crate::machines::OUTSIDE.into(), 8001));
        assert!(one.is_refused(HOST.into(), 8084));
        all.remove_all().await.unwrap();
    });
}

#[test]
fn a_port_on_the_loopback_of_the_host_is_not_reached_from_the_link() {
    on_a_host(async |host, outside| {
        let root = tempfile::tempdir().unwrap();
        let all = networks(root.path()).await;
        let local = PortBinding { host_ip: Some(Ipv4Addr::LOCALHOST.into()), ..port(8080, false) };
        container(&all, "local", &["default"], &[local]).await;
        assert_eq!(host.ask(Ipv4Addr::LOCALHOST.into(), 8080).unwrap().0, "local");
        // A machine on the link that sends packets for 127.0.0.1 to the host.
        outside.run(|| std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1")).unwrap();
        let connection = Connection::<Route>::new_in(outside.netns.as_fd()).unwrap();
        connection.set_link_down("lo").await.unwrap();
        connection.add_route(Ipv4Route::new(Ipv4Addr::LOCALHOST, 32).gateway(HOST)).await.unwrap();
        assert!(outside.is_refused(Ipv4Addr::LOCALHOST.into(), 8080));
        assert!(all.ruleset_text().contains("iifname != \"lo\" ip daddr 127.0.0.0/8 drop"));
        all.remove_all().await.unwrap();
    });
}
