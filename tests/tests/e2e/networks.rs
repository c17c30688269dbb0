//! Networks that join hosts: names, virtual addresses, published ports, and updates that lose nothing.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;
use stack_testkit::namespaced::{NamespacedCluster, get, text};

use crate::cluster;
use crate::container::{addresses, asked, inside, within};

/// `web` on `front`, `hidden` on `back`, and a client of `front` on every host.
fn file(replicas: u32, greeting: &str, order: &str) -> String {
    format!(
        r#"name: net
services:
  web:
    image: busybox:test
    init: true
    command: ["sh", "-c", "echo \"$$GREETING $$NODE\" > /www/index.html; exec httpd -f -p 8080 -h /www"]
    environment:
      GREETING: "{greeting}"
      NODE: "{{{{.Node.Hostname}}}}"
    networks: {{front: {{aliases: [shop-front]}}}}
    ports: ["8080:8080"]
    stop_grace_period: 10s
    healthcheck:
      test: ["CMD", "wget", "-q", "-O", "/dev/null", "http://127.0.0.1:8080/"]
      interval: 1s
      timeout: 20s
      start_period: 60s
      start_interval: 200ms
    deploy:
      replicas: {replicas}
      update_config: {{order: {order}, parallelism: 1, monitor: 500ms}}
  hidden:
    image: busybox:test
    init: true
    command: ["httpd", "-f", "-p", "8080", "-h", "/"]
    stop_grace_period: 1s
    networks: [back]
  client:
    image: busybox:test
    init: true
    command: ["sleep", "100000"]
    stop_grace_period: 1s
    networks: [front]
    deploy: {{mode: global}}
networks:
  front: {{enable_ipv6: true}}
  back: {{}}
"#
    )
}

#[test]
fn services_find_and_reach_each_other_on_every_host_and_nobody_elses() {
    let cluster = cluster(3, 3, &[]);
    let path = cluster.file("net.yml", &file(3, "one", "stop-first"));
    cluster.stack_ok(&["deploy", &path]);
    let web = cluster.wait_ready("net/web", 3);
    let clients = cluster.wait_ready("net/client", 3);
    let hidden = cluster.wait_ready("net/hidden", 1);
    assert_eq!(web.iter().map(|task| task["node"].to_string()).collect::<BTreeSet<_>>().len(), 3);

    let mut virtual_addresses = BTreeSet::new();
    for client in &clients {
        // One address of each family for the name, the stack's and the alias.
        for name in ["web", "web.net", "shop-front", "WEB"] {
            let found = cluster.wait("a name", || match addresses(client, name) {
                Ok(found) if found.len() == 2 => Ok(found),
                other => Err(format!("{name}: {other:?}")),
            });
            virtual_addresses.insert(found);
        }
        let tasks = cluster.wait("the tasks", || match addresses(client, "tasks.web") {
            Ok(found) if found.len() == 6 => Ok(found),
            other => Err(format!("{other:?}")),
        });
        assert!(tasks.is_disjoint(virtual_addresses.first().expect("the address")));
        // The name leads to every task, wherever it runs, by both families.
        for address in virtual_addresses.first().expect("the address") {
            let mut hosts = BTreeSet::new();
            cluster.wait("every task to answer", || {
                let answer = asked(client, SocketAddr::new(*address, 8080));
                let answer = answer.map_err(|error| format!("{address}: {error}"))?;
                hosts.insert(answer);
                if hosts.len() == 3 { Ok(()) } else { Err(format!("{hosts:?}")) }
            });
        }
        let answer = inside(client, &["/bin/busybox", "wget", "-q", "-O", "-", "http://web:8080/"]);
        assert!(answer.as_ref().is_ok_and(|answer| answer.starts_with("one node")), "{answer:?}");
        // What is on another network has no name here, and no way leads there.
        assert!(addresses(client, "hidden").is_err(), "{:?}", addresses(client, "hidden"));
        let hidden_address = addresses(&hidden[0], "tasks.hidden").expect("its own name");
        let hidden_address = *hidden_address.first().expect("an address");
        // Whoever else may answer to that address outside, it is not the service.
        let reached = std::thread::scope(|scope| {
            let ask = move || get(SocketAddr::new(hidden_address, 8080), "/etc/hostname").is_ok();
            scope.spawn(move || within(client, ask)).join().expect("no panic")
        });
        assert!(!reached, "a client of `front` reaches {hidden_address} on `back`");
    }
    assert_eq!(virtual_addresses.len(), 1, "{virtual_addresses:?}");

    // With one replica every host still publishes its port.
    cluster.stack_ok(&["scale", "net/web=1"]);
    let left = cluster.wait_ready("net/web", 1);
    let node = left[0]["node"].as_str().expect("a node").to_owned();
    for host in cluster.hosts() {
        let answer = cluster.wait("an answer", || get((host.address, 8080), "/"));
        assert_eq!(answer.trim(), format!("one {node}"));
    }
    // With none the name is still there, and connections are refused at once.
    cluster.stack_ok(&["scale", "net/web=0"]);
    cluster.wait_ready("net/web", 0);
    let address = virtual_addresses.first().expect("the address").first().copied().expect("IPv4");
    cluster.wait("a refusal", || {
        let error = asked(&clients[0], SocketAddr::new(address, 8080)).expect_err("nobody serves");
        if error.kind() == std::io::ErrorKind::ConnectionRefused { Ok(()) } else { Err(error.to_string()) }
    });
    cluster.stack_ok(&["rm", "net"]);
    assert_eq!(cluster.json(&["network", "ls"]).as_array().map(Vec::len), Some(0));
    cluster.down();
}

#[test]
fn two_stacks_meet_on_a_network_that_was_made_by_hand() {
    let cluster = cluster(2, 1, &[]);
    let stack = |name: &str, service: &str, command: &str| {
        format!(
            r#"name: {name}
services:
  {service}: {{image: "busybox:test", init: true, command: [{command}], networks: [shared], stop_grace_period: 1s}}
networks:
  shared: {{external: true}}
"#
        )
    };
    let server = cluster.file("server.yml", &stack("one", "server", r#"httpd, "-f", "-p", "8080", "-h", /www"#));
    let client = cluster.file("client.yml", &stack("two", "client", r#"sleep, "100000""#));
    let refused = cluster.stack(&["deploy", &server]);
    assert!(!refused.status.success());
    assert!(text(&refused).contains("stack network create"), "{}", text(&refused));

    cluster.stack_ok(&["network", "create", "shared", "--subnet", "192.168.77.0/24", "--label", "team=web"]);
    cluster.stack_ok(&["deploy", &server]);
    cluster.stack_ok(&["deploy", &client]);
    cluster.wait_ready("one/server", 1);
    let client = cluster.wait_ready("two/client", 1);
    let found = cluster.wait("the name", || match addresses(&client[0], "server.one") {
        Ok(found) if found.len() == 1 => Ok(found),
        other => Err(format!("{other:?}")),
    });
    let network = cluster.stack_ok(&["network", "inspect", "shared"]);
    let network: Value = serde_json::from_str(&network).expect("JSON");
    assert_eq!(network["subnets"], serde_json::json!(["192.168.77.0/24"]));
    assert_eq!(network["labels"]["team"], "web");
    assert_eq!(network["tasks"].as_array().map(Vec::len), Some(2), "{network:#}");
    let virtual_address = found.first().expect("an address").to_string();
    let services = network["services"].as_array().expect("services");
    assert!(services.iter().any(|service| service["addresses"][0] == virtual_address.as_str()), "{network:#}");

    let refused = cluster.stack(&["network", "rm", "shared"]);
    assert!(!refused.status.success(), "{}", text(&refused));
    cluster.stack_ok(&["rm", "one"]);
    cluster.stack_ok(&["rm", "two"]);
    cluster.stack_ok(&["network", "rm", "shared"]);
    assert_eq!(cluster.stack(&["network", "inspect", "shared"]).status.code(), Some(6));
    cluster.down();
}

/// Asks again and again until told to stop; what fails is kept.
fn ask(stop: &AtomicBool, failed: &Mutex<Vec<String>>, asked: &AtomicUsize, who: &str, address: SocketAddr) {
    while !stop.load(Ordering::Relaxed) {
        if let Err(error) = get(address, "/") {
            failed.lock().expect("no panic").push(format!("{who} at {address}: {error}"));
        }
        asked.fetch_add(1, Ordering::Relaxed);
    }
}

fn update_under_load(cluster: &NamespacedCluster, change: &[&str]) {
    let clients = cluster.wait_ready("net/client", 3);
    under_load(cluster, &clients, || {
        let output = cluster.stack(change);
        assert!(output.status.success(), "{}\n{}", text(&output), cluster.logs());
    });
}

/// While `change` is made, these clients ask the service by its virtual address and somebody outside asks every host's
/// published port, without a pause; no request may fail.
fn under_load(cluster: &NamespacedCluster, clients: &[Value], change: impl FnOnce()) {
    let address = *addresses(&clients[0], "web").expect("a name").first().expect("IPv4");
    let hosts = cluster.hosts();
    let (stop, asked, failed) = (AtomicBool::new(false), AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        let (stop, asked, failed) = (&stop, &asked, &failed);
        for client in clients {
            let who = format!("the client on {}", client["node"]);
            scope.spawn(move || within(client, || ask(stop, failed, asked, &who, SocketAddr::new(address, 8080))));
        }
        for host in &hosts {
            scope.spawn(move || ask(stop, failed, asked, "from outside", SocketAddr::new(host.address.into(), 8080)));
        }
        let before = asked.load(Ordering::Relaxed);
        let changed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(change));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = changed {
            std::panic::resume_unwind(panic);
        }
        assert!(asked.load(Ordering::Relaxed) > before, "nobody asked anything");
    });
    let failed = failed.into_inner().expect("no panic");
    assert!(
        failed.is_empty(),
        "{} of {} requests failed: {:#?}",
        failed.len(),
        asked.into_inner(),
        &failed[..failed.len().min(20)]
    );
}

#[test]
fn no_request_fails_while_a_host_is_drained_and_taken_back() {
    let cluster = cluster(3, 3, &[]);
    let path = cluster.file("net.yml", &file(6, "one", "stop-first"));
    cluster.stack_ok(&["deploy", &path]);
    cluster.wait_ready("net/web", 6);
    // Those that are not drained themselves.
    let clients: Vec<Value> =
        cluster.wait_ready("net/client", 3).into_iter().filter(|client| client["node"] != "node2").collect();
    let on_node2 = || cluster.tasks("net/web").iter().filter(|task| task["node"] == "node2").count();
    assert!(on_node2() > 0);
    under_load(&cluster, &clients, || {
        cluster.stack_ok(&["node", "drain", "node2"]);
        cluster.wait("all six elsewhere", || {
            let ready = cluster.tasks("net/web").iter().filter(|task| task["ready"] == true).count();
            let left = on_node2();
            if ready == 6 && left == 0 { Ok(()) } else { Err((ready, left)) }
        });
        cluster.stack_ok(&["node", "activate", "node2"]);
        // It serves again.
        let path = cluster.file("two.yml", &file(9, "one", "stop-first"));
        cluster.stack_ok(&["deploy", &path]);
        cluster.wait("tasks on the host", || if on_node2() > 0 { Ok(()) } else { Err("none") });
    });
    cluster.down();
}

#[test]
fn no_request_fails_while_a_service_is_replaced_or_scaled() {
    let cluster = cluster(3, 3, &[]);
    let path = cluster.file("net.yml", &file(6, "one", "stop-first"));
    cluster.stack_ok(&["deploy", &path]);
    cluster.wait_ready("net/web", 6);
    let path = cluster.file("two.yml", &file(6, "two", "stop-first"));
    update_under_load(&cluster, &["deploy", &path]);
    let path = cluster.file("three.yml", &file(6, "three", "start-first"));
    update_under_load(&cluster, &["deploy", &path]);
    update_under_load(&cluster, &["scale", "net/web=2"]);
    cluster.down();
}

/// Asks the container's name server for the IPv4 addresses of a name, as a resolver does: what is lost is sent again, but a
/// refusal is an answer. In the network namespace of the container.
fn ask_name(name: &str) -> Result<Vec<Ipv4Addr>, String> {
    // RFC 1035: an identifier, recursion desired, one question.
    let mut query = vec![0x5a, 0xa5, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).map_err(|error| error.to_string())?);
        query.extend(label.bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    let failed = |error: std::io::Error| error.to_string();
    let socket = UdpSocket::bind("0.0.0.0:0").map_err(failed)?;
    socket.connect("127.0.0.11:53").map_err(failed)?;
    socket.set_read_timeout(Some(Duration::from_secs(1))).map_err(failed)?;
    let mut answer = [0; 512];
    for _ in 0..60 {
        socket.send(&query).map_err(failed)?;
        match socket.recv(&mut answer) {
            Ok(length) if answer[3] & 0x0f == 0 => {
                // Each answer of ours is a pointer to the name, type, class, time to live, a length of 4 and the address.
                let records = answer.get(query.len()..length).unwrap_or_default().chunks_exact(16);
                let found =
                    records.take(usize::from(answer[7])).map(|one| Ipv4Addr::new(one[12], one[13], one[14], one[15]));
                return Ok(found.collect());
            }
            Ok(_) => return Err(format!("the answer has the code {}", answer[3] & 0x0f)),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Err("no answer".to_owned())
}

#[test]
fn nobody_notices_that_stackd_is_killed_and_started_again() {
    let cluster = cluster(2, 1, &[]);
    let path = cluster.file("net.yml", &file(2, "one", "stop-first"));
    cluster.stack_ok(&["deploy", &path]);
    cluster.wait_ready("net/web", 2);
    let clients = cluster.wait_ready("net/client", 2);
    let address = within_thread(&clients[0], || ask_name("web")).expect("a name")[0];
    let hosts = cluster.hosts();
    let (stop, asked, failed) = (AtomicBool::new(false), AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        let (stop, asked, failed) = (&stop, &asked, &failed);
        for client in &clients {
            let who = format!("the client on {}", client["node"]);
            let service = SocketAddr::new(address.into(), 8080);
            scope.spawn(move || within(client, || ask(stop, failed, asked, &who, service)));
            scope.spawn(move || {
                within(client, || {
                    while !stop.load(Ordering::Relaxed) {
                        match ask_name("web") {
                            Ok(found) if found == [address] => {}
                            other => failed.lock().expect("no panic").push(format!("{}: {other:?}", client["node"])),
                        }
                        asked.fetch_add(1, Ordering::Relaxed);
                    }
                });
            });
        }
        for host in &hosts {
            scope.spawn(move || ask(stop, failed, asked, "from outside", SocketAddr::new(host.address.into(), 8080)));
        }
        for name in ["node1", "node2", "node2"] {
            cluster.dev(&["kill", name, "--daemon"]);
            let before = asked.load(Ordering::Relaxed);
            // Names wait, but what is balanced and published goes on without anybody.
            cluster.wait("requests without a daemon", || {
                if asked.load(Ordering::Relaxed) > before + 20 { Ok(()) } else { Err("few were made") }
            });
            cluster.dev(&["restart", name, "--daemon"]);
            cluster.wait_ready("net/web", 2);
            let before = asked.load(Ordering::Relaxed);
            cluster.wait("requests after the restart", || {
                if asked.load(Ordering::Relaxed) > before + 200 { Ok(()) } else { Err("few were made") }
            });
        }
        stop.store(true, Ordering::Relaxed);
    });
    let failed = failed.into_inner().expect("no panic");
    assert!(
        failed.is_empty(),
        "{} of {} failed: {:#?}",
        failed.len(),
        asked.into_inner(),
        &failed[..failed.len().min(20)]
    );
    cluster.down();
}

/// The same as [`within`], from a thread that must stay where it is.
fn within_thread<T: Send>(task: &Value, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(|| within(task, work)).join().expect("no panic"))
}

/// What an echo server behind the PROXY protocol was sent before our own words: who asks, and where.
fn proxied(address: SocketAddr) -> Result<(SocketAddr, SocketAddr, SocketAddr), String> {
    let failed = |error: std::io::Error| format!("{address}: {error}");
    let mut connection = TcpStream::connect_timeout(&address, Duration::from_secs(5)).map_err(failed)?;
    connection.set_read_timeout(Some(Duration::from_secs(10))).map_err(failed)?;
    connection.write_all(b"hello").map_err(failed)?;
    connection.shutdown(Shutdown::Write).map_err(failed)?;
    let mut echoed = Vec::new();
    connection.read_to_end(&mut echoed).map_err(failed)?;
    let wrong = || format!("{address} was sent {echoed:02x?}");
    let rest = echoed.strip_prefix(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c").ok_or_else(wrong)?;
    if rest.len() != 17 || !rest.ends_with(b"hello") {
        return Err(wrong());
    }
    let socket = |ip: &[u8], port: &[u8]| {
        SocketAddr::from(([ip[0], ip[1], ip[2], ip[3]], u16::from_be_bytes([port[0], port[1]])))
    };
    let own = connection.local_addr().map_err(failed)?;
    Ok((socket(&rest[..4], &rest[8..10]), socket(&rest[4..8], &rest[10..12]), own))
}

/// Who asks, as a server of ours sees it.
fn who(address: SocketAddr) -> Result<IpAddr, String> {
    let failed = |error: std::io::Error| format!("{address}: {error}");
    let mut connection = TcpStream::connect_timeout(&address, Duration::from_secs(5)).map_err(failed)?;
    connection.set_read_timeout(Some(Duration::from_secs(10))).map_err(failed)?;
    connection.write_all(b"GET /cgi-bin/who HTTP/1.0\r\n\r\n").map_err(failed)?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).map_err(failed)?;
    let last = answer.lines().last().unwrap_or_default().trim_matches(['[', ']']);
    last.parse().map(|seen: IpAddr| seen.to_canonical()).map_err(|_| format!("{address}: {answer}"))
}

#[test]
fn servers_know_who_asks() {
    let cluster = cluster(2, 1, &[]);
    let path = cluster.file(
        "who.yml",
        r#"name: who
services:
  seen:
    image: busybox:test
    init: true
    command: ["sh", "-c", "mkdir -p /www/cgi-bin; printf '#!/bin/sh\\necho Content-Type: text/plain\\necho\\necho $$REMOTE_ADDR\\n' > /www/cgi-bin/who; chmod 755 /www/cgi-bin/who; exec httpd -f -p 8080 -h /www"]
    ports: [{target: 8080, published: 8080}, {target: 8080, published: 8081, mode: host}]
    stop_grace_period: 1s
    deploy: {placement: {constraints: [node.hostname == node1]}}
  proxied:
    image: busybox:test
    init: true
    command: ["nc", "-ll", "-p", "9000", "-e", "cat"]
    ports: [{target: 9000, published: 9000, x-stack-proxy-protocol: v2}]
    stop_grace_period: 1s
    deploy: {placement: {constraints: [node.hostname == node1]}}
  many:
    image: busybox:test
    init: true
    command: ["sh", "-c", "hostname > /www/index.html; exec httpd -f -p 8080 -h /www"]
    ports: [{target: 8080, published: 8082}]
    stop_grace_period: 1s
    deploy: {replicas: 4, x-stack-session-affinity: client-ip}
  client:
    image: busybox:test
    init: true
    command: ["sleep", "100000"]
    stop_grace_period: 1s
    deploy: {mode: global}
"#,
    );
    cluster.stack_ok(&["deploy", &path]);
    cluster.wait_ready("who/many", 4);
    let clients = cluster.wait_ready("who/client", 2);
    let [one, two] = ["node1", "node2"].map(|name| cluster.host(name).address);
    let mut octets = one.octets();
    octets[3] = 1;
    // This machine's address on the link of the hosts.
    let own = Ipv4Addr::from(octets);

    // On the host of the task, in either mode: the client's own address.
    for port in [8080, 8081] {
        assert_eq!(cluster.wait("an answer", || who(SocketAddr::from((one, port)))), IpAddr::from(own), "port {port}");
    }
    // By another host, without the PROXY protocol: that host. Not published there in mode `host`.
    let seen = cluster.wait("an answer", || who(SocketAddr::from((two, 8080))));
    assert_ne!(seen, IpAddr::from(own));
    assert!(who(SocketAddr::from((two, 8081))).is_err());
    // With it: the client, by every host.
    for host in [one, two] {
        let (from, to, from_here) = cluster.wait("an echo", || proxied(SocketAddr::from((host, 9000))));
        assert_eq!((from, to), (from_here, SocketAddr::from((host, 9000))));
        assert_eq!(from.ip(), IpAddr::from(own));
    }
    // By a virtual address: the client's container.
    for client in &clients {
        let seen = within_thread(client, || who(SocketAddr::from((ask_name("seen")?[0], 8080)))).expect("an answer");
        let own = inside(client, &["/bin/busybox", "ip", "-o", "addr"]).expect("its addresses");
        assert!(own.contains(&format!(" {seen}/")), "{seen} is none of {own}");
    }
    // One client, one task: from inside and from outside.
    let stays = |ask: &(dyn Fn() -> Result<String, String> + Sync)| {
        (0..20).map(|_| ask()).collect::<Result<BTreeSet<String>, String>>().map(|answers| answers.len())
    };
    for client in &clients {
        let asked = within_thread(client, || {
            let address = ask_name("many")?[0];
            stays(&|| get((address, 8080), "/").map_err(|error| error.to_string()))
        });
        assert_eq!(asked, Ok(1));
    }
    assert_eq!(stays(&|| get((one, 8082), "/").map_err(|error| error.to_string())), Ok(1));

    // A task that goes is replaced without the port being lost.
    cluster.stack_ok(&["scale", "who/proxied=0"]);
    cluster.wait("a refusal", || match proxied(SocketAddr::from((two, 9000))) {
        Err(error) if error.contains("refused") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    cluster.stack_ok(&["scale", "who/proxied=1"]);
    cluster.wait("an echo", || proxied(SocketAddr::from((two, 9000))));
    cluster.down();
}

/// A command in the network namespace of a host.
pub fn on_host(cluster: &NamespacedCluster, host: &str, command: &[&str]) -> Result<String, String> {
    let daemon = cluster.host(host).pid.ok_or("the daemon runs")?.to_string();
    let output = Command::new("nsenter")
        .args(["--target", &daemon, "--net", "--"])
        .args(command)
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() { Ok(String::from_utf8_lossy(&output.stdout).into_owned()) } else { Err(text(&output)) }
}

#[test]
fn a_task_that_dies_takes_its_own_connections_with_it_and_no_more() {
    let cluster = cluster(3, 3, &[]);
    let path = cluster.file("net.yml", &file(3, "one", "stop-first"));
    cluster.stack_ok(&["deploy", &path]);
    let web = cluster.wait_ready("net/web", 3);
    let clients = cluster.wait_ready("net/client", 3);
    let address = within_thread(&clients[0], || ask_name("web")).expect("a name")[0];
    let (stop, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let failed: Mutex<Vec<(std::time::Instant, String)>> = Mutex::default();
    let (killed, settled) = std::thread::scope(|scope| {
        let (stop, asked, failed) = (&stop, &asked, &failed);
        for client in &clients {
            scope.spawn(move || {
                within(client, || {
                    while !stop.load(Ordering::Relaxed) {
                        if let Err(error) = get((address, 8080), "/") {
                            let failure = (std::time::Instant::now(), error.to_string());
                            failed.lock().expect("no panic").push(failure);
                        }
                        asked.fetch_add(1, Ordering::Relaxed);
                    }
                });
            });
        }
        let some = |what: &str, count: usize| {
            let before = asked.load(Ordering::Relaxed);
            cluster.wait(what, || if asked.load(Ordering::Relaxed) > before + count { Ok(()) } else { Err("few") });
        };
        some("requests before", 100);
        let victim = i32::try_from(web[0]["pid"].as_i64().expect("a pid")).expect("a pid");
        let killed = std::time::Instant::now();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(victim), nix::sys::signal::Signal::SIGKILL).expect("killed");
        // It is noticed, and everybody knows that it serves no more, or that it serves again.
        cluster.wait("the restart", || {
            let same = cluster.tasks("net/web").into_iter().find(|task| task["id"] == web[0]["id"]);
            let same = same.ok_or("it is gone")?;
            if same["restarts"] == 1 && same["ready"] == true { Ok(()) } else { Err("not yet") }
        });
        let settled = std::time::Instant::now();
        some("requests afterwards", 300);
        stop.store(true, Ordering::Relaxed);
        (killed, settled)
    });
    let failed = failed.into_inner().expect("no panic");
    let stray: Vec<_> = failed.iter().filter(|(at, _)| *at < killed || *at > settled).collect();
    assert!(stray.is_empty(), "failed while nothing was wrong: {stray:#?}");
    // Those that it had, and those that came before its host took it out: none of them hung.
    let hung: Vec<_> = failed.iter().filter(|(_, error)| error.contains("timed out")).collect();
    assert!(hung.is_empty(), "{hung:#?}");
    assert!(failed.len() * 5 < asked.into_inner(), "{} requests failed: {failed:#?}", failed.len());
    cluster.down();
}

#[test]
fn what_somebody_takes_away_on_a_host_is_put_back() {
    let cluster = cluster(2, 1, &[]);
    let path = cluster.file("net.yml", &file(2, "one", "stop-first"));
    cluster.stack_ok(&["deploy", &path]);
    cluster.wait_ready("net/web", 2);
    let clients = cluster.wait_ready("net/client", 2);
    let works = |what: &str| {
        for client in &clients {
            cluster.wait(what, || {
                within_thread(client, || {
                    // Each of both tasks, wherever it is, and by the published port of each host.
                    let mut seen = BTreeSet::new();
                    let address = ask_name("web")?[0];
                    for _ in 0..40 {
                        seen.insert(get((address, 8080), "/").map_err(|error| error.to_string())?);
                    }
                    if seen.len() == 2 { Ok(()) } else { Err(format!("{seen:?}")) }
                })
            });
        }
        for host in cluster.hosts() {
            cluster.wait(what, || get((host.address, 8080), "/"));
        }
    };
    works("before");
    let links = on_host(&cluster, "node1", &["ip", "-o", "link", "show", "type", "bridge"]).expect("bridges");
    let bridges: Vec<&str> = links.lines().filter_map(|line| line.split(": ").nth(1)).collect();
    assert!(!bridges.is_empty(), "{links}");
    for bridge in bridges {
        on_host(&cluster, "node1", &["ip", "link", "delete", bridge]).expect("deleted");
    }
    works("without its bridges");
    let links = on_host(&cluster, "node2", &["ip", "-o", "link", "show", "type", "vxlan"]).expect("tunnels");
    for tunnel in links.lines().filter_map(|line| line.split(": ").nth(1)) {
        on_host(&cluster, "node2", &["ip", "link", "delete", tunnel]).expect("deleted");
    }
    works("without its tunnels");
    let tables = on_host(&cluster, "node2", &["nft", "list", "tables"]).expect("tables");
    assert!(tables.contains("stack-overlay"), "{tables}");
    on_host(&cluster, "node2", &["nft", "delete", "table", "inet", "stack-overlay"]).expect("deleted");
    works("without its table");
    inside_network(&clients[0], &["nft", "delete", "table", "inet", "stack-overlay"]);
    works("without a container's table");
    cluster.down();
}

/// A command of this machine in the network namespace of a task's container.
fn inside_network(task: &Value, command: &[&str]) {
    let pid = task["pid"].as_i64().expect("it runs").to_string();
    let status =
        Command::new("nsenter").args(["--target", &pid, "--net", "--"]).args(command).status().expect("it runs");
    assert!(status.success(), "{command:?}");
}
