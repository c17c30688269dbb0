//! Clusters of namespaced hosts with the real binaries: what the product promises, one promise a test.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod commands;
mod container;
mod controllers;
mod disk;
mod doctor;
mod encryption;
mod files;
mod guests;
mod hosts;
mod identities;
mod lifecycle;
mod networks;
mod removal;
mod services;
mod troubles;
mod verbs;

use stack_testkit::namespaced::{NamespacedCluster, Shape};
use stack_testkit::root::busybox_tar_file;

/// A cluster whose hosts have the image `busybox:test`.
fn cluster(nodes: u8, controllers: u8, flags: &[&str]) -> NamespacedCluster {
    let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
    let cluster = NamespacedCluster::up(&Shape { nodes, controllers, flags });
    let tar = busybox_tar_file(cluster.scratch());
    cluster.stack_ok(&["image", "import", tar.to_str().expect("UTF-8"), "busybox:test"]);
    cluster
}

/// A stack of a published web service that names its container and a worker.
fn web(replicas: u32, greeting: &str) -> String {
    format!(
        r#"name: shop
services:
  web:
    image: busybox:test
    init: true
    command: ["sh", "-c", "echo \"$$GREETING $$NODE\" > /www/index.html; echo serving; exec httpd -f -p 8080 -h /www"]
    environment:
      GREETING: "{greeting}"
      NODE: "{{{{.Node.Hostname}}}}"
    ports: ["8080:8080"]
    stop_grace_period: 1s
    healthcheck:
      test: ["CMD", "wget", "-q", "-O", "/dev/null", "http://127.0.0.1:8080/"]
      interval: 1s
      timeout: 20s
      start_period: 60s
      start_interval: 200ms
    deploy:
      replicas: {replicas}
      update_config:
        monitor: 1s
  worker:
    image: busybox:test
    init: true
    command: ["sh", "-c", "n=0; while true; do n=$$((n+1)); echo round $$n; sleep 1; done"]
    stop_grace_period: 1s
"#
    )
}
