//! Pure. What the host says of its tasks.

use std::collections::{BTreeMap, BTreeSet};

use stack_model::{AssignedTask, Assignment, DesiredState, Health, Phase, Report, TaskId, TaskStatus, Timestamp};

use crate::host::{Observed, ObservedContainer, ObservedState};
use crate::memory::{Memory, TaskMemory};
use crate::plan::{is_rejected, is_starting};

/// How every assigned task stands. Phases never go back: the furthest that was reached is in `memory`, which the caller
/// updates from the report ([`remember`]). `busy` are the tasks with a step under way.
#[must_use]
pub fn report(want: &Assignment, have: &Observed, memory: &Memory, busy: &BTreeSet<TaskId>, now: Timestamp) -> Report {
    let tasks: BTreeMap<TaskId, TaskStatus> = want
        .tasks
        .iter()
        .map(|(task, assigned)| {
            let memory = memory.of(*task);
            (*task, status(assigned, have.containers.get(task), &memory, busy.contains(task), now))
        })
        .collect();
    Report { node: want.node, generation: want.generation, tasks }
}

/// Notes the phases that a report names.
pub fn remember(memory: &mut Memory, report: &Report) {
    for (task, status) in &report.tasks {
        let memory = memory.tasks.entry(*task).or_default();
        if memory.reached < Some(status.phase) {
            memory.reached = Some(status.phase);
            memory.reached_at = Some(status.since);
        }
    }
}

fn status(
    assigned: &AssignedTask,
    container: Option<&ObservedContainer>,
    memory: &TaskMemory,
    is_busy: bool,
    now: Timestamp,
) -> TaskStatus {
    let mut status = TaskStatus {
        restarts: memory.restarts,
        container: container.map(|container| container.id.clone()),
        ..TaskStatus::assigned(now)
    };
    // Since when, where the container itself tells it.
    let mut since = None;
    let stopping = assigned.desired == DesiredState::Stopped;
    let trouble = || {
        let failure = memory.failure.as_ref()?;
        // Pauses, not what is left of them: a report changes only when something has happened.
        Some(if failure.may_heal {
            format!("{failure}; trying again after {}", memory.retry_pause())
        } else {
            failure.to_string()
        })
    };
    let phase = match container.map(|container| &container.state) {
        Some(ObservedState::Running { pid, since: started, health }) => {
            status.pid = Some(*pid);
            status.health = *health;
            since = Some(*started);
            let starting = is_starting(memory, assigned);
            status.ready = !stopping && !starting && matches!(health, None | Some(Health::Healthy));
            if stopping {
                Phase::Stopping
            } else {
                if starting {
                    let running = "what runs in it after its start (`post_start`) has not ended yet";
                    status.message = trouble().or_else(|| Some(running.to_owned()));
                }
                if *health == Some(Health::Unhealthy) {
                    status.message = Some("its health check fails".to_owned());
                }
                Phase::Running
            }
        }
        Some(ObservedState::Exited { code, out_of_memory, started, finished }) => {
            status.exit_code = Some(*code);
            status.out_of_memory = *out_of_memory;
            since = Some(*finished);
            let how = end_text(*code, *out_of_memory, memory);
            let policy = &assigned.spec.restart;
            if stopping {
                Phase::Complete
            } else if is_rejected(memory) {
                status.message = trouble();
                Phase::Rejected
            } else if memory.start_failed {
                status.message = trouble();
                Phase::Starting
            } else if memory.restarts_after(policy, *code, *finished) {
                let pause = memory.restart_at(policy, *started, *finished).since(*finished);
                status.message = Some(match pause.0 {
                    0 => format!("{how}; starting again at once"),
                    _ => format!("{how}; starting again after {pause}"),
                });
                Phase::Running
            } else if is_busy {
                // Whether this is the end of its container or of an attempt to start it is known when the step has ended.
                status.message = memory.activity.clone();
                Phase::Starting
            } else if !memory.has_failed(*code) {
                Phase::Complete
            } else {
                let after = match memory.restarts {
                    0 => String::new(),
                    1 => " after 1 restart".to_owned(),
                    restarts => format!(" after {restarts} restarts"),
                };
                status.message = Some(format!("{how}{after}"));
                Phase::Failed
            }
        }
        Some(ObservedState::Created) if stopping => Phase::Complete,
        Some(ObservedState::Created) => {
            status.message = trouble();
            if is_rejected(memory) { Phase::Rejected } else { Phase::Starting }
        }
        None if stopping => Phase::Complete,
        None => {
            status.message = trouble().or_else(|| memory.activity.clone());
            if is_rejected(memory) { Phase::Rejected } else { Phase::Preparing }
        }
    };
    status.phase = memory.reached.map_or(phase, |reached| reached.max(phase));
    status.since = match (since, memory.reached_at) {
        (Some(since), _) => since,
        (None, Some(reached_at)) if memory.reached == Some(status.phase) => reached_at,
        (None, _) => now,
    };
    status
}

/// How a container ended, for people.
fn end_text(code: i32, out_of_memory: bool, memory: &TaskMemory) -> String {
    if out_of_memory {
        return "killed: it used more memory than its limit".to_owned();
    }
    if memory.was_unhealthy {
        return "stopped: its health check failed".to_owned();
    }
    if memory.ended_with_host {
        return "stopped: its host went down".to_owned();
    }
    match code {
        0 => "ended with exit code 0".to_owned(),
        129..=192 => format!("ended by signal {}", code - 128),
        code => format!("ended with exit code {code}"),
    }
}
