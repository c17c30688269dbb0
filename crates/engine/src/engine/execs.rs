//! Execs: further processes of running containers, each with an identity of its own.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use stack_shim::protocol::{ExitRecord, Request, Response, State};
use tokio::process::Child;
use tokio::sync::watch;
use tokio::time::timeout;

use super::{Engine, locked};
use crate::container::exec::{self, ExecConfig, ExecId, ExecState};
use crate::container::{
    Attach, Attachment, ContainerId, ContainerState, EventKind, Exec, ExecError, Shim, TerminalSize, attach,
    exec_request, is_absent, kill_shims_of, spawn_shim,
};
use crate::crash_point::crash_point;

/// How long it is known how an exec ended.
const KEPT: Duration = Duration::from_secs(300);
/// How long a helper may take to answer an engine that has just come.
const HELPER_ANSWERS: Duration = Duration::from_secs(5);

/// One exec in memory.
pub(super) struct ExecSlot {
    id: ExecId,
    container: ContainerId,
    config: ExecConfig,
    state: watch::Sender<ExecState>,
    ended_at: Mutex<Option<Instant>>,
}

impl ExecSlot {
    fn new(id: ExecId, container: ContainerId, config: ExecConfig, state: ExecState) -> Self {
        Self { id, container, config, state: watch::channel(state).0, ended_at: Mutex::new(None) }
    }

    fn view(&self) -> Exec {
        Exec {
            id: self.id.clone(),
            container: self.container.clone(),
            config: self.config.clone(),
            state: *self.state.borrow(),
        }
    }

    fn end(&self, code: Option<i32>) {
        *locked(&self.ended_at) = Some(Instant::now());
        self.state.send_replace(ExecState::Ended { code });
    }

    /// Nobody asks about it any more. One that was never started goes with its container.
    fn is_forgotten(&self, has_container: bool) -> bool {
        match *locked(&self.ended_at) {
            Some(at) => at.elapsed() > KEPT,
            None => !has_container,
        }
    }
}

impl super::Slot {
    /// Refuses commands in a container that is paused: they would stand still with it, and their caller would wait.
    pub(super) fn is_awake(&self) -> Result<(), ExecError> {
        let data = locked(&self.data);
        if data.paused { Err(ExecError::Paused { id: data.record.id.clone() }) } else { Ok(()) }
    }
}

impl Engine {
    fn exec_slot(&self, id: &ExecId) -> Result<Arc<ExecSlot>, ExecError> {
        locked(&self.inner.execs).get(id).cloned().ok_or_else(|| ExecError::NoSuchExec { id: id.clone() })
    }

    fn exec_directory(&self, slot: &ExecSlot) -> PathBuf {
        exec::directory(&self.inner.launcher.run_directory(&slot.container)).join(slot.id.as_str())
    }

    /// Makes a further process of a running container. Nothing runs yet.
    ///
    /// # Errors
    /// When the container does not run, or the process makes no sense in it.
    pub async fn exec_create(&self, container: &ContainerId, config: ExecConfig) -> Result<ExecId, ExecError> {
        let missing = || ExecError::Missing { id: container.clone() };
        let slot = self.slot(container).ok_or_else(missing)?;
        let not_running = || ExecError::NotRunning { id: container.clone() };
        let ContainerState::Running { pid, .. } = slot.current() else { return Err(not_running()) };
        slot.is_awake()?;
        let id = ExecId::draw();
        let (launcher, record) = (self.inner.launcher.clone(), slot.record());
        let exec = Arc::new(ExecSlot::new(id.clone(), container.clone(), config.clone(), ExecState::Created));
        let work = {
            let (id, config) = (id.clone(), config.clone());
            move || {
                // What cannot be run is said now; what it takes is found out again at the start.
                exec_request(&launcher, &record, pid, &config)?;
                let run = launcher.run_directory(&record.id);
                exec::record(&run, &id, &config).map_err(|source| ExecError::Shim {
                    id: record.id.clone(),
                    what: "record a command",
                    source,
                })
            }
        };
        let failed = |error| ExecError::Shim {
            id: container.clone(),
            what: "record a command",
            source: io::Error::other(error),
        };
        tokio::task::spawn_blocking(work).await.map_err(failed)??;
        crash_point!("exec.recorded");
        self.forget_execs().await;
        locked(&self.inner.execs).insert(id.clone(), exec);
        self.tell(container, EventKind::ExecCreated { exec: id.clone(), command: config.arguments.join(" ") });
        Ok(id)
    }

    /// Lets go of those that nobody asks about any more, and of what is on disk of them.
    async fn forget_execs(&self) {
        let mut forgotten = Vec::new();
        locked(&self.inner.execs).retain(|_, exec| {
            let is_forgotten = exec.is_forgotten(self.slot(&exec.container).is_some());
            if is_forgotten {
                forgotten.push(self.exec_directory(exec));
            }
            !is_forgotten
        });
        let removal = tokio::task::spawn_blocking(move || {
            for directory in forgotten {
                match std::fs::remove_dir_all(&directory) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        tracing::debug!(%error, path = %directory.display(), "what is left of a command stays");
                    }
                    _ => {}
                }
            }
        });
        if let Err(error) = removal.await {
            tracing::debug!(%error, "what is left of commands stays");
        }
    }

    /// Starts a process that was made, and attaches to the streams of it that are wanted, before its first word.
    ///
    /// # Errors
    /// When it was started before, its container has ended, or its program cannot be run.
    pub async fn exec_start(
        &self,
        id: &ExecId,
        wanted: Option<Attach>,
        size: Option<TerminalSize>,
    ) -> Result<Option<Attachment>, ExecError> {
        let exec = self.exec_slot(id)?;
        let mut begins = false;
        exec.state.send_if_modified(|state| {
            begins = *state == ExecState::Created;
            if begins {
                *state = ExecState::Starting;
            }
            begins
        });
        if !begins {
            return Err(ExecError::Started { id: id.clone() });
        }
        // On a task of its own: a caller that goes away must not leave a start half done.
        let (engine, slot) = (self.clone(), Arc::clone(&exec));
        let started = tokio::spawn(async move { engine.exec_start_now(&slot, wanted, size).await }).await;
        let container = exec.container.clone();
        let result = started.unwrap_or_else(|error| {
            Err(ExecError::Shim { id: container, what: "start the command", source: io::Error::other(error) })
        });
        if let Err(error) = &result {
            let code = match error {
                ExecError::Command { source, .. } => source.kind.exit_code(),
                _ => 128,
            };
            exec.end(Some(code));
            self.tell(&exec.container, EventKind::ExecEnded { exec: id.clone(), code: Some(code) });
        }
        result
    }

    async fn exec_start_now(
        &self,
        exec: &Arc<ExecSlot>,
        wanted: Option<Attach>,
        size: Option<TerminalSize>,
    ) -> Result<Option<Attachment>, ExecError> {
        let container = &exec.container;
        let slot = self.slot(container).ok_or_else(|| ExecError::Missing { id: container.clone() })?;
        let not_running = || ExecError::NotRunning { id: container.clone() };
        let ContainerState::Running { pid, .. } = slot.current() else { return Err(not_running()) };
        slot.is_awake()?;
        let failed =
            |what: &'static str| move |source: io::Error| ExecError::Shim { id: container.clone(), what, source };
        let directory = self.exec_directory(exec);
        let (launcher, record) = (self.inner.launcher.clone(), slot.record());
        let work = {
            let (directory, config) = (directory.clone(), exec.config.clone());
            move || {
                let mut request = exec_request(&launcher, &record, pid, &config)?;
                request.terminal_size = size;
                exec::write_launch(&directory, request).map_err(|source| ExecError::Shim {
                    id: record.id.clone(),
                    what: "record a command",
                    source,
                })
            }
        };
        tokio::task::spawn_blocking(work).await.map_err(io::Error::other).map_err(failed("start the helper"))??;
        crash_point!("exec.launch");
        let child = spawn_shim(&self.inner.launcher.program, "exec", &directory).map_err(failed("start the helper"))?;
        let mut conversation = Shim::connect(&directory).await.map_err(failed("reach the helper"))?;
        crash_point!("exec.spawned");
        let attachment = match wanted {
            Some(wanted) => Some(attach(&directory, wanted).await.map_err(failed("reach the helper"))?),
            None => None,
        };
        crash_point!("exec.attached");
        match conversation.ask(&Request::Start).await.map_err(failed("run the command"))? {
            Some(Response::State(State::Running { pid, .. })) => {
                crash_point!("exec.running");
                exec.state.send_replace(ExecState::Running { pid });
                let command = exec.config.arguments.join(" ");
                self.tell(container, EventKind::ExecStarted { exec: exec.id.clone(), command });
                self.supervise_exec(Arc::clone(exec), conversation, Some(child));
                Ok(attachment)
            }
            Some(Response::Failed(source)) => {
                reap(child);
                Err(ExecError::Command { id: container.clone(), source })
            }
            _ => {
                reap(child);
                Err(failed("run the command")(io::ErrorKind::UnexpectedEof.into()))
            }
        }
    }

    /// Waits for the end of an exec's process.
    fn supervise_exec(&self, exec: Arc<ExecSlot>, mut shim: Shim, child: Option<Child>) {
        let engine = self.clone();
        tokio::spawn(async move {
            let told = match shim.ask(&Request::Wait).await {
                Ok(Some(Response::State(State::Exited(record)))) => Some(record),
                // Its helper is gone without a word: it may have written one down.
                _ => exec::ended(&engine.exec_directory(&exec)),
            };
            engine.exec_ended(&exec, told);
            if let Some(child) = child {
                reap(child);
            }
        });
    }

    fn exec_ended(&self, exec: &ExecSlot, told: Option<ExitRecord>) {
        let code = told.map(|record| record.code);
        exec.end(code);
        self.tell(&exec.container, EventKind::ExecEnded { exec: exec.id.clone(), code });
    }

    /// Takes over the execs of a container that runs.
    pub(super) async fn adopt_execs(&self, container: &ContainerId) {
        for (id, config, ended) in exec::recorded(&self.inner.launcher.run_directory(container)) {
            let exec = Arc::new(ExecSlot::new(id.clone(), container.clone(), config, ExecState::Created));
            locked(&self.inner.execs).insert(id, Arc::clone(&exec));
            if let Some(record) = ended {
                exec.end(Some(record.code));
                continue;
            }
            let directory = self.exec_directory(&exec);
            match Shim::connect(&directory).await {
                Ok(mut shim) => match timeout(HELPER_ANSWERS, shim.ask(&Request::Describe)).await {
                    Ok(Ok(Some(Response::State(State::Running { pid, .. })))) => {
                        exec.state.send_replace(ExecState::Running { pid });
                        self.supervise_exec(exec, shim, None);
                    }
                    Err(_elapsed) => {
                        tracing::warn!(%container, "the helper of a command does not answer: its end will not be known");
                        exec.end(None);
                    }
                    // Its start was cut short, and nobody else will start it.
                    _ => {
                        kill_shims_of("exec", &directory);
                        exec.end(exec::ended(&directory).map(|record| record.code));
                    }
                },
                // No helper was ever started: it still can be.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(_) => exec.end(exec::ended(&directory).map(|record| record.code)),
            }
        }
    }

    /// One exec, until some minutes after its end.
    #[must_use]
    pub fn exec_inspect(&self, id: &ExecId) -> Option<Exec> {
        locked(&self.inner.execs).get(id).map(|exec| exec.view())
    }

    /// The execs of a container that have not ended.
    #[must_use]
    pub fn execs_of(&self, container: &ContainerId) -> Vec<Exec> {
        let all = locked(&self.inner.execs);
        let of_it = all.values().filter(|exec| exec.container == *container).map(|exec| exec.view());
        of_it.filter(|exec| !matches!(exec.state, ExecState::Ended { .. })).collect()
    }

    /// Waits until an exec has ended: its exit code, where that is known.
    ///
    /// # Errors
    /// When there is no such exec.
    pub async fn exec_wait(&self, id: &ExecId) -> Result<Option<i32>, ExecError> {
        let exec = self.exec_slot(id)?;
        let mut state = exec.state.subscribe();
        let ended = state.wait_for(|state| matches!(state, ExecState::Ended { .. })).await;
        match ended.as_deref() {
            Ok(ExecState::Ended { code }) => Ok(*code),
            _ => Err(ExecError::NoSuchExec { id: id.clone() }),
        }
    }

    /// Tells others that a client has left an exec's streams by its detach keys.
    pub fn tell_exec_detached(&self, id: &ExecId) {
        if let Some(exec) = self.exec_inspect(id) {
            self.tell(&exec.container, EventKind::ExecDetached { exec: exec.id });
        }
    }

    /// Gives an exec's terminal another size.
    ///
    /// # Errors
    /// When it does not run or has no terminal.
    pub async fn exec_resize(&self, id: &ExecId, size: TerminalSize) -> Result<(), ExecError> {
        let exec = self.exec_slot(id)?;
        let not_running = || ExecError::ExecNotRunning { id: id.clone() };
        // Clients send the size while the start is under way.
        let mut state = exec.state.subscribe();
        let settled = state.wait_for(|state| *state != ExecState::Starting).await.map(|state| *state);
        if !matches!(settled, Ok(ExecState::Running { .. })) {
            return Err(not_running());
        }
        let failed =
            |source| ExecError::Shim { id: exec.container.clone(), what: "resize the terminal of a command", source };
        let mut shim = match Shim::connect(&self.exec_directory(&exec)).await {
            Err(error) if is_absent(&error) => return Err(not_running()),
            result => result.map_err(failed)?,
        };
        match shim.ask(&Request::Resize(size)).await.map_err(failed)? {
            Some(Response::Done) => Ok(()),
            Some(Response::BadRequest { reason }) => Err(ExecError::Resize { id: id.clone(), reason }),
            _ => Err(not_running()),
        }
    }
}

/// Takes the helper's exit status when it ends, which is soon.
fn reap(mut child: Child) {
    tokio::spawn(async move {
        if let Err(error) = child.wait().await {
            tracing::debug!(%error, "could not reap a helper");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_known_for_minutes_and_what_never_ran_as_long_as_its_container() {
        let exec = ExecSlot::new(ExecId::draw(), "web".parse().unwrap(), ExecConfig::default(), ExecState::Created);
        assert!(!exec.is_forgotten(true));
        assert!(exec.is_forgotten(false));
        exec.end(Some(3));
        assert!(!exec.is_forgotten(false), "whoever started it still asks how it ended");
        *exec.ended_at.lock().unwrap() = Instant::now().checked_sub(KEPT + Duration::from_secs(1));
        assert!(exec.is_forgotten(true));
    }
}
