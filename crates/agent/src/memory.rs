//! Pure. What the agent remembers of each task beyond what the host shows: restarts, failures, when to try again.
//!
//! It is kept on disk with the assignment, so that a restarted agent neither forgets a back-off nor counts anew.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use stack_model::spec::{RestartCondition, RestartPolicy};
use stack_model::{Milliseconds, Phase, TaskId, Timestamp};

use crate::host::StepFailure;
use crate::plan::Step;

/// A container that ran so long starts over with its back-off.
pub const STEADY: Milliseconds = Milliseconds::from_seconds(10);
const FIRST_PAUSE: Milliseconds = Milliseconds(100);
const LONGEST_PAUSE: Milliseconds = Milliseconds::from_seconds(60);
/// So many restarts are remembered for a policy's window; more than any sensible `max_attempts`.
const REMEMBERED_RESTARTS: usize = 100;

/// What is remembered, by task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Memory {
    /// Only tasks with something to remember.
    pub tasks: BTreeMap<TaskId, TaskMemory>,
}

/// What is remembered of one task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskMemory {
    /// How often its container was started again.
    #[serde(default)]
    pub restarts: u32,
    /// When that was; the last hundred.
    #[serde(default)]
    pub restarted_at: Vec<Timestamp>,
    /// Ends in a row of a container that had not been steady.
    #[serde(default)]
    pub quick_ends: u32,
    /// Failures in a row to prepare or start it.
    #[serde(default)]
    pub attempts: u32,
    /// Not before.
    #[serde(default)]
    pub retry_at: Option<Timestamp>,
    /// The last failure.
    #[serde(default)]
    pub failure: Option<StepFailure>,
    /// That failure was a start's: the container did not come to run, and whether it may run *again* is not the question.
    #[serde(default)]
    pub start_failed: bool,
    /// What is to be run in the container after its start has ended well.
    #[serde(default)]
    pub post_started: bool,
    /// What is being done now, for people.
    #[serde(default)]
    pub activity: Option<String>,
    /// The furthest that was reported, so that a report never goes back.
    #[serde(default)]
    pub reached: Option<Phase>,
    /// When that was.
    #[serde(default)]
    pub reached_at: Option<Timestamp>,
    /// The container was stopped because its health check failed: that end counts as a failure whatever its code.
    #[serde(default)]
    pub was_unhealthy: bool,
    /// The container was asked to end because its host went down: that end counts as a failure whatever its code.
    #[serde(default)]
    pub ended_with_host: bool,
}

impl TaskMemory {
    /// The pause before the next try: none at first, then 100 ms doubling to a minute.
    #[must_use]
    pub fn pause(failures: u32) -> Milliseconds {
        match failures {
            0 => Milliseconds(0),
            failures => {
                let doubled = FIRST_PAUSE.0.saturating_mul(1_u64.checked_shl(failures - 1).unwrap_or(u64::MAX));
                Milliseconds(doubled.min(LONGEST_PAUSE.0))
            }
        }
    }

    /// How long a failed step is left alone: a little from the first failure on, at most 15 s.
    #[must_use]
    pub fn retry_pause(&self) -> Milliseconds {
        Self::pause(self.attempts.max(1)).min(Milliseconds::from_seconds(15))
    }

    /// Whether an end with this code was one that the container should not have come to.
    #[must_use]
    pub const fn has_failed(&self, code: i32) -> bool {
        code != 0 || self.was_unhealthy || self.ended_with_host
    }

    /// Whether the policy starts the container again after this end.
    #[must_use]
    pub fn restarts_after(&self, policy: &RestartPolicy, code: i32, finished: Timestamp) -> bool {
        let wanted = match policy.condition {
            RestartCondition::None => false,
            RestartCondition::OnFailure => self.has_failed(code),
            RestartCondition::Any => true,
        };
        wanted && !self.is_spent(policy, finished)
    }

    fn is_spent(&self, policy: &RestartPolicy, now: Timestamp) -> bool {
        let Some(limit) = policy.max_attempts else { return false };
        let counted =
            self.restarted_at.iter().filter(|&&at| policy.window.is_none_or(|window| now.since(at) < window)).count();
        u32::try_from(counted).unwrap_or(u32::MAX) >= limit
    }

    /// When the container is started again after an end.
    #[must_use]
    pub fn restart_at(&self, policy: &RestartPolicy, started: Timestamp, finished: Timestamp) -> Timestamp {
        let steady = finished.since(started) >= STEADY;
        let pause = policy.delay.unwrap_or_else(|| if steady { Milliseconds(0) } else { Self::pause(self.quick_ends) });
        let at = finished + pause;
        self.retry_at.map_or(at, |retry| retry.max(at))
    }
}

impl Memory {
    /// What is remembered of a task; nothing for one that had no trouble.
    #[must_use]
    pub fn of(&self, task: TaskId) -> TaskMemory {
        self.tasks.get(&task).cloned().unwrap_or_default()
    }

    /// Notes that the host goes down, with whatever runs of these tasks.
    pub fn end_with_host(&mut self, tasks: impl IntoIterator<Item = TaskId>) {
        for task in tasks {
            self.tasks.entry(task).or_default().ended_with_host = true;
        }
    }

    /// Notes that a step begins.
    pub fn begin(&mut self, step: &Step) {
        let memory = self.tasks.entry(step.task()).or_default();
        memory.activity = Some(step.activity());
        match step {
            Step::Stop { unhealthy: true, .. } => memory.was_unhealthy = true,
            Step::Start { .. } => memory.post_started = false,
            Step::Pull { .. } | Step::Create { .. } | Step::Stop { .. } | Step::Remove { .. } => {}
        }
    }

    /// Notes how a step ended.
    pub fn end(&mut self, step: &Step, outcome: Result<(), StepFailure>, now: Timestamp) {
        let memory = self.tasks.entry(step.task()).or_default();
        memory.activity = None;
        match outcome {
            Ok(()) => {
                memory.failure = None;
                memory.start_failed = false;
                memory.retry_at = None;
                memory.post_started |= matches!(step, Step::Start { .. });
                match step {
                    Step::Start { restart: Some(ran_steady), .. } => {
                        memory.attempts = 0;
                        memory.was_unhealthy = false;
                        memory.ended_with_host = false;
                        memory.restarts = memory.restarts.saturating_add(1);
                        memory.quick_ends = if *ran_steady { 1 } else { memory.quick_ends.saturating_add(1) };
                        memory.restarted_at.push(now);
                        let surplus = memory.restarted_at.len().saturating_sub(REMEMBERED_RESTARTS);
                        memory.restarted_at.drain(..surplus);
                    }
                    Step::Start { restart: None, .. } => memory.attempts = 0,
                    Step::Pull { .. } | Step::Create { .. } | Step::Stop { .. } | Step::Remove { .. } => {}
                }
            }
            Err(failure) => {
                memory.attempts = memory.attempts.saturating_add(1);
                memory.retry_at = Some(now + memory.retry_pause());
                memory.failure = Some(failure);
                memory.start_failed = matches!(step, Step::Start { .. });
            }
        }
    }

    /// Forgets every task that is neither assigned nor on the host.
    pub fn retain(&mut self, known: &BTreeSet<TaskId>) {
        self.tasks.retain(|task, _| known.contains(task));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_is_at_once_and_the_pause_doubles_to_a_minute() {
        let pauses: Vec<u64> = (0..13).map(|failures| TaskMemory::pause(failures).0).collect();
        assert_eq!(pauses, [0, 100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 60000, 60000]);
        assert_eq!(TaskMemory::pause(u32::MAX).0, 60000);
    }

    #[test]
    fn an_orderly_end_with_the_host_is_no_work_done() {
        let task = TaskId::from_bits(1);
        let mut memory = Memory::default();
        memory.end_with_host([task]);
        let policy = |condition| RestartPolicy { condition, ..RestartPolicy::default() };
        let of = memory.of(task);
        assert!(of.restarts_after(&policy(RestartCondition::OnFailure), 0, Timestamp(1)));
        assert!(of.has_failed(0) && !of.restarts_after(&policy(RestartCondition::None), 0, Timestamp(1)));
        memory.end(
            &Step::Start { task, container: "c".to_owned(), hooks: Vec::new(), restart: Some(true) },
            Ok(()),
            Timestamp(2),
        );
        assert!(!memory.of(task).restarts_after(&policy(RestartCondition::OnFailure), 0, Timestamp(3)));
    }

    #[test]
    fn attempts_count_within_the_window() {
        let policy = RestartPolicy {
            condition: RestartCondition::OnFailure,
            delay: None,
            max_attempts: Some(2),
            window: Some(Milliseconds(1000)),
        };
        let memory = TaskMemory { restarted_at: vec![Timestamp(1000), Timestamp(1500)], ..TaskMemory::default() };
        assert!(!memory.restarts_after(&policy, 1, Timestamp(1900)));
        assert!(memory.restarts_after(&policy, 1, Timestamp(2100)));
        assert!(!memory.restarts_after(&policy, 0, Timestamp(2100)), "exit code 0 is no failure");
    }
}
