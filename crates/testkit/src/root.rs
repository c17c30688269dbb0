//! A root file system for test images, from Debian's static busybox.

use std::path::{Path, PathBuf};

/// The tar of a root file system with busybox and the usual accounts.
///
/// # Panics
/// When busybox is not installed: `apt-get install busybox-static`.
#[must_use]
pub fn busybox_tar() -> Vec<u8> {
    let program = ["/bin/busybox", "/usr/bin/busybox"]
        .iter()
        .map(Path::new)
        .find(|path| path.is_file())
        .expect("Debian's package busybox-static is installed");
    let busybox = std::fs::read(program).expect("busybox can be read");
    let applets = std::process::Command::new(program).arg("--list").output().expect("busybox runs");
    let mut archive = tar::Builder::new(Vec::new());
    for directory in ["bin", "dev", "etc", "proc", "root", "sys", "tmp", "var", "www"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(if directory == "tmp" { 0o1777 } else { 0o755 });
        header.set_size(0);
        archive.append_data(&mut header, format!("{directory}/"), std::io::empty()).expect("added");
    }
    let mut file = |path: &str, mode, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode);
        header.set_size(u64::try_from(content.len()).expect("small"));
        archive.append_data(&mut header, path, content).expect("added");
    };
    file("bin/busybox", 0o755, &busybox);
    file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n");
    file("etc/group", 0o644, b"root:x:0:\nnogroup:x:65534:\n");
    for applet in String::from_utf8_lossy(&applets.stdout).lines().filter(|applet| *applet != "busybox") {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        archive.append_link(&mut header, format!("bin/{applet}"), "busybox").expect("added");
    }
    archive.into_inner().expect("finished")
}

/// The same as a file in a directory.
///
/// # Panics
/// When it cannot be written.
#[must_use]
pub fn busybox_tar_file(directory: &Path) -> PathBuf {
    let path = directory.join("busybox.tar");
    std::fs::write(&path, busybox_tar()).expect("written");
    path
}
