//! Images that are mounted in containers, by the Docker CLI.

use std::fs;

use serde_json::json;

use crate::served::{Served, docker_with, fails, run, served};

/// An image of two layers: what the upper one removes is not there.
async fn make_tools(served: &Served) {
    let mut tar = tar::Builder::new(Vec::new());
    let busybox = fs::read("/bin/busybox").unwrap();
    for (path, bytes, mode) in [
        ("bin/busybox", busybox.as_slice(), 0o755),
        ("share/greeting", b"hello from another image\n", 0o644),
        ("share/removed", b"gone\n", 0o644),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len().try_into().unwrap());
        header.set_mode(mode);
        tar.append_data(&mut header, path, bytes).unwrap();
    }
    for name in ["bin/sh", "bin/rm"] {
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_entry_type(tar::EntryType::Symlink);
        tar.append_link(&mut header, name, "busybox").unwrap();
    }
    let archive = tar.into_inner().unwrap();
    let (fine, _, error) = docker_with(served, &["import", "-c", "ENV PATH=/bin", "-", "tools:base"], &archive).await;
    assert!(fine, "{error}");
    let line = "echo second > /share/added; rm /share/removed";
    run(served, &["run", "--name", "builder", "tools:base", "/bin/sh", "-c", line]).await;
    run(served, &["commit", "builder", "tools:1"]).await;
    run(served, &["rm", "builder"]).await;
}

#[test]
fn the_files_of_an_image_are_seen_in_another_ones_container() {
    served("docker-api-image-mounts", async |served| {
        make_tools(&served).await;
        let line = "cat /tools/share/greeting /tools/share/added; test -e /tools/share/removed || echo removed; \
            /tools/bin/busybox echo runs; echo no > /tools/share/greeting || echo read-only; \
            mkdir /tools/x || echo read-only";
        let whole = ["run", "--rm", "--mount", "type=image,source=tools:1,target=/tools", "made:1", "sh", "-c", line];
        assert_eq!(
            run(&served, &whole).await,
            "hello from another image\nsecond\nremoved\nruns\nread-only\nread-only\n"
        );
        // An image of one layer, and a single file of it.
        for part in ["share", "/../share"] {
            let part = part.trim_start_matches("/../");
            let mount = format!("type=image,src=tools:base,dst=/t,image-subpath={part}");
            let seen =
                run(&served, &["run", "--rm", "--mount", &mount, "made:1", "cat", "/t/greeting", "/t/removed"]).await;
            assert_eq!(seen, "hello from another image\ngone\n");
        }
        let mount = "type=image,src=tools:1,dst=/greeting,image-subpath=share/greeting";
        let seen = run(&served, &["run", "--rm", "--mount", mount, "made:1", "cat", "/greeting"]).await;
        assert_eq!(seen, "hello from another image\n");

        // What is wrong is said as Docker says it.
        let refused = async |mount: &str| fails(&served, &["run", "--rm", "--mount", mount, "made:1", "true"]).await;
        let error = refused("type=image,source=absent:9,target=/t").await;
        assert!(error.contains("No such image: absent:9"), "{error}");
        let error = refused("type=image,source=tools:1,target=/t,image-subpath=share/nothing").await;
        assert!(error.contains("there is no `share/nothing` in the image"), "{error}");
        let error = refused("type=image,source=tools:1,target=/t,image-subpath=../etc").await;
        assert!(error.contains("stays within the image"), "{error}");
        let error = refused("type=image,target=/t").await;
        assert!(error.contains("ource"), "{error}");
        assert_eq!(served.get("/containers/json?all=1").await, json!([]), "nothing is left of them");
    });
}

#[test]
fn an_image_stays_while_a_container_mounts_it() {
    served("docker-api-image-mounts-use", async |served| {
        make_tools(&served).await;
        let mount = "type=image,source=tools:1,target=/tools";
        let wait = "while ! test -e /go; do sleep 0.05; done";
        run(&served, &["run", "-d", "--name", "user", "--mount", mount, "made:1", "sh", "-c", wait]).await;
        let document = served.get("/containers/user/json").await;
        let shown = &document["Mounts"][0];
        assert_eq!(
            (&shown["Type"], &shown["Name"], &shown["Destination"], &shown["RW"]),
            (&json!("image"), &json!("tools:1"), &json!("/tools"), &json!(false)),
            "{document:#}"
        );
        // Out of it, and not into it.
        let place = served.root.join("copied");
        run(&served, &["cp", "user:/tools/share/greeting", place.to_str().unwrap()]).await;
        assert_eq!(fs::read_to_string(&place).unwrap(), "hello from another image\n");
        let error = fails(&served, &["cp", place.to_str().unwrap(), "user:/tools/share/other"]).await;
        assert!(error.contains("read-only"), "{error}");

        // Neither by name nor by pruning; with force only the name goes.
        let error = fails(&served, &["rmi", "tools:1"]).await;
        assert!(error.contains("container") && error.contains("using"), "{error}");
        let pruned = run(&served, &["image", "prune", "-af"]).await;
        assert!(pruned.contains("untagged: tools:base") && !pruned.contains("tools:1"), "{pruned}");
        run(&served, &["exec", "user", "sh", "-c", "cat /tools/share/added > /seen; echo > /go"]).await;
        assert_eq!(run(&served, &["wait", "user"]).await, "0\n");

        // One that does not run is copied from and committed as well, and what is mounted is in neither image nor change.
        run(&served, &["cp", "user:/tools/share/greeting", place.to_str().unwrap()]).await;
        run(&served, &["rmi", "-f", "tools:1"]).await;
        run(&served, &["restart", "user"]).await;
        run(&served, &["commit", "user", "with:1"]).await;
        let line = "cat /seen; for file in /tools/*; do echo $file; done";
        assert_eq!(run(&served, &["run", "--rm", "with:1", "sh", "-c", line]).await, "second\n/tools/*\n");
        run(&served, &["rm", "-f", "user"]).await;
        let pruned = run(&served, &["image", "prune", "-f"]).await;
        assert!(pruned.contains("deleted: sha256:"), "nobody needs it any more: {pruned}");
    });
}
