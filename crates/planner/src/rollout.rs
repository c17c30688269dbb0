//! Pure. What one service needs: which slots to fill, which tasks to replace, stop and forget, and how its rollout stands.
//!
//! Everything is read from the state, so a new leader goes on where the old one was. Placement is somebody else's: a slot
//! to fill is only named here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use stack_model::spec::{FailureAction, ServiceMode, UpdateOrder, UpdatePolicy};
use stack_model::{
    Availability, DesiredState, Milliseconds, NodeId, Phase, Readiness, ServiceKey, Slot, Task, TaskId, Timestamp,
};

use crate::apply::can_roll_back;
use crate::schedule;
use crate::state::{Service, State, Update, UpdateState};

/// How many ended tasks of a slot are kept, with their logs.
const HISTORY: usize = 5;
/// The first pause before a rejected task is tried again; it doubles to [`REJECTED_PAUSE_MOST`].
const REJECTED_PAUSE: Milliseconds = Milliseconds::from_seconds(1);
const REJECTED_PAUSE_MOST: Milliseconds = Milliseconds::from_seconds(60);
/// So many rejections in a row lead to the longest pause, and are kept to count them.
const REJECTIONS: usize = 7;

/// What one service needs now.
#[derive(Debug, Default)]
pub(crate) struct Needs<'a> {
    pub(crate) starts: Vec<Start>,
    /// What is replaced as far as the policy allows, once it is known which of `starts` found a place.
    pub(crate) turn: Turn<'a>,
    pub(crate) stops: Vec<TaskId>,
    pub(crate) forgets: Vec<TaskId>,
    /// The rollout's new standing, where it changes.
    pub(crate) update: Option<Option<Update>>,
    /// The rollout failed and its spec says to go back.
    pub(crate) roll_back: Option<String>,
    pub(crate) wake_at: Option<Timestamp>,
}

/// Tasks that are to be replaced, in this order, so many at once as the policy allows.
#[derive(Debug, Default)]
pub(crate) struct Turn<'a> {
    pub(crate) candidates: Vec<Candidate<'a>>,
    /// Slots that are on their way, with all of `starts`.
    in_flux: usize,
    parallelism: usize,
}

impl Turn<'_> {
    /// How many may be replaced now. `unplaceable`: so many of the slots to fill found no place, and not because of the
    /// rollout; they are no reason to leave the others as they are.
    pub(crate) fn budget(&self, unplaceable: usize) -> usize {
        match self.parallelism {
            0 => usize::MAX,
            parallelism => parallelism.saturating_sub(self.in_flux.saturating_sub(unplaceable)),
        }
    }
}

/// A task that is to be replaced.
#[derive(Debug)]
pub(crate) struct Candidate<'a> {
    pub(crate) task: &'a Task,
    /// It must leave its node even if nothing can take its place.
    pub(crate) is_misplaced: bool,
    /// Nodes that could not run it lately.
    pub(crate) avoid: Vec<NodeId>,
}

/// A slot to fill.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) slot: Slot,
    /// The task there whose node is lost; it is given up only if another node can take its place.
    pub(crate) instead_of_lost: Option<TaskId>,
    /// The rollout itself emptied the slot: while no node can take it, no further slot is emptied.
    pub(crate) holds_up_rollout: bool,
    /// Nodes that could not run it lately.
    pub(crate) avoid: Vec<NodeId>,
}

impl Needs<'_> {
    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |present| present.min(at)));
    }
}

/// How the rollout that is under way goes, and how tasks are moved: a rollback has settings of its own where they are given.
fn policy(service: &Service) -> &UpdatePolicy {
    let rolls_back =
        service.update.as_ref().is_some_and(|update| matches!(update.state, UpdateState::RollingBack { .. }));
    service.spec.rollback.as_ref().filter(|_| rolls_back).unwrap_or(&service.spec.update)
}

/// Whether a new task of the service starts before the old one of its slot ends.
pub(crate) fn starts_first(service: &Service) -> bool {
    schedule::may_start_first(&service.spec) && policy(service).order == UpdateOrder::StartFirst
}

/// A task that runs what the service wants, by content: a spec that was put back counts.
pub(crate) fn is_current(service: &Service, task: &Task) -> bool {
    task.spec_version == service.version
        || Arc::ptr_eq(&task.spec, &service.task_spec)
        || task.spec == service.task_spec
}

/// The slots that the service should fill: for a global service, the nodes that may run it.
pub(crate) fn wanted_slots(state: &State, service: &Service) -> BTreeSet<Slot> {
    if service.removing {
        return BTreeSet::new();
    }
    match service.spec.mode {
        ServiceMode::Replicated { replicas } => (1..=replicas).map(Slot::Replica).collect(),
        ServiceMode::Global => state
            .nodes
            .values()
            .filter(|node| node.availability == Availability::Active)
            .filter(|node| schedule::matches_constraints(node, &service.spec))
            .map(|node| Slot::Node(node.id))
            .collect(),
    }
}

/// How one slot stands.
enum Standing<'a> {
    /// Nothing is needed. The task is ready, or has ended and is not started again.
    Settled(Option<&'a Task>),
    /// On its way.
    Busy,
    /// Its node is down and it cannot go elsewhere.
    Away,
    /// Its task is to be replaced, in its turn.
    Outdated(&'a Task),
    /// Its task must leave its node, in its turn.
    Misplaced(&'a Task),
    /// Its task went down with its node.
    Lost(&'a Task),
    /// Nobody is there.
    Empty,
    /// Nobody is there, and it is too early to try again.
    Waiting(Timestamp),
}

pub(crate) fn needs<'a>(state: &'a State, key: &ServiceKey, service: &Service, now: Timestamp) -> Needs<'a> {
    let mut needs = Needs::default();
    let wanted = wanted_slots(state, service);
    let mut slots: BTreeMap<Slot, Vec<&'a Task>> = wanted.iter().map(|slot| (*slot, Vec::new())).collect();
    for task in state.tasks_of(key) {
        slots.entry(task.slot).or_default().push(task);
    }
    for tasks in slots.values_mut() {
        tasks.sort_by_key(|task| (task.revision, task.id));
    }

    let failure = judge_rollout(state, key, service, wanted.len(), now, &mut needs);
    let mut in_flux = 0;
    let mut candidates: Vec<Candidate<'a>> = Vec::new();
    let mut settled = true;
    let mut failed = false;
    let mut last_ready = None;
    for (slot, tasks) in &slots {
        if !wanted.contains(slot) {
            retire(state, tasks, &mut needs);
            continue;
        }
        forget_history(service, tasks, &mut needs);
        let standing = stand(state, service, *slot, tasks, now, &mut needs);
        match standing {
            Standing::Settled(task) => {
                failed |= task.is_none() && tasks.last().is_some_and(|last| last.status.phase == Phase::Failed);
                last_ready = last_ready.max(task.and_then(|task| task.ready_since));
            }
            Standing::Busy => {
                in_flux += 1;
                settled = false;
            }
            Standing::Away => {}
            Standing::Outdated(task) | Standing::Misplaced(task) => {
                settled = false;
                candidates.push(Candidate {
                    task,
                    is_misplaced: matches!(standing, Standing::Misplaced(_)),
                    avoid: rejecting_nodes(service, tasks, now),
                });
            }
            Standing::Lost(task) => {
                in_flux += 1;
                settled = false;
                needs.starts.push(Start {
                    slot: *slot,
                    instead_of_lost: Some(task.id),
                    holds_up_rollout: false,
                    avoid: rejecting_nodes(service, tasks, now),
                });
            }
            Standing::Empty => {
                in_flux += 1;
                settled = false;
                needs.starts.push(Start {
                    slot: *slot,
                    instead_of_lost: None,
                    holds_up_rollout: was_emptied_by_rollout(service, tasks),
                    avoid: rejecting_nodes(service, tasks, now),
                });
            }
            Standing::Waiting(until) => {
                in_flux += 1;
                settled = false;
                needs.wake(until);
            }
        }
    }
    if service.removing || failure {
        return needs;
    }
    take_turns(service, candidates, in_flux, last_ready, now, &mut needs);
    if settled {
        finish_rollout(service, failed, last_ready, now, &mut needs);
    }
    needs
}

/// A slot that is not wanted: its tasks end and are forgotten.
fn retire(state: &State, tasks: &[&Task], needs: &mut Needs<'_>) {
    for task in tasks {
        if task.is_active() {
            needs.stops.push(task.id);
        }
        if !schedule::occupies_slot(state, task) {
            needs.forgets.push(task.id);
        } else if state.nodes.get(&task.node).is_none_or(|node| node.readiness == Readiness::Down) {
            // Its node hears of it when it is back: what is not in its assignment, it removes.
            needs.forgets.push(task.id);
        }
    }
}

fn forget_history(service: &Service, tasks: &[&Task], needs: &mut Needs<'_>) {
    let ended: Vec<&Task> = tasks.iter().copied().filter(|task| task.status.phase.is_terminal()).collect();
    let kept = rejections(service, &ended).count().clamp(HISTORY, REJECTIONS);
    let surplus = ended.len().saturating_sub(kept);
    needs.forgets.extend(ended.iter().take(surplus).map(|task| task.id));
}

fn stand<'a>(
    state: &State,
    service: &Service,
    slot: Slot,
    tasks: &[&'a Task],
    now: Timestamp,
    needs: &mut Needs<'_>,
) -> Standing<'a> {
    let is_down = |node: NodeId| state.nodes.get(&node).is_none_or(|node| node.readiness == Readiness::Down);
    let fits = |task: &Task| {
        state.nodes.get(&task.node).is_some_and(|node| {
            node.availability == Availability::Active && schedule::matches_constraints(node, &service.spec)
        })
    };
    let active: Vec<&'a Task> = tasks.iter().copied().filter(|task| task.is_active()).collect();
    let good = |task: &&&'a Task| is_current(service, task) && fits(task) && !is_down(task.node);
    // The oldest good one stays where there are several.
    if let Some(keep) = active.iter().find(good).copied() {
        for other in active.iter().filter(|other| other.id != keep.id) {
            let redundant = is_current(service, other) && fits(other);
            if keep.status.ready || redundant {
                needs.stops.push(other.id);
            }
        }
        return if keep.status.ready { Standing::Settled(Some(keep)) } else { Standing::Busy };
    }
    if !active.is_empty() {
        return stand_without_good_one(state, service, slot, tasks, &active, now, needs);
    }
    if tasks.iter().any(|task| schedule::occupies_slot(state, task)) {
        return Standing::Busy;
    }
    if let Slot::Node(node) = slot
        && is_down(node)
    {
        return Standing::Away;
    }
    let Some(last) = tasks.last().copied() else { return Standing::Empty };
    if last.desired == DesiredState::Stopped || !is_current(service, last) {
        return Standing::Empty;
    }
    match last.status.phase {
        Phase::Rejected => {
            let until = last.ended_at.unwrap_or(now) + rejected_pause(service, tasks);
            if until > now { Standing::Waiting(until) } else { Standing::Empty }
        }
        // It ended and its restart policy lets that stand.
        _ => Standing::Settled(None),
    }
}

/// The slot has tasks that should run, but none of them is what should run there.
fn stand_without_good_one<'a>(
    state: &State,
    service: &Service,
    slot: Slot,
    tasks: &[&'a Task],
    active: &[&'a Task],
    now: Timestamp,
    needs: &mut Needs<'_>,
) -> Standing<'a> {
    let is_down = |task: &Task| state.nodes.get(&task.node).is_none_or(|node| node.readiness == Readiness::Down);
    // One of them stays for now: one that can be reached, one that serves, the newest.
    let incumbent = active.iter().copied().enumerate().max_by_key(|(age, task)| {
        let reachable = !is_down(task);
        (reachable, reachable && task.status.ready, *age)
    });
    let Some((_, incumbent)) = incumbent else { return Standing::Empty };
    needs.stops.extend(active.iter().filter(|task| task.id != incumbent.id).map(|task| task.id));
    let others = tasks.iter().filter(|task| task.id != incumbent.id && schedule::occupies_slot(state, task)).count();
    let starts_first = starts_first(service);
    if is_down(incumbent) {
        return match slot {
            Slot::Node(_) => Standing::Away,
            Slot::Replica(_) if others > usize::from(starts_first) => Standing::Busy,
            Slot::Replica(_) => Standing::Lost(incumbent),
        };
    }
    if starts_first && others > 0 {
        return Standing::Busy;
    }
    let is_misplaced = is_current(service, incumbent);
    // Its replacement was there already, and ended by itself.
    if let Some(last) = tasks.last()
        && last.status.phase.is_terminal()
        && last.desired == DesiredState::Running
        && is_current(service, last)
    {
        if is_misplaced || last.status.phase == Phase::Complete {
            needs.stops.push(incumbent.id);
            return Standing::Busy;
        }
        if last.status.phase == Phase::Rejected {
            let until = last.ended_at.unwrap_or(now) + rejected_pause(service, tasks);
            if until > now {
                return Standing::Waiting(until);
            }
        } else {
            // What serves goes on serving; the new one has failed for good.
            return Standing::Settled(None);
        }
    }
    if is_misplaced { Standing::Misplaced(incumbent) } else { Standing::Outdated(incumbent) }
}

/// The rollout stopped what was there, to put the new version in its place.
fn was_emptied_by_rollout(service: &Service, tasks: &[&Task]) -> bool {
    tasks.last().is_some_and(|last| match last.status.phase {
        Phase::Lost => false,
        Phase::Rejected => true,
        _ => last.desired == DesiredState::Stopped && !is_current(service, last),
    })
}

/// How many rejections stand at the end of the slot's history, for the present spec.
fn rejections<'a, 'b>(service: &'b Service, tasks: &'b [&'a Task]) -> impl Iterator<Item = &'a Task> + 'b {
    tasks.iter().rev().copied().take_while(|task| task.status.phase == Phase::Rejected && is_current(service, task))
}

fn rejected_pause(service: &Service, tasks: &[&Task]) -> Milliseconds {
    let count = rejections(service, tasks).count().clamp(1, REJECTIONS);
    let doubled = REJECTED_PAUSE.0.saturating_mul(1 << (count - 1));
    Milliseconds(doubled.min(REJECTED_PAUSE_MOST.0))
}

/// Nodes that rejected the slot's task less than a minute ago: others are tried first, and they again later.
fn rejecting_nodes(service: &Service, tasks: &[&Task], now: Timestamp) -> Vec<NodeId> {
    rejections(service, tasks)
        .filter(|task| task.ended_at.is_some_and(|ended| now.since(ended) < REJECTED_PAUSE_MOST))
        .map(|task| task.node)
        .collect()
}

/// Whether the rollout has failed; then nothing further is replaced in this round.
fn judge_rollout(
    state: &State,
    key: &ServiceKey,
    service: &Service,
    wanted: usize,
    now: Timestamp,
    needs: &mut Needs<'_>,
) -> bool {
    let Some(update) = &service.update else { return false };
    let rolling_back = match &update.state {
        UpdateState::Rolling => false,
        UpdateState::RollingBack { .. } => true,
        UpdateState::Paused { .. } | UpdateState::RolledBack { .. } => return false,
    };
    let policy = policy(service);
    let failed: Vec<&Task> = state
        .tasks_of(key)
        .filter(|task| task.spec_version == service.version && task.created_at >= update.started_at)
        .filter(|task| {
            let proved = task.ready_since.is_some_and(|since| now.since(since) >= policy.monitor);
            matches!(task.status.phase, Phase::Failed | Phase::Rejected) || (task.status.restarts > 0 && !proved)
        })
        .collect();
    let Some(first) = failed.first() else { return false };
    let allowed =
        u64::try_from(wanted).unwrap_or(u64::MAX).saturating_mul(u64::from(policy.max_failure_ratio_permille));
    let happened = u64::try_from(failed.len()).unwrap_or(u64::MAX).saturating_mul(1000);
    if happened <= allowed {
        return false;
    }
    let node = state.nodes.get(&first.node).map_or_else(|| first.node.short(), |node| node.name.clone());
    let message = match (&first.status.message, first.status.exit_code) {
        (Some(message), _) => message.clone(),
        (None, Some(code)) => format!("exit code {code}"),
        (None, None) => first.status.phase.to_string(),
    };
    let reason = format!("task {} on {node}: {message}", first.slot);
    match policy.failure_action {
        FailureAction::Continue => false,
        FailureAction::Rollback if !rolling_back && can_roll_back(state, key, service) => {
            needs.roll_back = Some(reason);
            true
        }
        FailureAction::Rollback | FailureAction::Pause => {
            needs.update = Some(Some(Update { started_at: update.started_at, state: UpdateState::Paused { reason } }));
            true
        }
    }
}

/// Puts the outdated and misplaced tasks in the order in which they are replaced, if now is the time.
fn take_turns<'a>(
    service: &Service,
    mut candidates: Vec<Candidate<'a>>,
    in_flux: usize,
    last_ready: Option<Timestamp>,
    now: Timestamp,
    needs: &mut Needs<'a>,
) {
    let policy = policy(service);
    let paused = service.update.as_ref().is_some_and(|update| matches!(update.state, UpdateState::Paused { .. }));
    candidates.retain(|candidate| candidate.is_misplaced || !paused);
    if candidates.is_empty() {
        return;
    }
    let started = service.update.as_ref().map(|update| update.started_at);
    if let (Some(ready), Some(started)) = (last_ready, started)
        && policy.delay.0 > 0
        && ready >= started
        && ready + policy.delay > now
    {
        needs.wake(ready + policy.delay);
        return;
    }
    // Those that do not serve go first: replacing them costs nothing.
    candidates.sort_by_key(|candidate| (candidate.task.status.ready, candidate.task.slot));
    let parallelism = usize::try_from(policy.parallelism).unwrap_or(usize::MAX);
    needs.turn = Turn { candidates, in_flux, parallelism };
}

/// Everything is as wanted: the rollout ends once the last task has been ready for the time that it is watched.
fn finish_rollout(
    service: &Service,
    failed: bool,
    last_ready: Option<Timestamp>,
    now: Timestamp,
    needs: &mut Needs<'_>,
) {
    let Some(update) = &service.update else { return };
    if needs.update.is_some() {
        return;
    }
    let ended = match &update.state {
        UpdateState::Rolling => None,
        UpdateState::RollingBack { reason } => {
            Some(Update { started_at: update.started_at, state: UpdateState::RolledBack { reason: reason.clone() } })
        }
        // What failed stays told until the next deploy.
        UpdateState::Paused { .. } if failed => return,
        UpdateState::Paused { .. } => None,
        UpdateState::RolledBack { .. } => return,
    };
    let until = last_ready.map_or(now, |ready| ready + policy(service).monitor);
    if until > now {
        needs.wake(until);
    } else {
        needs.update = Some(ended);
    }
}
