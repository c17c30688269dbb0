//! What is counted about names, for Prometheus.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Counters of one host's name server.
#[derive(Debug, Clone, Default)]
pub struct NameMetrics {
    /// Containers that have a name server now.
    pub containers: Gauge,
    /// Questions that arrived.
    pub queries: Counter,
    /// Answers from what the networks know, absent names included.
    pub answers: Counter,
    /// Questions that went on to upstream servers.
    pub forwarded: Counter,
    /// Questions that were answered from what an upstream server said before.
    pub cached: Counter,
    /// Questions to which no upstream server had an answer.
    pub failures: Counter,
    /// Questions that were refused because a container had too many open.
    pub refused: Counter,
    /// Packets that are no question.
    pub malformed: Counter,
    /// Answers over UDP that were cut short.
    pub truncated: Counter,
}

impl NameMetrics {
    /// Makes them part of what is scraped.
    pub fn register(&self, registry: &mut Registry) {
        let group = registry.sub_registry_with_prefix("stack_dns");
        group.register("containers", "Containers that have a name server", self.containers.clone());
        group.register("queries", "Questions that arrived", self.queries.clone());
        group.register("answers", "Answers from what the networks know", self.answers.clone());
        group.register("forwarded", "Questions that went on to upstream servers", self.forwarded.clone());
        group.register("cached", "Answers from what upstream servers said before", self.cached.clone());
        group.register("failures", "Questions to which no upstream server had an answer", self.failures.clone());
        group.register("refused", "Questions refused because a container had too many open", self.refused.clone());
        group.register("malformed", "Packets that are no question", self.malformed.clone());
        group.register("truncated", "Answers over UDP that were cut short", self.truncated.clone());
    }
}
