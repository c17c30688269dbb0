//! Pure. One pass of the reconcile loop, from whole state to whole outcome: what to do, what to say, what to remember.
//! The loop and the simulation run this same function.

use std::collections::BTreeSet;

use stack_model::{Assignment, Report, TaskId, Timestamp};

use crate::host::Observed;
use crate::memory::Memory;
use crate::plan::{Circumstances, Step, plan};
use crate::report::{remember, report};

/// What a pass decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pass {
    /// To be begun now.
    pub steps: Vec<Step>,
    /// How every assigned task stands.
    pub report: Report,
    /// To be kept before the steps begin.
    pub memory: Memory,
    /// When to look again though nothing happens; `None`: time alone changes nothing.
    pub wake_at: Option<Timestamp>,
}

/// Decides one pass.
#[must_use]
pub fn pass(want: &Assignment, have: &Observed, circumstances: Circumstances<'_>) -> Pass {
    let steps = plan(want, have, circumstances);
    let mut memory = circumstances.memory.clone();
    for step in &steps.steps {
        memory.begin(step);
    }
    let report = report(want, have, &memory, circumstances.busy, circumstances.now);
    remember(&mut memory, &report);
    let known: BTreeSet<TaskId> =
        want.tasks.keys().chain(have.containers.keys()).chain(circumstances.busy).copied().collect();
    memory.retain(&known);
    Pass { steps: steps.steps, report, memory, wake_at: steps.wake_at }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use stack_model::{NodeId, Phase};

    use super::*;
    use crate::host::{ObservedContainer, ObservedState};

    #[test]
    fn the_end_of_a_failed_start_is_not_that_of_its_task() {
        let task = TaskId::from_bits(1);
        let want: Assignment = serde_json::from_value(serde_json::json!({
            "node": NodeId::from_bits(2),
            "generation": 1,
            "tasks": { task.to_string(): {
                "service": "shop/once",
                "slot": {"replica": 1},
                "spec": {"container": {"image": {"reference": "once"}}, "restart": {"condition": "none"}},
                "desired": "running",
            }},
        }))
        .unwrap();
        let exited =
            ObservedState::Exited { code: 128, out_of_memory: false, started: Timestamp(5), finished: Timestamp(5) };
        let container = ObservedContainer { id: "c".to_owned(), state: exited, ports: Vec::new() };
        let have = Observed { containers: BTreeMap::from([(task, container)]) };
        let (idle, pulled) = (BTreeSet::new(), BTreeSet::new());
        let mut memory = Memory::default();
        let start = Step::Start { task, container: "c".to_owned(), restart: None, hooks: Vec::new() };
        memory.begin(&start);
        // The engine knows the end before the step has told its outcome.
        let busy = BTreeSet::from([task]);
        let of = |memory: &Memory, busy: &BTreeSet<TaskId>| {
            let circumstances =
                Circumstances { memory, busy, pulled: &pulled, start_not_before: None, now: Timestamp(6) };
            pass(&want, &have, circumstances)
        };
        let decided = of(&memory, &busy);
        assert_eq!(decided.report.tasks[&task].phase, Phase::Starting);
        memory = decided.memory;
        let failure = crate::host::StepFailure { message: "no".to_owned(), may_heal: true };
        memory.end(&start, Err(failure), Timestamp(7));
        let decided = of(&memory, &idle);
        let status = &decided.report.tasks[&task];
        assert_eq!((status.phase, status.message.as_deref()), (Phase::Starting, Some("no; trying again after 100ms")));
    }
}
