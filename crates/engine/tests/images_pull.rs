//! Pulling: from a real registry, and from one that misbehaves in every way that registries and networks do.
#![allow(clippy::unwrap_used, reason = "what a test needs and does not get ends it here")]

mod images_support;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use images_support::*;
use serde_json::json;
use stack_engine::content::Digest;
use stack_engine::image::{
    Credentials, Image, ImageStore, OpenError, Origin, Platform, PullError, PullProgress, Reference, RegistryConfig,
    RegistryConfigError,
};
use stack_testkit::registry::Registry;

fn silent(_: PullProgress) {}

async fn pull(store: &ImageStore, name: &str) -> Result<Image, PullError> {
    store.pull(&name.parse().unwrap(), None, &silent).await
}

fn put(registry: &Registry, repository: &str, tag: &str, image: &TestImage) {
    for blob in image.layers.iter().chain([&image.config]) {
        registry.put_blob(repository, blob).unwrap();
    }
    registry.put_manifest(repository, tag, OCI_MANIFEST, &image.manifest).unwrap();
}

fn fake(images: &[&TestImage]) -> FakeRegistry {
    FakeRegistry::start(contents(images))
}

fn contents(images: &[&TestImage]) -> impl Fn(&Request) -> Answer + Send + Sync + 'static {
    let manifests = images.iter().map(|image| (OCI_MANIFEST.to_owned(), image.manifest.clone())).collect();
    let blobs = images.iter().flat_map(|image| image.layers.iter().chain([&image.config])).cloned().collect();
    FakeRegistry::of(manifests, blobs)
}

fn nothing_left(root: &Path) {
    for directory in ["ingest", "unpacking", "trash"] {
        assert_eq!(std::fs::read_dir(root.join(directory)).unwrap().count(), 0, "{directory}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_registry_with_a_password_is_pulled_from_by_tag_and_digest() {
    let mut registry = Registry::start_with_password("robot", "hunter2").unwrap();
    let plain = archive(&[("bin/", b""), ("bin/busybox", &std::fs::read("/bin/busybox").unwrap())]);
    let second = archive(&[("etc/", b""), ("etc/name", b"zstd")]);
    let third = archive(&[("etc/", b""), ("etc/other", b"plain")]);
    let image = image("real", &[(gzip(&plain), &plain), (zstandard(&second), &second), (third.clone(), &third)]);
    put(&registry, "team/app", "1", &image);
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let name: Reference = format!("{}/team/app:1", registry.address()).parse().unwrap();

    let error = store.pull(&name, None, &silent).await.unwrap_err();
    assert!(matches!(error, PullError::Unauthorized { with_credentials: false, .. }), "{error}");
    let wrong = Credentials { username: "robot".into(), password: "wrong".into() };
    let error = store.resolve(&name, Some(&wrong)).await.unwrap_err();
    assert!(matches!(error, PullError::Unauthorized { with_credentials: true, .. }), "{error}");
    assert!(!error.is_retryable() && error.hint().is_some());

    let right = Credentials { username: "robot".into(), password: "hunter2".into() };
    assert!(!format!("{right:?}").contains("hunter2"));
    let digest = store.resolve(&name, Some(&right)).await.unwrap();
    assert_eq!(digest, Digest::of(&image.manifest));
    let heard = Mutex::new(Vec::new());
    let pulled = store.pull(&name, Some(&right), &|progress| heard.lock().unwrap().push(progress)).await.unwrap();
    assert_eq!((&pulled.digest, pulled.origin), (&digest, Origin::Registry));
    assert_eq!(pulled.references, [name.to_string()]);
    assert_eq!(pulled.repository_digests, [format!("{}/team/app@{digest}", registry.address())]);
    assert_eq!(text(&pulled.layers[1].join("etc/name")), "zstd");
    assert_eq!(text(&pulled.layers[2].join("etc/other")), "plain");
    assert_eq!(std::fs::read(pulled.layers[0].join("bin/busybox")).unwrap(), std::fs::read("/bin/busybox").unwrap());
    let heard = heard.into_inner().unwrap();
    assert!(matches!(&heard[0], PullProgress::Resolved { digest: found, .. } if *found == digest));
    assert_eq!(heard.iter().filter(|progress| matches!(progress, PullProgress::Unpacked { .. })).count(), 3);

    let missing: Reference = format!("{}/team/app:2", registry.address()).parse().unwrap();
    let error = store.pull(&missing, Some(&right), &silent).await.unwrap_err();
    assert!(matches!(error, PullError::NotFound { .. }), "{error}");

    // From here on the registry is gone.
    registry.stop();
    let pinned: Reference = format!("{}/team/app:stable@{digest}", registry.address()).parse().unwrap();
    let again = store.pull(&pinned, None, &silent).await.unwrap();
    assert!(again.references.contains(&format!("{}/team/app:stable", registry.address())), "the tag is noted too");
    let error = store.pull(&missing, Some(&right), &silent).await.unwrap_err();
    assert!(matches!(error, PullError::Unreachable { .. }) && error.is_retryable(), "{error}");
    nothing_left(root.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_index_the_image_for_this_platform_is_pulled() {
    let registry = Registry::start().unwrap();
    let (mine, other) = (small_image("mine"), small_image("other"));
    put(&registry, "multi", "mine", &mine);
    let made = registry.put_image("made", "1", &archive(&[("run", b"made")]), &json!({ "Cmd": ["/run"] })).unwrap();
    put(&registry, "multi", "other", &other);
    let entry = |image: &TestImage, architecture: &str| {
        let mut entry = descriptor(OCI_MANIFEST, &image.manifest);
        entry["platform"] = json!({ "architecture": architecture, "os": "linux" });
        entry
    };
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX,
        "manifests": [entry(&other, "s390x"), entry(&mine, architecture())] });
    let index = index.to_string().into_bytes();
    registry.put_manifest("multi", "latest", OCI_INDEX, &index).unwrap();
    let root = tempfile::tempdir().unwrap();
    let opened = store(root.path());
    let name = format!("{}/multi", registry.address());
    let digest = opened.resolve(&name.parse().unwrap(), None).await.unwrap();
    assert_eq!(digest, Digest::of(&index), "a tag is pinned by its index");
    let pulled = pull(&opened, &format!("{name}@{digest}")).await.unwrap();
    assert_eq!(pulled.digest, Digest::of(&mine.manifest));
    let simple = pull(&opened, &format!("{}/made:1", registry.address())).await.unwrap();
    assert_eq!(simple.digest.as_str(), made);
    assert_eq!(simple.config.config().as_ref().unwrap().cmd().as_ref().unwrap(), &["/run"]);
    assert_eq!(pulled.indexes, std::slice::from_ref(&digest));
    assert_eq!(pulled.references, Vec::<String>::new());
    assert_eq!(opened.get(digest.as_str()).unwrap().digest, pulled.digest);
    assert_eq!(opened.get(&format!("{name}@{digest}")).unwrap().digest, pulled.digest);
    drop(opened);

    let platform = Platform { architecture: "riscv64".into(), os: "linux".into(), variant: None };
    let config = RegistryConfig { platform: Some(platform), ..quick() };
    let elsewhere = tempfile::tempdir().unwrap();
    let error = pull(&ImageStore::open(elsewhere.path(), config).unwrap(), &name).await.unwrap_err();
    assert!(error.to_string().contains("there is no image for linux/riscv64"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_goes_on_where_it_broke_off() {
    let plain = archive(&[("noise", &noise(1, 600_000))]);
    let image = image("resumed", &[(plain.clone(), &plain)]);
    for knows_ranges in [true, false] {
        let (inner, asked) = (contents(&[&image]), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&asked);
        let layer = Digest::of(&plain).to_string();
        let registry = FakeRegistry::start(move |request| {
            let mut answer = inner(request);
            if request.path.ends_with(&layer) {
                let tries = count.fetch_add(1, Ordering::SeqCst);
                let start: usize = match request.headers.get("range") {
                    Some(range) if knows_ranges => range["bytes=".len()..range.len() - 1].parse().unwrap(),
                    _ => 0,
                };
                if start > 0 {
                    answer.status = 206;
                    let last = answer.body.len() - 1;
                    answer.headers.push(("Content-Range".into(), format!("bytes {start}-{last}/{}", last + 1)));
                    answer.body.drain(..start);
                }
                answer.cut_after = (tries < 3).then_some(150_000 * if knows_ranges { 1 } else { tries + 1 });
            }
            answer
        });
        let root = tempfile::tempdir().unwrap();
        let store = store(root.path());
        let pulled = pull(&store, &format!("{}/app", registry.address)).await.unwrap();
        assert_eq!(std::fs::read(pulled.layers[0].join("noise")).unwrap(), noise(1, 600_000));
        assert_eq!(asked.load(Ordering::SeqCst), 4);
        let starts: Vec<_> = registry
            .seen(&Digest::of(&plain).to_string())
            .iter()
            .map(|request| request.headers.get("range").cloned().unwrap_or_default())
            .collect();
        assert_eq!(starts[0], "");
        assert!(starts[1..].iter().all(|start| start.starts_with("bytes=") && start != "bytes=0-"), "{starts:?}");
        nothing_left(root.path());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_never_gets_further_is_given_up() {
    let image = small_image("stuck");
    let (inner, layer) = (contents(&[&image]), Digest::of(&image.layers[0]).to_string());
    let registry = FakeRegistry::start(move |request| {
        let mut answer = inner(request);
        if request.path.ends_with(&layer) {
            answer.cut_after = Some(0);
        }
        answer
    });
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let error = pull(&store, &format!("{}/app", registry.address)).await.unwrap_err();
    assert!(matches!(error, PullError::Unreachable { .. }) && error.is_retryable(), "{error}");
    assert_eq!(registry.seen(&Digest::of(&image.layers[0]).to_string()).len(), 5);
    nothing_left(root.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_what_was_promised_is_refused_and_not_kept() {
    let good = small_image("good");
    let other = archive(&[("bin/", b""), ("bin/run", b"evil")]);
    // The same length, so that only the digest tells.
    let mut changed = good.layers[0].clone();
    let last = changed.len() - 1;
    changed[last] ^= 1;
    let mut longer = good.layers[0].clone();
    longer.push(0);
    let wrong_diff = image("wrong", &[(gzip(&other), b"something else")]);
    type Case<'a> = (&'a TestImage, Option<(Digest, Vec<u8>)>, fn(&PullError) -> bool);
    let cases: [Case<'_>; 6] = [
        (&good, Some((Digest::of(&good.layers[0]), changed)), |error| {
            matches!(error, PullError::DigestMismatch { .. })
        }),
        (&good, Some((Digest::of(&good.layers[0]), longer)), |error| matches!(error, PullError::SizeMismatch { .. })),
        (&good, Some((Digest::of(&good.config), b"{}".to_vec())), |error| {
            matches!(error, PullError::DigestMismatch { .. })
        }),
        (&good, Some((Digest::of(&good.manifest), good.config.clone())), |error| {
            matches!(error, PullError::DigestMismatch { .. })
        }),
        (&good, Some((Digest::of(&good.manifest), vec![b' '; 5 << 20])), |error| {
            matches!(error, PullError::TooLarge { .. })
        }),
        (&wrong_diff, None, |error| matches!(error, PullError::Layer(_))),
    ];
    for (number, (image, replaced, is_right)) in cases.into_iter().enumerate() {
        let inner = contents(&[image]);
        let registry = FakeRegistry::start(move |request| {
            let mut answer = inner(request);
            if let Some((digest, content)) = &replaced
                && (request.path.ends_with(digest.as_str()) && answer.status == 200)
            {
                answer.body.clone_from(content);
            }
            answer
        });
        let root = tempfile::tempdir().unwrap();
        let store = store(root.path());
        let name = format!("{}/app@{}", registry.address, Digest::of(&image.manifest));
        let error = pull(&store, &name).await.unwrap_err();
        assert!(is_right(&error) && !error.is_retryable(), "case {number}: {error:?}");
        assert_eq!(store.list().unwrap().len(), 0);
        assert_eq!(files_below(&root.path().join("layers")), 0);
        nothing_left(root.path());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_is_asked_first_and_not_believed() {
    let image = small_image("mirrored");
    let origin = fake(&[&image]);
    let (inner, layer) = (contents(&[&image]), Digest::of(&image.layers[0]).to_string());
    let mirror = FakeRegistry::start(move |request| {
        let mut answer = inner(request);
        if request.path.ends_with(&layer) {
            answer.body[10] ^= 1;
        }
        answer
    });
    let dead = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let mut config = quick();
    let mirrors = vec![format!("http://{dead}"), format!("http://{}/prefix", mirror.address)];
    config.mirrors.insert(origin.address.to_string(), mirrors);
    config.attempts = 2;
    let root = tempfile::tempdir().unwrap();
    let store = ImageStore::open(root.path(), config).unwrap();
    let credentials = Credentials { username: "me".into(), password: "secret".into() };
    let name: Reference = format!("{}/app", origin.address).parse().unwrap();
    let pulled = store.pull(&name, Some(&credentials), &silent).await.unwrap();
    assert_eq!(text(&pulled.layers[0].join("bin/run")), "mirrored");
    assert!(!mirror.seen("/prefix/v2/app/manifests/latest").is_empty());
    assert!(origin.seen("/manifests/").is_empty(), "the mirror had them");
    assert_eq!(origin.seen(&Digest::of(&image.layers[0]).to_string()).len(), 1);
    assert!(mirror.seen("").iter().all(|request| !request.headers.contains_key("authorization")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_fetched_once_renewed_when_it_runs_out_and_goes_nowhere_else() {
    let image = small_image("token");
    let storage = {
        let layer = image.layers[0].clone();
        FakeRegistry::start(move |_| Answer { status: 200, body: layer.clone(), ..Answer::default() })
    };
    let tokens = {
        let issued = AtomicUsize::new(0);
        FakeRegistry::start(move |request| {
            // me:secret
            if request.headers.get("authorization").map(String::as_str) != Some("Basic bWU6c2VjcmV0") {
                return Answer { status: 401, ..Answer::default() };
            }
            let number = issued.fetch_add(1, Ordering::SeqCst);
            Answer { status: 200, body: format!(r#"{{"token":"token-{number}"}}"#).into_bytes(), ..Answer::default() }
        })
    };
    let (inner, layer) = (contents(&[&image]), Digest::of(&image.layers[0]).to_string());
    let (realm, target) = (tokens.address, storage.address);
    let registry = FakeRegistry::start(move |request| {
        // The first token is good for the manifests only.
        let wanted = if request.path.contains("/blobs/") { "Bearer token-1" } else { "Bearer token-0" };
        if request.headers.get("authorization").map(String::as_str) != Some(wanted) {
            let challenge =
                format!(r#"Bearer realm="http://{realm}/token",service="registry",scope="repository:app:pull""#);
            return Answer { status: 401, headers: vec![("WWW-Authenticate".into(), challenge)], ..Answer::default() };
        }
        if request.path.ends_with(&layer) {
            let place = format!("http://{target}/stored?signature=abc");
            return Answer { status: 307, headers: vec![("Location".into(), place)], ..Answer::default() };
        }
        inner(request)
    });
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let name: Reference = format!("{}/app", registry.address).parse().unwrap();
    let credentials = Credentials { username: "me".into(), password: "secret".into() };
    let pulled = store.pull(&name, Some(&credentials), &silent).await.unwrap();
    assert_eq!(text(&pulled.layers[0].join("bin/run")), "token");
    let asked = tokens.seen("/token");
    assert_eq!(asked.len(), 2);
    assert!(asked[0].path.contains("service=registry") && asked[0].path.contains("scope=repository%3Aapp%3Apull"));
    let stored = storage.seen("/stored");
    assert_eq!(stored.len(), 1);
    assert!(!stored[0].headers.contains_key("authorization"), "{stored:?}");

    let wrong = Credentials { username: "me".into(), password: "other".into() };
    let other: Reference = format!("{}/app:2", registry.address).parse().unwrap();
    let error = store.pull(&other, Some(&wrong), &silent).await.unwrap_err();
    assert!(matches!(error, PullError::Unauthorized { with_credentials: true, .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn passing_failures_are_repeated_and_refusals_are_not() {
    let image = small_image("busy");
    let (inner, asked) = (contents(&[&image]), AtomicUsize::new(0));
    let registry = FakeRegistry::start(move |request| {
        if asked.fetch_add(1, Ordering::SeqCst) % 3 < 2 {
            let status = if request.method == "HEAD" { 503 } else { 429 };
            return Answer { status, headers: vec![("Retry-After".into(), "0".into())], ..Answer::default() };
        }
        inner(request)
    });
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    pull(&store, &format!("{}/app", registry.address)).await.unwrap();

    let refusing = FakeRegistry::start(|_| Answer {
        status: 403,
        body: br#"{"errors":[{"code":"DENIED","message":"no"}]}"#.to_vec(),
        ..Answer::default()
    });
    let error = pull(&store, &format!("{}/app", refusing.address)).await.unwrap_err();
    assert!(matches!(error, PullError::Denied { .. }), "{error}");
    let broken = FakeRegistry::start(|_| Answer { status: 500, ..Answer::default() });
    let error = pull(&store, &format!("{}/app", broken.address)).await.unwrap_err();
    assert!(matches!(error, PullError::Registry { status: 500, .. }) && error.is_retryable(), "{error}");
    let circling = FakeRegistry::start(|request| Answer {
        status: 302,
        headers: vec![("Location".into(), request.path.clone())],
        ..Answer::default()
    });
    let error = pull(&store, &format!("{}/app", circling.address)).await.unwrap_err();
    assert!(matches!(error, PullError::BadRedirect { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_is_spoken_only_where_it_is_allowed() {
    let image = small_image("plain");
    let registry = fake(&[&image]);
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    // An address that is not a loopback one, and that Linux connects to this host all the same.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let outside = std::net::SocketAddr::from((Ipv4Addr::UNSPECIFIED, listener.local_addr().unwrap().port()));
    let (inside, stop) = (registry.address, Arc::new(std::sync::atomic::AtomicBool::new(false)));
    let stopped = Arc::clone(&stop);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = Arc::clone(&heard);
    let relay = std::thread::spawn(move || {
        for stream in listener.incoming() {
            if stopped.load(Ordering::SeqCst) {
                return;
            }
            relay(stream.unwrap(), inside, Arc::clone(&hears));
        }
    });
    let name = format!("{outside}/app");
    let refused = pull(&store, &name).await;
    let plain: Vec<u8> = heard.lock().unwrap().clone();
    let elsewhere = tempfile::tempdir().unwrap();
    let config = RegistryConfig { insecure: [outside.to_string()].into(), ..quick() };
    let allowed = pull(&ImageStore::open(elsewhere.path(), config).unwrap(), &name).await;
    stop.store(true, Ordering::SeqCst);
    drop(TcpStream::connect(outside));
    relay.join().unwrap();
    let error = refused.unwrap_err();
    assert!(matches!(error, PullError::Unreachable { .. }), "{error}");
    assert!(!plain.is_empty() && plain.iter().all(|&first| first == 0x16), "only TLS handshakes were tried: {plain:?}");
    assert_eq!(allowed.unwrap().digest, Digest::of(&image.manifest));
}

/// Passes one connection on and notes its first byte.
fn relay(mut client: TcpStream, to: std::net::SocketAddr, heard: Arc<Mutex<Vec<u8>>>) {
    std::thread::spawn(move || {
        let mut first = [0];
        if client.read_exact(&mut first).is_err() {
            return;
        }
        heard.lock().unwrap().push(first[0]);
        let mut server = TcpStream::connect(to).unwrap();
        server.write_all(&first).unwrap();
        let (mut from_server, mut to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from_server, &mut to_client);
            let _ = to_client.shutdown(std::net::Shutdown::Both);
        });
        let _ = std::io::copy(&mut client, &mut server);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_with_its_own_certificate_authority_is_trusted_only_if_configured() {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = parameters.self_signed(&authority_key).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let issuer = rcgen::Issuer::new(parameters, authority_key);
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let certificate = rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key.into())
        .unwrap();
    let image = small_image("tls");
    let registry = FakeRegistry::start_tls(Arc::new(server), contents(&[&image]));
    let name = format!("localhost:{}/app", registry.address.port());

    let distrusting = tempfile::tempdir().unwrap();
    let error = pull(&store(distrusting.path()), &name).await.unwrap_err();
    assert!(matches!(error, PullError::Unreachable { .. }), "{error}");
    assert!(registry.seen("").is_empty());

    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("authority.pem");
    std::fs::write(&file, authority.pem()).unwrap();
    let config = RegistryConfig { certificate_authorities: vec![file.clone()], ..quick() };
    let store = ImageStore::open(&root.path().join("images"), config.clone()).unwrap();
    assert_eq!(pull(&store, &name).await.unwrap().digest, Digest::of(&image.manifest));

    std::fs::write(&file, "no certificate").unwrap();
    let refused = |config| match ImageStore::open(&root.path().join("other"), config) {
        Err(OpenError::Registries(error)) => error,
        Err(error) => panic!("another error: {error}"),
        Ok(_) => panic!("it was accepted"),
    };
    assert!(matches!(refused(config), RegistryConfigError::NoCertificate { .. }));
    let config = RegistryConfig { certificate_authorities: vec!["/missing.pem".into()], ..quick() };
    assert!(matches!(refused(config), RegistryConfigError::Unreadable { .. }));
    for mirror in ["mirror.example", "ftp://mirror.example", "https://me:secret@mirror.example", "https://a?b=c"] {
        let mut config = quick();
        config.mirrors.insert("docker.io".into(), vec![mirror.into()]);
        let error = refused(config);
        assert!(matches!(error, RegistryConfigError::BadMirror { .. }), "{mirror}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_at_the_same_time_share_their_layers() {
    let shared = archive(&[("shared", &noise(7, 200_000))]);
    let images: Vec<_> = (0..4)
        .map(|number| {
            let own = archive(&[("own", format!("{number}").as_bytes())]);
            image(&format!("image {number}"), &[(gzip(&shared), &shared), (gzip(&own), &own)])
        })
        .collect();
    let registry = fake(&images.iter().collect::<Vec<_>>());
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let pulls = images.iter().map(|image| {
        let (store, name) = (store.clone(), format!("{}/app@{}", registry.address, Digest::of(&image.manifest)));
        async move { pull(&store, &name).await }
    });
    for (number, pulled) in futures::future::join_all(pulls).await.into_iter().enumerate() {
        assert_eq!(text(&pulled.unwrap().layers[1].join("own")), number.to_string());
    }
    assert_eq!(registry.seen(&Digest::of(&gzip(&shared)).to_string()).len(), 1, "it is transferred once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_can_be_tried_again() {
    struct SmallDisk(tempfile::TempDir);
    impl Drop for SmallDisk {
        fn drop(&mut self) {
            let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
        }
    }
    let disk = SmallDisk(tempfile::tempdir().unwrap());
    let mount = |flags, options| nix::mount::mount(Some("tmpfs"), disk.0.path(), Some("tmpfs"), flags, Some(options));
    mount(nix::mount::MsFlags::empty(), "size=8m").unwrap();
    let plain = archive(&[("noise", &noise(5, 12 << 20))]);
    let image = image("huge", &[(plain.clone(), &plain)]);
    let registry = fake(&[&image]);
    let root = disk.0.path().join("images");
    let store = store(&root);
    let name = format!("{}/app", registry.address);
    let error = pull(&store, &name).await.unwrap_err();
    assert!(matches!(error, PullError::DiskFull) && error.is_retryable(), "{error:?}");
    nothing_left(&root);
    // Somebody makes room.
    mount(nix::mount::MsFlags::MS_REMOUNT, "size=64m").unwrap();
    pull(&store, &name).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_is_abandoned_leaves_nothing_half_done() {
    let plain = archive(&[("noise", &noise(3, 2_000_000))]);
    let image = image("abandoned", &[(plain.clone(), &plain)]);
    let registry = fake(&[&image]);
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let name: Reference = format!("{}/app", registry.address).parse().unwrap();
    let started = tokio::sync::Notify::new();
    {
        let told = |progress| {
            if matches!(progress, PullProgress::Transferred { .. }) {
                started.notify_one();
            }
        };
        let pull = store.pull(&name, None, &told);
        tokio::select! {
            biased;
            () = started.notified() => {}
            _ = pull => {}
        }
    }
    // The same store goes on at once, whatever the abandoned work is still doing.
    let pulled = pull(&store, &name.to_string()).await.unwrap();
    assert_eq!(std::fs::read(pulled.layers[0].join("noise")).unwrap().len(), 2_000_000);
    nothing_left(root.path());
}
