//! What services wait for, what is run in their containers beside their own command, and the finer keys of a container: as
//! the kernel shows them.

use crate::cluster;

const STACK: &str = r#"name: shop
services:
  db:
    image: busybox:test
    init: true
    command: ["sh", "-c", "sleep 2; touch /tmp/up; echo db is up; exec sleep 100000"]
    healthcheck: {test: [CMD, test, -f, /tmp/up], interval: 1s, start_period: 60s, start_interval: 200ms}
    stop_grace_period: 1s
  migrate:
    image: busybox:test
    command: ["sh", "-c", "echo migrated > /data/schema"]
    volumes: ["data:/data"]
    depends_on: {db: {condition: service_healthy}}
  web:
    image: busybox:test
    init: true
    command: ["sh", "-c", "cat /data/schema; exec sleep 100000"]
    depends_on: {migrate: {condition: service_completed_successfully}}
    volumes: ["data:/data"]
    post_start:
      - {command: [sh, -c, "sleep 1; test \"$$WHO $$(id -u)\" = \"hook 1000\""], environment: {WHO: hook}, user: "1000"}
      - {command: [sh, -c, "echo started >> /data/hooks"]}
    pre_stop: [{command: [sh, -c, "echo stopping >> /data/hooks"]}]
    stop_grace_period: 2s
volumes:
  data: {labels: {kept: "yes"}}
"#;

#[test]
fn services_start_in_the_order_of_their_needs_and_hooks_run_around_their_lives() {
    let cluster = cluster(1, 1, &[]);
    let file = cluster.file("lifecycle.yml", STACK);
    cluster.stack_ok(&["deploy", &file]);
    let log = cluster.stack_ok(&["logs", "shop/web"]);
    assert!(log.contains("migrated"), "the job had ended before: {log}");
    let hooks = |cluster: &stack_testkit::namespaced::NamespacedCluster| {
        let path = cluster.host_directory("node1").join("state/volumes/shop_data/_data/hooks");
        std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
    };
    // The deploy waited for what runs after the start.
    assert_eq!(hooks(&cluster).as_deref(), Ok("started\n"));
    let task = &cluster.tasks("shop/web")[0];
    let started = |service: &str| cluster.tasks(service)[0]["created_at"].as_u64().expect("a time");
    assert!(started("shop/db") < started("shop/migrate") && started("shop/migrate") < started("shop/web"));
    assert_eq!(task["restarts"], 0);

    // One that fails is told, and its container starts again until it does not.
    let broken =
        cluster.file("broken.yml", &STACK.replace("[sh, -c, \"echo started >> /data/hooks\"]", "[sh, -c, \"exit 7\"]"));
    let output = cluster.stack(&["deploy", &broken, "--timeout", "8s"]);
    assert!(!output.status.success());
    cluster.wait("the failure", || {
        let tasks = cluster.tasks("shop/web");
        let told = tasks.iter().find(|task| task["current"] == true).map(|task| task["message"].to_string());
        match told {
            Some(text) if text.contains("`post_start`: `sh -c exit 7` ended with exit code 7") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    assert_eq!(hooks(&cluster).as_deref(), Ok("started\nstopping\n"), "the old one was told before its end");
    cluster.stack_ok(&["rm", "shop"]);
    cluster.down();
}

#[test]
fn the_finer_keys_of_a_container_are_what_the_kernel_shows() {
    let cluster = cluster(1, 1, &[]);
    let file = cluster.file(
        "finer.yml",
        r#"name: shop
services:
  web:
    image: busybox:test
    init: true
    command:
      - sh
      - -c
      - |
        echo "name $$(hostname)"
        echo "cpus $$(grep Cpus_allowed_list /proc/self/status | tr -d '\t')"
        echo "interfaces $$(ls /sys/class/net | tr '\n' ' ')"
        echo "default $$(ip route | grep default)"
        echo "run $$(grep ' /run ' /proc/mounts)"
        echo "scratch $$(grep ' /scratch ' /proc/mounts)"
        exec sleep 100000
    uts: host
    cpuset: "0"
    cpu_shares: 512
    mem_limit: 64m
    memswap_limit: 64m
    device_cgroup_rules: ["c 10:200 rwm"]
    annotations: {a: b}
    tmpfs: /run:size=1m,exec,uid=1000
    volumes: ["scratch:/scratch"]
    networks:
      front: {interface_name: front0}
      back: {gw_priority: 1, priority: 5}
    stop_grace_period: 1s
networks: {front: , back: }
volumes:
  scratch: {driver_opts: {type: tmpfs, device: tmpfs, o: "size=2m"}}
"#,
    );
    cluster.stack_ok(&["deploy", &file]);
    let log = cluster.wait("the container's own words", || {
        let log = cluster.stack_ok(&["logs", "shop/web"]);
        if log.contains("scratch ") { Ok(log) } else { Err(log) }
    });
    let line = |word: &str| log.lines().find_map(|line| line.split_once(&format!("| {word} "))).expect("said").1;
    let run = line("run");
    assert!(run.contains("uid=1000") && run.contains("size=1024k") && !run.contains("noexec"), "{run}");
    assert!(line("scratch").starts_with("tmpfs /scratch tmpfs") && line("scratch").contains("size=2048k"), "{log}");
    assert!(line("cpus").ends_with(":0"), "{log}");
    let interfaces: Vec<&str> = line("interfaces").split_whitespace().collect();
    assert!(interfaces.contains(&"front0") && interfaces.contains(&"eth0") && !interfaces.contains(&"eth1"), "{log}");
    assert!(line("default").contains("dev eth0"), "{log}");
    assert!(!line("name").is_empty());
    cluster.stack_ok(&["rm", "shop"]);
    cluster.down();
}
