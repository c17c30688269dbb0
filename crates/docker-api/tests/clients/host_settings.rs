//! What a container has of its host beside its networks: bound directories and how far they are read-only, volumes that a
//! mount describes, control groups, time for real-time processes, and the size of what it writes. By the Docker CLI.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;

use crate::served::{docker, fails, run, served};

const WAITS: &str = "trap 'exit 0' TERM; while :; do sleep 0.05; done";

/// A file system in memory that goes with the value.
struct Memory(PathBuf);

impl Memory {
    fn at(path: PathBuf) -> Self {
        fs::create_dir_all(&path).unwrap();
        mount(Some("memory"), &path, Some("tmpfs"), MsFlags::empty(), Some("size=1m")).unwrap();
        Self(path)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
fn what_is_below_a_read_only_mount_is_read_only_unless_it_is_said() {
    served("docker-api-read-only", async |served| {
        let place = served.root.join("srv");
        let _below = Memory::at(place.join("below"));
        let source = place.display();
        let line = "echo > /srv/file && echo top; echo > /srv/below/file && echo below; true";
        let wrote = async |mount: &str| {
            let arguments = ["run", "--rm", "--mount", mount, "made:1", "sh", "-c", line];
            run(&served, &arguments).await.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let base = format!("type=bind,source={source},target=/srv");
        assert_eq!(wrote(&base).await, "top below");
        assert_eq!(wrote(&format!("{base},readonly")).await, "");
        assert_eq!(wrote(&format!("{base},readonly,bind-recursive=writable")).await, "below");
        assert_eq!(wrote(&format!("{base},readonly,bind-recursive=readonly,bind-propagation=rprivate")).await, "");
        // Without what is mounted there, the directory below is one of the mount itself.
        assert_eq!(wrote(&format!("{base},readonly,bind-recursive=disabled")).await, "");
        let short = format!("{source}:/srv:ro");
        let output = run(&served, &["run", "--rm", "-v", &short, "made:1", "sh", "-c", line]).await;
        assert_eq!(output, "", "the short form is read-only all the way down too");

        let body = |options: serde_json::Value, read_only: bool| {
            json!({"Image": "made:1", "HostConfig": {"Mounts": [{
                "Type": "bind", "Source": place, "Target": "/srv", "ReadOnly": read_only, "BindOptions": options,
            }]}})
        };
        for (options, read_only, said) in [
            (json!({"ReadOnlyNonRecursive": true}), false, "ReadOnly"),
            (json!({"ReadOnlyForceRecursive": true}), false, "ReadOnly"),
            (json!({"ReadOnlyForceRecursive": true, "ReadOnlyNonRecursive": true}), true, "conflicts"),
            (json!({"ReadOnlyForceRecursive": true, "NonRecursive": true}), true, "conflicts"),
            (json!({"ReadOnlyForceRecursive": true, "Propagation": "rshared"}), true, "rprivate"),
        ] {
            let (status, text) = served.post_json("/containers/create", &body(options, read_only)).await;
            assert!(status == 400 && text.contains(said), "{status} {text}");
        }
    });
}

#[test]
fn a_mount_describes_the_volume_that_it_makes() {
    served("docker-api-described-volumes", async |served| {
        let named = "type=volume,source=memory,target=/x,volume-driver=local,volume-label=tier=data,\
            volume-opt=type=tmpfs,volume-opt=device=tmpfs,\"volume-opt=o=size=1m,mode=0700\"";
        let line = "while read a b c d; do [ $b = /x ] && echo $c $d; done < /proc/mounts; true";
        let seen = run(&served, &["run", "--rm", "--mount", named, "made:1", "sh", "-c", line]).await;
        assert!(seen.starts_with("tmpfs ") && seen.contains("size=1024k"), "{seen}");
        let document = served.get("/volumes/memory").await;
        assert_eq!(
            (&document["Labels"], &document["Options"]["o"]),
            (&json!({"tier": "data"}), &json!("size=1m,mode=0700"))
        );
        run(&served, &["run", "--rm", "--mount", named, "made:1", "true"]).await;
        let other = "type=volume,source=memory,target=/x,volume-opt=type=tmpfs,volume-opt=device=other";
        assert!(fails(&served, &["run", "--rm", "--mount", other, "made:1", "true"]).await.contains("other options"));
        let wrong = "type=volume,target=/x,volume-opt=colour=red";
        assert!(fails(&served, &["run", "--rm", "--mount", wrong, "made:1", "true"]).await.contains("colour"));

        // One without a name belongs to its container, with its labels.
        let own = "type=volume,target=/x,volume-label=tier=own,volume-opt=type=tmpfs,volume-opt=device=tmpfs";
        run(&served, &["run", "-d", "--name", "user", "--mount", own, "made:1", "sh", "-c", WAITS]).await;
        let found = run(&served, &["volume", "ls", "-q", "--filter", "label=tier=own"]).await;
        assert_eq!(found.lines().count(), 1, "{found}");
        run(&served, &["rm", "-fv", "user"]).await;
        assert_eq!(run(&served, &["volume", "ls", "-q"]).await, "memory\n");
        run(&served, &["volume", "rm", "memory"]).await;
    });
}

/// The directories of that name in all hierarchies of control groups.
fn groups(name: &str) -> Vec<PathBuf> {
    let (mut found, mut directories) = (Vec::new(), vec![PathBuf::from("/sys/fs/cgroup")]);
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().filter_map(Result::ok) {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name() == *name { found.push(entry.path()) } else { directories.push(entry.path()) }
            }
        }
    }
    found
}

/// Groups that a test has made, which nobody else removes.
struct Groups(String);

impl Drop for Groups {
    fn drop(&mut self) {
        for directory in groups(&self.0) {
            let _ = fs::remove_dir(directory);
        }
    }
}

#[test]
fn a_container_s_groups_are_below_the_parent_that_is_asked_for() {
    served("docker-api-cgroup-parent", async |served| {
        let name = format!("parent-{}", std::process::id());
        for parent in [format!("{name}-relative"), format!("/{name}-absolute"), format!("{name}-deep/inner")] {
            let last = parent.trim_start_matches('/').split('/').next().unwrap().to_owned();
            let _groups = (Groups("inner".to_owned()), Groups(last.clone()));
            let id = run(&served, &["run", "-d", "--cgroup-parent", &parent, "made:1", "sh", "-c", WAITS]).await;
            let document = served.get(&format!("/containers/{}/json", id.trim())).await;
            assert_eq!(document["HostConfig"]["CgroupParent"], json!(parent));
            let groups_of = fs::read_to_string(format!("/proc/{}/cgroup", document["State"]["Pid"])).unwrap();
            let wanted = format!("/{}/{}", parent.trim_start_matches('/'), id.trim());
            let own = groups_of.lines().filter(|line| line.ends_with(&wanted)).count();
            assert!(
                own >= 1 && groups_of.lines().filter(|line| line.contains(id.trim())).count() == own,
                "{groups_of}"
            );
            // Limits of a container there are changed where they are.
            run(&served, &["update", "--pids-limit", "77", id.trim()]).await;
            let limits = groups(id.trim());
            let limits = limits.iter().filter_map(|group| fs::read_to_string(group.join("pids.max")).ok());
            assert_eq!(limits.map(|text| text.trim().to_owned()).collect::<Vec<_>>(), ["77"]);
            run(&served, &["rm", "-f", id.trim()]).await;
            assert_eq!(groups(id.trim()), Vec::<PathBuf>::new());
        }
        for wrong in ["../up", "a/../../b", "/", "a//b"] {
            let error = fails(&served, &["create", "--cgroup-parent", wrong, "made:1", "true"]).await;
            assert!(error.contains("cannot be the parent"), "{wrong}: {error}");
        }
    });
}

#[test]
fn real_time_processes_have_the_time_that_they_are_given() {
    served("docker-api-realtime", async |served| {
        let error =
            fails(&served, &["create", "--cpu-rt-runtime", "9", "--cpu-rt-period", "8", "made:1", "true"]).await;
        assert!(error.contains("cannot be higher than cpu real-time period"), "{error}");
        if !Path::new("/sys/fs/cgroup/cpu/cpu.rt_runtime_us").exists() {
            let error = fails(&served, &["create", "--cpu-rt-runtime", "9000", "made:1", "true"]).await;
            assert!(error.contains("does not support CPU real-time scheduler"), "{error}");
            return;
        }
        let start = async |options: &[&str]| {
            let mut all = vec!["run", "-d"];
            all.extend(options);
            all.extend(["made:1", "sh", "-c", WAITS]);
            run(&served, &all).await
        };
        let may_be_realtime = async |id: &str| {
            let pid = served.get(&format!("/containers/{}/json", id.trim())).await["State"]["Pid"].to_string();
            Command::new("chrt").args(["-f", "-p", "5", &pid]).output().unwrap().status.success()
        };
        let none = start(&[]).await;
        assert!(!may_be_realtime(&none).await, "without any time no process can be one");
        let id = start(&["--cpu-rt-runtime", "4000"]).await;
        let second = start(&["--cpu-rt-runtime", "3000", "--cpu-rt-period", "500000"]).await;
        assert!(may_be_realtime(&id).await && may_be_realtime(&second).await);
        let runtime = |id: &str| {
            let text =
                groups(id.trim()).iter().find_map(|group| fs::read_to_string(group.join("cpu.rt_runtime_us")).ok());
            text.unwrap_or_default().trim().to_owned()
        };
        assert_eq!((runtime(&id), runtime(&second)), ("4000".to_owned(), "3000".to_owned()));
        run(&served, &["update", "--cpu-rt-runtime", "11000", id.trim()]).await;
        assert_eq!(runtime(&id), "11000");
        let document = served.get(&format!("/containers/{}/json", id.trim())).await;
        assert_eq!(document["HostConfig"]["CpuRealtimeRuntime"], json!(11000));
        run(&served, &["rm", "-f", none.trim(), id.trim(), second.trim()]).await;
    });
}

#[test]
fn a_size_is_refused_where_the_file_system_has_none() {
    served("docker-api-storage-size", async |served| {
        let error = fails(&served, &["create", "--storage-opt", "inodes=5", "made:1", "true"]).await;
        assert!(error.contains("inodes") && error.contains("unknown option"), "{error}");
        let error = fails(&served, &["create", "--storage-opt", "size=much", "made:1", "true"]).await;
        assert!(error.contains("much"), "{error}");
        // Where it has them the same is made; what it then means is shown in the virtual machine.
        let (fine, id, error) = docker(&served, &["create", "--storage-opt", "size=1.5g", "made:1", "true"]).await;
        if fine {
            let document = served.get(&format!("/containers/{}/json", id.trim())).await;
            assert_eq!(document["HostConfig"]["StorageOpt"], json!({"size": "1610612736"}));
        } else {
            assert!(error.contains("--storage-opt is supported only for overlay over xfs with 'pquota'"), "{error}");
            assert!(error.contains("prjquota"), "{error}");
            assert_eq!(served.get("/containers/json?all=1").await, json!([]), "nothing is left of it");
        }
    });
}
