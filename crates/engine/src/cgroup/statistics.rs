//! Everything that the kernel counts of a container, from its groups and its network namespace.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Serialize;
use stack_shim::launch::Cgroups;

use super::{directories, number, processes};

/// What a container has used until now. What the host does not count is zero or absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Statistics {
    /// Processor time in nanoseconds: of all, in the program's code, and in the kernel.
    pub cpu: CpuTimes,
    /// How often, and for how long in nanoseconds, its processors were withheld by its limit, of so many periods.
    pub throttled: Throttled,
    /// Memory in bytes, page cache included.
    pub memory_bytes: u64,
    /// The most that it was, where the host counts it.
    pub memory_most_bytes: Option<u64>,
    /// The limit of the memory in bytes, if there is one.
    pub memory_limit_bytes: Option<u64>,
    /// How often the limit was met, where the host counts it.
    pub memory_failures: Option<u64>,
    /// The kernel's own table of the memory.
    pub memory: BTreeMap<String, u64>,
    /// Processes and threads.
    pub pids: u64,
    /// The limit of these, if there is one.
    pub pids_limit: Option<u64>,
    /// Of each block device.
    pub devices: Vec<DeviceTraffic>,
    /// Of each network interface but the loopback, by its name inside.
    pub interfaces: BTreeMap<String, InterfaceTraffic>,
}

/// Processor time in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct CpuTimes {
    /// All.
    pub total: u64,
    /// In its programs.
    pub user: u64,
    /// In the kernel for them.
    pub system: u64,
}

/// What a limit of processors has withheld.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Throttled {
    /// Periods.
    pub periods: u64,
    /// Those in which the limit was met.
    pub throttled_periods: u64,
    /// For so long in all, in nanoseconds.
    pub time: u64,
}

/// What passed between a container and a block device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct DeviceTraffic {
    /// Of the device.
    pub major: u64,
    /// Of the device.
    pub minor: u64,
    /// Read.
    pub read_bytes: u64,
    /// Written.
    pub write_bytes: u64,
    /// Requests that read.
    pub reads: u64,
    /// Requests that write.
    pub writes: u64,
}

/// What passed by a network interface, as the container sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct InterfaceTraffic {
    /// Bytes, packets, errors and losses, received.
    pub received: [u64; 4],
    /// The same, sent.
    pub sent: [u64; 4],
}

/// Reads everything. `pid` is the container's first process, in whose network namespace the interfaces are; `None` where that
/// is not its own.
#[must_use]
pub fn statistics(cgroups: &Cgroups, pid: Option<i32>) -> Statistics {
    let mut found = Statistics::default();
    for directory in directories(cgroups) {
        read_cpu(directory, &mut found);
        read_memory(directory, &mut found);
        read_devices(directory, &mut found);
        found.pids = found.pids.max(number(&directory.join("pids.current")).unwrap_or(0));
        found.pids_limit = found.pids_limit.or_else(|| number(&directory.join("pids.max")));
    }
    if let Some(pid) = pid {
        let text = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
        found.interfaces = interfaces(&text);
    }
    found
}

/// The processes of a container.
#[must_use]
pub fn pids(cgroups: &Cgroups) -> Vec<i32> {
    let mut all: Vec<i32> = Vec::new();
    // Each hierarchy has all of them; groups that the container made below its own count, too.
    if let Some(directory) = directories(cgroups).next() {
        let mut folders = vec![directory.clone()];
        while let Some(folder) = folders.pop() {
            all.extend(processes(&folder));
            folders.extend(super::children(&folder));
        }
    }
    all.sort_unstable();
    all.dedup();
    all
}

fn table(path: &Path) -> BTreeMap<String, u64> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let pair = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

fn read_cpu(directory: &Path, found: &mut Statistics) {
    let counts = table(&directory.join("cpu.stat"));
    let get = |name: &str| counts.get(name).copied().unwrap_or(0);
    if let Some(total) = number(&directory.join("cpuacct.usage")) {
        found.cpu.total = total;
        found.cpu.user = number(&directory.join("cpuacct.usage_user")).unwrap_or(0);
        found.cpu.system = number(&directory.join("cpuacct.usage_sys")).unwrap_or(0);
    } else if get("usage_usec") > 0 && found.cpu.total == 0 {
        found.cpu.total = get("usage_usec").saturating_mul(1000);
        found.cpu.user = get("user_usec").saturating_mul(1000);
        found.cpu.system = get("system_usec").saturating_mul(1000);
    }
    if counts.contains_key("nr_periods") {
        found.throttled = Throttled {
            periods: get("nr_periods"),
            throttled_periods: get("nr_throttled"),
            time: get("throttled_time").max(get("throttled_usec").saturating_mul(1000)),
        };
    }
}

fn read_memory(directory: &Path, found: &mut Statistics) {
    let names = [
        ["memory.usage_in_bytes", "memory.max_usage_in_bytes", "memory.limit_in_bytes", "memory.failcnt"],
        ["memory.current", "memory.peak", "memory.max", ""],
    ];
    for [current, most, limit, failures] in names {
        let Some(bytes) = number(&directory.join(current)) else { continue };
        found.memory_bytes = bytes;
        found.memory_most_bytes = number(&directory.join(most));
        // Version 1 says "none" with the largest multiple of the page size.
        found.memory_limit_bytes = number(&directory.join(limit)).filter(|&bytes| bytes < u64::MAX >> 2);
        found.memory_failures = (!failures.is_empty()).then(|| number(&directory.join(failures))).flatten();
        found.memory = table(&directory.join("memory.stat"));
    }
}

fn read_devices(directory: &Path, found: &mut Statistics) {
    let mut devices: BTreeMap<(u64, u64), DeviceTraffic> = BTreeMap::new();
    let device = |text: &str| {
        let (major, minor) = text.split_once(':')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    for line in fs::read_to_string(directory.join("io.stat")).unwrap_or_default().lines() {
        let mut words = line.split_whitespace();
        let Some(at) = words.next().and_then(device) else { continue };
        let entry = devices.entry(at).or_default();
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            let value = value.parse().unwrap_or(0);
            match name {
                "rbytes" => entry.read_bytes = value,
                "wbytes" => entry.write_bytes = value,
                "rios" => entry.reads = value,
                "wios" => entry.writes = value,
                _ => {}
            }
        }
    }
    for (file, of_bytes) in
        [("blkio.throttle.io_service_bytes_recursive", true), ("blkio.throttle.io_serviced_recursive", false)]
    {
        for line in fs::read_to_string(directory.join(file)).unwrap_or_default().lines() {
            let mut words = line.split_whitespace();
            let (Some(at), Some(what), Some(value)) = (words.next().and_then(device), words.next(), words.next())
            else {
                continue;
            };
            let entry = devices.entry(at).or_default();
            let value = value.parse().unwrap_or(0);
            match (what, of_bytes) {
                ("Read", true) => entry.read_bytes = value,
                ("Write", true) => entry.write_bytes = value,
                ("Read", false) => entry.reads = value,
                ("Write", false) => entry.writes = value,
                _ => {}
            }
        }
    }
    found.devices.extend(devices.into_iter().map(|((major, minor), traffic)| DeviceTraffic {
        major,
        minor,
        ..traffic
    }));
}

/// The table of /proc/PID/net/dev (proc(5)).
fn interfaces(text: &str) -> BTreeMap<String, InterfaceTraffic> {
    let one = |line: &str| {
        let (name, counts) = line.split_once(':')?;
        let counts: Vec<u64> = counts.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let four = |from: usize| counts.get(from..from + 4)?.try_into().ok();
        Some((name.trim().to_owned(), InterfaceTraffic { received: four(0)?, sent: four(8)? }))
    };
    text.lines().filter_map(one).filter(|(name, _)| name != "lo").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_as_the_kernel_tells_them() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes packets errs drop fifo frame compressed multicast|bytes\n\
                    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 10 2 3 4 0 0 0 0 50 6 7 8 0 0 0 0\n";
        let found = interfaces(text);
        assert_eq!(found.len(), 1);
        assert_eq!(found["eth0"], InterfaceTraffic { received: [10, 2, 3, 4], sent: [50, 6, 7, 8] });
    }
}
