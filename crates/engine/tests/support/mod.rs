//! A host for container tests: an engine below a temporary directory, in a network namespace and control groups of its
//! own, with an image that is busybox. Whatever a test leaves is taken away, also when it fails.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "support of tests: each program uses a part of it, and a panic is how a test fails"
)]

use std::future::Future;
use std::os::unix::fs::symlink;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fs, thread};

use stack_engine::container::{
    BoxFuture, ContainerConfig, ContainerId, ContainerState, ExitStatus, ImageDefaults, OverlayDirectories, RootError,
    RootImage, Roots,
};
use stack_engine::image::{ImageStore, RegistryConfig};
use stack_engine::logs::LogQuery;
use stack_engine::network::{NetworkConfig, Networks};
use stack_engine::selinux::SelinuxMode;
use stack_engine::{ContainersConfig, Engine, RemoveOptions};
use tokio_stream::StreamExt;

/// No wait of these tests is longer, however busy the machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// One image, made of two layers: the lower has what the upper hides.
pub struct BusyboxImage {
    root: PathBuf,
}

impl BusyboxImage {
    pub fn make(root: &Path) -> Self {
        let base = root.join("layers/base");
        for directory in ["bin", "etc", "tmp", "data", "root", "home/web", "proc", "sys", "dev"] {
            fs::create_dir_all(base.join(directory)).unwrap();
        }
        fs::copy("/bin/busybox", base.join("bin/busybox")).unwrap();
        let list = Command::new("/bin/busybox").arg("--list").output().unwrap().stdout;
        for name in String::from_utf8(list).unwrap().lines().filter(|name| *name != "busybox") {
            symlink("busybox", base.join("bin").join(name)).unwrap();
        }
        fs::write(base.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:33:44::/home/web:/bin/sh\n").unwrap();
        fs::write(base.join("etc/group"), "root:x:0:\nweb:x:44:\nextra:x:50:web\n").unwrap();
        fs::write(base.join("data/seed"), "from the image").unwrap();
        fs::write(base.join("not-executable"), "words").unwrap();
        fs::write(base.join("not-a-program"), "\x01\x02words").unwrap();
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(base.join("not-a-program"), executable).unwrap();
        let upper = root.join("layers/upper");
        fs::create_dir_all(&upper).unwrap();
        fs::write(upper.join("layer"), "the upper one").unwrap();
        fs::write(base.join("layer"), "the lower one").unwrap();
        Self { root: root.to_owned() }
    }
}

impl Roots for BusyboxImage {
    fn image<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<RootImage, RootError>> {
        Box::pin(async move {
            if reference != "busybox" {
                return Err(RootError { what: format!("no image {reference}"), retryable: false, source: None });
            }
            let defaults = ImageDefaults {
                command: vec!["sh".to_owned()],
                environment: vec!["PATH=/bin".to_owned()],
                ..ImageDefaults::default()
            };
            Ok(RootImage { digest: "sha256:of-busybox".to_owned(), defaults })
        })
    }

    fn check_size_limit(&self) -> Result<(), RootError> {
        Err(RootError { what: "no sizes here".to_owned(), retryable: false, source: None })
    }

    fn prepare<'a>(
        &'a self,
        id: &'a str,
        _: &'a str,
        _: Option<u64>,
    ) -> BoxFuture<'a, Result<OverlayDirectories, RootError>> {
        Box::pin(async move {
            let snapshot = self.root.join("snapshots").join(id);
            let overlay = OverlayDirectories {
                lower: vec![self.root.join("layers/upper"), self.root.join("layers/base")],
                upper: snapshot.join("upper"),
                work: snapshot.join("work"),
            };
            for directory in [&overlay.upper, &overlay.work] {
                fs::create_dir_all(directory).unwrap();
            }
            Ok(overlay)
        })
    }

    fn layers<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Vec<PathBuf>, RootError>> {
        Box::pin(async move { Ok(vec![self.root.join("layers/upper"), self.root.join("layers/base")]) })
    }

    fn remove<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), RootError>> {
        Box::pin(async move {
            let _ = fs::remove_dir_all(self.root.join("snapshots").join(id));
            Ok(())
        })
    }
}

/// runc, as Debian has it.
fn runc() -> stack_engine::container::RuntimeProgram {
    let places = ["/usr/bin/runc", "/usr/sbin/runc"].map(PathBuf::from);
    let program = places.iter().find(|path| path.exists()).unwrap_or(&places[0]).clone();
    stack_engine::container::RuntimeProgram { program, arguments: vec!["--debug".to_owned()] }
}

/// The program of the shim, built from the same sources.
pub fn shim() -> PathBuf {
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "-p", "stack-shim", "--message-format=json-render-diagnostics"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    String::from_utf8(built.stdout)
        .unwrap()
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .expect("cargo says where it put the program")
}

/// A host with an engine.
pub struct Host {
    pub engine: Engine,
    pub root: PathBuf,
    pub config: ContainersConfig,
    pub cgroup: String,
}

pub fn config(root: &Path, cgroup: &str) -> ContainersConfig {
    ContainersConfig {
        selinux: SelinuxMode::Auto,
        root: root.join("state"),
        run: root.join("run"),
        shim: shim(),
        cgroup_parent: PathBuf::from("/").join(cgroup),
        cdi_directories: ["etc", "run"].map(|name| root.join("cdi").join(name)).to_vec(),
        shim_patience: ContainersConfig::SHIM_PATIENCE,
        runtimes: [("runc".to_owned(), runc())].into(),
        users: stack_engine::container::UserNamespaces::default(),
    }
}

pub async fn open(root: &Path, config: ContainersConfig) -> Engine {
    let image =
        if root.join("layers").exists() { BusyboxImage { root: root.to_owned() } } else { BusyboxImage::make(root) };
    let networks = Networks::open(&config.root.join("networks"), NetworkConfig::default()).await.unwrap();
    let images = ImageStore::open(&config.root.join("images"), RegistryConfig::default()).unwrap();
    Engine::open_with(config, images, Arc::new(image), Arc::new(networks)).await.unwrap()
}

/// Moves this thread, and those that it makes, into a network namespace that nobody else has.
fn leave_network() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
}

fn groups(cgroup: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().filter_map(Result::ok) {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name() == *cgroup {
                    found.push(entry.path());
                } else {
                    directories.push(entry.path());
                }
            }
        }
    }
    found
}

/// Kills what is below the groups of a test, and removes them.
fn clear(cgroup: &str) -> Vec<PathBuf> {
    let mut left = Vec::new();
    for parent in groups(cgroup) {
        for entry in fs::read_dir(&parent).into_iter().flatten().filter_map(Result::ok) {
            let path = entry.path();
            if path.is_dir() {
                left.push(path.clone());
                let deadline = Instant::now() + PATIENCE;
                while path.exists() && fs::remove_dir(&path).is_err() && Instant::now() < deadline {
                    // What is frozen does not end.
                    let _ = fs::write(path.join("freezer.state"), "THAWED");
                    for pid in fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default().lines() {
                        let _ = nix::sys::signal::kill(
                            nix::unistd::Pid::from_raw(pid.parse().unwrap()),
                            nix::sys::signal::Signal::SIGKILL,
                        );
                    }
                    thread::yield_now();
                }
            }
        }
        let _ = fs::remove_dir(&parent);
    }
    left
}

/// The pids of processes whose command line has `text`.
pub fn processes_with(text: &str) -> Vec<i32> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(text)
        })
        .collect()
}

/// Runs a test with a host of its own, and afterwards checks that nothing is left of it.
pub fn with_host<F, R>(name: &str, test: F)
where
    F: FnOnce(Arc<Host>) -> R + Send + 'static,
    R: Future<Output = ()>,
{
    let cgroup = format!("stack-test-{name}-{}", std::process::id());
    let place = tempfile::Builder::new().prefix(&cgroup).tempdir().unwrap();
    let root = place.path().to_owned();
    let outcome = thread::scope(|scope| {
        scope
            .spawn(|| {
                leave_network();
                let runtime =
                    tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build().unwrap();
                let outcome = catch_unwind(AssertUnwindSafe(|| {
                    runtime.block_on(async {
                        let config = config(&root, &cgroup);
                        let engine = open(&root, config.clone()).await;
                        let host = Arc::new(Host {
                            engine: engine.clone(),
                            root: root.clone(),
                            config,
                            cgroup: cgroup.clone(),
                        });
                        test(host).await;
                        for container in engine.list() {
                            let options = RemoveOptions { force: true, volumes: true };
                            engine.remove(&container.id, options).await.unwrap();
                        }
                    });
                }));
                runtime.shutdown_timeout(Duration::from_secs(5));
                outcome
            })
            .join()
            .unwrap()
    });
    let left = clear(&cgroup);
    if let Err(panic) = outcome {
        for pid in processes_with(root.to_str().unwrap()) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
        resume_unwind(panic);
    }
    assert!(left.is_empty(), "control groups are left: {left:?}");
    let deadline = Instant::now() + PATIENCE;
    while !processes_with(root.to_str().unwrap()).is_empty() {
        assert!(Instant::now() < deadline, "shims are left");
        thread::yield_now();
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(root.to_str().unwrap()), "mounts are left: {mounts}");
    assert_eq!(fs::read_dir(root.join("run/containers")).unwrap().count(), 0, "run directories are left");
    assert_eq!(fs::read_dir(root.join("state/containers")).unwrap().count(), 0, "records are left");
}

/// A container that runs a line of shell.
pub fn shell(line: &str) -> ContainerConfig {
    ContainerConfig {
        image: "busybox".to_owned(),
        command: Some(["sh", "-c", line].map(str::to_owned).to_vec()),
        network_mode: stack_engine::container::NetworkMode::None,
        ..ContainerConfig::default()
    }
}

impl Host {
    pub async fn create(&self, name: &str, config: ContainerConfig) -> ContainerId {
        self.engine.create(Some(name.parse().unwrap()), config).await.unwrap()
    }

    pub async fn start(&self, name: &str, config: ContainerConfig) -> ContainerId {
        let id = self.create(name, config).await;
        if let Err(error) = self.engine.start(&id).await {
            panic!("{}", error.full_text());
        }
        id
    }

    pub async fn wait(&self, id: &ContainerId) -> ExitStatus {
        tokio::time::timeout(PATIENCE, self.engine.wait(id)).await.expect("it ends").unwrap()
    }

    /// Runs a container to its end; its exit code and its standard output and error together.
    pub async fn run(&self, name: &str, config: ContainerConfig) -> (i32, String) {
        let id = self.start(name, config).await;
        let status = self.wait(&id).await;
        (status.code, self.output(&id).await)
    }

    pub async fn output(&self, id: &ContainerId) -> String {
        let records: Vec<_> = self.engine.logs(id, LogQuery::default()).collect().await;
        let bytes: Vec<u8> = records.into_iter().flat_map(|record| record.unwrap().output.to_vec()).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until the container's output has `text`.
    pub async fn says(&self, id: &ContainerId, text: &str) {
        let query = LogQuery { follow: true, ..LogQuery::default() };
        let mut stream = self.engine.logs(id, query);
        let mut all = String::new();
        let found = tokio::time::timeout(PATIENCE, async {
            while let Some(record) = stream.next().await {
                all.push_str(&String::from_utf8_lossy(&record.unwrap().output));
                if all.contains(text) {
                    return true;
                }
            }
            false
        })
        .await;
        assert!(found.unwrap_or(false), "`{text}` in: {all}");
    }

    pub fn pid(&self, id: &ContainerId) -> i32 {
        match self.engine.inspect(id).unwrap().state {
            ContainerState::Running { pid, .. } => pid,
            other => panic!("{other:?}"),
        }
    }
}
