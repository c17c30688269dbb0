//! `stack doctor` on clusters that are well, and on some that are not.

use serde_json::Value;
use stack_testkit::namespaced::{NamespacedCluster, text};

use crate::cluster;
use crate::networks::on_host;

/// Runs a line of nft in a host's network.
fn nft(cluster: &NamespacedCluster, host: &str, line: &str) {
    let command: Vec<&str> = ["nft"].into_iter().chain(line.split(' ')).collect();
    on_host(cluster, host, &command).unwrap_or_else(|error| panic!("{line}: {error}"));
}

fn failures(view: &Value) -> Vec<String> {
    let of = |list: &Value| list.as_array().cloned().unwrap_or_default();
    let nodes = of(&view["nodes"]).into_iter().flat_map(move |node| {
        let name = node["name"].as_str().unwrap_or_default().to_owned();
        of(&node["findings"]).into_iter().map(move |finding| (name.clone(), finding))
    });
    let paths = view["paths"].as_array().cloned().unwrap_or_default().into_iter().map(|path| {
        let place = format!("{} to {}", path["from"].as_str().unwrap_or(""), path["to"].as_str().unwrap_or(""));
        (place, path["finding"].clone())
    });
    nodes
        .chain(paths)
        .filter(|(_, finding)| finding["verdict"] == "failure")
        .map(|(place, finding)| format!("{place}: {}", finding["subject"].as_str().unwrap_or_default()))
        .collect()
}

#[test]
fn what_a_firewall_keeps_from_the_cluster_is_found_and_named() {
    let cluster = cluster(3, 1, &[]);
    let examine = || {
        let output = cluster.stack(&["doctor", "--format", "json"]);
        let view: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)));
        (output.status.code(), view)
    };
    let (code, view) = examine();
    assert_eq!((code, failures(&view)), (Some(0), vec![]), "{view:#}");
    // Three hosts, so six ways, and between the controller and the others two more each.
    assert_eq!(view["paths"].as_array().map(Vec::len), Some(6 + 4));
    let said = cluster.stack_ok(&["doctor"]);
    assert!(said.contains("all 10 are fine"), "{said}");

    // One host lets nothing of the networks in; another one only what is small.
    nft(&cluster, "node2", "add table inet fw");
    nft(&cluster, "node2", "add chain inet fw in { type filter hook input priority 0 ; }");
    nft(&cluster, "node2", "add rule inet fw in udp dport 4792 drop");
    nft(&cluster, "node3", "add table inet fw");
    nft(&cluster, "node3", "add chain inet fw in { type filter hook input priority 0 ; }");
    nft(&cluster, "node3", "add rule inet fw in udp dport 4792 udp length > 1400 drop");
    let (code, view) = examine();
    let found = failures(&view);
    let wanted = [
        "node1 to node2: networks",
        "node1 to node3: networks",
        "node2 to node3: networks",
        "node3 to node2: networks",
    ];
    assert_eq!((code, found.as_slice()), (Some(1), wanted.map(str::to_owned).as_slice()), "{view:#}");
    let output = cluster.stack(&["doctor"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let address = |host: &str| cluster.host(host).address.to_string();
    assert!(said.contains(&format!("open UDP port 4792 on node2 for node1 ({})", address("node1"))), "{said}");
    assert!(said.contains("packets of 1400 bytes arrive at UDP port 4792, larger ones up to 1500 do not"), "{said}");
    assert!(said.contains("at most 1350"), "{said}");

    // One that no controller hears, and one that no controller can ask.
    nft(&cluster, "node2", "delete table inet fw");
    nft(&cluster, "node3", "delete table inet fw");
    nft(&cluster, "node2", "add table inet fw");
    nft(&cluster, "node2", "add chain inet fw in { type filter hook input priority 0 ; }");
    nft(&cluster, "node2", "add rule inet fw in tcp dport 4600 ct state new drop");
    cluster.dev(&["kill", "node3"]);
    cluster.wait("the dead host to be down", || {
        let nodes = cluster.json(&["node", "ls"]);
        let is_down = |node: &Value| node["name"] == "node3" && node["readiness"] == "down";
        if nodes.as_array().into_iter().flatten().any(is_down) { Ok(()) } else { Err(nodes) }
    });
    let (code, view) = examine();
    let found = failures(&view);
    assert_eq!(code, Some(1));
    // What was connected before stays so, but no new connection gets through.
    assert_eq!(found, ["node3: node", "node1 to node2: control"], "{view:#}");
    cluster.down();
}

#[test]
fn what_has_not_converged_on_a_network_is_shown_with_its_reason() {
    let cluster = cluster(2, 1, &[]);
    let file = cluster.file(
        "net.yml",
        r#"name: net
services:
  app:
    image: busybox:test
    init: true
    command: ["sleep", "1000000"]
    stop_grace_period: 1s
    deploy: {replicas: 2}
"#,
    );
    cluster.stack_ok(&["deploy", &file]);
    let inspect = || -> Value {
        let text = cluster.stack_ok(&["network", "inspect", "net_default"]);
        serde_json::from_str(&text).expect("JSON")
    };
    let of = |view: &Value, host: &str| -> Value {
        let hosts = view["hosts"].as_array().cloned().unwrap_or_default();
        hosts.into_iter().find(|one| one["node"] == host).map_or(Value::Null, |one| one["convergence"].clone())
    };
    let is_in_force = |view: &Value, host: &str| of(view, host)["state"] == "in_force";
    let all_in_force = || {
        cluster.wait("both hosts to have converged", || {
            let view = inspect();
            if is_in_force(&view, "node1") && is_in_force(&view, "node2") { Ok(view) } else { Err(view) }
        })
    };
    let view = all_in_force();

    // Somebody else takes what the network needs on one host: its number, at our port.
    let run =
        |command: &[&str]| on_host(&cluster, "node2", command).unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let links = run(&["ip", "-o", "link", "show", "type", "vxlan"]);
    let tunnel = links.split(": ").nth(1).expect("a tunnel").to_owned();
    let vni = view["vni"].to_string();
    run(&["sh", "-c", &format!("ip link delete {tunnel} && ip link add theirs type vxlan id {vni} dstport 4792")]);
    let view = cluster.wait("the host that is behind to say so", || {
        let view = inspect();
        if of(&view, "node2")["problem"].is_string() { Ok(view) } else { Err(view) }
    });
    assert_eq!(of(&view, "node2")["state"], "behind", "{view:#}");
    assert!(is_in_force(&view, "node1"), "{view:#}");
    run(&["ip", "link", "delete", "theirs"]);
    all_in_force();

    cluster.dev(&["kill", "node2"]);
    cluster.wait("the host that is down to be unknown", || {
        let view = inspect();
        if of(&view, "node2")["state"] == "unknown" { Ok(()) } else { Err(view) }
    });
    cluster.down();
}
