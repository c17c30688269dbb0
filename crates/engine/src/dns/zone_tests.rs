use std::fmt::Write;

use proptest::prelude::*;

use super::*;

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

fn container(names: &[&str], at: &[&str]) -> EndpointNames {
    EndpointNames { names: strings(names), addresses: addresses(at), member: None }
}

fn task(names: &[&str], at: &[&str], service: &str, serving: bool) -> EndpointNames {
    let member = Some(Member { service: service.to_owned(), stack: Some("shop".to_owned()), serving });
    EndpointNames { member, ..container(names, at) }
}

fn service(name: &str, virtual_addresses: &[&str]) -> ServiceNames {
    ServiceNames {
        name: name.to_owned(),
        stack: Some("shop".to_owned()),
        aliases: vec![format!("{name}-Alias")],
        virtual_addresses: addresses(virtual_addresses),
        ports: vec![ServicePort { name: Some("http".to_owned()), protocol: Protocol::Tcp, port: 8080 }],
    }
}

fn shop() -> Published {
    let front = NetworkNames {
        network: "Front".to_owned(),
        subnets: vec!["10.1.0.0/24".parse().unwrap(), "fd00:1::/64".parse().unwrap()],
        endpoints: vec![
            task(&["web.1", "web"], &["10.1.0.2", "fd00:1::2"], "web", true),
            task(&["web.2", "web"], &["10.1.0.3", "fd00:1::3"], "web", true),
            task(&["web.3", "web"], &["10.1.0.4"], "web", false),
            task(&["api.1"], &["10.1.0.5"], "api", true),
            container(&["Cache", "0123456789ab", "redis"], &["10.1.0.6"]),
        ],
        services: vec![service("web", &[]), service("api", &["10.1.0.200"]), service("idle", &[])],
    };
    let back = NetworkNames {
        network: "back".to_owned(),
        subnets: vec!["10.2.0.0/24".parse().unwrap()],
        endpoints: vec![container(&["db"], &["10.2.0.2"]), container(&["cache"], &["10.2.0.3"])],
        services: Vec::new(),
    };
    let cluster = NetworkNames {
        network: "Front".to_owned(),
        endpoints: vec![task(&["web.4"], &["10.1.0.9"], "web", true), container(&["redis"], &["10.1.0.6", "10.1.0.8"])],
        ..NetworkNames::default()
    };
    let mut published = Published::default();
    for (layer, names) in [(0, front), (0, back), (1, cluster)] {
        published.layers[layer].insert(names.network.clone(), Arc::new(Zone::new(names)));
    }
    published
}

fn on(networks: &[&str], stack: Option<&str>) -> Client {
    Client { networks: strings(networks), stack: stack.map(str::to_owned), ..Client::default() }
}

fn describe(finding: &Finding) -> String {
    match finding {
        Finding::Elsewhere => "elsewhere".to_owned(),
        Finding::NoSuchName => "no such name".to_owned(),
        Finding::Records(records) if records.is_empty() => "nothing of this type".to_owned(),
        Finding::Records(records) => {
            let data: Vec<String> = records
                .iter()
                .map(|data| match data {
                    Data::Address(address) => address.to_string(),
                    Data::Pointer(name) => name.clone(),
                    Data::Service { port, target, addresses } => format!("{target}:{port} {addresses:?}"),
                })
                .collect();
            data.join(", ")
        }
    }
}

#[test]
fn two_networks_of_one_name_are_told_apart_by_whose_they_are() {
    let names = |address: &str| NetworkNames {
        network: "app_default".to_owned(),
        endpoints: vec![container(&["db"], &[address])],
        ..NetworkNames::default()
    };
    let mut published = Published::default();
    for (layer, names) in [(Layer::Host, names("172.30.0.2")), (Layer::Cluster, names("10.72.0.3"))] {
        published.layers[layer as usize].insert(names.network.clone(), Arc::new(Zone::new(names)));
    }
    let found = |layer: Layer| {
        let layers = [("app_default".to_owned(), layer)].into();
        describe(&published.find(&Client { layers, ..on(&["app_default"], None) }, "db", Kind::Address4, 0))
    };
    assert_eq!(found(Layer::Host), "172.30.0.2");
    assert_eq!(found(Layer::Cluster), "10.72.0.3");
}

#[test]
fn what_is_found_by_whom() {
    let published = shop();
    let mut text = String::new();
    let clients =
        [("front", on(&["Front"], None)), ("both", on(&["back", "Front"], Some("shop"))), ("none", on(&[], None))];
    let questions = [
        ("web", Kind::Address4),
        ("web", Kind::Address6),
        ("web.shop", Kind::Address4),
        ("web.front", Kind::Address4),
        ("web.other", Kind::Address4),
        ("web-alias", Kind::Address4),
        ("tasks.web", Kind::Address4),
        ("tasks.web.shop", Kind::Any),
        ("tasks.nothing", Kind::Address4),
        ("tasks.cache", Kind::Address4),
        ("web.3", Kind::Address4),
        ("api", Kind::Address4),
        ("api", Kind::Address6),
        ("api-alias", Kind::Address4),
        ("tasks.api", Kind::Address4),
        ("idle", Kind::Address4),
        ("tasks.idle", Kind::Address4),
        ("cache", Kind::Address4),
        ("0123456789ab", Kind::Address4),
        ("redis", Kind::Address4),
        ("redis", Kind::Other),
        ("db", Kind::Address4),
        ("db.back", Kind::Address4),
        ("_http._tcp.web", Kind::Service),
        ("_8080._tcp.api.shop", Kind::Service),
        ("_http._tcp.web", Kind::Address4),
        ("_tcp.web", Kind::Service),
        ("_ftp._tcp.web", Kind::Service),
        ("_http._tcp.example.org", Kind::Service),
        ("2.0.1.10.in-addr.arpa", Kind::Pointer),
        ("200.0.1.10.in-addr.arpa", Kind::Pointer),
        ("2.0.1.10.in-addr.arpa", Kind::Address4),
        ("77.0.1.10.in-addr.arpa", Kind::Pointer),
        ("2.0.2.10.in-addr.arpa", Kind::Pointer),
        ("1.10.in-addr.arpa", Kind::Pointer),
        ("2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa", Kind::Pointer),
        ("example.org", Kind::Address4),
        ("", Kind::Any),
    ];
    for (name, kind) in questions {
        let _ = writeln!(text, "{name:?} {kind:?}");
        for (who, client) in &clients {
            let _ = writeln!(text, "    {who}: {}", describe(&published.find(client, name, kind, 0)));
        }
    }
    insta::assert_snapshot!(text);
}

#[test]
fn a_virtual_address_counts_alone_whichever_layer_knows_it() {
    for layer in [0, 1] {
        let mut published = Published::default();
        let virtual_one = NetworkNames {
            network: "n".to_owned(),
            services: vec![service("web", &["10.0.0.100"])],
            ..NetworkNames::default()
        };
        let local = NetworkNames {
            network: "n".to_owned(),
            endpoints: vec![container(&["web.1", "web"], &["10.0.0.2"])],
            ..NetworkNames::default()
        };
        published.layers[layer].insert("n".to_owned(), Arc::new(Zone::new(virtual_one)));
        published.layers[1 - layer].insert("n".to_owned(), Arc::new(Zone::new(local)));
        let found = published.find(&on(&["n"], None), "web", Kind::Address4, 0);
        assert_eq!(found, Finding::Records(vec![Data::Address("10.0.0.100".parse().unwrap())]));
    }
}

#[test]
fn the_own_stacks_service_is_meant_first() {
    let task = |stack: &str, at: &str| EndpointNames {
        names: vec![format!("web.1.{stack}")],
        addresses: addresses(&[at]),
        member: Some(Member { service: "web".to_owned(), stack: Some(stack.to_owned()), serving: true }),
    };
    let names = NetworkNames {
        network: "shared".to_owned(),
        endpoints: vec![task("one", "10.0.0.1"), task("two", "10.0.0.2")],
        ..NetworkNames::default()
    };
    let mut published = Published::default();
    published.layers[1].insert("shared".to_owned(), Arc::new(Zone::new(names)));
    let ask = |stack, name: &str| describe(&published.find(&on(&["shared"], stack), name, Kind::Address4, 0));
    assert_eq!(ask(None, "web"), "10.0.0.1, 10.0.0.2");
    assert_eq!(ask(Some("two"), "web"), "10.0.0.2");
    assert_eq!(ask(Some("Two"), "tasks.web"), "10.0.0.2");
    assert_eq!(ask(Some("two"), "web.one"), "10.0.0.1");
    assert_eq!(ask(Some("three"), "web"), "10.0.0.1, 10.0.0.2");
}

proptest! {
    /// Every serving task has the first place equally often, and nobody else is ever in an answer.
    #[test]
    fn turns_are_fair(serving in prop::collection::vec(any::<bool>(), 1..12), from in 0usize..1000) {
        let endpoints: Vec<EndpointNames> = serving
            .iter()
            .enumerate()
            .map(|(index, &serving)| {
                task(&[&format!("web.{index}")], &[&format!("10.0.0.{index}")], "web", serving)
            })
            .collect();
        let expected: Vec<IpAddr> =
            endpoints.iter().zip(&serving).filter(|(_, serving)| **serving).map(|(task, _)| task.addresses[0]).collect();
        let mut published = Published::default();
        let names = NetworkNames { network: "n".to_owned(), endpoints, ..NetworkNames::default() };
        published.layers[0].insert("n".to_owned(), Arc::new(Zone::new(names)));
        let mut firsts = Vec::new();
        for turn in from..from + expected.len().max(1) {
            let Finding::Records(records) = published.find(&on(&["n"], None), "web", Kind::Address4, turn) else {
                return Err(TestCaseError::fail("the service's name is gone"));
            };
            let mut found: Vec<IpAddr> = records
                .iter()
                .filter_map(|data| match data { Data::Address(address) => Some(*address), _ => None })
                .collect();
            firsts.extend(found.first().copied());
            found.sort();
            prop_assert_eq!(&found, &expected);
        }
        firsts.sort();
        prop_assert_eq!(firsts, expected);
    }

    /// Whatever is published, a client learns of nothing that is on none of its networks.
    #[test]
    fn other_networks_stay_hidden(
        published in prop::collection::vec((0usize..3, "[a-c]{1,2}", 1u8..250, any::<bool>()), 0..20),
        mine in 0usize..3,
        name in "(tasks\\.)?[a-c]{1,2}(\\.n[0-2]|\\.shop)?",
    ) {
        let mut all = Published::default();
        for network in 0..3 {
            let endpoints = published
                .iter()
                .filter(|(on, ..)| *on == network)
                .map(|(_, name, host, member)| {
                    let at = format!("10.{network}.0.{host}");
                    if *member { task(&["task"], &[&at], name, true) } else { container(&[name], &[&at]) }
                })
                .collect();
            let names = NetworkNames { network: format!("n{network}"), endpoints, ..NetworkNames::default() };
            all.layers[network % 2].insert(names.network.clone(), Arc::new(Zone::new(names)));
        }
        let client = on(&[&format!("n{mine}")], Some("shop"));
        if let Finding::Records(records) = all.find(&client, &name, Kind::Any, 0) {
            for data in records {
                let Data::Address(IpAddr::V4(address)) = data else { continue };
                prop_assert_eq!(usize::from(address.octets()[1]), mine);
            }
        }
    }

    #[test]
    fn no_name_panics(name in "\\PC{0,80}", network in "\\PC{1,8}") {
        let mut published = shop();
        let names = NetworkNames {
            network: network.clone(),
            endpoints: vec![container(&["a"], &["10.0.0.1"])],
            ..NetworkNames::default()
        };
        published.layers[0].insert(network.clone(), Arc::new(Zone::new(names)));
        let client = on(&["Front", "back", &network], Some("shop"));
        for kind in [Kind::Address4, Kind::Pointer, Kind::Service, Kind::Any, Kind::Other] {
            let _ = published.find(&client, &name, kind, 7);
            let _ = published.find(&client, &format!("{name}.ip6.arpa"), kind, 7);
            let _ = published.find(&client, &format!("{name}.in-addr.arpa"), kind, 7);
        }
    }

    #[test]
    fn an_address_and_its_reverse_name_are_the_same(bits in any::<u128>(), four in any::<u32>()) {
        let six = Ipv6Addr::from(bits);
        let nibbles: Vec<String> = (0..32).map(|index| format!("{:x}", bits >> (4 * index) & 0xf)).collect();
        prop_assert_eq!(reverse_address(&format!("{}.ip6.arpa", nibbles.join("."))), Some(IpAddr::V6(six)));
        let four = Ipv4Addr::from(four);
        let [a, b, c, d] = four.octets();
        prop_assert_eq!(reverse_address(&format!("{d}.{c}.{b}.{a}.in-addr.arpa")), Some(IpAddr::V4(four)));
    }
}
