//! The end of the whole host: its tasks' containers end before it, in order.

use std::time::Duration;

use stack_engine::Engine;
use stack_engine::container::{ContainerId, ContainerState};
use stack_model::TaskId;

use crate::hooks;
use crate::ledger::SharedLedger;
use crate::translate::TASK_LABEL;

/// Ends every container as a stop of its task would, with its `pre_stop` commands first; neither these nor its own end may
/// take longer than `longest`. That they ended with the host is on the disk before they do, so that the next agent does not
/// take an orderly end for work that is done. The agent's loop must have ended. `ledger` is a member's.
pub async fn end_with_host(engine: &Engine, ledger: Option<SharedLedger>, longest: Duration) {
    if let Some(ledger) = ledger {
        let running: Vec<(TaskId, ContainerId)> = engine
            .list()
            .into_iter()
            .filter(|container| matches!(container.state, ContainerState::Running { .. }))
            .filter_map(|container| Some((container.labels.get(TASK_LABEL)?.parse().ok()?, container.id)))
            .collect();
        let tasks: Vec<TaskId> = running.iter().map(|(task, _)| *task).collect();
        let assigned = ledger
            .change(move |ledger| {
                let mut memory = ledger.memory().clone();
                memory.end_with_host(tasks);
                ledger.set_memory(memory);
                ledger.assignment().tasks.clone()
            })
            .await;
        let before = running.iter().map(|(task, container)| {
            let assigned = assigned.get(task);
            async move {
                let hooks = assigned.map(|assigned| assigned.spec.container.pre_stop.as_slice()).unwrap_or_default();
                let grace = engine.inspect(container).and_then(|container| container.config.stop_grace);
                let grace = grace.unwrap_or(hooks::DEFAULT_GRACE).min(longest);
                // It ends all the same.
                if let Err(reason) = hooks::run(engine, container, hooks, grace).await {
                    tracing::warn!(%container, "`pre_stop`: {reason}");
                }
            }
        });
        futures::future::join_all(before).await;
    }
    engine.end_with_host(longest).await;
}
