//! What this controller counts, in Prometheus' form.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use stack_model::Readiness;

use crate::store::Store;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReadinessLabel {
    readiness: &'static str,
}

/// The counters of one controller.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    term: Gauge<u64, AtomicU64>,
    last_log: Gauge<u64, AtomicU64>,
    applied: Gauge<u64, AtomicU64>,
    leads: Gauge<i64, AtomicI64>,
    revision: Gauge<u64, AtomicU64>,
    tasks: Gauge<u64, AtomicU64>,
    nodes: Family<ReadinessLabel, Gauge<u64, AtomicU64>>,
    /// How long the planner took, in seconds.
    pub(crate) plan_seconds: Histogram,
    /// Changes that plans committed.
    pub(crate) changes: Counter,
    /// Reports taken from nodes.
    pub(crate) reports: Counter,
    /// Heartbeats taken from nodes.
    pub(crate) heartbeats: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("stack_controller"),
            term: Gauge::default(),
            last_log: Gauge::default(),
            applied: Gauge::default(),
            leads: Gauge::default(),
            revision: Gauge::default(),
            tasks: Gauge::default(),
            nodes: Family::default(),
            plan_seconds: Histogram::new(exponential_buckets(0.000_05, 2.0, 16)),
            changes: Counter::default(),
            reports: Counter::default(),
            heartbeats: Counter::default(),
        };
        let registry = &mut metrics.registry;
        registry.register("raft_term", "The present term", metrics.term.clone());
        registry.register("raft_last_log_index", "The last entry of the log", metrics.last_log.clone());
        registry.register("raft_applied_index", "The last entry that was applied", metrics.applied.clone());
        registry.register("raft_leader", "1 where this controller leads", metrics.leads.clone());
        registry.register("state_revision", "The revision of the state", metrics.revision.clone());
        registry.register("tasks", "Tasks in the state", metrics.tasks.clone());
        registry.register("nodes", "Nodes by readiness", metrics.nodes.clone());
        registry.register(
            "plan_duration_seconds",
            "Time taken by one run of the planner",
            metrics.plan_seconds.clone(),
        );
        registry.register("plan_changes", "Changes that plans committed", metrics.changes.clone());
        registry.register("reports", "Reports taken from nodes", metrics.reports.clone());
        registry.register("heartbeats", "Heartbeats taken from nodes", metrics.heartbeats.clone());
        metrics
    }
}

impl Metrics {
    /// All of them as text.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn render(&self, store: &Store) -> Result<String, std::fmt::Error> {
        let raft = store.raft_metrics();
        self.term.set(raft.current_term);
        self.last_log.set(raft.last_log_index.unwrap_or(0));
        self.applied.set(raft.last_applied.map_or(0, |applied| applied.index));
        self.leads.set(i64::from(store.is_leader()));
        let state = store.state();
        self.revision.set(state.revision);
        self.tasks.set(state.tasks.len() as u64);
        let ready = state.nodes.values().filter(|node| node.readiness == Readiness::Ready).count() as u64;
        let set = |readiness, count| {
            self.nodes.get_or_create(&ReadinessLabel { readiness }).set(count);
        };
        set("ready", ready);
        set("down", state.nodes.len() as u64 - ready);
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
