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
    let report = report(want, have, &memory, circumstances.now);
    remember(&mut memory, &report);
    let known: BTreeSet<TaskId> =
        want.tasks.keys().chain(have.containers.keys()).chain(circumstances.busy).copied().collect();
    memory.retain(&known);
    Pass { steps: steps.steps, report, memory, wake_at: steps.wake_at }
}
