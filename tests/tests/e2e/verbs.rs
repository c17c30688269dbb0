//! What operators say to a cluster beside deploying: nodes, images, contexts, and output that is followed.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use stack_testkit::namespaced::{NamespacedCluster, text};
use stack_testkit::root::busybox_tar;

use crate::cluster;

fn stack_file(replicas: u32, image: &str) -> String {
    format!(
        r#"name: verbs
services:
  app:
    image: {image}
    init: true
    command: ["sh", "-c", "n=0; while true; do n=$$((n+1)); echo line $$n of $$HOSTNAME; sleep 0.2; done"]
    stop_grace_period: 1s
    deploy: {{replicas: {replicas}}}
"#
    )
}

fn node(cluster: &NamespacedCluster, name: &str) -> Option<Value> {
    let nodes = cluster.json(&["node", "ls"]);
    nodes.as_array().expect("nodes").iter().find(|node| node["name"] == name).cloned()
}

fn nodes_of(cluster: &NamespacedCluster, replicas: usize) -> BTreeSet<String> {
    let tasks = cluster.wait_ready("verbs/app", replicas);
    tasks.iter().filter_map(|task| task["node"].as_str().map(str::to_owned)).collect()
}

#[test]
fn nodes_are_drained_activated_and_removed() {
    let cluster = cluster(3, 1, &[]);
    let file = cluster.file("app.yml", &stack_file(3, "busybox:test"));
    cluster.stack_ok(&["deploy", &file]);
    assert_eq!(nodes_of(&cluster, 3).len(), 3);
    cluster.stack_ok(&["node", "drain", "node2"]);
    cluster.wait("tasks away from the drained node", || {
        let nodes = nodes_of(&cluster, 3);
        if nodes.contains("node2") { Err(format!("{nodes:?}")) } else { Ok(()) }
    });
    let shown: Value = serde_json::from_str(&cluster.stack_ok(&["node", "inspect", "node2"])).expect("JSON");
    assert_eq!((&shown["name"], &shown["availability"]), (&json!("node2"), &json!("drain")), "{shown:#}");
    // It takes tasks again, and those that are elsewhere stay there.
    cluster.stack_ok(&["node", "activate", "node2"]);
    cluster.stack_ok(&["scale", "verbs/app=6"]);
    assert_eq!(nodes_of(&cluster, 6).len(), 3);

    // One that is up is removed only by force; its tasks run elsewhere.
    let refused = cluster.stack(&["node", "rm", "node3"]);
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    cluster.stack_ok(&["node", "rm", "--force", "node3"]);
    assert!(node(&cluster, "node3").is_none());
    cluster.wait("tasks away from the removed node", || {
        let nodes = nodes_of(&cluster, 6);
        if nodes.contains("node3") { Err(format!("{nodes:?}")) } else { Ok(()) }
    });
    assert_eq!(cluster.stack(&["node", "inspect", "node3"]).status.code(), Some(6));
    cluster.down();
}

/// An archive as `docker save` writes it, of one layer.
fn archive(directory: &Path) -> String {
    let place = directory.join("archive");
    std::fs::create_dir(&place).expect("made");
    std::fs::write(place.join("layer.tar"), busybox_tar()).expect("written");
    let output = Command::new("sha256sum").arg(place.join("layer.tar")).output().expect("sha256sum runs");
    let printed = String::from_utf8(output.stdout).expect("text");
    let digest = printed.split_whitespace().next().expect("a digest").to_owned();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
    });
    let manifest = json!([{"Config": "config.json", "RepoTags": ["loaded:1"], "Layers": ["layer.tar"]}]);
    std::fs::write(place.join("config.json"), config.to_string()).expect("written");
    std::fs::write(place.join("manifest.json"), manifest.to_string()).expect("written");
    let path = directory.join("saved.tar");
    let status = Command::new("tar")
        .arg("-cf")
        .arg(&path)
        .arg("-C")
        .arg(&place)
        .args(["manifest.json", "config.json", "layer.tar"])
        .status()
        .expect("tar runs");
    assert!(status.success());
    path.display().to_string()
}

#[test]
fn loaded_images_deploy_output_is_followed_and_other_machines_get_contexts() {
    let cluster = cluster(2, 1, &[]);
    // On one node first, then on all; what is only loaded deploys, pinned by its digest.
    let archive = archive(cluster.scratch());
    let on = |reference: &str| {
        let images = cluster.json(&["image", "ls"]);
        let images = images.as_array().expect("images").clone();
        let has = |image: &&Value| image["references"].to_string().contains(reference);
        images.iter().filter(has).map(|image| image["node"].to_string()).collect::<BTreeSet<_>>()
    };
    cluster.stack_ok(&["image", "load", "-i", &archive, "--node", "node1"]);
    assert_eq!(on("loaded:1").len(), 1);
    cluster.stack_ok(&["image", "load", "-i", &archive]);
    assert_eq!(on("loaded:1").len(), 2);
    let file = cluster.file("app.yml", &stack_file(2, "loaded:1"));
    cluster.stack_ok(&["deploy", &file]);
    assert_eq!(nodes_of(&cluster, 2).len(), 2);
    let shown: Value = serde_json::from_str(&cluster.stack_ok(&["inspect", "verbs"])).expect("JSON");
    let digest = &shown["spec"]["services"]["app"]["container"]["image"]["digest"];
    assert!(digest.as_str().is_some_and(|digest| digest.starts_with("sha256:")), "{shown:#}");

    // The files of another image, which is pinned and stays as the service's own does.
    let mounting = r#"name: mounting
services:
  app:
    image: busybox:test
    init: true
    command: ["sh", "-c", "test -x /tools/busybox && exec sleep 1000"]
    stop_grace_period: 1s
    volumes: [{type: image, source: "loaded:1", target: /tools, image: {subpath: bin}}]
"#;
    let mounting = cluster.file("mounting.yml", mounting);
    cluster.stack_ok(&["deploy", &mounting]);
    let task = cluster.wait_ready("mounting/app", 1).remove(0);
    let shown: Value = serde_json::from_str(&cluster.stack_ok(&["inspect", "mounting"])).expect("JSON");
    let mounted = &shown["spec"]["services"]["app"]["container"]["mounts"][0]["source"]["image"]["image"];
    assert_eq!(&mounted["digest"], digest, "{shown:#}");
    cluster.stack_ok(&["rm", "verbs"]);
    let node = task["node"].as_str().expect("a node").to_owned();
    let refused = cluster.stack(&["image", "rm", "loaded:1", "--node", &node]);
    assert!(!refused.status.success() && text(&refused).contains("in use"), "{}", text(&refused));
    cluster.stack_ok(&["rm", "mounting"]);
    cluster.stack_ok(&["deploy", &file]);
    assert_eq!(nodes_of(&cluster, 2).len(), 2);

    // Followed over both hosts, for as long as somebody listens.
    let mut follower = cluster
        .command(&["logs", "verbs", "-f", "-n", "1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("stack runs");
    let mut lines = BufReader::new(follower.stdout.take().expect("a pipe")).lines();
    let (mut hosts, mut count) = (BTreeSet::new(), 0);
    while hosts.len() < 2 || count < 10 {
        let line = lines.next().expect("it goes on").expect("text");
        count += 1;
        hosts.extend(["@node1", "@node2"].into_iter().filter(|host| line.contains(host)));
    }
    follower.kill().expect("ended");
    follower.wait().expect("ended");

    // A context for another machine: with a certificate of its own, and not by a token that was replaced.
    let exported = cluster.stack_ok(&["context", "export", "bob"]);
    let path = cluster.file("bob.json", &exported);
    cluster.stack_ok(&["context", "import", "far", &path]);
    assert!(cluster.stack_ok(&["context", "ls"]).contains("far"));
    assert!(cluster.stack_ok(&["--context", "far", "ps"]).contains("verbs"));
    cluster.stack_ok(&["context", "use", "far"]);
    cluster.stack_ok(&["node", "label", "node1", "by=bob"]);
    cluster.wait("the operator's name in the log", || {
        if cluster.logs().contains("operator `bob`") { Ok(()) } else { Err("not yet") }
    });
    cluster.stack_ok(&["context", "rm", "far"]);
    assert!(!cluster.stack(&["--context", "far", "ps"]).status.success());
    let completion = cluster.stack_ok(&["completion", "bash"]);
    assert!(completion.contains("network"), "every verb is in it");
    cluster.down();
}
