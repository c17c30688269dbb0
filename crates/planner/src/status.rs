//! Pure. How a service stands, for people and for a deploy that waits.

use stack_model::{Phase, Readiness, ServiceKey, Slot};

use crate::rollout::{is_current, wanted_slots};
use crate::state::{Service, State, UpdateState};

/// How a service stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceStatus {
    /// How many slots should be filled.
    pub desired: u32,
    /// How many slots have a task that is ready, of whichever version.
    pub ready: u32,
    /// How many slots have a ready task of the present version, or one that ended well by itself.
    pub updated: u32,
    /// How many slots have ended by themselves in failure.
    pub failed: u32,
    /// Nothing is under way any more and every slot is as wanted.
    pub converged: bool,
}

/// How the service `key` stands; `None`: there is none.
#[must_use]
pub fn service_status(state: &State, key: &ServiceKey) -> Option<ServiceStatus> {
    let service = state.services.get(key)?;
    Some(status_of(state, key, service))
}

fn status_of(state: &State, key: &ServiceKey, service: &Service) -> ServiceStatus {
    let is_down = |node| state.nodes.get(&node).is_none_or(|node| node.readiness == Readiness::Down);
    // A node that is down is not waited for: a global service has its task there when the node is back.
    let mut wanted = wanted_slots(state, service);
    wanted.retain(|slot| !matches!(slot, Slot::Node(node) if is_down(*node)));
    let mut status = ServiceStatus {
        desired: u32::try_from(wanted.len()).unwrap_or(u32::MAX),
        ready: 0,
        updated: 0,
        failed: 0,
        converged: false,
    };
    let mut leftovers = false;
    for slot in &wanted {
        let mut ready = false;
        let mut updated = false;
        let mut failed = false;
        for task in state.tasks_of(key).filter(|task| task.slot == *slot) {
            let current = is_current(service, task);
            if task.is_active() {
                // What a lost node last said is no longer so.
                let serves = task.status.ready && !is_down(task.node);
                ready |= serves;
                updated |= serves && current;
                leftovers |= !current;
            } else if current && task.desired == stack_model::DesiredState::Running {
                updated |= task.status.phase == Phase::Complete;
                failed |= task.status.phase == Phase::Failed;
            }
        }
        status.ready += u32::from(ready);
        status.updated += u32::from(updated);
        status.failed += u32::from(failed && !updated);
    }
    let rolling = service
        .update
        .as_ref()
        .is_some_and(|update| matches!(update.state, UpdateState::Rolling | UpdateState::RollingBack { .. }));
    let surplus =
        state.tasks_of(key).any(|task| task.is_active() && !wanted.contains(&task.slot) && !is_down(task.node));
    status.converged = status.updated == status.desired && !service.waits && !rolling && !leftovers && !surplus;
    status
}
