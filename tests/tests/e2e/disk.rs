//! A host whose state is on a small disk of its own, which something else fills.

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use stack_testkit::namespaced::NamespacedCluster;

/// What fills a disk to the last byte, until [`Filler::remove`].
pub struct Filler(PathBuf);

/// Moves a host's state to a disk of 64 MiB, with everything on it, and starts the host again. `stack dev down` takes the
/// disk away with the rest.
pub fn give_small_disk(cluster: &NamespacedCluster, host: &str) {
    let state = cluster.host_directory(host).join("state");
    cluster.dev(&["kill", host]);
    let before = cluster.host_directory(host).join("state.before");
    std::fs::rename(&state, &before).expect("moved");
    std::fs::create_dir(&state).expect("made");
    let nothing: Option<&str> = None;
    nix::mount::mount(nothing, &state, Some("tmpfs"), nix::mount::MsFlags::empty(), Some("size=64m,mode=711"))
        .expect("mounted");
    let copied = Command::new("cp").args(["-a", "--"]).arg(before.join(".")).arg(&state).status().expect("cp runs");
    assert!(copied.success());
    cluster.dev(&["restart", host]);
    cluster.wait("the host to be ready", || {
        let output = cluster.stack(&["node", "ls", "--format", "json"]);
        let nodes: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let all = nodes.as_array().is_some_and(|nodes| nodes.iter().all(|node| node["readiness"] == "ready"));
        if all { Ok(()) } else { Err(nodes) }
    });
}

/// Fills a host's small disk.
pub fn fill(cluster: &NamespacedCluster, host: &str) -> Filler {
    let path = cluster.host_directory(host).join("state").join("filler");
    let mut file = std::fs::File::create(&path).expect("made");
    for size in [65536, 1] {
        let error = loop {
            if let Err(error) = file.write_all(&vec![1; size]) {
                break error;
            }
        };
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    }
    Filler(path)
}

/// Fills a host's small disk until so much of it is used, in per cent.
pub fn fill_to(cluster: &NamespacedCluster, host: &str, percent: u64) -> Filler {
    let state = cluster.host_directory(host).join("state");
    let path = state.join("filler");
    let mut file = std::fs::File::create(&path).expect("made");
    let used = || {
        let disk = nix::sys::statvfs::statvfs(&state).expect("a disk");
        100 - disk.blocks_free() * 100 / disk.blocks()
    };
    while used() < percent {
        file.write_all(&vec![1; 65536]).expect("there is room");
    }
    Filler(path)
}

impl Filler {
    /// There is room again.
    pub fn remove(self) {
        std::fs::remove_file(self.0).expect("removed");
    }
}
