//! What `docker run` can ask of the host: each option as a container sees it.

use http_body_util::BodyExt as _;
use hyper::Method;
use serde_json::json;

use super::served::{Served, served, until};
use super::support::PATIENCE;

async fn run(served: &Served, options: &[&str], line: &str) -> String {
    let mut arguments = vec!["run", "--rm"];
    arguments.extend(options);
    arguments.extend(["box:1", "sh", "-c", line]);
    served.fine(&arguments).await
}

#[test]
fn mounts_as_they_are_asked_for() {
    served("hosting-mounts", async |served| {
        let place = served.root.join("shared");
        std::fs::create_dir_all(place.join("below")).unwrap();
        std::fs::write(place.join("word"), "from the host").unwrap();
        let source = place.to_str().unwrap();
        let bind = format!("{source}:/in:ro");
        assert_eq!(
            run(&served, &["-v", &bind], "cat /in/word; touch /in/x 2>/dev/null || echo kept").await,
            "from the hostkept\n"
        );
        let made = served.root.join("made/by/it");
        let bind = format!("{}:/in", made.display());
        run(&served, &["-v", &bind], "echo new > /in/file").await;
        assert_eq!(std::fs::read_to_string(made.join("file")).unwrap(), "new\n");
        let absent = format!("type=bind,source={}/absent,target=/in", served.root.display());
        let refused = served.docker(&["run", "--rm", "--mount", &absent, "box:1", "true"]).await;
        assert_eq!(refused.code, 125, "{refused:?}");
        // A volume takes the image's content, unless it is told not to.
        assert_eq!(run(&served, &["-v", "filled:/data"], "cat /data/seed").await, "from the image\n");
        assert_eq!(run(&served, &["-v", "bare:/data:nocopy"], "ls /data").await, "");
        run(&served, &["-v", "filled:/v"], "mkdir /v/part; echo inner > /v/part/word").await;
        // The CLI may be older than this option of a volume, so it is asked for directly.
        let mount = json!({"Type": "volume", "Source": "filled", "Target": "/p", "VolumeOptions": {"Subpath": "part"}});
        let body = json!({"Image": "box:1", "Cmd": ["cat", "/p/word"], "HostConfig": {"NetworkMode": "none", "Mounts": [mount]}});
        assert_eq!(served.ask(Method::POST, "/containers/create?name=part", Some(body)).await.0, 201);
        assert_eq!(served.fine(&["start", "-a", "part"]).await, "inner\n");
        served.fine(&["rm", "-v", "part"]).await;
        let options = "--tmpfs=/t:rw,exec,size=64k,mode=750";
        let seen = run(&served, &[options], "df -k /t | tail -1; stat -c %a /t; grep ' /t ' /proc/mounts").await;
        assert!(seen.contains(" 64 ") && seen.contains("\n750\n") && !seen.contains("noexec"), "{seen}");
        let seen = run(&served, &["--tmpfs", "/t"], "grep ' /t ' /proc/mounts").await;
        assert!(seen.contains("noexec") && seen.contains("nosuid"), "{seen}");
        assert_eq!(
            run(&served, &["--read-only", "--tmpfs", "/t"], "touch /x 2>/dev/null || echo read-only; touch /t/x").await,
            "read-only\n"
        );
        assert!(run(&served, &["--shm-size", "1m"], "df -k /dev/shm | tail -1").await.contains(" 1024 "));
        // Those of another container, and the anonymous ones go with it.
        served.fine(&["create", "--name", "owner", "-v", "/own", "-v", "filled:/v", "box:1", "true"]).await;
        let taken =
            run(&served, &["--volumes-from", "owner:ro"], "cat /v/part/word; touch /own/x 2>/dev/null || echo kept")
                .await;
        assert_eq!(taken, "inner\nkept\n");
        served.fine(&["rm", "-v", "owner"]).await;
        let mut left = served.fine(&["volume", "ls", "-q"]).await;
        left = left.lines().filter(|name| !["filled", "bare"].contains(name)).collect();
        assert_eq!(left, "");
        for name in ["filled", "bare"] {
            served.engine.remove_volume(name).unwrap();
        }
    });
}

#[test]
fn limits_and_privileges() {
    served("hosting-limits", async |served| {
        let limited = run(
            &served,
            &[
                "--memory",
                "64m",
                "--pids-limit",
                "50",
                "--cpus",
                "0.5",
                "--ulimit",
                "nofile=100:200",
                "--oom-score-adj",
                "200",
            ],
            "ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj; cat /sys/fs/cgroup/memory/memory.limit_in_bytes \
             /sys/fs/cgroup/memory.max 2>/dev/null; cat /sys/fs/cgroup/cpu*/cpu.cfs_quota_us 2>/dev/null | head -1",
        )
        .await;
        assert!(limited.starts_with("100\n200\n200\n67108864\n"), "{limited}");
        let seen = run(&served, &["--sysctl", "net.core.somaxconn=77"], "cat /proc/sys/net/core/somaxconn").await;
        assert_eq!(seen, "77\n");
        let refused = served.docker(&["run", "--rm", "--sysctl", "vm.swappiness=1", "box:1", "true"]).await;
        assert!(refused.code == 125 && refused.error.contains("vm.swappiness"), "{refused:?}");
        let status = "grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status | tr '\\n' ' '";
        let privileged = run(&served, &["--privileged"], status).await;
        assert!(privileged.contains("Seccomp:\t0") && !privileged.contains("a80425fb"), "{privileged}");
        let dropped = run(&served, &["--cap-drop", "ALL", "--cap-add", "NET_ADMIN"], status).await;
        assert!(dropped.contains("CapEff:\t0000000000001000"), "{dropped}");
        let options = ["--security-opt", "no-new-privileges", "--security-opt", "seccomp=unconfined"];
        let open = run(&served, &options, status).await;
        assert!(open.contains("NoNewPrivs:\t1") && open.contains("Seccomp:\t0"), "{open}");
        let profile = served.root.join("profile.json");
        let rules = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}"#;
        std::fs::write(&profile, rules).unwrap();
        let option = format!("seccomp={}", profile.display());
        let seen = run(&served, &["--security-opt", &option], "mkdir /x 2>&1 || touch /y && ls /y").await;
        assert!(seen.contains("Operation not permitted") && seen.ends_with("/y\n"), "{seen}");
        let paths =
            run(&served, &["--security-opt", "systempaths=unconfined"], "grep -c ' /proc/' /proc/mounts; true").await;
        assert_eq!(paths, "0\n");
        let device =
            run(&served, &["--device", "/dev/null:/dev/nothing:rw"], "echo x > /dev/nothing && echo fine").await;
        assert_eq!(device, "fine\n");
        let kmsg = "head -c 1 /dev/kmsg >/dev/null 2>&1 && echo read || echo closed";
        let node = format!("mknod /dev/kmsg c 1 11; {kmsg}");
        assert_eq!(run(&served, &[], &node).await, "closed\n");
        let groups = run(&served, &["--user", "web", "--group-add", "7"], "id").await;
        assert!(groups.starts_with("uid=33(web) gid=44(web) groups=7,44(web),50(extra)"), "{groups}");
        assert_eq!(
            run(&served, &["-w", "/made/for/it", "-e", "A=b", "-e", "FROM_IMAGE"], "pwd; echo $A-$FROM_IMAGE").await,
            "/made/for/it\nb-\n"
        );
    });
}

#[test]
fn namespaces_of_others() {
    served("hosting-namespaces", async |served| {
        let first = ["run", "-d", "--name", "first", "--hostname", "one", "-e", "MARK=first", "box:1", "sleep", "600"];
        served.fine(&first).await;
        let spaces = "for n in pid net ipc uts; do readlink /proc/self/ns/$n; done";
        let of_first = served.fine(&["exec", "first", "sh", "-c", spaces]).await;
        let options = ["--pid", "container:first", "--network", "container:first", "--ipc", "container:first"];
        let joined = run(&served, &options, spaces).await;
        let (one, other): (Vec<&str>, Vec<&str>) = (of_first.lines().collect(), joined.lines().collect());
        assert_eq!(one[..3], other[..3]);
        assert_ne!(one[3], other[3], "its name is its own");
        served.fine(&["exec", "first", "sh", "-c", "echo shared > /dev/shm/note"]).await;
        let seen = run(&served, &options, "cat /dev/shm/note; ps | grep -c 'sleep 600'; cat /etc/hostname").await;
        assert!(seen.starts_with("shared\n") && seen.contains("one"), "{seen}");
        let own = |name: &str| std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap().display().to_string();
        let of_host = run(&served, &["--uts", "host", "--pid", "host", "--ipc", "host"], spaces).await;
        for name in ["uts", "pid", "ipc"] {
            assert!(of_host.contains(&own(name)), "{of_host}");
        }
        let named = run(&served, &["--link", "first:db", "--add-host", "far:192.0.2.7"], "cat /etc/hosts").await;
        let address =
            served.fine(&["inspect", "--format", "{{.NetworkSettings.Networks.bridge.IPAddress}}", "first"]).await;
        assert!(named.contains(&format!("{}\tdb", address.trim())) && named.contains("192.0.2.7\tfar"), "{named}");
        let dns = run(
            &served,
            &["--dns", "192.0.2.53", "--dns-search", "x.test", "--dns-option", "ndots:3"],
            "cat /etc/resolv.conf",
        )
        .await;
        assert!(dns.contains("192.0.2.53") && dns.contains("x.test") && dns.contains("ndots:3"), "{dns}");
        served.fine(&["stop", "-t", "0", "first"]).await;
        for options in [["--network", "container:first"], ["--pid", "container:first"], ["--link", "first"]] {
            let mut arguments = vec!["run", "--rm"];
            arguments.extend(options);
            arguments.extend(["box:1", "true"]);
            let refused = served.docker(&arguments).await;
            assert!(refused.code == 125 && refused.error.contains("not running"), "{options:?}: {refused:?}");
        }
        assert_eq!(run(&served, &["--network", "none"], "ls /sys/class/net").await, "lo\n");
    });
}

#[test]
fn published_ports_and_what_inspect_says() {
    served("hosting-ports", async |served| {
        let line = "while :; do echo hello | nc -l -p 80 >/dev/null; done";
        served
            .fine(&[
                "run",
                "-d",
                "--name",
                "web",
                "-p",
                "127.0.0.1::80",
                "-p",
                "9443:443/udp",
                "box:1",
                "sh",
                "-c",
                line,
            ])
            .await;
        let port = served.fine(&["port", "web", "80/tcp"]).await;
        assert!(port.starts_with("127.0.0.1:"), "{port}");
        assert_eq!(served.fine(&["port", "web", "443/udp"]).await.trim(), "0.0.0.0:9443");
        let address = port.trim().to_owned();
        until("the port is served", async || {
            let Ok(mut stream) = tokio::net::TcpStream::connect(&address).await else { return false };
            let mut heard = Vec::new();
            let read = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut heard);
            tokio::time::timeout(std::time::Duration::from_millis(500), read).await.ok();
            heard == b"hello\n"
        })
        .await;
        let all = ["run", "-d", "--name", "all", "-P", "--expose", "81", "-l", "a=b", "--stop-signal", "HUP", "--init"];
        let mut arguments = all.to_vec();
        arguments.extend(["--memory", "64m", "--cap-add", "SYS_TIME", "-v", "/tmp:/in:ro", "box:1", "sleep", "600"]);
        served.fine(&arguments).await;
        let format = "{{.Config.Labels.a}} {{.Config.StopSignal}} {{.HostConfig.Init}} {{.HostConfig.Memory}} \
            {{.HostConfig.CapAdd}} {{.HostConfig.Binds}} {{len .NetworkSettings.Ports}} {{.HostConfig.NetworkMode}}";
        let seen = served.fine(&["inspect", "--format", format, "all"]).await;
        assert_eq!(seen.trim(), "b HUP true 67108864 [CAP_SYS_TIME] [/tmp:/in:ro] 2 bridge");
    });
}

/// A file of a control group as the container's own, under version 1 or version 2.
fn group_file(first: &str, second: &str) -> String {
    format!("cat /sys/fs/cgroup/{first} 2>/dev/null || cat /sys/fs/cgroup/{second}")
}

#[test]
fn control_groups() {
    served("hosting-groups", async |served| {
        let options = ["--cpuset-cpus", "0", "--cpu-shares", "512", "--cpu-period", "50000", "--cpu-quota", "20000"];
        let cpus = run(&served, &options, "grep Cpus_allowed_list /proc/self/status").await;
        assert_eq!(cpus.split_whitespace().last(), Some("0"), "{cpus}");
        let quota = run(&served, &options, &group_file("cpu/cpu.cfs_quota_us", "cpu.max")).await;
        assert!(quota.starts_with("20000"), "{quota}");
        let options = ["--memory", "32m", "--memory-swap", "48m", "--memory-reservation", "16m"];
        let soft = run(&served, &options, &group_file("memory/memory.soft_limit_in_bytes", "memory.low")).await;
        assert_eq!(soft.trim(), "16777216");
        let tail = run(&served, &["--memory", "32m"], "tail /dev/zero; echo survived; exit 0").await;
        assert_eq!(tail, "survived\n", "the shell outlives what it started");
        let killed = served.docker(&["run", "--name", "hungry", "--memory", "16m", "box:1", "tail", "/dev/zero"]).await;
        assert_eq!(killed.code, 137, "{killed:?}");
        assert_eq!(served.fine(&["inspect", "--format", "{{.State.OOMKilled}}", "hungry"]).await, "true\n");
        let missing = ["run", "--rm", "--device-read-bps", "/dev/none:1mb", "box:1", "true"];
        let refused = served.docker(&missing).await;
        assert!(refused.code == 127 && refused.error.contains("/dev/none"), "{refused:?}");
    });
}

#[test]
fn health_and_the_events_of_a_run() {
    served("hosting-health", async |served| {
        let mut events = served.send(Method::GET, "/events", None).await;
        let health = ["--health-cmd", "test -e /well", "--health-interval", "50ms", "--health-retries", "1"];
        let mut arguments = vec!["run", "-d", "--rm", "--name", "patient"];
        arguments.extend(health);
        arguments.extend(["box:1", "sleep", "600"]);
        served.fine(&arguments).await;
        let says = async |wanted: &str| {
            served.fine(&["inspect", "--format", "{{.State.Health.Status}}", "patient"]).await.trim() == wanted
        };
        until("it is found ill", async || says("unhealthy").await).await;
        served.fine(&["exec", "patient", "touch", "/well"]).await;
        until("it is found well", async || says("healthy").await).await;
        served.fine(&["kill", "patient"]).await;
        let mut actions: Vec<String> = Vec::new();
        let mut text = Vec::new();
        while !actions.iter().any(|action| action == "destroy") {
            let frame = tokio::time::timeout(PATIENCE, events.frame()).await.expect("its end is told");
            text.extend(frame.unwrap().unwrap().into_data().unwrap());
            while let Some(end) = text.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = text.drain(..=end).collect();
                let event: serde_json::Value = serde_json::from_slice(&line).unwrap();
                actions.push(event["Action"].as_str().unwrap().to_owned());
            }
        }
        let begun = ["create", "start", "health_status: unhealthy", "exec_create: touch /well"];
        // What the command does is seen by a probe, which may be told before its start and its end are.
        for between in ["exec_start: touch /well", "exec_die", "health_status: healthy"] {
            let mut left = actions.iter();
            for one in begun.into_iter().chain([between, "die", "destroy"]) {
                assert!(left.any(|action| action == one), "{one} in its turn among {actions:?}");
            }
        }
        let after = actions.iter().skip_while(|action| *action != "die");
        assert!(!after.into_iter().any(|action| action.starts_with("health_status")), "{actions:?}");
    });
}
