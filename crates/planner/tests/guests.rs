//! What the planner promises of containers that belong to no stack and are on attachable networks.

#![allow(clippy::expect_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use stack_model::spec::NetworkSpec;
use stack_model::{GuestAnswer, GuestWishes, Readiness, Wish};
use stack_planner::{Command, Rejected, Said, are_as_declared, assignment, guest_answers, network_document};
use stack_testkit::cluster::{Cluster, node};
use stack_testkit::specs::{service, stack};

fn with_networks() -> Cluster {
    let mut cluster = Cluster::of_nodes(3);
    for (name, attachable) in [("shared", true), ("closed", false)] {
        let spec = NetworkSpec {
            attachable,
            subnets: vec![format!("10.{}.0.0/28", if attachable { 1 } else { 2 }).parse().expect("a subnet")],
            ..NetworkSpec::default()
        };
        cluster.must(Command::PutNetwork { name: name.to_owned(), spec });
    }
    cluster
}

fn wishes(network: &str, containers: &[&str]) -> GuestWishes {
    let wish = |name: &str| Wish { names: vec![name.to_owned()], ..Wish::default() };
    let containers = containers.iter().map(|name| ((*name).to_owned(), wish(name))).collect();
    BTreeMap::from([(network.to_owned(), containers)])
}

fn declare(cluster: &mut Cluster, number: u64, sequence: u64, guests: &GuestWishes) {
    let said = Said { life: 7, sequence };
    cluster.must(Command::DeclareGuests { node: node(number), said, guests: guests.clone() });
    assert!(are_as_declared(&cluster.state, node(number), guests), "nothing is left to be done");
}

fn on(cluster: &Cluster, network: &str) -> BTreeSet<String> {
    network_document(&cluster.state, network).expect("the network").guests.into_keys().collect()
}

fn refusal(cluster: &Cluster, number: u64, guests: &GuestWishes) -> String {
    for answers in guest_answers(&cluster.state, node(number), guests).into_values() {
        for answer in answers.into_values() {
            if let GuestAnswer::Refused(reason) = answer {
                return reason;
            }
        }
    }
    String::new()
}

#[test]
fn a_host_with_a_guest_is_on_the_network_and_off_it_again() {
    let mut cluster = with_networks();
    declare(&mut cluster, 1, 1, &wishes("shared", &["one"]));
    declare(&mut cluster, 2, 1, &wishes("shared", &["two"]));
    assert!(assignment(&cluster.state, node(1)).networks.contains_key("shared"));
    assert!(!assignment(&cluster.state, node(3)).networks.contains_key("shared"));
    let document = network_document(&cluster.state, "shared").expect("the network");
    assert_eq!((document.hosts.len(), document.guests["two"].names.as_slice()), (2, ["two".to_owned()].as_slice()));
    // The same word again changes nothing, and an older one is not listened to.
    let before = cluster.state.networks["shared"].generation;
    assert!(are_as_declared(&cluster.state, node(1), &wishes("shared", &["one"])));
    declare(&mut cluster, 1, 5, &wishes("shared", &[]));
    assert!(cluster.state.networks["shared"].generation > before);
    let late = Command::DeclareGuests {
        node: node(1),
        said: Said { life: 7, sequence: 4 },
        guests: wishes("shared", &["one"]),
    };
    cluster.must(late);
    assert_eq!(on(&cluster, "shared"), BTreeSet::from(["two".to_owned()]));
    assert!(!assignment(&cluster.state, node(1)).networks.contains_key("shared"));
    // A daemon that was started again begins anew, with what it has.
    let said = Said { life: 8, sequence: 1 };
    cluster.must(Command::DeclareGuests { node: node(1), said, guests: wishes("shared", &["three"]) });
    assert_eq!(on(&cluster, "shared").len(), 2);
    // A host that is down keeps what it has: its containers may run. One that left does not.
    cluster.set_readiness(1, Readiness::Down);
    assert_eq!(on(&cluster, "shared").len(), 2);
    cluster.must(Command::RemoveNode { id: node(1), force: false });
    assert_eq!(on(&cluster, "shared"), BTreeSet::from(["two".to_owned()]));
}

#[test]
fn what_cannot_be_is_refused_with_its_reason_and_the_rest_is_done() {
    let mut cluster = with_networks();
    let mut all = wishes("shared", &["one"]);
    all.extend(wishes("closed", &["one"]));
    all.extend(wishes("absent", &["one"]));
    declare(&mut cluster, 1, 1, &all);
    assert_eq!(on(&cluster, "shared").len(), 1);
    assert!(on(&cluster, "closed").is_empty());
    assert!(refusal(&cluster, 1, &wishes("closed", &["one"])).contains("network closed not manually attachable"));
    assert_eq!(refusal(&cluster, 1, &wishes("absent", &["one"])), "network absent not found");
    assert_eq!(refusal(&cluster, 1, &wishes("shared", &["one"])), "");

    let fixed = |address: [u8; 4]| {
        let wish = Wish { names: Vec::new(), address: Some(address.into()), address6: None };
        BTreeMap::from([("shared".to_owned(), BTreeMap::from([("fixed".to_owned(), wish)]))])
    };
    declare(&mut cluster, 2, 1, &fixed([10, 1, 0, 9]));
    let document = network_document(&cluster.state, "shared").expect("the network");
    assert_eq!(document.guests["fixed"].addresses, ["10.1.0.9".parse::<std::net::IpAddr>().expect("an address")]);
    assert!(refusal(&cluster, 3, &fixed([10, 1, 0, 9])).contains("of another host"));
    let other = |address| {
        let mut wishes = fixed(address);
        let wish = wishes.get_mut("shared").and_then(|wanted| wanted.remove("fixed")).expect("the wish");
        BTreeMap::from([("shared".to_owned(), BTreeMap::from([("other".to_owned(), wish)]))])
    };
    assert!(refusal(&cluster, 3, &other([10, 1, 0, 9])).contains("Address already in use"));
    assert!(refusal(&cluster, 3, &other([10, 9, 0, 9])).contains("no configured subnet contains"));

    // Until no address is left for one more, or for its host.
    let names: Vec<String> = (0..20).map(|number| format!("c{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    declare(&mut cluster, 3, 1, &wishes("shared", &names));
    assert_eq!(cluster.state.networks["shared"].free(), 0);
    assert!(refusal(&cluster, 3, &wishes("shared", &names)).contains("no free address"));
}

#[test]
fn a_network_with_guests_stays_until_they_are_gone() {
    let mut cluster = with_networks();
    declare(&mut cluster, 1, 1, &wishes("shared", &["one"]));
    let refused = cluster.apply(Command::RemoveNetwork { name: "shared".to_owned() });
    assert!(matches!(refused, Err(Rejected::NetworkHasGuests { guests: 1, .. })), "{refused:?}");
    let spec = NetworkSpec { attachable: true, ipv6: true, ..NetworkSpec::default() };
    let refused = cluster.apply(Command::PutNetwork { name: "shared".to_owned(), spec });
    assert!(matches!(refused, Err(Rejected::NetworkHasGuests { .. })), "{refused:?}");
    declare(&mut cluster, 1, 2, &GuestWishes::new());
    cluster.must(Command::RemoveNetwork { name: "shared".to_owned() });

    // A stack's own network outlives the stack as long as somebody is on it.
    let mut spec = stack("app", [("web", service("web"))]);
    spec.networks.insert("default".to_owned(), NetworkSpec { attachable: true, ..NetworkSpec::default() });
    cluster.deploy(spec);
    cluster.settle_over_time();
    declare(&mut cluster, 2, 1, &wishes("app_default", &["one"]));
    cluster.must(Command::RemoveStack { stack: "app".parse().expect("a name") });
    cluster.settle_over_time();
    assert_eq!(on(&cluster, "app_default").len(), 1);
    declare(&mut cluster, 2, 2, &GuestWishes::new());
    assert!(!cluster.state.networks.contains_key("app_default"));
}

proptest! {
    /// Whatever hosts say, in whatever order it comes: after the last word of each host the network has those guests and no
    /// others, each with addresses of its own, and its hosts are those that have one.
    #[test]
    fn the_last_word_of_each_host_counts(
        words in prop::collection::vec((1u64..=3, 0u64..6, prop::collection::btree_set(0u8..6, 0..4)), 0..24),
    ) {
        let mut cluster = with_networks();
        let mut last: BTreeMap<u64, (u64, BTreeSet<u8>)> = BTreeMap::new();
        for (number, sequence, containers) in words {
            let names: Vec<String> = containers.iter().map(|container| format!("n{number}-{container}")).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let guests = wishes("shared", &names);
            let said = Said { life: 1, sequence };
            cluster.must(Command::DeclareGuests { node: node(number), said, guests });
            if last.get(&number).is_none_or(|(before, _)| *before < sequence) {
                last.insert(number, (sequence, containers));
            }
        }
        let expected: BTreeSet<String> = last
            .iter()
            .flat_map(|(number, (_, containers))| containers.iter().map(move |one| format!("n{number}-{one}")))
            .collect();
        let network = &cluster.state.networks["shared"];
        let document = network_document(&cluster.state, "shared").expect("the network");
        let has: BTreeSet<String> = document.guests.keys().cloned().collect();
        // 14 addresses: 3 hosts and up to 9 guests always fit.
        prop_assert_eq!(&has, &expected);
        let hosts: BTreeSet<_> = document.guests.values().map(|guest| guest.node).collect();
        prop_assert_eq!(hosts, document.hosts.keys().copied().collect::<BTreeSet<_>>());
        let all: Vec<_> = document.guests.values().flat_map(|guest| &guest.addresses)
            .chain(document.hosts.values().flat_map(|host| &host.addresses)).collect();
        prop_assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        prop_assert_eq!(usize::try_from(network.capacity() - network.free()).unwrap_or(0), all.len());
        // As it is after it was read from the disk again.
        let text = serde_json::to_string(&cluster.state).expect("JSON");
        let read: stack_planner::State = serde_json::from_str(&text).expect("the state");
        prop_assert_eq!(read.networks["shared"].free(), network.free());
    }
}
