//! What a container can see, use and do, as it finds out itself.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use stack_engine::container::EventKind;
use stack_engine::container::{
    ContainerConfig, ContainerMount, ContainerMountSource, ExecCommand, Health, Healthcheck, NamespaceMode, Resources,
    SeccompChoice,
};
use stack_engine::events::Happening;
use stack_engine::network::NetworkEndpoint;
use support::{shell, with_host};

#[test]
fn namespaces_capabilities_and_paths() {
    with_host("isolation", async |host| {
        let line = "echo pid $$; hostname; cat /proc/self/status | grep -E 'CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp:'; \
            ls -A /sys/firmware | wc -l; cat /proc/keys 2>/dev/null | wc -l; \
            echo x 2>/dev/null > /proc/sys/kernel/hostname || echo sys-protected; \
            echo x 2>/dev/null > /proc/sysrq-trigger || echo sysrq-protected; \
            mkdir /sys/fs/cgroup/x /sys/fs/cgroup/memory/x 2>/dev/null || echo cgroup-protected; ls -d /sys/fs/cgroup/x /sys/fs/cgroup/memory/x 2>/dev/null; \
            mount -t tmpfs x /tmp 2>/dev/null || echo no-mount; unshare -n true 2>/dev/null || echo no-unshare; \
            ls /proc/self/fd | wc -l; ls /dev | tr '\\n' ' '; cat /proc/self/cgroup | grep -c stack-test; \
            mknod /tmp/disk b 254 0 && (head -c1 /tmp/disk 2>/dev/null || echo no-disk); pwd; echo $HOME $PATH";
        let (code, output) =
            host.run("look", ContainerConfig { hostname: Some("inside".to_owned()), ..shell(line) }).await;
        let lines: Vec<&str> = output.lines().collect();
        assert_eq!(code, 0, "{output}");
        assert_eq!(lines[..2], ["pid 1", "inside"]);
        assert_eq!(
            lines[2..5],
            ["CapEff:\t00000000a80425fb", "CapBnd:\t00000000a80425fb", "CapAmb:\t0000000000000000"]
        );
        assert_eq!(lines[5..7], ["NoNewPrivs:\t0", "Seccomp:\t2"]);
        assert_eq!(lines[7..9], ["0", "0"], "{output}");
        for expected in [
            "sys-protected",
            "sysrq-protected",
            "cgroup-protected",
            "no-mount",
            "no-unshare",
            "no-disk",
            "/",
            "/root /bin",
        ] {
            assert!(lines.contains(&expected), "{expected} in {output}");
        }
        assert!(lines.contains(&"4"), "three streams and the directory itself: {output}");
        let dev = "console core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero";
        assert!(output.replace("console ", "").contains(&dev.replace("console ", "")), "{output}");
    });
}

#[test]
fn users_limits_and_settings() {
    with_host("settings", async |host| {
        let mut config = shell(
            "id; umask; ulimit -n; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; \
            cat /proc/self/oom_score_adj; touch /x 2>&1; cat /proc/self/status | grep -E 'CapEff|NoNewPrivs'; pwd; \
            df -k /dev/shm | tail -1; echo $A; cat /etc/hostname; grep inside /etc/hosts; echo hi > /dev/stderr",
        );
        config.user = Some("web".to_owned());
        config.group_add = vec!["7".to_owned()];
        config.read_only = true;
        config.no_new_privileges = true;
        config.working_dir = Some("/home/web".to_owned());
        config.oom_score_adj = Some(300);
        config.hostname = Some("inside".to_owned());
        config.shm_size = Some(1 << 20);
        config.environment.insert("A".to_owned(), "b c".to_owned());
        let limit = stack_engine::container::Ulimit { soft: 100, hard: 200 };
        config.ulimits.insert("nofile".to_owned(), limit);
        let (code, output) = host.run("web", config).await;
        assert_eq!(code, 0, "{output}");
        for expected in [
            "uid=33(web) gid=44(web) groups=7,44(web),50(extra)",
            "0022",
            "100",
            "300",
            "/home/web",
            "1024",
            "b c",
            "NoNewPrivs:\t1",
            "CapEff:\t0000000000000000",
            "Read-only file system",
            "127.0.1.1\tinside",
            "hi",
        ] {
            assert!(output.contains(expected), "{expected} in {output}");
        }
    });
}

#[test]
fn limits_of_memory_processes_and_processors() {
    with_host("limits", async |host| {
        let resources = Resources {
            memory_bytes: Some(16 << 20),
            pids: Some(20),
            cpu_limit_millis: Some(500),
            ..Resources::default()
        };
        let hungry = ContainerConfig {
            resources: resources.clone(),
            // Memory that is written cannot be taken back.
            ..shell("head -c 100000000 /dev/zero > /dev/shm/full; tail /dev/zero; echo survived")
        };
        let id = host.start("hungry", ContainerConfig { shm_size: Some(1 << 30), ..hungry }).await;
        let status = host.wait(&id).await;
        assert!(status.oom, "{status:?} {}", host.output(&id).await);
        let many = shell("i=0; while [ $i -lt 40 ]; do sleep 60 & i=$((i+1)); done; echo all");
        let (_, output) = host.run("many", ContainerConfig { resources: resources.clone(), ..many }).await;
        assert!(output.contains("can't fork"), "{output}");
        let busy = host.start("busy", ContainerConfig { resources, ..shell("echo ready; while :; do :; done") }).await;
        host.says(&busy, "ready").await;
        let usage = host.engine.usage(&busy).unwrap();
        assert_eq!(usage.memory_limit_bytes, Some(16 << 20));
        assert!(usage.memory_bytes > 0 && usage.pids >= 1, "{usage:?}");
    });
}

#[test]
fn volumes_are_filled_once_and_outlive_the_container() {
    with_host("volumes", async |host| {
        let with_volume = |line: &str| ContainerConfig {
            mounts: vec![
                ContainerMount {
                    relabel: None,
                    target: "/data".to_owned(),
                    read_only: false,
                    source: ContainerMountSource::Volume {
                        name: Some("kept".to_owned()),
                        no_copy: false,
                        subpath: None,
                    },
                },
                ContainerMount {
                    relabel: None,
                    target: "/fast".to_owned(),
                    read_only: false,
                    source: ContainerMountSource::Tmpfs { size: Some(4096), mode: None, options: Vec::new() },
                },
                ContainerMount {
                    relabel: None,
                    target: "/own".to_owned(),
                    read_only: true,
                    source: ContainerMountSource::Volume { name: None, no_copy: true, subpath: None },
                },
            ],
            ..shell(line)
        };
        let line = "cat /data/seed; echo more >> /data/seed; touch /own/x 2>&1; head -c 9000 /dev/zero > /fast/x || echo too-large";
        let (code, output) = host.run("first", with_volume(line)).await;
        assert_eq!(code, 0);
        assert!(output.contains("from the image") && output.contains("Read-only file system"), "{output}");
        assert!(output.contains("too-large"), "{output}");
        let (_, output) = host.run("second", with_volume("cat /data/seed")).await;
        assert_eq!(output, "from the imagemore\n");
        assert!(host.engine.remove_volume("kept").unwrap_err().to_string().contains("first, second"));
        let options = stack_engine::RemoveOptions { force: true, volumes: true };
        for name in ["first", "second"] {
            host.engine.remove(&name.parse().unwrap(), options).await.unwrap();
        }
        let left: Vec<String> = host.engine.volumes().list().into_iter().map(|volume| volume.name).collect();
        assert_eq!(left, ["kept"]);
        host.engine.remove_volume("kept").unwrap();
    });
}

#[test]
fn a_mount_target_that_is_a_link_stays_in_the_container() {
    with_host("links", async |host| {
        let outside = host.root.join("outside");
        std::fs::create_dir(&outside).unwrap();
        let upper = host.root.join("layers/upper");
        // The same path in the container: that is where the link leads there.
        std::fs::create_dir_all(upper.join(outside.strip_prefix("/").unwrap())).unwrap();
        std::os::unix::fs::symlink(&outside, upper.join("link")).unwrap();
        std::os::unix::fs::symlink("../../../../../..", upper.join("climb")).unwrap();
        let mount = |target: &str| ContainerMount {
            relabel: None,
            target: target.to_owned(),
            read_only: false,
            source: ContainerMountSource::Tmpfs { size: None, mode: None, options: Vec::new() },
        };
        let config = ContainerConfig { mounts: vec![mount("/link/below"), mount("/climb/top")], ..shell("ls -d /top") };
        let (code, _) = host.run("links", config).await;
        assert_eq!(code, 0);
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
        // A /proc that leads elsewhere would take the masks with it.
        std::fs::remove_dir(host.root.join("layers/base/proc")).unwrap();
        std::os::unix::fs::symlink("/tmp", upper.join("proc")).unwrap();
        let id = host.create("proc", shell("true")).await;
        let error = host.engine.start(&id).await.unwrap_err();
        assert!(error.full_text().contains("symbolic link"), "{}", error.full_text());
    });
}

#[test]
fn the_shims_program_cannot_be_overwritten() {
    with_host("overwrite", async |host| {
        // With init, process 1 is the shim's program: root in the container tries to write to it.
        let line = "exec 3>/proc/1/exe && echo opened; echo done";
        let (_, output) = host.run("evil", ContainerConfig { init: true, ..shell(line) }).await;
        assert!(!output.contains("opened"), "{output}");
    });
}

#[test]
fn init_reaps_orphans_and_passes_signals_on() {
    with_host("init", async |host| {
        let line = "(sleep 0.01 & sleep 0.01 &) ; trap 'exit 4' TERM; echo ready as $$; while :; do sleep 0.02; done";
        let id = host.start("init", ContainerConfig { init: true, ..shell(line) }).await;
        host.says(&id, "ready as 2").await;
        let zombies = ExecCommand {
            arguments: ["sh", "-c", "grep -l '^State:.Z' /proc/[0-9]*/status | wc -l"].map(str::to_owned).to_vec(),
            output_limit: 1000,
            ..ExecCommand::default()
        };
        let deadline = tokio::time::Instant::now() + support::PATIENCE;
        while host.engine.exec(&id, zombies.clone()).await.unwrap().stdout != b"0\n" {
            assert!(tokio::time::Instant::now() < deadline);
        }
        // Nothing of the host is in its command line.
        let line = ExecCommand {
            arguments: ["cat", "/proc/1/cmdline"].map(str::to_owned).to_vec(),
            output_limit: 1000,
            ..ExecCommand::default()
        };
        let line = String::from_utf8(host.engine.exec(&id, line).await.unwrap().stdout).unwrap();
        assert_eq!(line.trim_end_matches('\0'), "init");
        host.engine.stop(&id, None).await.unwrap();
        assert_eq!(host.wait(&id).await.code, 4);
        let (code, _) = host.run("code", ContainerConfig { init: true, ..shell("exit 9") }).await;
        assert_eq!(code, 9);
        let id = host
            .create("absent", ContainerConfig { init: true, command: Some(vec!["absent".to_owned()]), ..shell("") })
            .await;
        assert_eq!(host.engine.start(&id).await.unwrap_err().exit_code(), 127);
    });
}

#[test]
fn a_terminal() {
    with_host("terminal", async |host| {
        let (code, output) = host
            .run(
                "tty",
                ContainerConfig { tty: true, ..shell("tty; test -t 1 && echo yes; ls -l /dev/console | cut -c1") },
            )
            .await;
        assert_eq!((code, output.as_str()), (0, "/dev/pts/0\r\nyes\r\nc\r\n"));
    });
}

#[test]
fn exec_has_the_containers_confines_and_its_own_end() {
    with_host("exec", async |host| {
        let id = host.start("main", shell("echo ready; while :; do sleep 0.05; done")).await;
        host.says(&id, "ready").await;
        let command = |line: &str| ExecCommand {
            arguments: ["sh", "-c", line].map(str::to_owned).to_vec(),
            output_limit: 10_000,
            ..ExecCommand::default()
        };
        let outcome = host
            .engine
            .exec(&id, command("echo out; echo err >&2; grep -E 'CapEff|Seccomp:' /proc/self/status; ls /proc/self/fd | wc -l; exit 6"))
            .await
            .unwrap();
        assert_eq!(outcome.code, Some(6));
        let text = String::from_utf8(outcome.stdout).unwrap();
        assert_eq!(text, "out\nCapEff:\t00000000a80425fb\nSeccomp:\t2\n4\n");
        assert_eq!(outcome.stderr, b"err\n");
        let user = ExecCommand {
            user: Some("web".to_owned()),
            environment: BTreeMap::from([("A".to_owned(), "b".to_owned())]),
            ..command("id -u; echo $A $HOME")
        };
        assert_eq!(host.engine.exec(&id, user).await.unwrap().stdout, b"33\nb /home/web\n");
        let limited = ExecCommand { output_limit: 5, ..command("echo 0123456789") };
        assert_eq!(host.engine.exec(&id, limited).await.unwrap().stdout, b"01234");
        let endless = ExecCommand { timeout: Some(Duration::from_millis(100)), ..command("exec sleep 1000") };
        assert_eq!(host.engine.exec(&id, endless).await.unwrap().code, None);
        let gone = command("ps | grep -c '[s]leep 1000' || true");
        let deadline = tokio::time::Instant::now() + support::PATIENCE;
        while host.engine.exec(&id, gone.clone()).await.unwrap().stdout != b"0\n" {
            assert!(tokio::time::Instant::now() < deadline, "the command outlives its timeout");
        }
        let absent = ExecCommand { arguments: vec!["absent".to_owned()], ..ExecCommand::default() };
        assert!(host.engine.exec(&id, absent).await.unwrap_err().to_string().contains("could not be run"));
    });
}

#[test]
fn health_follows_the_probe() {
    with_host("health", async |host| {
        let config = ContainerConfig {
            healthcheck: Some(Healthcheck {
                test: ["CMD-SHELL", "echo looked; test -e /well"].map(str::to_owned).to_vec(),
                interval: Some(Duration::from_millis(30)),
                retries: Some(2),
                ..Healthcheck::default()
            }),
            ..shell("echo ready; while :; do sleep 0.05; done")
        };
        let mut events = host.engine.events().listen();
        let id = host.start("patient", config).await;
        let mut health_event = async |wanted: Health| {
            let found = tokio::time::timeout(support::PATIENCE, async {
                loop {
                    let what = events.recv().await.unwrap().what;
                    let Happening::Container { kind: EventKind::Health(health), .. } = what else { continue };
                    if health == wanted {
                        return;
                    }
                }
            });
            assert!(found.await.is_ok(), "{wanted:?}");
        };
        health_event(Health::Unhealthy).await;
        let state = host.engine.inspect(&id).unwrap().health.unwrap();
        assert!(state.last_output.contains("looked"), "{state:?}");
        let heal = ExecCommand { arguments: vec!["touch".to_owned(), "/well".to_owned()], ..ExecCommand::default() };
        host.engine.exec(&id, heal).await.unwrap();
        health_event(Health::Healthy).await;
    });
}

#[test]
fn the_hosts_namespaces_where_asked_for_and_networks() {
    with_host("namespaces", async |host| {
        let config = ContainerConfig {
            pid_mode: NamespaceMode::Host,
            ipc_mode: NamespaceMode::Host,
            network_mode: stack_engine::container::NetworkMode::Host,
            seccomp: SeccompChoice::Unconfined,
            ..shell(
                "readlink /proc/self/ns/pid; readlink /proc/self/ns/ipc; grep Seccomp: /proc/self/status; sleep 1000 & echo left",
            )
        };
        let (code, output) = host.run("shared", config).await;
        assert_eq!(code, 0, "{output}");
        for kind in ["pid", "ipc"] {
            let own = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
            assert!(output.contains(own.to_str().unwrap()), "{output}");
        }
        assert!(output.contains("Seccomp:\t0"));
        host.engine.networks().create_network("default").await.unwrap();
        let config = ContainerConfig {
            network_mode: stack_engine::container::NetworkMode::Networks,
            networks: vec![NetworkEndpoint {
                name: "default".to_owned(),
                aliases: vec![],
                ..NetworkEndpoint::default()
            }],
            ..shell(
                "ip addr show eth0; cat /etc/hosts; ping -c1 -w5 $(ip route | sed -n 's/default via \\([^ ]*\\).*/\\1/p')",
            )
        };
        let id = host.start("bridged", config).await;
        let address = host.engine.inspect(&id).unwrap().addresses[0].to_string();
        assert_eq!(host.wait(&id).await.code, 0, "{}", host.output(&id).await);
        let output = host.output(&id).await;
        assert!(
            output.contains(&format!("inet {address}/")) && output.contains(&format!("{address}\tbridged")),
            "{output}"
        );
    });
}
