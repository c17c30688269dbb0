//! A real registry for tests: Debian's `docker-registry` on a free loopback port, with or without a password, and what
//! is needed to put content into it.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

/// How long the registry may take to answer first.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// Media type of an OCI manifest.
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// How often another port is tried when somebody else took the first.
const PORTS: usize = 5;

/// Why the registry does not run or does not take content.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// A program cannot be run.
    #[error("cannot run `{program}`; install the Debian packages docker-registry and apache2-utils")]
    Program {
        /// Which.
        program: &'static str,
        /// The answer.
        source: io::Error,
    },
    /// It ended, or answers nothing in time.
    #[error("docker-registry did not start: {log}")]
    NotStarted {
        /// What it wrote.
        log: String,
    },
    /// Its files cannot be written, or the connection failed.
    #[error("cannot {action}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The answer.
        source: io::Error,
    },
    /// It refuses.
    #[error("the registry answers to {request}: {answer}")]
    Refused {
        /// What was asked.
        request: String,
        /// The first lines of its answer.
        answer: String,
    },
}

fn failed(action: &'static str) -> impl FnOnce(io::Error) -> RegistryError {
    move |source| RegistryError::Io { action, source }
}

/// A running registry. Dropped, it is stopped and its content removed; it also ends with the thread that started it.
pub struct Registry {
    child: Child,
    /// Held for its removal.
    directory: Option<TempDir>,
    address: SocketAddr,
    authorization: Option<String>,
}

impl Registry {
    /// Starts a registry that anybody may read and write.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start() -> Result<Self, RegistryError> {
        Self::start_with(None)
    }

    /// Starts a registry that wants this name and password.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_with_password(username: &str, password: &str) -> Result<Self, RegistryError> {
        Self::start_with(Some((username, password)))
    }

    fn start_with(password: Option<(&str, &str)>) -> Result<Self, RegistryError> {
        let directory = tempfile::tempdir().map_err(failed("make a directory for the registry"))?;
        if let Some((username, password)) = password {
            write_password(directory.path(), username, password)?;
        }
        let authorization = password.map(|(username, password)| {
            let pair = base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"));
            format!("Authorization: Basic {pair}\r\n")
        });
        let mut log = String::new();
        for _ in 0..PORTS {
            let (child, address) = spawn(directory.path(), password.is_some())?;
            let mut registry = Self { child, directory: None, address, authorization: authorization.clone() };
            if registry.answers()? {
                registry.directory = Some(directory);
                return Ok(registry);
            }
            log = std::fs::read_to_string(directory.path().join("log")).unwrap_or_default();
        }
        Err(RegistryError::NotStarted { log: log.chars().take(2000).collect() })
    }

    /// `127.0.0.1:port`, as image names begin.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Puts a blob. Answers its digest.
    ///
    /// # Errors
    /// When the registry refuses or the connection fails.
    pub fn put_blob(&self, repository: &str, content: &[u8]) -> Result<String, RegistryError> {
        let digest = digest(content);
        let answer = self.request("POST", &format!("/v2/{repository}/blobs/uploads/"), "", b"", "202")?;
        let location = answer
            .lines()
            .find_map(|line| line.split_once(": ").filter(|(name, _)| name.eq_ignore_ascii_case("location")))
            .map(|(_, value)| value.trim())
            .ok_or_else(|| RegistryError::Refused { request: "POST".to_owned(), answer: answer.clone() })?;
        let path = location.strip_prefix(&format!("http://{}", self.address)).unwrap_or(location);
        let separator = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{separator}digest={digest}");
        self.request("PUT", &path, "Content-Type: application/octet-stream\r\n", content, "201")?;
        Ok(digest)
    }

    /// Puts a manifest or an index under a tag or digest. Answers its digest.
    ///
    /// # Errors
    /// When the registry refuses or the connection fails.
    pub fn put_manifest(
        &self,
        repository: &str,
        tag_or_digest: &str,
        media_type: &str,
        content: &[u8],
    ) -> Result<String, RegistryError> {
        let path = format!("/v2/{repository}/manifests/{tag_or_digest}");
        self.request("PUT", &path, &format!("Content-Type: {media_type}\r\n"), content, "201")?;
        Ok(digest(content))
    }

    /// Puts an image of one layer, a root file system as an uncompressed tar archive, for this program's platform.
    /// `config` is what the configuration says under `config`: `{"Cmd": ["/run"]}`. Answers the manifest's digest.
    ///
    /// # Errors
    /// When the registry refuses or the connection fails.
    pub fn put_image(
        &self,
        repository: &str,
        tag: &str,
        root_file_system: &[u8],
        config: &serde_json::Value,
    ) -> Result<String, RegistryError> {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let layer = self.put_blob(repository, root_file_system)?;
        let config = serde_json::json!({
            "architecture": architecture, "os": "linux", "config": config,
            "rootfs": { "type": "layers", "diff_ids": [layer] },
        });
        let config = config.to_string();
        let config_digest = self.put_blob(repository, config.as_bytes())?;
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest,
                "size": config.len() },
            "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer,
                "size": root_file_system.len() }],
        });
        self.put_manifest(repository, tag, OCI_MANIFEST, manifest.to_string().as_bytes())
    }

    /// Waits until it answers; false when it ended instead.
    fn answers(&mut self) -> Result<bool, RegistryError> {
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            if self.child.try_wait().map_err(failed("look after the registry"))?.is_some() {
                return Ok(false);
            }
            if self.exchange("GET", "/v2/", "", b"").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")) {
                return Ok(true);
            }
            if Instant::now() > deadline {
                return Ok(false);
            }
            // Between two questions, not instead of one.
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn request(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        body: &[u8],
        wanted: &str,
    ) -> Result<String, RegistryError> {
        let answer = self.exchange(method, path, headers, body).map_err(failed("talk to the registry"))?;
        if answer.split(' ').nth(1) == Some(wanted) {
            return Ok(answer);
        }
        Err(RegistryError::Refused { request: format!("{method} {path}"), answer: answer.chars().take(500).collect() })
    }

    fn exchange(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> io::Result<String> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(START_DEADLINE))?;
        let authorization = self.authorization.as_deref().unwrap_or("");
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n{authorization}{headers}\r\n",
            self.address,
            body.len()
        )?;
        stream.write_all(body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// Stops it; afterwards its address refuses connections. Its content stays until this is dropped.
    pub fn stop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
        // Only now that nothing writes to it any more.
        self.directory = None;
    }
}

/// `sha256:` and the hexadecimal digits.
#[must_use]
pub fn digest(content: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(content)))
}

fn write_password(directory: &Path, username: &str, password: &str) -> Result<(), RegistryError> {
    let program = |source| RegistryError::Program { program: "htpasswd", source };
    let mut child = Command::new("htpasswd")
        .args(["-i", "-n", "-B", "-C", "5", username])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(program)?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(password.as_bytes()).map_err(program)?;
    }
    let output = child.wait_with_output().map_err(program)?;
    std::fs::write(directory.join("htpasswd"), output.stdout).map_err(failed("write the registry's passwords"))
}

fn spawn(directory: &Path, with_password: bool) -> Result<(Child, SocketAddr), RegistryError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed("find a free port"))?;
    let address = listener.local_addr().map_err(failed("find a free port"))?;
    drop(listener);
    let shown = directory.display();
    let auth = if with_password {
        format!("auth:\n  htpasswd:\n    realm: test\n    path: {shown}/htpasswd\n")
    } else {
        String::new()
    };
    let config = format!(
        "version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {shown}/content\n  delete:\n    enabled: true\nhttp:\n  addr: {address}\n{auth}"
    );
    let path = directory.join("config.yml");
    std::fs::write(&path, config).map_err(failed("write the registry's configuration"))?;
    let log = std::fs::File::create(directory.join("log")).map_err(failed("write the registry's log"))?;
    let mut command = Command::new("docker-registry");
    command.arg("serve").arg(&path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    // SAFETY: between fork and exec only one system call is made, and nothing is allocated.
    unsafe {
        command.pre_exec(|| nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).map_err(io::Error::from));
    }
    let child = command.spawn().map_err(|source| RegistryError::Program { program: "docker-registry", source })?;
    Ok((child, address))
}
