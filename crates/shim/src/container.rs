//! The first process of a container, from its birth in new namespaces to its program.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sched::CloneFlags;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::{Deserialize, Serialize};
use stack_shim::launch::{IdRange, Launch, MountSource, Namespaces};
use stack_shim::protocol::{Failure, FailureKind};

use crate::failing::{During, failure};
use crate::labelling::{self, LabelMoment};
use crate::peer::Peers;
use crate::users::{self, Founder};
use crate::{hooks, init, mounts, process, syscalls};

/// What the first process tells the shim before its program runs. The socket's closing says that it does.
#[derive(Debug, Serialize, Deserialize)]
pub enum Told {
    /// Everything is in place. The terminal's controlling end comes with it, if there is one.
    Ready,
    /// An exec's process was made; it will tell the rest itself.
    Born {
        /// In the shim's pid namespace.
        pid: i32,
    },
    /// It is not.
    Failed(Failure),
}

/// The standard streams of the first process.
pub struct Streams {
    /// `None`: `/dev/null`.
    pub input: Option<OwnedFd>,
    /// `None` with a terminal.
    pub output: Option<(OwnedFd, OwnedFd)>,
}

impl Streams {
    /// Lets the container's root have them.
    pub fn give(&self, ids: IdRange) {
        let outputs = self.output.iter().flat_map(|(output, error)| [output, error]);
        for stream in self.input.iter().chain(outputs) {
            users::give_pipe(stream.as_fd(), ids);
        }
    }
}

/// The `CLONE_NEW*` flags of the container's own namespaces. The cgroup namespace comes later, in its cgroups.
pub fn clone_flags(namespaces: Namespaces) -> u64 {
    let flag = |wanted: bool, flag: i32| if wanted { u64::from(flag.unsigned_abs()) } else { 0 };
    flag(true, libc::CLONE_NEWNS)
        | flag(namespaces.pid, libc::CLONE_NEWPID)
        | flag(namespaces.network, libc::CLONE_NEWNET)
        | flag(namespaces.ipc, libc::CLONE_NEWIPC)
        | flag(namespaces.uts, libc::CLONE_NEWUTS)
}

/// Sends a message, and a descriptor with it.
pub fn tell(socket: &OwnedFd, told: &Told, descriptor: Option<RawFd>) -> io::Result<()> {
    let bytes = serde_json::to_vec(told)?;
    let descriptors: Vec<RawFd> = descriptor.into_iter().collect();
    let control = [ControlMessage::ScmRights(&descriptors)];
    let control = if descriptors.is_empty() { &[][..] } else { &control[..] };
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&bytes)], control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// Receives a message; `None` when the other side is gone.
pub fn hear(socket: &OwnedFd) -> io::Result<Option<(Told, Option<OwnedFd>)>> {
    let mut bytes = vec![0; 64 * 1024];
    let (length, descriptor) = receive(socket.as_fd(), &mut bytes)?;
    if length == 0 {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&bytes[..length])?, descriptor)))
}

/// Receives bytes, and the descriptor that comes with them.
pub fn receive(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = nix::cmsg_space!(RawFd);
    loop {
        let mut slices = [IoSliceMut::new(bytes)];
        match recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC) {
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
            Ok(message) => {
                let mut descriptor = None;
                for control in message.cmsgs()? {
                    if let ControlMessageOwned::ScmRights(descriptors) = control {
                        for raw in descriptors {
                            // SAFETY: the kernel has just given us this descriptor.
                            descriptor = Some(unsafe { OwnedFd::from_raw_fd(raw) });
                        }
                    }
                }
                return Ok((message.bytes, descriptor));
            }
        }
    }
}

/// What the child of the clone does. Never returns to the shim's own work.
pub fn live(launch: &Launch, shim: &OwnedFd, streams: Streams, peers: Peers, founder: Option<Founder>) -> ! {
    // It is the shim's to end.
    let founder = std::mem::ManuallyDrop::new(founder);
    let failure = match set_up(launch, shim, streams, peers, founder.as_ref()) {
        Ok(prepared) if launch.init => init::run(prepared),
        Ok(prepared) => process::execute(&prepared),
        Err(failure) => failure,
    };
    let code = failure.kind.exit_code();
    // If the shim is gone there is nobody left to tell.
    let _ = tell(shim, &Told::Failed(failure), None);
    // SAFETY: ends this process at once; there are no destructors that matter.
    unsafe { libc::_exit(code) }
}

/// Joins the version 1 groups, by descriptors of [`open_cgroups`]. To be called by a process of one thread.
pub fn join_cgroups(groups: &[fs::File]) -> Result<(), Failure> {
    use io::Write as _;
    for mut file in groups {
        file.write_all(b"0").during(|| "join a control group".to_owned())?;
    }
    Ok(())
}

/// Opens the `tasks` of each directory. A thread that moves itself alone waits for nobody; by `cgroup.procs` the kernel would
/// wait until no process of the host is within a fork or an exit, which takes milliseconds.
pub fn open_cgroups(directories: &[std::path::PathBuf]) -> Result<Vec<fs::File>, Failure> {
    directories
        .iter()
        .map(|directory| {
            fs::OpenOptions::new()
                .write(true)
                .open(directory.join("tasks"))
                .during(|| format!("open the control group {}", directory.display()))
        })
        .collect()
}

fn set_up(
    launch: &Launch,
    shim: &OwnedFd,
    streams: Streams,
    peers: Peers,
    founder: Option<&Founder>,
) -> Result<process::Prepared, Failure> {
    syscalls::forbid_dumping().during(|| "forbid dumping".to_owned())?;
    syscalls::die_with_parent().during(|| "tie the process to its shim".to_owned())?;
    join_cgroups(&open_cgroups(&launch.cgroups.joined)?)?;
    peers.join(launch.joined.network, CloneFlags::CLONE_NEWNET, "network")?;
    peers.join(launch.joined.ipc, CloneFlags::CLONE_NEWIPC, "IPC")?;
    if let Some(founder) = founder {
        founder.join()?;
    }
    if launch.namespaces.cgroup {
        nix::sched::unshare(CloneFlags::CLONE_NEWCGROUP).during(|| "make a cgroup namespace".to_owned())?;
    }
    nix::unistd::setsid().during(|| "start a session".to_owned())?;
    let filter = process::read_filter(&launch.process)?;
    if launch.init {
        // Its command line is the shim's, and names a directory of the host.
        syscalls::set_command_line(c"init").during(|| "name the init process".to_owned())?;
    }
    let mut sources = mounts::take_sources(&launch.mounts, &peers, founder.map(Founder::users))?;
    drop(peers);
    mounts::leave_peers()?;
    if let (Some(users), Some(founder)) = (&launch.users, founder) {
        let of_images = launch.mounts.iter().flat_map(|mount| match &mount.source {
            MountSource::Image { lower, .. } => lower.as_slice(),
            _ => &[],
        });
        let layers: BTreeSet<_> = users.layers.iter().chain(of_images).collect();
        for directory in layers {
            users::map_in_place(directory, founder.users())?;
        }
    }
    mounts::take_images(launch, &mut sources)?;
    if let Some(users) = launch.users.as_ref().filter(|_| founder.is_some()) {
        streams.give(users.ids);
        users::make_as_root_of(users.ids)?;
    }
    let root = mounts::mount_root(&launch.root)?;
    mounts::furnish(root.as_fd(), launch, sources)?;
    hooks::run(launch)?;
    let terminal = if launch.process.terminal { Some(open_terminal(root.as_fd())?) } else { None };
    process::set_limits(&launch.process)?;
    if let Some(hostname) = &launch.hostname {
        nix::unistd::sethostname(hostname).during(|| format!("set the host name {hostname}"))?;
    }
    if let Some(domainname) = &launch.domainname {
        set_domain_name(domainname).during(|| format!("set the domain name {domainname}"))?;
    }
    let proc = mounts::own_proc()?;
    mounts::protect(root.as_fd(), launch)?;
    mounts::enter(root.as_fd())?;
    drop(root);
    if let Some(founder) = founder {
        founder.enter()?;
    }
    mounts::write_sysctls(proc.as_fd(), &launch.sysctls)?;
    if let Some(label) = &launch.process.label {
        labelling::label_keys(label, proc.as_fd())?;
    }
    match syscalls::join_new_session_keyring() {
        // A kernel without keyrings has none to share.
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {}
        result => result.during(|| "leave the session keyring".to_owned())?,
    }
    let moment = if launch.init { LabelMoment::Now } else { LabelMoment::Program };
    let mut prepared = process::prepare(&launch.process, filter, moment, proc.as_fd())?;
    drop(proc);
    let (controlling, peer) = match terminal {
        Some((controlling, peer)) => (Some(controlling), Some(peer)),
        None => (None, None),
    };
    tell(shim, &Told::Ready, controlling.as_ref().map(AsRawFd::as_raw_fd)).during(|| "tell the shim".to_owned())?;
    drop(controlling);
    wait_for_start(shim)?;
    connect(streams, peer)?;
    process::default_signals();
    process::become_user(&launch.process, &mut prepared)?;
    Ok(prepared)
}

fn open_terminal(root: BorrowedFd<'_>) -> Result<(OwnedFd, OwnedFd), Failure> {
    let (controlling, peer) = allocate_terminal(root)?;
    mounts::mount_console(root, peer.as_fd())?;
    Ok((controlling, peer))
}

/// A terminal of the container's own: the controlling end and the one for its processes.
pub fn allocate_terminal(root: BorrowedFd<'_>) -> Result<(OwnedFd, OwnedFd), Failure> {
    let step = || "allocate a terminal".to_owned();
    let controlling = mounts::open_terminal_multiplexer(root)?;
    let unlock: libc::c_int = 0;
    // SAFETY: the request reads one int.
    if unsafe { libc::ioctl(controlling.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock) } < 0 {
        return Err(io::Error::last_os_error()).during(step);
    }
    let peer = syscalls::open_terminal_peer(controlling.as_fd()).during(step)?;
    Ok((controlling, peer))
}

fn set_domain_name(name: &str) -> io::Result<()> {
    // SAFETY: the pointer and the length are of the same string.
    let result = unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn wait_for_start(shim: &OwnedFd) -> Result<(), Failure> {
    let mut byte = [0];
    match nix::unistd::read(shim.as_fd(), &mut byte).during(|| "wait for the start".to_owned())? {
        0 => Err(failure(FailureKind::Kernel, "wait for the start", "the shim is gone")),
        _ => Ok(()),
    }
}

/// Makes the streams the standard ones of this process.
pub fn connect(streams: Streams, terminal: Option<OwnedFd>) -> Result<(), Failure> {
    const NULL: &CStr = c"/dev/null";
    let step = || "connect the standard streams".to_owned();
    if let Some(terminal) = terminal {
        syscalls::set_controlling_terminal(terminal.as_fd()).during(step)?;
        nix::unistd::dup2_stdin(terminal.as_fd()).during(step)?;
        nix::unistd::dup2_stdout(terminal.as_fd()).during(step)?;
        return nix::unistd::dup2_stderr(terminal.as_fd()).during(step);
    }
    match streams.input {
        Some(input) => nix::unistd::dup2_stdin(input.as_fd()).during(step)?,
        None => {
            // The container's own node, so that no descriptor of the host's comes along.
            let null = nix::fcntl::open(NULL, nix::fcntl::OFlag::O_RDWR, nix::sys::stat::Mode::empty()).during(step)?;
            nix::unistd::dup2_stdin(null.as_fd()).during(step)?;
        }
    }
    if let Some((output, error)) = streams.output {
        nix::unistd::dup2_stdout(output.as_fd()).during(step)?;
        nix::unistd::dup2_stderr(error.as_fd()).during(step)?;
    }
    Ok(())
}
