//! Volumes by the Docker CLI.

use serde_json::json;

use crate::served::{fails, run, served};

#[test]
fn volumes_are_made_used_kept_and_removed() {
    served("docker-api-volumes", async |served| {
        assert_eq!(run(&served, &["volume", "create", "--label", "a=b", "data"]).await.trim(), "data");
        assert_eq!(run(&served, &["volume", "create", "data"]).await.trim(), "data");
        let anonymous = run(&served, &["volume", "create"]).await;
        assert_eq!(anonymous.trim().len(), 64);
        run(&served, &["run", "--rm", "-v", "data:/x", "made:1", "sh", "-c", "echo kept > /x/file"]).await;
        assert_eq!(
            run(&served, &["run", "--rm", "-v", "data:/y", "made:1", "sh", "-c", "read a < /y/file; echo $a"])
                .await
                .trim(),
            "kept"
        );
        let container = run(&served, &["create", "-v", "data:/x", "made:1", "true"]).await;
        assert!(fails(&served, &["volume", "rm", "data"]).await.contains("in use"));
        let used = run(&served, &["volume", "ls", "-q", "--filter", "dangling=false"]).await;
        assert_eq!(used.trim(), "data");
        let pruned = run(&served, &["volume", "prune", "-f"]).await;
        assert!(pruned.contains(anonymous.trim()) && !pruned.contains("data\n"), "{pruned}");
        run(&served, &["rm", container.trim()]).await;
        assert_eq!(run(&served, &["volume", "ls", "-q", "--filter", "label=a=b"]).await.trim(), "data");
        let pruned = run(&served, &["volume", "prune", "-fa"]).await;
        assert!(pruned.contains("data"), "{pruned}");
        assert!(fails(&served, &["volume", "inspect", "data"]).await.contains("data"));
        run(&served, &["volume", "rm", "-f", "data"]).await;
        assert!(fails(&served, &["volume", "create", "-d", "rexray", "x"]).await.contains("rexray"));
        assert!(fails(&served, &["volume", "create", "a/b"]).await.contains("a/b"));
    });
}

fn is_mounted(point: &std::path::Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    mounts.lines().any(|line| line.split(' ').nth(4) == point.to_str())
}

#[test]
fn volumes_are_what_is_mounted_while_somebody_runs_with_them() {
    served("docker-api-volume-options", async |served| {
        let place = served.root.join("srv");
        std::fs::create_dir(&place).unwrap();
        std::fs::write(place.join("file"), "of the host\n").unwrap();
        let device = format!("device={}", place.display());
        run(&served, &["volume", "create", "-o", "type=none", "-o", "o=bind,ro", "-o", &device, "bound"]).await;
        run(&served, &["volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=1m", "memory"])
            .await;
        let document = served.get("/volumes/bound").await;
        assert_eq!(document["Options"]["o"], json!("bind,ro"));
        let line = "read a < /x/file; echo $a; echo no > /x/file";
        let (_, output, error) =
            crate::served::docker(&served, &["run", "--rm", "-v", "bound:/x", "made:1", "sh", "-c", line]).await;
        assert_eq!(output.trim(), "of the host");
        assert!(error.contains("Read-only"), "{error}");
        let point = |name: &str| served.engine.volumes().data(name).unwrap().canonicalize().unwrap();
        assert!(!is_mounted(&point("bound")), "nobody has it");

        // Two containers share what is in memory; it goes with the second.
        let wait = "while ! test -e /x/go; do sleep 0.05; done";
        run(&served, &["run", "-d", "--name", "one", "-v", "memory:/x", "made:1", "sh", "-c", wait]).await;
        run(&served, &["run", "-d", "--name", "two", "-v", "memory:/x", "made:1", "sh", "-c", wait]).await;
        assert!(is_mounted(&point("memory")));
        run(&served, &["exec", "one", "sh", "-c", "echo > /x/go"]).await;
        assert_eq!(run(&served, &["wait", "one", "two"]).await, "0\n0\n");
        run(&served, &["rm", "one", "two"]).await;
        assert!(!is_mounted(&point("memory")));

        run(&served, &["volume", "create", "-o", "type=nonesuch", "-o", "device=x", "wrong"]).await;
        let error = fails(&served, &["run", "--rm", "-v", "wrong:/x", "made:1", "true"]).await;
        assert!(error.contains("wrong") && error.contains("nonesuch"), "{error}");
        assert!(fails(&served, &["volume", "create", "-o", "colour=red", "x"]).await.contains("colour"));
        let error = fails(&served, &["volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "bound"]).await;
        assert!(error.contains("other options"), "{error}");
        // What is bound there is not removed with the volume.
        run(&served, &["volume", "rm", "bound", "memory", "wrong"]).await;
        assert!(place.join("file").exists());
    });
}
