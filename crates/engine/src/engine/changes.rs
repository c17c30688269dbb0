//! What is changed about a container that is there: whether it is paused, its name, its limits, and its being started again.

use std::sync::Arc;
use std::time::Duration;

use super::{Data, Engine, Slot, locked};
use crate::cgroup;
use crate::container::{
    ChangeError, ContainerId, ContainerState, EventKind, ExitStatus, NetworkMode, PauseError, Record, RecordedState,
    RenameError, Resources, RestartError, RestartPolicy, SpecError, pause_after,
};
use crate::crash_point::crash_point;

/// What is to be different.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerChange {
    /// All its limits.
    pub resources: Option<Resources>,
    /// What happens when it ends.
    pub restart: Option<RestartPolicy>,
}

impl Engine {
    /// Stops a running container's processes where they are.
    ///
    /// # Errors
    /// When it does not run, is paused already, or the kernel refuses.
    pub async fn pause(&self, id: &ContainerId) -> Result<(), PauseError> {
        self.set_paused(id, true).await
    }

    /// Lets a paused container go on.
    ///
    /// # Errors
    /// When it is not paused, or the kernel refuses.
    pub async fn unpause(&self, id: &ContainerId) -> Result<(), PauseError> {
        self.set_paused(id, false).await
    }

    async fn set_paused(&self, id: &ContainerId, paused: bool) -> Result<(), PauseError> {
        let slot = self.slot(id).ok_or_else(|| PauseError::Missing { id: id.clone() })?;
        let _turn = slot.turn.lock().await;
        if !matches!(slot.current(), ContainerState::Running { .. }) {
            return Err(PauseError::NotRunning { id: id.clone() });
        }
        match (locked(&slot.data).paused, paused) {
            (true, true) => return Err(PauseError::Paused { id: id.clone() }),
            (false, false) => return Err(PauseError::NotPaused { id: id.clone() }),
            (true, false) | (false, true) => {}
        }
        let cgroups = slot.record().cgroups.clone();
        let outcome = tokio::task::spawn_blocking(move || cgroup::freeze(&cgroups, paused)).await;
        outcome
            .unwrap_or_else(|error| Err(std::io::Error::other(error)))
            .map_err(|source| PauseError::Kernel { id: id.clone(), source })?;
        crash_point!("pause.frozen");
        locked(&slot.data).paused = paused;
        self.tell(id, if paused { EventKind::Paused } else { EventKind::Unpaused });
        Ok(())
    }

    /// Lets a container that must end do so: one that is paused takes no signal.
    pub(super) fn thaw(&self, slot: &Slot) {
        if !std::mem::take(&mut locked(&slot.data).paused) {
            return;
        }
        let record = slot.record();
        match cgroup::freeze(&record.cgroups, false) {
            Ok(()) => self.tell(&record.id, EventKind::Unpaused),
            Err(error) => tracing::warn!(container = %record.id, %error, "a paused container could not be let go on"),
        }
    }

    /// Gives a container another name.
    ///
    /// # Errors
    /// When there is no such container, another one has the name, or it cannot be recorded.
    pub async fn rename(&self, id: &ContainerId, name: &str) -> Result<(), RenameError> {
        let slot = self.slot(id).ok_or_else(|| RenameError::Missing { id: id.clone() })?;
        let _turn = slot.turn.lock().await;
        let (before, record) = {
            // Held over the look and the change, so that of two containers one gets the name.
            let containers = locked(&self.inner.containers);
            let named = |record: &Record| record.config.name.clone().unwrap_or_else(|| record.id.to_string());
            let other = containers.values().map(|slot| slot.record()).find(|other| named(other) == name);
            if let Some(other) = other {
                return Err(RenameError::Taken { name: name.to_owned(), other: other.id.clone() });
            }
            let mut record = (*slot.record()).clone();
            let before = named(&record);
            record.config.name = Some(name.to_owned());
            locked(&slot.data).record = Arc::new(record.clone());
            (before, record)
        };
        if let Err(source) = self.save(&record).await {
            let mut back = record;
            back.config.name = Some(before);
            locked(&slot.data).record = Arc::new(back);
            return Err(RenameError::Record { id: id.clone(), source });
        }
        crash_point!("rename.recorded");
        self.tell_guest_names(id, &locked(&slot.data).record.clone());
        if let Err(error) = self.networks().rename(id.as_str(), name) {
            tracing::warn!(container = %id, error = crate::container::text_of(&error), "its networks know its former name");
        }
        crash_point!("rename.told");
        self.tell(id, EventKind::Renamed { before });
        Ok(())
    }

    /// Whether this host can give the time for real-time processes that is asked for.
    pub(super) fn check_realtime(&self, resources: &Resources) -> Result<(), SpecError> {
        let is_asked = resources.cpu_realtime_runtime_us.is_some() || resources.cpu_realtime_period_us.is_some();
        if is_asked && !cgroup::has_realtime(self.hierarchies()) {
            return Err(SpecError::NoRealtime);
        }
        Ok(())
    }

    /// Changes a container's limits, at once where it runs, and what happens when it ends.
    ///
    /// # Errors
    /// When there is none, the kernel refuses a limit, or it cannot be recorded.
    pub async fn update(&self, id: &ContainerId, change: ContainerChange) -> Result<(), ChangeError> {
        let slot = self.slot(id).ok_or_else(|| ChangeError::Missing { id: id.clone() })?;
        let _turn = slot.turn.lock().await;
        if slot.current() == ContainerState::Removing {
            return Err(ChangeError::Missing { id: id.clone() });
        }
        let mut record = (*slot.record()).clone();
        if record.config.auto_remove && change.restart.is_some_and(|policy| policy != RestartPolicy::No) {
            return Err(ChangeError::AutoRemove { id: id.clone() });
        }
        if let Some(resources) = change.resources {
            self.check_realtime(&resources).map_err(|source| ChangeError::Spec { id: id.clone(), source })?;
            if matches!(slot.current(), ContainerState::Running { .. }) {
                let launcher = self.inner.launcher.clone();
                let (record, resources) = (record.clone(), resources.clone());
                let task = tokio::task::spawn_blocking(move || launcher.limit(&record, &resources));
                task.await.unwrap_or_else(|_| Ok(()))?;
            }
            crash_point!("update.limited");
            record.config.resources = resources;
        }
        if let Some(restart) = change.restart {
            record.config.restart = restart;
        }
        self.save(&record).await.map_err(|source| ChangeError::Record { id: id.clone(), source })?;
        locked(&slot.data).record = Arc::new(record);
        crash_point!("update.recorded");
        self.tell(id, EventKind::Updated);
        Ok(())
    }

    /// How many bytes of the disk a container has written beside its image; `None` where there is none or it cannot be read.
    pub async fn own_bytes(&self, id: &ContainerId) -> Option<u64> {
        let upper = self.slot(id)?.record().overlay.upper.clone();
        tokio::task::spawn_blocking(move || crate::volume::bytes_below(&upper).ok()).await.ok()?
    }

    /// All that a container has used until now; `None` when it does not run.
    #[must_use]
    pub fn statistics(&self, id: &ContainerId) -> Option<cgroup::Statistics> {
        let slot = self.slot(id)?;
        let ContainerState::Running { pid, .. } = slot.current() else { return None };
        let record = slot.record();
        let has_own = matches!(record.config.network_mode, NetworkMode::Networks | NetworkMode::None);
        Some(cgroup::statistics(&record.cgroups, has_own.then_some(pid)))
    }

    /// The processes of a container, in order; none when it does not run.
    #[must_use]
    pub fn pids(&self, id: &ContainerId) -> Vec<i32> {
        self.slot(id).map(|slot| cgroup::pids(&slot.record().cgroups)).unwrap_or_default()
    }

    /// Stops a container if it runs, and starts it.
    ///
    /// # Errors
    /// When it does not end, or cannot be started.
    pub async fn restart(
        &self,
        id: &ContainerId,
        signal: Option<i32>,
        grace: Option<Duration>,
    ) -> Result<(), RestartError> {
        self.stop_with(id, signal, grace).await?;
        self.start(id).await?;
        self.tell(id, EventKind::Restarted);
        Ok(())
    }

    /// Notes that somebody wants the container not to run, so that its policy does not start it again.
    pub(super) async fn mark_stopped(&self, slot: &Slot) {
        if let Some(pending) = locked(&slot.data).pending.take() {
            pending.abort();
        }
        let record = slot.record();
        if record.stopped || record.config.restart == RestartPolicy::No {
            return;
        }
        let record = Record { stopped: true, ..(*record).clone() };
        locked(&slot.data).record = Arc::new(record.clone());
        if let Err(error) = self.save(&record).await {
            tracing::warn!(container = %record.id, error = crate::container::text_of(&error), "that it was stopped is not recorded");
        }
    }

    /// After an end: starts the container again after a pause, if its policy says so. The slot's turn is held.
    pub(super) fn restart_by_policy(&self, slot: &Arc<Slot>, status: &ExitStatus) {
        let record = slot.record();
        let is_ending = self.inner.ending.load(std::sync::atomic::Ordering::SeqCst);
        if is_ending || !record.config.restart.restarts_after(status, record.restarts, record.stopped) {
            return;
        }
        let ran = status.started_at.map_or(0, |started| status.finished_at.saturating_sub(started));
        let mut data = locked(&slot.data);
        let pause = pause_after(data.last_pause, Duration::from_millis(ran));
        data.last_pause = Some(pause);
        self.start_later(slot, &mut data, pause);
    }

    /// Starts a container after a pause, unless somebody stops or removes it first.
    pub(super) fn start_later(&self, slot: &Arc<Slot>, data: &mut Data, pause: Duration) {
        let (engine, weak) = (self.clone(), Arc::downgrade(slot));
        let task = tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            let Some(slot) = weak.upgrade() else { return };
            let id = slot.record().id.clone();
            // From here on it cannot be given up half-way.
            locked(&slot.data).pending = None;
            let started = tokio::spawn({
                let (engine, id) = (engine.clone(), id.clone());
                async move { engine.start_now(&id, true).await }
            });
            if let Ok(Err(error)) = started.await {
                tracing::warn!(container = %id, error = crate::container::text_of(&error), "could not be started again");
            }
        });
        data.pending = Some(task.abort_handle());
    }

    /// With the daemon, those start that shall run whenever it does.
    pub(super) fn start_with_daemon(&self, ended: &[(Arc<Slot>, RecordedState)]) {
        for (slot, before) in ended {
            let record = slot.record();
            let ContainerState::Exited(status) = slot.current() else { continue };
            let starts = match before {
                RecordedState::Started => {
                    record.config.restart.restarts_after(&status, record.restarts, record.stopped)
                }
                RecordedState::Exited(_) => record.config.restart.starts_with_daemon(record.stopped),
                RecordedState::Created | RecordedState::Removing => false,
            };
            if starts {
                tracing::info!(container = %record.id, "started again, as its policy says");
                self.start_later(slot, &mut locked(&slot.data), Duration::ZERO);
            }
        }
    }
}
