//! Pure. What a container may use of its host.

use bollard_stubs::models::{DeviceRequest, HostConfig, ResourcesBlkioWeightDevice, ThrottleDevice};
use stack_engine::container::{
    BlkioLimit, BlkioThrottle, BlkioWeight, ContainerConfig, DeviceMapping, Resources, Ulimit,
};

use super::{CreationError, World, invalid, nonempty, without};

/// Docker's least memory, in bytes.
const LEAST_MEMORY: i64 = 6 << 20;

/// A number of which zero is none.
fn positive(field: &'static str, number: Option<i64>) -> Result<Option<u64>, CreationError> {
    match number.unwrap_or(0) {
        0 => Ok(None),
        number => {
            let wrong = |_| invalid(field, number.to_string(), "it cannot be negative");
            u64::try_from(number).map(Some).map_err(wrong)
        }
    }
}

/// Applies them.
pub(super) fn apply(config: &mut ContainerConfig, host: &HostConfig, world: &World) -> Result<(), CreationError> {
    refuse(host)?;
    if (1..1_000).contains(&host.cpu_quota.unwrap_or(0)) {
        return Err(CreationError::Rule("CPU cfs quota can not be less than 1ms (i.e. 1000)"));
    }
    config.resources = Resources {
        cpu_limit_millis: processors(host, world)?,
        cpu_shares: positive("HostConfig.CpuShares", host.cpu_shares)?,
        cpuset_cpus: set("CPUs", "cpuset cpus", host.cpuset_cpus.as_ref(), &world.online.processors)?,
        cpuset_mems: set("memory nodes", "cpuset mems", host.cpuset_mems.as_ref(), &world.online.memory_nodes)?,
        pids: host.pids_limit.and_then(|limit| u64::try_from(limit).ok()).filter(|&limit| limit > 0),
        cpu_quota_us: host.cpu_quota.and_then(|quota| u64::try_from(quota).ok()).filter(|&quota| quota > 0),
        cpu_realtime_runtime_us: positive("HostConfig.CpuRealtimeRuntime", host.cpu_realtime_runtime)?,
        cpu_realtime_period_us: positive("HostConfig.CpuRealtimePeriod", host.cpu_realtime_period)?,
        cpu_period_us: period(host.cpu_period)?,
        oom_kill_disable: host.oom_kill_disable.unwrap_or(false),
        blkio_weight: blkio_weight(host.blkio_weight)?,
        blkio_device_weights: device_weights(host)?,
        blkio_throttles: throttles(host)?,
        ..memory(host)?
    };
    let resources = &config.resources;
    let realtime = resources.cpu_realtime_runtime_us.zip(resources.cpu_realtime_period_us);
    if realtime.is_some_and(|(runtime, period)| runtime > period) {
        return Err(CreationError::Rule("cpu real-time runtime cannot be higher than cpu real-time period"));
    }
    config.cgroup_parent = nonempty(host.cgroup_parent.clone());
    config.storage_size = storage_size(host)?;
    config.devices = devices(host)?;
    config.cdi_devices = named_devices(host)?;
    config.device_cgroup_rules = host.device_cgroup_rules.clone().unwrap_or_default();
    for limit in host.ulimits.iter().flatten() {
        let name = limit.name.clone().unwrap_or_default().to_ascii_lowercase();
        let soft = limit.soft.unwrap_or(0);
        config.ulimits.insert(name, Ulimit { soft, hard: limit.hard.unwrap_or(soft) });
    }
    config.shm_size = match host.shm_size.unwrap_or(0) {
        0 => None,
        size => Some(u64::try_from(size).map_err(|_| CreationError::Rule("SHM size can not be less than 0"))?),
    };
    let score = host.oom_score_adj.unwrap_or(0);
    config.oom_score_adj = Some(
        i32::try_from(score)
            .ok()
            .filter(|score| (-1000..=1000).contains(score))
            .ok_or_else(|| invalid("OomScoreAdj", score.to_string(), "range for oom score adj is [-1000, 1000]"))?,
    )
    .filter(|&score| score != 0);
    Ok(())
}

/// How much it may write. Of Docker's options of its storage drivers there is the size alone.
fn storage_size(host: &HostConfig) -> Result<Option<u64>, CreationError> {
    let mut size = None;
    for (option, value) in host.storage_opt.iter().flatten() {
        if !option.eq_ignore_ascii_case("size") {
            return Err(invalid(
                "HostConfig.StorageOpt",
                option,
                "unknown option: the only one is `size`, as in `size=10G`",
            ));
        }
        let bytes = bytes(value).filter(|bytes| *bytes > 0);
        size = Some(bytes.ok_or_else(|| {
            invalid("HostConfig.StorageOpt size", value, "expected a number of bytes above 0, such as `10G` or `512m`")
        })?);
    }
    Ok(size)
}

/// A number of bytes as Docker has them: `10G`, `1.5gb`, `512 MiB`, each unit 1024 times the one before.
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim_start().to_ascii_lowercase();
    let factor = match unit.strip_suffix('b').unwrap_or(&unit).trim_end_matches('i') {
        "" if unit != "i" && unit != "ib" => 1.0,
        "k" => 1024.0,
        "m" => 1_048_576.0,
        "g" => 1_073_741_824.0,
        "t" => 1_099_511_627_776.0,
        "p" => 1_125_899_906_842_624.0,
        _ => return None,
    };
    let bytes = number.parse::<f64>().ok()? * factor;
    // Exact where it fits: nothing has more bytes than 2 to the power of 53.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is within what the type can hold")]
    (bytes.is_finite() && (0.0..9.0e15).contains(&bytes)).then_some(bytes as u64)
}

/// The limits of a container that is there, with those that are named in place of its own.
pub(super) fn changed(host: &HostConfig, now: &Resources, world: &World) -> Result<Resources, CreationError> {
    let mut host = host.clone();
    // What is compared with each other is compared as it will be.
    let signed = |bytes: Option<u64>| bytes.map(|bytes| i64::try_from(bytes).unwrap_or(-1));
    let names_memory = host.memory.unwrap_or(0) != 0;
    if host.memory_swap.unwrap_or(0) == 0 && names_memory {
        host.memory_swap = signed(now.memory_and_swap_bytes);
        if host.memory_swap.zip(host.memory).is_some_and(|(both, memory)| both >= 0 && both < memory) {
            return Err(CreationError::Rule(
                "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
            ));
        }
    }
    if !names_memory {
        host.memory = signed(now.memory_bytes);
    }
    without(host.device_requests.as_ref().is_some_and(|asked| !asked.is_empty()), "HostConfig.DeviceRequests")?;
    let mut asked = ContainerConfig::default();
    apply(&mut asked, &host, world)?;
    let asked = asked.resources;
    let mut made = now.clone();
    if asked.cpu_limit_millis.is_some() {
        made.cpu_limit_millis = asked.cpu_limit_millis;
        (made.cpu_quota_us, made.cpu_period_us) = (None, None);
    } else if asked.cpu_quota_us.is_some() || asked.cpu_period_us.is_some() {
        if now.cpu_limit_millis.is_some() {
            return Err(CreationError::Conflict {
                one: "CPU quota and period",
                other: "the NanoCPUs that were set before: change those",
            });
        }
        made.cpu_quota_us = asked.cpu_quota_us.or(now.cpu_quota_us);
        made.cpu_period_us = asked.cpu_period_us.or(now.cpu_period_us);
    }
    made.cpu_shares = asked.cpu_shares.or(made.cpu_shares);
    made.cpu_realtime_runtime_us = asked.cpu_realtime_runtime_us.or(made.cpu_realtime_runtime_us);
    made.cpu_realtime_period_us = asked.cpu_realtime_period_us.or(made.cpu_realtime_period_us);
    made.cpuset_cpus = asked.cpuset_cpus.or(made.cpuset_cpus);
    made.cpuset_mems = asked.cpuset_mems.or(made.cpuset_mems);
    made.memory_bytes = asked.memory_bytes.or(made.memory_bytes);
    made.memory_reservation_bytes = asked.memory_reservation_bytes.or(made.memory_reservation_bytes);
    made.memory_and_swap_bytes = asked.memory_and_swap_bytes.or(made.memory_and_swap_bytes);
    made.blkio_weight = asked.blkio_weight.or(made.blkio_weight);
    match host.pids_limit {
        Some(limit) if limit < 0 => made.pids = None,
        _ => made.pids = asked.pids.or(made.pids),
    }
    Ok(made)
}

/// Devices by name. Docker's clients send a request to the driver `cdi` for a `--device` that is no path, and one for the
/// capability `gpu`, to the driver `nvidia` or to none, for `--gpus`.
fn named_devices(host: &HostConfig) -> Result<Vec<String>, CreationError> {
    let mut names: Vec<String> = Vec::new();
    for request in host.device_requests.iter().flatten() {
        let ids = request.device_ids.as_deref().unwrap_or_default();
        let found = match request.driver.as_deref().unwrap_or_default() {
            "cdi" => {
                if request.count.unwrap_or(0) != 0 {
                    return Err(CreationError::Rule(
                        "devices of the driver cdi are requested by their DeviceIDs, not by a Count",
                    ));
                }
                ids.to_vec()
            }
            "" | "nvidia" if is_for_gpus(request) => nvidia_devices(ids, request.count.unwrap_or(0))?,
            driver => {
                let capabilities = request.capabilities.iter().flatten().map(|all| format!("[{}]", all.join(" ")));
                return Err(CreationError::DeviceDriver {
                    driver: driver.to_owned(),
                    capabilities: capabilities.collect::<Vec<_>>().join(" "),
                });
            }
        };
        if request.options.as_ref().is_some_and(|options| !options.is_empty()) {
            return Err(CreationError::Rule("the device drivers cdi and nvidia take no options"));
        }
        for name in found {
            if !stack_engine::cdi::is_qualified(&name) {
                return Err(invalid(
                    "CDI device name",
                    &name,
                    "expected VENDOR/CLASS=NAME, such as vendor.com/device=0",
                ));
            }
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    Ok(names)
}

/// Whether one of the alternatives of a request is what NVIDIA's driver can do, graphics processors among it.
fn is_for_gpus(request: &DeviceRequest) -> bool {
    const KNOWN: [&str; 8] = ["gpu", "nvidia", "compute", "compat32", "graphics", "utility", "video", "display"];
    let suits = |all: &Vec<String>| {
        all.iter().any(|one| one == "gpu" || one == "nvidia") && all.iter().all(|one| KNOWN.contains(&one.as_str()))
    };
    request.capabilities.iter().flatten().any(suits)
}

/// The names that NVIDIA's own tool gives the devices of a host: by their number or identifier, or `all`. A number of devices are the
/// first ones, as with Docker.
fn nvidia_devices(ids: &[String], count: i64) -> Result<Vec<String>, CreationError> {
    const KIND: &str = "nvidia.com/gpu";
    /// More than any host has.
    const MOST: i64 = 1024;
    if count != 0 && !ids.is_empty() {
        return Err(CreationError::Rule("cannot set both Count and DeviceIDs on device request"));
    }
    match count {
        0 => {
            let name = |id: &String| if id.starts_with(KIND) { id.clone() } else { format!("{KIND}={id}") };
            Ok(ids.iter().map(name).collect())
        }
        ..0 => Ok(vec![format!("{KIND}=all")]),
        1..=MOST => Ok((0..count).map(|index| format!("{KIND}={index}")).collect()),
        _ => Err(CreationError::Rule("a device request's Count is at most 1024, or -1 for all devices")),
    }
}

/// What no Linux container of this daemon can have.
fn refuse(host: &HostConfig) -> Result<(), CreationError> {
    let is_set = |number: Option<i64>| number.unwrap_or(0) != 0;
    let for_windows = [host.cpu_count, host.cpu_percent, host.io_maximum_iops, host.io_maximum_bandwidth];
    if for_windows.into_iter().any(is_set) {
        return Err(CreationError::Rule(
            "CpuCount, CpuPercent, IOMaximumIOps and IOMaximumBandwidth are for containers of Windows",
        ));
    }
    Ok(())
}

/// A list of the kernel's: `0-3,8`. `None`: it is no such list.
fn listed(text: &str) -> Option<Vec<std::ops::RangeInclusive<u32>>> {
    let number = |text: &str| text.trim().parse::<u32>().ok();
    let part = |part: &str| match part.split_once('-') {
        None => number(part).map(|single| single..=single),
        Some((first, last)) => Some(number(first)?..=number(last)?).filter(|range| !range.is_empty()),
    };
    text.split(',').map(part).collect()
}

/// Processors or memory nodes that a container is kept to.
fn set(
    what: &'static str,
    field: &'static str,
    asked: Option<&String>,
    available: &str,
) -> Result<Option<String>, CreationError> {
    let Some(asked) = asked.filter(|asked| !asked.is_empty()) else { return Ok(None) };
    let short = |text: &str| text.chars().take(200).collect::<String>();
    let wanted = listed(asked).ok_or_else(|| CreationError::NoSet { field, value: short(asked) })?;
    let there = listed(available).unwrap_or_default();
    let is_there = |number: u32| there.iter().any(|range| range.contains(&number));
    // Where what there is is not known the kernel has the word. A range is looked at only as far as there can be something.
    if !there.is_empty() && wanted.into_iter().any(|range| range.take(1 << 16).any(|number| !is_there(number))) {
        return Err(CreationError::NotOnline { what, asked: short(asked), available: available.to_owned() });
    }
    Ok(Some(asked.clone()))
}

/// Of the scheduler, in microseconds.
fn period(period: Option<i64>) -> Result<Option<u64>, CreationError> {
    match positive("HostConfig.CpuPeriod", period)? {
        None => Ok(None),
        Some(period @ 1_000..=1_000_000) => Ok(Some(period)),
        Some(_) => Err(CreationError::Rule(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        )),
    }
}

/// In thousandths of one.
fn processors(host: &HostConfig, world: &World) -> Result<Option<u64>, CreationError> {
    let Some(billionths) = positive("HostConfig.NanoCpus", host.nano_cpus)? else { return Ok(None) };
    if host.cpu_quota.unwrap_or(0) > 0 {
        return Err(CreationError::Conflict { one: "Nano CPUs", other: "CPU Quota cannot both be set" });
    }
    if host.cpu_period.unwrap_or(0) > 0 {
        return Err(CreationError::Conflict { one: "Nano CPUs", other: "CPU Period cannot both be set" });
    }
    if billionths < 10_000_000 || billionths > u64::from(world.processors) * 1_000_000_000 {
        return Err(CreationError::Processors { processors: world.processors });
    }
    Ok(Some(billionths.div_ceil(1_000_000)))
}

fn memory(host: &HostConfig) -> Result<Resources, CreationError> {
    let memory = positive("HostConfig.Memory", host.memory)?;
    if host.memory.is_some_and(|bytes| bytes > 0 && bytes < LEAST_MEMORY) {
        return Err(CreationError::Rule("Minimum memory limit allowed is 6MB"));
    }
    let both = match host.memory_swap.unwrap_or(0) {
        0 => None,
        -1 => Some(u64::MAX),
        bytes => {
            let bytes = u64::try_from(bytes).map_err(|_| {
                invalid("HostConfig.MemorySwap", bytes.to_string(), "expected a number of bytes, or -1 for no limit")
            })?;
            match memory {
                None => {
                    return Err(CreationError::Rule(
                        "You should always set the Memory limit when using Memoryswap limit, see usage",
                    ));
                }
                Some(memory) if bytes < memory => {
                    return Err(CreationError::Rule(
                        "Minimum memoryswap limit should be larger than memory limit, see usage",
                    ));
                }
                Some(_) => Some(bytes),
            }
        }
    };
    let reservation = positive("HostConfig.MemoryReservation", host.memory_reservation)?;
    if memory.zip(reservation).is_some_and(|(memory, reservation)| reservation > memory) {
        return Err(CreationError::Rule(
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        ));
    }
    let swappiness = match host.memory_swappiness.unwrap_or(-1) {
        -1 => None,
        number => Some(u64::try_from(number).ok().filter(|&number| number <= 100).ok_or_else(|| {
            invalid("HostConfig.MemorySwappiness", number.to_string(), "valid memory swappiness range is 0-100")
        })?),
    };
    Ok(Resources {
        memory_bytes: memory,
        memory_reservation_bytes: reservation,
        // Without a limit of memory there is none of both either.
        memory_and_swap_bytes: both.filter(|_| memory.is_some()),
        swappiness,
        ..Resources::default()
    })
}

fn blkio_weight(weight: Option<u16>) -> Result<Option<u16>, CreationError> {
    match weight.unwrap_or(0) {
        0 => Ok(None),
        weight @ 10..=1000 => Ok(Some(weight)),
        _ => Err(CreationError::Rule("Range of blkio weight is from 10 to 1000")),
    }
}

fn device_weights(host: &HostConfig) -> Result<Vec<BlkioWeight>, CreationError> {
    let one = |asked: &ResourcesBlkioWeightDevice| {
        let device = asked.path.clone().unwrap_or_default();
        if !device.starts_with('/') {
            return Err(invalid("blkio weight of device", device, "expected the absolute path of a block device"));
        }
        let weight = asked.weight.and_then(|weight| u16::try_from(weight).ok());
        let weight = weight.filter(|weight| (10..=1000).contains(weight));
        weight
            .map(|weight| BlkioWeight { device, weight })
            .ok_or(CreationError::Rule("Range of blkio weight is from 10 to 1000"))
    };
    host.blkio_weight_device.iter().flatten().map(one).collect()
}

fn throttles(host: &HostConfig) -> Result<Vec<BlkioThrottle>, CreationError> {
    let kinds: [(&Option<Vec<ThrottleDevice>>, BlkioLimit); 4] = [
        (&host.blkio_device_read_bps, BlkioLimit::ReadBytes),
        (&host.blkio_device_write_bps, BlkioLimit::WriteBytes),
        (&host.blkio_device_read_iops, BlkioLimit::ReadOperations),
        (&host.blkio_device_write_iops, BlkioLimit::WriteOperations),
    ];
    let mut all = Vec::new();
    for (devices, what) in kinds {
        for device in devices.iter().flatten() {
            let path = device.path.clone().unwrap_or_default();
            let rate = device.rate.and_then(|rate| u64::try_from(rate).ok()).filter(|&rate| rate > 0);
            let Some(rate) = rate else {
                return Err(invalid("blkio throttle of device", path, "expected a rate above 0"));
            };
            if !path.starts_with('/') {
                return Err(invalid("blkio throttle of device", path, "expected the absolute path of a block device"));
            }
            all.push(BlkioThrottle { device: path, what, rate });
        }
    }
    Ok(all)
}

fn devices(host: &HostConfig) -> Result<Vec<DeviceMapping>, CreationError> {
    let devices = host.devices.iter().flatten();
    devices
        .map(|device| {
            let source = device.path_on_host.clone().unwrap_or_default();
            if !source.starts_with('/') {
                return Err(invalid("device", source, "expected the absolute path of a device of the host"));
            }
            let target = nonempty(device.path_in_container.clone()).unwrap_or_else(|| source.clone());
            let permissions = nonempty(device.cgroup_permissions.clone()).unwrap_or_else(|| "rwm".to_owned());
            Ok(DeviceMapping { source, target, permissions })
        })
        .collect()
}
