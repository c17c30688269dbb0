//! System calls that have no safe wrapper yet, each checked and turned into `io::Result`.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Fails with the thread's last error when a call returned a negative number.
fn checked(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = libc::c_int::try_from(checked(result)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us, and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Forks into new namespaces (`CLONE_NEW*`) and, where given, a version 2 cgroup. `None` in the child.
pub fn clone3(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Option<i32>> {
    // linux/sched.h; the constant of the libc crate does not fit its type.
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let into_cgroup = if cgroup.is_some() { CLONE_INTO_CGROUP } else { 0 };
    let mut arguments = libc::clone_args {
        flags: flags | into_cgroup,
        pidfd: 0,
        child_tid: 0,
        parent_tid: 0,
        // A child of our own parent's signals it as we do, and the kernel wants no other word on it.
        exit_signal: if flags & u64::from(libc::CLONE_PARENT.unsigned_abs()) == 0 {
            u64::from(libc::SIGCHLD.unsigned_abs())
        } else {
            0
        },
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: cgroup.map_or(0, |fd| u64::from(fd.as_raw_fd().unsigned_abs())),
    };
    // SAFETY: without a stack and without CLONE_VM this is fork(2); the process has one thread, so no lock is held in
    // the child, and `arguments` outlives the call.
    let pid = checked(unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) })?;
    Ok(if pid == 0 { None } else { Some(i32::try_from(pid).map_err(io::Error::other)?) })
}

/// Forks by fork(2), which a container's own filter allows where it pretends that there is no clone3. `None` in the child.
pub fn fork() -> io::Result<Option<i32>> {
    // SAFETY: the process has one thread, so no lock is held in the child.
    let pid = checked(libc::c_long::from(unsafe { libc::fork() }))?;
    Ok(if pid == 0 { None } else { Some(i32::try_from(pid).map_err(io::Error::other)?) })
}

/// Marks every descriptor from `first` on to be closed on exec.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: no pointers; no descriptor is closed now.
    checked(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) })?;
    Ok(())
}

/// Closes every descriptor from `first` on, now.
pub fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: the caller's business; used just before a loop that owns nothing but the standard descriptors.
    checked(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) })?;
    Ok(())
}

/// A descriptor of a process of our own, which can be read from when that has ended.
pub fn open_process(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: numbers alone; the process is a child that was not waited for, so the number is still its own.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// Leaves the session keyring of whoever started us, so that its keys are not shared with the container.
pub fn join_new_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    checked(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>()) })?;
    Ok(())
}

/// Gives an open file a label of SELinux.
pub fn set_selinux_label(file: BorrowedFd<'_>, label: &str) -> io::Result<()> {
    let name = c"security.selinux";
    // The kernel and its tools keep the NUL byte at the end.
    let value = std::ffi::CString::new(label).map_err(io::Error::other)?;
    let bytes = value.as_bytes_with_nul();
    // SAFETY: `name` is NUL-terminated, and `bytes` is readable for its length.
    let result = unsafe { libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), bytes.as_ptr().cast(), bytes.len(), 0) };
    checked(result.into())?;
    Ok(())
}

/// Installs a compiled filter, an array of `struct sock_filter`, for this thread.
pub fn load_seccomp(filter: &[u8]) -> io::Result<()> {
    let size = size_of::<libc::sock_filter>();
    if filter.is_empty() || !filter.len().is_multiple_of(size) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no compiled filter"));
    }
    let mut instructions: Vec<libc::sock_filter> = filter
        .chunks_exact(size)
        .map(|bytes| libc::sock_filter {
            code: u16::from_ne_bytes([bytes[0], bytes[1]]),
            jt: bytes[2],
            jf: bytes[3],
            k: u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        })
        .collect();
    let program = libc::sock_fprog {
        len: u16::try_from(instructions.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?,
        filter: instructions.as_mut_ptr(),
    };
    // SAFETY: `program` points to `len` instructions and both outlive the call, which copies them.
    checked(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) })?;
    Ok(())
}

fn prctl(option: libc::c_int, argument: libc::c_ulong, second: libc::c_ulong) -> io::Result<()> {
    let zero: libc::c_ulong = 0;
    // SAFETY: the options used here take numbers, not pointers.
    checked(libc::c_long::from(unsafe { libc::prctl(option, argument, second, zero, zero) }))?;
    Ok(())
}

/// Nobody but root of the host may read this process's memory or `/proc/PID/exe`.
pub fn forbid_dumping() -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, 0, 0)
}

/// This process is killed when its parent ends. To be called after the last change of user, which clears it.
pub fn die_with_parent() -> io::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, libc::c_ulong::from(libc::SIGKILL.unsigned_abs()), 0)
}

/// No program that is run from here on gains anything by setuid or file capabilities.
pub fn set_no_new_privileges() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0)
}

/// Keeps the permitted capabilities over the change to a user other than root.
pub fn keep_capabilities() -> io::Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, 1, 0)
}

/// What `ps` shows.
pub fn set_name(name: &CStr) {
    // SAFETY: the kernel copies at most 16 bytes of a NUL-terminated string. Failing would only cost a nicer name.
    let _ = unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Makes this process's command line, as /proc/PID/cmdline shows it, a single word with NULs behind it. Its own arguments are
/// gone then.
pub fn set_command_line(word: &CStr) -> io::Result<()> {
    let text = std::fs::read_to_string("/proc/self/stat")?;
    // proc_pid_stat(5): behind the name, which is in parentheses, come the third field and so on; the 48th and 49th are the
    // addresses of the arguments.
    let fields: Vec<&str> = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace().collect();
    let address = |number: usize| fields.get(number - 3).and_then(|field| field.parse::<usize>().ok()).unwrap_or(0);
    let (start, end) = (address(48), address(49));
    let bytes = word.to_bytes_with_nul();
    let length = end.checked_sub(start).filter(|&length| start > 0 && length >= bytes.len());
    let length = length.ok_or_else(|| io::Error::other("the kernel does not say where the arguments are"))?;
    // SAFETY: the kernel has put the arguments there when this program was executed: the memory is mapped and writable for
    // as long as the process lives, and this process has one thread, which does not look at its arguments any more.
    unsafe {
        std::ptr::write_bytes(start as *mut u8, 0, length);
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), start as *mut u8, bytes.len());
    }
    Ok(())
}

/// The number of the last capability that the kernel knows.
fn last_capability() -> u32 {
    std::fs::read_to_string("/proc/sys/kernel/cap_last_cap")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(40)
}

/// All capabilities that the kernel knows.
pub fn known_capabilities() -> u64 {
    u64::MAX >> (63 - last_capability().min(63))
}

/// Takes everything that is not in `keep` from the bounding set.
pub fn limit_bounding_set(keep: u64, known: u64) -> io::Result<()> {
    for capability in 0..64u64 {
        if known & !keep & (1 << capability) != 0 {
            prctl(libc::PR_CAPBSET_DROP, capability, 0)?;
        }
    }
    Ok(())
}

/// Sets the ambient set, whose members must be permitted and inheritable.
pub fn raise_ambient(set: u64) -> io::Result<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::c_ulong::from(libc::PR_CAP_AMBIENT_CLEAR_ALL.unsigned_abs()), 0)?;
    for capability in (0..64u64).filter(|capability| set & (1 << capability) != 0) {
        prctl(libc::PR_CAP_AMBIENT, libc::c_ulong::from(libc::PR_CAP_AMBIENT_RAISE.unsigned_abs()), capability)?;
    }
    Ok(())
}

/// Sets a resource limit by its number.
pub fn set_limit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `limit` outlives the call; the resource is checked by the kernel.
    checked(unsafe {
        libc::syscall(libc::SYS_prlimit64, 0, resource, &raw const limit, std::ptr::null_mut::<libc::rlimit>())
    })?;
    Ok(())
}

/// Sets the real, effective and saved user and group and the supplementary groups.
pub fn set_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    // SAFETY: the array has as many elements as said. The raw calls change this thread, which is the only one.
    unsafe {
        checked(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()))?;
        checked(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        checked(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
    }
    Ok(())
}

/// Opens the other end of the terminal whose controlling end is `master`, without a path that could be tampered with.
pub fn open_terminal_peer(master: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: the request takes open flags as its argument.
    let result =
        unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC) };
    owned(libc::c_long::from(result))
}

/// Makes the terminal that `fd` refers to the controlling one of this session.
pub fn set_controlling_terminal(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the argument is a number.
    checked(libc::c_long::from(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSCTTY, 0) }))?;
    Ok(())
}

/// Tells a terminal its size.
pub fn set_terminal_size(terminal: BorrowedFd<'_>, rows: u16, columns: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the request reads one `winsize`, which outlives the call.
    checked(libc::c_long::from(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }))?;
    Ok(())
}

/// Closes every descriptor beyond the standard ones but `kept`: a process that is about to enter a container takes
/// nothing of the host's with it.
pub fn close_all_but(kept: &mut [RawFd]) -> io::Result<()> {
    kept.sort_unstable();
    let mut first = 3;
    let close = |first: u32, last: u32| {
        // SAFETY: the caller owns nothing of what is closed any more; it never returns to code that does.
        checked(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })
    };
    for &fd in kept.iter() {
        let fd = fd.unsigned_abs();
        if fd > first {
            close(first, fd - 1)?;
        }
        first = first.max(fd + 1);
    }
    close(first, u32::MAX)?;
    Ok(())
}
