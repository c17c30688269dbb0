//! Prometheus metrics of the agent.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepLabels {
    step: &'static str,
    outcome: &'static str,
}

/// What the agent counts.
#[derive(Debug, Clone, Default)]
pub struct AgentMetrics(Arc<Metrics>);

#[derive(Debug, Default)]
struct Metrics {
    steps: Family<StepLabels, Counter>,
    assigned: Gauge<i64, AtomicI64>,
    containers: Gauge<i64, AtomicI64>,
    reports: Counter,
    lost_contacts: Counter,
}

impl AgentMetrics {
    /// Registers the metrics, all named `stack_agent_…`.
    pub fn register(&self, registry: &mut Registry) {
        let metrics = &self.0;
        registry.register("stack_agent_steps", "Steps carried out, by kind and outcome", metrics.steps.clone());
        registry.register("stack_agent_assigned_tasks", "Tasks in the assignment", metrics.assigned.clone());
        registry.register("stack_agent_containers", "Containers of tasks on the host", metrics.containers.clone());
        registry.register("stack_agent_reports", "Reports that a controller took", metrics.reports.clone());
        registry.register(
            "stack_agent_failed_calls",
            "Calls to a controller that failed or found no leader",
            metrics.lost_contacts.clone(),
        );
    }

    pub(crate) fn step(&self, step: &'static str, succeeded: bool) {
        let outcome = if succeeded { "done" } else { "failed" };
        self.0.steps.get_or_create(&StepLabels { step, outcome }).inc();
    }

    pub(crate) fn tasks(&self, assigned: usize, containers: usize) {
        self.0.assigned.set(i64::try_from(assigned).unwrap_or(i64::MAX));
        self.0.containers.set(i64::try_from(containers).unwrap_or(i64::MAX));
    }

    pub(crate) fn reported(&self) {
        self.0.reports.inc();
    }

    pub(crate) fn failed_call(&self) {
        self.0.lost_contacts.inc();
    }
}
