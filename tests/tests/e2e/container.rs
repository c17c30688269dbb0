//! What a task's container sees: its names, and who answers it.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use nix::sched::{CloneFlags, setns};
use serde_json::Value;
use stack_testkit::namespaced::{get, text};

/// Its first process.
pub fn pid(task: &Value) -> i64 {
    task["pid"].as_i64().expect("it runs")
}

/// The calling thread is in the network namespace of a process from now on.
pub fn enter(pid: i64) {
    let netns = File::open(format!("/proc/{pid}/ns/net")).expect("its namespace");
    setns(netns, CloneFlags::CLONE_NEWNET).expect("entered");
}

/// Runs in the network namespace of a task's container.
pub fn within<T>(task: &Value, work: impl FnOnce() -> T) -> T {
    enter(pid(task));
    work()
}

/// What a server answers to a container's client, which is a thread of its own.
pub fn asked(task: &Value, address: SocketAddr) -> std::io::Result<String> {
    std::thread::scope(|scope| scope.spawn(|| within(task, || get(address, "/"))).join().expect("no panic"))
}

/// What a command in a task's container says.
pub fn inside(task: &Value, command: &[&str]) -> Result<String, String> {
    let pid = task["pid"].as_i64().ok_or("it does not run")?.to_string();
    let output = Command::new("nsenter")
        .args(["--target", &pid, "--mount", "--net", "--"])
        .args(command)
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() { Ok(String::from_utf8_lossy(&output.stdout).into_owned()) } else { Err(text(&output)) }
}

/// The addresses that a name has for a task.
pub fn addresses(task: &Value, name: &str) -> Result<BTreeSet<IpAddr>, String> {
    let said = inside(task, &["/bin/busybox", "nslookup", name])?;
    let answer = said.split_once("\n\n").map_or("", |(_server, answer)| answer);
    Ok(answer
        .lines()
        .filter_map(|line| line.strip_prefix("Address"))
        .filter_map(|line| line.split_whitespace().find_map(|word| word.parse().ok()))
        .collect())
}
