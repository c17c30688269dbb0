use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::*;

#[test]
fn numbers_that_people_have_declared_are_read() {
    let names = "# the projects\nweb:1000001\nbroken\n web2 : 1000002 \n:x\n";
    assert_eq!(declared(names, 1), [1_000_001, 1_000_002]);
    let paths = "1000003:/srv/web\n#1000004:/srv\n1000005 : /data\n";
    assert_eq!(declared(paths, 0), [1_000_003, 1_000_005]);
}

#[test]
fn a_file_system_without_project_quotas_says_what_to_do() {
    let place = tempfile::tempdir().unwrap();
    let quotas = ProjectQuotas::open(place.path()).unwrap();
    let Err(error) = quotas.limit(&[place.path()], 1 << 20) else { return };
    let text = error.to_string();
    assert!(
        text.starts_with("--storage-opt is supported only for overlay over xfs with 'pquota' mount option"),
        "{text}"
    );
    assert!(text.contains("prjquota") && text.contains("tune2fs"), "{text}");
    // What was never limited is released, and is no project of its own.
    assert_eq!(quotas.of_snapshot(place.path()).unwrap(), None);
    quotas.release(FIRST).unwrap();
}

/// A new ext4 in a file, mounted in the namespace of this thread alone; `None` where the kernel cannot count projects.
fn mounted(place: &Path) -> Option<PathBuf> {
    let (image, root) = (place.join("image"), place.join("root"));
    File::create(&image).unwrap().set_len(64 << 20).unwrap();
    fs::create_dir(&root).unwrap();
    let made = Command::new("mkfs.ext4").args(["-q", "-O", "project,quota"]).arg(&image).status();
    if !made.is_ok_and(|status| status.success()) {
        return None;
    }
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    // The device goes with the mount, and that with the thread.
    let done = Command::new("mount").args(["-o", "loop,prjquota"]).args([&image, &root]).output().unwrap();
    done.status.success().then_some(root)
}

/// Whether somebody whom limits hold for can write so many KiB. They hold for nobody with CAP_SYS_RESOURCE, which overlayfs
/// never uses for who writes to it.
fn write(path: &Path, kibibytes: u32) -> bool {
    let (to, count) = (format!("of={}", path.display()), format!("count={kibibytes}"));
    let done = Command::new("dd").args(["if=/dev/zero", "bs=1k", &to, &count]).uid(65534).gid(65534).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success() || said.contains("quota exceeded") || said.contains("No space left"), "{said}");
    done.status.success()
}

#[test]
fn a_limit_is_in_force_is_found_again_and_goes() {
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    std::thread::scope(|scope| {
        let test = scope.spawn(|| {
            let Some(root) = mounted(place.path()) else {
                #[allow(clippy::print_stderr, reason = "who runs the tests must see that this was left out")]
                {
                    eprintln!(
                        "this kernel has no project quotas for ext4: the virtual machine tries them (phase `sizing`)"
                    );
                }
                return;
            };
            let make = |name: &str| {
                let home = root.join(name);
                for part in ["upper", "work"] {
                    fs::create_dir_all(home.join(part)).unwrap();
                    fs::set_permissions(home.join(part), fs::Permissions::from_mode(0o777)).unwrap();
                }
                home
            };
            let quotas = ProjectQuotas::open(&root).unwrap();
            let limit = |home: &Path| {
                let (upper, work) = (home.join("upper"), home.join("work"));
                quotas.limit(&[&upper, &work], 1 << 20).unwrap()
            };
            let (one, two) = (make("one"), make("two"));
            limit(&one).keep();
            limit(&two).keep();
            let number = |home: &Path| quotas.of_snapshot(home).unwrap();
            assert_eq!((number(&one), number(&two)), (Some(FIRST), Some(FIRST + 1)));
            // Both directories of a snapshot count together, and not those of others.
            assert!(write(&one.join("work/half"), 512));
            assert!(!write(&one.join("upper/large"), 600));
            assert!(write(&two.join("upper/large"), 600));
            fs::rename(one.join("work/half"), one.join("upper/half")).unwrap();

            // Somebody else who opens it finds what is there; what is given up is free.
            let again = ProjectQuotas::open(&root).unwrap();
            assert_eq!(again.of_snapshot(&one).unwrap(), Some(FIRST));
            drop(again.limit(&[], 1 << 20).unwrap());
            assert_eq!(again.limit(&[], 1 << 20).unwrap().number, FIRST + 2, "those with files are nobody else's");
            again.release(FIRST).unwrap();
            assert!(write(&one.join("upper/large"), 2048));
            fs::remove_dir_all(&one).unwrap();
            assert_eq!(again.limit(&[], 1 << 20).unwrap().number, FIRST);
            drop((quotas, again));
            umount2(&root, MntFlags::MNT_DETACH).unwrap();
        });
        test.join().unwrap();
    });
}
