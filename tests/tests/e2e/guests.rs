//! Containers that belong to no stack on attachable networks: run by the Docker CLI on several hosts.

use std::net::IpAddr;
use std::process::{Command, Output};

use serde_json::Value;
use stack_testkit::namespaced::{NamespacedCluster, text};

use crate::cluster;

fn docker(cluster: &NamespacedCluster, host: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new("docker");
    command.args(arguments).env("DOCKER_HOST", cluster.host(host).docker_host).env_remove("DOCKER_CONTEXT");
    command.output().expect("the Docker CLI runs")
}

fn fine(cluster: &NamespacedCluster, host: &str, arguments: &[&str]) -> String {
    let output = docker(cluster, host, arguments);
    assert!(output.status.success(), "on {host}: docker {arguments:?}: {}\n{}", text(&output), cluster.logs());
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn fails(cluster: &NamespacedCluster, host: &str, arguments: &[&str]) -> String {
    let output = docker(cluster, host, arguments);
    assert!(!output.status.success(), "on {host}: docker {arguments:?} did not fail: {}", text(&output));
    String::from_utf8(output.stderr).expect("UTF-8")
}

/// What a page says that a container asks for.
fn page(cluster: &NamespacedCluster, host: &str, container: &str, url: &str) -> Result<String, String> {
    let pid = text_of(&docker(cluster, host, &["inspect", "--format", "{{.State.Pid}}", container]))?;
    ask(&pid, url)
}

/// What a page says that is asked for in the namespaces of a process. The name is looked up by itself.
fn ask(pid: &str, url: &str) -> Result<String, String> {
    let name = url.trim_start_matches("http://").trim_end_matches(":8080/");
    let address = match name.parse::<IpAddr>() {
        Ok(address) => address,
        Err(_) => {
            let said = within(pid, &["nslookup", name])?;
            let answer = said.split_once("\n\n").map_or("", |(_server, answer)| answer);
            let mut lines = answer.lines().filter_map(|line| line.strip_prefix("Address"));
            let found = lines.find_map(|line| line.split_whitespace().find_map(|word| word.parse().ok()));
            found.ok_or_else(|| format!("no address: {said}"))?
        }
    };
    within(pid, &["wget", "-q", "-O", "-", &format!("http://{address}:8080/")])
}

/// What a command says in the namespaces of a process.
fn within(pid: &str, command: &[&str]) -> Result<String, String> {
    let inside = ["5", "nsenter", "--target", pid, "--mount", "--net", "--", "/bin/busybox"];
    text_of(&Command::new("timeout").args(inside).args(command).output().expect("it runs"))
}

fn text_of(output: &Output) -> Result<String, String> {
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(text(output))
    }
}

fn guests(cluster: &NamespacedCluster) -> Vec<Value> {
    let document: Value = serde_json::from_str(&cluster.stack_ok(&["network", "inspect", "shared"])).expect("JSON");
    document["guests"].as_array().cloned().unwrap_or_default()
}

const FILE: &str = r#"name: shop
services:
  web:
    image: busybox:test
    init: true
    command: ["sh", "-c", "echo from-the-stack > /www/index.html; exec httpd -f -p 8080 -h /www"]
    stop_grace_period: 1s
    networks: [shared]
    deploy: {replicas: 2}
  asks:
    image: busybox:test
    init: true
    command: ["sleep", "100000"]
    stop_grace_period: 1s
    networks: [shared]
networks:
  shared: {external: true}
"#;

/// A container that serves its name.
fn serve(cluster: &NamespacedCluster, host: &str, name: &str, more: &[&str]) -> String {
    let line = format!("echo {name} > /www/index.html; exec httpd -f -p 8080 -h /www");
    let mut arguments = vec!["run", "-d", "--init", "--name", name, "--network", "shared"];
    arguments.extend(more);
    arguments.extend(["busybox:test", "sh", "-c", &line]);
    fine(cluster, host, &arguments).trim().to_owned()
}

#[test]
fn containers_of_two_hosts_and_tasks_talk_by_name_and_leave_nothing_behind() {
    let cluster = cluster(3, 1, &[]);
    let create = ["network", "create", "-d", "overlay", "--attachable", "--subnet", "10.77.0.0/24"];
    // Only where the cluster is decided on.
    let refused = fails(&cluster, "node2", &[&create[..], &["shared"]].concat());
    assert!(refused.contains("Worker nodes can't be used to view or modify cluster state"), "{refused}");
    fine(&cluster, "node1", &[&create[..], &["shared"]].concat());
    let refused = fails(&cluster, "node1", &[&create[..], &["shared"]].concat());
    assert!(refused.contains("network with name shared already exists"), "{refused}");
    let path = cluster.file("shop.yml", FILE);
    cluster.stack_ok(&["deploy", &path]);
    cluster.wait_ready("shop/web", 2);
    let asks = cluster.wait_ready("shop/asks", 1);

    // Every host lists it.
    for host in ["node1", "node2", "node3"] {
        let listed = fine(&cluster, host, &["network", "ls", "--format", "{{.Name}} {{.Driver}} {{.Scope}}"]);
        assert!(listed.lines().any(|line| line == "shared overlay swarm"), "{host}: {listed}");
    }
    let document: Value =
        serde_json::from_str(&fine(&cluster, "node3", &["network", "inspect", "shared"])).expect("JSON");
    assert_eq!((&document[0]["Attachable"], &document[0]["Scope"]), (&true.into(), &"swarm".into()));
    assert_eq!(document[0]["IPAM"]["Config"][0]["Subnet"], "10.77.0.0/24");

    let one = serve(&cluster, "node1", "one", &["--network-alias", "first"]);
    let two = serve(&cluster, "node2", "two", &["--ip", "10.77.0.200"]);
    for (host, from, url, said) in [
        ("node1", "one", "http://two:8080/", "two"),
        ("node2", "two", "http://one:8080/", "one"),
        ("node2", "two", "http://first:8080/", "one"),
        ("node2", "two", &format!("http://{}:8080/", &one[..12]), "one"),
        ("node1", "one", "http://10.77.0.200:8080/", "two"),
        ("node1", "one", "http://web:8080/", "from-the-stack"),
        ("node2", "two", "http://web.shop:8080/", "from-the-stack"),
    ] {
        cluster.wait(&format!("{from} to reach {url}"), || match page(&cluster, host, from, url) {
            Ok(answer) if answer == said => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    // A task finds them as well.
    let pid = asks[0]["pid"].as_i64().expect("it runs").to_string();
    cluster.wait("a task to reach a container", || match ask(&pid, "http://two:8080/") {
        Ok(answer) if answer == "two" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let found = guests(&cluster);
    assert_eq!(found.len(), 2, "{found:#?}");
    let document: Value =
        serde_json::from_str(&fine(&cluster, "node2", &["network", "inspect", "shared"])).expect("JSON");
    let here = &document[0]["Containers"][&two];
    assert_eq!((&here["Name"], &here["IPv4Address"]), (&"two".into(), &"10.77.0.200/24".into()), "{document:#}");
    assert!(document[0]["Peers"].as_array().is_some_and(|peers| peers.len() >= 2), "{document:#}");
    let format = "{{(index .NetworkSettings.Networks \"shared\").IPAddress}}";
    assert_eq!(fine(&cluster, "node2", &["inspect", "--format", format, "two"]).trim(), "10.77.0.200");
    let refused = fails(&cluster, "node1", &["network", "rm", "shared"]);
    assert!(refused.contains("network"), "{refused}");
    let refused = fails(
        &cluster,
        "node3",
        &["run", "--rm", "--network", "shared", "--ip", "10.77.0.200", "busybox:test", "true"],
    );
    assert!(refused.contains("Address already in use"), "{refused}");
    // What a stack keeps for itself.
    cluster.stack_ok(&["network", "create", "closed"]);
    let refused = fails(&cluster, "node2", &["run", "--rm", "--network", "closed", "busybox:test", "true"]);
    assert!(refused.contains("Could not attach to network closed"), "{refused}");
    assert!(refused.contains("not manually attachable"), "{refused}");

    // The daemon of a host is started anew, and loses nothing.
    cluster.dev(&["restart", "node2", "--daemon"]);
    cluster.wait("the host to answer again", || match page(&cluster, "node2", "two", "http://one:8080/") {
        Ok(answer) if answer == "one" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(page(&cluster, "node1", "one", "http://two:8080/").as_deref(), Ok("two"));
    assert_eq!(guests(&cluster).len(), 2);

    // While it runs: it leaves, and comes again.
    fine(&cluster, "node2", &["network", "disconnect", "shared", "two"]);
    cluster.wait("the address to be free", || match guests(&cluster) {
        left if left.len() == 1 => Ok(()),
        left => Err(format!("{left:#?}")),
    });
    fine(&cluster, "node2", &["network", "connect", "--alias", "again", "shared", "two"]);
    cluster.wait("the container by its new alias", || match page(&cluster, "node1", "one", "http://again:8080/") {
        Ok(answer) if answer == "two" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    fine(&cluster, "node2", &["rename", "two", "zwei"]);
    cluster.wait("the container by its new name", || match page(&cluster, "node1", "one", "http://zwei:8080/") {
        Ok(answer) if answer == "two" => Ok(()),
        other => Err(format!("{other:?}")),
    });

    // It goes while its daemon is away: what it had is free once the daemon is there again.
    cluster.dev(&["kill", "node2", "--daemon"]);
    let process = nix::unistd::Pid::from_raw(first_process(&two));
    nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGKILL).expect("killed");
    cluster.dev(&["restart", "node2", "--daemon"]);
    cluster.wait("the address to be free", || match guests(&cluster) {
        left if left.len() == 1 => Ok(()),
        left => Err(format!("{left:#?}")),
    });
    cluster.wait("the name to be gone", || match page(&cluster, "node1", "one", "http://zwei:8080/") {
        Err(error) if error.contains("NXDOMAIN") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    fine(&cluster, "node2", &["rm", "-f", "zwei"]);
    fine(&cluster, "node1", &["rm", "-f", "one"]);
    cluster.wait("nobody to be left", || match guests(&cluster) {
        left if left.is_empty() => Ok(()),
        left => Err(format!("{left:#?}")),
    });
    cluster.wait("the name to be gone for tasks", || match within(&pid, &["nslookup", "one"]) {
        Ok(found) => Err(found),
        Err(_) => Ok(()),
    });
    cluster.stack_ok(&["rm", "shop"]);
    fine(&cluster, "node1", &["network", "rm", "shared", "closed"]);
    assert!(!fine(&cluster, "node3", &["network", "ls"]).contains("shared"));
    cluster.down();
}

/// The first process of a container, found without its daemon.
fn first_process(container: &str) -> i32 {
    let processes = std::fs::read_dir("/proc").expect("/proc").filter_map(Result::ok);
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_of = |pid: &i32| {
        let group = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        group.contains(container)
    };
    numbers.filter(is_of).min().expect("it runs")
}
