//! Deploying, healing on the same host, updating.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use stack_testkit::namespaced::{get, text};

use crate::{cluster, web};

fn pid(task: &Value) -> Pid {
    Pid::from_raw(i32::try_from(task["pid"].as_i64().expect("it runs")).expect("a pid"))
}

fn parent(pid: Pid) -> Pid {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let after_name = stat.rsplit_once(')').expect("a name").1;
    Pid::from_raw(after_name.split_whitespace().nth(1).expect("a parent").parse().expect("a number"))
}

#[test]
fn a_stack_is_spread_heals_in_place_and_is_replaced_in_turn() {
    let cluster = cluster(3, 3, &[]);
    let file = cluster.file("shop.yml", &web(3, "one"));
    cluster.stack_ok(&["deploy", &file]);

    // Everything runs, spread over the hosts, and answers on each of them.
    let tasks = cluster.wait_ready("shop/web", 3);
    let nodes: BTreeSet<&str> = tasks.iter().filter_map(|task| task["node"].as_str()).collect();
    assert_eq!(nodes.len(), 3, "{tasks:#?}");
    cluster.wait_ready("shop/worker", 1);
    the_deploy_can_be_followed(&cluster, &tasks);
    for host in cluster.hosts() {
        let answer = cluster.wait("answer", || get((host.address, 8080), "/"));
        assert_eq!(answer.trim(), format!("one {}", host.name));
    }

    // The container's process dies: again on the same host, and counted. Its shim dies: the same.
    let first = &tasks[0];
    for (victim, restarts) in [(pid(first), 1), (Pid::from_raw(0), 2)] {
        let victim = if victim.as_raw() == 0 {
            let now = cluster.wait_ready("shop/web", 3);
            let same = now.iter().find(|task| task["id"] == first["id"]).expect("the task stays");
            parent(pid(same))
        } else {
            victim
        };
        kill(victim, Signal::SIGKILL).expect("killed");
        cluster.wait("restart on the same host", || {
            let tasks = cluster.tasks("shop/web");
            let same = tasks.iter().find(|task| task["id"] == first["id"]);
            match same {
                Some(task) if task["restarts"] == restarts && task["ready"] == true => {
                    assert_eq!(task["node"], first["node"]);
                    Ok(())
                }
                other => Err(format!("{other:?}")),
            }
        });
    }

    // The local socket of a controller serves the same as the network.
    let socket = cluster.host("node2").stackd_socket.display().to_string();
    for arguments in [&["node", "label", "node1", "by=socket"][..], &["deploy", &file], &["inspect", "node1"]] {
        let mut all = vec!["--socket", socket.as_str()];
        all.extend(arguments);
        cluster.stack_ok(&all);
    }

    // The same file: no change at all.
    let before = inspect(&cluster);
    let ids = |tasks: Vec<Value>| -> BTreeSet<String> { tasks.iter().map(|task| task["id"].to_string()).collect() };
    let tasks_before = ids(cluster.tasks("shop/web"));
    assert!(cluster.stack_ok(&["plan", &file]).contains("no change"));
    let response = cluster.json(&["deploy", &file]);
    assert_eq!(response["changed"], false);
    assert_eq!(inspect(&cluster)["stack"]["revision"], before["stack"]["revision"]);
    assert_eq!(ids(cluster.tasks("shop/web")), tasks_before);

    // A broken file: a diagnostic with its place, and nothing changed.
    let broken = cluster.file("broken.yml", &web(3, "two").replace("  worker:\n    image:", "  worker:\n    imag:"));
    let output = cluster.stack(&["deploy", &broken]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    let story = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(story.contains("imag") && story.contains("image") && story.contains("broken.yml"), "{story}");
    assert_eq!(inspect(&cluster)["stack"]["revision"], before["stack"]["revision"]);

    // A changed file: one after the other, never two away at once.
    let changed = cluster.file("changed.yml", &web(3, "two"));
    let plan = cluster.json(&["plan", &changed]);
    assert_eq!(plan["changed"], true);
    let hosts = cluster.hosts();
    let stop = Arc::new(AtomicBool::new(false));
    let most_away = Arc::new(AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let ready = cluster.tasks("shop/web").iter().filter(|task| task["ready"] == true).count();
                most_away.fetch_max(3_usize.saturating_sub(ready), Ordering::Relaxed);
            }
        });
        let output = cluster.stack(&["deploy", &changed]);
        stop.store(true, Ordering::Relaxed);
        assert!(output.status.success(), "{}\n{}", text(&output), cluster.logs());
    });
    assert!(most_away.load(Ordering::Relaxed) <= 1, "{} replicas were away at once", most_away.load(Ordering::Relaxed));
    for host in &hosts {
        let answer = cluster.wait("answer of the new version", || match get((host.address, 8080), "/") {
            Ok(answer) if answer.starts_with("two") => Ok(answer),
            other => Err(format!("{other:?}")),
        });
        assert_eq!(answer.trim(), format!("two {}", host.name));
    }

    // Logs of all hosts, merged; scaled up and down; removed.
    let logs = cluster.stack_ok(&["logs", "shop/web"]);
    for host in &hosts {
        assert!(logs.contains(&format!("@{} | serving", host.name)), "{logs}");
    }
    cluster.stack_ok(&["scale", "shop/worker=3"]);
    cluster.wait_ready("shop/worker", 3);
    cluster.stack_ok(&["scale", "shop/worker=1"]);
    cluster.wait_ready("shop/worker", 1);
    cluster.stack_ok(&["rm", "shop"]);
    assert_eq!(cluster.json(&["ps"]).as_array().map(Vec::len), Some(0));
    assert_eq!(cluster.stack(&["inspect", "shop"]).status.code(), Some(6));
    cluster.down();
}

/// The id of the deploy's request is in what every host's agent did for it.
fn the_deploy_can_be_followed(cluster: &stack_testkit::namespaced::NamespacedCluster, tasks: &[Value]) {
    let logs = cluster.logs();
    let deploy = logs
        .lines()
        .find(|line| line.contains("path=\"/v1/stacks/shop\"") && line.contains("answered"))
        .unwrap_or_else(|| panic!("the deploy is logged:\n{logs}"));
    let id = deploy.split("request{id=").nth(1).and_then(|rest| rest.split(' ').next()).expect("an id");
    for task in tasks {
        let task = task["id"].as_str().expect("an id");
        for step in ["create", "start"] {
            let is_it = |line: &str| {
                line.contains(&format!("task{{id={task}"))
                    && line.contains(&format!("step=\"{step}\""))
                    && line.contains(&format!("request={id}"))
            };
            assert!(logs.lines().any(is_it), "no `{step}` of {task} for request {id}:\n{logs}");
        }
    }
}

#[test]
fn a_failing_deploy_says_why_and_shows_the_last_lines() {
    let cluster = cluster(1, 1, &[]);
    let file = cluster.file(
        "bad.yml",
        r#"name: bad
services:
  app:
    image: busybox:test
    command: ["sh", "-c", "echo cannot find the flux capacitor; exit 3"]
"#,
    );
    let output = cluster.stack(&["deploy", &file]);
    assert_eq!(output.status.code(), Some(4), "{}", text(&output));
    let story = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(story.contains("cannot find the flux capacitor") && story.contains("exit code 3"), "{story}");
    cluster.down();
}

fn inspect(cluster: &stack_testkit::namespaced::NamespacedCluster) -> Value {
    serde_json::from_str(&cluster.stack_ok(&["inspect", "shop"])).expect("JSON")
}
