//! Pure. What to do now, so that the host comes nearer to its assignment.
//!
//! Steps of different tasks may run side by side. A task has at most one step: the next one is planned from what the
//! host looks like after it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use stack_model::lifecycle::Hook;
use stack_model::spec::PublishMode;
use stack_model::{AssignedTask, Assignment, DesiredState, Health, RegistryCredential, TaskId, Timestamp};

use crate::host::{Observed, ObservedContainer, ObservedState};
use crate::memory::{Memory, STEADY, TaskMemory};

/// One thing to do. So specific that nothing is left to decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make its images available: its own, and those that are mounted in it.
    Pull {
        /// For which task.
        task: TaskId,
        /// What it runs.
        assigned: Arc<AssignedTask>,
        /// For the registries of the images, by the registry.
        credentials: BTreeMap<String, RegistryCredential>,
    },
    /// Make the container, with its volumes.
    Create {
        /// For which task.
        task: TaskId,
        /// What it runs.
        assigned: Arc<AssignedTask>,
    },
    /// Start the container, and run what is to be run in it after that.
    Start {
        /// For which task.
        task: TaskId,
        /// The container.
        container: String,
        /// What is run in it.
        hooks: Vec<Hook>,
        /// `None`: for the first time. `Some`: again, and whether it had been steady before it ended.
        restart: Option<bool>,
    },
    /// Ask the container to end, and end it when its grace is over.
    Stop {
        /// Of which task.
        task: TaskId,
        /// The container.
        container: String,
        /// Because its health check failed.
        unhealthy: bool,
        /// What is run in it before it is asked to end.
        hooks: Vec<Hook>,
    },
    /// Remove the container and all that belongs to it alone.
    Remove {
        /// Of which task.
        task: TaskId,
        /// The container.
        container: String,
    },
}

impl Step {
    /// Whose step it is.
    #[must_use]
    pub const fn task(&self) -> TaskId {
        match self {
            Self::Pull { task, .. }
            | Self::Create { task, .. }
            | Self::Start { task, .. }
            | Self::Stop { task, .. }
            | Self::Remove { task, .. } => *task,
        }
    }

    /// What it does, for people.
    #[must_use]
    pub fn activity(&self) -> String {
        match self {
            Self::Pull { assigned, .. } => format!("pulling {}", assigned.spec.container.image.reference),
            Self::Create { .. } => "making the container".to_owned(),
            Self::Start { restart: None, .. } => "starting".to_owned(),
            Self::Start { restart: Some(_), .. } => "starting again".to_owned(),
            Self::Stop { unhealthy: true, .. } => "stopping: its health check failed".to_owned(),
            Self::Stop { unhealthy: false, .. } => "stopping".to_owned(),
            Self::Remove { .. } => "removing".to_owned(),
        }
    }

    /// For logs and metrics.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Pull { .. } => "pull",
            Self::Create { .. } => "create",
            Self::Start { .. } => "start",
            Self::Stop { .. } => "stop",
            Self::Remove { .. } => "remove",
        }
    }
}

/// What to do, and when to look again though nothing happens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Steps {
    /// In order: what ends comes before what begins.
    pub steps: Vec<Step>,
    /// `None`: time alone changes nothing.
    pub wake_at: Option<Timestamp>,
}

/// What the plan is made from beside the assignment.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances<'a> {
    /// What is remembered.
    pub memory: &'a Memory,
    /// Tasks that have a step under way.
    pub busy: &'a BTreeSet<TaskId>,
    /// Tasks whose image is known to be on the host.
    pub pulled: &'a BTreeSet<TaskId>,
    /// After a boot nothing is started before a controller was heard, or this time has come: what the host remembers may
    /// have been given to another one meanwhile.
    pub start_not_before: Option<Timestamp>,
    /// The host's clock.
    pub now: Timestamp,
}

/// Decides the next step of every task.
#[must_use]
pub fn plan(want: &Assignment, have: &Observed, circumstances: Circumstances<'_>) -> Steps {
    let mut ends = Vec::new();
    let mut begins = Steps::default();
    let mut leaving_ports = LeavingPorts::new();
    for (task, container) in &have.containers {
        let assigned = want.tasks.get(task);
        let stays = assigned.is_some_and(|assigned| assigned.desired == DesiredState::Running);
        let runs = matches!(container.state, ObservedState::Running { .. });
        if runs && !stays {
            leaving_ports.extend(container.ports.iter().map(|(number, protocol)| (*number, *protocol, assigned)));
        }
        if circumstances.busy.contains(task) || stays {
            continue;
        }
        let memory = circumstances.memory.of(*task);
        if is_too_early(memory.retry_at, circumstances.now, &mut begins) {
            continue;
        }
        if runs {
            let hooks = assigned.map(|assigned| assigned.spec.container.pre_stop.clone()).unwrap_or_default();
            ends.push(Step::Stop { task: *task, container: container.id.clone(), unhealthy: false, hooks });
        } else if assigned.is_none() {
            ends.push(Step::Remove { task: *task, container: container.id.clone() });
        }
    }
    for (task, assigned) in &want.tasks {
        if assigned.desired == DesiredState::Running && !circumstances.busy.contains(task) {
            let container = have.containers.get(task);
            let step = next_step(*task, assigned, container, want, &leaving_ports, circumstances, &mut begins);
            begins.steps.extend(step);
        }
    }
    ends.append(&mut begins.steps);
    Steps { steps: ends, wake_at: begins.wake_at }
}

fn is_too_early(at: Option<Timestamp>, now: Timestamp, steps: &mut Steps) -> bool {
    match at {
        Some(at) if at > now => {
            steps.wake_at = Some(steps.wake_at.map_or(at, |present| present.min(at)));
            true
        }
        _ => false,
    }
}

fn next_step(
    task: TaskId,
    assigned: &AssignedTask,
    container: Option<&ObservedContainer>,
    want: &Assignment,
    leaving_ports: &LeavingPorts<'_>,
    circumstances: Circumstances<'_>,
    steps: &mut Steps,
) -> Option<Step> {
    let memory = circumstances.memory.of(task);
    let now = circumstances.now;
    if is_rejected(&memory) {
        return None;
    }
    let Some(container) = container else {
        if has_ended(&memory) || is_too_early(circumstances.start_not_before, now, steps) {
            return None;
        }
        if is_too_early(memory.retry_at, now, steps) {
            return None;
        }
        let assigned = Arc::new(assigned.clone());
        return Some(if circumstances.pulled.contains(&task) {
            Step::Create { task, assigned }
        } else {
            let registries = assigned.spec.container.images().map(|image| registry_of(&image.reference));
            let credentials = registries
                .filter_map(|registry| Some((registry.to_owned(), want.registry_credentials.get(registry)?.clone())))
                .collect();
            Step::Pull { task, assigned, credentials }
        });
    };
    let hooks = || assigned.spec.container.post_start.clone();
    let start = |restart| Step::Start { task, container: container.id.clone(), hooks: hooks(), restart };
    let ports_are_free =
        || !leaving_ports.iter().any(|(number, protocol, leaving)| keeps_port(*number, protocol, *leaving, assigned));
    match &container.state {
        ObservedState::Created => {
            if is_too_early(circumstances.start_not_before, now, steps) || is_too_early(memory.retry_at, now, steps) {
                return None;
            }
            ports_are_free().then(|| start(None))
        }
        ObservedState::Running { health: Some(Health::Unhealthy), .. } => {
            if is_too_early(memory.retry_at, now, steps) {
                return None;
            }
            let hooks = assigned.spec.container.pre_stop.clone();
            Some(Step::Stop { task, container: container.id.clone(), unhealthy: true, hooks })
        }
        // What is to be run in it after its start was not, or not to its end: the agent was away.
        ObservedState::Running { .. } if is_starting(&memory, assigned) => {
            (!is_too_early(memory.retry_at, now, steps)).then(|| start(None))
        }
        ObservedState::Running { .. } => None,
        ObservedState::Exited { code, started, finished, .. } => {
            let policy = &assigned.spec.restart;
            if has_ended(&memory) {
                return None;
            }
            if memory.start_failed {
                // The last start did not come about; whether the container may run again is not the question.
                let early = is_too_early(circumstances.start_not_before, now, steps)
                    || is_too_early(memory.retry_at, now, steps);
                return (!early && ports_are_free()).then(|| start(None));
            }
            if !memory.restarts_after(policy, *code, *finished) {
                return None;
            }
            let at = memory.restart_at(policy, *started, *finished);
            if is_too_early(circumstances.start_not_before, now, steps) || is_too_early(Some(at), now, steps) {
                return None;
            }
            ports_are_free().then(|| start(Some(finished.since(*started) >= STEADY)))
        }
    }
}

/// Ports of containers that are to end but have not yet, with what is known of each.
type LeavingPorts<'a> = Vec<(u16, &'static str, Option<&'a AssignedTask>)>;

/// Whether a container that is to end keeps the port from the task until then. Tasks of one service share their ports
/// unless each owns its own.
fn keeps_port(number: u16, protocol: &str, leaving: Option<&AssignedTask>, assigned: &AssignedTask) -> bool {
    let of = |task: &AssignedTask| {
        task.spec
            .ports
            .iter()
            .find(|port| port.published == Some(number) && port.protocol.as_str() == protocol)
            .map(|port| port.mode)
    };
    let Some(mode) = of(assigned) else { return false };
    let is_shared = leaving.is_some_and(|leaving| {
        leaving.service == assigned.service && mode == PublishMode::Ingress && of(leaving) == Some(PublishMode::Ingress)
    });
    !is_shared
}

/// It cannot run here, and trying again is of no use.
pub(crate) fn is_rejected(memory: &TaskMemory) -> bool {
    memory.failure.as_ref().is_some_and(|failure| !failure.may_heal)
}

/// Its container runs, and what is to be run in it after its start has not ended well yet.
pub(crate) fn is_starting(memory: &TaskMemory, assigned: &AssignedTask) -> bool {
    !assigned.spec.container.post_start.is_empty() && !memory.post_started
}

/// A terminal phase was reported: the task never starts again, whatever is left of it.
pub(crate) fn has_ended(memory: &TaskMemory) -> bool {
    memory.reached.is_some_and(stack_model::Phase::is_terminal)
}

/// The registry's host and port of an image reference, by Docker's rule.
pub(crate) fn registry_of(reference: &str) -> &str {
    match reference.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => "docker.io",
    }
}
