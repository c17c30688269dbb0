//! What containers use, by the Docker CLI.

use hyper::Method;
use serde_json::{Value, json};

use crate::served::{fails, run, served, until};

#[test]
fn what_a_container_uses_is_told() {
    served("docker-api-usage", async |served| {
        let busy = "while :; do :; done & while :; do sleep 0.05; done";
        run(&served, &["network", "create", "front"]).await;
        run(&served, &["run", "-d", "--name", "busy", "-m", "64m", "--network", "front", "made:1", "sh", "-c", busy])
            .await;
        let look: Value = served.get("/containers/busy/stats?stream=0").await;
        let total = |document: &Value| document["cpu_usage"]["total_usage"].as_u64().unwrap();
        // Most of a processor for a second, whatever else the host does.
        assert!(total(&look["cpu_stats"]) > total(&look["precpu_stats"]) + 10_000_000, "{look:#}");
        assert!(look["cpu_stats"]["system_cpu_usage"].as_u64() > look["precpu_stats"]["system_cpu_usage"].as_u64());
        assert_eq!(look["memory_stats"]["limit"], json!(64 << 20));
        assert!(look["pids_stats"]["current"].as_u64() >= Some(2) && look["memory_stats"]["usage"].as_u64() > Some(0));
        assert!(look["networks"]["eth0"]["tx_bytes"].is_u64(), "{look:#}");
        let row = run(&served, &["stats", "--no-stream", "--format", "{{.Name}} {{.CPUPerc}} {{.MemUsage}}"]).await;
        assert!(row.starts_with("busy ") && row.contains("/ 64MiB") && !row.contains(" 0.00%"), "{row}");
        let one = served.get("/containers/busy/stats?stream=0&one-shot=1").await;
        assert_eq!(total(&one["precpu_stats"]), 0);

        let shown = run(&served, &["top", "busy"]).await;
        assert!(shown.starts_with("UID") && shown.contains("sh -c while"), "{shown}");
        let shown = run(&served, &["top", "busy", "-o", "pid,comm"]).await;
        let pids: Vec<&str> = shown.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
        assert!(pids.len() >= 2 && pids.iter().all(|pid| pid.parse::<i32>().is_ok()), "{shown}");
        assert!(fails(&served, &["top", "busy", "--forest"]).await.contains("expected -ef"));
        run(&served, &["kill", "busy"]).await;
        until("it has ended", async || served.get("/containers/busy/json").await["State"]["Running"] == false).await;
        assert!(fails(&served, &["top", "busy"]).await.contains("is not running"));
        let over = served.get("/containers/busy/stats?stream=0").await;
        assert_eq!(over["pids_stats"]["current"], json!(0));
        assert_eq!(served.refused(Method::GET, "/containers/none/stats").await.0, 404);
        run(&served, &["rm", "busy"]).await;
        run(&served, &["network", "rm", "front"]).await;
    });
}

#[test]
fn what_lies_on_the_disk_is_told() {
    served("docker-api-disk", async |served| {
        run(&served, &["tag", "made:1", "other:1"]).await;
        run(&served, &["volume", "create", "data"]).await;
        let line =
            "i=0; while [ $i -lt 2000 ]; do echo 0123456789012345678901234567890123456789; i=$((i+1)); done > /x/file";
        run(
            &served,
            &["run", "--name", "writer", "-v", "data:/x", "made:1", "sh", "-c", &format!("{line}; seq 1 9999 > /own")],
        )
        .await;
        let document = served.get("/system/df").await;
        let image = &document["Images"][0];
        assert_eq!((&image["Containers"], &image["SharedSize"]), (&json!(1), &json!(0)));
        assert_eq!(document["LayersSize"], image["Size"]);
        assert!(document["Containers"][0]["SizeRw"].as_u64() >= Some(40_000), "{document:#}");
        let volume = &document["Volumes"][0]["UsageData"];
        assert!(volume["Size"].as_u64() >= Some(80_000) && volume["RefCount"] == 1, "{document:#}");
        let shown = run(&served, &["system", "df"]).await;
        assert!(shown.contains("Local Volumes") && shown.contains("Build Cache"), "{shown}");
        assert!(run(&served, &["system", "df", "-v"]).await.contains("data"));
        assert!(run(&served, &["ps", "-as", "--format", "{{.Names}} {{.Size}}"]).await.contains("writer"));
        run(&served, &["rm", "writer"]).await;
        run(&served, &["volume", "rm", "data"]).await;
    });
}

#[test]
fn what_a_container_has_changed_is_told() {
    served("docker-api-changes", async |served| {
        let changes = async |name: &str, options: &[&str], line: &str| {
            let mut arguments = vec!["run", "--name", name];
            arguments.extend(options);
            arguments.extend(["made:1", "sh", "-c", line]);
            run(&served, &arguments).await;
            run(&served, &["diff", name]).await
        };
        assert_eq!(changes("none", &[], "true").await, "", "what its start makes is no change of its own");
        assert_eq!(served.get("/containers/none/changes").await, serde_json::Value::Null);
        // In a directory of the image, one of its own, and a link to a directory that the host has, too.
        let line = "B=/t/busybox; echo > /bin/new; $B rm /bin/seq; $B ln -s /etc /link; echo > /own; $B mv /own /mine; \
                    $B mkdir /made; echo > /made/file; echo > /gone; $B rm /gone; $B chmod 700 /bin/sleep";
        let seen = changes("one", &["-v", "/bin/busybox:/t/busybox:ro"], line).await;
        let wanted =
            "C /bin\nA /bin/new\nD /bin/seq\nC /bin/sh\nA /link\nA /made\nA /made/file\nA /mine\nA /t\nA /t/busybox\n";
        assert_eq!(seen, wanted);
        // A directory that is made anew hides the image's.
        let line = "B=/t/busybox; $B mv /bin /old; $B mkdir /bin; echo > /bin/sh";
        let seen = changes("two", &["-v", "/bin/busybox:/t/busybox:ro"], line).await;
        for wanted in ["C /bin\n", "C /bin/sh\n", "D /bin/seq\n", "A /old\n", "A /old/sh\n"] {
            assert!(seen.contains(wanted), "{wanted} in {seen}");
        }
        assert_eq!(served.refused(Method::GET, "/containers/absent/changes").await.0, 404);
        run(&served, &["rm", "none", "one", "two"]).await;
    });
}
