//! Images from archives and root file systems, and snapshots of them, on the real file system and kernel.
#![allow(clippy::unwrap_used, reason = "what a test needs and does not get ends it here")]

mod images_support;

use std::ffi::{CString, c_char, c_int, c_void};
use std::io::Cursor;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use images_support::*;
use stack_engine::content::Digest;
use stack_engine::image::{
    GetError, ImageStore, ImportChanges, LoadError, Origin, PruneScope, Reference, RemoveError, SelectError,
};
use stack_engine::snapshot::{OverlayMount, SnapshotError, Snapshots};

fn nobody(_: &Digest) -> Option<String> {
    None
}

async fn load(store: &ImageStore, archive: Vec<u8>) -> Result<Vec<stack_engine::image::Image>, LoadError> {
    store.load(Cursor::new(archive)).await
}

/// Runs `work` with the overlay mounted at a path that only its thread sees; the mount ends with the thread.
fn with_mounted<T: Send>(mount: &OverlayMount, work: impl FnOnce(&Path) -> T + Send) -> T {
    let target = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            use nix::mount::{MsFlags, mount as mount_call};
            use nix::sched::{CloneFlags, unshare};
            unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
            mount_call(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
            mount_overlay(mount, target.path());
            work(target.path())
        });
        match thread.join() {
            Ok(answer) => answer,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// fsopen, fsconfig for each directory, fsmount, move_mount.
fn mount_overlay(mount: &OverlayMount, target: &Path) {
    const FSCONFIG_SET_STRING: c_int = 1;
    const FSCONFIG_CMD_CREATE: c_int = 6;
    let answer = |answer: i64| c_int::try_from(nix::errno::Errno::result(answer).unwrap()).unwrap();
    let none = std::ptr::null::<c_char>();
    let text = |path: &Path| CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: every text ends with a zero byte and outlives its call; unused pointers are null as the calls want.
    unsafe {
        let context = answer(libc::syscall(libc::SYS_fsopen, c"overlay".as_ptr(), 0));
        let set = |key: &std::ffi::CStr, path: &Path| {
            let path = text(path);
            answer(libc::syscall(libc::SYS_fsconfig, context, FSCONFIG_SET_STRING, key.as_ptr(), path.as_ptr(), 0));
        };
        for lower in &mount.lower {
            set(c"lowerdir+", lower);
        }
        set(c"upperdir", &mount.upper);
        set(c"workdir", &mount.work);
        answer(libc::syscall(libc::SYS_fsconfig, context, FSCONFIG_CMD_CREATE, none, std::ptr::null::<c_void>(), 0));
        let mounted = answer(libc::syscall(libc::SYS_fsmount, context, 0, 0));
        let target = text(target);
        const MOVE_MOUNT_F_EMPTY_PATH: c_int = 4;
        let moved = libc::syscall(
            libc::SYS_move_mount,
            mounted,
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        );
        answer(moved);
        libc::close(mounted);
        libc::close(context);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saved_image_is_loaded_and_its_snapshot_shows_the_merged_layers() {
    let root = tempfile::tempdir().unwrap();
    let store = store(&root.path().join("images"));
    let lower = archive(&[
        ("./", b""),
        ("etc/", b""),
        ("etc/keep", b"keep"),
        ("etc/gone", b"gone"),
        ("old/", b""),
        ("old/file", b"x"),
        ("dir/", b""),
        ("dir/a", b"a"),
    ]);
    let upper = archive(&[
        ("etc/", b""),
        ("etc/.wh.gone", b""),
        ("etc/new", b"new"),
        ("old/", b""),
        ("old/.wh..wh..opq", b""),
        (".wh.dir", b""),
        ("dir/", b""),
        ("dir/b", b"b"),
    ]);
    let image = image("merged", &[(lower.clone(), &lower), (upper.clone(), &upper)]);
    let loaded = load(&store, gzip(&docker_archive(&image, &["app:1", "localhost:5000/app:2"]))).await.unwrap();
    assert_eq!(loaded.len(), 1);
    assert_eq!(loaded[0].references, ["docker.io/library/app:1", "localhost:5000/app:2"]);
    assert_eq!(loaded[0].origin, Origin::Loaded);
    assert_eq!(loaded[0].id, Digest::of(&image.config));
    assert_eq!(loaded[0].raw_config, image.config);
    assert_eq!(loaded[0].layers.len(), 2);

    let found = store.get("app:1").unwrap();
    assert_eq!(found.digest, loaded[0].digest);
    assert_eq!(found.config.config().as_ref().unwrap().cmd().as_ref().unwrap(), &["/bin/run"]);

    let snapshots = Snapshots::open(&root.path().join("snapshots")).unwrap();
    let mount = snapshots.prepare("web-1", &found, None).unwrap();
    assert!(matches!(snapshots.prepare("web-1", &found, None), Err(SnapshotError::Exists { .. })));
    with_mounted(&mount, |merged| {
        assert_eq!(text(&merged.join("etc/keep")), "keep");
        assert_eq!(text(&merged.join("etc/new")), "new");
        assert!(!merged.join("etc/gone").exists());
        assert!(merged.join("old").exists() && !merged.join("old/file").exists());
        assert!(!merged.join("dir/a").exists(), "a directory that replaces a removed one hides what that held");
        assert_eq!(text(&merged.join("dir/b")), "b");
        std::fs::write(merged.join("etc/written"), b"by the container").unwrap();
        std::fs::remove_file(merged.join("etc/keep")).unwrap();
    });
    let again = Snapshots::open(&root.path().join("snapshots")).unwrap();
    assert_eq!(again.list().unwrap(), ["web-1"]);
    assert_eq!(again.get("web-1").unwrap(), mount);
    with_mounted(&mount, |merged| {
        assert_eq!(text(&merged.join("etc/written")), "by the container");
        assert!(!merged.join("etc/keep").exists());
    });
    assert_eq!(text(&found.layers[0].join("etc/keep")), "keep", "the image itself is unchanged");
    snapshots.remove("web-1").unwrap();
    snapshots.remove("web-1").unwrap();
    assert!(matches!(snapshots.get("web-1"), Err(SnapshotError::Missing { .. })));
    assert_eq!(files_below(&root.path().join("snapshots")), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_directory_has_the_images_mode_and_owner() {
    let root = tempfile::tempdir().unwrap();
    let store = store(&root.path().join("images"));
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o1770);
    header.set_uid(7);
    header.set_gid(8);
    header.set_size(0);
    builder.append_data(&mut header, "./", &[][..]).unwrap();
    let described = builder.into_inner().unwrap();
    let above = archive(&[("file", b"x")]);
    let image = image("root", &[(described.clone(), &described), (above.clone(), &above)]);
    let loaded = load(&store, docker_archive(&image, &["a"])).await.unwrap();
    let snapshots = Snapshots::open(&root.path().join("snapshots")).unwrap();
    let mount = snapshots.prepare("a", &loaded[0], None).unwrap();
    with_mounted(&mount, |merged| {
        let found = merged.metadata().unwrap();
        assert_eq!((found.permissions().mode() & 0o7777, found.uid(), found.gid()), (0o1770, 7, 8));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_layers_and_one_of_very_many_can_be_mounted() {
    let root = tempfile::tempdir().unwrap();
    let store = store(&root.path().join("images"));
    let snapshots = Snapshots::open(&root.path().join("snapshots")).unwrap();
    let none = image("none", &[]);
    let loaded = load(&store, oci_layout(&[(&none, Some("none:1"))])).await.unwrap();
    let mount = snapshots.prepare("none", &loaded[0], None).unwrap();
    with_mounted(&mount, |merged| assert_eq!(std::fs::read_dir(merged).unwrap().count(), 0));

    let layers: Vec<_> = (0..120).map(|number| archive(&[(&format!("file{number}"), b"x")])).collect();
    let layers: Vec<_> = layers.iter().map(|layer| (layer.clone(), layer.as_slice())).collect();
    let many = image("many", &layers);
    let loaded = load(&store, oci_layout(&[(&many, Some("many:1"))])).await.unwrap();
    let mount = snapshots.prepare("many", &loaded[0], None).unwrap();
    assert!(mount.lower[0].ends_with(Path::new(Digest::of(layers[119].1).hex()).join("root")), "top first");
    with_mounted(&mount, |merged| assert_eq!(std::fs::read_dir(merged).unwrap().count(), 120));
}

#[tokio::test(flavor = "multi_thread")]
async fn links_in_archives_lead_to_layers_and_indexes_to_images() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    assert_eq!(root.path().metadata().unwrap().mode() & 0o7777, 0o700);
    // As `docker save` wrote a layer that occurs twice.
    let plain = archive(&[("file", b"x")]);
    let twice = image("twice", &[(plain.clone(), &plain), (plain.clone(), &plain)]);
    let listing = br#"[{"Config":"c.json","RepoTags":["twice:1"],"Layers":["a/layer.tar","b/layer.tar"]}]"#;
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    for (name, content) in [("manifest.json", &listing[..]), ("c.json", &twice.config), ("a/layer.tar", &plain)] {
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, content).unwrap();
    }
    header.set_size(0);
    header.set_entry_type(tar::EntryType::Symlink);
    builder.append_link(&mut header, "b/layer.tar", "../a/layer.tar").unwrap();
    let loaded = load(&store, builder.into_inner().unwrap()).await.unwrap();
    assert_eq!(loaded[0].references, ["docker.io/library/twice:1"]);
    assert_eq!(loaded[0].layers[0], loaded[0].layers[1]);

    // An archive of more files than a process may usually have open.
    let names: Vec<_> = (0..1500).map(|number| format!("junk/{number}")).collect();
    let mut files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b"x"[..])).collect();
    let config_name = "config.json";
    let listing = br#"[{"Config":"config.json","RepoTags":["many:1"],"Layers":["layer"]}]"#;
    let single = small_image("many files");
    files.extend([(config_name, &single.config[..]), ("layer", &single.layers[0]), ("manifest.json", listing)]);
    let (soft, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, soft.min(1024), hard).unwrap();
    load(&store, archive(&files)).await.unwrap();

    // As buildx exports: an index in the index, with an attestation beside the image.
    let (mine, other) = (small_image("mine"), small_image("other"));
    let mut entry = descriptor(OCI_MANIFEST, &mine.manifest);
    entry["platform"] = serde_json::json!({ "architecture": architecture(), "os": "linux" });
    let mut attestation = descriptor(OCI_MANIFEST, &other.manifest);
    attestation["platform"] = serde_json::json!({ "architecture": "unknown", "os": "unknown" });
    let inner = serde_json::json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [attestation, entry] });
    let inner = inner.to_string().into_bytes();
    let mut outer = descriptor(OCI_INDEX, &inner);
    outer["annotations"] = serde_json::json!({ "io.containerd.image.name": "registry.example/nested:1",
        "org.opencontainers.image.ref.name": "1" });
    let outer = serde_json::json!({ "schemaVersion": 2, "manifests": [outer] }).to_string();
    let blob = |content: &[u8]| format!("blobs/sha256/{}", Digest::of(content).hex());
    let layout = archive(&[
        (&blob(&inner), &inner),
        (&blob(&mine.manifest), &mine.manifest),
        (&blob(&mine.config), &mine.config),
        (&blob(&mine.layers[0]), &mine.layers[0]),
        ("index.json", outer.as_bytes()),
        ("oci-layout", b"{}"),
    ]);
    let loaded = load(&store, layout).await.unwrap();
    assert_eq!(loaded[0].digest, Digest::of(&mine.manifest));
    assert_eq!(loaded[0].indexes, [Digest::of(&inner)]);
    assert_eq!(loaded[0].references, ["registry.example/nested:1"]);
    assert_eq!(store.get(Digest::of(&inner).as_str()).unwrap().digest, loaded[0].digest);
}

/// A small file system of its own, unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(options: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("tmpfs"), directory.path(), Some("tmpfs"), flags, Some(options)).unwrap();
        Self(directory)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_heals() {
    let disk = SmallDisk::new("size=16m");
    let store = store(&disk.0.path().join("images"));
    let (small, huge) = (small_image("small"), archive(&[("noise", &noise(9, 20 << 20))]));
    let huge = image("huge", &[(huge.clone(), &huge)]);
    let error = load(&store, oci_layout(&[(&huge, Some("huge:1"))])).await.unwrap_err();
    assert!(matches!(error, LoadError::DiskFull), "{error:?}");
    let error = store.import(Cursor::new(huge.layers[0].clone()), None, ImportChanges::default()).await.unwrap_err();
    assert!(matches!(error, LoadError::DiskFull), "{error:?}");
    // Compressed it fits, unpacked it does not.
    let zeros = archive(&[("zeros", &vec![0; 20 << 20])]);
    let zeros = image("zeros", &[(gzip(&zeros), &zeros)]);
    let error = load(&store, oci_layout(&[(&zeros, Some("zeros:1"))])).await.unwrap_err();
    assert!(matches!(error, LoadError::DiskFull), "{error:?}");
    load(&store, oci_layout(&[(&small, Some("small:1"))])).await.unwrap();
    assert_eq!(store.list().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_repaired_by_fetching_again() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let image = small_image("damaged");
    let layout = oci_layout(&[(&image, Some("damaged:1"))]);
    let loaded = load(&store, layout.clone()).await.unwrap();
    std::fs::write(root.path().join("blobs/sha256").join(loaded[0].id.hex()), b"{}").unwrap();
    assert!(matches!(store.get("damaged:1"), Err(GetError::Damaged { .. })));
    load(&store, layout.clone()).await.unwrap();
    store.get("damaged:1").unwrap();
    std::fs::remove_file(loaded[0].layers[0].parent().unwrap().join("layer.json")).unwrap();
    assert!(matches!(store.get("damaged:1"), Err(GetError::Damaged { .. })));
    load(&store, layout).await.unwrap();
    assert_eq!(text(&store.get("damaged:1").unwrap().layers[0].join("bin/run")), "damaged");
}

#[test]
fn a_snapshots_name_leads_nowhere_else() {
    let root = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::open(root.path()).unwrap();
    for id in ["", "..", ".hidden", "a/b", "/etc", "a\0b", &"x".repeat(200)] {
        assert!(matches!(snapshots.get(id), Err(SnapshotError::BadName { .. })), "{id}");
        assert!(matches!(snapshots.remove(id), Err(SnapshotError::BadName { .. })), "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_content_has_the_same_digest_on_every_host() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (here, there) = (store(one.path()), store(other.path()));
    let image = small_image("same");
    let saved = docker_archive(&image, &["a"]);
    let first = load(&here, saved.clone()).await.unwrap();
    let second = load(&there, zstandard(&saved)).await.unwrap();
    assert_eq!(first[0].digest, second[0].digest);
    let layout = load(&here, oci_layout(&[(&image, Some("docker.io/library/b:1"))])).await.unwrap();
    assert_eq!(layout[0].digest, Digest::of(&image.manifest), "a layout keeps the manifest as it is");
    assert!(layout[0].references.contains(&"docker.io/library/b:1".to_owned()));

    let tar = archive(&[("bin/", b""), ("bin/run", b"program")]);
    let changes = || ImportChanges {
        cmd: Some(vec!["/bin/run".into()]),
        env: vec!["A=b".into()],
        exposed_ports: vec!["80".into()],
        ..ImportChanges::default()
    };
    let name: Reference = "made:1".parse().unwrap();
    let first = here.import(Cursor::new(tar.clone()), Some(&name), changes()).await.unwrap();
    let second = there.import(Cursor::new(gzip(&tar)), None, changes()).await.unwrap();
    assert_eq!(first.digest, second.digest);
    assert_eq!(
        (first.origin, first.references.as_slice()),
        (Origin::Imported, &["docker.io/library/made:1".to_owned()][..])
    );
    assert_eq!(second.references.len(), 0);
    let config = first.config.config().as_ref().unwrap().clone();
    assert_eq!(config.exposed_ports().as_ref().unwrap(), &["80/tcp"]);
    assert_eq!(text(&first.layers[0].join("bin/run")), "program");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_come_and_go_and_the_last_takes_the_image() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let (one, two) = (small_image("one"), small_image("two"));
    let loaded = load(&store, oci_layout(&[(&one, Some("one:1")), (&two, Some("two:1"))])).await.unwrap();
    assert_eq!(loaded.len(), 2);
    assert_eq!(store.list().unwrap().len(), 2);
    let blobs_before = files_below(&root.path().join("blobs"));
    store.tag("one:1", &"registry.example/other:v2".parse().unwrap()).unwrap();
    assert_eq!(store.get("one:1").unwrap().references.len(), 2);

    let used = |digest: &Digest| (*digest == Digest::of(&one.manifest)).then(|| "task web.1".to_owned());
    let removed = store.remove("one:1", &used).await.unwrap();
    assert_eq!((removed.untagged.len(), removed.deleted.len()), (1, 0), "one name of two needs no permission");
    let error = store.remove("registry.example/other:v2", &used).await.unwrap_err();
    assert!(matches!(&error, RemoveError::InUse { user, .. } if user == "task web.1"), "{error}");
    let lease = store.lease(&Digest::of(&one.manifest)).unwrap();
    let removed = store.remove("registry.example/other:v2", &nobody).await.unwrap();
    assert_eq!(removed.deleted, [Digest::of(&one.manifest)]);
    assert!(matches!(store.get("one:1"), Err(GetError::Select(SelectError::Missing { .. }))));
    assert_eq!(files_below(&root.path().join("blobs")), blobs_before, "a lease keeps content");
    drop(lease);
    let removed = store.prune(PruneScope::Unnamed, &nobody).await.unwrap();
    assert_eq!(removed.deleted.len(), 0);
    assert!(removed.freed_bytes > 0);
    assert_eq!(files_below(&root.path().join("blobs")), blobs_before - 3);
    assert_eq!(store.get("two:1").unwrap().layers.len(), 1);

    // A name that moves leaves its image without one; that is what a prune takes.
    let newer = small_image("newer");
    load(&store, oci_layout(&[(&newer, Some("two:1"))])).await.unwrap();
    assert_eq!(store.get("two:1").unwrap().digest, Digest::of(&newer.manifest));
    let removed = store.prune(PruneScope::Unnamed, &nobody).await.unwrap();
    assert_eq!(removed.deleted, [Digest::of(&two.manifest)]);
    store.prune(PruneScope::Unused, &nobody).await.unwrap();
    assert_eq!(store.list().unwrap().len(), 0);
    for directory in ["blobs", "layers", "ingest", "unpacking", "trash"] {
        assert_eq!(files_below(&root.path().join(directory)), 0, "{directory}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_that_are_no_images_are_refused_and_leave_nothing() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let good = small_image("good");
    let mut lying = small_image("lying");
    lying.layers[0] = gzip(&archive(&[("other", b"")]));
    let cut = {
        let whole = docker_archive(&good, &["a"]);
        whole[..whole.len() / 1024 * 512 + 100].to_vec()
    };
    let mut hostile = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Link);
    header.set_size(0);
    header.set_mode(0o644);
    hostile.append_link(&mut header, "stolen", "/etc/passwd").unwrap();
    let hostile = hostile.into_inner().unwrap();
    let hostile = image("hostile", &[(hostile.clone(), &hostile)]);
    let missing = archive(&[("manifest.json", br#"[{"Config":"x.json","RepoTags":null,"Layers":[]}]"#)]);
    for (archive, told) in [
        (b"not an archive at all, whatever one may think of it".to_vec(), "cannot read the archive"),
        (archive(&[("etc/passwd", b"root")]), "is imported, not loaded"),
        (missing, "lacks `x.json`"),
        (archive(&[("manifest.json", b"{")]), "`manifest.json` of the archive is not valid"),
        (cut, "cannot read the archive"),
        (docker_archive(&lying, &["a"]), "the image's configuration names"),
        (docker_archive(&good, &["Not A Name"]), "a name that is none"),
        (docker_archive(&hostile, &["a"]), "cannot unpack layer"),
    ] {
        let error = load(&store, archive).await.unwrap_err().to_string();
        assert!(error.contains(told), "expected `{told}`, got `{error}`");
    }
    assert_eq!(store.list().unwrap().len(), 0);
    store.prune(PruneScope::Unnamed, &nobody).await.unwrap();
    for directory in ["blobs", "layers", "ingest", "unpacking", "trash"] {
        assert_eq!(files_below(&root.path().join(directory)), 0, "{directory}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_survives_being_opened_again_and_belongs_to_one_process() {
    let root = tempfile::tempdir().unwrap();
    let image = small_image("kept");
    let opened = store(root.path());
    load(&opened, oci_layout(&[(&image, Some("kept:1"))])).await.unwrap();
    assert!(ImageStore::open(root.path(), quick()).is_err(), "two at a time would remove each other's work");
    drop(opened);
    std::fs::create_dir_all(root.path().join("unpacking/layer-dead/root")).unwrap();
    std::fs::write(root.path().join("ingest/blob-dead"), b"half").unwrap();
    let again = store(root.path());
    assert_eq!(again.get("kept:1").unwrap().digest, Digest::of(&image.manifest));
    assert_eq!(files_below(&root.path().join("ingest")), 0);
    assert_eq!(std::fs::read_dir(root.path().join("unpacking")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_and_layers_come_in_every_form() {
    let root = tempfile::tempdir().unwrap();
    let mut imported = Vec::new();
    for (form, compress) in FORMS {
        let store = store(&root.path().join(form));
        let (lower, upper) = (archive(&[("lower", form.as_bytes())]), archive(&[("upper", b"upper")]));
        let made = image(form, &[(compress(&lower), &lower), (compress(&upper), &upper)]);
        let loaded = load(&store, compress(&docker_archive(&made, &["saved:1"]))).await.unwrap();
        assert_eq!(loaded[0].id, Digest::of(&made.config), "{form}");
        let found = store.get("saved:1").unwrap();
        assert_eq!(text(&found.layers[0].join("lower")), form);
        assert_eq!(text(&found.layers[1].join("upper")), "upper");
        let path = root.path().join(form).join("blobs/sha256").join(found.digest.hex());
        let manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let (suffix, stored) = match form {
            "gzip" => ("tar+gzip", gzip(&lower)),
            "Zstandard" => ("tar+zstd", zstandard(&lower)),
            // No registry knows layers of the other forms, so these are stored as they are without them.
            _ => ("tar", lower.clone()),
        };
        assert_eq!(manifest["layers"][0]["mediaType"], format!("application/vnd.oci.image.layer.v1.{suffix}"));
        assert_eq!(manifest["layers"][0]["digest"], serde_json::json!(Digest::of(&stored)));
        // A layout's own manifest stays as it is.
        let loaded = load(&store, compress(&oci_layout(&[(&made, Some("layout:1"))]))).await.unwrap();
        assert_eq!(loaded[0].digest, Digest::of(&made.manifest), "{form}");

        let tar = archive(&[("etc/", b""), ("etc/os-release", b"made")]);
        let read = store.import(Cursor::new(compress(&tar)), None, ImportChanges::default()).await.unwrap();
        assert_eq!(text(&read.layers[0].join("etc/os-release")), "made", "{form}");
        imported.push(read.digest);

        if form != "plain" {
            let cut = |whole: Vec<u8>| whole[..whole.len() - 20].to_vec();
            let error = load(&store, cut(compress(&docker_archive(&made, &["cut:1"])))).await.unwrap_err();
            assert_eq!(chain(&error).last().unwrap(), &format!("the {form} stream is cut off: unexpected EOF"));
            let error =
                store.import(Cursor::new(cut(compress(&tar))), None, ImportChanges::default()).await.unwrap_err();
            assert_eq!(chain(&error).last().unwrap(), &format!("the {form} stream is cut off: unexpected EOF"));
            let mut broken = made;
            broken.layers[0] = cut(broken.layers[0].clone());
            // Where the layer is not there yet.
            let other = self::store(&root.path().join(format!("{form}-broken")));
            let error = load(&other, docker_archive(&broken, &["broken:1"])).await.unwrap_err();
            assert_eq!(chain(&error).last().unwrap(), &format!("the {form} stream is cut off: unexpected EOF"));
        }
    }
    imported.dedup();
    assert_eq!(imported.len(), 1, "an imported image does not depend on how its archive came");
}

/// What an error says, and what is behind it says.
fn chain(error: &dyn std::error::Error) -> Vec<String> {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect()
}
