//! What the image tests are made of: small images, archives of them, and a registry that misbehaves as told.
#![allow(dead_code, reason = "each test file uses a part of this")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use stack_engine::content::Digest;
use stack_engine::image::{ImageStore, RegistryConfig};

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A tar archive of files and directories; a name that ends with a slash is a directory.
pub fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mtime(1_700_000_000);
        header.set_uid(0);
        header.set_gid(0);
        let is_directory = name.ends_with('/');
        header.set_mode(if is_directory { 0o755 } else { 0o644 });
        header.set_entry_type(if is_directory { tar::EntryType::Directory } else { tar::EntryType::Regular });
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

pub fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

pub fn zstandard(content: &[u8]) -> Vec<u8> {
    zstd::encode_all(content, 1).unwrap()
}

pub fn bzip2(content: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

pub fn xz(content: &[u8]) -> Vec<u8> {
    let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1)).unwrap();
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

type Compress = fn(&[u8]) -> Vec<u8>;

/// Every form in which archives come, by its name.
pub const FORMS: [(&str, Compress); 5] =
    [("plain", <[u8]>::to_vec), ("gzip", gzip), ("bzip2", bzip2), ("xz", xz), ("Zstandard", zstandard)];

/// An image in all its parts.
pub struct TestImage {
    pub config: Vec<u8>,
    pub layers: Vec<Vec<u8>>,
    pub manifest: Vec<u8>,
}

pub fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

/// An image of layers as they are transferred, with the archives that they decompress to.
pub fn image(label: &str, layers: &[(Vec<u8>, &[u8])]) -> TestImage {
    let diff_ids: Vec<_> = layers.iter().map(|(_, plain)| Digest::of(plain)).collect();
    let config = json!({
        "architecture": architecture(), "os": "linux", "created": "2026-01-01T00:00:00Z",
        "config": { "Cmd": ["/bin/run"], "Env": ["PATH=/bin"], "Labels": { "label": label } },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = config.to_string().into_bytes();
    let layers: Vec<_> = layers.iter().map(|(transferred, _)| transferred.clone()).collect();
    let manifest = manifest(&config, &layers);
    TestImage { config, layers, manifest }
}

pub fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": Digest::of(content), "size": content.len() })
}

fn manifest(config: &[u8], layers: &[Vec<u8>]) -> Vec<u8> {
    let layers: Vec<_> =
        layers.iter().map(|layer| descriptor("application/vnd.oci.image.layer.v1.tar+gzip", layer)).collect();
    let config = descriptor("application/vnd.oci.image.config.v1+json", config);
    json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers })
        .to_string()
        .into_bytes()
}

/// One layer, gzip.
pub fn small_image(label: &str) -> TestImage {
    let plain = archive(&[("bin/", b""), ("bin/run", label.as_bytes())]);
    image(label, &[(gzip(&plain), &plain)])
}

/// `index.json`, `oci-layout` and blobs.
pub fn oci_layout(images: &[(&TestImage, Option<&str>)]) -> Vec<u8> {
    let mut blobs: BTreeMap<String, &[u8]> = BTreeMap::new();
    let mut manifests = Vec::new();
    for (image, name) in images {
        let documents = [&image.config, &image.manifest];
        for content in image.layers.iter().chain(documents) {
            blobs.insert(format!("blobs/sha256/{}", Digest::of(content).hex()), content);
        }
        let mut entry = descriptor(OCI_MANIFEST, &image.manifest);
        if let Some(name) = name {
            entry["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        }
        manifests.push(entry);
    }
    let index = json!({ "schemaVersion": 2, "manifests": manifests }).to_string();
    let mut files: Vec<(&str, &[u8])> = blobs.iter().map(|(name, content)| (name.as_str(), *content)).collect();
    files.push(("index.json", index.as_bytes()));
    files.push(("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#));
    archive(&files)
}

/// What `docker save` wrote before version 25.
pub fn docker_archive(image: &TestImage, tags: &[&str]) -> Vec<u8> {
    let config_name = format!("{}.json", Digest::of(&image.config).hex());
    let names: Vec<_> = (0..image.layers.len()).map(|number| format!("layer{number}/layer.tar")).collect();
    let listing = json!([{ "Config": config_name, "RepoTags": tags, "Layers": names }]).to_string();
    let mut files: Vec<(&str, &[u8])> =
        names.iter().zip(&image.layers).map(|(name, layer)| (name.as_str(), layer.as_slice())).collect();
    files.push((&config_name, &image.config));
    files.push(("manifest.json", listing.as_bytes()));
    archive(&files)
}

/// A store in a directory of its own, that gives up quickly.
pub fn store(root: &Path) -> ImageStore {
    ImageStore::open(root, quick()).unwrap()
}

pub fn quick() -> RegistryConfig {
    RegistryConfig { first_pause: Duration::from_millis(5), ..RegistryConfig::default() }
}

/// How many files lie in a directory and below.
pub fn files_below(root: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(root) else { return 0 };
    entries
        .map(|entry| entry.unwrap())
        .map(|entry| if entry.file_type().unwrap().is_dir() { files_below(&entry.path()) } else { 1 })
        .sum()
}

/// A request as the misbehaving registry sees it. Header names are lower-case.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, String>,
}

/// Its answer.
#[derive(Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The connection is cut after so many bytes of the body.
    pub cut_after: Option<usize>,
}

/// An HTTP server on a loopback port that answers by a function and remembers what it was asked. It ends when dropped.
pub struct FakeRegistry {
    pub address: SocketAddr,
    pub requests: Arc<Mutex<Vec<Request>>>,
    stopping: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl FakeRegistry {
    pub fn start(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_with(None, answer)
    }

    /// The same over TLS.
    pub fn start_tls(
        config: Arc<rustls::ServerConfig>,
        answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::start_with(Some(config), answer)
    }

    fn start_with(
        tls: Option<Arc<rustls::ServerConfig>>,
        answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let stopping = Arc::new(AtomicBool::new(false));
        let (seen, stop, answer) = (Arc::clone(&requests), Arc::clone(&stopping), Arc::new(answer));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let (seen, answer, tls) = (Arc::clone(&seen), Arc::clone(&answer), tls.clone());
                std::thread::spawn(move || {
                    let stream = stream.unwrap();
                    match tls {
                        Some(config) => {
                            let connection = rustls::ServerConnection::new(config).unwrap();
                            serve(rustls::StreamOwned::new(connection, stream), &seen, &*answer);
                        }
                        None => serve(stream, &seen, &*answer),
                    }
                });
            }
        });
        Self { address, requests, stopping, thread: Some(thread) }
    }

    /// A registry of these contents: manifests under their digests and the tag `latest` for the first.
    pub fn of(manifests: Vec<(String, Vec<u8>)>, blobs: Vec<Vec<u8>>) -> impl Fn(&Request) -> Answer + Send + Sync {
        move |request| {
            let last = request.path.rsplit('/').next().unwrap_or("");
            if request.path.contains("/manifests/") {
                let found = manifests
                    .iter()
                    .enumerate()
                    .find(|(at, (_, content))| Digest::of(content).as_str() == last || (*at == 0 && last == "latest"));
                if let Some((_, (media_type, content))) = found {
                    let headers = vec![
                        ("Content-Type".to_owned(), media_type.clone()),
                        ("Docker-Content-Digest".to_owned(), Digest::of(content).to_string()),
                    ];
                    return Answer { status: 200, headers, body: content.clone(), cut_after: None };
                }
            }
            if request.path.contains("/blobs/")
                && let Some(content) = blobs.iter().find(|content| Digest::of(content).as_str() == last)
            {
                return Answer { status: 200, body: content.clone(), ..Answer::default() };
            }
            Answer { status: 404, ..Answer::default() }
        }
    }

    pub fn seen(&self, part: &str) -> Vec<Request> {
        self.requests.lock().unwrap().iter().filter(|request| request.path.contains(part)).cloned().collect()
    }
}

impl Drop for FakeRegistry {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        // Wakes the listener.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(stream: impl Read + Write, seen: &Mutex<Vec<Request>>, answer: &(dyn Fn(&Request) -> Answer + Send + Sync)) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        // A client that speaks TLS to this plain server sends no line of text.
        if !matches!(reader.read_line(&mut line), Ok(length) if length > 0) {
            return;
        }
        let mut words = line.split(' ').map(str::to_owned);
        let (Some(method), Some(path)) = (words.next(), words.next()) else { return };
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).is_err() {
                return;
            }
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            headers.insert(name.to_lowercase(), value.to_owned());
        }
        let request = Request { method, path, headers };
        seen.lock().unwrap().push(request.clone());
        let answer = answer(&request);
        let mut head = format!("HTTP/1.1 {} Answer\r\nContent-Length: {}\r\n", answer.status, answer.body.len());
        for (name, value) in &answer.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let writer = reader.get_mut();
        let body = if request.method == "HEAD" { &[][..] } else { &answer.body };
        let cut = answer.cut_after.filter(|&cut| cut < body.len());
        // The client may be gone; then there is nobody to tell.
        let sent =
            writer.write_all(head.as_bytes()).and_then(|()| writer.write_all(&body[..cut.unwrap_or(body.len())]));
        if sent.is_err() || cut.is_some() {
            return;
        }
    }
}

/// Reads all of a file as text.
pub fn text(path: &Path) -> String {
    let mut content = String::new();
    std::fs::File::open(path).unwrap().read_to_string(&mut content).unwrap();
    content
}
