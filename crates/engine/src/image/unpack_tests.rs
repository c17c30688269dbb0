use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

use proptest::prelude::*;

use super::*;

/// An archive under construction, with full control of names.
#[derive(Default)]
struct Archive(Vec<u8>);

impl Archive {
    fn add(mut self, entry_type: tar::EntryType, path: &str, link: &str, data: &[u8]) -> Self {
        self.push(entry_type, path, link, 0o644, data, &[]);
        self
    }

    fn file(self, path: &str, data: &[u8]) -> Self {
        self.add(tar::EntryType::Regular, path, "", data)
    }

    fn directory(self, path: &str) -> Self {
        self.add(tar::EntryType::Directory, path, "", b"")
    }

    fn symlink(self, path: &str, target: &str) -> Self {
        self.add(tar::EntryType::Symlink, path, target, b"")
    }

    fn hard_link(self, path: &str, target: &str) -> Self {
        self.add(tar::EntryType::Link, path, target, b"")
    }

    fn push(
        &mut self,
        entry_type: tar::EntryType,
        path: &str,
        link: &str,
        mode: u32,
        data: &[u8],
        pax: &[(&str, &[u8])],
    ) {
        let mut records = Vec::new();
        let named: [(&str, &[u8]); 2] = [("path", path.as_bytes()), ("linkpath", link.as_bytes())];
        for (key, value) in named.iter().chain(pax) {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            records.extend_from_slice(format!("{length} {key}=").as_bytes());
            records.extend_from_slice(value);
            records.push(b'\n');
        }
        self.block(tar::EntryType::XHeader, 0, &records);
        self.block(entry_type, mode, data);
    }

    fn block(&mut self, entry_type: tar::EntryType, mode: u32, data: &[u8]) {
        let mut header = tar::Header::new_ustar();
        header.set_path("x").unwrap();
        header.set_size(data.len() as u64);
        header.set_mode(mode);
        header.set_uid(12);
        header.set_gid(34);
        header.set_mtime(1_000_000);
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
        header.set_entry_type(entry_type);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    /// Unpacks into `layer` of a fresh directory, beside which `outside` lies.
    fn unpack(&self) -> (tempfile::TempDir, PathBuf, Result<Unpacked, UnpackError>) {
        let temporary = tempfile::tempdir().unwrap();
        let root = temporary.path().join("layer");
        std::fs::create_dir(&root).unwrap();
        std::fs::create_dir(temporary.path().join("outside")).unwrap();
        std::fs::write(temporary.path().join("outside/secret"), b"secret").unwrap();
        let answer = unpack(&mut TarReader::new(self.0.as_slice()), &root, UnpackLimits::default());
        (temporary, root, answer)
    }

    fn unpacked(&self) -> (tempfile::TempDir, PathBuf) {
        let (temporary, root, answer) = self.unpack();
        answer.unwrap();
        (temporary, root)
    }
}

fn attribute(path: &Path, name: &CStr) -> Option<Vec<u8>> {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let mut value = [0u8; 256];
    // SAFETY: both texts end with a zero byte and `value` is as long as stated.
    let length = unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    usize::try_from(length).ok().map(|length| value[..length].to_vec())
}

/// Everything under a directory: what it is and what it holds, without following links.
fn tree(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let kind = path.symlink_metadata().unwrap().file_type();
            let text = if kind.is_dir() {
                left.push(path.clone());
                "directory".to_owned()
            } else if kind.is_symlink() {
                format!("-> {}", path.read_link().unwrap().display())
            } else if kind.is_file() {
                String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned()
            } else {
                "node".to_owned()
            };
            found.insert(path.strip_prefix(root).unwrap().to_owned(), text);
        }
    }
    found
}

#[test]
fn ownership_modes_times_and_attributes_are_kept() {
    let capability = [1u8, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut archive = Archive::default();
    archive.push(tar::EntryType::Directory, "d/", "", 0o1777, b"", &[("mtime", b"1000.5")]);
    let pax: [(&str, &[u8]); 5] = [
        ("mtime", b"1700000000.123456789"),
        ("SCHILY.xattr.user.note", b"line\nline"),
        ("SCHILY.xattr.security.capability", &capability),
        ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.security.selinux", b"label"),
    ];
    archive.push(tar::EntryType::Regular, "d/program", "", 0o6755, b"#!", &pax);
    archive.push(tar::EntryType::Char, "d/null", "", 0o666, b"", &[]);
    archive.push(tar::EntryType::Fifo, "d/pipe", "", 0o600, b"", &[]);
    let archive = archive.symlink("d/link", "../nowhere").hard_link("d/second", "/d/program");
    let (_temporary, root) = archive.unpacked();

    let program = root.join("d/program").metadata().unwrap();
    assert_eq!((program.mode() & 0o7777, program.uid(), program.gid()), (0o6755, 12, 34));
    assert_eq!((program.mtime(), program.mtime_nsec()), (1_700_000_000, 123_456_789));
    assert_eq!(program.nlink(), 2);
    assert_eq!(program.ino(), root.join("d/second").metadata().unwrap().ino());
    assert_eq!(attribute(&root.join("d/program"), c"user.note").unwrap(), b"line\nline");
    assert_eq!(attribute(&root.join("d/program"), c"security.capability").unwrap(), capability);
    assert_eq!(attribute(&root.join("d/program"), c"trusted.overlay.redirect"), None);
    let directory = root.join("d").metadata().unwrap();
    assert_eq!((directory.mode() & 0o7777, directory.mtime(), directory.mtime_nsec()), (0o1777, 1000, 500_000_000));
    let link = root.join("d/link").symlink_metadata().unwrap();
    assert_eq!((link.uid(), link.mtime()), (12, 1_000_000));
    let device = root.join("d/null").symlink_metadata().unwrap();
    assert!(device.file_type().is_char_device());
    assert_eq!((device.rdev(), device.mode() & 0o7777), (makedev(1, 3), 0o666));
    assert!(root.join("d/pipe").symlink_metadata().unwrap().file_type().is_fifo());
}

#[test]
fn whiteouts_become_overlayfs_ones_and_spare_their_own_layer() {
    let archive = Archive::default()
        .file("a/.wh.gone", b"")
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque/new", b"new")
        .file("own", b"own")
        .file(".wh.own", b"")
        .directory("own_directory")
        .file(".wh.own_directory", b"")
        .file(".wh.later", b"")
        .directory("later")
        .file(".wh..wh.plnk", b"")
        .file(".wh.replaced", b"")
        .file("replaced", b"replaced");
    let (_temporary, root) = archive.unpacked();
    let gone = root.join("a/gone").symlink_metadata().unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    let opaque = |path: &str| attribute(&root.join(path), c"trusted.overlay.opaque");
    assert_eq!(opaque("opaque").unwrap(), b"y");
    assert_eq!(opaque("own_directory").unwrap(), b"y");
    assert_eq!(opaque("later").unwrap(), b"y");
    assert_eq!(opaque("a"), None);
    assert_eq!(std::fs::read(root.join("own")).unwrap(), b"own");
    assert_eq!(std::fs::read(root.join("replaced")).unwrap(), b"replaced");
    assert!(!tree(&root).keys().any(|path| path.to_string_lossy().contains(".wh.")));
}

#[test]
fn a_later_entry_takes_the_place_of_an_earlier_one() {
    let archive = Archive::default()
        .directory("x")
        .file("x/deep/file", b"1")
        .file("x", b"now a file")
        .file("y", b"1")
        .directory("y")
        .file("y/inside", b"2")
        .file("z", b"1")
        .symlink("z", "y")
        .file("z", b"2")
        .file("twin", b"same")
        .hard_link("twin", "twin");
    let (_temporary, root) = archive.unpacked();
    let found = tree(&root);
    assert_eq!(found[Path::new("x")], "now a file");
    assert_eq!(found[Path::new("y/inside")], "2");
    assert_eq!(found[Path::new("z")], "2");
    assert_eq!(found[Path::new("twin")], "same");
}

#[test]
fn links_lead_to_the_layers_own_root_and_missing_directories_are_made_there() {
    let archive = Archive::default()
        .symlink("run", "/var/run")
        .file("run/a", b"1")
        .symlink("up", "../../../../outside")
        .file("up/b", b"2")
        .directory("d/e")
        .symlink("d/e/relative", "../f")
        .file("d/e/relative/c", b"3");
    let (temporary, root) = archive.unpacked();
    let found = tree(&root);
    assert_eq!(found[Path::new("var/run/a")], "1");
    assert_eq!(found[Path::new("outside/b")], "2");
    assert_eq!(found[Path::new("d/f/c")], "3");
    assert_eq!(std::fs::read_dir(temporary.path().join("outside")).unwrap().count(), 1);
}

#[test]
fn a_file_has_its_holes() {
    let mut archive = Archive::default();
    let pax: [(&str, &[u8]); 2] = [("GNU.sparse.size", b"10000000"), ("GNU.sparse.map", b"5000000,3")];
    archive.push(tar::EntryType::Regular, "sparse", "", 0o644, b"abc", &pax);
    let (_temporary, root) = archive.unpacked();
    let found = root.join("sparse").metadata().unwrap();
    assert_eq!(found.len(), 10_000_000);
    assert!(found.blocks() * 512 < 1_000_000);
    assert_eq!(&std::fs::read(root.join("sparse")).unwrap()[5_000_000..5_000_004], b"abc\0");
}

#[test]
fn what_cannot_be_right_is_refused() {
    let many = "d/".repeat(300) + "f";
    for (archive, told) in [
        (Archive::default().file("a/..", b""), "`..`"),
        (Archive::default().file("d/.wh.", b""), "whiteout"),
        (Archive::default().file("d/.wh...", b""), "whiteout"),
        (Archive::default().symlink("a", "b").symlink("b", "a").file("a/f", b""), "directory of"),
        (Archive::default().file("f", b"").file("f/below", b""), "directory of"),
        (Archive::default().hard_link("a", "missing"), "target of the hard link"),
        (Archive::default().directory("d").hard_link("a", "d"), "cannot name a directory"),
        (Archive::default().hard_link("a", "/"), "cannot name the root"),
        (Archive::default().file(".", b"x"), "root can only be a directory"),
        (Archive::default().file(&many, b""), "too deep"),
        (Archive::default().file(&"x".repeat(5000), b""), "too long"),
        (Archive::default().add(tar::EntryType::new(b'Z'), "f", "", b""), "type is unknown"),
        (Archive::default().symlink("/", "/etc"), "root"),
    ] {
        let (_temporary, _root, answer) = archive.unpack();
        let text = match answer {
            Err(error) => error.to_string(),
            Ok(_) => String::new(),
        };
        assert!(text.contains(told), "expected `{told}`, got `{text}`");
    }
}

#[test]
fn limits_hold() {
    let archive = Archive::default().file("a", b"12345").file("b", b"12345");
    let unpack_within = |limits| {
        let root = tempfile::tempdir().unwrap();
        unpack(&mut TarReader::new(archive.0.as_slice()), root.path(), limits).map_err(|error| error.to_string())
    };
    assert!(unpack_within(UnpackLimits { entries: 2, bytes: 10 }).is_ok());
    assert_eq!(unpack_within(UnpackLimits { entries: 1, bytes: 10 }).unwrap_err(), "the layer has more than 1 entries");
    assert_eq!(unpack_within(UnpackLimits { entries: 2, bytes: 9 }).unwrap_err(), "the layer has more than 9 bytes");
}

/// Names and link targets that try to get out, in any combination.
fn hostile_path() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        Just("a"),
        Just("b"),
        Just("c"),
        Just(".."),
        Just("."),
        Just(""),
        Just("outside"),
        Just("secret"),
        Just(".wh.a"),
        Just(".wh..wh..opq"),
        Just(".wh.outside")
    ];
    (prop::bool::ANY, prop::collection::vec(part, 1..6))
        .prop_map(|(absolute, parts)| format!("{}{}", if absolute { "/" } else { "" }, parts.join("/")))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn nothing_outside_is_touched(
        entries in prop::collection::vec((0u8..6, hostile_path(), hostile_path()), 1..14)
    ) {
        let mut archive = Archive::default();
        for (kind, path, link) in &entries {
            archive = match kind {
                0 => archive.file(path, b"hostile"),
                1 => archive.directory(path),
                2 => archive.symlink(path, link),
                3 => archive.hard_link(path, link),
                4 => archive.symlink(path, &format!("../{link}")),
                _ => archive.add(tar::EntryType::Fifo, path, "", b""),
            };
        }
        // Whatever becomes of the layer, an error included.
        let (temporary, root, _) = archive.unpack();
        let mut around = tree(temporary.path());
        around.retain(|path, _| !path.starts_with("layer"));
        let expected = BTreeMap::from([
            (PathBuf::from("outside"), "directory".to_owned()),
            (PathBuf::from("outside/secret"), "secret".to_owned()),
        ]);
        prop_assert_eq!(around, expected);
        let secret = temporary.path().join("outside/secret").metadata().unwrap();
        prop_assert_eq!((secret.nlink(), secret.uid()), (1, nix::unistd::getuid().as_raw()));
        // What is left can be removed, however strange it is.
        crate::snapshot::removal::remove_tree(&root).unwrap();
        prop_assert!(!root.exists());
    }
}
