//! Secrets and configs: who sees them, and who does not.

use std::process::Command;

use stack_testkit::namespaced::NamespacedCluster;

use crate::cluster;

/// Shows checksums of its secrets and what its config holds, whose they are, and on which file system they lie.
fn file(password: &str) -> String {
    format!(
        r#"name: shop
services:
  web:
    image: busybox:test
    init: true
    user: "1000:1000"
    command:
      - sh
      - -c
      - |
        echo "secret $$(md5sum < /run/secrets/password | cut -c-32) $$(stat -c '%a %u' /run/secrets/password)"
        echo "config $$(cat /etc/greeting) $$(stat -c '%a %u' /etc/greeting)"
        echo "shared $$(md5sum < /run/secrets/shared | cut -c-32)"
        echo "on $$(awk '$$2 == "/run/secrets/password" {{ print $$3 }}' /proc/mounts)"
        exec sleep 100000
    secrets: [password, shared]
    configs: [{{source: greeting, target: /etc/greeting, mode: 0440, uid: "1000"}}]
    stop_grace_period: 1s
    deploy: {{placement: {{constraints: [node.hostname == node2]}}, update_config: {{monitor: 1s}}}}
  plain:
    image: busybox:test
    init: true
    command: ["sleep", "100000"]
    stop_grace_period: 1s
    deploy: {{placement: {{constraints: [node.hostname == node3]}}}}
secrets:
  password: {{file: {password}}}
  shared: {{external: true}}
configs:
  greeting: {{content: "hello {{{{.Node.Hostname}}}}", template_driver: golang}}
"#
    )
}

/// Whether any file below a directory has the text.
fn is_on_disk(directory: &std::path::Path, text: &str) -> bool {
    let found =
        Command::new("grep").args(["-rqlF", "--devices=skip", text]).arg(directory).status().expect("grep runs");
    found.code() == Some(0)
}

fn wait_for_lines(cluster: &NamespacedCluster, lines: &[&str]) {
    cluster.wait("the container's own words", || {
        let logs = cluster.stack_ok(&["logs", "shop/web"]);
        if lines.iter().all(|line| logs.contains(line)) { Ok(()) } else { Err(logs) }
    });
}

#[test]
fn a_secret_is_seen_by_the_tasks_that_use_it_and_by_nobody_else() {
    let cluster = cluster(3, 1, &[]);
    let secret = cluster.file("password.txt", "correct-horse-battery");
    let shared = cluster.file("shared.txt", "by-hand-7391");
    let stack = cluster.file("files.yml", &file("password.txt"));
    let refused = cluster.stack(&["deploy", &stack]);
    let story = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(story.contains("stack secret create"), "{story}");
    cluster.stack_ok(&["secret", "create", "shared", &shared]);
    cluster.stack_ok(&["deploy", &stack]);
    wait_for_lines(
        &cluster,
        &[
            "secret 09f31f46f81f8fab873fbc0420173519 444 0",
            "config hello node2 440 1000",
            "shared b2d8f37d0f2ddc2a10d4f43008f36bd9",
            "on tmpfs",
        ],
    );

    // Nothing that shows the stack shows what it holds.
    let (listed, inspected) = (cluster.stack_ok(&["secret", "ls"]), cluster.stack_ok(&["inspect", "shop"]));
    assert!(listed.contains("shop_password") && listed.contains("shared"), "{listed}");
    let shown = [
        listed,
        inspected,
        cluster.stack_ok(&["secret", "inspect", "shop_password"]),
        cluster.stack_ok(&["config", &stack]),
        cluster.stack_ok(&["plan", &stack]),
        cluster.stack_ok(&["ps", "--format", "json"]),
        cluster.logs(),
    ];
    for text in &shown {
        for secret in ["correct-horse-battery", "by-hand-7391", "Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
    // No worker has it on its disk, not even the one that runs the task; and the controller has it for all.
    for worker in ["node2", "node3"] {
        let state = cluster.host_directory(worker);
        for secret in ["correct-horse-battery", "Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5"] {
            assert!(!is_on_disk(&state, secret), "{worker} has it in {}", state.display());
        }
    }

    // A daemon that starts anew goes on, and so does the container.
    let before = cluster.tasks("shop/web");
    cluster.dev(&["kill", "node2", "--daemon"]);
    cluster.dev(&["restart", "node2", "--daemon"]);
    cluster.wait_ready("shop/web", 1);
    assert_eq!(cluster.tasks("shop/web")[0]["id"], before[0]["id"]);

    // A host that loses its power has lost what it held, and is told again.
    cluster.dev(&["kill", "node2"]);
    cluster.dev(&["restart", "node2"]);
    cluster.wait_ready("shop/web", 1);

    // Another content is another version of the service that uses it, and of no other.
    std::fs::write(&secret, "another-staple").expect("written");
    let plain = cluster.tasks("shop/plain")[0]["id"].clone();
    cluster.stack_ok(&["deploy", &stack]);
    wait_for_lines(&cluster, &["secret 0fffadb37a17d8a59d3e9dc441adf11b 444 0"]);
    assert_eq!(cluster.tasks("shop/plain")[0]["id"], plain);
    assert!(!cluster.stack(&["secret", "rm", "shared"]).status.success(), "a stack uses it");
    cluster.stack_ok(&["rm", "shop"]);
    cluster.stack_ok(&["secret", "rm", "shared"]);
    assert_eq!(cluster.json(&["secret", "ls"]).as_array().map(Vec::len), Some(0));
    cluster.down();
}
