//! The user namespace of a container: root in it is nobody in particular on the host.
//!
//! A short-lived process, the founder, makes the user namespace and those that it shall own, and the shim says whose ids are
//! its. The container's first process joins these while it is root of the host still, so that everything that needs that is
//! done by it: mounting the layers, making devices, opening files. The user namespace itself it enters last, and takes a copy
//! of its mounts with it, in which the kernel lets nobody undo what was protected.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use stack_shim::credentials;
use stack_shim::launch::{IdRange, Namespaces, Root, Users};
use stack_shim::mount_calls::{clone_tree, map_owners, move_mount};
use stack_shim::protocol::{Failure, FailureKind};

use crate::failing::{During, failing, failure};
use crate::peer::Peers;
use crate::{peer, syscalls};

/// The process that made a user namespace, which is killed when this is dropped: others keep the namespaces.
pub struct Founder {
    process: Pid,
    namespaces: Namespaces,
    held: OwnedFd,
    users: fs::File,
    /// The founder waits for its end to close.
    _conversation: UnixStream,
}

impl Drop for Founder {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = kill(self.process, Signal::SIGKILL);
        let _ = waitpid(self.process, None);
    }
}

impl Founder {
    /// Makes a user namespace, or goes to that of another container, and makes those of `namespaces` that it owns: the
    /// network's, the IPC objects' and the host name's.
    pub fn make(users: &Users, namespaces: Namespaces, peers: &Peers) -> Result<Self, Failure> {
        let step = || "make a user namespace".to_owned();
        let (mut ours, theirs) = UnixStream::pair().during(step)?;
        let Some(pid) = syscalls::clone3(0, None).during(step)? else {
            drop(ours);
            found(users, namespaces, peers, theirs);
        };
        drop(theirs);
        let process = Pid::from_raw(pid);
        let made = (move || -> Result<Self, Failure> {
            hear(&mut ours).map_err(refused)?;
            if users.shared.is_none() {
                let IdRange { first, count } = users.ids;
                for file in ["uid_map", "gid_map"] {
                    fs::write(format!("/proc/{pid}/{file}"), format!("0 {first} {count}"))
                        .during(|| format!("map the ids from {first} on into the user namespace"))?;
                }
            }
            ours.write_all(b"m").during(step)?;
            hear(&mut ours).map_err(refused)?;
            let users = fs::File::open(format!("/proc/{pid}/ns/user")).during(step)?;
            let held = peer::open_process(pid).during(step)?;
            Ok(Self { process, namespaces, held, users, _conversation: ours })
        })();
        if made.is_err() {
            let _ = kill(process, Signal::SIGKILL);
            let _ = waitpid(process, None);
        }
        made
    }

    /// The user namespace, for mapping the owners of files.
    pub fn users(&self) -> BorrowedFd<'_> {
        self.users.as_fd()
    }

    /// Joins the namespaces that it has made, all but the user namespace.
    pub fn join(&self) -> Result<(), Failure> {
        let mut flags = CloneFlags::empty();
        flags.set(CloneFlags::CLONE_NEWNET, self.namespaces.network);
        flags.set(CloneFlags::CLONE_NEWIPC, self.namespaces.ipc);
        flags.set(CloneFlags::CLONE_NEWUTS, self.namespaces.uts);
        if flags.is_empty() {
            return Ok(());
        }
        setns(self.held.as_fd(), flags).during(|| "join the container's own namespaces".to_owned())
    }

    /// Enters the user namespace as its root, with the mounts in a mount namespace that belongs to it.
    pub fn enter(&self) -> Result<(), Failure> {
        let step = || "make the container's mounts its own".to_owned();
        let mounts = clone_tree(None, c"/", true).during(step)?;
        enter(self.held.as_fd())?;
        // The kernel ties the copies of mounts that come from another user namespace to each other, so that nobody can take a
        // single one any more, not the container for what it may and not the engine for copies of files. What was taken
        // before is not tied, and takes the place of the copies.
        unshare(CloneFlags::CLONE_NEWNS).during(step)?;
        let root = fs::File::open("/").during(step)?;
        move_mount(mounts.as_fd(), root.as_fd()).during(step)?;
        crate::mounts::enter(mounts.as_fd())
    }
}

/// Why the founder gave up, in its own words.
fn refused(error: io::Error) -> Failure {
    let limit = "/proc/sys/user/max_user_namespaces";
    let reason = match error.raw_os_error() {
        Some(libc::ENOSPC) => format!("the host allows no more of them, see {limit}: raise it"),
        Some(libc::EINVAL) => "this kernel has none: it was built without CONFIG_USER_NS".to_owned(),
        _ => error.to_string(),
    };
    failure(FailureKind::Kernel, "make a user namespace", reason)
}

/// Hears that a step is done, or the number of the error.
fn hear(founder: &mut UnixStream) -> io::Result<()> {
    let mut number = [0; 4];
    founder.read_exact(&mut number)?;
    match i32::from_ne_bytes(number) {
        0 => Ok(()),
        number => Err(io::Error::from_raw_os_error(number)),
    }
}

/// The founder's life. Until it is killed it does nothing but be in its namespaces.
fn found(users: &Users, namespaces: Namespaces, peers: &Peers, mut shim: UnixStream) -> ! {
    let mut tell = |outcome: io::Result<()>| {
        let number = outcome.err().map_or(0, |error| error.raw_os_error().unwrap_or(libc::EIO));
        // If the shim is gone this ends with it.
        let _ = shim.write_all(&number.to_ne_bytes());
        if number == 0 { shim.read_exact(&mut [0]) } else { Err(io::ErrorKind::Other.into()) }
    };
    let go_there = || -> io::Result<()> {
        syscalls::forbid_dumping()?;
        match users.shared {
            None => unshare(CloneFlags::CLONE_NEWUSER)?,
            Some(other) => {
                let there = peers.get(other).map_err(io::Error::other)?;
                setns(there, CloneFlags::CLONE_NEWUSER)?;
            }
        }
        syscalls::die_with_parent()
    };
    let make_others = || -> io::Result<()> {
        // As root there, to whom things in them belong.
        syscalls::set_user(0, 0, &[])?;
        syscalls::die_with_parent()?;
        let mut flags = CloneFlags::empty();
        flags.set(CloneFlags::CLONE_NEWNET, namespaces.network);
        flags.set(CloneFlags::CLONE_NEWIPC, namespaces.ipc);
        flags.set(CloneFlags::CLONE_NEWUTS, namespaces.uts);
        Ok(unshare(flags)?)
    };
    if tell(go_there()).is_ok() {
        // The shim answers no more: this waits until it is killed, or the shim is gone.
        let _ = tell(make_others());
    }
    // SAFETY: ends this process at once; there are no destructors that matter.
    unsafe { libc::_exit(0) }
}

/// Enters the user namespace of a process as its root.
pub fn enter(there: BorrowedFd<'_>) -> Result<(), Failure> {
    let step = || "enter the user namespace".to_owned();
    setns(there, CloneFlags::CLONE_NEWUSER).during(step)?;
    syscalls::set_user(0, 0, &[]).during(step)?;
    // A change of user lifts both.
    syscalls::forbid_dumping().during(step)?;
    syscalls::die_with_parent().during(step)
}

/// What this process makes from here on belongs to root of the container. It keeps all that root of the host may do.
pub fn make_as_root_of(ids: IdRange) -> Result<(), Failure> {
    credentials::make_files_as(ids.first, ids.first)
        .and_then(|()| syscalls::die_with_parent())
        .and_then(|()| syscalls::forbid_dumping())
        .during(|| "make files for the container's root".to_owned())
}

/// Lets the container's root have the pipes that are its standard streams.
pub fn give_pipe(stream: BorrowedFd<'_>, ids: IdRange) {
    let is_pipe = nix::sys::stat::fstat(stream).is_ok_and(|found| found.st_mode & libc::S_IFMT == libc::S_IFIFO);
    if is_pipe {
        // A stream that cannot be given away still works as it is.
        let _ = nix::unistd::fchown(stream, Some(ids.first.into()), Some(ids.first.into()));
    }
}

/// Mounts a directory on itself, in this process's own mount namespace, with its files belonging to the namespace's ids.
pub fn map_in_place(directory: &Path, users: BorrowedFd<'_>) -> Result<(), Failure> {
    let shown = directory.display();
    let step = || format!("map the owners of the files in {shown}");
    let path = stack_shim::mount_calls::c_string(directory.as_os_str().as_encoded_bytes()).during(step)?;
    let tree = clone_tree(None, &path, false).during(step)?;
    map_owners(tree.as_fd(), users, false).map_err(|error| cannot_map(&error, step()))?;
    let target = fs::File::open(directory).during(step)?;
    move_mount(tree.as_fd(), target.as_fd()).during(step)
}

/// A refusal to map owners, with what helps.
pub fn cannot_map(error: &io::Error, step: String) -> Failure {
    match error.raw_os_error() {
        Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSYS) => {
            let reason = "the kernel cannot map the owners of files of this file system: ext4 and xfs need Linux 5.19, \
                          btrfs too, tmpfs needs Linux 6.3, and network file systems mostly cannot; use another file system, \
                          or start the container without a user namespace (`userns_mode: host`, `--userns=host`)";
            failure(FailureKind::Setting, step, reason)
        }
        _ => failing(error, step),
    }
}

/// Tries in an empty directory what a container with such ids needs of the kernel and of the directory's file system. What is
/// made there stays for whoever made the directory to remove.
pub fn probe(directory: &Path, ids: IdRange) -> Result<(), Failure> {
    let step = || format!("try a user namespace on {}", directory.display());
    let namespaces = Namespaces { pid: false, network: true, ipc: true, uts: true, cgroup: false };
    let users = Users { ids, shared: None, layers: Vec::new() };
    let founder = Founder::make(&users, namespaces, &Peers::default())?;
    unshare(CloneFlags::CLONE_NEWNS).during(step)?;
    crate::mounts::leave_peers()?;
    let (lower, own) = (directory.join("lower"), directory.join("own"));
    let root = Root {
        lower: vec![lower.clone()],
        upper: own.join("upper"),
        work: own.join("work"),
        mountpoint: directory.join("root"),
        read_only: false,
        label: None,
    };
    for path in [&lower, &own, &root.upper, &root.work, &root.mountpoint] {
        fs::create_dir(path).during(step)?;
    }
    for path in [&lower, &own] {
        map_in_place(path, founder.users())?;
    }
    make_as_root_of(ids)?;
    let mounted = crate::mounts::mount_root(&root)?;
    crate::mounts::enter(mounted.as_fd())?;
    drop(mounted);
    founder.enter()?;
    fs::write("/file", "").during(step)?;
    let owner = fs::metadata("/file").during(step)?.uid();
    if owner != 0 {
        return Err(failure(FailureKind::Kernel, step(), "the kernel does not map the owners of an overlay's files"));
    }
    Ok(())
}
