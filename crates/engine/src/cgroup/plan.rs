//! Pure. Which groups a container gets, and what is written into their files.

use std::path::{Path, PathBuf};

use stack_shim::launch::{Cgroups, OomCounter};

use super::hierarchies::Hierarchies;
use crate::container::{BlkioLimit, Resources};

/// One file to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Which.
    pub path: PathBuf,
    /// What.
    pub text: String,
    /// Kernels and hosts without this file do without; the limit is then not in force, and the engine notes it.
    pub optional: bool,
}

/// What is made for one container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Version 1 `cpuset` directories, whose files must be filled from their parents' first.
    pub cpusets: Vec<PathBuf>,
    /// The version 1 group that must have time for real-time processes, before the container's below it can.
    pub realtime: Option<Realtime>,
    /// Version 2 directories, from the top, where the controllers are passed on.
    pub delegating: Vec<PathBuf>,
    /// Directories, parents included where they are missing.
    pub directories: Vec<PathBuf>,
    /// The version 2 group that gets device rules as a program, where no version 1 hierarchy keeps them.
    pub device_program: Option<(PathBuf, Vec<DeviceRule>)>,
    /// Files, in order.
    pub writes: Vec<Write>,
    /// What the shim is told.
    pub cgroups: Cgroups,
}

/// Time for real-time processes that a container needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Realtime {
    /// The group above its own.
    pub parent: PathBuf,
    /// Its own.
    pub directory: PathBuf,
    /// Of each period, in millionths.
    pub share: u64,
}

/// The kernel's period for real-time processes, in microseconds.
pub(super) const REALTIME_PERIOD: u64 = 1_000_000;

/// So much in a period, in millionths.
pub(super) fn realtime_share(runtime: u64, period: u64) -> u64 {
    runtime.saturating_mul(REALTIME_PERIOD).div_ceil(period.max(1))
}

/// A device that a container may use. The rules are allowances; everything else is denied.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceRule {
    /// `c`, `b` or `a` for all.
    pub kind: char,
    /// `None` is any.
    pub major: Option<u64>,
    /// `None` is any.
    pub minor: Option<u64>,
    /// Any of `r`, `w`, `m`.
    pub access: String,
}

impl DeviceRule {
    /// As the version 1 files take it.
    #[must_use]
    pub fn text(&self) -> String {
        if self.kind == 'a' {
            return "a".to_owned();
        }
        let number = |number: Option<u64>| number.map_or("*".to_owned(), |number| number.to_string());
        format!("{} {}:{} {}", self.kind, number(self.major), number(self.minor), self.access)
    }
}

/// The period of the processor quota, in microseconds.
const PERIOD: u64 = 100_000;

/// Weights: version 1 shares from 2 to 262144 onto version 2 weights from 1 to 10000, as runc converts them.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// Weights of block devices, from 10 to 1000 onto version 2's from 1 to 10000, as runc converts them.
fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight).clamp(10, 1000) - 10) * 9999 / 990
}

fn quota(millis: u64) -> u64 {
    // The kernel takes no less than a thousandth of a second.
    (millis.saturating_mul(PERIOD) / 1000).max(1000)
}

/// Quota, if there is one, and period of the processors' time, in microseconds.
fn processor_time(resources: &Resources) -> Option<(Option<u64>, u64)> {
    if let Some(millis) = resources.cpu_limit_millis {
        return Some((Some(quota(millis)), PERIOD));
    }
    let (quota, period) = (resources.cpu_quota_us, resources.cpu_period_us);
    (quota.is_some() || period.is_some()).then(|| (quota, period.unwrap_or(PERIOD)))
}

/// What container `name` gets.
#[must_use]
pub fn plan(hierarchies: &Hierarchies, name: &str, resources: &Resources, devices: &[DeviceRule]) -> Plan {
    let mut plan = Plan::default();
    if let Some(unified) = &hierarchies.unified {
        let directory = unified.parent.join(name);
        plan.cgroups.unified = Some(directory.clone());
        if !unified.bare {
            plan.delegating = unified
                .parent
                .ancestors()
                .take_while(|ancestor| ancestor.starts_with(&unified.mountpoint))
                .map(Path::to_owned)
                .collect();
            plan.delegating.reverse();
            unified_writes(&directory, resources, &mut plan.writes);
            plan.cgroups.oom = Some(OomCounter { path: directory.join("memory.events") });
        }
        if hierarchies.legacy_with("devices").is_none() && !devices.iter().any(|rule| rule.kind == 'a') {
            plan.device_program = Some((directory.clone(), devices.to_vec()));
        }
        plan.directories.push(directory);
    }
    for legacy in &hierarchies.legacy {
        let has = |controller: &str| legacy.controllers.iter().any(|name| name == controller);
        let limited_to_set = resources.cpuset_cpus.is_some() || resources.cpuset_mems.is_some();
        // Joining a group costs time at every start: a set of processors only where one is asked for.
        if legacy.controllers == ["cpuset"] && !limited_to_set {
            continue;
        }
        let directory = legacy.parent.join(name);
        if has("cpuset") {
            plan.cpusets.push(directory.clone());
        }
        if has("cpu")
            && let Some(runtime) = resources.cpu_realtime_runtime_us
        {
            let share = realtime_share(runtime, resources.cpu_realtime_period_us.unwrap_or(REALTIME_PERIOD));
            let (parent, directory) = (legacy.parent.clone(), directory.clone());
            plan.realtime = Some(Realtime { parent, directory, share });
        }
        legacy_writes(&directory, &has, resources, devices, &mut plan.writes);
        if has("memory") {
            plan.cgroups.oom = Some(OomCounter { path: directory.join("memory.oom_control") });
        }
        plan.cgroups.joined.push(directory.clone());
        plan.directories.push(directory);
    }
    plan
}

/// What is written to change the limits of container `name`, which has its groups: also where a limit is taken away that
/// a new group would not have. Its devices stay as they are.
#[must_use]
pub fn plan_change(hierarchies: &Hierarchies, name: &str, resources: &Resources) -> Plan {
    let all = DeviceRule { kind: 'a', major: None, minor: None, access: String::new() };
    let mut plan = plan(hierarchies, name, resources, &[all]);
    let mut lift = |path: PathBuf, text: &str| plan.writes.push(Write { path, text: text.to_owned(), optional: true });
    if resources.pids.is_none() {
        let limited = hierarchies.unified.iter().filter(|unified| !unified.bare).map(|unified| &unified.parent);
        for parent in limited.chain(hierarchies.legacy_with("pids").map(|legacy| &legacy.parent)) {
            lift(parent.join(name).join("pids.max"), "max");
        }
    }
    if swap_total(resources) == Some(u64::MAX)
        && let Some(legacy) = hierarchies.legacy_with("memory")
    {
        lift(legacy.parent.join(name).join("memory.memsw.limit_in_bytes"), "-1");
    }
    plan
}

fn swap_total(resources: &Resources) -> Option<u64> {
    resources.memory_and_swap_bytes.or_else(|| resources.memory_bytes.map(|bytes| bytes.saturating_mul(2)))
}

fn unified_writes(directory: &Path, resources: &Resources, writes: &mut Vec<Write>) {
    let mut write = |name: &str, text: String, optional: bool| {
        writes.push(Write { path: directory.join(name), text, optional });
    };
    if let Some((quota, period)) = processor_time(resources) {
        let quota = quota.map_or_else(|| "max".to_owned(), |quota| quota.to_string());
        write("cpu.max", format!("{quota} {period}"), false);
    }
    if let Some(shares) = resources.cpu_shares {
        write("cpu.weight", weight(shares).to_string(), false);
    }
    if let Some(cpus) = &resources.cpuset_cpus {
        write("cpuset.cpus", cpus.clone(), false);
    }
    if let Some(mems) = &resources.cpuset_mems {
        write("cpuset.mems", mems.clone(), false);
    }
    if let Some(bytes) = resources.memory_reservation_bytes {
        write("memory.low", bytes.to_string(), false);
    }
    if let Some(bytes) = resources.memory_bytes {
        write("memory.max", bytes.to_string(), false);
        let swap = match swap_total(resources) {
            Some(u64::MAX) | None => "max".to_owned(),
            Some(total) => total.saturating_sub(bytes).to_string(),
        };
        write("memory.swap.max", swap, true);
    }
    if let Some(pids) = resources.pids {
        write("pids.max", pids.to_string(), false);
    }
    if let Some(weight) = resources.blkio_weight {
        write("io.weight", format!("default {}", io_weight(weight)), true);
    }
    for own in &resources.blkio_device_weights {
        write("io.weight", format!("{} {}", own.device, io_weight(own.weight)), true);
    }
    for throttle in &resources.blkio_throttles {
        let what = match throttle.what {
            BlkioLimit::ReadBytes => "rbps",
            BlkioLimit::WriteBytes => "wbps",
            BlkioLimit::ReadOperations => "riops",
            BlkioLimit::WriteOperations => "wiops",
        };
        write("io.max", format!("{} {what}={}", throttle.device, throttle.rate), false);
    }
    // Version 2 has neither.
    if resources.swappiness.is_some() {
        write("memory.swappiness", String::new(), true);
    }
    if resources.oom_kill_disable {
        write("memory.oom_control", String::new(), true);
    }
}

fn legacy_writes(
    directory: &Path,
    has: &dyn Fn(&str) -> bool,
    resources: &Resources,
    devices: &[DeviceRule],
    writes: &mut Vec<Write>,
) {
    let mut write = |name: &str, text: String, optional: bool| {
        writes.push(Write { path: directory.join(name), text, optional });
    };
    if has("cpu") {
        if let Some((quota, period)) = processor_time(resources) {
            write("cpu.cfs_period_us", period.to_string(), false);
            if let Some(quota) = quota {
                write("cpu.cfs_quota_us", quota.to_string(), false);
            }
        }
        if let Some(period) = resources.cpu_realtime_period_us {
            write("cpu.rt_period_us", period.to_string(), false);
        }
        if let Some(runtime) = resources.cpu_realtime_runtime_us {
            write("cpu.rt_runtime_us", runtime.to_string(), false);
        }
        if let Some(shares) = resources.cpu_shares {
            write("cpu.shares", shares.clamp(2, 262_144).to_string(), false);
        }
    }
    if has("cpuset") {
        if let Some(cpus) = &resources.cpuset_cpus {
            write("cpuset.cpus", cpus.clone(), false);
        }
        if let Some(mems) = &resources.cpuset_mems {
            write("cpuset.mems", mems.clone(), false);
        }
    }
    if has("memory") {
        if let Some(bytes) = resources.memory_reservation_bytes {
            write("memory.soft_limit_in_bytes", bytes.to_string(), false);
        }
        if let Some(bytes) = resources.memory_bytes {
            write("memory.limit_in_bytes", bytes.to_string(), false);
            if let Some(total) = swap_total(resources).filter(|&total| total != u64::MAX) {
                write("memory.memsw.limit_in_bytes", total.to_string(), true);
            }
        }
    }
    if has("memory") {
        if let Some(swappiness) = resources.swappiness {
            write("memory.swappiness", swappiness.to_string(), true);
        }
        if resources.oom_kill_disable {
            write("memory.oom_control", "1".to_owned(), true);
        }
    }
    if has("blkio") {
        if let Some(weight) = resources.blkio_weight {
            // The file of the scheduler that is the only one to keep weights.
            write("blkio.bfq.weight", weight.to_string(), true);
        }
        for own in &resources.blkio_device_weights {
            write("blkio.bfq.weight_device", format!("{} {}", own.device, own.weight), true);
        }
        for throttle in &resources.blkio_throttles {
            let name = match throttle.what {
                BlkioLimit::ReadBytes => "blkio.throttle.read_bps_device",
                BlkioLimit::WriteBytes => "blkio.throttle.write_bps_device",
                BlkioLimit::ReadOperations => "blkio.throttle.read_iops_device",
                BlkioLimit::WriteOperations => "blkio.throttle.write_iops_device",
            };
            write(name, format!("{} {}", throttle.device, throttle.rate), false);
        }
    }
    if has("pids")
        && let Some(pids) = resources.pids
    {
        write("pids.max", pids.to_string(), false);
    }
    if has("devices") && !devices.iter().any(|rule| rule.kind == 'a') {
        write("devices.deny", "a".to_owned(), false);
        for rule in devices {
            write("devices.allow", rule.text(), false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::hierarchies::{Legacy, Unified};
    use super::*;

    fn limits() -> Resources {
        Resources {
            cpu_limit_millis: Some(500),
            cpu_shares: Some(1024),
            memory_bytes: Some(64 << 20),
            pids: Some(10),
            cpuset_cpus: Some("0".to_owned()),
            ..Resources::default()
        }
    }

    fn texts(plan: &Plan) -> Vec<String> {
        plan.writes.iter().map(|write| format!("{} = {}", write.path.display(), write.text)).collect()
    }

    #[test]
    fn version_2() {
        let hierarchies = Hierarchies {
            legacy: vec![],
            unified: Some(Unified { parent: "/c/stack".into(), mountpoint: "/c".into(), bare: false }),
        };
        let plan = plan(&hierarchies, "web", &limits(), &[]);
        assert_eq!(plan.delegating, [Path::new("/c"), Path::new("/c/stack")]);
        assert_eq!(plan.cgroups.joined, Vec::<PathBuf>::new());
        assert_eq!(plan.device_program, Some(("/c/stack/web".into(), vec![])));
        insta::assert_snapshot!(texts(&plan).join("\n"), @r"
        /c/stack/web/cpu.max = 50000 100000
        /c/stack/web/cpu.weight = 39
        /c/stack/web/cpuset.cpus = 0
        /c/stack/web/memory.max = 67108864
        /c/stack/web/memory.swap.max = 67108864
        /c/stack/web/pids.max = 10
        ");
        let changed = plan_change(&hierarchies, "web", &Resources::default());
        assert_eq!(texts(&changed), ["/c/stack/web/pids.max = max"]);
    }

    #[test]
    fn hybrid() {
        let legacy = |name: &str| Legacy {
            controllers: vec![name.to_owned()],
            parent: format!("/c/{name}/stack").into(),
            mountpoint: format!("/c/{name}").into(),
        };
        let hierarchies = Hierarchies {
            legacy: ["cpu", "cpuset", "memory", "pids", "devices"].map(legacy).to_vec(),
            unified: Some(Unified { parent: "/c/unified/d/stack".into(), mountpoint: "/c/unified".into(), bare: true }),
        };
        let null = DeviceRule { kind: 'c', major: Some(1), minor: Some(3), access: "rwm".to_owned() };
        let any = DeviceRule { kind: 'b', major: None, minor: None, access: "m".to_owned() };
        let made = plan(&hierarchies, "web", &limits(), &[null, any]);
        assert_eq!(made.directories.len(), 6);
        assert_eq!(made.device_program, None);
        assert_eq!(made.delegating, Vec::<PathBuf>::new());
        insta::assert_snapshot!(texts(&made).join("\n"), @r"
        /c/cpu/stack/web/cpu.cfs_period_us = 100000
        /c/cpu/stack/web/cpu.cfs_quota_us = 50000
        /c/cpu/stack/web/cpu.shares = 1024
        /c/cpuset/stack/web/cpuset.cpus = 0
        /c/memory/stack/web/memory.limit_in_bytes = 67108864
        /c/memory/stack/web/memory.memsw.limit_in_bytes = 134217728
        /c/pids/stack/web/pids.max = 10
        /c/devices/stack/web/devices.deny = a
        /c/devices/stack/web/devices.allow = c 1:3 rwm
        /c/devices/stack/web/devices.allow = b *:* m
        ");
        // Changed limits leave the devices alone, and take away what is not limited any more.
        let lifted = Resources { pids: None, memory_and_swap_bytes: Some(u64::MAX), ..limits() };
        let changed = plan_change(&hierarchies, "web", &lifted);
        insta::assert_snapshot!(texts(&changed).join("\n"), @r"
        /c/cpu/stack/web/cpu.cfs_period_us = 100000
        /c/cpu/stack/web/cpu.cfs_quota_us = 50000
        /c/cpu/stack/web/cpu.shares = 1024
        /c/cpuset/stack/web/cpuset.cpus = 0
        /c/memory/stack/web/memory.limit_in_bytes = 67108864
        /c/pids/stack/web/pids.max = max
        /c/memory/stack/web/memory.memsw.limit_in_bytes = -1
        ");
        // No set of processors is asked for: its hierarchy is left alone.
        let unlimited = plan(&hierarchies, "web", &Resources::default(), &[]);
        assert!(unlimited.cpusets.is_empty());
        assert_eq!(unlimited.directories.len(), 5);
    }
}
