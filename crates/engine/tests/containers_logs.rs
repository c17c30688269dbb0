//! Logs of containers on this host, as root: files that are compressed, and drivers that send to real sockets.

mod support;

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::net::UnixListener;
use std::time::Instant;

use stack_engine::container::{ContainerConfig, ContainerId, StartError};
use stack_engine::{RemoveOptions, logs::LogQuery};
use support::{PATIENCE, config, open, shell, with_host};
use tokio_stream::StreamExt as _;

fn logging(line: &str, driver: &str, options: &[(&str, &str)]) -> ContainerConfig {
    let mut config = shell(line);
    config.logging.driver = Some(driver.to_owned());
    config.logging.options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    config
}

#[test]
fn full_files_are_compressed_and_read_as_before() {
    with_host("compression", async |host| {
        let line = "i=0; while [ $i -lt 3000 ]; do echo number $i; i=$((i+1)); done; touch /data/said; sleep 1000";
        let options = [("max-size", "20k"), ("max-file", "20")];
        let id = host.start("talker", logging(line, "local", &options)).await;
        host.says(&id, "number 2999\n").await;
        let logs = host.root.join("state/containers/talker/logs");
        let names = || -> Vec<String> {
            let entries = std::fs::read_dir(&logs).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        };
        let deadline = Instant::now() + PATIENCE;
        while names().len() < 3 || !names().iter().any(|name| name.ends_with(".log.gz")) {
            assert!(Instant::now() < deadline, "{:?}", names());
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let expected: String = (0..3000).map(|number| format!("number {number}\n")).collect();
        assert_eq!(host.output(&id).await, expected);
        let tail = LogQuery { tail: Some(2500), ..LogQuery::default() };
        let records: Vec<_> = host.engine.logs(&id, tail).collect().await;
        assert_eq!((records.len(), &records[0].as_ref().unwrap().output[..]), (2500, &b"number 500\n"[..]));
        host.engine.stop(&id, Some(std::time::Duration::ZERO)).await.unwrap();
        assert!(!names().iter().any(|name| name.ends_with(".partial")), "{:?}", names());
    });
}

#[test]
fn a_container_that_does_not_wait_for_its_log_loses_nothing_while_the_disk_is_fast() {
    with_host("non-blocking", async |host| {
        let line = "i=0; while [ $i -lt 2000 ]; do echo number $i; i=$((i+1)); done; printf end";
        let options = [("mode", "non-blocking"), ("max-buffer-size", "8m")];
        let (code, output) = host.run("talker", logging(line, "json-file", &options)).await;
        let expected: String = (0..2000).map(|number| format!("number {number}\n")).collect();
        assert_eq!((code, output), (0, expected + "end"));
        // In another container's pid namespace no thread can be made, unless the shim has left it.
        let first = host.start("first", shell("sleep 1000")).await;
        let mut config = logging("echo said", "local", &options);
        config.pid_mode = stack_engine::container::NamespaceMode::Container(first);
        assert_eq!(host.run("second", config).await, (0, "said\n".to_owned()));
    });
}

#[test]
fn a_log_is_sent_across_the_end_of_the_engine_and_of_the_container() {
    with_host("sending", async |host| {
        let place = host.root.join("other");
        std::fs::create_dir(&place).unwrap();
        let path = host.root.join("receiver");
        let listener = UnixListener::bind(&path).unwrap();
        let url = format!("unix://{}", path.display());
        let line = "echo one; while ! [ -e /data/go ]; do sleep 0.05; done; echo two >&2; exit 3";
        let options = [("syslog-address", url.as_str()), ("tag", "{{.Name}}")];
        let id: ContainerId = "talker".parse().unwrap();
        let (settings, wanted, name) = (config(&place, &host.cgroup), logging(line, "syslog", &options), id.clone());
        // An engine that ends as if it were killed: with its runtime.
        let (at, made) = (place.clone(), settings.clone());
        let first = tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build().unwrap();
            runtime.block_on(async {
                let engine = open(&at, made).await;
                engine.create(Some(name.clone()), wanted).await.unwrap();
                engine.start(&name).await.unwrap();
            });
            let (stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            // It is held: whoever closes it at once may not have read it.
            let mut stream = BufReader::new(stream);
            stream.read_line(&mut line).unwrap();
            assert!(line.starts_with("<30>") && line.ends_with(": one\n") && line.contains(" talker["), "{line}");
            let cursor = at.join("state/containers/talker/shipped.json");
            let deadline = Instant::now() + PATIENCE;
            while !cursor.exists() {
                assert!(Instant::now() < deadline, "no cursor is written");
                std::thread::yield_now();
            }
            runtime.shutdown_timeout(std::time::Duration::from_secs(5));
            listener
        });
        let listener = first.await.unwrap();
        // It goes on and ends while there is no engine and nobody listens.
        let shim = support::processes_with("containers/talker")[0];
        let children = std::fs::read_to_string(format!("/proc/{shim}/task/{shim}/children")).unwrap();
        drop(listener);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(format!("/proc/{}/root/data/go", children.trim()), "").unwrap();
        let exit = place.join("state/containers/talker/exit.json");
        let deadline = Instant::now() + PATIENCE;
        while !exit.exists() {
            assert!(Instant::now() < deadline, "it does not end");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let engine = open(&place, settings).await;
        let deadline = Instant::now() + PATIENCE;
        while engine.warnings().is_empty() {
            assert!(Instant::now() < deadline, "it is not told");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let warning = engine.warnings().remove(0);
        assert!(warning.starts_with(&format!("container talker: the log is not sent: dial {url}: ")), "{warning}");
        assert_eq!(engine.inspect(&id).unwrap().notes.len(), 1);
        // Who starts it by hand is told; its policy or the cluster would start it.
        let refused = engine.reach_log_endpoint(&id).await.unwrap_err();
        assert!(matches!(refused, StartError::Logging { .. }));
        let text = refused.full_text();
        assert!(text.starts_with("failed to initialize logging driver: dial unix://"), "{text}");
        // It is removed, and still the end of its log comes.
        engine.remove(&id, RemoveOptions::default()).await.unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        let text = tokio::task::spawn_blocking(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        });
        let text = tokio::time::timeout(PATIENCE, text).await.unwrap().unwrap();
        assert!(text.starts_with("<27>") && text.ends_with(": two\n") && text.lines().count() == 1, "{text}");
    });
}

#[test]
fn a_log_that_is_kept_for_sending_alone_is_not_read() {
    with_host("sending-alone", async |host| {
        let options = [("gelf-address", "udp://127.0.0.1:1"), ("cache-disabled", "true"), ("labels", "team")];
        let mut config = logging("echo said", "gelf", &options);
        config.labels.insert("team".to_owned(), "blue".to_owned());
        let id = host.start("talker", config).await;
        host.wait(&id).await;
        let records: Vec<_> = host.engine.logs(&id, LogQuery::default()).collect().await;
        let text = records[0].as_ref().unwrap_err().to_string();
        assert!(records.len() == 1 && text.contains("cache-disabled"), "{text}");
        assert_eq!(host.engine.log_details(&id), [("team".to_owned(), "blue".to_owned())].into());
        // Nobody has to be there for datagrams.
        host.engine.reach_log_endpoint(&id).await.unwrap();
    });
}
