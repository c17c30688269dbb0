//! `stack dev down` leaves nothing.

use std::collections::BTreeSet;
use std::process::Command;

use crate::{cluster, web};

/// What could be left on the machine, as texts that can be compared. Everything of other clusters is not ours to judge.
fn traces(name: &str, directory: &str) -> BTreeSet<String> {
    let mut traces = BTreeSet::new();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    traces.extend(mounts.lines().filter(|line| line.contains(directory)).map(|line| format!("mount {line}")));
    for entry in std::fs::read_dir("/proc").expect("processes").filter_map(Result::ok) {
        let path = entry.path();
        let Ok(cgroup) = std::fs::read_to_string(path.join("cgroup")) else { continue };
        // One that is gone by now is no trace.
        let Ok(state) = std::fs::read_to_string(path.join("stat")) else { continue };
        // What has ended and was not yet taken note of by its parent runs no more.
        let ended = state.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X']));
        if cgroup.contains(&format!("/stack-dev/{name}/")) && !ended {
            let command = std::fs::read_to_string(path.join("cmdline")).unwrap_or_default();
            traces.insert(format!("process {} {command}", path.display()));
        }
    }
    let mut folders = vec![std::path::PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = folders.pop() {
        if folder.ends_with(format!("stack-dev/{name}")) {
            traces.insert(format!("cgroup {}", folder.display()));
            continue;
        }
        let entries = std::fs::read_dir(&folder).into_iter().flatten().filter_map(Result::ok);
        folders.extend(entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path()));
    }
    traces
}

fn lines_of(program: &str, arguments: &[&str]) -> BTreeSet<String> {
    let output = Command::new(program).args(arguments).output().expect("it runs");
    String::from_utf8_lossy(&output.stdout).lines().map(|line| format!("{program}: {line}")).collect()
}

/// The links of this cluster in the machine's own network, which may have others that come and go.
fn links(record: &serde_json::Value) -> BTreeSet<String> {
    let hosts = record["hosts"].as_array().expect("hosts").iter().map(|host| &host["link"]);
    let names = hosts.chain([&record["bridge"]]).map(|name| name.as_str().expect("a name").to_owned());
    names.filter(|name| std::path::Path::new("/sys/class/net").join(name).exists()).collect()
}

#[test]
fn nothing_is_left_of_a_cluster() {
    let tables_before = lines_of("nft", &["list", "tables"]);
    let cluster = cluster(3, 3, &[]);
    let file = cluster.file("shop.yml", &web(3, "one"));
    cluster.stack_ok(&["deploy", &file]);
    cluster.dev(&["kill", "node3"]);
    cluster.dev(&["pause", "node2"]);
    let (name, directory) = (cluster.name().to_owned(), cluster.scratch().display().to_string());
    assert!(!traces(&name, &directory).is_empty(), "the test sees what a cluster makes");
    let record = std::fs::read(cluster.scratch().join("dev/cluster.json")).expect("the cluster's record");
    let record = serde_json::from_slice(&record).expect("JSON");
    assert!(links(&record).len() >= 3, "the bridge and the hosts that were not killed");
    cluster.dev(&["down"]);
    assert_eq!(traces(&name, &directory), BTreeSet::new());
    assert_eq!(links(&record), BTreeSet::new());
    assert_eq!(lines_of("nft", &["list", "tables"]), tables_before);
    assert!(!std::path::Path::new(&directory).join("dev").exists());
    // Again is no failure.
    cluster.down();
}
