use std::path::Path;

use stack_shim::launch::MountSource;

use super::*;
use crate::cgroup;
use crate::container::config::{
    BlkioLimit, BlkioThrottle, ContainerMount, Resources, SeccompChoice, TerminalSize, Ulimit,
};
use crate::container::oci;
use crate::seccomp;

fn host(hierarchies: &Hierarchies) -> Host<'_> {
    Host {
        root: Root {
            lower: vec!["/state/layers/b".into(), "/state/layers/a".into()],
            upper: "/state/snapshots/web/upper".into(),
            work: "/state/snapshots/web/work".into(),
            mountpoint: "/run/web/root".into(),
            read_only: false,
            label: None,
        },
        volumes: BTreeMap::from([("/data".to_owned(), "/state/volumes/v/_data".into())]),
        images: BTreeMap::new(),
        devices: vec![],
        network_files: Some("/state/containers/web".into()),
        cgroups: Cgroups::default(),
        hierarchies,
        seccomp: Some("/state/seccomp/filter.bpf".into()),
        confinement: None,
        labels: None,
        injection: Injection::default(),
        log_directory: "/state/containers/web/logs".into(),
        exit_file: "/state/containers/web/exit.json".into(),
        attempt: 1,
        joined: Joined::default(),
        users: None,
    }
}

fn image() -> ImageDefaults {
    ImageDefaults {
        entrypoint: vec!["/entry".to_owned()],
        command: vec!["serve".to_owned()],
        environment: vec!["PATH=/bin".to_owned(), "LANG=C".to_owned(), "DEBUG=1".to_owned()],
        user: "web".to_owned(),
        working_dir: "/srv".to_owned(),
        ..ImageDefaults::default()
    }
}

fn version_2() -> Hierarchies {
    cgroup::read("30 20 0:26 / /sys/fs/cgroup rw - cgroup2 c rw\n", "0::/x\n", Path::new("/stack"))
}

fn id() -> ContainerId {
    "web".parse().unwrap()
}

#[test]
fn a_container_that_asks_for_nothing() {
    let hierarchies = version_2();
    let made = launch(&id(), &ContainerConfig::default(), &image(), &host(&hierarchies)).unwrap();
    insta::assert_json_snapshot!(made);
}

#[test]
fn everything_that_is_its_own_has_its_label() {
    let hierarchies = version_2();
    let tmpfs = ContainerMountSource::Tmpfs { size: None, mode: None, options: vec![] };
    let config = ContainerConfig {
        mounts: vec![ContainerMount { target: "/run".to_owned(), read_only: false, relabel: None, source: tmpfs }],
        ..ContainerConfig::default()
    };
    let labels = SelinuxLabels {
        process: Some("system_u:system_r:container_t:s0:c1,c2".to_owned()),
        mount: "system_u:object_r:container_file_t:s0:c1,c2".to_owned(),
    };
    let host = Host { labels: Some(labels.clone()), ..host(&hierarchies) };
    let made = launch(&id(), &config, &image(), &host).unwrap();
    assert_eq!((&made.process.label, made.root.label.as_ref()), (&labels.process, Some(&labels.mount)));
    let labelled = |mount: &&stack_shim::launch::Mount| match &mount.source {
        MountSource::Filesystem { options, .. } => {
            options.contains(&("context".to_owned(), Some(labels.mount.clone())))
        }
        MountSource::Bind { .. } | MountSource::Image { .. } | MountSource::OfPeer { .. } => false,
    };
    let targets: Vec<&str> = made.mounts.iter().filter(labelled).map(|mount| mount.target.as_str()).collect();
    // Others have labels of the kernel's own, and message queues get theirs when they are mounted.
    assert_eq!(targets, ["/dev", "/dev/pts", "/dev/shm", "/run"]);

    let document = oci::runtime_spec(
        &stack_shim::launch::Launch { process: Process { user: "0".to_owned(), ..made.process.clone() }, ..made },
        &Resources::default(),
        &[],
        None,
    );
    let document = serde_json::to_value(document.unwrap()).unwrap();
    assert_eq!(document["process"]["selinuxLabel"], labels.process.unwrap());
    assert_eq!(document["linux"]["mountLabel"], labels.mount);
    // Runtimes give that to the mounts themselves.
    assert!(!document["mounts"].to_string().contains("context="), "{document}");
}

#[test]
fn a_container_that_asks_for_much() {
    let hierarchies = version_2();
    let config = ContainerConfig {
        entrypoint: Some(vec!["/other".to_owned()]),
        environment: BTreeMap::from([("LANG".to_owned(), "de".to_owned())]),
        environment_removed: vec!["DEBUG".to_owned()],
        hostname: Some("name".to_owned()),
        user: Some("0:0".to_owned()),
        read_only: true,
        init: true,
        tty: true,
        cap_add: vec!["NET_ADMIN".to_owned()],
        cap_drop: vec!["ALL".to_owned()],
        no_new_privileges: true,
        seccomp: SeccompChoice::Unconfined,
        network_mode: NetworkMode::Host,
        pid_mode: NamespaceMode::Host,
        ipc_mode: NamespaceMode::Host,
        shm_size: Some(1 << 20),
        ulimits: BTreeMap::from([("nofile".to_owned(), Ulimit { soft: 10, hard: -1 })]),
        mounts: vec![
            ContainerMount {
                relabel: None,
                target: "/data".to_owned(),
                read_only: true,
                source: ContainerMountSource::Volume { name: Some("v".to_owned()), no_copy: false, subpath: None },
            },
            ContainerMount {
                relabel: None,
                target: "/cache/".to_owned(),
                read_only: false,
                source: ContainerMountSource::Tmpfs { size: Some(4096), mode: Some(0o700), options: Vec::new() },
            },
            ContainerMount {
                relabel: None,
                target: "/etc/hosts".to_owned(),
                read_only: false,
                source: ContainerMountSource::Bind {
                    path: "/srv/hosts".into(),
                    create_host_path: false,
                    propagation: Some("rslave".to_owned()),
                    non_recursive: false,
                    writable_below: false,
                    mapped: false,
                },
            },
        ],
        ..ContainerConfig::default()
    };
    let made = launch(&id(), &config, &image(), &host(&hierarchies)).unwrap();
    insta::assert_json_snapshot!(made);
}

#[test]
fn a_privileged_container_has_nothing_masked_and_every_device() {
    let hierarchies = version_2();
    let config = ContainerConfig { privileged: true, ..ContainerConfig::default() };
    let made = launch(&id(), &config, &image(), &host(&hierarchies)).unwrap();
    assert!(made.masked_paths.is_empty() && made.read_only_paths.is_empty());
    assert_eq!(made.process.capabilities.permitted, capability::ALL);
    assert_eq!(device_rules(&config, &[])[0].text(), "a");
}

#[test]
fn what_makes_no_sense_is_refused_with_its_name() {
    let with = |change: &dyn Fn(&mut ContainerConfig)| {
        let mut config = ContainerConfig::default();
        change(&mut config);
        check(&id(), &config, &image()).unwrap_err().to_string()
    };
    insta::assert_snapshot!(
        [
            with(&|config| config.entrypoint = Some(vec![])),
            with(&|config| config.working_dir = Some("srv".to_owned())),
            with(&|config| config.cap_add = vec!["FLY".to_owned()]),
            with(&|config| config.stop_signal = Some("SIGNOTHING".to_owned())),
            with(&|config| config.oom_score_adj = Some(2000)),
            with(&|config| {
                config.sysctls.insert("kernel.hostname".to_owned(), "x".to_owned());
            }),
            with(&|config| {
                config.sysctls.insert("net/../x".to_owned(), "x".to_owned());
            }),
            with(&|config| {
                config.ulimits.insert("legs".to_owned(), Ulimit { soft: 1, hard: 2 });
            }),
            with(&|config| {
                config.ulimits.insert("nofile".to_owned(), Ulimit { soft: -1, hard: 2 });
            }),
            with(&|config| config.logging.driver = Some("gelf".to_owned())),
            with(&|config| {
                config.logging.options.insert("max-size".to_owned(), "-3".to_owned());
            }),
            with(&|config| config.command = Some(vec!["a\0b".to_owned()])),
            with(&|config| {
                config.environment.insert("A=B".to_owned(), "x".to_owned());
            }),
            with(&|config| config.mounts = vec![ContainerMount {
                relabel: None,
                target: "/a/../../b".to_owned(),
                read_only: false,
                source: ContainerMountSource::Tmpfs { size: None, mode: None, options: Vec::new() },
            }]),
        ]
        .join("\n")
    );
}

#[test]
fn the_same_for_another_runtime() {
    let hierarchies = version_2();
    let config = ContainerConfig {
        user: Some("33:44".to_owned()),
        group_add: vec!["50".to_owned()],
        tty: true,
        terminal_size: Some(TerminalSize { rows: 24, columns: 80 }),
        read_only: true,
        no_new_privileges: true,
        pid_mode: NamespaceMode::Container("other".parse().unwrap()),
        ulimits: BTreeMap::from([("nofile".to_owned(), Ulimit { soft: 100, hard: -1 })]),
        sysctls: BTreeMap::from([("net.core.somaxconn".to_owned(), "9".to_owned())]),
        mounts: vec![ContainerMount {
            relabel: None,
            target: "/srv/site".to_owned(),
            read_only: true,
            source: ContainerMountSource::Bind {
                path: "/srv".into(),
                create_host_path: false,
                propagation: Some("rslave".to_owned()),
                non_recursive: false,
                writable_below: false,
                mapped: false,
            },
        }],
        ..ContainerConfig::default()
    };
    let resources = Resources {
        memory_bytes: Some(64 << 20),
        cpu_limit_millis: Some(1500),
        pids: Some(20),
        blkio_throttles: vec![BlkioThrottle { device: "8:0".to_owned(), what: BlkioLimit::ReadBytes, rate: 1024 }],
        ..Resources::default()
    };
    let mut host = host(&hierarchies);
    host.joined.pid = Some(stack_shim::launch::Peer { pid: 77, started: 5 });
    let made = launch(&id(), &config, &image(), &host).unwrap();
    let rules = device_rules(&config, &[]);
    let filter = seccomp::parse(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW",
             "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]}]}"#,
        0,
        "x86_64",
    )
    .unwrap();
    let spec = oci::runtime_spec(&made, &resources, &rules, Some(&filter)).unwrap();
    let mut document = serde_json::to_value(&spec).unwrap();
    // Sets and maps of the document have no order of their own.
    for set in ["bounding", "permitted"] {
        let names = document["process"]["capabilities"][set].as_array_mut().unwrap();
        names.sort_by_key(ToString::to_string);
    }
    document["linux"]["sysctl"].as_object_mut().unwrap().sort_keys();
    insta::assert_json_snapshot!(document);
    let by_name = launch(&id(), &ContainerConfig::default(), &image(), &host).unwrap();
    let refused = oci::runtime_spec(&by_name, &resources, &rules, None).unwrap_err();
    assert!(refused.to_string().contains("`web` has no number"), "{refused}");
}

#[test]
fn with_a_user_namespace_owners_are_those_of_the_host_and_volumes_are_mapped() {
    let hierarchies = version_2();
    let ids = IdRange { first: 200_000, count: 65_536 };
    let with_users = |config: &ContainerConfig| {
        let users = Some(Users { ids, shared: None, layers: Vec::new() });
        launch(&id(), config, &image(), &Host { users, ..host(&hierarchies) })
    };
    let mount =
        |target: &str, source| ContainerMount { relabel: None, target: target.to_owned(), read_only: false, source };
    let tmpfs = |owner: &str| ContainerMountSource::Tmpfs { size: None, mode: None, options: vec![owner.to_owned()] };
    let config = ContainerConfig {
        mounts: vec![
            mount("/data", ContainerMountSource::Volume { name: Some("v".to_owned()), no_copy: false, subpath: None }),
            mount(
                "/srv",
                ContainerMountSource::Bind {
                    path: "/srv".into(),
                    create_host_path: false,
                    propagation: None,
                    non_recursive: false,
                    writable_below: false,
                    mapped: false,
                },
            ),
            mount("/memory", tmpfs("uid=33")),
        ],
        ..ContainerConfig::default()
    };
    let made = with_users(&config).unwrap();
    let source = |target: &str| made.mounts.iter().find(|mount| mount.target == target).unwrap().source.clone();
    let is_mapped = |target: &str| matches!(source(target), MountSource::Bind { mapped: true, .. });
    assert!(is_mapped("/data") && is_mapped("/etc/hosts") && is_mapped("/etc/resolv.conf") && !is_mapped("/srv"));
    let option = |target: &str, key: &str| match source(target) {
        MountSource::Filesystem { options, .. } => {
            options.into_iter().find(|(name, _)| name == key).and_then(|(_, value)| value)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(option("/dev/pts", "gid").as_deref(), Some("200005"));
    assert_eq!(option("/memory", "uid").as_deref(), Some("200033"));
    assert_eq!(made.sysctls["net.ipv4.ping_group_range"], "0 65535");
    assert_eq!(made.users.as_ref().map(|users| users.ids), Some(ids));
    let far = ContainerConfig { mounts: vec![mount("/memory", tmpfs("gid=70000"))], ..ContainerConfig::default() };
    assert!(with_users(&far).unwrap_err().to_string().contains("/memory"));
    let privileged = ContainerConfig { privileged: true, ..ContainerConfig::default() };
    assert!(with_users(&privileged).unwrap_err().to_string().starts_with("privileged mode is incompatible"));
    let described = oci::runtime_spec(&made, &Resources::default(), &[], None);
    assert!(matches!(described, Err(oci::OciError::Users)));
}
