//! Pure. What services wait for before tasks of a new version of them are started. A gate is for the first deploy and for
//! updates: once a version was let through, nothing that happens to the services it needs stops its tasks from being
//! replaced.

use stack_model::lifecycle::{Dependency, DependencyCondition};
use stack_model::{Phase, Readiness, ServiceKey, ServiceName, Slot, Task};

use crate::rollout::{is_current, wanted_slots};
use crate::state::{Service, State, UpdateState};

/// Why no task of the service may be started yet; `None`: what it needs is there.
pub(crate) fn unmet(state: &State, key: &ServiceKey, service: &Service) -> Option<String> {
    service.spec.depends_on.iter().find_map(|(name, dependency)| unmet_dependency(state, key, name, *dependency))
}

fn unmet_dependency(state: &State, key: &ServiceKey, name: &ServiceName, dependency: Dependency) -> Option<String> {
    let other = ServiceKey { stack: key.stack.clone(), service: name.clone() };
    let waiting = |for_what: &str| Some(format!("waiting for `{name}` {for_what}"));
    let Some(service) = state.services.get(&other).filter(|service| !service.removing) else {
        return if dependency.optional { None } else { waiting("to be there") };
    };
    let slots = wanted_slots(state, service).into_iter().filter(|slot| !is_away(state, *slot));
    let reached = |slot: Slot| {
        let mut tasks = state.tasks_of(&other).filter(|task| task.slot == slot && is_current(service, task));
        tasks.any(|task| has_reached(state, task, dependency.condition))
    };
    let missing = slots.filter(|slot| !reached(*slot)).collect::<Vec<_>>();
    if missing.is_empty() && !service.waits {
        return None;
    }
    let is_paused = service.update.as_ref().is_some_and(|update| matches!(update.state, UpdateState::Paused { .. }));
    let failed = is_paused || missing.iter().any(|slot| has_failed(state, &other, service, *slot));
    if failed && dependency.optional {
        return None;
    }
    let for_what = match dependency.condition {
        DependencyCondition::Started => "to be started",
        DependencyCondition::Healthy => "to be ready",
        DependencyCondition::Completed => "to end with exit code 0",
    };
    if failed { waiting(&format!("{for_what}, and it has failed")) } else { waiting(for_what) }
}

/// A node that is down is not waited for: a global service has its task there when the node is back.
fn is_away(state: &State, slot: Slot) -> bool {
    let Slot::Node(node) = slot else { return false };
    state.nodes.get(&node).is_none_or(|node| node.readiness == Readiness::Down)
}

fn has_reached(state: &State, task: &Task, condition: DependencyCondition) -> bool {
    let ended_well = task.status.phase == Phase::Complete && task.desired == stack_model::DesiredState::Running;
    match condition {
        DependencyCondition::Started => ended_well || (task.is_active() && task.status.phase >= Phase::Running),
        DependencyCondition::Healthy => {
            let reachable = state.nodes.get(&task.node).is_some_and(|node| node.readiness == Readiness::Ready);
            task.is_active() && task.status.ready && reachable
        }
        DependencyCondition::Completed => ended_well,
    }
}

/// The last task of the slot has ended in failure, and nothing is on its way there.
fn has_failed(state: &State, key: &ServiceKey, service: &Service, slot: Slot) -> bool {
    let tasks = state.tasks_of(key).filter(|task| task.slot == slot && is_current(service, task));
    let last = tasks.max_by_key(|task| (task.revision, task.id));
    last.is_some_and(|task| matches!(task.status.phase, Phase::Failed | Phase::Rejected))
}
