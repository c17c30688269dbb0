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
