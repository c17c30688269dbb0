//! Controllers die: what was acknowledged is there, and containers do not notice.

use std::collections::BTreeSet;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use stack_testkit::namespaced::{NamespacedCluster, PATIENCE, text};

use crate::{cluster, disk, web};

fn leader(cluster: &NamespacedCluster) -> String {
    cluster.wait("leader", || {
        let output = cluster.stack(&["cluster", "info", "--format", "json"]);
        let view: Value = serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
        let leader = view["controllers"].as_array().and_then(|all| all.iter().find(|one| one["leader"] == true));
        leader.and_then(|leader| leader["name"].as_str()).map(str::to_owned).ok_or_else(|| view.to_string())
    })
}

fn inspect_node(cluster: &NamespacedCluster, node: &str) -> Value {
    cluster.wait("answer", || {
        let output = cluster.stack(&["inspect", node]);
        serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())
    })
}

#[test]
fn every_acknowledged_write_survives_the_leader() {
    let cluster = cluster(3, 3, &[]);
    let first = leader(&cluster);
    let mut acknowledged: BTreeSet<String> = BTreeSet::new();
    let mut after_death = 0;
    let until = std::time::Instant::now() + PATIENCE;
    for number in 0.. {
        if number == 10 {
            let daemon = cluster.host(&first).pid.expect("the daemon runs");
            kill(Pid::from_raw(daemon), Signal::SIGKILL).expect("killed");
        }
        let key = format!("write-{number}");
        let label = format!("{key}=yes");
        if cluster.stack(&["node", "label", "node1", &label]).status.success() {
            acknowledged.insert(key);
            after_death += usize::from(number > 10);
        }
        if after_death == 20 {
            break;
        }
        assert!(std::time::Instant::now() < until, "writes do not go on\n{}", cluster.logs());
    }
    assert_ne!(leader(&cluster), first);
    cluster.dev(&["restart", &first, "--daemon"]);
    let node = inspect_node(&cluster, "node1");
    let labels = node["labels"].as_object().expect("labels");
    let lost: Vec<&String> = acknowledged.iter().filter(|key| !labels.contains_key(*key)).collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    cluster.down();
}

#[test]
fn containers_go_on_without_any_controller_and_the_state_is_as_acknowledged() {
    let cluster = cluster(3, 3, &[]);
    let file = cluster.file("shop.yml", &web(3, "one"));
    cluster.stack_ok(&["deploy", &file]);
    let before = cluster.wait_ready("shop/web", 3);
    cluster.stack_ok(&["node", "label", "node1", "kept=yes"]);
    for host in cluster.hosts() {
        kill(Pid::from_raw(host.pid.expect("the daemon runs")), Signal::SIGKILL).expect("killed");
    }
    for host in cluster.hosts() {
        stack_testkit::namespaced::get((host.address, 8080), "/").expect("an answer without any daemon");
    }
    for host in cluster.hosts() {
        cluster.dev(&["restart", &host.name, "--daemon"]);
    }
    let node = inspect_node(&cluster, "node1");
    assert_eq!(node["labels"]["kept"], "yes", "{node:#}\n{}", cluster.logs());
    let after = cluster.wait_ready("shop/web", 3);
    let identity = |task: &Value| (task["id"].to_string(), task["pid"].to_string(), task["restarts"].to_string());
    let sorted = |tasks: &[Value]| -> BTreeSet<_> { tasks.iter().map(identity).collect() };
    assert_eq!(sorted(&before), sorted(&after), "the same processes serve on");
    cluster.down();
}

#[test]
fn a_full_disk_stops_a_controller_alone_and_it_takes_part_again_when_there_is_room() {
    let cluster = cluster(3, 3, &[]);
    disk::give_small_disk(&cluster, "node2");
    let file = cluster.file("shop.yml", &web(3, "one"));
    cluster.stack_ok(&["deploy", &file]);
    let before = cluster.wait_ready("shop/web", 3);
    let daemon = cluster.host("node2").pid;
    let filler = disk::fill(&cluster, "node2");
    let label = |name: &str| {
        cluster.wait("write", || {
            let output = cluster.stack(&["node", "label", "node1", &format!("{name}=yes")]);
            if output.status.success() { Ok(()) } else { Err(text(&output)) }
        });
    };
    // The others decide, more than there is room for in what the log had set aside.
    for number in 0..20 {
        label(&format!("full-{number}"));
        let large = format!(
            "name: large\nservices:\n  app:\n    image: busybox:test\n    scale: 0\n    environment: {{NUMBER: \"{number}\", VALUE: \"{}\"}}\n",
            "x".repeat(100_000)
        );
        let path = cluster.file("large.yml", &large);
        cluster.wait("large write", || {
            let output = cluster.stack(&["deploy", &path, "--detach"]);
            if output.status.success() { Ok(()) } else { Err(text(&output)) }
        });
    }
    // The host itself says why it does not, and all else of its daemon goes on.
    let socket = cluster.host("node2").stackd_socket;
    let ask = |arguments: &[&str]| {
        let mut command = cluster.command(arguments);
        command.env("STACK_SOCKET", &socket);
        command.output().expect("stack runs")
    };
    cluster.wait("refusal that says why", || {
        let output = ask(&["node", "ls"]);
        let said = text(&output);
        if said.contains("the controller of this host does not run now") && said.contains("No space left on device") {
            Ok(())
        } else {
            Err(said)
        }
    });
    assert_eq!(cluster.host("node2").pid, daemon, "{}", cluster.logs());
    let identity = |tasks: &[Value]| -> BTreeSet<_> {
        tasks.iter().map(|task| (task["id"].to_string(), task["pid"].to_string())).collect()
    };
    assert_eq!(identity(&before), identity(&cluster.wait_ready("shop/web", 3)), "{}", cluster.logs());

    // With room it takes part again: without it there would be no majority.
    filler.remove();
    cluster.wait("answer of its own", || {
        let output = ask(&["node", "ls"]);
        if output.status.success() { Ok(()) } else { Err(text(&output)) }
    });
    cluster.dev(&["kill", "node3"]);
    label("with-room");
    let node = inspect_node(&cluster, "node1");
    for name in ["full-0", "full-19", "with-room"] {
        assert_eq!(node["labels"][name], "yes", "{node:#}");
    }
    assert_eq!(cluster.host("node2").pid, daemon, "{}", cluster.logs());
    cluster.down();
}

#[test]
fn five_controllers_go_on_without_two_and_wait_for_a_majority() {
    let cluster = cluster(5, 5, &[]);
    let label = |name: &str| cluster.stack(&["node", "label", "node1", &format!("{name}=yes")]);
    let written = |name: &str| {
        cluster.wait("write", || {
            let output = label(name);
            if output.status.success() { Ok(()) } else { Err(text(&output)) }
        });
    };
    written("five");
    let end =
        |name: &str| kill(Pid::from_raw(cluster.host(name).pid.expect("it runs")), Signal::SIGKILL).expect("killed");
    // Two of them, whoever leads among them.
    let leads = leader(&cluster);
    let other = if leads == "node5" { "node4" } else { "node5" };
    for name in [leads.as_str(), other] {
        end(name);
    }
    written("three");
    let rest: Vec<String> =
        cluster.hosts().into_iter().map(|host| host.name).filter(|name| *name != leads && name != other).collect();
    end(&rest[2]);
    let refused = label("two");
    assert_eq!(refused.status.code(), Some(5), "{}", text(&refused));
    cluster.dev(&["restart", &rest[2], "--daemon"]);
    written("three-again");
    for name in [leads.as_str(), other] {
        cluster.dev(&["restart", name, "--daemon"]);
    }
    let node = inspect_node(&cluster, "node1");
    for name in ["five", "three", "three-again"] {
        assert_eq!(node["labels"][name], "yes", "{node:#}");
    }
    // The one that was not acknowledged may be there or not.
    cluster.down();
}
