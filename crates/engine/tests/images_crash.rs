//! A process that pulls is killed at any moment; the store that it leaves is sound, and the pull is simply repeated.
#![allow(clippy::unwrap_used, reason = "what a test needs and does not get ends it here")]

mod images_support;

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use images_support::*;
use stack_engine::content::Digest;
use stack_testkit::registry::Registry;

/// Tells the child process, which is this program again, where to pull to and what.
const ROOT: &str = "IMAGES_CRASH_ROOT";
const NAME: &str = "IMAGES_CRASH_NAME";

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Does nothing in the parent; in the child it is the pull that gets killed.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_pulls() {
    let (Ok(root), Ok(name)) = (std::env::var(ROOT), std::env::var(NAME)) else { return };
    store(Path::new(&root)).pull(&name.parse().unwrap(), None, &|_| ()).await.unwrap();
}

fn start_child(root: &Path, name: &str) -> Killed {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_pulls", "--test-threads=1"])
        .env(ROOT, root)
        .env(NAME, name)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Killed(child)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_pull_leaves_a_store_in_which_it_can_be_repeated() {
    let registry = Registry::start().unwrap();
    let layers: Vec<_> = (0..4)
        .map(|layer| {
            let files: Vec<_> =
                (0..60).map(|file| (format!("layer{layer}/file{file}"), noise(layer * 1000 + file, 20_000))).collect();
            archive(&files.iter().map(|(name, content)| (name.as_str(), content.as_slice())).collect::<Vec<_>>())
        })
        .collect();
    let image = image("killed", &layers.iter().map(|plain| (gzip(plain), plain.as_slice())).collect::<Vec<_>>());
    for blob in image.layers.iter().chain([&image.config]) {
        registry.put_blob("app", blob).unwrap();
    }
    registry.put_manifest("app", "1", OCI_MANIFEST, &image.manifest).unwrap();
    let name = format!("{}/app:1", registry.address());

    // How long a whole pull takes here and now decides when to kill.
    let whole = tempfile::tempdir().unwrap();
    let started = Instant::now();
    assert!(start_child(whole.path(), &name).0.wait().unwrap().success());
    let takes = started.elapsed();

    let mut killed = 0;
    for moment in 1u32..=8 {
        let root = tempfile::tempdir().unwrap();
        let mut child = start_child(root.path(), &name);
        let deadline = Instant::now() + takes * moment / 8;
        // The moment itself is what is varied here; nothing is waited for.
        std::thread::sleep(deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)));
        let _ = child.0.kill();
        let status = child.0.wait().unwrap();
        killed += usize::from(status.signal() == Some(9));

        let store = store(root.path());
        for found in store.list().unwrap() {
            check(&found, &layers);
        }
        // Whatever has a name is whole.
        for entry in std::fs::read_dir(root.path().join("blobs/sha256")).unwrap() {
            let path = entry.unwrap().path();
            let content = std::fs::read(&path).unwrap();
            assert_eq!(Digest::of(&content).hex(), path.file_name().unwrap().to_str().unwrap());
        }
        for directory in ["ingest", "unpacking", "trash"] {
            assert_eq!(std::fs::read_dir(root.path().join(directory)).unwrap().count(), 0, "{directory}");
        }
        let pulled = store.pull(&name.parse().unwrap(), None, &|_| ()).await.unwrap();
        assert_eq!(pulled.digest, Digest::of(&image.manifest));
        check(&pulled, &layers);
    }
    assert!(killed >= 2, "only {killed} of 8 were killed in time to prove anything");
}

fn check(image: &stack_engine::image::Image, layers: &[Vec<u8>]) {
    assert_eq!(image.layers.len(), layers.len());
    for (number, directory) in image.layers.iter().enumerate() {
        for file in 0..60 {
            let content = std::fs::read(directory.join(format!("layer{number}/file{file}"))).unwrap();
            assert_eq!(content, noise(number as u64 * 1000 + file, 20_000));
        }
    }
}
