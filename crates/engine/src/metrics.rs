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
}

impl Metrics {
    pub fn new() -> Self {
        Self {
            starts: Counter::default(),
            start_failures: Counter::default(),
            exits: Counter::default(),
            out_of_memory: Counter::default(),
            start_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
        }
    }

    pub fn register(&self, registry: &mut Registry) {
        let group = registry.sub_registry_with_prefix("stack_engine");
        group.register("container_starts", "Containers whose program was run", self.starts.clone());
        group.register("container_start_failures", "Starts that failed", self.start_failures.clone());
        group.register("container_exits", "Containers that ended", self.exits.clone());
        group.register("container_oom_kills", "Containers that ended short of memory", self.out_of_memory.clone());
        group.register(
            "container_start_seconds",
            "From the call to the running program",
            self.start_seconds.clone(),
        );
    }
}
