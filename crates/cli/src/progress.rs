//! Pure. What a waiting deploy concludes from how a stack stands: what to say, and whether to go on waiting.

use stack_api::views::{ServiceView, StackStatus, TaskView};
use stack_model::{DesiredState, Milliseconds, Phase, Timestamp};

/// So many restarts of one container without it becoming ready are no accident any more.
const RESTARTS_TOO_MANY: u32 = 3;
/// A task that no node can run may find one; it is given so long.
const REJECTION_PATIENCE: Milliseconds = Milliseconds::from_seconds(3);

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Look again, at the latest after this time.
    Wait(Option<Milliseconds>),
    /// Everything is as wanted, and has been for long enough.
    Done,
    /// It will not come about.
    Failed {
        /// Why.
        reason: String,
        /// Whose last lines tell more.
        task: Option<Box<TaskView>>,
    },
}

/// What is remembered between two looks.
#[derive(Debug, Default)]
pub struct Progress {
    said: Vec<(String, String)>,
    converged_since: Option<Timestamp>,
    restarts: u32,
    rejected_since: Option<Timestamp>,
}

impl Progress {
    /// The lines to print since the last look: one for each service that stands differently.
    pub fn news(&mut self, status: &StackStatus) -> Vec<String> {
        let mut news = Vec::new();
        for service in &status.services {
            let key = service.key.service.to_string();
            let text = summary(service, &status.tasks);
            match self.said.iter_mut().find(|(said, _)| *said == key) {
                Some((_, before)) if *before == text => continue,
                Some((_, before)) => before.clone_from(&text),
                None => self.said.push((key.clone(), text.clone())),
            }
            news.push(format!("{key:<16} {text}"));
        }
        news
    }

    /// Whether to go on. `stable`: how long everything must have been well; `now`: the caller's clock.
    pub fn judge(&mut self, status: &StackStatus, stable: Milliseconds, now: Timestamp) -> Verdict {
        for service in &status.services {
            if let Some(reason) = broken(service) {
                let task = failing_task(&status.tasks, service);
                return Verdict::Failed { reason, task: task.map(|task| Box::new(task.clone())) };
            }
        }
        let current = || status.tasks.iter().filter(|task| task.current && task.desired == DesiredState::Running);
        if let Some(task) = current().find(|task| !task.ready && task.restarts >= RESTARTS_TOO_MANY) {
            return Verdict::Failed {
                reason: format!(
                    "{} on {} was started {} times and does not stay up{}",
                    crate::commands::list::task_name(task),
                    task.node_name,
                    task.restarts + 1,
                    because(task)
                ),
                task: Some(Box::new(task.clone())),
            };
        }
        let rejected = status
            .services
            .iter()
            .filter(|service| !service.converged)
            .filter_map(|service| {
                status
                    .tasks
                    .iter()
                    .find(|task| task.current && task.service == service.key && task.phase == Phase::Rejected)
            })
            .next();
        match rejected {
            Some(task) => {
                let since = *self.rejected_since.get_or_insert(now);
                if now.since(since) >= REJECTION_PATIENCE {
                    return Verdict::Failed {
                        reason: format!(
                            "{} cannot run on {}{}",
                            crate::commands::list::task_name(task),
                            task.node_name,
                            because(task)
                        ),
                        task: Some(Box::new(task.clone())),
                    };
                }
            }
            None => self.rejected_since = None,
        }
        let restarts = current().map(|task| task.restarts).sum();
        let converged = status.stack.as_ref().is_some_and(|stack| stack.converged && !stack.removing);
        if !converged || restarts != self.restarts {
            self.restarts = restarts;
            self.converged_since = converged.then_some(now);
            return Verdict::Wait(rejected.map(|_| REJECTION_PATIENCE).or_else(|| converged.then_some(stable)));
        }
        let well_for = now.since(*self.converged_since.get_or_insert(now));
        if well_for >= stable { Verdict::Done } else { Verdict::Wait(Some(Milliseconds(stable.0 - well_for.0))) }
    }
}

fn because(task: &TaskView) -> String {
    task.message.as_ref().map(|message| format!(": {message}")).unwrap_or_default()
}

/// Why the service will not become as wanted without somebody's doing.
fn broken(service: &ServiceView) -> Option<String> {
    if let Some(state @ ("paused" | "rolled back")) = service.update.as_deref() {
        let reason = service.update_reason.as_deref().unwrap_or("too many tasks failed");
        return Some(format!("the update of {} is {state}: {reason}", service.key.service));
    }
    (service.failed > 0)
        .then(|| format!("{} of {} tasks of {} failed for good", service.failed, service.desired, service.key.service))
}

fn failing_task<'a>(tasks: &'a [TaskView], service: &ServiceView) -> Option<&'a TaskView> {
    let mut of_service: Vec<&TaskView> = tasks.iter().filter(|task| task.service == service.key).collect();
    of_service.sort_by_key(|task| {
        let failed = matches!(task.phase, Phase::Failed | Phase::Rejected);
        (failed, task.restarts, task.created_at)
    });
    of_service.last().copied()
}

/// How a service stands, in a few words.
fn summary(service: &ServiceView, tasks: &[TaskView]) -> String {
    let mut text = if service.removing {
        format!("{} left", service.ready)
    } else if service.updated != service.ready {
        format!("{}/{} running, {} of them new", service.ready, service.desired, service.updated)
    } else {
        format!("{}/{} running", service.ready, service.desired)
    };
    if let Some(unplaced) = &service.unplaced {
        text.push_str(&format!("; {} pending: {}", unplaced.count, unplaced.reason));
    }
    let waiting = tasks.iter().find(|task| {
        task.service == service.key && task.current && !task.ready && task.message.is_some() && !service.converged
    });
    if let Some(task) = waiting {
        let name = crate::commands::list::task_name(task);
        text.push_str(&format!("; {name} on {}{}", task.node_name, because(task)));
    }
    text
}
