//! What dies: a daemon, a host, the network between hosts.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use stack_testkit::namespaced::{NamespacedCluster, get, text};

use crate::container::asked;
use crate::{cluster, web};

fn task_on(cluster: &NamespacedCluster, service: &str, node: &str) -> Option<Value> {
    cluster.tasks(service).into_iter().find(|task| task["node"] == node)
}

#[test]
fn containers_outlive_their_daemon_and_their_ends_are_known() {
    let cluster = cluster(1, 1, &[]);
    let once = r#"  once:
    image: busybox:test
    command: ["sh", "-c", "trap 'exit 7' TERM; echo waiting; while true; do sleep 0.1; done"]
    deploy:
      restart_policy: {condition: none}
"#;
    let file = cluster.file("shop.yml", &format!("{}{once}", web(1, "one")));
    cluster.stack_ok(&["deploy", &file]);
    let web_before = cluster.wait_ready("shop/web", 1).remove(0);
    let worker_before = cluster.wait_ready("shop/worker", 1).remove(0);
    let once_before = cluster.wait_ready("shop/once", 1).remove(0);
    let host = cluster.host("node1");

    let daemon = Pid::from_raw(host.pid.expect("the daemon runs"));
    kill(daemon, Signal::SIGKILL).expect("killed");
    let once_pid = Pid::from_raw(i32::try_from(once_before["pid"].as_i64().expect("a pid")).expect("a pid"));
    kill(once_pid, Signal::SIGTERM).expect("asked to end");
    cluster.wait("end of the container without a daemon", || {
        if std::path::Path::new(&format!("/proc/{once_pid}")).exists() { Err("still there") } else { Ok(()) }
    });
    // It serves on without a daemon.
    get((host.address, 8080), "/").expect("an answer");

    cluster.dev(&["restart", "node1", "--daemon"]);
    let ended =
        cluster.wait("the exit code of what ended meanwhile", || match task_on(&cluster, "shop/once", "node1") {
            Some(task) if task["state"] == "failed" => Ok(task),
            other => Err(format!("{other:?}")),
        });
    assert_eq!(ended["exit_code"], 7, "{ended:#}");
    let web_after = cluster.wait_ready("shop/web", 1).remove(0);
    assert_eq!(web_after["pid"], web_before["pid"], "the same process serves on");
    assert_eq!(web_after["restarts"], 0);
    let worker_after = cluster.wait_ready("shop/worker", 1).remove(0);
    assert_eq!(worker_after["pid"], worker_before["pid"]);

    // The log has no gap: the rounds are counted one by one.
    let logs = cluster.stack_ok(&["logs", "shop/worker", "--no-prefix"]);
    let rounds: Vec<u64> = logs.lines().filter_map(|line| line.strip_prefix("round ")?.parse().ok()).collect();
    assert!(!rounds.is_empty() && rounds.iter().copied().eq(1..=rounds.len() as u64), "{rounds:?}");
    cluster.down();
}

#[test]
fn a_dead_hosts_tasks_run_elsewhere_and_are_not_doubled_when_it_returns() {
    let cluster = cluster(3, 3, &[]);
    let file = cluster.file("shop.yml", &web(3, "one"));
    cluster.stack_ok(&["deploy", &file]);
    cluster.wait_ready("shop/web", 3);
    cluster.dev(&["kill", "node3"]);
    cluster.wait("the tasks on the other hosts", || {
        let tasks = cluster.tasks("shop/web");
        let ready = tasks.iter().filter(|task| task["ready"] == true && task["node"] != "node3").count();
        if ready == 3 { Ok(()) } else { Err(format!("{tasks:#?}")) }
    });
    cluster.dev(&["restart", "node3"]);
    cluster.wait("the host without what was moved away", || {
        let nodes = cluster.json(&["node", "ls"]);
        let node = nodes.as_array().expect("nodes").iter().find(|node| node["name"] == "node3").cloned();
        let is_ready = node.as_ref().is_some_and(|node| node["readiness"] == "ready");
        let containers = containers_of(&cluster, "node3");
        if is_ready && containers == 0 { Ok(()) } else { Err(format!("{node:?}, {containers} containers")) }
    });
    assert_eq!(cluster.wait_ready("shop/web", 3).len(), 3);
    cluster.down();
}

/// How many processes run in containers of a host, counted by its cgroup.
fn containers_of(cluster: &NamespacedCluster, host: &str) -> usize {
    let root = format!("/sys/fs/cgroup/pids/stack-dev/{}/{host}/containers", cluster.name());
    let unified = format!("/sys/fs/cgroup/stack-dev/{}/{host}/containers", cluster.name());
    let mut count = 0;
    let mut folders = vec![std::path::PathBuf::from(root), std::path::PathBuf::from(unified)];
    while let Some(folder) = folders.pop() {
        if let Ok(members) = std::fs::read_to_string(folder.join("cgroup.procs")) {
            count += members.lines().count();
        }
        let entries = std::fs::read_dir(&folder).into_iter().flatten().filter_map(Result::ok);
        folders.extend(entries.map(|entry| entry.path()).filter(|path| path.is_dir()));
    }
    count
}

#[test]
fn a_partition_moves_tasks_once_and_heals_without_doubles_or_lost_writes() {
    let cluster = cluster(3, 3, &[]);
    let file = cluster.file("shop.yml", &web(3, "one"));
    cluster.stack_ok(&["deploy", &file]);
    let before = cluster.wait_ready("shop/web", 3);
    cluster.dev(&["partition", "node2"]);
    cluster.wait("the tasks beyond the partition", || {
        let tasks = cluster.tasks("shop/web");
        let ready = tasks.iter().filter(|task| task["ready"] == true && task["node"] != "node2").count();
        if ready == 3 { Ok(()) } else { Err(format!("{tasks:#?}")) }
    });
    // A write on the side of the majority.
    cluster.stack_ok(&["node", "label", "node1", "written=yes"]);
    let moved = cluster.tasks("shop/web");
    cluster.dev(&["heal", "node2"]);
    cluster.wait("the healed host without what was moved away", || {
        let containers = containers_of(&cluster, "node2");
        if containers == 0 { Ok(()) } else { Err(format!("{containers} processes")) }
    });
    let after = cluster.wait_ready("shop/web", 3);
    let id = |task: &Value| task["id"].to_string();
    let stayed = after.iter().filter(|task| moved.iter().any(|other| id(other) == id(task))).count();
    assert_eq!(stayed, 3, "healing moved tasks: {moved:#?} {after:#?}");
    let kept = after.iter().filter(|task| before.iter().any(|other| id(other) == id(task))).count();
    assert_eq!(kept, 2, "tasks that were not cut off were touched");
    let printed = cluster.stack_ok(&["inspect", "node1"]);
    let node: Value = serde_json::from_str(&printed).expect("JSON");
    let label = &node["labels"]["written"];
    assert_eq!(label, "yes");
    cluster.down();
}

/// The address of a host is data, not identity: its daemon is told another one, and is the same member.
#[test]
fn a_host_that_is_renumbered_is_found_again() {
    let cluster = cluster(3, 1, &[]);
    let file = r#"name: moving
services:
  web:
    image: busybox:test
    init: true
    command: ["sh", "-c", "hostname > /www/index.html; exec httpd -f -p 8080 -h /www"]
    deploy: {mode: global}
"#;
    cluster.stack_ok(&["deploy", &cluster.file("moving.yml", file)]);
    let before = cluster.wait_ready("moving/web", 3);
    let host = cluster.host("node3");
    let daemon = host.pid.expect("it runs").to_string();
    let mut octets = host.address.octets();
    octets[3] += 100;
    let (old, new) = (host.address.to_string(), Ipv4Addr::from(octets).to_string());

    // Both addresses for a moment, as an operator would do it.
    let inside = |daemon: &str, command: &str| {
        let output = Command::new("nsenter").args(["--net", "--target", daemon, "sh", "-c", command]).output();
        let output = output.expect("a shell runs");
        assert!(output.status.success(), "{command}: {}", text(&output));
    };
    inside(
        &daemon,
        &format!("echo 1 > /proc/sys/net/ipv4/conf/eth0/promote_secondaries; ip address add {new}/24 dev eth0"),
    );
    let settings = cluster.host_directory("node3").join("stackd.toml");
    let written = std::fs::read_to_string(&settings).expect("settings");
    assert!(written.contains(&old), "{written}");
    std::fs::write(&settings, written.replace(&old, &new)).expect("written");
    let task = before.iter().find(|task| task["node"] == "node3").expect("a task").clone();
    cluster.dev(&["restart", "node3", "--daemon"]);
    let daemon = cluster.host("node3").pid.expect("it runs").to_string();
    inside(&daemon, &format!("ip address delete {old}/24 dev eth0"));

    cluster.wait("the new address", || {
        let nodes = cluster.json(&["node", "ls"]);
        let node = nodes.as_array().and_then(|nodes| nodes.iter().find(|node| node["name"] == "node3")).cloned();
        match node {
            Some(node)
                if node["address"].as_str().is_some_and(|address| address.starts_with(&new))
                    && node["readiness"] == "ready" =>
            {
                Ok(())
            }
            other => Err(format!("{other:?}")),
        }
    });
    let after = cluster.wait_ready("moving/web", 3);
    let moved = after.iter().find(|task| task["node"] == "node3").expect("a task");
    assert_eq!((&moved["id"], &moved["pid"]), (&task["id"], &task["pid"]), "its container went on");
    // From its container to the others, and from the others to it.
    let network: Value =
        serde_json::from_str(&cluster.stack_ok(&["network", "inspect", "moving_default"])).expect("JSON");
    for client in &after {
        for server in network["tasks"].as_array().expect("tasks") {
            let address = server["addresses"][0].as_str().expect("an address");
            let address = SocketAddr::new(address.parse().expect("an address"), 8080);
            cluster.wait("an answer", || {
                asked(client, address).map_err(|error| format!("{} to {address}: {error}", client["node"]))
            });
        }
    }
    cluster.down();
}
