//! Pure. What the daemon says about itself and its host.

use bollard_stubs::models::{
    DeviceInfo, LocalNodeState, PluginsInfo, Runtime, SwarmInfo, SystemInfo, SystemInfoCgroupDriverEnum,
    SystemInfoCgroupVersionEnum, SystemVersion, SystemVersionComponents, SystemVersionPlatform,
};

use stack_engine::cgroup::Hierarchies;
use stack_engine::container::{Runtimes, UserNamespaces};

use super::text::signed;
use crate::DaemonInfo;
use crate::host::Host;
use crate::version::{NEWEST_TEXT, OLDEST_TEXT};

/// How many containers are in which state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// All of them.
    pub containers: usize,
    /// Those that run.
    pub running: usize,
    /// Images.
    pub images: usize,
}

/// What the host has that containers may be given or kept by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hardware {
    /// AppArmor confines containers.
    pub apparmor: bool,
    /// Containers are labelled for SELinux.
    pub selinux: bool,
    /// Where devices are described by name.
    pub cdi_directories: Vec<String>,
    /// The devices that are described there.
    pub devices: Vec<String>,
    /// Whose users those of containers are.
    pub users: UserNamespaces,
}

/// The architecture in Go's words, which Docker's clients compare images with.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

/// The answer of `/version`.
pub fn version(daemon: &DaemonInfo, host: &Host) -> SystemVersion {
    let details = [
        ("ApiVersion", NEWEST_TEXT),
        ("MinAPIVersion", OLDEST_TEXT),
        ("Arch", architecture()),
        ("Os", "linux"),
        ("GitCommit", &daemon.commit),
        ("KernelVersion", &host.kernel),
        ("Experimental", "false"),
    ];
    let details = details.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    SystemVersion {
        platform: Some(SystemVersionPlatform { name: "stack".to_owned() }),
        components: Some(vec![SystemVersionComponents {
            name: "Engine".to_owned(),
            version: daemon.version.clone(),
            details: Some(details),
        }]),
        version: Some(daemon.version.clone()),
        api_version: Some(NEWEST_TEXT.to_owned()),
        min_api_version: Some(OLDEST_TEXT.to_owned()),
        git_commit: Some(daemon.commit.clone()),
        os: Some("linux".to_owned()),
        arch: Some(architecture().to_owned()),
        kernel_version: Some(host.kernel.clone()),
        experimental: Some(false),
        ..SystemVersion::default()
    }
}

/// The answer of `/info`.
pub fn info(
    daemon: &DaemonInfo,
    host: &Host,
    counts: Counts,
    groups: &Hierarchies,
    others: &Runtimes,
    hardware: Hardware,
    warnings: Vec<String>,
) -> SystemInfo {
    let others = others.iter().map(|(name, other)| {
        let arguments = Some(other.arguments.clone()).filter(|arguments| !arguments.is_empty());
        let path = Some(other.program.display().to_string());
        (name.clone(), Runtime { path, runtime_args: arguments, ..Runtime::default() })
    });
    let own = Runtime { path: Some("stack-shim".to_owned()), ..Runtime::default() };
    let legacy = !groups.legacy.is_empty();
    let unified = groups.unified.as_ref().is_some_and(|unified| !unified.bare);
    let controls = |controller: &str| unified || groups.legacy_with(controller).is_some();
    let names = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
    SystemInfo {
        id: Some(daemon.id.clone()),
        containers: Some(signed(counts.containers)),
        containers_running: Some(signed(counts.running)),
        containers_paused: Some(0),
        containers_stopped: Some(signed(counts.containers.saturating_sub(counts.running))),
        images: Some(signed(counts.images)),
        driver: Some("overlay".to_owned()),
        driver_status: Some(Vec::new()),
        docker_root_dir: Some(daemon.root.display().to_string()),
        plugins: Some(PluginsInfo {
            volume: names(&["local"]),
            network: names(&["bridge", "host", "null"]),
            log: names(&stack_engine::logs::DRIVERS),
            ..PluginsInfo::default()
        }),
        memory_limit: Some(controls("memory")),
        cpu_cfs_period: Some(controls("cpu")),
        cpu_cfs_quota: Some(controls("cpu")),
        cpu_shares: Some(controls("cpu")),
        cpu_set: Some(controls("cpuset")),
        pids_limit: Some(controls("pids")),
        ipv4_forwarding: Some(host.ipv4_forwarding),
        debug: Some(false),
        system_time: Some(host.time.clone()),
        logging_driver: Some("json-file".to_owned()),
        cgroup_driver: Some(SystemInfoCgroupDriverEnum::CGROUPFS),
        cgroup_version: Some(if legacy { SystemInfoCgroupVersionEnum::_1 } else { SystemInfoCgroupVersionEnum::_2 }),
        kernel_version: Some(host.kernel.clone()),
        operating_system: Some(host.system.clone()),
        os_version: Some(host.system_version.clone()),
        os_type: Some("linux".to_owned()),
        architecture: Some(std::env::consts::ARCH.to_owned()),
        ncpu: Some(signed(host.processors)),
        mem_total: Some(signed(host.memory_bytes)),
        name: Some(host.name.clone()),
        labels: Some(Vec::new()),
        experimental_build: Some(false),
        server_version: Some(daemon.version.clone()),
        runtimes: Some(others.chain([("stack".to_owned(), own)]).collect()),
        default_runtime: Some("stack".to_owned()),
        swarm: Some(SwarmInfo {
            node_id: Some(String::new()),
            node_addr: Some(String::new()),
            local_node_state: Some(LocalNodeState::INACTIVE),
            control_available: Some(false),
            error: Some(String::new()),
            ..SwarmInfo::default()
        }),
        // Containers go on when the daemon ends.
        live_restore_enabled: Some(true),
        init_binary: Some("stack-shim".to_owned()),
        security_options: Some(security_options(hardware.apparmor, hardware.selinux, hardware.users)),
        cdi_spec_dirs: Some(hardware.cdi_directories),
        discovered_devices: Some(
            hardware
                .devices
                .into_iter()
                .map(|id| DeviceInfo { source: Some("cdi".to_owned()), id: Some(id) })
                .collect(),
        ),
        warnings: Some(warnings),
        ..SystemInfo::default()
    }
}

fn security_options(apparmor: bool, selinux: bool, users: UserNamespaces) -> Vec<String> {
    let mut all = Vec::from_iter(apparmor.then(|| "name=apparmor".to_owned()));
    all.push("name=seccomp,profile=builtin".to_owned());
    all.extend(selinux.then(|| "name=selinux".to_owned()));
    if users.by_default {
        all.push("name=userns".to_owned());
    }
    all
}

#[cfg(test)]
mod tests {
    use stack_engine::container::RuntimeProgram;

    use super::*;

    #[test]
    fn the_daemon_and_its_host() {
        let daemon = DaemonInfo { id: "node-1".to_owned(), version: "0.1.0".to_owned(), ..DaemonInfo::default() };
        let host = Host { kernel: "6.1".to_owned(), processors: 2, ..Host::default() };
        let groups = Hierarchies { legacy: Vec::new(), unified: None };
        let counts = Counts { containers: 3, running: 1, images: 4 };
        let crun = RuntimeProgram { program: "/usr/bin/crun".into(), arguments: vec!["--debug".to_owned()] };
        let others = Runtimes::from([("crun".to_owned(), crun)]);
        let hardware = Hardware {
            apparmor: true,
            selinux: true,
            cdi_directories: vec!["/etc/cdi".to_owned()],
            devices: vec!["vendor.com/device=0".to_owned()],
            users: UserNamespaces { by_default: true, ..UserNamespaces::default() },
        };
        let document = info(&daemon, &host, counts, &groups, &others, hardware, vec!["careful".to_owned()]);
        let document = serde_json::to_value(document).unwrap();
        assert_eq!(document["CDISpecDirs"], serde_json::json!(["/etc/cdi"]));
        let devices = serde_json::json!([{"Source": "cdi", "ID": "vendor.com/device=0"}]);
        assert_eq!(document["DiscoveredDevices"], devices);
        assert_eq!(
            document["SecurityOptions"],
            serde_json::json!(["name=apparmor", "name=seccomp,profile=builtin", "name=selinux", "name=userns"])
        );
        assert_eq!((&document["ContainersStopped"], &document["Images"]), (&2.into(), &4.into()));
        assert_eq!((&document["CgroupVersion"], &document["NCPU"]), (&"2".into(), &2.into()));
        assert_eq!(document["MemoryLimit"], false);
        assert_eq!(document["Runtimes"]["crun"]["path"], "/usr/bin/crun");
        assert!(document["Runtimes"].get(document["DefaultRuntime"].as_str().unwrap()).is_some(), "{document}");
        assert_eq!(document["Warnings"][0], "careful");
        let document = serde_json::to_value(version(&daemon, &host)).unwrap();
        assert_eq!((&document["ApiVersion"], &document["MinAPIVersion"]), (&"1.51".into(), &"1.24".into()));
        assert_eq!(document["Components"][0]["Details"]["KernelVersion"], "6.1");
    }
}
