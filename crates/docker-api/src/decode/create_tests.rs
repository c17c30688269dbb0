use serde_json::json;
use stack_engine::container::{AppArmorChoice, ContainerMountSource, NamespaceMode, NetworkMode, SeccompChoice};
use stack_engine::selinux::Relabel;

use super::*;
use crate::encode::samples::{container as sample, running};

fn world() -> World {
    World {
        bridges: Vec::new(),
        containers: vec![sample("aa11", "db", running())],
        image_volumes: BTreeMap::from([("aa11".parse().unwrap(), vec!["/var/lib/db".to_owned()])]),
        networks: vec![KnownNetwork { name: "front".to_owned(), id: "f".repeat(64), reach: Reach::Host }],
        image_ports: vec!["80/tcp".to_owned()],
        runtimes: BTreeSet::from(["crun".to_owned()]),
        processors: 4,
        online: Online { processors: "0-1,3".to_owned(), memory_nodes: "0".to_owned() },
    }
}

fn translated(mut body: Value) -> Result<Creation, ApiError> {
    if body.get("Image").is_none() {
        body["Image"] = json!("box:1");
    }
    CreateRequest::read(body.to_string().as_bytes())?.translate(&world())
}

fn made(body: Value) -> ContainerConfig {
    translated(body).unwrap().config
}

fn host(host: Value) -> ContainerConfig {
    made(json!({ "HostConfig": host }))
}

fn refused(body: Value) -> (u16, String) {
    let error = translated(body).unwrap_err();
    (error.status().as_u16(), error.full_text())
}

/// What version 20.10 of the CLI sends for `docker run box:1`.
fn usual() -> Value {
    serde_json::from_str(
        r#"{
        "Hostname": "", "Domainname": "", "User": "", "AttachStdin": false, "AttachStdout": true, "AttachStderr": true,
        "Tty": false, "OpenStdin": false, "StdinOnce": false, "Env": [], "Cmd": null, "Image": "box:1", "Volumes": {},
        "WorkingDir": "", "Entrypoint": null, "OnBuild": null, "Labels": {},
        "HostConfig": {
            "Binds": null, "ContainerIDFile": "", "LogConfig": {"Type": "", "Config": {}}, "NetworkMode": "default",
            "PortBindings": {}, "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}, "AutoRemove": false,
            "VolumeDriver": "", "VolumesFrom": null, "CapAdd": null, "CapDrop": null, "CgroupnsMode": "", "Dns": [],
            "DnsOptions": [], "DnsSearch": [], "ExtraHosts": null, "GroupAdd": null, "IpcMode": "", "Cgroup": "",
            "Links": null, "OomScoreAdj": 0, "PidMode": "", "Privileged": false, "PublishAllPorts": false,
            "ReadonlyRootfs": false, "SecurityOpt": null, "UTSMode": "", "UsernsMode": "", "ShmSize": 0,
            "ConsoleSize": [0, 0], "Isolation": "", "CpuShares": 0, "Memory": 0, "NanoCpus": 0, "CgroupParent": "",
            "BlkioWeight": 0, "BlkioWeightDevice": [], "BlkioDeviceReadBps": null, "BlkioDeviceWriteBps": null,
            "BlkioDeviceReadIOps": null, "BlkioDeviceWriteIOps": null, "CpuPeriod": 0, "CpuQuota": 0,
            "CpuRealtimePeriod": 0, "CpuRealtimeRuntime": 0, "CpusetCpus": "", "CpusetMems": "", "Devices": [],
            "DeviceCgroupRules": null, "DeviceRequests": null, "KernelMemory": 0, "KernelMemoryTCP": 0,
            "MemoryReservation": 0, "MemorySwap": 0, "MemorySwappiness": -1, "OomKillDisable": false, "PidsLimit": 0,
            "Ulimits": null, "CpuCount": 0, "CpuPercent": 0, "IOMaximumIOps": 0, "IOMaximumBandwidth": 0,
            "MaskedPaths": null, "ReadonlyPaths": null
        },
        "NetworkingConfig": {"EndpointsConfig": {}}
    }"#,
    )
    .unwrap()
}

#[test]
fn what_the_cli_sends_for_nothing_is_nothing() {
    let creation = translated(usual()).unwrap();
    let expected = ContainerConfig {
        image: "box:1".to_owned(),
        networks: vec![stack_engine::network::NetworkEndpoint {
            name: "bridge".to_owned(),
            aliases: Vec::new(),
            ..stack_engine::network::NetworkEndpoint::default()
        }],
        ..ContainerConfig::default()
    };
    assert_eq!(creation, Creation { config: expected, warnings: Vec::new(), volumes: Vec::new() });
    assert_eq!(translated(json!({"Image": "box:1"})).unwrap(), creation);
}

#[test]
fn every_field_of_the_host_is_applied_or_refused() {
    // Whatever has a field of its own in the document must change something, or be said to be wrong.
    let changes: Value = serde_json::from_str(r#"{
        "Binds": ["/srv:/data:ro"], "LogConfig": {"Type": "none"}, "NetworkMode": "host",
        "PortBindings": {"80/tcp": [{"HostPort": "8080"}]}, "RestartPolicy": {"Name": "always"}, "AutoRemove": true,
        "VolumeDriver": "other", "VolumesFrom": ["db"], "CapAdd": ["NET_ADMIN"], "CapDrop": ["ALL"],
        "CgroupnsMode": "host", "Dns": ["9.9.9.9"], "DnsOptions": ["ndots:1"], "DnsSearch": ["x.test"],
        "ExtraHosts": ["a:1.2.3.4"], "GroupAdd": ["50"], "IpcMode": "host", "Cgroup": "container:db", "Links": ["db"],
        "OomScoreAdj": 5, "PidMode": "host", "Privileged": true, "PublishAllPorts": true, "ReadonlyRootfs": true,
        "SecurityOpt": ["no-new-privileges"], "StorageOpt": {"size": "1g"}, "Tmpfs": {"/run": "size=1m"},
        "UTSMode": "host", "UsernsMode": "private", "ShmSize": 4096, "Sysctls": {"net.core.somaxconn": "9"},
        "Runtime": "other", "ConsoleSize": [9, 9], "Isolation": "hyperv", "CpuShares": 5, "Memory": 8388608,
        "NanoCpus": 500000000, "CgroupParent": "/x", "BlkioWeight": 20,
        "BlkioWeightDevice": [{"Path": "/dev/sda", "Weight": 5}],
        "BlkioDeviceReadBps": [{"Path": "/dev/sda", "Rate": 5}], "BlkioDeviceWriteBps": [{"Path": "/dev/sda", "Rate": 5}],
        "BlkioDeviceReadIOps": [{"Path": "/dev/sda", "Rate": 5}],
        "BlkioDeviceWriteIOps": [{"Path": "/dev/sda", "Rate": 5}], "CpuPeriod": 1000, "CpuQuota": 2000,
        "CpuRealtimePeriod": 1, "CpuRealtimeRuntime": 1, "CpusetCpus": "0", "CpusetMems": "0",
        "Devices": [{"PathOnHost": "/dev/null"}], "DeviceCgroupRules": ["c 1:3 rwm"],
        "DeviceRequests": [{"Driver": "nvidia"}], "KernelMemory": 5, "KernelMemoryTCP": 5,
        "MemoryReservation": 5, "MemorySwap": 5, "MemorySwappiness": 5, "OomKillDisable": true, "Init": true,
        "PidsLimit": 5, "Ulimits": [{"Name": "nofile", "Soft": 5, "Hard": 6}], "CpuCount": 1, "CpuPercent": 1,
        "IOMaximumIOps": 1, "IOMaximumBandwidth": 1, "MaskedPaths": [], "ReadonlyPaths": [],
        "Annotations": {"a": "b"}, "Mounts": [{"Type": "tmpfs", "Target": "/t"}]
    }"#).unwrap();
    let plain = translated(usual()).unwrap();
    for (field, value) in changes.as_object().unwrap() {
        let mut body = usual();
        body["HostConfig"][field] = value.clone();
        if let Ok(creation) = translated(body) {
            assert_ne!(creation, plain, "{field} changes nothing");
        }
    }
    // The same for the fields of the container itself.
    let changes = json!({
        "Hostname": "a", "Domainname": "b", "User": "1", "ExposedPorts": {"9/udp": {}}, "Tty": true, "OpenStdin": true,
        "StdinOnce": true, "Env": ["A=b"], "Cmd": ["x"], "Healthcheck": {"Test": ["NONE"]}, "Image": "other",
        "Volumes": {"/v": {}}, "WorkingDir": "/w", "Entrypoint": ["e"], "NetworkDisabled": true, "Labels": {"a": "b"},
        "StopSignal": "HUP", "StopTimeout": 5, "MacAddress": "02:00:00:00:00:01"
    });
    for (field, value) in changes.as_object().unwrap() {
        let mut body = usual();
        body[field] = value.clone();
        if let Ok(creation) = translated(body) {
            assert_ne!(creation, plain, "{field} changes nothing");
        }
    }
}

#[test]
fn what_runs() {
    let config = made(json!({
        "Cmd": "date", "Entrypoint": [""], "Env": ["A=b=c", "GONE", "E="], "StopTimeout": 7, "Tty": true,
        "HostConfig": {"ConsoleSize": [24, 80]}
    }));
    assert_eq!((config.command, config.entrypoint), (Some(vec!["date".to_owned()]), Some(Vec::new())));
    assert_eq!(config.environment, BTreeMap::from([("A".into(), "b=c".into()), ("E".into(), String::new())]));
    assert_eq!(config.environment_removed, ["GONE"]);
    assert_eq!(config.stop_grace, Some(Duration::from_secs(7)));
    assert_eq!(config.terminal_size, Some(TerminalSize { rows: 24, columns: 80 }));
    assert_eq!(refused(json!({"Env": ["=x"]})).0, 400);
    assert_eq!(refused(json!({"Hostname": "a b"})).0, 400);
}

#[test]
fn health() {
    let check = made(json!({"Shell": ["/bin/bash", "-c"], "Healthcheck": {"Test": ["CMD-SHELL", "curl x"],
        "Interval": 1_000_000_000, "Retries": 2}}))
    .healthcheck
    .unwrap();
    assert_eq!(check.test, ["CMD", "/bin/bash", "-c", "curl x"]);
    assert_eq!((check.interval, check.timeout, check.retries), (Some(Duration::from_secs(1)), None, Some(2)));
    assert_eq!(made(json!({"Healthcheck": {}})).healthcheck, None);
    assert!(refused(json!({"Healthcheck": {"Interval": 5}})).1.contains("less than 1ms"));
    assert_eq!(refused(json!({"Healthcheck": {"Test": ["sh"]}})).0, 400);
}

#[test]
fn mounts_in_all_their_forms() {
    let creation = translated(json!({
        "Volumes": {"/anonymous": {}, "/data": {}},
        "HostConfig": {
            "Binds": ["/srv:/data:ro,rslave,Z", "named:/named:nocopy"],
            "Mounts": [
                {"Type": "volume", "Source": "labelled", "Target": "/labelled", "VolumeOptions": {"Labels": {"a": "b"},
                    "Subpath": "inner"}},
                {"Type": "tmpfs", "Target": "/run", "TmpfsOptions": {"SizeBytes": 4096, "Mode": 448,
                    "Options": [["noexec"], ["uid", "5"]]}},
                {"Type": "bind", "Source": "/etc", "Target": "/host", "ReadOnly": true,
                    "BindOptions": {"Propagation": "rshared", "NonRecursive": true}}
            ],
            "Tmpfs": {"/tmp": "rw,size=64k"}
        }
    }))
    .unwrap();
    let find = |target: &str| creation.config.mounts.iter().find(|mount| mount.target == target).unwrap().clone();
    assert_eq!(creation.config.mounts.len(), 7, "the volume at /data is the directory: {:?}", creation.config.mounts);
    assert!(find("/data").read_only);
    let propagation = Some("rslave".to_owned());
    let bind = ContainerMountSource::Bind {
        path: "/srv".into(),
        create_host_path: true,
        propagation,
        non_recursive: false,
        writable_below: false,
        mapped: false,
    };
    assert_eq!(find("/data").source, bind);
    assert_eq!(find("/data").relabel, Some(Relabel::Private));
    assert_eq!((find("/named").relabel, creation.warnings.len()), (None, 0));
    assert!(matches!(find("/named").source, ContainerMountSource::Volume { no_copy: true, .. }));
    assert!(matches!(find("/anonymous").source, ContainerMountSource::Volume { name: None, .. }));
    assert!(matches!(find("/labelled").source, ContainerMountSource::Volume { subpath: Some(_), .. }));
    let options = vec!["noexec".to_owned(), "uid=5".to_owned()];
    assert_eq!(find("/run").source, ContainerMountSource::Tmpfs { size: Some(4096), mode: Some(0o700), options });
    assert!(matches!(find("/host").source, ContainerMountSource::Bind { non_recursive: true, .. }));
    let names: Vec<&str> = creation.volumes.iter().map(|volume| volume.name.as_str()).collect();
    assert_eq!(names, ["labelled", "named"]);
    assert_eq!(creation.volumes[0].description.labels, BTreeMap::from([("a".to_owned(), "b".to_owned())]));

    let from = host(json!({"VolumesFrom": ["db:z"]})).mounts;
    assert_eq!((from[0].read_only, from[0].relabel), (false, Some(Relabel::Shared)));
    let from = host(json!({"VolumesFrom": ["db:ro"]})).mounts;
    assert_eq!((from[0].target.as_str(), from[0].read_only), ("/var/lib/db", true));
    let name = Some("aa11.own_var_lib_db".to_owned());
    assert_eq!(from[0].source, ContainerMountSource::Volume { name, no_copy: true, subpath: None });

    let refused = |text: Value| refused(json!({"HostConfig": text}));
    assert!(refused(json!({"Binds": ["./x:/data"]})).1.contains("use absolute path"));
    assert!(refused(json!({"Binds": ["/a:/b:fast"]})).1.contains("invalid mode: fast"));
    assert!(refused(json!({"Binds": ["/a:/b", "/c:/b/"]})).1.contains("Duplicate mount point"));
    assert_eq!(refused(json!({"Binds": ["a:b:c:d"]})).0, 400);
    assert_eq!(refused(json!({"Binds": ["/a:/"]})).0, 400);
    assert_eq!(refused(json!({"VolumesFrom": ["nobody"]})).0, 404);
    assert_eq!(refused(json!({"Mounts": [{"Type": "cluster", "Source": "x", "Target": "/x"}]})).0, 501);
    let image = json!({"Type": "image", "Source": "x:1", "Target": "/x", "ImageOptions": {"Subpath": "a/b"}});
    let source = host(json!({"Mounts": [image]})).mounts.remove(0).source;
    let subpath = Some("a/b".to_owned());
    assert_eq!(source, ContainerMountSource::Image { reference: "x:1".to_owned(), subpath });
    assert_eq!(refused(json!({"Mounts": [{"Type": "bind", "Source": "x", "Target": "/x"}]})).0, 400);
    assert_eq!(
        refused(json!({"Mounts": [{"Type": "bind", "Source": "/x", "Target": "/x", "TmpfsOptions": {}}]})).0,
        400
    );
}

#[test]
fn networks_and_ports() {
    let config = made(json!({
        "ExposedPorts": {"9000-9001/udp": {}},
        "HostConfig": {"NetworkMode": "front", "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"},
            {"HostIp": "", "HostPort": ""}]}, "PublishAllPorts": true, "Links": ["/db:/me/store"]},
        "NetworkingConfig": {"EndpointsConfig": {"front": {"Aliases": ["site"], "IPAMConfig": null}}}
    }));
    assert_eq!((config.networks[0].name.as_str(), &config.networks[0].aliases), ("front", &vec!["site".to_owned()]));
    assert_eq!(config.exposed_ports, ["9000/udp", "9001/udp"]);
    let ports: Vec<String> = config.ports.iter().map(ToString::to_string).collect();
    assert_eq!(ports, ["0:80/tcp", "0:9000/udp", "0:9001/udp", "127.0.0.1:8080:80/tcp"]);
    assert_eq!(config.links, [("aa11".parse().unwrap(), "store".to_owned())]);
    assert_eq!(host(json!({"NetworkMode": "ffff"})).networks[0].name, "front");
    assert_eq!(host(json!({"NetworkMode": "none"})).network_mode, NetworkMode::None);
    let joined = host(json!({"NetworkMode": "container:db"}));
    assert_eq!(joined.network_mode, NetworkMode::Container("aa11".parse().unwrap()));
    assert!(joined.networks.is_empty());
    let on_host = translated(json!({"HostConfig": {"NetworkMode": "host", "PortBindings": {"80/tcp": [{}]}}})).unwrap();
    assert_eq!(on_host.warnings, ["Published ports are discarded when using host network mode"]);
    assert!(on_host.config.ports.is_empty());

    let host = |host: Value| refused(json!({"HostConfig": host}));
    assert_eq!(host(json!({"NetworkMode": "nowhere"})), (404, "network nowhere not found".to_owned()));
    assert_eq!(host(json!({"NetworkMode": "container:nobody"})).0, 404);
    for wrong in ["5-1", "0-5", "1-x", "1-70000", "-"] {
        assert_eq!(host(json!({"PortBindings": {"80/tcp": [{"HostPort": wrong}]}})).0, 400, "{wrong}");
    }
    assert_eq!(host(json!({"PortBindings": {"80/icmp": [{"HostPort": "1"}]}})).0, 400);
    assert_eq!(host(json!({"PortBindings": {"0/tcp": [{"HostPort": "1"}]}})).0, 400);
    assert_eq!(host(json!({"ExtraHosts": ["a:b"]})).0, 400);
    assert_eq!(host(json!({"Dns": ["x"]})).0, 400);
    assert_eq!(
        refused(json!({"Hostname": "x", "HostConfig": {"NetworkMode": "container:db"}})).1,
        "conflicting options: hostname and the container type network mode"
    );
}

#[test]
fn isolation_and_limits() {
    let config = host(json!({
        "IpcMode": "container:db", "PidMode": "container:aa11", "UTSMode": "host",
        "SecurityOpt": ["no-new-privileges:true", "seccomp={}", "label=disable", "systempaths=unconfined"],
        "Memory": 67_108_864, "MemorySwap": -1, "MemorySwappiness": 0, "NanoCpus": 1_500_000_000_i64,
        "Ulimits": [{"Name": "NOFILE", "Soft": 5}], "Devices": [{"PathOnHost": "/dev/fuse"}],
        "BlkioDeviceReadBps": [{"Path": "/dev/sda", "Rate": 1024}], "PidsLimit": -1
    }));
    let db: ContainerId = "aa11".parse().unwrap();
    assert_eq!(config.ipc_mode, NamespaceMode::Container(db.clone()));
    assert_eq!((config.pid_mode, config.uts_mode), (NamespaceMode::Container(db), NamespaceMode::Host));
    assert!(config.no_new_privileges && config.seccomp == SeccompChoice::Custom("{}".to_owned()));
    assert_eq!((config.masked_paths, config.read_only_paths), (Some(Vec::new()), Some(Vec::new())));
    let resources = config.resources;
    assert_eq!((resources.memory_and_swap_bytes, resources.swappiness), (Some(u64::MAX), Some(0)));
    assert_eq!((resources.cpu_limit_millis, resources.pids), (Some(1500), None));
    assert_eq!(resources.blkio_throttles[0].rate, 1024);
    assert_eq!((config.ulimits["nofile"].soft, config.ulimits["nofile"].hard), (5, 5));
    assert_eq!((config.devices[0].target.as_str(), config.devices[0].permissions.as_str()), ("/dev/fuse", "rwm"));
    assert!(host(json!({"IpcMode": "none"})).without_shm);
    assert_eq!(host(json!({"Runtime": "crun"})).runtime.as_deref(), Some("crun"));
    assert_eq!(host(json!({"Runtime": "runc"})).runtime, None, "the usual one by its usual name");
    let confined = |option: &str| host(json!({"SecurityOpt": [option]})).apparmor;
    assert_eq!(confined("apparmor=unconfined"), AppArmorChoice::Unconfined);
    assert_eq!(confined("apparmor:web"), AppArmorChoice::Profile("web".to_owned()));
    let labels = ["label=type:web_t", "label:level:s0:c3,c4", "label=filetype:web_file_t"];
    let options = host(json!({"SecurityOpt": labels})).selinux;
    assert_eq!(options.texts(), ["type:web_t", "level:s0:c3,c4", "filetype:web_file_t"]);
    assert!(host(json!({"SecurityOpt": ["label=disable"]})).selinux.disabled);
    let (status, said) = refused(json!({"HostConfig": {"SecurityOpt": ["label=nested"]}}));
    assert!(status == 400 && said.starts_with("invalid --security-opt: bad label option \"nested\""), "{said}");
    let named = json!({"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["a.b/c=1", "a.b/c=0:1"], "Count": 0}]});
    assert_eq!(host(named).cdi_devices, ["a.b/c=1", "a.b/c=0:1"]);
    let gpus = |request: Value| host(json!({"DeviceRequests": [request]})).cdi_devices;
    assert_eq!(gpus(json!({"Count": -1, "Capabilities": [["gpu", "compute"]]})), ["nvidia.com/gpu=all"]);
    let two = json!({"Driver": "nvidia", "Count": 2, "Capabilities": [["tpu"], ["gpu"]]});
    assert_eq!(gpus(two), ["nvidia.com/gpu=0", "nvidia.com/gpu=1"]);
    let ids = json!({"DeviceIDs": ["1", "GPU-3faa", "nvidia.com/gpu=0:1"], "Capabilities": [["gpu"]], "Count": 0});
    assert_eq!(gpus(ids), ["nvidia.com/gpu=1", "nvidia.com/gpu=GPU-3faa", "nvidia.com/gpu=0:1"]);
    let other = json!({"HostConfig": {"DeviceRequests": [{"Count": -1, "Capabilities": [["tpu", "compute"]]}]}});
    assert_eq!(
        refused(other),
        (400, "could not select device driver \"\" with capabilities: [[tpu compute]]".to_owned())
    );

    let refused = |host: Value| refused(json!({"HostConfig": host}));
    for (wrong, status) in [
        (json!({"Memory": 1000}), 400),
        (json!({"Memory": 67_108_864, "MemorySwap": 1000}), 400),
        (json!({"MemorySwap": 67_108_864}), 400),
        (json!({"NanoCpus": 5_000_000_000_i64}), 400),
        (json!({"NanoCpus": 1_000_000_000, "CpuQuota": 5}), 400),
        (json!({"SecurityOpt": ["colour=red"]}), 400),
        (json!({"SecurityOpt": ["label=kind:svirt_apache_t"]}), 400),
        (json!({"DeviceRequests": [{"Driver": "nvidia", "Count": -1}]}), 400),
        (json!({"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["/dev/fuse"]}]}), 400),
        (json!({"DeviceRequests": [{"Driver": "cdi", "Count": 2}]}), 400),
        (json!({"DeviceRequests": [{"Driver": "cdi", "Options": {"a": "b"}}]}), 400),
        (json!({"DeviceRequests": [{"Count": 1, "DeviceIDs": ["0"], "Capabilities": [["gpu"]]}]}), 400),
        (json!({"DeviceRequests": [{"Count": 5000, "Capabilities": [["gpu"]]}]}), 400),
        (json!({"DeviceRequests": [{"DeviceIDs": ["a b"], "Capabilities": [["gpu"]]}]}), 400),
        (json!({"DeviceRequests": [{"Driver": "amd", "Count": 1, "Capabilities": [["gpu"]]}]}), 400),
        (json!({"PidMode": "private"}), 400),
        (json!({"UsernsMode": "keep-id"}), 400),
        (json!({"Runtime": "kata"}), 400),
        (json!({"CgroupnsMode": "strange"}), 400),
        (json!({"StorageOpt": {"size": "1g", "inodes": "5"}}), 400),
        (json!({"StorageOpt": {"size": "0"}}), 400),
        (json!({"StorageOpt": {"size": "1.2.3g"}}), 400),
        (json!({"StorageOpt": {"size": "5 parsecs"}}), 400),
        (json!({"CpuRealtimeRuntime": 9, "CpuRealtimePeriod": 8}), 400),
        (json!({"Mounts": [{"Type": "image", "Target": "/t"}]}), 400),
        (json!({"Mounts": [{"Type": "image", "Source": "a", "Target": "/t", "ImageOptions": {"Subpath": "/x"}}]}), 400),
        (json!({"Mounts": [{"Type": "image", "Source": "a", "Target": "/t", "VolumeOptions": {}}]}), 400),
        (json!({"ShmSize": -1}), 400),
        (json!({"OomScoreAdj": 2000}), 400),
        (json!({"RestartPolicy": {"Name": "always"}, "AutoRemove": true}), 400),
        (json!({"RestartPolicy": {"Name": "no", "MaximumRetryCount": 3}}), 400),
    ] {
        let (found, text) = refused(wrong.clone());
        assert_eq!(found, status, "{wrong}: {text}");
    }
}

#[test]
fn sizes_are_read_as_docker_reads_them() {
    for (text, bytes) in [
        ("1024", 1024),
        ("10G", 10 << 30),
        ("1.5gb", 3 << 29),
        ("512 MiB", 512 << 20),
        ("7k", 7 << 10),
        ("2TB", 2 << 40),
        ("3b", 3),
    ] {
        let config = host(json!({"StorageOpt": {"size": text}}));
        assert_eq!(config.storage_size, Some(bytes), "{text}");
    }
    assert_eq!(host(json!({"StorageOpt": {}})).storage_size, None);
    for wrong in ["", "g", "ib", "-5", "1e9", "9999999p", "1gg"] {
        let (status, _) = refused(json!({"HostConfig": {"StorageOpt": {"size": wrong}}}));
        assert_eq!(status, 400, "{wrong}");
    }
}

#[test]
fn what_is_wrong_is_said_in_dockers_words() {
    let text = |host: Value| refused(json!({"HostConfig": host})).1;
    for (wrong, words) in [
        (json!({"CpusetCpus": "2"}), "Requested CPUs are not available - requested 2, available: 0-1,3"),
        (json!({"CpusetCpus": "0-4294967295"}), "Requested CPUs are not available"),
        (json!({"CpusetMems": "0,1"}), "Requested memory nodes are not available - requested 0,1, available: 0"),
        (json!({"CpusetCpus": "3-1"}), "Invalid value 3-1 for cpuset cpus: invalid format"),
        (json!({"CpusetMems": "all"}), "Invalid value all for cpuset mems: invalid format"),
        (json!({"CpuPeriod": 10}), "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s"),
        (json!({"CpuQuota": 10}), "CPU cfs quota can not be less than 1ms (i.e. 1000)"),
        (json!({"RestartPolicy": {"Name": "often"}}), "invalid restart policy: unknown policy 'often'; use one of"),
        (
            json!({"Mounts": [{"Type": "tape", "Target": "/x"}]}),
            "invalid mount config for type \"tape\": mount type unknown",
        ),
        (json!({"Binds": ["data:/x:ro,rw"]}), "invalid mode: ro,rw"),
        (json!({"Binds": ["data:/x:fast"]}), "invalid mode: fast"),
    ] {
        assert!(text(wrong.clone()).starts_with(words), "{wrong}: {}", text(wrong.clone()));
    }
    assert_eq!(host(json!({"CpusetCpus": "0-1, 3"})).resources.cpuset_cpus.as_deref(), Some("0-1, 3"));
    let update = |body: Value| decode_update(body.to_string().as_bytes(), &Resources::default(), &world());
    assert!(update(json!({"RestartPolicy": {"Name": "often"}})).unwrap_err().to_string().contains("'often'"));
    let warned = |body: Value| update(body).unwrap().1;
    assert_eq!(warned(json!({"Memory": 67_108_864, "MemorySwap": -1})), Vec::<String>::new());
    assert!(warned(json!({"KernelMemory": 5}))[0].starts_with("Your kernel does not support kernel memory limit"));
    assert!(update(json!({"CpusetCpus": "9"})).unwrap_err().to_string().contains("available: 0-1,3"));
}

#[test]
fn limits_that_kernels_have_given_up_are_discarded_with_a_warning() {
    let creation =
        translated(json!({"HostConfig": {"KernelMemory": 9_999_999, "KernelMemoryTCP": 5}, "Image": "made:1"}));
    let warnings = creation.unwrap().warnings;
    assert_eq!(warnings.len(), 2);
    assert_eq!(
        warnings[0],
        "Your kernel does not support kernel memory limit capabilities or the cgroup is not mounted. Limitation discarded."
    );
    assert!(warnings[1].contains("kernel memory TCP limit"));
    let none = json!({"HostConfig": {"KernelMemory": 0, "KernelMemoryTCP": -1}, "Image": "made:1"});
    assert_eq!(translated(none).unwrap().warnings, Vec::<String>::new());
}

proptest::proptest! {
    #[test]
    fn no_document_panics(
        field in "[A-Za-z]{2,12}",
        word in "\\PC{0,30}",
        number in proptest::prelude::any::<i64>(),
    ) {
        for value in [json!(word), json!(number), json!([word]), json!({ word.clone(): [word] })] {
            let _ = translated(json!({ field.clone(): value, "HostConfig": { field.clone(): value } }));
            for name in ["Binds", "VolumesFrom", "SecurityOpt", "Links", "ExtraHosts", "PortBindings", "Tmpfs", "NetworkMode", "IpcMode"] {
                let _ = translated(json!({"HostConfig": { name: value }}));
            }
        }
    }
}
