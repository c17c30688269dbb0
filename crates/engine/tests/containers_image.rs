//! Containers from images of the real store: imported, snapshotted, run, adopted by the next engine.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in its helpers too")]

mod support;

use stack_engine::container::ContainerState;
use stack_engine::image::{ImportChanges, RegistryConfig};
use stack_engine::network::NetworkConfig;
use stack_engine::{Engine, EngineConfig, RemoveOptions};
use support::{config, shell, with_host};

fn archive() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let busybox = std::fs::read("/bin/busybox").unwrap();
    for (path, bytes, mode) in
        [("bin/sh", busybox.as_slice(), 0o755), ("etc/passwd", b"web:x:33:44::/:/bin/sh\n", 0o644)]
    {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len().try_into().unwrap());
        header.set_mode(mode);
        tar.append_data(&mut header, path, bytes).unwrap();
    }
    tar.into_inner().unwrap()
}

#[test]
fn an_imported_image_runs_with_its_own_settings() {
    with_host("image", async |host| {
        let settings = EngineConfig {
            containers: config(&host.root.join("real"), &host.cgroup),
            registry: RegistryConfig::default(),
            network: NetworkConfig::default(),
        };
        let engine = Engine::open(settings).await.unwrap();
        let changes = ImportChanges {
            user: Some("web".to_owned()),
            env: vec!["PATH=/bin".to_owned(), "GREETING=hello".to_owned()],
            cmd: Some(["sh", "-c", "echo $GREETING; exit 11"].map(str::to_owned).to_vec()),
            working_dir: Some("/made/here".to_owned()),
            ..ImportChanges::default()
        };
        engine
            .images()
            .import(std::io::Cursor::new(archive()), Some(&"made:1".parse().unwrap()), changes)
            .await
            .unwrap();
        let mut from_image = shell("");
        from_image.image = "made:1".to_owned();
        from_image.command = None;
        let id = engine.create(Some("real".parse().unwrap()), from_image.clone()).await.unwrap();
        if let Err(error) = engine.start(&id).await {
            panic!("{}", error.full_text());
        }
        assert_eq!(engine.wait(&id).await.unwrap().code, 11);
        assert!(matches!(engine.inspect(&id).unwrap().state, ContainerState::Exited(_)));
        from_image.image = "not:there".to_owned();
        let error = engine.create(None, from_image).await.unwrap_err();
        assert!(error.is_retryable() && error.to_string().contains("root file system"), "{error}");
        engine.remove(&id, RemoveOptions { force: true, volumes: true }).await.unwrap();
        assert!(engine.list().is_empty());
    });
}
