//! Pure. What a container uses, in the words of `/containers/{id}/stats`.

use serde_json::{Map, Value, json};
use stack_engine::cgroup::Statistics;

/// One look at a container and its host.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// Nanoseconds since the Unix epoch.
    pub time: u64,
    /// Of the container.
    pub statistics: Statistics,
    /// Processor time of the whole host, in nanoseconds.
    pub host_cpu: u64,
}

/// The document for a look, with the one before it.
pub fn document(id: &str, name: &str, now: &Sample, before: &Sample, processors: u32, host_memory: u64) -> Value {
    let memory = memory(&now.statistics, host_memory);
    let devices = |value: &dyn Fn(&stack_engine::cgroup::DeviceTraffic) -> [u64; 2]| -> Vec<Value> {
        let entry = |major: u64, minor: u64, op: &str, value: u64| json!({"major": major, "minor": minor, "op": op, "value": value});
        let all = now.statistics.devices.iter();
        all.flat_map(|device| {
            let [read, write] = value(device);
            [entry(device.major, device.minor, "read", read), entry(device.major, device.minor, "write", write)]
        })
        .collect()
    };
    let networks: Map<String, Value> = now
        .statistics
        .interfaces
        .iter()
        .map(|(name, traffic)| {
            let ([rx_bytes, rx_packets, rx_errors, rx_dropped], [tx_bytes, tx_packets, tx_errors, tx_dropped]) =
                (traffic.received, traffic.sent);
            let counts = json!({
                "rx_bytes": rx_bytes, "rx_packets": rx_packets, "rx_errors": rx_errors, "rx_dropped": rx_dropped,
                "tx_bytes": tx_bytes, "tx_packets": tx_packets, "tx_errors": tx_errors, "tx_dropped": tx_dropped,
            });
            (name.clone(), counts)
        })
        .collect();
    let mut document = json!({
        "id": id,
        "name": format!("/{name}"),
        "read": super::text::nanoseconds(now.time),
        "preread": super::text::nanoseconds(before.time),
        "pids_stats": {"current": now.statistics.pids, "limit": now.statistics.pids_limit},
        "blkio_stats": {
            "io_service_bytes_recursive": devices(&|device| [device.read_bytes, device.write_bytes]),
            "io_serviced_recursive": devices(&|device| [device.reads, device.writes]),
        },
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": cpu(now, processors),
        "precpu_stats": if before.time == 0 { json!({"cpu_usage": {"total_usage": 0}, "throttling_data": {}}) } else { cpu(before, processors) },
        "memory_stats": memory,
    });
    if !networks.is_empty() {
        document["networks"] = Value::Object(networks);
    }
    document
}

fn cpu(sample: &Sample, processors: u32) -> Value {
    let (cpu, throttled) = (&sample.statistics.cpu, &sample.statistics.throttled);
    json!({
        "cpu_usage": {
            "total_usage": cpu.total,
            "usage_in_usermode": cpu.user,
            "usage_in_kernelmode": cpu.system,
        },
        "system_cpu_usage": sample.host_cpu,
        "online_cpus": processors,
        "throttling_data": {
            "periods": throttled.periods,
            "throttled_periods": throttled.throttled_periods,
            "throttled_time": throttled.time,
        },
    })
}

fn memory(statistics: &Statistics, host_memory: u64) -> Value {
    let mut memory = json!({
        "usage": statistics.memory_bytes,
        "stats": statistics.memory,
        "limit": statistics.memory_limit_bytes.unwrap_or(host_memory).min(host_memory),
    });
    if let Some(most) = statistics.memory_most_bytes {
        memory["max_usage"] = most.into();
    }
    if let Some(failures) = statistics.memory_failures {
        memory["failcnt"] = failures.into();
    }
    memory
}

/// The first line of /proc/stat (proc(5)) in nanoseconds: all that the processors of a host have done and waited. `hertz` is
/// the unit of that file.
pub fn host_cpu(stat: &str, hertz: u64) -> u64 {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "));
    // The time of guests is in that of users already.
    let ticks: u64 = line
        .into_iter()
        .flat_map(|line| line.split_whitespace().take(8))
        .filter_map(|word| word.parse::<u64>().ok())
        .sum();
    ticks.saturating_mul(1_000_000_000 / hertz.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use stack_engine::cgroup::{CpuTimes, DeviceTraffic, InterfaceTraffic};

    #[test]
    fn a_look_in_dockers_words() {
        let mut statistics = Statistics { memory_bytes: 5, pids: 2, ..Statistics::default() };
        statistics.cpu = CpuTimes { total: 30, user: 20, system: 10 };
        statistics.devices = vec![DeviceTraffic { major: 8, minor: 1, read_bytes: 4, ..DeviceTraffic::default() }];
        statistics
            .interfaces
            .insert("eth0".to_owned(), InterfaceTraffic { received: [1, 2, 3, 4], sent: [5, 6, 7, 8] });
        let now = Sample { time: 1_700_000_000_000_000_000, statistics, host_cpu: 100 };
        let made = document("aa", "web", &now, &Sample::default(), 2, 99);
        assert_eq!(
            (&made["cpu_stats"]["cpu_usage"]["total_usage"], &made["cpu_stats"]["online_cpus"]),
            (&json!(30), &json!(2))
        );
        assert_eq!((&made["memory_stats"]["limit"], &made["networks"]["eth0"]["tx_packets"]), (&json!(99), &json!(6)));
        assert_eq!(made["blkio_stats"]["io_service_bytes_recursive"][0]["value"], json!(4));
        assert_eq!(made["precpu_stats"]["cpu_usage"]["total_usage"], json!(0));
        assert_eq!(host_cpu("cpu  1 2 3 4 5 6 7 8 9 9\ncpu0 1\n", 100), 36 * 10_000_000);
    }
}
