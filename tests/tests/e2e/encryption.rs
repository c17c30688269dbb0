//! Encrypted networks: nothing of them is in the clear between hosts, and keys are replaced without a loss.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};
use serde_json::Value;
use stack_testkit::namespaced::{NamespacedCluster, text};

use crate::cluster;
use crate::container::{addresses, asked, enter, pid};

/// What is looked for on the link.
const SECRET: &str = "the-launch-code-is-0000";

/// Two tasks of each service, one on each host, on a network that is encrypted or not.
fn file(encrypted: bool) -> String {
    format!(
        r#"name: vault
services:
  web:
    image: busybox:test
    init: true
    command: ["sh", "-c", "echo {SECRET} > /www/index.html; exec httpd -f -p 8080 -h /www"]
    stop_grace_period: 1s
    networks: [inner]
    deploy: {{mode: global}}
  client:
    image: busybox:test
    init: true
    command: ["sleep", "100000"]
    stop_grace_period: 1s
    networks: [inner]
    deploy: {{mode: global}}
networks:
  inner: {{enable_ipv6: true, x-stack-encrypted: {encrypted}}}
"#
    )
}

fn daemon(cluster: &NamespacedCluster, host: &str) -> i64 {
    cluster.host(host).pid.expect("it runs").into()
}

/// What a command prints that prints JSON.
fn inspected(cluster: &NamespacedCluster, arguments: &[&str]) -> Value {
    serde_json::from_str(&cluster.stack_ok(arguments)).expect("JSON")
}

/// Everything that passes a host's own interface while `work` is done.
fn captured(host: i64, work: impl FnOnce()) -> Vec<u8> {
    let stop = AtomicBool::new(false);
    let ready = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let listening = scope.spawn(|| {
            enter(host);
            let any = i32::from(u16::try_from(libc::ETH_P_ALL).expect("a number").to_be());
            // SAFETY: a system call with plain numbers.
            let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, any) };
            assert!(socket >= 0, "{}", std::io::Error::last_os_error());
            // SAFETY: it was opened above and is nobody else's.
            let socket = unsafe { OwnedFd::from_raw_fd(socket) };
            // SAFETY: the name of an interface is looked up in a string that outlives the call.
            let index = unsafe { libc::if_nametoindex(c"eth0".as_ptr()) };
            assert!(index > 0, "the host has no eth0");
            // SAFETY: all fields are plain data, for which zeros are a value.
            let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            address.sll_family = u16::try_from(libc::AF_PACKET).expect("a number");
            address.sll_protocol = u16::try_from(libc::ETH_P_ALL).expect("a number").to_be();
            address.sll_ifindex = i32::try_from(index).expect("a number");
            // SAFETY: the address outlives the call and has the length that is said.
            let bound = unsafe {
                libc::bind(
                    socket.as_raw_fd(),
                    (&raw const address).cast(),
                    u32::try_from(size_of::<libc::sockaddr_ll>()).expect("a number"),
                )
            };
            assert_eq!(bound, 0, "{}", std::io::Error::last_os_error());
            let mut socket = std::fs::File::from(socket);
            setsockopt(&socket, sockopt::ReceiveTimeout, &nix::sys::time::TimeVal::new(0, 100_000)).expect("a timeout");
            let mut everything = Vec::new();
            let mut frame = vec![0; 65536];
            ready.store(true, Ordering::Release);
            while !stop.load(Ordering::Acquire) {
                if let Ok(length) = socket.read(&mut frame) {
                    everything.extend_from_slice(&frame[..length]);
                }
            }
            // What has passed by then and waits to be read.
            while let Ok(length) = recv(socket.as_raw_fd(), &mut frame, MsgFlags::MSG_DONTWAIT) {
                everything.extend_from_slice(&frame[..length]);
            }
            everything
        });
        while !ready.load(Ordering::Acquire) && !listening.is_finished() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, Ordering::Release);
        if let Err(panic) = worked {
            std::panic::resume_unwind(panic);
        }
        listening.join().expect("no panic")
    })
}

fn has(haystack: &[u8], needle: &str) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle.as_bytes())
}

/// Deployed, and each client knows all tasks of `web` by both families.
fn deployed(cluster: &NamespacedCluster, encrypted: bool, tasks: usize) -> (Vec<Value>, BTreeSet<IpAddr>) {
    let path = cluster.file("vault.yml", &file(encrypted));
    cluster.stack_ok(&["deploy", &path]);
    cluster.wait_ready("vault/web", tasks);
    let clients = cluster.wait_ready("vault/client", tasks);
    let mut all = BTreeSet::new();
    for client in &clients {
        all = cluster.wait("the tasks", || match addresses(client, "tasks.web") {
            Ok(found) if found.len() == 2 * tasks => Ok(found),
            other => Err(format!("{other:?}")),
        });
    }
    (clients, all)
}

/// Every client asks every task, by both families.
fn all_ask(cluster: &NamespacedCluster, clients: &[Value], all: &BTreeSet<IpAddr>) {
    for client in clients {
        for address in all {
            cluster.wait("an answer", || match asked(client, SocketAddr::new(*address, 8080)) {
                Ok(answer) if answer.contains(SECRET) => Ok(()),
                other => Err(format!("{} at {address}: {other:?}", client["node"])),
            });
        }
    }
}

fn links(host: i64) -> String {
    let output = Command::new("nsenter").args(["--net", "--target", &host.to_string(), "ip", "-br", "link"]).output();
    text(&output.expect("ip runs"))
}

#[test]
fn nothing_of_an_encrypted_network_is_in_the_clear_between_hosts() {
    let cluster = cluster(2, 1, &[]);
    let host = daemon(&cluster, "node2");
    // The capture sees what is in the clear: it could see it in the other case.
    let (clients, all) = deployed(&cluster, false, 2);
    let plain = captured(host, || all_ask(&cluster, &clients, &all));
    assert!(has(&plain, SECRET), "{} bytes were captured", plain.len());
    let refused = cluster.stack(&["deploy", &cluster.file("vault.yml", &file(true))]);
    assert!(!refused.status.success(), "a network that is in use does not change: {}", text(&refused));
    cluster.stack_ok(&["rm", "vault"]);

    let (clients, all) = deployed(&cluster, true, 2);
    let sealed = captured(host, || all_ask(&cluster, &clients, &all));
    assert!(sealed.len() > 1000, "{} bytes were captured", sealed.len());
    assert!(!has(&sealed, SECRET), "{} bytes were captured", sealed.len());
    // Not a header of a request, not the port of VXLAN: nothing but the tunnel.
    assert!(!has(&sealed, "GET / HTTP"));
    let network = inspected(&cluster, &["network", "inspect", "vault_inner"]);
    assert_eq!(network["encrypted"], true, "{network:#}");

    // Killed, the daemon is not needed for what passes: the tunnel is not its own.
    cluster.dev(&["kill", "node2", "--daemon"]);
    let address = all.first().expect("an address");
    for client in &clients {
        let answer = asked(client, SocketAddr::new(*address, 8080));
        assert!(answer.as_ref().is_ok_and(|answer| answer.contains(SECRET)), "{answer:?}");
    }
    cluster.dev(&["restart", "node2", "--daemon"]);
    cluster.wait_ready("vault/web", 2);
    all_ask(&cluster, &clients, &all);

    // Without a tunnel nothing passes: it does not fall back to the clear.
    let host = daemon(&cluster, "node2");
    let lost = captured(host, || {
        let removed = Command::new("nsenter")
            .args(["--net", "--target", &host.to_string(), "ip", "link", "delete", "stackw0"])
            .output()
            .expect("ip runs");
        assert!(removed.status.success(), "{}", text(&removed));
        // And it is put back.
        all_ask(&cluster, &clients, &all);
    });
    assert!(!has(&lost, SECRET));

    cluster.stack_ok(&["rm", "vault"]);
    cluster.wait("the tunnels to go", || {
        let links = links(host);
        if links.contains("stackw") { Err(links) } else { Ok(()) }
    });
    cluster.down();
}

/// Sends numbered lines over one connection and reads them back, without a pause; how many came back.
fn talk(address: SocketAddr, stop: &AtomicBool, done: &AtomicUsize) -> Result<(), String> {
    let failed = |what: &str, error: std::io::Error| format!("{what} at {address}: {error}");
    let mut stream = std::net::TcpStream::connect(address).map_err(|error| failed("connect", error))?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).map_err(|error| failed("set", error))?;
    let mut number = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        let line = number.to_be_bytes();
        stream.write_all(&line).map_err(|error| failed("write", error))?;
        let mut answer = [0; 8];
        stream.read_exact(&mut answer).map_err(|error| failed("read", error))?;
        if answer != line {
            return Err(format!("{address}: another answer than {number}"));
        }
        number += 1;
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

#[test]
fn keys_are_replaced_under_load_without_a_loss() {
    let cluster = cluster(2, 1, &["--set", "encryption.rotate_after=\"5s\""]);
    let file = r#"name: echo
services:
  server:
    image: busybox:test
    init: true
    command: ["nc", "-ll", "-p", "7000", "-e", "cat"]
    networks: [inner]
    deploy: {mode: global}
  client: {image: "busybox:test", init: true, command: [sleep, "100000"], networks: [inner], deploy: {mode: global}}
networks:
  inner: {driver_opts: {encrypted: ""}}
"#;
    cluster.stack_ok(&["deploy", &cluster.file("echo.yml", file)]);
    cluster.wait_ready("echo/server", 2);
    let clients = cluster.wait_ready("echo/client", 2);
    let all = cluster.wait("the tasks", || match addresses(&clients[0], "tasks.server") {
        Ok(found) if found.len() == 2 => Ok(found),
        other => Err(format!("{other:?}")),
    });
    let keys = || -> Vec<Value> {
        let nodes = cluster.json(&["node", "ls"]);
        let names =
            nodes.as_array().expect("nodes").iter().map(|node| node["name"].as_str().expect("a name").to_owned());
        names
            .map(|name| inspected(&cluster, &["node", "inspect", &name])["description"]["encryption"].clone())
            .collect()
    };
    let before = keys();
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let (stop, done) = (&stop, &done);
        let talks: Vec<_> = clients
            .iter()
            .flat_map(|client| all.iter().map(move |address| (pid(client), SocketAddr::new(*address, 7000))))
            .map(|(client, address)| {
                scope.spawn(move || {
                    enter(client);
                    talk(address, stop, done)
                })
            })
            .collect();
        // Both hosts have replaced their first key twice.
        let rotated = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            cluster.wait("other keys", || {
                if talks.iter().any(|talk| talk.is_finished()) {
                    return Ok(());
                }
                let now = keys();
                let announcements = now.iter().map(|keys| keys["announcement"].as_u64().unwrap_or(0));
                if announcements.min() >= Some(7) { Ok(()) } else { Err(format!("{now:?}")) }
            });
        }));
        stop.store(true, Ordering::Relaxed);
        for talk in talks {
            let outcome = talk.join().expect("no panic");
            assert_eq!(outcome, Ok(()), "after {} lines\n{}", done.load(Ordering::Relaxed), cluster.logs());
        }
        if let Err(panic) = rotated {
            std::panic::resume_unwind(panic);
        }
    });
    let after = keys();
    for (before, after) in before.iter().zip(&after) {
        assert_ne!(before["keys"][0], after["keys"][0]);
    }
    assert!(done.load(Ordering::Relaxed) > 1000, "{done:?} lines");
    cluster.down();
}
