//! What is counted about containers, for Prometheus.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Counters and histograms of one engine.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    pub starts: Counter,
    pub start_failures: Counter,
    pub exits: Counter,
    pub out_of_memory: Counter,
    pub start_seconds: Histogram,
    pub logs: crate::logs::delivery::Counters,
}

impl Metrics {
    pub fn new() -> Self {
        Self {
            starts: Counter::default(),
            start_failures: Counter::default(),
            exits: Counter::default(),
            out_of_memory: Counter::default(),
            start_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
            logs: crate::logs::delivery::Counters::default(),
        }
    }

    pub fn register(&self, registry: &mut Registry) {
        let group = registry.sub_registry_with_prefix("stack_engine");
        group.register("container_starts", "Containers whose program was run", self.starts.clone());
        group.register("container_start_failures", "Starts that failed", self.start_failures.clone());
        group.register("container_exits", "Containers that ended", self.exits.clone());
        group.register("container_oom_kills", "Containers that ended short of memory", self.out_of_memory.clone());
        group.register("container_start_seconds", "From the call to the running program", self.start_seconds.clone());
        group.register("log_lines_sent", "Lines that log drivers have sent", self.logs.sent.clone());
        group.register("log_send_failures", "Attempts of log drivers that failed", self.logs.failures.clone());
        group.register("log_lines_lost", "Lines that log drivers have given up", self.logs.lost_lines.clone());
        group.register("log_files_lost", "Files rotated away before they were sent", self.logs.lost_files.clone());
    }
}
