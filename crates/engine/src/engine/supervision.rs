//! From a container's start to its end: its shim is listened to, its health is probed, and its end is recorded and cleared
//! up after.

use std::sync::Arc;
use std::time::Duration;

use stack_shim::protocol::Request;

use super::verdict::VerdictFile;
use super::{Engine, RemoveOptions, Slot, locked, now, report};
use crate::cgroup;
use crate::container::{
    ContainerState, EventKind, ExitStatus, HealthState, Prober, Record, RecordedState, RemoveError, Shim,
};
use crate::crash_point::crash_point;

impl Engine {
    /// Waits for the end of a running container, then records it and clears up.
    pub(super) fn supervise(
        &self,
        slot: Arc<Slot>,
        mut shim: Shim,
        child: Option<tokio::process::Child>,
        pid: i32,
        started: u64,
    ) {
        let engine = self.clone();
        let record = slot.record();
        let running_for = Duration::from_millis(now().saturating_sub(started / 1_000_000));
        // What the engine before this one found of the same start goes on to hold until the next probe.
        let verdict = VerdictFile {
            path: self.inner.launcher.run_directory(&record.id).join("health.json"),
            start: record.starts,
        };
        let initial = verdict.read().unwrap_or_else(HealthState::starting_now);
        let reporter = {
            let (engine, slot, id) = (engine.clone(), Arc::downgrade(&slot), record.id.clone());
            move |state: HealthState| {
                let Some(slot) = slot.upgrade() else { return };
                let before = {
                    let mut data = locked(&slot.data);
                    // One that has ended has no health, whatever a probe says that its end has cut short.
                    if data.prober.is_none() {
                        return;
                    }
                    data.health.replace(state.clone())
                };
                verdict.write(&state);
                if before.is_none_or(|before| before.health != state.health) {
                    engine.tell(&id, EventKind::Health(state.health));
                }
            }
        };
        let prober = Prober::start(self.inner.launcher.clone(), record, pid, running_for, initial.clone(), reporter);
        {
            let mut data = locked(&slot.data);
            data.health = prober.is_some().then_some(initial);
            data.prober = prober;
        }
        tokio::spawn(async move {
            // Whatever the answer, or none: the record says how it ended.
            if let Err(error) = shim.ask(&Request::Wait).await {
                tracing::debug!(%error, "the conversation with a shim broke");
            }
            let reaper = tokio::spawn(async move {
                if let Some(mut child) = child
                    && let Err(error) = child.wait().await
                {
                    tracing::debug!(%error, "could not reap a shim");
                }
            });
            engine.finish(&slot).await;
            // It has told or died; its own end takes a moment more.
            let _ = reaper.await;
        });
    }

    pub(super) async fn finish(&self, slot: &Arc<Slot>) {
        let _turn = slot.turn.lock().await;
        let record = slot.record();
        let exit = self.inner.launcher.records.exit(&record.id, record.starts);
        if exit.is_none() {
            // The shim is gone without a word, so its container must not go on unsupervised.
            cgroup::kill_all(&record.cgroups);
        }
        let status = exit.map_or_else(|| Record::unknown_end(now()), |exit| crate::container::exit_status(&exit));
        self.inner.metrics.exits.inc();
        if status.oom {
            self.inner.metrics.out_of_memory.inc();
        }
        {
            let mut data = locked(&slot.data);
            data.prober = None;
            data.health = None;
            data.paused = false;
        }
        crash_point!("end.noticed");
        // Told before the clearing up, which takes longer; a new start waits for its turn.
        self.record_end(slot, status.clone()).await;
        self.tell_surroundings(&record, false);
        crash_point!("end.recorded");
        let failures = self.inner.launcher.clear(&record.id, &record.cgroups).await;
        report(&record.id, &failures);
        crash_point!("end.cleared");
        self.remove_if_asked(slot);
        self.restart_by_policy(slot, &status);
    }

    /// A container that shall not outlive its end goes, as soon as its turn is over.
    pub(super) fn remove_if_asked(&self, slot: &Slot) {
        let record = slot.record();
        if !record.config.auto_remove {
            return;
        }
        let (engine, id) = (self.clone(), record.id.clone());
        tokio::spawn(async move {
            let options = RemoveOptions { force: false, volumes: true };
            match engine.remove(&id, options).await {
                // Somebody else was quicker, or has started it again.
                Ok(()) | Err(RemoveError::Missing { .. } | RemoveError::Running { .. }) => {}
                Err(error) => {
                    tracing::warn!(container = %id, error = crate::container::text_of(&error), "could not be removed after its end");
                }
            }
        });
    }

    pub(super) async fn record_end(&self, slot: &Slot, status: ExitStatus) {
        let record = Record { state: RecordedState::Exited(status.clone()), ..(*slot.record()).clone() };
        let id = record.id.clone();
        locked(&slot.data).record = Arc::new(record.clone());
        slot.set(ContainerState::Exited(status.clone()));
        self.tell(&id, EventKind::Exited(status));
        if let Err(error) = self.save(&record).await {
            // The next engine reads the shim's record instead.
            tracing::warn!(container = %id, error = crate::container::text_of(&error), "could not record the end");
        }
    }
}
