//! The commands of an operator's day, with their flags, output and exit codes.

use std::io::Read;
use std::process::{Output, Stdio};

use serde_json::Value;
use stack_testkit::namespaced::{NamespacedCluster, text};

use crate::{cluster, web};

/// Runs `stack` on a host, by its daemon's socket.
fn on(cluster: &NamespacedCluster, host: &str, arguments: &[&str]) -> Output {
    let socket = cluster.host(host).stackd_socket;
    cluster.command(arguments).env("STACK_SOCKET", socket).output().expect("stack runs")
}

fn on_ok(cluster: &NamespacedCluster, host: &str, arguments: &[&str]) -> String {
    let output = on(cluster, host, arguments);
    assert!(output.status.success(), "{arguments:?} on {host}: {}\n{}", text(&output), cluster.logs());
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A host that was in no cluster.
fn wipe(cluster: &NamespacedCluster, host: &str) {
    cluster.dev(&["kill", host]);
    let state = cluster.host_directory(host).join("state");
    std::fs::remove_dir_all(&state).expect("wiped");
    cluster.dev(&["restart", host]);
}

#[test]
fn a_cluster_is_made_and_joined_by_hand() {
    let cluster = cluster(3, 1, &[]);
    for host in ["node1", "node2", "node3"] {
        wipe(&cluster, host);
    }
    let address = |host: &str| format!("{}:4600", cluster.host(host).address);
    let outside = on(&cluster, "node1", &["node", "ls"]);
    assert_eq!(outside.status.code(), Some(1), "{}", text(&outside));
    assert!(text(&outside).contains("in no cluster") && text(&outside).contains("stack cluster init"));

    let made = json(&on_ok(&cluster, "node1", &["cluster", "init", "--encrypt-networks", "--format", "json"]));
    assert_eq!(made["role"], "controller", "{made}");
    let again = on(&cluster, "node1", &["cluster", "init"]);
    assert_eq!(again.status.code(), Some(1), "{}", text(&again));
    assert!(text(&again).contains("is a member of the cluster"), "{}", text(&again));

    // By a file, and by the environment; a controller by its own token.
    let token = on_ok(&cluster, "node1", &["cluster", "token", "worker", "--quiet"]);
    let file = cluster.file("token", &token);
    let advertise = address("node2");
    let join = ["cluster", "join", "--token-file", &file, "--advertise", &advertise, &address("node1")];
    let joined = on_ok(&cluster, "node2", &[&join[..], &["--format", "json"]].concat());
    assert_eq!((&json(&joined)["role"], &json(&joined)["cluster_id"]), (&"worker".into(), &made["cluster_id"]));
    let token = on_ok(&cluster, "node1", &["cluster", "token", "controller", "--quiet"]);
    let socket = cluster.host("node3").stackd_socket;
    let mut third = cluster.command(&["cluster", "join", &address("node1")]);
    let third = third.env("STACK_SOCKET", socket).env("STACK_JOIN_TOKEN", token.trim()).output().expect("runs");
    assert!(third.status.success(), "{}", text(&third));
    cluster.wait("three nodes that are ready", || {
        let nodes = json(&on_ok(&cluster, "node1", &["node", "ls", "--format", "json"]));
        let ready = nodes.as_array().into_iter().flatten().filter(|node| node["readiness"] == "ready").count();
        if ready == 3 { Ok(()) } else { Err(nodes) }
    });
    let nodes = json(&on_ok(&cluster, "node3", &["node", "ls", "--format", "json"]));
    let roles: Vec<_> = nodes.as_array().expect("nodes").iter().map(|node| node["role"].clone()).collect();
    assert_eq!(roles.iter().filter(|role| **role == "controller").count(), 2, "{nodes:#}");

    // Networks that say nothing are as the cluster was told, one that says otherwise is otherwise.
    for (name, said, encrypted) in [("sealed", None, true), ("open", Some("--encrypted=false"), false)] {
        let mut create = vec!["network", "create", name];
        create.extend(said);
        on_ok(&cluster, "node1", &create);
        let network = json(&on_ok(&cluster, "node1", &["network", "inspect", name]));
        assert_eq!(network["encrypted"], encrypted, "{network:#}");
    }

    // A token that was replaced lets nobody in.
    let old = on_ok(&cluster, "node1", &["cluster", "token", "worker", "-q"]);
    let new = on_ok(&cluster, "node1", &["cluster", "token", "worker", "--rotate", "-q"]);
    assert_ne!(old, new);
    on_ok(&cluster, "node1", &["node", "rm", "--force", "node2"]);
    wipe(&cluster, "node2");
    let file = cluster.file("old", &old);
    let refused = on(&cluster, "node2", &["cluster", "join", "--token-file", &file, &address("node1")]);
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    assert!(text(&refused).contains("was replaced since"), "{}", text(&refused));
    assert!(!text(&refused).contains(old.trim()), "a token is no text for logs");
    let file = cluster.file("new", &new);
    on_ok(&cluster, "node2", &["cluster", "join", "--token-file", &file, &address("node1")]);
    cluster.down();
}

#[test]
fn listings_flags_and_exit_codes() {
    let cluster = cluster(2, 1, &[]);
    let file = cluster.file("shop.yml", &web(2, "one"));
    let plan = cluster.stack(&["plan", &file, "--exit-code"]);
    assert_eq!(plan.status.code(), Some(7), "{}", text(&plan));
    let deployed = json(&cluster.stack_ok(&["deploy", &file, "--stable", "3s", "--format", "json"]));
    assert_eq!(deployed["changed"], true, "{deployed}");
    let plan = cluster.stack(&["plan", &file, "--exit-code"]);
    assert_eq!(plan.status.code(), Some(0), "{}", text(&plan));

    assert!(cluster.stack_ok(&["ls"]).contains("shop"));
    let stacks = cluster.json(&["ls"]);
    assert_eq!((&stacks[0]["name"], &stacks[0]["converged"]), (&"shop".into(), &true.into()), "{stacks:#}");
    assert!(cluster.stack_ok(&["services", "shop"]).contains("shop/web"));
    let services = cluster.json(&["services"]);
    assert!(services.as_array().is_some_and(|services| services.len() == 2), "{services:#}");

    // What a node runs, and what was replaced.
    let here = cluster.json(&["ps", "--node", "node1"]);
    let here = here.as_array().expect("tasks");
    assert!(!here.is_empty() && here.iter().all(|task| task["node"] == "node1"), "{here:#?}");
    let before = cluster.json(&["ps"]).as_array().map_or(0, Vec::len);
    let changed = cluster.file("shop.yml", &web(2, "two"));
    cluster.stack_ok(&["deploy", &changed]);
    let now = cluster.json(&["ps"]).as_array().map_or(0, Vec::len);
    let all = cluster.json(&["ps", "--all"]);
    assert_eq!(before, now);
    assert!(all.as_array().is_some_and(|all| all.len() > now), "{all:#}");
    assert_eq!(cluster.stack(&["ps", "--node", "nowhere"]).status.code(), Some(6));

    // Labels come and go.
    cluster.stack_ok(&["node", "label", "node2", "disk=ssd", "rack=7"]);
    cluster.stack_ok(&["node", "label", "node2", "disk-"]);
    let node = json(&cluster.stack_ok(&["node", "inspect", "node2"]));
    assert_eq!(node["labels"], serde_json::json!({"rack": "7"}), "{node:#}");

    // Registries: the password is nowhere to be seen.
    let mut login = cluster.command(&["registry", "login", "registry.example:5000", "--username", "ann"]);
    let mut login = login.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("runs");
    let mut input = login.stdin.take().expect("a pipe");
    std::io::Write::write_all(&mut input, b"hunter2-and-more\n").expect("written");
    drop(input);
    assert!(login.wait().expect("ended").success());
    let registries = cluster.json(&["registry", "ls"]);
    assert_eq!(registries, serde_json::json!([{"registry": "registry.example:5000", "username": "ann"}]));
    cluster.stack_ok(&["registry", "logout", "registry.example:5000"]);
    assert_eq!(cluster.json(&["registry", "ls"]), serde_json::json!([]));
    assert_eq!(cluster.stack(&["registry", "logout", "registry.example:5000"]).status.code(), Some(6));
    assert!(!cluster.logs().contains("hunter2"));

    // A context from its parts.
    let exported = json(&cluster.stack_ok(&["context", "export", "carol"]))["remote"].clone();
    let part = |name: &str| cluster.file(&format!("{name}.pem"), exported[name].as_str().expect("PEM"));
    let controller = exported["controllers"][0].as_str().expect("an address").to_owned();
    let (ca, certificate, key) = (part("ca_certificate"), part("certificate"), part("key"));
    let parts = ["--ca", &ca, "--certificate", &certificate, "--key", &key, "--controller", &controller];
    cluster.stack_ok(&[&["context", "create", "made"][..], &parts].concat());
    let contexts = cluster.json(&["context", "ls"]);
    assert!(contexts.to_string().contains("made"), "{contexts:#}");
    assert!(cluster.stack_ok(&["--context", "made", "ls"]).contains("shop"));
    cluster.down();
}

#[test]
fn logs_by_time_and_until_the_stack_is_gone() {
    let cluster = cluster(2, 1, &[]);
    let file = cluster.file(
        "talk.yml",
        r#"name: talk
services:
  app:
    image: busybox:test
    init: true
    command: ["sh", "-c", "echo early; sleep 4; for i in 1 2 3; do echo late $$i; done; exec sleep 1000000"]
    stop_grace_period: 1s
    deploy: {replicas: 2}
"#,
    );
    cluster.stack_ok(&["deploy", &file]);
    cluster.wait("all lines", || {
        let said = cluster.stack_ok(&["logs", "talk"]);
        if said.matches("late 3").count() == 2 { Ok(()) } else { Err(said) }
    });
    let all = cluster.stack_ok(&["logs", "talk", "--format", "json"]);
    let times: Vec<u64> = all.lines().map(|line| json(line)["time_nanoseconds"].as_u64().expect("a time")).collect();
    assert_eq!(times.len(), 8, "{all}");
    assert!(times.is_sorted(), "merged over hosts by time: {all}");

    // As old as the middle between the early and the late lines.
    let latest = times.last().copied().expect("lines");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_nanos();
    let since = u64::try_from(now).expect("this century") - latest + 2_000_000_000;
    let recent =
        cluster.stack_ok(&["logs", "talk", "--since", &format!("{}ms", since / 1_000_000), "-t", "--no-prefix"]);
    assert!(recent.contains("late 1") && !recent.contains("early"), "{recent}");
    let first = recent.lines().next().expect("a line");
    assert!(first.contains('T') && first.contains("Z late"), "a time before each line: {first}");
    let last = cluster.stack_ok(&["logs", "talk/app", "-n", "1"]);
    assert_eq!(last.lines().count(), 2, "{last}");

    // Who follows is let go when there is nothing to come.
    let mut follower = cluster
        .command(&["logs", "talk", "-f"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("stack runs");
    let mut output = follower.stdout.take().expect("a pipe");
    let reader = std::thread::spawn(move || {
        let mut all = String::new();
        output.read_to_string(&mut all).map(|_| all)
    });
    cluster.stack_ok(&["rm", "talk"]);
    let ended = cluster.wait("the follower to end", || follower.try_wait().expect("asked").ok_or("it goes on"));
    assert!(ended.success(), "{ended}");
    let all = reader.join().expect("read").expect("UTF-8");
    assert_eq!(all.matches("late 3").count(), 2, "{all}");
    assert_eq!(cluster.stack(&["logs", "talk"]).status.code(), Some(6));
    cluster.down();
}

/// A task's output goes where its driver says, is read here all the same, and nobody has to be there for it to run.
#[test]
fn logs_are_sent_and_a_long_line_is_one() {
    let cluster = cluster(1, 1, &[]);
    let place = tempfile::tempdir().expect("a directory");
    let socket = place.path().join("receiver");
    let file = cluster.file(
        "talk.yml",
        &format!(
            r#"name: talk
services:
  app:
    image: busybox:test
    init: true
    command: ["sh", "-c", "printf %040000d 7; echo; echo said >&2; exec sleep 1000000"]
    stop_grace_period: 1s
    logging:
      driver: syslog
      options: {{syslog-address: "unix://{}", syslog-format: rfc5424, tag: "{{{{.ImageName}}}}", max-buffer-size: 2m, mode: non-blocking}}
"#,
            socket.display()
        ),
    );
    cluster.stack_ok(&["deploy", &file]);
    let long = format!("{}7", "0".repeat(39_999));
    cluster.wait("all lines", || {
        let said = cluster.stack_ok(&["logs", "talk", "--no-prefix"]);
        let mut lines: Vec<&str> = said.lines().collect();
        lines.sort_unstable();
        if lines == [long.as_str(), "said"] { Ok(()) } else { Err(format!("{} lines", lines.len())) }
    });
    let records = cluster.stack_ok(&["logs", "talk", "--format", "json"]);
    assert_eq!(records.lines().filter(|line| json(line)["partial"] == true).count(), 2, "it is kept in three records");
    cluster.wait("it is told that nobody takes it", || {
        let told = cluster.stack(&["doctor"]);
        let told = String::from_utf8_lossy(&told.stdout).into_owned() + &String::from_utf8_lossy(&told.stderr);
        if told.contains("the log is not sent: dial unix://") { Ok(()) } else { Err(told) }
    });
    let listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    let (stream, _) = listener.accept().expect("a sender");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(stream));
    let mut sent: Vec<String> = (0..4).map(|_| lines.next().expect("a line").expect("text")).collect();
    sent.sort();
    assert!(sent[0].starts_with("<27>1 ") && sent[0].ends_with(" - said"), "{}", sent[0]);
    let begins = |line: &String| line.chars().take(200).collect::<String>();
    let is_output = |line: &String| line.starts_with("<30>1 ") && begins(line).contains("busybox");
    assert!(sent[1..].iter().all(is_output), "{:?}", sent.iter().map(begins).collect::<Vec<_>>());
    cluster.stack_ok(&["rm", "talk"]);
    let file = cluster.file(
        "wrong.yml",
        "name: wrong\nservices:\n  app:\n    image: busybox:test\n    command: [sleep, \"1000\"]\n    logging: {driver: syslog, options: {colour: red}}\n",
    );
    let refused = cluster.stack(&["deploy", &file]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned() + &String::from_utf8_lossy(&refused.stdout);
    assert_eq!(refused.status.code(), Some(4), "{told}");
    assert!(told.contains("unknown log opt 'colour' for syslog log driver"), "{told}");
    cluster.down();
}

#[test]
fn start_first_updates_never_have_fewer_tasks() {
    // A machine that is busy for seconds is no host that died.
    let cluster = cluster(2, 1, &["--set", "node_timeout=\"60s\""]);
    let file = |greeting: &str| {
        let text = format!(
            r#"name: first
services:
  web:
    image: busybox:test
    init: true
    command: ["sh", "-c", "echo {greeting}; exec sleep 1000000"]
    stop_grace_period: 1s
    healthcheck: {{test: ["CMD", "true"], interval: 1s, timeout: 20s}}
    deploy:
      replicas: 2
      update_config: {{order: start-first, parallelism: 1}}
"#
        );
        cluster.file("first.yml", &text)
    };
    cluster.stack_ok(&["deploy", &file("one")]);
    let before = cluster.wait_ready("first/web", 2);
    cluster.stack_ok(&["deploy", &file("two"), "--detach"]);
    let ids = |tasks: &[Value]| tasks.iter().map(|task| task["id"].to_string()).collect::<Vec<_>>();
    let (old, mut most) = (ids(&before), 0);
    cluster.wait("both to be replaced", || {
        let rows = cluster.json(&["ps"]);
        let rows: Vec<Value> = rows.as_array().cloned().unwrap_or_default();
        let ready: Vec<Value> = rows.iter().filter(|row| row["ready"] == true).cloned().collect();
        assert!(ready.len() >= 2, "fewer than wanted: {rows:#?}\n{}", cluster.logs());
        most = most.max(ready.len());
        let left = ids(&ready).iter().filter(|id| old.contains(id)).count();
        if left == 0 && ready.len() == 2 { Ok(()) } else { Err(ready) }
    });
    let said = cluster.stack_ok(&["logs", "first"]);
    assert!(said.contains("two"), "{said}");
    assert!(most <= 3, "one at a time: {most} were ready at once");
    cluster.down();
}
