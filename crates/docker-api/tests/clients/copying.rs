//! Files in and out of containers, by the Docker CLI and by requests.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use base64::Engine as _;
use hyper::Method;
use serde_json::{Value, json};

use crate::served::{Served, docker_with, fails, run, served, until};

const WAITS: &str = "trap 'exit 0' TERM; while :; do sleep 0.05; done";

async fn shell(served: &Served, container: &str, line: &str) -> String {
    run(served, &["exec", "-u", "0", container, "sh", "-c", line]).await.trim_end().to_owned()
}

/// The entries of an archive: name, and content or the target of a link.
fn entries(archive: &[u8]) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in tar::Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        let mut text = String::new();
        match entry.link_name_bytes() {
            Some(link) => text = format!("-> {}", String::from_utf8(link.into_owned()).unwrap()),
            None => {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).unwrap();
                text.push_str(&String::from_utf8_lossy(&bytes));
            }
        }
        found.insert(name, text);
    }
    found
}

async fn stat(served: &Served, container: &str, path: &str) -> (u16, Value) {
    let response = served.send(Method::HEAD, &format!("/containers/{container}/archive?path={path}")).await;
    let status = response.status().as_u16();
    let Some(value) = response.headers().get("x-docker-container-path-stat") else { return (status, Value::Null) };
    let text = base64::engine::general_purpose::STANDARD.decode(value.as_bytes()).unwrap();
    (status, serde_json::from_slice(&text).unwrap())
}

/// Both of a container that runs and of one that does not.
async fn both(served: &Served, more: &[&str], line: &str) -> [&'static str; 2] {
    for name in ["running", "stopped"] {
        let mut arguments = vec!["run", "-d", "--name", name];
        arguments.extend(more);
        let script = format!("{line}; echo ready; {WAITS}");
        arguments.extend(["made:1", "sh", "-c", &script]);
        run(served, &arguments).await;
        until("it is ready", async || run(served, &["logs", name]).await.contains("ready")).await;
    }
    run(served, &["stop", "-t", "5", "stopped"]).await;
    ["running", "stopped"]
}

#[test]
fn files_are_copied_out_as_docker_does() {
    served("docker-api-cp-out", async |served| {
        let line = "mkdir -p /top/deep; echo words > /top/deep/file; ln -s deep /top/link; ln -s /top/deep/file /top/absolute; \
                    ln -s ../../../../etc/shadow /away; ln /top/deep/file /top/second";
        let names = both(&served, &[], line).await;
        for name in names {
            let place = served.root.join(format!("out-{name}"));
            fs::create_dir(&place).unwrap();
            let into = |file: &str| place.join(file).display().to_string();
            let of = |path: &str| format!("{name}:{path}");
            // A file to a new name, into a directory, and to standard output.
            run(&served, &["cp", &of("/top/deep/file"), &into("new")]).await;
            assert_eq!(fs::read_to_string(place.join("new")).unwrap(), "words\n");
            run(&served, &["cp", &of("top/deep/file"), &into("")]).await;
            assert_eq!(fs::read_to_string(place.join("file")).unwrap(), "words\n");
            // A directory to a new name, into a directory, and its contents alone.
            run(&served, &["cp", &of("/top/deep"), &into("renamed")]).await;
            run(&served, &["cp", &of("/top"), &into("")]).await;
            fs::create_dir(place.join("contents")).unwrap();
            run(&served, &["cp", &of("/top/."), &into("contents")]).await;
            for file in ["renamed/file", "top/deep/file", "contents/deep/file", "top/second"] {
                assert_eq!(fs::read_to_string(place.join(file)).unwrap(), "words\n", "{file}");
            }
            let (one, other) = (fs::metadata(place.join("top/second")), fs::metadata(place.join("top/deep/file")));
            assert_eq!(one.unwrap().ino(), other.unwrap().ino());
            // Links: as such, or what they lead to.
            run(&served, &["cp", &of("/top/absolute"), &into("as-link")]).await;
            assert_eq!(fs::read_link(place.join("as-link")).unwrap().to_str(), Some("/top/deep/file"));
            run(&served, &["cp", "-L", &of("/top/absolute"), &into("followed")]).await;
            assert!(fs::symlink_metadata(place.join("followed")).unwrap().is_file());
            run(&served, &["cp", &of("/top/link/"), &into("by-link")]).await;
            assert_eq!(fs::read_to_string(place.join("by-link/file")).unwrap(), "words\n");
            // What is not there, and what is no directory.
            let error = fails(&served, &["cp", &of("/missing"), &into("x")]).await;
            assert!(error.contains("Could not find the file /missing in container"), "{error}");
            assert!(!fails(&served, &["cp", &of("/top/deep/file/"), &into("x")]).await.is_empty());

            let raw = served.bytes(Method::GET, &format!("/containers/{name}/archive?path=/top/link/")).await;
            let found = entries(&raw.1);
            assert_eq!(found.keys().map(String::as_str).collect::<Vec<_>>(), ["link/", "link/file"]);
            let raw = served.bytes(Method::GET, &format!("/containers/{name}/archive?path=/top/.")).await;
            let found = entries(&raw.1);
            assert_eq!(found["./second"], "-> ./deep/file");
            assert_eq!(found["./absolute"], "-> /top/deep/file");
            let raw = served.bytes(Method::GET, &format!("/containers/{name}/archive?path=/")).await;
            let found = entries(&raw.1);
            assert!(found.contains_key("/") && found["/top/deep/file"] == "words\n");
            assert!(
                !found.keys().any(|path| path.len() > 6 && (path.starts_with("/proc/") || path.starts_with("/sys/"))),
                "{found:?}"
            );

            let (status, document) = stat(&served, name, "/away").await;
            assert_eq!(
                (status, &document["name"], &document["linkTarget"]),
                (200, &json!("away"), &json!("/etc/shadow"))
            );
            let (_, document) = stat(&served, name, "/top/link/").await;
            assert_eq!(document["mode"].as_u64().unwrap(), (1 << 31) | 0o755);
            assert_eq!(stat(&served, name, "/missing").await.0, 404);
            assert_eq!(served.refused(Method::GET, &format!("/containers/{name}/archive")).await.0, 400);
        }
        assert_eq!(stat(&served, "nobody", "/").await.0, 404);
        // What was made for looking into it is gone, and it starts as before.
        run(&served, &["start", "stopped"]).await;
        assert_eq!(shell(&served, "stopped", "cat /top/deep/file").await, "words");
    });
}

#[test]
fn files_are_copied_in_as_docker_does() {
    served("docker-api-cp-in", async |served| {
        let names = both(&served, &["-v", "data:/data", "--user", "7:8"], "true").await;
        let source = served.root.join("in");
        fs::create_dir_all(source.join("deep")).unwrap();
        fs::write(source.join("deep/file"), "words").unwrap();
        fs::set_permissions(source.join("deep/file"), fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::chown(source.join("deep/file"), Some(33), Some(44)).unwrap();
        symlink("file", source.join("deep/link")).unwrap();
        let from = |file: &str| source.join(file).display().to_string();
        for name in names {
            let to = |path: &str| format!("{name}:{path}");
            let read = async |path: &str| {
                let raw = served.bytes(Method::GET, &format!("/containers/{name}/archive?path={path}")).await;
                assert_eq!(raw.0, 200, "{path}");
                entries(&raw.1)
            };
            run(&served, &["cp", &from("deep/file"), &to("/new")]).await;
            run(&served, &["cp", &from("deep"), &to("/tree")]).await;
            run(&served, &["cp", &from("deep/."), &to("/data/")]).await;
            run(&served, &["cp", &from("deep"), &to("/data")]).await;
            assert_eq!(read("/new").await["new"], "words");
            assert_eq!(read("/tree").await["tree/file"], "words");
            let data = read("/data").await;
            assert_eq!((data["data/file"].as_str(), data["data/deep/link"].as_str()), ("words", "-> file"));
            // A file in the place of a file; nothing in the place of what is of another kind.
            run(&served, &["cp", &from("deep/link"), &to("/new")]).await;
            assert_eq!(read("/new").await["new"], "-> file");
            assert!(fails(&served, &["cp", &from("deep"), &to("/bin/sh")]).await.contains("cannot copy directory"));
            assert!(!fails(&served, &["cp", &from("deep/file"), &to("/missing/there")]).await.is_empty());
            // By archive from standard input; who owns it is said by the archive, or is the container's user.
            let mut tar = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_gnu();
            header.set_size(5);
            header.set_mode(0o604);
            header.set_uid(1234);
            header.set_gid(5678);
            tar.append_data(&mut header, "a/b/owned", &b"owned"[..]).unwrap();
            let archive = tar.into_inner().unwrap();
            let (fine, _, error) = docker_with(&served, &["cp", "-", &to("/data")], &archive).await;
            assert!(fine, "{error}");
            let owner = async |path: &str| {
                let raw = served.bytes(Method::GET, &format!("/containers/{name}/archive?path={path}")).await;
                let mut tar = tar::Archive::new(raw.1.as_ref());
                let entry = tar.entries().unwrap().next().unwrap().unwrap();
                let header = entry.header();
                (header.uid().unwrap(), header.gid().unwrap(), header.mode().unwrap())
            };
            assert_eq!(owner("/data/a/b/owned").await, (1234, 5678, 0o604));
            let [gzip, bzip2, xz] = compressed(&archive);
            for (form, whole) in [("gzip", &gzip), ("bzip2", &bzip2), ("xz", &xz)] {
                let directory = format!("{name}:/data/{form}");
                run(&served, &["cp", &from("deep"), &directory]).await;
                let (fine, _, error) = docker_with(&served, &["cp", "-", &directory], whole).await;
                assert!(fine, "{form}: {error}");
                assert_eq!(owner(&format!("/data/{form}/a/b/owned")).await, (1234, 5678, 0o604));
                let path = format!("/containers/{name}/archive?path=/data/{form}");
                let (status, error) = served.put(&path, whole[..whole.len() / 2].to_vec()).await;
                assert_eq!(status, 400);
                assert!(error.ends_with(&format!("the {form} stream is cut off: unexpected EOF")), "{error}");
            }
            let path = format!("/containers/{name}/archive?path=/data&copyUIDGID=true");
            assert_eq!(served.put(&path, gzip).await.0, 200);
            assert_eq!(owner("/data/a/b/owned").await, (7, 8, 0o604));
            // Kinds are kept where that is asked for.
            let path = format!("/containers/{name}/archive?path=/&noOverwriteDirNonDir=1");
            let mut tar = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_gnu();
            header.set_size(0);
            tar.append_data(&mut header, "tree", &b""[..]).unwrap();
            let (status, error) = served.put(&path, tar.into_inner().unwrap()).await;
            assert_eq!(
                (status, error.as_str()),
                (400, "cannot overwrite directory \"/tree\" with non-directory \"/\"")
            );
            let (status, error) = served.put(&format!("/containers/{name}/archive?path=/new"), archive.clone()).await;
            assert_eq!(
                (status, error.as_str()),
                (404, format!("Could not find the file /new in container {name}").as_str())
            );
            let (status, error) =
                served.put(&format!("/containers/{name}/archive?path=/bin/sh"), archive.clone()).await;
            assert_eq!((status, error.as_str()), (400, "extraction point is not a directory"));
            assert_eq!(served.put(&format!("/containers/{name}/archive?path=/nowhere"), archive).await.0, 404);
        }
        run(&served, &["start", "stopped"]).await;
        assert_eq!(shell(&served, "stopped", "cat /tree/file /data/deep/file").await, "wordswords");
        // Clients count in whole seconds.
        let until = (jiff::Timestamp::now().as_second() + 1).to_string();
        let events = run(
            &served,
            &["events", "--since", "1h", "--until", &until, "--filter", "container=stopped", "--format", "{{.Action}}"],
        )
        .await;
        assert!(events.contains("archive-path") && events.contains("extract-to-dir"), "{events}");
    });
}

#[test]
fn what_may_not_be_written_is_refused() {
    served("docker-api-cp-read-only", async |served| {
        for name in ["running", "stopped"] {
            let mut arguments =
                vec!["create", "--name", name, "--read-only", "-v", "data:/data", "-v", "kept:/kept:ro"];
            arguments.extend(["made:1", "sh", "-c", WAITS]);
            run(&served, &arguments).await;
        }
        run(&served, &["start", "running"]).await;
        let file = served.root.join("file");
        fs::write(&file, "words").unwrap();
        let file = file.display().to_string();
        for name in ["running", "stopped"] {
            let error = fails(&served, &["cp", &file, &format!("{name}:/")]).await;
            assert!(error.contains("container rootfs is marked read-only"), "{error}");
            let error = fails(&served, &["cp", &file, &format!("{name}:/kept")]).await;
            assert!(error.contains("mounted volume is marked read-only"), "{error}");
            run(&served, &["cp", &file, &format!("{name}:/data/{name}")]).await;
            // A link from where it may write to where it may not, neither.
            let mut tar = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            tar.append_link(&mut header, "away", "/kept").unwrap();
            let mut header = tar::Header::new_gnu();
            header.set_size(2);
            tar.append_data(&mut header, "away/in", &b"no"[..]).unwrap();
            let path = format!("/containers/{name}/archive?path=/data");
            let (status, error) = served.put(&path, tar.into_inner().unwrap()).await;
            assert!(status == 500 && error.contains("Read-only file system"), "{status} {error}");
        }
        assert_eq!(shell(&served, "running", "cat /data/running /data/stopped").await, "wordswords");
    });
}

#[test]
fn a_container_that_was_never_started_has_its_volumes() {
    served("docker-api-cp-created", async |served| {
        run(&served, &["create", "--name", "helper", "-v", "data:/new/place", "-v", "programs:/bin", "made:1"]).await;
        let file = served.root.join("file");
        fs::write(&file, "words").unwrap();
        let file = file.display().to_string();
        run(&served, &["cp", &file, "helper:/new/place/"]).await;
        run(&served, &["cp", &file, "helper:/bin/added"]).await;
        // The volume has what the image has there, as after a start.
        let line = "cat /x/file; sh -c 'cat /y/added; exec /y/true'";
        let seen =
            run(&served, &["run", "--rm", "-v", "data:/x", "-v", "programs:/y", "made:1", "sh", "-c", line]).await;
        assert_eq!(seen, "wordswords");
        run(&served, &["rm", "-v", "helper"]).await;
        run(&served, &["volume", "rm", "data", "programs"]).await;
    });
}

#[test]
fn a_file_system_is_exported_without_its_volumes() {
    served("docker-api-export", async |served| {
        for name in both(&served, &["-v", "data:/data"], "echo in the volume > /data/file; echo own > /own").await {
            let place = served.root.join(format!("{name}.tar"));
            run(&served, &["export", "-o", &place.display().to_string(), name]).await;
            let found = entries(&fs::read(&place).unwrap());
            assert_eq!((found["own"].as_str(), found["bin/sleep"].as_str()), ("own\n", "-> sh"));
            assert!(found.contains_key("data/") && !found.contains_key("data/file") && !found.contains_key("./"));
            run(&served, &["import", &place.display().to_string(), &format!("exported:{name}")]).await;
            let image = format!("exported:{name}");
            let said = run(&served, &["run", "--rm", "-e", "PATH=/bin", &image, "sh", "-c", "cat /own"]).await;
            assert_eq!(said, "own\n");
        }
    });
}

#[test]
fn a_copy_that_nobody_takes_holds_nothing() {
    served("docker-api-cp-stalls", async |served| {
        let line = "i=0; while [ $i -lt 64 ]; do head -c 1048576 /dev/zero > /big$i; i=$((i+1)); done";
        let names = both(&served, &[], line).await;
        for name in names {
            // Neither read nor dropped: the connection is there all the time.
            let stalled = served.send(Method::GET, &format!("/containers/{name}/archive?path=/")).await;
            // One that is gone half-way.
            drop(served.send(Method::GET, &format!("/containers/{name}/archive?path=/")).await);
            run(&served, &["restart", "-t", "1", name]).await;
            run(&served, &["cp", &format!("{name}:/big1"), &served.root.join("big").display().to_string()]).await;
            drop(stalled);
        }
        let threads = || {
            fs::read_dir("/proc/self/task")
                .unwrap()
                .filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok())
                .filter(|name| name.trim() == "container-files")
                .count()
        };
        until("no thread looks at files any more", async || threads() == 0).await;
    });
}

/// By gzip, bzip2 and xz.
fn compressed(content: &[u8]) -> [Vec<u8>; 3] {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    let mut xz = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1)).unwrap();
    for encoder in [&mut gzip as &mut dyn std::io::Write, &mut bzip2, &mut xz] {
        encoder.write_all(content).unwrap();
    }
    [gzip.finish().unwrap(), bzip2.finish().unwrap(), xz.finish().unwrap()]
}
