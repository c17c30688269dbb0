//! What a task becomes in the engine's words.

use super::*;

fn assigned(spec: serde_json::Value) -> AssignedTask {
    serde_json::from_value(serde_json::json!({
        "service": "shop/web", "slot": {"replica": 3}, "desired": "running", "spec": spec,
    }))
    .expect("an assigned task")
}

fn place(networks: &BTreeMap<String, AssignedNetwork>) -> Place<'_> {
    Place { node: NodeId::from_bits(2), node_name: "alpha", networks, files: Path::new("/run/stack/files") }
}

#[test]
fn the_finer_limits_and_namespaces_reach_the_engine() {
    let assigned = assigned(serde_json::json!({
        "container": {
            "image": {"reference": "web"}, "storage_size": 4096, "runtime": "crun",
            "limits": {
                "cpu_shares": 73, "cpuset": "0-2", "memory_and_swap_bytes": 2048, "swappiness": 10, "block_weight": 300,
                "block_device_weights": [{"path": "/dev/sda", "weight": 400}],
                "block_device_limits": [{"path": "/dev/sda", "kind": "read_bytes", "rate": 9}],
            },
            "uts_mode": "host", "cgroup_mode": "host", "system_paths_unconfined": true,
            "device_cgroup_rules": ["c 10:200 rwm"], "annotations": {"a": "b"},
            "selinux": {"kind": "web_t", "level": "s0:c1,c2"},
            "mounts": [
                {"target": "/srv", "source": {"bind": {"path": "/srv", "non_recursive": true, "writable_below": true,
                    "relabel": "private"}}},
                {"target": "/run", "source": {"tmpfs": {"options": ["exec"]}}},
                {"target": "/tools", "source": {"image": {
                    "image": {"reference": "tools:1", "digest": format!("sha256:{}", "a".repeat(64))}, "subpath": "bin",
                }}},
            ],
        },
        "resources": {"memory_limit_bytes": 1024},
    }));
    let networks = BTreeMap::new();
    let config = container_config(TaskId::from_bits(1), &assigned, place(&networks));
    assert_eq!(
        config.resources,
        Resources {
            memory_bytes: Some(1024),
            cpu_shares: Some(73),
            cpuset_cpus: Some("0-2".to_owned()),
            memory_and_swap_bytes: Some(2048),
            swappiness: Some(10),
            blkio_weight: Some(300),
            blkio_device_weights: vec![BlkioWeight { device: "/dev/sda".to_owned(), weight: 400 }],
            blkio_throttles: vec![BlkioThrottle {
                device: "/dev/sda".to_owned(),
                what: BlkioLimit::ReadBytes,
                rate: 9
            }],
            ..Resources::default()
        }
    );
    assert_eq!((config.uts_mode, config.cgroup_mode), (NamespaceMode::Host, NamespaceMode::Host));
    assert_eq!((config.masked_paths, config.read_only_paths), (Some(vec![]), Some(vec![])));
    assert_eq!(config.device_cgroup_rules, ["c 10:200 rwm"]);
    assert_eq!((config.annotations["a"].as_str(), config.storage_size), ("b", Some(4096)));
    assert_eq!(config.runtime.as_deref(), Some("crun"));
    assert!(matches!(
        config.mounts[0].source,
        ContainerMountSource::Bind { non_recursive: true, writable_below: true, .. }
    ));
    assert_eq!((config.mounts[0].relabel, config.mounts[1].relabel), (Some(Relabel::Private), None));
    assert_eq!(config.selinux.texts(), ["type:web_t", "level:s0:c1,c2"]);
    assert!(matches!(&config.mounts[1].source, ContainerMountSource::Tmpfs { options, .. } if *options == ["exec"]));
    let reference = format!("sha256:{}", "a".repeat(64));
    let mounted = ContainerMountSource::Image { reference, subpath: Some("bin".to_owned()) };
    assert_eq!(config.mounts[2].source, mounted);
}

#[test]
fn a_volume_with_labels_or_options_is_made_first() {
    let assigned = assigned(serde_json::json!({
        "container": {
            "image": {"reference": "web"},
            "mounts": [
                {"target": "/a", "source": {"volume": {"name": "nfs", "labels": {"from": "mount"}}}},
                {"target": "/b", "source": {"volume": {"name": "plain"}}},
                {"target": "/c", "source": {"volume": {"name": "theirs"}}},
            ],
        },
        "volumes": {
            "nfs": {
                "name": "nfs-{{.Task.Slot}}", "labels": {"a": "b"}, "driver_options": {"type": "nfs", "device": ":/srv"},
            },
            "plain": {"name": "shop_plain"},
            "theirs": {"name": "theirs", "external": true, "labels": {"a": "b"}},
        },
    }));
    let networks = BTreeMap::new();
    let described = described_volumes(TaskId::from_bits(1), &assigned, place(&networks));
    assert_eq!(described.keys().collect::<Vec<_>>(), ["nfs-3"]);
    assert_eq!(described["nfs-3"].labels.len(), 2);
    assert_eq!(described["nfs-3"].options["type"], "nfs");
}

#[test]
fn interfaces_follow_the_priorities_of_their_networks() {
    let assigned: AssignedTask = serde_json::from_value(serde_json::json!({
        "service": "shop/web", "slot": {"replica": 1}, "desired": "running",
        "addresses": {"a": ["10.1.0.2"], "b": ["10.2.0.2"], "c": ["10.3.0.2"]},
        "spec": {
            "container": {"image": {"reference": "web"}},
            "networks": {
                "a": {"interface_name": "eth1"},
                "b": {"priority": 5},
                "c": {"gateway_priority": 1},
            },
        },
    }))
    .expect("an assigned task");
    let network = |address: &str| -> AssignedNetwork {
        serde_json::from_value(
            serde_json::json!({"id": 1, "vni": 4096, "addresses": [address], "internal": false, "encrypted": false}),
        )
        .expect("a network")
    };
    let networks = BTreeMap::from([
        ("a".to_owned(), network("10.1.0.1/24")),
        ("b".to_owned(), network("10.2.0.1/24")),
        ("c".to_owned(), network("10.3.0.1/24")),
    ]);
    let made = overlay::endpoints(&assigned, &networks);
    let seen: Vec<(&str, &str, bool)> = made
        .iter()
        .map(|endpoint| (endpoint.network.as_str(), endpoint.interface.as_str(), !endpoint.gateways.is_empty()))
        .collect();
    // The name that the user chose is nobody else's number.
    assert_eq!(seen, [("b", "eth0", false), ("a", "eth1", false), ("c", "eth2", true)]);
}
