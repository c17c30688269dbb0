//! Pure. What the leader decides from a snapshot: orchestrate each service, then place what it needs.

use std::collections::BTreeSet;

use stack_model::{Draining, NodeId, ServiceKey, Slot, TaskId, Timestamp};

use crate::command::{Change, NewTask, Plan};
use crate::gates;
use crate::networks;
use crate::rollout::{self, Candidate, Start};
use crate::schedule::Board;
use crate::state::{Service, State, Unplaced};

/// Where a plan's ids come from: 128 random bits at each call in production, a counter in a test.
pub struct Ids<'a>(pub &'a mut dyn FnMut() -> u128);

impl Ids<'_> {
    fn task(&mut self) -> TaskId {
        TaskId::from_bits((self.0)())
    }
}

/// Decides what to do now. Empty when everything is as wanted or on its way; then `wake_at` says when time alone will
/// change that.
pub fn plan(state: &State, now: Timestamp, ids: &mut Ids<'_>) -> Plan {
    let now = now.max(state.time);
    let mut plan = Plan::default();
    let mut board = Board::new(state);
    for (key, service) in &state.services {
        plan_service(state, key, service, now, ids, &mut board, &mut plan);
    }
    let forgotten: BTreeSet<TaskId> = plan
        .changes
        .iter()
        .filter_map(|change| match change {
            Change::ForgetTask { task } | Change::ReplaceLostTask { stop: task, .. } => Some(*task),
            _ => None,
        })
        .collect();
    for task in state.draining().filter(|task| !forgotten.contains(&task.id)) {
        let Some(draining) = task.draining else { continue };
        let at = draining.since + Draining::LONGEST;
        if at <= now || networks::is_drained(state, task) {
            plan.changes.push(Change::ReleaseTask { task: task.id });
        } else {
            plan.wake_at = Some(plan.wake_at.map_or(at, |present| present.min(at)));
        }
    }
    for (name, stack) in &state.stacks {
        if stack.removing && !state.services.keys().any(|key| key.stack == *name) {
            plan.changes.push(Change::ForgetStack { stack: name.clone() });
        }
    }
    plan
}

fn plan_service<'a>(
    state: &'a State,
    key: &'a ServiceKey,
    service: &'a Service,
    now: Timestamp,
    ids: &mut Ids<'_>,
    board: &mut Board<'a>,
    plan: &mut Plan,
) {
    let mut needs = rollout::needs(state, key, service, now);
    if let Some(at) = needs.wake_at {
        plan.wake_at = Some(plan.wake_at.map_or(at, |present| present.min(at)));
    }
    if let Some(reason) = needs.roll_back {
        plan.changes.push(Change::RollBack { service: key.clone(), version: service.version, reason });
        return;
    }
    if let Some(update) = needs.update {
        plan.changes.push(Change::SetUpdate { service: key.clone(), version: service.version, update });
    }
    plan.changes.extend(needs.stops.into_iter().map(|stop| Change::StopTask { stop }));
    let mut unplaced: Option<Unplaced> = None;
    if service.waits && !service.removing {
        match gates::unmet(state, key, service) {
            None => plan.changes.push(Change::OpenGate { service: key.clone(), version: service.version }),
            Some(reason) => {
                let count = needs.starts.len() + needs.turn.candidates.len();
                let count = u32::try_from(count).unwrap_or(u32::MAX);
                unplaced = (count > 0).then_some(Unplaced { count, reason });
                needs.starts.clear();
                needs.turn.candidates.clear();
            }
        }
    }
    let mut place = |slot: Slot, avoid: &[NodeId]| {
        let only = match slot {
            Slot::Replica(_) => None,
            Slot::Node(node) => Some(node),
        };
        let spec = &service.task_spec;
        let choice = board.choose(key, &service.spec, spec, only, avoid).or_else(|reason| {
            if avoid.is_empty() { Err(reason) } else { board.choose(key, &service.spec, spec, only, &[]) }
        });
        match choice {
            Ok(node) => {
                let id = ids.task();
                board.place(node, id, key, spec);
                Some(NewTask { id, service: key.clone(), slot, node, version: service.version })
            }
            Err(reason) => {
                unplaced.get_or_insert(Unplaced { count: 0, reason }).count += 1;
                None
            }
        }
    };
    let mut unplaceable = 0;
    for Start { slot, instead_of_lost, holds_up_rollout, avoid } in needs.starts {
        match (place(slot, &avoid), instead_of_lost) {
            (Some(start), Some(stop)) => plan.changes.push(Change::ReplaceLostTask { stop, start }),
            (Some(start), None) => plan.changes.push(Change::StartTask { start }),
            (None, _) => unplaceable += usize::from(!holds_up_rollout),
        }
    }
    let mut budget = needs.turn.budget(unplaceable);
    for Candidate { task, is_misplaced, avoid } in needs.turn.candidates {
        if budget == 0 {
            break;
        }
        if !rollout::starts_first(service) {
            plan.changes.push(Change::StopTask { stop: task.id });
            budget -= 1;
        } else if let Some(start) = place(task.slot, &avoid) {
            plan.changes.push(Change::StartTask { start });
            budget -= 1;
        } else if is_misplaced || !task.status.ready {
            // It must leave, or it does not serve: to make room for its successor loses nothing.
            plan.changes.push(Change::StopTask { stop: task.id });
            budget -= 1;
        }
    }
    plan.changes.extend(needs.forgets.into_iter().map(|task| Change::ForgetTask { task }));
    if unplaced != service.unplaced {
        plan.changes.push(Change::SetUnplaced { service: key.clone(), unplaced });
    }
    if service.removing && state.tasks_of(key).next().is_none() {
        plan.changes.push(Change::ForgetService { service: key.clone() });
    }
}

impl Plan {
    /// Nothing to commit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// How many tasks it starts, and how many it asks to end.
    #[must_use]
    pub fn starts_and_stops(&self) -> (usize, usize) {
        self.changes.iter().fold((0, 0), |(starts, stops), change| match change {
            Change::StartTask { .. } => (starts + 1, stops),
            Change::StopTask { .. } => (starts, stops + 1),
            Change::ReplaceLostTask { .. } => (starts + 1, stops + 1),
            Change::ReleaseTask { .. }
            | Change::ForgetTask { .. }
            | Change::OpenGate { .. }
            | Change::SetUpdate { .. }
            | Change::RollBack { .. }
            | Change::SetUnplaced { .. }
            | Change::ForgetService { .. }
            | Change::ForgetStack { .. } => (starts, stops),
        })
    }
}
