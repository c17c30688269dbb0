//! Copies of hostile containers and of hostile archives: nothing of the host is read or written, and nothing of a container
//! is run.

use std::fs;

use hyper::Method;

use crate::served::{Served, docker, run, served, until};

/// What the host has and no container may have.
const SECRET: &str = "only the host has this";

async fn start(served: &Served, name: &str, line: &str) {
    run(served, &["run", "-d", "--name", name, "made:1", "sh", "-c", line]).await;
    until("it is ready", async || docker(served, &["exec", name, "cat", "/ready"]).await.0).await;
}

/// CVE-2018-15664: a link is swapped in between the look and the copy.
#[test]
fn links_that_are_swapped_in_lead_nowhere() {
    served("docker-api-cp-swap", async |served| {
        let host = served.root.join("host");
        fs::create_dir(&host).unwrap();
        fs::write(host.join("file"), SECRET).unwrap();
        let path = host.display();
        // The path of the host's directory exists in the container, too, and changes into a link all the time.
        let line = format!(
            "mkdir -p /swap /own{path} {path}; echo harmless > /swap/file; echo harmless > {path}/file; \
             ln -s {path} /evil; ln -s /../../../../../..{path} /evil2; echo > /ready; \
             while :; do mv /swap /aside; mv /evil /swap; mv /swap /evil; mv /evil2 /swap; \
             mv /swap /evil2; mv /aside /swap; done"
        );
        start(&served, "evil", &line).await;
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(8);
        tar.append_data(&mut header, "written", &b"by a fool"[..8]).unwrap();
        let archive = tar.into_inner().unwrap();
        let mut copied = 0;
        for _ in 0..150 {
            for path in ["/swap/file", "/swap/", "/swap"] {
                let (status, body) = served.bytes(Method::GET, &format!("/containers/evil/archive?path={path}")).await;
                copied += u32::from(status == 200);
                assert!(!String::from_utf8_lossy(&body).contains(SECRET));
            }
            let (status, _) = served.put("/containers/evil/archive?path=/swap", archive.clone()).await;
            copied += u32::from(status == 200);
        }
        assert!(copied > 50, "only {copied} copies could be made at all");
        assert_eq!(fs::read_dir(&host).unwrap().count(), 1, "something was written to the host");
    });
}

/// CVE-2019-14271: the container's libraries and name services are not loaded, and its programs not run.
#[test]
fn nothing_of_the_container_is_loaded() {
    served("docker-api-cp-load", async |served| {
        let line = "mkdir -p /lib/x86_64-linux-gnu /lib64 /etc; for name in libnss_files.so.2 libnss_compat.so.2 libc.so.6; do \
                    echo garbage > /lib/x86_64-linux-gnu/$name; echo garbage > /lib64/$name; done; \
                    echo 'passwd: files' > /etc/nsswitch.conf; echo 'web:x:77:78::/:/bin/sh' > /etc/passwd; \
                    for name in tar sh2 docker-tar docker-untar; do echo '#!/bin/sh' > /bin/$name; \
                    echo 'echo > /was-run' >> /bin/$name; chmod 755 /bin/$name; done; echo > /ready; \
                    while :; do sleep 0.05; done";
        run(&served, &["run", "-d", "--name", "evil", "made:1", "sh", "-c", line]).await;
        until("it is ready", async || docker(&served, &["exec", "evil", "cat", "/ready"]).await.0).await;
        let file = served.root.join("file");
        fs::write(&file, "words").unwrap();
        run(&served, &["cp", &file.display().to_string(), "evil:/file"]).await;
        run(&served, &["cp", "-a", &file.display().to_string(), "evil:/file"]).await;
        run(&served, &["cp", "evil:/file", &served.root.join("back").display().to_string()]).await;
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        assert!(!maps.contains("snapshots"), "{maps}");
        assert!(!docker(&served, &["exec", "evil", "cat", "/was-run"]).await.0);
    });
}

/// What an archive's entries are called and lead to is the archive's maker's choice.
#[test]
fn hostile_entries_are_refused_by_name() {
    served("docker-api-cp-entries", async |served| {
        start(&served, "web", "mkdir /into; echo > /ready; while :; do sleep 0.05; done").await;
        run(&served, &["create", "--name", "stopped", "made:1"]).await;
        fs::write(served.root.join("target"), SECRET).unwrap();
        let outside = served.root.join("target").display().to_string();
        type Make<'a> = Box<dyn Fn(&mut tar::Builder<Vec<u8>>) + 'a>;
        let raw_name = |header: &mut tar::Header, name: &str| {
            let bytes = &mut header.as_old_mut().name;
            bytes[..name.len()].copy_from_slice(name.as_bytes());
        };
        let named = |name: &'static str| -> Make<'_> {
            Box::new(move |tar| {
                let mut header = tar::Header::new_gnu();
                raw_name(&mut header, name);
                header.set_size(2);
                header.set_mode(0o644);
                header.set_cksum();
                tar.append(&header, &b"no"[..]).unwrap();
            })
        };
        let linked = |name: &'static str, link: String| -> Make<'_> {
            Box::new(move |tar| {
                let mut header = tar::Header::new_gnu();
                raw_name(&mut header, name);
                header.set_entry_type(tar::EntryType::Link);
                header.set_size(0);
                let bytes = link.as_bytes();
                header.as_old_mut().linkname[..bytes.len().min(100)].copy_from_slice(&bytes[..bytes.len().min(100)]);
                header.set_cksum();
                tar.append(&header, &b""[..]).unwrap();
            })
        };
        let device = |kind: tar::EntryType| -> Make<'_> {
            Box::new(move |tar| {
                let mut header = tar::Header::new_gnu();
                raw_name(&mut header, "node");
                header.set_entry_type(kind);
                header.set_size(0);
                header.set_mode(0o666);
                header.set_device_major(8).unwrap();
                header.set_device_minor(0).unwrap();
                header.set_cksum();
                tar.append(&header, &b""[..]).unwrap();
            })
        };
        let cases: [(&str, Make<'_>); 7] = [
            ("../escape", named("../escape")),
            ("a/../../escape", named("a/../../escape")),
            ("leads out", named("/../../escape")),
            ("hard", linked("hard", "../../../../etc/passwd".to_owned())),
            ("node", device(tar::EntryType::Char)),
            ("node", device(tar::EntryType::Block)),
            ("into can only be a directory", named("./.")),
        ];
        for container in ["web", "stopped"] {
            let directory = if container == "web" { "/into" } else { "/bin" };
            for (word, make) in &cases {
                let mut tar = tar::Builder::new(Vec::new());
                make(&mut tar);
                let path = format!("/containers/{container}/archive?path={directory}");
                let (status, error) = served.put(&path, tar.into_inner().unwrap()).await;
                assert!(status == 400 && error.contains(word), "{word}: {status} {error}");
            }
            // A link of the archive is made, and what goes through it stays in the container.
            let mut tar = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            tar.append_link(&mut header, "link", served.root.display().to_string()).unwrap();
            let mut header = tar::Header::new_gnu();
            header.set_size(2);
            tar.append_data(&mut header, "link/target", &b"no"[..]).unwrap();
            // An absolute name is one below the directory, as with Docker.
            named("/absolute")(&mut tar);
            let path = format!("/containers/{container}/archive?path={directory}");
            assert_eq!(served.put(&path, tar.into_inner().unwrap()).await.0, 200);
            let raw = served.bytes(Method::GET, &format!("/containers/{container}/archive?path={outside}")).await;
            assert_eq!(raw.0, 200);
            let raw =
                served.bytes(Method::GET, &format!("/containers/{container}/archive?path={directory}/absolute")).await;
            assert_eq!(raw.0, 200);
            // Not even the end of an archive is trusted.
            let path = format!("/containers/{container}/archive?path={directory}");
            let (status, error) = served.put(&path, vec![7_u8; 2048]).await;
            assert!(status == 400 && error.contains("malformed"), "{status} {error}");
        }
        assert_eq!(fs::read_to_string(served.root.join("target")).unwrap(), SECRET);
        assert!(!fs::exists("/escape").unwrap());
    });
}
