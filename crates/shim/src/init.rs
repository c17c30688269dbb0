//! The init process of a container that asks for one: process 1 passes signals on and reaps orphans, as the container's
//! user and behind the container's filter.

use std::io;

use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use stack_shim::protocol::{Failure, FailureKind};

use crate::failing::failure;
use crate::process::{self, Prepared};
use crate::syscalls;

/// Forks: the child runs the program and returns only if it cannot; this process never returns.
pub fn run(mut prepared: Prepared) -> Failure {
    // It executes nothing by which it could get its label, and what it forks inherits it.
    if let Err(failure) = process::take_label(&mut prepared) {
        return failure;
    }
    // Blocked before there is a child: process 1 would lose the signal of one that ends at once, and a SIGTERM that comes
    // early. Blocking cannot fail with a valid set.
    let _ = SigSet::all().thread_block();
    match syscalls::fork() {
        Ok(None) => {
            // SAFETY: a new process group for the terminal's sake; failing is no harm.
            let _ = unsafe { libc::setpgid(0, 0) };
            // SAFETY: gives the terminal, if there is one, to that group; SIGTTOU is among what is blocked.
            let _ = unsafe { libc::tcsetpgrp(0, libc::getpid()) };
            let _ = SigSet::empty().thread_set_mask();
            process::execute(&prepared)
        }
        Ok(Some(child)) => supervise(Pid::from_raw(child)),
        Err(error) => failure(FailureKind::HostExhausted, "start the command below init", error.to_string()),
    }
}

fn supervise(child: Pid) -> ! {
    syscalls::set_name(c"init");
    let all = SigSet::all();
    // Closing cannot fail with a valid range. The shim's socket goes with it: its closing is how the shim learns that the
    // program runs.
    let _ = syscalls::close_from(3);
    loop {
        let Ok(signal) = all.wait() else { continue };
        if signal == Signal::SIGCHLD {
            reap(child);
        } else {
            // It may have ended just now; then SIGCHLD comes next.
            let _ = kill(child, signal);
        }
    }
}

fn reap(child: Pid) {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == child => exit(code),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => exit(128 + signal as i32),
            Ok(WaitStatus::StillAlive) => return,
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}

fn exit(code: i32) -> ! {
    // Nothing of ours is buffered.
    let _ = io::Write::flush(&mut io::stdout());
    // SAFETY: ends this process, and with it the container's pid namespace.
    unsafe { libc::_exit(code) }
}
