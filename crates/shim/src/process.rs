//! The last steps of a process in a container, from its user to the execution of its program.

use std::ffi::CString;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use stack_shim::credentials;
use stack_shim::identity::{self, Identity};
use stack_shim::launch::Process;
use stack_shim::mount_calls;
use stack_shim::protocol::{Failure, FailureKind};
use stack_shim::root_path::{self, Links, Make};

use crate::confinement::{self, Confiner};
use crate::failing::{During, failing, failure};
use crate::labelling::{self, LabelMoment, Labeller};
use crate::syscalls;

/// A passwd or group file that is longer is cut: it comes from an image.
const LONGEST_ACCOUNT_FILE: u64 = 16 * 1024 * 1024;

/// A process that is ready but for the things that only its own thread can give up.
pub struct Prepared {
    identity: Identity,
    environment: Vec<CString>,
    arguments: Vec<CString>,
    search: Vec<String>,
    filter: Option<Vec<u8>>,
    confiner: Option<Confiner>,
    labeller: Option<Labeller>,
    known_capabilities: u64,
}

/// Reads the filter, which lies on the host. To be called before the host's root is left.
pub fn read_filter(process: &Process) -> Result<Option<Vec<u8>>, Failure> {
    process.seccomp.as_ref().map(fs::read).transpose().during(|| "read the compiled seccomp filter".to_owned())
}

/// Resource limits and the OOM score, while we still may set them.
pub fn set_limits(process: &Process) -> Result<(), Failure> {
    if let Some(score) = process.oom_score_adj {
        fs::write("/proc/self/oom_score_adj", score.to_string())
            .during(|| format!("set the OOM score adjustment to {score}"))?;
    } else {
        // The daemon's own protection is not the containers'. Where it may not be given up, it is kept.
        let _ = fs::write("/proc/self/oom_score_adj", "0");
    }
    for limit in &process.limits {
        syscalls::set_limit(limit.resource, limit.soft, limit.hard).map_err(|error| {
            let reason = if error.raw_os_error() == Some(libc::EPERM) {
                "the engine lacks CAP_SYS_RESOURCE, so no limit can be raised above its own: lower it or give the engine that capability".to_owned()
            } else {
                error.to_string()
            };
            failure(FailureKind::Setting, format!("set the limit {} to {}:{}", limit.name, limit.soft, limit.hard), reason)
        })?;
    }
    Ok(())
}

/// Who a process is, by the files in the root of its container.
pub fn identity(process: &Process, root: BorrowedFd<'_>) -> Result<Identity, Failure> {
    let account_file = |path: &str| -> String {
        // A missing or unreadable file is one without entries: the lookup then says who is not there.
        let Ok(file) = root_path::open(root, path, libc::O_RDONLY | libc::O_NONBLOCK, Links::Follow) else {
            return String::new();
        };
        let mut bytes = Vec::new();
        match fs::File::from(file).take(LONGEST_ACCOUNT_FILE).read_to_end(&mut bytes) {
            Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(_) => String::new(),
        }
    };
    let (passwd, group) = (account_file("/etc/passwd"), account_file("/etc/group"));
    identity::resolve(&process.user, &process.groups, &passwd, &group)
        .map_err(|reason| failure(FailureKind::UnknownUser, "find the user", reason))
}

/// Looks up what the image says about the process. To be called in the container's root. `moment`: when it gets its SELinux
/// label. `proc`: where security modules are told ([`mounts::own_proc`](crate::mounts::own_proc)).
pub fn prepare(
    process: &Process,
    filter: Option<Vec<u8>>,
    moment: LabelMoment,
    proc: BorrowedFd<'_>,
) -> Result<Prepared, Failure> {
    let root: OwnedFd = fs::File::open("/").during(|| "open the container's root".to_owned())?.into();
    let identity = identity(process, root.as_fd())?;
    let mut environment = process.environment.clone();
    if !environment.iter().any(|entry| entry.starts_with("HOME=")) {
        environment.push(format!("HOME={}", identity.home));
    }
    let path = environment.iter().rev().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or("");
    let search = path.split(':').map(|part| if part.is_empty() { "." } else { part }.to_owned()).collect();
    let strings = |texts: &[String]| -> Result<Vec<CString>, Failure> {
        texts
            .iter()
            .map(|text| mount_calls::c_string(text.as_str()))
            .collect::<io::Result<_>>()
            .during(|| "read the command and environment".to_owned())
    };
    if process.make_working_dir {
        root_path::open_or_make(root.as_fd(), &process.working_dir, Make::Directory, Links::Follow)
            .during(|| format!("make the working directory {}", process.working_dir))?;
    }
    Ok(Prepared {
        environment: strings(&environment)?,
        arguments: strings(&process.arguments)?,
        search,
        filter,
        confiner: process.confinement.as_ref().map(|confinement| confinement::open(confinement, proc)).transpose()?,
        labeller: process.label.as_deref().map(|label| labelling::open(label, moment, proc)).transpose()?,
        identity,
        known_capabilities: syscalls::known_capabilities(),
    })
}

/// Gives up everything that the process shall not have.
pub fn become_user(process: &Process, prepared: &mut Prepared) -> Result<(), Failure> {
    let step = |what: &str| {
        let what = what.to_owned();
        move || what
    };
    syscalls::forbid_dumping().during(step("forbid dumping"))?;
    // While the filter and the user cannot be in its way.
    if let (Some(confinement), Some(confiner)) = (&process.confinement, prepared.confiner.take()) {
        confiner.apply(confinement)?;
    }
    if let Some(labeller) = &mut prepared.labeller {
        labeller.announce()?;
    }
    let filter = prepared.filter.as_ref();
    // Loading a filter needs CAP_SYS_ADMIN or no_new_privs: with the former it comes before the capabilities go.
    if let Some(filter) = filter.filter(|_| !process.no_new_privileges) {
        syscalls::load_seccomp(filter).during(step("load the seccomp filter"))?;
    }
    let have = credentials::permitted_capabilities().during(step("read the capabilities"))?;
    let allowed = process.capabilities.permitted & have;
    syscalls::limit_bounding_set(process.capabilities.bounding, prepared.known_capabilities)
        .during(step("limit the capabilities"))?;
    own_standard_streams(prepared.identity.uid);
    syscalls::keep_capabilities().during(step("keep the capabilities"))?;
    let identity = &prepared.identity;
    syscalls::set_user(identity.uid, identity.gid, &identity.groups).map_err(|error| {
        let step = format!("become user {} and group {}", identity.uid, identity.gid);
        match error.raw_os_error() {
            Some(libc::EINVAL) => failure(
                FailureKind::Setting,
                step,
                "the container's user namespace has no such id: choose a smaller one, or give the daemon more ids \
                 (`user_namespaces.count`)",
            ),
            _ => failing(&error, step),
        }
    })?;
    let ambient = process.capabilities.ambient & allowed;
    // Another user than root has them effective only through the ambient set; what is permitted to it otherwise it
    // loses when the program is executed.
    let effective = if identity.uid == 0 { allowed } else { ambient };
    credentials::set_capabilities(effective, allowed, ambient).during(step("set the capabilities"))?;
    syscalls::raise_ambient(ambient).during(step("set the ambient capabilities"))?;
    nix::unistd::chdir(process.working_dir.as_str()).map_err(|error| {
        failure(FailureKind::Setting, format!("change to the working directory {}", process.working_dir), error.desc())
    })?;
    // A directory outside the root, reached through a descriptor that somebody left open, has no path here.
    match nix::unistd::getcwd() {
        Ok(path) if path.is_absolute() => {}
        _ => {
            return Err(failure(
                FailureKind::Setting,
                format!("change to the working directory {}", process.working_dir),
                "it is not inside the container",
            ));
        }
    }
    syscalls::die_with_parent().during(step("tie the process to its parent"))?;
    if process.no_new_privileges {
        syscalls::set_no_new_privileges().during(step("set no_new_privs"))?;
        if let Some(filter) = filter {
            syscalls::load_seccomp(filter).during(step("load the seccomp filter"))?;
        }
    }
    Ok(())
}

/// Takes on the SELinux label of a process that stays what it is. Nothing may be left to do then that a container's process
/// may not do.
pub fn take_label(prepared: &mut Prepared) -> Result<(), Failure> {
    prepared.labeller.as_mut().map_or(Ok(()), Labeller::take)
}

/// Lets the user open its own streams again by /dev/stdout and the like, which a pipe of root's would refuse.
fn own_standard_streams(uid: u32) {
    for fd in [nix::libc::STDIN_FILENO, nix::libc::STDOUT_FILENO, nix::libc::STDERR_FILENO] {
        // SAFETY: the three standard descriptors are open for as long as the process lives.
        let stream = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
        // Pipes, and the ends of terminals (their major numbers are 136 to 143).
        let is_own = nix::sys::stat::fstat(stream).is_ok_and(|found| match found.st_mode & libc::S_IFMT {
            libc::S_IFIFO => true,
            libc::S_IFCHR => (136..=143).contains(&libc::major(found.st_rdev)),
            _ => false,
        });
        if is_own {
            // A stream that cannot be given away still works as it is.
            let _ = nix::unistd::fchown(stream, Some(uid.into()), None);
        }
    }
}

/// Signals as a new program expects them: none blocked, none ignored.
pub fn default_signals() {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in Signal::iterator().filter(|signal| !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP)) {
        // SAFETY: the default disposition runs no code of ours. Nothing can fail with these signals.
        let _ = unsafe { sigaction(signal, &default) };
    }
    // Cannot fail: the set is valid.
    let _ = SigSet::empty().thread_set_mask();
}

/// Executes the program. Returns only when that is not possible.
pub fn execute(prepared: &Prepared) -> Failure {
    let Some(name) = prepared.arguments.first() else {
        return failure(FailureKind::Setting, "run the command", "neither the image nor the service says what to run");
    };
    let shown = name.to_string_lossy().into_owned();
    if let Err(error) = syscalls::close_on_exec_from(3) {
        return failure(FailureKind::Kernel, "close descriptors", error.to_string());
    }
    let mut refusal = nix::errno::Errno::ENOENT;
    if shown.contains('/') {
        refusal = run(name, prepared);
    } else {
        for directory in &prepared.search {
            let Ok(path) = mount_calls::c_string(format!("{directory}/{shown}")) else { continue };
            match run(&path, prepared) {
                nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR => {}
                // Another directory may have one that can be run; if none has, this is what is said.
                error => refusal = error,
            }
        }
    }
    // The words of runc, by which clients and people tell what is wrong.
    let step = format!("exec: \"{shown}\"");
    match refusal {
        nix::errno::Errno::ENOENT if shown.contains('/') => failure(
            FailureKind::CommandNotFound,
            step,
            "no such file or directory in the container, or the interpreter that it names is missing",
        ),
        nix::errno::Errno::ENOENT => failure(FailureKind::CommandNotFound, step, "executable file not found in $PATH"),
        nix::errno::Errno::ENOTDIR => failure(FailureKind::CommandNotFound, step, "a part of its path is no directory"),
        nix::errno::Errno::EACCES | nix::errno::Errno::EPERM => {
            failure(FailureKind::CommandNotExecutable, step, "permission denied: is it an executable file?")
        }
        nix::errno::Errno::ENOEXEC => failure(
            FailureKind::CommandNotExecutable,
            step,
            "exec format error: it is made for another kind of processor, or a script without `#!`",
        ),
        nix::errno::Errno::E2BIG => {
            failure(FailureKind::Setting, step, "the arguments and the environment are too long for the kernel")
        }
        nix::errno::Errno::ENOMEM | nix::errno::Errno::EAGAIN => {
            failure(FailureKind::HostExhausted, step, refusal.desc())
        }
        other => failure(FailureKind::CommandNotExecutable, step, other.desc()),
    }
}

fn run(path: &CString, prepared: &Prepared) -> nix::errno::Errno {
    match nix::unistd::execve(path, &prepared.arguments, &prepared.environment) {
        Err(error) => error,
        Ok(never) => match never {},
    }
}
