//! Pure. Docker's default seccomp profile, and profiles in Docker's JSON form (moby, profiles/seccomp).
//!
//! The default is an allow-list: what is not named is refused with EPERM. Some calls are allowed only with arguments, some
//! only to containers that have a capability anyway.

use serde::{Deserialize, Serialize};

use crate::container::capability::{self, Set};

/// A filter before it is compiled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// What happens to a call that no rule names.
    pub default: Action,
    /// The rules.
    pub rules: Vec<Rule>,
}

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// It is carried out.
    Allow,
    /// It fails with this number.
    Errno(i32),
    /// It is carried out and logged.
    Log,
    /// A tracer decides.
    Trace(u16),
    /// The process gets SIGSYS.
    Trap,
    /// The process is killed.
    KillProcess,
    /// The thread is killed.
    KillThread,
}

/// Calls and what happens to them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// By name. Those that this processor or library does not know are passed over.
    pub names: Vec<String>,
    /// What happens.
    pub action: Action,
    /// All must hold.
    pub conditions: Vec<Condition>,
}

/// A condition on an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// From 0 to 5.
    pub argument: u32,
    /// How it is compared.
    pub comparison: Comparison,
    /// With what.
    pub value: u64,
}

/// How an argument is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Comparison {
    /// Equal.
    Equal,
    /// Not equal.
    NotEqual,
    /// Less.
    Less,
    /// Less or equal.
    LessOrEqual,
    /// Greater.
    Greater,
    /// Greater or equal.
    GreaterOrEqual,
    /// Equal under this mask.
    Masked(u64),
}

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// It is not JSON of that form.
    #[error("the seccomp profile is not in Docker's JSON form")]
    Form(#[from] serde_json::Error),
    /// An action or comparison that is unknown.
    #[error("the seccomp profile has an unknown {what} `{text}`")]
    Unknown {
        /// `action` or `comparison`.
        what: &'static str,
        /// What it has.
        text: String,
    },
}

/// Allowed to every container.
const ALLOWED: &str = "accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32 \
clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep \
clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl \
epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat \
faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl \
fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync \
ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat getcpu getcwd getdents \
getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp \
getpid getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit get_robust_list getrusage getsid \
getsockname getsockopt get_thread_area gettid gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init \
inotify_init1 inotify_rm_watch io_cancel ioctl io_destroy io_getevents io_pgetevents io_pgetevents_time64 ioprio_get \
ioprio_set io_setup io_submit ipc kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 \
lgetxattr link linkat listen listmount listxattr listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 \
madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap \
mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 \
mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat \
_newselect open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll \
ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6 pselect6_time64 pwrite64 pwritev pwritev2 read \
readahead readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr \
removexattrat rename renameat renameat2 restart_syscall riscv_hwprobe rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask \
rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_getaffinity \
sched_getattr sched_getparam sched_get_priority_max sched_get_priority_min sched_getscheduler sched_rr_get_interval \
sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select \
semctl semget semop semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto setfsgid setfsgid32 \
setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid \
setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit set_robust_list setsid setsockopt set_thread_area \
set_tid_address setuid setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 \
sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs statfs64 statmount statx symlink symlinkat sync \
sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 \
timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill \
truncate truncate64 ugetrlimit umask uname unlink unlinkat uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice \
wait4 waitid waitpid write writev process_vm_readv process_vm_writev ptrace";

/// Allowed to containers that have a capability.
const WITH_CAPABILITY: [(&str, &str); 13] = [
    ("DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr \
lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd \
setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    ("SYS_BOOT", "reboot"),
    ("SYS_CHROOT", "chroot"),
    ("SYS_MODULE", "delete_module init_module finit_module"),
    ("SYS_PACCT", "acct"),
    ("SYS_PTRACE", "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    ("SYS_RAWIO", "iopl ioperm"),
    ("SYS_TIME", "settimeofday stime clock_settime clock_settime64"),
    ("SYS_TTY_CONFIG", "vhangup"),
    ("SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("SYSLOG", "syslog"),
    ("BPF", "bpf"),
];

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Docker's default profile for a container with these capabilities, on the processor named as in uname(2).
#[must_use]
pub fn default_profile(capabilities: Set, processor: &str) -> Filter {
    let allow = |text: &str, conditions: Vec<Condition>| Rule { names: words(text), action: Action::Allow, conditions };
    let equal = |argument, value| Condition { argument, comparison: Comparison::Equal, value };
    let admin = capability::has(capabilities, "SYS_ADMIN");
    let mut rules = vec![allow(ALLOWED, vec![])];
    // Sockets of the hypervisor's own family reach beyond the container.
    let vsock = u64::from(libc::AF_VSOCK.unsigned_abs());
    rules.push(allow("socket", vec![Condition { argument: 0, comparison: Comparison::NotEqual, value: vsock }]));
    for personality in [0x0, 0x0008, 0x0002_0000, 0x0002_0008, 0xffff_ffff] {
        rules.push(allow("personality", vec![equal(0, personality)]));
    }
    match processor {
        "x86_64" => rules.push(allow("arch_prctl modify_ldt", vec![])),
        "aarch64" => rules.push(allow("arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls", vec![])),
        _ => {}
    }
    for (name, calls) in WITH_CAPABILITY {
        if capability::has(capabilities, name) {
            rules.push(allow(calls, vec![]));
        }
    }
    if capability::has(capabilities, "PERFMON") && !admin {
        rules.push(allow("perf_event_open", vec![]));
    }
    if !admin {
        // CLONE_NEW* of mount, uts, ipc, user, pid, net and cgroup: no new namespaces.
        let namespaces = 0x7e02_0000;
        let none = Condition { argument: 0, comparison: Comparison::Masked(namespaces), value: 0 };
        rules.push(allow("clone", vec![none]));
        // Its flags are behind a pointer: say that it is not there, and libraries use clone.
        rules.push(Rule { names: words("clone3"), action: Action::Errno(libc::ENOSYS), conditions: vec![] });
    }
    Filter { default: Action::Errno(libc::EPERM), rules }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    default_action: String,
    default_errno_ret: Option<i32>,
    #[serde(default)]
    syscalls: Vec<DocumentRule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DocumentRule {
    #[serde(default)]
    names: Vec<String>,
    name: Option<String>,
    action: String,
    errno_ret: Option<i32>,
    #[serde(default)]
    args: Option<Vec<DocumentArgument>>,
    #[serde(default)]
    includes: Option<DocumentFilter>,
    #[serde(default)]
    excludes: Option<DocumentFilter>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DocumentArgument {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct DocumentFilter {
    #[serde(default)]
    caps: Vec<String>,
    #[serde(default)]
    arches: Vec<String>,
}

fn action(text: &str, number: Option<i32>) -> Result<Action, ProfileError> {
    Ok(match text {
        "SCMP_ACT_ALLOW" => Action::Allow,
        "SCMP_ACT_ERRNO" => Action::Errno(number.unwrap_or(libc::EPERM)),
        "SCMP_ACT_LOG" => Action::Log,
        "SCMP_ACT_TRACE" => Action::Trace(number.and_then(|number| u16::try_from(number).ok()).unwrap_or(0)),
        "SCMP_ACT_TRAP" => Action::Trap,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KillThread,
        "SCMP_ACT_KILL_PROCESS" => Action::KillProcess,
        other => return Err(ProfileError::Unknown { what: "action", text: other.to_owned() }),
    })
}

fn condition(argument: &DocumentArgument) -> Result<Condition, ProfileError> {
    let (comparison, value) = match argument.op.as_str() {
        "SCMP_CMP_EQ" => (Comparison::Equal, argument.value),
        "SCMP_CMP_NE" => (Comparison::NotEqual, argument.value),
        "SCMP_CMP_LT" => (Comparison::Less, argument.value),
        "SCMP_CMP_LE" => (Comparison::LessOrEqual, argument.value),
        "SCMP_CMP_GT" => (Comparison::Greater, argument.value),
        "SCMP_CMP_GE" => (Comparison::GreaterOrEqual, argument.value),
        "SCMP_CMP_MASKED_EQ" => (Comparison::Masked(argument.value), argument.value_two),
        other => return Err(ProfileError::Unknown { what: "comparison", text: other.to_owned() }),
    };
    Ok(Condition { argument: argument.index, comparison, value })
}

/// A profile in Docker's JSON form, for a container with these capabilities on this processor.
///
/// # Errors
/// What is wrong with it.
pub fn parse(text: &str, capabilities: Set, processor: &str) -> Result<Filter, ProfileError> {
    let document: Document = serde_json::from_str(text)?;
    let architecture = match processor {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let mut rules = Vec::new();
    for rule in document.syscalls {
        let has = |name: &String| capability::has(capabilities, name.strip_prefix("CAP_").unwrap_or(name));
        let here = |name: &String| name == architecture || name == processor;
        if rule.includes.is_some_and(|wanted| {
            !wanted.caps.iter().all(has) || (!wanted.arches.is_empty() && !wanted.arches.iter().any(here))
        }) || rule.excludes.is_some_and(|unwanted| unwanted.caps.iter().any(has) || unwanted.arches.iter().any(here))
        {
            continue;
        }
        rules.push(Rule {
            names: rule.names.into_iter().chain(rule.name).collect(),
            action: action(&rule.action, rule.errno_ret)?,
            conditions: rule.args.unwrap_or_default().iter().map(condition).collect::<Result<_, _>>()?,
        });
    }
    Ok(Filter { default: action(&document.default_action, document.default_errno_ret)?, rules })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(filter: &Filter, name: &str) -> bool {
        filter.rules.iter().any(|rule| rule.action == Action::Allow && rule.names.iter().any(|other| other == name))
    }

    #[test]
    fn dangerous_calls_need_their_capability() {
        let default = default_profile(capability::resolve(&[], &[], false).unwrap(), "x86_64");
        for name in ["mount", "unshare", "setns", "bpf", "kexec_load", "add_key", "keyctl", "request_key", "userfaultfd",
            "init_module", "reboot", "swapon", "open_by_handle_at", "io_uring_setup", "perf_event_open", "clone3"]
        {
            assert!(!allows(&default, name), "{name}");
        }
        assert!(allows(&default, "chroot") && allows(&default, "clone"));
        let admin = default_profile(capability::ALL, "x86_64");
        assert!(allows(&admin, "mount") && allows(&admin, "clone3") && !allows(&admin, "keyctl"));
    }

    #[test]
    fn a_profile_of_the_users_own() {
        let text = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
            {"names":["mkdir"],"action":"SCMP_ACT_ERRNO","errnoRet":38,"args":[]},
            {"names":["mount"],"action":"SCMP_ACT_ERRNO","excludes":{"caps":["CAP_SYS_ADMIN"]}},
            {"names":["clone"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"valueTwo":0,"op":"SCMP_CMP_MASKED_EQ"}]}]}"#;
        let filter = parse(text, 0, "x86_64").unwrap();
        assert_eq!(filter.rules.len(), 3);
        assert_eq!(filter.rules[0].action, Action::Errno(38));
        assert_eq!(filter.rules[2].conditions[0].comparison, Comparison::Masked(1));
        assert_eq!(parse(text, capability::ALL, "x86_64").unwrap().rules.len(), 2);
        assert!(parse("{}", 0, "x86_64").is_err());
        assert!(parse(r#"{"defaultAction":"SCMP_ACT_DANCE"}"#, 0, "x86_64").unwrap_err().to_string().contains("DANCE"));
    }
}
