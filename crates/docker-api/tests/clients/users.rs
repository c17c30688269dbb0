//! User namespaces by the Docker CLI: what a daemon that gives them to containers says, refuses, and copies.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use hyper::Method;
use serde_json::{Value, json};

use crate::served::{Served, docker_with, fails, run, served_with_users, until};

const WAITS: &str = "trap 'exit 0' TERM; while :; do sleep 0.05; done";

async fn shell(served: &Served, container: &str, line: &str) -> String {
    run(served, &["exec", container, "sh", "-c", line]).await.trim_end().to_owned()
}

async fn inspected(served: &Served, container: &str, format: &str) -> String {
    run(served, &["inspect", "--format", format, container]).await.trim_end().to_owned()
}

/// The line of a container's root in its map of users.
async fn map(served: &Served, container: &str) -> Vec<String> {
    let pid = inspected(served, container, "{{.State.Pid}}").await;
    let text = fs::read_to_string(format!("/proc/{pid}/uid_map")).unwrap();
    text.split_whitespace().map(str::to_owned).collect()
}

/// Who owns what in an archive.
fn owners(archive: &[u8]) -> BTreeMap<String, (u64, u64)> {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().unwrap().map(|entry| {
        let entry = entry.unwrap();
        let name = entry.path().unwrap().to_string_lossy().trim_end_matches('/').to_owned();
        (name, (entry.header().uid().unwrap(), entry.header().gid().unwrap()))
    });
    entries.collect()
}

fn archive_with(name: &str, owner: u64) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(5);
    header.set_mode(0o640);
    header.set_uid(owner);
    header.set_gid(44);
    archive.append_data(&mut header, name, &b"words"[..]).unwrap();
    archive.into_inner().unwrap()
}

/// A file below a directory, by its name.
fn find(directory: &Path, name: &str) -> Option<PathBuf> {
    fs::read_dir(directory).ok()?.map(Result::unwrap).find_map(|entry| {
        if entry.file_name() == *name {
            return Some(entry.path());
        }
        entry.file_type().unwrap().is_dir().then(|| find(&entry.path(), name)).flatten()
    })
}

fn owner_on_disk(served: &Served, below: &str, name: &str) -> (u32, u32) {
    let found = find(&served.root.join("real/state").join(below), name).unwrap_or_else(|| panic!("there is no {name}"));
    let found = fs::symlink_metadata(found).unwrap();
    (found.uid(), found.gid())
}

#[test]
fn a_daemon_gives_containers_user_namespaces() {
    served_with_users("docker-api-users", async |served| {
        let options = run(&served, &["info", "--format", "{{json .SecurityOptions}}"]).await;
        assert!(options.contains("name=userns"), "{options}");
        run(&served, &["run", "-d", "--name", "web", "made:1", "sh", "-c", WAITS]).await;
        assert_eq!(map(&served, "web").await, ["0", "1000000", "65536"]);
        assert_eq!(inspected(&served, "web", "{{json .HostConfig.UsernsMode}}").await, "\"\"");
        // What is mounted of an image belongs to whom it belongs in the image, as the container's own files do.
        let mounted = ["--mount", "type=image,source=made:1,target=/image", "made:1"];
        let owner = ["run", "--rm"].into_iter().chain(mounted).chain(["sh", "-c", "ls -ln /image/bin | tail -1"]);
        let owner = run(&served, &owner.collect::<Vec<_>>()).await;
        assert_eq!(owner.split_whitespace().nth(2), Some("0"), "{owner}");
        run(&served, &["run", "-d", "--name", "plain", "--userns", "host", "made:1", "sh", "-c", WAITS]).await;
        assert_eq!(map(&served, "plain").await, ["0", "0", "4294967295"]);
        assert_eq!(inspected(&served, "plain", "{{json .HostConfig.UsernsMode}}").await, "\"host\"");
        for (option, words) in [
            (
                "--privileged",
                "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when running privileged mode",
            ),
            ("--network=host", "cannot share the host's network namespace when user namespaces are enabled"),
            ("--pid=host", "cannot share the host PID namespace when user namespaces are enabled"),
        ] {
            let said = fails(&served, &["run", "--rm", option, "made:1", "true"]).await;
            assert!(said.contains(words), "{said}");
            run(&served, &["run", "--rm", "--userns=host", option, "made:1", "true"]).await;
        }
        // Beside another container.
        run(
            &served,
            &[
                "run",
                "-d",
                "--name",
                "side",
                "--network",
                "container:web",
                "--pid",
                "container:web",
                "made:1",
                "sh",
                "-c",
                WAITS,
            ],
        )
        .await;
        assert_eq!(map(&served, "side").await, map(&served, "web").await);
        let said =
            fails(&served, &["run", "--rm", "--userns=host", "--network", "container:web", "made:1", "true"]).await;
        assert!(said.contains("has a user namespace"), "{said}");
        // A terminal, and what is written to and read from it.
        let (done, output, error) =
            docker_with(&served, &["run", "-i", "--rm", "made:1", "cat"], b"through the pipe").await;
        assert!(done && output == "through the pipe", "{output} {error}");
        let output = run(
            &served,
            &[
                "run",
                "-t",
                "--rm",
                "--tmpfs",
                "/memory:uid=5",
                "made:1",
                "sh",
                "-c",
                "echo out > /dev/tty; echo x > /memory/x && echo kept",
            ],
        )
        .await;
        assert!(output.contains("out") && output.contains("kept"), "{output}");
        // Ports below 1024, names, and the files of the network.
        let output = shell(
            &served,
            "web",
            "echo 127.9.9.9 other >> /etc/hosts; cat /etc/hosts; cat /proc/sys/net/ipv4/ip_unprivileged_port_start",
        )
        .await;
        assert!(output.contains("127.9.9.9 other") && output.ends_with('0'), "{output}");
    });
}

#[test]
fn files_are_copied_with_the_owners_that_the_container_knows() {
    served_with_users("docker-api-users-copies", async |served| {
        let line = format!(
            "ln -s sh /bin/chown; ln -s sh /bin/stat; echo a > /mine; echo b > /its; chown 33:44 /its; echo ready; {WAITS}"
        );
        run(&served, &["run", "-d", "--name", "web", "-v", "data:/data", "made:1", "sh", "-c", &line]).await;
        until("it is ready", async || run(&served, &["logs", "web"]).await.contains("ready")).await;
        for (place, on_disk) in [("/", "snapshots"), ("/data", "volumes")] {
            let name = format!("put-into-{on_disk}");
            let put = served.put(&format!("/containers/web/archive?path={place}"), archive_with(&name, 33)).await;
            assert_eq!(put, (200, String::new()));
            let path = format!("{}/{name}", place.trim_end_matches('/'));
            assert_eq!(
                shell(&served, "web", &format!("stat -c '%u:%g %a' {path}; cat {path}")).await,
                "33:44 640\nwords"
            );
            assert_eq!(owner_on_disk(&served, on_disk, &name), (33, 44));
            let (_, archive) = served.bytes(Method::GET, &format!("/containers/web/archive?path={path}")).await;
            assert_eq!(owners(&archive), BTreeMap::from([(name, (33, 44))]));
        }
        let (status, said) = served.put("/containers/web/archive?path=/", archive_with("too-far", 70_000)).await;
        assert!(status >= 400 && said.contains("user namespace"), "{status} {said}");
        // By the CLI, in and out.
        let local = served.root.join("local");
        fs::write(&local, "from the host").unwrap();
        run(&served, &["cp", local.to_str().unwrap(), "web:/data/copied"]).await;
        run(&served, &["cp", local.to_str().unwrap(), "web:/new"]).await;
        assert_eq!(
            shell(&served, "web", "cat /data/copied; stat -c ' %u:%g' /data/copied /new").await,
            "from the host 0:0\n 0:0"
        );
        assert_eq!(owner_on_disk(&served, "volumes", "copied"), (0, 0));
        run(&served, &["cp", "web:/its", served.root.join("its").to_str().unwrap()]).await;
        assert_eq!(fs::read_to_string(served.root.join("its")).unwrap(), "b\n");
        // The whole of it, what differs, and an image of it.
        let (_, exported) = served.bytes(Method::GET, "/containers/web/export").await;
        let exported = owners(&exported);
        assert_eq!((exported["mine"], exported["its"], exported["bin/sh"]), ((0, 0), (33, 44), (0, 0)));
        let changes = run(&served, &["diff", "web"]).await;
        assert!(changes.contains("A /its") && changes.contains("A /new"), "{changes}");
        run(&served, &["commit", "web", "made:2"]).await;
        let stat = ["run", "--rm", "made:2", "sh", "-c", "stat -c '%u:%g' /its /mine"];
        assert_eq!(run(&served, &stat).await, "33:44\n0:0\n");
        let stat = ["run", "--rm", "--userns=host", "made:2", "sh", "-c", "stat -c '%u:%g' /its /mine"];
        assert_eq!(run(&served, &stat).await, "33:44\n0:0\n");
        // While it does not run its files are those of the disk.
        run(&served, &["stop", "-t", "5", "web"]).await;
        let put = served.put("/containers/web/archive?path=/", archive_with("late", 33)).await;
        assert_eq!(put, (200, String::new()));
        run(&served, &["start", "web"]).await;
        until("it is back", async || shell(&served, "web", "stat -c '%u:%g' /late").await == "33:44").await;
        let (_, document) = served.json(Method::GET, "/containers/web/json").await;
        assert_eq!(document["HostConfig"]["UsernsMode"], json!(""), "{document}");
        assert_ne!(document["State"]["Pid"], Value::Null);
    });
}
