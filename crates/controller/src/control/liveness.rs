//! Pure. Which nodes are heard, counted in the leader's own ticks rather than by a clock: a leader that was itself held up
//! did not tick meanwhile and so raises no false alarm.

use std::collections::{BTreeMap, BTreeSet};

use stack_model::{NodeId, Readiness};

/// What the leader has heard since it leads.
#[derive(Debug)]
pub struct Liveness {
    /// So many ticks of silence are too many.
    patience: u64,
    /// No node is declared down before this tick.
    grace: u64,
    tick: u64,
    /// The tick at which each node was last heard.
    heard: BTreeMap<NodeId, u64>,
}

impl Liveness {
    /// For a leader that begins now. Both in ticks.
    #[must_use]
    pub const fn new(patience: u64, grace: u64) -> Self {
        Self { patience, grace, tick: 0, heard: BTreeMap::new() }
    }

    /// Nodes were heard since the last tick.
    pub fn heard(&mut self, nodes: impl IntoIterator<Item = NodeId>) {
        for node in nodes {
            self.heard.insert(node, self.tick);
        }
    }

    /// Time goes on. Answers the nodes whose readiness is not what it should be.
    pub fn tick(&mut self, nodes: impl IntoIterator<Item = (NodeId, Readiness)>) -> BTreeMap<NodeId, Readiness> {
        self.tick += 1;
        let mut changes = BTreeMap::new();
        let mut members = BTreeSet::new();
        for (node, present) in nodes {
            members.insert(node);
            let silent_for = self.heard.get(&node).map(|heard| self.tick - heard);
            let should = match silent_for {
                Some(ticks) if ticks <= self.patience => Readiness::Ready,
                // A new leader has not heard anybody: what the last one knew stands until the grace is over.
                _ if self.tick <= self.grace => present,
                Some(_) | None => Readiness::Down,
            };
            if should != present {
                changes.insert(node, should);
            }
        }
        self.heard.retain(|node, _| members.contains(node));
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId::from_bits(1);

    #[test]
    fn a_silent_node_is_down_after_its_patience_and_not_before() {
        let mut liveness = Liveness::new(3, 0);
        liveness.heard([NODE]);
        for _ in 0..3 {
            assert!(liveness.tick([(NODE, Readiness::Ready)]).is_empty());
        }
        assert_eq!(liveness.tick([(NODE, Readiness::Ready)]), BTreeMap::from([(NODE, Readiness::Down)]));
        liveness.heard([NODE]);
        assert_eq!(liveness.tick([(NODE, Readiness::Down)]), BTreeMap::from([(NODE, Readiness::Ready)]));
    }

    #[test]
    fn a_new_leader_declares_nobody_down_at_first() {
        let mut liveness = Liveness::new(2, 5);
        for _ in 0..5 {
            assert!(liveness.tick([(NODE, Readiness::Ready)]).is_empty());
        }
        assert_eq!(liveness.tick([(NODE, Readiness::Ready)]), BTreeMap::from([(NODE, Readiness::Down)]));
    }

    #[test]
    fn a_node_that_is_heard_is_ready_also_in_the_grace() {
        let mut liveness = Liveness::new(2, 100);
        liveness.heard([NODE]);
        assert_eq!(liveness.tick([(NODE, Readiness::Down)]), BTreeMap::from([(NODE, Readiness::Ready)]));
    }

    #[test]
    fn who_left_is_forgotten() {
        let mut liveness = Liveness::new(2, 0);
        liveness.heard([NODE]);
        liveness.tick([]);
        assert!(liveness.heard.is_empty());
    }
}
