//! The real engine does what the agent relies on, as every host must.

#![allow(clippy::expect_used, reason = "a test that cannot go on fails")]

use std::io::Cursor;
use std::path::{Path, PathBuf};

use stack_agent::Networks;
use stack_agent::engine_host::EngineHost;
use stack_engine::encryption::{Tunnels, TunnelsConfig};
use stack_engine::image::{ImportChanges, Reference, RegistryConfig};
use stack_engine::network::NetworkConfig;
use stack_engine::{ContainersConfig, Engine, EngineConfig, RemoveOptions};
use stack_model::{Digest, NodeId, TaskSpec};
use stack_testkit::conformance::{Workload, conformance};
use stack_testkit::lone_agent::task_spec;
use stack_testkit::namespaced::programs;
use stack_testkit::root::busybox_tar;
use stack_testkit::specs::service;

/// The control groups of the test, which go with the value.
struct Groups(String);

impl Drop for Groups {
    fn drop(&mut self) {
        remove_groups(Path::new("/sys/fs/cgroup"), &self.0, false);
    }
}

/// Removes the directories of that name below another one, and everything in them.
fn remove_groups(directory: &Path, name: &str, is_inside: bool) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok) {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let is_ours = is_inside || entry.file_name() == *name;
            remove_groups(&entry.path(), name, is_ours);
            if is_ours {
                // What a failed test left running keeps its group, as it should be seen.
                let _ = std::fs::remove_dir(entry.path());
            }
        }
    }
}

fn workload(digest: &Digest) -> Workload {
    let run = |line: &str| -> TaskSpec {
        let mut spec = task_spec(service("busybox:test").command(&["sh", "-c", line]));
        spec.container.image.digest = Some(digest.clone());
        spec
    };
    Workload {
        serves: run("trap 'exit 0' TERM; while :; do sleep 0.1; done"),
        ends: run("exit 7"),
        ends_with: 7,
        // Nobody listens there.
        missing: task_spec(service("127.0.0.1:1/nobody/has-it")),
        crash: |_task| {},
    }
}

async fn conforms(root: PathBuf, cgroup: &str) {
    let engine = Engine::open(EngineConfig {
        containers: ContainersConfig {
            selinux: stack_engine::selinux::SelinuxMode::Auto,
            root: root.join("state"),
            run: root.join("run"),
            shim: programs().join("stack-shim"),
            cgroup_parent: Path::new("/").join(cgroup),
            cdi_directories: Vec::new(),
            shim_patience: ContainersConfig::SHIM_PATIENCE,
            runtimes: stack_engine::container::Runtimes::new(),
            users: stack_engine::container::UserNamespaces::default(),
        },
        registry: RegistryConfig::default(),
        network: NetworkConfig::default(),
    })
    .await
    .expect("an engine");
    let name: Reference = "busybox:test".parse().expect("a reference");
    let imported = engine.images().import(Cursor::new(busybox_tar()), Some(&name), ImportChanges::default()).await;
    let digest = imported.expect("imported").digest.as_str().parse().expect("a digest");
    let address = "127.0.0.1".parse().expect("an address");
    let networks = Networks::new(stack_agent::HostNetworks::default());
    let files = stack_agent::files::Files::new(&root.join("run"));
    let tunnels =
        Tunnels::open(TunnelsConfig::default(), "stack", files.root().join("tunnels")).expect("tunnels").into();
    let host =
        EngineHost::new(engine.clone(), tunnels, NodeId::from_bits(1), "host".to_owned(), networks, files, address);
    let outcome = tokio::spawn(async move { conformance(&host, &workload(&digest)).await }).await;
    for container in engine.list() {
        let options = RemoveOptions { force: true, volumes: true };
        engine.remove(&container.id, options).await.expect("removed");
    }
    engine.networks().remove_all().await.expect("networks are removed");
    outcome.expect("the engine conforms");
}

#[test]
fn the_engine_conforms() {
    let groups = Groups(format!("stack-test-agent-{}", std::process::id()));
    let place = tempfile::tempdir().expect("a directory");
    let root = place.path().to_owned();
    let test = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                // What the engine does to the network it does where nobody else is.
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root");
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .enable_all()
                    .worker_threads(2)
                    .build()
                    .expect("a runtime");
                runtime.block_on(conforms(root, &groups.0));
                runtime.shutdown_timeout(std::time::Duration::from_secs(5));
            })
            .join()
    });
    if let Err(panic) = test {
        std::panic::resume_unwind(panic);
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    assert!(!mounts.contains(place.path().to_str().expect("UTF-8")), "mounts are left: {mounts}");
}
