//! Real clusters for tests: hosts made of network namespaces by `stack dev`, driven through the real `stack`.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;

/// What usually takes a second may take so long where a test runs.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// One host, as `stack dev ls` lists it.
#[derive(Debug, Clone, Deserialize)]
pub struct ListedHost {
    /// `node1`, …
    pub name: String,
    /// Where its published ports answer.
    pub address: std::net::Ipv4Addr,
    /// For `DOCKER_HOST`.
    pub docker_host: String,
    /// The daemon's own API.
    pub stackd_socket: PathBuf,
    /// What the host does.
    pub state: String,
    /// The daemon's process.
    pub pid: Option<i32>,
    /// What its tasks publish.
    pub ports: Vec<Value>,
}

/// A cluster that is removed when the value goes, also when a test fails.
pub struct NamespacedCluster {
    name: String,
    directory: tempfile::TempDir,
    programs: PathBuf,
}

/// How a cluster is made.
#[derive(Debug, Clone)]
pub struct Shape {
    /// How many hosts.
    pub nodes: u8,
    /// How many of them are controllers.
    pub controllers: u8,
    /// More flags of `stack dev up`.
    pub flags: Vec<String>,
}

impl Default for Shape {
    fn default() -> Self {
        Self { nodes: 3, controllers: 3, flags: Vec::new() }
    }
}

/// Where the programs are that the workspace was built to: `STACK_PROGRAMS`, or beside the test.
#[must_use]
pub fn programs() -> PathBuf {
    if let Some(programs) = std::env::var_os("STACK_PROGRAMS") {
        return programs.into();
    }
    let test = std::env::current_exe().expect("the test has a path");
    let programs = test.parent().and_then(Path::parent).expect("target/debug/deps").to_owned();
    for program in ["stack", "stackd", "stack-shim", "stack-tunnel"] {
        assert!(
            programs.join(program).is_file(),
            "{} is not built: `cargo build --workspace --bins` first, as `make test` does",
            programs.join(program).display()
        );
    }
    programs
}

impl NamespacedCluster {
    /// Makes a cluster and waits until all its hosts are ready.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn up(shape: &Shape) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("t{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        // Paths of sockets are short, so the directory is too.
        let directory = tempfile::Builder::new().prefix("stk").tempdir_in("/tmp").expect("a temporary directory");
        let cluster = Self { name, directory, programs: programs() };
        let (nodes, controllers) = (shape.nodes.to_string(), shape.controllers.to_string());
        let mut arguments = vec!["dev", "up", "--nodes", &nodes, "--controllers", &controllers, "--timeout", "120"];
        arguments.extend(shape.flags.iter().map(String::as_str));
        let which = cluster.which();
        arguments.extend(which.iter().map(String::as_str));
        cluster.stack_ok(&arguments);
        cluster
    }

    fn which(&self) -> [String; 4] {
        let directory = self.directory.path().join("dev").display().to_string();
        ["--name".to_owned(), self.name.clone(), "--state-dir".to_owned(), directory]
    }

    /// A directory of the test's own, removed with the cluster.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.directory.path()
    }

    /// The directory of one host.
    #[must_use]
    pub fn host_directory(&self, host: &str) -> PathBuf {
        self.directory.path().join("dev").join(host)
    }

    /// The cluster's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `stack`, addressed at this cluster.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.programs.join("stack"));
        command
            .args(arguments)
            .env("STACK_CONFIG_DIR", self.directory.path().join("config"))
            .env_remove("STACK_CONTEXT")
            .env_remove("STACK_SOCKET")
            .current_dir(self.directory.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs `stack` and takes what it prints.
    ///
    /// # Panics
    /// When it cannot be run.
    #[must_use]
    pub fn stack(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("stack runs")
    }

    /// Runs `stack`, which must succeed, and takes its data.
    ///
    /// # Panics
    /// When it fails.
    pub fn stack_ok(&self, arguments: &[&str]) -> String {
        let output = self.stack(arguments);
        assert!(output.status.success(), "stack {}: {}\n{}", arguments.join(" "), text(&output), self.logs());
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Runs `stack … --format json` and reads what it prints.
    ///
    /// # Panics
    /// When it fails, or does not print JSON.
    #[must_use]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let mut with_format = arguments.to_vec();
        with_format.extend(["--format", "json"]);
        let printed = self.stack_ok(&with_format);
        serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error} in {printed}"))
    }

    /// `stack dev WHAT [HOST] …` for this cluster.
    pub fn dev(&self, arguments: &[&str]) -> String {
        let which = self.which();
        let mut all = vec!["dev"];
        all.extend(arguments);
        all.extend(which.iter().map(String::as_str));
        self.stack_ok(&all)
    }

    /// The hosts as they are now.
    ///
    /// # Panics
    /// When they cannot be listed.
    #[must_use]
    pub fn hosts(&self) -> Vec<ListedHost> {
        serde_json::from_str(&self.dev(&["ls", "--format", "json"])).expect("hosts")
    }

    /// One host as it is now.
    ///
    /// # Panics
    /// When there is none of that name.
    #[must_use]
    pub fn host(&self, name: &str) -> ListedHost {
        self.hosts().into_iter().find(|host| host.name == name).expect("there is such a host")
    }

    /// Writes a stack file and answers its path.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    }

    /// The last lines of every host's daemon, for a failed test.
    #[must_use]
    pub fn logs(&self) -> String {
        let mut logs = String::new();
        let Ok(hosts) = std::fs::read_dir(self.directory.path().join("dev")) else { return logs };
        for host in hosts.filter_map(Result::ok) {
            if let Ok(text) = std::fs::read_to_string(host.path().join("log/stackd.log")) {
                let lines: Vec<&str> = text.lines().collect();
                let last = lines[lines.len().saturating_sub(60)..].join("\n");
                logs.push_str(&format!("--- {}\n{last}\n", host.file_name().to_string_lossy()));
            }
        }
        logs
    }

    /// The running tasks of a service, as `stack ps` lists them.
    #[must_use]
    pub fn tasks(&self, service: &str) -> Vec<Value> {
        let rows = self.json(&["ps"]);
        let of_service = |row: &&Value| row["service"] == service && !row["id"].is_null();
        rows.as_array().map(|rows| rows.iter().filter(of_service).cloned().collect()).unwrap_or_default()
    }

    /// Waits until so many tasks of a service are ready and answers them.
    ///
    /// # Panics
    /// When that does not come about in time.
    pub fn wait_ready(&self, service: &str, count: usize) -> Vec<Value> {
        self.wait(&format!("{count} ready tasks of {service}"), || {
            let tasks = self.tasks(service);
            let ready: Vec<Value> = tasks.iter().filter(|task| task["ready"] == true).cloned().collect();
            if ready.len() == count { Ok(ready) } else { Err(format!("{tasks:#?}")) }
        })
    }

    /// Waits until `look` finds what it looks for.
    ///
    /// # Panics
    /// When it does not in time: with what it saw last and the daemons' logs.
    pub fn wait<T, E: Debug>(&self, what: &str, mut look: impl FnMut() -> Result<T, E>) -> T {
        let until = Instant::now() + PATIENCE;
        loop {
            match look() {
                Ok(found) => return found,
                Err(seen) if Instant::now() > until => {
                    panic!("no {what} after {PATIENCE:?}; last seen: {seen:?}\n{}", self.logs())
                }
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// Removes the cluster and says what went wrong with that.
    ///
    /// # Panics
    /// When something could not be removed.
    pub fn down(self) {
        self.dev(&["down"]);
    }
}

impl Drop for NamespacedCluster {
    fn drop(&mut self) {
        if std::thread::panicking() && std::env::var_os("STACK_KEEP").is_some() {
            return;
        }
        let which = self.which();
        let mut arguments = vec!["dev", "down"];
        arguments.extend(which.iter().map(String::as_str));
        let output = self.stack(&arguments);
        if !output.status.success() && !std::thread::panicking() {
            panic!("the cluster is not removed: {}", text(&output));
        }
    }
}

/// What a command printed, for a failed test.
#[must_use]
pub fn text(output: &Output) -> String {
    format!(
        "{}\nstdout: {}\nstderr: {}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// One HTTP request over a new connection; the answer's body.
///
/// # Errors
/// Nobody listens, the connection breaks, or the status is not 200.
pub fn get(address: impl std::net::ToSocketAddrs, path: &str) -> std::io::Result<String> {
    use std::io::{Read, Write};

    let address = address.to_socket_addrs()?.next().ok_or(std::io::ErrorKind::AddrNotAvailable)?;
    let mut connection = std::net::TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    connection.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(connection, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.contains(" 200 ") => Ok(body.to_owned()),
        _ => Err(std::io::Error::other(answer)),
    }
}
