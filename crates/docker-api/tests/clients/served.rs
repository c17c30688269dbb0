//! A real engine behind a unix socket, and the clients that ask it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use crate::support::{Host, PATIENCE, config, shell, with_host};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use stack_docker_api::{DaemonInfo, router};
use stack_engine::container::{ContainerConfig, ContainerId, UserNamespaces};
use stack_engine::image::{ImportChanges, RegistryConfig};
use stack_engine::network::NetworkConfig;
use stack_engine::{ContainersConfig, Engine, EngineConfig, RemoveOptions};
use tokio::net::{UnixListener, UnixStream};

/// An engine with an image, and its API on a socket.
pub struct Served {
    pub engine: Engine,
    pub socket: PathBuf,
    pub root: PathBuf,
}

pub fn archive() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let busybox = std::fs::read("/bin/busybox").unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_size(busybox.len().try_into().unwrap());
    header.set_mode(0o755);
    tar.append_data(&mut header, "bin/sh", busybox.as_slice()).unwrap();
    for name in [
        "bin/sleep",
        "bin/seq",
        "bin/true",
        "bin/ip",
        "bin/cat",
        "bin/nslookup",
        "bin/nc",
        "bin/wget",
        "bin/ping",
        "bin/route",
        "bin/mkdir",
        "bin/ln",
        "bin/mv",
        "bin/head",
        "bin/chmod",
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_entry_type(tar::EntryType::Symlink);
        tar.append_link(&mut header, name, "sh").unwrap();
    }
    tar.into_inner().unwrap()
}

impl Served {
    pub async fn open(host: &Host, users: UserNamespaces) -> Self {
        let root = host.root.join("real");
        let settings = EngineConfig {
            containers: ContainersConfig { users, ..config(&root, &host.cgroup) },
            registry: RegistryConfig::default(),
            network: NetworkConfig::default(),
        };
        let engine = Engine::open(settings).await.unwrap();
        let changes = ImportChanges {
            env: vec!["PATH=/bin".to_owned(), "FROM_IMAGE=yes".to_owned()],
            cmd: Some(["sh", "-c", "echo from the image"].map(str::to_owned).to_vec()),
            labels: BTreeMap::from([("made".to_owned(), "here".to_owned())]),
            exposed_ports: vec!["80/tcp".to_owned()],
            created: Some("2024-05-06T07:08:09Z".to_owned()),
            ..ImportChanges::default()
        };
        let reader = std::io::Cursor::new(archive());
        engine.images().import(reader, Some(&"made:1".parse().unwrap()), changes).await.unwrap();
        let socket = host.root.join("docker.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let info = DaemonInfo {
            id: "test-host".to_owned(),
            version: "0.1.0".to_owned(),
            commit: "abcdef".to_owned(),
            root: root.clone(),
        };
        let routes = router(engine.clone(), info, std::sync::Arc::new(stack_docker_api::NoCluster));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { engine, socket, root: host.root.clone() }
    }

    pub async fn send(&self, method: Method, path: &str) -> Response<Incoming> {
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header("host", "docker");
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        tokio::time::timeout(PATIENCE, sender.send_request(request)).await.unwrap().unwrap()
    }

    /// Sends a body, and is answered with a status and a message.
    pub async fn put(&self, path: &str, body: impl Into<Bytes>) -> (u16, String) {
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::put(path).header("host", "docker").body(http_body_util::Full::new(body.into())).unwrap();
        let response = tokio::time::timeout(PATIENCE, sender.send_request(request)).await.unwrap().unwrap();
        let status = response.status().as_u16();
        let body = tokio::time::timeout(PATIENCE, response.into_body().collect()).await.unwrap().unwrap().to_bytes();
        let message =
            serde_json::from_slice::<Value>(&body).ok().and_then(|found| Some(found["message"].as_str()?.to_owned()));
        (status, message.unwrap_or_default())
    }

    /// Posts a document, and is answered with a status and a message.
    pub async fn post_json(&self, path: &str, body: &Value) -> (u16, String) {
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::post(path).header("host", "docker").header("content-type", "application/json");
        let request = request.body(http_body_util::Full::new(Bytes::from(body.to_string()))).unwrap();
        let response = tokio::time::timeout(PATIENCE, sender.send_request(request)).await.unwrap().unwrap();
        let status = response.status().as_u16();
        let body = tokio::time::timeout(PATIENCE, response.into_body().collect()).await.unwrap().unwrap().to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    pub async fn bytes(&self, method: Method, path: &str) -> (u16, Bytes) {
        let response = self.send(method, path).await;
        let status = response.status().as_u16();
        let body = tokio::time::timeout(PATIENCE, response.into_body().collect()).await.unwrap().unwrap();
        (status, body.to_bytes())
    }

    pub async fn json(&self, method: Method, path: &str) -> (u16, Value) {
        let (status, body) = self.bytes(method, path).await;
        let value = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
        (status, value)
    }

    pub async fn get(&self, path: &str) -> Value {
        let (status, value) = self.json(Method::GET, path).await;
        assert_eq!(status, 200, "{path}: {value}");
        value
    }

    pub async fn post(&self, path: &str) -> u16 {
        self.bytes(Method::POST, path).await.0
    }

    pub async fn refused(&self, method: Method, path: &str) -> (u16, String) {
        let (status, value) = self.json(method, path).await;
        (status, value["message"].as_str().unwrap_or_else(|| panic!("{path}: {value}")).to_owned())
    }

    pub async fn create(&self, id: &str, name: &str, line: &str) -> ContainerId {
        let config = ContainerConfig {
            image: "made:1".to_owned(),
            name: Some(name.to_owned()),
            labels: BTreeMap::from([("tier".to_owned(), name.to_owned())]),
            ..shell(line)
        };
        self.engine.create(Some(id.parse().unwrap()), config).await.unwrap()
    }

    pub async fn start(&self, id: &str, name: &str, line: &str) -> ContainerId {
        let id = self.create(id, name, line).await;
        self.engine.start(&id).await.unwrap();
        id
    }

    pub async fn done(self) {
        for container in self.engine.list() {
            self.engine.remove(&container.id, RemoveOptions { force: true, volumes: true }).await.unwrap();
        }
    }
}

pub fn served<F, R>(name: &'static str, test: F)
where
    F: FnOnce(Arc<Served>) -> R + Send + 'static,
    R: Future<Output = ()>,
{
    serve(name, UserNamespaces::default(), test);
}

/// The same with a daemon that gives containers user namespaces.
pub fn served_with_users<F, R>(name: &'static str, test: F)
where
    F: FnOnce(Arc<Served>) -> R + Send + 'static,
    R: Future<Output = ()>,
{
    serve(name, UserNamespaces { by_default: true, ..UserNamespaces::default() }, test);
}

fn serve<F, R>(name: &'static str, users: UserNamespaces, test: F)
where
    F: FnOnce(Arc<Served>) -> R + Send + 'static,
    R: Future<Output = ()>,
{
    with_host(name, async move |host| {
        let served = Arc::new(Served::open(&host, users).await);
        test(Arc::clone(&served)).await;
        Arc::into_inner(served).expect("the test has ended").done().await;
    });
}

/// Runs the Docker CLI: whether it says that all went well, and what it writes.
pub async fn docker(served: &Served, arguments: &[&str]) -> (bool, String, String) {
    docker_with(served, arguments, b"").await
}

/// The same, with standard input.
pub async fn docker_with(served: &Served, arguments: &[&str], input: &[u8]) -> (bool, String, String) {
    let mut command = tokio::process::Command::new(client("docker"));
    command.arg("-H").arg(format!("unix://{}", served.socket.display())).args(arguments).kill_on_drop(true);
    command.env_remove("DOCKER_CONTEXT").env_remove("DOCKER_API_VERSION").env("DOCKER_CONFIG", served.root.join("cli"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the Docker CLI runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt as _;
        // A client that does not want it has closed it.
        let _ = stdin.write_all(&input).await;
    });
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.expect("the CLI ends").unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

/// A real client: of this machine, or of those that `scripts/test-clients` brings.
pub fn client(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let brought = brought().join("bin");
    let found = std::env::split_paths(&path).chain([brought]).map(|place| place.join(name)).find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("there is no `{name}`: run scripts/test-clients, as `make test` does"))
}

/// What `scripts/test-clients` brings.
pub fn brought() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/clients")
}

/// A client that not every machine can have. Without it the test is skipped and says so, except in continuous integration.
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
pub fn optional(what: &str, places: &[PathBuf]) -> Option<PathBuf> {
    let found = places.iter().find(|place| place.exists()).cloned();
    if found.is_none() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "there is no {what}: run scripts/test-clients");
        // `make test` has said so already, when it could not fetch it.
        eprintln!("SKIPPED: there is no {what}: run scripts/test-clients");
    }
    found
}

/// Runs a program with its standard input closed: whether it says that all went well, and what it writes, errors last.
pub async fn program(command: &mut tokio::process::Command) -> (bool, String) {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = tokio::time::timeout(2 * PATIENCE, command.output()).await.expect("it ends").expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout) + &text(&output.stderr))
}

/// Runs the Docker CLI, which must succeed. What it writes.
pub async fn run(served: &Served, arguments: &[&str]) -> String {
    let (fine, output, error) = docker(served, arguments).await;
    assert!(fine, "docker {arguments:?}: {output}{error}");
    output
}

/// Runs the Docker CLI, which must fail. What it complains of.
pub async fn fails(served: &Served, arguments: &[&str]) -> String {
    let (fine, output, error) = docker(served, arguments).await;
    assert!(!fine, "docker {arguments:?} did not fail: {output}");
    error
}

/// Brings up the loopback interface of the host that the test is.
pub fn loopback_up() {
    let outcome = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("ip runs");
    assert!(outcome.success());
}

/// Waits until something is so.
pub async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}
