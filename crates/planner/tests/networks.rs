//! What the planner promises of the networks between hosts, one example each.

#![allow(clippy::expect_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::net::IpAddr;

use stack_model::spec::{EndpointMode, NetworkAttachment, NetworkSpec};
use stack_model::{Availability, DesiredState, Draining, EndpointState, NetworkDocument, Readiness, StackSpec, Task};
use stack_planner::{Change, Command, Rejected, assignment, network_document};
use stack_testkit::cluster::{Cluster, GIB, node};
use stack_testkit::specs::{Service, key, service, stack, stack_name};

fn on(service: Service, networks: &[&str]) -> Service {
    service.with(|spec| {
        spec.networks = networks.iter().map(|name| ((*name).to_owned(), NetworkAttachment::default())).collect();
    })
}

fn with_network(mut stack: StackSpec, name: &str, change: impl FnOnce(&mut NetworkSpec)) -> StackSpec {
    change(stack.networks.entry(name.to_owned()).or_default());
    stack
}

fn running(nodes: u64, spec: StackSpec) -> Cluster {
    let mut cluster = Cluster::of_nodes(nodes);
    cluster.deploy(spec);
    cluster.settle_over_time();
    cluster
}

fn document(cluster: &Cluster, name: &str) -> NetworkDocument {
    network_document(&cluster.state, name).expect("the network")
}

fn addresses(task: &Task, network: &str) -> Vec<String> {
    task.addresses[network].iter().map(ToString::to_string).collect()
}

fn refused(cluster: &mut Cluster, spec: StackSpec) -> String {
    cluster.refused(spec).to_string()
}

#[test]
fn a_service_without_networks_is_on_the_stacks_default_network() {
    let cluster = running(2, stack("app", [("web", service("web").replicas(2)), ("db", service("db"))]));
    let document = document(&cluster, "app_default");
    assert_eq!(document.hosts.len(), 2);
    assert_eq!(document.endpoints.len(), 3);
    assert!(document.endpoints.values().all(|endpoint| endpoint.state == EndpointState::Serving));
    assert_eq!(document.services[&key("app/web")].names, BTreeSet::from(["web".to_owned()]));
    let network = &cluster.state.networks["app_default"];
    assert_eq!(network.subnets[0].to_string(), "10.72.0.0/22");
    assert_eq!(network.capacity(), 1022);
}

#[test]
fn everybody_on_a_network_has_an_address_of_its_own() {
    let cluster = running(3, stack("app", [("web", service("web").replicas(20))]));
    let document = document(&cluster, "app_default");
    let all: Vec<IpAddr> = document
        .hosts
        .values()
        .flat_map(|host| &host.addresses)
        .chain(document.endpoints.values().flat_map(|endpoint| &endpoint.addresses))
        .chain(document.services.values().flat_map(|service| &service.addresses))
        .copied()
        .collect();
    assert_eq!(all.len(), 3 + 20 + 1);
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
}

#[test]
fn networks_have_subnets_and_numbers_of_their_own_and_a_removed_one_gives_its_subnet_back() {
    let mut cluster = Cluster::of_nodes(1);
    for name in ["one", "two"] {
        cluster.deploy(stack(name, [("web", service("web"))]));
    }
    cluster.settle();
    let of = |cluster: &Cluster, name: &str| {
        let network = &cluster.state.networks[name];
        (network.subnets[0].to_string(), network.vni)
    };
    assert_eq!(of(&cluster, "one_default"), ("10.72.0.0/22".to_owned(), 4097));
    assert_eq!(of(&cluster, "two_default"), ("10.72.4.0/22".to_owned(), 4098));
    cluster.must(Command::RemoveStack { stack: stack_name("one") });
    cluster.settle_over_time();
    assert!(!cluster.state.networks.contains_key("one_default"));
    cluster.deploy(stack("three", [("web", service("web"))]));
    // A number that hosts may still remember is not given to another network soon.
    assert_eq!(of(&cluster, "three_default"), ("10.72.0.0/22".to_owned(), 4099));
}

#[test]
fn a_virtual_address_stays_through_rollouts_and_the_death_of_hosts() {
    let mut cluster = running(3, stack("app", [("web", service("web").replicas(3))]));
    let before = document(&cluster, "app_default").services[&key("app/web")].addresses.clone();
    cluster.deploy(stack("app", [("web", service("web").replicas(2).command(&["v2"]))]));
    cluster.settle_over_time();
    cluster.set_readiness(1, Readiness::Down);
    cluster.settle_over_time();
    assert_eq!(document(&cluster, "app_default").services[&key("app/web")].addresses, before);
}

#[test]
fn only_hosts_with_a_task_on_a_network_are_on_it_unless_it_publishes() {
    let mut cluster = running(3, stack("app", [("web", service("web").replicas(1))]));
    assert_eq!(document(&cluster, "app_default").hosts.len(), 1);
    assert_eq!((1..=3).filter(|number| !assignment(&cluster.state, node(*number)).networks.is_empty()).count(), 1);
    cluster.deploy(stack("app", [("web", service("web").replicas(1).publish(80, Some(8080)))]));
    cluster.settle_over_time();
    let document = document(&cluster, "app_default");
    assert_eq!(document.hosts.len(), 3);
    assert_eq!(document.services[&key("app/web")].published.len(), 1);
    cluster.join(4, 4_000, 8 * GIB);
    assert!(assignment(&cluster.state, node(4)).networks.contains_key("app_default"));
    cluster.deploy(stack("app", [("web", service("web").replicas(1))]));
    cluster.settle_over_time();
    assert!(!assignment(&cluster.state, node(4)).networks.contains_key("app_default"));
}

#[test]
fn a_task_that_serves_ends_only_once_every_host_has_said_that_it_sends_it_nothing_new() {
    let mut cluster = running(3, stack("app", [("web", service("web").replicas(3))]));
    cluster.must(Command::Scale { replicas: [(key("app/web"), 2)].into() });
    cluster.decide();
    let draining: Vec<Task> = cluster.state.draining().cloned().collect();
    let [task] = draining.as_slice() else { panic!("one task drains: {draining:?}") };
    assert_eq!(document(&cluster, "app_default").endpoints[&task.id].state, EndpointState::Draining);
    let told = |cluster: &Cluster| assignment(&cluster.state, task.node).tasks[&task.id].desired;
    assert_eq!(told(&cluster), DesiredState::Running);
    let revision = cluster.state.revision;
    for number in [1, 2] {
        cluster.must(Command::AcknowledgeNetworks { node: node(number), revision });
        assert!(cluster.decide().is_empty());
        assert_eq!(told(&cluster), DesiredState::Running);
    }
    cluster.must(Command::AcknowledgeNetworks { node: node(3), revision });
    cluster.decide();
    assert_eq!(told(&cluster), DesiredState::Stopped);
}

#[test]
fn a_host_that_does_not_answer_is_not_waited_for_long_and_one_that_is_down_not_at_all() {
    let mut cluster = running(3, stack("app", [("web", service("web").replicas(3))]));
    cluster.must(Command::Scale { replicas: [(key("app/web"), 2)].into() });
    let rest = cluster.decide();
    assert_eq!(rest.wake_at.map(|at| at.since(cluster.now)), Some(Draining::LONGEST));
    cluster.pass(Draining::LONGEST.0);
    assert!(matches!(cluster.plan().changes.as_slice(), [Change::ReleaseTask { .. }]));

    let mut cluster = running(3, stack("app", [("web", service("web").replicas(2))]));
    let with_tasks: Vec<_> = cluster.active("app/web").iter().map(|task| task.node).collect();
    let number = (1..=3).find(|number| with_tasks.contains(&node(*number))).expect("a node with a task");
    let other = (1..=3).find(|other| *other != number && with_tasks.contains(&node(*other))).expect("another");
    cluster.set_availability(3, Availability::Drain);
    cluster.must(Command::RemoveStack { stack: stack_name("app") });
    cluster.decide();
    cluster.set_readiness(number, Readiness::Down);
    let revision = cluster.state.revision;
    cluster.must(Command::AcknowledgeNetworks { node: node(other), revision });
    assert!(cluster.plan().changes.iter().any(|change| matches!(change, Change::ReleaseTask { .. })));
}

#[test]
fn a_task_that_never_served_ends_at_once() {
    let mut cluster = Cluster::of_nodes(1);
    cluster.deploy(stack("app", [("web", service("web").healthcheck())]));
    cluster.decide();
    cluster.must(Command::RemoveStack { stack: stack_name("app") });
    cluster.decide();
    assert!(cluster.state.draining().next().is_none());
    assert!(assignment(&cluster.state, node(1)).tasks.values().all(|task| task.desired == DesiredState::Stopped));
}

#[test]
fn a_network_has_ipv6_where_that_is_asked_for() {
    let spec = with_network(stack("app", [("web", on(service("web"), &["net"]))]), "net", |net| net.ipv6 = true);
    let cluster = running(1, spec);
    let subnets: Vec<String> = cluster.state.networks["app_net"].subnets.iter().map(ToString::to_string).collect();
    assert_eq!(subnets[0], "10.72.0.0/22");
    assert!(subnets[1].starts_with("fd") && subnets[1].ends_with(":1001::/64"), "{subnets:?}");
    let task = &cluster.active("app/web")[0];
    let addresses = addresses(task, "app_net");
    assert_eq!(addresses.len(), 2);
    assert!(addresses[0].starts_with("10.72.0.") && addresses[1].starts_with("fd"), "{addresses:?}");
}

#[test]
fn a_network_without_ipv4_has_ipv6_alone() {
    let app = |given: &str| {
        let spec = stack("app", [("web", on(service("web"), &["net"]))]);
        with_network(spec, "net", |net| {
            net.without_ipv4 = true;
            net.subnets.extend(given.parse::<ipnet::IpNet>());
        })
    };
    let mut cluster = running(2, app(""));
    let subnets: Vec<String> = cluster.state.networks["app_net"].subnets.iter().map(ToString::to_string).collect();
    assert!(subnets.len() == 1 && subnets[0].starts_with("fd") && subnets[0].ends_with("::/64"), "{subnets:?}");
    let addresses = addresses(&cluster.active("app/web")[0], "app_net");
    assert!(addresses.len() == 1 && addresses[0].starts_with("fd"), "{addresses:?}");
    assert_eq!(
        refused(&mut cluster, with_name(app("10.9.0.0/24"), "other")),
        "network `other_net`: subnet 10.9.0.0/24 is of IPv4, which the network is without: leave one of the two out"
    );
    let given = running(1, app("fd00:77::/64"));
    assert_eq!(given.state.networks["app_net"].subnets, ["fd00:77::/64".parse().expect("a subnet")]);
}

fn with_name(mut spec: StackSpec, name: &str) -> StackSpec {
    spec.name = stack_name(name);
    spec
}

#[test]
fn a_given_subnet_is_taken_unless_it_meets_another() {
    let given = |name: &str, subnet: &str| {
        let spec = stack(name, [("web", on(service("web"), &["net"]))]);
        with_network(spec, "net", |net| net.subnets.push(subnet.parse().expect("a subnet")))
    };
    let mut cluster = running(2, given("app", "192.168.40.0/24"));
    assert_eq!(cluster.state.networks["app_net"].subnets[0].to_string(), "192.168.40.0/24");
    assert_eq!(
        refused(&mut cluster, given("other", "192.168.40.128/25")),
        "network `other_net`: subnet 192.168.40.128/25 meets that of network `app_net` (192.168.40.0/24): choose another"
    );
    assert_eq!(
        refused(&mut cluster, given("other", "10.9.9.9/32")),
        "network `other_net`: subnet 10.9.9.9/32 has no address for a host and a task: choose a larger one"
    );
    let on_lan = cluster.state.nodes[&node(2)].clone();
    let mut description = on_lan.description.clone();
    description.routes.push("10.20.0.0/16".parse().expect("a route"));
    description.routes.push("10.72.0.0/21".parse().expect("a route"));
    cluster.must(Command::DescribeNode { id: node(2), address: on_lan.address, description });
    assert_eq!(
        refused(&mut cluster, given("other", "10.20.30.0/24")),
        format!(
            "network `other_net`: subnet 10.20.30.0/24 meets what node `{}` reaches otherwise (10.20.0.0/16): choose another",
            on_lan.name
        )
    );
    cluster.deploy(stack("other", [("web", service("web"))]));
    assert_eq!(cluster.state.networks["other_default"].subnets[0].to_string(), "10.72.8.0/22", "past the host's route");
    assert_eq!(
        refused(&mut cluster, given("app", "192.168.41.0/24")),
        "network `app_net` has 1 tasks on it: its subnets can be changed, and it can be removed, once it has none"
    );
}

#[test]
fn a_full_network_is_why_a_task_has_no_place() {
    let spec = |replicas| {
        let spec = stack("app", [("web", on(service("web").replicas(replicas), &["net"]))]);
        with_network(spec, "net", |net| net.subnets.push("192.168.40.0/29".parse().expect("a subnet")))
    };
    let mut cluster = running(1, spec(3));
    assert_eq!(cluster.ready("app/web"), 3);
    cluster.deploy(spec(6));
    cluster.settle();
    assert_eq!(cluster.unplaced("app/web"), "network `app_net` has no free address: all 6 are taken");
    cluster.deploy(spec(3));
    cluster.settle_over_time();
    assert_eq!(cluster.ready("app/web"), 3);
}

#[test]
fn a_given_address_goes_to_the_only_task_and_from_one_to_the_next() {
    let at = |address: &str, version: &str, replicas| {
        let web = on(service("web").replicas(replicas).command(&[version]), &["net"]).with(|spec| {
            let attachment = spec.networks.get_mut("net").expect("the network");
            attachment.address = Some(address.parse().expect("an address"));
        });
        let spec = stack("app", [("web", web), ("db", on(service("db").replicas(8), &["net"]))]);
        with_network(spec, "net", |net| net.subnets.push("192.168.40.0/24".parse().expect("a subnet")))
    };
    let mut cluster = running(2, at("192.168.40.5", "v1", 1));
    assert_eq!(addresses(&cluster.active("app/web")[0], "app_net"), ["192.168.40.5"]);
    assert!(cluster.active("app/db").iter().all(|task| addresses(task, "app_net") != ["192.168.40.5"]));
    cluster.deploy(at("192.168.40.5", "v2", 1));
    cluster.settle_over_time();
    let task = &cluster.active("app/web")[0];
    assert_eq!(task.spec.container.command.as_deref(), Some(&["v2".to_owned()][..]));
    assert_eq!(addresses(task, "app_net"), ["192.168.40.5"]);
    for (spec, reason) in [
        (at("192.168.41.5", "v2", 1), "network `net` has the addresses of 192.168.40.0/24"),
        (at("192.168.40.5", "v2", 2), "only a service of one replica can have it"),
    ] {
        let Rejected::AddressRefused { reason: said, .. } = cluster.refused(spec) else { panic!("refused otherwise") };
        assert_eq!(said, reason);
    }
}

#[test]
fn an_external_network_must_exist_and_outlives_the_stack() {
    let spec = || {
        with_network(stack("app", [("web", on(service("web"), &["shared"]))]), "shared", |net| {
            net.external = true;
            net.name = Some("shared".to_owned());
        })
    };
    let mut cluster = Cluster::of_nodes(1);
    assert_eq!(
        refused(&mut cluster, spec()),
        "there is no network `shared`, and the stack says that it exists: make it with `stack network create`"
    );
    cluster.must(Command::PutNetwork { name: "shared".to_owned(), spec: NetworkSpec::default() });
    cluster.deploy(spec());
    cluster.settle();
    assert_eq!(document(&cluster, "shared").endpoints.len(), 1);
    assert!(matches!(
        cluster.apply(Command::RemoveNetwork { name: "shared".to_owned() }),
        Err(Rejected::NetworkInUse { .. })
    ));
    cluster.must(Command::RemoveStack { stack: stack_name("app") });
    cluster.settle_over_time();
    assert!(document(&cluster, "shared").endpoints.is_empty());
    cluster.must(Command::RemoveNetwork { name: "shared".to_owned() });
}

#[test]
fn a_network_of_another_stack_is_not_taken_over() {
    let spec = |name: &str| {
        with_network(stack(name, [("web", on(service("web"), &["net"]))]), "net", |net| {
            net.name = Some("common".to_owned());
        })
    };
    let mut cluster = running(1, spec("one"));
    assert_eq!(
        refused(&mut cluster, spec("two")),
        "network `common` belongs to stack `one`: give this one another `name`, or say `external: true` to share it"
    );
}

#[test]
fn what_a_network_is_told_of_a_service() {
    let web = on(service("web").publish(80, Some(8080)), &["back", "front"]).with(|spec| {
        spec.endpoint_mode = EndpointMode::Dnsrr;
        spec.networks.insert(
            "front".to_owned(),
            NetworkAttachment { aliases: vec!["www".to_owned()], ..NetworkAttachment::default() },
        );
    });
    let spec = with_network(stack("app", [("web", web)]), "back", |net| net.internal = true);
    let spec = with_network(spec, "front", |_| {});
    let cluster = running(2, spec);
    let (back, front) = (document(&cluster, "app_back"), document(&cluster, "app_front"));
    let (back, front) = (&back.services[&key("app/web")], &front.services[&key("app/web")]);
    assert_eq!(front.endpoint_mode, EndpointMode::Dnsrr);
    assert_eq!(front.names, BTreeSet::from(["web".to_owned(), "www".to_owned()]));
    assert_eq!(back.names, BTreeSet::from(["web".to_owned()]));
    assert_eq!((back.published.len(), front.published.len()), (0, 1), "an internal network publishes nothing");
    assert_eq!((document(&cluster, "app_back").hosts.len(), document(&cluster, "app_front").hosts.len()), (1, 2));
}

#[test]
fn a_host_whose_tasks_cannot_be_heard_of_is_sent_nothing_new() {
    let mut cluster = running(2, stack("app", [("web", service("web").replicas(2).at_most_per_node(1))]));
    let before = document(&cluster, "app_default").generation;
    cluster.set_readiness(2, Readiness::Down);
    let document = document(&cluster, "app_default");
    assert!(document.generation > before);
    let serving: Vec<_> = document.serving(&key("app/web")).map(|endpoint| endpoint.node).collect();
    assert_eq!(serving, [node(1)]);
}
