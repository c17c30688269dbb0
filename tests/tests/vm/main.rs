//! One host as people have them: systemd, `deploy/install`, and control groups of version 2 alone, which the machine that
//! runs the tests may not have. A virtual machine in software, so that it needs nothing of that machine's kernel. What is
//! checked is in `guest` and `guest-selinux`, scripts that run in it; this file reads what they say.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod machine;

use machine::{Machine, Making, Purpose};

/// How the guest says that it is through.
const END: &str = "# all phases done";

#[test]
fn a_host_with_systemd_and_version_2_control_groups() {
    run("a_host_with_systemd_and_version_2_control_groups", Purpose::Host);
}

#[test]
fn a_host_that_enforces_a_policy_of_selinux() {
    run("a_host_that_enforces_a_policy_of_selinux", Purpose::Selinux);
}

fn run(test: &str, purpose: Purpose) {
    let machine = match Machine::make(purpose) {
        Ok(machine) => machine,
        Err(Making::Skipped(reason)) if std::env::var_os("CI").is_none() => {
            #[allow(clippy::print_stderr, reason = "who runs the tests must see that this was left out")]
            {
                eprintln!("SKIPPED: {test}: {reason}");
            }
            return;
        }
        Err(Making::Skipped(reason) | Making::Failed(reason)) => panic!("there is no virtual machine: {reason}"),
    };
    let console = machine.run();
    let said = |start: &str| -> Vec<&str> {
        console.lines.iter().map(String::as_str).filter(|line| line.starts_with(start)).collect()
    };
    let failed = said("not ok");
    let ended = said(END).len() == 1;
    // The whole console was printed as it came.
    assert!(
        failed.is_empty() && ended && console.trouble.is_none(),
        "{} checks passed, these failed:\n{}\n{}",
        said("ok").len(),
        failed.join("\n"),
        console.trouble.as_deref().unwrap_or(if ended { "" } else { "the guest did not come to its end" }),
    );
}
