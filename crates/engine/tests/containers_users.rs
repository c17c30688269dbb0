//! Containers with a user namespace: root in them is nobody in particular on the host, and what they write belongs on the
//! disk to whom it belongs in them.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in its helpers too")]

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

use stack_engine::container::{
    ContainerConfig, ContainerId, ContainerMount, ContainerMountSource, ContainerState, ExecCommand, NamespaceMode,
    NetworkMode, UserNamespaceMode, UserNamespaces,
};
use stack_engine::{ContainersConfig, Engine, RemoveOptions};
use support::{shell, with_host};

/// Root of these containers on the host.
const FIRST: u32 = 1_000_000;

/// A container that runs a line of shell in a user namespace.
fn private(line: &str) -> ContainerConfig {
    ContainerConfig { user_namespace: UserNamespaceMode::Private, ..shell(line) }
}

fn volume(name: &str, target: &str) -> ContainerMount {
    ContainerMount {
        relabel: None,
        target: target.to_owned(),
        read_only: false,
        source: ContainerMountSource::Volume { name: Some(name.to_owned()), no_copy: false, subpath: None },
    }
}

fn bind(path: &Path, target: &str, mapped: bool) -> ContainerMount {
    ContainerMount {
        relabel: None,
        target: target.to_owned(),
        read_only: false,
        source: ContainerMountSource::Bind {
            path: path.to_owned(),
            create_host_path: false,
            propagation: None,
            non_recursive: false,
            writable_below: false,
            mapped,
        },
    }
}

fn command(line: &str) -> ExecCommand {
    ExecCommand {
        arguments: ["sh", "-c", line].map(str::to_owned).to_vec(),
        output_limit: 64 << 10,
        ..ExecCommand::default()
    }
}

async fn exec(engine: &Engine, id: &ContainerId, command: ExecCommand) -> (Option<i32>, String) {
    let outcome = engine.exec(id, command).await.unwrap();
    let output = [outcome.stdout, outcome.stderr].concat();
    (outcome.code, String::from_utf8_lossy(&output).into_owned())
}

fn owner(path: &Path) -> (u32, u32) {
    let found = fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    (found.uid(), found.gid())
}

/// A field of /proc/PID/status, with single blanks.
fn status(pid: i32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn root_of_a_container_is_nobody_on_the_host_and_its_files_stay_plain() {
    with_host("users-root", async |host| {
        let base = host.root.join("layers/base");
        let before = owner(&base.join("data/seed"));
        let mut config = private(
            "id -u; cat /proc/self/uid_map; stat -c '%u:%g %a' /data/seed /etc/hosts /dev/null /dev/pts /dev/shm /tmp /volume; \
             touch /made /data/new /volume/made && chown 33:44 /volume/made && rm /layer && mkdir -p /tmp/x && \
             chown web /data/seed && echo words > /dev/stdout && echo ready && exec sleep 1000",
        );
        config.mounts = vec![volume("kept", "/volume")];
        let id = host.start("root", config).await;
        host.says(&id, "ready").await;
        let pid = host.pid(&id);
        assert_eq!(status(pid, "Uid"), [FIRST.to_string().as_str(); 4].join(" "));
        assert_eq!(status(pid, "Gid"), [FIRST.to_string().as_str(); 4].join(" "));
        assert_eq!(status(pid, "CapEff"), "00000000a80425fb");
        let own = fs::read_link("/proc/self/ns/user").unwrap();
        assert_ne!(fs::read_link(format!("/proc/{pid}/ns/user")).unwrap(), own);
        let output = host.output(&id).await;
        let lines: Vec<&str> = output.lines().collect();
        assert_eq!(lines[0], "0", "{output}");
        assert_eq!(lines[1].split_whitespace().collect::<Vec<_>>(), ["0", "1000000", "65536"], "{output}");
        for line in &lines[2..9] {
            assert!(line.starts_with("0:0 "), "{output}");
        }
        assert!(lines.contains(&"words"), "{output}");
        // On the disk.
        let upper = host.root.join("snapshots/root/upper");
        assert_eq!((owner(&upper.join("made")), owner(&upper.join("data/new"))), ((0, 0), (0, 0)));
        assert_eq!(owner(&upper.join("data/seed")), (33, before.1));
        assert_eq!(owner(&base.join("data/seed")), before);
        assert_eq!(fs::symlink_metadata(upper.join("layer")).unwrap().rdev(), 0, "a whiteout");
        let volume = host.config.root.join("volumes/kept");
        let made = find(&volume, "made");
        assert_eq!(owner(&made), (33, 44));
        // Another start with it, and one without.
        let (code, output) = host
            .run("plain", {
                let mut config = shell("stat -c '%u:%g' /volume/made; touch /volume/plain");
                config.mounts = vec![self::volume("kept", "/volume")];
                config
            })
            .await;
        assert_eq!((code, output.as_str()), (0, "33:44\n"));
        let (code, output) = exec(
            &host.engine,
            &id,
            command(
                "stat -c '%u:%g' /volume/plain; id -u; cat /proc/self/uid_map; echo x > /dev/stderr; touch /from-exec",
            ),
        )
        .await;
        assert_eq!(code, Some(0), "{output}");
        assert!(output.starts_with("0:0\n0\n") && output.contains("1000000") && output.contains('x'), "{output}");
        assert_eq!(owner(&upper.join("from-exec")), (0, 0));
        let as_web =
            ExecCommand { user: Some("web".to_owned()), ..command("id -u; grep Uid /proc/self/status; touch /etc/x") };
        let (code, output) = exec(&host.engine, &id, as_web).await;
        assert!(code != Some(0) && output.starts_with("33\nUid:\t33"), "{output}");
        // The same files without a user namespace.
        host.engine.stop(&id, Some(std::time::Duration::ZERO)).await.unwrap();
        let stat = host.engine.stat_path(&id, "/made").await.unwrap();
        assert_eq!(stat.size, 0);
    });
}

/// A file below a directory, by its name.
fn find(directory: &Path, name: &str) -> std::path::PathBuf {
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap().map(Result::unwrap) {
            if entry.file_name() == *name {
                return entry.path();
            }
            if entry.file_type().unwrap().is_dir() {
                directories.push(entry.path());
            }
        }
    }
    panic!("there is no {name} below {}", directory.display());
}

#[test]
fn what_is_the_hosts_stays_the_hosts() {
    with_host("users-escape", async |host| {
        let secret = host.root.join("secret");
        fs::write(&secret, "of the host").unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        let open = host.root.join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
        let mine = host.root.join("mine");
        fs::create_dir(&mine).unwrap();
        chown(&mine, Some(FIRST), Some(FIRST)).unwrap();
        let handed = host.root.join("handed");
        fs::write(&handed, "a secret").unwrap();
        fs::set_permissions(&handed, fs::Permissions::from_mode(0o400)).unwrap();
        chown(&handed, Some(33), Some(44)).unwrap();
        let mut config = private(
            "cat /secret 2>/dev/null || echo no-read; touch /open/x 2>/dev/null || echo no-write; \
             chown 0 /secret 2>/dev/null || echo no-chown; touch /mine/x && echo mine; \
             mknod /tmp/disk b 254 0 2>/dev/null || echo no-node; mknod /dev/disk c 1 1 2>/dev/null || echo no-device; \
             echo 1 2>/dev/null > /proc/sys/kernel/panic || echo no-sysctl; \
             mount -t tmpfs x /tmp 2>/dev/null && echo mounted; cat /handed; stat -c '%u:%g %a' /handed; \
             cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax; \
             hostname; ip link set lo down && ip link set lo up && echo own-network; \
             dmesg >/dev/null 2>&1 || echo no-log; ls -d /dev/mqueue /sys/class/net/lo; echo random; head -c1 /dev/urandom | wc -c",
        );
        config.cap_add = vec!["SYS_ADMIN".to_owned(), "NET_ADMIN".to_owned(), "SYS_PTRACE".to_owned()];
        config.seccomp = stack_engine::container::SeccompChoice::Unconfined;
        config.hostname = Some("inside".to_owned());
        config.sysctls.insert("kernel.msgmax".to_owned(), "4096".to_owned());
        config.mounts = vec![
            bind(&secret, "/secret", false),
            bind(&open, "/open", false),
            bind(&mine, "/mine", false),
            bind(&handed, "/handed", true),
        ];
        let (code, output) = host.run("escape", config).await;
        assert_eq!(code, 0, "{output}");
        let lines: Vec<&str> = output.lines().collect();
        for expected in [
            "no-read",
            "no-write",
            "no-chown",
            "mine",
            "no-node",
            "no-device",
            "no-sysctl",
            "mounted",
            "a secret33:44 400",
            "0",
            "4096",
            "inside",
            "own-network",
            "no-log",
            "/dev/mqueue",
            "/sys/class/net/lo",
            "1",
        ] {
            assert!(lines.contains(&expected), "{expected} in {output}");
        }
        assert_eq!(owner(&mine.join("x")), (FIRST, FIRST));
        assert_eq!(fs::read_to_string(&secret).unwrap(), "of the host");
    });
}

#[test]
fn users_of_the_image_setuid_programs_memory_and_terminals() {
    with_host("users-image", async |host| {
        let base = host.root.join("layers/base");
        // busybox keeps what setuid gives for a few of its programs only, `su` among them.
        fs::create_dir(base.join("set")).unwrap();
        fs::copy("/bin/busybox", base.join("set/busybox")).unwrap();
        fs::set_permissions(base.join("set/busybox"), fs::Permissions::from_mode(0o4755)).unwrap();
        fs::write(base.join("etc/passwd"), "root::0:0::/root:/bin/sh\nweb:x:33:44::/home/web:/bin/sh\n").unwrap();
        fs::create_dir_all(base.join("filled")).unwrap();
        fs::write(base.join("filled/file"), "words").unwrap();
        chown(base.join("filled"), Some(33), Some(44)).unwrap();
        chown(base.join("filled/file"), Some(33), Some(44)).unwrap();
        let mut config = private(
            "id -u; touch /filled/mine && stat -c %u:%g /filled /filled/file /filled/mine; touch /x 2>/dev/null || echo no-root; \
             /set/busybox su root -c 'grep ^Uid /proc/self/status'; stat -c '%u:%g' /memory; touch /memory/x; \
             echo out > /dev/stdout; echo err > /dev/stderr; stat -c %u $(tty); stat -c '%t:%T' /dev/null",
        );
        config.user = Some("web".to_owned());
        config.tty = true;
        config.mounts = vec![
            volume("filled", "/filled"),
            ContainerMount {
                relabel: None,
                target: "/memory".to_owned(),
                read_only: false,
                source: ContainerMountSource::Tmpfs {
                    size: Some(1 << 20),
                    mode: Some(0o700),
                    options: vec!["uid=33".to_owned(), "gid=44".to_owned()],
                },
            },
        ];
        let (code, output) = host.run("web", config).await;
        let output = output.replace('\r', "");
        assert_eq!(code, 0, "{output}");
        let lines: Vec<&str> = output.lines().collect();
        assert_eq!(lines[..5], ["33", "33:44", "33:44", "33:44", "no-root"], "{output}");
        assert!(output.contains("Uid:\t0\t0\t0\t0"), "the setuid program is root of the container: {output}");
        assert_eq!(lines[lines.len() - 5..], ["33:44", "out", "err", "33", "1:3"], "{output}");
        let unknown = ContainerConfig { user: Some("70000".to_owned()), ..private("true") };
        let id = host.create("unknown", unknown).await;
        let error = host.engine.start(&id).await.unwrap_err();
        assert!(error.full_text().contains("has no such id"), "{}", error.full_text());
    });
}

/// Gives a file capabilities, as `setcap cap_net_raw=ep` does.
fn give_net_raw(path: &Path) {
    let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
    let value = [&[1_u8, 0, 0, 2, 0, 0x20, 0, 0][..], &[0; 12]].concat();
    // SAFETY: both texts end with a zero byte, and the value is as long as stated.
    let answer = unsafe {
        libc::setxattr(path.as_ptr(), c"security.capability".as_ptr(), value.as_ptr().cast(), value.len(), 0)
    };
    assert_eq!(answer, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn capabilities_of_an_images_programs_count() {
    with_host("users-capable", async |host| {
        let base = host.root.join("layers/base");
        fs::create_dir(base.join("capable")).unwrap();
        fs::copy("/bin/busybox", base.join("capable/busybox")).unwrap();
        give_net_raw(&base.join("capable/busybox"));
        let mut config = private("/capable/busybox grep CapEff /proc/self/status");
        config.user = Some("web".to_owned());
        let (code, output) = host.run("capable", config).await;
        assert_eq!((code, output.as_str()), (0, "CapEff:\t0000000000002000\n"));
    });
}

/// Where a file system is mounted for as long as its thread lives.
fn try_on(kind: &'static str) -> std::process::Output {
    let directory = tempfile::tempdir().unwrap();
    let (path, shim) = (directory.path().to_owned(), support::shim());
    let tried = move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS | nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let private = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
        nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let none = nix::mount::MsFlags::empty();
        nix::mount::mount(Some(kind), &path, Some(kind), none, None::<&str>).unwrap();
        std::process::Command::new(shim).arg("users").arg(&path).args(["1000000", "65536"]).output().unwrap()
    };
    std::thread::spawn(tried).join().unwrap()
}

#[test]
fn a_file_system_that_cannot_map_owners_is_named() {
    let refused = try_on("ramfs");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "{said}");
    assert!(said.contains("cannot map the owners of files of this file system") && said.contains("5.19"), "{said}");
}

#[test]
fn who_joins_a_container_shares_its_users() {
    with_host("users-joined", async |host| {
        let first = host.start("first", private("echo ready; exec sleep 1000")).await;
        host.says(&first, "ready").await;
        let joining = |line: &str| ContainerConfig {
            network_mode: NetworkMode::Container(first.clone()),
            ipc_mode: NamespaceMode::Container(first.clone()),
            pid_mode: NamespaceMode::Container(first.clone()),
            ..shell(line)
        };
        let second = host.start("second", joining("echo ready; exec sleep 1000")).await;
        host.says(&second, "ready").await;
        for kind in ["user", "net", "ipc", "pid"] {
            let of = |id| fs::read_link(format!("/proc/{}/ns/{kind}", host.pid(id))).unwrap();
            assert_eq!(of(&first), of(&second), "{kind}");
        }
        let (code, output) =
            exec(&host.engine, &second, command("id -u; touch /x; kill -0 1 && echo sees; ls /dev/shm")).await;
        assert_eq!((code, output.as_str()), (Some(0), "0\nsees\n"));
        let own_processes = ContainerConfig { pid_mode: NamespaceMode::Private, ..joining("echo pid $$; hostname") };
        let (code, output) = host.run("third", own_processes).await;
        assert_eq!(code, 0);
        assert!(output.starts_with("pid 1\n"), "{output}");
        let refused = ContainerConfig { user_namespace: UserNamespaceMode::Host, ..joining("true") };
        let id = host.create("refused", refused).await;
        let error = host.engine.start(&id).await.unwrap_err();
        assert!(error.full_text().contains("has a user namespace") && !error.is_retryable(), "{}", error.full_text());
        let of_host = host.start("of-host", shell("echo ready; exec sleep 1000")).await;
        host.says(&of_host, "ready").await;
        let refused = ContainerConfig { network_mode: NetworkMode::Container(of_host), ..private("true") };
        let id = host.create("refused-too", refused).await;
        let error = host.engine.start(&id).await.unwrap_err();
        assert!(error.full_text().contains("whose users are the host's"), "{}", error.full_text());
    });
}

const PLACE: &str = "STACK_TEST_USERS_PLACE";
const GROUP: &str = "STACK_TEST_USERS_GROUP";

fn settings(place: &Path, group: &str, by_default: bool) -> ContainersConfig {
    let usual = support::config(place, group);
    ContainersConfig { users: UserNamespaces { by_default, ..usual.users }, ..usual }
}

/// The engine that the test below kills: this same test program, started anew.
#[test]
fn engine_to_be_killed() {
    let (Ok(place), Ok(group)) = (std::env::var(PLACE), std::env::var(GROUP)) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let place = Path::new(&place);
        let engine = support::open(place, settings(place, &group, true)).await;
        let mapped = shell("echo words > /file; echo ready; while ! test -e /go; do sleep 0.02; done; exit 42");
        let plain = ContainerConfig { user_namespace: UserNamespaceMode::Host, ..shell("exec sleep 1000") };
        for (name, config) in [("mapped", mapped), ("plain", plain)] {
            let id = engine.create(Some(name.parse().unwrap()), config).await.unwrap();
            engine.start(&id).await.unwrap();
        }
        fs::write(place.join("ready"), "").unwrap();
        std::future::pending::<()>().await;
    });
}

fn pid(engine: &Engine, id: &ContainerId) -> i32 {
    match engine.inspect(id).unwrap().state {
        ContainerState::Running { pid, .. } => pid,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_container_keeps_its_users_when_another_engine_with_another_default_takes_over() {
    with_host("users-adopted", async |host| {
        let place = host.root.join("other");
        fs::create_dir(&place).unwrap();
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "engine_to_be_killed"])
            .env(PLACE, &place)
            .env(GROUP, &host.cgroup)
            .spawn()
            .unwrap();
        let deadline = tokio::time::Instant::now() + support::PATIENCE;
        while !place.join("ready").exists() {
            assert!(child.try_wait().unwrap().is_none() && tokio::time::Instant::now() < deadline, "it is ready");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let engine = support::open(&place, settings(&place, &host.cgroup, false)).await;
        let (mapped, plain): (ContainerId, ContainerId) = ("mapped".parse().unwrap(), "plain".parse().unwrap());
        assert!(status(pid(&engine, &mapped), "Uid").starts_with("1000000 "));
        assert!(status(pid(&engine, &plain), "Uid").starts_with("0 "));
        assert_eq!(engine.stat_path(&mapped, "/file").await.unwrap().size, 6);
        let (code, output) = exec(&engine, &mapped, command("id -u; head -1 /proc/self/uid_map; touch /go")).await;
        assert!(code == Some(0) && output.contains("1000000"), "{output}");
        assert_eq!(engine.wait(&mapped).await.unwrap().code, 42);
        // From its next start on it is as the engine now says, and finds its files.
        engine.start(&mapped).await.unwrap();
        assert_eq!(engine.wait(&mapped).await.unwrap().code, 42);
        assert_eq!(owner(&place.join("snapshots/mapped/upper/file")), (0, 0));
        for id in [mapped, plain] {
            engine.remove(&id, RemoveOptions { force: true, volumes: true }).await.unwrap();
        }
    });
}

#[test]
fn the_engine_s_choice_holds_unless_a_container_has_its_own() {
    with_host("users-default", async |host| {
        let place = host.root.join("other");
        fs::create_dir(&place).unwrap();
        let engine = support::open(&place, settings(&place, &host.cgroup, true)).await;
        assert_eq!(engine.user_namespaces_refusal(), None);
        let plain = ContainerConfig { user_namespace: UserNamespaceMode::Host, ..shell("exec sleep 1000") };
        for (name, config, root) in [("on-mapped", shell("exec sleep 1000"), "1000000 "), ("on-plain", plain, "0 ")] {
            let id = engine.create(Some(name.parse().unwrap()), config).await.unwrap();
            engine.start(&id).await.unwrap();
            assert!(status(pid(&engine, &id), "Uid").starts_with(root));
            engine.remove(&id, RemoveOptions { force: true, volumes: true }).await.unwrap();
        }
        for (config, words) in [
            (
                ContainerConfig { privileged: true, ..shell("true") },
                "privileged mode is incompatible with user namespaces",
            ),
            (
                ContainerConfig { network_mode: NetworkMode::Host, ..shell("true") },
                "cannot share the host's network namespace when user namespaces are enabled",
            ),
            (
                ContainerConfig { pid_mode: NamespaceMode::Host, ..shell("true") },
                "cannot share the host PID namespace when user namespaces are enabled",
            ),
        ] {
            let error = engine.create(None, config).await.unwrap_err();
            let text = std::error::Error::source(&error).unwrap().to_string();
            assert!(text.contains(words), "{text}");
        }
    });
}
