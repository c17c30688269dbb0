//! Registries, full disks, taken ports, no room: what `ps` and `deploy` say, and that it heals when the cause goes.

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use stack_testkit::namespaced::{NamespacedCluster, text};

use crate::{cluster, disk};

fn stack_file(name: &str, image: &str, more: &str) -> String {
    format!(
        r#"name: {name}
services:
  app:
    image: {image}
    init: true
    command: ["sh", "-c", "echo up; exec sleep 1000000"]
    stop_grace_period: 1s
{more}"#
    )
}

fn message(cluster: &NamespacedCluster, service: &str, wanted: &str) -> String {
    cluster.wait(&format!("message of {service} with `{wanted}`"), || {
        let rows = cluster.json(&["ps"]);
        let rows = rows.as_array().cloned().unwrap_or_default();
        let found = rows
            .iter()
            .filter(|row| row["service"] == service)
            .find_map(|row| row["message"].as_str().filter(|message| message.contains(wanted)).map(str::to_owned));
        found.ok_or(rows)
    })
}

#[test]
fn what_cannot_run_now_says_why_and_heals() {
    let cluster = cluster(2, 1, &[]);

    // No node has room: counted, in `ps` and in `deploy`.
    let more = "    deploy:\n      resources:\n        reservations: {memory: 900G}\n";
    let file = cluster.file("room.yml", &stack_file("room", "busybox:test", more));
    let output = cluster.stack(&["deploy", &file, "--timeout", "3s"]);
    assert_eq!(output.status.code(), Some(4), "{}", text(&output));
    let reason = "2 of 2 nodes lack 900.0 GiB of free memory";
    assert!(String::from_utf8_lossy(&output.stderr).contains(reason), "{}", text(&output));
    message(&cluster, "room/app", reason);

    // No node matches; it heals when one does.
    let more = "    deploy:\n      placement: {constraints: [\"node.labels.disk == ssd\"]}\n";
    let file = cluster.file("match.yml", &stack_file("match", "busybox:test", more));
    cluster.stack_ok(&["deploy", &file, "--detach"]);
    message(&cluster, "match/app", "2 of 2 nodes do not match `node.labels.disk == ssd`");
    cluster.stack_ok(&["node", "label", "node2", "disk=ssd"]);
    let task = cluster.wait_ready("match/app", 1).remove(0);
    assert_eq!(task["node"], "node2");

    // A port that another process of the host has; it heals when the process lets go.
    let listener = in_namespace_of(&cluster, "node2", || TcpListener::bind("0.0.0.0:9090").expect("free"));
    let more = "    ports: [{target: 80, published: 9090, mode: host}]\n    deploy:\n      placement: {constraints: [\"node.hostname == node2\"]}\n";
    let file = cluster.file("port.yml", &stack_file("port", "busybox:test", more));
    cluster.stack_ok(&["deploy", &file, "--detach"]);
    message(&cluster, "port/app", "9090");
    drop(listener);
    cluster.wait_ready("port/app", 1);

    // A mount whose source is missing: no node can run it, said at once.
    let missing = cluster.scratch().join("missing").display().to_string();
    let more =
        format!("    volumes: [{{type: bind, source: {missing}, target: /x, bind: {{create_host_path: false}}}}]\n");
    let file = cluster.file("mount.yml", &stack_file("mount", "busybox:test", &more));
    let output = cluster.stack(&["deploy", &file]);
    assert_eq!(output.status.code(), Some(4), "{}", text(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains(&missing), "{}", text(&output));

    // An image that nobody has.
    let file = cluster.file("image.yml", &stack_file("image", "127.0.0.1:9/no/such:1", ""));
    let output = cluster.stack(&["deploy", &file]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains("127.0.0.1:9/no/such:1"), "{}", text(&output));
    assert_eq!(cluster.stack(&["inspect", "image"]).status.code(), Some(6), "nothing was changed");
    cluster.down();
}

/// Runs something in the network namespace of a host.
fn in_namespace_of<T: Send>(cluster: &NamespacedCluster, host: &str, work: impl FnOnce() -> T + Send) -> T {
    let daemon = cluster.host(host).pid.expect("the daemon runs");
    let namespace = std::fs::File::open(format!("/proc/{daemon}/ns/net")).expect("a namespace");
    std::thread::scope(|scope| {
        scope
            .spawn(move || {
                nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET).expect("entered");
                work()
            })
            .join()
            .expect("no panic")
    })
}

#[test]
fn a_registry_with_a_password_serves_every_host_by_digest() {
    let registry = stack_testkit::registry::Registry::start_with_password("teller", "open sesame").expect("a registry");
    // The hosts reach this machine's registry through a proxy on their gateway: a plain forwarder of bytes.
    let forwarder = Forwarder::start(registry.address().parse().expect("an address"));
    let flag = format!("gateway:{}", forwarder.port);
    let cluster = cluster(2, 1, &["--insecure-registry", &flag]);
    let gateway = gateway(&cluster);
    let registry_name = format!("{gateway}:{}", forwarder.port);
    let reference = format!("{registry_name}/team/app:1");
    let tar = stack_testkit::root::busybox_tar();
    registry.put_image("team/app", "1", &tar, &serde_json::json!({})).expect("the registry takes it");

    // Without the password: refused, and nothing is changed.
    let more = "    deploy: {mode: global}\n";
    let file = cluster.file("app.yml", &stack_file("pulled", &reference, more));
    let output = cluster.stack(&["deploy", &file]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let mut login = cluster
        .command(&["registry", "login", &registry_name, "--username", "teller"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("stack runs");
    login.stdin.take().expect("a pipe").write_all(b"open sesame\n").expect("written");
    assert!(login.wait().expect("ends").success());

    // One host has it before anything needs it.
    cluster.stack_ok(&["image", "pull", &reference, "--node", "node1"]);
    cluster.stack_ok(&["deploy", &file]);
    let tasks = cluster.wait_ready("pulled/app", 2);
    let images = cluster.json(&["image", "ls"]);
    for task in &tasks {
        let has = |image: &&Value| {
            image["node"] == task["node"]
                && image["references"]
                    .as_array()
                    .is_some_and(|names| names.iter().any(|name| *name == reference.as_str()))
        };
        let found: Vec<&Value> = images.as_array().expect("images").iter().filter(has).collect();
        assert_eq!(found.len(), 1, "{images:#}");
    }
    let detail: Value = serde_json::from_str(&cluster.stack_ok(&["inspect", "pulled"])).expect("JSON");
    let digest = detail["spec"]["services"]["app"]["container"]["image"]["digest"].as_str().expect("pinned").to_owned();
    assert!(digest.starts_with("sha256:"), "{digest}");
    let printed = cluster.stack_ok(&["registry", "ls"]);
    assert!(printed.contains("teller") && !printed.contains("sesame"), "{printed}");

    // The registry is down: a host that comes without the image waits and says so; it heals when the registry is back.
    forwarder.pause(true);
    cluster.stack_ok(&["rm", "pulled"]);
    // The hosts remove the containers once the stack is gone.
    cluster.wait("removal of the image", || {
        let output = cluster.stack(&["image", "rm", &reference]);
        if output.status.success() { Ok(()) } else { Err(text(&output)) }
    });
    let pinned = format!("{reference}@{digest}");
    let file = cluster.file("again.yml", &stack_file("again", &pinned, more));
    cluster.stack_ok(&["deploy", &file, "--detach"]);
    message(&cluster, "again/app", &registry_name);
    forwarder.pause(false);
    cluster.wait_ready("again/app", 2);
    cluster.down();
}

#[test]
fn a_full_disk_is_said_and_heals_when_there_is_room() {
    let registry = stack_testkit::registry::Registry::start().expect("a registry");
    let forwarder = Forwarder::start(registry.address().parse().expect("an address"));
    let flag = format!("gateway:{}", forwarder.port);
    let cluster = cluster(2, 1, &["--insecure-registry", &flag]);
    let reference = format!("{}:{}/team/large:1", gateway(&cluster), forwarder.port);
    registry
        .put_image("team/large", "1", &stack_testkit::root::busybox_tar(), &serde_json::json!({}))
        .expect("the registry takes it");

    disk::give_small_disk(&cluster, "node2");
    let filler = disk::fill(&cluster, "node2");
    let more = "    deploy:\n      placement: {constraints: [\"node.hostname == node2\"]}\n";
    let path = cluster.file("large.yml", &stack_file("large", &reference, more));
    let output = cluster.stack(&["deploy", &path, "--timeout", "3s"]);
    assert_eq!(output.status.code(), Some(4), "{}", text(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains("disk is full"), "{}\n{}", text(&output), cluster.logs());
    message(&cluster, "large/app", "disk is full");

    filler.remove();
    cluster.wait_ready("large/app", 1);
    cluster.down();
}

#[test]
fn images_that_nothing_uses_go_when_the_disk_fills() {
    let registry = stack_testkit::registry::Registry::start().expect("a registry");
    let forwarder = Forwarder::start(registry.address().parse().expect("an address"));
    let flag = format!("gateway:{}", forwarder.port);
    // Above half of the disk, and what was unused for two seconds.
    let flags = [
        "--insecure-registry",
        &flag,
        "--set",
        "images.collect_above_percent=50",
        "--set",
        "images.collect_unused_for=\"2s\"",
    ];
    let cluster = cluster(1, 1, &flags);
    disk::give_small_disk(&cluster, "node1");
    let reference = |name: &str| format!("{}:{}/team/{name}:1", gateway(&cluster), forwarder.port);
    for (name, label) in [("kept", "1"), ("old", "2")] {
        let labels = serde_json::json!({"Labels": {"which": label}});
        registry.put_image(&format!("team/{name}"), "1", &stack_testkit::root::busybox_tar(), &labels).expect("taken");
        let path = cluster.file(&format!("{name}.yml"), &stack_file(name, &reference(name), ""));
        cluster.stack_ok(&["deploy", &path]);
    }
    let images = || {
        let all = cluster.json(&["image", "ls"]);
        let all = all.as_array().cloned().unwrap_or_default();
        let names = all.iter().flat_map(|image| image["references"].as_array().cloned().unwrap_or_default());
        names.filter_map(|name| name.as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    cluster.stack_ok(&["rm", "old"]);
    assert!(images().contains(&reference("old")), "{:?}", images());

    let filler = disk::fill_to(&cluster, "node1", 60);
    cluster.wait("the unused image to go", || {
        let images = images();
        if images.contains(&reference("old")) { Err(images) } else { Ok(()) }
    });
    // What is used stays, and what was loaded.
    let left = images();
    assert!(left.contains(&reference("kept")), "{left:?}");
    assert!(left.iter().any(|name| name.contains("busybox")), "{left:?}");
    cluster.wait_ready("kept/app", 1);
    filler.remove();
    cluster.down();
}

fn gateway(cluster: &NamespacedCluster) -> std::net::Ipv4Addr {
    let address = cluster.host("node1").address.octets();
    std::net::Ipv4Addr::new(address[0], address[1], address[2], 1)
}

/// Passes connections on from all addresses of this machine to one.
struct Forwarder {
    port: u16,
    passing: Arc<Mutex<Passing>>,
}

#[derive(Default)]
struct Passing {
    paused: bool,
    connections: Vec<TcpStream>,
}

impl Forwarder {
    fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("0.0.0.0:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let passing = Arc::new(Mutex::new(Passing::default()));
        let shared = Arc::clone(&passing);
        std::thread::spawn(move || {
            for connection in listener.incoming().filter_map(Result::ok) {
                let Ok(other) = TcpStream::connect(target) else { continue };
                let mut passing = shared.lock().expect("no panic");
                if passing.paused {
                    continue;
                }
                for (from, to) in [(&connection, &other), (&other, &connection)] {
                    let (mut from, mut to) = (from.try_clone().expect("cloned"), to.try_clone().expect("cloned"));
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Write);
                    });
                }
                passing.connections.extend([connection, other]);
            }
        });
        Self { port, passing }
    }

    /// While paused, open connections are broken and new ones are closed at once.
    fn pause(&self, paused: bool) {
        let mut passing = self.passing.lock().expect("no panic");
        passing.paused = paused;
        for connection in passing.connections.drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}
