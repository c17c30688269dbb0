//! The known ways out of a container, each tried by a hostile one.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in its helpers too")]

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use stack_engine::container::{
    ContainerConfig, ContainerId, ContainerMount, ContainerMountSource, ExecCommand, ExecOutcome, NamespaceMode,
    SeccompChoice,
};
use support::{Host, shell, with_host};

fn command(words: &[&str]) -> ExecCommand {
    ExecCommand {
        arguments: words.iter().map(|word| (*word).to_owned()).collect(),
        output_limit: 100_000,
        timeout: Some(support::PATIENCE),
        ..ExecCommand::default()
    }
}

async fn exec(host: &Host, id: &ContainerId, line: &str) -> ExecOutcome {
    host.engine.exec(id, command(&["sh", "-c", line])).await.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

const IDLE: &str = "echo ready; while :; do sleep 0.05; done";

/// CVE-2019-5736: the program that enters a container is overwritten through /proc/PID/exe.
#[test]
fn the_program_that_enters_cannot_be_overwritten() {
    with_host("escape-exe", async |host| {
        let upper = host.root.join("layers/upper");
        fs::write(upper.join("itself"), "#!/proc/self/exe\n").unwrap();
        fs::set_permissions(upper.join("itself"), fs::Permissions::from_mode(0o755)).unwrap();
        // Whatever is not busybox in its process table is a program of the host's.
        let line = "echo ready; while ! test -e /stop; do for p in /proc/[0-9]*; do \
            case $(readlink $p/exe 2>/dev/null) in /bin/busybox) ;; *) echo saw; \
            (exec 3>>$p/exe) 2>/dev/null && echo OPENED; (: > $p/exe) 2>/dev/null && echo TRUNCATED;; esac; done; done; echo stopped";
        // Process 1 is one, too.
        let id = host.start("evil", ContainerConfig { init: true, ..shell(line) }).await;
        host.says(&id, "ready").await;
        for _ in 0..40 {
            // The interpreter is the program itself: it then runs as a program of the container's, which is no harm.
            let outcome = host.engine.exec(&id, command(&["/itself"])).await;
            assert!(!matches!(&outcome, Ok(outcome) if outcome.code == Some(0)), "{outcome:?}");
            assert_eq!(exec(&host, &id, "echo fine").await.stdout, b"fine\n");
        }
        exec(&host, &id, "touch /stop").await;
        host.wait(&id).await;
        let output = host.output(&id).await;
        assert!(output.contains("saw"), "nothing was tried: {output}");
        assert!(!output.contains("OPENED") && !output.contains("TRUNCATED"), "{output}");
        // The next container and its execs are run by a whole program.
        let next = host.start("next", shell(IDLE)).await;
        assert_eq!(exec(&host, &next, "echo fine").await.stdout, b"fine\n");
    });
}

/// CVE-2024-21626: a working directory through a descriptor that leaked from the host.
#[test]
fn no_descriptor_leads_out_of_the_container() {
    with_host("escape-descriptors", async |host| {
        let line = "ls /proc/self/fd | wc -l; for d in /proc/self/fd/*; do readlink $d; done";
        let (_, output) = host.run("look", shell(line)).await;
        assert!(!output.contains(host.root.to_str().unwrap()) && output.starts_with("4\n"), "{output}");
        for number in 3..16 {
            let config =
                ContainerConfig { working_dir: Some(format!("/proc/self/fd/{number}/../../../../..")), ..shell("ls") };
            let id: ContainerId = format!("climber-{number}").parse().unwrap();
            assert!(host.engine.create(Some(id), config).await.is_err(), "`..` is refused when it is made");
            let config = ContainerConfig { working_dir: Some(format!("/proc/self/fd/{number}")), ..shell("ls") };
            let id = host.create(&format!("init-{number}"), config).await;
            let error = host.engine.start(&id).await.unwrap_err();
            assert!(error.full_text().contains("working directory"), "{}", error.full_text());
        }
        let id = host.start("main", shell(IDLE)).await;
        host.says(&id, "ready").await;
        for number in 3..24 {
            let inside =
                ExecCommand { working_dir: Some(format!("/proc/self/fd/{number}")), ..command(&["sh", "-c", "pwd"]) };
            let outcome = host.engine.exec(&id, inside).await;
            assert!(outcome.is_err(), "{number}: {outcome:?}");
        }
        let descriptors = exec(&host, &id, line).await;
        let shown = text(&descriptors.stdout);
        assert!(shown.starts_with("4\n") && !shown.contains(host.root.to_str().unwrap()), "{shown}");
    });
}

/// A set-user-ID program of the image.
#[test]
fn a_setuid_program_gains_nothing_with_no_new_privileges() {
    with_host("escape-setuid", async |host| {
        let upper = host.root.join("layers/upper");
        fs::create_dir_all(upper.join("setuid")).unwrap();
        fs::create_dir_all(upper.join("etc")).unwrap();
        fs::copy("/bin/busybox", upper.join("setuid/su")).unwrap();
        fs::set_permissions(upper.join("setuid/su"), fs::Permissions::from_mode(0o4755)).unwrap();
        fs::write(upper.join("etc/passwd"), "root::0:0::/root:/bin/sh\nweb::33:44::/home/web:/bin/sh\n").unwrap();
        let line = "/setuid/su root -c 'id -u' 2>&1";
        let config =
            |no_new_privileges| ContainerConfig { user: Some("web".to_owned()), no_new_privileges, ..shell(line) };
        let (_, output) = host.run("may", config(false)).await;
        assert_eq!(output, "0\n", "the program works where it may, or this test shows nothing");
        let (code, output) = host.run("may-not", config(true)).await;
        assert!(code != 0 && !output.contains('0'), "{output}");
        let id = host.start("main", ContainerConfig { no_new_privileges: true, ..shell(IDLE) }).await;
        host.says(&id, "ready").await;
        let as_web = ExecCommand { user: Some("web".to_owned()), ..command(&["sh", "-c", line]) };
        let outcome = host.engine.exec(&id, as_web).await.unwrap();
        assert!(outcome.code != Some(0) && !text(&outcome.stdout).contains('0'), "{outcome:?}");
    });
}

/// The processes of others: of other containers, and of the host where they can be seen.
#[test]
fn the_processes_of_others_cannot_be_reached() {
    with_host("escape-processes", async |host| {
        let victim =
            ContainerConfig { environment: [("SECRET".to_owned(), "hunter2".to_owned())].into(), ..shell(IDLE) };
        let victim = host.start("victim", victim).await;
        host.says(&victim, "ready").await;
        let (_, output) = host.run("blind", shell("ls -d /proc/[0-9]*; cat /proc/*/environ | grep -c hunter2")).await;
        assert!(output.ends_with("0\n") && !output.contains(&format!("/proc/{}", host.pid(&victim))), "{output}");
        // It sees the host's processes, and is root: their memory, root and descriptors are still theirs alone.
        let mine = std::process::id();
        let shim = support::processes_with("containers/victim")[0];
        let line = format!(
            "for p in {mine} {shim}; do for f in root fd mem environ maps cwd; do \
             if test $f = root -o $f = fd -o $f = cwd; then ls $p /proc/$p/$f/ ; else head -c 10 /proc/$p/$f; fi \
             >/dev/null 2>&1 && echo REACHED $p $f; done; kill -0 $p 2>/dev/null || true; done; echo tried"
        );
        let config = ContainerConfig { pid_mode: NamespaceMode::Host, ..shell(&line) };
        let (_, output) = host.run("seer", config).await;
        assert_eq!(output, "tried\n");
    });
}

/// Keys of whoever started the engine.
#[test]
fn the_keys_of_the_host_are_not_the_containers() {
    with_host("escape-keys", async |host| {
        let name = format!("stack-test-{}", std::process::id());
        let description = std::ffi::CString::new(name.clone()).unwrap();
        // SAFETY: both strings and the payload live for the call; the session keyring is this thread's.
        let key = unsafe {
            libc::syscall(
                libc::SYS_keyctl,
                1, // KEYCTL_JOIN_SESSION_KEYRING
                std::ptr::null::<libc::c_char>(),
            );
            libc::syscall(
                libc::SYS_add_key,
                c"user".as_ptr(),
                description.as_ptr(),
                c"secret".as_ptr(),
                6,
                libc::KEY_SPEC_SESSION_KEYRING,
            )
        };
        assert!(key > 0, "{}", std::io::Error::last_os_error());
        // For possessors alone: who sees it has it.
        // SAFETY: numbers only.
        let set = unsafe { libc::syscall(libc::SYS_keyctl, 5, key, 0x3f00_0000) };
        assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
        let own = fs::read_to_string("/proc/thread-self/../../keys").unwrap_or_default();
        assert!(own.contains(&name) || fs::read_to_string("/proc/keys").unwrap().contains(&name));
        let open = ContainerConfig {
            privileged: true,
            seccomp: SeccompChoice::Unconfined,
            ..shell(&format!("grep -c {name} /proc/keys; wc -l < /proc/keys"))
        };
        let (_, output) = host.run("open", open).await;
        assert!(output.starts_with("0\n"), "{output}");
        let (_, output) = host.run("usual", shell("wc -c < /proc/keys")).await;
        assert_eq!(output, "0\n", "it is masked");
        // SAFETY: numbers only.
        unsafe { libc::syscall(libc::SYS_keyctl, 3, key) };
    });
}

/// CVE-2021-30465 and its kin: a volume's content is exchanged for links while another container mounts below it.
#[test]
fn a_mount_target_that_is_exchanged_stays_in_the_container() {
    with_host("escape-race", async |host| {
        let marker = format!("stack-escape-{}", std::process::id());
        let volume = ContainerMount {
            relabel: None,
            target: "/v".to_owned(),
            read_only: false,
            source: ContainerMountSource::Volume { name: Some("shared".to_owned()), no_copy: true, subpath: None },
        };
        let line = "echo ready; cd /v; while ! test -e /v/stop; do mkdir -p a; ln -s / b; mv b a/x 2>/dev/null; \
            rm -rf x; ln -s / x; rm x; mkdir x; rm -rf x a b; ln -s ../../../../../.. x; rm x; done";
        let racer = host.start("racer", ContainerConfig { mounts: vec![volume.clone()], ..shell(line) }).await;
        host.says(&racer, "ready").await;
        let mut started = 0;
        for round in 0..40 {
            let below = ContainerMount {
                relabel: None,
                target: format!("/v/x/{marker}"),
                read_only: false,
                source: ContainerMountSource::Tmpfs { size: Some(4096), mode: None, options: Vec::new() },
            };
            let config = ContainerConfig {
                mounts: vec![volume.clone(), below],
                ..shell("wc -c < /proc/keys; echo x 2>/dev/null > /proc/sys/kernel/hostname || echo protected")
            };
            let id = host.create(&format!("victim-{round}"), config).await;
            // Whether the place can be made is a matter of luck; where it is made is not.
            if host.engine.start(&id).await.is_ok() {
                started += 1;
                host.wait(&id).await;
                assert_eq!(host.output(&id).await, "0\nprotected\n");
            }
            assert!(!std::path::Path::new("/").join(&marker).exists(), "it was made on the host");
        }
        assert!(started > 0, "none of them could be started");
        exec(&host, &racer, "touch /v/stop").await;
        host.wait(&racer).await;
        for container in host.engine.list() {
            let options = stack_engine::RemoveOptions { force: true, volumes: true };
            host.engine.remove(&container.id, options).await.unwrap();
        }
        host.engine.remove_volume("shared").unwrap();
    });
}

/// CVE-2025-31133, CVE-2025-52565, CVE-2025-52881: an image that puts something in the way of /dev/null, /dev/console and
/// /proc.
#[test]
fn an_image_cannot_stand_in_for_what_masks_it() {
    with_host("escape-masks", async |host| {
        let upper = host.root.join("layers/upper");
        fs::create_dir_all(upper.join("dev")).unwrap();
        symlink("/proc/sys/kernel/core_pattern", upper.join("dev/null")).unwrap();
        symlink("/proc/sysrq-trigger", upper.join("dev/console")).unwrap();
        let before = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
        let line = "wc -c < /proc/keys; test -c /dev/null && echo null; test -c /dev/console && echo console; \
            echo x 2>/dev/null > /proc/sys/kernel/core_pattern || echo protected";
        let (_, output) = host.run("links", ContainerConfig { tty: true, ..shell(line) }).await;
        assert_eq!(output, "0\r\nnull\r\nconsole\r\nprotected\r\n");
        assert_eq!(fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), before);
        for target in ["/proc", "/proc/sys", "/proc/self/attr"] {
            let volume = ContainerMount {
                relabel: None,
                target: target.to_owned(),
                read_only: false,
                source: ContainerMountSource::Volume { name: None, no_copy: false, subpath: None },
            };
            let config = ContainerConfig { mounts: vec![volume], ..shell("true") };
            let id: ContainerId = "stand-in".parse().unwrap();
            let error = host.engine.create(Some(id), config).await.unwrap_err();
            let source = std::error::Error::source(&error).unwrap().to_string();
            assert!(source.contains("its own"), "{source}");
        }
    });
}

/// Control groups and devices: the notification on release, and a disk of the host's.
#[test]
fn control_groups_and_devices_of_the_host_stay_the_hosts() {
    with_host("escape-groups", async |host| {
        let line = "for f in $(find /sys/fs/cgroup -name release_agent -o -name notify_on_release -o -name cgroup.procs 2>/dev/null); do \
            (echo /x > $f) 2>/dev/null && echo WROTE $f; done; \
            mount -t cgroup -o memory cgroup /tmp 2>/dev/null && echo MOUNTED; \
            mount -t tmpfs x /tmp 2>/dev/null && echo MOUNTED; \
            unshare -UrmC sh -c 'mount -t cgroup -o memory x /tmp' 2>/dev/null && echo MOUNTED; \
            for d in 'b 8 0' 'b 254 0' 'b 253 0' 'c 1 1' 'c 1 2' 'c 10 200'; do rm -f /tmp/d; mknod /tmp/d $d && \
            (head -c1 /tmp/d >/dev/null 2>&1 && echo READ $d; : 2>/dev/null >> /tmp/d) ; done 2>/dev/null; echo tried";
        let (_, output) = host.run("evil", shell(line)).await;
        assert_eq!(output, "tried\n");
    });
}
