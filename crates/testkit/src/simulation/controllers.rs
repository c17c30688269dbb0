//! The controllers: one replicated state, and whoever leads. Raft is modelled by what it promises: entries are applied
//! in one order, and a proposal of a former leader may be lost or land late.

use std::collections::BTreeMap;

use stack_model::{NodeId, Readiness, Report, Timestamp};
use stack_planner::{Applied, Command, Entry, Ids, Rejected, State, apply, assignment, plan};

use super::world::{EPOCH, Event, World};

/// Silence after which a node is down, as the controllers' liveness watch has it.
const SILENCE: u64 = 2_500;
const LIVENESS_TICK: u64 = 250;

/// Whoever leads, with all that is lost when it does not any more.
#[derive(Debug, Clone, Default)]
pub(super) struct Leader {
    pub(super) term: u64,
    /// Nobody leads while false.
    pub(super) up: bool,
    /// How wrong its clock is, in milliseconds.
    pub(super) clock_error: i64,
    /// A plan is on its way through the log.
    pub(super) committing: bool,
    /// When it looks again; an earlier wake-up replaces a later one.
    pub(super) plans_at: Option<u64>,
    last_heard: BTreeMap<NodeId, u64>,
}

impl World {
    pub(super) fn leader_clock(&self) -> Timestamp {
        Timestamp((EPOCH + self.now).saturating_add_signed(self.leader.clock_error))
    }

    /// Applies one entry of the log, and checks what must hold after each.
    pub(super) fn commit(&mut self, command: Command) -> Result<Result<Applied, Rejected>, String> {
        let kind = command.kind();
        let before = self.state.clone();
        let entry = Entry { revision: self.state.revision + 1, time: self.leader_clock(), request: None };
        let outcome = apply(&mut self.state, entry, command);
        let changed = matches!(outcome, Ok(Applied { changed: true, .. }));
        self.tell(|world| match &outcome {
            Ok(applied) => format!("log {}: {kind} {}", world.state.revision, describe(*applied)),
            Err(rejected) => format!("log {}: {kind} refused: {rejected}", world.state.revision),
        });
        self.check_entry(&before, &outcome)?;
        if changed {
            self.summary.entries += 1;
            self.moved(|| format!("an entry `{kind}`"));
            self.announce_assignments(&before);
        }
        if let Ok(applied) = outcome {
            self.summary.skipped += u64::from(applied.skipped);
        }
        self.wake_leader(1);
        Ok(outcome)
    }

    /// The watches of the nodes whose assignment has changed are answered.
    fn announce_assignments(&mut self, before: &State) {
        let changed: Vec<NodeId> = self
            .state
            .generations
            .iter()
            .filter(|(node, generation)| before.generations.get(*node) != Some(*generation))
            .map(|(node, _)| *node)
            .collect();
        for node in changed {
            self.send_assignment(node);
        }
    }

    pub(super) fn send_assignment(&mut self, node: NodeId) {
        if !self.can_talk(node) {
            return;
        }
        let copies = if !self.troubled || !self.settings.faults {
            1
        } else if self.dice.chance(10) {
            0
        } else {
            1 + u64::from(self.dice.chance(5))
        };
        for _copy in 0..copies {
            let delay = self.message_delay();
            self.schedule(delay, Event::AssignmentArrives { node, assignment: assignment(&self.state, node) });
        }
    }

    pub(super) fn message_delay(&mut self) -> u64 {
        if self.troubled && self.settings.faults && self.dice.chance(5) {
            self.dice.between(100, 3_000)
        } else {
            self.dice.between(1, 8)
        }
    }

    pub(super) fn wake_leader(&mut self, after: u64) {
        let due = self.now + after;
        if self.leader.plans_at.is_none_or(|present| present > due) {
            self.leader.plans_at = Some(due);
            self.schedule(after, Event::LeaderPlans { due });
        }
    }

    pub(super) fn leader_plans(&mut self, due: u64) -> Result<(), String> {
        if self.leader.plans_at != Some(due) {
            return Ok(());
        }
        self.leader.plans_at = None;
        if !self.leader.up || self.leader.committing {
            return Ok(());
        }
        let clock = self.leader_clock();
        let drawn = &mut self.drawn_ids;
        let mut draw = || {
            *drawn += 1;
            *drawn
        };
        let decided = plan(&self.state, clock, &mut Ids(&mut draw));
        self.check_plan(&decided, clock)?;
        if decided.is_empty() {
            if let Some(at) = decided.wake_at {
                self.wake_leader(at.since(clock).0.max(1));
            }
            return Ok(());
        }
        self.tell(|world| format!("leader: decides {}", world.describe_changes(&decided.changes)));
        self.leader.committing = true;
        let delay = if self.settings.faults && self.dice.chance(5) {
            self.dice.between(50, 400)
        } else {
            self.dice.between(1, 10)
        };
        let term = self.leader.term;
        let command = Box::new(Command::Commit { plan: decided });
        self.schedule(delay, Event::ProposalLands { term, command, late: false });
        Ok(())
    }

    /// What a leader proposed comes out of the log. A former leader's proposal is lost, or comes out late.
    pub(super) fn proposal_lands(&mut self, term: u64, command: Command, late: bool) -> Result<(), String> {
        let is_present = term == self.leader.term;
        if is_present && matches!(command, Command::Commit { .. }) {
            self.leader.committing = false;
            self.wake_leader(1);
        }
        if !is_present && !late {
            if self.dice.chance(50) {
                self.tell(|_| format!("log: `{}` of a former leader is lost", command.kind()));
                return Ok(());
            }
            let delay = self.dice.between(1, 1_500);
            self.schedule(delay, Event::ProposalLands { term, command: Box::new(command), late: true });
            return Ok(());
        }
        self.commit(command).map(drop)
    }

    /// The liveness watch.
    pub(super) fn leader_ticks(&mut self) -> Result<(), String> {
        self.schedule(LIVENESS_TICK, Event::LeaderTicks);
        if !self.leader.up {
            return Ok(());
        }
        let mut nodes = BTreeMap::new();
        for node in self.state.nodes.values() {
            let heard = self.leader.last_heard.get(&node.id);
            let readiness = match heard {
                Some(heard) if self.now - heard <= SILENCE => Readiness::Ready,
                _ => Readiness::Down,
            };
            if readiness != node.readiness {
                nodes.insert(node.id, readiness);
            }
        }
        if nodes.is_empty() {
            return Ok(());
        }
        self.tell(|world| {
            let said: Vec<String> =
                nodes.iter().map(|(node, readiness)| format!("{} {readiness:?}", world.name(*node))).collect();
            format!("leader: {}", said.join(", "))
        });
        self.commit(Command::SetReadiness { nodes }).map(drop)
    }

    pub(super) fn hear(&mut self, node: NodeId) {
        self.leader.last_heard.insert(node, self.now);
    }

    pub(super) fn report_arrives(&mut self, node: NodeId, life: u64, report: Report) -> Result<(), String> {
        if !self.can_talk(node) {
            return Ok(());
        }
        if stack_planner::is_news(&self.state, &report) {
            self.tell(|world| format!("{} reports {}", world.name(node), world.describe_report(&report)));
            let _ = self.commit(Command::Report { reports: vec![report.clone()] })?;
        }
        self.report_is_acknowledged(node, life, report);
        Ok(())
    }

    /// Another controller leads, with nothing but the state.
    pub(super) fn change_leader(&mut self, without_one: u64) {
        let term = self.leader.term + 1;
        let wrong = i64::try_from(self.dice.below(4_000)).unwrap_or(0) - 2_000;
        self.leader = Leader { term, clock_error: wrong, ..Leader::default() };
        self.schedule(without_one, Event::LeaderReturns { term });
    }

    pub(super) fn leader_returns(&mut self, term: u64) {
        if self.leader.term != term || self.leader.up {
            return;
        }
        self.leader.up = true;
        // Nobody is declared down for a silence that the new leader did not witness.
        let now = self.now;
        self.leader.last_heard = self
            .state
            .nodes
            .values()
            .filter(|node| node.readiness == Readiness::Ready)
            .map(|node| (node.id, now))
            .collect();
        self.tell(|_| format!("leader: term {term} begins"));
        self.wake_leader(1);
    }
}

fn describe(applied: Applied) -> String {
    match applied {
        Applied { changed: false, .. } => "changes nothing".to_owned(),
        Applied { skipped: 0, .. } => "applied".to_owned(),
        Applied { skipped, .. } => format!("applied but for {skipped} changes"),
    }
}
