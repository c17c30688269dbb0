//! An engine whose image is busybox, its API on a socket, and the real Docker CLI, with pipes or with a terminal.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Instant;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use stack_docker_api::{DaemonInfo, router};
use stack_engine::image::{ImportChanges, RegistryConfig};
use stack_engine::network::NetworkConfig;
use stack_engine::{Engine, EngineConfig, RemoveOptions};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{UnixListener, UnixStream};

use super::support::{Host, PATIENCE, config, with_host};

/// An engine and its API.
pub struct Served {
    pub engine: Engine,
    pub socket: PathBuf,
    pub root: PathBuf,
}

/// What a program did.
#[derive(Debug)]
pub struct Outcome {
    pub code: i32,
    pub output: String,
    pub error: String,
}

/// The root file system of the image: busybox under all its names.
fn archive() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let busybox = std::fs::read("/bin/busybox").unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_size(busybox.len().try_into().unwrap());
    header.set_mode(0o755);
    tar.append_data(&mut header, "bin/busybox", busybox.as_slice()).unwrap();
    let list = std::process::Command::new("/bin/busybox").arg("--list").output().unwrap().stdout;
    for name in String::from_utf8(list).unwrap().lines().filter(|name| *name != "busybox") {
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_entry_type(tar::EntryType::Symlink);
        tar.append_link(&mut header, format!("bin/{name}"), "busybox").unwrap();
    }
    for (path, mode, text) in [
        ("etc/passwd", 0o644, "root:x:0:0::/root:/bin/sh\nweb:x:33:44::/home/web:/bin/sh\n"),
        ("etc/group", 0o644, "root:x:0:\nweb:x:44:\nextra:x:50:web\n"),
        ("data/seed", 0o644, "from the image\n"),
        ("not-executable", 0o644, "words"),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len().try_into().unwrap());
        header.set_mode(mode);
        tar.append_data(&mut header, path, text.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

impl Served {
    async fn open(host: &Host) -> Self {
        // The loopback of the namespace that the test has for itself.
        let up = tokio::process::Command::new("/bin/busybox").args(["ip", "link", "set", "lo", "up"]).status().await;
        assert!(up.unwrap().success());
        let root = host.root.join("real");
        let settings = EngineConfig {
            containers: config(&root, &host.cgroup),
            registry: RegistryConfig::default(),
            network: NetworkConfig::default(),
        };
        let engine = Engine::open(settings).await.unwrap();
        let changes = ImportChanges {
            env: vec!["PATH=/bin".to_owned(), "FROM_IMAGE=yes".to_owned()],
            cmd: Some(vec!["sh".to_owned()]),
            labels: BTreeMap::from([("made".to_owned(), "here".to_owned())]),
            exposed_ports: vec!["80/tcp".to_owned()],
            volumes: vec!["/declared".to_owned()],
            ..ImportChanges::default()
        };
        let reader = std::io::Cursor::new(archive());
        engine.images().import(reader, Some(&"box:1".parse().unwrap()), changes).await.unwrap();
        Self::serve(engine, host.root.join("docker.sock"), host.root.clone())
    }

    /// Serves an engine on a socket.
    pub fn serve(engine: Engine, socket: PathBuf, root: PathBuf) -> Self {
        let listener = UnixListener::bind(&socket).unwrap();
        let info = DaemonInfo { version: "0.1.0".to_owned(), root: root.clone(), ..DaemonInfo::default() };
        let routes = router(engine.clone(), info, std::sync::Arc::new(stack_docker_api::NoCluster));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { engine, socket, root }
    }

    /// A request with a JSON body, or none.
    pub async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Response<Incoming> {
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header("host", "docker");
        let request = request.header("content-type", "application/json");
        let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let request = request.body(Full::new(body)).unwrap();
        tokio::time::timeout(PATIENCE, sender.send_request(request)).await.unwrap().unwrap()
    }

    /// The status and the document of an answer.
    pub async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let response = self.send(method, path, body).await;
        let status = response.status().as_u16();
        let body = tokio::time::timeout(PATIENCE, response.into_body().collect()).await.unwrap().unwrap().to_bytes();
        (status, if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() })
    }

    /// A connection that is the client's own after the head of the answer, which is returned with it.
    pub async fn hijack(&self, path: &str, body: &Value) -> (String, UnixStream) {
        use tokio::io::AsyncReadExt as _;
        let mut stream = UnixStream::connect(&self.socket).await.unwrap();
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let byte = tokio::time::timeout(PATIENCE, stream.read_u8()).await.expect("it answers").unwrap();
            head.push(byte);
        }
        (String::from_utf8(head).unwrap(), stream)
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = std::process::Command::new("docker");
        command.arg("-H").arg(format!("unix://{}", self.socket.display())).args(arguments);
        command
            .env_remove("DOCKER_CONTEXT")
            .env_remove("DOCKER_API_VERSION")
            .env("DOCKER_CONFIG", self.root.join("cli"));
        command
    }

    /// Runs the Docker CLI with this input.
    pub async fn docker_with(&self, input: &[u8], arguments: &[&str]) -> Outcome {
        let mut command = tokio::process::Command::from(self.command(arguments));
        command.kill_on_drop(true).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut to = child.stdin.take().unwrap();
        let input = input.to_vec();
        let writer = tokio::spawn(async move {
            // A program need not read its input.
            let _ = to.write_all(&input).await;
        });
        let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
        let output = output.unwrap_or_else(|_| panic!("docker {arguments:?} does not end")).unwrap();
        writer.abort();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Outcome { code: output.status.code().unwrap_or(-1), output: text(&output.stdout), error: text(&output.stderr) }
    }

    /// Runs the Docker CLI without input.
    pub async fn docker(&self, arguments: &[&str]) -> Outcome {
        self.docker_with(b"", arguments).await
    }

    /// What the Docker CLI writes, when all goes well.
    pub async fn fine(&self, arguments: &[&str]) -> String {
        let outcome = self.docker(arguments).await;
        assert_eq!(outcome.code, 0, "docker {arguments:?}: {outcome:?}");
        outcome.output
    }

    /// The Docker CLI at a terminal of so many lines and columns.
    pub fn terminal(&self, arguments: &[&str], size: (u16, u16)) -> Terminal {
        Terminal::open(self.command(arguments), size)
    }

    pub async fn done(self) {
        for container in self.engine.list() {
            let options = RemoveOptions { force: true, volumes: true };
            if let Err(error) = self.engine.remove(&container.id, options).await {
                // One that removes itself may be quicker.
                assert!(self.engine.inspect(&container.id).is_none(), "{error}");
            }
        }
    }
}

/// A program at a terminal.
pub struct Terminal {
    child: std::process::Child,
    controlling: File,
    heard: Receiver<Vec<u8>>,
    /// All that it has shown.
    pub shown: String,
}

impl Terminal {
    fn open(mut command: std::process::Command, (rows, columns): (u16, u16)) -> Self {
        let size = nix::pty::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = nix::pty::openpty(Some(&size), None).unwrap();
        let peer: OwnedFd = pair.slave;
        command.stdin(peer.try_clone().unwrap()).stdout(peer.try_clone().unwrap()).stderr(peer);
        let in_session = || {
            nix::unistd::setsid()?;
            // SAFETY: the number of a descriptor that is open, and no pointer.
            if unsafe { libc_ioctl_tiocsctty() } < 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        };
        // SAFETY: only system calls, no memory of this process is touched.
        unsafe { std::os::unix::process::CommandExt::pre_exec(&mut command, in_session) };
        let child = command.spawn().unwrap();
        // Its ends of the terminal, so that the end of it is seen here.
        drop(command);
        let controlling = File::from(pair.master);
        let mut reader = controlling.try_clone().unwrap();
        let (told, heard) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                if told.send(buffer[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { child, controlling, heard, shown: String::new() }
    }

    /// Types.
    pub fn types(&mut self, text: &str) {
        self.controlling.write_all(text.as_bytes()).unwrap();
    }

    /// Gives the terminal another size, as a window does.
    pub fn resize(&mut self, rows: u16, columns: u16) {
        let size = nix::pty::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the structure lives for the call.
        let result = unsafe { nix::libc::ioctl(self.controlling.as_raw_fd(), nix::libc::TIOCSWINSZ, &raw const size) };
        assert_eq!(result, 0);
    }

    /// Waits until this is shown.
    pub fn shows(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.shown.contains(text) {
            match self.heard.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.shown.push_str(&String::from_utf8_lossy(&bytes)),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("`{text}` is not shown in: {}", self.shown)
                }
            }
        }
    }

    /// Types again and again, until this is shown.
    pub fn asks_until(&mut self, typed: &str, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.shown.contains(text) {
            assert!(Instant::now() < deadline, "`{text}` is not shown in: {}", self.shown);
            self.types(typed);
            while let Ok(bytes) = self.heard.recv_timeout(std::time::Duration::from_millis(100)) {
                self.shown.push_str(&String::from_utf8_lossy(&bytes));
            }
        }
    }

    /// Waits for the end; the exit code.
    pub fn ends(&mut self) -> i32 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                // What it wrote last may still be on its way; the terminal ends with its last user.
                while let Ok(bytes) = self.heard.recv_timeout(std::time::Duration::from_secs(1)) {
                    self.shown.push_str(&String::from_utf8_lossy(&bytes));
                }
                return status.code().unwrap_or(-1);
            }
            assert!(Instant::now() < deadline, "it does not end: {}", self.shown);
            while let Ok(bytes) = self.heard.recv_timeout(std::time::Duration::from_millis(10)) {
                self.shown.push_str(&String::from_utf8_lossy(&bytes));
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes standard input the controlling terminal of this session.
unsafe fn libc_ioctl_tiocsctty() -> i32 {
    // SAFETY: the request takes a number.
    unsafe { nix::libc::ioctl(nix::libc::STDIN_FILENO, nix::libc::TIOCSCTTY, 0) }
}

/// Runs a test with an engine of its own, whose leftovers are looked for.
pub fn served<F, R>(name: &'static str, test: F)
where
    F: FnOnce(Arc<Served>) -> R + Send + 'static,
    R: Future<Output = ()>,
{
    with_host(name, async move |host| {
        let served = Arc::new(Served::open(&host).await);
        test(Arc::clone(&served)).await;
        Arc::into_inner(served).expect("the test has ended").done().await;
    });
}

/// Waits for something that becomes true by itself.
pub async fn until(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !check().await {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "{what}");
}
