//! Containers that another runtime makes: runc, as Debian has it.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use stack_engine::container::{
    ContainerConfig, ContainerMount, ContainerMountSource, ContainerState, CreateError, ExecCommand, ExecConfig,
    ExecState, NetworkMode, Resources, Ulimit,
};
use stack_engine::network::NetworkEndpoint;
use support::{shell, with_host};

fn by_runc(line: &str) -> ContainerConfig {
    ContainerConfig { runtime: Some("runc".to_owned()), ..shell(line) }
}

fn command(line: &str) -> ExecCommand {
    ExecCommand {
        arguments: ["sh", "-c", line].map(str::to_owned).to_vec(),
        output_limit: 10_000,
        ..ExecCommand::default()
    }
}

#[test]
fn a_container_lives_as_one_of_our_own() {
    with_host("runtimes-life", async |host| {
        let line = "echo out; echo err >&2; cat /layer; id -u; id -G; echo $HOME $A; ulimit -n; pwd; cat /etc/hostname; \
                    grep -E 'NoNewPrivs|Seccomp:' /proc/self/status; cat /data/*; touch /x 2>&1; exit 7";
        let config = ContainerConfig {
            user: Some("web".to_owned()),
            group_add: vec!["7".to_owned()],
            working_dir: Some("/home/web".to_owned()),
            hostname: Some("inside".to_owned()),
            environment: BTreeMap::from([("A".to_owned(), "b".to_owned())]),
            ulimits: BTreeMap::from([("nofile".to_owned(), Ulimit { soft: 123, hard: 456 })]),
            no_new_privileges: true,
            read_only: true,
            resources: Resources { memory_bytes: Some(64 << 20), pids: Some(20), ..Resources::default() },
            ..by_runc(line)
        };
        let (code, output) = host.run("one", config).await;
        assert_eq!(code, 7, "{output}");
        for part in ["out\n", "err\n", "the upper one", " b\n", "123\n", "/home/web\n", "inside\n"] {
            assert!(output.contains(part), "`{part}` in {output}");
        }
        for part in ["NoNewPrivs:\t1", "Seccomp:\t2", "Read-only file system"] {
            assert!(output.contains(part), "`{part}` in {output}");
        }
        assert!(!output.contains("\n0\n"), "it is not root: {output}");

        // Signals, further processes, limits that are in force, and its end.
        let line = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done";
        let limited = ContainerConfig {
            resources: Resources { memory_bytes: Some(64 << 20), pids: Some(20), ..Resources::default() },
            mounts: vec![ContainerMount {
                relabel: None,
                target: "/etc".to_owned(),
                read_only: false,
                source: ContainerMountSource::Volume { name: None, no_copy: false, subpath: None },
            }],
            ..by_runc(line)
        };
        let id = host.start("stays", limited).await;
        host.says(&id, "ready").await;
        let usage = host.engine.usage(&id).unwrap();
        assert!(usage.memory_bytes > 0 && usage.pids > 0, "{usage:?}");
        let outcome = host.engine.exec(&id, command("id -u; cat /etc/passwd | head -1; exit 5")).await.unwrap();
        assert_eq!(outcome.code, Some(5));
        let text = String::from_utf8_lossy(&outcome.stdout).into_owned();
        assert!(text.starts_with("0\nroot:"), "the new volume has what the image has: {text}");
        let as_user = ExecCommand { user: Some("web".to_owned()), ..command("id -un; echo $HOME") };
        let outcome = host.engine.exec(&id, as_user).await.unwrap();
        assert!(outcome.stdout.starts_with(b"web\n"), "{outcome:?}");
        let late = ExecCommand { timeout: Some(Duration::from_millis(300)), ..command("sleep 100") };
        assert_eq!(host.engine.exec(&id, late).await.unwrap().code, None);
        let missing = ExecCommand { arguments: vec!["nothing-like-it".to_owned()], ..command("") };
        let error = host.engine.exec(&id, missing).await.unwrap_err();
        assert!(format!("{error:?}").contains("not found"), "{error:?}");
        host.engine.pause(&id).await.unwrap();
        host.engine.unpause(&id).await.unwrap();
        host.engine.stop(&id, None).await.unwrap();
        assert_eq!(host.wait(&id).await.code, 3);
        host.engine.start(&id).await.unwrap();
        host.engine.kill(&id, 9).await.unwrap();
        assert_eq!(host.wait(&id).await.code, 137);
    });
}

#[test]
fn terminals_and_detached_commands() {
    with_host("runtimes-tty", async |host| {
        let config = ContainerConfig { tty: true, ..by_runc("tty; test -t 1 && echo yes") };
        let (code, output) = host.run("tty", config).await;
        assert_eq!(code, 0, "{output}");
        assert!(output.contains("/dev/pts/0\r\nyes\r\n"), "{output}");
        let id = host.start("main", by_runc("echo ready; sleep 1000")).await;
        host.says(&id, "ready").await;
        for tty in [false, true] {
            let line = if tty { "test -t 0 && touch /terminal && exit 6" } else { "touch /plain; exit 6" };
            let config =
                ExecConfig { arguments: ["sh", "-c", line].map(str::to_owned).to_vec(), tty, ..ExecConfig::default() };
            let exec = host.engine.exec_create(&id, config).await.unwrap();
            host.engine.exec_start(&exec, None, None).await.unwrap();
            assert_eq!(host.engine.exec_wait(&exec).await.unwrap(), Some(6), "{tty}");
            assert_eq!(host.engine.exec_inspect(&exec).unwrap().state, ExecState::Ended { code: Some(6) });
        }
        let outcome = host.engine.exec(&id, command("ls -d /terminal /plain")).await.unwrap();
        assert_eq!(outcome.stdout, b"/plain\n/terminal\n");
    });
}

#[test]
fn networks_and_names() {
    with_host("runtimes-network", async |host| {
        let config = ContainerConfig {
            network_mode: NetworkMode::Networks,
            networks: vec![NetworkEndpoint {
                name: stack_engine::network::USUAL_NETWORK.to_owned(),
                ..NetworkEndpoint::default()
            }],
            ..by_runc("ip -o -4 address show eth0; cat /etc/resolv.conf; echo ready; sleep 1000")
        };
        let id = host.start("web", config).await;
        host.says(&id, "ready").await;
        let output = host.output(&id).await;
        assert!(output.contains("inet 172.") && output.contains("nameserver"), "{output}");
    });
}

#[test]
fn what_a_runtime_cannot_do_is_said() {
    with_host("runtimes-refusals", async |host| {
        let id = "unknown".parse().unwrap();
        let error = host
            .engine
            .create(Some(id), ContainerConfig { runtime: Some("kata".to_owned()), ..shell("true") })
            .await
            .unwrap_err();
        assert!(matches!(&error, CreateError::Spec { .. }));
        assert!(format!("{error:?}").contains("kata"), "{error:?}");
        let absent = ContainerConfig { command: Some(vec!["nothing-like-it".to_owned()]), ..by_runc("") };
        let id = host.create("absent", absent).await;
        let error = host.engine.start(&id).await.unwrap_err();
        assert_eq!(error.exit_code(), 127, "{}", error.full_text());
        assert!(error.full_text().contains("nothing-like-it"), "{}", error.full_text());
        let user = ContainerConfig { user: Some("nobody".to_owned()), ..by_runc("true") };
        let id = host.create("user", user).await;
        let error = host.engine.start(&id).await.unwrap_err();
        assert!(error.full_text().contains("unable to find user nobody"), "{}", error.full_text());
        let init = ContainerConfig { init: true, ..by_runc("true") };
        let id = host.create("init", init).await;
        let error = host.engine.start(&id).await.unwrap_err();
        assert!(error.full_text().contains("init"), "{}", error.full_text());
        assert!(matches!(host.engine.inspect(&id).unwrap().state, ContainerState::Exited(_)));
    });
}
