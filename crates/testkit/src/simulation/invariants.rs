//! What must always hold, written without a look at how the planner and the agent see to it.

use std::collections::{BTreeMap, BTreeSet};

use stack_agent::plan::Circumstances;
use stack_agent::{Observed, Pass, Step, pass};
use stack_model::spec::{PublishMode, ServiceMode, UpdateOrder};
use stack_model::{
    Assignment, Availability, DesiredState, Milliseconds, Node, NodeId, Phase, Readiness, Report, ServiceSpec, Slot,
    Task, TaskId, Timestamp,
};
use stack_planner::{
    Applied, Change, Command, Entry, Ids, Plan, Rejected, State, UpdateState, apply, assignment, plan, service_status,
};

use super::networks;
use super::world::World;

/// One in so many plans is put to the expensive questions.
const SAMPLE: u64 = 4;
/// After so many plans without any news there must be nothing left to decide.
const ROUNDS: usize = 6;
/// Long after anything that waits for a time.
const MUCH_LATER: Milliseconds = Milliseconds::from_seconds(86_400);

/// What was seen before, to compare with.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// Where each task's container was made.
    homes: BTreeMap<TaskId, NodeId>,
    /// Every task that ever was: an id is never used again.
    tasks: BTreeSet<TaskId>,
    assignments: BTreeMap<NodeId, Assignment>,
}

impl World {
    /// After each entry of the log.
    pub(super) fn check_entry(&mut self, before: &State, outcome: &Result<Applied, Rejected>) -> Result<(), String> {
        let after = &self.state;
        if after.revision != before.revision + 1 || after.time < before.time {
            return Err("the revision or the time of the state went wrong".to_owned());
        }
        check_transition(before, after, outcome)?;
        for task in after.tasks.keys().filter(|task| !before.tasks.contains_key(*task)) {
            self.summary.tasks += 1;
            if !self.watched.tasks.insert(*task) {
                return Err(format!("t{} was made twice", task.bits()));
            }
        }
        for (key, service) in &after.services {
            let bad = |service: &stack_planner::Service| {
                matches!(
                    service.update.as_ref().map(|update| &update.state),
                    Some(UpdateState::Paused { .. } | UpdateState::RolledBack { .. })
                )
            };
            if bad(service) && !before.services.get(key).is_some_and(bad) {
                self.summary.failed_rollouts += 1;
            }
        }
        self.check_rollout()?;
        self.check_assignments()
    }

    /// While nothing but a rollout happens, so many slots of every service serve.
    fn check_rollout(&self) -> Result<(), String> {
        let Some(least) = self.least_ready else { return Ok(()) };
        for key in self.state.services.keys() {
            let slots: BTreeSet<Slot> =
                self.state.tasks_of(key).filter(|task| task.status.ready).map(|task| task.slot).collect();
            if slots.len() < least {
                return Err(format!("{key} has {} slots that serve, and should have {least}", slots.len()));
            }
        }
        Ok(())
    }

    /// A changed assignment has a greater generation; the same generation is the same document.
    fn check_assignments(&mut self) -> Result<(), String> {
        for node in self.state.nodes.keys() {
            let present = assignment(&self.state, *node);
            if let Some(before) = self.watched.assignments.get(node)
                && *before != present
                && before.generation >= present.generation
            {
                return Err(format!("the assignment of node {} changed but not its generation", node.bits()));
            }
            self.watched.assignments.insert(*node, present);
        }
        Ok(())
    }

    /// Before a plan is proposed.
    pub(super) fn check_plan(&mut self, decided: &Plan, clock: Timestamp) -> Result<(), String> {
        if decided.is_empty() {
            return check_wake_up(&self.state, clock, decided.wake_at);
        }
        if !self.dice.chance(100 / SAMPLE) {
            return Ok(());
        }
        let mut next = self.state.clone();
        let mut drawn = self.drawn_ids + 1_000_000_000;
        let mut draw = || {
            drawn += 1;
            drawn
        };
        let mut present = decided.clone();
        let mut touched_before = BTreeSet::new();
        for round in 0..ROUNDS {
            let entry = Entry { revision: next.revision + 1, time: clock, request: None };
            let starts = started(&present.changes);
            if let Some(twice) = starts.intersection(&touched_before).next() {
                return Err(format!(
                    "slot {twice:?} is filled twice though nothing has happened: {:?}",
                    present.changes
                ));
            }
            touched_before.extend(starts);
            let applied = apply(&mut next, entry, Command::Commit { plan: present.clone() })
                .map_err(|rejected| format!("a plan was refused as a whole: {rejected}"))?;
            if applied.skipped > 0 || !applied.changed {
                return Err(format!(
                    "a plan does not fit the state that it was made from, {} changes are left out in round {round}: {:?}",
                    applied.skipped, present.changes
                ));
            }
            present = plan(&next, clock, &mut Ids(&mut draw));
            if present.is_empty() {
                return Ok(());
            }
        }
        Err(format!("the planner goes on though nothing happens, at last with {:?}", present.changes))
    }

    /// The state can be stored: what is read back is equal, and leads to the same decisions.
    pub(super) fn check_stored_state(&self) -> Result<(), String> {
        let written =
            serde_json::to_string(&self.state).map_err(|error| format!("the state cannot be stored: {error}"))?;
        let read: State =
            serde_json::from_str(&written).map_err(|error| format!("the state does not load: {error}"))?;
        if read != self.state {
            return Err("the state that is read back is another one".to_owned());
        }
        let decide = |state: &State| {
            let mut drawn = 0;
            let mut draw = || {
                drawn += 1;
                drawn
            };
            plan(state, self.leader_clock(), &mut Ids(&mut draw))
        };
        if decide(&read) != decide(&self.state) {
            return Err("the state that is read back leads to another plan".to_owned());
        }
        Ok(())
    }

    /// After a container was made.
    pub(super) fn check_container_is_alone(&mut self, node: NodeId, task: TaskId) -> Result<(), String> {
        match self.watched.homes.insert(task, node) {
            Some(other) if other != node => {
                Err(format!("t{} has containers on {} and {}", task.bits(), self.name(other), self.name(node)))
            }
            _ => Ok(()),
        }
    }

    /// When everything has been whole for long enough: it is as the user wants it, or says truly why not.
    pub(super) fn check_convergence(&mut self) -> Result<(), String> {
        for node in self.hosts.keys() {
            if let Some(disagreement) = self.disagreement(*node) {
                return Err(disagreement);
            }
        }
        if let Some(stack) = self.state.stacks.iter().find(|(_, stack)| stack.removing) {
            return Err(format!("stack {} was removed but is still there", stack.0));
        }
        let mut unplaced_services = 0;
        for (key, service) in &self.state.services {
            let status = service_status(&self.state, key).ok_or("a service without a status")?;
            if service.removing {
                return Err(format!("service {key} was removed but is still there"));
            }
            for task in self.state.tasks_of(key).filter(|task| task.is_active()) {
                // One that is started again and again may be seen in any moment of it.
                let waits = self.some_rollout_waits_for_a_place();
                if task.status.ready != self.really_runs(task.node, task.id) && !waits {
                    return Err(format!("t{} of {key} is not as it was reported", task.id.bits()));
                }
            }
            let fails = key.to_string() == "last/badly";
            let unplaced = service.unplaced.as_ref().map_or(0, |unplaced| unplaced.count);
            unplaced_services += u64::from(unplaced > 0);
            if fails && status.failed == status.desired {
                continue;
            }
            if status.converged && unplaced == 0 {
                continue;
            }
            if unplaced == 0 {
                return Err(format!("{key} has not converged and does not say why: {status:?}, {:?}", service.update));
            }
            self.check_reason(key, service, unplaced)?;
        }
        self.summary.unplaced = unplaced_services;
        Ok(())
    }

    pub(super) fn some_rollout_waits_for_a_place(&self) -> bool {
        self.state.services.iter().any(|(key, service)| {
            service.unplaced.is_some()
                && self.state.tasks_of(key).any(|task| task.is_active() && task.spec != service.task_spec)
        })
    }

    /// No node can really take one more task of the service.
    fn check_reason(
        &self,
        key: &stack_model::ServiceKey,
        service: &stack_planner::Service,
        unplaced: u32,
    ) -> Result<(), String> {
        let is_global = service.spec.mode == ServiceMode::Global;
        for node in self.state.nodes.values() {
            let here = self.state.tasks_of(key).any(|task| task.slot == Slot::Node(node.id) && task.is_active());
            if is_global && here {
                continue;
            }
            let present: Vec<&Task> =
                self.state.tasks_on(node.id).filter(|task| !task.status.phase.is_terminal()).collect();
            if fits(node, &present, key, &service.spec) {
                return Err(format!(
                    "{unplaced} slots of {key} are unplaced because `{}`, but {} can take one",
                    service.unplaced.as_ref().map_or("", |unplaced| unplaced.reason.as_str()),
                    node.name
                ));
            }
        }
        Ok(())
    }

    pub(super) fn describe_changes(&self, changes: &[Change]) -> String {
        let said: Vec<String> = changes
            .iter()
            .map(|change| match change {
                Change::StartTask { start } => format!(
                    "start t{} {} {} on {}",
                    start.id.bits(),
                    start.service,
                    self.slot(start.slot),
                    self.name(start.node)
                ),
                Change::StopTask { stop } => format!("stop t{}", stop.bits()),
                Change::ReplaceLostTask { stop, start } => {
                    format!("replace t{} by t{} on {}", stop.bits(), start.id.bits(), self.name(start.node))
                }
                Change::ReleaseTask { task } => format!("release t{}", task.bits()),
                Change::ForgetTask { task } => format!("forget t{}", task.bits()),
                Change::OpenGate { service, .. } => format!("{service} need not wait"),
                Change::SetUpdate { service, update, .. } => {
                    format!("{service} update {:?}", update.as_ref().map(|update| &update.state))
                }
                Change::RollBack { service, reason, .. } => format!("roll back {service}: {reason}"),
                Change::SetUnplaced { service, unplaced } => format!("{service} unplaced {unplaced:?}"),
                Change::ForgetService { service } => format!("forget {service}"),
                Change::ForgetStack { stack } => format!("forget {stack}"),
            })
            .collect();
        said.join("; ")
    }

    fn slot(&self, slot: Slot) -> String {
        match slot {
            Slot::Replica(number) => format!("#{number}"),
            Slot::Node(node) => format!("@{}", self.name(node)),
        }
    }

    pub(super) fn describe_report(&self, report: &Report) -> String {
        let changed = report
            .tasks
            .iter()
            .filter(|(task, status)| self.state.tasks.get(*task).is_some_and(|present| present.status != **status));
        let said: Vec<String> = changed
            .map(|(task, status)| {
                let ready = if status.ready { " ready" } else { "" };
                let message = status.message.as_deref().map(|text| format!(" ({text})")).unwrap_or_default();
                format!("t{} {}{ready}{message}", task.bits(), status.phase)
            })
            .collect();
        said.join("; ")
    }
}

/// The slots that a plan fills.
fn started(changes: &[Change]) -> BTreeSet<(String, Slot)> {
    changes
        .iter()
        .filter_map(|change| match change {
            Change::StartTask { start } | Change::ReplaceLostTask { start, .. } => {
                Some((start.service.to_string(), start.slot))
            }
            _ => None,
        })
        .collect()
}

/// Time alone changes nothing before the plan asks to be woken.
fn check_wake_up(state: &State, clock: Timestamp, wake_at: Option<Timestamp>) -> Result<(), String> {
    let mut draw = || u128::MAX;
    let (later, until) = match wake_at {
        None => (clock.max(state.time) + MUCH_LATER, "ever"),
        Some(at) if at.0 > clock.max(state.time).0 => (Timestamp(at.0 - 1), "its time"),
        Some(at) => return Err(format!("the planner asks to be woken at {at:?}, which is not in the future")),
    };
    let then = plan(state, later, &mut Ids(&mut draw));
    if then.is_empty() {
        Ok(())
    } else {
        Err(format!("the planner sleeps until {until}, but would have done by then: {:?}", then.changes))
    }
}

/// What must hold between the state before an entry and the one after it.
///
/// # Errors
/// It does not: what, and of which task or service.
pub fn check_transition(before: &State, after: &State, outcome: &Result<Applied, Rejected>) -> Result<(), String> {
    if !matches!(outcome, Ok(Applied { changed: true, .. })) {
        let mut same = before.clone();
        (same.revision, same.time) = (after.revision, after.time);
        return if same == *after {
            Ok(())
        } else {
            Err(format!("an entry that says it changed nothing changed the state: {outcome:?}"))
        };
    }
    for task in after.tasks.values() {
        match before.tasks.get(&task.id) {
            Some(earlier) => check_progress(earlier, task)?,
            None => check_new_task(after, task)?,
        }
    }
    check_published_ports(after)?;
    networks::check(before, after)
}

fn check_progress(earlier: &Task, task: &Task) -> Result<(), String> {
    let id = task.id.bits();
    if task.status.phase < earlier.status.phase {
        return Err(format!("t{id} went back from {} to {}", earlier.status.phase, task.status.phase));
    }
    if earlier.status.phase.is_terminal() && task.status != earlier.status {
        return Err(format!("t{id} had ended, but its status changed"));
    }
    if earlier.desired == DesiredState::Stopped && task.desired == DesiredState::Running {
        return Err(format!("t{id} was asked to end and then to run"));
    }
    let same = (&earlier.service, earlier.slot, earlier.node, &earlier.spec, earlier.created_at)
        == (&task.service, task.slot, task.node, &task.spec, task.created_at);
    if same { Ok(()) } else { Err(format!("t{id} became another task")) }
}

/// A task is only made where it may be.
fn check_new_task(state: &State, task: &Task) -> Result<(), String> {
    let id = task.id.bits();
    let service = state.services.get(&task.service).ok_or_else(|| format!("t{id} is of no service"))?;
    let node = state.nodes.get(&task.node).ok_or_else(|| format!("t{id} is on no node"))?;
    let here: Vec<&Task> =
        state.tasks_on(node.id).filter(|other| other.id != task.id && !other.status.phase.is_terminal()).collect();
    if !fits(node, &here, &task.service, &service.spec) {
        return Err(format!("t{id} of {} was placed on {}, which cannot take it", task.service, node.name));
    }
    if task.spec != service.task_spec {
        return Err(format!("t{id} does not run what {} should", task.service));
    }
    let others = state
        .tasks_of(&task.service)
        .filter(|other| other.id != task.id && other.slot == task.slot && !other.status.phase.is_terminal())
        .filter(|other| {
            let reachable = state.nodes.get(&other.node).is_some_and(|node| node.readiness == Readiness::Ready);
            other.desired == DesiredState::Running || reachable
        })
        .count();
    let may_overlap = service.spec.update.order == UpdateOrder::StartFirst;
    if others > usize::from(may_overlap) {
        return Err(format!("t{id} joins {others} others in slot {} of {}", task.slot, task.service));
    }
    Ok(())
}

/// Whether a node with these tasks on it may take one more of the service.
fn fits(node: &Node, here: &[&Task], key: &stack_model::ServiceKey, service: &ServiceSpec) -> bool {
    let matches = service.placement.constraints.iter().all(|constraint| {
        let label = constraint.attribute.strip_prefix("node.labels.").and_then(|label| node.labels.get(label));
        (label == Some(&constraint.value)) == constraint.equal
    });
    let memory: u64 = here.iter().map(|task| task.spec.resources.memory_reservation_bytes).sum();
    let cpu: u64 = here.iter().map(|task| task.spec.resources.cpu_reservation_millis).sum();
    let enough = |reserved: u64, used: u64, there: u64| reserved == 0 || used + reserved <= there;
    let ports_are_free = service.ports.iter().all(|port| {
        here.iter().all(|task| {
            task.spec.ports.iter().all(|taken| {
                let shared =
                    task.service == *key && port.mode == PublishMode::Ingress && taken.mode == PublishMode::Ingress;
                shared || port.published != taken.published || port.protocol != taken.protocol
            })
        })
    });
    let of_service = here.iter().filter(|task| task.service == *key).count();
    node.readiness == Readiness::Ready
        && node.availability == Availability::Active
        && matches
        && enough(service.resources.memory_reservation_bytes, memory, node.description.memory_bytes)
        && enough(service.resources.cpu_reservation_millis, cpu, node.description.cpu_millis)
        && ports_are_free
        && service.placement.max_replicas_per_node.is_none_or(|limit| of_service < limit as usize)
}

/// No two services publish one port.
fn check_published_ports(state: &State) -> Result<(), String> {
    let mut taken = BTreeMap::new();
    for (key, service) in state.services.iter().filter(|(_, service)| !service.removing) {
        for port in &service.spec.ports {
            let number = port.published.ok_or_else(|| format!("{key} has a port without a number"))?;
            if let Some(other) = taken.insert((number, port.protocol), key).filter(|other| *other != key) {
                return Err(format!("{key} and {other} both publish port {number}"));
            }
        }
    }
    Ok(())
}

/// What must hold after each pass of an agent.
///
/// # Errors
/// It does not: what, and of which task.
pub fn check_pass(
    want: &Assignment,
    have: &Observed,
    circumstances: Circumstances<'_>,
    decided: &Pass,
) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for step in &decided.steps {
        let task = step.task();
        if !seen.insert(task) || circumstances.busy.contains(&task) {
            return Err(format!("t{} has two steps at once", task.bits()));
        }
        let begins = matches!(step, Step::Pull { .. } | Step::Create { .. } | Step::Start { .. });
        let should_run = want.tasks.get(&task).is_some_and(|assigned| assigned.desired == DesiredState::Running);
        if begins && !should_run {
            return Err(format!("t{} should not run, but the agent wants to {}", task.bits(), step.kind()));
        }
        if begins && circumstances.memory.of(task).reached.is_some_and(Phase::is_terminal) {
            return Err(format!("t{} has ended, but the agent wants to {}", task.bits(), step.kind()));
        }
    }
    for (task, status) in &decided.report.tasks {
        if circumstances.memory.of(*task).reached > Some(status.phase) {
            return Err(format!("t{} is reported as {} after it was further", task.bits(), status.phase));
        }
    }
    // The same look a moment later says and does the same, unless it asked to be woken.
    let after = Circumstances { memory: &decided.memory, ..circumstances };
    if decided.steps.is_empty() && circumstances.busy.is_empty() {
        let later = match decided.wake_at {
            None => circumstances.now + MUCH_LATER,
            Some(at) if at > circumstances.now => Timestamp(at.0 - 1),
            Some(_) => return Err("the agent asks to be woken at a time that has passed".to_owned()),
        };
        let then = pass(want, have, Circumstances { now: later, ..after });
        if !then.steps.is_empty() {
            return Err(format!("the agent sleeps, but would have done by {later:?}: {:?}", then.steps));
        }
        if then.report != decided.report {
            return Err(format!(
                "a report changes though nothing has happened: {:?} then {:?}",
                decided.report, then.report
            ));
        }
    }
    Ok(())
}
