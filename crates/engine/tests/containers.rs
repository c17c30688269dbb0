//! Containers on this host, as root: their whole life, with the real shim.

mod support;

use std::time::Duration;

use stack_engine::container::{ContainerConfig, ContainerState, RestartPolicy, StartError};
use stack_engine::{RemoveOptions, logs::LogQuery};
use support::{shell, with_host};
use tokio_stream::StreamExt;

#[test]
fn output_exit_code_and_removal() {
    with_host("life", async |host| {
        let id = host.start("one", shell("echo out; echo err >&2; cat /layer; exit 7")).await;
        let status = host.wait(&id).await;
        assert_eq!((status.code, status.signal, status.oom), (7, None, false));
        let mut lines: Vec<String> = host.output(&id).await.lines().map(str::to_owned).collect();
        lines.sort();
        assert_eq!(lines, ["err", "out", "the upper one"]);
        assert!(matches!(host.engine.inspect(&id).unwrap().state, ContainerState::Exited(_)));
        host.engine.start(&id).await.unwrap();
        assert_eq!(host.wait(&id).await.code, 7);
        assert_eq!(host.engine.inspect(&id).unwrap().starts, 2);
        host.engine.remove(&id, RemoveOptions::default()).await.unwrap();
        assert!(host.engine.inspect(&id).is_none());
    });
}

#[test]
fn stop_asks_first_and_kills_then() {
    with_host("stop", async |host| {
        let polite = host.start("polite", shell("trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done")).await;
        host.says(&polite, "ready").await;
        host.engine.stop(&polite, None).await.unwrap();
        assert_eq!(host.wait(&polite).await.code, 3);
        let stubborn = host.start("stubborn", shell("trap '' TERM; echo ready; while :; do sleep 0.05; done")).await;
        host.says(&stubborn, "ready").await;
        host.engine.stop(&stubborn, Some(Duration::from_millis(50))).await.unwrap();
        let status = host.wait(&stubborn).await;
        assert_eq!((status.code, status.signal), (137, Some(9)));
        let signal = ContainerConfig {
            stop_signal: Some("USR1".to_owned()),
            ..shell("trap 'exit 5' USR1; echo ready; while :; do sleep 0.05; done")
        };
        let own = host.start("own", signal).await;
        host.says(&own, "ready").await;
        host.engine.stop(&own, None).await.unwrap();
        assert_eq!(host.wait(&own).await.code, 5);
    });
}

#[test]
fn what_cannot_be_run_says_why() {
    with_host("refusals", async |host| {
        let command = |words: &[&str]| ContainerConfig {
            command: Some(words.iter().map(|word| (*word).to_owned()).collect()),
            ..shell("")
        };
        let cases: Vec<(&str, ContainerConfig, i32, &str)> = vec![
            ("absent", command(&["nothing-like-it"]), 127, "executable file not found"),
            ("absent-path", command(&["/nothing"]), 127, "no such file"),
            ("plain", command(&["/not-executable"]), 126, "permission denied"),
            ("directory", command(&["/etc"]), 126, "permission denied"),
            ("format", command(&["/not-a-program"]), 126, "exec format error"),
            (
                "user",
                ContainerConfig { user: Some("nobody".to_owned()), ..shell("") },
                128,
                "unable to find user nobody",
            ),
            (
                "group",
                ContainerConfig { user: Some("web:nogroup".to_owned()), ..shell("") },
                128,
                "unable to find group nogroup",
            ),
        ];
        for (name, config, code, text) in cases {
            let id = host.create(name, config).await;
            let error = host.engine.start(&id).await.unwrap_err();
            assert!(error.full_text().contains(text), "{name}: {}", error.full_text());
            assert!(!error.is_retryable(), "{name}");
            let status = host.wait(&id).await;
            assert_eq!(status.code, code, "{name}");
            assert_eq!(status.error.as_deref(), Some(error.full_text().as_str()));
        }
        let missing = ContainerConfig {
            mounts: vec![
                serde_json::from_value(serde_json::json!({
                    "target": "/x", "source": {"bind": {"path": "/there/is/no/such/path"}}
                }))
                .unwrap(),
            ],
            ..shell("")
        };
        let id = host.create("mount", missing).await;
        let error = host.engine.start(&id).await.unwrap_err();
        assert!(matches!(&error, StartError::MountSource { .. }) && !error.is_retryable());
        assert!(error.full_text().contains("/there/is/no/such/path"));
    });
}

#[test]
fn logs_follow_to_the_end_and_keep_long_and_binary_lines() {
    with_host("logs", async |host| {
        let line = "for i in 1 2 3; do echo line $i; sleep 0.05; done; head -c 40000 /dev/zero | tr '\\0' x; \
                    printf '\\377\\376\\n'; printf end";
        let id = host.start("talker", shell(line)).await;
        let query = LogQuery { follow: true, ..LogQuery::default() };
        let records: Vec<_> = tokio::time::timeout(support::PATIENCE, host.engine.logs(&id, query).collect::<Vec<_>>())
            .await
            .expect("it ends with the container");
        let records: Vec<_> = records.into_iter().map(Result::unwrap).collect();
        let all: Vec<u8> = records.iter().flat_map(|record| record.output.to_vec()).collect();
        let mut expected = b"line 1\nline 2\nline 3\n".to_vec();
        expected.extend(vec![b'x'; 40000]);
        expected.extend(b"\xff\xfe\nend");
        assert!(all == expected, "{} bytes", all.len());
        assert!(records[3].partial && records[3].output.len() == 16 * 1024);
        assert!(records.windows(2).all(|pair| pair[0].time <= pair[1].time));
        let query = LogQuery { tail: Some(1), ..LogQuery::default() };
        let last: Vec<_> = host.engine.logs(&id, query).collect().await;
        assert_eq!(last[0].as_ref().unwrap().output, "end");
    });
}

#[test]
fn logs_are_rotated() {
    with_host("rotation", async |host| {
        let mut config = shell("i=0; while [ $i -lt 3000 ]; do echo number $i; i=$((i+1)); done");
        config.logging.options.insert("max-size".to_owned(), "16k".to_owned());
        config.logging.options.insert("max-file".to_owned(), "2".to_owned());
        let (code, output) = host.run("talker", config).await;
        assert_eq!(code, 0);
        assert!(output.ends_with("number 2999\n") && !output.contains("number 0\n"));
        let files = std::fs::read_dir(host.root.join("state/containers/talker/logs")).unwrap();
        assert_eq!(files.count(), 2);
    });
}

#[test]
fn containers_end_with_their_host_in_order_and_no_policy_takes_that_for_a_stop() {
    with_host("host-end", async |host| {
        let polite = ContainerConfig {
            restart: RestartPolicy::Always,
            stop_grace: Some(Duration::from_secs(600)),
            ..shell("trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.05; done")
        };
        let deaf = shell("trap '' TERM; echo ready; while :; do sleep 0.05; done");
        let (polite, deaf) = (host.start("polite", polite).await, host.start("deaf", deaf).await);
        host.says(&polite, "ready").await;
        host.says(&deaf, "ready").await;
        host.engine.end_with_host(Duration::from_millis(1500)).await;
        for (id, code) in [(&polite, 3), (&deaf, 137)] {
            let state = host.engine.inspect(id).unwrap().state;
            assert!(matches!(&state, ContainerState::Exited(status) if status.code == code), "{state:?}");
        }
        host.says(&polite, "bye").await;
        // It is started again with the next boot, as nobody has stopped it, and not before.
        assert!(!host.engine.inspect(&polite).unwrap().restarting);
        let record = std::fs::read(host.root.join("state/containers/polite/record.json")).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        assert_ne!(record["stopped"], true, "{record}");
    });
}
