//! The task that probes one running container.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use super::execute::{self, ExecCommand};
use super::health::{HealthState, Probe, ProbeOutcome, probe};
use super::launch::Launcher;
use super::record::Record;
use crate::cgroup::is_frozen;

/// Probes one container until it is dropped.
pub(crate) struct Prober {
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Prober {
    /// Whether the container has a health check: it has a verdict from its start on.
    pub fn is_wanted(record: &Record) -> bool {
        probe(&record.config, &record.image).is_some()
    }

    /// `None` when the container has no health check. `report` gets every new state.
    pub fn start(
        launcher: Launcher,
        record: Arc<Record>,
        pid: i32,
        running_for: Duration,
        initial: HealthState,
        report: impl Fn(HealthState) + Send + Sync + 'static,
    ) -> Option<Self> {
        let settings = probe(&record.config, &record.image)?;
        let began = Instant::now().checked_sub(running_for).unwrap_or_else(Instant::now);
        let task = tokio::spawn(async move {
            let mut state = initial;
            loop {
                tokio::time::sleep(state.pause(&settings, began.elapsed())).await;
                let since_start = began.elapsed();
                // One that is paused would answer nothing, which says nothing about its health.
                if is_frozen(&record.cgroups) {
                    continue;
                }
                let outcome = once(&launcher, &record, pid, &settings).await;
                if outcome.code != 0 && is_frozen(&record.cgroups) {
                    continue;
                }
                state = state.after(&settings, since_start, outcome);
                report(state.clone());
            }
        });
        Some(Self { task })
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

async fn once(launcher: &Launcher, record: &Record, pid: i32, settings: &Probe) -> ProbeOutcome {
    let started_at = now();
    let (code, output) = run(launcher, record, pid, settings).await;
    ProbeOutcome { started_at, finished_at: now(), code, output }
}

async fn run(launcher: &Launcher, record: &Record, pid: i32, settings: &Probe) -> (i32, String) {
    let command = ExecCommand {
        arguments: settings.arguments.clone(),
        timeout: Some(settings.timeout),
        output_limit: 4096,
        ..ExecCommand::default()
    };
    match execute::run(launcher, record, pid, command).await {
        Ok(outcome) => {
            let mut text = String::from_utf8_lossy(&outcome.stdout).into_owned();
            text.push_str(&String::from_utf8_lossy(&outcome.stderr));
            let text: String = text.chars().take(4096).collect();
            match outcome.code {
                Some(code) => (code, text),
                None => (-1, format!("the probe took longer than {} ms\n{text}", settings.timeout.as_millis())),
            }
        }
        Err(error) => (-1, super::launch::full_text(&error)),
    }
}
