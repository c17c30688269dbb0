//! What the planner promises of encrypted networks, one example each.

#![allow(clippy::expect_used, reason = "a test that cannot go on fails")]

use stack_model::spec::{NetworkAttachment, NetworkSpec};
use stack_model::{NodeEncryption, Readiness, StackSpec, TunnelKey};
use stack_planner::{Command, acknowledged_announcement, is_acknowledgement_awaited, network_document};
use stack_testkit::cluster::{Cluster, node};
use stack_testkit::specs::{service, stack};

fn describe(cluster: &mut Cluster, number: u64, encryption: Option<NodeEncryption>) {
    let present = &cluster.state.nodes[&node(number)];
    let mut description = present.description.clone();
    description.encryption = encryption;
    let command = Command::DescribeNode { id: node(number), address: present.address, description };
    cluster.must(command);
}

fn announce(cluster: &mut Cluster, number: u64, announcement: u64, names: &[&str]) {
    let key = |name: &&str| TunnelKey { public_key: (*name).to_owned(), port: 4794 };
    let keys = names.iter().map(key).collect();
    describe(cluster, number, Some(NodeEncryption { announcement, keys, unable: None }));
}

fn secret_stack(replicas: u32) -> StackSpec {
    let web = service("web").replicas(replicas).with(|spec| {
        spec.networks.insert("secret".to_owned(), NetworkAttachment::default());
    });
    let mut stack = stack("app", [("web", web)]);
    let secret = NetworkSpec { encrypted: Some(true), ..NetworkSpec::default() };
    stack.networks.insert("secret".to_owned(), secret);
    stack
}

/// Three nodes that can, with two tasks on an encrypted network on the first two.
fn cluster() -> Cluster {
    let mut cluster = Cluster::of_nodes(3);
    for number in 1..=3 {
        announce(&mut cluster, number, 1, &[&format!("key-{number}")]);
    }
    cluster.deploy(secret_stack(2));
    cluster.settle_over_time();
    assert!(!cluster.state.networks["app_secret"].hosts.contains_key(&node(3)));
    cluster
}

fn acknowledge(cluster: &mut Cluster, number: u64) {
    let revision = cluster.state.revision;
    assert!(is_acknowledgement_awaited(&cluster.state, node(number), revision));
    cluster.must(Command::AcknowledgeNetworks { node: node(number), revision });
    assert!(!is_acknowledgement_awaited(&cluster.state, node(number), revision));
}

#[test]
fn a_new_key_is_acknowledged_by_all_who_need_it() {
    let mut cluster = cluster();
    assert_eq!(acknowledged_announcement(&cluster.state, node(1)), 1);
    // Whoever is on no encrypted network waits for nobody.
    announce(&mut cluster, 3, 2, &["key-3", "key-new"]);
    assert_eq!(acknowledged_announcement(&cluster.state, node(3)), 2);

    announce(&mut cluster, 1, 2, &["key-1", "key-new"]);
    let document = network_document(&cluster.state, "app_secret").expect("the network");
    assert_eq!(document.generation, cluster.state.revision, "the others hear of it");
    let told: Vec<&str> = document.hosts[&node(1)].keys.iter().map(|key| key.public_key.as_str()).collect();
    assert_eq!(told, ["key-1", "key-new"]);
    assert_eq!(acknowledged_announcement(&cluster.state, node(1)), 0);
    assert!(!is_acknowledgement_awaited(&cluster.state, node(3), cluster.state.revision), "it sends nothing there");
    acknowledge(&mut cluster, 2);
    assert_eq!(acknowledged_announcement(&cluster.state, node(1)), 2);
    // Whoever comes later must say so, too.
    cluster.deploy(secret_stack(3));
    cluster.decide();
    assert!(cluster.state.networks["app_secret"].hosts.contains_key(&node(3)));
    assert_eq!(acknowledged_announcement(&cluster.state, node(1)), 0);
    acknowledge(&mut cluster, 3);
    assert_eq!(acknowledged_announcement(&cluster.state, node(1)), 2);
}

#[test]
fn who_is_not_heard_is_not_waited_for() {
    let mut cluster = cluster();
    announce(&mut cluster, 1, 2, &["key-1", "key-new"]);
    cluster.set_readiness(2, Readiness::Down);
    assert_eq!(acknowledged_announcement(&cluster.state, node(1)), 2);
    cluster.set_readiness(2, Readiness::Ready);
    assert_eq!(acknowledged_announcement(&cluster.state, node(1)), 0, "it is back, and knows the key when it says so");
}

#[test]
fn a_node_that_cannot_gets_no_task_and_the_reason_is_said() {
    let mut cluster = cluster();
    let unable = Some("no TUN".to_owned());
    describe(&mut cluster, 3, Some(NodeEncryption { unable, ..NodeEncryption::default() }));
    cluster.deploy(secret_stack(6));
    cluster.settle_over_time();
    assert!(cluster.state.tasks.values().filter(|task| task.is_active()).all(|task| task.node != node(3)));

    describe(&mut cluster, 1, None);
    describe(&mut cluster, 2, None);
    cluster.deploy(secret_stack(7));
    let plan = cluster.decide();
    let reasons = format!("{:?} {:?}", plan, cluster.state.services);
    assert!(reasons.contains("cannot be on its encrypted networks (no TUN)"), "{reasons}");
    assert!(reasons.contains("it has not said yet whether it can"), "{reasons}");
    // As soon as it can, it does.
    announce(&mut cluster, 3, 1, &["key-3"]);
    cluster.settle_over_time();
    assert_eq!(cluster.state.tasks.values().filter(|task| task.is_active() && task.node == node(3)).count(), 1);
}

#[test]
fn what_says_nothing_is_as_the_cluster_is_and_keys_are_told_on_encrypted_networks_alone() {
    let mut cluster = cluster();
    let made = |cluster: &mut Cluster, name: &str, encrypted: Option<bool>| {
        let spec = NetworkSpec { encrypted, ..NetworkSpec::default() };
        cluster.must(Command::PutNetwork { name: name.to_owned(), spec });
        cluster.state.networks[name].spec.encrypted
    };
    assert_eq!(made(&mut cluster, "one", None), Some(false));
    cluster.state.identity.as_mut().expect("a cluster").encrypts_networks = true;
    assert_eq!(made(&mut cluster, "two", None), Some(true));
    assert_eq!(made(&mut cluster, "three", Some(false)), Some(false));

    cluster.deploy(stack("plain", [("web", service("web"))]));
    cluster.state.identity.as_mut().expect("a cluster").encrypts_networks = false;
    cluster.deploy(stack("clear", [("web", service("web"))]));
    cluster.settle_over_time();
    let keys = |name: &str| {
        let document = network_document(&cluster.state, name).expect("the network");
        document.hosts.values().all(|host| host.keys.len() == 1)
    };
    assert!(keys("plain_default"));
    assert!(!keys("clear_default"));
}

#[test]
fn whether_a_network_is_encrypted_changes_only_while_nobody_is_on_it() {
    let mut cluster = cluster();
    let mut changed = secret_stack(2);
    changed.networks.get_mut("secret").expect("the network").encrypted = Some(false);
    let refused = cluster.refused(changed).to_string();
    assert!(refused.contains("app_secret"), "{refused}");
    let spec = NetworkSpec { encrypted: Some(false), ..NetworkSpec::default() };
    cluster.must(Command::PutNetwork { name: "made".to_owned(), spec: spec.clone() });
    let spec = NetworkSpec { encrypted: Some(true), ..spec };
    cluster.must(Command::PutNetwork { name: "made".to_owned(), spec });
    assert_eq!(cluster.state.networks["made"].spec.encrypted, Some(true));
}
