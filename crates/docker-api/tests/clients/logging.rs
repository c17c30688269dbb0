//! Log drivers, by the Docker CLI: what is refused, what is sent, and what is read on this host all the same.

use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixListener;

use serde_json::json;

use crate::served::{fails, run, served};

#[test]
fn drivers_options_and_reading() {
    served("docker-api-logging", async |served| {
        for (arguments, text) in [
            (
                &["--log-driver", "syslog", "--log-opt", "colour=red"][..],
                "unknown log opt 'colour' for syslog log driver",
            ),
            (&["--log-driver", "awslogs"], "no log driver named 'awslogs' is registered"),
            (&["--log-driver", "gelf"], "gelf-address is a required parameter"),
            (&["--log-opt", "max-buffer-size=1m"], "max-buffer-size option is only supported with 'mode=non-blocking'"),
        ] {
            let all = [&["run"], arguments, &["made:1", "sh", "-c", "true"]].concat();
            let told = fails(&served, &all).await;
            assert!(told.contains(text), "{told}");
        }
        // Nobody is there: the start is refused, as Docker does it.
        let path = served.root.join("receiver");
        let address = format!("syslog-address=unix://{}", path.display());
        let sent = ["--log-driver", "syslog", "--log-opt", &address, "--log-opt", "tag={{.Name}}"];
        let told =
            fails(&served, &[&["run", "--name", "web"], &sent[..], &["made:1", "sh", "-c", "echo said"]].concat())
                .await;
        assert!(told.contains("failed to initialize logging driver: dial unix://"), "{told}");
        let listener = UnixListener::bind(&path).unwrap();
        let received = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            // The first connection only looks whether somebody is there.
            while line.is_empty() {
                BufReader::new(listener.accept().unwrap().0).read_line(&mut line).unwrap();
            }
            line
        });
        assert_eq!(run(&served, &["start", "-a", "web"]).await, "said\n");
        let line = received.await.unwrap();
        assert!(line.contains(" web[") && line.ends_with(": said\n"), "{line}");
        assert_eq!(run(&served, &["logs", "web"]).await, "said\n");
        let inspected = served.get("/containers/web/json").await;
        assert_eq!(inspected["HostConfig"]["LogConfig"]["Type"], "syslog");
        assert_eq!(inspected["HostConfig"]["LogConfig"]["Config"]["tag"], "{{.Name}}");
        let hidden = ["run", "--name", "hidden", "--log-driver", "gelf", "--log-opt", "gelf-address=udp://127.0.0.1:9"];
        run(&served, &[&hidden[..], &["--log-opt", "cache-disabled=true", "made:1", "sh", "-c", "true"]].concat())
            .await;
        let told = fails(&served, &["logs", "hidden"]).await;
        assert!(told.contains("configured logging driver does not support reading"), "{told}");
        let detailed =
            ["run", "--name", "detailed", "--label", "team=blue", "-e", "LEVEL=a b", "--log-opt", "labels=team"];
        run(&served, &[&detailed[..], &["--log-opt", "env=LEVEL", "made:1", "sh", "-c", "echo said"]].concat()).await;
        assert_eq!(run(&served, &["logs", "--details", "detailed"]).await, "LEVEL=a+b,team=blue said\n");
        let drivers = &served.get("/info").await["Plugins"]["Log"];
        assert_eq!(*drivers, json!(["fluentd", "gelf", "journald", "json-file", "local", "none", "syslog"]));
        for name in ["web", "hidden", "detailed"] {
            run(&served, &["rm", name]).await;
        }
    });
}
