//! What an engine finds when it is opened: the truth about every container that an engine before it made.

use std::sync::Arc;

use stack_shim::protocol::{Request, Response, State};

use super::{Engine, RemoveOptions, Slot, locked, now, report};
use crate::cgroup;
use crate::container::{ContainerState, Record, RecordedState, Shim, name_client};
use crate::overlay::OverlayContainer;

impl Engine {
    /// Finds the truth about every recorded container.
    pub(super) async fn adopt(&self, known: Vec<Record>) {
        let mut live = Vec::new();
        let mut ended = Vec::new();
        for record in known {
            match &record.state {
                RecordedState::Started => match self.running_shim(&record).await {
                    Some((shim, pid, started_at)) => live.push((record, shim, pid, started_at)),
                    None => ended.push(record),
                },
                RecordedState::Created | RecordedState::Exited(_) | RecordedState::Removing => ended.push(record),
            }
        }
        let ids: Vec<String> = live.iter().map(|(record, ..)| record.id.to_string()).collect();
        if let Err(error) = self.inner.launcher.networks.adopt(&ids).await {
            tracing::warn!(
                error = crate::container::text_of(&error),
                "not everything about the networks could be adopted"
            );
        }
        let on_overlays = live.iter().filter_map(|(record, _, pid, _)| {
            let endpoints = record.config.overlays.clone();
            if endpoints.is_empty() {
                return None;
            }
            let netns = std::fs::File::open(format!("/proc/{pid}/ns/net")).ok()?;
            Some(OverlayContainer { id: record.id.to_string(), netns, endpoints })
        });
        self.inner.launcher.overlay.adopt(on_overlays.collect());
        for (record, ..) in &live {
            for volume in crate::container::volumes(&record.id, &record.config, &record.image) {
                if let Err(error) = self.volumes().mount(&volume.name, record.id.as_str()) {
                    tracing::warn!(container = %record.id, error = crate::container::text_of(&error), "a volume is not there");
                }
            }
        }
        for failure in self.volumes().sweep() {
            tracing::warn!(failure, "a volume is still mounted");
        }
        for (record, shim, pid, _) in &mut live {
            let Some(client) = name_client(&record.config) else { continue };
            let served = match std::fs::File::open(format!("/proc/{pid}/ns/net")) {
                Ok(netns) => self.inner.launcher.resume_names(&record.id, &netns, client, shim).await.err(),
                Err(_ended) => None,
            };
            if let Some(error) = served {
                tracing::warn!(
                    container = %record.id,
                    error = crate::container::text_of(&error),
                    "the container has no name server"
                );
            }
        }
        for (record, _, pid, _) in &live {
            let failures = self.settle(record, *pid).await;
            report(&record.id, &failures);
        }
        for (record, shim, pid, started_at) in live {
            let state = ContainerState::Running { pid, started_at: started_at / 1_000_000 };
            tracing::info!(container = %record.id, pid, "adopted");
            let is_paused = cgroup::is_frozen(&record.cgroups);
            let slot = Arc::new(Slot::new(record, state));
            locked(&slot.data).paused = is_paused;
            let id = slot.record().id.clone();
            locked(&self.inner.containers).insert(id.clone(), Arc::clone(&slot));
            self.supervise(slot, shim, None, pid, started_at);
            self.adopt_execs(&id).await;
        }
        let mut settled = Vec::new();
        for mut record in ended {
            let removing = record.state == RecordedState::Removing;
            let before = record.state.clone();
            if record.state == RecordedState::Started {
                let status = match self.inner.launcher.records.exit(&record.id, record.starts) {
                    Some(exit) => crate::container::exit_status(&exit),
                    None => Record::unknown_end(now()),
                };
                record.state = RecordedState::Exited(status);
            }
            let failures = self.inner.launcher.clear(&record.id, &record.cgroups).await;
            report(&record.id, &failures);
            if record.state != before
                && let Err(error) = self.inner.launcher.records.save(&record)
            {
                tracing::warn!(container = %record.id, error = crate::container::text_of(&error), "could not record the end");
            }
            let state = match &record.state {
                RecordedState::Exited(status) => ContainerState::Exited(status.clone()),
                RecordedState::Removing => ContainerState::Removing,
                RecordedState::Created | RecordedState::Started => ContainerState::Created,
            };
            let id = record.id.clone();
            let ended = matches!(state, ContainerState::Exited(_));
            let slot = Arc::new(Slot::new(record, state));
            locked(&self.inner.containers).insert(id.clone(), Arc::clone(&slot));
            if ended {
                self.remove_if_asked(&slot);
                settled.push((Arc::clone(&slot), before));
            }
            if removing && let Err(error) = self.remove(&id, RemoveOptions { force: true, volumes: true }).await {
                tracing::warn!(container = %id, error = crate::container::text_of(&error), "a removal could not be completed");
            }
        }
        self.start_with_daemon(&settled);
    }

    /// The shim of a container that runs. One whose program was never started is of a start that was cut short: it is
    /// cleared away, and the container counts as ended.
    async fn running_shim(&self, record: &Record) -> Option<(Shim, i32, u64)> {
        let mut shim = Shim::connect(&self.inner.launcher.run_directory(&record.id)).await.ok()?;
        match shim.ask(&Request::Describe).await {
            Ok(Some(Response::State(State::Running { pid, started_at }))) => Some((shim, pid, started_at)),
            _ => None,
        }
    }
}
